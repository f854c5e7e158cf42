"""Time and memory of the CAMEO loss, forward and backward, against the plain formula.

Run: python benchmarks/alignment_cost.py (the plain formula takes 8.4 GB). Truth is that of a procedural scene. Each
variant runs in a process of its own, after a warm-up on a tiny problem. Peak memory is that process's highest resident
size above its size with q, k and the truth in memory; time is CPU time, all threads together, which other processes
disturb less than the clock. Variants: plain (the formula, everything at once), mlp (the paper's mixing, chunked),
recomputed (the same chunks under torch.utils.checkpoint: what was not chosen), mean and positive (other mixings,
chunked), subsampled (mlp with max_queries).
"""

import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
import tyro
from einops import rearrange
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from probe.correspondence import TokenMatches, match_tokens
from probe.scenes import Request, open_scenes
from train import alignment
from train.alignment import CorrespondenceAlignment
from train.alignment.mixing import MIXINGS
from train.alignment.pairs import pair_weights

Variant = Literal["plain", "mlp", "recomputed", "mean", "positive", "subsampled"]
ARGUMENTS: dict[str, dict] = {
    "plain": {"backend": "plain"},
    "mlp": {},
    "recomputed": {},
    "mean": {"mixing": "mean"},
    "positive": {"mixing": "positive"},
    "subsampled": {},
}


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Compare the variants; the first one is the measure of the others."""

    variants: tuple[Variant, ...] = ("plain", "mlp", "recomputed", "mean", "positive", "subsampled")
    """Which, in order."""
    views: int = 4
    """Views of the scene; half of them are references."""
    grid: tuple[int, int] = (32, 32)
    """Tokens (rows, columns) of a view."""
    heads: int = 10
    """Heads of the layer."""
    channels: int = 64
    """Channels of a head."""
    scenes: int = 1
    """Scenes in a batch."""
    counted: Literal["cycle", "all"] = "cycle"
    """Which pairs count: those of a procedural scene by the paper's rule, or every pair of two views."""
    max_queries: int = 1024
    """Of the subsampled variant: pairs of each scene and side."""
    rounds: int = 3
    """Timed rounds; the median is printed. The plain formula runs once."""
    threads: int = 1
    """CPU threads."""
    numbers: int | None = None
    """Numbers that a chunk may hold; None for the loss's own choice."""
    child: bool = False
    """Internal: run the one variant and print its time and memory as JSON."""


def truth_of(given: Benchmark) -> TokenMatches:
    sources = open_scenes("shapes", Request(groups=given.scenes, views=given.views, n_ref=given.views // 2))
    views = [sources.load(scene)[0] for scene in range(given.scenes)]
    matches = match_tokens(
        torch.cat([x.point_map for x in views]), torch.cat([x.valid for x in views]), grid=given.grid
    )
    other = ~rearrange(torch.eye(given.views, dtype=torch.bool), "fq fk -> fq 1 fk")
    return matches if given.counted == "cycle" else TokenMatches(matches.index, other.expand_as(matches.counted))


def recomputed(loss: CorrespondenceAlignment, q: Tensor, k: Tensor, matches: TokenMatches, n_ref: int) -> Tensor:
    """The chunks of the loss, each recomputed in the backward pass."""
    mixing, weight = MIXINGS[loss.mixing], pair_weights(matches, n_ref)
    chunk_loss = partial(alignment.chunk_loss, mixing.logits, q.shape[-1] ** -0.5)
    total = weight.new_zeros(())
    for scene, view, rows in alignment.query_chunks(weight != 0, alignment.pairs_at_once(mixing, q)):
        pairs = [rearrange(x[scene, ..., view], "fq m -> (fq m)")[rows] for x in (matches.index, weight)]
        keys = k[scene].chunk(weight.shape[-1], dim=1)[view]
        inputs = (*pairs, q[scene][:, rows], keys, *mixing.weights(loss.mix))
        total = total + checkpoint(chunk_loss, *inputs, use_reentrant=False, preserve_rng_state=False)
    return total


def problem(given: Benchmark, variant: str) -> Callable[[], tuple[float, float]]:
    """Give a function that takes one step of the loss, and says the loss and the gradients' norm."""
    torch.manual_seed(0)
    size = (given.scenes, given.heads, given.views * given.grid[0] * given.grid[1], given.channels)
    q, k = (torch.randn(size, requires_grad=True) for _ in range(2))
    matches, n_ref = truth_of(given), given.views // 2
    most = given.max_queries if variant == "subsampled" else None
    loss = CorrespondenceAlignment(given.heads, max_queries=most, **ARGUMENTS[variant])
    function = partial(recomputed, loss) if variant == "recomputed" else loss

    def step() -> tuple[float, float]:
        leaves = [q, k, *loss.parameters()]
        for leaf in leaves:
            leaf.grad = None
        value = function(q, k, matches, n_ref)
        value.backward()
        return value.item(), torch.stack(
            [x.grad.square().sum() for x in leaves if x.grad is not None]
        ).sum().sqrt().item()

    return step


def child(given: Benchmark) -> None:
    torch.set_num_threads(given.threads)
    if given.numbers:
        alignment.NUMBERS_AT_ONCE["cpu"] = given.numbers
    (variant,) = given.variants
    problem(Benchmark(grid=(4, 4), heads=given.heads), variant)()
    step = problem(given, variant)
    before, seconds = resident("VmRSS"), []
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest resident size so far
    for _round in range(1 if variant == "plain" else given.rounds):
        started = time.process_time()
        loss, norm = step()
        seconds.append(time.process_time() - started)
    cost = {"seconds": statistics.median(seconds), "mib": resident("VmHWM") - before}
    print(json.dumps({**cost, "loss": loss, "norm": norm}))


def resident(field: str) -> float:
    """Read this process's resident size (VmRSS) or its highest (VmHWM), in MiB, from Linux's /proc."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", status)[1]) / 1024


def main(given: Benchmark) -> None:
    """Run one process per variant, print time, memory and their ratios to the first variant's."""
    counted = truth_of(given).counted
    pairs = counted.numel() * (given.views - 1) // given.views
    print(
        f"{given.scenes} x {given.views} views of {given.grid} tokens, {given.heads} heads of {given.channels}; ",
        end="",
    )
    print(f"{int(counted.sum())} of {pairs} pairs (query, other view) count; {given.threads} threads")
    print(f"{'variant':<12}{'CPU s':>9}{'of first':>10}{'peak MiB':>11}{'of first':>10}   loss, norm of gradients")
    first = None
    for variant in given.variants:
        row = measure(variant)
        first = first or row
        shares = [f"1/{first[name] / row[name]:.1f}" for name in ("seconds", "mib")]
        print(f"{variant:<12}{row['seconds']:>9.2f}{shares[0]:>10}{row['mib']:>11.0f}{shares[1]:>10}", end="")
        print(f"   {row['loss']:.7f}, {row['norm']:.7f}", flush=True)


def measure(variant: str) -> dict[str, float]:
    command = [sys.executable, __file__, *sys.argv[1:], "--child", "--variants", variant]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


if __name__ == "__main__":
    settings = tyro.cli(Benchmark)
    (child if settings.child else main)(settings)
