"""A module's forward while a tap is open: put in place, taken away, and what else was put on top of it meanwhile."""

import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

Handle = Callable[[str, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
"""What runs in place of a forward: called with the module's name, its own forward and the arguments."""

SLOTS = ("forward", "_old_forward")
"""Where a module keeps its forward; the second where accelerate's hooks stand in the first."""


class WrappedForward:
    """Stand in for a module's forward while a tap is open.

    Attributes:
        name: The module's name.
        handle: Called in its place while open.
        original: The module's own forward.
        previous: What the slot held; None if the forward is the class's.
        is_open: Whether the tap is open; a closed one that others still hold calls the original.
    """

    def __init__(self, name: str, handle: Handle, original: Callable[..., Any], previous: Any) -> None:
        functools.update_wrapper(self, original)
        self.name, self.original, self.previous, self.is_open = name, original, previous, True
        # a compiled function that calls the model hands over to plain Python here
        hidden = name == "" and "torch._dynamo" in sys.modules
        self.handle = torch.compiler.disable(handle) if hidden else handle

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Hand over to the tap, or to the original once it is closed."""
        if not self.is_open:
            return self.original(*args, **kwargs)
        return self.handle(self.name, self.original, args, kwargs)

    def __deepcopy__(self, memo: Any) -> "WrappedForward":
        raise RuntimeError(
            "AttentionTap: a copy of a tapped model would run the original; copy it outside the with block"
        )

    def __reduce__(self) -> Any:
        raise RuntimeError(
            "AttentionTap: a tapped model cannot be pickled; save model.state_dict(), or save it outside the with block"
        )


def wrap(name: str, module: nn.Module, handle: Handle) -> WrappedForward:
    """Put a wrapped forward in place, below accelerate's hooks, which may be taken off and put on again meanwhile."""
    slot = "_old_forward" if "_old_forward" in vars(module) else "forward"
    forward = WrappedForward(name, handle, getattr(module, slot), vars(module).get(slot))
    vars(module)[slot] = forward
    return forward


def unwrap(module: nn.Module, forward: WrappedForward) -> str | None:
    """Take a wrapped forward away.

    Returns:
        None, or the cause if it is no longer where it was put.
    """
    forward.is_open = False
    slot = next((slot for slot in SLOTS if vars(module).get(slot) is forward), None)
    if slot is None:
        return _cause(module)
    previous = forward.previous
    while isinstance(previous, WrappedForward) and not previous.is_open:
        previous = previous.previous  # that tap was closed before this one
    if previous is None and slot == "forward":
        del vars(module)["forward"]
    else:
        vars(module)[slot] = forward.original if previous is None else previous
    return None


def hook_names(module: nn.Module, *, stateful: bool = False) -> Iterator[str]:
    """Name diffusers' and accelerate's hooks on a module.

    Args:
        module: The module.
        stateful: Only hooks that carry something from step to step, as caches do.
    """
    for name, hook in getattr(getattr(module, "_diffusers_hook", None), "hooks", {}).items():
        if not stateful or getattr(hook, "_is_stateful", False):
            yield name
    if not stateful and hasattr(module, "_hf_hook"):
        yield type(module._hf_hook).__name__


def _cause(module: nn.Module) -> str:
    if isinstance(vars(module).get("forward"), WrappedForward):
        return "another tap was opened later; close taps in reverse order"
    hooks = ", ".join(hook_names(module))
    return (
        f"by a hook ({hooks}) put on or taken off; " if hooks else "by other code; "
    ) + "do that before the tap is opened"
