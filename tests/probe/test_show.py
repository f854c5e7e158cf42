"""Photos of one's own: how they become views, that cameras do not enter, and the page."""

import json
import re
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
from probe.show import cli


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
    assert capsys.readouterr().out == f"page: {out}\n"
    html = out.read_text(encoding="utf-8")
    data = re.search(r'<script type="application/json" id="explorer-data">(.*?)</script>', html, re.S)
    assert data is not None
    assert json.loads(data[1])["start"]["layer"] == 10
    assert "a.png, b.jpg" in html
    assert "python -m probe.show cat3d-tiny:plain --image" in html


@pytest.mark.parametrize(
    ("more", "message"),
    [
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
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "x.html").exists()


def test_a_missing_or_lone_photo_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = photos(tmp_path)[0]
    for images, message in ((["gone.png", first], "gone.png"), ([first], "two or more photos")):
        with pytest.raises(SystemExit) as stop:
            cli(["cat3d-tiny:plain", "--image", *images, "--out", str(tmp_path / "x.html")])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
