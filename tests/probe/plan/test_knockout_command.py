"""Knocking out heads of a finished run by the command: what it writes, on which scenes, and what it refuses."""

import json
from pathlib import Path

import pandas as pd
import pytest

from probe import knockout
from probe.selection.heads import halves


def test_heads_are_ranked_on_one_half_of_the_rooms_and_knocked_out_on_the_other(copy: Path, capsys):
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    knockout.cli([str(copy), "--counts", "1,2", "--draws", "3", "--no-report"])
    rows = pd.read_csv(copy / "knockout.csv")
    rooms = pd.read_csv(copy / "pairs.csv")["scene"].unique()
    assert sorted(rows["scene"].unique()) == halves(rooms)[1]
    assert rows.groupby(["heads", "which"]).size().to_dict() == {
        (number, which): 2 * sets for number in (1, 2) for which, sets in (("best", 1), ("random", 3))
    }
    assert rows["chosen"].str.fullmatch(r"[68]:\d( [68]:\d)?").all()
    assert rows["value"].notna().all()
    assert (rows["unit"] == rows["scene"]).all()
    assert {name: (copy / name).read_bytes() for name in before} == before
    said = capsys.readouterr().out
    assert "Knocking out the 2 heads that find correspondences best" in said
    assert "nan" not in said


def test_the_same_command_finds_the_same(copy: Path):
    tables = []
    for seed in ("0", "0", "1"):
        knockout.cli([str(copy), "--counts", "1", "--draws", "2", "--seed", seed, "--no-report"])
        tables.append((copy / "knockout.csv").read_bytes())
    assert tables[0] == tables[1] != tables[2]


def test_the_page_shows_what_was_knocked_out(copy: Path):
    knockout.cli([str(copy), "--counts", "1", "--draws", "1", "--scenes", "1"])
    page = (copy / "report.html").read_text()
    assert 'id="knockout"' in page
    assert "whether the best matter more cannot be told" in page


def changed(path: Path, **changes: object) -> None:
    known = json.loads(path.read_text())
    known.get("settings", known).update(changes)
    path.write_text(json.dumps(known))


def refusal(words: list[str], capfd: pytest.CaptureFixture[str]) -> str:
    capfd.readouterr()
    with pytest.raises(SystemExit) as stop:
        knockout.cli(words)
    assert stop.value.code == 2
    return capfd.readouterr().err


def test_other_weights_and_other_scenes_are_refused(copy: Path, capfd: pytest.CaptureFixture[str]):
    changed(copy / "model.json", steps=7)
    assert "are not those that were scored" in refusal([str(copy)], capfd)
    changed(copy / "model.json", name="cat3d-tiny:random")
    known = json.loads((copy / "model.json").read_text())
    del known["steps"]
    (copy / "model.json").write_text(json.dumps(known))
    changed(copy / "config.json", scenes="shapes-v1")
    assert "its scenes are not those" in refusal([str(copy)], capfd)
    assert not (copy / "knockout.csv").exists()


def test_more_heads_than_there_are_others_are_refused(copy: Path, capfd: pytest.CaptureFixture[str]):
    said = refusal([str(copy), "--counts", "5"], capfd)
    assert "--counts 8 heads were scored apart, of which half can be knocked out, not 5" in said
