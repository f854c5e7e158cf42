"""The runs of a study, in processes of their own; then its tables, its figure and its page."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, as_completed, wait
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import torch
from rich.console import Console
from tqdm import tqdm

from probe.cli import flag
from probe.models import fresh_tiny
from probe.models.model import model_layers
from probe.records import (
    REPORT,
    SAMPLES,
    STEP_LOG,
    STUDY_FIGURE,
    STUDY_TABLES,
    open_run,
    split_seed_folder,
    write,
    write_json,
)
from probe.records.names import BASE, FINAL, SAMPLES_TABLE
from train.studying.evidence import Look, plan_looks
from train.studying.pictures import samples_at_steps
from train.studying.runs import has_weights, is_finished, last_step
from train.studying.variants import VARIANTS, Run, Study, arguments, command_of, plan, plan_bases, steps_of
from train.supervised import choose_layers

NOT_DECISIVE = ("variants", "seeds", "few_seeds", "checkpoint_every", "jobs", "paper", "quick", "out")
POLL = 5.0
"""Seconds between updates of the progress bar."""

Runner = Callable[[str, Sequence[str], int], tuple[int, str]]
"""Run a command with some flags on some number of threads; return the exit code and stderr."""
TRAINER = "train.cameo"


def run_process(module: str, arguments: Sequence[str], threads: int) -> tuple[int, str]:
    """Run a command in a process of its own, which holds the study's lock while it runs.

    Args:
        module: Of the command, as in python -m MODULE.
        arguments: Its flags.
        threads: Of the process.

    Returns:
        The exit code and stderr.
    """
    process = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        close_fds=False,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        check=False,
    )
    return process.returncode, process.stderr


def run_study(study: Study, runner: Runner = run_process) -> None:
    """Train the runs that are not finished, seed by seed; write and show the tables.

    Args:
        study: As :func:`train.studying.variants.check_study` accepts it.
        runner: Trains one run.

    Raises:
        SystemExit: With code 1, if a run is missing.
        ValueError: If a layer cannot be supervised, or the folder has another study; before anything is trained.
    """
    bases, runs = plan_bases(study), plan(study)
    check_layers(study, runs)
    settings = {name: value for name, value in asdict(study).items() if name not in NOT_DECISIVE}
    open_run(study.out, settings, resume=True, may_grow=("steps",))
    with alone(study.out):
        save(study)  # raises on runs that do not belong together now, not after hours
        missing = train_all(study, [*bases, *runs], runner)
        if study.paper:
            missing |= measure_all(study, runner)
            save_pictures(study)
        finished = save(study)
        if finished:
            save_figure(study)
    console = Console(width=None if sys.stdout.isatty() else 120)
    if finished:
        show(console, study)
    for name, reason in missing.items():
        console.print(f"missing: {name}: {reason}", markup=False, soft_wrap=True)
    if missing:
        raise SystemExit(1)


def check_layers(study: Study, runs: Sequence[Run]) -> None:
    """Raise before anything is written if the trainer would reject a variant's layer.

    Raises:
        ValueError: If a layer joins no views, or does not exist.
    """
    layers = model_layers(fresh_tiny(0))
    for variant in dict.fromkeys(run.variant for run in runs):
        command = command_of(study, Run(variant=variant, seed=0))
        with flag("--layer"):
            choose_layers(command.layer, layers, probe=command.probe, seed=command.seed)


# --- training --------------------------------------------------------------------------------------------------------


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Lock a study's folder for this process and the runs it starts: two trainers must never write one run.

    Raises:
        ValueError: If another study, or a run of one that was killed, is still running there.
    """
    with (out / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"another study, or a run that it left behind, is running in {out}; wait for it, or stop it"
            ) from None
        os.set_inheritable(lock.fileno(), True)
        yield


def train_all(study: Study, runs: Sequence[Run], runner: Runner) -> dict[str, str]:
    """Train the runs that are not finished, several in parallel, and write the tables after each; stop on Ctrl-C.

    Args:
        study: Of the runs.
        runs: All of them, bases before what starts from them.
        runner: Trains one run.

    Returns:
        The names of runs that are missing, and why.
    """
    left = _left(study, runs)
    missing = {run.name: "not trained: stopped" for run in left}
    with ThreadPoolExecutor(study.jobs) as pool, _bar(study, runs) as bar:
        started = _start_all(study, left, pool, runner)
        try:
            for future in _as_they_end(study, started, bar):
                run, (code, words) = started[future], future.result()
                missing[run.name] = f"failed with exit code {code}: {last_words(words)}"
                if not code and _is_finished(study, run):
                    del missing[run.name]
                else:
                    bar.write(f"{run.name} {missing[run.name]}", file=sys.stderr)
                save(study)
        except KeyboardInterrupt:
            bar.write("stopped; the same command continues", file=sys.stderr)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return missing


def _left(study: Study, runs: Sequence[Run]) -> list[Run]:
    """Return the runs that are not finished, with the bases that these start from where their weights are missing."""
    left = [run for run in runs if run.variant != BASE and not _is_finished(study, run)]
    needed = {run.seed for run in left}
    bases = [run for run in runs if run.variant == BASE and run.seed in needed]
    return [run for run in bases if not has_weights(study.out / run.name / FINAL)] + left


def _start_all(
    study: Study, runs: Sequence[Run], pool: ThreadPoolExecutor, runner: Runner
) -> dict[Future[tuple[int, str]], Run]:
    """Submit runs, bases before those that start from them, which wait for theirs."""
    bases: dict[int, Future[tuple[int, str]]] = {}
    started = {}
    for run in runs:
        future = pool.submit(_train_after, bases.get(run.seed), runner, study, run)
        started[future] = run
        if run.variant == BASE:
            bases[run.seed] = future
    return started


def _train_after(base: Future[tuple[int, str]] | None, runner: Runner, study: Study, run: Run) -> tuple[int, str]:
    """Train a run as soon as its base is trained; not without it."""
    if base is not None and base.result()[0]:
        return base.result()[0], "its base failed"
    return runner(TRAINER, arguments(study, run), _threads(study))


def _threads(study: Study) -> int:
    return max(1, torch.get_num_threads() // study.jobs)


def _is_finished(study: Study, run: Run) -> bool:
    return is_finished(study.out / run.name, steps_of(study, run))


def _bar(study: Study, runs: Sequence[Run]) -> tqdm:
    done, total = (sum(count(study, run) for run in runs) for count in (_steps_done, steps_of))
    return tqdm(desc=f"{len(runs)} runs", total=total, initial=done, unit="step", disable=not runs)


def _as_they_end(
    study: Study, started: dict[Future[tuple[int, str]], Run], bar: tqdm
) -> Iterator[Future[tuple[int, str]]]:
    """Yield runs as they end, and advance the bar by the steps that all of them have logged."""
    waiting, before = set(started), bar.n - sum(_steps_done(study, run) for run in started.values())
    while waiting:
        ended, waiting = wait(waiting, timeout=POLL, return_when=FIRST_COMPLETED)
        bar.n = before + sum(_steps_done(study, run) for run in started.values())
        bar.refresh()
        yield from ended


def _steps_done(study: Study, run: Run) -> int:
    return last_step(study.out / run.name / STEP_LOG)


def last_words(text: str) -> str:
    """Return the last line that is not empty; a progress bar writes each state as a line."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no output")


# --- measuring -------------------------------------------------------------------------------------------------------


def measure_all(study: Study, runner: Runner) -> dict[str, str]:
    """Probe and evaluate what was trained and is not measured yet, several in parallel; stop on Ctrl-C.

    Args:
        study: The study.
        runner: Runs one command.

    Returns:
        The names of measurements that are missing, and why.
    """
    left = [look for look in plan_looks(study) if not look.is_finished]
    missing = {look.name: "not measured: stopped" for look in left}
    ready = [look for look in left if has_weights(look.weights)]
    missing |= {look.name: f"not measured: no {look.weights}" for look in left if look not in ready}
    with ThreadPoolExecutor(study.jobs) as pool, _count(ready) as bar:
        started = {pool.submit(runner, look.module, look.arguments, _threads(study)): look for look in ready}
        try:
            for future in as_completed(started):
                look, (code, words) = started[future], future.result()
                missing[look.name] = f"failed with exit code {code}: {last_words(words)}"
                if not code and look.is_finished:
                    del missing[look.name]
                bar.update()
        except KeyboardInterrupt:
            bar.write("stopped; the same command continues", file=sys.stderr)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return missing


def _count(looks: Sequence[Look]) -> tqdm:
    return tqdm(desc="probes and evaluations", total=len(looks), unit="measurement", disable=not looks)


# --- tables and figure -----------------------------------------------------------------------------------------------


def finished_runs(study: Study) -> list[Run]:
    """List every finished run in the folder, also those of an earlier call, variant by variant."""
    named = [split_seed_folder(path.name) for path in study.out.iterdir()]
    runs = [Run(variant=name[0], seed=name[1]) for name in named if name is not None and name[0] in VARIANTS]
    order = sorted(runs, key=lambda run: (list(VARIANTS).index(run.variant), run.seed))
    return [run for run in order if _is_finished(study, run)]


def save(study: Study) -> bool:
    """Write the tables and the page of what is finished; return whether anything is."""
    from analysis.report import refresh  # an edge may call analysis; matplotlib is slow to import
    from analysis.study.seeds import read_finished, study_tables

    runs = [read_finished(study.out / run.name, run.variant, run.seed) for run in finished_runs(study)]
    if not runs:
        return False
    tables = study_tables(runs)
    for name in STUDY_TABLES:
        _write_table(study.out / f"{name}.csv", getattr(tables, name))
    refresh(study.out)
    return True


def _write_table(path: Path, table: pd.DataFrame) -> None:
    write(path, lambda part: table.to_csv(part, index=False))


def save_figure(study: Study) -> None:
    """Draw the tables as ``study.png``."""
    from analysis.study.page import picture
    from analysis.study.run import read_study

    drawn = picture(read_study(study.out), list(VARIANTS))
    write(study.out / STUDY_FIGURE, lambda part: part.write_bytes(drawn))


def save_pictures(study: Study) -> None:
    """Draw samples of plain and ours at equal steps, where both are trained."""
    from analysis.study.samples import draw_rows

    sampled = samples_at_steps(study)
    if sampled is not None:
        columns, words = sampled
        picture = draw_rows(columns)
        write(study.out / SAMPLES, lambda part: part.write_bytes(picture))
        write_json(study.out / SAMPLES_TABLE, words)


def show(console: Console, study: Study) -> None:
    """Print the tables, and where all is."""
    from analysis.study import terminal
    from analysis.study.run import read_study

    terminal.show(console, read_study(study.out))
    files = ", ".join(f"{study.out / name}.csv" for name in STUDY_TABLES)
    console.print(f"tables: {files}; figure: {study.out / STUDY_FIGURE}", markup=False, soft_wrap=True)
    console.print(f"page: {study.out / REPORT}", markup=False, soft_wrap=True)
