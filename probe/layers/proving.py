"""The proof of a layout: change one view, and one corner of all views, and look which queries follow.

While it runs, every attention is replaced by the identity, so that tokens do not mix before the layer that is asked.
What convolutions and norms mix lowers a score and leaves the order of scores. Costs three small forwards.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations, product
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probe.attention.call import Call, Run
from probe.layers.counting import Inputs, Key, grid_of, grown_axes
from probe.layers.layout import VIEW_MAJOR, Kind, Layer, ViewLayout

ROWS, COLUMNS = 1 / 2, 3 / 4  # of each view: the corner that is changed most, different along rows and columns
REST = 1 / 32  # how much the rest changes, beside the corner
PROVED = 0.5  # correlation of the usual order where it is proved
OTHER, LEAD = 0.75, 0.2  # correlation that another order needs, and its lead over the usual one
LEAST = 4  # rows and columns of tokens that can prove an order
BLOCKS = (2, 4, 8)

Watch = Callable[[Inputs, Callable[[Call], Any], Any], dict[Key, Any]]
"""Runs the model: from inputs, what to look at and an edit to what was seen, by call."""


@dataclass(frozen=True, kw_only=True)
class Response:
    """How much each query token of a call follows two changes, summed over heads and channels.

    Attributes:
        view: When view 0 alone changes.
        corner: When all views change, most in the first rows and columns of each.
    """

    view: Float[Tensor, "b n"]
    corner: Float[Tensor, "b n"]


def keep_apart(call: Call, run: Run) -> Tensor:
    """Let each token attend to itself where queries and keys are the same tokens; leave other attention as it is."""
    own = call.v_per_head
    if call.q.shape[:3] == own.shape[:3]:
        return own.to(call.compute_dtype)
    return run(call.q, call.k, call.v)


def responses(watch: Watch, inputs: Inputs, changes: "Changes") -> dict[Key, Response]:
    """Run the model on the inputs and on two changes of them.

    Args:
        watch: Runs the model.
        inputs: The smaller ones of a pair that shows the axes, or larger; floating tensors among them are changed.
        changes: Which axes hold views, rows and columns.

    Returns:
        By call, in execution order; of calls without numbers (on the meta device) nothing.
    """
    usual, view, corner = (
        watch(x, lambda call: call.q.detach().clone(), keep_apart)
        for x in (inputs, changes.of_view(inputs), changes.of_corner(inputs))
    )
    return {
        key: Response(view=_distance(q, view[key]), corner=_distance(q, corner[key]))
        for key, q in usual.items()
        if not q.is_meta
    }


def _distance(before: Tensor, after: Tensor) -> Float[Tensor, "b n"]:
    return (after.double() - before.double()).square().sum((1, 3)).sqrt().cpu()


@dataclass(frozen=True, kw_only=True)
class Changes:
    """Which axes of which inputs hold the views, and the rows and columns of the grid.

    Attributes:
        views: Number of views.
        axes: By input: the axis of the views (None: none), and those of rows and columns (one if they are flattened).
    """

    views: int
    axes: Mapping[str, tuple[int | None, tuple[int, ...]]]

    @property
    def show_views(self) -> bool:
        """Return whether an input has the views along an axis."""
        return any(view is not None for view, _ in self.axes.values())

    def of_view(self, inputs: Inputs) -> dict[str, Any]:
        """Return inputs whose view 0 is another."""
        return self._changed(inputs, lambda value, view, _axes: self._in_view(value, view))

    def of_corner(self, inputs: Inputs) -> dict[str, Any]:
        """Return inputs of which all views change, most in the corner."""
        return self._changed(inputs, lambda value, view, axes: REST + (1 - REST) * self._in_corner(value, view, axes))

    def _changed(self, inputs: Inputs, weight: Callable[..., Tensor]) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(0)
        changed = dict(inputs)
        for name, (view, axes) in self.axes.items():
            value = inputs[name]
            noise = torch.randn(value.shape, generator=generator) if not value.is_meta else torch.zeros(value.shape)
            changed[name] = value + (weight(value, view, axes) * noise).to(value)
        return changed

    def _in_view(self, value: Tensor, view: int | None) -> Tensor:
        if view is None:
            return torch.zeros(value.shape)
        own = torch.arange(value.shape[view]) < value.shape[view] // self.views
        return _along(own, view, value.ndim).expand(value.shape).float()

    def _in_corner(self, value: Tensor, view: int | None, axes: tuple[int, ...]) -> Tensor:
        inside = torch.ones(value.shape)
        for axis, share in zip(axes, (ROWS, COLUMNS), strict=False):
            size = value.shape[axis] // (self.views if axis == view else 1)  # a tall image holds the views one by one
            place = torch.arange(value.shape[axis]) % size
            inside = inside * _along(place < share * size, axis, value.ndim)
        return inside


def _along(values: Tensor, axis: int, axes: int) -> Tensor:
    return values.reshape([-1 if place == axis else 1 for place in range(axes)])


def changes_of(inputs: Mapping[str, Inputs], views: int) -> Changes:
    """Find the axes of views, rows and columns by how inputs grow, or by their sizes where a model has only one.

    Args:
        inputs: Of the runs "base", and as far as the model can be run so "more_views" and "bigger".
        views: Of "base".
    """
    base = inputs["base"]
    floats = {name: x for name, x in base.items() if isinstance(x, Tensor) and x.is_floating_point()}
    axes = {name: (_view_axis(name, inputs, views), _grid_axes(name, inputs, views)) for name in floats}
    return Changes(views=views, axes={name: (view, grid) for name, (view, grid) in axes.items() if grid})


def _view_axis(name: str, inputs: Mapping[str, Inputs], views: int) -> int | None:
    value = inputs["base"][name]
    if "more_views" in inputs:
        fits = grown_axes(value, inputs["more_views"][name])
    else:
        fits = [axis for axis, size in enumerate(value.shape[:-2]) if size == views]
    return fits[0] if len(fits) == 1 else None


def _grid_axes(name: str, inputs: Mapping[str, Inputs], views: int) -> tuple[int, ...]:
    value = inputs["base"][name]
    if "bigger" in inputs:
        return tuple(grown_axes(value, inputs["bigger"][name]))
    is_image = value.ndim >= 4 and _view_axis(name, inputs, views) is not None
    return (value.ndim - 2, value.ndim - 1) if is_image else ()


# --- from responses to layouts ---------------------------------------------------------------------------------------


Order = tuple[str, tuple[int, int], tuple[int, int]]
"""Axes of the views' tokens, tiles, and blocks: :class:`probe.layers.layout.ViewLayout`."""


class Fit(NamedTuple):
    """How well an order fits the two responses, from -1 to 1; 1 where there is nothing to fit."""

    view: float
    corner: float


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A layer with its other tokens placed, and how well each order fits its views' tokens.

    Attributes:
        layer: Of kind "other" with a reason where its other tokens lie as no layout says.
        scores: The usual order first; empty where it was not asked.
    """

    layer: Layer
    scores: Mapping[Order, Fit] = field(default_factory=dict)

    @property
    def seen(self) -> Order | None:
        """Return the order that the layer shows; None where it shows none clearly."""
        if not self.scores:
            return None
        least = {order: min(fit) for order, fit in self.scores.items()}
        usual, best = next(iter(least)), max(least, key=least.__getitem__)
        if least[best] >= max(OTHER, least[usual] + LEAD):
            return best
        return usual if least[usual] >= PROVED else None

    @property
    def is_blurred(self) -> bool:
        """Return whether views lie as usual, while rows and columns are not told apart, as behind convolutions."""
        return not self.scores or next(iter(self.scores.values())).view >= PROVED


def agreed(proofs: Sequence[Placed]) -> list[Layer]:
    """Give each layer the order that fits it best of those that some layer shows.

    Convolutions, norms and unseen attention blur what a layer shows, so that others speak for it.

    Returns:
        The layers; of kind "other" where none shows an order, and the views do not even lie one after the other.
    """
    orders = {False: set[Order](), True: set[Order]()}
    for proof in proofs:
        if proof.seen is not None:
            orders[proof.layer.kind == "view"].add(proof.seen)
    return [_in_order(proof, orders[proof.layer.kind == "view"]) for proof in proofs]


def _in_order(proof: Placed, orders: set[Order]) -> Layer:
    layer = proof.layer
    fits = {order: min(fit) for order, fit in proof.scores.items() if order in orders}
    if fits:
        order, tiles, block = max(fits, key=fits.__getitem__)
        return replace(layer, order=order, tiles=tiles, block=block)
    if proof.is_blurred or layer.grid is None or min(layer.grid) < LEAST:
        return layer
    return refused(layer, "has its tokens in no order that is known here (f h w, h w f, tiles, blocks, ...)")


def placed(layer: Layer, response: Response, views: int, grid: tuple[int, int]) -> Placed:
    """Place the tokens that belong to no grid, which do not follow the views, and find the order of the others.

    Args:
        layer: With its other tokens counted before the views, or before each view.
        response: Of its queries.
        views: Of the run that was changed.
        grid: Of that run.

    Returns:
        The layer, of kind "other" with a reason where its other tokens lie as no layout says.
    """
    own, shared = layer.per_view_prefix + layer.per_view_suffix, layer.prefix + layer.suffix
    joined = 1 if layer.kind == "view" else views
    follows = _following(response, joined * math.prod(grid))
    for layout in _places(follows, own, shared, ViewLayout(joined, grid)):
        if layout.tokens == len(follows) and bool(follows[image_positions(layout).flatten()].all()):
            kind = layer.kind
            return Placed(
                layer=replace(layer.placed(layout), kind=kind, grid=layer.grid), scores=_scores(layout, response)
            )
    return Placed(layer=refused(layer, "has tokens outside the views at places that no layout describes"))


def _following(response: Response, count: int) -> Tensor:
    """Return which tokens follow the views: so many that follow most."""
    strength = (response.corner + response.view).sum(0)
    follows = torch.zeros_like(strength, dtype=torch.bool)
    follows[strength.topk(min(count, len(strength))).indices] = True
    return follows


def _places(follows: Tensor, own: int, shared: int, views: ViewLayout) -> Iterator[ViewLayout]:
    """List how other tokens, of each view and of all, may lie around the first token that follows."""
    first = int(follows.int().argmax())
    for before in range(min(own, first), -1, -1):
        if (prefix := first - before) <= shared:
            suffix, behind = shared - prefix, own - before
            yield replace(views, prefix=prefix, suffix=suffix, per_view_prefix=before, per_view_suffix=behind)


def image_positions(layout: ViewLayout) -> Int[Tensor, "f h w"]:
    """Return the position of each view's tokens in the sequence."""
    return layout.split(torch.arange(layout.tokens)[:, None])[..., 0]


def refused(layer: Layer, reason: str) -> Layer:
    """Return the layer as one on no grid, and why."""
    return replace(layer, kind="other", grid=None, reason=reason)


def _scores(usual: ViewLayout, response: Response) -> dict[Order, Fit]:
    return {(x.order, x.tiles, x.block): _fit(x, response) for x in _orders(usual)}


def _orders(usual: ViewLayout) -> list[ViewLayout]:
    """List the layouts that may be meant: all orders of views, rows and columns; tiles of one image; blocks."""
    beside = usual.per_view_prefix or usual.per_view_suffix
    orders = [" ".join(axes) for axes in permutations("fhw") if axes[0] == "f" or not beside]
    layouts = [usual, *(replace(usual, order=order) for order in orders if order != VIEW_MAJOR)]
    if min(usual.grid) < LEAST:
        return layouts
    tiles = [(r, usual.views // r) for r in range(2, usual.views) if usual.views % r == 0 and not beside]
    layouts += [replace(usual, order="r h c w", tiles=pair) for pair in tiles]
    h, w = usual.grid
    blocks = [(y, x) for y, x in product(BLOCKS, BLOCKS) if h % y == w % x == 0 and x < w]
    return layouts + [replace(usual, order="f h w y x", block=block) for block in blocks]


def _fit(layout: ViewLayout, response: Response) -> Fit:
    """Correlate both responses with what an order says: 1 if every token follows its own place alone."""
    positions = image_positions(layout)
    f, h, w = positions.shape
    corner = _correlation(response.corner[:, positions], _share(h, ROWS)[:, None] * _share(w, COLUMNS))
    if f == 1 or not response.view.any():
        return Fit(1.0, corner)
    first = (torch.arange(f) == 0).double()[:, None, None]
    return Fit(_correlation(response.view[:, positions], first), corner)


def _share(size: int, share: float) -> Float[Tensor, " size"]:
    """Return how much of each of some cells lies before a share of their whole."""
    return (share * size - torch.arange(size, dtype=torch.float64)).clamp(0, 1)


def _correlation(seen: Float[Tensor, "b f h w"], expected: Float[Tensor, "*#f #h #w"]) -> float:
    a, b = (x - x.mean() for x in (seen, expected.expand_as(seen)))
    scale = a.norm() * b.norm()
    return float((a * b).sum() / scale) if scale > 0 else 0.0


def _between(follows: Bool[Tensor, " n"]) -> int:
    """Count the tokens between the first run of tokens that follow and the second; 0 if there is one run."""
    places = follows.nonzero()[:, 0]
    gaps = places.diff() - 1
    return int(gaps[gaps > 0][0]) if bool((gaps > 0).any()) else 0


# --- models of one size ----------------------------------------------------------------------------------------------


def followed_layer(layer: Layer, response: Response, views: int, aspect: tuple[int, int] | None) -> Layer:
    """Tell the kind and the grid of a self-attention by which tokens follow the changes, where no size can change.

    Args:
        layer: Of kind "other".
        response: Of its queries.
        views: Of the run.
        aspect: Rows and columns that the grid is proportional to.

    Returns:
        The layer, its other tokens counted before the views, or before each view.

    Raises:
        ValueError: If nothing tells rows from columns.
    """
    image, first = response.corner > 0, response.view > 0
    rows = image.any(1)
    if not rows.any():
        return layer
    follows, own_view = image[rows][0], first[rows]
    count, other = int(follows.sum()), int((~follows).sum())
    joins = bool((own_view.any(1) & (image[rows] & ~own_view).any(1)).any())
    if not joins:
        return replace(layer, kind="view", grid=grid_of(count, aspect, layer.name), per_view_prefix=other)
    if count <= views:
        return replace(layer, kind="temporal")
    own = _between(follows) if views > 1 else 0
    per_view, rest = divmod(count, views)
    if rest:
        return replace(layer, reason=f"has {count} tokens that follow {views} views")
    kind: Kind = "joint" if other - own * views else "3d"
    grid = grid_of(per_view, aspect, layer.name)
    return replace(layer, kind=kind, grid=grid, prefix=other - own * views, per_view_prefix=own)
