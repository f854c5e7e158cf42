"""A probe run -> all that its page shows: finished text, tables of text, figures. Pure."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from analysis import figures
from analysis.blocks import Chart, Section, Table, chart
from analysis.explorer.part import Part, explorer_part
from analysis.explorer.payload import BUDGET
from analysis.explorer.reading import Explored
from analysis.figures import Drawing
from analysis.probing import caveats, cells, hidden, rotation, tables
from analysis.probing.edits import causal, causal_figures, decoding, knockout, patched_samples, patching, speed
from analysis.probing.paper import beside_paper
from analysis.probing.pictures import Panel, choose_examples, embedded_images, panels
from analysis.probing.tables import ProbeRun
from analysis.probing.words import answer, best_row, doubt, layer_labels, layer_places, standing, verdict_texts
from analysis.training import words
from analysis.words import (
    INTERVALS,
    MISSING,
    NBSP,
    bin_words,
    command,
    direction_words,
    interval,
    metric_words,
    number,
    percent,
    rebuild,
    with_interval,
)
from probe.records import ATTENTION_METRICS, EFFECT, METRICS, PSNR, UNIFORM
from probe.records.intervals import LEAST_UNITS

FILES = {
    "profile": "layer_profile.csv", "common": "common_grid.csv", "rotation": "rotation_bins.csv",
    "timesteps": "layer_by_timestep.csv", "heads": "layer_by_head.csv",
}  # fmt: skip
"""Under which the tables of figures are downloaded, where it is not the figure's own name."""
MORE = {
    "hidden": hidden, "knockout": knockout, "patching": patching, "patched-samples": patched_samples,
    "decoded": decoding, "speed": speed,
}  # fmt: skip
"""What is measured only when it is asked for, by the name of its section."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The match pictures of one pair of views."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, kw_only=True)
class Page:
    """All that the page of one run shows; figures and tables that the run cannot fill are absent."""

    title: str
    model: str
    scenes: str
    protocol: str
    settings: dict[str, Any]
    facts: tuple[tuple[str, str, str], ...]
    answer: tuple[str, ...]
    doubt: str
    evidence: str
    intervals: str
    verdicts: tuple[tuple[str, str, str], ...]
    caveats: tuple[str, ...]
    figures: dict[str, Chart]
    tables: dict[str, Table]
    paper: Section
    images: Markup
    pairs: tuple[Pair, ...]
    edits: tuple[causal.Edits, ...]
    causal: tuple[str, ...]
    hidden: tuple[str, ...]
    knockout: tuple[str, ...]
    patching: tuple[str, ...]
    patched_samples: tuple[str, ...]
    decoded: tuple[str, ...]
    speed: tuple[str, ...]
    explorer: Part | None
    metric: str
    direction: str
    methods: tuple[tuple[str, str], ...]
    command: str
    rebuild: str
    downloads: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class ProbeEntry:
    """A probe run's line in the index, as finished text; ``link`` is relative to the index.

    ``profile`` holds index, precision in [0, 1] or NaN, and its text, of every layer; ``selected`` is the best one.
    """

    link: str
    name: str
    model: str
    scenes: str
    protocol: str
    layer: str
    precision: str
    share: str
    selected: int
    profile: tuple[tuple[int, float, str], ...]


def probe_entry(run: ProbeRun, link: str) -> ProbeEntry:
    """Write a probe run's line in the index.

    Args:
        run: The probe run.
        link: To its page, relative to the index.
    """
    row = best_row(run)
    return ProbeEntry(
        link=link,
        name=run.name,
        model=run.model,
        scenes=str(run.settings.get("scenes", MISSING)),
        protocol=run.protocol,
        layer=f"{run.layer} ({layer_places(run)[run.layer]}, {run.grid})",
        precision=with_interval(row["precision"], row["precision_low"], row["precision_high"]),
        share=with_interval(row["share_of_ceiling"], row.get("share_low"), row.get("share_high")),
        selected=run.layer,
        profile=tuple((int(n), float(p), percent(p)) for n, p in run.layers[["layer", "precision"]].to_numpy()),
    )


def make_page(run: ProbeRun, explored: Sequence[Explored] = (), budget: int = BUDGET) -> Page:
    """Put together what the page of a run shows.

    Args:
        run: The probe run.
        explored: What its match explorer shows: its own model first; without any there is no explorer.
        budget: Characters of the explorer's data.
    """
    scenes = str(run.settings.get("scenes", "unnamed scenes"))
    examples = choose_examples(run)
    places = layer_places(run)
    explorer = explorer_part(explored, budget) if explored else None
    return Page(
        title=f"{run.model} on {scenes}",
        model=run.model,
        scenes=scenes,
        protocol=run.protocol,
        settings=run.settings,
        facts=_facts(run),
        answer=tuple(answer(run)),
        doubt=doubt(run, best_row(run)),
        intervals=INTERVALS,
        evidence=str(run.selection.get("evidence", "")),
        verdicts=tuple(verdict_texts(run)),
        caveats=tuple(caveats.caveats(run)),
        figures=_figures(run),
        tables=_tables(run),
        paper=beside_paper(run),
        images=Markup(embedded_images(run, examples, explorer.views if explorer else ())),
        pairs=tuple(Pair(title=_example_title(e), panels=tuple(panels(run, e, places))) for e in examples),
        edits=causal.pictures(run),
        causal=causal.words(run),
        hidden=hidden.words(run),
        knockout=knockout.words(run),
        patching=patching.words(run),
        patched_samples=patched_samples.words(run),
        decoded=decoding.words(run),
        speed=speed.words(run),
        explorer=explorer,
        metric=metric_words(run.metric),
        direction=direction_words(str(run.selection["direction"])),
        methods=cells.methods(run),
        command=command(run.settings),
        rebuild=rebuild(run.settings, run.name),
        downloads=cells.downloads(run),
    )


def _facts(run: ProbeRun) -> tuple[tuple[str, str, str], ...]:
    row = best_row(run)
    return (
        ("precision", percent(row["precision"]), interval(row["precision_low"], row["precision_high"])),
        (
            "share of the ceiling",
            percent(row["share_of_ceiling"]),
            interval(row.get("share_low"), row.get("share_high")),
        ),
        ("ceiling", percent(row["ceiling"]), f"best token of {run.grid}"),
        ("same position", percent(row["same_position"]), "token at the same place"),
        ("uniform chance", percent(row["chance"]), "any token"),
    )


def _example_title(example: Any) -> str:
    turn = "" if np.isnan(example.rotation_deg) else f", {example.rotation_deg:.0f}° apart"
    kinds = ["reference" if view < example.n_ref else "target" for view in (example.query_view, example.key_view)]
    return (
        f"{example.scene}: view {example.query_view} ({kinds[0]}) into view {example.key_view} ({kinds[1]})"
        f"{turn}, t = {example.timestep}"
    )


def _tables(run: ProbeRun) -> dict[str, Table]:
    more = {name: part.text_table(run) for name, part in MORE.items()} | {"speed-measured": speed.measured_table(run)}
    return cells.text_tables(run) | {name: table for name, table in more.items() if table.rows}


# --- figures ---------------------------------------------------------------------------------------------------------


def _figures(run: ProbeRun) -> dict[str, Chart]:
    makers: dict[str, Callable[[ProbeRun], Chart | None]] = {
        "profile": _profile, "common": _common, "rotation": _rotation, "timesteps": _timesteps, "heads": _heads,
        "effects": _effects, "sampled": _sampled, "emergence": _emergence, "coverage": _coverage,
        "attention": _attention, "hidden": hidden.figure, "knockout": knockout.figure, "patching": patching.figure,
        "patched-matches": patching.matches_figure, "patched-samples": patched_samples.figure,
        "decoded": decoding.figure, "speed": speed.figure,
    }  # fmt: skip
    drawings = {name: maker(run) for name, maker in makers.items()}
    return {name: drawing for name, drawing in drawings.items() if drawing is not None}


def _draw(run: ProbeRun, name: str, svg: Drawing, caption: str, table: pd.DataFrame) -> Chart:
    return chart(name, svg, caption, source=cells.source(run), table=table, file=FILES.get(name, ""))


def _profile(run: ProbeRun) -> Chart | None:
    return _profile_of(run, tables.profile(run), layer_labels(run), "profile", "")


def _common(run: ProbeRun) -> Chart | None:
    profile = tables.profile(run, common=True)
    places = layer_places(run)
    labels = {layer: f"{layer}\n{place}" for layer, place in places.items()}
    only = "Every layer's attention map was resampled to one grid, so that one ceiling and one chance hold for all. "
    return _profile_of(run, profile, labels, "common", only) if (profile["model"] == run.model).any() else None


def _profile_of(run: ProbeRun, profile: pd.DataFrame, labels: dict[int, str], name: str, prefix: str) -> Chart:
    mine = profile[profile["model"] == run.model]
    beside = [rival for rival in tables.rivals(run) if rival in set(profile["model"])]
    caption = (
        f"{prefix}Filled points: share of matches with {metric_words(run.metric)}; {_bars(mine)} "
        f"Steps: what the best token of each grid reaches (ceiling), the same position, a uniform guess. "
        f"Open marks: nulls of the model, and other matchers on the grids where they were run. {_count(mine)}"
    )
    alt = (
        f"Precision per 3D layer; layer {run.layer} is {standing(run)}, a uniform guess there gets "
        f"{percent(best_row(run)['chance'])}. {_spoken(mine, 'layer')}"
    )
    svg = figures.layer_profile(
        profile,
        model=run.model,
        selected=run.layer,
        mark=standing(run),
        labels=labels,
        rivals=beside,
        name=name,
        alt=alt,
    )
    return _draw(run, name, svg, caption, profile)


def _bars(rows: pd.DataFrame) -> str:
    units = sorted({int(n) for n in rows["units"]})
    if not units or units[-1] < LEAST_UNITS:
        return f"no intervals, since fewer than {LEAST_UNITS} independent units stand behind each."
    over = f"{units[0]} to {units[-1]}" if len(units) > 1 else number(units[0])
    return f"bars: 95{NBSP}% intervals over {over} independent units."


def _count(rows: pd.DataFrame) -> str:
    counts = [int(n) for n in rows["count"]]
    if not counts:
        return "Nothing was counted."
    low, high = number(min(counts)), number(max(counts))
    return f"Counted matches per point: {low if low == high else f'{low} to {high}'}."


def _spoken(rows: pd.DataFrame, column: str) -> str:
    return "; ".join(
        f"{column} {row[column]}: {percent(row['value'])}" for _, row in rows.sort_values(column).iterrows()
    )


def _rotation(run: ProbeRun) -> Chart | None:
    table = rotation.rotation(run)
    counts = rotation.pair_counts(run).set_index("rotation_bin")["measured"]
    captions = {name: f"{bin_words(name)}\n{counts[name]} view pairs" for name in counts.index}
    mine = table[(table["who"] == f"layer {run.layer}") & (table["count"] > 0)]
    caption = (
        f"Filled: layer {run.layer} ({standing(run)}) and its runners-up; {_bars(mine)} Steps and open marks: "
        f"references and matchers on its grid of {run.grid}; cameras only is not among them, as it was measured at one "
        f"timestep. The further apart the cameras, the less a good guess helps. "
        f"{_count(mine)}"
    )
    spoken = "; ".join(f"{bin_words(row.rotation_bin)}: {percent(row.value)}" for row in mine.itertuples())
    alt = f"Precision of layer {run.layer} by rotation between the cameras. {spoken}"
    svg = figures.rotation_bins(table, captions=captions, rivals=_rivals(run, table), alt=alt)
    return _draw(run, "rotation", svg, caption, table)


def _timesteps(run: ProbeRun) -> Chart | None:
    table = tables.by_timestep(run)
    if table.empty or tables.noiseless(run):
        return None
    grid = _cells(run, table, "timestep")
    noise = run.timesteps.set_index("timestep")
    grid.columns = pd.Index([_timestep_label(int(t), noise) for t in grid.columns])
    level = "σ: share of noise at t (flow matching)" if "sigma" in noise else "ᾱ: share of signal left at t"
    caption = (
        f"Precision in percent, {number(int(table['scenes'].max()))} scenes; intervals are in the table below it. "
        f"{level}; SNR: signal to noise. {_empty(grid)}{_count(table)}"
    )
    best = table.loc[table["value"].idxmax()]
    where = f"layer {best['layer']:.0f}, t = {best['timestep']:.0f}"
    alt = f"Heat map of precision per layer and timestep; the highest is {percent(best['value'])} at {where}."
    svg = figures.heat_map(grid, xlabel="timestep t", name="timesteps", alt=alt)
    return _draw(run, "timesteps", svg, caption, table)


def _timestep_label(t: int, noise: pd.DataFrame) -> str:
    if t not in noise.index:
        return str(t)
    level = ("σ", "sigma") if "sigma" in noise else ("ᾱ", "alpha_bar")
    return f"{t}\n{level[0]} {number(noise.loc[t, level[1]], 2)}\nSNR {number(noise.loc[t, 'snr'], 2)}"


def _cells(run: ProbeRun, table: pd.DataFrame, column: str) -> pd.DataFrame:
    labels = layer_labels(run, "  ")
    grid = table.pivot_table(index="layer", columns=column, values="value").reindex(list(labels))
    grid.index = pd.Index([label + ("  ◂" if layer == run.layer else "") for layer, label in labels.items()])
    return grid.astype(float)


def _empty(grid: pd.DataFrame) -> str:
    empty = int(grid.isna().to_numpy().sum())
    return f"{empty} of {grid.size} cells are empty: not measured, or no such head. " if empty else ""


def _heads(run: ProbeRun) -> Chart | None:
    table = tables.by_head(run)
    if table.empty:
        return None
    grid = _cells(run, table, "head")
    best = table.loc[table["value"].idxmax()]
    caption = (
        f"Precision in percent of each head by itself. Layers have different numbers of heads. The best head is head "
        f"{best['head']:.0f} of layer {best['layer']:.0f}: "
        f"{with_interval(best['value'], best['low'], best['high'])}, the highest of "
        f"{len(table)} and so partly luck. {_chosen_heads(run)}{_empty(grid)}{_count(table)}"
    )
    where = f"head {best['head']:.0f} of layer {best['layer']:.0f}"
    alt = f"Heat map of precision per layer and head; the highest is {percent(best['value'])}, of {where}."
    return _draw(run, "heads", figures.heat_map(grid, xlabel="head", name="heads", alt=alt), caption, table)


def _chosen_heads(run: ProbeRun) -> str:
    """Return which heads of the selected layer were chosen, and what the best has on scenes that did not choose it."""
    heads = run.selection.get("heads")
    return f"{heads['evidence']} " if isinstance(heads, dict) and isinstance(heads.get("evidence"), str) else ""


def _effects(run: ProbeRun) -> Chart | None:
    reading = (
        "By how much the error of the denoised prediction grows when one layer is edited: a tall bar is a layer that "
        "the model depends on, a bar below zero an edit that helps."
    )
    return _bars_of(run, EFFECT, reading, "effects", "error of prediction")


def _sampled(run: ProbeRun) -> Chart | None:
    reading = (
        "By how much the PSNR of sampled views against the true ones changes, in dB, when one layer is edited at every "
        "sampling step: a bar that hangs far down is a layer without which the views come out wrong."
    )
    return _bars_of(run, f"effect_{PSNR}", reading, "sampled", "PSNR, dB")


def _bars_of(run: ProbeRun, measure: str, reading: str, name: str, ylabel: str) -> Chart | None:
    table = causal.effects(run)
    table = table[table["measure"] == measure]
    if table.empty:
        return None
    titles = {kind: f"{kind}: {text}" for kind, text in causal.KINDS.items() if kind in set(table["intervention"])}
    caption = (
        f"{reading} In colour: layer {run.layer} ({standing(run)}); {_bars(table)} All panels share one scale. "
        f"Target views and timesteps per bar: {number(int(table['count'].min()))}."
    )
    alt = f"{causal.heading(measure)} per edited layer. " + "; ".join(
        f"{kind}: layer {most['layer']} changes most, {causal.change(most, measure)}"
        for kind, part in table.groupby("intervention", sort=False)
        for most in [part.loc[part["value"].abs().idxmax()]]
    )
    svg = causal_figures.effect_bars(
        table, titles=titles, selected=run.layer, labels=layer_labels(run), ylabel=ylabel,
        percent=METRICS[measure].share, name=name, alt=alt,
    )  # fmt: skip
    return _draw(run, name, svg, caption, table)


def _names(column: pd.Series) -> str:
    return ", ".join(sorted({str(name) for name in column}))


def _emergence(run: ProbeRun) -> Chart | None:
    table = run.emergence
    if table is None or table.empty or not _own_scenes(run, table):
        return None
    shown = [layer for layer in tables.shown_layers(run) if layer in set(table["layer"])]
    mine = table[table["layer"] == run.layer].sort_values("step")
    caption = (
        "Precision of each layer while this model was trained, always on the scenes "
        f"\u201c{_names(table['scenes'])}\u201d; {_emergence_bands(table)}. "
        f"Dotted: a uniform guess on the grid of layer {run.layer}."
    )
    alt = f"Precision over training iterations; layer {run.layer}: " + _spoken(mine, "step")
    svg = figures.emergence_curve(table, highlighted=shown, alt=alt)
    return chart("emergence", svg, caption, source=words.probe_source(table), table=table)


def _own_scenes(run: ProbeRun, table: pd.DataFrame) -> bool:
    """Return whether the history is of scenes of the run's kind, of any version: others say nothing of these."""
    kind = re.split("[:-]", str(run.settings.get("scenes", "")))[0]
    return any(re.split("[:-]", name)[0] == kind for name in table["scenes"].astype(str))


def _emergence_bands(table: pd.DataFrame) -> str:
    """Return what the bands are; tables of older trainings hold a bootstrap over scenes, which is too narrow."""
    if "units" in table:
        return f"bands: 95{NBSP}% intervals over independent units"
    return f"bands: 95{NBSP}% by bootstrap over scenes, as they were made then: too narrow"


def _coverage(run: ProbeRun) -> Chart | None:
    table = tables.coverage(run)
    if table.empty:
        return None
    caption = (
        "Precision when only the least ambiguous matches are kept (lowest ratio of the two nearest distances). A "
        "curve that falls to the right means that the ratio tells good from bad matches. Bands: 95\u00a0% intervals "
        f"over independent units. {_count(table)}"
    )
    mine = table[table["who"] == f"layer {run.layer}"]
    alt = "Precision against coverage; " + _spoken(mine, "coverage")
    svg = figures.coverage_curve(table, rivals=_rivals(run, table), alt=alt)
    return _draw(run, "coverage", svg, caption, table)


def _rivals(run: ProbeRun, table: pd.DataFrame) -> list[str]:
    """List the rivals up to the last one that a table shows, so that each keeps its mark in every figure."""
    names, shown = tables.rivals(run), set(table["who"])
    return names[: max((n + 1 for n, name in enumerate(names) if name in shown), default=0)]


def _attention(run: ProbeRun) -> Chart | None:
    table = tables.attention(run)
    titles = {
        metric: _attention_title(metric) for metric in ATTENTION_METRICS if metric in set(table.get("metric", []))
    }
    if not titles:
        return None
    labels = layer_labels(run)
    mine = table[table["model"] == run.model]
    caption = (
        f"One point per layer, layer {run.layer} ({standing(run)}) in colour; {_bars(mine)} "
        "Dotted: attention that is equal everywhere. "
        f"Low entropy means sharp attention, which may still be wrong: read it beside the cross-entropy. {_count(mine)}"
    )
    alt = f"Attention per layer. {'; '.join(_attention_spoken(run, table, name, titles[name]) for name in titles)}"
    svg = figures.small_multiples(table, titles=titles, selected=run.layer, labels=labels, alt=alt)
    return _draw(run, "attention", svg, caption, table)


def _attention_spoken(run: ProbeRun, table: pd.DataFrame, metric: str, title: str) -> str:
    """Return where a measure of attention is highest, what the selected layer has, and attention equal everywhere."""
    rows = table[table["metric"] == metric].set_index("layer")
    mine, equal = (rows.loc[rows["model"] == model, "value"] for model in (run.model, UNIFORM))
    text = percent if METRICS[metric].share else number
    top = mine.idxmax()
    words = [f"layer {top} highest, {text(mine[top])}"]
    words += [f"layer {run.layer} {text(mine[run.layer])}"] if run.layer in mine and run.layer != top else []
    words += [f"equal everywhere {text(equal[top])}"] if top in equal else []
    return f"{title}: {', '.join(words)}"


def _attention_title(metric: str) -> str:
    about = METRICS[metric]
    return f"{about.title} ({about.unit})" if about.unit else about.title
