"""The runs of a study, in processes of their own; then its tables, its figure and its page."""

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
from rich import box
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from probe.cli import flag
from probe.image_quality import MATCH_ERROR, PSNR, SSIM
from probe.models import fresh_tiny
from probe.models.model import model_layers
from probe.records import open_run, write
from train.studying.comparison import (
    HIGH_NOISE,
    LEAST_SEEDS,
    LOSS,
    PRECISION,
    TRIVIAL,
    Finished,
    Tables,
    average_reach,
    compare,
    draw,
    is_finished,
    last_step,
    read_finished,
    styles,
)
from train.studying.variants import OTHER_LAYER, VARIANTS, Run, Study, arguments, command_of, plan
from train.supervised import choose_layers

NOT_DECISIVE = ("variants", "seeds", "jobs", "out")
FIGURE = "study.png"
FILES = ("study", "summary", "reach", "settings")
POLL = 5.0
"""Seconds between updates of the progress bar."""
DIGITS = {LOSS: 3, HIGH_NOISE: 3, PSNR: 2, SSIM: 3, MATCH_ERROR: 3}

Runner = Callable[[Sequence[str], int], tuple[int, str]]
"""Train with some flags on some number of threads; return the exit code and stderr."""


def run_process(arguments: Sequence[str], threads: int) -> tuple[int, str]:
    """Train in a process of its own, which holds the study's lock while it runs.

    Args:
        arguments: Flags of python -m train.cameo.
        threads: Of the process.

    Returns:
        The exit code and stderr.
    """
    process = subprocess.run(
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
    runs = plan(study)
    check_layers(study, runs)
    settings = {name: value for name, value in asdict(study).items() if name not in NOT_DECISIVE}
    open_run(study.out, settings, resume=True, may_grow=("steps",))
    with alone(study.out):
        save(study)  # raises on runs that do not belong together now, not after hours
        missing = train_all(study, runs, runner)
        tables = save(study)
        if tables is not None:
            save_figure(study, tables)
    console = Console(width=None if sys.stdout.isatty() else 120)
    if tables is not None:
        show(console, study, tables)
    for run, reason in missing.items():
        console.print(f"missing: {run.name}: {reason}", markup=False, soft_wrap=True)
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


def train_all(study: Study, runs: Sequence[Run], runner: Runner) -> dict[Run, str]:
    """Train the runs that are not finished, several in parallel, and write the tables after each; stop on Ctrl-C.

    Args:
        study: Of the runs.
        runs: All of them.
        runner: Trains one run.

    Returns:
        The runs that are missing, and why.
    """
    left = [run for run in runs if not is_finished(study.out / run.name, study.steps)]
    missing, threads = dict.fromkeys(left, "not trained: stopped"), max(1, torch.get_num_threads() // study.jobs)
    with ThreadPoolExecutor(study.jobs) as pool, _bar(study, runs) as bar:
        started = {pool.submit(runner, arguments(study, run), threads): run for run in left}
        try:
            for future in _as_they_end(study, started, bar):
                run, (code, words) = started[future], future.result()
                missing[run] = f"failed with exit code {code}: {last_words(words)}"
                if not code and is_finished(study.out / run.name, study.steps):
                    del missing[run]
                else:
                    bar.write(f"{run.name} {missing[run]}", file=sys.stderr)
                save(study)
        except KeyboardInterrupt:
            bar.write("stopped; the same command continues", file=sys.stderr)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return missing


def _bar(study: Study, runs: Sequence[Run]) -> tqdm:
    done = sum(_steps_done(study, run) for run in runs)
    return tqdm(desc=f"{len(runs)} runs", total=len(runs) * study.steps, initial=done, unit="step")


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
    return last_step(study.out / run.name / "metrics.jsonl")


def last_words(text: str) -> str:
    """Return the last line that is not empty; a progress bar writes each state as a line."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no output")


# --- tables and figure -----------------------------------------------------------------------------------------------


def finished_runs(study: Study) -> list[Finished]:
    """Return every finished run in the folder, also those of an earlier call, variant by variant."""
    found = []
    for variant in VARIANTS:
        seeds = [path.name.removeprefix(f"{variant}-seed") for path in study.out.glob(f"{variant}-seed*")]
        for seed in sorted(int(text) for text in seeds if text.isdecimal()):
            folder = study.out / Run(variant=variant, seed=seed).name
            if is_finished(folder, study.steps):
                found.append(read_finished(folder, variant, seed))
    return found


def save(study: Study) -> Tables | None:
    """Write the tables of the finished runs; None if there are none."""
    runs = finished_runs(study)
    if not runs:
        return None
    tables = compare(runs)
    for name in FILES:
        _write_table(study.out / f"{name}.csv", getattr(tables, name))
    _report(study.out)
    return tables


def _report(out: Path) -> None:
    from analysis.report import refresh  # commands may call the report last; it imports matplotlib

    refresh(out)


def _write_table(path: Path, table: pd.DataFrame) -> None:
    write(path, lambda part: table.to_csv(part, index=False))


def save_figure(study: Study, tables: Tables) -> None:
    """Draw the tables as ``study.png``."""
    figure = draw(tables.summary, panels(study, tables), styles(list(VARIANTS)))
    write(study.out / FIGURE, lambda part: figure.savefig(part, format="png", dpi=120, metadata={"Software": None}))


def _precisions(study: Study, tables: Tables) -> list[str]:
    """Name the precision of the layers that are supervised, as far as they were probed."""
    other = [study.other_layer] if OTHER_LAYER in set(tables.settings["variant"]) else []
    names = [f"{PRECISION}_{layer}" for layer in (study.layer, *other)]
    return [name for name in names if (tables.summary["metric"] == name).any()]


def panels(study: Study, tables: Tables) -> dict[str, str]:
    """Choose what the figure shows: metric to title."""
    fixed = {HIGH_NOISE: "error at high noise (t = 900)", PSNR: "PSNR (dB)", SSIM: "SSIM"}
    layers = zip(_precisions(study, tables), ("the selected one", f"that of {OTHER_LAYER}"), strict=False)
    return fixed | {name: f"{name.replace('_', ' of layer ')}, {which}" for name, which in layers}


def show(console: Console, study: Study, tables: Tables) -> None:
    """Print final values beside the trivial answers, how soon each reaches the plain run's, and where all is."""
    metrics = [*DIGITS, *_precisions(study, tables)]
    console.print(final_table(tables, study.steps, metrics))
    console.print(reach_view(tables, metrics))
    lines = (
        f"±: half of the 95 % interval over seeds (Student's t); none below {LEAST_SEEDS} seeds",
        "copy, mean colour: of the reference rotated least to the target; a worse model has not used its cameras",
        "(2/3): two of three seeds reach it, and the mean is over those; ≤: reached by the first evaluation",
        f"tables: {', '.join(f'{study.out / name}.csv' for name in FILES)}; figure: {study.out / FIGURE}",
        f"page: {study.out / 'report.html'}",
    )
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def _table(title: str, headings: Sequence[str]) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False)
    table.add_column("variant", no_wrap=True)
    for heading in headings:
        table.add_column(heading.replace("_", " "), justify="right", no_wrap=True)
    return table


def final_table(tables: Tables, step: int, metrics: Sequence[str]) -> Table:
    """Lay out the mean of each metric at the last step with its interval, a row per variant and trivial answer."""
    final = tables.summary[tables.summary["step"] == step].set_index(["variant", "metric"])
    seeds = tables.study.groupby("variant")["seed"].nunique()
    table = _table(f"at step {step}", ["seeds", *metrics])
    for variant in tables.settings["variant"]:
        table.add_row(variant, str(seeds[variant]), *(_value(final, variant, metric) for metric in metrics))
    first = str(tables.settings["variant"].iloc[0])
    for name, prefix in TRIVIAL.items():
        table.add_row(name, "", *(_value(final, first, metric, prefix) for metric in metrics))
    return table


def _value(final: pd.DataFrame, variant: str, metric: str, prefix: str = "") -> str:
    """Write a mean and, but for a trivial answer, half of its interval."""
    if (variant, prefix + metric) not in final.index:
        return ""
    row, digits = final.loc[(variant, prefix + metric)], DIGITS.get(metric, 3)
    half = row["high"] - row["mean"]
    return f"{row['mean']:.{digits}f}" + ("" if prefix or pd.isna(half) else f"±{half:.{digits}f}")


def reach_view(tables: Tables, metrics: Sequence[str]) -> Table:
    """Lay out the mean ratio of steps at which each variant reaches the plain run's final value, per metric."""
    found = average_reach(tables.reach).set_index(["variant", "metric"])
    table = _table("steps to the plain run's final value, over the plain run's steps", metrics)
    for variant in tables.settings["variant"]:
        table.add_row(variant, *(_ratio(found, variant, metric) for metric in metrics))
    return table


def _ratio(found: pd.DataFrame, variant: str, metric: str) -> str:
    if (variant, metric) not in found.index:
        return ""
    row = found.loc[(variant, metric)]
    if row["reached"] == 0:
        return "never"
    share = "" if row["reached"] == row["seeds"] else f" ({row['reached']}/{row['seeds']})"
    return f"{'≤ ' if row['at_most'] else ''}{row['ratio']:.2f}{share}"
