"""Measure precision over training iterations: ``python -m probe.emergence runs/train/averaged``."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from probe import cli as command
from probe.plan.settings import Device, Watch
from probe.records.names import TRAINED

PROG = "python -m probe.emergence"


@dataclass(frozen=True, kw_only=True)
class Settings(Watch):
    """Score every checkpoint of a training run on the same scenes; write emergence.csv."""

    checkpoints: tyro.conf.Positional[Path]
    """Folder of checkpoints named step-NNNNNN, as the trainer's OUT/averaged."""
    out: Path | None = None
    """File to write; default emergence.csv in the folder of checkpoints. Checkpoints that were measured before a stop
    wait in a folder beside it."""
    device: Device = "auto"
    """Device; auto takes CUDA if it is available."""


def main(settings: Settings) -> None:
    """Measure the checkpoints, shared out among the processes; write one row per step and layer."""
    checkpoints = sorted(settings.checkpoints.glob("step-*"))
    if not checkpoints:
        raise ValueError(
            f"{settings.checkpoints} holds no checkpoint named step-NNNNNN; train with python -m train.cameo"
        )
    if (checkpoints[0] / TRAINED).is_file():
        raise ValueError(
            f"{settings.checkpoints} holds only the weights that a training in part (--trainable) changed, of which no "
            "history can be measured; probe OUT/final of that training"
        )
    with command.flag("--scenes"):
        command.check_scenes(settings.scenes)
    from probe.measure.emergence import measure_steps, try_first_scene
    from probe.plan.processes import join_processes

    try_first_scene(settings)
    processes = join_processes(settings.device)
    out = settings.out or settings.checkpoints / "emergence.csv"
    measure_steps(checkpoints, settings, settings.device, out, processes)
    if processes.is_first:
        print(out)
    processes.leave()


def cli(arguments: list[str] | None = None) -> None:
    """Parse the command line and run."""
    command.run(main, command.parse(Settings, arguments, prog=PROG), prog=PROG)


if __name__ == "__main__":
    cli()
