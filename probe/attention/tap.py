"""Capture: observe, edit or supervise the attention of any model that calls PyTorch's fused attention.

The model stays as it is. While a chosen module's forward runs, a ``TorchFunctionMode`` recognises
``F.scaled_dot_product_attention`` however the model spells it, behind all that the model does to queries and keys;
attention functions of other packages are seen if :mod:`probe.attention.kernels` lists them.
Measured behaviour and failure modes: docs/references.md, "Capturing attention".
"""

import functools
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from probe.attention.call import (
    FUSED,
    SOFTMAX,
    Call,
    Edit,
    Keep,
    Run,
    attention_like,
    checkpoint_region,
    describe,
    edited,
    in_backward,
    kept,
    multi_head_body,
    plain,
    read_fused,
    refuse_recomputation,
)
from probe.attention.kernels import Foreign, known_packages, watched_kernels
from probe.attention.modules import is_compiled, modules_by_name
from probe.attention.targets import LayerKey, Target, attach, resolve, wanted_target, watched_modules

__all__ = ["Call", "Edit", "Keep", "LayerKey", "Run", "Tap"]


@dataclass(eq=False)
class _Step:
    """What happened in one forward of the model."""

    runs: Counter[str] = field(default_factory=Counter)
    made: Counter[str] = field(default_factory=Counter)
    seen: dict[Target, list[tuple[str, int]]] = field(default_factory=dict)


@dataclass(eq=False)
class _Frame:
    """A running forward of a watched module: its next call's number, and the checkpointed region around it."""

    name: str
    nth: int
    region: object
    in_kernel: bool = False  # calls inside a kernel of another package are ignored


class _Frames(threading.local):
    """The running forwards, innermost last; a torch function mode belongs to one thread, and so do they."""

    def __init__(self) -> None:
        self.running: list[_Frame] = []


AnyTap = TypeVar("AnyTap", bound="Tap")


class Tap:
    """Observe, edit or supervise chosen attention calls while the context is open.

    Without an edit the model's output is the same bit for bit (only inside ``nn.TransformerEncoder`` and
    ``nn.MultiheadAttention`` does PyTorch then leave its fused inference kernel, which rounds differently). On exit,
    also after an exception, the model is as before. A compiled model runs uncompiled meanwhile. Taps may be nested, and
    are closed in reverse order.

    Call ``backward()`` inside the context where an edit meets gradient checkpointing: the recomputation needs the edit.
    Under DDP or FSDP add ``0 * output.sum()`` to a loss that is made of captured tensors only.

    Args:
        model: The model, wrapped or not.
        layers: :class:`~probe.layers.Layer` objects, module names, or pairs of a name and the number of its call. A
            name may stop at a module that holds the attention; to look it up or to edit it, that must be a single call.
        edit: ``edit(call, run)`` gives the attention's output instead; ``run(q, k, v)`` is the original kernel with its
            mask, scale and context. One function for all layers, or a dict from layer to function. Edits run again when
            checkpointing recomputes, so they must depend on the call's tensors, name and number only.
        on_call: Called with each recorded call (not with recomputed ones), outside autocast. Unless ``keep="graph"``,
            without gradients; with ``keep="none"`` the tensors are the model's own: read them at once, leave them as
            they are.
        keep: What ``tap[layer]`` holds after a forward: nothing, detached copies, or the tensors with their graph.

    Attributes:
        softmaxes: Shapes of attention-like tensors that watched modules passed to softmax, by module.

    Raises:
        ValueError: If a layer is unknown or cannot be seen.
        RuntimeError: While open, if a layer does not run, calls no fused attention, or has no gradients to keep.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: LayerKey | Sequence[LayerKey],
        *,
        edit: Edit | Mapping[Any, Edit] | None = None,
        on_call: Callable[[Call], object] | None = None,
        keep: Keep = "none",
    ) -> None:
        if keep not in ("none", "detached", "graph"):
            raise ValueError(f"AttentionTap: keep={keep!r} is unknown; choose 'none', 'detached' or 'graph'")
        self.model, self.layers, self.edit, self.on_call, self.keep = model, layers, edit, on_call, keep
        self._modules = modules_by_name(model)
        self._targets = resolve(self._modules, layers)
        attach(self._targets, edit, self._modules)
        self._watched = watched_modules(self._modules, self._targets)
        self._frames = _Frames()
        self._is_open = False
        self._reset()

    def _reset(self) -> None:
        self.softmaxes: dict[str, tuple[int, ...]] = {}
        self._calls: dict[tuple[str, int], Call] = {}
        self._step, self._steps, self._depth = _Step(), 0, 0
        self._ever: set[Target] = set()
        self._unfinished: Counter[str] = Counter()  # edited calls that checkpointing has yet to recompute
        self._replaced: list[str] = []
        self._failed = False

    @property
    def calls(self) -> list[Call]:
        """Return the kept calls of the last forward, in execution order."""
        return list(self._calls.values())

    def __getitem__(self, layer: LayerKey) -> Call:
        """Return a layer's call in the last forward.

        Raises:
            ValueError: If the layer is not tapped, or the name holds several calls.
            RuntimeError: If nothing was kept.
        """
        wanted = wanted_target(layer, self._targets, self._modules)
        if not any(wanted.means(t) or t.covers(wanted.name, wanted.nth or 0) for t in self._targets):
            raise ValueError(f"AttentionTap: {layer!r} is not tapped; tapped: {[t.name for t in self._targets]}")
        fits = [call for key, call in self._calls.items() if wanted.covers(*key)]
        if len(fits) > 1:
            keys = [(call.name, call.nth) for call in fits]
            raise ValueError(f"AttentionTap: {layer!r} holds {len(fits)} attention calls; choose one of {keys}")
        if not fits:
            why = "keep='none' keeps nothing" if self.keep == "none" else "no forward has recorded it"
            raise RuntimeError(
                f"AttentionTap: no record of {layer!r}: {why}; use keep='detached', keep='graph' or on_call"
            )
        return fits[0]

    def __enter__(self: AnyTap) -> AnyTap:
        if self._is_open:
            raise RuntimeError("AttentionTap: this tap is open already; make another one")
        self._reset()
        with ExitStack() as undo:
            if any(is_compiled(module) for module in self.model.modules()):
                undo.enter_context(torch.compiler.set_stance("force_eager"))
            undo.enter_context(watched_kernels(self.model, self._attend_foreign))
            for name, module in {**self._watched, "": self._modules[""]}.items():
                undo.callback(self._unwrap, module, *self._wrap(name, module))
            self._undo = undo.pop_all()
        self._is_open = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_open = False
        self._undo.close()
        if kind is not None:
            return
        for name in +self._unfinished:
            refuse_recomputation(name, self._modules[name])
        if self._replaced:
            raise RuntimeError(
                f"AttentionTap: the forward of {self._replaced} was replaced while the tap was open; "
                "close taps in reverse order"
            )
        missed = [target.name for target in self._targets if target not in self._ever]
        if missed and not self._failed:
            raise RuntimeError(
                f"AttentionTap: {missed} never ran inside the with block; was another copy of the model called?"
            )

    def _wrap(self, name: str, module: nn.Module) -> tuple["_Forward", Any]:
        forward = _Forward(self, name, module.forward, vars(module).get("forward"))
        vars(module)["forward"] = forward
        # a hook of any kind makes PyTorch's encoder layers call their attention module instead of a kernel of their own
        return forward, module.register_forward_pre_hook(lambda _module, _args: None)

    def _unwrap(self, module: nn.Module, forward: "_Forward", hook: Any) -> None:
        hook.remove()
        if vars(module).get("forward") is not forward:
            self._replaced.append(forward.name)
            return
        previous = forward.previous
        while isinstance(previous, _Forward) and not previous.tap._is_open:
            previous = previous.previous  # that tap was closed before this one
        if previous is None:
            del vars(module)["forward"]
        else:
            vars(module)["forward"] = previous

    def _run(self, name: str, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if in_backward():
            return self._watch(_Frame(name, 0, None), original, args, kwargs)
        if self._depth == 0:
            self._step, self._calls = _Step(), {}
        self._depth += 1
        self._step.runs[name] += 1
        try:
            output = self._watch(self._frame(name), original, args, kwargs)
        except BaseException:
            self._failed = True
            raise
        finally:
            self._depth -= 1
        if self._depth == 0:
            self._finish_step()
        return output

    def _frame(self, name: str) -> _Frame:
        return _Frame(name, self._step.made[name], checkpoint_region() if self.edit is not None else None)

    def _watch(self, frame: _Frame, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        running = self._frames.running
        if frame.name not in self._watched:  # the root, which is only counted
            return original(*args, **kwargs)
        frame.in_kernel = bool(running) and running[-1].in_kernel  # the modules that a module is made of
        running.append(frame)
        try:
            if len(running) > 1:
                return original(*args, **kwargs)
            with _Mode(self, FUSED.__name__):
                return original(*args, **kwargs)
        finally:
            running.pop()

    def _finish_step(self) -> None:
        step = self._step
        for target in self._targets:
            if target in step.seen:
                self._ever.add(target)
            elif step.runs[target.name]:
                self._failed = True
                raise RuntimeError(_why_unseen(target, step, self.softmaxes))
            elif step.runs[""]:
                self._failed = True
                raise RuntimeError(
                    f"AttentionTap: {target.name!r} never ran in this forward of {type(self.model).__name__}; is it "
                    "skipped, or its parent run by a fused or compiled kernel? List what runs with find_layers(model)"
                )
        self._steps += 1

    def _attend_foreign(self, foreign: Foreign, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        running = self._frames.running
        if not running or running[-1].in_kernel:
            return foreign.function(*args, **kwargs)
        running[-1].in_kernel = True
        try:
            return self._attend(foreign.name, args, kwargs, foreign)
        finally:
            running[-1].in_kernel = False

    def _attend(
        self, kernel: str, args: tuple[Any, ...], kwargs: dict[str, Any], foreign: Foreign | None = None
    ) -> Any:
        function = FUSED if foreign is None else foreign.function
        frame, again = self._frames.running[-1], in_backward()
        nth, frame.nth = frame.nth, frame.nth + 1
        if not again:
            self._step.made[frame.name] = frame.nth
        else:
            self._refuse_unclear_recomputation(frame.name)
        covering = [target for target in self._targets if target.covers(frame.name, nth)]
        target = max(covering, key=lambda t: (len(t.name), t.nth is not None), default=None)
        if target is None or (again and target.edit is None):
            return function(*args, **kwargs)
        module = self._modules[frame.name]
        reading = read_fused(args, kwargs) if foreign is None else foreign.read(args, kwargs, module)
        call = describe(frame.name, nth, self._steps, kernel, reading.values)
        if not again:
            self._record(target, call)
        if target.edit is None:
            return function(*args, **kwargs)
        self._follow_checkpoint(frame, again)
        return edited(target.edit, call, reading)

    def _record(self, target: Target, call: Call) -> None:
        seen = self._step.seen.setdefault(target, [])
        seen.append((call.name, call.nth))
        if target.single and len(seen) > 1:
            raise RuntimeError(
                f"AttentionTap: the edit of {target.name!r} is ambiguous; it holds {seen}: name one of them"
            )
        if self.keep == "none" and self.on_call is None:
            return
        record = kept(call, self.keep)
        if self.on_call is not None:
            with plain(call.q.device.type, gradients=self.keep == "graph"):
                self.on_call(record)
        if self.keep != "none":
            self._calls[call.name, call.nth] = record

    def _follow_checkpoint(self, frame: _Frame, again: bool) -> None:
        """Count edits that a recomputation has to repeat, and reject those that it would miss."""
        if again:
            self._unfinished[frame.name] -= 1
        elif (region := checkpoint_region()) is not None:
            self._unfinished[frame.name] += 1
            if region != frame.region:
                raise RuntimeError(
                    f"AttentionTap: {frame.name!r} checkpoints (or saves tensors with hooks) inside its own forward, "
                    "where a recomputation would miss the edit; turn that off, or checkpoint the whole module"
                )

    def _refuse_unclear_recomputation(self, name: str) -> None:
        numbered = any(t.name == name and t.nth is not None and t.edit is not None for t in self._targets)
        if numbered and self._step.runs[name] > 1:
            raise RuntimeError(
                f"AttentionTap: {name!r} runs several times per forward, so a recomputation does not tell which call "
                "to edit; edit all calls by giving the name, or turn gradient checkpointing off"
            )

    def _note_softmax(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if (shape := attention_like(args, kwargs)) is not None:
            self.softmaxes[self._frames.running[-1].name] = shape


class _Forward:
    """Stand in for a module's forward while a tap is open."""

    def __init__(self, tap: Tap, name: str, original: Callable[..., Any], previous: Any) -> None:
        functools.update_wrapper(self, original)
        self.tap, self.name, self.original, self.previous = tap, name, original, previous
        # a compiled function that calls the model hands over to plain Python here
        hidden = name == "" and "torch._dynamo" in sys.modules
        self.run = torch.compiler.disable(tap._run) if hidden else tap._run

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.tap._is_open:
            return self.original(*args, **kwargs)
        return self.run(self.name, self.original, args, kwargs)

    def __deepcopy__(self, memo: Any) -> "_Forward":
        raise RuntimeError(
            "AttentionTap: a copy of a tapped model would run the original; copy it outside the with block"
        )


class _Mode(TorchFunctionMode):
    """Hand attention calls to the tap; a mode is suspended while it handles a function."""

    def __init__(self, tap: Tap, kernel: str) -> None:
        super().__init__()
        self.tap, self.kernel = tap, kernel

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.tap._frames.running[-1].in_kernel:
            return func(*args, **kwargs)
        if func is FUSED:
            return self.tap._attend(self.kernel, args, kwargs)
        if func is F.multi_head_attention_forward:
            with _Mode(self.tap, func.__name__):
                return multi_head_body()(*args, **kwargs)
        if func in SOFTMAX:
            self.tap._note_softmax(args, kwargs)
        return func(*args, **kwargs)


def _why_unseen(target: Target, step: _Step, softmaxes: Mapping[str, tuple[int, ...]]) -> str:
    what = f"AttentionTap: {target.name!r} ran"
    if made := step.made[target.name]:
        return f"{what} and made {made} attention calls, none with number {target.nth}; use find_layers(model) again"
    explicit = {name: shape for name, shape in softmaxes.items() if target.holds(name)}
    if explicit:
        return (
            f"{what} but called no fused attention: explicit softmax, by module and shape: {explicit}; switch to "
            "F.scaled_dot_product_attention (diffusers: AttnProcessor2_0, no slicing; "
            "nn.MultiheadAttention: need_weights=False)"
        )
    return (
        f"{what} but its kernel bypasses F.scaled_dot_product_attention (torch.jit, a compiled or another function); "
        "choose the native one (diffusers: model.set_attention_backend('native')), name a module that attends, or add "
        f"the function to probe.attention.kernels.KERNELS, which knows functions of {', '.join(known_packages())}"
    )
