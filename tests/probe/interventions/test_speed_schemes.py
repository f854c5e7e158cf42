"""Schemes: known counts, attention equal to that under a mask, and nothing computed beyond what is counted."""

from dataclasses import replace

import pytest
import torch
from einops import einsum
from torch import Tensor
from torch.nn import functional as F

from probe.attention.call import Call, describe
from probe.interventions import Place, edit_of
from probe.interventions.schemes import (
    MODES,
    Scheme,
    edit_of_scheme,
    edits_of,
    multiply_adds,
    scheme_of,
    total_multiply_adds,
)
from probe.layers import Layer, ViewLayout

LAYOUTS = {
    "plain": ViewLayout(3, (2, 3)),
    "text": ViewLayout(3, (2, 2), prefix=2, suffix=3),
    "camera tokens": ViewLayout(4, (1, 3), per_view_prefix=2),
    "views inside": ViewLayout(3, (2, 2), order="h w f"),
}
D = 4
SCHEMES: tuple[Scheme, ...] = (
    ("per_view",) * 4,
    ("references",) * 4,
    ("joint", "per_view", "references", "per_view"),
    ("per_view", "per_view", "joint", "joint"),
)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, enable_gqa=q.shape[1] != k.shape[1])


def call_of(layout: ViewLayout, kv_heads: int = 4, **more: object) -> Call:
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, heads, layout.tokens, D, generator=g) for heads in (4, kv_heads, kv_heads))
    values = {"query": q, "key": k, "value": v, "enable_gqa": kv_heads != 4, **more}
    return describe("layer", 0, 0, "scaled_dot_product_attention", values)


def mask_of(scheme: Scheme, layout: ViewLayout, n_ref: int) -> Tensor:
    """Which keys each head's queries may see: said once more, token by token."""
    owners, on_grid = layout.owners().tolist(), torch.zeros(layout.tokens, dtype=torch.bool)
    on_grid[layout.split(torch.arange(layout.tokens)[:, None]).flatten()] = True

    def sees(mode: str, query: int, key: int) -> bool:
        own = owners[key] in (-1, owners[query])
        clean = mode == "references" and owners[key] < n_ref
        return mode == "joint" or not on_grid[query] or own or clean

    tokens = range(layout.tokens)
    return torch.tensor([[[sees(mode, query, key) for key in tokens] for query in tokens] for mode in scheme])


def test_known_counts_of_multiply_adds():
    layout = ViewLayout(3, (2, 2))
    joint, own, references = 12 * 12, 3 * 4 * 4, 4 * 4 + 2 * 4 * 8
    for mode, pairs in (("joint", joint), ("per_view", own), ("references", references)):
        assert multiply_adds((mode,), layout, 1, channels=5) == 2 * 5 * pairs
    assert multiply_adds(("joint", "per_view", "per_view"), layout, 1, 5) == 10 * (joint + 2 * own)
    assert multiply_adds(("references",), layout, 0, 5) == 10 * own
    assert multiply_adds(("references",), layout, 2, 5) == 10 * (8 * 8 + 4 * 12)
    large = ViewLayout(4, (32, 32))
    assert multiply_adds(("joint",) * 10, large, 1, 64) == 4096 * 4096 * 64 * 2 * 10
    assert multiply_adds(("per_view",) * 10, large, 1, 64) * 4 == multiply_adds(("joint",) * 10, large, 1, 64)


def test_a_layer_without_a_scheme_is_counted_joint():
    layers = [Layer(index, f"l{index}", (2, 2), 2, "3d", channels=5) for index in (3, 7)]
    joint, own = 2 * 2 * 5 * 144, 2 * 2 * 5 * 48
    assert total_multiply_adds({}, layers, 3, 1) == 2 * joint
    assert total_multiply_adds({7: ("per_view",) * 2}, layers, 3, 1) == joint + own
    assert scheme_of({}, layers[0]) == ("joint", "joint")
    assert list(edits_of({3: ("joint", "joint"), 7: ("joint", "per_view")}, layers, 3, 1)) == [layers[1]]


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_all_heads_joint_is_the_kernels_own_output_bit_for_bit(layout: ViewLayout):
    call = call_of(layout)
    assert torch.equal(edit_of_scheme(("joint",) * 4, layout, 1)(call, attend), attend(call.q, call.k, call.v))


@pytest.mark.parametrize("n_ref", [0, 1, 2])
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_a_scheme_is_attention_under_its_mask(layout: ViewLayout, kv_heads: int, n_ref: int):
    call = call_of(layout, kv_heads)
    logits = einsum(call.q.double(), call.k_per_head.double(), "b h n d, b h m d -> b h n m") * call.scale
    for scheme in SCHEMES:
        barred = ~mask_of(scheme, layout, n_ref)
        dense = logits.masked_fill(barred, -torch.inf).softmax(-1) @ call.v_per_head.double()
        output = edit_of_scheme(scheme, layout, n_ref)(call, attend)
        torch.testing.assert_close(output.double(), dense, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_the_kernel_computes_no_more_than_is_counted(layout: ViewLayout):
    call = call_of(layout)
    for scheme in (*SCHEMES, ("joint",) * 4):
        computed = []

        def counted(q: Tensor, k: Tensor, v: Tensor, computed: list[int] = computed) -> Tensor:
            computed.append(q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2] * (q.shape[3] + v.shape[3]))
            return attend(q, k, v)

        edit_of_scheme(scheme, layout, 1)(call, counted)
        assert sum(computed) == len(call.q) * multiply_adds(scheme, layout, 1, D)


def test_modes_are_ordered_from_the_most_pairs_to_the_fewest():
    for layout in LAYOUTS.values():
        costs = [multiply_adds((mode,), layout, 1, D) for mode in MODES]
        assert costs == sorted(costs, reverse=True)
        assert len(set(costs)) == len(costs)


@pytest.mark.parametrize("name", ["plain", "camera tokens"])
def test_per_view_is_the_causal_edit_within_views(name: str):
    layout, call = LAYOUTS[name], call_of(LAYOUTS[name])
    none = torch.full((2, layout.views, layout.grid[0] * layout.grid[1], layout.views), -1)
    place = Place(layer=0, layout=layout, truth=none, n_ref=1, timesteps=(0,))
    torch.testing.assert_close(
        edit_of_scheme(("per_view",) * 4, layout, 1)(call, attend), edit_of("within_view", place)(call, attend)
    )


def test_gradients_flow():
    call = call_of(LAYOUTS["plain"])
    call = replace(call, q=call.q.requires_grad_())
    edit_of_scheme(SCHEMES[2], LAYOUTS["plain"], 1)(call, attend).sum().backward()
    assert call.q.grad is not None
    assert call.q.grad.isfinite().all()


def test_what_the_scheme_is_not_for_is_refused():
    layout = LAYOUTS["plain"]
    edit = edit_of_scheme(SCHEMES[0], layout, 1)
    with pytest.raises(ValueError, match="18 tokens; plan again for this model and number of views"):
        edit(call_of(ViewLayout(2, (2, 3))), attend)
    with pytest.raises(ValueError, match=r"has 4 heads.*the scheme is for 2 heads"):
        edit_of_scheme(("per_view", "joint"), layout, 1)(call_of(layout), attend)
    hidden = torch.ones(18, 18, dtype=torch.bool).tril()
    with pytest.raises(ValueError, match=r"hides keys or adds to logits by its mask.*leave this layer joint"):
        edit(call_of(layout, attn_mask=hidden), attend)
    everything = torch.ones(18, 18, dtype=torch.bool)
    torch.testing.assert_close(edit(call_of(layout, attn_mask=everything), attend), edit(call_of(layout), attend))
