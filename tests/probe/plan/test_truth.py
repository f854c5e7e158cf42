"""What is refused or told of a run's truth before anything is measured."""

import json
from pathlib import Path

import pandas as pd
import pytest
from small_colmap import make_tracks, write_colmap
from small_nerfstudio import write_nerfstudio
from small_world import make_world

from probe.plan.truth import allowed_share, way_out
from probe.records.words import TRACKS_LIMIT
from probe.run import cli

WORLD = make_world(10, roll=12.0)
SMALL = ["--model", "cat3d-tiny:random", "--pairs", "1", "--views", "2", "--image-size", "36", "--layers", "10",
         "--timesteps", "500", "--baselines", "none", "--interventions", "none",
         "--device", "cpu", "--no-report"]  # fmt: skip


def test_raw_seven_scenes_names_its_way_out():
    assert "FOLDER#525" in way_out("rgbd:/data/kitchen")
    assert way_out("rgbd:/data/kitchen#525") == way_out("colmap:/data/x") == ""
    assert allowed_share() == 0.05


def test_real_scenes_leave_the_check_in_the_run_folder(tmp_path: Path):
    write_nerfstudio(tmp_path / "scan", WORLD, unit=2e-4)
    cli([*SMALL, "--scenes", f"nerfstudio:{tmp_path / 'scan'}", "--out", str(tmp_path / "run")])
    notes = json.loads((tmp_path / "run/scenes.json").read_text("utf-8"))
    assert notes["truth"].startswith("no SIFT match anywhere")
    assert list(pd.read_csv(tmp_path / "run/truth_check.csv").columns) == [
        "scene", "pair", "matches", "moved_px", "kind", "median_px", "epipolar_px"
    ]  # fmt: skip


def test_no_true_match_anywhere_is_said_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    write_nerfstudio(tmp_path / "scan", WORLD, unit=2e-4)
    monkeypatch.setattr("probe.plan.plan._any_match", lambda scene: False)
    with pytest.raises(SystemExit) as stop:
        cli([*SMALL, "--scenes", f"nerfstudio:{tmp_path / 'scan'}", "--out", str(tmp_path / "run")])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "--scenes nerfstudio:" in error
    assert "no true match in " in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_truth_of_tracks_is_told_in_terminal_and_run_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A reconstruction's own tracks, and those of SIFT in procedural rooms; not dense depth."""
    write_colmap(tmp_path / "colmap", WORLD, tracks=make_tracks(WORLD))
    write_nerfstudio(tmp_path / "scan", WORLD, unit=2e-4)
    told = {}
    for kind, more in (("colmap", []), ("nerfstudio", []), ("shapes", ["--truth-source", "tracks"])):
        scenes = {"colmap": f"colmap:{tmp_path / 'colmap'}", "nerfstudio": f"nerfstudio:{tmp_path / 'scan'}"}
        cli([*SMALL, *more, "--scenes", scenes.get(kind, "shapes-v1"), "--out", str(tmp_path / kind / "run")])
        told[kind] = TRACKS_LIMIT in capsys.readouterr().out
    assert told == {"colmap": True, "nerfstudio": False, "shapes": True}
    notes = json.loads((tmp_path / "colmap/run/scenes.json").read_text("utf-8"))
    assert notes["tracks"] == TRACKS_LIMIT
    assert "tracks" not in json.loads((tmp_path / "nerfstudio/run/scenes.json").read_text("utf-8"))
