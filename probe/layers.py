"""Layers: which attentions of a model join views, on which token grid, with which index."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Shaped
from torch import Tensor, nn

from probe.attention.modules import inner_model, nearest_names
from probe.attention.tap import Tap

Kind = Literal["3d", "joint", "view", "temporal", "cross", "other"]
MakeInputs = Callable[[int, Any], Mapping[str, Any]]  # (views, scale), the scale being None for a native size

BASE_VIEWS, MORE_VIEWS = 2, 3
JOINING: tuple[Kind, ...] = ("3d", "joint")


@dataclass(frozen=True)
class ViewLayout:
    """Where the views' tokens lie in a joint sequence: view-major, rows before columns.

    Attributes:
        views: Number of views.
        grid: Token rows and columns of one view.
        prefix: Tokens before the first view (text).
        suffix: Tokens after the last view (text).
        per_view_prefix: Tokens before each view's own grid (camera and register tokens).
    """

    views: int
    grid: tuple[int, int]
    prefix: int = 0
    suffix: int = 0
    per_view_prefix: int = 0

    @property
    def tokens(self) -> int:
        """Return the length of the joint sequence."""
        return self.prefix + self.views * (self.per_view_prefix + math.prod(self.grid)) + self.suffix

    def split(self, joint: Shaped[Tensor, "*lead n d"]) -> Shaped[Tensor, "*lead f h w d"]:
        """Turn joint tokens into the grids of the views; tokens that belong to no grid are left out.

        Args:
            joint: Queries, keys, values or outputs of the layer.

        Raises:
            ValueError: If the number of tokens is not the layout's.
        """
        n, (h, w) = joint.shape[-2], self.grid
        if n != self.tokens:
            extras = self.tokens - self.views * h * w
            raise ValueError(
                f"ViewLayout: {n} tokens are not {self.views} views of {h} x {w} and {extras} others "
                f"({n - self.tokens:+d} left over); give the number of views and the grid of this very call"
            )
        views = joint[..., self.prefix : n - self.suffix, :].unflatten(-2, (self.views, -1))
        return rearrange(views[..., self.per_view_prefix :, :], "... f (h w) d -> ... f h w d", h=h)


@dataclass(frozen=True)
class Layer:
    """Name one attention call of a model.

    Attributes:
        index: Position among all self-attention calls over image tokens, in execution order; None for other calls.
        name: Name of the module that makes the call.
        grid: Token rows and columns of one view at the model's native size (at the smallest size where a model does not
            tell its own); None for calls that are not on one grid.
        heads: Number of query heads.
        kind: "3d" joins the tokens of all views; "joint" does so together with text; "view" stays within a view;
            "temporal" joins the views at one place; "cross" reads text or another fixed sequence; "other" is the rest.
        nth: Which of the module's calls in one forward.
        index_3d: Position among the layers of kind "3d" and "joint"; None for others.
        channels: Channels per head.
        prefix: Joint tokens before the first view.
        suffix: Joint tokens after the last view.
        per_view_prefix: Tokens before each view's own grid.
    """

    index: int | None
    name: str
    grid: tuple[int, int] | None
    heads: int
    kind: Kind
    nth: int = 0
    index_3d: int | None = None
    channels: int = 0
    prefix: int = 0
    suffix: int = 0
    per_view_prefix: int = 0

    def layout(self, views: int) -> ViewLayout:
        """Return the token layout for a number of views.

        Raises:
            ValueError: If the layer does not join whole views.
        """
        if self.grid is None or self.kind not in JOINING:
            raise ValueError(f"Layer: {self.name!r} is of kind {self.kind!r} and joins no views; choose a 3D layer")
        return ViewLayout(views, self.grid, self.prefix, self.suffix, self.per_view_prefix)


def joint_layout(layer: Layer, views: int) -> ViewLayout:
    """Return the layout of the views' tokens side by side; a per-view layer's are put there by the caller.

    Raises:
        ValueError: If the layer works on no token grid.
    """
    if layer.kind == "view" and layer.grid is not None:
        return ViewLayout(views, layer.grid, per_view_prefix=layer.per_view_prefix)
    return layer.layout(views)


class _Sizes(NamedTuple):
    batch: int
    heads: int
    queries: int
    keys: int
    channels: int


_Key = tuple[str, int]


class _Run(NamedTuple):
    base: _Sizes
    more_views: _Sizes
    bigger: _Sizes
    native: _Sizes


def find_layers(
    model: nn.Module,
    make_inputs: MakeInputs | None = None,
    *,
    aspect: tuple[int, int] | None = None,
    native: bool = False,
) -> list[Layer]:
    """Find a model's attention calls, tell which are 3D, and number them.

    The model runs four times without gradients, in evaluation mode, on its own device: on a small input, on more views,
    on a bigger grid, and at its native size. How the token counts grow tells the kind, the grid and the tokens that
    belong to no grid. Training mode and random state are left as they were. A model on the meta device costs nothing.

    Args:
        model: A model that calls PyTorch's fused attention.
        make_inputs: ``make_inputs(views, scale)`` gives keyword arguments of the model's forward for a token grid whose
            side is ``scale`` (1 or 2) times that of the smallest allowed one. Left out, the model's own method
            ``probe_inputs(views, scale)`` is used, which also answers ``scale=None`` with inputs of native size.
        native: Whether ``make_inputs`` answers ``scale=None`` too.
        aspect: Rows and columns that the token grids are proportional to; left out, it is read off the shape of the
            image-like inputs.

    Returns:
        All calls in execution order.

    Raises:
        ValueError: If no inputs can be made, the calls differ between runs, or the token counts fit no grid.
        RuntimeError: If the model calls no fused attention.
    """
    make = make_inputs or _own_inputs(model)
    has_native = native or make_inputs is None
    settings: dict[str, tuple[int, int | None]] = {"native": (BASE_VIEWS, None)} if has_native else {}
    settings |= {"more_views": (MORE_VIEWS, 1), "bigger": (BASE_VIEWS, 2), "base": (BASE_VIEWS, 1)}
    inputs: dict[str, Mapping[str, Any]] = {}
    sizes: dict[str, dict[_Key, _Sizes]] = {}
    with _quiet(model):
        for name, setting in settings.items():
            inputs[name] = make(*setting)  # right before its run: making inputs may set the model up for them
            sizes[name] = _calls(model, inputs[name], _look_at_sizes)
        table = _table({"native": sizes["base"], **sizes})
        aspect = aspect or _aspect({"native": inputs["base"], **inputs})
        layers = [_describe(key, run, aspect) for key, run in table.items()]
        return _numbered(_located(model, inputs, layers), table)


def select_layers(layers: Sequence[Layer], choice: str) -> list[Layer]:
    """Choose layers as the command line names them, in execution order.

    Args:
        layers: What :func:`find_layers` gave.
        choice: "3d", "all" (every numbered layer), or indexes and names separated by commas; a name may be cut short
            as long as it means one numbered layer.

    Raises:
        ValueError: If nothing fits; names the allowed indexes or the nearest names.
    """
    numbered = [layer for layer in layers if layer.index is not None]
    words = [word.strip() for word in choice.split(",")]
    if words == ["all"]:
        chosen = numbered
    elif words == ["3d"]:
        chosen = [layer for layer in numbered if layer.kind in JOINING]
    else:
        wanted = [_named(numbered, word) for word in words]
        chosen = [layer for layer in numbered if layer in wanted]
    if not chosen:
        raise ValueError(f"no {choice} layer; its calls are {_summary(layers)}; choose all, or indexes")
    return chosen


def _named(numbered: Sequence[Layer], word: str) -> Layer:
    if word.lstrip("-").isdigit():
        fits = [layer for layer in numbered if layer.index == int(word)]
    else:
        fits = [layer for layer in numbered if f"{layer.name}.".startswith(f"{word}.")]
    if len(fits) == 1:
        return fits[0]
    names = [layer.name for layer in fits or numbered]
    what = f"{word!r} means {len(fits)} layers" if fits else f"layer {word!r} is unknown"
    raise ValueError(
        f"{what}; nearest: {nearest_names(word, names)}; allowed: 3d, all, or indexes {_summary(numbered)}"
    )


def _summary(layers: Sequence[Layer]) -> str:
    indexes = [layer.index for layer in layers if layer.index is not None]
    joining = [layer.index for layer in layers if layer.kind in JOINING]
    return f"0 to {max(indexes)}, of which 3D: {joining}" if indexes else f"{len(layers)}, none of them self-attention"


def _own_inputs(model: nn.Module) -> MakeInputs:
    own = getattr(inner_model(model), "probe_inputs", None)
    if own is None:
        raise ValueError(
            f"find_layers: {type(model).__name__} has no method probe_inputs(views, scale); "
            "pass make_inputs(views, scale) -> keyword arguments of its forward"
        )
    return own


@contextmanager
def _quiet(model: nn.Module) -> Iterator[None]:
    """Evaluate without gradients; give training flags and random state back."""
    training = {module: module.training for module in model.modules()}
    gpus = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    try:
        with torch.random.fork_rng(devices=gpus), torch.no_grad():
            model.eval()
            yield
    finally:
        for module, flag in training.items():
            module.training = flag


def _calls(model: nn.Module, inputs: Mapping[str, Any], look: Callable[[Any], Any]) -> dict[_Key, Any]:
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    seen: dict[_Key, Any] = {}
    with Tap(model, [""], on_call=lambda call: seen.update({(call.name, call.nth): look(call)})) as tap:
        model(**{name: value.to(device) if isinstance(value, Tensor) else value for name, value in inputs.items()})
    explicit = [name for name in tap.softmaxes if not any(name == other for other, _ in seen)]
    if explicit:
        warnings.warn(
            f"find_layers: {explicit} use an explicit softmax and are not numbered where that is attention",
            stacklevel=4,
        )
    return seen


def _look_at_sizes(call: Any) -> _Sizes:
    batch, heads, queries, channels = call.q.shape
    return _Sizes(batch, heads, queries, call.k.shape[2], channels)


def _table(runs: Mapping[str, dict[_Key, _Sizes]]) -> dict[_Key, _Run]:
    base = list(runs["base"])
    for run in runs.values():
        if list(run) != base:
            odd = sorted(set(run) ^ set(base)) or "their order"
            raise ValueError(
                f"find_layers: the attention calls change with the input's size: {odd}; name layers instead"
            )
    return {key: _Run(**{name: run[key] for name, run in runs.items()}) for key in base}


def _kind(key: _Key, run: _Run) -> Kind:
    base, more, big = run.base, run.more_views, run.bigger
    if not _is_self(run):
        fixed = base.keys == big.keys and base.keys == more.keys
        return "cross" if fixed and big.batch * big.queries > base.batch * base.queries else "other"
    views, grid, apart = more.queries > base.queries, big.queries > base.queries, more.batch > base.batch
    if views and grid and not apart:
        return "joint" if _fit(key, run)[2] else "3d"
    if grid and apart and not views:
        return "view"
    return "temporal" if views and not grid else "other"


def _is_self(run: _Run) -> bool:
    """Whether image tokens attend to one another: as many queries as keys, and more of them on a bigger grid."""
    same = all(sizes.queries == sizes.keys for sizes in run)
    return same and run.bigger.batch * run.bigger.queries > run.base.batch * run.base.queries


def _fit(key: _Key, run: _Run) -> tuple[int, int, int]:
    """Solve n = views * (grid + own) + shared for (grid, own, shared); twice the side is four times the grid."""
    n, more, big = run.base.queries, run.more_views.queries, run.bigger.queries
    joined = more > n
    views = BASE_VIEWS if joined else 1
    per_view = (more - n) // (MORE_VIEWS - BASE_VIEWS) if joined else n
    grid, rest = divmod(big - n, 3 * views)
    own, shared = per_view - grid, n - views * per_view
    if rest or grid < 1 or own < 0 or shared < 0:
        raise ValueError(
            f"find_layers: {key[0]!r} has {n} tokens, {more} with {MORE_VIEWS} views, {big} on a grid twice as wide "
            "and high; that is not views * h * w and a fixed number of others; check make_inputs(views, scale)"
        )
    return grid, own, shared


def _describe(key: _Key, run: _Run, aspect: tuple[int, int] | None) -> Layer:
    kind = _kind(key, run)
    layer = Layer(None, key[0], None, run.base.heads, kind, nth=key[1], channels=run.base.channels)
    if kind not in (*JOINING, "view"):
        return layer
    _, own, shared = _fit(key, run)
    views = 1 if kind == "view" else BASE_VIEWS
    count, rest = divmod(run.native.queries - shared, views)
    if rest:
        raise ValueError(f"find_layers: {key[0]!r} has {run.native.queries} tokens at native size for {views} views")
    return replace(layer, grid=_grid(count - own, aspect, key[0]), prefix=shared, per_view_prefix=own)


def _aspect(inputs: Mapping[str, Mapping[str, Any]]) -> tuple[int, int] | None:
    """Read rows : columns off the inputs of which just two axes grow with the grid."""
    ratios = {}
    for name in _grown(inputs):
        base, big, native = (inputs[run][name].shape for run in ("base", "bigger", "native"))
        axes = [axis for axis, (a, b) in enumerate(zip(base, big, strict=True)) if a != b]
        if len(axes) == 2:
            rows, columns = (native[axis] for axis in axes)
            ratios[name] = (rows // math.gcd(rows, columns), columns // math.gcd(rows, columns))
    if len(set(ratios.values())) > 1:
        raise ValueError(
            f"find_layers: inputs differ in their ratio of rows to columns: {ratios}; pass aspect=(rows, columns)"
        )
    return next(iter(ratios.values()), None)


def _grown(inputs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    base, big = inputs["base"], inputs["bigger"]
    return [name for name, value in base.items() if isinstance(value, Tensor) and value.shape != big[name].shape]


def _grid(count: int, aspect: tuple[int, int] | None, name: str) -> tuple[int, int]:
    rows, columns = aspect or (1, 1)
    ideal = math.sqrt(count * rows / columns)
    h = min((d for d in range(1, count + 1) if count % d == 0), key=lambda d: abs(d - ideal))
    w = count // h
    # each side may be off by less than the one token that rounding costs; a square has nothing to round
    if abs(h - ideal) >= 1 or abs(w - count / ideal) >= 1 or (rows == columns and h != w):
        shape = "square grid" if aspect is None else f"grid of {rows} : {columns}"
        raise ValueError(f"find_layers: {name!r} has {count} tokens per view, no {shape}; pass aspect=(rows, columns)")
    return h, w


def _located(model: nn.Module, inputs: Mapping[str, Mapping[str, Any]], layers: list[Layer]) -> list[Layer]:
    """Find where the tokens outside the grids lie, by changing the image and looking which queries stay."""
    extras = {(x.prefix, x.per_view_prefix): x for x in reversed(layers) if x.prefix or x.per_view_prefix}
    if not extras:
        return layers
    own = getattr(inner_model(model), "first_image_token", None)
    if own is not None and all(parameter.is_meta for parameter in model.parameters()):
        return [_shift(x, own) for x in layers]  # without weights, the network itself tells
    base = inputs["base"]
    moved = {name: torch.rand_like(base[name]) for name in _grown(inputs) if base[name].is_floating_point()}
    before, after = (_calls(model, values, lambda call: call.q.clone()) for values in (base, {**base, **moved}))
    first = {key: _first_changed(before[x.name, x.nth], after[x.name, x.nth], x) for key, x in extras.items()}
    return [_shift(x, first.get((x.prefix, x.per_view_prefix), 0)) for x in layers]


def _first_changed(before: Tensor, after: Tensor, layer: Layer) -> int:
    if before.is_meta:
        raise ValueError(
            f"find_layers: {layer.name!r} has tokens outside the grids; to locate them the model needs weights"
        )
    return int((before != after).any(-1).any(1).any(0).int().argmax())


def _shift(layer: Layer, first: int) -> Layer:
    shared, own = layer.prefix, layer.per_view_prefix
    if not shared and not own:
        return layer
    if not own <= first <= own + shared:
        raise ValueError(
            f"find_layers: the image starts at token {first} of {layer.name!r}, which has {own} tokens before each "
            f"view and {shared} outside them; such an order cannot be described"
        )
    return replace(layer, prefix=first - own, suffix=shared - (first - own))


def _numbered(layers: list[Layer], table: Mapping[_Key, _Run]) -> list[Layer]:
    numbered, of_self, of_3d = [], 0, 0
    for layer, run in zip(layers, table.values(), strict=True):
        index, index_3d = None, None
        if _is_self(run):
            index, of_self = of_self, of_self + 1
        if layer.kind in JOINING:
            index_3d, of_3d = of_3d, of_3d + 1
        numbered.append(replace(layer, index=index, index_3d=index_3d))
    return numbered
