"""What a study's page shows, as small tidy tables. Pure."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.study.run import StudyRun
from analysis.study.seeds import LEAST_SEEDS, half_interval
from analysis.trivial import Trivial, best_trivial
from analysis.words import METHOD_LABELS
from probe.records import ATTENTION, PRECISION, PREFIXES, READOUT, TRIVIAL, better, split_layer, trivial_column
from probe.records.names import PLAIN

ROLES = ("plain", "supervised", "another layer", "a rival", "a control")


def roles(run: StudyRun) -> dict[str, str]:
    """Return what each variant is for, from its settings: one of ``ROLES``.

    A control is given false truth; a rival pursues another objective; another layer is one other than the study's.
    """
    return {row["variant"]: _role(row, str(run.settings.get("layer", ""))) for row in run.variants.to_dict("records")}


def _role(row: dict[Any, str], layer: str) -> str:
    if row["variant"] == PLAIN or row.get("layer") == "none":
        return "plain"
    if row.get("control", "none") not in ("none", ""):
        return "a control"
    if row.get("objective", "cameo") not in ("cameo", ""):
        return "a rival"
    return "another layer" if layer and row.get("layer", layer) not in (layer, "") else "supervised"


def ordered(run: StudyRun) -> list[str]:
    """Return the variants but plain: supervised, another layer, rivals, controls."""
    role = roles(run)
    return sorted((name for name in run.names if name != PLAIN), key=lambda name: ROLES.index(role[name]))


def convergence(run: StudyRun, metrics: list[str]) -> pd.DataFrame:
    """Return each metric over steps, of every variant and trivial baseline.

    Args:
        run: The study.
        metrics: Those to keep.

    Returns:
        Columns panel (the metric), who, step, value, low, high, count (of seeds; all share the trivial baselines).
    """
    named = {"mean": "value", "metric": "panel", "variant": "who"}
    own = run.summary[run.summary["metric"].isin(metrics)].rename(columns=named)
    first = run.summary[run.summary["variant"] == run.names[0]]
    parts = [own]
    for method in TRIVIAL:
        prefix = PREFIXES[method]
        rows = first[first["metric"].isin([prefix + name for name in metrics])]
        panel = rows["metric"].str.removeprefix(prefix)
        parts.append(rows.rename(columns=named).assign(panel=panel, who=METHOD_LABELS[method], low=np.nan, high=np.nan))
    table = pd.concat(parts, ignore_index=True)[["panel", "who", "step", "value", "low", "high", "count"]]
    return table[table["value"].notna()].reset_index(drop=True)


def best_of(run: StudyRun, metric: str) -> Trivial | None:
    """Return the best trivial baseline by a metric at the last step; all runs share it.

    Args:
        run: The study.
        metric: Its name.
    """
    last = run.summary[(run.summary["step"] == run.step) & (run.summary["variant"] == run.names[0])]
    values = last.set_index("metric")["mean"]
    return best_trivial(metric, lambda method: values.get(trivial_column(method, metric), np.nan))


def differences(run: StudyRun, base: str = PLAIN, variants: Sequence[str] | None = None) -> pd.DataFrame:
    r"""Compare each variant's last value with that of the run of another variant with the same seed, metric by metric.

    .. math:: \bar d \pm t_{1 - 0.025 / m,\, n - 1} \, s_d / \sqrt n

    Args:
        run: The study.
        base: The variant that the others are compared with.
        variants: Those to compare, by intervals that hold for all m of them together (Bonferroni), metric by metric;
            None for all, each by an interval of its own (m = 1).

    Returns:
        Columns variant, metric, value, low, high (95 %, Student's t over seeds; NaN below three), seeds, gain (value,
        signed so that more is better), verdict ("better", "worse", "not separable", "too few seeds").
    """
    paired = seed_differences(run, base)
    if variants is not None:
        paired = paired[paired["variant"].isin(variants)]
    rows = []
    for metric, of_metric in paired.groupby("metric", sort=False):
        sizes = of_metric.groupby("variant", sort=False).size()
        tests = 1 if variants is None else max(1, int((sizes >= LEAST_SEEDS).sum()))
        for variant, part in of_metric.groupby("variant", sort=False):
            difference, n = part["difference"], len(part)
            half = float(half_interval(difference.std(), n, tests))
            mean, sign = float(difference.mean()), better(str(metric))
            rows.append((variant, metric, mean, mean - half, mean + half, n, sign * mean, _verdict(sign * mean, half)))
    columns = ["variant", "metric", "value", "low", "high", "seeds", "gain", "verdict"]
    return _in_order(paired, pd.DataFrame(rows, columns=columns))


def _in_order(paired: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Sort as variants and metrics first stand in the paired rows."""
    keys = ["variant", "metric"]
    return paired[keys].drop_duplicates().merge(table, on=keys, how="left")


def _verdict(gain: float, half: float) -> str:
    if np.isnan(half):
        return "too few seeds"
    return "better" if gain > half else "worse" if gain < -half else "not separable"


def seed_differences(run: StudyRun, base: str = PLAIN) -> pd.DataFrame:
    """Return the difference of each run's last value to the run of another variant with its seed.

    Args:
        run: The study.
        base: The variant that the others are compared with.

    Returns:
        Columns variant, seed, metric, value, base, difference, gain (signed so that more is better).
    """
    last = run.study[(run.study["step"] == run.step) & run.study["metric"].isin(run.metrics)].dropna(subset=["value"])
    compared = last[last["variant"] == base].set_index(["seed", "metric"])["value"].rename("base")
    table = last[last["variant"] != base].join(compared, on=["seed", "metric"]).dropna(subset=["base"])
    difference = table["value"] - table["base"]
    gain = difference * table["metric"].map(better).astype(float)
    return table.assign(difference=difference, gain=gain)[
        ["variant", "seed", "metric", "value", "base", "difference", "gain"]
    ]


def readout(run: StudyRun) -> pd.DataFrame:
    """Return both precisions of each variant's supervised layers over steps, and their gap at each.

    Returns:
        Columns panel (variant and layer), who ("readout", "attention"), step, value, low, high, count; empty where no
        variant reads out.
    """
    parts = run.summary["metric"].map(split_layer)
    rows = run.summary.assign(who=parts.str[0], layer=parts.str[1])
    rows = rows[rows["who"].isin([READOUT, ATTENTION]) & rows["layer"].notna()].astype({"layer": int})
    panel = rows["variant"].astype(str) + ", layer " + rows["layer"].astype(str)
    table = rows.assign(panel=panel).rename(columns={"mean": "value"})
    return table[["panel", "who", "step", "value", "low", "high", "count"]].reset_index(drop=True)


def probed(run: StudyRun) -> pd.DataFrame:
    """Return the precision of every probed layer at the last step: columns variant, layer, value, low, high, count."""
    rows = run.summary[run.summary["step"] == run.step].rename(columns={"mean": "value"})
    parts = rows["metric"].map(split_layer)
    rows = rows.assign(layer=parts.str[1])[parts.str[0] == PRECISION]
    table = rows[["variant", "layer", "value", "low", "high", "count"]].astype({"layer": int})
    return table.sort_values(["layer"], kind="stable")
