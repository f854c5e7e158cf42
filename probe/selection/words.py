"""The selection in words: the layer's evidence, and what was weighed."""

from collections.abc import Mapping, Sequence

import numpy as np

from probe.selection.candidate import Candidate
from probe.selection.ties import CausalEffects, compared, remaining

LISTED = 6
"""Ties that the evidence names; more are counted."""


def evidence_words(best: Candidate, ties: tuple[int, ...], metric: str, scenes: int, *, above_chance: bool) -> str:
    """Return the result in a sentence."""
    lead = f"not separable from {_tied(ties)}" if ties else "ahead of every other layer"
    ranked = (
        f"{best.share_of_ceiling:.1%} of its grid's ceiling in {metric}"
        if best.share_of_ceiling >= 0
        else f"{best.precision:.1%} {metric} (no ceiling was measured)"
    )
    interval = f"95 % interval {best.low:.1%} to {best.high:.1%} over {scenes} scenes" if scenes > 1 else "one scene"
    doubt = "" if above_chance else "No layer was shown to find correspondence: no interval lies above uniform chance. "
    return (
        f"{doubt}Layer {best.layer} ({best.name}, {best.grid} tokens) reaches {ranked} ({interval}); precision "
        f"{best.precision:.3f}, uniform chance {best.chance:.3f}, same position {best.same_position:.3f}, ceiling "
        f"{best.ceiling:.3f}; {lead}."
    )


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
        parts.append("Correspondence alone decides; causal effect and cost had nothing to weigh.")
    elif any(np.isnan(effects.of(layer)[0]) for layer in contenders):
        parts.append(f"Correspondence cannot separate {listed(contenders)}, and not all of their effects are known.")
    else:
        left = remaining(contenders, effects)
        same = "by causal effect neither" if len(left) == len(contenders) else f"causal effect leaves {listed(left)}"
        last = "" if len(left) == 1 else f"; of these layer {chosen} is {_cheapest(left, costs)}"
        parts.append(f"Correspondence cannot separate {listed(contenders)}; {same}{last}.")
    return " ".join(parts)


def _effect_sentence(chosen: int, effects: CausalEffects) -> str:
    value, low, high, scenes = effects.of(chosen)
    if np.isnan(value):
        return f"The causal effect of layer {chosen} was not measured."
    spread = f" (95 % interval {low:+.1%} to {high:+.1%} over {scenes} scenes)" if scenes > 1 else ""
    others = [(k, sign) for k, sign in compared(effects, chosen).items() if k != chosen and k in effects.table.index]
    words = {1: "more than breaking", -1: "less than", 0: "not separable from"}
    groups = {words[kind]: [k for k, sign in others if sign == kind] for kind in words}
    others_text = "; ".join(f"{word} {listed(group)}" for word, group in groups.items() if group)
    return (
        f"Breaking layer {chosen} ({effects.intervention}) changes the error of the denoised prediction by {value:+.1%}"
        f"{spread}{': ' if others_text else ''}{others_text}."
    )


def listed(layers: Sequence[int]) -> str:
    """Return layers by their indexes: "layers 3, 12"."""
    return f"layer{'' if len(layers) == 1 else 's'} {', '.join(map(str, layers))}"


def _cheapest(left: Sequence[int], costs: Mapping[int, float]) -> str:
    unknown = any(np.isnan(costs.get(layer, np.nan)) for layer in left)
    return "the first by correspondence (costs are unknown)" if unknown else "the cheapest to supervise"
