"""Causal edits: what a layer's attention gives out is replaced, and all before it stays as it was. Pure.

Every edit has a form without a mask, since kernels such as flash attention take none: views are moved to the batch, or
keys are gathered. Edits act on what the views' tokens receive; text and camera tokens keep their attention.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor

from probe.attention.call import Call, Edit, Run
from probe.attention.masks import logit_bias
from probe.layers import ViewLayout
from probe.matching import image_tokens, in_order
from probe.records.names import Intervention
from probe.seeds import derive


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where an edit acts.

    Attributes:
        layer: Index among all self-attentions.
        layout: Where the views' tokens lie in the layer's sequence.
        truth: Token of the key view that contains the query's point; -1 where it is not seen there.
        n_ref: Number of reference views.
        timesteps: Of each forward of the model while the tap is open, in order.
        seed: Of the shuffled keys.
    """

    layer: int
    layout: ViewLayout
    truth: Int[Tensor, "b fq n fk"]
    n_ref: int
    timesteps: tuple[int, ...]
    seed: int = 0


class HiddenKeysError(ValueError):
    """A layer hides keys by its mask, which an edit that asks other keys cannot heed."""


Change = Callable[[Call, Run, Place], Tensor]


# --- what the views' tokens receive instead, [b heads tokens d] ------------------------------------------------------


def _identity(call: Call, _run: Run, place: Place) -> Float[Tensor, "b heads tokens d"]:
    """Let each token attend to itself.

    Source:
        arXiv 2512.03045, the causal test (docs/references.md, "CAMEO: the loss").
    """
    return call.v_per_head[:, :, image_tokens(call.v, place.layout)]


def _uniform(call: Call, _run: Run, place: Place) -> Float[Tensor, "b heads tokens d"]:
    """Attend to every key of the layer equally."""
    tokens = len(image_tokens(call.v, place.layout))
    return repeat(call.v_per_head.mean(2), "b heads d -> b heads tokens d", tokens=tokens)


def _within_view(call: Call, run: Run, place: Place) -> Float[Tensor, "b heads tokens d"]:
    """Attend within the own view only (and to text): the views are moved to the batch."""
    keys = own_keys(place.layout, call.k.device)
    return _view_by_view(call, run, place, keys, keys)


def _shuffled_views(call: Call, run: Run, place: Place) -> Float[Tensor, "b heads tokens d"]:
    """Shuffle the keys of each other view among its tokens; values stay.

    How much attention each view gets is kept, which of its points gets it is lost.
    """
    order = shuffled_keys(place.layout, derive("shuffle", place.seed, place.layer, place.timesteps[call.step]))
    order = order.to(call.k.device)
    return _view_by_view(call, run, place, order, torch.arange(place.layout.tokens, device=order.device))


def _true_match(call: Call, run: Run, place: Place) -> Float[Tensor, "b heads tokens d"]:
    """Let tokens of target views attend to their true tokens in the other views, equally; the rest stays."""
    inside, truth = image_tokens(call.v, place.layout), place.truth.to(call.v.device)
    if truth.shape[0] != call.v.shape[0]:
        raise ValueError(
            f"true_match: layer {place.layer} works on a batch of {call.v.shape[0]}, the truth on {truth.shape[0]}; "
            "give the truth of these scenes"
        )
    known = rearrange(truth >= 0, "b fq n fk -> b (fq n) fk")
    values = rearrange(call.v_per_head[:, :, inside], "b heads (f n) d -> b heads f n d", f=place.layout.views)
    total = values.new_zeros(*values.shape[:2], len(inside), values.shape[-1])
    for view in range(place.layout.views):
        token = rearrange(truth[..., view].clamp(min=0), "b fq n -> b 1 (fq n) 1")
        matched = values[:, :, view].gather(2, token.expand(-1, *total.shape[1:]))
        total += torch.where(known[:, None, :, view, None], matched, 0)
    count = rearrange(known.sum(-1), "b tokens -> b 1 tokens 1")
    asking = torch.arange(len(inside), device=count.device) >= place.n_ref * truth.shape[2]
    patched = (count > 0) & rearrange(asking, "tokens -> 1 1 tokens 1")
    usual = run(call.q, call.k, call.v)[:, :, inside]
    return torch.where(patched, (total / count.clamp(min=1)).to(usual), usual)


INTERVENTIONS: dict[Intervention, Change] = {
    "identity": _identity,
    "uniform": _uniform,
    "within_view": _within_view,
    "shuffled_views": _shuffled_views,
    "true_match": _true_match,
}


# --- keys and views --------------------------------------------------------------------------------------------------


def own_keys(layout: ViewLayout, device: torch.device | str = "cpu") -> Int[Tensor, "f keys"]:
    """List, for each view, the positions of its own tokens, its camera tokens with them, and of the text."""
    owners = layout.owners()
    text = (owners == -1).nonzero()[:, 0]
    own = [torch.cat([text, (owners == view).nonzero()[:, 0]]) for view in range(layout.views)]
    return torch.stack(own).to(device)


def shuffled_keys(layout: ViewLayout, seed: int) -> Int[Tensor, "f n"]:
    """List, for queries of each view, where each position's key comes from: keys of other views change places.

    Tokens change places within their own view; the order of a view's tokens is the same for all views that ask.
    """
    generator = torch.Generator().manual_seed(seed)
    positions = torch.arange(layout.tokens)
    views = rearrange(layout.split(positions[:, None]), "f h w 1 -> f (h w)")
    order = repeat(positions, "n -> f n", f=layout.views).clone()
    for view, own in enumerate(views):
        others = [other for other in range(layout.views) if other != view]
        moved = own[torch.randperm(len(own), generator=generator)]
        order[torch.tensor(others, dtype=torch.long)[:, None], own] = moved
    return order


def _view_by_view(
    call: Call, run: Run, place: Place, keys: Int[Tensor, "f m"], values: Int[Tensor, "*f m"]
) -> Float[Tensor, "b heads tokens d"]:
    """Attend with the queries of each view to keys and values chosen for it; views are moved to the batch."""
    f, inside = place.layout.views, image_tokens(call.q, place.layout)
    q = rearrange(call.q[:, :, inside], "b heads (f n) d -> (b f) heads n d", f=f)
    k = rearrange(call.k[:, :, keys], "b heads f m d -> (b f) heads m d")
    chosen = call.v[:, :, values.expand(f, -1)]
    v = rearrange(chosen, "b heads f m d -> (b f) heads m d")
    return rearrange(run(q, k, v), "(b f) heads n d -> b heads (f n) d", f=f)


# --- edits for a tap -------------------------------------------------------------------------------------------------


def edit_of(
    name: Intervention, place: Place, *, heads: Sequence[int] | None = None, during: tuple[int, int] | None = None
) -> Edit:
    """Make an edit for :class:`~probe.capture.AttentionTap`, of one layer.

    Args:
        name: Key of :data:`INTERVENTIONS`.
        place: Where it acts.
        heads: Of these heads only; None for all.
        during: At timesteps from the first to the second, both included; None for all.

    Returns:
        The edit. Outside ``heads`` and ``during`` the kernel's own output is left bit for bit.

    Raises:
        HiddenKeysError: When run: if the layer hides keys by a mask, but for identity.
        ValueError: When run: if a head is unknown, the sequence is
            not that of the layout, or the model runs more often than there are timesteps.
    """

    def edit(call: Call, run: Run) -> Tensor:
        _check(name, call, place, heads)
        t = place.timesteps[call.step]
        if during is not None and not during[0] <= t <= during[1]:
            return run(call.q, call.k, call.v)
        return _for_heads(_for_views(INTERVENTIONS[name], call, run, place), call, run, heads)

    return edit


def _check(name: Intervention, call: Call, place: Place, heads: Sequence[int] | None) -> None:
    if name != "identity" and logit_bias(call) is not None:
        raise HiddenKeysError(
            f"edit_of: layer {place.layer} ({call.name}) hides keys by its mask; of the edits only identity can be "
            f"made there, which asks no key, not {name}"
        )
    if call.step >= len(place.timesteps):
        raise ValueError(f"edit_of: forward {call.step} of the model, but {len(place.timesteps)} timesteps were given")
    if heads is not None and not all(0 <= head < call.q.shape[1] for head in heads):
        raise ValueError(f"edit_of: heads {list(heads)} of layer {place.layer}, which has {call.q.shape[1]}")


def _for_views(change: Change, call: Call, run: Run, place: Place) -> Float[Tensor, "b heads n d"]:
    """Change what the views' tokens receive; the others keep what the kernel gives them."""
    inside = image_tokens(call.q, place.layout)
    own = change(call, run, place).to(call.compute_dtype)
    if in_order(inside, call.q.shape[2]):
        return own
    if len(inside) == call.q.shape[2]:
        return torch.empty_like(own).index_copy(2, inside, own)
    return run(call.q, call.k, call.v).index_copy(2, inside, own)


def _for_heads(
    changed: Float[Tensor, "b heads n d"], call: Call, run: Run, heads: Sequence[int] | None
) -> Float[Tensor, "b heads n d"]:
    if heads is None:
        return changed
    chosen = torch.zeros(call.q.shape[1], dtype=torch.bool, device=changed.device)
    chosen[list(heads)] = True
    usual = run(call.q, call.k, call.v)
    return torch.where(rearrange(chosen, "heads -> 1 heads 1 1"), changed, usual)
