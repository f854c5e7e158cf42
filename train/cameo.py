"""Train a multi-view model with supervised attention: ``python -m train.cameo --layer 10``."""

from probe.cli import parse, run
from train.flags import Command, check_command

PROG = "python -m train.cameo"


def main(command: Command) -> None:
    """Train; write averaged weights to OUT/averaged/step-NNNNNN, the last ones to OUT/final, and the page."""
    check_command(command)
    from train.training import train_model  # after the flags are checked: PyTorch is slow to import

    train_model(command)


def cli(arguments: list[str] | None = None) -> None:
    """Parse the command line and run."""
    run(main, parse(Command, arguments, prog=PROG), prog=PROG)


if __name__ == "__main__":
    cli()
