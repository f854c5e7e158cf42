"""The readers of what every run folder holds: settings and tables. Whatever cannot be used ends in one line."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from safetensors import SafetensorError

from probe.records import CONFIG, RunError, parse_json, read_emergence

PRECISION = ("step", "layer", "value")


class Config(NamedTuple):
    """The content of config.json: every resolved setting; versions, commit and machine."""

    settings: dict[str, Any]
    environment: dict[str, Any]


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        OSError: If there is none.
        ValueError: If it is not JSON.
    """
    return parse_json(path.read_text(encoding="utf-8"))


def read_config(folder: Path, advice: str) -> Config:
    """Read the settings of a run.

    Args:
        folder: Of the run.
        advice: What to do where they cannot be used.

    Raises:
        RunError: If config.json is absent or not that of a run.
    """
    path = folder / CONFIG
    try:
        content = read_json(path)
        return Config(dict(content["settings"]), dict(content["environment"]))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(f"read_config: {path} is not the config.json of a run ({error!r}); {advice}") from error


def read_file(path: Path, load: Callable[[Path], Any], advice: str, columns: Sequence[str] = ()) -> Any:
    """Read a file of a run folder.

    Args:
        path: The file.
        load: Reads it: :func:`pandas.read_csv`, :func:`read_json`, ...
        advice: What to do where it cannot be used.
        columns: Columns or keys that the content must have.

    Raises:
        RunError: If it is absent, unreadable, or lacks a column.
    """
    try:
        content = load(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise RunError(f"read_file: {path} cannot be read: {str(error).splitlines()[0]}; {advice}") from error
    absent = [name for name in columns if name not in content]
    if absent:
        raise RunError(f"read_file: {path} lacks {', '.join(absent)}; {advice}")
    return content


def check_numbers(
    table: pd.DataFrame,
    path: Path,
    advice: str,
    *,
    numbers: Sequence[str] = (),
    whole: Sequence[str] = (),
    keys: Sequence[str] = (),
) -> None:
    """Refuse a table whose numbers are none, or that says something twice.

    Args:
        table: As read.
        path: Of it, for the message.
        advice: What to do then.
        numbers: Columns of numbers, which may be missing.
        whole: Columns of whole numbers.
        keys: Columns that tell the rows apart.

    Raises:
        RunError: If a column holds something else, or two rows have the same keys.
    """
    for columns, kinds, words in ((numbers, "if", "number"), (whole, "i", "whole number")):
        broken = [name for name in columns if table[name].dtype.kind not in kinds]
        if broken and len(table):
            raise RunError(f"check_numbers: {path} has a {broken[0]} that is no {words}; {advice}")
    if keys and table.duplicated(list(keys)).any():
        raise RunError(f"check_numbers: {path} has two rows of the same {', '.join(keys)}; {advice}")


def read_precision(path: Path, advice: str) -> pd.DataFrame | None:
    """Read a table of precision over training (emergence.csv) by step and layer; None where it is absent or empty.

    Raises:
        RunError: If it lacks a column, holds no numbers, or has a layer twice at a step.
    """
    if not path.is_file():
        return None
    table: pd.DataFrame = read_file(path, read_emergence, advice, PRECISION)
    check_numbers(table, path, advice, numbers=("value",), whole=("step", "layer"), keys=("step", "layer"))
    return table.sort_values(["step", "layer"], ignore_index=True) if len(table) else None


def whole_lines(path: Path) -> list[str]:
    """Return the lines of a log that were written to their end; none where there is no file."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    return [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
