"""The geometry that supervision sees: another source, noise on it; and that nothing else sees it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from training import SETTINGS, make_commands_small, small_batches, supervised_trainer

from probe.correspondence.noise import perturb_each, read_noise
from probe.correspondence.tracks import track_geometry
from probe.seeds import derive
from probe.views import TENSORS
from train import loop
from train.cameo import cli
from train.loop.step import prepare_truth
from train.objectives.truth import keep_truth, make_truth_transform

CPU = torch.device("cpu")
NOISE = "rotation:40,holes:.3"
QUICK = ("--steps", "2", "--evaluate-every", "2", "--probe-every", "0", "--checkpoint-every", "2", "--no-report",
         "--evaluate-scenes", "2", "--sampling-steps", "2", "--batch-size", "2", "--device", "cpu")  # fmt: skip


def test_without_a_source_or_noise_supervision_sees_the_scenes_themselves():
    views = small_batches().at(0).views
    assert make_truth_transform(None, None, CPU) is keep_truth
    assert keep_truth(views, [1, 2]) is views


def test_noise_is_put_on_the_sources_points():
    views = small_batches().at(0).views
    noisy = make_truth_transform("depth", NOISE, CPU)(views, [1, 2])
    expected = perturb_each(views, read_noise(NOISE), [1, 2])
    assert all(torch.equal(getattr(noisy, name), getattr(expected, name)) for name in TENSORS)
    tracked = make_truth_transform("tracks", None, CPU)(views, [1, 2])
    assert torch.equal(tracked.valid, track_geometry(views)[1])
    assert not tracked.valid.all()


@pytest.mark.parametrize(("source", "noise"), [("lidar", None), (None, "fog:1")])
def test_what_is_unknown_is_refused(source: str | None, noise: str | None):
    with pytest.raises(ValueError, match=r"lidar|fog"):
        make_truth_transform(source, noise, CPU)


def test_the_trainer_shows_the_objective_what_supervision_sees_with_a_seed_per_scene():
    seen = []

    def hide(views, seeds):
        seen.append(list(seeds))
        return replace(views, valid=torch.zeros_like(views.valid))

    trainer = supervised_trainer(replace(SETTINGS, weight=0.5))
    without = loop.accumulate_gradients(replace(trainer, transform_truth=hide), 3)
    with_truth = loop.accumulate_gradients(trainer, 3)
    assert seen == [[derive("truth noise", 3, 3, 0), derive("truth noise", 3, 3, 1)]]
    assert without["objective"] == 0
    assert with_truth["objective"] > 0
    assert without["loss"] == pytest.approx(with_truth["loss"])


def test_a_process_draws_the_noise_of_its_own_scenes():
    """The second of two processes holds the second scene of the batch, whose noise is that of a single process."""
    seen, alone = [], supervised_trainer()

    class Second(Accelerator):
        num_processes, process_index = 2, 1

    def record(views, seeds):
        seen.append(list(seeds))
        return views

    trainer = replace(alone, accelerator=Second(cpu=True), transform_truth=record)
    assert trainer.own_scenes == slice(1, 2)
    prepare_truth(trainer, small_batches().at(3, trainer.own_scenes).views, 3)
    assert seen == [[derive("truth noise", 3, 3, 1)]]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    make_commands_small(monkeypatch)


@pytest.mark.slow
def test_the_command_records_the_noise_and_evaluates_on_the_true_scenes(small: None, tmp_path: Path):
    rows = {}
    for name, flags in (("clean", ()), ("noisy", ("--truth-source", "depth", "--truth-noise", NOISE))):
        cli([*QUICK, *flags, "--weight", "0", "--out", str(tmp_path / name)])
        rows[name] = json.loads((tmp_path / name / "evaluation.jsonl").read_text().splitlines()[-1])
        rows[name + " step"] = json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[-1])
    assert rows["noisy step"]["objective"] != rows["clean step"]["objective"]
    assert rows["noisy"] == pytest.approx(rows["clean"], nan_ok=True)  # of weight 0: the same network, the same scenes
    settings = [json.loads((tmp_path / name / "config.json").read_text())["settings"] for name in ("clean", "noisy")]
    assert [(one["truth_source"], one["truth_noise"]) for one in settings] == [(None, None), ("depth", NOISE)]
    assert json.loads((tmp_path / "noisy" / "final" / "card.json").read_text())["truth_noise"] == NOISE


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--layer", "none", "--truth-noise", "depth:.1"), "--layer none supervises nothing"),
        (("--truth-noise", "fog:1"), "expected KIND:AMOUNT"),
        (("--truth-source", "lidar"), "'lidar' is unknown; choose from depth"),
    ],
)
def test_wrong_truths_are_refused_in_one_line(
    flags: tuple[str, ...], message: str, small: None, tmp_path: Path, capsys: pytest.CaptureFixture
):
    with pytest.raises(SystemExit) as stop:
        cli([*QUICK, *flags, "--out", str(tmp_path / "r")])
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert said.count("\n") == 1
    assert message in said
    assert not (tmp_path / "r").exists()
