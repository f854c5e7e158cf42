"""Rebuild the pages of runs, or compare two: ``python -m analysis.report [RUN ...]``.

The functions are those of :mod:`analysis.building`, imported when one is used: the command parses its flags first.
"""

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from analysis.exporting.style import FigureStyle, formats_of

if TYPE_CHECKING:
    from analysis.building import KINDS, build_comparison, build_index, build_report, find_runs, kind_of, refresh

__all__ = ["KINDS", "build_comparison", "build_index", "build_report", "find_runs", "kind_of", "refresh"]
PROG = "python -m analysis.report"


def __getattr__(name: str) -> Any:
    """Return a function of :mod:`analysis.building` (PEP 562)."""
    if name.startswith("__"):
        raise AttributeError(name)
    return getattr(importlib.import_module("analysis.building"), name)


@dataclass(frozen=True)
class Arguments:
    """Rebuild the pages of runs, and reports/index.html that links to them; or compare two runs."""

    run: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Run folders: probes, studies, trainings, evaluations; without any, all that are below runs/."""
    explore_with: tuple[Path, ...] = ()
    """Probe runs of other models on the same scenes and seed, for the match explorer of the run named (one): plain
    against CAMEO."""
    compare: tyro.conf.FlagCreatePairsOff[bool] = False
    """Compare the two named runs, two probes or two trainings: write reports/compare-A-B.html and show its table."""
    watch: tyro.conf.FlagCreatePairsOff[bool] = False
    """Serve the pages of the named folder (default: this one) on 127.0.0.1 alone, rebuild them as the files of its runs
    change, and reload them where they are open; ends on Ctrl-C."""
    port: int = 8765
    """Where --watch serves; 0 for any that is free."""
    figures: str = ""
    """pdf, png or pdf,png: write every figure so into RUN/figures/ with captions to paste, and every table as LaTeX
    into RUN/tables/; of a comparison into reports/compare-A-B/."""
    style: tyro.conf.OmitArgPrefixes[FigureStyle] = field(default_factory=FigureStyle)
    """How these figures look."""


def main(argv: Sequence[str] | None = None) -> int:
    """Rebuild pages and print their paths.

    Args:
        argv: Words of the command line; None for the process's own.

    Returns:
        The exit code: 2 for errors that the user can fix.
    """
    arguments, unknown = tyro.cli(Arguments, args=argv, prog=PROG, return_unknown_args=True)  # no box: one line, below
    try:
        _check(arguments, unknown)
        from analysis.building import rebuild, show_comparison  # after the flags: matplotlib is slow to import

        if arguments.watch:
            from analysis.overview.watch import watch

            watch(arguments.run[0] if arguments.run else Path(), arguments.port)
            return 0
        files = formats_of(arguments.figures), arguments.style
        if arguments.compare:
            show_comparison(arguments.run, *files)
        else:
            rebuild(arguments.run, arguments.explore_with, *files)
    except (ValueError, OSError) as error:
        words = " ".join(str(error).split())
        print(words if words.startswith(PROG) else f"{PROG}: {words}", file=sys.stderr)
        return 2
    return 0


def _check(arguments: Arguments, unknown: Sequence[str]) -> None:
    """Refuse what the command line alone tells.

    Raises:
        ValueError: If a flag is unknown, numbers of runs do not fit, or a folder is missing.
    """
    if unknown:
        raise ValueError(f"{PROG}: {' '.join(unknown)} is unknown; expected folders, or --compare A B; see --help")
    if arguments.watch and (arguments.compare or len(arguments.run) > 1):
        raise ValueError(f"{PROG}: --watch takes one folder and no --compare, such as {PROG} --watch runs")
    if arguments.explore_with and len(arguments.run) != 1:
        raise ValueError(
            f"--explore-with: {len(arguments.run)} runs were named, expected one: the run whose page shows them"
        )
    if arguments.compare and len(arguments.run) != 2:
        raise ValueError(
            f"{PROG}: --compare was given {len(arguments.run)} folders; expected two, such as runs/a runs/b"
        )
    if arguments.compare and len(set(arguments.run)) < 2:
        raise ValueError(f"{PROG}: {arguments.run[0]} and {arguments.run[1]} are one folder; name two runs")
    if not 0 <= arguments.port < 65536:
        raise ValueError(f"--port {arguments.port}: expected a number from 0 to 65535")
    formats_of(arguments.figures)
    arguments.style.check()
    for run in (*arguments.run, *arguments.explore_with):
        if not run.exists():
            raise ValueError(f"{PROG}: there is no run folder {run}; name one that exists (now in {Path.cwd()})")


if __name__ == "__main__":
    sys.exit(main())
