"""Tiny models with known attention: shared by the tests of capture and layers."""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH, HEADS = 8, 2


class Attend(nn.Module):
    """Attention over [b n c], with keys from elsewhere if given."""

    def __init__(self, heads: int = HEADS) -> None:
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.to_out = nn.Linear(WIDTH, WIDTH)

    def project(self, x: Tensor, other: Tensor) -> list[Tensor]:
        pairs = ((self.to_q, x), (self.to_k, other), (self.to_v, other))
        return [rearrange(linear(y), "b n (heads d) -> b heads n d", heads=self.heads) for linear, y in pairs]

    def kernel(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        q, k, v = self.project(x, x if other is None else other)
        return x + self.to_out(rearrange(self.kernel(q, k, v), "b heads n d -> b n (heads d)"))


class Block(nn.Module):
    """Attention of one kind over [b f n c]."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.attn = kind, Attend()

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        f = x.shape[1]
        if self.kind == "view":
            return rearrange(self.attn(rearrange(x, "b f n c -> (b f) n c")), "(b f) n c -> b f n c", f=f)
        if self.kind == "temporal":
            n = x.shape[2]
            return rearrange(self.attn(rearrange(x, "b f n c -> (b n) f c")), "(b n) f c -> b f n c", n=n)
        joint = rearrange(x, "b f n c -> b (f n) c")
        joint = self.attn(joint, text) if self.kind == "cross" else self.attn(joint)
        return rearrange(joint, "b (f n) c -> b f n c", f=f)


class Toy(nn.Module):
    """A pooler over text, then blocks of given kinds; the token grid is the latents' own, 2 x 3 at its smallest."""

    def __init__(self, kinds: tuple[str, ...] = ("view", "3d", "cross", "3d"), *, native: int = 4) -> None:
        super().__init__()
        self.native = native
        self.pooler = Attend()
        self.blocks = nn.ModuleList(Block(kind) for kind in kinds)
        self.dropout = nn.Dropout(0.5)

    def forward(self, latents: Tensor, text: Tensor) -> Tensor:
        h = latents.shape[-2]
        pooled = self.pooler(text.mean(1, keepdim=True), text)
        x = rearrange(latents, "b f c h w -> b f (h w) c") + pooled[:, None]
        for block in self.blocks:
            x = block(self.dropout(x), text)
        return rearrange(x, "b f (h w) c -> b f c h w", h=h)

    def probe_inputs(self, views: int, scale: int | None = None) -> dict[str, Tensor]:
        side = self.native if scale is None else scale
        return {"latents": torch.randn(1, views, WIDTH, 2 * side, 3 * side), "text": torch.randn(1, 5, WIDTH)}


class Plain(nn.Module):
    """A chain of attentions over [b n c], optionally checkpointed block by block."""

    def __init__(self, *blocks: nn.Module, checkpoint: str | None = None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks or (Attend(), Attend()))
        self.checkpoint = checkpoint

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            if self.checkpoint is None:
                x = block(x)
            else:
                reentrant = self.checkpoint == "reentrant"
                x = torch.utils.checkpoint.checkpoint(block, x, use_reentrant=reentrant)
        return x


def tokens(n: int = 6, *, b: int = 1) -> Tensor:
    """Draw tokens [b n c]."""
    return torch.randn(b, n, WIDTH, generator=torch.Generator().manual_seed(n))
