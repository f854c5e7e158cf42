"""A plan for speed of a finished run by the command: what it writes, on which scenes, and what it refuses."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from probe import run
from probe.plan import __main__ as plan
from probe.selection.heads import halves

RUN = ["--model", "cat3d-tiny:random", "--pairs", "1", "--views", "2", "--image-size", "32", "--no-report",
       "--timesteps", "300,700", "--layers", "5,6", "--baselines", "none", "--interventions", "none"]  # fmt: skip
FEW = ["--steps", "1", "--repeats", "1", "--budget", "0.05", "--no-report"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    run.cli([*RUN, "--out", str(out)])
    return out


@pytest.fixture
def copy(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(plan, "FULL_SIZE", "cat3d-tiny:random")  # the full size takes seconds to lay out
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def test_one_half_of_the_rooms_plans_and_the_other_is_measured(copy: Path, capsys: pytest.CaptureFixture[str]):
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    plan.cli([str(copy), *FEW])
    made, rows = json.loads((copy / "plan.json").read_text()), pd.read_csv(copy / "speed.csv")
    first, second = halves(pd.read_csv(copy / "pairs.csv")["scene"].unique())
    assert sorted(made["scenes"]) == first
    assert sorted(rows["scene"].unique()) == second
    assert rows.columns.tolist() == ["measure", "plan", "scene", "timestep", "repeat", "value", "count", "unit"]
    assert sorted(rows.loc[rows["measure"] == "effect_error", "timestep"].unique()) == [300, 700]
    assert (made["model"], made["budget"], made["timesteps"]) == ("cat3d-tiny:random", 0.05, [300, 700])
    assert made["growth"] <= 0.05
    assert [layer["layer"] for layer in made["layers"]] == [5, 6]
    assert {name: (copy / name).read_bytes() for name in before} == before
    said = capsys.readouterr().out
    assert "of the multiply-adds of 3D attention" in said
    assert "is not counted for cat3d at full size" in said
    assert "nan" not in said


def test_the_same_command_plans_the_same(copy: Path):
    made = []
    for _ in range(2):
        plan.cli([str(copy), *FEW, "--scenes", "1"])
        made.append((copy / "plan.json").read_bytes())
    assert made[0] == made[1]
    assert len(json.loads(made[0])["scenes"]) == 1
    assert json.loads(made[0])["settings"] == {"budget": 0.05, "scenes": 1, "steps": 1, "repeats": 1}


def test_the_page_shows_the_plan(copy: Path):
    plan.cli([str(copy), *FEW[:-1], "--scenes", "1"])
    page = (copy / "report.html").read_text()
    assert 'id="speed"' in page
    assert "No part of the plan is shown to keep a budget of 5.0%." in page  # of one unit there is no interval
    assert "--budget 0.05 --scenes 1 --steps 1 --repeats 1" in page


def test_a_plan_that_is_stopped_before_it_is_measured_leaves_the_older_one(copy: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("plan.json", "speed.csv"):
        (copy / name).write_text("of an older plan")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(plan, "_measured", stop)
    with pytest.raises(KeyboardInterrupt):
        plan.main(plan.Settings(run=copy, steps=1, repeats=1, budget=0.05, scenes=1, report=False))
    assert {(copy / name).read_text() for name in ("plan.json", "speed.csv")} == {"of an older plan"}


def refusal(words: list[str], capfd: pytest.CaptureFixture[str]) -> str:
    capfd.readouterr()
    with pytest.raises(SystemExit) as stop:
        plan.cli(words)
    assert stop.value.code == 2
    return capfd.readouterr().err


def test_other_weights_are_refused(copy: Path, capfd: pytest.CaptureFixture[str]):
    card = json.loads((copy / "model.json").read_text())
    (copy / "model.json").write_text(json.dumps({**card, "steps": 7}))
    assert "are not those that were scored" in refusal([str(copy)], capfd)
    assert not (copy / "plan.json").exists()


WRONG = [
    ("budget", "-0.1"),
    ("budget", "5.0"),
    ("budget", "nan"),
    ("budget", "inf"),
    ("scenes", "0"),
    ("steps", "0"),
    ("repeats", "0"),
]


@pytest.mark.parametrize(("flag", "value"), WRONG)
def test_numbers_that_cannot_be_are_refused(copy: Path, capfd: pytest.CaptureFixture[str], flag: str, value: str):
    assert f"--{flag} {value}: expected" in refusal([str(copy), f"--{flag}={value}"], capfd)
    assert not (copy / "plan.json").exists()


def test_a_folder_without_a_run_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    assert "config.json: missing; name the folder of a finished probe run" in refusal([str(tmp_path)], capfd)
