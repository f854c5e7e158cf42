"""A probe run -> what editing its layers changed: tables, words and pictures. Pure."""

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import UInt8
from markupsafe import escape
from PIL import Image

from analysis.probing.pictures import Panel
from analysis.probing.tables import ProbeRun
from analysis.probing.words import standing
from analysis.words import MISSING, NBSP, listing
from probe.records import (
    ALL_HEADS,
    EFFECT,
    EFFECT_PREDICTION,
    EFFECT_SAMPLE,
    INTERVENTIONS,
    SAMPLE_METRICS,
    describe,
    split_effect,
    summarise,
)
from probe.records.intervals import against_all, ratios, wide
from probe.records.table import unit_sums

KINDS = {
    "identity": "each token attends to itself only",
    "uniform": "every token attends to all tokens equally",
    "within_view": "every token attends to its own view only",
    "shuffled_views": "keys of other views shuffled",
    "true_match": "target tokens attend to their true match only",
}
MEASURES = (
    EFFECT,
    EFFECT_PREDICTION,
    EFFECT_SAMPLE,
    *(f"effect_{name}" for name in SAMPLE_METRICS),
)
"""What an edit changes, in the order of the page's tables."""
COLUMNS = ["measure", "intervention", "layer", "value", "low", "high", "scenes", "units", "count"]
SHOWN_SCENES = 2


# --- tables ----------------------------------------------------------------------------------------------------------


def effects(run: ProbeRun) -> pd.DataFrame:
    """Return the effects of editing each layer, all heads together, averaged over timesteps.

    Returns:
        Columns measure, intervention, layer, value, low, high (95 % over independent units), scenes, units, count:
        target views and timesteps. What was asked for and could not be measured is absent.
    """
    return _named(summarise(_rows(run), ["metric", "layer"], shares=False))[COLUMNS]


def effects_by_head(run: ProbeRun) -> pd.DataFrame:
    """Return the effects of editing single heads: the columns of :func:`effects` and head; empty if none was edited."""
    rows = run.scores[(run.scores["protocol"] == INTERVENTIONS) & (run.scores["head"] != ALL_HEADS)]
    return _named(summarise(rows, ["metric", "layer", "head"], shares=False))[[*COLUMNS[:3], "head", *COLUMNS[3:]]]


def beside_selected(run: ProbeRun) -> pd.DataFrame:
    """Compare editing the selected layer with editing each other layer, paired by unit.

    Returns:
        Columns measure, intervention, layer (the other one), value (selected minus other), low, high (95 %, for all
        pairs of layers at once), scenes, units, count.
    """
    parts = [_beside(run, str(metric), rows) for metric, rows in _rows(run).groupby("metric", observed=True)]
    kept = [part for part in parts if len(part)]
    return _named(pd.concat(kept, ignore_index=True) if kept else pd.DataFrame(columns=["metric", *COLUMNS]))[COLUMNS]


def _beside(run: ProbeRun, metric: str, rows: pd.DataFrame) -> pd.DataFrame:
    """Compare the selected layer's effect of one metric with each other layer's."""
    others = sorted(set(rows["layer"]) - {run.layer})
    sums = unit_sums(rows, ["layer"])
    if run.layer not in set(sums["layer"]) or not others:
        return pd.DataFrame()
    units = sorted(sums["unit"].unique())
    every = ratios(*wide(sums, "layer", [run.layer, *others], units), shares=False)
    ahead = against_all(every, 0).columns(range(1, 1 + len(others)))
    counted = rows[rows["value"].notna() & (rows["count"] > 0)].groupby("layer")
    return pd.DataFrame(
        {
            "metric": metric,
            "layer": others,
            "value": ahead.value,
            "low": ahead.low,
            "high": ahead.high,
            "scenes": counted["scene"].nunique().reindex(others).fillna(0).astype(int).to_numpy(),
            "units": ahead.units,
            "count": counted["count"].sum().reindex(others).fillna(0).astype(int).to_numpy(),
        }
    )


def _rows(run: ProbeRun) -> pd.DataFrame:
    scores = run.scores
    edited = (scores["protocol"] == INTERVENTIONS) & (scores["model"] == run.model)
    return scores[edited & (scores["head"] == ALL_HEADS)]


def _named(table: pd.DataFrame) -> pd.DataFrame:
    """Part metrics such as "effect_x0@identity"; order interventions as in :data:`KINDS`."""
    parts = table["metric"].astype(str).map(split_effect)
    order = {name: n for n, name in enumerate(KINDS)}
    named = table.assign(measure=parts.str[0], intervention=parts.str[1], order=parts.str[1].map(order))
    return named.sort_values(["order", "measure"], kind="stable", ignore_index=True)


# --- words -----------------------------------------------------------------------------------------------------------


def change(row: Any, measure: str) -> str:
    """Write a change with its sign and interval: "+12.3 % (+8.1 to +16.0)"; a dash where it is missing.

    Args:
        row: With value, low and high.
        measure: What changed; fractions are written in percent.
    """
    metric = describe(measure)
    factor, digits, unit = (100, 1, f"{NBSP}%") if metric.share else (1, metric.digits, "")
    if not np.isfinite(row["value"]):
        return MISSING

    def signed(value: float) -> str:
        text = f"{factor * value:+.{digits}f}"
        return (text if float(text) else text[1:]).replace("-", "−")

    spread = f"\n({signed(row['low'])} to {signed(row['high'])})" if np.isfinite(row["low"]) else ""
    return f"{signed(row['value'])}{unit}{spread}"


def verdict(run: ProbeRun, intervention: str) -> str:
    """Return which layers raise the prediction's error less, more or as much as the selected one when they are edited.

    Args:
        run: The probe run.
        intervention: By which they are edited.
    """
    table = beside_selected(run)
    rows = table[(table["measure"] == EFFECT) & (table["intervention"] == intervention)]
    groups: dict[str, list[int]] = {"more than": [], "less than": [], "not separable from": []}
    for row in rows.itertuples():
        word = "more than" if row.low > 0 else "less than" if row.high < 0 else "not separable from"
        groups[word].append(row.layer)
    return "; ".join(f"{word} {_named_layers(layers, word, len(rows))}" for word, layers in groups.items() if layers)


def _named_layers(layers: list[int], word: str, others: int) -> str:
    every = "any other layer" if word.startswith("not") else "every other layer"
    return every if len(layers) == others > 1 else listing(sorted(layers))


def words(run: ProbeRun) -> tuple[str, ...]:
    """Return how correspondence, effect and cost are weighed, and what they decided."""
    return str(run.selection.get("rule", "")), str(run.selection.get("weighing", ""))


# --- pictures --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Edits:
    """Sampled views of one scene under one intervention."""

    title: str
    panels: tuple[Panel, ...]


def pictures(run: ProbeRun) -> tuple[Edits, ...]:
    """Show the last target view of the first scenes: true, unedited, and edited in the layers that tell most.

    Args:
        run: Holds the sampled views, if there are any.
    """
    scenes = list(dict.fromkeys(name.rsplit("/", 1)[0] for name in run.edited if name.endswith("/truth")))
    table = effects(run)
    return tuple(
        _edits(run, scene, str(name), shown_layers(run, table, str(name)))
        for scene in scenes[:SHOWN_SCENES]
        for name in table["intervention"].unique()
        if any(key.startswith(f"{scene}/{name}/") for key in run.edited)
    )


def shown_layers(run: ProbeRun, table: pd.DataFrame, intervention: str) -> dict[int, str]:
    """Choose the layers to show, with what is said of each: selected, hurting most, hurting least.

    Args:
        run: The probe run.
        table: From :func:`effects`.
        intervention: By which they are edited.
    """
    rows = table[(table["measure"] == EFFECT) & (table["intervention"] == intervention)].sort_values("value")
    order = [int(layer) for layer in rows["layer"]]
    chosen = {run.layer: [standing(run)]} if run.layer in order else {}
    places = {"hurts most": -1, "hurts next": -2, "hurts least": 0}
    for what, place in places.items():
        if len(order) >= -place:
            chosen.setdefault(order[place], []).append(what)
    return {layer: ", ".join(dict.fromkeys(what)) for layer, what in chosen.items()}


def _edits(run: ProbeRun, scene: str, name: str, layers: dict[int, str]) -> Edits:
    truth, usual = (run.edited[f"{scene}/{which}"][-1] for which in ("truth", "unedited"))
    panels = [_panel("true view", "", truth), _panel("unedited", _psnr(usual, truth), usual)]
    for layer, what in layers.items():
        image = run.edited[f"{scene}/{name}/{layer}"][-1]
        panels.append(_panel(f"layer {layer}: {what}", _psnr(image, truth), image, selected=layer == run.layer))
    return Edits(title=f"{name}: {KINDS[name]} ({scene}, last view)", panels=tuple(panels))


def _panel(title: str, note: str, image: UInt8[np.ndarray, "3 height width"], *, selected: bool = False) -> Panel:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).save(buffer, "png", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    picture = f'<img class="sample" alt="{escape(f"{title} {note}".strip())}" src="data:image/png;base64,{data}">'
    return Panel(title=title, note=note, svg=picture, selected=selected)


def _psnr(image: UInt8[np.ndarray, "3 height width"], truth: UInt8[np.ndarray, "3 height width"]) -> str:
    error = np.square((image.astype(float) - truth) / 255).mean()
    return f"PSNR {-10 * np.log10(error):.1f}{NBSP}dB" if error > 0 else "equal to the true view"


def heading(measure: str) -> str:
    """Return what a measure is called above a column: "PSNR, dB"."""
    metric = describe(measure)
    return f"{metric.title}, {metric.unit}" if metric.unit else metric.title


def measured(table: pd.DataFrame) -> Iterable[str]:
    """List the measures of a table of effects, in the order of :data:`MEASURES`."""
    return [measure for measure in MEASURES if measure in set(table["measure"])]
