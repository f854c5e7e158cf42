"""Trackers show what the files hold: the same numbers at the same steps, also after a resumed run."""

import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker
from training import make_commands_small

from train import monitor
from train.cameo import cli
from train.loop import trackers
from train.loop.checkpoints import FOLDER, drop_rows_after, last_checkpoint

FLAGS = ("--evaluate-every", "2", "--probe-every", "4", "--checkpoint-every", "2", "--no-report", "--layer", "10",
         "--evaluate-scenes", "2", "--probe-groups", "4", "--sampling-steps", "1", "--batch-size", "2",
         "--device", "cpu")  # fmt: skip


def probed(_model: Any, step: int, _watch: Any) -> pd.DataFrame:
    """Stand in for a probe of two layers, which takes seconds."""
    return pd.DataFrame({"step": step, "layer": [2, 10], "value": [step / 64, math.nan]})


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch):
    make_commands_small(monkeypatch)
    monkeypatch.setattr(sys.modules["train.loop.train"], "LOG_EVERY", 1)
    monkeypatch.setattr(monitor, "measure_step", probed)


def written(out: Path) -> dict[tuple[str, int], float]:
    """Give every number of the run's files by its name in a tracker and its step; what is missing is left out."""
    found = {}
    for log in ("metrics", "evaluation"):
        for line in (out / f"{log}.jsonl").read_text().splitlines():
            row = json.loads(line)
            found |= {(f"{log}/{name}", row["step"]): value for name, value in row.items() if name != "step"}
    for row in pd.read_csv(out / "emergence.csv").itertuples():
        found["emergence/layer_" + str(row.layer), row.step] = row.value
    return {key: value for key, value in found.items() if value is not None and math.isfinite(value)}


class Notebook(GeneralTracker):
    """A tracker of the test's own, through accelerate's door for such."""

    name, requires_logging_directory = "notebook", False

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[dict[str, Any], int]] = []

    @property
    def tracker(self) -> None:
        return None

    def log(self, values: dict[str, Any], step: int, **_more: Any) -> None:
        self.seen.append((values, step))


def test_a_row_is_logged_under_the_name_of_its_file_and_what_is_missing_is_left_out():
    notebook = Notebook()
    accelerator = Accelerator(cpu=True, log_with=[notebook])
    accelerator.init_trackers("any")
    trackers.track(accelerator, "evaluation", {"psnr": 14.5, "lpips": math.nan, "kid": None, "fid": math.inf}, 20)
    trackers.track_precision(accelerator, pd.DataFrame({"layer": [2, 10], "value": [0.25, math.nan]}), 30)
    assert notebook.seen == [({"evaluation/psnr": 14.5}, 20), ({"emergence/layer_2": 0.25}, 30)]


def test_without_a_tracker_nothing_is_made(tmp_path: Path):
    accelerator = Accelerator(cpu=True, project_dir=tmp_path)
    trackers.start_tracker(accelerator, "none", tmp_path, {}, resume=False)
    trackers.track(accelerator, "metrics", {"loss": 1.0}, 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("tracker", ["tensorboard", "wandb"])
def test_a_package_that_is_absent_is_refused_in_one_line_before_anything_is_written(
    tracker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setattr(trackers, "get_available_trackers", lambda: ["aim"])
    with pytest.raises(SystemExit) as stop:
        cli([*FLAGS, "--tracker", tracker, "--out", str(tmp_path / "run")])
    error = capsys.readouterr().err
    assert (stop.value.code, error.count("\n")) == (2, 1)
    assert f"--tracker {tracker} is not installed; run pip install {tracker}, or train without it" in error
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_goes_on_with_the_folders_last_run_of_weights_and_biases(tmp_path: Path):
    for name in ("offline-run-20260101_120000-older", "run-20260103_120000-newest", "offline-run-20260102_120000-new"):
        (tmp_path / "wandb" / name).mkdir(parents=True)
    assert trackers._run_options(tmp_path, resume=True)["id"] == "newest"
    assert "id" not in trackers._run_options(tmp_path, resume=False)
    assert "id" not in trackers._run_options(tmp_path / "else", resume=True)


def test_trouble_of_weights_and_biases_is_one_line_and_other_trouble_is_not_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class UsageError(Exception):
        """As raised by a package."""

    def refuse(*_arguments: Any, **_more: Any) -> None:
        raise UsageError("no API key configured")

    accelerator = Accelerator(cpu=True)
    monkeypatch.setattr(accelerator, "init_trackers", refuse)
    UsageError.__module__ = "wandb.errors"
    with pytest.raises(ValueError, match="wandb: no API key configured; log in by wandb login, or set WANDB"):
        trackers.start_tracker(accelerator, "wandb", tmp_path, {}, resume=False)
    UsageError.__module__ = "elsewhere"
    with pytest.raises(UsageError):
        trackers.start_tracker(accelerator, "wandb", tmp_path, {}, resume=False)


def half_done(out: Path, run: Callable[..., None]) -> None:
    """Train four steps, lose the last two as a crash would, and go on to six."""
    run("--steps", "4")
    (out / FOLDER / "step-000004").rename(out / "lost")
    drop_rows_after(out / "evaluation.jsonl", 3)  # as if the crash came before the evaluation
    assert str(last_checkpoint(out / FOLDER)).endswith("step-000002")
    run("--steps", "6", "--resume")


@pytest.mark.slow
def test_tensorboard_holds_what_the_files_hold_also_when_resumed(tmp_path: Path):
    reason = "tensorboard is not installed: pip install tensorboard"
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason=reason)
    out = tmp_path / "run"
    half_done(out, lambda *flags: cli([*FLAGS, *flags, "--tracker", "tensorboard", "--out", str(out)]))
    read = events.EventAccumulator(str(out / "tensorboard"))
    read.Reload()
    logged = [(name, event.step, event.value) for name in read.Tags()["scalars"] for event in read.Scalars(name)]
    expected = written(out)
    assert sorted((name, step) for name, step, _ in logged) == sorted(expected)
    assert {key for key in expected if key[0] == "metrics/loss"} == {("metrics/loss", step) for step in range(1, 7)}
    for name, step, value in logged:
        assert value == pytest.approx(expected[name, step], rel=1e-6, abs=1e-6), (name, step)
    assert len(list((out / "tensorboard").glob("*/hparams.yml"))) == 2


def records(path: Path) -> Iterator[bytes]:
    """Read a log of Weights & Biases: after 7 bytes of head, blocks of 32 KiB of records as LevelDB writes them."""
    data, place, parts = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        size, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        parts += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def test_weights_and_biases_holds_what_the_files_hold_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("wandb", reason="wandb is not installed: pip install wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    out = tmp_path / "run"
    half_done(out, lambda *flags: cli([*FLAGS, *flags, "--tracker", "wandb", "--out", str(out)]))
    folders = sorted(out.glob("wandb/offline-run-*"))
    assert len(folders) == 2
    assert len({folder.name.rpartition("-")[2] for folder in folders}) == 1
    logged: dict[tuple[str, int], float] = {}
    for file in (path for folder in folders for path in folder.glob("*.wandb")):
        for data in records(file):
            history = Record.FromString(data).history
            row = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in history.item}
            logged |= {(name, history.step.num): value for name, value in row.items() if not name.startswith("_")}
    expected = written(out)
    assert logged.keys() == expected.keys()
    assert all(logged[key] == pytest.approx(expected[key], rel=1e-6, abs=1e-6) for key in expected)
