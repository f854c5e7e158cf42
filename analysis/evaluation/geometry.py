"""An evaluation's geometry -> tables of its scores, and which of them can be trusted: they tell corruptions from truth.

A score can be trusted where noise, repeated references, views of another scene and blurred true views each score worse
than the true views, by an interval of the paired differences over independent units. All of them must, so no interval
is widened for their number.
"""

from typing import Any

import numpy as np
import pandas as pd

from probe.records import TRUTH, better, describe, summarise
from probe.records.intervals import ratios
from probe.records.names import CORRUPTIONS, GEOMETRY_METHODS, GEOMETRY_SCORES, SIFT_MATCHES

WORSE, REWARDED, UNCLEAR, TOO_FEW = "worse", "rewarded", "not separated", "too few values"
"""How a corruption scores against the truth."""
GROUP = ["n_ref", "metric", "method"]
PAIR = ["scene", "view", "reference", "unit"]


def scores(geometry: pd.DataFrame) -> pd.DataFrame:
    """Average each score over pairs of views, or over views where all references make it together.

    Args:
        geometry: The content of geometry.csv.

    Returns:
        Columns n_ref, metric, method, value, low, high (95 % over independent units; NaN below five), units, known (of
        how many the value is a mean), rows (of how many it was asked). A score without any value has a row of NaN.
    """
    parts = [
        summarise(part, GROUP, shares=describe(str(metric)).share)
        for metric, part in geometry.groupby("metric", sort=False)
    ]
    groups = geometry.groupby(GROUP, sort=False)["value"].agg(known="count", rows="size").reset_index()
    found = pd.concat([part for part in parts if len(part)], ignore_index=True)
    table = groups.merge(found[[*GROUP, "value", "low", "high", "units"]], on=GROUP, how="left")
    order = {name: list(kinds) for name, kinds in _orders().items()}
    places = {name: table[name].map(kinds.index) for name, kinds in order.items()}
    sort = table.assign(**{f"{name} place": place for name, place in places.items()})
    columns = ["n_ref", "metric", "method", "value", "low", "high", "units", "known", "rows"]
    table = sort.sort_values(["n_ref", "metric place", "method place"], ignore_index=True)[columns]
    return table.assign(units=table["units"].fillna(0).astype(int))


def _orders() -> dict[str, tuple[str, ...]]:
    return {"metric": (SIFT_MATCHES, *GEOMETRY_SCORES), "method": GEOMETRY_METHODS}


def trust(geometry: pd.DataFrame) -> pd.DataFrame:
    """Compare the truth with each corruption by each score that the truth has, on the same pairs of views.

    Args:
        geometry: The content of geometry.csv.

    Returns:
        Columns n_ref, metric, method (the corruption), value (truth minus corruption), low, high (95 % over independent
        units; NaN below five), units, known (pairs that both have a value of), verdict.
    """
    rows = geometry if "unit" in geometry else geometry.assign(unit=geometry["scene"])
    wide = rows.set_index([*PAIR, "n_ref", "metric", "method"])[["value", "count"]].unstack("method")  # noqa: PD010
    found = [
        {"n_ref": n_ref, "metric": metric, "method": method, **_difference(part, str(metric), method)}
        for (n_ref, metric), part in wide.groupby(["n_ref", "metric"])
        for method in CORRUPTIONS
        if metric in GEOMETRY_SCORES and part["value"][TRUTH].notna().any()
    ]
    columns = ["n_ref", "metric", "method", "value", "low", "high", "units", "known", "verdict"]
    table = pd.DataFrame(found, columns=columns)
    place = table["metric"].map(GEOMETRY_SCORES.index)
    return table.assign(place=place).sort_values(["n_ref", "place"], kind="stable", ignore_index=True)[columns]


def _difference(part: pd.DataFrame, metric: str, method: str) -> dict[str, Any]:
    """Subtract a corruption's score from the truth's, pair by pair."""
    if method not in part["value"]:
        return {"value": np.nan, "low": np.nan, "high": np.nan, "units": 0, "known": 0, "verdict": TOO_FEW}
    both = part[part["value"][[TRUTH, method]].notna().all(axis=1)]
    weight = both["count"][TRUTH]
    hits = {name: both["value"][name] * weight for name in (TRUTH, method)}
    sums = pd.DataFrame({**hits, "count": weight}).groupby("unit")[[TRUTH, method, "count"]].sum()
    counts, share = sums[["count"]].to_numpy(dtype=float), describe(metric).share
    truth, other = (ratios(sums[[name]].to_numpy(dtype=float), counts, shares=share) for name in (TRUTH, method))
    gap = truth - other
    ends = {"value": float(gap.value[0]), "low": float(gap.low[0]), "high": float(gap.high[0])}
    return {**ends, "units": len(sums), "known": len(both), "verdict": verdict(metric, ends["low"], ends["high"])}


def verdict(metric: str, low: float, high: float) -> str:
    """Return how a corruption scores against the truth.

    Args:
        metric: The score.
        low: Lower end of the interval of truth minus corruption; NaN of too few units.
        high: Upper end.
    """
    if not np.isfinite([low, high]).all():
        return TOO_FEW
    leads = [better(metric) * end for end in (low, high)]
    return WORSE if min(leads) > 0 else REWARDED if max(leads) < 0 else UNCLEAR


def trusted(found: pd.DataFrame) -> dict[str, bool]:
    """Return of each score at one number of references whether it can be trusted.

    Args:
        found: Rows of :func:`trust`.
    """
    return {str(name): bool((part["verdict"] == WORSE).all()) for name, part in found.groupby("metric", sort=False)}
