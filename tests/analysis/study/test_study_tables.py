"""Laws of the tables of a study, on hand-made runs: means over seeds, and how soon the plain run is reached."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from finished_runs import STEPS, TRIVIAL, make_run, reach_of
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from scipy import stats

from analysis.study import terminal
from analysis.study.figures import looks
from analysis.study.run import read_study
from analysis.study.seeds import (
    BY_THE_FIRST,
    NEVER,
    NO_GOAL,
    NO_PLAIN,
    FinishedRun,
    average_reach,
    average_seeds,
    first_reach,
    is_compared,
    reach_table,
    read_finished,
    settings_table,
    study_tables,
)
from probe.records.names import STUDY_TABLES, better

VARIANTS = [f"variant-{number}" for number in range(14)]


def finished(variant: str, seed: int, curves: dict[str, Sequence[float]], steps: Sequence[int] = STEPS, **own: object):
    rows = [
        {"step": step, "metric": metric, "value": value}
        for metric, values in curves.items()
        for step, value in zip(steps, values, strict=True)
    ]
    return FinishedRun(variant=variant, seed=seed, settings={"seed": seed, **own}, values=pd.DataFrame(rows))


def table(*runs: FinishedRun) -> pd.DataFrame:
    return study_tables(runs).study


# --- when a curve reaches a goal -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "goal", "higher", "expected", "note"),
    [
        ((8, 10, 14), 11, True, 22.5, ""),  # a quarter of the way from 20 to 30
        ((0.8, 0.5, 0.1), 0.2, False, 27.5, ""),  # three quarters of it, downwards
        ((8, 10, 14), 10, True, 20, ""),  # a tie reaches
        ((8, 10, 14), 8, True, 10, BY_THE_FIRST),
        ((8, 10, 14), 5, True, 10, BY_THE_FIRST),
        ((8, 12, 9), 11, True, 17.5, ""),  # the first time counts, though it falls again
        ((8, math.nan, 12), 10, True, 20, ""),  # what was not measured is bridged
        ((math.nan, 8, 12), 8, True, 20, BY_THE_FIRST),
    ],
)
def test_reach_by_hand(values: Sequence[float], goal: float, higher: bool, expected: float, note: str):
    step, found = first_reach(np.array(STEPS), np.array(values, dtype=float), float(goal), higher=higher)
    assert step == pytest.approx(expected, abs=1e-12)
    assert found == note


@pytest.mark.parametrize(("values", "higher"), [((8, 9, 10), True), ((5, 4, 12), False), ((math.nan,) * 3, True)])
def test_a_goal_that_is_never_reached_is_nan_with_its_reason(values: Sequence[float], higher: bool):
    step, note = first_reach(np.array(STEPS), np.array(values, dtype=float), 11.0 if higher else 3.0, higher=higher)
    assert math.isnan(step)
    assert note == NEVER


def test_variants_are_compared_by_metrics_that_the_plain_run_has_too():
    assert all(is_compared(name) for name in ("psnr", "ssim", "precision_12", "loss", "loss_t900", "match_error"))
    assert not any(is_compared(name) for name in ("readout_12", "attention_12", "copy_psnr", "lpips"))


def test_reach_is_measured_against_the_plain_run_of_the_same_seed():
    reach = reach_table(
        table(
            finished("plain", 0, {"psnr": (6, 8, 10), "loss": (5, 4, 3)}),
            finished("plain", 1, {"psnr": (6, 8, 20), "loss": (5, 4, 1)}),
            finished("cameo", 0, {"psnr": (8, 12, 14), "loss": (4, 2, 1)}),
            finished("cameo", 1, {"psnr": (8, 12, 14), "loss": (4, 2, 1)}),
        )
    )
    first, second = (reach_of(reach, "cameo", "psnr", seed) for seed in (0, 1))
    assert (first["goal"], first["step"], first["ratio"], first["note"]) == (10, 15, 0.5, "")
    assert second["goal"] == 20
    assert second["note"] == NEVER
    assert np.isnan([second["step"], second["ratio"]]).all()
    assert reach_of(reach, "cameo", "loss")["ratio"] == 0.5
    assert reach_of(reach, "cameo", "loss", 1)["ratio"] == 1.0  # a tie at the last step
    assert reach_of(reach, "plain", "psnr", 1)["ratio"] == 1.0


def test_reach_says_why_it_is_missing():
    reach = reach_table(
        table(
            finished("plain", 0, {"psnr": (6, 8, 10), "loss": (5, 4, math.nan)}),
            finished("cameo", 0, {"psnr": (6, 8, 9), "loss": (5, 4, 3), "readout_12": (0.1, 0.2, 0.3)}),
            finished("cameo", 1, {"psnr": (6, 8, 9)}),
        )
    )
    assert reach_of(reach, "cameo", "loss")["note"] == NO_GOAL
    assert reach_of(reach, "cameo", "psnr", 1)["note"] == NO_PLAIN
    assert reach_of(reach, "cameo", "psnr")["note"] == NEVER
    assert reach["ratio"].isna()[reach["variant"] == "cameo"].all()
    assert "readout_12" not in set(reach["metric"])


finite = st.floats(-1e3, 1e3).map(lambda value: round(value, 3))


@given(
    pairs=st.lists(st.tuples(finite, st.floats(0, 10)), min_size=1, max_size=8),
    gap=st.integers(1, 500),
    metric=st.sampled_from(["psnr", "loss", "precision_12"]),
)
@settings(max_examples=50, deadline=None)
def test_a_curve_that_is_never_worse_reaches_the_goal_in_time(pairs: list[tuple[float, float]], gap: int, metric: str):
    """Its ratio is at most the plain run's own, which is at most 1; never NaN."""
    sign, steps = better(metric), [gap * (place + 1) for place in range(len(pairs))]
    plain = [value for value, _ in pairs]
    ahead = [value + sign * lead for value, lead in pairs]
    runs = finished("plain", 0, {metric: plain}, steps), finished("cameo", 0, {metric: ahead}, steps)
    reach = reach_table(table(*runs))
    own, ratio = (reach_of(reach, variant, metric)["ratio"] for variant in ("plain", "cameo"))
    assert 0 < ratio <= own + 1e-12
    assert own <= 1


@given(values=st.lists(finite, min_size=1, max_size=8), goal=finite, higher=st.booleans())
@settings(max_examples=50, deadline=None)
def test_reach_is_the_same_upside_down_and_lies_on_the_curve(values: list[float], goal: float, higher: bool):
    steps, curve = np.arange(1, len(values) + 1) * 10, np.array(values)
    step, note = first_reach(steps, curve, goal, higher=higher)
    np.testing.assert_equal(first_reach(steps, -curve, -goal, higher=not higher), (step, note))
    if not note:
        assert np.interp(step, steps, curve) == pytest.approx(goal, abs=1e-6)


def test_average_reach_counts_who_reached():
    reach = pd.DataFrame(
        {
            "variant": ["cameo"] * 4 + ["mean"],
            "metric": ["psnr"] * 5,
            "goal": [1.0, 1.0, 1.0, math.nan, 1.0],
            "ratio": [0.5, 0.25, math.nan, math.nan, math.nan],
            "note": ["", BY_THE_FIRST, NEVER, NO_PLAIN, NEVER],
        }
    )
    cameo, mean = (row for _, row in average_reach(reach).iterrows())
    assert cameo["ratio"] == pytest.approx((0.5 + 0.25 + 1) / 3)  # one that never reaches it counts as 1, the least
    assert (cameo["reached"], cameo["seeds"], cameo["at_most"]) == (2, 3, True)
    assert (mean["ratio"], mean["reached"], mean["seeds"], mean["at_most"]) == (1, 0, 1, False)


# --- means over seeds ------------------------------------------------------------------------------------------------


@given(values=st.lists(finite, min_size=3, max_size=6).filter(lambda values: np.std(values) > 1e-3))
@settings(max_examples=30, deadline=None)
def test_intervals_are_those_of_scipy(values: list[float]):
    row = average_seeds(
        table(*(finished("plain", seed, {"psnr": [value]}, [10]) for seed, value in enumerate(values)))
    ).iloc[0]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high), rel=1e-9, abs=1e-9)
    assert row["mean"] == pytest.approx(np.mean(values))
    assert row["count"] == len(values)


def test_an_interval_by_hand():
    """Of 1, 2, 3: s = 1, t(.975, 2) = 4.302653, so 2 -+ 4.302653 / sqrt(3)."""
    row = average_seeds(table(*(finished("plain", seed, {"psnr": [seed + 1.0]}, [10]) for seed in range(3)))).iloc[0]
    assert (row["mean"], row["low"], row["high"]) == pytest.approx((2, -0.484138, 4.484138), abs=1e-6)


def test_two_seeds_have_no_interval_and_a_missing_value_does_not_count():
    runs = [finished("plain", seed, {"psnr": [value]}, [10]) for seed, value in enumerate((1.0, 3.0, math.nan))]
    row = average_seeds(table(*runs)).iloc[0]
    assert (row["mean"], row["count"]) == (2, 2)
    assert np.isnan([row["low"], row["high"]]).all()
    nothing = average_seeds(table(*runs[2:])).iloc[0]
    assert math.isnan(nothing["mean"])
    assert nothing["count"] == 0


def test_settings_tell_variants_apart_and_refuse_what_does_not_belong_together():
    one = {"psnr": (1.0, 2.0, 3.0)}
    plain = finished("plain", 0, one, layer="none", mixing="mlp", layers=[], batch_size=3)
    mean = finished("mean", 0, one, layer="12", mixing="mean", layers=["up.2", "up.3"], batch_size=3)
    found = settings_table([plain, mean])
    assert list(found.columns) == ["variant", "layer", "mixing", "layers"]
    assert found.set_index("variant").loc["mean"].tolist() == ["12", "mean", "up.2 up.3"]
    with pytest.raises(ValueError, match=r"runs of mean differ in \['mixing'\] \(seed 1"):
        settings_table(
            [plain, mean, finished("mean", 1, one, layer="12", mixing="mlp", layers=["up.2", "up.3"], batch_size=3)]
        )


def test_a_run_is_read_as_one_long_table(tmp_path: Path):
    make_run(tmp_path / "run", (8, 9, 10), layer="12")
    values = read_finished(tmp_path / "run", "cameo", 3).values
    last = values[values["step"] == 30].set_index("metric")["value"]
    assert last.to_dict() == pytest.approx(
        {"loss": 0.1, "loss_t900": 0.2, "psnr": 10, "ssim": 0.5, "precision_10": 0.1, "precision_12": 0.1, **TRIVIAL}
    )


def test_a_broken_run_is_refused_by_name(tmp_path: Path):
    make_run(tmp_path, (8, 9, 10))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"read_finished: .* is not a whole training run \(KeyError"):
        read_finished(tmp_path, "plain", 0)


# --- figure and terminal ---------------------------------------------------------------------------------------------


def test_variants_look_different_and_alike_in_every_study():
    styles = looks(VARIANTS)
    assert len({tuple(look.values()) for look in styles.values()}) == len(VARIANTS)
    assert len({look["marker"] for look in styles.values()}) == len(VARIANTS)


def test_the_terminal_says_when_a_ratio_is_a_bound(tmp_path: Path):
    runs = [finished("plain", seed, {"psnr": (6, 8, 10)}) for seed in (0, 1)]
    runs += [finished("cameo", seed, {"psnr": (11, 12, 13)}) for seed in (0, 1)]
    tables = study_tables(runs)
    for name in STUDY_TABLES:
        getattr(tables, name).to_csv(tmp_path / f"{name}.csv", index=False)
    console = Console(width=120, record=True)
    console.print(terminal.reach_table(read_study(tmp_path), ["psnr"]))
    lines = [line.split() for line in console.export_text().splitlines()]
    assert ["cameo", "≤", "0.34"] in lines
    assert ["plain,", "other", "seeds", "1.00-1.00"] in lines
