"""Causal edits: against a slow reference, and what each of them must leave as it was, bit for bit."""

from dataclasses import replace

import pytest
import torch
from attention_toys import HEADS, Attend, Plain, Toy, tokens
from einops import einsum, rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from probe.attention.call import Call, describe
from probe.capture import AttentionTap
from probe.interventions import INTERVENTIONS, Intervention, Place, edit_of, own_keys, shuffled_keys
from probe.layers import ViewLayout, find_layers, select_layers
from probe.matching import image_tokens

NAMES: list[Intervention] = list(INTERVENTIONS)
LAYOUTS = {
    "plain": ViewLayout(3, (2, 3)),
    "one view": ViewLayout(1, (2, 3)),
    "text": ViewLayout(3, (2, 2), prefix=2, suffix=3),
    "camera tokens": ViewLayout(2, (2, 3), per_view_prefix=2),
    "all": ViewLayout(3, (1, 4), prefix=1, suffix=2, per_view_prefix=1),
}
EXACT = {"rtol": 0, "atol": 0}
CLOSE = {"rtol": 1e-5, "atol": 1e-5}  # single precision


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, enable_gqa=q.shape[1] != k.shape[1])


def call_of(layout: ViewLayout, *, b: int = 2, heads: int = 3, kv_heads: int | None = None, seed: int = 0) -> Call:
    g = torch.Generator().manual_seed(seed)
    n, d = layout.tokens, 4
    q = torch.randn(b, heads, n, d, generator=g)
    k, v = (torch.randn(b, kv_heads or heads, n, d, generator=g) for _ in range(2))
    given = {"query": q, "key": k, "value": v, "enable_gqa": kv_heads is not None}
    return describe("layer", 0, 0, "scaled_dot_product_attention", given)


def place_of(layout: ViewLayout, *, b: int = 2, seed: int = 0, known: float = 0.6) -> Place:
    """A place whose truth is drawn: some tokens of other views, the rest unknown."""
    g = torch.Generator().manual_seed(seed)
    n = layout.grid[0] * layout.grid[1]
    shape = (b, layout.views, n, layout.views)
    token = torch.randint(0, n, shape, generator=g)
    unknown = torch.rand(shape, generator=g) > known
    own = rearrange(torch.eye(layout.views, dtype=torch.bool), "fq fk -> fq 1 fk")
    truth = torch.where(unknown | own, -1, token)
    return Place(layer=7, layout=layout, truth=truth, n_ref=1, timesteps=(500,), seed=seed)


def run(name: Intervention, call: Call, place: Place, **how) -> Tensor:
    return edit_of(name, place, **how)(call, attend)


def view_of(position: int, layout: ViewLayout) -> tuple[int, int]:
    """View and token of a position in the sequence; view -1 for text, token -1 for camera tokens."""
    per_view = layout.per_view_prefix + layout.grid[0] * layout.grid[1]
    view, rest = divmod(position - layout.prefix, per_view)
    if not 0 <= view < layout.views:
        return -1, -1
    return view, max(rest - layout.per_view_prefix, -1)


def position_of(view: int, token: int, layout: ViewLayout) -> int:
    per_view = layout.per_view_prefix + layout.grid[0] * layout.grid[1]
    return layout.prefix + view * per_view + layout.per_view_prefix + token


def slow(name: Intervention, call: Call, place: Place) -> Tensor:
    """The edit as whole attention weights, query by query, in double precision."""
    layout, n = place.layout, place.layout.tokens
    q, k, v = (x.double() for x in (call.q, call.k_per_head, call.v_per_head))
    where = [view_of(position, layout) for position in range(n)]
    order = shuffled_keys_of(place)
    rows = []
    for query, (view, token) in enumerate(where):
        logits = einsum(q[:, :, query] * call.scale, k, "b heads d, b heads n d -> b heads n")
        if token < 0:  # text and camera tokens keep their attention
            rows.append(logits.softmax(-1))
            continue
        if name == "within_view":
            barred = torch.tensor([other not in (-1, view) for other, _ in where])
            rows.append(logits.masked_fill(barred, -torch.inf).softmax(-1))
        elif name == "shuffled_views":
            rows.append(logits[..., order[view]].softmax(-1))
        else:
            fixed = fixed_weights(name, place, query, view, token, logits)
            rows.append(fixed)
    return torch.stack(rows, dim=2) @ v


def fixed_weights(name: Intervention, place: Place, query: int, view: int, token: int, logits: Tensor) -> Tensor:
    weights = torch.zeros_like(logits)
    if name == "identity":
        weights[..., query] = 1
    elif name == "uniform":
        weights[:] = 1 / place.layout.tokens
    else:
        weights = logits.softmax(-1)
        for b in range(len(weights)):
            found = [(other, int(t)) for other, t in enumerate(place.truth[b, view, token]) if t >= 0]
            if found and view >= place.n_ref:
                weights[b] = 0
                for other, match in found:
                    weights[b, :, position_of(other, match, place.layout)] += 1 / len(found)
    return weights


def shuffled_keys_of(place: Place) -> Tensor:
    """The order that an edit really used: read off keys that name their position."""
    layout = place.layout
    positions = torch.arange(layout.tokens, dtype=torch.float32)
    call = call_of(layout, b=1, heads=1)
    k = rearrange(positions, "n -> 1 1 n 1").expand_as(call.k)
    seen: list[Tensor] = []

    def look(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        seen.append(k[:, 0, :, 0].long())
        return attend(q, k, v)

    edit_of("shuffled_views", replace(place, truth=place.truth[:1]))(replace(call, k=k), look)
    return seen[0]


# Against a slow reference


@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("name", NAMES)
def test_an_edit_is_what_whole_attention_weights_give(name: Intervention, kind: str):
    layout = LAYOUTS[kind]
    call, place = call_of(layout), place_of(layout)
    torch.testing.assert_close(run(name, call, place).double(), slow(name, call, place), **CLOSE)


@pytest.mark.parametrize("name", NAMES)
def test_an_edit_reads_fewer_key_heads_as_the_kernel_does(name: Intervention):
    layout = LAYOUTS["all"]
    call, place = call_of(layout, heads=4, kv_heads=2), place_of(layout)
    torch.testing.assert_close(run(name, call, place).double(), slow(name, call, place), **CLOSE)


@settings(max_examples=15, deadline=None)
@given(
    name=st.sampled_from(NAMES), views=st.integers(1, 4), grid=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    extras=st.tuples(*[st.integers(0, 2)] * 3), known=st.floats(0, 1), seed=st.integers(0, 1000),
)  # fmt: skip
def test_any_layout_is_edited_like_the_reference(name, views, grid, extras, known, seed):
    layout = ViewLayout(views, grid, *extras)
    call, place = call_of(layout, b=1, seed=seed), place_of(layout, b=1, seed=seed, known=known)
    torch.testing.assert_close(run(name, call, place).double(), slow(name, call, place), **CLOSE)


# Known


def test_identity_gives_each_token_its_own_value():
    call = call_of(LAYOUTS["plain"])
    torch.testing.assert_close(run("identity", call, place_of(LAYOUTS["plain"])), call.v, **EXACT)


def test_own_keys_known():
    layout = ViewLayout(2, (1, 2), prefix=1, suffix=1, per_view_prefix=1)  # text, cam a a, cam b b, text
    assert own_keys(layout).tolist() == [[0, 7, 1, 2, 3], [0, 7, 4, 5, 6]]


def test_true_match_averages_the_views_where_the_point_is_seen_and_leaves_the_rest():
    layout = ViewLayout(3, (1, 2))  # tokens 0 1 | 2 3 | 4 5; view 0 is the reference
    truth = torch.full((1, 3, 2, 3), -1)
    truth[0, 1, 0, 0], truth[0, 1, 0, 2] = 1, 0  # token 2 is seen in views 0 and 2
    truth[0, 2, 1, 0] = 0  # token 5 is seen in view 0
    truth[0, 0, 0, 1] = 1  # a reference query is left alone
    call, place = call_of(layout, b=1), replace(place_of(layout, b=1), truth=truth)
    output, usual = run("true_match", call, place), attend(call.q, call.k, call.v)
    torch.testing.assert_close(output[:, :, 2], (call.v[:, :, 1] + call.v[:, :, 4]) / 2)
    torch.testing.assert_close(output[:, :, 5], call.v[:, :, 0])
    torch.testing.assert_close(output[:, :, [0, 1, 3, 4]], usual[:, :, [0, 1, 3, 4]], **EXACT)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_shuffled_keys_change_places_within_other_views_only(kind: str):
    layout = LAYOUTS[kind]
    order = shuffled_keys(layout, 3)
    where = [view_of(position, layout) for position in range(layout.tokens)]
    for view, row in enumerate(order.tolist()):
        assert sorted(row) == list(range(layout.tokens))
        for position, source in enumerate(row):
            (own, token), (origin, _) = where[position], where[source]
            assert own == origin
            assert position == source or (own not in (view, -1) and token >= 0)
    for view in range(layout.views):  # queries of all other views see one and the same order
        mine = [position for position, (own, token) in enumerate(where) if own == view and token >= 0]
        seen = {tuple(order[other, mine].tolist()) for other in range(layout.views) if other != view}
        assert len(seen) <= 1


def test_shuffles_are_those_of_seed_layer_and_timestep():
    layout = ViewLayout(3, (4, 4))
    place = place_of(layout, b=1)
    same = shuffled_keys_of(place)
    torch.testing.assert_close(shuffled_keys_of(place), same, **EXACT)
    for other in ({"seed": 1}, {"layer": 8}, {"timesteps": (501,)}):
        assert not torch.equal(shuffled_keys_of(replace(place, **other)), same)
    assert (same[0, 16:] != torch.arange(16, 48)).any()


# An edit that changes nothing, and what it must not touch


@pytest.mark.parametrize("how", [{"heads": ()}, {"during": (501, 999)}, {"during": (0, 499)}])
@pytest.mark.parametrize("name", NAMES)
def test_an_edit_of_no_head_or_another_time_is_the_kernels_output_bit_for_bit(name: Intervention, how: dict):
    call = call_of(LAYOUTS["all"])
    output = run(name, call, place_of(LAYOUTS["all"]), **how)
    torch.testing.assert_close(output, attend(call.q, call.k, call.v), **EXACT)


def test_true_match_without_a_known_truth_changes_nothing():
    call, place = call_of(LAYOUTS["all"]), place_of(LAYOUTS["all"], known=0.0)
    torch.testing.assert_close(run("true_match", call, place), attend(call.q, call.k, call.v), **EXACT)


def test_within_the_only_view_nothing_changes():
    call = call_of(LAYOUTS["one view"])
    for name in ("within_view", "shuffled_views", "true_match"):
        output = run(name, call, place_of(LAYOUTS["one view"]))
        torch.testing.assert_close(output, attend(call.q, call.k, call.v), **EXACT)


@pytest.mark.parametrize("during", [(500, 500), (0, 500), (500, 999), (0, 999), None])
@pytest.mark.parametrize("name", NAMES)
def test_the_ends_of_the_timestep_range_are_inside(name: Intervention, during):
    call, place = call_of(LAYOUTS["plain"]), place_of(LAYOUTS["plain"])
    torch.testing.assert_close(run(name, call, place, during=during), run(name, call, place), **EXACT)


@pytest.mark.parametrize("name", NAMES)
def test_an_edit_of_one_head_touches_that_head_only(name: Intervention):
    call, place = call_of(LAYOUTS["all"]), place_of(LAYOUTS["all"])
    usual, all_heads = attend(call.q, call.k, call.v), run(name, call, place)
    output = run(name, call, place, heads=(1,))
    torch.testing.assert_close(output[:, [0, 2]], usual[:, [0, 2]], **EXACT)
    torch.testing.assert_close(output[:, 1], all_heads[:, 1], **EXACT)
    assert not torch.equal(output[:, 1], usual[:, 1])
    torch.testing.assert_close(run(name, call, place, heads=(0, 1, 2)), all_heads, **EXACT)


@pytest.mark.parametrize("name", NAMES)
def test_text_and_camera_tokens_keep_their_attention_bit_for_bit(name: Intervention):
    layout = LAYOUTS["all"]
    call = call_of(layout)
    outside = [position for position in range(layout.tokens) if view_of(position, layout)[1] < 0]
    output = run(name, call, place_of(layout))
    torch.testing.assert_close(output[:, :, outside], attend(call.q, call.k, call.v)[:, :, outside], **EXACT)
    torch.testing.assert_close(call.v, call_of(layout).v, **EXACT)  # the model's own tensors are as they were
    torch.testing.assert_close(call.k, call_of(layout).k, **EXACT)


@pytest.mark.parametrize("name", NAMES)
def test_low_precision_stays_what_the_kernel_computes_in(name: Intervention):
    call, place = call_of(LAYOUTS["plain"]), place_of(LAYOUTS["plain"])
    low = replace(call, **{part: getattr(call, part).bfloat16() for part in "qkv"}, compute_dtype=torch.bfloat16)
    output = run(name, low, place)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), run(name, call, place), rtol=0.05, atol=0.05)


# In a model


@pytest.fixture(scope="module")
def toy() -> Toy:
    torch.manual_seed(0)
    return Toy(("3d", "view", "3d", "cross", "3d")).eval()


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_calls_up_to_the_edited_one_are_equal_bit_for_bit_and_nothing_is_left(toy: Toy, name: Intervention):
    torch.manual_seed(1)
    inputs = toy.probe_inputs(3, 1)
    layers = select_layers(find_layers(toy), "all")
    target = layers[2]
    before, state = toy(**inputs), {key: value.clone() for key, value in toy.state_dict().items()}

    def recorded(edit) -> list[Call]:
        edits = None if edit is None else {target: edit}
        with AttentionTap(toy, [target, ""], edit=edits, keep="detached") as tap:
            toy(**inputs)
        return tap.calls

    layout = ViewLayout(3, (2, 3))
    place = replace(place_of(layout, b=1), layer=target.index)
    usual, changed = recorded(None), recorded(edit_of(name, place))
    nth = next(k for k, call in enumerate(usual) if call.name == target.name)
    for k, (a, b) in enumerate(zip(usual, changed, strict=True)):
        equal = all(torch.equal(getattr(a, part), getattr(b, part)) for part in "qkv")
        assert equal == (k <= nth), f"call {k}, {a.name}"
    with AttentionTap(toy, target, edit=edit_of(name, place)):
        assert not torch.equal(toy(**inputs), before)
    assert torch.equal(toy(**inputs), before)
    assert all(torch.equal(value, state[key]) for key, value in toy.state_dict().items())
    assert all("forward" not in vars(module) and not module._forward_pre_hooks for module in toy.modules())


@torch.no_grad()
def test_each_forward_has_the_timestep_it_was_given():
    """The second of three forwards is edited; a fourth is refused."""
    model = Plain(Attend())
    x = tokens(6)
    place = replace(place_of(ViewLayout(2, (1, 3)), b=1), timesteps=(900, 500, 100))
    usual = model(x)
    with AttentionTap(model, "blocks.0", edit=edit_of("identity", place, during=(200, 800))):
        assert [torch.equal(model(x), usual) for _ in range(3)] == [True, False, True]
        with pytest.raises(ValueError, match="forward 3 of the model, but 3 timesteps were given"):
            model(x)


def test_gradients_reach_the_values_of_an_edited_layer():
    """Edits are plain functions of tensors: a loss behind them has its gradient."""
    model = Plain(Attend())
    x = tokens(6).requires_grad_()
    with AttentionTap(model, "blocks.0", edit=edit_of("uniform", place_of(ViewLayout(2, (1, 3)), b=1))):
        model(x).sum().backward()
    assert x.grad is not None
    assert model.blocks[0].to_q.weight.grad is None  # the weights no longer depend on queries


@pytest.mark.parametrize("order", ["h w f", "w f h"])
@pytest.mark.parametrize("name", ["identity", "within_view"])
def test_edits_keep_the_order_of_tokens(name: str, order: str):
    usual, other = ViewLayout(2, (2, 3)), ViewLayout(2, (2, 3), order=order)
    torch.manual_seed(0)
    model, x = Plain(Attend()), tokens(12)
    place = torch.empty(12, dtype=torch.long)
    place[image_tokens(x, other)] = image_tokens(x, usual)
    outputs = []
    for layout, turned in ((usual, x), (other, x[:, place])):
        with AttentionTap(model, "blocks.0", edit=edit_of(name, place_of(layout, b=1))):
            outputs.append(model(turned))
    torch.testing.assert_close(outputs[1], outputs[0][:, place])


def test_a_mask_that_hides_nothing_lets_views_be_attended_alone():
    class Masked(Attend):
        def kernel(self, q, k, v):
            return F.scaled_dot_product_attention(q, k, v, torch.ones(1, 1, 1, k.shape[2], dtype=torch.bool))

    torch.manual_seed(0)
    model, plain = Plain(Masked()), Plain(Attend())
    plain.load_state_dict(model.state_dict())
    edit = edit_of("within_view", place_of(ViewLayout(2, (1, 3)), b=1))
    outputs = []
    for network in (model, plain):
        with AttentionTap(network, "blocks.0", edit=edit):
            outputs.append(network(tokens(6)))
    torch.testing.assert_close(*outputs)


# Refusals


def test_what_cannot_be_edited_is_refused():
    layout = LAYOUTS["plain"]
    call, place = call_of(layout), place_of(layout)
    for masked in ({"mask": torch.ones(18, 18).tril().bool()}, {"causal": True}):
        with pytest.raises(ValueError, match=r"layer 7 .* hides keys by its mask; .* only identity"):
            run("uniform", replace(call, **masked), place)
        run("identity", replace(call, **masked), place)
    for head in (HEADS + 1, -1):
        with pytest.raises(ValueError, match=rf"heads \[{head}\] of layer 7, which has 3"):
            run("identity", call, place, heads=(head,))
    with pytest.raises(ValueError, match="18 tokens are not 2 views of 2 x 3"):
        run("uniform", call, place_of(ViewLayout(2, (2, 3))))
    with pytest.raises(ValueError, match="batch of 2, the truth on 1"):
        run("true_match", call, place_of(layout, b=1))
