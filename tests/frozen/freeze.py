"""Freeze what the commands compute: ``python tests/frozen/freeze.py`` rewrites exact.json and portable.json.

``--compare FILE`` rewrites nothing: it writes to FILE what differs from them, which is what tests/test_frozen.py reads.
"""

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from differences import Digests, differences
from digests import digest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
EXACT, PORTABLE = HERE / "exact.json", HERE / "portable.json"
PACKAGES = ("torch", "numpy", "scipy", "pandas", "diffusers", "opencv-python-headless", "matplotlib", "tyro", "rich")
ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def fingerprint() -> dict[str, str]:
    """Tell what has to be the same for every bit to be the same: processor, torch's build, versions."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text("utf-8").splitlines() if cpu.is_file() else []
    models = sorted({line.partition(":")[2].strip() for line in lines if line.startswith(("model", "stepping"))})
    return {
        "processor": ", ".join(models) or platform.processor(),
        "python": platform.python_version(),
        "torch build": hashlib.sha256(torch.__config__.show().encode()).hexdigest()[:12],
        **{name: version(name) for name in PACKAGES},
    }


def measure() -> dict[str, Digests]:
    """Make all runs in a folder of their own, on one thread, and digest them."""
    with tempfile.TemporaryDirectory() as folder:
        settings = dict.fromkeys(ONE_THREAD, "1") | {
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "120",
            "CUDA_VISIBLE_DEVICES": "",
        }
        settings |= {"TORCH_HOME": "no-weights", "HF_HUB_OFFLINE": "1", "MPLBACKEND": "agg"}
        words = [sys.executable, str(HERE / "commands.py"), folder]
        done = subprocess.run(words, env={**os.environ, **settings}, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{done.stderr[-4000:]}\nfreeze: a command failed, see above")
        print("\n".join(line for line in done.stderr.splitlines() if " s of processor time: " in line))
        return digest(Path(folder))


def read(path: Path) -> dict[str, Any]:
    """Read a frozen file; nothing where there is none yet."""
    return dict(json.loads(path.read_text("utf-8"))) if path.is_file() else {"digests": {}}


def report() -> tuple[dict[str, Any], dict[str, Digests]]:
    """Measure, and compare with what is frozen.

    Returns:
        What differs, with the reason if bits cannot be compared here; and what was measured.
    """
    found, exact, here = measure(), read(EXACT), fingerprint()
    changed = {name: (exact.get("fingerprint", {}).get(name), value) for name, value in here.items()}
    other = [f"{name} was {was}, is {now}" for name, (was, now) in changed.items() if was != now]
    told = {
        "other machine": "; ".join(other),
        "exact": differences(exact["digests"], found["exact"], portable=False),
        "portable": differences(read(PORTABLE)["digests"], found["portable"], portable=True),
    }
    return told, found


def freeze() -> None:
    """Rewrite both files, and print what changed."""
    told, found = report()
    for kind in ("exact", "portable"):
        print(f"{kind}: {len(told[kind])} files changed")
        for run, words in told[kind]:
            print(f"  {run}: {words}")
    if told["other machine"]:
        print(f"another machine: {told['other machine']}")
    for path, content in (
        (EXACT, {"fingerprint": fingerprint(), "digests": found["exact"]}),
        (PORTABLE, {"digests": found["portable"]}),
    ):
        path.write_text(_lines(content) + "\n", "utf-8")


def _lines(value: Any, depth: int = 0) -> str:
    """Write JSON with a line per part of a file."""
    if not isinstance(value, dict) or not value or depth == 4:
        return json.dumps(value, ensure_ascii=False)
    inner = ",\n".join(
        f"{' ' * (depth + 1)}{json.dumps(str(name))}: {_lines(part, depth + 1)}" for name, part in value.items()
    )
    return f"{{\n{inner}\n{' ' * depth}}}"


def main() -> None:
    """Freeze, or compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compare", type=Path, help="file that takes what differs, as JSON; nothing is rewritten")
    asked = parser.parse_args()
    if asked.compare is None:
        freeze()
    else:
        asked.compare.write_text(json.dumps(report()[0], indent=1), "utf-8")


if __name__ == "__main__":
    main()
