"""Time and memory of probing all 3D layers, against the same forward without: python benchmarks/probe_overhead.py

Each variant runs in a process of its own. Peak memory is that process's highest resident size above that of the loaded
model; wall times are paired, round i of every variant with round i of the bare forward. Variants: bare (no tap), tap
(opened, nothing read), probe (attention-v1 scores of every 3D layer and head, streamed), maps (every 3D layer's softmax
map kept until the forward has ended, then the precision of all heads together).
"""

import statistics
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import tyro
from alternating import ask, finish, resident, serve, start
from einops import einsum, rearrange

from probe.capture import AttentionTap
from probe.layers import find_layers, joint_layout, select_layers
from probe.measure.model import layer_call
from probe.measure.scene import Scene, make_scene
from probe.measure.score import score_call
from probe.metrics import precisions
from probe.models import fresh_tiny
from probe.models.cat3d import SD21, load_unet
from probe.models.model import MultiViewModel
from probe.protocols import PROTOCOLS
from probe.scenes import Request, open_scenes

VARIANTS = ("bare", "tap", "probe", "maps")


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Compare the variants."""

    size: Literal["tiny", "sd21"] = "tiny"
    """tiny: the small model; sd21: SD 2.1's sizes, random weights, latents of 64x64 (3.3 GB of weights)."""
    views: int = 4
    """Views per scene."""
    rounds: int = 5
    """Timed rounds after one warm-up; medians are printed."""
    threads: int = 2
    """CPU threads."""
    variant: Literal["bare", "tap", "probe", "maps"] | None = None
    """Internal: run one variant and print its times and memory as JSON."""


def network_of(size: str) -> torch.nn.Module:
    torch.manual_seed(0)
    network = fresh_tiny(0).network if size == "tiny" else load_unet(None, SD21)
    return network.eval().requires_grad_(False)


def layers_of(network: torch.nn.Module, size: str) -> list:
    if size == "tiny":
        return select_layers(find_layers(network), "3d")
    with torch.device("meta"):
        twin = load_unet(None, SD21)
    return select_layers(find_layers(twin), "3d")


def keep_map(kept: list, call) -> None:
    kept.append(einsum(call.q * call.scale, call.k, "b heads q d, b heads k d -> b heads q k").softmax(-1))


def score_maps(kept: list, layers: list, scene: Scene) -> list:
    scores, views = [], scene.views.count
    for weights, layer in zip(kept, layers, strict=True):
        mean = rearrange(weights.mean(1), "b (fq n) (fk m) -> b 1 fq n fk m", fq=views, fk=views)
        truth = scene.truths[joint_layout(layer, views).grid]
        scores.append(precisions(mean.argmax(-1), truth.visible[:, None], truth, scene.thresholds))
    return scores


def forward(variant: str, model: MultiViewModel, layers: list, inputs: dict, scene: Scene) -> None:
    by_key, kept = {(layer.name, layer.nth): layer for layer in layers}, []

    def score(call) -> None:
        read = layer_call(call, by_key[call.name, call.nth], scene.views.count, model, 0)
        score_call(read, scene, PROTOCOLS["attention-v1"])

    listeners = {"tap": None, "probe": score, "maps": partial(keep_map, kept)}
    with torch.no_grad():
        if variant == "bare":
            model.network(**inputs)
        else:
            with AttentionTap(model.network, layers, on_call=listeners[variant]):
                model.network(**inputs)
        if variant == "maps":
            score_maps(kept, layers, scene)


def child(settings: Benchmark) -> None:
    """Run one variant, waiting for a line on stdin before each round so that the variants' rounds alternate."""
    torch.set_num_threads(settings.threads)
    network = network_of(settings.size)
    loaded = resident("VmRSS")
    layers = layers_of(network, settings.size)
    views, _ = open_scenes("shapes", Request(groups=4, views=settings.views, n_ref=1)).load(0)
    model = MultiViewModel(name="m", network=network, alpha_bar=torch.ones(1), size=1)
    inputs = network.probe_inputs(settings.views)
    inputs["latents"] = torch.randn(inputs["latents"].shape, generator=torch.Generator().manual_seed(0))
    scene = make_scene(views, layers, inputs["latents"])
    serve(lambda: forward(settings.variant or "bare", model, layers, inputs, scene), loaded)


def main(settings: Benchmark) -> None:
    """Start one process per variant, alternate their rounds, print ratios of medians."""
    arguments = [f"--{name}={getattr(settings, name)}" for name in ("size", "views", "threads")]
    processes, results = {}, {name: [] for name in VARIANTS}
    for name in VARIANTS if settings.size == "tiny" else VARIANTS[:1]:
        processes[name] = start(__file__, name, arguments)
    for _round in range(settings.rounds + 1):
        for name in VARIANTS:
            process = processes.get(name) or start(__file__, name, arguments)
            results[name].append(ask(process))
            if name not in processes:  # big models: one process in memory at a time beside the bare one
                results[name].extend(ask(process) for _ in range(settings.rounds))
                finish(process)
        if settings.size != "tiny":
            results["bare"].extend(ask(processes["bare"]) for _ in range(settings.rounds))
            break
    for process in processes.values():
        finish(process)
    report(settings, results)


def report(settings: Benchmark, results: dict) -> None:
    bare = [row["seconds"] for row in results["bare"][1:]]
    base = max(row["mib"] for row in results["bare"])
    print(f"{settings.size}, {settings.views} views, {settings.threads} threads, {len(bare)} rounds")
    print(f"{'variant':8} {'seconds':>9} {'ratio':>7} {'peak MiB':>9} {'ratio':>7}")
    for name, rows in results.items():
        seconds = [row["seconds"] for row in rows[1:]]
        ratio = statistics.median(s / b for s, b in zip(seconds, bare, strict=True))
        peak = max(row["mib"] for row in rows)
        print(f"{name:8} {statistics.median(seconds):9.3f} {ratio:7.2f} {peak:9.0f} {peak / base:7.2f}", flush=True)


if __name__ == "__main__":
    given = tyro.cli(Benchmark)
    child(given) if given.variant else main(given)
