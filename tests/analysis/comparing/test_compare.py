"""Laws of comparisons: paired by scene, refused where not measured alike, clear only where the interval says so."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import report
from analysis.comparing import run
from analysis.comparing.page import probe_comparison
from analysis.probing.tables import read_run
from analysis.training.run import read_training
from probe.records import RunError, scene_values

EVALUATED = [{"step": step, "loss": 5 / step, "psnr": 10.0 + step / 10, "copy_psnr": 11.7} for step in (10, 20)]


def make_training(
    folder: Path, settings: dict[str, object] | None = None, rows: list[dict[str, object]] | None = None
) -> Path:
    """Write a training run of two evaluations and two probes of two layers."""
    folder.mkdir()
    given = {"layer": "10", "scenes": "shapes", "seed": 3, "out": str(folder), **(settings or {})}
    (folder / "config.json").write_text(json.dumps({"settings": given, "environment": {}}))
    for name, lines in {"metrics": [{"step": 10, "loss": 1.0}], "evaluation": rows or EVALUATED}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    probes = pd.DataFrame({"step": [10, 10, 20, 20], "scenes": "shapes", "layer": [2, 10] * 2, "layer_name": "x",
                           "grid": "16x16", "value": [0.1, 0.2, 0.1, 0.4], "chance": 0.01})  # fmt: skip
    gain = 0.3 if given["seed"] == 4 else 0.0
    probes["value"] += gain * (probes["layer"] == 10)
    probes.assign(low=probes["value"] - 0.05, high=probes["value"] + 0.05).to_csv(folder / "emergence.csv", index=False)
    return folder


def shifted(run_folder: Path, folder: Path, layer: int = 10, gain: float = 0.1, scene: str | None = None) -> Path:
    """Copy a run and add to the precision of one layer, in every scene or in one."""
    shutil.copytree(run_folder, folder)
    scores = pd.read_parquet(folder / "scores.parquet")
    rows = (scores["model"] == "tiny") & (scores["layer"] == layer) & scores["metric"].str.startswith("precision")
    rows &= (scores["scene"] == scene) if scene else True
    scores.loc[rows, "value"] += gain
    scores.to_parquet(folder / "scores.parquet")
    return folder


def row_of(table: pd.DataFrame, metric: str, layer: int) -> pd.Series:
    return table[(table["metric"] == metric) & (table["layer"] == layer)].iloc[0]


def test_an_equal_gain_in_every_scene_is_clear_though_scenes_differ(run_folder: Path, tmp_path: Path):
    a, b = read_run(run_folder), read_run(shifted(run_folder, tmp_path / "b"))
    table = run.compare_layers(a, b)
    row = row_of(table, "precision@5%", 10)
    assert row["difference"] == pytest.approx(0.1)
    assert 0 < row["low"] < 0.1 < row["high"] < 0.2
    assert (row["verdict"], row["joint"], row["scenes"]) == ("better", "better", 6)
    own = a.headline[(a.headline["model"] == "tiny") & (a.headline["layer"] == 10)]
    assert row["a"] == pytest.approx(scene_values(own, ["layer"])["value"].mean())
    assert row_of(table, "precision@5%", 2)["verdict"] == "not separable"
    assert set(table.loc[table["metric"] == "entropy", "verdict"]) == {"not separable"}


def test_a_loss_is_worse_and_the_same_run_is_not_separable(run_folder: Path, tmp_path: Path):
    a, b = read_run(run_folder), read_run(shifted(run_folder, tmp_path / "b"))
    assert row_of(run.compare_layers(b, a), "precision@5%", 10)["verdict"] == "worse"
    assert set(run.compare_layers(a, a)["verdict"]) == {"not separable"}


def test_a_gain_in_one_scene_of_six_is_not_clear(run_folder: Path, tmp_path: Path):
    a, b = read_run(run_folder), read_run(shifted(run_folder, tmp_path / "b", scene="room-1"))
    row = row_of(run.compare_layers(a, b), "precision@5%", 10)
    assert row["difference"] == pytest.approx(0.1 / 6)
    assert row["verdict"] == row["joint"] == "not separable"


@pytest.mark.parametrize(
    ("low", "high", "sign", "verdict"),
    [(0.1, 0.2, 1, "better"), (0.1, 0.2, -1, "worse"), (-0.2, -0.1, -1, "better"), (0.1, 0.2, 0, "changed"),
     (0.0, 0.2, 1, "not separable"), (-0.1, 0.2, 1, "not separable"), (np.nan, np.nan, 1, "too few units")],
)  # fmt: skip
def test_a_verdict_by_hand(low: float, high: float, sign: int, verdict: str):
    assert run._verdict(low, high, sign) == verdict


def test_joint_intervals_are_wider_than_those_of_one_layer():
    random = np.random.default_rng(0)
    part = pd.DataFrame(random.random((12, 20))).reset_index(names="scene").melt("scene", var_name="layer")
    part = part.assign(unit=part["scene"], count=1)
    rows = run._compare([part.assign(value=0.0), part], "layer", range(20), 1)
    wider = [row["joint_high"] - row["joint_low"] > row["high"] - row["low"] for row in rows]
    assert len(wider) == 20
    assert all(wider)


def test_bins_without_a_point_are_missing_with_their_count(run_folder: Path, tmp_path: Path):
    a, b = read_run(run_folder), read_run(shifted(run_folder, tmp_path / "b"))
    far = (a.scores["rotation_deg"] >= 60) & (a.scores["rotation_deg"] < 90)
    a.scores.loc[far, "value"], a.scores.loc[far, "count"] = np.nan, 0
    table = run.compare_bins(a, b, 10).set_index("rotation_bin")
    assert table.loc["60-90", ["scenes", "count", "verdict"]].tolist() == [0, 0, "not measured"]
    assert np.isnan(table.loc["60-90", "difference"])
    assert table.loc["30-60", "difference"] == pytest.approx(0.1)


def edited(run_folder: Path, folder: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Path:
    shutil.copytree(run_folder, folder)
    change(pd.read_parquet(folder / "scores.parquet")).to_parquet(folder / "scores.parquet")
    return folder


@pytest.mark.parametrize(
    ("name", "words"), [("pair_list", "different pair lists"), ("protocol", "different protocols")]
)
def test_runs_that_were_not_measured_alike_are_refused(
    run_folder: Path, ratio_folder: Path, tmp_path: Path, name: str, words: str,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    other = ratio_folder
    if name == "pair_list":
        other = edited(run_folder, tmp_path / "other", lambda scores: scores.assign(pair_list="ffffffffffff"))
    monkeypatch.chdir(tmp_path)
    assert report.main(["--compare", str(run_folder), str(other)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert words in error
    assert not (tmp_path / "reports").exists()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--bogus", "x"], "--bogus x is unknown; expected folders, or --compare A B; see --help"),
        (["--compare", "a"], "--compare was given 1 folders; expected two"),
        (["--compare", "a", "b", "c"], "--compare was given 3 folders; expected two"),
        (["--compare", "a", "a"], "a and a are one folder; name two runs"),
    ],
)
def test_wrong_words_end_in_one_line(
    argv: list[str], words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert report.main(argv) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert words in captured.err
    assert not captured.out
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_a_page_and_shows_a_table(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run_folder, tmp_path / "runs" / "a")
    shifted(run_folder, tmp_path / "runs" / "b")
    assert report.main(["--compare", "runs/a", "runs/b"]) == 0
    out = capsys.readouterr().out.replace("\u00a0", " ")
    assert "b is clearly better at layer 10" in out
    assert "reports/compare-a-b.html" in out
    page = Path("reports/compare-a-b.html").read_text(encoding="utf-8")
    assert "<code>python -m analysis.report --compare runs/a runs/b</code>" in page
    assert re.findall(r'<section id="(\w+)"', page) == ["layers", "answer", "metrics", "rotation", "worst", "settings",
                                                         "method"]  # fmt: skip
    assert 'href="compare-a-b.html"' in Path("reports/index.html").read_text(encoding="utf-8")
    assert report.main(["--compare", "runs/a", "runs/b"]) == 0
    assert Path("reports/compare-a-b.html").read_text(encoding="utf-8") == page


def test_the_layers_that_both_runs_chose_are_named_first(run_folder: Path, tmp_path: Path):
    first, second = read_run(run_folder), read_run(shifted(run_folder, tmp_path / "b"))
    moved = replace(second, selection={**second.selection, "layer": 2})
    for other, layers in ((second, [10]), (moved, [10, 2])):
        page = probe_comparison(first, other, ("a", "b"), "")
        assert [int(line.partition(" layer ")[2].partition(":")[0]) for line in page.answer[: len(layers)]] == layers
        assert [name.partition(":")[0] for name, *_ in page.facts[:-1]] == [f"points at layer {n}" for n in layers]


# --- training runs ---------------------------------------------------------------------------------------------------


def test_trainings_are_compared_at_the_last_common_step(tmp_path: Path):
    rows = [{"step": step, "loss": 5 / step, "psnr": 10.0 + step / 10, "ssim": 0.3} for step in (10, 20)]
    a, b = (read_training(make_training(tmp_path / name, rows=own)) for name, own in (("a", rows), ("b", rows[:1])))
    table = run.compare_evaluations(a, b).set_index("metric")
    assert table.loc["psnr", ["step", "difference", "ahead", "evaluations"]].tolist() == [10, 0.0, 0, 1]
    better = [{**row, "loss": row["loss"] / 2} for row in rows]
    c = read_training(make_training(tmp_path / "c", rows=better))
    row = run.compare_evaluations(a, c).set_index("metric").loc["loss"]
    assert (row["step"], row["ahead"]) == (20, 2)
    assert row["gain"] == pytest.approx(0.125)


def test_trainings_that_were_evaluated_otherwise_are_refused(tmp_path: Path):
    a = read_training(make_training(tmp_path / "a"))
    other = read_training(make_training(tmp_path / "b", {"scenes": "shapes:cluttered"}))
    with pytest.raises(RunError, match=r"different scenes, shapes and shapes:cluttered.*train both"):
        run.check_trainings(a, other)
    rows = [{"step": 10, "loss": 1.0, "psnr": 9.0, "copy_psnr": 5.0}]
    with pytest.raises(RunError, match=r"copy_psnr of a and c differ.*held-out scenes are not the same"):
        run.check_trainings(a, read_training(make_training(tmp_path / "c", rows=rows)))
    late = [{"step": 99, "loss": 1.0}]
    with pytest.raises(RunError, match="no evaluated step in common"):
        run.check_trainings(a, read_training(make_training(tmp_path / "d", rows=late)))


def test_a_training_comparison_claims_no_significance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    a, b = make_training(tmp_path / "a"), make_training(tmp_path / "b", {"seed": 4})
    path, page = report.build_comparison(a, b)
    assert path == Path("reports/compare-a-b.html")
    assert "none of it is shown to be significant" in page.answer[0]
    assert "intervals lie apart: layer 10 +30.0 points (better)" in page.answer[1]
    assert ("seed", "3", "4") in page.sections[-1].tables["settings"].rows


def test_both_trainings_stand_beside_the_best_trivial_baseline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    trivial = {"copy_psnr": 11.7, "mean_colour_psnr": 12.3, "copy_ssim": 0.3, "mean_colour_ssim": 0.4}
    rows = [{"step": step, "loss": 5 / step, "psnr": 14.0, "ssim": 0.35, **trivial} for step in (10, 20)]
    folders = [make_training(tmp_path / name, rows=rows) for name in ("a", "b")]
    page = report.build_comparison(*folders)[1]
    assert page.answer[-1] == "By SSIM neither run beats the best trivial baseline."
    cells = {row[0].partition(",")[0]: row[2:4] + row[-1:] for row in page.lead.tables["evaluations"].rows}
    assert cells["PSNR (dB)"] == ("14.00", "14.00", "12.30 (mean colour)")
    assert cells["SSIM"] == ("0.350\u00a0†", "0.350\u00a0†", "0.400 (mean colour)")
    assert "mean colour of that reference" in page.lead.charts[0].svg


def test_two_of_a_kind(run_folder: Path, tmp_path: Path):
    with pytest.raises(RunError, match="only one is a training run"):
        report.build_comparison(run_folder, make_training(tmp_path / "a"))


def test_equal_names_are_told_apart_by_the_folders_above(tmp_path: Path):
    for name in ("x/run", "y/run"):
        (tmp_path / name).mkdir(parents=True)
    assert report._distinct_names(tmp_path / "x" / "run", tmp_path / "y" / "run") == ("x/run", "y/run")
    assert json.dumps(report._distinct_names(tmp_path / "x", tmp_path / "y")) == '["x", "y"]'
