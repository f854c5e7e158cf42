"""One optimiser step: laws of its gradients, of precision, and of what is not finite."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from training import (
    SETTINGS,
    added,
    evaluate,
    small_model,
    small_trainer,
    step_loss,
    supervision,
    weights,
)

from train import batches, loop


def test_a_step_lowers_the_loss_it_is_taken_on():
    model = small_model()
    trainer = small_trainer(replace(SETTINGS, warmup=0), model)
    before = step_loss(model, 0)
    for _ in range(5):
        loop.take_step(trainer, 0)
    assert step_loss(model, 0) < before


def test_a_loss_that_is_not_finite_names_step_seed_and_checkpoint(tmp_path: Path):
    model = small_model()
    for parameter in model.network.parameters():
        parameter.data.fill_(float("nan"))
    schedule = loop.Schedule(checkpoint_every=2, evaluate_every=2)
    with pytest.raises(ValueError, match=r"loss is nan at step 0 \(batch seed \d+\); last good checkpoint: none yet"):
        list(loop.train(small_trainer(SETTINGS, model), tmp_path, schedule, steps=4, resume=False, evaluate=evaluate))


def test_a_gradient_that_is_not_finite_stops_before_it_reaches_the_weights(tmp_path: Path):
    model, calls = small_model(), []

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        calls.append(gradient)
        return gradient * (torch.nan if len(calls) == 3 else 1)

    trainer = small_trainer(SETTINGS, model)
    next(model.network.parameters()).register_hook(spoil)
    schedule = loop.Schedule(checkpoint_every=1, evaluate_every=4)
    named = rf"the gradient is nan at step 2 \(batch seed {batches.step_seed(3, 2)}\); last good checkpoint: .*000002;"
    with pytest.raises(ValueError, match=named):
        list(loop.train(trainer, tmp_path, schedule, steps=4, resume=False, evaluate=evaluate))
    assert all(weight.isfinite().all() for weight in weights(model))


def scaled(scale: float, *, overflown: str = "") -> tuple[loop.Trainer, dict[str, float]]:
    """Take a step as fp16 does, with a scaled loss, but in single precision: CPUs have no fp16 training."""
    model, settings = small_model(), replace(SETTINGS, optimizer="muon", warmup=0, weight=0.5)
    trainer = small_trainer(settings, model, supervision(model))
    if overflown:
        model.network.get_parameter(overflown).register_hook(lambda gradient: gradient + math.inf)
    if scale > 1:
        trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        trainer.accelerator.native_amp = True
        trainer.accelerator.state._mixed_precision = "fp16"
    try:
        return trainer, loop.take_step(trainer, 0)
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
    assert [schedule.last_epoch for schedule in trainer.rate_schedules] == [0, 0]


@pytest.mark.parametrize("objective", ["cameo", "irepa-dsift", "trd-dsift"])
def test_parts_of_a_batch_add_up_to_the_gradient_of_the_whole(objective: str):
    gradients = []
    for parts in (1, 2, 4):
        model = small_model()
        settings = replace(SETTINGS, batch_size=4, weight=0.5, accumulate=parts)
        trainer = small_trainer(settings, model, added(model, objective))
        loop.accumulate_gradients(trainer, 0)
        gradients.append([weight.grad for weight in trainer.module.parameters()])
    for other in gradients[1:]:
        for whole, parted in zip(gradients[0], other, strict=True):
            torch.testing.assert_close(whole, parted, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("objective", ["cameo", "irepa-dsift", "trd-dsift"])
def test_recomputing_activations_changes_no_gradient_of_a_supervised_step(objective: str):
    gradients = []
    for recompute in (False, True):
        model = small_model()
        if recompute:
            model.network.enable_gradient_checkpointing()
        trainer = small_trainer(replace(SETTINGS, weight=0.5), model, added(model, objective))
        model.network.train()
        loop.accumulate_gradients(trainer, 0)
        gradients.append([weight.grad for weight in trainer.module.parameters()])
    for kept, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(kept, recomputed, rtol=0, atol=0)


@pytest.mark.parametrize("objective", ["cameo", "irepa-dsift", "trd-dsift"])
def test_half_precision_is_near_and_leaves_the_weights_in_full(objective: str):
    losses = []
    for precision in ("no", "bf16"):
        accelerator, model = Accelerator(cpu=True, mixed_precision=precision), small_model()
        trainer = small_trainer(replace(SETTINGS, weight=0.5), model, added(model, objective), accelerator)
        losses.append(loop.take_step(trainer, 0))
        assert {weight.dtype for weight in trainer.module.parameters()} == {torch.float32}
        AcceleratorState._reset_state(reset_partial_state=True)
    assert losses[1]["loss"] != losses[0]["loss"]
    for name in ("loss", "objective"):
        assert losses[1][name] == pytest.approx(losses[0][name], rel=0.03)
