"""What a probe found, in the terminal."""

from typing import Any

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from probe.comparisons import comparison_table
from probe.selection import Selection

NAME = "name"
HEADINGS = (
    "layer", NAME, "grid", "precision (95 %)", "chance", "place", "ceiling", "share", "effect, % (95 %)",
)  # fmt: skip


def show(
    console: Console, layers: pd.DataFrame, selection: Selection, pairs: pd.DataFrame, scores: pd.DataFrame
) -> None:
    """Print the layers' table, the chosen one beside other matchers, and the selection."""
    counts = f"{len(pairs)} pairs of {selection.scenes} scenes"
    title = f"{selection.model}: {selection.metric}, {selection.direction}, {counts}"
    table = Table(title=title, box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    edited = bool(layers["causal_effect"].notna().any())
    rows = [_cells(row, selection.layer) for row in layers.itertuples()]
    for column, heading in enumerate(HEADINGS if edited else HEADINGS[:-1]):
        widest = max(len(heading), *(len(row[column]) for row in rows))
        is_name = heading == NAME  # which gives way where the terminal is narrow
        table.add_column(
            heading, justify="left" if is_name else "right", no_wrap=True, min_width=None if is_name else widest
        )
    for row in rows:
        table.add_row(*row[: len(table.columns)])
    console.print(table)
    if edited:
        console.print(f"effect: {selection.effect_rule}", soft_wrap=True)
    console.print(comparison_table(scores, selection))
    console.print(selection.evidence, soft_wrap=True)
    console.print(selection.weighing, soft_wrap=True)


def _cells(row: Any, selected: int) -> tuple[str, ...]:
    return (
        f"{row.layer}{'*' if row.layer == selected else ' '}",
        str(row.name).partition(".transformer_blocks")[0],
        f"{row.grid_h}x{row.grid_w}",
        f"{row.precision:.3f} ({row.precision_low:.3f}-{row.precision_high:.3f})",
        *(f"{value:.3f}" for value in (row.chance, row.same_position, row.ceiling)),
        f"{row.share_of_ceiling:.1%}",
        f"{_signed(row.causal_effect)} ({_signed(row.causal_low)}, {_signed(row.causal_high)})",
    )


def _signed(value: float) -> str:
    return "-" if np.isnan(value) else f"{100 * value:+.1f}"
