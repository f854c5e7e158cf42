"""Two training runs -> the page of what changed at equal steps. Pure."""

from typing import Any

import numpy as np
import pandas as pd

from analysis.blocks import Section, SectionPage, Table, chart, csv_link, present
from analysis.comparing import run as compare
from analysis.comparing.page import settings_section
from analysis.study import figures
from analysis.study.words import best_words, difference_text, panel_title, title, value_text
from analysis.training import words
from analysis.training.run import TrainingRun
from analysis.trivial import BEST, MARK_WORDS, Trivial, beats, best_in_row, marked
from analysis.words import METHOD_LABELS, NBSP, interval, listing, number, percent, plural, points
from probe.records import TRIVIAL, trivial_column


def training_comparison(a: TrainingRun, b: TrainingRun, names: tuple[str, str], rebuild: str) -> SectionPage:
    """Put together the page of two training runs.

    Args:
        a: The first run.
        b: The second one.
        names: What they are called.
        rebuild: The command that makes the page again.

    Raises:
        RunError: If they were not evaluated alike.
    """
    compare.check_trainings(a, b)
    table, probed = compare.compare_evaluations(a, b), compare.compare_probes_of_trainings(a, b)
    trivial = _best(a, table)
    frames = {"evaluation.csv": table, "precision.csv": probed}
    return SectionPage(
        kind="comparison",
        title=f"{names[0]} against {names[1]}",
        subtitle=f"What changed from {names[0]} to {names[1]}, at equal steps on equal held-out scenes.",
        answer=tuple(_training_answer(table, probed, names, trivial)),
        facts=tuple(
            (
                f"{title(row.metric)}, difference",
                difference_text(row.metric, row.difference),
                _both(row, trivial[row.metric]),
            )
            for row in table.itertuples()
        ),
        caveats=_TRAINING_CAVEATS,
        lead=_evaluations(a, b, table, names),
        sections=present([_probed(probed, names), settings_section(a, b, names)]),
        settings=(),
        environment=(),
        command="",
        rebuild=rebuild,
        downloads=tuple((f"compare_{name}", csv_link(frame)) for name, frame in frames.items() if len(frame)),
    )


def _both(row: Any, best: Trivial | None) -> str:
    """Write both values and the best trivial baseline."""
    a, b = (marked(value_text(row.metric, value), row.metric, value, best) for value in (row.a, row.b))
    return f"{a} and {b}" + ("" if best is None else f"; {BEST} {best_words(row.metric, best)}")


_TRAINING_CAVEATS = (
    "One run each: whether a difference is more than luck of the seed cannot be told from two runs. python -m "
    "train.study repeats both with several seeds and gives intervals.",
    "Held-out values are means without intervals; evaluations of one run follow each other closely, so being ahead at "
    "many of them is no independent evidence.",
)


def _training_answer(
    table: pd.DataFrame, probed: pd.DataFrame, names: tuple[str, str], trivial: dict[str, Trivial | None]
) -> list[str]:
    ahead = [title(row.metric) for row in table.itertuples() if row.gain > 0]
    behind = [title(row.metric) for row in table.itertuples() if row.gain < 0]
    parts = [f"ahead of {names[0]} by {listing(ahead)}"] if ahead else []
    parts += [f"behind {names[0]} by {listing(behind)}"] if behind else []
    place = " and ".join(parts) or f"where {names[0]} is"
    sentences = [
        f"At step {number(table['step'].max())} {names[1]} is {place}; with one run each, none of it is shown to be "
        "significant."
    ]
    clear = probed[probed["verdict"] != "not separable"]
    phrases = [f"layer {row.layer} {points(row.difference)} points ({row.verdict})" for row in clear.itertuples()]
    if phrases:
        sentences.append(f"Precision whose intervals lie apart: {listing(phrases)}.")
    elif len(probed):
        sentences.append("No layer's precision differs by more than its intervals.")
    lost = [title(row.metric) for row in table.itertuples() if not _beaten(row, trivial[row.metric])]
    if lost:
        sentences.append(f"By {listing(lost)} neither run beats the {BEST}.")
    return sentences


def _beaten(row: Any, best: Trivial | None) -> bool:
    """Return whether one of the runs beats the best trivial baseline, or there is none."""
    return any(beats(row.metric, value, best) for value in (row.a, row.b))


def _evaluations(a: TrainingRun, b: TrainingRun, table: pd.DataFrame, names: tuple[str, str]) -> Section:
    lines = [
        pd.DataFrame({"panel": metric, "who": name, "step": run.evaluation["step"], "value": run.evaluation[metric]})
        for metric in table["metric"]
        for name, run in zip(names, (a, b), strict=True)
    ]
    lines += [
        pd.DataFrame({"panel": metric, "who": METHOD_LABELS[method], "step": a.evaluation["step"], "value": values})
        for metric in table["metric"]
        for method in TRIVIAL
        if (values := a.evaluation.get(trivial_column(method, str(metric)))) is not None
    ]
    curves = pd.concat(lines, ignore_index=True).dropna().assign(low=np.nan, high=np.nan)
    titles = {str(metric): panel_title(str(metric)) for metric in table["metric"]}
    phrases = f"Both runs over steps, {names[0]} first. At the end: " + "; ".join(
        f"{title(r.metric)}: {value_text(r.metric, r.a)} and {value_text(r.metric, r.b)}" for r in table.itertuples()
    )
    svg = figures.curves(curves, titles=titles, styles=figures.looks(names), name="evaluations", alt=phrases)
    caption = (
        f"Both runs on the same held-out scenes, as far as each has come: {names[0]} has "
        f"{plural(len(a.evaluation), 'evaluation')}, "
        f"{names[1]} {len(b.evaluation)}. Lines across are trivial baselines, the same for "
        "both. No intervals: one run each, and means over the scenes only."
    )
    drawn = chart("evaluations", svg, caption, source=words.source(a), table=curves, file="compare_evaluations.csv")
    trivial = _best(a, table)
    listed = Table(
        caption="The last step that both were evaluated at; ahead: of the evaluations that both have, at how many the "
        f"second run is better. {MARK_WORDS}; both runs have the same, since they have the same held-out scenes.",
        columns=("measure", "step", *names, "difference", "ahead at", BEST),
        rows=tuple(_evaluation_row(r, trivial[r.metric]) for r in table.itertuples()),
    )
    return Section(name="evaluations", title="Held-out scenes", charts=(drawn,), tables={"evaluations": listed})


def _evaluation_row(row: Any, best: Trivial | None) -> tuple[str, ...]:
    values = (marked(value_text(row.metric, value), row.metric, value, best) for value in (row.a, row.b))
    return (panel_title(row.metric), number(row.step), *values, difference_text(row.metric, row.difference),
            f"{row.ahead} of {row.evaluations}", best_words(row.metric, best))  # fmt: skip


def _best(run: TrainingRun, table: pd.DataFrame) -> dict[str, Trivial | None]:
    """Return the best trivial baseline of each measure, at the last step that both runs were evaluated at."""
    rows = run.evaluation.set_index("step")
    steps = zip(table["metric"], table["step"], strict=True)
    return {metric: best_in_row(metric, rows.loc[step]) for metric, step in steps}


def _probed(table: pd.DataFrame, names: tuple[str, str]) -> Section | None:
    if table.empty:
        return None
    listed = Table(
        caption=f"Precision of every 3D layer at step {number(table['step'].max())}, probed on the same scenes by "
        "both; the change in points is called clear only where the two intervals lie apart.",
        columns=(
            "layer",
            "grid",
            names[0],
            f"95{NBSP}% interval",
            names[1],
            f"95{NBSP}% interval",
            "change",
            "verdict",
        ),
        rows=tuple(
            (
                str(r.layer),
                r.grid,
                percent(r.a),
                interval(r.a_low, r.a_high),
                percent(r.b),
                interval(r.b_low, r.b_high),
                points(r.difference),
                r.verdict,
            )
            for r in table.itertuples()
        ),
        texts=2,
    )
    return Section(name="precision", title="Correspondence", tables={"precision": listed})
