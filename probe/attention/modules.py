"""Modules of a model: their names without wrappers, and what can be told from outside."""

import difflib
import re
from collections.abc import Sequence
from typing import Any

from torch import nn

_WRAPPER = re.compile(r"(^|\.)(_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module)(?=\.|$)")


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
    """Return whether a module could call attention itself: not PyTorch's own without children (Linear, Dropout)."""
    has_children = any(child is not None for child in module._modules.values())
    return has_children or not type(module).__module__.startswith("torch.nn.modules.")


def network_of(model: Any) -> nn.Module:
    """Stand in until the branch `sampling` is merged."""
    return model
