"""Two runs, measured alike, as tables of what changed from the first to the second and whether that is clear. Pure."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.probing.rotation import bins, with_bins
from analysis.probing.tables import ProbeRun
from analysis.training.run import TrainingRun, last_row
from probe.records import (
    ALL_HEADS,
    IMAGE_METRICS,
    LOSSES,
    NO_LAYER,
    TRIVIAL,
    RunError,
    better,
    grid_name,
    scene_values,
    split_coverage,
    trivial_column,
)
from probe.records.intervals import joint_widening, ratios, wide
from probe.records.table import unit_sums

EVALUATED_ALIKE = ("scenes", "evaluate_scenes", "sampling_steps", "views", "max_rotation", "model_size", "probe_groups")
"""Settings of a training that decide on what it is evaluated."""
COLUMNS = ["metric", "layer", "layer_name", "grid", "a", "b", "difference", "low", "high", "joint_low", "joint_high",
           "scenes", "units", "count", "verdict", "joint"]  # fmt: skip


# --- probe runs ------------------------------------------------------------------------------------------------------


def check_probes(a: ProbeRun, b: ProbeRun) -> None:
    """Refuse two probe runs that were not measured alike.

    Raises:
        RunError: If protocol, direction, pair list, timesteps or scenes differ, or no layer is in both.
    """
    facts = {
        "protocol": [run.protocol for run in (a, b)],
        "direction": [run.selection["direction"] for run in (a, b)],
        "pair list": [_words(run.scores["pair_list"]) for run in (a, b)],
        "timesteps": [_words(run.timesteps["timestep"]) for run in (a, b)],
    }
    for name, (first, second) in facts.items():
        if first != second:
            raise RunError(
                f"check_probes: {a.name} and {b.name} were measured with different {name}s, {first} and {second}, so "
                "their scores do not compare; probe both with the same flags"
            )
    if _names(a).isdisjoint(_names(b)):
        raise RunError(
            f"check_probes: {a.name} and {b.name} have no layer of the same index and name in common; compare two "
            "models of one architecture"
        )


def _words(column: pd.Series) -> str:
    return " ".join(sorted({str(value) for value in column.unique()}))


def _names(run: ProbeRun) -> set[tuple[int, str]]:
    return set(zip(run.layers["layer"].astype(int), run.layers["name"].astype(str), strict=True))


def shared_layers(a: ProbeRun, b: ProbeRun) -> list[int]:
    """List the layers that both runs have under the same index and name.

    Args:
        a: The first probe run.
        b: The second one.
    """
    return sorted(layer for layer, _ in _names(a) & _names(b))


def paired_scenes(a: ProbeRun, b: ProbeRun) -> pd.DataFrame:
    """Put both runs' values of each scene side by side; a scene that one of them lacks is left out.

    Returns:
        Columns metric, layer, scene, value_a, value_b, count (of the first run), difference (second minus first).
    """
    by = ["metric", "layer"]
    left, right = (scene_values(_own_rows(run, shared_layers(a, b)), by) for run in (a, b))
    both = left.merge(right, on=[*by, "scene"], suffixes=("_a", "_b")).rename(columns={"count_a": "count"})
    return both.drop(columns="count_b").assign(difference=both["value_b"] - both["value_a"])


def _own_rows(run: ProbeRun, layers: Sequence[int]) -> pd.DataFrame:
    rows = with_bins(run.measured)
    wanted = (rows["model"] == run.model) & (rows["head"] == ALL_HEADS) & rows["layer"].isin(layers)
    plain = rows["metric"].astype(str).map(lambda name: split_coverage(name)[1] is None).astype(bool)
    return rows[wanted & (rows["layer"] != NO_LAYER) & plain]


def compare_layers(a: ProbeRun, b: ProbeRun) -> pd.DataFrame:
    r"""Compare two runs per metric and layer, paired by independent unit.

    Returns:
        ``COLUMNS``: the value of each run, their difference (second minus first) with its 95 % interval, and the joint
        interval, which covers all layers of a metric at once (:func:`probe.records.intervals.joint_widening`); NaN
        below five units. Verdicts: "better", "worse", "changed" (where neither way is better), "not separable",
        "too few units".
    """
    names, layers = a.layers.set_index("layer"), shared_layers(a, b)
    parts = [_own_rows(run, layers) for run in (a, b)]
    rows = []
    for metric in dict.fromkeys(parts[0]["metric"].astype(str)):
        here = [part[part["metric"] == metric] for part in parts]
        for row in _compare(here, "layer", layers, better(metric)):
            layer = names.loc[row["key"]]
            grid = grid_name((int(layer["grid_h"]), int(layer["grid_w"])))
            rows.append({"metric": metric, "layer": row["key"], "layer_name": layer["name"], "grid": grid, **row})
    return pd.DataFrame(rows, columns=COLUMNS)


def compare_bins(a: ProbeRun, b: ProbeRun, layer: int) -> pd.DataFrame:
    """Compare two runs per rotation bin at one layer by their headline metric, paired by independent unit.

    Returns:
        Columns rotation_bin, a, b, difference, low, high (95 %, for all bins at once), scenes, units, count, verdict;
        every bin of the pair list is there, as NaN with count 0 where nothing was counted.
    """
    parts = [with_bins(_own_rows(run, [layer])) for run in (a, b)]
    parts = [part[part["metric"] == a.metric] for part in parts]
    found = {row["key"]: row for row in _compare(parts, "rotation_bin", bins(a), better(a.metric))}
    nothing = dict.fromkeys(("a", "b", "difference", "joint_low", "joint_high"), np.nan)
    empty = {**nothing, "scenes": 0, "units": 0, "count": 0, "joint": "not measured"}
    table = pd.DataFrame([{"rotation_bin": name, **found.get(name, empty)} for name in bins(a)])
    chosen = {"joint_low": "low", "joint_high": "high", "joint": "verdict"}
    table = table.drop(columns=[*chosen.values()], errors="ignore").rename(columns=chosen)
    return table[["rotation_bin", "a", "b", "difference", "low", "high", "scenes", "units", "count", "verdict"]]


def _compare(parts: Sequence[pd.DataFrame], by: str, order: Sequence[object], sign: int) -> list[dict[str, Any]]:
    """Compare the groups of one metric, with intervals that hold one by one and all together."""
    sums = [unit_sums(part.astype({by: object}), [by]) for part in parts]
    units = sorted(set(sums[0]["unit"]) & set(sums[1]["unit"]))
    (a_hits, a_count), (b_hits, b_count) = (wide(part, by, order, units) for part in sums)
    both = (a_count > 0) & (b_count > 0)
    a, b = ratios(a_hits * both, a_count * both), ratios(b_hits * both, b_count * both)
    change = b - a
    single, joint = (change.low, change.high), change.widened(joint_widening(change))
    scenes = parts[0][parts[0]["unit"].isin(units)].groupby(by, observed=True)["scene"].nunique()
    return [
        {"key": key, "a": a.value[n], "b": b.value[n], "difference": change.value[n],
         "low": single[0][n], "high": single[1][n], "joint_low": joint[0][n], "joint_high": joint[1][n],
         "scenes": int(scenes.get(key, 0)), "units": int(change.units[n]), "count": int((a_count * both)[:, n].sum()),
         "verdict": _verdict(single[0][n], single[1][n], sign), "joint": _verdict(joint[0][n], joint[1][n], sign)}
        for n, key in enumerate(order)
        if both[:, n].any()
    ]  # fmt: skip


def _verdict(low: float, high: float, sign: int) -> str:
    if np.isnan(low):
        return "too few units"
    if low <= 0 <= high:
        return "not separable"
    return "changed" if sign == 0 else "better" if (low > 0) == (sign > 0) else "worse"


# --- training runs ---------------------------------------------------------------------------------------------------


def check_trainings(a: TrainingRun, b: TrainingRun) -> None:
    """Refuse two training runs that were not evaluated alike.

    Raises:
        RunError: If settings of the evaluation differ, or the trivial baselines do (then the scenes are others), or no
            step was evaluated in both.
    """
    for name in EVALUATED_ALIKE:
        first, second = (run.settings.get(name) for run in (a, b))
        if first != second:
            raise RunError(
                f"check_trainings: {a.name} and {b.name} were evaluated with different {name}, {first} and {second}, "
                "so their values do not compare; train both with the same flags"
            )
    if last_step(a, b) is None:
        raise RunError(f"check_trainings: {a.name} and {b.name} have no evaluated step in common; train both further")
    for column in [trivial_column(method, name) for method in TRIVIAL for name in IMAGE_METRICS]:
        rows = [last_row(run, column) for run in (a, b)]
        if rows[0] is not None and rows[1] is not None and not np.isclose(rows[0][column], rows[1][column], rtol=1e-6):
            raise RunError(
                f"check_trainings: {column} of {a.name} and {b.name} differ, {rows[0][column]:.4g} and "
                f"{rows[1][column]:.4g}, so their held-out scenes are not the same; train both with the same flags"
            )


def last_step(a: TrainingRun, b: TrainingRun) -> int | None:
    """Return the last step at which both runs were evaluated; None if there is none.

    Args:
        a: The first training run.
        b: The second one.
    """
    both = set(a.evaluation["step"]) & set(b.evaluation["step"])
    return max(both) if both else None


def compare_evaluations(a: TrainingRun, b: TrainingRun) -> pd.DataFrame:
    """Compare two runs by each measure at the last step that both were evaluated at.

    Returns:
        Columns metric, step, a, b, difference (second minus first), ahead (of the evaluations that both have, how many
        the second one is better at), evaluations, gain (the difference, signed so that more is better). There are no
        intervals: a training keeps means over its held-out scenes only.
    """
    left, right = (run.evaluation.set_index("step") for run in (a, b))
    rows = []
    for metric in [name for name in (*LOSSES, *IMAGE_METRICS) if name in left and name in right]:
        both = pd.DataFrame({"a": left[metric], "b": right[metric]}).dropna()
        if len(both):
            sign, last = better(metric), both.loc[both.index.max()]
            change = float(last["b"] - last["a"])
            ahead = int((sign * (both["b"] - both["a"]) > 0).sum())
            rows.append((metric, both.index.max(), last["a"], last["b"], change, ahead, len(both), sign * change))
    columns = ["metric", "step", "a", "b", "difference", "ahead", "evaluations", "gain"]
    return pd.DataFrame(rows, columns=columns)


def compare_probes_of_trainings(a: TrainingRun, b: TrainingRun) -> pd.DataFrame:
    """Compare the precision of each layer at the last step that both runs probed.

    Returns:
        Columns step, layer, layer_name, grid, a, a_low, a_high, b, b_low, b_high, difference, verdict: "better" or
        "worse" where the two intervals over scenes lie apart (stricter than a paired test), else "not separable".
        Empty where not both were probed at one step.
    """
    columns = ["step", "layer", "layer_name", "grid", "a", "a_low", "a_high", "b", "b_low", "b_high", "difference",
               "verdict"]  # fmt: skip
    if a.emergence is None or b.emergence is None:
        return pd.DataFrame(columns=columns)
    kept = ["step", "layer", "layer_name", "grid", "value", "low", "high"]
    left, right = a.emergence[kept], b.emergence[kept]
    both = left.merge(right, on=["step", "layer", "layer_name", "grid"], suffixes=("_a", "_b"))
    both = both[both["step"] == both["step"].max()]
    apart = [_apart(row) for row in both.itertuples()]
    renamed = {
        f"{old}_{run}": f"{run}{new}"
        for run in "ab"
        for old, new in (("value", ""), ("low", "_low"), ("high", "_high"))
    }
    return both.rename(columns=renamed).assign(difference=both["value_b"] - both["value_a"], verdict=apart)[columns]


def _apart(row: Any) -> str:
    return "better" if row.low_b > row.high_a else "worse" if row.high_b < row.low_a else "not separable"


def changed_settings(a: ProbeRun | TrainingRun, b: ProbeRun | TrainingRun) -> list[tuple[str, str, str]]:
    """List the settings in which two runs differ, but for where they lie: name, first, second.

    Args:
        a: The first run.
        b: The second one.
    """
    names = [*a.settings, *(name for name in b.settings if name not in a.settings)]
    each = [(name, *(str(run.settings.get(name, "–")) for run in (a, b))) for name in names if name != "out"]
    return [(name, first, second) for name, first, second in each if first != second]
