r"""95 % intervals of ratios of sums over independent units, singly and jointly; and Student's t over seeds.

A unit is what could have come out otherwise on its own: a recording, or a procedural scene. With :math:`v_i` hits of
:math:`c_i` in unit :math:`i` the estimate is :math:`r = \sum v_i / \sum c_i`; unit :math:`i` moves it by

.. math:: e_i = \frac{v_i - r c_i}{(1 - w_i) \sum c}, \quad w_i = c_i / \textstyle\sum c, \qquad
          s^2 = \frac{n - 1}{n} \textstyle\sum e_i^2,

the jackknife's standard error :math:`s`. Three rules make it a 95 % interval with few units and with shares near 0 or 1
(``python benchmarks/intervals.py`` measures that):

- Student's quantile with :math:`1 / \sum w_i^2 - 1` degrees of freedom: unequal units count as fewer;
- :math:`s` grows by :math:`1 + 0.75 |g|`, where :math:`g = \sum e_i^3 / (\sum e_i^2)^{3/2}`: a skewed sample shows too
  little spread as long as its rare units are not in it;
- shares are bounded on the binomial's scale (Korn and Graubard 1998): as many independent trials as give :math:`s`.
  Where no unit has a hit, or none a miss, their spread is that of an intraclass correlation of 0.05.

In arrays rows are units and columns are what is estimated; a unit in which nothing was counted has count 0 there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import beta, chi2
from scipy.stats import t as student

from probe.records.table import unit_sums

LEVEL = 0.95
UPPER = (1 + LEVEL) / 2
LEAST_UNITS = 5
"""Units that an interval needs at least."""
SKEW = 0.75
INTRACLASS = 0.05
SHRINKAGE = 2.0
DRAWS = 4000


class Interval(NamedTuple):
    """An estimate with its 95 % interval; NaN ends where there are too few units for one."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Ratios:
    """Ratios of sums, one per column, and how far each unit moves them.

    Attributes:
        value: Sum of values over sum of counts; NaN where nothing was counted.
        influence: [units, columns], :math:`e_i`; 0 where nothing was counted.
        units: In which something was counted.
        freedom: Degrees of freedom; NaN below :data:`LEAST_UNITS` units.
    """

    value: np.ndarray
    influence: np.ndarray
    units: np.ndarray
    freedom: np.ndarray

    def __sub__(self, other: "Ratios") -> "Ratios":
        """Return the differences, paired by unit; one column stands beside each of the other's."""
        shape = np.broadcast_shapes(self.value.shape, other.value.shape)
        return Ratios(
            value=self.value - other.value,
            influence=self.influence - other.influence,
            units=np.broadcast_to(np.minimum(self.units, other.units), shape),
            freedom=np.broadcast_to(np.minimum(self.freedom, other.freedom), shape),
        )

    def columns(self, chosen: Sequence[int] | np.ndarray) -> "Ratios":
        """Return some of the columns, in this order."""
        return Ratios(
            value=self.value[chosen],
            influence=self.influence[:, chosen],
            units=self.units[chosen],
            freedom=self.freedom[chosen],
        )


def join_columns(parts: Sequence[Ratios]) -> Ratios:
    """Put ratios of the same units side by side."""
    return Ratios(
        value=np.concatenate([part.value for part in parts]),
        influence=np.concatenate([part.influence for part in parts], axis=1),
        units=np.concatenate([part.units for part in parts]),
        freedom=np.concatenate([part.freedom for part in parts]),
    )


# --- one ratio, many ratios ------------------------------------------------------------------------------------------


def interval(values: np.ndarray, counts: np.ndarray, units: np.ndarray) -> Interval:
    """Return the ratio of two sums with its 95 % interval over independent units.

    Equal rows have equal intervals, in whatever order they stand. Where every value lies between 0 and its count, the
    ratio is a share and its interval lies in [0, 1]; if the values are whole numbers besides, the interval is not
    narrower than that of as many independent trials.

    Args:
        values: [rows], hits; or sums of anything else. What is NaN is left out with its count.
        counts: [rows], of how many, at least 0.
        units: [rows], the independent unit that each row belongs to.

    Returns:
        Estimate, low, high. The ends are NaN below :data:`LEAST_UNITS` units with a count above 0; the estimate is NaN
        where nothing was counted.

    Source:
        Korn and Graubard, Survey Methodology 24 (1998), with the degrees of freedom and the growth with skewness that
        :mod:`probe.records.intervals` states.
    """
    frame = pd.DataFrame({"unit": np.asarray(units), "value": np.asarray(values, dtype=float), "count": counts})
    sums = frame[frame["value"].notna() & (frame["count"] > 0)].groupby("unit", sort=True)[["value", "count"]].sum()
    hits, of = (sums[[name]].to_numpy(dtype=float) for name in ("value", "count"))
    low, high = bounds(hits, of)
    return Interval(float(ratios(hits, of).value[0]), float(low[0]), float(high[0]))


def ratios(values: np.ndarray, counts: np.ndarray) -> Ratios:
    """Divide sums over units.

    Args:
        values: [units, columns].
        counts: [units, columns]; where one is 0 its value must be 0.
    """
    total = counts.sum(0)
    value = divide(values.sum(0), total)
    weight = divide(counts, np.broadcast_to(total, counts.shape), otherwise=0.0)
    influence = divide(values - np.nan_to_num(value) * counts, (1 - weight) * total, otherwise=0.0)
    units = (counts > 0).sum(0)
    effective = divide(np.ones_like(total), (weight**2).sum(0))
    return Ratios(
        value=value,
        influence=influence,
        units=units,
        freedom=np.where(units >= LEAST_UNITS, np.maximum(effective - 1, 1), np.nan),
    )


def bounds(values: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the 95 % interval of each column's ratio of sums: see :func:`interval`.

    Args:
        values: [units, columns].
        counts: [units, columns]; where one is 0 its value must be 0.
    """
    found = ratios(values, counts)
    low, high = mean_bounds(found)
    slack = 1e-9 * counts
    share = ((values >= -slack) & (values <= counts + slack)).all(0)
    whole = (np.abs(values - np.rint(values)) <= 1e-6 * np.maximum(counts, 1)).all(0)
    share_low, share_high = _share_bounds(found, np.where(whole, _most_trials(found, counts), np.inf))
    return np.where(share, share_low, low), np.where(share, share_high, high)


def mean_bounds(estimate: Ratios, widening: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the interval of each column on its own scale: for differences and means.

    Args:
        estimate: Of ratios, or of their differences.
        widening: From :func:`joint_widening`, for intervals that hold all at once.
    """
    half = widening * student.ppf(UPPER, estimate.freedom) * spread(estimate)
    return estimate.value - half, estimate.value + half


def spread(estimate: Ratios) -> np.ndarray:
    """Return the standard error of each column, grown with the skewness of what the units contribute."""
    squares = (estimate.influence**2).sum(0)
    skewness = divide((estimate.influence**3).sum(0), squares**1.5, otherwise=0.0)
    jackknife = np.sqrt(squares * divide(estimate.units - 1.0, estimate.units.astype(float)))
    return jackknife * (1 + SKEW * np.abs(skewness))


def _most_trials(estimate: Ratios, counts: np.ndarray) -> np.ndarray:
    """Return how many independent trials whole hits are at most; fewer where all units agree that none or all hit."""
    total = counts.sum(0)
    agreed = 1 + INTRACLASS * np.maximum(divide(total, estimate.units, otherwise=1.0) - 1, 0)
    return np.where((estimate.value <= 0) | (estimate.value >= 1), total / agreed, total)


def _share_bounds(estimate: Ratios, most: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bound shares as those of a binomial with as many trials as give their standard error, at most ``most``."""
    share, quantile = np.clip(estimate.value, 0, 1), student.ppf(UPPER, estimate.freedom)
    trials = divide(share * (1 - share), spread(estimate) ** 2, otherwise=np.inf)
    trials = np.minimum(trials * (student.ppf(UPPER, np.inf) / quantile) ** 2, most)
    sure = np.isinf(trials)  # all units agree on something that was not counted in whole hits
    trials = np.where(sure, 1, trials)
    hits = share * trials
    low = np.where(hits > 0, beta.ppf(1 - UPPER, np.maximum(hits, 1e-12), trials - hits + 1), 0)
    high = np.where(hits < trials, beta.ppf(UPPER, hits + 1, np.maximum(trials - hits, 1e-12)), 1)
    known = np.isfinite(estimate.freedom)
    return tuple(np.where(known, np.where(sure, share, end), np.nan) for end in (low, high))  # type: ignore[return-value]


# --- jointly ---------------------------------------------------------------------------------------------------------


def joint_widening(estimate: Ratios) -> float:
    r"""Return by how much intervals must widen so that with 95 % all columns' hold at once.

    The largest of the columns' :math:`|t|` under a multivariate t with their correlation over units, by draws of
    normal multipliers of the units; at least 1, and 1 where nothing varies. Few units show too much correlation: it is
    shrunk towards none by 2 / units.

    Source:
        Hothorn, Bretz and Westfall, Biometrical Journal 50 (2008), "Simultaneous inference in general parametric
        models"; multipliers: Chernozhukov, Chetverikov and Kato, Annals of Statistics 41 (2013).
    """
    size = np.sqrt((estimate.influence**2).sum(0))
    moving = (size > 0) & np.isfinite(estimate.freedom)
    if moving.sum() < 2:
        return 1.0
    freedom = float(estimate.freedom[moving].min())
    units = len(estimate.influence)
    normal, alone, chance = _multipliers(units, int(moving.sum()))
    shrunk = min(1.0, SHRINKAGE / units)
    together = normal @ (estimate.influence[:, moving] / size[moving])
    largest = np.abs((1 - shrunk) ** 0.5 * together + shrunk**0.5 * alone).max(1)
    largest = largest / np.sqrt(chi2.ppf(chance, freedom) / freedom)
    return max(1.0, float(np.quantile(largest, LEVEL)) / float(student.ppf(UPPER, freedom)))


@cache
def _multipliers(units: int, columns: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw normal numbers per unit and per column, [draws, ...], and uniform ones, [draws]: always the same."""
    generator = np.random.default_rng(0)
    chance, normal = generator.random(DRAWS), generator.standard_normal((DRAWS, units))
    return normal, generator.standard_normal((DRAWS, columns)), chance


# --- tables ----------------------------------------------------------------------------------------------------------


def summarise(scores: pd.DataFrame, by: Sequence[str], *, shares: bool = True) -> pd.DataFrame:
    """Average over all that was counted, with a 95 % interval over independent units (:func:`interval`).

    Args:
        scores: Rows of the score table; where a column unit is missing, every scene is a unit.
        by: Columns that stay apart.
        shares: Whether values are shares of what was counted; False for means and differences of anything else.

    Returns:
        Columns ``by``, value (sum of value times count over sum of count), low, high, scenes, units, count. The
        interval is NaN below five units. Groups in which nothing was counted are absent.
    """
    columns = [*by, "value", "low", "high", "scenes", "units", "count"]
    sums = unit_sums(scores, by)
    if sums.empty:
        return pd.DataFrame(columns=columns)
    groups = sums.groupby(list(by), observed=True, sort=True)
    table = groups[["scenes"]].sum().reset_index()
    table = table.astype({name: table[name].cat.categories.dtype for name in by if hasattr(table[name], "cat")})
    hits, counts = wide(sums.assign(group=groups.ngroup()), "group", range(len(table)))
    found = ratios(hits, counts)
    low, high = bounds(hits, counts) if shares else mean_bounds(found)
    total = np.rint(counts.sum(0)).astype(int)
    return table.assign(value=found.value, low=low, high=high, units=found.units, count=total)[columns]


def wide(
    sums: pd.DataFrame, column: str, order: Sequence[object] | pd.Series, units: Sequence[object] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Lay out sums per unit as arrays: values and counts, [units, columns]; 0 and 0 where nothing was counted.

    Args:
        sums: Of :func:`probe.records.table.unit_sums`, each unit once per value of ``column``.
        column: What the columns are.
        order: Its values, in the order of the columns; they may repeat.
        units: In the order of the rows; None for all of ``sums``, sorted.
    """
    if sums.empty:
        return np.zeros((len(units or ()), len(order))), np.zeros((len(units or ()), len(order)))
    table = sums.set_index(["unit", column])[["hits", "count"]].unstack(column)  # noqa: PD010, each stands once
    rows = table.index if units is None else list(units)
    hits, count = (table[name].reindex(index=rows, columns=list(order)).fillna(0) for name in ("hits", "count"))
    return hits.to_numpy(dtype=float), count.to_numpy(dtype=float)


# --- over seeds ------------------------------------------------------------------------------------------------------


def half_width(deviation: np.ndarray | pd.Series | float, count: np.ndarray | pd.Series | float) -> np.ndarray:
    r"""Return half of the 95 % interval of a mean, by Student's t: :math:`t_{0.975, n - 1} s / \sqrt n`.

    Args:
        deviation: Standard deviation of the sample.
        count: Size of the sample; NaN where there are too few for an interval.
    """
    size = np.asarray(count, dtype=float)
    return np.asarray(student.ppf(UPPER, size - 1) * np.asarray(deviation, dtype=float) / np.sqrt(size))


def divide(value: np.ndarray, by: np.ndarray, otherwise: float = np.nan) -> np.ndarray:
    """Divide; what is divided by 0 or by something unknown is ``otherwise``."""
    value, by = np.broadcast_arrays(np.asarray(value, dtype=float), np.asarray(by, dtype=float))
    return np.divide(value, by, out=np.full(value.shape, otherwise, dtype=float), where=by > 0)
