"""Weigh what correspondence alone does not decide: the causal effect of layers, then the cost of supervising them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from probe.interventions import INTERVENTIONS
from probe.layers import Layer, joint_layout
from probe.records import EFFECT, scene_values, summarise
from probe.records.intervals import draws, quantile

BREAKING = tuple(name for name in INTERVENTIONS if name != "true_match")  # that one repairs
RULE = (
    "Correspondence comes first: the share of the grid's ceiling, of layers above chance. Of layers that it cannot "
    "separate from the first and that lie within its interval, those remain whose causal effect is not shown to be "
    "smaller than the greatest; of these the cheapest to supervise (tokens squared times heads) is taken."
)


@dataclass(frozen=True, kw_only=True)
class Harm:
    """Hold how much breaking each layer raises the error of the denoised prediction, relatively.

    Attributes:
        layers: All that were asked for.
        intervention: What broke it; empty where nothing was measured.
        table: Per layer: value, low, high (95 % by bootstrap over scenes), scenes; absent layers were not measured.
        drawn: Bootstrap means, [resamples, layers]; NaN where a layer was not measured.
        timesteps: At which it was measured.
    """

    layers: tuple[int, ...]
    intervention: str
    table: pd.DataFrame
    drawn: np.ndarray
    timesteps: tuple[int, ...]

    def of(self, layer: int) -> tuple[float, float, float, int]:
        """Give a layer's effect, the ends of its interval, and the number of scenes; NaN with 0 if not measured."""
        if layer not in self.table.index:
            return np.nan, np.nan, np.nan, 0
        row = self.table.loc[layer]
        return float(row["value"]), float(row["low"]), float(row["high"]), int(row["scenes"])


def harm(rows: pd.DataFrame, layers: Sequence[int]) -> Harm:
    """Read the causal effect off the rows of a model's layers: of the identity, or else of the first that breaks.

    Args:
        rows: Of the score table, all heads together.
        layers: Whose draws to give.
    """
    metrics = set(rows["metric"].astype(str))
    name = next((name for name in BREAKING if f"{EFFECT}@{name}" in metrics), "")
    chosen = rows[rows["metric"] == f"{EFFECT}@{name}"]
    values = scene_values(chosen, ["layer"]).pivot_table(index="scene", columns="layer", values="value", observed=True)
    known = values.reindex(columns=list(layers)).to_numpy(dtype=float)
    return Harm(
        layers=tuple(layers),
        intervention=name,
        table=summarise(chosen, ["layer"]).set_index("layer"),
        drawn=draws(known, np.ones_like(known)),
        timesteps=tuple(sorted(int(t) for t in chosen["timestep"].unique())),
    )


def compared(harms: Harm, layer: int) -> dict[int, int]:
    """Compare a layer's effect with every other's, paired by scene: 1 if shown to be greater, -1 smaller, else 0."""
    difference = harms.drawn[:, [harms.layers.index(layer)]] - harms.drawn
    sign = (quantile(difference, 0.025) > 0).astype(int) - (quantile(difference, 0.975) < 0)
    return dict(zip(harms.layers, sign.tolist(), strict=True))


def weigh(contenders: Sequence[int], harms: Harm, costs: Mapping[int, float]) -> int:
    """Choose among layers that correspondence cannot separate; see :data:`RULE`.

    Where a contender's causal effect is unknown, nothing is weighed: the first one is taken.

    Args:
        contenders: Layers, best correspondence first.
        harms: Causal effects.
        costs: Of supervising each; where one is unknown, the better correspondence decides.
    """
    effects = {layer: harms.of(layer)[0] for layer in contenders}
    if len(contenders) == 1 or any(np.isnan(effect) for effect in effects.values()):
        return contenders[0]
    left = remaining(contenders, harms)
    if any(np.isnan(costs.get(layer, np.nan)) for layer in left):
        return left[0]
    return min(left, key=lambda layer: (costs[layer], contenders.index(layer)))


def remaining(contenders: Sequence[int], harms: Harm) -> list[int]:
    """Keep the contenders whose causal effect is not shown to be smaller than the greatest."""
    greatest = max(contenders, key=lambda layer: harms.of(layer)[0])
    shown = compared(harms, greatest)
    return [layer for layer in contenders if shown[layer] <= 0]


def supervision_costs(layers: Sequence[Layer], views: int) -> dict[int, float]:
    """Give what supervising each layer costs: joint tokens squared, times heads.

    Args:
        layers: That attend to image tokens.
        views: Denoised together.
    """
    return {
        layer.index: float(joint_layout(layer, views).tokens ** 2 * layer.heads)
        for layer in layers
        if layer.index is not None
    }


# --- in words --------------------------------------------------------------------------------------------------------


def effect_words(harms: Harm) -> str:
    """Say what the numbers of causal effect mean."""
    at = ", ".join(map(str, harms.timesteps))
    scenes = int(harms.table["scenes"].max()) if len(harms.table) else 0
    return (
        f"growth of the denoised prediction's error under {harms.intervention} (t = {at}; {scenes} scenes)"
        if harms.intervention
        else "not measured"
    )


def weighing_words(chosen: int, contenders: Sequence[int], harms: Harm, costs: Mapping[int, float]) -> str:
    """Say how correspondence, causal effect and cost led to the layer."""
    if not harms.intervention:
        return "Chosen by correspondence alone: no causal effect was measured."
    parts = [_harm_words(chosen, harms)]
    if len(contenders) == 1:
        parts.append("Correspondence alone decides; causal effect and cost had nothing to weigh.")
    elif any(np.isnan(harms.of(layer)[0]) for layer in contenders):
        parts.append(f"Correspondence cannot separate {listed(contenders)}, and not all of their effects are known.")
    else:
        left = remaining(contenders, harms)
        same = "by causal effect neither" if len(left) == len(contenders) else f"causal effect leaves {listed(left)}"
        last = "" if len(left) == 1 else f"; of these layer {chosen} is {_cheapest(left, costs)}"
        parts.append(f"Correspondence cannot separate {listed(contenders)}; {same}{last}.")
    return " ".join(parts)


def _harm_words(chosen: int, harms: Harm) -> str:
    value, low, high, scenes = harms.of(chosen)
    if np.isnan(value):
        return f"The causal effect of layer {chosen} was not measured."
    spread = f" (95 % interval {low:+.1%} to {high:+.1%} over {scenes} scenes)" if scenes > 1 else ""
    others = [(k, sign) for k, sign in compared(harms, chosen).items() if k != chosen and k in harms.table.index]
    words = {1: "more than breaking", -1: "less than", 0: "not separable from"}
    groups = {words[kind]: [k for k, sign in others if sign == kind] for kind in words}
    beside = "; ".join(f"{word} {listed(group)}" for word, group in groups.items() if group)
    return (
        f"Breaking layer {chosen} ({harms.intervention}) changes the error of the denoised prediction by {value:+.1%}"
        f"{spread}{': ' if beside else ''}{beside}."
    )


def listed(layers: Sequence[int]) -> str:
    """Name layers by their indexes."""
    return f"layer{'' if len(layers) == 1 else 's'} {', '.join(map(str, layers))}"


def _cheapest(left: Sequence[int], costs: Mapping[int, float]) -> str:
    unknown = any(np.isnan(costs.get(layer, np.nan)) for layer in left)
    return "the first by correspondence (costs are unknown)" if unknown else "the cheapest to supervise"
