"""The command as a user meets it: its files, stopping and going on, and wrong input in one line."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from probe.models.cat3d import TINY, load_unet
from probe.models.model import MultiViewModel
from probe.models.parts.files import Loading
from probe.models.schedules import pixel_scheduler
from probe.records import IMAGE_METRICS, METHODS, ROTATION_BINS
from train import evaluate
from train.quality import evaluation

SMALL = {**TINY, "sample_size": 16, "block_out_channels": (8, 8), "attention_head_dim": 1, "norm_num_groups": 4}
QUICK = ["--groups", "4", "--sampling-steps", "1", "--no-report"]
FILES = ["config.json", "images.csv", "samples.png", "summary.csv", "worst.csv"]
NAMES = [f"v2-plain-0-{index:04d}" for index in range(4)]


@cache
def small_model(spec: str, loading: Loading | None = None) -> MultiViewModel:
    torch.manual_seed(0)
    network = load_unet(None, SMALL).eval()
    card = {"training": {"camera_dropout": 0.0}} if spec == "never-dropped" else {}
    return MultiViewModel(name=spec, network=network, alpha_bar=pixel_scheduler().alphas_cumprod, size=16, card=card)


@pytest.fixture(scope="module", autouse=True)
def tools(tmp_path_factory: pytest.TempPathFactory):
    """A model of two levels, and a cache without weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "load_model", small_model)
        empty = str(tmp_path_factory.mktemp("cache"))
        patch.setattr(torch.hub, "get_dir", lambda: empty)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    evaluate.cli([*QUICK, "--out", str(out)])
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "config.json"}


# --- what a run leaves -----------------------------------------------------------------------------------------------


def test_a_run_leaves_its_files_and_its_settings(whole: Path):
    assert sorted(path.name for path in whole.iterdir()) == FILES
    settings = json.loads((whole / "config.json").read_text())["settings"]
    assert settings == {
        "model": "cat3d-tiny", "scenes": "shapes", "groups": 4, "views": 3, "n_ref": [1, 2], "sampling_steps": 1,
        "guidance": 1.0, "features": ["colour-cells", "inception-v3-compat"], "seed": 0, "device": "auto",
        "out": str(whole), "base": None, "model_size": None,
    }  # fmt: skip


def test_images_hold_every_target_of_every_method(whole: Path):
    rows = pd.read_csv(whole / "images.csv")
    assert list(rows.columns) == [
        "scene", "view", "rotation_deg", "n_ref", "method", "metric", "value", "count", "unit"
    ]  # fmt: skip
    targets = rows[["scene", "view", "n_ref"]].drop_duplicates()
    expected = [(scene, view, n_ref) for scene in NAMES for n_ref in (1, 2) for view in range(n_ref, 3)]
    assert sorted(targets.itertuples(index=False, name=None)) == sorted(expected)
    assert rows.groupby(["method", "metric"]).size().to_dict() == {
        **{(method, metric): 12 for method in METHODS for metric in IMAGE_METRICS},
        ("truth", "match_error"): 12,
    }
    index = rows["scene"].str[-1].astype(int)
    assert (rows["rotation_deg"] >= np.array(ROTATION_BINS)[index] - 1e-3).all()
    assert (rows["rotation_deg"] <= np.array(ROTATION_BINS)[index + 1] + 1e-3).all()


def test_the_summary_averages_the_images_and_says_why_values_are_missing(whole: Path):
    rows, summary = pd.read_csv(whole / "images.csv"), pd.read_csv(whole / "summary.csv", keep_default_na=True)
    for n_ref in (1, 2):
        mine = rows[(rows["n_ref"] == n_ref) & (rows["method"] == "copy") & (rows["metric"] == "psnr")]
        row = summary.query(f"n_ref == {n_ref} and method == 'copy' and metric == 'psnr' and rotation_bin == 'all'")
        assert row["value"].item() == pytest.approx(mine["value"].mean())
        assert (row["scenes"].item(), row["units"].item()) == (4, 4)
        assert row[["low", "high"]].isna().all(axis=None)  # below five units
    assert set(summary["rotation_bin"]) == {"0-30", "30-60", "60-90", "90-120", "all"}
    missing = summary[summary["value"].isna()]
    assert set(missing["metric"]) == {"lpips", "fid[inception-v3-compat]", "kid[inception-v3-compat]"}
    assert missing["note"].str.contains("is absent (NaN): no weights at", regex=False).all()
    assert (missing[["scenes", "count"]] == 0).all(axis=None)
    assert summary[summary["value"].notna()]["note"].isna().all()
    sets = summary[summary["metric"] == "fid[colour-cells]"]
    assert sets["count"].tolist() == [8] * 3 + [4] * 3
    assert sets["method"].tolist() == ["model", "copy", "mean colour"] * 2


def test_worst_cases_come_first_and_the_picture_shows_them(whole: Path):
    worst = pd.read_csv(whole / "worst.csv")
    assert worst["psnr"].is_monotonic_increasing
    assert len(worst) == 12
    with Image.open(whole / "samples.png") as picture:
        assert min(picture.size) > 400


def test_the_terminal_shows_the_table_and_what_is_absent(capsys: pytest.CaptureFixture, tmp_path: Path):
    evaluate.cli([*QUICK, "--n-ref", "1", "--out", str(tmp_path / "run")])
    shown = capsys.readouterr().out
    assert "PSNR" in shown
    assert "one step" in shown
    assert sum(line.split()[:1] == ["1"] for line in shown.splitlines()) == 5
    assert "fid[colour-cells] of 8 images, n_ref 1: model" in shown
    assert shown.count("lpips is absent (NaN)") == 1
    assert shown.count("FID/KID by inception-v3-compat is absent (NaN)") == 1
    assert "gaussian window 11" in shown
    assert "never learned" not in shown


def test_guidance_without_dropped_cameras_is_warned_of(capsys: pytest.CaptureFixture, tmp_path: Path):
    arguments = [
        "--groups",
        "1",
        "--sampling-steps",
        "1",
        "--n-ref",
        "2",
        "--features",
        "none",
        "--guidance",
        "2",
        "--no-report",
    ]
    evaluate.cli([*arguments, "--model", "never-dropped", "--out", str(tmp_path / "run")])
    assert "never-dropped was trained with no camera dropped, so a guidance of 2" in capsys.readouterr().out
    summary = pd.read_csv(tmp_path / "run" / "summary.csv")
    assert not summary["metric"].str.contains("fid").any()


# --- stopping and going on -------------------------------------------------------------------------------------------


def test_a_stopped_run_goes_on_to_the_same_files(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out, calls = tmp_path / "broken", []

    def stop(*args, **kwargs):
        calls.append(args)
        if len(calls) == 4:  # in the second scene
            raise KeyboardInterrupt
        return whole_quality(*args, **kwargs)

    whole_quality = evaluation.evaluate_quality
    monkeypatch.setattr(evaluation, "evaluate_quality", stop)
    with pytest.raises(SystemExit) as stopped:
        evaluate.cli([*QUICK, "--out", str(out)])
    assert stopped.value.code == 130
    assert sorted(path.name for path in (out / "parts").iterdir()) == ["scene-00000.parquet", "scene-00000.safetensors"]
    evaluate.cli([*QUICK, "--out", str(out), "--resume"])
    assert len(calls) == 4 + 6
    assert contents(out) == contents(whole)


def test_a_complete_run_is_shown_again_and_not_measured(
    whole: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    before = contents(whole)
    monkeypatch.setattr(evaluation, "evaluate_quality", None)
    evaluate.cli([*QUICK, "--out", str(whole), "--resume"])
    assert "is complete already" in capsys.readouterr().out
    assert contents(whole) == before


# --- wrong input -----------------------------------------------------------------------------------------------------

WRONG = [
    (["--n-ref", "3"], "--n-ref 3 --views 3: expected different numbers of references"),
    (["--n-ref", "0"], "--n-ref 0 --views 3"),
    (["--n-ref", "1,1"], "--n-ref 1,1 --views 3"),
    (["--n-ref", "one"], "--n-ref 'one': expected numbers separated by commas"),
    (["--views", "1", "--n-ref", "1"], "at least 2 views"),
    (["--groups", "0"], "--groups 0: expected at least 1 scene"),
    (["--sampling-steps", "0"], "--sampling-steps 0: expected 1 to 1000"),
    (["--sampling-steps", "1001"], "--sampling-steps 1001: expected 1 to 1000"),
    (["--guidance", "-1"], "--guidance -1.0: expected a number of at least 0"),
    (["--guidance", "nan"], "--guidance nan: expected a number of at least 0"),
    (["--seed", "-1"], "--seed -1: expected 0 to"),
    (["--features", "vgg"], "--features vgg is unknown; choose from colour-cells, inception-v3-compat, or none"),
    (["--scenes", "moon"], "--scenes 'moon' is unknown"),
    (["--scenes", "rgbd:/nowhere"], "/nowhere"),
    (["--device", "tpu"], "tpu"),
    (["--gpu", "yes"], "--gpu"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[" ".join(wrong) for wrong, _ in WRONG])
def test_wrong_input_ends_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture, tmp_path: Path
):
    with pytest.raises(SystemExit) as stop:
        evaluate.cli([*arguments, "--out", str(tmp_path / "run")])
    shown = capsys.readouterr()
    assert stop.value.code == 2
    assert shown.err.count("\n") == 1
    assert message in shown.err
    assert shown.out == ""
    assert not (tmp_path / "run").exists()


def test_a_model_that_is_unknown_ends_in_one_line(
    capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from probe.models import load_model

    monkeypatch.setattr(evaluation, "load_model", load_model)
    with pytest.raises(SystemExit) as stop:
        evaluate.cli(["--model", "sora", "--out", str(tmp_path / "run")])
    assert stop.value.code == 2
    assert "--model 'sora' is unknown" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("changed", [["--resume", "--seed", "1"], []])
def test_a_folder_of_another_run_is_refused_and_kept(changed: list[str], whole: Path, capsys: pytest.CaptureFixture):
    before = contents(whole)
    with pytest.raises(SystemExit) as stop:
        evaluate.cli([*QUICK, *changed, "--out", str(whole)])
    assert stop.value.code == 2
    assert ("['seed']" if changed else "add --resume") in capsys.readouterr().err
    assert contents(whole) == before
