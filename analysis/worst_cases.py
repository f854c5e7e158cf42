"""The table of generated views, the worst first, as pages of evaluations and of training runs show it. Pure."""

from typing import Any

import pandas as pd

from analysis.blocks import Table
from analysis.trivial import BEST, MARK, Trivial, best_trivial, marked
from analysis.words import ANSWERS, MISSING, amount, number
from probe.records import COPY, MATCH_ERROR, MEAN_COLOUR, METRICS, PSNR, SAMPLE_METRICS, TRIVIAL, trivial_column

SHOWN = 12
SHORT = {COPY: "a copy", MEAN_COLOUR: "the mean colour"}


def worst_table(worst: pd.DataFrame) -> Table:
    """Write the views with the lowest PSNR.

    Args:
        worst: As train.evaluate and the trainer leave it in worst.csv, the lowest PSNR first.
    """
    columns = [name for name in SAMPLE_METRICS if name in worst and worst[name].notna().any()]
    shown = worst.head(SHOWN)
    method = best_method(worst)
    known = all(trivial_column(each, PSNR) in worst for each in TRIVIAL)  # runs of older versions have the copy only
    which = f"{ANSWERS[method]}, the {BEST} by PSNR," if known else ANSWERS[method]
    lost = worst[PSNR] <= worst[trivial_column(method, PSNR)]
    return Table(
        caption=f"The {number(len(shown))} of {number(len(worst))} generated views with the lowest PSNR. Set off and "
        f"marked {MARK}: {which} is as good or better; so it is for {number(lost.sum())} of all {number(len(worst))}. "
        "Floor: the match error of the true view itself.",
        columns=("scene", "view", "rotation", "references", *(METRICS[name].title for name in columns),
                 f"PSNR of {SHORT[method]}", "floor of match error"),
        rows=tuple(_row(row, columns, method) for row in shown.to_dict("records")),
        marked=tuple(n for n, mark in enumerate(lost.head(SHOWN)) if mark),
        texts=1,
        wide=True,
    )  # fmt: skip


def best_method(worst: pd.DataFrame) -> str:
    """Return the trivial baseline that is best by PSNR over all views; of a table with the copy alone, that.

    Args:
        worst: See :func:`worst_table`.
    """
    best = best_trivial(PSNR, lambda method: worst.get(trivial_column(method, PSNR), pd.Series(dtype=float)).mean())
    return COPY if best is None else best.method


def _row(row: dict[Any, Any], columns: list[str], method: str) -> tuple[str, ...]:
    theirs = row[trivial_column(method, PSNR)]
    own = [amount(name, row[name]) for name in columns]
    own = [marked(text, name, row[name], Trivial(method, theirs)) if name == PSNR else text
           for name, text in zip(columns, own, strict=True)]  # fmt: skip
    beside = [amount(PSNR, theirs), amount(MATCH_ERROR, row["truth_match_error"])]
    turn = MISSING if pd.isna(row["rotation_deg"]) else f"{row['rotation_deg']:.0f}°"
    return (str(row["scene"]), number(row["view"]), turn, number(row["n_ref"]), *own, *beside)
