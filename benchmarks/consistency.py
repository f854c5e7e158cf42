"""How often a study calls precision and quality connected that are not: python benchmarks/consistency.py

Studies are simulated: plain and supervised variants, runs of a seed that share some of their luck, and luck that lasts
over the steps of a run. Inside and outside both rise with training and with supervision, and are otherwise independent:
whatever is shown within plain runs or within each variant is wrong; what is shown across runs is the difference of
variants, and over all checkpoints training time.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from analysis.study.consistency import SCOPES, correlations
from probe.records import PSNR

VARIANTS = {"plain": "plain", "cameo": "supervised", "mean": "supervised"}


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Simulate studies and count what is shown."""

    studies: int = 300
    """Simulated studies of each row."""
    seeds: str = "5,8,16"
    """Numbers of seeds, separated by commas."""
    steps: int = 5
    """Checkpoints of each run."""
    lasting: float = 0.9
    """Share of a run's variance that lasts over its steps."""
    shared: float = 0.3
    """Share of that which the runs of a seed have in common."""
    supervision: str = "0,2"
    """By how much supervised runs are ahead in both, in standard deviations between runs, separated by commas."""


def simulate(generator: np.random.Generator, seeds: int, supervision: float, settings: Benchmark) -> pd.DataFrame:
    """Return points as of :func:`analysis.study.consistency.points`, of one layer and one metric."""
    variant, seed, step = (part.ravel() for part in np.meshgrid(list(VARIANTS), range(seeds), range(settings.steps),
                                                                indexing="ij"))  # fmt: skip
    ahead = supervision * (variant != "plain")
    inside, outside = (step + ahead + _luck(generator, seeds, settings) for _ in range(2))
    runs = pd.DataFrame({"variant": variant, "seed": seed, "step": step, "precision": inside, "value": outside})
    return runs.assign(role=runs["variant"].map(VARIANTS), inside="last", layer=12.0, metric=PSNR)


def _luck(generator: np.random.Generator, seeds: int, settings: Benchmark) -> np.ndarray:
    """Return what one quantity of all runs differs by, of variance 1."""
    lasting, shared = settings.lasting, settings.shared
    common, own = generator.normal(size=(1, seeds, 1)), generator.normal(size=(len(VARIANTS), seeds, 1))
    passing = generator.normal(size=(len(VARIANTS), seeds, settings.steps))
    run = shared**0.5 * common + (1 - shared) ** 0.5 * own
    return (lasting**0.5 * run + (1 - lasting) ** 0.5 * passing).ravel()


def measure(seeds: int, supervision: float, settings: Benchmark) -> dict[str, float]:
    """Return the share of studies that show a connection, on either side, by scope."""
    generator = np.random.default_rng(seeds)
    tables = [correlations(simulate(generator, seeds, supervision, settings)) for _ in range(settings.studies)]
    table = pd.concat(tables).assign(shown=lambda rows: (rows["low"] > 0) | (rows["high"] < 0))
    return {str(scope): float(share) for scope, share in table.groupby("scope")["shown"].mean().items()}


def main(settings: Benchmark) -> None:
    """Measure and print."""
    title = f"share of {settings.studies} studies that show a connection"
    table = Table(title=title, box=box.SIMPLE_HEAD)
    for head in ("seeds", "supervised ahead by", *(words for words, *_ in SCOPES.values())):
        table.add_column(head, justify="right")
    for seeds in map(int, settings.seeds.split(",")):
        for supervision in map(float, settings.supervision.split(",")):
            shown = measure(seeds, supervision, settings)
            table.add_row(str(seeds), f"{supervision:g}", *(f"{shown[scope]:.3f}" for scope in SCOPES))
    Console(width=140).print(table)


if __name__ == "__main__":
    main(tyro.cli(Benchmark, description=__doc__))
