"""A study's folder: variants of the training times seeds."""

from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.reading import read_config, read_file, whole_lines
from analysis.study.claims.parts import Parts, read_parts
from probe.records import (
    CONFIG,
    IMAGE_METRICS,
    LOSSES,
    PRECISION,
    STEP_LOG,
    STUDY_TABLES,
    RunError,
    layer_column,
    parse_json,
    seed_folder,
    split_layer,
)

COLUMNS = {
    "study": ("variant", "seed", "step", "metric", "value"),
    "summary": ("variant", "step", "metric", "mean", "low", "high", "count"),
    "reach": ("variant", "seed", "metric", "goal", "step", "ratio", "note"),
    "settings": ("variant",),
}
"""The columns that the page needs of each table."""
ADVICE = "start the study again, which writes it"


@dataclass(frozen=True, kw_only=True)
class StudyRun:
    """The content of a study's folder.

    Attributes:
        name: The folder's name.
        settings: Every resolved setting of the study.
        environment: Versions, commit, machine.
        study: A row per finished variant, seed, step and metric.
        summary: The same averaged over seeds, with its interval.
        reach: When each run reaches the final value of the plain run of its seed.
        variants: A row per variant: the settings in which variants differ, as text.
        seconds: Median seconds per step of each finished run: columns variant, seed, seconds.
        parts: Probes, evaluations and samples, of a study that has them.
    """

    name: str
    settings: dict[str, Any]
    environment: dict[str, Any]
    study: pd.DataFrame
    summary: pd.DataFrame
    reach: pd.DataFrame
    variants: pd.DataFrame
    seconds: pd.DataFrame
    parts: Parts | None = None

    @property
    def names(self) -> list[str]:
        """Return the variants in the order of the study."""
        return [str(name) for name in self.variants["variant"]]

    @cached_property
    def step(self) -> int:
        """Return the last step of the study."""
        return int(self.summary["step"].max())

    @cached_property
    def seeds(self) -> dict[str, int]:
        """Return the number of finished seeds of each variant."""
        return {str(name): int(n) for name, n in self.study.groupby("variant")["seed"].nunique().items()}

    @cached_property
    def shared_seeds(self) -> list[int]:
        """Return the seeds that every variant was trained with."""
        return sorted(map(int, set.intersection(*self.study.groupby("variant")["seed"].agg(set))))

    @cached_property
    def metrics(self) -> list[str]:
        """Return the metrics by which variants can be compared: losses, image quality, precision of the study's layers.

        Without settings that name the layers, precision of all that were probed.
        """
        present = {str(name) for name in self.summary.loc[self.summary["mean"].notna(), "metric"]}
        layers = [int(self.settings[key]) for key in ("layer", "other_layer") if key in self.settings]
        probed = sorted(layer for base, layer in map(split_layer, present) if base == PRECISION and layer is not None)
        shown = [layer for layer in layers if layer in probed] or probed
        metrics = [name for name in (*LOSSES, *IMAGE_METRICS) if name in present]
        return metrics + [layer_column(PRECISION, layer) for layer in shown]


# --- reading ---------------------------------------------------------------------------------------------------------


def is_study(folder: Path) -> bool:
    """Return whether a folder holds a study of which at least one run is finished.

    Args:
        folder: Any folder.
    """
    return all((folder / f"{name}.csv").is_file() for name in STUDY_TABLES)


def read_study(folder: Path) -> StudyRun:
    """Read a study's folder, also while the study goes on.

    Args:
        folder: Made by ``python -m train.study``.

    Raises:
        RunError: If one of its files cannot be used.
    """
    config = read_config(folder, ADVICE) if (folder / CONFIG).is_file() else None
    tables = {name: _table(folder / f"{name}.csv", columns) for name, columns in COLUMNS.items()}
    settings = config.settings if config else {}
    return StudyRun(
        name=folder.resolve().name,
        settings=settings,
        environment=config.environment if config else {},
        study=tables["study"],
        summary=tables["summary"],
        reach=tables["reach"].fillna({"note": ""}),
        variants=tables["settings"].fillna("").astype(str),
        seconds=_seconds(folder, tables["study"]),
        parts=read_parts(folder, settings),
    )


def _table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """Read a table; of settings every cell is text."""
    settings = path.stem == "settings"
    text = {"variant": str, "metric": str, "note": str, **({"layer": str} if settings else {})}
    table = read_file(path, partial(pd.read_csv, dtype=text, keep_default_na=not settings), ADVICE, columns)
    if table.empty:
        raise RunError(f"read_study: {path} has no rows; {ADVICE}")
    return table


def _seconds(folder: Path, study: pd.DataFrame) -> pd.DataFrame:
    """Read how long a step of each finished run took, where its log is there."""
    rows = []
    for variant, seed in study[["variant", "seed"]].drop_duplicates().itertuples(index=False):
        log = folder / seed_folder(variant, int(seed)) / STEP_LOG
        seconds = [parse_json(line).get("seconds") for line in whole_lines(log)]
        known = [float(value) for value in seconds if value is not None]
        if known:
            rows.append((variant, seed, float(np.median(known)), len(known)))
    return pd.DataFrame(rows, columns=["variant", "seed", "seconds", "count"])
