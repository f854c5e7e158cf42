"""The best trivial baseline of each metric, which every image number stands beside. Pure."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.words import MISSING, NBSP, amount
from probe.records import TRIVIAL, better, trivial_column

MARK = "†"
BEST = "best trivial baseline"
MARK_WORDS = f"{MARK}: does not beat the {BEST}, the better of a copy of the nearest reference and its mean colour"


class Trivial(NamedTuple):
    """A trivial baseline and its value by a metric."""

    method: str
    value: float


def best_trivial(metric: str, value_of: Callable[[str], Any]) -> Trivial | None:
    """Return the trivial baseline that is best by a metric; None where none was measured, or neither way is better.

    Args:
        metric: Its name.
        value_of: The value of a method by this metric, NaN where it is unknown.
    """
    known = [Trivial(method, value) for method in TRIVIAL if np.isfinite(value := float(value_of(method)))]
    return max(known, key=lambda one: better(metric) * one.value) if known and better(metric) else None


def best_in_row(metric: str, row: pd.Series | dict[Any, Any]) -> Trivial | None:
    """Return the best trivial baseline of an evaluation.

    Args:
        metric: Its name.
        row: Of an evaluation log, or of anything with its columns: "copy_psnr".
    """
    return best_trivial(metric, lambda method: row.get(trivial_column(method, metric), np.nan))


def best_text(metric: str, best: Trivial | None) -> str:
    """Write the best trivial baseline: "12.3 dB (mean colour)"; a dash where there is none.

    Args:
        metric: Its name.
        best: From :func:`best_trivial`.
    """
    return MISSING if best is None else f"{amount(metric, best.value)} ({best.method})"


def beats(metric: str, value: Any, best: Trivial | None) -> bool:
    """Return whether a value is better than the best trivial baseline; True where there is none to beat.

    Args:
        metric: Its name.
        value: The model's.
        best: From :func:`best_trivial`.
    """
    return best is None or not np.isfinite(value) or better(metric) * (float(value) - best.value) > 0


def marked(text: str, metric: str, value: Any, best: Trivial | None) -> str:
    """Put the mark behind a value that does not beat the best trivial baseline.

    Args:
        text: The value as text.
        metric: Its name.
        value: The model's.
        best: From :func:`best_trivial`.
    """
    return text if beats(metric, value, best) else f"{text}{NBSP}{MARK}"
