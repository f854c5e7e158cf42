"""Correspondence emerges while a model trains on nothing but images, and image quality with it."""

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from analysis.blocks import Section
from analysis.study.claims import figures
from analysis.study.claims.claim import NOT_SHOWN, SHOWN, Claim, judge, together
from analysis.study.claims.parts import Parts
from analysis.study.details import bands, study_chart
from analysis.study.run import StudyRun
from analysis.study.seeds import LEAST_SEEDS, half_interval
from analysis.study.words import panel_title, title
from analysis.words import NBSP, listing, number, percent, plural
from probe.records import MATCH_ERROR, PRECISION, PSNR, better, split_layer
from probe.records.intervals import Interval
from probe.records.names import PLAIN

LEAST_CHECKPOINTS = 3
"""Checkpoints that a rank correlation needs at least."""
COLOURED = 3


def emergence_claim(run: StudyRun, parts: Parts) -> Claim | None:
    """Draw precision of every layer of the plain runs, and the best layer's against quality."""
    table, rows = _over_steps(run), _by_seed(run)
    if rows.empty:
        return None
    last = table[table["step"] == table["step"].max()].sort_values("value", ascending=False)
    order = [int(layer) for layer in last["layer"]]
    best, chance = order[0], parts.chance.set_index("layer")["chance"]
    metric = MATCH_ERROR if MATCH_ERROR in run.metrics else PSNR
    points = _points(run, rows, best, metric)
    above, tested = _above(rows, chance)
    correlation, correlated = _correlation(points, metric)
    svg = figures.emergence(
        table, points, highlighted=order[:COLOURED], chance=float(chance.get(best, np.nan)),
        titles=("precision of every 3D layer, plain training", "the best layer against quality"),
        ylabel=panel_title(metric),
        alt="Precision of layers over steps of plain training; at the end: "
        + "; ".join(f"layer {row.layer}: {percent(row.value)}" for row in last.itertuples()),
    )  # fmt: skip
    caption = (
        f"Left: means over the plain runs; {bands(run)} Dotted: a uniform guess on layer {best}'s grid. Right: each "
        "mark is a checkpoint of a plain run, later ones darker. Both quantities change with training, so this shows "
        "that they come together, not that one causes the other."
    )
    sentence = f"{_emerged(rows, table, above, tested, best)} {_goes_with(correlation, correlated, metric, points)}"
    verdicts = [SHOWN if above else NOT_SHOWN, judge(correlation.low, correlation.high)]
    return Claim(
        verdict=together(verdicts),
        number=f"rank correlation {_number(correlation)}" if correlated else f"{len(above)} of {tested} layers",
        section=Section(
            name="emergence",
            title="Correspondence emerges, and quality with it",
            claim=sentence.strip(),
            charts=(study_chart(run, "emergence", svg, caption, table),),
        ),
    )


def _by_seed(run: StudyRun) -> pd.DataFrame:
    """Return the precision of every layer of each plain run: columns layer, seed, step, value."""
    rows = run.study[(run.study["variant"] == PLAIN) & run.study["value"].notna()]
    parts = rows["metric"].map(split_layer)
    rows = rows.assign(layer=parts.str[1])[parts.str[0] == PRECISION]
    return rows.astype({"layer": int})[["layer", "seed", "step", "value"]].sort_values(["layer", "seed", "step"])


def _over_steps(run: StudyRun) -> pd.DataFrame:
    rows = run.summary[(run.summary["variant"] == PLAIN) & run.summary["mean"].notna()]
    parts = rows["metric"].map(split_layer)
    rows = rows.assign(layer=parts.str[1])[parts.str[0] == PRECISION].rename(columns={"mean": "value"})
    return rows.astype({"layer": int})[["layer", "step", "value", "low", "high"]].sort_values(["layer", "step"])


def _above(rows: pd.DataFrame, chance: pd.Series) -> tuple[list[int], int]:
    """Return the layers that end above a uniform guess, by intervals for all layers at once, and how many there are.

    Without a known guess, the first checkpoint stands in its place.
    """
    layers = sorted(rows["layer"].unique())
    above = []
    for layer in layers:
        runs = [part.sort_values("step")["value"] for _, part in rows[rows["layer"] == layer].groupby("seed")]
        gains = pd.Series([part.iloc[-1] - chance.get(layer, part.iloc[0]) for part in runs])
        if gains.mean() > half_interval(gains.std(), len(gains), len(layers)):
            above.append(int(layer))
    return above, len(layers)


def _points(run: StudyRun, rows: pd.DataFrame, layer: int, metric: str) -> pd.DataFrame:
    """Pair the layer's precision with quality at each checkpoint: columns seed, step, precision, quality."""
    wanted = (run.study["variant"] == PLAIN) & (run.study["metric"] == metric) & run.study["value"].notna()
    quality = run.study.loc[wanted, ["seed", "step", "value"]].rename(columns={"value": "quality"})
    own = rows.loc[rows["layer"] == layer, ["seed", "step", "value"]].rename(columns={"value": "precision"})
    return own.merge(quality, on=["seed", "step"]).sort_values(["seed", "step"], ignore_index=True)


def _correlation(points: pd.DataFrame, metric: str) -> tuple[Interval, int]:
    """Return the mean of Spearman's correlations within seeds with its interval over seeds, and how many seeds.

    Positive where more precision goes with better quality. Few checkpoints make equal correlations likely, so their
    spread counts for no less than that of unrelated ranks, 1 / sqrt(checkpoints - 1).
    """
    each = [part[["precision", "quality"]] for _, part in points.groupby("seed") if len(part) >= LEAST_CHECKPOINTS]
    varying = [part for part in each if (part.max() > part.min()).all()]
    sign = better(metric)
    found = pd.Series([sign * spearmanr(part["precision"], part["quality"]).statistic for part in varying], dtype=float)
    luck = np.sqrt(np.mean([1 / (len(part) - 1) for part in varying])) if varying else np.nan
    mean, half = float(found.mean()), float(half_interval(np.fmax(found.std(), luck), len(found)))
    return Interval(mean, float(np.maximum(mean - half, -1)), float(np.minimum(mean + half, 1))), len(found)


def _number(found: Interval) -> str:
    text = f"{found.estimate:.2f}"
    spread = f" ({found.low:.2f} to {found.high:.2f})" if np.isfinite(found.low) else ""
    return (text + spread).replace("-", "−")


def _emerged(rows: pd.DataFrame, table: pd.DataFrame, above: list[int], tested: int, best: int) -> str:
    seeds = rows["seed"].nunique()
    own = table[table["layer"] == best]
    course = (
        f"layer {best} goes from {percent(own['value'].iloc[0])} at step {number(own['step'].iloc[0])} to "
        f"{percent(own['value'].iloc[-1])} at step {number(own['step'].iloc[-1])}"
    )
    if seeds < LEAST_SEEDS:
        return f"In plain training {course}; {plural(seeds, 'seed')} cannot separate that from chance."
    if not above:
        return f"In plain training no 3D layer is shown to end above a uniform guess ({seeds} seeds); {course}."
    which = f"{len(above)} of {tested} 3D layers end above a uniform guess ({listing(above)})"
    return (
        f"In plain training {which}, by 95{NBSP}% intervals over {seeds} seeds for all layers at once; the best, "
        f"{course}."
    )


def _goes_with(found: Interval, seeds: int, metric: str, points: pd.DataFrame) -> str:
    if not seeds:
        return ""
    count = f"{plural(seeds, 'seed')}, {number(len(points) / max(points['seed'].nunique(), 1))} checkpoints each"
    measured = f"{_number(found)}, Student's t over {count}" if np.isfinite(found.low) else f"{_number(found)}, {count}"
    what = f"with better quality ({title(metric)})"
    verdict = judge(found.low, found.high)
    if verdict == SHOWN:
        return f"Its precision comes {what}: rank correlation over checkpoints {measured}."
    if verdict == NOT_SHOWN:
        return f"That its precision comes {what} is not shown: rank correlation over checkpoints {measured}."
    return f"Its precision comes with worse quality ({title(metric)}): rank correlation over checkpoints {measured}."
