"""A training run -> all that its page shows, and its line in the index: finished text, tables, figures. Pure."""

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis import figures
from analysis.blocks import Chart, Section, SectionPage, Table, chart, csv_link, picture_first, present
from analysis.training import figures as training_figures
from analysis.training import run as training
from analysis.training import words
from analysis.training.run import TrainingRun
from analysis.training.words import loss_text
from analysis.trivial import BEST, MARK_WORDS, best_in_row, best_text
from analysis.words import (
    METHOD_LABELS,
    MISSING,
    NBSP,
    ONE_STEP_WORDS,
    amount,
    command,
    interval,
    listing,
    number,
    percent,
    points,
    rebuild,
)
from analysis.worst_cases import worst_table
from probe.records import (
    ATTENTION,
    HIGH_NOISE,
    IMAGE_METRICS,
    LOSS,
    LOSSES,
    METRICS,
    MODEL,
    PSNR,
    PSNR_ONE_STEP,
    READOUT,
    TRIVIAL,
    layer_column,
    trivial_column,
)

PROGRAM = "train.cameo"
NOT_FLAGS = ("layers",)
"""Settings that the command works out by itself."""
LISTED, LINE = 12, 84
"""Rows of the table of evaluations at most; characters of a line of the command."""
PANELS = {
    LOSS: "mean error of the prediction",
    HIGH_NOISE: "error at high noise (t = 900)",
    "objective": "added objective, unweighted",
    "gradient_norm": "norm of the gradients, before clipping",
    "seconds": "seconds per step",
}


@dataclass(frozen=True, kw_only=True)
class TrainingEntry:
    """A training run's line in the index, as finished text; ``link`` is relative to the index."""

    link: str
    name: str
    model: str
    scenes: str
    supervised: str
    progress: str
    loss: str
    psnr: str
    precision: str
    gap: str


def make_training_page(run: TrainingRun) -> SectionPage:
    """Put together what the page of a training run shows.

    Args:
        run: The training run.
    """
    made = [
        maker(run) for maker in (_samples, _quality, _worst, _precision, _readout, _tradeoff, _losses, _cost, _rows)
    ]
    lead, sections = picture_first(present(made))
    settings = {**run.settings, "steps": run.settings.get("steps", run.step)}
    return SectionPage(
        kind="training run",
        title=f"{run.settings.get('model', 'unnamed model')} trained on {words.scenes_words(run)}",
        subtitle=f"{words.progress(run)}; supervised: {words.supervision(run)}.",
        answer=tuple(sentence for sentence in words.answer(run) if sentence),
        facts=tuple(_facts(run)),
        caveats=tuple(words.caveats(run)),
        lead=lead,
        sections=sections,
        settings=_texts(run.settings),
        environment=_texts(run.environment),
        command=_packed(command({key: settings[key] for key in settings if key not in NOT_FLAGS}, PROGRAM)),
        rebuild=rebuild(run.settings, run.name),
        downloads=_downloads(run),
    )


def training_entry(run: TrainingRun, link: str) -> TrainingEntry:
    """Write a training run's line in the index.

    Args:
        run: The training run.
        link: To its page, relative to the index.
    """
    loss, psnr = training.last_row(run, LOSS), training.last_row(run, PSNR)
    probed, gaps = _probed(run), words.readout_gaps(run)
    return TrainingEntry(
        link=link,
        name=run.name,
        model=str(run.settings.get("model", MISSING)),
        scenes=str(run.settings.get("scenes", MISSING)),
        supervised=words.supervision(run),
        progress=words.progress(run).removesuffix(" iterations"),
        loss=MISSING if loss is None else loss_text(loss["loss"]),
        psnr=MISSING if psnr is None else words.with_trivial(PSNR, psnr),
        precision=MISSING if probed is None else f"{percent(probed['value'])} ({probed['layer']:.0f})",
        gap=", ".join(points(readout - attention) for readout, attention in gaps.values()) or MISSING,
    )  # fmt: skip


def _texts(facts: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((str(name).replace("_", " "), listing(value) if isinstance(value, list) else str(value))
                 for name, value in facts.items())  # fmt: skip


def _packed(command: str) -> str:
    """Put as many flags on a line as it holds."""
    lines = [""]
    for part in command.split(" \\\n  "):
        if len(lines[-1]) + len(part) > LINE:
            lines.append("")
        lines[-1] = f"{lines[-1]} {part}".strip()
    return " \\\n  ".join(lines)


# --- facts -----------------------------------------------------------------------------------------------------------


def _facts(run: TrainingRun) -> list[tuple[str, str, str]]:
    pace = f"{number(run.metrics['seconds'].median())} s each" if "seconds" in run.metrics else ""
    facts = [("iterations", number(run.step), pace)]
    if (row := training.last_row(run, LOSS)) is not None:
        noise = row.get(HIGH_NOISE, np.nan)
        facts.append(
            ("held-out loss", loss_text(row["loss"]), f"at t = 900: {loss_text(noise)}" if noise == noise else "")
        )
    facts += [_quality_fact(run, name) for name in training.measured(run)]
    if (probed := _probed(run)) is not None:
        name = f"{'precision' if run.supervised else 'best precision'}, layer {probed['layer']:.0f}"
        facts.append((name, percent(probed["value"]), f"uniform chance {percent(probed['chance'])}"))
    for layer, (readout, attention) in words.readout_gaps(run).items():
        both = f"readout {percent(readout)}, attention {percent(attention)}"
        facts.append((f"readout gap in points, layer {layer}", points(readout - attention), both))
    return facts


def _quality_fact(run: TrainingRun, name: str) -> tuple[str, str, str]:
    row = training.last_row(run, name)
    assert row is not None
    return (METRICS[name].title, words.with_mark(name, row), words.beside(name, row).strip("()"))


def _probed(run: TrainingRun) -> pd.Series | None:
    """Return the last probe of the layer that stands out."""
    layers = training.shown_layers(run)
    if run.emergence is None or not layers:
        return None
    table = run.emergence[run.emergence["layer"].isin(layers)]
    last = table[table["step"] == table["step"].max()].dropna(subset=["value"])
    return None if last.empty else last.loc[last["value"].idxmax()]


# --- sections --------------------------------------------------------------------------------------------------------


def _panels(table: pd.DataFrame, titles: dict[str, str]) -> dict[str, str]:
    """Keep the panels through which a line can be drawn."""
    steps = table.groupby("panel")["step"].nunique()
    return {panel: title for panel, title in titles.items() if steps.get(panel, 0) > 1}


def _spoken(table: pd.DataFrame, titles: dict[str, str]) -> str:
    """Return the last value of each line, as the figure's alternative text; of single steps where nothing else is."""
    drawn = table[table["panel"].isin(titles)]
    alone = drawn.groupby("panel")["who"].transform("nunique") == 1
    lines = drawn[alone | (drawn["who"] != training_figures.LOGGED)].groupby(["panel", "who"], sort=False).tail(1)
    return "; ".join(
        f"{titles[row.panel]}, {row.who}: {number(row.value)} at iteration {number(row.step)}"
        for row in lines.itertuples()
    )


def _step_charts(
    run: TrainingRun, name: str, table: pd.DataFrame, titles: dict[str, str], caption: str, **how: Any
) -> tuple[Chart, ...]:
    """Draw the panels that a line goes through, if there are any."""
    titles = _panels(table, titles)
    if not titles:
        return ()
    alt = f"{name.capitalize()} over iterations. {_spoken(table, titles)}"
    svg = training_figures.step_panels(table, titles=titles, name=name, alt=alt, **how)
    return (chart(name, svg, caption, source=words.source(run), table=table),)


def _quality(run: TrainingRun) -> Section | None:
    if not training.measured(run):
        return None
    caption = (
        "Blue: generated views of held-out scenes against the true ones. The lines across are trivial baselines: a "
        "copy of the nearest reference view, and that view's mean colour. Where blue is not on the better side of "
        "the better one, the model has not been shown to use its cameras. Match error: difference of colour to the "
        "references at true matches."
    )
    caption += f" {ONE_STEP_WORDS}" if PSNR_ONE_STEP in training.measured(run) else ""
    titles = {name: METRICS[name].heading for name in IMAGE_METRICS}
    charts = _step_charts(run, "quality", training.quality(run), titles, caption)
    return Section(name="quality", title="Image quality", charts=charts, tables={"quality": _against(run)})


def _against(run: TrainingRun) -> Table:
    names = training.measured(run)
    rows = {name: row for name in names if (row := training.last_row(run, name)) is not None}
    steps = sorted({int(row["step"]) for row in rows.values()})
    return Table(
        caption=f"The last values, at iteration {listing(map(number, steps))}, beside trivial baselines, on the same "
        f"scenes. {MARK_WORDS}.",
        columns=("method", *(METRICS[name].heading for name in names)),
        rows=(
            (METHOD_LABELS[MODEL], *(words.with_mark(name, row) for name, row in rows.items())),
            (BEST, *(best_text(name, best_in_row(name, row)) for name, row in rows.items())),
            *((METHOD_LABELS[method], *(amount(name, row.get(trivial_column(method, name)))
                                        for name, row in rows.items())) for method in TRIVIAL),
        ),
        marked=(0,),
    )  # fmt: skip


def _worst(run: TrainingRun) -> Section | None:
    if run.worst is None:
        return None
    row = training.last_row(run, PSNR)
    when = "the last evaluation" if row is None else f"the last evaluation, iteration {number(row['step'])}"
    text = f"Held-out views at {when}, the lowest PSNR first; the pictures below are labelled with the scenes' names."
    return Section(name="worst", title="Worst cases first", text=text, tables={"worst": worst_table(run.worst)})


def _samples(run: TrainingRun) -> Section | None:
    if run.samples is None:
        return None
    picture = "data:image/png;base64," + base64.b64encode(run.samples).decode()
    row = training.last_row(run, PSNR)
    when = "the last evaluation" if row is None else f"the last evaluation, iteration {number(row['step'])}"
    text = f"Held-out scenes at {when}, as the trainer drew them: the same scenes each time, not chosen by quality."
    return Section(name="samples", title="Samples", picture=picture, text=text)


def _precision(run: TrainingRun) -> Section | None:
    if run.emergence is None:
        return None
    return Section(
        name="precision", title="Correspondence", charts=_emergence_chart(run), tables={"precision": _layers(run)}
    )


def _emergence_chart(run: TrainingRun) -> tuple[Chart, ...]:
    table, layers = run.emergence, training.shown_layers(run)
    if table is None or table["step"].nunique() < 2:
        return ()
    caption = words.emergence_caption(run, table, layers)
    last = table[(table["step"] == table["step"].max()) & table["layer"].isin(layers)]
    phrases = "; ".join(f"layer {row.layer}: {percent(row.value)}" for row in last.itertuples())
    svg = figures.emergence_curve(table, highlighted=layers, alt=f"Precision over training iterations; {phrases}")
    return (chart("emergence", svg, caption, source=words.probe_source(table), table=table),)


def _layers(run: TrainingRun) -> Table:
    table = run.emergence
    assert table is not None
    last = table[table["step"] == table["step"].max()]
    rows = [
        (
            f"{row.layer}{' supervised' if row.layer in run.supervised else ''}",
            row.grid,
            percent(row.value),
            interval(row.low, row.high),
            percent(row.chance),
            row.layer_name,
        )
        for row in last.itertuples()
    ]
    return Table(
        caption=f"Every 3D layer at the last probe, iteration {number(table['step'].max())}.",
        columns=("layer", "grid", "precision", f"95{NBSP}% interval", "uniform chance", "module"),
        rows=tuple(rows),
        marked=tuple(n for n, layer in enumerate(last["layer"]) if layer in run.supervised),
        texts=2,
    )


def _readout(run: TrainingRun) -> Section | None:
    caption = (
        "On the same queries: how often the logits that the loss reads out (after its mixing of the heads) point at "
        "the corresponding point, and how often the attention itself does, averaged over heads as everywhere on this "
        "page. A wide gap means that the loss is satisfied by its own weights, while the attention that the model "
        "uses stays unaligned. These are other queries than the probe's, so its precision may differ."
    )
    titles = {str(layer): words.layer_words(run, [layer]) for layer in run.supervised}
    charts = _step_charts(run, "readout", training.readouts(run), titles, caption, percent=True)
    return Section(name="readout", title="Readout gap", charts=charts) if charts else None


def _tradeoff(run: TrainingRun) -> Section | None:
    table = training.tradeoff(run)
    if table["step"].nunique() < 2:
        return None
    row = training.last_row(run, PSNR)
    assert row is not None
    values = {METHOD_LABELS[method]: row.get(trivial_column(method, PSNR), np.nan) for method in TRIVIAL}
    lines = {who: value for who, value in values.items() if np.isfinite(value)}
    caption = (
        "One point per checkpoint, joined in the order of training; the numbers at the ends are iterations. Up and to "
        "the right: images get better as attention finds the corresponding points. Within one run both grow with "
        "time, so this alone does not show that one causes the other."
    )
    ends = table.sort_values("step").groupby("who").tail(1)
    phrases = "; ".join(f"{end.who}: {percent(end.precision)}, {end.quality:.1f} dB" for end in ends.itertuples())
    svg = training_figures.trajectory(table, lines=lines, ylabel="PSNR (dB)", alt=f"PSNR against precision; {phrases}")
    drawn = chart("tradeoff", svg, caption, source=words.source(run), table=table)
    return Section(name="tradeoff", title="Precision against quality", charts=(drawn,))


def _losses(run: TrainingRun) -> Section | None:
    caption = (
        "Grey: each logged step, on its own scenes and timesteps; black: its running mean; blue: held-out scenes at "
        "fixed timesteps, with averaged weights. Training draws its timesteps as the settings say and held-out scenes "
        "are measured evenly over t, so compare their slopes, not their heights. The first steps may lie above the "
        "frame."
    )
    charts = _step_charts(run, "loss", training.losses(run), PANELS, caption)
    return Section(name="loss", title="Loss", charts=charts) if charts else None


def _cost(run: TrainingRun) -> Section | None:
    caption = (
        "Grey: each logged step; black: its running mean. Sudden jumps of the norm mark batches that upset the "
        "training; seconds also show what else the machine was doing. The highest 2 in 100 may lie above the frame."
    )
    charts = _step_charts(run, "cost", training.cost(run), PANELS, caption, height=220)
    return Section(name="cost", title="Gradients and time", charts=charts) if charts else None


def _rows(run: TrainingRun) -> Section | None:
    table = run.evaluation
    if table.empty:
        return None
    shown = table.iloc[np.unique(np.linspace(0, len(table) - 1, min(LISTED, len(table))).round().astype(int))]
    some = f"{len(shown)} of {number(len(table))} evaluations, evenly spread"
    columns = {name: title for name, title in _columns(run).items() if name in table and table[name].notna().any()}
    written = Table(
        caption=f"{some if len(shown) < len(table) else 'All evaluations'}; evaluation.csv below has every column. In "
        f"brackets the {BEST} on the same scenes. {MARK_WORDS}.",
        columns=("iteration", *columns.values()),
        rows=tuple((number(row["step"]), *(_cell(name, row) for name in columns)) for row in shown.to_dict("records")),
        texts=0,
        wide=True,
    )
    return Section(name="evaluations", title="Evaluations", tables={"evaluations": written})


def _columns(run: TrainingRun) -> dict[str, str]:
    both = [(kind, layer) for layer in run.supervised for kind in (READOUT, ATTENTION)]
    return {
        LOSS: "held-out loss",
        HIGH_NOISE: "at t = 900",
        **{name: METRICS[name].heading for name in IMAGE_METRICS},
        **{layer_column(kind, layer): f"{kind}, layer {layer}" for kind, layer in both},
    }


def _cell(name: str, row: Any) -> str:
    value = row[name]
    if name in IMAGE_METRICS:
        return words.with_trivial(name, row) if np.isfinite(value) else MISSING
    return loss_text(value) if name in LOSSES else percent(value)


def _downloads(run: TrainingRun) -> tuple[tuple[str, str], ...]:
    frames = {"metrics.csv": run.metrics, "evaluation.csv": run.evaluation, "emergence.csv": run.emergence,
              "worst.csv": run.worst}  # fmt: skip
    return tuple((name, csv_link(frame)) for name, frame in frames.items() if frame is not None and len(frame))
