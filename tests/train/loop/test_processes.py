"""Several processes: they train as one does."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.slow


OBJECTIVES = ("cameo", "irepa-dsift", "trd-dsift")


@pytest.fixture(scope="module")
def stepped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gradients and losses of every objective, by one process and by two."""
    folder, program = tmp_path_factory.mktemp("stepped"), str(Path(__file__).parent / "two_processes.py")
    for count in (1, 2):
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
        words = [*launch, program, str(folder / str(count)), *OBJECTIVES]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_two_processes_have_the_gradients_of_one(objective: str, stepped: Path):
    gradients, losses = [], []
    for count in (1, 2):
        gradients.append(load_file(stepped / str(count) / f"{objective}.safetensors"))
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
