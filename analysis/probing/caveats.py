"""The limits of a run's numbers, in sentences and as far as the tables tell."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.probing.leads import leads
from analysis.probing.rotation import pair_counts
from analysis.probing.tables import ProbeRun, layer_grids, profile, rivals
from analysis.probing.words import best_row
from analysis.words import bin_words, listing, percent, plural, points, with_interval
from probe.records import CAMERAS_ONLY, null_label
from probe.records.intervals import LEAST_UNITS
from probe.records.names import is_block
from probe.records.words import TRACKS_LIMIT

FEW_PAIRS = 10
LOW_CEILING = 0.5
UNCHECKED = "the truth is unchecked"
"""What the check of the truth says where it found no match."""


def caveats(run: ProbeRun) -> list[str]:
    """Return the limits of the numbers in sentences, as far as the tables tell."""
    found = [
        *_doubtful_truth(run), *_not_scored(run), *_other_truth(run), *_few_units(run), *_thin_bins(run),
        *_coarse_grids(run),
        *_at_null(run), *_below_same_position(run), *_order_changes(run), *_rivals_close(run), *_missing_values(run),
    ]  # fmt: skip
    chosen = (
        "The layer was chosen on the same scenes on which its score is shown, so on new scenes it is likely to score a "
        "little lower."
    )
    return [*found, chosen] if len(run.layers) > 1 else found


def _doubtful_truth(run: ProbeRun) -> list[str]:
    """Return the warning that the truth does not fit the images, or that nothing could be checked."""
    warning, truth = (str(run.notes.get(name) or "") for name in ("warning", "truth"))
    return [warning] if warning else [f"{truth[:1].upper()}{truth[1:]}."] if UNCHECKED in truth else []


def _not_scored(run: ProbeRun) -> list[str]:
    """Name self-attentions that could not be scored, by reason."""
    names_of = dict[str, list[str]]()
    for name, reason in (run.settings.get("not_scored") or {}).items():
        names_of.setdefault(str(reason), []).append(str(name))
    return [
        f"{plural(len(names), 'attention')} of the model could not be scored ({listing(names[:3])}"
        f"{' and others' if len(names) > 3 else ''}): {reason}."
        for reason, names in names_of.items()
    ]


def _other_truth(run: ProbeRun) -> list[str]:
    """Return what a truth that is no depth of the scenes' own limits."""
    source = run.settings.get("truth_source")
    if source == "tracks" or run.notes.get("tracks"):
        return [TRACKS_LIMIT]
    if source in (None, "depth"):
        return []
    return [
        f"The true points come from {source}, not from the scenes' own depth: where that errs, a right match counts as "
        f"wrong, and only the points that it knows count at all."
    ]


def _few_units(run: ProbeRun) -> list[str]:
    units = len(run.units)
    blocks = (
        [
            f"All scenes are of one recording; its {plural(units, 'block')} of time stand for independent units, but "
            "show the same place: another recording may differ by more than the intervals say."
        ]
        if any(is_block(unit) for unit in run.units)
        else []
    )
    if units >= LEAST_UNITS:
        return blocks
    return [
        f"All of it rests on {plural(units, 'independent unit')}: too few for an interval or a claim, which need "
        f"{LEAST_UNITS}.",
        *blocks,
    ]


def _thin_bins(run: ProbeRun) -> list[str]:
    table = pair_counts(run)
    empty = [bin_words(row.rotation_bin) for row in table.itertuples() if row.measured == 0]
    thin = [(bin_words(row.rotation_bin), row.measured) for row in table.itertuples() if 0 < row.measured < FEW_PAIRS]
    texts = [f"Rotations of {listing(empty)} were not measured: nothing is said about them."] if empty else []
    if thin:
        named = listing(f"{name} ({plural(count, 'pair')})" for name, count in thin)
        texts.append(f"Few view pairs stand behind {named}; read these bins with care.")
    return texts


def _coarse_grids(run: ProbeRun) -> list[str]:
    low = run.layers[run.layers["ceiling"] < LOW_CEILING]
    if low.empty:
        return []
    grids = layer_grids(run)
    parts = [
        f"{_layers(part['layer']).lower()} ({grid}: {percent(part['ceiling'].iloc[0])})"
        for grid, part in low.groupby(low["layer"].map(grids), sort=False)
    ]
    fairer = " or on the common grid" if _has_common_grid(run) else ""
    return [
        "On coarse grids even the best possible token is mostly wrong by this threshold: the ceiling is low for "
        f"{listing(parts)}. Compare such layers by their share of the ceiling{fairer}, not by precision."
    ]


def _at_null(run: ProbeRun) -> list[str]:
    if len(run.units) < LEAST_UNITS:
        return []
    near = run.layers[~run.layers["above_null"].astype(bool)]["layer"]
    if near.empty:
        return []
    who = "No layer is" if len(near) == len(run.layers) else f"{_layers(near)} {'is' if len(near) == 1 else 'are'} not"
    return [f"{who} shown to be above the strongest null, with intervals that hold for all layers at once."]


def _below_same_position(run: ProbeRun) -> list[str]:
    if "lead_high" not in run.layers:
        return []
    beaten = (run.layers["null"] == "same position") & (run.layers["lead_high"] < 0)
    under = run.layers[beaten]["layer"]
    if under.empty:
        return []
    if len(under) == len(run.layers):
        return ["Every layer matches worse than simply staying at the same position in the other view."]
    return [
        f"{_layers(under)} {'matches' if len(under) == 1 else 'match'} worse than simply staying at the same "
        "position in the other view."
    ]


def _layers(layers: Sequence[int] | pd.Series) -> str:
    return ("Layer " if len(layers) == 1 else "Layers ") + listing(layers)


def _has_common_grid(run: ProbeRun) -> bool:
    return "common_grid_precision" in run.layers and bool(run.layers["common_grid_precision"].notna().any())


def _order_changes(run: ProbeRun) -> list[str]:
    if not _has_common_grid(run):
        return []
    best = run.layers.loc[run.layers["common_grid_precision"].idxmax()]
    if int(best["layer"]) == run.layer:
        return []
    here = best_row(run)
    apart = best["common_grid_low"] > here["common_grid_high"]
    verdict = "the choice depends on how grids are compared" if apart else "these scenes do not tell the two apart"
    return [
        f"With all maps resampled to one grid, layer {int(best['layer'])} scores highest "
        f"({_on_common_grid(best)}; layer {run.layer}: {_on_common_grid(here)}): {verdict}."
    ]


def _on_common_grid(row: pd.Series) -> str:
    return with_interval(row["common_grid_precision"], row["common_grid_low"], row["common_grid_high"])


def _rivals_close(run: ProbeRun) -> list[str]:
    """Return what the selected layer is not shown to beat, paired by unit: on its own grid, or else by intervals."""
    if not best_row(run)["above_null"]:
        return []  # said already: nothing is beaten
    ahead = leads(run).set_index("model")
    common = profile(run, common=True)
    common = common[common["layer"] == run.layer]
    mine = common[common["model"] == run.model]
    texts = []
    for name in rivals(run):
        if name == run.model + CAMERAS_ONLY and name not in ahead.index:
            continue  # beaten: it is no stronger than the strongest null
        if name in ahead.index:
            row = ahead.loc[name]
            if not row["low"] > 0:
                texts.append(f"{_not_beaten(run, name)} on its grid of {run.grid}: its lead is {_points(row)}.")
            continue
        other = common[common["model"] == name]
        if len(mine) and len(other) and not other["high"].iloc[0] < mine["low"].iloc[0]:
            texts.append(f"{_not_beaten(run, name)} on the common grid: {_measured(mine)} against {_measured(other)}.")
    return texts


def _not_beaten(run: ProbeRun, name: str) -> str:
    return f"Layer {run.layer} is not shown to beat \u201c{null_label(name)}\u201d"


def _points(row: pd.Series) -> str:
    ends = "" if np.isnan(row["low"]) else f" ({points(row['low'])} to {points(row['high'])})"
    return f"{points(row['value'])} points{ends}"


def _measured(rows: pd.DataFrame) -> str:
    return with_interval(*rows[["value", "low", "high"]].iloc[0])


def _missing_values(run: ProbeRun) -> list[str]:
    lost = run.layers[run.layers["precision"].isna()]["layer"]
    return [f"{_layers(lost)} could not be measured: no point was counted."] if len(lost) else []
