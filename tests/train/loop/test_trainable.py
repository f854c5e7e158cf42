"""Which weights train: the chosen ones change and no others, adapters are merged, checkpoints hold what trains."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training import SETTINGS, run, small_batches, small_model, small_trainer, supervision

from probe.capture import AttentionTap
from probe.layers import JOINING, find_layers
from probe.models.model import MultiViewModel
from train import flags, loop
from train.loop import checkpoints
from train.loop.trainer import Trainer
from train.objectives import AttentionSupervision
from train.objectives.diffusion import denoising_error
from train.settings import Trainable, read_trainable
from train.trainable import add_adapters, count_weights, merge_adapters, trained_weights

LAYER = "up_blocks.2.attentions.0.transformer_blocks.0.attn1"
"""The supervised one, layer 10."""


def trainer_of(trainable: str, **changes: object) -> Trainer:
    if trainable.startswith("lora"):
        pytest.importorskip("peft", reason="peft makes the adapters")
    model = small_model()
    chosen: dict[str, Any] = {"warmup": 0, "weight": 0.5, "trainable": trainable, **changes}
    settings = replace(SETTINGS, **chosen)
    return small_trainer(settings, model, supervision(model))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", Trainable()),
        ("attention", Trainable(part="attention")),
        ("cross-view", Trainable(part="cross-view")),
        ("lora:16", Trainable(part="lora", rank=16)),
    ],
)
def test_what_trains_is_read(text: str, expected: Trainable):
    assert read_trainable(text) == expected


@pytest.mark.parametrize(
    "text", ["", "none", "lora", "lora:", "lora:0", "lora:-1", "lora:2.5", "lora:²", "Lora:4", "all:2"]
)
def test_what_cannot_train_is_refused(text: str):
    with pytest.raises(ValueError, match=r"expected all, attention, cross-view or lora:RANK"):
        read_trainable(text)


def test_adapters_without_peft_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("train.flags.cameo.find_spec", lambda _name: None)
    with pytest.raises(ValueError, match=r"--trainable lora:4: peft .* 'attention-probing\[lora\]'"):
        flags.check_command(flags.Command(trainable="lora:4"))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("trainable", ["all", "attention", "cross-view", "lora:2"])
def test_the_chosen_weights_change_and_no_others(trainable: str, optimizer: str):
    trainer = trainer_of(trainable, optimizer=optimizer)
    layers = find_layers(small_model().network)
    kinds = JOINING if trainable == "cross-view" else {layer.kind for layer in layers}
    modules = tuple(f"{layer.name}." for layer in layers if layer.kind in kinds)
    before = {name: weight.clone() for name, weight in trainer.network.state_dict().items()}
    for step in range(2):
        loop.take_step(trainer, step)
    changed = {name for name, weight in trainer.network.state_dict().items() if not torch.equal(weight, before[name])}
    expected = {
        name
        for name in before
        if trainable == "all" or (name.startswith(modules) and ("lora_" in name or not trainable.startswith("lora")))
    }
    assert changed <= expected
    assert changed == trained_weights(trainer.network).keys()
    assert {name for name in changed if name.startswith(LAYER)}
    trained, total = count_weights(trainer.network)
    assert trained == sum(before[name].numel() for name in changed)
    assert (trained == total) == (trainable == "all")


def test_the_supervised_layers_queries_and_keys_learn_through_their_adapters():
    trainer = trainer_of("lora:2", weight=1e6)
    loop.take_step(trainer, 0)  # the second factors leave zero
    for optimizer in trainer.optimizers:
        optimizer.zero_grad()
    loop.accumulate_gradients(trainer, 1)
    for projection in ("to_q", "to_k"):
        for factor in ("lora_A", "lora_B"):
            weight = trainer.network.get_submodule(f"{LAYER}.{projection}.{factor}.default").weight
            assert weight.grad is not None
            assert float(weight.grad.abs().max()) > 0


@pytest.mark.parametrize("trainable", ["all", "cross-view", "lora:2"])
def test_recomputed_activations_are_recorded_once_and_leave_the_gradients_as_they_are(
    trainable: str, monkeypatch: pytest.MonkeyPatch
):
    gradients, counts, taps = [], [], list[AttentionTap]()

    def watch(self: AttentionSupervision, network: torch.nn.Module) -> AttentionTap:
        taps.append(AttentionTap(network, self.layers, keep="graph"))
        return taps[-1]

    monkeypatch.setattr(AttentionSupervision, "watch", watch)
    for recompute in (False, True):
        trainer = trainer_of(trainable)
        if recompute:
            trainer.network.enable_gradient_checkpointing()  # type: ignore[operator]
        trainer.network.train()
        loop.accumulate_gradients(trainer, 0)
        gradients.append([weight.grad for weight in trained_weights(trainer.module).values()])
        counts.append(len(taps[-1].records(LAYER)))
    assert counts == [1, 1]
    for kept, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(kept, recomputed, rtol=0, atol=0)


def error_of(model: MultiViewModel) -> torch.Tensor:
    batch = small_batches(model=model).at(0)
    with torch.no_grad():
        return denoising_error(model, batch.views, batch.t, batch.noise)


def test_merged_adapters_compute_what_they_did_beside_the_weights():
    trainer = trainer_of("lora:3", learning_rate=0.05)
    plain = error_of(small_model())
    for step in range(2):
        loop.take_step(trainer, step)
    beside = error_of(trainer.model)
    assert float((beside - plain).abs().max()) > 1e-4
    merge_adapters(trainer.network)
    torch.testing.assert_close(error_of(trainer.model), beside, rtol=0, atol=1e-6)
    assert trainer.network.state_dict().keys() == small_model().network.state_dict().keys()


def test_supervision_brings_its_loss_down_through_adapters_alone():
    trainer = trainer_of("lora:4", weight=1.0, learning_rate=0.02, optimizer="adamw")
    losses = []
    for _ in range(8):
        losses.append(loop.accumulate_gradients(trainer, 0)["objective"])  # the same scenes
        for optimizer in trainer.optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert losses[-1] < losses[0] - 1e-3


def test_a_module_without_linear_layers_takes_no_adapter():
    pytest.importorskip("peft", reason="peft makes the adapters")
    with pytest.raises(ValueError, match=r"lora:2: 0 has no linear layer to put an adapter on; train attention"):
        add_adapters(torch.nn.Sequential(torch.nn.Conv2d(2, 2, 1)), ["0"], 2, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("trainable", ["lora:2", "cross-view"])
def test_a_checkpoint_holds_what_trains_and_resumes_to_the_bits(trainable: str, tmp_path: Path):
    if trainable.startswith("lora"):
        pytest.importorskip("peft", reason="peft makes the adapters")
    kind = {"supervised": True, "trainable": trainable, "optimizer": "muon"}
    unbroken = run(tmp_path / "unbroken", **kind)  # type: ignore[arg-type]
    run(tmp_path / "broken", steps=2, **kind)  # type: ignore[arg-type]
    resumed = run(tmp_path / "broken", resume=True, **kind)  # type: ignore[arg-type]
    first, second = unbroken.network.state_dict(), resumed.network.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    for folder in ("checkpoints", "averaged"):
        step = tmp_path / "broken" / folder / "step-000004"
        assert load_file(step / "trained.safetensors").keys() == trained_weights(unbroken.network).keys()
        assert json.loads((step / "base.json").read_text())["model"] == "small"
        assert not (step / "diffusion_pytorch_model.safetensors").exists()


def test_a_checkpoint_of_another_base_is_not_resumed_from(tmp_path: Path):
    run(tmp_path, steps=2, trainable="cross-view")
    with pytest.raises(ValueError, match=r"step-000002 was trained beside other weights of small"):
        run(tmp_path, resume=True, trainable="cross-view", model=small_model(seed=1))
    trainer = trainer_of("all")
    with pytest.raises(ValueError, match="other weights of small"):
        checkpoints.restore(tmp_path / "checkpoints" / "step-000002", trainer)
