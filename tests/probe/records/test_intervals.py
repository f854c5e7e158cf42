"""Laws of the intervals: of ratios over independent units, singly and jointly."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, chi2, norm
from scipy.stats import t as student

from benchmarks.intervals import above_same_position, coverage, family_error, shapes
from probe.records import summarise
from probe.records.intervals import (
    INTRACLASS,
    OWN_VARIANCE,
    SKEW,
    Ratios,
    all_pairs,
    half_width,
    interval,
    join_columns,
    joint_widening,
    ratios,
    wide,
)
from probe.records.table import unit_sums

HITS = np.array([3.0, 10, 0, 7, 25, 12])
COUNTS = np.array([20.0, 30, 10, 20, 40, 25])
UNITS = np.arange(6)
ROWS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(0, 9)), min_size=1, max_size=25)


def slow_interval(hits: list[float], counts: list[float], *, share: bool = True) -> tuple[float, float, float]:
    """The rule of the module's first lines, unit by unit; every unit has a count."""
    size, total = len(hits), sum(counts)
    ratio = sum(hits) / total
    moves = [(h - ratio * c) / ((1 - c / total) * total) for h, c in zip(hits, counts, strict=True)]
    squares = sum(move**2 for move in moves)
    error = math.sqrt((size - 1) / size * squares)
    skew = sum(move**3 for move in moves) / squares**1.5 if squares else 0.0
    error *= 1 + SKEW * abs(skew)
    freedom = max(1 / sum((c / total) ** 2 for c in counts) - 1, 1)
    quantile = student.ppf(0.975, freedom)
    if not share:
        return ratio, ratio - quantile * error, ratio + quantile * error
    agreed = total / (1 + INTRACLASS * (total / size - 1)) if ratio in (0, 1) else total
    trials = min(ratio * (1 - ratio) / error**2 * (norm.ppf(0.975) / quantile) ** 2 if error else math.inf, agreed)
    good = ratio * trials
    low = beta.ppf(0.025, good, trials - good + 1) if ratio > 0 else 0.0
    high = beta.ppf(0.975, good + 1, trials - good) if ratio < 1 else 1.0
    return ratio, low, high


# One ratio


def test_the_interval_is_that_of_a_slow_loop():
    assert interval(HITS, COUNTS, UNITS) == pytest.approx(slow_interval(list(HITS), list(COUNTS)))
    assert interval(HITS - 5, COUNTS, UNITS) == pytest.approx(slow_interval(list(HITS - 5), list(COUNTS), share=False))


@settings(max_examples=60, deadline=None)
@given(rows=ROWS)
def test_rows_of_a_unit_count_together_and_in_any_order(rows: list[tuple[int, int, int]]):
    hits, misses, units = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    found = interval(hits, hits + misses, units)
    table = pd.DataFrame({"h": hits, "c": hits + misses, "u": units}).query("c > 0").groupby("u").sum()
    if table.empty:
        assert np.isnan(found).all()
        return
    assert found.estimate == pytest.approx(table["h"].sum() / table["c"].sum())
    if len(table) < 5:
        assert math.isnan(found.low)
        assert math.isnan(found.high)
    else:
        assert found == pytest.approx(slow_interval(list(table["h"]), list(table["c"])), abs=1e-9)
        assert 0 <= found.low <= found.estimate <= found.high <= 1
    order = np.random.default_rng(0).permutation(len(rows))
    again = interval(hits[order], (hits + misses)[order], units[order])
    assert again == pytest.approx(found, nan_ok=True)
    missed = interval(misses, hits + misses, units)  # what is not hit is missed
    assert missed == pytest.approx((1 - found.estimate, 1 - found.high, 1 - found.low), nan_ok=True, abs=1e-9)


def test_below_five_units_there_is_an_estimate_and_no_interval():
    found = interval(HITS[:4], COUNTS[:4], UNITS[:4])
    assert found.estimate == 0.25
    assert np.isnan(found[1:]).all()
    assert np.isfinite(interval(HITS[:5], COUNTS[:5], UNITS[:5])[1:]).all()
    assert np.isnan(interval(HITS, COUNTS, np.zeros(6))[1:]).all()


def test_what_is_unknown_or_uncounted_is_left_out():
    hits, counts = np.append(HITS, [math.nan, 0]), np.append(COUNTS, [9, 0])
    assert interval(hits, counts, np.arange(8)) == interval(HITS, COUNTS, UNITS)
    assert np.isnan(interval(np.zeros(3), np.zeros(3), np.arange(3))).all()


def test_no_hit_at_all_does_not_prove_a_zero():
    """Clopper and Pearson's bound for as many trials as six units of 30 are worth at an intraclass correlation .05."""
    trials = 180 / (1 + INTRACLASS * 29)
    found = interval(np.zeros(6), np.full(6, 30), UNITS)
    assert found == pytest.approx((0, 0, 1 - 0.025 ** (1 / trials)))
    assert interval(np.full(6, 30), np.full(6, 30), UNITS) == pytest.approx((1, 0.025 ** (1 / trials), 1))


def test_shares_are_never_surer_than_independent_trials():
    """All units agree: bounded as 6 x 30 trials, whole hits or not."""
    found = interval(np.full(6, 12.0), np.full(6, 30), UNITS)
    assert found == pytest.approx((0.4, beta.ppf(0.025, 72, 109), beta.ppf(0.975, 73, 108)))
    half = interval(np.full(6, 12.5), np.full(6, 30), UNITS)
    assert half == pytest.approx((75 / 180, beta.ppf(0.025, 75, 106), beta.ppf(0.975, 76, 105)))
    assert interval(np.full(6, -1.0), np.full(6, 30), UNITS) == pytest.approx((-1 / 30,) * 3)  # no share


def test_half_a_width_is_students():
    assert half_width(2.0, 5.0) == pytest.approx(2.7764451 * 2 / math.sqrt(5))
    assert np.isnan(half_width(2.0, math.nan))


# Many ratios


def test_a_difference_is_paired():
    """What all units share does not widen the difference; of equal columns it is zero without any width."""
    found = ratios(np.stack([HITS, HITS + 1], 1), np.stack([COUNTS] * 2, 1), shares=False)
    change = found.columns([1, 0]) - found.columns([0, 0])
    assert change.value == pytest.approx([6 / 145, 0])
    assert (change.low[1], change.high[1]) == (0, 0)
    assert (change.low[0], change.high[0]) == pytest.approx(slow_interval([1.0] * 6, list(COUNTS), share=False)[1:])


def test_a_difference_of_shares_is_no_surer_than_the_trials_that_differ():
    """One hit more of 30 in each of six units: six of 180 trials differ, and all units agree."""
    one, other = (ratios(np.full((6, 1), hits), np.full((6, 1), 30.0)) for hits in (4.0, 3.0))
    half = student.ppf(0.975, 5) * math.sqrt((1 / 30) / 180)
    change = one - other
    assert (change.low[0], change.high[0]) == pytest.approx((1 / 30 - half, 1 / 30 + half))


def test_a_difference_keeps_the_ends_of_both_sides():
    """Zou and Donner: where nothing is shared the squared distances add; a side that is known adds nothing."""
    one, other = (ratios(part[:, None], np.full((4, 1), 20.0).repeat(2, 0)) for part in (
        np.array([2.0, 4, 2, 4, 2, 4, 2, 4]), np.array([1.0, 1, 3, 3, 1, 1, 3, 3])))  # fmt: skip
    change = one.ahead_of(other)
    down = math.hypot(one.value[0] - one.low[0], other.high[0] - other.value[0])
    up = math.hypot(one.high[0] - one.value[0], other.value[0] - other.low[0])
    assert (change.low[0], change.high[0]) == pytest.approx((change.value[0] - down, change.value[0] + up))
    low, high = change.widened(1.5)
    assert (low[0], high[0]) == pytest.approx((change.value[0] - 1.5 * down, change.value[0] + 1.5 * up))


def test_what_both_sides_share_narrows_their_lead():
    """The same ends, less twice the correlation over units times both: by hand, and in the other unit's order wider."""
    one = ratios(np.array([2.0, 9, 3, 12, 5, 10])[:, None], np.full((6, 1), 20.0))
    other = ratios(np.array([1.0, 5, 2, 8, 3, 6])[:, None], np.full((6, 1), 20.0))
    moves = [side.influence[:, 0] for side in (one, other)]
    correlation = (moves[0] @ moves[1]) / math.sqrt((moves[0] @ moves[0]) * (moves[1] @ moves[1]))
    assert correlation > 0.9
    first, second = one.value[0] - one.low[0], other.high[0] - other.value[0]
    down = math.sqrt(first**2 + second**2 - 2 * correlation * first * second)
    lead = one.ahead_of(other)
    assert lead.low[0] == pytest.approx(lead.value[0] - down)
    against = ratios(np.array([6.0, 3, 8, 2, 5, 1])[:, None], np.full((6, 1), 20.0))
    assert one.ahead_of(against).low[0] < lead.low[0] - 0.1


def test_a_difference_is_no_surer_than_its_hits():
    """Five units of ten queries, one hit each against none, do not show a lead, though all units agree."""
    one, none = (ratios(np.full((5, 1), hits), np.full((5, 1), 10.0)) for hits in (1.0, 0.0))
    assert (one - none).low[0] < 0
    assert one.ahead_of(none).low[0] < 0


def test_pairs_of_columns_stand_in_order():
    found = ratios(np.stack([HITS, HITS + 1, HITS / 2], 1), np.stack([COUNTS] * 3, 1))
    assert all_pairs(found).value == pytest.approx(
        [found.value[a] - found.value[b] for a, b in ((0, 1), (0, 2), (1, 2))]
    )
    assert all_pairs(found.columns([0])).value.shape == (0,)


def test_a_column_has_its_interval_whatever_stands_beside_it():
    beside = np.random.default_rng(0).integers(0, 10, (6, 3)).astype(float)
    found = ratios(np.column_stack([beside, HITS]), np.column_stack([np.full((6, 3), 10.0), COUNTS]))
    assert (found.low[3], found.high[3]) == interval(HITS, COUNTS, UNITS)[1:]


def columns_of(influence: np.ndarray, freedom: float = 1e6) -> Ratios:
    size = influence.shape[1]
    nothing = np.zeros(size)
    return Ratios(value=nothing, low=nothing, high=nothing, influence=influence, units=np.full(size, len(influence)),
                  freedom=np.full(size, freedom), trials=np.full(size, np.inf))  # fmt: skip


def test_many_units_are_drawn_block_by_block_to_the_same_width(monkeypatch: pytest.MonkeyPatch):
    columns = columns_of(np.random.default_rng(3).standard_normal((30, 6)), freedom=9.0)
    whole = joint_widening(columns)
    monkeypatch.setattr("probe.records.intervals.MANY", 7)  # five blocks, the last one shorter
    assert joint_widening(columns) == pytest.approx(whole, rel=1e-12)
    assert whole > 1.1


def test_known_joint_widenings():
    """Nothing to join; ten independent columns (Sidak); equal columns are one, but for their variance estimates."""
    random = np.random.default_rng(0)
    assert joint_widening(columns_of(random.standard_normal((50, 1)))) == 1
    assert joint_widening(columns_of(np.zeros((50, 4)))) == 1
    sidak = norm.ppf((1 + 0.95**0.1) / 2) / norm.ppf(0.975)
    assert joint_widening(columns_of(random.standard_normal((3000, 10)))) == pytest.approx(sidak, abs=0.03)
    same = np.repeat(random.standard_normal((3000, 1)), 10, axis=1)
    assert joint_widening(columns_of(same)) == pytest.approx(1, abs=0.03)
    own, common = (chi2.rvs(4, size=(200_000, size), random_state=1) / 4 for size in (10, 1))
    spread = np.sqrt(own**OWN_VARIANCE * common ** (1 - OWN_VARIANCE))
    for columns, drawn in (
        (random.standard_normal((3000, 10)), random.standard_normal((200_000, 10))),
        (same, random.standard_normal((200_000, 1))),
    ):
        expected = np.quantile((np.abs(drawn) / spread).max(1), 0.95) / student.ppf(0.975, 4)
        assert joint_widening(columns_of(columns, freedom=4.0)) == pytest.approx(expected, rel=0.05)


def test_a_difference_has_the_freedom_of_the_less_even_side():
    even, odd = (ratios(HITS[:, None], part[:, None]) for part in (np.full(6, 30.0), COUNTS))
    assert even.freedom == pytest.approx(5)
    assert odd.freedom < 5
    assert (even - odd).freedom == (odd - even).freedom == odd.freedom


def test_columns_join_as_they_are():
    left, right = (ratios(part[:, None], COUNTS[:, None]) for part in (HITS, HITS / 2))
    both = join_columns([left, right])
    together = ratios(np.column_stack([HITS, HITS / 2]), np.column_stack([COUNTS] * 2))
    for name in ("value", "low", "high", "influence", "units", "freedom"):
        assert getattr(both, name) == pytest.approx(getattr(together, name))


# Tables


def table_of(rows: list[tuple[str, str, str, float, int]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["group", "scene", "unit", "value", "count"])


def test_a_table_is_summarised_group_by_group():
    rows = [("a", f"s{k}", f"u{k}", h / c, int(c)) for k, (h, c) in enumerate(zip(HITS, COUNTS, strict=True))]
    beside = [("b", f"s{k}", f"u{k}", 0.5, 4) for k in range(3)]
    found = summarise(table_of([*beside, *rows]), ["group"]).set_index("group")
    assert found.loc["a", ["value", "low", "high"]].tolist() == pytest.approx(interval(HITS, COUNTS, UNITS))
    assert found.loc["a", ["scenes", "units", "count"]].tolist() == [6, 6, 145]
    assert found.loc["b", ["value", "units", "count"]].tolist() == [0.5, 3, 12]
    assert found.loc["b", ["low", "high"]].isna().all()
    pd.testing.assert_frame_equal(found.loc[["a"]], summarise(table_of(rows), ["group"]).set_index("group"))


def test_scenes_of_one_recording_are_one_unit():
    rows = [("a", f"s{k}", f"u{k // 2}", 0.1 * k, 10) for k in range(8)]
    found = summarise(table_of(rows), ["group"]).iloc[0]
    assert (found["scenes"], found["units"]) == (8, 4)
    assert np.isnan(found["low"])
    alone = summarise(table_of(rows).drop(columns="unit"), ["group"]).iloc[0]  # an older table: scenes are units
    assert alone["units"] == 8
    assert alone["low"] < 0.35 < alone["high"]


def test_means_of_anything_are_bounded_on_their_own_scale():
    rows = [("a", f"s{k}", f"u{k}", value, 1) for k, value in enumerate((0.1, 0.2, 0.15, 0.3, 0.1))]
    found = summarise(table_of(rows), ["group"], shares=False).iloc[0]
    assert found[["value", "low", "high"]].tolist() == pytest.approx(
        slow_interval([0.1, 0.2, 0.15, 0.3, 0.1], [1.0] * 5, share=False)
    )


def test_rows_that_counted_nothing_name_no_scene_and_no_unit():
    rows = [("a", "s", "u", 0.5, 4), ("a", "t", "v", 0.7, 0), ("b", "s", "u", 0.9, 0)]
    sums = unit_sums(table_of(rows), ["group"])
    assert sums[["group", "unit", "hits", "count", "scenes"]].to_numpy().tolist() == [["a", "u", 2.0, 4, 1]]


def test_sums_are_laid_out_in_the_order_that_was_named():
    sums = unit_sums(table_of([("a", "s", "u", 0.5, 4), ("b", "s", "v", 1.0, 2)]), ["group"])
    hits, counts = wide(sums, "group", ["b", "a", "b", "c"], ["v", "w", "u"])
    assert hits.tolist() == [[2, 0, 2, 0], [0, 0, 0, 0], [0, 2, 0, 0]]
    assert counts.tolist() == [[2, 0, 2, 0], [0, 0, 0, 0], [0, 4, 0, 0]]
    assert [part.shape for part in wide(sums[:0], "group", ["a"], ["u", "v"])] == [(2, 1)] * 2


# By simulation


@pytest.mark.parametrize("name", ["layer 12", "layer 8"])
def test_five_units_are_covered(name: str):
    assert coverage(shapes()[name], units=5, runs=2000) > 0.92


@pytest.mark.slow
@pytest.mark.parametrize("units", [5, 6, 8, 12, 16, 32])
def test_coverage_is_at_least_93_percent(units: int):
    found = {name: coverage(shape, units=units, runs=8000) for name, shape in shapes().items()}
    assert min(found.values()) > 0.93 - 0.006, found  # two standard errors of the simulation


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("units", [5, 16])
def test_equal_layers_are_rarely_told_apart(units: int):
    found = family_error(units=units, runs=400)
    assert max(found.values()) < 0.05 + 0.022, found  # two standard errors of the simulation


@pytest.mark.long
@pytest.mark.slow
def test_a_same_position_that_differs_between_bins_is_rarely_beaten_by_luck():
    """Not wholly cured (docs/log.md): its rare good scenes may be missing from few."""
    assert above_same_position(units=16, runs=400, rho=0.1) < 0.07
