"""Scores of matchers other than the model, by the same protocols on the same queries."""

from collections.abc import Callable

import pandas as pd
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from probe.layers import ViewLayout
from probe.measure.scene import Scene
from probe.measure.score import tabulate, without_layer
from probe.metrics import GridTruth, Measured, Threshold, Weigh, drawn_chance, judged_mean
from probe.protocols import Protocol
from probe.records import score_table
from probe.views import Views

Scorer = Callable[[GridTruth, tuple[Threshold, ...], Protocol], Measured]
Matcher = Callable[[Views], Scorer]
"""Look at a scene once; what it returns scores the matches on any grid."""


def measure_matcher(name: str, matcher: Matcher, scene: Scene, protocol: Protocol) -> pd.DataFrame:
    """Score a matcher other than the model on every grid of one scene."""
    score, limits = matcher(scene.views), protocol.limits(scene.thresholds)
    return score_table(
        [
            tabulate(score(truth, limits, protocol), scene, without_layer(name, truth.grid, protocol))
            for truth in scene.truths.values()
        ]
    )


def descriptor_scores(
    descriptors: Float[Tensor, "b f n d"], truth: GridTruth, thresholds: tuple[Threshold, ...], protocol: Protocol
) -> Measured:
    """Score a matcher that describes tokens: the match is the nearest descriptor in the key view, by the protocol."""
    joint = rearrange(descriptors, "b f n d -> b 1 (f n) d")
    matches = protocol.nearest(joint, joint, ViewLayout(descriptors.shape[1], truth.grid), truth)
    return protocol.judge(matches, truth, thresholds)


def drawn_scores(weigh: Weigh, truth: GridTruth, thresholds: tuple[Threshold, ...], protocol: Protocol) -> Measured:
    """Score a matcher that draws: the probability of being right, over the queries that a guess is evaluated on.

    A draw has nothing to choose queries by: where the protocol keeps a share of them, it stands for all.
    """
    evaluated = protocol.evaluated(truth)
    return judged_mean(drawn_chance(truth, thresholds, weigh), evaluated, truth)
