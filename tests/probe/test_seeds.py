"""Seeds of different purposes and places stay apart in the 32 bits that torch keeps."""

import torch

from probe.seeds import derive


def test_seeds_are_32_bits_repeat_and_differ_by_purpose_and_place():
    seeds = [derive(purpose, seed, step) for purpose in ("training", "scene") for seed in (0, 1) for step in range(500)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert derive("scene", 1, 23) == derive("scene", 1, 23) != derive("scene", 12, 3)


def test_torch_draws_differently_for_each():
    first, second = (torch.rand(4, generator=torch.Generator().manual_seed(derive(p, 0, 0))) for p in ("a", "b"))
    assert not torch.equal(first, second)


def test_torch_keeps_32_bits_only():  # the fact that derive is for
    first, second = (torch.rand(4, generator=torch.Generator().manual_seed(seed)) for seed in (5, 2**32 + 5))
    assert torch.equal(first, second)
