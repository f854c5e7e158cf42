"""Tensors that FSDP shares out over processes: this process's part, the whole, and back. Others pass unchanged."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def is_shared(tensor: Tensor) -> bool:
    """Return whether a tensor's parts lie in several processes."""
    return isinstance(tensor, DTensor)


def own_parts(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Return this process's part of each tensor: the same memory, with the gradient's path."""
    with torch.enable_grad():  # the running average asks each part whether it requires a gradient
        return [one.to_local() if isinstance(one, DTensor) else one for one in tensors]


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor with the parts of all processes, which must all call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def as_shared(part: Tensor, like: Tensor) -> Tensor:
    """Return a part of this process as one of a tensor that is shared out as another one is."""
    if not isinstance(like, DTensor):
        return part
    return DTensor.from_local(
        part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def shared_out(tensor: Tensor, like: Tensor) -> Tensor:
    """Share a whole tensor out as another one is; every process holds the whole, and keeps its part."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def gathered(tree: Any, *, keep: bool) -> Any:
    """Return nested dictionaries and lists with every shared tensor whole, in the processor's memory.

    Tensors are made whole one after another, so that a device never holds more than one of them.

    Args:
        tree: Of all processes, which must all call this.
        keep: Whether this process wants the result; elsewhere the tensors are empty.
    """
    if isinstance(tree, DTensor):
        full = tree.full_tensor().detach()
        return full.cpu() if keep else full.new_empty(0)
    if isinstance(tree, dict):
        return {name: gathered(value, keep=keep) for name, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(gathered(value, keep=keep) for value in tree)
    return tree
