"""Results on disk: the score table, the run folder, files that are whole or absent."""

import hashlib
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

# One row per combination of the columns before ``value`` (docs/references.md, "Files of a run"). ``pair_list`` is the
# digest of pairs.csv.
SCORE_COLUMNS = (
    "model", "step", "scene", "pair", "query_view", "key_view", "direction", "rotation_deg", "layer", "layer_name",
    "grid", "head", "timestep", "protocol", "pair_list", "metric", "value", "count",
)  # fmt: skip
ALL_HEADS = -1
NO_LAYER = -1  # rows of baselines, chance and ceiling: they belong to a grid, not to a layer
UNIFORM, SAME_POSITION, CEILING = "chance: uniform", "chance: same position", "ceiling"
INTERVENTIONS = "interventions-v1"  # protocol of rows that say what editing a layer's attention changes
EFFECT = "effect_error"  # ... and of their metrics, "effect_error@identity", the one that layers are weighed by
REFERENCES = (UNIFORM, SAME_POSITION, CEILING)
ROTATION_BINS = (0.0, 30.0, 60.0, 90.0, 120.0)
RESAMPLES = 1000


class RunError(ValueError):
    """Say in one line why a run folder cannot be used."""


def write(path: Path, save: Callable[[Path], object]) -> None:
    """Write a file whole or not at all: save to ``path.part``, then rename.

    Raises:
        OSError: Whatever saving raises; the partial file is gone then.
    """
    part = path.with_name(path.name + ".part")
    try:
        save(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_folder(path: Path, save: Callable[[Path], object]) -> None:
    """Write a folder whole or not at all: save to a folder beside it, then rename; one of that name is replaced.

    Raises:
        OSError: If the disk does not take it, or whatever saving raises; the partial folder is gone then.
    """
    part = path.with_name(f"part-{path.name}")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        save(part)
        shutil.rmtree(path, ignore_errors=True)
        part.rename(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    write(path, lambda part: part.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: object) -> None:
    """Write JSON whole or not at all; NaN becomes null."""
    write_text(path, json.dumps(_without_nan(value), indent=2, allow_nan=False) + "\n")


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _without_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value


def environment() -> dict[str, str]:
    """Tell what a run was made with: versions, commit, processor."""
    packages = ("torch", "diffusers", "numpy", "pandas")
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "commit": commit or "unknown",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }


def open_run(out: Path, settings: dict[str, Any], *, resume: bool, may_grow: Sequence[str] = ()) -> None:
    """Create a run folder with ``config.json``, or continue one of the same settings.

    Args:
        out: The folder.
        settings: Every resolved setting, as plain values; the folder's own path ("out") may differ.
        resume: Whether the folder may hold a run of the same settings already.
        may_grow: Settings, such as a number of steps, that may be larger than before (absent is 0): the folder then
            takes them over.

    Raises:
        RunError: If the folder holds a run of other settings, a run of these without ``resume``, or something else, or
            cannot be written.
    """
    path = out / "config.json"
    plain = json.loads(json.dumps(_without_nan(settings)))
    if path.exists():
        before = _settings_in(path)
        changed = sorted(key for key in before.keys() | plain.keys() if before.get(key) != plain.get(key))
        grown = [key for key in changed if key in may_grow and plain[key] > before.get(key, 0)]
        changed = [key for key in changed if key not in ("out", *grown)]  # a folder may be moved
        if changed:
            raise RunError(
                f"open_run: {out} was made with other values of {changed}; choose another --out or remove it"
            )
        if not resume:
            raise RunError(
                f"open_run: {out} already holds this run; add --resume to continue it or choose another --out"
            )
        if grown:
            write_json(path, {"settings": plain, "environment": environment()})
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise RunError(f"open_run: {out} is not empty and holds no config.json; choose another --out")
        write_json(path, {"settings": plain, "environment": environment()})
    except OSError as error:
        raise RunError(f"open_run: cannot write to {out}: {error.strerror}; choose another --out") from error


def _settings_in(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["settings"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(f"open_run: {path} is not the config.json of a run; choose another --out") from error


def digest(table: pd.DataFrame) -> str:
    """Name a table's content by 12 hexadecimal digits, the same on every machine."""
    text = table.to_csv(index=False, float_format="%.6f", lineterminator="\n")
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def rotation_bin(rotation_deg: pd.Series) -> pd.Series:
    """Name the 30-degree bin of each rotation: "0-30" and so on; rotations beyond 120 degrees get "120+"."""
    edges = [*ROTATION_BINS, 180.001]
    names = [f"{low:.0f}-{high:.0f}" for low, high in pairwise(ROTATION_BINS)] + ["120+"]
    return pd.cut(rotation_deg, edges, right=False, labels=names)


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Hold rows of the score table before they become one: columns that vary, and columns that do not."""

    columns: Mapping[str, np.ndarray]
    constants: Mapping[str, object]


def score_table(parts: Sequence[Rows]) -> pd.DataFrame:
    """Join rows into a score table; text columns are categorical, because they repeat."""
    sizes = [len(part.columns["value"]) for part in parts]
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


def summarise(scores: pd.DataFrame, by: Sequence[str], *, seed: int = 0) -> pd.DataFrame:
    """Average over scenes, with a 95 % interval by bootstrap over scenes.

    Args:
        scores: Rows of the score table.
        by: Columns that stay apart.
        seed: Of the resampling.

    Returns:
        Columns ``by``, value, low, high, scenes, count. The interval is NaN for fewer than two scenes. Groups in which
        nothing was counted are absent.
    """
    values = scene_values(scores, by)
    if values.empty:
        return pd.DataFrame(columns=[*by, "value", "low", "high", "scenes", "count"])
    random = np.random.default_rng(seed)
    picks: dict[int, np.ndarray] = {}
    rows = []
    for key, group in values.groupby(list(by), observed=True, sort=True):
        sample = group["value"].to_numpy()
        size = len(sample)
        if size not in picks:
            picks[size] = random.integers(0, size, (RESAMPLES, size))
        low, high = np.quantile(sample[picks[size]].mean(1), [0.025, 0.975]) if size > 1 else (np.nan, np.nan)
        rows.append((*key, sample.mean(), low, high, size, int(group["count"].sum())))
    return pd.DataFrame(rows, columns=[*by, "value", "low", "high", "scenes", "count"])
