"""The trainer's flags: ranges, choices that are those of the registries, refusals in one line."""

from pathlib import Path
from typing import Literal, get_args

import pytest

from analysis.training.words import OBJECTIVES
from train.alignment import MIXINGS, TARGETS
from train.cameo import cli
from train.flags import Command, can_grow, check_command, settings_of
from train.objectives import RIVALS, TRUTHS
from train.settings import CompetingObjective, Mixing, Target, Truth


@pytest.mark.parametrize(
    ("choices", "registry"),
    [
        (Mixing, MIXINGS),
        (Target, TARGETS),
        (Truth, TRUTHS),
        (CompetingObjective, RIVALS),
        (Literal["cameo", CompetingObjective], OBJECTIVES),
    ],
)
def test_the_choices_of_the_command_line_are_those_of_the_registries(choices: object, registry: dict):
    assert set(get_args(choices)) == set(registry)


def test_settings_are_the_flags_of_the_same_names():
    settings = settings_of(Command(steps=7, max_rotation=90, seed=3))
    assert (settings.steps, settings.max_rotation, settings.seed) == (7, 90, 3)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"schedule": "cosine"}, False),
        ({"weight_schedule": "linear"}, False),
        ({"weight_schedule": "off", "weight_until": 9}, True),
    ],
)
def test_a_run_may_grow_unless_the_number_of_steps_schedules_something(changes: dict, expected: bool):
    assert can_grow(Command(**changes)) is expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scenes": "rgbd:/nowhere#525"}, "--scenes rgbd:/nowhere#525: there is no /nowhere; give one"),
        ({"model": "cat3d:./nowhere"}, "--model cat3d:./nowhere: there is no nowhere; give one"),
        ({"layer": "auto", "probe": Path("/nowhere")}, "--probe /nowhere: it has no selection.json; run python -m"),
    ],
)
def test_missing_folders_are_named(changes: dict, message: str):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        check_command(Command(**changes))


def test_a_hub_id_is_not_taken_for_a_folder(tmp_path: Path):
    check_command(Command(model="hunyuan-dit:Tencent-Hunyuan/HunyuanDiT", scenes=f"rgbd:{tmp_path}#525"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"views": 0},
        {"views": 1},
        {"views": 1, "layer": "none", "model": "mvgenmaster:random"},
        {"camera_dropout": 1.5},
        {"learning_rate": 0.0},
        {"weight": -1.0},
        {"probe_every": 3},
        {"max_queries": 0},
        {"control": "shuffled", "objective": "geometry"},
    ],
)
def test_numbers_out_of_range_are_refused(wrong: dict):
    with pytest.raises(ValueError, match="--"):
        check_command(Command(**wrong))


def test_an_unknown_layer_ends_in_one_line(capsys: pytest.CaptureFixture, tmp_path: Path):
    with pytest.raises(SystemExit) as stop:
        cli(["--layer", "worst", "--out", str(tmp_path / "run")])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.count("\n") == 1
    assert "indexes 0 to 15" in error
    assert not (tmp_path / "run").exists()
