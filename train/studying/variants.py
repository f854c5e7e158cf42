"""What a study trains: its flags, its variants, the runs that follow, and the flags of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from probe import cli
from probe.models import fresh_tiny
from probe.records.names import seed_folder
from train import cameo

PROG = "python -m train.study"
NOISE = {
    "noise-depth-5": "depth:.05",
    "noise-depth-20": "depth:.2",
    "noise-rotation-3": "rotation:3",
    "noise-holes-70": "holes:.7",
}
"""Variants that supervise by worse truth (--truth-noise of the trainer); they run only where named."""
PAPERS_MIXING = ("--mixing", "mlp")
"""How heads become one in all variants that do not name another way."""
VARIANTS: dict[str, tuple[str, ...]] = {
    "plain": ("--layer", "none"),
    "cameo": ("--layer", "{layer}"),
    "other-layer": ("--layer", "{other_layer}"),
    "mean": ("--layer", "{layer}", "--mixing", "mean"),
    "positive": ("--layer", "{layer}", "--mixing", "positive"),
    "visible": ("--layer", "{layer}", "--truth", "visible"),
    "gated": ("--layer", "{layer}", "--truth", "gated"),
    "shuffled": ("--layer", "{layer}", "--control", "shuffled"),
    "repa-dsift": ("--layer", "{layer}", "--objective", "repa-dsift", "--weight", "0.5"),
    "geometry": ("--layer", "{layer}", "--objective", "geometry", "--weight", "0.5"),
    **{name: ("--layer", "{layer}", "--truth-noise", level) for name, level in NOISE.items()},
}
"""What each variant asks of python -m train.cameo; {layer} and {other_layer} are the study's flags.

Features are matched at the weight of REPA (Yu et al. 2024, section 4: lambda = .5)."""
OTHER_LAYER = "other-layer"
PASSED_ON = (
    "model",
    "scenes",
    "steps",
    "batch_size",
    "rotation_ramp",
    "evaluate_every",
    "evaluate_scenes",
    "sampling_steps",
    "probe_every",
    "device",
)


@dataclass(frozen=True, kw_only=True)
class Study:
    """Train every variant with every seed; tables and a figure of what each reaches, and how soon."""

    variants: str = ",".join(name for name in VARIANTS if name not in NOISE)
    """By commas. plain: the diffusion objective alone; cameo: the paper's; the others each change one thing of it.
    Beside those of the default there are noise-depth-5, noise-depth-20 (relative error of depth in %), noise-rotation-3
    (degrees that cameras are turned by) and noise-holes-70 (% of points missing)."""
    seeds: str = "0,1,2"
    """By commas; three or more give intervals. All variants share a seed's weights, scenes and noise."""
    layer: int = 12
    """The selected layer, which every variant but plain and other-layer supervises."""
    other_layer: int = 10
    """The layer of the variant other-layer."""
    model: str = "cat3d-tiny:random"
    """What every run starts from: cat3d-tiny:random (weights drawn by the seed), or a checkpoint, cat3d-tiny:FOLDER."""
    scenes: str | None = None
    """NAME or NAME:ROOT that every run trains and is tested on, such as rgbd:FOLDER; default shapes."""
    steps: int = 4000
    """Optimiser steps of each run; more than before continue finished runs."""
    batch_size: int = 6
    """Scenes per step."""
    rotation_ramp: int = 1000
    """Steps over which rotations grow from 0 to full; no more than --steps, or wide rotations are never trained on."""
    evaluate_every: int = 500
    """Steps between evaluations."""
    evaluate_scenes: int = 16
    """Held-out scenes that are sampled at each evaluation."""
    sampling_steps: int = 20
    """Of DDIM, at each evaluation."""
    probe_every: int = 500
    """Steps between probes of every 3D layer; a multiple of --evaluate-every; 0 never probes."""
    out: Path = Path("runs/study")
    """Folder of the runs, VARIANT-seedN, and of the tables; it refuses other settings than those it was made with."""
    jobs: int = 1
    """Runs side by side."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes CUDA where there is one."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Name one run of a study."""

    variant: str
    seed: int

    @property
    def name(self) -> str:
        """Give the name of its folder."""
        return seed_folder(self.variant, self.seed)


def plan(given: Study) -> list[Run]:
    """List the runs seed by seed, so that a stopped study has whole seeds.

    Raises:
        ValueError: If a variant is unknown, or a seed is no whole number of 0 or more, or one is given twice.
    """
    names = given.variants.split(",")
    unknown = sorted(set(names) - set(VARIANTS))
    if unknown or len(set(names)) < len(names):
        wrong = f"{','.join(unknown)} is unknown" if unknown else "names one twice"
        raise ValueError(f"--variants {given.variants}: {wrong}; choose different ones from {', '.join(VARIANTS)}")
    return [Run(variant=variant, seed=seed) for seed in _seeds(given.seeds) for variant in names]


def _seeds(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.isdecimal() for part in parts) or len({int(part) for part in parts}) < len(parts):
        raise ValueError(f"--seeds {text!r}: expected different whole numbers of 0 or more, by commas, such as 0,1,2")
    return [int(part) for part in parts]


def arguments(given: Study, run: Run) -> list[str]:
    """Give the flags of python -m train.cameo for one run."""
    layers = {"layer": given.layer, "other_layer": given.other_layer}
    own = [flag.format(**layers) for flag in VARIANTS[run.variant]]
    own += [] if "--mixing" in own else PAPERS_MIXING
    passed = {name: value for name in PASSED_ON if (value := getattr(given, name)) is not None}
    shared = [text for name, value in passed.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    return [*own, *shared, "--seed", str(run.seed), "--out", str(given.out / run.name), "--resume", "--no-report"]


def check(given: Study, runs: Sequence[Run]) -> None:
    """Refuse what the trainer would refuse, before anything is written."""
    if given.jobs < 1:
        raise ValueError(f"--jobs {given.jobs}: expected at least 1")
    if given.layer == given.other_layer and any(run.variant == OTHER_LAYER for run in runs):
        raise ValueError(f"--other-layer {given.other_layer}: is --layer too; choose another one")
    model = fresh_tiny(0)
    for variant in dict.fromkeys(run.variant for run in runs):
        asked = cli.parse(cameo.Command, arguments(given, Run(variant=variant, seed=0)), prog=PROG)
        cameo.settings_of(asked)
        cameo.layers_of(asked, model)
