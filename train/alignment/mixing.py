"""How the logits of a layer's heads become one logit per pair of tokens: the paper's MLP, or weights. Pure."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class WeightedHeads(nn.Module):
    """Mix heads by a weighted sum.

    Args:
        learned: The parameter.
        weights: Of the heads, computed from it.
    """

    def __init__(self, learned: Float[Tensor, " some"], weights: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.learned, self.weights = nn.Parameter(learned), weights

    def forward(self, scores: Float[Tensor, "*lead heads"]) -> Float[Tensor, "*lead 1"]:
        """Sum the heads."""
        return einsum(scores, self.weights(self.learned), "... heads, heads -> ...")[..., None]


def _equal(heads: int, learned: Float[Tensor, "1"]) -> Float[Tensor, " {heads}"]:
    return learned.expand(heads) / heads


def mean_of_heads(heads: int) -> WeightedHeads:
    """Build the mixing by the mean of heads times one learned scale, 1 at first."""
    return WeightedHeads(torch.ones(1), partial(_equal, heads))


def positive_heads(heads: int) -> WeightedHeads:
    """Build the mixing by one weight per head, the softplus of a parameter; 1 / heads at first, never negative."""
    return WeightedHeads(torch.full((heads,), math.log(math.expm1(1 / heads))), F.softplus)


def mlp_over_heads(heads: int) -> nn.Sequential:
    """Build the paper's mixing: heads -> 4 heads -> GELU -> 1, at every pair of tokens."""
    return nn.Sequential(nn.Linear(heads, 4 * heads), nn.GELU(), nn.Linear(4 * heads, 1))


def _mlp_logits(
    q: Float[Tensor, "heads r d"],
    k: Float[Tensor, "heads m d"],
    up: Float[Tensor, "hidden heads"],
    up_bias: Float[Tensor, " hidden"],
    down: Float[Tensor, "1 hidden"],
    _down_bias: Float[Tensor, "1"],
) -> Float[Tensor, "r m"]:
    """Mix with heads first: one matrix product over all pairs. The last bias cancels in the softmax: left out."""
    scores = einsum(q, k, "heads r d, heads m d -> heads r m")
    hidden = F.gelu(torch.addmm(rearrange(up_bias, "hidden -> hidden 1"), up, scores.flatten(1)))
    return rearrange(down @ hidden, "1 (r m) -> r m", r=q.shape[1])


def _weighted_logits(
    q: Float[Tensor, "heads r d"], k: Float[Tensor, "heads m d"], weights: Float[Tensor, " heads"]
) -> Float[Tensor, "r m"]:
    """Weigh the queries' heads; the sum over heads is then one product of concatenated heads."""
    queries = rearrange(q * rearrange(weights, "heads -> heads 1 1"), "heads r d -> r (heads d)")
    return queries @ rearrange(k, "heads m d -> (heads d) m")


@dataclass(frozen=True, kw_only=True)
class HeadMixing:
    """How the logits of heads become one logit.

    Attributes:
        build: Makes the module, logits [* heads] to [* 1].
        weights: Returns the tensors of that module that :attr:`logits` needs.
        logits: From scaled queries, keys and weights to mixed logits, up to a constant.
        numbers: That the loss and its gradients keep at a time, per pair of tokens and head.
    """

    build: Callable[[int], nn.Module]
    weights: Callable[[Any], tuple[Tensor, ...]]
    logits: Callable[..., Tensor]
    numbers: int


def _parameters(mix: nn.Sequential) -> tuple[Tensor, ...]:
    return tuple(mix.parameters())


def _head_weights(mix: WeightedHeads) -> tuple[Tensor, ...]:
    return (mix.weights(mix.learned),)


MIXINGS: dict[str, HeadMixing] = {
    # scores, then four hidden units before and after GELU, and as many of gradients
    "mlp": HeadMixing(build=mlp_over_heads, weights=_parameters, logits=_mlp_logits, numbers=18),
    "mean": HeadMixing(build=mean_of_heads, weights=_head_weights, logits=_weighted_logits, numbers=1),
    "positive": HeadMixing(build=positive_heads, weights=_head_weights, logits=_weighted_logits, numbers=1),
}
