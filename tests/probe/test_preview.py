"""The picture of scenes with true matches, and the frozen list."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_nerfstudio import write_nerfstudio
from small_world import make_world

from probe.preview import cli
from probe.scenes import Request, open_scenes
from probe.scenes.choosing import read_list

WORLD = make_world(10, roll=12.0)


def arguments(root: Path, *more: str) -> list[str]:
    common = ["--scenes", f"nerfstudio:{root}", "--out", str(root / "p.png"), "--image-size", "36", "--groups", "2"]
    return [*common, *more]


def test_a_picture_and_a_list_are_written_and_the_list_gives_the_same_scenes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    write_nerfstudio(tmp_path, WORLD, unit=2e-4)
    cli(arguments(tmp_path, "--freeze", str(tmp_path / "list.json"), "--seed", "3"))
    told = capsys.readouterr().out
    assert "100.0% of pixels have a point, unit m" in told
    chosen = read_list(tmp_path / "list.json")
    assert f"digest {chosen.digest}" in told
    with Image.open(tmp_path / "p.png") as picture:
        assert np.array(picture.convert("RGB")).std() > 20
    request = Request(groups=9, views=3, n_ref=1, size=36, view_list=str(tmp_path / "list.json"))
    assert open_scenes(f"nerfstudio:{tmp_path}", request).names == tuple(scene.name for scene in chosen.scenes)


def test_the_share_of_matches_that_move_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    out = ["--out", str(tmp_path / "p.png"), "--image-size", "32", "--groups", "1"]
    cli(["--scenes", "shapes:moving", *out])
    told = re.search(
        r"v2-moving-0-0000: 100.0% of pixels have a point.*, ([\d.]+)% of true matches move", capsys.readouterr().out
    )
    assert told is not None
    assert 10 < float(told[1]) < 60
    cli(["--scenes", "shapes", *out])
    assert "move" not in capsys.readouterr().out


def test_procedural_scenes_need_no_list(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    out = ["--out", str(tmp_path / "p.png"), "--image-size", "16", "--groups", "1"]
    with pytest.raises(SystemExit) as stop:
        cli([*out, "--freeze", str(tmp_path / "x.json")])
    assert stop.value.code == 2
    assert "--freeze: shapes is drawn anew from its seed" in capsys.readouterr().err


def test_the_check_of_the_truth_is_told_of_real_scenes(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_nerfstudio(tmp_path, WORLD, unit=2e-4)
    cli(arguments(tmp_path, "--freeze", str(tmp_path / "list.json")))
    assert "no SIFT match anywhere: the truth is unchecked" in capsys.readouterr().out
    cli(["--out", str(tmp_path / "q.png"), "--image-size", "16", "--groups", "1"])
    assert "SIFT" not in capsys.readouterr().out


def test_scenes_without_any_point_say_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_nerfstudio(tmp_path, WORLD, depth=None)
    cli(arguments(tmp_path))
    assert "no pixel has a point: to probe on these scenes, name a source of points (--truth-source tracks)" in (
        capsys.readouterr().out
    )
