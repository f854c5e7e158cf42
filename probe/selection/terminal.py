"""What a probe found, in the terminal."""

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from probe.selection.choose import Selection
from probe.selection.comparisons import comparison_table
from probe.selection.words import counted

HEADINGS = (
    "layer", "name", "grid", "right", "95 %", "chance", "same\nplace", "ceiling", "of\nceiling",
    "causal\neffect", "95 %, in %",
)  # fmt: skip


def show(
    console: Console, layers: pd.DataFrame, selection: Selection, pairs: pd.DataFrame, scores: pd.DataFrame
) -> None:
    """Print the layers' table, the chosen one beside other matchers, and the selection."""
    counts = f"{len(pairs)} pairs of {selection.scenes} scenes, {counted(selection.units)}"
    title = f"{selection.model}: {selection.metric}, {selection.direction}, {counts}"
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False)
    mark = "*" if selection.above_null else "?"
    edited = bool(layers["causal_effect"].notna().any())
    for heading in HEADINGS if edited else HEADINGS[:-2]:
        table.add_column(heading, justify="left" if heading == "name" else "right", no_wrap=True)
    for row in layers.itertuples():
        effect = (_percent(row.causal_effect), _between(row.causal_low, row.causal_high))
        table.add_row(
            f"{row.layer}{mark if row.layer == selection.layer else ' '}",
            str(row.name).partition(".transformer_blocks")[0],
            f"{row.grid_h}x{row.grid_w}",
            f"{row.precision:.3f}",
            _range(row.precision_low, row.precision_high),
            *(f"{value:.3f}" for value in (row.chance, row.same_position, row.ceiling)),
            "-" if np.isnan(row.share_of_ceiling) else f"{row.share_of_ceiling:.1%}",
            *(effect if edited else ()),
        )
    console.print(table)
    if edited:
        console.print(f"causal effect: {selection.effect_rule}", soft_wrap=True)
    console.print(comparison_table(scores, selection))
    console.print(selection.evidence, soft_wrap=True)
    console.print(selection.weighing, soft_wrap=True)


def _percent(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:+.1%}"


def _range(low: float, high: float) -> str:
    return "-" if np.isnan(low) else f"{low:.3f}-{high:.3f}"


def _between(low: float, high: float) -> str:
    return "-" if np.isnan(low) else f"{100 * low:.1f} to {100 * high:.1f}"
