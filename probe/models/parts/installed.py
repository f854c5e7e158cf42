"""Networks whose class comes from the user's own installation: found there, given this suite's way to be called."""

import functools
import importlib
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from probe.attention.modules import compute_device

NORMS = (nn.GroupNorm, nn.LayerNorm)
SETTINGS = "params.json"


def import_first(modules: Sequence[str], *, install: str) -> Any:
    """Import the first module that is there.

    Args:
        modules: Dotted names, the preferred first.
        install: What to do where none is, for the message.

    Raises:
        ValueError: If none can be imported; names the package that is missing.
    """
    missing: list[str] = []
    for name in modules:
        try:
            return importlib.import_module(name)
        except ImportError as error:
            missing.append(f"{name} ({error})")
    raise ValueError(f"import_first: the network's own package is not installed: {', '.join(missing)}; {install}")


@functools.cache
def joined_class(way: type[nn.Module], network: type[nn.Module]) -> type[nn.Module]:
    """Derive a class from a network of the user's package that is called in this suite's way; names of weights stay.

    Args:
        way: Overrides ``forward``.
        network: The package's class.
    """
    return type(way.__name__, (way, network), {"__module__": network.__module__})


def norms_in_float32(network: nn.Module) -> None:
    """Let norms keep their weights in single precision from the first call on, as autocast computes them.

    The packages' norms compute in single precision whatever comes, which their weights must then be in, too.
    """
    for module in network.modules():
        if isinstance(module, NORMS):
            module.register_forward_pre_hook(_to_float32)


def _to_float32(norm: nn.Module, _args: Any) -> None:
    if any(parameter.dtype != torch.float32 for parameter in norm.parameters()):
        norm.float()


def own_precision(network: nn.Module) -> AbstractContextManager[Any]:
    """Compute in a network's own precision, as the packages do: autocast, but for single precision."""
    dtype, device = next(network.parameters()).dtype, compute_device(network).type
    if dtype not in (torch.bfloat16, torch.float16) or not torch.amp.is_autocast_available(device):
        return nullcontext()
    return torch.autocast(device, dtype)
