"""A stock Hunyuan-DiT whose self-attentions see all views: the network of :mod:`probe.models.hunyuan_dit`."""

import inspect
from typing import Any, NamedTuple

import torch
from diffusers import HunyuanDiT2DModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_processor import Attention, HunyuanAttnProcessor2_0
from diffusers.models.embeddings import get_2d_rotary_pos_embed
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor

from probe.attention.modules import compute_device
from probe.models.parts.encoders import InputEncoder

STOCK = frozenset(inspect.signature(HunyuanDiT2DModel.__init__).parameters) - {"self"}
ROTARY_SIDE = 512
"""Side in pixels of the images whose tokens have whole-numbered rotary positions; of others they are stretched."""
AUTOENCODER_STRIDE = 8
ORIGINAL_SIDE = 1024
"""Side that diffusers' pipeline claims the training image had."""


class Rotary(NamedTuple):
    """The rotary embedding of one view's tokens, and how many views share it."""

    cos: Float[Tensor, "n d"]
    sin: Float[Tensor, "n d"]
    views: int


class JointViewsProcessor:
    """Run the stock processor over the tokens of all views of a scene together: view-major, rows before columns."""

    def __init__(self) -> None:
        self.inner = HunyuanAttnProcessor2_0()

    def __call__(self, attn: Attention, hidden_states: Tensor, *, image_rotary_emb: Rotary, **_: Any) -> Tensor:
        """Join views, attend, part views."""
        cos, sin, views = image_rotary_emb
        tiled = tuple(repeat(wave, "n d -> (f n) d", f=views) for wave in (cos, sin))
        joined = rearrange(hidden_states, "(b f) n c -> b (f n) c", f=views)
        return rearrange(self.inner(attn, joined, image_rotary_emb=tiled), "b (f n) c -> (b f) n c", f=views)


class TextProcessor:
    """Run the stock processor from each view to the text."""

    def __init__(self) -> None:
        self.inner = HunyuanAttnProcessor2_0()

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        *,
        image_rotary_emb: Rotary,
        **_: Any,
    ) -> Tensor:
        """Attend; the number of views does not matter here."""
        waves = (image_rotary_emb.cos, image_rotary_emb.sin)
        return self.inner(attn, hidden_states, encoder_hidden_states, image_rotary_emb=waves)


class MultiViewDiT(HunyuanDiT2DModel):
    """A stock Hunyuan-DiT whose self-attentions see all views of a scene, conditioned on cameras and on no text.

    The settings are diffusers' own, and the two of the encoder. ``save_pretrained`` and ``from_pretrained`` work as in
    diffusers.
    """

    @register_to_config
    def __init__(
        self,
        num_attention_heads: int = 16,
        attention_head_dim: int = 88,
        in_channels: int = 4,
        patch_size: int = 2,
        activation_fn: str = "gelu-approximate",
        sample_size: int = 32,
        hidden_size: int = 1152,
        num_layers: int = 28,
        mlp_ratio: float = 4.0,
        learn_sigma: bool = True,
        cross_attention_dim: int = 1024,
        norm_type: str = "layer_norm",
        cross_attention_dim_t5: int = 2048,
        pooled_projection_dim: int = 1024,
        text_len: int = 77,
        text_len_t5: int = 256,
        use_style_cond_and_image_meta_size: bool = True,
        encoder_channels: tuple[int, ...] | list[int] = (32, 64, 128, 256, 256),
        encoder_stride: int = 16,
    ) -> None:
        super().__init__(**{name: self.config[name] for name in STOCK})  # registered before this runs
        self.add_conv_in = InputEncoder(7, tuple(encoder_channels), encoder_stride, hidden_size)
        for block in self.blocks:
            block.attn1.set_processor(JointViewsProcessor())
            block.attn2.set_processor(TextProcessor())

    def forward(
        self, latents: Float[Tensor, "b f c h w"], t: Int[Tensor, " b"], inputs: Float[Tensor, "b f 7 H W"]
    ) -> Float[Tensor, "b f c h w"]:
        """Predict v for all views of each scene.

        Args:
            latents: Clean for reference views, noisy for targets; squares.
            t: Timestep index, one per scene, shared by all its views.
            inputs: Mask (0 reference, 1 target), then Plücker direction and moment, at image resolution.

        Returns:
            The prediction; only that of target views means something.

        Raises:
            ValueError: If the latents are no squares of whole patches, or the inputs are not of the encoder's stride.
        """
        views, side = latents.shape[1], self._check_sizes(latents, inputs)
        encoded = rearrange(self.add_conv_in(rearrange(inputs, "b f c h w -> (b f) c h w")), "bf d h w -> bf (h w) d")
        with self.pos_embed.register_forward_hook(lambda _module, _args, output: output + encoded):
            out = super().forward(
                rearrange(latents, "b f c h w -> (b f) c h w"),
                repeat(t.to(latents), "b -> (b f)", f=views),
                **self._no_text(latents),
                **self._meta(latents, inputs.shape[-1]),
                image_rotary_emb=Rotary(*self.rotary_of(side, latents), views),
                return_dict=False,
            )[0]
        return rearrange(out[:, : latents.shape[2]], "(b f) c h w -> b f c h w", f=views)

    def _check_sizes(self, latents: Tensor, inputs: Tensor) -> int:
        """Return the side of the token grid."""
        patch, stride = self.config.patch_size, self.config.encoder_stride
        height, width = latents.shape[-2:]
        side, rest = divmod(height, patch)
        if height != width or rest or tuple(inputs.shape[-2:]) != (side * stride, side * stride):
            raise ValueError(
                f"MultiViewDiT: latents of {height} x {width} with inputs of {tuple(inputs.shape[-2:])} pixels; "
                f"expected squares, of a multiple of {patch} latents, with inputs of {stride} pixels per {patch}"
            )
        return int(side)

    def rotary_of(self, side: int, like: Tensor) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        """Return cosine and sine of the stock pipeline's rotary embedding of a square token grid.

        Args:
            side: Of the grid.
            like: Tells the device.
        """
        stop = ROTARY_SIDE // AUTOENCODER_STRIDE // self.config.patch_size
        width = self.inner_dim // self.num_heads
        return get_2d_rotary_pos_embed(width, ((0, 0), (stop, stop)), (side, side), device=like.device)

    def _no_text(self, latents: Tensor) -> dict[str, Tensor]:
        """Return the embeddings of no text: zeros, masked out but for the learned padding."""
        config, batch = self.config, latents.shape[0] * latents.shape[1]
        return {
            "encoder_hidden_states": latents.new_zeros(batch, config.text_len, config.cross_attention_dim),
            "text_embedding_mask": latents.new_zeros(batch, config.text_len),
            "encoder_hidden_states_t5": latents.new_zeros(batch, config.text_len_t5, config.cross_attention_dim_t5),
            "text_embedding_mask_t5": latents.new_zeros(batch, config.text_len_t5),
        }

    def _meta(self, latents: Tensor, side: int) -> dict[str, Tensor]:
        """Return original size, target size, top left corner of the crop; and the only style there is."""
        sizes = latents.new_tensor([ORIGINAL_SIDE, ORIGINAL_SIDE, side, side, 0, 0])
        batch = latents.shape[0] * latents.shape[1]
        style = torch.zeros(batch, dtype=torch.long, device=latents.device)
        everywhere = repeat(sizes, "six -> bf six", bf=batch).contiguous()  # the stock class flattens it in place
        return {"image_meta_size": everywhere, "style": style}

    def enable_gradient_checkpointing(self, *_args: Any, **_kwargs: Any) -> None:
        """Reject: diffusers' class does not support it.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            "MultiViewDiT: diffusers' HunyuanDiT2DModel has no gradient checkpointing; leave it "
            "out, and save memory by accumulating gradients, bf16 precision or a smaller size of the views"
        )

    def probe_inputs(self, views: int, scale: int | None = None) -> dict[str, Tensor]:
        """Make inputs for recognising layers (:func:`probe.layers.find_layers`).

        Args:
            views: Number of views.
            scale: Side of the token grid; None for the model's native size.
        """
        patch = self.config.patch_size
        side = self.config.sample_size // patch if scale is None else scale
        pixels = side * self.config.encoder_stride
        device = compute_device(self)
        like = {"device": device, "dtype": self.dtype}
        return {
            "latents": torch.zeros(1, views, self.config.in_channels, side * patch, side * patch, **like),
            "t": torch.zeros(1, dtype=torch.long, device=device),
            "inputs": torch.zeros(1, views, 7, pixels, pixels, **like),
        }
