"""Words that all pages share: numbers as text, names for readers, commands."""

import shlex
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from probe.records import COPY, MEAN_COLOUR, METRICS, MODEL, TRUTH, split_threshold
from probe.records.intervals import LEAST_UNITS
from probe.records.names import is_block

STAGES = {"down_blocks": "down", "up_blocks": "up", "mid_block": "mid"}
MISSING = "–"
NBSP = "\u00a0"
ROLES = {"ref": "reference", "tgt": "target"}
METHOD_LABELS = {
    MODEL: "this model",
    COPY: "copy of the nearest reference",
    MEAN_COLOUR: "mean colour of that reference",
    TRUTH: "true views",
}
"""Whose images are measured, as figures and tables name them."""
THESE_PREDICTIONS = "these predictions"
"""Another program's images, where no model made them."""
ANSWERS = {COPY: "copying the nearest reference", MEAN_COLOUR: "filling in that reference's mean colour"}
"""What the trivial baselines do."""
ONE_STEP_WORDS = (
    "PSNR of one step is that of the single prediction from pure noise, which is near the mean of all views that are "
    "possible; a sample guesses what no view shows, at twice the squared error, so young models look worse by their "
    "samples than they are."
)
"""What the second PSNR is for."""
THRESHOLDS = {
    "%": "an error below {}\u00a0% of the image side",
    "token": "an error below {} token",
    "m": "a 3D error below {}\u00a0m",
    "px/512": "the two points seen less than {} of 512 pixels apart",
    "%scene": "a 3D error below {}\u00a0% of the scene's size",
}
"""When a match counts as right, by the unit of the threshold."""
NOT_FLAGS = {"resume", "no_report", "report", "scenes_read", "scenes_digest", "intrinsics_digest", "left_out"}


# --- numbers ---------------------------------------------------------------------------------------------------------


def number(value: Any, digits: int = 3) -> str:
    """Write a number with a given number of significant digits; a dash where it is missing.

    Args:
        value: A number or None.
        digits: Significant digits; whole numbers are written in full.
    """
    if value is None or not np.isfinite(value):
        return MISSING
    if float(value).is_integer():
        return f"{int(value):,}".replace(",", "\u202f")
    return f"{value:.{digits}g}"


def percent(value: Any) -> str:
    """Write a fraction in percent with one decimal; a dash where it is missing.

    Args:
        value: A fraction, or None.
    """
    return MISSING if value is None or not np.isfinite(value) else f"{100 * value:.1f}{NBSP}%".replace("-", "−")


def interval(low: Any, high: Any) -> str:
    """Write an interval of fractions in percent; a dash where there is none.

    Args:
        low: Lower end, or None.
        high: Upper end, or None.
    """
    if low is None or high is None or not (np.isfinite(low) and np.isfinite(high)):
        return MISSING
    return f"{100 * low:.1f}–{100 * high:.1f}{NBSP}%"


def with_interval(value: Any, low: Any, high: Any) -> str:
    """Write a fraction with its 95 % interval: "31.4 % (28.0–34.9 %)".

    Args:
        value: A fraction, or None.
        low: Lower end, or None.
        high: Upper end, or None.
    """
    return percent(value) if interval(low, high) == MISSING else f"{percent(value)} ({interval(low, high)})"


def by_chance(tests: int) -> str:
    """Write how many of some intervals of 95 % exclude a true value by chance: "about 2", "fewer than 1".

    Args:
        tests: Number of intervals.
    """
    expected = 0.05 * tests
    return f"about {expected:.0f}" if expected >= 1 else "fewer than 1"


def points(value: float) -> str:
    """Write a difference of fractions in percentage points, with its sign.

    Args:
        value: The difference.
    """
    return MISSING if not np.isfinite(value) else f"{100 * value:+.1f}".replace("-", "−")


def amount(name: str, value: Any) -> str:
    """Write a value of a measure of image quality with its unit; a dash where it is missing.

    Args:
        name: Of the metric.
        value: A number, or None.
    """
    metric = METRICS[name]
    if value is None or not np.isfinite(value):
        return MISSING
    return f"{value:.{metric.digits}f}".replace("-", "−") + (f"{NBSP}{metric.unit}" if metric.unit else "")


def listing(parts: Iterable[Any]) -> str:
    """Join parts as in a sentence: "2, 7 and 10".

    Args:
        parts: What to join.
    """
    texts = [str(part) for part in parts]
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def plural(count: int, noun: str) -> str:
    """Write a count with its noun.

    Args:
        count: How many.
        noun: In the singular.
    """
    return f"{number(count)} {noun}{'' if count == 1 else 's'}"


# --- names -----------------------------------------------------------------------------------------------------------


INTERVALS = (
    f"95{NBSP}%, over independent units (recordings, or procedural scenes). Every average is a sum of hits over a sum "
    "of counts; its standard error is that of the jackknife over units, grown where units are skewed, with Student's "
    "quantile; shares are bounded as those of a binomial (Korn and Graubard 1998). There is no interval below "
    f"{LEAST_UNITS} units. A claim about several layers, bins or matchers rests on intervals that hold for all of them "
    "at once."
)


def units_words(units: Sequence[str]) -> str:
    """Return the number of independent units, and what they are where that limits them.

    Args:
        units: Their names.
    """
    if not any(is_block(unit) for unit in units):
        return str(len(units))
    return f"{plural(len(units), 'block')} of time of one recording, which still show the same place"


def short_name(name: str) -> str:
    """Shorten a module name to where it sits: "up 2.0", "mid", "block 12".

    Args:
        name: Dotted name of the attention module.
    """
    parts = name.split(".")
    blocks = parts.index("transformer_blocks") if "transformer_blocks" in parts else len(parts)
    before = [part for part in parts[:blocks] if part.isdigit()]
    nth = next((part for part in parts[blocks:] if part.isdigit()), "")
    if parts[0] == "mid_block":
        return "mid"
    if parts[0] in STAGES:
        return f"{STAGES[parts[0]]} {'.'.join(before)}" + (f":{nth}" if nth not in ("", "0") else "")
    if nth or before:
        return f"block {nth or before[-1]}"
    return name if len(name) <= 12 else "…" + name[-11:]


def metric_words(metric: str) -> str:
    """Return when a match counts as right: "an error below 5 % of the image side".

    Args:
        metric: Such as "precision@5%", "precision@1token", "precision@0.05m", "precision@5%scene".
    """
    amount, unit = split_threshold(metric) or (None, "")
    return THRESHOLDS.get(unit, metric).format(f"{amount:g}") if amount is not None else metric


def direction_words(direction: str) -> str:
    """Return the query and key views of a direction: "points of target views looked up in reference views".

    Args:
        direction: Such as "tgt-ref" (query first), or "all".
    """
    query, _, key = direction.partition("-")
    if query not in ROLES or key not in ROLES:
        return "points of all views looked up in all other views"
    return f"points of {ROLES[query]} views looked up in {ROLES[key]} views"


def bin_words(name: str) -> str:
    """Write a rotation bin for readers: "30–60°".

    Args:
        name: Such as "30-60" or "120+".
    """
    return f"over {name[:-1]}°" if name.endswith("+") else name.replace("-", "–") + "°"


def command(settings: dict[str, Any], program: str = "probe.run") -> str:
    """Write the command that makes the run again, one flag a line.

    Args:
        settings: Every resolved setting; None and empty lists are left at their defaults.
        program: What makes such runs.
    """
    words = [["python", "-m", program]]
    for key, value in settings.items():
        flag = "--" + key.replace("_", "-")
        if key in NOT_FLAGS or value is None or isinstance(value, dict) or value in ([], ""):
            continue
        if isinstance(value, bool):
            words += [[flag]] if value else []
        else:
            words += [[flag, ",".join(map(str, value)) if isinstance(value, list) else str(value)]]
    return " \\\n  ".join(shlex.join(part) for part in words)


def rebuild(settings: dict[str, Any], name: str) -> str:
    """Write the command that makes a run's page again from its folder.

    Args:
        settings: Of the run; "out" is its folder.
        name: The folder's name, for settings that do not tell.
    """
    return shlex.join(["python", "-m", "analysis.report", str(settings.get("out", name))])
