"""Every entry of the kernel table, on stand-ins for what needs a GPU, and on the real flex_attention."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from einops import rearrange, repeat
from small_kernels import small_kernels
from standin_packages import STANDINS, standins
from torch import Tensor, nn
from torch.nn import functional as F
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


def twice(call: Call, run: Run) -> Tensor:
    return 2 * run(call.q, call.k, call.v)


def mean(call: Call, run: Run) -> Tensor:
    return repeat(call.v_per_head.mean(2), "b h d -> b h n d", n=call.q.shape[2])


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
    with AttentionTap(model, "", edit=lambda call, run: run(call.q, call.k, call.v)):
        assert equal(model(*tensors), expected)


PLAIN = [case for case in CASES if case.others or not case.options]


def test_a_kernel_that_another_package_holds_stays_as_it_is(monkeypatch: pytest.MonkeyPatch):
    """What such a package computes with it is part of its own kernel, which is recorded as one."""
    kernel = sys.modules[FA].flash_attn_func
    monkeypatch.setattr(sys.modules["xformers.ops"], "held", kernel, raising=False)
    model = Layer(
        lambda q, k, v: sys.modules[FA].flash_attn_func(*(rearrange(x, "b h n d -> b n h d") for x in (q, k, v)))
    )
    with AttentionTap(model, ""):
        assert sys.modules["xformers.ops"].held is kernel
        assert sys.modules[FA].flash_attn_func is not kernel
        model(*drawn())


@pytest.mark.parametrize("case", PLAIN, ids=str)
def test_an_edit_goes_back_in_the_kernels_layout(case: Case):
    model, tensors = Layer(lambda *x: made(case, *x)), inputs(case)
    expected = model(*tensors)
    with AttentionTap(model, "", edit=twice):
        output = model(*tensors)
    assert torch.equal(first(output), 2 * first(expected))
    if case.others:  # the log-sum-exp of an output that no kernel computed
        assert output[1].isnan().all()
        assert output[1].shape == expected[1].shape
    with AttentionTap(model, "", edit=mean, keep="detached") as tap:
        output = model(*tensors)
    torch.testing.assert_close(canonical(case, output), mean(tap[""], lambda q, k, v: q))
    assert isinstance(output, tuple) == isinstance(expected, tuple)


@pytest.mark.parametrize("layout", ["b n h d", "varlen"])
def test_an_edit_may_move_tokens_to_the_batch(layout: str):
    name = "flash_attn_varlen_func" if layout == "varlen" else "flash_attn_func"
    case = Case(package=FA, name=name, layout=layout, n=6, m=6, options={"causal": True})
    model, tensors = Layer(lambda *x: made(case, *x)), inputs(case)

    def halves(call: Call, run: Run) -> Tensor:
        parts = (rearrange(x, "b h (s n) d -> (b s) h n d", s=2) for x in (call.q, call.k, call.v))
        return rearrange(run(*parts), "(b s) h n d -> b h (s n) d", s=2)

    with AttentionTap(model, "", edit=halves):
        output = canonical(case, model(*tensors))
    torch.testing.assert_close(output[:, :, :3], canonical(case, model(*tensors))[:, :, :3])
    later = F.scaled_dot_product_attention(*(x[:, :, 3:] for x in tensors), is_causal=True)
    torch.testing.assert_close(output[:, :, 3:], later)


REFUSED = [
    (FA, "flash_attn_func", {"softcap": 30.0}, r"softcap=30\.0.*leave it at 0\.0 in the model, or choose"),
    (FA, "flash_attn_func", {"dropout_p": 0.1}, r"dropout_p=0\.1.*leave it at 0\.0"),
    (FA3, "flash_attn_func", {"attention_chunk": 4}, "attention_chunk=4"),
    (FA3, "flash_attn_func", {"qv": torch.zeros(1)}, "qv=Tensor"),
    (FA4, "flash_attn_func", {"score_mod": lambda *x: x[0]}, "score_mod=function"),
    (FA4, "flash_attn_func", {"learnable_sink": torch.zeros(4)}, "learnable_sink=Tensor"),
    (FA4, "flash_attn_func", {"window_size": (3, -1)}, r"window_size=\(3, -1\).*use None for an open side"),
    (FA4, "flash_attn_varlen_func", {"seqused_k": torch.ones(2)}, "seqused_k=Tensor"),
    (SAGE, "sageattn", {"attn_mask": torch.ones(1)}, "attn_mask=Tensor"),
    (SAGE3, "sageattn3_blackwell", {"attn_mask": torch.ones(1)}, "attn_mask=Tensor"),
]


@pytest.mark.parametrize(("package", "name", "options", "message"), REFUSED)
def test_what_a_record_cannot_express_is_refused(package: str, name: str, options: dict[str, Any], message: str):
    model = Layer(lambda *x: made(Case(package=package, name=name, options=options), *x))
    with pytest.raises(ValueError, match=rf"AttentionTap: {name} has {message}"), AttentionTap(model, ""):
        model(*drawn())


def test_layouts_and_sequences_that_cannot_be_read_are_refused(monkeypatch: pytest.MonkeyPatch):
    def refused(call: Callable[..., Any], message: str, **sizes: Any) -> None:
        with pytest.raises(ValueError, match=message), AttentionTap(model := Layer(call), ""):
            model(*drawn(**sizes))

    fa, sage = sys.modules[FA], sys.modules[SAGE]
    refused(
        lambda q, k, v: fa.flash_attn_func(q[0], k[0], v[0]),
        r"got queries of shape \(4, 5, 8\), expected \[b n heads d",
    )
    refused(lambda q, k, v: sage.sageattn(q, k, v, "NDH"), r"tensor_layout='NDH', expected one of \['HND', 'NHD'\]")
    refused(lambda q, k, v: sage.sageattn(q, k, v, is_causal=True), "is_causal with 5 queries and 7 keys", m=7)
    refused(lambda *_: fa.flash_attn_qkvpacked_func(None), "without tensors qkv")
    ends = torch.tensor([0, 4], dtype=torch.int32)
    joined = [rearrange(x, "b h n d -> (b n) h d") for x in drawn()]
    refused(
        lambda *_: fa.flash_attn_varlen_func(*joined, ends, ends, 4, 4), r"end at \[0, 4\].*last of 10 and 10 tokens"
    )
    fa4 = sys.modules[FA4]
    refused(
        lambda *_: fa4.flash_attn_varlen_func(*joined, cu_seqlens_q=ends), r"end at \[0, 4\] and \[\], expected as many"
    )
    monkeypatch.setattr(kernel_masks, "LARGEST", 24)
    refused(
        lambda q, k, v: made(CASES[3], q, k, v),
        "flash_attn_func leaves keys out by a mask of 5 x 5 entries, more than 24",
    )


def test_run_cannot_pack_or_join_other_sizes():
    def other(call: Call, run: Run) -> Tensor:
        return run(call.q, call.k[:, :, :2], call.v[:, :, :2])

    packed = next(case for case in CASES if case.form == "qkv packed")
    ragged = next(case for case in CASES if case.lengths)
    for case, message in ((packed, "takes qkv as one tensor"), (ragged, "sequences of different lengths, so run")):
        model = Layer(lambda *x, case=case: made(case, *x))
        with pytest.raises(ValueError, match=message), AttentionTap(model, "", edit=other):
            model(*inputs(case))


def test_a_function_kept_from_an_earlier_tap_is_seen_again():
    holder = sys.modules["kernel_holder"] = type(sys)("kernel_holder")
    try:

        class Lazy(Layer):
            __module__ = "kernel_holder"

        model, tensors = Lazy(lambda *x: holder.kept(*(y.transpose(1, 2) for y in x))), drawn()
        with AttentionTap(model, "", keep="detached"):
            holder.kept = sys.modules[FA].flash_attn_func  # as transformers imports it, at the first call
            model(*tensors)
        with AttentionTap(model, "", keep="detached") as tap:
            model(*tensors)
        assert tap[""].kernel == "flash_attn_func"
    finally:
        del sys.modules["kernel_holder"]


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch compute flex attention at once, which it compiles otherwise; the results are equal."""
    monkeypatch.setattr(sys.modules[FLEX], "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)


def flexed(**options: Any) -> Layer:
    return Layer(lambda q, k, v: sys.modules[FLEX].flex_attention(q, k, v, **options))


BLOCKS = create_block_mask(lambda b, h, i, j: (i >= j) | (j < 2), None, None, 5, 5, device="cpu")
BATCHED = create_block_mask(lambda b, h, i, j: j <= b + 2, 2, None, 5, 7, device="cpu")
BIAS = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(3))


def additive(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
    return score + BIAS[b, h, i, j]


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize(
    ("options", "m", "kv_heads", "mask", "kind"),
    [
        ({}, 5, 4, None, None),
        ({"scale": 0.3, "enable_gqa": True}, 7, 2, None, None),
        ({"block_mask": BLOCKS}, 5, 4, (1, 1, 5, 5), torch.bool),
        ({"block_mask": BATCHED}, 7, 4, (2, 1, 5, 7), torch.bool),
        ({"score_mod": lambda s, b, h, i, j: s}, 5, 4, None, None),
        ({"score_mod": additive}, 5, 4, (2, 4, 5, 5), torch.float32),
        ({"score_mod": additive, "block_mask": BLOCKS}, 5, 4, (2, 4, 5, 5), torch.float32),
        ({"score_mod": lambda s, b, h, i, j: torch.where(i >= j, s, -torch.inf)}, 5, 4, (2, 4, 5, 5), torch.bool),
        ({"return_aux": AuxRequest(lse=True)}, 5, 4, None, None),
    ],
)
def test_flex_attention_is_recorded(options: dict[str, Any], m: int, kv_heads: int, mask: Any, kind: Any):
    model, tensors = flexed(**options), drawn(5, m, kv_heads=kv_heads)
    expected = model(*tensors)
    with AttentionTap(model, "", keep="detached") as tap:
        assert equal(model(*tensors), expected)
    call = tap[""]
    assert (None if call.mask is None else (tuple(call.mask.shape), call.mask.dtype)) == (mask and (mask, kind))
    torch.testing.assert_close(recomputed(call), first(expected), rtol=0, atol=1e-5)
    with AttentionTap(model, "", edit=lambda call, run: run(call.q, call.k, call.v)):
        assert equal(model(*tensors), expected)
    with AttentionTap(model, "", edit=mean):
        output = model(*tensors)
    torch.testing.assert_close(first(output), mean(call, lambda q, k, v: q))
    if isinstance(expected, tuple):
        assert output[1].lse.isnan().all()


@pytest.mark.usefixtures("uncompiled")
def test_flex_attention_refuses_what_is_no_mask(monkeypatch: pytest.MonkeyPatch):
    def refused(message: str, **options: Any) -> None:
        with pytest.raises(ValueError, match=message), AttentionTap(model := flexed(**options), ""):
            model(*drawn())

    refused("a score_mod that does more than add", score_mod=lambda s, b, h, i, j: 50 * torch.tanh(s / 50))
    refused("a score_mod that does more than add", score_mod=lambda s, b, h, i, j: s * (1 + h))
    refused("a score_mod that does more than add", score_mod=lambda s, b, h, i, j: torch.clamp(s, max=40))
    count, index = torch.ones(1, 1, 5, dtype=torch.int32), torch.arange(5, dtype=torch.int32).expand(1, 1, 5, 5)
    diagonal = BlockMask.from_kv_blocks(count, index.mT.contiguous(), BLOCK_SIZE=1, seq_lengths=(5, 5))
    refused("a block_mask whose blocks and mask_mod differ", block_mask=diagonal)
    monkeypatch.setattr(kernel_masks, "LARGEST", 24)
    refused("flex_attention leaves keys out by a mask of 1 x 1 x 5 x 5 entries", block_mask=BLOCKS)


@pytest.mark.usefixtures("uncompiled")
def test_whole_blocks_are_read_as_compiled_kernels_do():
    count, index = torch.ones(1, 1, 5, dtype=torch.int32), torch.arange(5, dtype=torch.int32).expand(1, 1, 5, 5)
    none = torch.zeros_like(count)
    whole = BlockMask.from_kv_blocks(
        none, index, count, index.mT.contiguous(), BLOCK_SIZE=1, seq_lengths=(5, 5), mask_mod=lambda b, h, i, j: i == j
    )
    with AttentionTap(model := flexed(block_mask=whole), "", keep="detached") as tap:
        model(*drawn())
    assert torch.equal(tap[""].mask, torch.eye(5, dtype=torch.bool)[None, None])


def test_a_compiled_flex_attention_is_seen(monkeypatch: pytest.MonkeyPatch):
    compiled = torch.compile(sys.modules[FLEX].flex_attention, backend="eager")
    monkeypatch.setattr(sys.modules[__name__], "COMPILED", compiled, raising=False)
    model, tensors = Layer(lambda q, k, v: COMPILED(q, k, v, block_mask=BLOCKS)), drawn()  # type: ignore[name-defined]
    expected = model(*tensors)
    with AttentionTap(model, "", keep="detached") as outer, AttentionTap(model, "", keep="detached") as inner:
        assert torch.equal(model(*tensors), expected)
    assert torch.equal(outer[""].mask, inner[""].mask)
    torch.testing.assert_close(recomputed(outer[""]), expected, rtol=0, atol=1e-5)
    assert sys.modules[__name__].COMPILED is compiled


class Engine(nn.Module):
    """A model around TransformerEngine's module."""

    def __init__(self, layout: str, call: dict[str, Any], **options: Any) -> None:
        super().__init__()
        attention = sys.modules["transformer_engine.pytorch"].DotProductAttention
        self.layout, self.options = layout, call
        self.core = attention(4, 8, qkv_format=layout.replace(" ", "").replace("n", "s"), **options)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        tensors = (rearrange(x, f"b h n d -> {self.layout}") for x in (q, k, v))
        return rearrange(self.core(*tensors, **self.options), f"{self.layout[:3]} (h d) -> b h n d", h=4)


LEFT_OUT = torch.randn(2, 1, 5, 5, generator=torch.Generator().manual_seed(4)) > 0.5


@pytest.mark.parametrize("layout", ["n b h d", "b n h d"])
@pytest.mark.parametrize(
    ("options", "call", "m", "causal", "mask"),
    [
        ({}, {}, 5, True, None),
        ({}, {}, 7, True, None),
        ({"softmax_scale": 0.3}, {"attn_mask_type": "no_mask"}, 7, False, None),
        ({"attn_mask_type": "causal_bottom_right"}, {}, 5, True, None),
        ({"attn_mask_type": "causal_bottom_right"}, {}, 7, False, (1, 1, 5, 7)),
        ({"window_size": (1, 0)}, {}, 7, False, (1, 1, 5, 7)),
        ({"attn_mask_type": "no_mask"}, {"window_size": (2, 1)}, 7, False, (1, 1, 5, 7)),
        (
            {"attn_mask_type": "no_mask", "bottom_right_diagonal": False},
            {"window_size": (2, 1)},
            7,
            False,
            (1, 1, 5, 7),
        ),
        ({"attn_mask_type": "arbitrary"}, {"attention_mask": LEFT_OUT}, 5, False, (2, 1, 5, 5)),
        ({"attn_mask_type": "arbitrary", "window_size": (3, 3)}, {"attention_mask": LEFT_OUT}, 5, False, (2, 1, 5, 5)),
    ],
)
def test_transformer_engine_is_recorded(layout: str, options: Any, call: Any, m: int, causal: bool, mask: Any):
    model, tensors = Engine(layout, call, **options).eval(), drawn(5, m, kv_heads=2)
    expected, original = model(*tensors), type(model.core).forward
    with AttentionTap(model, "", keep="detached") as tap:
        assert torch.equal(model(*tensors), expected)
    (record,) = tap.calls  # its own fallback is not a second call
    assert type(model.core).forward is original
    assert (record.name, record.kernel) == ("core", "DotProductAttention.forward")
    assert (record.causal, None if record.mask is None else tuple(record.mask.shape)) == (causal, mask)
    torch.testing.assert_close(recomputed(record), expected, rtol=0, atol=1e-5)
    with AttentionTap(model, "core", edit=lambda call, run: run(call.q, call.k, call.v)):
        assert torch.equal(model(*tensors), expected)
    with AttentionTap(model, "core", edit=twice):
        assert torch.equal(model(*tensors), 2 * expected)


@pytest.mark.parametrize(
    ("options", "call", "message"),
    [
        ({"softmax_type": "off-by-one"}, {}, "softmax_type='off-by-one'.*make the module with 'vanilla'"),
        ({"cp_group": 1}, {}, "cp_group=1"),
        ({"attention_dropout": 0.1}, {}, r"attention_dropout=0\.1.*call model\.eval\(\)"),
        ({"attn_mask_type": "padding_causal"}, {}, "attn_mask_type='padding_causal'.*crop the padding"),
        ({}, {"core_attention_bias_type": "alibi"}, "core_attention_bias_type='alibi'"),
        ({}, {"qkv_format": "thd"}, r"qkv_format='thd', expected one of \['sbhd', 'bshd'\]"),
    ],
)
def test_transformer_engine_refuses_what_is_no_mask(options: Any, call: Any, message: str):
    model = Engine("n b h d", call, **options)
    with pytest.raises(ValueError, match=message), AttentionTap(model, ""):
        model(*drawn())


class Packed:
    """Stands in for a mask of xformers: it can write itself out."""

    def materialize(self, shape: tuple[int, ...], dtype: torch.dtype, device: Any) -> Tensor:
        block = torch.block_diag(torch.ones(2, 2), torch.ones(3, 3)).log()
        return block.to(device, dtype).expand(shape)


@pytest.mark.parametrize("axes", [3, 4, 5])
def test_xformers_masks_and_groups(axes: int):
    from xformers import ops

    tensors = drawn()
    pattern = {3: "(b h) n d", 4: "b n h d", 5: "b n g h d"}[axes]
    canonical = "b (g h) n d" if axes == 5 else "b h n d"
    sizes = {"g": 2} if axes == 5 else {}

    class Attend(Layer):
        heads = 4

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        parts = (rearrange(x, f"{canonical} -> {pattern}", **sizes) for x in (q, k, v))
        output = ops.memory_efficient_attention(*parts, attn_bias=Packed())
        return rearrange(output, f"{pattern} -> {canonical}", **({"h": 4} if axes == 3 else {}))

    model = Attend(call)
    expected = model(*tensors)
    with AttentionTap(model, "", keep="detached") as tap:
        assert torch.equal(model(*tensors), expected)
    record = tap[""]
    assert (record.mask.dtype, record.q.shape) == (torch.bool, (2, 4, 5, 8))
    torch.testing.assert_close(recomputed(record), expected, rtol=0, atol=1e-5)
    with AttentionTap(model, "", edit=lambda call, run: run(call.q, call.k, call.v)):
        assert torch.equal(model(*tensors), expected)
    with AttentionTap(model, "", edit=mean):
        torch.testing.assert_close(model(*tensors), mean(record, lambda q, k, v: q))


def test_every_entry_is_tested():
    tested = {case.name for case in CASES} | {"flex_attention", "forward", "memory_efficient_attention"}
    assert {path.rpartition(".")[2] for path in KERNELS} == tested
