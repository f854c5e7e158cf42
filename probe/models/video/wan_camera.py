"""Wan-Fun-Camera (``Wan2.x-Fun-*-Control-Camera``): Wan that is told a ray of every pixel; :mod:`...camera_network`.

- Weights: the published folder or hub id, whose names are Wan's own, or its file; sizes are read off the weights (128
  channels a head, unless ``config.json`` says num_heads). Empty: ``alibaba-pai/Wan2.1-Fun-V1.1-1.3B-Control-Camera``.
  The high-noise network of a folder of two is probed, and a warning names its timesteps.
- ``--base``: a diffusers pipeline of Wan with the autoencoder (2.1: the default; the 5B model's is that of
  ``Wan-AI/Wan2.2-TI2V-5B-Diffusers``) and, where the prompt is to be encoded, ``text_encoder/``.
- Views: latent frames (:mod:`probe.models.video.model`), of still clips or of one clip.
- Cameras: Plücker rays, the moment before the direction, in the first frame's camera and the scene's own unit; 4 to a
  latent frame (24 channels, those of a ray's number together), of the first frame four times the same. A still clip is
  a first frame.
- References, by the channels beside the latents. As many as the latents (2.1): references' latents, zeros in targets.
  4 more (2.2): a mask and latents, grey in targets, as in image to video. Where the autoencoder's latents are 16 pixels
  (5B) they are clean at time 0 as well. The image's embedding by CLIP (2.1) is zeros.
- Noise: flow matching, shift 5.

Source: docs/references.md, "Video models with cameras". Unchecked: the published weights, which were not at hand; that
the 5B model's file has a mask and latents beside.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKLWan
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor

from probe.geometry import plucker_rays
from probe.models.model import Inputs
from probe.models.parts.files import (
    META,
    Loading,
    build_of,
    download,
    fill,
    find_checkpoint,
    named,
    read_settings,
    read_weights,
)
from probe.models.parts.latents import view_size
from probe.models.schedules import flow_alpha_bar, flow_sigmas
from probe.models.video.camera_network import CameraWanTransformer
from probe.models.video.folder import CHECKPOINTS, INDEX, SCHEDULER, Noise, empty_prompt, find_folder, read_part
from probe.models.video.wan import HUB as BASE
from probe.models.video.wan import NATIVE, TEXT_LENGTH, Wan, range_of
from probe.views import Views

HUB = "alibaba-pai/Wan2.1-Fun-V1.1-1.3B-Control-Camera"
NAME = "wan-camera"
BASE_FILES = (INDEX, SCHEDULER, "*/config.json", "vae/*.safetensors*")
HIGH = "high_noise_model"
BOUNDARY = 0.9
SHIFT = 5.0
HEAD = 128
"""Channels of an attention head, of all published sizes."""
RAY = 6
PACKED = 4
CAMERAS = "cameras"


def packed_rays(views: Views) -> Float[Tensor, "b f 24 H W"]:
    """Return the rays of every pixel, four to a latent frame: moment, then direction, in the first frame's camera.

    Args:
        views: With as many frames per view as are packed, or still clips, whose one frame stands four times.
    """
    frames = views.clip or views
    rays = plucker_rays(frames.intrinsics, frames.world_to_cam, frames.size).roll(RAY // 2, dims=2)
    alone = rays if views.clip is None else rays[:, :1]
    filled = torch.cat([repeat(alone, "b f c h w -> b (f k) c h w", k=PACKED), rays[:, alone.shape[1] :]], dim=1)
    return rearrange(filled, "b (f k) c h w -> b f (c k) h w", k=PACKED)


@dataclass(frozen=True, kw_only=True)
class WanCamera(Wan):
    """A Wan transformer that is told rays."""

    def condition(self, views: Views, keep_cameras: Float[Tensor, " b"] | None = None) -> Inputs:
        """Return what Wan's is, and the packed rays; zeros where cameras are blanked, as in training."""
        rays = packed_rays(views.to(self.alpha_bar.device))
        kept = rays if keep_cameras is None else rays * rearrange(keep_cameras.to(rays), "b -> b 1 1 1 1")
        return super().condition(views) | {CAMERAS: kept}

    def network_inputs(
        self, latents: Float[Tensor, "b f c h w"], t: Int[Tensor, " b"], inputs: Inputs
    ) -> dict[str, Any]:
        """Return Wan's arguments, the frames' places and the rays."""
        places = torch.arange(latents.shape[1], device=latents.device)
        return super().network_inputs(latents, t, inputs) | {"places": places, CAMERAS: inputs[CAMERAS].to(latents)}

    def probe_conditioning(self, views: int, side: int, like: dict[str, Any]) -> Inputs:
        """Make what :meth:`condition` returns, of zeros."""
        pixels = side * self.stride
        rays = torch.zeros(1, views, RAY * PACKED, pixels, pixels, **like)
        return super().probe_conditioning(views, side, like) | {CAMERAS: rays}

    def reference_channels(self, views: Views, targets: Float[Tensor, "b f"]) -> Float[Tensor, "b f channels h w"]:
        """Return the latents of references and zeros in targets, or a mask and latents as in image to video."""
        if self.image_channels > self.channels:
            return super().reference_channels(views, targets)
        return self.encode_views(views) * rearrange(1 - targets, "b f -> b f 1 1 1")


def load_wan_camera(source: str, loading: Loading) -> WanCamera:
    """Load weights of Wan-Fun-Camera.

    Args:
        source: Folder, file or hub id; empty for the smallest on the hub.
        loading: The base pipeline, whose autoencoder and text encoder are used, and the size of the views.

    Raises:
        ValueError: If it is not there, or is no such network.
    """
    path = find_checkpoint(source or HUB, (*CHECKPOINTS, *(f"{HIGH}/{name}" for name in CHECKPOINTS)))
    network = read_network(path, loading, rays=True)
    parts = base_parts(network, loading)
    beside, stride, noise = network.config.in_channels - parts["channels"], parts["stride"], parts.pop("noise")
    if beside not in (parts["channels"], parts["channels"] + PACKED) or network.config.ray_scale != stride:
        raise ValueError(
            f"load_wan_camera: {path} takes {network.config.in_channels} channels and rays of "
            f"{network.config.ray_scale} pixels a latent; the autoencoder of --base ({parts['channels']} channels, "
            f"{stride} pixels) asks for {2 * parts['channels']} or {2 * parts['channels'] + PACKED}, and {stride}; "
            "give the pipeline that the weights were trained with (the 5B model's: Wan-AI/Wan2.2-TI2V-5B-Diffusers)"
        )
    clean = stride == max(NATIVE)
    card = {**parts.pop("card"), "references": "channels" + ", clean" * clean, "cameras": "rays, 4 per latent frame"}
    return WanCamera(
        name=named(NAME, source),
        card=card | (range_of({"boundary_ratio": BOUNDARY}, noise) if path.parent.name == HIGH else {}),
        folder=path.parent,
        packs=PACKED,
        clean_references=clean,
        references="clean" if clean else "channels",
        image_channels=beside,
        network=network,
        **parts,
    )


def read_network(path: Path, loading: Loading, *, rays: bool) -> CameraWanTransformer:
    """Build the network around its weights, in their own precision.

    Args:
        path: Of weights in Wan's own names.
        loading: On the meta device only names and shapes are read.
        rays: Whether cameras are expected as rays, or else as poses in every block.

    Raises:
        ValueError: If they are others.
    """
    weights = read_weights(path, loading.device)
    mark, other = ("control_adapter.conv.weight", "blocks.0.cam_encoder.weight")[:: 1 if rays else -1]
    if mark not in weights or other in weights or "patch_embedding.weight" not in weights:
        raise ValueError(
            f"{path} is no {'Wan-Fun-Camera' if rays else 'ReCamMaster'} in Wan's own names: expected {mark} and "
            f"patch_embedding.weight, and no {other}; choose --model wan-camera, recammaster, or, for a folder of "
            "diffusers without cameras, wan"
        )
    sizes = build_of(str(path), lambda: sizes_of(weights, read_settings(path.parent / "config.json")))
    with META if loading.outline else init_empty_weights(include_buffers=False):
        network = build_of(str(path), lambda: CameraWanTransformer(**sizes))
    fill(network, weights, origin=str(path), assign=True)
    return network.eval().requires_grad_(False)


def sizes_of(weights: Mapping[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sizes of a network by its weights; the number of heads, which no weight tells, by its settings."""
    dim, channels, _, patch, _ = weights["patch_embedding.weight"].shape
    conv, image = weights.get("control_adapter.conv.weight"), weights.get("img_emb.proj.1.weight")
    return {
        "dim": dim,
        "in_channels": channels,
        "out_channels": weights["head.head.weight"].shape[0] // patch**2,
        "ffn_dim": weights["blocks.0.ffn.0.weight"].shape[0],
        "text_dim": weights["text_embedding.0.weight"].shape[1],
        "freq_dim": weights["time_embedding.0.weight"].shape[1],
        "num_heads": int(settings.get("num_heads", dim // HEAD)),
        "num_layers": 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks.")),
        "patch": patch,
        "image_dim": None if image is None else image.shape[1],
        "ray_channels": 0 if conv is None else RAY * PACKED,
        "ray_scale": 1 if conv is None else round((conv.shape[1] / (RAY * PACKED)) ** 0.5),
        "posed": "blocks.0.cam_encoder.weight" in weights,
    }


def base_parts(network: CameraWanTransformer, loading: Loading) -> dict[str, Any]:
    """Read what a network's weights lack, from the pipeline that they were trained on, and what follows from it.

    Raises:
        ValueError: If it is no pipeline of Wan, or the text is of another width.
    """
    base = Path(loading.base or BASE).expanduser()
    folder = find_folder(str(base if base.exists() else download(loading.base or BASE, BASE_FILES)))
    vae = read_part(AutoencoderKLWan, folder / "vae", loading).float()
    prompt = empty_prompt(folder, TEXT_LENGTH, network.config.text_dim, loading, masked=True)
    stride, patch = int(vae.config.scale_factor_spatial), network.config.patch
    note = f"flow matching, shift {SHIFT:g}"
    noise = Noise(alpha_bar=flow_alpha_bar(flow_sigmas(SHIFT)), prediction="flow", note=note)
    return {
        "noise": noise,
        "alpha_bar": noise.alpha_bar,
        "prediction": noise.prediction,
        "size": view_size(loading, NATIVE.get(stride, NATIVE[8]), multiple=stride * patch),
        "channels": vae.config.z_dim,
        "stride": stride,
        "default_layer": network.config.num_layers // 2,
        "card": {"text": prompt.note, "noise": note},
        "vae": vae,
        "latent_shift": torch.tensor(vae.config.latents_mean, device=loading.device),
        "latent_scale": 1 / torch.tensor(vae.config.latents_std, device=loading.device),
        "text": prompt.text * rearrange(prompt.mask, "n -> n 1"),
        "patch": patch,
    }
