"""The command line of ``python -m train.study``: its flags, its variants, its runs, and the trainer's flags of each."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from probe.cli import parse
from probe.records.names import seed_folder
from train.flags import Command, check_command
from train.settings import Device

PROG = "python -m train.study"
NOISE = {
    "noise-depth-5": "depth:.05",
    "noise-depth-20": "depth:.2",
    "noise-rotation-3": "rotation:3",
    "noise-holes-70": "holes:.7",
}
"""Variants supervised by noisy truth (--truth-noise of the trainer); they run only if they are named."""
PAPERS_MIXING = ("--mixing", "mlp")
"""How heads are combined in all variants that do not name another way."""
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
"""Flags of each variant for python -m train.cameo; {layer} and {other_layer} are the study's flags.

Competing objectives have the weight of REPA (Yu et al. 2024, section 4: lambda = .5)."""
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

    variants: Annotated[
        str,
        arg(
            help=f"Variants, separated by commas, from {', '.join(VARIANTS)}. plain: the diffusion objective alone; "
            "cameo: the paper's; each other one changes one thing of cameo (noise-depth-N: relative error of depth in "
            "percent; noise-rotation-N: error of the cameras in degrees; noise-holes-N: percent of points missing)."
        ),
    ] = ",".join(name for name in VARIANTS if name not in NOISE)
    seeds: str = "0,1,2"
    """Random seeds, separated by commas; three or more give intervals. All variants share a seed's weights, scenes and
    noise."""
    layer: int = 12
    """The selected layer, which every variant but plain and other-layer supervises."""
    other_layer: int = 10
    """The layer of the variant other-layer."""
    model: str = "cat3d-tiny:random"
    """Model that every run starts from: cat3d-tiny:random (weights drawn by the seed), or a checkpoint,
    cat3d-tiny:FOLDER."""
    scenes: str | None = None
    """Scenes that every run is trained and tested on, NAME or NAME:FOLDER, such as rgbd:FOLDER; default shapes."""
    steps: int = 4000
    """Optimiser steps of each run; more than before continue finished runs."""
    batch_size: int = 6
    """Scenes per step."""
    rotation_ramp: int = 1000
    """Steps over which rotations grow from 0 to the largest; at most --steps, or the largest are never
    trained on."""
    evaluate_every: int = 500
    """Steps between evaluations."""
    evaluate_scenes: int = 16
    """Number of held-out scenes that are sampled at each evaluation."""
    sampling_steps: int = 20
    """DDIM steps at each evaluation."""
    probe_every: int = 500
    """Steps between probes of every 3D layer; a multiple of --evaluate-every; 0 never probes."""
    out: Path = Path("runs/study")
    """Folder of the runs, VARIANT-seedN, and of the tables; rejected if it has a study with other settings."""
    jobs: int = 1
    """Number of runs in parallel."""
    device: Device = "auto"
    """Device; auto takes CUDA if it is available."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a study.

    Attributes:
        variant: Key of :data:`VARIANTS`.
        seed: Of the run.
    """

    variant: str
    seed: int

    @property
    def name(self) -> str:
        """Return the name of its folder."""
        return seed_folder(self.variant, self.seed)


def plan(study: Study) -> list[Run]:
    """Return the runs seed by seed, so that a stopped study has complete seeds.

    Raises:
        ValueError: If a variant is unknown, or a seed is no whole number of 0 or more, or one is named twice.
    """
    names = study.variants.split(",")
    unknown = sorted(set(names) - set(VARIANTS))
    if unknown or len(set(names)) < len(names):
        wrong = f"{','.join(unknown)} is unknown" if unknown else "names one twice"
        raise ValueError(f"--variants {study.variants}: {wrong}; choose different ones from {', '.join(VARIANTS)}")
    return [Run(variant=variant, seed=seed) for seed in _seeds(study.seeds) for variant in names]


def _seeds(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.isdecimal() for part in parts) or len({int(part) for part in parts}) < len(parts):
        raise ValueError(
            f"--seeds {text!r}: expected different whole numbers of 0 or more, separated by commas, such as 0,1,2"
        )
    return [int(part) for part in parts]


def arguments(study: Study, run: Run) -> list[str]:
    """Return the flags of python -m train.cameo for one run."""
    layers = {"layer": study.layer, "other_layer": study.other_layer}
    own = [flag.format(**layers) for flag in VARIANTS[run.variant]]
    own += [] if "--mixing" in own else PAPERS_MIXING
    passed = {name: value for name in PASSED_ON if (value := getattr(study, name)) is not None}
    shared = [text for name, value in passed.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    return [*own, *shared, "--seed", str(run.seed), "--out", str(study.out / run.name), "--resume", "--no-report"]


def command_of(study: Study, run: Run) -> Command:
    """Return the trainer's command line for one run, parsed."""
    return parse(Command, arguments(study, run), prog=PROG)


def check_study(study: Study) -> None:
    """Check what can be checked before PyTorch is loaded: variants, seeds, and the trainer's own flags.

    Raises:
        ValueError: If a flag, or one of those that it stands for in the trainer, is out of range.
        FileNotFoundError: If a folder does not exist.
    """
    runs = plan(study)
    if study.jobs < 1:
        raise ValueError(f"--jobs {study.jobs}: expected at least 1")
    if study.layer == study.other_layer and any(run.variant == OTHER_LAYER for run in runs):
        raise ValueError(f"--other-layer {study.other_layer}: is --layer too; choose another one")
    for variant in dict.fromkeys(run.variant for run in runs):
        check_command(command_of(study, Run(variant=variant, seed=0)))
