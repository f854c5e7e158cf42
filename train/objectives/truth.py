"""What supervision is told of a batch's geometry: another source than the scene's own depth, and noise on it.

Only the added objective sees it. What the model is conditioned on, what it should paint, and every evaluation keep the
scenes as they are.
"""

from collections.abc import Callable, Sequence

import torch

from probe.correspondence.noise import perturb_each, read_noise
from probe.correspondence.sources import open_source
from probe.scenes.recordings import with_geometry
from probe.views import Views

Supervise = Callable[[Views, Sequence[int]], Views]
"""Give the views as supervision sees them; one seed per scene."""


def as_they_are(views: Views, seeds: Sequence[int]) -> Views:
    """Give the views themselves."""
    return views


def supervision_of(source: str | None, noise: str | None, device: torch.device) -> Supervise:
    """Read what the command line says of the truth.

    Args:
        source: Of geometry, see :func:`probe.correspondence.sources.open_source`; None keeps the scene's own points.
        noise: See :func:`probe.correspondence.noise.read_noise`; None adds none.
        device: That a source computes on.

    Raises:
        ValueError: If the source or the noise is unknown, or what it needs is not at hand.
    """
    opened, amounts = source and open_source(source, device), noise and read_noise(noise)
    if not opened and not amounts:
        return as_they_are

    def supervise(views: Views, seeds: Sequence[int]) -> Views:
        given = with_geometry(views, opened) if opened else views
        return perturb_each(given, amounts, seeds) if amounts else given

    return supervise
