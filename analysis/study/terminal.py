"""A study's tables for the terminal: what each variant reaches, and how soon."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from analysis.study import tables, words
from analysis.study.run import StudyRun
from analysis.study.seeds import LEAST_SEEDS
from analysis.study.soon import how_soon
from analysis.study.words import ratio_text
from analysis.trivial import MARK_WORDS, marked
from probe.records import (
    HIGH_NOISE,
    LOSS,
    MATCH_ERROR,
    PRECISION,
    PSNR,
    PSNR_ONE_STEP,
    SSIM,
    TRIVIAL,
    layer_column,
    trivial_column,
)

DIGITS = {PSNR: 2, PSNR_ONE_STEP: 2}
LEGEND = (
    f"±: half of the 95 % interval over seeds (Student's t); none below {LEAST_SEEDS} seeds",
    "copy, mean colour: of the reference rotated least to the target",
    f"{MARK_WORDS}; such a model has not been shown to use its cameras",
    "steps over plain's: both to the worse of their last values, which both reach; 1 is no lead. ≤, ≥: bounds, since a "
    "run was there by its first evaluation (?: on both sides)",
    "plain, other seeds: by how much plain runs of different seeds are sooner or later than one another",
    "sooner, later: the 95 % interval over seeds excludes 1, together for all measures of cameo, and of the others",
)


def show(console: Console, run: StudyRun) -> None:
    """Print final values beside the trivial baselines, and how soon each variant reaches the plain run's.

    Args:
        console: Where to.
        run: The study.
    """
    metrics = shown_metrics(run)
    console.print(final_table(run, metrics))
    console.print(reach_table(run, metrics))
    console.print(f"{words.seeds_vary(run)}; evaluated on {words.held_out(run)}", markup=False, soft_wrap=True)
    for line in LEGEND:
        console.print(line, markup=False, soft_wrap=True)


def shown_metrics(run: StudyRun) -> list[str]:
    """Return what the terminal shows: losses, image quality, precision of the layers that are supervised.

    Args:
        run: The study.
    """
    keys = ["layer", *(["other_layer"] if "another layer" in tables.roles(run).values() else [])]
    names = [layer_column(PRECISION, run.settings[key]) for key in keys if key in run.settings]
    every = (LOSS, HIGH_NOISE, PSNR, PSNR_ONE_STEP, SSIM, MATCH_ERROR, *names)
    return [name for name in every if name in run.metrics]


def final_table(run: StudyRun, metrics: Sequence[str]) -> Table:
    """Return the mean of each metric at the last step with its interval, a row per variant and trivial baseline.

    Args:
        run: The study.
        metrics: Columns.
    """
    final = run.summary[run.summary["step"] == run.step].set_index(["variant", "metric"])
    table = _table(f"at step {run.step}", ["seeds", *metrics])
    for variant in run.names:
        cells = [_value(final, variant, metric, metric) for metric in metrics]
        best = [tables.best_of(run, metric) for metric in metrics]
        means = [final["mean"].get((variant, metric), np.nan) for metric in metrics]
        texts = map(marked, cells, metrics, means, best)
        table.add_row(variant, str(run.seeds[variant]), *texts)
    for method in TRIVIAL:
        cells = [_value(final, run.names[0], metric, trivial_column(method, metric)) for metric in metrics]
        table.add_row(method, "", *cells)
    return table


def reach_table(run: StudyRun, metrics: Sequence[str]) -> Table:
    """Return the steps of each variant over plain's, per metric, with the verdict where there is one.

    Args:
        run: The study.
        metrics: Columns.
    """
    soon = how_soon(run)
    cells = {(row.variant, row.metric): _ratio(row) for row in soon.itertuples()}
    table = _table("steps over the plain run's, to the last value that both reach", metrics)
    factors = soon.drop_duplicates("metric").set_index("metric")["null_factor"].dropna()
    nulls = [f"{1 / factors[metric]:.2f}-{factors[metric]:.2f}" if metric in factors else "" for metric in metrics]
    table.add_row("plain, other seeds", *nulls)
    for variant in dict.fromkeys(soon["variant"]):
        table.add_row(variant, *(cells.get((variant, metric), "") for metric in metrics))
    return table


def _table(title: str, headings: Sequence[str]) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False)
    table.add_column("variant", no_wrap=True)
    for heading in headings:
        table.add_column(heading.replace("_", " "), justify="right", no_wrap=True)
    return table


def _value(final: pd.DataFrame, variant: str, metric: str, column: str) -> str:
    """Write a mean and, but for a trivial baseline, half of its interval."""
    if (variant, column) not in final.index:
        return ""
    row, digits = final.loc[(variant, column)], DIGITS.get(metric, 3)
    half = row["high"] - row["mean"]
    return f"{row['mean']:.{digits}f}" + ("" if column != metric or pd.isna(half) else f"±{half:.{digits}f}")


def _ratio(row: Any) -> str:
    return ratio_text(row) + (f" {row.verdict}" if row.verdict in ("sooner", "later") else "")
