"""Generate views of held-out scenes and measure them beside trivial baselines: ``python -m train.evaluate``."""

from probe.cli import parse, run
from train.flags.evaluate import Settings, check_settings

PROG = "python -m train.evaluate"


def main(settings: Settings) -> None:
    """Measure scene after scene, write the run folder, show the table."""
    check_settings(settings)
    from train.quality.evaluation import evaluate_model  # after the flags are checked: PyTorch is slow to import

    evaluate_model(settings)


def cli(arguments: list[str] | None = None) -> None:
    """Parse the command line and run."""
    run(main, parse(Settings, arguments, prog=PROG), prog=PROG)


if __name__ == "__main__":
    cli()
