"""Capture: observe, edit or supervise the attention of any model that calls PyTorch's fused attention.

The model stays as it is. While a chosen module's forward runs, a ``TorchFunctionMode`` recognises
``F.scaled_dot_product_attention`` however the model spells it, below all that the model does to queries and keys.
Measured behaviour and failure modes: reference/capture.md.
"""

import functools
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from types import FunctionType, TracebackType
from typing import Any, Literal, Self

import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from probe.layers import Layer, find_layers, nearest_names

LayerKey = Layer | int | str | tuple[str, int]
Keep = Literal["none", "detached", "graph"]

_WRAPPERS = re.compile(r"(^|\.)(_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module)(?=\.|$)")
_SDPA = F.scaled_dot_product_attention
_SDPA_ARGUMENTS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
_SOFTMAX = {F.softmax, torch.softmax, Tensor.softmax, torch.special.softmax}


@dataclass(frozen=True, eq=False)
class Call:
    """Hold one attention call as the model made it.

    Attributes:
        name: Name of the module that made it.
        nth: Which of the module's calls in this forward.
        step: Which forward of the model, from 0, since the tap was opened.
        q: Queries after all that the model does to them (normalisation, rotary embedding).
        k: Keys; fewer heads than ``q`` where ``gqa``, see ``k_per_head``.
        v: Values.
        scale: Factor of the logits.
        mask: As passed: boolean (True takes part) or added to the logits.
        causal: Whether later keys are left out.
        gqa: Whether query heads share key heads.
        compute_dtype: What the kernel computes in; under autocast not that of ``q``.
        kernel: Name of the function that the model called.
    """

    name: str
    nth: int
    step: int
    q: Float[Tensor, "b heads n d"]
    k: Float[Tensor, "b kv_heads m d"]
    v: Float[Tensor, "b kv_heads m dv"]
    scale: float
    mask: Tensor | None
    causal: bool
    gqa: bool
    compute_dtype: torch.dtype
    kernel: str

    @property
    def k_per_head(self) -> Float[Tensor, "b heads m d"]:
        """Give the keys with as many heads as the queries."""
        return repeat(self.k, "b heads m d -> b (heads r) m d", r=self.q.shape[1] // self.k.shape[1])

    @property
    def v_per_head(self) -> Float[Tensor, "b heads m dv"]:
        """Give the values with as many heads as the queries."""
        return repeat(self.v, "b heads m d -> b (heads r) m d", r=self.q.shape[1] // self.v.shape[1])


Run = Callable[[Tensor, Tensor, Tensor], Tensor]
Edit = Callable[[Call, Run], Tensor]


@dataclass(eq=False)
class _Target:
    """What was asked for: one call (nth given) or all calls in a module."""

    name: str
    nth: int | None = None
    layer: Layer | None = None
    edit: Edit | None = None
    alone: bool = False  # the edit was given for this very name, so it must mean one call

    def covers(self, name: str, nth: int) -> bool:
        if self.nth is not None:
            return (name, nth) == (self.name, self.nth)
        return name == self.name or not self.name or name.startswith(f"{self.name}.")


@dataclass(eq=False)
class _Frame:
    """One running forward of a wrapped module."""

    name: str
    nth: int
    region: object


@dataclass(eq=False)
class _Step:
    """What happened in one forward of the model."""

    runs: Counter[str] = field(default_factory=Counter)
    made: Counter[str] = field(default_factory=Counter)
    seen: dict[_Target, list[tuple[str, int]]] = field(default_factory=dict)


class _Frames(threading.local):
    """A torch function mode belongs to one thread, and so do the running forwards."""

    def __init__(self) -> None:
        self.running: list[_Frame] = []


class AttentionTap:
    """Observe, edit or supervise chosen attention calls while the context is open.

    Without an edit the model's output is the same bit for bit (only fused ``nn.MultiheadAttention`` and
    ``nn.TransformerEncoder`` paths are left by PyTorch itself, which rounds differently). On exit, also after an exception,
    the model is as before. A compiled model runs uncompiled meanwhile. Taps may be nested and are closed in reverse order.

    Call ``backward()`` inside the context where an edit meets gradient checkpointing: the recomputation needs the edit. Under
    DDP or FSDP add ``0 * output.sum()`` to a loss that uses only captured tensors.

    Args:
        model: The model, wrapped or not.
        layers: :class:`~probe.layers.Layer` objects, indexes (looked up by ``find_layers(model)``), names of modules, or
            (name, nth) pairs. A name may stop at a module that holds the attention; looking it up or editing it then
            asks that it holds a single call.
        edit: ``edit(call, run)`` returns the attention's output instead; ``run(q, k, v)`` is the original kernel with its
            mask, scale and context. One function for all layers, or a dict from layer to function. Edits run again when
            checkpointing recomputes, so they must depend on nothing but the call.
        on_call: Called with every recorded call (not with recomputations), outside autocast. Unless ``keep="graph"`` there are no
            gradients, and with ``keep="none"`` the tensors are the model's own, to be read at once and left unchanged.
        keep: What ``tap[layer]`` holds after a forward: nothing, detached copies, or the tensors with their graph.

    Attributes:
        softmaxes: Modules that called softmax on attention-like tensors, with their shapes, since the tap was opened.

    Raises:
        ValueError: If a layer is unknown or cannot be seen.
        RuntimeError: While running, if a layer does not run, calls no fused attention, or has no gradients to keep.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: LayerKey | Sequence[LayerKey],
        *,
        edit: Edit | Mapping[Any, Edit] | None = None,
        on_call: Callable[[Call], None] | None = None,
        keep: Keep = "none",
    ) -> None:
        if keep not in ("none", "detached", "graph"):
            raise ValueError(f"AttentionTap: keep={keep!r} is unknown; choose 'none', 'detached' or 'graph'")
        self.model, self.edit, self.on_call, self.keep = model, edit, on_call, keep
        self.layers = [layers] if isinstance(layers, Layer | int | str) or _is_pair(layers) else list(layers)
        self._modules = _modules_by_name(model)
        self._targets = _resolve(model, self._modules, self.layers)
        _attach(self._targets, edit)
        self.softmaxes: dict[str, tuple[int, ...]] = {}
        self._calls: dict[tuple[str, int], Call] = {}
        self._frames = _Frames()
        self._is_open = False

    # looking up

    @property
    def calls(self) -> list[Call]:
        """Give the kept calls of the last forward, in execution order."""
        return list(self._calls.values())

    def __getitem__(self, layer: LayerKey) -> Call:
        """Give the last call of a layer, given as a Layer, its index, its name or a (name, nth) pair.

        Raises:
            ValueError: If the layer is not tapped, or the name holds several calls.
            RuntimeError: If nothing was kept.
        """
        target = _find_target(self._targets, layer)
        fits = [call for (name, nth), call in self._calls.items() if target.covers(name, nth)]
        if len(fits) > 1:
            raise ValueError(
                f"AttentionTap: {layer!r} holds {len(fits)} attention calls, {[(x.name, x.nth) for x in fits]}; choose one of them"
            )
        if not fits:
            why = "keep='none' keeps nothing" if self.keep == "none" else "no forward has run in this tap"
            raise RuntimeError(f"AttentionTap: there is no record of {layer!r}: {why}; use keep='detached', 'graph' or on_call")
        return fits[0]
