"""Kernels: attention functions of other packages, and how to read what they are given.

PyTorch's fused attention is recognised by a torch function mode (:mod:`probe.capture`). A function of another package,
and flex attention, are plain Python and pass every mode unseen. While a tap is open, each is therefore replaced where
the model's code holds it: where it is defined, in its package, and in the packages that define the model's classes; its
compiled forms too. The replacement runs the original with the arguments as they came, so that outputs stay the same bit
for bit; on exit all names hold the original again. A package that is not imported is not looked at: no model can call
it. What is understood of which function: :mod:`probe.attention.kernel_table`.

Source: docs/references.md, "Attention kernels".
"""

import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from probe.attention.call import Reading
from probe.attention.kernel_layouts import Arguments, Layout, sequences_of
from probe.attention.kernel_masks import refuse
from probe.attention.kernel_table import KERNELS, Kernel

__all__ = ["KERNELS", "Foreign", "Kernel", "known_packages", "replaced", "watched_kernels"]


@dataclass(frozen=True, eq=False)
class Foreign:
    """An attention function of another package, as the tap calls and reads it.

    Attributes:
        name: Its public name.
        function: The original.
        kernel: How to read its arguments.
    """

    name: str
    function: Callable[..., Any]
    kernel: Kernel

    def read(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], module: nn.Module) -> Reading:
        """Name the arguments as PyTorch's fused attention does, with tensors as [b heads n d].

        Args:
            args: As the model passed them.
            kwargs: As the model passed them.
            module: The caller, which knows its number of heads where they are folded into the batch.

        Raises:
            ValueError: If an argument, the layout or the mask is one that a record cannot express.
        """
        bound = self._signature.bind(*args, **kwargs)
        arguments = self._arguments(bound, module)
        self._refuse_others(arguments)
        layout = self.kernel.layout(arguments)
        q, k, v = (layout.read(x) for x in (arguments.q, arguments.k, arguments.v))
        masking = self.kernel.mask(arguments, q, k)
        original = _Original(self, arguments, layout, bound)
        values = {"query": q, "key": k, "value": v, "scale": self.kernel.scale(arguments), "attn_mask": masking.mask}
        values |= {"is_causal": masking.causal, "enable_gqa": q.shape[1] != k.shape[1]}
        return Reading(values, original.run, original.write)

    @functools.cached_property
    def _signature(self) -> inspect.Signature:
        return inspect.signature(self.function)

    def _arguments(self, bound: inspect.BoundArguments, module: nn.Module) -> Arguments:
        filled = inspect.BoundArguments(self._signature, bound.arguments.copy())
        filled.apply_defaults()
        values = dict(filled.arguments)
        for name, parameter in self._signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                values |= values.pop(name)
        names = self.kernel.tensors
        if not all(isinstance(values.get(name), Tensor) for name in names):
            raise ValueError(
                f"AttentionTap: {self.name} was called without tensors {', '.join(names)}; pass them in the model"
            )
        q, k, v = _unpacked([values[name] for name in names])
        lengths = tuple(values.get(name) for name, _ in self.kernel.lengths) or (None, None)
        sequences = sequences_of(self.name, lengths, (q.shape[0], k.shape[0]))  # type: ignore[arg-type]
        return Arguments(name=self.name, values=values, q=q, k=k, v=v, module=module, sequences=sequences)

    def _refuse_others(self, arguments: Arguments) -> None:
        kernel, parameters = self.kernel, self._signature.parameters
        known = {*kernel.tensors, *kernel.reads, *kernel.free, *(name for pair in kernel.lengths for name in pair)}
        for name, value in arguments.values.items():
            default = parameters[name].default if name in parameters else None
            if name not in known and not _same(value, default):
                shown = type(value).__name__ if isinstance(value, Tensor) or callable(value) else repr(value)
                raise refuse(arguments, f"{name}={shown}", f"leave it at {default!r} in the model")


def _same(value: Any, default: Any) -> bool:
    return value is default or (not isinstance(value, Tensor) and value == default)


def _unpacked(tensors: list[Tensor]) -> list[Tensor]:
    """Split the last tensor where it holds keys and values, or queries too."""
    return tensors if len(tensors) == 3 else [*tensors[:-1], *tensors[-1].unbind(-3)]


class _Original:
    """Run a kernel as the model called it, with other queries, keys and values."""

    def __init__(self, foreign: Foreign, arguments: Arguments, layout: Layout, bound: inspect.BoundArguments) -> None:
        self.foreign, self.arguments, self.layout, self.bound = foreign, arguments, layout, bound
        self._last: Tensor | None = None
        self._others: tuple[Any, ...] | None = None

    def run(self, *, query: Tensor, key: Tensor, value: Tensor, **_: Any) -> Tensor:
        """Return the kernel's output [b heads n d] for queries, keys and values [b heads n d]."""
        parts = [self.layout.write(x) for x in (query, key, value)]
        output = self._call({**self._packed(parts), **self._lengths(query, key)})
        tensor, self._others = (output[0], tuple(output[1:])) if isinstance(output, tuple) else (output, None)
        self._last = self.layout.read_output(tensor, query)
        return self._last

    def write(self, output: Tensor) -> Any:
        """Return an output as the kernel gives it.

        What the kernel gives beside it (log-sum-exp) is that of ``run`` where the output is its own, else NaN.
        """
        if self._last is None:
            self._run_as_called()
        tensor = self.layout.write_output(output)
        if self._others is None:
            return tensor
        return (tensor, *(self._others if output is self._last else map(_unknown, self._others)))

    def _run_as_called(self) -> None:
        """Learn the form of what the kernel gives, where an edit did not run it."""
        tensors = (self.arguments.q, self.arguments.k, self.arguments.v)
        query, key, value = (self.layout.read(x) for x in tensors)
        with torch.no_grad():
            self.run(query=query, key=key, value=value)

    def _call(self, changed: Mapping[str, Any]) -> Any:
        bound = inspect.BoundArguments(self.bound.signature, {**self.bound.arguments, **changed})
        return self.foreign.function(*bound.args, **bound.kwargs)

    def _packed(self, parts: list[Tensor]) -> dict[str, Tensor]:
        names = self.foreign.kernel.tensors
        if len(names) == 3:
            return dict(zip(names, parts, strict=True))
        packed = parts[len(names) - 1 :]
        if len({x.shape for x in packed}) > 1:
            raise ValueError(
                f"AttentionTap: {self.foreign.name} takes {names[-1]} as one tensor, so run(q, k, v) needs equal "
                f"shapes, got {[tuple(x.shape) for x in packed]}"
            )
        return {**dict(zip(names[:-1], parts, strict=False)), names[-1]: torch.stack(packed, dim=-3)}

    def _lengths(self, query: Tensor, key: Tensor) -> dict[str, Any]:
        """Return how long the sequences are, where other numbers or lengths of them came than the model gave."""
        sequences, kernel = self.arguments.sequences, self.foreign.kernel
        if sequences is None:
            return {}
        sizes = [(x.shape[0], x.shape[2]) for x in (query, key)]
        if sizes == self._own_sizes():
            return {}
        if not sequences.equal:
            raise ValueError(
                f"AttentionTap: {self.foreign.name} got sequences of different lengths, so run(q, k, v) needs as many "
                f"tokens as the call, got {sizes}"
            )
        changed: dict[str, Any] = {}
        for (ends, longest), (b, n) in zip(kernel.lengths, sizes, strict=True):
            like = self.arguments.values[ends]
            changed[ends] = torch.arange(b + 1, dtype=like.dtype, device=like.device) * n
            changed[longest] = n
        return changed

    def _own_sizes(self) -> list[tuple[int, int]]:
        b = self.layout.sizes["b"]
        return [(b, x.shape[0] // b) for x in (self.arguments.q, self.arguments.k)]


def _unknown(value: Any) -> Any:
    if isinstance(value, Tensor):
        return torch.full_like(value, torch.nan)
    return value if value is None else type(value)(*map(_unknown, value))


Attend = Callable[[Foreign, tuple[Any, ...], dict[str, Any]], Any]


@dataclass(eq=False)
class _Replacement:
    """Stand in for a function, or for a method of a class, while it is replaced."""

    original: Callable[..., Any]
    call: Callable[..., Any]
    is_open: bool = True

    def __post_init__(self) -> None:
        functools.update_wrapper(self, self.original, updated=())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.call(*args, **kwargs) if self.is_open else self.original(*args, **kwargs)

    def __get__(self, instance: object, _owner: type | None = None) -> Callable[..., Any]:
        return self if instance is None else MethodType(self, instance)


COMPILED = "_torchdynamo_orig_callable"
"""Where torch.compile keeps what it compiled."""
Function = Callable[..., Any]
Place = tuple[dict[str, Any], str]
"""A module's names, and one of them."""


@contextmanager
def replaced(model: nn.Module, original: Callable[..., Any], call: Callable[..., Any]) -> Iterator[None]:
    """Call another function wherever the model's packages, or the function's own, hold this one by name.

    Args:
        model: The model, by whose classes packages are found.
        original: The function to replace.
        call: What is called instead; it may call ``original``.
    """
    with _replaced_at(_places(_packages(model), [original])[original][original], original, call):
        yield


@contextmanager
def _replaced_at(places: list[Place], original: Callable[..., Any], call: Callable[..., Any]) -> Iterator[None]:
    replacement = _Replacement(original, call)
    for names, key in places:
        names[key] = replacement
    try:
        yield
    finally:
        replacement.is_open = False
        for names, key in places:
            if names.get(key) is replacement:
                names[key] = _still_open(original)


@contextmanager
def _replaced_method(owner: type, name: str, call: Callable[..., Any]) -> Iterator[None]:
    replacement = _Replacement(getattr(owner, name), call)
    setattr(owner, name, replacement)
    try:
        yield
    finally:
        replacement.is_open = False
        if vars(owner)[name] is replacement:
            setattr(owner, name, _still_open(replacement.original))


def _packages(model: nn.Module) -> set[str]:
    return {type(module).__module__.partition(".")[0] for module in model.modules()} - {"torch", "builtins"}


def _places(packages: set[str], functions: Iterable[Function]) -> dict[Function, dict[Function, list[Place]]]:
    """Find where functions, and what torch.compile made of them, are held by name, in one pass over the modules.

    Args:
        packages: Where to look, beside each function's own module and package.
        functions: The functions, or what replaces them in a tap around this one.

    Returns:
        Of each function its forms, the function itself first, and the places that hold each.
    """
    places: dict[Function, dict[Function, list[Place]]] = {function: {function: []} for function in functions}
    exact = {id(function): function for function in places}
    firsts = {id(_first(function)): function for function in places}
    homes = {function: {function.__module__, function.__module__.partition(".")[0]} - {"torch"} for function in places}
    watched, titles = packages.union(*homes.values()), {function.__name__ for function in firsts.values()}
    for name, module in list(sys.modules.items()):
        package = name.partition(".")[0]
        if package not in watched and name not in watched:
            continue
        names = getattr(module, "__dict__", {})
        for key, value in list(names.items()):
            compiled = isinstance(value, FunctionType) and value.__name__ in titles and COMPILED in vars(value)
            if compiled or id(value) in exact or isinstance(value, _Replacement):
                function, form = _sought(value, exact, firsts)
                if function is not None and not {package, name}.isdisjoint(packages | homes[function]):
                    places[function].setdefault(form, []).append((names, key))
    return places


def _sought(value: Any, exact: dict[int, Function], firsts: dict[int, Function]) -> tuple[Function | None, Any]:
    """Return which function a value is, replaces or was compiled from, and its form: what is to be replaced."""
    form = value if id(value) in exact else _still_open(value)
    return exact.get(id(form)) or firsts.get(id(vars(_first(form)).get(COMPILED))), form


def _still_open(function: Any) -> Any:
    """Skip replacements that were closed out of order, or that a module has kept since an earlier tap."""
    while isinstance(function, _Replacement) and not function.is_open:
        function = function.original
    return function


def _first(function: Any) -> Any:
    """Return what replacements, open or closed, stand for."""
    while isinstance(function, _Replacement):
        function = function.original
    return function


@contextmanager
def watched_kernels(model: nn.Module, attend: Attend) -> Iterator[None]:
    """Hand calls of every kernel of the table to ``attend``, which decides and runs them.

    Args:
        model: The model, by whose classes packages are found.
        attend: Called with the kernel and the arguments.
    """
    functions: dict[Function, tuple[str, Kernel]] = {}
    with ExitStack() as stack:
        for path, kernel in KERNELS.items():
            home, _, name = path.rpartition(".")
            owner = _imported(home)
            function = getattr(owner, name, None)
            if isinstance(owner, type) and function is not None:
                foreign = Foreign(f"{owner.__name__}.{name}", function, kernel)
                stack.enter_context(_replaced_method(owner, name, _handing(foreign, attend)))
            elif function is not None:
                functions.setdefault(function, (name, kernel))
        for function, forms in _places(_packages(model), functions).items():
            for form, places in forms.items():
                foreign = Foreign(functions[function][0], form, functions[function][1])
                stack.enter_context(_replaced_at(places, form, _handing(foreign, attend)))
        yield


def known_packages() -> list[str]:
    """List the packages that have a function in the table."""
    return sorted(
        {"torch's flex_attention" if path.startswith("torch.") else path.partition(".")[0] for path in KERNELS}
    )


def _imported(path: str) -> Any:
    """Return a module, or a class in one, if its package is imported."""
    module, _, name = path.rpartition(".")
    return sys.modules.get(path) or getattr(sys.modules.get(module), name, None)


def _handing(foreign: Foreign, attend: Attend) -> Callable[..., Any]:
    return lambda *args, **kwargs: attend(foreign, args, kwargs)
