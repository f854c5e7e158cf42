"""The section of a study's page on how soon each variant is where the plain run ends. Pure."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from analysis.blocks import Section, Table
from analysis.study import figures, tables, words
from analysis.study.details import counts, study_chart
from analysis.study.run import StudyRun
from analysis.study.soon import CLAIM, family_words, how_soon, seed_ratios
from analysis.study.words import title
from analysis.words import NBSP


def reach_section(run: StudyRun) -> Section | None:
    """Draw and list the steps of each variant over those of plain."""
    table, order = how_soon(run), tables.ordered(run)
    if table.empty:
        return None
    named = {"variant": "who", "metric": "panel"}
    phrases = "; ".join(f"{row.variant}, {title(row.metric)}: {words.pace_words(row)}" for row in table.itertuples())
    shown = table.rename(columns=named)
    svg = figures.step_ratios(
        shown, seed_ratios(run).rename(columns=named), titles={metric: title(metric) for metric in run.metrics},
        order=order, goal=CLAIM, alt=phrases,
    )  # fmt: skip
    caption = (
        "Steps of each variant over the steps of the plain run of its seed, both to the worse of their two last "
        "values, which both reach, linear between evaluations. Black line: no lead; dashed: half the steps, as the "
        f"paper claims; grey: by how much plain runs of different seeds differ. Thick bars: 95{NBSP}% intervals over "
        "seeds; thin: those that hold together for all rows of a family (see the table); points: geometric means, "
        "filled where the thin bar "
        "excludes 1; small marks: seeds, as triangles where a run was there by its first evaluation, so that the ratio "
        f"is a bound. Seeds: {counts(run)}."
    )
    return Section(
        name="reach",
        title="How soon it reaches plain's last value",
        charts=(study_chart(run, "reach", svg, caption, shown),),
        tables={"reach": _reach_table(table, order)},
    )


def _reach_table(table: pd.DataFrame, order: Sequence[str]) -> Table:
    rows = [row for name in order for row in table[table["variant"] == name].itertuples()]
    return Table(
        caption="Share of the steps: of plain's steps, those after which a run is at the last value of the plain run "
        "of its seed, the mean over seeds; one that never is counts as 1, so that the mean is at least that (in "
        "brackets how many are). Plain itself: the same of a plain run against the last value of another seed's, which "
        "is what a variant without effect gets. Steps over plain's: both runs of a seed to the worse of their last "
        "values, so that a variant without effect gets 1; its spread counts for no less than that between plain runs. "
        f"Bounds (≤, ≥, ? on both sides): a run was there by its first evaluation. Joint: 95{NBSP}% together "
        f"for {family_words(table)}; the verdict rests on it.",
        columns=("variant", "measure", "verdict", "share of the steps", "plain itself", "steps over plain's",
                 f"95{NBSP}% interval", f"joint 95{NBSP}% interval"),
        rows=tuple(_reach_row(row) for row in rows),
        marked=tuple(n for n, row in enumerate(rows) if row.verdict in ("sooner", "later")),
        texts=3,
        wide=True,
    )  # fmt: skip


def _reach_row(row: Any) -> tuple[str, ...]:
    return (row.variant, title(row.metric), row.verdict, words.share_text(row), words.null_text(row),
            words.ratio_text(row), words.ends_text(row.low, row.high),
            words.ends_text(row.joint_low, row.joint_high))  # fmt: skip
