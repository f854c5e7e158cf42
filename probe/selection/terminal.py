"""What a probe found, in the terminal."""

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from probe.records import ALL_HEADS
from probe.records.words import counted
from probe.selection.choose import Selection, in_direction
from probe.selection.comparisons import comparison_table

NAMED = 3
"""Scenes without a true match that are named; more are counted."""
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
    if empty := empty_scenes(scores, selection):
        console.print(empty, markup=False, soft_wrap=True)
    console.print(selection.evidence, soft_wrap=True)
    console.print(selection.weighing, soft_wrap=True)


def empty_scenes(scores: pd.DataFrame, selection: Selection) -> str:
    """Return which scenes have no true match that the selected layer is measured on; nothing if all have some."""
    rows = scores[(scores["metric"] == selection.metric) & (scores["layer"] == selection.layer)]
    rows = rows[rows["head"] == ALL_HEADS]
    rows, way = in_direction(rows[rows["model"] == selection.model], selection.direction)
    counts = rows.groupby(rows["scene"].astype(str))["count"].sum()
    names = list(counts.index[counts == 0])
    if not names:
        return ""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    verb = "has" if len(names) == 1 else "have"
    where = "" if way == "all" else f" in {way}"
    return f"{len(names)} of {len(counts)} scenes {verb} no true match{where}: {', '.join(names[:NAMED])}{more}"


def _percent(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:+.1%}"


def _range(low: float, high: float) -> str:
    return "-" if np.isnan(low) else f"{low:.3f}-{high:.3f}"


def _between(low: float, high: float) -> str:
    return "-" if np.isnan(low) else f"{100 * low:.1f} to {100 * high:.1f}"
