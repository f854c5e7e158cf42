"""A probe run -> where attention looks from points that the key view does not show: figure, table, sentences. Pure."""

from typing import Any

import numpy as np
import pandas as pd

from analysis.blocks import Chart, Table, chart
from analysis.probing import cells
from analysis.probing.hidden_figures import looks_by_cause
from analysis.probing.tables import ProbeRun
from analysis.probing.words import layer_labels, standing
from analysis.words import MISSING, NBSP, direction_words, interval, number, percent, points, with_interval
from probe.records import ALL_HEADS, CAMERAS_ONLY, KEY_VIEW_MASS, RANDOM_WEIGHTS, null_label
from probe.records.names import (
    AT_PROJECTION,
    CONFIDENT,
    HIDDEN_CAUSES,
    HIDDEN_TABLE,
    HIGHEST_WEIGHT,
    OCCLUDED,
    OUT_OF_FRAME,
    PROJECTION_CHANCE,
    PROJECTION_LEAD,
    SHARE_OF_ENTROPY,
    UNKNOWN,
    VISIBLE,
)

SHOWN_CAUSES = (VISIBLE, *HIDDEN_CAUSES)
PLACES = {OCCLUDED: "occluded in the key view", OUT_OF_FRAME: "out of the key view's frame"}
COLUMNS = (
    "layer", "its points are", "queries", "mass on the key view", "entropy, of its maximum", "highest weight",
    "as peaked as a right match", "difference to visible",
)  # fmt: skip
PANELS = {
    CONFIDENT: "queries as peaked as a right match (of hidden points: hallucinated matches)",
    SHARE_OF_ENTROPY: "entropy within the key view, over its maximum (100 %: spread evenly)",
}


def timestep(run: ProbeRun) -> int:
    """Return the timestep that is shown: the middle one, at which the nulls were measured.

    Args:
        run: The probe run.
    """
    return int(run.timesteps["timestep"].iloc[len(run.timesteps) // 2])


def shown(run: ProbeRun) -> pd.DataFrame:
    """Return the rows of ``hidden.csv`` that the page shows: all heads together, at the middle timestep.

    Args:
        run: The probe run.

    Returns:
        Empty where hidden points were not measured.
    """
    if run.hidden is None:
        return pd.DataFrame()
    table = run.hidden
    return table[(table["head"] == ALL_HEADS) & (table["timestep"] == timestep(run)) & (table["cause"] != UNKNOWN)]


def null_of(run: ProbeRun) -> str | None:
    """Return the null that stands beside the model: cameras only, else random weights; None where there is none.

    Args:
        run: The probe run.
    """
    models = set() if run.hidden is None else set(run.hidden["model"])
    return next((run.model + null for null in (CAMERAS_ONLY, RANDOM_WEIGHTS) if run.model + null in models), None)


def _row(run: ProbeRun, layer: int, metric: str, cause: str, model: str | None = None) -> dict[str, Any]:
    """Return what was measured of a layer's queries; NaN with count 0 where nothing was."""
    table = shown(run)
    wanted = (table["layer"] == layer) & (table["metric"] == metric) & (table["cause"] == cause)
    found = table[wanted & (table["model"] == (model or run.model))].to_dict("records")
    nothing = dict.fromkeys(table.columns, np.nan) | {"count": 0, "units": 0}
    return found[0] if found else nothing


# --- figure and table ------------------------------------------------------------------------------------------------


def figure(run: ProbeRun) -> Chart | None:
    """Draw how often hidden queries are as peaked as right matches, and their entropy, layer by layer.

    Args:
        run: The probe run.

    Returns:
        None where hidden points were not measured.
    """
    null, table = null_of(run), shown(run)
    table = table[table["model"].isin([run.model, null]) & table["metric"].isin(PANELS)] if len(table) else table
    if table.empty:
        return None
    label = null_label(null) if null else ""
    beside = f"Open, smaller marks: {label}, by its own right matches. " if null else ""
    caption = (
        f"Filled: queries at t = {timestep(run)}, all heads together, by whether the key view shows their point. "
        f"{beside}Bars: 95{NBSP}% intervals over independent units, from five units on. Layer "
        f"{run.layer} ({standing(run)}) is shaded. A query is as peaked as a right match if its highest weight reaches "
        "the median of the rightly matched visible queries of the same layer and pair of views, and twice the uniform "
        "weight."
    )
    svg = looks_by_cause(
        table, titles=PANELS, null=null, null_label=label, selected=run.layer, labels=layer_labels(run), alt=_alt(run)
    )
    return chart("hidden", svg, caption, source=cells.source(run), table=table, file="hidden_by_layer.csv")


def _alt(run: ProbeRun) -> str:
    rates = (f"{cause} {percent(_row(run, run.layer, CONFIDENT, cause)['value'])}" for cause in SHOWN_CAUSES)
    return f"Queries as peaked as a right match per layer and cause; layer {run.layer}: {', '.join(rates)}"


def text_table(run: ProbeRun) -> Table:
    """Write what was measured of each layer's queries, cause by cause; without rows where nothing was.

    Args:
        run: The probe run.
    """
    layers = [int(layer) for layer in run.layers["layer"]] if len(shown(run)) else []
    rows = [(layer, cause) for layer in layers for cause in SHOWN_CAUSES]
    null = null_of(run)
    way = direction_words(str(run.selection["direction"]))
    return Table(
        caption=f"Queries by whether the key view shows their point ({way}), at t = {timestep(run)}, with 95{NBSP}% "
        f"intervals over independent units. {HIDDEN_TABLE} in the run's folder has every head and timestep. As peaked "
        "as a right match: of hidden queries, the rate of hallucinated matches. Difference: to the visible queries, in "
        f"points, paired by unit. At the projection: the match lies within 5{NBSP}% of the image's side of where the "
        "point projects, whatever is in front of it. A dash marks what was not measured.",
        columns=(*COLUMNS, *([f"{null_label(null)}: as peaked"] if null else []), "at the projection", "by chance"),
        rows=tuple(_cells(run, layer, cause, null) for layer, cause in rows),
        marked=tuple(n for n, (layer, _) in enumerate(rows) if layer == run.layer),
        texts=2,
        wide=True,
    )


def _cells(run: ProbeRun, layer: int, cause: str, null: str | None) -> tuple[str, ...]:
    def cell(metric: str, model: str | None = None) -> str:
        return _written(_row(run, layer, metric, cause, model))

    return (
        str(layer),
        cause,
        number(_row(run, layer, KEY_VIEW_MASS, cause)["count"]),
        *(cell(metric) for metric in (KEY_VIEW_MASS, SHARE_OF_ENTROPY, HIGHEST_WEIGHT, CONFIDENT)),
        _difference(_row(run, layer, CONFIDENT, cause)),
        *([cell(CONFIDENT, null)] if null else []),
        cell(AT_PROJECTION),
        percent(_row(run, layer, PROJECTION_CHANCE, cause)["value"]),
    )


def _difference(row: dict[str, Any]) -> str:
    """Write a difference to visible queries in points, with its interval."""
    low, high = row["over_visible_low"], row["over_visible_high"]
    if np.isnan(row["over_visible"]):
        return MISSING
    return points(row["over_visible"]) + (f" ({points(low)} to {points(high)})" if np.isfinite(low) else "")


# --- words -----------------------------------------------------------------------------------------------------------


def words(run: ProbeRun) -> tuple[str, ...]:
    """Return whether the selected layer hallucinates matches of hidden points or spreads, as far as intervals tell.

    Args:
        run: The probe run.
    """
    if shown(run).empty:
        return ()
    return (*(_verdict(run, cause) for cause in HIDDEN_CAUSES), _through(run))


def _verdict(run: ProbeRun, cause: str) -> str:
    rate, seen = (_row(run, run.layer, CONFIDENT, kind) for kind in (cause, VISIBLE))
    if not rate["count"]:
        return f"No query of layer {run.layer} whose point is {PLACES[cause]} could be judged."
    entropy, mass = (_row(run, run.layer, metric, cause) for metric in (SHARE_OF_ENTROPY, KEY_VIEW_MASS))
    return (
        f"Points {PLACES[cause]} ({number(rate['count'])} queries of layer {run.layer}, t = {timestep(run)}): "
        f"{_written(rate)} are as peaked as a right match, of visible points {_written(seen)}; {spread_words(rate)} "
        f"Their entropy is {percent(entropy['value'])} of its maximum, against visible points {_difference(entropy)} "
        f"points; {percent(mass['value'])} of all weight falls on the key view, {_difference(mass)} points."
        f"{_beside_null(run, rate)}"
    )


def _written(row: dict[str, Any]) -> str:
    return with_interval(row["value"], row["low"], row["high"])


def spread_words(row: dict[str, Any]) -> str:
    """Return whether attention spreads on hidden points, by the interval of the difference to visible ones.

    Args:
        row: Of hidden queries, with over_visible, over_visible_low, over_visible_high.
    """
    low, high = row["over_visible_low"], row["over_visible_high"]
    by = f"the difference is {_difference(row)} points"
    if not np.isfinite(low):
        return f"{by}, with too few independent units to tell whether it spreads."
    if high < 0:
        return f"{by}: it spreads there, and hallucinates a match less often than it is sure of visible points."
    if low > 0:
        return f"{by}: it hallucinates matches, more often than it is sure of visible points."
    least = f"a match is hallucinated in {percent(row['low'])} of these queries or more"
    return f"{by}: it is shown neither to spread there nor to be sure more often; {least}."


def _beside_null(run: ProbeRun, row: dict[str, Any]) -> str:
    null = null_of(run)
    if null is None:
        return ""
    other = _row(run, run.layer, CONFIDENT, row["cause"], null)
    return f" {null_label(null).capitalize()}, by its own right matches: {_written(other)}; {_apart(row, other)}."


def _apart(one: dict[str, Any], other: dict[str, Any]) -> str:
    """Return which of two shares is higher, where their intervals do not meet."""
    if one["low"] > other["high"]:
        return "the model is sure of them more often"
    if one["high"] < other["low"]:
        return "the model is sure of them less often"
    return "not separable from the model"


def _through(run: ProbeRun) -> str:
    row, lead = (_row(run, run.layer, metric, OCCLUDED) for metric in (AT_PROJECTION, PROJECTION_LEAD))
    if not row["count"]:
        return ""
    chance = _row(run, run.layer, PROJECTION_CHANCE, OCCLUDED)
    ends = MISSING if interval(lead["low"], lead["high"]) == MISSING else _ends(lead)
    found = "above zero" if lead["low"] > 0 else "not shown to be above zero"
    return (
        f"Of the occluded queries' matches {_written(row)} lie where the hidden point projects, of uniform guesses "
        f"{percent(chance['value'])}; the lead is {points(lead['value'])} points ({ends}), {found}."
    )


def _ends(row: dict[str, Any]) -> str:
    return f"{points(row['low'])} to {points(row['high'])}"
