"""A probe run in words: the names of its layers, and the answer in sentences. Pure."""

from typing import Any

import numpy as np
import pandas as pd

from analysis.probing.rotation import verdicts
from analysis.probing.tables import ProbeRun, layer_grids
from analysis.words import (
    MISSING,
    NBSP,
    bin_words,
    interval,
    listing,
    metric_words,
    percent,
    plural,
    points,
    short_name,
)
from probe.records import CAMERAS_ONLY, NO_LAYER, SAME_POSITION, UNIFORM
from probe.records.intervals import LEAST_UNITS
from probe.records.names import NULL_LABELS
from probe.records.words import too_few

FEW_TOKENS = 200
"""Below this many tokens, the headline says how many stand behind it."""


def layer_places(run: ProbeRun) -> dict[int, str]:
    """Return each 3D layer's place in the model, short."""
    return {
        int(layer): short_name(str(name)) for layer, name in zip(run.layers["layer"], run.layers["name"], strict=True)
    }


def layer_labels(run: ProbeRun, separator: str = "\n") -> dict[int, str]:
    """Return each 3D layer's index, place and grid, as figures show them.

    Args:
        run: The probe run.
        separator: Between the three.
    """
    grids = layer_grids(run)
    return {layer: separator.join([str(layer), place, grids[layer]]) for layer, place in layer_places(run).items()}


NULL_WORDS = {
    NULL_LABELS[UNIFORM]: "a uniform guess",
    NULL_LABELS[SAME_POSITION]: "the same position",
    NULL_LABELS[CAMERAS_ONLY]: "the cameras alone",
}


def bars_words(units: int, which: str = "") -> str:
    """Return what the bars of a figure are, or that there are none.

    Args:
        units: Independent ones that were measured.
        which: What else is to be said of the intervals.
    """
    if units < LEAST_UNITS:
        return f"No intervals: {plural(units, 'independent unit')}, and {LEAST_UNITS} are the fewest that give one."
    return f"Bars: 95{NBSP}% intervals over {units} independent units{which}."


# --- the answer ------------------------------------------------------------------------------------------------------


def best_row(run: ProbeRun) -> pd.Series:
    """Return the selected layer's row of the layer table."""
    return run.layers.set_index("layer", drop=False).loc[run.layer]


def standing(run: ProbeRun) -> str:
    """Return what the chosen layer is called: selected, or highest, or chosen, where it is not shown to beat nulls."""
    if best_row(run)["above_null"]:
        return "selected"
    return "highest; not shown" if _leads(run) else "chosen; not shown"


def answer(run: ProbeRun) -> list[str]:
    """Return the result in sentences: the layer, its share of the ceiling, the references on the same points."""
    row = best_row(run)
    return [
        f"Layer {run.layer} ({run.selection['name']}, {run.grid} tokens) {_place(run)}: "
        f"{percent(row['precision'])} of its matches have {metric_words(run.metric)}"
        f"{_ci(row['precision_low'], row['precision_high'])}, over {_behind(run)}."
        f"{_share_words(row)}",
        doubt(run, row),
        f"On {_points(run)} a uniform guess gets {percent(row['chance'])}, the token at the same position "
        f"{percent(row['same_position'])},{_cameras(row)} and the best possible token"
        f"{', on points of its choice,' * run.choosing} "
        f"{percent(row['ceiling'])}.",
        _ties(run),
        _weighed(run),
    ]


def _share_words(row: pd.Series) -> str:
    """Return how near the layer comes to what its grid allows; empty where the grid allows all."""
    share = percent(row["share_of_ceiling"])
    ends = _ci(row.get("share_low"), row.get("share_high"))
    return "" if share == percent(row["precision"]) else f" That is {share} of what its grid allows{ends}."


def _cameras(row: pd.Series) -> str:
    """Return what the layer finds without images, where that was asked."""
    value = row.get("cameras_only", np.nan)
    return "" if np.isnan(value) else f" the same layer without images (cameras only) {percent(value)},"


def _points(run: ProbeRun) -> str:
    """Return which points guesses stand for; older runs scored them once per grid, over all points."""
    guesses = run.headline[run.headline["model"] == UNIFORM]
    return "all points, kept or not," if run.choosing and (guesses["layer"] == NO_LAYER).any() else "the same points"


def _leads(run: ProbeRun) -> bool:
    """Return whether no layer has a higher share of its ceiling."""
    return bool(run.layer == run.layers.set_index("layer")["share_of_ceiling"].idxmax())


def _place(run: ProbeRun) -> str:
    """Return how the layer was selected: the best by correspondence, or chosen among ties."""
    if not (_leads(run) or not run.selection.get("rule")):
        return "was chosen"
    if len(run.layers) == 1:
        return "was the only layer measured"
    ahead = run.selection.get("ahead", not run.selection.get("ties"))
    sure = best_row(run)["above_null"] and ahead
    return "finds the corresponding point best" if sure else "scores highest"


def _behind(run: ProbeRun) -> str:
    """Return on how many scenes, independent units and, where these are few, tokens the selected layer's numbers rest.

    Every timestep counts the same tokens anew.
    """
    scenes, units = int(best_row(run)["scenes"]), len(run.units)
    tokens = int(best_row(run)["count"]) // max(len(run.timesteps), 1)
    unit = "" if scenes == units else plural(units, "independent unit")
    few = "" if tokens >= FEW_TOKENS else f"only {plural(tokens, 'token')}"
    more = ", ".join(filter(None, (unit, few)))
    return f"{plural(scenes, 'scene')}{f' ({more})' if more else ''}"


def _weighed(run: ProbeRun) -> str:
    """Return what causal effect and cost decided, where an effect was measured."""
    known = "causal_effect" in run.layers and bool(run.layers["causal_effect"].notna().any())
    return str(run.selection.get("weighing", "")) if known else ""


def _ci(low: Any, high: Any) -> str:
    text = interval(low, high)
    return "" if text == MISSING else f" (95{NBSP}% interval {text})"


def doubt(run: ProbeRun, row: pd.Series) -> str:
    """Return why nothing is claimed of the selected layer; empty where it is shown to be above its strongest null."""
    if row["above_null"]:
        return ""
    if len(run.units) < LEAST_UNITS:
        return too_few(len(run.units))
    if np.isnan(row.get("lead_low", np.nan)):
        return "It was not shown to be above its strongest null, so nothing is claimed about correspondence."
    return (
        f"The {percent(row['precision'])} of layer {run.layer} are not shown to be more than what "
        f"{NULL_WORDS.get(row['null'], row['null'])} would find: "
        f"the lead is {points(row['lead'])} points, "
        f"{points(row['lead_low'])} to {points(row['lead_high'])} with 95{NBSP}% for all layers at once. So no layer "
        f"was shown to find correspondence{_highest(run)}. More pairs (--pairs) narrow the intervals."
    )


def _highest(run: ProbeRun) -> str:
    """Return the layer of the highest precision, where another one was chosen; it is not shown to match either."""
    if _leads(run):
        return ""
    row = run.layers.loc[run.layers["share_of_ceiling"].idxmax()]
    return f", nor was the one of the highest share of its ceiling, layer {row['layer']} ({percent(row['precision'])})"


def _ties(run: ProbeRun) -> str:
    ties = [tie["layer"] if isinstance(tie, dict) else tie for tie in run.selection.get("ties", [])]
    layers = run.layers.set_index("layer")
    shares = layers["share_of_ceiling"]
    if ties and len(run.units) < LEAST_UNITS:
        return "No layer can be shown to be better than another."
    if ties:
        word = "Layer" if len(ties) == 1 else "Layers"
        weak = ~layers["above_null"].astype(bool)
        doubts = {tie: f", not above {layers['null'][tie]}" if weak[tie] else "" for tie in ties}
        named = listing(f"{tie} ({percent(shares[tie])} of its ceiling{doubts[tie]})" for tie in ties)
        return f"{word} {named} cannot be separated from it on these scenes."
    after = [int(entry["layer"]) for entry in run.selection.get("runners_up", [])]
    return f"Next comes layer {after[0]} with {percent(shares[after[0]])} of its ceiling." if after else ""


def verdict_texts(run: ProbeRun) -> list[tuple[str, str, str]]:
    """Return per rotation bin whether the selected layer beats the same position: the bin, the verdict, the numbers."""
    return [(bin_words(row.rotation_bin), row.verdict, _verdict_numbers(row)) for row in verdicts(run).itertuples()]


def _verdict_numbers(row: Any) -> str:
    if row.verdict == "not measured":
        return "no point was counted in this bin"
    apart = interval(row.low, row.high)
    spread = (
        f"no interval: {plural(row.units, 'independent unit')}, {LEAST_UNITS} are needed"
        if apart == MISSING
        else f"95{NBSP}% interval {points(row.low)} to {points(row.high)}"
    )
    return (
        f"{percent(row.value)} against {percent(row.same_position)}; difference {points(row.difference)} points "
        f"({spread}); uniform chance {percent(row.chance)}; {plural(row.scenes, 'scene')}, "
        f"{plural(row.pairs, 'view pair')}"
    )
