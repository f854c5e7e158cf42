"""Decoding geometry from the layers of a finished run by the command: what it writes, and what it refuses."""

import json
from pathlib import Path

import pandas as pd
import pytest

from probe import decode


def test_the_table_has_every_layer_beside_the_nulls_and_the_page_shows_it(copy: Path, capsys, monkeypatch):
    monkeypatch.setattr("probe.measure.decoding.STEPS", 30)
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    decode.cli([str(copy), "--pairs", "5", "--decoders", "1"])
    rows = pd.read_csv(copy / "decoded.csv")
    sizes = rows.groupby(["layer", "who", "part", "what"]).size()
    assert sizes.to_dict() == {
        (layer, who, part, what): 4  # of eight rooms
        for layer in (6, 8)
        for who in ("model", "cameras only", "no model")
        for part in ("matching", "values")
        for what in ("depth", "epipolar")
    }
    assert (rows["value"].dropna() > 0).all()
    assert 'id="decoded"' in (copy / "report.html").read_text()
    assert {name: (copy / name).read_bytes() for name in before} == before
    first = (copy / "decoded.csv").read_bytes()
    decode.cli([str(copy), "--pairs", "5", "--decoders", "1", "--no-report"])
    assert (copy / "decoded.csv").read_bytes() == first
    said = capsys.readouterr().out
    assert "Depth: from the" in said
    assert "nan" not in said
    assert "too few for an interval" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--pairs", "0"], "--pairs"),
        (["--timestep", "1000"], "--timestep"),
        (["--decoders", "0"], "--decoders 0: expected at least 1"),
        (["--seed", "-1"], "--seed -1: expected 0"),
    ],
)
def test_flags_are_refused_in_one_line(copy: Path, capfd, words, said):
    with pytest.raises(SystemExit) as stop:
        decode.cli([str(copy), *words])
    assert stop.value.code == 2
    assert said in capfd.readouterr().err
    assert not (copy / "decoded.csv").exists()


def test_other_weights_are_refused(copy: Path, capfd):
    card = json.loads((copy / "model.json").read_text())
    (copy / "model.json").write_text(json.dumps({**card, "steps": 7}))
    with pytest.raises(SystemExit):
        decode.cli([str(copy)])
    assert "are not those that were scored" in capfd.readouterr().err
