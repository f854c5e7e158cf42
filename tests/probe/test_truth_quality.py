"""The command that compares sources of ground-truth points."""

from pathlib import Path

import pandas as pd
import pytest

from probe.truth_quality import cli


def test_the_command_writes_one_row_per_source_and_scene(tmp_path: Path, capsys: pytest.CaptureFixture):
    flags = [
        "--count",
        "2",
        "--views",
        "2",
        "--image-size",
        "32",
        "--grid",
        "8",
        "--out",
        str(tmp_path / "a" / "q.csv"),
    ]
    cli([*flags, "--truth-noise", "holes:.5"])
    table = pd.read_csv(tmp_path / "a" / "q.csv")
    assert table["source"].tolist() == ["depth", "tracks"] * 2
    assert table["pixels"][::2].tolist() == [0.5, 0.5]
    assert (table["seconds"] >= 0).all()
    said = capsys.readouterr().out
    assert "50.0%" in said
    assert "seconds, megabytes" in said


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--truth-source", "lidar"], "--truth-source 'lidar' is unknown"),
        (["--count", "0"], "expected at least 1 scene"),
        (["--truth-noise", "fog:1"], "expected KIND:AMOUNT"),
        (["--scenes", "moon"], "--scenes 'moon' is unknown"),
    ],
)
def test_wrong_input_is_one_line(flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as stop:
        cli([*flags, "--out", str(tmp_path / "q.csv")])
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert message in said.strip().splitlines()[-1]
    assert not (tmp_path / "q.csv").exists()
