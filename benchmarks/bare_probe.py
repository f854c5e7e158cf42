"""Processor time of a bare probe, another checkout against this one: python benchmarks/bare_probe.py CHECKOUT"""

import os
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import tyro
from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parents[1]
TABLES = ("scores.parquet", "layers.csv", "pairs.csv", "selection.json", "matches.parquet", "explorer.safetensors")
CLOSE = 1e-6


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Run both in alternation, each in a process and a folder of its own, and compare what they write."""

    other: Annotated[Path, tyro.conf.Positional]
    """Root of another checkout, such as ``git worktree add /tmp/before COMMIT``."""
    arguments: str = ""
    """Of ``python -m probe.run``; empty for the bare command. ``"--arguments=--pairs 2"`` makes 4 scenes of 16."""
    rounds: int = 5
    """Pairs of runs; medians are printed."""


def main(benchmark: Benchmark) -> None:
    seconds: dict[str, list[float]] = {"before": [], "now": []}
    checkouts = {"before": benchmark.other.resolve(), "now": ROOT}
    for number in range(benchmark.rounds):
        with tempfile.TemporaryDirectory() as folder:
            order = sorted(checkouts, reverse=number % 2 == 1)
            for name in order:
                seconds[name].append(probe(checkouts[name], Path(folder) / name, shlex.split(benchmark.arguments)))
            equal = [f"{table} {compare(Path(folder) / 'before', Path(folder) / 'now', table)}" for table in TABLES]
        print(f"pair {number + 1}: {' '.join(f'{name} {seconds[name][-1]:.1f} s' for name in seconds)}; ", end="")
        print(", ".join(equal), flush=True)
    before, now = (statistics.median(seconds[name]) for name in ("before", "now"))
    ratios = [now / before for before, now in zip(seconds["before"], seconds["now"], strict=True)]
    threads = os.environ.get("OMP_NUM_THREADS", "unset")
    print(f"processor time, medians of {benchmark.rounds}: before {before:.1f} s, now {now:.1f} s, ", end="")
    print(f"ratio {statistics.median(ratios):.2f} (OMP_NUM_THREADS {threads})")


def probe(checkout: Path, out: Path, arguments: list[str]) -> float:
    """Return the seconds, user and system, that a run takes of all processors."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "probe.run", "--out", str(out), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"bare_probe: {checkout}: {done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def compare(before: Path, now: Path, table: str) -> str:
    """Say how far two files agree: to the byte, or in all discrete values and the others to 1e-6; else end."""
    paths = before / table, now / table
    if paths[0].read_bytes() == paths[1].read_bytes():
        return "equal"
    columns, others = (read(path) for path in paths)
    unequal = sorted(columns.keys() ^ others.keys())
    unequal += [name for name in columns.keys() & others.keys() if not is_close(columns[name], others[name])]
    if unequal:
        raise SystemExit(f"bare_probe: {table} differs in {unequal[:5]}")
    return "close"


def read(path: Path) -> dict[str, np.ndarray]:
    """Read a file as arrays by name."""
    if path.suffix == ".safetensors":
        return load_file(path)
    if path.suffix == ".json":
        return {"text": np.array(path.read_text("utf-8"))}
    frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    return {name: frame[name].to_numpy() for name in frame}


def is_close(a: np.ndarray, b: np.ndarray) -> bool:
    """Compare numbers to 1e-6, and everything else exactly."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if np.issubdtype(a.dtype, np.floating):
        return bool(np.allclose(a, b, rtol=0, atol=CLOSE, equal_nan=True))
    return bool((a == b).all())


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
