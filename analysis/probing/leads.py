"""By how much the selected layer is ahead of its strongest null and of other matchers: paired by independent unit."""

import math
from collections.abc import Sequence

import pandas as pd

from analysis.probing.tables import ProbeRun, rivals
from probe.records import CAMERAS_ONLY, NO_LAYER, REFERENCES, SAME_POSITION, UNIFORM
from probe.records.intervals import Ratios, join_columns, joint_widening, ratios, wide
from probe.records.table import unit_sums


def leads(run: ProbeRun) -> pd.DataFrame:
    """Return by how much the selected layer is ahead of other matchers of its grid, and of its strongest null.

    Paired by unit, at the timesteps of the other one where it has any. The strongest null stands with the interval that
    the selection rests on, which holds for all layers at once; the others' hold for all of them at once.

    Returns:
        Columns model, value, low, high, units.
    """
    rows = run.headline
    mine = rows[(rows["model"] == run.model) & (rows["layer"] == run.layer)]
    judged = [*REFERENCES, run.model + CAMERAS_ONLY]
    others = rows[(rows["model"] != run.model) & ~rows["model"].isin(judged) & (rows["grid"] == run.grid)]
    others = others[others["layer"].isin([run.layer, NO_LAYER])]
    names = [name for name in rivals(run) if name in set(others["model"].astype(str))]
    null = _strongest_null(run)
    if not names:
        return null
    units = sorted(unit_sums(mine, ["model"])["unit"].unique())
    ahead = join_columns([_lead(mine, others[others["model"] == name], units) for name in names])
    low, high = ahead.widened(joint_widening(ahead))
    table = pd.DataFrame({"model": names, "value": ahead.value, "low": low, "high": high, "units": ahead.units})
    return pd.concat([null, table], ignore_index=True) if len(null) else table


def _strongest_null(run: ProbeRun) -> pd.DataFrame:
    row = run.layers.set_index("layer").loc[run.layer]
    names = {"uniform chance": UNIFORM, "same position": SAME_POSITION, "cameras only": run.model + CAMERAS_ONLY}
    columns = ["model", "value", "low", "high", "units"]
    if row["null"] not in names or pd.isna(row["lead"]):
        return pd.DataFrame(columns=columns)
    values = (
        names[row["null"]],
        row["lead"],
        row.get("lead_low", math.nan),
        row.get("lead_high", math.nan),
        row["units"],
    )
    return pd.DataFrame([values], columns=columns)


def _lead(mine: pd.DataFrame, other: pd.DataFrame, units: Sequence[object]) -> Ratios:
    """Subtract a matcher's precision from the layer's, on the units and timesteps that both have."""
    timed = other["timestep"].unique().tolist()
    alike = mine if min(timed) < 0 else mine[mine["timestep"].isin(timed)]
    sums = [unit_sums(part.assign(who=0), ["who"]) for part in (alike, other)]
    (a_hits, a_count), (b_hits, b_count) = (wide(part, "who", [0], units) for part in sums)
    both = (a_count > 0) & (b_count > 0)
    return ratios(a_hits * both, a_count * both).ahead_of(ratios(b_hits * both, b_count * both))
