"""Does consistency inside mean consistency outside: precision of a 3D layer against the quality of samples. Pure.

Inside is how well a layer's attention finds true correspondences; outside are match error, PSNR and SSIM of samples.
Training time drives both, so checkpoints are ranked among those of the same step, and variants differ in both, so they
are ranked among the runs of one variant too. Runs of one seed share their scenes and noise: seeds are what is drawn.
``benchmarks/consistency.py`` measures how often the intervals err.
"""

from functools import lru_cache
from typing import Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
from scipy.stats import t as student

from analysis.study import tables
from analysis.study.run import StudyRun
from analysis.study.seeds import LEAST_SEEDS
from probe.records import MATCH_ERROR, PRECISION, PSNR, SSIM, better, split_layer
from probe.records.intervals import LEAST_UNITS, UPPER

OUTSIDE = (MATCH_ERROR, PSNR, SSIM)
"""Metrics of samples; the first that was measured is drawn."""
Inside = Literal["supervised", "last", "best"]
"""Whose precision: of the layer that the study supervises, of the last 3D layer, of the best layer of a checkpoint."""
Scope = Literal["checkpoints", "runs", "plain", "supervised", "variants"]
"""What is ranked against what, see :data:`SCOPES`."""
SCOPES: dict[Scope, tuple[str, str | None, tuple[str, ...]]] = {
    "checkpoints": ("over all checkpoints", None, ()),
    "runs": ("across runs at equal steps", None, ("step",)),
    "plain": ("within plain runs", "plain", ("step",)),
    "supervised": ("within supervised runs", "supervised", ("step",)),
    "variants": ("within each variant", None, ("variant", "step")),
}
"""Its words, the role of its runs (None: all), and what checkpoints have in common that are ranked together."""
DRAWS = 2000
"""Of seeds, with replacement."""
POINTS = ["variant", "role", "seed", "step", "inside", "layer", "precision", "metric", "value"]
COLUMNS = ["inside", "layer", "metric", "scope", "value", "low", "high", "seeds", "runs", "checkpoints"]


class Ordered(NamedTuple):
    """One quantity of all checkpoints, sorted seed by seed.

    Attributes:
        below: [seeds, checkpoints], of a seed's checkpoints in the group those with a lower value, ties by half.
        size: [seeds, checkpoints], of a seed's checkpoints those in the group.
    """

    below: np.ndarray
    size: np.ndarray


# --- the points ------------------------------------------------------------------------------------------------------


def points(run: StudyRun) -> pd.DataFrame:
    """Join precision and the quality of samples at the checkpoints that have both.

    Args:
        run: The study.

    Returns:
        Columns variant, role, seed, step, inside, layer (NaN for the best one), precision in [0, 1], metric, value. A
        checkpoint without one of the two is left out.
    """
    quality = run.study[run.study["metric"].isin(OUTSIDE)]
    table = _inside(run).merge(quality, on=["variant", "seed", "step"]).dropna(subset=["precision", "value"])
    table = table.assign(role=table["variant"].map(tables.roles(run)))
    places = {"inside": get_args(Inside), "metric": OUTSIDE, "variant": run.names}
    order = table.assign(**{name: table[name].map(list(values).index) for name, values in places.items()})
    order = order.sort_values(["inside", "metric", "variant", "seed", "step"])
    return table.loc[order.index, POINTS].reset_index(drop=True)


def _inside(run: StudyRun) -> pd.DataFrame:
    """Return the precision of the three choices of a layer: columns variant, seed, step, inside, layer, precision."""
    names = run.study["metric"].map(split_layer)
    rows = run.study.assign(layer=names.str[1])[(names.str[0] == PRECISION) & names.str[1].notna()]
    wide = rows.astype({"layer": int}).pivot_table(index=["variant", "seed", "step"], columns="layer", values="value")
    parts = [
        pd.DataFrame({"precision": values}).assign(inside=name, layer=layer)
        for name, (layer, values) in _choices(run, wide).items()
    ]
    table = pd.concat(parts) if parts else wide.assign(inside="", layer=np.nan, precision=np.nan)
    return table.reset_index()[["variant", "seed", "step", "inside", "layer", "precision"]]


def _choices(run: StudyRun, wide: pd.DataFrame) -> dict[Inside, tuple[float, pd.Series]]:
    """Return the layer and the precision of each choice; the last layer is left out where it is the supervised one."""
    if not len(wide.columns):
        return {}
    own, last = int(run.settings.get("layer", -1)), int(max(wide.columns))
    found: dict[Inside, tuple[float, pd.Series]] = {"supervised": (own, wide[own])} if own in wide else {}
    found |= {"last": (last, wide[last])} if last != own else {}
    return found | {"best": (np.nan, wide.max(axis=1, skipna=False))}


# --- correlations ----------------------------------------------------------------------------------------------------


def correlations(table: pd.DataFrame) -> pd.DataFrame:
    r"""Correlate the ranks of precision and of each metric of samples, in each scope.

    .. math:: \rho = \frac{\sum_i a_i b_i}{\sqrt{\sum_i a_i^2 \sum_i b_i^2}}, \qquad
        \rho \pm t_{0.975,\, n - 1} \sqrt{\tfrac{n}{n - 1}}\, s^*

    with a and b the ranks among the checkpoints that are ranked together, as shares of their number and from their
    mean (of one group this is Spearman's correlation), and s* the spread over draws of n seeds with replacement.

    Args:
        table: Of :func:`points`.

    Returns:
        A row per choice of a layer, metric and scope: inside, layer, metric, scope; value in [-1, 1], above 0 where
        higher precision goes with better samples, NaN below three seeds or where nothing varies; low and high (95 %,
        cut to [-1, 1]), NaN below five seeds; seeds, runs and checkpoints that were counted.
    """
    rows = [
        (inside, part["layer"].iloc[0], metric, scope, *_correlation(part, str(metric), scope))
        for (inside, metric), part in table.groupby(["inside", "metric"], sort=False)
        for scope in SCOPES
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _correlation(part: pd.DataFrame, metric: str, scope: Scope) -> tuple[float, float, float, int, int, int]:
    """Return value, low, high, and how many seeds, runs and checkpoints there are."""
    _, role, together = SCOPES[scope]
    rows = part if role is None else part[part["role"] == role]
    seeds = int(rows["seed"].nunique())
    counts = (seeds, len(rows[["variant", "seed"]].drop_duplicates()), len(rows))
    if seeds < LEAST_SEEDS:
        return np.nan, np.nan, np.nan, *counts
    group = rows.groupby(list(together)).ngroup() if together else pd.Series(0, index=rows.index)
    drawn, times = _draws(seeds) if seeds >= LEAST_UNITS else (np.empty((0, seeds)), np.empty(0, dtype=int))
    seed = np.unique(rows["seed"], return_inverse=True)[1]
    x, y = rows["precision"].to_numpy(dtype=float), better(metric) * rows["value"].to_numpy(dtype=float)
    found = rank_correlations(x, y, group.to_numpy(), seed, np.vstack([np.ones(seeds), drawn])).round(12)
    half = _half(np.repeat(found[1:], times), seeds)
    low, high = np.clip([found[0] - half, found[0] + half], -1, 1)
    return float(found[0]), float(low), float(high), *counts


@lru_cache(maxsize=8)
def _draws(seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw seeds with replacement, always the same: [different draws, seeds], and how often each draw came."""
    drawn = np.random.default_rng(0).multinomial(seeds, np.full(seeds, 1 / seeds), size=DRAWS)
    different, times = np.unique(drawn, axis=0, return_counts=True)
    return different.astype(float), times


def _half(drawn: np.ndarray, seeds: int) -> float:
    """Return half of the interval; a draw in which nothing varies does not count, and without draws it is NaN."""
    known = drawn[np.isfinite(drawn)]
    spread = known.std() * np.sqrt(seeds / (seeds - 1)) if len(known) > 1 else np.nan
    return float(student.ppf(UPPER, seeds - 1) * spread)


def rank_correlations(
    x: np.ndarray, y: np.ndarray, group: np.ndarray, seed: np.ndarray, drawn: np.ndarray
) -> np.ndarray:
    """Correlate ranks within groups, once for each draw of seeds.

    Args:
        x: [checkpoints].
        y: [checkpoints].
        group: [checkpoints], whole numbers from 0: those that are ranked together.
        seed: [checkpoints], whole numbers from 0.
        drawn: [draws, seeds], how often each seed counts.

    Returns:
        [draws] in [-1, 1]; NaN where one of the two does not vary within any group.
    """
    weight = drawn[:, seed]
    a, b = (_ranks(_order(values, group, seed, drawn.shape[1]), drawn) for values in (x, y))
    size = np.sqrt((weight * a**2).sum(1) * (weight * b**2).sum(1))
    known = size > 1e-12
    return np.where(known, (weight * a * b).sum(1) / np.where(known, size, 1), np.nan)


def _order(values: np.ndarray, group: np.ndarray, seed: np.ndarray, seeds: int) -> Ordered:
    span = len(values)
    start = group * span
    key = start + np.unique(values, return_inverse=True)[1]  # orders by group, then by value
    sorted_keys = [np.sort(key[seed == each]) for each in range(seeds)]
    first = np.array([np.searchsorted(own, start) for own in sorted_keys])
    ends = np.array([np.searchsorted(own, start + span) for own in sorted_keys])
    sides = [np.array([np.searchsorted(own, key, side) for own in sorted_keys]) for side in ("left", "right")]
    return Ordered(below=(sides[0] + sides[1]) / 2 - first, size=ends - first)


def _ranks(order: Ordered, drawn: np.ndarray) -> np.ndarray:
    """Return ranks as shares of their group, from the group's mean: [draws, checkpoints]; 0 where none was drawn."""
    size = drawn @ order.size
    return np.where(size > 0, drawn @ order.below / np.where(size > 0, size, 1) - 0.5, 0.0)
