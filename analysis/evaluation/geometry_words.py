"""An evaluation's geometry in words: names of its scores, and which of them can be trusted. Pure."""

from collections.abc import Callable, Sequence

import pandas as pd

from analysis.evaluation import geometry, words
from analysis.evaluation.geometry import REWARDED, TOO_FEW, UNCLEAR
from analysis.words import NBSP, listing
from probe.records import COPY, MODEL, TRUTH, describe
from probe.records.intervals import LEAST_UNITS
from probe.records.names import BLURRED, CORRUPTIONS, GEOMETRY_SCORES, NOISE, OTHER_SCENE, split_within

LIMITS = {"px": f" at {{}}{NBSP}px", "deg": " {}°"}
"""How the limit of a share is written, by its unit."""
LABELS = {
    TRUTH: "true views",
    MODEL: "generated views",
    NOISE: "noise",
    COPY: "repeated references",
    OTHER_SCENE: "views of another scene",
    BLURRED: "blurred true views",
}
REASONS = {REWARDED: "rewarded: {}", UNCLEAR: "not separated from the truth: {}", TOO_FEW: "too few values: {}"}
EVERY = "all four corruptions"


def title(metric: str) -> str:
    """Return a score's title with its limit: "TSED at 2 px"."""
    limit = split_within(metric)
    return describe(metric).title + ("" if limit is None else LIMITS[limit[1]].format(f"{limit[0]:g}"))


def trust_words(found: pd.DataFrame) -> tuple[str, str]:
    """Return which scores can be trusted, and which cannot and why, in a sentence per number of references.

    Args:
        found: Of :func:`analysis.evaluation.geometry.trust`.
    """
    if found.empty:
        return "No score of geometry has a value for the true views, so none can be trusted here.", ""
    parts = [(int(n), part) for n, part in found.groupby("n_ref")]
    return _said(_good, parts), _said(_bad, parts)


def _said(speak: Callable[[pd.DataFrame], str], parts: Sequence[tuple[int, pd.DataFrame]]) -> str:
    """Write a sentence per number of references, or one for those of which the same is said."""
    texts: dict[str, list[str]] = {}
    for n_ref, part in parts:
        texts.setdefault(speak(part), []).append(words.reference_words(n_ref))
    return " ".join(f"With {listing(who)} {text}." for text, who in texts.items() if text)


def _good(found: pd.DataFrame) -> str:
    units = int(found["units"].max())
    if units < LEAST_UNITS:
        return f"nothing can be said of scores of geometry: {units} units have values, {LEAST_UNITS} are needed"
    good = [title(name) for name, known in geometry.trusted(found).items() if known]
    corruptions = listing(LABELS[name] for name in CORRUPTIONS)
    if not good:
        return f"no score of geometry is shown to tell all of {corruptions} from the truth here"
    return f"{listing(good)} can be trusted here, each by its own intervals: {corruptions} score worse than the truth"


def _bad(found: pd.DataFrame) -> str:
    """Return the scores that are not shown to be trustworthy, by reason; nothing of too few units."""
    known = geometry.trusted(found)
    reasons: dict[str, list[str]] = {}
    for name in GEOMETRY_SCORES:
        if not known.get(name) and found["units"].max() >= LEAST_UNITS:
            reason = _reason(found[found["metric"] == name]) if name in known else "no value of the truth"
            reasons.setdefault(reason, []).append(title(name))
    failing = [f"{listing(names)} ({reason})" for reason, names in reasons.items()]
    return f"not shown to tell the corruptions from the truth: {'; '.join(failing)}" if failing else ""


def _reason(found: pd.DataFrame) -> str:
    """Return which corruptions a score does not rank below the truth, and how they score."""
    texts = []
    for kind, text in REASONS.items():
        which = [LABELS[name] for name in found.loc[found["verdict"] == kind, "method"]]
        texts += [text.format(EVERY if len(which) == len(CORRUPTIONS) else listing(which))] if which else []
    return ", ".join(texts)
