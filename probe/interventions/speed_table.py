"""What a plan for speed was measured to do, as a table and in a sentence. Pure."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from probe.records import EFFECT, PSNR, grid_name
from probe.records.intervals import Ratios, joint_widening, ratios, wide
from probe.records.names import PLANNED, UNPLANNED, UNPLANNED_TAP, stage_name
from probe.records.table import unit_sums

ALL = -1
"""Timestep of what is measured over all of them, or not at one."""
TIMES = {"attention_kernels": UNPLANNED_TAP, "attention": UNPLANNED_TAP, "sampling": UNPLANNED}
"""What is timed, and what the plan's time is compared with: attention is timed under a tap, but without a plan nothing
need be tapped."""
HELD, BROKEN, NOT_SHOWN = "held", "broken", "not shown"


def speed_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Compare what is measured with a plan and without, paired by independent unit.

    Args:
        rows: Columns measure, plan, scene, unit, timestep (:data:`ALL` where it is of none), repeat, value and count:
            effect_error (growth of the prediction's error), psnr (dB), and the seconds attention_kernels, attention and
            sampling.

    Returns:
        A row per measure, of the growth one at each timestep too: measure, timestep, unplanned, planned, change, low,
        high, scenes, units. ``change`` is the growth itself, the difference of PSNR, and how many times faster the plan
        is (its seconds, the median over repeats in each scene, summed over scenes); its 95 % interval is over units,
        NaN below five.
    """
    growth, timesteps = (
        rows[(rows["measure"] == EFFECT) & (rows["plan"] == PLANNED)],
        sorted(int(t) for t in rows["timestep"].unique() if t != ALL),
    )
    parts = [_growth(growth if t == ALL else growth[growth["timestep"] == t], t) for t in (ALL, *timesteps)]
    return pd.DataFrame([*parts, _psnr(rows), *(_faster(rows, measure) for measure in TIMES)])


def _growth(rows: pd.DataFrame, t: int) -> dict[str, Any]:
    units = sorted(rows["unit"].astype(str).unique())
    found = ratios(*_columns(rows.assign(way=PLANNED), units, [PLANNED]), shares=False)
    return _row(EFFECT, rows, found, t)


def _psnr(rows: pd.DataFrame) -> dict[str, Any]:
    own, units = _of(rows, PSNR)
    values, counts = _columns(own, units, [UNPLANNED, PLANNED])
    both = ratios(values, counts, shares=False)
    change = both.columns([1]) - both.columns([0])
    return _row(PSNR, own, change) | {"unplanned": both.value[0], "planned": both.value[1]}


def _faster(rows: pd.DataFrame, measure: str) -> dict[str, Any]:
    own, units = _of(rows, measure)
    keys = ["unit", "scene", "plan"]
    median = own.assign(unit=own["unit"].astype(str)).groupby(keys, observed=True)["value"].median().reset_index()
    seconds = median.groupby(["unit", "plan"], observed=True)["value"].sum().unstack("plan").reindex(units)  # noqa: PD010
    usual, planned = (seconds[[way]].to_numpy() for way in (TIMES[measure], PLANNED))
    scenes = own["scene"].nunique()
    means = {"unplanned": usual.sum() / scenes, "planned": planned.sum() / scenes}
    return _row(measure, own, ratios(usual, planned, shares=False)) | means


def _of(rows: pd.DataFrame, measure: str) -> tuple[pd.DataFrame, list[str]]:
    own = rows[rows["measure"] == measure]
    return own.assign(way=own["plan"]), sorted(own["unit"].astype(str).unique())


def _columns(rows: pd.DataFrame, units: list[str], ways: list[str]) -> tuple[np.ndarray, np.ndarray]:
    return wide(unit_sums(rows.assign(unit=rows["unit"].astype(str)), ["way"]), "way", ways, units)


def _row(measure: str, rows: pd.DataFrame, found: Ratios, t: int = ALL) -> dict[str, Any]:
    ends = {
        name: float(getattr(found, part)[0]) for name, part in (("change", "value"), ("low", "low"), ("high", "high"))
    }
    beside = {"unplanned": math.nan, "planned": math.nan}
    counted = {"scenes": rows["scene"].nunique(), "units": int(found.units[0])}
    return {"measure": measure, "timestep": t, **beside, **ends, **counted}


def curve_table(rows: pd.DataFrame, plan: Mapping[str, Any]) -> pd.DataFrame:
    """Return the growth of the error after each move of a plan, in scenes that did not plan.

    Args:
        rows: As for :func:`speed_table`.
        plan: What plan.json holds.

    Returns:
        A row per move that was taken, in order: moves (how many), layer, heads, mode, share (of the multiply-adds of 3D
        attention that are computed after it), growth, low and high: a 95 % interval that holds for all rows at once;
        NaN below five units.
    """
    taken = [step for step in plan["steps"] if step["taken"]]
    names = [stage_name(k) for k in range(1, len(taken) + 1)]
    own, units = _of(rows, EFFECT)
    found = ratios(*_columns(own, units, names), shares=False)
    low, high = found.widened(joint_widening(found))
    moves = [
        {"moves": k, **{name: step[name] for name in ("layer", "heads", "mode")}} for k, step in enumerate(taken, 1)
    ]
    shares = [step["cost"] / plan["before"] for step in taken]
    return pd.DataFrame(moves, columns=["moves", "layer", "heads", "mode"]).assign(
        share=shares, growth=found.value, low=low, high=high
    )


def verdict(growth: Mapping[str, Any], budget: float) -> str:
    """Return whether a budget is kept, by the interval of the growth: held, broken, or not shown."""
    if growth["high"] <= budget:
        return HELD
    return BROKEN if growth["low"] > budget else NOT_SHOWN


def speed_words(table: pd.DataFrame, *, budget: float, share: float) -> str:
    """Return how much faster a plan is and whether its budget is kept, in a sentence.

    Args:
        table: Of :func:`speed_table`.
        budget: The most that the error may grow by.
        share: Of the multiply-adds of 3D attention that the plan computes.
    """
    by = {row["measure"]: row for row in table[table["timestep"] == ALL].to_dict("records")}
    growth, psnr = by[EFFECT], by[PSNR]
    kept = {
        HELD: f"within the budget of {budget:.1%}",
        BROKEN: f"more than the budget of {budget:.1%}",
        NOT_SHOWN: f"a budget of {budget:.1%} is not shown to be kept",
    }[verdict(growth, budget)]
    times = ", ".join(f"{name} {by[measure]['change']:.2f}" for measure, name in SPOKEN.items())
    return (
        f"The plan computes {share:.1%} of the multiply-adds of 3D attention ({1 / share:.2f} times fewer) and changes "
        f"the error of the denoised prediction by {_percent(growth)} in {growth['scenes']} scenes, none of which "
        f"planned: {kept}. PSNR of samples changes by {psnr['change']:+.2f} dB{_between(psnr, '{:+.2f}')}. "
        f"Times faster, measured: {times}."
    )


def curve_words(curve: pd.DataFrame, budget: float) -> str:
    """Return how much of a plan is shown to keep a budget, in a sentence.

    Args:
        curve: Of :func:`curve_table`.
        budget: The most that the error may grow by.
    """
    kept = curve[curve["high"] <= budget]
    if kept.empty:
        return f"No part of the plan is shown to keep a budget of {budget:.1%}."
    last = kept.iloc[-1]
    return (
        f"Of its {len(curve)} moves in their order, the first {int(last['moves'])} are shown to keep the budget of "
        f"{budget:.1%}, by intervals that hold for all at once: {last['share']:.1%} of the multiply-adds "
        f"({1 / last['share']:.2f} times fewer) at {last['growth']:+.2%} ({last['low']:+.2%} to {last['high']:+.2%})."
    )


SPOKEN = {
    "attention_kernels": "the attention kernels",
    "attention": "with the tokens' moves around them",
    "sampling": "a whole sample, under the tap that applies the plan,",
}


def _percent(row: Mapping[str, Any]) -> str:
    return f"{row['change']:+.2%}{_between(row, '{:+.2%}')}"


def _between(row: Mapping[str, Any], form: str) -> str:
    if not math.isfinite(row["low"]):
        return " (too few units for an interval)"
    return f" ({form.format(row['low'])} to {form.format(row['high'])})"


# --- for the terminal ------------------------------------------------------------------------------------------------

PLAN_HEADINGS = ("layer", "grid", "heads: all views", "own view and references", "own view", "multiply-adds kept")
TABLE_HEADINGS = ("measure", "without the plan", "with it", "change")


def plan_cells(plan: Mapping[str, Any]) -> tuple[Sequence[str], list[list[str]]]:
    """Write a plan as a table, headings and rows.

    Args:
        plan: What plan.json holds.
    """
    rows = [
        [
            f"{layer['layer']} {layer['name'].removesuffix('.transformer_blocks.0.attn1')}",
            grid_name(layer["grid"]),
            *(",".join(map(str, layer[mode])) or "-" for mode in ("joint", "references", "per_view")),
            f"{layer['after'] / layer['before']:.1%}",
        ]
        for layer in plan["layers"]
    ]
    return PLAN_HEADINGS, rows


def table_cells(table: pd.DataFrame) -> tuple[Sequence[str], list[list[str]]]:
    """Write what was measured as a table, headings and rows.

    Args:
        table: Of :func:`speed_table`.
    """
    return TABLE_HEADINGS, [_cells(row) for row in table.to_dict("records")]


CURVE_HEADINGS = ("moves", "layer", "heads", "attend to", "multiply-adds kept", "growth (joint interval)")
WORDS = {"references": "own view and references", "per_view": "own view"}


def curve_cells(curve: pd.DataFrame) -> tuple[Sequence[str], list[list[str]]]:
    """Write what each move changes as a table, headings and rows.

    Args:
        curve: Of :func:`curve_table`.
    """
    rows = [
        [
            *(str(row[name]) for name in ("moves", "layer")),
            ",".join(map(str, row["heads"])),
            WORDS[row["mode"]],
            f"{row['share']:.1%}",
            _percent({**row, "change": row["growth"]}),
        ]
        for row in curve.to_dict("records")
    ]
    return CURVE_HEADINGS, rows


def _cells(row: Mapping[str, Any]) -> list[str]:
    if row["measure"] == EFFECT:
        at = "" if row["timestep"] == ALL else f" at t = {row['timestep']}"
        return [f"growth of the prediction's error{at}", "", "", _percent(row)]
    if row["measure"] == PSNR:
        both = [f"{row[name]:.2f} dB" for name in ("unplanned", "planned")]
        return ["PSNR of samples", *both, f"{row['change']:+.2f}{_between(row, '{:+.2f}')}"]
    seconds = [f"{row[name]:.3f} s" for name in ("unplanned", "planned")]
    return [TITLES[row["measure"]], *seconds, f"{row['change']:.2f} times faster{_between(row, '{:.2f}')}"]


TITLES = {
    "attention_kernels": "3D attention of a sample, kernels alone",
    "attention": "3D attention of a sample",
    "sampling": "a whole sample",
}


def paper_words(plan: Mapping[str, Any]) -> str:
    """Return what the plan would save in a larger network, in a sentence that says that it is counted.

    Args:
        plan: What plan.json holds.
    """
    if not plan["paper"]:
        return "The plan is not counted for cat3d at full size, whose 3D layers have other indexes."
    counted = "; ".join(
        f"{row['views']} views, {row['n_ref']} clean: {row['after'] / 1e9:.0f} for {row['before'] / 1e9:.0f} "
        f"thousand million, {row['before'] / row['after']:.2f} times fewer"
        for row in plan["paper"]
    )
    network = plan["paper"][0]["network"].split(":")[0]
    return (
        f"The same plan for {network} at full size, multiply-adds of 3D attention per forward, counted, not measured "
        f"(at what error is not known): {counted}."
    )
