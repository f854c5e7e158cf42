"""Self-tests of the score: what is planted is found, what is random scores chance, and rows lie where they belong."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from einops import rearrange, reduce, repeat
from torch import Tensor
from torch.nn import functional as F

from probe.correspondence import token_of
from probe.layers import Layer, ViewLayout
from probe.matching import RatioMatches, ratio_matches
from probe.measure.model import measure_references
from probe.measure.score import (
    ScenePairs,
    descriptor_scores,
    grid_name,
    joint_layout,
    precisions,
    queries_with_points,
    ratio_scores,
    reference_scores,
    scene_pairs,
    score_call,
    tabulate,
    unlayered,
)
from probe.metrics import GridTruth, Threshold, correct, errors, grid_truth, nearest_token
from probe.protocols import COMMON_GRID, PROTOCOLS, direction, pair_table, thresholds
from probe.records import CEILING, REFERENCES, SAME_POSITION, SCORE_COLUMNS, UNIFORM, Rows, score_table, summarise
from probe.scenes import Request, open_scenes
from probe.views import Views

SCENES = 8
LIMITS = thresholds(None)
NAMES = [limit.name for limit in LIMITS]
GRIDS = pytest.mark.parametrize("grid", [(8, 8), (6, 10)])
PROTOCOL = pytest.mark.parametrize("name", ["attention-v1", "ratio-v1"])


@cache
def room(index: int) -> Views:
    """A procedural scene of one reference and two targets; scenes take the rotation bins in turn."""
    return open_scenes("shapes", Request(groups=SCENES, views=3, n_ref=1, size=64)).load(index)[0]


@cache
def truth_of(index: int, grid: tuple[int, int]) -> GridTruth:
    return grid_truth(room(index), grid)


@cache
def references(index: int, grid: tuple[int, int], name: str) -> pd.DataFrame:
    return measure_references(room(index), {grid: truth_of(index, grid)}, PROTOCOLS[name], LIMITS)


def layer(grid: tuple[int, int], heads: int = 1) -> Layer:
    return Layer(3, "blocks.3.attn", grid, heads, "3d")


def constants(views: Views, model: str = "planted") -> dict[str, object]:
    return {"model": model, "step": -1, "scene": views.names[0], "timestep": 500, "pair_list": ""}


def codes(truth: GridTruth, token: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """Queries that name, for every key view, the token to match (-1 for none), among keys that carry their own name."""
    f, n = truth.points.shape[1:3]
    named = F.one_hot(token[0].clamp(min=0), n) * (token[0] >= 0)[..., None]
    q = rearrange(named, "fq n fk m -> 1 1 (fq n) (fk m)") * strength
    return q.float(), torch.eye(f * n)[None, None]


def positions(truth: GridTruth, sharpness: float) -> tuple[Tensor, Tensor]:
    """Queries and keys with q . k = -|x - y|^2 up to what is the same for all keys, x and y the tokens' points."""
    x = rearrange(truth.points, "b f n c -> b 1 (f n) c")
    x = x - reduce(x, "b h n c -> b h 1 c", "mean")
    square = reduce(x.square(), "b h n c -> b h n 1", "sum")
    return sharpness * torch.cat([2 * x, torch.ones_like(square)], -1), torch.cat([x, -square], -1)


def scored(
    grid: tuple[int, int], name: str, make: Callable[[int], tuple[Tensor, Tensor]], *, scenes: int = SCENES
) -> pd.DataFrame:
    """Score made-up queries and keys on every scene, with the references beside them; all heads together."""
    rows = []
    for index in range(scenes):
        rows += score_one(make(index), index, {grid: truth_of(index, grid)}, grid, name)
    table = pd.concat([score_table(rows), *(references(index, grid, name) for index in range(scenes))])
    return table[(table["protocol"] == name) & (table["head"] == -1)]


def score_one(
    qk: tuple[Tensor, Tensor], index: int, truths: dict, grid: tuple[int, int], name: str = "attention-v1"
) -> list[Rows]:
    views, called = room(index), layer(grid, qk[0].shape[1])
    return score_call(*qk, 1.0, called, truths, LIMITS, PROTOCOLS[name], scene_pairs(views), constants(views))


def interval(table: pd.DataFrame, model: str, metric: str) -> tuple[float, float, float]:
    row = summarise(table[(table["model"] == model) & (table["metric"] == metric)], ["model"]).iloc[0]
    return row["low"], row["value"], row["high"]


# Self-tests


@pytest.mark.parametrize(("grid", "scenes"), [((8, 8), SCENES), ((6, 10), SCENES), ((16, 16), 3)])
@PROTOCOL
def test_a_planted_match_scores_the_ceiling(grid: tuple[int, int], scenes: int, name: str):
    """Queries name the token in which their point lies, where the key view shows it; the ratio protocol asks all."""

    def name_truth(index: int) -> tuple[Tensor, Tensor]:
        truth = truth_of(index, grid)
        projected = token_of(truth.xy.nan_to_num(nan=-1), room(index).size, grid)
        return codes(truth, truth.token if name == "attention-v1" else projected, 9.0)

    table = scored(grid, name, name_truth, scenes=scenes)
    for metric in ("precision@10%", "precision@1token"):
        low, value, high = interval(table, "planted", metric)
        _, ceiling, _ = interval(table, CEILING, metric)
        assert low - 1e-9 <= ceiling <= high + 1e-9
        assert value == pytest.approx(1)  # half a token's diagonal is below these limits, so the ceiling itself is one
    if name == "attention-v1":
        assert interval(table, "planted", "precision@5%") == pytest.approx(interval(table, CEILING, "precision@5%"))


@GRIDS
def test_a_model_that_knows_where_points_are_scores_the_ceiling_in_3d(grid: tuple[int, int]):
    table = scored(grid, "attention-v1", lambda index: positions(truth_of(index, grid), 300.0))
    for limit in LIMITS:
        low, value, high = interval(table, "planted", limit.name)
        _, ceiling, _ = interval(table, CEILING, limit.name)
        if limit.kind == "scene":
            assert low <= ceiling <= high
            assert value == pytest.approx(ceiling, abs=2e-3)
        else:
            assert value <= ceiling  # a point's nearest neighbour in 3D need not be the token that contains it


@GRIDS
def test_a_model_that_knows_where_points_are_keeps_its_good_matches_by_the_ratio(grid: tuple[int, int]):
    """Of its matches the quarter with the lowest ratio is better than all, and no better than the ceiling."""

    def descriptors(index: int) -> tuple[Tensor, Tensor]:
        points = rearrange(truth_of(index, grid).points, "b f n c -> b 1 (f n) c")
        return points, points

    table = scored(grid, "ratio-v1", descriptors)
    for metric in ("precision@10%", "precision@5%scene"):
        kept, total = (interval(table, "planted", metric + part)[1] for part in ("", "|coverage=1.0"))
        assert total + 0.2 < kept <= interval(table, CEILING, metric)[1]
    curve = [interval(table, "planted", f"precision@10%|coverage={share}")[1] for share in (0.25, 0.5, 0.75, 1.0)]
    assert curve == sorted(curve, reverse=True)


@GRIDS
@PROTOCOL
def test_a_random_model_scores_chance(grid: tuple[int, int], name: str):
    """Within the interval, taken half as wide again: one in twenty of the twelve would miss its own by chance."""

    def draw(index: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(index)
        q, k = (torch.randn(1, 4, 3 * math.prod(grid), 64, generator=generator) for _ in range(2))
        return q, k / k.norm(dim=-1, keepdim=True)  # of one length, lest a long key attracts all

    table = scored(grid, name, draw)
    for metric in ("precision@10%", "precision@1token", "precision@10%scene"):
        low, value, high = interval(table, "planted", metric)
        chance = interval(table, UNIFORM, metric)[1]
        assert value - 1.5 * (value - low) <= chance <= value + 1.5 * (high - value)
        assert high < interval(table, CEILING, metric)[1] / 2


@GRIDS
@PROTOCOL
def test_no_reference_beats_the_ceiling(grid: tuple[int, int], name: str):
    table = pd.concat([references(index, grid, name) for index in range(SCENES)])
    wide = table[table["metric"].isin(NAMES)].pivot_table(
        index=["scene", "query_view", "key_view", "metric"], columns="model", values="value", observed=True
    )
    assert len(wide) == SCENES * 6 * len(LIMITS)
    assert (wide[UNIFORM] <= wide[CEILING] + 1e-6).all()
    assert (wide[SAME_POSITION] <= wide[CEILING] + 1e-6).all()


# Where rows lie


def test_a_match_planted_from_view_1_to_view_0_lies_in_that_row_alone():
    truth = truth_of(1, (8, 8))
    token = torch.full_like(truth.token, -1)
    token[:, 1, :, 0] = truth.token[:, 1, :, 0]
    table = score_table(score_one(codes(truth, token, 9.0), 1, {(8, 8): truth}, (8, 8)))
    found = table[(table["metric"] == "precision@10%") & (table["head"] == -1) & (table["protocol"] == "attention-v1")]
    assert len(found) == 6
    right = found[found["value"] > 0.5]
    assert right[["query_view", "key_view"]].to_numpy().tolist() == [[1, 0]]
    assert right["direction"].tolist() == ["tgt-ref"]
    assert right["pair"].tolist() == [f"{room(1).names[0]}:0-1"]
    assert right["count"].tolist() == [int(truth.visible[0, 1, :, 0].sum())]
    assert (found.set_index(["query_view", "key_view"])["value"].drop((1, 0)) < 0.2).all()


@pytest.mark.parametrize("kind", ["image", "token", "metric"])
def test_an_error_equal_to_the_threshold_is_wrong(kind: str):
    """Of all queries matched to the first token, one has just the error that is the threshold."""
    truth = truth_of(0, (8, 8))
    counted = truth.visible[:, None]
    token = torch.zeros_like(counted, dtype=torch.long)
    error = errors(token, truth, kind)
    tie = error[counted.expand_as(error)].sort().values[5]
    limit = Threshold(name="tie", kind=kind, value=tie.item())
    value, count = precisions(token, counted, truth, (limit,))["tie"]
    others = ((error < tie) & counted).sum((-1, -2, -3, -4))
    assert others.item() == 5
    assert (value * count).nansum().item() == pytest.approx(5)
    assert (correct(token, truth, limit) & counted).sum().item() == 5


def test_tabulate_by_hand():
    pairs = ScenePairs(
        pair=("s:0-1", "s:0-1", "s:0-2"),
        query_view=(0, 1, 2),
        key_view=(1, 0, 0),
        direction=("ref-tgt", "tgt-ref", "tgt-ref"),
        rotation_deg=(10.0, 10.0, 50.0),
    )
    head, query, key = torch.meshgrid(torch.arange(3), torch.arange(3), torch.arange(3), indexing="ij")
    value = (100.0 * head + 10 * query + key)[None]
    measured = {"a": (value, value.long() + 1), "b": (value[:, :1] + 0.5, value[:, :1].long())}
    fixed = {"model": "m", "step": 7, "scene": "s", "layer": 3, "layer_name": "x", "grid": "2x2", "timestep": 5,
             "protocol": "p", "pair_list": ""}  # fmt: skip
    table = score_table([tabulate(measured, pairs, fixed)])
    assert list(table.columns) == list(SCORE_COLUMNS)
    first = table[table["metric"] == "a"]
    assert first["head"].tolist() == [-1, -1, -1, 0, 0, 0, 1, 1, 1]
    assert first["value"].tolist() == [1, 10, 20, 101, 110, 120, 201, 210, 220]
    assert first["count"].tolist() == [2, 11, 21, 102, 111, 121, 202, 211, 221]
    assert first["query_view"].tolist() == [0, 1, 2] * 3
    assert first["key_view"].tolist() == [1, 0, 0] * 3
    assert first["pair"].tolist() == list(pairs.pair) * 3
    assert first["direction"].tolist() == list(pairs.direction) * 3
    assert first["rotation_deg"].tolist() == [10, 10, 50] * 3
    second = table[table["metric"] == "b"]
    assert second["value"].tolist() == [1.5, 10.5, 20.5]
    assert second["head"].tolist() == [-1] * 3
    assert (table[list(fixed)].drop_duplicates().to_dict("records")) == [fixed]
    assert table["value"].dtype == np.float64


def test_tables_of_several_calls_are_joined_row_by_row():
    truth = truth_of(0, (4, 4))
    pairs = scene_pairs(room(0))
    parts = [
        tabulate({f"metric {index}": (torch.full((1, 1, 3, 3), float(index)), torch.ones(1, 1, 3, 3).long())}, pairs,
                 {**unlayered(f"model {index}", truth.grid, PROTOCOLS["ratio-v1"]), "scene": "s", "pair_list": ""})
        for index in range(3)
    ]  # fmt: skip
    table = score_table(parts)
    assert table["value"].tolist() == [0] * 6 + [1] * 6 + [2] * 6
    assert table["model"].astype(str).tolist() == [f"model {i}" for i in range(3) for _ in range(6)]
    assert table["metric"].astype(str).tolist() == [f"metric {i}" for i in range(3) for _ in range(6)]
    assert (table[["layer", "step", "timestep"]] == -1).all(axis=None)


def test_each_head_has_its_row_and_all_together_the_first():
    """Head 0 knows nothing, head 1 all; together they find it, as sure weights outvote even ones."""
    truth = truth_of(0, (8, 8))
    q, k = codes(truth, truth.token, 20.0)
    q = torch.cat([torch.zeros_like(q), q], dim=1)
    table = score_table(score_one((q, k.expand_as(q)), 0, {(8, 8): truth}, (8, 8)))
    native = table[table["protocol"] == "attention-v1"]
    found = native[native["metric"] == "precision@10%"].groupby("head")["value"].mean()
    assert found.loc[0] < 0.1
    assert found.loc[[-1, 1]].tolist() == [1, 1]
    assert native.groupby("metric", observed=True)["head"].nunique().to_dict() == {
        **{limit.name: 3 for limit in LIMITS}, "mass_3x3": 3, "mass_key_view": 3, "entropy": 1, "cross_entropy": 1
    }  # fmt: skip
    mass = native[native["metric"] == "mass_key_view"].groupby("head")["value"].mean()
    assert mass.loc[-1] == pytest.approx((mass.loc[0] + mass.loc[1]) / 2)


def test_the_common_grid_is_scored_on_the_finest_truth():
    truths = {grid: truth_of(2, grid) for grid in ((4, 4), (8, 8))}
    coarse, fine = (
        score_table(score_one(codes(truth, truth.token, 9.0), 2, truths, grid)) for grid, truth in truths.items()
    )
    for table in (coarse, fine):
        shared = table[table["protocol"] == "attention-v1" + COMMON_GRID]
        assert set(shared["grid"]) == {"8x8"}
        assert set(shared["head"]) == {-1}
        assert set(shared["metric"]) == {limit.name for limit in LIMITS}
        assert shared["count"].max() == truths[8, 8].visible.sum(2).max()
    own = fine[(fine["protocol"] == "attention-v1") & (fine["head"] == -1)]
    shared = fine[fine["protocol"] != "attention-v1"]
    both = own.merge(shared, on=["query_view", "key_view", "metric"])
    np.testing.assert_array_equal(both["value_x"], both["value_y"])
    assert set(coarse[coarse["protocol"] == "attention-v1"]["grid"]) == {"4x4"}


# Views and directions


def test_directions_by_hand():
    names = [[direction(query, key, 2) for key in range(4)] for query in range(4)]
    assert (
        names == [["ref-ref", "ref-ref", "ref-tgt", "ref-tgt"]] * 2 + [["tgt-ref", "tgt-ref", "tgt-tgt", "tgt-tgt"]] * 2
    )


def test_scene_pairs_are_all_ordered_pairs():
    views = replace(room(0), n_ref=2)
    pairs = scene_pairs(views)
    ordered = list(zip(pairs.query_view, pairs.key_view, strict=True))
    assert ordered == [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]
    assert pairs.direction == ("ref-ref", "ref-tgt", "ref-ref", "ref-tgt", "tgt-ref", "tgt-ref")
    assert pairs.pair == tuple(f"{views.names[0]}:{p}" for p in ("0-1", "0-2", "0-1", "1-2", "0-2", "1-2"))
    listed = pair_table([views], [(0.5, 0.25)])
    assert listed["pair"].tolist() == [f"{views.names[0]}:0-1", f"{views.names[0]}:0-2"]
    assert listed["overlap"].tolist() == [0.5, 0.25]
    assert listed["view_b"].tolist() == [1, 2]
    by_pair = dict(zip(pairs.pair, pairs.rotation_deg, strict=True))
    assert listed["rotation_deg"].tolist() == pytest.approx([by_pair[name] for name in listed["pair"]])
    assert listed["rotation_bin"].tolist() == ["0-30", "0-30"]


def test_layouts_of_layers():
    assert joint_layout(Layer(2, "a", (2, 3), 1, "joint", prefix=4), 3) == ViewLayout(3, (2, 3), 4)
    assert joint_layout(Layer(0, "a", (2, 3), 1, "view"), 3) == ViewLayout(3, (2, 3))
    with pytest.raises(ValueError, match="joins no views"):
        joint_layout(Layer(None, "a", None, 1, "cross"), 3)
    assert grid_name((6, 10)) == "6x10"


# References


@PROTOCOL
def test_references_score_the_queries_that_the_protocol_counts(name: str):
    views, truth = room(3), truth_of(3, (6, 10))
    found = reference_scores(views, truth, LIMITS, PROTOCOLS[name])
    assert tuple(found) == REFERENCES
    other = ~torch.eye(3, dtype=torch.bool)
    counts = {kind: found[kind]["precision@5%"][1][0, 0][other] for kind in REFERENCES}
    visible, valid = truth.visible.sum(2)[0][other], queries_with_points(truth).sum(2)[0][other]
    kept = torch.full_like(valid, 15)  # a quarter of sixty
    expected = {"attention-v1": (visible,) * 3, "ratio-v1": (valid, valid, kept)}[name]
    assert [counts[kind].tolist() for kind in REFERENCES] == [count.tolist() for count in expected]
    masses = {"mass_3x3", "mass_key_view", "entropy", "cross_entropy"}
    assert masses & set(found[UNIFORM]) == (masses if name == "attention-v1" else set())
    if name == "attention-v1":
        assert found[UNIFORM]["entropy"][0][0, 0][other].tolist() == pytest.approx([math.log(60)] * 6)
        assert found[UNIFORM]["mass_key_view"][0][0, 0][other].tolist() == pytest.approx([1 / 3] * 6)


def test_rows_of_references_belong_to_a_grid_and_to_no_layer():
    truths = {grid: truth_of(0, grid) for grid in ((4, 4), (8, 8))}
    table = measure_references(room(0), truths, PROTOCOLS["attention-v1"], LIMITS)
    assert set(table["grid"]) == {"4x4", "8x8"}
    assert (table[["layer", "head", "timestep", "step"]] == -1).all(axis=None)
    assert set(table["model"]) == set(REFERENCES)
    assert not table[table["count"] == 0]["value"].notna().any()


def test_metric_scenes_are_judged_in_metres():
    names = [limit.name for limit in thresholds("m")]
    assert names[-6:] == [f"precision@{value}m" for value in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)]
    assert {limit.kind for limit in thresholds("m")} == {"image", "token", "metric"}
    assert {limit.kind for limit in thresholds(None)} == {"image", "token", "scene"}
    assert all(
        float(name.removeprefix("precision@").rstrip("m")) == limit.value
        for name, limit in zip(names[-6:], thresholds("m")[-6:], strict=True)
    )


# The ratio protocol


def test_ratio_scores_keep_the_quarter_with_the_lowest_ratio():
    truth = truth_of(0, (8, 8))
    right = nearest_token(truth, room(0).size)[:, 0]
    ratio = repeat(torch.arange(64.0) / 64, "n -> 1 3 n 3")  # the first sixteen queries are kept
    first = torch.arange(64)[:, None] < 8
    matches = RatioMatches(token=torch.where(first, right, (right + 32) % 64), ratio=ratio)
    limit = Threshold(name="p", kind="token", value=0.75)
    measured = ratio_scores(matches, truth, (limit,), PROTOCOLS["ratio-v1"])
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
    few = replace(PROTOCOLS["ratio-v1"], most=5)
    x = torch.randn(1, 1, 192, 4, generator=torch.Generator().manual_seed(0))
    measured = ratio_scores(ratio_matches(x, x, ViewLayout(3, (8, 8))), truth, LIMITS, few)
    assert (measured["precision@5%"][1] == 5).all()
    assert (measured["precision@5%|coverage=0.5"][1] == 32).all()


@PROTOCOL
def test_descriptors_are_scored_like_a_layer(name: str):
    truth = truth_of(0, (8, 8))
    x = torch.randn(1, 3, 64, 16, generator=torch.Generator().manual_seed(0))
    x[:, 1] = x[:, 0]  # the second view's tokens look like those at the same place of the first
    measured = descriptor_scores(x, truth, LIMITS, PROTOCOLS[name])
    place = reference_scores(room(0), truth, LIMITS, PROTOCOLS[name])[SAME_POSITION]
    if name == "attention-v1":
        assert measured["precision@5%"][0][0, 0, 0, 1] == place["precision@5%"][0][0, 0, 0, 1]
    else:
        full = measured["precision@5%|coverage=1.0"]
        assert full[0][0, 0, 1, 0] == pytest.approx(place["precision@5%"][0][0, 0, 1, 0].item())
