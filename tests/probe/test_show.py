"""Photos of one's own: how they become views, that cameras do not enter, and the page."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from probe.measure.photos import photo_views, without_cameras
from probe.models import fresh_tiny
from probe.models.model import conditioning
from probe.scenes import photo_files
from probe.show import cli, photo_names


@settings(max_examples=20, deadline=None)
@given(st.integers(8, 40), st.integers(8, 40), st.integers(4, 24))
def test_views_are_the_middle_squares(height: int, width: int, size: int) -> None:
    side = min(height, width)
    photo = torch.zeros(3, height, width)
    top, left = (height - side) // 2, (width - side) // 2
    photo[:, top : top + side, left : left + side] = 1
    views = photo_views([photo, photo], size=size, name="x")
    assert views.image.shape == (1, 2, 3, size, size)
    torch.testing.assert_close(views.image, torch.ones_like(views.image))
    assert not views.valid.any()
    assert not views.has_cameras


def test_one_photo_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at least 2"):
        photo_views([torch.zeros(3, 8, 8)], size=8, name="x")


def test_cameras_do_not_enter() -> None:
    model = without_cameras(fresh_tiny(0))
    views = photo_views([torch.rand(3, 32, 32)] * 2, size=32, name="x")
    moved = replace(views, world_to_cam=views.world_to_cam.roll(1, -1))
    here, there = conditioning(model, views), conditioning(model, moved)
    assert all(torch.equal(here[name], there[name]) for name in here)


def photos(folder: Path) -> list[str]:
    paths = [folder / "a.png", folder / "b.jpg"]
    for number, path in enumerate(paths):
        Image.effect_noise((48, 40 + number), 60).convert("RGB").save(path)
    return [str(path) for path in paths]


def test_page_holds_the_explorer_and_scores_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "show.html"
    cli(["cat3d-tiny:plain", "--image", *photos(tmp_path), "--timesteps", "500", "--out", str(out)])
    shown = capsys.readouterr()
    assert shown.out == f"page: {out}\n"
    assert "note: a.png is only 40 x 48 pixels" in shown.err or "note: a.png is only 48 x 40 pixels" in shown.err
    html = out.read_text(encoding="utf-8")
    data = re.search(r'<script type="application/json" id="explorer-data">(.*?)</script>', html, re.S)
    assert data is not None
    payload = json.loads(data[1])
    assert payload["start"]["layer"] == 10
    assert [view["name"] for view in payload["scenes"][0]["views"]] == ["a.png", "b.jpg"]
    assert {"query: b.jpg", "a.png"} <= set(re.findall(r"<strong>(.*?)</strong>", html)) | {
        *re.findall(r">([^<>]+)<", html)
    }
    assert "a.png, b.jpg" in html
    assert "python -m probe.show cat3d-tiny:plain --image" in html


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--layer", "-1"], "--layer -1: expected the index of a layer"),
        (["--layer", "0"], "--layer 0: joins no views; choose from 2, 3"),
        (["--timesteps", "1000"], "--timesteps"),
    ],
)
def test_refusals_are_one_line(
    more: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli(["cat3d-tiny:plain", "--image", *photos(tmp_path), "--out", str(tmp_path / "x.html"), *more])
    assert stop.value.code == 2
    error = [line for line in capsys.readouterr().err.splitlines() if ": note: " not in line]
    assert len(error) == 1
    assert message in error[0]
    assert not (tmp_path / "x.html").exists()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (["gone.png", "a.png"], "there is no gone.png; name photos that exist"),
        ([".", "a.png"], "--image . is a folder; name two or more photos in it"),
        (["text.jpg", "a.png"], "--image text.jpg is no image; expected PNG, JPEG"),
        (["a.png"], "--image a.png: expected two or more photos"),
    ],
)
def test_what_is_no_photo_is_refused_before_torch_is_imported(images: list[str], message: str, tmp_path: Path) -> None:
    photos(tmp_path)
    (tmp_path / "text.jpg").write_text("words")
    words = ["cat3d-tiny:plain", "--image", *images, "--out", "x.html"]
    seen = "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules))"
    code = f"{seen}; from probe.show import cli; cli({words})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=_here(), check=False
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == "False\n"


def _here() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}


def test_heic_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photo_files, "find_spec", lambda name: None)
    path = tmp_path / "a.heic"
    path.write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(ValueError, match=r"a\.heic is a HEIC photo.*attention-probing\[heic\]"):
        photo_files.check_photo_files([path, path])


@pytest.mark.parametrize(
    ("sizes", "identical", "words"),
    [
        ({"a": (300, 400), "b": (600, 800)}, False, []),
        ({"a": (64, 64), "b": (64, 64)}, False, []),
        ({"a": (63, 63), "b": (64, 64)}, False, ["a is only 63 x 63 pixels"]),
        ({"a": (100, 301), "b": (100, 301)}, False, ["a is 301 x 100 pixels", "b is 301 x 100 pixels"]),
        ({"a": (100, 300), "b": (100, 300)}, False, []),
        ({"a": (300, 400), "b": (400, 300)}, False, ["differ in shape (a 400 x 300, b 300 x 400)"]),
        ({"a": (300, 400), "b": (300, 400)}, True, ["the same picture"]),
    ],
)
def test_doubtful_photos_are_named(sizes: dict[str, tuple[int, int]], identical: bool, words: list[str]) -> None:
    doubts = photo_files.photo_doubts(sizes, identical=identical)
    assert len(doubts) == len(words)
    assert all(word in doubt for word, doubt in zip(words, doubts, strict=True))


def test_names_tell_photos_apart() -> None:
    assert photo_names([Path("x/a.jpg"), Path("x/b.jpg")]) == ("a.jpg", "b.jpg")
    assert photo_names([Path("x/a.jpg"), Path("y/a.jpg")]) == ("x/a.jpg", "y/a.jpg")
    assert photo_names([Path("a.jpg"), Path("a.jpg")]) == ("a.jpg (0)", "a.jpg (1)")
