"""Stands in for Depth Anything 3's backbone: arguments, names of weights, tokens and the choice of a reference view."""

from types import SimpleNamespace
from typing import Any

import torch
from einops import rearrange, repeat
from geometry_blocks import Block, Mlp, PatchEmbed, Rope, SwiGlu, places, rates_of_dropout, resized
from torch import Tensor, nn

logger = SimpleNamespace(level=2)
FFN = {"mlp": Mlp, "swiglufused": SwiGlu}
MANY = 3
"""From so many views on, a reference is chosen."""


class DinoVisionTransformer(nn.Module):
    def __init__(
        self, img_size: int = 224, patch_size: int = 16, embed_dim: int = 768, depth: int = 12, num_heads: int = 12,
        ffn_layer: str = "mlp", alt_start: int = -1, qknorm_start: int = -1, rope_start: int = -1,
        cat_token: bool = True, drop_path_uniform: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        if not drop_path_uniform:
            rates_of_dropout(depth)
        self.alt_start, self.rope_start, self.patch_size, self.embed_dim = alt_start, rope_start, patch_size, embed_dim
        self.cat_token = cat_token
        self.patch_embed = PatchEmbed(patch_size, embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        if alt_start != -1:
            self.camera_token = nn.Parameter(torch.randn(1, 2, embed_dim))
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + (img_size // patch_size) ** 2, embed_dim) / 50)
        rope = Rope()
        self.blocks = nn.ModuleList(
            Block(
                embed_dim, num_heads, scale=1.0, mlp=FFN[ffn_layer], rope=rope,
                normed=0 <= qknorm_start <= n,
            )
            for n in range(depth)
        )  # fmt: skip
        self.norm = nn.LayerNorm(embed_dim)

    def get_intermediate_layers(self, x: Tensor, n: int = 1, **options: Any) -> tuple[Any, list[Tensor]]:
        assert n == 1
        strategy = options.get("ref_view_strategy", "saddle_balanced")
        b, s, _, height, width = x.shape
        rows, columns = height // self.patch_size, width // self.patch_size
        x = self.patch_embed(rearrange(x, "b s c h w -> (b s) c h w"))
        x = torch.cat([self.cls_token.expand(b * s, -1, -1), x], 1) + resized(self.pos_embed, rows, columns)
        x = rearrange(x, "(b s) n c -> b s n c", s=s)
        own = places(rows, columns, 1, x.device)
        moved = s >= MANY and strategy != "first"
        for index, block in enumerate(self.blocks):
            if moved and index == self.alt_start - 1:
                x, local = x.roll(1, 1), local.roll(1, 1)
            if index == self.alt_start:
                x = torch.cat([repeat_camera(self.camera_token, b, s), x[:, :, 1:]], 2)
            joint = index >= self.alt_start and index % 2 == 1
            pattern = "b (s n) c" if joint else "(b s) n c"
            # within a view by the place in it; between views a patch's place says nothing
            own_place = (own > 0).long() if joint else own
            pos = repeat(own_place, f"n c -> {pattern}", b=b, s=s) if index >= self.rope_start else None
            x = rearrange(block(rearrange(x, f"b s n c -> {pattern}"), pos), f"{pattern} -> b s n c", s=s, b=b)
            local = local if joint else x
        out = torch.cat([local, self.norm(x)], -1)
        out = out.roll(-1, 1) if moved else out
        return ((out[:, :, 1:], out[:, :, 0]),), []


def repeat_camera(token: Tensor, b: int, s: int) -> Tensor:
    return repeat(torch.cat([token[:, :1], token[:, 1:].expand(-1, s - 1, -1)], 1), "1 s c -> b s 1 c", b=b)
