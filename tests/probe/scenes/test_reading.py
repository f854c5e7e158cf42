"""Files by the names people give them, and what is left out: the laws of reading."""

import os
import unicodedata
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from small_world import make_world, recording_of

from probe.scenes.choosing import Recordings, ViewList, draw_list, draw_readable
from probe.scenes.choosing import Scene as Chosen
from probe.scenes.opening import Request, choose
from probe.scenes.reading import Dropped, Folder, Reading, find_file, inside, left_out, read_all, split_detail
from probe.scenes.recordings import Recording, UnreadableFramesError, scene_name

WORLD = make_world(10, roll=12.0)
NFC, NFD = (unicodedata.normalize(form, "fenêtre.png") for form in ("NFC", "NFD"))


def put(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())


# --- finding ---------------------------------------------------------------------------------------------------------

SPELLED = {
    "as written": ("images/a.png", "images/a.png"),
    "dot": ("./images/a.png", "images/a.png"),
    "back-slashes": (".\\images\\a.png", "images/a.png"),
    "case": ("Images/A.PNG", "images/a.png"),
    "disk in capitals": ("images/a.jpg", "Images/A.JPG"),
    "no ending": ("images/frame_1", "images/frame_1.jpg"),
    "other ending": ("images/a.png", "images/a.JPG"),
    "dots in a name": ("images/frame.0001", "images/frame.0001.png"),
    "dots and another ending": ("images/frame.0001.jpg", "images/frame.0001.png"),
    "composed on disk": (f"images/{NFD}", f"images/{NFC}"),
    "decomposed on disk": (f"images/{NFC}", f"images/{NFD}"),
    "another machine's": ("/home/else/scene/images/a.png", "images/a.png"),
    "another machine's drive": ("C:\\scene\\images\\a.png", "images/a.png"),
    "beside the json": ("images/a.png", "a.png"),
}


@pytest.mark.parametrize("case", SPELLED)
def test_a_file_is_found_by_the_name_that_people_write(tmp_path: Path, case: str):
    named, on_disk = SPELLED[case]
    put(tmp_path, on_disk)
    assert find_file(named, tmp_path) == tmp_path / on_disk


MISSING = {
    "another name": ("images/a.png", "images/b.png"),
    "an ending that is no image's": ("images/a.png", "images/a.txt"),
    "another number": ("frame.0001", "frame.0002.png"),
    "nothing": ("", "a.png"),
    "a folder": ("images", "images/a.png"),
    "too long": ("a" * 5000, "a.png"),
    "zero byte": ("a\0.png", "a.png"),
}


@pytest.mark.parametrize("case", MISSING)
def test_another_file_is_never_taken_for_it(tmp_path: Path, case: str):
    named, on_disk = MISSING[case]
    put(tmp_path, on_disk)
    assert find_file(named, tmp_path) is None


def test_of_several_the_file_as_written_then_the_longest_tail_is_taken(tmp_path: Path):
    put(tmp_path, "images/a.png", "images/a.jpg", "a.png", "images/A.png")
    assert find_file("images/A.png", tmp_path) == tmp_path / "images/A.png"
    assert find_file("images/a.jpg", tmp_path) == tmp_path / "images/a.jpg"
    assert find_file("/far/images/a.png", tmp_path) == tmp_path / "images/a.png"


def test_a_file_that_came_later_is_found_too(tmp_path: Path):
    put(tmp_path, "a.png")
    assert find_file("B", tmp_path) is None
    put(tmp_path, "b.png")
    os.utime(tmp_path, ns=(1, 1))  # another time than before, whatever the clock's grain
    assert find_file("B", tmp_path) == tmp_path / "b.png"


def test_the_endings_may_be_those_of_depth(tmp_path: Path):
    put(tmp_path, "a.png")
    assert find_file("a.exr", tmp_path, suffixes=(".exr", ".png")) == tmp_path / "a.png"
    assert find_file("a", tmp_path, suffixes=(".npy",)) is None


@pytest.mark.parametrize("way", ["link", "parent"])
def test_what_leads_out_of_the_folder_is_read_by_a_flag_only(tmp_path: Path, way: str):
    put(tmp_path, "else/a.png")
    root = tmp_path / "scene"
    root.mkdir()
    (root / "a.png").symlink_to(tmp_path / "else/a.png")
    file = find_file("a.png" if way == "link" else "../else/a.png", root)
    assert file is not None
    with pytest.raises(ValueError, match=r"leads outside .*--follow-links"):
        inside(file, Folder(root))
    assert inside(file, Folder(root, Reading(follow_links=True))) == (tmp_path / "else/a.png").resolve()


def test_a_broken_link_is_one(tmp_path: Path):
    (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "b.png")
    for name in ("a.png", "b.png"):
        file = find_file(name, tmp_path)
        assert file is not None
        with pytest.raises(FileNotFoundError, match="does not exist or is a broken link"):
            inside(file, Folder(tmp_path))


def test_a_detail_follows_the_last_sign_unless_the_folder_is_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert split_detail(tmp_path / "scan#525") == (tmp_path / "scan", "525")
    assert split_detail(tmp_path / "scan") == (tmp_path / "scan", "")
    (tmp_path / "take #2").mkdir()
    assert split_detail(tmp_path / "take #2") == (tmp_path / "take #2", "")
    assert split_detail(tmp_path / "take #2#525") == (tmp_path / "take #2", "525")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert split_detail(Path("~/take #2#525")) == (tmp_path / "take #2", "525")


@pytest.mark.parametrize(("name", "value"), [("depth_scale", 0.0), ("unit", -1.0), ("unit", float("nan"))])
def test_numbers_of_the_flags_are_positive(name: str, value: float):
    with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} is .*expected a positive number"):
        _ = Reading(**{name: value}).reading  # type: ignore[arg-type]


# --- leaving out -----------------------------------------------------------------------------------------------------


def fail(reason: str):
    def read() -> int:
        raise ValueError(reason)

    return read


def test_what_can_be_read_is_read_in_order_and_the_rest_is_named():
    named = [("a", lambda: 1), ("b", fail("torn")), ("c", lambda: 3)]
    assert read_all(named, Folder(Path()), "scan") == ([1, 3], (Dropped("b", "torn"),))
    assert read_all([], Folder(Path()), "scan") == ([], ())
    with pytest.raises(ValueError, match=r"^torn$"):
        read_all(named, Folder(Path(), Reading(strict=True)), "scan")
    with pytest.raises(ValueError, match="none of the 2 frames of scan can be read; the first: torn"):
        read_all([("a", fail("torn")), ("b", fail("gone"))], Folder(Path()), "scan")


def test_a_fault_of_the_code_is_not_left_out():
    with pytest.raises(ZeroDivisionError):
        read_all([("a", lambda: 1 // 0), ("b", lambda: 1)], Folder(Path()), "scan")


def test_what_was_left_out_is_counted_and_the_first_ones_are_named():
    dropped = [Dropped(name, "torn") for name in "abcd"]
    assert left_out([], 9, "frames") == ""
    assert left_out(dropped[:1], 9, "frames of x") == "1 of 9 frames of x left out: a (torn)"
    assert left_out(dropped, 9, "frames") == "4 of 9 frames left out: a (torn); b (torn); and 2 more"


def test_every_reader_of_a_recording_without_frames_reads_the_frame_it_names():
    whole = replace(
        recording_of(WORLD),
        points=lambda index: torch.full((2, 3), float(index)),
        shared=torch.arange(100.0).reshape(10, 10),
    )
    gone = {whole.names[2]: "torn", whole.names[7]: "gone", "unknown": "x"}
    rest = whole.without(gone)
    assert rest.names == tuple(name for name in whole.names if name not in gone)
    assert rest.dropped == (Dropped(whole.names[2], "torn"), Dropped(whole.names[7], "gone"))
    for index, name in enumerate(rest.names):
        before = whole.names.index(name)
        assert rest.sizes[index] == whole.sizes[before]
        assert torch.equal(rest.world_to_cam[index], whole.world_to_cam[before])
        assert torch.equal(rest.intrinsics[index], whole.intrinsics[before])
        assert torch.equal(rest.colour(index), whole.colour(before))
        assert torch.equal(rest.depth(index), whole.depth(before))  # type: ignore[misc]
        assert torch.equal(rest.points(index), whole.points(before))  # type: ignore[misc]
        assert rest.window(index) == whole.window(before)
    kept = [whole.names.index(name) for name in rest.names]
    assert torch.equal(rest.shared, whole.shared[kept][:, kept])  # type: ignore[index]
    twice = rest.without({rest.names[0]: "torn"})
    assert (twice.names[0], len(twice.dropped)) == (rest.names[1], 3)
    assert torch.equal(twice.colour(1), rest.colour(2))
    assert whole.without({"unknown": "x"}) is whole
    with pytest.raises(ValueError, match="none of 10 frames of room can be read: torn"):
        whole.without(dict.fromkeys(whole.names, "torn"))


# --- drawing ---------------------------------------------------------------------------------------------------------


def torn(recording: Recording, *, colour: set[int] = frozenset(), depth: set[int] = frozenset()) -> Recording:  # type: ignore[assignment]
    """Return a recording some of whose files are broken."""

    def reader(read, broken: set[int]):
        def of(index: int):
            if index in broken:
                raise ValueError(f"frame {index} is torn")
            return read(index)

        return of

    return replace(recording, colour=reader(recording.colour, colour), depth=reader(recording.depth, depth))


def data_set(recordings: dict[str, Recording], **more: object) -> Recordings:
    def open_one(name: str) -> Recording:
        if name not in recordings or recordings[name] is None:
            raise ValueError(f"{name} has no cameras")
        return replace(recordings[name], name=name)

    return Recordings(root=Path("data"), names=tuple(recordings), open=open_one, **more)  # type: ignore[arg-type]


def drawn(recordings: Recordings, **changes: object) -> ViewList:
    asked: dict[str, object] = {"count": 6, "views": 2, "min_overlap": 0.1, "seed": 3, **changes}
    strict = bool(asked.get("strict", False))
    return draw_readable(recordings, partial(draw_list, **asked), strict=strict)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["colour", "depth"])
def test_a_broken_frame_is_never_drawn_and_is_counted(kind: str):
    whole = recording_of(WORLD)
    broken = data_set({"room": torn(whole, **{kind: {1, 4}})})  # type: ignore[arg-type]
    chosen = drawn(broken)
    used = {frame for scene in chosen.scenes for frame in scene.frames}
    assert not used & {whole.names[1], whole.names[4]}
    assert set(chosen.broken["room"]) <= {whole.names[1], whole.names[4]}
    assert "of 10 frames of room left out" in chosen.note
    assert (drawn(broken).digest, drawn(broken).note) == (chosen.digest, chosen.note)
    with pytest.raises(UnreadableFramesError, match="is torn"):
        drawn(broken, strict=True)


def test_whole_recordings_are_drawn_as_ever():
    whole = data_set({"room": recording_of(WORLD)})
    assert drawn(whole).digest == drawn(whole, strict=True).digest
    assert "left out" not in drawn(whole).note


def test_a_broken_recording_among_good_ones_is_counted():
    rooms = data_set({"good": recording_of(WORLD), "bad": None, "fine": recording_of(WORLD)})  # type: ignore[dict-item]
    chosen = drawn(rooms)
    assert {scene.recording for scene in chosen.scenes} <= {"good", "fine"}
    assert "1 of 3 recordings left out: bad (bad has no cameras)" in chosen.note
    with pytest.raises(ValueError, match="bad has no cameras"):
        drawn(rooms, strict=True)


def test_where_all_is_broken_one_line_says_so():
    with pytest.raises(ValueError, match=r"none of 2 recordings of data can be used; the first: .* has no cameras"):
        drawn(data_set({"a": None, "b": None}))  # type: ignore[dict-item]
    all_torn = torn(recording_of(WORLD), depth=set(range(10)))
    with pytest.raises(ValueError, match=r"none of 10 frames of room can be read: frame 0 is torn"):
        drawn(data_set({"room": all_torn}))


def test_of_a_published_list_only_the_broken_scenes_are_lost():
    whole = recording_of(WORLD)
    pairs = [(0, 1), (2, 3), (5, 6)]
    scenes = tuple(Chosen(recording="room", frames=(whole.names[a], whole.names[b]), overlap=(0.5,)) for a, b in pairs)
    listed = {"list-v1": lambda _: ViewList(protocol="list-v1", scenes=scenes)}
    rooms = data_set({"room": torn(whole, colour={3})}, lists=listed)
    request = Request(groups=3, views=2, n_ref=1, view_list="list-v1")
    chosen = choose(rooms, request)
    assert chosen.scenes == (scenes[0], scenes[2])
    assert choose(rooms, replace(request, groups=2)).scenes == chosen.scenes  # the next of the list stands in
    assert "2 of 3 scenes, 0 not on the disk, 1 cannot be read (the first: frame 3 is torn)" in chosen.note
    with pytest.raises(ValueError, match="frame 3 is torn"):
        choose(rooms, replace(request, reading=Reading(strict=True)))
    with pytest.raises(ValueError, match="is torn"):
        choose(data_set({"room": torn(whole, colour=set(range(10)))}, lists=listed), request)


def test_a_relative_path_loses_all_its_folders_or_none(tmp_path: Path):
    """A folder that is missing must not be answered by another camera's file of the same name."""
    put(tmp_path, "depth/1.png", "2.png")
    assert find_file("cam1/depth/1.png", tmp_path) is None
    assert find_file("cam1/depth/2.png", tmp_path) == tmp_path / "2.png"
    assert find_file("/home/me/cam1/depth/1.png", tmp_path) == tmp_path / "depth/1.png"
    assert find_file(r"C:\me\cam1\depth\1.png", tmp_path) == tmp_path / "depth/1.png"


def test_names_that_are_no_text_can_be_printed_and_written():
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    assert scene_name("room", [name]).encode() == rb"room:caf\udce9"
    note = left_out([Dropped(name, f"{name} is missing")], 2, "frames of room")
    assert note.encode() == rb"1 of 2 frames of room left out: caf\udce9 (caf\udce9 is missing)"
