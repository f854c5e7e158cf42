"""Checkpoints and resuming: bit-identical to an uninterrupted run after any stop, and what a full disk leaves."""

import json
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training import SETTINGS, evaluate, make_commands_small, run, small_model, small_trainer, supervision, weights

from probe.models.model import MultiViewModel
from train import cameo, loop
from train.loop import checkpoints


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [{}, {"supervised": True}, {"supervised": True, "optimizer": "muon"}, {"schedule": "cosine"}]
)
def test_resuming_gives_the_bits_of_the_unbroken_run(tmp_path: Path, kind: dict):
    unbroken = run(tmp_path / "unbroken", **kind)
    whole = replace(SETTINGS, steps=4, weight=0.5, **{k: v for k, v in kind.items() if k != "supervised"})
    model = small_model()
    trainer = small_trainer(whole, model, supervision(model) if "supervised" in kind else None)
    schedule = loop.Schedule(checkpoint_every=2, evaluate_every=2)
    next(loop.train(trainer, tmp_path / "broken", schedule, steps=4, resume=False, evaluate=evaluate))  # to step 2
    resumed = run(tmp_path / "broken", resume=True, **kind)
    assert all(torch.equal(a, b) for a, b in zip(weights(unbroken), weights(resumed), strict=True))
    for name in ("metrics.jsonl", "evaluation.jsonl"):
        rows = [
            [json.loads(line) for line in (tmp_path / f / name).read_text().splitlines()]
            for f in ("unbroken", "broken")
        ]
        for row in [*rows[0], *rows[1]]:
            row.pop("seconds", None)
        if name == "evaluation.jsonl":
            assert rows[0] == rows[1]
        assert rows[1][-1] == rows[0][-1]


@pytest.mark.slow
def test_more_steps_continue_a_finished_run_to_the_bits_of_a_longer_one(tmp_path: Path):
    longer = run(tmp_path / "longer", steps=4, supervised=True)
    run(tmp_path / "grown", steps=2, supervised=True)
    grown = run(tmp_path / "grown", steps=4, supervised=True, resume=True)
    assert all(torch.equal(a, b) for a, b in zip(weights(longer), weights(grown), strict=True))


def test_a_checkpoint_that_was_not_finished_is_not_resumed_from(tmp_path: Path):
    run(tmp_path, steps=2)
    (tmp_path / "checkpoints" / "part-step-000003").mkdir()
    assert checkpoints.last_checkpoint(tmp_path / "checkpoints") == tmp_path / "checkpoints" / "step-000002"


def test_averaged_weights_are_saved_and_the_live_ones_put_back(tmp_path: Path):
    model = run(tmp_path)
    averaged = load_file(tmp_path / "averaged" / "step-000004" / "diffusion_pytorch_model.safetensors")
    live = load_file(tmp_path / "checkpoints" / "step-000004" / "diffusion_pytorch_model.safetensors")
    final = model.network.state_dict()
    assert all(torch.equal(final[name], averaged[name]) for name in final)
    assert any(not torch.equal(live[name], averaged[name]) for name in final)


def test_rows_after_the_checkpoint_are_dropped_and_so_is_a_torn_line(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 2}\n{"step": 4}\n{"step":')
    checkpoints.drop_rows_after(path, 2)
    assert path.read_text() == '{"step": 2}\n'


# --- killed ----------------------------------------------------------------------------------------------------------


def everything(checkpoint: Path) -> list[Any]:
    """Read network, objective and the trainer's state: optimisers, schedules, average."""
    files = ("diffusion_pytorch_model.safetensors", "objective.safetensors")
    return [*(load_file(checkpoint / name) for name in files), torch.load(checkpoint / "trainer.pt", weights_only=True)]


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


@pytest.mark.slow
def test_a_run_killed_at_a_random_step_resumes_to_the_bits_of_the_unbroken_one(tmp_path: Path):
    program = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2]); import torch; torch.set_num_threads(1);"
        "from training import make_commands_small, run;"
        "run(Path(sys.argv[1]), resume=True, steps=24, every=3, supervised=True, optimizer='muon')"
    )
    helpers, chance = str(Path(__file__).parents[2] / "helpers"), random.Random()
    after, wait = f"step-{3 * chance.randint(1, 6):06d}", chance.uniform(0, 0.5)
    command = [sys.executable, "-W", "ignore", "-c", program, str(tmp_path / "broken"), helpers]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (tmp_path / "broken" / "checkpoints" / after).exists() and process.poll() is None:
        time.sleep(0.001)
    time.sleep(wait)
    process.send_signal(signal.SIGKILL)
    assert process.wait() in (-signal.SIGKILL, 0), (after, wait)
    for name in ("broken", "unbroken"):
        run(tmp_path / name, resume=True, steps=24, every=3, supervised=True, optimizer="muon")
    broken, unbroken = (everything(tmp_path / name / "checkpoints" / "step-000024") for name in ("broken", "unbroken"))
    assert equal(broken, unbroken), (after, wait)
    logs = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("broken", "unbroken")]
    rows = [[{**json.loads(line), "seconds": 0} for line in lines] for lines in logs]
    assert rows[0] == rows[1], (after, wait)


@pytest.mark.slow
def test_a_network_with_dropout_resumes_to_the_bits_of_the_unbroken_run(tmp_path: Path):
    def forgetful() -> MultiViewModel:
        model = small_model()
        for part in model.network.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.5
        return model

    plain, unbroken = run(tmp_path / "plain"), run(tmp_path / "unbroken", model=forgetful())
    assert not all(torch.equal(a, b) for a, b in zip(weights(plain), weights(unbroken), strict=True))
    run(tmp_path / "broken", steps=2, model=forgetful())
    torch.rand(7)  # other draws in between
    resumed = run(tmp_path / "broken", steps=4, resume=True, model=forgetful())
    assert all(torch.equal(a, b) for a, b in zip(weights(unbroken), weights(resumed), strict=True))


def test_the_last_checkpoint_is_that_of_the_highest_step(tmp_path: Path):
    for step in (999_999, 1_000_000, 500):
        (tmp_path / checkpoints.name_of(step)).mkdir()
    assert checkpoints.last_checkpoint(tmp_path) == tmp_path / "step-1000000"
    assert checkpoints.last_checkpoint(tmp_path / "none") is None


# --- full disks and closed folders -----------------------------------------------------------------------------------


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """Let no file grow beyond a size, as a disk that fills up."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def one_byte_less(path: Path) -> int:
    return path.stat().st_size - 1


@pytest.mark.slow
@pytest.mark.parametrize("stuck", ["config.json", "diffusion_pytorch_model.safetensors", "trainer.pt"])
def test_a_disk_that_fills_up_keeps_and_names_the_last_good_checkpoint(tmp_path: Path, stuck: str):
    out, last = tmp_path / "run", tmp_path / "run" / "checkpoints" / "step-000002"
    run(out, steps=2)
    before = {path: path.read_bytes() for path in last.iterdir()}
    named = (
        rf"train: {re.escape(str(out))} cannot be written .* MiB are free there\); last good checkpoint: {last}; make"
    )
    with (
        files_end_at(one_byte_less(last / stuck)),
        pytest.raises(ValueError, match=named) as caught,
        checkpoints.naming_last_checkpoint(out),
    ):
        run(out, steps=4, resume=True)
    assert "\n" not in str(caught.value)
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-000002"]
    assert {path: path.read_bytes() for path in last.iterdir()} == before
    assert not list(out.rglob("part-*"))
    whole = run(tmp_path / "whole", steps=4)
    for a, b in zip(weights(run(out, steps=4, resume=True)), weights(whole), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.slow
def test_the_command_ends_in_one_line_when_the_disk_is_full(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    make_commands_small(monkeypatch)
    few = ["--evaluate-scenes", "2", "--probe-every", "0", "--sampling-steps", "1", "--batch-size", "2", "--no-report"]
    flags = [*few, "--device", "cpu", "--layer", "none", "--evaluate-every", "2", "--checkpoint-every", "2"]
    out = tmp_path / "run"
    cameo.cli([*flags, "--steps", "2", "--out", str(out)])
    capsys.readouterr()
    with (
        files_end_at(one_byte_less(out / "checkpoints" / "step-000002" / "trainer.pt")),
        pytest.raises(SystemExit) as stop,
    ):
        cameo.cli([*flags, "--steps", "4", "--resume", "--out", str(out)])
    error = capsys.readouterr().err.splitlines()[-1]
    assert stop.value.code == 2
    assert error.startswith(
        f"python -m train.cameo: train: {out} cannot be written (trainer.pt cannot be written whole"
    )
    assert f"last good checkpoint: {out / 'checkpoints' / 'step-000002'}" in error


def test_a_folder_that_cannot_be_written_ends_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch):
    make_commands_small(monkeypatch)
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as stop:
        cameo.cli(["--layer", "none", "--device", "cpu", "--out", str(tmp_path / "file" / "run")])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.count("\n") == 1
    assert f"cannot write to {tmp_path / 'file' / 'run'}" in error


def test_a_log_that_cannot_be_written_names_the_last_good_checkpoint(tmp_path: Path):
    run(tmp_path / "run", steps=2)
    (tmp_path / "run" / "evaluation.jsonl").unlink()
    (tmp_path / "run" / "evaluation.jsonl").symlink_to("/dev/full")
    with (
        pytest.raises(ValueError, match=r"No space left on device.*last good checkpoint: .*step-000002"),
        checkpoints.naming_last_checkpoint(tmp_path / "run"),
    ):
        checkpoints.append_row(tmp_path / "run" / "evaluation.jsonl", {"step": 4})
