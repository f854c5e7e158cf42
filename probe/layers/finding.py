"""Find a model's attention calls, tell which are 3D, prove where their tokens lie, and number them."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from probe.attention.call import Call
from probe.attention.modules import Pipeline, inner_model, network_of
from probe.layers.changing import CORNER, Changes, Response, changes_of, responses
from probe.layers.counting import (
    MORE,
    VIEWS,
    Growth,
    Inputs,
    Key,
    NoGridError,
    Sizes,
    aspect_of,
    counted_layer,
    grid_of,
    growth_table,
    is_self,
)
from probe.layers.layout import JOINING, Layer, ViewLayout
from probe.layers.proving import Placed, agreed, corner_of, followed_layer, placed
from probe.layers.running import Calls, Network, needed_arguments
from probe.layers.unseen import Ran, candidates_watched, unseen_layers

MakeInputs = Callable[[int, Any], Mapping[str, Any]]
"""From the number of views and a scale, None for the native size, to keyword arguments of the forward."""
GridAspect = tuple[int, int] | None


def find_layers(
    model: nn.Module | Pipeline,
    make_inputs: MakeInputs | None = None,
    *,
    aspect: tuple[int, int] | None = None,
    native: bool = False,
    layout: ViewLayout | Mapping[str, ViewLayout] | None = None,
    views: tuple[int, ...] = VIEWS,
    scales: tuple[int, ...] = (1, 2),
    explicit: bool = False,
) -> list[Layer]:
    """Find a model's attention calls, tell which are 3D, and number them.

    The model runs without gradients, in evaluation mode, on its own device: on a small input, on more views, on a
    bigger grid, and at its native size. How the token counts grow tells the kind and the grid. Three more small runs on
    the first number of views that is above two, or on the larger one, prove in which order the tokens lie, and which
    are on no grid: in one, view 0 changes, and a corner of a middle view; in another, that corner of all views.
    Training mode and random state are left as they were. A model on the meta device costs nothing, and proves nothing:
    its tokens are then taken view-major, text first.

    Args:
        model: A model that calls a fused attention, or a diffusers pipeline, whose network is taken.
        make_inputs: ``make_inputs(views, scale)`` gives keyword arguments of the model's forward for a token grid whose
            side is ``scale`` (1 or 2) times that of the smallest allowed one. Left out, the model's own method
            ``probe_inputs(views, scale)`` is used, which also answers ``scale=None`` with inputs of native size.
        native: Whether ``make_inputs`` answers ``scale=None`` too.
        aspect: Rows and columns that the token grids are proportional to; left out, it is read off the shape of the
            image-like inputs.
        layout: Where the tokens lie, as you know it, at the native size and ``views[0]`` views (or one view, for layers
            that work within a view): for all layers whose number of tokens it has, or by the start of layers' names.
        views: Two numbers of views to try; one where the model has a fixed number.
        scales: Two scales to try, the second twice the first; one where the model has a fixed size.
        explicit: Whether attention written as a softmax of a product is read too; taps of such a layer then read it.

    Returns:
        All calls in execution order. Attention that no tap sees is among them, of kind "unseen", and keeps its index;
        calls that fit no grid are of kind "other"; both have a reason, and are warned of.

    Raises:
        ValueError: If no inputs can be made, the calls differ between runs, nothing tells rows from columns, or no
            self-attention fits a grid.
        RuntimeError: If the model calls no fused attention.
    """
    network = Network(model=network_of(model), explicit=explicit)
    make = make_inputs or _own_inputs(network.model)
    settings = _settings(views, scales, native or make_inputs is None)
    with network.quiet():
        runs = {name: _run(network, make, setting) for name, setting in settings.items()}
        if "bigger" in runs and "more_views" in runs:
            several = views[0] if views[0] > 2 else views[1]  # of two, none is in the middle
            layers, selfs = _by_growth(
                network, runs, aspect, (views[0], views[1]), layout, lambda: (several, make(several, scales[1]))
            )
            make(*settings["base"])  # the model is left set up for it
        else:
            layers, selfs = _by_following(network, runs, aspect, views[0], layout)
    listed = _with_unseen(network.model, runs, layers, selfs)
    _warn(listed)
    return listed


def _settings(views: tuple[int, ...], scales: tuple[int, ...], native: bool) -> dict[str, tuple[int, int | None]]:
    """List the runs, the small one last, so that the model is left set up for it."""
    tall = len(views) == 2 and views[1] <= views[0]
    if tall or not 1 <= len(views) <= 2 or not 1 <= len(scales) <= 2 or scales[1:] not in ((), (2 * scales[0],)):
        raise ValueError(
            f"find_layers: views={views}, scales={scales}: expected one or two, the second larger (scale: twice)"
        )
    runs: dict[str, tuple[int, int | None]] = {"native": (views[0], None)} if native else {}
    runs |= {"more_views": (views[1], scales[0])} if len(views) == 2 else {}
    runs |= {"bigger": (views[0], scales[1])} if len(scales) == 2 else {}
    return runs | {"base": (views[0], scales[0])}


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """One run: its inputs, the sizes of its calls, what else ran, and what was seen of explicit softmaxes."""

    inputs: Inputs
    ran: Ran
    calls: Calls

    @property
    def sizes(self) -> dict[Key, Sizes]:
        return self.calls.seen


def _run(network: Network, make: MakeInputs, setting: tuple[int, int | None]) -> _Seen:
    inputs = make(*setting)  # right before its run: making inputs may set the model up for them
    with candidates_watched(network.model) as ran:

        def look(call: Call) -> Sizes:
            ran.names.append((call.name, call.nth))
            batch, heads, queries, channels = call.q.shape
            return Sizes(batch, heads, queries, call.k.shape[2], channels)

        calls = network.calls(inputs, look)
    return _Seen(inputs=inputs, ran=ran, calls=calls)


# --- two numbers of views and two scales: by how counts grow ---------------------------------------------------------


def _by_growth(
    network: Network,
    runs: Mapping[str, _Seen],
    aspect: GridAspect,
    counts: tuple[int, int],
    layout: ViewLayout | Mapping[str, ViewLayout] | None,
    make_proof: Callable[[], tuple[int, Inputs]],
) -> tuple[list[Layer], list[bool]]:
    views = counts[0]
    inputs = {"native": runs["base"].inputs, **{name: run.inputs for name, run in runs.items()}}
    table = growth_table({"native": runs["base"].sizes, **{name: run.sizes for name, run in runs.items()}})
    ratio = aspect or aspect_of(inputs)
    chosen = {key: _as_chosen(layout, key, run.native, views) for key, run in table.items()}
    layers = {
        key: layer if layer is not None else counted_layer(key, table[key], counts, ratio)
        for key, layer in chosen.items()
    }
    _refuse_without_grid(layers.values())
    found = [key for key, layer in layers.items() if chosen[key] is None and layer.kind in (*JOINING, "view")]
    if found:
        small = aspect_of({**inputs, "native": inputs["bigger"]}) or aspect
        grids = {key: _bigger_grid(layers[key], table[key], small, views) for key in found}
        corner = CORNER if network.device.type == "meta" else corner_of(grids.values())
        changes = replace(changes_of(inputs, views), corner=corner)
        several, proof = make_proof()
        middle = several // 2 if several > 2 else None
        seen = _responses(network, proof, replace(changes, views=several, middle=middle))
        proofs = {key: _proved(layers[key], seen.get(key), grids[key], several) for key in found}
        layers |= dict(zip(proofs, agreed(list(proofs.values())), strict=True))
        _refuse_without_grid(layers.values())
    return list(layers.values()), [is_self(run) for run in table.values()]


def _responses(network: Network, inputs: Inputs, changes: Changes) -> dict[Key, Response]:
    return responses(lambda values, look, edit: network.calls(values, look, edit).seen, inputs, changes)


def _as_chosen(
    layout: ViewLayout | Mapping[str, ViewLayout] | None, key: Key, sizes: Sizes, views: int
) -> Layer | None:
    """Return a layer as the user describes it; None where no description is of it.

    Raises:
        ValueError: If a description by name has another number of tokens than the layer.
    """
    by_name = layout if isinstance(layout, Mapping) else {"": layout} if layout is not None else {}
    for start, wanted in by_name.items():
        if start and not f"{key[0]}.".startswith(f"{start}."):
            continue
        if wanted.views not in (1, views):
            raise ValueError(f"find_layers: layout= has {wanted.views} views, expected {views} as in views=, or 1")
        if sizes.queries == sizes.keys == wanted.tokens:
            layer = Layer(None, key[0], None, sizes.heads, "other", nth=key[1], channels=sizes.channels)
            return layer.placed(wanted)
        if start and sizes.queries == sizes.keys:
            raise ValueError(f"find_layers: {key[0]!r} has {sizes.queries} tokens, layout= says {wanted.tokens}")
    return None


def _refuse_without_grid(layers: Any) -> None:
    """Refuse a model none of whose self-attentions fits a grid."""
    reasons = [(layer.name, layer.reason) for layer in layers if layer.reason]
    if reasons and not any(layer.kind in (*JOINING, "view", "temporal") for layer in layers):
        name, reason = reasons[0]
        way_out = "" if reason.endswith(MORE) else ", or pass layout="
        raise ValueError(f"find_layers: {name!r} {reason}; check make_inputs(views, scale){way_out}")


def _bigger_grid(layer: Layer, run: Growth, aspect: GridAspect, views: int) -> tuple[int, int] | None:
    """Return a layer's grid in the run of a bigger one; None where it is rounded otherwise than the native one."""
    joined = 1 if layer.kind == "view" else views
    count, rest = divmod(run.bigger.queries - layer.prefix, joined)
    try:
        return None if rest else grid_of(count - layer.per_view_prefix, aspect, layer.name)
    except ValueError:
        return None


def _proved(layer: Layer, response: Response | None, grid: tuple[int, int] | None, views: int) -> Placed:
    """Place a layer's tokens by a run on the bigger grid; as counted, where that has no grid or no numbers."""
    return Placed(layer=layer) if response is None or grid is None else placed(layer, response, views, grid)


# --- one number of views, or one scale: by what follows a change -----------------------------------------------------


def _by_following(
    network: Network,
    runs: Mapping[str, _Seen],
    aspect: GridAspect,
    views: int,
    layout: ViewLayout | Mapping[str, ViewLayout] | None,
) -> tuple[list[Layer], list[bool]]:
    base, full = runs["base"], runs.get("native", runs["base"])
    inputs = {name: run.inputs for name, run in runs.items()}
    changes = changes_of(inputs, views)
    seen = _responses(network, base.inputs, changes)
    small, large = (aspect or _aspect_of_one(run.inputs, changes.axes) for run in (base, full))
    layers, selfs = list[Layer](), list[bool]()
    for key, size in full.sizes.items():
        chosen = _as_chosen(layout, key, size, views)
        followed = chosen or _followed(key, base.sizes[key], seen.get(key), small, views)
        layers.append(chosen or _at_full_size(followed, size, large, views))
        selfs.append(size.queries == size.keys and layers[-1].kind in (*JOINING, "view", "temporal"))
    _refuse_without_grid(layers)
    return layers, selfs


def _aspect_of_one(values: Inputs, axes: Mapping[str, tuple[int | None, tuple[int, ...]]]) -> GridAspect:
    shapes = [tuple(values[name].shape[axis] for axis in grid) for name, (_, grid) in axes.items() if len(grid) == 2]
    return (shapes[0][0], shapes[0][1]) if len(set(shapes)) == 1 else None


def _at_full_size(layer: Layer, size: Sizes, aspect: GridAspect, views: int) -> Layer:
    """Return a layer with the grid that it has at the native size."""
    if layer.grid is None:
        return layer
    joined = 1 if layer.kind == "view" else views
    count = (size.queries - layer.prefix - layer.suffix) // joined - layer.per_view_prefix - layer.per_view_suffix
    return replace(layer, grid=grid_of(count, aspect, layer.name))


def _followed(key: Key, size: Sizes, response: Response | None, aspect: GridAspect, views: int) -> Layer:
    layer = Layer(None, key[0], None, size.heads, "other", nth=key[1], channels=size.channels)
    if response is None:
        raise ValueError("find_layers: a model of one number of views or one size needs weights, not the meta device")
    if size.queries != size.keys:
        return replace(layer, kind="cross")
    try:
        followed = followed_layer(layer, response, views, aspect)
    except NoGridError as error:
        return replace(layer, reason=str(error))
    if followed.grid is None:
        return followed
    return agreed([placed(followed, response, views, followed.grid)])[0]


# --- numbers ---------------------------------------------------------------------------------------------------------


def _with_unseen(model: nn.Module, runs: Mapping[str, _Seen], layers: list[Layer], selfs: list[bool]) -> list[Layer]:
    """Put attention that was not seen where it ran, and number all."""
    base, bigger = runs["base"], runs.get("bigger", runs["base"])
    unseen = unseen_layers(model, base.ran, bigger.ran, base.calls)
    keys = [(layer.name, layer.nth) for layer in layers]
    read = [replace(layer, explicit=key in base.calls.explicit) for key, layer in zip(keys, layers, strict=True)]
    known = dict(zip(keys, zip(read, selfs, strict=True), strict=True))
    order = [known[name] if isinstance(name, tuple) else unseen.get(name) for name in base.ran.names]
    order += [unseen[name] for name in unseen if name not in base.ran.names]
    listed = list(dict.fromkeys(entry for entry in order if entry is not None))
    return _numbered(listed)


def _numbered(listed: list[tuple[Layer, bool]]) -> list[Layer]:
    numbered, of_self, of_3d = list[Layer](), 0, 0
    for layer, own in listed:
        index = of_self if own else None
        index_3d = of_3d if layer.kind in JOINING else None
        of_self, of_3d = of_self + own, of_3d + (layer.kind in JOINING)
        numbered.append(replace(layer, index=index, index_3d=index_3d))
    return numbered


def _warn(layers: list[Layer]) -> None:
    """Warn of what cannot be scored, and why."""
    for kind, what in (("unseen", "are attention that no tap sees"), ("other", "fit no grid, and are of kind other")):
        reasons = {layer.name: layer.reason for layer in layers if layer.kind == kind and layer.reason}
        if reasons:
            reason = next(iter(reasons.values()))
            helps = kind == "other" and not reason.endswith(MORE)
            way_out = "; pass layout= if you know where its tokens lie" if helps else ""
            warnings.warn(f"find_layers: {list(reasons)} {what}: {reason}{way_out}", stacklevel=3)


def _own_inputs(model: nn.Module) -> MakeInputs:
    network = inner_model(model)
    own = getattr(network, "probe_inputs", None)
    if own is None:
        needed = ", ".join(needed_arguments(network))
        raise ValueError(
            f"find_layers: {type(network).__name__} has no method probe_inputs(views, scale); pass make_inputs(views, "
            f"scale) -> keyword arguments of its forward ({needed} and what else it needs), as the models of "
            "docs/models.md do for their networks"
        )
    return own
