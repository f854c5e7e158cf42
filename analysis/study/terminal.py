"""A study's tables for the terminal: what each variant reaches, and how soon."""

from collections.abc import Sequence

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from analysis.study import tables
from analysis.study.run import StudyRun
from analysis.study.seeds import LEAST_SEEDS, average_reach
from probe.records import (
    HIGH_NOISE,
    LOSS,
    MATCH_ERROR,
    PRECISION,
    PSNR,
    SSIM,
    TRIVIAL,
    layer_column,
    trivial_column,
)

DIGITS = {PSNR: 2}
LEGEND = (
    f"±: half of the 95 % interval over seeds (Student's t); none below {LEAST_SEEDS} seeds",
    "copy, mean colour: of the reference rotated least to the target; a worse model has not used its cameras",
    "(2/3): two of three seeds reach it, and the mean is over those; ≤: reached by the first evaluation",
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
    for line in LEGEND:
        console.print(line, markup=False, soft_wrap=True)


def shown_metrics(run: StudyRun) -> list[str]:
    """Return what the terminal shows: losses, image quality, precision of the layers that are supervised.

    Args:
        run: The study.
    """
    keys = ["layer", *(["other_layer"] if "another layer" in tables.roles(run).values() else [])]
    names = [layer_column(PRECISION, run.settings[key]) for key in keys if key in run.settings]
    return [LOSS, HIGH_NOISE, PSNR, SSIM, MATCH_ERROR, *(name for name in names if name in run.metrics)]


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
        table.add_row(variant, str(run.seeds[variant]), *cells)
    for method in TRIVIAL:
        cells = [_value(final, run.names[0], metric, trivial_column(method, metric)) for metric in metrics]
        table.add_row(method, "", *cells)
    return table


def reach_table(run: StudyRun, metrics: Sequence[str]) -> Table:
    """Return the mean ratio of steps at which each variant reaches the plain run's final value, per metric.

    Args:
        run: The study.
        metrics: Columns.
    """
    ratios = average_reach(run.reach).set_index(["variant", "metric"])
    table = _table("steps to the plain run's final value, over the plain run's steps", metrics)
    for variant in run.names:
        table.add_row(variant, *(_ratio(ratios, variant, metric) for metric in metrics))
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


def _ratio(ratios: pd.DataFrame, variant: str, metric: str) -> str:
    if (variant, metric) not in ratios.index:
        return ""
    row = ratios.loc[(variant, metric)]
    if row["reached"] == 0:
        return "never"
    share = "" if row["reached"] == row["seeds"] else f" ({row['reached']}/{row['seeds']})"
    return f"{'≤ ' if row['at_most'] else ''}{row['ratio']:.2f}{share}"
