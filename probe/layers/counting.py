"""What the numbers of tokens tell: how they grow with views and grid says the kind, the grid and the other tokens."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from probe.layers.layout import JOINING, Kind, Layer

VIEWS = 2, 3  # tried where nothing is said

MORE = "which both grow with the grid: keys of more than the views are in no layout; read it by AttentionTap"

Key = tuple[str, int]
"""A call: its module's name and its number there."""
Inputs = Mapping[str, Any]


class Sizes(NamedTuple):
    """Sizes of one call."""

    batch: int
    heads: int
    queries: int
    keys: int
    channels: int


class Growth(NamedTuple):
    """Sizes of one call on a small input, on more views, on a bigger grid, and at the native size."""

    base: Sizes
    more_views: Sizes
    bigger: Sizes
    native: Sizes


def growth_table(runs: Mapping[str, Mapping[Key, Sizes]]) -> dict[Key, Growth]:
    """Put the sizes of each call in all runs side by side.

    Raises:
        ValueError: If the calls differ between runs.
    """
    base = list(runs["base"])
    for run in runs.values():
        if list(run) != base:
            odd = sorted(set(run) ^ set(base)) or "their order"
            raise ValueError(
                f"find_layers: the attention calls change with the input's size: {odd}; name layers instead"
            )
    return {key: Growth(**{name: run[key] for name, run in runs.items()}) for key in base}


def is_self(run: Growth) -> bool:
    """Whether image tokens attend to one another: as many queries as keys, and more of them on a bigger grid."""
    same = all(sizes.queries == sizes.keys for sizes in run)
    return same and run.bigger.batch * run.bigger.queries > run.base.batch * run.base.queries


def _reads_more(run: Growth) -> bool:
    """Whether image tokens attend to image tokens and others at once, as keys that are no queries."""
    base, big = run.base, run.bigger
    grows = big.batch * big.queries > base.batch * base.queries and big.keys > base.keys
    return grows and not is_self(run)


def counted_layer(key: Key, run: Growth, views: tuple[int, int], aspect: tuple[int, int] | None) -> Layer:
    """Return a call as a layer: its kind, grid and other tokens, by its sizes.

    Args:
        key: Of the call.
        run: Its sizes.
        views: Of the small input and of the one of more views.
        aspect: Rows and columns that the grid is proportional to; None where no input tells.

    Returns:
        The layer, its other tokens all before the views or before each view; of kind "other" with a reason where the
        sizes fit no grid.

    Raises:
        ValueError: If nothing tells rows from columns.
    """
    layer = Layer(None, key[0], None, run.base.heads, "other", nth=key[1], channels=run.base.channels)
    if _reads_more(run):
        return replace(layer, reason=f"has {run.base.queries} queries and {run.base.keys} keys, {MORE}")
    try:
        kind = _kind(run, views)
        return (
            _on_grid(replace(layer, kind=kind), run, views, aspect)
            if kind in (*JOINING, "view")
            else replace(layer, kind=kind)
        )
    except NoGridError as error:
        return replace(layer, kind="other", reason=str(error))


class NoGridError(ValueError):
    """The sizes of a call fit no grid."""


def _kind(run: Growth, views: tuple[int, int]) -> Kind:
    base, more, big = run.base, run.more_views, run.bigger
    if not is_self(run):
        fixed = base.keys == big.keys and base.keys == more.keys
        return "cross" if fixed and big.batch * big.queries > base.batch * base.queries else "other"
    joined, grid, apart = more.queries > base.queries, big.queries > base.queries, more.batch > base.batch
    if joined and grid and not apart:
        return "joint" if _fit(run, views)[2] else "3d"
    if grid and apart and not joined:
        return "view"
    if joined and not grid:
        return _temporal(run, views)
    raise NoGridError(
        f"has {base.batch} x {base.queries} tokens, {more.batch} x {more.queries} with {views[1]} views, {big.batch} x "
        f"{big.queries} on a grid twice as wide and high: they do not grow as views and grids do (padded?)"
    )


def _temporal(run: Growth, views: tuple[int, int]) -> Kind:
    """Return the kind of a call that joins one place of the views; not windows of several places."""
    more = run.more_views.queries - run.base.queries
    if more != views[1] - views[0]:
        raise NoGridError(
            f"has {run.base.queries} tokens, {run.more_views.queries} with {views[1]} views, as many on a bigger grid: "
            "it joins local windows of the views, which are in no layout"
        )
    return "temporal"


def _fit(run: Growth, views: tuple[int, int]) -> tuple[int, int, int]:
    """Solve n = views * (grid + own) + shared for (grid, own, shared); twice the side is four times the grid."""
    n, more, big = run.base.queries, run.more_views.queries, run.bigger.queries
    joined = more > n
    count = views[0] if joined else 1
    per_view, odd = divmod(more - n, views[1] - views[0]) if joined else (n, 0)
    grid, rest = divmod(big - n, 3 * count)
    own, shared = per_view - grid, n - count * per_view
    if odd or rest or grid < 1 or own < 0 or shared < 0:
        raise NoGridError(
            f"has {n} tokens, {more} with {views[1]} views, {big} on a grid twice as wide and high; that is not "
            "views * h * w and a fixed number of others"
        )
    return grid, own, shared


def _on_grid(layer: Layer, run: Growth, views: tuple[int, int], aspect: tuple[int, int] | None) -> Layer:
    _, own, shared = _fit(run, views)
    joined = 1 if layer.kind == "view" else views[0]
    count, rest = divmod(run.native.queries - shared, joined)
    if rest:
        raise NoGridError(f"has {run.native.queries} tokens at native size for {joined} views")
    return replace(layer, grid=grid_of(count - own, aspect, layer.name), prefix=shared, per_view_prefix=own)


def grid_of(count: int, aspect: tuple[int, int] | None, name: str) -> tuple[int, int]:
    """Return the rows and columns of a grid, by its number of tokens.

    Args:
        count: Tokens of one view.
        aspect: Rows and columns that the grid is proportional to; None where no input tells.
        name: Of the layer, for the error.

    Raises:
        ValueError: If there is no such grid, or nothing tells rows from columns.
    """
    rows, columns = aspect or (1, 1)
    other = [(d, count // d) for d in range(2, math.isqrt(count)) if count % d == 0 and d * d != count]
    if aspect is None and other and math.isqrt(count) ** 2 == count:
        side, (h, w) = math.isqrt(count), other[-1]
        raise ValueError(
            f"find_layers: no input tells rows from columns: {name!r} has {count} tokens per view, which may be "
            f"{side} x {side}, {h} x {w} or another grid; pass aspect=(rows, columns), or layout="
        )
    ideal = math.sqrt(count * rows / columns)
    h = min((d for d in range(1, count + 1) if count % d == 0), key=lambda d: abs(d - ideal))
    w = count // h
    # each side may be off by less than the one token that rounding costs; a square has nothing to round
    if abs(h - ideal) >= 1 or abs(w - count / ideal) >= 1 or (rows == columns and h != w):
        shape = "square grid" if aspect is None else f"grid of {rows} : {columns}"
        raise NoGridError(f"has {count} tokens per view, no {shape}; pass aspect=(rows, columns)")
    return h, w


def aspect_of(inputs: Mapping[str, Inputs]) -> tuple[int, int] | None:
    """Read rows : columns off inputs of which just two axes grow with the grid, or off numbers of that name.

    Args:
        inputs: Of the runs "base", "bigger" and "native".

    Returns:
        None where nothing tells.

    Raises:
        ValueError: If inputs differ.
    """
    ratios = _ratios_of_shapes(inputs) or _ratio_of_numbers(inputs)
    if len(set(ratios.values())) > 1:
        raise ValueError(
            f"find_layers: inputs differ in their ratio of rows to columns: {ratios}; pass aspect=(rows, columns)"
        )
    return next(iter(ratios.values()), None)


def _ratios_of_shapes(inputs: Mapping[str, Inputs]) -> dict[str, tuple[int, int]]:
    ratios = {}
    for name in growing(inputs["base"], inputs["bigger"]):
        base, bigger, native = (tensors_of(inputs[run])[name] for run in ("base", "bigger", "native"))
        axes = grown_axes(base, bigger)
        if len(axes) == 2:
            ratios[name] = _reduced(native.shape[axes[0]], native.shape[axes[1]])
    return ratios


def _ratio_of_numbers(inputs: Mapping[str, Inputs]) -> dict[str, tuple[int, int]]:
    """Packed video transformers take the grid as whole numbers beside their tokens (LTX: height and width)."""
    base, big, native = (inputs[run] for run in ("base", "bigger", "native"))
    sides = [name for name in ("height", "width") if isinstance(base.get(name), int) and big.get(name) != base[name]]
    return {"height, width": _reduced(native["height"], native["width"])} if len(sides) == 2 else {}


def _reduced(rows: int, columns: int) -> tuple[int, int]:
    return rows // math.gcd(rows, columns), columns // math.gcd(rows, columns)


def growing(base: Inputs, bigger: Inputs) -> list[str]:
    """Name the tensors that differ in shape between two inputs."""
    return [name for name, value in tensors_of(base).items() if value.shape != tensors_of(bigger)[name].shape]


def tensors_of(inputs: Inputs) -> dict[str, Tensor]:
    """Return the tensors among inputs; a list of tensors of one shape (a view each, or an item) is stacked."""
    return {name: stacked for name, value in inputs.items() if (stacked := _stacked(value)) is not None}


def _stacked(value: Any) -> Tensor | None:
    if isinstance(value, Tensor):
        return value
    if not isinstance(value, list) or not value or not all(isinstance(item, Tensor) for item in value):
        return None
    return torch.stack(value) if len({item.shape for item in value}) == 1 else None


def grown_axes(base: Tensor, bigger: Tensor) -> list[int]:
    """Return the axes along which two tensors differ in size."""
    return [axis for axis, (a, b) in enumerate(zip(base.shape, bigger.shape, strict=True)) if a != b]
