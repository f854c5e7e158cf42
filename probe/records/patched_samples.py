"""The table of patched samples: how good samples are that read another run's attention, with intervals, in words."""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import pandas as pd

from probe.records.intervals import FEW, joint_widening, ratios, wide
from probe.records.names import MATCH_ERROR, METRICS, PSNR
from probe.records.patching import ANOTHER, Part
from probe.records.table import unit_sums

SampleDonor = Literal["another", "noise"]
"""Whose attention is read: another scene's, or the same scene's sampled from other noise."""
NOISE = get_args(SampleDonor)[1]
UNPATCHED = "none"
"""The part of samples that read nothing of the donor."""
MEASURES = (PSNR, MATCH_ERROR)
COLUMNS = ("donor", "part", "layer", "steps", "scene", "unit", "measure", "value", "count")
NAMES = {"donor": get_args(SampleDonor), "part": (UNPATCHED, *get_args(Part)), "measure": MEASURES}
"""What columns of text hold."""
TABLE = (
    "donor", "part", "steps", "measure", "layer", "unpatched", "patched", "value", "low", "high", "scenes", "units",
    "count",
)  # fmt: skip
CONTRAST = "another minus noise"
"""In place of a donor: what differs between samples that read the one and those that read the other."""
DONORS = {
    ANOTHER: "another scene",
    NOISE: "the same scene sampled from other noise",
    CONTRAST: "another scene, compared with the same scene sampled from other noise,",
}
PARTS = {"content": "content (keys and values)", "matching": "matching (logits between views)"}


def samples_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Compare patched samples with the unpatched ones of the same scene and noise.

    Args:
        rows: Columns :data:`COLUMNS`.

    Returns:
        A row per donor, part, steps, measure and layer: unpatched, patched (means over target views), value (patched
        minus unpatched: dB of PSNR, or colour difference), low, high (95 % for all layers of the donor, part and
        measure at once, over independent units; NaN below five), scenes, units, count. Where both donors were read,
        also rows of :data:`CONTRAST`, whose "unpatched" is the sample that reads other noise. What could not be
        measured is absent.
    """
    pairs = _pairs(rows)
    pairs = pd.concat([pairs, _contrast(pairs)], ignore_index=True)
    groups = pairs.groupby(["donor", "part", "steps", "measure"])
    parts = [_changes(part).assign(**dict(zip(groups.keys, key, strict=True))) for key, part in groups]
    return pd.concat(parts, ignore_index=True)[list(TABLE)] if parts else pd.DataFrame(columns=list(TABLE))


def _pairs(rows: pd.DataFrame) -> pd.DataFrame:
    """Put what was measured of each patched sample beside the same measure of the unpatched one, of as many views."""
    known = rows[rows["value"].notna() & (rows["count"] > 0)].astype({"unit": str, "scene": str})
    usual = known[known["part"] == UNPATCHED].rename(columns={"value": "unpatched"})
    keys = ["donor", "steps", "scene", "measure", "count"]
    return known[known["part"] != UNPATCHED].merge(usual[[*keys, "unpatched"]], on=keys)


def _contrast(pairs: pd.DataFrame) -> pd.DataFrame:
    """Put samples that read another scene beside those of the same noise that read the same scene's other noise."""
    keys = ["part", "layer", "steps", "scene", "measure", "count"]
    other = pairs[pairs["donor"] == NOISE].rename(columns={"value": "other"})[[*keys, "other"]]
    both = pairs[pairs["donor"] == ANOTHER].merge(other, on=keys)
    return both.assign(unpatched=both["other"], donor=CONTRAST)[list(pairs.columns)]


def _changes(pairs: pd.DataFrame) -> pd.DataFrame:
    """Average the changes of a measure layer by layer, with intervals that hold for all of them at once."""
    changed = pairs.assign(value=pairs["value"] - pairs["unpatched"])
    sums, layers = unit_sums(changed, ["layer"]), sorted(int(layer) for layer in changed["layer"].unique())
    change = ratios(*wide(sums, "layer", layers), shares=False)
    low, high = change.widened(joint_widening(change))
    by_layer = sums.groupby("layer")
    usual = _means(pairs, "unpatched", layers)
    return pd.DataFrame(
        {
            "layer": layers,
            "unpatched": usual,
            "patched": usual + change.value,
            "value": change.value,
            "low": low,
            "high": high,
            "scenes": by_layer["scenes"].sum().reindex(layers).to_numpy(),
            "units": change.units,
            "count": by_layer["count"].sum().reindex(layers).to_numpy(),
        }
    )


def _means(pairs: pd.DataFrame, column: str, layers: Sequence[int]) -> np.ndarray:
    total = pairs.assign(total=pairs[column] * pairs["count"]).groupby("layer")[["total", "count"]].sum()
    return (total["total"] / total["count"]).reindex(list(layers)).to_numpy()


# --- words -----------------------------------------------------------------------------------------------------------


def samples_words(table: pd.DataFrame) -> tuple[str, ...]:
    """Return in which layers another run's attention makes samples worse, as far as intervals tell.

    Args:
        table: From :func:`samples_table`.

    Returns:
        A sentence per donor and part.
    """
    keys = ((donor, part) for donor in DONORS for part in get_args(Part))
    parts = ((*key, table[(table["donor"] == key[0]) & (table["part"] == key[1])]) for key in keys)
    return tuple(_said(donor, part, rows) for donor, part, rows in parts if len(rows))


def _said(donor: str, part: str, rows: pd.DataFrame) -> str:
    measured = ((name, rows[rows["measure"] == name]) for name in MEASURES)
    told = "; ".join(_measured(name, own) for name, own in measured if len(own))
    return f"Where target views read {PARTS.get(part, part)} of {DONORS[donor]} in one layer {_steps(rows)}, {told}."


def _steps(rows: pd.DataFrame) -> str:
    steps = int(rows["steps"].iloc[0])
    return f"at each of {steps} sampling steps" if steps > 1 else "in the one sampling step"


def _measured(name: str, rows: pd.DataFrame) -> str:
    title = METRICS[name].title
    if not np.isfinite(rows["low"]).any():
        return f"whether {title} changes cannot be told: {FEW}"
    lower, higher = rows["high"] < 0, rows["low"] > 0
    shown = [_way(name, rows[which], way) for which, way in ((lower, "lower"), (higher, "higher")) if which.any()]
    rest = rows[~(lower | higher)]
    if not shown and len(rest) > 1:
        return f"no change of {title} is shown in any of the {len(rest)} layers{_largest(name, rest)}"
    unshown = f"no change of {'it' if shown else title} is shown in {_layers(rest)}" if len(rest) else ""
    return " and ".join(filter(None, [*shown, unshown])) + (_largest(name, rest) if len(rest) else "")


def _largest(name: str, rows: pd.DataFrame) -> str:
    """Return the largest change that is not shown: an interval that holds zero is no evidence of none."""
    row = rows.loc[rows["value"].abs().idxmax()]
    most = f"most in layer {int(row['layer'])}: " if len(rows) > 1 else ""
    return f" ({most}{change_text(name, *row[['value', 'low', 'high']])})"


def _way(name: str, rows: pd.DataFrame, way: str) -> str:
    """Return in which layers a measure changes one way, and by how much where it changes most."""
    row = rows.loc[rows["value"].abs().idxmax()]
    most = f"most in layer {int(row['layer'])}: " if len(rows) > 1 else ""
    return (
        f"{METRICS[name].title} is {way} in {_layers(rows)} ({most}{change_text(name, *row[['value', 'low', 'high']])})"
    )


def _layers(rows: pd.DataFrame) -> str:
    return f"layer{'s' if len(rows) > 1 else ''} {', '.join(str(layer) for layer in rows['layer'])}"


def change_text(name: str, value: float, low: float, high: float) -> str:
    """Write the change of a measure with its unit, and its interval where there is one.

    Args:
        name: Of the measure.
        value: Patched minus unpatched.
        low: Lower end; NaN without an interval.
        high: Upper end.
    """
    if not np.isfinite(value):
        return "–"
    metric = METRICS[name]
    number, *ends = (f"{x:+.{metric.decimals}f}" for x in (value, low, high))
    unit = f" {metric.unit}" if metric.unit else ""
    return f"{number}{unit}, {ends[0]} to {ends[1]}" if np.isfinite(low) else f"{number}{unit}"
