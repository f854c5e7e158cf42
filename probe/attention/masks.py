"""Masks: what a call adds to its logits."""

import torch
from jaxtyping import Float
from torch import Tensor

from probe.attention.call import Call

LEAST = -9e3
"""Added masks at most this hide a key, such as -1e4 (rounded in half precision) of diffusers."""
HIDDEN = -1e30
"""Added to the logit of a key that cannot be attended: its weight is 0, and a sum of such logits stays a number."""


def logit_bias(call: Call) -> Float[Tensor, "#b #heads #n m"] | None:
    """Return what a call adds to its logits.

    Args:
        call: With a mask of True where a key takes part, or of what is added; with four axes, or fewer in front.

    Returns:
        :data:`HIDDEN` where a key is left out; None where nothing is added to any logit, as by a mask that is all True.
    """
    bias = None if call.mask is None else _of_mask(call.mask)
    if call.causal:
        later = torch.ones(call.q.shape[2], call.k.shape[2], dtype=torch.bool, device=call.q.device).triu(1)
        bias = (torch.zeros((), device=later.device) if bias is None else bias).masked_fill(later, HIDDEN)
    if bias is None or not bias.any():
        return None
    return bias.reshape([1] * (4 - bias.ndim) + list(bias.shape))


def _of_mask(mask: Tensor) -> Tensor:
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, HIDDEN)
    return mask.float().masked_fill(mask <= LEAST, HIDDEN)
