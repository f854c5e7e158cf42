"""The table of knocking out heads together: the best ones beside as many at random, with intervals, and in words."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from probe.records.intervals import FEW, Ratios, joint_widening, ratios, wide
from probe.records.table import unit_sums

BEST, RANDOM = "best", "random"
"""Which heads a set holds."""
COLUMNS = ("heads", "which", "chosen", "scene", "unit", "value", "count")
NAMES = {"which": (BEST, RANDOM)}
"""What columns of text hold."""


def knockout_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Compare knocking out the best heads with knocking out as many at random, paired by independent unit.

    Args:
        rows: Columns heads (number of them), which (:data:`BEST` or :data:`RANDOM`), chosen (the heads, in words),
            scene, unit, value (mean growth of the error over target views) and count (of these); random sets of one
            number, the same in every scene, are averaged: the intervals are over scenes, not over such sets.

    Returns:
        A row per number of heads: heads, best, best_low, best_high, random, random_low, random_high, ahead (best minus
        random), ahead_low, ahead_high, sets (random ones), sets_above (of these, with a growth of the best's or
        more; NaN where the best's is unknown), scenes, units. The ends of ``ahead`` hold for all numbers at once, the
        others for themselves; NaN below five units.
    """
    numbers = sorted(int(number) for number in rows["heads"].unique())
    units = sorted(rows["unit"].astype(str).unique())
    best, random = (_growth(rows[rows["which"] == which], numbers, units) for which in (BEST, RANDOM))
    ahead = best - random
    low, high = ahead.widened(joint_widening(ahead))
    return pd.DataFrame(
        {
            "heads": numbers,
            **_ends("best", best.value, best.low, best.high),
            **_ends("random", random.value, random.low, random.high),
            **_ends("ahead", ahead.value, low, high),
            "sets": [len(_set_means(rows, number)) for number in numbers],
            "sets_above": [
                float((_set_means(rows, number) >= value).sum()) if np.isfinite(value) else np.nan
                for number, value in zip(numbers, best.value, strict=True)
            ],
            "scenes": rows["scene"].nunique(),
            "units": np.minimum(best.units, random.units),
        }
    )


def _set_means(rows: pd.DataFrame, number: int) -> np.ndarray:
    """Return the mean growth of each random set of a number of heads."""
    sets = rows[(rows["which"] == RANDOM) & (rows["heads"] == number) & (rows["count"] > 0)]
    hits = (sets["value"] * sets["count"]).groupby(sets["chosen"]).sum()
    return (hits / sets.groupby("chosen")["count"].sum()).to_numpy()


def _growth(rows: pd.DataFrame, numbers: Sequence[int], units: Sequence[str]) -> Ratios:
    named = rows.assign(unit=rows["unit"].astype(str))
    return ratios(*wide(unit_sums(named, ["heads"]), "heads", list(numbers), list(units)), shares=False)


def _ends(name: str, value: np.ndarray, low: np.ndarray, high: np.ndarray) -> dict[str, np.ndarray]:
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def knockout_words(table: pd.DataFrame) -> str:
    """Return for which numbers of heads the best ones matter more than every random set, in a sentence."""
    shown = table[(table["ahead_low"] > 0) & (table["sets_above"] == 0)]
    most = table.iloc[-1]
    if not (np.isfinite(most["best"]) and np.isfinite(most["random"])):
        return "What knocking out heads together changes could not be measured."
    first = (
        f"Knocking out the {int(most['heads'])} heads that find correspondences best raises the error of the denoised "
        f"prediction by {most['best']:.1%}, as many others at random by {most['random']:.1%} (mean of "
        f"{int(most['sets'])} sets; {int(most['scenes'])} scenes, of which none ranked the heads)"
    )
    if not np.isfinite(table["ahead_low"]).any():
        return f"{first}; whether the best matter more cannot be told: {FEW} ({int(most['units'])})."
    if shown.empty:
        return f"{first}; for no number of heads are the best shown to matter more than every random set."
    numbers, sets = ", ".join(map(str, shown["heads"])), _span(shown["sets"])
    return (
        f"{first}; for {numbers} heads the best matter more than each of the {sets} different random sets, and than "
        "their mean by an interval over scenes."
    )


def _span(numbers: pd.Series) -> str:
    """Write a number, or the least and the most of several: "16 to 19"."""
    least, most = int(numbers.min()), int(numbers.max())
    return str(least) if least == most else f"{least} to {most}"
