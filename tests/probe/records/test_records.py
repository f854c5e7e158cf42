"""Laws of results on disk: files whole or absent, run folders, digests, averages with intervals."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from probe.records import (
    Rows,
    RunError,
    digest,
    environment,
    open_run,
    rotation_bin,
    scene_values,
    score_table,
    summarise,
    write,
    write_folder,
    write_json,
    write_text,
)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# Writing


def test_a_file_is_written_whole(tmp_path: Path):
    seen = []

    def save(part: Path) -> None:
        part.write_text("new")
        seen.append((part.name, (tmp_path / "a.txt").read_text()))

    (tmp_path / "a.txt").write_text("old")
    write(tmp_path / "a.txt", save)
    assert seen == [("a.txt.part", "old")]  # until it is complete the old one stands
    assert (tmp_path / "a.txt").read_text() == "new"
    assert files(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("stop", [OSError("disk full"), KeyboardInterrupt(), ValueError("no")])
@pytest.mark.parametrize("before", [None, "old"])
def test_a_failed_save_leaves_nothing_and_harms_nothing(tmp_path: Path, stop: BaseException, before: str | None):
    path = tmp_path / "a.txt"
    if before is not None:
        path.write_text(before)

    def save(part: Path) -> None:
        part.write_text("half")
        raise stop

    with pytest.raises(type(stop)):
        write(path, save)
    assert files(tmp_path) == ([] if before is None else ["a.txt"])
    assert before is None or path.read_text() == before


def test_what_a_stopped_process_left_is_written_over(tmp_path: Path):
    (tmp_path / "a.txt.part").write_text("half of an earlier attempt")
    write_text(tmp_path / "a.txt", "whole ü")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "whole ü"
    assert files(tmp_path) == ["a.txt"]


def test_a_folder_is_written_whole_and_replaces_an_old_one(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").touch()
    (tmp_path / "part-a").mkdir()  # of a process that was stopped
    (tmp_path / "part-a" / "half").touch()
    seen = []
    write_folder(tmp_path / "a", lambda part: ((part / "new").touch(), seen.append(files(tmp_path))))
    assert seen == [["a", "a/old", "part-a", "part-a/new"]]
    assert files(tmp_path) == ["a", "a/new"]


@pytest.mark.parametrize("stop", [OSError("disk full"), KeyboardInterrupt()])
def test_a_folder_that_fails_leaves_nothing_and_harms_nothing(tmp_path: Path, stop: BaseException):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").touch()

    def save(part: Path) -> None:
        (part / "half").touch()
        raise stop

    with pytest.raises(type(stop)):
        write_folder(tmp_path / "a", save)
    assert files(tmp_path) == ["a", "a/old"]


def test_json_has_null_for_what_is_not_a_number(tmp_path: Path):
    value = {
        "a": math.nan,
        "b": [1, np.float64(0.5), np.int64(3), np.nan, math.inf],
        "c": {"d": (True, None, "x")},
        5: -1.5,
    }
    write_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == {"a": None, "b": [1, 0.5, 3, None, None], "c": {"d": [True, None, "x"]}, "5": -1.5}
    assert "NaN" not in text


# Run folders


def test_a_run_folder_holds_settings_and_environment(tmp_path: Path):
    out = tmp_path / "a" / "b"
    open_run(out, {"steps": 5, "rate": 0.1, "names": ("x", "y")}, resume=False)
    config = json.loads((out / "config.json").read_text())
    assert config["settings"] == {"steps": 5, "rate": 0.1, "names": ["x", "y"]}
    assert config["environment"] == environment()
    assert {"python", "torch", "commit", "machine"} <= set(environment())
    assert files(out) == ["config.json"]


def test_the_same_settings_may_go_on_if_told_to(tmp_path: Path):
    given = {"steps": 5, "names": ("x", "y"), "nothing": math.nan, "out": str(tmp_path / "r")}
    open_run(tmp_path / "r", given, resume=False)
    before = (tmp_path / "r" / "config.json").read_bytes()
    open_run(tmp_path / "r", given, resume=True)
    with pytest.raises(RunError, match="already holds this run; add --resume to continue it or choose another --out"):
        open_run(tmp_path / "r", given, resume=False)
    (tmp_path / "r").rename(tmp_path / "moved")
    open_run(tmp_path / "moved", {**given, "out": str(tmp_path / "moved")}, resume=True)
    assert (tmp_path / "moved" / "config.json").read_bytes() == before


def test_a_setting_that_may_grow_is_taken_over_and_never_shrinks(tmp_path: Path):
    open_run(tmp_path / "r", {"steps": 5, "seed": 0}, resume=False)
    open_run(tmp_path / "r", {"steps": 8, "seed": 0}, resume=True, may_grow=("steps",))
    assert json.loads((tmp_path / "r" / "config.json").read_text())["settings"]["steps"] == 8
    with pytest.raises(RunError, match=r"other values of \['steps'\]"):
        open_run(tmp_path / "r", {"steps": 5, "seed": 0}, resume=True, may_grow=("steps",))
    with pytest.raises(RunError, match="add --resume"):
        open_run(tmp_path / "r", {"steps": 9, "seed": 0}, resume=False, may_grow=("steps",))
    with pytest.raises(RunError, match=r"other values of \['seed'\]"):
        open_run(tmp_path / "r", {"steps": 9, "seed": 1}, resume=True, may_grow=("steps",))
    assert json.loads((tmp_path / "r" / "config.json").read_text())["settings"]["steps"] == 8


@pytest.mark.parametrize("resume", [False, True])
def test_other_settings_are_refused_by_name(tmp_path: Path, resume: bool):
    open_run(tmp_path / "r", {"steps": 5, "seed": 0, "gone": 1, "same": "x"}, resume=False)
    before = files(tmp_path / "r")
    with pytest.raises(
        RunError, match=r"was made with other values of \['gone', 'new', 'steps'\]; choose another --out"
    ):
        open_run(tmp_path / "r", {"steps": 6, "seed": 0, "new": 2, "same": "x"}, resume=resume)
    assert files(tmp_path / "r") == before


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_of_something_else_is_refused(tmp_path: Path, resume: bool):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match=r"is not empty and holds no config\.json; choose another --out"):
        open_run(tmp_path, {}, resume=resume)
    assert files(tmp_path) == ["notes.txt"]
    (tmp_path / "empty").mkdir()
    open_run(tmp_path / "empty", {}, resume=resume)


@pytest.mark.parametrize("text", ["{", '{"sample_size": 32}', "[1]", '{"settings": 3}', b"\xff\xfe"])
def test_a_config_of_something_else_is_refused(tmp_path: Path, text: str | bytes):
    (tmp_path / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RunError, match=r"is not the config\.json of a run; choose another --out"):
        open_run(tmp_path, {}, resume=True)


def test_what_cannot_be_written_is_said_in_one_line(tmp_path: Path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(RunError, match=r"cannot write to .*; choose another --out") as caught:
            open_run(out, {}, resume=False)
        assert "\n" not in str(caught.value)
    assert issubclass(RunError, ValueError)


# Digests


def test_a_digest_is_that_of_the_content():
    table = pd.DataFrame({"pair": ["a", "b"], "rotation_deg": [1.0, 2.5]})
    assert digest(table) == digest(table.copy())
    assert digest(table) == "af3872afd3a5"  # sha256 of "pair,rotation_deg\na,1.000000\nb,2.500000\n", on every machine
    assert digest(table) == digest(table.set_index(pd.Index([7, 9])))  # the index is no content
    assert digest(table) == digest(table.assign(rotation_deg=[1.0, 2.5 + 1e-9]))  # machines round differently
    assert digest(table) == digest(table.astype({"pair": "category"}))
    changed = [
        table.assign(rotation_deg=[1.0, 2.50001]),
        table.assign(pair=["a", "c"]),
        table[::-1],
        table[:1],
        table.rename(columns={"pair": "pairs"}),
    ]
    assert len({digest(table), *(digest(other) for other in changed)}) == 6


# Rotation bins


def test_rotation_bins_hold_their_lower_edge():
    degrees = [0.0, 29.999, 30.0, 59.9, 60.0, 90.0, 119.99, 120.0, 150.0, 180.0]
    names = ["0-30", "0-30", "30-60", "30-60", "60-90", "90-120", "90-120", "120+", "120+", "120+"]
    assert rotation_bin(pd.Series(degrees)).astype(str).tolist() == names
    assert rotation_bin(pd.Series([math.nan])).isna().all()


# The score table


def test_score_table_puts_each_constant_beside_its_rows():
    constants = {"model": "m", "step": -1, "scene": "s", "layer": 2, "layer_name": "x", "grid": "2x2", "timestep": 5,
                 "protocol": "p", "pair_list": ""}  # fmt: skip

    def part(values: list[float], **changes: object) -> Rows:
        size = len(values)
        text = {"pair": "s:0-1", "direction": "ref-tgt", "metric": "a"}
        columns = {
            **{name: np.full(size, word, dtype=object) for name, word in text.items()},
            **{name: np.full(size, 1) for name in ("query_view", "key_view", "rotation_deg", "count")},
            "head": np.arange(size) - 1,
            "value": np.array(values),
        }
        return Rows(columns=columns, constants=constants | changes)

    table = score_table(
        [part([0.1, math.nan]), part([0.3], layer=4, layer_name="y", timestep=7), part([0.4], scene="t")]
    )
    assert table["layer"].tolist() == [2, 2, 4, 2]
    assert table["layer_name"].tolist() == ["x", "x", "y", "x"]
    assert table["scene"].tolist() == ["s", "s", "s", "t"]
    assert table["timestep"].tolist() == [5, 5, 7, 5]
    assert table["value"].isna().tolist() == [False, True, False, False]
    assert table["layer"].dtype.kind == "i"


# Averages over scenes


def scores(rows: list[tuple[str, str, float, int]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["group", "scene", "value", "count"])


def test_scene_values_weigh_by_count_and_leave_nothing_out_for_zero():
    table = scores([("a", "s", 1.0, 30), ("a", "s", 0.0, 10), ("a", "t", 0.5, 1), ("b", "s", math.nan, 0),
                    ("a", "t", math.nan, 5), ("b", "t", 0.0, 2), ("b", "t", 0.7, 0)])  # fmt: skip
    found = scene_values(table, ["group"])
    assert found.to_numpy().tolist() == [["a", "s", 0.75, 40], ["a", "t", 0.5, 1], ["b", "t", 0.0, 2]]


def test_what_was_not_counted_is_absent():
    columns = ["group", "value", "low", "high", "scenes", "units", "count"]
    found = summarise(scores([("a", "s", math.nan, 0), ("b", "s", 1.0, 2)]), ["group"])
    assert found["group"].tolist() == ["b"]
    for nothing in (scores([]), scores([("a", "s", math.nan, 0)])):
        assert summarise(nothing, ["group"]).columns.tolist() == columns
        assert summarise(nothing, ["group"]).empty


def test_groups_by_several_columns_stay_apart():
    table = scores([("a", "s", 0.0, 1), ("a", "t", 1.0, 1), ("b", "s", 1.0, 1)]).assign(bin=["x", "y", "x"])
    found = summarise(table, ["group", "bin"])
    assert found[["group", "bin", "value"]].to_numpy().tolist() == [["a", "x", 0.0], ["a", "y", 1.0], ["b", "x", 1.0]]
