"""Which scenes are measured: shares, visits, lists in files."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from frame_groups import pick_groups
from hypothesis import given
from hypothesis import strategies as st
from small_world import make_world, recording_of

from probe.records import write_json
from probe.records.names import is_block
from probe.scenes import Request, open_scenes
from probe.scenes.choosing import (
    Recordings,
    Scene,
    ViewList,
    block_of,
    draw_list,
    independent_units,
    list_record,
    read_list,
    share_out,
)
from probe.scenes.opening import open_data_set
from probe.scenes.recordings import Recording, compare_frames, scene_name

WORLD = make_world(12, roll=25.0, turn=8.0, size=(24, 32), focal=(24.0, 24.0))
WORLD_NAMES = recording_of(WORLD, "world").names


def data_set(count: int, opened: list[str] | None = None, *, parted: bool = False) -> Recordings:
    """Give copies of one world; ``parted`` leaves every second one without any overlap."""
    names = tuple(f"scene-{index}" for index in range(count))

    def open_recording(name: str) -> Recording:
        if opened is not None:
            opened.append(name)
        recording = recording_of(WORLD, name)
        if parted and int(name.partition("-")[2]) % 2:
            return replace(recording, depth=lambda index: 0 * WORLD.depth[index])
        return recording

    return Recordings(root=Path("world"), names=names, open=open_recording)


def draw(recordings: Recordings, count: int, seed: int = 0) -> ViewList:
    return draw_list(recordings, count=count, views=3, min_overlap=0.2, seed=seed)


def test_share_out_known():
    assert share_out([[5, 0, 9, 9]], 6) == [[2, 0, 2, 2]]  # the empty bin's share goes to the others
    assert share_out([[5, 5], [1, 5]], 8) == [[3, 2], [1, 2]]  # in turns, as far as they have some
    assert share_out([[5, 5]], 3) == [[2, 1]]  # the first bins owe the remainder
    assert share_out([[0, 0], [0, 0]], 4) == [[0, 0], [0, 0]]


@given(
    supplies=st.lists(st.lists(st.integers(0, 6), min_size=4, max_size=4), min_size=1, max_size=5),
    count=st.integers(1, 40),
)
def test_share_out_laws(supplies: list[list[int]], count: int):
    owed = share_out(supplies, count)
    assert all(
        give <= most for gives, has in zip(owed, supplies, strict=True) for give, most in zip(gives, has, strict=True)
    )
    totals = [sum(column) for column in zip(*owed, strict=True)]
    rich = [sum(column) >= count for column in zip(*supplies, strict=True)]
    if all(rich):
        assert sum(totals) == count
        assert max(totals) - min(totals) <= 1


def test_a_lone_recording_gives_the_groups_of_its_own_pairs():
    recording = recording_of(WORLD, "scene-0")
    pairs = compare_frames(recording)
    groups = pick_groups(recording, count=8, views=3, seed=5, pairs=pairs)
    expected = [scene_name("scene-0", [recording.names[index] for index in group.frames]) for group in groups]
    assert [scene.name for scene in draw(data_set(1), 8, seed=5).scenes] == expected


def test_scenes_spread_over_recordings_and_few_are_opened():
    opened: list[str] = []
    chosen = draw(data_set(40, opened), 8)
    used = Counter(scene.recording for scene in chosen.scenes)
    assert len(chosen.scenes) == 8
    assert set(used) <= set(opened)
    assert len(opened) == len(set(opened)) == 2  # two scenes per bin, one per recording and bin
    assert max(used.values()) == 4
    assert len({scene.name.partition(":")[2] for scene in chosen.scenes}) > 4  # recordings draw apart


def test_draws_are_deterministic_and_seeds_differ():
    assert draw(data_set(6), 8) == draw(data_set(6), 8)
    assert draw(data_set(6), 8, seed=1).digest != draw(data_set(6), 8).digest


def test_recordings_without_overlap_are_passed_over():
    opened: list[str] = []
    chosen = draw(data_set(9, opened, parted=True), 12)
    assert all(int(scene.recording.partition("-")[2]) % 2 == 0 for scene in chosen.scenes)
    assert len(chosen.scenes) == 12
    with pytest.raises(ValueError, match=r"no 3 of 12 frames make a scene: .*; lower --min-overlap or --views, or add"):
        draw(replace(data_set(2, parted=True), names=("scene-1",)), 4)
    with pytest.raises(ValueError, match=r"2 of 2 recordings of world were compared and none has 3 frames"):
        draw(replace(data_set(4, parted=True), names=("scene-1", "scene-3")), 4)


def test_fewer_frames_than_views_are_told_with_what_to_do():
    def left(count: int) -> Recordings:
        return data_set(1).without({"scene-0": dict.fromkeys(WORLD_NAMES[count:], "broken")})

    for count, words in ((1, "1 frame"), (2, "2 frames")):
        with pytest.raises(
            ValueError,
            match=rf"^scene-0 has {words} that can be read, --views 3 needs 3; lower --views or add frames; .*left out",
        ):
            draw(left(count), 4)
    several = data_set(2).without({f"scene-{k}": dict.fromkeys(WORLD_NAMES[k + 1 :], "broken") for k in range(2)})
    with pytest.raises(ValueError, match=r"of 2 recordings of world the longest has 2 frames that can be read, --v"):
        draw(several, 4)


def test_fewer_scenes_than_asked_are_told():
    chosen = draw_list(data_set(2), count=4000, views=2, min_overlap=0.5, seed=0)
    assert f"{len(chosen.scenes)} of 4000 scenes found in 2 recordings" in chosen.note


# --- files -----------------------------------------------------------------------------------------------------------

LIST = ViewList(
    protocol="rotation-v1",
    scenes=(
        Scene(recording="a", frames=("1", "2"), overlap=(0.5,)),
        Scene(recording="b/c", frames=("3", "1"), overlap=(float("nan"),), n_ref=1),
    ),
)


def test_a_list_comes_back_from_its_file(tmp_path: Path):
    write_json(tmp_path / "list.json", list_record(LIST))
    again = read_list(tmp_path / "list.json")
    assert again.digest == LIST.digest
    assert [(s.recording, s.frames, s.n_ref) for s in again.scenes] == [
        (s.recording, s.frames, s.n_ref) for s in LIST.scenes
    ]
    assert again.scenes[0].overlap == (0.5,)
    assert again.scenes[1].overlap[0] != again.scenes[1].overlap[0]


def test_the_digest_names_protocol_scenes_and_order():
    assert LIST.digest == "6aad5f9a9983"  # the same on every machine, for ever
    others = [
        replace(LIST, protocol="rotation-v2"),
        replace(LIST, scenes=LIST.scenes[::-1]),
        replace(LIST, scenes=(replace(LIST.scenes[0], n_ref=1), LIST.scenes[1])),
        replace(LIST, scenes=(replace(LIST.scenes[0], frames=("2", "1")), LIST.scenes[1])),
    ]
    assert len({LIST.digest, *(other.digest for other in others)}) == 5
    assert replace(LIST, note="x").digest == LIST.digest


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"protocol": "a", "digest": "b", "scenes": [{"recording": "a"}]}']
)
def test_broken_lists_are_refused(content: str, tmp_path: Path):
    (tmp_path / "list.json").write_text(content)
    with pytest.raises(ValueError, match=r"list.json is no view list \(protocol, digest, scenes\)"):
        read_list(tmp_path / "list.json")


def test_edited_and_missing_lists_are_refused(tmp_path: Path):
    record = list_record(LIST)
    record["scenes"][0]["frames"] = ["1", "4"]
    write_json(tmp_path / "list.json", json.loads(json.dumps(record)))
    with pytest.raises(ValueError, match=r"says digest .* but its scenes have .*; was it edited"):
        read_list(tmp_path / "list.json")
    with pytest.raises(FileNotFoundError, match=r"gone.json does not exist"):
        read_list(tmp_path / "gone.json")


# What is independent


def scenes_of(*names: tuple[str, int]) -> list[Scene]:
    """One scene per recording and first frame; its other frame is the next one."""
    return [
        Scene(recording=name, frames=(WORLD_NAMES[first], WORLD_NAMES[(first + 1) % 12]), overlap=(0.5,))
        for name, first in names
    ]


WORLD_NAMES = recording_of(WORLD, "a").names


def test_of_several_recordings_each_is_a_unit():
    chosen = scenes_of(("a", 0), ("b", 3), ("a", 11))
    assert independent_units(chosen, lambda name: recording_of(WORLD, name)) == ("a", "b", "a")


def test_a_lone_recording_is_cut_into_eight_blocks_of_time_by_the_first_frame():
    chosen = scenes_of(*(("a", first) for first in (0, 3, 6, 8, 10)))
    units = independent_units(chosen, lambda name: recording_of(WORLD, name))
    assert units == ("a, block 1", "a, block 3", "a, block 5", "a, block 6", "a, block 7")
    assert all(is_block(unit) for unit in units)
    assert not is_block("a")


def test_blocks_whose_scenes_share_a_frame_are_one_unit():
    """Frames 2-3 and 3-4, then 4-5: blocks 2, 3 and 3 of time hang together over frames 3 and 4; 8-9 stands apart."""
    chosen = scenes_of(*(("a", first) for first in (2, 3, 4, 8)))
    assert independent_units(chosen, lambda name: recording_of(WORLD, name)) == (*["a, block 2"] * 3, "a, block 6")
    later = scenes_of(("a", 8), ("a", 4), ("a", 3))  # in whatever order
    assert independent_units(later, lambda name: recording_of(WORLD, name)) == ("a, block 6", *["a, block 3"] * 2)


def test_scenes_of_a_long_lone_recording_lie_within_blocks():
    """48 frames in a slow turn: each block gives groups, so no frame is in two units; a short one draws from all."""
    world = make_world(48, roll=5.0, turn=2.0, size=(24, 32), focal=(24.0, 24.0))
    recordings = Recordings(root=Path("world"), names=("a",), open=lambda name: recording_of(world, name))
    drawn = draw_list(recordings, count=4, views=3, min_overlap=0.2, seed=0)
    names = recording_of(world, "a").names
    blocks = [{block_of(names.index(frame), 48) for frame in scene.frames} for scene in drawn.scenes]
    assert {len(one) for one in blocks} == {1}
    assert len({min(one) for one in blocks}) > 1
    assert "the views of each scene lie within one of 8 blocks of time" in drawn.note
    short = draw(data_set(1), 4)
    assert "blocks of time" not in short.note
    assert any(len({block_of(WORLD_NAMES.index(frame), 12) for frame in scene.frames}) > 1 for scene in short.scenes)


def test_an_opened_data_set_names_the_unit_of_each_row(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("probe.scenes.opening.find_recordings", lambda name, root, reading: data_set(3))
    scenes = open_data_set("rgbd", "world", Request(groups=6, views=3, n_ref=1, size=16))
    rows = scenes.with_units(pd.DataFrame({"scene": [*scenes.names, scenes.names[0]]}))
    assert rows["unit"].tolist() == [name.partition(":")[0] for name in rows["scene"]]
    assert len(set(rows["unit"])) > 1


def test_every_procedural_scene_is_a_unit():
    scenes = open_scenes("shapes", Request(groups=3, views=2, n_ref=1, size=16))
    rows = scenes.with_units(pd.DataFrame({"scene": scenes.names}))
    assert rows["unit"].tolist() == rows["scene"].tolist()
