"""The table of what is decoded from layers: depth and epipolar lines, beside cameras only and no model, in words."""

from typing import Literal, get_args

import numpy as np
import pandas as pd

from probe.records.intervals import Ratios, joint_widening, ratios, wide
from probe.records.table import unit_sums

Decoded = Literal["depth", "epipolar"]
DEPTH, EPIPOLAR = get_args(Decoded)
DecodedPart = Literal["matching", "values"]
"""What it is decoded from: queries and keys together, or values."""
PARTS: tuple[DecodedPart, ...] = get_args(DecodedPart)
THIS, GREY, NO_MODEL = "model", "cameras only", "no model"
COLUMNS = ("who", "part", "layer", "timestep", "what", "scene", "unit", "value", "count")
NAMES = {"who": (THIS, GREY, NO_MODEL), "part": PARTS, "what": get_args(Decoded)}
"""What columns of text hold."""
FROM: dict[DecodedPart, str] = {"matching": "queries and keys", "values": "values"}
"""What readers call the parts."""
UNITS = {DEPTH: "error of log depth", EPIPOLAR: "distance from the epipolar line, in sides of the image"}


def decoding_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Compare each layer with the better of cameras only and no model, paired by independent unit.

    Args:
        rows: Columns :data:`COLUMNS`: the mean error of each scene that decoders did not learn from.

    Returns:
        A row per what, part and layer: what, part, layer, error, error_low, error_high, grey, grey_low, grey_high,
        none, none_low, none_high, lead (the smaller of both others' errors minus the layer's: above 0 the layer says
        more), lead_low, lead_high (for all layers and parts of what is decoded at once), units, count. NaN where it was
        not measured; ends are NaN below five units.
    """
    parts = [_of(part, str(what)) for what, part in rows.groupby("what", sort=False)]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["what", "layer", "part"])


def _of(rows: pd.DataFrame, what: str) -> pd.DataFrame:
    named = rows.assign(unit=rows["unit"].astype(str), place=rows["part"] + " " + rows["layer"].astype(str))
    units = sorted(named["unit"].unique())
    places = list(dict.fromkeys(named["place"][named["who"] == THIS]))
    own, grey, none = (_errors(named[named["who"] == who], places, units) for who in (THIS, GREY, NO_MODEL))
    better = grey if _mean(grey) <= _mean(none) else none
    lead = better - own
    low, high = lead.widened(joint_widening(lead))
    counted = named[named["who"] == THIS].groupby("place")["count"].sum()
    return pd.DataFrame(
        {
            "what": what,
            "part": [place.split()[0] for place in places],
            "layer": [int(place.split()[1]) for place in places],
            **_ends("error", own),
            **_ends("grey", grey),
            **_ends("none", none),
            "lead": lead.value,
            "lead_low": low,
            "lead_high": high,
            "units": own.units,
            "count": counted.reindex(places).to_numpy(),
        }
    )


def _mean(errors: Ratios) -> float:
    """Return the mean over all places; infinite where there is none."""
    known = errors.value[np.isfinite(errors.value)]
    return float(known.mean()) if len(known) else np.inf


def _errors(rows: pd.DataFrame, places: list[str], units: list[str]) -> Ratios:
    return ratios(*wide(unit_sums(rows, ["place"]), "place", places, units), shares=False)


def _ends(name: str, value: Ratios) -> dict[str, np.ndarray]:
    return {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}


def decoding_words(table: pd.DataFrame, above_null: list[int]) -> tuple[str, ...]:
    """Return what can be decoded from which layers, and from which of them matches are not found.

    Args:
        table: From :func:`decoding_table`.
        above_null: Layers that find correspondences, above the strongest null.
    """
    return tuple(_said(table[table["what"] == what], str(what), above_null) for what in table["what"].unique())


def _said(table: pd.DataFrame, what: str, above_null: list[int]) -> str:
    name = {DEPTH: "Depth", EPIPOLAR: "The fundamental matrix"}[what]
    if table["error"].isna().all():
        return f"{name} could not be decoded: nothing true was known."
    best = table.loc[table["error"].idxmin()]
    first = (
        f"{name} is decoded best from the {FROM[best['part']]} of layer {int(best['layer'])}: {UNITS[what]} "
        f"{best['error']:.3f}, cameras only {best['grey']:.3f}, no model {best['none']:.3f} "
        f"({int(best['units'])} units, none of which decoders learned from)"
    )
    shown = sorted(set(table["layer"][table["lead_low"] > 0]))
    if not shown:
        return f"{first}; no layer is shown to say more than both."
    unused = [layer for layer in shown if layer not in above_null]
    many = ("layers", "are") if len(shown) > 1 else ("layer", "is")
    there = f"{first}; {many[0]} {', '.join(map(str, shown))} {many[1]} shown to say more than the better of both"
    if not unused:
        return f"{there}, and find correspondences above the strongest null."
    return (
        f"{there}; not shown to find correspondences above the strongest null: {', '.join(map(str, unused))}. What is "
        "known there is not used to match."
    )
