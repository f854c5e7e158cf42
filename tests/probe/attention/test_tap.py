"""The tap below the layers, and the public door above them: only the door knows indexes, which cost small forwards."""

import pytest
import torch
from attention_toys import Toy
from scenes import small_random_model
from torch import Tensor, nn

from probe.attention.tap import Tap
from probe.capture import AttentionTap, Call
from probe.layers import find_layers


def count_forwards(model: nn.Module, tap: type[Tap], key: object) -> int:
    """Count how often a model runs while a tap on it is made."""
    ran: list[None] = []
    with model.register_forward_pre_hook(lambda *_: ran.append(None)):
        tap(model, key)
    return len(ran)


def test_an_index_means_the_layer_that_find_layers_gives_it():
    network = small_random_model().network
    layer = next(layer for layer in find_layers(network) if layer.index == 10)
    inputs = network.probe_inputs(2)
    calls: list[Call] = []
    outputs: list[Tensor] = []
    for key in (10, layer):
        with torch.no_grad(), AttentionTap(network, key, keep="detached") as tap:
            outputs.append(network(**inputs))
        assert tap[10] is tap[layer]
        calls += tap.calls
    by_index, by_layer = calls
    assert (by_index.name, by_index.nth) == (by_layer.name, by_layer.nth) == (layer.name, layer.nth)
    for name in ("q", "k", "v"):
        assert torch.equal(getattr(by_index, name), getattr(by_layer, name)), name
    assert by_index.scale == by_layer.scale
    assert torch.equal(*outputs)


def test_an_edit_by_index_is_the_edit_of_the_layer():
    toy = Toy().eval()
    layer, inputs = find_layers(toy)[2], toy.probe_inputs(2, 1)

    def twice(call: Call, run) -> Tensor:
        return 2 * run(call.q, call.k, call.v)

    outputs = []
    for key in (layer.index, layer):
        with torch.no_grad(), AttentionTap(toy, key, edit=twice):
            outputs.append(toy(**inputs))
    assert torch.equal(*outputs)
    with torch.no_grad():
        assert not torch.equal(outputs[0], toy(**inputs))


def test_only_an_index_runs_the_model():
    toy = Toy()
    layer = find_layers(toy)[2]
    for key in (layer, layer.name, (layer.name, 0)):
        assert count_forwards(toy, AttentionTap, key) == count_forwards(toy, Tap, key) == 0
    assert count_forwards(toy, AttentionTap, layer.index) == 7  # four sizes, three to prove the layout


@pytest.mark.parametrize("key", [1, [1, "blocks.3.attn"]], ids=["alone", "among names"])
def test_the_tap_below_refuses_an_index_and_says_what_to_give(key: object):
    toy = Toy()
    with pytest.raises(ValueError, match=r"self-attention layer 1 is unknown; .*give a Layer or a name, or list them"):
        Tap(toy, key)
    assert isinstance(AttentionTap(toy, key), Tap)


def test_an_index_that_no_layer_has_is_refused_with_those_that_are_known():
    with pytest.raises(ValueError, match=r"self-attention layer 9 is unknown; known here: \[0, 1, 2\]"):
        AttentionTap(Toy(), 9)
