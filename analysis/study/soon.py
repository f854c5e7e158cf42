"""How soon a variant is where the plain run ends: its steps over plain's, with intervals that hold jointly. Pure.

Both runs of a seed are measured by one rule: the first step at which a curve is at the goal, linear between
evaluations. The goal is the worse of the two last values, which both curves reach: plain's own where the variant ends
better, the variant's where it never reaches plain's. So no seed is dropped, the ratio can exceed 1, and for a variant
identical to plain the two runs may be exchanged: the logarithm of the ratio is symmetric about 0, which Student's t
relies on. Few evaluations make equal ratios of few seeds likely, so the spread over seeds counts for no less than what
plain runs of different seeds show against one another. ``benchmarks/how_soon.py`` measures how often this errs.
"""

from itertools import combinations, permutations
from typing import Any

import numpy as np
import pandas as pd

from analysis.study.run import StudyRun
from analysis.study.seeds import BY_THE_FIRST, LEAST_SEEDS, average_reach, first_reach, half_interval
from analysis.words import plural
from probe.records import better
from probe.records.names import PAPERS, PLAIN

CLAIM = 0.5
"""The paper's claim: CAMEO needs half the steps."""
COLUMNS = ["variant", "metric", "seeds", "share", "share_at_most", "reached", "null_share", "null_reached", "ratio",
           "at_most", "at_least", "low", "high", "joint_low", "joint_high", "null_factor", "verdict"]  # fmt: skip

INTERVAL = ["seeds", "ratio", "at_most", "at_least", "low", "high", "joint_low", "joint_high", "verdict"]


def how_soon(run: StudyRun) -> pd.DataFrame:
    r"""Compare the steps of each variant with those of the plain run of its seed, metric by metric.

    .. math:: \exp\left(\bar d \pm t_{1 - 0.025 / m,\, n - 1} \, \max(s_d, s_0) / \sqrt n\right), \quad
        d = \log(\text{steps of the variant} / \text{steps of plain})

    with s_0 the root mean square of d between plain runs of different seeds.

    Args:
        run: The study.

    Returns:
        A row per variant but plain and metric. NaN: no interval below three seeds; no null with one plain seed.

        - variant, metric, seeds (n, of which both runs are there).
        - share, reached, share_at_most: see :func:`analysis.study.seeds.average_reach`.
        - null_share, null_reached: the same of plain runs put in the variant's place, each measured against the last
          value of another seed's plain run: the mean, and the share of pairs that reach it.
        - ratio: geometric mean over seeds of steps over plain's steps.
        - at_most, at_least: whether a run, or its plain run, was at the goal by its first evaluation, so that the
          ratio is a bound.
        - low, high: 95 %, Student's t on the logarithm; joint_low, joint_high: 95 % for all m comparisons of a family
          together (:func:`family_sizes`; Bonferroni). 0 and infinity where that end is open.
        - null_factor: the exponential of s_0.
        - verdict: "sooner" or "later" where the joint interval excludes 1; "not separated"; "too few seeds".
    """
    ratios, nulls = seed_ratios(run), _plain_against_plain(run)
    groups = ratios.groupby(["variant", "metric"], sort=False)
    sizes = family_sizes(ratios)
    floors = np.log(nulls.set_index("metric")["null_factor"])
    rows = [
        {"variant": key[0], "metric": key[1], **_interval(part, sizes[key[0]], floors[key[1]])} for key, part in groups
    ]
    table = pd.DataFrame(rows, columns=["variant", "metric", *INTERVAL])
    known = run.reach[run.reach["goal"].notna() & run.reach["metric"].isin(run.metrics)]
    shares = average_reach(known).rename(columns={"ratio": "share", "at_most": "share_at_most"}).drop(columns="seeds")
    return table.merge(shares, on=["variant", "metric"], how="left").merge(nulls, on="metric", how="left")[COLUMNS]


def family_sizes(table: pd.DataFrame) -> dict[str, int]:
    """Return how many comparisons each variant's verdicts hold for together.

    The paper's method, which a study is about, has its own measures for a family; all other variants share one.

    Args:
        table: Rows of variant, metric and seeds: of :func:`seed_ratios` or :func:`how_soon`.
    """
    if "seeds" not in table:
        table = table.groupby(["variant", "metric"], sort=False).size().reset_index(name="seeds")
    known = table[table["seeds"] >= LEAST_SEEDS]
    own, others = int((known["variant"] == PAPERS).sum()), int((known["variant"] != PAPERS).sum())
    return {name: max(1, own if name == PAPERS else others) for name in dict.fromkeys(table["variant"])}


def family_words(table: pd.DataFrame) -> str:
    """Return for how many comparisons verdicts hold together.

    Args:
        table: Of :func:`how_soon`.
    """
    sizes = family_sizes(table)
    parts = [f"{plural(sizes[PAPERS], 'measure')} of {PAPERS}"] if PAPERS in sizes else []
    others = [size for name, size in sizes.items() if name != PAPERS]
    parts += [f"{plural(others[0], 'comparison')} of the other variants"] if others else []
    return ", and for ".join(parts)


def _interval(part: pd.DataFrame, tests: int, floor: float) -> dict[str, Any]:
    """Average the logarithms of one variant and metric over seeds, with both intervals and the verdict."""
    logs, n = np.log(part["ratio"]), len(part)
    mean, spread = float(logs.mean()), float(np.fmax(logs.std(), floor))
    at_most, at_least = bool(part["at_most"].any()), bool(part["at_least"].any())
    ends = {}
    for name, half in (("", half_interval(spread, n)), ("joint_", half_interval(spread, n, tests))):
        known = np.isfinite(half)
        ends[f"{name}low"] = 0.0 if known and at_most else float(np.exp(mean - half))
        ends[f"{name}high"] = np.inf if known and at_least else float(np.exp(mean + half))
    verdict = _verdict(ends["joint_low"], ends["joint_high"])
    return {"seeds": n, "ratio": float(np.exp(mean)), "at_most": at_most, "at_least": at_least, **ends,
            "verdict": verdict}  # fmt: skip


def _verdict(low: float, high: float) -> str:
    if np.isnan(low):
        return "too few seeds"
    return "sooner" if high < 1 else "later" if low > 1 else "not separated"


def in_half(row: Any) -> bool:
    """Return whether a variant is shown to need at most half of plain's steps.

    Args:
        row: Of :func:`how_soon`.
    """
    return bool(row.verdict == "sooner" and row.joint_high <= CLAIM and row.reached == row.seeds)


def seed_ratios(run: StudyRun) -> pd.DataFrame:
    """Return the steps of each run over those of the plain run of its seed, to the last value that both reach.

    Args:
        run: The study.

    Returns:
        Columns variant, seed, metric, ratio, at_most (the run was there by its first evaluation, so the ratio is the
        largest it can be), at_least (the plain run was).
    """
    rows = []
    for metric in run.metrics:
        steps, curves = _curves(run, metric)
        for (variant, seed), curve in curves.items():
            if variant != PLAIN and (plain := curves.get((PLAIN, seed))) is not None:
                own = compare_steps(steps, curve, plain, higher=better(metric) > 0)
                rows += [(variant, seed, metric, *own)] if own else []
    return pd.DataFrame(rows, columns=["variant", "seed", "metric", "ratio", "at_most", "at_least"])


def _curves(run: StudyRun, metric: str) -> tuple[np.ndarray, dict[tuple[str, int], np.ndarray]]:
    """Return the steps, and each run's values at them by variant and seed in the study's order; NaN where missing."""
    rows = run.study[run.study["metric"] == metric]
    steps = np.unique(rows["step"])
    curves = {}
    for (variant, seed), part in rows.groupby(["variant", "seed"], sort=False):
        curves[str(variant), int(seed)] = np.full(len(steps), np.nan)
        curves[str(variant), int(seed)][np.searchsorted(steps, part["step"])] = part["value"]
    return steps.astype(float), curves


def compare_steps(
    steps: np.ndarray, own: np.ndarray, plain: np.ndarray, *, higher: bool
) -> tuple[float, bool, bool] | None:
    """Compare the steps that two curves take to the worse of their last values, which both reach.

    Args:
        steps: Of the evaluations, rising.
        own: Values at these steps; NaN where missing.
        plain: The plain run's, likewise.
        higher: Whether higher is better.

    Returns:
        Steps of the first over steps of the second; whether the first, and whether the second was there by its first
        evaluation. None where no step has both.
    """
    both = np.isfinite(own) & np.isfinite(plain)
    if not both.any():
        return None
    ends = float(own[both][-1]), float(plain[both][-1])
    goal = min(ends) if higher else max(ends)
    at, note = first_reach(steps[both], own[both], goal, higher=higher)
    plain_at, plain_note = first_reach(steps[both], plain[both], goal, higher=higher)
    return at / plain_at, note == BY_THE_FIRST, plain_note == BY_THE_FIRST


def _plain_against_plain(run: StudyRun) -> pd.DataFrame:
    """Measure what a variant identical to plain gets: columns metric, null_share, null_reached, null_factor."""
    rows = []
    for metric in run.metrics:
        (steps, curves), higher = _curves(run, metric), better(metric) > 0
        plain = [curve for (variant, _), curve in curves.items() if variant == PLAIN]
        pairs = [compare_steps(steps, a, b, higher=higher) for a, b in combinations(plain, 2)]
        logs = [np.log(pair[0]) for pair in pairs if pair]
        shares = [_share(steps, a, b, higher=higher) for a, b in permutations(plain, 2)]
        reached = np.mean([share < np.inf for share in shares]) if shares else np.nan
        share = np.mean([min(share, 1.0) for share in shares]) if shares else np.nan
        rows.append((metric, share, reached, float(np.exp(np.sqrt(np.mean(np.square(logs))))) if logs else np.nan))
    return pd.DataFrame(rows, columns=["metric", "null_share", "null_reached", "null_factor"])


def _share(steps: np.ndarray, own: np.ndarray, plain: np.ndarray, *, higher: bool) -> float:
    """Return the share of all steps after which a curve is at another's last value; infinity where it never is."""
    both = np.isfinite(own) & np.isfinite(plain)
    if not both.any():
        return np.inf
    step, _ = first_reach(steps[both], own[both], float(plain[both][-1]), higher=higher)
    return float(step / steps[both][-1]) if np.isfinite(step) else np.inf
