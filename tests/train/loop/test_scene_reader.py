"""Scenes read ahead by workers: the bits of those that are read when they are needed."""

from dataclasses import fields, replace

import pytest
import torch
from training import SETTINGS, rooms, small_batches, small_model, small_trainer

from probe.views import TENSORS
from train import loop
from train.batches import Batch, moved_to
from train.footage import CPU
from train.loop.reading import SceneReader


def same(one: Batch, other: Batch) -> bool:
    pairs = [(getattr(one.views, name), getattr(other.views, name)) for name in TENSORS]
    pairs += [(getattr(one, x.name), getattr(other, x.name)) for x in fields(Batch) if x.name != "views"]
    return one.views.n_ref == other.views.n_ref and all(torch.equal(a, b) for a, b in pairs)


def test_two_workers_read_the_bits_that_this_process_reads():
    batches = small_batches(replace(SETTINGS, views=3, shuffle_views=0.5))
    readers = [SceneReader(batches, slice(0, 1), device=CPU, workers=workers, steps=5) for workers in (0, 2)]
    for step in (0, 1, 2, 1, 2, 4):  # on and back, as after a resume
        assert same(readers[0].at(step), readers[1].at(step))
    assert readers[1].waited > 0


@pytest.mark.slow
def test_workers_change_no_weight():
    trained = []
    for workers in (0, 2):
        trainer = small_trainer(replace(SETTINGS, workers=workers), small_model())
        for step in range(3):
            loop.take_step(trainer, step)
        trained.append(trainer.network.state_dict())
    assert all(torch.equal(weight, trained[1][name]) for name, weight in trained[0].items())


def test_a_draw_that_is_moved_draws_the_same():
    draw = rooms().draw
    first, second = (one(torch.Generator().manual_seed(0), 2, 1) for one in (draw, moved_to(CPU, draw)))
    assert torch.equal(first.image, second.image)
