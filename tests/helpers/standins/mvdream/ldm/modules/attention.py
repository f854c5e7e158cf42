"""Attention of MVDream: xformers where it is installed, an explicit softmax elsewhere."""

import torch
from einops import rearrange
from ldm_unet import GROUPS, Perceptron
from torch import Tensor, nn

try:
    import xformers
    import xformers.ops
except ImportError:
    xformers = None


class CrossAttention(nn.Module):
    def __init__(self, width: int, heads: int, context: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k, self.to_v = (nn.Linear(context or width, width, bias=False) for _ in range(2))
        self.to_out = nn.Sequential(nn.Linear(width, width), nn.Dropout(0.0))

    def project(self, x: Tensor, context: Tensor | None) -> list[Tensor]:
        other = x if context is None else context
        pairs = ((self.to_q, x), (self.to_k, other), (self.to_v, other))
        return [rearrange(to(y), "b n (h d) -> (b h) n d", h=self.heads).contiguous() for to, y in pairs]

    def kernel(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        logits = torch.einsum("bid,bjd->bij", q.float(), k.float()) * q.shape[-1] ** -0.5
        return torch.einsum("bij,bjd->bid", logits.softmax(dim=-1).to(v.dtype), v)

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        out = self.kernel(*self.project(x, context))
        return self.to_out(rearrange(out, "(b h) n d -> b n (h d)", h=self.heads))


class MemoryEfficientCrossAttention(CrossAttention):
    def kernel(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return xformers.ops.memory_efficient_attention(q, k, v, attn_bias=None, op=None)


class Block(nn.Module):
    def __init__(self, width: int, heads: int, context: int) -> None:
        super().__init__()
        attention = CrossAttention if xformers is None else MemoryEfficientCrossAttention
        self.attn1, self.attn2 = attention(width, heads), attention(width, heads, context)
        self.ff = Perceptron(width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))

    def forward(self, x: Tensor, context: Tensor, views: int) -> Tensor:
        x = rearrange(x, "(b f) l c -> b (f l) c", f=views).contiguous()
        x = self.attn1(self.norm1(x)) + x
        x = rearrange(x, "b (f l) c -> (b f) l c", f=views).contiguous()
        x = self.attn2(self.norm2(x), context=context) + x
        return self.ff(self.norm3(x)) + x


class SpatialTransformer3D(nn.Module):
    def __init__(self, width: int, heads: int, context: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, width, eps=1e-6)
        self.proj_in, self.proj_out = nn.Linear(width, width), nn.Linear(width, width)
        self.transformer_blocks = nn.ModuleList([Block(width, heads, context)])

    def forward(self, x: Tensor, context: Tensor, views: int) -> Tensor:
        h, w = x.shape[2:]
        tokens = self.proj_in(rearrange(self.norm(x), "b c h w -> b (h w) c"))
        tokens = self.proj_out(self.transformer_blocks[0](tokens, context, views))
        return x + rearrange(tokens, "b (h w) c -> b c h w", h=h, w=w)
