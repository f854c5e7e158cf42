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
from rich import box
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from probe import cli as command
from probe.image_quality import MATCH_ERROR, PSNR, SSIM
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
from train.studying.variants import OTHER_LAYER, PROG, VARIANTS, Run, Study, arguments, check, plan

NOT_DECISIVE = ("variants", "seeds", "jobs", "out")
FIGURE = "study.png"
FILES = ("study", "summary", "reach", "settings")
POLL = 5.0
"""Seconds between looks at how far the runs are."""
DIGITS = {LOSS: 3, HIGH_NOISE: 3, PSNR: 2, SSIM: 3, MATCH_ERROR: 3}

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
        tables = save(given)
        if tables is not None:
            save_figure(given, tables)
    console = Console(width=None if sys.stdout.isatty() else 120)
    if tables is not None:
        show(console, given, tables)
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
    return last_step(given.out / run.name / "metrics.jsonl")


def last_words(text: str) -> str:
    """Give the last line that is not empty; a progress bar writes each state as a line."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it said nothing")


# --- tables and figure -----------------------------------------------------------------------------------------------


def finished_runs(given: Study) -> list[Finished]:
    """Read every finished run in the folder, also those of an earlier call, variant by variant."""
    found = []
    for variant in VARIANTS:
        seeds = [path.name.removeprefix(f"{variant}-seed") for path in given.out.glob(f"{variant}-seed*")]
        for seed in sorted(int(text) for text in seeds if text.isdecimal()):
            folder = given.out / Run(variant=variant, seed=seed).name
            if is_finished(folder, given.steps):
                found.append(read_finished(folder, variant, seed))
    return found


def save(given: Study) -> Tables | None:
    """Write the tables of what is finished; None if nothing is."""
    runs = finished_runs(given)
    if not runs:
        return None
    tables = compare(runs)
    for name in FILES:
        _write_table(given.out / f"{name}.csv", getattr(tables, name))
    _report(given.out)
    return tables


def _report(out: Path) -> None:
    from analysis.report import refresh  # an edge may call the report last; matplotlib is slow to import

    refresh(out)


def _write_table(path: Path, table: pd.DataFrame) -> None:
    write(path, lambda part: table.to_csv(part, index=False))


def save_figure(given: Study, tables: Tables) -> None:
    """Draw the tables as ``study.png``."""
    figure = draw(tables.summary, panels(given, tables), styles(list(VARIANTS)))
    write(given.out / FIGURE, lambda part: figure.savefig(part, format="png", dpi=120, metadata={"Software": None}))


def _precisions(given: Study, tables: Tables) -> list[str]:
    """Name the precision of the layers that are supervised, as far as they were probed."""
    other = [given.other_layer] if OTHER_LAYER in set(tables.settings["variant"]) else []
    names = [f"{PRECISION}_{layer}" for layer in (given.layer, *other)]
    return [name for name in names if (tables.summary["metric"] == name).any()]


def panels(given: Study, tables: Tables) -> dict[str, str]:
    """Choose what the figure shows: metric to title."""
    fixed = {HIGH_NOISE: "error at high noise (t = 900)", PSNR: "PSNR (dB)", SSIM: "SSIM"}
    layers = zip(_precisions(given, tables), ("the selected one", f"that of {OTHER_LAYER}"), strict=False)
    return fixed | {name: f"{name.replace('_', ' of layer ')}, {which}" for name, which in layers}


def show(console: Console, given: Study, tables: Tables) -> None:
    """Print final values beside the trivial answers, how soon each reaches the plain run's, and where all is."""
    metrics = [*DIGITS, *_precisions(given, tables)]
    console.print(final_table(tables, given.steps, metrics))
    console.print(reach_view(tables, metrics))
    lines = (
        f"±: half of the 95 % interval over seeds (Student's t); none below {LEAST_SEEDS} seeds",
        "copy, mean colour: of the reference rotated least to the target; a worse model has not used its cameras",
        "(2/3): two of three seeds reach it, and the mean is over those; ≤: reached by the first evaluation",
        f"tables: {', '.join(f'{given.out / name}.csv' for name in FILES)}; figure: {given.out / FIGURE}",
        f"page: {given.out / 'report.html'}",
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


def cli(arguments: list[str] | None = None) -> None:
    """Parse the command line and run."""
    command.run(main, command.parse(Study, arguments, prog=PROG), prog=PROG)


if __name__ == "__main__":
    cli()
