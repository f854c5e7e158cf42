"""The command as a user meets it: its files, stopping and going on, and wrong input in one line."""

import json
import logging
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

from probe import run
from probe.baselines import BASELINES, NULLS
from probe.correspondence import SOURCES
from probe.interventions import INTERVENTIONS as EDITS
from probe.layers import Layer
from probe.measure.scene import Scene
from probe.models import MODELS, load_model
from probe.models.model import MultiViewModel, model_layers, to_device
from probe.plan import parts as plan_parts
from probe.plan import plan
from probe.protocols import PROTOCOLS
from probe.records import INTERVENTIONS, REFERENCES, SAME_POSITION, SCORE_COLUMNS, UNIFORM, alone, digest
from probe.scenes import SCENES, Request, SceneList, open_scenes
from probe.selection import layer_table, select_layer
from probe.selection.comparisons import comparisons
from probe.selection.reading import read_ranked
from probe.selection.terminal import empty_scenes

SMALL = ["--model", "cat3d-tiny:random", "--pairs", "1", "--views", "2", "--image-size", "32", "--no-report"]
QUICK = [*SMALL, "--timesteps", "500", "--layers", "6,8", "--baselines", "none"]
FILES = ["config.json", "examples.safetensors", "explorer.safetensors", "layers.csv", "matches.parquet", "model.json",
         "pairs.csv", "scores.parquet", "selection.json", "timesteps.csv"]  # fmt: skip


PARTS = [
    *(("explorer", "safetensors"), ("image", "safetensors"), ("matches", "parquet"), ("pairs", "parquet")),
    ("scene", "parquet"),
]


@pytest.fixture(scope="module", autouse=True)
def loaded_once():
    """Load each model, and look at its layers, once for all tests; none of them changes it."""
    found: dict[nn.Module, list[Layer]] = {}

    def look_once(model: MultiViewModel) -> list[Layer]:
        if model.network not in found:
            found[model.network] = model_layers(model)
        return found[model.network]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "load_model", cache(load_model))
        patch.setattr(plan, "model_layers", look_once)
        yield


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files(folder) if name != "config.json"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two timesteps, two layers, and all nulls and baselines."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    run.cli([*SMALL, "--timesteps", "100,500", "--layers", "6,8", "--out", str(out)])
    return out


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one timestep, two layers and nothing beside them."""
    out = tmp_path_factory.mktemp("runs") / "quick"
    run.cli([*QUICK, "--out", str(out)])
    return out


def stop_at(monkeypatch: pytest.MonkeyPatch, stop: int | None) -> None:
    """Make loading a scene fail."""

    def open_some(spec: str, request: Request) -> SceneList:
        scenes = open_scenes(spec, request)

        def load(index: int):
            if index == stop:
                raise OSError("disk full")
            return scenes.load(index)

        return replace(scenes, load=load)

    monkeypatch.setattr(plan, "open_scenes", open_some)


def refused(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> str:
    """Run with wrong input: exit code 2 and one line on stderr, which is given back."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as stop:
        run.cli(arguments)
    said = capfd.readouterr()
    assert stop.value.code == 2
    assert said.out == ""
    assert said.err.endswith("\n")
    assert said.err.count("\n") == 1
    assert said.err.startswith("python -m probe.run: ")
    assert "Traceback" not in said.err
    return said.err


# The run folder


def test_the_folder_holds_what_the_contract_says(whole: Path):
    assert files(whole) == FILES
    assert not (whole / "parts").exists()


def test_config_holds_every_resolved_setting(whole: Path):
    config = json.loads((whole / "config.json").read_text())
    assert config["settings"] == {
        "model": "cat3d-tiny:random", "scenes": "shapes", "out": str(whole), "protocol": "attention-v1",
        "layers": "6,8", "timesteps": [100, 500], "pairs": 1, "views": 2, "n_ref": 1, "min_overlap": 0.2,
        "image_size": 32, "select_by": "precision@5%", "baselines": "pixels,dsift,random,null",
        "interventions": "identity,within_view", "edit_timesteps": "500-500", "edit_heads": False, "edit_scenes": 8,
        "sampling_steps": 0, "frames_per_view": 1,
        "device": "auto",
        "dtype": "float32", "seed": 0, "base": None, "model_size": None, "view_list": None,
        "truth_source": None,
    }  # fmt: skip
    assert {"torch", "commit", "machine"} <= set(config["environment"])


def test_scores_hold_the_model_its_nulls_baselines_and_references(whole: Path):
    scores = pd.read_parquet(whole / "scores.parquet")
    assert list(scores.columns) == list(SCORE_COLUMNS)
    name = "cat3d-tiny:random"
    layered, unlayered = scores[scores["layer"] >= 0], scores[scores["layer"] < 0]
    assert set(layered["model"]) == {name, f"{name}: random weights", f"{name}: cameras only"}
    assert set(unlayered["model"]) == {*REFERENCES, "pixels", "dsift"}
    assert set(layered["layer"]) == {6, 8}
    assert set(layered["timestep"]) == {100, 500}
    assert scores["scene"].nunique() == 4
    assert set(scores["direction"]) == {"tgt-ref", "ref-tgt", "tgt"}
    pairs = pd.read_csv(whole / "pairs.csv")
    assert set(scores["pair_list"]) == {digest(pairs)}
    assert set(scores["pair"]) == set(pairs["pair"])
    assert pairs["rotation_bin"].tolist() == ["0-30", "30-60", "60-90", "90-120"]  # equally many per bin
    keys = [column for column in SCORE_COLUMNS if column not in ("value", "count")]
    assert not scores.duplicated(keys).any()
    numbers = scores[scores["metric"].astype(str).str.startswith("precision")]["value"].dropna()
    assert numbers.between(0, 1).all()


def test_layers_and_selection_agree(whole: Path):
    layers = pd.read_csv(whole / "layers.csv").set_index("layer")
    selection = json.loads((whole / "selection.json").read_text())
    assert sorted(layers.index) == [6, 8]
    assert layers[["grid_h", "grid_w"]].to_numpy().tolist() == [[4, 4], [8, 8]]
    chosen = layers.loc[selection["layer"]]
    assert selection["name"] == chosen["name"]
    assert selection["best"]["precision"] == pytest.approx(chosen["precision"])
    assert {selection["layer"], *(entry["layer"] for entry in selection["runners_up"])} == {6, 8}
    assert selection["timesteps"] == [100, 500]
    assert selection["scenes"] == 4
    assert (layers["ceiling"] >= layers["chance"]).all()


@pytest.mark.parametrize("metric", ["precision@5%", "precision@10%"])
def test_selection_needs_few_rows_of_the_scores(whole: Path, metric: str):
    """All that is told of the layers is the same from the rows that selection reads and from all rows."""
    every = pd.read_parquet(whole / "scores.parquet")
    few = read_ranked(whole / "scores.parquet", PROTOCOLS["attention-v1"], metric)
    assert len(few) < 0.2 * len(every)
    chosen = [select_layer(scores, metric=metric, model="cat3d-tiny:random") for scores in (every, few)]
    assert json.dumps(chosen[0].record()) == json.dumps(chosen[1].record())
    for table in (layer_table, comparisons):
        pd.testing.assert_frame_equal(*(table(scores, chosen[0]) for scores in (every, few)), check_exact=True)
    assert empty_scenes(every, chosen[0]) == empty_scenes(few, chosen[0])


def test_timesteps_say_what_they_mean(whole: Path):
    table = pd.read_csv(whole / "timesteps.csv")
    assert table["timestep"].tolist() == [100, 500]
    np.testing.assert_allclose(table["snr"], table["alpha_bar"] / (1 - table["alpha_bar"]))
    assert table["alpha_bar"].is_monotonic_decreasing


def test_examples_are_kept_for_the_pictures(whole: Path):
    matches, images = pd.read_parquet(whole / "matches.parquet"), load_file(whole / "examples.safetensors")
    scenes = pd.read_csv(whole / "pairs.csv")["scene"].tolist()
    assert sorted(images) == sorted(f"image/{scene}" for scene in scenes)
    assert all(image.shape == (2, 3, 32, 32) and image.dtype == np.uint8 for image in images.values())
    assert set(matches["scene"]) == set(scenes)
    assert set(matches["timestep"]) == {500}
    assert (whole / "examples.safetensors").stat().st_mode == (whole / "layers.csv").stat().st_mode


def test_bare_the_identity_and_the_own_view_are_tested_on_predictions(whole: Path):
    scores, layers = pd.read_parquet(whole / "scores.parquet"), pd.read_csv(whole / "layers.csv")
    edited = scores[scores["protocol"] == INTERVENTIONS]
    made = {f"{measure}@{name}" for measure in ("effect_x0", "effect_error") for name in ("identity", "within_view")}
    assert set(edited["metric"]) == made
    assert (set(edited["timestep"]), set(edited["model"])) == ({500}, {"cat3d-tiny:random"})
    assert len(edited) == 4 * 2 * 4  # scenes, layers, metrics
    assert layers["causal_count"].tolist() == [4, 4]
    assert layers["cost"].tolist() == [4 * (2 * 16) ** 2, 4 * (2 * 64) ** 2]


@pytest.mark.slow
def test_edits_are_sampled_kept_and_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    words = [
        *QUICK,
        "--interventions",
        "true_match,uniform",
        "--sampling-steps",
        "1",
        "--layers",
        "6",
        "--edit-scenes",
        "3",
    ]
    run.cli([*words, "--out", str(tmp_path / "whole")])
    images = load_file(tmp_path / "whole" / "edited.safetensors")
    scenes = pd.read_csv(tmp_path / "whole" / "pairs.csv")["scene"]
    kinds = ("truth", "unedited", "uniform/6", "true_match/6")
    assert sorted(images) == sorted(f"{scene}/{kind}" for scene in scenes[:3] for kind in kinds)
    assert all(image.shape == (1, 3, 32, 32) and image.dtype == np.uint8 for image in images.values())
    scores = pd.read_parquet(tmp_path / "whole" / "scores.parquet")
    sampled = scores[(scores["protocol"] == INTERVENTIONS) & (scores["timestep"] == -1)]
    assert {"effect_psnr@uniform", "effect_match_error@true_match"} <= set(sampled["metric"])
    selection = json.loads((tmp_path / "whole" / "selection.json").read_text())
    assert "under uniform (t = 500; 3 scenes)" in selection["effect_rule"]
    stop_at(monkeypatch, 2)
    with pytest.raises(SystemExit):
        run.cli([*words, "--out", str(tmp_path / "parts")])
    stop_at(monkeypatch, None)
    run.cli([*words, "--out", str(tmp_path / "parts"), "--resume"])
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_the_ratio_protocol_runs_too(tmp_path: Path):
    ratio = ["--protocol", "ratio-v1", "--select-by", "precision@10%", "--layers", "6"]
    run.cli([*QUICK, *ratio, "--out", str(tmp_path / "r")])
    scores = pd.read_parquet(tmp_path / "r" / "scores.parquet")
    assert set(scores["protocol"]) == {"ratio-v1", INTERVENTIONS}
    selection = json.loads((tmp_path / "r" / "selection.json").read_text())
    assert (selection["protocol"], selection["metric"]) == ("ratio-v1", "precision@10%")
    assert all(entry["share_of_ceiling"] <= 1 for entry in (selection["best"], *selection["runners_up"]))


def test_chance_in_layers_csv_is_over_the_queries_that_the_layer_keeps(tmp_path: Path):
    """Two layers of one grid keep different queries; nulls and baselines add nothing to their chance."""
    words = ["--protocol", "ratio-v2", "--layers", "11,12", "--baselines", "pixels,null"]
    run.cli([*QUICK, *words, "--out", str(tmp_path / "r")])
    scores = pd.read_parquet(tmp_path / "r" / "scores.parquet")
    layers = pd.read_csv(tmp_path / "r" / "layers.csv").set_index("layer")
    assert layers["grid_h"].tolist() == [16, 16]
    chosen = scores[(scores["metric"] == "precision@5%") & (scores["direction"] == "tgt-ref")]
    for column, model in (("chance", UNIFORM), ("same_position", SAME_POSITION)):
        guesses = chosen[chosen["model"] == model]
        assert set(guesses["layer"]) == {11, 12}
        own = chosen[(chosen["model"] == "cat3d-tiny:random")].groupby("layer")["count"].sum()
        assert guesses.groupby("layer")["count"].sum().to_dict() == own.to_dict()
        by_scene = guesses.groupby(["layer", "scene"], observed=True)["value"].mean()  # counts are equal
        assert by_scene.groupby("layer").mean().to_dict() == pytest.approx(layers[column].to_dict())
    assert layers["chance"].nunique() == 2


# Stopping and going on


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: Path, capfd: pytest.CaptureFixture[str]
):
    """The disk is full at the third scene; besides, the second one's file was not complete."""
    out, parts = tmp_path / "r", tmp_path / "r" / "parts"
    stop_at(monkeypatch, 2)
    with pytest.raises(SystemExit) as stop:
        run.cli([*QUICK, "--out", str(out)])
    assert stop.value.code == 2
    assert capfd.readouterr().err.endswith("python -m probe.run: disk full\n")
    begun = [f"parts/{kind}-0000{k}.{end}" for kind, end in PARTS for k in (0, 1)]
    assert files(out) == ["config.json", *begun]
    (parts / "scene-00001.parquet").rename(parts / "scene-00001.parquet.part")
    first = (parts / "scene-00000.parquet").stat().st_mtime_ns
    measured = []
    original = plan_parts._score_scene

    def measure(planned: plan.Plan, scene: Scene, index: int, folder: Path) -> pd.DataFrame:
        measured.append(index)
        assert (parts / "scene-00000.parquet").stat().st_mtime_ns == first
        return original(planned, scene, index, folder)

    monkeypatch.setattr(plan_parts, "_score_scene", measure)
    stop_at(monkeypatch, None)
    run.cli([*QUICK, "--out", str(out), "--resume"])
    assert measured == [1, 2, 3]
    assert contents(out) == contents(quick)


def test_a_complete_run_is_not_made_again(
    quick: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    before = contents(quick)
    monkeypatch.setattr(plan_parts, "_score_scene", None)
    run.cli([*QUICK, "--out", str(quick), "--resume"])
    assert "is complete already" in " ".join(capsys.readouterr().out.split())
    assert contents(quick) == before


def test_another_run_in_the_folder_is_refused(quick: Path, capfd: pytest.CaptureFixture[str]):
    before = contents(quick)
    same = [*QUICK, "--out", str(quick)]
    assert "already holds this run; add --resume to continue it" in refused(same, capfd)
    for resume in ([], ["--resume"]):
        said = refused([*same, "--seed", "1", "--pairs", "9", *resume], capfd)
        assert "was made with other values of ['pairs', 'seed']; choose another --out" in said
    assert contents(quick) == before


# Wrong input

HERE = Path(__file__)
WRONG = {
    "model": (["--model", "sd9"], "--model 'sd9' is unknown; choose one of cat3d-tiny"),
    "checkpoint": (["--model", "cat3d-tiny:/no/where"], "--model cat3d-tiny:/no/where: there is no /no/where"),
    "empty checkpoint": (["--model", f"cat3d-tiny:{HERE.parent}"], f"{HERE.parent} holds no checkpoint"),
    "layer": (["--layers", "99"], "layer '99' is unknown; allowed: 3d, all, or indexes 0 to"),
    "layer name": (["--layers", "6,up_blocks.2"], "'up_blocks.2' means 3 layers"),
    "scenes": (["--scenes", "moon"], "--scenes 'moon' is unknown; choose one of shapes, shapes-v1, rgbd"),
    "difficulty": (["--scenes", "shapes:hard"], "choose shapes:plain|cluttered|repetitive|textureless|fine"),
    "no folder": (["--scenes", "rgbd"], "--scenes rgbd needs a folder"),
    "missing folder": (["--scenes", "rgbd:/no/where"], "--scenes rgbd:/no/where: there is no /no/where"),
    "file for folder": (["--scenes", f"rgbd:{HERE}"], f"{HERE} is not a folder"),
    "timesteps in words": (["--timesteps", "100,soon"], "--timesteps '100,soon': expected timestep indexes separated"),
    "timesteps too late": (["--timesteps", "1000"], "from 0 (clean) to 999 (pure noise)"),
    "timesteps twice": (["--timesteps", "5,5"], "expected different timesteps"),
    "no timesteps": (["--timesteps", ""], "expected timestep indexes"),
    "baseline": (["--baselines", "pixels,sift"], "--baselines sift is unknown; choose from dsift, pixels"),
    "intervention": (["--interventions", "blur"], "--interventions blur is no intervention; choose from identity"),
    "edited timesteps": (["--edit-timesteps", "9"], "--edit-timesteps '9': expected a range of timesteps"),
    "source of points": (["--truth-source", "moon"], "--truth-source 'moon' is unknown; choose from depth, vggt"),
    "one view": (["--views", "1"], "expected at least 2 views"),
    "all references": (["--views", "3", "--n-ref", "3"], "one view less than all"),
    "no pairs": (["--pairs", "0"], "at least 1 pair"),
    "pairs in words": (["--pairs", "many"], "--pairs"),
    "flag": (["--stride", "2"], "Unrecognized options: --stride"),
    "stray word": (["shapes"], "Unrecognized options: shapes"),
    "protocol": (["--protocol", "attention-v2"], "Expected one of ('attention-v1', 'ratio-v1',"),
    "metric": (["--select-by", "precision"], "'precision' is unknown; choose from precision@2%, precision@5%"),
    "metric of metres": (["--select-by", "precision@0.02m"], "choose from precision@2%"),
    "image": (["--image-size", "8"], "choose a coarser grid or larger images"),
    "no image": (["--image-size", "0"], "--image-size 0"),
    "overlap": (["--min-overlap", "20"], "expected a share from 0 to 1"),
    "seed": (["--seed", "-1"], "--seed -1: expected 0 to"),
    "dtype": (["--dtype", "int8"], "Expected one of ('float32', 'bfloat16', 'float16')"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_one_line_and_leaves_no_run(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    arguments, expected = WRONG[name]
    assert expected in refused([*SMALL, *arguments, "--out", str(tmp_path / "r")], capfd)
    assert not (tmp_path / "r").exists()


def test_a_device_that_is_not_there_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    said = refused([*SMALL, "--device", "cuda", "--out", str(tmp_path / "r")], capfd)
    assert "no CUDA device is available here; choose cpu or auto" in said
    assert not (tmp_path / "r").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    (tmp_path / "notes.txt").write_text("mine")
    assert "is not empty and holds no config.json" in refused([*QUICK, "--out", str(tmp_path)], capfd)
    assert "cannot write to" in refused([*QUICK, "--out", str(tmp_path / "notes.txt")], capfd)
    assert files(tmp_path) == ["notes.txt"]


def test_placing_a_model_says_nothing(caplog: pytest.LogCaptureFixture):
    """Libraries log to stderr too: diffusers warns whenever a model is cast."""
    model = load_model("cat3d-tiny:random")
    logger = logging.getLogger("diffusers")
    logger.addHandler(caplog.handler)
    try:
        to_device(model, torch.device("cpu"), torch.float32)
        assert caplog.text == ""
    finally:
        logger.removeHandler(caplog.handler)


@pytest.mark.slow
def test_true_points_come_from_the_source_that_is_named(tmp_path: Path):
    """Tracks know few points, and only those count; pairs, overlaps and cameras are the scenes' own."""
    counts, large = {}, [*QUICK, "--image-size", "128"]
    for name in ("tracks", "depth"):
        run.cli([*large, "--truth-source", name, "--out", str(tmp_path / name)])
        scores = pd.read_parquet(tmp_path / name / "scores.parquet")
        counts[name] = scores[scores["metric"] == "precision@5%"]["count"].sum()
        assert json.loads((tmp_path / name / "config.json").read_text())["settings"]["truth_source"] == name
    assert 0 < counts["tracks"] < 0.3 * counts["depth"]
    pd.testing.assert_frame_equal(*(pd.read_csv(tmp_path / name / "pairs.csv") for name in ("tracks", "depth")))


def test_help_names_every_choice():
    words = [sys.executable, "-m", "probe.run", "--help"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=Path(run.__file__).parents[1])
    assert done.returncode == 0
    assert done.stderr == ""
    text = " ".join(done.stdout.replace("│", " ").split())
    flags = ["model", "scenes", "out", "protocol", "layers", "timesteps", "pairs", "views", "n-ref", "min-overlap",
             "image-size", "truth-source", "select-by", "baselines", "interventions",
             "edit-timesteps", "edit-scenes", "edit-heads", "sampling-steps", "device", "offload", "dtype", "seed",
             "resume", "report"]  # fmt: skip
    assert [flag for flag in flags if f"--{flag}" not in text] == []
    choices = [
        *MODELS, *SCENES, *BASELINES, *NULLS, *SOURCES, *PROTOCOLS, *EDITS,
        "cat3d-tiny", "shapes:DIFFICULTY (plain, cluttered, repetitive, textureless, fine)", "rgbd:FOLDER",
        "3d, all",
        "{auto,cpu,cuda}", "{float32,bfloat16,float16}",
    ]  # fmt: skip
    assert [choice for choice in choices if choice not in text] == []


def test_offloaded_weights_write_the_same_run(quick: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(plan, "load_model", load_model)  # not the one that the other tests share
    run.cli([*QUICK, "--offload", "--out", str(tmp_path / "run")])
    assert contents(tmp_path / "run") == contents(quick)


def test_a_folder_that_another_run_is_writing_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    (tmp_path / "run").mkdir()
    with alone(tmp_path / "run"):
        error = refused([*QUICK, "--out", str(tmp_path / "run")], capfd)
    assert "another run is writing" in error
    with alone(tmp_path / "run"):
        assert not (tmp_path / "run" / "selection.json").exists()
