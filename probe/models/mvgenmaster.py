"""MVGenMaster: the U-Net of CAT3D, conditioned also on what the references' depth says of every view.

Colours and world points of the reference views are splatted into the targets; their depth comes from the views'
``point_map``, of targets none is read. Views without any depth have priors of zero.

- Weights: hub ``ewrfcas/MVGenMaster``, file ``check_points/pretrained_model.zip``; give the folder that it unpacks to
  (``ema_unet.pt``, bare names), or a checkpoint of the release's trainer (DeepSpeed's ``{'module': ...}``), or a folder
  that this suite saved. "random" draws weights of SD 2.1's sizes.
- Licence, hub id, native size and what is ignored: :mod:`probe.models.about`.
- Noise schedule: that of CAMEO's release, which shares this code (docs/references.md, "CAT3D of the release: noise and
  sampling").
- World points are encoded in the scene's own world frame, whatever it is.
- Other than in the release: a pixel without depth is no point. It is splatted nowhere, counts in no median, and has no
  prior in its own view; the release expects depth everywhere.

Source: arXiv 2411.16157; layout and conventions in docs/references.md, "MVGenMaster", checked against
ewrfcas/MVGenMaster:src/modules/position_encoding.py and extra_encoder.py.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from einops import einsum, rearrange, reduce, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probe.geometry import (
    camera_centre,
    pixel_centres,
    point_map_to_depth,
    resize_intrinsics,
    unproject,
    world_to_camera,
)
from probe.models.cat3d import (
    CHECKPOINTS,
    SD21,
    Cat3d,
    camera_embedding,
    infer_settings,
    noise_schedule,
    own_weights,
    pixels_per_token,
    settings_beside,
    target_mask,
)
from probe.models.model import Inputs, to_latents
from probe.models.parts.encoders import PriorEncoder
from probe.models.parts.files import META, Loading, build_of, fill, find_checkpoint, named, read_weights
from probe.models.parts.latents import RANDOM, SD21_BASE, check_autoencoder, load_vae, view_size
from probe.models.parts.unet import MultiViewUNet
from probe.views import Views

DOMAINS = ("others", "megascenes", "objaverse")
LONGEST_SIDE = 5.0
"""Largest extent of the camera centres along an axis; larger scenes are shrunk to it."""
MEDIANS = 4.0
"""Depth beyond this many medians of its view is contracted, to at most twice that."""
FREQUENCIES = 32
COORDINATES = 2 * 3 * FREQUENCIES + 1
"""Channels of the map of world points: a sine and a cosine of each coordinate and frequency, then the mask."""
LONGEST_WAVE = 1e4
FAR = 1e4
"""Depth from which on points are not splatted, in world units after shrinking."""
TINY = 1e-6
ARCHIVE = "check_points/pretrained_model.zip"


class PriorUNet(MultiViewUNet):
    """The multi-view U-Net whose encoder takes warped colours beside mask and rays, and a map of world points."""

    INPUTS: ClassVar[int] = 11

    def make_encoder(self, channels: tuple[int, ...], stride: int, outputs: int, *, normalise: bool) -> PriorEncoder:
        """Make the encoder of mask, rays, warped colours with their mask, and world points."""
        return PriorEncoder(self.INPUTS, COORDINATES, channels, stride, outputs, normalise=normalise)

    def probe_inputs(self, views: int, scale: int | None = None) -> dict[str, Tensor]:
        """Make inputs for recognising layers; ``scale`` is the side of the deepest level's token grid."""
        inputs = super().probe_inputs(views, scale)
        latents = inputs["latents"]
        return {**inputs, "coordinates": latents.new_zeros(1, views, COORDINATES, *latents.shape[-2:])}


# --- what the references' depth says ---------------------------------------------------------------------------------


def shrink(world_to_cam: Float[Tensor, "b f 4 4"]) -> tuple[Float[Tensor, "b f 4 4"], Float[Tensor, " b"]]:
    """Scale scenes down whose camera centres extend over more than 5 units along an axis of the world.

    Returns:
        The cameras in the new units, and the factor of each scene's lengths, at most 1.

    Source:
        docs/references.md, "MVGenMaster" (``camera_longest_side``).
    """
    centre = camera_centre(world_to_cam)
    extent = (centre.amax(1) - centre.amin(1)).amax(-1)
    factor = (LONGEST_SIDE / extent).clamp(max=1)  # a division by zero means that nothing has to shrink
    shrunk = world_to_cam.clone()
    shrunk[..., :3, 3] *= rearrange(factor, "b -> b 1 1")
    return shrunk, factor


def contract(depth: Float[Tensor, "b r height width"]) -> Float[Tensor, "b r height width"]:
    """Draw far depth in: beyond m = 4 medians of a view, d becomes 2 m - m^2 / d.

    Args:
        depth: 0 where it is missing; such pixels count in no median and stay 0.
    """
    known = rearrange(torch.where(depth > 0, depth, torch.nan), "b r height width -> b r (height width)")
    far = MEDIANS * rearrange(known.nanmedian(-1).values, "b r -> b r 1 1")
    return torch.where(depth > far, 2 * far - far.square() / (depth + TINY), depth)


def reference_depth(views: Views, factor: Float[Tensor, " b"]) -> Float[Tensor, "b r height width"]:
    """Return the contracted z-depth of the reference views, in shrunk units; 0 where it is missing."""
    depth = point_map_to_depth(views.point_map[:, : views.n_ref], views.world_to_cam[:, : views.n_ref])
    known = views.valid[:, : views.n_ref] & (depth > 0)
    return contract(torch.where(known, depth * rearrange(factor, "b -> b 1 1 1"), 0))


def lift(
    depth: Float[Tensor, "b r height width"],
    intrinsics: Float[Tensor, "b r 3 3"],
    world_to_cam: Float[Tensor, "b r 4 4"],
) -> Float[Tensor, "b r height*width 3"]:
    """Lift z-depth to world points through whole-numbered pixel coordinates: the first pixel is (0, 0) here."""
    height, width = depth.shape[-2:]
    corners = pixel_centres(height, width, device=depth.device, dtype=depth.dtype) - 0.5
    xy = repeat(corners, "height width xy -> b r (height width) xy", b=depth.shape[0], r=depth.shape[1])
    return unproject(xy, rearrange(depth, "b r height width -> b r (height width)"), intrinsics, world_to_cam)


def splat(
    points: Float[Tensor, "b r p 3"],
    known: Bool[Tensor, "b r p"],
    values: Float[Tensor, "b r p c"],
    intrinsics: Float[Tensor, "b t 3 3"],
    world_to_cam: Float[Tensor, "b t 4 4"],
    size: tuple[int, int],
) -> tuple[Float[Tensor, "b t pixels c"], Bool[Tensor, "b t pixels"]]:
    """Write the values of world points into the pixels that they fall on in other views, each into one pixel.

    Views of points are taken in turn: a later one overwrites where it is nearer. Of points of one view that fall on the
    same pixel the last one stays, however far.

    Args:
        points: World points, by the view that they were seen in.
        known: Points to write.
        values: What to write.
        intrinsics: Of the views written to, in pixels of ``size``.
        world_to_cam: Of the views written to.
        size: Rows and columns of pixels.

    Returns:
        The values, zero where nothing fell; and where something did.
    """
    nearest = points.new_full((*intrinsics.shape[:2], size[0] * size[1]), FAR)
    landed = points.new_zeros(*nearest.shape, values.shape[-1])
    for view in range(points.shape[1]):
        pixel, z = _landing(points[:, view], intrinsics, world_to_cam, size)
        lands = known[:, None, view] & (pixel >= 0)
        pixel = pixel.clamp(min=0)
        last = _last_writer(pixel, lands & (z < nearest.gather(-1, pixel)), nearest.shape[-1])
        written, source = last >= 0, last.clamp(min=0)
        nearest = torch.where(written, z.gather(-1, source), nearest)
        chosen = repeat(source, "b t pixels -> b t pixels c", c=values.shape[-1])
        spread = repeat(values[:, view], "b p c -> b t p c", t=intrinsics.shape[1])
        landed = torch.where(written[..., None], spread.gather(2, chosen), landed)
    return landed, nearest < FAR


def _landing(
    points: Float[Tensor, "b p 3"],
    intrinsics: Float[Tensor, "b t 3 3"],
    world_to_cam: Float[Tensor, "b t 4 4"],
    size: tuple[int, int],
) -> tuple[Int[Tensor, "b t p"], Float[Tensor, "b t p"]]:
    """Return the pixel that each point falls on, -1 outside and behind, and its z-depth."""
    everywhere = repeat(points, "b p xyz -> b t p xyz", t=intrinsics.shape[1])
    seen = world_to_camera(everywhere, world_to_cam) @ intrinsics.mT
    z = seen[..., 2]
    xy = (seen[..., :2] / (z[..., None] + TINY)).round()
    column, row = xy[..., 0], xy[..., 1]
    inside = (z > 0) & (column >= 0) & (column < size[1]) & (row >= 0) & (row < size[0])
    return torch.where(inside, row * size[1] + column, -1).long(), z


def _last_writer(pixel: Int[Tensor, "b t p"], writes: Bool[Tensor, "b t p"], pixels: int) -> Int[Tensor, "b t pixels"]:
    """Return, for each pixel, the last of the points that write to it; -1 where none does."""
    order = torch.where(writes, torch.arange(pixel.shape[-1], device=pixel.device), -1)
    nobody = pixel.new_full((*pixel.shape[:2], pixels), -1)
    return nobody.scatter_reduce(-1, pixel, order, "amax")


def warp(
    depth: Float[Tensor, "b r height width"],
    intrinsics: Float[Tensor, "b f 3 3"],
    world_to_cam: Float[Tensor, "b f 4 4"],
    values: Float[Tensor, "b r 3 height width"] | None = None,
) -> Float[Tensor, "b f 4 height width"]:
    """Return three values and a mask per view: references have their own, targets what is splatted into them.

    Args:
        depth: Of the reference views, which come first; 0 where it is missing.
        intrinsics: Of all views, in pixels of the depth maps.
        world_to_cam: Of all views.
        values: Of the reference views' pixels; None takes their world points.
    """
    references, (height, width) = depth.shape[1], (depth.shape[-2], depth.shape[-1])
    points = lift(depth, intrinsics[:, :references], world_to_cam[:, :references])
    flat = points if values is None else rearrange(values, "b r c height width -> b r (height width) c")
    known = rearrange(depth > 0, "b r height width -> b r (height width)")
    targets = intrinsics[:, references:], world_to_cam[:, references:]
    landed, hit = splat(points, known, flat, *targets, (height, width))
    mask = torch.cat([known, hit], dim=1)[..., None]
    filled = torch.cat([torch.cat([flat, landed], dim=1) * mask, mask.to(flat)], dim=-1)
    return rearrange(filled, "b f (height width) c -> b f c height width", height=height)


def position_map(points: Float[Tensor, "b f 3 h w"], known: Float[Tensor, "b f 1 h w"]) -> Float[Tensor, "b f 193 h w"]:
    """Encode world points as sines and cosines, then the mask; views that know no point are zero.

    As in the release, each point is first stretched so that the smallest of its own x, y, z becomes 0 and the largest
    1: per pixel, not over the scene. A pixel without a point is encoded as the origin.

    Args:
        points: World units; zero where not known.
        known: 1 where there is a point, else 0.

    Returns:
        For each frequency: sin x, cos x, sin y, cos y, sin z, cos z.

    Source:
        docs/references.md, "MVGenMaster" ("3dpe").
    """
    low, high = (reduce(points, "b f xyz h w -> b f 1 h w", extreme) for extreme in ("min", "max"))
    stretched = (points - low) / (high - low + TINY)
    steps = torch.arange(FREQUENCIES, device=points.device, dtype=points.dtype) / FREQUENCIES
    angle = einsum(stretched, torch.exp(-math.log(LONGEST_WAVE) * steps), "b f xyz h w, k -> k xyz b f h w")
    waves = rearrange([angle.sin(), angle.cos()], "part k xyz b f h w -> b f (k xyz part) h w")
    return torch.cat([waves * reduce(known, "b f c h w -> b f c 1 1", "max"), known], dim=2)


def priors(views: Views, stride: int) -> tuple[Float[Tensor, "b f 4 height width"], Float[Tensor, "b f 193 h w"]]:
    """Return the priors from the references' depth: colours in [-1, 1] with their mask, and the map of world points.

    Args:
        views: At the size that the network sees.
        stride: Pixels per latent: the points are those of every ``stride``-th pixel.
    """
    world_to_cam, factor = shrink(views.world_to_cam)
    depth = reference_depth(views, factor)
    colours = warp(depth, views.intrinsics, world_to_cam, to_latents(views.image[:, : views.n_ref]))
    coarse = depth[..., ::stride, ::stride]
    intrinsics = resize_intrinsics(views.intrinsics, views.size, (views.size[0] // stride, views.size[1] // stride))
    points = warp(coarse, intrinsics, world_to_cam)
    return colours, position_map(points[:, :, :3], points[:, :, 3:])


# --- the model around the network ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class MvGenMaster(Cat3d):
    """The full model: latents, the release's cameras and priors, mask 0 for references and 1 for targets."""

    def condition(self, views: Views, keep_cameras: Float[Tensor, " b"] | None = None) -> Inputs:
        """Return mask, rays, warped colours and world points; blanked cameras blank the last three."""
        rays = camera_embedding(
            views.intrinsics, shrink(views.world_to_cam)[0], *views.size, reference=0, normalise=False
        )
        colours, coordinates = priors(views, self.stride)
        planes = torch.cat([rays, colours], dim=2)
        if keep_cameras is not None:
            keep = rearrange(keep_cameras, "b -> b 1 1 1 1")
            planes, coordinates = planes * keep, coordinates * keep
        domain = torch.full((len(rays),), DOMAINS.index("others"), dtype=torch.long, device=rays.device)
        inputs = torch.cat([target_mask(views).to(planes), planes], dim=2)
        return {"inputs": inputs, "domain": domain, "coordinates": coordinates}


def load_mvgenmaster(source: str, loading: Loading) -> MvGenMaster:
    """Load the released weights, or a checkpoint of the release's trainer or of this suite.

    Args:
        source: A file or folder; "random" draws weights of SD 2.1's sizes.
        loading: Where the autoencoder comes from, and the size of the views.

    Raises:
        ValueError: If there are no such weights, or the autoencoder is not of their latents.
    """
    unet = _random_unet(loading) if source == RANDOM else _read_unet(source, loading)
    vae = load_vae(loading.base or (RANDOM if source == RANDOM else SD21_BASE), loading.device)
    check_autoencoder(vae, unet.config.encoder_stride, unet.config.in_channels, "load_mvgenmaster")
    stride = unet.config.encoder_stride
    return MvGenMaster(
        name=named("mvgenmaster", source),
        network=unet.eval().requires_grad_(False),
        alpha_bar=noise_schedule(),
        size=view_size(loading, unet.config.sample_size * stride, multiple=pixels_per_token(unet.config)),
        channels=unet.config.in_channels,
        stride=stride,
        spacing="leading",
        vae=vae,
    )


def _random_unet(loading: Loading) -> PriorUNet:
    with loading.device:
        return PriorUNet(**SD21)


def _read_unet(source: str, loading: Loading) -> PriorUNet:
    if not source or source.endswith(".zip"):
        raise ValueError(
            f"load_mvgenmaster: {source or 'no folder'!r} cannot be read; download {ARCHIVE} of the hub's "
            "ewrfcas/MVGenMaster, unpack it, and give the folder: mvgenmaster:FOLDER"
        )
    path = find_checkpoint(source, CHECKPOINTS)
    weights = own_weights(read_weights(path, loading.device))
    settings = settings_beside(path) or infer_settings(weights)
    with META:
        unet = build_of(f"load_mvgenmaster: {path}", lambda: PriorUNet(**settings))
    fill(unet, weights, origin=f"load_mvgenmaster: {path}", assign=True)
    return unet
