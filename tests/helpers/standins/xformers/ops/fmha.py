"""The public function with its signature and its three layouts, computed with an explicit softmax."""

from typing import Any

import torch
from torch import Tensor


class LowerTriangularMask:
    """Earlier keys only."""


def memory_efficient_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_bias: Any = None, p: float = 0.0, scale: float | None = None, *,
    op: Any = None, output_dtype: Any = None,
) -> Tensor:  # fmt: skip
    """Attend over [batch, tokens, heads, channels], also with groups before the heads, or without heads."""
    if query.ndim == 3:
        bias = attn_bias[:, None] if isinstance(attn_bias, Tensor) else attn_bias
        four = (x[:, :, None] for x in (query, key, value))
        return memory_efficient_attention(*four, attn_bias=bias, p=p, scale=scale)[:, :, 0]
    if query.ndim == 5:
        parts = (x.flatten(2, 3) for x in (query, key, value))
        bias = attn_bias.flatten(1, 2) if isinstance(attn_bias, Tensor) else attn_bias
        return memory_efficient_attention(*parts, attn_bias=bias, p=p, scale=scale).unflatten(2, query.shape[2:4])
    logits = torch.einsum("bqhd,bkhd->bhqk", query, key) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if isinstance(attn_bias, LowerTriangularMask):
        logits = logits + torch.full_like(logits, -torch.inf).triu(1)
    elif hasattr(attn_bias, "materialize"):
        logits = logits + attn_bias.materialize(logits.shape, dtype=logits.dtype, device=logits.device)
    elif attn_bias is not None:
        logits = logits + attn_bias
    return torch.einsum("bhqk,bkhd->bqhd", logits.softmax(-1), value).contiguous()
