"""What a layout is proved by: the model run on inputs of which one view, or one corner of all views, is changed.

While it runs, every attention is replaced by the identity, so that tokens do not mix before the layer that is asked.
Costs three small forwards.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from probe.attention.call import Call, Run
from probe.layers.counting import Inputs, Key, grown_axes, tensors_of

CORNER = 1 / 2, 3 / 4  # rows and columns of each view that are changed most: different, to tell one from the other
REST = 1 / 32  # how much the rest changes, beside the corner

Watch = Callable[[Inputs, Callable[[Call], Any], Any], dict[Key, Any]]
"""Runs the model: from inputs, what to look at and an edit to what was seen, by call."""


@dataclass(frozen=True, kw_only=True)
class Response:
    """How much each query token of a call follows two changes, summed over heads and channels.

    Attributes:
        view: When view 0 changes, and the corner of a middle view where there is one.
        corner: When all views change, most in the first rows and columns of each.
        share: Of the rows and columns that changed most.
        middle: The middle view; None where there is none.
    """

    view: Float[Tensor, "b n"]
    corner: Float[Tensor, "b n"]
    share: tuple[float, float]
    middle: int | None = None


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
        key: Response(
            view=_distance(q, view[key]),
            corner=_distance(q, corner[key]),
            share=changes.share,
            middle=changes.middle,
        )
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
        corner: Share of rows and columns that change most.
        middle: A view between the first and the last, which is to be told from others; None if there is none.
    """

    views: int
    axes: Mapping[str, tuple[int | None, tuple[int, ...]]]
    corner: tuple[float, float] = CORNER
    middle: int | None = None

    @property
    def show_views(self) -> bool:
        """Return whether an input has the views along an axis."""
        return any(view is not None for view, _ in self.axes.values())

    @property
    def share(self) -> tuple[float, float]:
        """Return the share of rows and columns that change most: of whole rows where all inputs are flattened."""
        return self.corner if any(len(grid) == 2 for _, grid in self.axes.values()) else (self.corner[0], 1.0)

    def of_view(self, inputs: Inputs) -> dict[str, Any]:
        """Return inputs whose view 0 is another, and the corner of the middle view."""
        return self._changed(inputs, self._in_view)

    def of_corner(self, inputs: Inputs) -> dict[str, Any]:
        """Return inputs of which all views change, most in the corner."""
        return self._changed(inputs, lambda value, view, axes: REST + (1 - REST) * self._in_corner(value, view, axes))

    def _changed(self, inputs: Inputs, weight: Callable[..., Tensor]) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(0)
        changed = dict(inputs)
        tensors = tensors_of(inputs)
        for name, (view, axes) in self.axes.items():
            value = tensors[name]
            places = [axis for axis in (view, *axes) if axis is not None]
            other = value + (weight(value, view, axes) * _noise(value.shape, places, generator)).to(value)
            changed[name] = list(other) if isinstance(inputs[name], list) else other
        return changed

    def _in_view(self, value: Tensor, view: int | None, axes: tuple[int, ...]) -> Tensor:
        if view is None:
            return torch.zeros(value.shape)
        size = value.shape[view] // self.views
        places = torch.arange(value.shape[view])
        changed = _along(places < size, view, value.ndim).expand(value.shape).float()
        if self.middle is None:
            return changed
        inside = (places >= self.middle * size) & (places < (self.middle + 1) * size)
        return changed + _along(inside, view, value.ndim) * self._in_corner(value, view, axes)

    def _in_corner(self, value: Tensor, view: int | None, axes: tuple[int, ...]) -> Tensor:
        inside = torch.ones(value.shape)
        for axis, share in zip(axes, self.corner, strict=False):
            size = value.shape[axis] // (self.views if axis == view else 1)  # a tall image holds the views one by one
            place = torch.arange(value.shape[axis]) % size
            inside = inside * _along(place < round(share * size, 6), axis, value.ndim)
        return inside


def _noise(shape: torch.Size, places: list[int], generator: torch.Generator) -> Tensor:
    """Draw a change of the same strength at every place, up or down, so that what follows it follows it equally."""
    at_places = [size if axis in places else 1 for axis, size in enumerate(shape)]
    elsewhere = [1 if axis in places else size for axis, size in enumerate(shape)]
    signs = torch.randint(2, at_places, generator=generator) * 2 - 1
    return signs * (1 + torch.rand(elsewhere, generator=generator))


def _along(values: Tensor, axis: int, axes: int) -> Tensor:
    return values.reshape([-1 if place == axis else 1 for place in range(axes)])


def changes_of(inputs: Mapping[str, Inputs], views: int) -> Changes:
    """Find the axes of views, rows and columns by how inputs grow, or by their sizes where a model has only one.

    Args:
        inputs: Of the runs "base", and as far as the model can be run so "more_views" and "bigger".
        views: Of "base".
    """
    runs = {run: tensors_of(values) for run, values in inputs.items()}
    floats = [name for name, value in runs["base"].items() if value.is_floating_point()]
    axes = {name: (_view_axis(name, runs, views), _grid_axes(name, runs, views)) for name in floats}
    images = any(len(grid) == 2 for _, grid in axes.values())  # they know rows from columns; flattened ones do not
    return Changes(
        views=views,
        axes={name: (view, grid) for name, (view, grid) in axes.items() if len(grid) == 2 or (grid and not images)},
    )


def _view_axis(name: str, runs: Mapping[str, Mapping[str, Tensor]], views: int) -> int | None:
    value = runs["base"][name]
    if "more_views" in runs:
        fits = grown_axes(value, runs["more_views"][name])
    else:
        fits = [axis for axis, size in enumerate(value.shape[:-2]) if size == views]
        if len(fits) > 1 and value.ndim >= 4:
            raise ValueError(
                f"find_layers: axes {fits} of {name!r} are of size {views}: which one holds the views cannot be told; "
                "make inputs of another number of views or channels"
            )
    return fits[0] if len(fits) == 1 else None


def _grid_axes(name: str, runs: Mapping[str, Mapping[str, Tensor]], views: int) -> tuple[int, ...]:
    value = runs["base"][name]
    if "bigger" in runs:
        return tuple(grown_axes(value, runs["bigger"][name]))
    is_image = value.ndim >= 4 and _view_axis(name, runs, views) is not None
    return (value.ndim - 2, value.ndim - 1) if is_image else ()
