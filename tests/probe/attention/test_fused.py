"""PyTorch's fused attention on two and on more than four axes, and its causal biases."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.bias import causal_lower_right, causal_upper_left

from probe.attention.call import Call, Run
from probe.capture import AttentionTap


class Fused(nn.Module):
    """Fused attention over tensors of any number of axes."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, mask)


def drawn(*lead: int, n: int = 5, m: int = 6) -> list[Tensor]:
    generator = torch.Generator().manual_seed(len(lead))
    return [torch.randn(*lead, size, 8, generator=generator) for size in (n, m, m)]


def recomputed(call: Call) -> Tensor:
    logits = call.q @ call.k.mT * call.scale
    if call.mask is not None:
        logits = logits.masked_fill(~call.mask, -torch.inf) if call.mask.dtype == torch.bool else logits + call.mask
    if call.causal:
        logits = logits + torch.full_like(logits, -torch.inf).triu(1)
    return logits.softmax(-1) @ call.v


def same(call: Call, run: Run) -> Tensor:
    return run(call.q, call.k, call.v)


@pytest.mark.parametrize("lead", [(), (2, 3, 4), (2, 1, 3, 4)])
@pytest.mark.parametrize("masked", [False, True])
def test_leading_axes_are_one_batch(lead: tuple[int, ...], masked: bool):
    tensors, model = drawn(*lead), Fused()
    mask = torch.randn(*lead[:1], *(1 for _ in lead[1:]), 5, 6) if masked else None
    expected = model(*tensors, mask)
    with AttentionTap(model, "", keep="detached") as tap:
        assert torch.equal(model(*tensors, mask), expected)
    call, batch = tap[""], torch.Size(lead[:-1]).numel() if lead else 1
    assert call.q.shape == (batch, lead[-1] if lead else 1, 5, 8)
    torch.testing.assert_close(recomputed(call).reshape(expected.shape), expected, rtol=0, atol=1e-5)
    with AttentionTap(model, "", edit=same):
        assert torch.equal(model(*tensors, mask), expected)
    with AttentionTap(model, "", edit=lambda call, run: call.v.mean(2, keepdim=True).expand(call.q.shape)):
        output = model(*tensors, mask)
    torch.testing.assert_close(output, tensors[2].mean(-2, keepdim=True).expand(expected.shape))


def test_an_edit_may_change_a_folded_batch():
    tensors, model = drawn(2, 3, 4), Fused()
    with AttentionTap(model, "", edit=lambda call, run: torch.cat([run(*x) for x in halves(call)])):
        output = model(*tensors)
    torch.testing.assert_close(output, model(*tensors))


def halves(call: Call) -> list[tuple[Tensor, ...]]:
    return [tuple(x[part] for x in (call.q, call.k, call.v)) for part in (slice(0, 2), slice(2, 6))]


@pytest.mark.parametrize(
    ("bias", "m", "causal", "mask"),
    [
        (causal_upper_left, 5, True, None),
        (causal_upper_left, 7, True, None),
        (causal_lower_right, 5, True, None),
        (causal_lower_right, 7, False, torch.ones(5, 7, dtype=torch.bool).tril(2)),
    ],
)
def test_a_causal_bias_is_recorded(bias: type, m: int, causal: bool, mask: Tensor | None):
    tensors, model = drawn(2, 4, m=m), Fused()
    expected = model(*tensors, bias(5, m))
    with AttentionTap(model, "", keep="detached") as tap:
        assert torch.equal(model(*tensors, bias(5, m)), expected)
    call = tap[""]
    assert call.causal == causal
    assert call.mask is None if mask is None else torch.equal(call.mask, mask)
    torch.testing.assert_close(recomputed(call), expected, rtol=0, atol=1e-5)
    with AttentionTap(model, "", edit=same):
        assert torch.equal(model(*tensors, bias(5, m)), expected)


class Dropping(Fused):
    """Fused attention that drops weights at random."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, mask, dropout_p=0.1)


def test_dropout_is_recorded_and_said():
    tap = AttentionTap(model := Dropping(), "", keep="detached")
    with pytest.warns(UserWarning, match="'' drops 10% of its weights at random.*dropout_p=0 in the model"), tap:
        model(*drawn(1, 2))
    assert tap[""].dropout == 0.1
