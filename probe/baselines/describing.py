"""Matchers that describe every token: the match is the nearest descriptor in the key view."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from probe.measure.matcher import Matcher, Scorer, descriptor_scores
from probe.metrics import GridTruth, Measured, Threshold
from probe.protocols import Protocol
from probe.views import Views

Grid = tuple[int, int]
Load = Callable[[str, torch.device], Matcher]
"""Loads a matcher from a folder or hub id (empty: the usual one), to compute on a device."""
Describe = Callable[[Float[Tensor, "b f 3 height width"], Grid], Float[Tensor, "b f n d"]]
"""Returns a descriptor per token of each image, rows before columns."""
Described = Callable[[Grid], Float[Tensor, "b f n d"]]
"""Returns the descriptors of a grid's tokens, rows before columns."""


def by_descriptors(describe: Callable[[Views], Described]) -> Matcher:
    """Return a matcher by the descriptors of tokens."""

    def look(views: Views) -> Scorer:
        described = describe(views)

        def score(truth: GridTruth, thresholds: tuple[Threshold, ...], protocol: Protocol) -> Measured:
            return descriptor_scores(described(truth.grid), truth, thresholds, protocol)

        return score

    return look


def image_matcher(describe: Describe) -> Matcher:
    """Return a matcher by the descriptors of images' tokens."""
    return by_descriptors(lambda views: lambda grid: describe(views.image, grid))


def without_weights(matcher: Matcher) -> Load:
    """Return the loader of a matcher that has no weights, which rejects a folder."""

    def load(source: str, device: torch.device) -> Matcher:
        if source:
            raise ValueError(f"{source!r} was given to a matcher that has no weights; give its name alone")
        return matcher

    return load
