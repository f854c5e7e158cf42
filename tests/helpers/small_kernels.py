"""Stand-ins for attention packages that need a GPU: the signatures of the real functions, computed by hand on a CPU.

Argument names, their order, layouts, alignment and what is given back are those of the files below; low precision and
speed are not. ``docs/references.md``, "Attention kernels", names the commits.

- ``flash_attn/flash_attn_interface.py``, ``hopper/flash_attn_interface.py``, ``flash_attn/cute/interface.py`` of
  Dao-AILab/flash-attention
- ``sageattention/core.py``, ``sageattention3_blackwell/sageattn3/api.py`` of thu-ml/SageAttention
- ``transformer_engine/pytorch/attention/dot_product_attention/dot_product_attention.py`` of NVIDIA/TransformerEngine
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

Allowed = Callable[[int, int], bool]


def attend(
    q: Tensor, k: Tensor, v: Tensor, scale: float | None, allowed: Allowed = lambda i, j: True, bias: Any = 0.0
) -> tuple[Tensor, Tensor]:
    """Attend over [n heads d], one sequence; queries without any key give zeros. Returns output and log-sum-exp."""
    shared = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(shared, dim=1) for x in (k, v))
    logits = torch.einsum("ihd,jhd->hij", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale) + bias
    for i in range(q.shape[0]):
        for j in range(k.shape[0]):
            if not allowed(i, j):
                logits[:, i, j] = -torch.inf
    lse = logits.logsumexp(-1)
    return torch.einsum("hij,jhd->ihd", logits.softmax(-1).nan_to_num(0), v), lse


def _flash(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None,
    causal: bool,
    window: tuple[Any, Any],
    slopes: Any,
    open_side: Any,
) -> tuple[Tensor, Tensor]:
    """Causal is aligned to the bottom right corner; query i sees keys i + m - n - left to i + m - n + right."""
    n, m = q.shape[0], k.shape[0]
    left, right = (None if side == open_side else side for side in window)
    right = 0 if causal else right

    def allowed(i: int, j: int) -> bool:
        at = i + m - n
        return (left is None or j >= at - left) and (right is None or j <= at + right)

    bias = 0.0
    if slopes is not None:
        distance = torch.tensor([[abs(i + m - n - j) for j in range(m)] for i in range(n)])
        bias = -slopes[:, None, None] * distance
    return attend(q, k, v, scale, allowed, bias)


def _batched(
    q: Tensor, k: Tensor, v: Tensor, scale: Any, causal: bool, window: Any, slopes: Any = None, open_side: Any = -1
) -> tuple[Tensor, Tensor]:
    assert q.ndim == k.ndim == v.ndim == 4
    per = [slopes[b] if slopes is not None and slopes.ndim == 2 else slopes for b in range(len(q))]
    each = [_flash(*x, scale, causal, window, s, open_side) for *x, s in zip(q, k, v, per, strict=True)]
    return torch.stack([out for out, _ in each]), torch.stack([lse for _, lse in each])


def _joined(
    q: Tensor, k: Tensor, v: Tensor, ends: tuple[Tensor, Tensor], longest: tuple[int, int], scale: Any, causal: bool,
    window: Any, slopes: Any = None, open_side: Any = -1,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    assert q.ndim == k.ndim == v.ndim == 3
    out, lse = [], []
    for b in range(len(ends[0]) - 1):
        (q0, q1), (k0, k1) = (end[b : b + 2].tolist() for end in ends)
        assert q1 - q0 <= longest[0]
        assert k1 - k0 <= longest[1]
        slope = slopes[b] if slopes is not None and slopes.ndim == 2 else slopes
        one = _flash(q[q0:q1], k[k0:k1], v[k0:k1], scale, causal, window, slope, open_side)
        out.append(one[0])
        lse.append(one[1])
    return torch.cat(out), torch.cat(lse, dim=-1)


def flash_attn_func(
    q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0, alibi_slopes=None,
    deterministic=False, return_attn_probs=False,
):  # fmt: skip
    """flash-attn 2."""
    out, lse = _batched(q, k, v, softmax_scale, causal, window_size, alibi_slopes)
    return (out, lse, None) if return_attn_probs else out


def flash_attn_kvpacked_func(
    q, kv, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0, alibi_slopes=None,
    deterministic=False, return_attn_probs=False,
):  # fmt: skip
    """flash-attn 2; kv is (batch_size, seqlen, 2, nheads_k, headdim)."""
    assert kv.shape[2] == 2
    args = (dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes, deterministic, return_attn_probs)
    return flash_attn_func(q, kv[:, :, 0], kv[:, :, 1], *args)


def flash_attn_qkvpacked_func(
    qkv, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0, alibi_slopes=None,
    deterministic=False, return_attn_probs=False,
):  # fmt: skip
    """flash-attn 2; qkv is (batch_size, seqlen, 3, nheads, headdim)."""
    assert qkv.shape[2] == 3
    args = (dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes, deterministic, return_attn_probs)
    return flash_attn_func(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], *args)


def flash_attn_varlen_func(
    q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None, causal=False,
    window_size=(-1, -1), softcap=0.0, alibi_slopes=None, deterministic=False, return_attn_probs=False,
    block_table=None,
):  # fmt: skip
    """flash-attn 2; q is (total_q, nheads, headdim)."""
    assert cu_seqlens_q.dtype == cu_seqlens_k.dtype == torch.int32
    ends, longest = (cu_seqlens_q, cu_seqlens_k), (max_seqlen_q, max_seqlen_k)
    out, lse = _joined(q, k, v, ends, longest, softmax_scale, causal, window_size, alibi_slopes)
    return (out, lse, None) if return_attn_probs else out


def flash_attn_varlen_kvpacked_func(
    q, kv, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None, causal=False,
    window_size=(-1, -1), softcap=0.0, alibi_slopes=None, deterministic=False, return_attn_probs=False,
):  # fmt: skip
    """flash-attn 2; kv is (total_k, 2, nheads_k, headdim)."""
    lengths = (cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)
    args = (dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes, deterministic, return_attn_probs)
    return flash_attn_varlen_func(q, kv[:, 0], kv[:, 1], *lengths, *args)


def flash_attn_varlen_qkvpacked_func(
    qkv, cu_seqlens, max_seqlen, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0,
    alibi_slopes=None, deterministic=False, return_attn_probs=False,
):  # fmt: skip
    """flash-attn 2; qkv is (total, 3, nheads, headdim)."""
    lengths = (cu_seqlens, cu_seqlens, max_seqlen, max_seqlen)
    args = (dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes, deterministic, return_attn_probs)
    return flash_attn_varlen_func(qkv[:, 0], qkv[:, 1], qkv[:, 2], *lengths, *args)


def _third() -> dict[str, Any]:
    def flash_attn_func(
        q, k, v, softmax_scale=None, causal=False, qv=None, q_descale=None, k_descale=None, v_descale=None,
        window_size=(-1, -1), attention_chunk=0, softcap=0.0, num_splits=1, pack_gqa=None, deterministic=False,
        sm_margin=0, return_attn_probs=False,
    ):  # fmt: skip
        out, lse = _batched(q, k, v, softmax_scale, causal, window_size)
        return (out, lse) if return_attn_probs else out

    def flash_attn_qkvpacked_func(
        qkv, softmax_scale=None, causal=False, q_descale=None, k_descale=None, v_descale=None, window_size=(-1, -1),
        attention_chunk=0, softcap=0.0, deterministic=False, num_heads_q=None, sm_margin=0, return_attn_probs=False,
    ):  # fmt: skip
        out, lse = _batched(*qkv.unbind(-3), softmax_scale, causal, window_size)
        return (out, lse) if return_attn_probs else out

    def flash_attn_varlen_func(
        q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, seqused_q=None, seqused_k=None,
        softmax_scale=None, causal=False, qv=None, q_descale=None, k_descale=None, v_descale=None,
        window_size=(-1, -1), attention_chunk=0, softcap=0.0, num_splits=1, pack_gqa=None, deterministic=False,
        sm_margin=0, return_attn_probs=False,
    ):  # fmt: skip
        ends, longest = (cu_seqlens_q, cu_seqlens_k), (max_seqlen_q, max_seqlen_k)
        out, lse = _joined(q, k, v, ends, longest, softmax_scale, causal, window_size)
        return (out, lse) if return_attn_probs else out

    return {f.__name__: f for f in (flash_attn_func, flash_attn_qkvpacked_func, flash_attn_varlen_func)}


def _fourth() -> dict[str, Any]:
    def flash_attn_func(
        q, k, v, qv=None, gather_kv_indices=None, softmax_scale=None, causal=False, window_size=(None, None),
        learnable_sink=None, softcap=0.0, num_splits=1, pack_gqa=None, deterministic=False, score_mod=None,
        score_mod_bwd=None, mask_mod=None, aux_tensors=None, aux_scalars=None, block_sparse_tensors=None,
        block_sparse_tensors_bwd=None, return_lse=False,
    ):  # fmt: skip
        window = (None, None) if window_size == (-1, -1) else window_size
        out, lse = _batched(q, k, v, softmax_scale, causal, window, open_side=None)
        return out, lse if return_lse else None

    def flash_attn_varlen_func(
        q, k, v, qv=None, cu_seqlens_q=None, cu_seqlens_k=None, max_seqlen_q=None, max_seqlen_k=None,
        min_seqlen_k=None, seqused_q=None, seqused_k=None, gather_kv_indices=None, page_table=None,
        softmax_scale=None, causal=False, window_size=(None, None), learnable_sink=None, softcap=0.0, num_splits=1,
        pack_gqa=None, deterministic=False, score_mod=None, score_mod_bwd=None, mask_mod=None,
        block_sparse_tensors=None, aux_tensors=None, aux_scalars=None, return_lse=False, scheduler_metadata=None,
        seqlen_k_per_split=None, disable_scheduler_metadata=False,
    ):  # fmt: skip
        if cu_seqlens_q is None and cu_seqlens_k is None:
            out, lse = _batched(q, k, v, softmax_scale, causal, window_size, open_side=None)
        else:
            ends = (cu_seqlens_q, cu_seqlens_k)
            longest = (max_seqlen_q or 1000, max_seqlen_k or 1000)
            out, lse = _joined(q, k, v, ends, longest, softmax_scale, causal, window_size, open_side=None)
        return out, lse if return_lse else None

    return {f.__name__: f for f in (flash_attn_func, flash_attn_varlen_func)}


def _sage(q: Tensor, k: Tensor, v: Tensor, layout: str, causal: bool, scale: Any, mask: Any, lse: bool) -> Any:
    assert layout in ("HND", "NHD")
    q, k, v = (x.transpose(1, 2) if layout == "HND" else x for x in (q, k, v))
    assert not causal or q.shape[1] == k.shape[1], "only applicable when qo_len == kv_len"
    full = None if mask is None else mask.expand(len(q), q.shape[2], q.shape[1], k.shape[1])

    def one(b: int) -> tuple[Tensor, Tensor]:
        bias = 0.0 if full is None else torch.where(full[b], 0.0, -torch.inf)
        return attend(q[b], k[b], v[b], scale, lambda i, j: not causal or j <= i, bias)

    each = [one(b) for b in range(len(q))]
    out = torch.stack([x for x, _ in each])
    out = out.transpose(1, 2) if layout == "HND" else out
    return (out, torch.stack([x for _, x in each])) if lse else out


def sageattn(q, k, v, tensor_layout="HND", is_causal=False, sm_scale=None, return_lse=False, **kwargs):
    """SageAttention 2, which ignores what else it is given."""
    return _sage(q, k, v, tensor_layout, is_causal, sm_scale, None, return_lse)


def sageattn_qk_int8_pv_fp16_triton(
    q, k, v, tensor_layout="HND", quantization_backend="triton", is_causal=False, attn_mask=None, sm_scale=None,
    smooth_k=True, return_lse=False, **kwargs,
):  # fmt: skip
    """SageAttention 2."""
    return _sage(q, k, v, tensor_layout, is_causal, sm_scale, attn_mask, return_lse)


def sageattn_qk_int8_pv_fp16_cuda(
    q, k, v, tensor_layout="HND", is_causal=False, qk_quant_gran="per_thread", sm_scale=None, pv_accum_dtype="fp32",
    smooth_k=True, smooth_v=False, return_lse=False, **kwargs,
):  # fmt: skip
    """SageAttention 2."""
    return _sage(q, k, v, tensor_layout, is_causal, sm_scale, None, return_lse)


def sageattn_qk_int8_pv_fp8_cuda(
    q, k, v, tensor_layout="HND", is_causal=False, qk_quant_gran="per_thread", sm_scale=None,
    pv_accum_dtype="fp32+fp16", smooth_k=True, smooth_v=False, return_lse=False, **kwargs,
):  # fmt: skip
    """SageAttention 2."""
    return _sage(q, k, v, tensor_layout, is_causal, sm_scale, None, return_lse)


def sageattn_qk_int8_pv_fp8_cuda_sm90(
    q, k, v, tensor_layout="HND", is_causal=False, qk_quant_gran="per_thread", sm_scale=None,
    pv_accum_dtype="fp32+fp32", smooth_k=True, return_lse=False, **kwargs,
):  # fmt: skip
    """SageAttention 2."""
    return _sage(q, k, v, tensor_layout, is_causal, sm_scale, None, return_lse)


def sageattn_varlen(
    q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, is_causal=False, sm_scale=None, smooth_k=True,
    **kwargs,
):  # fmt: skip
    """SageAttention 2."""
    ends, longest = (cu_seqlens_q, cu_seqlens_k), (max_seqlen_q, max_seqlen_k)
    return _joined(q, k, v, ends, longest, sm_scale, is_causal, (-1, -1))[0]


def sageattn3_blackwell(q, k, v, attn_mask=None, is_causal=False, per_block_mean=True, **kwargs):
    """SageAttention 3, [batch, heads, tokens, channels]; it ignores the mask."""
    return _sage(q, k, v, "HND", is_causal, None, None, False)


class Unfused(nn.Module):
    """TransformerEngine's own fallback: it knows the scale, and attends by fused attention."""

    def __init__(self, softmax_scale: float) -> None:
        super().__init__()
        self.softmax_scale = softmax_scale

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """Attend over [b heads n d]."""
        gqa = {"enable_gqa": q.shape[1] != k.shape[1]}
        return nn.functional.scaled_dot_product_attention(q, k, v, mask, scale=self.softmax_scale, **gqa)


class DotProductAttention(nn.Module):
    """TransformerEngine's module, where True in a mask leaves out and heads and channels come back as one axis."""

    def __init__(
        self, num_attention_heads, kv_channels, num_gqa_groups=None, attention_dropout=0.0, qkv_format="sbhd",
        attn_mask_type="causal", window_size=None, bottom_right_diagonal=None, softmax_scale=None,
        softmax_type="vanilla", cp_group=None,
    ):  # fmt: skip
        super().__init__()
        self.attn_mask_type, self.window_size, self.qkv_format = attn_mask_type, window_size, qkv_format
        self.bottom_right_diagonal, self.attention_dropout = bottom_right_diagonal, attention_dropout
        self.softmax_type, self.cp_group = softmax_type, cp_group
        self.unfused_attention = Unfused(kv_channels**-0.5 if softmax_scale is None else softmax_scale)

    def forward(
        self, query_layer=None, key_layer=None, value_layer=None, attention_mask=None, qkv_format=None,
        cu_seqlens_q=None, cu_seqlens_kv=None, cu_seqlens_q_padded=None, cu_seqlens_kv_padded=None, max_seqlen_q=None,
        max_seqlen_kv=None, attn_mask_type=None, window_size=None, bottom_right_diagonal=None,
        checkpoint_core_attention=False, core_attention_bias_type="no_bias", core_attention_bias=None,
        alibi_slopes=None, fast_zero_fill=True, inference_params=None, pad_between_seqs=None, fp8_output=False,
        bf16_backward=False, num_splits=1, score_mod=None, score_mod_bprop=None, score_mod_tensors=None,
        score_mod_bprop_tensors=None, qkv_layer=None, kv_layer=None, qkv_interleave_dim=-3,
    ):  # fmt: skip
        """Attend over [s b h d] or [b s h d]."""
        axes = {"sbhd": "n b", "bshd": "b n"}[qkv_format or self.qkv_format]
        q, k, v = (rearrange(x, f"{axes} h d -> b h n d") for x in (query_layer, key_layer, value_layer))
        kind = attn_mask_type or self.attn_mask_type
        left, right = window_size or self.window_size or (-1, -1)
        aligned = self.bottom_right_diagonal if bottom_right_diagonal is None else bottom_right_diagonal
        last = "bottom_right" in kind or (kind != "causal" and aligned is not False)
        shift = k.shape[2] - q.shape[2] if last else 0
        mask = torch.tensor([
            [
                (left < 0 or j >= i + shift - left)
                and ((right < 0 and "causal" not in kind) or j <= i + shift + (0 if "causal" in kind else right))
                for j in range(k.shape[2])
            ]
            for i in range(q.shape[2])
        ])  # fmt: skip
        if kind == "arbitrary":
            mask = mask & ~attention_mask
        return rearrange(self.unfused_attention(q, k, v, mask), f"b h n d -> {axes} (h d)")


def _own(names: list[str]) -> dict[str, Any]:
    return {name: globals()[name] for name in names}


FLASH = [name for name in list(globals()) if name.startswith("flash_attn_")]
SAGE = ["sageattn", "sageattn_varlen", *(name for name in list(globals()) if name.startswith("sageattn_qk"))]
PACKAGES: dict[tuple[str, ...], Callable[[], dict[str, Any]]] = {
    ("flash_attn.flash_attn_interface", "flash_attn"): lambda: _own(FLASH),
    ("flash_attn_interface",): _third,
    ("flash_attn.cute.interface", "flash_attn.cute"): _fourth,
    ("sageattention.core", "sageattention"): lambda: _own(SAGE),
    ("sageattn3.api", "sageattn3"): lambda: _own(["sageattn3_blackwell"]),
    (
        "transformer_engine.pytorch.attention",
        "transformer_engine.pytorch",
        "transformer_engine",
    ): lambda: _own(["DotProductAttention"]),
}
"""What is defined by the first of some modules; the others hold it too."""


@contextmanager
def small_kernels() -> Iterator[None]:
    """Let the stand-ins be imported under the names of the real packages, for a while."""
    names = [name for modules in PACKAGES for name in modules]
    before = {name: sys.modules.pop(name, None) for name in names}
    for modules, content in PACKAGES.items():
        defined = content()
        for function in defined.values():
            function.__module__ = modules[0]
        for name in modules:
            sys.modules[name] = ModuleType(name)
            vars(sys.modules[name]).update(defined)
    try:
        yield
    finally:
        for name, module in before.items():
            del sys.modules[name]
            if module is not None:
                sys.modules[name] = module
