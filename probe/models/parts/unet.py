"""A stock diffusers U-Net in Stable Diffusion's layout whose deeper self-attentions see all views of a scene.

No text branch; LayerNorm on each head's queries and keys; mask and rays enter through a small convolutional encoder
added after ``conv_in``; a domain embedding joins the time embedding. Layout facts: docs/references.md, "CAT3D of the
release: network".
"""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar

import torch
from diffusers import UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn

from probe.attention.modules import compute_device
from probe.models.parts.encoders import InputEncoder

ANY_TEXT_WIDTH = 32  # the text branch is removed after construction; stock diffusers asks for a width
PER_HEAD = 64
PER_VIEW_WIDTH = 320
"""The release keeps attentions of this width within a view, at whatever level; so does the first level of any width."""


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
    """A stock U-Net whose deeper self-attentions see all views of a scene.

    The sizes not given are those of SD 2.1, with heads of 64 channels. ``save_pretrained`` and ``from_pretrained`` work
    as in diffusers. A subclass with more inputs changes INPUTS and :meth:`make_encoder`.

    Attributes:
        INPUTS: Channels of the conditioning at image resolution: the mask, the rays.
        left_out: Views, from the first, that the last block does not compute: see :func:`targets_only`.
    """

    _skip_layerwise_casting_patterns = None
    INPUTS: ClassVar[int] = 7
    left_out = 0

    @register_to_config
    def __init__(
        self,
        sample_size: int = 64,
        in_channels: int = 4,
        out_channels: int = 4,
        block_out_channels: Sequence[int] = (320, 640, 1280, 1280),
        attention_head_dim: Sequence[int] | int | None = None,
        layers_per_block: int = 2,
        norm_num_groups: int = 32,
        encoder_channels: Sequence[int] = (32, 64, 128, 256),
        encoder_stride: int = 8,
        encoder_norm: bool = True,
        num_class_embeds: int = 3,
        clean_references: bool = False,
        query_gain: float = 1.0,
        ray_octaves: int = 0,
    ) -> None:
        levels = len(block_out_channels)
        heads = attention_head_dim or [width // PER_HEAD for width in block_out_channels]
        super().__init__(
            sample_size=sample_size,
            in_channels=in_channels,
            out_channels=out_channels,
            block_out_channels=tuple(block_out_channels),
            attention_head_dim=heads if isinstance(heads, int) else tuple(heads),
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
        self.add_conv_in = self.make_encoder(
            tuple(encoder_channels),
            encoder_stride,
            block_out_channels[0],
            normalise=encoder_norm,
        )
        for name, module in self.named_modules():
            if isinstance(module, Attention):
                _normalise_queries_and_keys(module, query_gain)
                first_level = name.startswith(("down_blocks.0.", f"up_blocks.{levels - 1}."))
                within = first_level or module.inner_dim == PER_VIEW_WIDTH
                module.set_processor(ViewProcessor() if within else JointViewProcessor())

    def make_encoder(self, channels: tuple[int, ...], stride: int, outputs: int, *, normalise: bool) -> InputEncoder:
        """Return the encoder of the conditioning."""
        octaves = self.config.ray_octaves
        return InputEncoder(self.INPUTS, channels, stride, outputs, normalise=normalise, octaves=octaves)

    def forward(
        self,
        latents: Float[Tensor, "b f c h w"],
        t: Int[Tensor, " b"] | Float[Tensor, " b"],
        inputs: Float[Tensor, "b f inputs H W"],
        domain: Int[Tensor, " b"],
        **more: Tensor,
    ) -> Float[Tensor, "b f c h w"]:
        """Predict v for all views of each scene.

        Args:
            latents: Clean for reference views, noisy for targets.
            t: Timestep index, one per scene, shared by all its views.
            inputs: Mask (0 reference, 1 target), then Plücker direction and moment, at image resolution.
            domain: Index of the embedding of the kind of data.
            more: What else the encoder takes, for each view.

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
        flat = {name: rearrange(x, "b f c h w -> (b f) c h w") for name, x in {"inputs": inputs, **more}.items()}
        condition = self.add_conv_in(**flat)
        with ExitStack() as hooks:
            hooks.enter_context(self.conv_in.register_forward_hook(lambda _module, _args, output: output + condition))
            if self.left_out:
                _leave_out(hooks, self.up_blocks, views, self.left_out)
            out = super().forward(
                rearrange(latents, "b f c h w -> (b f) c h w"),
                rearrange(self._times(t, inputs), "b f -> (b f)"),
                encoder_hidden_states=None,
                class_labels=repeat(domain, "b -> (b f)", f=views),
                cross_attention_kwargs={"views": views},
                return_dict=False,
            )[0]
        out = rearrange(out, "(b f) c h w -> b f c h w", f=views - self.left_out)
        return torch.cat([out.new_zeros(len(out), self.left_out, *out.shape[2:]), out], dim=1) if self.left_out else out

    def _times(self, t: Tensor, inputs: Tensor) -> Tensor:
        """Return each view's timestep: the scene's, or 0 for references where ``clean_references`` is set.

        The release gives references the scene's timestep; a small model learns sooner if it knows that they are clean.
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
        device = compute_device(self)
        like = {"device": device, "dtype": self.dtype}
        return {
            "latents": torch.zeros(1, views, self.config.in_channels, side, side, **like),
            "t": torch.zeros(1, dtype=torch.long, device=device),
            "inputs": torch.zeros(1, views, self.INPUTS, side * stride, side * stride, **like),
            "domain": torch.zeros(1, dtype=torch.long, device=device),
        }


@contextmanager
def targets_only(network: nn.Module, n_ref: int) -> Iterator[None]:
    """Compute the last block for target views only while the context is open; references are predicted as zeros.

    That block keeps to one view, so the targets' prediction and its gradients are the same to rounding. Do not look at
    the last block's layers meanwhile.

    Args:
        network: A :class:`MultiViewUNet`; others compute all views as ever.
        n_ref: Reference views; they come first.
    """
    if not isinstance(network, MultiViewUNet):
        yield
        return
    network.left_out = n_ref
    try:
        yield
    finally:
        del network.left_out


def _leave_out(hooks: ExitStack, blocks: nn.ModuleList, views: int, count: int) -> None:
    """Drop the first views of each scene between the last two blocks, from all that enters what follows."""

    def drop(x: Tensor) -> Tensor:
        return rearrange(rearrange(x, "(b f) ... -> b f ...", f=views)[:, count:], "b f ... -> (b f) ...")

    def drop_image(x: Tensor) -> Tensor:
        return rearrange(drop(rearrange(x, "b c h w -> b h w c")), "b h w c -> b c h w")  # stays in channels_last

    def before_upsampler(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return drop_image(args[0]), *args[1:]

    def before_block(_module: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        skipped = tuple(drop_image(x) for x in inputs["res_hidden_states_tuple"])
        return args, inputs | {"temb": drop(inputs["temb"]), "res_hidden_states_tuple": skipped}

    upsampler = blocks[-2].get_submodule("upsamplers.0")
    hooks.enter_context(upsampler.register_forward_pre_hook(before_upsampler))
    hooks.enter_context(blocks[-1].register_forward_pre_hook(before_block, with_kwargs=True))


def _remove_text(unet: nn.Module) -> None:
    for block in unet.modules():
        if isinstance(block, BasicTransformerBlock):
            block.attn2 = None
            block.norm2 = None


def _normalise_queries_and_keys(attention: Attention, gain: float) -> None:
    """Add LayerNorm to each head's queries and keys, with which no logit exceeds gain times the root of the width."""
    width = attention.inner_dim // attention.heads
    attention.norm_q = nn.LayerNorm(width, eps=1e-5)
    attention.norm_k = nn.LayerNorm(width, eps=1e-5)
    nn.init.constant_(attention.norm_q.weight, gain)


SETTINGS = frozenset(inspect.signature(MultiViewUNet.__init__).parameters) - {"self"}
