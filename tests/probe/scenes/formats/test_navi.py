"""NAVI: written from a known scene, read back to the same cameras, colours and points."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_navi import SHRUNK, object_mask, write_navi
from small_nerfstudio import save_rgb
from small_world import assert_lands, landings, make_world, photograph, rays

from probe.geometry import rotation_degrees
from probe.scenes import Request, open_scenes
from probe.scenes.formats.navi import OWN_FILE, OWN_PAIRS, PROBE3D, find_recordings
from probe.scenes.reading import Reading
from probe.scenes.recordings import Recording, Window, load_views

WORLD = make_world(5, focal=(40.0, 40.0), centre=(0.0, 0.0))
SCENE = "bowl/multiview-00-pixel_5"
JPEG = 0.03  # loss of colour


def opened(root: Path | str, **reading: Any) -> Recording:
    found = find_recordings(Path(root), Reading(**reading))
    return found.open(found.names[0])


def grown(recording: Recording) -> Recording:
    """Give the room its own size back."""
    world_to_cam = recording.cameras.clone()
    world_to_cam[:, :3, 3] /= SHRUNK
    depth = recording.depth
    assert depth is not None
    return replace(recording, world_to_cam=world_to_cam, depth=lambda index: depth(index) / SHRUNK)


@pytest.mark.parametrize("scene", [SCENE, "bowl/multiview_00_pixel_5"], ids=["1.5", "1.0"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_points_land_where_they_are_seen(scene: str, orientation: int, tmp_path: Path):
    recording = grown(opened(write_navi(tmp_path, WORLD, (scene,), orientation=orientation)))
    assert (recording.name, recording.names, recording.unit) == (scene, ("000", "001", "002", "003", "004"), "m")
    torch.testing.assert_close(recording.cameras, WORLD.world_to_cam, rtol=0, atol=1e-5)
    torch.testing.assert_close(recording.intrinsics, WORLD.intrinsics, rtol=0, atol=1e-5)
    assert_lands(recording, WORLD, colour=JPEG)


def test_high_images_land_too(tmp_path: Path):
    world = make_world(4, size=(48, 36), focal=(40.0, 40.0), centre=(0.0, 0.0))
    assert_lands(grown(opened(write_navi(tmp_path, world, orientation=6))), world, colour=JPEG)


def test_the_view_is_the_square_around_the_object(tmp_path: Path):
    """The points of the cut view are those of a true camera with that principal point; off the object there is none."""
    mask = object_mask(WORLD, slice(8, 29), slice(12, 24))  # 21 high, 12 wide
    recording = grown(opened(write_navi(tmp_path, WORLD, mask=mask)))
    assert recording.windows == (Window(top=8, left=7, side=21),) * 5
    for factor in (1, 3):
        views = load_views(recording, range(5), size=21 // factor, n_ref=1)
        moved = WORLD.intrinsics.clone()
        moved[:, 0, 2] -= 7
        moved[:, 1, 2] -= 8
        moved[:, :2] /= factor
        torch.testing.assert_close(views.intrinsics[0], moved, rtol=0, atol=1e-4)
        size = (21 // factor, 21 // factor)
        _, points = photograph(WORLD.shapes, WORLD.world_to_cam, rays(moved, size))
        off = (landings(views) - landings(replace(views, point_map=points[None]))).abs().amax(-1)
        valid = views.valid[0].flatten(1)[:, None].expand_as(off) & off.isfinite()
        assert off[valid].max() < 0.05
        middle = slice(factor // 2, None, factor)
        assert torch.equal(views.valid[0], mask[8:29, 7:28][middle, middle].expand(5, *size))
        blocks = WORLD.image[:, :, 8:29, 7:28].unfold(2, factor, factor).unfold(3, factor, factor).mean((-2, -1))
        assert (views.image[0] - blocks).abs().max() < JPEG


@pytest.mark.parametrize(
    ("rows", "columns", "window"),
    [
        (slice(0, 10), slice(6, 26), Window(top=0, left=6, side=20)),
        (slice(30, 36), slice(36, 48), Window(top=30, left=36, side=6)),  # beyond column 42 it is cut off
        (slice(20, 36), slice(38, 42), Window(top=20, left=26, side=16)),
        (slice(0, 36), slice(0, 48), Window(top=0, left=6, side=36)),
        (slice(0, 0), slice(0, 0), Window(top=0, left=6, side=36)),
        (slice(0, 36), slice(0, 4), Window(top=0, left=6, side=36)),  # outside the centred square
    ],
)
def test_squares_at_the_border_stay_inside(rows: slice, columns: slice, window: Window, tmp_path: Path):
    recording = opened(write_navi(tmp_path, WORLD, mask=object_mask(WORLD, rows, columns), every=1))
    assert recording.windows == (window,)


def test_sets_are_told_apart(tmp_path: Path):
    scenes = ("a/multiview-00-x", "a/multiview_10_x", "a/multiview-2-x", "b/video-00-x-MVI_1", "a/wild_set")
    write_navi(tmp_path, make_world(2, focal=(40.0, 40.0), centre=(0.0, 0.0)), scenes)
    assert find_recordings(tmp_path).names == ("a/multiview-00-x", "a/multiview-2-x", "a/multiview_10_x")
    assert find_recordings(Path(f"{tmp_path}#video")).names == ("b/video-00-x-MVI_1",)
    wild = find_recordings(Path(f"{tmp_path}#wild_set"))
    assert wild.names == ("a/wild_set",)
    assert_lands(grown(wild.open("a/wild_set")), make_world(2, focal=(40.0, 40.0), centre=(0.0, 0.0)), colour=JPEG)
    with pytest.raises(ValueError, match=r"'wild' is no kind of scene; choose ROOT#multiview or ROOT#video or"):
        find_recordings(Path(f"{tmp_path}#wild"))


def test_navis_own_pairs(tmp_path: Path):
    write_navi(tmp_path, WORLD)
    path = tmp_path / OWN_FILE
    path.parent.mkdir(parents=True)
    images = [f"{SCENE}/images/{number}.jpg" for number in ("003", "001", "gone")]
    path.write_text(f"{images[0]} {images[1]} 12.5\nnavi/{images[1]} {images[0]} 12.5\n\n")
    request = Request(groups=9, views=2, n_ref=1, size=12, view_list=OWN_PAIRS)
    scenes = open_scenes(f"navi:{tmp_path}", request)
    assert scenes.names == (f"{SCENE}:003-001", f"{SCENE}:001-003")
    views, overlap = scenes.load(0)
    rotation = WORLD.world_to_cam[[3, 1], :3, :3]
    torch.testing.assert_close(views.world_to_cam[0, :, :3, :3], rotation, rtol=0, atol=1e-5)
    assert math.isnan(overlap[0])
    path.write_text(f"{images[2]} {images[0]} 3\n")
    with pytest.raises(ValueError, match=r"has no frame 'gone'"):
        open_scenes(f"navi:{tmp_path}", request).load(0)
    path.write_text("a b c d")
    with pytest.raises(ValueError, match=r"has the line 'a b c d', expected two of OBJECT/SCENE/images/FILE"):
        open_scenes(f"navi:{tmp_path}", request)
    path.write_text(f"{images[0]} {images[0].replace('00-pixel', '01-pixel')} 3")
    with pytest.raises(ValueError, match=r"expected images of one scene"):
        open_scenes(f"navi:{tmp_path}", request)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"pairs-multiview.txt does not exist; name it"):
        open_scenes(f"navi:{tmp_path}", request)


def test_probe3ds_pairs_are_a_fourth_of_the_images_with_one_partner_each(tmp_path: Path):
    world = make_world(9, focal=(40.0, 40.0), centre=(0.0, 0.0), turn=30.0, roll=0.0)
    both = [f"{name}/{scene}" for name in ("bowl", "cup") for scene in ("wild_set", "multiview-00-x")]
    write_navi(tmp_path, world, (*both, "lonely/wild_set"))
    request = Request(groups=99, views=2, n_ref=1, size=12, view_list=PROBE3D)
    scenes = open_scenes(f"navi:{tmp_path}#wild_set", request)
    # images 0, 4, 8 of the bowl's nine and 3, 7 of the cup's; an object without another scene is left out
    firsts = [name.split(":")[0] + " " + name.split(":")[1].split("-")[0] for name in scenes.names]
    assert firsts == [f"bowl/wild_set {k:03d}" for k in (0, 4, 8)] + [f"cup/wild_set {k:03d}" for k in (3, 7)]
    assert open_scenes(f"navi:{tmp_path}#wild_set", request).names == scenes.names
    for name in scenes.names:
        first, second = (int(frame) for frame in name.split(":")[1].split("-"))
        assert first != second
        assert 0 < rotation_degrees(world.world_to_cam[first], world.world_to_cam[second]) <= 120.001
    with pytest.raises(ValueError, match=r"takes no file, not x.txt"):
        open_scenes(f"navi:{tmp_path}#wild_set", replace(request, view_list=f"{PROBE3D}:x.txt"))


def test_images_without_a_partner_are_left_out(tmp_path: Path):
    world = make_world(2, focal=(40.0, 40.0), centre=(0.0, 0.0))
    same = replace(world, world_to_cam=world.world_to_cam[:1].repeat(2, 1, 1))
    write_navi(tmp_path, world, ("a/wild_set", "a/multiview-00-x"))
    write_navi(tmp_path, same, ("b/wild_set", "b/multiview-00-x"))
    chosen = find_recordings(Path(f"{tmp_path}#wild_set")).lists[PROBE3D](None)
    assert [scene.name for scene in chosen.scenes] == ["a/wild_set:000-001"]


def test_it_runs_from_the_command_lines_door(tmp_path: Path):
    world = make_world(10, focal=(40.0, 40.0), centre=(0.0, 0.0), roll=12.0)
    write_navi(tmp_path, world, (SCENE, "bowl/multiview-01-pixel_5"))
    scenes = open_scenes(f"navi:{tmp_path}", Request(groups=4, views=3, n_ref=1, size=36))
    views, overlap = scenes.load(0)
    assert views.image.shape == (1, 3, 3, 36, 36)
    assert min(overlap) >= 0.2


# --- refusals --------------------------------------------------------------------------------------------------------


def first(**values: Any) -> Callable[[Path], object]:
    def apply(root: Path) -> None:
        path = root / SCENE / "annotations.json"
        records = json.loads(path.read_text())
        records[0].update(values)
        path.write_text(json.dumps(records))

    return apply


def camera(**values: Any) -> Callable[[Path], object]:
    whole = {"q": [1, 0, 0, 0], "t": [0, 0, 0], "focal_length": 40.0, **values}
    return first(camera={key: value for key, value in whole.items() if value is not None})


def outside(root: Path) -> None:
    save_rgb(root.parent / "x.jpg", torch.zeros(3, 36, 48))
    first(filename="../../../../x.jpg")(root)


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (lambda r: (r / SCENE / "annotations.json").write_text("[{"), "annotations.json is not whole JSON"),
    "an object": (lambda r: (r / SCENE / "annotations.json").write_text("{}"), "has images = '{}', expected list"),
    "nothing": (lambda r: (r / SCENE / "annotations.json").write_text("[]"), "names 0 images"),
    "twice": (first(filename="000.jpg"), "names 2 images, 1 of them different"),
    "no camera": (first(camera=None), "001.jpg of .* has camera = 'None', expected dict"),
    "no focal": (camera(focal_length=None), "has no 'focal_length'"),
    "focal": (camera(focal_length=-1), "expected positive pixels"),
    "NaN focal": (camera(focal_length=math.nan), "holds a NaN or infinite focal"),
    "short q": (camera(q=[1, 0, 0]), "q of 001.jpg of .* has 3 numbers, expected 4"),
    "zero q": (camera(q=[0, 0, 0, 0]), "expected a quaternion"),
    "NaN q": (camera(q=[math.nan, 0, 0, 0]), "expected a quaternion"),
    "NaN t": (camera(t=[math.nan, 0, 0]), "camera of 001.jpg of .* holds a NaN"),
    "size": (first(image_size=[36]), "image_size of .* has 1 numbers, expected 2"),
    "no image": (lambda r: (r / SCENE / "images/001.jpg").unlink(), "001.jpg does not exist"),
    "no depth": (lambda r: (r / SCENE / "depth/001.png").unlink(), "001.png does not exist"),
    "image outside": (outside, "x.jpg leads outside|does not exist"),
    "truncated depth": (
        lambda r: (p := r / SCENE / "depth/001.png").write_bytes(p.read_bytes()[:-40]),
        "001.png is not a whole PNG",
    ),
    "depth of another size": (
        lambda r: Image.fromarray(np.zeros((18, 24), np.uint16)).save(r / SCENE / "depth/001.png"),
        r"001.png is \(18, 24\), expected \(36, 48\)",
    ),
    "8-bit depth": (
        lambda r: Image.fromarray(np.zeros((36, 48), np.uint8)).save(r / SCENE / "depth/001.png"),
        "001.png .* mode L, expected a 16-bit",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_broken_folders_are_refused(case: str, tmp_path: Path):
    root = write_navi(tmp_path / "navi", make_world(2, focal=(40.0, 40.0), centre=(0.0, 0.0)))
    change, message = REFUSED[case]
    change(root)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        opened(root, strict=True)
    assert "\n" not in str(caught.value)


def test_a_broken_frame_is_left_out(tmp_path: Path):
    root = write_navi(tmp_path, make_world(3, focal=(40.0, 40.0), centre=(0.0, 0.0)))
    (root / SCENE / "depth/001.png").write_bytes(b"")
    recording = opened(root)
    assert (recording.names, [one.name for one in recording.dropped]) == (("000", "002"), ["001"])
    assert len(recording.windows or ()) == len(recording.sizes) == 2


def test_images_of_another_size_or_orientation_are_refused_when_they_are_read(tmp_path: Path):
    root = write_navi(tmp_path, make_world(2, focal=(40.0, 40.0), centre=(0.0, 0.0)))
    recording = opened(root)
    save_rgb(root / SCENE / "images/000.jpg", torch.zeros(3, 48, 36))
    with pytest.raises(ValueError, match=r"frame 000 of bowl/multiview-00-pixel_5 is 48 x 36, expected 36 x 48"):
        load_views(recording, [0], size=12, n_ref=1)
    path = root / SCENE / "images/001.jpg"
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(ValueError, match=r"001.jpg is not a whole (PNG|JPEG) image"):
        load_views(recording, [1], size=12, n_ref=1)


def test_other_folders_are_refused(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"is not a folder; expected OBJECT/multiview-00-CAMERA"):
        find_recordings(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"holds no multiview scenes"):
        find_recordings(tmp_path)
