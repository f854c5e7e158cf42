"""The CAMEO loss: supervise the attention between views with true matches, in memory linear in the tokens. Pure.

Only pairs (query token, key view) that count are computed, a chunk at a time. A chunk's gradients are taken together
with its loss, on detached leaves, so that memory per pair of tokens is freed with its chunk and nothing is computed
twice; the backward pass then only multiplies. On one CPU core, with 4 views of 32 x 32 tokens and 10 heads of 64, this
takes 1/10 of the plain formula's time and 1/92 of its memory; recomputing every chunk in the backward pass, 1/5 and
1/11 (benchmarks/alignment_cost.py). On other devices, where many small kernels cost more than idle arithmetic, all
pairs of whole scenes are computed at once, if they fit.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call
from torch.nn import functional as F

from probe.correspondence import TokenMatches
from train.alignment.mixing import MIXINGS, HeadMixing
from train.alignment.pairs import TARGETS, pair_weights

NUMBERS_AT_ONCE = {"cpu": 2**22}
"""Numbers that a chunk may have, by kind of device: on a CPU 16 MiB in float32, which stays in its last-level cache."""

NUMBERS_ELSEWHERE = 2**26
"""The same for other devices: 256 MiB in float32, so that a scene takes tens of kernels and not thousands."""

NUMBERS_OF_SCENES = 2**28
"""Numbers that a chunk of whole scenes may have on such devices: 1 GiB in float32."""


# The sum over pairs, in two ways


@dataclass(frozen=True, kw_only=True)
class _Pairs:
    """Every pair's matching token and weight in the loss, and how logits are made of queries and keys.

    ``drawn`` tells that few of the pairs have a weight.
    """

    index: Int[Tensor, "b fq m fk"]
    weight: Float[Tensor, "b fq m fk"]
    mixing: HeadMixing
    mix: nn.Module
    scale: float
    drawn: bool = False


def _plain(q: Float[Tensor, "b heads n d"], k: Float[Tensor, "b heads n d"], pairs: _Pairs) -> Float[Tensor, ""]:
    """Compute the formula literally, every pair at once: the reference."""
    dtype, views = pairs.weight.dtype, pairs.weight.shape[-1]
    scores = einsum(q.to(dtype) * pairs.scale, k.to(dtype), "b heads q d, b heads k d -> b q k heads")
    weights = {name: weight.to(dtype) for name, weight in pairs.mix.named_parameters()}
    logits = rearrange(
        functional_call(pairs.mix, weights, scores), "b (fq n) (fk m) 1 -> b fq n fk m", fq=views, fk=views
    )
    at_match = logits.log_softmax(-1).gather(-1, pairs.index[..., None])[..., 0]
    return -(pairs.weight * at_match).sum()


def _auto(q: Float[Tensor, "b heads n d"], k: Float[Tensor, "b heads n d"], pairs: _Pairs) -> Float[Tensor, ""]:
    """Compute whole scenes where kernels are few and wide; on a CPU, of few pairs or large scenes, chunks of rows."""
    wide = q.device.type != "cpu" and not pairs.drawn and _scenes_at_once(pairs, q) > 0
    return (_scenes if wide else _chunked)(q, k, pairs)


def _chunked(q: Float[Tensor, "b heads n d"], k: Float[Tensor, "b heads n d"], pairs: _Pairs) -> Float[Tensor, ""]:
    """Compute the pairs that have a weight, a chunk at a time."""
    return _summed(_sum_chunks, q, k, pairs)


def _scenes(q: Float[Tensor, "b heads n d"], k: Float[Tensor, "b heads n d"], pairs: _Pairs) -> Float[Tensor, ""]:
    """Compute every pair, some scenes at a time."""
    return _summed(_sum_scenes, q, k, pairs)


def _summed(sum_parts: Callable[..., Tensor], q: Tensor, k: Tensor, pairs: _Pairs) -> Float[Tensor, ""]:
    inputs = (q, k, *pairs.mixing.weights(pairs.mix))
    if torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
        return _WithGradients.apply(sum_parts, pairs, *inputs)
    with torch.no_grad():
        return sum_parts(pairs, inputs, None)


def _scenes_at_once(pairs: _Pairs, q: Float[Tensor, "b heads n d"]) -> int:
    """Return how many scenes a chunk may have; 0 where one is too large.

    Each pair of tokens has its logit, the logarithm of its share and their gradient at least.
    """
    return NUMBERS_OF_SCENES // (max(3, pairs.mixing.numbers * q.shape[1]) * q.shape[2] ** 2)


def _sum_scenes(pairs: _Pairs, inputs: tuple[Tensor, ...], gradients: list[Tensor] | None) -> Float[Tensor, ""]:
    """Sum the losses of scenes, and add their gradients to ``gradients``, where there are any."""
    q, k, *weights = inputs
    total, count = pairs.weight.new_zeros(()), max(1, _scenes_at_once(pairs, q))
    for first in range(0, len(q), count):
        scenes = slice(first, first + count)
        loss_of = partial(_scenes_loss, pairs.mixing.logits, pairs.scale, pairs.index[scenes], pairs.weight[scenes])
        parts = [x.detach().to(total.dtype) for x in (q[scenes], k[scenes], *weights)]
        if gradients is None:
            total += loss_of(*parts)
        else:
            loss, (of_q, of_k, *of_weights) = _value_and_gradients(loss_of, parts)
            total += loss
            gradients[0][scenes], gradients[1][scenes] = of_q, of_k
            torch._foreach_add_(gradients[2:], of_weights)
    return total


def _scenes_loss(
    logits: Callable[..., Tensor],
    scale: float,
    index: Int[Tensor, "b fq m fk"],
    weight: Float[Tensor, "b fq m fk"],
    q: Float[Tensor, "b heads n d"],
    k: Float[Tensor, "b heads n d"],
    *weights: Tensor,
) -> Float[Tensor, ""]:
    """Sum the weighted cross-entropies of all queries with the tokens of every key view.

    What enters with no key view, and matches without a weight, may be anything.
    """
    entering = rearrange(weight.ne(0).any(-1), "b fq n -> b 1 (fq n) 1")
    queries = torch.where(entering, q * scale, 0.0)
    of_scene = torch.vmap(logits, in_dims=(0, 0, *(None for _ in weights)))
    of_views = rearrange(
        of_scene(queries, k, *weights), "b (fq n) (fk m) -> b fq n fk m", fq=index.shape[1], fk=index.shape[3]
    )
    match = torch.where(weight.ne(0), index, 0)
    return -(weight * of_views.log_softmax(-1).gather(-1, match[..., None])[..., 0]).sum()


def _sum_chunks(pairs: _Pairs, inputs: tuple[Tensor, ...], gradients: list[Tensor] | None) -> Float[Tensor, ""]:
    """Sum the chunks' losses and add their gradients to ``gradients``, where there are any."""
    q, k, *weights = inputs
    total = pairs.weight.new_zeros(())
    for scene, view, rows in query_chunks(pairs.weight != 0, pairs_at_once(pairs.mixing, q)):
        keys = slice(view * pairs.index.shape[2], (view + 1) * pairs.index.shape[2])
        index, weight = (x[scene, ..., view].flatten()[rows] for x in (pairs.index, pairs.weight))
        loss_of = partial(chunk_loss, pairs.mixing.logits, pairs.scale, index, weight)
        parts = [x.detach().to(total.dtype) for x in (q[scene][:, rows], k[scene][:, keys], *weights)]
        if gradients is None:
            total += loss_of(*parts)
        else:
            loss, (of_rows, of_keys, *of_weights) = _value_and_gradients(loss_of, parts)
            total += loss
            gradients[0][scene].index_add_(1, rows, of_rows)
            gradients[1][scene][:, keys] += of_keys
            for gradient, part in zip(gradients[2:], of_weights, strict=True):
                gradient += part
    return total


def pairs_at_once(mixing: HeadMixing, q: Float[Tensor, "b heads n d"]) -> int:
    """Return how many pairs of tokens a chunk may have: this changes cost, not results."""
    return NUMBERS_AT_ONCE.get(q.device.type, NUMBERS_ELSEWHERE) // (mixing.numbers * q.shape[1])


def query_chunks(entering: Bool[Tensor, "b fq m fk"], most: int) -> Iterator[tuple[int, int, Int[Tensor, " r"]]]:
    """Yield scene, key view and some of the query tokens that enter with it, numbered over all views.

    Args:
        entering: Which query tokens enter with which key view.
        most: Pairs of tokens that a chunk may have; it has one query token at least.
    """
    rows = max(1, most // entering.shape[2])
    for scene, view in product(range(entering.shape[0]), range(entering.shape[3])):
        queries = entering[scene, ..., view].flatten().nonzero()[:, 0]
        yield from ((scene, view, part) for part in queries.split(rows) if len(part))


def chunk_loss(
    logits: Callable[..., Tensor],
    scale: float,
    index: Int[Tensor, " r"],
    weight: Float[Tensor, " r"],
    q: Float[Tensor, "heads r d"],
    k: Float[Tensor, "heads m d"],
    *weights: Tensor,
) -> Float[Tensor, ""]:
    """Sum the weighted cross-entropies of some queries with the tokens of one key view."""
    return F.cross_entropy(logits(q * scale, k, *weights), index, reduction="none") @ weight


def _value_and_gradients(
    function: Callable[..., Tensor], inputs: list[Tensor]
) -> tuple[Float[Tensor, ""], tuple[Tensor, ...]]:
    with torch.enable_grad():
        leaves = [x.requires_grad_() for x in inputs]
        value = function(*leaves)
    return value.detach(), torch.autograd.grad(value, leaves, materialize_grads=True)


class _WithGradients(torch.autograd.Function):
    """The chunks' sum. Gradients are kept from the forward pass: as large as q and k, with nothing per pair."""

    @staticmethod
    def forward(ctx: Any, sum_parts: Callable[..., Tensor], pairs: _Pairs, *inputs: Tensor) -> Float[Tensor, ""]:
        gradients = [torch.zeros_like(x, dtype=pairs.weight.dtype) for x in inputs]
        total = sum_parts(pairs, inputs, gradients)
        ctx.save_for_backward(*gradients)
        ctx.dtypes = [x.dtype for x in inputs]
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        scaled = (  # in the precision of the loss: a scaler of half precision multiplies before anything is rounded
            (outer * gradient).to(dtype) for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        )
        return None, None, *scaled


BACKENDS: dict[str, Callable[..., Float[Tensor, ""]]] = {
    "auto": _auto,
    "plain": _plain,
    "chunked": _chunked,
    "scenes": _scenes,
}


class CorrespondenceAlignment(nn.Module):
    r"""The cross-entropy between a layer's attention and the true matches (the CAMEO loss).

    .. math:: z_{qk} = \mathrm{mix}_h(s\, q_h \cdot k_h), \qquad
        L = \sum_{side} \frac{1}{|side|} \sum_{(q, v) \in side} -\log \mathrm{softmax}_{k \in v}(z_q)_{match(q, v)}

    A side holds the counted pairs (query token, key view) of all scenes with a reference query, or with a target
    query. An empty side adds 0. Where a batch is computed in parts (several processes, accumulated gradients), pass
    each part the average ``counts``: parts that divide by their own counts do not average to the batch's loss.

    Args:
        heads: Heads of the supervised layer.
        mixing: Key of :data:`MIXINGS`. ``"mlp"`` is the paper's; it may weigh heads negatively and so satisfy the loss
            while the attention stays unaligned. ``"mean"`` and ``"positive"`` cannot set one head against another, and
            take a sixth of the time.
        target: ``"per_pair"``: every counted pair has its match. ``"global_nearest"`` reproduces the release: only the
            pair whose match is the nearest of all other views has one; the rest adds 0 and counts in the mean.
        max_queries: Draw at most this many pairs of each scene and side, see :func:`pair_weights`; None takes all.
        backend: Key of :data:`BACKENDS`; ``"auto"`` takes ``"chunked"`` on a CPU, and ``"scenes"`` elsewhere where a
            scene fits.

    Attributes:
        mix: The mixing's weights, which serve training only.

    Raises:
        ValueError: If a choice is unknown, or a number is below 1.

    Source:
        CAMEO, arXiv 2512.03045; docs/references.md, "CAMEO: the loss".
    """

    def __init__(
        self,
        heads: int,
        *,
        mixing: str = "mlp",
        target: str = "per_pair",
        max_queries: int | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        _check_choice("mixing", mixing, MIXINGS)
        _check_choice("target", target, TARGETS)
        _check_choice("backend", backend, BACKENDS)
        for name, number in (("heads", heads), ("max_queries", max_queries)):
            if number is not None and number < 1:
                raise ValueError(f"CorrespondenceAlignment: {name} is {number}, expected 1 or more; raise it")
        self.heads, self.mixing, self.target = heads, mixing, target
        self.max_queries, self.backend = max_queries, backend
        self.mix = MIXINGS[mixing].build(heads)

    def forward(
        self,
        q: Float[Tensor, "b heads n d"],
        k: Float[Tensor, "b heads n d"],
        matches: TokenMatches,
        n_ref: int,
        *,
        scale: float | None = None,
        generator: torch.Generator | None = None,
        counts: Float[Tensor, "2"] | None = None,
    ) -> Float[Tensor, ""]:
        """Compute the loss, in float32 at least and outside autocast.

        Args:
            q: Queries as used by the layer, view-major, rows before columns; text and registers left out.
            k: Keys likewise.
            matches: The truth on the layer's token grid.
            n_ref: Reference views; they come first.
            scale: Factor of the logits; None for 1 / sqrt(d).
            generator: Of the draw under ``max_queries``; None for PyTorch's own.
            counts: Denominators of the two sides where a batch is computed in parts: see :func:`pair_weights`.

        Returns:
            In nats, 0 or more; 0, with zero gradients, if no pair counts.

        Raises:
            ValueError: If heads, shapes, or the number of references do not fit.
        """
        _check_heads(q, k, self.heads)
        _check_matches(q, matches, n_ref)
        dtype = torch.promote_types(torch.promote_types(q.dtype, next(self.mix.parameters()).dtype), torch.float32)
        with torch.autocast(q.device.type, enabled=False):
            weight = pair_weights(
                matches,
                n_ref,
                target=self.target,
                max_queries=self.max_queries,
                generator=generator,
                counts=counts,
                dtype=dtype,
            )
            pairs = _Pairs(
                index=matches.index.long(),
                weight=weight,
                mixing=MIXINGS[self.mixing],
                mix=self.mix,
                scale=_scale(q, scale),
                drawn=self.max_queries is not None,
            )
            return BACKENDS[self.backend](q, k, pairs)


@torch.no_grad()
def readout_matches(
    alignment: CorrespondenceAlignment,
    q: Float[Tensor, "b heads n d"],
    k: Float[Tensor, "b heads n d"],
    views_count: int,
    *,
    scale: float | None = None,
) -> Int[Tensor, "b fq n//{views_count} fk"]:
    """Return the matches by the loss's own mixed logits, which may differ from those of the attention.

    Args:
        alignment: The loss, with its mixing.
        q: Queries as used by the layer, view-major.
        k: Keys likewise.
        views_count: Views per scene.
        scale: Factor of the logits; None for 1 / sqrt(d).

    Returns:
        For every query token and key view, its own included, the key token of the highest mixed logit; the first of
        equal ones.

    Raises:
        ValueError: If heads or shapes do not fit.
    """
    _check_heads(q, k, alignment.heads)
    _check_views("readout_matches", q, views_count)
    mixing = MIXINGS[alignment.mixing]
    weights = [x.to(torch.promote_types(x.dtype, torch.float32)) for x in mixing.weights(alignment.mix)]
    every = torch.ones(len(q), views_count, q.shape[2] // views_count, views_count, dtype=torch.bool, device=q.device)
    best = torch.zeros_like(every, dtype=torch.long)
    with torch.autocast(q.device.type, enabled=False):
        for scene, view, rows in query_chunks(every, pairs_at_once(mixing, q)):
            keys = k[scene].chunk(views_count, dim=1)[view].to(weights[0].dtype)
            queries = q[scene][:, rows].to(weights[0].dtype) * _scale(q, scale)
            best[scene].flatten(0, 1)[rows, view] = mixing.logits(queries, keys, *weights).argmax(-1)
    return best


def _scale(q: Float[Tensor, "b heads n d"], scale: float | None) -> float:
    return q.shape[-1] ** -0.5 if scale is None else scale


# Checks


def _check_choice(name: str, value: str, choices: Mapping[str, Any]) -> None:
    if value not in choices:
        raise ValueError(
            f"CorrespondenceAlignment: {name} is {value!r}, expected one of {', '.join(choices)}; choose one of them"
        )


def _check_heads(q: Tensor, k: Tensor, heads: int) -> None:
    if q.ndim != 4 or q.shape != k.shape or q.shape[1] != heads:
        raise ValueError(
            f"CorrespondenceAlignment: q {tuple(q.shape)} and k {tuple(k.shape)}, expected both (scenes, {heads} heads,"
            " tokens, channels); build the loss with as many heads as the layer has"
        )


def _check_views(function: str, q: Tensor, views: int) -> None:
    if views < 1 or q.shape[2] % views:
        raise ValueError(
            f"{function}: {q.shape[2]} tokens cannot be divided into {views} views; leave out text and registers"
        )


def _check_matches(q: Tensor, matches: TokenMatches, n_ref: int) -> None:
    views = matches.index.shape[-1]
    _check_views("CorrespondenceAlignment", q, views)
    expected = (len(q), views, q.shape[2] // views, views)
    shapes = [tuple(x.shape) for x in (matches.index, matches.counted, matches.distance) if x is not None]
    if any(shape != expected for shape in shapes):
        raise ValueError(
            f"CorrespondenceAlignment: matches of shapes {shapes} for q {tuple(q.shape)}, expected all {expected} "
            "(scenes, views, tokens of a view, views); match on the layer's token grid"
        )
    if not 0 <= n_ref <= views:
        raise ValueError(f"CorrespondenceAlignment: n_ref is {n_ref}, expected 0 to {views} views; count references")
