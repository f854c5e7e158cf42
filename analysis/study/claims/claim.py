"""A published claim, what was found of it, and how both are worded: the verdict follows the interval."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.blocks import Section
from analysis.study.run import StudyRun
from analysis.study.words import held_out, signed_words, spread_words
from analysis.words import listing, plural
from probe.records import HIGH_NOISE, MATCH_ERROR, PSNR

SHOWN, PART, NOT_SHOWN, AGAINST, ABSENT = "shown", "shown in part", "not shown", "against", "not measured"
"""Verdicts: the whole interval on the claim's side; so for some of several; neither; on the other side; no data."""
PANELS = (PSNR, MATCH_ERROR, HIGH_NOISE)
"""Metrics that are drawn where variants are compared; the first that was measured decides, whatever it says."""
GROUPS = {"better": "ahead of {}", "worse": "behind {}", "not separable": "not separated from {}",
          "too few seeds": "with too few seeds to be compared with {}"}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What was found of a published claim.

    Attributes:
        verdict: One of "shown", "shown in part", "not shown", "against".
        number: What decides, with its interval.
        section: The figure, below the sentence that says it.
    """

    verdict: str
    number: str
    section: Section


def judge(low: float, high: float) -> str:
    """Return the verdict on a claim that something is above zero.

    Args:
        low: Lower end of its interval; NaN where there is none.
        high: Upper end.
    """
    return SHOWN if low > 0 else AGAINST if high < 0 else NOT_SHOWN


def together(verdicts: Iterable[str]) -> str:
    """Return the verdict on several parts of a claim: part of it where only some are shown."""
    each = list(verdicts)
    if not each:
        return NOT_SHOWN
    if all(verdict == SHOWN for verdict in each):
        return SHOWN
    return PART if SHOWN in each or PART in each else AGAINST if AGAINST in each else NOT_SHOWN


def panels(run: StudyRun) -> list[str]:
    """Return the metrics that are drawn where variants are compared."""
    return [metric for metric in PANELS if metric in run.metrics] or run.metrics[:1]


def compare_words(rows: pd.DataFrame, base: str) -> str:
    """Write which variants are ahead of another one, and which are behind it, each with its interval.

    Args:
        rows: Of one metric of :func:`analysis.study.tables.differences`.
        base: The variant that they are compared with.
    """
    groups = []
    for verdict, phrase in GROUPS.items():
        named = [f"{row.variant} ({interval_words(row)})" for row in rows.itertuples() if row.verdict == verdict]
        groups += [f"{phrase.format(base)}: {listing(named)}"] if named else []
    return f"{'; '.join(groups)}."


def stands(row: Any, than: str) -> str:
    """Write whether something is above another: "is above plain", "is not shown to differ from plain".

    Args:
        row: With low and high of the difference.
        than: What it is compared with.
    """
    words = {SHOWN: "is above", NOT_SHOWN: "is not shown to differ from", AGAINST: "is below"}
    return f"{words[judge(row['low'], row['high'])]} {than}"


def interval_words(row: Any) -> str:
    """Write a difference with its interval: "+0.31 dB, 95 % interval +0.10 to +0.52"."""
    return signed_words(row) + (f", {spread_words(row)}" if np.isfinite(row.low) else "")


def rests(run: StudyRun, seeds: Sequence[int] | pd.Series, compared: int = 1) -> str:
    """Write what a sentence rests on: how many seeds, whether intervals hold jointly, which scenes.

    Args:
        run: The study.
        seeds: Numbers of seeds.
        compared: How many intervals hold together.
    """
    few, many = int(min(seeds)), int(max(seeds))
    count = plural(many, "seed") if few == many else f"{few} to {many} seeds"
    joint = f", intervals jointly for all {compared}" if compared > 1 else ""
    return f"Paired by seed ({count}{joint}), on {held_out(run)}."
