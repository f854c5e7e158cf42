"""Files and procedural rooms to :class:`probe.views.Views`: one file per data set, one visible dict."""

from typing import TYPE_CHECKING

from probe.registry import lazy_names
from probe.scenes.names import DATA_SETS, GENERATED, SCENES, VIDEOS, Difficulty

if TYPE_CHECKING:
    from probe.scenes.opening import (
        Request,
        SceneList,
        choose,
        find_recordings,
        open_data_set,
        open_scenes,
        open_shapes,
    )

__all__ = [
    "DATA_SETS",
    "GENERATED",
    "SCENES",
    "VIDEOS",
    "Difficulty",
    "Request",
    "SceneList",
    "choose",
    "find_recordings",
    "open_data_set",
    "open_scenes",
    "open_shapes",
]
__getattr__ = lazy_names(__name__, __all__, "opening")
