"""What patching found, as tables on a terminal."""

import math

import pandas as pd
from rich.console import Console

from probe.cli import show_table
from probe.records import ALL_HEADS, METRICS
from probe.records.patched_samples import DONORS, MEASURES, change_text
from probe.records.patching import ERROR


def show_patches(console: Console, whole: pd.DataFrame, matches: pd.DataFrame) -> None:
    """Show the growth of the error by layer and part, and what is read of true matches.

    Args:
        console: To print on.
        whole: From :func:`probe.records.patching.patching_table`.
        matches: From :func:`probe.records.patching.matches_table`.
    """
    shown = whole[(whole["head"] == ALL_HEADS) & (whole["measure"] == ERROR)]
    for (donor, t), rows in shown.groupby(["donor", "timestep"]):
        grid = rows.pivot_table(index="layer", columns="part", values="value", sort=False)
        show_table(
            console,
            f"growth of the prediction's error at t = {t}, donor: {donor}",
            ("layer", *grid.columns),
            [(str(layer), *(_share(value, "+.1%") for value in row)) for layer, *row in grid.itertuples()],
        )
    for t, rows in matches.groupby("timestep"):
        show_table(
            console,
            f"movement of the prediction at t = {t}, where keys and values were patched at the query's",
            ("layer", "true match", "token of equal distance", "difference (joint interval)"),
            [
                (
                    str(row.layer),
                    _share(row.true),
                    _share(row.wrong),
                    _points(row.ahead, row.ahead_low, row.ahead_high),
                )
                for row in rows.itertuples()
            ],
        )


def show_samples(console: Console, table: pd.DataFrame) -> None:
    """Show by how much samples change, layer by layer: one table per donor and part.

    Args:
        console: To print on.
        table: From :func:`probe.records.patched_samples.samples_table`.
    """
    for (donor, part, steps), rows in table.groupby(["donor", "part", "steps"], sort=False):
        titles = (f"{METRICS[name].title} (joint interval)" for name in MEASURES)
        own = {(row.measure, row.layer): (row.value, row.low, row.high) for row in rows.itertuples()}
        unknown = (math.nan,) * 3
        show_table(
            console,
            f"change of samples, steps: {steps}, read: {part} of {DONORS[donor].rstrip(',')}",
            ("layer", *titles),
            [
                (str(layer), *(change_text(name, *own.get((name, layer), unknown)) for name in MEASURES))
                for layer in sorted(rows["layer"].unique())
            ],
        )


def _share(value: float, form: str = ".2%") -> str:
    """Write a share; a dash where it is unknown."""
    return format(value, form) if math.isfinite(value) else "–"


def _points(value: float, low: float, high: float) -> str:
    if not math.isfinite(value):
        return "–"
    ends = f" ({100 * low:+.2f} to {100 * high:+.2f})" if math.isfinite(low) else " (too few for an interval)"
    return f"{100 * value:+.2f}{ends}"
