"""The server: this machine only, pages only, GET only, nothing outside its folder; pages follow their runs."""

import http.client
import os
import time
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from page_kinds import study_run

from analysis import report
from analysis.building import build_report
from analysis.overview import watch as watching
from analysis.overview.watch import Fresh, live, page_at, serve
from analysis.policy import seal
from analysis.study.run import read_study

PAGE = seal('<!DOCTYPE html><html><head>\n<meta charset="utf-8">\n</head><body><p>hello</p></body></html>')


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with pages and other files, beside others that must stay unread."""
    tmp_path = tmp_path_factory.mktemp("watch")
    root = tmp_path / "served"
    (root / "reports").mkdir(parents=True)
    (root / ".hidden").mkdir()
    (tmp_path / "outside").mkdir()
    for path in ("served/reports/index.html", "served/a b.html", "served/.hidden/x.html", "secret.html",
                 "outside/in.html"):  # fmt: skip
        (tmp_path / path).write_text(PAGE)
    (root / "config.json").write_text("{}")
    (root / "link.html").symlink_to(tmp_path / "secret.html")
    (root / "linked").symlink_to(tmp_path / "outside")
    (root / "inner.html").symlink_to(root / "a b.html")
    (root / "foreign.html").write_text(PAGE.replace("<p>", "<script>alert(1)</script><p>"))
    return root


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[ThreadingHTTPServer]:
    server = serve(root, "/reports/index.html", 0)
    yield server
    server.shutdown()
    server.server_close()


def ask(
    server: ThreadingHTTPServer, target: str, method: str = "GET", host: str | None = None
) -> tuple[int, str, http.client.HTTPMessage]:
    port = server.server_address[1]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.putrequest(method, target, skip_host=True)
    connection.putheader("Host", host or f"127.0.0.1:{port}")
    connection.endheaders()
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text, answer.headers


OUTSIDE = ("/../secret.html", "/%2e%2e/secret.html", "/reports/../../secret.html", "/..%2fsecret.html", "/link.html",
           "/linked/in.html", "//etc/passwd", "/%00.html", "/..\\secret.html", "/.hidden/x.html", "/config.json",
           "/reports", "/none.html")  # fmt: skip


@pytest.mark.parametrize("target", OUTSIDE)
def test_nothing_outside_and_nothing_but_pages(target: str, root: Path, server: ThreadingHTTPServer):
    assert page_at(root, target) is None
    assert ask(server, target)[0] == 404


@pytest.mark.parametrize("target", ["/reports/index.html", "/a%20b.html", "/inner.html", "/reports//index.html?x=1"])
def test_pages_are_served(target: str, server: ThreadingHTTPServer):
    status, text, headers = ask(server, target)
    assert status == 200
    assert "<p>hello</p>" in text
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"


def test_the_root_leads_to_the_first_page(server: ThreadingHTTPServer):
    status, _, headers = ask(server, "/")
    assert (status, headers["Location"]) == (302, "/reports/index.html")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"])
def test_only_get(method: str, server: ThreadingHTTPServer):
    assert ask(server, "/reports/index.html", method)[0] == 501


def test_only_this_machine(server: ThreadingHTTPServer):
    assert server.server_address[0] == "127.0.0.1"
    assert ask(server, "/reports/index.html", host="evil.example")[0] == 421
    assert ask(server, "/reports/index.html", host=f"localhost:{server.server_address[1]}")[0] == 200


def test_a_page_with_a_script_of_others_is_refused(server: ThreadingHTTPServer):
    assert ask(server, "/foreign.html")[0] == 409


def test_the_stamp_follows_the_file(root: Path, server: ThreadingHTTPServer):
    page = root / "reports" / "index.html"
    before = ask(server, "/reports/index.html?stamp")[1]
    assert f'<meta name="stamp" content="{before}">' in ask(server, "/reports/index.html")[1]
    os.utime(page, ns=(0, page.stat().st_mtime_ns + 10**9))
    assert ask(server, "/reports/index.html?stamp")[1] != before


def test_a_live_page_may_ask_only_where_it_came_from():
    page = live(PAGE, "7")
    assert page.count("Content-Security-Policy") == 1
    assert "connect-src 'self'" in page
    assert "script-src 'sha256-" in page


def test_a_taken_port_is_refused_in_one_line(root: Path, server: ThreadingHTTPServer):
    port = server.server_address[1]
    with pytest.raises(OSError, match=f"--port {port}: cannot listen there"):
        serve(root, "/", port)


def test_pages_follow_the_files_of_their_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def build(run: Path) -> Path:
        read_study(run)
        (run / "report.html").write_text(PAGE)
        return run / "report.html"

    monkeypatch.setattr(watching, "build_report", build)
    run = study_run(tmp_path / "runs" / "study")
    fresh = Fresh(root=tmp_path)
    index = tmp_path / "reports" / "index.html"
    assert fresh.look() == [run / "report.html", index]
    assert fresh.look() == [], "its own pages are no news"
    later = time.time_ns() + 10**9
    os.utime(run / "study.csv", ns=(later, later))
    assert fresh.look() == [run / "report.html", index]
    (run / "summary.csv").write_text("broken")
    assert fresh.look() == [index]
    assert "summary.csv" in capsys.readouterr().err
    assert fresh.look() == []
    assert capsys.readouterr().err == ""
    index.unlink()
    assert fresh.look() == [index]


def test_watching_ends_on_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    study_run(tmp_path / "runs" / "study")

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(watching.time, "sleep", interrupt)
    assert report.main([str(tmp_path), "--watch", "--port", "0"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("http://127.0.0.1:")
    assert "runs/study/report.html" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a", "b", "--watch"], "--watch takes one folder"),
        (["--watch", "--compare", "a"], "--watch takes one folder"),
        (["--watch", "--port", "99999"], "--port 99999: expected a number from 0 to 65535"),
    ],
)
def test_wrong_words_end_in_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    assert report.main(words) == 2
    assert message in capsys.readouterr().err


def test_a_built_page_can_be_served(tmp_path: Path):
    page = build_report(study_run(tmp_path / "study")).read_text(encoding="utf-8")
    assert live(page, "1").count("<script>") == 2
