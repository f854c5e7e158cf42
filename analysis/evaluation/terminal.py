"""An evaluation's tables for the terminal."""

import math

import pandas as pd
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from analysis.evaluation.geometry import trust
from analysis.evaluation.geometry_words import trust_words
from analysis.trivial import MARK_WORDS, best_trivial, marked
from probe.records import (
    ALL_ROTATIONS,
    COPY,
    LPIPS,
    MATCH_ERROR,
    MEAN_COLOUR,
    MODEL,
    PSNR,
    PSNR_ONE_STEP,
    SSIM,
    TRUTH,
    split_set_metric,
)

COLUMNS = (
    ("PSNR", PSNR, MODEL, 2),
    ("copy", PSNR, COPY, 2),
    ("mean", PSNR, MEAN_COLOUR, 2),
    ("one step", PSNR_ONE_STEP, MODEL, 2),
    ("SSIM", SSIM, MODEL, 3),
    ("copy", SSIM, COPY, 3),
    ("mean", SSIM, MEAN_COLOUR, 3),
    ("LPIPS", LPIPS, MODEL, 3),
    ("copy", LPIPS, COPY, 3),
    ("match", MATCH_ERROR, MODEL, 3),
    ("copy", MATCH_ERROR, COPY, 3),
    ("mean", MATCH_ERROR, MEAN_COLOUR, 3),
    ("truth", MATCH_ERROR, TRUTH, 3),
)
"""Heading, metric, method, decimals."""
SSIM_WORDS = "SSIM: gaussian window 11, sigma 1.5"
OF_A_MODEL = (
    "one step: PSNR of the single prediction from pure noise",
    f"{SSIM_WORDS}. match: colour difference to references at true matches; truth is its floor",
)


def legend(noun: str = MODEL) -> tuple[str, ...]:
    """Return what the columns mean, in lines.

    Args:
        noun: Whose images were measured: "model", or "predictions", which have fewer columns.
    """
    whose = "the model's" if noun == MODEL else f"the {noun}'"
    return (
        f"95 %: of {whose} PSNR, over independent units, from five on",
        "copy, mean: of the reference rotated least to the target",
        MARK_WORDS,
        *(OF_A_MODEL if noun == MODEL else (SSIM_WORDS,)),
    )


def trust_lines(geometry: pd.DataFrame) -> tuple[str, ...]:
    """Return which scores of geometry can be trusted, and which cannot and why, in lines.

    Args:
        geometry: The content of geometry.csv.
    """
    return tuple(text for text in trust_words(trust(geometry)) if text)


def show(console: Console, summary: pd.DataFrame, title: str, noun: str = MODEL) -> None:
    """Print a table per number of references and rotation bin, then the distances of sets of images.

    Args:
        console: Where to.
        summary: The content of summary.csv.
        title: Above the table.
        noun: Whose images were measured: see :func:`legend`.
    """
    of_sets = summary["metric"].map(lambda name: split_set_metric(name) is not None)
    console.print(_table(summary[~of_sets], escape(title)))
    for (n_ref, metric), group in summary[of_sets].groupby(["n_ref", "metric"], sort=False):
        if group["value"].notna().any():
            named = group["method"].replace(MODEL, noun)
            values = ", ".join(f"{who} {value:.4f}" for who, value in zip(named, group["value"], strict=True))
            console.print(f"{metric} of {group['count'].iloc[0]} images, n_ref {n_ref}: {values}", markup=False)


def _table(summary: pd.DataFrame, title: str) -> Table:
    """Lay out one row per number of references and rotation bin; columns of which nothing is known are left out."""
    known = summary[summary["value"].notna()]
    columns = [column for column in COLUMNS if ((known["metric"] == column[1]) & (known["method"] == column[2])).any()]
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False)
    for heading in ("n_ref", "rotation", "scenes", "95 %", *(column[0] for column in columns)):
        table.add_column(heading, justify="right", no_wrap=True)
    for (n_ref, rotation), group in summary.groupby(["n_ref", "rotation_bin"], sort=False):
        cells = group.set_index(["metric", "method"])
        own = cells.loc[(PSNR, MODEL)]
        texts = [_text(cells["value"], *column[1:]) for column in columns]
        interval = f"{own['low']:.1f}-{own['high']:.1f}" if math.isfinite(own["low"]) else ""
        table.add_row(
            str(n_ref), str(rotation), str(own["scenes"]), interval, *texts, end_section=rotation == ALL_ROTATIONS
        )
    return table


def _text(values: pd.Series, metric: str, method: str, digits: int) -> str:
    value = values.get((metric, method), math.nan)
    best = best_trivial(metric, lambda one: values.get((metric, one), math.nan)) if method == MODEL else None
    return marked(f"{value:.{digits}f}", metric, value, best)
