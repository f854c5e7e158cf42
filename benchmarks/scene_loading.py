"""How fast a data set is read, in one process, at a model's size: python benchmarks/scene_loading.py --scenes NAME:ROOT

Training keeps up while batch size times views, over the seconds of a step, stays below this (times the workers).
"""

import time
from dataclasses import dataclass

import torch

from probe import command
from probe.scenes import find_recordings
from probe.scenes.recordings import load_views

PROG = "python benchmarks/scene_loading.py"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Read random frames of a data set and count them."""

    scenes: str
    """NAME:ROOT of real scenes."""
    size: int = 256
    """Side of the views, in pixels."""
    seconds: float = 10.0
    """How long to read, after the first one."""


def main(settings: Settings) -> None:
    """Print views per second and processor milliseconds per view; the latter hold on a busy machine too."""
    torch.set_num_threads(1)
    name, _, root = settings.scenes.partition(":")
    recordings = find_recordings(name, root)
    began = time.perf_counter()
    recording = recordings.open(recordings.names[0])
    opened = time.perf_counter() - began
    generator = torch.Generator().manual_seed(0)
    load_views(recording, [0], size=settings.size, n_ref=0)
    count, began, busy = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - began < settings.seconds:
        index = int(torch.randint(len(recording.names), (), generator=generator))
        load_views(recording, [index], size=settings.size, n_ref=0)
        count += 1
    rate, used = count / (time.perf_counter() - began), 1000 * (time.process_time() - busy) / count
    shape = "x".join(map(str, recording.sizes[0]))
    frames = f"{len(recording.names)} frames of {shape} opened in {opened:.2f} s"
    print(f"{name}: {frames}; at {settings.size}: {rate:.1f} views/s, {used:.1f} ms of processor per view")


if __name__ == "__main__":
    command.run(main, command.parse(Settings, prog=PROG), prog=PROG)
