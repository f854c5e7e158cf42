"""Self-tests of the score: what is planted is found, what is random scores chance, and rows lie where they belong."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from einops import rearrange, reduce
from scenes import ROOMS, codes, planted_call, references, room, room_scene, truth_of
from torch import Tensor

from probe.correspondence import token_of
from probe.measure.references import guesses_of_layers
from probe.measure.scene import Scene, ScenePairs
from probe.measure.score import score_call, tabulate, without_layer
from probe.metrics import GridTruth, thresholds
from probe.protocols import PROTOCOLS
from probe.records import CEILING, COMMON_GRID, SCORE_COLUMNS, UNIFORM, Rows, grid_name, score_table, summarise

LIMITS = thresholds(None)
GRIDS = pytest.mark.parametrize("grid", [(8, 8), (6, 10)])
PROTOCOL = pytest.mark.parametrize("name", ["attention-v1", "ratio-v1", "ratio-v2"])


def positions(truth: GridTruth, sharpness: float) -> tuple[Tensor, Tensor]:
    """Queries and keys with q . k = -|x - y|^2 up to what is the same for all keys, x and y the tokens' points."""
    x = rearrange(truth.points, "b f n c -> b 1 (f n) c")
    x = x - reduce(x, "b h n c -> b h 1 c", "mean")
    square = reduce(x.square(), "b h n c -> b h n 1", "sum")
    return sharpness * torch.cat([2 * x, torch.ones_like(square)], -1), torch.cat([x, -square], -1)


def scored(
    grid: tuple[int, int], name: str, make: Callable[[int], tuple[Tensor, Tensor]], *, scenes: int = ROOMS
) -> pd.DataFrame:
    """Score made-up queries and keys on every scene, with the references beside them; all heads together."""
    rows = []
    for index in range(scenes):
        rows += score_one(make(index), room_scene(index, grid), grid, name)
    table = pd.concat([score_table(rows), *(references(index, grid, name) for index in range(scenes))])
    return table[(table["protocol"] == name) & (table["head"] == -1)]


def score_one(qk: tuple[Tensor, Tensor], scene: Scene, grid: tuple[int, int], name: str = "attention-v1") -> list[Rows]:
    protocol = PROTOCOLS[name]
    return score_call(planted_call(*qk, grid), scene, protocol, guesses_of_layers(scene, protocol))


def interval(table: pd.DataFrame, model: str, metric: str) -> tuple[float, float, float]:
    row = summarise(table[(table["model"] == model) & (table["metric"] == metric)], ["model"]).iloc[0]
    return row["low"], row["value"], row["high"]


# Self-tests


@pytest.mark.parametrize(("grid", "scenes"), [((8, 8), ROOMS), ((6, 10), ROOMS), ((16, 16), 3)])
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
        assert scenes < 5 or low - 1e-9 <= ceiling <= high + 1e-9
        assert value == pytest.approx(1)  # half a token's diagonal is below these limits, so the ceiling itself is one
    if name == "attention-v1":
        found, best = (interval(table, name, "precision@5%") for name in ("planted", CEILING))
        assert found == pytest.approx(best, nan_ok=True)


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


# Where rows lie


def test_a_match_planted_from_view_1_to_view_0_lies_in_that_row_alone():
    truth = truth_of(1, (8, 8))
    token = torch.full_like(truth.token, -1)
    token[:, 1, :, 0] = truth.token[:, 1, :, 0]
    table = score_table(score_one(codes(truth, token, 9.0), room_scene(1, (8, 8)), (8, 8)))
    found = table[(table["metric"] == "precision@10%") & (table["head"] == -1) & (table["protocol"] == "attention-v1")]
    assert len(found) == 6
    right = found[found["value"] > 0.5]
    assert right[["query_view", "key_view"]].to_numpy().tolist() == [[1, 0]]
    assert right["direction"].tolist() == ["tgt-ref"]
    assert right["pair"].tolist() == [f"{room(1).names[0]}:0-1"]
    assert right["count"].tolist() == [int(truth.visible[0, 1, :, 0].sum())]
    assert (found.set_index(["query_view", "key_view"])["value"].drop((1, 0)) < 0.2).all()


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
    fixed = {"model": "m", "step": 7, "layer": 3, "layer_name": "x", "grid": "2x2", "timestep": 5, "protocol": "p"}
    scene = replace(room_scene(0), views=replace(room(0), names=("s",)), pairs=pairs)
    table = score_table([tabulate(measured, scene, fixed)])
    fixed |= {"scene": "s", "pair_list": ""}
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
    one = torch.ones(1, 1, 3, 3)
    parts = [
        tabulate(
            {f"metric {index}": (index * one, one.long())},
            room_scene(0),
            without_layer(f"model {index}", (4, 4), PROTOCOLS["ratio-v1"]),
        )
        for index in range(3)
    ]
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
    table = score_table(score_one((q, k.expand_as(q)), room_scene(0, (8, 8)), (8, 8)))
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
    scene = room_scene(2, (4, 4), (8, 8))
    coarse, fine = (
        score_table(score_one(codes(truth, truth.token, 9.0), scene, grid)) for grid, truth in scene.truths.items()
    )
    for table in (coarse, fine):
        shared = table[table["protocol"] == "attention-v1" + COMMON_GRID]
        assert set(shared["grid"]) == {"8x8"}
        assert set(shared["head"]) == {-1}
        assert set(shared["metric"]) == {limit.name for limit in LIMITS}
        assert shared["count"].max() == scene.truths[8, 8].visible.sum(2).max()
    own = fine[(fine["protocol"] == "attention-v1") & (fine["head"] == -1)]
    shared = fine[fine["protocol"] != "attention-v1"]
    both = own.merge(shared, on=["query_view", "key_view", "metric"])
    np.testing.assert_array_equal(both["value_x"], both["value_y"])
    assert set(coarse[coarse["protocol"] == "attention-v1"]["grid"]) == {"4x4"}


def test_a_grid_is_named_by_rows_and_columns():
    assert grid_name((6, 10)) == "6x10"
