"""Correspondence breaks where views differ most and rooms are hard; supervision holds it there, or does not."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.blocks import Section
from analysis.study.claims import figures
from analysis.study.claims.claim import AGAINST, NOT_SHOWN, SHOWN, Claim, judge, together
from analysis.study.claims.figures import Panel
from analysis.study.claims.layers import BASE, layer_of, probe_chart, probed_models, supervised_models
from analysis.study.claims.parts import Parts, Probed
from analysis.study.claims.units import NULLS, bins_of, in_bins, jointly, lead_in_bins, units_of
from analysis.study.run import StudyRun
from analysis.study.seeds import PLAIN
from analysis.words import MISSING, NBSP, bin_words, listing, percent, points
from probe.records import MODEL
from probe.records.intervals import ratios


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
    fall, gain = _fall(parts, turned, bins), _gain(parts, turned, bins)
    verdicts = [judge(row["low"], row["high"]) for row in (fall, gain) if row is not None]
    decides = gain if gain is not None else fall
    return Claim(
        verdict=together(verdicts),
        number=MISSING if decides is None else f"{points(decides['value'])} points {_spread(decides)}",
        section=Section(
            name="fragility",
            title="It breaks where views are far apart and rooms are hard",
            claim=" ".join(filter(None, [_fall_words(fall, bins), _gain_words(gain), _hard_words(hard)])),
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


def _fall(parts: Parts, series: Sequence[Series], bins: Sequence[str]) -> pd.Series | None:
    """Subtract plain's precision at the widest rotations from that at the smallest ones."""
    each = next((one for one in series if one.model == PLAIN), None)
    if each is None or len(bins) < 2:
        return None
    sums = parts.probes[PLAIN].sums
    found = ratios(*in_bins(sums, MODEL, each.layer, bins, units_of([sums])))
    row = jointly(found.columns([0]) - found.columns([len(bins) - 1])).iloc[0].copy()
    row["first"], row["last"], row["layer"] = found.value[0], found.value[-1], each.layer
    return row


def _gain(parts: Parts, series: Sequence[Series], bins: Sequence[str]) -> pd.Series | None:
    """Subtract plain's precision from the last supervised model's at the widest rotations, for all bins at once."""
    own = next((one for one in series[::-1] if one.model != PLAIN), None)
    plain = next((one for one in series if one.model == PLAIN), None)
    if own is None or plain is None:
        return None
    probes = [parts.probes[one.model] for one in (own, plain)]
    if probes[0].selection.get("pair_list") != probes[1].selection.get("pair_list"):
        return None
    units = units_of([probed.sums for probed in probes])
    sides = [ratios(*in_bins(probed.sums, MODEL, one.layer, bins, units))
             for probed, one in zip(probes, (own, plain), strict=True)]  # fmt: skip
    row = jointly(sides[0] - sides[1]).iloc[-1].copy()
    row["own"], row["plain"] = own.name, plain.name
    return row


def _spread(row: pd.Series, for_all: str = "") -> str:
    if not np.isfinite(row["low"]):
        return "(no interval: too few scenes)"
    return f"(95{NBSP}% interval {points(row['low'])} to {points(row['high'])}{for_all})"


def _fall_words(row: pd.Series | None, bins: Sequence[str]) -> str:
    if row is None:
        return ""
    word = {SHOWN: "falls", NOT_SHOWN: "is not shown to fall"}.get(judge(row["low"], row["high"]), "rises")
    return (
        f"{PLAIN}'s layer {row['layer']:.0f} {word} from {percent(row['first'])} at {bin_words(bins[0])} to "
        f"{percent(row['last'])} at {bin_words(bins[-1])}: a loss of {points(row['value'])} points {_spread(row)}."
    )


def _gain_words(row: pd.Series | None) -> str:
    if row is None:
        return ""
    words = {SHOWN: "is above", NOT_SHOWN: "is not shown to differ from", AGAINST: "is below"}
    word, spread = words[judge(row["low"], row["high"])], _spread(row, ", for all bins at once")
    return f"At the widest rotations {row['own']} {word} {row['plain']}: {points(row['value'])} points {spread}."


def _hard_words(table: pd.DataFrame) -> str:
    """Write on which rooms each layer is above every null."""
    texts = []
    for who, part in table.groupby("who", sort=False):
        rooms = [str(name) for name in part.loc[part["clear"].astype(bool), "x"]]
        texts.append(f"{who} on {listing(rooms)}" if rooms else f"{who} on none")
    return f"Above every null by kind of room: {'; '.join(texts)}." if texts else ""
