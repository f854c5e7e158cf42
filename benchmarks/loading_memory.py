"""Measure the peak memory of loading a full-size checkpoint, as a multiple of its file: a process of its own each."""

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from probe.models import load_model
from probe.models.cat3d import SD21, load_unet
from probe.models.parts.files import Loading
from probe.models.parts.latents import RANDOM

KIB = 1024


def main() -> None:
    """Write random weights of the full size as .safetensors and as a DeepSpeed .pt, load each, print the ratios."""
    with tempfile.TemporaryDirectory() as folder:
        weights = {name: weight.contiguous() for name, weight in load_unet(None, SD21).state_dict().items()}
        save_file(weights, Path(folder) / "unet.safetensors")
        torch.save({"module": {f"unet.{name}": weight for name, weight in weights.items()}}, Path(folder) / "unet.pt")
        del weights
        idle = _peak("idle")
        for name in ("unet.safetensors", "unet.pt"):
            size = (Path(folder) / name).stat().st_size
            taken = _peak(str(Path(folder) / name)) - idle
            print(
                f"{name}: {size / 2**20:.0f} MiB, peak {taken / 2**20:.0f} MiB above the imports, {taken / size:.2f} x"
            )


def _peak(source: str) -> int:
    done = subprocess.run([sys.executable, __file__, source], capture_output=True, text=True, check=True)
    return int(done.stdout)


def load_once(source: str) -> None:
    """Load a file as ``--model cat3d:FILE --base random`` does, read every weight, print this process's peak in bytes.

    A file that is mapped into memory takes none of it until it is read.
    """
    if source != "idle":
        model = load_model(f"cat3d:{source}", Loading(base=RANDOM))
        assert all(weight.sum().isfinite() for weight in model.network.state_dict().values())
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(int(peak.split()[1]) * KIB)


if __name__ == "__main__":
    load_once(sys.argv[1]) if len(sys.argv) > 1 else main()
