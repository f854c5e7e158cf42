"""VGGT's point maps, from the package ``vggt`` that the user installed: a matcher, and a source of geometry.

- Package: github.com/facebookresearch/vggt (not on PyPI); licence "VGGT License". Not part of this suite.
- Weights: a folder or hub id with ``model.safetensors`` or ``model.pt``, or the file. Empty: ``facebook/VGGT-1B``
  (non-commercial).
- Points: the key ``world_points`` of its output, in the first view's frame and a scale of its own. Its confidence is
  not used: every point counts.
- Size: the longer side becomes 518 pixels, the other one the nearest multiple of 14, bilinearly; points come back to
  the views' pixels from the nearest one, never mixed.

Source: reference/formats.md A6.1.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from einops import rearrange, reduce
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from probe.baselines.describing import Described, by_descriptors
from probe.baselines.dino import patch_grid
from probe.correspondence import token_points
from probe.geometry import camera_centre, invert_rigid
from probe.measure.matcher import Matcher
from probe.models.parts.files import fill, find_checkpoint, read_weights
from probe.models.parts.installed import import_first
from probe.views import Views

USUAL = "facebook/VGGT-1B"
FILES = ("model.safetensors", "model.pt")
PATCH, PATCHES = 14, 37
INSTALL = "clone github.com/facebookresearch/vggt and pip install it"


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Hold what the network says of some views.

    Attributes:
        points: At the views' pixels, in the network's own frame and unit.
        shift: Translation part of each predicted world_to_cam, in that unit.
    """

    points: Float[Tensor, "b f 3 height width"]
    shift: Float[Tensor, "b f 3"]


Predict = Callable[[Views], Prediction]


def load_network(source: str, device: torch.device) -> Predict:
    """Load the network.

    Args:
        source: File, folder or hub id; empty for the usual one.
        device: Where it computes.

    Raises:
        ValueError: If the package or the weights are not there, or do not fit.
    """
    package = import_first(["vggt.models.vggt"], install=INSTALL)
    path = find_checkpoint(source or USUAL, FILES)
    network = package.VGGT()
    fill(network, read_weights(path), origin=f"load_network: {path}")
    network.to(device).eval().requires_grad_(False)
    return lambda views: predict_points(network, views)


@torch.no_grad()
def predict_points(network: nn.Module, views: Views) -> Prediction:
    """Predict the point map of every view, all views of a scene together.

    Raises:
        ValueError: If a point is not finite.
    """
    rows, columns = patch_grid(views.size, PATCHES)
    flat = rearrange(views.image, "b f c height width -> (b f) c height width")
    big = F.interpolate(flat, (rows * PATCH, columns * PATCH), mode="bilinear", antialias=True)
    image = rearrange(big, "(b f) c height width -> b f c height width", f=views.count)
    said = network(image.to(next(network.parameters())))
    maps = rearrange(said["world_points"], "b f height width c -> (b f) c height width").to(flat)
    points = rearrange(F.interpolate(maps, views.size, mode="nearest-exact"), "(b f) ... -> b f ...", f=views.count)
    if not points.isfinite().all():
        raise ValueError("vggt: the network predicts points that are not finite; use full precision or other weights")
    return Prediction(points=points, shift=said["pose_enc"][..., :3].to(flat))


def load_matcher(source: str, device: torch.device) -> Matcher:
    """Load VGGT as a matcher: the match is the token whose predicted point is nearest in 3D."""
    predict = load_network(source, device)

    def describe(views: Views) -> Described:
        points = predict(views).points
        known = torch.ones_like(views.valid)
        return lambda grid: token_points(points, known, grid)[0]

    return by_descriptors(describe)


def load_geometry(source: str, device: torch.device) -> Callable[[Views], tuple[Tensor, Tensor]]:
    """Load VGGT as a source of geometry: its points moved to the scene's frame and unit."""
    predict = load_network(source, device)
    return lambda views: to_scene(predict(views), views)


def to_scene(
    said: Prediction, views: Views
) -> tuple[Float[Tensor, "b f 3 height width"], Bool[Tensor, "b f height width"]]:
    """Move predicted points to the scene's frame and unit, by its cameras.

    The frame is that of the true first camera; the unit makes the predicted cameras' distances from the first one, on
    average, the true ones.

    Returns:
        World points; and where they are known: everywhere, or nowhere in a scene whose cameras stand at one place and
        so tell no unit.
    """
    first = invert_rigid(views.world_to_cam[:, 0])
    true = (camera_centre(views.world_to_cam) - first[:, None, :3, 3]).norm(dim=-1)
    scale = reduce(true, "b f -> b", "sum") / reduce(said.shift.norm(dim=-1), "b f -> b", "sum")
    known = scale.isfinite() & (scale > 0)
    local = said.points * rearrange(scale.where(known, 1), "b -> b 1 1 1 1")
    turned = torch.einsum("bij,bfjhw->bfihw", first[:, :3, :3], local)
    points = turned + rearrange(first[:, :3, 3], "b c -> b 1 c 1 1")
    return points, rearrange(known, "b -> b 1 1 1").expand_as(views.valid).clone()
