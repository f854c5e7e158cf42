"""What ``--paper`` looks at after training: probes and evaluations of the final weights, in processes of their own."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from probe.records.names import BASE, EVALUATIONS, FINAL, PROBES, SELECTION, SUMMARY
from train.studying.variants import MAIN, Run, Study, plan, seeds_of, start_of

HARDER = ("fine", "cluttered", "repetitive", "textureless")
"""Difficulties of the procedural rooms that plain and ours are probed on as well."""
COMPARED_ON_HARDER = ("plain", "mean")


@dataclass(frozen=True, kw_only=True)
class Scope:
    """How much is measured after training.

    Attributes:
        pairs: View pairs of each probe.
        harder_pairs: View pairs of each probe on harder rooms; 0 for no such probes.
        scenes: Scenes of each evaluation, a quarter of them per rotation bin.
        sampling_steps: Of each evaluation.
    """

    pairs: int
    harder_pairs: int
    scenes: int
    sampling_steps: int = 10


WHOLE = Scope(pairs=512, harder_pairs=128, scenes=256)
QUICK = Scope(pairs=40, harder_pairs=0, scenes=32)


@dataclass(frozen=True, kw_only=True)
class Look:
    """A command that measures weights.

    Attributes:
        module: As in python -m MODULE.
        arguments: Its flags.
        out: Its folder.
        mark: File that a finished one has.
        weights: Folder of the weights.
    """

    module: str
    arguments: tuple[str, ...]
    out: Path
    mark: str
    weights: Path

    @property
    def name(self) -> str:
        """Return how it is called within its study: "probes/plain"."""
        return f"{self.out.parent.name}/{self.out.name}"

    @property
    def is_finished(self) -> bool:
        """Return whether it has been measured."""
        return (self.out / self.mark).is_file()


def plan_looks(study: Study) -> list[Look]:
    """Return the probes of the first seed's weights, then the evaluations of all seeds of the main variants."""
    scope, seed = QUICK if study.quick else WHOLE, seeds_of(study)[0]
    models = {BASE: start_of(study, seed), **{name: _final(study, name, seed) for name in _main(study)}}
    probes = [_probe(study, name, model, scope.pairs) for name, model in models.items()]
    harder = [
        _probe(study, f"{name}-{difficulty}", models[name], scope.harder_pairs, f"shapes:{difficulty}")
        for difficulty in HARDER
        for name in COMPARED_ON_HARDER
        if scope.harder_pairs and name in models
    ]
    return [*probes, *_evaluations(study, scope), *harder]


def _main(study: Study) -> list[str]:
    return [name for name in study.variants.split(",") if name in MAIN]


def _final(study: Study, variant: str, seed: int) -> str:
    return f"cat3d-tiny:{study.out / Run(variant=variant, seed=seed).name / FINAL}"


def _probe(study: Study, name: str, model: str, pairs: int, scenes: str | None = None) -> Look:
    """Return a probe, on harder rooms without edits and matchers: only the nulls are needed there."""
    out = study.out / PROBES / name
    where = ["--scenes", scenes, "--interventions", "none", "--baselines", "null"] if scenes else []
    flags = ["--model", model, "--pairs", str(pairs), *where, *_ending(study, out)]
    return Look(module="probe.run", arguments=tuple(flags), out=out, mark=SELECTION, weights=_folder(model))


def _evaluations(study: Study, scope: Scope) -> list[Look]:
    return [_evaluation(study, run, scope) for run in plan(study) if run.variant in MAIN]


def _evaluation(study: Study, run: Run, scope: Scope) -> Look:
    out = study.out / EVALUATIONS / run.name
    model = _final(study, run.variant, run.seed)
    flags = ["--model", model, "--groups", str(scope.scenes), "--views", "2"]
    flags += ["--n-ref", "1", "--sampling-steps", str(scope.sampling_steps), "--features", "none"]
    arguments = (*flags, *_ending(study, out))
    return Look(module="train.evaluate", arguments=arguments, out=out, mark=SUMMARY, weights=_folder(model))


def _folder(model: str) -> Path:
    return Path(model.partition(":")[2])


def _ending(study: Study, out: Path) -> Sequence[str]:
    return ["--device", study.device, "--out", str(out), "--resume"]
