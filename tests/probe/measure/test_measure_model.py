"""Measuring a small random model: every layer, timestep and direction is there, and the model is left as it was."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
from scenes import small_random_model, small_scene
from torch import Tensor, nn

from probe.attention.call import Call
from probe.attention.masks import HIDDEN
from probe.capture import AttentionTap
from probe.layers import Layer, find_layers, select_layers
from probe.matching import attention_matches, ratio_matches
from probe.measure.model import (
    cameras_only,
    denoise,
    layer_call,
    measure_layers,
    scene_noise,
    timestep_indexes,
    training_steps,
)
from probe.measure.scene import LayerCall, Scene, scene_pairs
from probe.metrics import correct, same_position, uniform_chance
from probe.models.cat3d import TINY, load_unet
from probe.models.model import MultiViewModel, predict
from probe.protocols import PROTOCOLS, RATIO_V1
from probe.records import COMMON_GRID, SAME_POSITION, SCORE_COLUMNS, UNIFORM
from probe.views import resize

ATTENTION, RATIO = PROTOCOLS["attention-v1"], PROTOCOLS["ratio-v1"]
T = 500


@pytest.fixture(scope="module")
def model() -> MultiViewModel:
    return small_random_model(steps=40)


@pytest.fixture(scope="module")
def layers(model: MultiViewModel) -> list[Layer]:
    return select_layers(find_layers(model.network), "3d")


@pytest.fixture(scope="module")
def scene(layers: list[Layer]) -> Scene:
    return small_scene(layers)


@pytest.fixture(scope="module")
def table(model: MultiViewModel, scene: Scene, layers: list[Layer]) -> pd.DataFrame:
    return measure_layers(model, scene, layers, (100, T), ATTENTION)


def run(model: MultiViewModel, scene: Scene) -> Tensor:
    small = resize(scene.views, model.size, model.size)
    return predict(model, small, torch.tensor([T]), scene.noise)


# What is measured


def test_every_layer_timestep_direction_and_head_is_there(table: pd.DataFrame, scene: Scene, layers: list[Layer]):
    assert list(table.columns) == list(SCORE_COLUMNS)
    native = table[table["protocol"] == ATTENTION.name]
    one = native[native["metric"] == ATTENTION.select_by]
    assert len(layers) == 11
    for layer in layers:
        rows = one[one["layer"] == layer.index]
        assert set(rows["layer_name"]) == {layer.name}
        assert set(rows["grid"]) == {f"{layer.grid[0]}x{layer.grid[1]}"}
        found = {tuple(r) for r in rows[["timestep", "query_view", "key_view", "head"]].to_numpy().tolist()}
        pairs = scene_pairs(scene.views)
        expected = {
            (t, query, key, head)
            for t in (100, T)
            for query, key in zip(pairs.query_view, pairs.key_view, strict=True)
            for head in range(-1, layer.heads)
        }
        assert found == expected
        assert len(rows) == len(expected)
    assert set(table["direction"]) == {"ref-tgt", "tgt-ref", "tgt-tgt"}
    assert (set(table["model"]), set(table["step"]), set(table["scene"])) == ({"toy"}, {40}, {scene.name})
    shared = table[table["protocol"] == ATTENTION.name + COMMON_GRID]
    assert set(shared["grid"]) == {"8x8"}
    assert len(shared) == 11 * 2 * 6 * len(scene.thresholds)


def test_counts_are_those_of_the_truth(table: pd.DataFrame, scene: Scene):
    rows = table[(table["protocol"] == ATTENTION.name) & (table["metric"] == "precision@5%")]
    for grid, truth in scene.truths.items():
        own = rows[rows["grid"] == f"{grid[0]}x{grid[1]}"]
        expected = [int(truth.visible[0, q, :, k].sum()) for q, k in own[["query_view", "key_view"]].to_numpy()]
        assert own["count"].tolist() == expected
    assert (rows["value"].isna() == (rows["count"] == 0)).all()


def test_a_row_is_that_of_the_attention_itself(
    table: pd.DataFrame, model: MultiViewModel, scene: Scene, layers: list[Layer]
):
    """One layer's cross-entropy and its first head's mass, worked out from the recorded queries and keys."""
    layer = layers[3]
    with AttentionTap(model.network, [layer], keep="detached") as tap:
        run(model, scene)
    call = tap[layer]
    truth = scene.truths[layer.grid]
    found = attention_matches(call.q, call.k, call.scale, layer.layout(3), truth.token)
    seen = truth.visible[0, 2, :, 0]
    rows = table[(table["layer"] == layer.index) & (table["timestep"] == T) & (table["protocol"] == ATTENTION.name)]
    rows = rows[(rows["query_view"] == 2) & (rows["key_view"] == 0)].set_index(["metric", "head"])["value"]
    assert rows["cross_entropy", -1] == pytest.approx(found.cross_entropy[0, 0, 2, :, 0][seen].mean().item(), rel=1e-4)
    assert rows["mass_key_view", 0] == pytest.approx(found.mass_key_view[0, 1, 2, :, 0][seen].mean().item(), rel=1e-4)


def test_the_ratio_protocol_has_the_same_rows(model: MultiViewModel, scene: Scene, layers: list[Layer]):
    table = measure_layers(model, scene, layers[:2], (T,), RATIO)
    assert set(table["protocol"]) == {"ratio-v1"}
    assert set(table["head"]) == {-1}
    table = table[table["model"] == model.name]
    assert len(table) == 2 * 6 * (len(scene.thresholds) * 6 + 1)
    kept = table[table["metric"] == "kept"].drop_duplicates(["grid", "query_view", "key_view"])
    assert set(kept["value"]) == {0.25}


@pytest.mark.parametrize("name", [name for name in PROTOCOLS if name != "attention-v1"])
def test_guesses_stand_beside_each_layer_on_the_very_queries_that_it_counts(
    name: str, model: MultiViewModel, scene: Scene, layers: list[Layer]
):
    table = measure_layers(model, scene, layers[:3], (T, 900), PROTOCOLS[name])
    keys = ["step", "layer", "grid", "timestep", "query_view", "key_view", "metric"]
    assert set(table["model"]) == {model.name, UNIFORM, SAME_POSITION}
    own, *guesses = (
        table[table["model"] == who].set_index(keys)["count"] for who in (model.name, UNIFORM, SAME_POSITION)
    )
    own = own[own.index.get_level_values("metric") != "kept"]
    assert own.sum() > 0
    for guess in guesses:
        assert guess.index.is_unique
        assert guess.reindex(own.index).equals(own)
        assert len(guess) == len(own)
    null = measure_layers(replace(model, name="toy: cameras only"), scene, layers[:1], (T,), PROTOCOLS[name])
    assert set(null["model"]) == {"toy: cameras only"}


def test_the_same_position_is_scored_where_the_layer_chose(model: MultiViewModel, scene: Scene, layers: list[Layer]):
    """By a slow loop over the kept queries of one pair."""
    layer, calls = layers[0], []
    denoise(model, scene, [layer], T, calls.append)
    truth, limit = scene.truths[layer.grid], scene.thresholds[2]
    kept = RATIO_V1.kept(ratio_matches(calls[0].q, calls[0].k, calls[0].layout), truth)[0, 2, :, 0]
    assert 0 < kept.sum() < kept.numel()
    right = correct(same_position(truth), truth, limit)[0, 0, 2, :, 0]
    chance = uniform_chance(truth, (limit,))[limit.name][0, 0, 2, :, 0]
    table = measure_layers(model, scene, [layer], (T,), RATIO)
    rows = table[(table["query_view"] == 2) & (table["key_view"] == 0) & (table["metric"] == limit.name)]
    value = rows.set_index("model")["value"]
    tokens = [n for n in range(len(kept)) if kept[n]]
    assert value[SAME_POSITION] == pytest.approx(sum(float(right[n]) for n in tokens) / len(tokens))
    assert value[UNIFORM] == pytest.approx(sum(float(chance[n]) for n in tokens) / len(tokens))


def test_a_model_without_a_card_has_no_step(model: MultiViewModel, scene: Scene, layers: list[Layer]):
    bare = replace(model, card=None, name="bare")
    table = measure_layers(bare, scene, layers[:1], (T,), ATTENTION)
    assert set(table["step"]) == {-1}


# The model is left as it was


def test_the_output_is_the_same_bit_for_bit_while_measured(model: MultiViewModel, scene: Scene, layers: list[Layer]):
    seen: list[Tensor] = []
    plain = run(model, scene)
    weights = {name: value.clone() for name, value in model.network.state_dict().items()}
    with model.network.register_forward_hook(lambda _module, _args, output: seen.append(output.clone())):
        measure_layers(model, scene, layers, (T,), ATTENTION)
    assert len(seen) == 1
    assert torch.equal(seen[0], plain)
    assert torch.equal(run(model, scene), plain)
    assert all(torch.equal(value, weights[name]) for name, value in model.network.state_dict().items())
    assert not model.network._forward_pre_hooks


def test_a_network_of_lower_precision_is_measured_in_it(
    model: MultiViewModel, scene: Scene, layers: list[Layer], table: pd.DataFrame
):
    network = load_unet(model.network.state_dict(), {**TINY, "sample_size": 16}).eval()
    half = replace(model, network=nn.Module.to(network, torch.bfloat16))
    found = measure_layers(half, scene, layers[:3], (T,), ATTENTION)
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


def joined(call: Call, layer: Layer, views: int, model: MultiViewModel) -> LayerCall:
    return layer_call(call, layer, views, model, T)


def test_views_of_a_per_view_layer_are_put_side_by_side(model: MultiViewModel):
    q, k = (torch.randn(3, 2, 4, 5, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    side_by_side = joined(a_call(q, k), Layer(0, "a", (2, 2), 2, "view"), 3, model)
    for x, views in zip((side_by_side.q, side_by_side.k), (q, k), strict=True):
        assert x.shape == (1, 2, 12, 5)
        assert torch.equal(x[0, :, 4:8], views[1])
        assert torch.equal(x[0, :, 8:], views[2])
    assert (side_by_side.layout.views, side_by_side.layout.grid) == (3, (2, 2))
    whole = torch.randn(1, 2, 12, 5)
    assert torch.equal(joined(a_call(whole, whole), Layer(0, "a", (2, 2), 2, "3d"), 3, model).q, whole)


def test_layers_that_drop_weights_are_not_scored(model: MultiViewModel):
    x = torch.zeros(1, 1, 4, 2)
    with pytest.raises(ValueError, match=r"'a' drops 10% of its weights at random in evaluation too.*dropout_p=0"):
        joined(a_call(x, x, dropout=0.1), Layer(0, "a", (2, 2), 1, "3d"), 1, model)


def test_shared_key_heads_are_repeated_and_precision_is_the_kernels(model: MultiViewModel):
    q, k = torch.randn(1, 4, 6, 5), torch.randn(1, 2, 6, 5)
    call = a_call(q, k, gqa=True, compute_dtype=torch.bfloat16)
    found = joined(call, Layer(0, "a", (2, 3), 4, "3d"), 1, model)
    assert torch.equal(found.q, q.bfloat16().float())
    assert torch.equal(found.k, k.bfloat16().float().repeat_interleave(2, dim=1))


def test_a_layers_call_tells_where_it_comes_from(model: MultiViewModel):
    x, layer = torch.zeros(1, 1, 4, 2), Layer(7, "blocks", (2, 2), 1, "3d")
    call = joined(a_call(x, x, scale=0.25), layer, 1, model)
    assert (call.layer, call.scale, call.model, call.step, call.timestep) == (layer, 0.25, "toy", 40, T)
    assert training_steps(replace(model, card=None)) == -1
    assert training_steps(replace(model, card={"about": {}})) == -1


@pytest.mark.parametrize("mask", [None, torch.zeros(4, 4), torch.ones(1, 1, 1, 4, dtype=torch.bool)])
def test_a_mask_that_hides_nothing_is_none(mask: Tensor | None, model: MultiViewModel):
    x = torch.zeros(1, 1, 4, 2)
    assert joined(a_call(x, x, mask=mask), Layer(0, "blocks", (2, 2), 1, "3d"), 1, model).bias is None


def test_masks_become_what_is_added_to_the_logits(model: MultiViewModel):
    x, layer = torch.zeros(1, 1, 4, 2), Layer(0, "blocks", (2, 2), 1, "3d")
    later = torch.ones(4, 4).triu(1).bool()
    causal = joined(a_call(x, x, causal=True), layer, 1, model).bias
    assert torch.equal(causal[0, 0] == HIDDEN, later)
    boolean = joined(a_call(x, x, mask=~later[None]), layer, 1, model).bias
    assert torch.equal(boolean, causal)
    added = torch.randn(1, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(joined(a_call(x, x, mask=added), layer, 1, model).bias[0, 0], added)
    for least in (-1e4, -65504.0, torch.tensor(-1e4).bfloat16().item()):  # as diffusers and half precision write it
        hidden = torch.zeros(4, 4).masked_fill(later, least)
        assert torch.equal(joined(a_call(x, x, mask=hidden), layer, 1, model).bias, causal)
    infinite = torch.zeros(4, 4).masked_fill(later, -torch.inf)
    assert torch.equal(joined(a_call(x, x, mask=infinite), layer, 1, model).bias, causal)


def test_masks_of_per_view_layers(model: MultiViewModel):
    x, layer = torch.zeros(2, 1, 4, 2), Layer(0, "blocks", (2, 2), 1, "view")
    keys = torch.tensor([[True, True, True, False], [True] * 4])[:, None, None]
    assert torch.equal(joined(a_call(x, x, mask=keys), layer, 2, model).bias[0, 0, 0] == 0, keys.flatten())
    with pytest.raises(ValueError, match="'blocks' works within a view and masks keys for each query"):
        joined(a_call(x, x, causal=True), layer, 2, model)


def test_per_view_layers_can_be_measured_too(model: MultiViewModel):
    layers = select_layers(find_layers(model.network), "0,2")
    assert [layer.kind for layer in layers] == ["view", "3d"]
    table = measure_layers(model, small_scene(layers), layers, (T,), ATTENTION)
    assert table.groupby("layer")["value"].count().gt(0).all()
    assert set(table[table["layer"] == 0]["grid"]) == {"16x16"}


# Nulls


def test_cameras_only_ignores_images(model: MultiViewModel, scene: Scene, layers: list[Layer]):
    def score(shown: Scene, *, blank: bool) -> pd.DataFrame:
        probed = cameras_only(model, shown, "toy: cameras only") if blank else (model, shown)
        return measure_layers(*probed, layers[-1:], (T,), ATTENTION)

    def changed(**changes: Tensor) -> Scene:
        return replace(scene, views=replace(scene.views, **changes))

    other = changed(image=scene.views.image.flip(1).sqrt())
    blank = score(scene, blank=True)
    assert set(blank["model"]) == {"toy: cameras only"}
    pd.testing.assert_frame_equal(score(other, blank=True), blank)
    turned = changed(world_to_cam=scene.views.world_to_cam.flip(1))
    assert (score(turned, blank=True)["value"].dropna() != blank["value"].dropna()).any()  # cameras matter
    assert (score(other, blank=False)["value"].dropna() != score(scene, blank=False)["value"].dropna()).any()


# From words


def test_timesteps_are_read_in_their_order():
    assert timestep_indexes("900,0, 999") == (900, 0, 999)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("100,soon", "^'100,soon': expected timestep indexes separated by commas, such as 100,500,900$"),
        ("", "^'': expected timestep indexes separated by commas"),
        ("1000", r"^'1000': expected different timesteps from 0 \(clean\) to 999 \(pure noise\)$"),
        ("-1", "^'-1': expected different timesteps"),
        ("5,5", "^'5,5': expected different timesteps"),
    ],
)
def test_wrong_timesteps_are_refused(text: str, said: str):
    with pytest.raises(ValueError, match=said):
        timestep_indexes(text)


def test_the_noise_of_a_scene_depends_on_seed_and_scene_alone(model: MultiViewModel, scene: Scene):
    first = scene_noise(model, scene.views, 3, 1)
    assert first.shape == (1, 3, 3, 16, 16)
    assert torch.equal(scene_noise(replace(model, name="other"), scene.views, 3, 1), first)
    assert not torch.equal(scene_noise(model, scene.views, 3, 2), first)
    assert not torch.equal(scene_noise(model, scene.views, 4, 1), first)
