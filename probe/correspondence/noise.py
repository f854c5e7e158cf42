"""Controlled noise on the truth: what supervision sees of a scene, while evaluation keeps the scene as it is."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from probe.geometry import depth_to_point_map, point_map_to_depth
from probe.metrics import scene_size
from probe.views import Views, concatenate

BLOBS = 6
"""Cells along a side of the coarse noise that makes holes: blobs are about a sixth of the image wide."""


@dataclass(frozen=True, kw_only=True)
class TruthNoise:
    """Amount of each kind of noise; 0 is none.

    Attributes:
        depth: Standard deviation of the logarithm of depth, drawn per pixel: for small values the relative error.
        holes: Share of each view's pixels that lose their point, in blobs, 0 to 1; counted among all pixels, whether
            they had a point or not.
        rotation: Degrees that every camera turns by about its own centre, around an axis drawn evenly.
        translation: Distance that every camera moves, in a direction drawn evenly, as a share of the scene's size.
    """

    depth: float = 0.0
    holes: float = 0.0
    rotation: float = 0.0
    translation: float = 0.0


KINDS = tuple(field.name for field in fields(TruthNoise))
LIMITS = {"depth": 1.0, "holes": 1.0, "rotation": 180.0, "translation": 1.0}


def read_noise(text: str) -> TruthNoise:
    """Read noise as on the command line: KIND:AMOUNT by commas, such as "depth:.05,holes:.3".

    Raises:
        ValueError: If a kind is unknown or given twice, or an amount is out of range.
    """
    parts = [part.partition(":") for part in text.split(",")]
    kinds = [kind for kind, _, _ in parts]
    if set(kinds) - set(KINDS) or len(set(kinds)) < len(kinds):
        raise ValueError(f"{text!r}: expected KIND:AMOUNT by commas, each kind of {', '.join(KINDS)} once")
    return TruthNoise(**{kind: _amount(kind, value) for kind, _, value in parts})


def _amount(kind: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= LIMITS[kind]:
        raise ValueError(f"{kind}:{text}: expected a number from 0 to {LIMITS[kind]:g}")
    return value


def perturb_each(views: Views, noise: TruthNoise, seeds: Sequence[int]) -> Views:
    """Perturb every scene by a seed of its own, so that its noise does not depend on the batch it is in.

    Raises:
        ValueError: If there are not as many seeds as scenes.
    """
    scenes = zip(range(len(views.image)), seeds, strict=True)
    return concatenate([perturb(views.scene(k), noise, torch.Generator().manual_seed(seed)) for k, seed in scenes])


def perturb(views: Views, noise: TruthNoise, generator: torch.Generator) -> Views:
    """Return the scene as a worse source of geometry would see it: other points, cameras and holes, the same images.

    Each view's points move with its camera, and along its rays; so every view fits its own camera still, and views
    disagree with one another. All kinds are drawn whatever their amounts: the same seed gives the same pattern, scaled.

    Args:
        views: The true scene.
        noise: How much.
        generator: On the CPU.
    """
    device, (height, width) = views.image.device, views.size
    shape = (*views.image.shape[:2], height, width)
    spread = torch.randn(shape, generator=generator).to(device)
    axis, way = (_directions(shape[:2], generator).to(device) for _ in range(2))
    field = _blobs(shape, generator).to(device)
    moved = _move_cameras(views, noise, axis, way)
    depth = point_map_to_depth(views.point_map, views.world_to_cam) * torch.exp(noise.depth * spread)
    return replace(
        views,
        world_to_cam=moved,
        point_map=depth_to_point_map(depth, views.intrinsics, moved),
        valid=views.valid & ~lowest(field, noise.holes),
    )


def _directions(shape: Sequence[int], generator: torch.Generator) -> Float[Tensor, "b f 3"]:
    return F.normalize(torch.randn(*shape, 3, generator=generator), dim=-1)


def _move_cameras(
    views: Views, noise: TruthNoise, axis: Float[Tensor, "b f 3"], way: Float[Tensor, "b f 3"]
) -> Float[Tensor, "b f 4 4"]:
    """Turn cameras about their own centres, then move them in the world."""
    size = rearrange(scene_size(views).nan_to_num(nan=0.0), "b -> b 1 1")
    moved = turn(axis, noise.rotation) @ views.world_to_cam
    shift = torch.einsum("bfij,bfj->bfi", moved[..., :3, :3], noise.translation * size * way)
    moved[..., :3, 3] -= shift
    return moved


def turn(axis: Float[Tensor, "*batch 3"], degrees: float) -> Float[Tensor, "*batch 4 4"]:
    """Return the rotation by an angle about a unit axis, right-handed, as a 4 x 4 transform."""
    x, y, z = axis.unbind(-1)
    zero = torch.zeros_like(x)
    cross = rearrange(torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1), "... (i j) -> ... i j", i=3)
    angle = torch.deg2rad(torch.tensor(degrees, dtype=axis.dtype, device=axis.device))
    whole = torch.eye(4, dtype=axis.dtype, device=axis.device).expand(*axis.shape[:-1], 4, 4).clone()
    whole[..., :3, :3] += angle.sin() * cross + (1 - angle.cos()) * cross @ cross
    return whole


def _blobs(shape: tuple[int, int, int, int], generator: torch.Generator) -> Float[Tensor, "b f height width"]:
    """Draw smooth noise: coarse Gaussian numbers, resampled bicubically."""
    b, f, height, width = shape
    coarse = torch.randn(b, f, BLOBS, BLOBS, generator=generator)
    return F.interpolate(coarse, (height, width), mode="bicubic")


def lowest(field: Float[Tensor, "b f height width"], share: float) -> Bool[Tensor, "b f height width"]:
    """Choose the pixels of each view with the lowest values: a share of them, rounded to whole pixels."""
    flat = rearrange(field, "b f height width -> b f (height width)")
    rank = flat.argsort(dim=-1, stable=True).argsort(dim=-1, stable=True)
    chosen = rank < round(share * flat.shape[-1])
    return rearrange(chosen, "b f (height width) -> b f height width", height=field.shape[-2])
