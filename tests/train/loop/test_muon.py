"""Muon on all matrices of one shape at once, against PyTorch's own."""

import copy

import pytest
import torch
from torch import nn

from train.loop.muon import BatchedMuon

SHAPES = [(8, 8), (8, 8), (4, 16), (16, 4), (8, 8), (16, 4)]


def matrices() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def take_steps(optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for weight in optimizer.param_groups[0]["params"]:
            weight.grad = torch.randn(weight.shape, generator=generator)
        optimizer.step()


def test_the_updates_are_pytorchs():
    own, theirs = matrices(), matrices()
    take_steps(BatchedMuon(own, lr=0.01, weight_decay=0.1), range(5))
    take_steps(torch.optim.Muon(theirs, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"), range(5))
    torch.testing.assert_close(own, theirs, atol=1e-4, rtol=0)


def test_its_checkpoint_continues_bit_for_bit():
    one, two = matrices(), matrices()
    first, second = (BatchedMuon(weights, lr=0.01, weight_decay=0.1) for weights in (one, two))
    take_steps(first, range(2))
    with torch.no_grad():
        for a, b in zip(one, two, strict=True):
            b.copy_(a)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    take_steps(first, range(2, 4))
    take_steps(second, range(2, 4))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_a_matrix_without_a_gradient_stays():
    weights = matrices()
    before = weights[1].detach().clone()
    optimizer = BatchedMuon(weights, lr=0.01, weight_decay=0.1)
    weights[0].grad = torch.ones_like(weights[0])
    assert optimizer.step(lambda: 3.0) == pytest.approx(3.0)
    assert torch.equal(weights[1], before)
    assert not torch.equal(weights[0], matrices()[0])
