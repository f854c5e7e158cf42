"""Laws of the tables: each is a group-by of the score table, a missing value is never a number."""

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.probing import rotation, tables
from analysis.probing.cells import text_tables
from analysis.probing.leads import leads
from analysis.probing.scores import count_missing
from analysis.probing.tables import ProbeRun, RunError, read_run
from analysis.probing.words import answer
from probe.records import ALL_HEADS, CEILING, NO_LAYER, SAME_POSITION, UNIFORM, summarise


@pytest.fixture(scope="module")
def run(run_folder: Path) -> ProbeRun:
    return read_run(run_folder)


def changed(run: ProbeRun, rows: pd.Series, **columns: object) -> ProbeRun:
    """Give the run with other values in some rows of the score table."""
    scores = run.scores.copy()
    for name, value in columns.items():
        scores.loc[rows, name] = value
    return replace(run, scores=scores)


def of(run: ProbeRun, model: str) -> pd.Series:
    """Mark the rows that the headline takes of a model's selected layer, or of a reference on that layer's grid."""
    place = run.scores["layer"] == (run.layer if model == run.model else NO_LAYER)
    return (
        (run.scores["model"] == model) & place & (run.scores["grid"] == run.grid) & (run.scores["metric"] == run.metric)
    )


# --- reading ---------------------------------------------------------------------------------------------------------


def test_a_run_knows_its_model_layer_and_grid(run: ProbeRun):
    assert (run.name, run.model, run.layer, run.grid) == ("probe", "tiny", 10, "16x16")
    assert (run.metric, run.protocol) == ("precision@5%", "attention-v1")


@pytest.mark.parametrize(
    "name", ["config.json", "scores.parquet", "layers.csv", "selection.json", "pairs.csv", "timesteps.csv"]
)
def test_a_folder_without_a_needed_file_is_refused(run_folder: Path, tmp_path: Path, name: str):
    broken = shutil.copytree(run_folder, tmp_path / "broken")
    (broken / name).unlink()
    with pytest.raises(RunError, match=re.escape(f"it lacks {name}; make one")):
        read_run(broken)


@pytest.mark.parametrize("name", ["config.json", "scores.parquet", "layers.csv", "examples.safetensors"])
def test_an_unreadable_file_is_named_in_one_line(run_folder: Path, tmp_path: Path, name: str):
    broken = shutil.copytree(run_folder, tmp_path / "broken")
    (broken / name).write_bytes(b"")
    with pytest.raises(RunError, match=name) as caught:
        read_run(broken)
    assert "\n" not in str(caught.value)


def test_a_selection_of_an_unknown_layer_is_refused(run_folder: Path, tmp_path: Path):
    broken = shutil.copytree(run_folder, tmp_path / "broken")
    selection = json.loads((broken / "selection.json").read_text())
    (broken / "selection.json").write_text(json.dumps({**selection, "layer": 99}))
    with pytest.raises(RunError, match=r"names layer 99, which layers\.csv lacks"):
        read_run(broken)


def test_a_layer_without_a_whole_number_is_refused(run_folder: Path, tmp_path: Path):
    broken = shutil.copytree(run_folder, tmp_path / "broken")
    layers = pd.read_csv(broken / "layers.csv")
    layers.astype({"layer": float}).replace({"layer": {layers["layer"][0]: -math.inf}}).to_csv(broken / "layers.csv")
    with pytest.raises(RunError, match=r"layers\.csv has a layer that is no whole number"):
        read_run(broken)


def test_optional_files_may_be_missing(run_folder: Path, tmp_path: Path):
    bare = shutil.copytree(run_folder, tmp_path / "bare")
    for name in ("emergence.csv", "examples.safetensors", "matches.parquet"):
        (bare / name).unlink()
    run = read_run(bare)
    assert run.emergence is None
    assert run.matches is None
    assert run.images == {}


def test_only_each_models_last_step_counts(run_folder: Path, tmp_path: Path):
    twice = shutil.copytree(run_folder, tmp_path / "twice")
    scores = pd.read_parquet(twice / "scores.parquet")
    early = scores[scores["model"] == "tiny"].assign(step=0, value=0.0)
    pd.concat([early, scores]).to_parquet(twice / "scores.parquet")
    read, once = read_run(twice), read_run(run_folder)
    pd.testing.assert_frame_equal(read.scores, once.scores)
    pd.testing.assert_frame_equal(read.missing, once.missing)
    assert set(scores.columns) - set(read.scores.columns) == {"pair", "layer_name"}


@pytest.mark.parametrize("steps", [(math.nan, 100), (None, None), (100, 100)])
def test_a_score_without_a_step_belongs_to_the_only_one(
    run_folder: Path, tmp_path: Path, steps: tuple[float | None, float | None]
):
    """Of a model's rows those without a step are left out only where others have one."""
    folder = shutil.copytree(run_folder, tmp_path / "run")
    scores = pd.read_parquet(folder / "scores.parquet")
    mine = scores["model"] == "tiny"
    step = pd.Series(np.where(mine & (scores["scene"] == "room-0"), *steps), index=scores.index)
    scores.assign(step=step if steps[0] else None).to_parquet(folder / "scores.parquet")
    known = ["room-0"] if steps == (100, 100) or steps[0] is None else []
    read = read_run(folder).scores
    assert sorted(set(read[read["model"] == "tiny"]["scene"])) == sorted({*known, *(f"room-{n}" for n in range(1, 6))})


def test_rows_that_no_table_shows_are_counted_and_not_read(run: ProbeRun, run_folder: Path):
    """Single heads count by the metric of the selection alone; the other directions tell their rotation alone."""
    every = pd.read_parquet(run_folder / "scores.parquet")
    single = run.scores[run.scores["head"] != ALL_HEADS]
    assert set(single["metric"]) == {"precision@5%"}
    assert set(run.scores[run.scores["direction"] != "tgt-ref"]["metric"]) == {"precision@5%"}
    assert len(run.scores) < 0.3 * len(every)
    assert run.missing["metric"].tolist() == sorted(set(every["metric"]))
    assert run.missing["rows"].sum() == len(every)
    pairs = ["scene", "query_view", "key_view", "rotation_deg"]
    assert set(run.scores[pairs].itertuples(index=False)) == set(every[pairs].itertuples(index=False))


def test_an_empty_score_table_has_no_rows(run_folder: Path, tmp_path: Path):
    folder = shutil.copytree(run_folder, tmp_path / "run")
    pd.read_parquet(folder / "scores.parquet")[:0].to_parquet(folder / "scores.parquet")
    run = read_run(folder)
    assert (len(run.scores), len(run.missing)) == (0, 0)


def test_text_is_read_as_categories_and_the_tables_are_those_of_text(run: ProbeRun, run_folder: Path):
    assert {str(run.scores[name].dtype) for name in ("model", "scene", "metric", "grid", "protocol")} == {"category"}
    plain = replace(run, scores=pd.read_parquet(run_folder / "scores.parquet"))
    shown = (tables.profile, tables.matchers, tables.by_head, tables.attention, tables.thresholds, rotation.rotation)
    for table in shown:
        expected = table(plain)
        pd.testing.assert_frame_equal(table(run).astype(expected.dtypes), expected)


def test_the_index_needs_no_score_table(run_folder: Path, tmp_path: Path):
    bare = shutil.copytree(run_folder, tmp_path / "bare")
    (bare / "scores.parquet").write_bytes(b"")
    assert read_run(bare, scores=False).model == "tiny"
    assert len(read_run(bare, scores=False).scores) == 0


def test_the_worst_pairs_stand_first(run: ProbeRun):
    table = tables.worst_pairs(run, count=99)
    assert table["value"].is_monotonic_increasing
    rows = run.headline[(run.headline["model"] == "tiny") & (run.headline["layer"] == 10)]
    first = table.iloc[0]
    mine = rows[(rows["scene"] == first["scene"]) & (rows["query_view"] == first["query_view"])]
    assert first["value"] == pytest.approx(np.average(mine["value"], weights=mine["count"]))
    assert first["count"] == mine["count"].sum()
    assert len(table) == 6 * 2


# --- tables ----------------------------------------------------------------------------------------------------------


def test_profile_is_a_group_by_of_the_headline(run: ProbeRun):
    scores = run.scores
    wanted = (scores["direction"] == "tgt-ref") & (scores["protocol"] == "attention-v1")
    wanted &= (scores["metric"] == "precision@5%") & (scores["head"] == ALL_HEADS) & (scores["model"] == "tiny")
    expected = summarise(scores[wanted], ["layer"])
    profile = tables.profile(run)
    mine = profile[profile["model"] == "tiny"].drop(columns="model").reset_index(drop=True)
    pd.testing.assert_frame_equal(mine, expected, check_dtype=False)


def test_profile_agrees_with_the_layer_table(run: ProbeRun):
    profile = tables.profile(run).set_index(["model", "layer"])["value"]
    for model, column in {
        "tiny": "precision",
        UNIFORM: "chance",
        SAME_POSITION: "same_position",
        CEILING: "ceiling",
    }.items():
        np.testing.assert_allclose(profile[model].loc[run.layers["layer"]], run.layers[column], rtol=1e-12)


def test_on_the_common_grid_one_ceiling_holds_for_all_layers(run: ProbeRun):
    native, common = (tables.profile(run, common=flag) for flag in (False, True))
    assert len(set(native[native["model"] == CEILING]["value"])) == 2
    assert len(set(common[common["model"] == CEILING]["value"])) == 1
    assert sorted(common[common["model"] == "dsift"]["layer"]) == [2, 7, 10]


def test_all_heads_together_are_no_head(run: ProbeRun):
    counts = tables.by_head(run).groupby("layer")["head"].agg(["min", "count"])
    assert counts.loc[7].tolist() == [0, 3]
    assert counts.loc[10].tolist() == [0, 2]


def test_timesteps_average_to_the_layer(run: ProbeRun):
    table = tables.by_timestep(run)
    means = table.groupby("layer")["value"].mean()
    np.testing.assert_allclose(means, run.layers.set_index("layer")["precision"].loc[means.index])


def test_what_was_not_counted_is_no_zero(run: ProbeRun):
    lost = changed(run, of(run, "tiny") & (run.scores["scene"] == "room-0"), value=np.nan, count=0)
    table = tables.profile(lost).set_index(["model", "layer"]).loc[("tiny", 10)]
    kept = (
        tables.profile(changed(run, run.scores["scene"] == "room-0", count=0))
        .set_index(["model", "layer"])
        .loc[("tiny", 10)]
    )
    assert table["scenes"] == 5
    assert table["value"] == kept["value"]
    assert count_missing(lost.scores).set_index("metric").loc["precision@5%", "missing"] > 0
    assert run.missing["missing"].sum() == 0


def test_matchers_start_with_the_model_and_end_with_the_ceiling(run: ProbeRun):
    table = tables.matchers(run)
    assert table["model"].tolist()[:3] == ["tiny", "tiny: random weights", "tiny: cameras only"]
    assert table["model"].tolist()[-1] == CEILING
    assert set(table.loc[table["layer"] != NO_LAYER, "layer"]) == {10}


def test_thresholds_leave_out_coverage(ratio_folder: Path):
    run = read_run(ratio_folder)
    assert set(tables.thresholds(run)["metric"]) == {
        "precision@2%",
        "precision@5%",
        "precision@10%",
        "precision@1token",
    }


def by_layer(run: ProbeRun) -> ProbeRun:
    """The run with chance and same position on the queries of each layer: twice those of its grid for layer 7."""
    scores = run.scores
    guesses = scores["model"].isin([UNIFORM, SAME_POSITION])
    rows = [scores[~guesses]]
    for layer, grid in tables.layer_grids(run).items():
        own = scores[guesses & (scores["grid"] == grid)]
        rows.append(own.assign(layer=layer, value=own["value"] * (2 if layer == 7 else 1)))
    return replace(run, scores=pd.concat(rows, ignore_index=True))


def test_references_of_a_layer_stand_beside_that_layer_alone(ratio_folder: Path):
    plain = read_run(ratio_folder)
    run = by_layer(replace(plain, selection={**plain.selection, "layer": 7}))
    assert run.model == plain.model
    one, two = (tables.profile(x).set_index(["model", "layer"])["value"].sort_index() for x in (plain, run))
    assert set(one.index) == set(two.index)
    for model in (UNIFORM, SAME_POSITION):
        assert two[model, 7] == pytest.approx(2 * one[model, 7])
        others = [layer for layer in one[model].index if layer != 7]
        assert two[model][others].tolist() == pytest.approx(one[model][others].tolist())
    assert two[CEILING].tolist() == pytest.approx(one[CEILING].tolist())
    for table in (tables.thresholds(run), tables.coverage(run).rename(columns={"who": "model"})):
        assert {UNIFORM, SAME_POSITION, CEILING} <= set(table["model"])
    chosen = tables.matchers(run).set_index(["model", "layer"])["value"]
    assert chosen[UNIFORM].index.tolist() == [7]
    assert chosen[UNIFORM, 7] == pytest.approx(two[UNIFORM, 7])
    seen = rotation.verdicts(run).dropna(subset=["chance"]).set_index("rotation_bin")
    old = rotation.verdicts(replace(plain, selection=run.selection)).set_index("rotation_bin")
    assert seen["chance"].tolist() == pytest.approx((2 * old["chance"])[seen.index].tolist())
    assert seen["same_position"].tolist() == pytest.approx((2 * old["same_position"])[seen.index].tolist())
    worst = tables.worst_pairs(run)
    assert not worst.duplicated(["scene", "query_view", "key_view"]).any()
    assert worst["same_position"].notna().all()


def test_the_answer_says_which_points_guesses_stand_for(run: ProbeRun, ratio_folder: Path):
    plain = read_run(ratio_folder)
    assert any("On the same points a uniform guess" in line for line in answer(by_layer(plain)))
    assert any("On all points, kept or not, a uniform guess" in line for line in answer(plain))
    assert any("best possible token, on points of its choice," in line for line in answer(plain))
    (line,) = (line for line in answer(run) if "a uniform guess" in line)
    assert line.startswith("On the same points")
    assert "choice" not in line


def test_coverage_belongs_to_the_ratio_protocol(run: ProbeRun, ratio_folder: Path):
    assert tables.coverage(run).empty
    table = tables.coverage(read_run(ratio_folder))
    assert table["who"].iloc[0] == "layer 10"
    assert sorted(table["coverage"].unique()) == [0.1, 0.5, 1.0]


# --- rotation --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mine", "null", "verdict"), [(0.5, 0.2, "above"), (0.2, 0.5, "below"), (0.3, 0.3, "not separable from")]
)
def test_verdict_of_constant_scores(run: ProbeRun, mine: float, null: float, verdict: str):
    run = changed(changed(run, of(run, "tiny"), value=mine), of(run, SAME_POSITION), value=null)
    table = rotation.verdicts(run)
    measured = table[table["units"] >= 5]
    assert len(measured)
    assert set(measured["verdict"]) == {verdict}
    np.testing.assert_allclose(measured["difference"], mine - null, atol=1e-12)
    assert (measured["low"] < measured["difference"]).all()  # shares of so few points are not sure
    assert (measured["difference"] < measured["high"]).all()


def test_one_scene_separates_nothing(run: ProbeRun):
    one = changed(run, of(run, "tiny"), value=0.9)
    one = replace(one, scores=one.scores[one.scores["scene"] == "room-0"])
    table = rotation.verdicts(one)
    assert set(table.loc[table["scenes"] == 1, "verdict"]) == {"too few units to compare with"}


def test_an_empty_bin_stays_as_missing(run: ProbeRun):
    far = changed(run, (run.scores["rotation_deg"] >= 30) & (run.scores["rotation_deg"] < 60), value=np.nan, count=0)
    table = rotation.verdicts(far).set_index("rotation_bin")
    assert table.loc["30-60", "verdict"] == "not measured"
    assert np.isnan(table.loc["30-60", "value"])
    assert rotation.pair_counts(far).set_index("rotation_bin").loc["30-60", "measured"] == 0
    wide = rotation.rotation(far).set_index(["who", "rotation_bin"])
    assert np.isnan(wide.loc[("layer 10", "30-60"), "value"])
    assert wide.loc[("layer 10", "30-60"), "count"] == 0


def test_pair_counts_add_up(run: ProbeRun):
    table = rotation.pair_counts(run)
    assert table["listed"].sum() == len(run.pairs)
    assert table["measured"].sum() == 6 * 2  # scenes times target views, each looked up in the one reference
    mine = run.headline[(run.headline["model"] == "tiny") & (run.headline["layer"] == 10)]
    assert table["count"].sum() == mine["count"].sum()


def test_leads_are_over_the_strongest_null_and_the_matchers_of_the_layers_grid(run: ProbeRun):
    """Over pixels at all its timesteps; over random weights at those that these were scored at."""
    table = leads(run).set_index("model")
    assert list(table.index) == [SAME_POSITION, "tiny: random weights", "pixels", "dsift"]
    assert table.loc[SAME_POSITION, "value"] == run.layers.set_index("layer").loc[10, "lead"]
    mine = run.headline[(run.headline["model"] == "tiny") & (run.headline["layer"] == 10)]
    pixels = run.headline[(run.headline["model"] == "pixels") & (run.headline["grid"] == run.grid)]
    expected = np.average(mine["value"], weights=mine["count"]) - np.average(pixels["value"], weights=pixels["count"])
    assert table.loc["pixels", "value"] == pytest.approx(expected)
    assert (table["low"] < table["value"]).iloc[1:].all()
    name = "tiny: random weights"
    once = replace(run, scores=run.scores[(run.scores["model"] != name) | (run.scores["timestep"] == 500)])
    random = once.headline[(once.headline["model"] == name) & (once.headline["layer"] == 10)]
    then = mine[mine["timestep"] == 500]
    expected = np.average(then["value"], weights=then["count"]) - np.average(random["value"], weights=random["count"])
    assert leads(once).set_index("model").loc[name, "value"] == pytest.approx(expected)


def test_the_table_of_matchers_shows_leads_on_the_layers_grid_alone(run: ProbeRun):
    table = text_tables(run)["matchers"]
    lead = table.columns.index("lead of the layer")
    assert {row[lead] == "–" for row in table.rows if row[0] == "pixels" and row[2] == run.grid} == {False}
    assert {row[lead] == "–" for row in table.rows if row[0] == "pixels" and row[2] != run.grid} == {True}
