"""Procedural rooms of textured solids, ray cast in closed form: exact depth, point maps and visibility, from a seed."""

from probe.scenes.shapes.rooms import (
    OBJECTS,
    OCTAVES,
    ROTATION_BINS,
    TILE,
    WAVES,
    Difficulty,
    draw_cameras,
    draw_rotations,
    draw_shapes,
    keep_inside,
    make_views,
)

__all__ = [
    "OBJECTS",
    "OCTAVES",
    "ROTATION_BINS",
    "TILE",
    "WAVES",
    "Difficulty",
    "draw_cameras",
    "draw_rotations",
    "draw_shapes",
    "keep_inside",
    "make_views",
]
