"""Compare what --dry-run foretells with what a run then takes: python benchmarks/plan_accuracy.py

The estimate is made first; the run is a process of its own, so that its peak memory is its own.
"""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from alternating import resident

from probe.plan.dry_run import MIB, estimate
from probe.plan.parts import EXAMPLES, measure_scenes, open_parts
from probe.plan.plan import make_plan
from probe.plan.processes import Processes
from probe.plan.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Foretell, run, compare."""

    model: str = "cat3d-tiny"
    """As in python -m probe.run."""
    base: str | None = None
    """As there."""
    model_size: int | None = None
    """As there."""
    views: int = 3
    """As there."""
    pairs: int = 16
    """As there."""
    threads: int = 1
    """CPU threads."""
    child: bool = False
    """Internal: run, and print seconds and memory as JSON."""


def settings_of(asked: Benchmark) -> Settings:
    shared = {name: getattr(asked, name) for name in ("model", "base", "model_size", "views", "pairs")}
    return Settings(**shared, timesteps="500", baselines="null", device="cpu")


def run_once(asked: Benchmark) -> None:
    with tempfile.TemporaryDirectory() as folder:
        plan = make_plan(replace(settings_of(asked), out=Path(folder)))
        started = time.perf_counter()
        open_parts(plan.settings.out)
        measure_scenes(plan, Processes())
        print(json.dumps({"seconds": time.perf_counter() - started, "mib": resident("VmHWM")}))


def main(asked: Benchmark) -> None:
    torch.set_num_threads(asked.threads)
    if asked.child:
        run_once(asked)
        return
    plan = make_plan(replace(settings_of(asked), dry_run=True))
    found = estimate(plan, torch.device("cpu"), EXAMPLES)
    done = subprocess.run(
        [sys.executable, __file__, *sys.argv[1:], "--child"], capture_output=True, text=True, check=True
    )
    took = json.loads(done.stdout.splitlines()[-1])
    print(f"{plan.model.name}, {asked.views} views, {found.passes} denoising steps, {asked.threads} threads")
    print(
        f"seconds: foretold {found.total:.1f}, taken {took['seconds']:.1f}, ratio {found.total / took['seconds']:.2f}"
    )
    foretold = (found.weights + found.work + found.libraries) / MIB
    print(f"MiB at the peak: foretold {foretold:.0f}, taken {took['mib']:.0f}, ratio {foretold / took['mib']:.2f}")


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
