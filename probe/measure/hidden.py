"""Where attention looks from a query whose point the key view does not show, beside queries whose point it shows.

A layer that matches may still name a key token where there is nothing to find (it hallucinates a match), or spread its
weight over the view. Mass, entropy and highest weight are those of the attention weights as used, whatever the run's
protocol; row 0 of each is all heads together.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from einops import rearrange, reduce
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probe.correspondence import query_causes
from probe.layers import ViewLayout
from probe.matching import Bias, first_highest, weights_within_views
from probe.measure.scene import Grid, LayerCall, Scene
from probe.measure.score import tabulate
from probe.metrics import GridTruth, Measured, counted_mean, errors, is_below, thresholds, uniform_chance
from probe.protocols.attention import hidden_keys
from probe.records import KEY_VIEW_MASS, Rows, grid_name
from probe.records.names import (
    AT_PROJECTION,
    CAUSES,
    CONFIDENT,
    HIDDEN_PROTOCOL,
    HIGHEST_WEIGHT,
    OCCLUDED,
    PROJECTION_CHANCE,
    PROJECTION_LEAD,
    RIGHT_MATCH_WEIGHT,
    SHARE_OF_ENTROPY,
    VISIBLE,
    of_queries,
)
from probe.views import IMAGE_PLANE, Views

AT_POINT = next(limit for limit in thresholds(IMAGE_PLANE) if limit.name == "precision@5%")
"""A match lies where the point projects, and is right where the point is seen, within 5 % of the image's side."""
LEAST_PEAK = 2.0
"""Times the uniform weight 1 / n that the highest of n weights must reach to name a token at all.

Where attention is equal everywhere, or almost, a "right" match is luck and its weight is that of every other token; a
weight as high says nothing. One that is twice the uniform weight cannot be rounding.
"""


@dataclass(frozen=True, kw_only=True)
class Looks:
    """For each query token and key view, how attention is spread there; rows: all heads together, then each head.

    Attributes:
        token: Key token with the highest weight in the key view; the first of equal ones.
        mass: Share of the weight, over the tokens of all views, that falls on the key view.
        highest: Highest weight, of weights that sum to 1 within the key view: 1 / n to 1.
        entropy: Of these weights over log(n), 0 (one token) to 1 (all n alike); NaN in views of one token.
    """

    token: Int[Tensor, "b rows fq n fk"]
    mass: Float[Tensor, "b rows fq n fk"]
    highest: Float[Tensor, "b rows fq n fk"]
    entropy: Float[Tensor, "b rows fq n fk"]


@dataclass(frozen=True, kw_only=True)
class GridQueries:
    """The queries of a scene's grid by why a key view shows their point, or does not.

    Attributes:
        truth: Of the grid.
        causes: By cause (:func:`probe.correspondence.query_causes`).
        chance: How likely a token drawn uniformly lies where the point projects.
    """

    truth: GridTruth
    causes: Mapping[str, Bool[Tensor, "b fq n fk"]]
    chance: Float[Tensor, "b 1 fq n fk"]


def grid_queries(views: Views, truth: GridTruth) -> GridQueries:
    """Sort the queries of a grid by cause.

    Args:
        views: Of the scene.
        truth: Of the grid, on these views.
    """
    chance = uniform_chance(truth, (AT_POINT,))[AT_POINT.name]
    return GridQueries(truth=truth, causes=query_causes(views, truth.grid), chance=chance)


def queries_of_scene(scene: Scene) -> dict[Grid, GridQueries]:
    """Sort the queries of each grid of a scene by cause.

    Raises:
        ValueError: If the scene has no cameras: nothing then tells why a point is not seen.
    """
    if not scene.views.has_cameras:
        raise ValueError(
            f"scene {scene.name!r} has no cameras, expected posed views: without them nothing tells whether a point is "
            "occluded or out of frame; measure on scenes with cameras and depth"
        )
    return {grid: grid_queries(scene.views, truth) for grid, truth in scene.truths.items()}


def looks(
    q: Float[Tensor, "b heads joint d"],
    k: Float[Tensor, "b heads joint d"],
    scale: float,
    layout: ViewLayout,
    *,
    bias: Bias = None,
) -> Looks:
    """Read off the attention weights how each query looks into each key view; a few queries are held at a time.

    Args:
        q: Queries as used by the layer.
        k: Keys as used by the layer.
        scale: Factor of the logits.
        layout: Where the views' tokens lie.
        bias: What the layer's mask adds to the logits.
    """
    parts = [
        (first_highest(weights), mass, weights.amax(-1), torch.special.entr(weights).sum(-1))
        for weights, mass in weights_within_views(q, k, scale, layout, bias=bias)
    ]
    split = "b rows (fq n) fk -> b rows fq n fk"
    token, mass, highest, entropy = (
        rearrange(torch.cat(column, dim=2), split, fq=layout.views) for column in zip(*parts, strict=True)
    )
    most = math.log(layout.grid[0] * layout.grid[1]) or math.nan
    return Looks(token=token, mass=mass, highest=highest, entropy=(entropy / most).clamp(max=1))


def open_queries(layout: ViewLayout, bias: Float[Tensor, "b #heads #joint joint"]) -> Bool[Tensor, "b fq #n fk"]:
    """Return which queries the layer's mask lets attend to every token of a key view; only those are measured.

    Args:
        layout: Where the views' tokens lie.
        bias: What the mask adds to the logits.
    """
    closed = reduce(hidden_keys(layout, bias).float(), "b q fk n -> b q fk", "max") > 0
    if closed.shape[1] == 1:
        return rearrange(~closed, "b 1 fk -> b 1 1 fk")
    return rearrange(~closed, "b (fq n) fk -> b fq n fk", fq=layout.views)


def scores_by_cause(
    seen: Looks, queries: GridQueries, measurable: Bool[Tensor, "b #fq #n fk"] | None = None
) -> Measured:
    r"""Average how queries look, cause by cause.

    A query is *as peaked as a right match* if its highest weight reaches :func:`right_match_weight` of the same layer,
    head and pair of views, and :data:`LEAST_PEAK` times the uniform weight. Of hidden queries that share is the rate of
    hallucinated matches: nothing in the weights tells them from matches that are right. Of rightly matched queries
    themselves it is at least one half, wherever they are peaked at all.

    Args:
        seen: Of one layer.
        queries: Of its grid.
        measurable: Queries that may count; None for all.

    Returns:
        By metric and cause, such as "confident|occluded": in [0, 1], the lead over chance in [-1, 1]; NaN with count 0
        where nothing counts.
    """
    counted = {
        cause: (part if measurable is None else part & measurable)[:, None] for cause, part in queries.causes.items()
    }
    at_point = is_below(errors(seen.token, queries.truth, AT_POINT.kind), AT_POINT)
    right = at_point & counted[VISIBLE]
    weight = right_match_weight(seen.highest, right)
    confident = seen.highest >= rearrange(_bar(weight, len(queries.truth.centres)), "b rows fq fk -> b rows fq 1 fk")
    judged = rearrange(weight.isfinite(), "b rows fq fk -> b rows fq 1 fk")
    measured: Measured = {of_queries(RIGHT_MATCH_WEIGHT, VISIBLE): (weight, right.sum(3))}
    for cause in CAUSES:
        part = {
            KEY_VIEW_MASS: counted_mean(seen.mass, counted[cause]),
            SHARE_OF_ENTROPY: counted_mean(seen.entropy, counted[cause]),
            HIGHEST_WEIGHT: counted_mean(seen.highest, counted[cause]),
            CONFIDENT: counted_mean(confident, counted[cause] & judged),
        }
        if cause in (VISIBLE, OCCLUDED):
            part |= _at_projection(at_point, queries.chance, counted[cause])
        measured |= {of_queries(name, cause): value for name, value in part.items()}
    return measured


def right_match_weight(
    highest: Float[Tensor, "b rows fq n fk"], right: Bool[Tensor, "b rows fq n fk"]
) -> Float[Tensor, "b rows fq fk"]:
    """Return the median highest weight of the rightly matched visible queries of each pair of views.

    Args:
        highest: Highest weight of each query.
        right: Visible queries whose match is right.

    Returns:
        The lower of two medians; NaN where no match is right.
    """
    return torch.where(right, highest, torch.nan).nanmedian(dim=3).values


def _bar(weight: Float[Tensor, "*shape"], n: int) -> Float[Tensor, "*shape"]:
    """Return the weight that the highest one must reach; NaN stays."""
    return weight.clamp(min=LEAST_PEAK / n)


def _at_projection(
    at_point: Bool[Tensor, "b rows fq n fk"],
    chance: Float[Tensor, "b 1 fq n fk"],
    counted: Bool[Tensor, "b 1 fq n fk"],
) -> Measured:
    """Compare where matches lie with where the points project, even through what is in front of them."""
    drawn = chance.expand(at_point.shape)
    return {
        AT_PROJECTION: counted_mean(at_point, counted),
        PROJECTION_CHANCE: counted_mean(drawn, counted),
        PROJECTION_LEAD: counted_mean(at_point.float() - drawn, counted),
    }


def hidden_rows(call: LayerCall, scene: Scene, queries: Mapping[Grid, GridQueries]) -> Rows:
    """Measure one layer's call on one scene, cause by cause.

    Args:
        call: Of the layer.
        scene: That it was made on.
        queries: Of the scene's grids.

    Returns:
        Rows by metric and cause, head and ordered pair of views, as rows of the score table.
    """
    seen = looks(call.q, call.k, call.scale, call.layout, bias=call.bias)
    measurable = None if call.bias is None else open_queries(call.layout, call.bias)
    own = {"model": call.model, "step": call.step, "layer": call.layer.index, "layer_name": call.layer.name}
    own |= {"timestep": call.timestep, "grid": grid_name(call.layout.grid), "protocol": HIDDEN_PROTOCOL}
    return tabulate(scores_by_cause(seen, queries[call.layout.grid], measurable), scene, own)
