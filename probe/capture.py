"""Capture: observe, edit or supervise the attention of any model that calls PyTorch's fused attention."""

from probe.attention.tap import (
    AttentionTap,
    Call,
    Edit,
    Keep,
    LayerKey,
    Run,
)

__all__ = [
    "AttentionTap",
    "Call",
    "Edit",
    "Keep",
    "LayerKey",
    "Run",
]
