"""The tables of a plan for speed: what it was measured to do, with intervals, and in words. Pure."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from probe.records.intervals import Ratios, divide, joint_widening, ratios, wide
from probe.records.names import EFFECT, PLANNED, PSNR, UNPLANNED, UNPLANNED_TAP, stage_name
from probe.records.table import unit_sums

ALL = -1
"""Timestep of what is measured over all of them, or not at one."""
TIMES = {"attention_kernels": UNPLANNED_TAP, "attention": UNPLANNED_TAP, "sampling": UNPLANNED}
"""What is timed, and what the plan's time is compared with: attention is timed under a tap, but without a plan nothing
need be tapped."""
HELD, BROKEN, NOT_SHOWN = "held", "broken", "not shown"
MODE_WORDS = {"references": "own view and references", "per_view": "own view"}
"""What the heads of a move attend to."""
COLUMNS = ("measure", "plan", "scene", "unit", "timestep", "repeat", "value", "count")
PLAN_KEYS = ("model", "budget", "before", "share", "scenes", "timesteps", "steps")
"""Of plan.json, those that the tables are made from."""


def names_in(plan: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Return what the columns of text in speed.csv hold beside a plan.

    Args:
        plan: What plan.json holds.
    """
    stages = tuple(stage_name(k) for k in range(1, len(moves_of(plan)) + 1))
    return {"measure": (EFFECT, PSNR, *TIMES), "plan": (UNPLANNED, UNPLANNED_TAP, PLANNED, *stages)}


def moves_of(plan: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the moves of a plan that were taken, in their order; none where every head attends to all views.

    Args:
        plan: What plan.json holds.
    """
    return [step for step in plan["steps"] if step["taken"]]


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
    both = _seconds(own, [TIMES[measure], PLANNED])
    usual, planned = (both[[way]].groupby("unit").sum().reindex(units, fill_value=0.0).to_numpy() for way in both)
    unplanned, under = divide(both.sum().to_numpy(), np.array(len(both)))
    found = ratios(usual, planned, shares=False)
    return _row(measure, own, found) | {"unplanned": float(unplanned), "planned": float(under)}


def _seconds(rows: pd.DataFrame, ways: list[str]) -> pd.DataFrame:
    """Return the median over repeats of each scene and way, by unit and scene; scenes without one are absent."""
    known = rows[rows["value"].notna() & (rows["count"] > 0)].assign(unit=rows["unit"].astype(str))
    median = known.groupby(["unit", "scene", "plan"], observed=True)["value"].median()
    return median.unstack("plan").reindex(columns=ways).dropna()  # noqa: PD010


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
    steps = moves_of(plan)
    names = [stage_name(k) for k in range(1, len(steps) + 1)]
    own, units = _of(rows, EFFECT)
    found = ratios(*_columns(own, units, names), shares=False)
    low, high = found.widened(joint_widening(found))
    moves = [
        {"moves": k, **{name: step[name] for name in ("layer", "heads", "mode")}} for k, step in enumerate(steps, 1)
    ]
    shares = [step["cost"] / plan["before"] for step in steps]
    return pd.DataFrame(moves, columns=["moves", "layer", "heads", "mode"]).assign(
        share=shares, growth=found.value, low=low, high=high
    )


def kept_moves(curve: pd.DataFrame, budget: float) -> int:
    """Return after how many moves at most a plan is shown to keep a budget, by intervals that hold for all at once.

    Args:
        curve: Of :func:`curve_table`.
        budget: The most that the error may grow by.

    Returns:
        0 where that is shown of none, as where there are too few units for intervals.
    """
    return int(curve.loc[curve["high"] <= budget, "moves"].max()) if (curve["high"] <= budget).any() else 0


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
    if not math.isfinite(by[EFFECT]["change"]):
        return "What the plan changes could not be measured."
    return (
        f"The plan computes {share:.1%} of the multiply-adds of 3D attention ({1 / share:.2f} times fewer) and changes "
        f"the error of the denoised prediction by {_percent(by[EFFECT])} in "
        f"{by[EFFECT]['scenes']} scene{'s' if by[EFFECT]['scenes'] > 1 else ''}, none of which planned: "
        f"{_kept(by[EFFECT], budget)}. {_psnr_words(by[PSNR])} {_times_words(by)}"
    )


def _kept(growth: Mapping[str, Any], budget: float) -> str:
    words = {
        HELD: f"within the budget of {budget:.1%}",
        BROKEN: f"more than the budget of {budget:.1%}",
        NOT_SHOWN: f"a budget of {budget:.1%} is not shown to be kept",
    }
    return words[verdict(growth, budget)]


def _psnr_words(row: Mapping[str, Any]) -> str:
    if not math.isfinite(row["change"]):
        return "PSNR of samples could not be measured."
    return f"PSNR of samples changes by {row['change']:+.2f} dB{between(row, '{:+.2f}')}."


def _times_words(by: Mapping[str, Mapping[str, Any]]) -> str:
    """Return how many times faster each part is, and of which parts that is not shown by an interval."""
    rows = {name: by[measure] for measure, name in SPOKEN.items() if math.isfinite(by[measure]["change"])}
    if not rows:
        return "Times could not be measured."
    few = all(not math.isfinite(row["low"]) for row in rows.values())
    ends = {name: "" if few else between(row, "{:.2f}") for name, row in rows.items()}
    times = ", ".join(f"{name} {row['change']:.2f}{ends[name]}" for name, row in rows.items())
    doubtful = ", ".join(name for name, row in rows.items() if not row["low"] > 1)
    if few:
        return f"Times faster, measured: {times}; whether any is faster cannot be told{TOO_FEW}."
    return f"Times faster, measured: {times}." + (f" Not shown to be faster: {doubtful}." if doubtful else "")


def curve_words(curve: pd.DataFrame, budget: float) -> str:
    """Return how much of a plan is shown to keep a budget, in a sentence.

    Args:
        curve: Of :func:`curve_table`.
        budget: The most that the error may grow by.
    """
    kept = kept_moves(curve, budget)
    if not kept:
        return f"No part of the plan is shown to keep a budget of {budget:.1%}."
    last = curve[curve["moves"] == kept].iloc[0]
    return (
        f"Of its {len(curve)} moves in their order, the first {kept} are shown to keep the budget of {budget:.1%}, by "
        f"intervals that hold for all at once: {last['share']:.1%} of the multiply-adds ({1 / last['share']:.2f} times "
        f"fewer) at {last['growth']:+.2%} ({last['low']:+.2%} to {last['high']:+.2%})."
    )


SPOKEN = {
    "attention_kernels": "the attention kernels",
    "attention": "attention with the copies of tokens around it",
    "sampling": "a whole sample with all that applies the plan",
}


TOO_FEW = " (too few units for an interval)"


def _percent(row: Mapping[str, Any]) -> str:
    return f"{row['change']:+.2%}{between(row, '{:+.2%}')}"


def between(row: Mapping[str, Any], form: str) -> str:
    """Return the interval of a row in brackets, or that there are too few units for one.

    Args:
        row: With the ends low and high.
        form: Writes each of them.
    """
    if not math.isfinite(row["low"]):
        return TOO_FEW
    return f" ({form.format(row['low'])} to {form.format(row['high'])})"


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
