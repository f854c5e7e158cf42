"""Two runs -> the page of what changed, and the table that the terminal shows. Pure."""

from typing import Any

import numpy as np
import pandas as pd

from analysis.blocks import Chart, Section, SectionPage, Table, chart, csv_link, present
from analysis.comparing import run as compare
from analysis.figures import Drawing
from analysis.probing.cells import source
from analysis.probing.tables import ProbeRun
from analysis.study import figures
from analysis.words import MISSING, NBSP, bin_words, listing, metric_words, number, percent, plural, points
from probe.records import PRECISION, describe
from probe.records.intervals import LEAST_UNITS

WORST = 12


def probe_comparison(a: ProbeRun, b: ProbeRun, names: tuple[str, str], rebuild: str) -> SectionPage:
    """Put together the page of two probe runs.

    Args:
        a: The first run.
        b: The second one.
        names: What they are called.
        rebuild: The command that makes the page again.

    Raises:
        RunError: If they were not measured alike.
    """
    compare.check_probes(a, b)
    table = compare.compare_layers(a, b)
    layer, chosen = _layer(a, table), _chosen(a, b, table)
    rotation, scenes = compare.compare_bins(a, b, layer), compare.paired_scenes(a, b)
    frames = {"layers.csv": table, "rotation.csv": rotation, "scenes.csv": scenes}
    return SectionPage(
        kind="comparison",
        title=f"{names[0]} against {names[1]}",
        subtitle=f"What changed from {names[0]} ({a.model}) to {names[1]} ({b.model}), layer by layer, paired by "
        "independent unit.",
        answer=tuple(_answer(a, b, table, chosen, names)),
        facts=tuple(_facts(table, a.metric, chosen, names)),
        caveats=tuple(_caveats(table, a)),
        lead=_layers(a, b, table, names),
        sections=present(
            [
                _metrics(a, table),
                _rotation(rotation, layer, names),
                _worst_scenes(scenes, a.metric, layer, names),
                settings_section(a, b, names),
            ]
        ),
        settings=(),
        environment=(("protocol", source(a)),),
        command="",
        rebuild=rebuild,
        downloads=tuple((f"compare_{name}", csv_link(frame)) for name, frame in frames.items()),
    )


def _layer(run: ProbeRun, table: pd.DataFrame) -> int:
    """Take the first run's selected layer where both have it, else the one that changed most."""
    own = table[table["metric"] == run.metric]
    return run.layer if run.layer in set(own["layer"]) else int(own.loc[own["difference"].abs().idxmax(), "layer"])


def _chosen(a: ProbeRun, b: ProbeRun, table: pd.DataFrame) -> list[int]:
    """Return the layers that are named first: the first run's selected layer, then the second's if it is another."""
    both = set(table.loc[table["metric"] == a.metric, "layer"])
    return list(dict.fromkeys([_layer(a, table), *({b.layer} & both)]))


def _answer(a: ProbeRun, b: ProbeRun, table: pd.DataFrame, chosen: list[int], names: tuple[str, str]) -> list[str]:
    own = table[table["metric"] == a.metric]
    sentences = [_change_words(own[own["layer"] == layer].iloc[0], a.metric, names) for layer in chosen]
    for verdict in ("better", "worse"):
        layers = [str(n) for n in own.loc[own["joint"] == verdict, "layer"]]
        sentences += (
            [f"With all layers taken together, clearly {verdict} at layer{'s' * (len(layers) > 1)} {listing(layers)}."]
            if layers
            else []
        )
    if not own["joint"].isin(["better", "worse"]).any():
        sentences.append("With all layers taken together, no layer's change is clear.")
    same = (
        f"Both choose layer {a.layer}."
        if a.layer == b.layer
        else f"The chosen layer moves from {a.layer} to {b.layer}."
    )
    return [*sentences, same]


def _change_words(row: pd.Series, metric: str, names: tuple[str, str]) -> str:
    """Return what changed at a layer, in a sentence."""
    clear = {
        "better": f"{names[1]} is clearly better at",
        "worse": f"{names[1]} is clearly worse at",
        "too few units": f"With {plural(int(row['units']), 'independent unit')} nothing can be told at",
    }.get(row["joint"], "Nothing separates the two at")
    return (
        f"{clear} layer {int(row['layer'])}: {percent(row['a'])} in {names[0]}, {percent(row['b'])} in {names[1]}, "
        f"{points(row['difference'])} points ({_joint_words(row)}{plural(int(row['scenes']), 'scene')}; right: "
        f"{metric_words(metric)})."
    )


def _joint_words(row: pd.Series) -> str:
    if not np.isfinite(row["joint_low"]):
        return ""
    ends = _ends(PRECISION, row["joint_low"], row["joint_high"])
    return f"95{NBSP}% interval {ends}, for all layers at once, over {plural(int(row['units']), 'independent unit')}; "


def _facts(table: pd.DataFrame, metric: str, chosen: list[int], names: tuple[str, str]) -> list[tuple[str, str, str]]:
    own = table[table["metric"] == metric].set_index("layer")
    clear = int(table["joint"].isin(["better", "worse", "changed"]).sum())
    changes = [
        (
            f"points at layer {layer}: {percent(own['a'][layer])} in {names[0]}, {percent(own['b'][layer])} in "
            f"{names[1]}",
            points(own["difference"][layer]),
            str(own["joint"][layer]),
        )
        for layer in chosen
    ]
    told = "by intervals that hold for all layers of a metric"
    return [*changes, ("comparisons that are clear", f"{clear} of {len(table)}", told)]


def _caveats(table: pd.DataFrame, run: ProbeRun) -> list[str]:
    units = int(table["units"].max())
    metrics = table["metric"].nunique()
    sentences = [
        f"Joint intervals allow for the layers of one metric, not for the {plural(metrics, 'metric')}: of these about "
        f"{max(1, round(metrics / 20))} would seem to change somewhere by luck alone."
    ]
    if units < LEAST_UNITS:
        sentences.append(f"{plural(units, 'independent unit')}: too few for an interval, which needs {LEAST_UNITS}.")
    return [
        *sentences,
        "One run each: what another seed of training, or other noise, would have given is not in the intervals.",
        "The layers that are named first were chosen by these runs, on these same scenes.",
    ]


def _text(metric: str, value: Any) -> str:
    return percent(value) if describe(metric).share else number(value)


def _change(metric: str, value: Any) -> str:
    if not np.isfinite(value):
        return MISSING
    return points(value) if describe(metric).share else f"{value:+.3g}".replace("-", "−")


def _ends(metric: str, low: Any, high: Any) -> str:
    return MISSING if not np.isfinite(low) else f"{_change(metric, low)} to {_change(metric, high)}"


def _chart(run: ProbeRun, name: str, svg: Drawing, caption: str, table: pd.DataFrame) -> Chart:
    return chart(name, svg, caption, source=source(run), table=table, file=f"compare_{name}.csv")


def _layers(run: ProbeRun, other: ProbeRun, table: pd.DataFrame, names: tuple[str, str]) -> Section:
    own = table[table["metric"] == run.metric]
    rows = [
        (
            f"{row.layer}",
            row.grid,
            _text(row.metric, row.a),
            _text(row.metric, row.b),
            _change(row.metric, row.difference),
            _ends(row.metric, row.low, row.high),
            row.verdict,
            _ends(row.metric, row.joint_low, row.joint_high),
            row.joint,
            *map(number, (row.scenes, row.units, row.count)),
            row.layer_name,
        )
        for row in own.itertuples()
    ]
    listed = Table(
        caption=f"Precision of both runs ({metric_words(run.metric)}) and its change in points, paired by independent "
        f"unit. Joint: the interval holds for all layers at once with 95{NBSP}%.",
        columns=(
            "layer",
            "grid",
            *names,
            "change",
            f"95{NBSP}% interval",
            "taken alone",
            "joint interval",
            "all together",
            "scenes",
            "independent units",
            "matches counted",
            "module",
        ),
        rows=tuple(rows),
        marked=tuple(n for n, layer in enumerate(own["layer"]) if layer == run.layer),
        texts=2,
        wide=True,
    )
    charts = (_profiles((run, other), own, names),)
    return Section(name="layers", title="Layer by layer", charts=charts, tables={"layers": listed})


def _profiles(runs: tuple[ProbeRun, ProbeRun], own: pd.DataFrame, names: tuple[str, str]) -> Chart:
    """Draw the precision of both runs, layer by layer."""
    columns = {"precision_low": "low", "precision_high": "high"}
    parts = [
        own[["layer", which]].merge(run.layers[["layer", *columns]]).rename(columns={which: "value", **columns})
        for which, run in zip("ab", runs, strict=True)
    ]
    parts = [part.assign(who=name) for name, part in zip(names, parts, strict=True)]
    drawn = pd.concat(parts, ignore_index=True)
    alt = f"Precision per 3D layer of both runs, {names[0]} first. " + "; ".join(
        f"layer {row.layer}: {percent(row.a)} and {percent(row.b)}" for row in own.itertuples()
    )
    frame = ("precision per 3D layer", "layer", drawn.assign(x=drawn["layer"].astype(str)))
    svg = figures.columns_beside([frame], name="profiles", percent=(True,), alt=alt)
    caption = (
        f"Share of matches with {metric_words(runs[0].metric)}. Bars: 95{NBSP}% intervals of each run over independent "
        "units, where there are enough; whether the two differ is told by their paired difference, in the table. Grids "
        "differ between layers, so compare the runs at one layer, not layers along a line."
    )
    return _chart(runs[0], "profiles", svg, caption, drawn)


def _metrics(run: ProbeRun, table: pd.DataFrame) -> Section:
    labels = {int(layer): f"layer {layer}" for layer in sorted(table["layer"].unique())}
    shown = table.rename(columns={"metric": "panel", "difference": "value"}).assign(who=table["layer"].map(labels))
    order = [run.metric, *(name for name in dict.fromkeys(table["metric"]) if name != run.metric)]
    phrases = "; ".join(
        f"layer {row.layer}: {_change(row.metric, row.difference)}, {row.verdict}"
        for row in table[table["metric"] == run.metric].itertuples()
    )
    svg = figures.forest(
        shown,
        titles={str(m): str(m).replace("_", " ") for m in order},
        order=list(labels.values()),
        name="changes",
        alt=f"Change of every metric per layer. {run.metric}: {phrases}",
        percent=[str(name) for name in order if describe(str(name)).share],
    )
    caption = (
        f"Change of every metric at every layer; bars: 95{NBSP}% intervals over independent units, of the "
        "paired difference. Filled green: clearly better; filled vermilion: clearly worse; filled black: "
        "clearly changed, where neither way is better (entropy); open: not separable. Cross-entropy is better when "
        f"lower. {plural(int(table['scenes'].max()), 'scene')}; {number(table['count'].min())} to "
        f"{number(table['count'].max())} values counted per point."
    )
    return Section(name="metrics", title="Every metric", charts=(_chart(run, "changes", svg, caption, table),))


def _rotation(table: pd.DataFrame, layer: int, names: tuple[str, str]) -> Section:
    rows = tuple(
        (
            bin_words(row.rotation_bin),
            percent(row.a),
            percent(row.b),
            points(row.difference),
            _ends(PRECISION, row.low, row.high),
            row.verdict,
            *map(number, (row.scenes, row.units, row.count)),
        )
        for row in table.itertuples()
    )
    listed = Table(
        caption=f"Precision of layer {layer} by rotation between the cameras, and its change in points, paired by "
        "independent unit; the intervals hold for all bins at once.",
        columns=(
            "rotation",
            *names,
            "change",
            f"95{NBSP}% interval",
            "verdict",
            "scenes",
            "independent units",
            "matches counted",
        ),
        rows=rows,
    )
    return Section(name="rotation", title="By rotation", tables={"rotation": listed})


def _worst_scenes(table: pd.DataFrame, metric: str, layer: int, names: tuple[str, str]) -> Section:
    rows = table[(table["metric"] == metric) & (table["layer"] == layer)].sort_values("difference", kind="stable")
    lost = int((rows["difference"] < 0).sum())
    listed = Table(
        caption=f"Precision of layer {layer}; the change in points.",
        columns=("scene", *names, "change", "matches counted"),
        rows=tuple(
            (str(row.scene), percent(row.value_a), percent(row.value_b), points(row.difference), number(row.count))
            for row in rows.head(WORST).itertuples()
        ),
    )
    some = f"the {WORST} that lost most" if len(rows) > WORST else "all of them, what lost most"
    text = f"{lost} of {plural(len(rows), 'scene')} got worse; {some} first."
    return Section(name="worst", title="Worst cases first", text=text, tables={"worst": listed})


def settings_section(a: Any, b: Any, names: tuple[str, str]) -> Section:
    """List the settings in which two runs differ."""
    rows = compare.changed_settings(a, b)
    listed = Table(
        caption="The settings in which the two runs differ.", columns=("setting", *names), rows=tuple(rows), texts=3
    )
    text = "" if rows else "The two runs have equal settings."
    return Section(
        name="settings", title="What was set otherwise", text=text, tables={"settings": listed} if rows else {}
    )
