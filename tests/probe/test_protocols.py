"""Laws of the protocols: their functions return what they say, and a third protocol needs no change elsewhere."""

import math
from typing import get_args

import pandas as pd
import pytest
import torch
from einops import rearrange, repeat
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import planted_call, room, room_scene, small_random_model, small_scene, truth_of

from probe.baselines import open_matchers
from probe.interventions import INTERVENTIONS
from probe.layers import ViewLayout, find_layers, select_layers
from probe.matching import RatioMatches, ratio_matches
from probe.measure.examples import example_matches
from probe.measure.matcher import measure_matcher
from probe.measure.model import measure_layers
from probe.measure.references import measure_references
from probe.measure.scene import LayerCall, Scene
from probe.metrics import Measured, Threshold, correct, nearest_token, precisions, thresholds
from probe.protocols import (
    ATTENTION_V1,
    COMMON_GRID,
    PROTOCOLS,
    RATIO_V1,
    Protocol,
    RatioRule,
    attention_scores,
    judged_queries,
    ratio_protocol,
    ratio_scores,
    visible_queries,
)
from probe.records import CEILING, REFERENCES
from probe.records.names import Intervention, ProtocolName
from probe.selection import layer_table, select_layer

LIMITS = thresholds(None)
NAMES = [limit.name for limit in LIMITS]
GRID, F, N, HEADS = (4, 4), 3, 16, 2
FEW = RatioRule(keep=0.5, most=5, coverages=(0.5, 1.0))
MINE = ratio_protocol("mine", "the better half of the queries, five a view pair at most", FEW)
EVERY = pytest.mark.parametrize("protocol", [*PROTOCOLS.values(), MINE], ids=lambda protocol: protocol.name)
SEEDS = st.integers(0, 2**31 - 1)
FEW_EXAMPLES = settings(deadline=None, max_examples=10)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return room_scene(0, GRID, (8, 8))


def a_call(seed: int) -> LayerCall:
    generator = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(1, HEADS, F * N, 6, generator=generator) for _ in range(2))
    return planted_call(q, k, GRID)


def drawn_matches(seed: int) -> RatioMatches:
    generator = torch.Generator().manual_seed(seed)
    token = torch.randint(N, (1, F, N, F), generator=generator)
    return RatioMatches(token=token, ratio=torch.rand(1, F, N, F, generator=generator))


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
        rule = FEW if protocol is MINE else RATIO_V1
        counted = rule.kept(ratio_matches(call.q, call.k, call.layout), truth)[:, None]
    together = precisions(protocol.match(call, truth)[:, :1], counted, truth, LIMITS)
    assert_equal(together, {name: (own.measured[name][0][:, :1], own.measured[name][1][:, :1]) for name in NAMES})


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
    for threshold in LIMITS:
        oracle = protocol.oracle(matches.token[:, None], truth, threshold)
        assert set(oracle) >= {threshold.name}
        judged = protocol.judge(matches, truth, (threshold,))
        assert oracle.keys() == judged.keys()
        for name in protocol.metrics((threshold,)):
            assert torch.equal(oracle[name][1], judged[name][1])
            assert (oracle[name][0].nan_to_num() >= judged[name][0].nan_to_num() - 1e-6).all(), name
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
    assert {name: protocol.name for name, protocol in PROTOCOLS.items()} == {
        "attention-v1": "attention-v1", "ratio-v1": "ratio-v1"
    }  # fmt: skip
    assert PROTOCOLS["attention-v1"] is ATTENTION_V1
    assert [(x.direction, x.select_by) for x in PROTOCOLS.values()] == [("tgt-ref", "precision@5%")] * 2


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
