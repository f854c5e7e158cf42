"""Checkpoints, which are complete or absent; resuming from the last one; rows of the logs."""

import json
import math
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from probe.records import parse_json, write_folder, write_json, write_text
from probe.records.names import TRAINED
from train.loop.averaging import average_whole, averaged, shared_average
from train.loop.sharing import gathered, own_parts, shared_out
from train.loop.trainer import Trainer, load_weights
from train.trainable import trained_weights

FOLDER = "checkpoints"
BASE = "base.json"
"""Of a network that trains in part: the model, and a checksum of the weights that do not."""
MIB = 2**20


# --- writing ---------------------------------------------------------------------------------------------------------


def save_all(out: Path, step: int, trainer: Trainer, keep: int) -> None:
    """Save the averaged weights, which are all kept, and the trainer's state, of which the last ``keep`` are.

    All processes must call this; the main one writes. Of a network that trains in part only that part is written.
    """
    with averaged(trainer) as model:
        weights = average_whole(trainer)
        if trainer.accelerator.is_main_process:
            save = partial(_save_network, trainer, model.network, weights)
            write_folder(out / "averaged" / name_of(step), save)
    save_checkpoint(out / FOLDER, step, trainer)
    if trainer.accelerator.is_main_process:
        for old in complete_checkpoints(out / FOLDER)[:-keep]:
            shutil.rmtree(old)


def save_checkpoint(folder: Path, step: int, trainer: Trainer) -> None:
    """Write network, average, added objective, optimisers and schedules of a step, completely or not at all."""
    keep = trainer.accelerator.is_main_process
    weights = gathered(trained_weights(trainer.network), keep=keep)
    objective = None if trainer.objective is None else gathered(trainer.objective.state_dict(), keep=keep)
    state = gathered({**_states(trainer), "step": step}, keep=keep)

    def save(part: Path) -> None:
        _save_network(trainer, trainer.evaluated.network, weights, part)
        if objective is not None:
            save_file(objective, part / "objective.safetensors")
        _save_state(state, part / "trainer.pt")

    if keep:
        write_folder(folder / name_of(step), save)


def _save_network(trainer: Trainer, network: nn.Module, weights: dict[str, Tensor], folder: Path) -> None:
    """Write a network whole, or the part that trains with a word about the rest."""
    if trainer.frozen is not None:
        save_file({name: weight.detach().contiguous() for name, weight in weights.items()}, folder / TRAINED)
        write_json(folder / BASE, {"model": trainer.model.name, "frozen": trainer.frozen})
        return
    if trainer.copy is not None:
        load_weights(network, weights)
    network.save_pretrained(folder)  # type: ignore[operator]


def name_of(step: int) -> str:
    """Return the name of a step's folder."""
    return f"step-{step:06d}"


def _states(trainer: Trainer) -> dict[str, Any]:
    scaler = trainer.accelerator.scaler
    return {
        "optimizers": [one.state_dict() for one in trainer.optimizers],
        "schedules": [one.state_dict() for one in trainer.rate_schedules],
        "ema": {**trainer.ema.state_dict(), "shadow_params": shared_average(trainer)},
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
    """Load a checkpoint into the trainer in place; return its step.

    Raises:
        ValueError: If the weights that do not train are not those that the checkpoint was trained beside.
    """
    _check_base(path, trainer)
    load_weights(trainer.network, _read_weights(path, trainer))
    if trainer.objective is not None:
        load_weights(trainer.objective, load_file(path / "objective.safetensors"))
    state = torch.load(path / "trainer.pt", weights_only=True, map_location="cpu")
    for optimizer, saved in zip(trainer.optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(_shared_state(saved, optimizer))
    for schedule, saved in zip(trainer.rate_schedules, state["schedules"], strict=True):
        schedule.load_state_dict(saved)
    shadows = zip(state["ema"]["shadow_params"], trained_weights(trainer.network).values(), strict=True)
    parts = own_parts(shared_out(shadow, weight) for shadow, weight in shadows)
    trainer.ema.load_state_dict({**state["ema"], "shadow_params": parts})
    trainer.ema.to(trainer.model.alpha_bar.device)
    if trainer.accelerator.scaler is not None:
        trainer.accelerator.scaler.load_state_dict(state["scaler"])
    return int(state["step"])


def _check_base(path: Path, trainer: Trainer) -> None:
    base = parse_json((path / BASE).read_text(encoding="utf-8")) if (path / BASE).is_file() else {}
    if base.get("frozen") != trainer.frozen:
        raise ValueError(
            f"train: {path} was trained beside other weights of {base.get('model', trainer.model.name)} that do not "
            "train themselves; start from the same --model, or train into another folder"
        )


def _read_weights(path: Path, trainer: Trainer) -> dict[str, Tensor]:
    """Return the weights that train, from one file or several; the buffers too, where all train."""
    files = (
        [path / TRAINED] if trainer.frozen is not None else sorted(path.glob("diffusion_pytorch_model*.safetensors"))
    )
    weights = {name: weight for file in files for name, weight in load_file(file).items()}
    missing = trained_weights(trainer.network).keys() - weights.keys()
    if missing:
        raise ValueError(f"train: {path} lacks {len(missing)} weights that train, such as {min(missing)}")
    return weights


def _shared_state(saved: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Share an optimiser's saved tensors out as the weights are that they belong to."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]

    def share(value: Any, weight: Tensor) -> Any:
        fits = isinstance(value, Tensor) and value.shape == weight.shape
        return shared_out(value, weight) if fits else value

    state = {
        number: {name: share(value, weights[number]) for name, value in one.items()}
        for number, one in saved["state"].items()
    }
    return {**saved, "state": state}


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
