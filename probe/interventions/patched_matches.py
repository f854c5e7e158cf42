"""Patching the keys and values of a few reference tokens: are true matches read?

Of the reference views a few tokens get another scene's keys and values in one layer. Predictions at queries whose true
match was among them are set beside those of which a token of equal distance was. Pure.
"""

from collections.abc import Sequence

import pandas as pd
import torch
from einops import rearrange, reduce
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from probe.capture import AttentionTap
from probe.interventions.patching import Patches, Reader, TwoRuns, patch, two_runs
from probe.layers import Layer, ViewLayout
from probe.measure.scene import Scene
from probe.models.model import MultiViewModel
from probe.records import ALL_HEADS
from probe.records.patching import ANOTHER, MOVED, TRUE_MATCH, WRONG_MATCH

SHARE = 0.1
"""Of the reference views' tokens that are patched at once."""
DRAWS = 4
"""Sets of such tokens per scene."""
APART = 2
"""Tokens, along a side at least, between the true match and the token of equal distance."""
LEAST_QUERIES = 5
"""Of each kind in a scene, over all draws, for a mean."""
EQUAL = 0.5
"""Tokens by which the two distances from the query's place may differ."""


def equal_distance(
    truth: Int[Tensor, "n fk"], seen: Bool[Tensor, "n fk"], grid: tuple[int, int], generator: torch.Generator
) -> Int[Tensor, "n fk"]:
    """Draw, for every query, a wrong token of the key view that lies as far from the query's place as its true match.

    Args:
        truth: Token of the key view that contains the query's point; -1 where it is not seen there.
        seen: Tokens of each key view that the query's view shows; only these are drawn.
        grid: Token rows and columns of a view.
        generator: Of the draw.

    Returns:
        A token whose distance from the query's own place differs by at most :data:`EQUAL` tokens and that lies at least
        :data:`APART` tokens from the true match; -1 where there is none, or no true match.
    """
    place = torch.cartesian_prod(*(torch.arange(side) for side in grid)).float()
    distance = torch.cdist(place, place)
    steps = (place[:, None] - place[None]).abs().amax(-1)
    known = truth.clamp(min=0)
    far = distance.gather(1, known)  # of the true match, from the query's own place
    wrong = torch.full_like(truth, -1)
    for view in range(truth.shape[1]):
        equal = (distance - far[:, view, None]).abs() <= EQUAL
        equal &= (steps[known[:, view]] >= APART) & (truth[:, view, None] >= 0) & seen[:, view]
        drawn = torch.rand(equal.shape, generator=generator).masked_fill(~equal, -1)
        wrong[:, view] = torch.where(equal.any(1), drawn.argmax(1), -1)
    return wrong


def patched_tokens(
    layout: ViewLayout, n_ref: int, generator: torch.Generator, share: float = SHARE
) -> tuple[Bool[Tensor, " tokens"], Bool[Tensor, "n_ref n"]]:
    """Draw tokens of the reference views.

    Args:
        layout: Where the views' tokens lie.
        n_ref: Reference views.
        generator: Of the draw.
        share: Of these tokens that are drawn.

    Returns:
        Which positions of the layer's sequence were drawn, and which tokens of each reference view.
    """
    rows, columns = layout.grid
    chosen = torch.rand(n_ref, rows * columns, generator=generator) < share
    every = torch.zeros(layout.views, rows, columns, dtype=torch.bool)
    every[:n_ref] = rearrange(chosen, "r (h w) -> r h w", h=rows)
    positions = layout.split(torch.arange(layout.tokens)[:, None])[..., 0]
    inside = torch.zeros(layout.tokens, dtype=torch.bool)
    inside[positions[every]] = True
    return inside, chosen


def by_match(
    truth: Int[Tensor, "targets n n_ref"], wrong: Int[Tensor, "targets n n_ref"], chosen: Bool[Tensor, "n_ref m"]
) -> tuple[Bool[Tensor, "targets n"], Bool[Tensor, "targets n"]]:
    """Part the queries into those whose true match was patched and those whose wrong one was, in any reference view.

    Args:
        truth: Token of the true match; -1 where it is not seen.
        wrong: From :func:`equal_distance`; queries without one count in neither.
        chosen: Tokens that were patched.

    Returns:
        Queries of the first kind, and of the second; those of both are in neither.
    """
    views = torch.arange(chosen.shape[0])
    fair = (truth >= 0) & (wrong >= 0)
    true, other = ((chosen[views, token.clamp(min=0)] & fair).any(-1) for token in (truth, wrong))
    return true & ~other, other & ~true


@torch.no_grad()
def patch_matches(
    model: MultiViewModel, scene: Scene, donor: Scene, layers: Sequence[Layer], patches: Patches
) -> pd.DataFrame:
    """Patch keys and values of a few reference tokens, and measure where the prediction moves.

    Args:
        model: The model.
        scene: That is patched, with the truth on the layers' grids.
        donor: Another scene.
        layers: Those that join views.
        patches: At which timesteps, and the seed.

    Returns:
        Rows of the table of patches, measure ``moved``: root mean square of the change at a query's place, over the
        prediction's own, the mean over queries whose true match was patched, and over those whose token of equal
        distance was; count: such queries over all draws. NaN with count 0 for fewer than :data:`LEAST_QUERIES`.
    """
    rows = []
    for t in patches.timesteps:
        runs = two_runs(model, scene, donor, (t, t))
        usual = runs.predict()
        for layer in layers:
            sums = _moved_by_match(model, scene, layer, runs, usual, patches.seed)
            where = {"donor": ANOTHER, "part": "content", "layer": layer.index, "head": ALL_HEADS, "timestep": t}
            rows += [
                {**where, "tokens": tokens, "scene": scene.name, "measure": MOVED, "value": value, "count": count}
                for tokens, (value, count) in sums.items()
            ]
    return pd.DataFrame(rows)


def _moved_by_match(
    model: MultiViewModel, scene: Scene, layer: Layer, runs: TwoRuns, usual: Tensor, seed: int
) -> dict[str, tuple[float, int]]:
    """Return how far the prediction moved at both kinds of queries, and their numbers."""
    layout, n_ref = layer.layout(scene.views.count), scene.views.n_ref
    generator = torch.Generator().manual_seed(seed)
    token = scene.truths[layout.grid].token[0].cpu()
    truth, seen = token[n_ref:, :, :n_ref], rearrange(token[:n_ref, :, n_ref:] >= 0, "r n t -> t n r")
    wrong = torch.stack([equal_distance(*view, layout.grid, generator) for view in zip(truth, seen, strict=True)])
    moved: dict[str, list[Tensor]] = {TRUE_MATCH: [], WRONG_MATCH: []}
    for _ in range(DRAWS):
        inside, chosen = patched_tokens(layout, n_ref, generator)
        reader = Reader(part="content", layout=layout, n_ref=n_ref, where=inside)
        with AttentionTap(model.network, [layer], edit=patch(reader)):
            change = movement(runs.predict(), usual, layout.grid).cpu()
        for values, queries in zip(moved.values(), by_match(truth, wrong, chosen), strict=True):
            values.append(change[queries])
    joined = {tokens: torch.cat(values) for tokens, values in moved.items()}
    return {
        tokens: (float(values.mean()), len(values)) if len(values) >= LEAST_QUERIES else (float("nan"), 0)
        for tokens, values in joined.items()
    }


def movement(
    edited: Float[Tensor, "1 targets c h w"], usual: Float[Tensor, "1 targets c h w"], grid: tuple[int, int]
) -> Float[Tensor, "targets n"]:
    """Return how far a prediction moved at the place of each token.

    Args:
        edited: Predicted clean latents under the edit.
        usual: Without.
        grid: Token rows and columns of a view.

    Returns:
        Root mean square of the change over the token's place, over that of all of the view's prediction.
    """
    square = reduce((edited - usual)[0].square(), "targets c h w -> targets 1 h w", "mean")
    size = reduce(usual[0].square(), "targets c h w -> targets 1", "mean")
    there = rearrange(F.adaptive_avg_pool2d(square, grid), "targets 1 rows columns -> targets (rows columns)")
    return (there / size).sqrt()
