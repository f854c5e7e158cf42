"""Masks of attention kernels: what their arguments leave out, as PyTorch's fused attention would be told.

Source: docs/references.md, "Attention kernels".
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probe.attention.kernel_layouts import Arguments

FLEX = "torch.nn.attention.flex_attention"  # slow to import, and loaded by all that call it

LARGEST = 2**28
"""Most entries of a mask that is written out for a record: 16384 queries by 16384 keys."""
OTHERWISE = (
    "or choose PyTorch's own kernel (diffusers: model.set_attention_backend('native'), transformers: "
    "model.set_attn_implementation('sdpa'))"
)


@dataclass(frozen=True, eq=False, kw_only=True)
class Masking:
    """What a call leaves out.

    Attributes:
        mask: Boolean (True takes part), or added to the logits; it broadcasts to [b heads n m].
        causal: Whether keys later than the query are left out, counted from the first query and the first key.
    """

    mask: Tensor | None = None
    causal: bool = False


MaskOf = Callable[[Arguments, Tensor, Tensor], Masking]
"""Reads the masking of a call, whose queries and keys are [b heads n d] and [b heads m d]."""


def refuse(arguments: Arguments, what: str, instead: str) -> ValueError:
    """Return the error for a call that a record cannot express.

    Args:
        arguments: The call.
        what: What is not understood.
        instead: What to change in the model.
    """
    return ValueError(f"AttentionTap: {arguments.name} has {what}, which is not understood; {instead}, {OTHERWISE}")


def flash(arguments: Arguments, q: Tensor, k: Tensor) -> Masking:
    """Read flash-attn's causal, window_size and alibi_slopes, which count from the last query and the last key."""
    values = arguments.values
    left, right = (-1 if edge is None else edge for edge in values.get("window_size", (-1, -1)))
    slopes = values.get("alibi_slopes")
    return _banded(arguments, q, k, window=(left, 0 if values["causal"] else right), from_last=True, slopes=slopes)


def flash_4(arguments: Arguments, q: Tensor, k: Tensor) -> Masking:
    """Read the same of flash-attn 4, to which None is an open window, and a negative edge a shifted one.

    Raises:
        ValueError: If a single edge is negative.
    """
    window = tuple(arguments.values["window_size"])
    if window != (-1, -1) and any(edge is not None and edge < 0 for edge in window):
        raise refuse(arguments, f"window_size={window}", "use None for an open side")
    return flash(arguments, q, k)


def sage(arguments: Arguments, q: Tensor, k: Tensor) -> Masking:
    """Read SageAttention's is_causal and attn_mask.

    Raises:
        ValueError: If it is causal over unequal lengths, for which the package promises nothing.
    """
    causal, sequences = arguments.values["is_causal"], arguments.sequences
    if causal and (q.shape[2] != k.shape[2] if sequences is None else sequences.q != sequences.k):
        raise refuse(arguments, f"is_causal with {q.shape[2]} queries and {k.shape[2]} keys", "give as many of both")
    if (mask := arguments.values.get("attn_mask")) is not None:
        return Masking(mask=mask)
    return _banded(arguments, q, k, window=(-1, 0 if causal else -1), from_last=False)


def xformers(arguments: Arguments, q: Tensor, k: Tensor) -> Masking:
    """Read xformers' attn_bias: none, a tensor that is added to the logits, or one of its masks, packed ones too.

    Raises:
        ValueError: If it is something else.
    """
    bias, axes = arguments.values["attn_bias"], arguments.q.ndim
    if bias is None or type(bias).__name__ == "LowerTriangularMask":
        return Masking(causal=bias is not None)
    if not isinstance(bias, Tensor) and hasattr(bias, "materialize"):
        check_size(arguments, q.shape[2], k.shape[2])
        shape = (*(1 for _ in range(axes - 2)), q.shape[2], k.shape[2])
        bias = _boolean(bias.materialize(shape, dtype=torch.float32, device=q.device))
    if not isinstance(bias, Tensor) or bias.ndim != axes:
        raise refuse(
            arguments,
            f"a mask of kind {type(bias).__name__}",
            f"use none, a tensor of {axes} axes or a mask of xformers",
        )
    return Masking(mask=_per_head(bias, arguments.q, q.shape[1]))


def _per_head(mask: Tensor, passed: Tensor, heads: int) -> Tensor:
    if mask.ndim == 3:
        return mask[:, None] if mask.shape[0] == 1 else rearrange(mask, "(b heads) n m -> b heads n m", heads=heads)
    if mask.ndim == 5:
        return mask.expand(-1, *passed.shape[2:4], -1, -1).flatten(1, 2)
    return mask


def flex(arguments: Arguments, q: Tensor, k: Tensor) -> Masking:
    """Read flex_attention's block_mask and score_mod, where the latter only adds to the logits.

    Raises:
        ValueError: If it does something else, or if eager and compiled kernels would not agree on the blocks.
    """
    block_mask, score_mod = (arguments.values.get(name) for name in ("block_mask", "score_mod"))
    allowed = None if block_mask is None else _allowed(arguments, block_mask, q, k)
    bias = None if score_mod is None else _added(arguments, score_mod, q, k)
    if bias is None or allowed is None:
        return Masking(mask=allowed if bias is None else _boolean(bias))
    return Masking(mask=_boolean(torch.where(allowed, bias, -torch.inf)))


def _allowed(arguments: Arguments, blocks: Any, q: Tensor, k: Tensor) -> Bool[Tensor, "b h n m"]:
    flex = importlib.import_module(FLEX)
    batch, heads = blocks.shape[:2]
    n, m = q.shape[2], k.shape[2]
    check_size(arguments, batch, heads, n, m)
    mask = flex.create_mask(blocks.mask_mod, batch, heads, n, m, device=q.device)
    rows = torch.arange(n, device=q.device)[:, None] // blocks.BLOCK_SIZE[0]
    columns = torch.arange(m, device=q.device) // blocks.BLOCK_SIZE[1]
    compiled = mask & (blocks.to_dense()[..., rows, columns] > 0)
    if blocks.full_kv_num_blocks is not None:
        whole = flex.BlockMask.from_kv_blocks(
            blocks.full_kv_num_blocks, blocks.full_kv_indices, BLOCK_SIZE=blocks.BLOCK_SIZE, seq_lengths=(n, m)
        )
        compiled = compiled | (whole.to_dense()[..., rows, columns] > 0)
    if not torch.equal(compiled, mask):
        raise refuse(
            arguments,
            "a block_mask whose blocks and mask_mod differ (compiled kernels read both, others the mask_mod only)",
            "make it by create_block_mask",
        )
    return mask


def _added(arguments: Arguments, score_mod: Callable[..., Tensor], q: Tensor, k: Tensor) -> Tensor | None:
    """Return what a score_mod adds to the logits, which is the same whatever they are; None if that is nothing."""
    create_mask = importlib.import_module(FLEX).create_mask
    sizes = (q.shape[0], q.shape[1], q.shape[2], k.shape[2])
    check_size(arguments, *sizes)

    def written(value: Callable[..., Tensor]) -> Float[Tensor, "b h n m"]:
        return create_mask(lambda b, h, i, j: value(b, h, i, j), *sizes, device=q.device)

    zero, ramp, steep = (lambda *index, of=of: of(*index).to(torch.float32) for of in (_zero, _ramp, _steep))
    bias = written(lambda *index: score_mod(zero(*index), *index))
    for logits in (ramp, steep):  # small ones show a softcap, large ones a clamp
        if not torch.allclose(written(partial(_moved, score_mod, logits)), written(logits) + bias, atol=1e-4):
            raise refuse(arguments, "a score_mod that does more than add to the logits (softcap?)", "leave it out")
    return bias if bias.any() else None


def _zero(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
    return 0 * (b + h + i + j)


def _ramp(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
    return (3 * b + 5 * h + 7 * i + 11 * j) % 64 - 32


def _steep(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
    return 1000 * _ramp(b, h, i, j)


def _moved(score_mod: Callable[..., Tensor], logits: Callable[..., Tensor], *index: Tensor) -> Tensor:
    return score_mod(logits(*index), *index)


def transformer_engine(arguments: Arguments, q: Tensor, k: Tensor) -> Masking:
    """Read the mask type, window and mask of TransformerEngine's DotProductAttention, its module's where not passed.

    Raises:
        ValueError: If it pads, drops out, adds a sink to the softmax, or shards its sequence.
    """
    values, module = arguments.values, arguments.values["self"]
    kind = (values["attn_mask_type"] or module.attn_mask_type).replace(",", "_")
    for attribute, plain in (("softmax_type", "vanilla"), ("cp_group", None)):
        if getattr(module, attribute, plain) != plain:
            raise refuse(arguments, f"{attribute}={getattr(module, attribute)!r}", f"make the module with {plain!r}")
    if module.training and module.attention_dropout:
        raise refuse(arguments, f"attention_dropout={module.attention_dropout}", "call model.eval()")
    if "padding" in kind:
        raise refuse(
            arguments, f"attn_mask_type={kind!r}", "crop the padding and use 'no_mask', 'causal' or 'arbitrary'"
        )
    left, right = values["window_size"] or module.window_size or (-1, -1)
    right = 0 if "causal" in kind else -1 if left < 0 else right
    aligned = (
        values["bottom_right_diagonal"] if values["bottom_right_diagonal"] is not None else module.bottom_right_diagonal
    )
    from_last = kind != "causal" and ("bottom_right" in kind or aligned is not False)
    masking = _banded(arguments, q, k, window=(left, right), from_last=from_last)
    if kind != "arbitrary":
        return masking
    allowed = ~values["attention_mask"]  # there True is left out
    return Masking(mask=allowed if masking.mask is None else allowed & masking.mask)


def _banded(
    arguments: Arguments,
    q: Tensor,
    k: Tensor,
    *,
    window: tuple[int, int],
    from_last: bool,
    slopes: Float[Tensor, "*b heads"] | None = None,
) -> Masking:
    """Leave out keys outside a window around the query and those of other sequences; a negative edge is open."""
    n, m = q.shape[2], k.shape[2]
    sequences = arguments.sequences
    apart = sequences is not None and not sequences.equal
    if slopes is None and not apart:
        if max(window) < 0:
            return Masking()
        if window[0] < 0 and window[1] == 0 and (n == m or not from_last):
            return Masking(causal=True)
    check_size(arguments, n, m)
    pairs = list(zip(sequences.q, sequences.k, strict=True)) if sequences is not None and apart else [(n, m)]
    i = _counted([a for a, _ in pairs], [b - a if from_last else 0 for a, b in pairs], q.device)[:, None]
    j = _counted([b for _, b in pairs], [0] * len(pairs), q.device)
    owner_q, owner_k = (
        torch.repeat_interleave(torch.arange(len(pairs), device=q.device), torch.tensor(sizes, device=q.device))
        for sizes in zip(*pairs, strict=True)
    )
    mask = owner_q[:, None] == owner_k
    if window[0] >= 0:
        mask = mask & (j >= i - window[0])
    if window[1] >= 0:
        mask = mask & (j <= i + window[1])
    if slopes is None:
        return Masking(mask=mask[None, None])
    if apart and slopes.ndim == 2:
        slopes = rearrange(slopes[owner_q], "n heads -> 1 heads n 1")
    else:
        slopes = slopes.reshape(-1, slopes.shape[-1], 1, 1)
    return Masking(mask=torch.where(mask, -slopes * (i - j).abs(), -torch.inf))


def _counted(sizes: list[int], starts: list[int], device: torch.device) -> Int[Tensor, " n"]:
    pairs = zip(starts, sizes, strict=True)
    return torch.cat([torch.arange(start, start + size, device=device) for start, size in pairs])


def _boolean(mask: Tensor) -> Tensor:
    """Return a mask that only leaves out as a boolean one."""
    left_out = mask.isneginf()
    return ~left_out if ((mask == 0) | left_out).all() else mask


def check_size(arguments: Arguments, *sizes: int) -> None:
    """Refuse a mask that would fill the memory.

    Raises:
        ValueError: If it has more than :data:`LARGEST` entries.
    """
    if torch.Size(sizes).numel() > LARGEST:
        raise ValueError(
            f"AttentionTap: {arguments.name} leaves keys out by a mask of {' x '.join(map(str, sizes))} entries, more "
            f"than {LARGEST}; use fewer views or smaller images"
        )
