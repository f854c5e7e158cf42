"""Layouts of RGB-D data sets: written from a known scene, read back to the same cameras, colours and points."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from small_nerfstudio import save_rgb, save_sixteen
from small_rgbd import (
    BETWEEN,
    START,
    quaternion_line,
    save_matrix,
    write_bundle_fusion,
    write_icl,
    write_replica,
    write_seven_scenes,
    write_stray,
    write_tum,
)
from small_world import SIZE, assert_lands, make_world, photograph, rays

from probe.scenes import Request, open_scenes
from probe.scenes.formats.rgbd import find_recordings, load_frames, to_recording
from probe.scenes.formats.rgbd.timed import PUBLISHED
from probe.scenes.reading import DEFAULT, Reading
from probe.scenes.recordings import Recording, load_views

WORLD = make_world(4)
CENTRED = make_world(4, centre=(0.7, -0.4))  # within 5 % of the middle
STRICT = Reading(strict=True)
SCALED = SIZE[1] / 640


def published(sequence: str, count: int = 3):
    """A world seen by a published camera, whose pixels count from 0 at the first one's centre."""
    (fx, fy), (cx, cy), _ = PUBLISHED[sequence]
    centre = ((cx + 0.5 - 320) * SCALED, (cy + 0.5 - 240) * SCALED)
    return make_world(count, focal=(fx * SCALED, fy * SCALED), centre=centre)


def opened(root: Path, reading: Reading = DEFAULT) -> Recording:
    recordings = find_recordings(root, reading)
    return recordings.open(recordings.names[0])


# --- TUM and ICL-NUIM ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("listed", [True, False])
def test_tum_is_associated_by_time(listed: bool, tmp_path: Path):
    root = write_tum(tmp_path, WORLD)
    save_matrix(root / "camera-intrinsics.txt", WORLD.intrinsics[0])
    if not listed:
        (root / "rgb.txt").unlink()
        (root / "depth.txt").unlink()
    recording = opened(root, STRICT)
    assert recording.names[1] == f"{START + BETWEEN:.6f}"
    assert_lands(recording, WORLD)


def test_images_without_a_partner_in_time_are_left_out_and_not_refused(tmp_path: Path):
    root = write_tum(tmp_path, WORLD, late=(0.004, 0.0, -0.0105, 0.03))
    save_matrix(root / "camera-intrinsics.txt", WORLD.intrinsics[0])
    recording = opened(root, STRICT)
    assert_lands(recording, WORLD, frames=(0, 1, 2))
    (dropped,) = recording.dropped
    assert dropped.reason == "has no depth within 20 ms"
    lines = (root / "groundtruth.txt").read_text().splitlines()
    (root / "groundtruth.txt").write_text("\n".join(lines[:-6]) + "\n1305031102.27 0.1")  # cut off
    recording = opened(root)
    assert [one.reason for one in recording.dropped] == [
        "groundtruth.txt has no pose within 20 ms",
        "has no depth within 20 ms",
    ]
    with pytest.raises(ValueError, match=r"groundtruth.txt has the line '1305031102.27 0.1', expected 8 values a line"):
        opened(root, STRICT)


@pytest.mark.parametrize(
    ("folder", "sequence"),
    [("rgbd_dataset_freiburg3_long_office", "freiburg3"), ("my_desk", "TUM"), ("fr3_sitting", "freiburg3")],
)
def test_tum_without_intrinsics_takes_the_published_camera_and_says_so(folder: str, sequence: str, tmp_path: Path):
    world = published(sequence)
    recordings = find_recordings(write_tum(tmp_path / folder, world))
    assert f"{'published camera of freiburg3' if sequence != 'TUM' else 'all sequences'} is taken" in recordings.note
    assert_lands(recordings.open(folder), world)


def test_the_lens_of_freiburg1_is_straightened(tmp_path: Path):
    (fx, fy), (cx, cy), distortion = PUBLISHED["freiburg1"]
    size = (144, 192)
    world = make_world(3, size=size)
    scale = size[1] / 640
    matrix = np.array([[fx * scale, 0, (cx + 0.5) * scale - 0.5], [0, fy * scale, (cy + 0.5) * scale - 0.5], [0, 0, 1]])
    rows, columns = np.mgrid[: size[0], : size[1]].astype(np.float64)
    straight = cv2.undistortPoints(np.stack([columns.ravel(), rows.ravel()], -1), matrix, np.array(distortion))
    local = torch.from_numpy(np.concatenate([straight[:, 0], np.ones((rows.size, 1))], -1)).float().reshape(*size, 3)
    image, points = photograph(world.shapes, world.world_to_cam, local.expand(3, *size, 3))
    depth = (world.world_to_cam[:, 2, :3, None, None] * points).sum(1) + world.world_to_cam[:, 2, 3, None, None]
    seen = type(world)(**{**vars(world), "image": image, "depth": depth})
    recording = opened(write_tum(tmp_path / "rgbd_dataset_freiburg1_desk", seen))
    views = load_views(recording, (0, 1, 2), size=144, n_ref=1)
    expected, true = photograph(world.shapes, views.world_to_cam[0], rays(views.intrinsics[0], (144, 144)))
    off = (views.point_map[0] - true).norm(dim=1)[views.valid[0]] / true.norm(dim=1)[views.valid[0]]
    assert views.valid.float().mean() > 0.95
    assert off.median() < 0.004  # the nearest of the coarse pixels
    assert (views.image[0] - expected).abs().median() < 0.02
    plain = write_tum(tmp_path / "plain", seen)
    half = np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    save_matrix(plain / "camera-intrinsics.txt", torch.from_numpy(matrix + half))
    views = load_views(opened(plain), (0, 1, 2), size=144, n_ref=1)  # without its lens
    _, true = photograph(world.shapes, views.world_to_cam[0], rays(views.intrinsics[0], (144, 144)))
    unstraightened = (views.point_map[0] - true).norm(dim=1) / true.norm(dim=1)
    assert unstraightened[views.valid[0]].median() > 2 * off.median()


def test_icl_nuim_is_mirrored(tmp_path: Path):
    world = published("ICL-NUIM")
    recordings = find_recordings(write_icl(tmp_path / "living_room_traj0_frei_png", world), STRICT)
    assert "mirrored in y" in recordings.note
    recording = recordings.open(recordings.names[0])
    assert (recording.names, [one.name for one in recording.dropped]) == (("1", "2", "3"), ["0"])
    assert_lands(recording, world)
    (tmp_path / "living_room_traj0_frei_png/livingRoom0.gt.freiburg").rename(
        tmp_path / "living_room_traj0_frei_png/groundtruth.txt"
    )
    assert_lands(opened(tmp_path / "living_room_traj0_frei_png"), world)  # by the folder's name


# --- Replica ---------------------------------------------------------------------------------------------------------


def test_replica_reads_the_camera_in_the_folder_above(tmp_path: Path):
    root = write_replica(tmp_path / "room0", WORLD)
    assert_lands(opened(root, STRICT), WORLD, colour=0.03)
    (root / "results/frame000001.jpg").unlink()  # line k stays frame k's
    recording = opened(root)
    assert recording.names == ("000000", "000002", "000003")
    assert_lands(recording, WORLD, frames=(0, 2, 3), colour=0.03)


def test_replica_without_its_camera_takes_the_published_one_and_says_so(tmp_path: Path):
    size = (34, 60)
    world = make_world(3, size=size, focal=(30.0, 30.0), centre=(0.0, 0.0))
    root = write_replica(tmp_path / "room0", world)
    (tmp_path / "cam_params.json").unlink()
    recordings = find_recordings(root)
    assert "Replica's published camera and depth scale are taken" in recordings.note
    assert_lands(recordings.open("room0"), world, thirds=(1,), colour=0.05)


def test_folders_of_several_recordings_have_one_each(tmp_path: Path):
    for name in ("office0", "room10", "room2"):
        write_replica(tmp_path / name, WORLD)
    write_seven_scenes(tmp_path / "chess/seq-01", WORLD, intrinsics=True)
    recordings = find_recordings(tmp_path)
    assert recordings.names == ("chess/seq-01", "office0", "room2", "room10")
    for name in recordings.names:
        assert recordings.open(name).name == name
        assert_lands(recordings.open(name), WORLD, colour=0.03)


# --- 7-Scenes and BundleFusion ---------------------------------------------------------------------------------------


def test_raw_seven_scenes_takes_its_published_camera_and_names_the_focal_length_of_colour(tmp_path: Path):
    world = make_world(4, focal=(585 * SCALED, 585 * SCALED), centre=(0.0, 0.0))
    for name in ("seq-01", "seq-02"):
        write_seven_scenes(tmp_path / "chess" / name, world)
    recordings = find_recordings(tmp_path / "chess")
    assert recordings.names == ("seq-01", "seq-02")
    assert "raw 7-Scenes: #525" in recordings.note
    assert "the depth camera that 7-Scenes publishes is taken" in recordings.note
    assert_lands(recordings.open("seq-02"), world)


def test_intrinsics_above_the_sequences_are_read(tmp_path: Path):
    write_seven_scenes(tmp_path / "seq-01", WORLD)
    save_matrix(tmp_path / "camera-intrinsics.txt", WORLD.intrinsics[0])
    assert_lands(opened(tmp_path), WORLD)


@pytest.mark.parametrize(("larger", "shift", "name"), [(1, 1000.0, "info.txt"), (3, 4000.0, "_info.txt")])
def test_bundle_fusion_reads_its_info(larger: int, shift: float, name: str, tmp_path: Path):
    root = write_bundle_fusion(tmp_path, WORLD, larger=larger, shift=shift, name=name)
    recording = opened(root, STRICT)
    assert recording.sizes[0] == tuple(larger * side for side in SIZE)  # colour's own, where both are of one camera
    assert find_recordings(root).note == ""
    if larger == 1:
        assert_lands(recording, WORLD, colour=0.03)
    else:
        views = load_views(recording, (0, 1), size=36, n_ref=1)
        plain = load_views(opened(write_bundle_fusion(tmp_path / "plain", WORLD)), (0, 1), size=36, n_ref=1)
        torch.testing.assert_close(views.point_map, plain.point_map, rtol=0, atol=2e-3)
        torch.testing.assert_close(views.intrinsics, plain.intrinsics, rtol=1e-4, atol=1e-4)


def write_scans(root: Path, folders: tuple[str, str, str, str]) -> Path:
    """Write ScanNet's folders by other names, with numbers padded differently."""
    colour, depth, pose, intrinsic = folders
    for index in range(4):
        save_rgb(root / colour / f"{index + 8}.jpg", WORLD.image[index])
        save_sixteen(root / depth / f"{index + 8:06d}.png", WORLD.depth[index] * 1000)
        save_matrix(root / pose / f"{index + 8:03d}.txt", torch.linalg.inv(WORLD.world_to_cam[index].double()))
    save_matrix(root / intrinsic, WORLD.intrinsics[0])
    return root


@pytest.mark.parametrize(
    "folders",
    [
        ("color", "depth", "pose", "intrinsic/intrinsic_depth.txt"),
        ("rgb", "depth", "poses", "intrinsics/intrinsic_depth.txt"),
        ("color", "depth", "pose", "intrinsics_depth.txt"),
    ],
)
def test_scannet_folders_have_other_names_and_padding(folders: tuple[str, str, str, str], tmp_path: Path):
    recording = opened(write_scans(tmp_path, folders), STRICT)
    assert recording.names == ("8", "9", "10", "11")
    assert_lands(recording, WORLD, colour=0.03)


# --- Stray Scanner ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("full", "every"), [(40.0, 1), (40.0, 3), (1.0, 1)])
def test_stray_scanner_reads_frames_that_were_extracted(full: float, every: int, tmp_path: Path):
    recording = opened(write_stray(tmp_path, CENTRED, full=full, every=every), STRICT)
    assert recording.sizes[0] == SIZE
    assert_lands(recording, CENTRED, thirds=(3,))


def test_a_stray_video_is_not_read_and_the_way_to_its_frames_is_named(tmp_path: Path):
    root = write_stray(tmp_path, CENTRED)
    for path in (root / "rgb").iterdir():
        path.unlink()
    (root / "rgb.mp4").write_bytes(b"video")
    with pytest.raises(FileNotFoundError, match=r"rgb.mp4, a video, which is not read; make rgb/000000.jpg.*ffmpeg"):
        find_recordings(root)


# --- scale -----------------------------------------------------------------------------------------------------------

ORBIT = make_world(6, size=(72, 96), focal=(76.0, 82.0), roll=0.0)


@pytest.mark.parametrize(("times", "scale"), [(5.0, "5000"), (1000 / 256, "256|4000"), (0.2, "200|256|100")])
def test_depths_of_another_scale_are_recognised_and_said(times: float, scale: str, tmp_path: Path):
    root = write_seven_scenes(tmp_path / "room", ORBIT, intrinsics=True)
    assert "WARNING" not in find_recordings(root).note
    for index in range(6):
        save_sixteen(root / f"frame-{index:06d}.depth.png", ORBIT.depth[index] * 1000 * times)
    note = find_recordings(root).note
    assert "WARNING: depths of" in note
    assert "by its cameras" in note
    right = find_recordings(root, Reading(depth_scale=1000 * times))
    assert "WARNING" not in right.note
    torch.testing.assert_close(right.open("room").depth(0), ORBIT.depth[0], rtol=0, atol=6e-3)


def test_cameras_that_only_turn_tell_no_scale(tmp_path: Path):
    root = write_seven_scenes(tmp_path / "room", ORBIT, intrinsics=True)
    for index in range(6):
        save_sixteen(root / f"frame-{index:06d}.depth.png", torch.full((72, 96), 5000.0))
        save_matrix(root / f"frame-{index:06d}.pose.txt", torch.eye(4))
    assert "WARNING" not in find_recordings(root).note


def test_poses_in_millimetres_are_recognised_and_read_by_their_unit(tmp_path: Path):
    root = write_seven_scenes(tmp_path / "room", ORBIT, intrinsics=True)
    for index in range(6):
        pose = np.loadtxt(root / f"frame-{index:06d}.pose.txt")
        pose[:3, 3] *= 1000
        np.savetxt(root / f"frame-{index:06d}.pose.txt", pose)
    note = find_recordings(root).note
    assert "1000 times too small" in note
    assert "--unit 0.001" in note
    right = find_recordings(root, Reading(unit=0.001))
    assert "WARNING" not in right.note
    torch.testing.assert_close(right.open("room").cameras, ORBIT.world_to_cam, rtol=0, atol=1e-5)


# --- broken files ----------------------------------------------------------------------------------------------------


def edit(name: str, old: str, new: str) -> Callable[[Path], object]:
    return lambda root: (root / name).write_text((root / name).read_text().replace(old, new))


def put(name: str, content: str) -> Callable[[Path], object]:
    return lambda root: (root / name).write_text(content)


LINE = quaternion_line(torch.eye(4, dtype=torch.float64))
WRITERS: dict[str, Callable[[Path], Path]] = {
    "tum": lambda root: write_tum(root, published("TUM")),
    "icl": lambda root: write_icl(root, published("ICL-NUIM")),
    "replica": lambda root: write_replica(root / "room0", WORLD),
    "bundle": lambda root: write_bundle_fusion(root, WORLD),
    "stray": lambda root: write_stray(root, CENTRED),
}
REFUSED: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "no truth": ("tum", lambda root: (root / "groundtruth.txt").unlink(), "holds no frames; expected .*rgb.txt"),
    "empty truth": ("tum", put("groundtruth.txt", "# nothing\n"), "groundtruth.txt has the line '', expected 8 values"),
    "words for times": ("tum", put("rgb.txt", "first rgb/1.png"), "rgb.txt has the time 'first', expected seconds"),
    "another day": ("tum", put("groundtruth.txt", f"5.0 {LINE}"), "is left: groundtruth.txt has no pose within 20 ms"),
    "gone images": ("tum", edit("rgb.txt", "rgb/", "gone/gone"), "has no file gone/gone13"),
    "wide images": (
        "tum",
        lambda root: [widen(p) for p in root.glob("*/*.png")],
        "TUM is for images of 480 x 640, the",
    ),
    "short pairs": ("icl", put("associations.txt", "0 rgb/0.png"), "line '0 rgb/0.png', expected TIME FILE TIME FILE"),
    "no pairs": ("icl", put("associations.txt", ""), "the files of .* list no frames"),
    "no rotation": ("icl", put("a.gt.freiburg", "1 0 0 0 0 0 0 0"), "none of the 4 frames|quaternion .* length 1"),
    "no numbers": (
        "replica",
        put("traj.txt", "1 2 x\n" * 4),
        "line 1 of .*traj.txt is '1 2 x', expected the 16 numbers",
    ),
    "no focal": ("replica", put("cam_params.json", '{"camera": {"w": 1}}'), "cam_params.json has no 'h'"),
    "a list": ("replica", put("cam_params.json", "[]"), "cam_params.json has no 'w'"),
    "no scale": (
        "replica",
        put("cam_params.json", json.dumps({"w": 48, "h": 36, "fx": 1, "fy": 1, "cx": 1, "cy": 1, "scale": 0})),
        "cam_params.json has scale = 0.0, expected a positive number",
    ),
    "no camera": ("bundle", put("info.txt", "m_depthWidth = 48"), "m_depthHeight = '', expected a positive number"),
    "shift": ("bundle", edit("info.txt", "Shift = 1000", "Shift = nan"), "m_depthShift = 'nan', expected a positive"),
    "letters": ("bundle", edit("info.txt", "DepthIntrinsic = ", "DepthIntrinsic = x "), "m_calibrationDepthIntrinsic"),
    "columns": ("stray", edit("odometry.csv", "qw", "w"), "odometry.csv has no columns qw; its first line names"),
    "empty": ("stray", put("odometry.csv", ""), "odometry.csv has no columns frame, x"),
    "matrix": ("stray", lambda root: (root / "camera_matrix.csv").unlink(), "camera_matrix.csv is missing; expected"),
    "turned": (
        "stray",
        edit("camera_matrix.csv", "9.", "5."),
        "the middle neither of 36 x 48 nor of 1440 x 1920|pinhole",
    ),
}


def widen(path: Path) -> None:
    """Give an image another shape."""
    if path.parent.name == "rgb":
        save_rgb(path, torch.ones(3, 36, 96))
    else:
        save_sixteen(path, torch.ones(36, 96))


@pytest.mark.parametrize("case", REFUSED)
def test_broken_folders_are_refused_in_one_line(case: str, tmp_path: Path):
    kind, change, message = REFUSED[case]
    root = WRITERS[kind](tmp_path / "data")
    change(root)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        load_frames(root)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_broken_image_is_left_out_and_a_run_goes_on(kind: str, tmp_path: Path):
    root = WRITERS[kind](tmp_path / "data")
    whole = load_frames(root)
    whole.depth[0].write_bytes(whole.depth[0].read_bytes()[:30])
    whole.colour[1].write_text("no image")
    frames = load_frames(root)
    assert set(whole.names) - set(frames.names) == set(whole.names[:2])
    assert len(to_recording(frames).dropped) == 2 + len(whole.dropped)
    with pytest.raises(ValueError, match="is not a whole"):
        load_frames(root, reading=STRICT)


def test_a_data_set_of_many_runs_from_the_command_lines_door(tmp_path: Path):
    world = make_world(10, roll=12.0)
    for name in ("seq-01", "seq-02", "seq-03"):
        write_seven_scenes(tmp_path / name, world, intrinsics=True)
    for path in (tmp_path / "seq-02").glob("*.pose.txt"):
        path.write_text("lost")
    scenes = open_scenes(f"rgbd:{tmp_path}", Request(groups=4, views=2, n_ref=1, size=36))
    assert {name.split(":")[0] for name in scenes.names} == {"seq-01", "seq-03"}
    assert "1 of 3 recordings left out: seq-02 (none of the 10 frames" in scenes.note


def test_a_linked_recording_is_read_with_follow_links_only(tmp_path: Path):
    world = make_world(3)
    write_tum(tmp_path / "elsewhere/desk", world)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/desk").symlink_to(tmp_path / "elsewhere/desk")
    with pytest.raises(ValueError, match=r"desk leads outside .* others by --follow-links"):
        find_recordings(tmp_path / "mine").open("desk")
    assert find_recordings(tmp_path / "mine", Reading(follow_links=True)).open("desk").names


def renumber(root: Path, step: int, start: int) -> None:
    for kind, ending in (("frame", "jpg"), ("depth", "png")):
        for place in reversed(range(3)):
            source = root / f"results/{kind}{place:06d}.{ending}"
            source.rename(root / f"results/{kind}{start + step * place:06d}.{ending}")


@pytest.mark.parametrize(("step", "start"), [(1, 1), (10, 0)])
def test_replicas_frames_by_other_numbers_than_its_lines_are_refused(step: int, start: int, tmp_path: Path):
    root = write_replica(tmp_path / "room", make_world(3))
    renumber(root, step, start)
    with pytest.raises(ValueError, match=r"has 3 lines, but frames are numbered \d+ to \d+: which line"):
        load_frames(root)


def test_replicas_thinned_frames_keep_their_lines(tmp_path: Path):
    world = make_world(3)
    root = write_replica(tmp_path / "room", world)
    renumber(root, 2, 0)
    first, second, third = (root / "traj.txt").read_text().splitlines()
    (root / "traj.txt").write_text("\n".join([first, first, second, first, third]) + "\n")
    assert_lands(opened(root), world, colour=0.03)


def test_an_empty_line_in_a_trajectory_is_refused(tmp_path: Path):
    root = write_replica(tmp_path / "room", make_world(3))
    (root / "traj.txt").write_text((root / "traj.txt").read_text().replace("\n", "\n\n", 1))
    with pytest.raises(ValueError, match="has an empty line"):
        load_frames(root)


def test_lines_of_tum_that_are_broken_are_left_out(tmp_path: Path):
    world = published("freiburg3")
    root = write_tum(tmp_path / "fr3_desk", world)
    truth = root / "groundtruth.txt"
    lines = truth.read_text().splitlines()
    truth.write_text("\n".join([*lines, "garbage here 1 2 3 4 5 6 7", lines[-1].rsplit(" ", 3)[0]]) + "\n")
    assert_lands(opened(root), world)
    with pytest.raises(ValueError, match=r"groundtruth\.txt has the line"):
        opened(root, STRICT)
