"""The table of activation patching: what a layer does with another run's attention, with intervals, and in words."""

from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from probe.records.intervals import FEW, Ratios, joint_widening, ratios, summarise, wide
from probe.records.names import ALL_HEADS
from probe.records.table import unit_sums

Donor = Literal["clean", "another"]
"""Whose attention is read: the same scene's at little noise, or another scene's."""
Part = Literal["queries", "keys", "values", "matching", "content", "output"]
"""What is read of it; matching are the logits between views, content keys and values."""
Measure = Literal["error", "moved"]
CLEAN, ANOTHER = get_args(Donor)
ERROR, MOVED = get_args(Measure)
WHOLE_LAYER, TRUE_MATCH, WRONG_MATCH = "all", "true match", "equal distance"
"""Which tokens are patched: all; or a few of the reference views, by what they are to the query that is looked at."""
COLUMNS = ("donor", "part", "tokens", "layer", "head", "timestep", "scene", "unit", "measure", "value", "count")
NAMES = {
    "donor": get_args(Donor),
    "part": get_args(Part),
    "tokens": (WHOLE_LAYER, TRUE_MATCH, WRONG_MATCH),
    "measure": get_args(Measure),
}
"""What columns of text hold."""
PLACE = ["donor", "part", "layer", "head", "timestep", "measure"]


def patching_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Average what patching whole layers changes over scenes.

    Args:
        rows: Columns :data:`COLUMNS`.

    Returns:
        Columns donor, part, layer, head, timestep, measure, value, low, high (95 % over independent units; NaN below
        five), scenes, units, count. What could not be measured is absent.
    """
    whole = rows[rows["tokens"] == WHOLE_LAYER]
    return summarise(whole.assign(unit=whole["unit"].astype(str)), PLACE, shares=False).reset_index(drop=True)


def matches_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Compare patching the true match with patching a token of equal distance, paired by independent unit.

    Args:
        rows: Columns :data:`COLUMNS`.

    Returns:
        A row per layer and timestep: layer, timestep, true, true_low, true_high, wrong, wrong_low, wrong_high
        (movement of the prediction at the query), ahead (true minus wrong), ahead_low, ahead_high (95 % for all layers
        of the timestep at once), units, count (queries of
        the rarer kind, over all draws). Ends are NaN below five units.
    """
    parts = [
        _of_timestep(part, int(t))
        for t, part in rows[rows["tokens"].isin((TRUE_MATCH, WRONG_MATCH))].groupby("timestep")
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _of_timestep(rows: pd.DataFrame, t: int) -> pd.DataFrame:
    layers = sorted(int(layer) for layer in rows["layer"].unique())
    units = sorted(rows["unit"].astype(str).unique())
    true, wrong = (_moved(rows[rows["tokens"] == tokens], layers, units) for tokens in (TRUE_MATCH, WRONG_MATCH))
    ahead = true - wrong
    low, high = ahead.widened(joint_widening(ahead))
    counted = rows.groupby(["layer", "tokens"])["count"].sum().groupby("layer").min()
    return pd.DataFrame(
        {
            "layer": layers,
            "timestep": t,
            **_ends("true", true.value, true.low, true.high),
            **_ends("wrong", wrong.value, wrong.low, wrong.high),
            **_ends("ahead", ahead.value, low, high),
            "units": np.minimum(true.units, wrong.units),
            "count": counted.reindex(layers).fillna(0).astype(int).to_numpy(),
        }
    )


def _moved(rows: pd.DataFrame, layers: list[int], units: list[str]) -> Ratios:
    named = rows.assign(unit=rows["unit"].astype(str))
    return ratios(*wide(unit_sums(named, ["layer"]), "layer", layers, units), shares=False)


def _ends(name: str, value: np.ndarray, low: np.ndarray, high: np.ndarray) -> dict[str, np.ndarray]:
    return {name: value, f"{name}_low": low, f"{name}_high": high}


# --- words -----------------------------------------------------------------------------------------------------------


def patching_words(table: pd.DataFrame, matches: pd.DataFrame, layer: int) -> tuple[str, ...]:
    """Return what patching says of a layer, and in which layers true matches are read, as far as intervals tell.

    Args:
        table: From :func:`patching_table`.
        matches: From :func:`matches_table`.
        layer: The selected one.
    """
    whole = table[(table["head"] == ALL_HEADS) & (table["measure"] == ERROR) & (table["layer"] == layer)]
    rows = whole.to_dict("records")
    said = [_restored(row) for row in rows if (row["donor"], row["part"]) == (CLEAN, "matching")]
    said += [_replaced(row) for row in rows if (row["donor"], row["part"]) == (ANOTHER, "content")]
    said += _strongest(table, layer)
    return (*said, *(_read(part, int(t)) for t, part in (matches.groupby("timestep") if len(matches) else ())))


def _restored(row: dict[str, Any]) -> str:
    meaning = {1: "better matching there would help", -1: "it would hurt", 0: "no effect is shown"}
    return (
        f"Where target views match other views in layer {row['layer']} as the same scene does at little noise, the "
        f"prediction's error at t = {row['timestep']} changes by {_percent(row)}: {_meaning(row, meaning, -1)}."
    )


def _replaced(row: dict[str, Any]) -> str:
    meaning = {1: "the model reads that layer", -1: "its own content hurts", 0: "no effect is shown"}
    return (
        f"Where they read another scene's keys and values in layer {row['layer']}, the error at t = {row['timestep']} "
        f"changes by {_percent(row)}: {_meaning(row, meaning, 1)}."
    )


def _strongest(table: pd.DataFrame, layer: int) -> list[str]:
    """Return by how much another scene's content raises the error where it is shown to do most, if in another layer."""
    content = (table["donor"] == ANOTHER) & (table["part"] == "content")
    whole = table[content & (table["head"] == ALL_HEADS) & (table["measure"] == ERROR) & table["value"].notna()]
    most = [rows.loc[rows["value"].idxmax()] for _, rows in whole.groupby("timestep") if len(rows) > 1]
    return [
        f"At t = {row['timestep']} another scene's keys and values raise the error most in layer {row['layer']}: "
        f"{_percent(row)}."
        for row in (dict(each) for each in most)
        if row["layer"] != layer and row["low"] > 0
    ]


def _meaning(row: dict[str, Any], meaning: dict[int, str], way: int) -> str:
    """Return what an interval says, or that there is none."""
    return meaning[way * _sign(row["low"], row["high"])] if np.isfinite(row["low"]) else FEW


def _read(rows: pd.DataFrame, t: int) -> str:
    if not np.isfinite(rows["ahead_low"]).any():
        return f"Whether true matches are read at t = {t} cannot be told: {FEW}."
    shown = rows[rows["ahead_low"] > 0]
    if shown.empty:
        which = f"none of {len(rows)} layers is" if len(rows) > 1 else f"layer {rows['layer'].iloc[0]} is not"
        return (
            f"At t = {t} {which} shown to read true matches: patching a query's true match is not shown to move "
            "its prediction more than patching a token of equal distance."
        )
    row = shown.loc[shown["ahead"].idxmax()]
    return (
        f"At t = {t} true matches are read in layer{'s' if len(shown) > 1 else ''} "
        f"{', '.join(str(layer) for layer in shown['layer'])}: patching a query's true match moves its prediction more "
        f"than patching a token of equal distance, in layer {int(row['layer'])} by {row['true']:.1%} of its size "
        f"against {row['wrong']:.1%}."
    )


def _sign(low: float, high: float) -> int:
    return 1 if low > 0 else -1 if high < 0 else 0


def _percent(row: dict[str, Any]) -> str:
    ends = f" ({row['low']:+.1%} to {row['high']:+.1%})" if np.isfinite(row["low"]) else ""
    return f"{row['value']:+.1%}{ends}"
