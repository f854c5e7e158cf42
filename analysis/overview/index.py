"""Lines of runs -> what the index shows: groups by model and data, and a small picture of each probe. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from analysis.evaluation.page import EvaluationEntry
from analysis.probing.page import ProbeEntry
from analysis.study.page import StudyEntry
from analysis.training.page import TrainingEntry

Entry = ProbeEntry | StudyEntry | TrainingEntry | EvaluationEntry


@dataclass(frozen=True, kw_only=True)
class Line:
    """A run in the index.

    Attributes:
        entry: What is said of it.
        folder: As a word of a command line.
    """

    entry: Entry
    folder: str


@dataclass(frozen=True, kw_only=True)
class Index:
    """The content of the page that lists all runs, each kind in its order.

    Attributes:
        probes: Finished probe runs.
        studies: Studies.
        training: Training runs.
        evaluations: Evaluations.
        comparisons: Links to comparisons of two runs, with their titles.
        unreadable: Folders that cannot be read, with the reason.
    """

    probes: tuple[Line, ...] = ()
    studies: tuple[Line, ...] = ()
    training: tuple[Line, ...] = ()
    evaluations: tuple[Line, ...] = ()
    comparisons: tuple[tuple[str, str], ...] = ()
    unreadable: tuple[tuple[str, str], ...] = ()


def groups(lines: Sequence[Line]) -> dict[str, list[Line]]:
    """Put together the runs of one model on the same scenes, in the order of their first.

    Args:
        lines: Of one kind; studies have neither and make one group without a name.

    Returns:
        Lines by the group's heading.
    """
    found: dict[str, list[Line]] = {}
    for line in lines:
        entry: Any = line.entry
        name = "" if isinstance(entry, StudyEntry) else f"{entry.model} on {entry.scenes}"
        found.setdefault(name, []).append(line)
    return found


SPARK = 112, 24
"""Width and height of a small picture."""


def sparkline(entry: ProbeEntry) -> Markup:
    """Draw precision by layer, from 0 to its highest; a ring marks the selected layer.

    Args:
        entry: Its profile: (layer, precision in [0, 1] or NaN, text), in the order in which the model runs them.

    Returns:
        An SVG element; layers that were not measured leave a gap.
    """
    width, height = SPARK
    values = np.array([value for _, value, _ in entry.profile], dtype=float)
    highest = np.nanmax(values) if np.isfinite(values).any() else 1.0
    x = np.linspace(5, width - 5, len(values)) if len(values) > 1 else np.array([width / 2])
    y = height - 4 - (height - 8) * values / (highest or 1.0)
    places = list(zip(x, y, strict=True))
    points = "".join(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="1.4"/>' for a, b in places if np.isfinite(b))
    rings = "".join(
        f'<circle class="selected" cx="{a:.1f}" cy="{b:.1f}" r="3.4"/>'
        for (a, b), (layer, _, _) in zip(places, entry.profile, strict=True)
        if layer == entry.selected and np.isfinite(b)
    )
    texts = "; ".join(f"layer {layer} {text}" for layer, _, text in entry.profile)
    return Markup(
        f'<svg class="spark" role="img" aria-label="{escape(f"precision by layer: {texts}")}" width="{width}" '
        f'height="{height}" viewBox="0 0 {width} {height}"><path d="{_path(places)}"/>{points}{rings}</svg>'
    )


def _path(places: Sequence[tuple[float, float]]) -> str:
    """Join neighbours that were both measured."""
    return " ".join(
        f"M{a:.1f} {b:.1f}L{c:.1f} {d:.1f}" for (a, b), (c, d) in pairwise(places) if np.isfinite(b) and np.isfinite(d)
    )
