"""What a measuring protocol is: how matches are made, which queries count, and what is reported."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor

from probe.layers import ViewLayout
from probe.matching import RatioMatches, ratio_matches
from probe.measure.scene import Grid, LayerCall, Scene
from probe.metrics import GridTruth, Measured, Threshold

Thresholds = tuple[Threshold, ...]
Nearest = Callable[
    [Float[Tensor, "b heads joint d"], Float[Tensor, "b heads joint d"], ViewLayout, GridTruth], RatioMatches
]
"""Matches queries to keys as descriptors."""
Probabilities = Mapping[str, Bool[Tensor, "b 1 fq n fk"] | Float[Tensor, "b 1 fq n fk"]]
"""By threshold, how likely each query's match is right."""


def any_key(
    q: Float[Tensor, "b heads joint d"], k: Float[Tensor, "b heads joint d"], layout: ViewLayout, _truth: GridTruth
) -> RatioMatches:
    """Match to the nearest key by squared L2, whether its point is known or not."""
    return ratio_matches(q, k, layout)


def as_they_are(limits: Thresholds) -> Thresholds:
    """Judge by the scene's thresholds."""
    return limits


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What a protocol reports of one call on one grid.

    Attributes:
        grid: That truth is known on.
        measured: By metric.
        suffix: Of the protocol's name in the score table.
        on_same_queries: Scores guesses on the very queries that these scores count; None where all layers of the grid
            count the same ones.
    """

    grid: Grid
    measured: Measured
    suffix: str = ""
    on_same_queries: Callable[[Probabilities], Measured] | None = None


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How matches are made, which queries count, and what is reported.

    Attributes:
        name: With its version; a change of any rule needs a new version.
        rule: In a few sentences, with all deviations from what was published.
        direction: Of the pairs that layers are ranked by: query side, then key side.
        select_by: The metric that layers are ranked by.
        limits: The thresholds that it judges by, from those of the scene's unit.
        chooses: Whether each layer chooses queries. Guesses are then scored in the layer's rows, on those queries;
            else once per grid.
        score: All scores of one layer's call.
        match: The call's matches, [1 rows fq n fk]: row 0 is all heads together.
        nearest: Matches of descriptors, for a matcher without attention.
        judge: Their scores.
        oracle: Scores of one match per query where queries may be chosen by the true error: the ceiling.
        evaluated: Queries to choose from; a guess that has nothing to choose by is evaluated on all of them.
        uniform: Scores of attention that is equal everywhere, beside its precision.
        metrics: Names of the precisions that are reported.
    """

    name: str
    rule: str
    direction: str = "tgt-ref"
    select_by: str = "precision@5%"
    limits: Callable[[Thresholds], Thresholds] = as_they_are
    chooses: bool = False
    score: Callable[[LayerCall, Scene], list[Scores]]
    match: Callable[[LayerCall, GridTruth], Int[Tensor, "1 rows fq n fk"]]
    nearest: Nearest = any_key
    judge: Callable[[RatioMatches, GridTruth, Thresholds], Measured]
    oracle: Callable[[Int[Tensor, "b 1 fq n fk"], GridTruth, Threshold], Measured]
    evaluated: Callable[[GridTruth], Bool[Tensor, "b 1 fq n fk"]]
    uniform: Callable[[GridTruth], Measured]
    metrics: Callable[[Thresholds], list[str]]
