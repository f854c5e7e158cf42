"""The section of a study's page on consistency inside and outside: words, a figure and a table. Pure."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.blocks import Section, Table
from analysis.study import figures
from analysis.study.claims.claim import AGAINST, NOT_SHOWN, SHOWN, judge
from analysis.study.consistency import SCOPES, correlations, points
from analysis.study.details import counts, study_chart
from analysis.study.run import StudyRun
from analysis.study.words import panel_title, title
from analysis.words import MISSING, NBSP, by_chance, listing, number, percent, plural
from probe.records import better
from probe.records.intervals import LEAST_UNITS

INSIDE_WORDS = {"supervised": "layer {}, which the study supervises", "last": "layer {}, the last one",
                "best": "the best layer of each checkpoint"}  # fmt: skip
WITHIN = ("plain", "supervised", "variants")
"""Scopes without the difference of plain and supervised runs."""
ONE_VARIANT = ("plain", "variants")
"""Scopes without any difference of variants."""
UNKNOWN = "not measured"
VERDICT_WORDS = {
    SHOWN: "higher precision goes with {better} {scopes}.",
    AGAINST: "higher precision goes with {worse} {scopes}.",
    NOT_SHOWN: "no connection with {metric} is shown {scopes}.",
    UNKNOWN: "nothing can be said {scopes}.",
}
"""Sentences on one metric, by verdict."""
TITLE = "Consistency inside and outside"


def consistency_section(run: StudyRun) -> Section | None:
    """Draw precision against the quality of samples, and list their correlations; a sentence alone of too few seeds."""
    table = points(run)
    if table.empty:
        return None
    found = correlations(table)
    if not _tested(found):
        return Section(name="consistency", title=TITLE, text=_too_few(found))
    claim, *rest = _sentences(found)
    drawn = table[(table["inside"] == table["inside"].iloc[0]) & (table["metric"] == table["metric"].iloc[0])]
    metric, inside = drawn["metric"].iloc[0], _layer_title(drawn.iloc[0])
    svg = figures.consistency(
        drawn, styles=figures.looks(run.names), inside=f"precision of {inside}",
        outside=(title(metric), panel_title(metric)), alt=_spoken(drawn, found),
    )  # fmt: skip
    caption = (
        f"Each mark is a checkpoint of a run, later ones darker: precision of {inside} against {title(metric)} of its "
        f"samples. Right: the same minus the mean over all runs at that step, so that training time drops out and what "
        f"is left are differences between runs. Seeds: {counts(run)}."
    )
    return Section(
        name="consistency",
        title=TITLE,
        claim=claim,
        text=" ".join(rest),
        charts=(study_chart(run, "consistency", svg, caption, table),),
        tables={"consistency": _table(found)},
    )


def consistency_words(run: StudyRun) -> str:
    """Return which correlations of precision and quality are shown, and which are not; empty where there are none."""
    table = points(run)
    if table.empty:
        return ""
    found = correlations(table)
    return " ".join(_sentences(found)) if _tested(found) else _too_few(found)


# --- words -----------------------------------------------------------------------------------------------------------


def _tested(found: pd.DataFrame) -> int:
    """Return how many correlations have an interval."""
    return int(found["low"].notna().sum())


def _too_few(found: pd.DataFrame) -> str:
    titles = listing(title(metric) for metric in dict.fromkeys(found["metric"]))
    return (
        f"With {plural(int(found['seeds'].max()), 'seed')} no correlation of precision with {titles} of samples is "
        f"shown, nor that there is none: an interval over seeds needs {LEAST_UNITS}."
    )


def _sentences(found: pd.DataFrame) -> list[str]:
    """Return a text per choice of a layer, the first with its numbers, and at last what chance and training time do."""
    each = [_layer_words(part, numbers=n == 0) for n, (_, part) in enumerate(found.groupby("inside", sort=False))]
    verdicts = [_verdict(row) for row in found.itertuples()]
    tested = _tested(found)
    return [*each,
        f"Of {number(tested)} correlations {verdicts.count(SHOWN)} are shown on the side of better samples and "
        f"{verdicts.count(AGAINST)} on the other, each by an interval of its own; {by_chance(tested)} would be by "
        "chance alone. Over all checkpoints training time alone could make one, and none says what causes what.",
    ]  # fmt: skip


def _layer_words(found: pd.DataFrame, *, numbers: bool) -> str:
    """Return what is shown of one choice of a layer by the first metric, and whether the others agree."""
    metric = str(found["metric"].iloc[0])
    first = found[found["metric"] == metric]
    inside = INSIDE_WORDS[found["inside"].iloc[0]].format(_whole(found["layer"].iloc[0]))
    texts = _by_verdict(first, metric, numbers=numbers)
    lead, *rest = texts
    brackets = f" (in brackets: rank correlation, 95{NBSP}% interval)" if numbers else ""
    said = [f"{_start(inside)}{brackets}: {lead}", *map(_start, rest)]
    return " ".join([*said, *_between(first), *_turned(found), *_others(found, metric)])


def _by_verdict(first: pd.DataFrame, metric: str, *, numbers: bool) -> list[str]:
    """Return a sentence per verdict that there is, with the scopes that have it."""
    names = {"better": _direction(metric, SHOWN), "worse": _direction(metric, AGAINST), "metric": title(metric)}
    texts = []
    for verdict, words in VERDICT_WORDS.items():
        rows = [row for row in first.itertuples() if _verdict(row) == verdict]
        scopes = listing(_scope(row.scope) + (f" ({_numbers(row)})" if numbers else "") for row in rows)
        texts += [words.format(**names, scopes=scopes)] if rows else []
    return texts


def _verdict(row: Any) -> str:
    return judge(row.low, row.high) if np.isfinite(row.low) else UNKNOWN


def _scope(scope: Any) -> str:
    return SCOPES[scope][0]


def _direction(metric: str, verdict: str) -> str:
    """Write what higher precision goes with: "lower match error" where that is better, and that is shown."""
    return f"{'higher' if (better(metric) > 0) == (verdict == SHOWN) else 'lower'} {title(metric)}"


def _between(first: pd.DataFrame) -> list[str]:
    """Return whether what is shown across runs may be a mere difference of variants."""
    verdict = {row.scope: _verdict(row) for row in first.itertuples()}
    clear = (SHOWN, AGAINST)
    mere = verdict["runs"] in clear and not any(verdict[scope] in clear for scope in ONE_VARIANT)
    return ["What is shown across runs could therefore be a mere difference of variants (Simpson's paradox)."] * mere


def _turned(found: pd.DataFrame) -> list[str]:
    """Return where the sign differs from that across all runs at equal steps, and by which metrics if not by all."""
    sign = found.set_index(["metric", "scope"])["value"]
    metrics, texts = list(dict.fromkeys(found["metric"])), []
    for scope in WITHIN:
        turned = [name for name in metrics if sign[(name, scope)] * sign[(name, "runs")] < 0]
        which = "" if turned == metrics else f" (by {listing(map(title, turned))})"
        texts += [f"{_scope(scope)}{which}"] if turned else []
    return [f"{_start(listing(texts))} the sign is the opposite of that across runs."] if texts else []


def _others(found: pd.DataFrame, first: str) -> list[str]:
    """Return which other metrics come to the same verdicts, and where one does not."""
    verdict = {(row.metric, row.scope): _verdict(row) for row in found.itertuples()}
    others = [name for name in dict.fromkeys(found["metric"]) if name != first]
    differing = {name: [scope for scope in SCOPES if verdict[(name, scope)] != verdict[(first, scope)]]
                 for name in others}  # fmt: skip
    same = [title(name) for name in others if not differing[name]]
    texts = [f"The verdicts by {listing(same)} are the same."] if same else []
    for name in (name for name in others if differing[name]):
        scopes = listing(f"{_scope(scope)} ({verdict[(name, scope)]})" for scope in differing[name])
        texts.append(f"By {title(name)} the verdict is another one {scopes}.")
    return texts


def _numbers(row: Any) -> str:
    """Write a correlation with its interval, or of how many seeds it is: "0.62, 0.39 to 0.84"."""
    if not np.isfinite(row.low):
        return plural(row.seeds, "seed")
    return f"{_signed(row.value)}, {_signed(row.low)} to {_signed(row.high)}"


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-", "−") if np.isfinite(value) else MISSING


def _start(words: str) -> str:
    return words[0].upper() + words[1:]


def _whole(layer: float) -> str:
    return str(int(layer)) if np.isfinite(layer) else ""


def _layer_title(row: Any) -> str:
    return f"layer {_whole(row['layer'])}" if np.isfinite(row["layer"]) else INSIDE_WORDS["best"]


def _spoken(drawn: pd.DataFrame, found: pd.DataFrame) -> str:
    """Return the picture in words: the ends of each variant's runs, and the two correlations."""
    last = drawn[drawn["step"] == drawn["step"].max()].groupby("variant", sort=False)[["precision", "value"]].mean()
    ends = "; ".join(
        f"{row.Index}: precision {percent(row.precision)}, {title(drawn['metric'].iloc[0])} {number(row.value)}"
        for row in last.itertuples()
    )
    own = found[(found["inside"] == drawn["inside"].iloc[0]) & (found["metric"] == drawn["metric"].iloc[0])]
    both = own[own["scope"].isin(["checkpoints", "runs"])]
    said = "; ".join(f"{SCOPES[row.scope][0]} {_numbers(row)}" for row in both.itertuples())
    return f"Precision against quality of samples. {said}. Means at the last step: {ends}"


# --- table -----------------------------------------------------------------------------------------------------------


def _table(found: pd.DataFrame) -> Table:
    rows = [
        (_layer_title(part.iloc[0]), title(str(metric)), *_cells(part))
        for (_, metric), part in found.groupby(["inside", "metric"], sort=False)
    ]
    sizes = found.drop_duplicates("scope").itertuples()
    counted = "; ".join(
        f"{SCOPES[row.scope][0]}: {plural(row.seeds, 'seed')}, {plural(row.runs, 'run')}, "
        f"{plural(row.checkpoints, 'checkpoint')}" for row in sizes
    )  # fmt: skip
    return Table(
        caption="Rank correlation of precision and each measure of samples, above 0 where higher precision goes with "
        f"better samples (of match error: with a lower one); in brackets its 95{NBSP}% interval, from draws of seeds "
        f"with all their runs and Student's t, from {LEAST_UNITS} seeds on. Ranks are taken over all checkpoints, or "
        "among the runs of one step, or among the runs of one variant and one step. Supervised runs are those that "
        f"are given true correspondences at the study's layer. Counted: {counted}.",
        columns=("precision of", "samples by", *(words for words, *_ in SCOPES.values())),
        rows=tuple(rows),
        texts=2,
        wide=True,
    )


def _cells(part: pd.DataFrame) -> Sequence[str]:
    each = part.set_index("scope")
    return [
        _signed(row["value"])
        + (f"\n({_signed(row['low'])} to {_signed(row['high'])})" if row["low"] == row["low"] else "")
        for row in (each.loc[scope] for scope in SCOPES)
    ]
