"""95 % intervals: the one bootstrap over scenes, and the one Student's t over seeds.

In arrays columns are layers and rows scenes; what is unknown is NaN and left out. The resamples depend on the number of
scenes alone, so equal values have equal intervals whatever stands beside them in a table.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
import pandas as pd
from scipy.stats import t as student

from probe.records.table import scene_values

RESAMPLES = 1000
LEVEL = 0.95
TAILS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)


# --- over scenes -----------------------------------------------------------------------------------------------------


@cache
def resamples(scenes: int) -> np.ndarray:
    """Draw scenes with replacement, [resamples, scenes]: always the same for a number of scenes."""
    picks = np.random.default_rng(0).integers(0, scenes, (RESAMPLES, scenes))
    picks.flags.writeable = False
    return picks


def draws(value: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """Resample scenes; return the mean over the limit's mean, NaN where there are fewer than two scenes.

    Args:
        value: [scenes, layers].
        limit: What the mean is divided by, of the same shape; ones for the mean itself.

    Returns:
        [resamples, layers].
    """
    if len(value) < 2:
        return np.full((1, value.shape[1]), np.nan)
    picks = resamples(len(value))
    return ratio(mean(value[picks]), mean(limit[picks]))


def summarise(scores: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Average over scenes, with a 95 % interval by bootstrap over scenes.

    Args:
        scores: Rows of the score table.
        by: Columns that stay apart.

    Returns:
        Columns ``by``, value, low, high, scenes, count. The interval is NaN for fewer than two scenes. Groups in which
        nothing was counted are absent.
    """
    values = scene_values(scores, by)
    groups = values.groupby(list(by), observed=True, sort=True) if len(values) else ()
    rows = [(*key, *_average(group["value"].to_numpy()), int(group["count"].sum())) for key, group in groups]
    return pd.DataFrame(rows, columns=[*by, "value", "low", "high", "scenes", "count"])


def _average(sample: np.ndarray) -> tuple[float, float, float, int]:
    """Return the mean, the ends of its interval, and the number of scenes."""
    size = len(sample)
    low, high = np.quantile(sample[resamples(size)].mean(1), TAILS) if size > 1 else (np.nan, np.nan)
    return float(sample.mean()), float(low), float(high), size


# --- over seeds ------------------------------------------------------------------------------------------------------


def half_width(deviation: np.ndarray | pd.Series | float, count: np.ndarray | pd.Series | float) -> np.ndarray:
    r"""Return half of the 95 % interval of a mean, by Student's t: :math:`t_{0.975, n - 1} s / \sqrt n`.

    Args:
        deviation: Standard deviation of the sample.
        count: Size of the sample; NaN where there are too few for an interval.
    """
    size = np.asarray(count, dtype=float)
    return student.ppf(TAILS[1], size - 1) * np.asarray(deviation, dtype=float) / np.sqrt(size)


# --- arrays with unknown values --------------------------------------------------------------------------------------


def ratio(value: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """Divide; NaN where the limit is zero or unknown: nothing can be right on such a grid."""
    return np.divide(value, limit, out=np.full(value.shape, np.nan), where=limit > 0)


def mean(values: np.ndarray) -> np.ndarray:
    """Average over scenes that were counted; NaN where none was."""
    known = ~np.isnan(values)
    total, count = np.where(known, values, 0).sum(-2), known.sum(-2)
    return ratio(total, count)


def quantile(drawn: np.ndarray, share: float) -> np.ndarray:
    """Return a quantile of each column's known draws; NaN where a column has none."""
    known = ~np.isnan(drawn)
    return np.array([np.quantile(c[k], share) if k.any() else np.nan for c, k in zip(drawn.T, known.T, strict=True)])
