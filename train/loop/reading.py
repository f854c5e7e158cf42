"""A process's scenes, step by step: drawn when they are needed, or ahead by worker processes. The bits are the same."""

import time
from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader, Dataset

from train.batches import Batch, Batches


class _Steps(Dataset[Batch | Exception]):
    def __init__(self, batches: Batches, only: slice) -> None:
        self.batches, self.only = batches, only

    def __getitem__(self, step: int) -> Batch | Exception:
        """Return the scenes, or what is wrong with them: a worker's own error would end in many lines."""
        try:
            return self.batches.at(step, self.only)
        except (ValueError, OSError) as error:
            return error


class SceneReader:
    """Read a process's scenes of a step, and count how long a step waits for them.

    Everything random about a step comes from its own generator, so the number of workers decides nothing.

    Args:
        batches: Of the training; on the processor where there are workers.
        only: The scenes of this process.
        device: Where the scenes go.
        workers: Processes that read ahead; 0 reads in this one.
        steps: Of the training; none is read behind the last.
    """

    def __init__(self, batches: Batches, only: slice, *, device: torch.device, workers: int, steps: int) -> None:
        self.steps, self.device, self.workers, self.last = _Steps(batches, only), device, workers, steps
        self.waited = 0.0
        self._ahead: Iterator[Batch | Exception] = iter(())
        self._next = -1

    def at(self, step: int) -> Batch:
        """Return the scenes of a step; steps in order are read ahead."""
        started = time.perf_counter()
        batch = self._read_ahead(step) if self.workers else self.steps[step]
        if isinstance(batch, Exception):
            raise batch
        self.waited += time.perf_counter() - started
        return batch.to(self.device)

    def _read_ahead(self, step: int) -> Batch | Exception:
        if step != self._next:
            order = range(step, max(self.last, step + 1))
            self._ahead = iter(DataLoader(self.steps, batch_size=None, sampler=order, num_workers=self.workers))
        self._next = step + 1
        return next(self._ahead)
