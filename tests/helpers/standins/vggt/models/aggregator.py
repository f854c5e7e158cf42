"""Stands in for VGGT's aggregator: arguments, names of weights, tokens and order of blocks as published."""

import torch
from einops import rearrange, repeat
from geometry_blocks import Block, PatchEmbed, Rope, places, rates_of_dropout, resized
from torch import Tensor, nn

ENCODERS = {
    "dinov2_vits14_reg": (384, 12, 6), "dinov2_vitb14_reg": (768, 12, 12), "dinov2_vitl14_reg": (1024, 24, 16),
}  # fmt: skip


class Encoder(nn.Module):
    def __init__(self, img_size: int, patch: int, registers: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        rates_of_dropout(depth)
        self.patch_embed, self.patch = PatchEmbed(patch, width), patch
        self.cls_token, self.mask_token = nn.Parameter(torch.zeros(1, 1, width)), nn.Parameter(torch.zeros(1, width))
        self.register_tokens = nn.Parameter(torch.zeros(1, registers, width))
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + (img_size // patch) ** 2, width) / 50)
        self.blocks = nn.ModuleList(Block(width, heads, scale=1.0) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        count, (rows, columns) = len(image), (side // self.patch for side in image.shape[-2:])
        x = torch.cat([self.cls_token.expand(count, -1, -1), self.patch_embed(image)], 1)
        x = x + resized(self.pos_embed, rows, columns)
        x = torch.cat([x[:, :1], self.register_tokens.expand(count, -1, -1), x[:, 1:]], 1)
        for block in self.blocks:
            x = block(x)
        return {"x_norm_patchtokens": self.norm(x)[:, 1 + self.register_tokens.shape[1] :]}


class Aggregator(nn.Module):
    def __init__(
        self, img_size: int = 518, patch_size: int = 14, embed_dim: int = 1024, depth: int = 24, num_heads: int = 16,
        num_register_tokens: int = 4, patch_embed: str = "dinov2_vitl14_reg",
    ) -> None:  # fmt: skip
        super().__init__()
        if "conv" in patch_embed:
            self.patch_embed: nn.Module = PatchEmbed(patch_size, embed_dim)
        else:
            self.patch_embed = Encoder(img_size, patch_size, num_register_tokens, *ENCODERS[patch_embed])
        rope = Rope()
        self.frame_blocks, self.global_blocks = (
            nn.ModuleList(Block(embed_dim, num_heads, scale=0.01, normed=True, rope=rope) for _ in range(depth))
            for _ in range(2)
        )
        self.camera_token = nn.Parameter(torch.randn(1, 2, 1, embed_dim))
        self.register_token = nn.Parameter(torch.randn(1, 2, num_register_tokens, embed_dim))
        self.patch_start_idx, self.patch_size = 1 + num_register_tokens, patch_size
        for name, value in (("_resnet_mean", (0.485, 0.456, 0.406)), ("_resnet_std", (0.229, 0.224, 0.225))):
            self.register_buffer(name, torch.FloatTensor(value).view(1, 1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> tuple[list[Tensor], int]:
        b, s, _, height, width = images.shape
        images = (images - self._resnet_mean) / self._resnet_std
        patches = self.patch_embed(images.view(b * s, 3, height, width))
        if isinstance(patches, dict):
            patches = patches["x_norm_patchtokens"]
        special = torch.cat([self.camera_token, self.register_token], 2)
        special = torch.cat([special[:, :1], special[:, 1:].expand(-1, s - 1, -1, -1)], 1)
        x = torch.cat([repeat(special, "1 s n c -> (b s) n c", b=b), patches], 1)
        own = places(height // self.patch_size, width // self.patch_size, self.patch_start_idx, x.device)
        outputs = []
        for frame_block, global_block in zip(self.frame_blocks, self.global_blocks, strict=True):
            x = frame_block(x, repeat(own, "n xy -> b n xy", b=b * s))
            kept = rearrange(x, "(b s) n c -> b s n c", b=b)
            x = global_block(rearrange(x, "(b s) n c -> b (s n) c", b=b), repeat(own, "n xy -> b (s n) xy", b=b, s=s))
            outputs.append(torch.cat([kept, rearrange(x, "b (s n) c -> b s n c", s=s)], -1))
            x = rearrange(x, "b (s n) c -> (b s) n c", s=s)
        return outputs, self.patch_start_idx
