"""What must score worse than the truth: how it is made, and the law on views where SIFT works."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from textured_corner import corner_views

from probe.correspondence import project_tokens
from probe.records.names import (
    ALL_REFERENCES,
    BLURRED,
    CAMERA_WITHIN,
    COPY,
    CORRUPTIONS,
    GEOMETRY_METHODS,
    GEOMETRY_SCORES,
    MATCH_ERROR,
    MODEL,
    NOISE,
    OTHER_SCENE,
    PAIR_METRICS,
    REGISTERED,
    REPROJECTION,
    SED,
    SIFT_MATCHES,
    TRUTH,
    TSED_METRICS,
)
from train.quality.corruptions import blur, corrupt, geometry_rows
from train.quality.images import Quality, Seen, measure_images

SIZE = 64


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def measured(seed: int, n_ref: int = 1, *, depth: bool = True) -> Quality:
    """The truth, measured as if it had been generated."""
    views = corner_views(seed, SIZE, n_ref)
    seen = Seen(project_tokens(views, (16, 16)), views.size) if depth else None
    return measure_images(views, views.image, seen=seen)


@cache
def rows(n_ref: int = 1) -> pd.DataFrame:
    return geometry_rows(measured(0, n_ref), corner_views(9, 48).image, seeded())


def values(method: str, metric: str, n_ref: int = 1) -> np.ndarray:
    table = rows(n_ref)
    return table[(table["method"] == method) & (table["metric"] == metric)]["value"].to_numpy()


# --- how they are made -----------------------------------------------------------------------------------------------


def test_corruptions_are_what_they_are_called():
    views, other = corner_views(0, SIZE), corner_views(9, 48)
    images = corrupt(views, other.image[:, :2], seeded())
    truth = views.image[:, 1:]
    assert all(image.shape == truth.shape for image in images.values())
    assert set(images) | {COPY} == set(CORRUPTIONS)
    assert images[NOISE].std() == pytest.approx(12**-0.5, abs=0.01)
    same = corrupt(views, None, seeded())
    assert OTHER_SCENE not in same
    assert torch.equal(same[NOISE], images[NOISE])
    small = torch.nn.functional.interpolate(other.image[0, [1, 0]], (SIZE, SIZE), mode="bilinear", antialias=True)
    torch.testing.assert_close(images[OTHER_SCENE][0], small.clamp(0, 1))  # in turn: view 1, then view 0 again


def test_a_blur_keeps_what_is_flat_and_the_mean():
    flat = torch.full((1, 2, 3, 20, 30), 0.3)
    torch.testing.assert_close(blur(flat), flat)
    point = torch.zeros(1, 1, 3, 101, 101)
    point[..., 50, 50] = 1
    spread = blur(point)[0, 0, 0]
    place = torch.arange(101) - 50.0
    assert spread.sum() == pytest.approx(1, abs=1e-3)
    assert float((spread.sum(0) * place.square()).sum()) ** 0.5 == pytest.approx(0.02 * 101, rel=0.05)


def test_every_view_has_a_row_of_each_score_and_method():
    table = rows(2)
    assert list(dict.fromkeys(table["method"])) == list(GEOMETRY_METHODS)
    counted = table.groupby(["method", "metric"])["reference"].agg(list)
    for method in GEOMETRY_METHODS:
        for metric in (SIFT_MATCHES, *GEOMETRY_SCORES):
            assert counted[(method, metric)] == ([0, 1] if metric in PAIR_METRICS else [ALL_REFERENCES])
    assert (table[["view", "n_ref"]] == 2).all(axis=None)
    assert (table["scene"] == "corner-0").all()
    assert table["rotation_deg"].to_numpy() == pytest.approx(7.0, abs=1e-3)
    missing = table["value"].isna()
    assert missing.any()
    assert (table["count"] > 0).eq(~missing).all()  # missing is NaN with count 0


def test_the_score_of_equal_images_is_equal():
    table = rows()
    own, truth = (table[table["method"] == name]["value"].to_numpy() for name in (MODEL, TRUTH))
    np.testing.assert_array_equal(own, truth)


def test_without_depth_the_match_error_alone_is_missing():
    table = geometry_rows(measured(0, depth=False), None, seeded())
    assert table[table["metric"] == MATCH_ERROR]["value"].isna().all()
    assert table[(table["metric"] == SED) & (table["method"] == TRUTH)]["value"].notna().all()
    assert OTHER_SCENE not in set(table["method"])


# --- the law ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_ref", [1, 2])
def test_the_truth_scores_well_where_sift_works(n_ref: int):
    assert (values(TRUTH, SIFT_MATCHES, n_ref) > 100).all()
    assert (values(TRUTH, SED, n_ref) < 0.7).all()
    assert (values(TRUTH, REPROJECTION, n_ref) < 0.7).all()
    for metric in (*TSED_METRICS, REGISTERED, CAMERA_WITHIN):
        assert (values(TRUTH, metric, n_ref) == 1).all()


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_the_camera_and_the_match_error_tell_every_corruption_from_the_truth(corruption: str):
    assert (values(corruption, CAMERA_WITHIN) == 0).all()
    assert (values(corruption, MATCH_ERROR) > 1.5 * values(TRUTH, MATCH_ERROR)).all()


def test_epipolar_distance_alone_does_not():
    """Cameras on a circle about what they look at: a copy lies near the lines, and little is left of a blurred view."""
    assert (values(COPY, TSED_METRICS[1]) == 1).all()
    assert (values(BLURRED, TSED_METRICS[1]) == 1).all()
    for corruption in (NOISE, OTHER_SCENE):
        assert (values(corruption, TSED_METRICS[1]) == 0).all()
