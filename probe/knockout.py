"""Knock out a probe run's best heads together, and as many at random: ``python -m probe.knockout``."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from probe import cli as command
from probe.plan.finished import check_finished, check_same, settings_of
from probe.plan.settings import Device
from probe.records.names import KNOCKOUT, SCORES, SELECTION, Intervention

if TYPE_CHECKING:
    import pandas as pd

    from probe.plan.plan import Plan

PROG = "python -m probe.knockout"
COMPARED = ("best", "random", "ahead")
"""Columns of the table that have intervals."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Knock out the heads together that find correspondences best, and as many at random.

    The heads of all 3D layers are ranked on one half of a probe run's independent units (rooms, recordings) and knocked
    out on scenes of the other half. Writes knockout.csv into the run's folder.
    """

    run: tyro.conf.Positional[Path]
    """Folder of a finished run of python -m probe.run."""
    counts: str = "1,2,4,8"
    """Numbers of heads that are knocked out together, by commas."""
    draws: int = 19
    """Random sets of each number, drawn from the heads that are not the best ones."""
    scenes: int = 16
    """Scenes to knock out in, at most."""
    intervention: Intervention = "within_view"
    """How: within_view cuts the attention to other views; identity, the paper's, all attention to other tokens."""
    seed: int = 0
    """Of the random sets."""
    device: Device = "auto"
    """auto takes CUDA where there is one."""
    report: bool = True
    """Write the run's page anew at the end."""


def main(settings: Settings) -> None:
    """Rank, knock out, write and show the table."""
    counts = read_counts(settings.counts)
    if settings.draws < 1 or settings.scenes < 1:
        raise ValueError(f"--draws {settings.draws} --scenes {settings.scenes}: expected at least 1")
    check_finished(settings.run)
    # after the flags are checked: PyTorch is slow to import
    from rich.console import Console

    from probe.plan.plan import make_plan
    from probe.records import write
    from probe.records.knockout import knockout_table, knockout_words

    rows = _measure(settings, counts, make_plan(settings_of(settings.run, settings.device)))
    write(settings.run / KNOCKOUT, lambda part: rows.to_csv(part, index=False))
    table, console = knockout_table(rows), Console(width=None if sys.stdout.isatty() else 120)
    _show(console, table, settings.intervention)
    console.print(knockout_words(table), soft_wrap=True)
    console.print(f"table: {settings.run / KNOCKOUT}", markup=False, soft_wrap=True)
    if settings.report:
        from analysis.report import refresh  # commands may call the report last; it draws every figure

        console.print(f"page: {refresh(settings.run)}", markup=False, soft_wrap=True)


def read_counts(text: str) -> list[int]:
    """Read numbers of heads.

    Raises:
        ValueError: If one is no whole number of at least 1, or stands twice.
    """
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() and int(part) >= 1 for part in parts) or len(set(parts)) < len(parts):
        raise ValueError(f"--counts {text!r}: expected different whole numbers of at least 1 by commas, such as 1,2,4")
    return sorted(map(int, parts))


def _measure(settings: Settings, counts: list[int], plan: Plan) -> pd.DataFrame:
    """Rank on the units of one half, knock out in scenes of the other."""
    import pandas as pd
    import torch
    from tqdm import tqdm

    from probe.interventions.heads import knock_out, rank_heads, sets_of_heads
    from probe.seeds import derive
    from probe.selection.heads import halves
    from probe.selection.reading import read_all_heads

    scores, names = read_all_heads(settings.run / SCORES, settings.run / SELECTION), list(plan.scenes.names)
    check_same(settings.run, plan, scores["scene"].astype(str).unique())
    units = dict(zip(names, plan.scenes.units or names, strict=True))
    ranking, held_out = halves(list(units.values()))
    if not held_out:
        raise ValueError(f"{settings.run}: one independent unit; no scene is left that did not rank heads")
    ranked = rank_heads(scores, [name for name in names if units[name] in ranking])
    generator = torch.Generator().manual_seed(derive("knockout", settings.seed))
    with command.flag("--counts"):
        sets = sets_of_heads(ranked, counts, settings.draws, generator)
    edited, tables = [index for index, name in enumerate(names) if units[name] in held_out], []
    for index in tqdm(edited[: settings.scenes], unit="scene", desc="knocking out"):
        scene = plan.scene(index, plan.scenes.load(index)[0].to(plan.model.alpha_bar.device))
        seed = derive("edits", plan.settings.seed, index)
        how, t = settings.intervention, plan.middle
        tables.append(knock_out(plan.model, scene, plan.layers, sets, intervention=how, t=t, seed=seed))
    return plan.scenes.with_units(pd.concat(tables, ignore_index=True))


def _show(console: Any, table: pd.DataFrame, intervention: str) -> None:
    cells = [
        [
            str(row.heads),
            *(_percent(*(getattr(row, f"{name}{end}") for end in ("", "_low", "_high"))) for name in COMPARED),
        ]
        for row in table.itertuples()
    ]
    title = f"growth of the prediction's error under {intervention}; 95 % intervals"
    command.show_table(console, title, ("heads", "the best", "at random", "best minus random (joint interval)"), cells)


def _percent(value: float, low: float, high: float) -> str:
    """Write a share with its interval, where there are enough units for one."""
    return f"{value:+.1%}" + (f" ({low:+.1%} to {high:+.1%})" if math.isfinite(low) else " (too few for an interval)")


def cli(arguments: list[str] | None = None) -> None:
    """Parse the command line and run."""
    command.run(main, command.parse(Settings, arguments, prog=PROG), prog=PROG)


if __name__ == "__main__":
    cli()
