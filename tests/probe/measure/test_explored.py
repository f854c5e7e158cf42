"""What is kept for the match explorer is what the tables are made of; codes stay within half a step."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scenes import small_random_model, small_scene
from torch import Tensor

from probe.geometry import fundamental_matrix
from probe.layers import Layer, find_layers, select_layers
from probe.measure import explored
from probe.measure.examples import example_matches
from probe.measure.explored import (
    LEVELS,
    MAP_LEVELS,
    _in_half,
    coarse_maps,
    explore_scene,
    head_timesteps,
    kept_views,
    key_views,
    of_pairs,
    pooling,
    quantise,
    query_tokens,
    runners_up,
)
from probe.measure.model import measure_layers
from probe.measure.scene import Scene
from probe.metrics import thresholds
from probe.models.model import MultiViewModel
from probe.protocols import PROTOCOLS

TIMES = (100, 500)
LIMIT = thresholds(None)[1]  # precision@5%


@pytest.fixture(scope="module")
def model() -> MultiViewModel:
    return small_random_model()


@pytest.fixture(scope="module")
def layers(model: MultiViewModel) -> list[Layer]:
    chosen = select_layers(find_layers(model.network), "3d")
    return [chosen[1], chosen[3], chosen[-1]]


@pytest.fixture(scope="module")
def scene(layers: list[Layer]) -> Scene:
    return small_scene(layers)


@pytest.fixture(scope="module")
def seen(model: MultiViewModel, scene: Scene, layers: list[Layer]) -> dict[str, Tensor]:
    found = explore_scene(model, scene, layers, TIMES, LIMIT)
    suffix = f"/{scene.name}"
    assert all(name.endswith(suffix) for name in found)
    return {name.removesuffix(suffix): value for name, value in found.items()}


# What the tables hold


def tally(right: Tensor, counted: Tensor) -> dict[tuple[int, int], tuple[int, int]]:
    """Count right and counted query tokens [fq asked other] by query and key view."""
    keys = key_views([0, 1, 2])
    both = (right & counted).sum(1), counted.sum(1)
    return {(q, int(keys[q, j])): (int(both[0][q, j]), int(both[1][q, j])) for q in range(3) for j in range(2)}


def expected(table: pd.DataFrame, **where: object) -> dict[tuple[int, int], tuple[int, int]]:
    for column, value in where.items():
        table = table[table[column] == value]
    value = table["value"].fillna(0) * table["count"]
    return {(r.query_view, r.key_view): (round(v), r.count) for r, v in zip(table.itertuples(), value, strict=True)}


def test_right_and_counted_are_those_of_the_score_table(model, scene, layers, seen):
    table = measure_layers(model, scene, layers, TIMES, PROTOCOLS["attention-v1"])
    table = table[(table["protocol"] == "attention-v1") & (table["metric"] == LIMIT.name)]
    for layer in layers:
        visible = seen[f"visible/{layer.grid[0]}x{layer.grid[1]}"]
        for n, t in enumerate(TIMES):
            where = {"layer": layer.index, "timestep": t}
            assert tally(seen[f"right/{layer.index}"][n], visible) == expected(table, head=-1, **where)
            for head in range(layer.heads):
                right = seen[f"head_right/{layer.index}"][n, head]
                assert tally(right, visible) == expected(table, head=head, **where)


def test_the_ratio_protocol_agrees_too(model, scene, layers, seen):
    table = measure_layers(model, scene, layers, TIMES, PROTOCOLS["ratio-v1"])
    table = table[table["model"] == model.name]
    for layer in layers:
        for n, t in enumerate(TIMES):
            right, kept = (seen[f"{name}/{layer.index}"][n] for name in ("ratio_right", "ratio_kept"))
            where = {"layer": layer.index, "timestep": t, "metric": LIMIT.name, "head": -1}
            assert tally(right, kept) == expected(table, **where)


def test_matches_are_those_of_the_pictures(model, scene, layers, seen):
    pictures = example_matches(model, scene, layers, TIMES[1], PROTOCOLS["attention-v1"])
    for layer in layers:
        rows = pictures[pictures["layer"] == layer.index]
        token = seen[f"token/{layer.index}"][1, 2, :, 0].long()  # view 2 asks view 0
        grid = torch.tensor(layer.grid)
        xy = torch.stack([token % grid[1] + 0.5, token // grid[1] + 0.5], -1) / grid.flip(0)
        assert torch.equal(xy.double(), torch.tensor(rows[["match_x", "match_y"]].to_numpy()).double())
        true = seen[f"true_xy/{layer.grid[0]}x{layer.grid[1]}"][2, :, 0]
        shown = seen[f"visible/{layer.grid[0]}x{layer.grid[1]}"][2, :, 0]
        torch.testing.assert_close(true[shown], torch.tensor(rows[["true_x", "true_y"]].to_numpy())[shown].float())


@given(seed=st.integers(0, 10_000), power=st.integers(-12, 12))
def test_half_precision_is_off_by_a_2048th(seed: int, power: int):
    x = 2.0**power * torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(seed))
    assert (_in_half(x).float() - x).abs().le(2.0**-11 * x.abs() + 2.0**-25).all()
    assert _in_half(x * 2.0**20 + 2.0**17).dtype == torch.float32  # too large for it


def attention(part: dict[str, Tensor]) -> Tensor:
    """Compute weights [heads fq asked f n] as the page does."""
    logits = torch.einsum("anhd,bmhd->hanbm", part["q"].double(), part["k"].double())
    weights = logits.flatten(-2).softmax(-1).unflatten(-1, logits.shape[-2:])
    return weights * part["within"].double().permute(2, 0, 1)[..., None, None]


def kept(seen: dict[str, Tensor], layer: Layer) -> dict[str, Tensor]:
    return {name: seen[f"{name}/{layer.index}"][1] for name in ("q", "k", "within")}


def test_attention_of_what_is_kept_is_that_of_the_matches(seen, layers):
    for layer in layers:
        weights = attention(kept(seen, layer))
        others = torch.stack([weights[:, view][:, :, key_views([0, 1, 2])[view]] for view in range(3)], 1)
        same = others.mean(0).argmax(-1) == seen[f"token/{layer.index}"][1].long()
        assert same.float().mean() > 0.98, layer  # the rest are ties to half precision
        same = others.argmax(-1) == seen[f"head_token/{layer.index}"][1].long()
        assert same.float().mean() > 0.98, layer
        mass = others.sum(-1).mean(0).sqrt() * LEVELS
        assert (mass - seen[f"mass/{layer.index}"][1]).abs().max() < 0.6


def test_weights_of_views_kept_leave_out_those_of_the_others(monkeypatch: pytest.MonkeyPatch, model, scene, layers):
    whole = attention(kept(named(explore_scene(model, scene, layers[:1], TIMES, LIMIT)), layers[0]))
    monkeypatch.setattr(explored, "kept_views", lambda views: [0, 2])
    part = kept(named(explore_scene(model, scene, layers[:1], TIMES, LIMIT)), layers[0])
    assert 0.2 < part["within"].min() < part["within"].max() < 0.95
    torch.testing.assert_close(attention(part), whole[:, [0, 2]][:, :, :, [0, 2]], rtol=0.02, atol=1e-5)


def named(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.rpartition("/")[0]: value for name, value in tensors.items()}


def test_large_layers_keep_maps(model, scene, layers, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(explored, "EXACT_NUMBERS", 0)
    pooled = explore_scene(model, scene, layers, TIMES, LIMIT)
    names = {name.split("/")[0] for name in pooled}
    assert {"map", "head_map", "version"} <= names
    assert not {"q", "k", "within"} & names


def test_looking_twice_gives_the_same(model, scene, layers, seen):
    again = explore_scene(model, scene, layers, TIMES, LIMIT)
    assert all(
        torch.equal(again[f"{name}/{scene.name}"].nan_to_num(), value.nan_to_num()) for name, value in seen.items()
    )


# Geometry


def test_true_points_lie_on_the_epipolar_line_of_the_query(seen):
    query, true = seen["query_xy/8x8"].double(), seen["true_xy/8x8"].double()
    at = torch.cat([query, torch.ones_like(query[..., :1])], -1)
    lines = torch.einsum("qoij,qaj->qaoi", seen["fundamental/-"].double(), at)
    distance = (lines[..., :2] * true).sum(-1).add(lines[..., 2]).abs() / lines[..., :2].norm(dim=-1)
    assert distance[true.isfinite().all(-1)].max() < 1e-4  # of the image's width
    assert true.isfinite().all(-1).sum() > 100


def test_cameras_with_one_centre_have_no_epipolar_line():
    camera, other = torch.eye(4), torch.eye(4)
    other[:3, :3] = torch.tensor([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])
    assert not fundamental_matrix(torch.eye(3), camera, torch.eye(3), other).any()
    other[0, 3] = 0.1
    torch.testing.assert_close(fundamental_matrix(torch.eye(3), camera, torch.eye(3), other).norm(), torch.tensor(1.0))


# Codes


@given(share=st.floats(0, 1, width=32), levels=st.sampled_from([LEVELS, MAP_LEVELS]))
def test_a_code_is_off_by_half_a_step_of_the_root_at_most(share: float, levels: int):
    code = int(quantise(torch.tensor([share]), levels))
    assert 0 <= code <= levels
    assert abs(code / levels - share**0.5) <= 0.5 / levels + 1e-6


@given(side=st.integers(1, 40))
def test_pooling_averages_cells_of_nearly_equal_size(side: int):
    matrix = pooling(side)
    members = (matrix > 0).sum(1)
    assert matrix.shape == (min(side, 8), side)
    assert ((matrix > 0).sum(0) == 1).all()
    assert members.max() - members.min() <= 1
    torch.testing.assert_close(matrix.sum(1), torch.ones(len(matrix)))


@given(seed=st.integers(0, 10_000), h=st.integers(1, 20), w=st.integers(1, 20))
def test_coarse_maps_are_means_over_cells_by_a_slow_loop(seed: int, h: int, w: int):
    weights = torch.rand(h * w, generator=torch.Generator().manual_seed(seed)) ** 3 + 1e-6
    rows, columns = min(h, 8), min(w, 8)
    cells = [[[] for _ in range(columns)] for _ in range(rows)]
    for token, weight in enumerate(weights.tolist()):
        cells[token // w * rows // h][token % w * columns // w].append(weight)
    means = [sum(cell) / len(cell) for line in cells for cell in line]
    roots = torch.tensor([(mean / max(means)) ** 0.5 for mean in means])
    coded = coarse_maps(weights, (h, w))
    assert ((coded / MAP_LEVELS - roots).abs() <= 0.5 / MAP_LEVELS + 1e-5).all()
    assert coded.max() == MAP_LEVELS


def test_runners_up_known():
    weights = torch.tensor([[0.1, 0.3, 0.3, 0.2], [0.25, 0.25, 0.25, 0.25]])
    assert runners_up(weights).tolist() == [[2, 3], [1, 2]]
    assert runners_up(torch.tensor([[1.0]])).tolist() == [[0, 0]]


# What is kept


def test_kept_views_known():
    assert [kept_views(n) for n in (2, 4, 5, 8)] == [[0, 1], [0, 1, 2, 3], [0, 1, 3, 4], [0, 2, 5, 7]]
    assert key_views([0, 2, 5]).tolist() == [[2, 5], [0, 5], [0, 2]]


@given(h=st.integers(1, 70), w=st.integers(1, 70))
def test_asked_tokens_lie_in_their_blocks_of_the_grid(h: int, w: int):
    asked, rows, columns = query_tokens((h, w)), min(h, 16), min(w, 16)
    down, across = asked // w, asked % w
    block = (2 * down + 1) * rows // (2 * h) * columns + (2 * across + 1) * columns // (2 * w)
    assert block.tolist() == list(range(rows * columns))


def test_pairs_are_picked_by_a_slow_loop():
    values, views, asked = torch.arange(2 * 5 * 6 * 5).reshape(2, 5, 6, 5), [0, 2, 4], torch.tensor([1, 5])
    slow = [[[[values[r, q, a, k] for k in views if k != q] for a in (1, 5)] for q in views] for r in range(2)]
    assert of_pairs(values, views, asked).tolist() == [[[[int(x) for x in y] for y in z] for z in s] for s in slow]


def test_big_models_keep_heads_at_the_middle_timesteps(layers: list[Layer]):
    times = (100, 300, 500, 700, 900)
    assert head_timesteps(times, layers, 3) == [0, 1, 2, 3, 4]
    big = [replace(layers[0], heads=200, grid=(64, 64))] * 8
    assert head_timesteps(times, big, 3) == [2]
    assert head_timesteps(times, [replace(layers[0], heads=100, grid=(64, 64))] * 3, 3) == [1, 2]
