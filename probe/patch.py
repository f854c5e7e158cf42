"""Patch a probe run's layers with another run's attention: ``python -m probe.patch``."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import tyro

from probe import cli as command
from probe.plan.finished import check_finished, check_same, settings_of
from probe.plan.settings import Device
from probe.records.names import PATCHED_SAMPLES, PATCHING, SCORES, SELECTION

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pandas as pd

    from probe.interventions.patching import Patches
    from probe.layers import Layer
    from probe.measure.scene import Scene
    from probe.plan.plan import Plan
    from probe.records.patched_samples import SampleDonor
    from probe.records.patching import Part

PROG = "python -m probe.patch"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Let target views read another run's attention in one 3D layer; measure what that does to the denoised prediction.

    The other run is the same scene's at little noise (what would better matching be worth?), or another scene's (what
    is the layer's content worth?). Keys and values of a few reference tokens are patched as well: does a prediction
    move more where its true match was patched than where a token of equal distance was? Writes patching.csv into the
    run's folder; with --sampling-steps, what whole samples lose that read another scene's attention at every step, into
    patched_samples.csv.
    """

    run: tyro.conf.Positional[Path]
    """Folder of a finished run of python -m probe.run."""
    parts: str = "matching,content,output"
    """What is read of the other run, by commas: queries, keys, values, matching (logits between views), content (keys
    and values), output."""
    layers: str | None = None
    """Layers to patch, indexes or names by commas; default all scored ones that join views. Intervals over layers then
    hold for these alone."""
    timesteps: str | None = None
    """Timesteps of the patched run, by commas; default the run's middle and noisiest ones."""
    clean_timestep: int = 50
    """Timestep of the same scene's run with little noise."""
    scenes: int = 16
    """Scenes to patch, at most; the first ones."""
    heads: bool = False
    """Patch each head alone as well; predictions only."""
    sampling_steps: int = 0
    """Steps of whole samples that read another scene's attention at each; 0 for predictions only. Takes a sample per
    scene, layer and part."""
    sampling_parts: str = "matching,content"
    """What samples read of the other scene, by commas: some of --parts' names."""
    other_noise: bool = False
    """Let samples read the same scene's attention as well, sampled from other noise: what any other sample's does."""
    predictions: bool = True
    """Measure predictions; --no-predictions measures samples alone and leaves patching.csv as it is."""
    seed: int = 0
    """Of the patched tokens and of the other noise."""
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

    plan, console = make_plan(settings_of(settings.run, settings.device)), Console(**_width())
    _announce(settings, plan, console)
    layers = _layers(settings, plan)
    _keep_others(settings, layers)
    if settings.layers is not None:
        names = ", ".join(str(layer.index) for layer in layers)
        console.print(f"patched: layer {names} alone; what is said, and joint intervals, hold for these", markup=False)
    if settings.predictions:
        _predictions(settings, plan, layers, console)
    if settings.sampling_steps:
        _samples(settings, plan, layers, console)
    if settings.report:
        from analysis.report import refresh  # commands may call the report last; it draws every figure

        console.print(f"page: {refresh(settings.run)}", markup=False, soft_wrap=True)


def _announce(settings: Settings, plan: Plan, console: Any) -> None:
    """Print before anything is measured that there will be no intervals."""
    from probe.records.intervals import LEAST_UNITS

    names = list(plan.scenes.names)[: settings.scenes]
    units = len(set(list(plan.scenes.units or plan.scenes.names)[: settings.scenes]))
    if units < LEAST_UNITS:
        console.print(
            f"{len(names)} scenes of {units} independent units: intervals, and what they would show, need "
            f"{LEAST_UNITS}", markup=False, soft_wrap=True,
        )  # fmt: skip


def _width() -> dict[str, Any]:
    return {"width": None if sys.stdout.isatty() else 120}


def _predictions(settings: Settings, plan: Plan, layers: Sequence[Layer], console: Any) -> None:
    """Patch predictions, write and show."""
    from probe.interventions.patch_tables import show_patches
    from probe.records import parse_json, write
    from probe.records.patching import matches_table, patching_table, patching_words

    rows = _measure(settings, plan, layers)
    write(settings.run / PATCHING, lambda part: rows.to_csv(part, index=False))
    table, matches = patching_table(rows), matches_table(rows)
    show_patches(console, table, matches)
    layer = int(parse_json((settings.run / SELECTION).read_text(encoding="utf-8"))["layer"])
    _say(console, patching_words(table, matches, layer), settings.run / PATCHING)


def _samples(settings: Settings, plan: Plan, layers: Sequence[Layer], console: Any) -> None:
    """Patch samples, write and show."""
    from probe.interventions.patch_tables import show_samples
    from probe.records import write
    from probe.records.patched_samples import samples_table, samples_words

    rows = _measure_samples(settings, plan, layers)
    write(settings.run / PATCHED_SAMPLES, lambda part: rows.to_csv(part, index=False))
    table = samples_table(rows)
    show_samples(console, table)
    _say(console, samples_words(table), settings.run / PATCHED_SAMPLES)


def _say(console: Any, sentences: Sequence[str], path: Path) -> None:
    for sentence in (*sentences, f"table: {path}"):
        console.print(sentence, soft_wrap=True, markup=False)


def _check(settings: Settings) -> None:
    if settings.scenes < 1:
        raise ValueError(f"--scenes {settings.scenes}: expected at least 1")
    if settings.sampling_steps < 0:
        raise ValueError(f"--sampling-steps {settings.sampling_steps}: expected at least 1, or 0 for predictions only")
    if not (settings.predictions or settings.sampling_steps):
        raise ValueError("--no-predictions leaves nothing to measure; add --sampling-steps, such as 10")
    read_parts(settings.parts)
    read_parts(settings.sampling_parts, "--sampling-parts")
    check_finished(settings.run)


def read_parts(text: str, flag: str = "--parts") -> tuple[Part, ...]:
    """Read what is patched.

    Args:
        text: Names by commas.
        flag: That they were given by.

    Raises:
        ValueError: If a name is unknown, stands twice, or there is none.
    """
    from probe.records.patching import Part

    known, names = get_args(Part), text.split(",")
    if not set(names) <= set(known) or len(set(names)) < len(names):
        raise ValueError(f"{flag} {text!r}: expected some of {','.join(known)}, each once")
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


def _layers(settings: Settings, plan: Plan) -> list[Layer]:
    """Return the layers that join views, where weights and scenes are those of the run and samples can be drawn."""
    from probe.interventions.experiment import editable
    from probe.layers import select_layers
    from probe.models.model import check_predicts
    from probe.selection.reading import read_all_heads

    check_predicts(plan.model, "patching needs")
    scores = read_all_heads(settings.run / SCORES, settings.run / SELECTION)
    check_same(settings.run, plan, scores["scene"].astype(str).unique())
    _check_sampling(settings, plan)
    layers = editable(plan.layers)
    if not layers:
        raise ValueError(f"{settings.run}: none of the scored layers joins views; nothing of another view is read")
    if settings.layers is None:
        return layers
    with command.flag("--layers"):
        chosen = select_layers(plan.layers, settings.layers)
        views = [str(layer.index) for layer in chosen if layer not in layers]
        if views:
            raise ValueError(f"{settings.layers}: layer {', '.join(views)} joins no views; nothing of another is read")
    return chosen


def _keep_others(settings: Settings, layers: Sequence[Layer]) -> None:
    """Refuse to write a table of fewer layers than the one that is there: a table is of one call.

    Raises:
        ValueError: If a layer would be lost; names the table.
    """
    import pandas as pd

    from probe.records import NO_LAYER

    written = {PATCHING: settings.predictions, PATCHED_SAMPLES: settings.sampling_steps > 0}
    for path in (settings.run / name for name, now in written.items() if now and settings.layers is not None):
        old = {int(layer) for layer in pd.read_csv(path)["layer"]} if path.is_file() else set()
        lost = sorted(old - {NO_LAYER} - {int(layer.index) for layer in layers if layer.index is not None})
        if lost:
            raise ValueError(
                f"--layers {settings.layers}: {path} has layer {', '.join(map(str, lost))} as well, which would be "
                "lost; name them too, or move that file away"
            )


def _check_sampling(settings: Settings, plan: Plan) -> None:
    """Refuse, before anything is measured, samples that cannot be drawn."""
    from probe.models.sampling import sampler

    if not settings.sampling_steps:
        return
    with command.flag("--sampling-steps"):
        sampler(plan.model, settings.sampling_steps)
        if plan.settings.frames_per_view > 1:
            raise ValueError(
                f"{settings.sampling_steps}: views of {plan.settings.frames_per_view} frames are not sampled; leave "
                "the flag out, or probe with --frames-per-view 1"
            )


def _measure(settings: Settings, plan: Plan, layers: Sequence[Layer]) -> pd.DataFrame:
    """Patch the first scenes, each by itself at little noise and by the next scene of another unit."""
    from probe.interventions.patched_matches import patch_matches
    from probe.interventions.patching import patch_layers
    from probe.records.patching import ANOTHER, CLEAN
    from probe.seeds import derive

    patches, tables = _patches(settings, plan), []
    for index, scene, other in _pairs(settings, plan, "patching"):
        seeded = replace(patches, seed=derive("patching", settings.seed, index))
        tables.append(patch_layers(plan.model, scene, {CLEAN: scene, ANOTHER: other}, layers, seeded))
        tables.append(patch_matches(plan.model, scene, other, layers, seeded))
    return _joined(plan, tables)


def _measure_samples(settings: Settings, plan: Plan, layers: Sequence[Layer]) -> pd.DataFrame:
    """Sample the first scenes, each patched by the next scene of another unit, and by itself from other noise."""
    from probe.interventions.patched_samples import SamplePatches, patch_samples
    from probe.records.patched_samples import NOISE
    from probe.records.patching import ANOTHER

    parts = read_parts(settings.sampling_parts, "--sampling-parts")
    patches, tables = SamplePatches(parts=parts, steps=settings.sampling_steps), []
    for index, scene, other in _pairs(settings, plan, "sampling"):
        donors: dict[SampleDonor, Scene] = {ANOTHER: other}
        if settings.other_noise:
            donors[NOISE] = _anew(scene, settings.seed, index)
        tables.append(patch_samples(plan.model, scene, donors, layers, patches))
    return _joined(plan, tables)


def _anew(scene: Scene, seed: int, index: int) -> Scene:
    """Return a scene with noise of its own once more."""
    import torch

    from probe.seeds import derive

    generator = torch.Generator().manual_seed(derive("other noise", seed, index))
    return replace(scene, noise=torch.randn(scene.noise.shape, generator=generator))


def _pairs(settings: Settings, plan: Plan, what: str) -> Iterator[tuple[int, Scene, Scene]]:
    """Go through the first scenes, each with its index and the scene that gives."""
    from tqdm import tqdm

    names = list(plan.scenes.names)
    units = list(plan.scenes.units or names)
    for index in tqdm(range(min(settings.scenes, len(names))), unit="scene", desc=what):
        yield index, _scene(plan, index), _scene(plan, donor_of(units, index))


def _joined(plan: Plan, tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    import pandas as pd

    return plan.scenes.with_units(pd.concat(tables, ignore_index=True))


def _scene(plan: Plan, index: int) -> Scene:
    return plan.scene(index, plan.scenes.load(index)[0].to(plan.model.alpha_bar.device))


def cli(arguments: list[str] | None = None) -> None:
    """Parse the command line and run."""
    command.run(main, command.parse(Settings, arguments, prog=PROG), prog=PROG)


if __name__ == "__main__":
    cli()
