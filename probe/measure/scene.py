"""A scene as everything is measured on it: its views, what is true of them, its pairs of views, and the thresholds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from probe.geometry import rotation_degrees
from probe.layers import Layer, ViewLayout
from probe.metrics import GridTruth, Threshold, grid_truth, thresholds
from probe.records import rotation_bin
from probe.views import Views

Grid = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class ScenePairs:
    """The ordered view pairs of one scene, as columns."""

    pair: tuple[str, ...]
    query_view: tuple[int, ...]
    key_view: tuple[int, ...]
    direction: tuple[str, ...]
    rotation_deg: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One scene, ready to be measured on.

    Attributes:
        views: A batch of one scene, which has a name.
        truths: Ground truth by token grid (rows, columns).
        pairs: All ordered pairs of different views.
        thresholds: Which matches are right.
        noise: The same for every model, timestep and checkpoint.
    """

    views: Views
    truths: Mapping[Grid, GridTruth]
    pairs: ScenePairs
    thresholds: tuple[Threshold, ...]
    noise: Float[Tensor, "1 f c h w"]

    @property
    def name(self) -> str:
        """Return the scene's name."""
        return self.views.names[0]

    @property
    def finest(self) -> GridTruth:
        """Return the truth of the grid with the most tokens: the common grid."""
        return self.truths[max(self.truths, key=lambda grid: grid[0] * grid[1])]


@dataclass(frozen=True, kw_only=True)
class LayerCall:
    """One layer's attention call on one scene, with the tokens of all views side by side.

    Attributes:
        layer: That made the call.
        layout: Where the views' tokens lie.
        q: Queries as used by the layer.
        k: Keys as used by the layer.
        scale: Factor of the logits.
        bias: What the layer's mask adds to the logits; None where it hides nothing.
        model: Name of the model.
        step: Training steps of its weights; -1 if unknown.
        timestep: Index of the noise schedule.
    """

    layer: Layer
    layout: ViewLayout
    q: Float[Tensor, "1 heads joint d"]
    k: Float[Tensor, "1 heads joint d"]
    scale: float
    bias: Float[Tensor, "1 #heads #joint joint"] | None = None
    model: str
    step: int
    timestep: int


def make_scene(
    views: Views,
    layers: Sequence[Layer],
    noise: Float[Tensor, "1 f c h w"],
    limits: tuple[Threshold, ...] | None = None,
) -> Scene:
    """Work out the ground truth of a scene on every grid of the layers.

    Args:
        views: A batch of one scene.
        layers: Whose grids are asked for; those without a grid are ignored.
        noise: From :func:`probe.measure.model.scene_noise`.
        limits: Thresholds; None for all of the scene's unit.

    Raises:
        ValueError: If there is only one view, or an image has fewer pixels along a side than a grid has tokens.
    """
    if views.count < 2:
        raise ValueError(
            f"make_scene: {views.count} view, expected at least 2: a query is matched in another view; load more views"
        )
    grids = sorted({layer.grid for layer in layers if layer.grid})
    return Scene(
        views=views,
        truths={grid: grid_truth(views, grid) for grid in grids},
        pairs=scene_pairs(views),
        thresholds=thresholds(views.unit) if limits is None else limits,
        noise=noise,
    )


# --- pairs of views --------------------------------------------------------------------------------------------------


def scene_pairs(views: Views) -> ScenePairs:
    """List all ordered pairs of different views of a single scene.

    Pairs with view 0 are those of the frozen pair list; the others are recorded beside them.
    """
    ordered = [(a, b) for a in range(views.count) for b in range(views.count) if a != b]
    return ScenePairs(
        pair=tuple(pair_name(views, min(pair), max(pair)) for pair in ordered),
        query_view=tuple(a for a, _ in ordered),
        key_view=tuple(b for _, b in ordered),
        direction=tuple(direction(a, b, views.n_ref) for a, b in ordered),
        rotation_deg=tuple(rotation_between(views, a, b) for a, b in ordered),
    )


def pair_name(views: Views, first: int, second: int) -> str:
    """Return the name of a pair of views of a single scene: "room-3:0-1"."""
    return f"{views.names[0]}:{first}-{second}"


def direction(query_view: int, key_view: int, n_ref: int) -> str:
    """Return a pair's direction: "ref-tgt" is a query in a reference view, keys in a target view."""
    return "-".join("ref" if view < n_ref else "tgt" for view in (query_view, key_view))


def rotation_between(views: Views, first: int, second: int) -> float:
    """Return the relative rotation of two views of a single scene, in degrees."""
    with torch.no_grad():
        return float(rotation_degrees(views.world_to_cam[0, first], views.world_to_cam[0, second]))


def pair_table(scenes: Sequence[Views], overlaps: Sequence[Sequence[float]]) -> pd.DataFrame:
    """List the pairs of view 0 with every other view, one scene after the other: the frozen pair list.

    Args:
        scenes: Batches of one scene.
        overlaps: Per scene, the overlap of view 0 with views 1, 2, ...

    Returns:
        Columns pair, scene, view_a, view_b, rotation_deg, rotation_bin, overlap.
    """
    rows = [
        (pair_name(views, 0, k), views.names[0], 0, k, rotation_between(views, 0, k), float(shares[k - 1]))
        for views, shares in zip(scenes, overlaps, strict=True)
        for k in range(1, views.count)
    ]
    table = pd.DataFrame(rows, columns=["pair", "scene", "view_a", "view_b", "rotation_deg", "overlap"])
    table.insert(5, "rotation_bin", rotation_bin(table["rotation_deg"]).astype(str))
    return table
