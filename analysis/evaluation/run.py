"""A folder of python -m train.evaluate as small tidy tables: every figure and table of its page is one of these."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.reading import check_numbers, read_config, read_file, read_json
from analysis.trivial import Trivial, best_trivial
from analysis.words import METHOD_LABELS, THESE_PREDICTIONS
from probe.records import (
    ALL_ROTATIONS,
    CONFIG,
    COPY,
    IMAGE_METRICS,
    IMAGES,
    METHODS,
    MODEL,
    PARTS,
    PSNR,
    SAMPLE_METRICS,
    SAMPLES,
    SCENES_NOTE,
    SUMMARY,
    TRIVIAL,
    TRUTH,
    WORST,
    RunError,
    digest,
    rotation_bin,
    rotation_bin_names,
    split_set_metric,
    summarise,
    trivial_column,
)
from probe.records.intervals import joint_widening, ratios, wide
from probe.records.names import GEOMETRY, GEOMETRY_METHODS
from probe.records.table import unit_sums

ADVICE = "evaluate again"
UNPOSED = -1.0  # stands for the rotation of a view without cameras
VIEW = ["scene", "view", "n_ref", "rotation_deg"]
COLUMNS = {
    IMAGES: (*VIEW, "method", "metric", "value", "count"),
    SUMMARY: ("n_ref", "rotation_bin", "method", "metric", "value", "low", "high", "scenes", "count", "note"),
    WORST: (*VIEW, *SAMPLE_METRICS, trivial_column(COPY, PSNR), "truth_match_error"),
}
GEOMETRY_COLUMNS = (*VIEW, "reference", "method", "metric", "value", "count")
NAMES = ("scene", "rotation_bin", "method", "metric")
KEYS = {
    IMAGES: ("scene", "view", "n_ref", "method", "metric"),
    SUMMARY: ("n_ref", "rotation_bin", "method", "metric"),
    WORST: ("scene", "view", "n_ref"),
    GEOMETRY: ("scene", "view", "n_ref", "reference", "method", "metric"),
}
"""Columns that tell the rows of a table apart."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The content of a folder of python -m train.evaluate.

    Attributes:
        name: The folder's name.
        settings: Every resolved setting.
        environment: Versions, commit, machine.
        images: One row per target view, number of references, method and metric.
        summary: Their means per number of references, rotation bin, method and metric, and the distances of sets.
        worst: One row per generated view, the lowest PSNR first.
        samples: A picture of the worst and of median cases, as PNG, if there is one.
        note: What was left out of real scenes, and other notes on them.
        geometry: One row per target view, reference, number of references, method and metric, if it was measured.
    """

    name: str
    settings: dict[str, Any]
    environment: dict[str, Any]
    images: pd.DataFrame
    summary: pd.DataFrame
    worst: pd.DataFrame
    samples: bytes | None = None
    note: str = ""
    geometry: pd.DataFrame | None = None

    @property
    def predictions(self) -> str:
        """Return the folder of another program's images that were measured; nothing where they are a model's."""
        return str(self.settings.get("predictions") or "")

    @property
    def labels(self) -> dict[str, str]:
        """Return how figures and tables name each method."""
        return METHOD_LABELS | ({MODEL: THESE_PREDICTIONS} if self.predictions else {})

    @cached_property
    def references(self) -> list[int]:
        """Return the numbers of references that were measured."""
        return sorted({int(n) for n in self.images["n_ref"]})

    @cached_property
    def scenes(self) -> int:
        """Return the number of scenes."""
        return int(self.images["scene"].nunique())

    @cached_property
    def units(self) -> list[str]:
        """Return the independent units: recordings, blocks of time of a lone one, or procedural scenes."""
        return sorted({str(name) for name in self.images["unit" if "unit" in self.images else "scene"]})

    @cached_property
    def views(self) -> pd.DataFrame:
        """List the target views, once for each number of references."""
        return self.images[VIEW].drop_duplicates().sort_values(VIEW[:3], ignore_index=True)

    @cached_property
    def view_list(self) -> str:
        """Return the digest of the list of views: equal lists were measured on equal views."""
        return digest(self.views)

    @cached_property
    def measured(self) -> list[str]:
        """List the measures of single images of which anything is known."""
        known = set(self.summary.loc[self.summary["value"].notna(), "metric"])
        return [name for name in IMAGE_METRICS if name in known]


def is_evaluation(folder: Path) -> bool:
    """Return whether a folder holds a finished run of python -m train.evaluate.

    Args:
        folder: Any folder.
    """
    return all((folder / name).is_file() for name in (CONFIG, *COLUMNS)) and not (folder / PARTS).exists()


def read_evaluation(folder: Path) -> Evaluation:
    """Read a folder of python -m train.evaluate.

    Args:
        folder: Of a finished run.

    Raises:
        RunError: If one of its files cannot be used.
    """
    config = read_config(folder, ADVICE)
    images, summary, worst = (_table(folder / name, columns) for name, columns in COLUMNS.items())
    samples, note, geometry = (folder / name for name in (SAMPLES, SCENES_NOTE, GEOMETRY))
    return Evaluation(
        name=folder.resolve().name,
        settings=config.settings,
        environment=config.environment,
        images=images,
        summary=summary.assign(note=summary["note"].astype(object).fillna("")),
        worst=worst,
        samples=samples.read_bytes() if samples.is_file() else None,
        note=str(read_file(note, read_json, ADVICE, ("note",))["note"]) if note.is_file() else "",
        geometry=_table(geometry, GEOMETRY_COLUMNS, GEOMETRY_METHODS) if geometry.is_file() else None,
    )


def _table(path: Path, columns: Sequence[str], methods: Sequence[str] = (*METHODS, TRUTH)) -> pd.DataFrame:
    table: pd.DataFrame = read_file(path, pd.read_csv, ADVICE, columns)
    if table.empty:
        raise RunError(f"read_evaluation: {path} has no rows; {ADVICE}")
    numbers, names = ([name for name in columns if (name in NAMES) == wanted] for wanted in (False, True))
    unnamed = [name for name in names if not all(isinstance(cell, str) for cell in table[name])]
    if unnamed:
        raise RunError(f"read_evaluation: {path} has a row whose {unnamed[0]} is no name; {ADVICE}")
    unknown = sorted(set(table.get("method", ())) - {*methods})
    if unknown:
        raise RunError(f"read_evaluation: {path} has a method {unknown[0]!r}, expected {', '.join(methods)}; {ADVICE}")
    numbers = [name for name in numbers if name not in ("note", "view")]
    check_numbers(table, path, ADVICE, numbers=numbers, keys=KEYS[path.name])
    return table


# --- tables ----------------------------------------------------------------------------------------------------------


def of_sets(summary: pd.DataFrame) -> pd.Series:
    """Return which rows of a summary are distances between sets of images, not metrics of single ones."""
    return summary["metric"].map(lambda name: split_set_metric(name) is not None).astype(bool)


def by_rotation(run: Evaluation, n_ref: int) -> pd.DataFrame:
    """Return the means by rotation bin: columns panel (the measure), who, x (the bin), value, low, high, scenes, count.

    Args:
        run: The evaluation.
        n_ref: Number of references.
    """
    rows = run.summary[run.summary["n_ref"] == n_ref]
    return _tidy(run, rows.assign(x=rows["rotation_bin"]))


def by_references(run: Evaluation) -> pd.DataFrame:
    """Return the means over all rotations by number of references: columns as :func:`by_rotation`, x is the number."""
    rows = run.summary[run.summary["rotation_bin"] == ALL_ROTATIONS]
    return _tidy(run, rows.assign(x=rows["n_ref"].astype(str)))


def _tidy(run: Evaluation, rows: pd.DataFrame) -> pd.DataFrame:
    rows = rows[rows["metric"].isin(run.measured) & rows["value"].notna()]
    table = rows.assign(panel=rows["metric"], who=rows["method"].map(run.labels))
    return table[["panel", "who", "x", "value", "low", "high", "scenes", "count"]].reset_index(drop=True)


def set_distances(run: Evaluation) -> pd.DataFrame:
    """Return FID and KID, a row for each number of references and extractor: columns n_ref, metric, count, and methods.

    Args:
        run: The evaluation.
    """
    rows = run.summary[of_sets(run.summary) & run.summary["value"].notna()]
    if rows.empty:
        return pd.DataFrame(columns=["n_ref", "metric", "count", MODEL, *TRIVIAL])
    wide = rows.pivot_table(index=["n_ref", "metric", "count"], columns="method", values="value", sort=False)
    return wide.reset_index()


def differences(run: Evaluation) -> pd.DataFrame:
    """Return by how much the model differs from each trivial baseline on the same views.

    Returns:
        Columns n_ref, method (the trivial baseline), metric, value, low, high (95 % over independent units; NaN below
        five), scenes, units, count, best (whether it is the best trivial baseline by this metric).
    """
    rows = _paired(run.images)
    rows = rows[rows["metric"].isin(run.measured)]
    table = summarise(rows, ["n_ref", "method", "metric"], shares=False)
    return table.assign(best=[_is_best(run, row) for row in table.to_dict("records")])


def _paired(images: pd.DataFrame) -> pd.DataFrame:
    """Subtract each trivial baseline's value from the model's, view by view."""
    keys = [*VIEW, *(["unit"] if "unit" in images else []), "metric"]
    known = images.assign(rotation_deg=images["rotation_deg"].fillna(UNPOSED))  # a pivot leaves missing keys out
    table = known.pivot_table(index=keys, columns="method", values="value", sort=False).reset_index()
    table = table.assign(rotation_deg=table["rotation_deg"].mask(table["rotation_deg"] == UNPOSED))
    parts = [table.assign(method=name, value=table[MODEL] - table[name], count=1) for name in TRIVIAL if name in table]
    return pd.concat(parts, ignore_index=True)


def differences_by_rotation(images: pd.DataFrame) -> pd.DataFrame:
    """Return by how much the model differs from each trivial baseline on the same views, in each rotation bin.

    Args:
        images: Of an evaluation.

    Returns:
        Columns n_ref, method (the trivial baseline), metric, rotation_bin, value, low, high (95 % over independent
        units, for all bins at once; NaN below five), units.
    """
    rows = _paired(images).dropna(subset=["value"])
    rows = rows.assign(rotation_bin=rotation_bin(rows["rotation_deg"]).astype(str))
    found = []
    for keys, part in rows.groupby(["n_ref", "method", "metric"], sort=False):
        sums = unit_sums(part, ["rotation_bin"])
        bins = [name for name in rotation_bin_names() if name in set(sums["rotation_bin"])]
        ahead = ratios(*wide(sums, "rotation_bin", bins), shares=False)
        low, high = ahead.widened(joint_widening(ahead))
        named = dict(zip(("n_ref", "method", "metric"), keys, strict=True))
        columns = {"rotation_bin": bins, "value": ahead.value, "low": low, "high": high, "units": ahead.units}
        found.append(pd.DataFrame(named | columns))
    return pd.concat(found, ignore_index=True)


def _is_best(run: Evaluation, row: dict[Any, Any]) -> bool:
    best = best_of(run, row["n_ref"], row["metric"])
    return best is not None and best.method == row["method"]


def overall(run: Evaluation, n_ref: int, name: str, method: str) -> pd.Series | None:
    """Return a mean over all rotations; None where it is not known.

    Args:
        run: The evaluation.
        n_ref: Number of references.
        name: Of the metric.
        method: Whose images.
    """
    rows = run.summary
    here = rows[(rows["n_ref"] == n_ref) & (rows["metric"] == name) & (rows["rotation_bin"] == ALL_ROTATIONS)]
    here = here[(here["method"] == method) & here["value"].notna()]
    return None if here.empty else here.iloc[0]


def best_of(run: Evaluation, n_ref: int, name: str) -> Trivial | None:
    """Return the best trivial baseline by a metric, over all rotations.

    Args:
        run: The evaluation.
        n_ref: Number of references.
        name: Of the metric.
    """
    rows = {method: overall(run, n_ref, name, method) for method in TRIVIAL}
    values = {method: float(row["value"]) for method, row in rows.items() if row is not None}
    return best_trivial(name, lambda method: values.get(method, np.nan))


def view_by_view(run: Evaluation) -> pd.DataFrame:
    """Return each view's PSNR by the model and by the best trivial baseline at its number of references.

    Columns who ("1 reference"), scene, view, method (the baseline), trivial, generated.

    Args:
        run: The evaluation.
    """
    best = {n: one.method for n in run.references if (one := best_of(run, n, PSNR))}
    rows = run.images[run.images["metric"] == PSNR].set_index([*VIEW[:3], "method"])["value"].unstack("method")  # noqa: PD010
    rows = rows.reset_index()
    rows = rows[rows["n_ref"].isin(best)]
    who = rows["n_ref"].map({n: f"{n} reference{'' if n == 1 else 's'}" for n in best})
    trivial = [row[best[row["n_ref"]]] for row in rows.to_dict("records")]
    table = rows.assign(who=who, method=rows["n_ref"].map(best), trivial=trivial, generated=rows[MODEL])
    return table.sort_values(["n_ref", "scene", "view"])[["who", "scene", "view", "method", "trivial", "generated"]]
