"""Every entry of the kernel table, on stand-ins for what needs a GPU, and on the real flex_attention."""

import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from einops import rearrange, repeat
from small_kernels import small_kernels
from standin_packages import STANDINS, standins
from torch import Tensor, nn
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, create_block_mask

from probe.attention import kernel_masks
from probe.attention.call import Call, Run
from probe.attention.kernels import KERNELS
from probe.capture import AttentionTap

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
FA, FA3, FA4 = "flash_attn", "flash_attn_interface", "flash_attn.cute"
SAGE, SAGE3 = "sageattention", "sageattn3"
FLEX = "torch.nn.attention.flex_attention"
SLOPES = torch.tensor([0.5, 0.25, 0.125, 0.0625])


@pytest.fixture(scope="module", autouse=True)
def packages() -> Iterator[None]:
    with standins(STANDINS), small_kernels():
        import xformers.ops  # noqa: F401

        yield


@dataclass(frozen=True, kw_only=True)
class Case:
    """A call of a function, and what must be recorded of it: causal, shape and kind of mask."""

    package: str
    name: str
    layout: str = "b n h d"
    form: str = "qkv"
    options: dict[str, Any] = field(default_factory=dict)
    n: int = 5
    m: int = 5
    kv_heads: int = 4
    causal: bool = False
    mask: tuple[int, ...] | None = None
    lengths: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    others: bool = False

    def __str__(self) -> str:
        shown = ",".join(f"{key}={'x' if isinstance(value, Tensor) else value}" for key, value in self.options.items())
        sizes = "" if self.lengths is None else f"|{self.lengths}"
        return f"{self.package}.{self.name}({shown})[{self.layout}|{self.n}x{self.m}|{self.kv_heads}{sizes}]"


def flash_cases(package: str, name: str, layout: str = "b n h d", form: str = "qkv") -> list[Case]:
    """The same questions of every function of flash-attn, fewer of those that only pack."""
    common = {"package": package, "name": name, "layout": layout, "form": form}
    if form != "qkv":
        more = {} if form == "qkv packed" else {"n": 3, "m": 6, "mask": (1, 1, 3, 6), "kv_heads": 2}
        flag = Case(**common, options={"return_attn_probs": True}, others=True)
        return [Case(**{"causal": not more, **common, **more}, options={"causal": True}), flag]
    none = None if package == FA4 else -1
    cases = [
        Case(**common),
        Case(**common, options={"softmax_scale": 0.3}),
        Case(**common, options={"causal": True}, causal=True),
        Case(**common, options={"window_size": (1, none)}, mask=(1, 1, 5, 5)),
        Case(**common, options={"window_size": (2, 1)}, mask=(1, 1, 5, 5)),
        Case(**common, options={"window_size": (1, 3), "causal": True}, mask=(1, 1, 5, 5)),
        Case(**common, options={"window_size": (none, 0)}, causal=True),
        Case(**common, options={"return_lse" if package == FA4 else "return_attn_probs": True}, others=True),
        Case(**common, kv_heads=2),
        Case(**common, kv_heads=1, options={"causal": True}, causal=True),
        Case(**common, n=3, m=6),
        Case(**common, n=3, m=6, options={"causal": True}, mask=(1, 1, 3, 6)),
        Case(**common, n=6, m=3, options={"causal": True}, mask=(1, 1, 6, 3)),
        Case(**common, n=3, m=6, options={"window_size": (1, 1)}, mask=(1, 1, 3, 6)),
    ]
    if package == FA:
        cases += [
            Case(**common, options={"alibi_slopes": SLOPES}, mask=(1, 4, 5, 5)),
            Case(**common, options={"alibi_slopes": SLOPES, "causal": True}, mask=(1, 4, 5, 5)),
            Case(**common, options={"alibi_slopes": torch.stack([SLOPES, SLOPES / 3])}, mask=(2, 4, 5, 5)),
        ]
    return cases


def ragged_cases(package: str, name: str, form: str = "qkv") -> list[Case]:
    """Sequences of different lengths: one, with a mask of blocks."""
    common = {"package": package, "name": name, "layout": "varlen", "form": form, "mask": (1, 1, 6, 6)}
    same = {**common, "lengths": ((2, 4), (2, 4))}
    cases = [Case(**same), Case(**same, options={"causal": True}), Case(**same, options={"window_size": (1, 0)})]
    if form != "qkv packed":
        cases += [
            Case(**common, lengths=((1, 5), (3, 3)), options={"causal": True}),
            Case(**common, lengths=((3, 3), (2, 4)), kv_heads=2),
        ]
    return cases


CASES = [
    *flash_cases(FA, "flash_attn_func"),
    *flash_cases(FA, "flash_attn_kvpacked_func", form="q kv"),
    *flash_cases(FA, "flash_attn_qkvpacked_func", form="qkv packed"),
    *flash_cases(FA, "flash_attn_varlen_func", "varlen"),
    *flash_cases(FA, "flash_attn_varlen_kvpacked_func", "varlen", "q kv"),
    *flash_cases(FA, "flash_attn_varlen_qkvpacked_func", "varlen", "qkv packed"),
    *ragged_cases(FA, "flash_attn_varlen_func"),
    *ragged_cases(FA, "flash_attn_varlen_kvpacked_func", "q kv"),
    *ragged_cases(FA, "flash_attn_varlen_qkvpacked_func", "qkv packed"),
    Case(
        package=FA, name="flash_attn_varlen_func", layout="varlen", lengths=((2, 4), (2, 4)), mask=(1, 4, 6, 6),
        options={"alibi_slopes": torch.stack([SLOPES, SLOPES / 3])},
    ),
    *flash_cases(FA3, "flash_attn_func"),
    *flash_cases(FA3, "flash_attn_qkvpacked_func", form="qkv packed"),
    *flash_cases(FA3, "flash_attn_varlen_func", "varlen"),
    *ragged_cases(FA3, "flash_attn_varlen_func"),
    *flash_cases(FA4, "flash_attn_func"),
    Case(package=FA4, name="flash_attn_func", options={"window_size": (-1, -1)}),
    *flash_cases(FA4, "flash_attn_varlen_func"),
    *flash_cases(FA4, "flash_attn_varlen_func", "varlen"),
    *ragged_cases(FA4, "flash_attn_varlen_func"),
    *(
        Case(package=package, name=name, layout=layout, **question)
        for package, name, layouts in (
            (SAGE, "sageattn", ("b h n d", "b n h d")),
            (SAGE, "sageattn_qk_int8_pv_fp16_triton", ("b h n d", "b n h d")),
            (SAGE, "sageattn_qk_int8_pv_fp16_cuda", ("b n h d",)),
            (SAGE, "sageattn_qk_int8_pv_fp8_cuda", ("b n h d",)),
            (SAGE, "sageattn_qk_int8_pv_fp8_cuda_sm90", ("b h n d",)),
            (SAGE3, "sageattn3_blackwell", ("b h n d",)),
        )
        for layout in layouts
        for question in ({}, {"kv_heads": 2, "m": 7}, {"options": {"is_causal": True}, "causal": True})
    ),
    Case(package=SAGE, name="sageattn", layout="b h n d", options={"sm_scale": 0.3, "attn_mask": None}),
    Case(package=SAGE, name="sageattn", layout="b h n d", options={"return_lse": True, "smooth_k": False}, others=True),
    Case(
        package=SAGE, name="sageattn_qk_int8_pv_fp16_triton", layout="b h n d", mask=(1, 1, 1, 5),
        options={"attn_mask": torch.tensor([True, False, True, True, False])[None, None, None]},
    ),
    Case(package=SAGE, name="sageattn_varlen", layout="varlen", kv_heads=2),
    Case(package=SAGE, name="sageattn_varlen", layout="varlen", options={"is_causal": True}, causal=True),
    Case(
        package=SAGE, name="sageattn_varlen", layout="varlen", lengths=((2, 4), (2, 4)), mask=(1, 1, 6, 6),
        options={"is_causal": True},
    ),
]  # fmt: skip


def made(case: Case, q: Tensor, k: Tensor, v: Tensor) -> Any:
    """Call a case's function as a model would, with its layout; returns what it gives."""
    function = getattr(sys.modules[case.package], case.name)
    options = dict(case.options)
    if case.layout == "varlen":
        tensors = [rearrange(x, "b h n d -> (b n) h d") for x in (q, k, v)]
        lengths = case.lengths or ((case.n,) * 2, (case.m,) * 2)
        ends = [torch.tensor([0, *x]).cumsum(0).to(torch.int32) for x in lengths]
        names = ("", "") if case.form == "qkv packed" else ("_q", "_k")
        for name, end, length in zip(names, ends, lengths, strict=True):
            options |= {f"cu_seqlens{name}": end, f"max_seqlen{name}": max(length)}
    else:
        tensors = [rearrange(x, f"b h n d -> {case.layout}") for x in (q, k, v)]
    if case.package == SAGE and case.layout == "b n h d":
        options["tensor_layout"] = "NHD"
    apart = {"qkv": 3, "q kv": 1, "qkv packed": 0}[case.form]
    packed = [] if apart == 3 else [torch.stack(tensors[apart:], -3)]
    return function(*tensors[:apart], *packed, **options)


class Layer(nn.Module):
    """A model that is one call: from q, k, v [b h n d] to what the function gives."""

    def __init__(self, call: Callable[[Tensor, Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.call = call

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Any:
        return self.call(q, k, v)


def drawn(n: int = 5, m: int = 5, *, b: int = 2, kv_heads: int = 4, d: int = 8) -> list[Tensor]:
    generator = torch.Generator().manual_seed(n + m)
    shapes = ((b, 4, n, d), (b, kv_heads, m, d), (b, kv_heads, m, d))
    return [torch.randn(shape, generator=generator) for shape in shapes]


def inputs(case: Case) -> list[Tensor]:
    if case.lengths is None:
        return drawn(case.n, case.m, kv_heads=case.kv_heads)
    return drawn(sum(case.lengths[0]), sum(case.lengths[1]), b=1, kv_heads=case.kv_heads)


def first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def canonical(case: Case, output: Any) -> Tensor:
    out = first(output)
    if case.layout == "varlen":
        return rearrange(out, "(b n) h d -> b h n d", b=2 if case.lengths is None else 1)
    return rearrange(out, f"{case.layout} -> b h n d")


def recomputed(call: Call) -> Tensor:
    """The output by the record alone; queries without any key give zeros."""
    logits = call.q @ call.k_per_head.mT * call.scale
    if call.mask is not None:
        logits = logits.masked_fill(~call.mask, -torch.inf) if call.mask.dtype == torch.bool else logits + call.mask
    if call.causal:
        logits = logits + torch.full_like(logits, -torch.inf).triu(1)
    return logits.softmax(-1).nan_to_num(0) @ call.v_per_head


def same(call: Call, run: Run) -> Tensor:
    return run(call.q, call.k, call.v)


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, tuple):
        return isinstance(b, tuple) and len(a) == len(b) and all(map(equal, a, b))
    return a is b if a is None else torch.equal(a, b)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_record_is_what_the_kernel_computes(case: Case):
    model, tensors = Layer(lambda *x: made(case, *x)), inputs(case)
    expected = model(*tensors)
    with AttentionTap(model, "", keep="detached") as tap:
        assert equal(model(*tensors), expected)
    call = tap[""]
    assert (call.kernel, call.causal, call.gqa) == (case.name, case.causal, case.kv_heads != 4)
    assert (None if call.mask is None else tuple(call.mask.shape)) == case.mask
    for kept, passed in zip((call.q, call.k, call.v), tensors, strict=True):
        assert torch.equal(kept, passed)
    torch.testing.assert_close(recomputed(call), canonical(case, expected), rtol=0, atol=1e-5)
    with AttentionTap(model, "", edit=same):
        assert equal(model(*tensors), expected)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_edit_goes_back_in_the_kernels_layout(case: Case):
    model, tensors = Layer(lambda *x: made(case, *x)), inputs(case)

    def twice(call: Call, run: Run) -> Tensor:
        return 2 * run(call.q, call.k, call.v)

    def mean(call: Call, run: Run) -> Tensor:
        return repeat(call.v_per_head.mean(2), "b h d -> b h n d", n=call.q.shape[2])

    expected = model(*tensors)
    with AttentionTap(model, "", edit=twice):
        output = model(*tensors)
    assert torch.equal(first(output), 2 * first(expected))
    if case.others:  # the log-sum-exp of an output that no kernel computed
        assert output[1].isnan().all()
        assert output[1].shape == expected[1].shape
    with AttentionTap(model, "", edit=mean):
        output = model(*tensors)
    torch.testing.assert_close(
        canonical(case, output), mean(Call("", 0, 0, *tensors, 1.0, None, False, False, torch.float32, ""), same)
    )
    assert isinstance(output, tuple) == isinstance(expected, tuple)
