"""Pack a checkpoint for the package: half-precision weights, configuration, card: ``python -m train.ship``."""

from dataclasses import dataclass
from pathlib import Path
from statistics import median

import tyro

from probe.cli import parse, run
from probe.records import parse_json

PROG = "python -m train.ship"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Write a checkpoint's weights in half precision, its configuration, a card of its training, its emergence.csv."""

    run: tyro.conf.Positional[Path]
    """Run folder of python -m train.cameo."""
    out: tyro.conf.Positional[Path]
    """Folder to write."""
    step: int | None = None
    """Step of the averaged checkpoint to pack; default the last one."""


def main(settings: Settings) -> None:
    """Pack one averaged checkpoint."""
    step = _find_step(settings.run, settings.step)
    # after the flags are checked: PyTorch is slow to import
    from safetensors.torch import load_file, save_file

    from probe.models import load_folder
    from probe.models.cat3d import settings_of
    from probe.records import EMERGENCE, read_emergence, write, write_json

    checkpoint = settings.run / "averaged" / f"step-{step:06d}"
    network = load_folder(checkpoint)
    weights = load_file(checkpoint / "diffusion_pytorch_model.safetensors")
    half = {name: weight.half().contiguous() for name, weight in weights.items()}
    settings.out.mkdir(parents=True, exist_ok=True)
    write(settings.out / "diffusion_pytorch_model.safetensors", lambda part: save_file(half, part))
    sizes = settings_of(dict(network.config))
    write_json(settings.out / "config.json", {"_class_name": type(network).__name__, **sizes})
    history_file = _find_history(settings.run)
    if history_file is not None:
        history = read_emergence(history_file)
        write(settings.out / EMERGENCE, lambda part: history[history["step"] <= step].to_csv(part, index=False))
    parameters = sum(weight.numel() for weight in weights.values())
    write_json(settings.out / "card.json", card(settings.run, step, parameters))


def _find_history(folder: Path) -> Path | None:
    """Return the precision over training: python -m probe.emergence's, else the trainer's own; None without any."""
    from probe.records import EMERGENCE

    both = (folder / "averaged" / EMERGENCE, folder / EMERGENCE)
    return next((path for path in both if path.is_file()), None)


def _find_step(folder: Path, step: int | None) -> int:
    steps = sorted(int(path.name.removeprefix("step-")) for path in (folder / "averaged").glob("step-*"))
    wanted = step if step is not None or not steps else steps[-1]
    if wanted is None or wanted not in steps:
        raise ValueError(f"{folder} has no averaged checkpoint of step {step}; expected one of {steps}")
    return wanted


def card(run: Path, step: int, parameters: int) -> dict[str, object]:
    """Return how weights were trained: settings, steps, time, machine and validation losses.

    Args:
        run: Run folder of python -m train.cameo.
        step: Of the checkpoint.
        parameters: Number of them.
    """
    from probe.records import environment

    config = parse_json((run / "config.json").read_text(encoding="utf-8"))
    logged, validated = (
        [row for row in map(parse_json, (run / name).read_text(encoding="utf-8").splitlines()) if row["step"] <= step]
        for name in ("metrics.jsonl", "evaluation.jsonl")
    )
    seconds = median([row["seconds"] for row in logged]) if logged else None
    return {
        "steps": step,
        "parameters": parameters,
        "training": config["settings"],
        "environment": config["environment"],
        "packed_with": environment(),
        "seconds_per_step": seconds,
        "hours": seconds and seconds * step / 3600,
        "validation_loss": validated[-1] if validated else None,
    }


def cli(arguments: list[str] | None = None) -> None:
    """Parse the command line and run."""
    run(main, parse(Settings, arguments, prog=PROG), prog=PROG)


if __name__ == "__main__":
    cli()
