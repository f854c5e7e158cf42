"""Which pairs of query token and key view enter the CAMEO loss, and with which weight. Pure functions."""

from collections.abc import Callable

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probe.correspondence import TokenMatches


def _per_pair(matches: TokenMatches) -> Bool[Tensor, "b fq n fk"]:
    return matches.counted


def _global_nearest(matches: TokenMatches) -> Bool[Tensor, "b fq n fk"]:
    """Keep, of each query token's pairs, the one of the view with the nearest match, whether that counts or not."""
    if matches.distance is None:
        raise ValueError(
            "CorrespondenceAlignment: matches.distance is None, target='global_nearest' expects distances to pick the "
            "nearest view by; take matches from match_tokens, or target='per_pair'"
        )
    hidden = _own_view(matches.counted.shape[1], matches.counted.device) | matches.distance.isnan()
    nearest = matches.distance.masked_fill(hidden, torch.inf).argmin(-1, keepdim=True)
    views = torch.arange(matches.counted.shape[-1], device=matches.counted.device)
    return matches.counted & (views == nearest)


TARGETS: dict[str, Callable[[TokenMatches], Bool[Tensor, "b fq n fk"]]] = {
    "per_pair": _per_pair,
    "global_nearest": _global_nearest,
}


def _own_view(views: int, device: torch.device) -> Bool[Tensor, "fq 1 fk"]:
    return rearrange(torch.eye(views, dtype=torch.bool, device=device), "fq fk -> fq 1 fk")


def pair_weights(
    matches: TokenMatches,
    n_ref: int,
    *,
    target: str = "per_pair",
    max_queries: int | None = None,
    generator: torch.Generator | None = None,
    counts: Float[Tensor, "2"] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "b fq n fk"]:
    """Return the weight of every pair (query token, key view) in the loss; pairs of weight 0 need not be computed.

    The weighted sum over pairs is the mean over counted pairs with a reference query plus that with a target query.

    Args:
        matches: The truth. A query's own view never counts.
        n_ref: Reference views; they come first.
        target: Key of :data:`TARGETS`. With ``"global_nearest"`` a counted pair has a weight only if its view has the
            query's nearest match of all, but counts in the mean's denominator without.
        max_queries: Of each scene and side draw at most this many pairs that have a weight, without replacement, all
            equally likely, and give them the weight of all: the expectation of the sum, and the sum of a side's
            weights in a scene, are those of all pairs.
        generator: Where the draw comes from; None for PyTorch's own.
        counts: Divide the sums of the reference and the target side by these instead of by the pairs counted here: the
            average counts of the parts that share a batch, so that the parts' losses average to the batch's.
        dtype: Of the weights.

    Raises:
        ValueError: If ``"global_nearest"`` has no distances.

    Source:
        CAMEO, arXiv 2512.03045, the alignment loss; "global_nearest": docs/references.md, "CAMEO: what the release does
        otherwise".
    """
    other = ~_own_view(matches.counted.shape[1], matches.counted.device)
    counted, entering = matches.counted & other, TARGETS[target](matches) & other
    sides = (slice(None, n_ref), slice(n_ref, None))
    numbers = [counted[:, side].sum() for side in sides] if counts is None else list(counts)
    parts = [
        _side(number, entering[:, side], max_queries, generator, dtype)
        for side, number in zip(sides, numbers, strict=True)
    ]
    return torch.cat(parts, dim=1)


def _side(
    counted: Int[Tensor, ""] | Float[Tensor, ""],
    entering: Bool[Tensor, "b side n fk"],
    most: int | None,
    generator: torch.Generator | None,
    dtype: torch.dtype,
) -> Float[Tensor, "b side n fk"]:
    """Weigh the pairs whose queries lie on one side, references or targets; without a counted pair all weigh 0."""
    share = 1 / torch.where(counted > 0, counted, 1).to(dtype)
    if most is None:
        return entering * share
    drawn = _draw(entering, most, generator)
    per_scene = [x.flatten(1).sum(1).clamp(min=1).to(dtype) for x in (entering, drawn)]
    return drawn * rearrange(share * per_scene[0] / per_scene[1], "b -> b 1 1 1")


def _draw(
    pairs: Bool[Tensor, "b side n fk"], most: int, generator: torch.Generator | None
) -> Bool[Tensor, "b side n fk"]:
    device = pairs.device if generator is None else generator.device
    lots = torch.rand(pairs.shape, generator=generator, device=device).to(pairs.device)
    lots = lots.masked_fill(~pairs, -1).flatten(1)
    first = lots.topk(min(most, lots.shape[1]), dim=1).indices
    return torch.zeros_like(lots, dtype=torch.bool).scatter_(1, first, True).view_as(pairs) & pairs
