"""The selection in words: the layer's evidence, and what was weighed."""

from collections.abc import Mapping, Sequence

import numpy as np

from probe.records.intervals import LEAST_UNITS
from probe.records.words import counted, too_few
from probe.selection.candidate import Candidate
from probe.selection.ties import CausalEffects, compared, leads, remaining

LISTED = 6
"""Ties that the evidence names; more are counted."""


def evidence_words(best: Candidate, ties: tuple[int, ...], metric: str, units: int, *, alone: bool) -> str:
    """Return the result in a sentence."""
    enough = units >= LEAST_UNITS
    lead = (
        "the only layer that was measured"
        if alone
        else "no other layer can be shown to be worse"
        if not enough
        else f"not separable from {_tied(ties)}"
        if ties
        else "ahead of every other layer"
    )
    ranked = (
        f"{best.share_of_ceiling:.1%} of its grid's ceiling in {metric}"
        if best.share_of_ceiling >= 0
        else f"{best.precision:.1%} {metric} (no ceiling was measured)"
    )
    interval = (
        f"95 % interval {best.low:.1%} to {best.high:.1%} over {units} independent units"
        if enough
        else f"{counted(units)}, too few for an interval"
    )
    return (
        f"{doubt_words(best, units)}Layer {best.layer} ({best.name}, {best.grid} tokens) reaches {ranked} "
        f"({interval}); "
        f"precision {best.precision:.3f}, uniform chance {best.chance:.3f}, same position {best.same_position:.3f}, "
        f"{_blind(best)}ceiling {best.ceiling:.3f}; {lead}."
    )


def doubt_words(best: Candidate, units: int) -> str:
    """Return that no layer was shown to find correspondence, where that is so; else nothing."""
    if best.above_null:
        return ""
    if few := too_few(units):
        return f"{few} "
    if not best.null:
        return "No layer was shown to find correspondence: no null was measured. "
    ends = f"{100 * best.lead_low:+.1f} to {100 * best.lead_high:+.1f}"
    return (
        f"No layer was shown to find correspondence beyond {best.null}: the lead of layer {best.layer} is "
        f"{100 * best.lead:+.1f} points ({ends}, with 95 % for all layers at once). "
    )


def _blind(best: Candidate) -> str:
    return "" if np.isnan(best.cameras_only) else f"cameras only {best.cameras_only:.3f}, "


def _tied(ties: tuple[int, ...]) -> str:
    return listed(ties) if len(ties) <= LISTED else f"{len(ties)} other layers"


def effect_words(effects: CausalEffects) -> str:
    """Return what the numbers of causal effect mean."""
    at = ", ".join(map(str, effects.timesteps))
    scenes = int(effects.table["scenes"].max()) if len(effects.table) else 0
    return (
        f"growth of the denoised prediction's error under {effects.intervention} (t = {at}; {scenes} scenes)"
        if effects.intervention
        else "not measured"
    )


def weighing_words(chosen: int, contenders: Sequence[int], effects: CausalEffects, costs: Mapping[int, float]) -> str:
    """Return how correspondence, causal effect and cost led to the layer."""
    if not effects.intervention:
        return "Chosen by correspondence alone: no causal effect was measured."
    parts = [_effect_sentence(chosen, effects)]
    if len(contenders) == 1:
        parts.append("Selected by precision alone.")
    elif any(np.isnan(effects.of(layer)[0]) for layer in contenders):
        parts.append(f"Correspondence cannot separate {listed(contenders)}, and not all of their effects are known.")
    else:
        left = remaining(contenders, effects)
        same = "by causal effect neither" if len(left) == len(contenders) else f"causal effect leaves {listed(left)}"
        last = "" if len(left) == 1 else f"; of these layer {chosen} is {_cheapest(left, costs)}"
        parts.append(f"Correspondence cannot separate {listed(contenders)}; {same}{last}.")
    return " ".join(parts)


def _effect_sentence(chosen: int, effects: CausalEffects) -> str:
    value, low, high, _ = effects.of(chosen)
    if np.isnan(value):
        return f"The causal effect of layer {chosen} was not measured."
    spread = f" (95 % interval {low:+.1%} to {high:+.1%} over {counted(effects.units_of(chosen))})"
    if np.isnan(low):
        return (
            f"Breaking layer {chosen} ({effects.intervention}) changes the error of the denoised prediction by "
            f"{value:+.1%}; {counted(effects.units_of(chosen))}, too few to compare layers."
        )
    others = [(k, sign) for k, sign in compared(effects, chosen).items() if k != chosen and k in effects.table.index]
    words = {1: "more than breaking", -1: "less than", 0: "not separable from"}
    groups = {words[kind]: [k for k, sign in others if sign == kind] for kind in words}
    others_text = "; ".join(
        f"{word} {listed(group)}{_nearest(effects, chosen, group) if word == words[0] else ''}"
        for word, group in groups.items()
        if group
    )
    return (
        f"Breaking layer {chosen} ({effects.intervention}) changes the error of the denoised prediction by {value:+.1%}"
        f"{spread}{': ' if others_text else ''}{others_text}."
    )


def _nearest(effects: CausalEffects, chosen: int, others: Sequence[int]) -> str:
    """Return the smallest lead over layers that it is not separable from: its interval is wider than one alone."""
    lead = leads(effects, chosen).loc[list(others)].nsmallest(1, "value").iloc[0]
    ends = f"{lead['low']:+.1%} to {lead['high']:+.1%}, with 95 % for all pairs of layers at once"
    return f" (the smallest lead is {lead['value']:+.1%}, {ends})"


def listed(layers: Sequence[int]) -> str:
    """Return layers by their indexes: "layers 3, 12"."""
    return f"layer{'' if len(layers) == 1 else 's'} {', '.join(map(str, layers))}"


def _cheapest(left: Sequence[int], costs: Mapping[int, float]) -> str:
    unknown = any(np.isnan(costs.get(layer, np.nan)) for layer in left)
    return "the first by correspondence (costs are unknown)" if unknown else "the cheapest to supervise"
