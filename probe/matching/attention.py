"""From queries and keys to matches, streamed over query tokens: no attention map is ever held whole. Pure.

Axis ``rows`` holds the heads: row 0 is all heads together, rows 1.. are the single heads.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from einops import einsum, rearrange, reduce
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from probe.layers import ViewLayout
from probe.matching.tokens import WEIGHTS_AT_ONCE, Bias, image_tokens, in_order


@dataclass(frozen=True, kw_only=True)
class AttentionMatches:
    """For each query token and key view, where attention looks.

    Attributes:
        token: Key token with the highest weight in the key view; the first of equal ones.
        mass_key_view: Share of the weight, over the tokens of all views, that falls on the key view.
        mass_3x3: Share of the weight that falls on the true token and its eight neighbours; NaN without a true token.
        entropy: Of the weights of all heads together within the key view, in nats, from 0 to log(n).
        cross_entropy: Minus log of the true token's share of them, in nats; NaN without a true token.
    """

    token: Int[Tensor, "b rows fq n fk"]
    mass_key_view: Float[Tensor, "b rows fq n fk"]
    mass_3x3: Float[Tensor, "b rows fq n fk"]
    entropy: Float[Tensor, "b 1 fq n fk"]
    cross_entropy: Float[Tensor, "b 1 fq n fk"]


def attention_matches(
    q: Float[Tensor, "b heads joint d"],
    k: Float[Tensor, "b heads joint d"],
    scale: float,
    layout: ViewLayout,
    true_token: Int[Tensor, "b fq n fk"],
    *,
    bias: Bias = None,
    at_once: int = WEIGHTS_AT_ONCE,
) -> AttentionMatches:
    """Match by attention weight, as used by the model: softmax over the tokens of all views, then averaged over heads.

    Args:
        q: Queries as used by the layer.
        k: Keys as used by the layer.
        scale: Factor of the logits, 1 / sqrt(d) as a rule.
        layout: Where the views' tokens lie.
        true_token: Token of the key view that contains the true point; -1 where there is none.
        bias: What the layer's mask adds to the logits (:func:`probe.attention.masks.logit_bias`).
        at_once: Weights held at a time.

    Source:
        arXiv 2512.03045: A = softmax(q k / sqrt d), the match is the key with the highest weight in the key view.
    """
    truth = rearrange(true_token, "b fq n fk -> b (fq n) fk")
    parts, start = [], 0
    inside = image_tokens(k, layout)
    for logits in _logits(q, k, scale, inside, at_once, bias):
        rows = slice(start, start := start + logits.shape[2])
        parts.append(_read(logits, truth[:, rows], inside, layout.grid))
    joined = [torch.cat(column, dim=2) for column in zip(*parts, strict=True)]
    split = [rearrange(column, "b rows (fq n) fk -> b rows fq n fk", fq=layout.views) for column in joined]
    token, mass_key_view, mass_3x3, entropy, cross_entropy = split
    return AttentionMatches(
        token=token, mass_key_view=mass_key_view, mass_3x3=mass_3x3, entropy=entropy, cross_entropy=cross_entropy
    )


def _logits(
    q: Float[Tensor, "b heads joint d"],
    k: Float[Tensor, "b heads joint d"],
    scale: float,
    queries: Int[Tensor, " queries"],
    at_once: int,
    bias: Bias = None,
) -> Iterator[Float[Tensor, "b heads r joint"]]:
    """Yield the logits of a few of the query tokens at a time."""
    keys = k.float()
    for rows in queries.split(max(1, at_once // (q.shape[0] * q.shape[1] * k.shape[2]))):
        logits = einsum(q[:, :, rows].float() * scale, keys, "b heads r d, b heads n d -> b heads r n")
        yield logits if bias is None else logits + (bias if bias.shape[2] == 1 else bias[:, :, rows])


def _read(
    logits: Float[Tensor, "b heads r joint"],
    truth: Int[Tensor, "b r fk"],
    inside: Int[Tensor, " tokens"],
    grid: tuple[int, int],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Read match, masses, entropy and cross-entropy off the logits of some query tokens.

    Within each key view first: so a view whose weights all vanish in floating point still has a best token.
    """
    own, others = _part(logits, inside)
    own = rearrange(own, "b heads r (fk n) -> b heads r fk n", fk=truth.shape[-1])
    place, missing = truth.clamp(min=0), torch.where(truth >= 0, 0.0, torch.nan)[:, None]
    at_truth = own.gather(-1, _over_rows(place[..., None], own))[..., 0]
    weights, log_sum = _within_views(own)
    log_part, mass = _over_views(log_sum, others)
    together = _heads_together(weights, log_part)
    around, inside_grid = _neighbours(place, grid)
    near = torch.cat([_mass_of(around, inside_grid, part) for part in (together, weights)], dim=1) * mass
    cross_entropy = -(log_part + at_truth - log_sum).logsumexp(1, keepdim=True)
    token = torch.cat([first_highest(together), first_highest(weights)], dim=1)
    return token, mass, near + missing, torch.special.entr(together).sum(-1), cross_entropy + missing


def _within_views(
    own: Float[Tensor, "b heads r fk n"],
) -> tuple[Float[Tensor, "b heads r fk n"], Float[Tensor, "b heads r fk"]]:
    """Turn logits, in place, into weights that sum to 1 within each key view; and give the log of the view's sum."""
    peak = own.amax(-1)
    weights = own.sub_(peak[..., None]).exp_()  # in place: this is where the time goes
    total = reduce(weights, "b heads r fk n -> b heads r fk", "sum")
    weights.div_(total[..., None])
    return weights, peak + total.log()


def _over_views(
    log_sum: Float[Tensor, "b heads r fk"], others: Float[Tensor, "b heads r others"]
) -> tuple[Float[Tensor, "b heads r fk"], Float[Tensor, "b rows r fk"]]:
    """Return each head's part (log) of what all heads put on a key view, and the weight that falls on the key view."""
    log_mass = log_sum - torch.cat([log_sum, others], dim=-1).logsumexp(-1)[..., None]
    mass = torch.cat([reduce(log_mass.exp(), "b heads r fk -> b 1 r fk", "mean"), log_mass.exp()], dim=1)
    return log_mass.log_softmax(1), mass


def _heads_together(
    weights: Float[Tensor, "b heads r fk n"], log_part: Float[Tensor, "b heads r fk"]
) -> Float[Tensor, "b 1 r fk n"]:
    return reduce(log_part.exp()[..., None] * weights, "b heads r fk n -> b 1 r fk n", "sum")


def first_highest(weights: Float[Tensor, "*batch n"]) -> Int[Tensor, "*batch"]:
    """Return the position of the highest value along the last axis; the first of equal ones.

    On the CPU by NumPy, whose argmax is vectorised: PyTorch's takes six times as long.
    """
    if weights.device.type == "cpu":
        return torch.from_numpy(weights.detach().numpy().argmax(-1))
    return weights.argmax(-1)


def weights_within_views(
    q: Float[Tensor, "b heads joint d"],
    k: Float[Tensor, "b heads joint d"],
    scale: float,
    layout: ViewLayout,
    *,
    bias: Bias = None,
    at_once: int = WEIGHTS_AT_ONCE,
) -> Iterator[tuple[Float[Tensor, "b rows r fk n"], Float[Tensor, "b rows r fk"]]]:
    """Yield the weights that :func:`attention_matches` takes its matches from, bit for bit, a few queries at a time.

    Args:
        q: Queries as used by the layer.
        k: Keys as used by the layer.
        scale: Factor of the logits.
        layout: Where the views' tokens lie.
        bias: What the layer's mask adds to the logits.
        at_once: Weights held at a time; another number may change the last bit.

    Returns:
        For the next query tokens, view-major: weights that sum to 1 within each key view, and the share of all weight
        that falls on the key view.
    """
    inside = image_tokens(k, layout)
    for logits in _logits(q, k, scale, inside, at_once, bias):
        own, others = _part(logits, inside)
        weights, log_sum = _within_views(rearrange(own, "b heads r (fk n) -> b heads r fk n", fk=layout.views))
        log_part, mass = _over_views(log_sum, others)
        yield torch.cat([_heads_together(weights, log_part), weights], dim=1), mass


def _part(
    logits: Float[Tensor, "b heads r joint"], inside: Int[Tensor, " tokens"]
) -> tuple[Float[Tensor, "b heads r tokens"], Float[Tensor, "b heads r others"]]:
    """Part the image tokens from the others; where they are all tokens in order, the logits are not copied."""
    if in_order(inside, logits.shape[-1]):
        return logits, logits[..., :0]
    others = torch.ones_like(logits[0, 0, 0], dtype=torch.bool).index_fill(0, inside, False)
    return logits[..., inside], logits[..., others]


def _mass_of(
    tokens: Int[Tensor, "b r fk m"], counted: Bool[Tensor, "b r fk m"], weights: Float[Tensor, "b rows r fk n"]
) -> Float[Tensor, "b rows r fk"]:
    """Sum the weights of the counted ones of some tokens."""
    return (weights.gather(-1, _over_rows(tokens, weights)) * counted[:, None]).sum(-1)


def _over_rows(index: Int[Tensor, "b r fk m"], weights: Float[Tensor, "b rows r fk n"]) -> Tensor:
    return index[:, None].expand(-1, weights.shape[1], -1, -1, -1)


def _neighbours(token: Int[Tensor, "*batch"], grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the 3x3 tokens around a token, and which of them lie inside the grid."""
    h, w = grid
    offsets = torch.tensor([[i, j] for i in (-1, 0, 1) for j in (-1, 0, 1)], device=token.device)
    row, column = token[..., None] // w + offsets[:, 0], token[..., None] % w + offsets[:, 1]
    inside = (row >= 0) & (row < h) & (column >= 0) & (column < w)
    return torch.where(inside, row * w + column, 0), inside


def upsampling(grid: tuple[int, int], common: tuple[int, int]) -> Float[Tensor, "common grid"]:
    """Return the matrix that resamples a map from one token grid to another, bilinearly (half-pixel centres)."""
    basis = torch.eye(grid[0] * grid[1])
    maps = rearrange(basis, "m (h w) -> 1 m h w", h=grid[0])
    return rearrange(F.interpolate(maps, common, mode="bilinear", align_corners=False), "1 m h w -> (h w) m")


def common_grid_matches(
    q: Float[Tensor, "b heads joint d"],
    k: Float[Tensor, "b heads joint d"],
    scale: float,
    layout: ViewLayout,
    common: tuple[int, int],
    *,
    bias: Bias = None,
) -> Int[Tensor, "b 1 fq m fk"]:
    """Match on a common token grid: the head-averaged weights, resampled over queries and keys, then the argmax.

    So layers of different grids answer the same question at the same resolution (docs/references.md, "CAMEO: grids of
    different layers"). The weights of one query view are held at a time, at the layer's own resolution.
    """
    up = upsampling(layout.grid, common).to(q.device)
    positions = image_tokens(k, layout)
    tokens = []
    for queries in positions.chunk(layout.views):
        parts = [
            reduce(logits.softmax(-1)[..., positions], "b heads r n -> b r n", "mean")
            for logits in _logits(q, k, scale, queries, WEIGHTS_AT_ONCE, bias)
        ]
        maps = rearrange(torch.cat(parts, dim=1), "b n (fk m) -> b fk n m", fk=layout.views)
        tokens.append(_resampled_argmax(maps, up))
    return rearrange(torch.stack(tokens, dim=1), "b fq fk m -> b 1 fq m fk")


def _resampled_argmax(maps: Float[Tensor, "b fk n m"], up: Float[Tensor, "common n"]) -> Int[Tensor, "b fk common"]:
    fine_queries = einsum(up, maps, "q n, b fk n m -> b fk q m")
    step = max(1, WEIGHTS_AT_ONCE // (maps.shape[0] * maps.shape[1] * len(up)))
    parts = fine_queries.split(step, dim=2)
    return torch.cat([first_highest(einsum(part, up, "b fk q m, k m -> b fk q k")) for part in parts], dim=2)
