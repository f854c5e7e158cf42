"""The report on a source of ground-truth points: its numbers by hand, and what is missing."""

import math
from dataclasses import replace

import pytest
import torch

from probe.correspondence import TokenMatches, match_tokens
from probe.correspondence.noise import read_noise
from probe.correspondence.quality import (
    AS_TRACKS,
    depth_quality,
    disturbing,
    kept_megabytes,
    quality,
    scene_rows,
)
from probe.correspondence.sources import open_source
from probe.geometry import depth_to_point_map, point_map_to_depth
from probe.metrics import grid_truth
from probe.scenes import Request, open_scenes
from probe.views import Views

GRID = (8, 8)


@pytest.fixture(scope="module")
def views() -> Views:
    return open_scenes("shapes", Request(groups=1, views=3, n_ref=1, size=32)).load(0)[0]


def deeper(views: Views, factor: float) -> Views:
    depth = factor * point_map_to_depth(views.point_map, views.world_to_cam)
    return replace(views, point_map=depth_to_point_map(depth, views.intrinsics, views.world_to_cam))


def test_perfect_matches_of_perfect_geometry_are_all_right_and_all_found(views: Views):
    truth = grid_truth(views, GRID)
    matches = TokenMatches(index=truth.token.clamp(min=0), counted=truth.visible)
    found = quality(views, views, matches, GRID)
    assert (found["pixels"], found["tokens"], found["right"], found["found"]) == (1, 1, 1, 1)
    assert (found["depth_error"], found["near"], found["scale"]) == (0, 1, 1)
    asked = 3 * 2 * 64
    assert found["cycle"] == pytest.approx(int(truth.visible.sum()) / asked)


def test_a_matchs_worth_is_the_slow_count(views: Views):
    """Every other token is led astray, to a corner; hidden points are counted as wrong."""
    truth = grid_truth(views, GRID)
    matches = match_tokens(views.point_map, views.valid, GRID)
    index = matches.index.clone()
    index[:, :, ::2] = 0
    found = quality(views, views, replace(matches, index=index), GRID)
    right, counted, visible = 0, 0, 0
    for q, n, k in matches.counted[0].nonzero().tolist():
        counted += 1
        if truth.visible[0, q, n, k]:
            right += int((truth.centres[index[0, q, n, k]] - truth.xy[0, q, n, k]).norm() < 4)
    visible = int(truth.visible.sum())
    assert 0 < right < counted
    assert found["right"] == pytest.approx(right / counted)
    assert found["found"] == pytest.approx(right / visible)


def test_depth_is_compared_where_both_have_it(views: Views):
    given = deeper(views, 2.0)
    found = depth_quality(views, given)
    assert found["depth_error"] == pytest.approx(1.0, rel=1e-4)
    assert found["near"] == 0
    assert found["scale"] == pytest.approx(0.5, rel=1e-4)
    half = views.valid.clone()
    half[..., :16, :] = False
    mixed = replace(views, point_map=torch.where(half[:, :, None], views.point_map, given.point_map), valid=half)
    assert depth_quality(views, mixed)["depth_error"] == pytest.approx(0, abs=1e-5)
    assert depth_quality(views, mixed)["near"] == 1  # what the source does not know is not compared
    assert quality(views, mixed, match_tokens(mixed.point_map, mixed.valid, GRID), GRID)["pixels"] == 0.5
    assert depth_quality(views, deeper(views, 1.02))["near"] == 1
    assert depth_quality(views, deeper(views, 1.04))["near"] == 0


def test_a_scene_without_depth_has_nothing_to_compare_with(views: Views):
    lacking = replace(views, valid=torch.zeros_like(views.valid))
    found = quality(lacking, views, match_tokens(views.point_map, views.valid, GRID), GRID)
    assert all(math.isnan(found[name]) for name in ("right", "found", "depth_error", "near", "scale"))
    assert found["pixels"] == 1
    assert 0.3 < found["cycle"] < 1


def test_a_source_without_points_is_counted_as_such(views: Views):
    lacking = replace(views, valid=torch.zeros_like(views.valid))
    found = quality(views, lacking, match_tokens(lacking.point_map, lacking.valid, GRID), GRID)
    assert (found["pixels"], found["tokens"], found["found"]) == (0, 0, 0)
    assert math.isnan(found["cycle"])


def test_what_is_kept_are_points_and_their_validity(views: Views):
    assert kept_megabytes(views) == pytest.approx(1000 * 3 * 32 * 32 * (3 * 4 + 1) / 1e6)


def test_noise_leaves_out_what_has_no_points(views: Views):
    sources = {name: open_source(name, torch.device("cpu")) for name in ("depth", "tracks")}
    plain = scene_rows(views, sources, GRID, lambda given: given)
    assert [row["source"] for row in plain] == ["depth", "tracks", AS_TRACKS]
    noisy = scene_rows(views, sources, GRID, lambda given: replace(deeper(given, 2.0)))
    assert [row["source"] for row in noisy] == ["depth", "tracks"]
    assert noisy[0]["depth_error"] == pytest.approx(1.0, rel=1e-4)


def test_the_same_noise_is_drawn_for_a_scene_again(views: Views):
    noise = read_noise("depth:.1")
    first, again = (disturbing(noise, 3)(views).point_map for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, disturbing(noise, 4)(views).point_map)
    assert disturbing(None, 3)(views) is views
