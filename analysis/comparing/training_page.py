"""Two training runs -> the page of what changed at equal steps. Pure."""

import numpy as np
import pandas as pd

from analysis.blocks import Section, SectionPage, Table, chart, csv_link, present
from analysis.comparing import run as compare
from analysis.comparing.page import settings_section
from analysis.study import figures
from analysis.study.words import difference_text, panel_title, title, value_text
from analysis.training import words
from analysis.training.run import TrainingRun
from analysis.words import NBSP, interval, listing, number, percent, plural, points


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
    frames = {"evaluation.csv": table, "precision.csv": probed}
    return SectionPage(
        kind="comparison",
        title=f"{names[0]} against {names[1]}",
        subtitle=f"What changed from {names[0]} to {names[1]}, at equal steps on equal held-out scenes.",
        answer=tuple(_training_answer(table, probed, names)),
        facts=tuple(
            (
                f"{title(row.metric)}, difference",
                difference_text(row.metric, row.difference),
                f"{value_text(row.metric, row.a)} and {value_text(row.metric, row.b)}",
            )
            for row in table.itertuples()
        ),
        caveats=_TRAINING_CAVEATS,
        sections=present([_evaluations(a, b, table, names), _probed(probed, names), settings_section(a, b, names)]),
        settings=(),
        environment=(),
        command="",
        rebuild=rebuild,
        downloads=tuple((f"compare_{name}", csv_link(frame)) for name, frame in frames.items() if len(frame)),
    )


_TRAINING_CAVEATS = (
    "One run each: whether a difference is more than luck of the seed cannot be told from two runs. python -m "
    "train.study repeats both with several seeds and gives intervals.",
    "Held-out values are means without intervals; evaluations of one run follow each other closely, so being ahead at "
    "many of them is no independent evidence.",
)


def _training_answer(table: pd.DataFrame, probed: pd.DataFrame, names: tuple[str, str]) -> list[str]:
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
        sentences.append(f"Precision whose intervals over scenes lie apart: {listing(phrases)}.")
    elif len(probed):
        sentences.append("No layer's precision differs by more than its intervals over scenes.")
    return sentences


def _evaluations(a: TrainingRun, b: TrainingRun, table: pd.DataFrame, names: tuple[str, str]) -> Section:
    lines = [
        pd.DataFrame({"panel": metric, "who": name, "step": run.evaluation["step"], "value": run.evaluation[metric]})
        for metric in table["metric"]
        for name, run in zip(names, (a, b), strict=True)
    ]
    curves = pd.concat(lines, ignore_index=True).dropna().assign(low=np.nan, high=np.nan)
    titles = {str(metric): panel_title(str(metric)) for metric in table["metric"]}
    phrases = "; ".join(
        f"{title(r.metric)}: {value_text(r.metric, r.a)} and {value_text(r.metric, r.b)}" for r in table.itertuples()
    )
    svg = figures.curves(curves, titles=titles, styles=figures.looks(names), name="evaluations", alt=phrases)
    caption = (
        f"Both runs on the same held-out scenes, as far as each has come: {names[0]} has "
        f"{plural(len(a.evaluation), 'evaluation')}, "
        f"{names[1]} {len(b.evaluation)}. No intervals: one run each, and means over the scenes only."
    )
    drawn = chart("evaluations", svg, caption, source=words.source(a), table=curves, file="compare_evaluations.csv")
    listed = Table(
        caption="The last step that both were evaluated at; ahead: of the evaluations that both have, at how many the "
        "second run is better.",
        columns=("measure", "step", *names, "difference", "ahead at"),
        rows=tuple(
            (
                panel_title(r.metric),
                number(r.step),
                value_text(r.metric, r.a),
                value_text(r.metric, r.b),
                difference_text(r.metric, r.difference),
                f"{r.ahead} of {r.evaluations}",
            )
            for r in table.itertuples()
        ),
    )
    return Section(name="evaluations", title="Held-out scenes", charts=(drawn,), tables={"evaluations": listed})


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
