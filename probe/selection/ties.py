"""Weigh what correspondence alone does not decide: the causal effect of layers, then the cost of supervising them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from probe.interventions import INTERVENTIONS
from probe.layers import Layer, joint_layout
from probe.records import EFFECT, summarise
from probe.records.intervals import Ratios, against_all, ratios, wide
from probe.records.table import unit_sums

DESTRUCTIVE = tuple(name for name in INTERVENTIONS if name != "true_match")  # that one repairs
RULE = (
    "Correspondence comes first: the share of the grid's ceiling, of layers above the strongest null (uniform chance, "
    "same position, and cameras only where that was measured; without any, of those above uniform chance). Of layers "
    "that it cannot separate from the first and that lie within its interval, those remain whose causal effect is not "
    "shown to be smaller than the greatest; of these the cheapest to supervise (tokens squared times heads) is taken."
)


@dataclass(frozen=True, kw_only=True)
class CausalEffects:
    """How much breaking each layer raises the error of the denoised prediction, relatively.

    Attributes:
        layers: All that were asked for.
        intervention: What broke it; empty where nothing was measured.
        table: Per layer: value, low, high (95 % over independent units), scenes; absent layers were not measured.
        means: Of all layers, in order; NaN where one was not measured.
        timesteps: At which it was measured.
    """

    layers: tuple[int, ...]
    intervention: str
    table: pd.DataFrame
    means: Ratios
    timesteps: tuple[int, ...]

    def of(self, layer: int) -> tuple[float, float, float, int]:
        """Return a layer's effect, the ends of its interval, and the number of scenes; NaN with 0 if not measured."""
        if layer not in self.table.index:
            return np.nan, np.nan, np.nan, 0
        row = self.table.loc[layer]
        return float(row["value"]), float(row["low"]), float(row["high"]), int(row["scenes"])

    def units_of(self, layer: int) -> int:
        """Return the number of independent units that a layer's effect was measured on."""
        return int(self.table["units"].get(layer, 0))


def causal_effects(rows: pd.DataFrame, layers: Sequence[int]) -> CausalEffects:
    """Read the causal effect off the rows of a model's layers: of the identity, or else of the first that breaks.

    Args:
        rows: Of the score table, all heads together.
        layers: Whose effects to read.
    """
    metrics = set(rows["metric"].astype(str))
    name = next((name for name in DESTRUCTIVE if f"{EFFECT}@{name}" in metrics), "")
    chosen = rows[rows["metric"] == f"{EFFECT}@{name}"]
    return CausalEffects(
        layers=tuple(layers),
        intervention=name,
        table=summarise(chosen, ["layer"], shares=False).set_index("layer"),
        means=ratios(*wide(unit_sums(chosen, ["layer"]), "layer", list(layers)), shares=False),
        timesteps=tuple(sorted(int(t) for t in chosen["timestep"].unique())),
    )


def compared(effects: CausalEffects, layer: int) -> dict[int, int]:
    """Compare a layer's effect with every other's: 1 if shown to be greater, -1 smaller, else 0.

    Paired by unit; the intervals of the differences of all pairs of layers hold at once, since the layer may have been
    chosen for its effect.
    """
    ahead = leads(effects, layer)
    sign = (ahead["low"] > 0).astype(int) - (ahead["high"] < 0)
    return {other: 0 if other == layer else int(sign[other]) for other in effects.layers}


def leads(effects: CausalEffects, layer: int) -> pd.DataFrame:
    """Return by how much a layer's effect is ahead of every other's: value, low, high by layer, as :func:`compared`."""
    ahead = against_all(effects.means, effects.layers.index(layer))
    table = pd.DataFrame({"value": ahead.value, "low": ahead.low, "high": ahead.high}, index=effects.layers)
    return table.drop(index=layer)


def weigh(contenders: Sequence[int], effects: CausalEffects, costs: Mapping[int, float]) -> int:
    """Choose among layers that correspondence cannot separate; see :data:`RULE`.

    Where a contender's causal effect is unknown, nothing is weighed: the first one is taken.

    Args:
        contenders: Layers, best correspondence first.
        effects: Causal effects.
        costs: Of supervising each; where one is unknown, the better correspondence decides.
    """
    known = [effects.of(layer)[0] for layer in contenders]
    if len(contenders) == 1 or any(np.isnan(effect) for effect in known):
        return contenders[0]
    left = remaining(contenders, effects)
    if any(np.isnan(costs.get(layer, np.nan)) for layer in left):
        return left[0]
    return min(left, key=lambda layer: (costs[layer], contenders.index(layer)))


def remaining(contenders: Sequence[int], effects: CausalEffects) -> list[int]:
    """Keep the contenders whose causal effect is not shown to be smaller than the greatest."""
    greatest = max(contenders, key=lambda layer: effects.of(layer)[0])
    shown = compared(effects, greatest)
    return [layer for layer in contenders if shown[layer] <= 0]


def supervision_costs(layers: Sequence[Layer], views: int) -> dict[int, float]:
    """Return what supervising each layer costs: joint tokens squared, times heads.

    Args:
        layers: That attend to image tokens.
        views: Denoised together.
    """
    return {
        layer.index: float(joint_layout(layer, views).tokens ** 2 * layer.heads)
        for layer in layers
        if layer.index is not None
    }
