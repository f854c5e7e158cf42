"""Checkpoints, which are complete or absent; resuming from the last one; rows of the logs."""

import json
import math
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from probe.records import parse_json, write_folder, write_text
from train.loop.trainer import Trainer, averaged

FOLDER = "checkpoints"
MIB = 2**20


# --- writing ---------------------------------------------------------------------------------------------------------


def save_all(out: Path, step: int, trainer: Trainer, keep: int) -> None:
    """Save the averaged weights, which are all kept, and the trainer's state, of which the last ``keep`` are."""
    with averaged(trainer):
        write_folder(out / "averaged" / name_of(step), trainer.network.save_pretrained)  # type: ignore[arg-type]
    save_checkpoint(out / FOLDER, step, trainer)
    for old in complete_checkpoints(out / FOLDER)[:-keep]:
        shutil.rmtree(old)


def save_checkpoint(folder: Path, step: int, trainer: Trainer) -> None:
    """Write network, average, added objective, optimisers and schedules of a step, completely or not at all."""

    def save(part: Path) -> None:
        trainer.network.save_pretrained(part)  # type: ignore[operator]
        if trainer.objective is not None:
            save_file(trainer.objective.state_dict(), part / "objective.safetensors")
        _save_state({**_states(trainer), "step": step}, part / "trainer.pt")

    write_folder(folder / name_of(step), save)


def name_of(step: int) -> str:
    """Return the name of a step's folder."""
    return f"step-{step:06d}"


def _states(trainer: Trainer) -> dict[str, Any]:
    scaler = trainer.accelerator.scaler
    return {
        "optimizers": [one.state_dict() for one in trainer.optimizers],
        "schedules": [one.state_dict() for one in trainer.rate_schedules],
        "ema": trainer.ema.state_dict(),
        "scaler": None if scaler is None else scaler.state_dict(),
    }


def _save_state(state: dict[str, Any], path: Path) -> None:
    try:
        torch.save(state, path)
    except RuntimeError as error:  # torch's report of a full disk
        raise OSError(f"{path.name} cannot be written whole ({str(error).splitlines()[0]})") from error


@contextmanager
def naming_last_checkpoint(out: Path) -> Iterator[None]:
    """Turn a failure to write into one line that names the last complete checkpoint.

    Raises:
        ValueError: If the disk is full, or the folder cannot be written.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        last, free = last_checkpoint(out / FOLDER) or "none yet", shutil.disk_usage(_existing(out)).free // MIB
        raise ValueError(
            f"train: {out} cannot be written ({error}; {free} MiB are free there); last good checkpoint: {last}; make "
            "room or repair the folder, then resume"
        ) from error


def _existing(path: Path) -> Path:
    """Return the nearest parent that exists."""
    return next(one for one in (path, *path.absolute().parents) if one.is_dir())


# --- reading ---------------------------------------------------------------------------------------------------------


def complete_checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints of a run, the first step first."""
    complete = [path for path in folder.glob("step-*") if re.fullmatch(r"step-\d+", path.name)]
    return sorted(complete, key=lambda path: int(path.name.removeprefix("step-")))


def last_checkpoint(folder: Path) -> Path | None:
    """Return the last complete checkpoint of a run; None if there is none."""
    return next(reversed(complete_checkpoints(folder)), None)


def restore(path: Path, trainer: Trainer) -> int:
    """Load a checkpoint into the trainer in place; return its step."""
    trainer.network.load_state_dict(load_file(path / "diffusion_pytorch_model.safetensors"))
    if trainer.objective is not None:
        trainer.objective.load_state_dict(load_file(path / "objective.safetensors"))
    state = torch.load(path / "trainer.pt", weights_only=True, map_location=trainer.accelerator.device)
    for optimizer, saved in zip(trainer.optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    for schedule, saved in zip(trainer.rate_schedules, state["schedules"], strict=True):
        schedule.load_state_dict(saved)
    trainer.ema.load_state_dict(state["ema"])
    if trainer.accelerator.scaler is not None:
        trainer.accelerator.scaler.load_state_dict(state["scaler"])
    return int(state["step"])


# --- rows ------------------------------------------------------------------------------------------------------------


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Append one JSON row; a number that is not finite becomes null."""
    plain = {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in row.items()}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(plain) + "\n")


def drop_rows_after(path: Path, step: int) -> None:
    """Drop logged rows that a resumed run will log again, and an incomplete last line."""
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        write_text(path, "".join(line for line in lines if line.endswith("\n") and parse_json(line)["step"] <= step))
