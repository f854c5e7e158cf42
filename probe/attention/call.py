"""One attention call: what the kernel was given, how to copy it, how to replace its output."""

import functools
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

Timestep = float | tuple[float, ...] | None
"""Noise level of a forward: one number where all items of the batch share it, else the distinct ones, largest first."""

FUSED = F.scaled_dot_product_attention
SOFTMAX = frozenset({F.softmax, torch.softmax, Tensor.softmax, torch.special.softmax})
_ARGUMENTS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")


@dataclass(frozen=True, eq=False)
class Call:
    """One attention call as the model made it.

    Attributes:
        name: Name of the module that made it.
        nth: Which of the module's calls in this forward of the model.
        step: Which forward of the model, from 0, since the tap was opened.
        q: Queries after all that the model does to them (normalisation, rotary embedding).
        k: Keys; fewer heads than ``q`` where ``gqa`` (see ``k_per_head``).
        v: Values.
        scale: Factor of the logits.
        mask: As passed: boolean (True takes part), or added to the logits.
        causal: Whether later keys are left out.
        gqa: Whether several query heads share one key head.
        compute_dtype: What the kernel computes in; under autocast not always that of ``q``.
        kernel: Name of the function that the model called.
        timestep: As the model's own forward got it; None if it takes none, or was not running.
        pass_of_step: Which of the forwards in a row with this timestep, from 0. Pipelines that run the network twice
            per step (Wan) run the conditional pass first; a sampler that repeats a timestep counts on.
        dropout: Share of attention weights that the kernel drops at random; no record shows which.
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
    timestep: Timestep = None
    pass_of_step: int = 0
    dropout: float = 0.0

    @property
    def k_per_head(self) -> Float[Tensor, "b heads m d"]:
        """Return the keys with as many heads as the queries."""
        return repeat(self.k, "b heads m d -> b (heads r) m d", r=self.q.shape[1] // self.k.shape[1])

    @property
    def v_per_head(self) -> Float[Tensor, "b heads m dv"]:
        """Return the values with as many heads as the queries."""
        return repeat(self.v, "b heads m d -> b (heads r) m d", r=self.q.shape[1] // self.v.shape[1])


Run = Callable[[Tensor, Tensor, Tensor], Tensor]
"""The layer's own attention: from queries, keys and values to its output, [b heads n d]."""
Edit = Callable[[Call, Run], Tensor]
"""A replacement of attention: from the call and the layer's own attention to the output that goes on."""


def _as_it_is(output: Tensor) -> Tensor:
    return output


@dataclass(frozen=True, eq=False)
class Reading:
    """A call's arguments under the names of PyTorch's fused attention, whatever function was called.

    Attributes:
        values: The arguments by name.
        run: The kernel, taking arguments by these names.
        write: Turns an output like that of ``run`` into what the model expects.
    """

    values: Mapping[str, Any]
    run: Callable[..., Tensor] = FUSED
    write: Callable[[Tensor], Any] = _as_it_is


def describe(
    name: str,
    nth: int,
    step: int,
    kernel: str,
    values: Mapping[str, Any],
    *,
    timestep: Timestep = None,
    pass_of_step: int = 0,
) -> Call:
    """Read a call off the arguments of the fused kernel.

    Args:
        name: The module that makes it.
        nth: Its number among the module's calls.
        step: The forward's number.
        kernel: The function that the model called.
        values: What :func:`bind` gave.
        timestep: The forward's noise level.
        pass_of_step: The forward's number among those in a row with this timestep.
    """
    q, k, v = (x if x.ndim == 4 else x[:, None] for x in (values[name] for name in ("query", "key", "value")))
    scale = q.shape[-1] ** -0.5 if values.get("scale") is None else float(values["scale"])
    mask, causal = _masking(values)
    gqa, dtype = values.get("enable_gqa", False), compute_dtype(q)
    dropout = float(values.get("dropout_p") or 0.0)
    return Call(name, nth, step, q, k, v, scale, mask, causal, gqa, dtype, kernel, timestep, pass_of_step, dropout)


def _masking(values: Mapping[str, Any]) -> tuple[Tensor | None, bool]:
    """Read the mask, also where it is a ``torch.nn.attention.bias.CausalBias``, which holds only its sizes."""
    mask, causal = values.get("attn_mask"), values.get("is_causal", False)
    if isinstance(mask, Tensor) and mask.ndim == values["query"].ndim == 3:
        return mask[:, None], causal  # one head
    if mask is None or type(mask).__name__ != "CausalBias":
        return mask, causal
    n, m = mask.seq_len_q, mask.seq_len_kv
    if n == m or mask.variant.name == "UPPER_LEFT":
        return None, True
    return torch.ones(n, m, dtype=torch.bool, device=values["query"].device).tril(m - n), False


def read_fused(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Reading:
    """Read a call of PyTorch's fused attention.

    Axes before the heads are folded into one batch, and two axes are one head of a batch of one.
    """
    values = bind(args, kwargs)
    query, mask = values["query"], values.get("attn_mask")
    if query.ndim in (3, 4):
        return Reading(values)
    lead = query.shape[:-3]
    folded = {name: _folded(values[name], lead) for name in ("query", "key", "value")}
    if isinstance(mask, Tensor) and mask.ndim > 3:
        folded["attn_mask"] = _folded(mask, lead)

    def unfolded(tensor: Tensor) -> Tensor:
        return tensor[0, 0] if query.ndim == 2 else tensor.unflatten(0, lead)

    def run(**new: Any) -> Tensor:
        if new["query"].shape[0] != folded["query"].shape[0]:
            return FUSED(**new)
        tensors = {name: unfolded(new[name]) for name in ("query", "key", "value")}
        return _folded(FUSED(**{**new, **tensors, "attn_mask": mask}), lead)

    return Reading({**values, **folded}, run, unfolded)


def _folded(tensor: Tensor, lead: torch.Size) -> Tensor:
    if tensor.ndim == 2:
        return tensor[None, None]
    return tensor.expand(*lead, *tensor.shape[-3:]).flatten(0, -4)


def bind(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Name the arguments of the fused kernel."""
    return dict(zip(_ARGUMENTS, args, strict=False)) | dict(kwargs)


def edited(edit: Edit, call: Call, reading: Reading) -> Any:
    """Run an edit in place of the kernel.

    Raises:
        ValueError: If its output has not the shape and dtype of the kernel's.
    """
    values = reading.values
    flat = values["query"].ndim == 3

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x[:, 0] if flat else x for x in (q, k, v))
        asked = {**values, "query": q, "key": k, "value": v}
        if k.shape != values["key"].shape and _hides_nothing(values.get("attn_mask")):
            asked["attn_mask"] = None  # it is of the size of the call's own keys
        output = reading.run(**asked)
        return output[:, None] if flat else output

    output = edit(call, run)
    expected = (*call.q.shape[:3], call.v.shape[3]), call.compute_dtype
    came = (tuple(output.shape), output.dtype) if isinstance(output, Tensor) else type(output)
    if came != expected:
        raise ValueError(f"AttentionTap: the edit of {call.name!r} gave {came}, expected {expected} like run(q, k, v)")
    return reading.write(output[:, 0] if flat else output)


def _hides_nothing(mask: Any) -> bool:
    return isinstance(mask, Tensor) and mask.dtype == torch.bool and bool(mask.all())


@contextmanager
def plain(device_type: str, *, gradients: bool) -> Iterator[None]:
    """Leave autocast, and recording of gradients unless requested, while a callback looks at a call."""
    with ExitStack() as stack:
        if not gradients:
            stack.enter_context(torch.no_grad())
        if _autocast_on(device_type):
            stack.enter_context(torch.autocast(device_type, enabled=False))
        yield


def attention_like(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Return the shape of a softmax's logits where it could be attention: over the last of three or more axes."""
    values = dict(zip(("input", "dim"), args, strict=False)) | dict(kwargs)
    logits = values.get("input")
    if not isinstance(logits, Tensor) or logits.ndim < 3 or values.get("dim") not in (-1, logits.ndim - 1):
        return None
    return tuple(logits.shape)


@functools.cache
def multi_head_body() -> Callable[..., Any]:
    """Rebuild ``F.multi_head_attention_forward`` so that it runs its body under a mode rather than dispatch once more.

    Source:
        docs/references.md, "Capturing attention".
    """
    original = F.multi_head_attention_forward
    names = {**vars(F), "has_torch_function": lambda _tensors: False}
    body = FunctionType(original.__code__, names, original.__name__, original.__defaults__)
    body.__kwdefaults__ = original.__kwdefaults__
    return body


def in_backward() -> bool:
    """Return whether autograd is running, so that a forward can only be a recomputation."""
    return torch._C._current_graph_task_id() != -1


def refuse_recomputation(name: str, module: nn.Module) -> None:
    """Guard a module until its next forward: its edited forward may still be recomputed, without the edit."""

    def reject(_module: nn.Module, _args: Any) -> None:
        if in_backward():
            raise RuntimeError(
                f"AttentionTap: gradient checkpointing recomputes {name!r} after the tap that edited it was closed, so "
                "that gradients would be wrong; call backward() inside the with block"
            )
        hook.remove()

    hook = module.register_forward_pre_hook(reject)


def checkpoint_region() -> object:
    """Identify the checkpointed region that is running; None outside.

    Non-reentrant checkpointing saves tensors with hooks of its own; reentrant checkpointing, PyTorch's or a copy of it,
    runs in the forward of a ``CheckpointFunction``.
    """
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
    if hooks is not None or torch.is_grad_enabled():
        return hooks
    frame = sys._getframe()
    while frame is not None and frame.f_code.co_qualname != "CheckpointFunction.forward":
        frame = frame.f_back
    return None if frame is None else id(frame)


def compute_dtype(q: Tensor) -> torch.dtype:
    """Return what a kernel computes in with such queries: under autocast not always their own type."""
    # autocast leaves float64 alone
    casts = _autocast_on(q.device.type) and q.dtype != torch.float64
    return torch.get_autocast_dtype(q.device.type) if casts else q.dtype


def _autocast_on(device_type: str) -> bool:
    return torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type)
