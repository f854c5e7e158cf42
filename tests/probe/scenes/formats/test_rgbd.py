import math
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from frame_groups import load_groups, pick_groups
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from probe.geometry import (
    depth_to_point_map,
    invert_rigid,
    pixel_centres,
    point_map_to_depth,
    project,
    rotation_degrees,
)
from probe.scenes.formats.rgbd import Frames, find_recordings, load_frames, to_recording
from probe.scenes.grouping import BINS, count_groups
from probe.scenes.reading import Reading
from probe.scenes.recordings import compare_frames
from probe.views import Views

KITCHEN = Path(__file__).parents[5] / "shared" / "data" / "seven_scenes_kitchen"
SIZE = (24, 32)
INTRINSICS = torch.tensor([[28.0, 0, 15], [0, 30, 13], [0, 0, 1]])
COLOUR_SIZE = (60, 80)  # reaches less far than depth does, by two of its own pixels and more
COLOUR_INTRINSICS = torch.tensor([[73.0, 0, 38], [0, 78, 31], [0, 0, 1]])
STRICT = Reading(strict=True)
MISSING = {0: (4, 7), 65535: (11, 20)}  # written value: its row and column


def cameras(count: int) -> Float[Tensor, "count 4 4"]:
    """Look at the wall z = 3 from changing places, rolled by 10 degrees more each time: all bins have pairs."""
    angle = torch.arange(count) * math.radians(10)
    world_to_cam = torch.eye(4).repeat(count, 1, 1)
    world_to_cam[:, 0, 0], world_to_cam[:, 0, 1] = angle.cos(), -angle.sin()
    world_to_cam[:, 1, 0], world_to_cam[:, 1, 1] = angle.sin(), angle.cos()
    tilt = torch.eye(4)
    tilt[1:3, 1:3] = torch.tensor([[math.cos(0.1), -math.sin(0.1)], [math.sin(0.1), math.cos(0.1)]])
    world_to_cam = tilt @ world_to_cam
    world_to_cam[:, 0, 3], world_to_cam[:, 2, 3] = 0.03 * torch.arange(count), 0.01 * torch.arange(count)
    return world_to_cam


def wall(size: tuple[int, int], intrinsics: Tensor, world_to_cam: Tensor) -> tuple[Tensor, Tensor]:
    """Give z-depth [count h w] in metres and colours [count 3 h w] of the wall, in closed form."""
    count = len(world_to_cam)
    unit = depth_to_point_map(torch.ones(count, *size), intrinsics.expand(count, 3, 3), world_to_cam)
    origin = invert_rigid(world_to_cam)[:, :3, 3, None, None]
    depth = (3 - origin[:, 2]) / (unit - origin)[:, 2]
    return depth, paint(origin + depth[:, None] * (unit - origin))


def paint(points: Float[Tensor, "*batch 3 h w"]) -> Float[Tensor, "*batch 3 h w"]:
    x, y = points[..., 0, :, :], points[..., 1, :, :]
    return torch.stack([0.5 + x / 8, 0.5 + y / 8, 0.5 + (x - y) / 16], dim=-3)


def save_matrix(path: Path, matrix: Tensor) -> None:
    path.write_text("\n".join(" ".join(f"{v:.9e}" for v in row) for row in matrix.double().tolist()) + "\n")


def save_colour(path: Path, colour: Float[Tensor, "3 h w"]) -> None:
    Image.fromarray((colour * 255).round().to(torch.uint8).movedim(0, -1).numpy()).save(path, quality=98)


def save_depth(path: Path, depth: Float[Tensor, "h w"]) -> None:
    Image.fromarray((depth * 1000).round().to(torch.int32).numpy().astype(np.uint16)).save(path)


def paths(root: Path, layout: str, index: int) -> tuple[Path, Path, Path]:
    if layout == "ScanNet":
        return root / f"color/{index}.jpg", root / f"depth/{index}.png", root / f"pose/{index}.txt"
    stem = f"frame-{5 * index:06d}"
    return root / f"{stem}.color.png", root / f"{stem}.depth.png", root / f"{stem}.pose.txt"


def write(root: Path, layout: str = "7-Scenes", count: int = 3, *, backwards: bool = False) -> Path:
    """Write a recording of a wall; both invalid depths stand in every frame."""
    for folder in ("color", "depth", "pose", "intrinsic") if layout == "ScanNet" else ("",):
        (root / folder).mkdir(parents=True, exist_ok=True)
    world_to_cam = cameras(count)
    depth, colour = wall(SIZE, INTRINSICS, world_to_cam)
    for value, (row, column) in MISSING.items():
        depth[:, row, column] = value / 1000
    if layout == "ScanNet":
        colour = wall(COLOUR_SIZE, COLOUR_INTRINSICS, world_to_cam)[1]
        for name, intrinsics in (("depth", INTRINSICS), ("color", COLOUR_INTRINSICS)):
            save_matrix(root / f"intrinsic/intrinsic_{name}.txt", torch.block_diag(intrinsics, torch.ones(1, 1)))
    else:
        save_matrix(root / "camera-intrinsics.txt", INTRINSICS)
    for index in reversed(range(count)) if backwards else range(count):
        colour_path, depth_path, pose_path = paths(root, layout, index)
        save_colour(colour_path, colour[index])
        save_depth(depth_path, depth[index])
        save_matrix(pose_path, invert_rigid(world_to_cam[index]))
    return root


@pytest.fixture(scope="module", params=["7-Scenes", "ScanNet"])
def recording(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Frames:
    return load_frames(write(tmp_path_factory.mktemp("wall"), request.param, count=14))


@pytest.fixture(scope="module")
def seven(tmp_path_factory: pytest.TempPathFactory) -> Frames:
    return load_frames(write(tmp_path_factory.mktemp("seven"), count=14))


def assert_points_on_their_pixels(views: Views, atol: float = 1e-3) -> None:
    """Ask it of pixels with depth: only they have a point."""
    xy, _ = project(views.point_map.flatten(-2).mT, views.intrinsics, views.world_to_cam)
    off = (xy - pixel_centres(*views.size).flatten(0, 1)).abs().amax(-1)
    assert off[views.valid.flatten(-2)].max() < atol


def test_frames_are_read_in_order_of_their_numbers(recording: Frames):
    numbers = [int(name) for name in recording.names]
    assert numbers == sorted(numbers)
    assert len(numbers) == 14  # "10" comes after "9", though not in the alphabet
    assert (recording.size, tuple(one.name for one in recording.dropped)) == (SIZE, ())
    torch.testing.assert_close(recording.world_to_cam.float(), cameras(14), rtol=0, atol=1e-6)
    torch.testing.assert_close(recording.intrinsics, INTRINSICS, rtol=0, atol=1e-6)


def test_groups_load_as_views_of_the_wall(recording: Frames):
    groups = pick_groups(to_recording(recording), count=8, views=3, seed=0)
    views = load_groups(to_recording(recording), groups, size=24, n_ref=1)
    assert views.image.shape == (len(groups), 3, 3, 24, 24)
    assert (views.n_ref, views.unit) == (1, "m")
    assert views.names[0] == f"{recording.root.path.name}:{'-'.join(recording.names[i] for i in groups[0].frames)}"
    assert torch.equal(views.world_to_cam[0], recording.world_to_cam[list(groups[0].frames)].float())
    assert_points_on_their_pixels(views)
    # depths are whole millimetres, so points lie within one of the wall, and colours within 8 bits (or JPEG's loss)
    height = views.point_map[:, :, 2][views.valid]
    torch.testing.assert_close(height, torch.full_like(height, 3.0), rtol=0, atol=1.5e-3)
    error = (views.image - paint(views.point_map)).abs().amax(2)[views.valid]
    assert error.max() < 0.02
    assert error.mean() < 0.006


def test_smaller_views_keep_points_on_their_pixels_and_colours_on_their_points(recording: Frames):
    views = load_groups(
        to_recording(recording), pick_groups(to_recording(recording), count=2, views=2), size=8, n_ref=1
    )
    assert views.size == (8, 8)
    assert_points_on_their_pixels(views)
    assert (views.image - paint(views.point_map)).abs().amax(2)[views.valid].max() < 0.03


def test_missing_depths_are_not_valid(seven: Frames):
    views = load_groups(to_recording(seven), pick_groups(to_recording(seven), count=1, views=2), size=24, n_ref=1)
    expected = torch.ones(SIZE, dtype=torch.bool)
    for row, column in MISSING.values():
        expected[row, column] = False
    assert torch.equal(views.valid, expected[:, 4:28].expand(1, 2, 24, 24))  # the central square of 32 columns
    depth = point_map_to_depth(views.point_map, views.world_to_cam)
    assert depth[views.valid].min() > 2
    assert depth[~views.valid].abs().max() < 1e-5


def test_pixels_outside_of_the_colour_camera_are_not_valid(tmp_path: Path):
    frames = load_frames(write(tmp_path, "ScanNet"))
    views = load_groups(to_recording(frames), pick_groups(to_recording(frames), count=1, views=2), size=24, n_ref=1)
    rays = (
        torch.linalg.inv(views.intrinsics[0, 0])
        @ torch.cat([pixel_centres(24, 24), torch.ones(24, 24, 1)], -1).flatten(0, 1).mT
    )
    x, y, _ = (COLOUR_INTRINSICS @ rays).unflatten(1, (24, 24))
    seen = (x >= 0) & (x < COLOUR_SIZE[1]) & (y >= 0) & (y < COLOUR_SIZE[0])
    assert 0.85 < seen.float().mean() < 0.99
    for row, column in MISSING.values():
        seen[row, column - 4] = False
    assert torch.equal(views.valid, seen.expand(1, 2, 24, 24))


def write_apart(root: Path, focal: float, times: int = 1) -> Path:
    """Write a 7-Scenes-like recording whose colour camera has a focal length, and so many times depth's size."""
    write(root)
    size, (cx, cy) = (times * SIZE[0], times * SIZE[1]), (times * INTRINSICS[:2, 2]).tolist()
    _, colour = wall(size, torch.tensor([[focal, 0, cx], [0, focal, cy], [0, 0, 1]]), cameras(3))
    for index in range(3):
        save_colour(paths(root, "7-Scenes", index)[0], colour[index])
    return root


def views_of(spec: str, size: int = 24) -> Views:
    recordings = find_recordings(Path(spec))
    recording = recordings.open(recordings.names[0])
    return load_groups(recording, pick_groups(recording, count=1, views=2), size=size, n_ref=1)


@pytest.mark.parametrize(("focal", "times"), [(20.0, 1), (24.5, 1), (34.0, 1), (55.0, 2), (68.0, 2)])
def test_colour_of_a_camera_of_its_own_lies_on_the_points_that_depth_tells(tmp_path: Path, focal: float, times: int):
    views = views_of(f"{write_apart(tmp_path, focal, times)}#{focal}")
    torch.testing.assert_close(views.intrinsics[0, 0, [0, 1], [0, 1]], INTRINSICS[[0, 1], [0, 1]])  # depth's
    assert_points_on_their_pixels(views)
    offset = (pixel_centres(*SIZE) - INTRINSICS[:2, 2]) * (focal / INTRINSICS[[0, 1], [0, 1]])
    xy = offset + times * INTRINSICS[:2, 2]  # in the colour image
    seen = ((xy >= 0) & (xy < times * torch.tensor([SIZE[1], SIZE[0]]))).all(-1)
    assert bool(seen.all()) == (focal < times * 28)
    for row, column in MISSING.values():
        seen[row, column] = False
    assert torch.equal(views.valid, seen[:, 4:28].expand(1, 2, 24, 24))
    off = (views.image - paint(views.point_map)).abs().amax(2)[views.valid]
    assert off.max() < 0.006
    if times == 1:  # depth's own focal length, or another one, would show
        for other in (str(tmp_path), f"{tmp_path}#{1.1 * focal}"):
            wrong = views_of(other)
            assert (wrong.image - paint(wrong.point_map)).abs().amax(2)[wrong.valid].max() > 0.012


def test_the_focal_length_of_depth_itself_changes_nothing(tmp_path: Path):
    write(tmp_path)
    save_matrix(tmp_path / "camera-intrinsics.txt", torch.tensor([[28.0, 0, 15], [0, 28, 13], [0, 0, 1]]))
    registered, told = views_of(str(tmp_path)), views_of(f"{tmp_path}#28")
    assert torch.equal(registered.image, told.image)
    assert torch.equal(registered.valid, told.valid)
    assert registered.names == told.names


def test_taking_colour_as_registered_is_told_where_nothing_else_is(tmp_path: Path):
    seven, scan = write(tmp_path / "seven"), write(tmp_path / "scan", "ScanNet")
    assert find_recordings(seven).note.startswith("colour is taken as registered to depth; if it is not (raw 7-Scenes")
    assert find_recordings(Path(f"{seven}#25")).note == find_recordings(scan).note == ""
    assert find_recordings(Path(f"{seven}#25")).names == ("seven",)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        *((told, f"room#{told} names no focal length of the colour") for told in ("abc", "-525", "0", "nan", "inf")),
        ("525px", "room#525px names no focal length of the colour camera, expected pixels: #525"),
        (
            "41.5",
            r"camera-intrinsics.txt and #41.5 of .*room colour sees 49% of the depth image, expected half or more",
        ),
    ],
)
def test_a_focal_length_that_cannot_be_is_refused(tmp_path: Path, told: str, message: str):
    with pytest.raises(ValueError, match=message) as caught:
        views_of(f"{write(tmp_path / 'room')}#{told}")
    assert "\n" not in str(caught.value)


def test_a_folder_that_tells_its_colour_camera_takes_no_focal_length(tmp_path: Path):
    write(tmp_path, "ScanNet")
    with pytest.raises(ValueError, match=r"has its colour camera in intrinsic/intrinsic_color.txt; leave #73 out"):
        views_of(f"{tmp_path}#73")


def test_scannet_colour_of_the_size_of_depth_is_taken_as_registered(tmp_path: Path):
    write(tmp_path, "ScanNet")
    (tmp_path / "intrinsic/intrinsic_color.txt").unlink()
    _, colour = wall(SIZE, INTRINSICS, cameras(3))
    for index in range(3):
        save_colour(tmp_path / f"color/{index}.jpg", colour[index])
    frames = load_frames(tmp_path)
    assert torch.equal(frames.colour_intrinsics, frames.intrinsics)
    views = load_groups(to_recording(frames), pick_groups(to_recording(frames), count=1, views=2), size=24, n_ref=1)
    assert (views.image - paint(views.point_map)).abs().amax(2)[views.valid].max() < 0.02


def test_lost_tracking_is_dropped_and_named_in_scannet(tmp_path: Path):
    write(tmp_path, "ScanNet", count=4)
    save_matrix(tmp_path / "pose/1.txt", torch.full((4, 4), -math.inf))
    frames = load_frames(tmp_path, reading=STRICT)  # the data set has no such frame; it is not broken
    assert (frames.names, tuple(one.name for one in frames.dropped)) == (("0", "2", "3"), ("1",))
    torch.testing.assert_close(frames.world_to_cam.float(), cameras(4)[[0, 2, 3]], rtol=0, atol=1e-6)
    assert [path.stem for path in frames.depth] == ["0", "2", "3"]
    for index in range(4):
        save_matrix(tmp_path / f"pose/{index}.txt", torch.full((4, 4), -math.inf))
    with pytest.raises(ValueError, match=r"none of the 4 frames of .* is left: tracking was lost"):
        load_frames(tmp_path)


def test_poses_are_made_exactly_rigid(tmp_path: Path):
    write(tmp_path)
    stretched = invert_rigid(cameras(3)[1])
    stretched[:3, :3] *= 1.002
    save_matrix(tmp_path / "frame-000005.pose.txt", stretched)
    world_to_cam = load_frames(tmp_path).world_to_cam.float()
    torch.testing.assert_close(world_to_cam[:, :3, :3].float(), cameras(3)[:, :3, :3], rtol=0, atol=1e-6)
    torch.testing.assert_close(invert_rigid(world_to_cam[1])[:3, 3], stretched[:3, 3], rtol=0, atol=1e-6)


def test_bins_give_equally_many_groups(recording: Frames):
    pairs = compare_frames(to_recording(recording))
    groups = pick_groups(to_recording(recording), count=16, views=3, pairs=pairs)
    assert Counter(group.bin for group in groups) == Counter(dict.fromkeys(pairwise(BINS), 4))
    assert all(supply.groups >= 4 for supply in count_groups(pairs, views=3))
    for group in groups:
        anchor, *others = recording.world_to_cam.float()[list(group.frames)]
        for other, degrees in zip(others, group.rotation_deg, strict=True):
            assert rotation_degrees(other, anchor).item() == pytest.approx(degrees, abs=1e-3)
            assert group.bin[0] <= degrees < group.bin[1]


def test_overlap_is_of_the_central_square_only(tmp_path: Path):
    """Beside each other by the width of the square: the wide images share a margin that the views do not have."""
    write(tmp_path)
    for index in range(3):
        pose = torch.eye(4)
        pose[0, 3] = index * 24 * 3 / 28
        save_matrix(paths(tmp_path, "7-Scenes", index)[2], pose)
        save_depth(paths(tmp_path, "7-Scenes", index)[1], torch.full(SIZE, 3.0))
    torch.testing.assert_close(
        compare_frames(to_recording(load_frames(tmp_path))).overlap, torch.eye(3), rtol=0, atol=0.05
    )


def test_overlap_does_not_mind_what_the_square_leaves_out(tmp_path: Path):
    write(tmp_path)
    for index in range(3):
        save_matrix(paths(tmp_path, "7-Scenes", index)[2], torch.eye(4))
        depth = torch.full(SIZE, 3.0)
        depth[:, :4] = depth[:, 28:] = 0  # 24 of 32 columns are left
        save_depth(paths(tmp_path, "7-Scenes", index)[1], depth)
    assert torch.equal(compare_frames(to_recording(load_frames(tmp_path))).overlap, torch.ones(3, 3))


def test_overlap_follows_the_views_that_are_made(seven: Frames):
    """Compare with the share of a loaded view's points that project into the other view: the wall hides nothing."""
    pairs = compare_frames(to_recording(seven))
    for group in pick_groups(to_recording(seven), count=4, views=2, pairs=pairs):
        views = load_groups(to_recording(seven), [group], size=24, n_ref=1)
        shares = []
        for source, other in ((0, 1), (1, 0)):
            points = views.point_map[:, source].flatten(-2).mT
            xy, _ = project(points, views.intrinsics[:, other], views.world_to_cam[:, other])
            inside = ((xy >= 0) & (xy < 24)).all(-1) & views.valid[:, source].flatten(1)
            shares.append(inside.float().mean().item())
        assert group.overlap[0] == pytest.approx(min(shares), abs=0.02)


def test_groups_do_not_depend_on_the_order_of_files_nor_on_the_folder(tmp_path: Path, seven: Frames):
    other = load_frames(write(tmp_path / "backwards", count=14, backwards=True))
    assert pick_groups(to_recording(other), count=9, views=3, seed=4) == pick_groups(
        to_recording(seven), count=9, views=3, seed=4
    )
    assert pick_groups(to_recording(other), count=9, views=3, seed=5) != pick_groups(
        to_recording(seven), count=9, views=3, seed=4
    )


def test_a_long_recording_is_thinned_evenly(seven: Frames):
    pairs = compare_frames(to_recording(seven), most=5)
    assert pairs.frames == (0, 2, 5, 8, 11)
    whole = compare_frames(to_recording(seven))
    torch.testing.assert_close(pairs.overlap, whole.overlap[list(pairs.frames)][:, list(pairs.frames)], rtol=0, atol=0)
    groups = pick_groups(to_recording(seven), count=4, views=2, pairs=pairs)
    assert {frame for group in groups for frame in group.frames} <= set(pairs.frames)


def break_pose(value: float) -> Callable[[Path], object]:
    def change(root: Path) -> None:
        pose = torch.eye(4)
        pose[0, 1] = value
        save_matrix(root / "frame-000005.pose.txt", pose)

    return change


def put(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda root: (root / name).write_bytes(content)


def remove(name: str) -> Callable[[Path], object]:
    return lambda root: (root / name).unlink()


def save(name: str, array: np.ndarray) -> Callable[[Path], object]:
    return lambda root: Image.fromarray(array).save(root / name)


def link_out(root: Path) -> None:
    outside = root.parent / "outside.png"
    (root / "frame-000005.color.png").rename(outside)
    (root / "frame-000005.color.png").symlink_to("../outside.png")


def link_in_a_circle(root: Path) -> None:
    remove("frame-000005.depth.png")(root)
    (root / "frame-000005.depth.png").symlink_to("frame-000005.depth.png")


REFUSED = {
    "no depth": (
        remove("frame-000005.depth.png"),
        "frame 000005 of .* has no depth file; expected frame-000005.depth.png",
    ),
    "no pose": (remove("frame-000005.pose.txt"), "frame 000005 of .* has no pose file"),
    "no colour": (remove("frame-000005.color.png"), "frame 000005 of .* has no colour file"),
    "two colours": (put("frame-000005.color.jpg", b""), "frame 000005 has both .*jpg and .*png; keep one"),
    "NaN pose": (break_pose(math.nan), "frame-000005.pose.txt holds a NaN or infinite number"),
    "infinite pose": (break_pose(-math.inf), "frame-000005.pose.txt holds a NaN or infinite number"),
    "sheared pose": (break_pose(0.1), "frame-000005.pose.txt is not a rigid pose"),
    "mirrored pose": (
        put("frame-000005.pose.txt", b"-1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1"),
        "000005.pose.txt is not a rigid",
    ),
    "transposed pose": (
        put("frame-000005.pose.txt", b"1 0 0 0\n0 1 0 0\n0 0 1 0\n1 2 3 1"),
        "000005.pose.txt is not a rigid",
    ),
    "3 x 4 pose": (put("frame-000005.pose.txt", b"1 0 0 0\n0 1 0 0\n0 0 1 0"), "000005.pose.txt is a 3 x 4 matrix"),
    "empty pose": (put("frame-000005.pose.txt", b""), "000005.pose.txt has rows of .* expected equal rows"),
    "ragged pose": (put("frame-000005.pose.txt", b"1 2\n3"), r"000005.pose.txt has rows of \[2, 1\] numbers"),
    "words for a pose": (put("frame-000005.pose.txt", b"lost"), "000005.pose.txt is not a text file of numbers"),
    "bytes for a pose": (put("frame-000005.pose.txt", b"\xff\xfe\x00"), "000005.pose.txt is not a text file"),
    "8-bit depth": (
        save("frame-000005.depth.png", np.zeros(SIZE, np.uint8)),
        "000005.depth.png .* mode L, expected a 16-bit",
    ),
    "RGB depth": (
        save("frame-000005.depth.png", np.zeros((*SIZE, 3), np.uint8)),
        "000005.depth.png .* mode RGB, expected",
    ),
    "sizes of depth": (
        save("frame-000005.depth.png", np.zeros((12, 16), np.uint16)),
        "depth images .* mixed sizes: frame-000000.depth.png is 24 x 32, frame-000005.depth.png is 12 x 16",
    ),
    "sizes of colour": (
        save("frame-000010.color.png", np.zeros((12, 16, 3), np.uint8)),
        "colour images .* mixed sizes: frame-000000.color.png is 24 x 32, frame-000010.color.png is 12 x 16",
    ),
    "not an image": (put("frame-000005.color.png", b"no image"), "000005.color.png is no image; expected PNG"),
    "empty image": (put("frame-000005.depth.png", b""), "000005.depth.png is empty"),
    "link out of the folder": (link_out, "frame-000005.color.png leads outside .*outside.png; only files inside"),
    "link in a circle": (link_in_a_circle, "frame-000005.depth.png does not exist or is a broken link"),
}


UNREADABLE = {
    "skew": (put("camera-intrinsics.txt", b"28 1 15\n0 30 13\n0 0 1"), "camera-intrinsics.txt is no pinhole camera"),
    "2 x 2 intrinsics": (put("camera-intrinsics.txt", b"28 0\n0 30"), "is a 2 x 2 matrix, expected 3 x 3, 3 x 4,"),
    "negative focal length": (put("camera-intrinsics.txt", b"-28 30 15 13"), "intrinsics.txt is no pinhole camera"),
    "NaN intrinsics": (
        put("camera-intrinsics.txt", b"nan 0 15\n0 30 13\n0 0 1"),
        "intrinsics.txt is no pinhole camera",
    ),
    "other size": (
        put("camera-intrinsics.txt", b"585 0 320\n0 585 240\n0 0 1"),
        "principal point at x 320, y 240 of the image of width 32, height 24, as that of an image 20 times as large",
    ),
    "principal point outside": (
        put("camera-intrinsics.txt", b"28 0 33\n0 30 12\n0 0 1"),
        "principal point at .* outside the image of width 32, height 24; write the intrinsics of these images",
    ),
    "twice the size": (
        put("camera-intrinsics.txt", b"56 0 31\n0 60 23\n0 0 1"),
        "principal point at x 31, y 23 of the image of width 32, height 24, as that .* 1.9 times as large; write the",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_broken_frame_is_left_out_and_named_or_refused_by_strict_reading(case: str, tmp_path: Path):
    root = write(tmp_path / "room")
    change, message = REFUSED[case]
    change(root)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        load_frames(root, reading=STRICT)
    assert "\n" not in str(caught.value)
    frames = load_frames(root)
    if case == "two colours":
        assert (len(frames.names), frames.colour[1].suffix) == (3, ".png")
        assert "1 frames of" in frames.notes[1]
        assert "the .png is taken" in frames.notes[1]
    else:
        (dropped,) = frames.dropped
        assert dropped.name not in frames.names
        assert len(frames.names) == len(to_recording(frames).names) == 2


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_camera_that_does_not_serve_is_refused(case: str, tmp_path: Path):
    root = write(tmp_path / "room")
    change, message = UNREADABLE[case]
    change(root)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        load_frames(root)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        b"28 30 15 13",
        b"28, 0, 15\n0, 30, 13\n0, 0, 1",
        b"\xef\xbb\xbf28 0 15\r\n0 30 13\r\n0 0 1\r\n",
        "# fx 0 cx\n28 0 15\n0 30 13\n0 0 1".encode("utf-16"),
        b"28;0;15;0\n0;30;13;0\n0;0;1;0",
        b"28 0 15 0 30 13 0 0 1",
        b"28 .2 15\n0 30 13\n0 0 1",
    ],
)
def test_cameras_are_read_as_people_write_them(text: bytes, tmp_path: Path):
    root = write(tmp_path)
    (root / "camera-intrinsics.txt").write_bytes(text)
    assert torch.equal(load_frames(root).intrinsics, INTRINSICS)


def test_poses_with_a_byte_order_mark_and_names_in_capitals_are_read(tmp_path: Path):
    root = write(tmp_path)
    pose = root / "frame-000005.pose.txt"
    pose.write_bytes(b"\xef\xbb\xbf" + pose.read_bytes().replace(b"\n", b"\r\n").replace(b" ", b", "))
    (root / "frame-000005.color.png").rename(root / "frame-000005.color.PNG")
    frames = load_frames(root, reading=STRICT)
    torch.testing.assert_close(frames.world_to_cam.float(), cameras(3), rtol=0, atol=1e-6)


def test_a_folder_none_of_whose_depths_can_be_read_says_why(tmp_path: Path):
    root = write(tmp_path)
    for path in root.glob("*.depth.png"):
        save(path.name, np.zeros(SIZE, np.uint8))(root)
    with pytest.raises(ValueError, match=r"none of the 3 frames .* mode L, expected a 16-bit .* 8 bits hold a picture"):
        load_frames(root)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "is not a folder; expected frame-000000.color.jpg, .* or color/0.jpg"),
        (lambda root: root.write_text("file"), "is not a folder; expected"),
        (lambda root: root.mkdir(), "holds no frames; expected frame-000000.color.jpg"),
        (lambda root: (root / "color").mkdir(parents=True), "holds no frames; expected"),
    ],
    ids=["missing", "file", "empty", "empty color folder"],
)
def test_a_folder_without_frames_is_refused(make: Callable[[Path], object], message: str, tmp_path: Path):
    make(tmp_path / "room")
    with pytest.raises(FileNotFoundError, match=message):
        load_frames(tmp_path / "room")


def test_colour_of_another_size_needs_its_own_intrinsics(tmp_path: Path):
    root = write(tmp_path / "seven")
    for index in range(3):
        save_colour(paths(root, "7-Scenes", index)[0], torch.zeros(3, 48, 64))
    asks = r"colour is 48 x 64 and depth 24 x 32 .* expected one size, or FOLDER#FOCAL, .*; #56 if both show the same"
    with pytest.raises(ValueError, match=asks):
        load_frames(root)
    root = write(tmp_path / "scan", "ScanNet")
    save_matrix(root / "intrinsic/intrinsic_color.txt", torch.tensor([[400.0, 0, 40], [0, 400, 30], [0, 0, 1]]))
    with pytest.raises(ValueError, match=r"colour sees \d+% of the depth image, expected half or more"):
        load_frames(root)
    (root / "intrinsic/intrinsic_color.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"intrinsic_color.txt are missing"):
        load_frames(root)


@pytest.mark.parametrize("layout", ["7-Scenes", "ScanNet"])
@pytest.mark.parametrize("kind", ["colour", "depth"])
@pytest.mark.parametrize("damage", ["truncated", "garbled"])
def test_an_image_that_breaks_off_is_refused_when_it_is_read(layout: str, kind: str, damage: str, tmp_path: Path):
    root = write(tmp_path / "room", layout)
    frames = load_frames(root)
    groups = pick_groups(to_recording(frames), count=1, views=3, bins=(0, 60))
    path = frames.colour[1] if kind == "colour" else frames.depth[1]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if damage == "truncated" else whole[:60] + bytes(len(whole) - 60))
    with pytest.raises(ValueError, match=rf"{path.name} is not a whole (PNG|JPEG) image"):
        load_groups(to_recording(load_frames(root) if damage == "truncated" else frames), groups, size=8, n_ref=1)


def test_an_image_that_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = write(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ValueError, match=r"000000.color.png is not a whole PNG image: Image size"):
        load_frames(root)


def test_a_path_out_of_the_folder_is_refused_when_it_is_read(tmp_path: Path):
    frames = load_frames(write(tmp_path / "room"))
    shutil.copy(frames.depth[1], tmp_path / "outside.png")
    groups = pick_groups(to_recording(frames), count=1, views=3, bins=(0, 60))
    moved = replace(frames, depth=(frames.depth[0], tmp_path / "room" / ".." / "outside.png", frames.depth[2]))
    with pytest.raises(ValueError, match=r"outside.png leads outside .*; only files inside the folder are read"):
        load_groups(to_recording(moved), groups, size=8, n_ref=1)
    gone = replace(frames, depth=(tmp_path / "room" / "gone.png", *frames.depth[1:]))
    with pytest.raises(FileNotFoundError, match=r"gone.png does not exist"):
        load_groups(to_recording(gone), groups, size=8, n_ref=1)


def test_a_linked_folder_is_read(tmp_path: Path):
    write(tmp_path / "room")
    (tmp_path / "link").symlink_to("room")
    assert len(load_frames(tmp_path / "link").names) == 3


def test_frames_that_share_nothing_are_refused(tmp_path: Path):
    root = write(tmp_path)
    for index in range(3):
        pose = torch.eye(4)
        pose[0, 3] = 0.875 * index * 24 * 3 / 28
        save_matrix(paths(root, "7-Scenes", index)[2], pose)
    with pytest.raises(ValueError, match=r"share 50% of its image \(min_overlap\) .*best overlap of a pair is 0\.\d"):
        pick_groups(to_recording(load_frames(root)), count=2, views=2, min_overlap=0.5)


def test_more_references_than_views_are_refused(seven: Frames):
    groups = pick_groups(to_recording(seven), count=4, views=2)
    with pytest.raises(ValueError, match="n_ref is 3, expected 0 to 2"):
        load_groups(to_recording(seven), groups, size=8, n_ref=3)


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.skipif(
    not KITCHEN.is_dir(), reason="needs ../shared/data/seven_scenes_kitchen, which is not part of the project"
)
def test_kitchen():
    frames = load_frames(KITCHEN, colour_focal=525.0)
    assert (len(frames.names), frames.size, tuple(one.name for one in frames.dropped)) == (140, (480, 640), ())
    groups = pick_groups(to_recording(frames), count=4, views=3, bins=(0, 30), min_overlap=0.3)
    views = load_groups(to_recording(frames), groups, size=128, n_ref=1)
    assert len(groups) == 4
    assert views.names[0].startswith("seven_scenes_kitchen:0")
    assert_points_on_their_pixels(views, atol=0.01)
    # points that both views see, by depth, have like colours; shuffled ones have not: poses, depth and colour agree
    agree, place = seen_by_both(views)
    overlap = torch.tensor([group.overlap[0] for group in groups])
    assert (agree.float().mean(1) >= overlap - 0.05).all()
    difference = colour_difference(views, place, agree)
    shuffled = torch.randperm(128**2, generator=torch.Generator().manual_seed(0)).expand_as(place)
    assert difference < 0.4 * colour_difference(views, shuffled, agree)
    registered = load_groups(to_recording(load_frames(KITCHEN)), groups, size=128, n_ref=1)
    assert difference < 0.9 * colour_difference(registered, place, agree)


def seen_by_both(views: Views) -> tuple[Tensor, Tensor]:
    """Give which pixels of view 0 view 1 shows by depth, and where, as the place among its pixels."""
    xy, expected = project(views.point_map[:, 0].flatten(-2).mT, views.intrinsics[:, 1], views.world_to_cam[:, 1])
    inside = ((xy >= 0) & (xy < 128)).all(-1) & views.valid[:, 0].flatten(1)
    place = torch.where(inside[..., None], xy, 0).long()
    place = place[..., 1] * 128 + place[..., 0]
    found = point_map_to_depth(views.point_map[:, 1], views.world_to_cam[:, 1]).flatten(1).gather(1, place)
    return inside & views.valid[:, 1].flatten(1).gather(1, place) & ((found - expected).abs() < 0.05 * expected), place


def colour_difference(views: Views, place: Tensor, counted: Tensor) -> float:
    first, second = (views.image[:, index].flatten(-2) for index in (0, 1))
    moved = second.gather(2, place[:, None].expand(-1, 3, -1))
    return float((moved - first).abs().mean(1)[counted].mean())
