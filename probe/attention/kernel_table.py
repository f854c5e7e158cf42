"""The table of attention kernels: for each function, how to read what it is called with.

An argument that is not in the table must be at its default, also one that a later version of the package adds: else the
call is refused. Nothing is recorded that the table does not understand.

Source: docs/references.md, "Attention kernels".
"""

from collections.abc import Callable
from dataclasses import dataclass

from probe.attention import kernel_masks as masks
from probe.attention.kernel_layouts import (
    CANONICAL,
    Arguments,
    LayoutOf,
    always,
    by_axes,
    by_qkv_format,
    by_sequences,
    by_tensor_layout,
)
from probe.attention.kernel_masks import MaskOf

ScaleOf = Callable[[Arguments], float | None]
"""Reads the factor of the logits; None means one over the root of the channels."""


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """How to read the arguments of an attention function.

    Attributes:
        tensors: Arguments with queries, keys and values; two where keys and values, one where all three are packed
            along the third axis from the end.
        layout: Chooses the order of axes.
        mask: Reads what is left out.
        scale: Reads the factor of the logits.
        reads: Arguments that these three read.
        lengths: For sequences along one axis, the arguments with the cumulative lengths, and with the longest, of
            queries and of keys.
        free: Arguments that change neither queries, keys and values nor the weights.
    """

    tensors: tuple[str, ...]
    layout: LayoutOf
    mask: MaskOf
    scale: ScaleOf
    reads: tuple[str, ...]
    lengths: tuple[tuple[str, str], ...] = ()
    free: tuple[str, ...] = ()


def named(argument: str) -> ScaleOf:
    """Return the scale that an argument holds."""
    return lambda arguments: arguments.values.get(argument)


QKV = ("q", "k", "v")
PACKED: dict[str, tuple[str, ...]] = {"": QKV, "kvpacked_": ("q", "kv"), "qkvpacked_": ("qkv",)}
LENGTHS = (("cu_seqlens_q", "max_seqlen_q"), ("cu_seqlens_k", "max_seqlen_k"))


def flash(tensors: tuple[str, ...], mask: MaskOf, *, lengths: tuple[tuple[str, str], ...] = ()) -> Kernel:
    """Return the entry of a function of flash-attn."""
    return Kernel(
        tensors=tensors,
        layout=by_sequences if lengths else always("b n heads d"),
        mask=mask,
        scale=named("softmax_scale"),
        reads=("softmax_scale", "causal", "window_size", "alibi_slopes"),
        lengths=lengths,
        free=(
            *("deterministic", "return_attn_probs", "return_lse", "num_splits", "pack_gqa", "sm_margin"),
            *("min_seqlen_k", "scheduler_metadata", "seqlen_k_per_split", "disable_scheduler_metadata"),
        ),
    )


def flash_2(packing: str, *, varlen: bool) -> Kernel:
    """Return the entry of one of the six functions of flash-attn 2."""
    lengths = (("cu_seqlens", "max_seqlen"),) * 2 if packing == "qkvpacked_" else LENGTHS
    return flash(PACKED[packing], masks.flash, lengths=lengths if varlen else ())


def sage(*, mask: bool = False, varlen: bool = False) -> Kernel:
    """Return the entry of a function of SageAttention."""
    return Kernel(
        tensors=QKV,
        layout=by_sequences if varlen else by_tensor_layout,
        mask=masks.sage,
        scale=named("sm_scale"),
        reads=("is_causal", "sm_scale", *(() if varlen else ("tensor_layout",)), *(("attn_mask",) if mask else ())),
        lengths=LENGTHS if varlen else (),
        free=("quantization_backend", "smooth_k", "smooth_v", "qk_quant_gran", "pv_accum_dtype", "return_lse"),
    )


SAGE_3 = Kernel(
    tensors=QKV,
    layout=always(CANONICAL),
    mask=masks.sage,
    scale=lambda _arguments: None,
    reads=("is_causal",),
    free=("per_block_mean",),
)
XFORMERS = Kernel(
    tensors=("query", "key", "value"),
    layout=by_axes,
    mask=masks.xformers,
    scale=named("scale"),
    reads=("attn_bias", "scale"),
    free=("op",),
)
FLEX = Kernel(
    tensors=("query", "key", "value"),
    layout=always(CANONICAL),
    mask=masks.flex,
    scale=named("scale"),
    reads=("score_mod", "block_mask", "scale", "enable_gqa"),
    free=("return_lse", "return_aux", "kernel_options"),
)
TRANSFORMER_ENGINE = Kernel(
    tensors=("query_layer", "key_layer", "value_layer"),
    layout=by_qkv_format,
    mask=masks.transformer_engine,
    scale=lambda arguments: arguments.values["self"].unfused_attention.softmax_scale,
    reads=("self", "attention_mask", "qkv_format", "attn_mask_type", "window_size", "bottom_right_diagonal"),
    free=("max_seqlen_q", "max_seqlen_kv", "checkpoint_core_attention", "fast_zero_fill", "num_splits"),
)
KERNELS: dict[str, Kernel] = {
    **{
        f"flash_attn.flash_attn_interface.flash_attn_{'varlen_' * varlen}{packing}func": flash_2(packing, varlen=varlen)
        for varlen in (False, True)
        for packing in PACKED
    },
    "flash_attn_interface.flash_attn_func": flash(QKV, masks.flash),
    "flash_attn_interface.flash_attn_qkvpacked_func": flash(("qkv",), masks.flash),
    "flash_attn_interface.flash_attn_varlen_func": flash(QKV, masks.flash, lengths=LENGTHS),
    "flash_attn.cute.interface.flash_attn_func": flash(QKV, masks.flash_4),
    "flash_attn.cute.interface.flash_attn_varlen_func": flash(QKV, masks.flash_4, lengths=LENGTHS),
    "sageattention.core.sageattn": sage(),
    "sageattention.core.sageattn_qk_int8_pv_fp16_triton": sage(mask=True),
    "sageattention.core.sageattn_qk_int8_pv_fp16_cuda": sage(),
    "sageattention.core.sageattn_qk_int8_pv_fp8_cuda": sage(),
    "sageattention.core.sageattn_qk_int8_pv_fp8_cuda_sm90": sage(),
    "sageattention.core.sageattn_varlen": sage(varlen=True),
    "sageattn3.api.sageattn3_blackwell": SAGE_3,
    "xformers.ops.memory_efficient_attention": XFORMERS,
    "torch.nn.attention.flex_attention.flex_attention": FLEX,
    "transformer_engine.pytorch.DotProductAttention.forward": TRANSFORMER_ENGINE,
}
"""Functions that a tap can see, by where they are defined."""
