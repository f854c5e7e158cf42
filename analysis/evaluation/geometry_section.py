"""The section of an evaluation's page on the geometry of views: words, a figure, tables. Pure."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.blocks import Section, Table, chart
from analysis.evaluation import geometry, words
from analysis.evaluation.figures import against_corruptions
from analysis.evaluation.geometry import WORSE
from analysis.evaluation.geometry_words import LABELS, title, trust_words
from analysis.evaluation.run import Evaluation
from analysis.words import MISSING, number, percent
from probe.records import MODEL, TRUTH, better, describe
from probe.records.names import GEOMETRY_METHODS, GEOMETRY_SCORES, SIFT_MATCHES, TSED_METRICS

MARK = "‡"
DRAWN = tuple(name for name in GEOMETRY_SCORES if name not in (TSED_METRICS[0], TSED_METRICS[-1]))
"""Scores of the figure: TSED at its middle limit alone."""


def geometry_section(run: Evaluation) -> Section | None:
    """Write which scores can be trusted, draw them, and list them; None where geometry was not measured."""
    if run.geometry is None:
        return None
    means, found = geometry.scores(run.geometry), geometry.trust(run.geometry)
    claim, rest = trust_words(found)
    table = drawn(means, found)
    known = set(table.loc[table["value"].notna(), "metric"])
    titles = {name: _heading(name) for name in DRAWN if name in known}
    caption = (
        "Means with 95\u00a0% intervals over independent units; marks tell the numbers of references apart. "
        "A score that can be trusted has all four corruptions on the worse side of the true views, which the interval "
        "of the paired differences says (geometry-trust.csv), not that of the means. Pixels are those of an image "
        "whose shorter side has 256. Errors are means over the pairs that have a value, shares over all. "
        f"{METHOD_WORDS}"
    )
    alt = f"{claim} {rest}"
    drawings = [against_corruptions(table, titles=titles, labels=LABELS, alt=alt)] if titles else []
    return Section(
        name="geometry",
        title="Geometry of the views, and whether its scores can be trusted",
        claim=claim,
        text=rest,
        charts=tuple(
            chart("geometry", svg, caption, source=words.source(run), table=table, file="geometry-scores.csv")
            for svg in drawings
        ),
        tables={f"geometry-{n_ref}": _table(means, found, n_ref) for n_ref in run.references},
    )


METHOD_WORDS = (
    "SED is the median distance of SIFT matches with a reference from their epipolar lines, TSED the share of pairs "
    "with at least 10 matches whose SED lies below a limit. The camera is found anew from the matches (essential "
    "matrix); it is registered where 15 matches agree, and within 15° where rotation and direction are. The "
    "reprojection error is that of the matches' triangulated points."
)
"""What the scores are."""


def drawn(means: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """Return the means that the figure draws, with the verdict of each corruption.

    Args:
        means: Of :func:`analysis.evaluation.geometry.scores`.
        found: Of :func:`analysis.evaluation.geometry.trust`.
    """
    keys = ["n_ref", "metric", "method"]
    table = means.merge(found[[*keys, "verdict"]], on=keys, how="left")
    return table.assign(verdict=table["verdict"].astype(object).fillna(""))


def _heading(metric: str) -> str:
    unit = describe(metric).unit
    return f"{title(metric)}{f' ({unit})' if unit else ''}\n{'higher' if better(metric) > 0 else 'lower'} is better"


# --- table -----------------------------------------------------------------------------------------------------------


def _table(means: pd.DataFrame, found: pd.DataFrame, n_ref: int) -> Table:
    here = means[means["n_ref"] == n_ref].set_index(["metric", "method"])
    checked = found[found["n_ref"] == n_ref].set_index(["metric", "method"])["verdict"].to_dict()
    known = geometry.trusted(found[found["n_ref"] == n_ref])
    methods = [name for name in GEOMETRY_METHODS if (SIFT_MATCHES, name) in here.index]
    rows = tuple(
        (title(name), *(_cell(here, checked, name, method) for method in methods), _yes(known.get(name), name))
        for name in (SIFT_MATCHES, *GEOMETRY_SCORES)
    )
    return Table(
        caption=f"With {words.reference_words(n_ref)}: means, with 95\u00a0% intervals over independent units for true "
        f"and generated views; in brackets the pairs with a value, where not all have one. {MARK}: not shown to score "
        "worse than the true views.",
        columns=("score", *(LABELS[method] for method in methods), "trusted"),
        rows=rows,
        wide=True,
    )


def _yes(known: bool | None, metric: str) -> str:
    if metric == SIFT_MATCHES:
        return MISSING
    return "no value" if known is None else "yes" if known else "no"


def _cell(here: pd.DataFrame, checked: dict[Any, str], metric: str, method: str) -> str:
    if (metric, method) not in here.index:
        return MISSING
    row = here.loc[(metric, method)]
    mark = MARK if checked.get((metric, method), WORSE) != WORSE else ""
    known = f"[{number(row['known'])} of {number(row['rows'])}]" if row["known"] < row["rows"] else ""
    spread = _spread(metric, (row["low"], row["high"])) if method in (TRUTH, MODEL) else ""
    return " ".join(filter(None, (_amount(metric, row["value"]), spread, known, mark)))


def _amount(metric: str, value: float) -> str:
    if describe(metric).share:
        return percent(value)
    return MISSING if not np.isfinite(value) else f"{value:.{describe(metric).digits}f}"


def _spread(metric: str, ends: Sequence[float]) -> str:
    if not np.isfinite(ends).all():
        return ""
    scale, digits = (100, 1) if describe(metric).share else (1, describe(metric).digits)
    return "({:.{d}f}–{:.{d}f})".format(*(scale * end for end in ends), d=digits).replace("(-", "(−")
