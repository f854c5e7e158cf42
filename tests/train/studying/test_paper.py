"""The study of the paper's claims: what --paper stands for, and what it measures after training; nothing is trained."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from probe.cli import parse
from probe.plan.settings import Settings as ProbeSettings
from probe.plan.settings import count_groups
from train.flags import Command, check_command
from train.flags.evaluate import Settings as EvaluationSettings
from train.studying import running
from train.studying.evidence import QUICK, WHOLE, plan_looks
from train.studying.launching import processes
from train.studying.paper import preset
from train.studying.variants import PROG, VARIANTS, Run, Study, command_of, plan, plan_bases

BINS = 4


def read(*words: str) -> Study:
    return parse(Study, [*words], prog=PROG, defaults=preset(words))


def test_paper_has_five_seeds_of_the_main_variants_and_three_of_every_other():
    study = read("--paper")
    seeds = {name: sum(run.variant == name for run in plan(study)) for name in study.variants.split(",")}
    main = {name: seeds.pop(name) for name in ("plain", "cameo", "mean")}
    assert set(main.values()) == {5}
    assert set(seeds.values()) == {3}
    assert set(seeds) == {name for name in VARIANTS if not name.startswith("noise-")} - {*main, "other-layer"}
    assert len(plan_bases(study)) == 5


def test_flags_after_paper_win():
    study = read("--paper", "--steps", "20", "--seeds", "7")
    assert (study.steps, study.seeds, study.base_steps) == (20, "7", preset(["--paper"])["base_steps"])
    assert read("--steps", "20").paper is False


@pytest.mark.parametrize("words", [("--paper",), ("--paper", "--quick")])
def test_every_run_of_a_preset_is_a_command_of_the_trainer(words: tuple[str, ...]):
    study = read(*words)
    for run in [*plan_bases(study), *plan(study)]:
        command = command_of(study, run)
        assert command.rotation_ramp <= command.steps
        assert command.layer in ("none", "random") or "10" in command.layer or run.variant.startswith("layer-")
        if run.variant == "plain":
            check_command(command_of(read(*words, "--base-steps", "0", "--model", "cat3d-tiny:random"), run))


@pytest.mark.parametrize(("words", "scope"), [(("--paper",), WHOLE), (("--paper", "--quick"), QUICK)])
def test_probes_and_evaluations_are_commands_with_enough_scenes(words: tuple[str, ...], scope):
    looks = {look.name: look for look in plan_looks(read(*words, "--out", "study"))}
    probes = {name: parse(ProbeSettings, [*look.arguments], prog="test")
              for name, look in looks.items() if look.module == "probe.run"}  # fmt: skip
    assert {"probes/base", "probes/plain", "probes/cameo", "probes/mean"} <= set(probes)
    assert probes["probes/plain"].model == "cat3d-tiny:study/plain-seed0/final"
    assert count_groups(probes["probes/plain"]) == scope.pairs // 2
    assert ("probes/mean-fine" in probes) == bool(scope.harder_pairs)
    evaluation = parse(EvaluationSettings, [*looks["evaluations/mean-seed2"].arguments], prog="test")
    assert (evaluation.groups, evaluation.views, evaluation.n_ref) == (scope.scenes, 2, "1")
    assert WHOLE.scenes // BINS >= 64
    assert WHOLE.pairs // 2 // BINS >= 64


def test_only_what_is_trained_is_measured_and_measured_once(tmp_path: Path):
    study = read("--paper", "--out", str(tmp_path), "--variants", "plain,cameo", "--seeds", "0", "--base-steps", "0")
    (tmp_path / "plain-seed0" / "final").mkdir(parents=True)
    (tmp_path / "plain-seed0" / "final" / "diffusion_pytorch_model.safetensors").touch()
    (tmp_path / "cameo-seed0" / "final").mkdir(parents=True)  # as in a kept study: without weights
    calls: list[tuple[str, str]] = []

    def runner(module: str, flags: Sequence[str], threads: int) -> tuple[int, str]:
        out = Path(flags[flags.index("--out") + 1])
        calls.append((module, out.name))
        if out.name == "plain-fine":
            return 2, "python -m probe.run: no"
        out.mkdir(parents=True)
        (out / ("selection.json" if module == "probe.run" else "summary.csv")).touch()
        return 0, ""

    with processes(1, 1, runner) as launcher:
        missing = running.measure_all(study, launcher)
    assert {name for module, name in calls if module == "probe.run"} >= {"plain", "plain-cluttered", "plain-fine"}
    assert ("train.evaluate", "plain-seed0") in calls
    assert missing["probes/plain-fine"] == "failed with exit code 2: python -m probe.run: no"
    assert missing["probes/cameo"].startswith("not measured: no ")
    assert "probes/plain" not in missing
    calls.clear()
    with processes(1, 1, runner) as launcher:
        running.measure_all(study, launcher)
    assert [name for _, name in calls] == ["plain-fine"]


def test_runs_of_a_seed_share_the_base(tmp_path: Path):
    study = read("--paper", "--out", str(tmp_path))
    starts = {command_of(study, Run(variant=name, seed=3)).model for name in ("plain", "mean", "shuffled")}
    assert starts == {f"cat3d-tiny:{tmp_path}/base-seed3/final"}
    assert isinstance(command_of(study, plan_bases(study)[0]), Command)
