"""Time that a tap adds to a forward of many tiny blocks, where its own cost shows: python benchmarks/tap_cost.py

Blocks of diffusers' Wan transformer with random weights; the variants alternate, round by round, in one process; times
are of the processor, ratios medians over the rounds. Variants: bare (no tap), one (one layer tapped), all (every
attention tapped by name, as find_layers lists them), kept (their q, k and v copied), whole (the model as one layer).
"""

import statistics
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import tyro

import probe.models  # noqa: F401  (before diffusers: probe/compat.py)
from probe.capture import AttentionTap


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Compare the variants."""

    blocks: int = 30
    """Blocks, each with a self-attention and a cross-attention."""
    rounds: int = 30
    """Timed rounds after one warm-up."""
    threads: int = 1
    """CPU threads."""
    heads: int = 2
    """Heads of 12 channels."""
    side: int = 8
    """Side of the latents; each of the two frames has a quarter of its square in tokens."""


def tiny_wan(blocks: int, heads: int) -> torch.nn.Module:
    from diffusers import WanTransformer3DModel

    torch.manual_seed(0)
    sizes = {"num_attention_heads": heads, "attention_head_dim": 12, "ffn_dim": 16, "text_dim": 8, "freq_dim": 8}
    return WanTransformer3DModel(num_layers=blocks, in_channels=3, out_channels=3, **sizes).eval()


def taps(network: torch.nn.Module) -> dict[str, AbstractContextManager]:
    names = [f"blocks.{block}.{name}" for block in range(len(network.blocks)) for name in ("attn1", "attn2")]
    return {
        "bare": nullcontext(),
        "one": AttentionTap(network, names[0]),
        "all": AttentionTap(network, names),
        "kept": AttentionTap(network, names, keep="detached"),
        "whole": AttentionTap(network, ""),
    }


def main(settings: Benchmark) -> None:
    """Print the median time of each variant, and its ratio to the bare forward's."""
    torch.set_num_threads(settings.threads)
    network = tiny_wan(settings.blocks, settings.heads)
    inputs = (torch.randn(1, 3, 2, settings.side, settings.side), torch.zeros(1), torch.randn(1, 6, 8))
    variants = taps(network)
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(settings.rounds + 1):
        for name, tap in variants.items():
            with torch.no_grad(), tap:
                started = time.process_time()
                network(*inputs)
                seconds[name].append(time.process_time() - started)
    print(f"{settings.blocks} blocks, {settings.threads} threads, {settings.rounds} rounds")
    for name, times in seconds.items():
        ratio = statistics.median(own / bare for own, bare in zip(times[1:], seconds["bare"][1:], strict=True))
        print(f"{name:5} {statistics.median(times[1:]) * 1000:7.1f} ms  ratio {ratio:.2f}")


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
