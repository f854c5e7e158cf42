"""The command line of ``python -m train.study``: its flags, its variants, its runs, and the trainer's flags of each."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from probe.cli import parse
from probe.records.names import BASE, FINAL, PAPERS, PLAIN, seed_folder
from train.flags import Command, check_command
from train.settings import Device, Execution
from train.studying.launching import Where, check_launcher

PROG = "python -m train.study"
NOISE = {
    "noise-depth-5": "depth:.05",
    "noise-depth-20": "depth:.2",
    "noise-rotation-3": "rotation:3",
    "noise-holes-70": "holes:.7",
}
"""Variants supervised by noisy truth (--truth-noise of the trainer)."""
PAPERS_MIXING = ("--mixing", "mlp")
"""How heads are combined in all variants that do not name another way."""
MAIN = (PLAIN, PAPERS, "mean")
"""The baseline, the paper's method and ours: what the others are compared with, so with more seeds."""
COMMON: dict[str, tuple[str, ...]] = {
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
}
"""The variants that run if none is named."""
ABLATIONS: dict[str, tuple[str, ...]] = {
    **{f"layer-{index}": ("--layer", str(index)) for index in (2, 6, 8, 12)},
    "layers-10-12": ("--layer", "10,12"),
    "random-layer": ("--layer", "random"),
    "one-head": ("--layer", "{layer}", "--mixing", "mean", "--heads", "{layer}:0"),
    "weight-0.1": ("--layer", "{layer}", "--weight", "0.1"),
    "weight-0.004": ("--layer", "{layer}", "--weight", "0.004"),
    **{
        name: ("--layer", "{layer}", "--weight-schedule", "off", "--weight-until", f"{{{part}}}")
        for name, part in (
            ("early-stop", "half"),
            ("early-stop-quarter", "quarter"),
            ("early-stop-three-quarters", "three_quarters"),
        )
    },
    "shuffled-mean": ("--layer", "{layer}", "--mixing", "mean", "--control", "shuffled"),
}
"""Other layers, heads, weights and lengths of supervision: first, middle (the coarsest grid), decoder at half and full
resolution; the first head alone; five times and a fifth of the paper's weight; none after a half, a quarter, three
quarters of the steps; and the negative control of ours."""
RIVALS: dict[str, tuple[str, ...]] = {
    name: ("--layer", "{layer}", "--objective", name, "--weight", "0.5") for name in ("trd-dsift", "irepa-dsift")
}
"""Later objectives of REPA's kind."""
VARIANTS: dict[str, tuple[str, ...]] = {
    **COMMON,
    **RIVALS,
    **ABLATIONS,
    **{name: ("--layer", "{layer}", "--truth-noise", level) for name, level in NOISE.items()},
}
"""Flags of each variant for python -m train.cameo; {layer} and {other_layer} are the study's flags, {half}, {quarter}
and {three_quarters} parts of its steps.

Competing objectives have the weight of REPA (Yu et al. 2024, section 4: lambda = .5)."""
OTHER_LAYER = "other-layer"
PASSED_ON = (
    "scenes",
    "steps",
    "batch_size",
    "views",
    "rotation_ramp",
    "evaluate_every",
    "evaluate_scenes",
    "sampling_steps",
    "probe_every",
    "checkpoint_every",
    "workers",
    "execution",
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
            "percent; noise-rotation-N: error of the cameras in degrees; noise-holes-N: percent of points missing; "
            "one-head: only the layer's first head, as mean; early-stop: no supervision in the second half of the "
            "steps, early-stop-quarter, early-stop-three-quarters: none after that part of them; shuffled, "
            "shuffled-mean: another scene's matches for cameo and mean)."
        ),
    ] = ",".join(COMMON)
    paper: bool = False
    """Regenerate every claim of the paper in small: sets the flags below, probes and evaluates what was trained, and
    puts the claims first on the page. {paper}"""
    quick: bool = False
    """With --paper: {quick}"""
    seeds: str = "0,1,2"
    """Random seeds, separated by commas; three or more give intervals. All variants share a seed's weights, scenes and
    noise."""
    few_seeds: int = 0
    """Number of seeds, the first, that variants but plain, cameo and mean are trained with; 0 for all."""
    layer: int = 12
    """The selected layer, which every variant but plain and other-layer supervises."""
    other_layer: int = 10
    """The layer of the variant other-layer."""
    model: str = "cat3d-tiny:random"
    """Model that every run starts from: cat3d-tiny:random (weights drawn by the seed), or a checkpoint,
    cat3d-tiny:FOLDER."""
    base_steps: int = 0
    """Steps that each seed first trains a base on single views, which all its runs then start from; 0 starts from
    --model."""
    scenes: str | None = None
    """Scenes that every run is trained and tested on, NAME or NAME:FOLDER, such as rgbd:FOLDER; default shapes."""
    steps: int = 4000
    """Optimiser steps of each run; more than before continue finished runs."""
    batch_size: int = 6
    """Scenes per step."""
    views: int = 2
    """Views per scene."""
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
    checkpoint_every: int = 500
    """Steps between checkpoints, from which a stopped run continues."""
    out: Path = Path("runs/study")
    """Folder of the runs, VARIANT-seedN, and of the tables; rejected if it has a study with other settings."""
    jobs: int = 1
    """Number of runs in parallel on this machine; a cluster decides itself."""
    launcher: Where = "local"
    """Where the runs are: processes of this machine, or jobs of a Slurm cluster, which this command waits for and finds
    again if it was stopped."""
    slurm: str = ""
    """With --launcher slurm: what each job asks for, such as partition=gpu,gpus_per_node=1,time=120 (minutes; a job
    that has used up its time, or had to make room, is queued again and continues)."""
    workers: int = 0
    """Processes that read scenes ahead, of each run."""
    execution: Execution = "eager"
    """How a GPU is told a step's work: see python -m train.cameo --help."""
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

    Where some variants have fewer seeds, those with all come first, with all their seeds.

    Raises:
        ValueError: If a variant is unknown, or a seed is no whole number of 0 or more, or one is named twice.
    """
    names = study.variants.split(",")
    unknown = sorted(set(names) - set(VARIANTS))
    if unknown or len(set(names)) < len(names):
        wrong = f"{','.join(unknown)} is unknown" if unknown else "names one twice"
        raise ValueError(f"--variants {study.variants}: {wrong}; choose different ones from {', '.join(VARIANTS)}")
    seeds = seeds_of(study)
    if not study.few_seeds:
        return _crossed(names, seeds)
    main, others = ([name for name in names if (name in MAIN) == wanted] for wanted in (True, False))
    return _crossed(main, seeds) + _crossed(others, seeds[: study.few_seeds])


def plan_bases(study: Study) -> list[Run]:
    """Return the runs on single views that the others start from; none where the study trains none."""
    return _crossed([BASE], seeds_of(study)) if study.base_steps else []


def _crossed(variants: Sequence[str], seeds: Sequence[int]) -> list[Run]:
    return [Run(variant=variant, seed=seed) for seed in seeds for variant in variants]


def seeds_of(study: Study) -> list[int]:
    """Return the seeds of a study.

    Raises:
        ValueError: If one is no whole number of 0 or more, or is named twice.
    """
    text, parts = study.seeds, study.seeds.split(",")
    if not all(part.isdecimal() for part in parts) or len({int(part) for part in parts}) < len(parts):
        raise ValueError(
            f"--seeds {text!r}: expected different whole numbers of 0 or more, separated by commas, such as 0,1,2"
        )
    return [int(part) for part in parts]


def steps_of(study: Study, run: Run) -> int:
    """Return the number of steps of a run."""
    return study.base_steps if run.variant == BASE else study.steps


def start_of(study: Study, seed: int) -> str:
    """Return the model that the runs of a seed start from, as --model takes it."""
    base = study.out / Run(variant=BASE, seed=seed).name / FINAL
    return f"cat3d-tiny:{base}" if study.base_steps else study.model


def arguments(study: Study, run: Run) -> list[str]:
    """Return the flags of python -m train.cameo for one run."""
    passed = {name: value for name in PASSED_ON if (value := getattr(study, name)) is not None}
    changed = _base_flags(study) if run.variant == BASE else {"model": start_of(study, run.seed)}
    own = () if run.variant == BASE else _variant_flags(study, run.variant)
    flags = {**passed, **changed, "seed": run.seed, "out": study.out / run.name}
    shared = [text for name, value in flags.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    return [*own, *shared, "--resume", "--no-report"]


def _variant_flags(study: Study, variant: str) -> list[str]:
    places = {"layer": study.layer, "other_layer": study.other_layer}
    places |= {"quarter": study.steps // 4, "half": study.steps // 2, "three_quarters": study.steps * 3 // 4}
    own = [flag.format(**places) for flag in VARIANTS[variant]]
    return own if "--mixing" in own else [*own, *PAPERS_MIXING]


def _base_flags(study: Study) -> dict[str, object]:
    """Return what differs in a base: single views, evaluated and probed at the end, timesteps less near the noise."""
    return {
        "layer": "none",
        "model": study.model,
        "views": 1,
        "steps": study.base_steps,
        "rotation_ramp": 0,
        "timestep_shift": 2,
        "batch_size": study.batch_size * study.views,
        "evaluate_every": study.base_steps,
        "probe_every": study.base_steps,
    }


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
    if study.few_seeds < 0 or study.base_steps < 0:
        raise ValueError(f"--few-seeds {study.few_seeds} --base-steps {study.base_steps}: expected 0 or more")
    if study.layer == study.other_layer and any(run.variant == OTHER_LAYER for run in runs):
        raise ValueError(f"--other-layer {study.other_layer}: is --layer too; choose another one")
    check_launcher(study.launcher, study.slurm)
    if study.quick and not study.paper:
        raise ValueError("--quick: goes with --paper, of which it is the short version")
    started = replace(study, base_steps=0)  # from --model: bases are not trained yet
    for variant in dict.fromkeys(run.variant for run in runs):
        check_command(command_of(started, Run(variant=variant, seed=0)))
    for run in plan_bases(study)[:1]:
        check_command(command_of(study, run))
