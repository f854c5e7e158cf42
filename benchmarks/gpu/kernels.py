"""Attention kernels as they run on a GPU, tapped: python -m benchmarks.gpu.kernels --out kernels.csv

For each kernel, data type and kind of mask: whether the output is the same bit for bit with the tap open, and how far
the softmax of what the tap recorded, times the values, is from what the kernel returned (largest difference over the
largest value). A kernel that is not installed, or does not take the case, is a row with the reason.
"""

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import tyro
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention import flex_attention as flex

from probe.attention.masks import logit_bias
from probe.capture import AttentionTap

BATCH, HEADS, TOKENS, CHANNELS = 2, 4, 256, 64
TYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
compiled_flex = torch.compile(flex.flex_attention)
"""Held by a name of the module, as models hold it."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Check the kernels."""

    out: Path = Path("kernels.csv")
    """Table to write."""
    device: str = "cuda"
    """Device."""


class Layer(nn.Module):
    """One attention call on tensors of [b heads n d]."""

    def __init__(self, attend: Attend) -> None:
        super().__init__()
        self.attend = attend

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.attend(q, k, v)


class Network(nn.Module):
    """A network of one layer."""

    def __init__(self, attend: Attend) -> None:
        super().__init__()
        self.layer = Layer(attend)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.layer(q, k, v)


def torch_kernels(device: str) -> Iterator[tuple[str, str, Attend]]:
    """Yield PyTorch's own kernels: backend, kind of mask, call."""
    allowed = torch.rand(1, 1, TOKENS, TOKENS, device=device) > 0.3
    allowed |= torch.eye(TOKENS, dtype=torch.bool, device=device)
    for name in ("MATH", "EFFICIENT_ATTENTION", "FLASH_ATTENTION", "CUDNN_ATTENTION"):
        backend = getattr(SDPBackend, name)

        def within(*parts: Tensor, backend: SDPBackend = backend, **more: Any) -> Tensor:
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(*parts, **more)

        yield f"sdpa {name}", "none", within
        yield f"sdpa {name}", "causal", lambda *x, call=within: call(*x, is_causal=True)
        yield f"sdpa {name}", "boolean", lambda *x, call=within: call(*x, attn_mask=allowed)
        yield f"sdpa {name}", "gqa", lambda q, k, v, call=within: call(q, k[:, :2], v[:, :2], enable_gqa=True)


def flex_kernels(device: str) -> Iterator[tuple[str, str, Attend]]:
    """Yield flex_attention, eager and compiled."""

    def views(b: Any, h: Any, q: Tensor, k: Tensor) -> Tensor:
        return q // 64 >= k // 64

    block = flex.create_block_mask(views, None, None, TOKENS, TOKENS, device=device)
    yield "flex eager", "none", lambda *x: flex.flex_attention(*x)
    yield "flex eager", "block-causal", lambda *x: flex.flex_attention(*x, block_mask=block)
    yield "flex compiled", "none", lambda *x: compiled_flex(*x)
    yield "flex compiled", "block-causal", lambda *x: compiled_flex(*x, block_mask=block)


def packages(device: str) -> Iterator[tuple[str, str, Attend]]:
    """Yield the kernels of packages; what is not installed raises when it is called."""

    def xformers(q: Tensor, k: Tensor, v: Tensor, bias: Callable[[Any], Any] = lambda ops: None) -> Tensor:
        ops = importlib.import_module("xformers.ops")
        parts = (x.transpose(1, 2) for x in (q, k, v))
        return ops.memory_efficient_attention(*parts, attn_bias=bias(ops)).transpose(1, 2)

    def sage(q: Tensor, k: Tensor, v: Tensor, **more: Any) -> Tensor:
        return importlib.import_module("sageattention").sageattn(q, k, v, **more)

    def flash(q: Tensor, k: Tensor, v: Tensor, module: str) -> Tensor:
        call = importlib.import_module(module).flash_attn_func
        out = call(*(x.transpose(1, 2) for x in (q, k, v)))
        return (out[0] if isinstance(out, tuple) else out).transpose(1, 2)

    yield "xformers", "none", xformers
    yield "xformers", "causal", lambda *x: xformers(*x, bias=lambda ops: ops.LowerTriangularMask())
    yield "sageattention 1", "none", sage
    yield "sageattention 1", "causal", lambda *x: sage(*x, is_causal=True)
    for name in ("flash_attn", "flash_attn_interface", "flash_attn.cute"):
        yield name, "none", lambda *x, name=name: flash(*x, module=name)


def recorded_output(call: Any) -> Tensor:
    """Return the attention that a record says, in double precision."""
    q, k, v = (x.double() for x in (call.q, call.k_per_head, call.v_per_head))
    logits = q @ k.mT * call.scale
    bias = logit_bias(call)
    return (logits if bias is None else logits + bias.double()).softmax(-1) @ v


def check(attend: Attend, dtype: torch.dtype, device: str) -> dict[str, object]:
    """Run one kernel with and without a tap, and compare."""
    generator = torch.Generator(device).manual_seed(0)
    shape = (3, BATCH, HEADS, TOKENS, CHANNELS)
    q, k, v = torch.randn(shape, generator=generator, device=device).to(dtype)
    network = Network(attend)
    bare = network(q.clone(), k.clone(), v.clone())  # some kernels write into their inputs
    with AttentionTap(network, "layer", keep="detached") as tap:
        tapped = network(q.clone(), k.clone(), v.clone())
    with AttentionTap(network, "layer", edit=lambda call, run: torch.zeros_like(call.q)):
        edited = network(q.clone(), k.clone(), v.clone())
    call = tap["layer"]
    exact = recorded_output(call)
    return {
        "bits equal": torch.equal(bare, tapped),
        "error": float((exact - tapped.double()).abs().max() / exact.abs().max()),
        "edit reaches": bool((edited == 0).all()),
        "kernel": call.kernel,
    }


def main(settings: Settings) -> None:
    """Check every kernel, and write and print the table."""
    torch._dynamo.config.recompile_limit = 64  # one function, compiled for every case
    rows = []
    for source in (torch_kernels, flex_kernels, packages):
        for name, mask, attend in source(settings.device):
            for words, dtype in TYPES.items():
                row: dict[str, object] = {"name": name, "mask": mask, "type": words}
                try:
                    row |= check(attend, dtype, settings.device)
                except Exception as error:  # a table of what runs and what does not
                    row["reason"] = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
                rows.append(row)
    table = pd.DataFrame(rows)
    table.to_csv(settings.out, index=False)
    print(table.to_csv(index=False, float_format="%.1e"))


if __name__ == "__main__":
    main(tyro.cli(Settings))
