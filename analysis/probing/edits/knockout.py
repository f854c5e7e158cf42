"""A probe run -> what knocking out its best heads together changes, beside as many at random. Pure."""

from typing import Any

import numpy as np
import pandas as pd

from analysis.blocks import Chart, Table, chart
from analysis.probing import cells
from analysis.probing.edits.causal_figures import SIGNED_PERCENT
from analysis.probing.edits.layer_points import layer_points
from analysis.probing.tables import ProbeRun
from analysis.probing.words import bars_words
from analysis.words import MISSING, NBSP, plural, points
from probe.records.knockout import BEST, RANDOM, knockout_table, knockout_words

SERIES = {BEST: "the heads that find correspondences best", RANDOM: "as many of the others at random, mean of the sets"}


def table(run: ProbeRun) -> pd.DataFrame:
    """Return the table of heads that were knocked out together; empty where none were.

    Args:
        run: The probe run.
    """
    return pd.DataFrame() if run.knockout is None else knockout_table(run.knockout)


def words(run: ProbeRun) -> tuple[str, ...]:
    """Return for which numbers of heads the best ones matter more than every random set.

    Args:
        run: The probe run.
    """
    known = table(run)
    return () if known.empty else (knockout_words(known),)


def figure(run: ProbeRun) -> Chart | None:
    """Draw the growth of the prediction's error over the number of heads that are knocked out.

    Args:
        run: The probe run.

    Returns:
        None where none were.
    """
    known = table(run)
    if known.empty:
        return None
    numbers = [int(number) for number in known["heads"]]
    rows = pd.concat([_series(known, which) for which in SERIES], ignore_index=True)
    caption = (
        f"By how much the error of the denoised prediction grows, in {plural(int(known['scenes'].min()), 'scene')}, of "
        f"which none ranked the heads. {bars_words(int(known['units'].min()))} Random heads: means over their sets."
    )
    alt = "Growth of the error by number of heads; " + "; ".join(
        f"{row.heads}: best {_percent(row.best)}, random {_percent(row.random)}" for row in known.itertuples()
    )
    svg = layer_points(
        rows, titles={"": "heads knocked out together"}, series=SERIES, labels={n: str(n) for n in numbers},
        selected=-1, percent=SIGNED_PERCENT, name="knockout", alt=alt, xlabel="number of heads",
    )  # fmt: skip
    return chart("knockout", svg, caption, source=cells.source(run), table=known, file="knockout_by_number.csv")


def _series(known: pd.DataFrame, which: str) -> pd.DataFrame:
    ends = {end: known[f"{which}{suffix}"] for end, suffix in (("value", ""), ("low", "_low"), ("high", "_high"))}
    return pd.DataFrame({"panel": "", "series": which, "layer": known["heads"], **ends})


def text_table(run: ProbeRun) -> Table:
    """Write the growth of the error by number of heads; without rows where none were knocked out.

    Args:
        run: The probe run.
    """
    return Table(
        caption="Growth of the error of the denoised prediction, and the best heads minus random ones, in points, with "
        f"95{NBSP}% intervals over independent units; those of the difference hold for all numbers at once. Sets "
        "above: random sets that matter as much as the best heads, or more.",
        columns=("heads", "the best", "at random", "difference", "sets above", "units"),
        rows=tuple(_cells(row) for row in table(run).to_dict("records")),
        wide=True,
    )


def _cells(row: dict[Any, Any]) -> tuple[str, ...]:
    low, high = row["ahead_low"], row["ahead_high"]
    difference = points(row["ahead"]) + (f" ({points(low)} to {points(high)})" if np.isfinite(low) else "")
    return (
        f"{row['heads']:.0f}",
        *(_percent(row[which], row[f"{which}_low"], row[f"{which}_high"]) for which in (BEST, RANDOM)),
        difference,
        f"{row['sets_above']:.0f} of {row['sets']:.0f}" if np.isfinite(row["sets_above"]) else MISSING,
        f"{row['units']:.0f}",
    )


def _percent(value: float, low: float = np.nan, high: float = np.nan) -> str:
    """Write a growth with its sign and interval."""
    if not np.isfinite(value):
        return MISSING
    ends = f" ({points(low)} to {points(high)})" if np.isfinite(low) else ""
    return f"{points(value)}{NBSP}%{ends}"
