"""Lines of the picture of scenes: they join one surface point, or follow the epipolar line."""

import torch
from small_world import make_world, recording_of

from probe.scenes.drawing import _epipolar_lines, _matches
from probe.scenes.recordings import load_views

WORLD = make_world(10, roll=12.0)


def test_matches_join_pixels_of_one_surface_point():
    views = load_views(recording_of(WORLD), [0, 1], size=36, n_ref=1)
    joined = list(_matches(views, 1, 8))
    assert len(joined) == 8
    ends = [
        [views.point_map[0, view, :, int(xy[0, 1]), int(xy[0, 0])] for view, xy in ((0, start), (1, end))]
        for start, end in joined
    ]
    apart = torch.stack([torch.linalg.vector_norm(first - second) for first, second in ends])
    assert apart.median() < 0.1  # a pixel sees some 0.1 of a room that is 6 wide
    assert apart.max() < 0.5


def test_epipolar_lines_pass_through_the_true_match():
    views = load_views(recording_of(WORLD), [0, 1], size=36, n_ref=1)
    lines = list(_epipolar_lines(views, 1, 8))
    assert len(lines) > 3
    for start, line in lines:
        point = views.point_map[0, 0, :, int(start[0, 1]), int(start[0, 0])]
        local = views.world_to_cam[0, 1, :3, :3] @ point + views.world_to_cam[0, 1, :3, 3]
        xy = (views.intrinsics[0, 1] @ local)[:2] / local[2]
        if ((xy >= 1) & (xy < 35)).all():
            assert torch.linalg.vector_norm(line - xy, dim=-1).min() < 1.5
