"""Patch a probe run's layers with another run's attention: ``python -m probe.patch``."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import tyro

from probe import cli as command
from probe.plan.finished import check_finished, check_same, settings_of
from probe.plan.settings import Device
from probe.records.names import PATCHING, SCORES, SELECTION

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from probe.interventions.patching import Patches
    from probe.measure.scene import Scene
    from probe.plan.plan import Plan
    from probe.records.patching import Part

PROG = "python -m probe.patch"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Let target views read another run's attention in one 3D layer; measure what that does to the denoised prediction.

    The other run is the same scene's at little noise (what would better matching be worth?), or another scene's (what
    is the layer's content worth?). Keys and values of a few reference tokens are patched as well: does a prediction
    move more where its true match was patched than where a token of equal distance was? Writes patching.csv into the
    run's folder.
    """

    run: tyro.conf.Positional[Path]
    """Folder of a finished run of python -m probe.run."""
    parts: str = "matching,content,output"
    """What is read of the other run, by commas: queries, keys, values, matching (logits between views), content (keys
    and values), output."""
    timesteps: str | None = None
    """Timesteps of the patched run, by commas; default the run's middle and noisiest ones."""
    clean_timestep: int = 50
    """Timestep of the same scene's run with little noise."""
    scenes: int = 16
    """Scenes to patch, at most; the first ones."""
    heads: bool = False
    """Patch each head alone as well."""
    seed: int = 0
    """Of the patched tokens."""
    device: Device = "auto"
    """auto takes CUDA where there is one."""
    report: bool = True
    """Write the run's page anew at the end."""


def main(settings: Settings) -> None:
    """Patch, write, and show the tables."""
    _check(settings)
    # after the flags are checked: PyTorch is slow to import
    from rich.console import Console

    from probe.plan.plan import make_plan
    from probe.records import parse_json, write
    from probe.records.patching import matches_table, patching_table, patching_words

    plan = make_plan(settings_of(settings.run, settings.device))
    rows = _measure(settings, plan)
    write(settings.run / PATCHING, lambda part: rows.to_csv(part, index=False))
    console = Console(width=None if sys.stdout.isatty() else 120)
    table, matches = patching_table(rows), matches_table(rows)
    _show(console, table, matches)
    layer = int(parse_json((settings.run / SELECTION).read_text(encoding="utf-8"))["layer"])
    for sentence in patching_words(table, matches, layer):
        console.print(sentence, soft_wrap=True, markup=False)
    console.print(f"table: {settings.run / PATCHING}", markup=False, soft_wrap=True)
    if settings.report:
        from analysis.report import refresh  # commands may call the report last; it draws every figure

        console.print(f"page: {refresh(settings.run)}", markup=False, soft_wrap=True)


def _check(settings: Settings) -> None:
    if settings.scenes < 1:
        raise ValueError(f"--scenes {settings.scenes}: expected at least 1")
    read_parts(settings.parts)
    check_finished(settings.run)


def read_parts(text: str) -> tuple[Part, ...]:
    """Read what is patched.

    Raises:
        ValueError: If a name is unknown, stands twice, or there is none.
    """
    from probe.records.patching import Part

    known, names = get_args(Part), text.split(",")
    if not set(names) <= set(known) or len(set(names)) < len(names):
        raise ValueError(f"--parts {text!r}: expected some of {','.join(known)}, each once")
    return tuple(name for name in known if name in names)


def _patches(settings: Settings, plan: Plan) -> Patches:
    from probe.interventions.patching import Patches
    from probe.measure.model import timesteps_of

    usual = ",".join(str(t) for t in dict.fromkeys((plan.middle, max(plan.timesteps))))
    with command.flag("--timesteps"):
        timesteps = timesteps_of(plan.model, settings.timesteps, usual)
    if not 0 <= settings.clean_timestep < min(timesteps):
        raise ValueError(
            f"--clean-timestep {settings.clean_timestep}: expected 0 to {min(timesteps) - 1}, below the patched runs'"
        )
    return Patches(
        parts=read_parts(settings.parts),
        timesteps=timesteps,
        clean_timestep=settings.clean_timestep,
        each_head=settings.heads,
        seed=settings.seed,
    )


def donor_of(units: Sequence[str], index: int) -> int:
    """Return the next scene of another independent unit, from the first again behind the last.

    Args:
        units: Of the scenes, in order.
        index: Of the scene that is patched.

    Raises:
        ValueError: If there is none.
    """
    others = [(index + n) % len(units) for n in range(1, len(units))]
    other = next((k for k in others if units[k] != units[index]), None)
    if other is None:
        raise ValueError("one independent unit: no other scene can give its attention; probe scenes of several")
    return other


def _measure(settings: Settings, plan: Plan) -> pd.DataFrame:
    """Patch the first scenes, each by itself at little noise and by the next scene of another unit."""
    import pandas as pd
    from tqdm import tqdm

    from probe.interventions.experiment import editable
    from probe.interventions.patched_matches import patch_matches
    from probe.interventions.patching import patch_layers
    from probe.models.model import check_predicts
    from probe.records.patching import ANOTHER, CLEAN
    from probe.seeds import derive
    from probe.selection.reading import read_all_heads

    check_predicts(plan.model, "patching needs")
    scores = read_all_heads(settings.run / SCORES, settings.run / SELECTION)
    check_same(settings.run, plan, scores["scene"].astype(str).unique())
    names, patches, tables = list(plan.scenes.names), _patches(settings, plan), []
    units, layers = list(plan.scenes.units or names), editable(plan.layers)
    if not layers:
        raise ValueError(f"{settings.run}: none of the scored layers joins views; nothing of another view is read")
    for index in tqdm(range(min(settings.scenes, len(names))), unit="scene", desc="patching"):
        scene, other = (_scene(plan, k) for k in (index, donor_of(units, index)))
        seeded = replace(patches, seed=derive("patching", settings.seed, index))
        tables.append(patch_layers(plan.model, scene, {CLEAN: scene, ANOTHER: other}, layers, seeded))
        tables.append(patch_matches(plan.model, scene, other, layers, seeded))
    return plan.scenes.with_units(pd.concat(tables, ignore_index=True))


def _scene(plan: Plan, index: int) -> Scene:
    return plan.scene(index, plan.scenes.load(index)[0].to(plan.model.alpha_bar.device))


def _show(console: Any, whole: pd.DataFrame, matches: pd.DataFrame) -> None:
    """Show the growth of the error by layer and part, and what is read of true matches."""
    from probe.records import ALL_HEADS
    from probe.records.patching import ERROR

    shown = whole[(whole["head"] == ALL_HEADS) & (whole["measure"] == ERROR)]
    for (donor, t), rows in shown.groupby(["donor", "timestep"]):
        grid = rows.pivot_table(index="layer", columns="part", values="value", sort=False)
        command.show_table(
            console,
            f"growth of the prediction's error at t = {t}, donor: {donor}",
            ("layer", *grid.columns),
            [(str(layer), *(_share(value, "+.1%") for value in row)) for layer, *row in grid.itertuples()],
        )
    for t, rows in matches.groupby("timestep"):
        command.show_table(
            console,
            f"movement of the prediction at t = {t}, where keys and values were patched at the query's",
            ("layer", "true match", "token of equal distance", "difference (joint interval)"),
            [
                (
                    str(row.layer),
                    _share(row.true),
                    _share(row.wrong),
                    _points(row.ahead, row.ahead_low, row.ahead_high),
                )
                for row in rows.itertuples()
            ],
        )


def _share(value: float, form: str = ".2%") -> str:
    """Write a share; a dash where it is unknown."""
    return format(value, form) if math.isfinite(value) else "–"


def _points(value: float, low: float, high: float) -> str:
    if not math.isfinite(value):
        return "–"
    ends = f" ({100 * low:+.2f} to {100 * high:+.2f})" if math.isfinite(low) else " (too few for an interval)"
    return f"{100 * value:+.2f}{ends}"


def cli(arguments: list[str] | None = None) -> None:
    """Parse the command line and run."""
    command.run(main, command.parse(Settings, arguments, prog=PROG), prog=PROG)


if __name__ == "__main__":
    cli()
