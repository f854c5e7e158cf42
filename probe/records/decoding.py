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
UNITS = {DEPTH: "error of log depth", EPIPOLAR: "Sampson's distance of true matches, in sides of the image"}


def decoding_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Compare each layer with what is decoded without it, paired by independent unit.

    Depth is compared with cameras only and with no model. A fundamental matrix is a function of the cameras, which
    grey images keep, so it is compared with no model alone.

    Args:
        rows: Columns :data:`COLUMNS`: the mean error of each scene that decoders did not learn from.

    Returns:
        A row per what, part and layer: what, part, layer, error, error_low, error_high, grey, grey_low, grey_high,
        none, none_low, none_high, lead (the other's error minus the layer's, of that other whose lead is the less sure:
        above 0 the layer says more), lead_low, lead_high (95 % for all layers and parts of what is decoded at once),
        units, count. NaN where it was not measured; ends are NaN below five units.
    """
    parts = [_of(part, str(what)) for what, part in rows.groupby("what", sort=False)]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["what", "layer", "part"])


def _of(rows: pd.DataFrame, what: str) -> pd.DataFrame:
    named = rows.assign(unit=rows["unit"].astype(str), place=rows["part"] + " " + rows["layer"].astype(str))
    units = sorted(named["unit"].unique())
    places = list(dict.fromkeys(named["place"][named["who"] == THIS]))
    own, grey, none = (_errors(named[named["who"] == who], places, units) for who in (THIS, GREY, NO_MODEL))
    counted = named[named["who"] == THIS].groupby("place")["count"].sum()
    return pd.DataFrame(
        {
            "what": what,
            "part": [place.split()[0] for place in places],
            "layer": [int(place.split()[1]) for place in places],
            **_ends("error", own),
            **_ends("grey", grey),
            **_ends("none", none),
            **_least_sure([other - own for other in ([grey, none] if what == DEPTH else [none])]),
            "units": own.units,
            "count": counted.reindex(places).to_numpy(),
        }
    )


def _least_sure(leads: list[Ratios]) -> dict[str, np.ndarray]:
    """Return, place by place, the lead whose lower end is lowest, with ends that hold for all places at once."""
    ends = [lead.widened(joint_widening(lead)) for lead in leads]
    low = np.stack([low for low, _ in ends])
    least = np.where(np.isfinite(low), low, np.stack([lead.value for lead in leads])).argmin(0)
    value, high = np.stack([lead.value for lead in leads]), np.stack([high for _, high in ends])
    every = {"lead": value, "lead_low": low, "lead_high": high}
    return {name: np.take_along_axis(values, least[None], 0)[0] for name, values in every.items()}


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
    row = table.loc[table["lead"].idxmax() if table["lead"].notna().any() else table["error"].idxmin()]
    first = (
        f"{name}: from the {FROM[row['part']]} of layer {int(row['layer'])} {UNITS[what]} {row['error']:.3f}, cameras "
        f"only {row['grey']:.3f}, no model {row['none']:.3f} ({int(row['units'])} units, none of which decoders "
        "learned from)"
    )
    others = "than cameras only and than no model" if what == DEPTH else "than no model (cameras alone tell it too)"
    if not np.isfinite(table["lead_low"]).any():
        return f"{first}; too few independent units to tell whether a layer says more {others}."
    shown = sorted({int(layer) for layer in table["layer"][table["lead_low"] > 0]})
    if not shown:
        return f"{first}; no layer is shown to say more {others}."
    unused = [layer for layer in shown if layer not in above_null]
    beside = f"; not among the layers shown to match: {', '.join(map(str, unused))}" if unused else ""
    many = ("layers", "are") if len(shown) > 1 else ("layer", "is")
    return f"{first}; {many[0]} {', '.join(map(str, shown))} {many[1]} shown to say more {others}{beside}."
