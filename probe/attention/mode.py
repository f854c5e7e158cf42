"""The mode that a tap opens around watched modules: it hands the calls that matter to the tap."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from probe.attention.call import FUSED, SOFTMAX, multi_head_body
from probe.attention.explicit.trace import Trace
from probe.attention.steps import Frames

WATCHED = SOFTMAX | {FUSED, F.multi_head_attention_forward}
"""Functions of PyTorch that a tap looks at."""


@dataclass(frozen=True, eq=False)
class Watch:
    """What a mode needs of a tap.

    Attributes:
        frames: The running modules.
        modules: All modules by name.
        attend: Runs an attention call, recorded or edited: from the kernel's name and its arguments, and what was read
            where it is not the fused one.
        note_softmax: Notes a softmax that is not read, by its arguments.
    """

    frames: Frames
    modules: Mapping[str, nn.Module]
    attend: Callable[..., Any]
    note_softmax: Callable[..., None]


class Mode(TorchFunctionMode):
    """Hand attention calls to the tap; a mode is suspended while it handles a function.

    Args:
        watch: Of the tap.
        kernel: What calls of the fused attention are recorded as.
        heads: Number of heads that are known to be folded into the batch of explicit products; 0 if it is not known.
    """

    def __init__(self, watch: Watch, kernel: str = FUSED.__name__, heads: int = 0) -> None:
        super().__init__()
        self.watch, self.kernel, self.heads = watch, kernel, heads

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, frames = kwargs or {}, self.watch.frames
        if (func not in WATCHED and frames.trace is None) or frames.running[-1].in_kernel:  # most functions end here
            return func(*args, **kwargs)
        if func is FUSED:
            return self.watch.attend(self.kernel, args, kwargs)
        if func is F.multi_head_attention_forward:
            with Mode(self.watch, func.__name__, kwargs.get("num_heads") or args[4]):
                return multi_head_body()(*args, **kwargs)
        if frames.trace is not None:
            return self._follow(frames.trace, func, args, kwargs)
        self.watch.note_softmax(args, kwargs)
        return func(*args, **kwargs)

    def _follow(self, trace: Trace, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Run a function, as an attention call where it weights values by an explicit softmax."""
        names = [frame.name for frame in reversed(self.watch.frames.running)]
        modules = [self.watch.modules[name] for name in names]
        weighted = trace.weighted(function, tuple(args), kwargs, modules, self.heads)
        if weighted is not None:
            return self.watch.attend(weighted.name, args, kwargs, weighted)
        output = function(*args, **kwargs)
        trace.note(function, tuple(args), kwargs, output, names[0])
        return output
