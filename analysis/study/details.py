"""Sections of a study's page beside its main ones: layers, readout gap, worst cases, cost. Pure."""

import pandas as pd

from analysis.blocks import Chart, Section, Table, chart
from analysis.figures import Drawing
from analysis.study import figures, tables, words
from analysis.study.run import StudyRun
from analysis.study.seeds import LEAST_SEEDS
from analysis.study.words import best_words, difference_text, title, value_text
from analysis.trivial import BEST, MARK_WORDS, marked
from analysis.words import MISSING, NBSP, listing, number, percent
from probe.records.names import PLAIN

WORST = 12
"""Rows of the table of the worst cases at most."""


def study_chart(run: StudyRun, name: str, svg: Drawing, caption: str, table: pd.DataFrame) -> Chart:
    """Put a figure of a study together with its table and what it rests on."""
    return chart(name, svg, caption, source=words.source(run), table=table, file=f"study_{name}.csv")


def bands(run: StudyRun) -> str:
    """Return what the bands of a study's curves are."""
    if max(run.seeds.values()) < LEAST_SEEDS:
        return f"no bands, since no variant has {LEAST_SEEDS} seeds yet."
    return f"bands: 95{NBSP}% intervals over seeds (Student's t), where there are {LEAST_SEEDS} or more."


def counts(run: StudyRun) -> str:
    """Return the number of seeds of each variant, as a list in words."""
    return listing(f"{name} {count}" for name, count in run.seeds.items())


def gain_text(found: pd.DataFrame, variant: str, metric: str) -> str:
    """Write what a variant gains over plain by a metric, with its interval; a dash where that is not known."""
    if (variant, metric) not in found.index:
        return MISSING
    row = found.loc[(variant, metric)]
    text = difference_text(metric, row["value"])
    if pd.isna(row["low"]):
        return text
    return f"{text}\n({difference_text(metric, row['low'])} to {difference_text(metric, row['high'])})"


def layers_section(run: StudyRun) -> Section | None:
    """Compare supervising the selected layer with supervising another one."""
    role = tables.roles(run)
    first = next((name for name in run.names if role[name] == "supervised"), None)
    others = [name for name in run.names if role[name] == "another layer"]
    if first is None or not others or PLAIN not in run.names:
        return None
    found = tables.differences(run).set_index(["variant", "metric"])
    layer = run.variants.set_index("variant")["layer"] if "layer" in run.variants else {}
    names = [PLAIN, first, *others]
    probed = tables.probed(run)
    table = Table(
        caption="The same supervision at different layers: the last value minus plain's of the same seed "
        f"(95{NBSP}% interval over seeds).",
        columns=("variant", "layer", *map(title, run.metrics)),
        rows=tuple(
            (name, str(layer.get(name, MISSING)), *(gain_text(found, name, m) for m in run.metrics)) for name in names
        ),
        texts=2,
        wide=True,
    )
    shown = probed[probed["variant"].isin(names)].rename(columns={"variant": "who", "layer": "x"})
    if shown.empty:
        return Section(name="layers", title="Which layer is supervised", tables={"layers": table})
    svg = figures.columns_beside(
        [("precision of every 3D layer at the last step", "layer", shown.assign(x=shown["x"].astype(str)))],
        name="layers", percent=(True,), alt=_layers_spoken(run, shown),
    )  # fmt: skip
    caption = (
        "What supervising one layer does to all of them: precision of every 3D layer at the last step, by variant. "
        f"Bars: 95{NBSP}% intervals over seeds, where there are {LEAST_SEEDS}. Grids differ between layers, so "
        f"compare lines at one layer, not layers along a line. Seeds: {counts(run)}."
    )
    return Section(
        name="layers",
        title="Which layer is supervised",
        charts=(study_chart(run, "layers", svg, caption, shown),),
        tables={"layers": table},
    )


def _layers_spoken(run: StudyRun, shown: pd.DataFrame) -> str:
    """Return the layer of highest precision of each variant, and what the layer that it supervises has."""
    layer = run.variants.set_index("variant")["layer"].to_dict() if "layer" in run.variants else {}
    texts = []
    for who, rows in shown.groupby("who", sort=False):
        values = rows.set_index(rows["x"].astype(str))["value"]
        own, top = str(layer.get(who)), values.idxmax()
        more = f", its supervised layer {own} {percent(values[own])}" if own in values and own != top else ""
        texts.append(f"{who}: layer {top} highest, {percent(values[top])}{more}")
    return f"Precision of every layer, by which layer was supervised. {'; '.join(texts)}"


def readout_section(run: StudyRun) -> Section | None:
    """Show what the loss reads out beside what the attention finds, variant by variant."""
    table = tables.readout(run)
    if table.empty:
        return None
    panels = {str(name): str(name) for name in dict.fromkeys(table["panel"])}
    styles = figures.looks(["attention", "readout"])
    last = table[table["step"] == table["step"].max()]
    phrases = "; ".join(f"{row.panel}, {row.who}: {value_text('readout', row.value)}" for row in last.itertuples())
    svg = figures.curves(table, titles=panels, styles=styles, name="readout", percent=list(panels), alt=phrases)
    caption = (
        "On equal queries: how often the loss's own readout of the supervised layer (after its mixing of the heads) "
        "points at the corresponding point, and how often the attention that the model uses does. Where the readout "
        "runs ahead, the loss is satisfied by its own weights while the attention stays unaligned. Lines: means over "
        f"seeds; {bands(run)} Seeds: {counts(run)}."
    )
    ends = last.pivot_table(index="panel", columns="who", values="value", sort=False)
    rows = [
        (str(panel), value_text("readout", row.get("readout")), value_text("readout", row.get("attention")),
         difference_text("readout", row.get("readout") - row.get("attention")))
        for panel, row in ends.iterrows()
    ]  # fmt: skip
    gaps = Table(
        caption=f"At step {number(last['step'].max())}, means over seeds; the gap in points.",
        columns=("variant", "readout", "attention", "gap"),
        rows=tuple(rows),
    )
    return Section(
        name="readout",
        title="Readout gap",
        charts=(study_chart(run, "readout", svg, caption, table),),
        tables={"readout": gaps},
    )


def worst_section(run: StudyRun) -> Section | None:
    """List the runs that lose most against plain, in units of the spread of all differences of their metric."""
    table = tables.seed_differences(run)
    if table.empty:
        return None
    scale = table.groupby("metric")["gain"].transform(lambda gain: (gain**2).mean() ** 0.5)
    worst = table.assign(relative=table["gain"] / scale)
    worst = worst[worst["gain"] < 0].sort_values("relative", kind="stable").head(WORST)
    rows = [
        (row.variant, str(row.seed), title(row.metric),
         marked(value_text(row.metric, row.value), row.metric, row.value, tables.best_of(run, row.metric)),
         value_text(row.metric, row.base), difference_text(row.metric, row.difference),
         best_words(row.metric, tables.best_of(run, row.metric)))
        for row in worst.itertuples()
    ]  # fmt: skip
    lost, every = int((table["gain"] < 0).sum()), len(table)
    text = (
        f"{number(lost)} of {number(every)} comparisons of one run and one metric with the plain run of its seed are "
        "losses. The largest stand first, each measured by the spread of its metric's differences."
    )
    listed = Table(
        caption=f"Runs that end worse than plain. {MARK_WORDS}.",
        columns=("variant", "seed", "metric", "value", "plain", "difference", BEST),
        rows=tuple(rows),
        texts=3,
    )
    return Section(name="worst", title="Worst cases first", text=text, tables={"worst": listed} if rows else {})


def cost_section(run: StudyRun) -> Section | None:
    """Show the seconds of a step by variant, the slowest first in the table."""
    table = run.seconds.rename(columns={"variant": "who", "seconds": "value"})
    if table.empty:
        return None
    means = table.groupby("who")["value"].mean()
    base = means.get(PLAIN)
    order = [name for name in run.names if name in means]
    phrases = "; ".join(f"{name}: {means[name]:.2f} s" for name in order)
    svg = figures.dots(table, order=order, xlabel="seconds per step (median of a run)", name="cost", alt=phrases)
    caption = (
        "Strokes: the median step of each run; points: their mean. Runs that shared the machine with others took "
        "longer, so read small differences as noise. Memory is not recorded by the trainer."
    )
    rows = tuple(
        (name, f"{means[name]:.2f}{NBSP}s", MISSING if base is None else f"{means[name] / base:.2f}",
         number(table.loc[table["who"] == name, "count"].sum()))
        for name in sorted(order, key=lambda name: -means[name])
    )  # fmt: skip
    listed = Table(
        caption="The slowest first.",
        columns=("variant", "seconds per step", "times plain", "steps logged"),
        rows=rows,
    )
    return Section(
        name="cost", title="Cost", charts=(study_chart(run, "cost", svg, caption, table),), tables={"cost": listed}
    )
