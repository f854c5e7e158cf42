import math
from collections import Counter
from dataclasses import replace
from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

from probe.scenes.grouping import BINS, Pairs, compare_views, count_groups, draw_groups

SEEDS = st.integers(0, 2**31 - 1)
laws = settings(max_examples=20, deadline=None)


def drawn_pairs(seed: int, n: int = 9) -> Pairs:
    """Draw rotations and overlaps at random; both are symmetric."""
    g = torch.Generator().manual_seed(seed)
    rotation, overlap = (torch.triu(torch.rand(n, n, generator=g), diagonal=1) for _ in range(2))
    return Pairs(
        frames=tuple(range(100, 100 + n)), rotation_deg=130 * (rotation + rotation.mT), overlap=overlap + overlap.mT
    )


def camera(x: float = 0.0, turn: float = 0.0) -> Float[Tensor, "4 4"]:
    """Stand at x and look along world z, turned by ``turn`` degrees about y."""
    c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    world_to_cam = torch.tensor([[c, 0, -s, 0], [0, 1, 0, 0], [s, 0, c, 0], [0, 0, 0, 1.0]])
    world_to_cam[:3, 3] = -world_to_cam[:3, :3] @ torch.tensor([x, 0, 0])
    return world_to_cam


INTRINSICS = torch.tensor([[8.0, 0, 4], [0, 8, 4], [0, 0, 1]])  # of 8 x 8 pixels: at depth 2 the view is 2 wide


def compare(depths: list[Tensor], cameras: list[Tensor], **options: float) -> Pairs:
    return compare_views(torch.stack(depths), INTRINSICS, torch.stack(cameras), step=1, **options)


def test_overlap_known():
    wall = torch.full((8, 8), 2.0)
    # the second has moved by half the view (4 of 8 columns), the third by the whole view, the fourth looks away
    pairs = compare([wall] * 4, [camera(), camera(1.0), camera(2.0), camera(turn=180)])
    expected = [[1, 0.5, 0, 0], [0.5, 1, 0.5, 0], [0, 0.5, 1, 0], [0, 0, 0, 1]]
    torch.testing.assert_close(pairs.overlap, torch.tensor(expected))
    torch.testing.assert_close(pairs.rotation_deg[0], torch.tensor([0.0, 0, 0, 180]))
    assert pairs.frames == (0, 1, 2, 3)


def test_overlap_counts_neither_hidden_nor_missing_pixels():
    wall, near = torch.full((8, 8), 2.0), torch.full((8, 8), 2.0)
    near[:, :4] = 1.0
    missing = wall.clone()
    missing[:2] = 0.0
    pairs = compare([wall, near, missing], [camera()] * 3)
    torch.testing.assert_close(pairs.overlap, torch.tensor([[1, 0.5, 0.75], [0.5, 1, 0.375], [0.75, 0.375, 0.75]]))


def test_a_pixel_without_depth_agrees_with_nothing():
    # the first view lacks depth at all pixels that are projected; its own place is where the second sees a surface
    first = torch.full((8, 8), 2.0)
    first[1::2, 1::2] = 0.0
    second = torch.full((8, 8), 4.0)
    second[2, 2] = 2.0
    behind = torch.eye(4)
    behind[:3, 3] = torch.tensor([-0.35, -0.35, 2])
    views = torch.stack([first, second]), INTRINSICS, torch.stack([torch.eye(4), behind])
    assert compare_views(*views, step=2).overlap[0, 1] == 0
    assert compare_views(*views, step=1).overlap[0, 1] > 0


@pytest.mark.parametrize(("factor", "overlap"), [(1.049, 1.0), (1.051, 0.0), (0.953, 1.0), (0.951, 0.0)])
def test_overlap_tolerance_is_a_fraction_of_the_projected_depth(factor: float, overlap: float):
    wall = torch.full((8, 8), 2.0)
    assert compare([wall, wall * factor], [camera()] * 2).overlap[0, 1] == overlap


@laws
@given(seed=SEEDS, step=st.integers(1, 3))
def test_overlap_is_the_slow_loop(seed: int, step: int):
    g = torch.Generator().manual_seed(seed)
    depth = torch.randint(0, 4, (3, 8, 8), generator=g) * torch.tensor(0.7)
    cameras = torch.stack([camera(*(torch.rand(2, generator=g) * torch.tensor([1.0, 40])).tolist()) for _ in range(3)])
    pairs = compare_views(depth, INTRINSICS, cameras, step=step, tolerance=0.3)
    slow = torch.tensor([[slow_share(depth, cameras, i, j, step) for j in range(3)] for i in range(3)])
    torch.testing.assert_close(pairs.overlap, torch.minimum(slow, slow.mT))
    assert torch.equal(pairs.overlap, pairs.overlap.mT)


def slow_share(depth: Tensor, cameras: Tensor, i: int, j: int, step: int) -> float:
    rows = range(step // 2, 8, step)
    agreed = 0
    for y in rows:
        for x in rows:
            z = depth[i, y, x].item()
            local = torch.tensor([(x + 0.5 - 4) / 8 * z, (y + 0.5 - 4) / 8 * z, z, 1])
            px, py, pz, _ = (cameras[j] @ torch.linalg.inv(cameras[i]) @ local).tolist()
            if z <= 0 or pz <= 0:
                continue
            u, v = math.floor(8 * px / pz + 4 + 1e-6), math.floor(8 * py / pz + 4 + 1e-6)
            if 0 <= u < 8 and 0 <= v < 8:
                found = depth[j, v, u].item()
                agreed += found > 0 and abs(found - pz) <= 0.3 * pz
    return agreed / len(rows) ** 2


@laws
@given(seed=SEEDS, views=st.integers(2, 4), min_overlap=st.sampled_from([0, 0.3, 0.6]))
def test_count_groups_is_the_enumeration(seed: int, views: int, min_overlap: float):
    pairs = drawn_pairs(seed)
    supplies = count_groups(pairs, views=views, min_overlap=min_overlap)
    for supply, (low, high) in zip(supplies, pairwise(BINS), strict=True):
        groups = anchored(pairs, views, low, high, min_overlap)
        assert supply.bin == (low, high)
        assert supply.groups == len(groups)
        assert supply.anchors == len({anchor for anchor, _ in groups})
        assert supply.pairs == len({frozenset((a, *o)) for a, o in anchored(pairs, 2, low, high, min_overlap)})


def anchored(pairs: Pairs, views: int, low: float, high: float, least: float) -> list[tuple[int, tuple[int, ...]]]:
    n = len(pairs.frames)
    fits = [
        [a != o and low <= pairs.rotation_deg[a, o] < high and bool(pairs.overlap[a, o] >= least) for o in range(n)]
        for a in range(n)
    ]
    return [(a, o) for a in range(n) for o in combinations(range(n), views - 1) if all(fits[a][other] for other in o)]


@laws
@given(seed=SEEDS, views=st.integers(2, 4))
def test_an_exhausted_recording_gives_each_set_of_frames_once(seed: int, views: int):
    pairs = drawn_pairs(seed)
    groups = draw_groups(pairs, count=10**6, views=views, min_overlap=0.2, seed=seed)
    sets = [frozenset(frame - 100 for frame in group.frames) for group in groups]
    valid = [anchored(pairs, views, low, high, 0.2) for low, high in pairwise(BINS)]
    assert len(sets) == len(set(sets))
    assert set(sets) == {frozenset((anchor, *others)) for groups in valid for anchor, others in groups}


@laws
@given(seed=SEEDS, views=st.integers(2, 3), count=st.integers(1, 30))
def test_groups_keep_their_promises(seed: int, views: int, count: int):
    pairs = drawn_pairs(seed, n=12)
    groups = draw_groups(pairs, count=count, views=views, min_overlap=0.1, seed=seed)
    assert len(groups) <= count
    for group in groups:
        assert len(set(group.frames)) == views
        anchor, *others = (frame - 100 for frame in group.frames)
        assert group.rotation_deg == tuple(pairs.rotation_deg[anchor, others].tolist())
        assert group.overlap == tuple(pairs.overlap[anchor, others].tolist())
        assert all(group.bin[0] <= degrees < group.bin[1] for degrees in group.rotation_deg)
        assert min(group.overlap) >= 0.1


@laws
@given(seed=SEEDS, count=st.integers(1, 24))
def test_bins_give_equal_numbers_and_a_larger_count_only_adds(seed: int, count: int):
    pairs = drawn_pairs(seed, n=20)
    groups = draw_groups(pairs, count=count, views=2, min_overlap=0, seed=3)
    given_ = Counter(group.bin for group in groups)
    assert [given_[span] for span in pairwise(BINS)] == [count // 4 + (index < count % 4) for index in range(4)]
    more = draw_groups(pairs, count=count + 5, views=2, min_overlap=0, seed=3)
    assert set(groups) <= set(more)


def test_a_poor_bin_gives_what_it_has_and_the_others_their_share():
    pairs = drawn_pairs(0, n=20)
    rotation = torch.where(pairs.rotation_deg >= 60, 25.0, pairs.rotation_deg).fill_diagonal_(0)
    rotation[3, 7] = rotation[7, 3] = 70.0
    overlap = torch.full_like(rotation, 0.9)
    groups = draw_groups(replace(pairs, rotation_deg=rotation, overlap=overlap), count=16, views=2)
    given_ = Counter(group.bin for group in groups)
    assert [given_[span] for span in pairwise(BINS)] == [4, 4, 1, 0]
    assert {frozenset(group.frames) for group in groups if group.bin == (60, 90)} == {frozenset((103, 107))}


def test_bins_hold_their_lower_edge_and_not_their_upper_one():
    rotation = torch.tensor([[0.0, 30], [30, 0]])
    pairs = Pairs(frames=(0, 1), rotation_deg=rotation, overlap=torch.ones(2, 2))
    assert [supply.pairs for supply in count_groups(pairs, views=2, bins=(0, 30, 60))] == [0, 1]
    assert draw_groups(pairs, count=3, views=2, bins=(0, 30, 60))[0].bin == (30.0, 60.0)
    assert count_groups(replace(pairs, overlap=torch.full((2, 2), 0.2)), views=2, min_overlap=0.2)[1].pairs == 1


def test_equal_seeds_give_equal_groups_and_anchors_take_turns():
    pairs = replace(drawn_pairs(1, n=20), overlap=torch.ones(20, 20))
    first = draw_groups(pairs, count=20, views=3, bins=(0, 131), seed=5)
    assert first == draw_groups(pairs, count=20, views=3, bins=(0, 131), seed=5)
    assert first != draw_groups(pairs, count=20, views=3, bins=(0, 131), seed=6)
    assert {group.frames[0] for group in first} == set(pairs.frames)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 0}, "count is 0, expected at least 1"),
        ({"views": 1}, "views is 1, expected at least 2"),
        ({"bins": (0, 30, 30)}, r"bins are \(0, 30, 30\), expected two or more ascending edges"),
        ({"bins": (0,)}, r"bins are \(0,\), expected two or more ascending edges"),
    ],
)
def test_draw_groups_refuses(changes: dict, message: str):
    with pytest.raises(ValueError, match=message):
        draw_groups(drawn_pairs(0), **({"count": 4, "views": 2} | changes))


def test_no_group_names_the_best_overlap_and_the_threshold():
    overlap = torch.tensor([[1, 0.125, 0.1], [0.125, 1, 0], [0.1, 0, 1]])
    pairs = Pairs(frames=(0, 1, 2), rotation_deg=torch.zeros(3, 3), overlap=overlap)
    with pytest.raises(
        ValueError,
        match=r"share 20% of its image \(min_overlap\) with 1 .* 0 to 30, .* of a pair is 0.125, .* of a frame 0$",
    ):
        draw_groups(pairs, count=4, views=2)
    with pytest.raises(ValueError, match=r"2 frames, expected 3 or more for 3 views$"):
        draw_groups(
            replace(pairs, frames=(0, 1), rotation_deg=torch.zeros(2, 2), overlap=torch.ones(2, 2)), count=1, views=3
        )
    with pytest.raises(ValueError, match="best overlap of a pair is none, as no pair is rotated so"):
        draw_groups(pairs, count=4, views=2, bins=(30, 60))
