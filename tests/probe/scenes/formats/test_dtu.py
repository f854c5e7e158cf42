"""DTU: written from a known scene in each layout, read back to the same cameras, colours and points."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from small_dtu import save_pfm, write_idr, write_test_set, write_training
from small_nerfstudio import save_rgb
from small_world import assert_lands, landings, make_world, true_views

from probe.scenes import Request, open_scenes
from probe.scenes.formats.dtu import find_recordings
from probe.scenes.formats.idr import match_numbers
from probe.scenes.formats.mvsnet import read_pfm
from probe.scenes.reading import Folder, Reading
from probe.scenes.recordings import Recording, load_views

WORLD = make_world(4)


def opened(root: Path, **reading: Any) -> Recording:
    found = find_recordings(root, Reading(**reading))
    return found.open(found.names[0])


def assert_cameras(recording: Recording, frames: int = 4) -> None:
    torch.testing.assert_close(recording.cameras, WORLD.world_to_cam[:frames], rtol=0, atol=1e-5)
    torch.testing.assert_close(recording.intrinsics, WORLD.intrinsics[:frames], rtol=0, atol=1e-4)


def test_full_size_points_land_where_they_are_seen(tmp_path: Path):
    recording = opened(write_training(tmp_path, WORLD, grid=1))
    assert (recording.name, recording.names, recording.unit) == ("scan4", ("001", "002", "003", "004"), "m")
    assert_cameras(recording)
    assert_lands(recording, WORLD)


def test_depth_of_a_quarter_is_that_of_each_fourth_pixel(tmp_path: Path):
    """Cameras and colours are exact, depth is where it was sampled, and between no farther off than the samples lie."""
    recording = opened(write_training(tmp_path, WORLD))
    assert (recording.name, recording.names, recording.unit) == ("scan4", ("001", "002", "003", "004"), "m")
    assert_cameras(recording)
    assert recording.depth is not None
    for view in range(4):
        depth = recording.depth(view)
        torch.testing.assert_close(depth[::4, ::4], WORLD.depth[view, ::4, ::4], rtol=1e-6, atol=0)
        for row, column, sample in (
            (1, 0, (0, 0)),
            (2, 0, (4, 0)),
            (3, 5, (4, 4)),
            (9, 22, (8, 24)),
            (35, 47, (32, 44)),
        ):
            torch.testing.assert_close(depth[row, column], WORLD.depth[view][sample], rtol=1e-6, atol=0)
    views, exact = load_views(recording, range(4), size=36, n_ref=1), true_views(WORLD, 36, range(4))
    assert (views.image - exact.image).abs().max() < 0.004
    assert views.valid.all()
    off = (landings(views) - landings(exact)).norm(dim=-1)
    assert off[off.isfinite()].median() < 0.5


def test_without_depth_the_test_sets_cameras_and_colours(tmp_path: Path):
    recording = opened(write_test_set(tmp_path, WORLD))
    assert (recording.name, recording.names[0], recording.has_truth) == ("scan1", "00000000", False)
    assert_cameras(recording)
    assert_lands(recording, WORLD, points=False, colour=0.03)


def test_projections_of_either_sign_become_cameras(tmp_path: Path):
    recording = opened(write_idr(tmp_path, WORLD))
    assert (recording.name, recording.names[1], recording.has_truth) == ("scan65", "000001", False)
    assert recording.unit is None
    torch.testing.assert_close(recording.cameras, WORLD.world_to_cam, rtol=0, atol=1e-4)
    torch.testing.assert_close(recording.intrinsics, WORLD.intrinsics, rtol=0, atol=1e-3)
    assert_lands(recording, WORLD, points=False)


def test_blended_mvs_has_depth_of_full_size_and_no_unit(tmp_path: Path):
    write_test_set(tmp_path, WORLD, "5a3ca9cb", images="blended_images", per_unit=1, depths="rendered_depth_maps")
    save_rgb(tmp_path / "5a3ca9cb/blended_images/00000000_masked.jpg", torch.zeros(3, *WORLD.size))
    recording = opened(tmp_path)
    assert (recording.name, recording.unit, len(recording.names)) == ("5a3ca9cb", None, 4)
    assert_cameras(recording)
    assert_lands(recording, WORLD, colour=0.03)


def test_only_dtu_is_in_millimetres_and_the_unit_may_be_said(tmp_path: Path):
    """A scan's thousands are metres; the same numbers of another scene stay, unless --unit says what they are."""
    for scan, cameras in (("scan1", "cams"), ("Family", "cams"), ("scan2", "cams_1")):
        write_test_set(tmp_path / scan, WORLD, scan, cameras=cameras)
    recording = opened(tmp_path / "scan1")
    assert recording.unit == "m"
    assert_cameras(recording)
    for scan in ("Family", "scan2"):
        left = opened(tmp_path / scan)
        assert left.unit is None
        assert torch.equal(left.world_to_cam[:, :3, :3], recording.world_to_cam[:, :3, :3])
        torch.testing.assert_close(left.world_to_cam[:, :3, 3], 1000 * recording.world_to_cam[:, :3, 3])
        said = opened(tmp_path / scan, unit=0.001)
        assert said.unit == "m"
        assert_cameras(said)
    other = opened(tmp_path / "scan1", unit=0.01)
    torch.testing.assert_close(other.world_to_cam[:, :3, 3], 10 * recording.world_to_cam[:, :3, 3])
    write_test_set(tmp_path / "b", WORLD, "b", images="blended_images", depths="rendered_depth_maps")
    assert_lands(opened(tmp_path / "b", unit=0.001), WORLD, colour=0.03)


@pytest.mark.parametrize("file", ["cameras.npz", "cameras_sphere.npz"])
@pytest.mark.parametrize("image", ["image/{:03d}.jpg", "images/rgb_{:06d}.png", "image/v1_{}.png"])
def test_neus_volsdf_and_h3d_net(file: str, image: str, tmp_path: Path):
    recording = opened(write_idr(tmp_path, WORLD, file=file, image=image))
    torch.testing.assert_close(recording.cameras, WORLD.world_to_cam, rtol=0, atol=1e-4)
    assert_lands(recording, WORLD, points=False, colour=0.03)
    metric = opened(tmp_path, unit=2.0)
    assert metric.unit == "m"
    torch.testing.assert_close(metric.world_to_cam[:, :3, 3], 2 * recording.world_to_cam[:, :3, 3])


def test_an_image_takes_the_projection_of_its_number(tmp_path: Path):
    root = write_idr(tmp_path, WORLD)
    (root / "scan65/image/000001.png").unlink()
    recording = opened(root)
    assert recording.names == ("000000", "000002", "000003")
    assert_lands(recording, WORLD, frames=(0, 2, 3), points=False)


def paths(*numbers: int, name: str = "{:03d}.png") -> list[Path]:
    return [Path("image") / name.format(number) for number in numbers]


def test_numbers_of_images_and_projections():
    """By number where they agree; by order where others are as many; else what has no projection is left out."""
    file = Path("cameras.npz")
    with pytest.raises(ValueError, match="which belongs to which cannot be told"):
        match_numbers(paths(1, 2), [0, 1, 2], file)  # counted from 1 with the last lost, or from 0 with the first
    assert match_numbers(paths(0, 2), [0, 1, 2], file)[0] == list(zip(paths(0, 2), (0, 2), strict=True))
    assert match_numbers(paths(1, 2), [0, 1], file)[0] == list(zip(paths(1, 2), (0, 1), strict=True))
    letters = [Path("image/a.png"), Path("image/b.png")]
    assert match_numbers(letters, [0, 1], file)[0] == list(zip(letters, (0, 1), strict=True))
    matched, without = match_numbers(paths(0, 1, 2, 3), [0, 1], file)
    assert [place for _, place in matched] == [0, 1]
    assert [(one.name, one.reason) for one in without] == [
        (name, f"has no projection world_mat_{place} in cameras.npz") for name, place in (("002", 2), ("003", 3))
    ]
    for images, places in ((paths(1, 2, 3), [0, 1]), (letters, [0, 1, 2]), (paths(1, 2), [])):
        with pytest.raises(ValueError, match=r"which belongs to which cannot be told; name the images by their proj"):
            match_numbers(images, places, file)


def test_broken_frames_are_left_out_and_named(tmp_path: Path):
    root = write_test_set(tmp_path / "a", WORLD)
    (root / "scan1/cams/00000001_cam.txt").unlink()
    (root / "scan1/images/00000002.jpg").write_bytes(b"")
    recording = opened(root)
    assert (recording.names, [one.name for one in recording.dropped]) == (
        ("00000000", "00000003"),
        ["00000001", "00000002"],
    )
    assert "00000001_cam.txt does not exist" in recording.dropped[0].reason
    assert_lands(recording, WORLD, frames=(0, 3), points=False, colour=0.03)
    with pytest.raises(FileNotFoundError, match=r"00000001_cam.txt does not exist"):
        opened(root, strict=True)
    root = write_idr(tmp_path / "b", WORLD)
    arrays = dict(np.load(root / "scan65/cameras.npz"))
    np.savez(root / "scan65/cameras.npz", **arrays | {"world_mat_2": np.full((4, 4), math.nan)})
    recording = opened(root)
    assert recording.names == ("000000", "000001", "000003")
    assert_lands(recording, WORLD, frames=(0, 1, 3), points=False)


def test_cameras_of_smaller_images_are_refused(tmp_path: Path):
    """A camera file of a quarter of the size, beside images in full: silently wrong, were it read."""
    root = write_test_set(tmp_path, WORLD)
    for view in range(4):
        save_rgb(root / f"scan1/images/{view:08d}.jpg", torch.zeros(3, 4 * WORLD.size[0], 4 * WORLD.size[1]))
    with pytest.raises(ValueError, match=r"which is that of a smaller image than the 144 x 192 one; .* --images"):
        opened(root)


def test_a_byte_order_mark_and_windows_lines(tmp_path: Path):
    root = write_test_set(tmp_path, WORLD)
    for path in (root / "scan1/cams").iterdir():
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert_cameras(opened(root))


def test_scans_are_found_in_every_layout(tmp_path: Path):
    for scan in ("scan10", "scan9"):
        write_training(tmp_path / "mvsnet", make_world(2), scan)
        write_test_set(tmp_path / "test", make_world(2), scan)
        write_idr(tmp_path / "idr/DTU", make_world(2), scan)
    assert find_recordings(tmp_path / "mvsnet").names == ("scan9", "scan10")
    assert find_recordings(tmp_path / "test").names == ("scan9", "scan10")
    assert find_recordings(tmp_path / "idr").names == ("DTU/scan9", "DTU/scan10")
    assert find_recordings(tmp_path / "idr/DTU").names == ("scan9", "scan10")
    found = find_recordings(tmp_path / "idr/DTU/scan9")
    assert (found.names, found.open("scan9").name) == (("scan9",), "scan9")
    found = find_recordings(tmp_path / "test/scan9")
    assert (found.names, found.open("scan9").unit) == (("scan9",), "m")


def test_masked_and_zero_depths_are_not_valid(tmp_path: Path):
    """Grey values up to 10 mean that there is no depth."""
    mask = torch.full(WORLD.size, 255, dtype=torch.uint8)
    mask[4:8, 10:20], mask[10:12, 10:20] = 10, 11
    root = write_training(tmp_path, WORLD, grid=1, mask=mask)
    views = load_views(opened(root), range(4), size=36, n_ref=1)
    assert torch.equal(views.valid[0], (mask > 10)[:, 6:42].expand(4, 36, 36))
    depth = WORLD.depth[0] * 1000
    depth[20] = 0
    save_pfm(root / "Depths_raw/scan4/depth_map_0000.pfm", depth)
    view = load_views(opened(root), [0], size=36, n_ref=1)
    assert torch.equal(view.valid[0, 0], (mask > 10)[:, 6:42] & (torch.arange(36) != 20)[:, None])


@given(st.integers(1, 5), st.integers(1, 5), st.booleans(), st.integers(0, 2**31 - 1))
def test_float_maps_come_back(height: int, width: int, little: bool, seed: int):
    import tempfile

    values = torch.randn(height, width, generator=torch.Generator().manual_seed(seed))
    with tempfile.TemporaryDirectory() as folder:
        save_pfm(Path(folder) / "a.pfm", values, little=little)
        assert torch.equal(read_pfm(Path(folder) / "a.pfm", Folder(Path(folder))), values)


BROKEN_MAPS: dict[str, bytes] = {
    "empty": b"",
    "text": b"depth",
    "colour": b"PF\n1 1\n-1\n" + bytes(12),
    "truncated": b"Pf\n48 36\n-1\n" + bytes(100),
    "longer": b"Pf\n1 1\n-1\n" + bytes(5),
    "no scale": b"Pf\n1 1\n0\n" + bytes(4),
}


@pytest.mark.parametrize("case", BROKEN_MAPS)
def test_broken_float_maps_are_refused_when_they_are_read(case: str, tmp_path: Path):
    root = write_training(tmp_path, make_world(2), grid=1)
    (root / "Depths_raw/scan4/depth_map_0000.pfm").write_bytes(BROKEN_MAPS[case])
    with pytest.raises(ValueError, match=r"depth_map_0000.pfm is not a whole map of one channel") as caught:
        load_views(opened(root), [0], size=12, n_ref=1)
    assert "\n" not in str(caught.value)


def test_depth_of_another_shape_is_refused(tmp_path: Path):
    root = write_training(tmp_path, make_world(2), grid=1)
    save_pfm(root / "Depths_raw/scan4/depth_map_0000.pfm", torch.ones(17, 24))
    with pytest.raises(ValueError, match=r"is \(17, 24\), expected a whole part of \(36, 48\), as the image"):
        load_views(opened(root), [0], size=12, n_ref=1)
    Image.fromarray(np.zeros((9, 12), np.uint8)).save(root / "Depths_raw/scan4/depth_visual_0001.png")
    with pytest.raises(ValueError, match=r"depth_visual_0001.png is \(9, 12\), expected \(36, 48\), as the depth"):
        load_views(opened(root), [1], size=12, n_ref=1)


CAMERA = "Cameras/train/00000001_cam.txt"


def words(place: int, value: str) -> Callable[[Path], object]:
    def apply(root: Path) -> None:
        found = (root / CAMERA).read_text().split()
        found[place] = value
        (root / CAMERA).write_text(" ".join(found))

    return apply


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no camera": (lambda r: (r / CAMERA).unlink(), "00000001_cam.txt does not exist"),
    "empty camera": (lambda r: (r / CAMERA).write_text(""), "00000001_cam.txt is no camera: extrinsic"),
    "another order": (words(0, "intrinsic"), "00000001_cam.txt is no camera: extrinsic"),
    "word": (words(2, "half"), "00000001_cam.txt holds no numbers"),
    "NaN": (words(2, "nan"), "00000001_cam.txt holds a NaN"),
    "scaled": (words(1, "7"), "00000001_cam.txt is not a rigid pose"),
    "skew": (words(19, "5"), "00000001_cam.txt has skew"),
    "focal": (words(18, "-5"), "expected positive pixels|has skew"),
    "principal point": (words(20, "500"), "outside the image of width 48, height 36"),
    "no depth": (lambda r: (r / "Depths/scan4_train/depth_map_0001.pfm").unlink(), "depth_map_0001.pfm does not exist"),
    "other lights": (
        lambda r: [path.unlink() for path in r.glob("Rectified/scan4_train/*_3_*")],
        "holds no images of scan4 .* of light 3",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_broken_folders_are_refused(case: str, tmp_path: Path):
    root = write_training(tmp_path, make_world(2))
    change, message = REFUSED[case]
    change(root)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        opened(root, strict=True)
    assert "\n" not in str(caught.value)


def projection(change: Any) -> Callable[[Path], object]:
    matrix = np.array(change, np.float64)
    return lambda root: np.savez(root / "scan65/cameras.npz", world_mat_0=matrix, world_mat_1=matrix)


REFUSED_IDR: dict[str, tuple[Callable[[Path], object], str]] = {
    "bytes": (lambda r: (r / "scan65/cameras.npz").write_bytes(b"PK"), "cameras.npz is not a whole .npz of arrays"),
    "no projection": (lambda r: np.savez(r / "scan65/cameras.npz"), "has 0 projections, .* 2 images .* cannot be told"),
    "3 x 3": (projection(np.eye(3)), "world_mat_0 of .* has 3 x 3 numbers, expected 4 x 4"),
    "singular": (projection(np.zeros((4, 4))), "world_mat_0 of .* is no projection"),
    "NaN": (projection(np.full((4, 4), math.nan)), "world_mat_0 of .* is no projection"),
    "principal point": (
        projection(np.eye(4) * 40),
        "outside the image of width 48, height 36|expected positive|failed reconstruction",
    ),
    "no images": (lambda r: (r / "scan65/image").rename(r / "gone"), "holds no image/000000.png or .jpg"),
}


@pytest.mark.parametrize("case", REFUSED_IDR)
def test_broken_projections_are_refused(case: str, tmp_path: Path):
    root = write_idr(tmp_path, make_world(2))
    change, message = REFUSED_IDR[case]
    change(root)
    if (
        case == "principal point"
    ):  # K is the identity: its principal point lies half a pixel from the corner, so move it
        projection([[1, 0, -9, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])(root)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        opened(root, strict=True)
    assert "\n" not in str(caught.value)


def test_it_runs_from_the_command_lines_door(tmp_path: Path):
    write_training(tmp_path, make_world(10, roll=12.0))
    scenes = open_scenes(f"dtu:{tmp_path}", Request(groups=4, views=3, n_ref=1, size=36))
    views, overlap = scenes.load(0)
    assert views.image.shape == (1, 3, 3, 36, 36)
    assert min(overlap) >= 0.2
    write_idr(tmp_path / "idr", make_world(10, roll=12.0))
    with pytest.raises(ValueError, match=r"dtu:.* has no depth"):
        open_scenes(f"dtu:{tmp_path / 'idr'}", Request(groups=1, views=2, n_ref=1, size=16)).load(0)


def test_other_folders_and_images_are_refused(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"is not a folder; expected Rectified/scan1_train with Cameras/train"):
        find_recordings(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"holds no scans"):
        find_recordings(tmp_path)
    root = write_training(tmp_path / "a", make_world(2))
    recording = opened(root)
    save_rgb(root / "Rectified/scan4_train/rect_001_3_r5000.png", torch.zeros(3, 18, 24))
    with pytest.raises(ValueError, match=r"frame 001 of scan4 is 18 x 24, expected 36 x 48"):
        load_views(recording, [0], size=12, n_ref=1)
