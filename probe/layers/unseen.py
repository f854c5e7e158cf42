"""Attention that no tap sees: modules that look like attention, run, and call no kernel that is known."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from probe.attention.modules import modules_by_name
from probe.layers.layout import Layer
from probe.layers.running import Calls

FUSED = re.compile(r"(to_|in_|w|c_)?(qkv|attn|proj_weight|query_key_value)(_proj|_lin|_linear)?(_weight)?", re.I)
QUERY, KEY, VALUE = (
    re.compile(rf"(to_|w_?|lin_|linear_|proj_)?({name})(_?proj|_?lin|_?linear|_weight)?", re.I)
    for name in ("q|query|queries", "k|key|keys", "v|value|values")
)
JOINT = "add_q_proj"  # diffusers' name of the projection of text that attends too


def looks_like_attention(module: nn.Module) -> bool:
    """Return whether a module has projections of queries, keys and values, each or in one."""
    names = [name for name, _ in (*module.named_children(), *module.named_parameters(recurse=False))]
    if any(FUSED.fullmatch(name) and name != "attn" for name in names):
        return True
    return all(any(kind.fullmatch(name) for name in names) for kind in (QUERY, KEY, VALUE))


@dataclass(eq=False)
class Ran:
    """Which candidates ran, in order, and the shapes of the token tensors that they got.

    Attributes:
        names: Of modules and, marked by their numbers, of seen calls, as they ran.
        shapes: Of the tensors of three axes and more, by module.
    """

    names: list[str | tuple[str, int]] = field(default_factory=list)
    shapes: dict[str, list[tuple[int, ...]]] = field(default_factory=dict)


@contextmanager
def candidates_watched(model: nn.Module) -> Iterator[Ran]:
    """Note which modules that look like attention run."""
    ran = Ran()
    with ExitStack() as hooks:
        for name, module in modules_by_name(model).items():
            if looks_like_attention(module):
                hook = module.register_forward_pre_hook(_noting(ran, name), with_kwargs=True)
                hooks.callback(hook.remove)
        yield ran


def _noting(ran: Ran, name: str) -> Callable[..., None]:
    def note(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor) and x.ndim >= 3]
        ran.names.append(name)
        ran.shapes.setdefault(name, [tuple(x.shape) for x in tensors])

    return note


def unseen_layers(model: nn.Module, base: Ran, bigger: Ran, calls: Calls) -> dict[str, tuple[Layer, bool]]:
    """List attention that ran and was not seen.

    Args:
        model: That ran.
        base: Of a small input.
        bigger: Of one on a bigger grid.
        calls: Of the small input, with explicit softmaxes that were not read.

    Returns:
        By name, in execution order: the layer, and whether it is self-attention over image tokens.
    """
    seen = {name[0] for name in base.names if isinstance(name, tuple)}
    modules = modules_by_name(model)
    ran = list(dict.fromkeys([name for name in base.names if isinstance(name, str)] + list(calls.softmaxes)))
    blind = [name for name in ran if not _is_seen(name, seen)]
    innermost = [name for name in blind if not any(other.startswith(f"{name}.") for other in blind)]
    return {
        name: (
            Layer(None, name, None, 0, "unseen", reason=_reason(name, modules[name], calls)),
            _over_image(base.shapes.get(name, []), bigger.shapes.get(name, []), hasattr(modules[name], JOINT)),
        )
        for name in innermost
    }


def _is_seen(name: str, seen: set[str]) -> bool:
    """Return whether a module, what it holds, or the module around it made a call that was seen."""
    return any(other == name or other.startswith(f"{name}.") or other == name.rpartition(".")[0] for other in seen)


def _over_image(base: list[tuple[int, ...]], bigger: list[tuple[int, ...]], joint: bool) -> bool:
    """Return whether it is self-attention of images: tokens that grow with the grid, and no text of a fixed number."""
    pairs = list(zip(base, bigger, strict=False))
    grows = any(small != large for small, large in pairs)
    text = any(small == large and len(small) == 3 for small, large in pairs)
    return grows and (joint or not text)


def _reason(name: str, module: nn.Module, calls: Calls) -> str:
    if name in calls.softmaxes:
        why = f": {calls.unread[name]}" if name in calls.unread else "; explicit=True may read it"
        return f"explicit softmax of shape {list(calls.softmaxes[name])}{why}"
    if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
        return "scripted by torch.jit"
    return "no attention function that a tap sees: linear attention, or a kernel that is not known"
