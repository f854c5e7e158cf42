"""A study's folder, variants of the training times seeds, as small tidy tables: its page is drawn from these."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t as student

from analysis.training.figures import COPY, MEAN_COLOUR
from analysis.training.run import CONFIG, METRICS
from probe.records import RunError

FILES = {
    "study": ("variant", "seed", "step", "metric", "value"),
    "summary": ("variant", "step", "metric", "mean", "low", "high", "count"),
    "reach": ("variant", "seed", "metric", "goal", "step", "ratio", "note"),
    "settings": ("variant",),
}
"""The files of a study without their ending, and the columns that the page needs of each."""
PLAIN = "plain"
TRIVIAL = {COPY: "copy_", MEAN_COLOUR: "mean_colour_"}
BY_THE_FIRST = "by the first evaluation"
LEAST_SEEDS = 3
"""Below so many seeds there is no interval."""
BETTER = {"loss": -1, "loss_t900": -1, "psnr": 1, "ssim": 1, "lpips": -1, "match_error": -1, "precision": 1}
"""Metrics that variants are compared by, and whether more of it is better; precision_12 is a precision."""
ROLES = ("plain", "supervised", "another layer", "a rival", "a control")


@dataclass(frozen=True, kw_only=True)
class StudyRun:
    """Hold what a study's folder holds.

    Attributes:
        name: The folder's name.
        settings: Every resolved setting of the study.
        environment: Versions, commit, machine.
        study: A row per finished variant, seed, step and metric.
        summary: The same averaged over seeds, with its interval.
        reach: When each run reaches the final value of the plain run of its seed.
        variants: A row per variant: the settings in which variants differ, as text.
        seconds: Median seconds per step of each finished run: columns variant, seed, seconds.
    """

    name: str
    settings: dict[str, Any]
    environment: dict[str, Any]
    study: pd.DataFrame
    summary: pd.DataFrame
    reach: pd.DataFrame
    variants: pd.DataFrame
    seconds: pd.DataFrame

    @property
    def names(self) -> list[str]:
        """Give the variants in the order of the study."""
        return [str(name) for name in self.variants["variant"]]

    @cached_property
    def step(self) -> int:
        """Give the last step of the study."""
        return int(self.summary["step"].max())

    @cached_property
    def seeds(self) -> dict[str, int]:
        """Count the finished seeds of each variant."""
        return {str(name): int(n) for name, n in self.study.groupby("variant")["seed"].nunique().items()}

    @cached_property
    def metrics(self) -> list[str]:
        """List what variants can be compared by, in the order of ``BETTER``; of precisions those of the study's layers.

        Without settings that name the layers, all that were probed.
        """
        present = {str(name) for name in self.summary.loc[self.summary["mean"].notna(), "metric"]}
        layers = [str(self.settings[key]) for key in ("layer", "other_layer") if key in self.settings]
        probed = sorted((name for name in present if name.startswith("precision_")), key=_index)
        chosen = [name for name in (f"precision_{layer}" for layer in layers) if name in probed] or probed
        return [name for name in BETTER if name in present] + chosen


def _index(metric: str) -> int:
    return int(metric.rpartition("_")[2])


def better(metric: str) -> int:
    """Tell which way a metric is better: 1 if more is better, -1 if less is.

    Args:
        metric: One of a study's metrics.
    """
    return BETTER[metric if metric in BETTER else metric.rpartition("_")[0]]


# --- reading ---------------------------------------------------------------------------------------------------------


def is_study(folder: Path) -> bool:
    """Tell whether a folder holds a study of which at least one run is finished.

    Args:
        folder: Any folder.
    """
    return all((folder / f"{name}.csv").is_file() for name in FILES)


def read_study(folder: Path) -> StudyRun:
    """Read a study's folder, also while the study goes on.

    Args:
        folder: Made by ``python -m train.study``.

    Raises:
        RunError: If one of its files cannot be used.
    """
    settings, environment = _config(folder / CONFIG)
    tables = {name: _table(folder / f"{name}.csv", columns) for name, columns in FILES.items()}
    return StudyRun(
        name=folder.resolve().name,
        settings=settings,
        environment=environment,
        study=tables["study"],
        summary=tables["summary"],
        reach=tables["reach"].fillna({"note": ""}),
        variants=tables["settings"].fillna("").astype(str),
        seconds=_seconds(folder, tables["study"]),
    )


def _config(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    if not path.is_file():
        return {}, {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        return dict(config["settings"]), dict(config["environment"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(f"read_study: {path} is not the config.json of a study ({error!r}); start it again") from error


def _table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    text = {"variant": str, "metric": str, "note": str} | ({} if path.stem != "settings" else {"layer": str})
    try:
        table = pd.read_csv(path, dtype=text, keep_default_na=path.stem != "settings")
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"read_study: {path} cannot be read: {reason}; the study writes it again") from error
    absent = [name for name in columns if name not in table]
    if absent or table.empty:
        lacks = ", ".join(absent) or "any row"
        raise RunError(f"read_study: {path} lacks {lacks}; remove it, the study writes it again")
    return table


def _seconds(folder: Path, study: pd.DataFrame) -> pd.DataFrame:
    """Read how long a step of each finished run took, where its log is there."""
    rows = []
    for variant, seed in study[["variant", "seed"]].drop_duplicates().itertuples(index=False):
        log = folder / f"{variant}-seed{seed}" / METRICS
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True) if log.is_file() else []
        taken = [json.loads(line).get("seconds") for line in lines if line.endswith("\n")]
        known = [float(value) for value in taken if value is not None]
        if known:
            rows.append((variant, seed, float(np.median(known)), len(known)))
    return pd.DataFrame(rows, columns=["variant", "seed", "seconds", "count"])


# --- tables ----------------------------------------------------------------------------------------------------------


def roles(run: StudyRun) -> dict[str, str]:
    """Tell what each variant is for, from its settings: one of ``ROLES``.

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


def convergence(run: StudyRun, metrics: list[str]) -> pd.DataFrame:
    """Give each metric over steps: columns panel (the metric), who (variant or trivial answer), step, value, low, high.

    Column count tells how many seeds stand behind a value; a trivial answer is the same for all of them.
    """
    named = {"mean": "value", "metric": "panel", "variant": "who"}
    own = run.summary[run.summary["metric"].isin(metrics)].rename(columns=named)
    first = run.summary[run.summary["variant"] == run.names[0]]
    parts = [own]
    for who, prefix in TRIVIAL.items():
        rows = first[first["metric"].isin([prefix + name for name in metrics])]
        panel = rows["metric"].str.removeprefix(prefix)
        parts.append(rows.rename(columns=named).assign(panel=panel, who=who, low=np.nan, high=np.nan))
    table = pd.concat(parts, ignore_index=True)[["panel", "who", "step", "value", "low", "high", "count"]]
    return table[table["value"].notna()].reset_index(drop=True)


def differences(run: StudyRun) -> pd.DataFrame:
    r"""Compare each variant's last value with that of the plain run of the same seed, metric by metric.

    .. math:: \bar d \pm t_{0.975, n - 1} \, s_d / \sqrt n

    Returns:
        Columns variant, metric, value, low, high (95 %, Student's t over seeds; NaN below three), seeds, gain (value,
        signed so that more is better), verdict ("better", "worse", "not separable", "too few seeds").
    """
    paired = seed_differences(run)
    rows = []
    for (variant, metric), part in paired.groupby(["variant", "metric"], sort=False):
        found = part["difference"]
        n = len(found)
        half = student.ppf(0.975, n - 1) * found.std() / np.sqrt(n) if n >= LEAST_SEEDS else float("nan")
        mean, sign = float(found.mean()), better(str(metric))
        rows.append((variant, metric, mean, mean - half, mean + half, n, sign * mean, _verdict(sign * mean, half)))
    columns = ["variant", "metric", "value", "low", "high", "seeds", "gain", "verdict"]
    return pd.DataFrame(rows, columns=columns)


def _verdict(gain: float, half: float) -> str:
    if np.isnan(half):
        return "too few seeds"
    return "better" if gain > half else "worse" if gain < -half else "not separable"


def seed_differences(run: StudyRun) -> pd.DataFrame:
    """Give the difference of each run's last value to the plain run of its seed, the worst first.

    Returns:
        Columns variant, seed, metric, value, plain, difference, gain (signed so that more is better).
    """
    last = run.study[(run.study["step"] == run.step) & run.study["metric"].isin(run.metrics)].dropna(subset=["value"])
    plain = last[last["variant"] == PLAIN].set_index(["seed", "metric"])["value"].rename("plain")
    table = last[last["variant"] != PLAIN].join(plain, on=["seed", "metric"]).dropna(subset=["plain"])
    difference = table["value"] - table["plain"]
    gain = difference * table["metric"].map(better).astype(float)
    return table.assign(difference=difference, gain=gain)[
        ["variant", "seed", "metric", "value", "plain", "difference", "gain"]
    ]


def reached(run: StudyRun) -> pd.DataFrame:
    """Average how soon each variant reaches the plain run's final value, over the seeds that do.

    Returns:
        Columns variant, metric, ratio (steps over the plain run's; NaN where no seed reaches it), reached, seeds,
        at_most (whether a seed was there by its first evaluation, so that the ratio is the largest it can be), lead
        (by how much sooner than the plain run of its seed, whose noisy curve may be there before its end), low, high
        (95 %, Student's t over seeds; NaN below three, or where one never is), verdict.
    """
    wanted = run.reach["goal"].notna() & run.reach["metric"].isin(run.metrics)
    known = run.reach[wanted].assign(at_most=run.reach["note"] == BY_THE_FIRST)
    groups = known.groupby(["variant", "metric"], sort=False)
    return (
        groups.agg(
            ratio=("ratio", "mean"), reached=("ratio", "count"), seeds=("goal", "size"), at_most=("at_most", "any")
        )
        .reset_index()
        .merge(_leads(known), on=["variant", "metric"], how="left")
    )


def _leads(known: pd.DataFrame) -> pd.DataFrame:
    plain = known[known["variant"] == PLAIN].set_index(["seed", "metric"])["ratio"].rename("plain")
    each = known.join(plain, on=["seed", "metric"])
    rows = []
    for (variant, metric), part in each.groupby(["variant", "metric"], sort=False):
        lead, n = part["plain"] - part["ratio"], len(part)
        whole = n >= LEAST_SEEDS and bool(lead.notna().all())
        half = student.ppf(0.975, n - 1) * lead.std() / np.sqrt(n) if whole else float("nan")
        mean = float(lead.mean())
        rows.append((variant, metric, mean, mean - half, mean + half, _lead_verdict(part["ratio"], mean, half)))
    return pd.DataFrame(rows, columns=["variant", "metric", "lead", "low", "high", "verdict"])


def _lead_verdict(ratio: pd.Series, mean: float, half: float) -> str:
    if ratio.isna().all():
        return "never"
    if ratio.isna().any():
        return "not by every seed"
    if np.isnan(half):
        return "too few seeds"
    return "sooner" if mean > half else "later" if mean < -half else "not separable"


def readout(run: StudyRun) -> pd.DataFrame:
    """Give both precisions of each variant's supervised layers over steps, and their gap at each.

    Returns:
        Columns panel (variant and layer), who ("readout", "attention"), step, value, low, high, count; empty where no
        variant reads out.
    """
    parts = run.summary["metric"].str.extract(r"^(readout|attention)_(\d+)$")
    rows = run.summary[parts[0].notna()].assign(who=parts[0], layer=parts[1])
    panel = rows["variant"].astype(str) + ", layer " + rows["layer"].astype(str)
    table = rows.assign(panel=panel).rename(columns={"mean": "value"})
    return table[["panel", "who", "step", "value", "low", "high", "count"]].reset_index(drop=True)


def probed(run: StudyRun) -> pd.DataFrame:
    """Give the precision of every probed layer at the last step: columns variant, layer, value, low, high, count."""
    rows = run.summary[(run.summary["step"] == run.step) & run.summary["metric"].str.startswith("precision_")]
    table = rows.assign(layer=rows["metric"].map(_index)).rename(columns={"mean": "value"})
    return table[["variant", "layer", "value", "low", "high", "count"]].sort_values(["layer"], kind="stable")
