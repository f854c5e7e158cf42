"""What a probe will take, before anything is loaded: ``python -m probe.run --dry-run``."""

from dataclasses import dataclass

import psutil
import torch
from rich import box
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from probe.baselines import NULLS
from probe.interventions.experiment import passes
from probe.layers import Layer
from probe.measure.matcher import measure_matcher
from probe.measure.references import measure_references
from probe.models.model import model_layers
from probe.plan.disk import Disk, disk_of
from probe.plan.parts import EXAMPLES
from probe.plan.plan import Plan, device_named
from probe.plan.rehearsal import (
    Cost,
    forward_seconds,
    peak_bytes,
    rehearse,
    scoring_cost,
    seconds_of,
    tokens_of,
    weights_of,
)
from probe.records.words import too_few

MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a run takes: seconds, and bytes beside those of Python and its libraries.

    Attributes:
        scoring: Of each scored layer, by name and number of its call.
        weights: Bytes of network and autoencoder.
        work: Bytes alive beside the weights at most.
        libraries: Bytes that Python and its libraries take of the main memory.
        forward: Seconds of one denoising step.
        passes: Denoising steps whose layers are scored, in all.
        edited: Denoising steps under edits, which are not.
        other: Seconds of everything else, in all: scenes, truth, references, baselines.
        disk: Bytes that the run writes.
    """

    scoring: dict[str, Cost]
    weights: int
    work: int
    libraries: int
    forward: float
    passes: int
    edited: int
    other: float
    disk: Disk

    @property
    def probed(self) -> float:
        """Return the seconds of one denoising step with the scores of its layers."""
        return self.forward + sum(cost.seconds for cost in self.scoring.values())

    @property
    def total(self) -> float:
        """Return the seconds of the run, without starting Python and without the page."""
        return self.passes * self.probed + self.edited * self.forward + self.other


def rehearse_run(plan: Plan, console: Console) -> None:
    """Estimate what a run takes, and print it."""
    device = device_named(plan.settings.device)
    show(console, plan, estimate(plan, device, EXAMPLES), plan.settings.views)


def estimate(plan: Plan, device: torch.device, examples: int) -> Estimate:
    """Rehearse one denoising step, time its operations and the scoring of its layers, and count.

    Args:
        plan: With its model on the meta device.
        device: Where the run would compute.
        examples: Scenes that get one more pass, for pictures.
    """
    views = plan.scenes.load(0)[0].to(device)
    rehearsal, scene = rehearse(plan.model, views), plan.scene(0, views)
    scoring = {
        key: scoring_cost(layer, scene, plan.protocol)
        for key, layer in tqdm({key_of(layer): layer for layer in plan.layers}.items(), desc="scoring", unit="layer")
    }
    nulls = sum(name in plan.baselines for name in NULLS)
    scenes = len(plan.scenes.names)
    forward = forward_seconds(rehearsal, device, lambda kinds: tqdm(kinds, desc="operations", unit="kind"))
    return Estimate(
        libraries=psutil.Process().memory_info().rss,  # last, when all that a run calls has been called
        scoring=scoring,
        weights=sum(weight.untyped_storage().nbytes() for weight in weights_of(plan.model)),
        work=peak_bytes(rehearsal, [key_of(layer) for layer in model_layers(plan.model)], scoring),
        forward=forward,
        passes=scenes * (len(plan.timesteps) + nulls) + min(examples, scenes),
        edited=passes(plan.experiment, plan.layers, scenes),
        other=scenes * seconds_of(lambda: _without_model(plan), device),
        disk=disk_of(plan, scene),
    )


def key_of(layer: Layer) -> str:
    """Name a layer's call."""
    return f"{layer.name}:{layer.nth}"


def _without_model(plan: Plan) -> None:
    """Do for one scene what needs no model."""
    views, _ = plan.scenes.load(0)
    scene = plan.scene(0, views)
    measure_references(scene, plan.protocol)
    for name, matcher in plan.matchers.items():
        measure_matcher(name, matcher, scene, plan.protocol)


def show(console: Console, plan: Plan, estimated: Estimate, views: int) -> None:
    """Print what each layer joins and costs, and what the run takes."""
    table = Table(title=f"{plan.model.name}, {views} views: what --layers would score", box=box.SIMPLE_HEAD)
    for heading in ("layer", "name", "grid", "heads", "tokens", "scoring ms"):
        table.add_column(heading, justify="left" if heading == "name" else "right", no_wrap=True)
    for layer in plan.layers:
        h, w = layer.grid or (0, 0)
        cost = estimated.scoring[key_of(layer)]
        table.add_row(
            str(layer.index),
            layer.name.partition(".transformer_blocks")[0],
            f"{h}x{w}",
            str(layer.heads),
            str(tokens_of(layer, views)),
            f"{1000 * cost.seconds:.0f}",
        )
    console.print(table)
    for name, text in ((plan.model.card or {}).get("about") or {}).items():  # type: ignore[attr-defined]
        console.print(f"{name}: {text}", markup=False, soft_wrap=True)
    for name, reason in plan.record.get("not_scored", {}).items():  # type: ignore[attr-defined]
        console.print(f"not scored: {name}: {reason}", markup=False, soft_wrap=True)
    few = too_few(len(set(plan.scenes.units or plan.scenes.names)))
    for line in filter(None, (*lines(estimated, len(plan.scenes.names), len(plan.timesteps)), few)):
        console.print(line, markup=False, soft_wrap=True)


def lines(estimated: Estimate, scenes: int, timesteps: int) -> tuple[str, ...]:
    """What a run takes in memory, time and disk."""
    disk = estimated.disk
    return (
        f"memory: {estimated.weights / MIB:.0f} MiB of weights and up to {estimated.work / MIB:.0f} MiB of work, "
        f"beside about {estimated.libraries / MIB:.0f} MiB of main memory for Python and its libraries",
        f"one forward pass: {estimated.forward:.2f} s, {estimated.probed:.2f} s with the scores of its layers",
        f"the run: {scenes} scenes, {timesteps} timesteps, {estimated.passes} forward passes with nulls and pictures "
        f"and {estimated.edited} under edits: "
        f"about {duration(estimated.total)} after the start, {duration(estimated.other)} of it for scenes, truth, "
        "baselines",
        f"the folder: about {size(disk.scores + disk.pictures)} beside the page, {size(disk.scores)} of it "
        f"{disk.rows:,} rows of scores and {size(disk.pictures)} pictures and the match explorer; until all is "
        f"measured the scenes' own files take about {size(disk.parts)} more",
        "the model was not loaded, and nothing was written",
    )


def size(count: int) -> str:
    """Write a number of bytes to two digits, in the largest fitting unit."""
    for unit, step in (("GB", 1e9), ("MB", 1e6)):
        if count >= step:
            return f"{count / step:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"


def duration(seconds: float) -> str:
    """Write a time to two digits, in the largest fitting unit."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
