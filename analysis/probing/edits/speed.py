"""A probe run -> what its plan for speed computes, at what error, and how much faster it is. Pure."""

import math
import shlex
from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.blocks import Chart, Table, chart
from analysis.probing import cells
from analysis.probing.edits.speed_figure import error_against_cost
from analysis.probing.tables import ProbeRun
from analysis.probing.words import bars_words, layer_places
from analysis.words import MISSING, NBSP, listing, percent, plural
from probe.records import EFFECT, PSNR
from probe.records.speed import (
    ALL,
    MODE_WORDS,
    curve_table,
    curve_words,
    kept_moves,
    speed_table,
    speed_words,
)

TITLES = {
    "attention_kernels": "3D attention, the kernels alone",
    "attention": "3D attention, with the copies of tokens",
    "sampling": "a whole sample, with all that applies the plan",
}
"""What was timed, of one sample."""


def words(run: ProbeRun) -> tuple[str, ...]:
    """Return what the plan computes, at what error and how fast, and how much of it is shown to keep the budget.

    Args:
        run: The probe run.
    """
    if run.plan is None or run.speed is None:
        return ()
    budget, share = run.plan["budget"], run.plan["share"]
    return (
        speed_words(speed_table(run.speed), budget=budget, share=share),
        curve_words(curve_table(run.speed, run.plan), budget),
    )


def figure(run: ProbeRun) -> Chart | None:
    """Draw the error of the prediction against the multiply-adds that remain after each move of the plan.

    Args:
        run: The probe run.

    Returns:
        None where nothing was planned, no move was taken, or no error is known.
    """
    curve = _curve(run)
    if run.plan is None or run.speed is None or not curve["growth"].notna().any():
        return None
    budget, kept = run.plan["budget"], kept_moves(curve, run.plan["budget"])
    spoken = "; ".join(f"{row.share:.1%} at {_signed(row.growth)}" for row in curve.itertuples())
    alt = f"Growth of the prediction's error by the share of multiply-adds that remains, move by move: {spoken}."
    svg = error_against_cost(curve, budget=budget, kept=kept, alt=alt)
    plain = curve.assign(heads=[" ".join(map(str, heads)) for heads in curve["heads"]], budget=budget)
    return chart("speed", svg, _caption(run, kept), source=cells.source(run), table=plain, file="speed_by_move.csv")


def _curve(run: ProbeRun) -> pd.DataFrame:
    """Return the growth after each move; without rows where nothing was planned."""
    if run.plan is None or run.speed is None:
        return pd.DataFrame({"growth": []})
    return curve_table(run.speed, run.plan)


def _caption(run: ProbeRun, kept: int) -> str:
    filled = "after the most moves that are shown to keep the budget." if kept else "none, as none is shown to keep it."
    return (
        "From right to left, each point is the plan after one more move, which lets some heads attend to fewer views. "
        f"{_error_words(run)} Across: multiply-adds of queries by keys and of weights by values in the 3D layers, in "
        f"percent of those without the plan. Filled: {filled} Planned and measured again by: {command(run)}"
    )


def _error_words(run: ProbeRun) -> str:
    """Return what the vertical axis is, over what it is averaged, and what the bars are."""
    assert run.plan is not None
    assert run.speed is not None
    rows = run.speed[run.speed["measure"] == EFFECT]
    scenes, units = rows["scene"].nunique(), rows["unit"].nunique()
    return (
        f"Up: by how many percent the error of the denoised prediction grows, mean over the target views of "
        f"{plural(scenes, 'scene')}, none of which planned, at t = {listing(run.plan['timesteps'])}. "
        f"{bars_words(units, ' that hold for all points at once')}"
    )


def command(run: ProbeRun) -> str:
    """Write the command that plans and measures again.

    Args:
        run: The probe run; a plan that kept no settings but its budget gives that alone.
    """
    plan = run.plan or {}
    kept = plan.get("settings") if isinstance(plan.get("settings"), dict) else None
    flags = kept or {"budget": plan.get("budget")}
    parts = [text for name, value in flags.items() for text in (f"--{name}", str(value))]
    return shlex.join(["python", "-m", "probe.plan", str(run.settings.get("out", run.name)), *parts])


# --- tables ----------------------------------------------------------------------------------------------------------


def text_table(run: ProbeRun) -> Table:
    """Write the moves of the plan, in their order; without rows where there are none.

    Args:
        run: The probe run.
    """
    curve = _curve(run)
    kept = kept_moves(curve, run.plan["budget"]) if run.plan is not None and len(curve) else 0
    places = layer_places(run)
    return Table(
        caption="The moves in the order in which they were taken: heads that attend to fewer views from then on. What "
        "remains is the share of the multiply-adds of 3D attention after this move and all before it; the growth of "
        f"the error likewise, with 95{NBSP}% intervals that hold for all moves at once. Set off: the most moves that "
        "are shown to keep the budget.",
        columns=("move", "layer", "heads", "attend to", "what remains", "growth of the error"),
        rows=tuple(_move_cells(row, places) for row in curve.to_dict("records")),
        marked=(kept - 1,) if kept else (),
        texts=4,
        wide=True,
    )


def _move_cells(row: Mapping[Any, Any], places: Mapping[int, str]) -> tuple[str, ...]:
    layer = int(row["layer"])
    return (
        str(row["moves"]),
        f"{layer} ({places[layer]})" if layer in places else str(layer),
        ", ".join(map(str, row["heads"])),
        MODE_WORDS[row["mode"]],
        percent(row["share"]),
        _with_ends(row["growth"], row, _signed),
    )


def measured_table(run: ProbeRun) -> Table:
    """Write error, PSNR and seconds without the plan and with it; without rows where nothing was planned.

    Args:
        run: The probe run.
    """
    rows = [] if run.plan is None or run.speed is None else speed_table(run.speed).to_dict("records")
    return Table(
        caption="Means per scene, in scenes that did not plan. Changes: growth of the error, difference of PSNR in dB, "
        f"and how many times faster, each with its own 95{NBSP}% interval over independent units. Samples with the "
        "plan and without were drawn in turn; seconds are of one sample, medians over repeats.",
        columns=("measure", "without the plan", "with it", "change", "units"),
        rows=tuple(_measured_cells(row) for row in rows),
        wide=True,
    )


def _measured_cells(row: Mapping[Any, Any]) -> tuple[str, ...]:
    units = str(row["units"])
    if row["measure"] == EFFECT:
        at = "all timesteps" if row["timestep"] == ALL else f"t = {row['timestep']}"
        return (f"error of the prediction, {at}", MISSING, MISSING, _with_ends(row["change"], row, _signed), units)
    if row["measure"] == PSNR:
        both = [_unit(row[name], ".2f", "dB") for name in ("unplanned", "planned")]
        return ("PSNR of samples", *both, _with_ends(row["change"], row, _decibels), units)
    both = [_unit(row[name], ".3f", "s") for name in ("unplanned", "planned")]
    return (TITLES[row["measure"]], *both, _with_ends(row["change"], row, _times), units)


def _with_ends(value: float, row: Mapping[Any, Any], write: Any) -> str:
    ends = f" ({write(row['low'])} to {write(row['high'])})".replace("× ", "") if math.isfinite(row["low"]) else ""
    return f"{write(value)}{ends}"


def _signed(value: float) -> str:
    """Write a growth in percent with its sign; a dash where it is unknown."""
    return f"{100 * value:+.2f}{NBSP}%".replace("-", "−") if math.isfinite(value) else MISSING


def _decibels(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−") if math.isfinite(value) else MISSING


def _times(value: float) -> str:
    return f"× {value:.2f}" if math.isfinite(value) else MISSING


def _unit(value: float, form: str, unit: str) -> str:
    return f"{value:{form}}{NBSP}{unit}" if math.isfinite(value) else MISSING
