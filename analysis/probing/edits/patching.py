"""A probe run -> what its layers do with another run's attention: figures, table, sentences. Pure."""

from typing import Any

import numpy as np
import pandas as pd

from analysis.blocks import Chart, Table, chart
from analysis.figures import PERCENT
from analysis.probing import cells
from analysis.probing.edits.causal_figures import SIGNED_PERCENT
from analysis.probing.edits.layer_points import layer_points
from analysis.probing.edits.patched_layers import alt_of, labels_of, partial_words, shade_words
from analysis.probing.tables import ProbeRun
from analysis.probing.words import bars_words
from analysis.words import MISSING, NBSP, number, plural, points
from probe.records import ALL_HEADS
from probe.records.patching import (
    ANOTHER,
    CLEAN,
    ERROR,
    TRUE_MATCH,
    WRONG_MATCH,
    matches_table,
    patching_table,
    patching_words,
)

DONORS = {CLEAN: "from the same scene at little noise", ANOTHER: "from another scene"}
PARTS = {
    "queries": "queries", "keys": "keys", "values": "values", "matching": "matching (logits between views)",
    "content": "content (keys and values)", "output": "output",
}  # fmt: skip
TOKENS = {TRUE_MATCH: "at the query's true match", WRONG_MATCH: "at a token of equal distance"}


def whole(run: ProbeRun) -> pd.DataFrame:
    """Return by how much patching whole layers raises the error, all heads together; empty where none were.

    Args:
        run: The probe run.
    """
    if run.patching is None:
        return pd.DataFrame()
    table = patching_table(run.patching)
    return table[(table["head"] == ALL_HEADS) & (table["measure"] == ERROR)].reset_index(drop=True)


def matches(run: ProbeRun) -> pd.DataFrame:
    """Return how far predictions move where true matches are patched, and where others are; empty where none were.

    Args:
        run: The probe run.
    """
    return pd.DataFrame() if run.patching is None else matches_table(run.patching)


def words(run: ProbeRun) -> tuple[str, ...]:
    """Return what patching says of the selected layer, and in which layers true matches are read.

    Args:
        run: The probe run.
    """
    if run.patching is None:
        return ()
    table = patching_table(run.patching)
    return (*partial_words(run, table), *patching_words(table, matches(run), run.layer))


def figure(run: ProbeRun) -> Chart | None:
    """Draw by how much each patched part of a layer raises the prediction's error.

    Args:
        run: The probe run.

    Returns:
        None where no layer was patched.
    """
    table = whole(run)
    if table.empty:
        return None
    rows = table.assign(panel=table["donor"] + table["timestep"].astype(str), series=table["part"])
    panels = {f"{d}{t}": f"{text}, t = {t}" for d, text in DONORS.items() for t in sorted(table["timestep"].unique())}
    shown = {panel: text for panel, text in panels.items() if panel in set(rows["panel"])}
    caption = (
        "By how much the error of the denoised prediction grows when target views read a part of another run's "
        "attention in one layer; below zero the other run's part helps. The same scene at little noise tells what "
        "better matching, or better content, in that layer would bring; another scene tells what the layer's own "
        f"brings. {_measured(table)} {shade_words(run, table)}"
    )
    mine = table[table["layer"] == run.layer].to_dict("records")
    said = [f"{row['part']} {DONORS[row['donor']]}, t = {row['timestep']}: {_growth(row)}" for row in mine]
    alt = f"Growth of the error by patched layer; {alt_of(run, said)}"
    series = {part: text for part, text in PARTS.items() if part in set(rows["series"])}
    svg = layer_points(
        rows, titles=shown, series=series, labels=labels_of(run, table), selected=run.layer, percent=SIGNED_PERCENT,
        name="patching", alt=alt,
    )  # fmt: skip
    return chart("patching", svg, caption, source=cells.source(run), table=table, file="patched_layers.csv")


def _measured(table: pd.DataFrame) -> str:
    """Return on how many scenes and independent units the bars rest."""
    return f"Measured in {plural(int(table['scenes'].max()), 'scene')}. {bars_words(int(table['units'].max()))}"


def matches_figure(run: ProbeRun) -> Chart | None:
    """Draw how far predictions move where a query's true match is patched, beside a token of equal distance.

    Args:
        run: The probe run.

    Returns:
        None where none were patched.
    """
    table = matches(run)
    if table.empty:
        return None
    rows = pd.concat(
        [_series(table, which, tokens) for which, tokens in (("true", TRUE_MATCH), ("wrong", WRONG_MATCH))]
    )
    titles = {str(t): f"movement of the prediction at the query, t = {t}" for t in sorted(table["timestep"].unique())}
    caption = (
        "A few tokens of the reference views get another scene's keys and values in one layer. Filled circles: how far "
        "the prediction moves at queries whose true match was among them, over the prediction's own size; squares: at "
        "queries of which a wrong token was, as far from the query's own place as the true match and at least two "
        f"tokens beside it. {bars_words(int(table['units'].max()))} Fewest queries of a point: "
        f"{number(int(table['count'].min()))}. Whether circles stand above squares is said below, by the intervals of "
        "the differences."
    )
    alt = "Movement of the prediction; " + "; ".join(
        f"layer {row.layer}, t = {row.timestep}: {row.true:.1%} against {row.wrong:.1%}" for row in table.itertuples()
    )
    svg = layer_points(
        rows, titles=titles, series=TOKENS, labels=labels_of(run, table), selected=run.layer, percent=PERCENT,
        name="patched-matches", alt=alt,
    )  # fmt: skip
    return chart("patched-matches", svg, caption, source=cells.source(run), table=table, file="patched_matches.csv")


def _series(table: pd.DataFrame, which: str, tokens: str) -> pd.DataFrame:
    ends = {end: table[f"{which}{suffix}"] for end, suffix in (("value", ""), ("low", "_low"), ("high", "_high"))}
    return pd.DataFrame({"panel": table["timestep"].astype(str), "series": tokens, "layer": table["layer"], **ends})


def text_table(run: ProbeRun) -> Table:
    """Write what patching changes, layer by layer; without rows where nothing was patched.

    Args:
        run: The probe run.
    """
    table, moved = whole(run), matches(run)
    keys = [] if table.empty else sorted(
        set(zip(table["layer"], table["timestep"], strict=True)), key=lambda key: (key[1], key[0])
    )  # fmt: skip
    columns = [] if table.empty else [(d, p) for d in DONORS for p in PARTS if p in set(table["part"])]
    rows = [(layer, t, *_row(table, moved, layer, t, columns)) for layer, t in keys]
    return Table(
        caption=f"Growth of the prediction's error, with 95{NBSP}% intervals over independent units, and (last "
        "columns) how far the prediction moves at queries whose true match was patched, minus at those whose token of "
        "equal distance was, in points of the prediction's size: its interval holds for all layers of a timestep at "
        "once.",
        columns=("layer", "t", *(f"{part}, {donor}" for donor, part in columns), "true match", "minus equal distance"),
        rows=tuple((str(layer), str(t), *texts) for layer, t, *texts in rows),
        marked=tuple(n for n, (layer, *_) in enumerate(rows) if layer == run.layer),
        texts=1,
        wide=True,
    )


def _row(
    table: pd.DataFrame, moved: pd.DataFrame, layer: int, t: int, columns: list[tuple[str, str]]
) -> tuple[str, ...]:
    here = table[(table["layer"] == layer) & (table["timestep"] == t)].set_index(["donor", "part"]).to_dict("index")
    grown = (_growth(here[key]) if key in here else MISSING for key in columns)
    rows = moved[(moved["layer"] == layer) & (moved["timestep"] == t)].to_dict("records") if len(moved) else []
    return (*grown, *(_movement(rows[0]) if rows else (MISSING, MISSING)))


def _growth(row: dict[Any, Any]) -> str:
    ends = f" ({points(row['low'])} to {points(row['high'])})" if np.isfinite(row["low"]) else ""
    return f"{points(row['value'])}{NBSP}%{ends}"


def _movement(row: dict[Any, Any]) -> tuple[str, str]:
    low, high = row["ahead_low"], row["ahead_high"]
    ends = f" ({points(low)} to {points(high)})" if np.isfinite(low) else ""
    return f"{100 * row['true']:.1f}{NBSP}%", f"{points(row['ahead'])}{ends}"
