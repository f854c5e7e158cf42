"""Modules of a model: their names without wrappers, and what can be told from outside."""

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

_WRAPPER = re.compile(r"(^|\.)(_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module)(?=\.|$)")

_NETWORK = re.compile(r"(\w+_)?(transformer|unet|prior)(_\d+)?")


@runtime_checkable
class Pipeline(Protocol):
    """A pipeline of diffusers: its parts by name."""

    @property
    def components(self) -> Mapping[str, Any]:
        """Return the networks, tokenizers and schedulers that it is made of."""


def network_of(model: Any) -> nn.Module:
    """Return the network that denoises: the model itself, or a diffusers pipeline's transformer, unet or prior.

    Args:
        model: A module, or a pipeline.

    Raises:
        ValueError: If a pipeline has several such networks or none, or it is neither a module nor a pipeline.
    """
    if isinstance(model, nn.Module):
        return model
    kind, components = type(model).__name__, getattr(model, "components", None)
    if not isinstance(components, Mapping):
        raise ValueError(f"expected a torch.nn.Module or a pipeline of diffusers, got {kind}; give its network")
    parts = {name: part for name, part in components.items() if isinstance(part, nn.Module)}
    networks = [name for name in parts if _NETWORK.fullmatch(name)]
    if len(networks) == 1:
        return parts[networks[0]]
    if networks:
        raise ValueError(f"{kind} has several networks, {', '.join(networks)}; give one, as in pipe.{networks[0]}")
    raise ValueError(f"{kind} has no transformer, unet or prior; give one of its networks: {', '.join(parts)}")


def compute_device(model: nn.Module) -> torch.device:
    """Return where a module computes; accelerate's offloading, which keeps weights elsewhere, says so in its hooks."""
    for module in model.modules():
        place = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
        if place is not None:
            return torch.device(place)
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def clean_name(name: str) -> str:
    """Strip what torch.compile, FSDP and checkpoint wrappers add to a module's name."""
    return _WRAPPER.sub("", name).lstrip(".")


def modules_by_name(model: nn.Module) -> dict[str, nn.Module]:
    """List all modules under the names that they have in the model without wrappers (DDP, compile, FSDP, checkpoint).

    Where a wrapper and its content come to the same name, that is the content.
    """
    named = inner_model(model).named_modules(remove_duplicate=False)
    return {clean_name(name): module for name, module in named}


def inner_model(model: nn.Module) -> nn.Module:
    """Return the model inside wrappers that hold nothing else."""
    children = dict(model.named_children())
    if len(children) == 1 and (children.keys() <= {"module"} or not clean_name(next(iter(children)))):
        return inner_model(next(iter(children.values())))
    return model


def nearest_names(name: str, names: Sequence[str]) -> str:
    """List the names most like one that is unknown, for an error message."""
    same_end = [other for other in names if name and other.endswith(name)]
    near = same_end or difflib.get_close_matches(name, names, n=3, cutoff=0.0)
    return ", ".join(repr(other) for other in near[:3])


def is_compiled(module: nn.Module) -> bool:
    """Return whether calls of a module run compiled code."""
    return module._compiled_call_impl is not None or "_orig_mod" in module._modules


def may_attend(module: nn.Module) -> bool:
    """Return whether a module could call attention itself: not lists, and not PyTorch's layers without children.

    The latter may be subclasses, such as a LayerNorm that computes in float32.
    """
    if isinstance(module, nn.ModuleList | nn.ModuleDict):
        return False
    has_children = any(child is not None for child in module._modules.values())
    layer = next(kind for kind in type(module).__mro__ if kind.__module__.startswith("torch.nn.modules."))
    return has_children or layer is nn.Module
