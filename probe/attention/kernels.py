"""Kernels: attention functions of other packages, and how to read what they are given.

PyTorch's fused attention is recognised by a torch function mode (:mod:`probe.capture`). A function of another package
is plain Python and passes every mode unseen. While a tap is open, it is therefore replaced wherever the model's code
holds it: in the function's package, and in the packages that define the model's classes. The replacement runs the
original with the arguments as they came, so that outputs stay the same bit for bit; on exit all names hold the original
again. A package that is not imported is not looked at: no model can call it.

Source: docs/references.md, "Attention kernels".
"""

import functools
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from einops import rearrange
from torch import Tensor, nn

from probe.attention.call import Reading

CANONICAL = "b heads n d"
HEADS = ("heads", "num_heads", "n_heads")
"""Where modules keep their number of heads, which a folded layout does not show."""


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """How to read the arguments of an attention function.

    Attributes:
        arguments: Names of the positional arguments, in order.
        query: Name of the queries' argument.
        key: Name of the keys'.
        value: Name of the values'.
        mask: Name of what is added to the logits.
        scale: Name of the logits' factor; None means one over the root of the channels.
        layouts: By number of axes, the order of batch, heads, tokens and channels (einops).
        mask_layouts: The same for the mask's batch, heads, queries and keys.
        causal: Classes of masks that leave later keys out, by name.
    """

    arguments: tuple[str, ...]
    query: str
    key: str
    value: str
    mask: str
    scale: str
    layouts: Mapping[int, str]
    mask_layouts: Mapping[int, str]
    causal: tuple[str, ...] = ()


KERNELS: dict[str, Kernel] = {
    "xformers.ops.memory_efficient_attention": Kernel(
        arguments=("query", "key", "value", "attn_bias", "p", "scale"),
        query="query",
        key="key",
        value="value",
        mask="attn_bias",
        scale="scale",
        layouts={3: "(b heads) n d", 4: "b n heads d"},
        mask_layouts={3: "(b heads) n m", 4: "b heads n m"},
        causal=("LowerTriangularMask",),
    ),
}
"""Functions that a tap can see, by their public name."""


@dataclass(frozen=True, eq=False)
class Foreign:
    """An attention function of another package, as the tap calls and reads it.

    Attributes:
        name: Its public name.
        function: The original.
        kernel: How to read its arguments.
    """

    name: str
    function: Callable[..., Tensor]
    kernel: Kernel

    def read(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], module: nn.Module) -> Reading:
        """Name the arguments as PyTorch's fused attention does, with tensors as [b heads n d].

        Args:
            args: As the model passed them.
            kwargs: As the model passed them.
            module: The caller, which knows its number of heads where they are folded into the batch.

        Raises:
            ValueError: If the layout or the mask is one that cannot be read.
        """
        kernel, given = self.kernel, dict(zip(self.kernel.arguments, args, strict=False)) | dict(kwargs)
        query = given[kernel.query]
        if query.ndim not in kernel.layouts:
            raise ValueError(
                f"AttentionTap: {self.name} got queries of shape {tuple(query.shape)}; expected one of "
                f"{list(kernel.layouts.values())}; reshape them in the model"
            )
        layout, heads = kernel.layouts[query.ndim], _heads(query, module)
        named = {"query": kernel.query, "key": kernel.key, "value": kernel.value}

        def write(tensor: Tensor) -> Tensor:
            return rearrange(tensor, f"{CANONICAL} -> {layout}")

        def run(**new: Any) -> Tensor:
            output = self.function(**given | {own: write(new[name]) for name, own in named.items()})
            return rearrange(output, f"{layout} -> {CANONICAL}", heads=heads)

        tensors = {name: rearrange(given[own], f"{layout} -> {CANONICAL}", heads=heads) for name, own in named.items()}
        mask = self._mask(given.get(kernel.mask), heads)
        return Reading({**tensors, **mask, "scale": given.get(kernel.scale)}, run, write)

    def _mask(self, mask: Any, heads: int) -> dict[str, Any]:
        if mask is None or type(mask).__name__ in self.kernel.causal:
            return {"attn_mask": None, "is_causal": mask is not None}
        if isinstance(mask, Tensor) and mask.ndim in self.kernel.mask_layouts:
            folded = self.kernel.mask_layouts[mask.ndim]
            sizes = {"heads": heads} if "(" in folded else {}
            return {"attn_mask": rearrange(mask, f"{folded} -> b heads n m", **sizes), "is_causal": False}
        raise ValueError(
            f"AttentionTap: {self.name} got a mask of kind {type(mask).__name__}, which is not understood (packed "
            "sequences?); expected none, a tensor added to the logits, or a causal one"
        )


def _heads(query: Tensor, module: nn.Module) -> int:
    """Read the heads off the layout, or off the module where they are folded into the batch."""
    if query.ndim == 4:
        return int(query.shape[2])
    count = next((getattr(module, name) for name in HEADS if isinstance(getattr(module, name, None), int)), 1)
    return count if query.shape[0] % count == 0 else 1


Attend = Callable[[Foreign, tuple[Any, ...], dict[str, Any]], Tensor]


@dataclass(eq=False)
class _Replacement:
    """Stand in for a function while it is replaced."""

    original: Callable[..., Any]
    call: Callable[..., Any]
    places: list[tuple[dict[str, Any], str]] = field(default_factory=list)
    is_open: bool = True

    def __post_init__(self) -> None:
        functools.update_wrapper(self, self.original, updated=())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.call(*args, **kwargs) if self.is_open else self.original(*args, **kwargs)


@contextmanager
def replaced(model: nn.Module, original: Callable[..., Any], call: Callable[..., Any]) -> Iterator[None]:
    """Call another function wherever the model's packages, or the function's own, hold this one by name.

    Args:
        model: The model, by whose classes packages are found.
        original: The function to replace.
        call: What is called instead; it may call ``original``.
    """
    replacement = _Replacement(original, call)
    packages = {_package(type(module).__module__) for module in model.modules()} | {_package(original.__module__)}
    for name, module in list(sys.modules.items()):
        if _package(name) in packages - {"torch", "builtins"}:
            names = getattr(module, "__dict__", {})
            replacement.places += [(names, key) for key, value in list(names.items()) if value is original]
    for names, key in replacement.places:
        names[key] = replacement
    try:
        yield
    finally:
        replacement.is_open = False
        for names, key in replacement.places:
            if names.get(key) is replacement:
                names[key] = _still_open(original)


def _package(module: str) -> str:
    return module.partition(".")[0]


def _still_open(function: Callable[..., Any]) -> Callable[..., Any]:
    """Skip replacements that were closed out of order."""
    while isinstance(function, _Replacement) and not function.is_open:
        function = function.original
    return function


@contextmanager
def watched_kernels(model: nn.Module, attend: Attend) -> Iterator[None]:
    """Hand calls of every kernel of the table to ``attend``, which decides and runs them.

    Args:
        model: The model, by whose classes packages are found.
        attend: Called with the kernel and the arguments.
    """
    with ExitStack() as stack:
        for path, kernel in KERNELS.items():
            home, _, name = path.rpartition(".")
            function = getattr(sys.modules.get(home), name, None)
            if function is not None:
                foreign = Foreign(name, function, kernel)
                stack.enter_context(replaced(model, function, _handing(foreign, attend)))
        yield


def _handing(foreign: Foreign, attend: Attend) -> Callable[..., Tensor]:
    return lambda *args, **kwargs: attend(foreign, args, kwargs)
