"""Hits and counts of a probe by independent unit: what precision by rotation, and differences of models, rest on."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.probing.rotation import with_bins
from analysis.probing.tables import ProbeRun
from probe.records import CAMERAS_ONLY, MODEL, NO_LAYER, SAME_POSITION, UNIFORM, rotation_bin_names
from probe.records.intervals import Ratios, joint_widening, ratios, wide
from probe.records.table import unit_sums

SUM_COLUMNS = ("who", "layer", "grid", "rotation_bin", "unit", "hits", "count")
BLIND, ALIKE = CAMERAS_ONLY.removeprefix(": "), "model, at the timesteps of cameras only"
NULLS = {UNIFORM: MODEL, SAME_POSITION: MODEL, BLIND: ALIKE}
"""Nulls, and what of the model stands beside each: it is scored at every timestep, cameras only at one."""


def unit_table(run: ProbeRun) -> pd.DataFrame:
    """Add up a probe's hits and counts, of the model and its nulls.

    Args:
        run: With its score table.

    Returns:
        Columns who, layer (-1: of all layers with this grid), grid, rotation_bin, unit, hits, count.
    """
    rows = with_bins(run.headline)
    own, blind = rows[rows["model"] == run.model], rows[rows["model"] == run.model + CAMERAS_ONLY]
    parts = {
        MODEL: own,
        ALIKE: own[own["timestep"].isin(blind["timestep"].unique())],
        BLIND: blind,
        UNIFORM: rows[rows["model"] == UNIFORM],
        SAME_POSITION: rows[rows["model"] == SAME_POSITION],
    }
    sums = [unit_sums(part, ["layer", "grid", "rotation_bin"]).assign(who=who) for who, part in parts.items()]
    table = pd.concat([each for each in sums if len(each)], ignore_index=True)
    return table[list(SUM_COLUMNS)].astype(dict.fromkeys(("who", "grid", "rotation_bin", "unit"), str))


def bins_of(sums: Sequence[pd.DataFrame]) -> list[str]:
    """Return the rotation bins in which some model was measured, ascending."""
    counted = {name for table in sums for name in table.loc[table["count"] > 0, "rotation_bin"]}
    return [name for name in rotation_bin_names() if name in counted]


def units_of(sums: Sequence[pd.DataFrame]) -> list[str]:
    """Return the independent units on which all of several models were measured."""
    each = [set(table.loc[table["who"] == MODEL, "unit"].astype(str)) for table in sums]
    return sorted(set.intersection(*each)) if each else []


def in_bins(
    sums: pd.DataFrame, who: str, layer: int, bins: Sequence[str], units: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Lay out hits and counts of a layer, or of a null beside it, [units, bins].

    Args:
        sums: Of :func:`unit_table`.
        who: Model or null.
        layer: Its index.
        bins: Rotation bins.
        units: Independent units.
    """
    grid = sums.loc[(sums["who"] == MODEL) & (sums["layer"] == layer), "grid"].iloc[0]
    rows = sums[(sums["who"] == who) & (sums["grid"] == grid)]
    own = rows[rows["layer"] == layer]
    rows = own if len(own) else rows[rows["layer"] == NO_LAYER]
    return wide(rows.astype({"unit": str}), "rotation_bin", bins, units)


def jointly(estimate: Ratios) -> pd.DataFrame:
    """Return columns value, low, high of ratios, with ends that hold for all of them at once."""
    low, high = estimate.widened(joint_widening(estimate))
    return pd.DataFrame({"value": estimate.value, "low": low, "high": high})


def lead_in_bins(
    sums: pd.DataFrame, null: str, layer: int, bins: Sequence[str], units: Sequence[str]
) -> pd.DataFrame | None:
    """Compare a layer with a null in each bin, paired by unit: columns value, low, high (for all bins at once), null.

    Args:
        sums: Of :func:`unit_table`.
        null: Key of :data:`NULLS`.
        layer: Its index.
        bins: Rotation bins.
        units: Independent units.

    Returns:
        A row per bin; None where the null was not measured.
    """
    (a, n), (b, m) = (in_bins(sums, who, layer, bins, units) for who in (NULLS[null], null))
    both = (n > 0) & (m > 0)
    if not both.any():
        return None
    guess = ratios(b * both, m * both)
    return jointly(ratios(a * both, n * both).ahead_of(guess)).assign(null=guess.value, bin=list(bins))
