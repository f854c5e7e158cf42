"""``accelerate launch`` with the configurations that ship: the command itself, on two processes."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType
from safetensors.torch import load_file
from training import small_model

from probe.models import load_model
from train import cameo, processes
from train.processes import make_accelerator

CONFIGURATIONS = Path(__file__).parents[3] / "configs" / "accelerate"
FLAGS = shlex.split(
    "--device cpu --layer 12 --mixing mlp --batch-size 2 --views 2 --learning-rate 2e-4 --warmup 0 --evaluate-every 2 "
    "--checkpoint-every 2 --probe-every 0 --evaluate-scenes 1 --sampling-steps 1 --no-report"
)


@pytest.mark.parametrize(("name", "kind"), [("fsdp2", "FSDP"), ("zero2", "FSDP"), ("multi-gpu", "MULTI_GPU")])
def test_accelerate_reads_the_configurations_that_ship(name: str, kind: str):
    configuration = load_config_from_file(str(CONFIGURATIONS / f"{name}.yaml"))
    assert configuration.distributed_type == DistributedType[kind]
    assert configuration.num_processes == 2
    if kind == "FSDP":
        assert configuration.fsdp_config["fsdp_version"] == 2
        assert configuration.fsdp_config["fsdp_reshard_after_forward"] == (name == "fsdp2")


@pytest.mark.parametrize(
    ("launched", "precision", "message"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "no", "launched for DEEPSPEED.*configs/accelerate/zero2.yaml"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, "no", "FSDP version 1, which hides the layers"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}, "fp16", "--precision fp16: .* use bf16"),
        (
            {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_ACTIVATION_CHECKPOINTING": "true"},
            "no",
            "fsdp_activation_checkpointing of the launch renames the layers; use --gradient-checkpointing",
        ),
        (
            {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "true"},
            "no",
            "fsdp_offload_params of the launch is not done",
        ),
    ],
)
def test_launches_that_training_cannot_do_are_refused(
    launched: dict[str, str], precision: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        make_accelerator("cpu", precision, "none", tmp_path)


def test_a_kind_of_launch_that_is_unknown_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(processes, "KNOWN", (DistributedType.FSDP,))
    with pytest.raises(ValueError, match="launched for NO, with which training does not work"):
        make_accelerator("cpu", "no", "none", tmp_path)


def arguments(start: Path, out: Path, flags: list[str]) -> list[str]:
    return ["--model", f"cat3d-tiny:{start}", *FLAGS, "--out", str(out), *flags]


def launch(configuration: str, command: list[str]) -> None:
    """Run the command by accelerate launch, in two new processes."""
    words = ["launch", "--config_file", str(CONFIGURATIONS / f"{configuration}.yaml"), "--num_processes", "2", "-m"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(CONFIGURATIONS.parents[1])}
    program = [sys.executable, "-m", "accelerate.commands.accelerate_cli", *words, "train.cameo", *command]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


def rows(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def final(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "final" / "diffusion_pytorch_model.safetensors")


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start") / "small"
    small_model().network.save_pretrained(folder)  # type: ignore[operator]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trainable", "parts"),
    [
        pytest.param("all", {"fsdp2": "2"}, id="all"),
        pytest.param("all", {"fsdp2": "2", "zero2": "4"}, id="resumed", marks=pytest.mark.long),
        pytest.param("lora:2", {"fsdp2": "4"}, id="lora", marks=pytest.mark.long),
    ],
)
def test_weights_that_two_processes_share_out_train_as_those_of_one(
    trainable: str, parts: dict[str, str], start: Path, tmp_path: Path
):
    """By muon and adamw; two steps, or two more of a run resumed with another configuration."""
    if trainable != "all":
        pytest.importorskip("peft", reason="peft makes the adapters")
    for configuration, steps in parts.items():
        flags = ["--trainable", trainable, "--steps", steps, "--resume"]
        cameo.cli(arguments(start, tmp_path / "one", flags))
        launch(configuration, arguments(start, tmp_path / "two", flags))
    for alone, shared in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        assert alone["step"] == shared["step"]
        for name, tolerance in {"loss": 1e-5, "objective": 5e-5, "gradient_norm": 2e-4}.items():
            assert shared[name] == pytest.approx(alone[name], rel=tolerance), name
    weights = final(tmp_path / "one"), final(tmp_path / "two")
    assert weights[0].keys() == weights[1].keys()
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, rtol=0, atol=2e-3, msg=name)
    assert load_model(f"cat3d-tiny:{tmp_path / 'two' / 'final'}").card is not None
