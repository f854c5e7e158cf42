"""Laws of the CAMEO loss: the formula by hand and by loops, chunks against the plain formula, the draw, refusals."""

import copy
import dataclasses
import math
from itertools import product

import pytest
import torch
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from probe.correspondence import TokenMatches, match_tokens
from train import alignment
from train.alignment import CorrespondenceAlignment, readout_matches
from train.alignment.mixing import MIXINGS
from train.alignment.pairs import TARGETS, pair_weights

EXACT = {"rtol": 0, "atol": 0}
CLOSE = {"rtol": 1e-8, "atol": 1e-10}
FLOAT = {"rtol": 1e-5, "atol": 1e-6}
SEEDS = st.integers(0, 2**31 - 1)
KINDS = list(product(MIXINGS, TARGETS))
EVERY = ("plain", "chunked", "scenes")


def own_view(views: int) -> Tensor:
    return torch.eye(views, dtype=torch.bool)[:, None]


def some_matches(seed: int, b: int, views: int, n: int, share: float = 0.6) -> TokenMatches:
    """Random truth with holes; distances tie now and then, and are missing in some pairs that do not count."""
    generator = torch.Generator().manual_seed(seed)
    shape = (b, views, n, views)
    counted = (torch.rand(shape, generator=generator) < share) & ~own_view(views)
    distance = torch.randint(0, 3, shape, generator=generator).double()
    missing = ~counted & (torch.rand(shape, generator=generator) < 0.5)
    index = torch.randint(0, n, shape, generator=generator)
    return TokenMatches(index, counted, distance.masked_fill(missing, torch.nan).masked_fill(own_view(views), 0))


def some_heads(seed: int, b: int, heads: int, n: int, d: int = 4, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(b, heads, n, d, generator=generator, dtype=dtype).requires_grad_() for _ in range(2)]


def losses(mixing: str, target: str = "per_pair", heads: int = 3, **more) -> dict[str, CorrespondenceAlignment]:
    """One loss by each backend, with the same random weights, in double precision."""
    loss = CorrespondenceAlignment(heads, mixing=mixing, target=target, backend="plain", **more).double()
    for weight in loss.parameters():
        nn.init.normal_(weight)
    every = {backend: copy.deepcopy(loss) for backend in EVERY}
    for backend, one in every.items():
        one.backend = backend
    return every


def value_and_gradients(loss: CorrespondenceAlignment, q: Tensor, k: Tensor, *rest, **more) -> list[Tensor]:
    leaves = [x.detach().requires_grad_() for x in (q, k)]
    value = loss(*leaves, *rest, **more)
    return [value.detach(), *torch.autograd.grad(value, [*leaves, *loss.parameters()])]


def looped(loss: CorrespondenceAlignment, q: Tensor, k: Tensor, matches: TokenMatches, n_ref: int) -> Tensor:
    """The sentences of the paper, pair by pair."""
    b, views, n, _ = matches.index.shape
    sides: tuple[list[Tensor], list[Tensor]] = ([], [])
    for s, fq, token, fk in product(range(b), range(views), range(n), range(views)):
        if not matches.counted[s, fq, token, fk]:
            continue
        query, keys = q[s, :, fq * n + token], k[s, :, fk * n : (fk + 1) * n]
        scores = torch.stack([keys[head] @ query[head] / math.sqrt(q.shape[-1]) for head in range(len(query))], dim=-1)
        entropy = -loss.mix(scores)[:, 0].softmax(0)[matches.index[s, fq, token, fk]].log()
        sides[fq >= n_ref].append(entropy * (loss.target == "per_pair" or fk == nearest_view(matches, s, fq, token)))
    return sum((torch.stack(side).mean() for side in sides if side), torch.zeros((), dtype=q.dtype))


def nearest_view(matches: TokenMatches, s: int, fq: int, token: int) -> int:
    """Of all other views, counted or not, the first one with the smallest distance."""
    distance = matches.distance[s, fq, token].tolist()
    others = [(value, view) for view, value in enumerate(distance) if view != fq and not math.isnan(value)]
    return min(others)[1] if others else -1


# By hand


@pytest.mark.parametrize("backend", EVERY)
def test_two_views_of_two_tokens_by_hand(backend: str):
    loss = CorrespondenceAlignment(1, mixing="mean", backend=backend)
    q = torch.tensor([[[[math.log(3)], [0.0], [2.0], [5.0]]]])  # reference tokens 0 and 1, target tokens 2 and 3
    k = torch.tensor([[[[0.0], [1.0], [1.0], [0.0]]]])
    index = torch.tensor([[[[0, 0], [1, 1]], [[1, 0], [0, 1]]]])
    counted = torch.tensor([[[[False, True], [False, True]], [[True, False], [False, False]]]])
    # token 0 gives 3:1 for the first key, right; token 1 ties; token 2 gives 1:e^2 for the second key, right
    reference = (-math.log(3 / 4) + math.log(2)) / 2
    expected = reference + math.log(1 + math.exp(-2))
    torch.testing.assert_close(loss(q, k, TokenMatches(index, counted), 1), torch.tensor(expected))


def test_mean_divides_by_the_heads_and_multiplies_by_its_scale():
    matches, (q, k) = some_matches(0, 1, 2, 3), some_heads(1, 1, 2, 6)
    loss = CorrespondenceAlignment(2, mixing="mean").double()
    nn.init.constant_(loss.mix.learned, 3.0)
    joined = [rearrange(x, "b heads n d -> b 1 n (heads d)") for x in (q, k)]
    single = CorrespondenceAlignment(1, mixing="mean").double()
    torch.testing.assert_close(loss(q, k, matches, 1, scale=0.5), single(*joined, matches, 1, scale=0.75), **CLOSE)


def test_positive_begins_as_the_mean_and_cannot_weigh_a_head_negatively():
    matches, (q, k) = some_matches(0, 1, 2, 3), some_heads(1, 1, 5, 6, dtype=torch.float32)
    positive = CorrespondenceAlignment(5, mixing="positive")
    mean = CorrespondenceAlignment(5, mixing="mean")
    torch.testing.assert_close(positive(q, k, matches, 1), mean(q, k, matches, 1), **FLOAT)
    nn.init.constant_(positive.mix.learned, -5.0)
    assert (positive.mix(torch.eye(5)) > 0).all()


def test_mlp_is_the_papers():
    mix = CorrespondenceAlignment(3).mix
    assert [type(part) for part in mix] == [nn.Linear, nn.GELU, nn.Linear]
    assert [tuple(weight.shape) for weight in mix.parameters()] == [(12, 3), (12,), (1, 12), (1,)]


def test_global_nearest_by_hand():
    distance = torch.tensor([[0, 2, 1, 3], [0, 1, 1, 1], [0, 2, 1, 3], [0, torch.nan, torch.nan, 5]])
    counted = torch.tensor([[0, 1, 1, 1], [0, 1, 0, 1], [0, 1, 0, 1], [0, 0, 0, 1]], dtype=torch.bool)
    empty = torch.zeros(3, 4, 4, dtype=torch.bool)
    matches = TokenMatches(
        index=torch.zeros(1, 4, 4, 4, dtype=torch.long),
        counted=torch.cat([counted[None], empty])[None],
        distance=torch.cat([distance[None], torch.zeros(3, 4, 4)])[None],
    )
    # 8 pairs count; token 0 enters with view 2, 1 with the first of equals, 2 with none (its nearest does not count)
    expected = torch.zeros(4, 4).index_put((torch.tensor([0, 1, 3]), torch.tensor([2, 1, 3])), torch.tensor(1 / 8))
    weight = pair_weights(matches, 2, target="global_nearest")
    torch.testing.assert_close(weight[0, 0], expected, **EXACT)
    assert weight[0, 1:].eq(0).all()


@pytest.mark.parametrize("mixing", MIXINGS)
def test_perfect_queries_and_keys_have_no_loss(mixing: str):
    points = torch.rand(1, 1, 3, 4, 6, generator=torch.Generator().manual_seed(0)).expand(1, 3, 3, 4, 6)
    matches = match_tokens(points, torch.ones(1, 3, 4, 6, dtype=torch.bool), (4, 6))
    one_hot = torch.eye(24).repeat(3, 1).expand(1, 2, 72, 24) * 30
    loss = CorrespondenceAlignment(2, mixing=mixing)
    if mixing == "mlp":  # one hidden unit that passes positive scores on
        for weight in loss.parameters():
            nn.init.zeros_(weight)
        nn.init.ones_(loss.mix[0].weight[:1])
        nn.init.ones_(loss.mix[2].weight[:, :1])
    assert matches.counted.sum() == 6 * 24
    assert 0 <= loss(one_hot, one_hot, matches, 1) < 1e-5
    torch.testing.assert_close(readout_matches(loss, one_hot, one_hot, 3), matches.index, **EXACT)


# Against loops, and chunks against the plain formula


@pytest.mark.parametrize(("mixing", "target"), KINDS)
@pytest.mark.parametrize("backend", EVERY)
def test_the_formula_is_that_of_the_loops(backend: str, mixing: str, target: str):
    loss = losses(mixing, target)[backend]
    for n_ref in range(4):
        matches, (q, k) = some_matches(n_ref, 2, 3, 6), some_heads(n_ref, 2, 3, 18)
        torch.testing.assert_close(loss(q, k, matches, n_ref), looped(loss, q, k, matches, n_ref), **CLOSE)


@settings(max_examples=40, deadline=None)
@given(
    seed=SEEDS,
    kind=st.sampled_from(KINDS),
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 7)),
    n_ref=st.integers(0, 4),
    share=st.sampled_from([0.0, 0.1, 0.6, 1.0]),
    numbers=st.integers(0, 6000),
)
def test_chunks_equal_the_plain_formula(seed, kind, sizes, n_ref, share, numbers):
    torch.manual_seed(seed)
    b, views, n = sizes
    matches, (q, k) = some_matches(seed, b, views, n, share), some_heads(seed, b, 3, views * n)
    every = losses(*kind)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(alignment.NUMBERS_AT_ONCE, "cpu", numbers)
        patch.setattr(alignment.loss, "NUMBERS_OF_SCENES", numbers)
        parts = [value_and_gradients(every[name], q, k, matches, min(n_ref, views)) for name in EVERY]
    for part in parts[1:]:
        torch.testing.assert_close(part, parts[0], **CLOSE)


def test_where_kernels_are_slow_to_start_whole_scenes_are_taken_if_one_fits(monkeypatch: pytest.MonkeyPatch):
    """On a CPU never; elsewhere where the numbers of one scene are few enough."""
    matches, (q, k) = some_matches(1, 2, 2, 3), some_heads(1, 2, 3, 6)
    chunked, scenes = torch.tensor(0.0), torch.tensor(1.0)
    monkeypatch.setattr(alignment.loss, "_chunked", lambda *_: chunked)
    monkeypatch.setattr(alignment.loss, "_scenes", lambda *_: scenes)
    pairs = alignment.loss._Pairs(
        index=matches.index, weight=matches.counted.double(), mixing=MIXINGS["mlp"], mix=nn.Identity(), scale=1.0
    )
    assert alignment.loss._auto(q, k, pairs) is chunked
    elsewhere, needed = q.to("meta"), MIXINGS["mlp"].numbers * 3 * 6 * 6
    assert alignment.loss._auto(elsewhere, elsewhere, dataclasses.replace(pairs, drawn=True)) is chunked
    for most, way in ((needed, scenes), (needed - 1, chunked)):
        monkeypatch.setattr(alignment.loss, "NUMBERS_OF_SCENES", most)
        assert alignment.loss._auto(elsewhere, elsewhere, pairs) is way
    single, one_head = dataclasses.replace(pairs, mixing=MIXINGS["mean"]), elsewhere[:, :1]
    for most, way in ((3 * 6 * 6, scenes), (3 * 6 * 6 - 1, chunked)):  # logit, logarithm and gradient of each pair
        monkeypatch.setattr(alignment.loss, "NUMBERS_OF_SCENES", most)
        assert alignment.loss._auto(one_head, one_head, single) is way


@pytest.mark.parametrize(("mixing", "target"), KINDS)
def test_chunks_equal_the_plain_formula_on_matched_point_maps_with_holes(mixing: str, target: str):
    generator = torch.Generator().manual_seed(3)
    surface = torch.rand(2, 1, 3, 10, 6, generator=generator)
    points = surface + 0.1 * torch.rand(2, 4, 3, 10, 6, generator=generator)
    valid = torch.rand(2, 4, 10, 6, generator=generator) < 0.5
    matches, (q, k), both = match_tokens(points, valid, (5, 3)), some_heads(4, 2, 3, 60), losses(mixing, target)
    assert 50 < matches.counted.sum() < 300
    for n_ref in (1, 2, 3):
        parts, whole = (value_and_gradients(both[way], q, k, matches, n_ref) for way in ("chunked", "plain"))
        torch.testing.assert_close(parts, whole, **CLOSE)


@pytest.mark.parametrize("mixing", MIXINGS)
def test_gradients_are_those_of_differences(mixing: str):
    loss, matches, (q, k) = losses(mixing)["chunked"], some_matches(5, 1, 2, 2, 0.8), some_heads(5, 1, 3, 4, d=1)
    names, weights = zip(*loss.named_parameters(), strict=True)

    def function(q: Tensor, k: Tensor, *weights: Tensor) -> Tensor:
        given = dict(zip(names, weights, strict=True))
        return torch.func.functional_call(loss, given, (q, k, matches, 1)) ** 2  # so that what comes back is not 1

    assert torch.autograd.gradcheck(function, (q, k, *weights))


def test_gradients_can_be_asked_for_twice_and_are_not_computed_without_need(monkeypatch):
    loss, matches, (q, k) = losses("mlp")["chunked"], some_matches(6, 1, 3, 4), some_heads(6, 1, 3, 12)
    value = loss(q, k, matches, 1)
    once, again = (torch.autograd.grad(value, [q, k], retain_graph=True) for _ in range(2))
    torch.testing.assert_close(once, again, **EXACT)
    monkeypatch.delattr(torch.autograd, "grad")
    with torch.no_grad():
        bare = loss(q, k, matches, 1)
    assert not bare.requires_grad
    torch.testing.assert_close(bare, value.detach(), **EXACT)


@pytest.mark.parametrize("mixing", MIXINGS)
def test_nothing_per_pair_of_tokens_is_kept_for_the_backward_pass(mixing: str):
    loss, matches, (q, k) = losses(mixing)["chunked"], some_matches(6, 1, 3, 20), some_heads(6, 1, 3, 60, d=2)
    kept = [tuple(x.shape) for x in loss(q, k, matches, 1).grad_fn.saved_tensors]
    assert kept[:2] == [q.shape, k.shape]
    assert sum(math.prod(shape) for shape in kept[2:]) <= sum(x.numel() for x in loss.parameters()) + loss.heads


# What cannot matter, and what must


@pytest.mark.parametrize("mixing", MIXINGS)
@pytest.mark.parametrize("backend", ["chunked", "scenes"])
def test_pairs_that_do_not_count_cannot_matter(backend: str, mixing: str):
    loss, matches, (q, k) = losses(mixing)[backend], some_matches(7, 2, 3, 8, 0.2), some_heads(7, 2, 3, 24)
    unused = rearrange(~matches.counted.any(-1), "b f n -> b 1 (f n) 1")
    assert unused.any()
    expected = value_and_gradients(loss, q, k, matches, 1)
    torch.testing.assert_close(
        value_and_gradients(loss, q.masked_fill(unused, torch.nan), k, matches, 1), expected, **EXACT
    )
    nowhere = TokenMatches(matches.index.masked_fill(~matches.counted, -1), matches.counted, matches.distance)
    torch.testing.assert_close(value_and_gradients(loss, q, k, nowhere, 1), expected, **EXACT)
    own_counts = TokenMatches(matches.index, matches.counted | own_view(3), matches.distance)
    torch.testing.assert_close(loss(q, k, own_counts, 1), expected[0], **EXACT)


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, kind=st.sampled_from(KINDS), factor=st.floats(0.2, 5))
def test_order_of_scenes_and_sizes_of_both_sides_cannot_matter(seed: int, kind: tuple[str, str], factor: float):
    torch.manual_seed(seed)
    loss, matches, (q, k) = losses(*kind)["chunked"], some_matches(seed, 3, 2, 4), some_heads(seed, 3, 3, 8)
    order = torch.randperm(3)
    turned = TokenMatches(matches.index[order], matches.counted[order], matches.distance[order])
    expected = loss(q, k, matches, 1)
    torch.testing.assert_close(loss(q[order], k[order], turned, 1), expected, **CLOSE)
    torch.testing.assert_close(loss(q * factor, k / factor, matches, 1), expected, **CLOSE)
    torch.testing.assert_close(loss(q * factor, k, matches, 1, scale=0.5 / factor), expected, **CLOSE)


@pytest.mark.parametrize("backend", EVERY)
def test_an_empty_side_adds_nothing(backend: str):
    loss, matches, (q, k) = losses("mlp")[backend], some_matches(8, 2, 3, 4), some_heads(8, 2, 3, 12)
    reference = torch.arange(3)[:, None, None] < 1
    sides = [TokenMatches(matches.index, matches.counted & side) for side in (reference, ~reference)]
    both = value_and_gradients(loss, q, k, matches, 1)
    parts = [value_and_gradients(loss, q, k, side, 1) for side in sides]
    assert all(value > 0 for value, *_ in parts)
    torch.testing.assert_close([a + b for a, b in zip(*parts, strict=True)], both, **CLOSE)


@pytest.mark.parametrize(("mixing", "target"), KINDS)
@pytest.mark.parametrize("backend", EVERY)
def test_every_weight_has_a_gradient_also_when_nothing_counts(backend: str, mixing: str, target: str):
    loss, matches, (q, k) = losses(mixing, target)[backend], some_matches(9, 1, 2, 3, 0.0), some_heads(9, 1, 3, 6)
    value, *gradients = value_and_gradients(loss, q, k, matches, 1)
    assert value == 0
    assert all(gradient.eq(0).all() for gradient in gradients)


@pytest.mark.parametrize("mixing", MIXINGS)
def test_data_parallel_training_needs_no_search_for_unused_weights(mixing: str, tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        assert all(gradient is not None for gradient in data_parallel_gradients(losses(mixing)["chunked"]))
    finally:
        torch.distributed.destroy_process_group()


def data_parallel_gradients(loss: CorrespondenceAlignment) -> list[Tensor | None]:
    """Take three steps. The wrapper must be gone before its process group: the other way round PyTorch may deadlock."""
    wrapped = DistributedDataParallel(loss)
    for share in (0.0, 0.5, 0.0):  # a weight without a gradient is an error of the next step
        matches, (q, k) = some_matches(1, 1, 2, 3, share), some_heads(1, 1, 3, 6)
        wrapped(q, k, matches, 1).backward()
    return [weight.grad for weight in loss.parameters()]


# Precision


@pytest.mark.parametrize("backend", EVERY)
@pytest.mark.parametrize("mixing", MIXINGS)
def test_autocast_and_half_precision_take_the_loss_in_float32(mixing: str, backend: str):
    torch.manual_seed(0)
    loss = CorrespondenceAlignment(3, mixing=mixing, backend=backend)
    matches = some_matches(10, 2, 2, 5)
    half = [x.bfloat16() for x in some_heads(10, 2, 3, 10)]
    leaves = [x.detach().requires_grad_() for x in half]
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(*leaves, matches, 1)
    gradients = torch.autograd.grad(value, [*leaves, *loss.parameters()])
    expected = value_and_gradients(loss, *(x.float() for x in half), matches, 1)
    assert (value.dtype, gradients[0].dtype) == (torch.float32, torch.bfloat16)
    torch.testing.assert_close(value, expected[0], **EXACT)
    torch.testing.assert_close([x.float() for x in gradients[:2]], expected[1:3], rtol=2**-8, atol=1e-7)
    torch.testing.assert_close(list(gradients[2:]), expected[3:], **FLOAT)


def test_a_scaled_loss_keeps_gradients_that_half_precision_would_lose():
    loss, matches, (q, k) = CorrespondenceAlignment(3), some_matches(11, 1, 2, 3), some_heads(11, 1, 3, 6)
    small = (q * 1e-3).detach().half().requires_grad_(), (k * 1e-3).detach().half().requires_grad_()
    loss(*small, matches, 1, scale=1e-5).mul(2**16).backward()
    assert small[0].grad.abs().amax(-1)[:, 0].gt(0).any()


def test_queries_may_be_more_precise_than_weights():
    torch.manual_seed(0)
    loss, matches, (q, k) = CorrespondenceAlignment(3), some_matches(12, 1, 2, 4), some_heads(12, 1, 3, 8)
    plain = copy.deepcopy(loss)
    plain.backend = "plain"
    assert loss(q, k, matches, 1).dtype == torch.float64
    torch.testing.assert_close(loss(q, k, matches, 1), plain(q, k, matches, 1), **CLOSE)


@pytest.mark.parametrize(("mixing", "target"), KINDS)
@pytest.mark.parametrize("backend", EVERY)
def test_parts_of_a_batch_that_share_counts_average_to_the_batch(backend: str, mixing: str, target: str):
    loss, matches, (q, k) = losses(mixing, target)[backend], some_matches(16, 2, 3, 4), some_heads(16, 2, 3, 12)
    matches.counted[1, 1:] &= torch.rand(2, 4, 3, generator=torch.Generator().manual_seed(0)) < 0.3
    counts = torch.tensor([matches.counted[:, :1].sum(), matches.counted[:, 1:].sum()]) / 2
    parts = []
    for scene in (slice(0, 1), slice(1, 2)):
        own = TokenMatches(matches.index[scene], matches.counted[scene], matches.distance[scene])
        parts.append(loss(q[scene], k[scene], own, 1, counts=counts))
    torch.testing.assert_close(torch.stack(parts).mean(), loss(q, k, matches, 1), **CLOSE)
    nothing = TokenMatches(matches.index, torch.zeros_like(matches.counted), matches.distance)
    assert loss(q, k, nothing, 1, counts=torch.zeros(2)) == 0


# The draw


@settings(max_examples=40, deadline=None)
@given(
    seed=SEEDS,
    most=st.integers(1, 30),
    target=st.sampled_from(list(TARGETS)),
    n_ref=st.integers(0, 3),
    share=st.sampled_from([0.0, 0.05, 0.6]),
)
def test_a_draw_takes_so_many_pairs_and_gives_them_the_weight_of_all(seed, most, target, n_ref, share):
    matches, generator = some_matches(seed, 3, 3, 5, share), torch.Generator().manual_seed(seed)
    whole = pair_weights(matches, n_ref, target=target, dtype=torch.float64)
    drawn = pair_weights(matches, n_ref, target=target, max_queries=most, generator=generator, dtype=torch.float64)
    assert not (drawn.ne(0) & whole.eq(0)).any()
    for side in (slice(0, n_ref), slice(n_ref, 3)):
        pairs, chosen = (x[:, side].flatten(1) for x in (whole, drawn))
        torch.testing.assert_close(chosen.ne(0).sum(1), pairs.ne(0).sum(1).clamp(max=most), **EXACT)
        torch.testing.assert_close(chosen.sum(1), pairs.sum(1), **CLOSE)


def test_the_expectation_of_a_draw_is_the_whole():
    matches, draws, generator = some_matches(13, 2, 3, 4), 1500, torch.Generator().manual_seed(0)
    whole = pair_weights(matches, 1)
    total, squared = torch.zeros_like(whole), torch.zeros_like(whole)
    for _ in range(draws):
        drawn = pair_weights(matches, 1, max_queries=3, generator=generator)
        total, squared = total + drawn, squared + drawn**2
    error = ((squared / draws - (total / draws) ** 2) / draws).sqrt()
    assert (total / draws - whole).abs().le(5 * error + 1e-6).all()


def test_a_draw_is_that_of_its_generator_and_large_ones_are_the_whole():
    matches, (q, k) = some_matches(14, 2, 3, 5), some_heads(14, 2, 3, 15)
    loss, whole = losses("mlp", max_queries=4)["chunked"], losses("mlp")["chunked"]
    whole.load_state_dict(loss.state_dict())
    drawn = [
        value_and_gradients(loss, q, k, matches, 1, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    ]
    torch.testing.assert_close(drawn[0], drawn[1], **EXACT)
    assert drawn[0][0] != drawn[2][0]
    loss.max_queries = 45
    torch.testing.assert_close(loss(q, k, matches, 1), whole(q, k, matches, 1), **EXACT)


# The readout


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, mixing=st.sampled_from(list(MIXINGS)), numbers=st.integers(0, 6000))
def test_the_readout_is_the_argmax_of_mixed_logits(seed: int, mixing: str, numbers: int):
    loss, (q, k) = losses(mixing)["plain"], some_heads(seed, 2, 3, 12)
    logits = loss.mix(torch.einsum("bhqd,bhkd->bqkh", q, k) / 2)
    expected = rearrange(logits, "b (fq n) (fk m) 1 -> b fq n fk m", fq=3, fk=3).argmax(-1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(alignment.NUMBERS_AT_ONCE, "cpu", numbers)
        torch.testing.assert_close(readout_matches(loss, q, k, 3), expected, **EXACT)


def test_training_the_loss_brings_readout_and_matches_together():
    torch.manual_seed(0)
    matches, (q, k) = some_matches(15, 1, 2, 6, 1.0), some_heads(15, 1, 3, 12, dtype=torch.float32)
    loss = CorrespondenceAlignment(3, mixing="mean")
    optimiser = torch.optim.Adam([q, k, *loss.parameters()], lr=0.1)
    for _ in range(100):
        optimiser.zero_grad()
        value = loss(q, k, matches, 1)
        value.backward()
        optimiser.step()
    right = readout_matches(loss, q, k, 2) == matches.index
    assert right[matches.counted].all()
    assert value < 0.1


# Refusals


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mixing": "max"}, r"mixing is 'max', expected one of mlp, mean, positive"),
        ({"target": "nearest"}, r"target is 'nearest', expected one of per_pair, global_nearest"),
        ({"backend": "cuda"}, r"backend is 'cuda', expected one of auto, plain, chunked"),
        ({"max_queries": 0}, r"max_queries is 0, expected 1 or more"),
        ({"heads": 0}, r"heads is 0, expected 1 or more"),
    ],
)
def test_unknown_choices_are_refused(arguments: dict, message: str):
    with pytest.raises(ValueError, match=message):
        CorrespondenceAlignment(**{"heads": 2, **arguments})


def test_heads_shapes_and_references_that_do_not_fit_are_refused():
    loss, matches, (q, k) = CorrespondenceAlignment(3), some_matches(0, 1, 2, 3), some_heads(0, 1, 3, 6)
    with pytest.raises(ValueError, match=r"q \(1, 2, 6, 4\) and k \(1, 2, 6, 4\), expected both \(scenes, 3 heads"):
        loss(q[:, :2], k[:, :2], matches, 1)
    with pytest.raises(ValueError, match=r"7 tokens cannot be divided into 2 views; leave out text"):
        loss(F.pad(q, (0, 0, 0, 1)), F.pad(k, (0, 0, 0, 1)), matches, 1)
    with pytest.raises(ValueError, match=r"for q \(1, 3, 6, 4\), expected all \(1, 2, 3, 2\).*layer's token grid"):
        loss(q, k, some_matches(0, 1, 2, 4), 1)
    with pytest.raises(ValueError, match=r"n_ref is 3, expected 0 to 2 views"):
        loss(q, k, matches, 3)
    without, nearest = TokenMatches(matches.index, matches.counted), losses("mlp", "global_nearest")["plain"]
    with pytest.raises(ValueError, match=r"matches.distance is None, target='global_nearest' expects"):
        nearest(q, k, without, 1)
    with pytest.raises(ValueError, match=r"readout_matches: 6 tokens cannot be divided into 4 views"):
        readout_matches(loss, q, k, 4)


# Precision and memory


@pytest.mark.parametrize("mixing", MIXINGS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_loss_is_computed_in_single_precision_at_least(mixing: str, dtype: torch.dtype):
    """Also where queries, keys and the mixing itself are of half precision; heads' weights keep its rounding."""
    torch.manual_seed(0)
    half = CorrespondenceAlignment(3, mixing=mixing).to(dtype)
    whole = copy.deepcopy(half).float()
    q, k = some_heads(1, 1, 3, 24, dtype=dtype)
    matches = some_matches(1, 1, 2, 12)
    value = half(q, k, matches, 1)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, whole(q.float(), k.float(), matches, 1), rtol=1e-3, atol=0)


@pytest.mark.parametrize("mixing", MIXINGS)
def test_a_chunk_holds_no_more_numbers_than_it_may(mixing: str):
    """Per pair of tokens and head, as many as the mixing says; and no fewer pairs than fit."""
    q, numbers = torch.zeros(1, 7, 8, 4), MIXINGS[mixing].numbers
    pairs = alignment.pairs_at_once(MIXINGS[mixing], q)
    assert pairs * numbers * 7 <= alignment.NUMBERS_AT_ONCE["cpu"] < (pairs + 1) * numbers * 7
    elsewhere = alignment.pairs_at_once(MIXINGS[mixing], q.to("meta"))
    assert elsewhere * numbers * 7 <= alignment.NUMBERS_ELSEWHERE < (elsewhere + 1) * numbers * 7
