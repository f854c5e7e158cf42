"""From a layer's scores to its heads, with their evidence: each head is weighed as a layer is."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from probe.records import ALL_HEADS, NO_LAYER
from probe.records.intervals import LEAST_UNITS, Interval, interval, joint_widening, wide
from probe.records.names import NULL_LABELS
from probe.records.table import unit_sums
from probe.selection.choose import Selection, in_direction
from probe.selection.evidence import Evidence, layers_of, weigh_evidence

RULE = (
    "Of the heads of the selected layer that are shown to be above the strongest null, with intervals that hold for "
    "all heads at once, those are chosen that are not shown to be worse than the best (paired by unit). Where no head "
    "is above its null, or the layer is not, which was the best of many, none is chosen."
)


SHUFFLE = 0
"""Seed of the halves."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """A head of the selected layer.

    Attributes:
        head: Its number.
        precision: By the metric that layers are ranked by, 0 to 1; NaN where nothing was counted.
        low: Lower end of an interval that holds for all heads at once; NaN below five units.
        high: Upper end.
        null: The null that it is ahead of by least; empty where none is known.
        lead: By how much.
        lead_low: Lower end, for all heads at once.
        lead_high: Upper end.
        above_null: Whether it is shown to be above every null that was measured.
        chosen: See :data:`RULE`.
    """

    head: int
    precision: float
    low: float
    high: float
    null: str
    lead: float
    lead_low: float
    lead_high: float
    above_null: bool
    chosen: bool


@dataclass(frozen=True, kw_only=True)
class HeadSelection:
    """The heads of the selected layer.

    Attributes:
        heads: All of them, in order.
        chosen: The numbers of the chosen ones; empty where none is.
        best: Number of the one with the highest precision; -1 where nothing was counted.
        held_out: Precision of the best head where each half of the units chooses it for the other half: what remains of
            the winner's lead on scenes that did not choose it. NaN below two units.
        held_out_low: Lower end of its 95 % interval; NaN below five units.
        held_out_high: Upper end.
        together: Precision of all heads together.
        rule: How heads are chosen.
        evidence: The result in a sentence.
    """

    heads: tuple[Head, ...]
    chosen: tuple[int, ...]
    best: int
    held_out: float
    held_out_low: float
    held_out_high: float
    together: float
    rule: str
    evidence: str

    def record(self) -> dict[str, Any]:
        """Return plain values for selection.json."""
        return asdict(self)


def select_heads(scores: pd.DataFrame, selection: Selection) -> HeadSelection | None:
    """Choose among the heads of the selected layer.

    Args:
        scores: The score table with its heads apart: of the layer's protocol, metric and direction at least.
        selection: The layer.

    Returns:
        None where heads were not measured apart: the protocol scores all together, or the layer has a single one.
    """
    rows = scores[(scores["metric"] == selection.metric) & (scores["protocol"] == selection.protocol)]
    rows = _as_layers(in_direction(rows, selection.direction)[0], selection.layer)
    own = layers_of(rows, selection.model)
    if own["layer"].nunique() < 2 or own["value"].notna().sum() == 0:
        return None
    evidence = weigh_evidence(rows, own, selection.model)
    best = int(np.nanargmax(evidence.precision.value))
    chosen = evidence.above_all() & ~evidence.worse(best) & selection.above_null
    heads = tuple(_head(evidence, k, chosen=bool(chosen[k])) for k in range(len(evidence.layers)))
    held_out = held_out_precision(own, evidence.layers)
    return HeadSelection(
        heads=heads,
        chosen=tuple(head.head for head in heads if head.chosen),
        best=heads[best].head,
        held_out=held_out.estimate,
        held_out_low=held_out.low,
        held_out_high=held_out.high,
        together=selection.best.precision,
        rule=RULE,
        evidence=_words(selection, heads, best, held_out),
    )


def _as_layers(rows: pd.DataFrame, layer: int) -> pd.DataFrame:
    """Return the rows of a layer's heads as if each were a layer, beside the references of its grid."""
    apart = rows[rows["layer"] == NO_LAYER]
    heads = rows[(rows["layer"] == layer) & (rows["head"] != ALL_HEADS)]
    return pd.concat([apart, heads.assign(layer=heads["head"], head=ALL_HEADS)], ignore_index=True)


def held_out_precision(own: pd.DataFrame, heads: Sequence[int]) -> Interval:
    """Return the precision of the best head on the units that did not choose it, with its interval.

    Each of two :func:`halves` of the units chooses for the other.

    Args:
        own: Rows of the heads, each as a layer.
        heads: Their numbers.

    Returns:
        Estimate, low, high; see :func:`probe.records.interval`.
    """
    sums = unit_sums(own, ["layer"])
    units = sorted(sums["unit"].unique())
    hits, counts = wide(sums, "layer", list(heads), units)
    half = np.isin(units, halves(units)[1])
    picked = np.where(half, _best(hits[~half], counts[~half]), _best(hits[half], counts[half]))
    row = np.arange(len(units))
    known = np.where(picked < 0, 0, picked)
    return interval(hits[row, known], np.where(picked < 0, 0, counts[row, known]), np.array(units))


def halves(units: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split independent units in two, by a shuffle: in order they may alternate, as rooms do in their rotations.

    Args:
        units: Their names, in any order; repeated ones count once.

    Returns:
        Both halves, sorted; the first has one more of an odd number. The same for the same names.
    """
    names = sorted(set(map(str, units)))
    order = np.random.default_rng(SHUFFLE).permutation(len(names))
    return sorted(names[k] for k in order[::2]), sorted(names[k] for k in order[1::2])


def _best(hits: np.ndarray, counts: np.ndarray) -> int:
    """Return the column of the highest ratio; -1 where nothing was counted."""
    total = counts.sum(0)
    rate = np.where(total > 0, hits.sum(0) / np.maximum(total, 1), -1.0)
    return int(rate.argmax()) if (total > 0).any() else -1


def _head(evidence: Evidence, position: int, *, chosen: bool) -> Head:
    low, high = evidence.precision.widened(joint_widening(evidence.precision))
    return Head(
        head=evidence.layers[position],
        precision=float(evidence.precision.value[position]),
        low=float(np.clip(low[position], 0, 1)),
        high=float(np.clip(high[position], 0, 1)),
        **_lead(evidence, position),
        above_null=bool(evidence.above_all()[position]),
        chosen=chosen,
    )


def _lead(evidence: Evidence, position: int) -> dict[str, Any]:
    """Return by how much a head is ahead of its strongest null."""
    null = evidence.strongest(position)
    if not null:
        return {"null": "", "lead": np.nan, "lead_low": np.nan, "lead_high": np.nan}
    lead = evidence.leads[null]
    ends = {"lead": lead.value, "lead_low": lead.low, "lead_high": lead.high}
    return {"null": NULL_LABELS[null], **{name: float(array[position]) for name, array in ends.items()}}


def _words(selection: Selection, heads: Sequence[Head], best: int, held_out: Interval) -> str:
    """Return the result in a sentence."""
    first, chosen = heads[best], [head.head for head in heads if head.chosen]
    apart = (
        f"{held_out.estimate:.1%}"
        if selection.units < LEAST_UNITS
        else f"{held_out.estimate:.1%} (95 % interval {held_out.low:.1%} to {held_out.high:.1%})"
    )
    taken = (
        f"Chosen: {_listed(chosen)}, above the strongest null and not shown to be worse than the best."
        if chosen
        else f"No head is chosen, since {'none' if selection.above_null else 'not even the layer'} is shown to be "
        "above the strongest null."
    )
    return (
        f"Of the {len(heads)} heads of layer {selection.layer}, head {first.head} has the highest {selection.metric}, "
        f"{first.precision:.1%}; the best head of one half of the units has {apart} on the other half; all heads "
        f"together {selection.best.precision:.1%}. {taken}"
    )


def _listed(heads: Sequence[int]) -> str:
    names = [str(head) for head in heads]
    return f"head {names[0]}" if len(names) == 1 else f"heads {', '.join(names[:-1])} and {names[-1]}"
