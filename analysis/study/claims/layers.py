"""Which layers find corresponding points: before training on several views, after it, and with supervision."""

from typing import Any

import numpy as np
import pandas as pd

from analysis.blocks import Chart, Section
from analysis.blocks import chart as with_table
from analysis.figures import Drawing
from analysis.study.claims import figures
from analysis.study.claims.claim import NOT_SHOWN, SHOWN, Claim, judge, stands, together
from analysis.study.claims.figures import Panel
from analysis.study.claims.parts import Parts, Probed
from analysis.study.claims.units import in_bins, jointly, units_of
from analysis.study.run import StudyRun
from analysis.words import NBSP, direction_words, listing, metric_words, percent, plural, points
from probe.records import MODEL, NO_LAYER
from probe.records.intervals import join_columns, ratios
from probe.records.names import BASE, PLAIN

MODELS = (BASE, PLAIN, "cameo", "mean")
"""Whose final weights are probed, in order; base is what every run starts from."""


def probed_models(parts: Parts) -> dict[str, Probed]:
    """Return the probes on the study's own scenes, in order."""
    return {name: parts.probes[name] for name in MODELS if name in parts.probes}


def supervised_models(parts: Parts) -> list[str]:
    """Return those of the probed models that were supervised."""
    return [name for name in probed_models(parts) if name not in (BASE, PLAIN)]


def layer_of(run: StudyRun, parts: Parts, name: str) -> int:
    """Return the layer that speaks for a model: the supervised one, or the one that its probe selects.

    Args:
        run: The study.
        parts: Its probes.
        name: Of the model.
    """
    probed = parts.probes[name]
    rows = run.variants[run.variants["variant"] == name]
    text = str(rows["layer"].iloc[0]) if len(rows) and "layer" in rows else ""
    supervised = int(text) if text.isdecimal() else probed.layer
    return supervised if name not in (BASE, PLAIN) and supervised in set(probed.layers["layer"]) else probed.layer


def probe_chart(parts: Parts, name: str, svg: Drawing, caption: str, table: pd.DataFrame) -> Chart:
    """Put a figure of probes together with its table and what it rests on."""
    first = next(iter(parts.probes.values())).selection
    seen = "; ".join(f"{name}: {plural(len(scenes(probed)), 'scene')}" for name, probed in probed_models(parts).items()
                     if len(scenes(probed)))  # fmt: skip
    source = (
        f"Protocol {first['protocol']}: {direction_words(str(first['direction']))}, right is "
        f"{metric_words(str(first['metric']))}. Final weights of seed 0 of each variant, so intervals are over scenes "
        f"and not over seeds.{f' {seen}.' if seen else ''}"
    )
    return with_table(name, svg, caption, source=source, table=table, file=f"study_{name}.csv")


def scenes(probed: Probed) -> list[str]:
    """Return the independent units of a probe, as far as its sums were kept."""
    return units_of([probed.sums]) if len(probed.sums) else []


def profile_claim(run: StudyRun, parts: Parts) -> Claim | None:
    """Draw the precision of every layer of each probed model, with its lead over its strongest null."""
    models = probed_models(parts)
    if PLAIN not in models:
        return None
    table = pd.concat([_profile(name, probed) for name, probed in models.items()], ignore_index=True)
    alt = "Precision per 3D layer. " + "; ".join(
        f"{row.who}, layer {row.x}: {percent(row.value)}" for row in table.itertuples()
    )
    svg = figures.grouped(
        [Panel(title="precision per 3D layer", xlabel="layer", table=table)],
        styles={name: figures.style_of(name) for name in models}, name="claim-profile", alt=alt,
    )  # fmt: skip
    caption = (
        "Precision of each layer; dashed strokes: its strongest null (a uniform guess, the same position, or the same "
        f"layer with all images grey). Bars: the 95{NBSP}% interval of the lead over that null, for all layers at "
        "once, set about the precision; marks are filled where the whole bar lies above the stroke, for every null."
    )
    gains = _gains(run, parts)
    plain, best = models[PLAIN], _best(models[PLAIN])
    some = SHOWN if plain.layers["above_null"].any() else NOT_SHOWN
    return Claim(
        verdict=together([some, *(judge(row["low"], row["high"]) for row in gains)]),
        number=f"layer {best['layer']} of {PLAIN}: {_lead(best)}",
        section=Section(
            name="profile",
            title="Some layers find correspondence",
            claim=f"{_above(models)}{gain_words(gains)}",
            text=_of_best(best),
            charts=(probe_chart(parts, "claim-profile", svg, caption, table),),
        ),
    )


def _profile(name: str, probed: Probed) -> pd.DataFrame:
    layers = probed.layers
    low, high = (layers.get(column, pd.Series(np.nan, index=layers.index)) for column in ("lead_low", "lead_high"))
    null = layers["precision"] - layers["lead"]
    return pd.DataFrame(
        {"x": layers["layer"].astype(str), "who": name, "value": layers["precision"], "low": null + low,
         "high": null + high, "null": null, "clear": layers["above_null"].astype(bool), "of": layers["null"]}
    )  # fmt: skip


def _best(probed: Probed) -> pd.Series:
    """Return the row of the layer that leads its strongest null most surely, or, if none does, of the selected one."""
    above = probed.layers[probed.layers["above_null"].astype(bool)]
    return above.loc[above["lead"].idxmax()] if len(above) else probed.at(probed.layer)


def _above(models: dict[str, Probed]) -> str:
    """Write how many layers of each model are above every null."""
    texts = []
    for name, probed in models.items():
        layers = probed.layers.loc[probed.layers["above_null"].astype(bool), "layer"]
        texts.append(f"{name} {len(layers)} of {len(probed.layers)}" + (f" ({listing(layers)})" if len(layers) else ""))
    return f"3D layers above every null, by intervals for all layers of a model at once: {'; '.join(texts)}."


def _of_best(row: pd.Series) -> str:
    word = "leads most" if row["above_null"] else "scores highest and is not shown to be above it"
    return (
        f"Of {PLAIN}, layer {row['layer']} {word}: {percent(row['precision'])} against "
        f"{percent(row['precision'] - row['lead'])} ({row['null']}), {_lead(row)}, on "
        f"{plural(int(row['scenes']), 'scene')}."
    )


def _lead(row: pd.Series) -> str:
    low, high = row.get("lead_low", np.nan), row.get("lead_high", np.nan)
    spread = f" (95{NBSP}% interval {points(low)} to {points(high)})" if np.isfinite(low) else ""
    return f"a lead of {points(row['lead'])} points{spread}"


def comparable(parts: Parts) -> list[str]:
    """Return the supervised models that were probed on the scenes of plain, with their sums."""
    plain = parts.probes.get(PLAIN)
    if plain is None or plain.sums.empty:
        return []
    same = plain.selection.get("pair_list")
    return [name for name in supervised_models(parts)
            if parts.probes[name].selection.get("pair_list") == same and len(parts.probes[name].sums)]  # fmt: skip


def _gains(run: StudyRun, parts: Parts) -> list[dict[str, Any]]:
    """Subtract plain's precision from each supervised model's at its layer: ends for all layers and models at once."""
    names = comparable(parts)
    if not names:
        return []
    probes = [parts.probes[name] for name in (PLAIN, *names)]
    both = sorted(set.intersection(*(set(probed.sums["layer"]) - {NO_LAYER} for probed in probes)))
    units = units_of([probed.sums for probed in probes])
    plain, *others = (ratios(*_by_layer(probed.sums, both, units)) for probed in probes)
    ahead = jointly(join_columns([other - plain for other in others]))
    layers = [layer_of(run, parts, name) for name in names]
    return [{"who": name, "where": f"layer {layer}", "than": PLAIN, **ahead.iloc[n * len(both) + both.index(layer)]}
            for n, (name, layer) in enumerate(zip(names, layers, strict=True)) if layer in both]  # fmt: skip


def _by_layer(sums: pd.DataFrame, layers: list[int], units: list[str]) -> tuple[np.ndarray, np.ndarray]:
    bins = sorted(sums.loc[sums["layer"] != NO_LAYER, "rotation_bin"].unique())
    each = [in_bins(sums, MODEL, layer, bins, units) for layer in layers]
    return np.stack([hits.sum(1) for hits, _ in each], axis=1), np.stack([count.sum(1) for _, count in each], axis=1)


def gain_words(gains: list[dict[str, Any]]) -> str:
    """Write which supervised models are above plain, on the same scenes, where it is judged.

    Args:
        gains: Rows with who, where, than, and the difference with its joint interval.
    """
    texts = [f"{row['who']} {stands(row, row['than'])} ({_points(row)})" for row in gains]
    where = listing(dict.fromkeys(row["where"] for row in gains))
    return f" At {where}, on the same scenes: {'; '.join(texts)}." if texts else ""


def _points(row: dict[str, Any]) -> str:
    if not np.isfinite(row["low"]):
        return f"{points(row['value'])} points; too few scenes for an interval"
    return f"{points(row['value'])} points, 95{NBSP}% interval {points(row['low'])} to {points(row['high'])} jointly"
