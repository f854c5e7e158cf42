"""Laws of consistency inside and outside: ranks within steps and variants, draws of seeds, sentences."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from analysis import report
from analysis.study.consistency import COLUMNS, OUTSIDE, SCOPES, correlations, points, rank_correlations
from analysis.study.consistency_section import _sentences, consistency_section, consistency_words
from analysis.study.run import StudyRun, read_study
from analysis.study.seeds import average_seeds, reach_table
from benchmarks.consistency import Benchmark, measure
from probe.records import STUDY_TABLES

HOSTILE = "<script>alert('$x')</script>"
LAYERS = {"plain": "none", "cameo": "12", "mean": "12"}
STEPS = (100, 200, 300)
Value = Callable[[str, int, int], float]


def make_run(inside: Value, outside: Value, *, seeds: int = 5, variants: Iterable[str] = tuple(LAYERS)) -> StudyRun:
    """Return a study whose precision of layer 12 and match error are functions of variant, seed and step.

    PSNR and SSIM fall as match error rises; layer 10 is supervised nowhere, and lower throughout.
    """
    rows = []
    for variant in variants:
        for seed in range(seeds):
            for step in STEPS:
                x, y = inside(variant, seed, step), outside(variant, seed, step)
                own = {"precision_12": x, "precision_10": x / 2, "match_error": y, "psnr": 20 - y, "ssim": 1 - y}
                rows += [(variant, seed, step, metric, value) for metric, value in own.items()]
    study = pd.DataFrame(rows, columns=["variant", "seed", "step", "metric", "value"])
    settings = pd.DataFrame({"variant": list(variants), "layer": [LAYERS.get(name, "12") for name in variants]})
    return StudyRun(
        name="made", settings={"layer": 10, "other_layer": 12, "steps": 300, "evaluate_scenes": 16}, environment={},
        study=study, summary=average_seeds(study), reach=reach_table(study), variants=settings, seconds=pd.DataFrame(),
    )  # fmt: skip


def found(run: StudyRun, inside: str = "supervised", metric: str = "match_error") -> pd.DataFrame:
    """Return the correlations of one layer and metric, by scope."""
    table = points(run)
    return correlations(table[(table["inside"] == inside) & (table["metric"] == metric)]).set_index("scope")


def luck(variant: str, seed: int, step: int, draw: int = 0) -> float:
    return float(np.random.default_rng([draw, len(variant), seed, step]).random())


# --- points ----------------------------------------------------------------------------------------------------------


def test_checkpoints_with_both_are_joined_at_each_choice_of_a_layer():
    run = make_run(lambda *_: 0.4, lambda *_: 0.1)
    table = points(run)
    assert len(table) == 3 * 3 * 3 * 5 * 3  # choices, metrics, variants, seeds, steps
    kinds = table.drop_duplicates("inside").set_index("inside")
    assert kinds["precision"].to_dict() == {"supervised": 0.2, "last": 0.4, "best": 0.4}
    assert kinds.loc[["supervised", "last"], "layer"].tolist() == [10, 12]
    assert np.isnan(kinds.loc["best", "layer"])
    assert list(dict.fromkeys(table["metric"])) == list(OUTSIDE)
    assert table.drop_duplicates("variant").set_index("variant")["role"].to_dict() == {
        "plain": "plain", "cameo": "another layer", "mean": "another layer"}  # fmt: skip


def test_a_checkpoint_without_one_of_the_two_is_left_out():
    run = make_run(lambda *_: 0.4, lambda *_: 0.1)
    unprobed = run.study["metric"].str.startswith("precision") & (run.study["step"] == 100)
    run.study.loc[(run.study["metric"] == "psnr") & (run.study["step"] == 200), "value"] = np.nan
    table = points(_with(run, run.study[~unprobed]))
    assert set(table["step"]) == {200, 300}
    assert set(table.loc[table["metric"] == "psnr", "step"]) == {300}


def test_the_last_layer_stands_once_where_it_is_the_supervised_one():
    run = make_run(luck, luck)
    run.settings["layer"] = 12
    assert list(dict.fromkeys(points(run)["inside"])) == ["supervised", "best"]


@pytest.mark.parametrize("start", ["precision", ("match_error", "psnr", "ssim")])
def test_without_either_side_there_is_nothing(start: str | tuple[str, ...]):
    run = make_run(luck, luck)
    run = _with(run, run.study[~run.study["metric"].str.startswith(start)])
    assert points(run).empty
    assert consistency_section(run) is None
    assert consistency_words(run) == ""
    assert list(correlations(points(run)).columns) == COLUMNS


def _with(run: StudyRun, study: pd.DataFrame) -> StudyRun:
    return StudyRun(**{**{name: getattr(run, name) for name in StudyRun.__dataclass_fields__}, "study": study})


# --- correlations ----------------------------------------------------------------------------------------------------


def test_of_one_group_it_is_spearmans_correlation():
    random = np.random.default_rng(0)
    x, y = random.integers(0, 6, 40).astype(float), random.integers(0, 6, 40).astype(float)  # with ties
    once = rank_correlations(x, y, np.zeros(40, int), np.zeros(40, int), np.ones((1, 1)))
    np.testing.assert_allclose(once, spearmanr(x, y).statistic)


def test_of_equal_groups_it_is_the_mean_of_spearmans_correlations():
    random = np.random.default_rng(1)
    x, y, group = random.random(30), random.random(30), np.arange(30) % 3
    each = [spearmanr(x[group == n], y[group == n]).statistic for n in range(3)]
    once = rank_correlations(x + 9 * group, y - 5 * group, group, np.zeros(30, int), np.ones((1, 1)))
    np.testing.assert_allclose(once, np.mean(each))


def test_a_seed_that_is_drawn_twice_counts_as_two():
    random = np.random.default_rng(2)
    x, y, seed, group = random.random(12), random.random(12), np.arange(12) // 4, np.arange(12) % 2
    drawn = rank_correlations(x, y, group, seed, np.array([[2.0, 0.0, 1.0]]))
    rows = np.concatenate([np.arange(4), np.arange(4), np.arange(8, 12)])
    written = rank_correlations(x[rows], y[rows], group[rows], np.zeros(12, int), np.ones((1, 1)))
    np.testing.assert_allclose(drawn, written)


def test_what_does_not_vary_has_no_correlation():
    flat, varying, zeros = np.ones(6), np.arange(6.0), np.zeros(6, int)
    assert np.isnan(rank_correlations(flat, varying, zeros, zeros, np.ones((1, 1)))).all()
    assert np.isnan(rank_correlations(varying, varying, np.arange(6), zeros, np.ones((1, 1)))).all()


def test_any_rising_scale_and_any_order_of_rows_give_the_same():
    run = make_run(luck, lambda *of: luck(*of, 1))
    scaled = run.study.assign(value=run.study["value"].where(run.study["metric"] != "psnr", run.study["value"] ** 3))
    table = correlations(points(run))
    for other in (_with(run, scaled), _with(run, run.study.sample(frac=1, random_state=3))):
        pd.testing.assert_frame_equal(correlations(points(other)), table)


def test_a_lower_match_error_is_the_better_side():
    run = make_run(lambda variant, seed, step: seed / 10, lambda variant, seed, step: -seed)
    assert found(run).loc["plain", ["value", "low", "high"]].tolist() == [1, 1, 1]
    for metric in OUTSIDE:
        assert found(run, metric=metric)["value"].round(12).loc["runs"] == 1
    assert found(make_run(lambda v, seed, t: seed / 10, lambda v, seed, t: seed)).loc["plain", "high"] == -1


def test_training_time_alone_makes_a_correlation_over_all_checkpoints_only():
    run = make_run(lambda *of: of[2] + luck(*of), lambda *of: -of[2] + luck(*of, 1))
    table = found(run)
    assert table.loc["checkpoints", "low"] > 0.5
    assert (table.loc[["runs", "variants"], "low"] < 0).all()
    assert table["value"].loc[["runs", "plain", "variants"]].abs().max() < 0.5


def test_shuffled_runs_within_steps_are_not_connected():
    """A perfect connection across runs goes when outside is that of another run of the step; the pooled one stays."""
    run = make_run(lambda *of: of[2] + luck(*of), lambda *of: -of[2] - luck(*of), seeds=4)
    assert found(run).loc[["runs", "plain", "variants"], "value"].round(12).tolist() == [1, 1, 1]
    table = points(run).query("inside == 'last' and metric == 'psnr'").sort_values("step")
    values = []
    for draw in range(20):
        shuffled = table.sample(frac=1, random_state=draw).sort_values("step", kind="stable")["value"]
        values.append(correlations(table.assign(value=shuffled.to_numpy())).set_index("scope")["value"])
    means = pd.concat(values, axis=1).mean(axis=1)
    assert means["checkpoints"] > 0.8
    assert means[["runs", "plain", "variants"]].abs().max() < 0.15


def simpson(variant: str, seed: int, step: int) -> float:
    return 0.5 * (variant != "plain") + 0.02 * seed


def against(variant: str, seed: int, step: int) -> float:
    """Supervised runs have the lower match error, but within a variant it rises with precision."""
    return -2.0 * (variant != "plain") + 0.02 * seed


def test_a_difference_of_variants_is_told_from_one_within_them():
    table = found(make_run(simpson, against))
    assert table.loc["runs", "low"] > 0
    assert table.loc[["plain", "variants"], "high"].tolist() == [-1, -1]


def test_the_sentence_says_so():
    run = make_run(simpson, lambda *of: against(*of) + 0.3 * luck(*of))
    words = consistency_words(run).replace("\u00a0", " ")
    assert words.startswith(
        "Layer 10, which the study supervises (in brackets: rank correlation, 95 % interval): higher"
    )
    assert "precision goes with lower match error over all checkpoints (0.59, 0.48 to 0.70) and across runs" in words
    assert "No connection with match error is shown within plain runs (−0.27, −1.00 to 0.69)" in words
    assert "could therefore be a mere difference of variants (Simpson's paradox)" in words


def test_a_sign_that_turns_is_named():
    words = consistency_words(make_run(simpson, against))
    assert "Higher precision goes with higher match error within plain runs (−1.00, −1.00 to −1.00)" in words
    assert "Within plain runs and within each variant the sign is the opposite of that across runs." in words
    assert "Simpson" not in words  # the opposite is shown


def test_metrics_that_disagree_are_named():
    table = correlations(points(make_run(lambda *of: luck(*of), lambda *of: -luck(*of))))
    changed = (table["metric"] == "ssim") & (table["scope"] == "plain") & (table["inside"] == "last")
    table.loc[changed, ["value", "low", "high"]] = (0.1, -0.5, 0.6)
    words = _sentences(table)
    assert "The verdicts by PSNR and SSIM are the same." in words[0]
    assert (
        "The verdicts by PSNR are the same. By SSIM the verdict is another one within plain runs (not shown)."
        in words[1]
    )


# --- few runs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seeds", "known", "ends"), [(1, 0, 0), (2, 0, 0), (3, 4, 0), (4, 4, 0), (5, 4, 4)])
def test_few_seeds_have_no_interval_and_fewer_no_value_but_a_count(seeds: int, known: int, ends: int):
    table = found(make_run(luck, lambda *of: luck(*of, 1), seeds=seeds))
    assert table[["value", "low", "high"]].notna().sum().tolist() == [known, ends, ends]
    assert table.loc["runs", ["seeds", "runs", "checkpoints"]].tolist() == [seeds, 3 * seeds, 9 * seeds]
    assert table.loc["supervised", ["seeds", "runs", "checkpoints"]].tolist() == [0, 0, 0]  # another layer's runs


def test_too_few_seeds_are_said_in_one_sentence():
    run = make_run(luck, luck, seeds=3)
    section = consistency_section(run)
    assert section is not None
    assert (section.claim, section.charts, section.tables) == ("", (), {})
    assert section.text == consistency_words(run)
    assert section.text == (
        "With 3 seeds no correlation of precision with match error, PSNR and SSIM of samples is shown, nor that there "
        "is none: an interval over seeds needs 5."
    )


# --- the page --------------------------------------------------------------------------------------------------------


def test_the_section_has_a_figure_and_a_table_of_all_correlations():
    section = consistency_section(make_run(luck, lambda *of: luck(*of, 1)))
    assert section is not None
    assert [chart.name for chart in section.charts] == ["consistency"]
    assert "minus the mean of each step" in section.charts[0].drawing
    table = section.tables["consistency"]
    assert len(table.rows) == 9
    assert len(table.columns) == 2 + len(SCOPES)
    assert {row[5] for row in table.rows} == {"–"}  # no supervised run at layer 10
    assert "within plain runs: 5 seeds, 5 runs, 15 checkpoints" in table.caption


def test_the_page_has_the_section_and_escapes_names(tmp_path: Path):
    run = make_run(luck, lambda *of: luck(*of, 1), variants=("plain", HOSTILE))
    folder = tmp_path / "study"
    folder.mkdir()
    for name, table in zip(STUDY_TABLES, (run.study, run.summary, run.reach, run.variants), strict=True):
        table.to_csv(folder / f"{name}.csv", index=False)
    (folder / "config.json").write_text(json.dumps({"settings": run.settings, "environment": {}}))
    assert read_study(folder).names == ["plain", HOSTILE]
    page = report.build_report(folder).read_text(encoding="utf-8")
    part = page[page.index('<section id="consistency">') :]
    part = part[: part.index("</section>")]
    assert "&lt;script&gt;" in part
    assert HOSTILE not in page


def test_what_is_independent_is_seldom_connected():
    """Of 60 studies in which only variants and training differ; the log has more."""
    shown = measure(5, 4.0, Benchmark(studies=60))
    assert max(shown["plain"], shown["variants"]) <= 0.12
    assert min(shown["checkpoints"], shown["runs"]) >= 0.9
