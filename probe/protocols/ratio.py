"""Ratio protocols: the nearest key as a descriptor, on the queries that Lowe's ratio finds least ambiguous."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import torch
from einops import rearrange, reduce
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probe.layers import ViewLayout
from probe.matching import (
    RatioMatches,
    cosine_matches,
    hides_image_tokens,
    key_pools,
    nearest_of_pool,
    pooled_matches,
    ratio_matches,
)
from probe.measure.scene import LayerCall, Scene
from probe.metrics import GridTruth, Measured, Threshold, best_share, counted_mean, errors, judged_mean, right_matches
from probe.protocols.protocol import Nearest, Probabilities, Protocol, Scores, Thresholds, any_key, as_they_are
from probe.records.names import KEPT, threshold_metric, with_coverage

Judged = Callable[[GridTruth], Bool[Tensor, "b fq n fk"]]


def judged_queries(truth: GridTruth) -> Bool[Tensor, "b fq n fk"]:
    """Return which queries have a point, seen in the other view or not."""
    return rearrange(truth.valid, "b fq n -> b fq n 1").expand_as(truth.visible)


def queries_with_keys(truth: GridTruth) -> Bool[Tensor, "b fq n fk"]:
    """Return which queries have a point, and a key view with two tokens or more that have one."""
    keys = reduce(truth.valid.long(), "b fk n -> b 1 1 fk", "sum")
    return judged_queries(truth) & (keys >= 2)


def all_queries(truth: GridTruth) -> Bool[Tensor, "b fq n fk"]:
    """Return all queries, also those without a point."""
    return torch.ones_like(truth.visible)


@dataclass(frozen=True, kw_only=True)
class RatioRule:
    """How keys are matched and which queries count, by the ratio of the two smallest distances.

    Attributes:
        keep: Share of the queries kept for the headline metrics, those of the lowest ratio.
        most: Keep no more than these: per view pair, or per pair of pools.
        coverages: Shares of the queries, best ratio first, of which the precision is reported as well.
        nearest: How queries are matched to keys.
        judged: Queries to choose from.
        pooled: The reference views are one pool and the target views another; queries of a pool compete, and each query
            has one match in each pool of keys.
        limits: The thresholds, from those of the scene's unit.
    """

    keep: float = 1.0
    most: int
    coverages: tuple[float, ...] = ()
    nearest: Nearest = any_key
    judged: Judged = judged_queries
    pooled: bool = False
    limits: Callable[[Thresholds], Thresholds] = as_they_are

    def kept(self, matches: RatioMatches, truth: GridTruth) -> Bool[Tensor, "b fq n fk"]:
        """Return which queries the headline metrics count."""
        return self.best(matches, truth, self.keep, self.most)

    def best(
        self, matches: RatioMatches, truth: GridTruth, share: float, most: int | None = None
    ) -> Bool[Tensor, "b fq n fk"]:
        """Return the queries of the lowest ratio: a share of those judged, and no more than ``most``."""
        judged = self.judged(truth)
        if not self.pooled:
            return best_share(matches.ratio, judged, share, most)
        return _best_of_pools(matches.ratio, judged, truth.n_ref, share, most)


def _best_of_pools(
    ratio: Float[Tensor, "b fq n fk"], judged: Bool[Tensor, "b fq n fk"], n_ref: int, share: float, most: int | None
) -> Bool[Tensor, "b fq n fk"]:
    """Choose among the queries of all views of a pool together; those of infinite ratio have no match there."""
    matched, chosen, sides = judged & ratio.isfinite(), torch.zeros_like(judged), (slice(n_ref), slice(n_ref, None))
    for queries, keys in product(sides, sides):
        pool = chosen[:, queries, :, keys]
        ratios, candidates = (
            rearrange(x[:, queries, :, keys], "b fq n fk -> b 1 (fq n fk) 1") for x in (ratio, matched)
        )
        pool.copy_(best_share(ratios, candidates, share, most).reshape(pool.shape))
    return chosen


def score_chosen(right: Probabilities, matches: RatioMatches, truth: GridTruth, rule: RatioRule) -> Measured:
    """Average what is right over the queries that a rule chooses by the ratio of some matches.

    Args:
        right: By threshold, of the matches themselves or of a guess.
        matches: Whose ratio chooses.
        truth: Of the same grid.
        rule: Which queries are chosen.

    Returns:
        By metric; NaN with count 0 where no query is chosen.
    """
    kept = rule.kept(matches, truth)[:, None]
    measured = judged_mean(right, kept, truth)
    for coverage in rule.coverages:
        chosen = rule.best(matches, truth, coverage)[:, None]
        measured |= {with_coverage(name, coverage): counted_mean(value, chosen) for name, value in right.items()}
    return measured


def ratio_scores(matches: RatioMatches, truth: GridTruth, limits: Thresholds, rule: RatioRule) -> Measured:
    """Score matches by a ratio rule: precisions of the kept ones, their share, and precision over coverage."""
    right = right_matches(rearrange(matches.token, "b fq n fk -> b 1 fq n fk"), truth, limits)
    kept, judged = rule.kept(matches, truth)[:, None], rule.judged(truth)[:, None]
    return score_chosen(right, matches, truth, rule) | {KEPT: counted_mean(kept, judged)}


def _score_ratio(call: LayerCall, scene: Scene, rule: RatioRule) -> list[Scores]:
    truth = scene.truths[call.layout.grid]
    _refuse_hidden_keys(call)
    matches = rule.nearest(call.q, call.k, call.layout, truth)
    measured = ratio_scores(matches, truth, rule.limits(scene.thresholds), rule)
    guessed = partial(score_chosen, matches=matches, truth=truth, rule=rule)
    return [Scores(grid=truth.grid, measured=measured, on_same_queries=guessed)]


def _refuse_hidden_keys(call: LayerCall) -> None:
    """Refuse masks over image tokens: descriptors would be matched that the layer never compares."""
    if hides_image_tokens(call.bias, call.layout):
        raise ValueError(
            f"layer {call.layer.name!r} hides image tokens from others by its mask, where a ratio protocol matches "
            "all; use the protocol attention-v1"
        )


def _match_ratio(call: LayerCall, truth: GridTruth, rule: RatioRule) -> Int[Tensor, "1 1 fq n fk"]:
    return rule.nearest(call.q, call.k, call.layout, truth).token[:, None]


def _ratio_oracle(
    token: Int[Tensor, "b 1 fq n fk"], truth: GridTruth, threshold: Threshold, rule: RatioRule
) -> Measured:
    """Choose queries, and where key views are pooled the view as well, by the true error instead of the ratio."""
    error = errors(token, truth, threshold.kind)[:, 0].nan_to_num(nan=torch.finfo(torch.float32).max)
    if rule.pooled:
        pools = key_pools(error.shape[1], truth.n_ref, device=error.device)
        error = torch.minimum(*(nearest_of_pool(error, pool, error) for pool in pools))
    return ratio_scores(RatioMatches(token=token[:, 0], ratio=error), truth, (threshold,), rule)


def _ratio_metrics(limits: Thresholds, rule: RatioRule) -> list[str]:
    names = [limit.name for limit in rule.limits(limits)]
    return names + [with_coverage(name, coverage) for name in names for coverage in rule.coverages]


def ratio_protocol(name: str, rule_in_words: str, rule: RatioRule, *, select_by: str = "precision@5%") -> Protocol:
    """Make a protocol of a ratio rule.

    Args:
        name: With its version.
        rule_in_words: For the reader.
        rule: How keys are matched and which queries count.
        select_by: The metric that layers are ranked by.
    """
    return Protocol(
        name=name,
        rule=rule_in_words,
        select_by=select_by,
        limits=rule.limits,
        chooses=True,
        score=partial(_score_ratio, rule=rule),
        match=partial(_match_ratio, rule=rule),
        nearest=rule.nearest,
        judge=partial(ratio_scores, rule=rule),
        oracle=partial(_ratio_oracle, rule=rule),
        evaluated=lambda truth: rule.judged(truth)[:, None],
        uniform=lambda _truth: {},
        metrics=partial(_ratio_metrics, rule=rule),
    )


# --- ours ------------------------------------------------------------------------------------------------------------

COVERAGES = (0.1, 0.25, 0.5, 0.75, 1.0)
RATIO_V1 = RatioRule(keep=0.25, most=1000, coverages=COVERAGES)
RATIO_V1_WORDS = (
    "ours, not a published protocol: heads concatenated, query against key, squared L2, ratio of the two nearest; over "
    "the quarter of the query tokens with the lowest ratio, at most 1000 per view pair, visible or not; a match of an "
    "unseen point is wrong unless it lies where the point projects; key tokens without a known point can be matched"
)


def _known_keys(
    q: Float[Tensor, "b heads joint d"], k: Float[Tensor, "b heads joint d"], layout: ViewLayout, truth: GridTruth
) -> RatioMatches:
    return ratio_matches(q, k, layout, known=truth.valid)


RATIO_V2 = replace(RATIO_V1, nearest=_known_keys, judged=queries_with_keys)
RATIO_V2_WORDS = (
    "ours: as ratio-v1, but key tokens without a known point are neither nearest nor second nearest; a key view with "
    "fewer than two known tokens counts nothing"
)

# --- as published ----------------------------------------------------------------------------------------------------

PROBE3D_SIDE = 512
"""Pixels a side of the images that probe3d's thresholds are meant for."""
PROBE3D_PIXELS = tuple(
    Threshold(name=threshold_metric(pixels, f"px/{PROBE3D_SIDE}"), kind="projection", value=pixels / PROBE3D_SIDE)
    for pixels in (5, 25, 50)
)


def _with_probe3d_pixels(limits: Thresholds) -> Thresholds:
    return (*limits, *PROBE3D_PIXELS)


def _known_keys_by_cosine(
    q: Float[Tensor, "b heads joint d"], k: Float[Tensor, "b heads joint d"], layout: ViewLayout, truth: GridTruth
) -> RatioMatches:
    return cosine_matches(q, k, layout, truth.valid)


PROBE3D_V1 = RatioRule(most=1000, nearest=_known_keys_by_cosine, judged=queries_with_keys, limits=_with_probe3d_pixels)
PROBE3D_V1_WORDS = (
    "mbanani/probe3d, evaluate_navi_correspondence.py: descriptors of length one, nearest key with a known point by "
    "cosine distance, the 1000 queries with a known point of lowest d1/d2 (all where there are fewer), right below 1, "
    "2, 5 cm in 3D or below 5, 25, 50 of 512 pixels between where the two points are seen. Deviations: descriptors are "
    "the concatenated heads' queries and keys, not one feature map; they are matched on the layer's token grid, not "
    "resized bicubically to a quarter of the image's resolution; a token's point is that of its central known pixel; "
    "pixels scale with the image's side; a point behind the camera is wrong; the suite's other thresholds are "
    "reported as well, and layers are ranked by 25 pixels"
)


def _pools(
    q: Float[Tensor, "b heads joint d"], k: Float[Tensor, "b heads joint d"], layout: ViewLayout, truth: GridTruth
) -> RatioMatches:
    return pooled_matches(q, k, layout, truth.n_ref)


def _inclusive(limits: Thresholds) -> Thresholds:
    return tuple(replace(limit, inclusive=True) for limit in limits)


CAMEO_RELEASE_V1 = RatioRule(most=1000, nearest=_pools, judged=all_queries, pooled=True, limits=_inclusive)
CAMEO_RELEASE_V1_WORDS = (
    "cvlab-kaist/CAMEO, src/modules/attention_visualization_callback.py, _compute_matching_precision: heads "
    "concatenated, query against the keys of all key views together, squared L2, d1 / (d2 + 1e-12), the 1000 lowest of "
    "all query views together, right where the error is at most the threshold; queries without a known point count, as "
    "wrong, and keys without one can be matched. Open in the release, chosen here: the views (queries of the reference "
    "or of the target views, keys of the reference or of the target views but the query's own), the number kept, the "
    "thresholds, the grid (the layer's own). Deviations: a token's point is that of its central known pixel, not a "
    "bilinear mix; a point behind the camera is wrong, where the release projects it through the camera"
)
