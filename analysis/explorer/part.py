"""A probe run -> the match explorer's part of its page. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from analysis.explorer.exact import LOGIT_ERROR
from analysis.explorer.payload import BUDGET, CELLS, START_RULE, layer_rule, payload, start_of
from analysis.explorer.reading import Explored, shared_scenes
from analysis.explorer.still import Still, stills
from analysis.probing import tables
from analysis.words import listing, metric_words
from probe.records import parse_grid

PROTOCOLS = (
    "By attention the match is the token of highest weight, and tokens count whose point the other view really shows. "
    "By ratio it is the nearest key of the concatenated heads, and the quarter with the lowest ratio counts; it has no "
    "weights, so the attention stays on show."
)


MARKS = " Ring: true point. Blue dot: match, right. Orange cross: match, wrong."
EXACT_WORDS = (
    "Attention is computed in this page at every token, from queries and keys rounded so that logits are off by "
    f"{LOGIT_ERROR:g}, root mean square; matches and verdicts, of heads too, are the run's own. Where two "
    "tokens all but tie, the brightest may be the other."
)
BEFORE = "This run was made before queries and keys were kept: probe again to see attention at every token."


@dataclass(frozen=True, kw_only=True)
class Part:
    """The content of the explorer's section.

    Attributes:
        payload: What its script reads.
        images: Numbers of the scenes' images among the page's.
        views: Names of the scenes and the indexes of the views whose images it needs.
        right: When a match is right.
        opening: Why it does not open on the selected layer, in a sentence; empty where it does.
        stills: Its still picture.
        caption: Of the still picture.
        limits: What the data holds, in words.
        dropped: What was left out, in words.
    """

    payload: dict[str, Any]
    images: tuple[int, ...]
    views: tuple[tuple[str, int], ...]
    right: str
    opening: str
    stills: tuple[Still, ...]
    caption: str
    limits: str
    dropped: str


def explorer_part(models: Sequence[Explored], budget: int = BUDGET) -> Part:
    """Put together the explorer's section.

    Args:
        models: The page's own run first, then those beside it.
        budget: Characters of packed data.
    """
    first, scenes = models[0], shared_scenes(models)
    packed = payload(models, budget)
    start = start_of(first, scenes, [n for n, there in enumerate(packed["scenes"]) if there])
    numbers = {name.removeprefix("image/"): n for n, name in enumerate(first.run.images)}
    shown = [scene for scene, there in zip(scenes, packed["scenes"], strict=True) if there]
    rules = (layer_rule(first), START_RULE, PROTOCOLS) if packed["judged"] else ()
    return Part(
        payload=packed,
        images=tuple(numbers[scene] for scene in scenes),
        views=tuple((scene, int(view)) for scene in shown for view in first.get("views", "-", scene)),
        right=metric_words(first.run.metric) if packed["judged"] else "",
        opening="" if first.opens_on_selected else layer_rule(first),
        stills=stills(first, scenes, start),
        caption=(
            f"{first.run.model}, layer {start.layer}, all heads together, t = {packed['start']['t']}. Red: "
            f"attention.{MARKS if packed['judged'] else ' White ring: match.'}"
        ),
        limits=" ".join([*rules, _limits(first, scenes[0]), packed["held"]]),
        dropped=packed["dropped"],
    )


def _limits(model: Explored, scene: str) -> str:
    views, all_views = len(model.get("views", "-", scene)), len(model.run.images[f"image/{scene}"])
    thinned = [
        grid
        for grid in dict.fromkeys(tables.layer_grids(model.run).values())
        if ("asked", grid, scene) in model.tensors and len(model.get("asked", grid, scene)) < _tokens(grid)
    ]
    pooled = [layer for layer in model.layers if not model.is_exact(layer, scene)]
    parts = [EXACT_WORDS] if len(pooled) < len(model.layers) else [BEFORE] if model.version == 1 else []
    if pooled:
        parts.append(f"That of layers {listing(sorted(pooled))} is pooled to at most {CELLS} x {CELLS} cells a view.")
    if thinned:
        parts.append(f"Of grids of {listing(thinned)} only 16 x 16 tokens a view can be queries, so counts are theirs.")
    if views < all_views:
        parts.append(f"{views} of {all_views} views are shown.")
    return " ".join(parts)


def _tokens(grid: str) -> int:
    h, w = parse_grid(grid)
    return h * w
