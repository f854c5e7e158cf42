"""Laws of the table of hidden queries: means and differences over independent units, missing is NaN with count 0."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest

from probe.records.hidden import HIDDEN_COLUMNS, hidden_table
from probe.records.intervals import interval
from probe.records.names import (
    CONFIDENT,
    HIGHEST_WEIGHT,
    OCCLUDED,
    OUT_OF_FRAME,
    SHARE_OF_ENTROPY,
    VISIBLE,
    of_queries,
    split_queries,
)

UNITS = 6
COUNT = 40
Values = Mapping[tuple[str, str], np.ndarray]


def made(values: Values, **call: object) -> pd.DataFrame:
    """Rows of one call: by metric and cause, a value per scene; NaN counts nothing."""
    own = {"model": "tiny", "layer": 3, "layer_name": "mid", "grid": "8x8", "head": -1, "timestep": 500, **call}
    rows = [
        {**own, "metric": of_queries(*name), "scene": f"room-{n}", "unit": f"room-{n}", "value": value,
         "count": 0 if np.isnan(value) else COUNT}
        for name, scenes in values.items()
        for n, value in enumerate(scenes)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def drawn(seed: int, level: float) -> np.ndarray:
    return (level + 0.1 * np.random.default_rng(seed).standard_normal(UNITS)).clip(0, 1)


def row(table: pd.DataFrame, metric: str, cause: str, **call: object) -> pd.Series:
    wanted = (table["metric"] == metric) & (table["cause"] == cause)
    for name, value in call.items():
        wanted &= table[name] == value
    (found,) = table[wanted].to_dict("records")
    return pd.Series(found)


@pytest.fixture(scope="module")
def values() -> Values:
    names = [(metric, cause) for metric in (CONFIDENT, SHARE_OF_ENTROPY) for cause in (VISIBLE, OCCLUDED, OUT_OF_FRAME)]
    values = {name: drawn(seed, 0.3 + 0.1 * seed) for seed, name in enumerate(names)}
    return values | {(CONFIDENT, OUT_OF_FRAME): np.full(UNITS, np.nan)}


def test_values_are_means_with_the_intervals_of_the_suite(values: Values):
    table = hidden_table(made(values))
    assert tuple(table.columns) == HIDDEN_COLUMNS
    for cause in (VISIBLE, OCCLUDED):
        found = row(table, CONFIDENT, cause)
        hits = values[CONFIDENT, cause] * COUNT
        assert tuple(found[["value", "low", "high"]]) == pytest.approx(
            tuple(interval(hits, np.full(UNITS, COUNT), np.arange(UNITS)))
        )
        assert tuple(found[["scenes", "units", "count"]]) == (UNITS, UNITS, UNITS * COUNT)


def test_what_was_not_counted_is_missing_with_count_0(values: Values):
    found = row(hidden_table(made(values)), CONFIDENT, OUT_OF_FRAME)
    assert found[["value", "low", "high", "over_visible"]].isna().all()
    assert tuple(found[["scenes", "units", "count"]]) == (0, 0, 0)


def test_a_call_that_lacks_a_cause_still_has_its_row(values: Values):
    other = {name: part for name, part in values.items() if name[1] == VISIBLE}
    table = hidden_table(pd.concat([made(values), made(other, layer=5)], ignore_index=True))
    assert len(table) == 2 * len(values)
    assert row(table, SHARE_OF_ENTROPY, OCCLUDED, layer=5)["count"] == 0


def test_differences_to_visible_queries_are_paired(values: Values):
    shift = {
        (SHARE_OF_ENTROPY, VISIBLE): values[SHARE_OF_ENTROPY, VISIBLE],
        (SHARE_OF_ENTROPY, OCCLUDED): values[SHARE_OF_ENTROPY, VISIBLE] + 0.125,
    }
    found = row(hidden_table(made(shift)), SHARE_OF_ENTROPY, OCCLUDED)
    assert tuple(found[["over_visible", "over_visible_low", "over_visible_high"]]) == pytest.approx((0.125,) * 3)
    assert found["high"] - found["low"] > 0.01
    visible = row(hidden_table(made(shift)), SHARE_OF_ENTROPY, VISIBLE)
    assert np.isnan(visible["over_visible"])


def test_differences_rest_on_units_that_count_both():
    hidden = np.array([np.nan, 0.5, 0.5, 0.5, 0.5, 0.5])
    visible = np.array([0.9, 0.2, 0.2, 0.2, 0.2, np.nan])
    found = row(
        hidden_table(made({(HIGHEST_WEIGHT, OCCLUDED): hidden, (HIGHEST_WEIGHT, VISIBLE): visible})),
        HIGHEST_WEIGHT,
        OCCLUDED,
    )
    assert found["over_visible"] == pytest.approx(0.3)
    assert np.isnan(found["over_visible_low"])  # four units are too few


def test_shares_stay_within_0_and_1_and_means_need_not():
    few = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.2])
    table = hidden_table(made({(name, OCCLUDED): few for name in (CONFIDENT, HIGHEST_WEIGHT)}))
    assert row(table, CONFIDENT, OCCLUDED)["low"] >= 0
    assert row(table, HIGHEST_WEIGHT, OCCLUDED)["low"] < 0


def test_names_of_metrics_and_causes_are_read_back():
    assert split_queries(of_queries(CONFIDENT, OUT_OF_FRAME)) == (CONFIDENT, OUT_OF_FRAME)
    assert split_queries(CONFIDENT) == (CONFIDENT, "")
