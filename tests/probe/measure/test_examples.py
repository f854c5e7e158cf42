"""Matches for the pictures are those of the scores."""

import pandas as pd
import pytest
import torch
from einops import rearrange
from scenes import small_random_model, small_scene

from probe.capture import AttentionTap
from probe.layers import Layer, find_layers, select_layers
from probe.measure.examples import example_matches
from probe.measure.model import measure_layers
from probe.measure.scene import Scene
from probe.models.model import MultiViewModel, predict
from probe.protocols import PROTOCOLS
from probe.views import resize

ATTENTION, RATIO = PROTOCOLS["attention-v1"], PROTOCOLS["ratio-v1"]
T = 500


@pytest.fixture(scope="module")
def model() -> MultiViewModel:
    return small_random_model()


@pytest.fixture(scope="module")
def layers(model: MultiViewModel) -> list[Layer]:
    return select_layers(find_layers(model.network), "3d")


@pytest.fixture(scope="module")
def scene(layers: list[Layer]) -> Scene:
    return small_scene(layers)


@pytest.fixture(scope="module")
def table(model: MultiViewModel, scene: Scene, layers: list[Layer]) -> pd.DataFrame:
    return measure_layers(model, scene, layers, (T,), ATTENTION)


def test_example_matches_agree_with_the_scores(
    table: pd.DataFrame, model: MultiViewModel, scene: Scene, layers: list[Layer]
):
    found = example_matches(model, scene, layers, T, ATTENTION)
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
    model: MultiViewModel, scene: Scene, layers: list[Layer]
):
    layer = layers[0]
    found = example_matches(model, scene, [layer], T, RATIO)
    with AttentionTap(model.network, [layer], keep="detached") as tap:
        small = resize(scene.views, model.size, model.size)
        predict(model, small, torch.tensor([T]), scene.noise)
    q, k = (rearrange(x, "1 heads (f n) d -> f n (heads d)", f=3) for x in (tap[layer].q, tap[layer].k))
    token = torch.cdist(q[2], k[0]).argmin(-1)
    w = layer.grid[1]
    assert found["match_x"].tolist() == pytest.approx(((token % w + 0.5) / w).tolist())
    assert found["match_y"].tolist() == pytest.approx(((token // w + 0.5) / layer.grid[0]).tolist())
