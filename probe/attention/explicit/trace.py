"""The trace: which tensors of a running module are logits or weights of attention, and what becomes of them.

Followed from the product of queries and keys, through scales, masks and casts, to the softmax and to the product with
values. An operation that is not understood ends the trace, and is named.

Source: docs/references.md, "Explicit softmax".
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.weak import WeakTensorKeyDictionary

from probe.attention.call import SOFTMAX, Reading, attention_like, compute_dtype, plain
from probe.attention.explicit.logits import RULES, Logits, Operation, Softmax, logits_of, softmax_of
from probe.attention.explicit.products import PRODUCTS, Product, product_of
from probe.attention.kernel_layouts import HEADS

NAME = "softmax"
"""What a record calls an explicit softmax: ``call.kernel``."""
WAY_OUT = (
    "switch to F.scaled_dot_product_attention (transformers: model.set_attn_implementation('sdpa')), or leave the "
    "layer out"
)
FOLDED_NAMES = (*HEADS, "num_attention_heads")
ROUNDING = 4.0  # roundings of a logit: product, scale, mask, and one to spare
TF32 = 2.0**-10
PROVED_ROWS = 64  # queries of each head at which a reading is proved


@dataclass(frozen=True, eq=False, kw_only=True)
class Weighted:
    """A product of weights and values, as a tap reads and runs it.

    Attributes:
        function: The product as the model spelled it.
        weights: Of which attention.
        value: Values [*lead m d].
        order: Which of the axes [*lead n d] each axis of the product is.
        heads: Number of heads in the last leading axis, where there is only one; 0 where heads have their own.
    """

    function: Callable[..., Any]
    weights: Logits
    value: Tensor
    order: tuple[int, ...]
    heads: int
    name: str = NAME

    def read(self, _args: tuple[Any, ...], _kwargs: Mapping[str, Any], _module: nn.Module) -> Reading:
        """Name queries, keys and values as PyTorch's fused attention does, as [b heads n d].

        Raises:
            ValueError: If the softmax of what was read is not the module's own.
        """
        weights = self.weights
        values: dict[str, Any] = {"query": self._apart(weights.q), "key": self._apart(weights.k)}
        values |= {"value": self._apart(self.value), "scale": weights.scale, "dropout_p": weights.dropout}
        values["attn_mask"] = None if weights.bias is None else self._apart(weights.bias)
        self._prove(values)
        return Reading(values, attend, self.write)

    def write(self, output: Tensor) -> Tensor:
        """Return an output [b heads n d] as the model's product gives it."""
        lead = self.value.shape[:-2]
        joined = output.flatten(0, 1).unflatten(0, lead) if len(lead) > 1 else output.flatten(0, 1)
        mixed = self.weights.q.dtype != self.value.dtype and output.dtype == self.weights.q.dtype
        return (joined.to(self.value.dtype) if mixed else joined).permute(self.order)

    def _apart(self, tensor: Tensor) -> Tensor:
        """Add a batch and a heads axis to a tensor [*lead n d]; a bias may have one entry for all."""
        lead = self.value.shape[:-2]
        if len(lead) == 1:
            return tensor[None] if tensor.shape[0] == 1 != lead[0] else tensor.unflatten(0, (-1, self.heads))
        if len(lead) == 2:
            return tensor
        return tensor.expand(*lead[:-1], *tensor.shape[-3:]).flatten(0, -4)

    def _prove(self, values: Mapping[str, Any]) -> None:
        """Compare the softmax of what was read with the model's own, up to rounding, at some queries."""
        own, name = self.weights.weights, self.weights.softmax.name if self.weights.softmax else ""
        if own is None or own.is_meta or not own.numel() or torch._C._functorch.is_functorch_wrapped_tensor(own):
            return
        least = max(_rounding(self.weights.q), torch.finfo(own.dtype).eps, torch.finfo(self.value.dtype).eps)
        with plain(own.device.type, gradients=False):
            q, k, mask = _some_rows(_precise(values["query"])), _precise(values["key"]), values["attn_mask"]
            expected = weights_of(q, k, None if mask is None else _some_rows(mask), values["scale"])
            largest = abs(values["scale"]) * float(q.norm(dim=-1).amax() * k.norm(dim=-1).amax())
            slack = math.expm1(min(ROUNDING * least * (1 + largest), 1.0))
            seen = _some_rows(self._apart(own)).to(expected)
            same = torch.isclose(seen, expected, rtol=slack, atol=least, equal_nan=True)
        if not bool(same.all()):
            raise ValueError(
                f"AttentionTap: the explicit softmax of {name!r} gives other weights than the queries, keys, scale and "
                f"mask that were read around it: something else changes its logits; {WAY_OUT}"
            )


def _some_rows(tensor: Tensor) -> Tensor:
    """Return evenly spaced rows of [b heads n m], the first and the last among them; all if they are few."""
    rows = torch.linspace(0, tensor.shape[-2] - 1, min(tensor.shape[-2], PROVED_ROWS), device=tensor.device)
    return tensor[..., rows.round().long(), :]


def _rounding(q: Tensor) -> float:
    """Return how much a product of queries rounds, beside 1: a GPU may round single precision to ten bits (TF32)."""
    dtype = compute_dtype(q)
    shortened = q.is_cuda and dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest"
    return TF32 if shortened else torch.finfo(dtype).eps


def _precise(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def weights_of(q: Tensor, k: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """Return the attention weights [b heads n m]."""
    logits = q @ k.mT * scale
    return (logits if bias is None else logits + bias).softmax(dim=-1)


def attend(
    *,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None,
    scale: float,
    dropout_p: float,
) -> Tensor:
    """Attend by an explicit softmax, in the queries' precision or autocast's."""
    weights = F.dropout(weights_of(query, key, attn_mask, scale), dropout_p)
    output = weights.to(value.dtype) @ value
    return output if output.dtype != value.dtype else output.to(query.dtype)


@dataclass(eq=False)
class Trace:
    """What is known of the tensors of one running module, and of the modules in it.

    Attributes:
        logits: Logits and weights by tensor.
        folds: Of tensors whose batch holds the heads: both sizes, batch first.
        softmaxes: Those that are not recorded.
    """

    logits: Any = field(default_factory=WeakTensorKeyDictionary)
    folds: Any = field(default_factory=WeakTensorKeyDictionary)
    softmaxes: list[Softmax] = field(default_factory=list)

    def weighted(
        self, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], modules: Sequence[nn.Module], heads: int
    ) -> Weighted | None:
        """Return the product of attention weights and values that a function is about to compute; None if it is none.

        Args:
            function: Any function of PyTorch.
            args: Its arguments.
            kwargs: Its arguments.
            modules: Running modules, innermost first, which know their numbers of heads.
            heads: Number of heads that the caller is known to fold into the batch; 0 if it is not known.
        """
        product = product_of(function, args, kwargs) if function in PRODUCTS else None
        if product is None:
            return None
        for side in (product, product.swapped()):
            weights = self.logits.get(side.a)
            if weights is not None and weights.softmax in self.softmaxes and side.b not in self.logits:
                return self._weighted(function, side, weights, modules, heads)
        return None

    def _weighted(
        self, function: Any, product: Product, weights: Logits, modules: Sequence[nn.Module], heads: int
    ) -> Weighted | None:
        softmax = weights.softmax
        assert softmax is not None
        order = None if weights.lost else _order(product, weights)
        if order is None:
            softmax.reason = f"its weights go through {weights.lost or 'a product with no values of its keys'}"
            return None
        value = _values(product, weights)
        fold = weights.heads or self.folds.get(product.b)
        count = heads or _heads(fold, modules) if weights.lead == 1 else 0
        if count is None:
            softmax.reason = (
                f"its batch of {value.shape[0]} may hold heads, and how many cannot be told; set the module's "
                "attribute heads (1 if there are none)"
            )
            return None
        self._forget(softmax)
        return Weighted(function=function, weights=weights, value=value, order=order, heads=count)

    def _forget(self, softmax: Softmax) -> None:
        """Let go of a softmax that is recorded, and of its tensors."""
        self.softmaxes.remove(softmax)
        for tensor, traced in list(self.logits.items()):
            if traced.softmax is softmax:
                del self.logits[tensor]

    def note(self, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any, name: str) -> None:
        """Follow what a function has computed.

        Args:
            function: Any function of PyTorch.
            args: Its arguments.
            kwargs: Its arguments.
            output: What it gave.
            name: The module that is running.
        """
        if function in SOFTMAX:
            self._note_softmax(args, kwargs, output, name)
            return
        if function in PRODUCTS and (product := product_of(function, args, kwargs)) is not None:
            fold = self.folds.get(product.b) or self.folds.get(product.a)
            if (logits := logits_of(product, fold)) is not None:
                self.logits[output] = logits
                return
        place = next((i for i, x in enumerate(args[:2]) if isinstance(x, Tensor) and x in self.logits), None)
        if place is not None and function is Tensor.__setitem__:
            self.logits[args[0]] = self.logits[args[place]].without("__setitem__")
        elif not isinstance(output, Tensor):
            return
        elif place is not None:
            self._note_operation(function, Operation(args=args, kwargs=kwargs, place=place, output=output))
        elif output.ndim == 3 and args and isinstance(args[0], Tensor):
            self._note_fold(args[0], output, keeps=function in RULES)

    def _note_operation(self, function: Any, operation: Operation) -> None:
        tensor = operation.args[operation.place]
        logits, rule = self.logits[tensor], RULES.get(function)
        alone = sum(isinstance(x, Tensor) and x in self.logits for x in operation.args) == 1
        after = rule(logits, operation) if rule is not None and alone and not logits.lost else None
        if after is not None:
            self.logits[operation.output] = after
        elif operation.output.shape[-2:] == tensor.shape[-2:]:
            self.logits[operation.output] = logits.without(getattr(function, "__name__", "an operation"))

    def _note_softmax(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor, name: str) -> None:
        values = dict(zip(("input", "dim"), args, strict=False)) | dict(kwargs)
        logits = self.logits.get(values["input"])
        if logits is not None and (logits.softmax is not None or values.get("dim") is None):
            logits = None
        if logits is None and attention_like(args, kwargs) is None:
            return
        reason = "it is of no product of queries and keys that this module computes"
        if logits is not None:
            passed = f"its logits go through {logits.lost}"
            reason = passed if logits.lost else "its weights are multiplied by no values"
        softmax = Softmax(name, tuple(output.shape), reason, logits is not None)
        self.softmaxes.append(softmax)
        weights = logits and not logits.lost and softmax_of(logits, values["dim"], softmax, output)
        if weights:
            self.logits[output] = weights

    def _note_fold(self, before: Tensor, after: Tensor, *, keeps: bool) -> None:
        """Note a batch that takes the heads up, and what keeps it."""
        if before.ndim == 4 and after.shape == (before.shape[0] * before.shape[1], *before.shape[2:]):
            self.folds[after] = (before.shape[0], before.shape[1])
        elif keeps and before.ndim == 3 and before.shape[0] == after.shape[0] and before in self.folds:
            self.folds[after] = self.folds[before]


def _order(product: Product, weights: Logits) -> tuple[int, ...] | None:
    """Return which of the axes [*lead n d] each axis of the product is; None if it is of no values [*lead m d]."""
    a, b, out = product.axes
    letters = [a[weights.axes.index(axis)] for axis in range(len(a))]
    *lead, query, key = letters
    channels = [x for x in b if x not in a]
    fits = key in b and key not in out and query not in b and query in out and all(x in b and x in out for x in lead)
    if not fits or len(channels) != 1 or channels[0] not in out or product.added is not None or product.alpha != 1:
        return None
    named = [*lead, query, channels[0]]
    return tuple(named.index(letter) for letter in out)


def _values(product: Product, weights: Logits) -> Tensor:
    a, b, _ = product.axes
    letters = [a[weights.axes.index(axis)] for axis in range(len(a))]
    *lead, _, key = letters
    channel = next(x for x in b if x not in a)
    value = product.b.permute([b.index(letter) for letter in (*lead, key, channel)])
    return value.expand(*weights.q.shape[:-2], *value.shape[-2:])


def _heads(fold: tuple[int, int] | None, modules: Sequence[nn.Module]) -> int | None:
    """Return how many heads the only leading axis holds; None if that is not sure.

    A module says it has one, or as many as were seen to be folded into the batch, behind it.
    """
    counts = [getattr(module, name, None) for module in modules for name in FOLDED_NAMES]
    count = next((count for count in counts if isinstance(count, int)), None)
    return count if count == 1 or (fold is not None and fold[1] == count) else None
