"""Packing a checkpoint for the package."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training import run

from train import ship

HISTORY = "step,layer,value,units,count\n2,10,0.5,8,1000\n4,10,0.75,8,1000\n"


def test_the_history_of_a_probe_of_its_own_goes_before_the_trainers(tmp_path: Path):
    (tmp_path / "averaged").mkdir()
    assert ship._find_history(tmp_path) is None
    for folder in (tmp_path, tmp_path / "averaged"):
        (folder / "emergence.csv").write_text(HISTORY)
        assert ship._find_history(tmp_path) == folder / "emergence.csv"


@pytest.mark.slow
def test_shipping_keeps_the_history_up_to_the_step_shipped(tmp_path: Path):
    run(tmp_path / "run", steps=4, every=2)
    open_settings = {"settings": {"seed": 3}, "environment": {"commit": "0123456789ab"}}
    (tmp_path / "run" / "config.json").write_text(json.dumps(open_settings))
    (tmp_path / "run" / "emergence.csv").write_text(HISTORY)
    ship.main(ship.Settings(run=tmp_path / "run", out=tmp_path / "out", step=2))
    assert (tmp_path / "out" / "emergence.csv").read_text() == "".join(HISTORY.splitlines(keepends=True)[:2])
    packed = load_file(tmp_path / "out" / "diffusion_pytorch_model.safetensors")
    whole = load_file(tmp_path / "run" / "averaged" / "step-000002" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(packed[name], weight.half()) for name, weight in whole.items())
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert (card["steps"], card["environment"]["commit"]) == (2, "0123456789ab")


def test_a_step_without_a_checkpoint_is_refused(tmp_path: Path):
    (tmp_path / "averaged" / "step-000002").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"no averaged checkpoint of step 3; expected one of \[2\]"):
        ship.main(ship.Settings(run=tmp_path, out=tmp_path / "out", step=3))
