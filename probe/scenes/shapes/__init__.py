"""Procedural rooms of textured solids, ray cast in closed form: exact depth, point maps and visibility, from a seed."""

from probe.scenes.shapes.moving import CLIPS, make_clip
from probe.scenes.shapes.rooms import (
    FINE_OCTAVES,
    OBJECTS,
    ROTATION_BINS,
    TILE,
    WAVES,
    WORLDS,
    Difficulty,
    World,
    draw_cameras,
    draw_rotations,
    draw_shapes,
    keep_inside,
    make_views,
)

__all__ = [
    "CLIPS",
    "FINE_OCTAVES",
    "OBJECTS",
    "ROTATION_BINS",
    "TILE",
    "WAVES",
    "WORLDS",
    "Difficulty",
    "World",
    "draw_cameras",
    "draw_rotations",
    "draw_shapes",
    "keep_inside",
    "make_clip",
    "make_views",
]
