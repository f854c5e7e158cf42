"""Other matchers, scored by the same code as attention: one file each, one visible dict.

A matcher looks at a scene once and then gives its scores on any token grid. Most describe each token, rows before
columns; the match is the nearest descriptor in the key view. The epipolar oracle draws its match, and is scored by the
probability of being right.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from probe.baselines import dift, dino, dsift, epipolar, pixels, vggt
from probe.baselines.describing import Grid, by_descriptors
from probe.measure.matcher import Matcher, Scorer, drawn_scores
from probe.metrics import GridTruth, Measured, Threshold
from probe.models.parts.files import named
from probe.protocols import Protocol
from probe.views import Views

Load = Callable[[str, torch.device], Matcher]
"""Load a matcher from a folder or hub id (empty: the usual one), to compute on a device."""
Describe = Callable[[Float[Tensor, "b f 3 height width"], Grid], Float[Tensor, "b f n d"]]


def match_on_lines(views: Views) -> Scorer:
    """Draw matches on the true epipolar lines (:mod:`probe.baselines.epipolar`)."""

    def score(truth: GridTruth, thresholds: tuple[Threshold, ...], protocol: Protocol) -> Measured:
        return drawn_scores(epipolar.weigh_tokens(views, truth), truth, thresholds, protocol)

    return score


def describing(describe: Describe) -> Matcher:
    """Make a matcher of a way to describe images."""
    return by_descriptors(lambda views: lambda grid: describe(views.image, grid))


def without_weights(matcher: Matcher) -> Load:
    """Make a loader of a matcher that needs none, and refuse a folder."""

    def load(source: str, device: torch.device) -> Matcher:
        if source:
            raise ValueError(f"--baselines: {source!r} was given to a matcher that has no weights; give its name alone")
        return matcher

    return load


BASELINES: dict[str, Load] = {
    "dsift": without_weights(describing(dsift.describe)),
    "pixels": without_weights(describing(pixels.describe)),
    "epipolar": without_weights(match_on_lines),
    "dinov2": dino.load_dinov2,
    "dinov3": dino.load_dinov3,
    "dift": dift.load_dift,
    "vggt": vggt.load_matcher,
}
NULLS = ("random", "null")
"""The probed network itself as a comparison: with random weights; with its cameras and noise, but grey images."""


def baseline_names(text: str) -> tuple[str, ...]:
    """Read the comparisons of a command line, such as "dsift,dinov2:FOLDER,null", or "none".

    Raises:
        ValueError: If a name is unknown, or given twice.
    """
    names = () if text in ("", "none") else tuple(text.split(","))
    known = (*BASELINES, *NULLS)
    unknown = sorted({name.partition(":")[0] for name in names} - set(known))
    if unknown:
        raise ValueError(f"--baselines {','.join(unknown)} is unknown; choose from {', '.join(known)}, or none")
    if len(set(names)) < len(names):
        raise ValueError(f"--baselines {text}: names one twice; give each once")
    return names


def open_matchers(names: tuple[str, ...], device: torch.device) -> dict[str, Matcher]:
    """Load the matchers among the comparisons, by the name that tables call them.

    Raises:
        ValueError: If weights are not at hand, with what to do; or if two would have one name.
    """
    parts = [(name, source) for name, _, source in (text.partition(":") for text in names if text not in NULLS)]
    called = [named(name, source) for name, source in parts]
    if len(set(called)) < len(called):
        raise ValueError(f"--baselines {','.join(names)}: tables would call two of them {called}; rename a folder")
    return {name: BASELINES[kind](source, device) for name, (kind, source) in zip(called, parts, strict=True)}
