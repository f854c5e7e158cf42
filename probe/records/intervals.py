r"""95 % intervals of ratios of sums over independent units, singly and jointly; and Student's t over seeds.

A unit is what could have come out otherwise on its own: a recording, or a procedural scene. With :math:`v_i` hits of
:math:`c_i` in unit :math:`i` the estimate is :math:`r = \sum v_i / \sum c_i`; unit :math:`i` moves it by

.. math:: e_i = \frac{v_i - r c_i}{(1 - w_i) \sum c}, \quad w_i = c_i / \textstyle\sum c, \qquad
          s^2 = \frac{n - 1}{n} \textstyle\sum e_i^2,

the jackknife's standard error :math:`s`. Three rules make it a 95 % interval with few units and with shares near 0 or 1
(``python benchmarks/intervals.py`` measures that):

- Student's quantile with :math:`1 / \sum w_i^2 - 1` degrees of freedom: unequal units count as fewer;
- :math:`s` grows by :math:`1 + |g|`, where :math:`g = \sum e_i^3 / (\sum e_i^2)^{3/2}`: a skewed sample shows too
  little spread as long as its rare units are not in it;
- shares are bounded on the binomial's scale (Korn and Graubard 1998): as many independent trials as give :math:`s`.
  Where no unit has a hit, or none a miss, their spread is that of an intraclass correlation of 0.05.

No rule sees what is not in the sample: where one unit in ten holds most hits, few units cover too seldom.

In arrays rows are units and columns are what is estimated; a unit in which nothing was counted has count 0 there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import beta
from scipy.stats import t as student

from probe.records.table import unit_sums

LEVEL = 0.95
UPPER = (1 + LEVEL) / 2
LEAST_UNITS = 5
"""Units that an interval needs at least."""
FEW = "too few independent units"
"""Why there is no interval, in words."""
SKEW = 1.0
INTRACLASS = 0.05
OWN_VARIANCE = 0.75
DRAWS = 4000
"""Of a joint interval."""
MANY = 500
"""Units above which the draws are made in blocks of rows, to bound memory."""


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
        low: Lower end of each column's own 95 % interval; NaN below :data:`LEAST_UNITS` units.
        high: Upper end.
        influence: [units, columns], :math:`e_i`; 0 where nothing was counted.
        units: In which something was counted.
        freedom: Degrees of freedom; NaN below :data:`LEAST_UNITS` units.
        trials: Sum of counts where the ratio is a share, else infinite.
    """

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    influence: np.ndarray
    units: np.ndarray
    freedom: np.ndarray
    trials: np.ndarray

    def __sub__(self, other: "Ratios") -> "Ratios":
        """Return the differences, paired by unit; one column stands beside each of the other's.

        Student's t, with a standard error that is at least that of the trials that must differ (McNemar 1947): two
        shares that differ by d of n trials differ in n d of them at least.
        """
        change = self._beside(other)
        floor = np.sqrt(np.abs(change.value) / np.minimum(self.trials, other.trials))
        half = student.ppf(UPPER, change.freedom) * np.fmax(spread(change.influence, change.units), floor)
        return replace(change, low=change.value - half, high=change.value + half)

    def ahead_of(self, other: "Ratios") -> "Ratios":
        """Return the differences to nulls and rivals, paired by unit, with ends recovered from those of both sides.

        So they keep the skewness of each share: a null may score high in rare units alone.

        Source:
            Zou and Donner, Statistics in Medicine 27 (2008): confidence limits of differences (MOVER).
        """
        change, correlation = self._beside(other), _correlation(self.influence, other.influence)
        down = _recovered(self.value - self.low, other.high - other.value, correlation)
        up = _recovered(self.high - self.value, other.value - other.low, correlation)
        return replace(change, low=change.value - down, high=change.value + up)

    def _beside(self, other: "Ratios") -> "Ratios":
        shape = np.broadcast_shapes(self.value.shape, other.value.shape)
        unknown = np.full(shape, np.nan)
        return Ratios(
            value=self.value - other.value,
            low=unknown,
            high=unknown,
            influence=self.influence - other.influence,
            units=np.broadcast_to(np.minimum(self.units, other.units), shape),
            freedom=np.broadcast_to(np.minimum(self.freedom, other.freedom), shape),
            trials=np.full(shape, np.inf),
        )

    def columns(self, chosen: Sequence[int] | np.ndarray) -> "Ratios":
        """Return some of the columns, in this order."""
        return Ratios(**{name: part[..., chosen] for name, part in vars(self).items()})

    def widened(self, factor: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the ends, further from the value by one factor.

        Args:
            factor: From :func:`joint_widening`, for intervals that hold all at once.
        """
        return self.value - factor * (self.value - self.low), self.value + factor * (self.high - self.value)


def _correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Correlate what the units contribute to two sides, column by column; 0 where one side does not vary."""
    size = np.sqrt((one**2).sum(0) * (other**2).sum(0))
    return np.clip(divide((one * other).sum(0), size, otherwise=0.0), -1, 1)


def _recovered(one: np.ndarray, other: np.ndarray, correlation: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(one**2 + other**2 - 2 * correlation * one * other, 0))


def join_columns(parts: Sequence[Ratios]) -> Ratios:
    """Put ratios of the same units side by side."""
    return Ratios(**{name: np.concatenate([getattr(part, name) for part in parts], axis=-1) for name in vars(parts[0])})


def all_pairs(estimate: Ratios) -> Ratios:
    """Return the differences of each two columns: first minus second, in the order of itertools.combinations."""
    pairs = np.array(list(combinations(range(len(estimate.value)), 2)), dtype=int).reshape(-1, 2)
    return estimate.columns(pairs[:, 0]) - estimate.columns(pairs[:, 1])


def against_all(estimate: Ratios, column: int) -> Ratios:
    """Return one column minus every column, with ends that hold for all pairs of columns at once.

    For all pairs, because the column may have been chosen for its value.
    """
    change = estimate.columns([column]) - estimate
    low, high = change.widened(joint_widening(all_pairs(estimate)))
    return replace(change, low=low, high=high)


# --- one ratio, many ratios ------------------------------------------------------------------------------------------


def interval(values: np.ndarray, counts: np.ndarray, units: np.ndarray) -> Interval:
    """Return the ratio of two sums with its 95 % interval over independent units.

    Equal rows have equal intervals, in whatever order they stand. Where every value lies between 0 and its count, the
    ratio is a share: its interval lies in [0, 1] and is not narrower than that of as many independent trials.

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
    found = ratios(hits, of)
    return Interval(*(float(part[0]) for part in (found.value, found.low, found.high)))


def ratios(values: np.ndarray, counts: np.ndarray, *, shares: bool = True) -> Ratios:
    """Divide sums over units.

    Args:
        values: [units, columns].
        counts: [units, columns]; where one is 0 its value must be 0.
        shares: Whether columns whose values all lie between 0 and their counts are shares.
    """
    total = counts.sum(0)
    value = divide(values.sum(0), total)
    weight = divide(counts, np.broadcast_to(total, counts.shape), otherwise=0.0)
    influence = divide(values - np.nan_to_num(value) * counts, (1 - weight) * total, otherwise=0.0)
    units = (counts > 0).sum(0)
    effective = divide(np.ones_like(total), (weight**2).sum(0))
    freedom = np.where(units >= LEAST_UNITS, np.maximum(effective - 1, 1), np.nan)
    error = spread(influence, units)
    half = student.ppf(UPPER, freedom) * error
    low, high = value - half, value + half
    slack = 1e-9 * counts
    share = ((values >= -slack) & (values <= counts + slack)).all(0) & shares
    share_low, share_high = _share_ends(value, error, freedom, _most_trials(value, units, total))
    return Ratios(
        value=value,
        low=np.where(share, share_low, low),
        high=np.where(share, share_high, high),
        influence=influence,
        units=units,
        freedom=freedom,
        trials=np.where(share, total, np.inf),
    )


def spread(influence: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Return the standard error of each column, grown with the skewness of what the units contribute."""
    squares = (influence**2).sum(0)
    skewness = divide((influence**3).sum(0), squares**1.5, otherwise=0.0)
    jackknife = np.sqrt(squares * divide(units - 1.0, units.astype(float)))
    return jackknife * (1 + SKEW * np.abs(skewness))


def _most_trials(share: np.ndarray, units: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Return how many independent trials the counts are at most; fewer where all units agree that none or all hit."""
    agreed = 1 + INTRACLASS * np.maximum(divide(total, units, otherwise=1.0) - 1, 0)
    return np.where((share <= 0) | (share >= 1), total / agreed, total)


def _share_ends(
    share: np.ndarray, error: np.ndarray, freedom: np.ndarray, most: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Bound shares as those of a binomial with as many trials as give their standard error, at most ``most``."""
    share, quantile = np.clip(share, 0, 1), student.ppf(UPPER, freedom)
    trials = divide(share * (1 - share), error**2, otherwise=np.inf) * (student.ppf(UPPER, np.inf) / quantile) ** 2
    trials = np.fmin(trials, most)
    hits = share * trials
    low = np.where(hits > 0, beta.ppf(1 - UPPER, np.maximum(hits, 1e-12), trials - hits + 1), 0)
    high = np.where(hits < trials, beta.ppf(UPPER, hits + 1, np.maximum(trials - hits, 1e-12)), 1)
    unknown = np.isnan(freedom) | np.isnan(share)
    return np.where(unknown, np.nan, low), np.where(unknown, np.nan, high)


# --- jointly ---------------------------------------------------------------------------------------------------------


def joint_widening(estimate: Ratios) -> float:
    r"""Return by how much intervals must widen so that with 95 % all columns' hold at once.

    The largest of the columns' :math:`|t|` under a multivariate t with their correlation over units, by draws of
    normal multipliers of the units; at least 1, and 1 where nothing varies. The columns' variance estimates are taken
    to be alike in part: chi-squares of their own to the power 0.75, times a common one to the power 0.25.

    Source:
        Hothorn, Bretz and Westfall, Biometrical Journal 50 (2008), "Simultaneous inference in general parametric
        models"; multipliers: Chernozhukov, Chetverikov and Kato, Annals of Statistics 41 (2013).
    """
    size = np.sqrt((estimate.influence**2).sum(0))
    moving = (size > 0) & np.isfinite(estimate.freedom)
    if moving.sum() < 2:
        return 1.0
    freedom = float(estimate.freedom[moving].min())
    together, variance = _together(estimate.influence[:, moving] / size[moving], freedom)
    largest = (np.abs(together) / variance**0.5).max(1)
    return max(1.0, float(np.quantile(largest, LEVEL)) / float(student.ppf(UPPER, freedom)))


def _together(influence: np.ndarray, freedom: float) -> tuple[np.ndarray, np.ndarray]:
    """Draw the columns' errors of one size, [draws, columns], and their variances; of many units block by block."""
    units, columns = influence.shape
    if units <= MANY:
        normal, variance = _multipliers(units, columns, freedom)
        return normal @ influence, variance
    generator, rows = np.random.default_rng(0), max(1, MANY * DRAWS // units)
    blocks = (min(rows, DRAWS - start) for start in range(0, DRAWS, rows))
    errors = np.concatenate([generator.standard_normal((block, units)) @ influence for block in blocks])
    return errors, _variances(generator, columns, freedom)


@lru_cache(maxsize=8)
def _multipliers(units: int, columns: int, freedom: float) -> tuple[np.ndarray, np.ndarray]:
    """Draw normal numbers per unit, and variances per column, [draws, ...]: always the same."""
    generator = np.random.default_rng(0)
    return generator.standard_normal((DRAWS, units)), _variances(generator, columns, freedom)


def _variances(generator: np.random.Generator, columns: int, freedom: float) -> np.ndarray:
    own, common = (generator.chisquare(freedom, (DRAWS, size)) / freedom for size in (columns, 1))
    return own**OWN_VARIANCE * common ** (1 - OWN_VARIANCE)


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
    found, total = ratios(hits, counts, shares=shares), np.rint(counts.sum(0)).astype(int)
    return table.assign(value=found.value, low=found.low, high=found.high, units=found.units, count=total)[columns]


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
