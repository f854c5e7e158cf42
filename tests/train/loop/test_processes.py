"""Several processes: they train as one does."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("objective", ["cameo", "irepa-dsift", "trd-dsift"])
def test_two_processes_have_the_gradients_of_one(objective: str, tmp_path: Path):
    program = str(Path(__file__).parent / "two_processes.py")
    gradients, losses = [], []
    for count in (1, 2):
        out = tmp_path / f"{count}.safetensors"
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
        done = subprocess.run(
            [*launch, program, str(out), objective], capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, done.stderr[-2000:]
        gradients.append(load_file(out))
        assert int(gradients[-1].pop("processes")) == count
        losses.append(gradients[-1].pop("losses"))  # of three steps: DDP finds an unused weight in the second
    assert gradients[0].keys() == gradients[1].keys()
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-3, atol=1e-4)
    for name, alone in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], alone, rtol=1e-3, atol=1e-5, msg=name)
    assert any("objective." in name and float(grad.abs().max()) > 0 for name, grad in gradients[0].items())


def test_a_loop_of_ones_own_supervises_a_network_whose_weights_are_shared_out():
    program, losses = str(Path(__file__).parent / "sharded.py"), []
    for count, how in (("1", "whole"), ("2", "shared")):
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", count]
        done = subprocess.run([*launch, program, how], capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        losses.append([float(line.split()[-1]) for line in done.stdout.splitlines()])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0][2] < losses[0][0]
