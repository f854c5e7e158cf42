"""Capture: observe, edit or supervise the attention of any model that calls PyTorch's fused attention.

The public door to :mod:`probe.attention`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from probe.attention.modules import Pipeline
from probe.attention.records import Halves, Record, guidance_halves
from probe.attention.tap import Call, Edit, Keep, LayerKey, OnSkip, Run, Tap
from probe.attention.targets import by_index, keys_of
from probe.layers.finding import find_layers

__all__ = ["AttentionTap", "Call", "Edit", "Halves", "Keep", "LayerKey", "OnSkip", "Record", "Run", "guidance_halves"]


class AttentionTap(Tap):
    """Observe, edit or supervise chosen attention calls while the context is open: :class:`probe.attention.tap.Tap`.

    Layers may be named by their indexes too, which costs seven small forwards of the model (``find_layers(model)``).

    Args:
        model: The model, wrapped or not, or a diffusers pipeline, whose transformer, unet or prior is meant.
        layers: :class:`~probe.layers.Layer` objects, indexes, module names, or pairs of a name and the number of its
            call.
        edit: ``edit(call, run)`` gives the attention's output instead; one for all layers, or one by layer.
        on_call: Called with each recorded call.
        keep: What ``tap[layer]`` holds after a forward: nothing, detached copies, or the tensors with their graph; a
            ``Record`` chooses tensors, device and steps of a whole sampling run for ``tap.records(layer)``.
        on_skip: Whether a forward in which a layer makes no call, as with a cache, is refused or counted.
        explicit: Whether attention written as a softmax of a product is read too.

    Raises:
        ValueError: If a layer is unknown or cannot be seen.
        RuntimeError: While open, if a layer does not run, calls no fused attention, or has no gradients to keep.
    """

    def __init__(
        self,
        model: nn.Module | Pipeline,
        layers: LayerKey | Sequence[LayerKey],
        *,
        edit: Edit | Mapping[Any, Edit] | None = None,
        on_call: Callable[[Call], object] | None = None,
        keep: Keep = "none",
        on_skip: OnSkip = "refuse",
        explicit: bool = False,
    ) -> None:
        names = _without_indexes(model, keys_of(layers), explicit)
        super().__init__(model, names, edit=edit, on_call=on_call, keep=keep, on_skip=on_skip, explicit=explicit)


def _without_indexes(model: nn.Module | Pipeline, keys: Sequence[LayerKey], explicit: bool) -> list[LayerKey]:
    """Look indexes up among the model's layers."""
    layers = find_layers(model, explicit=explicit) if any(isinstance(key, int) for key in keys) else []
    return [by_index(key, layers) if isinstance(key, int) else key for key in keys]
