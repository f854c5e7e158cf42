"""Sentences that terminal and page share: each limit of a run is written once."""

from probe.records.intervals import LEAST_UNITS

TRACKS_LIMIT = (
    "The true points come from tracks and are known at few pixels: where a track errs, a right match counts as wrong, "
    "and only the points that tracks know count at all. Most tracks are SIFT matches: dsift finds them easily."
)
"""What is said of every run whose truth is the points of tracks: a reconstruction's, or those of SIFT."""
MORE_UNITS = "raise --pairs, or add scenes or recordings"


def counted(units: int) -> str:
    """Return the number of independent units in words."""
    return f"{units} independent unit{'' if units == 1 else 's'}"


def too_few(units: int) -> str:
    """Return that nothing can be claimed, and what to do, where there are too few units for an interval; else nothing.

    Args:
        units: Independent units that were measured, or will be.
    """
    if units >= LEAST_UNITS:
        return ""
    rest = f"it rests on {counted(units)}, and an interval needs {LEAST_UNITS}"
    return f"Nothing can be claimed: {rest}; {MORE_UNITS}."


def shorten(text: str, letters: int) -> str:
    """Cut the middle out of a text that is too long: how it starts and its last words stay readable."""
    if len(text) <= letters:
        return text
    first = (letters - 1) // 2
    return f"{text[:first]}\u2026{text[len(text) - (letters - 1 - first) :]}"
