"""Commands on a pretended CUDA device: nothing is left on the CPU that the model's tensors are combined with."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from accelerate.state import AcceleratorState
from pretend_cuda import CUDA, OnCuda, pretend_cuda
from training import SETTINGS, rooms, small_model, supervision

from probe import run as probe_run
from probe.measure.emergence import measure_step
from probe.models import load_model
from probe.models.model import to_device
from probe.plan.settings import Watch
from train.loop.step import take_step
from train.loop.trainer import Trainer
from train.supervised import build_trainer


def test_pretended_device_refuses_what_cuda_refuses() -> None:
    with pretend_cuda():
        there = torch.arange(3.0, device="cuda")
        with pytest.raises(RuntimeError, match="same device"):
            there + torch.ones(3)
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        assert there.device == CUDA
        assert isinstance(there * 2 + torch.tensor(1.0), OnCuda)
        assert there.cpu().tolist() == [0, 1, 2]


@pytest.mark.long
@pytest.mark.slow
def test_probe_gives_the_same_scores_there(tmp_path: Path) -> None:
    flags = ["--model", "cat3d-tiny:plain", "--pairs", "1", "--views", "2", "--timesteps", "500", "--layers", "10"]
    flags += ["--interventions", "identity", "--edit-scenes", "1", "--image-size", "64", "--no-report"]
    with pretend_cuda():
        probe_run.cli([*flags, "--out", str(tmp_path / "cuda")])
    probe_run.cli([*flags, "--device", "cpu", "--out", str(tmp_path / "cpu")])
    there, here = (pd.read_parquet(tmp_path / name / "scores.parquet") for name in ("cuda", "cpu"))
    pd.testing.assert_frame_equal(there, here, atol=1e-5, rtol=1e-5)


def test_emergence_runs_there() -> None:
    with pretend_cuda():
        model = to_device(load_model("cat3d-tiny:plain"), torch.device("cuda"))
        table = measure_step(model, 0, Watch(groups=1, timesteps="500"))
    assert table["value"].between(0, 1).all()


def _trainer(device: str) -> Trainer:
    model = to_device(small_model(), torch.device(device))
    draw = replace(rooms(), device=torch.device(device)).draw
    return build_trainer(SETTINGS, model, draw, supervision(model))


@pytest.mark.skipif(
    torch.backends.cuda.is_built() and not torch.cuda.is_available(),
    reason="a CUDA build of PyTorch without a driver: its optimisers ask the driver, which no pretence answers",
)
def test_training_step_has_the_same_losses_there() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)  # an earlier test may have chosen the CPU for all
    try:
        with pretend_cuda():
            there = take_step(_trainer("cuda"), 0)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    assert there == pytest.approx(take_step(_trainer("cpu"), 0), rel=1e-4)
