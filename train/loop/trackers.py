"""TensorBoard and Weights & Biases, through accelerate's trackers: the numbers of the run's files, in its folder."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers

from train.loop.checkpoints import FOLDER, last_checkpoint

Tracker = Literal["none", "tensorboard", "wandb"]
PROJECTS = {"tensorboard": "tensorboard", "wandb": "attention-probing"}
"""Name of the project: TensorBoard's folder within the run's, Weights & Biases' project."""


def check_tracker(tracker: Tracker) -> None:
    """Refuse a tracker whose package is not installed, before anything is loaded or written.

    Args:
        tracker: As asked for.

    Raises:
        ValueError: If the package is not installed.
    """
    if tracker != "none" and tracker not in map(str, get_available_trackers()):
        raise ValueError(f"--tracker {tracker}: {tracker} is not installed; run pip install {tracker}, or leave it out")


def start_tracker(
    accelerator: Accelerator, tracker: Tracker, out: Path, settings: Mapping[str, object], *, resume: bool
) -> None:
    """Let accelerate's tracker write into the run's folder, with the settings as hyperparameters.

    Args:
        accelerator: Made with ``log_with`` for this tracker, and with the run's folder.
        tracker: Which one; none starts nothing.
        out: The run's folder.
        settings: What decides the run.
        resume: Continue what an earlier call tracked: steps go on, and those after the last checkpoint are replaced.

    Raises:
        ValueError: If Weights & Biases cannot begin, such as without a login.
    """
    if tracker == "none":
        return
    how = {"tensorboard": _steps_kept, "wandb": _run_kept}[tracker](out, resume=resume)
    plain = {name: value if isinstance(value, (bool, int, float)) else _text(value) for name, value in settings.items()}
    try:
        accelerator.init_trackers(PROJECTS[tracker], config=plain, init_kwargs={tracker: how})
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "wandb":
            raise
        raise ValueError(f"--tracker wandb: {error}; log in by wandb login, or set WANDB_MODE=offline") from error


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _steps_kept(out: Path, *, resume: bool) -> dict[str, Any]:
    """Tell TensorBoard from which step on to forget what an earlier call logged."""
    found = last_checkpoint(out / FOLDER) if resume else None
    done = int(found.name.removeprefix("step-")) if found else 0
    return {"purge_step": done + 1} if resume else {}


def _run_kept(out: Path, *, resume: bool) -> dict[str, Any]:
    """Tell Weights & Biases where to write, and on resuming which run to go on with: the folder's last."""
    how = {"dir": str(out), "name": out.resolve().name}
    before = sorted((out / "wandb").glob("*run-*-*"), key=lambda run: run.name.split("-")[-2]) if resume else []
    return {**how, "id": before[-1].name.rpartition("-")[2], "resume": "allow"} if before else how


def track(accelerator: Accelerator, log: str, row: Mapping[str, Any], step: int) -> None:
    """Log a row to the trackers there are; a number that is missing is left out.

    Args:
        accelerator: Whose trackers.
        log: The file that holds the row too, without its ending; goes before each name.
        row: Named numbers.
        step: Of the training.
    """
    known = {f"{log}/{name}": value for name, value in row.items() if value is not None and math.isfinite(value)}
    accelerator.log(known, step=step)


def track_precision(accelerator: Accelerator, table: pd.DataFrame, step: int) -> None:
    """Log the precision of every probed layer.

    Args:
        accelerator: Whose trackers.
        table: As :func:`probe.emergence.measure_step` gives it.
        step: Of the training.
    """
    track(accelerator, "emergence", {f"layer_{row.layer}": float(row.value) for row in table.itertuples()}, step)
