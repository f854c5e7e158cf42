"""Precision by rotation between the two cameras: bins, their counts, and the comparison with the same position."""

import math

import pandas as pd

from analysis.probing.tables import ProbeRun, named, reference_rows, shown
from probe.records import SAME_POSITION, UNIFORM, rotation_bin, rotation_bin_names, summarise
from probe.records.intervals import joint_widening, ratios, wide
from probe.records.table import unit_sums


def rotation(run: ProbeRun) -> pd.DataFrame:
    """Return precision per 30-degree bin: some layers, and what a matcher on the selected layer's grid compares with.

    Returns:
        Columns who ("layer 10" or a model's name), rotation_bin, value, low, high, scenes, units, count. Every bin of
        the pair list is there; value is NaN and count 0 where nothing was counted.
    """
    table = summarise(named(run, with_bins(run.headline)), ["who", "rotation_bin"])
    present = [name for name in shown(run) if name in set(table["who"])]
    full = pd.MultiIndex.from_product([present, bins(run)], names=["who", "rotation_bin"])
    table = table.astype({"rotation_bin": str, "who": str}).set_index(["who", "rotation_bin"]).reindex(full)
    counts = ["scenes", "units", "count"]
    return table.assign(**{name: table[name].fillna(0).astype(int) for name in counts}).reset_index()


def with_bins(rows: pd.DataFrame) -> pd.DataFrame:
    """Add the 30-degree bin of each row's rotation as a column rotation_bin.

    Args:
        rows: Of the score table.
    """
    return rows.assign(rotation_bin=rotation_bin(rows["rotation_deg"]).astype(str))


def bins(run: ProbeRun) -> list[str]:
    """List the rotation bins up to the last one that the pair list or the headline reaches, ascending."""
    every = rotation_bin_names()
    measured = rotation_bin(pd.Series(run.headline["rotation_deg"].unique(), dtype=float)).dropna()
    present = {*run.pairs["rotation_bin"].dropna().astype(str), *measured.astype(str)}
    last = max((n for n, name in enumerate(every) if name in present), default=len(every) - 2)
    return every[: last + 1]


def verdicts(run: ProbeRun) -> pd.DataFrame:
    """Compare the selected layer with the same position in each rotation bin, paired by unit.

    Returns:
        Columns rotation_bin, value, same_position, chance, difference, low, high (95 % interval of the difference, for
        all bins at once; NaN below five units), scenes, units, count, pairs, verdict ("above", "below", "not separable
        from", "too few units to compare with", "not measured").
    """
    rows = with_bins(run.headline)
    here = rows[(rows["layer"] == run.layer) & (rows["model"] == run.model)]
    there = reference_rows(run, rows[rows["model"] == SAME_POSITION])
    gap = _gap(here, there, bins(run))
    means = rotation(run).pivot_table(index="rotation_bin", columns="who", values="value", dropna=False)
    layer = summarise(here, ["rotation_bin"]).set_index("rotation_bin").reindex(bins(run))
    table = pd.DataFrame(
        {
            "value": layer["value"],
            "same_position": means.get(SAME_POSITION, pd.Series(dtype=float)).reindex(bins(run)),
            "chance": means.get(UNIFORM, pd.Series(dtype=float)).reindex(bins(run)),
            "difference": gap["value"],
            "low": gap["low"],
            "high": gap["high"],
            "scenes": layer["scenes"].fillna(0).astype(int),
            "units": gap["units"],
            "count": layer["count"].fillna(0).astype(int),
            "pairs": _view_pairs(here).reindex(bins(run)).fillna(0).astype(int),
        }
    )
    words = [_verdict(*row) for row in table[["difference", "low", "high"]].itertuples(index=False)]
    return table.assign(verdict=words).rename_axis("rotation_bin").reset_index()


def _gap(here: pd.DataFrame, there: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Subtract the same position from the layer in each bin, paired by unit; intervals for all bins at once."""
    sums = [unit_sums(part, ["rotation_bin"]) for part in (here, there)]
    units = sorted(sums[0]["unit"].unique())
    (a_hits, a_count), (b_hits, b_count) = (wide(part, "rotation_bin", names, units) for part in sums)
    both = (a_count > 0) & (b_count > 0)
    ahead = ratios(a_hits * both, a_count * both).ahead_of(ratios(b_hits * both, b_count * both))
    low, high = ahead.widened(joint_widening(ahead))
    return pd.DataFrame({"value": ahead.value, "low": low, "high": high, "units": ahead.units}, index=names)


def _view_pairs(rows: pd.DataFrame) -> pd.Series:
    counted = rows[(rows["count"] > 0) & rows["value"].notna()]
    return counted.drop_duplicates(["scene", "query_view", "key_view"])["rotation_bin"].value_counts()


def _verdict(difference: float, low: float, high: float) -> str:
    if math.isnan(difference):
        return "not measured"
    if math.isnan(low):
        return "too few units to compare with"
    if low > 0:
        return "above"
    return "below" if high < 0 else "not separable from"


def pair_counts(run: ProbeRun) -> pd.DataFrame:
    """Return the counts per rotation bin that the headline is based on.

    Returns:
        Columns rotation_bin, listed (pairs of the frozen list), scenes (that have one), measured (ordered view pairs of
        the headline's direction in which a point was counted), count (those points, over all timesteps).
    """
    listed = run.pairs.assign(rotation_bin=run.pairs["rotation_bin"].astype(str)).groupby("rotation_bin")
    rows = with_bins(run.headline)
    rows = rows[(rows["model"] == run.model) & (rows["layer"] == run.layer)]
    columns = {"listed": listed["pair"].nunique(), "scenes": listed["scene"].nunique(), "measured": _view_pairs(rows),
               "count": rows.groupby("rotation_bin")["count"].sum()}  # fmt: skip
    return pd.DataFrame(columns).reindex(bins(run)).fillna(0).astype(int).rename_axis("rotation_bin").reset_index()
