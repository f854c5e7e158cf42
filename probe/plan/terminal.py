"""A plan for speed, and what it was measured to do, as tables in the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from probe.records.names import EFFECT, PSNR, grid_name
from probe.records.speed import ALL, MODE_WORDS, between

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


def curve_cells(curve: pd.DataFrame) -> tuple[Sequence[str], list[list[str]]]:
    """Write what each move changes as a table, headings and rows.

    Args:
        curve: Of :func:`curve_table`.
    """
    rows = [
        [
            *(str(row[name]) for name in ("moves", "layer")),
            ",".join(map(str, row["heads"])),
            MODE_WORDS[row["mode"]],
            f"{row['share']:.1%}",
            _percent(row["growth"], row),
        ]
        for row in curve.to_dict("records")
    ]
    return CURVE_HEADINGS, rows


def _cells(row: Mapping[str, Any]) -> list[str]:
    if row["measure"] == EFFECT:
        at = "" if row["timestep"] == ALL else f" at t = {row['timestep']}"
        return [f"growth of the prediction's error{at}", "", "", _percent(row["change"], row)]
    if row["measure"] == PSNR:
        both = [f"{row[name]:.2f} dB" for name in ("unplanned", "planned")]
        return ["PSNR of samples", *both, f"{row['change']:+.2f}{between(row, '{:+.2f}')}"]
    seconds = [f"{row[name]:.3f} s" for name in ("unplanned", "planned")]
    return [TITLES[row["measure"]], *seconds, f"{row['change']:.2f} times faster{between(row, '{:.2f}')}"]


TITLES = {
    "attention_kernels": "3D attention of a sample, kernels alone",
    "attention": "3D attention of a sample",
    "sampling": "a whole sample",
}


def _percent(value: float, row: Mapping[str, Any]) -> str:
    return f"{value:+.2%}{between(row, '{:+.2%}')}"
