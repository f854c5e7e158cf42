"""The table of hidden queries: how each layer looks at what a key view shows and does not show, with intervals."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from probe.records.intervals import Ratios, ratios, summarise, wide
from probe.records.names import (
    AT_PROJECTION,
    CAUSES,
    CONFIDENT,
    HIDDEN_CAUSES,
    HIDDEN_METRICS,
    VISIBLE,
    split_queries,
)
from probe.records.table import unit_sums

CALL = ["model", "layer", "layer_name", "grid", "head", "timestep"]
"""Columns that name what was measured: one layer and head of a model at a timestep."""
SHARES = (CONFIDENT, AT_PROJECTION)
"""Metrics that are shares of the queries; the others are means."""
HIDDEN_COLUMNS = (
    *CALL, "metric", "cause", "value", "low", "high", "over_visible", "over_visible_low", "over_visible_high",
    "scenes", "units", "count",
)  # fmt: skip


def hidden_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Average over scenes, with 95 % intervals over independent units.

    Args:
        rows: Of :func:`probe.measure.hidden.hidden_rows`, as a score table, of the directions that count.

    Returns:
        :data:`HIDDEN_COLUMNS`: one row per layer, head (-1: all together), timestep, metric and cause. ``over_visible``
        is the difference to the visible queries of the same call, paired by unit; NaN for visible and unknown ones.
        Where nothing counted, the value is NaN and the count 0; below five units the interval is NaN.
    """
    names = rows["metric"].astype(str).map(split_queries)
    rows = rows.assign(metric=names.str[0], cause=names.str[1])
    measured = pd.concat([_measured(part, shares) for shares, part in _by_kind(rows)], ignore_index=True)
    every = _calls(rows).merge(rows[["metric", "cause"]].drop_duplicates(), how="cross")
    table = every.merge(measured, on=[*CALL, "metric", "cause"], how="left")
    counts = ["scenes", "units", "count"]
    table[counts] = table[counts].fillna(0).astype(int)
    order = {name: n for n, name in enumerate((*HIDDEN_METRICS, *CAUSES))}
    keys = [*CALL[:2], "head", "timestep", "metric", "cause"]
    ordered = table.sort_values(keys, key=lambda part: part.map(lambda name: order.get(name, name)), kind="stable")
    return ordered[list(HIDDEN_COLUMNS)].reset_index(drop=True)


def _calls(rows: pd.DataFrame) -> pd.DataFrame:
    calls = rows[CALL].drop_duplicates()
    return calls.astype(dict.fromkeys(("model", "layer_name", "grid"), str))


def _by_kind(rows: pd.DataFrame) -> Iterator[tuple[bool, pd.DataFrame]]:
    """Part shares from means, whose intervals are others."""
    share = rows["metric"].isin(SHARES)
    yield from ((kind, rows[share == kind]) for kind in (True, False) if (share == kind).any())


def _measured(rows: pd.DataFrame, shares: bool) -> pd.DataFrame:
    """Average the rows, and add how far hidden queries are from visible ones."""
    keys = [*CALL, "metric", "cause"]
    table = summarise(rows, keys, shares=shares)
    over = _over_visible(unit_sums(rows, keys), shares)
    text = dict.fromkeys(("model", "layer_name", "grid"), str)
    return table.astype(text).merge(over.astype(text), on=keys, how="left")


def _over_visible(sums: pd.DataFrame, shares: bool) -> pd.DataFrame:
    """Subtract visible from hidden queries, cause by cause, on the units that count both."""
    same = [*CALL, "metric"]
    groups = sums.groupby(same, observed=True, sort=True)
    named, sums = groups.size().reset_index()[same], sums.assign(group=groups.ngroup())
    units, order = sorted(sums["unit"].unique()), range(len(named))
    hits, counts = _of_cause(sums, VISIBLE, order, units)
    parts = []
    for cause in HIDDEN_CAUSES:
        own_hits, own_counts = _of_cause(sums, cause, order, units)
        both = (counts > 0) & (own_counts > 0)
        change = _difference((own_hits * both, own_counts * both), (hits * both, counts * both), shares)
        ends = {"over_visible": change.value, "over_visible_low": change.low, "over_visible_high": change.high}
        parts.append(named.assign(cause=cause, **ends))
    return pd.concat(parts, ignore_index=True)


def _of_cause(
    sums: pd.DataFrame, cause: str, order: Sequence[int], units: Sequence[object]
) -> tuple[np.ndarray, np.ndarray]:
    return wide(sums[sums["cause"] == cause], "group", order, units)


def _difference(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray], shares: bool) -> Ratios:
    return ratios(*one, shares=shares) - ratios(*other, shares=shares)
