"""Matchers other than the model: they look once, and are scored like a layer."""

import pytest
import torch
from scenes import room_scene, truth_of

from probe.baselines import open_matchers
from probe.measure.matcher import descriptor_scores, measure_matcher
from probe.metrics import precisions, same_position, thresholds
from probe.protocols import PROTOCOLS, Protocol
from probe.views import Views

LIMITS = thresholds(None)


@pytest.mark.parametrize("name", ["attention-v1", "ratio-v1"])
def test_descriptors_are_scored_like_a_layer(name: str):
    truth = truth_of(0, (8, 8))
    counted = PROTOCOLS[name].evaluated(truth)
    x = torch.randn(1, 3, 64, 16, generator=torch.Generator().manual_seed(0))
    x[:, 1] = x[:, 0]  # the second view's tokens look like those at the same place of the first
    measured = descriptor_scores(x, truth, LIMITS, PROTOCOLS[name])
    place = precisions(same_position(truth), counted, truth, LIMITS)
    if name == "attention-v1":
        assert measured["precision@5%"][0][0, 0, 0, 1] == place["precision@5%"][0][0, 0, 0, 1]
    else:
        full = measured["precision@5%|coverage=1.0"]
        assert full[0][0, 0, 1, 0] == pytest.approx(place["precision@5%"][0][0, 0, 1, 0].item())


@pytest.mark.parametrize("name", ["dsift", "pixels", "epipolar"])
@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=lambda p: p.name)
def test_a_matcher_looks_once_and_is_scored_on_every_grid(name: str, protocol: Protocol):
    looks = []

    def looking(seen: Views):
        looks.append(seen)
        return open_matchers((name,), torch.device("cpu"))[name](seen)

    table = measure_matcher(name, looking, room_scene(0, (8, 8), (4, 4), (2, 2)), protocol)
    assert len(looks) == 1
    assert set(table["model"]) == {name}
    assert set(table["grid"]) == {"8x8", "4x4", "2x2"}
    assert set(table["layer"]) == {-1}
    assert set(table["protocol"]) == {protocol.name}
    assert table[table["count"] > 0]["value"].between(0, 1).all()
    assert table["value"].isna().equals(table["count"] == 0)
    assert table["count"].sum() > 0
