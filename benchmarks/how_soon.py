"""How often a study calls a variant sooner than plain, before and after 2026-11-26: python benchmarks/how_soon.py

Studies are simulated: plain and one variant, a few seeds, a few metrics, noisy learning curves. A variant of speed 1 is
identical to plain, so whatever is said of it is wrong; one of speed 2 truly takes half the steps. "Before" is the rule
that stood on the page until then: a mean over the seeds that reach plain's last value, each metric for itself, and
"half the steps" by that mean alone.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from analysis.study.run import StudyRun
from analysis.study.seeds import average_seeds, first_reach, half_interval, reach_table
from analysis.study.soon import CLAIM, how_soon, in_half

PLAIN, VARIANT = "plain", "variant"
SHAPES = {"rising": 3.0, "saturated": 12.0, "flat": None}
"""How fast curves bend: 1 - exp(-bend * share of the steps); flat ones are noise alone."""
METRICS = ("loss", "loss_t900", "psnr", "ssim", "match_error", "precision_12")
LOWER = ("loss", "loss_t900", "match_error")


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Simulate studies and count what is said."""

    studies: int = 200
    """Simulated studies of each row."""
    seeds: str = "3,5"
    """Numbers of seeds, separated by commas."""
    speeds: str = "1,2,4"
    """Of the variant; 1 is identical to plain."""
    evaluations: int = 8
    """Of each run."""
    noise: float = 0.05
    """Standard deviation between evaluations of one run; curves rise by about 1. Half of its variance is shared by the
    metrics."""
    luck: float = 0.05
    """Standard deviation between runs, the same at all evaluations of one."""


@dataclass(frozen=True, kw_only=True)
class Said:
    """Shares of studies in which something is said of at least one metric, and the mean ratio.

    Attributes:
        sooner: "sooner" than plain.
        later: "later" than plain; NaN where that is not known.
        half: "in half the steps".
        ratio: What is printed as the share of the steps (before) or as steps over plain's (after); mean of all.
    """

    sooner: float
    later: float
    half: float
    ratio: float


def simulate(generator: np.random.Generator, shape: str, seeds: int, speed: float, settings: Benchmark) -> pd.DataFrame:
    """Return a study: columns variant, seed, step, metric, value."""
    share = np.arange(1, settings.evaluations + 1) / settings.evaluations
    rows = []
    for variant, pace in ((PLAIN, 1.0), (VARIANT, speed)):
        for seed in range(seeds):
            bend = SHAPES[shape]
            rise = np.zeros_like(share) if bend is None else 1 - np.exp(-bend * pace * share)
            common = generator.normal(size=settings.evaluations)
            for metric in METRICS:
                own = generator.normal(size=settings.evaluations)
                value = rise + settings.noise * 0.5**0.5 * (common + own) + settings.luck * generator.normal()
                sign = -1 if metric in LOWER else 1
                rows.append(pd.DataFrame({"variant": variant, "seed": seed, "step": np.arange(1, len(share) + 1),
                                          "metric": metric, "value": sign * value}))  # fmt: skip
    return pd.concat(rows, ignore_index=True)


def after(study: pd.DataFrame) -> tuple[bool, bool, bool, float]:
    """Return whether any metric is said to be sooner, later, in half the steps now; and the mean ratio."""
    run = StudyRun(
        name="simulated", settings={}, environment={}, study=study, summary=average_seeds(study),
        reach=reach_table(study), variants=pd.DataFrame({"variant": [PLAIN, VARIANT]}), seconds=pd.DataFrame(),
    )  # fmt: skip
    table = how_soon(run)
    half = any(in_half(row) for row in table.itertuples())
    said = [bool((table["verdict"] == verdict).any()) for verdict in ("sooner", "later")]
    return *said, half, float(np.exp(np.log(table["ratio"]).mean()))


def before(study: pd.DataFrame) -> tuple[bool, bool, bool, float]:
    """Return the same by the former rule; of a study in which nothing is reached the mean is NaN."""
    sooner, later, half, ratios = False, False, False, []
    for metric, part in study.groupby("metric", sort=False):
        curves = part.pivot_table(index="step", columns=["variant", "seed"], values="value")
        steps, higher = curves.index.to_numpy(dtype=float), metric not in LOWER
        goals = curves[PLAIN].iloc[-1]
        at = {
            name: np.array([
                first_reach(steps, curves[name][seed].to_numpy(), float(goals[seed]), higher=higher)[0]
                for seed in goals.index
            ]) / steps[-1]
            for name in (PLAIN, VARIANT)
        }  # fmt: skip
        lead = at[PLAIN] - at[VARIANT]
        margin = float(half_interval(lead.std(ddof=1), len(lead)))
        ratio = float(np.nanmean(at[VARIANT])) if np.isfinite(at[VARIANT]).any() else np.nan
        sooner |= bool(lead.mean() > margin)  # NaN if one seed is never there
        later |= bool(lead.mean() < -margin)
        half |= bool(ratio <= CLAIM and np.isfinite(at[VARIANT]).all())
        ratios.append(ratio)
    return sooner, later, half, float(np.mean([ratio for ratio in ratios if np.isfinite(ratio)] or [np.nan]))


def measure(shape: str, seeds: int, speed: float, settings: Benchmark) -> tuple[Said, Said]:
    """Return what is said before and after, over the same simulated studies."""
    generator = np.random.default_rng(seeds)
    studies = [simulate(generator, shape, seeds, speed, settings) for _ in range(settings.studies)]
    means = (np.nanmean(np.array([rule(study) for study in studies], dtype=float), axis=0) for rule in (before, after))
    first, second = (Said(sooner=row[0], later=row[1], half=row[2], ratio=row[3]) for row in means)
    return first, second


def main(settings: Benchmark) -> None:
    """Measure and print."""
    title = f"share of {settings.studies} studies that say so of at least one of {len(METRICS)} metrics"
    table = Table(title=title, box=box.SIMPLE_HEAD)
    heads = ("curves", "seeds", "speed", "sooner before", "after", "half before", "after", "later before", "after",
             "ratio before", "after")  # fmt: skip
    for head in heads:
        table.add_column(head, justify="right")
    for shape in SHAPES:
        for seeds in map(int, settings.seeds.split(",")):
            for speed in map(float, settings.speeds.split(",")):
                if SHAPES[shape] is None and speed != 1:
                    continue  # what learns nothing is not sooner
                old, new = measure(shape, seeds, speed, settings)
                pairs = [f"{getattr(one, name):.3f}" for name in ("sooner", "half", "later") for one in (old, new)]
                table.add_row(shape, str(seeds), f"{speed:g}", *pairs, f"{old.ratio:.2f}", f"{new.ratio:.2f}")
    Console(width=140).print(table)


if __name__ == "__main__":
    main(tyro.cli(Benchmark, description=__doc__))
