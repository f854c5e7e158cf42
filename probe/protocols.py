"""Measuring protocols, named and versioned, and the frozen list of view pairs they are applied to."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch

from probe.geometry import rotation_degrees
from probe.metrics import Threshold
from probe.records import rotation_bin
from probe.views import Views

COMMON_GRID = "/common-grid"  # suffix of the protocol of rows whose maps were resampled to one grid


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Say how matches are made, which queries count, and what is reported.

    Attributes:
        name: With its version; a change of any rule needs a new version.
        rule: In a sentence.
        direction: Of the pairs that layers are ranked by: query side, then key side.
        select_by: The metric that layers are ranked by.
        coverages: Shares of the queries, best ratio first, of which the precision is reported; empty without a ratio.
        keep: Share of the queries kept for the headline metrics, and at most ``most`` of them.
        most: See ``keep``.
    """

    name: str
    rule: str
    direction: str = "tgt-ref"
    select_by: str = "precision@5%"
    coverages: tuple[float, ...] = ()
    keep: float = 1.0
    most: int | None = None


PROTOCOLS = {
    "attention-v1": Protocol(
        name="attention-v1",
        rule="attention weights as used, averaged over heads, restricted to the key view, argmax; over all query "
        "tokens whose point is visible in the key view (depth test)",
    ),
    "ratio-v1": Protocol(
        name="ratio-v1",
        rule="heads concatenated, query against key, squared L2, ratio of the two nearest; over the quarter of the "
        "query tokens with the lowest ratio, at most 1000 per view pair, visible or not; a match of an unseen point is "
        "wrong unless it lands where the point projects",
        coverages=(0.1, 0.25, 0.5, 0.75, 1.0),
        keep=0.25,
        most=1000,
    ),
}


def thresholds(unit: str | None) -> tuple[Threshold, ...]:
    """Give the thresholds of both protocols: in the image, in tokens, and in 3D.

    Args:
        unit: "m" for metric scenes: 1 cm to 50 cm; None: shares of the scene's size.
    """
    image = [Threshold(name=f"precision@{share}%", kind="image", value=share / 100) for share in (2, 5, 10)]
    token = [Threshold(name="precision@1token", kind="token", value=1.0)]
    if unit == "m":
        metres = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
        return (
            *image,
            *token,
            *(Threshold(name=f"precision@{value}m", kind="metric", value=value) for value in metres),
        )
    shares = (1, 2, 5, 10)
    return (*image, *token, *(Threshold(name=f"precision@{s}%scene", kind="scene", value=s / 100) for s in shares))


def direction(query_view: int, key_view: int, n_ref: int) -> str:
    """Name a pair's direction: "ref-tgt" is a query in a reference view, keys in a target view."""
    return "-".join("ref" if view < n_ref else "tgt" for view in (query_view, key_view))


def pair_table(scenes: Sequence[Views], overlaps: Sequence[Sequence[float]]) -> pd.DataFrame:
    """List the pairs of view 0 with every other view, one scene after the other.

    Args:
        scenes: Batches of one scene.
        overlaps: Per scene, the overlap of view 0 with views 1, 2, ...

    Returns:
        Columns pair, scene, view_a, view_b, rotation_deg, rotation_bin, overlap.
    """
    rows = [
        (
            f"{views.names[0]}:0-{other}",
            views.names[0],
            0,
            other,
            rotation_between(views, 0, other),
            float(shares[other - 1]),
        )
        for views, shares in zip(scenes, overlaps, strict=True)
        for other in range(1, views.count)
    ]
    table = pd.DataFrame(rows, columns=["pair", "scene", "view_a", "view_b", "rotation_deg", "overlap"])
    table.insert(5, "rotation_bin", rotation_bin(table["rotation_deg"]).astype(str))
    return table


def rotation_between(views: Views, first: int, second: int) -> float:
    """Measure the relative rotation of two views of a single scene, in degrees."""
    with torch.no_grad():
        return float(rotation_degrees(views.world_to_cam[0, first], views.world_to_cam[0, second]))
