"""Knocking out heads together: those that find correspondences best, and as many drawn at random.

One head may cover for another, so heads that can each be missed may not be missed together. The heads are ranked on
some scenes and knocked out on others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from probe.attention.call import Call, Edit, Run
from probe.capture import AttentionTap
from probe.interventions.edits import Intervention, edit_of
from probe.interventions.effects import denoiser, place_of, prediction_effect
from probe.layers import Layer
from probe.measure.scene import Scene
from probe.models.model import MultiViewModel
from probe.records import ALL_HEADS, EFFECT
from probe.records.knockout import BEST, RANDOM
from probe.records.table import unit_sums


class LayerHead(NamedTuple):
    """A head of a layer, both by number."""

    layer: int
    head: int


class HeadSet(NamedTuple):
    """Heads to knock out together, and which they are: :data:`BEST` or :data:`RANDOM`."""

    which: str
    heads: tuple[LayerHead, ...]

    def __str__(self) -> str:
        """Name the heads: "11:2 12:0", layer and head."""
        return " ".join(f"{layer}:{head}" for layer, head in self.heads)


def rank_heads(scores: pd.DataFrame, scenes: Sequence[str]) -> list[LayerHead]:
    """Rank the heads of all layers by precision, best first; equal ones by layer and head.

    Args:
        scores: Of one model, metric, protocol and direction.
        scenes: Names of those that count.

    Returns:
        Heads in which something was counted.
    """
    rows = scores[(scores["head"] != ALL_HEADS) & (scores["layer"] >= 0) & scores["scene"].astype(str).isin(scenes)]
    sums = unit_sums(rows, ["layer", "head"]).groupby(["layer", "head"], observed=True)[["hits", "count"]].sum()
    counted = sums[sums["count"] > 0]
    order = (counted["hits"] / counted["count"]).sort_values(ascending=False, kind="stable")
    return [LayerHead(int(layer), int(head)) for layer, head in order.index]


def draw_heads(ranked: Sequence[LayerHead], count: int, generator: torch.Generator) -> list[LayerHead]:
    """Draw some of the ranked heads, all equally likely.

    Args:
        ranked: From :func:`rank_heads`.
        count: How many; at most as many as there are.
        generator: Of the draw.
    """
    return [ranked[int(k)] for k in torch.randperm(len(ranked), generator=generator)[:count]]


def sets_of_heads(
    ranked: Sequence[LayerHead], counts: Sequence[int], draws: int, generator: torch.Generator
) -> list[HeadSet]:
    """Return the best heads of each number, and as many drawn from the others.

    Args:
        ranked: From :func:`rank_heads`.
        counts: Numbers of heads.
        draws: Random sets of each number.
        generator: Of the draws.

    Raises:
        ValueError: If there are not twice as many heads as are to be knocked out.
    """
    if 2 * max(counts) > len(ranked):
        raise ValueError(f"{len(ranked)} heads were scored apart, of which half can be knocked out, not {max(counts)}")
    best = [HeadSet(BEST, tuple(ranked[:count])) for count in counts]
    drawn = (draw_heads(ranked[count:], count, generator) for count in counts for _ in range(draws))
    return best + [HeadSet(RANDOM, tuple(heads)) for heads in drawn]


def edit_of_heads(
    name: Intervention, chosen: Sequence[LayerHead], layers: Mapping[int, Layer], scene: Scene, t: int, seed: int
) -> tuple[list[Layer], Edit]:
    """Make the edit of heads of several layers at once.

    Args:
        name: Of the intervention.
        chosen: The heads.
        layers: By index.
        scene: With the truth on their grids.
        t: Timestep of the forward to come.
        seed: Of the shuffled keys.

    Returns:
        The layers that are edited, and the edit of their calls.
    """
    heads: dict[int, list[int]] = {}
    for layer, head in chosen:
        heads.setdefault(layer, []).append(head)
    edits = {
        layers[index].name: edit_of(name, place_of(layers[index], scene, (t,), seed), heads=own)
        for index, own in heads.items()
    }

    def edit(call: Call, run: Run) -> Tensor:
        return edits[call.name](call, run)

    return [layers[index] for index in heads], edit


@torch.no_grad()
def knock_out(
    model: MultiViewModel,
    scene: Scene,
    layers: Sequence[Layer],
    sets: Sequence[HeadSet],
    *,
    intervention: Intervention,
    t: int,
    seed: int,
) -> pd.DataFrame:
    """Measure by how much each set of heads, knocked out together, raises the error of the denoised prediction.

    Args:
        model: The model.
        scene: One scene, with the truth on the layers' grids.
        layers: Among which the heads are.
        sets: Heads to knock out together.
        intervention: How.
        t: Timestep index.
        seed: Of the shuffled keys.

    Returns:
        A row per set: heads (number of them), which, chosen (the heads, in words), scene, value (growth of the error:
        0.1 is 10 % more; mean over the target views in which it is known, NaN where it is in none) and count (of them).
    """
    device = model.alpha_bar.device
    scene = replace(scene, views=scene.views.to(device), noise=scene.noise.to(device))
    denoised, clean = denoiser(model, scene.views, scene.noise, t)
    usual, by_index = denoised(), {layer.index: layer for layer in layers if layer.index is not None}
    rows = []
    for chosen in sets:
        edited, edit = edit_of_heads(intervention, chosen.heads, by_index, scene, t, seed)
        with AttentionTap(model.network, edited, edit=edit):
            value, count = prediction_effect(denoised(), usual, clean)[EFFECT]
        named = {"heads": len(chosen.heads), "which": chosen.which, "chosen": str(chosen), "scene": scene.name}
        rows.append({**named, "value": float(value.nanmean()), "count": int(count.sum())})
    return pd.DataFrame(rows)
