"""Finished runs of several variants and seeds -> the tables of a study. Pure but reading.

Every number of a variant is a mean over seeds with its 95 % interval; how fast it learns is measured against the plain
run of the same seed. Missing is NaN, counted, and never read as slow or bad.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t as student

from probe.records import (
    ATTENTION,
    CONFIG,
    EMERGENCE,
    EVALUATION_LOG,
    HIGH_NOISE,
    LOSS,
    LOSSES,
    MATCH_ERROR,
    METHODS,
    PRECISION,
    PSNR,
    PSNR_ONE_STEP,
    READOUT,
    SSIM,
    RunError,
    better,
    family,
    layer_column,
    parse_json,
    seed_folder,
    split_layer,
    trivial_column,
)
from probe.records.names import BASE, PLAIN

COMPARED = (LOSS, HIGH_NOISE, PSNR, PSNR_ONE_STEP, SSIM, MATCH_ERROR, PRECISION)
"""Metrics by which variants are compared with the plain run; "precision_12" is one of precision."""
OF_IMAGES = (PSNR, PSNR_ONE_STEP, SSIM, MATCH_ERROR)
EVALUATED = {*LOSSES, *(trivial_column(method, name) for method in METHODS for name in OF_IMAGES)}
"""Columns of a run's evaluations that a study keeps, beside those of layers."""
NEVER, BY_THE_FIRST = "never", "by the first evaluation"
NO_PLAIN, NO_GOAL = "no plain run of this seed", "the plain run has no final value"
LEAST_SEEDS = 3
"""Seeds that an interval needs at least."""
OWN_SETTINGS = ("seed", "out")
"""Settings in which the runs of one variant differ."""
RANDOM_LAYER = "random"


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A finished run of a study.

    Attributes:
        variant: Its name in the study.
        seed: Of the run.
        settings: Every resolved setting.
        values: Columns step, metric, value.
    """

    variant: str
    seed: int
    settings: dict[str, Any]
    values: pd.DataFrame


@dataclass(frozen=True, kw_only=True)
class StudyTables:
    """The tables of a study, each written as a CSV file of its name.

    Attributes:
        study: Columns variant, seed, step, metric, value.
        summary: Columns variant, step, metric, mean, low, high, count: see :func:`average_seeds`.
        reach: Columns variant, seed, metric, goal, step, ratio, note: see :func:`reach_table`.
        settings: One row per variant: see :func:`settings_table`.
    """

    study: pd.DataFrame
    summary: pd.DataFrame
    reach: pd.DataFrame
    settings: pd.DataFrame


# --- reading ---------------------------------------------------------------------------------------------------------


def read_finished(folder: Path, variant: str, seed: int) -> FinishedRun:
    """Read a finished run.

    Args:
        folder: Of python -m train.cameo.
        variant: What the study calls it.
        seed: Of the run.

    Raises:
        RunError: If one of its files cannot be used.
    """
    try:
        settings = dict(parse_json((folder / CONFIG).read_text(encoding="utf-8"))["settings"])
        values = pd.concat([_evaluations(folder / EVALUATION_LOG), _probes(folder / EMERGENCE)], ignore_index=True)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(
            f"read_finished: {folder} is not a whole training run ({error!r}); remove it and start the study again"
        ) from error
    return FinishedRun(variant=variant, seed=seed, settings=settings, values=values)


def _evaluations(path: Path) -> pd.DataFrame:
    rows = pd.DataFrame([parse_json(line) for line in path.read_text(encoding="utf-8").splitlines()])
    kept = [name for name in rows if name in EVALUATED or split_layer(str(name))[0] in (READOUT, ATTENTION)]
    return rows[["step", *kept]].astype(float).astype({"step": int}).melt("step", var_name="metric")


def _probes(path: Path) -> pd.DataFrame:
    """Read the precision of every layer; nothing where the run did not probe."""
    table = pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=["step", "layer", "value"])
    metrics = [layer_column(PRECISION, layer) for layer in table["layer"]]
    return pd.DataFrame({"step": table["step"].astype(int), "metric": metrics, "value": table["value"].astype(float)})


# --- tables ----------------------------------------------------------------------------------------------------------


def study_tables(runs: Sequence[FinishedRun]) -> StudyTables:
    """Return the tables of a study.

    Args:
        runs: Finished ones, at least one, in the order in which variants shall stand.

    Raises:
        ValueError: If runs of one variant have different settings.
    """
    parts = [run.values.assign(variant=run.variant, seed=run.seed) for run in runs]
    study = pd.concat(parts, ignore_index=True)[["variant", "seed", "step", "metric", "value"]]
    settings = settings_table(runs)
    return StudyTables(study=study, summary=average_seeds(study), reach=reach_table(study), settings=settings)


def average_seeds(study: pd.DataFrame) -> pd.DataFrame:
    r"""Average every variant, step and metric over seeds.

    .. math:: \bar x \pm t_{0.975, n - 1} \, s / \sqrt n

    Args:
        study: Columns variant, seed, step, metric, value.

    Returns:
        Columns variant, step, metric, mean, low, high (95 %, Student's t over seeds), count. The interval is NaN below
        three seeds; a seed without a value does not count.
    """
    groups = study.groupby(["variant", "step", "metric"], sort=False)["value"]
    table = groups.agg(["mean", "std", "count"]).reset_index()
    half = half_interval(table["std"].to_numpy(), table["count"].to_numpy())
    table = table.assign(low=table["mean"] - half, high=table["mean"] + half)
    return table[["variant", "step", "metric", "mean", "low", "high", "count"]]


def half_interval(std: np.ndarray | float, count: np.ndarray | int, tests: int = 1) -> Any:
    r"""Return half of the 95 % interval of a mean over seeds, :math:`t_{0.975, n - 1} \, s / \sqrt n` (Student's t).

    Args:
        std: Standard deviation over seeds, with n - 1.
        count: Number of seeds n.
        tests: Number of intervals that shall hold together with 95 % (Bonferroni).

    Returns:
        Of the same shape; NaN below three seeds.
    """
    seeds = np.where(np.asarray(count) >= LEAST_SEEDS, count, np.nan)
    return student.ppf(1 - 0.025 / tests, seeds - 1) * std / np.sqrt(seeds)


def is_compared(metric: str) -> bool:
    """Return whether variants are compared with the plain run by a metric.

    Args:
        metric: As in the tables; a layer's index may end it.
    """
    return family(metric) in COMPARED


def first_reach(steps: np.ndarray, values: np.ndarray, goal: float, *, higher: bool) -> tuple[float, str]:
    """Return the first step at which a curve reaches a goal, linear between evaluations; a tie reaches it.

    Args:
        steps: Of the evaluations, rising.
        values: Of the curve; NaN where it was not measured.
        goal: The value to reach.
        higher: Whether higher is better.

    Returns:
        The step, and a note: a goal reached by the first evaluation gives that step, which is the latest it can be;
        NaN for one that is never reached.
    """
    known = np.isfinite(values)
    at, lead = steps[known], (values[known] - goal) * (1 if higher else -1)
    reached = np.flatnonzero(lead >= 0)
    if not len(reached):
        return float("nan"), NEVER
    now = reached[0]
    if now == 0:
        return float(at[0]), BY_THE_FIRST
    share = lead[now - 1] / (lead[now - 1] - lead[now])
    return float(at[now - 1] + share * (at[now] - at[now - 1])), ""


def reach_table(study: pd.DataFrame) -> pd.DataFrame:
    """Return when each run reaches the final value of the plain run of the same seed, for every metric both have.

    Args:
        study: Columns variant, seed, step, metric, value.

    Returns:
        Columns variant, seed, metric, goal (the plain run's final value), step, ratio (the step over the plain run's
        steps), note (why the two are NaN, or that the step is the latest possible).
    """
    compared = study[study["metric"].map(is_compared)]
    plain = compared[compared["variant"] == PLAIN]
    rows = []
    for (variant, seed, metric), curve in compared.groupby(["variant", "seed", "metric"], sort=False):
        own_plain = plain[plain["seed"] == seed]
        own = _reach(curve.sort_values("step"), own_plain, str(metric))
        rows.append({"variant": variant, "seed": seed, "metric": metric, **own})
    return pd.DataFrame(rows, columns=["variant", "seed", "metric", "goal", "step", "ratio", "note"])


def _reach(curve: pd.DataFrame, plain: pd.DataFrame, metric: str) -> dict[str, float | str]:
    unknown = {"goal": float("nan"), "step": float("nan"), "ratio": float("nan")}
    if plain.empty:
        return {**unknown, "note": NO_PLAIN}
    last = int(plain["step"].max())
    final = plain[(plain["step"] == last) & (plain["metric"] == metric)]["value"].dropna()
    if final.empty:
        return {**unknown, "note": NO_GOAL}
    goal, higher = float(final.iloc[0]), better(metric) > 0
    step, note = first_reach(curve["step"].to_numpy(), curve["value"].to_numpy(), goal, higher=higher)
    return {"goal": goal, "step": step, "ratio": step / last, "note": note}


def average_reach(reach: pd.DataFrame) -> pd.DataFrame:
    """Average the ratios of a variant and metric over seeds; one that never reaches the goal counts as 1, the least.

    Args:
        reach: From :func:`reach_table`.

    Returns:
        Columns variant, metric, ratio (a lower bound where reached is below seeds), reached, seeds (those that had a
        goal), at_most (whether a seed reached it by its first evaluation, so that its ratio is the largest it can be).
    """
    known = reach[reach["goal"].notna()]
    known = known.assign(at_most=known["note"] == BY_THE_FIRST, bounded=known["ratio"].fillna(1.0))
    groups = known.groupby(["variant", "metric"], sort=False)
    how = {"ratio": ("bounded", "mean"), "reached": ("ratio", "count"), "seeds": ("ratio", "size")}
    return groups.agg(**how, at_most=("at_most", "any")).reset_index()


def settings_table(runs: Sequence[FinishedRun]) -> pd.DataFrame:
    """Return the settings in which variants differ.

    Args:
        runs: Finished ones.

    Returns:
        A row per variant; a column per setting in which variants differ, as its run folders have it.

    Raises:
        ValueError: If runs of one variant have different settings.
    """
    each: dict[str, dict[str, str]] = {}
    for run in runs:
        own = _shared_settings(run)
        differing = _differing([own, each.setdefault(run.variant, own)])
        if differing:
            raise ValueError(
                f"settings_table: runs of {run.variant} differ in {differing} (seed {run.seed} and an earlier one); "
                "remove those that are out of date and start the study again"
            )
    names = _differing(list(each.values()))
    rows = [{"variant": variant, **{name: own.get(name, "") for name in names}} for variant, own in each.items()]
    return pd.DataFrame(rows, columns=["variant", *names])


def _shared_settings(run: FinishedRun) -> dict[str, str]:
    """Return the settings that a run shares with its variant's other seeds, as text.

    A base of the run's own seed is named without the seed; a layer that the seed drew is left out.
    """
    own = {name: _plain_text(value) for name, value in run.settings.items() if name not in OWN_SETTINGS}
    if own.get("layer") == RANDOM_LAYER:
        own.pop("layers", None)
    if "model" in own:
        own["model"] = own["model"].replace(seed_folder(BASE, run.seed), BASE)
    return own


def _differing(settings: Sequence[Mapping[str, str]]) -> list[str]:
    names = {name: None for each in settings for name in each}
    return [name for name in names if len({each.get(name, "") for each in settings}) > 1]


def _plain_text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)
