"""Which geometry scores can be trusted, in words."""

import pandas as pd

from analysis.evaluation.geometry import WORSE
from analysis.evaluation.geometry_words import title as geometry_title
from analysis.words import MISSING, listing, percent
from claims.tables import REFERENCE
from probe.records import MODEL, TRUTH
from probe.records.names import CORRUPTIONS, GEOMETRY_SCORES, REGISTERED, SIFT_MATCHES, TSED, TSED_PIXELS, within
from train.quality.geometry import LEAST_INLIERS, LEAST_MATCHES

GEOMETRY_RUNS = {
    "kitchen-256": "real frames (7-Scenes kitchen), 256 px",
    "kitchen-supervised": "the same, 32 px",
    "shapes-256": "rooms, 256 px",
    "supervised": "rooms, 32 px",
}
"""Evaluations under reports/reference/geometry, and whose true views they have."""


def geometry_words() -> str:
    """Tell of each evaluation which scores can be trusted, or which corruptions are not shown to score worse."""
    verdicts = [_verdicts(name) for name in GEOMETRY_RUNS]
    rows = [("score", *GEOMETRY_RUNS.values()), ("---",) * (len(GEOMETRY_RUNS) + 1)]
    rows += [("SIFT matches of a true pair", *map(_matches, GEOMETRY_RUNS))]
    rows += [(geometry_title(name), *(each.get(name, MISSING) for each in verdicts)) for name in GEOMETRY_SCORES]
    lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return (
        f"{lines}\n\nAt one reference. Yes: can be trusted there, each corruption is shown to score worse than the "
        f"truth. No: which is not shown to; {MISSING}: the true views have no value."
    )


def untold_words() -> str:
    """Return why TSED and the camera's error cannot be put beside precision: what the true views themselves have."""
    rows = _fewest("supervised", "scores").set_index(["metric", "method"])
    tsed = within(TSED, max(TSED_PIXELS), "px")
    true, model, registered = rows.loc[(tsed, TRUTH)], rows.loc[(tsed, MODEL)], rows.loc[(REGISTERED, TRUTH)]
    return (
        f"TSED and the camera's error are left out: they need {LEAST_MATCHES} and {LEAST_INLIERS} SIFT matches, and at "
        f"the model's size a pair of true views has {rows.loc[(SIFT_MATCHES, TRUTH), 'value']:.1f}. In an evaluation "
        f"of its own ({true['units']} rooms, one reference) {percent(true['value'])} of {true['rows']} true pairs pass "
        f"TSED at {max(TSED_PIXELS)} px ({percent(true['low'])} to {percent(true['high'])}), "
        f"{percent(model['value'])} of the supervised model's, and the camera of {percent(registered['value'])} of the "
        "true ones can be found from its matches."
    )


def _fewest(name: str, kind: str) -> pd.DataFrame:
    table = pd.read_csv(REFERENCE / "geometry" / f"{name}-{kind}.csv")
    return table[table["n_ref"] == table["n_ref"].min()]


def _matches(name: str) -> str:
    row = _fewest(name, "scores").set_index(["metric", "method"]).loc[(SIFT_MATCHES, TRUTH)]
    return f"{row['value']:.1f} ({row['rows']} pairs)"


def _verdicts(name: str) -> dict[str, str]:
    parts = _fewest(name, "trust").groupby("metric")
    failing = {str(metric): list(part.loc[part["verdict"] != WORSE, "method"]) for metric, part in parts}
    return {metric: _failing_text(which) for metric, which in failing.items()}


def _failing_text(which: list[str]) -> str:
    return f"no: {'all' if len(which) == len(CORRUPTIONS) else listing(which)}" if which else "yes"
