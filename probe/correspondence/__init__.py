"""True matches from geometry: which token of another view shows the same point of the scene. Pure functions."""

from probe.correspondence.tokens import (
    DEPTH_TOLERANCE,
    DISTANCES_AT_ONCE,
    RESIZE,
    TokenMatches,
    TokenProjections,
    match_tokens,
    project_tokens,
    token_centres,
    token_of,
    token_points,
    visible_tokens,
)

__all__ = [
    "DEPTH_TOLERANCE",
    "DISTANCES_AT_ONCE",
    "RESIZE",
    "TokenMatches",
    "TokenProjections",
    "match_tokens",
    "project_tokens",
    "token_centres",
    "token_of",
    "token_points",
    "visible_tokens",
]
