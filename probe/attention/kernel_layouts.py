"""Layouts of attention kernels: how their tensors become [b heads n d], and go back.

Source: docs/references.md, "Attention kernels".
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from einops import rearrange
from torch import Tensor, nn

CANONICAL = "b heads n d"
HEADS = ("heads", "num_heads", "n_heads")
"""Where modules keep their number of heads, which a folded layout does not show."""
TRANSFORMER_ENGINE = {"sbhd": "n b", "bshd": "b n"}
SAGE = {"HND": CANONICAL, "NHD": "b n heads d"}


@dataclass(frozen=True, eq=False, kw_only=True)
class Sequences:
    """Sequences of one call that lie one after another along one axis.

    Attributes:
        q: Queries of each.
        k: Keys of each.
    """

    q: tuple[int, ...]
    k: tuple[int, ...]

    @property
    def equal(self) -> bool:
        """Return whether all have the same lengths, so that they are a batch."""
        return len(set(self.q)) == len(set(self.k)) == 1


@dataclass(frozen=True, eq=False, kw_only=True)
class Arguments:
    """What a kernel was called with.

    Attributes:
        name: Name of the kernel.
        values: All arguments by name, with their defaults.
        q: Queries as passed.
        k: Keys as passed.
        v: Values as passed.
        module: The caller.
        sequences: Their lengths, where several lie along one axis.
    """

    name: str
    values: Mapping[str, Any]
    q: Tensor
    k: Tensor
    v: Tensor
    module: nn.Module
    sequences: Sequences | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Layout:
    """The order of axes (einops) of a kernel's tensors.

    Attributes:
        tensor: Order of queries, keys and values.
        sizes: Sizes of axes that are folded into others: ``b`` or ``groups``.
        canonical: The order in a record.
        output: Order of the output; that of the queries if None.
    """

    tensor: str
    sizes: Mapping[str, int]
    canonical: str = CANONICAL
    output: str | None = None

    def read(self, tensor: Tensor) -> Tensor:
        """Return queries, keys or values as [b heads n d]."""
        return _moved(tensor, self.tensor, self.canonical, self.sizes)

    def write(self, tensor: Tensor) -> Tensor:
        """Return queries, keys or values as the kernel takes them."""
        return _moved(tensor, self.canonical, self.tensor, self.sizes)

    def read_output(self, output: Tensor, query: Tensor) -> Tensor:
        """Return the kernel's output for given queries [b heads n d] as [b heads n d]."""
        sizes = dict(self.sizes) | {"b": query.shape[0], "heads": query.shape[1]}
        return _moved(output, self.output or self.tensor, self.canonical, sizes)

    def write_output(self, output: Tensor) -> Tensor:
        """Return an output [b heads n d] as the kernel gives it."""
        return _moved(output, self.canonical, self.output or self.tensor, self.sizes)


def _moved(tensor: Tensor, before: str, after: str, sizes: Mapping[str, int]) -> Tensor:
    folded = re.findall(r"\((\w+)", before)
    return rearrange(tensor, f"{before} -> {after}", **{axis: sizes[axis] for axis in folded})


LayoutOf = Callable[[Arguments], Layout]
"""Chooses the layout of a call."""


def always(tensor: str) -> LayoutOf:
    """Return the layout of kernels that have but one, with four axes."""
    return lambda arguments: _checked(arguments, Layout(tensor=tensor, sizes={}))


def by_tensor_layout(arguments: Arguments) -> Layout:
    """Return SageAttention's layout, which an argument names."""
    name = arguments.values["tensor_layout"]
    return _checked(arguments, Layout(tensor=_known(arguments, "tensor_layout", name, SAGE), sizes={}))


def by_axes(arguments: Arguments) -> Layout:
    """Return xformers' layout, which has three, four or five axes."""
    q = arguments.q
    if q.ndim == 3:
        heads = heads_of(q, arguments.module)
        return Layout(tensor="(b heads) n d", sizes={"b": q.shape[0] // heads})
    if q.ndim == 5:
        return Layout(tensor="b n groups heads d", sizes={"groups": q.shape[2]}, canonical="b (groups heads) n d")
    return _checked(arguments, Layout(tensor="b n heads d", sizes={}))


def by_sequences(arguments: Arguments) -> Layout:
    """Return the layout of sequences along one axis: a batch if they are equally long, else a batch of one."""
    sequences = arguments.sequences
    if sequences is None:
        return _checked(arguments, Layout(tensor="b n heads d", sizes={}))
    return _checked(arguments, Layout(tensor="(b n) heads d", sizes={"b": len(sequences.q) if sequences.equal else 1}))


def by_qkv_format(arguments: Arguments) -> Layout:
    """Return TransformerEngine's layout, which an argument or the module names; its output folds heads and channels.

    Raises:
        ValueError: If the format is another one.
    """
    name = arguments.values["qkv_format"] or arguments.values["self"].qkv_format
    axes = _known(arguments, "qkv_format", name, TRANSFORMER_ENGINE)
    return _checked(arguments, Layout(tensor=f"{axes} heads d", sizes={}, output=f"{axes} (heads d)"))


def _known(arguments: Arguments, argument: str, name: str, layouts: Mapping[str, str]) -> str:
    if name not in layouts:
        raise ValueError(
            f"AttentionTap: {arguments.name} has {argument}={name!r}, expected one of {list(layouts)}; change it in "
            "the model"
        )
    return layouts[name]


def _checked(arguments: Arguments, layout: Layout) -> Layout:
    axes = len(re.sub(r"\(.*?\)", "x", layout.tensor).split())
    if {x.ndim for x in (arguments.q, arguments.k, arguments.v)} != {axes}:
        raise ValueError(
            f"AttentionTap: {arguments.name} got queries of shape {tuple(arguments.q.shape)}, expected "
            f"[{layout.tensor}], and keys and values likewise; reshape them in the model"
        )
    return layout


def heads_of(query: Tensor, module: nn.Module) -> int:
    """Read the number of heads off a module that folds them into the batch [(b heads) n d]; 1 if it does not say."""
    count = next((getattr(module, name) for name in HEADS if isinstance(getattr(module, name, None), int)), 1)
    return count if query.shape[0] % count == 0 else 1


def sequences_of(name: str, lengths: tuple[Tensor | None, Tensor | None], totals: tuple[int, int]) -> Sequences | None:
    """Read where sequences begin and end off cumulative lengths.

    Args:
        name: Name of the kernel, for messages.
        lengths: Those of queries and of keys, each from 0 [b + 1]; None twice: there is a batch axis.
        totals: Numbers of queries and of keys.

    Raises:
        ValueError: If only one is there, or tokens belong to no sequence.
    """
    if lengths[0] is None and lengths[1] is None:
        return None
    ends = [[] if x is None else x.tolist() for x in lengths]
    if len(ends[0]) != len(ends[1]) or [end[-1:] for end in ends] != [[total] for total in totals]:
        raise ValueError(
            f"AttentionTap: {name} got sequences that end at {ends[0]} and {ends[1]}, expected as many of keys as of "
            f"queries, up to the last of {totals[0]} and {totals[1]} tokens; leave out padding in the model"
        )
    q, k = (tuple(stop - start for start, stop in pairwise(end)) for end in ends)
    return Sequences(q=q, k=k)
