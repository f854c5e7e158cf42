"""Logits and weights of attention: what a tensor is made of, and what usual operations make of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from probe.attention.explicit.products import Product
from probe.attention.masks import LEAST

T = torch.Tensor


@dataclass(eq=False)
class Softmax:
    """A softmax that may be attention.

    Attributes:
        name: The module that called it.
        shape: Of what it was called with.
        reason: Why it is not recorded, as far as it is known.
        is_product: Whether it was called with a product of two tensors, whatever became of that.
    """

    name: str
    shape: tuple[int, ...]
    reason: str
    is_product: bool


@dataclass(frozen=True, eq=False, kw_only=True)
class Logits:
    """A tensor that is ``scale * q k + bias``, or the softmax of it.

    Attributes:
        q: Queries [*lead n d].
        k: Keys [*lead m d].
        axes: Which of the axes [*lead n m] each axis of the tensor is.
        scale: Factor of the products.
        bias: What is added, broadcast to [*lead n m]; None if nothing is.
        heads: How many heads are folded into the only leading axis, as the slower (batch) and faster part; None if that
            was not seen.
        lost: The operation after which the tensor is something else; empty if it is still what it was.
        softmax: The softmax that it came from; None of logits.
        weights: What that gave [*lead n m].
        dropout: Share of weights that are dropped behind it.
    """

    q: Tensor
    k: Tensor
    axes: tuple[int, ...]
    scale: float = 1.0
    bias: Tensor | None = None
    heads: tuple[int, int] | None = None
    lost: str = ""
    softmax: Softmax | None = None
    weights: Tensor | None = None
    dropout: float = 0.0

    @property
    def lead(self) -> int:
        """Return the number of leading axes."""
        return len(self.axes) - 2

    def without(self, operation: str) -> "Logits":
        """Return what an operation leaves that is not understood."""
        return self if self.lost else replace(self, lost=operation)


def logits_of(product: Product, heads: tuple[int, int] | None) -> Logits | None:
    """Return a product of queries and keys, each with one axis of its own; None if it is another product."""
    (a, b, out), lead = product.axes, [x for x in product.axes[2] if x in product.axes[0] and x in product.axes[1]]
    own = [[x for x in axes if x in out and x not in lead] for axes in (a, b)]
    channels = [[x for x in axes if x not in out] for axes in (a, b)]
    if not lead or [len(x) for x in own] != [1, 1] or channels[0] != channels[1] or len(channels[0]) != 1:
        return None
    order = [*lead, *own[0], *own[1]]
    q, k = (
        x.permute([axes.index(letter) for letter in (*lead, *mine, *channels[0])])
        for x, axes, mine in ((product.a, a, own[0]), (product.b, b, own[1]))
    )
    shape = torch.broadcast_shapes(q.shape[:-2], k.shape[:-2])
    q, k = (x.expand(*shape, *x.shape[-2:]) for x in (q, k))
    axes = tuple(order.index(letter) for letter in out)
    logits = Logits(q=q, k=k, axes=axes, scale=product.alpha, heads=heads)
    return logits if product.added is None else _shifted(logits, product.added, product.beta)


def _canonical(logits: Logits, other: Tensor) -> Tensor:
    """Turn a tensor that broadcasts to the logits' axes into one that broadcasts to [*lead n m]."""
    full = other[(None,) * (len(logits.axes) - other.ndim)]
    return full.permute([logits.axes.index(axis) for axis in range(len(logits.axes))])


def _scaled(logits: Logits, factor: Any) -> Logits | None:
    """Multiply logits by a number, or by a tensor with one factor for all keys, which the queries then take up."""
    if logits.softmax is not None:
        return None
    bias = logits.bias
    if isinstance(factor, int | float):
        return replace(logits, scale=logits.scale * factor, bias=None if bias is None else bias * factor)
    if not isinstance(factor, Tensor) or factor.ndim > len(logits.axes):
        return None
    factors = _canonical(logits, factor)
    if factors.shape[-1] != 1:
        return None
    return replace(logits, q=logits.q * factors, bias=None if bias is None else bias * factors)


def _shifted(logits: Logits, other: Any, factor: float = 1.0) -> Logits | None:
    """Add to logits; what is the same for all keys changes no softmax over them."""
    if logits.softmax is not None:
        return None
    if isinstance(other, int | float):
        return logits
    if not isinstance(other, Tensor) or other.ndim > len(logits.axes):
        return None
    added = _canonical(logits, other) * factor if factor != 1 else _canonical(logits, other)
    return replace(logits, bias=added if logits.bias is None else logits.bias + added)


def _filled(logits: Logits, mask: Tensor, value: Any, dtype: torch.dtype) -> Logits | None:
    """Hide keys where a mask is True, by a value that leaves nothing of the logits."""
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_meta:
        value = value.item()
    if logits.softmax is not None or not isinstance(value, int | float) or value > LEAST:
        return None
    bias = torch.zeros((), dtype=dtype, device=mask.device) if logits.bias is None else logits.bias
    return replace(logits, bias=torch.where(_canonical(logits, mask), value, bias))


def softmax_of(logits: Logits, axis: int, softmax: Softmax, weights: Tensor) -> Logits | None:
    """Return the weights: a softmax over the keys, or over what turns out to be the keys; None over another axis."""
    over = logits.axes[axis]
    if over == logits.lead + 1:
        return replace(logits, softmax=softmax, weights=_canonical(logits, weights))
    if over != logits.lead:
        return None
    turn = {logits.lead: logits.lead + 1, logits.lead + 1: logits.lead}
    bias = None if logits.bias is None else logits.bias.mT
    axes = tuple(turn.get(axis, axis) for axis in logits.axes)
    turned = replace(logits, q=logits.k, k=logits.q, axes=axes, bias=bias, softmax=softmax)
    return replace(turned, weights=_canonical(turned, weights))


# --- operations ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, kw_only=True)
class Operation:
    """An operation on logits or weights.

    Attributes:
        args: Its arguments.
        kwargs: Its arguments by name.
        place: Which of ``args`` the logits or weights are.
        output: What it gave.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    place: int
    output: Tensor

    @property
    def other(self) -> Any:
        """Return the other one of two arguments; None if there is none, or options change the operation."""
        if {*self.kwargs} - {"other"} or len(self.args) + len(self.kwargs) != 2:
            return None
        return self.kwargs["other"] if self.kwargs else self.args[1 - self.place]

    def named(self, *names: str) -> dict[str, Any]:
        """Return the arguments by name."""
        return dict(zip(names, self.args, strict=False)) | dict(self.kwargs)


Rule = Callable[[Logits, Operation], Logits | None]
"""What an operation makes of logits or weights; None: it is not understood."""


def _same(logits: Logits, _operation: Operation) -> Logits:
    return logits


def _moved(logits: Logits, operation: Operation) -> Logits:
    first, second = (*operation.args[1:], *operation.kwargs.values())
    axes = list(logits.axes)
    axes[first], axes[second] = axes[second], axes[first]
    return replace(logits, axes=tuple(axes))


def _turned(logits: Logits, _operation: Operation) -> Logits:
    return replace(logits, axes=(*logits.axes[:-2], logits.axes[-1], logits.axes[-2]))


def _permuted(logits: Logits, operation: Operation) -> Logits:
    args = operation.args
    order = operation.kwargs.get("dims", args[1] if len(args) == 2 else args[1:])
    return replace(logits, axes=tuple(logits.axes[axis] for axis in order))


def _reshaped(logits: Logits, operation: Operation) -> Logits | None:
    """Fold or unfold the leading axes."""
    before, after = operation.args[0].shape, operation.output.shape
    if before == after:
        return logits
    in_order = logits.axes == tuple(range(len(logits.axes)))
    if not in_order or len(after) < 3 or after[-2:] != before[-2:]:
        return None
    parts = {name: getattr(logits, name) for name in ("q", "k", "bias", "weights")}
    tensors: dict[str, Any] = {
        name: x.expand(*before[:-2], *x.shape[-2:]).reshape(*after[:-2], *x.shape[-2:])
        for name, x in parts.items()
        if x is not None
    }
    folds = len(before) == 4 and len(after) == 3
    heads = (before[0], before[1]) if folds else logits.heads
    return replace(logits, **tensors, axes=tuple(range(len(after))), heads=heads)


def _multiplied(logits: Logits, operation: Operation) -> Logits | None:
    return _scaled(logits, operation.other)


def _divided(logits: Logits, operation: Operation) -> Logits | None:
    divisor = operation.other
    return None if operation.place or divisor is None else _scaled(logits, 1 / divisor)


def _added(logits: Logits, operation: Operation) -> Logits | None:
    return _shifted(logits, operation.other)


def _subtracted(logits: Logits, operation: Operation) -> Logits | None:
    return None if operation.place else _shifted(logits, operation.other, -1.0)


def _masked(logits: Logits, operation: Operation) -> Logits | None:
    values = operation.named("input", "mask", "value")
    return _filled(logits, values["mask"], values["value"], operation.output.dtype)


def _chosen(logits: Logits, operation: Operation) -> Logits | None:
    values = operation.named("condition", "input", "other")
    return _filled(logits, ~values["condition"], values["other"], operation.output.dtype) if operation.place else None


def _dropped(weights: Logits, operation: Operation) -> Logits | None:
    values = operation.named("input", "p", "training")
    share = values.get("p", 0.5) if values.get("training", True) else 0.0
    if not share:
        return weights
    if weights.softmax is None or weights.dropout:
        return None
    return replace(weights, dropout=share)


RULES: dict[Any, Rule] = {
    **dict.fromkeys((T.to, T.float, T.half, T.bfloat16, T.double, T.type, T.type_as, T.contiguous, T.clone), _same),
    **dict.fromkeys((T.transpose, torch.transpose, T.swapaxes, torch.swapaxes), _moved),
    T.mT.__get__: _turned,  # type: ignore[attr-defined]
    **dict.fromkeys((T.permute, torch.permute), _permuted),
    **dict.fromkeys((T.reshape, torch.reshape, T.view, T.flatten, torch.flatten, T.unflatten), _reshaped),
    **dict.fromkeys((T.mul, T.mul_, torch.mul, torch.multiply, T.multiply, T.__rmul__), _multiplied),
    **dict.fromkeys((T.div, T.div_, torch.div, torch.divide, torch.true_divide, T.true_divide), _divided),
    **dict.fromkeys((T.add, T.add_, torch.add, T.__radd__), _added),
    **dict.fromkeys((T.sub, T.sub_, torch.sub, torch.subtract), _subtracted),
    **dict.fromkeys((T.masked_fill, T.masked_fill_, torch.masked_fill), _masked),
    torch.where: _chosen,
    F.dropout: _dropped,
}
"""Operations between a product and its softmax, and behind it."""
