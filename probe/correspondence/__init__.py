"""True matches from geometry: which token of another view shows the same point of the scene."""

from typing import TYPE_CHECKING

from probe.correspondence.names import SOURCES
from probe.registry import lazy_names

if TYPE_CHECKING:
    from probe.correspondence.grid import own_view, token_centres, token_of, token_points
    from probe.correspondence.hidden import query_causes
    from probe.correspondence.rules import TokenMatches, match_tokens, match_views, visible_tokens
    from probe.correspondence.tokens import TokenProjections, project_tokens

__all__ = [
    "SOURCES",
    "TokenMatches",
    "TokenProjections",
    "match_tokens",
    "match_views",
    "own_view",
    "project_tokens",
    "query_causes",
    "token_centres",
    "token_of",
    "token_points",
    "visible_tokens",
]
__getattr__ = lazy_names(__name__, __all__, "grid", "tokens", "rules", "hidden")
