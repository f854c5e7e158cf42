"""Stands in for the package of Stable Virtual Camera: names of weights, attention and signature as published."""

from dataclasses import dataclass, field
from typing import Any

import torch
from einops import rearrange, repeat
from ldm_unet import GROUPS, Perceptron, UNet, sinusoids
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel


@dataclass
class SevaParams:
    in_channels: int = 11
    model_channels: int = 320
    out_channels: int = 4
    num_frames: int = 21
    num_res_blocks: int = 2
    attention_resolutions: list[int] = field(default_factory=lambda: [4, 2, 1])
    channel_mult: list[int] = field(default_factory=lambda: [1, 2, 4, 4])
    num_head_channels: int = 64
    transformer_depth: list[int] = field(default_factory=lambda: [1, 1, 1, 1])
    context_dim: int = 1024
    dense_in_channels: int = 6
    dropout: float = 0.0
    unflatten_names: list[str] = field(default_factory=lambda: ["middle_ds8", "output_ds4", "output_ds2"])


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, context: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k, self.to_v = (nn.Linear(context or width, width, bias=False) for _ in range(2))
        self.to_out = nn.Sequential(nn.Linear(width, width), nn.Dropout(0.0))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        other = x if context is None else context
        pairs = ((self.to_q, x), (self.to_k, other), (self.to_v, other))
        q, k, v = (rearrange(to(y), "b l (h d) -> b h l d", h=self.heads).contiguous() for to, y in pairs)
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            out = F.scaled_dot_product_attention(q, k, v)
        return self.to_out(rearrange(out, "b h l d -> b l (h d)"))


class Spatial(nn.Module):
    def __init__(self, width: int, heads: int, context: int) -> None:
        super().__init__()
        self.attn1, self.attn2 = Attention(width, heads), Attention(width, heads, context)
        self.ff = Perceptron(width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x = self.attn1(self.norm1(x)) + x
        x = self.attn2(self.norm2(x), context) + x
        return self.ff(self.norm3(x)) + x


class OverViews(Spatial):
    """Joins the views at one place."""

    def __init__(self, width: int, heads: int, context: int) -> None:
        super().__init__(width, heads, context)
        self.norm_in, self.ff_in = nn.LayerNorm(width), Perceptron(width)

    def forward(self, x: Tensor, context: Tensor, views: int) -> Tensor:  # type: ignore[override]
        places = x.shape[1]
        x = rearrange(x, "(b t) s c -> (b s) t c", t=views).contiguous()
        x = self.ff_in(self.norm_in(x)) + x
        x = self.attn1(self.norm1(x)) + x
        x = self.attn2(self.norm2(x), context) + x
        return rearrange(self.ff(self.norm3(x)), "(b s) t c -> (b t) s c", s=places)


class MultiviewTransformer(nn.Module):
    def __init__(self, width: int, params: SevaParams, name: str) -> None:
        super().__init__()
        heads = width // params.num_head_channels
        self.joins = name in params.unflatten_names
        self.norm = nn.GroupNorm(GROUPS, width, eps=1e-6)
        self.proj_in, self.proj_out = nn.Linear(width, width), nn.Linear(width, width)
        self.transformer_blocks = nn.ModuleList([Spatial(width, heads, params.context_dim)])
        self.time_mix_blocks = nn.ModuleList([OverViews(width, heads, params.context_dim)])

    def forward(self, x: Tensor, context: Tensor, views: int) -> Tensor:
        h, w = x.shape[2:]
        of_scene = context[::views]
        tokens = self.proj_in(rearrange(self.norm(x), "b c h w -> b (h w) c"))
        if self.joins:
            tokens = rearrange(tokens, "(b t) s c -> b (t s) c", t=views)
        tokens = self.transformer_blocks[0](tokens, of_scene if self.joins else context)
        if self.joins:
            tokens = rearrange(tokens, "b (t s) c -> (b t) s c", t=views)
        tokens = tokens + self.time_mix_blocks[0](tokens, repeat(of_scene, "b n c -> (b s) n c", s=h * w), views)
        return x + rearrange(self.proj_out(tokens), "b (h w) c -> b c h w", h=h, w=w)


class Seva(UNet):
    def __init__(self, params: SevaParams) -> None:
        super().__init__(
            in_channels=params.in_channels, out_channels=params.out_channels, model_channels=params.model_channels,
            num_res_blocks=params.num_res_blocks, channel_mult=params.channel_mult, dense=params.dense_in_channels,
            attention_resolutions=params.attention_resolutions,
            transformer=lambda width, name: MultiviewTransformer(width, params, name),
        )  # fmt: skip
        self.params = params

    def forward(
        self, x: Tensor, t: Tensor, y: Tensor, dense_y: Tensor, num_frames: int | None = None, **_: Any
    ) -> torch.Tensor:
        emb = self.time_embed(sinusoids(t, self.width))
        return self.run(x, emb, y, dense_y, num_frames or self.params.num_frames)
