"""attention-v1: the highest attention weight, on visible queries."""

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probe.layers import ViewLayout
from probe.matching import RatioMatches, attention_matches, common_grid_matches
from probe.measure.scene import LayerCall, Scene
from probe.metrics import GridTruth, Measured, Threshold, counted_mean, precisions
from probe.protocols.protocol import Protocol, Scores, Thresholds
from probe.records.names import ATTENTION_METRICS, COMMON_GRID


def visible_queries(truth: GridTruth) -> Bool[Tensor, "b 1 fq n fk"]:
    """Return which queries count by attention-v1: their point is visible in the key view."""
    return truth.visible[:, None]


def attention_scores(
    q: Float[Tensor, "b heads joint d"],
    k: Float[Tensor, "b heads joint d"],
    scale: float,
    layout: ViewLayout,
    truth: GridTruth,
    limits: Thresholds,
) -> Measured:
    """Score one call by attention-v1: precisions and masses per head and together, entropies together.

    Args:
        q: Queries as used by the layer.
        k: Keys as used by the layer.
        scale: Factor of the logits.
        layout: Where the views' tokens lie.
        truth: Of the layer's grid.
        limits: Which matches are right.

    Returns:
        By metric; NaN with count 0 where no query counts.
    """
    matches, counted = attention_matches(q, k, scale, layout, truth.token), visible_queries(truth)
    masses = {name: counted_mean(getattr(matches, name), counted) for name in ATTENTION_METRICS}
    return precisions(matches.token, counted, truth, limits) | masses


def common_grid_scores(
    q: Float[Tensor, "b heads joint d"],
    k: Float[Tensor, "b heads joint d"],
    scale: float,
    layout: ViewLayout,
    truth: GridTruth,
    limits: Thresholds,
) -> Measured:
    """Score one call after resampling its map to the grid of ``truth``; all heads together."""
    token = common_grid_matches(q, k, scale, layout, truth.grid)
    return precisions(token, visible_queries(truth), truth, limits)


def _score_attention(call: LayerCall, scene: Scene) -> list[Scores]:
    """Score a call on its own grid, and on the finest grid of the scene."""
    own, finest, seen = scene.truths[call.layout.grid], scene.finest, (call.q, call.k, call.scale, call.layout)
    native = attention_scores(*seen, own, scene.thresholds)
    if finest.grid == own.grid:
        common = all_heads({limit.name: native[limit.name] for limit in scene.thresholds})
    else:
        common = common_grid_scores(*seen, finest, scene.thresholds)
    return [Scores(grid=own.grid, measured=native), Scores(grid=finest.grid, measured=common, suffix=COMMON_GRID)]


def _match_attention(call: LayerCall, truth: GridTruth) -> Int[Tensor, "1 rows fq n fk"]:
    return attention_matches(call.q, call.k, call.scale, call.layout, truth.token).token


def _judge_visible(matches: RatioMatches, truth: GridTruth, limits: Thresholds) -> Measured:
    return precisions(rearrange(matches.token, "b fq n fk -> b 1 fq n fk"), visible_queries(truth), truth, limits)


def _visible_oracle(token: Int[Tensor, "b 1 fq n fk"], truth: GridTruth, threshold: Threshold) -> Measured:
    return precisions(token, visible_queries(truth), truth, (threshold,))


def _uniform_attention(truth: GridTruth) -> Measured:
    """Return what masses, entropy and cross-entropy are where attention is equal everywhere."""
    n, f = len(truth.centres), truth.points.shape[1]
    flat = torch.zeros(len(truth.points), 1, f * n, 1, device=truth.xy.device)
    return all_heads(attention_scores(flat, flat, 1.0, ViewLayout(f, truth.grid), truth, ()))


def all_heads(measured: Measured) -> Measured:
    """Keep row 0: all heads together."""
    return {name: (value[:, :1], count[:, :1]) for name, (value, count) in measured.items()}


ATTENTION_V1 = Protocol(
    name="attention-v1",
    rule="attention weights as used, averaged over heads, restricted to the key view, argmax; over all query "
    "tokens whose point is visible in the key view (depth test)",
    score=_score_attention,
    match=_match_attention,
    judge=_judge_visible,
    oracle=_visible_oracle,
    evaluated=visible_queries,
    uniform=_uniform_attention,
    metrics=lambda limits: [limit.name for limit in limits],
)
