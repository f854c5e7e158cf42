"""Laws of matching: streamed attention against the whole map, ratios against a plain search, the common grid."""

import math
from itertools import pairwise

import pytest
import torch
from einops import rearrange, repeat
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from probe.attention.masks import HIDDEN
from probe.layers import ViewLayout
from probe.matching import (
    attention_matches,
    common_grid_matches,
    cosine_matches,
    image_tokens,
    pooled_matches,
    ratio_matches,
    upsampling,
)

CLOSE = {"rtol": 1e-5, "atol": 1e-6, "equal_nan": True}
EXACT = {"rtol": 0, "atol": 0}
SEEDS = st.integers(0, 2**31 - 1)
LAYOUTS = [
    ViewLayout(2, (3, 4)),
    ViewLayout(3, (4, 3), prefix=5),
    ViewLayout(2, (2, 5), suffix=3),
    ViewLayout(3, (2, 3), prefix=2, suffix=1, per_view_prefix=2),
    ViewLayout(1, (3, 3)),
    ViewLayout(2, (1, 1)),
    ViewLayout(3, (2, 4), prefix=1, order="h w f"),
    ViewLayout(4, (2, 3), suffix=2, order="r h c w", tiles=(2, 2)),
    ViewLayout(2, (4, 4), prefix=2, per_view_suffix=1, order="f h w y x", block=(2, 2)),
    ViewLayout(3, (2, 4), order="w f h"),
    ViewLayout(2, (4, 4), order="f h w y x", block=(2, 2)),
]


def some_heads(seed: int, layout: ViewLayout, b: int = 2, heads: int = 3, d: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Random queries and keys, and a true token or none for every query and key view."""
    generator = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(b, heads, layout.tokens, d, generator=generator) for _ in range(2))
    n = math.prod(layout.grid)
    truth = torch.randint(-1, n, (b, layout.views, n, layout.views), generator=generator)
    return q, k, truth


def whole_map(q: Tensor, k: Tensor, scale: float, layout: ViewLayout) -> Tensor:
    """[b rows fq n fk n], in float64: the heads' mean, then each head."""
    weights = (q.double() @ k.double().mT * scale).softmax(-1)
    weights = torch.cat([weights.mean(1, keepdim=True), weights], dim=1)
    place = image_tokens(k, layout)
    f = layout.views
    return rearrange(weights[..., place, :][..., place], "b r (fq n) (fk m) -> b r fq n fk m", fq=f, fk=f)


def one_view_each(weight: list[list[float]]) -> tuple[Tensor, Tensor]:
    """Queries and keys of one head whose weights are exp of the given logits, [queries, keys]."""
    logits = torch.tensor(weight)
    return logits[None, None], torch.eye(logits.shape[1])[None, None]


# Where the views' tokens lie


def test_image_tokens_leave_text_and_registers_out():
    layout = ViewLayout(2, (2, 2), prefix=3, suffix=2, per_view_prefix=1)
    assert image_tokens(torch.zeros(layout.tokens, 1), layout).tolist() == [4, 5, 6, 7, 9, 10, 11, 12]


# Attention, against the whole map


@pytest.mark.parametrize("layout", LAYOUTS)
def test_attention_matches_are_those_of_the_whole_map(layout: ViewLayout):
    q, k, truth = some_heads(1, layout)
    matches, weights = attention_matches(q, k, 0.7, layout, truth), whole_map(q, k, 0.7, layout)
    mass = weights.sum(-1)
    within = weights / mass[..., None]
    torch.testing.assert_close(matches.token, weights.argmax(-1), **EXACT)
    torch.testing.assert_close(matches.mass_key_view, mass.float(), **CLOSE)
    entropy = -(within * within.log()).sum(-1)
    torch.testing.assert_close(matches.entropy, entropy[:, :1].float(), **CLOSE)
    at_truth = within.gather(-1, repeat(truth.clamp(min=0), "b q n k -> b r q n k 1", r=4))[..., 0]
    expected = torch.where(truth[:, None] >= 0, -at_truth.log(), torch.nan)[:, :1]
    torch.testing.assert_close(matches.cross_entropy, expected.float(), **CLOSE)


@pytest.mark.parametrize("prefix", [0, 2])
@pytest.mark.parametrize("order", ["f w h", "h w f", "h f w", "w h f", "w f h"])
def test_the_order_of_tokens_cannot_matter(order: str, prefix: int):
    """The same network in another token order scores the same."""
    usual, other = (ViewLayout(3, (2, 4), prefix=prefix, order=name) for name in ("f h w", order))
    q, k, truth = some_heads(3, usual)
    place = torch.arange(usual.tokens)
    place[image_tokens(q, other)] = image_tokens(q, usual)
    expected = attention_matches(q, k, 0.7, usual, truth)
    matches = attention_matches(q[:, :, place], k[:, :, place], 0.7, other, truth)
    assert torch.equal(matches.token, expected.token)
    torch.testing.assert_close(matches.mass_3x3, expected.mass_3x3, **CLOSE)
    ratio, usual_ratio = (ratio_matches(q[:, :, p], k[:, :, p], x) for p, x in ((place, other), (..., usual)))
    assert torch.equal(ratio.token, usual_ratio.token)


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_hidden_keys_have_no_weight(layout: ViewLayout, rows: bool):
    q, k, truth = some_heads(4, layout)
    generator = torch.Generator().manual_seed(1)
    shape = (2, 1, layout.tokens if rows else 1, layout.tokens)
    hidden = torch.rand(shape, generator=generator) < 0.3
    bias = torch.zeros(shape).masked_fill(hidden, HIDDEN)
    weights = (q.double() @ k.double().mT * 0.7 + bias).softmax(-1)
    weights = torch.cat([weights.mean(1, keepdim=True), weights], dim=1)
    place, f = image_tokens(k, layout), layout.views
    maps = rearrange(weights[..., place, :][..., place], "b r (fq n) (fk m) -> b r fq n fk m", fq=f, fk=f)
    matches, mass = attention_matches(q, k, 0.7, layout, truth, bias=bias), maps.sum(-1)
    torch.testing.assert_close(matches.mass_key_view, mass.float(), **CLOSE)
    assert torch.equal(torch.where(mass > 0, matches.token, 0), torch.where(mass > 0, maps.argmax(-1), 0))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_mass_3x3_sums_the_weights_around_the_true_token(layout: ViewLayout):
    q, k, truth = some_heads(2, layout, b=1, heads=2)
    h, w = layout.grid
    maps = rearrange(whole_map(q, k, 0.4, layout), "b r fq n fk (h w) -> b r fq n fk h w", h=h)
    expected = torch.full(maps.shape[:-2], torch.nan, dtype=torch.float64)
    for b, fq, n, fk in torch.nonzero(truth >= 0).tolist():
        row, column = divmod(int(truth[b, fq, n, fk]), w)
        window = maps[b, :, fq, n, fk, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
        expected[b, :, fq, n, fk] = window.sum((-2, -1))
    matches = attention_matches(q, k, 0.4, layout, truth)
    torch.testing.assert_close(matches.mass_3x3, expected.float(), **CLOSE)


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, at_once=st.integers(1, 3000), which=st.integers(0, len(LAYOUTS) - 1))
def test_the_size_of_a_chunk_cannot_matter(seed: int, at_once: int, which: int):
    layout = LAYOUTS[which]
    q, k, truth = some_heads(seed, layout)
    whole, parts = (attention_matches(q, k, 0.5, layout, truth, at_once=size) for size in (10**9, at_once))
    torch.testing.assert_close(parts.token, whole.token, **EXACT)
    for name in ("mass_key_view", "mass_3x3", "entropy", "cross_entropy"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), **CLOSE)


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS)
def test_permuting_views_permutes_matches(seed: int):
    layout = ViewLayout(3, (2, 3))
    q, k, truth = some_heads(seed, layout)
    order = torch.randperm(3, generator=torch.Generator().manual_seed(seed))
    turned = [rearrange(x, "b h (f n) d -> b h f n d", f=3)[:, :, order].flatten(2, 3) for x in (q, k)]
    moved = attention_matches(*turned, 0.6, layout, truth[:, order][..., order])
    still = attention_matches(q, k, 0.6, layout, truth)
    for name in ("token", "mass_key_view", "mass_3x3", "entropy", "cross_entropy"):
        torch.testing.assert_close(getattr(moved, name), getattr(still, name)[:, :, order][..., order], **CLOSE)
    torch.testing.assert_close(
        ratio_matches(*turned, layout).token, ratio_matches(q, k, layout).token[:, order][..., order], **EXACT
    )


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, scale=st.floats(0.01, 3))
def test_shares_are_shares(seed: int, scale: float):
    layout = ViewLayout(3, (2, 4), prefix=2)
    matches = attention_matches(*(some := some_heads(seed, layout))[:2], scale, layout, some[2])
    assert (matches.mass_key_view >= 0).all()
    assert (matches.mass_key_view.sum(-1) < 1 + 1e-5).all()  # the rest lies on the text
    known = ~matches.mass_3x3.isnan()
    assert (matches.mass_3x3 <= matches.mass_key_view + 1e-5)[known].all()
    assert (known == (some[2] >= 0)[:, None]).all()
    assert (matches.entropy >= 0).all()
    assert (matches.entropy <= math.log(8) + 1e-5).all()
    assert not matches.entropy.isnan().any()


# Attention, by hand


def test_uniform_attention_by_hand():
    layout = ViewLayout(3, (3, 4))
    zero = torch.zeros(1, 2, 36, 4)
    truth = torch.full((1, 3, 12, 3), -1)
    truth[..., 0], truth[..., 1] = 0, 5  # a corner, with 4 tokens in its window; an inner one with 9
    matches = attention_matches(zero, zero, 1.0, layout, truth)
    torch.testing.assert_close(matches.mass_key_view, torch.full((1, 3, 3, 12, 3), 1 / 3))
    torch.testing.assert_close(matches.entropy, torch.full((1, 1, 3, 12, 3), math.log(12)))
    torch.testing.assert_close(matches.cross_entropy[..., :2], torch.full((1, 1, 3, 12, 2), math.log(12)))
    torch.testing.assert_close(matches.mass_3x3[..., 0], torch.full((1, 3, 3, 12), 4 / 36))
    torch.testing.assert_close(matches.mass_3x3[..., 1], torch.full((1, 3, 3, 12), 9 / 36))
    assert matches.mass_3x3[..., 2].isnan().all()
    assert matches.cross_entropy[..., 2].isnan().all()
    assert (matches.token == 0).all()  # all are equal: the first


def test_the_first_of_equal_weights_is_taken_in_each_view():
    q, k = one_view_each([[0.0, 2, 2, 2, 1, 1]] * 6)
    matches = attention_matches(q, k, 1.0, ViewLayout(2, (1, 3)), torch.zeros(1, 2, 3, 2, dtype=torch.long))
    assert matches.token[0, 0, 0, 0].tolist() == [1, 0]
    assert matches.token[0, 1, 1, 2].tolist() == [1, 0]


def test_weights_by_hand():
    logits = [0.0, math.log(3), math.log(2), math.log(2)]  # weights 1/8, 3/8, 2/8, 2/8
    q, k = one_view_each([logits] * 4)
    truth = torch.tensor([1, -1])[None, None, None].expand(1, 2, 2, 2)
    matches = attention_matches(q, k, 1.0, ViewLayout(2, (1, 2)), truth)
    torch.testing.assert_close(matches.mass_key_view[0, 0, 0, 0], torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(matches.mass_3x3[0, 0, 0, 0], torch.tensor([0.5, torch.nan]), equal_nan=True)
    torch.testing.assert_close(
        matches.cross_entropy[0, 0, 0, 0], torch.tensor([math.log(4 / 3), torch.nan]), equal_nan=True
    )
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    torch.testing.assert_close(matches.entropy[0, 0, 0, 0], torch.tensor([entropy, math.log(2)]))


def test_heads_are_averaged_as_weights_and_not_as_logits():
    sure, unsure = [8.0, 0, 0, 0], [0.0, 1.0, 0, 0]  # their mean logit looks at 0 by far, and so do the mean weights
    torn = [[0.0, 9, 0, 0]]  # a head whose view holds nearly all its weight outvotes one that looks elsewhere
    q = torch.tensor([[[sure] * 4, [unsure] * 4], [[torn[0]] * 4, [[9.0, 0, 30, 0]] * 4]])
    k = torch.eye(4).expand(2, 2, 4, 4)
    token = attention_matches(q, k, 1.0, ViewLayout(2, (1, 2)), torch.full((2, 2, 2, 2), -1)).token
    assert token[0, :, 0, 0, 0].tolist() == [0, 0, 1]  # together, head 0, head 1
    assert token[1, :, 0, 0, 0].tolist() == [1, 1, 0]  # the second head's weight lies in the other view


def test_a_view_whose_weights_vanish_in_floating_point_still_has_a_best_token():
    logits = [300.0, 0, 1, 3, 2, 0]  # the second view holds exp(-297) of the weight
    q, k = one_view_each([logits] * 6)
    truth = torch.full((1, 2, 3, 2), 2)
    matches = attention_matches(q, k, 1.0, ViewLayout(2, (1, 3)), truth)
    assert matches.token[0, 0, 0, 0].tolist() == [0, 0]
    assert matches.mass_key_view[0, 0, 0, 0].tolist() == [1, 0]
    weights = torch.tensor([3.0, 2, 0]).softmax(-1)
    torch.testing.assert_close(matches.cross_entropy[0, 0, 0, 0], torch.tensor([299.0, -weights[2].log()]))
    torch.testing.assert_close(matches.entropy[0, 0, 0, 0, 1], -(weights * weights.log()).sum())
    assert matches.mass_3x3[0, 0, 0, 0].tolist() == [0, 0]


def test_scale_multiplies_logits():
    layout = ViewLayout(2, (2, 2))
    q, k, truth = some_heads(3, layout)
    scaled, plain = (attention_matches(*given, layout, truth) for given in ((q, k, 0.25), (q * 0.25, k, 1.0)))
    torch.testing.assert_close(scaled.mass_3x3, plain.mass_3x3, **CLOSE)


def test_half_precision_is_read_in_float32():
    layout = ViewLayout(2, (2, 2))
    q, k, truth = some_heads(4, layout)
    half, rounded = (
        attention_matches(a, b, 0.5, layout, truth)
        for a, b in ((q.bfloat16(), k.bfloat16()), (q.bfloat16().float(), k.bfloat16().float()))
    )
    torch.testing.assert_close(half.mass_key_view, rounded.mass_key_view, **EXACT)


# The common grid


def expected_common(q: Tensor, k: Tensor, scale: float, layout: ViewLayout, common: tuple[int, int]) -> Tensor:
    """[b fq m fk m]: the map resampled over keys, then over queries, by torch itself."""
    h, (b, f) = layout.grid[0], (len(q), layout.views)
    maps = whole_map(q, k, scale, layout)[:, 0]
    over_keys = F.interpolate(
        rearrange(maps, "b fq n fk (h w) -> (b fq fk) n h w", h=h), common, mode="bilinear", align_corners=False
    )
    over_queries = F.interpolate(
        rearrange(over_keys, "x (h w) i j -> x (i j) h w", h=h), common, mode="bilinear", align_corners=False
    )
    return rearrange(over_queries, "(b fq fk) m i j -> b fq (i j) fk m", b=b, fq=f)


@pytest.mark.parametrize(
    ("layout", "common"),
    [
        (ViewLayout(3, (3, 4), prefix=2), (6, 8)),
        (ViewLayout(2, (2, 3)), (5, 4)),
        (ViewLayout(2, (3, 3), per_view_prefix=1), (7, 3)),
        (ViewLayout(2, (1, 2)), (2, 4)),
    ],
)
def test_common_grid_matches_are_those_of_the_resampled_map(layout: ViewLayout, common: tuple[int, int]):
    q, k, _ = some_heads(5, layout)
    token = common_grid_matches(q, k, 1.3, layout, common)
    maps = expected_common(q, k, 1.3, layout, common)
    assert token.shape == (2, 1, layout.views, math.prod(common), layout.views)
    found = maps.gather(-1, token[:, 0, ..., None])[..., 0]
    torch.testing.assert_close(found, maps.amax(-1), rtol=1e-5, atol=0)  # as high as the highest, where two are close
    assert (token[:, 0] == maps.argmax(-1)).double().mean() > 0.99


def test_common_grid_of_equal_grids_is_the_plain_match():
    layout = ViewLayout(3, (4, 5), suffix=2)
    q, k, truth = some_heads(6, layout)
    plain = attention_matches(q, k, 1.0, layout, truth).token[:, :1]
    torch.testing.assert_close(common_grid_matches(q, k, 1.0, layout, (4, 5)), plain, **EXACT)


def test_a_peak_of_the_coarse_map_stays_in_its_cell():
    layout = ViewLayout(2, (2, 3))
    peaks = torch.tensor([3, 0, 5, 1, 4, 2])  # where each token of a view looks in the other and in its own
    q = 12 * F.one_hot(peaks, 6).float().repeat(2, 1)[None, None]
    k = torch.eye(6).repeat(2, 1)[None, None]
    token = common_grid_matches(q, k, 1.0, layout, (6, 9))[0, 0]
    fine = torch.arange(54)
    cell = fine // 9 // 3 * 3 + fine % 9 // 3
    middle = (fine // 9 % 3 == 1) & (fine % 9 % 3 == 1)  # the fine query tokens on the coarse ones' centres
    assert (cell[token][:, middle] == rearrange(peaks[cell[middle]], "m -> 1 m 1")).all()


def test_chunks_of_the_common_grid_cannot_matter(monkeypatch: pytest.MonkeyPatch):
    layout = ViewLayout(2, (3, 4))
    q, k, _ = some_heads(7, layout)
    whole = common_grid_matches(q, k, 1.0, layout, (6, 8))
    monkeypatch.setattr("probe.matching.attention.WEIGHTS_AT_ONCE", 100)
    torch.testing.assert_close(common_grid_matches(q, k, 1.0, layout, (6, 8)), whole, **EXACT)


@pytest.mark.parametrize(("grid", "common"), [((2, 3), (4, 6)), ((3, 2), (5, 7)), ((4, 4), (4, 4)), ((1, 1), (2, 3))])
def test_upsampling_is_torchs_own(grid: tuple[int, int], common: tuple[int, int]):
    maps = torch.randn(3, math.prod(grid), generator=torch.Generator().manual_seed(0))
    shaped = rearrange(maps, "b (h w) -> b 1 h w", h=grid[0])
    expected = F.interpolate(shaped, common, mode="bilinear", align_corners=False).flatten(1)
    torch.testing.assert_close(maps @ upsampling(grid, common).mT, expected, **CLOSE)
    torch.testing.assert_close(upsampling(grid, common).sum(1), torch.ones(math.prod(common)), **CLOSE)


# Ratios


def at_angles(*degrees: float) -> Tensor:
    """Vectors of one head in the plane, of growing length."""
    angle = torch.deg2rad(torch.tensor(degrees))
    return (torch.stack([angle.cos(), angle.sin()], -1) * torch.arange(1, len(degrees) + 1)[:, None])[None, None]


def test_cosine_matches_by_hand():
    """Angles alone count: keys at 10, 20 and 60 degrees, of which the first is not known in the second case."""
    q, k, layout = at_angles(0.0, 20.0, 60.0), at_angles(10.0, 20.0, 60.0), ViewLayout(1, (1, 3))
    found = cosine_matches(q, k, layout, torch.ones(1, 1, 3, dtype=torch.bool))
    away = [1 - math.cos(math.radians(angle)) for angle in (10, 20, 40)]
    assert found.token[0, 0, :, 0].tolist() == [0, 1, 2]
    expected = [away[0] / away[1], 1e-9 / away[0], 1e-9 / away[2]]
    torch.testing.assert_close(found.ratio[0, 0, :, 0], torch.tensor(expected), rtol=1e-4, atol=0)
    found = cosine_matches(q, k, layout, torch.tensor([[[False, True, True]]]))
    assert found.token[0, 0, :, 0].tolist() == [1, 1, 2]
    expected = [away[1] / 0.5, 1e-9 / away[2], 1e-9 / away[2]]
    torch.testing.assert_close(found.ratio[0, 0, :, 0], torch.tensor(expected), rtol=1e-4, atol=0)
    same = cosine_matches(q, at_angles(20.0, 20.0, 20.0), layout, torch.ones(1, 1, 3, dtype=torch.bool))
    assert same.ratio[0, 0, 1, 0] == 1


def test_pooled_matches_by_hand():
    """One reference and two targets of two tokens each, on a line; queries at 0."""
    k = torch.tensor([0.0, 9, 1, 4, 2, 3])[None, None, :, None]
    found = pooled_matches(torch.zeros_like(k), k, ViewLayout(3, (1, 2)), 1)
    assert found.token[0, :, 0].tolist() == [[0, 0, 0]] * 3
    inf = math.inf
    assert found.ratio[0, :, 1].tolist() == [
        [inf, pytest.approx(1 / 4), inf],  # both targets: 1 and 4 against 16 and 9
        [0, inf, pytest.approx(4 / 9)],  # the reference: 0 against 81; the other target
        [0, pytest.approx(1 / 16), inf],
    ]
    equal = pooled_matches(k * 0, k * 0, ViewLayout(3, (1, 2)), 1)
    assert (equal.ratio[equal.ratio.isfinite()] == 0).all()  # not 1: the release adds 1e-12 below


@pytest.mark.parametrize("layout", LAYOUTS[:5])
@pytest.mark.parametrize("at_once", [1, 300, 10**9])
def test_ratio_matches_are_those_of_a_plain_search(layout: ViewLayout, at_once: int):
    q, k, _ = some_heads(8, layout)
    matches = ratio_matches(q, k, layout, at_once=at_once)
    place = image_tokens(k, layout)
    queries, keys = (rearrange(x[:, :, place].double(), "b h n d -> b n (h d)") for x in (q, k))
    squares = rearrange(
        torch.cdist(queries, keys) ** 2, "b (fq n) (fk m) -> b fq n fk m", fq=layout.views, m=len(place) // layout.views
    )
    distance, token = squares.topk(2, dim=-1, largest=False)
    torch.testing.assert_close(matches.token, token[..., 0], **EXACT)
    torch.testing.assert_close(matches.ratio, (distance[..., 0] / distance[..., 1]).float(), **CLOSE)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, values=st.integers(1, 6))
def test_the_ratio_lies_between_0_and_1_also_among_duplicates(seed: int, values: int):
    layout = ViewLayout(2, (2, 3))
    generator = torch.Generator().manual_seed(seed)
    q, k = (torch.randint(0, values, (1, 1, 12, 2), generator=generator).float() for _ in range(2))
    ratio = ratio_matches(q, k, layout).ratio
    assert ((ratio >= 0) & (ratio <= 1)).all()


def test_duplicates_by_hand():
    queries = [[1.0], [4.0], [7.0]]
    keys = [[1.0], [1.0], [9.0]]
    q, k = torch.tensor([[queries]]), torch.tensor([[keys]])
    matches = ratio_matches(q, k, ViewLayout(1, (1, 3)))
    assert matches.token[0, 0, :, 0].tolist()[2] == 2
    assert matches.ratio[0, 0, :, 0].tolist() == [1, 1, pytest.approx(4 / 36)]  # two at 0, two at 9, 4 against 36
    alone = ratio_matches(q, torch.tensor([[[[1.0], [3.0], [9.0]]]]), ViewLayout(1, (1, 3)))
    assert alone.token[0, 0, 0, 0] == 0
    assert alone.ratio[0, 0, 0, 0] == 0


def test_equal_descriptors_of_great_norm_are_ambiguous_and_not_certain():
    """Lifted patches of one colour: rounding of the products must not tell them apart."""
    generator = torch.Generator().manual_seed(0)
    one = 30 * torch.randn(1, 1, 1, 49, generator=generator)
    same = one.expand(1, 1, 32, 49)
    assert (ratio_matches(same, same, ViewLayout(2, (4, 4))).ratio == 1).all()


def test_near_descriptors_of_great_norm_are_told_apart():
    steps = torch.arange(16.0) / 256  # one step of 8-bit colour each
    far = torch.cat([steps[:, None], torch.full((16, 1), 28.0)], dim=1)[None, None]
    matches = ratio_matches(far, far + torch.tensor([0.001, 0]), ViewLayout(1, (4, 4)))
    assert matches.token[0, 0, :, 0].tolist() == list(range(16))
    assert all(a >= b - 0.01 for a, b in pairwise([1.0, *matches.ratio[0, 0, 1:-1, 0].tolist()]))


def test_heads_are_concatenated():
    layout = ViewLayout(1, (1, 2))
    q = torch.tensor([[[[0.0], [0.0]], [[5.0], [0.0]]]])
    k = torch.tensor([[[[1.0], [3.0]], [[0.0], [5.0]]]])
    assert ratio_matches(q, k, layout).token[0, 0, 0, 0] == 1  # 1 + 25 against 9 + 0
    assert ratio_matches(q[:, :1], k[:, :1], layout).token[0, 0, 0, 0] == 0


def test_ratio_refuses_a_grid_of_one_token():
    x = torch.zeros(1, 1, 2, 3)
    with pytest.raises(ValueError, match=r"needs two tokens per view, the grid is \(1, 1\)"):
        ratio_matches(x, x, ViewLayout(2, (1, 1)))


def test_a_layout_of_another_length_is_refused():
    layout, truth = ViewLayout(2, (2, 2), prefix=2), torch.zeros(1, 2, 4, 2, dtype=torch.long)
    for joint in (9, 11):
        x = torch.zeros(1, 1, joint, 3)
        for match in (
            lambda x: attention_matches(x, x, 1.0, layout, truth),
            lambda x: ratio_matches(x, x, layout),
            lambda x: common_grid_matches(x, x, 1.0, layout, (4, 4)),
        ):
            with pytest.raises(ValueError, match=f"{joint} tokens are not 2 views of 2 x 2 and 2 others"):
                match(x)
