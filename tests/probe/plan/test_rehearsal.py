"""What one denoising step takes, without numbers: operations, bytes alive, attention calls."""

from collections import Counter

import pytest
import torch
from torch.nn import functional as F

from probe.models import fresh_tiny
from probe.models.cat3d import TINY, load_unet
from probe.models.model import MultiViewModel, model_layers, place
from probe.models.parts.files import META
from probe.plan.rehearsal import Cost, Memory, Rehearsal, peak_bytes, rehearse, time_operations, tokens_of, weights_of
from probe.plan.rehearsal import key_of as key_of_operation
from probe.scenes import Request, open_scenes

FLOATS = 4  # bytes


@pytest.fixture(scope="module")
def outline() -> MultiViewModel:
    return place(fresh_tiny(0), META)


@pytest.fixture(scope="module")
def rehearsal(outline: MultiViewModel) -> Rehearsal:
    views, _ = open_scenes("shapes", Request(groups=1, views=3, n_ref=1, size=32)).load(0)
    return rehearse(outline, views)


def test_alive_bytes_follow_tensors_by_hand():
    with Memory() as memory:
        a = torch.zeros(10, 10)
        assert memory.alive == 100 * FLOATS
        view, b = a.T, a + 1
        assert memory.alive == 200 * FLOATS  # a view takes nothing
        del a, b
        assert memory.alive == 100 * FLOATS  # the view keeps what it looks at
        del view
        torch.zeros(1)
    assert memory.alive == 0
    assert memory.peak == 200 * FLOATS


def test_operations_are_counted_by_shape_and_views_are_not():
    x = torch.zeros(3, 4)
    with Memory() as memory:
        for _ in range(5):
            x + 1
        x[:2] + 1
        x.t()
        x.add_(1)
    assert sorted(memory.operations.values()) == [1, 1, 5]


@pytest.mark.parametrize(
    "tensor", [torch.zeros(2, 3), torch.zeros(3, 2).T, torch.zeros(1, 3).expand(4, 3), torch.arange(6).view(2, 3)]
)
def test_a_shape_makes_a_tensor_like_the_one_it_was_taken_of(tensor: torch.Tensor):
    _, (shape, *_), _ = key_of_operation(torch.sin, (tensor,), {})
    made = shape.fill(torch.device("cpu"))
    assert (made.shape, made.stride(), made.dtype) == (tensor.shape, tensor.stride(), tensor.dtype)


def test_every_operation_of_a_rehearsal_can_be_timed(rehearsal: Rehearsal):
    assert sum(rehearsal.operations.values()) > 300
    assert time_operations(Counter(dict.fromkeys(rehearsal.operations, 1)), torch.device("cpu")) > 0


def test_a_rehearsal_sees_each_attention_call(outline: MultiViewModel, rehearsal: Rehearsal):
    assert len(rehearsal.at_attention) == len(model_layers(outline)) == 16
    attention = [key for key in rehearsal.operations if key[0] is F.scaled_dot_product_attention]
    assert sum(rehearsal.operations[key] for key in attention) == 16
    assert max(rehearsal.at_attention) < rehearsal.peak


def test_twice_the_views_take_twice_the_work_so_no_map_is_held(outline: MultiViewModel, rehearsal: Rehearsal):
    views, _ = open_scenes("shapes", Request(groups=1, views=6, n_ref=1, size=32)).load(0)
    assert rehearse(outline, views).peak == pytest.approx(2 * rehearsal.peak, rel=0.05)


def test_weights_are_those_of_all_modules(outline: MultiViewModel):
    parameters = sum(weight.numel() for weight in load_unet(None, TINY).parameters())
    assert sum(weight.numel() for weight in weights_of(outline)) == parameters
    assert all(weight.is_meta for weight in weights_of(outline))


def test_the_peak_is_in_the_pass_or_in_the_scoring_of_a_layer():
    rehearsal = Rehearsal(operations=Counter(), peak=100, at_attention=(10, 60, 90))
    every = ["a", "b", "c"]
    assert peak_bytes(rehearsal, every, {}) == 100
    assert peak_bytes(rehearsal, every, {"a": Cost(seconds=0.0, bytes=50)}) == 100
    assert peak_bytes(rehearsal, every, {"b": Cost(seconds=0.0, bytes=50)}) == 110
    assert peak_bytes(rehearsal, every, {"b": Cost(seconds=0.0, bytes=50), "c": Cost(seconds=0.0, bytes=30)}) == 120


def test_tokens_count_all_views():
    layer = next(layer for layer in model_layers(fresh_tiny(0)) if layer.index == 12)
    assert tokens_of(layer, 3) == 3 * 16 * 16
