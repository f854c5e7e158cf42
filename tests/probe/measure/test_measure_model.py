"""Measuring a small random model: every layer, timestep and direction is there, and the model is left as it was."""

import math
from dataclasses import replace

import pandas as pd
import pytest
import torch
from einops import rearrange
from torch import Tensor, nn

from probe.attention.call import Call
from probe.baselines import open_matchers
from probe.capture import AttentionTap
from probe.layers import Layer, find_layers, select_layers
from probe.matching import attention_matches
from probe.measure.model import (
    cameras_only,
    example_matches,
    measure_layers,
    measure_matcher,
    measure_references,
    truths_of,
    views_joined,
)
from probe.measure.score import ScenePairs, scene_pairs
from probe.metrics import GridTruth
from probe.models.cat3d import TINY, load_unet
from probe.models.model import MultiViewModel, predict
from probe.models.schedules import cameo_scheduler
from probe.protocols import COMMON_GRID, PROTOCOLS, thresholds
from probe.records import SCORE_COLUMNS
from probe.scenes import Request, open_scenes
from probe.views import Views, resize

ATTENTION, RATIO = PROTOCOLS["attention-v1"], PROTOCOLS["ratio-v1"]
LIMITS = thresholds(None)
T = 500


@pytest.fixture(scope="module")
def model() -> MultiViewModel:
    """The small model's wiring at 16 pixels: 3D layers on grids of 8, 4 and 2 tokens a side; rays take part."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = load_unet(None, {**TINY, "sample_size": 16})
        nn.init.normal_(network.add_conv_in.conv_out.weight, std=0.1)
    network.eval().requires_grad_(False)
    return MultiViewModel(
        name="toy", network=network, alpha_bar=cameo_scheduler().alphas_cumprod, size=16, card={"steps": 40}
    )


@pytest.fixture(scope="module")
def views() -> Views:
    return open_scenes("shapes", Request(groups=1, views=3, n_ref=1, size=32)).load(0)[0]


@pytest.fixture(scope="module")
def layers(model: MultiViewModel) -> list[Layer]:
    return select_layers(find_layers(model.network), "3d")


@pytest.fixture(scope="module")
def truths(views: Views, layers: list[Layer]) -> dict[tuple[int, int], GridTruth]:
    return truths_of(views, layers)


@pytest.fixture(scope="module")
def noise() -> Tensor:
    return torch.randn(1, 3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def table(model: MultiViewModel, views: Views, layers: list[Layer], truths: dict, noise: Tensor) -> pd.DataFrame:
    return measure_layers(model, views, layers, truths, (100, T), ATTENTION, LIMITS, noise)


def run(model: MultiViewModel, views: Views, noise: Tensor) -> Tensor:
    small = resize(views, model.size, model.size)
    return predict(model, small, torch.tensor([T]), noise)


# What is measured


def test_every_layer_timestep_direction_and_head_is_there(table: pd.DataFrame, views: Views, layers: list[Layer]):
    assert list(table.columns) == list(SCORE_COLUMNS)
    native = table[table["protocol"] == ATTENTION.name]
    one = native[native["metric"] == ATTENTION.select_by]
    assert len(layers) == 11
    for layer in layers:
        rows = one[one["layer"] == layer.index]
        assert set(rows["layer_name"]) == {layer.name}
        assert set(rows["grid"]) == {f"{layer.grid[0]}x{layer.grid[1]}"}
        found = {tuple(r) for r in rows[["timestep", "query_view", "key_view", "head"]].to_numpy().tolist()}
        pairs = scene_pairs(views)
        expected = {
            (t, query, key, head)
            for t in (100, T)
            for query, key in zip(pairs.query_view, pairs.key_view, strict=True)
            for head in range(-1, layer.heads)
        }
        assert found == expected
        assert len(rows) == len(expected)
    assert set(table["direction"]) == {"ref-tgt", "tgt-ref", "tgt-tgt"}
    assert (set(table["model"]), set(table["step"]), set(table["scene"])) == ({"toy"}, {40}, set(views.names))
    shared = table[table["protocol"] == ATTENTION.name + COMMON_GRID]
    assert set(shared["grid"]) == {"8x8"}
    assert len(shared) == 11 * 2 * 6 * len(LIMITS)


def test_counts_are_those_of_the_truth(table: pd.DataFrame, truths: dict):
    rows = table[(table["protocol"] == ATTENTION.name) & (table["metric"] == "precision@5%")]
    for grid, truth in truths.items():
        own = rows[rows["grid"] == f"{grid[0]}x{grid[1]}"]
        expected = [int(truth.visible[0, q, :, k].sum()) for q, k in own[["query_view", "key_view"]].to_numpy()]
        assert own["count"].tolist() == expected
    assert (rows["value"].isna() == (rows["count"] == 0)).all()


def test_a_row_is_that_of_the_attention_itself(
    table: pd.DataFrame, model: MultiViewModel, views: Views, layers: list[Layer], truths: dict, noise: Tensor
):
    """One layer's cross-entropy and its first head's mass, worked out from the recorded queries and keys."""
    layer = layers[3]
    with AttentionTap(model.network, [layer], keep="detached") as tap:
        run(model, views, noise)
    call = tap[layer]
    truth = truths[layer.grid]
    found = attention_matches(call.q, call.k, call.scale, layer.layout(3), truth.token)
    seen = truth.visible[0, 2, :, 0]
    rows = table[(table["layer"] == layer.index) & (table["timestep"] == T) & (table["protocol"] == ATTENTION.name)]
    rows = rows[(rows["query_view"] == 2) & (rows["key_view"] == 0)].set_index(["metric", "head"])["value"]
    assert rows["cross_entropy", -1] == pytest.approx(found.cross_entropy[0, 0, 2, :, 0][seen].mean().item(), rel=1e-4)
    assert rows["mass_key_view", 0] == pytest.approx(found.mass_key_view[0, 1, 2, :, 0][seen].mean().item(), rel=1e-4)


@pytest.mark.parametrize("protocol", [RATIO])
def test_the_ratio_protocol_has_the_same_rows(
    protocol, model: MultiViewModel, views: Views, layers: list[Layer], truths: dict, noise: Tensor
):
    table = measure_layers(model, views, layers[:2], truths, (T,), protocol, LIMITS, noise)
    assert set(table["protocol"]) == {"ratio-v1"}
    assert set(table["head"]) == {-1}
    assert len(table) == 2 * 6 * (len(LIMITS) * 6 + 1)
    kept = table[table["metric"] == "kept"].drop_duplicates(["grid", "query_view", "key_view"])
    assert set(kept["value"]) == {0.25}


def test_a_model_without_a_card_has_no_step(
    model: MultiViewModel, views: Views, layers: list[Layer], truths: dict, noise: Tensor
):
    bare = replace(model, card=None, name="bare")
    table = measure_layers(bare, views, layers[:1], truths, (T,), ATTENTION, LIMITS, noise)
    assert set(table["step"]) == {-1}


# The model is left as it was


def test_the_output_is_the_same_bit_for_bit_while_measured(
    model: MultiViewModel, views: Views, layers: list[Layer], truths: dict, noise: Tensor
):
    seen: list[Tensor] = []
    plain = run(model, views, noise)
    weights = {name: value.clone() for name, value in model.network.state_dict().items()}
    with model.network.register_forward_hook(lambda _module, _args, output: seen.append(output.clone())):
        measure_layers(model, views, layers, truths, (T,), ATTENTION, LIMITS, noise)
    assert len(seen) == 1
    assert torch.equal(seen[0], plain)
    assert torch.equal(run(model, views, noise), plain)
    assert all(torch.equal(value, weights[name]) for name, value in model.network.state_dict().items())
    assert not model.network._forward_pre_hooks


def test_a_network_of_lower_precision_is_measured_in_it(
    model: MultiViewModel, views: Views, layers: list[Layer], truths: dict, noise: Tensor, table: pd.DataFrame
):
    network = load_unet(model.network.state_dict(), {**TINY, "sample_size": 16}).eval()
    half = replace(model, network=nn.Module.to(network, torch.bfloat16))
    found = measure_layers(half, views, layers[:3], truths, (T,), ATTENTION, LIMITS, noise)
    both = found.merge(table, on=[name for name in SCORE_COLUMNS if name not in ("value", "count")])
    mass = both[both["metric"] == "mass_key_view"]
    assert len(mass) == (found["metric"] == "mass_key_view").sum()
    assert (mass["value_x"] - mass["value_y"]).abs().max() < 0.02
    assert (mass["value_x"] != mass["value_y"]).any()


# Per-view and masked layers


def a_call(q: Tensor, k: Tensor, **changes: object) -> Call:
    plain = {"name": "a", "nth": 0, "step": 0, "q": q, "k": k, "v": k, "scale": 1.0, "mask": None, "causal": False,
             "gqa": False, "compute_dtype": q.dtype, "kernel": "sdpa"}  # fmt: skip
    return Call(**(plain | changes))


def test_views_of_a_per_view_layer_are_put_side_by_side():
    q, k = (torch.randn(6, 2, 4, 5, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    joined = views_joined(a_call(q, k), Layer(0, "a", (2, 2), 2, "view"), 3)
    for x, given in zip(joined, (q, k), strict=True):
        assert x.shape == (2, 2, 12, 5)
        assert torch.equal(x[1, :, 4:8], given[4])  # scene 1, view 1
        assert torch.equal(x[0, :, 8:], given[2])
    assert views_joined(a_call(q, k), Layer(0, "a", (2, 2), 2, "3d"), 3)[0].shape == q.shape


def test_shared_key_heads_are_repeated_and_precision_is_the_kernels():
    q, k = torch.randn(1, 4, 6, 5), torch.randn(1, 2, 6, 5)
    call = a_call(q, k, gqa=True, compute_dtype=torch.bfloat16)
    found = views_joined(call, Layer(0, "a", (2, 3), 4, "3d"), 1)
    assert torch.equal(found[0], q.bfloat16().float())
    assert torch.equal(found[1], k.bfloat16().float().repeat_interleave(2, dim=1))


@pytest.mark.parametrize("changes", [{"causal": True}, {"mask": torch.zeros(4, 4)}])
def test_a_masked_layer_is_refused(changes: dict[str, object]):
    x = torch.zeros(1, 1, 4, 2)
    with pytest.raises(ValueError, match="layer 'blocks' masks its attention"):
        views_joined(a_call(x, x, **changes), Layer(0, "blocks", (2, 2), 1, "3d"), 1)


def test_per_view_layers_can_be_measured_too(model: MultiViewModel, views: Views, noise: Tensor):
    layers = select_layers(find_layers(model.network), "0,2")
    assert [layer.kind for layer in layers] == ["view", "3d"]
    truths = truths_of(views, layers)
    table = measure_layers(model, views, layers, truths, (T,), ATTENTION, LIMITS, noise)
    assert table.groupby("layer")["value"].count().gt(0).all()
    assert set(table[table["layer"] == 0]["grid"]) == {"16x16"}


# Nulls, references, baselines


def test_cameras_only_ignores_images(
    model: MultiViewModel, views: Views, layers: list[Layer], truths: dict, noise: Tensor
):
    def score(shown: Views, *, blank: bool) -> pd.DataFrame:
        given = cameras_only(model, shown, "toy: cameras only") if blank else (model, shown)
        return measure_layers(*given, layers[-1:], truths, (T,), ATTENTION, LIMITS, noise)

    other = replace(views, image=views.image.flip(1).sqrt())
    blank = score(views, blank=True)
    assert set(blank["model"]) == {"toy: cameras only"}
    pd.testing.assert_frame_equal(score(other, blank=True), blank)
    turned = replace(views, world_to_cam=views.world_to_cam.flip(1))
    assert (score(turned, blank=True)["value"].dropna() != blank["value"].dropna()).any()  # cameras matter
    assert (score(other, blank=False)["value"].dropna() != score(views, blank=False)["value"].dropna()).any()


def test_references_stand_on_every_grid(views: Views, truths: dict):
    table = measure_references(views, truths, ATTENTION, LIMITS)
    assert set(table["grid"]) == {"8x8", "4x4", "2x2"}
    assert table.groupby(["model", "grid"], observed=True).size().loc["ceiling"].tolist() == [6 * len(LIMITS)] * 3


@pytest.mark.parametrize("name", ["dsift", "pixels", "epipolar"])
@pytest.mark.parametrize("protocol", [ATTENTION, RATIO], ids=lambda p: p.name)
def test_a_matcher_looks_once_and_is_scored_on_every_grid(name: str, protocol, views: Views, truths: dict):
    looks = []

    def looking(seen: Views):
        looks.append(seen)
        return open_matchers((name,), torch.device("cpu"))[name](seen)

    table = measure_matcher(name, looking, views, truths, protocol, LIMITS)
    assert len(looks) == 1
    assert set(table["model"]) == {name}
    assert set(table["grid"]) == {"8x8", "4x4", "2x2"}
    assert set(table["layer"]) == {-1}
    assert set(table["protocol"]) == {protocol.name}
    assert table["value"].between(0, 1).all()


# Examples for the pictures


def test_example_matches_agree_with_the_scores(
    table: pd.DataFrame, model: MultiViewModel, views: Views, layers: list[Layer], truths: dict, noise: Tensor
):
    found = example_matches(model, views, layers, truths, T, ATTENTION, noise)
    assert set(found["layer"]) == {layer.index for layer in layers}
    assert (set(found["query_view"]), set(found["key_view"]), set(found["n_ref"])) == ({2}, {0}, {1})
    right = (found["match_x"] - found["true_x"]) ** 2 + (found["match_y"] - found["true_y"]) ** 2 < 0.1**2
    precision = right[found["visible"]].groupby(found["layer"]).mean()
    rows = table[(table["protocol"] == ATTENTION.name) & (table["timestep"] == T) & (table["head"] == -1)]
    rows = rows[(rows["query_view"] == 2) & (rows["key_view"] == 0) & (rows["metric"] == "precision@10%")]
    assert precision.tolist() == pytest.approx(rows.set_index("layer")["value"].loc[precision.index].tolist())
    assert (found["true_x"].notna() == found["visible"]).all()
    for layer in layers:
        own = found[found["layer"] == layer.index]
        h, w = layer.grid
        assert len(own) == h * w
        assert own["query_x"].iloc[1] == pytest.approx(1.5 / w)
        assert own["query_y"].iloc[w] == pytest.approx(1.5 / h)


def test_example_matches_of_the_ratio_protocol_are_nearest_neighbours(
    model: MultiViewModel, views: Views, layers: list[Layer], truths: dict, noise: Tensor
):
    layer = layers[0]
    found = example_matches(model, views, [layer], truths, T, RATIO, noise)
    with AttentionTap(model.network, [layer], keep="detached") as tap:
        run(model, views, noise)
    q, k = (rearrange(x, "1 heads (f n) d -> f n (heads d)", f=3) for x in (tap[layer].q, tap[layer].k))
    token = torch.cdist(q[2], k[0]).argmin(-1)
    w = layer.grid[1]
    assert found["match_x"].tolist() == pytest.approx(((token % w + 0.5) / w).tolist())
    assert found["match_y"].tolist() == pytest.approx(((token // w + 0.5) / layer.grid[0]).tolist())


def test_scene_pairs_have_the_angles_of_the_cameras(views: Views):
    pairs: ScenePairs = scene_pairs(views)
    assert all(
        0 < angle < 30 for angle, pair in zip(pairs.rotation_deg, pairs.pair, strict=True) if not pair.endswith("1-2")
    )
    assert not any(math.isnan(angle) for angle in pairs.rotation_deg)
