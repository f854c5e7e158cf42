"""The training command, end to end on a small network: files, refusals, layers."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from training import SETTINGS, SMALL, SUPERVISION, make_commands_small, rooms, small_model, supervision

from probe.layers import find_layers, select_layers
from probe.measure.model import measure_layers
from probe.measure.scene import make_scene
from probe.models import load_model
from probe.models.cat3d import load_unet
from probe.protocols import PROTOCOLS
from train import monitor, training
from train.cameo import cli
from train.flags import Command
from train.supervised import choose_layers, make_objective, read_shares, selected_layer

QUICK = ("--steps", "4", "--evaluate-every", "2", "--probe-every", "2", "--checkpoint-every", "2", "--no-report")
FEW = ("--evaluate-scenes", "2", "--probe-groups", "1", "--sampling-steps", "2", "--batch-size", "2", "--device", "cpu")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch):
    make_commands_small(monkeypatch)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("train") / "run"
    with pytest.MonkeyPatch.context() as patch:
        make_commands_small(patch)
        cli([*QUICK, *FEW, "--layer", "10,12", "--out", str(out)])
    return out


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_leaves_what_the_page_and_the_probe_read(finished: Path):
    evaluated = rows(finished / "evaluation.jsonl")
    assert [row["step"] for row in evaluated] == [2, 4]
    wanted = {"loss", "loss_t900", "psnr", "ssim", "copy_psnr", "mean_colour_psnr", "match_error", "attention_12"}
    assert {"psnr_one_step", "copy_psnr_one_step"} <= evaluated[0].keys()
    assert wanted | {"readout_10", "readout_12"} <= evaluated[0].keys()
    assert evaluated[0]["lpips"] is None or evaluated[0]["lpips"] > 0
    assert all(0 <= evaluated[-1][name] <= 1 for name in ("attention_10", "readout_10", "match_error"))
    assert rows(finished / "metrics.jsonl")[-1]["objective"] > 0
    table = pd.read_csv(finished / "emergence.csv")
    assert sorted(table["step"].unique()) == [2, 4]
    assert sorted(table["layer"].unique()) == [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
    assert (finished / "samples.png").read_bytes()[:4] == b"\x89PNG"
    worst = pd.read_csv(finished / "worst.csv")
    assert worst["psnr"].is_monotonic_increasing
    assert worst["psnr"].mean() == pytest.approx(evaluated[-1]["psnr"], abs=1e-5)
    assert set(worst["scene"]) == {"held-out-000", "held-out-001"}
    assert (finished / "checkpoints" / "step-000004" / "objective.safetensors").is_file()


def test_the_model_that_is_saved_holds_no_weights_of_the_objective(finished: Path):
    model = load_model(f"cat3d-tiny:{finished / 'final'}")
    assert model.card is not None
    assert model.card["layers"] == [
        "up_blocks.2.attentions.0.transformer_blocks.0.attn1",
        "up_blocks.2.attentions.2.transformer_blocks.0.attn1",
    ]
    assert not any("mix" in name for name in load_file(finished / "final" / "diffusion_pytorch_model.safetensors"))


def test_a_finished_run_is_refused_without_resume_and_another_setting_always(
    finished: Path, capsys: pytest.CaptureFixture
):
    for changed, expected in (
        (("--layer", "10,12"), "add --resume"),
        (("--layer", "10", "--resume"), "made with other values"),
        (("--layer", "10,12", "--resume", "--steps", "3"), "other values of ['steps']"),
    ):
        with pytest.raises(SystemExit) as stop:
            cli([*QUICK, *FEW, *changed, "--out", str(finished)])
        error = capsys.readouterr().err
        assert stop.value.code == 2
        assert error.count("\n") == 1
        assert expected in error


def test_auto_reads_the_selection_and_random_draws_a_3d_layer(tmp_path: Path):
    layers = find_layers(small_model().network)
    chosen = next(layer for layer in layers if layer.index == 12)
    (tmp_path / "selection.json").write_text(json.dumps({"layer": 12, "name": chosen.name, "model": "small"}))
    assert [layer.index for layer in choose_layers("auto", layers, probe=tmp_path, seed=0)] == [12]
    assert choose_layers("none", layers, probe=tmp_path, seed=0) == []
    drawn = {choose_layers("random", layers, probe=tmp_path, seed=seed)[0].index for seed in range(30)}
    assert drawn <= set(range(2, 13))
    assert len(drawn) > 5


@pytest.mark.parametrize(("shown", "said"), [(False, True), (True, False)])
def test_a_layer_that_is_not_shown_to_match_is_announced(tmp_path: Path, capsys, shown: bool, said: bool):
    layer = next(layer for layer in find_layers(small_model().network) if layer.index == 12)
    selection = {"layer": 12, "name": layer.name, "model": "small", "above_null": shown}
    (tmp_path / "selection.json").write_text(json.dumps(selection))
    training._announce(Command(layer="auto", probe=tmp_path), [layer], small_model().network)
    assert ("layer 12 was chosen, but is not shown to find correspondence" in capsys.readouterr().out) == said


@pytest.mark.parametrize("text", [None, "not json", "{}", '{"layer": null, "name": null}', '{"layer": 12}'])
def test_auto_without_a_selection_is_refused(tmp_path: Path, text: str | None):
    if text is not None:
        (tmp_path / "selection.json").write_text(text)
    with pytest.raises(ValueError, match="auto: "):
        selected_layer(tmp_path, find_layers(small_model().network))


def test_auto_refuses_the_layer_of_another_model(tmp_path: Path):
    (tmp_path / "selection.json").write_text('{"layer": 12, "name": "blocks.12.attn1", "model": "wan"}')
    with pytest.raises(ValueError, match=r"selected layer 12, blocks.12.attn1, of wan, which the model to be"):
        choose_layers("auto", find_layers(small_model().network), probe=tmp_path, seed=0)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--accumulate", "4"], "a batch of 2 scenes cannot be shared"),
        (["--sampling-steps", "1001"], "--sampling-steps 1001: expected 1 to 1000"),
        (["--device", "cuda"], "--device cuda: no CUDA device is available here"),
        (["--layer-weights", "1,2"], "--layer-weights 1,2: expected 1 numbers above 0"),
        (["--layer-weights", "0"], "--layer-weights 0: expected 1 numbers above 0"),
        (["--learning-rate", "inf"], "--learning-rate inf: expected above 0"),
        (["--weight", "nan"], "--weight nan: expected 0 or more"),
        (["--control", "shuffled", "--batch-size", "1"], "--control shuffled: expected --batch-size of at least 2"),
        (["--precision", "fp16"], "fp16"),
        (["--views", "1"], "--views 1 has no other view to match, so it goes with --layer none only"),
        (["--views", "0"], "--views 0: expected at least 1"),
        (["--max-queries", "0"], "--max-queries 0: expected at least 1"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line_before_anything_is_written(
    flags: list[str], message: str, capsys: pytest.CaptureFixture, tmp_path: Path
):
    with pytest.raises(SystemExit) as stop:
        cli([*QUICK, *FEW, *flags, "--out", str(tmp_path / "run")])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "run").exists()


def test_single_views_train_a_base_that_is_probed_but_not_compared(tmp_path: Path):
    run, page = tmp_path / "run", [flag for flag in QUICK if flag != "--no-report"]
    cli([*page, *FEW, "--layer", "none", "--views", "1", "--out", str(run)])
    losses = {f"loss_t{t}" for t in monitor.VALIDATION_TIMESTEPS}
    for row in rows(run / "evaluation.jsonl"):
        assert row.keys() == {"step", "loss", *losses}
    assert not (run / "worst.csv").exists()
    assert (run / "samples.png").is_file()
    assert set(pd.read_csv(run / "emergence.csv")["layer"]) == set(range(2, 13))
    text = (run / "report.html").read_text(encoding="utf-8").replace("\u00a0", " ")
    assert "one view at a time, on the diffusion objective alone" in text
    assert "Single views have no reference, so its samples have no true views to be compared with." in text
    assert "PSNR" not in text
    assert load_model(f"cat3d-tiny:{run / 'final'}").card["views"] == 1  # type: ignore[index]


@pytest.mark.parametrize(("scenes", "probed"), [("shapes:fine", "shapes"), ("shapes-v1", "shapes-v1")])
def test_a_training_is_probed_on_rooms_of_the_version_that_it_trains_on(scenes: str, probed: str, tmp_path: Path):
    few = ["--steps", "1", "--no-report", *FEW, "--layer", "none", "--out", str(tmp_path / "run")]
    cli([*few, "--scenes", scenes])
    assert set(pd.read_csv(tmp_path / "run" / "emergence.csv")["scenes"]) == {probed}


def test_layers_share_the_objective_by_their_weights():
    layers = select_layers(find_layers(small_model().network), "10,12")
    assert read_shares(None, 2) == (0.5, 0.5)
    shares = read_shares("3,1", 2)
    assert shares == (0.75, 0.25)
    for objective in ("cameo", "geometry"):
        built = make_objective(objective, layers, shares, seed=0, **SUPERVISION)
        assert built is not None
        assert built.shares == (0.75, 0.25)


def test_the_lpips_of_an_evaluation_is_measured_where_its_weights_are_at_hand(monkeypatch: pytest.MonkeyPatch):
    model = small_model()
    monkeypatch.setattr(monitor, "load_lpips", lambda _device: lambda a, b: (a - b).abs().flatten(1).mean(1))
    means, _ = monitor.measure_quality(model, monitor.hold_out(model, rooms().draw, 2, 1))
    assert 0 < means["lpips"] < 255
    assert 0 < means["copy_lpips"] < 255
    monkeypatch.setattr(monitor, "load_lpips", lambda _device: None)
    assert math.isnan(monitor.measure_quality(model, monitor.hold_out(model, rooms().draw, 2, 1))[0]["lpips"])


def test_a_layer_within_views_is_refused():
    with pytest.raises(ValueError, match=r"layer 0, .*expected a layer that joins views on a grid"):
        choose_layers("0", find_layers(small_model().network), probe=Path(), seed=0)


def test_attention_and_readout_agree_where_all_heads_weigh_alike():
    """One head: its attention and the mean over heads are the same map, so the gap is zero."""
    torch.manual_seed(0)
    model = replace(small_model(), network=load_unet(None, {**SMALL, "sample_size": 32}), size=32)
    held = monitor.hold_out(model, rooms(size=32).draw, 3, 2)
    gap = monitor.measure_gap(model, supervision(model, mixing="mean"), held)
    assert gap["attention_10"] == gap["readout_10"]
    reversed_ = supervision(model, mixing="mean")
    with torch.no_grad():
        reversed_.losses[0].mix.learned.neg_()
    opposite = monitor.measure_gap(model, reversed_, held)
    assert opposite["attention_10"] == gap["attention_10"]
    assert opposite["readout_10"] != gap["readout_10"]


def test_the_supervised_layers_precision_is_the_probes():
    """On one scene, at the same timestep and noise, the attention's precision is what probe.measure.model says."""
    torch.manual_seed(0)
    model = replace(small_model(), network=load_unet(None, {**SMALL, "sample_size": 32}), size=32)
    held = monitor.hold_out(model, rooms(replace(SETTINGS, max_rotation=120), size=32).draw, 1, 2)
    layers = select_layers(find_layers(model.network), "10")
    scene = make_scene(held.views, layers, held.noise)
    scores = measure_layers(model, scene, layers, [monitor.MIDDLE], PROTOCOLS["attention-v1"])
    row = scores[
        (scores["metric"] == "precision@5%")
        & (scores["head"] == -1)
        & (scores["direction"] == "tgt-ref")
        & (scores["protocol"] == "attention-v1")
    ]
    seen = int(scene.truths[16, 16].visible[0, 1, :, 0].sum())
    assert 0 < seen < 256  # tokens that are not seen must not count
    assert row["count"].tolist() == [seen]
    found = monitor.measure_gap(model, supervision(model, mixing="mean"), held)["attention_10"]
    assert found == pytest.approx(float(row["value"].iloc[0]))
    assert found > 0
