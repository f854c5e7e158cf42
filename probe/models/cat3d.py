"""CAT3D on a stock diffusers U-Net in Stable Diffusion 2.1's layout, from 2.5 M parameters to the full size.

Views of a scene are denoised together: the self-attentions below the first resolution level join the tokens of all
views (11 of 16 in SD 2.1's layout). No text branch; LayerNorm on each head's queries and keys; mask and Plücker rays
enter through a small convolutional encoder added after ``conv_in``; a domain embedding joins the time embedding.

Source: arXiv 2512.03045 section on the CAT3D baseline; layout facts of the release in reference/formats.md A1.
"""

import inspect
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from einops import rearrange, repeat
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

DOMAINS = ("re10k", "co3d", "others")
ANY_TEXT_WIDTH = 32  # the text branch is removed after construction; stock diffusers asks for a width

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
    "attention_head_dim": (1, 2, 2, 2),
    "norm_num_groups": 1,
    "encoder_channels": (16, 32),
    "encoder_stride": 1,
    "encoder_norm": False,
    "clean_references": True,
}


class InputEncoder(nn.Module):
    """Encode mask and rays at image resolution to the first level's width and resolution; starts at zero.

    Keys are those of the release (``conv1.0.weight`` ... ``conv_out.bias``), see reference/formats.md A1.2.
    """

    def __init__(
        self, inputs: int, channels: tuple[int, ...], stride: int, outputs: int, *, normalise: bool = True
    ) -> None:
        super().__init__()
        halvings = round(math.log2(stride))
        if 2**halvings != stride or halvings >= len(channels):
            raise ValueError(
                f"InputEncoder: stride {stride} is no power of two with fewer halvings than the {len(channels)} stages"
            )
        self.stages = len(channels)
        for number, (before, after) in enumerate(zip((inputs, *channels), channels, strict=False), start=1):
            step = 2 if 1 < number <= 1 + halvings else 1
            convolution = nn.Conv2d(before, after, 3, step, 1)
            norm = nn.GroupNorm(after // 4, after, eps=1e-6) if normalise else nn.Identity()
            stage = nn.Sequential(convolution, norm, nn.SiLU())
            self.add_module(f"conv{number}", stage)
        self.conv_out = nn.Conv2d(channels[-1], outputs, 3, 1, 1)
        if normalise:
            nn.init.zeros_(self.conv_out.weight)
            nn.init.zeros_(self.conv_out.bias)  # type: ignore[arg-type]
        else:
            _start_at_full_scale(self)

    def forward(self, inputs: Float[Tensor, "bf c H W"]) -> Float[Tensor, "bf channels h w"]:
        """Encode."""
        for number in range(1, self.stages + 1):
            inputs = self.get_submodule(f"conv{number}")(inputs)
        return self.conv_out(inputs)


def _start_at_full_scale(encoder: nn.Module) -> None:
    """Draw He-normal weights, so that cameras weigh as much as colours from the first step on."""
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")


class JointViewProcessor:
    """Run stock fused attention over the tokens of all views of a scene together: view-major, rows before columns."""

    def __init__(self) -> None:
        self.inner = AttnProcessor2_0()

    def __call__(self, attn: Attention, hidden_states: Tensor, *args: Any, views: int, **kwargs: Any) -> Tensor:
        """Join views, attend, part views."""
        joined = rearrange(hidden_states, "(b f) l c -> b (f l) c", f=views)
        return rearrange(self.inner(attn, joined, *args, **kwargs), "b (f l) c -> (b f) l c", f=views)


class ViewProcessor:
    """Run stock fused attention within each view."""

    def __init__(self) -> None:
        self.inner = AttnProcessor2_0()

    def __call__(self, attn: Attention, hidden_states: Tensor, *args: Any, views: int, **kwargs: Any) -> Tensor:
        """Attend; the number of views does not matter here."""
        return self.inner(attn, hidden_states, *args, **kwargs)


class MultiViewUNet(UNet2DConditionModel):
    """CAT3D: a stock U-Net whose deeper self-attentions see all views of a scene.

    The sizes not given are those of SD 2.1. ``save_pretrained`` and ``from_pretrained`` work as in diffusers.
    """

    _skip_layerwise_casting_patterns = None

    @register_to_config
    def __init__(
        self,
        sample_size: int = 64,
        in_channels: int = 4,
        out_channels: int = 4,
        block_out_channels: Sequence[int] = (320, 640, 1280, 1280),
        attention_head_dim: Sequence[int] | int = (5, 10, 20, 20),
        layers_per_block: int = 2,
        norm_num_groups: int = 32,
        encoder_channels: Sequence[int] = (32, 64, 128, 256),
        encoder_stride: int = 8,
        encoder_norm: bool = True,
        num_class_embeds: int = len(DOMAINS),
        clean_references: bool = False,
    ) -> None:
        levels = len(block_out_channels)
        heads = attention_head_dim if isinstance(attention_head_dim, int) else tuple(attention_head_dim)
        super().__init__(
            sample_size=sample_size,
            in_channels=in_channels,
            out_channels=out_channels,
            block_out_channels=tuple(block_out_channels),
            attention_head_dim=heads,
            layers_per_block=layers_per_block,
            norm_num_groups=norm_num_groups,
            num_class_embeds=num_class_embeds,
            down_block_types=("CrossAttnDownBlock2D",) * (levels - 1) + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (levels - 1),
            cross_attention_dim=ANY_TEXT_WIDTH,
            use_linear_projection=True,
        )
        _remove_text(self)
        nn.init.zeros_(self.class_embedding.weight)
        self.add_conv_in = InputEncoder(
            7, tuple(encoder_channels), encoder_stride, block_out_channels[0], normalise=encoder_norm
        )
        for name, module in self.named_modules():
            if isinstance(module, Attention):
                _normalise_queries_and_keys(module)
                first_level = name.startswith(("down_blocks.0.", f"up_blocks.{levels - 1}."))
                module.set_processor(ViewProcessor() if first_level else JointViewProcessor())

    def forward(
        self,
        latents: Float[Tensor, "b f c h w"],
        t: Int[Tensor, " b"] | Float[Tensor, " b"],
        inputs: Float[Tensor, "b f 7 H W"],
        domain: Int[Tensor, " b"],
    ) -> Float[Tensor, "b f c h w"]:
        """Predict v for all views of each scene.

        Args:
            latents: Clean for reference views, noisy for targets.
            t: Timestep index, one per scene, shared by all its views.
            inputs: Mask (0 reference, 1 target), then Plücker direction and moment, at image resolution.
            domain: Index into :data:`DOMAINS`.

        Returns:
            The prediction; only that of target views means something.

        Raises:
            ValueError: If image and latent resolution do not differ by the encoder's stride.
        """
        views, stride = latents.shape[1], self.config.encoder_stride
        if inputs.shape[-1] != stride * latents.shape[-1] or inputs.shape[-2] != stride * latents.shape[-2]:
            raise ValueError(
                f"MultiViewUNet: inputs of {tuple(inputs.shape[-2:])} pixels for latents of "
                f"{tuple(latents.shape[-2:])}; expected {stride} times the latents' size"
            )
        condition = self.add_conv_in(rearrange(inputs, "b f c h w -> (b f) c h w"))
        with self.conv_in.register_forward_hook(lambda _module, _args, output: output + condition):
            out = super().forward(
                rearrange(latents, "b f c h w -> (b f) c h w"),
                rearrange(self._times(t, inputs), "b f -> (b f)"),
                encoder_hidden_states=None,
                class_labels=repeat(domain, "b -> (b f)", f=views),
                cross_attention_kwargs={"views": views},
                return_dict=False,
            )[0]
        return rearrange(out, "(b f) c h w -> b f c h w", f=views)

    def _times(self, t: Tensor, inputs: Tensor) -> Tensor:
        """Give each view its timestep: the scene's, or 0 for references where ``clean_references`` says so.

        The release gives references the scene's timestep; a small model learns sooner when told that they are clean.
        """
        times = repeat(t, "b -> b f", f=inputs.shape[1])
        return times * inputs[:, :, 0].amax((-2, -1)).to(times) if self.config.clean_references else times

    def probe_inputs(self, views: int, scale: int | None = None) -> dict[str, Tensor]:
        """Make inputs for recognising layers (:func:`probe.layers.find_layers`).

        Args:
            views: Number of views.
            scale: Side of the deepest level's token grid; None for the model's native size.
        """
        deepest = 2 ** (len(self.config.block_out_channels) - 1)
        side = self.config.sample_size if scale is None else scale * deepest
        stride = self.config.encoder_stride
        like = {"device": self.device, "dtype": self.dtype}
        return {
            "latents": torch.zeros(1, views, self.config.in_channels, side, side, **like),
            "t": torch.zeros(1, dtype=torch.long, device=self.device),
            "inputs": torch.zeros(1, views, 7, side * stride, side * stride, **like),
            "domain": torch.zeros(1, dtype=torch.long, device=self.device),
        }


def _remove_text(unet: nn.Module) -> None:
    for block in unet.modules():
        if isinstance(block, BasicTransformerBlock):
            block.attn2 = None
            block.norm2 = None


def _normalise_queries_and_keys(attention: Attention) -> None:
    width = attention.inner_dim // attention.heads
    attention.norm_q = nn.LayerNorm(width, eps=1e-5)
    attention.norm_k = nn.LayerNorm(width, eps=1e-5)


SETTINGS = frozenset(inspect.signature(MultiViewUNet.__init__).parameters) - {"self"}


def load_unet(source: str | Path | Mapping[str, Tensor] | None, config: Mapping[str, Any]) -> MultiViewUNet:
    """Build the model and fill in its weights.

    Args:
        source: A safetensors file, a state dict, or None for random weights (drawn from torch's global generator).
        config: Sizes that differ from SD 2.1's, by :class:`MultiViewUNet`'s argument names.

    Raises:
        ValueError: If the configuration names an unknown size, or weights are missing, left over or misshapen.
    """
    unknown = sorted(set(config) - SETTINGS)
    if unknown:
        raise ValueError(f"load_unet: unknown settings {unknown}; known ones are {sorted(SETTINGS)}")
    unet = MultiViewUNet(**config)
    if source is None:
        return unet
    if isinstance(source, Mapping):
        return fill(unet, source, origin="the state dict")
    return fill(unet, _read(source), origin=str(source))


def _read(path: str | Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"load_unet: {path} cannot be read as safetensors: {error}") from error


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Pick this model's own sizes out of a stored diffusers configuration."""
    return {name: value for name, value in config.items() if name in SETTINGS}


def fill(unet: MultiViewUNet, weights: Mapping[str, Tensor], *, origin: str) -> MultiViewUNet:
    """Copy weights into a model, all of them and nothing else.

    Raises:
        ValueError: If names or shapes differ; names the first few.
    """
    own = unet.state_dict()
    missing, left = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    misshapen = sorted(name for name in own.keys() & weights.keys() if own[name].shape != weights[name].shape)
    if missing or left or misshapen:
        raise ValueError(
            f"load_unet: {origin} does not fit this configuration: {len(missing)} weights missing {missing[:2]}, "
            f"{len(left)} left over {left[:2]}, {len(misshapen)} of another shape {misshapen[:2]}"
        )
    unet.load_state_dict(weights)
    return unet
