"""attention-v1: the highest attention weight, on visible queries."""

from dataclasses import replace

import torch
from einops import rearrange, reduce
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probe.attention.masks import HIDDEN
from probe.layers import ViewLayout
from probe.matching import Bias, RatioMatches, attention_matches, common_grid_matches, image_tokens
from probe.measure.scene import LayerCall, Scene
from probe.metrics import GridTruth, Measured, Threshold, counted_mean, precisions
from probe.protocols.protocol import Protocol, Scores, Thresholds
from probe.records.names import ATTENTION_METRICS, COMMON_GRID


def visible_queries(truth: GridTruth) -> Bool[Tensor, "b 1 fq n fk"]:
    """Return which queries count by attention-v1: their point is visible in the key view."""
    return truth.visible[:, None]


def attendable(truth: GridTruth, layout: ViewLayout, bias: Float[Tensor, "b #heads #joint joint"]) -> GridTruth:
    """Return the truth with those queries visible only whose true token the layer's mask lets them attend to."""
    hidden = hidden_keys(layout, bias).expand(len(truth.token), layout.views * len(truth.centres), -1, -1)
    token = rearrange(truth.token.clamp(min=0), "b fq n fk -> b (fq n) fk 1")
    shown = ~rearrange(hidden.gather(-1, token), "b (fq n) fk 1 -> b fq n fk", fq=layout.views)
    return replace(truth, visible=truth.visible & shown)


def _open_pairs(truth: GridTruth, layout: ViewLayout, bias: Float[Tensor, "b #heads #joint joint"]) -> GridTruth:
    hidden = hidden_keys(layout, bias)
    hidden = hidden.expand(-1, layout.views * hidden.shape[-1], -1, -1)
    closed = reduce(hidden.float(), "b (fq n) fk m -> b fq 1 fk", "max", fq=layout.views) > 0
    return replace(truth, visible=truth.visible & ~closed)


def hidden_keys(layout: ViewLayout, bias: Float[Tensor, "b #heads #joint joint"]) -> Bool[Tensor, "b #queries fk n"]:
    """Return which image tokens no head lets an image token attend to."""
    inside = image_tokens(bias.mT, layout)
    rows = bias if bias.shape[2] == 1 else bias[:, :, inside]
    return rearrange(rows.amax(1)[..., inside] <= HIDDEN / 2, "b q (fk n) -> b q fk n", fk=layout.views)


def attention_scores(
    q: Float[Tensor, "b heads joint d"],
    k: Float[Tensor, "b heads joint d"],
    scale: float,
    layout: ViewLayout,
    truth: GridTruth,
    limits: Thresholds,
    bias: Bias = None,
) -> Measured:
    """Score one call by attention-v1: precisions and masses per head and together, entropies together.

    Args:
        q: Queries as used by the layer.
        k: Keys as used by the layer.
        scale: Factor of the logits.
        layout: Where the views' tokens lie.
        truth: Of the layer's grid.
        limits: Which matches are right.
        bias: What the layer's mask adds to the logits; a query whose true token is hidden from it does not count.

    Returns:
        By metric; NaN with count 0 where no query counts.
    """
    truth = truth if bias is None else attendable(truth, layout, bias)
    matches, counted = attention_matches(q, k, scale, layout, truth.token, bias=bias), visible_queries(truth)
    masses = {name: counted_mean(getattr(matches, name), counted) for name in ATTENTION_METRICS}
    return precisions(matches.token, counted, truth, limits) | masses


def common_grid_scores(
    q: Float[Tensor, "b heads joint d"],
    k: Float[Tensor, "b heads joint d"],
    scale: float,
    layout: ViewLayout,
    truth: GridTruth,
    limits: Thresholds,
    bias: Bias = None,
) -> Measured:
    """Score one call after resampling its map to the grid of ``truth``; all heads together.

    A view pair of which the layer's mask hides any key from any query does not count: the finer grid has no own mask.
    """
    truth = truth if bias is None else _open_pairs(truth, layout, bias)
    token = common_grid_matches(q, k, scale, layout, truth.grid, bias=bias)
    return precisions(token, visible_queries(truth), truth, limits)


def _score_attention(call: LayerCall, scene: Scene) -> list[Scores]:
    """Score a call on its own grid, and on the finest grid of the scene."""
    own, finest, seen = scene.truths[call.layout.grid], scene.finest, (call.q, call.k, call.scale, call.layout)
    native = attention_scores(*seen, own, scene.thresholds, call.bias)
    if finest.grid == own.grid:
        common = all_heads({limit.name: native[limit.name] for limit in scene.thresholds})
    else:
        common = common_grid_scores(*seen, finest, scene.thresholds, call.bias)
    return [Scores(grid=own.grid, measured=native), Scores(grid=finest.grid, measured=common, suffix=COMMON_GRID)]


def _match_attention(call: LayerCall, truth: GridTruth) -> Int[Tensor, "1 rows fq n fk"]:
    return attention_matches(call.q, call.k, call.scale, call.layout, truth.token, bias=call.bias).token


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
