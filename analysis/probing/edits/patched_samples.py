"""A probe run -> how good samples are that read another run's attention: figure, table, sentences. Pure."""

from typing import Any

import numpy as np
import pandas as pd

from analysis.blocks import Chart, Table, chart
from analysis.probing import cells
from analysis.probing.edits.causal_figures import SIGNED
from analysis.probing.edits.layer_points import layer_points
from analysis.probing.edits.patched_layers import alt_of, labels_of, partial_words, shade_words
from analysis.probing.edits.patching import PARTS
from analysis.probing.tables import ProbeRun
from analysis.probing.words import bars_words
from analysis.words import MISSING, NBSP, amount, listing, plural
from probe.records import METRICS
from probe.records.patched_samples import CONTRAST, DONORS, MEASURES, change_text, samples_table, samples_words


def changes(run: ProbeRun) -> pd.DataFrame:
    """Return by how much reading another run's attention changes samples; empty where none were patched.

    Args:
        run: The probe run.
    """
    return pd.DataFrame() if run.patched_samples is None else samples_table(run.patched_samples)


def words(run: ProbeRun) -> tuple[str, ...]:
    """Return in which layers another run's attention makes samples worse.

    Args:
        run: The probe run.
    """
    if run.patched_samples is None:
        return ()
    table = changes(run)
    return (*partial_words(run, table), *samples_words(table))


def figure(run: ProbeRun) -> Chart | None:
    """Draw by how much each patched part of a layer changes the PSNR and the match error of samples.

    Args:
        run: The probe run.

    Returns:
        None where no samples were patched.
    """
    table = changes(run)
    if table.empty:
        return None
    panels = {
        f"{name} {donor}": f"{_heading(name)}, from {text.rstrip(',')}"
        for donor, text in DONORS.items()
        for name in MEASURES
    }
    rows = table.assign(panel=table["measure"] + " " + table["donor"], series=table["part"])
    titles = {panel: text for panel, text in panels.items() if panel in set(rows["panel"])}
    series = {part: text for part, text in PARTS.items() if part in set(rows["series"])}
    svg = layer_points(
        rows, titles=titles, series=series, labels=labels_of(run, table), selected=run.layer, percent=SIGNED,
        name="patched-samples", alt=_alt(run, table),
    )  # fmt: skip
    file = "patched_samples_by_layer.csv"
    return chart("patched-samples", svg, _caption(run, table), source=cells.source(run), table=table, file=file)


def _heading(name: str) -> str:
    unit = METRICS[name].unit
    return f"change of {METRICS[name].title}{f', {unit}' if unit else ''}"


def _caption(run: ProbeRun, table: pd.DataFrame) -> str:
    steps, scenes = int(table["steps"].iloc[0]), int(table["scenes"].max())
    means = table[table["donor"] != CONTRAST].groupby("measure")["unpatched"].mean()
    usual = (f"{METRICS[name].title} {amount(name, means[name])}" for name in MEASURES if name in means)
    bars = bars_words(int(table["units"].max()), ", for all patched layers of a donor, part and measure at once")
    return (
        f"Change of samples in {plural(steps, 'step')} whose target views read a part of another run's attention in "
        "one layer at every step, against the unpatched samples of the same noise. Samples are worse where PSNR lies "
        "below zero, or the match error (difference of colours at true matches, 0 to 1) above; scales "
        f"differ. Unpatched samples of {plural(scenes, 'scene')} have on average {listing(usual)}. "
        f"{bars} {shade_words(run, table)}"
    )


def _alt(run: ProbeRun, table: pd.DataFrame) -> str:
    said = [
        f"{METRICS[row.measure].title}, {row.part}, from {DONORS[row.donor].rstrip(',')}: "
        f"{change_text(row.measure, row.value, row.low, row.high)}"
        for row in table[table["layer"] == run.layer].itertuples()
    ]
    return f"Change of samples by patched layer; {alt_of(run, said)}"


def text_table(run: ProbeRun) -> Table:
    """Write by how much samples change, layer by layer; without rows where none were patched.

    Args:
        run: The probe run.
    """
    table = changes(run)
    columns = [] if table.empty else [
        (donor, part, name) for donor in DONORS for part in PARTS for name in MEASURES
        if ((table["donor"] == donor) & (table["part"] == part)).any()
    ]  # fmt: skip
    layers = [] if table.empty else sorted(int(layer) for layer in table["layer"].unique())
    cell = {} if table.empty else table.set_index(["donor", "part", "measure", "layer"]).to_dict("index")
    return Table(
        caption="Change of samples that read a part of another run's attention at every step, with joint "
        f"95{NBSP}% intervals over independent units: PSNR in dB, and the difference of colours at true matches, 0 to "
        "1.",
        columns=("layer", *(f"{METRICS[name].title}, {part}, {donor}" for donor, part, name in columns)),
        rows=tuple((str(layer), *(_change(cell.get((*key, layer)), key[2]) for key in columns)) for layer in layers),
        marked=tuple(n for n, layer in enumerate(layers) if layer == run.layer),
        texts=1,
        wide=True,
    )


def _change(row: dict[Any, Any] | None, name: str) -> str:
    """Write a change with its interval, where it is known."""
    if row is None:
        return MISSING
    value, low, high = (_signed(row[end], name) for end in ("value", "low", "high"))
    return f"{value} ({low} to {high})" if np.isfinite(row["low"]) else value


def _signed(value: float, name: str) -> str:
    return f"{value:+.{METRICS[name].decimals}f}".replace("-", "−")
