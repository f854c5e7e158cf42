"""What a study's folder holds beside its trainings: probes of final weights, evaluations, samples at equal steps.

Each part is optional. A probe or an evaluation may be a whole run folder, or the small tables that
``python docs/keep_study.py`` keeps of it, from which the same page is made.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.evaluation.run import COLUMNS as EVALUATION_COLUMNS
from analysis.evaluation.run import differences_by_rotation
from analysis.probing import tables
from analysis.probing.edits.causal import COLUMNS as EFFECT_COLUMNS
from analysis.probing.edits.causal import effects
from analysis.reading import read_file, read_json
from analysis.study.claims.units import SUM_COLUMNS, unit_table
from probe.records import (
    EMERGENCE,
    IMAGES,
    LAYERS,
    PARTS,
    SAMPLES,
    SELECTION,
    SUMMARY,
    RunError,
    seed_folder,
    split_seed_folder,
)
from probe.records.names import EVALUATIONS, PLAIN, PROBES, SAMPLES_TABLE

EFFECTS, SUMS = "effects.csv", "unit_sums.csv"
"""Tables that are kept of a probe in place of its large files."""
ADVICE = "start the study again, which makes it"
LEAD_COLUMNS = ["n_ref", "method", "metric", "rotation_bin", "value", "low", "high", "units"]
SUMMARY_COLUMNS = ("n_ref", "rotation_bin", "method", "metric", "value", "low", "high", "scenes")
RUN = ["variant", "seed"]


@dataclass(frozen=True, kw_only=True)
class Probed:
    """A probe of one model as small tables.

    Attributes:
        selection: The chosen layer with its evidence.
        layers: One row per 3D layer.
        effects: Of :func:`analysis.probing.causal.effects`; empty if nothing was edited.
        sums: Of :func:`analysis.study.claims.units.unit_table`; empty if they were not kept.
    """

    selection: dict[str, Any]
    layers: pd.DataFrame
    effects: pd.DataFrame
    sums: pd.DataFrame

    @property
    def layer(self) -> int:
        """Return the index of the selected layer."""
        return int(self.selection["layer"])

    def at(self, layer: int) -> pd.Series:
        """Return a layer's row."""
        return self.layers.set_index("layer", drop=False).loc[layer]


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Samples of several trainings at equal steps.

    Attributes:
        rule: How scenes were chosen, in a sentence.
        psnr: Columns scene, rotation_deg, method, step, value.
        picture: A PNG file, if there is one.
    """

    rule: str
    psnr: pd.DataFrame
    picture: bytes | None


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a study's folder holds beside its trainings.

    Attributes:
        probes: By name: "plain", "plain-cluttered".
        summaries: Columns variant, seed and those of an evaluation's summary.
        leads: Columns variant, seed and those of :func:`analysis.evaluation.run.differences_by_rotation`.
        samples: At equal steps, if there are any.
        chance: Columns layer, chance: a uniform guess where the trainer probes.
    """

    probes: dict[str, Probed]
    summaries: pd.DataFrame
    leads: pd.DataFrame
    samples: Samples | None
    chance: pd.DataFrame


def read_parts(folder: Path, settings: dict[str, Any]) -> Parts | None:
    """Read the parts of a study.

    Args:
        folder: Of the study.
        settings: Of the study.

    Returns:
        What there is; None if the study has no such parts and was not made to have them.

    Raises:
        RunError: If a file of a part cannot be used.
    """
    if not (settings.get("paper") or any((folder / name).exists() for name in (PROBES, EVALUATIONS, SAMPLES_TABLE))):
        return None
    evaluations = _evaluations(folder / EVALUATIONS)
    return Parts(
        probes={path.name: read_probed(path) for path in _folders(folder / PROBES) if (path / SELECTION).is_file()},
        summaries=_stack([part[0] for part in evaluations], [*RUN, *SUMMARY_COLUMNS]),
        leads=_stack([part[1] for part in evaluations], [*RUN, *LEAD_COLUMNS]),
        samples=_samples(folder) if (folder / SAMPLES_TABLE).is_file() else None,
        chance=_chance(folder),
    )


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _stack(tables: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    full = [table for table in tables if len(table)]
    return pd.concat(full, ignore_index=True) if full else pd.DataFrame(columns=columns)


def _csv(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    table: pd.DataFrame = read_file(path, pd.read_csv, ADVICE, columns)
    return table


def read_probed(folder: Path) -> Probed:
    """Read a finished probe, whole or kept.

    Args:
        folder: Of ``python -m probe.run``.

    Raises:
        RunError: If one of its files cannot be used.
    """
    if tables.is_probe(folder):
        run = tables.read_run(folder)
        return Probed(selection=run.selection, layers=run.layers, effects=effects(run), sums=unit_table(run))
    kept = {name: _csv(folder / name, columns) if (folder / name).is_file() else pd.DataFrame(columns=list(columns))
            for name, columns in {EFFECTS: EFFECT_COLUMNS, SUMS: SUM_COLUMNS}.items()}  # fmt: skip
    return Probed(
        selection=read_file(folder / SELECTION, read_json, ADVICE, tables.SELECTION_KEYS),
        layers=_csv(folder / LAYERS, tables.LAYER_COLUMNS).sort_values("layer", ignore_index=True),
        effects=kept[EFFECTS],
        sums=kept[SUMS],
    )


def _evaluations(folder: Path) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
    """Read summary and leads of each finished evaluation whose folder names a variant and a seed."""
    found = []
    for path in _folders(folder):
        name = split_seed_folder(path.name)
        if name and (path / SUMMARY).is_file() and not (path / PARTS).exists():
            run = dict(zip(RUN, name, strict=True))
            found.append((_csv(path / SUMMARY, SUMMARY_COLUMNS).assign(**run), _leads(path).assign(**run)))
    return found


def _leads(folder: Path) -> pd.DataFrame:
    path = folder / IMAGES
    if not path.is_file():
        return pd.DataFrame(columns=LEAD_COLUMNS)
    return differences_by_rotation(_csv(path, EVALUATION_COLUMNS[IMAGES]))


def _samples(folder: Path) -> Samples:
    path, picture = folder / SAMPLES_TABLE, folder / SAMPLES
    content = read_file(path, read_json, ADVICE, ("rule", "steps", "scenes"))
    try:
        rows = [
            (str(scene["name"]), float(scene["rotation_deg"]), str(method), int(step), float(value))
            for scene in content["scenes"]
            for method, values in scene["psnr"].items()
            for step, value in zip(content["steps"], values, strict=True)
        ]
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise RunError(f"read_parts: {path} is not a list of samples ({error!r}); {ADVICE}") from error
    return Samples(
        rule=str(content["rule"]),
        psnr=pd.DataFrame(rows, columns=["scene", "rotation_deg", "method", "step", "value"]),
        picture=picture.read_bytes() if picture.is_file() else None,
    )


def _chance(folder: Path) -> pd.DataFrame:
    """Read what a uniform guess scores where the trainer probes, of the first plain run that has it."""
    path = folder / seed_folder(PLAIN, 0) / EMERGENCE
    paths = [path, *sorted(folder.glob(f"*-seed*/{EMERGENCE}"))]
    table = next((_csv(each, ("layer",)) for each in paths if each.is_file()), pd.DataFrame())
    if "chance" not in table:
        return pd.DataFrame(columns=["layer", "chance"])
    return table.drop_duplicates("layer")[["layer", "chance"]].reset_index(drop=True)
