import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from einops import rearrange, repeat
from standin_packages import STANDINS, standins
from torch import Tensor, nn
from torch.nn import functional as F

from probe.attention.call import Call, Run
from probe.attention.kernels import replaced
from probe.capture import AttentionTap

HEADS, WIDTH = 3, 4
BLOCKS = ("by_name", "by_alias", "early", "in_helper")
NET = """
import torch
import xformers.ops
import xformers.ops as aliased
from torch import nn
from xformers.ops import memory_efficient_attention

from kernel_toy import helper

class Attend(nn.Module):
    heads = 3

    def __init__(self, call, flat=False):
        super().__init__()
        self.call, self.flat, self.extra = call, flat, {}
        self.project = nn.ModuleList(nn.Linear(12, 12) for _ in range(3))

    def forward(self, x):
        b, n, _ = x.shape
        parts = [to(x).reshape(b, n, 3, 4) for to in self.project]
        if self.flat:
            parts = [y.permute(0, 2, 1, 3).reshape(b * 3, n, 4) for y in parts]
        out = self.call(*parts, **self.extra)
        if self.flat:
            out = out.reshape(b, 3, n, 4).permute(0, 2, 1, 3)
        return x + out.reshape(b, n, 12)

class Net(nn.Module):
    def __init__(self, flat=False):
        super().__init__()
        self.by_name = Attend(lambda *a, **k: xformers.ops.memory_efficient_attention(*a, **k), flat)
        self.by_alias = Attend(lambda *a, **k: aliased.memory_efficient_attention(*a, **k), flat)
        self.early = Attend(lambda q, k, v, **x: memory_efficient_attention(key=k, query=q, value=v, **x), flat)
        self.in_helper = Attend(lambda *a, **k: helper.attend(*a, **k), flat)

    def forward(self, x):
        return self.in_helper(self.early(self.by_alias(self.by_name(x))))
"""
HELPER = """
from xformers.ops import memory_efficient_attention

def attend(*args, **kwargs):
    return memory_efficient_attention(*args, **kwargs)
"""


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("packages")
    (folder / "kernel_toy").mkdir()
    (folder / "kernel_toy" / "__init__.py").write_text("")
    (folder / "kernel_toy" / "net.py").write_text(NET)
    (folder / "kernel_toy" / "helper.py").write_text(HELPER)
    with standins(STANDINS, folder):
        import kernel_toy.net

        yield kernel_toy.net
        for name in [name for name in sys.modules if name.startswith("kernel_toy")]:
            del sys.modules[name]


def make(toy: Any, *, flat: bool = False) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return toy.Net(flat)


def tokens(b: int = 2, n: int = 5) -> Tensor:
    return torch.randn(b, n, HEADS * WIDTH, generator=torch.Generator().manual_seed(n))


def held(toy: Any) -> list[Any]:
    """Every place that should hold the original."""
    import kernel_toy.helper
    import xformers.ops
    from xformers.ops import fmha

    names = "memory_efficient_attention"
    return [getattr(module, names) for module in (toy, kernel_toy.helper, xformers.ops, fmha)]


def by_hand(block: nn.Module, x: Tensor) -> list[Tensor]:
    """q, k, v as [b heads n d], head after head."""
    return [torch.stack([to(x)[..., h * 4 : h * 4 + 4] for h in range(HEADS)], dim=1) for to in block.project]


@pytest.mark.parametrize("flat", [False, True])
def test_every_way_to_import_is_seen_and_nothing_changes(toy: Any, flat: bool):
    model, x = make(toy, flat=flat), tokens()
    originals, expected = held(toy), model(x)
    with AttentionTap(model, "", keep="detached") as tap:
        assert torch.equal(model(x), expected)
    assert [call.name for call in tap.calls] == list(BLOCKS)
    assert held(toy) == originals
    assert torch.equal(model(x), expected)
    for call in tap.calls:
        block = model.get_submodule(call.name)
        for got, want in zip((call.q, call.k, call.v), by_hand(block, x), strict=True):
            torch.testing.assert_close(got, want, rtol=0, atol=0)
        assert (call.kernel, call.scale, call.mask, call.causal) == ("memory_efficient_attention", 0.5, None, False)
        x = block(x)


@pytest.mark.parametrize("flat", [False, True])
def test_the_original_kernel_runs_in_edits(toy: Any, flat: bool):
    model, x = make(toy, flat=flat), tokens()
    model.early.extra = {"scale": 0.1}
    expected = model(x)

    def same(call: Call, run: Run) -> Tensor:
        assert call.scale == 0.1
        torch.testing.assert_close(
            run(call.q, call.k, call.v), F.scaled_dot_product_attention(call.q, call.k, call.v, scale=0.1)
        )
        F.scaled_dot_product_attention(call.q, call.k, call.v)  # an edit's own calls are nobody's
        return run(call.q, call.k, call.v)

    with AttentionTap(model, "early", edit=same) as tap:
        assert torch.equal(model(x), expected)
    assert tap.softmaxes == {}

    def mean(call: Call, run: Run) -> Tensor:
        return repeat(call.v.mean(2), "b heads d -> b heads n d", n=call.q.shape[2])

    before = model.by_alias(model.by_name(x))
    with AttentionTap(model, "early", edit=mean):
        edited = model(x)
    value = by_hand(model.early, before)[2].mean(2)
    between = before + rearrange(value, "b heads d -> b 1 (heads d)")
    torch.testing.assert_close(edited, model.in_helper(between))
    with (
        pytest.raises(ValueError, match=r"edit of 'early' gave .*expected \(\(2, 3, 5, 4\)"),
        AttentionTap(model, "early", edit=lambda call, run: call.q[:1]),
    ):
        model(x)


@pytest.mark.parametrize("flat", [False, True])
def test_masks_are_read(toy: Any, flat: bool):
    from xformers.ops import LowerTriangularMask

    model, x = make(toy, flat=flat), tokens()
    bias = torch.randn(2, HEADS, 5, 5, generator=torch.Generator().manual_seed(1))
    model.by_name.extra = {"attn_bias": rearrange(bias, "b heads q k -> (b heads) q k") if flat else bias}
    model.early.extra = {"attn_bias": LowerTriangularMask()}
    with AttentionTap(model, "", keep="detached") as tap:
        model(x)
    assert torch.equal(tap["by_name"].mask, bias)
    assert [call.causal for call in tap.calls] == [False, False, True, False]
    call = tap["early"]
    output, causal = model(x), F.scaled_dot_product_attention(call.q, call.k, call.v, is_causal=True)
    with AttentionTap(model, "early", edit=lambda call, run: causal):
        torch.testing.assert_close(model(x), output)
    model.early.extra = {"attn_bias": object()}
    with (
        pytest.raises(ValueError, match=r"a mask of kind object, which is not understood; use none, a tensor of ."),
        AttentionTap(model, "early"),
    ):
        model(x)


def test_layouts_that_cannot_be_read_are_refused(toy: Any):
    model, x = make(toy), tokens()
    own = model.by_name.call
    model.by_name.call = lambda q, k, v: own(q[None, None], k[None, None], v[None, None])
    with (
        pytest.raises(ValueError, match=r"queries of shape \(1, 1, 2, 5, 3, 4\), expected \[b n heads d\]"),
        AttentionTap(model, "by_name"),
    ):
        model(x)


def test_heads_of_a_folded_layout_come_from_the_module(toy: Any):
    model = make(toy, flat=True)
    model.by_name.heads = 4  # does not divide 2 * 3: then they are left folded
    with AttentionTap(model, "by_name", keep="detached") as tap:
        model(tokens())
    assert tap["by_name"].q.shape == (6, 1, 5, 4)


def test_a_kernel_made_of_the_fused_one_counts_once(toy: Any):
    import xformers.ops

    def stub(query: Tensor, key: Tensor, value: Tensor, **_: Any) -> Tensor:
        q, k, v = (rearrange(x, "b n heads d -> b heads n d") for x in (query, key, value))
        return rearrange(F.scaled_dot_product_attention(q, k, v), "b heads n d -> b n heads d")

    stub.__module__ = "xformers.ops.fmha"
    model, original = make(toy), xformers.ops.memory_efficient_attention
    with replaced(model, original, stub), AttentionTap(model, "", keep="detached") as tap:
        model(tokens())
    assert [(call.name, call.nth, call.kernel) for call in tap.calls] == [
        (name, 0, "memory_efficient_attention") for name in BLOCKS
    ]
    assert held(toy) == [original] * 4


def test_nothing_is_left_behind(toy: Any):
    model, originals, x = make(toy), held(toy), tokens()

    def fail(call: Call) -> None:
        assert held(toy) != originals
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), AttentionTap(model, "early", on_call=fail):
        model(x)
    assert held(toy) == originals
    outer, inner = AttentionTap(model, "", keep="detached"), AttentionTap(model, "early", keep="detached")
    with outer, inner:
        expected = model(x)
    assert len(outer.calls) == 4
    assert torch.equal(outer["early"].q, inner["early"].q)
    assert held(toy) == originals
    outer.__enter__()
    inner.__enter__()
    model(x)
    with pytest.raises(RuntimeError, match="close taps in reverse order"):
        outer.__exit__(None, None, None)
    assert torch.equal(model(x), expected)
    inner.__exit__(None, None, None)
    assert held(toy) == originals


def test_only_tapped_modules_are_recorded(toy: Any):
    model, x = make(toy), tokens()
    with AttentionTap(model, "early", keep="detached") as tap:
        model(x)
        model.by_name(x)  # not tapped
        other = threading.Thread(target=lambda: toy.memory_efficient_attention(*torch.zeros(3, 1, 2, 3, 4)))
        other.start()
        other.join()
    assert [call.name for call in tap.calls] == ["early"]


def test_gradients_flow_through_what_is_kept(toy: Any):
    model, x = make(toy, flat=True), tokens()
    with AttentionTap(model, "early", keep="graph") as tap:
        model(x)
        tap["early"].q.square().sum().backward()
    q = by_hand(model.early, model.by_alias(model.by_name(x)))[0]
    expected = torch.autograd.grad(q.square().sum(), model.early.project[0].weight)[0]
    torch.testing.assert_close(model.early.project[0].weight.grad, expected)
    assert model.early.project[1].weight.grad is None


def test_the_message_names_the_table():
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2)))
    with (
        pytest.raises(
            RuntimeError,
            match=r"KERNELS, which knows functions of flash_attn, flash_attn_interface, sageattention, .*xformers",
        ),
        AttentionTap(model, "0"),
    ):
        model(torch.zeros(1, 2))


def test_packages_that_are_not_imported_are_left_alone():
    with standins(Path("/nowhere")), AttentionTap(attend := Fused(), ""):
        attend(torch.zeros(1, 1, 2, 2))
        assert "xformers" not in sys.modules


class Fused(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x, x)
