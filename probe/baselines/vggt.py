"""VGGT as a matcher: the match is the token whose point, by :mod:`probe.correspondence.vggt`, is nearest in 3D."""

import torch

from probe.baselines.describing import Described, Matcher, by_descriptors
from probe.correspondence import token_points
from probe.correspondence.vggt import load_network
from probe.views import Views


def load_matcher(source: str, device: torch.device) -> Matcher:
    """Load VGGT as a matcher: the match is the token whose predicted point is nearest in 3D."""
    predict = load_network(source, device)

    def describe(views: Views) -> Described:
        points = predict(views).points
        known = torch.ones_like(views.valid)
        return lambda grid: token_points(points, known, grid)[0]

    return by_descriptors(describe)
