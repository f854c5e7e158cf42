"""The flag --hidden: a table beside the scores, which stay as they are; kept by resuming; refused without cameras."""

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from scenes import room

from probe import run
from probe.plan import plan
from probe.records.hidden import HIDDEN_COLUMNS
from probe.records.names import CAUSES, HIDDEN_METRICS
from probe.scenes import Request, SceneList, open_scenes
from probe.views import IMAGE_PLANE

NAME = "cat3d-tiny:random"
QUICK = ["--model", NAME, "--pairs", "1", "--views", "2", "--image-size", "32", "--no-report", "--timesteps", "500",
         "--layers", "6,8", "--interventions", "none"]  # fmt: skip
EVERY = [*QUICK, "--baselines", "random,null"]


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("without") / "run"
    run.cli([*EVERY, "--out", str(out)])
    return out


@pytest.fixture(scope="module")
def hidden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("hidden") / "run"
    run.cli([*EVERY, "--hidden", "--out", str(out)])
    return out


def test_every_other_file_is_the_same(without: Path, hidden: Path):
    names = {path.name for path in without.iterdir()}
    assert {path.name for path in hidden.iterdir()} == names | {"hidden.csv"}
    for name in names - {"config.json"}:
        assert (hidden / name).read_bytes() == (without / name).read_bytes(), name


def test_only_a_run_with_the_flag_records_it(without: Path, hidden: Path):
    settings = [json.loads((folder / "config.json").read_text())["settings"] for folder in (without, hidden)]
    assert "hidden" not in settings[0]
    assert settings[1]["hidden"] is True
    assert settings[0] == {name: value for name, value in settings[1].items() if name != "hidden"} | {
        "out": str(without)
    }


def test_the_table_holds_the_model_and_its_nulls_alike(hidden: Path):
    table = pd.read_csv(hidden / "hidden.csv")
    assert tuple(table.columns) == HIDDEN_COLUMNS
    models = [NAME, f"{NAME}: random weights", f"{NAME}: cameras only"]
    assert set(table["model"]) == set(models)
    assert len(set(table.groupby("model").size())) == 1
    assert set(table["layer"]) == {6, 8}
    assert (set(table["metric"]), set(table["cause"])) == (set(HIDDEN_METRICS), set(CAUSES))
    assert set(table["head"]) >= {-1, 0, 1}
    counts = table[(table["metric"] == "highest_weight") & (table["head"] == -1)]
    asked = [part.set_index(["layer", "cause"])["count"] for _, part in counts.groupby("model")]
    assert all(part.equals(asked[0]) for part in asked)  # the same queries for all
    pairs = 4  # view 1 into view 0, of each scene
    assert counts.groupby(["model", "layer"])["count"].sum().isin([16 * pairs, 64 * pairs]).all()
    assert (table["value"].isna() == (table["count"] == 0)).all()


def stopped(monkeypatch: pytest.MonkeyPatch, stop: int) -> None:
    def open_some(spec: str, request: Request) -> SceneList:
        scenes = open_scenes(spec, request)

        def load(index: int):
            if index == stop:
                raise OSError("disk full")
            return scenes.load(index)

        return replace(scenes, load=load)

    monkeypatch.setattr(plan, "open_scenes", open_some)


@pytest.mark.slow
def test_a_stopped_run_resumes_to_the_same_table(hidden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    words = [*EVERY, "--hidden", "--out", str(tmp_path / "run")]
    stopped(monkeypatch, 2)
    with pytest.raises(SystemExit):
        run.cli(words)
    stopped(monkeypatch, -1)
    run.cli([*words, "--resume"])
    assert (tmp_path / "run" / "hidden.csv").read_bytes() == (hidden / "hidden.csv").read_bytes()


def refusal(words: list[str], capfd: pytest.CaptureFixture[str]) -> str:
    capfd.readouterr()
    with pytest.raises(SystemExit) as stop:
        run.cli(words)
    assert stop.value.code == 2
    return capfd.readouterr().err


def test_a_run_without_the_flag_is_another_run(without: Path, capfd: pytest.CaptureFixture[str]):
    said = refusal([*EVERY, "--hidden", "--resume", "--out", str(without)], capfd)
    assert "was made with other values of ['hidden']" in said


@pytest.mark.parametrize("asked", [True, False])
def test_scenes_without_cameras_are_refused(asked: bool, monkeypatch: pytest.MonkeyPatch):
    bare = replace(room(0), unit=IMAGE_PLANE)
    scenes = SceneList(names=bare.names, load=lambda index: (bare, (1.0, 1.0)))
    monkeypatch.setattr(plan, "conditioning", lambda model, views: None)  # of a model that is told no cameras
    refused = pytest.raises(ValueError, match="--hidden: the scenes have no cameras") if asked else nullcontext()
    with refused:
        plan._check_cameras(SimpleNamespace(size=64), scenes, (), hidden=asked)
