"""Decode depth and epipolar lines from a probe run's layers: ``python -m probe.decode``."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from probe import cli as command
from probe.plan.finished import check_finished, check_weights, settings_of
from probe.plan.settings import Device
from probe.records.names import DECODED, LAYERS

if TYPE_CHECKING:
    import pandas as pd

    from probe.layers import Layer
    from probe.plan.plan import Plan

PROG = "python -m probe.decode"
SEEDS = 2**32


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Decode depth and epipolar lines from each 3D layer by a small network: is the geometry there?

    Decoders learn from one half of the independent units (rooms, recordings) and are measured on the other. Beside the
    model stand its layers with grey images (cameras only), and no model at all. Writes decoded.csv into the run's
    folder.
    """

    run: tyro.conf.Positional[Path]
    """Folder of a finished run of python -m probe.run."""
    pairs: int = 256
    """View pairs to decode, as for python -m probe.run; real scenes give as many as there are."""
    timestep: int | None = None
    """Timestep; default the run's middle one."""
    decoders: int = 5
    """Decoders of each layer, whose errors are averaged; the same first weights for every layer of a width."""
    seed: int = 0
    """Of the decoders."""
    device: Device = "auto"
    """auto takes CUDA where there is one; decoders are trained on the CPU."""
    report: bool = True
    """Write the run's page anew at the end."""


def main(settings: Settings) -> None:
    """Decode, write, and show the table."""
    if not 0 <= settings.seed < SEEDS:
        raise ValueError(f"--seed {settings.seed}: expected 0 to {SEEDS - 1}")
    if settings.decoders < 1:
        raise ValueError(f"--decoders {settings.decoders}: expected at least 1")
    check_finished(settings.run)
    # after the flags are checked: PyTorch is slow to import
    import pandas as pd
    from rich.console import Console

    from probe.plan.plan import make_plan
    from probe.records import write
    from probe.records.decoding import decoding_table, decoding_words

    again = settings_of(settings.run, settings.device)
    with command.flag("--pairs"):
        plan = make_plan(replace(again, pairs=settings.pairs))
    rows = _measure(settings, plan)
    write(settings.run / DECODED, lambda part: rows.to_csv(part, index=False))
    table, console = decoding_table(rows), Console(width=None if sys.stdout.isatty() else 120)
    _show(console, table)
    layers = pd.read_csv(settings.run / LAYERS)
    for sentence in decoding_words(table, [int(layer) for layer in layers["layer"][layers["above_null"]]]):
        console.print(sentence, soft_wrap=True, markup=False)
    console.print(f"table: {settings.run / DECODED}", markup=False, soft_wrap=True)
    if settings.report:
        from analysis.report import refresh  # commands may call the report last; it draws every figure

        console.print(f"page: {refresh(settings.run)}", markup=False, soft_wrap=True)


def _measure(settings: Settings, plan: Plan) -> pd.DataFrame:
    """Read every scene's tokens, train a decoder for each layer, and measure it on the other half."""
    import pandas as pd
    from tqdm import tqdm

    from probe.interventions.experiment import editable
    from probe.measure.decoding import ERRORS, Samples
    from probe.measure.model import timesteps_of
    from probe.records.decoding import NO_MODEL
    from probe.seeds import derive
    from probe.selection.heads import halves

    check_weights(settings.run, plan)
    layers, names = editable(plan.layers), list(plan.scenes.names)
    if not layers:
        raise ValueError(f"{settings.run}: none of the scored layers joins views; geometry is decoded from those")
    if not plan.scenes.load(0)[0].has_cameras:
        raise ValueError(f"{settings.run}: its scenes have no cameras, so depth and epipolar lines are not known")
    with command.flag("--timestep"):
        (t,) = timesteps_of(plan.model, None if settings.timestep is None else str(settings.timestep), str(plan.middle))
    units = list(plan.scenes.units or names)
    first = set(halves(units)[0])
    learning = [unit in first for unit in units]
    if all(learning):
        raise ValueError(f"{settings.run}: one independent unit; no scene is left that decoders did not learn from")
    read, truths = _read(settings, plan, layers, t)
    rows = []
    for (who, part, layer), tokens in tqdm(read.items(), unit="decoder", desc="decoding"):
        seeds = tuple(derive("decoding", settings.seed, n) for n in range(settings.decoders))
        samples = Samples(tokens=tokens, truths=truths[layer], learning=learning, seeds=seeds)
        for what, errors in ERRORS.items():
            where = {"who": who, "part": part, "layer": layer, "timestep": t, "what": what}
            rows += [
                {**where, "scene": names[n], "value": value, "count": count} for n, value, count in errors(samples)
            ]
    table = pd.DataFrame(rows)
    once = table["who"] == NO_MODEL  # the same for every part
    both = [table[~once], *(table[once].assign(part=part) for part in table["part"][~once].unique())]
    return plan.scenes.with_units(pd.concat(both, ignore_index=True))


def _read(settings: Settings, plan: Plan, layers: list[Layer], t: int) -> tuple[dict[Any, Any], dict[int, Any]]:
    """Read the tokens of every scene: by who, part and layer; and what is decoded, by layer."""
    import torch
    from tqdm import tqdm

    from probe.measure.decoding import layer_tokens, scene_truth, without_model
    from probe.measure.model import cameras_only
    from probe.records.decoding import GREY, NO_MODEL, THIS
    from probe.seeds import derive

    read: dict[Any, list[Any]] = {}
    truths: dict[int, list[Any]] = {layer.index: [] for layer in layers if layer.index is not None}
    for index in tqdm(range(len(plan.scenes.names)), unit="scene", desc="reading"):
        scene = plan.scene(index, plan.scenes.load(index)[0].to(plan.model.alpha_bar.device))
        generator = torch.Generator().manual_seed(derive("decoded", settings.seed, index))
        grids = {grid: scene_truth(scene, grid, generator) for grid in sorted(scene.truths)}
        for who, shown in ((THIS, scene), (GREY, cameras_only(plan.model, scene, GREY)[1])):
            for (number, part), tokens in layer_tokens(plan.model, shown, layers, t, grids).items():
                read.setdefault((who, part, number), []).append(tokens)
        for layer in layers:
            grid = layer.layout(scene.views.count).grid
            assert layer.index is not None
            truths[layer.index].append(grids[grid])
            read.setdefault((NO_MODEL, "", layer.index), []).append(without_model(grids[grid], grid))
    return read, truths


def _show(console: Any, table: pd.DataFrame) -> None:
    headings = ("layer", "from", "error", "cameras only", "no model", "lead")
    for what, rows in table.groupby("what", sort=False):
        title = f"{what}: error decoded from each layer, and its lead over what is decoded without it (joint interval)"
        command.show_table(console, title, headings, [_cells(row) for row in rows.to_dict("records")])


def _cells(row: dict[Any, Any]) -> list[str]:
    """Write a row; a dash where nothing was measured."""
    errors = [f"{row[name]:.3f}" if math.isfinite(row[name]) else "–" for name in ("error", "grey", "none")]
    low, high = row["lead_low"], row["lead_high"]
    ends = f" ({low:+.3f} to {high:+.3f})" if math.isfinite(low) else " (too few for an interval)"
    return [str(row["layer"]), row["part"], *errors, f"{row['lead']:+.3f}{ends}" if math.isfinite(row["lead"]) else "–"]


def cli(arguments: list[str] | None = None) -> None:
    """Parse the command line and run."""
    command.run(main, command.parse(Settings, arguments, prog=PROG), prog=PROG)


if __name__ == "__main__":
    cli()
