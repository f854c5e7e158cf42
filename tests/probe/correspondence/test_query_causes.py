"""Laws of why a key view shows a query's point or does not."""

from dataclasses import replace

import pytest
import torch
from scenes import room

from probe.correspondence import own_view, project_tokens, query_causes
from probe.geometry import depth_to_point_map
from probe.records.names import CAUSES, OCCLUDED, OUT_OF_FRAME, UNKNOWN, VISIBLE
from probe.views import Views

GRID = (8, 8)
NEAR = (slice(None), slice(3, 5))  # the columns that a near board covers in the key view


def wall_and_board(shift: float = 0.0, board: float = 2.0, wall: float = 4.0) -> Views:
    """A bare wall seen by view 0; view 1, moved to the right, has a board in front of it."""
    depth = torch.full((1, 2, 8, 8), wall)
    depth[0, 1][NEAR] = board
    intrinsics = torch.tensor([[4.0, 0, 4], [0, 4, 4], [0, 0, 1]]).expand(1, 2, 3, 3)
    world_to_cam = torch.eye(4).repeat(1, 2, 1, 1)
    world_to_cam[0, 1, 0, 3] = -shift
    point_map = depth_to_point_map(depth, intrinsics, world_to_cam)
    valid = torch.ones(1, 2, 8, 8, dtype=torch.bool)
    return Views(torch.zeros(1, 2, 3, 8, 8), intrinsics, world_to_cam, point_map, valid, n_ref=1)


def maps(views: Views) -> dict[str, torch.Tensor]:
    """Of the tokens of view 0 in view 1, as 8 x 8 pictures."""
    return {cause: part[0, 0, :, 1].reshape(8, 8) for cause, part in query_causes(views, GRID).items()}


def only(columns: slice) -> torch.Tensor:
    picture = torch.zeros(8, 8, dtype=torch.bool)
    picture[:, columns] = True
    return picture


def test_what_a_board_covers_is_occluded():
    found = maps(wall_and_board())
    assert torch.equal(found[OCCLUDED], only(slice(3, 5)))
    assert torch.equal(found[VISIBLE], ~only(slice(3, 5)))
    assert not found[OUT_OF_FRAME].any()


def test_what_moves_off_the_image_is_out_of_frame():
    """One unit to the right at depth 4 with focal length 4: one pixel to the left, so column 0 leaves."""
    found = maps(wall_and_board(shift=1.0))
    assert torch.equal(found[OUT_OF_FRAME], only(slice(0, 1)))
    assert torch.equal(found[OCCLUDED], only(slice(4, 6)))


def test_what_is_behind_the_camera_is_out_of_frame():
    views = wall_and_board()
    turned = views.world_to_cam.clone()
    turned[0, 1] = torch.diag(torch.tensor([-1.0, 1, -1, 1]))
    behind = replace(views, world_to_cam=turned, point_map=depth_of(views, turned))
    assert maps(behind)[OUT_OF_FRAME].all()


def depth_of(views: Views, world_to_cam: torch.Tensor) -> torch.Tensor:
    return depth_to_point_map(torch.full((1, 2, 8, 8), 4.0), views.intrinsics, world_to_cam)


@pytest.mark.parametrize(
    ("view", "what"), [(0, "the query's point is missing"), (1, "the key view's depth is missing")]
)
def test_what_nothing_tells_of_is_unknown(view: int, what: str):
    views = wall_and_board()
    valid = views.valid.clone()
    valid[0, view, :, 0] = False
    assert torch.equal(maps(replace(views, valid=valid))[UNKNOWN], only(slice(0, 1))), what


def test_a_surface_behind_the_point_does_not_occlude_it():
    found = maps(wall_and_board(board=6.0))
    assert torch.equal(found[UNKNOWN], only(slice(3, 5)))
    assert not found[OCCLUDED].any()


@pytest.mark.parametrize("index", range(4))
def test_every_query_has_exactly_one_cause_in_every_other_view(index: int):
    views = room(index)
    found, seen = query_causes(views, GRID), project_tokens(views, GRID)
    assert tuple(found) == CAUSES
    own = own_view(views.count)
    count = torch.stack(list(found.values())).sum(0)
    assert torch.equal(count, (~own).expand_as(count).long())
    assert torch.equal(found[VISIBLE], seen.visible & ~own)
    assert not (found[OCCLUDED] | found[OUT_OF_FRAME])[~seen.valid].any()
    assert all(found[cause].any() for cause in (VISIBLE, OCCLUDED, OUT_OF_FRAME))
