"""Correspondence breaks where views differ most and rooms are hard; supervision holds it there, or does not."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.blocks import Section
from analysis.study.claims import figures
from analysis.study.claims.claim import AGAINST, NOT_SHOWN, SHOWN, Claim, judge, together
from analysis.study.claims.figures import Panel
from analysis.study.claims.layers import (
    comparable,
    gain_words,
    layer_of,
    probe_chart,
    probed_models,
    supervised_models,
)
from analysis.study.claims.parts import Parts, Probed
from analysis.study.claims.units import NULLS, bins_of, in_bins, jointly, lead_in_bins, units_of
from analysis.study.run import StudyRun
from analysis.words import MISSING, NBSP, bin_words, listing, percent, plural, points
from probe.records import MODEL
from probe.records.intervals import join_columns, ratios
from probe.records.names import BASE, PLAIN


@dataclass(frozen=True, kw_only=True)
class Series:
    """A layer of a probed model, as it is drawn and named."""

    model: str
    layer: int

    @property
    def name(self) -> str:
        """Return model and layer in words."""
        return f"{self.model}, layer {self.layer}"


def fragility_claim(run: StudyRun, parts: Parts) -> Claim | None:
    """Draw precision by rotation bin, and by difficulty of the rooms."""
    series = _series(run, parts)
    turned = [each for each in series if len(parts.probes[each.model].sums)]
    bins = bins_of([parts.probes[each.model].sums for each in turned])
    rotation = _by_rotation(parts, turned, bins)
    hard = _by_difficulty(parts, series)
    if rotation.empty and hard.empty:
        return None
    titles = {"by rotation between the cameras": _labelled(rotation), "by difficulty of the rooms": hard}
    frames = [Panel(title=title, xlabel="", table=part) for title, part in titles.items() if len(part)]
    table = pd.concat([rotation.assign(panel="rotation"), hard.assign(panel="difficulty")], ignore_index=True)
    svg = figures.grouped(
        frames, styles={each.name: _style(each, series) for each in series}, name="claim-fragility",
        alt="Precision: " + "; ".join(f"{row.who}, {row.x}: {percent(row.value)}" for row in table.itertuples()),
    )  # fmt: skip
    caption = (
        "Precision of the layer that a model's probe selects, and of the supervised one. Dashed strokes: the strongest "
        f"null of the same queries. Bars: 95{NBSP}% intervals of the lead over it, set about the precision, by "
        "rotation for all bins at once, by difficulty for all layers at once; filled: above every null."
    )
    fall, gains = _fall(parts, turned, bins), _gains(parts, turned, bins)
    judged = [*([] if fall is None else [fall]), *gains]
    return Claim(
        verdict=together(judge(row["low"], row["high"]) for row in judged),
        number="; ".join(f"{row['who']} {points(row['value'])} {_ends(row)}" for row in gains or judged) or MISSING,
        section=Section(
            name="fragility",
            title="It breaks where views are far apart and rooms are hard",
            claim=f"{_fall_words(fall)}{gain_words(gains)}".strip(),
            text=_hard_words(hard),
            charts=(probe_chart(parts, "claim-fragility", svg, caption, table),),
        ),
    )


def _series(run: StudyRun, parts: Parts) -> list[Series]:
    """Return the layers that are drawn: of each trained model its own, and the supervised one of plain too."""
    names = [name for name in probed_models(parts) if name != BASE]
    drawn = [Series(model=name, layer=layer_of(run, parts, name)) for name in names]
    supervised = {layer_of(run, parts, name) for name in supervised_models(parts)}
    if PLAIN in names:
        known = set(parts.probes[PLAIN].layers["layer"])
        drawn[1:1] = [Series(model=PLAIN, layer=layer) for layer in supervised & known - {drawn[0].layer}]
    return drawn


def _style(each: Series, series: Sequence[Series]) -> dict[str, object]:
    first = next(other for other in series if other.model == each.model)
    return figures.style_of(each.name if each == first else "")


def _labelled(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(x=table["x"].map(bin_words))


def _by_rotation(parts: Parts, series: Sequence[Series], bins: Sequence[str]) -> pd.DataFrame:
    rows = [_in_bins(each, parts.probes[each.model], bins) for each in series]
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=["x", "who", "value"])


def _in_bins(each: Series, probed: Probed, bins: Sequence[str]) -> pd.DataFrame:
    """Return a layer's precision in each bin, with its lead over the null that it leads least."""
    units = units_of([probed.sums])
    value = ratios(*in_bins(probed.sums, MODEL, each.layer, bins, units)).value
    leads = [lead_in_bins(probed.sums, null, each.layer, bins, units) for null in NULLS]
    every = pd.concat([lead for lead in leads if lead is not None])
    least = every.sort_values("value", kind="stable").groupby("bin", sort=False).first().reindex(bins)
    clear = every.groupby("bin", sort=False)["low"].min().reindex(bins) > 0
    moved = least["value"] + least["null"]  # the precision at the null's timesteps
    shift = value - moved.to_numpy()
    return pd.DataFrame(
        {"x": list(bins), "who": each.name, "value": value, "low": least["low"] + least["null"] + shift,
         "high": least["high"] + least["null"] + shift, "null": least["null"] + shift, "clear": clear}
    ).reset_index(drop=True)  # fmt: skip


def _by_difficulty(parts: Parts, series: Sequence[Series]) -> pd.DataFrame:
    """Return each layer's precision on the study's rooms and on harder ones; empty if none were probed."""
    names = {each.model for each in series}
    parted = [full.partition("-") for full in parts.probes]
    kinds = list(dict.fromkeys(kind for name, _, kind in parted if name in names and kind))
    rows = [_row(each, parts.probes[full], kind) for kind in ["", *kinds] for each in series
            if (full := f"{each.model}-{kind}" if kind else each.model) in parts.probes
            and each.layer in set(parts.probes[full].layers["layer"])]  # fmt: skip
    return pd.DataFrame(rows if kinds else [], columns=["x", "who", "value", "low", "high", "null", "clear"])


def _row(each: Series, probed: Probed, kind: str) -> tuple[object, ...]:
    row = probed.at(each.layer)
    null = row["precision"] - row["lead"]
    low, high = null + row.get("lead_low", float("nan")), null + row.get("lead_high", float("nan"))
    return kind or "as trained", each.name, row["precision"], low, high, null, bool(row["above_null"])


# --- what is said ----------------------------------------------------------------------------------------------------


def _fall(parts: Parts, series: Sequence[Series], bins: Sequence[str]) -> dict[str, Any] | None:
    """Subtract plain's precision at the widest rotations from that at the smallest ones."""
    each = next((one for one in series if one.model == PLAIN), None)
    if each is None or len(bins) < 2:
        return None
    sums = parts.probes[PLAIN].sums
    found = ratios(*in_bins(sums, MODEL, each.layer, bins, units_of([sums])))
    change = jointly(found.columns([0]) - found.columns([len(bins) - 1])).iloc[0]
    text = (f"from {percent(found.value[0])} at {bin_words(bins[0])} to {percent(found.value[-1])} at "
            f"{bin_words(bins[-1])}")  # fmt: skip
    return {"who": each.name, "text": text, **change}


def _gains(parts: Parts, series: Sequence[Series], bins: Sequence[str]) -> list[dict[str, Any]]:
    """Subtract plain's precision from each supervised model's at the widest rotations: for all bins and models."""
    names = comparable(parts)
    own = [next(one for one in series if one.model == name) for name in names]
    plain = next((one for one in series if one.model == PLAIN), None)
    if plain is None or not own:
        return []
    units = units_of([parts.probes[one.model].sums for one in (plain, *own)])
    base, *others = (ratios(*in_bins(parts.probes[one.model].sums, MODEL, one.layer, bins, units))
                     for one in (plain, *own))  # fmt: skip
    ahead = jointly(join_columns([other - base for other in others]))
    return [{"who": one.name, "where": bin_words(bins[-1]), "than": plain.name, **ahead.iloc[(n + 1) * len(bins) - 1]}
            for n, one in enumerate(own)]  # fmt: skip


def _ends(row: dict[str, Any]) -> str:
    if not np.isfinite(row["low"]):
        return "points (no interval: too few scenes)"
    return f"points (95{NBSP}% interval {points(row['low'])} to {points(row['high'])})"


def _fall_words(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    words = {SHOWN: "falls", NOT_SHOWN: "is not shown to fall", AGAINST: "rises"}
    word = words[judge(row["low"], row["high"])]
    return f"The precision of {row['who']}, {word} {row['text']}: a loss of {points(row['value'])} {_ends(row)}."


def _hard_words(table: pd.DataFrame) -> str:
    """Write on which of the rooms that it was probed on each layer is above every null."""
    texts = []
    for who, part in table.groupby("who", sort=False):
        rooms = [str(name) for name in part.loc[part["clear"].astype(bool), "x"]]
        lacking = table["x"].nunique() - len(part)
        lack = f" (not probed on {plural(lacking, 'other')})" if lacking else ""
        texts.append(f"{who} on {listing(rooms)}{lack}" if rooms else f"{who} on none{lack}")
    return f"Above every null by kind of room: {'; '.join(texts)}." if texts else ""
