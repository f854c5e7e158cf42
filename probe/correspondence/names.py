"""What ``--truth-source`` accepts: names with their code, importable without PyTorch."""

from collections.abc import Callable
from typing import Any

from probe.registry import Choice

SOURCES: dict[str, Callable[..., Any]] = {
    "depth": Choice("probe.correspondence.sources:load_depth", "the scenes' own depth"),
    "vggt": Choice("probe.correspondence.vggt:load_geometry", "VGGT's point maps; needs its package"),
    "tracks": Choice("probe.correspondence.sources:load_tracks", "SIFT matches that fit the cameras"),
    "module": Choice("probe.correspondence.sources:load_function", "a function of your own: module:package.function"),
}
"""From a name to its loader: what follows the name, and a device, to a function from views to points."""
