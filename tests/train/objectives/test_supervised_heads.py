"""Supervising chosen heads only: laws, and which choices are refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training import SETTINGS, SMALL, small_batches, small_model, supervision

from probe.capture import AttentionTap
from probe.layers import find_layers, select_layers
from probe.models.cat3d import load_unet
from probe.models.model import MultiViewModel
from train.alignment import CorrespondenceAlignment
from train.loop import TrainingStep
from train.objectives.supervision import view_tokens
from train.settings import read_heads
from train.supervised import choose_heads


@pytest.fixture(scope="module")
def model() -> MultiViewModel:
    torch.manual_seed(0)
    return replace(small_model(), network=load_unet(None, {**SMALL, "attention_head_dim": 4}))  # four heads


def loss_and_gradients(model: MultiViewModel, heads: dict[int, tuple[int, ...]] | None, mixing: str = "mean"):
    objective = supervision(model, mixing=mixing, heads=heads)
    batch = small_batches(SETTINGS, model).at(0)
    truth = objective.prepare(batch.views, lambda counts: counts)
    model.network.zero_grad()
    _, extra = TrainingStep(model, objective)(batch, truth, None)
    extra.backward()
    layer = objective.layers[0]
    return extra, model.network.get_submodule(layer.name).to_q.weight.grad.clone(), objective


def test_all_heads_named_are_all_heads(model: MultiViewModel):
    every = tuple(range(supervision(model).layers[0].heads))
    one, other = (loss_and_gradients(model, heads) for heads in (None, {10: every}))
    assert len(every) > 1
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])


@pytest.mark.parametrize("mixing", ["mean", "mlp", "positive"])
def test_only_the_chosen_heads_get_a_gradient(model: MultiViewModel, mixing: str):
    _, gradient, objective = loss_and_gradients(model, {10: (1,)}, mixing)
    each = gradient.chunk(objective.layers[0].heads)
    assert each[1].abs().max() > 0
    assert all(part.abs().max() == 0 for number, part in enumerate(each) if number != 1)


def test_one_head_is_the_loss_of_that_heads_queries_and_keys(model: MultiViewModel):
    extra, _, objective = loss_and_gradients(model, {10: (2,)})
    batch = small_batches(SETTINGS, model).at(0)
    truth = objective.prepare(batch.views, lambda counts: counts)
    layer = objective.layers[0]
    with torch.no_grad(), AttentionTap(model.network, [layer], keep="detached") as tap:
        TrainingStep(model, None)(batch, None, None)
    q, k = view_tokens(layer, tap[layer], batch.views.count)
    (matches,), (counts,) = truth.matches.values(), truth.average.values()
    alone = CorrespondenceAlignment(1, mixing="mean")
    expected = alone(q[:, 2:3], k[:, 2:3], matches, batch.views.n_ref, scale=tap[layer].scale, counts=counts)
    assert torch.allclose(extra, expected, rtol=1e-6)


def layers_of(model: MultiViewModel):
    return select_layers(find_layers(model.network), "10,12")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("all", None), ("10:0,2", {10: (0, 2)}), ("10:1;12:0,1", {10: (1,), 12: (0, 1)})],
)
def test_heads_are_read(model: MultiViewModel, text: str, expected: dict | None):
    assert choose_heads(text, layers_of(model), probe=Path()) == expected


@pytest.mark.parametrize("text", ["", "10", "10:", "10:-1", "10:0,0", "10:0;10:1", "10:a", "x:1", "10:0;", "10:²"])
def test_what_is_no_choice_of_heads_is_refused(text: str):
    with pytest.raises(ValueError, match=r"expected all, auto, or LAYER:HEAD|names a head twice"):
        read_heads(text)


@pytest.mark.parametrize(
    ("text", "message"), [("11:0", "layer 11 is not supervised"), ("10:8", "has the heads 0 to 3, not 8")]
)
def test_layers_and_heads_that_are_not_there_are_refused(model: MultiViewModel, text: str, message: str):
    with pytest.raises(ValueError, match=message):
        choose_heads(text, layers_of(model), probe=Path())


def test_auto_takes_what_the_probe_chose(model: MultiViewModel, tmp_path: Path):
    name = layers_of(model)[0].name
    (tmp_path / "selection.json").write_text(json.dumps({"layer": 10, "name": name, "heads": {"chosen": [0, 2]}}))
    assert choose_heads("auto", layers_of(model), probe=tmp_path) == {10: (0, 2)}


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ({"layer": 10, "name": "a"}, "names no heads"),
        ({"layer": 10, "name": "a", "heads": None}, "names no heads"),
        ({"layer": 10, "name": "a", "heads": {"chosen": []}}, "chose no head of layer 10"),
        ({"layer": 3, "name": "a", "heads": {"chosen": [0]}}, "layer 3 is not supervised"),
        ({"layer": 10, "name": "blocks.10", "heads": {"chosen": [0]}}, "of another model's layer 10"),
    ],
)
def test_a_probe_without_heads_is_refused(model: MultiViewModel, tmp_path: Path, selection: dict, message: str):
    (tmp_path / "selection.json").write_text(json.dumps(selection))
    with pytest.raises(ValueError, match=message):
        choose_heads("auto", layers_of(model), probe=tmp_path)


def test_auto_without_a_probe_is_refused(model: MultiViewModel, tmp_path: Path):
    with pytest.raises(ValueError, match=r"does not exist; run python -m probe\.run"):
        choose_heads("auto", layers_of(model), probe=tmp_path / "none")
