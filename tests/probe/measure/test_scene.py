"""A scene as it is measured on: its truths, its ordered pairs of views, and the frozen list of pairs."""

import math
from dataclasses import replace

import pytest
import torch
from scenes import layer_on, room, room_scene

from probe.layers import Layer
from probe.measure.scene import direction, make_scene, pair_table, scene_pairs
from probe.metrics import thresholds
from probe.scenes import Request, open_scenes
from probe.views import TENSORS, Views

NOISE = torch.zeros(1, 3, 1, 1, 1)


@pytest.fixture(scope="module")
def views() -> Views:
    return open_scenes("shapes", Request(groups=1, views=3, n_ref=1, size=32)).load(0)[0]


# What is true of it


def test_a_scene_has_the_truth_on_every_grid_of_the_layers():
    layers = [layer_on((8, 8)), Layer(None, "text", None, 1, "cross"), layer_on((6, 10)), layer_on((8, 8), heads=4)]
    scene = make_scene(room(0), layers, NOISE)
    assert list(scene.truths) == [(6, 10), (8, 8)]
    assert all(truth.grid == grid for grid, truth in scene.truths.items())
    assert scene.finest is scene.truths[8, 8]
    assert scene.name == room(0).names[0]
    assert scene.pairs == scene_pairs(room(0))
    assert scene.noise is NOISE


def test_thresholds_are_those_of_the_scenes_unit_unless_they_are_chosen():
    metric, chosen = replace(room(0), unit="m"), thresholds(None)[1:2]
    assert make_scene(room(0), [], NOISE).thresholds == thresholds(room(0).unit)
    assert make_scene(metric, [], NOISE).thresholds == thresholds("m")
    assert make_scene(metric, [], NOISE, chosen).thresholds == chosen


def test_a_grid_finer_than_the_image_is_refused():
    with pytest.raises(ValueError, match="choose a coarser grid or larger images"):
        make_scene(room(0), [layer_on((65, 65))], NOISE)


def test_one_view_is_refused_in_one_line():
    """There is no pair to measure; the explorer would divide by the number of other views."""
    tensors = {name: getattr(room(0), name)[:, :1] for name in TENSORS}
    with pytest.raises(ValueError, match=r"^make_scene: 1 view, expected at least 2: .*; load more views$"):
        make_scene(replace(room(0), **tensors), [layer_on((4, 4))], NOISE)


def test_a_scene_is_the_same_twice():
    first, again = (make_scene(room(1), [layer_on((4, 4))], NOISE) for _ in range(2))
    assert first.pairs == again.pairs
    assert torch.equal(first.finest.token, again.finest.token)
    assert torch.equal(first.finest.token, room_scene(1, (4, 4)).finest.token)


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


def test_scene_pairs_have_the_angles_of_the_cameras(views: Views):
    pairs = scene_pairs(views)
    assert all(
        0 < angle < 30 for angle, pair in zip(pairs.rotation_deg, pairs.pair, strict=True) if not pair.endswith("1-2")
    )
    assert not any(math.isnan(angle) for angle in pairs.rotation_deg)
