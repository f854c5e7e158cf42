"""Muon whose Newton-Schulz iterations run on all matrices of one shape at once."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Muon

from train.loop.sharing import as_shared, own_parts, shared_out, whole

SIZE = 0.2
"""Root mean square of an AdamW update, which Muon's updates are scaled to.

Source: arXiv 2502.16982, equation 4.
"""

TOGETHER = 2**26
"""Values of the matrices that are orthogonalised at once: of large ones there is no gain, and much memory."""


class BatchedMuon(Muon):
    """Take the steps of ``torch.optim.Muon`` in a fifth of its time where there are many small matrices.

    PyTorch's own computes one matrix after another, and for small ones the calls cost more than the arithmetic. State
    and checkpoints are PyTorch's; updates agree to rounding. Of a matrix that processes share out, each makes the whole
    update and keeps its part.

    Args:
        matrices: To optimise.
        lr: Learning rate, before each matrix's update is matched to the size of AdamW's.
        weight_decay: Decoupled, per unit of learning rate.

    Source:
        Muon: Jordan et al. 2024, as torch.optim.Muon with ``adjust_lr_fn="match_rms_adamw"``.
    """

    def __init__(self, matrices: Sequence[Tensor], lr: float, weight_decay: float) -> None:
        super().__init__(matrices, lr, weight_decay, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update the matrices that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._update(group)
        return loss

    def _update(self, group: dict[str, Any]) -> None:
        matrices: list[Tensor] = []
        gradients: list[Tensor] = []
        momenta: list[Tensor] = []
        self._init_group(group, matrices, gradients, momenta)
        if not matrices:
            return
        parts, gradients, momenta = own_parts(matrices), own_parts(gradients), own_parts(momenta)
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        updates = torch._foreach_lerp(gradients, momenta, group["momentum"])
        torch._foreach_mul_(parts, 1 - float(group["lr"]) * group["weight_decay"])
        for numbers in _by_shape(matrices):
            together = torch.stack([whole(as_shared(updates[number], matrices[number])) for number in numbers])
            direction = orthogonalise(together, group["ns_coefficients"], group["ns_steps"], group["eps"])
            rate = float(group["lr"]) * SIZE * math.sqrt(max(together.shape[1:]))
            pairs = zip(direction.to(together.dtype), numbers, strict=True)
            own = own_parts(shared_out(one, matrices[number]) for one, number in pairs)
            torch._foreach_add_([parts[number] for number in numbers], own, alpha=-rate)


def _by_shape(matrices: Sequence[Tensor]) -> list[list[int]]:
    """Return the positions of matrices of one shape, together as many as :data:`TOGETHER` allows."""
    groups: dict[torch.Size, list[int]] = defaultdict(list)
    for number, matrix in enumerate(matrices):
        groups[matrix.shape].append(number)
    return [
        group[first : first + most]
        for shape, group in groups.items()
        for most in [max(1, TOGETHER // shape.numel())]
        for first in range(0, len(group), most)
    ]


def orthogonalise(
    matrices: Float[Tensor, "b rows columns"], coefficients: tuple[float, float, float], steps: int, least: float
) -> Float[Tensor, "b rows columns"]:
    """Bring the singular values of matrices near 1 by Newton-Schulz iterations in bfloat16.

    Args:
        matrices: Of one shape.
        coefficients: Of the quintic polynomial.
        steps: Number of iterations.
        least: Smallest norm that a matrix is divided by.

    Source:
        ``_zeropower_via_newtonschulz`` of torch.optim, for one matrix.
    """
    linear, cubic, quintic = coefficients
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.bfloat16().mT if tall else matrices.bfloat16()
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=least)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=cubic, alpha=quintic), x, beta=linear)
    return x.mT if tall else x
