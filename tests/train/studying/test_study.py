"""The study of variants and seeds, on hand-made run folders: no training."""

import math
import shutil
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
import torch
from finished_runs import make_run, reach_of
from hypothesis import strategies as st

from probe.cli import parse
from probe.correspondence.noise import read_noise
from train.flags import Command
from train.study import cli
from train.studying import running
from train.studying.launching import run_process
from train.studying.running import last_words
from train.studying.running import run_study as main
from train.studying.runs import is_finished, last_step
from train.studying.variants import NOISE, RIVALS, VARIANTS, Run, Study, arguments, plan

# --- when a curve reaches a goal -------------------------------------------------------------------------------------


finite = st.floats(-1e3, 1e3).map(lambda value: round(value, 3))


# --- means over seeds ------------------------------------------------------------------------------------------------


# --- run folders -----------------------------------------------------------------------------------------------------


def test_finished_is_the_last_step_evaluated_and_the_weights_saved(tmp_path: Path):
    make_run(tmp_path, (8, 9, 10))
    assert is_finished(tmp_path, 30)
    assert not is_finished(tmp_path, 40)
    (tmp_path / "final" / "card.json").write_text('{"steps": 20}')  # weights of before the run went on
    assert not is_finished(tmp_path, 30)
    (tmp_path / "final" / "card.json").write_text('{"steps": 30}')
    assert is_finished(tmp_path, 30)
    log = tmp_path / "evaluation.jsonl"
    log.write_text(log.read_text()[:-5])  # the last row cut off
    assert not is_finished(tmp_path, 30)
    assert last_step(log) == 20
    make_run(tmp_path / "other", (8, 9, 10))
    (tmp_path / "other" / "final" / "card.json").unlink()
    assert not is_finished(tmp_path / "other", 30)
    assert not is_finished(tmp_path / "absent", 30)


def test_a_broken_run_is_refused_by_name(tmp_path: Path):
    make_run(tmp_path, (8, 9, 10))
    (tmp_path / "evaluation.jsonl").write_text("[]\n")
    with pytest.raises(ValueError, match=r"last_step: the last row of .*evaluation\.jsonl has no step"):
        is_finished(tmp_path, 30)


# --- the command -----------------------------------------------------------------------------------------------------

PSNR = {"plain": (6, 8, 10), "cameo": (8, 12, 14), "mean": (9, 12, 15), "other-layer": (6, 7, 9)}


class FakeTrainer:
    """Stand in for python -m train.cameo: write a run's folder at once; fail where told."""

    def __init__(self, fails: Sequence[str] = (), silent: Sequence[str] = ()):
        self.fails, self.silent, self.calls = fails, silent, list[list[str]]()

    def __call__(self, module: str, flags: Sequence[str], threads: int) -> tuple[int, str]:
        self.calls.append(list(flags))
        assert threads >= 1
        given = {flag: value for flag, value in pairwise(flags) if flag.startswith("--")}
        out = Path(given["--out"])
        if out.name in self.fails:
            return 2, "50%|##   | 1/2\rpython -m train.cameo: the loss is nan at step 7\n\n"
        if out.name not in self.silent:
            variant, seed = out.name.rsplit("-seed", 1)
            psnr = [value + int(seed) / 10 for value in PSNR[variant]]
            make_run(out, psnr, layer=given["--layer"], mixing=given.get("--mixing", "mlp"), seed=int(seed))
        return 0, "bar\n"

    @property
    def names(self) -> list[str]:
        return [Path(flags[flags.index("--out") + 1]).name for flags in self.calls]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch):
    """The layers of the network are checked once, below, and the page is built once: each takes a second or more."""
    monkeypatch.setattr("analysis.report.refresh", lambda out: out)
    monkeypatch.setattr(running, "check_layers", lambda study, runs: None)


@pytest.fixture
def small(tmp_path: Path) -> Callable[..., Study]:
    def make(**changed: object) -> Study:
        wanted = {
            "variants": "plain,cameo,mean",
            "seeds": "0,1,2",
            "steps": 30,
            "evaluate_every": 10,
            "probe_every": 10,
        }
        return Study(**{**wanted, "out": tmp_path / "study", **changed})  # type: ignore[arg-type]

    return make


def test_a_study_trains_seed_by_seed_and_leaves_tables_and_a_figure(small, capsys: pytest.CaptureFixture):
    asked, trainer = small(), FakeTrainer()
    main(asked, trainer)
    assert trainer.names == [f"{variant}-seed{seed}" for seed in range(3) for variant in ("plain", "cameo", "mean")]
    tables = {name: pd.read_csv(asked.out / f"{name}.csv") for name in ("study", "summary", "reach", "settings")}
    assert list(tables["study"].columns) == ["variant", "seed", "step", "metric", "value"]
    assert list(tables["summary"].columns) == ["variant", "step", "metric", "mean", "low", "high", "count"]
    assert list(tables["reach"].columns) == ["variant", "seed", "metric", "goal", "step", "ratio", "note"]
    assert tables["settings"].set_index("variant").loc["mean"].tolist() == ["12", "mean"]
    assert reach_of(tables["reach"], "cameo", "psnr", 2)["ratio"] == pytest.approx(0.5)
    assert set(tables["summary"]["count"]) == {3}
    assert (asked.out / "study.png").read_bytes()[:4] == b"\x89PNG"
    shown = capsys.readouterr().out
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert f"14.10±{half:.2f}" in shown
    assert "0.50" in shown
    for name, value in (("copy", "11.00"), ("mean colour", "12.00")):
        assert value in next(line for line in shown.splitlines() if line.strip().startswith(name + "  "))
    assert "missing" not in shown


def test_a_study_has_a_page(small, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()
    monkeypatch.setattr(running, "check_layers", lambda study, runs: None)
    main(small(variants="plain", seeds="0"), FakeTrainer())
    assert (small().out / "report.html").is_file()


@pytest.mark.slow
def test_a_finished_run_is_not_started_again(small):
    main(small(seeds="0"), FakeTrainer())
    again = FakeTrainer()
    main(small(seeds="0,1"), again)
    assert again.names == ["plain-seed1", "cameo-seed1", "mean-seed1"]
    third = FakeTrainer()
    main(small(seeds="0,1"), third)
    assert third.names == []


def test_a_later_call_keeps_the_runs_of_an_earlier_one(small):
    main(small(variants="plain", seeds="0"), FakeTrainer())
    main(small(variants="cameo", seeds="0"), FakeTrainer())
    reach = pd.read_csv(small().out / "reach.csv")
    assert reach_of(reach, "cameo", "psnr")["ratio"] == pytest.approx(0.5)


def test_a_failing_run_is_reported_and_the_others_go_on(small, capsys: pytest.CaptureFixture):
    trainer = FakeTrainer(fails=["cameo-seed0"], silent=["mean-seed1"])
    with pytest.raises(SystemExit) as stop:
        main(small(seeds="0,1"), trainer)
    assert stop.value.code == 1
    assert len(trainer.calls) == 6
    out, error = capsys.readouterr()
    assert "cameo-seed0 failed with exit code 2: python -m train.cameo: the loss is nan at step 7" in error
    missing = [line for line in out.splitlines() if line.startswith("missing")]
    assert [line.split(":")[1].strip() for line in missing] == ["cameo-seed0", "mean-seed1"]
    assert "the loss is nan" in missing[0]
    summary = pd.read_csv(small().out / "summary.csv")
    counts = summary[(summary["metric"] == "psnr") & (summary["step"] == 30)].set_index("variant")["count"]
    assert counts.to_dict() == {"plain": 2, "cameo": 1, "mean": 1}


def test_a_stopped_study_has_tables_of_what_is_finished_and_names_the_rest(small, capsys: pytest.CaptureFixture):
    asked = small(seeds="0")

    class Stopped(FakeTrainer):
        def __call__(self, module: str, flags: Sequence[str], threads: int) -> tuple[int, str]:
            if self.calls:
                while not (asked.out / "settings.csv").exists():
                    time.sleep(0.01)
                raise KeyboardInterrupt
            return super().__call__(module, flags, threads)

    trainer = Stopped()
    with pytest.raises(SystemExit) as stop:
        main(asked, trainer)
    assert stop.value.code == 1
    assert trainer.names == ["plain-seed0"]
    assert list(pd.read_csv(asked.out / "study.csv")["variant"].unique()) == ["plain"]
    out, error = capsys.readouterr()
    assert "stopped; the same command continues" in error
    lines = [line for line in out.splitlines() if line.startswith("missing")]
    assert lines == [f"missing: {variant}-seed0: not trained: stopped" for variant in ("cameo", "mean")]


def test_nothing_finished_leaves_no_table(small, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit):
        main(small(variants="plain", seeds="0"), FakeTrainer(fails=["plain-seed0"]))
    assert not (small().out / "study.csv").exists()
    assert "missing: plain-seed0" in capsys.readouterr().out


def test_jobs_train_the_same_runs(small):
    trainer = FakeTrainer()
    main(small(jobs=3), trainer)
    assert sorted(trainer.names) == sorted(run.name for run in plan(small()))
    assert pd.read_csv(small().out / "study.csv")["variant"].unique().tolist() == ["plain", "cameo", "mean"]


def test_the_other_layers_precision_is_shown_where_it_is_supervised(small, capsys: pytest.CaptureFixture):
    main(small(variants="plain,other-layer", seeds="0"), FakeTrainer())
    shown = capsys.readouterr().out
    assert "precision 12" in shown
    assert "precision 10" in shown
    assert "steps over the plain run's" in shown


def test_every_variant_is_a_command_of_the_trainer(small):
    found = {}
    ends = {"early-stop-quarter": 7, "early-stop": 15, "early-stop-three-quarters": 22}
    for variant in VARIANTS:
        words = arguments(small(layer=11, other_layer=8), Run(variant=variant, seed=4))
        asked = parse(Command, words, prog="test")
        assert (asked.seed, asked.steps, asked.resume, asked.report) == (4, 30, True, False)
        assert asked.out.name == f"{variant}-seed4"
        found[variant] = (asked.layer, asked.mixing, asked.truth, asked.control, asked.objective)
        assert asked.heads == ("11:0" if variant == "one-head" else "all")
        assert asked.truth_noise == NOISE.get(variant)
        assert variant not in NOISE or any(vars(read_noise(asked.truth_noise)).values())
        weights = {**dict.fromkeys(("repa-dsift", "geometry", *RIVALS), 0.5), "weight-0.1": 0.1, "weight-0.004": 0.004}
        assert asked.weight == weights.get(variant, 0.02)
        assert (asked.weight_schedule, asked.weight_until) == (
            ("off", ends[variant]) if variant in ends else ("constant", 0)
        )
    assert found == {
        **{name: ("11", "mlp", "cycle", "none", name) for name in RIVALS},
        **dict.fromkeys(("weight-0.1", "weight-0.004", *ends), ("11", "mlp", "cycle", "none", "cameo")),
        **{f"layer-{n}": (str(n), "mlp", "cycle", "none", "cameo") for n in (2, 6, 8, 12)},
        "layers-10-12": ("10,12", "mlp", "cycle", "none", "cameo"),
        "random-layer": ("random", "mlp", "cycle", "none", "cameo"),
        **dict.fromkeys(NOISE, ("11", "mlp", "cycle", "none", "cameo")),
        "plain": ("none", "mlp", "cycle", "none", "cameo"),
        "cameo": ("11", "mlp", "cycle", "none", "cameo"),
        "other-layer": ("8", "mlp", "cycle", "none", "cameo"),
        "mean": ("11", "mean", "cycle", "none", "cameo"),
        "one-head": ("11", "mean", "cycle", "none", "cameo"),
        "positive": ("11", "positive", "cycle", "none", "cameo"),
        "visible": ("11", "mlp", "visible", "none", "cameo"),
        "gated": ("11", "mlp", "gated", "none", "cameo"),
        "shuffled": ("11", "mlp", "cycle", "shuffled", "cameo"),
        "shuffled-mean": ("11", "mean", "cycle", "shuffled", "cameo"),
        "repa-dsift": ("11", "mlp", "cycle", "none", "repa-dsift"),
        "geometry": ("11", "mlp", "cycle", "none", "geometry"),
    }


def test_variants_but_the_main_ones_may_have_fewer_seeds_and_come_last(small):
    study = small(variants="shuffled,plain,visible,mean", seeds="4,5,6", few_seeds=2)
    main_runs = [f"{variant}-seed{seed}" for seed in (4, 5, 6) for variant in ("plain", "mean")]
    others = [f"{variant}-seed{seed}" for seed in (4, 5) for variant in ("shuffled", "visible")]
    assert [run.name for run in plan(study)] == main_runs + others


class TrainerOfBases(FakeTrainer):
    """Write a base as well; its evaluations hold a loss."""

    def __call__(self, module: str, flags: Sequence[str], threads: int) -> tuple[int, str]:
        out = Path(flags[flags.index("--out") + 1])
        if not out.name.startswith("base") or out.name in self.fails:
            return super().__call__(module, flags, threads)
        self.calls.append(list(flags))
        make_run(out, (1,), steps=(7,), layer="none", seed=int(out.name.rpartition("-seed")[2]))
        (out / "final" / "diffusion_pytorch_model.safetensors").touch()
        return 0, ""


def test_every_seed_starts_from_a_base_of_its_own(small):
    study, trainer = small(variants="plain,cameo", seeds="0,1", base_steps=7), TrainerOfBases()
    main(study, trainer)
    assert trainer.names == ["base-seed0", "base-seed1", "plain-seed0", "cameo-seed0", "plain-seed1", "cameo-seed1"]
    base, plain = (parse(Command, words, prog="test") for words in (trainer.calls[0], trainer.calls[4]))
    assert (base.views, base.layer, base.steps, base.model) == (1, "none", 7, "cat3d-tiny:random")
    assert base.batch_size == plain.batch_size * plain.views  # as many views per step
    assert plain.model == f"cat3d-tiny:{study.out}/base-seed1/final"
    assert pd.read_csv(study.out / "study.csv")["variant"].unique().tolist() == ["plain", "cameo"]


def test_a_base_is_trained_only_for_runs_that_are_missing(small):
    study = small(variants="plain", seeds="0,1", base_steps=7)
    main(study, TrainerOfBases())
    for seed in (0, 1):  # as in a kept study: no weights
        (study.out / f"base-seed{seed}" / "final" / "diffusion_pytorch_model.safetensors").unlink()
    (study.out / "plain-seed1" / "final" / "card.json").unlink()
    again = TrainerOfBases()
    again_names = ["base-seed1", "plain-seed1"]
    for name in again_names:
        shutil.rmtree(study.out / name)
    main(study, again)
    assert again.names == again_names


def test_without_its_base_no_run_of_a_seed_starts(small, capsys: pytest.CaptureFixture):
    study, trainer = small(variants="plain", seeds="0,1", base_steps=7), TrainerOfBases(fails=["base-seed0"])
    with pytest.raises(SystemExit):
        main(study, trainer)
    assert trainer.names == ["base-seed0", "base-seed1", "plain-seed1"]
    assert "missing: plain-seed0: failed with exit code 2: its base failed" in capsys.readouterr().out


def test_scenes_are_passed_on_where_they_are_named(small):
    run = Run(variant="plain", seed=0)
    assert "--scenes" not in arguments(small(), run)
    words = arguments(small(scenes="rgbd:kitchen#525"), run)
    assert parse(Command, words, prog="test").scenes == "rgbd:kitchen#525"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--variants", "plain,camel"), "camel is unknown; choose different ones from plain, cameo"),
        (("--variants", "plain,plain"), "names one twice"),
        (("--seeds", "0,-1"), "--seeds '0,-1': expected different whole numbers of 0 or more"),
        (("--seeds", "0,0"), "expected different whole numbers"),
        (("--seeds", ""), "expected different whole numbers"),
        (("--jobs", "0"), "--jobs 0: expected at least 1"),
        (("--steps", "0"), "--steps 0: expected at least 1"),
        (("--layer", "10"), "--other-layer 10: is --layer too"),
        (("--probe-every", "3"), "--probe-every 3: expected a multiple of --evaluate-every"),
        (("--quick",), "--quick: goes with --paper"),
        (("--few-seeds", "-1"), "--few-seeds -1"),
        (("--base-steps", "-1"), "--base-steps -1: expected 0 or more"),
        (("--device", "tpu"), "tpu"),
    ],
)
def test_wrong_input_is_refused_in_one_line(
    flags: tuple[str, ...], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture
):
    with pytest.raises(SystemExit) as stop:
        cli([*flags, "--out", str(tmp_path / "study")])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.count("\n") == 1
    assert expected in error
    assert not (tmp_path / "study").exists()


def test_a_layer_within_views_is_refused_before_anything_is_written(small, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"--layer layer 0, .*expected a layer that joins views on a grid"):
        main(small(layer=0), FakeTrainer())
    assert not small().out.exists()


def test_a_folder_refuses_other_settings_and_a_second_study(small):
    main(small(seeds="0"), FakeTrainer())
    with pytest.raises(ValueError, match=r"other values of \['batch_size'\]"):
        main(small(seeds="0", batch_size=4), FakeTrainer())
    with (
        running.alone(small().out),
        pytest.raises(ValueError, match="another study, or a run that it left"),
    ):
        main(small(seeds="0"), FakeTrainer())


def test_more_steps_continue_finished_runs(small):
    main(small(seeds="0", variants="plain"), FakeTrainer())
    longer = FakeTrainer(silent=["plain-seed0"])
    with pytest.raises(SystemExit):  # this trainer trains nothing, so the run stays behind
        main(small(seeds="0", variants="plain", steps=40), longer)
    assert longer.names == ["plain-seed0"]
    assert {"--resume", "40"} <= set(longer.calls[0])


def test_a_real_process_gives_its_exit_code_and_last_words():
    code, words = run_process("train.cameo", ["--steps", "none"], 1)
    assert code == 2
    assert last_words(words).startswith("python -m train.cameo: ")
    assert last_words("\n \n") == "no output"


def test_threads_are_shared_out(small, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    seen: list[int] = []

    def trainer(module: str, flags: Sequence[str], threads: int) -> tuple[int, str]:
        seen.append(threads)
        return FakeTrainer()(module, flags, threads)

    main(small(jobs=3, seeds="0"), trainer)
    assert seen == [5, 5, 5]
