"""The training loop: laws of steps, checkpoints and resuming."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from einops import rearrange
from safetensors.torch import load_file

from probe.geometry import rotation_degrees
from probe.layers import find_layers, select_layers
from probe.models.cat3d import TINY, load_unet
from probe.models.model import MultiViewModel
from probe.models.schedules import pixel_scheduler, velocity
from train import batches, loop, ship
from train.cameo import Command, cli, settings_of
from train.objectives import AttentionSupervision, Supervision
from train.objectives.diffusion import denoising_error
from train.settings import Settings

SMALL = {**TINY, "sample_size": 8, "block_out_channels": (8, 8, 8, 8), "attention_head_dim": 1, "norm_num_groups": 4}
SETTINGS = Settings(
    steps=4,
    batch_size=2,
    views=2,
    learning_rate=1e-3,
    difficulty="plain",
    rotation_bins=(0, 1),
    rotation_ramp=3,
    timestep_shift=4.0,
    camera_dropout=0.5,
    ema_decay=0.9,
    seed=3,
    warmup=2,
    validation_scenes=2,
)


def small_model(seed: int = 0) -> MultiViewModel:
    torch.manual_seed(seed)
    network = load_unet(None, SMALL)
    return MultiViewModel(name="small", network=network, alpha_bar=pixel_scheduler().alphas_cumprod, size=8)


def supervision(model: MultiViewModel, **changes: object) -> AttentionSupervision:
    kinds = {"mixing": "mlp", "target": "per_pair", "truth": "cycle", "cycle_tolerance": 1.5}
    settings = Supervision(**{**kinds, "control": "none", "max_queries": None, **changes})
    torch.manual_seed(1)
    return AttentionSupervision(select_layers(find_layers(model.network), "10"), settings)


def run(
    out: Path, *, resume: bool = False, steps: int = 4, every: int = 2, supervised: bool = False, **changes: object
) -> MultiViewModel:
    model = small_model()
    settings = replace(SETTINGS, steps=steps, weight=0.5, **changes)
    trainer = loop.start(settings, model, supervision(model) if supervised else None)
    rhythm = loop.Rhythm(checkpoint_every=every, evaluate_every=2)
    list(loop.train(settings, model, out, rhythm, resume=resume, trainer=trainer))
    return model


def step_loss(model: MultiViewModel, step: int) -> float:
    batch = batches.draw_step(SETTINGS, model, step)
    with torch.no_grad():
        return denoising_error(model, batch.views, batch.t, batch.noise, batch.keep_cameras).mean().item()


def weights(model: MultiViewModel) -> list[torch.Tensor]:
    return list(model.network.state_dict().values())


def test_the_error_is_zero_for_a_perfect_prediction_and_counts_targets_only():
    class Oracle(torch.nn.Module):
        def forward(self, latents, t, inputs, domain):  # gives the true v in targets, nonsense in references
            return self.answer

    model = replace(small_model(), network=Oracle())
    views = batches.draw_batch(SETTINGS, model, torch.Generator().manual_seed(0), 2, n_ref=1)
    noise = torch.randn(views.image.shape, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([10, 900])
    answer = velocity(views.image * 2 - 1, noise, model.alpha_bar[t])
    answer[:, :1] = 100.0
    model.network.answer = answer
    torch.testing.assert_close(denoising_error(model, views, t, noise), torch.zeros(2))
    answer[1, 1] += 2.0
    torch.testing.assert_close(denoising_error(model, views, t, noise), torch.tensor([0.0, 4.0]))


def test_a_step_lowers_the_loss_it_is_taken_on():
    model = small_model()
    trainer = loop.start(replace(SETTINGS, warmup=0), model)
    before = step_loss(model, 0)
    for _ in range(5):
        loop.take_step(SETTINGS, model, trainer, 0)
    assert step_loss(model, 0) < before


def test_steps_draw_different_scenes_and_repeat_exactly():
    model = small_model()
    losses = [step_loss(model, step) for step in (0, 1, 0)]
    assert losses[0] == losses[2] != losses[1]


def test_a_loss_that_is_not_finite_names_step_seed_and_checkpoint(tmp_path: Path):
    model = small_model()
    for parameter in model.network.parameters():
        parameter.data.fill_(float("nan"))
    rhythm = loop.Rhythm(checkpoint_every=2, evaluate_every=2)
    with pytest.raises(ValueError, match=r"loss is nan at step 0 \(batch seed \d+\); last good checkpoint: none yet"):
        list(loop.train(SETTINGS, model, tmp_path, rhythm, resume=False))


def test_a_gradient_that_is_not_finite_stops_before_it_reaches_the_weights(tmp_path: Path):
    model, calls = small_model(), []

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        calls.append(gradient)
        return gradient * (torch.nan if len(calls) == 3 else 1)

    trainer = loop.start(SETTINGS, model)
    next(model.network.parameters()).register_hook(spoil)
    rhythm = loop.Rhythm(checkpoint_every=1, evaluate_every=4)
    named = rf"the gradient is nan at step 2 \(batch seed {batches.step_seed(3, 2)}\); last good checkpoint: .*000002;"
    with pytest.raises(ValueError, match=named):
        list(loop.train(SETTINGS, model, tmp_path, rhythm, resume=False, trainer=trainer))
    assert all(weight.isfinite().all() for weight in weights(model))


def scaled(scale: float, *, overflown: str = "") -> tuple[loop.Trainer, dict[str, float]]:
    """Take a step as fp16 does, with a scaled loss, but in single precision: CPUs have no fp16 training."""
    model, settings = small_model(), replace(SETTINGS, optimizer="muon", warmup=0, weight=0.5)
    trainer = loop.start(settings, model, supervision(model))
    if overflown:
        model.network.get_parameter(overflown).register_hook(lambda gradient: gradient + math.inf)
    if scale > 1:
        trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        trainer.accelerator.native_amp = True
        trainer.accelerator.state._mixed_precision = "fp16"
    try:
        return trainer, loop.take_step(settings, model, trainer, 0)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def test_a_scaled_loss_moves_the_weights_of_both_optimisers_as_an_unscaled_one():
    (plain, expected), (trainer, row) = scaled(1), scaled(2.0**10)
    assert row["gradient_norm"] == pytest.approx(expected["gradient_norm"])
    for name, weight in plain.network.state_dict().items():
        torch.testing.assert_close(trainer.network.state_dict()[name], weight, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    "overflown", ["conv_in.weight", "up_blocks.2.attentions.0.transformer_blocks.0.attn1.to_q.weight"]
)
def test_an_overflow_leaves_the_step_out_for_both_optimisers_and_halves_the_scale(overflown: str):
    trainer, row = scaled(2.0**10, overflown=overflown)  # the first weight is AdamW's, the second Muon's
    assert not math.isfinite(row["gradient_norm"])
    assert all(torch.equal(a, b) for a, b in zip(trainer.network.parameters(), weights(small_model()), strict=True))
    assert trainer.accelerator.scaler.get_scale() == 2.0**9
    assert [schedule.last_epoch for schedule in trainer.schedules] == [0, 0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"views": 1},
        {"camera_dropout": 1.5},
        {"learning_rate": 0.0},
        {"weight": -1.0},
        {"probe_every": 3},
        {"control": "shuffled", "objective": "geometry"},
    ],
)
def test_numbers_out_of_range_are_refused(wrong: dict):
    with pytest.raises(ValueError, match="--"):
        settings_of(Command(**wrong))


def test_an_unknown_layer_ends_in_one_line(capsys: pytest.CaptureFixture, tmp_path: Path):
    with pytest.raises(SystemExit) as stop:
        cli(["--layer", "worst", "--out", str(tmp_path / "run")])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.count("\n") == 1
    assert "indexes 0 to 15" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("step", "length", "share"), [(0, 4, 0.25), (2, 4, 0.75), (3, 4, 1.0), (9, 4, 1.0), (0, 0, 1.0)]
)
def test_the_ramp_grows_to_one_and_stays(step: int, length: int, share: float):
    assert batches.ramp(step, length) == share


def test_the_ramp_scales_the_rotations_of_a_batch():
    def widest_turn(widest: float) -> float:
        generator = torch.Generator().manual_seed(1)
        views = batches.draw_batch(replace(SETTINGS, rotation_bins=(1,)), small_model(), generator, 8, 1, widest=widest)
        turn = views.world_to_cam[:, 1, :3, :3] @ views.world_to_cam[:, 0, :3, :3].mT
        return float(((turn.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2).clamp(-1, 1).acos().rad2deg().max())

    assert 30 <= widest_turn(1.0) <= 60.01
    assert widest_turn(0.1) <= 6.01


def test_shifted_timesteps_match_the_formula_and_stay_in_range():
    uniform = torch.tensor([0.0, 0.2, 0.5, 0.9999999])
    assert batches.shift_timesteps(uniform, 4.0).tolist() == [0, 500, 800, 999]
    assert batches.shift_timesteps(uniform[:3], 1.0).tolist() == [0, 200, 500]


def test_shipping_keeps_the_history_up_to_the_step_shipped(tmp_path: Path):
    run(tmp_path / "run", steps=4, every=2)
    open_settings = {"settings": {"seed": 3}, "environment": {}}
    (tmp_path / "run" / "config.json").write_text(json.dumps(open_settings))
    (tmp_path / "run" / "averaged" / "emergence.csv").write_text("step,layer,value\n2,10,0.5\n4,10,0.75\n")
    ship.main(ship.Settings(run=tmp_path / "run", out=tmp_path / "out", step=2))
    assert (tmp_path / "out" / "emergence.csv").read_text() == "step,layer,value\n2,10,0.5\n"
    packed = load_file(tmp_path / "out" / "diffusion_pytorch_model.safetensors")
    whole = load_file(tmp_path / "run" / "averaged" / "step-000002" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(packed[name], weight.half()) for name, weight in whole.items())
    assert json.loads((tmp_path / "out" / "card.json").read_text())["steps"] == 2


def test_the_learning_rate_grows_over_the_warm_up_and_then_stays():
    trainer = loop.start(replace(SETTINGS, warmup=2), small_model())
    rates = []
    for step in range(4):
        rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        loop.take_step(SETTINGS, trainer.module.model, trainer, step)
    assert rates == pytest.approx([0.0, 0.5e-3, 1e-3, 1e-3])


def test_muon_takes_the_hidden_matrices_and_adamw_all_the_rest():
    model = small_model()
    settings = replace(SETTINGS, optimizer="muon")
    adamw, muon = loop.make_optimizers(settings, loop.TrainingStep(model, supervision(model)))
    named = {id(weight): name for name, weight in model.network.named_parameters()}
    of_muon = {named[id(weight)] for weight in muon.param_groups[0]["params"]}
    assert all(".attentions." in name and name.endswith("weight") for name in of_muon)
    assert "up_blocks.2.attentions.0.transformer_blocks.0.attn1.to_q.weight" in of_muon
    total = len(list(model.network.parameters())) + len(list(supervision(model).parameters()))
    assert len(adamw.param_groups[0]["params"]) + len(of_muon) == total


@pytest.mark.parametrize(
    ("schedule", "until", "weights_"),
    [
        ("constant", 0, [0.5, 0.5, 0.5, 0.5]),
        ("linear", 0, [0.5, 0.375, 0.25, 0.125]),
        ("linear", 2, [0.5, 0.25, 0.0, 0.0]),
        ("off", 2, [0.5, 0.5, 0.0, 0.0]),
    ],
)
def test_the_weight_follows_its_schedule(schedule: str, until: int, weights_: list[float]):
    settings = replace(SETTINGS, steps=4, weight=0.5, weight_schedule=schedule, weight_until=until)
    assert [loop.weight_at(settings, step) for step in range(4)] == weights_


def test_parts_of_a_batch_add_up_to_the_gradient_of_the_whole():
    gradients = []
    for parts in (1, 2, 4):
        model = small_model()
        settings = replace(SETTINGS, batch_size=4, weight=0.5, accumulate=parts)
        trainer = loop.start(settings, model, supervision(model))
        loop.accumulate_gradients(settings, model, trainer, 0)
        gradients.append([weight.grad for weight in trainer.module.parameters()])
    for other in gradients[1:]:
        for whole, parted in zip(gradients[0], other, strict=True):
            torch.testing.assert_close(whole, parted, rtol=1e-3, atol=1e-5)


def test_a_part_of_a_batch_is_that_part_of_the_whole():
    model = small_model()
    settings = replace(SETTINGS, batch_size=4, shuffle_views=1.0, views=3)
    whole, part = batches.draw_step(settings, model, 5), batches.draw_step(settings, model, 5, slice(1, 3))
    for name in ("t", "noise", "keep_cameras"):
        assert torch.equal(getattr(part, name), getattr(whole, name)[1:3])
    assert torch.equal(part.views.point_map, whole.views.point_map[1:3])
    assert torch.equal(part.views.image, whole.views.image[1:3])
    assert part.views.n_ref == whole.views.n_ref


def test_a_share_of_the_steps_shuffles_its_views():
    settings = replace(SETTINGS, views=4, shuffle_views=0.5)
    orders = [batches.view_order(settings, step) for step in range(200)]
    assert 70 <= sum(order is None for order in orders) <= 130
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders if order is not None)
    assert len({tuple(order) for order in orders if order}) > 15
    assert batches.view_order(replace(settings, shuffle_views=0.0), 3) is None


@pytest.mark.parametrize(
    ("views", "n_ref", "order"),
    [
        (4, 1, [1, 0, 2, 3]),  # the release: views // 2 - 1
        (4, 2, [0, 3, 1, 2]),
        (4, 3, [0, 1, 3, 2]),
        (2, 1, [0, 1]),
        (3, 1, [0, 1, 2]),
        (3, 2, [0, 2, 1]),
        (9, 3, [0, 4, 8, 1, 2, 3, 5, 6, 7]),
    ],
)
def test_references_are_evenly_spaced_and_come_first(views: int, n_ref: int, order: list[int]):
    assert batches.spaced_order(views, n_ref) == order


def test_views_that_are_not_shuffled_lie_along_a_path_with_references_spaced_on_it():
    settings, model = replace(SETTINGS, views=4, batch_size=3), small_model()
    seen = set()
    for step in range(8):
        views = batches.draw_step(settings, model, step).views
        spaced = batches.spaced_order(4, views.n_ref)
        path = views.reorder([spaced.index(place) for place in range(4)], 1)  # undo the spacing
        first = path.world_to_cam[:, :1].expand(3, 4, 4, 4)
        assert (rotation_degrees(path.world_to_cam, first).diff() > 0).all()
        points = rearrange(path.point_map, "b f c h w -> (b f) (h w) c") @ path.world_to_cam.flatten(0, 1)[:, :3, :3].mT
        depth = points[..., 2] + path.world_to_cam.flatten(0, 1)[:, None, 2, 3]
        assert (depth > 0).all()  # every view kept its own points
        seen.add(views.n_ref)
    assert seen == {1, 2, 3}


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(ValueError, match="a batch of 2 scenes cannot be shared by 1 processes in 3 parts"):
        loop.start(replace(SETTINGS, accumulate=3), small_model())


def test_two_processes_have_the_gradients_of_one(tmp_path: Path):
    program = str(Path(__file__).parent / "two_processes.py")
    gradients, losses = [], []
    for count in (1, 2):
        out = tmp_path / f"{count}.safetensors"
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
        done = subprocess.run([*launch, program, str(out)], capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        gradients.append(load_file(out))
        assert int(gradients[-1].pop("processes")) == count
        losses.append(gradients[-1].pop("losses"))  # of three steps: DDP finds an unused weight in the second
    assert gradients[0].keys() == gradients[1].keys()
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-3, atol=1e-4)
    for name, alone in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], alone, rtol=1e-3, atol=1e-5, msg=name)
    assert any("objective.losses" in name and float(grad.abs().max()) > 0 for name, grad in gradients[0].items())


def test_a_loop_of_ones_own_supervises_a_network_whose_weights_are_shared_out():
    program, losses = str(Path(__file__).parent / "sharded.py"), []
    for count, how in (("1", "whole"), ("2", "shared")):
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", count]
        done = subprocess.run([*launch, program, how], capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        losses.append([float(line.split()[-1]) for line in done.stdout.splitlines()])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0][2] < losses[0][0]


def test_recomputing_activations_changes_no_gradient_of_a_supervised_step():
    gradients = []
    for recompute in (False, True):
        model = small_model()
        if recompute:
            model.network.enable_gradient_checkpointing()
        trainer = loop.start(replace(SETTINGS, weight=0.5), model, supervision(model))
        model.network.train()
        loop.accumulate_gradients(replace(SETTINGS, weight=0.5), model, trainer, 0)
        gradients.append([weight.grad for weight in trainer.module.parameters()])
    for kept, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(kept, recomputed, rtol=0, atol=0)


def test_half_precision_is_near_and_leaves_the_weights_in_full():
    losses = []
    for precision in ("no", "bf16"):
        model = small_model()
        accelerator = Accelerator(cpu=True, mixed_precision=precision)
        trainer = loop.start(replace(SETTINGS, weight=0.5), model, supervision(model), accelerator)
        losses.append(loop.take_step(replace(SETTINGS, weight=0.5), model, trainer, 0))
        assert {weight.dtype for weight in trainer.module.parameters()} == {torch.float32}
        AcceleratorState._reset_state(reset_partial_state=True)
    assert losses[1]["loss"] != losses[0]["loss"]
    for name in ("loss", "objective"):
        assert losses[1][name] == pytest.approx(losses[0][name], rel=0.03)
