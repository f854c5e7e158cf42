"""Bootstrap over scenes: columns are layers, rows scenes; what is unknown is NaN and left out."""

import numpy as np

from probe.records.table import RESAMPLES


def draws(value: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """Draw scenes with replacement; give the mean over the limit's mean, NaN where there are fewer than two.

    Args:
        value: [scenes, layers].
        limit: What the mean is divided by, of the same shape; ones for the mean itself.

    Returns:
        [resamples, layers].
    """
    scenes = len(value)
    if scenes < 2:
        return np.full((1, value.shape[1]), np.nan)
    picks = np.random.default_rng(0).integers(0, scenes, (RESAMPLES, scenes))
    return ratio(mean(value[picks]), mean(limit[picks]))


def ratio(value: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """Divide; NaN where the limit is zero or unknown: nothing can be right on such a grid."""
    return np.divide(value, limit, out=np.full(value.shape, np.nan), where=limit > 0)


def mean(values: np.ndarray) -> np.ndarray:
    """Average over scenes that were counted; NaN where none was."""
    known = ~np.isnan(values)
    total, count = np.where(known, values, 0).sum(-2), known.sum(-2)
    return ratio(total, count)


def quantile(drawn: np.ndarray, share: float) -> np.ndarray:
    """Give a quantile of each column's known draws; NaN where a column has none."""
    known = ~np.isnan(drawn)
    return np.array([np.quantile(c[k], share) if k.any() else np.nan for c, k in zip(drawn.T, known.T, strict=True)])
