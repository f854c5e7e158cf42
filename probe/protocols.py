"""Measuring protocols, named and versioned: how matches are made, which queries count, what is reported.

A protocol is one object; no other code that measures asks which one it is. To add one, write its functions and name it
in :data:`PROTOCOLS`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probe.layers import ViewLayout
from probe.matching import RatioMatches, attention_matches, common_grid_matches, ratio_matches
from probe.measure.scene import Grid, LayerCall, Scene
from probe.metrics import GridTruth, Measured, Threshold, best_share, counted_mean, errors, precisions
from probe.records.names import ATTENTION_METRICS, COMMON_GRID, KEPT, with_coverage

Thresholds = tuple[Threshold, ...]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What a protocol reports of one call on one grid.

    Attributes:
        grid: That truth is known on.
        measured: By metric.
        suffix: Of the protocol's name in the score table.
    """

    grid: Grid
    measured: Measured
    suffix: str = ""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How matches are made, which queries count, and what is reported.

    Attributes:
        name: With its version; a change of any rule needs a new version.
        rule: In a sentence.
        direction: Of the pairs that layers are ranked by: query side, then key side.
        select_by: The metric that layers are ranked by.
        score: All scores of one layer's call.
        match: The call's matches, [1 rows fq n fk]: row 0 is all heads together.
        judge: Scores of nearest-descriptor matches, with Lowe's ratio, by a matcher without attention.
        oracle: Scores of one match per query where queries may be chosen by the true error: the ceiling.
        evaluated: Queries that a guess is evaluated on.
        uniform: Scores of attention that is equal everywhere, beside its precision.
        metrics: Names of the precisions that are reported.
    """

    name: str
    rule: str
    direction: str = "tgt-ref"
    select_by: str = "precision@5%"
    score: Callable[[LayerCall, Scene], list[Scores]]
    match: Callable[[LayerCall, GridTruth], Int[Tensor, "1 rows fq n fk"]]
    judge: Callable[[RatioMatches, GridTruth, Thresholds], Measured]
    oracle: Callable[[Int[Tensor, "b 1 fq n fk"], GridTruth, Threshold], Measured]
    evaluated: Callable[[GridTruth], Bool[Tensor, "b 1 fq n fk"]]
    uniform: Callable[[GridTruth], Measured]
    metrics: Callable[[Thresholds], list[str]]


# --- attention-v1: the highest weight, on visible queries ------------------------------------------------------------


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


# --- ratio-v1: the nearest descriptor, on the least ambiguous queries ------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class RatioRule:
    """Which queries count, by the ratio of the two nearest squared distances.

    Attributes:
        keep: Share of the queries kept for the headline metrics, those of the lowest ratio.
        most: Keep no more than these per view pair.
        coverages: Shares of the queries, best ratio first, of which the precision is reported as well.
    """

    keep: float
    most: int
    coverages: tuple[float, ...]

    def kept(self, matches: RatioMatches, truth: GridTruth) -> Bool[Tensor, "b fq n fk"]:
        """Return which queries the headline metrics count."""
        return best_share(matches.ratio, judged_queries(truth), self.keep, self.most)


RATIO_V1 = RatioRule(keep=0.25, most=1000, coverages=(0.1, 0.25, 0.5, 0.75, 1.0))


def judged_queries(truth: GridTruth) -> Bool[Tensor, "b fq n fk"]:
    """Return which queries the ratio protocol can judge: their own point is known, seen in the other view or not."""
    return rearrange(truth.valid, "b fq n -> b fq n 1").expand_as(truth.visible)


def ratio_scores(matches: RatioMatches, truth: GridTruth, limits: Thresholds, rule: RatioRule) -> Measured:
    """Score matches by a ratio rule: precisions of the kept ones, their share, and precision over coverage."""
    valid = judged_queries(truth)
    token = rearrange(matches.token, "b fq n fk -> b 1 fq n fk")
    kept = rule.kept(matches, truth)
    measured = precisions(token, kept[:, None], truth, limits)
    measured[KEPT] = counted_mean(kept[:, None], valid[:, None])
    for coverage in rule.coverages:
        chosen = best_share(matches.ratio, valid, coverage)[:, None]
        curve = precisions(token, chosen, truth, limits)
        measured.update({with_coverage(name, coverage): value for name, value in curve.items()})
    return measured


def _score_ratio(call: LayerCall, scene: Scene, rule: RatioRule) -> list[Scores]:
    truth = scene.truths[call.layout.grid]
    matches = ratio_matches(call.q, call.k, call.layout)
    return [Scores(grid=truth.grid, measured=ratio_scores(matches, truth, scene.thresholds, rule))]


def _match_ratio(call: LayerCall, _truth: GridTruth) -> Int[Tensor, "1 1 fq n fk"]:
    return ratio_matches(call.q, call.k, call.layout).token[:, None]


def _ratio_oracle(
    token: Int[Tensor, "b 1 fq n fk"], truth: GridTruth, threshold: Threshold, rule: RatioRule
) -> Measured:
    """Choose queries by their true error instead of the ratio."""
    error = errors(token, truth, threshold.kind)[:, 0].nan_to_num(nan=torch.finfo(torch.float32).max)
    return ratio_scores(RatioMatches(token=token[:, 0], ratio=error), truth, (threshold,), rule)


def _ratio_metrics(limits: Thresholds, rule: RatioRule) -> list[str]:
    names = [limit.name for limit in limits]
    return names + [with_coverage(name, coverage) for name in names for coverage in rule.coverages]


def ratio_protocol(name: str, rule_in_words: str, rule: RatioRule) -> Protocol:
    """Make a protocol of a ratio rule."""
    return Protocol(
        name=name,
        rule=rule_in_words,
        score=partial(_score_ratio, rule=rule),
        match=_match_ratio,
        judge=partial(ratio_scores, rule=rule),
        oracle=partial(_ratio_oracle, rule=rule),
        evaluated=lambda truth: judged_queries(truth)[:, None],
        uniform=lambda _truth: {},
        metrics=partial(_ratio_metrics, rule=rule),
    )


# --- the protocols ---------------------------------------------------------------------------------------------------

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
PROTOCOLS: dict[str, Protocol] = {
    "attention-v1": ATTENTION_V1,
    "ratio-v1": ratio_protocol(
        "ratio-v1",
        "heads concatenated, query against key, squared L2, ratio of the two nearest; over the quarter of the "
        "query tokens with the lowest ratio, at most 1000 per view pair, visible or not; a match of an unseen point is "
        "wrong unless it lands where the point projects",
        RATIO_V1,
    ),
}
