"""A tap sees every fused attention, changes nothing unless asked, and refuses what it cannot see."""

import copy
import functools
import inspect
import threading
from collections.abc import Callable
from typing import Any

import jaxtyping
import pytest
import torch
import torch.utils.checkpoint
from attention_toys import HEADS, WIDTH, Attend, Plain, Toy, tokens
from einops import rearrange, repeat
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.functional import scaled_dot_product_attention as bound_early
from torch.overrides import _len_torch_function_stack
from torch.utils.checkpoint import checkpoint

import probe.models  # noqa: F401  (declares what torchvision's wheel lacks, before diffusers is imported)
from probe.capture import AttentionTap, Call
from probe.layers import find_layers

FIRST = "blocks.0"


def uniform(call: Call, run: Callable[..., Tensor]) -> Tensor:
    return call.v.mean(-2, keepdim=True).expand_as(call.v)


def rolled(call: Call, run: Callable[..., Tensor]) -> Tensor:
    """Same shapes and dtypes as without: only a comparison of gradients can tell that it is missing."""
    return run(call.q, call.k.roll(1, 2), call.v.roll(2, 2) * 2)


def by_hand(call: Call) -> Tensor:
    logits = call.scale * call.q @ call.k_per_head.mT
    return logits.softmax(-1) @ call.v_per_head


def is_untouched(model: nn.Module) -> bool:
    hooks = any(module._forward_pre_hooks or "forward" in vars(module) for module in model.modules())
    return not hooks and _len_torch_function_stack() == 0


# looking


def test_record_holds_what_the_kernel_was_given():
    model, x = Plain(), tokens()
    with AttentionTap(model, "blocks.1", keep="detached") as tap:
        model(x)
    call = tap["blocks.1"]
    q, k, v = model.blocks[1].project(model.blocks[0](x), model.blocks[0](x))
    for came, expected in zip((call.q, call.k, call.v), (q, k, v), strict=True):
        assert torch.equal(came, expected)
        assert not came.requires_grad
    assert (call.name, call.nth, call.step, call.scale) == ("blocks.1", 0, 0, 0.5)
    assert (call.mask, call.causal, call.gqa) == (None, False, False)
    assert (call.compute_dtype, call.kernel) == (torch.float32, "scaled_dot_product_attention")


@settings(deadline=None, max_examples=20)
@given(st.sets(st.integers(0, 3), min_size=1), st.sampled_from(["none", "detached", "graph"]), st.booleans())
def test_outputs_and_gradients_are_equal_bit_for_bit(chosen: set[int], keep: str, training: bool):
    model, x = Plain(*(Attend() for _ in range(4))).train(training), tokens()
    expected = model(x)
    grads = torch.autograd.grad(expected.square().sum(), model.parameters())
    with AttentionTap(model, [f"blocks.{i}" for i in chosen], keep=keep, on_call=lambda call: call.q + 1) as tap:
        output = model(x)
        inside = torch.autograd.grad(output.square().sum(), model.parameters())
    assert torch.equal(output, expected)
    assert all(torch.equal(a, b) for a, b in zip(grads, inside, strict=True))
    assert len(tap.calls) == (0 if keep == "none" else len(chosen))
    assert is_untouched(model)
    assert torch.equal(model(x), expected)


def test_layers_may_be_named_in_many_ways():
    toy = Toy()
    layers, inputs = find_layers(toy), toy.probe_inputs(2, 1)
    layer = layers[2]
    for key in (layer, 1, "blocks.1.attn", "blocks.1", ("blocks.1.attn", 0), "module.blocks.1.attn"):
        with AttentionTap(toy, key, keep="detached") as tap:
            toy(**inputs)
        same = {id(tap[other]) for other in (layer, "blocks.1.attn", "blocks.1", ("blocks.1.attn", 0))}
        assert same == {id(tap.calls[0])}
        assert tap.calls[0].name == "blocks.1.attn"
    with AttentionTap(toy, [1, 2], keep="detached") as tap:
        toy(**inputs)
    assert (tap[1].name, tap[2].name) == ("blocks.1.attn", "blocks.3.attn")


class Wrapping(nn.Module):
    """What DistributedDataParallel looks like from outside."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)


def test_a_name_does_not_mean_longer_numbers():
    model = Plain(*(Attend() for _ in range(11)))
    with AttentionTap(model, ["blocks.1", "blocks.10"], keep="detached", edit={"blocks.1": uniform}) as tap:
        model(tokens())
    assert [call.name for call in tap.calls] == ["blocks.1", "blocks.10"]
    with AttentionTap(model, "blocks.1", keep="detached") as tap:
        model(tokens())
    assert tap["blocks.1"].name == "blocks.1"
    with pytest.raises(ValueError, match=r"'blocks.10' is not tapped"):
        tap["blocks.10"]


def test_wrappers_do_not_show_in_names():
    toy = Wrapping(Wrapping(Toy()))
    inputs = toy.module.module.probe_inputs(2, 1)
    assert [layer.name for layer in find_layers(toy)][1] == "blocks.0.attn"
    for key in (1, "blocks.1", "module.blocks.1.attn", "module._orig_mod.blocks.1"):
        with AttentionTap(toy, key, keep="detached") as tap:
            toy(**inputs)
        assert tap[key].name == "blocks.1.attn"
    assert is_untouched(toy)


def test_calls_come_in_execution_order_and_per_forward():
    toy, steps = Toy(), []
    with AttentionTap(toy, "", on_call=lambda call: steps.append((call.step, call.name)), keep="detached") as tap:
        for _ in range(2):
            toy(**toy.probe_inputs(2, 1))
    names = ["pooler", *(f"blocks.{i}.attn" for i in range(4))]
    assert [call.name for call in tap.calls] == names
    assert steps == [(step, name) for step in range(2) for name in names]


class Several(nn.Module):
    """Three calls in one forward, one of them of a function that was bound when this file was imported."""

    def forward(self, x: Tensor) -> Tensor:
        q = x[:, None]
        masked = F.scaled_dot_product_attention(q, q, q, torch.ones(6, 6).tril().bool())
        causal = bound_early(q, key=q, value=q, is_causal=True, scale=2.0)
        return (masked + causal + torch._C._nn.scaled_dot_product_attention(q, q, q))[:, 0]


def test_every_call_of_a_module_has_a_number():
    model = Plain(Several())
    with AttentionTap(model, [(FIRST, 1), (FIRST, 2)], keep="detached") as tap:
        model(tokens())
    assert [(call.nth, call.causal, call.scale) for call in tap.calls] == [(1, True, 2.0), (2, False, WIDTH**-0.5)]
    with AttentionTap(model, FIRST, keep="detached") as tap:
        model(tokens())
    assert tap[FIRST, 0].mask is not None
    assert tap[FIRST, 0].mask.shape == (6, 6)
    with pytest.raises(ValueError, match=r"holds 3 attention calls; choose one of \[\('blocks.0', 0\)"):
        tap[FIRST]


def test_a_shared_module_is_numbered_over_the_whole_forward():
    block = Attend()
    model = Plain(block, block)
    with AttentionTap(model, (FIRST, 1), keep="detached") as tap:
        model(tokens())
    assert torch.equal(tap.calls[0].q, block.project(block(tokens()), tokens())[0])
    with AttentionTap(model, (FIRST, 1), edit=uniform):
        second = model(tokens())
    block.kernel = lambda q, k, v: v.mean(-2, keepdim=True).expand_as(v)  # type: ignore[method-assign]
    edited_twice = model(tokens())
    del block.kernel
    assert torch.equal(second, expected_second(block))
    assert not torch.equal(second, edited_twice)


def expected_second(block: Attend) -> Tensor:
    x = block(tokens())
    q, _, v = block.project(x, x)
    mean = v.mean(-2, keepdim=True).expand_as(q)
    return x + block.to_out(rearrange(mean, "b heads n d -> b n (heads d)"))


class Grouped(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        q, k = repeat(x, "b n d -> b 4 n d"), repeat(x, "b n d -> b heads n d", heads=2)
        k = k * torch.tensor([1.0, 2.0])[:, None, None]
        return F.scaled_dot_product_attention(q, k, k, enable_gqa=True).mean(1)


def test_grouped_heads():
    model = Plain(Grouped())
    with AttentionTap(model, FIRST, keep="detached") as tap:
        output = model(tokens())
    call = tap[FIRST]
    assert (call.gqa, call.q.shape[1], call.k.shape[1]) == (True, 4, 2)
    torch.testing.assert_close(by_hand(call).mean(1), output)


class Flat(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x, x)


def test_calls_without_heads_are_read_as_one_head():
    model, x = Plain(Flat()), tokens(b=2)
    expected = model(x)
    with AttentionTap(model, FIRST, keep="detached", edit=lambda call, run: run(call.q, call.k, call.v)) as tap:
        assert torch.equal(model(x), expected)
    assert tap[FIRST].q.shape == (2, 1, 6, WIDTH)
    with AttentionTap(model, FIRST, edit=uniform):
        torch.testing.assert_close(model(x), x.mean(1, keepdim=True).expand_as(x))


class Overwriting(Attend):
    """A layer that reuses the memory of its queries."""

    def kernel(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        output = super().kernel(q, k, v)
        q.zero_()
        return output


def test_detached_records_are_safe_from_later_layers():
    model = Plain(Overwriting())
    with torch.no_grad(), AttentionTap(model, FIRST, keep="detached") as tap:
        model(tokens())
    assert tap[FIRST].q.abs().min() > 0


def test_graph_records_lead_gradients_to_the_projections():
    model, x = Plain(), tokens()
    with AttentionTap(model, "blocks.1", keep="graph") as tap:
        model(x)
        by_hand(tap["blocks.1"])[..., 0].square().sum().backward()
    q, k, v = model.blocks[1].project(model.blocks[0](x), model.blocks[0](x))
    again = ((q @ k.mT * 0.5).softmax(-1) @ v)[..., 0].square().sum()
    weights = [model.blocks[1].to_q.weight, model.blocks[0].to_v.weight]
    for weight, expected in zip(weights, torch.autograd.grad(again, weights), strict=True):
        torch.testing.assert_close(weight.grad, expected)
    assert model.blocks[1].to_out.weight.grad is None


class Exact(Attend):
    """Queries and keys that a model keeps in float32 under autocast."""

    def project(self, x: Tensor, other: Tensor) -> list[Tensor]:
        q, k, v = super().project(x, other)
        return [q.float(), k.float(), v]


def test_autocast_computes_below_the_record():
    model, seen = Plain(Exact()), []
    with (
        AttentionTap(
            model, FIRST, keep="detached", on_call=lambda call: seen.append((call.q @ call.k.mT).dtype)
        ) as tap,
        torch.autocast("cpu", torch.bfloat16),
    ):
        model(tokens())
    assert (tap[FIRST].q.dtype, tap[FIRST].v.dtype) == (torch.float32, torch.bfloat16)
    assert tap[FIRST].compute_dtype == torch.bfloat16
    assert seen == [torch.float32]
    half = Plain().to(torch.bfloat16)
    with AttentionTap(half, FIRST, keep="detached") as tap:
        half(tokens().to(torch.bfloat16))
    assert tap[FIRST].compute_dtype == torch.bfloat16
    double = Plain().double()
    with AttentionTap(double, FIRST, keep="detached") as tap, torch.autocast("cpu", torch.bfloat16):
        double.blocks[0].to_q.forward = lambda x: x
        double.blocks[0].to_k.forward = double.blocks[0].to_v.forward = lambda x: x
        double.blocks[0](tokens().double())
    assert tap[FIRST].compute_dtype == torch.float64


def note_gradient(weight: Tensor, seen: list[bool], call: Call) -> None:
    seen.append((call.q * weight).requires_grad)


def test_callbacks_have_no_gradients_unless_the_graph_is_kept():
    seen: list[bool] = []
    for keep in ("none", "detached", "graph"):
        model = Plain()
        weight = torch.ones(4, requires_grad=True)
        on_call = functools.partial(note_gradient, weight, seen)
        with AttentionTap(model, FIRST, keep=keep, on_call=on_call):
            model(tokens())
    assert seen == [False, False, True]


# PyTorch's own modules


@pytest.mark.parametrize("gradients", [True, False])
def test_multihead_attention_is_seen(gradients: bool):
    torch.manual_seed(0)
    model = Plain(Own()).eval()
    with torch.set_grad_enabled(gradients):
        expected = model(tokens())
        with AttentionTap(model, FIRST, keep="detached") as tap:
            output = model(tokens())
        assert tap[FIRST].name == "blocks.0.attention"
        assert tap[FIRST].kernel == "multi_head_attention_forward"
        torch.testing.assert_close(output, expected)  # not equal where PyTorch leaves its inference kernel
        if gradients:
            assert torch.equal(output, expected)
        with AttentionTap(model, FIRST, edit=uniform):
            assert not torch.allclose(model(tokens()), expected)


class Own(nn.Module):
    def __init__(self, need_weights: bool = False) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.need_weights = need_weights

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=self.need_weights)[0]


def test_fused_encoder_layers_are_seen():
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 16, batch_first=True, dropout=0.0)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    with torch.no_grad():
        expected = model(tokens())
        names = ["layers.0.self_attn", "layers.1.self_attn"]
        with AttentionTap(model, names, keep="detached") as tap:
            torch.testing.assert_close(model(tokens()), expected)
        assert [call.name for call in tap.calls] == names
        assert torch.equal(model(tokens()), expected)
    assert is_untouched(model)


def test_need_weights_is_refused():
    model = Plain(Own(need_weights=True))
    with (
        pytest.raises(RuntimeError, match=r"explicit softmax.*'blocks.0.attention'.*need_weights=False"),
        AttentionTap(model, FIRST),
    ):
        model(tokens())


# editing


def test_an_edit_replaces_the_output_and_leaves_what_comes_before():
    model, x = Plain(*(Attend() for _ in range(3))), tokens()
    with AttentionTap(model, "", keep="detached") as plain:
        model(x)
    with AttentionTap(model, "", keep="detached", edit=lambda call, run: run(call.q, call.k, call.v)) as same:
        model(x)
    with AttentionTap(model, [f"blocks.{i}" for i in range(3)], keep="detached", edit={"blocks.1": uniform}) as changed:
        model(x)
    equal = [[torch.equal(a.q, b.q) for a, b in zip(plain.calls, tap.calls, strict=True)] for tap in (same, changed)]
    assert equal == [[True] * 3, [True, True, False]]
    call = changed["blocks.1"]
    expected = model.blocks[0](x)
    expected = expected + model.blocks[1].to_out(rearrange(uniform(call, by_hand), "b heads n d -> b n (heads d)"))
    assert torch.equal(changed["blocks.2"].q, model.blocks[2].project(expected, expected)[0])


def test_edits_may_be_given_per_layer():
    toy = Toy()
    inputs, layers = toy.probe_inputs(2, 1), find_layers(toy)
    toy.eval()
    outputs = []
    for edit in ({1: uniform}, {layers[2]: uniform}, {"blocks.1": uniform}, {("blocks.1.attn", 0): uniform}):
        with AttentionTap(toy, [1, 2], edit=edit):
            outputs.append(toy(**inputs))
    with AttentionTap(toy, [1], edit=uniform):
        outputs.append(toy(**inputs))
    assert all(torch.equal(output, outputs[0]) for output in outputs)
    assert not torch.equal(outputs[0], toy(**inputs))


def test_run_keeps_mask_and_scale():
    model, x = Plain(Several()), tokens()
    expected = model(x)
    with AttentionTap(model, FIRST, edit=lambda call, run: run(call.q, call.k, call.v)):
        assert torch.equal(model(x), expected)


@pytest.mark.parametrize(
    ("edit", "came"),
    [
        (lambda call, run: call.v[..., :1], r"\(\(1, 2, 6, 1\), torch.float32\)"),
        (lambda call, run: call.v.double(), r"\(\(1, 2, 6, 4\), torch.float64\)"),
        (lambda call, run: None, "<class 'NoneType'>"),
    ],
)
def test_edits_of_another_shape_or_dtype_are_refused(edit: Any, came: str):
    model = Plain()
    with (
        pytest.raises(ValueError, match=rf"edit of 'blocks.0' gave {came}, expected \(\(1, 2, 6, 4\), torch.float32\)"),
        AttentionTap(model, FIRST, edit=edit),
    ):
        model(tokens())
    assert is_untouched(model)


def test_edits_under_autocast_give_what_the_kernel_gives():
    model = Plain(Exact())
    with torch.autocast("cpu", torch.bfloat16):
        with AttentionTap(model, FIRST, edit=uniform):  # v is bfloat16 and so is the kernel's output
            model(tokens())
        with (
            pytest.raises(ValueError, match=r"torch.float32\), expected \(\(1, 2, 6, 4\), torch.bfloat16\)"),
            AttentionTap(model, FIRST, edit=lambda call, run: call.v.float()),
        ):
            model(tokens())


def test_ambiguous_and_unknown_edits_are_refused():
    model = Plain(Several(), Attend())
    with (
        pytest.raises(
            RuntimeError, match=r"edit of 'blocks.0' is ambiguous; it holds \[\('blocks.0', 0\), \('blocks.0', 1\)\]"
        ),
        AttentionTap(model, [FIRST], edit={FIRST: uniform}),
    ):
        model(tokens())
    with pytest.raises(
        ValueError, match=r"edit of 'blocks' means 2 of the tapped layers; name one of \['blocks.0', 'blocks.1'\]"
    ):
        AttentionTap(model, [FIRST, "blocks.1"], edit={"blocks": uniform})
    with pytest.raises(ValueError, match=r"edit of 'blocks.1' means 0 of the tapped layers"):
        AttentionTap(model, [FIRST], edit={"blocks.1": uniform})


# gradient checkpointing


def gradients(model: Plain, **tap: Any) -> list[Tensor]:
    """Grads of a loss on the output and on a layer's attention, backward inside the tap."""
    model.zero_grad()
    seen: list[Call] = []
    with AttentionTap(model, "blocks.1", keep="graph", on_call=seen.append, **tap) as opened:
        output = model(tokens().requires_grad_())
        (output.square().mean() + by_hand(opened["blocks.1"]).square().mean()).backward()
    assert len(seen) == 1  # the recomputation is not recorded
    return [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize("edit", [None, uniform, rolled])
def test_checkpointing_does_not_change_gradients(edit: Any):
    model = Plain(*(Attend() for _ in range(3)))
    expected = gradients(model, edit=edit)
    model.checkpoint = "non-reentrant"
    assert all(torch.equal(a, b) for a, b in zip(gradients(model, edit=edit), expected, strict=True))
    assert is_untouched(model)


@pytest.mark.parametrize("edit", [None, rolled])
def test_reentrant_checkpointing_recomputes_edits_but_keeps_no_graph(edit: Any):
    model = Plain()
    x = tokens().requires_grad_()
    grads = []
    for model.checkpoint in (None, "reentrant"):
        with AttentionTap(model, FIRST, keep="detached", edit=edit):
            grads.append(
                torch.autograd.grad(model(x).square().sum(), x) if model.checkpoint is None else backward(model, x)
            )
    assert torch.equal(grads[0][0], grads[1][0])
    with (
        pytest.raises(RuntimeError, match=r"q and k of 'blocks.0' have none.*use_reentrant=False"),
        AttentionTap(model, FIRST, keep="graph"),
    ):
        model(x)


def backward(model: nn.Module, x: Tensor) -> tuple[Tensor]:
    x.grad = None
    model(x).square().sum().backward()
    assert x.grad is not None
    return (x.grad,)


def test_without_an_edit_backward_may_follow_the_tap():
    model = Plain(checkpoint="non-reentrant")
    expected = gradients(model)
    model.zero_grad()
    with AttentionTap(model, "blocks.1", keep="graph") as tap:
        output = model(tokens())
    (output.square().mean() + by_hand(tap["blocks.1"]).square().mean()).backward()
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), expected, strict=True) if p.grad is not None)


@pytest.mark.parametrize("kind", ["reentrant", "non-reentrant"])
def test_edit_and_backward_after_the_tap_is_refused(kind: str):
    model, x = Plain(checkpoint=kind), tokens().requires_grad_()
    with AttentionTap(model, FIRST, edit=rolled):
        loss = model(x).square().sum()
    with pytest.raises(RuntimeError, match=r"recomputes 'blocks.0' after the tap.*backward\(\) inside the with block"):
        loss.backward()
    expected = backward(model, x)  # the guard ends with the next forward
    assert is_untouched(model)
    model.checkpoint = None
    assert torch.equal(backward(model, x)[0], expected[0])


def test_edits_without_checkpointing_leave_no_guard():
    model, x = Plain(), tokens().requires_grad_()
    with AttentionTap(model, FIRST, edit=rolled):
        loss = model(x).square().sum()
    assert is_untouched(model)
    loss.backward()


class Inside(Attend):
    """Checkpointing of a function within the module that attends."""

    def kernel(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return checkpoint(super().kernel, q, k, v, use_reentrant=False)


def test_checkpointing_inside_the_attending_module():
    model, x = Plain(Inside()), tokens().requires_grad_()
    with AttentionTap(model, FIRST, keep="graph") as tap:
        expected = backward(model, x)
    assert tap[FIRST].q.requires_grad
    assert torch.equal(backward(model, x)[0], expected[0])
    with (
        pytest.raises(
            RuntimeError, match=r"'blocks.0' checkpoints .* inside its own forward, where a recomputation would miss"
        ),
        AttentionTap(model, FIRST, edit=rolled),
    ):
        model(x)


def test_a_container_is_edited_in_the_recomputation_of_its_content():
    model, x = Outer(), tokens().requires_grad_()
    with AttentionTap(model, "blocks.0", edit=rolled):
        expected = backward(model, x)
    model.blocks[0].checkpoint = "non-reentrant"
    with AttentionTap(model, "blocks.0", edit=rolled):
        assert torch.equal(backward(model, x)[0], expected[0])


def test_checkpoint_wrappers_are_seen_through():
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointImpl, checkpoint_wrapper

    model, x = Plain(), tokens().requires_grad_()
    with AttentionTap(model, FIRST, edit=rolled):
        expected = backward(model, x)
    model.blocks[0] = checkpoint_wrapper(model.blocks[0], CheckpointImpl.NO_REENTRANT)
    with AttentionTap(model, FIRST, edit=rolled, keep="detached") as tap:
        assert torch.equal(backward(model, x)[0], expected[0])
    assert tap[FIRST].name == tap["blocks.0._checkpoint_wrapped_module"].name == FIRST
    assert is_untouched(model)


class Outer(Plain):
    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(Plain(Attend()))


def test_editing_one_call_of_a_recomputed_shared_module_is_refused():
    block = Attend()
    model, x = Plain(block, block, checkpoint="non-reentrant"), tokens().requires_grad_()
    with AttentionTap(model, FIRST, edit=rolled):
        edited = backward(model, x)
    model.checkpoint = None
    with AttentionTap(model, FIRST, edit=rolled):
        assert torch.equal(backward(model, x)[0], edited[0])
    model.checkpoint = "non-reentrant"
    with (
        pytest.raises(RuntimeError, match=r"'blocks.0' runs several times per forward"),
        AttentionTap(model, (FIRST, 1), edit=rolled),
    ):
        backward(model, x)


# graphs that do not exist


def test_graph_is_refused_without_gradients():
    frozen, x = Plain().requires_grad_(False), tokens()
    cases = [(Plain(), torch.no_grad()), (Plain(), torch.inference_mode()), (frozen, torch.enable_grad())]
    for model, mode in cases:
        with (
            pytest.raises(RuntimeError, match=r"keep='graph' asks for gradients.*no_grad or inference_mode"),
            mode,
            AttentionTap(model, FIRST, keep="graph"),
        ):
            model(x)
        assert is_untouched(model)
    frozen.blocks[0].to_k.requires_grad_(True)  # keys alone are enough
    with AttentionTap(frozen, FIRST, keep="graph") as tap:
        frozen(x)
    assert tap[FIRST].k.requires_grad


# compiled models


@torch.no_grad()
@pytest.mark.parametrize("how", ["whole", "method", "regional"])
def test_compiled_models_run_uncompiled_in_the_tap(how: str):
    torch._dynamo.reset()
    model, x = Plain(), tokens()
    expected = model(x)
    called: nn.Module = model
    if how == "whole":
        called = torch.compile(model, backend="eager")
    elif how == "method":
        model.compile(backend="eager")
    else:
        model.blocks[0] = torch.compile(model.blocks[0], backend="eager")
    assert torch.equal(called(x), expected)  # compiled before the tap
    with AttentionTap(called, FIRST, keep="detached") as tap:
        assert torch.equal(called(x), expected)
    assert tap[FIRST].name == FIRST
    assert torch.equal(called(x), expected)
    if how == "whole":  # given the model inside, the tap does not know that it is compiled
        with AttentionTap(model, FIRST, keep="detached") as tap:
            assert torch.equal(called(x), expected)
        assert tap[FIRST].name == FIRST


# what cannot be seen


class Explicit(Attend):
    def __init__(self, softmax: Callable[..., Tensor]) -> None:
        super().__init__()
        self.softmax = softmax

    def kernel(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.softmax(q @ k.mT) @ v


@pytest.mark.parametrize(
    "softmax",
    [
        lambda x: x.softmax(-1),
        lambda x: x.softmax(dim=3),
        lambda x: torch.softmax(x, -1),
        lambda x: F.softmax(x, dim=-1),
        lambda x: torch.special.softmax(x, -1),
        nn.Softmax(-1),
    ],
)
def test_explicit_softmax_is_refused(softmax: Callable[..., Tensor]):
    model = Plain(Explicit(softmax))
    with (
        pytest.raises(RuntimeError, match=r"'blocks.0' ran but called no fused.*explicit softmax.*\(1, 2, 6, 6\)"),
        AttentionTap(model, FIRST),
    ):
        model(tokens())
    assert is_untouched(model)


def test_kernels_that_bypass_the_fused_one_are_refused():
    with (
        pytest.raises(
            RuntimeError, match=r"'blocks.0' ran but its kernel bypasses .*set_attention_backend\('native'\)"
        ),
        AttentionTap(model := Plain(nn.Sequential(nn.Linear(WIDTH, WIDTH))), FIRST),
    ):
        model(tokens())
    with (
        pytest.raises(
            RuntimeError, match=r"'blocks.0' ran, but a Linear calls no attention; name a module that attends"
        ),
        AttentionTap(model := Plain(nn.Linear(WIDTH, WIDTH)), FIRST),
    ):
        model(tokens())


class Skipping(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return self.blocks[0](x)


def test_layers_that_do_not_run_are_refused():
    model = Skipping()
    with (
        pytest.raises(RuntimeError, match=r"'blocks.1' never ran in this forward of Skipping; is it skipped"),
        AttentionTap(model, [FIRST, "blocks.1"]),
    ):
        model(tokens())
    with (
        pytest.raises(RuntimeError, match=r"\['blocks.0'\] never ran inside the with block; was another copy"),
        AttentionTap(model, FIRST),
    ):
        copy_made_before(model)(tokens())
    with (
        pytest.raises(RuntimeError, match=r"'blocks.0' ran and made 1 attention calls, none with number 3"),
        AttentionTap(model, (FIRST, 3)),
    ):
        model(tokens())
    assert is_untouched(model)


def copy_made_before(model: nn.Module) -> nn.Module:
    return type(model)()


def test_modules_may_run_without_the_model():
    model = Plain()
    with AttentionTap(model, "blocks.1", keep="detached") as tap:
        model.blocks[1](tokens())
        model.blocks[1].forward(tokens())
    assert tap["blocks.1"].step == 1
    with AttentionTap(model, "", keep="detached") as tap:
        model(tokens())
        model.blocks[1](tokens())
    assert [call.name for call in tap.calls] == ["blocks.1"]  # of the last forward only
    with (
        pytest.raises(RuntimeError, match=r"'blocks.0' ran but its kernel bypasses"),
        AttentionTap(other := Plain(nn.Sequential(nn.Linear(WIDTH, WIDTH))), FIRST),
    ):
        other.blocks[0](tokens())


# wrong use


def test_wrong_layers_are_refused():
    toy = Toy()
    with pytest.raises(
        ValueError, match=r"layer 'blocks.1.atn' is unknown; nearest: 'blocks.1.attn'.*find_layers\(model\)"
    ):
        AttentionTap(toy, "blocks.1.atn")
    with pytest.raises(ValueError, match=r"layer 'attn' is unknown; nearest: 'blocks.0.attn', 'blocks.1.attn'"):
        AttentionTap(toy, "attn")
    with pytest.raises(ValueError, match=r"self-attention layer 7 is unknown; known here: \[0, 1, 2\]"):
        AttentionTap(toy, 7)
    with pytest.raises(ValueError, match=r"no method probe_inputs"):
        AttentionTap(Plain(), 0)
    with pytest.raises(ValueError, match="no layer was chosen"):
        AttentionTap(toy, [])
    jaxtyping.config.update("jaxtyping_disable", True)  # type checks would speak first
    try:
        with pytest.raises(ValueError, match="keep='all' is unknown; choose 'none'"):
            AttentionTap(toy, "pooler", keep="all")
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def test_lookups_without_a_record_are_refused():
    model = Plain()
    with AttentionTap(model, FIRST) as tap:
        with pytest.raises(RuntimeError, match=r"no record of 'blocks.0': keep='none' keeps nothing"):
            tap[FIRST]
        model(tokens())
    with AttentionTap(model, FIRST, keep="detached") as tap:
        with pytest.raises(RuntimeError, match=r"no record of 'blocks.0': no forward has recorded it"):
            tap[FIRST]
        with pytest.raises(ValueError, match=r"'blocks.1' is not tapped; tapped: \['blocks.0'\]"):
            tap["blocks.1"]
        with pytest.raises(ValueError, match=r"self-attention layer 0 is unknown; known here: \[\]"):
            tap[0]
        model(tokens())


def test_sharded_sequences_are_refused():
    model = Plain()
    model.blocks[0].processor = type("Processor", (), {"_parallel_config": object()})()
    with pytest.raises(ValueError, match=r"'blocks.0' shards its sequence"):
        AttentionTap(model, FIRST)


def test_taps_nest_and_close_in_reverse_order():
    model, x = Plain(), tokens()
    expected = model(x)
    with AttentionTap(model, FIRST, keep="detached") as outer, AttentionTap(model, "", keep="detached") as inner:
        assert torch.equal(model(x), expected)
    assert torch.equal(outer[FIRST].q, inner[FIRST].q)
    assert len(inner.calls) == 2
    first, second = AttentionTap(model, FIRST), AttentionTap(model, FIRST)
    first.__enter__()
    second.__enter__()
    model(x)
    with pytest.raises(
        RuntimeError, match=r"forward of \['', 'blocks.0'\] was replaced .* close taps in reverse order"
    ):
        first.__exit__(None, None, None)
    assert torch.equal(model(x), expected)
    second.__exit__(None, None, None)
    assert is_untouched(model)


def test_a_tap_opens_once_at_a_time():
    model = Plain()
    with AttentionTap(model, FIRST, keep="detached") as tap:
        model(tokens())
        with pytest.raises(RuntimeError, match="this tap is open already"):
            tap.__enter__()
    with tap:
        model(tokens())
    assert tap[FIRST].step == 0
    assert is_untouched(model)


def test_tapped_models_cannot_be_copied():
    model = Plain()
    with AttentionTap(model, FIRST):
        with pytest.raises(RuntimeError, match="copy it outside the with block"):
            copy.deepcopy(model)
        model(tokens())
    copy.deepcopy(model)


# leaving nothing behind


class Failing(Attend):
    error: type[BaseException] = KeyboardInterrupt

    def kernel(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        super().kernel(q, k, v)
        raise self.error("stop")


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, GeneratorExit])
def test_exceptions_leave_nothing_behind(error: type[BaseException]):
    model = Plain(Attend(), Failing())
    model.blocks[1].error = error
    with pytest.raises(error, match="stop"), AttentionTap(model, ["", "blocks.1"], keep="graph", edit=rolled):
        model(tokens())
    assert is_untouched(model)
    with AttentionTap(model, FIRST, keep="detached") as tap:  # caught inside: the tap goes on, and closes quietly
        with pytest.raises(error, match="stop"):
            model(tokens())
        assert _len_torch_function_stack() == 0
        with pytest.raises(error, match="stop"):
            model(tokens())
        assert tap[FIRST].nth == 0
    assert is_untouched(model)


def test_errors_in_callbacks_reach_the_caller():
    model = Plain()
    with pytest.raises(ZeroDivisionError), AttentionTap(model, FIRST, on_call=lambda call: 1 // 0):
        model(tokens())
    assert is_untouched(model)


def test_forwards_that_others_replaced_come_back():
    model = Plain()
    own = model.blocks[0].forward
    model.blocks[0].forward = own
    with AttentionTap(model, FIRST):
        assert inspect.signature(model.blocks[0].forward) == inspect.signature(own)
        model(tokens())
    assert vars(model.blocks[0])["forward"] is own


def test_each_thread_is_seen():
    model, results = Plain(), []
    expected = model(tokens())
    with AttentionTap(model, FIRST, keep="detached") as tap:
        thread = threading.Thread(target=lambda: results.append(model(tokens())))
        thread.start()
        thread.join()
    assert tap[FIRST].q.shape == (1, HEADS, 6, WIDTH // HEADS)
    assert torch.equal(results[0], expected)


# diffusers


class JointProcessor:
    """Join the views, which lie in the batch, in self-attention only."""

    def __init__(self, views: int) -> None:
        from diffusers.models.attention_processor import AttnProcessor2_0

        self.views, self.inner = views, AttnProcessor2_0()

    def __call__(
        self, attn: Any, x: Tensor, encoder_hidden_states: Tensor | None = None, *args: Any, **kwargs: Any
    ) -> Tensor:
        if encoder_hidden_states is not None:
            return self.inner(attn, x, encoder_hidden_states, *args, **kwargs)
        joint = rearrange(x, "(b f) n c -> b (f n) c", f=self.views)
        return rearrange(self.inner(attn, joint, None, *args, **kwargs), "b (f n) c -> (b f) n c", f=self.views)


@pytest.fixture(scope="module")
def unet() -> nn.Module:
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    model = UNet2DConditionModel(
        sample_size=16, block_out_channels=(8, 16, 16, 16), attention_head_dim=(1, 2, 2, 2), norm_num_groups=4,
        cross_attention_dim=8, use_linear_projection=True,
    )  # fmt: skip
    model.set_attn_processor(JointProcessor(2))
    return model


def denoise(unet: nn.Module, views: int = 2, scale: int = 2) -> dict[str, Any]:
    for processor in unet.attn_processors.values():
        processor.views = views
    torch.manual_seed(1)
    sample = torch.randn(views, 4, 8 * scale, 8 * scale)
    return {"sample": sample, "timestep": 5, "encoder_hidden_states": torch.randn(views, 7, 8)}


TENTH = "up_blocks.2.attentions.0.transformer_blocks.0.attn1"


def test_unet_of_stable_diffusion_has_sixteen_self_attentions(unet: nn.Module):
    layers = find_layers(unet, lambda views, scale: denoise(unet, views, scale))
    assert len(layers) == 32
    own = [layer for layer in layers if layer.kind == "3d"]
    assert [layer.index for layer in own] == [layer.index_3d for layer in own] == list(range(16))
    assert [layer.kind for layer in layers].count("cross") == 16
    assert own[10].name == TENTH
    assert [own[i].grid for i in (0, 2, 4, 6, 10, 15)] == [(8, 8), (4, 4), (2, 2), (1, 1), (4, 4), (8, 8)]


def test_unet_is_the_same_with_every_attention_tapped(unet: nn.Module):
    inputs = denoise(unet)
    with torch.no_grad():
        expected = unet(**inputs).sample
        with AttentionTap(unet, "", keep="detached") as tap:
            output = unet(**inputs).sample
        assert len(tap.calls) == 32
        assert torch.equal(output, expected)
        assert torch.equal(unet(**inputs).sample, expected)
        with AttentionTap(unet, TENTH, edit=uniform):
            assert not torch.allclose(unet(**inputs).sample, expected)
    with pytest.raises(
        ValueError, match=r"'up_blocks.2.attentions.0' holds 2 attention calls; choose one of .*attn1.*attn2"
    ):
        tap["up_blocks.2.attentions.0"]
    assert is_untouched(unet)


def test_checkpointed_unet_has_the_same_gradients(unet: nn.Module):
    grads = []
    unet.train()
    for enabled in (False, True):
        unet.enable_gradient_checkpointing() if enabled else unet.disable_gradient_checkpointing()
        unet.zero_grad()
        with AttentionTap(unet, TENTH, keep="graph", edit=rolled) as tap:
            output = unet(**denoise(unet)).sample
            (output.square().mean() + by_hand(tap[TENTH]).square().mean()).backward()
        grads.append([parameter.grad.clone() for parameter in unet.parameters()])
    unet.disable_gradient_checkpointing()
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_stock_explicit_processor_is_refused(unet: nn.Module):
    from diffusers.models.attention_processor import AttnProcessor

    own = unet.attn_processors
    unet.set_attn_processor(AttnProcessor())
    with (
        torch.no_grad(),
        pytest.raises(RuntimeError, match=f"'{TENTH}' ran but called no fused.*AttnProcessor2_0"),
        AttentionTap(unet, TENTH),
    ):
        unet(torch.randn(2, 4, 16, 16), 5, torch.randn(2, 7, 8))
    unet.set_attn_processor(own)
