"""The table of generated views, the worst first, as pages of evaluations and of training runs show it. Pure."""

from typing import Any

import pandas as pd

from analysis.blocks import Table
from analysis.words import amount, number
from probe.records import COPY, IMAGE_METRICS, MATCH_ERROR, METRICS, PSNR, trivial_column

SHOWN = 12


def worst_table(worst: pd.DataFrame) -> Table:
    """Write the views with the lowest PSNR.

    Args:
        worst: As train.evaluate and the trainer leave it in worst.csv, the lowest PSNR first.
    """
    columns = [name for name in IMAGE_METRICS if name in worst and worst[name].notna().any()]
    shown = worst.head(SHOWN)
    copied = trivial_column(COPY, PSNR)
    lost = int((worst[PSNR] < worst[copied]).sum())
    return Table(
        caption=f"The {number(len(shown))} of {number(len(worst))} generated views with the lowest PSNR. Set off: a "
        f"copy of the nearest reference is better; so it is for {number(lost)} of all {number(len(worst))}. Floor: the "
        "match error of the true view itself.",
        columns=("scene", "view", "rotation", "references", *(METRICS[name].title for name in columns),
                 "PSNR of a copy", "floor of match error"),
        rows=tuple(_row(row, columns) for row in shown.to_dict("records")),
        marked=tuple(n for n, row in enumerate(shown.itertuples()) if row.psnr < row.copy_psnr),
        texts=1,
        wide=True,
    )  # fmt: skip


def _row(row: dict[Any, Any], columns: list[str]) -> tuple[str, ...]:
    own = [amount(name, row[name]) for name in columns]
    beside = [amount(PSNR, row[trivial_column(COPY, PSNR)]), amount(MATCH_ERROR, row["truth_match_error"])]
    return (str(row["scene"]), number(row["view"]), f"{row['rotation_deg']:.0f}°", number(row["n_ref"]), *own, *beside)
