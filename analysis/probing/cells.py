"""A probe run -> the page's tables as finished text, the facts of the measurement, and the files to download. Pure."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from analysis.blocks import Table, csv_link
from analysis.probing import rotation, tables
from analysis.probing.edits import causal
from analysis.probing.leads import leads
from analysis.probing.tables import ProbeRun
from analysis.probing.words import standing
from analysis.words import (
    INTERVALS,
    MISSING,
    NBSP,
    bin_words,
    direction_words,
    interval,
    listing,
    metric_words,
    number,
    percent,
    plural,
    points,
    units_words,
    with_interval,
)
from probe.records import CEILING, EFFECT, NO_LAYER, SAME_POSITION, TRUTH_CHECK, UNIFORM, grid_name, split_threshold

PROTOCOL_WORDS = {
    "attention-v1": "The match of a query token is the token of the key view with the highest attention weight, as "
    "the model uses it, averaged over heads. All query tokens whose point the key view really shows count (depth "
    "test).",
    "ratio-v1": "The heads are concatenated to one descriptor; the match of a query token is the nearest key of the "
    "key view by squared distance. The query tokens whose two nearest distances differ most count, visible or not.",
    "ratio-v2": "The heads are concatenated to one descriptor; the match of a query token is the nearest key of the "
    "key view whose point is known, by squared distance. The query tokens whose two nearest distances differ most "
    "count, visible or not.",
    "probe3d-v1": "As probe3d: descriptors of length one, the nearest key of the key view whose point is known by "
    "cosine distance; the 1000 query tokens whose two nearest distances differ most count, visible or not.",
    "cameo-release-v1": "As the release of CAMEO: the heads are concatenated to one descriptor; the match of a query "
    "token is the nearest key of all key views together, by squared distance; the 1000 query tokens whose two nearest "
    "distances differ most count, of all query views together, visible or not. An error equal to the threshold is "
    "right.",
}
KNOWN_COLUMNS = {
    *tables.LAYER_COLUMNS, "share_of_ceiling", "share_low", "share_high", "skill", "common_grid_precision",
    "common_grid_low", "common_grid_high", "mass_true", "causal_effect", "causal_low", "causal_high", "causal_count",
    "cost", "cameras_only", "null", "lead", "lead_low", "lead_high", "above_null", "units",
}  # fmt: skip


def text_tables(run: ProbeRun) -> dict[str, Table]:
    """Write all tables of the page; those without rows are absent.

    Args:
        run: The probe run.
    """
    makers: dict[str, Callable[[ProbeRun], Table]] = {
        "layers": _layers, "rotation": _rotation, "timesteps": _timesteps, "matchers": _matchers,
        "thresholds": _thresholds, "effects": _effects, "edits": _edits, "worst": _worst, "pairs": _pairs,
        "missing": _missing, "truth": _truth_check,
    }  # fmt: skip
    written = {name: maker(run) for name, maker in makers.items()}
    return {name: table for name, table in written.items() if table.rows}


def _layers(run: ProbeRun) -> Table:
    more = [name for name in run.layers.columns if name not in KNOWN_COLUMNS]
    columns = (
        "layer", "grid", "precision", f"95{NBSP}% interval", "uniform chance", "same position",
        "cameras only", "strongest null", "lead, points", "interval of all leads", "ceiling",
        "share of ceiling", f"95{NBSP}% interval", "skill", "on the common grid", f"95{NBSP}% interval",
        "mass on truth", "causal effect", "cost, millions", "scenes", "independent units",
        "matches counted", *(name.replace("_", " ") for name in more), "module",
    )  # fmt: skip
    rows = [_layer_row(run, row, more) for row in run.layers.to_dict("records")]
    return Table(
        caption=f"All {len(rows)} 3D layers, in the order in which the model runs them; a dash marks what was not "
        f"measured. Lead: precision minus that of the strongest null (of uniform chance, same position, and cameras "
        f"only where that was measured, the one over which the interval of the lead ends lowest), with an interval "
        f"that covers all layers at once.",
        columns=columns,
        rows=tuple(rows),
        marked=tuple(n for n, layer in enumerate(run.layers["layer"]) if layer == run.layer),
        texts=2,
        wide=True,
    )


def _layer_row(run: ProbeRun, row: dict[Any, Any], more: Sequence[str]) -> tuple[str, ...]:
    return (
        f"{row['layer']}{f' {standing(run)}' if row['layer'] == run.layer else ''}",
        grid_name((row["grid_h"], row["grid_w"])),
        counted(row["precision"], row["count"]),
        interval(row["precision_low"], row["precision_high"]),
        *(percent(row.get(name)) for name in ("chance", "same_position", "cameras_only")),
        str(row["null"]),
        points(row["lead"]),
        _ends(row.get("lead_low", np.nan), row.get("lead_high", np.nan)),
        *(percent(row.get(name)) for name in ("ceiling", "share_of_ceiling")),
        interval(row.get("share_low"), row.get("share_high")),
        percent(row.get("skill")),
        percent(row.get("common_grid_precision")),
        interval(row.get("common_grid_low"), row.get("common_grid_high")),
        percent(row.get("mass_true")),
        _effect(row),
        number(row.get("cost", np.nan) / 1e6),
        *(number(row.get(name)) for name in ("scenes", "units", "count")),
        *(number(row[name]) if isinstance(row[name], int | float) else str(row[name]) for name in more),
        str(row["name"]),
    )


def _ends(low: float, high: float) -> str:
    return MISSING if np.isnan(low) else f"{points(low)} to {points(high)}"


def _effect(row: dict[Any, Any]) -> str:
    """Write a layer's causal effect with its interval."""
    names = {"value": "causal_effect", "low": "causal_low", "high": "causal_high"}
    return causal.change({name: row.get(column, np.nan) for name, column in names.items()}, EFFECT)


def counted(value: Any, count: Any) -> str:
    """Write a fraction in percent; where it is missing, a dash with the count of its matches.

    Args:
        value: A fraction, or NaN.
        count: Of the matches.
    """
    text = percent(value)
    return f"{MISSING} (n = {number(count)})" if text == MISSING else text


def _rotation(run: ProbeRun) -> Table:
    table, names = rotation.rotation(run), rotation.bins(run)
    cells = {(row.who, row.rotation_bin): row for row in table.itertuples()}
    who = list(dict.fromkeys(table["who"]))
    return Table(
        caption=f"Precision by rotation between the two cameras, with 95{NBSP}% intervals over independent units; all "
        f"on the grid of layer {run.layer} ({run.grid}), except other layers. n: matches counted.",
        columns=("matcher", *(bin_words(name) for name in names)),
        rows=tuple((name, *(_cell(cells[name, part]) for part in names)) for name in who),
        marked=tuple(n for n, name in enumerate(who) if name == f"layer {run.layer}"),
    )


def _cell(row: Any) -> str:
    if row.count == 0:
        return counted(float("nan"), 0)
    return f"{with_interval(row.value, row.low, row.high)}\nn = {number(row.count)}"


def _timesteps(run: ProbeRun) -> Table:
    table = tables.by_timestep(run)
    mine = table[table["layer"] == run.layer].set_index("timestep")
    rows, sigma = [], ("sigma",) if "sigma" in run.timesteps else ()  # of flow matching
    for noise in run.timesteps.itertuples():
        here = mine.loc[noise.timestep] if noise.timestep in mine.index else {"value": None, "count": 0}
        text = counted(here["value"], here["count"])
        apart = interval(here.get("low"), here.get("high"))
        levels = (getattr(noise, name) for name in ("timestep", "alpha_bar", *sigma, "snr"))
        rows.append((*map(number, levels), text, apart, number(here["count"])))
    return Table(
        caption=f"What each timestep means, and the precision of layer {run.layer} there.",
        columns=(
            *("t", "ᾱ", *("σ" for _ in sigma), "SNR"),
            *(f"precision, layer {run.layer}", f"95{NBSP}% interval", "matches counted"),
        ),
        rows=tuple(rows),
        texts=0,
    )


def _matchers(run: ProbeRun) -> Table:
    table = tables.matchers(run)
    nothing = (MISSING, MISSING)
    ahead = {row.model: (points(row.value), _ends(row.low, row.high)) for row in leads(run).itertuples()}
    rows = [
        (
            row.model,
            MISSING if row.layer == NO_LAYER else str(row.layer),
            row.grid,
            percent(row.value),
            interval(row.low, row.high),
            *(ahead.get(row.model, nothing) if row.grid == run.grid else nothing),
            *map(number, (row.scenes, row.units, row.count)),
        )
        for row in table.itertuples()
    ]
    return Table(
        caption="The selected layer beside its own nulls (the same layer of another model), other matchers, and the "
        "references on each grid; the same scenes and pairs"
        + ("; each matcher counts the points of its own choice" if run.choosing else ", and the same points")
        + ". Lead: of the layer over its strongest null and over each matcher on its grid, in points, paired by unit "
        "and at the same timesteps; intervals hold for all layers, or all matchers, at once.",
        columns=(
            "matcher",
            "layer",
            "grid",
            "precision",
            f"95{NBSP}% interval",
            "lead of the layer",
            "interval of all leads",
            "scenes",
            "independent units",
            "matches counted",
        ),
        rows=tuple(rows),
        marked=tuple(n for n, row in enumerate(rows) if row[0] == run.model),
        wide=True,
    )


def _thresholds(run: ProbeRun) -> Table:
    table = tables.thresholds(run)
    cells = {(row.metric, row.model): with_interval(row.value, row.low, row.high) for row in table.itertuples()}
    models = (run.model, UNIFORM, SAME_POSITION, CEILING)
    metrics = sorted(table["metric"].unique(), key=_threshold_order)
    return Table(
        caption=f"Layer {run.layer} by every threshold that was measured; the marked row is the one that layers are "
        "ranked by.",
        columns=("a match is right with", f"layer {run.layer}", "uniform chance", "same position", "ceiling"),
        rows=tuple(
            (metric_words(metric), *(cells.get((metric, model), MISSING) for model in models)) for metric in metrics
        ),
        marked=tuple(n for n, metric in enumerate(metrics) if metric == run.metric),
        wide=True,
    )


def _threshold_order(metric: str) -> tuple[str, float]:
    amount, unit = split_threshold(metric) or (0.0, "")
    return unit, amount


def _effects(run: ProbeRun) -> Table:
    """Lay out the growth of the prediction's error: layers by interventions."""
    table = causal.effects(run)
    rows = table[table["measure"] == EFFECT]
    found = {(row["layer"], row["intervention"]): causal.change(row, EFFECT) for row in rows.to_dict("records")}
    names = list(dict.fromkeys(rows["intervention"]))
    layers = [layer for layer in run.layers["layer"] if any((layer, name) in found for name in names)]
    return Table(
        caption="By how much the error of the denoised prediction grows when a layer is edited, with "
        f"95{NBSP}% intervals over independent units. Minus: the edit improves the prediction.",
        columns=("layer", *names),
        rows=tuple((str(layer), *(found.get((layer, name), MISSING) for name in names)) for layer in layers),
        marked=tuple(n for n, layer in enumerate(layers) if layer == run.layer),
        wide=True,
    )


def _edits(run: ProbeRun) -> Table:
    """Lay out all measures of editing the selected layer, and how the other layers compare."""
    table = causal.effects(run)
    rows = table[table["layer"] == run.layer]
    found = {
        (row["intervention"], row["measure"]): causal.change(row, row["measure"]) for row in rows.to_dict("records")
    }
    measures = list(causal.measured(table))
    names = list(dict.fromkeys(rows["intervention"]))
    return Table(
        caption=f"What editing layer {run.layer} changes, against the unedited run of the same noise; a dash marks "
        "what was not measured. PSNR, SSIM, LPIPS and the colour error are of sampled views against the true ones. "
        f"Last column: whether editing layer {run.layer} raises the prediction's error more than editing another layer "
        f"does, by the 95{NBSP}% interval of the difference paired by unit, for all layers at once.",
        columns=("edit", *(causal.heading(measure) for measure in measures), f"layer {run.layer} hurts"),
        rows=tuple(
            (name, *(found.get((name, measure), MISSING) for measure in measures), causal.verdict(run, name) or MISSING)
            for name in names
        ),
        wide=True,
    )


def _worst(run: ProbeRun) -> Table:
    table = tables.worst_pairs(run)
    rows = [
        (str(row.scene), f"{row.query_view} in {row.key_view}", MISSING if np.isnan(row.rotation_deg) else
         f"{row.rotation_deg:.0f}°", percent(row.value), percent(row.same_position), number(row.count))
        for row in table.itertuples()
    ]  # fmt: skip
    return Table(
        caption=f"The {len(rows)} ordered pairs of views in which layer {run.layer} finds least, the worst first, "
        "over all timesteps.",
        columns=("scene", "views", "rotation", "precision", "same position", "matches counted"),
        rows=tuple(rows),
        texts=2,
    )


def _pairs(run: ProbeRun) -> Table:
    table = rotation.pair_counts(run)
    return Table(
        caption="What each rotation bin rests on. Measured view pairs are ordered, of the direction above, and "
        "include pairs of views outside the frozen list; matches are counted over all timesteps.",
        columns=("rotation", "listed pairs", "scenes with one", "measured view pairs", "matches counted"),
        rows=tuple(
            (bin_words(row.rotation_bin), *map(number, (row.listed, row.scenes, row.measured, row.count)))
            for row in table.rename(columns={"count": "matches"}).assign(count=table["count"]).itertuples()
        ),
    )


def _missing(run: ProbeRun) -> Table:
    rows = [(row.metric, number(row.rows), number(row.missing), number(row.count)) for row in run.missing.itertuples()]
    return Table(
        caption="Rows of the score table by metric. A missing row is one in which nothing could be counted; it is "
        "left out of every average, never taken as zero.",
        columns=("metric", "rows", "missing", "points counted"),
        rows=tuple(rows),
    )


def _truth_check(run: ProbeRun) -> Table:
    rows = [] if run.truth_check is None else list(run.truth_check.itertuples())
    return Table(
        caption="Check of the truth: SIFT matches between the views as loaded, against where the views' points are "
        "seen, or, where few pixels have a point, the epipolar lines of the cameras alone. Medians over matches, in "
        "pixels of the views; matches that move little tell little.",
        columns=("scene", "views", "matches", "moved by", "compared with", "distance", "from epipolar lines"),
        rows=tuple(
            (str(row.scene), str(row.pair), number(row.matches), _pixels(row.moved_px), str(row.kind),
             _pixels(row.median_px), _pixels(row.epipolar_px))
            for row in rows
        ),
        texts=2,
        wide=True,
    )  # fmt: skip


def _pixels(value: float) -> str:
    return MISSING if np.isnan(value) else f"{value:.1f}{NBSP}px"


# --- facts and files -------------------------------------------------------------------------------------------------


def methods(run: ProbeRun) -> tuple[tuple[str, str], ...]:
    """Return how it was measured: terms and their descriptions.

    Args:
        run: The probe run.
    """
    digests = sorted(run.scores["pair_list"].unique().astype(str))
    versions = {name: text for name, text in run.environment.items() if name not in ("commit", "machine")}
    lost = run.missing
    facts = {
        "Model": model_words(run.card),
        "Protocol": f"{run.protocol}. {PROTOCOL_WORDS.get(run.protocol, '')}".strip(),
        "Right match": f"{metric_words(run.metric)} ({run.metric})",
        "Direction": direction_words(str(run.selection["direction"])),
        "Pair list": f"{plural(len(run.pairs), 'pair')}, digest {listing(digests)}",
        "Scenes": f"{plural(run.scores['scene'].nunique(), 'scene')} of {run.settings.get('scenes', MISSING)}",
        **_scene_notes(run),
        "Independent units": units_words(run.units),
        "Intervals": INTERVALS,
        "Views": f"{run.settings.get('views', MISSING)} per scene, {run.settings.get('n_ref', MISSING)} of them "
        "references",
        "Timesteps": "none: the model takes no noise" if tables.noiseless(run) else listing(run.timesteps["timestep"]),
        "Missing": f"{number(lost['missing'].sum())} of {number(lost['rows'].sum())} rows of the score table",
        "Seed": str(run.settings.get("seed", MISSING)),
        "Versions": ", ".join(f"{name} {text}" for name, text in versions.items()),
        "Commit": str(run.environment.get("commit", MISSING)),
        "Machine": str(run.environment.get("machine", MISSING)),
    }
    return tuple(facts.items())


def _scene_notes(run: ProbeRun) -> dict[str, str]:
    """Return what was left out of real scenes, and what the check of their truth found; nothing of others."""
    titles = {"note": "Left out, and other notes on the scenes", "truth": "Check of the truth"}
    return {title: str(run.notes[name]) for name, title in titles.items() if run.notes.get(name)}


def model_words(card: dict[str, Any] | None) -> str:
    """Return what is known of a model: its licence and origin, then what its loader chose.

    Args:
        card: Of ``model.json``; None where a run has none.
    """
    if card is None:
        return MISSING
    about = card.get("about") or {}
    chosen = {name: text for name, text in card.items() if isinstance(text, str) and name != "name"}
    return "; ".join(f"{name}: {text}" for name, text in {**about, **chosen}.items())


def source(run: ProbeRun) -> str:
    """Return protocol and pair list of the run, for the line under its figures.

    Args:
        run: The probe run.
    """
    digests = listing(sorted(run.scores["pair_list"].unique().astype(str)))
    scenes = plural(run.scores["scene"].nunique(), "scene")
    return f"Protocol {run.protocol}, pair list {digests} ({plural(len(run.pairs), 'pair')}, {scenes})."


def downloads(run: ProbeRun) -> tuple[tuple[str, str], ...]:
    """Return each table that no figure carries as a CSV file: its name, and a link that holds its content.

    Args:
        run: The probe run.
    """
    frames = {
        "layers.csv": run.layers, "same_position_by_bin.csv": rotation.verdicts(run), "timesteps.csv": run.timesteps,
        "matchers.csv": tables.matchers(run), "thresholds.csv": tables.thresholds(run),
        "effects.csv": causal.effects(run), "effects_beside_selected.csv": causal.beside_selected(run),
        "effects_by_head.csv": causal.effects_by_head(run),
        "worst_pairs.csv": tables.worst_pairs(run), "pairs.csv": run.pairs, "missing.csv": run.missing,
        **({} if run.truth_check is None else {TRUTH_CHECK: run.truth_check}),
    }  # fmt: skip
    return tuple((name, csv_link(frame)) for name, frame in frames.items() if len(frame))
