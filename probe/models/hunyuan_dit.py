"""Hunyuan-DiT made to see several views: stock diffusers' transformer, whose self-attentions join all views of a scene.

The paper's third backbone. Its multi-view weights and code are not public, so this layout is the suite's own design
(docs/references.md, "Hunyuan-DiT"); a stock checkpoint is a text-to-image model that does not know other views or
cameras until it is trained.

- Views: every ``blocks.N.attn1`` attends over the tokens of all views, view-major; a token's rotary position is its
  place in its own view. There are no tokens of cameras or text among them, so a layer's index is its block's.
- Cameras: a convolutional encoder (``add_conv_in``, of the kind of CAT3D's) turns mask (0 reference, 1 target) and
  Plücker rays into one vector per token, added to the patch embedding. Rays are the suite's proper ones, in the first
  view's frame (:func:`probe.geometry.plucker_rays`). A stock checkpoint has no such encoder: it then ends in zeros, so
  that training starts from the stock model; the card says so.
- Text: the branch stays as it is, but gets no word: embeddings are zero and masked out, so that cross-attention
  reads the checkpoint's learned padding alone. No text encoder is loaded.
- Weights: any diffusers folder or hub id of HunyuanDiT (``transformer/``, ``vae/``, ``scheduler/``), such as
  ``Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers``; or a folder that this suite saved, with --base for the autoencoder.
  "random" draws weights of v1.2's sizes (1.5 billion).
- Licence, hub id, native size and what is ignored: :mod:`probe.models.about`.
- Noise: scaled-linear betas up to 0.018 (v1.2) or 0.03 (before), v-prediction, unless
  ``scheduler/`` says otherwise.
- For networks that want it (before v1.2), style is 0 and the image's meta size that of diffusers' pipeline by default.
- Below float32, timesteps are rounded to the network's precision, as diffusers' pipeline does.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, HunyuanDiT2DModel
from jaxtyping import Float
from torch import Tensor

from probe.models.model import Inputs, condition
from probe.models.parts.encoders import InputEncoder
from probe.models.parts.files import (
    META,
    SAFETENSORS,
    Loading,
    Weights,
    build_of,
    fill,
    find_checkpoint,
    named,
    read_json,
    read_weights,
)
from probe.models.parts.latents import RANDOM, LatentModel, load_vae, stride_of, view_size
from probe.models.parts.multi_view_dit import MultiViewDiT
from probe.models.schedules import STEPS
from probe.views import Views

HUB = "Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers"
WEIGHTS = f"diffusion_pytorch_model{SAFETENSORS}"
CHECKPOINTS = (f"transformer/{WEIGHTS}", f"transformer/{WEIGHTS}.index.json", WEIGHTS, f"{WEIGHTS}.index.json")
"""Files in a folder, the preferred first: the hub's, then those of a folder that this suite saved."""
SCHEDULER = "scheduler/scheduler_config.json"
ALONGSIDE = (
    "transformer/config.json",
    f"transformer/*{SAFETENSORS}",
    SCHEDULER,
    "vae/config.json",
    f"vae/{WEIGHTS}",
)
V12: dict[str, Any] = {
    "num_attention_heads": 16,
    "attention_head_dim": 88,
    "in_channels": 4,
    "patch_size": 2,
    "sample_size": 128,
    "hidden_size": 1408,
    "num_layers": 40,
    "mlp_ratio": 4.3637,
    "use_style_cond_and_image_meta_size": False,
}
META_SIZE = "use_style_cond_and_image_meta_size"
"""A setting that v1.2 turned off."""
LAST_BETA, LAST_BETA_BEFORE = 0.018, 0.03
"""Of v1.2, and of the versions before it."""
PREDICTIONS = ("v_prediction", "epsilon")
SUPERVISED, OF_LAYERS = 32, 40
"""The paper's supervised layer, and how many the full model has."""
ENCODER = "add_conv_in."
NAME = "hunyuan-dit"


@dataclass(frozen=True, kw_only=True)
class HunyuanDiT(LatentModel):
    """The full model: latents, mask 0 for references and 1 for targets, the suite's rays."""

    def probe_inputs(self, views: int, scale: int | None = None) -> Inputs:
        """Make inputs for recognising layers; scale None gives the size that the views are shown at."""
        native = self.size // int(self.network.config.encoder_stride)  # type: ignore[union-attr, arg-type]
        return super().probe_inputs(views, native if scale is None else scale)

    def condition(self, views: Views, keep_cameras: Float[Tensor, " b"] | None = None) -> Inputs:
        """Return mask and rays; blanked cameras are zeros."""
        return {"inputs": condition(views, ray_scale=self.ray_scale, keep_cameras=keep_cameras)}


# --- loading ---------------------------------------------------------------------------------------------------------


def load_hunyuan_dit(source: str, loading: Loading) -> HunyuanDiT:
    """Load a diffusers folder of HunyuanDiT, or a folder that this suite saved.

    Args:
        source: Folder or hub id; empty for v1.2's on the hub; "random" draws weights of its sizes.
        loading: Where the autoencoder comes from if not from the same folder, and the size of the views.

    Raises:
        ValueError: If it is not there, is of another kind, or the autoencoder is not of its latents.
    """
    path = None if source == RANDOM else find_checkpoint(source or HUB, CHECKPOINTS, patterns=ALONGSIDE)
    vae = load_vae(loading.base or _own_base(path), loading.device)
    network, cameras = _random_network(vae, loading) if path is None else _read_network(path, vae, loading)
    _check_autoencoder(vae, network)
    config, stride = network.config, stride_of(vae)
    scheduler = noise_scheduler(None if path is None else _root(path), newest=not config[META_SIZE])
    return HunyuanDiT(
        name=named(NAME, source),
        network=network.eval().requires_grad_(False),
        alpha_bar=scheduler.alphas_cumprod,
        size=view_size(loading, config.sample_size * stride, multiple=config.encoder_stride),
        channels=config.in_channels,
        stride=stride,
        prediction=scheduler.config.prediction_type,
        default_layer=SUPERVISED * config.num_layers // OF_LAYERS,
        card={"text": "none: zeros, masked out", "cameras": cameras},
        folder=None if path is None else path.parent,
        vae=vae,
    )


def _root(path: Path) -> Path:
    """Return the folder that holds transformer/, or the one of the weights."""
    return path.parent.parent if path.parent.name == "transformer" else path.parent


def _own_base(path: Path | None) -> str:
    """Return where the autoencoder is by default."""
    if path is None:
        return RANDOM
    if _root(path) == path.parent:
        raise ValueError(
            f"load_hunyuan_dit: {path.parent} holds no autoencoder; give the diffusers folder of its base model as base"
        )
    return str(_root(path))


def noise_scheduler(folder: Path | None, *, newest: bool) -> DDPMScheduler:
    """Build the noise schedule that a folder's scheduler/ describes, else that of the version.

    Args:
        folder: Where scheduler/ may be.
        newest: Whether the network is of v1.2.

    Raises:
        ValueError: If it has other than 1000 steps, or predicts neither v nor noise.
    """
    stored = folder is not None and (folder / SCHEDULER).is_file()
    own: dict[str, Any] = {
        "beta_start": 0.00085,
        "beta_end": LAST_BETA if newest else LAST_BETA_BEFORE,
        "clip_sample": False,
    }
    own |= {"beta_schedule": "scaled_linear", "prediction_type": "v_prediction"}
    config = read_json(folder / SCHEDULER) if folder and stored else own
    scheduler = build_of(f"{folder}/{SCHEDULER}", lambda: DDPMScheduler.from_config(config))
    steps, prediction = scheduler.config.num_train_timesteps, scheduler.config.prediction_type
    if steps != STEPS or prediction not in PREDICTIONS:
        raise ValueError(
            f"load_hunyuan_dit: {folder}/scheduler has {steps} steps and predicts {prediction!r}; expected {STEPS} "
            f"steps, and one of {', '.join(PREDICTIONS)}"
        )
    return scheduler


def _random_network(vae: AutoencoderKL, loading: Loading) -> tuple[MultiViewDiT, str]:
    with loading.device:
        return MultiViewDiT(**V12, encoder_stride=stride_of(vae) * V12["patch_size"]), "random weights, ending in zeros"


def _read_network(path: Path, vae: AutoencoderKL, loading: Loading) -> tuple[MultiViewDiT, str]:
    """Build the network around its weights; say where those of the cameras' encoder come from."""
    config = _config_of(path.parent)
    origin, stride = f"load_hunyuan_dit: {path.with_name('config.json')}", stride_of(vae)
    config |= {"encoder_stride": config.get("encoder_stride", stride * config.get("patch_size", V12["patch_size"]))}
    with META:
        network = build_of(origin, lambda: MultiViewDiT.from_config(config))
    weights, note = read_weights(path, loading.device), "of the checkpoint"
    if not any(name.startswith(ENCODER) for name in weights):
        weights |= _new_encoder(network, weights)
        note = f"the checkpoint has no {ENCODER}*: a new encoder, ending in zeros, which says nothing until trained"
    fill(network, weights, origin=f"load_hunyuan_dit: {path}", assign=True)
    return network, note


def _config_of(folder: Path) -> dict[str, Any]:
    if not (folder / "config.json").is_file():
        raise ValueError(f"load_hunyuan_dit: {folder}/config.json is missing; give a diffusers folder of HunyuanDiT")
    config = read_json(folder / "config.json")
    if config.get("_class_name") not in (HunyuanDiT2DModel.__name__, MultiViewDiT.__name__):
        raise ValueError(
            f"load_hunyuan_dit: {folder}/config.json describes {config.get('_class_name')!r}, not HunyuanDiT2DModel; "
            f"give a diffusers folder of HunyuanDiT such as {HUB}"
        )
    return config


def _new_encoder(network: MultiViewDiT, like: Weights) -> dict[str, Tensor]:
    """Draw the weights of the cameras' encoder, always the same ones, in the precision of the others."""
    sample, config = next(iter(like.values())), network.config
    with torch.random.fork_rng(devices=[]), sample.device:
        torch.manual_seed(0)
        encoder = InputEncoder(7, tuple(config.encoder_channels), config.encoder_stride, config.hidden_size)
    return {f"{ENCODER}{name}": weight.to(sample.dtype) for name, weight in encoder.state_dict().items()}


def _check_autoencoder(vae: AutoencoderKL, network: MultiViewDiT) -> None:
    config = network.config
    own_stride, wanted = stride_of(vae) * config.patch_size, config.encoder_stride
    if own_stride != wanted or vae.config.latent_channels != config.in_channels:
        raise ValueError(
            f"load_hunyuan_dit: the autoencoder makes {own_stride} pixels per token and {vae.config.latent_channels} "
            f"channels, the network wants {wanted} and {config.in_channels}; give the folder of its own base"
        )
