"""The proof of a layout: from which queries follow a change of one view, and of one corner of all views.

What convolutions and norms mix lowers a score and leaves the order of scores.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations, product
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probe.layers.changing import CORNER, Response
from probe.layers.counting import grid_of
from probe.layers.layout import VIEW_MAJOR, Kind, Layer, ViewLayout

PROVED = 0.5  # correlation of the usual order where it is proved
OTHER, LEAD = 0.75, 0.2  # correlation that another order needs, and its lead over the usual one
TIE = 0.02  # of correlations that do not tell two orders apart
FEW = 16  # tokens of a view with fewer may show any order behind convolutions
LEAST = 4  # rows and columns of tokens that can prove an order
BLOCKS = (2, 4, 8)


def corner_of(grids: Iterable[tuple[int, int] | None]) -> tuple[float, float]:
    """Return the share of rows and columns to change by which the orders of tokens differ most.

    Args:
        grids: Of the layers; the finest counts, None are left out.
    """
    known = [grid for grid in grids if grid is not None]
    if not known or min(finest := max(known, key=math.prod)) < LEAST:
        return CORNER
    places = torch.stack([image_positions(layout) for layout in _orders(ViewLayout(2, finest))])
    rows, columns = (
        [round(share * n + step) / n for step in range(-2, 3)] for n, share in zip(finest, CORNER, strict=True)
    )
    corners = [(y, x) for y, x in product(rows, columns) if 0 < y < 1 and 0 < x < 1]
    return min(corners, key=lambda corner: _likeness(places, corner))


def _likeness(places: Int[Tensor, "orders f h w"], corner: tuple[float, float]) -> float:
    """Return how well the two orders that are most alike fit each other."""
    _, f, h, w = places.shape
    view = (torch.arange(f) == 0).double()[:, None, None].expand(f, h, w)
    inside = _corner(h, w, corner).expand(f, h, w)
    fits = [torch.zeros(places.flatten(1).shape).double() for _ in range(2)]
    for seen, expected in zip(fits, (view, inside), strict=True):
        seen.scatter_(1, places.flatten(1), expected.flatten().expand(len(places), -1))
    alike = torch.minimum(*(torch.corrcoef(seen) for seen in fits))
    return float(alike.fill_diagonal_(-1).max())


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
        tokens: Of a view in the run that was asked.
    """

    layer: Layer
    scores: Mapping[Order, Fit] = field(default_factory=dict)
    tokens: int = 0

    @property
    def seen(self) -> Order | None:
        """Return the order that the layer shows; None where it shows none clearly."""
        if not self.scores:
            return None
        others, usual = self.others, next(iter(self.scores))
        if others:
            return others[0] if len(others) == 1 else None
        return usual if min(self.scores[usual]) >= PROVED else None

    @property
    def others(self) -> list[Order]:
        """Return the orders that fit clearly better than the usual one: several where nothing tells them apart."""
        least = {order: min(fit) for order, fit in self.scores.items()}
        enough = max(OTHER, next(iter(least.values()), 1.0) + LEAD, max(least.values(), default=0.0) - TIE)
        return [order for order, fit in least.items() if fit >= enough]

    @property
    def is_blurred(self) -> bool:
        """Return whether views lie as usual, while rows and columns are not told apart, as behind convolutions."""
        return not self.scores or next(iter(self.scores.values())).view >= PROVED


def agreed(proofs: Sequence[Placed]) -> list[Layer]:
    """Return the layers in the order that each shows, or that half of the others show where it shows none.

    Convolutions, norms and unseen attention blur what a layer shows, so that others speak for it; those of few tokens
    may show anything, and speak only where all have few.

    Returns:
        The layers; of kind "other" where none shows an order, and the views do not even lie one after the other.
    """
    parts = [[proof for proof in proofs if (proof.layer.kind == "view") is apart] for apart in (False, True)]
    orders = {apart: _shown(part) for apart, part in zip((False, True), parts, strict=True)}
    return [_in_order(proof, orders[proof.layer.kind == "view"]) for proof in proofs]


def _shown(proofs: Sequence[Placed]) -> list[Order]:
    """Return the orders that layers show: the usual one if any does, others if half of the layers do."""
    large = [proof for proof in proofs if proof.tokens >= FEW] or proofs
    seen = Counter(proof.seen for proof in large if proof.seen is not None)
    return [order for order, count in seen.items() if order[0] == VIEW_MAJOR or 2 * count >= len(large)]


def _in_order(proof: Placed, orders: Sequence[Order]) -> Layer:
    layer = proof.layer
    fits = {order: min(fit) for order, fit in proof.scores.items() if order in orders}
    if fits:
        order, tiles, block = max(fits, key=fits.__getitem__)
        return replace(layer, order=order, tiles=tiles, block=block)
    if len(proof.others) > 1:
        return refused(
            layer, f"has its tokens in one of several orders that its grid does not tell apart: {proof.others}"
        )
    if proof.others and proof.tokens >= FEW:
        return refused(layer, f"has its tokens in an order that few other layers show: {proof.others[0]}")
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
    if not response.corner.any():
        return Placed(
            layer=refused(layer, "follows no change of the inputs that grow, so that nothing proves its order")
        )
    follows = _following(response, joined * math.prod(grid))
    for layout in _places(follows, own, shared, ViewLayout(joined, grid)):
        if layout.tokens == len(follows) and bool(follows[image_positions(layout).flatten()].all()):
            kind = layer.kind
            return Placed(
                layer=replace(layer.placed(layout), kind=kind, grid=layer.grid),
                scores=_scores(layout, response),
                tokens=math.prod(grid),
            )
    return Placed(
        layer=refused(
            layer, "has tokens outside the views at places that no layout describes, or not the same in each item"
        )
    )


def _following(response: Response, count: int) -> Tensor:
    """Return which tokens follow the views: those that follow most, by their known number."""
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
    corner = _correlation(response.corner[:, positions], _corner(h, w, response.share))
    if f == 1 or not response.view.any():
        return Fit(1.0, corner)
    seen, others = response.view[:, positions], [view for view in range(f) if view != response.middle]
    if response.middle is not None and _is_elsewhere(response.middle, seen, _corner(h, w, response.share)):
        return Fit(0.0, corner)
    first = (torch.arange(len(others)) == 0).double()[:, None, None]
    return Fit(_correlation(seen[:, others], first), corner)


def _is_elsewhere(middle: int, seen: Float[Tensor, "b f h w"], corner: Float[Tensor, "h w"]) -> bool:
    """Return whether another view than the middle one shows what was changed there: less than view 0, in the corner."""
    later = [float(x) for view, x in enumerate(seen.mean((0, 2, 3))) if view not in (0, middle)]
    at_first, at_middle = (_correlation(seen[:, [view]], corner) for view in (0, middle))
    return max(later) > float(seen[:, middle].mean()) or (at_first > PROVED and at_first > at_middle + LEAD)


def _corner(h: int, w: int, share: tuple[float, float]) -> Float[Tensor, "{h} {w}"]:
    return _share(h, share[0])[:, None] * _share(w, share[1])


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
    """Return a self-attention with kind and grid by which tokens follow the changes, where no size can change.

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
