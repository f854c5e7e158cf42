"""Compare ways of training over seeds: ``python -m train.study --seeds 0,1,2``."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import torch
from rich.console import Console
from tqdm import tqdm

from probe import cli as command
from probe.records import open_run, write
from probe.records.names import REPORT, STEP_LOG, STUDY_FIGURE, STUDY_TABLES, split_seed_folder
from train.studying.runs import is_finished, last_step
from train.studying.variants import PROG, VARIANTS, Run, Study, arguments, check, plan

NOT_DECISIVE = ("variants", "seeds", "jobs", "out")
POLL = 5.0
"""Seconds between looks at how far the runs are."""

Runner = Callable[[Sequence[str], int], tuple[int, str]]
"""Train with the given flags on so many threads; give the exit code and what went to stderr."""


def run_process(arguments: Sequence[str], threads: int) -> tuple[int, str]:
    """Train in a process of its own, which keeps the study's lock while it lives."""
    done = subprocess.run(
        [sys.executable, "-m", "train.cameo", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        close_fds=False,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        check=False,
    )
    return done.returncode, done.stderr


def main(given: Study, runner: Runner = run_process) -> None:
    """Train what is not finished, seed by seed; write and show the tables; exit with 1 if a run is missing."""
    runs = plan(given)
    check(given, runs)
    settings = {name: value for name, value in asdict(given).items() if name not in NOT_DECISIVE}
    open_run(given.out, settings, resume=True, may_grow=("steps",))
    with alone(given.out):
        save(given)  # runs that do not belong together are refused now, not after hours
        missing = train_all(given, runs, runner)
        finished = save(given)
        if finished:
            save_figure(given)
    console = Console(width=None if sys.stdout.isatty() else 120)
    if finished:
        show(console, given)
    for run, reason in missing.items():
        console.print(f"missing: {run.name}: {reason}", markup=False, soft_wrap=True)
    if missing:
        raise SystemExit(1)


# --- training --------------------------------------------------------------------------------------------------------


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Keep a study's folder for this process and the runs it starts: two trainers must never write one run.

    Raises:
        ValueError: If another study, or a run that a killed one left behind, still works there.
    """
    with (out / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"alone: another study, or a run it left behind, works in {out}; let it end, or end it"
            ) from None
        os.set_inheritable(lock.fileno(), True)
        yield


def train_all(given: Study, runs: Sequence[Run], runner: Runner) -> dict[Run, str]:
    """Train what is not finished, --jobs side by side, and write the tables after each; stop on Ctrl-C.

    Returns:
        The runs that are missing, and why.
    """
    left = [run for run in runs if not is_finished(given.out / run.name, given.steps)]
    missing, threads = dict.fromkeys(left, "not trained: stopped"), max(1, torch.get_num_threads() // given.jobs)
    with ThreadPoolExecutor(given.jobs) as pool, _bar(given, runs) as bar:
        started = {pool.submit(runner, arguments(given, run), threads): run for run in left}
        try:
            for future in _as_they_end(given, started, bar):
                run, (code, words) = started[future], future.result()
                missing[run] = f"failed with exit code {code}: {last_words(words)}"
                if not code and is_finished(given.out / run.name, given.steps):
                    del missing[run]
                else:
                    bar.write(f"{run.name} {missing[run]}", file=sys.stderr)
                save(given)
        except KeyboardInterrupt:
            bar.write("stopped; the same command continues", file=sys.stderr)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return missing


def _bar(given: Study, runs: Sequence[Run]) -> tqdm:
    done = sum(_steps_done(given, run) for run in runs)
    return tqdm(desc=f"{len(runs)} runs", total=len(runs) * given.steps, initial=done, unit="step")


def _as_they_end(
    given: Study, started: dict[Future[tuple[int, str]], Run], bar: tqdm
) -> Iterator[Future[tuple[int, str]]]:
    """Yield runs as they end, and move the bar by the steps that all of them have logged."""
    waiting, before = set(started), bar.n - sum(_steps_done(given, run) for run in started.values())
    while waiting:
        ended, waiting = wait(waiting, timeout=POLL, return_when=FIRST_COMPLETED)
        bar.n = before + sum(_steps_done(given, run) for run in started.values())
        bar.refresh()
        yield from ended


def _steps_done(given: Study, run: Run) -> int:
    return last_step(given.out / run.name / STEP_LOG)


def last_words(text: str) -> str:
    """Give the last line that is not empty; a progress bar writes each state as a line."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it said nothing")


# --- tables and figure -----------------------------------------------------------------------------------------------


def finished_runs(given: Study) -> list[Run]:
    """List every finished run in the folder, also those of an earlier call, variant by variant."""
    named = [split_seed_folder(path.name) for path in given.out.iterdir()]
    runs = [Run(variant=found[0], seed=found[1]) for found in named if found is not None and found[0] in VARIANTS]
    order = sorted(runs, key=lambda run: (list(VARIANTS).index(run.variant), run.seed))
    return [run for run in order if is_finished(given.out / run.name, given.steps)]


def save(given: Study) -> bool:
    """Write the tables and the page of what is finished; return whether anything is."""
    from analysis.report import refresh  # an edge may call analysis; matplotlib is slow to import
    from analysis.study.seeds import read_finished, study_tables

    runs = [read_finished(given.out / run.name, run.variant, run.seed) for run in finished_runs(given)]
    if not runs:
        return False
    tables = study_tables(runs)
    for name in STUDY_TABLES:
        _write_table(given.out / f"{name}.csv", getattr(tables, name))
    refresh(given.out)
    return True


def _write_table(path: Path, table: pd.DataFrame) -> None:
    write(path, lambda part: table.to_csv(part, index=False))


def save_figure(given: Study) -> None:
    """Draw the tables as ``study.png``."""
    from analysis.study.page import picture
    from analysis.study.run import read_study

    drawn = picture(read_study(given.out), list(VARIANTS))
    write(given.out / STUDY_FIGURE, lambda part: part.write_bytes(drawn))


def show(console: Console, given: Study) -> None:
    """Print the tables, and where all is."""
    from analysis.study import terminal
    from analysis.study.run import read_study

    terminal.show(console, read_study(given.out))
    files = ", ".join(f"{given.out / name}.csv" for name in STUDY_TABLES)
    console.print(f"tables: {files}; figure: {given.out / STUDY_FIGURE}", markup=False, soft_wrap=True)
    console.print(f"page: {given.out / REPORT}", markup=False, soft_wrap=True)


def cli(arguments: list[str] | None = None) -> None:
    """Parse the command line and run."""
    command.run(main, command.parse(Study, arguments, prog=PROG), prog=PROG)


if __name__ == "__main__":
    cli()
