"""What a page shows of a score table: a small part of its rows, and counts of the others."""

from collections.abc import Mapping
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from pyarrow import parquet
from pyarrow.compute import Expression, field, scalar

from probe.records import ALL_HEADS, COMMON_GRID, INTERVENTIONS, REFERENCES, SCORE_COLUMNS
from probe.records.scores import as_frame, row_groups

UNIT = "unit"
READ_COLUMNS = tuple(name for name in SCORE_COLUMNS if name not in ("pair", "layer_name"))
"""Columns of the score table that the page needs."""
COUNTED = ("metric", "value", "count")
NO_STEP = -1


class Shown(NamedTuple):
    """The rows that a page shows; and per metric rows, missing (NaN or nothing counted) and count, of all rows."""

    rows: pd.DataFrame
    missing: pd.DataFrame


def read_shown(path: Path, selection: Mapping[str, Any]) -> Shown:
    """Read what a page shows, each model's last training step; no more than a row group of the rest is in memory.

    Args:
        path: Of the score table; one without units has a unit per scene.
        selection: The chosen layer's metric, direction and protocol.

    Raises:
        ValueError: If the table lacks a column.
    """
    names = parquet.read_schema(path).names
    absent = [name for name in SCORE_COLUMNS if name not in names and name != UNIT]
    if absent:
        raise ValueError(f"it lacks {', '.join(absent)}")
    last, wanted = _last_steps(path), _wanted(selection)
    shown, counts = [], []
    for group in row_groups(path, [name for name in READ_COLUMNS if name in names]):
        kept = group.filter(last)
        counts.append(count_missing(kept.select(COUNTED).to_pandas()))
        shown.append(kept.filter(wanted))
    rows, counted = as_frame(shown), pd.concat(counts).groupby("metric").sum().reset_index()
    return Shown(rows if UNIT in rows else rows.assign(unit=rows["scene"]), counted)


def no_rows(_: Path) -> Shown:
    """Return no rows, for the index, which shows no scores."""
    return Shown(pd.DataFrame(columns=list(READ_COLUMNS)), pd.DataFrame(columns=["metric", "rows", "missing", "count"]))


def _wanted(selection: Mapping[str, Any]) -> Expression:
    """Return which rows the page shows: of single heads only the metric by which the layer was selected, and edits.

    In other directions that metric alone, since each pair's rotation is read off it.
    """
    together, ranked = field("head") == ALL_HEADS, field("metric") == selection["metric"]
    own, common = (field("protocol") == selection["protocol"] + suffix for suffix in ("", COMMON_GRID))
    way = selection["direction"]
    forward = field("direction").is_valid() if way == "all" else field("direction") == way
    shown = together | ranked | field("model").isin(REFERENCES)
    return (
        (own & forward & shown)
        | (own & ranked & together)
        | (common & forward & ranked & together)
        | (field("protocol") == INTERVENTIONS)
    )


def _last_steps(path: Path) -> Expression:
    """Return which rows are of each model's last training step; one without a step is of the only step there is."""
    steps = pd.concat(group.to_pandas().drop_duplicates() for group in row_groups(path, ("model", "step")))
    last = steps.assign(step=steps["step"].fillna(NO_STEP)).astype({"model": str}).groupby("model")["step"].max()
    return reduce(or_, (_at(model, step) for model, step in last.astype(float).items()), scalar(False))


def _at(model: object, step: float) -> Expression:
    here = field("step") == step
    return (field("model") == model) & (here | field("step").is_null(nan_is_null=True) if step == NO_STEP else here)


def count_missing(rows: pd.DataFrame) -> pd.DataFrame:
    """Count per metric how much could not be measured.

    Args:
        rows: Of the score table: metric, value, count.

    Returns:
        Columns metric (sorted), rows, missing (NaN or nothing counted), count.
    """
    lost = rows["value"].isna() | (rows["count"] == 0)
    table = rows[["metric", "count"]].assign(missing=lost, rows=1).groupby("metric", observed=True).sum()
    table = table[["rows", "missing", "count"]].astype(int).reset_index().astype({"metric": str})
    return table.sort_values("metric", ignore_index=True)
