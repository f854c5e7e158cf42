"""A layer and where its tokens lie: which views, on which grid, in which order."""

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Int, Shaped
from torch import Tensor

Kind = Literal["3d", "joint", "view", "temporal", "cross", "other", "unseen"]
JOINING: tuple[Kind, ...] = ("3d", "joint")
VIEW_MAJOR = "f h w"
ORDERS = ({"f", "h", "w"}, {"r", "c", "h", "w"}, {"f", "h", "w", "y", "x"})


@dataclass(frozen=True)
class ViewLayout:
    """Where the views' tokens lie in a joint sequence.

    Attributes:
        views: Number of views.
        grid: Token rows and columns of one view.
        prefix: Tokens before the first view (text).
        suffix: Tokens after the last view (text).
        per_view_prefix: Tokens before each view's own grid (camera and register tokens), where views are outermost.
        per_view_suffix: Tokens behind each view's own grid (text of each view); likewise.
        order: Axes of the views' tokens from the outermost in, as in einops: views f, rows h, columns w ("f h w"; with
            "h w f" all views of a place lie side by side). Where the views are tiles of one image, rows r and columns
            c of tiles stand for f ("r h c w"); where a view is cut into blocks, h and w count blocks, and y and x are
            the rows and columns inside ("f h w y x").
        tiles: Rows and columns of tiles, where ``order`` names them.
        block: Rows and columns of a block, where ``order`` names them.
    """

    views: int
    grid: tuple[int, int]
    prefix: int = 0
    suffix: int = 0
    per_view_prefix: int = 0
    per_view_suffix: int = 0
    order: str = VIEW_MAJOR
    tiles: tuple[int, int] = (1, 1)
    block: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        axes = self.order.split()
        if len(axes) != len(set(axes)) or set(axes) not in ORDERS:
            raise ValueError(
                f"ViewLayout: order {self.order!r} names none of the axes f h w, r c h w or f h w y x, once each"
            )
        if axes[0] != "f" and (self.per_view_prefix or self.per_view_suffix):
            raise ValueError(f"ViewLayout: tokens beside each view need the views outermost, order is {self.order!r}")
        if "r" in axes and math.prod(self.tiles) != self.views:
            raise ValueError(f"ViewLayout: {self.tiles} tiles are not {self.views} views")
        if "y" in axes and any(side % part for side, part in zip(self.grid, self.block, strict=True)):
            raise ValueError(f"ViewLayout: a grid of {self.grid} has no whole blocks of {self.block}")

    @property
    def tokens(self) -> int:
        """Return the length of the joint sequence."""
        return self.prefix + self.views * self.per_view + self.suffix

    @property
    def per_view(self) -> int:
        """Return how many tokens belong to one view."""
        return self.per_view_prefix + math.prod(self.grid) + self.per_view_suffix

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
        own = views[..., self.per_view_prefix : self.per_view - self.per_view_suffix, :].flatten(-3, -2)
        return self._ordered(own)

    def _ordered(self, tokens: Shaped[Tensor, "*lead n d"]) -> Shaped[Tensor, "*lead f h w d"]:
        axes = self.order.split()
        views = "(r c)" if "r" in axes else "f"
        rows, columns = ("(h y)", "(w x)") if "y" in axes else ("h", "w")
        (y, x), (r, c) = self.block, self.tiles
        sizes = {"f": self.views, "h": self.grid[0] // y, "w": self.grid[1] // x, "r": r, "c": c, "y": y, "x": x}
        known = {axis: sizes[axis] for axis in axes}
        return rearrange(tokens, f"... ({self.order}) d -> ... {views} {rows} {columns} d", **known)

    def owners(self) -> Int[Tensor, " tokens"]:
        """Return which view each token belongs to, its camera and register tokens too; -1 for those of none."""
        positions = torch.arange(self.tokens)
        owner = torch.full_like(positions, -1)
        views = self.split(positions[:, None]).flatten(1)
        owner[views] = torch.arange(self.views)[:, None].expand_as(views)
        if self.per_view_prefix or self.per_view_suffix:
            inside = slice(self.prefix, self.tokens - self.suffix)
            owner[inside] = torch.arange(self.views).repeat_interleave(self.per_view)
        return owner


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
            "temporal" joins the views at one place; "cross" reads text or another fixed sequence; "unseen" attends in a
            way that no tap sees (see ``reason``), but keeps its index; "other" is the rest.
        nth: Which of the module's calls in one forward.
        index_3d: Position among the layers of kind "3d" and "joint"; None for others.
        channels: Channels per head.
        prefix: Joint tokens before the first view.
        suffix: Joint tokens after the last view.
        per_view_prefix: Tokens before each view's own grid.
        per_view_suffix: Tokens behind each view's own grid.
        order: Of the views' tokens: :class:`ViewLayout`.
        tiles: Rows and columns of tiles, where the order names them.
        block: Rows and columns of a block, where the order names them.
        reason: Why a call is "unseen", or of kind "other" though it is over image tokens; empty otherwise.
        explicit: Whether it is read off an explicit softmax; taps of the layer then read such softmaxes.
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
    per_view_suffix: int = 0
    order: str = VIEW_MAJOR
    tiles: tuple[int, int] = (1, 1)
    block: tuple[int, int] = (1, 1)
    reason: str = ""
    explicit: bool = False

    def layout(self, views: int) -> ViewLayout:
        """Return the token layout for a number of views.

        Raises:
            ValueError: If the layer does not join whole views.
        """
        if self.grid is None or self.kind not in JOINING:
            raise ValueError(f"Layer: {self.name!r} is of kind {self.kind!r} and joins no views; choose a 3D layer")
        return self.on(views)

    def on(self, views: int) -> ViewLayout:
        """Return where the tokens of a number of views lie in one sequence of the call; of one where it joins none.

        Raises:
            ValueError: If the layer works on no token grid.
        """
        if self.grid is None:
            raise ValueError(f"Layer: {self.name!r} is of kind {self.kind!r} and works on no token grid")
        return ViewLayout(
            views,
            self.grid,
            self.prefix,
            self.suffix,
            self.per_view_prefix,
            self.per_view_suffix,
            self.order,
            self.tiles,
            self.block,
        )

    def placed(self, layout: ViewLayout) -> "Layer":
        """Return the layer with the tokens where a layout says; of kind "view" if that is of one view."""
        extras = layout.prefix + layout.suffix
        kind: Kind = "view" if layout.views == 1 else "joint" if extras else "3d"
        return replace(
            self,
            kind=kind,
            grid=layout.grid,
            prefix=layout.prefix,
            suffix=layout.suffix,
            per_view_prefix=layout.per_view_prefix,
            per_view_suffix=layout.per_view_suffix,
            order=layout.order,
            tiles=layout.tiles,
            block=layout.block,
            reason="",
        )


def joint_layout(layer: Layer, views: int) -> ViewLayout:
    """Return the layout of the views' tokens side by side; a per-view layer's are put there by the caller.

    Raises:
        ValueError: If the layer works on no token grid.
    """
    if layer.kind == "view":
        return layer.on(views)
    return layer.layout(views)
