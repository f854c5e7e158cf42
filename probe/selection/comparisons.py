"""The selected layer beside everything that it is compared with, as the terminal shows it."""

import pandas as pd
from rich import box
from rich.table import Table

from probe.records import ALL_HEADS, CEILING, NO_LAYER, SAME_POSITION, UNIFORM, summarise
from probe.selection.choose import Selection


def comparisons(scores: pd.DataFrame, selection: Selection) -> pd.DataFrame:
    """Score what was measured on the same queries as the selected layer: on its grid, or in the same layer.

    The layer's score is over all timesteps, those of its nulls at the middle one.

    Args:
        scores: The score table of the run.
        selection: Whose metric, direction and protocol count.

    Returns:
        Columns model, value, low, high, scenes, count (over all timesteps): uniform chance, the same position, the
        matchers, the nulls and the layer itself from low to high, then the ceiling. What counted nothing is absent.
    """
    rows = scores[(scores["protocol"] == selection.protocol) & (scores["metric"] == selection.metric)]
    rows = rows[(rows["head"] == ALL_HEADS) & rows["layer"].isin([NO_LAYER, selection.layer])]
    rows = rows[rows["grid"] == selection.best.grid]
    if selection.direction != "all":
        rows = rows[rows["direction"] == selection.direction]
    table = summarise(rows, ["model"])
    place = table["model"].map({UNIFORM: 0, SAME_POSITION: 1, CEILING: 3}).fillna(2)
    return table.assign(place=place).sort_values(["place", "value"], ignore_index=True).drop(columns="place")


def comparison_table(scores: pd.DataFrame, selection: Selection) -> Table:
    """Lay the comparisons out for the terminal."""
    title = f"layer {selection.layer} beside other matchers, {selection.best.grid} tokens: {selection.metric}"
    table = Table(title=title, min_width=len(title), box=box.SIMPLE_HEAD, padding=(0, 1))
    for heading in ("matcher", "precision", "95 %"):
        table.add_column(heading, justify="left" if heading == "matcher" else "right", no_wrap=True)
    for row in comparisons(scores, selection).itertuples():
        mine = row.model == selection.model
        table.add_row(
            f"{row.model}, layer {selection.layer}" if mine else str(row.model),
            f"{row.value:.3f}",
            f"{row.low:.3f}-{row.high:.3f}" if row.low == row.low else "-",
            style="bold" if mine else None,
        )
    return table
