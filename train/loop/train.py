"""The training loop: takes steps, evaluates, logs, saves; resumes bit-identically."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from probe.models.model import MultiViewModel
from train.loop.averaging import averaged, keep_average
from train.loop.checkpoints import FOLDER, append_row, drop_rows_after, last_checkpoint, restore, save_all
from train.loop.step import take_step
from train.loop.trackers import track
from train.loop.trainer import Trainer

LOG_EVERY = 10
"""Steps between rows of metrics.jsonl."""

Evaluate = Callable[[MultiViewModel, int], dict[str, Any]]
"""Return named numbers of the averaged weights at a step."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How often a run is saved and evaluated, in steps; the last step has both.

    Attributes:
        checkpoint_every: Steps between checkpoints.
        evaluate_every: Steps between evaluations.
        keep: Checkpoints with trainer state that are kept.
    """

    checkpoint_every: int
    evaluate_every: int
    keep: int = 2


def train(
    trainer: Trainer, out: Path, schedule: Schedule, *, steps: int, resume: bool, evaluate: Evaluate
) -> Iterator[int]:
    """Train in place, yielding the step after each checkpoint or evaluation.

    At the end the model that is evaluated holds the average.

    Args:
        trainer: From :func:`train.loop.trainer.make_trainer`.
        out: The run's folder.
        schedule: How often to save and to evaluate.
        steps: Optimiser steps in all.
        resume: Continue from the last complete checkpoint in ``out``, or start when there is none.
        evaluate: Measures the averaged weights, as named numbers.

    Raises:
        ValueError: If a loss is not finite; names the step, its seed and the last checkpoint.
    """
    done = _prepare_folder(out, trainer, resume=resume)
    main = trainer.accelerator.is_main_process
    trainer.network.train()
    bar = tqdm(range(done, steps), initial=done, total=steps, unit="step", disable=not main)
    for step in bar:
        started, at = time.perf_counter(), step + 1
        row = _step(trainer, step, out)
        due = {name: at == steps or at % every == 0 for name, every in _intervals(schedule).items()}
        if main and due["log"]:
            bar.set_postfix(loss=f"{row['loss']:.3f}")
            _record(out / "metrics.jsonl", trainer, at, {**row, "seconds": time.perf_counter() - started})
        if due["evaluate"]:
            _evaluate(trainer, out, at, evaluate)
        if due["checkpoint"]:
            save_all(out, at, trainer, schedule.keep)
        if due["evaluate"] or due["checkpoint"]:
            trainer.accelerator.wait_for_everyone()
            yield at
    keep_average(trainer)


def _step(trainer: Trainer, step: int, out: Path) -> dict[str, float]:
    try:
        return take_step(trainer, step)
    except FloatingPointError as error:
        last = last_checkpoint(out / FOLDER) or "none yet"
        raise ValueError(f"train: {error}; last good checkpoint: {last}; lower the learning rate") from error


def _evaluate(trainer: Trainer, out: Path, step: int, evaluate: Evaluate) -> None:
    """Let the main process measure the averaged weights, which all processes may have to give their parts of."""
    with averaged(trainer) as model:
        if trainer.accelerator.is_main_process:
            _record(out / "evaluation.jsonl", trainer, step, evaluate(model, step))


def _record(path: Path, trainer: Trainer, step: int, row: dict[str, Any]) -> None:
    """Append a row to its file, and log it to the trackers."""
    append_row(path, {"step": step, **row})
    track(trainer.accelerator, path.stem, row, step)


def _intervals(schedule: Schedule) -> dict[str, int]:
    return {"log": LOG_EVERY, "evaluate": schedule.evaluate_every, "checkpoint": schedule.checkpoint_every}


def _prepare_folder(out: Path, trainer: Trainer, *, resume: bool) -> int:
    """Make the folder of checkpoints; on resuming restore the last one and drop rows after it; return its step."""
    checkpoints = out / FOLDER
    checkpoints.mkdir(parents=True, exist_ok=True)
    last = last_checkpoint(checkpoints) if resume else None
    done = restore(last, trainer) if last else 0
    if trainer.accelerator.is_main_process:
        for name in ("metrics.jsonl", "evaluation.jsonl"):
            drop_rows_after(out / name, done)
    return done
