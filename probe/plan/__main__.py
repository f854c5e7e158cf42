"""Plan which attention a model can do without, apply the plan and measure it: ``python -m probe.plan``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from probe import cli as command
from probe.plan.finished import check_finished, check_same, settings_of
from probe.plan.settings import Device
from probe.records.names import PLAN, SCORES, SPEED

if TYPE_CHECKING:
    import pandas as pd

    from probe.interventions.speed import SpeedPlan
    from probe.plan.plan import Plan

PROG = "python -m probe.plan"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Plan which heads of which 3D layers need not attend to all views, and measure time and error under the plan.

    One half of a finished probe run's independent units (rooms, recordings) plans, the other is measured. Writes
    plan.json and speed.csv into the run's folder, in place of those of an earlier plan, and a section of its page.
    """

    run: tyro.conf.Positional[Path]
    """Folder of a finished run of python -m probe.run."""
    budget: float = 0.01
    """The most that the error of the denoised prediction may grow by, on the scenes that plan: 0.01 is 1 %."""
    scenes: int = 16
    """Scenes that plan, and scenes that are measured, at most."""
    steps: int = 10
    """Of the sampler, for samples with and without the plan."""
    repeats: int = 3
    """Samples of each scene that are timed, each way, in turn."""
    device: Device = "auto"
    """auto takes CUDA where there is one."""
    report: bool = True
    """Write the run's page anew at the end."""


def main(settings: Settings) -> None:
    """Plan, write the plan, measure it, write and show the table."""
    _check(settings)
    check_finished(settings.run)
    # after the flags are checked: PyTorch is slow to import
    from probe.plan.plan import make_plan
    from probe.records import write, write_json

    probed = make_plan(settings_of(settings.run, settings.device))
    planning, held_out = _halves(settings, probed)
    plan = _plan(settings, probed, planning)
    rows = _measured(settings, probed, plan, held_out)
    (settings.run / SPEED).unlink(missing_ok=True)  # what was measured of another plan must not stand beside this one
    write_json(settings.run / PLAN, {**plan.record(), "settings": {name: getattr(settings, name) for name in KEPT}})
    write(settings.run / SPEED, lambda part: rows.to_csv(part, index=False))
    _report(settings, plan.record(), rows)


KEPT = ("budget", "scenes", "steps", "repeats")
"""Settings that plan.json keeps, so that the page can name the command that measures again."""


def _check(settings: Settings) -> None:
    if not 0 <= settings.budget < 1:
        raise ValueError(f"--budget {settings.budget}: expected a share from 0 to below 1, such as 0.01 for 1 %")
    for name in ("scenes", "steps", "repeats"):
        if getattr(settings, name) < 1:
            raise ValueError(f"--{name} {getattr(settings, name)}: expected at least 1")


def _halves(settings: Settings, probed: Plan) -> tuple[list[int], list[int]]:
    """Return which scenes plan, and which the plan is measured on: of other units."""
    import pandas as pd

    from probe.selection.heads import halves

    scored = pd.read_parquet(settings.run / SCORES, columns=["scene"])["scene"].astype(str).unique()
    check_same(settings.run, probed, scored)
    units = list(probed.scenes.units or probed.scenes.names)
    first, second = halves(units)
    if not second:
        raise ValueError(f"{settings.run}: one independent unit; no scene is left that did not plan")
    planning, held_out = ([index for index, unit in enumerate(units) if unit in half] for half in (first, second))
    return planning[: settings.scenes], held_out[: settings.scenes]


def _scene(probed: Plan, index: int) -> Any:
    return probed.scene(index, probed.scenes.load(index)[0].to(probed.model.alpha_bar.device))


def _plan(settings: Settings, probed: Plan, planning: list[int]) -> SpeedPlan:
    from tqdm import tqdm

    from probe.interventions.speed import make_speed_plan, on_paper
    from probe.models import load_model
    from probe.models.model import model_layers
    from probe.models.parts.files import Loading

    scenes = [_scene(probed, index) for index in planning]
    model, layers = probed.model, probed.layers
    with tqdm(unit="plan", desc="planning") as bar:
        plan = make_speed_plan(
            model, layers, scenes, probed.timesteps, budget=settings.budget, tick=lambda: bar.update()
        )
    return on_paper(plan, model_layers(load_model(FULL_SIZE, Loading(outline=True))), FULL_SIZE, PAPER_VIEWS)


FULL_SIZE, PAPER_VIEWS = "cat3d:random", (4, 8)
"""The network that the plan is counted for on paper: only its sizes are looked at, no weights are drawn."""


def _measured(settings: Settings, probed: Plan, plan: SpeedPlan, held_out: list[int]) -> pd.DataFrame:
    """Measure error, PSNR and time with the plan and without, in scenes that did not plan."""
    import pandas as pd
    from tqdm import tqdm

    from probe.interventions.speed import measure_plan

    tables = [
        measure_plan(probed.model, _scene(probed, index), plan, steps=settings.steps, repeats=settings.repeats)
        for index in tqdm(held_out, unit="scene", desc="measuring")
    ]
    return probed.scenes.with_units(pd.concat(tables, ignore_index=True))


# --- the terminal ----------------------------------------------------------------------------------------------------


def _report(settings: Settings, plan: Mapping[str, Any], rows: pd.DataFrame) -> None:
    from rich.console import Console

    from probe.plan import terminal
    from probe.records import speed as tables

    run, table, curve = settings.run, tables.speed_table(rows), tables.curve_table(rows, plan)
    console = Console(width=None if sys.stdout.isatty() else 120)
    for title, cells in (
        (f"plan for {plan['model']}: heads by what they attend to", terminal.plan_cells(plan)),
        ("the plan, move by move, in scenes that did not plan", terminal.curve_cells(curve)),
        ("measured in scenes that did not plan; 95 % intervals over units", terminal.table_cells(table)),
    ):
        command.show_table(console, title, *cells)
    for words in (
        tables.speed_words(table, budget=plan["budget"], share=plan["share"]),
        tables.curve_words(curve, plan["budget"]),
        tables.paper_words(plan),
        f"plan: {run / PLAN}; table: {run / SPEED}",
    ):
        console.print(words, markup=False, soft_wrap=True)
    if settings.report:
        from analysis.report import refresh  # commands may call the report last; it draws every figure

        console.print(f"page: {refresh(run)}", markup=False, soft_wrap=True)


def cli(arguments: list[str] | None = None) -> None:
    """Parse the command line and run."""
    command.run(main, command.parse(Settings, arguments, prog=PROG), prog=PROG)


if __name__ == "__main__":
    cli()
