"""Where true points come from: the sensor, a network, tracks, or a function of the user's own.

A source is a function: views to the world point of every pixel and where it is known, in the world of the views'
cameras. :func:`probe.scenes.recordings.with_geometry` puts its answer in place of what the scene has; a scene without
depth of its own has ``valid`` false everywhere. ``python -m probe.truth_quality`` compares sources.
"""

from typing import Any

import torch
from torch import Tensor

from probe.correspondence.names import SOURCES
from probe.correspondence.tracks import track_geometry
from probe.models.custom import current_directory, user_function
from probe.scenes.recordings import Geometry, GeometrySource
from probe.views import Views

HOW = "a function of Views that returns (point_map [b f 3 height width], valid [b f height width])"


def own_depth(views: Views) -> Geometry:
    """Return the scene's own points: the sensor's depth, or the renderer's."""
    return views.point_map, views.valid


def load_function(source: str, device: torch.device) -> GeometrySource:
    """Import a function of the user's own, also from the current directory; it chooses its device itself.

    What goes wrong inside it is not caught: its traceback says where.

    Args:
        source: Dotted path, package.function.
        device: Not used.

    Raises:
        ValueError: If there is no such function; or, when called, if it gives something else than a geometry.
    """
    with current_directory():
        function = user_function(source, how=f"give module:package.function, {HOW}")

    def ask(views: Views) -> Geometry:
        with current_directory():
            answer = function(views)
        return _checked(answer, views, source)

    return ask


def _checked(answer: Any, views: Views, source: str) -> Geometry:
    both = answer if isinstance(answer, tuple) else (answer,)
    expected = [tuple(views.point_map.shape), tuple(views.valid.shape)]
    shapes = [tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__ for part in both]
    if shapes != expected:
        raise ValueError(f"module:{source} returned {shapes}, expected {expected}: {HOW}")
    return both[0].to(views.point_map), both[1].to(views.valid)


def load_depth(source: str, device: torch.device) -> GeometrySource:
    """Return the scenes' own points as a source, which takes no folder."""
    return _without_folder("depth", source, own_depth)


def load_tracks(source: str, device: torch.device) -> GeometrySource:
    """Return triangulated SIFT tracks as a source, which takes no folder."""
    return _without_folder("tracks", source, track_geometry)


def _without_folder(name: str, folder: str, source: GeometrySource) -> GeometrySource:
    if folder:
        raise ValueError(f"{name}:{folder}: {name} takes no folder; give its name alone")
    return source


def open_source(spec: str, device: torch.device) -> GeometrySource:
    """Open a source named as on the command line: depth, tracks, vggt[:FOLDER_OR_HUB_ID], module:package.function.

    Raises:
        ValueError: If the name is unknown, or what it needs is not at hand.
    """
    name, _, source = spec.partition(":")
    if name not in SOURCES:
        raise ValueError(f"{name!r} is unknown; choose from {', '.join(SOURCES)}")
    opened: GeometrySource = SOURCES[name](source, device)
    return opened
