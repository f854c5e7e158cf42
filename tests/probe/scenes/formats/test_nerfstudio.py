"""nerfstudio and DL3DV folders: written from a known scene, read back to the same cameras, colours and points."""

import json
import math
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import Float
from PIL import Image
from scipy.spatial.transform import Rotation
from small_nerfstudio import APPLIED, save_rgb, to_opengl, write_nerfstudio
from small_world import World, assert_lands, make_world, photograph, rays
from torch import Tensor

from probe.geometry import pixel_centres, point_map_to_depth
from probe.scenes import Request, open_scenes
from probe.scenes.depth_files import read_depth_map
from probe.scenes.formats.nerfstudio import find_recordings
from probe.scenes.grouping import compare_views
from probe.scenes.reading import Folder, Reading
from probe.scenes.recordings import Recording, load_views

WORLD = make_world(5)


def opened(root: Path) -> Recording:
    found = find_recordings(root)
    return found.open(found.names[0])


VARIANTS: dict[str, dict[str, Any]] = {
    "millimetres": {},
    "npy, another unit": {"depth": "npy", "unit": 0.01},
    "tenths of millimetres": {"unit": 1e-4},
    "intrinsics per frame": {"per_frame": True, "applied": None},
    "applied scale": {"scale": 0.4, "unit": 2e-4},
    "images_4 beside full-size cameras": {"folder": "images_4", "full": 4.0, "unit": 2e-4},
    "images_8, no suffix": {"folder": "images_8", "full": 8.0, "suffix": "", "unit": 2e-4},
    "JPEG": {"suffix": ".jpg", "unit": 2e-4},
    "zero distortion": {"k1": 0.0, "p2": 0.0, "unit": 2e-4},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_points_land_where_they_are_seen(variant: str, tmp_path: Path):
    recording = opened(write_nerfstudio(tmp_path / "room", WORLD, **VARIANTS[variant]))
    assert recording.names == tuple(f"frame_{index + 1:05d}" for index in range(5))
    assert (recording.unit, recording.name) == ("m", "room")
    torch.testing.assert_close(recording.cameras, WORLD.world_to_cam, rtol=0, atol=1e-5)
    jpeg = variant == "JPEG"
    assert_lands(recording, WORLD, colour=0.03 if jpeg else 0.004)


def test_dl3dv_is_many_recordings_without_depth(tmp_path: Path):
    for batch, scene in (("1K", "b" * 64), ("1K", "a" * 64), ("2K", "c" * 64)):
        root = tmp_path / batch / scene
        write_nerfstudio(root, WORLD, depth=None, folder="images_4", full=4.0)
    found = find_recordings(tmp_path)
    assert found.names == (f"1K/{'a' * 64}", f"1K/{'b' * 64}", f"2K/{'c' * 64}")
    recording = found.open(found.names[1])
    assert (recording.unit, recording.has_truth) == (None, False)
    assert_lands(recording, WORLD, points=False)
    with pytest.raises(ValueError, match=r"dl3dv:.* has no depth.*name a source of true points"):
        open_scenes(f"dl3dv:{tmp_path}", Request(groups=1, views=2, n_ref=1, size=16)).load(0)


def distorted(world: World, coefficients: tuple[float, ...], fisheye: bool) -> World:
    """Photograph a world through a lens: the ray of each pixel is found by iteration."""
    wanted = rays(world.intrinsics, world.size)[..., :2]
    found = wanted.clone()
    for _ in range(60):
        found = found + wanted - bend(found, coefficients, fisheye)
    local = torch.cat([found, torch.ones_like(found[..., :1])], -1)
    image, points = photograph(world.shapes, world.world_to_cam, local)
    depth = (world.world_to_cam[:, 2, :3, None, None] * points).sum(1) + world.world_to_cam[:, 2, 3, None, None]
    return World(**{**vars(world), "image": image, "depth": depth})


def bend(xy: Float[Tensor, "*batch 2"], coefficients: tuple[float, ...], fisheye: bool) -> Float[Tensor, "*batch 2"]:
    """OpenCV's two models, written out."""
    x, y = xy.unbind(-1)
    r2 = x * x + y * y
    if fisheye:
        r = r2.sqrt().clamp(min=1e-9)
        angle = r.atan()
        k1, k2, k3, k4 = coefficients
        far = angle * (1 + k1 * angle**2 + k2 * angle**4 + k3 * angle**6 + k4 * angle**8)
        return xy * (far / r)[..., None]
    k1, k2, p1, p2 = coefficients
    radial = 1 + k1 * r2 + k2 * r2 * r2
    bent_x = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
    bent_y = y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
    return torch.stack([bent_x, bent_y], -1)


LENSES = {"OPENCV": (-0.2, 0.05, 0.01, -0.008), "OPENCV_FISHEYE": (0.05, -0.02, 0.01, 0.0)}


@pytest.mark.parametrize("model", LENSES)
def test_distorted_images_become_pinhole_images(model: str, tmp_path: Path):
    """Registered to a quarter of a pixel: of nine shifts of the true image, the loaded one is nearest to none."""
    fisheye = model == "OPENCV_FISHEYE"
    world = make_world(3, size=(72, 96), focal=(70.0, 74.0))
    keys = ("k1", "k2", "k3", "k4") if fisheye else ("k1", "k2", "p1", "p2")
    lens = dict(zip(keys, LENSES[model], strict=True))
    root = write_nerfstudio(tmp_path, distorted(world, LENSES[model], fisheye), camera_model=model, unit=2e-4, **lens)
    views = load_views(opened(root), range(3), size=72, n_ref=1)
    torch.testing.assert_close(views.world_to_cam[0], world.world_to_cam, rtol=0, atol=1e-5)
    errors = {}
    for shift in ((x, y) for x in (-0.25, 0.0, 0.25) for y in (-0.25, 0.0, 0.25)):
        moved = views.intrinsics[0].clone()
        moved[:, :2, 2] += torch.tensor(shift)
        image, points = photograph(world.shapes, world.world_to_cam, rays(moved, (72, 72)))
        errors[shift] = (image - views.image[0]).abs().mean().item()
        if shift == (0.0, 0.0):
            distance = (points - views.point_map[0]).norm(dim=1)
            assert distance.median() < 0.02
            assert (distance < 0.1).float().mean() > 0.9
    assert min(errors, key=errors.__getitem__) == (0.0, 0.0)
    assert errors[0.0, 0.0] < 0.02
    assert views.valid.all()


def test_masked_pixels_are_not_valid(tmp_path: Path):
    mask = torch.ones(WORLD.size)
    mask[3:9, 20:40] = 0
    views = load_views(opened(write_nerfstudio(tmp_path, WORLD, mask=mask, unit=2e-4)), range(5), size=36, n_ref=1)
    assert torch.equal(views.valid[0], (mask > 0)[:, 6:42].expand(5, 36, 36))


def test_blender_files_give_the_field_of_view_and_white_behind(tmp_path: Path):
    root = tmp_path / "lego"
    world = make_world(2, centre=(0.0, 0.0), focal=(40.0, 40.0))
    write_nerfstudio(root, world, depth=None, applied=None, named="train", folder="train", suffix="")
    whole = json.loads((root / "transforms.json").read_text())
    frames = whole["frames"]
    (root / "transforms.json").unlink()
    angle = 2 * math.atan(world.size[1] / 2 / 40.0)
    (root / "transforms_train.json").write_text(json.dumps({"camera_angle_x": angle, "frames": frames}))
    assert_lands(opened(root), world, points=False)
    pixels = np.zeros((36, 48, 4), np.uint8)
    pixels[..., 0], pixels[:18, :, 3] = 255, 255
    Image.fromarray(pixels).save(root / "train/frame_00001.png")
    image = load_views(opened(root), [0], size=36, n_ref=1).image[0, 0]
    assert torch.equal(image[:, :18], torch.tensor([1.0, 0, 0])[:, None, None].expand(3, 18, 36))
    assert torch.equal(image[:, 18:], torch.ones(3, 18, 36))


def test_it_runs_from_the_command_lines_door(tmp_path: Path):
    write_nerfstudio(tmp_path, make_world(10, roll=12.0), unit=2e-4)
    scenes = open_scenes(f"nerfstudio:{tmp_path}", Request(groups=4, views=3, n_ref=1, size=36))
    views, overlap = scenes.load(0)
    assert views.image.shape == (1, 3, 3, 36, 36)
    assert views.names == (scenes.names[0],)
    assert min(overlap) >= 0.2


def write_again(root: Path, change: Callable[[dict[str, Any]], object], name: str = "transforms.json") -> None:
    whole = json.loads((root / "transforms.json").read_text())
    change(whole)
    (root / name).write_text(json.dumps(whole))


def each_frame(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], object]:
    return lambda whole: [change(frame) for frame in whole["frames"]]


def scaled_axes(frame: dict[str, Any]) -> None:
    frame["transform_matrix"] = [[1.7 * value for value in row[:3]] + row[3:] for row in frame["transform_matrix"]]


def swap_depth_key(whole: dict[str, Any]) -> None:
    for frame in whole["frames"]:
        frame["depth_path"] = frame.pop("depth_file_path")
    whole["integer_depth_scale"] = whole.pop("depth_unit_scale_factor")


def mirror(whole: dict[str, Any]) -> None:
    """Write the cameras of a world that applied_transform mirrors."""
    flip = np.diag([1.0, 1.0, -1.0, 1.0])
    whole["applied_transform"] = (flip[:3] @ np.array([*whole["applied_transform"], [0, 0, 0, 1]])).tolist()
    for frame in whole["frames"]:
        frame["transform_matrix"] = (flip @ np.array(frame["transform_matrix"])).tolist()


AS_PEOPLE_WRITE: dict[str, Callable[[dict[str, Any]], object]] = {
    "back-slashes": each_frame(lambda f: f.update(file_path=f["file_path"].replace("/", "\\"))),
    "letter case": each_frame(lambda f: f.update(file_path=f["file_path"].upper())),
    "another ending": each_frame(lambda f: f.update(file_path=f["file_path"].replace(".png", ".jpg"))),
    "another machine": each_frame(
        lambda f: f.update(file_path=f"/home/me/{f['file_path']}", depth_file_path=f"C:\\me\\{f['depth_file_path']}")
    ),
    "inside the folder by dots": each_frame(lambda f: f.update(file_path=f"images/../{f['file_path']}")),
    "3 x 4 poses": each_frame(lambda f: f.update(transform_matrix=f["transform_matrix"][:3])),
    "scaled axes": each_frame(scaled_axes),
    "4 x 4 applied_transform": lambda w: w["applied_transform"].append([0, 0, 0, 1]),
    "mirrored": mirror,
    "numbers as text": lambda w: w.update({key: str(w[key]) for key in ("w", "h", "fl_x", "cx")}),
    "depth of instant-ngp": swap_depth_key,
    "lower case model": lambda w: w.update(camera_model="simple_pinhole"),
}


@pytest.mark.parametrize("case", AS_PEOPLE_WRITE)
def test_points_land_as_people_write_the_file(case: str, tmp_path: Path):
    root = write_nerfstudio(tmp_path, WORLD, unit=2e-4)
    write_again(root, AS_PEOPLE_WRITE[case])
    recording = opened(root)
    assert len(recording.dropped) == 0
    assert_lands(recording, WORLD)


def test_a_byte_order_mark_and_the_file_named(tmp_path: Path):
    path = write_nerfstudio(tmp_path, WORLD, unit=2e-4) / "transforms.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    found = find_recordings(path)
    assert found.names == (tmp_path.name,)
    assert_lands(found.open(tmp_path.name), WORLD)


def test_images_beside_the_file_and_in_the_folder_that_the_user_names(tmp_path: Path):
    root = write_nerfstudio(tmp_path, WORLD, unit=2e-4)
    for path in sorted((root / "images").iterdir()):
        path.rename(root / path.name)
    assert_lands(opened(root), WORLD)
    (root / "other").mkdir()
    for path in sorted(root.glob("*.png")):
        path.rename(root / "other" / path.name)
    with pytest.raises(ValueError, match=r"has no image; expected .*images/frame_00001.png, or .* --images"):
        opened(root)
    assert_lands(find_recordings(root, Reading(images="other")).open(tmp_path.name), WORLD)


def test_splits_are_read_together(tmp_path: Path):
    root = write_nerfstudio(tmp_path, WORLD, unit=2e-4)
    for part, frames in (("train", slice(0, 3)), ("test", slice(2, 5))):  # one is in both
        write_again(root, lambda w, frames=frames: w.update(frames=w["frames"][frames]), f"transforms_{part}.json")
    (root / "transforms.json").unlink()
    assert find_recordings(root).note == "read together: transforms_test.json, transforms_train.json"
    recording = opened(root)
    assert recording.names == tuple(f"frame_{index + 1:05d}" for index in range(5))
    assert [one.reason.split(" is listed ")[1] for one in recording.dropped] == ["2 times, with the same camera"]
    assert_lands(recording, WORLD)


def test_blenders_splits_have_the_same_names(tmp_path: Path):
    world = make_world(4, centre=(0.0, 0.0), focal=(40.0, 40.0))
    for part in ("train", "test"):
        write_nerfstudio(tmp_path, world, depth=None, applied=None, named=part, folder=part, suffix="")
        (tmp_path / "transforms.json").rename(tmp_path / f"transforms_{part}.json")
    recording = opened(tmp_path)
    assert len(set(recording.names)) == len(recording.names) == 8
    assert_lands(recording, world, frames=(0, 1, 2, 3, 0, 1, 2, 3), points=False)


@pytest.mark.parametrize("suffix", ["npy", "tiff"])
def test_depth_in_metres_without_a_unit_is_recognised(suffix: str, tmp_path: Path):
    root = write_nerfstudio(tmp_path, WORLD, depth="npy", unit=1.0)
    if suffix == "tiff":
        for path in sorted((root / "depth").iterdir()):
            Image.fromarray(np.load(path)).save(path.with_suffix(".tiff"))
            path.unlink()
    assert_lands(opened(root), WORLD)
    write_again(root, lambda w: w.pop("depth_unit_scale_factor"))
    with pytest.raises(
        ValueError, match=r"at the median .* 0% of it agree .* times 1000 it .*, pass --depth-scale 1 \("
    ):
        opened(root)
    assert_lands(find_recordings(root, Reading(depth_scale=1.0)).open(tmp_path.name), WORLD)


def test_depth_in_millimetres_that_is_read_as_metres_names_the_value_to_pass(tmp_path: Path):
    root = write_nerfstudio(tmp_path, WORLD, unit=1e-3)
    write_again(root, lambda w: w.update(depth_unit_scale_factor=1.0))
    with pytest.raises(ValueError, match=r"times 0.001 it is .*, pass --depth-scale 1000 \("):
        opened(root)


EXR_CHANNELS: dict[str, Callable[[np.ndarray], dict[str, np.ndarray]]] = {
    "Z": lambda depth: {"Z": depth},
    "layer": lambda depth: {"R": depth * 0, "ViewLayer.Depth.Z": depth},
    "colours": lambda depth: {"R": depth, "G": depth, "B": depth, "A": depth * 0 + 1},
}


@pytest.mark.parametrize("case", EXR_CHANNELS)
def test_openexr_depth(case: str, tmp_path: Path):
    exr = pytest.importorskip("OpenEXR", reason="OpenEXR (extra exr) is not installed")
    root = write_nerfstudio(tmp_path, WORLD, depth="npy", unit=1.0)
    header = {"compression": exr.ZIP_COMPRESSION, "type": exr.scanlineimage}
    for path in sorted((root / "depth").iterdir()):
        exr.File(header, EXR_CHANNELS[case](np.load(path).astype(np.float32))).write(str(path.with_suffix(".exr")))
        path.unlink()
    assert_lands(find_recordings(root, Reading(depth_scale=1.0)).open(tmp_path.name), WORLD)


def test_broken_openexr_depth_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.exr").write_bytes(b"\x76\x2f\x31\x01" + bytes(50))
    monkeypatch.setitem(sys.modules, "OpenEXR", None)
    with pytest.raises(ValueError, match=r"a.exr is an OpenEXR image, which needs OpenEXR .*attention-probing\[exr\]"):
        read_depth_map(tmp_path / "a.exr", Folder(tmp_path))
    monkeypatch.undo()
    exr = pytest.importorskip("OpenEXR", reason="OpenEXR (extra exr) is not installed")
    with pytest.raises(ValueError, match=r"a.exr is not a whole OpenEXR image: "):
        read_depth_map(tmp_path / "a.exr", Folder(tmp_path))
    zeros = np.zeros((2, 3), np.float32)
    exr.File({"type": exr.scanlineimage}, {"R": zeros, "G": zeros + 1}).write(str(tmp_path / "b.exr"))
    with pytest.raises(ValueError, match=r"b.exr has the channels G, R: which is depth cannot be told"):
        read_depth_map(tmp_path / "b.exr", Folder(tmp_path))


def test_cameras_in_another_unit(tmp_path: Path):
    root = write_nerfstudio(tmp_path, WORLD, unit=2e-4, scale=1.0)
    centimetres = each_frame(
        lambda f: f.update(transform_matrix=[[*row[:3], row[3] * 100] for row in f["transform_matrix"][:3]])
    )
    write_again(root, lambda w: (w.pop("applied_transform"), centimetres(w)))
    with pytest.raises(ValueError, match=r"times 100 it is"):
        opened(root)
    recording = find_recordings(root, Reading(unit=0.01)).open(tmp_path.name)
    views = load_views(recording, range(5), size=36, n_ref=1)
    assert overlap_of(views) > 0.5


def overlap_of(views: Any) -> float:
    pairs = compare_views(
        point_map_to_depth(views.point_map, views.world_to_cam)[0], views.intrinsics[0], views.world_to_cam[0]
    )
    return float(pairs.overlap.mean())


@pytest.mark.parametrize("corrected", [True, False])
def test_polycams_raw_export(corrected: bool, tmp_path: Path):
    write_nerfstudio(tmp_path / "room", WORLD, applied=None)
    keyframes, start = tmp_path / "room/keyframes", "corrected_" if corrected else ""
    (keyframes / f"{start}cameras").mkdir(parents=True)
    whole = json.loads((tmp_path / "room/transforms.json").read_text())
    for frame in whole["frames"]:
        pose = {f"t_{i}{j}": frame["transform_matrix"][i][j] for i in range(3) for j in range(4)}
        lens = {
            "fx": whole["fl_x"],
            "fy": whole["fl_y"],
            "cx": whole["cx"],
            "cy": whole["cy"],
            "width": 48,
            "height": 36,
        }
        path = keyframes / f"{start}cameras/{Path(frame['file_path']).stem}.json"
        path.write_text(json.dumps({**pose, **lens, "blur_score": 90.0}))
    (tmp_path / "room/images").rename(keyframes / f"{start}images")
    (tmp_path / "room/depth").rename(keyframes / "depth")
    (tmp_path / "room/transforms.json").unlink()
    recording = opened(tmp_path / "room")
    assert (recording.name, recording.unit) == ("room", "m")
    assert_lands(recording, WORLD)
    broken = keyframes / f"{start}cameras/frame_00003.json"
    broken.write_text("{}")
    recording = opened(tmp_path)
    assert len(recording.names) == 4
    assert "has no 't_00'" in recording.dropped[0].reason


@pytest.mark.parametrize("own", [True, False])
def test_record3ds_raw_export(own: bool, tmp_path: Path):
    root = tmp_path / "EXR_RGBD"
    for index, image in enumerate(WORLD.image):
        save_rgb(root / f"rgb/{index * 5}.png", image)  # 5 before 10: by number
    poses = [torch.tensor(to_opengl(one)) for one in WORLD.world_to_cam]
    turns = [Rotation.from_matrix(pose[:3, :3].numpy()).as_quat().tolist() for pose in poses]
    (fx, _, cx), (_, fy, cy), _ = WORLD.intrinsics[0].tolist()
    rows = [[*turn, *pose[:3, 3].tolist()] for turn, pose in zip(turns, poses, strict=True)]
    metadata = {"poses": rows, "K": [fx, 0, 0, 0, fy, 0, cx, cy, 1], "w": 48, "h": 36}
    if own:
        metadata |= {"K": [1.0] * 9, "perFrameIntrinsicCoeffs": [[fx, fy, cx, cy]] * 5}
    (root / "metadata").write_text(json.dumps(metadata))
    recording = opened(tmp_path)
    assert recording.names == ("0", "5", "10", "15", "20")
    assert_lands(recording, WORLD, points=False)
    (root / "rgb/20.png").unlink()
    with pytest.raises(ValueError, match=r"metadata has 5 poses and .* 4 images .* cannot be told"):
        opened(tmp_path)
    for place in range(4):
        (root / f"rgb/{place * 5}.png").rename(root / f"rgb/{place}.png")
    (root / "rgb/._0.png").write_bytes(b"what macOS leaves")
    recording = opened(tmp_path)
    assert (recording.names, [one.name for one in recording.dropped]) == (("0", "1", "2", "3"), ["rgb/4.jpg"])
    assert_lands(recording, WORLD, frames=(0, 1, 2, 3), points=False)


def test_an_absolute_path_that_leads_elsewhere_is_the_copy_below_the_folder(tmp_path: Path):
    first = write_nerfstudio(tmp_path / "first", WORLD, unit=2e-4)
    write_again(first, each_frame(lambda f: f.update(file_path=str(first / f["file_path"]))))
    shutil.copytree(first, tmp_path / "copy")
    assert_lands(opened(tmp_path / "copy"), WORLD)


# --- refusals --------------------------------------------------------------------------------------------------------


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def apply(root: Path) -> None:
        whole = json.loads((root / "transforms.json").read_text())
        change(whole)
        (root / "transforms.json").write_text(json.dumps(whole))

    return apply


def first(**values: Any) -> Callable[[Path], object]:
    return edit(lambda whole: whole["frames"][0].update(values))


def top(**values: Any) -> Callable[[Path], object]:
    return edit(lambda whole: whole.update(values))


def matrix(row: int, column: int, value: float) -> Callable[[Path], object]:
    return edit(lambda whole: whole["frames"][0]["transform_matrix"][row].__setitem__(column, value))


def outside(root: Path) -> None:
    save_rgb(root.parent / "outside.png", torch.zeros(3, 36, 48))
    first(file_path="../outside.png")(root)


LEFT_OUT: dict[str, tuple[Callable[[Path], object], str]] = {
    "a frame that is none": (edit(lambda w: w["frames"].__setitem__(0, 3)), "frame 0 of .* has no 'file_path'"),
    "no file_path": (edit(lambda w: w["frames"][0].pop("file_path")), "frame 0 of .* has no 'file_path'"),
    "no image": (first(file_path="images/gone.png"), "frame images/gone.png of .* has no image; expected"),
    "image outside": (outside, "outside.png leads outside"),
    "image twice": (first(file_path="images/frame_00001.png"), "is listed 2 times, with different cameras"),
    "no matrix": (edit(lambda w: w["frames"][0].pop("transform_matrix")), "has no 'transform_matrix'"),
    "3 x 3 matrix": (
        first(transform_matrix=[[1, 0, 0]] * 3),
        "transform_matrix of .* has 3 x 3 numbers, expected 4 x 4",
    ),
    "words": (first(transform_matrix=[["a"]]), r"transform_matrix of .* expected 4 x 4 numbers"),
    "NaN camera": (matrix(0, 0, math.nan), "holds a NaN or infinite number"),
    "scaled camera": (matrix(0, 0, 9.0), "is not a rigid pose"),
    "depth for some": (edit(lambda w: w["frames"][0].pop("depth_file_path")), "names no depth file, as others do"),
    "no depth file": (lambda r: (r / "depth/frame_00002.png").unlink(), "frame_00002.png does not exist"),
}


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated JSON": (
        lambda r: (r / "transforms.json").write_text('{"frames": ['),
        "not whole JSON: .*; is the download",
    ),
    "a list": (lambda r: (r / "transforms.json").write_text("[]"), "has no 'frames'"),
    "no frames": (top(frames=[]), "lists no frames"),
    "frames of another type": (top(frames=3), "has frames = '3', expected list"),
    "no focal": (edit(lambda w: [w.pop("fl_x")]), "has neither fl_x nor camera_angle_x"),
    "NaN focal": (top(fl_x=math.nan), "has fl_x = nan, expected a finite number"),
    "negative focal": (top(fl_x=-3), "expected positive pixels"),
    "focal of another type": (top(fl_x="wide"), "has fl_x = 'wide', expected int or float"),
    "principal point": (top(cx=900), "outside the image of width 48, height 36"),
    "another shape": (top(w=100), "is 36 x 48, expected the shape of h 36 x w 100"),
    "k4 of OPENCV": (top(k4=0.2), r"has k4 = 0.2, which camera_model OPENCV does not have.*FULL_OPENCV"),
    "tangential fisheye": (
        top(camera_model="OPENCV_FISHEYE", p1=0.1),
        "has p1 = 0.1, which camera_model OPENCV_FISHEYE",
    ),
    "instant-ngp's panorama": (top(equirectangular=True), "has equirectangular, a lens of instant-ngp"),
    "failed lens": (top(fl_x=2752345), "expected 0.05 to 100 times its longer side"),
    "angle": (edit(lambda w: (w.pop("fl_x"), w.update(camera_angle_x=7))), "expected radians between 0 and pi"),
    "mirror": (
        top(applied_transform=[[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 0]]),
        "mirrors the world, but its cameras",
    ),
    "depth unit": (top(depth_unit_scale_factor=0), "has a depth unit of 0.0, expected a positive number"),
    "camera model": (
        top(camera_model="EQUIRECTANGULAR"),
        "has the camera model EQUIRECTANGULAR: images of 360 degrees",
    ),
    "applied transform": (top(applied_transform=(2 * APPLIED).tolist()), "is not a rotation and a translation"),
    "applied scale": (top(applied_scale=0), "has applied_scale = 0.0, expected a positive number"),
}


@pytest.mark.parametrize("case", LEFT_OUT)
def test_broken_frames_are_left_out_and_counted(case: str, tmp_path: Path):
    root = write_nerfstudio(tmp_path / "room", make_world(4), unit=2e-4)
    change, message = LEFT_OUT[case]
    change(root)
    recording = opened(root)
    assert 2 <= len(recording.names) < 4
    assert len(recording.names) + len(recording.dropped) == 4
    assert re.search(message, recording.dropped[0].reason)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        find_recordings(root, Reading(strict=True)).open("room")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", REFUSED)
def test_broken_folders_are_refused(case: str, tmp_path: Path):
    root = write_nerfstudio(tmp_path / "room", make_world(2), unit=2e-4)
    change, message = REFUSED[case]
    change(root)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        opened(root)
    assert "\n" not in str(caught.value)


BROKEN_PIXELS: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated image": (
        lambda r: cut(r / "images/frame_00001.png"),
        "frame_00001.png is not a whole (PNG|JPEG) image",
    ),
    "numbers as colour": (
        lambda r: Image.fromarray(np.zeros((36, 48), np.float32)).save(r / "images/frame_00001.png", "TIFF"),
        r"frame_00001.png .* 32-bit numbers \(mode F\), expected colours",
    ),
    "truncated depth": (lambda r: cut(r / "depth/frame_00001.png"), "frame_00001.png is not a whole (PNG|JPEG) image"),
    "8-bit depth": (
        lambda r: Image.fromarray(np.zeros((36, 48), np.uint8)).save(r / "depth/frame_00001.png"),
        "frame_00001.png .* mode L, expected a 16-bit",
    ),
}


def cut(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


@pytest.mark.parametrize("case", BROKEN_PIXELS)
def test_broken_images_are_refused_when_they_are_read(case: str, tmp_path: Path):
    root = write_nerfstudio(tmp_path / "room", make_world(2), unit=2e-4)
    change, message = BROKEN_PIXELS[case]
    change(root)
    with pytest.raises(ValueError, match=message) as caught:
        load_views(opened(root), [0], size=36, n_ref=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no array", "is not a whole .npy of numbers"),
        (b"", "is not a whole .npy of numbers"),
        (np.zeros(3), r"holds float64 \(3,\), expected numbers \(height, width\)"),
        (np.array([["a"]]), "holds <U1"),
        (np.array([{}]), "is not a whole .npy of numbers"),  # objects would need pickle
    ],
    ids=["bytes", "empty", "a row", "words", "pickled objects"],
)
def test_broken_npy_depth_is_refused(content: Any, message: str, tmp_path: Path):
    root = write_nerfstudio(tmp_path / "room", make_world(2), depth="npy")
    path = root / "depth/frame_00001.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    with pytest.raises(ValueError, match=message):
        load_views(opened(root), [0], size=36, n_ref=1)


def test_folders_without_a_file_are_refused(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"is not a folder; expected one with a transforms.json"):
        find_recordings(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"holds no transforms.json"):
        find_recordings(tmp_path)


def test_the_test_itself_sees_half_a_pixel(tmp_path: Path):
    """Cameras that are off by half a pixel fail the comparison that this file relies on."""
    from dataclasses import replace

    recording = opened(write_nerfstudio(tmp_path, WORLD, unit=2e-4))
    moved = recording.intrinsics.clone()
    moved[:, 0, 2] += 0.5
    with pytest.raises(AssertionError):
        assert_lands(replace(recording, intrinsics=moved), WORLD)
    assert pixel_centres(1, 1).tolist() == [[[0.5, 0.5]]]


def test_images_that_are_stored_turned_are_turned_where_the_cameras_size_asks_for_it(tmp_path: Path):
    """Phones store portraits as landscapes that EXIF's orientation 6 sets upright."""
    stored, turned = (write_nerfstudio(tmp_path / name, WORLD, unit=2e-4) for name in ("stored", "turned"))
    for path in (turned / "images").glob("*.png"):
        exif = Image.Exif()
        exif[0x0112] = 6
        with Image.open(path) as image:
            image.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    first, second = opened(stored), opened(turned)
    assert first.sizes == second.sizes
    assert all(torch.equal(first.colour(index), second.colour(index)) for index in range(5))
    assert_lands(second, WORLD)


def test_frames_that_share_a_depth_file_are_left_out(tmp_path: Path):
    root = write_nerfstudio(tmp_path, WORLD, unit=2e-4)
    edit(lambda whole: whole["frames"][1].update(depth_file_path=whole["frames"][0]["depth_file_path"]))(root)
    recording = opened(root)
    assert len(recording.names) == 3
    assert all("is the depth of 2 frames" in one.reason for one in recording.dropped)
    with pytest.raises(ValueError, match="is the depth of 2 frames"):
        find_recordings(root, Reading(strict=True)).open(root.resolve().name)


def test_depth_of_another_shape_than_the_image_is_left_out(tmp_path: Path):
    root = write_nerfstudio(tmp_path, WORLD, unit=2e-4)
    recording = opened(root)
    assert recording.depth is not None
    turned = replace(recording, depth=lambda index: recording.depth(index).mT)  # type: ignore[misc]
    with pytest.raises(ValueError, match="expected the shape of its image"):
        load_views(turned, (0, 1), size=16, n_ref=1)


def test_two_frames_of_one_name_are_refused(tmp_path: Path):
    recording = opened(write_nerfstudio(tmp_path, WORLD, unit=2e-4))
    with pytest.raises(ValueError, match=r"has 2 frames called frame_\d+, expected names of their own"):
        replace(recording, names=(recording.names[0], *recording.names[:-1]))


def test_a_frames_angle_goes_before_the_files_focal_length(tmp_path: Path):
    root = write_nerfstudio(tmp_path, WORLD, unit=2e-4)
    edit(lambda whole: whole["frames"][0].update(camera_angle_x=math.pi / 2))(root)
    recording = opened(root)
    focals = sorted(set(recording.intrinsics[:, 0, 0].tolist()))
    assert len(focals) == 2
    assert WORLD.size[1] / 2 in focals


def test_a_mask_of_another_shape_is_left_out(tmp_path: Path):
    root = write_nerfstudio(tmp_path, WORLD, unit=2e-4, mask=torch.ones(WORLD.size[::-1]))
    recording = opened(root)
    assert recording.depth is not None
    with pytest.raises(ValueError, match="does not have the shape of"):
        recording.depth(0)
