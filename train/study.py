"""Compare ways of training over seeds: ``python -m train.study --seeds 0,1,2``; ``--paper`` for the paper's claims."""

import sys

from probe.cli import parse, run
from train.studying.paper import choices, preset
from train.studying.variants import PROG, Study, check_study


def main(study: Study) -> None:
    """Train the runs that are not finished; write and show the tables; exit with 1 if a run is missing."""
    check_study(study)
    from train.studying.running import run_study  # after the flags are checked: PyTorch is slow to import

    run_study(study)


def cli(arguments: list[str] | None = None) -> None:
    """Parse the command line and run."""
    words = sys.argv[1:] if arguments is None else arguments
    run(main, parse(Study, words, prog=PROG, defaults=preset(words), **choices()), prog=PROG)


if __name__ == "__main__":
    cli()
