"""Records of attention calls over a sampling run: what is kept, at which timesteps, and the halves of guidance."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn

from probe.attention.call import Call, Timestep
from probe.attention.steps import Step
from probe.attention.targets import Target

TIMESTEP_ARGUMENTS = ("timestep", "t", "timesteps", "sigma")
"""Names under which networks take the timestep, in the order in which they are looked for."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a tap keeps of a whole sampling run.

    A layer's record takes ``2 * batch * heads * tokens * channels`` numbers per forward ("qk", equal numbers of query
    and key heads; "qkv" half as much again). Wan 2.1 1.3B at 480 x 832 and 81 frames has 32760 tokens of 12 heads of
    128 channels: 201 MB in bfloat16 per layer and forward, 20 GB for one layer over 50 steps of two forwards;
    ``every=10`` keeps 2 GB.

    Attributes:
        tensors: "qk" leaves the values out: ``v`` is then NaN in its usual shape, and takes no memory.
        device: Where copies are kept, on the CPU or where the model computed them.
        every: Keep the first of every ``every`` steps. Forwards in a row with the same timestep are one step; without a
            timestep each forward is one.
        steps: "all" kept steps, or the "last" kept forward only.

    Raises:
        ValueError: If ``every`` is no whole number from 1 on, or a choice is unknown.
    """

    tensors: Literal["qk", "qkv"] = "qk"
    device: Literal["cpu", "model"] = "cpu"
    every: int = 1
    steps: Literal["all", "last"] = "all"

    def __post_init__(self) -> None:
        choices = {"tensors": ("qk", "qkv"), "device": ("cpu", "model"), "steps": ("all", "last")}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"Record: {name}={getattr(self, name)!r} is unknown; choose one of {known}")
        if not isinstance(self.every, int) or isinstance(self.every, bool) or self.every < 1:
            raise ValueError(f"Record: every={self.every!r} is no whole number of steps from 1 on; 1 keeps all")


Keep = Literal["none", "detached", "graph"] | Record
"""What a tap keeps of a call: nothing, its tensors without or with their gradients' graph, or as a record says."""

LAST = Record(tensors="qkv", device="model", steps="last")
"""What "detached" keeps; "graph" keeps the tensors themselves of the same forwards."""


class Records:
    """The kept calls of a tap, forward by forward.

    Args:
        keep: What is kept.

    Raises:
        ValueError: If the choice is unknown.
    """

    def __init__(self, keep: Keep) -> None:
        if not isinstance(keep, Record) and keep not in ("none", "detached", "graph"):
            raise ValueError(f"AttentionTap: keep={keep!r} is unknown; choose 'none', 'detached', 'graph' or a Record")
        self.keep = keep
        self.record = keep if isinstance(keep, Record) else LAST
        self.forwards: list[dict[tuple[str, int], Call]] = []

    def takes(self, step: Step) -> bool:
        """Return whether calls of a forward are recorded."""
        return step.of_sampling % self.record.every == 0

    def begin(self, step: Step) -> None:
        """Make room for a forward's calls."""
        if self.takes(step):
            self.forwards = [{}] if self.record.steps == "last" else [*self.forwards, {}]

    def drop(self, step: Step) -> None:
        """Forget what was kept of a forward that raised, where all are kept: it is no whole one."""
        if self.takes(step) and self.record.steps == "all":
            del self.forwards[-1:]

    def add(self, call: Call) -> Call:
        """Copy a call as requested, and keep the copy."""
        record = kept(call, self.keep)
        if self.keep != "none":
            self.forwards[-1][call.name, call.nth] = record
        return record

    def of(self, layer: object, wanted: Target, forwards: Sequence[Mapping[tuple[str, int], Call]]) -> list[Call]:
        """Look a layer's calls up, one per forward that has it.

        Args:
            layer: The layer as requested, for messages.
            wanted: The same as a target.
            forwards: Where to look.

        Raises:
            ValueError: If the name holds several calls.
            RuntimeError: If there is none.
        """
        calls = []
        for forward in forwards:
            fits = [call for key, call in forward.items() if wanted.covers(*key)]
            if len(fits) > 1:
                keys = [(call.name, call.nth) for call in fits]
                raise ValueError(f"AttentionTap: {layer!r} holds {len(fits)} attention calls; choose one of {keys}")
            calls += fits
        if not calls:
            why = "keep='none' keeps nothing" if self.keep == "none" else "no forward has recorded it"
            raise RuntimeError(
                f"AttentionTap: no record of {layer!r}: {why}; use keep='detached', keep='graph', a Record or on_call"
            )
        return calls


def kept(call: Call, keep: Keep) -> Call:
    """Copy a call as far as ``keep`` asks.

    Returns:
        With "graph" the call itself, with "detached" or a record copies that no later layer can overwrite, with "none"
        detached views of the model's own tensors.

    Raises:
        RuntimeError: If a graph is requested and there is none.
    """
    if keep == "graph":
        if call.q.is_inference() or not (call.q.requires_grad or call.k.requires_grad):
            raise RuntimeError(
                f"AttentionTap: keep='graph' asks for gradients, but q and k of {call.name!r} have none: the forward "
                "ran under no_grad or inference_mode, with frozen weights, or in reentrant checkpointing (there: pass "
                "use_reentrant=False)"
            )
        return call
    tensors: dict[str, Any] = {name: getattr(call, name).detach() for name in ("q", "k", "v")}
    if keep == "none":
        return replace(call, **tensors)
    return _copied(call, tensors, keep if isinstance(keep, Record) else LAST)


def _copied(call: Call, tensors: Mapping[str, Tensor], record: Record) -> Call:
    def copy(x: Tensor) -> Tensor:
        return x.to("cpu", copy=True) if record.device == "cpu" else x.clone()

    copies: dict[str, Any] = {name: copy(x) for name, x in tensors.items() if name in record.tensors}
    if "v" not in copies:
        v = tensors["v"]
        copies["v"] = torch.full((), torch.nan, dtype=v.dtype, device=copies["q"].device).expand(v.shape)
    if isinstance(call.mask, Tensor):  # a model may keep one and write it anew
        return replace(call, **copies, mask=copy(call.mask.detach()))
    return replace(call, **copies)


class Halves(NamedTuple):
    """A call on a doubled batch, apart.

    Attributes:
        unconditional: The first half, of the empty or negative prompt.
        conditional: The second half, of the prompt.
    """

    unconditional: Call
    conditional: Call


def guidance_halves(call: Call) -> Halves:
    """Split a call on a batch that was doubled for classifier-free guidance.

    Assumed, because no tensor shows it: the batch is doubled, the unconditional half comes first, as pipelines of
    diffusers concatenate it (Stable Diffusion, CogVideoX), and the network keeps the batch as the slowest axis where it
    folds views or places into it. With ``guidance_scale=1`` pipelines do not double the batch. Pipelines that run the
    network twice per step instead (Wan) are told apart by ``call.pass_of_step``.

    Args:
        call: A recorded call.

    Returns:
        Both halves; their tensors share memory with the call's.

    Raises:
        ValueError: If the batch is odd.

    Source:
        docs/references.md, "Sampling runs".
    """
    batch = call.q.shape[0]
    if batch % 2:
        raise ValueError(
            f"guidance_halves: {call.name!r} works on a batch of {batch}, which was not doubled; without guidance "
            "there are no halves, with two forwards per step (Wan) look at call.pass_of_step"
        )
    tensors = ["q", "k", "v", *(["mask"] if _splits(call.mask, call) else [])]
    first: dict[str, Any]
    second: dict[str, Any]
    first, second = ({name: getattr(call, name).chunk(2)[half] for name in tensors} for half in (0, 1))
    return Halves(replace(call, **first), replace(call, **second))


def _splits(mask: Any, call: Call) -> bool:
    """Return whether a mask has an entry per item; one of three axes has heads first, unless there is one head only."""
    axes = (3, 4) if call.q.shape[1] == 1 else (4,)
    return isinstance(mask, Tensor) and mask.ndim in axes and mask.shape[0] == call.q.shape[0]


def parameter_names(forward: Callable[..., Any]) -> list[str]:
    """List the parameters of a forward; none for a scripted one, which does not tell."""
    try:
        return list(inspect.signature(forward).parameters)
    except ValueError:
        return []


def timestep_of(parameters: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Timestep:
    """Read the timestep off the arguments of a network's forward.

    Args:
        parameters: Names of its positional parameters.
        args: As it was called.
        kwargs: As it was called.

    Returns:
        One number where all items share it, else the distinct ones, largest first; None if there is none to read.
    """
    values = dict(zip(parameters, args, strict=False)) | dict(kwargs)
    value = next((values[name] for name in TIMESTEP_ARGUMENTS if values.get(name) is not None), None)
    if isinstance(value, int | float):
        return float(value)
    if not _is_readable(value):
        return None
    numbers = tuple(value.detach().double().unique().flip(0).tolist())
    return numbers[0] if len(numbers) == 1 else numbers


def _is_readable(value: Any) -> TypeGuard[Tensor]:
    """Return whether a value is a timestep per item or token, with numbers.

    There are none on the meta device, under vmap, and while a CUDA graph is recorded.
    """
    if type(value) not in (Tensor, nn.Parameter) or value.is_meta or value.is_complex():
        return False
    if value.is_cuda and torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
        return False
    return value.ndim <= 2 and value.numel() > 0 and not torch._C._functorch.is_functorch_wrapped_tensor(value)
