"""Matchers that describe every token: the match is the nearest descriptor in the key view."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from probe.measure.matcher import Matcher, Scorer, descriptor_scores
from probe.metrics import GridTruth, Measured, Threshold
from probe.protocols import Protocol
from probe.views import Views

Grid = tuple[int, int]
Described = Callable[[Grid], Float[Tensor, "b f n d"]]
"""Give the descriptors of a grid's tokens, rows before columns."""


def by_descriptors(describe: Callable[[Views], Described]) -> Matcher:
    """Make a matcher of a way to describe tokens."""

    def look(views: Views) -> Scorer:
        described = describe(views)

        def score(truth: GridTruth, thresholds: tuple[Threshold, ...], protocol: Protocol) -> Measured:
            return descriptor_scores(described(truth.grid), truth, thresholds, protocol)

        return score

    return look
