"""Running a model to find its layers: how it is called, on which device, and what is left as it was."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from probe.attention.call import Call
from probe.attention.explicit.trace import NAME as SOFTMAX_NAME
from probe.attention.modules import compute_device, inner_model
from probe.attention.tap import Tap
from probe.layers.counting import Inputs, Key


@dataclass(frozen=True, eq=False, kw_only=True)
class Calls:
    """What was seen of the calls of one forward.

    Attributes:
        seen: What was looked at, by call.
        softmaxes: Shapes of explicit softmaxes that were not read, by module.
        unread: Why they were not, where that was tried.
        explicit: Calls that were read off an explicit softmax.
    """

    seen: dict[Key, Any]
    softmaxes: dict[str, tuple[int, ...]]
    unread: dict[str, str]
    explicit: frozenset[Key]


@dataclass(frozen=True, eq=False, kw_only=True)
class Network:
    """A network that is run to find its layers.

    Attributes:
        model: The network.
        explicit: Whether explicit softmaxes are read.
    """

    model: nn.Module
    explicit: bool

    @property
    def device(self) -> torch.device:
        """Return where it computes."""
        return compute_device(self.model)

    def calls(self, inputs: Inputs, look: Callable[[Call], Any], edit: Any = None) -> Calls:
        """Run the network and look at its calls.

        Args:
            inputs: Arguments of its forward by name.
            look: What to keep of each call.
            edit: What to do in place of each call.

        Raises:
            ValueError: If the forward does not take such arguments.
        """
        seen: dict[Key, Any] = {}
        by_softmax: set[Key] = set()

        def hear(call: Call) -> None:
            seen[call.name, call.nth] = look(call)
            if call.kernel == SOFTMAX_NAME:
                by_softmax.add((call.name, call.nth))

        args, kwargs = _arguments(self.model, {name: _moved(value, self.device) for name, value in inputs.items()})
        tap = Tap(self.model, [""], edit=edit, on_call=hear, explicit=self.explicit)
        with tap:
            self.model(*args, **kwargs)
        softmaxes, unread = dict(tap.softmaxes), dict(tap.unread)
        return Calls(seen=seen, softmaxes=softmaxes, unread=unread, explicit=frozenset(by_softmax))

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Evaluate without gradients; give training flags and random state back."""
        training = {module: module.training for module in self.model.modules()}
        gpus = sorted({p.device.index for p in self.model.parameters() if p.device.type == "cuda"})
        try:
            with torch.random.fork_rng(devices=gpus), torch.no_grad():
                self.model.eval()
                yield
        finally:
            for module, flag in training.items():
                module.training = flag


def _arguments(model: nn.Module, inputs: Inputs) -> tuple[list[Any], dict[str, Any]]:
    """Sort arguments into those that a forward takes by position only, and the others."""
    forward = inner_model(model).forward
    try:
        signature = inspect.signature(forward)
    except ValueError:  # a scripted forward does not tell
        return [], dict(inputs)
    kinds = signature.parameters.values()
    unnamed = [parameter for parameter in kinds if parameter.kind is parameter.POSITIONAL_ONLY]
    while unnamed and unnamed[-1].name not in inputs:
        unnamed.pop()
    args = [inputs.get(parameter.name, parameter.default) for parameter in unnamed]
    kwargs = {name: value for name, value in inputs.items() if name not in {parameter.name for parameter in unnamed}}
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise ValueError(
            f"find_layers: the forward of {type(inner_model(model)).__name__} takes "
            f"{', '.join(signature.parameters)}; make_inputs gave {', '.join(inputs)}: {error}"
        ) from None
    return args, kwargs


def needed_arguments(model: nn.Module) -> list[str]:
    """Return the names of the arguments that a model's forward cannot be called without."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except ValueError:
        return []
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [x.name for x in parameters if x.default is x.empty and x.kind in kinds]


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, list):
        return [_moved(item, device) for item in value]
    return value.to(device) if isinstance(value, Tensor) else value
