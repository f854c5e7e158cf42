"""Packing a checkpoint for the package."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training import run

from train import ship


@pytest.mark.slow
def test_shipping_keeps_the_history_up_to_the_step_shipped(tmp_path: Path):
    run(tmp_path / "run", steps=4, every=2)
    open_settings = {"settings": {"seed": 3}, "environment": {}}
    (tmp_path / "run" / "config.json").write_text(json.dumps(open_settings))
    (tmp_path / "run" / "averaged" / "emergence.csv").write_text("step,layer,value\n2,10,0.5\n4,10,0.75\n")
    ship.main(ship.Settings(run=tmp_path / "run", out=tmp_path / "out", step=2))
    assert (tmp_path / "out" / "emergence.csv").read_text() == "step,layer,value\n2,10,0.5\n"
    packed = load_file(tmp_path / "out" / "diffusion_pytorch_model.safetensors")
    whole = load_file(tmp_path / "run" / "averaged" / "step-000002" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(packed[name], weight.half()) for name, weight in whole.items())
    assert json.loads((tmp_path / "out" / "card.json").read_text())["steps"] == 2


def test_a_step_without_a_checkpoint_is_refused(tmp_path: Path):
    (tmp_path / "averaged" / "step-000002").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"no averaged checkpoint of step 3; expected one of \[2\]"):
        ship.main(ship.Settings(run=tmp_path, out=tmp_path / "out", step=3))
