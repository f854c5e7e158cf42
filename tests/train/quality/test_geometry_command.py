"""``python -m train.evaluate --geometry`` as a user meets it: its table, its page, going on, refusals in one line."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from textured_corner import corner_views

from probe.models.cat3d import TINY, load_unet
from probe.models.model import MultiViewModel
from probe.models.parts.files import Loading
from probe.models.schedules import pixel_scheduler
from probe.records.names import CORRUPTIONS, GEOMETRY_METHODS, GEOMETRY_SCORES, SED, SIFT_MATCHES
from probe.scenes import SceneList
from train import evaluate
from train.quality import evaluation

SMALL = {**TINY, "sample_size": 16, "block_out_channels": (8, 8), "attention_head_dim": 1, "norm_num_groups": 4}
SCENES = 5


@pytest.fixture(scope="module", autouse=True)
def no_weights(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        empty = str(tmp_path_factory.mktemp("cache"))
        patch.setattr(torch.hub, "get_dir", lambda: empty)
        yield


def save(path: Path, seed: int, *absent: str, size: int = 64) -> None:
    """Write true views as predictions."""
    views = corner_views(seed, size, degrees=(0.0, 8.0))
    image = views.image[0].numpy()
    members: dict[str, Any] = {
        "gt_rgb": image, "pred_rgb": image, "world_to_cam": views.world_to_cam[0].numpy(),
        "intrinsics": views.intrinsics[0].numpy(),
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{name: part for name, part in members.items() if name not in absent})


def command(folder: Path, out: Path, *more: str) -> list[str]:
    return ["--predictions", str(folder), "--n-ref", "1", "--features", "none", "--geometry", "--out", str(out), *more]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("theirs")
    for seed in range(SCENES):
        save(folder / f"{seed}.npz", seed)
    return folder


@pytest.fixture(scope="module")
def whole(theirs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    evaluate.cli(command(theirs, out))
    return out


def test_the_table_holds_every_view_method_and_score(whole: Path):
    table = pd.read_csv(whole / "geometry.csv")
    assert list(table.columns) == [
        "scene", "view", "rotation_deg", "n_ref", "reference", "method", "metric", "value", "count", "unit"
    ]  # fmt: skip
    counts = table.groupby(["method", "metric"]).size()
    assert (counts == SCENES).all()
    assert set(counts.index) == {
        (method, metric) for method in GEOMETRY_METHODS for metric in (SIFT_MATCHES, *GEOMETRY_SCORES)
    }
    assert not (whole / "parts").exists()


def test_the_images_and_their_summary_are_those_without_geometry(theirs: Path, whole: Path, tmp_path: Path):
    arguments = [one for one in command(theirs, tmp_path / "run", "--no-report") if one != "--geometry"]
    evaluate.cli(arguments)
    for name in ("images.csv", "summary.csv", "worst.csv"):
        assert (tmp_path / "run" / name).read_bytes() == (whole / name).read_bytes()
    assert not (tmp_path / "run" / "geometry.csv").exists()
    plain, own = (json.loads((run / "config.json").read_text())["settings"] for run in (tmp_path / "run", whole))
    assert own.keys() - plain.keys() == {"geometry", "intrinsics_digest"}
    assert own["geometry"] is True


def test_terminal_and_page_say_which_scores_can_be_trusted(theirs: Path, whole: Path, capsys: pytest.CaptureFixture):
    evaluate.cli(command(theirs, whole, "--resume"))
    shown = capsys.readouterr().out
    page = (whole / "report.html").read_text(encoding="utf-8").replace("\u00a0", " ")
    for text in (shown.replace("\u00a0", " "), page):
        assert "With 1 reference " in text
        assert "no score of geometry is shown to tell all of noise" in text
        assert "With 1 reference not shown to tell the corruptions from the truth: " in text
    assert "geometry-trust.csv" in page
    assert "intrinsics-digest" not in page  # no flag of the command


def test_a_stopped_run_goes_on_to_the_same_table_and_changed_intrinsics_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    for seed in range(2):
        save(tmp_path / "of" / f"{seed}.npz", seed, size=32)
    evaluate.cli(command(tmp_path / "of", tmp_path / "whole", "--no-report"))
    measure, calls = evaluation.geometry_rows, []

    def stop(*args: Any) -> pd.DataFrame:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measure(*args)

    monkeypatch.setattr(evaluation, "geometry_rows", stop)
    with pytest.raises(SystemExit):
        evaluate.cli(command(tmp_path / "of", tmp_path / "run", "--no-report"))
    evaluate.cli(command(tmp_path / "of", tmp_path / "run", "--no-report", "--resume"))
    assert (tmp_path / "run" / "geometry.csv").read_bytes() == (tmp_path / "whole" / "geometry.csv").read_bytes()
    members = dict(np.load(tmp_path / "of" / "1.npz"))
    np.savez(tmp_path / "of" / "1.npz", **{**members, "intrinsics": 1.1 * members["intrinsics"]})
    with pytest.raises(SystemExit):
        evaluate.cli(command(tmp_path / "of", tmp_path / "run", "--no-report", "--resume"))
    assert "was made with other values of ['intrinsics_digest']" in capsys.readouterr().err


@pytest.mark.parametrize("absent", ["world_to_cam", "intrinsics"])
def test_scenes_without_cameras_are_refused_in_one_line(absent: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    save(tmp_path / "of" / "a.npz", 0, size=16)
    save(tmp_path / "of" / "b.npz", 1, absent, size=16)
    with pytest.raises(SystemExit) as stop:
        evaluate.cli(command(tmp_path / "of", tmp_path / "run"))
    shown = capsys.readouterr()
    assert stop.value.code == 2
    assert shown.err.count("\n") == 1
    assert "--geometry" in shown.err
    assert "1 of 2 scenes lack cameras or intrinsics (the first: b.npz), expected both for every view" in shown.err
    assert not (tmp_path / "run").exists()


@cache
def small_model(spec: str, loading: Loading | None = None) -> MultiViewModel:
    torch.manual_seed(0)
    network = load_unet(None, SMALL).eval()
    return MultiViewModel(name=spec, network=network, alpha_bar=pixel_scheduler().alphas_cumprod, size=16)


def test_a_models_views_too_small_for_sift_have_no_score_and_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    """Two scenes of 16 pixels: the match error has values, and nothing is claimed of it."""
    monkeypatch.setattr(evaluation, "load_model", small_model)
    arguments = ["--groups", "2", "--n-ref", "1,2", "--sampling-steps", "1", "--features", "none", "--geometry"]
    evaluate.cli([*arguments, "--out", str(tmp_path / "run")])
    table = pd.read_csv(tmp_path / "run" / "geometry.csv")
    assert set(table["n_ref"]) == {1, 2}
    assert table[(table["metric"] == SED) & table["method"].isin(CORRUPTIONS[:1])]["value"].isna().all()
    assert table[(table["metric"] == "match_error") & (table["method"] == "truth")]["value"].notna().all()
    shown = capsys.readouterr().out
    said = "With 1 reference and 2 references nothing can be said of scores of geometry"
    assert f"{said}: 2 units have values, 5 are needed." in shown


def test_one_scene_alone_has_no_view_of_another(tmp_path: Path):
    save(tmp_path / "of" / "a.npz", 0, size=32)
    evaluate.cli(command(tmp_path / "of", tmp_path / "run"))
    assert "another scene" not in set(pd.read_csv(tmp_path / "run" / "geometry.csv")["method"])


def test_another_scene_is_of_another_unit():
    views = corner_views(0, 16, degrees=(0.0, 8.0))

    def load(index: int):
        return replace(views, image=torch.full_like(views.image, index / 10)), ()

    cases = {("a", "a", "b", "b"): [2, 3, 0, 1], ("a", "a", "a", "b"): [3, 3, 3, 1], (): [2, 3, 0, 1]}
    for units, expected in cases.items():
        scenes = SceneList(names=("s0", "s1", "s2", "s3"), load=load, units=units)
        others = [evaluation._other_scene(scenes, index) for index in range(4)]
        assert [round(float(image.mean()) * 10) for image in others] == expected
    alone = SceneList(names=("s0", "s1"), load=load, units=("a", "a"))
    assert evaluation._other_scene(alone, 0) is None
