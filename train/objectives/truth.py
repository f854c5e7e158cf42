"""The geometry that supervision sees of a batch: another source than the scene's own depth, and noise on it.

Only the added objective sees it. The model's conditioning and its targets, and every evaluation, keep the scenes
unchanged.
"""

from collections.abc import Callable, Sequence

import torch

from probe.correspondence.noise import perturb_each, read_noise
from probe.correspondence.sources import open_source
from probe.scenes.recordings import with_geometry
from probe.views import Views

TruthTransform = Callable[[Views, Sequence[int]], Views]
"""Return the views as supervision sees them; takes one seed per scene."""


def keep_truth(views: Views, seeds: Sequence[int]) -> Views:
    """Return the views themselves."""
    return views


def check_noise(noise: str | None) -> None:
    """Refuse noise that cannot be read.

    Raises:
        ValueError: If a kind is unknown, or an amount out of range.
    """
    if noise:
        read_noise(noise)


def make_truth_transform(source: str | None, noise: str | None, device: torch.device) -> TruthTransform:
    """Build what turns a batch's views into those that supervision sees.

    Args:
        source: Of geometry, see :func:`probe.correspondence.sources.open_source`; None keeps the scene's own points.
        noise: See :func:`probe.correspondence.noise.read_noise`; None adds none.
        device: That a source computes on.

    Raises:
        ValueError: If the source or the noise is unknown, or a package or file that it needs is missing.
    """
    geometry, amounts = source and open_source(source, device), noise and read_noise(noise)
    if not geometry and not amounts:
        return keep_truth

    def transform(views: Views, seeds: Sequence[int]) -> Views:
        sourced = with_geometry(views, geometry) if geometry else views
        return perturb_each(sourced, amounts, seeds) if amounts else sourced

    return transform
