"""Laws of fetching scenes, against a stand-in of the hub on loopback: what is asked, what is taken, what is left."""

import hashlib
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import HfApi

from probe.scenes import fetch as fetching
from probe.scenes.fetch import SETS, cli, fetch

SHA = "c" * 40
REPOSITORY = SETS["beetle"].repository
FILES = {
    "README.md": b"hello",
    "beetle/images/000.JPG": b"a picture",
    "beetle/images/deep/001.jpg": b"another picture",
    "beetle/sparse/0/cameras.bin": b"cameras",
    "beetle/model/weights.pt": b"pickle",
    "beetle/images/run.pkl": b"pickle",
    "other/images/000.jpg": b"elsewhere",
    "../beetle/images/evil.jpg": b"outside",
}


class Hub(BaseHTTPRequestHandler):
    """What the hub answers of one data set."""

    broken: frozenset[str] = frozenset()
    asked: list[str] = []  # noqa: RUF012, emptied by every test's fixture

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        file = path.removeprefix(f"/datasets/{REPOSITORY}/resolve/{SHA}/")
        if path.startswith(f"/api/datasets/{REPOSITORY}"):
            siblings = [{"rfilename": name, "size": len(data)} for name, data in FILES.items()]
            record = {"id": REPOSITORY, "sha": SHA, "cardData": {"license": "cc-by-4.0"}, "siblings": siblings}
            self._send(200, json.dumps(record).encode(), body=body)
        elif file in FILES and file not in self.broken:
            self.asked.append(file)
            self._send(200, FILES[file], body=body)
        else:
            self._send(404, b"", body=body)

    def _send(self, status: int, data: bytes, *, body: bool) -> None:
        self.send_response(status)
        self.send_header("X-Repo-Commit", SHA)
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HfApi]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setattr(Hub, "asked", [])
    yield HfApi(endpoint=f"http://127.0.0.1:{server.server_port}", token=False)
    server.shutdown()
    server.server_close()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_needed_is_fetched_and_nothing_else(hub: HfApi, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = fetch(hub, "beetle", tmp_path, sure=True)
    kept = ("beetle/images/000.JPG", "beetle/images/deep/001.jpg", "beetle/sparse/0/cameras.bin")
    assert contents(folder) == {name.removeprefix("beetle/"): FILES[name] for name in kept}
    assert [path.name for path in tmp_path.iterdir()] == ["beetle"]
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"{REPOSITORY}: 3 files, 0.00 GB, licence cc-by-4.0 (as its card says)"
    assert printed[-1] == f"{folder}: --scenes colmap:{folder}"


def test_nothing_is_fetched_unless_that_was_confirmed(hub: HfApi, tmp_path: Path):
    with pytest.raises(ValueError, match=r"beetle was not fetched; read its licence, then add --yes"):
        fetch(hub, "beetle", tmp_path, sure=False)
    assert (list(tmp_path.iterdir()), Hub.asked) == ([], [])


def test_what_is_there_is_not_asked_for_again(hub: HfApi, tmp_path: Path):
    (tmp_path / "beetle").mkdir()
    assert fetch(hub, "beetle", tmp_path, sure=False) == tmp_path / "beetle"
    assert Hub.asked == []


def test_a_stopped_fetch_leaves_no_folder_and_goes_on(hub: HfApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fetching, "WORKERS", 1)
    monkeypatch.setattr(Hub, "broken", frozenset({"beetle/sparse/0/cameras.bin"}))
    with pytest.raises(ValueError, match=f"the hub does not give {REPOSITORY}: "):
        fetch(hub, "beetle", tmp_path, sure=True)
    assert not (tmp_path / "beetle").exists()
    monkeypatch.setattr(Hub, "broken", frozenset())
    before = (tmp_path / "beetle.part/beetle/images/000.JPG").stat().st_mtime_ns
    folder = fetch(hub, "beetle", tmp_path, sure=True)
    assert (folder / "images/000.JPG").stat().st_mtime_ns == before
    assert (folder / "sparse/0/cameras.bin").is_file()


def test_any_data_set_of_the_hub_is_named_by_its_owner(hub: HfApi, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = fetch(hub, f"{REPOSITORY}/other", tmp_path, sure=True)
    assert contents(folder) == {"images/000.jpg": b"elsewhere"}
    assert capsys.readouterr().out.endswith(f"--scenes KIND:{folder}\n")
    with pytest.raises(ValueError, match=f"{REPOSITORY}/none holds no files that are fetched: images"):
        fetch(hub, f"{REPOSITORY}/none", tmp_path, sure=True)


@pytest.mark.parametrize("name", ["nothing", "/", "owner/", "owner/set/../../other"])
def test_other_names_are_refused(hub: HfApi, name: str, tmp_path: Path):
    with pytest.raises(ValueError, match=r"is unknown; choose from beetle, .* or name OWNER/DATASET"):
        fetch(hub, name, tmp_path, sure=True)


def test_a_hub_that_does_not_know_it_or_cannot_be_reached_is_said_in_one_line(hub: HfApi, tmp_path: Path):
    with pytest.raises(ValueError, match=r"the hub does not give no/body: .*404"):
        fetch(hub, "no/body", tmp_path, sure=True)
    nowhere = HfApi(endpoint="http://127.0.0.1:9", token=False)
    with pytest.raises(ValueError, match=r"the hub does not give no/body: .*refused"):
        fetch(nowhere, "no/body", tmp_path, sure=True)


def test_without_a_name_the_list_is_printed(capsys: pytest.CaptureFixture[str]):
    cli([])
    printed = capsys.readouterr().out
    assert all(f"{name}: " in printed for name in SETS)
