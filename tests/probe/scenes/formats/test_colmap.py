"""COLMAP scenes: written from a known scene as text and binary, read back to the same cameras, colours and points."""

import re
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pycolmap
import pytest
import torch
from PIL import Image
from small_colmap import NUMBERS, make_tracks, write_colmap
from small_nerfstudio import save_rgb
from small_world import assert_lands, make_world, photograph, rays, true_views
from test_nerfstudio import distorted
from torch import Tensor

from probe.correspondence import project_tokens
from probe.geometry import depth_to_point_map, point_map_to_depth, project
from probe.scenes import Request, open_scenes
from probe.scenes.cameras.models import MODELS
from probe.scenes.formats.colmap import find_recordings, shared_tracks
from probe.scenes.formats.colmap_model import read_model
from probe.scenes.reading import Folder, Reading
from probe.scenes.recordings import Recording, compare_frames, load_views

WORLD = make_world(5)
TRACKS = make_tracks(WORLD)


def opened(root: Path) -> Recording:
    found = find_recordings(root)
    return found.open(found.names[0])


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "text"])
@pytest.mark.parametrize("dense", [1, 0], ids=["dense", "no depth"])
def test_points_land_where_they_are_seen(binary: bool, dense: int, tmp_path: Path):
    recording = opened(write_colmap(tmp_path / "room", WORLD, binary=binary, dense=dense))
    assert (recording.name, recording.unit, recording.has_truth) == ("room", None, bool(dense))
    assert recording.names == tuple(f"frame_{index}.png" for index in range(5))
    torch.testing.assert_close(recording.cameras, WORLD.world_to_cam, rtol=0, atol=1e-5)
    torch.testing.assert_close(recording.intrinsics, WORLD.intrinsics, rtol=0, atol=1e-5)
    assert_lands(recording, WORLD, points=bool(dense))


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "text"])
def test_what_is_read_is_what_pycolmap_reads(binary: bool, tmp_path: Path):
    write_colmap(tmp_path, WORLD, binary=binary, tracks=TRACKS)
    model, reference = (
        read_model(tmp_path / "sparse/0", Folder(tmp_path)),
        pycolmap.Reconstruction(tmp_path / "sparse/0"),
    )
    numbers = sorted(reference.points3D)
    expected = torch.tensor([reference.points3D[number].xyz.tolist() for number in numbers])
    torch.testing.assert_close(model.points, expected.double(), rtol=0, atol=1e-6)
    known = {image.name: image for image in reference.images.values()}
    assert len(known) == len(model.photos) == 5
    for photo in model.photos:
        image = known[photo.name]
        matrix = torch.from_numpy(image.cam_from_world().matrix())
        torch.testing.assert_close(photo.world_to_cam[:3], matrix, rtol=0, atol=1e-6)
        seen = sorted({point.point3D_id for point in image.points2D if point.has_point3D()})
        assert [numbers[place] for place in photo.tracks.tolist()] == seen
        camera = torch.from_numpy(image.camera.calibration_matrix()).float()
        torch.testing.assert_close(photo.camera.intrinsics, camera, rtol=0, atol=1e-5)


def test_tracks_are_the_truth_of_their_pixels_and_of_no_others(tmp_path: Path):
    """At full size each tracked pixel has the very point; where it lands in the others is its own projection there."""
    recording = opened(write_colmap(tmp_path, WORLD, tracks=TRACKS))
    assert recording.depth is None
    views = load_views(recording, range(5), size=36, n_ref=1)
    exact = true_views(WORLD, 36, range(5))
    torch.testing.assert_close(views.world_to_cam, exact.world_to_cam, rtol=0, atol=1e-5)
    for view in range(5):
        points = TRACKS.points[list(TRACKS.seen[view])]
        xy, _ = project(points, exact.intrinsics[0, view], exact.world_to_cam[0, view])
        inside = ((xy >= 0) & (xy < 36)).all(-1)
        expected = torch.zeros(36, 36, dtype=torch.bool)
        x, y = xy[inside].long().unbind(-1)
        expected[y, x] = True
        assert (views.valid[0, view] != expected).float().mean() < 0.004  # rounding at a pixel's border
        held = views.point_map[0, view][:, views.valid[0, view]].mT
        assert distance(held, points).max() < 1e-5
        near = (views.point_map[0, view] - exact.point_map[0, view]).norm(dim=0)[views.valid[0, view]]
        assert near.median() < 0.08  # a pixel of 36 is .06 wide at the middle of the room
    assert 0.05 < views.valid.float().mean() < 0.6


def distance(points: Tensor, others: Tensor) -> Tensor:
    """Of each point to the nearest other one."""
    return (points[:, None] - others).norm(dim=-1).min(1).values


def test_a_track_of_two_views_is_seen_in_both(tmp_path: Path):
    """In the pixel of the other view lies the same point; points moved to their pixels' rays would often miss it."""
    recording = opened(write_colmap(tmp_path, WORLD, tracks=TRACKS))
    views = load_views(recording, (0, 1), size=36, n_ref=1)
    found = project_tokens(views, (36, 36))
    visible = found.visible[0, 0, :, 1]
    held = found.points[0, 0, visible]
    points = TRACKS.points[sorted(set(TRACKS.seen[0]) & set(TRACKS.seen[1]))]
    assert (distance(held, points) < 1e-5).float().mean() > 0.8  # the others lie on a surface that another track is of
    xy = [project(points, views.intrinsics[0, view], views.world_to_cam[0, view])[0] for view in (0, 1)]
    both = torch.stack([((one >= 0) & (one < 36)).all(-1) for one in xy]).all(0).sum()
    assert visible.sum() > 0.7 * both  # of several in a pixel one is kept
    expected, _ = project(held, views.intrinsics[0, 1], views.world_to_cam[0, 1])
    torch.testing.assert_close(found.xy[0, 0, visible, 1], expected, rtol=0, atol=1e-3)
    depth = point_map_to_depth(views.point_map, views.world_to_cam)
    moved = replace(views, point_map=depth_to_point_map(depth, views.intrinsics, views.world_to_cam))
    assert project_tokens(moved, (36, 36)).visible[0, 0, :, 1].sum() < 0.8 * visible.sum()


def test_shared_tracks_known():
    tracks = (torch.tensor([0, 1, 2, 3]), torch.tensor([2, 3]), torch.tensor([], dtype=torch.int64), torch.tensor([3]))
    half, quarter = 0.5, 0.25
    expected = torch.tensor(
        [[1, half, 0, quarter], [half, 1, 0, half], [0, 0, 0, 0], [quarter, half, 0, 1]], dtype=torch.float32
    )
    assert torch.equal(shared_tracks(tracks, 5), expected)


def test_overlap_is_that_of_the_tracks(tmp_path: Path):
    recording = opened(write_colmap(tmp_path, WORLD, tracks=TRACKS))
    assert torch.equal(
        compare_frames(recording).overlap,
        shared_tracks([torch.tensor(seen) for seen in TRACKS.seen], len(TRACKS.points)),
    )


LENSES: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "SIMPLE_RADIAL": ((-0.15,), (-0.15, 0, 0, 0)),
    "RADIAL": ((-0.2, 0.05), (-0.2, 0.05, 0, 0)),
    "OPENCV": ((-0.2, 0.05, 0.01, -0.008), (-0.2, 0.05, 0.01, -0.008)),
    "FULL_OPENCV": ((-0.2, 0.05, 0.01, -0.008, 0.0, 0.0, 0.0, 0.0), (-0.2, 0.05, 0.01, -0.008)),
    "OPENCV_FISHEYE": ((0.05, -0.02, 0.01, 0.0), (0.05, -0.02, 0.01, 0.0)),
    "SIMPLE_RADIAL_FISHEYE": ((0.05,), (0.05, 0, 0, 0)),
    "RADIAL_FISHEYE": ((0.05, -0.02), (0.05, -0.02, 0, 0)),
}


@pytest.mark.parametrize("model", LENSES)
def test_distorted_images_become_pinhole_images(model: str, tmp_path: Path):
    """Registered to a quarter of a pixel: of nine shifts of the true image, the loaded one is nearest to none."""
    parameters, coefficients = LENSES[model]
    focal = (70.0, 74.0) if model in ("OPENCV", "FULL_OPENCV", "OPENCV_FISHEYE") else (70.0, 70.0)
    world = make_world(2, size=(72, 96), focal=focal)
    bent = distorted(world, coefficients, "FISHEYE" in model)
    views = load_views(opened(write_colmap(tmp_path, bent, model=model, lens=parameters)), range(2), size=72, n_ref=1)
    errors = {}
    for shift in ((x, y) for x in (-0.25, 0.0, 0.25) for y in (-0.25, 0.0, 0.25)):
        moved = views.intrinsics[0].clone()
        moved[:, :2, 2] += torch.tensor(shift)
        image, _ = photograph(world.shapes, world.world_to_cam, rays(moved, (72, 72)))
        errors[shift] = (image - views.image[0]).abs().mean().item()
    assert min(errors, key=errors.__getitem__) == (0.0, 0.0)
    assert errors[0.0, 0.0] < 0.02


def test_lens_coefficients_of_zero_and_one_focal_length(tmp_path: Path):
    world = make_world(3, focal=(40.0, 40.0))
    for number, model in enumerate(("SIMPLE_PINHOLE", "SIMPLE_RADIAL")):
        lens = (0.0,) if model == "SIMPLE_RADIAL" else ()
        recording = opened(write_colmap(tmp_path / str(number), world, model=model, lens=lens, dense=1))
        torch.testing.assert_close(recording.intrinsics, world.intrinsics, rtol=0, atol=1e-5)
        assert_lands(recording, world)


@pytest.mark.parametrize("sparse", [".", "sparse", "sparse/0", "colmap/sparse/0"])
def test_models_are_found_in_each_of_their_places(sparse: str, tmp_path: Path):
    recording = opened(write_colmap(tmp_path / "room", WORLD, sparse=sparse))
    assert recording.name == "room"
    assert len(recording.names) == 5


def test_many_scenes_and_several_models(tmp_path: Path):
    write_colmap(tmp_path / "7/a10", WORLD)
    write_colmap(tmp_path / "7/a9", WORLD)
    for number in (0, 1):
        write_colmap(tmp_path / "8/b", WORLD, sparse=f"sparse/{number}", names=[f"{n:03d}.png" for n in range(5)])
    found = find_recordings(tmp_path)
    assert found.names == ("7/a9", "7/a10", "8/b/sparse/0", "8/b/sparse/1")
    assert [found.open(name).name for name in found.names] == list(found.names)


def test_images_in_folders_and_with_spaces_keep_their_names(tmp_path: Path):
    names = ["left/10.png", "left/9.png", "right/my photo.png", "right/2.png", "1.png"]
    recordings = [
        opened(write_colmap(tmp_path / str(binary), WORLD, binary=binary, names=names, dense=1))
        for binary in (True, False)
    ]
    for recording in recordings:
        assert recording.names == ("1.png", "left/9.png", "left/10.png", "right/2.png", "right/my photo.png")
        assert_lands(recording, WORLD, frames=(4, 1, 0, 3, 2))


def test_images_without_a_depth_map_are_dropped_where_others_have_one(tmp_path: Path):
    write_colmap(tmp_path, WORLD, dense=1, tracks=TRACKS)
    (tmp_path / "stereo/depth_maps/frame_1.png.geometric.bin").unlink()
    recording = opened(tmp_path)
    assert (len(recording.names), tuple(one.name for one in recording.dropped), recording.shared) == (
        4,
        ("frame_1.png",),
        None,
    )
    assert_lands(recording, WORLD, frames=(0, 2, 3, 4))


def test_smaller_depth_maps_show_the_same_field_of_view(tmp_path: Path):
    """Each third pixel of the image, from the second on, is the middle of one of the depth map's."""
    world = replace(WORLD, depth=WORLD.depth[:, 1:, 1:])
    assert_lands(opened(write_colmap(tmp_path, world, dense=3)), WORLD, thirds=(3,))


def test_it_runs_from_the_command_lines_door(tmp_path: Path):
    world = make_world(10, roll=12.0)
    write_colmap(tmp_path, world, tracks=make_tracks(world))
    scenes = open_scenes(f"colmap:{tmp_path}", Request(groups=4, views=3, n_ref=1, size=36))
    views, overlap = scenes.load(0)
    assert views.image.shape == (1, 3, 3, 36, 36)
    assert views.valid.any((0, 2, 3)).all()
    assert min(overlap) >= 0.2


@pytest.mark.parametrize("sparse", ["colmap_sparse/0", "colmap_text", "sfm"])
def test_models_of_other_tools_are_found(sparse: str, tmp_path: Path):
    assert opened(write_colmap(tmp_path / "room", WORLD, sparse=sparse)).name == "room"


def test_of_two_writings_of_one_model_one_is_read(tmp_path: Path):
    for sparse in ("colmap_sparse/0", "colmap_text"):
        write_colmap(tmp_path / "room", WORLD, sparse=sparse, binary=sparse == "colmap_sparse/0")
    assert find_recordings(tmp_path / "room").names == ("room",)


@pytest.mark.parametrize("sparse", ["sparse/0", "colmap/sparse/0", "sfm"])
def test_the_models_own_folder_can_be_named(sparse: str, tmp_path: Path):
    write_colmap(tmp_path / "room", WORLD, sparse=sparse, dense=1)
    recording = opened(tmp_path / "room" / sparse)
    assert recording.name == "room"
    assert_lands(recording, WORLD)


@pytest.mark.parametrize("folder", ["images_2", "images_8", "input", "."])
def test_images_are_found_in_their_usual_folders(folder: str, tmp_path: Path):
    write_colmap(tmp_path, WORLD, dense=1)
    moved = tmp_path / folder
    moved.mkdir(exist_ok=True)
    for path in sorted((tmp_path / "images").iterdir()):
        path.rename(moved / path.name)
    (tmp_path / "images").rmdir()
    assert_lands(opened(tmp_path), WORLD)


def test_images_in_the_folder_that_the_user_names(tmp_path: Path):
    write_colmap(tmp_path, WORLD, dense=1)
    (tmp_path / "images").rename(tmp_path / "photos")
    with pytest.raises(FileNotFoundError, match=r"none of the 5 images of .* exists.*--images"):
        opened(tmp_path)
    assert_lands(find_recordings(tmp_path, Reading(images="photos")).open(tmp_path.name), WORLD)


def test_images_of_another_size_scale_the_cameras(tmp_path: Path):
    """Cameras of images three times as large, and of images that lost a column: the points land as before."""
    large = replace(WORLD, intrinsics=WORLD.intrinsics * torch.tensor([3.0, 3.0, 1.0])[:, None], size=(108, 144))
    recording = opened(write_colmap(tmp_path, large, dense=1))
    torch.testing.assert_close(recording.intrinsics, WORLD.intrinsics, rtol=0, atol=1e-5)
    assert_lands(recording, WORLD)
    for path in (tmp_path / "images").iterdir():
        Image.new("RGB", (143, 108)).save(path)
    torch.testing.assert_close(opened(tmp_path).intrinsics[:, :1], large.intrinsics[:, :1] * 143 / 144)


def test_images_of_another_size_scale_the_lens(tmp_path: Path):
    world = make_world(2, size=(36, 48), focal=(35.0, 35.0))
    bent = distorted(world, (-0.2, 0.05, 0.0, 0.0), False)
    expected = opened(write_colmap(tmp_path / "a", bent, model="RADIAL", lens=(-0.2, 0.05)))
    large = replace(bent, intrinsics=bent.intrinsics * torch.tensor([3.0, 3.0, 1.0])[:, None], size=(108, 144))
    recording = opened(write_colmap(tmp_path / "b", large, model="RADIAL", lens=(-0.2, 0.05)))
    torch.testing.assert_close(recording.intrinsics, expected.intrinsics, rtol=0, atol=0.3)  # borders differ by a pixel
    ones = [load_views(one, [0], size=36, n_ref=1).image for one in (recording, expected)]
    assert (ones[0] - ones[1]).abs().mean() < 0.01


@pytest.mark.parametrize("ply", [True, False], ids=["PLY", "nothing"])
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "text"])
def test_a_model_without_points_has_cameras_and_no_truth(binary: bool, ply: bool, tmp_path: Path):
    write_colmap(tmp_path, WORLD, tracks=TRACKS, binary=binary)
    points = tmp_path / f"sparse/0/points3D.{'bin' if binary else 'txt'}"
    if ply:
        points.rename(points.with_suffix(".ply"))
    else:
        points.unlink()
    recording = opened(tmp_path)
    assert not recording.has_truth
    assert_lands(recording, WORLD, points=False)


def test_the_unit_that_the_user_names(tmp_path: Path):
    recording = find_recordings(write_colmap(tmp_path, WORLD, tracks=TRACKS), Reading(unit=0.01)).open(tmp_path.name)
    plain = opened(tmp_path)
    assert (recording.unit, plain.unit) == ("m", None)
    torch.testing.assert_close(recording.world_to_cam[:, :3, 3], plain.world_to_cam[:, :3, 3] * 0.01)
    torch.testing.assert_close(recording.track_points(0), plain.track_points(0) * 0.01)
    dense = find_recordings(write_colmap(tmp_path, WORLD, dense=1), Reading(unit=0.01)).open(tmp_path.name)
    assert dense.depth is not None
    torch.testing.assert_close(dense.depth(0), WORLD.depth[0] * 0.01)


TEXTS: dict[str, Callable[[bytes], bytes]] = {
    "byte-order mark": lambda data: b"\xef\xbb\xbf" + data,
    "byte-order mark, no comment": lambda data: b"\xef\xbb\xbf" + data.split(b"\n", 1)[1],
    "CRLF": lambda data: data.replace(b"\n", b"\r\n"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_text_of_other_systems(case: str, tmp_path: Path):
    write_colmap(tmp_path, WORLD, binary=False, dense=1)
    for part in ("cameras.txt", "images.txt", "points3D.txt"):
        edit(part, TEXTS[case])(tmp_path)
    assert_lands(opened(tmp_path), WORLD)


@pytest.mark.parametrize(
    "names", [None, ["0 a.png", "1.png", "2 7 9.png", "3 3.png", "four.png"]], ids=["plain", "odd"]
)
def test_images_without_lines_of_keypoints(names: list[str] | None, tmp_path: Path):
    write_colmap(tmp_path, WORLD, binary=False, dense=1, names=names)
    edit("images.txt", lambda data: b"\n".join(line for line in data.split(b"\n") if line))(tmp_path)
    assert_lands(opened(tmp_path), WORLD)


def test_names_as_windows_writes_them(tmp_path: Path):
    write_colmap(tmp_path, WORLD, binary=False, dense=1, names=[f"cam/{index}.png" for index in range(5)])
    edit("images.txt", lambda data: data.replace(b"cam/", b"CAM\\"))(tmp_path)
    recording = opened(tmp_path)
    assert recording.names == tuple(f"CAM\\{index}.png" for index in range(5))
    assert_lands(replace(recording, depth=WORLD.depth.__getitem__), WORLD)


def test_a_camera_that_failed_takes_only_its_images_along(tmp_path: Path):
    write_colmap(tmp_path, WORLD, binary=False, dense=1)
    edit("cameras.txt", lambda data: data + b"8 SIMPLE_RADIAL 48 36 4000000 24 18 0\n")(tmp_path)
    swap("images.txt", " 7 frame_3", " 8 frame_3")(tmp_path)
    recording = opened(tmp_path)
    assert recording.names == tuple(f"frame_{index}.png" for index in (0, 1, 2, 4))
    assert "a failed reconstruction has such lenses" in recording.dropped[0].reason


# --- refusals --------------------------------------------------------------------------------------------------------


def edit(part: str, change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    def apply(root: Path) -> None:
        path = root / f"sparse/0/{part}"
        path.write_bytes(change(path.read_bytes()))

    return apply


def swap(part: str, old: str | bytes, new: str | bytes) -> Callable[[Path], object]:
    old, new = (value.encode() if isinstance(value, str) else value for value in (old, new))

    def change(data: bytes) -> bytes:
        assert old in data
        return data.replace(old, new, 1)

    return edit(part, change)


PART = ("cameras.bin", "images.bin", "points3D.bin")
REFUSED_BINARY: dict[str, tuple[Callable[[Path], object], str]] = {
    **{f"{one}, truncated": (edit(one, lambda data: data[:-9]), f"{one} ends in the middle") for one in PART},
    **{f"{one}, empty": (edit(one, lambda data: b""), f"{one} ends in the middle") for one in PART},
    **{f"{one}, longer": (edit(one, lambda data: data + b"\0"), f"{one} is longer than its entries") for one in PART},
    **{
        f"{one}, gone": (lambda r, one=one: (r / f"sparse/0/{one}").unlink(), f"{one} does not exist")
        for one in PART[1:2]
    },
    **{
        f"{one}, a huge count": (
            edit(one, lambda data: struct.pack("<Q", 2**60) + data[8:]),
            f"{one} ends in the middle|expected|parameters",
        )
        for one in PART
    },
    "no images": (edit("images.bin", lambda data: bytes(8)), "names no image"),
    "camera model": (
        edit("cameras.bin", lambda d: d[:12] + struct.pack("<i", 99) + d[16:]),
        "camera 7 of .* has the camera model number 99, expected one of SIMPLE_PINHOLE.*image_undistorter",
    ),
    "failed lens": (edit("cameras.bin", lambda d: d[:32] + struct.pack("<d", 2752345) + d[40:]), "0.05 to 100 times"),
    "NaN focal": (edit("cameras.bin", lambda d: d[:32] + struct.pack("<d", float("nan")) + d[40:]), "has parameters"),
    "principal point": (
        edit("cameras.bin", lambda d: d[:48] + struct.pack("<d", 900) + d[56:]),
        "outside the image",
    ),
    "another camera": (edit("cameras.bin", lambda d: d[:8] + struct.pack("<I", 8) + d[12:]), "has camera 7, which"),
    "points gone": (edit("points3D.bin", lambda data: bytes(8)), "sees points that .* does not have"),
    "NaN point": (edit("points3D.bin", lambda d: d[:16] + struct.pack("<d", float("nan")) + d[24:]), "is not finite"),
}
LEFT_OUT: dict[str, tuple[Callable[[Path], object], str]] = {
    "no image": (lambda r: (r / "images/frame_1.png").unlink(), "frame_1.png, which .* registers, does not exist"),
    "image outside": (swap("images.bin", "frame_1.png", "../../x.png"), "x.png leads outside.*--follow-links"),
    "long quaternion": (edit("images.bin", lambda d: d[:12] + struct.pack("<4d", 2, 0, 0, 0) + d[44:]), "of length 1"),
    "NaN camera": (edit("images.bin", lambda d: d[:44] + struct.pack("<d", float("nan")) + d[52:]), "holds a NaN"),
    "another shape": (
        lambda r: save_rgb(r / "images/frame_2.png", WORLD.image[2].mT),
        "is 48 x 36, expected the shape",
    ),
    "the same name twice": (swap("images.bin", "frame_1.png", "frame_2.png"), "the only file for 2 registered images"),
}


@pytest.mark.parametrize("case", REFUSED_BINARY)
def test_broken_binary_models_are_refused(case: str, tmp_path: Path):
    root = write_colmap(tmp_path / "room", WORLD, tracks=TRACKS)
    save_rgb(tmp_path / "x.png", WORLD.image[0])
    change, message = REFUSED_BINARY[case]
    change(root)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        opened(root)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", LEFT_OUT)
def test_broken_images_of_a_model_are_left_out_and_counted(case: str, tmp_path: Path):
    root = write_colmap(tmp_path / "room", WORLD, tracks=TRACKS)
    save_rgb(tmp_path / "x.png", WORLD.image[0])
    change, message = LEFT_OUT[case]
    change(root)
    recording = opened(root)
    assert 3 <= len(recording.names) < 5
    assert len(recording.names) + len(recording.dropped) == 5
    assert re.search(message, recording.dropped[0].reason)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        find_recordings(root, Reading(strict=True)).open("room")
    assert "\n" not in str(caught.value)


REFUSED_TEXT: dict[str, tuple[Callable[[Path], object], str]] = {
    "bytes": (edit("images.txt", lambda data: b"\xff\xff"), "images.txt is not a text file"),
    "no size": (swap("cameras.txt", "7 PINHOLE 48 36", "7 PINHOLE"), "has parameters|expected"),
    "word": (swap("cameras.txt", "48 36", "wide 36"), "a camera of .* expected whole numbers"),
    "model": (swap("cameras.txt", "PINHOLE", "WIDE"), "has the camera model WIDE, expected one of"),
    "panorama": (swap("cameras.txt", "PINHOLE", "EQUIRECTANGULAR"), "EQUIRECTANGULAR: images of 360 degrees"),
    "parameters": (edit("cameras.txt", lambda d: d[: d.rfind(b" ")]), "expected 4 numbers"),
    "short image": (swap("images.txt", " 7 frame_4.png", ""), "expected ID, 7 numbers, CAMERA_ID and NAME"),
    "keypoints": (swap("images.txt", "0.5 0.5 -1", "0.5 -1"), "the keypoints of frame_4.png in .* are not whole"),
    "point": (swap("points3D.txt", f"{11} ", "11 x "), "expected"),
    "a point twice": (swap("points3D.txt", "\n13 ", "\n11 "), "names a point twice"),
}


@pytest.mark.parametrize("word", ["nan", "x"])
def test_an_image_whose_pose_is_no_number_is_left_out(word: str, tmp_path: Path):
    root = write_colmap(tmp_path, WORLD, binary=False, tracks=TRACKS)
    path = next(root.rglob("images.txt"))
    lines = path.read_text().split("\n")
    row = next(place for place, line in enumerate(lines) if line.endswith("frame_1.png"))
    lines[row] = " ".join(word if place == 5 else value for place, value in enumerate(lines[row].split()))
    path.write_text("\n".join(lines))
    recording = opened(root)
    assert [one.name for one in recording.dropped] == ["frame_1.png"]
    assert "holds a NaN" in recording.dropped[0].reason
    assert len(recording.names) == 4


@pytest.mark.parametrize("case", REFUSED_TEXT)
def test_broken_text_models_are_refused(case: str, tmp_path: Path):
    root = write_colmap(tmp_path, WORLD, binary=False, tracks=TRACKS)
    change, message = REFUSED_TEXT[case]
    change(root)
    with pytest.raises(ValueError, match=message) as caught:
        opened(root)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"48&36&1&", b"48&36&3&" + bytes(48 * 36 * 12), b"99999999&1&1&"])
def test_broken_depth_maps_are_refused_when_they_are_read(content: bytes, tmp_path: Path):
    root = write_colmap(tmp_path, WORLD, dense=1)
    (root / "stereo/depth_maps/frame_0.png.geometric.bin").write_bytes(content)
    with pytest.raises(ValueError, match=r"frame_0.png.geometric.bin is not a whole depth map"):
        load_views(opened(root), [0], size=12, n_ref=1)


def test_other_folders_and_images_are_refused(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"is not a folder; expected images/ beside sparse/0"):
        find_recordings(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"holds no sparse model, down to 3 folders deep"):
        find_recordings(tmp_path)
    root = write_colmap(tmp_path / "a", WORLD, dense=1, model="SIMPLE_RADIAL", lens=(0.1,))
    with pytest.raises(ValueError, match=r"beside distorted images, expected an undistorted workspace"):
        opened(root)
    write_colmap(tmp_path / "b", WORLD, model="SIMPLE_RADIAL", lens=(0.1,))


def test_numbers_of_models_are_pycolmaps():
    for name, number in NUMBERS.items():
        assert int(getattr(pycolmap.CameraModelId, name)) == number


def test_the_readers_parameters_are_counted_as_pycolmap_does():
    for name, kind in MODELS.items():
        camera: Any = pycolmap.Camera.create_from_model_name(1, name, 50.0, 48, 36)
        assert len(camera.params) == kind.parameters
        assert int(camera.model) == kind.number


def test_images_that_are_stored_turned_are_turned_where_the_cameras_size_asks_for_it(tmp_path: Path):
    for name in ("stored", "turned"):
        write_colmap(tmp_path / name, WORLD, dense=1, binary=True)
    for path in (tmp_path / "turned/images").glob("*.png"):
        exif = Image.Exif()
        exif[0x0112] = 6
        with Image.open(path) as image:
            image.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    first, second = opened(tmp_path / "stored"), opened(tmp_path / "turned")
    assert first.sizes == second.sizes
    assert all(torch.equal(first.colour(index), second.colour(index)) for index in range(len(first.names)))


def test_an_image_of_a_camera_that_is_not_there_is_left_out(tmp_path: Path):
    write_colmap(tmp_path, WORLD, binary=False)
    path = tmp_path / "sparse/0/images.txt"
    lines = path.read_text().splitlines()
    place = next(index for index, line in enumerate(lines) if line.endswith("frame_1.png"))
    words = lines[place].split()
    words[8] = "99"
    path.write_text("\n".join([*lines[:place], " ".join(words), *lines[place + 1 :]]) + "\n", encoding="utf-16")
    recording = opened(tmp_path)
    assert (len(recording.names), [one.name for one in recording.dropped]) == (4, ["frame_1.png"])
    assert "has camera 99, which" in recording.dropped[0].reason


def test_strict_reading_takes_no_other_ending(tmp_path: Path):
    write_colmap(tmp_path, WORLD)
    for path in (tmp_path / "images").glob("*.png"):
        path.rename(path.with_suffix(".bmp"))
    assert len(opened(tmp_path).names) == 5
    with pytest.raises((ValueError, FileNotFoundError), match="none of the 5 images"):
        find_recordings(tmp_path, Reading(strict=True)).open(tmp_path.name)
