"""RealEstate10K: written from a known scene as text and as chunks, read back to the same cameras and colours."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_re10k import KEY, STEP, encode, row, write_chunks, write_text
from small_world import World, assert_lands, make_world, photograph, rays
from torch import Tensor

from probe.scenes import Request, open_scenes
from probe.scenes.formats.re10k import EVALUATION, find_recordings
from probe.scenes.reading import Reading
from probe.scenes.recordings import Recording, compare_frames, load_views
from probe.views import Views

WORLD = make_world(5)
KEYS = tuple(f"{number:016x}" for number in range(5))


def opened(root: Path, **reading: Any) -> Recording:
    found = find_recordings(root, Reading(**reading))
    return found.open(found.names[0])


@pytest.mark.parametrize("late", [0, 7000, -7000])
def test_text_and_frames(late: int, tmp_path: Path):
    recording = opened(write_text(tmp_path, WORLD, late=late))
    assert (recording.name, recording.names) == (KEY, ("0", "1", "2", "3", "4"))
    assert (recording.unit, recording.has_truth, tuple(one.name for one in recording.dropped)) == (None, False, ())
    torch.testing.assert_close(recording.cameras, WORLD.world_to_cam, rtol=0, atol=1e-5)
    assert_lands(recording, WORLD, points=False)


def test_a_camera_file_without_its_url_has_all_its_cameras(tmp_path: Path):
    root = write_text(tmp_path, WORLD)
    path = root / f"test/{KEY}.txt"
    path.write_text(path.read_text().split("\n", 1)[1])
    assert_lands(opened(root), WORLD, points=False)


def test_chunks(tmp_path: Path):
    recording = opened(write_chunks(tmp_path, WORLD))
    assert (recording.name, recording.names) == (KEY, ("0", "1", "2", "3", "4"))
    torch.testing.assert_close(recording.cameras, WORLD.world_to_cam, rtol=0, atol=1e-5)
    assert_lands(recording, WORLD, points=False, colour=0.03)


def test_recordings_of_both_splits_are_found_with_and_without_an_index(tmp_path: Path):
    write_chunks(tmp_path, make_world(2), (KEYS[:2], KEYS[2:3]), split="train")
    write_chunks(tmp_path, make_world(2), (KEYS[3:4],), index=False)
    write_text(tmp_path, make_world(2), KEYS[4])
    found = find_recordings(tmp_path)
    assert found.names == KEYS
    assert [found.open(key).name for key in KEYS] == list(KEYS)
    assert find_recordings(tmp_path / "train").names == KEYS[:3]


def test_frames_too_far_in_time_are_dropped_and_named(tmp_path: Path):
    write_text(tmp_path, WORLD)
    frame = tmp_path / "test" / KEY / f"{1_000_000 + 2 * STEP}.png"
    frame.rename(frame.with_name(f"{1_000_000 + 2 * STEP + 8001}.png"))
    recording = opened(tmp_path)
    assert (recording.names, tuple(one.name for one in recording.dropped)) == (("0", "1", "3", "4"), ("2",))
    assert_lands(recording, WORLD, frames=(0, 1, 3, 4), points=False)
    for path in frame.parent.iterdir():
        path.rename(path.with_name(f"{int(path.stem) + 9_000_000}.png"))
    with pytest.raises(ValueError, match=r"no frame of .* lies within 8000 microseconds"):
        opened(tmp_path)


def test_a_frame_serves_one_camera(tmp_path: Path):
    write_text(tmp_path, WORLD)
    lines = (tmp_path / f"test/{KEY}.txt").read_text().splitlines()
    lines.insert(2, lines[1].replace("1000000 ", "1000400 "))
    (tmp_path / f"test/{KEY}.txt").write_text("\n".join(lines))
    recording = opened(tmp_path)
    assert (recording.names, tuple(one.name for one in recording.dropped)) == (("0", "2", "3", "4", "5"), ("1",))


@pytest.mark.parametrize("name", ["{:05d}.png", "frame_{:04d}.PNG"])
@pytest.mark.parametrize("first", [0, 1])
def test_frames_numbered_in_a_row_are_taken_in_order_if_there_are_as_many(name: str, first: int, tmp_path: Path):
    write_text(tmp_path, WORLD)
    folder = tmp_path / "test" / KEY
    for place, path in enumerate(sorted(folder.iterdir())):
        path.rename(folder / name.format(place + first))
    found = find_recordings(tmp_path)
    assert found.note == "frames of 1 recordings bear numbers, not timestamps: taken in order"
    assert_lands(found.open(KEY), WORLD, points=False)
    (folder / name.format(4 + first)).unlink()
    with pytest.raises(ValueError, match=r"has 4 frames, numbered .* and .*txt 5 cameras: .* cannot be told"):
        opened(tmp_path)


def test_upper_case_endings_and_hidden_files(tmp_path: Path):
    write_text(tmp_path, WORLD, suffix=".PNG")
    (tmp_path / "test" / KEY / "._1000000.PNG").write_bytes(b"")
    assert_lands(opened(tmp_path), WORLD, points=False)


def test_camera_files_whose_videos_are_gone_are_left_out_and_counted(tmp_path: Path):
    for key in KEYS[:4]:
        write_text(tmp_path, make_world(2), key)
    for key in KEYS[1:3]:
        (tmp_path / "test" / key).rename(tmp_path / f"gone {key}")
    for path in (tmp_path / "test" / KEYS[3]).iterdir():
        path.unlink()
    found = find_recordings(tmp_path)
    assert found.names == KEYS[:1]
    assert found.note.startswith("3 of 4 camera files left out: ")
    assert "has no folder of frames; expected" in found.note
    with pytest.raises(FileNotFoundError, match=r"has no folder of frames"):
        find_recordings(tmp_path, Reading(strict=True))


@pytest.mark.parametrize("index", [False, True])
def test_chunks_that_are_missing_or_broken_are_left_out_among_good_ones(index: bool, tmp_path: Path):
    write_chunks(tmp_path, make_world(2), (KEYS[:2], KEYS[2:3], KEYS[3:4]), index=index)
    chunk = tmp_path / "test/000001.torch"
    chunk.unlink() if index else chunk.write_bytes(chunk.read_bytes()[:500])
    found = find_recordings(tmp_path)
    assert found.names == (*KEYS[:2], KEYS[3])
    assert found.note.startswith("1 of 3 chunks left out: 000001.torch (")
    with pytest.raises((ValueError, FileNotFoundError), match=r"000001.torch"):
        find_recordings(tmp_path, Reading(strict=True))


def test_broken_lines_and_frames_are_left_out(tmp_path: Path):
    write_text(tmp_path, WORLD)
    lines = (tmp_path / f"test/{KEY}.txt").read_text().splitlines()
    lines[2], lines[5] = lines[2].replace(" 0 0 ", " 0 nan ", 1), lines[5][:60]  # cut off, as by a full disk
    (tmp_path / f"test/{KEY}.txt").write_text("\n".join(lines))
    (tmp_path / "test" / KEY / f"{1_000_000 + 2 * STEP}.png").write_bytes(b"")
    recording = opened(tmp_path)
    assert sorted(one.name for one in recording.dropped) == ["1", "2", "4"]
    assert_lands(recording, WORLD, frames=(0, 3), points=False)


def test_broken_frames_of_a_chunk_are_left_out(tmp_path: Path):
    write_chunks(tmp_path, WORLD)
    path = tmp_path / "test/000000.torch"
    scenes = torch.load(path, weights_only=True)
    scenes[0]["cameras"][1, 8] = math.nan
    scenes[0]["images"][3] = torch.zeros(9, dtype=torch.uint8)
    torch.save(scenes, path)
    recording = opened(tmp_path)
    assert (recording.names, [one.name for one in recording.dropped]) == (("0", "2", "4"), ["1", "3"])
    assert_lands(recording, WORLD, frames=(0, 2, 4), points=False, colour=0.03)


def test_the_evaluation_index_names_context_and_target(tmp_path: Path):
    write_chunks(tmp_path, WORLD, (KEYS,))
    entries: dict[str, Any] = {
        KEYS[1]: None,
        "f" * 16: {"context": [0, 1], "target": [2]},  # not on the disk
        KEYS[2]: {"context": [0, 4], "target": [2]},
        KEYS[0]: {"context": [1, 3], "target": [2]},
    }
    file = tmp_path / "evaluation_index_re10k.json"
    file.write_text(json.dumps(entries))
    request = Request(groups=8, views=3, n_ref=2, size=12, view_list=f"{EVALUATION}:{file}", needs_truth=False)
    scenes = open_scenes(f"re10k:{tmp_path}", request)
    assert scenes.names == (f"{KEYS[2]}:0-4-2", f"{KEYS[0]}:1-3-2")
    assert "2 of 3 scenes, 1 not on the disk" in scenes.note
    views, overlap = scenes.load(0)
    torch.testing.assert_close(views.world_to_cam[0], WORLD.world_to_cam[[0, 4, 2]], rtol=0, atol=1e-5)
    assert views.n_ref == 2
    assert all(math.isnan(share) for share in overlap)
    assert len(open_scenes(f"re10k:{tmp_path}", replace(request, groups=1)).names) == 1
    with pytest.raises(ValueError, match=r"needs pixelSplat's file"):
        open_scenes(f"re10k:{tmp_path}", replace(request, view_list=EVALUATION))
    with pytest.raises(
        ValueError, match=r"view list 'other' is unknown for these scenes; choose from re10k-pixelsplat"
    ):
        open_scenes(f"re10k:{tmp_path}", replace(request, view_list="other"))
    file.write_text(json.dumps({KEYS[0]: {"context": [1]}}))
    with pytest.raises(ValueError, match=r"0000 of .* has no 'target'"):
        open_scenes(f"re10k:{tmp_path}", request)
    file.write_text(json.dumps({"f" * 16: {"context": [0, 1], "target": [2]}}))
    with pytest.raises(ValueError, match=r"names 1 scenes, of which .* has none"):
        open_scenes(f"re10k:{tmp_path}", request)


def exact(world: World) -> Callable[[Views], tuple[Tensor, Tensor]]:
    """A geometry source that casts the views' own rays."""

    def source(views: Views) -> tuple[Tensor, Tensor]:
        local = rays(views.intrinsics[0], views.size)
        points = photograph(world.shapes, views.world_to_cam[0], local)[1]
        return points[None], torch.ones_like(points[None, :, 0], dtype=torch.bool)

    return source


def test_truth_comes_from_a_geometry_source(tmp_path: Path):
    write_text(tmp_path, make_world(8, roll=10.0))
    request = Request(groups=2, views=2, n_ref=1, size=12)
    with pytest.raises(ValueError, match=r"re10k:\S+ has no depth, so there is no truth .*--truth-source tracks"):
        open_scenes(f"re10k:{tmp_path}", request).load(0)
    assert not open_scenes(f"re10k:{tmp_path}", replace(request, needs_truth=False)).load(0)[0].valid.any()
    world = make_world(8, roll=10.0)
    views, _ = open_scenes(f"re10k:{tmp_path}", replace(request, geometry=exact(world))).load(0)
    assert views.valid.all()


def test_overlap_without_depth_comes_from_the_cameras(tmp_path: Path):
    """Cameras that turn away overlap less: the room's true overlap and the supposed one agree in order."""
    pairs = compare_frames(opened(write_text(tmp_path, make_world(6, roll=0.0, turn=20.0))))
    shares = pairs.overlap[0]
    assert shares[0] > 0.99
    assert shares[5] < 0.75 * shares[1]
    torch.testing.assert_close(pairs.overlap, pairs.overlap.mT, rtol=0, atol=0)


# --- refusals --------------------------------------------------------------------------------------------------------


def text(change: Callable[[list[str]], object]) -> Callable[[Path], object]:
    def apply(root: Path) -> None:
        path = root / f"test/{KEY}.txt"
        lines = path.read_text().splitlines()
        change(lines)
        path.write_text("\n".join(lines))

    return apply


def column(place: int, value: str) -> Callable[[Path], object]:
    def change(lines: list[str]) -> None:
        words = lines[1].split()
        words[place] = value
        lines[1] = " ".join(words)

    return text(change)


REFUSED_TEXT: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda r: (r / f"test/{KEY}.txt").write_text(""), "has no line after its URL"),
    "truncated line": (text(lambda lines: lines.__setitem__(2, "1 2 3")), "line 3 of .* has 3 numbers, expected 19"),
    "words": (column(4, "half"), "is not a URL and lines of numbers"),
    "bytes": (lambda r: (r / f"test/{KEY}.txt").write_bytes(b"\xff\xfe\n\xff"), "is not a URL and lines of numbers"),
    "NaN camera": (column(10, "nan"), "frame 0 of .* holds a NaN or infinite number"),
    "no rotation": (column(7, "5"), "frame 0 of .* is not a rigid pose"),
    "distortion": (column(5, "0.1"), "has 0.1, 0.0 after its principal point, expected 0 0"),
    "focal": (column(1, "0"), "expected positive pixels"),
    "principal point": (column(3, "1.5"), "outside the image of width 48, height 36"),
    "no frames": (lambda r: (r / "test" / KEY).rename(r / "gone"), "has no folder of frames; expected .*TIMESTAMP.png"),
    "link out": (lambda r: link_out(r / "test" / KEY / "1000000.png"), "1000000.png leads outside"),
}


def link_out(path: Path) -> None:
    outside = path.parents[3] / "outside.png"
    path.rename(outside)
    path.symlink_to(outside)


@pytest.mark.parametrize("case", REFUSED_TEXT)
def test_broken_text_is_refused(case: str, tmp_path: Path):
    root = write_text(tmp_path / "re10k", make_world(2))
    change, message = REFUSED_TEXT[case]
    change(root)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        opened(root, strict=True)
    assert "\n" not in str(caught.value)


def test_truncated_frames_are_refused_when_they_are_read(tmp_path: Path):
    root = write_text(tmp_path, make_world(2))
    path = root / "test" / KEY / "1000000.png"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"1000000.png is not a whole (PNG|JPEG) image"):
        load_views(opened(root), [0], size=12, n_ref=1)


def scene(**changes: Any) -> Any:
    world = make_world(2)
    whole = {
        "key": KEY,
        "cameras": torch.tensor([row(world, place) for place in range(2)]),
        "images": [encode(image) for image in world.image],
        "timestamps": torch.arange(2),
        "url": "",
    }
    return [{**whole, **changes}]


REFUSED_CHUNKS: dict[str, tuple[Any, str]] = {
    "no tensors": (b"no chunk", "000000.torch is not a whole chunk of tensors"),
    "empty": (b"", "000000.torch is not a whole chunk of tensors"),
    "code": ([print], "000000.torch is not a whole chunk of tensors"),
    "an object": ({}, "has scenes = '{}', expected list"),
    "no key": ([{}], "a scene of .* has no 'key'"),
    "another key": (scene(key="other"), "holds no 0123456789abcdef, though index.json says so"),
    "no cameras": (scene(cameras=None), "has cameras = 'None', expected Tensor"),
    "short cameras": (scene(cameras=torch.zeros(2, 12)), r"are \(2, 12\), expected \(frames, 18\)"),
    "no frames": (scene(cameras=torch.zeros(0, 18), images=[]), r"are \(0, 18\), expected \(frames, 18\)"),
    "fewer images": (scene(images=[encode(torch.zeros(3, 4, 4))]), "has 1 images and 2 cameras"),
    "NaN camera": (scene(cameras=torch.full((2, 18), math.nan)), "frame 0 of .* nan"),
    "no image": (scene(images=["a", "b"]), "image 0 of .* is 'a', expected a row of bytes"),
    "broken image": (scene(images=[torch.zeros(9, dtype=torch.uint8)] * 2), "image 0 of .* is no image"),
}


@pytest.mark.parametrize("case", REFUSED_CHUNKS)
def test_broken_chunks_are_refused(case: str, tmp_path: Path):
    root = write_chunks(tmp_path, make_world(2))
    content, message = REFUSED_CHUNKS[case]
    path = root / "test/000000.torch"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match=message) as caught:
        opened(root)
    assert "\n" not in str(caught.value)


def test_an_index_that_leads_out_is_refused(tmp_path: Path):
    root = write_chunks(tmp_path / "re10k", make_world(2))
    (root / "test/000000.torch").rename(tmp_path / "outside.torch")
    (root / "test/index.json").write_text(json.dumps({KEY: "../../outside.torch"}))
    with pytest.raises(ValueError, match=r"outside.torch leads outside"):
        opened(root)
    (root / "test/index.json").write_text("[")
    with pytest.raises(ValueError, match=r"index.json is not whole JSON"):
        opened(root)


def test_other_folders_are_refused(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"is not a folder; expected <16 hexadecimal digits>.txt"):
        find_recordings(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"holds no recordings; expected <16"):
        find_recordings(tmp_path)
