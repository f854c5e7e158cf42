"""Coverage of the 95 % intervals and family-wise error of selection, before and now: python benchmarks/intervals.py

Before: the percentile bootstrap over scenes, each layer alone. Truth is known, since units are drawn from populations:
the 16 scenes of a bare run (hits and counted points of ``cat3d-tiny``, all timesteps, drawn with replacement), and
beta-binomial units with shares near 0 and 1.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import tyro

from probe.records.intervals import against_all, joint_widening, ratios

COUNTS = (1750, 1145, 1310, 745, 1920, 1515, 825, 940, 2010, 1710, 835, 740, 1895, 1425, 1120, 620)
COARSE = (440, 300, 335, 205, 490, 380, 230, 235, 530, 420, 215, 160, 475, 360, 280, 140)
BARE_RUN = {
    "layer 12": ((1062, 384, 476, 120, 635, 817, 172, 216, 1437, 1071, 193, 101, 1298, 592, 252, 69), COUNTS),
    "layer 10": ((26, 15, 25, 0, 0, 23, 25, 0, 15, 4, 3, 14, 38, 22, 5, 12), COUNTS),
    "layer 2": ((8, 5, 57, 0, 20, 10, 19, 0, 10, 0, 20, 0, 24, 22, 8, 0), COUNTS),
    "layer 8": ((5, 5, 5, 0, 0, 0, 0, 0, 10, 0, 0, 0, 5, 0, 5, 0), COARSE),
}
"""Hits and counts of each scene of the bare run at commit 774816b."""
BETA = ((0.5, 0.1), (0.37, 0.2), (0.05, 0.05), (0.01, 0.01), (0.97, 0.05), (0.99, 0.02))
HARD = ((0.95, 0.2), (0.02, 0.1), (0.1, 0.3))
"""Share and intraclass correlation of beta-binomial units of 60 to 500 points; hard ones are printed, not tested."""
SAME_POSITION = (0.1, 0.035, 0.01, 0.003)
"""Precision of the same position by rotation bin."""
LAYERS = 11
RESAMPLES = 1000
Ends = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A population of units: how to draw from it, and its share."""

    draw: Callable[[np.random.Generator, tuple[int, int]], tuple[np.ndarray, np.ndarray]]
    share: float


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Print the tables."""

    runs: int = 4000
    """Simulated runs of each shape and number of units."""
    family_runs: int = 500
    """Simulated probe runs of 11 layers."""


def shapes(*, hard: bool = False) -> dict[str, Shape]:
    """Return the populations by name; with the hard ones if ``hard``."""
    bare = {name: _observed(np.array(hits, float), np.array(of, float)) for name, (hits, of) in BARE_RUN.items()}
    return bare | {f"beta {share:g}, {rho:g}": _beta(share, rho) for share, rho in BETA + HARD * hard}


def _observed(hits: np.ndarray, counts: np.ndarray) -> Shape:
    def draw(generator: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        chosen = generator.integers(0, len(hits), shape)
        return hits[chosen], counts[chosen]

    return Shape(draw=draw, share=hits.sum() / counts.sum())


def _beta(share: float, rho: float) -> Shape:
    def draw(generator: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        counts = generator.integers(60, 500, shape)
        rate = generator.beta(share * (1 / rho - 1), (1 - share) * (1 / rho - 1), shape)
        return generator.binomial(counts, rate).astype(float), counts.astype(float)

    return Shape(draw=draw, share=share)


# --- coverage --------------------------------------------------------------------------------------------------------


def jackknife(hits: np.ndarray, counts: np.ndarray) -> Ends:
    """Return the interval of each column as it is now."""
    found = ratios(hits, counts)
    return found.low, found.high


def coverage(
    shape: Shape, *, units: int, runs: int, ends: Callable[[np.ndarray, np.ndarray], Ends] = jackknife
) -> float:
    """Return the share of simulated runs whose interval holds the population's share."""
    low, high = ends(*shape.draw(np.random.default_rng(units), (units, runs)))
    return float(((low <= shape.share) & (shape.share <= high)).mean())


def bootstrap(hits: np.ndarray, counts: np.ndarray) -> Ends:
    """Return the percentile bootstrap's interval of the ratio of sums of each column: what there was before."""
    picks = np.random.default_rng(0).integers(0, len(hits), (RESAMPLES, len(hits)))
    times = np.stack([np.bincount(pick, minlength=len(hits)) for pick in picks]).astype(float)
    ends = [
        np.quantile(times @ hits[:, part] / (times @ counts[:, part]), (0.025, 0.975), axis=0)
        for part in np.array_split(np.arange(hits.shape[1]), max(1, hits.shape[1] // 500))
    ]
    low, high = np.concatenate(ends, axis=1)
    return low, high


# --- many layers -----------------------------------------------------------------------------------------------------


def family_error(*, units: int, runs: int) -> dict[str, float]:
    """Return how often equal layers are told apart: chosen above chance, ahead of all, or one called worse."""
    generator = np.random.default_rng(units)
    at_chance = [_claims(_layers(generator, units, 0.01, 0.01), 0.01) for _ in range(runs)]
    higher = [_claims(_layers(generator, units, 0.3, 0.1), 0.3) for _ in range(runs)]
    return {
        f"{what}, share {share:g}": float(np.mean([claim[what] for claim in claims]))
        for share, claims in ((0.01, at_chance), (0.3, higher))
        for what in ("above chance", "ahead of every other", "worse than the best")
    }


def above_same_position(*, units: int, runs: int, rho: float) -> float:
    """Return how often one of 11 layers is called above a same position that differs between rotation bins.

    All have the mean of the same position, .037, in every bin.
    """
    generator, share = np.random.default_rng(units), float(np.mean(SAME_POSITION))
    found = []
    for _ in range(runs):
        of_bin = np.array(SAME_POSITION)[np.arange(units) % len(SAME_POSITION)]
        rate = generator.beta(of_bin * (1 / rho - 1), (1 - of_bin) * (1 / rho - 1))
        counts = np.full((units, LAYERS), 1000.0)  # equal, so that the mean over bins is that over points
        own = generator.beta(share * 49, (1 - share) * 49, counts.shape)
        hits = generator.binomial(1000, own).astype(float)
        still = generator.binomial(1000, rate).astype(float)[:, None]
        ahead = ratios(hits, counts).ahead_of(ratios(np.repeat(still, LAYERS, axis=1), counts))
        found.append((ahead.widened(joint_widening(ahead))[0] > 0).any())
    return float(np.mean(found))


def power(*, units: int, share: float, runs: int) -> dict[str, float]:
    """Return how often one layer with a real share among ten at chance (.01) is found."""
    generator = np.random.default_rng(units)
    found = []
    for _ in range(runs):
        hits, counts = _layers(generator, units, 0.01, 0.02)
        rate = generator.beta(9 * share, 9 * (1 - share), units)  # as wide as layer 12 of a bare run
        hits[:, 0] = generator.binomial(counts[:, 0].astype(int), rate)
        found.append(_claims((hits, counts), 0.01, asked=0))
    return {what: float(np.mean([claim[what] for claim in found])) for what in ("above chance", "ahead of every other")}


def _layers(generator: np.random.Generator, units: int, share: float, rho: float) -> tuple[np.ndarray, np.ndarray]:
    """Draw hits and counts of layers that share some of each scene's difficulty."""
    alpha, rest = share * (1 / rho - 1), (1 - share) * (1 / rho - 1)
    own, common = generator.beta(alpha, rest, (units, LAYERS)), generator.beta(alpha, rest, (units, 1))
    counts = np.repeat(generator.integers(150, 2000, (units, 1)), LAYERS, axis=1)
    return generator.binomial(counts, (own + common) / 2).astype(float), counts.astype(float)


def _claims(drawn: tuple[np.ndarray, np.ndarray], chance: float, asked: int | None = None) -> dict[str, bool]:
    """Return what a selection would claim; of one layer where it is named, else of any."""
    layers = ratios(*drawn)
    ahead = layers.ahead_of(ratios(chance * drawn[1], drawn[1]))
    above = ahead.widened(joint_widening(ahead))[0] > 0
    worse = against_all(layers, int(np.nanargmax(layers.value)) if asked is None else asked).low > 0
    return {
        "above chance": bool(above.any() if asked is None else above[asked]),
        "ahead of every other": bool(worse.sum() == LAYERS - 1),
        "worse than the best": bool(worse.any()),
    }


def before(*, units: int, runs: int) -> dict[str, float]:
    """Return how often equal layers were told apart by bootstrap intervals, each layer alone."""
    generator = np.random.default_rng(units)
    above, worse = [], []
    for _ in range(runs):
        hits, counts = _layers(generator, units, 0.01, 0.01)
        above.append((bootstrap(hits, counts)[0] > 0.01).any())
        hits, counts = _layers(generator, units, 0.3, 0.1)
        best = int(np.argmax(hits.sum(0) / counts.sum(0)))
        worse.append((bootstrap(hits[:, [best]] - hits, counts)[0] > 0).any())
    return {"above chance, share 0.01": float(np.mean(above)), "worse than the best, share 0.3": float(np.mean(worse))}


# --- printing --------------------------------------------------------------------------------------------------------


def coverage_rows(runs: int) -> Iterator[str]:
    """Lay out coverage as rows of a Markdown table: before / now."""
    sizes = (5, 8, 16, 32)
    yield "| population | share | " + " | ".join(f"{size} units" for size in sizes) + " |"
    yield "|" + "---|" * (len(sizes) + 2)
    for name, shape in shapes(hard=True).items():
        cells = [
            " / ".join(f"{coverage(shape, units=size, runs=runs, ends=ends):.3f}" for ends in (bootstrap, jackknife))
            for size in sizes
        ]
        yield f"| {name} | {shape.share:.3f} | " + " | ".join(cells) + " |"


def main(benchmark: Benchmark) -> None:
    print(f"coverage of 95 %, percentile bootstrap / now ({benchmark.runs} runs):")
    print(*coverage_rows(benchmark.runs), sep="\n", flush=True)
    for units in (5, 8, 16):
        runs = benchmark.family_runs
        print(f"{units} units, 11 equal layers, before: {before(units=units, runs=runs)}")
        print(f"{units} units, 11 equal layers, now: {family_error(units=units, runs=runs)}", flush=True)
        for rho in (0.1, 0.2):
            error = above_same_position(units=units, runs=runs, rho=rho)
            print(f"{units} units, same position that differs by bin ({rho}): some layer above {error}", flush=True)
        for share in (0.1, 0.2, 0.4):
            print(f"{units} units, one layer of {share}: {power(units=units, share=share, runs=runs // 2)}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
