"""Look at each of diffusers' networks, and keep the table: python -m benchmarks.networks [--only NAME] [--out FILE]"""

import time
from dataclasses import dataclass
from pathlib import Path

import diffusers
import pandas as pd
import torch
import tyro

from benchmarks.networks.measuring import ENTRIES, look


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Look at networks."""

    only: str = ""
    """Names of the table separated by commas; empty for all."""
    out: Path | None = None
    """CSV to write; left out, rows are printed alone."""


def main(asked: Benchmark) -> None:
    torch.set_num_threads(1)
    names = [word.strip() for word in asked.only.split(",")] if asked.only else list(ENTRIES)
    rows = []
    for name in names:
        started = time.perf_counter()
        row = look(name)
        rows.append(row)
        print(f"{time.perf_counter() - started:6.1f} s ", *(str(row[key]) for key in row), sep=" | ", flush=True)
    print(f"{len(rows)} networks of diffusers {diffusers.__version__}")
    if asked.out is not None:
        pd.DataFrame(rows).to_csv(asked.out, index=False, lineterminator="\n")


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
