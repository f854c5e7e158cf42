"""TensorBoard and Weights & Biases through accelerate's trackers: the same numbers as the files of the run."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers

from train.loop.checkpoints import FOLDER, last_checkpoint
from train.settings import Tracker

PROJECTS = {"tensorboard": "tensorboard", "wandb": "attention-probing"}
"""Name of the project: TensorBoard's folder inside the run's; Weights & Biases' project."""


def check_tracker(tracker: Tracker) -> None:
    """Check that a tracker's package is installed, before anything is loaded or written.

    Args:
        tracker: Which one; "none" needs no package.

    Raises:
        ValueError: If the package is not installed.
    """
    if tracker != "none" and tracker not in map(str, get_available_trackers()):
        raise ValueError(f"{tracker} is not installed; run pip install {tracker}, or train without it")


def start_tracker(
    accelerator: Accelerator, tracker: Tracker, out: Path, settings: Mapping[str, object], *, resume: bool
) -> None:
    """Start accelerate's tracker in the run's folder, with the settings as hyperparameters.

    Args:
        accelerator: Created with ``log_with`` for this tracker and ``project_dir`` as the run's folder.
        tracker: Which one; none starts nothing.
        out: The run's folder.
        settings: What decides the run.
        resume: Continue the earlier log: steps after the last checkpoint are replaced.

    Raises:
        ValueError: If Weights & Biases cannot start, for example without a login.
    """
    if tracker == "none":
        return
    options = {"tensorboard": _purge_options, "wandb": _run_options}[tracker](out, resume=resume)
    plain = {name: value if isinstance(value, (bool, int, float)) else _text(value) for name, value in settings.items()}
    try:
        accelerator.init_trackers(PROJECTS[tracker], config=plain, init_kwargs={tracker: options})
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "wandb":
            raise
        raise ValueError(f"wandb: {error}; log in by wandb login, or set WANDB_MODE=offline") from error


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _purge_options(out: Path, *, resume: bool) -> dict[str, Any]:
    """Return the step from which on TensorBoard drops what an earlier call logged."""
    if not resume:
        return {}
    last = last_checkpoint(out / FOLDER)
    done = int(last.name.removeprefix("step-")) if last else 0
    return {"purge_step": done + 1}


def _run_options(out: Path, *, resume: bool) -> dict[str, Any]:
    """Return where Weights & Biases writes and, on resuming, the last run in the folder as the one to continue."""
    options = {"dir": str(out), "name": out.resolve().name}
    earlier = sorted((out / "wandb").glob("*run-*-*"), key=lambda run: run.name.split("-")[-2]) if resume else []
    return {**options, "id": earlier[-1].name.rpartition("-")[2], "resume": "allow"} if earlier else options


def track(accelerator: Accelerator, log: str, row: Mapping[str, Any], step: int) -> None:
    """Log a row to all trackers; missing numbers are left out.

    Args:
        accelerator: With the trackers.
        log: The file that has the row too, without its suffix; a prefix of each name.
        row: Named numbers.
        step: Of the training.
    """
    known = {f"{log}/{name}": value for name, value in row.items() if value is not None and math.isfinite(value)}
    accelerator.log(known, step=step)


def track_precision(accelerator: Accelerator, table: pd.DataFrame, step: int) -> None:
    """Log the precision of every probed layer.

    Args:
        accelerator: With the trackers.
        table: From :func:`probe.measure.emergence.measure_step`.
        step: Of the training.
    """
    track(accelerator, "emergence", {f"layer_{row.layer}": float(row.value) for row in table.itertuples()}, step)
