"""The runs of a study, each in a process of its own; then its tables, its figure and its page."""

import fcntl
import os
import sys
from collections.abc import Callable, Iterator, Sequence
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
from probe.records.names import BASE, FINAL, JOBS, SAMPLES_TABLE
from train.studying.evidence import Look, plan_looks
from train.studying.launching import Launcher, Runner, Slurm, Task, as_they_end, parse_slurm, processes, run_process
from train.studying.pictures import samples_at_steps
from train.studying.runs import has_weights, is_finished, last_step
from train.studying.variants import VARIANTS, Run, Study, arguments, command_of, plan, plan_bases, steps_of
from train.supervised import choose_layers

WHERE = ("jobs", "launcher", "slurm")
NOT_DECISIVE = (
    "variants",
    "seeds",
    "few_seeds",
    "checkpoint_every",
    "jobs",
    "launcher",
    "slurm",
    "workers",
    "execution",
    "paper",
    "quick",
    "out",
)
STOPPED = "stopped"

TRAINER = "train.cameo"


def run_study(study: Study, runner: Runner = run_process) -> None:
    """Train the runs that are not finished, seed by seed; write and show the tables.

    Args:
        study: As :func:`train.studying.variants.check_study` accepts it.
        runner: Runs one command on this machine.

    Raises:
        SystemExit: With code 1, if a run is missing.
        ValueError: If a layer cannot be supervised, or the folder has another study; before anything is trained.
    """
    bases, runs = plan_bases(study), plan(study)
    check_layers(study, runs)
    settings = {name: value for name, value in asdict(study).items() if name not in NOT_DECISIVE}
    open_run(study.out, settings, resume=True, may_grow=("steps",))
    with alone(study.out), launcher_of(study, runner) as launcher:
        save(study)  # raises on runs that do not belong together now, not after hours
        missing = train_all(study, [*bases, *runs], launcher)
        if study.paper and not any(reason.endswith(STOPPED) for reason in missing.values()):
            missing |= measure_all(study, launcher)
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


@contextmanager
def launcher_of(study: Study, runner: Runner) -> Iterator[Launcher]:
    """Open what starts the commands of a study, as its flags say."""
    if study.launcher == "slurm":
        yield Slurm(folder=study.out / JOBS, parameters=parse_slurm(study.slurm))
    else:
        with processes(study.jobs, max(1, torch.get_num_threads() // study.jobs), runner) as launcher:
            yield launcher


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


def train_all(study: Study, runs: Sequence[Run], launcher: Launcher) -> dict[str, str]:
    """Train the runs that are not finished, and write the tables after each; stop on Ctrl-C.

    Args:
        study: Of the runs.
        runs: All of them, bases before what starts from them.
        launcher: Starts their trainers.

    Returns:
        The names of runs that are missing, and why.
    """
    left = _left(study, runs)
    missing = {run.name: f"not trained: {STOPPED}" for run in left}
    with _bar(study, runs) as bar:
        try:
            started = _start_all(study, left, launcher)
            for run, (code, words) in as_they_end(started, _advance(study, left, bar)):
                missing[run.name] = f"failed with exit code {code}: {last_words(words)}"
                if not code and _is_finished(study, run):
                    del missing[run.name]
                else:
                    bar.write(f"{run.name} {missing[run.name]}", file=sys.stderr)
                save(study)
        except KeyboardInterrupt:
            bar.write(f"{STOPPED}; the same command continues", file=sys.stderr)
    return missing


def _left(study: Study, runs: Sequence[Run]) -> list[Run]:
    """Return the runs that are not finished, with the bases that these start from where their weights are missing."""
    left = [run for run in runs if run.variant != BASE and not _is_finished(study, run)]
    needed = {run.seed for run in left}
    bases = [run for run in runs if run.variant == BASE and run.seed in needed]
    return [run for run in bases if not has_weights(study.out / run.name / FINAL)] + left


def _start_all(study: Study, runs: Sequence[Run], launcher: Launcher) -> dict[Run, Task]:
    """Start runs, bases before those that start from them, which wait for theirs."""
    bases: dict[int, Task] = {}
    started = {}
    for run in runs:
        started[run] = launcher.start(TRAINER, arguments(study, run), after=bases.get(run.seed))
        if run.variant == BASE:
            bases[run.seed] = started[run]
    return started


def _is_finished(study: Study, run: Run) -> bool:
    return is_finished(study.out / run.name, steps_of(study, run))


def _bar(study: Study, runs: Sequence[Run]) -> tqdm:
    done, total = (sum(count(study, run) for run in runs) for count in (_steps_done, steps_of))
    return tqdm(desc=f"{len(runs)} runs", total=total, initial=done, unit="step", disable=not runs)


def _advance(study: Study, runs: Sequence[Run], bar: tqdm) -> Callable[[], None]:
    """Return what advances the bar by the steps that all runs have logged."""
    before = bar.n - sum(_steps_done(study, run) for run in runs)

    def look() -> None:
        bar.n = before + sum(_steps_done(study, run) for run in runs)
        bar.refresh()

    return look


def _steps_done(study: Study, run: Run) -> int:
    return last_step(study.out / run.name / STEP_LOG)


def last_words(text: str) -> str:
    """Return the last line that is not empty; a progress bar writes each state as a line."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no output")


# --- measuring -------------------------------------------------------------------------------------------------------


def measure_all(study: Study, launcher: Launcher) -> dict[str, str]:
    """Probe and evaluate what was trained and is not measured yet; stop on Ctrl-C.

    Args:
        study: The study.
        launcher: Starts the commands.

    Returns:
        The names of measurements that are missing, and why.
    """
    left = [look for look in plan_looks(study) if not look.is_finished]
    missing = {look.name: f"not measured: {STOPPED}" for look in left}
    ready = [look for look in left if has_weights(look.weights)]
    missing |= {look.name: f"not measured: no {look.weights}" for look in left if look not in ready}
    with _count(ready) as bar:
        try:
            started = {look: launcher.start(look.module, look.arguments) for look in ready}
            for look, (code, words) in as_they_end(started, bar.refresh):
                missing[look.name] = f"failed with exit code {code}: {last_words(words)}"
                if not code and look.is_finished:
                    del missing[look.name]
                bar.update()
        except KeyboardInterrupt:
            bar.write(f"{STOPPED}; the same command continues", file=sys.stderr)
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
