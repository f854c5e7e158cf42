"""CAT3D in Stable Diffusion 2.1's layout, from 2.5 M parameters to the full size, and the release's conventions.

Views of a scene are denoised together: the self-attentions below the first resolution level join the tokens of all
views (11 of 16 in SD 2.1's layout). Licence, hub id, native size and what is ignored: :mod:`probe.models.about`.

Source: arXiv 2512.03045 section on the CAT3D baseline; layout facts of the release in docs/references.md, "CAT3D of the
release: network".
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from einops import einsum, rearrange, reduce
from jaxtyping import Float
from torch import Tensor

from probe.geometry import full_precision, inverse, pixel_centres
from probe.models.model import Inputs
from probe.models.parts.files import (
    META,
    Loading,
    Weights,
    build_of,
    fill,
    find_checkpoint,
    named,
    read_settings,
    read_weights,
    strip_prefixes,
)
from probe.models.parts.latents import RANDOM, SD21_BASE, LatentModel, check_autoencoder, load_vae, view_size
from probe.models.parts.unet import SETTINGS, MultiViewUNet
from probe.models.schedules import cameo_scheduler
from probe.views import Views

DOMAINS = ("re10k", "co3d", "others")

SD21: dict[str, Any] = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "attention_head_dim": (5, 10, 20, 20),  # diffusers' name for the number of heads
    "norm_num_groups": 32,
    "encoder_channels": (32, 64, 128, 256),
    "encoder_stride": 8,
}
TINY: dict[str, Any] = {
    "sample_size": 32,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (16, 64, 64, 64),
    "attention_head_dim": (1, 4, 4, 4),
    "norm_num_groups": 1,
    "encoder_channels": (16, 32),
    "encoder_stride": 1,
    "encoder_norm": False,
    "clean_references": True,
    "ray_octaves": 4,
    "query_gain": 2.0,  # heads of 16 channels start with logits as large as heads of 64
}


CHECKPOINTS = (
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.safetensors",
    "ema_unet.pt",
    "pytorch_model/mp_rank_00_model_states.pt",
    "checkpoint-last/pytorch_model/mp_rank_00_model_states.pt",
)
"""Files in a checkpoint folder, the preferred first: diffusers' own, then those of the release's trainer."""
BESIDE = ("config.json", "unet/config.json", "diffusion_pytorch_model-*.safetensors")
"""What a hub repository may hold beside them."""
PREFIXES = ("module.", "unet.")
HEADS = ("unet_query_head.", "unet_key_head.", "unet_logit_head.", "vggt_logit_head.", "repa_feat_head.")
"""Modules that the release's trainer keeps in one file with the network.

Source: docs/references.md, "CAT3D of the release: checkpoints".
"""


def load_unet(source: str | Path | Weights | None, config: Mapping[str, Any]) -> MultiViewUNet:
    """Build the model and fill in its weights.

    Args:
        source: A checkpoint (.safetensors, .pt, .pth, .bin, or a folder of diffusers or of the release's trainer),
            whose tensors are taken in their own precision, held once; a state dict, which is copied; or
            None for random weights (drawn from torch's global generator). Names may begin with ``module.`` and
            ``unet.``, and the release's readout heads may stand beside.
        config: Sizes that differ from SD 2.1's, by :class:`MultiViewUNet`'s argument names.

    Raises:
        ValueError: If the configuration names an unknown size, or weights are missing, left over or misshapen.
    """
    unknown = sorted(set(config) - SETTINGS)
    if unknown:
        raise ValueError(f"load_unet: unknown settings {unknown}; known ones are {sorted(SETTINGS)}")
    if source is None:
        return _built(config)
    if isinstance(source, Mapping):
        unet = _built(config)
        fill(unet, own_weights(source), origin="load_unet: the state dict")
        return unet
    path = find_checkpoint(str(source), CHECKPOINTS)
    return _holding(own_weights(read_weights(path)), config, path)


def _holding(weights: Weights, config: Mapping[str, Any], path: Path) -> MultiViewUNet:
    """Build the network around weights that were read, which become its own."""
    with META:
        unet = _built(config)
    fill(unet, weights, origin=f"load_unet: {path}", assign=True)
    return unet


def _built(config: Mapping[str, Any]) -> MultiViewUNet:
    return build_of(f"load_unet: {dict(config)}", lambda: MultiViewUNet(**config))


def own_weights(weights: Weights) -> dict[str, Tensor]:
    """Take off what trainers put around the network: prefixes, and the readout heads beside it."""
    return strip_prefixes(weights, PREFIXES, others=HEADS)


def infer_settings(weights: Weights) -> dict[str, Any]:
    """Read a network's sizes off its weights.

    The groups of its norms cannot be read off and are SD 2.1's 32; its encoder's stride is taken to be the release's, a
    halving per stage but the first.

    Args:
        weights: As :func:`own_weights` gives them.

    Raises:
        ValueError: If these are not the weights of such a network.
    """
    try:
        return _infer(weights)
    except KeyError as error:
        raise ValueError(
            f"infer_settings: no weight is named {error}; expected the release's U-Net (conv_in, down_blocks, ..., "
            "add_conv_in, class_embedding, qk-norm)"
        ) from error


def _infer(weights: Weights) -> dict[str, Any]:
    levels = _count(weights, "down_blocks.{}.resnets.0.conv1.weight")
    widths = tuple(weights[f"down_blocks.{level}.resnets.0.conv1.weight"].shape[0] for level in range(levels))
    blocks = [f"down_blocks.{level}" for level in range(levels - 1)] + ["mid_block"]  # the last level has no attention
    norms = [weights[f"{block}.attentions.0.transformer_blocks.0.attn1.norm_q.weight"] for block in blocks]
    stages = _count(weights, "add_conv_in.conv{}.0.weight", first=1)
    return {
        "in_channels": weights["conv_in.weight"].shape[1],
        "out_channels": weights["conv_out.weight"].shape[0],
        "block_out_channels": widths,
        "attention_head_dim": tuple(width // norm.shape[0] for width, norm in zip(widths, norms, strict=True)),
        "layers_per_block": _count(weights, "down_blocks.0.resnets.{}.conv1.weight"),
        "encoder_channels": tuple(weights[f"add_conv_in.conv{n}.0.weight"].shape[0] for n in range(1, stages + 1)),
        "encoder_stride": 2 ** (stages - 1),
        "num_class_embeds": weights["class_embedding.weight"].shape[0],
    }


def _count(weights: Weights, name: str, first: int = 0) -> int:
    numbers = itertools.takewhile(lambda n: name.format(n) in weights, itertools.count(first))
    return sum(1 for _ in numbers)


def settings_beside(path: Path) -> dict[str, Any]:
    """Read a network's sizes from the ``config.json`` beside its weights; none where there is no such file."""
    return settings_of(read_settings(path.with_name("config.json")))


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Pick this model's own sizes out of a stored diffusers configuration."""
    return {name: value for name, value in config.items() if name in SETTINGS}


# --- the model around the network ------------------------------------------------------------------------------------


def noise_schedule() -> Float[Tensor, " steps"]:
    """Return the share of signal variance left at each timestep (``alphas_cumprod``): SNR shifted, zero at the end.

    Source:
        docs/references.md, "CAT3D of the release: noise and sampling".
    """
    return cameo_scheduler().alphas_cumprod


def camera_embedding(
    intrinsics: Float[Tensor, "b f 3 3"],
    world_to_cam: Float[Tensor, "b f 4 4"],
    height: int,
    width: int,
    *,
    reference: int = -1,
    normalise: bool = True,
) -> Float[Tensor, "b f 6 {height} {width}"]:
    """Return ray directions and moments as the release does, oddities included: weights were trained on these.

    Cameras are multiplied on the wrong side of the reference (cam_to_world of the reference times world_to_cam), rays
    go through x - 0.5 and y + 0.5, and camera centres are divided by the largest of their coordinates, not of lengths.

    Args:
        intrinsics: In pixels of ``height`` x ``width``.
        world_to_cam: OpenCV axes.
        height: Rows of pixels.
        width: Columns of pixels.
        reference: The view whose camera becomes the identity: the last in CAMEO, the first in MVGenMaster.
        normalise: Whether centres are divided by the scene's largest coordinate (CAMEO) or stay as they are.

    Returns:
        Direction, then centre x direction.

    Source:
        docs/references.md, "CAT3D of the release: camera embedding".
    """
    with full_precision(intrinsics):
        return _odd_rays(intrinsics, world_to_cam, (height, width), reference, normalise)


def _odd_rays(
    intrinsics: Float[Tensor, "b f 3 3"],
    world_to_cam: Float[Tensor, "b f 4 4"],
    size: tuple[int, int],
    reference: int,
    normalise: bool,
) -> Float[Tensor, "b f 6 height width"]:
    odd = inverse(world_to_cam[:, reference, None]) @ world_to_cam
    cam_to_world = inverse(odd)
    centre = cam_to_world[..., :3, 3]
    if normalise:
        centre = centre / (reduce(centre.abs(), "b f xyz -> b 1 1", "max") + 1e-8)
    pixels = pixel_centres(*size, device=intrinsics.device, dtype=intrinsics.dtype)
    pixels = torch.stack([pixels[..., 0] - 1, pixels[..., 1], torch.ones_like(pixels[..., 0])], dim=-1)
    through = cam_to_world[..., :3, :3] @ inverse(intrinsics)
    direction = einsum(through, pixels, "b f i j, height width j -> b f height width i")
    direction = torch.nn.functional.normalize(direction, dim=-1)
    moment = torch.linalg.cross(rearrange(centre, "b f i -> b f 1 1 i").expand_as(direction), direction)
    return rearrange([direction, moment], "part b f height width i -> b f (part i) height width")


@dataclass(frozen=True, kw_only=True)
class Cat3d(LatentModel):
    """The full model: latents, the release's cameras, mask 0 for references and 1 for targets."""

    def probe_inputs(self, views: int, scale: int | None = None) -> Inputs:
        """Make inputs for recognising layers; scale None gives the size that the views are shown at."""
        deepest = pixels_per_token(self.network.config)
        return super().probe_inputs(views, self.size // deepest if scale is None else scale)

    def condition(self, views: Views, keep_cameras: Float[Tensor, " b"] | None = None) -> Inputs:
        """Return mask and rays; blanked cameras are zeros."""
        rays = camera_embedding(views.intrinsics, views.world_to_cam, *views.size)
        if keep_cameras is not None:
            rays = rays * rearrange(keep_cameras, "b -> b 1 1 1 1")
        domain = torch.full((len(rays),), DOMAINS.index("others"), dtype=torch.long, device=rays.device)
        return {"inputs": torch.cat([target_mask(views).to(rays), rays], dim=2), "domain": domain}


def pixels_per_token(config: Any) -> int:
    """Return the pixels per token of the deepest level, along a side."""
    return int(config["encoder_stride"] * 2 ** (len(config["block_out_channels"]) - 1))


def target_mask(views: Views) -> Float[Tensor, "b f 1 H W"]:
    """Return 0 in reference views and 1 in targets."""
    mask = torch.ones_like(views.image[:, :, :1])
    mask[:, : views.n_ref] = 0
    return mask


def load_cat3d(source: str, loading: Loading) -> Cat3d:
    """Load a checkpoint of the release's trainer, or of this suite, with the autoencoder of its base.

    Args:
        source: A file, folder or hub id; "random" draws weights of SD 2.1's sizes.
        loading: Where the autoencoder comes from, and the size of the views.

    Raises:
        ValueError: If there are no such weights.
    """
    if source == RANDOM:
        with loading.device:
            unet = load_unet(None, SD21)
    else:
        path = find_checkpoint(_require(source), CHECKPOINTS, patterns=BESIDE)
        weights = own_weights(read_weights(path, loading.device))
        unet = _holding(weights, settings_beside(path) or infer_settings(weights), path)
    vae = load_vae(loading.base or (RANDOM if source == RANDOM else SD21_BASE), loading.device)
    stride = unet.config.encoder_stride
    check_autoencoder(vae, stride, unet.config.in_channels, "load_cat3d")
    return Cat3d(
        name=named("cat3d", source),
        network=unet.eval().requires_grad_(False),
        alpha_bar=noise_schedule(),
        size=view_size(loading, unet.config.sample_size * stride, multiple=pixels_per_token(unet.config)),
        channels=unet.config.in_channels,
        stride=stride,
        spacing="leading",
        vae=vae,
    )


def _require(source: str) -> str:
    if not source:
        raise ValueError(
            "load_cat3d: the paper's weights are not public; give cat3d:PATH, a checkpoint of the release's "
            "trainer or of this suite, or cat3d:random"
        )
    return source
