"""Blocks of the stand-ins for VGGT and Depth Anything 3: names of weights and signatures as published."""

from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F


class Rope(nn.Module):
    """Turns the first half of the channels by a token's row, the second by its column."""

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        length, half = int(positions.max()) + 1, tokens.shape[-1] // 2
        rate = 100 ** -(torch.arange(0, half, 2, device=tokens.device) / half)
        angle = torch.outer(torch.arange(length, device=tokens.device), rate)
        parts = tokens.chunk(2, dim=-1)
        turned = [self.turn(part, F.embedding(positions[..., axis], angle)) for axis, part in enumerate(parts)]
        return torch.cat(turned, dim=-1)

    @staticmethod
    def turn(x: Tensor, angle: Tensor) -> Tensor:
        one, two = x.chunk(2, dim=-1)
        cos, sin = angle.cos()[:, None].to(x), angle.sin()[:, None].to(x)
        return torch.cat([one * cos - two * sin, two * cos + one * sin], dim=-1)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, *, normed: bool, rope: Rope | None) -> None:
        super().__init__()
        self.heads, self.rope = heads, rope
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.q_norm, self.k_norm = (nn.LayerNorm(width // heads) if normed else nn.Identity() for _ in range(2))

    def forward(self, x: Tensor, pos: Tensor | None = None) -> Tensor:
        q, k, v = rearrange(self.qkv(x), "b n (part h d) -> part b h n d", part=3, h=self.heads)
        q, k = self.q_norm(q), self.k_norm(k)
        if self.rope is not None and pos is not None:
            q, k = self.rope(q, pos), self.rope(k, pos)
        return self.proj(rearrange(F.scaled_dot_product_attention(q, k, v), "b h n d -> b n (h d)"))


class LayerScale(nn.Module):
    def __init__(self, width: int, value: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), value))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class SwiGlu(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = (8 * width // 3 + 7) // 8 * 8
        self.w12, self.w3 = nn.Linear(width, 2 * hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)


class Block(nn.Module):
    def __init__(
        self, width: int, heads: int, *, scale: float, normed: bool = False, rope: Rope | None = None, mlp: Any = Mlp
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn, self.mlp = Attention(width, heads, normed=normed, rope=rope), mlp(width)
        self.ls1, self.ls2 = LayerScale(width, scale), LayerScale(width, scale)

    def forward(self, x: Tensor, pos: Tensor | None = None) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x), pos))
        return x + self.ls2(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)

    def forward(self, image: Tensor) -> Tensor:
        return rearrange(self.proj(image), "b c h w -> b (h w) c")


def rates_of_dropout(depth: int) -> list[float]:
    """As the packages make them: numbers read off a tensor, which has none on the meta device."""
    return [x.item() for x in torch.linspace(0, 0.0, depth)]


def resized(positions: Tensor, rows: int, columns: int) -> Tensor:
    """Learned positions, the class token's first, on another grid."""
    side = round((positions.shape[1] - 1) ** 0.5)
    grid = rearrange(positions[:, 1:].float(), "1 (h w) c -> 1 c h w", h=side)
    grid = F.interpolate(grid, (rows, columns), mode="bicubic", antialias=True)
    return torch.cat([positions[:, :1], rearrange(grid, "1 c h w -> 1 (h w) c").to(positions)], dim=1)


def places(rows: int, columns: int, special: int, device: torch.device) -> Tensor:
    """Row and column of each token from 1 on; 0 for those before the patches."""
    grid = torch.cartesian_prod(torch.arange(rows, device=device), torch.arange(columns, device=device)) + 1
    return torch.cat([torch.zeros(special, 2, device=device, dtype=grid.dtype), grid])
