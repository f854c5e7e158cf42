"""A folder of python -m train.evaluate as small tidy tables: every figure and table of its page is one of these."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.figures import THIS_MODEL
from analysis.training.figures import COPY, MEAN_COLOUR
from probe.records import RunError, digest, summarise

CONFIG, IMAGES, SUMMARY, WORST, SAMPLES = "config.json", "images.csv", "summary.csv", "worst.csv", "samples.png"
ALL = "all"
TRUTH = "true views"
WHO = {"model": THIS_MODEL, "copy": COPY, "mean colour": MEAN_COLOUR, "truth": TRUTH}
"""Whose images are measured, as the tables and as the page name them."""
TRIVIAL = ("copy", "mean colour")
VIEW = ["scene", "view", "n_ref", "rotation_deg"]
COLUMNS = {
    IMAGES: (*VIEW, "method", "metric", "value", "count"),
    SUMMARY: ("n_ref", "rotation_bin", "method", "metric", "value", "low", "high", "scenes", "count", "note"),
    WORST: (*VIEW, "psnr", "ssim", "lpips", "match_error", "copy_psnr", "truth_match_error"),
}


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Hold what a folder of python -m train.evaluate holds.

    Attributes:
        name: The folder's name.
        settings: Every resolved setting.
        environment: Versions, commit, machine.
        images: One row per target view, number of references, method and metric.
        summary: Their means per number of references, rotation bin, method and metric, and the distances of sets.
        worst: One row per generated view, the lowest PSNR first.
        samples: A picture of the worst and of median cases, as PNG, if there is one.
    """

    name: str
    settings: dict[str, Any]
    environment: dict[str, Any]
    images: pd.DataFrame
    summary: pd.DataFrame
    worst: pd.DataFrame
    samples: bytes | None = None

    @cached_property
    def references(self) -> list[int]:
        """Give the numbers of references that were measured."""
        return sorted({int(n) for n in self.images["n_ref"]})

    @cached_property
    def scenes(self) -> int:
        """Count the scenes."""
        return int(self.images["scene"].nunique())

    @cached_property
    def views(self) -> pd.DataFrame:
        """List the target views, once for each number of references."""
        return self.images[VIEW].drop_duplicates().sort_values(VIEW[:3], ignore_index=True)

    @cached_property
    def view_list(self) -> str:
        """Name the list of views by its digest: equal lists were measured on equal views."""
        return digest(self.views)

    @cached_property
    def measured(self) -> list[str]:
        """List the measures of single images of which anything is known."""
        known = set(self.summary.loc[self.summary["value"].notna(), "metric"])
        return [name for name in ("psnr", "ssim", "lpips", "match_error") if name in known]


def is_evaluation(folder: Path) -> bool:
    """Tell whether a folder holds a finished run of python -m train.evaluate.

    Args:
        folder: Any folder.
    """
    return all((folder / name).is_file() for name in (CONFIG, *COLUMNS)) and not (folder / "parts").exists()


def read_evaluation(folder: Path) -> Evaluation:
    """Read a folder of python -m train.evaluate.

    Args:
        folder: Of a finished run.

    Raises:
        RunError: If one of its files cannot be used.
    """
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        settings, environment = (dict(config[name]) for name in ("settings", "environment"))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(f"read_evaluation: {folder / CONFIG} is not a run's ({error!r}); evaluate again") from error
    images, summary, worst = (_read(folder / name, columns) for name, columns in COLUMNS.items())
    samples = folder / SAMPLES
    return Evaluation(
        name=folder.resolve().name,
        settings=settings,
        environment=environment,
        images=images,
        summary=summary.fillna({"note": ""}),
        worst=worst,
        samples=samples.read_bytes() if samples.is_file() else None,
    )


def _read(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise RunError(f"read_evaluation: {path} cannot be read: {error}; evaluate again") from error
    absent = [name for name in columns if name not in table]
    if absent or table.empty:
        lacking = f"lacks {', '.join(absent)}" if absent else "has no rows"
        raise RunError(f"read_evaluation: {path} {lacking}; evaluate again")
    return table


# --- tables ----------------------------------------------------------------------------------------------------------


def by_rotation(run: Evaluation, n_ref: int) -> pd.DataFrame:
    """Give the means by rotation bin: columns panel (the measure), who, x (the bin), value, low, high, scenes, count.

    Args:
        run: The evaluation.
        n_ref: Number of references.
    """
    rows = run.summary[run.summary["n_ref"] == n_ref]
    return _tidy(run, rows.assign(x=rows["rotation_bin"]))


def by_references(run: Evaluation) -> pd.DataFrame:
    """Give the means over all rotations by number of references: columns as :func:`by_rotation`, x is the number."""
    rows = run.summary[run.summary["rotation_bin"] == ALL]
    return _tidy(run, rows.assign(x=rows["n_ref"].astype(str)))


def _tidy(run: Evaluation, rows: pd.DataFrame) -> pd.DataFrame:
    rows = rows[rows["metric"].isin(run.measured) & rows["value"].notna()]
    table = rows.assign(panel=rows["metric"], who=rows["method"].map(WHO))
    return table[["panel", "who", "x", "value", "low", "high", "scenes", "count"]].reset_index(drop=True)


def of_sets(run: Evaluation) -> pd.DataFrame:
    """Give FID and KID, a row for each number of references and extractor: columns n_ref, metric, count, and methods.

    Args:
        run: The evaluation.
    """
    rows = run.summary[run.summary["metric"].str.contains("[", regex=False) & run.summary["value"].notna()]
    if rows.empty:
        return pd.DataFrame(columns=["n_ref", "metric", "count", "model", *TRIVIAL])
    wide = rows.pivot_table(index=["n_ref", "metric", "count"], columns="method", values="value", sort=False)
    return wide.reset_index()


def differences(run: Evaluation) -> pd.DataFrame:
    """Give by how much the model differs from each trivial answer on the same views.

    Returns:
        Columns n_ref, method (the trivial answer), metric, value, low, high (95 % by bootstrap over scenes), scenes,
        count.
    """
    wide = run.images.pivot_table(index=[*VIEW, "metric"], columns="method", values="value", sort=False).reset_index()
    parts = [wide.assign(method=name, value=wide["model"] - wide[name], count=1) for name in TRIVIAL if name in wide]
    rows = pd.concat(parts, ignore_index=True)
    return summarise(rows[rows["metric"].isin(run.measured)], ["n_ref", "method", "metric"])


def beside_copy(run: Evaluation) -> pd.DataFrame:
    """Give each view's PSNR by the model and by copying: columns who ("1 reference"), scene, view, copied, generated.

    Args:
        run: The evaluation.
    """
    names = run.worst["n_ref"].map({n: f"{n} reference{'' if n == 1 else 's'}" for n in run.references})
    table = run.worst.assign(who=names, copied=run.worst["copy_psnr"], generated=run.worst["psnr"])
    return table.sort_values(["n_ref", "scene", "view"])[["who", "scene", "view", "copied", "generated"]]
