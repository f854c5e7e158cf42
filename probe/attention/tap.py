"""Capture: observe, edit or supervise the attention of any model that calls PyTorch's fused attention.

The model stays as it is. While a chosen module's forward runs, a ``TorchFunctionMode`` recognises
``F.scaled_dot_product_attention`` however the model spells it, behind all that the model does to queries and keys;
attention functions of other packages are seen if :mod:`probe.attention.kernels` lists them.
Measured behaviour and failure modes: docs/references.md, "Capturing attention".
"""

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from probe.attention.call import (
    FUSED,
    Call,
    Edit,
    Run,
    attention_like,
    checkpoint_region,
    describe,
    edited,
    in_backward,
    plain,
    read_fused,
    refuse_recomputation,
)
from probe.attention.explicit.trace import Trace, Weighted
from probe.attention.kernels import Foreign, watched_kernels
from probe.attention.mode import Mode, Watch
from probe.attention.modules import Pipeline, is_compiled, modules_by_name, network_of
from probe.attention.records import Keep, Record, Records, parameter_names, timestep_of
from probe.attention.steps import Frame, Frames, Step
from probe.attention.targets import LayerKey, Target, attach, keys_of, resolve, wanted_target, watched_modules
from probe.attention.unseen import beside_calls, dropped, why_not_run, why_unseen
from probe.attention.wrapped import WrappedForward, unwrap, wrap

__all__ = ["Call", "Edit", "Keep", "LayerKey", "Record", "Run", "Tap"]

OnSkip = Literal["refuse", "count"]
"""What to do with a forward in which a layer makes no call: refuse it, or count it in ``tap.skipped``."""


AnyTap = TypeVar("AnyTap", bound="Tap")


class Tap:
    """Observe, edit or supervise chosen attention calls while the context is open.

    Without an edit the model's output is the same bit for bit (only inside ``nn.TransformerEncoder`` and
    ``nn.MultiheadAttention`` does PyTorch then leave its fused inference kernel, which rounds differently). On exit,
    also after an exception, the model is as before. A compiled model runs uncompiled meanwhile. Taps may be nested, and
    are closed in reverse order.

    Call ``backward()`` inside the context where an edit meets gradient checkpointing: the recomputation needs the edit.
    Under DDP or FSDP add ``0 * output.sum()`` to a loss that is made of captured tensors only.

    Layers that run without the model's own forward (``model.encode(x)``) are recorded together until one of them runs
    again or the model's forward begins.

    Args:
        model: The model, wrapped or not, or a diffusers pipeline, whose transformer, unet or prior is meant.
        layers: :class:`~probe.layers.Layer` objects, module names, or pairs of a name and the number of its call. A
            name may stop at a module that holds the attention; to look it up or to edit it, that must be a single call.
        edit: ``edit(call, run)`` gives the attention's output instead; ``run(q, k, v)`` is the original kernel with its
            mask, scale and context. One function for all layers, or a dict from layer to function. Edits run again when
            checkpointing recomputes, so they must depend on the call's tensors, name and number only.
        on_call: Called with each recorded call (not with recomputed ones), outside autocast. Unless ``keep="graph"``,
            without gradients; with ``keep="none"`` the tensors are the model's own: read them at once, leave them as
            they are.
        keep: What ``tap[layer]`` holds after a forward: nothing, detached copies, or the tensors with their graph. A
            :class:`~probe.attention.records.Record` chooses tensors, device and steps of a whole sampling run for
            ``tap.records(layer)``; ``on_call`` is then called at the kept steps.
        on_skip: Whether a forward in which a layer makes no call is refused, or counted, as caches that reuse attention
            need. A layer that is never seen, or computes an explicit softmax that is not read, is refused either way.
        explicit: Whether to read attention written as ``softmax(q k * scale + mask) v`` too, by the operations around
            the softmax, as is done for layers that were found so. Each reading is proved by the model's own weights
            of some queries. An edit replaces the product with the values. Heads folded into the batch
            must be seen to be: by a reshape inside the tapped module, to as many as its ``heads`` or ``num_heads``.

    Attributes:
        softmaxes: Shapes of attention-like tensors that watched modules passed to softmax, by module; with ``explicit``
            only of those that could not be read.
        unread: Why they could not be, by module.
        skipped: In how many forwards a layer made no call, by the module's name.

    Raises:
        ValueError: If a layer is unknown or cannot be seen.
        RuntimeError: While open, if a layer does not run, calls no fused attention, or has no gradients to keep.
    """

    def __init__(
        self,
        model: nn.Module | Pipeline,
        layers: LayerKey | Sequence[LayerKey],
        *,
        edit: Edit | Mapping[Any, Edit] | None = None,
        on_call: Callable[[Call], object] | None = None,
        keep: Keep = "none",
        on_skip: OnSkip = "refuse",
        explicit: bool = False,
    ) -> None:
        if on_skip not in ("refuse", "count"):
            raise ValueError(f"AttentionTap: on_skip={on_skip!r} is unknown; choose 'refuse' or 'count'")
        self.model, self.layers, self.edit, self.on_call = network_of(model), layers, edit, on_call
        self.keep, self.on_skip = keep, on_skip
        self.explicit = explicit or any(getattr(layer, "explicit", False) for layer in keys_of(layers))
        self._modules = modules_by_name(self.model)
        self._targets = resolve(self._modules, layers)
        attach(self._targets, edit, self._modules)
        self._watched = watched_modules(self._modules, self._targets)
        self._covering = {name: [t for t in self._targets if t.holds(name)] for name in self._watched}
        self._frames = Frames()
        self._mode = Mode(Watch(self._frames, self._modules, self._attend, self._note_softmax))
        self._is_open = False
        self._reset()

    def _reset(self) -> None:
        self.softmaxes: dict[str, tuple[int, ...]] = {}
        self.unread: dict[str, str] = {}
        self.skipped: Counter[str] = Counter()
        self._records = Records(self.keep)
        self._step, self._depth = Step(), 0
        self._ever: set[Target] = set()
        self._unseen: dict[Target, str] = {}  # why a counted layer was last not seen
        self._unfinished: Counter[str] = Counter()  # edited calls that checkpointing has yet to recompute
        self._failed = False

    @property
    def calls(self) -> list[Call]:
        """Return the kept calls of the last forward (of a ``Record``: the last kept one), in execution order."""
        return [call for forward in self._records.forwards[-1:] for call in forward.values()]

    def __getitem__(self, layer: LayerKey) -> Call:
        """Return a layer's call in the last forward (of a ``Record``: in the last kept one).

        Raises:
            ValueError: If the layer is not tapped, or the name holds several calls.
            RuntimeError: If nothing was kept.
        """
        return self._records.of(layer, self._wanted(layer), self._records.forwards[-1:])[0]

    def records(self, layer: LayerKey) -> list[Call]:
        """Return a layer's call in each kept forward, in order; each has its timestep and its number there.

        Raises:
            ValueError: If the layer is not tapped, or the name holds several calls.
            RuntimeError: If nothing was kept.
        """
        return self._records.of(layer, self._wanted(layer), self._records.forwards)

    def _wanted(self, layer: LayerKey) -> Target:
        wanted = wanted_target(layer, self._targets, self._modules)
        if not any(wanted.means(t) or t.covers(wanted.name, wanted.nth or 0) for t in self._targets):
            raise ValueError(f"AttentionTap: {layer!r} is not tapped; tapped: {[t.name for t in self._targets]}")
        return wanted

    def __enter__(self: AnyTap) -> AnyTap:
        if self._is_open:
            raise RuntimeError("AttentionTap: this tap is open already; make another one")
        self._reset()
        with ExitStack() as undo:
            if any(is_compiled(module) for module in self.model.modules()):
                undo.enter_context(torch.compiler.set_stance("force_eager"))
            undo.enter_context(watched_kernels(self.model, self._attend_foreign))
            self._replaced: list[tuple[str, str]] = []
            root = self._modules[""]
            self._parameters = parameter_names(root.forward)
            for name, module in {**self._watched, "": root}.items():
                undo.callback(self._unwrap, module, wrap(name, module, self._run))
                if isinstance(module, nn.MultiheadAttention):
                    # a hook of any kind makes PyTorch's encoder layers call it instead of a kernel of their own
                    undo.callback(module.register_forward_pre_hook(_no_change).remove)
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
            names, (_, cause) = [name for name, _ in self._replaced], self._replaced[0]
            raise RuntimeError(f"AttentionTap: the forward of {names} was replaced while the tap was open: {cause}")
        missed = [target for target in self._targets if target not in self._ever]
        if missed and not self._failed:
            raise RuntimeError(
                self._unseen.get(missed[0])
                or (
                    f"AttentionTap: {[target.name for target in missed]} never ran inside the with block; "
                    "was another copy of the model called?"
                )
            )

    def _unwrap(self, module: nn.Module, forward: WrappedForward) -> None:
        if (cause := unwrap(module, forward)) is not None:
            self._replaced.append((forward.name, cause))

    def _run(self, name: str, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if in_backward():
            return self._watch(Frame(name, 0, None), original, args, kwargs)
        if self._depth == 0:
            self._begin(name, args, kwargs)
        self._depth += 1
        self._step.runs[name] += 1
        region = checkpoint_region() if self.edit is not None else None
        try:
            output = self._watch(Frame(name, self._step.made.get(name, 0), region), original, args, kwargs)
        except BaseException:
            self._failed = True
            if self._depth == 1:
                self._records.drop(self._step)
                self._step.raised = True
            raise
        finally:
            self._depth -= 1
        if self._depth == 0:
            self._check()
        return output

    def _begin(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Begin a forward of the model, or of a layer without it."""
        of_model = name == ""
        if not of_model and not self._step.of_model and name not in self._step.runs and self._step.number >= 0:
            return
        recording = self.on_call is not None or self.keep != "none"
        timestep = timestep_of(self._parameters, args, kwargs) if of_model and recording else None
        self._step = self._step.following(of_model, timestep)
        self._records.begin(self._step)

    def _watch(self, frame: Frame, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        running = self._frames.running
        if frame.name not in self._watched:  # the root, which is only counted
            return original(*args, **kwargs)
        frame.in_kernel = bool(running) and running[-1].in_kernel  # the modules that a module is made of
        running.append(frame)
        try:
            if len(running) > 1:
                return original(*args, **kwargs)
            with self._traced(), self._mode:
                return original(*args, **kwargs)
        finally:
            running.pop()

    @contextmanager
    def _traced(self) -> Iterator[None]:
        """Trace explicit softmaxes, where that is wanted, through the outermost watched module."""
        if not self.explicit:
            yield
            return
        self._frames.trace = trace = Trace()
        try:
            yield
            self._note_unread(trace)
        finally:
            self._frames.trace = None

    def _check(self) -> None:
        """Refuse or count layers that were not seen in the forward that has ended."""
        step = self._step
        for target in self._targets:
            if target in step.seen:
                self._ever.add(target)
            elif target not in step.skipped and (step.runs.get(target.name) or step.of_model):
                self._skip(target)

    def _skip(self, target: Target) -> None:
        step = self._step
        explicit = {name: shape for name, shape in step.softmaxes.items() if target.holds(name)}
        if step.runs[target.name]:
            why = why_unseen(target, step.made[target.name], explicit, self._modules, self.unread)
        else:
            why = why_not_run(target, self.model, self._modules)
        if self.on_skip == "refuse" or explicit:
            self._failed = True
            raise RuntimeError(why)
        step.skipped.add(target)
        self._unseen[target] = why
        self.skipped[target.name] += 1

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
        self, kernel: str, args: tuple[Any, ...], kwargs: dict[str, Any], foreign: Foreign | Weighted | None = None
    ) -> Any:
        function = FUSED if foreign is None else foreign.function
        frame, again = self._frames.running[-1], in_backward()
        nth, frame.nth = frame.nth, frame.nth + 1
        if not again:
            self._step.made[frame.name] = frame.nth
        else:
            self._refuse_unclear_recomputation(frame.name)
        covering = [target for target in self._covering[frame.name] if target.covers(frame.name, nth)]
        target = max(covering, key=lambda t: (len(t.name), t.nth is not None), default=None)
        if target is None or (again and target.edit is None):
            return function(*args, **kwargs)
        module = self._modules[frame.name]
        reading = read_fused(args, kwargs) if foreign is None else foreign.read(args, kwargs, module)
        step = self._step
        call = describe(
            frame.name,
            nth,
            step.number,
            kernel,
            reading.values,
            timestep=step.timestep,
            pass_of_step=step.pass_of_step,
        )
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
        if (self.keep == "none" and self.on_call is None) or not self._records.takes(self._step):
            return
        if call.dropout:
            warnings.warn(dropped(call.name, call.dropout), stacklevel=2)
        record = self._records.add(call)
        if self.on_call is not None:
            with plain(call.q.device.type, gradients=self.keep == "graph"):
                self.on_call(record)

    def _follow_checkpoint(self, frame: Frame, again: bool) -> None:
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

    def _note_unread(self, trace: Trace) -> None:
        """Note the explicit softmaxes that were not recorded."""
        for softmax in [] if in_backward() else trace.softmaxes:
            self.softmaxes[softmax.name] = self._step.softmaxes[softmax.name] = softmax.shape
            self.unread[softmax.name] = softmax.reason
            if softmax.is_product and self._step.made[softmax.name]:
                warnings.warn(beside_calls(softmax.name, softmax.shape, softmax.reason), stacklevel=2)

    def _note_softmax(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if (shape := attention_like(args, kwargs)) is not None:
            name = self._frames.running[-1].name
            self.softmaxes[name] = self._step.softmaxes[name] = shape


def _no_change(_module: nn.Module, _args: Any) -> None:
    """Leave a module's inputs as they are."""
