"""The reader of a plan for speed (plan.json): whatever the page could not show ends in one line."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from analysis.reading import read_file, read_json
from probe.records import RunError
from probe.records.speed import MODE_WORDS, PLAN_KEYS

ADVICE = "plan again"


def read_plan(path: Path) -> dict[str, Any] | None:
    """Read a plan for speed.

    Args:
        path: Of plan.json.

    Returns:
        Its content; None where there is no file.

    Raises:
        RunError: If it cannot be read, lacks a key, or holds something else than this version writes.
    """
    if not path.is_file():
        return None
    content = read_file(path, _read_object, ADVICE, PLAN_KEYS)
    wrong = [name for name, right in CHECKS.items() if not right(content[name])]
    if wrong:
        raise RunError(f"read_plan: {path}: {wrong[0]} of another kind than python -m probe.plan writes; {ADVICE}")
    return dict(content)


def _read_object(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError("no object of JSON")
    return content


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_step(step: object) -> bool:
    """Return whether a move has all that the page shows of it."""
    return (
        isinstance(step, Mapping)
        and _is_whole(step.get("layer"))
        and isinstance(step.get("heads"), list)
        and all(map(_is_whole, step["heads"]))
        and step.get("mode") in tuple(MODE_WORDS)
        and _is_number(step.get("cost"))
        and isinstance(step.get("taken"), bool)
    )


CHECKS = {
    "model": lambda value: isinstance(value, str),
    "budget": lambda value: _is_number(value) and value >= 0,
    "before": lambda value: _is_number(value) and value > 0,
    "share": lambda value: _is_number(value) and 0 < value <= 1,
    "scenes": lambda value: isinstance(value, list),
    "timesteps": lambda value: isinstance(value, list) and all(map(_is_whole, value)),
    "steps": lambda value: isinstance(value, list) and all(map(_is_step, value)),
}
"""What each key of a plan must hold."""
