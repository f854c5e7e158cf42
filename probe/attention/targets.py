"""Targets: the attention calls that a tap looks at, however they were named."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

from torch import nn

from probe.attention.call import Edit
from probe.attention.modules import clean_name, may_attend, nearest_names


@runtime_checkable
class Located(Protocol):
    """An attention call by the name of its module, its number there and its index, as :class:`probe.layers.Layer`."""

    @property
    def name(self) -> str:
        """Return the module's name."""

    @property
    def nth(self) -> int:
        """Return which of the module's calls it is."""

    @property
    def index(self) -> int | None:
        """Return its place among all self-attention calls; None for other calls."""


LayerKey = Located | int | str | tuple[str, int]
"""A layer: itself, its index, its module's name, or the name and which of its calls, from 0."""
Known = TypeVar("Known", "Target", Located)


@dataclass(eq=False)
class Target:
    """Name one attention call, or all calls of a module where ``nth`` is None."""

    name: str
    nth: int | None
    index: int | None = None
    edit: Edit | None = None
    single: bool = False  # the edit names this very module, so one call must be meant

    def covers(self, name: str, nth: int) -> bool:
        """Return whether a module's call is one of the targets'."""
        if self.nth is not None:
            return (name, nth) == (self.name, self.nth)
        return self.holds(name)

    def holds(self, name: str) -> bool:
        """Return whether a module is this one or inside it."""
        return self.name in ("", name) or name.startswith(f"{self.name}.")

    def means(self, other: "Target") -> bool:
        """Return whether this name, as requested, selects the other."""
        return (self.name, self.nth) == (other.name, other.nth) or (self.nth is None and self.holds(other.name))


def keys_of(layers: LayerKey | Sequence[LayerKey]) -> list[LayerKey]:
    """List the layers that a tap was asked for.

    Raises:
        ValueError: If there are none.
    """
    one = isinstance(layers, Located | int | str) or _is_pair(layers)
    keys: list[Any] = [layers] if one else list(layers)  # type: ignore[arg-type]
    if not keys:
        raise ValueError("AttentionTap: no layer was chosen; list them with find_layers(model)")
    return keys


def resolve(modules: Mapping[str, nn.Module], layers: LayerKey | Sequence[LayerKey]) -> list[Target]:
    """Turn layers into targets.

    Raises:
        ValueError: If there are none, or a name is unknown.
    """
    targets = {(t.name, t.nth): t for t in (wanted_target(key, (), modules) for key in keys_of(layers))}
    for name, _ in targets:
        if name not in modules:
            near = nearest_names(name, list(modules))
            raise ValueError(
                f"AttentionTap: layer {name!r} is unknown; nearest: {near}; list them with find_layers(model)"
            )
    return list(targets.values())


def wanted_target(key: Any, targets: Sequence[Target], modules: Mapping[str, nn.Module]) -> Target:
    """Turn any way to name a layer into a target; an index is looked up among the given targets.

    Raises:
        ValueError: If no target has the index.
    """
    if isinstance(key, int):
        return by_index(key, targets)
    index = key.index if isinstance(key, Located) else None
    name, nth = (key.name, key.nth) if isinstance(key, Located) else key if _is_pair(key) else (key, None)
    name = clean_name(name)
    return Target(name if name in modules else name.removeprefix("module."), nth, index)


def _is_pair(key: object) -> bool:
    return isinstance(key, tuple) and len(key) == 2 and isinstance(key[0], str) and isinstance(key[1], int)


def by_index(index: int, targets: Sequence[Known]) -> Known:
    """Look a layer up by its index.

    Raises:
        ValueError: If there is none.
    """
    known = {target.index: target for target in targets if target.index is not None}
    if index not in known:
        raise ValueError(
            f"AttentionTap: self-attention layer {index} is unknown; known here: {sorted(known)}; "
            "give a Layer or a name, or list them with find_layers(model)"
        )
    return known[index]


def attach(targets: list[Target], edit: Edit | Mapping[Any, Edit] | None, modules: Mapping[str, nn.Module]) -> None:
    """Return the targets with their edits.

    Raises:
        ValueError: If a key of ``edit`` does not mean exactly one target.
    """
    if not isinstance(edit, Mapping):
        for target in targets:
            target.edit = edit
        return
    for key, function in edit.items():
        wanted = wanted_target(key, targets, modules)
        meant = [target for target in targets if wanted.means(target)]
        if len(meant) != 1:
            names = [target.name for target in targets]
            raise ValueError(
                f"AttentionTap: edit of {key!r} means {len(meant)} of the tapped layers; name one of {names}"
            )
        meant[0].edit, meant[0].single = function, meant[0].nth is None


def watched_modules(modules: Mapping[str, nn.Module], targets: Sequence[Target]) -> dict[str, nn.Module]:
    """Choose the modules to wrap: the targets, and what they hold, since the innermost forward names a call.

    Raises:
        ValueError: If a module attends to a part of the sequence only.
    """
    chosen: dict[str, nn.Module] = {}
    names = {target.name for target in targets}
    known: set[int] = set()  # a shared module is wrapped once, under its first name
    for name, module in modules.items():
        named = name in names
        inside = may_attend(module) and any(target.holds(name) for target in targets)
        if (named or inside) and id(module) not in known:
            chosen[name] = module
            known.add(id(module))
        if inside and getattr(getattr(module, "processor", None), "_parallel_config", None) is not None:
            raise ValueError(
                f"AttentionTap: {name!r} shards its sequence (context parallel), which is unsupported; turn it off"
            )
    return chosen
