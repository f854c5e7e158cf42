"""Laws of the protocols: their functions return what they say, and a third protocol needs no change elsewhere."""

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pandas as pd
import pytest
import torch
from einops import rearrange, repeat
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import planted_call, room, room_scene, small_random_model, small_scene, truth_of
from torch import Tensor
from torch.nn import functional

from probe.attention.masks import HIDDEN
from probe.baselines import open_matchers
from probe.interventions import INTERVENTIONS
from probe.layers import ViewLayout, find_layers, select_layers
from probe.matching import RatioMatches, key_pools, nearest_of_pool, ratio_matches
from probe.measure.examples import example_matches
from probe.measure.matcher import measure_matcher
from probe.measure.model import measure_layers
from probe.measure.references import measure_references
from probe.measure.scene import LayerCall, Scene
from probe.metrics import GridTruth, Measured, Threshold, correct, nearest_token, precisions, thresholds
from probe.protocols import (
    ATTENTION_V1,
    CAMEO_RELEASE_V1,
    PROBE3D_V1,
    PROTOCOLS,
    RATIO_V1,
    RATIO_V2,
    Protocol,
    RatioRule,
    attention_scores,
    judged_queries,
    ratio_protocol,
    ratio_scores,
    visible_queries,
)
from probe.records import CEILING, COMMON_GRID, REFERENCES
from probe.records.names import Intervention, ProtocolName
from probe.selection import layer_table, select_layer

LIMITS = thresholds(None)
NAMES = [limit.name for limit in LIMITS]
GRID, F, N, HEADS = (4, 4), 3, 16, 2
FEW = RatioRule(keep=0.5, most=5, coverages=(0.5, 1.0))
MINE = ratio_protocol("mine", "the better half of the queries, five a view pair at most", FEW)
RULES = {
    "mine": FEW, "ratio-v1": RATIO_V1, "ratio-v2": RATIO_V2, "probe3d-v1": PROBE3D_V1,
    "cameo-release-v1": CAMEO_RELEASE_V1,
}  # fmt: skip
EVERY = pytest.mark.parametrize("protocol", [*PROTOCOLS.values(), MINE], ids=lambda protocol: protocol.name)
SEEDS = st.integers(0, 2**31 - 1)
FEW_EXAMPLES = settings(deadline=None, max_examples=10)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return room_scene(0, GRID, (8, 8))


def a_call(seed: int, grid: tuple[int, int] = GRID) -> LayerCall:
    generator = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(1, HEADS, F * math.prod(grid), 6, generator=generator) for _ in range(2))
    return planted_call(q, k, grid)


def drawn_matches(seed: int) -> RatioMatches:
    generator = torch.Generator().manual_seed(seed)
    token = torch.randint(N, (1, F, N, F), generator=generator)
    return RatioMatches(token=token, ratio=torch.rand(1, F, N, F, generator=generator))


def in_pools(ratio: Tensor, n_ref: int) -> Tensor:
    """Keep the lowest ratio of each pool of key views."""
    return torch.minimum(*(nearest_of_pool(ratio, pool, ratio) for pool in key_pools(F, n_ref)))


def by_pool(measured: tuple[Tensor, Tensor], n_ref: int, pooled: bool) -> tuple[Tensor, Tensor]:
    """Sum what was counted over the pairs of views of each pair of pools; or leave all pairs apart."""
    value, count = measured
    if not pooled:
        return value, count
    right, sides = value.nan_to_num() * count, (slice(n_ref), slice(n_ref, None))
    sums = torch.tensor([[x[:, :, q, k].sum() for q in sides for k in sides] for x in (right, count)])
    return sums[0] / sums[1].clamp(min=1), sums[1]


def assert_equal(one: Measured, other: Measured) -> None:
    assert one.keys() == other.keys()
    for name, (value, count) in one.items():
        torch.testing.assert_close(value, other[name][0], rtol=0, atol=0, equal_nan=True)
        assert torch.equal(count, other[name][1]), name


# Each function of a protocol


@EVERY
def test_score_has_a_value_where_something_counts_and_nan_elsewhere(protocol: Protocol, scene: Scene):
    found = protocol.score(a_call(0), scene)
    expected = [(GRID, ""), ((8, 8), COMMON_GRID)] if protocol is ATTENTION_V1 else [(GRID, "")]
    assert [(scores.grid, scores.suffix) for scores in found] == expected
    for scores in found:
        for value, count in scores.measured.values():
            assert value.shape == count.shape
            assert (value.shape[0], *value.shape[2:]) == (1, F, F)
            assert value.shape[1] in (1, 1 + HEADS)
            assert torch.equal(value.isnan(), count == 0)


@EVERY
def test_metrics_are_the_precisions_that_score_reports(protocol: Protocol, scene: Scene):
    (own, *_) = protocol.score(a_call(0), scene)
    names = protocol.metrics(scene.thresholds)
    assert sorted(name for name in own.measured if name.startswith("precision")) == sorted(names)
    assert protocol.select_by in names
    assert protocol.metrics(LIMITS[:1])[0] == LIMITS[0].name
    assert protocol.direction in ("tgt-ref", "ref-tgt")


@FEW_EXAMPLES
@given(seed=SEEDS)
@pytest.mark.parametrize("protocol", [ATTENTION_V1])
def test_attention_matches_are_the_highest_averaged_weight_by_a_slow_loop(protocol: Protocol, seed: int):
    call = a_call(seed)
    token = protocol.match(call, truth_of(0, GRID))
    assert token.shape == (1, 1 + HEADS, F, N, F)
    weights = (call.scale * call.q @ call.k.mT).softmax(-1)[0]
    for row, weight in enumerate([weights.mean(0), *weights]):
        inside = rearrange(weight, "(fq n) (fk m) -> fq n fk m", fq=F, fk=F)
        assert torch.equal(token[0, row], inside.argmax(-1))


@FEW_EXAMPLES
@given(seed=SEEDS)
@pytest.mark.parametrize("protocol", [PROTOCOLS["ratio-v1"], MINE], ids=lambda protocol: protocol.name)
def test_ratio_matches_are_the_nearest_keys_of_all_heads_side_by_side(protocol: Protocol, seed: int):
    call = a_call(seed)
    token = protocol.match(call, truth_of(0, GRID))
    q, k = (rearrange(x, "1 heads (f n) d -> f n (heads d)", f=F).double() for x in (call.q, call.k))
    slow = torch.stack([torch.cdist(q, repeat(k[view], "m d -> f m d", f=F)).argmin(-1) for view in range(F)], -1)
    assert torch.equal(token, slow[None, None])


@EVERY
def test_the_matches_score_what_score_says(protocol: Protocol, scene: Scene):
    """On the kept queries of all heads together."""
    call, truth = a_call(1), scene.truths[GRID]
    (own, *_) = protocol.score(call, scene)
    if protocol is ATTENTION_V1:
        counted = protocol.evaluated(truth)
    else:
        rule = RULES[protocol.name]
        counted = rule.kept(rule.nearest(call.q, call.k, call.layout, truth), truth)[:, None]
    limits = protocol.limits(LIMITS)
    together = precisions(protocol.match(call, truth)[:, :1], counted, truth, limits)
    names = [limit.name for limit in limits]
    assert_equal(together, {name: (own.measured[name][0][:, :1], own.measured[name][1][:, :1]) for name in names})


@FEW_EXAMPLES
@given(seed=SEEDS)
def test_attention_v1_judges_visible_queries_whatever_the_ratio(seed: int):
    truth, matches = truth_of(0, GRID), drawn_matches(seed)
    measured = ATTENTION_V1.judge(matches, truth, LIMITS)
    assert_equal(measured, precisions(matches.token[:, None], truth.visible[:, None], truth, LIMITS))
    turned = RatioMatches(token=matches.token, ratio=1 - matches.ratio)
    assert_equal(ATTENTION_V1.judge(turned, truth, LIMITS), measured)


@FEW_EXAMPLES
@given(seed=SEEDS)
@pytest.mark.parametrize(("protocol", "rule"), [(PROTOCOLS["ratio-v1"], RATIO_V1), (MINE, FEW)], ids=["v1", "mine"])
def test_a_ratio_protocol_judges_the_lowest_ratios_by_a_slow_loop(protocol: Protocol, rule: RatioRule, seed: int):
    truth, matches = truth_of(0, GRID), drawn_matches(seed)
    value, count = protocol.judge(matches, truth, LIMITS)["precision@10%"]
    right = correct(matches.token[:, None], truth, LIMITS[2])[0, 0]
    for query in range(F):
        for key in range(F):
            known = [n for n in range(N) if truth.valid[0, query, n]]
            best = sorted(known, key=lambda n: matches.ratio[0, query, n, key].item())
            kept = best[: min(rule.most, math.ceil(len(known) * rule.keep))]
            assert count[0, 0, query, key] == len(kept)
            share = sum(right[query, n, key].item() for n in kept) / len(kept)
            assert value[0, 0, query, key].item() == pytest.approx(share)


@FEW_EXAMPLES
@given(seed=SEEDS)
@EVERY
def test_the_oracle_of_the_same_matches_is_no_lower_than_any_choice_of_queries(protocol: Protocol, seed: int):
    truth, matches = truth_of(0, GRID), drawn_matches(seed)
    pooled = protocol.name == "cameo-release-v1"
    if pooled:
        matches = replace(matches, ratio=in_pools(matches.ratio, truth.n_ref))
    for threshold in protocol.limits(LIMITS):
        oracle = protocol.oracle(matches.token[:, None], truth, threshold)
        judged = protocol.judge(matches, truth, (threshold,))
        assert oracle.keys() == judged.keys()
        names = [name for name in judged if name.startswith("precision")]
        assert threshold.name in names
        for name in names:
            (best, of_best), (value, count) = (by_pool(x[name], truth.n_ref, pooled) for x in (oracle, judged))
            assert torch.equal(of_best, count)
            assert (best.nan_to_num() >= value.nan_to_num() - 1e-6).all(), name
        full = [name for name in oracle if name.endswith("coverage=1.0")]
        assert_equal({name: oracle[name] for name in full}, {name: judged[name] for name in full})


def test_evaluated_queries_have_a_point_and_attention_v1_asks_for_those_that_are_seen(scene: Scene):
    truth = scene.truths[GRID]
    seen, known = ATTENTION_V1.evaluated(truth), MINE.evaluated(truth)
    assert seen.shape == known.shape == (1, 1, F, N, F)
    assert torch.equal(seen, visible_queries(truth))
    assert torch.equal(seen[:, 0], truth.visible)
    assert torch.equal(known[:, 0], judged_queries(truth))
    assert torch.equal(known[0, 0], truth.valid[0][..., None].expand(F, N, F))
    assert not (seen & ~known).any()
    assert torch.equal(PROTOCOLS["ratio-v1"].evaluated(truth), known)


def test_equal_attention_has_known_masses_and_entropies(scene: Scene):
    truth = scene.truths[GRID]
    found = ATTENTION_V1.uniform(truth)
    assert set(found) == {"mass_3x3", "mass_key_view", "entropy", "cross_entropy"}
    known = truth.visible.any(2, keepdim=True).squeeze(2)[:, None]
    for name, value in {"mass_key_view": 1 / F, "entropy": math.log(N), "cross_entropy": math.log(N)}.items():
        assert found[name][0].shape == (1, 1, F, F)
        assert found[name][0][known].tolist() == pytest.approx([value] * int(known.sum()))
    near = found["mass_3x3"][0][known]
    assert ((near >= 4 / (F * N) - 1e-6) & (near <= 9 / (F * N) + 1e-6)).all()  # a corner has three neighbours
    flat = torch.zeros(1, HEADS, F * N, 2)
    measured = attention_scores(flat, flat, 1.0, ViewLayout(F, GRID), truth, ())
    for name, (value, count) in found.items():
        torch.testing.assert_close(value, measured[name][0][:, :1], equal_nan=True)
        assert torch.equal(count, measured[name][1][:, :1])


def test_ratio_protocols_have_nothing_beside_precision_of_equal_attention(scene: Scene):
    assert PROTOCOLS["ratio-v1"].uniform(scene.finest) == MINE.uniform(scene.finest) == {}


def test_protocols_are_named_with_their_version():
    assert all(re.fullmatch(r"[a-z0-9-]+-v\d", name) for name in PROTOCOLS)
    assert {name: protocol.name for name, protocol in PROTOCOLS.items()} == {name: name for name in PROTOCOLS}
    assert PROTOCOLS["attention-v1"] is ATTENTION_V1
    assert {x.direction for x in PROTOCOLS.values()} == {"tgt-ref"}
    assert {name: x.select_by for name, x in PROTOCOLS.items() if x.select_by != "precision@5%"} == {
        "probe3d-v1": "precision@25px/512"
    }


@pytest.mark.parametrize("name", ["ratio-v1", "ratio-v2", "probe3d-v1", "cameo-release-v1"])
def test_a_ratio_protocol_says_whose_it_is_and_what_it_does_otherwise(name: str):
    rule = PROTOCOLS[name].rule
    assert rule.startswith("ours" if name.startswith("ratio") else ("mbanani/probe3d", "cvlab-kaist/CAMEO"))
    assert ("Deviations:" in rule) == (not name.startswith("ratio"))
    method = (Path(__file__).parents[2] / "docs" / "method.md").read_text(encoding="utf-8")
    assert f"`{name}`" in method


# The ratio rule


def test_ratio_scores_keep_the_quarter_with_the_lowest_ratio():
    truth = truth_of(0, (8, 8))
    right = nearest_token(truth, room(0).size)[:, 0]
    ratio = repeat(torch.arange(64.0) / 64, "n -> 1 3 n 3")  # the first sixteen queries are kept
    first = torch.arange(64)[:, None] < 8
    matches = RatioMatches(token=torch.where(first, right, (right + 32) % 64), ratio=ratio)
    limit = Threshold(name="p", kind="token", value=0.75)
    measured = ratio_scores(matches, truth, (limit,), RATIO_V1)
    found = correct(right[:, None], truth, limit)[:, 0] & first  # visible or not, where the point projects is right
    torch.testing.assert_close(measured["p"][0][:, 0], found.sum(2) / 16)
    assert found[..., 0].any()
    assert (measured["p"][1] == 16).all()
    assert set(measured) == {"p", "kept", *(f"p|coverage={share}" for share in (0.1, 0.25, 0.5, 0.75, 1.0))}
    assert (measured["p|coverage=0.1"][1] == 7).all()
    assert (measured["kept"][0] == 0.25).all()
    torch.testing.assert_close(measured["p|coverage=0.5"][0], measured["p"][0] / 2)


def test_no_more_than_the_most_are_kept():
    truth = truth_of(0, (8, 8))
    few = RatioRule(keep=RATIO_V1.keep, most=5, coverages=RATIO_V1.coverages)
    x = torch.randn(1, 1, 192, 4, generator=torch.Generator().manual_seed(0))
    measured = ratio_scores(ratio_matches(x, x, ViewLayout(3, (8, 8))), truth, LIMITS, few)
    assert (measured["precision@5%"][1] == 5).all()
    assert (measured["precision@5%|coverage=0.5"][1] == 32).all()


# Keys without a point


def holed(truth: GridTruth, seed: int, share: float = 0.4) -> GridTruth:
    """Truth in which some tokens have no point."""
    generator = torch.Generator().manual_seed(seed)
    valid = truth.valid & (torch.rand(truth.valid.shape, generator=generator) >= share)
    xy = torch.where(valid[:, :, :, None, None], truth.xy, torch.nan)
    points = torch.where(valid[..., None], truth.points, torch.nan)
    visible = truth.visible & valid[..., None]
    at_key = torch.where(valid[..., None, None], truth.points_at_key, torch.nan)
    return replace(truth, valid=valid, xy=xy, points=points, points_at_key=at_key, visible=visible)


@FEW_EXAMPLES
@given(seed=SEEDS)
def test_ratio_v2_is_ratio_v1_among_the_keys_with_a_point_by_a_slow_loop(seed: int):
    truth, call = holed(truth_of(0, GRID), seed), a_call(seed)
    q, k = (rearrange(x, "1 heads (f n) d -> f n (heads d)", f=F).double() for x in (call.q, call.k))
    matches = RATIO_V2.nearest(call.q, call.k, call.layout, truth)
    for view in range(F):
        known = truth.valid[0, view].nonzero()[:, 0]
        two = torch.cdist(q, repeat(k[view, known], "m d -> f m d", f=F)).square().topk(2, largest=False)
        assert torch.equal(matches.token[0, ..., view], known[two.indices[..., 0]])
        torch.testing.assert_close(matches.ratio[0, ..., view], (two.values[..., 0] / two.values[..., 1]).float())
    whole = replace(truth, valid=torch.ones_like(truth.valid))
    assert_equal(
        PROTOCOLS["ratio-v2"].judge(RATIO_V2.nearest(call.q, call.k, call.layout, whole), whole, LIMITS),
        PROTOCOLS["ratio-v1"].judge(ratio_matches(call.q, call.k, call.layout), whole, LIMITS),
    )


@pytest.mark.parametrize("known", [0, 1, 2])
@pytest.mark.parametrize("name", ["ratio-v2", "probe3d-v1"])
def test_a_key_view_of_fewer_than_two_known_tokens_counts_nothing(name: str, known: int):
    truth, call = truth_of(0, GRID), a_call(3)
    valid = truth.valid.clone()
    valid[0, 1] = torch.arange(N) < known
    protocol, holes = PROTOCOLS[name], replace(truth, valid=valid)
    matches = protocol.nearest(call.q, call.k, call.layout, holes)
    assert ((matches.ratio >= 0) & (matches.ratio <= 1)).all()
    if known < 2:
        assert (matches.ratio[..., 1] == 1).all()
    (count,) = {protocol.judge(matches, holes, LIMITS)[limit.name][1][0, 0, 0, 1].item() for limit in LIMITS}
    assert (count > 0) == (known == 2)


# What was published, written once more from the paper's code, one pair of views (or pool) at a time


def published_probe3d(q: Tensor, k: Tensor, truth: GridTruth, query: int, key: int, most: int) -> tuple[Tensor, Tensor]:
    """3D error, and error between projections, of the selected matches.

    Source:
        mbanani/probe3d: evals/utils/correspondence.py, ``estimate_correspondence_xyz``, and
        evaluate_navi_correspondence.py; the points are the tokens'.
    """
    mine, theirs = (truth.valid[0, view].nonzero()[:, 0] for view in (query, key))
    cosine = functional.normalize(q[query, mine], dim=-1) @ functional.normalize(k[key, theirs], dim=-1).T
    two = (1 - cosine).topk(2, largest=False)
    distance = two.values.clamp(min=1e-9)
    weight = 1 - distance[:, 0] / distance[:, 1]
    best = weight.topk(min(most, len(weight))).indices
    asked, answer = mine[best], theirs[two.indices[best, 0]]
    error_3d = (truth.points[0, query, asked] - truth.points[0, key, answer]).norm(dim=-1)
    return error_3d, (truth.xy[0, query, asked, key] - truth.xy[0, key, answer, key]).norm(dim=-1)


@pytest.mark.parametrize("most", [5, 1000])
@pytest.mark.parametrize("seed", range(4))
def test_probe3d_v1_is_the_published_recipe(seed: int, most: int):
    """On random queries and keys, and tokens without a point; metric thresholds are taken in the scene's unit."""
    truth, call, rule = holed(truth_of(seed, (8, 8)), seed), a_call(seed, (8, 8)), replace(PROBE3D_V1, most=most)
    metric = tuple(Threshold(name=f"{size}", kind="metric", value=size) for size in (0.5, 1.0, 2.0))
    matches = rule.nearest(call.q, call.k, call.layout, truth)
    limits = rule.limits(metric)
    measured = ratio_scores(matches, truth, limits, rule)
    q, k = (rearrange(x, "1 heads (f n) d -> f n (heads d)", f=F).double() for x in (call.q, call.k))
    for query in range(F):
        for key in {*range(F)} - {query}:
            in_3d, in_image = published_probe3d(q, k, truth, query, key, most)
            for limit in limits:
                error = in_3d if limit.kind == "metric" else in_image / truth.side
                value, count = (x[0, 0, query, key] for x in measured[limit.name])
                assert count == len(error)
                assert value.item() == pytest.approx((error < limit.value).double().mean().item())
    assert {limit.name: limit.value for limit in limits[3:]} == {
        "precision@5px/512": 5 / 512, "precision@25px/512": 25 / 512, "precision@50px/512": 50 / 512
    }  # fmt: skip


def published_release(
    q: Tensor, k: Tensor, truth: GridTruth, queries: list[int], keys: list[int], most: int
) -> tuple[Tensor, Tensor]:
    """Error in the image of the selected matches of one pool of query views, and their key views.

    Source:
        cvlab-kaist/CAMEO: src/modules/attention_visualization_callback.py, ``_compute_matching_precision``; the query's
        own view is left out, and the points are the tokens'.
    """
    asked = [(view, n) for view in queries for n in range(len(truth.centres))]
    found = []
    for view, n in asked:
        pool = [(other, m) for other in keys if other != view for m in range(len(truth.centres))]
        squared = torch.stack([(q[view, n] - k[other, m]).square().sum() for other, m in pool])
        two = squared.topk(2, largest=False)
        other, m = pool[int(two.indices[0])]
        error = (truth.centres[m] - truth.xy[0, view, n, other]).norm()
        found.append((float(two.values[0] / (two.values[1] + 1e-12)), float(error), other))
    chosen = sorted(found, key=lambda entry: entry[0])[:most]
    return torch.tensor([error for _, error, _ in chosen]), torch.tensor([other for *_, other in chosen])


@pytest.mark.parametrize("most", [5, 1000])
@pytest.mark.parametrize("seed", range(2))
def test_cameo_release_v1_is_the_published_recipe(seed: int, most: int):
    truth, call = holed(truth_of(seed, GRID), seed, share=0.2), a_call(seed)
    rule = replace(CAMEO_RELEASE_V1, most=most)
    limits = rule.limits(LIMITS[:3])
    measured = ratio_scores(rule.nearest(call.q, call.k, call.layout, truth), truth, limits, rule)
    q, k = (rearrange(x, "1 heads (f n) d -> f n (heads d)", f=F).double() for x in (call.q, call.k))
    sides = [0], [1, 2]
    assert truth.n_ref == 1
    for queries in sides:
        for keys in sides:
            if queries == keys == [0]:
                continue  # a single reference has no other one
            error, views = published_release(q, k, truth, queries, keys, most)
            for limit in limits:
                value, count = (x[0, 0][queries][:, keys] for x in measured[limit.name])
                assert count.sum() == len(error)
                assert count.sum(0).tolist() == [(views == view).sum().item() for view in keys]
                right = (error / truth.side <= limit.value).double().mean().item()
                assert ((value.nan_to_num() * count).sum() / count.sum()).item() == pytest.approx(right)


def test_an_error_equal_to_the_threshold_is_right_by_the_release_and_wrong_elsewhere():
    truth = truth_of(0, GRID)
    token = nearest_token(truth, room(0).size)
    error = (truth.centres[token[0, 0, 1, 0, 0]] - truth.xy[0, 1, 0, 0]).div(truth.side).norm()
    limit = Threshold(name="p", kind="image", value=error.item())
    for name, protocol in PROTOCOLS.items():
        right = correct(token, truth, protocol.limits((limit,))[0])[0, 0, 1, 0, 0]
        assert right == (name == "cameo-release-v1"), name


# A third protocol


def test_a_third_protocol_measures_a_scene_from_end_to_end():
    """Layers, references, a matcher, the pictures' matches, and the choice of the layer."""
    model = small_random_model()
    layers = select_layers(find_layers(model.network), "3d")[:2]
    scene = small_scene(layers)
    pixels = open_matchers(("pixels",), torch.device("cpu"))["pixels"]
    scores = pd.concat(
        [
            measure_layers(model, scene, layers, (500,), MINE),
            measure_references(scene, MINE),
            measure_matcher("pixels", pixels, scene, MINE),
        ],
        ignore_index=True,
    )
    assert set(scores["protocol"]) == {"mine"}
    assert set(scores["model"]) == {"toy", "pixels", *REFERENCES}
    metrics = {*MINE.metrics(scene.thresholds), "kept"}
    assert set(scores[scores["model"] == "toy"]["metric"]) == metrics
    assert set(scores[scores["model"] == "pixels"]["metric"]) == metrics
    headline = scores[(scores["metric"] == "precision@5%") & scores["model"].isin(["toy", "pixels", CEILING])]
    points = {f"{h}x{w}": int(truth.valid[0].sum(-1).min()) for (h, w), truth in scene.truths.items()}
    kept = headline["grid"].map(points).map(lambda n: min(5, math.ceil(n / 2)))
    assert headline["count"].tolist() == kept.tolist()
    assert headline["value"].between(0, 1).all()
    pictures = example_matches(model, scene, layers, 500, MINE)
    assert set(pictures["layer"]) == {layer.index for layer in layers}
    selection = select_layer(scores, metric=MINE.select_by, model="toy")
    assert selection.layer in {layer.index for layer in layers}
    assert set(layer_table(scores, selection)["layer"]) == {layer.index for layer in layers}


def test_choices_of_the_command_line_are_those_of_the_dicts():
    assert get_args(ProtocolName) == tuple(PROTOCOLS)
    assert get_args(Intervention) == tuple(INTERVENTIONS)
    assert all(name == protocol.name for name, protocol in PROTOCOLS.items())


# Masks


def masked_call(truth: GridTruth, hidden: Tensor) -> LayerCall:
    f, n = truth.points.shape[1:3]
    q, k = (torch.randn(1, HEADS, f * n, 5, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    return replace(planted_call(q, k, truth.grid, f), bias=torch.zeros(hidden.shape).masked_fill(hidden, HIDDEN))


def block_causal(f: int, n: int) -> Tensor:
    """Views attend to themselves and to earlier ones."""
    view = torch.arange(f).repeat_interleave(n)
    return (view[:, None] < view)[None, None]


def test_queries_whose_true_key_is_hidden_do_not_count():
    scene = room_scene(0, (4, 4))
    truth = scene.finest
    f = truth.points.shape[1]
    (scores, common) = ATTENTION_V1.score(masked_call(truth, block_causal(f, 16)), scene)
    usual, _ = ATTENTION_V1.score(masked_call(truth, torch.zeros(1, 1, 1, f * 16, dtype=torch.bool)), scene)
    for measured, everything in ((scores.measured, usual.measured), (common.measured, usual.measured)):
        _, count = measured["precision@5%"]
        _, full = everything["precision@5%"]
        later = torch.ones(f, f).triu(1).bool()
        assert torch.equal(count[:, :1], torch.where(later, 0, full[:, :1]))
        assert full[:, :1, later].sum() > 0


def test_a_hidden_key_takes_its_query_alone_out():
    scene = room_scene(0, (4, 4))
    truth, f = scene.finest, scene.views.count
    view, token, key = (int(x) for x in torch.nonzero(visible_queries(truth)[0, 0])[0])
    hidden = torch.zeros(1, 1, f * 16, f * 16, dtype=torch.bool)
    hidden[..., view * 16 + token, key * 16 + truth.token[0, view, token, key]] = True
    counts = [ATTENTION_V1.score(masked_call(truth, mask), scene)[0].measured["precision@5%"][1][0, 0]
              for mask in (hidden, hidden & False)]  # fmt: skip
    assert (counts[1] - counts[0]).sum() == counts[1][view, key] - counts[0][view, key] == 1


def test_the_common_grid_leaves_pairs_with_hidden_keys_out():
    scene = room_scene(0, (4, 4), (8, 8))
    f = scene.views.count
    _, common = ATTENTION_V1.score(masked_call(scene.truths[4, 4], block_causal(f, 16)), scene)
    count = common.measured["precision@5%"][1][0, 0]
    assert (count.triu(1) == 0).all()
    assert count.tril(-1).sum() > 0


def test_ratio_protocols_refuse_hidden_image_tokens():
    scene = room_scene(0, (4, 4))
    with pytest.raises(ValueError, match=r"hides image tokens from others by its mask.*use the protocol attention-v1"):
        PROTOCOLS["ratio-v1"].score(masked_call(scene.finest, block_causal(scene.views.count, 16)), scene)
