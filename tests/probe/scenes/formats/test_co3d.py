"""CO3D: written from a known scene, read back to the same cameras, colours and points."""

import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_co3d import HOLE, INFINITE, pack, write_co3d, write_prepared
from small_nerfstudio import save_rgb
from small_world import assert_lands, make_world

from probe.scenes import Request, open_scenes
from probe.scenes.formats.co3d import EVALUATION, find_recordings
from probe.scenes.reading import Reading
from probe.scenes.recordings import Recording, load_views

WORLD = make_world(5)
SEQUENCE = "106_12648_23157"
JPEG = 0.03  # loss of colour


def opened(root: Path | str, **reading: Any) -> Recording:
    found = find_recordings(Path(root), Reading(**reading))
    return found.open(found.names[0])


@pytest.mark.parametrize("kind", ["ndc_isotropic", "ndc_norm_image_bounds", None])
@pytest.mark.parametrize("size", [(36, 48), (48, 36)], ids=["wide", "high"])
def test_points_land_where_they_are_seen(kind: str | None, size: tuple[int, int], tmp_path: Path):
    world = make_world(4, size=size)
    recording = opened(write_co3d(tmp_path, world, kind=kind))
    assert recording.name == f"hydrant/{SEQUENCE}"
    assert recording.names == tuple(f"frame{index + 1:06d}" for index in range(4))
    assert recording.unit is None
    torch.testing.assert_close(recording.cameras, world.world_to_cam, rtol=0, atol=1e-5)
    torch.testing.assert_close(recording.intrinsics, world.intrinsics, rtol=0, atol=1e-4)
    assert_lands(recording, world, colour=JPEG)


def test_the_depth_mask_and_infinite_depths_are_not_valid(tmp_path: Path):
    views = load_views(opened(write_co3d(tmp_path, WORLD)), range(5), size=36, n_ref=1)
    expected = torch.ones(36, 36, dtype=torch.bool)
    for row, column in (HOLE, INFINITE):
        expected[row, column - 6] = False
    assert torch.equal(views.valid[0], expected.expand(5, 36, 36))
    assert views.point_map.isfinite().all()


def test_sequences_of_all_categories_are_found_and_the_missing_ones_counted(tmp_path: Path):
    write_co3d(tmp_path, make_world(2), ("9_1_1", "10_1_1", "10_2_2"))
    write_co3d(tmp_path, make_world(2), ("7_7_7",), category="apple")
    (tmp_path / "hydrant/10_2_2").rename(tmp_path / "elsewhere")
    found = find_recordings(tmp_path)
    assert found.names == ("apple/7_7_7", "hydrant/9_1_1", "hydrant/10_1_1")
    assert found.note == "1 of 4 annotated sequences are not on the disk"
    assert [found.open(name).name for name in found.names] == list(found.names)


def test_set_lists_choose_frames(tmp_path: Path):
    write_co3d(tmp_path, WORLD, ("1_1_1", "2_2_2"))
    images = {k: f"hydrant/1_1_1/images/frame{k + 1:06d}.jpg" for k in range(5)}
    lists = {"train": [["1_1_1", k, images[k]] for k in (3, 0, 2)], "test": [["2_2_2", 1, "x.jpg"]]}
    folder = tmp_path / "hydrant/set_lists"
    folder.mkdir()
    (folder / "set_lists_fewview_dev.json").write_text(json.dumps(lists))
    train, test = (find_recordings(Path(f"{tmp_path}#fewview_dev/{split}")) for split in ("train", "test"))
    assert (train.names, test.names) == (("hydrant/1_1_1",), ("hydrant/2_2_2",))
    recording = train.open("hydrant/1_1_1")
    assert recording.names == ("frame000001", "frame000003", "frame000004")
    assert_lands(recording, WORLD, frames=(0, 2, 3), colour=JPEG)
    assert test.open("hydrant/2_2_2").names == ("frame000002",)
    with pytest.raises(ValueError, match=r"has the subset 'manyview'; choose from fewview_dev"):
        find_recordings(Path(f"{tmp_path}#manyview/train"))
    with pytest.raises(ValueError, match=r"has the splits train, test but has no 'val'"):
        find_recordings(Path(f"{tmp_path}#fewview_dev/val"))


def test_evaluation_batches_become_scenes_whose_last_view_is_the_target(tmp_path: Path):
    write_co3d(tmp_path, WORLD)
    batches = [[[SEQUENCE, k, f"hydrant/{SEQUENCE}/images/frame{k + 1:06d}.jpg"] for k in (4, 0, 2)]]
    file = tmp_path / "eval_batches_fewview_dev.json"
    file.write_text(json.dumps(batches))
    request = Request(groups=8, views=3, n_ref=2, size=12, view_list=f"{EVALUATION}:{file}")
    scenes = open_scenes(f"co3d:{tmp_path}", request)
    assert scenes.names == (f"hydrant/{SEQUENCE}:frame000001-frame000003-frame000005",)
    assert scenes.note.startswith(f"view list {EVALUATION} (")
    views, overlap = scenes.load(0)
    torch.testing.assert_close(views.world_to_cam[0], WORLD.world_to_cam[[0, 2, 4]], rtol=0, atol=1e-5)
    assert all(math.isnan(share) for share in overlap)
    with pytest.raises(ValueError, match=r"prescribes 3 views with 2 references, not 3 with 1"):
        open_scenes(f"co3d:{tmp_path}", Request(groups=8, views=3, n_ref=1, view_list=f"{EVALUATION}:{file}"))
    with pytest.raises(ValueError, match=r"needs a file"):
        open_scenes(f"co3d:{tmp_path}", Request(groups=8, views=3, n_ref=2, view_list=EVALUATION))
    file.write_text(json.dumps([[[SEQUENCE, "4", "x"]]]))
    with pytest.raises(ValueError, match=r"expected \[sequence, frame number, image path\]"):
        open_scenes(f"co3d:{tmp_path}", request)


def test_what_dust3r_prepared_is_read_too(tmp_path: Path):
    recording = opened(write_prepared(tmp_path, WORLD))
    torch.testing.assert_close(recording.cameras, WORLD.world_to_cam, rtol=0, atol=1e-5)
    assert_lands(recording, WORLD, colour=JPEG)
    assert find_recordings(Path(f"{tmp_path}#train")).names == (f"hydrant/{SEQUENCE}",)
    with pytest.raises(FileNotFoundError, match=r"selected_seqs_test.json does not exist"):
        find_recordings(Path(f"{tmp_path}#test"))
    npz = tmp_path / f"hydrant/{SEQUENCE}/images/frame000001.npz"
    np.savez(npz, camera_pose=np.eye(4))
    with pytest.raises(ValueError, match=r"frame000001.npz is not a whole .npz of camera_pose"):
        opened(tmp_path, strict=True)
    left = opened(tmp_path)
    assert [one.name for one in left.dropped] == ["frame000001"]
    assert_lands(left, WORLD, frames=(1, 2, 3, 4), colour=JPEG)
    npz.write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"frame000001.npz is not a whole .npz"):
        opened(tmp_path, strict=True)
    for broken in ('{"hydrant": {"1_1": 3}}', '{"hydrant": {"1_1": []}}'):
        (tmp_path / "selected_seqs_train.json").write_text(broken)
        with pytest.raises(ValueError, match=r"1_1"):
            opened(tmp_path)


def test_it_runs_from_the_command_lines_door(tmp_path: Path):
    world = make_world(10, roll=12.0)
    write_co3d(tmp_path, world, ("1_1_1", "2_2_2"))
    scenes = open_scenes(f"co3d:{tmp_path}", Request(groups=8, views=3, n_ref=1, size=36))
    again = open_scenes(f"co3d:{tmp_path}", Request(groups=8, views=3, n_ref=1, size=36))
    assert scenes.names == again.names
    assert {name.partition(":")[0] for name in scenes.names} == {"hydrant/1_1_1", "hydrant/2_2_2"}
    views, overlap = scenes.load(len(scenes.names) - 1)
    assert views.image.shape == (1, 3, 3, 36, 36)
    assert min(overlap) >= 0.2


# --- refusals --------------------------------------------------------------------------------------------------------


def edit(change: Callable[[list[dict[str, Any]]], object]) -> Callable[[Path], object]:
    def apply(root: Path) -> None:
        path = root / "hydrant/frame_annotations.jgz"
        records = json.loads(gzip.decompress(path.read_bytes()))
        change(records)
        pack(path, records)

    return apply


def first(part: str, **values: Any) -> Callable[[Path], object]:
    return edit(lambda records: records[0][part].update(values))


def outside(root: Path) -> None:
    save_rgb(root.parent / "outside.jpg", torch.zeros(3, 36, 48))
    first("image", path="../outside.jpg")(root)


def hide(records: list[dict[str, Any]]) -> None:
    for record in records:
        record["viewpoint"] = None


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "not gzip": (
        lambda r: (r / "hydrant/frame_annotations.jgz").write_bytes(b"[]"),
        "frame_annotations.jgz is not whole",
    ),
    "truncated": (
        lambda r: (p := r / "hydrant/frame_annotations.jgz").write_bytes(p.read_bytes()[:-40]),
        "frame_annotations.jgz is not whole JSON: .*; is the download whole\\?",
    ),
    "an object": (lambda r: pack(r / "hydrant/frame_annotations.jgz", {}), "has frames = '{}', expected list"),
    "no sequences": (lambda r: (r / "hydrant/sequence_annotations.jgz").unlink(), "sequence_annotations.jgz does not"),
    "no sequence_name": (edit(lambda f: f[0].pop("sequence_name")), "a frame of .* has no 'sequence_name'"),
    "frame number": (edit(lambda f: f[0].update(frame_number="1")), "has frame_number = '1', expected int"),
    "no image path": (edit(lambda f: f[0]["image"].pop("path")), "image of frame 1 of .* has no 'path'"),
    "no image": (
        lambda r: next((r / "hydrant").glob("*/images/frame000002.jpg")).unlink(),
        "000002.jpg does not exist",
    ),
    "image outside": (outside, "outside.jpg leads outside"),
    "NaN camera": (
        first("viewpoint", T=[math.nan, 0, 0]),
        "frame 1 of .* holds a NaN .*; write this pose, or remove its entry",
    ),
    "sheared camera": (first("viewpoint", R=[[1, 1, 0], [0, 1, 0], [0, 0, 1]]), "is not a rigid pose"),
    "mirrored camera": (first("viewpoint", R=[[-1, 0, 0], [0, 1, 0], [0, 0, 1]]), "is not a rigid pose"),
    "short T": (first("viewpoint", T=[0, 0]), "T of frame 1 of .* has 2 numbers, expected 3"),
    "format": (first("viewpoint", intrinsics_format="pixels"), "intrinsics_format 'pixels', expected ndc_isotropic or"),
    "focal": (first("viewpoint", focal_length=[0, 1]), "expected positive pixels"),
    "NaN focal": (first("viewpoint", focal_length=[math.nan, 1]), "holds a NaN or infinite focal length"),
    "principal point": (first("viewpoint", principal_point=[3, 0]), "outside the image of width 48, height 36"),
    "scale": (first("depth", scale_adjustment=-1), "has scale_adjustment = -1.0, expected a positive number"),
    "no cameras": (edit(hide), "none of 2 frames of .* has a camera"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_broken_annotations_are_refused(case: str, tmp_path: Path):
    root = write_co3d(tmp_path / "co3d", make_world(2))
    change, message = REFUSED[case]
    change(root)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        opened(root, strict=True)
    assert "\n" not in str(caught.value)


def test_frames_without_a_camera_are_dropped_and_named(tmp_path: Path):
    root = write_co3d(tmp_path, WORLD)
    edit(lambda records: records[0].update(viewpoint=None))(root)  # written last frame first
    recording = opened(root)
    assert (len(recording.names), tuple(one.name for one in recording.dropped)) == (4, ("4",))


LEFT_OUT: dict[str, Callable[[Path], object]] = {
    "no image": lambda r: (r / f"hydrant/{SEQUENCE}/images/frame000002.jpg").unlink(),
    "no depth": lambda r: (r / f"hydrant/{SEQUENCE}/depths/frame000002.jpg.geometric.png").unlink(),
    "no mask": lambda r: next((r / f"hydrant/{SEQUENCE}/depth_masks").glob("*2.*")).unlink(),
    "NaN focal": edit(lambda frames: second(frames)["viewpoint"].update(focal_length=[math.nan, 1])),
    "negative focal": edit(lambda frames: second(frames)["viewpoint"].update(focal_length=[-2, -2])),
    "scale": edit(lambda frames: second(frames)["depth"].update(scale_adjustment=0)),
    "huge scale": edit(lambda frames: second(frames)["depth"].update(scale_adjustment=10**400)),
    "no depth annotated": edit(lambda frames: second(frames).update(depth=None)),
}


def second(records: list[dict[str, Any]]) -> dict[str, Any]:
    return next(one for one in records if one["frame_number"] == 1)


@pytest.mark.parametrize("case", LEFT_OUT)
def test_a_broken_frame_is_left_out(case: str, tmp_path: Path):
    root = write_co3d(tmp_path, WORLD)
    LEFT_OUT[case](root)
    recording = opened(root)
    assert [one.name for one in recording.dropped] == ["1"]
    assert_lands(recording, WORLD, frames=(0, 2, 3, 4), colour=JPEG)


def test_a_sequence_without_depth_is_left_out_among_others_and_says_so_alone(tmp_path: Path):
    world = make_world(10, roll=12.0)
    root = write_co3d(tmp_path, world, ("1_1_1", "2_2_2", "3_3_3"))

    def bare(records: list[dict[str, Any]]) -> None:
        for one in records:
            one.update(depth=None) if one["sequence_name"] == "2_2_2" else None
        records[:] = [one for one in records if one["sequence_name"] != "3_3_3"]  # which then has no frames at all

    edit(bare)(root)
    request = Request(groups=4, views=2, n_ref=1, size=12)
    note = open_scenes(f"co3d:{root}", request).note
    assert "2 of 3 recordings left out" in note
    assert f"hydrant/2_2_2 (co3d:{root} has no depth" in note
    assert "hydrant/3_3_3 (co3d: none of 0 frames of hydrant/3_3_3 has a camera)" in note
    with pytest.raises(ValueError, match=r"co3d:\S*hydrant/2_2_2 has no depth, so .*--truth-source tracks"):
        open_scenes(f"co3d:{root}/hydrant/2_2_2", request)
    recording = find_recordings(root).open("hydrant/2_2_2")
    assert not recording.has_truth
    assert_lands(recording, world, points=False, colour=JPEG)


def test_a_category_or_a_sequence_may_be_named(tmp_path: Path):
    write_co3d(tmp_path, WORLD, ("1_1_1", "2_2_2"))
    write_co3d(tmp_path, make_world(2), ("7_7_7",), category="apple")
    assert find_recordings(tmp_path / "hydrant").names == ("hydrant/1_1_1", "hydrant/2_2_2")
    assert find_recordings(tmp_path / "hydrant/2_2_2").names == ("hydrant/2_2_2",)
    assert_lands(opened(tmp_path / "hydrant/2_2_2"), WORLD, colour=JPEG)
    (tmp_path / "hydrant").rename(tmp_path / "hydrants")
    assert_lands(opened(tmp_path / "hydrants"), WORLD, colour=JPEG)


def test_a_broken_category_is_left_out_among_others(tmp_path: Path):
    write_co3d(tmp_path, WORLD, ("1_1_1",))
    write_co3d(tmp_path, make_world(2), ("7_7_7",), category="apple")
    (tmp_path / "apple/sequence_annotations.jgz").write_bytes(b"")
    found = find_recordings(tmp_path)
    assert found.names == ("hydrant/1_1_1",)
    assert "1 of 2 categories left out: apple (read_json: " in found.note
    with pytest.raises(ValueError, match=r"apple/sequence_annotations.jgz is not whole JSON"):
        find_recordings(tmp_path, Reading(strict=True))


def test_redacted_frames_are_left_out_when_scenes_are_drawn(tmp_path: Path):
    """They are annotated like others: black, with depth 0."""
    root = write_co3d(tmp_path, make_world(10, roll=12.0))
    folder = root / f"hydrant/{SEQUENCE}"
    for frame in ("frame000003", "frame000006"):
        save_rgb(folder / f"images/{frame}.jpg", torch.zeros(3, 36, 48))
        Image.fromarray(np.zeros((36, 48), np.uint16)).save(folder / f"depths/{frame}.jpg.geometric.png")
    scenes = open_scenes(f"co3d:{root}", Request(groups=4, views=3, n_ref=1, size=12))
    assert f"2 of 10 frames of hydrant/{SEQUENCE} left out: frame000003 (co3d: " in scenes.note
    assert "is black: a redacted frame" in scenes.note
    assert not any(frame in name for name in scenes.names for frame in ("frame000003", "frame000006"))


@pytest.mark.parametrize("kind", ["images", "depths", "depth_masks"])
def test_truncated_images_are_refused_when_they_are_read(kind: str, tmp_path: Path):
    root = write_co3d(tmp_path, make_world(2))
    path = sorted((root / f"hydrant/{SEQUENCE}/{kind}").iterdir())[0]
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=f"{path.name} is not a whole (PNG|JPEG) image"):
        load_views(opened(root), [0], size=12, n_ref=1)


def test_images_of_another_kind_or_size_are_refused(tmp_path: Path):
    root = write_co3d(tmp_path, make_world(2))
    folder = root / f"hydrant/{SEQUENCE}"
    Image.fromarray(np.zeros((36, 48), np.uint8)).save(folder / "depths/frame000001.jpg.geometric.png")
    with pytest.raises(ValueError, match=r"geometric.png .* mode L, expected a 16-bit"):
        load_views(opened(root), [0], size=12, n_ref=1)
    Image.fromarray(np.zeros((18, 24), np.uint8)).save(folder / "depth_masks/frame000002.png")
    with pytest.raises(ValueError, match=r"frame000002.png is \(18, 24\), expected \(36, 48\), as the depth"):
        load_views(opened(root), [1], size=12, n_ref=1)
    save_rgb(folder / "images/frame000002.jpg", torch.ones(3, 24, 48))
    with pytest.raises(ValueError, match=r"frame frame000002 of hydrant/.* is 24 x 48, expected 36 x 48"):
        load_views(opened(root), [1], size=12, n_ref=1)


def test_other_folders_are_refused(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"is not a folder; expected categories with frame_annotations.jgz"):
        find_recordings(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"holds no CATEGORY/frame_annotations.jgz"):
        find_recordings(tmp_path)
    root = write_co3d(tmp_path, make_world(2))
    (root / f"hydrant/{SEQUENCE}").rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"none of 1 annotated sequences of .* is on the disk"):
        find_recordings(root)
