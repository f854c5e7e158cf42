"""Attention by an explicit softmax is read off the operations around it, exactly, or refused with a reason."""

import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import torch
from attention_toys import WIDTH, Attend, Plain, Toy, tokens
from einops import einsum, rearrange, repeat
from scenes import small_random_model, small_scene
from torch import Tensor, nn
from torch.nn import functional as F

import probe.models  # noqa: F401  (declares what torchvision's wheel lacks, before diffusers is imported)
from probe.attention.call import Call
from probe.attention.masks import logit_bias
from probe.capture import AttentionTap
from probe.layers import find_layers, select_layers
from probe.measure.model import measure_layers
from probe.models.model import model_layers
from probe.protocols import PROTOCOLS


# patterns that people write
class CroCo(nn.Module):
    """As in the blocks of CroCo and DUSt3R: heads on an axis of their own, `@`, dropout."""

    def __init__(self, drop: float = 0.0) -> None:
        super().__init__()
        self.num_heads, self.scale = 2, 0.5
        self.qkv, self.proj, self.attn_drop = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH), nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.num_heads)
        attn = (q @ k.transpose(-2, -1)) * self.scale
        attn = self.attn_drop(attn.softmax(dim=-1))
        return self.proj((attn @ v).transpose(1, 2).flatten(2))


class MVDream(Attend):
    """As in the blocks of MVDream and CompVis: heads folded into the batch, einsum, masks filled in place."""

    def forward(self, x: Tensor, other: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        q, k, v = (rearrange(y, "b h n d -> (b h) n d") for y in self.project(x, x if other is None else other))
        sim = torch.einsum("b i d, b j d -> b i j", q.float(), k.float()) * q.shape[-1] ** -0.5
        if mask is not None:
            hidden = repeat(~mask, "b j -> (b h) () j", h=self.heads)
            sim.masked_fill_(hidden, -torch.finfo(sim.dtype).max)
        out = torch.einsum("b i j, b j d -> b i d", sim.softmax(dim=-1).to(v.dtype), v)
        return self.to_out(rearrange(out, "(b h) n d -> b n (h d)", h=self.heads))


class ByKernel(Attend):
    """Attention over [b heads n d] by any function."""

    def __init__(self, function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def kernel(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.function(q, k, v)


def bias(k: Tensor) -> Tensor:
    """Add to the logits of each head and key."""
    return torch.linspace(-1, 1, k.shape[1] * k.shape[2]).reshape(1, k.shape[1], 1, k.shape[2]).to(k)


def by_division(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    logits = torch.matmul(q, k.transpose(2, 3)) / math.sqrt(q.shape[-1])
    return torch.matmul(F.softmax(logits, dim=-1, dtype=torch.float32).to(q.dtype), v)


def by_baddbmm(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    b, h = q.shape[:2]
    q, k, v = (x.reshape(b * h, *x.shape[2:]) for x in (q, k, v))
    logits = torch.baddbmm(torch.full((b * h, 1, 1), torch.nan), q, k.transpose(-1, -2), beta=0, alpha=0.3)
    return torch.bmm(logits.softmax(-1), v).unflatten(0, (b, h))


def with_bias(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    logits = 0.7 * (bias(k) + q @ k.mT)
    return (logits - logits.amax(-1, keepdim=True)).softmax(-1) @ v


def by_where(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    causal = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril()
    return torch.where(causal, q @ k.mT, torch.tensor(-torch.inf)).softmax(-1) @ v


def by_heads_scale(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT * torch.tensor([1.0, 3.0])[:, None, None]).softmax(-1) @ v


def keys_first(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = torch.softmax(torch.einsum("bhjd,bhid->bhji", k, q) / 2, dim=2)
    return torch.einsum("bhji,bhjd->bhid", weights, v)


def channels_first(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.flatten(0, 1).mT for x in (q, k, v))
    weights = torch.softmax(torch.einsum("bct,bcs->bts", q, k), dim=-1)
    return torch.bmm(v, weights.permute(0, 2, 1)).mT.unflatten(0, (-1, 2))


def by_einops(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (rearrange(x, "b h n d -> b n h d") for x in (q, k, v))
    weights = einsum(q, k, "b n h d, b m h d -> b h n m").softmax(-1)
    return rearrange(einsum(weights, v, "b h n m, b m h d -> b n h d"), "b n h d -> b h n d")


def unfolded_for_a_mask(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    b, h, n, _ = q.shape
    logits = torch.bmm(q.flatten(0, 1), k.flatten(0, 1).transpose(1, 2)).view(b, h, n, -1) + bias(k)
    return torch.bmm(logits.softmax(-1).view(b * h, n, -1), v.flatten(0, 1)).view(b, h, n, -1)


def on_five_axes(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    added = bias(k)
    q, k, v = (x.expand(2, *x.shape) for x in (q, k, v))
    return ((q @ k.mT + added).softmax(-1) @ v)[1]


KERNELS = [
    *(by_division, by_baddbmm, with_bias, by_where, by_heads_scale, keys_first, channels_first, by_einops),
    *(unfolded_for_a_mask, on_five_axes),
]
MODELS = {
    "croco": CroCo,
    "mvdream": MVDream,
    **{function.__name__: lambda function=function: ByKernel(function) for function in KERNELS},
}


def model_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[name]().eval()


def weights(call: Call) -> Tensor:
    logits = call.q @ call.k_per_head.mT * call.scale
    hidden = logit_bias(call)
    return (logits if hidden is None else logits + hidden).softmax(-1)


def attended(model: nn.Module, x: Tensor, call: Call) -> Tensor:
    """Go on from the recorded softmax times the recorded values as the module does."""
    out = rearrange((weights(call) @ call.v)[: len(x)], "b h n d -> b n (h d)")
    if isinstance(model, CroCo):
        return model.proj(out)
    return model.to_out(out) + (0 if isinstance(model, MVDream) else x)


@pytest.mark.parametrize("name", MODELS)
def test_recorded_softmax_times_values_is_the_modules_output(name: str):
    model, x = model_of(name), tokens(5, b=3)
    expected = model(x)
    with AttentionTap(model, "", keep="graph", explicit=True) as tap:
        output = model(x)
    torch.testing.assert_close(output, expected, rtol=0, atol=0)
    call = tap[""]
    assert (call.kernel, call.nth, call.q.shape[1:]) == ("softmax", 0, (2, 5, 4))
    torch.testing.assert_close(attended(model, x, call), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_gradients_pass_through_a_record(name: str):
    model, x = model_of(name), tokens(5, b=3)
    with AttentionTap(model, "", keep="graph", explicit=True) as tap:
        loss = model(x).square().sum()
    loss.backward(retain_graph=True)
    seen = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    model(x).square().sum().backward()
    torch.testing.assert_close(seen, [p.grad for p in model.parameters() if p.grad is not None], rtol=0, atol=0)
    model.zero_grad()
    weights(tap[""])[..., 0].sum().backward()
    projection = model.qkv if isinstance(model, CroCo) else model.to_q
    assert projection.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", MODELS)
def test_an_edit_replaces_the_product_with_the_values(name: str):
    model, x = model_of(name), tokens(5, b=3)
    with AttentionTap(model, "", edit=lambda call, run: run(call.q, call.k, call.v), explicit=True):
        torch.testing.assert_close(model(x), model(x), rtol=0, atol=0)
        own = model(x)
    torch.testing.assert_close(own, model(x), rtol=0, atol=1e-6)
    with AttentionTap(
        model, "", edit=lambda call, run: 2 * run(call.q, call.k, call.v), explicit=True, keep="graph"
    ) as tap:
        doubled = model(x)
    call = tap[""]
    torch.testing.assert_close(doubled, attended_twice(model, x, call), rtol=0, atol=1e-6)


def attended_twice(model: nn.Module, x: Tensor, call: Call) -> Tensor:
    twice = Call(**{**{name: getattr(call, name) for name in Call.__dataclass_fields__}, "v": 2 * call.v})
    return attended(model, x, twice)


def test_a_mask_filled_in_place_is_recorded():
    model, x = model_of("mvdream"), tokens(5, b=3)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 1, 1, 0], [0, 0, 1, 1, 1]]).bool()
    with AttentionTap(model, "", keep="graph", explicit=True) as tap:
        output = model(x, mask=mask)
    hidden = logit_bias(tap[""])
    assert hidden is not None
    assert torch.equal(hidden == 0, repeat(mask, "b j -> b h 1 j", h=2))
    torch.testing.assert_close(attended(model, x, tap[""]), output, rtol=0, atol=1e-6)


def test_multi_head_attention_that_gives_its_weights():
    torch.manual_seed(0)
    model = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
    x = tokens(5, b=3)
    output, seen = model(x, x, x, average_attn_weights=False)
    with AttentionTap(model, "", keep="detached", explicit=True) as tap:
        again, _ = model(x, x, x, average_attn_weights=False)
    torch.testing.assert_close(again, output, rtol=0, atol=0)
    torch.testing.assert_close(weights(tap[""]), seen, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["bert", "vit", "dinov2"])
def test_eager_attention_of_transformers(kind: str):
    transformers = pytest.importorskip("transformers", reason="eager attention is of transformers")
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    if kind == "bert":
        model = transformers.BertModel(transformers.BertConfig(**small, vocab_size=20))
        inputs = {
            "input_ids": torch.arange(12).reshape(2, 6),
            "attention_mask": torch.tensor([[1] * 6, [1] * 4 + [0] * 2]),
        }
    else:
        name = {"vit": "ViT", "dinov2": "Dinov2"}[kind]
        config = getattr(transformers, f"{name}Config")(**small, image_size=28, patch_size=14)
        model, inputs = getattr(transformers, f"{name}Model")(config), {"pixel_values": torch.randn(2, 3, 28, 28)}
    model.eval().set_attn_implementation("sdpa")
    layers = [name for name, module in model.named_modules() if type(module).__name__.endswith("SelfAttention")]
    layers = layers or [name for name, _ in model.named_modules() if name.endswith("attention")]
    with torch.no_grad(), AttentionTap(model, layers, keep="detached") as fused:
        model(**inputs)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        expected = model(**inputs).last_hidden_state
        with AttentionTap(model, layers, keep="detached", explicit=True) as tap:
            output = model(**inputs).last_hidden_state
    torch.testing.assert_close(output, expected, rtol=0, atol=0)
    assert len(tap.calls) == len(fused.calls) == 2
    for call, other in zip(tap.calls, fused.calls, strict=True):
        assert (call.name, call.scale) == (other.name, pytest.approx(other.scale))
        torch.testing.assert_close(weights(call), weights(other), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["croco", "mvdream", "by_division", "with_bias"])
def test_lower_precision(name: str, dtype: torch.dtype):
    model, x = model_of(name).to(dtype), tokens(5, b=3).to(dtype)
    expected = model(x)
    with AttentionTap(model, "", keep="detached", explicit=True) as tap:
        torch.testing.assert_close(model(x), expected, rtol=0, atol=0)
    assert tap[""].v.dtype == dtype
    with AttentionTap(model, "", edit=lambda call, run: run(call.q, call.k, call.v), explicit=True):
        torch.testing.assert_close(model(x), expected, rtol=0.05, atol=0.05)


def test_autocast():
    model, x = model_of("croco"), tokens(5, b=3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = model(x)
        with AttentionTap(model, "", explicit=True, edit=lambda call, run: run(call.q, call.k, call.v)):
            torch.testing.assert_close(model(x), expected, rtol=0.05, atol=0.05)
        with AttentionTap(model, "", keep="detached", explicit=True) as tap:
            torch.testing.assert_close(model(x), expected, rtol=0, atol=0)
    assert tap[""].compute_dtype == torch.bfloat16


def test_autocast_with_queries_in_single_precision():
    def normed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k = (8 * F.normalize(x.float(), dim=-1) for x in (q, k))
        return (q @ k.mT).softmax(-1) @ v

    model, x = ByKernel(normed).eval(), tokens(5, b=3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = model(x)
        with AttentionTap(model, "", keep="detached", explicit=True) as tap:
            torch.testing.assert_close(model(x), expected, rtol=0, atol=0)
    assert (tap[""].q.dtype, tap[""].compute_dtype) == (torch.float32, torch.bfloat16)


def test_dropout_of_weights_is_said():
    torch.manual_seed(0)
    model = CroCo(drop=0.25)
    with (
        pytest.warns(UserWarning, match="drops 25% of its weights"),
        AttentionTap(model, "", keep="graph", explicit=True) as tap,
    ):
        model(tokens())
    assert tap[""].dropout == 0.25
    model.eval()
    with AttentionTap(model, "", keep="graph", explicit=True) as tap:
        model(tokens())
    assert tap[""].dropout == 0.0


@pytest.mark.parametrize("checkpoint", ["reentrant", "other"])
def test_edits_are_repeated_by_checkpointing(checkpoint: str):
    torch.manual_seed(0)
    model, x = Plain(ByKernel(by_division), ByKernel(with_bias), checkpoint=checkpoint), tokens().requires_grad_()
    gradients = []
    for each in (checkpoint, None):
        model.checkpoint = each
        with AttentionTap(model, "blocks.1", edit=lambda call, run: 2 * run(call.q, call.k, call.v), explicit=True):
            model(x).sum().backward()
        gradients.append(x.grad.clone())
        x.grad = None
    torch.testing.assert_close(*gradients)


# layers
class ExplicitToy(Toy):
    def __init__(self, function: Any = by_division) -> None:
        super().__init__()
        for block in self.blocks:
            block.attn.kernel = function


def test_layers_are_found_as_those_of_the_fused_kernel():
    torch.manual_seed(0)
    toy = ExplicitToy()
    layers = find_layers(toy, explicit=True)
    assert layers == [replace(layer, explicit=layer.name != "pooler") for layer in find_layers(Toy())]
    with pytest.warns(UserWarning, match="explicit softmax of shape .*; explicit=True may read it"):
        find_layers(toy)
    with torch.no_grad(), AttentionTap(toy, [0, 1], keep="detached", explicit=True) as tap:
        toy(**toy.probe_inputs(2))
    assert tap[1].name == "blocks.1.attn"
    with torch.no_grad(), AttentionTap(toy, layers[2], keep="detached") as tap:  # the layer says how it was found
        toy(**toy.probe_inputs(2))
    assert tap[layers[2]].kernel == "softmax"


def test_a_model_is_scored_as_with_the_fused_kernel(monkeypatch: pytest.MonkeyPatch):
    model = small_random_model(steps=40)
    fused = select_layers(model_layers(model), "3d")[-1:]
    scene = small_scene(fused)
    expected = measure_layers(model, scene, fused, (500,), PROTOCOLS["attention-v1"])
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda q, k, v, **_unmasked: by_division(q, k, v))
    model = replace(model, explicit=True)
    layers = select_layers(model_layers(model), "3d")[-1:]
    assert layers == [replace(layer, explicit=True) for layer in fused]
    scores = measure_layers(model, scene, layers, (500,), PROTOCOLS["attention-v1"])
    pd.testing.assert_frame_equal(scores, expected)


def test_unread_layers_are_listed_with_the_reason():
    toy = ExplicitToy()
    toy.blocks[1].attn.kernel = softcapped
    with pytest.warns(UserWarning, match="blocks.1.attn.* explicit softmax of shape .* its logits go through tanh"):
        layers = find_layers(toy, explicit=True)
    assert [layer.kind for layer in layers[1:]] == ["view", "unseen", "cross", "3d"]


# refused
def softcapped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (5 * torch.tanh(q @ k.mT / 5)).softmax(-1) @ v


def with_a_head_mask(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return ((q @ k.mT).softmax(-1) * torch.tensor([1.0, 0.0])[:, None, None]) @ v


def talking_heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.einsum("bhij,hg->bgij", q @ k.mT, torch.ones(2, 2)).softmax(-1) @ v


def with_items_set(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    logits = q @ k.mT
    logits[..., 0] = 9.0
    return logits.softmax(-1) @ v


def with_moderate_fill(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT).masked_fill(torch.eye(q.shape[2]).bool(), -2.0).softmax(-1) @ v


def with_two_products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT + q @ v.mT).softmax(-1) @ v


def over_slots(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = (q @ k.mT).softmax(-2)
    return (weights / weights.sum(-1, keepdim=True)) @ v


def by_slices(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))
    halves = [(a @ b.mT).softmax(-1) @ c for a, b, c in zip(q.chunk(2), k.chunk(2), v.chunk(2), strict=True)]
    return torch.cat(halves).unflatten(0, (-1, 2))


REFUSED = {
    softcapped: "its logits go through tanh",
    with_a_head_mask: "its weights go through mul",
    talking_heads: "its logits go through einsum",
    with_items_set: "its logits go through __setitem__",
    with_moderate_fill: "its logits go through masked_fill",
    with_two_products: "its logits go through add",
    over_slots: "its weights go through div",
    by_slices: "may hold heads, and how many cannot be told; set the module's attribute heads",
}


@pytest.mark.parametrize("function", REFUSED)
def test_what_cannot_be_read_is_refused(function: Any):
    model = Plain(ByKernel(function))
    match = f"'blocks.0' ran but .*{REFUSED[function]}.*set_attn_implementation\\('sdpa'\\)"
    with pytest.raises(RuntimeError, match=match) as caught, AttentionTap(model, "blocks.0", explicit=True):
        model(tokens(b=2))
    assert "\n" not in str(caught.value)


def test_without_the_option_the_refusal_names_it():
    model = Plain(ByKernel(by_division))
    with pytest.raises(RuntimeError, match="explicit=True"), AttentionTap(model, "blocks.0"):
        model(tokens())


def test_logits_changed_behind_the_taps_back_are_refused():
    def changed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        logits = q @ k.mT
        logits.detach().numpy()[..., 0] += 1.0
        return logits.softmax(-1) @ v

    model = Plain(ByKernel(changed))
    match = r"softmax of 'blocks.0' gives other weights than .*set_attn_implementation"
    with pytest.raises(ValueError, match=match), AttentionTap(model, "blocks.0", keep="detached", explicit=True):
        model(tokens())


class OneHead(nn.Module):
    """As in the autoencoders of latent diffusion."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return torch.bmm(torch.bmm(q, k.transpose(1, 2)).softmax(dim=2), v)


def test_heads_are_told_by_an_attribute():
    model, x = OneHead(), tokens(b=4)
    with pytest.raises(RuntimeError, match="its batch of 4 may hold heads"), AttentionTap(model, "", explicit=True):
        model(x)
    model.heads = 2  # nothing shows that these were folded into the batch
    with pytest.raises(RuntimeError, match="its batch of 4 may hold heads"), AttentionTap(model, "", explicit=True):
        model(x)
    model.heads = 1
    with AttentionTap(model, "", explicit=True, keep="detached") as tap:
        output = model(x)
    torch.testing.assert_close((weights(tap[""]) @ tap[""].v)[:, 0], output, rtol=0, atol=1e-6)


# no attention
class Router(nn.Module):
    """A mixture of experts: a softmax over experts, which weights their outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.experts = nn.Parameter(torch.randn(WIDTH, 3)), nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        shares = torch.matmul(x, self.gate).softmax(-1)
        return torch.einsum("bne,bned->bnd", shares, self.experts(x).unflatten(-1, (3, -1)))


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x).softmax(-1)


@pytest.mark.parametrize("make", [Router, Classifier])
def test_a_softmax_that_is_no_attention_is_never_recorded(make: Callable[[], nn.Module]):
    calls: list[Call] = []
    model = Plain(Attend(), make())
    with warnings.catch_warnings(), AttentionTap(model, "", on_call=calls.append, explicit=True) as tap:
        model(tokens())
    assert [call.name for call in calls] == ["blocks.0"]
    assert list(tap.softmaxes) == ["blocks.1"]
    with (
        pytest.raises(RuntimeError, match="of no product of queries and keys"),
        AttentionTap(model, "blocks.1", explicit=True),
    ):
        model(tokens())


def test_attention_beside_recorded_calls_is_warned_of():
    def both(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return by_division(q, k, v) + softcapped(q, k, v)

    model = Plain(ByKernel(both))
    tap = AttentionTap(model, "blocks.0", keep="detached", explicit=True)
    with pytest.warns(UserWarning, match="'blocks.0' also computes an explicit softmax .* through tanh"), tap:
        model(tokens())
    assert len(tap.calls) == 1
