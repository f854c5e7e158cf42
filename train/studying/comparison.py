"""Finished training runs of several variants and seeds -> the tables and the figure that compare them.

Every number of a variant is a mean over seeds with its 95 % interval; how fast it learns is measured against the plain
run of the same seed. Missing is NaN, counted, and never read as slow or bad.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import t as student

from probe.image_quality import MATCH_ERROR, PSNR, SSIM
from probe.records import RunError
from train.monitor import PREFIX

EVALUATION, EMERGENCE, CONFIG, CARD = "evaluation.jsonl", "emergence.csv", "config.json", "final/card.json"
PLAIN = "plain"
TRIVIAL = {method: prefix for method, prefix in PREFIX.items() if prefix}
LOSS, HIGH_NOISE, PRECISION = "loss", "loss_t900", "precision"
# Which way is better, for every metric that the plain run has too: higher (True) or lower; precision_12 is precision
HIGHER_IS_BETTER = {LOSS: False, HIGH_NOISE: False, PSNR: True, SSIM: True, MATCH_ERROR: False, PRECISION: True}
EVALUATED = re.compile(
    rf"{LOSS}|{HIGH_NOISE}|({'|'.join(PREFIX.values())})({PSNR}|{SSIM}|{MATCH_ERROR})|(readout|attention)_\d+"
)
NEVER, BY_THE_FIRST = "never", "by the first evaluation"
NO_PLAIN, NO_GOAL = "no plain run of this seed", "the plain run has no final value"
LEAST_SEEDS = 3
"""Below so many seeds there is no interval."""
OWN_SETTINGS = ("seed", "out")
"""Settings in which the runs of one variant differ."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """Hold what one finished run of a study left.

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
class Tables:
    """Hold the tables of a study.

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


def last_step(log: Path) -> int:
    """Give the step of the last whole row of a log; 0 where there is none.

    Args:
        log: One JSON object a line; the last line may be cut off.

    Raises:
        RunError: If that row has no step.
    """
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    whole = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
    try:
        return int(json.loads(whole[-1])["step"]) if whole else 0
    except (ValueError, TypeError, KeyError) as error:
        raise RunError(f"last_step: the last row of {log} has no step ({error!r}); remove that run's folder") from error


def is_finished(folder: Path, steps: int) -> bool:
    """Tell whether a run was evaluated at its last step and saved its final weights.

    Args:
        folder: Of python -m train.cameo; it need not exist.
        steps: The last step.
    """
    return (folder / CARD).is_file() and last_step(folder / EVALUATION) == steps


def read_finished(folder: Path, variant: str, seed: int) -> Finished:
    """Read a finished run.

    Args:
        folder: Of python -m train.cameo.
        variant: What the study calls it.
        seed: Of the run.

    Raises:
        RunError: If one of its files cannot be used.
    """
    try:
        settings = dict(json.loads((folder / CONFIG).read_text(encoding="utf-8"))["settings"])
        values = pd.concat([_evaluated(folder / EVALUATION), _probed(folder / EMERGENCE)], ignore_index=True)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(
            f"read_finished: {folder} is not a whole training run ({error!r}); remove it and start the study again"
        ) from error
    return Finished(variant=variant, seed=seed, settings=settings, values=values)


def _evaluated(path: Path) -> pd.DataFrame:
    rows = pd.DataFrame([json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()])
    kept = [name for name in rows if EVALUATED.fullmatch(str(name))]
    return rows[["step", *kept]].astype(float).astype({"step": int}).melt("step", var_name="metric")


def _probed(path: Path) -> pd.DataFrame:
    """Read the precision of every layer; nothing where the run did not probe."""
    table = pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=["step", "layer", "value"])
    named = [f"{PRECISION}_{layer}" for layer in table["layer"]]
    return pd.DataFrame({"step": table["step"].astype(int), "metric": named, "value": table["value"].astype(float)})


# --- tables ----------------------------------------------------------------------------------------------------------


def compare(runs: Sequence[Finished]) -> Tables:
    """Put together the tables of a study.

    Args:
        runs: Finished ones, at least one, in the order in which variants shall stand.

    Raises:
        ValueError: If runs of one variant have different settings.
    """
    parts = [run.values.assign(variant=run.variant, seed=run.seed) for run in runs]
    study = pd.concat(parts, ignore_index=True)[["variant", "seed", "step", "metric", "value"]]
    return Tables(study=study, summary=average_seeds(study), reach=reach_table(study), settings=settings_table(runs))


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
    seeds = table["count"].where(table["count"] >= LEAST_SEEDS)
    half = student.ppf(0.975, seeds - 1) * table["std"] / np.sqrt(seeds)
    table = table.assign(low=table["mean"] - half, high=table["mean"] + half)
    return table[["variant", "step", "metric", "mean", "low", "high", "count"]]


def higher_is_better(metric: str) -> bool | None:
    """Tell which way a metric is better; None if the plain run has nothing to compare it with.

    Args:
        metric: As in the tables; a layer's index may end it.
    """
    return HIGHER_IS_BETTER.get(re.sub(r"_\d+$", "", metric))


def first_reach(steps: np.ndarray, values: np.ndarray, goal: float, *, higher: bool) -> tuple[float, str]:
    """Find the first step at which a curve reaches a goal, linear between evaluations; a tie reaches it.

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
    """Find when each run reaches the final value of the plain run of the same seed, for every metric both have.

    Args:
        study: Columns variant, seed, step, metric, value.

    Returns:
        Columns variant, seed, metric, goal (the plain run's final value), step, ratio (the step over the plain run's
        steps), note (why the two are NaN, or that the step is the latest possible).
    """
    compared = study[study["metric"].map(higher_is_better).notna()]
    plain = compared[compared["variant"] == PLAIN]
    rows = []
    for (variant, seed, metric), curve in compared.groupby(["variant", "seed", "metric"], sort=False):
        own_plain = plain[plain["seed"] == seed]
        found = _reach(curve.sort_values("step"), own_plain, str(metric))
        rows.append({"variant": variant, "seed": seed, "metric": metric, **found})
    return pd.DataFrame(rows, columns=["variant", "seed", "metric", "goal", "step", "ratio", "note"])


def _reach(curve: pd.DataFrame, plain: pd.DataFrame, metric: str) -> dict[str, float | str]:
    nothing = {"goal": float("nan"), "step": float("nan"), "ratio": float("nan")}
    if plain.empty:
        return {**nothing, "note": NO_PLAIN}
    last = int(plain["step"].max())
    final = plain[(plain["step"] == last) & (plain["metric"] == metric)]["value"].dropna()
    if final.empty:
        return {**nothing, "note": NO_GOAL}
    goal, higher = float(final.iloc[0]), bool(higher_is_better(metric))
    step, note = first_reach(curve["step"].to_numpy(), curve["value"].to_numpy(), goal, higher=higher)
    return {"goal": goal, "step": step, "ratio": step / last, "note": note}


def average_reach(reach: pd.DataFrame) -> pd.DataFrame:
    """Average the ratios of a variant and metric over the seeds that reach the goal.

    Args:
        reach: From :func:`reach_table`.

    Returns:
        Columns variant, metric, ratio (NaN where no seed reaches it), reached, seeds (those that had a goal), at_most
        (whether a seed reached it by its first evaluation, so that the ratio is the largest it can be).
    """
    known = reach[reach["goal"].notna()].assign(at_most=reach["note"] == BY_THE_FIRST)
    named = {name: ("ratio", how) for name, how in (("ratio", "mean"), ("reached", "count"), ("seeds", "size"))}
    groups = known.groupby(["variant", "metric"], sort=False)
    return groups.agg(**named, at_most=("at_most", "any")).reset_index()


def settings_table(runs: Sequence[Finished]) -> pd.DataFrame:
    """Tell variants apart by their settings.

    Args:
        runs: Finished ones.

    Returns:
        A row per variant; a column per setting in which variants differ, as its run folders have it.

    Raises:
        ValueError: If runs of one variant have different settings.
    """
    each: dict[str, dict[str, str]] = {}
    for run in runs:
        own = {name: _plain_text(value) for name, value in run.settings.items() if name not in OWN_SETTINGS}
        differing = _differing([own, each.setdefault(run.variant, own)])
        if differing:
            raise ValueError(
                f"settings_table: runs of {run.variant} differ in {differing} (seed {run.seed} and an earlier one); "
                "remove those that are out of date and start the study again"
            )
    names = _differing(list(each.values()))
    rows = [{"variant": variant, **{name: own.get(name, "") for name in names}} for variant, own in each.items()]
    return pd.DataFrame(rows, columns=["variant", *names])


def _differing(settings: Sequence[Mapping[str, str]]) -> list[str]:
    names = {name: None for each in settings for name in each}
    return [name for name in names if len({each.get(name, "") for each in settings}) > 1]


def _plain_text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)


# --- figure ----------------------------------------------------------------------------------------------------------

# Okabe and Ito's colours without the yellow, which white swallows; a marker tells variants apart without colour
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "osD^vP*Xph<>8d"
TRIVIAL_STYLES = dict(zip(TRIVIAL, ("--", ":"), strict=True))
STYLE: dict[Any, Any] = {
    "font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
    "grid.color": "#dfe3e8", "axes.titlelocation": "left", "legend.frameon": False,
}  # fmt: skip


def styles(variants: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Give each variant a colour, a marker and a line of its own.

    Args:
        variants: All that a study may have: then a smaller study looks the same.
    """
    dashes = ["-" if place < len(COLOURS) else "--" for place in range(len(variants))]
    looks = zip(variants, cycle(COLOURS), cycle(MARKERS), dashes, strict=False)
    return {name: {"color": colour, "marker": mark, "linestyle": dash} for name, colour, mark, dash in looks}


def draw(summary: pd.DataFrame, panels: Mapping[str, str], looks: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draw metrics over steps: a line per variant, its 95 % interval over seeds as a band, trivial answers in grey.

    Args:
        summary: From :func:`average_seeds`.
        panels: Metric to the title of its panel.
        looks: From :func:`styles`.
    """
    with matplotlib.rc_context(STYLE):
        rows = 1 if len(panels) < 3 else 2
        columns = -(-len(panels) // rows)
        figure = Figure(figsize=(4.3 * columns + 1.6, 3.3 * rows + 0.3), layout="constrained")
        axes = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axis, (metric, title) in zip(axes, panels.items(), strict=False):
            _panel(axis, summary, metric, looks)
            axis.set(title=title, xlabel="step")
        for spare in axes[len(panels) :]:
            spare.remove()
        named = {text: line for axis in axes for line, text in zip(*axis.get_legend_handles_labels(), strict=True)}
        figure.legend(
            named.values(), named.keys(), loc="outside right upper", title="mean over seeds,\nband: 95 % interval"
        )
    return figure


def _panel(axis: Axes, summary: pd.DataFrame, metric: str, looks: Mapping[str, Mapping[str, Any]]) -> None:
    shown = summary[summary["metric"] == metric].sort_values("step")
    for variant, look in looks.items():
        line = shown[shown["variant"] == variant]
        if len(line):
            axis.plot(line["step"], line["mean"], label=variant, markersize=4.5, linewidth=1.6, **look)
            axis.fill_between(line["step"], line["low"], line["high"], color=look["color"], alpha=0.10, linewidth=0)
    for name, prefix in TRIVIAL.items():
        trivial = summary[summary["metric"] == prefix + metric]["mean"]
        if len(trivial):
            axis.axhline(trivial.iloc[0], color="#626a75", linestyle=TRIVIAL_STYLES[name], linewidth=1.2, label=name)
