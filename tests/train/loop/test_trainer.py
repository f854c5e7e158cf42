"""The trainer: optimisers, learning rate, weight of the objective, shares of a batch."""

from dataclasses import replace

import pytest
import torch
from training import SETTINGS, small_model, small_trainer, supervision

from train import loop


def test_muon_takes_the_hidden_matrices_and_adamw_all_the_rest():
    model = small_model()
    adamw, muon = loop.make_optimizers(loop.TrainingStep(model, supervision(model)), "muon", 1e-3)
    named = {id(weight): name for name, weight in model.network.named_parameters()}
    of_muon = {named[id(weight)] for weight in muon.param_groups[0]["params"]}
    assert all(".attentions." in name and name.endswith("weight") for name in of_muon)
    assert "up_blocks.2.attentions.0.transformer_blocks.0.attn1.to_q.weight" in of_muon
    total = len(list(model.network.parameters())) + len(list(supervision(model).parameters()))
    assert len(adamw.param_groups[0]["params"]) + len(of_muon) == total


def test_the_fused_adamw_updates_convolutions_in_channels_last_like_pytorchs_plain_one():
    updated = []
    for fused in (True, False):
        trainer = small_trainer(replace(SETTINGS, warmup=0))
        trainer.network.to(memory_format=torch.channels_last)
        trainer.optimizers[0].param_groups[0]["fused"] = fused
        loop.take_step(trainer, 0)
        updated.append([weight.detach() for weight in trainer.optimizers[0].param_groups[0]["params"]])
    assert any(not weight.is_contiguous() for weight in updated[0])
    torch.testing.assert_close(updated[0], updated[1], atol=1e-6, rtol=0)


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
    assert [small_trainer(settings).weight(step) for step in range(4)] == weights_


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(ValueError, match="a batch of 2 scenes cannot be shared by 1 processes in 3 parts"):
        small_trainer(replace(SETTINGS, accumulate=3))


def test_the_learning_rate_grows_over_the_warm_up_and_then_stays():
    trainer = small_trainer(replace(SETTINGS, warmup=2))
    rates = []
    for step in range(4):
        rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        loop.take_step(trainer, step)
    assert rates == pytest.approx([0.0, 0.5e-3, 1e-3, 1e-3])
