"""A training run folder as small tidy tables: every figure and table of its page is one of these."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.reading import check_numbers, read_config, read_file
from analysis.training import figures as training_figures
from analysis.words import METHOD_LABELS
from probe.records import (
    ATTENTION,
    CONFIG,
    COPY,
    EMERGENCE,
    EVALUATION_LOG,
    FINAL_CARD,
    HIGH_NOISE,
    IMAGE_METRICS,
    LOSS,
    METHODS,
    PSNR,
    READOUT,
    SAMPLES,
    STEP_LOG,
    WORST,
    RunError,
    layer_column,
    parse_json,
    split_layer,
    trivial_column,
)

LOGS = (STEP_LOG, EVALUATION_LOG)
WORDS = ("scene", "view", "layer_name", "grid")
"""Columns that hold no number."""
WORST_COLUMNS = ("scene", "view", "rotation_deg", "n_ref", PSNR, trivial_column(COPY, PSNR), "truth_match_error")
VIEW_COLUMNS = ["scene", "view", "n_ref", "rotation_deg"]
EMERGENCE_COLUMNS = ("step", "layer", "layer_name", "grid", "value", "low", "high", "chance")
WINDOWS = 30
"""The running mean of a logged value spans this fraction of the run: one in 30."""
SHOWN_LAYERS = 3


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """The content of a training run folder.

    Attributes:
        name: The folder's name.
        settings: Every resolved setting.
        environment: Versions, commit, machine.
        metrics: One row per logged step.
        evaluation: One row per evaluation; may be empty.
        emergence: Precision per 3D layer over iterations, if it was measured.
        samples: A picture of the last evaluation's samples, as PNG, if there is one.
        worst: Its held-out views, the lowest PSNR first, if they were kept.
        torn: Files whose last line was cut off and left out.
        finished: Whether the final weights were saved.
    """

    name: str
    settings: dict[str, Any]
    environment: dict[str, Any]
    metrics: pd.DataFrame
    evaluation: pd.DataFrame
    emergence: pd.DataFrame | None = None
    samples: bytes | None = None
    worst: pd.DataFrame | None = None
    torn: tuple[str, ...] = ()
    finished: bool = False

    @property
    def step(self) -> int:
        """Return the last logged or evaluated step; 0 where there is none."""
        return int(max([0, *self.metrics["step"], *self.evaluation["step"]]))

    @property
    def trains_layers(self) -> bool:
        """Return whether a layer was supervised, or pursued another added objective."""
        return str(self.settings.get("layer", "none")) != "none"

    @cached_property
    def supervised(self) -> tuple[int, ...]:
        """Return the indexes of the layers that were supervised, as far as the files record them."""
        if not self.trains_layers:
            return ()
        columns = [split_layer(str(name)) for name in self.evaluation.columns]
        read_out = sorted(layer for metric, layer in columns if metric == READOUT and layer is not None)
        listed = [part.strip() for part in _plain(self.settings["layer"]).split(",")]
        if read_out or all(part.isdigit() for part in listed):
            return tuple(read_out or sorted(int(part) for part in listed))
        if self.emergence is None:
            return ()
        named = self.emergence["layer_name"].isin(self.settings.get("layers") or [])
        return tuple(sorted({int(layer) for layer in self.emergence.loc[named, "layer"]}))


def _plain(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


# --- reading ---------------------------------------------------------------------------------------------------------


def is_training(folder: Path) -> bool:
    """Return whether a folder holds a training run: its settings, and a log of its steps or of its evaluations.

    Args:
        folder: Any folder.
    """
    return (folder / CONFIG).is_file() and any((folder / name).is_file() for name in LOGS)


def read_training(folder: Path) -> TrainingRun:
    """Read a training run folder, also while the run goes on.

    Args:
        folder: Made by ``python -m train.cameo``.

    Returns:
        Its tables; a last line that was cut off is left out and named in ``torn``.

    Raises:
        RunError: If one of its files cannot be used.
    """
    config = read_config(folder, "train again")
    logs = {name: _read_rows(folder / name) for name in LOGS}
    samples = folder / SAMPLES
    return TrainingRun(
        name=folder.resolve().name,
        settings=config.settings,
        environment=config.environment,
        metrics=logs[STEP_LOG][0],
        evaluation=logs[EVALUATION_LOG][0],
        emergence=_read_emergence(folder / EMERGENCE),
        samples=samples.read_bytes() if samples.is_file() else None,
        worst=_read_table(folder / WORST, WORST_COLUMNS),
        torn=tuple(name for name, (_, torn) in logs.items() if torn),
        finished=(folder / FINAL_CARD).is_file(),
    )


def _read_rows(path: Path) -> tuple[pd.DataFrame, bool]:
    """Read a log of one JSON object a line, steps rising; tell whether its last line was cut off."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    rows = [_row(line) for line in lines]
    torn = bool(rows) and rows[-1] is None
    whole = rows[:-1] if torn else rows
    bad = [number for number, row in enumerate(whole, 1) if row is None]
    if bad:
        raise RunError(
            f"read_training: line {bad[0]} of {path} is not a JSON object with a step; mend or remove that line"
        )
    return _numbers(pd.DataFrame(whole, columns=None if whole else ["step"]), path), torn


def _row(line: str) -> dict[str, Any] | None:
    try:
        row = parse_json(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and "step" in row else None


def _numbers(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    try:
        table = table.astype(float).astype({"step": int})
    except (ValueError, TypeError) as error:
        raise RunError(f"read_training: {path} holds what is no number: {error}; mend or remove that row") from error
    return table.drop_duplicates("step", keep="last").sort_values("step", ignore_index=True)


def _read_emergence(path: Path) -> pd.DataFrame | None:
    table = _read_table(path, EMERGENCE_COLUMNS)
    return None if table is None else table.sort_values(["step", "layer"], ignore_index=True)


def _read_table(path: Path, columns: Sequence[str]) -> pd.DataFrame | None:
    """Read a table that may be absent or empty."""
    if not path.is_file():
        return None
    advice = "remove it or probe again"
    table: pd.DataFrame = read_file(path, pd.read_csv, advice, columns)
    check_numbers(table, path, advice, numbers=[name for name in columns if name not in WORDS])
    return table if len(table) else None


# --- tables ----------------------------------------------------------------------------------------------------------


def last_row(run: TrainingRun, column: str) -> pd.Series | None:
    """Return the last evaluation that has a value of a column; None where none has.

    Args:
        run: The training run.
        column: Of the evaluation.
    """
    known = run.evaluation[run.evaluation[column].notna()] if column in run.evaluation else run.evaluation.iloc[:0]
    return None if known.empty else known.iloc[-1]


def measured(run: TrainingRun) -> list[str]:
    """List the measures of image quality that the run has."""
    return [name for name in IMAGE_METRICS if last_row(run, name) is not None]


def losses(run: TrainingRun) -> pd.DataFrame:
    """Return the losses over iterations: columns panel (loss, loss_t900, objective), who, step, value."""
    parts = [*_logged(run, LOSS, LOSS), _line(run.evaluation, LOSS, LOSS, training_figures.VALIDATION)]
    parts += [_line(run.evaluation, HIGH_NOISE, HIGH_NOISE, training_figures.VALIDATION)]
    if run.trains_layers:
        parts += _logged(run, "objective", "objective")
    return _join(parts)


def cost(run: TrainingRun) -> pd.DataFrame:
    """Return the gradient's norm and the seconds of each logged step: columns panel, who, step, value."""
    return _join([part for column in ("gradient_norm", "seconds") for part in _logged(run, column, column)])


def quality(run: TrainingRun) -> pd.DataFrame:
    """Return image quality beside trivial baselines: columns panel (the metric), who, step, value."""
    each = [(name, method) for name in measured(run) for method in METHODS]
    return _join(
        [_line(run.evaluation, trivial_column(method, name), name, METHOD_LABELS[method]) for name, method in each]
    )


def readouts(run: TrainingRun) -> pd.DataFrame:
    """Return both precisions of each supervised layer over iterations: columns panel (its index), who, step, value."""
    both = {training_figures.READOUT: READOUT, training_figures.ATTENTION: ATTENTION}
    each = [(n, who, metric) for n in run.supervised for who, metric in both.items()]
    return _join([_line(run.evaluation, layer_column(metric, n), str(n), who) for n, who, metric in each])


def _line(frame: pd.DataFrame, column: str, panel: str, who: str) -> pd.DataFrame:
    if column not in frame:
        return pd.DataFrame()
    known = frame[np.isfinite(frame[column])]
    return pd.DataFrame({"panel": panel, "who": who, "step": known["step"], "value": known[column]})


def _logged(run: TrainingRun, column: str, panel: str) -> list[pd.DataFrame]:
    each = _line(run.metrics, column, panel, training_figures.LOGGED)
    if each.empty:
        return []
    window = math.ceil(len(each) / WINDOWS)
    mean = each["value"].rolling(window, center=True, min_periods=1).mean()
    return [each, each.assign(who=training_figures.RUNNING_MEAN, value=mean)] if window > 1 else [each]


def _join(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    full = [part for part in parts if len(part)]
    return pd.concat(full, ignore_index=True) if full else pd.DataFrame(columns=["panel", "who", "step", "value"])


def shown_layers(run: TrainingRun) -> list[int]:
    """Choose the layers that stand out: the supervised ones; without any, the best at the last probe.

    Args:
        run: The training run.
    """
    if run.emergence is None:
        return []
    last = run.emergence[run.emergence["step"] == run.emergence["step"].max()]
    ranked = last.sort_values(["value", "layer"], ascending=[False, True])["layer"]
    return [int(n) for n in run.supervised if n in set(last["layer"])] or [int(n) for n in ranked[:SHOWN_LAYERS]]


def tradeoff(run: TrainingRun) -> pd.DataFrame:
    """Return precision and PSNR of each checkpoint that has both: columns who ("layer 10"), step, precision, quality.

    Precision is that of the probes; without any, that of the attention at the supervised layers.
    """
    quality = _line(run.evaluation, PSNR, "", "").rename(columns={"value": "quality"})
    columns = ["who", "step", "precision", "quality"]
    parts = [part.assign(who=f"layer {layer}") for layer, part in _precision_of_layers(run).items()]
    if not parts or quality.empty:
        return pd.DataFrame(columns=columns)
    precision = pd.concat(parts).rename(columns={"value": "precision"})
    return precision.merge(quality[["step", "quality"]], on="step")[columns]


def _precision_of_layers(run: TrainingRun) -> dict[int, pd.DataFrame]:
    table = run.emergence
    if table is None:
        parts = {n: _line(run.evaluation, layer_column(ATTENTION, n), "", "") for n in run.supervised}
    else:
        parts = {n: table[(table["layer"] == n) & table["value"].notna()] for n in shown_layers(run)}
    return {layer: part[["step", "value"]] for layer, part in parts.items() if len(part)}
