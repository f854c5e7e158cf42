"""The score table: one row per model, step, scene, pair of views, layer, head, timestep, protocol and metric."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from probe.records.names import ROTATION_BINS, rotation_bin_names

# One row per combination of the columns before ``value`` (docs/references.md, "Files of a run"). ``unit`` names what
# could have come out otherwise on its own (a recording; a block of time of a lone one); ``pair_list`` is the digest of
# pairs.csv.
SCORE_COLUMNS = (
    "model", "step", "scene", "unit", "pair", "query_view", "key_view", "direction", "rotation_deg", "layer",
    "layer_name", "grid", "head", "timestep", "protocol", "pair_list", "metric", "value", "count",
)  # fmt: skip


def digest(table: pd.DataFrame) -> str:
    """Return a table's content as 12 hexadecimal digits, the same on every machine."""
    text = table.to_csv(index=False, float_format="%.6f", lineterminator="\n")
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def read_emergence(path: Path) -> pd.DataFrame:
    """Read a table of precision over training: digests stay text, though some look like numbers (12345e678901)."""
    return pd.read_csv(path, dtype={"pair_list": str})


def rotation_bin(rotation_deg: pd.Series) -> pd.Series:
    """Name the 30-degree bin of each rotation: "0-30" and so on; rotations beyond 120 degrees get "120+"."""
    return pd.cut(rotation_deg, [*ROTATION_BINS, 180.001], right=False, labels=rotation_bin_names())


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows of the score table before they become one: columns that vary, and columns that do not."""

    columns: Mapping[str, np.ndarray]
    constants: Mapping[str, object]


def score_table(parts: Sequence[Rows]) -> pd.DataFrame:
    """Join rows into a score table; text columns are categorical, because they repeat.

    Where rows do not name their independent unit, it is the scene.
    """
    sizes = [len(part.columns["value"]) for part in parts]
    parts = [replace(part, constants={"unit": part.constants["scene"], **part.constants}) for part in parts]
    table = {}
    for column in SCORE_COLUMNS:
        if column in parts[0].columns:
            values = np.concatenate([part.columns[column] for part in parts])
        else:
            each = np.array([part.constants[column] for part in parts], dtype=object)
            values = np.repeat(each, sizes)
        table[column] = _column(values)
    return pd.DataFrame(table)


def _column(values: np.ndarray) -> pd.Categorical | np.ndarray:
    if values.dtype != object:
        return values
    codes, kinds = pd.factorize(values)
    if isinstance(kinds[0], str):
        return pd.Categorical.from_codes(codes, list(kinds))
    return kinds.astype(type(kinds[0]))[codes]


def scene_values(scores: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Average rows to one value per scene and group, weighted by ``count``.

    Args:
        scores: Rows of the score table.
        by: Columns that stay apart.

    Returns:
        Columns ``by``, scene, value, count. Scenes and groups in which nothing was counted are absent.
    """
    keys = [*by, "scene"]
    known = scores[scores["value"].notna() & (scores["count"] > 0)]
    weighted = known.assign(value=known["value"].astype(float) * known["count"])
    sums = weighted.groupby(keys, observed=True, sort=True)[["value", "count"]].sum().reset_index()
    sums["value"] /= sums["count"]
    return sums


def unit_sums(scores: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Add up what was hit and what was counted per independent unit and group.

    Args:
        scores: Rows of the score table; where a column unit is missing, every scene is a unit.
        by: Columns that stay apart.

    Returns:
        Columns ``by``, unit, hits (sum of value times count), count, scenes. Units and groups in which nothing was
        counted are absent.
    """
    known = scores[scores["value"].notna() & (scores["count"] > 0)]
    unit = known["unit"] if "unit" in known else known["scene"]
    rows = known[[*by, "scene", "count"]].assign(unit=unit, hits=known["value"].astype(float) * known["count"])
    groups = rows.groupby([*by, "unit"], observed=True, sort=True)
    return groups.agg(hits=("hits", "sum"), count=("count", "sum"), scenes=("scene", "nunique")).reset_index()
