"""Schemes: which keys each head of a layer attends to, what that costs, and attention that computes nothing else. Pure.

A scheme gives every head of a layer a mode. Queries that share their keys are a group, and groups are moved to the
batch, so that pairs of query and key that a mode leaves out are not computed, and no kernel needs a mask.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from probe.attention.call import Call, Edit, Run
from probe.attention.masks import logit_bias
from probe.interventions.edits import own_keys
from probe.layers import Layer, ViewLayout
from probe.records.folder import parse_json

Mode = Literal["joint", "references", "per_view"]
Scheme = tuple[Mode, ...]
"""The mode of each head of a layer."""
Schemes = Mapping[int, Scheme]
"""Of layers, by index."""


@dataclass(frozen=True, eq=False)
class Block:
    """Groups of queries, each with keys of its own, by their positions in the joint sequence."""

    queries: Int[Tensor, "groups n"]
    keys: Int[Tensor, "groups m"]

    @property
    def pairs(self) -> int:
        """Return the number of pairs of query and key."""
        return self.queries.numel() * self.keys.shape[1]


# --- which keys ------------------------------------------------------------------------------------------------------


def _joint(layout: ViewLayout, _n_ref: int) -> list[Block]:
    """Attend to the tokens of all views."""
    every = torch.arange(layout.tokens)[None]
    return [Block(every, every)]


def _per_view(layout: ViewLayout, _n_ref: int) -> list[Block]:
    """Attend to the own view, and to text."""
    return [Block(_image_tokens(layout), own_keys(layout)), *_beside(layout)]


def _references(layout: ViewLayout, n_ref: int) -> list[Block]:
    """Attend to the own view and the reference views, and to text."""
    views, own, owners = _image_tokens(layout), own_keys(layout), layout.owners()
    references = ((owners >= 0) & (owners < n_ref)).nonzero()[:, 0]
    together = torch.cat([(owners == -1).nonzero()[:, 0], references])
    clean = [Block(rearrange(views[:n_ref], "f n -> 1 (f n)"), together[None])] if n_ref else []
    keys = torch.cat([own[n_ref:], references.expand(layout.views - n_ref, -1)], dim=1)
    return [*clean, Block(views[n_ref:], keys), *_beside(layout)]


MODES: dict[Mode, Callable[[ViewLayout, int], list[Block]]] = {
    "joint": _joint,
    "references": _references,
    "per_view": _per_view,
}
"""From the most pairs of query and key to the fewest."""


def _image_tokens(layout: ViewLayout) -> Int[Tensor, "f n"]:
    return rearrange(layout.split(torch.arange(layout.tokens)[:, None]), "f h w 1 -> f (h w)")


def _beside(layout: ViewLayout) -> list[Block]:
    """Let tokens that lie on no view's grid (text, cameras) attend to everything, as usual."""
    outside = torch.ones(layout.tokens, dtype=torch.bool)
    outside[_image_tokens(layout).flatten()] = False
    others = outside.nonzero()[:, 0]
    return [Block(others[None], torch.arange(layout.tokens)[None])] if len(others) else []


# --- what it costs ---------------------------------------------------------------------------------------------------


def multiply_adds(scheme: Scheme, layout: ViewLayout, n_ref: int, channels: int) -> int:
    """Count the multiply-adds of a layer's two products, queries by keys and weights by values, on one scene.

    Args:
        scheme: Of the layer.
        layout: Where the views' tokens lie.
        n_ref: Number of reference views.
        channels: Per head.

    Returns:
        Of all heads: 2 x channels for each pair of query and key. Softmax and projections are not counted.

    Source:
        Dao, FlashAttention-2 (arXiv 2307.08691), section 4.1: 4 x sequence^2 x channels per head x heads operations,
        where a multiply-add is two.
    """
    return sum(2 * channels * _pairs(mode, layout, n_ref) for mode in scheme)


@lru_cache(maxsize=1024)
def _pairs(mode: Mode, layout: ViewLayout, n_ref: int) -> int:
    return sum(block.pairs for block in MODES[mode](layout, n_ref))


def total_multiply_adds(schemes: Schemes, layers: Sequence[Layer], views: int, n_ref: int) -> int:
    """Count the multiply-adds of several layers' attention; layers without a scheme are joint.

    Args:
        schemes: By layer.
        layers: That join views.
        views: Number of views.
        n_ref: Of them references.
    """
    return sum(multiply_adds(scheme_of(schemes, layer), layer.layout(views), n_ref, layer.channels) for layer in layers)


def scheme_of(schemes: Schemes, layer: Layer) -> Scheme:
    """Return a layer's scheme; all heads joint where it has none."""
    assert layer.index is not None
    return schemes.get(layer.index, all_joint(layer))


def all_joint(layer: Layer) -> Scheme:
    """Return the scheme that leaves a layer as it is."""
    modes: list[Mode] = ["joint"] * layer.heads
    return tuple(modes)


def read_schemes(path: Path) -> dict[int, Scheme]:
    """Read the schemes of a plan for speed.

    Args:
        path: A plan.json of ``python -m probe.plan``.

    Raises:
        ValueError: If it is none.
    """
    try:
        layers = parse_json(path.read_text(encoding="utf-8"))["layers"]
        return {int(layer["layer"]): _scheme_in(layer) for layer in layers}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a plan of python -m probe.plan ({error!r}); plan again") from error


def _scheme_in(layer: Mapping[str, Any]) -> Scheme:
    modes = {int(head): mode for mode in MODES for head in layer[mode]}
    return tuple(modes[head] for head in range(sum(len(layer[mode]) for mode in MODES)))


# --- attention -------------------------------------------------------------------------------------------------------


def edits_of(
    schemes: Schemes, layers: Sequence[Layer], views: int, n_ref: int, device: torch.device | str = "cpu"
) -> dict[Layer, Edit]:
    """Make the edits of all layers that are not wholly joint, for :class:`~probe.capture.AttentionTap`.

    Args:
        schemes: By layer.
        layers: That join views.
        views: Number of views.
        n_ref: Of them references, the first ones.
        device: Of the model.

    Returns:
        By layer; ``AttentionTap(network, list(edits), edit=edits)`` applies them.
    """
    return {
        layer: edit_of_scheme(scheme_of(schemes, layer), layer.layout(views), n_ref, device)
        for layer in layers
        if set(scheme_of(schemes, layer)) != {"joint"}
    }


def edit_of_scheme(scheme: Scheme, layout: ViewLayout, n_ref: int, device: torch.device | str = "cpu") -> Edit:
    """Make the edit of one layer.

    Args:
        scheme: Mode of each head.
        layout: Where the views' tokens lie.
        n_ref: Number of reference views.
        device: Of the model.

    Returns:
        The edit. Where all heads are joint, the output is the kernel's own, bit for bit.

    Raises:
        ValueError: When run: if the layer hides keys by a mask, or has another number of heads or tokens.
    """
    order = list(dict.fromkeys(scheme))
    heads = {mode: [head for head, own in enumerate(scheme) if own == mode] for mode in order}
    parts = [(_index(heads[mode]), [_Taken(block, device) for block in MODES[mode](layout, n_ref)]) for mode in order]

    def edit(call: Call, run: Run) -> Tensor:
        if order == ["joint"]:
            return run(call.q, call.k, call.v)
        _check(call, scheme, layout)
        return _attend(call, run, parts)

    return edit


def _check(call: Call, scheme: Scheme, layout: ViewLayout) -> None:
    if call.q.shape[1] != len(scheme) or not call.q.shape[2] == call.k.shape[2] == layout.tokens:
        raise ValueError(
            f"edit_of_scheme: {call.name} has {call.q.shape[1]} heads, {call.q.shape[2]} queries and {call.k.shape[2]} "
            f"keys; the scheme is for {len(scheme)} heads and {layout.tokens} tokens; plan again for this model and "
            "number of views"
        )
    if logit_bias(call) is not None:
        raise ValueError(
            f"edit_of_scheme: {call.name} hides keys or adds to logits by its mask, which attention in parts cannot "
            "keep; leave this layer joint"
        )


class _Taken:
    """A block on a device, whose positions are slices where they stand side by side: those need no copy."""

    def __init__(self, block: Block, device: torch.device | str) -> None:
        self.groups = len(block.queries)
        self.queries, self.keys = (_span(x.flatten(), device) for x in (block.queries, block.keys))

    def attend(self, run: Run, q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "b heads n d"]:
        """Attend with the groups moved to the batch."""
        taken = [q[:, :, self.queries], k[:, :, self.keys], v[:, :, self.keys]]
        grouped = [rearrange(x, "b heads (g n) d -> (b g) heads n d", g=self.groups) for x in taken]
        return rearrange(run(*grouped), "(b g) heads n d -> b heads (g n) d", g=self.groups)


def _span(positions: Int[Tensor, " n"], device: torch.device | str) -> slice | Int[Tensor, " n"]:
    first, last = int(positions[0]), int(positions[-1])
    return slice(first, last + 1) if bool((positions.diff() == 1).all()) else positions.to(device)


def _index(heads: Sequence[int]) -> slice | list[int]:
    together = list(heads) == list(range(heads[0], heads[-1] + 1))
    return slice(heads[0], heads[-1] + 1) if together else list(heads)


def _attend(
    call: Call, run: Run, parts: Sequence[tuple[slice | list[int], list[_Taken]]]
) -> Float[Tensor, "b heads n d"]:
    q, k, v = call.q, call.k_per_head, call.v_per_head
    if len(parts) == 1:
        return _in_place(parts[0][1], run, q, k, v)
    output = q.new_empty(*q.shape[:3], v.shape[3], dtype=call.compute_dtype)
    for heads, blocks in parts:
        output[:, heads] = _in_place(blocks, run, q[:, heads], k[:, heads], v[:, heads])
    return output


def _in_place(blocks: Sequence[_Taken], run: Run, q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "b heads n d"]:
    """Attend block by block, and put each query's output where the query stands."""
    made = [block.attend(run, q, k, v) for block in blocks]
    if len(blocks) == 1 and isinstance(blocks[0].queries, slice):
        return made[0]
    output = made[0].new_empty(*q.shape[:3], v.shape[3])
    for block, part in zip(blocks, made, strict=True):
        output[:, :, block.queries] = part
    return output
