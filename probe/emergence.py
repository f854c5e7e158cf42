"""Measure precision over training iterations: ``python -m probe.emergence runs/train/averaged``."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from probe import cli as command
from probe.plan.settings import Watch

PROG = "python -m probe.emergence"


@dataclass(frozen=True, kw_only=True)
class Settings(Watch):
    """Score every checkpoint of a training run on the same scenes; write emergence.csv."""

    checkpoints: tyro.conf.Positional[Path]
    """Folder of checkpoints named step-NNNNNN, as the trainer's OUT/averaged."""
    out: Path | None = None
    """File to write; default emergence.csv in the folder of checkpoints."""


def main(settings: Settings) -> None:
    """Measure checkpoint after checkpoint; write one row per step and layer."""
    checkpoints = sorted(settings.checkpoints.glob("step-*"))
    if not checkpoints:
        raise ValueError(
            f"{settings.checkpoints} holds no checkpoint named step-NNNNNN; train with python -m train.cameo"
        )
    with command.flag("--scenes"):
        command.check_scenes(settings.scenes)
    import pandas as pd
    from tqdm import tqdm

    from probe.measure.emergence import measure_step, try_first_scene
    from probe.models import load_model
    from probe.records import write

    try_first_scene(settings)
    tables = [
        measure_step(load_model(f"cat3d-tiny:{path}"), int(path.name.removeprefix("step-")), settings)
        for path in tqdm(checkpoints, desc="checkpoints")
    ]
    out = settings.out or settings.checkpoints / "emergence.csv"
    write(out, lambda part: pd.concat(tables).to_csv(part, index=False, float_format="%.6f"))
    print(out)


def cli(arguments: list[str] | None = None) -> None:
    """Parse the command line and run."""
    command.run(main, command.parse(Settings, arguments, prog=PROG), prog=PROG)


if __name__ == "__main__":
    cli()
