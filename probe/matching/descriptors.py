"""Matches of descriptors, such as queries with keys: nearest neighbours, and Lowe's ratio. Pure."""

from dataclasses import dataclass

import torch
from einops import einsum, rearrange, reduce
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from probe.correspondence import own_view
from probe.layers import ViewLayout
from probe.matching.tokens import WEIGHTS_AT_ONCE, image_tokens


@dataclass(frozen=True, kw_only=True)
class RatioMatches:
    """The nearest key token of each query token per key view, and Lowe's ratio of the two smallest distances."""

    token: Int[Tensor, "b fq n fk"]
    ratio: Float[Tensor, "b fq n fk"]


def ratio_matches(
    q: Float[Tensor, "b heads joint d"],
    k: Float[Tensor, "b heads joint d"],
    layout: ViewLayout,
    *,
    known: Bool[Tensor, "b fk n"] | None = None,
    at_once: int = WEIGHTS_AT_ONCE,
) -> RatioMatches:
    """Match queries to keys as descriptors: heads concatenated, squared L2, nearest and second nearest key token.

    Args:
        q: Queries as used by the layer.
        k: Keys as used by the layer.
        layout: Where the views' tokens lie.
        known: Keys that may be matched; None for all.
        at_once: Products held at a time.

    Returns:
        The nearest key token, and d1/d2 of the squared distances in [0, 1]; 1 where both distances are zero, and where
        fewer than two keys may be matched: then nothing tells how ambiguous the match is.

    Raises:
        ValueError: If a view has fewer than two tokens.

    Source:
        docs/references.md, "CAMEO: measuring protocols" (squared distances on queries and keys, as the release has
        them; one key view at a time, as probe3d has it).
    """
    token, distance = _two_nearest_keys(q, k, layout, known, at_once)
    ratio = torch.where((distance[..., 1] > 0) & distance[..., 1].isfinite(), distance[..., 0] / distance[..., 1], 1.0)
    return RatioMatches(token=token, ratio=ratio)


def cosine_matches(
    q: Float[Tensor, "b heads joint d"],
    k: Float[Tensor, "b heads joint d"],
    layout: ViewLayout,
    known: Bool[Tensor, "b fk n"],
) -> RatioMatches:
    """Match queries to keys by cosine distance: heads concatenated, nearest and second nearest of the known key tokens.

    Args:
        q: Queries as used by the layer.
        k: Keys as used by the layer.
        layout: Where the views' tokens lie.
        known: Keys that may be matched.

    Returns:
        The nearest key token, and d1/d2 of 1 - cosine, each at least 1e-9, in (0, 1]; 1 where fewer than two keys may
        be matched.

    Raises:
        ValueError: If a view has fewer than two tokens.

    Source:
        mbanani/probe3d, evals/utils/correspondence.py: ``knn_points`` and ``calculate_ratio_test``, metric "cosine".
    """
    queries, keys = (F.normalize(_descriptors(x), dim=-1)[:, None] for x in (q, k))
    token, squared = _two_nearest_keys(queries, keys, layout, known, WEIGHTS_AT_ONCE)
    distance = (squared / 2).clamp(min=1e-9)  # 1 - cosine of vectors of length one
    return RatioMatches(
        token=token, ratio=torch.where(distance[..., 1].isfinite(), distance[..., 0] / distance[..., 1], 1.0)
    )


def pooled_matches(
    q: Float[Tensor, "b heads joint d"],
    k: Float[Tensor, "b heads joint d"],
    layout: ViewLayout,
    n_ref: int,
) -> RatioMatches:
    """Match queries to keys by squared L2, heads concatenated, over the tokens of several key views together.

    One pool is the reference views, the other the target views, each without the query's own view.

    Args:
        q: Queries as used by the layer.
        k: Keys as used by the layer.
        layout: Where the views' tokens lie.
        n_ref: Number of reference views, which come first.

    Returns:
        The nearest token of each key view; and in the view of each pool that has the nearest of all, d1 / (d2 + 1e-12)
        of the pool's two smallest squared distances, infinity in the others.

    Raises:
        ValueError: If a view has fewer than two tokens.

    Source:
        cvlab-kaist/CAMEO, src/modules/attention_visualization_callback.py, ``_compute_matching_precision``.
    """
    token, distance = _two_nearest_keys(q, k, layout, None, WEIGHTS_AT_ONCE)
    parts = []
    for pool in key_pools(layout.views, n_ref, device=token.device):
        inside = torch.where(pool[..., None], distance, torch.inf)
        two = rearrange(inside, "b fq n fk two -> b fq n 1 (fk two)").topk(2, largest=False).values
        parts.append(nearest_of_pool(distance[..., 0], pool, two[..., 0] / (two[..., 1] + 1e-12)))
    return RatioMatches(token=token, ratio=torch.minimum(*parts))


def key_pools(
    views: int, n_ref: int, *, device: torch.device | str = "cpu"
) -> tuple[Bool[Tensor, "fq 1 fk"], Bool[Tensor, "fq 1 fk"]]:
    """Return which key views are pooled for the queries of each view: the references, and the targets, but its own.

    Args:
        views: Number of views.
        n_ref: Number of reference views, which come first.
        device: Where the result lies.
    """
    reference = torch.arange(views, device=device) < n_ref
    own = own_view(views, device=device)
    return reference & ~own, ~reference & ~own


def nearest_of_pool(
    distance: Float[Tensor, "b fq n fk"], pool: Bool[Tensor, "fq 1 fk"], value: Float[Tensor, "b fq n #fk"]
) -> Float[Tensor, "b fq n fk"]:
    """Keep a value in the key view of a pool that is nearest, the first of equal ones; infinity in the other views."""
    nearest = torch.where(pool, distance, torch.inf).argmin(-1, keepdim=True)
    views = torch.arange(distance.shape[-1], device=distance.device)
    return torch.where(pool & (views == nearest), value, torch.inf)


def _descriptors(x: Float[Tensor, "b heads n d"]) -> Float[Tensor, "b n c"]:
    return rearrange(x.float(), "b heads n d -> b n (heads d)")


def _two_nearest_keys(
    q: Float[Tensor, "b heads joint d"],
    k: Float[Tensor, "b heads joint d"],
    layout: ViewLayout,
    known: Bool[Tensor, "b fk n"] | None,
    at_once: int,
) -> tuple[Int[Tensor, "b fq n fk"], Float[Tensor, "b fq n fk 2"]]:
    """Return the nearest key token of each view, and the two smallest squared distances; infinity without a key.

    Raises:
        ValueError: If a view has fewer than two tokens.
    """
    n = layout.grid[0] * layout.grid[1]
    if n < 2:
        raise ValueError(f"ratio_matches: the ratio test needs two tokens per view, the grid is {layout.grid}")
    positions = image_tokens(k, layout)
    queries, keys = (_descriptors(x[:, :, positions]) for x in (q, k))
    keys = rearrange(keys, "b (fk n) c -> b fk n c", fk=layout.views)
    missing = torch.zeros_like(keys[..., 0]) if known is None else torch.where(known, 0.0, torch.inf)
    step = max(1, at_once // (q.shape[0] * layout.views * max(n, 2 * queries.shape[-1])))
    two = [_two_nearest(part, keys, missing) for part in queries.split(step, dim=1)]
    token, distance = (torch.cat(column, dim=1) for column in zip(*two, strict=True))
    split = "b (fq n) fk ... -> b fq n fk ..."
    return rearrange(token, split, fq=layout.views), rearrange(distance, split, fq=layout.views)


def _two_nearest(
    queries: Float[Tensor, "b r c"], keys: Float[Tensor, "b fk n c"], missing: Float[Tensor, "b fk n"]
) -> tuple[Int[Tensor, "b r fk"], Float[Tensor, "b r fk 2"]]:
    """Return the nearest key token and the two smallest squared distances; ``missing`` is infinity at keys left out.

    Products find the two nearest, around the mean so that they cancel less; their distances are then taken as such, so
    that equal descriptors are at distance 0 and not at that of rounding.
    """
    centre = reduce(keys, "b fk n c -> b 1 1 c", "mean")
    product = einsum(queries - centre[:, 0], keys - centre, "b r c, b fk n c -> b r fk n")
    square = (keys - centre).square().sum(-1) + missing
    near = (square[:, None] - 2 * product).topk(2, dim=-1, largest=False).indices
    scene = rearrange(torch.arange(len(keys), device=keys.device), "b -> b 1 1 1")
    view = rearrange(torch.arange(keys.shape[1], device=keys.device), "fk -> fk 1")
    exact = (rearrange(queries, "b r c -> b r 1 1 c") - keys[scene, view, near]).square().sum(-1)
    distance, order = (exact + missing[scene, view, near]).sort(dim=-1, stable=True)
    return near.gather(-1, order)[..., 0], distance
