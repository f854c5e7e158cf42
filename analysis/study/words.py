"""A study in words: what was compared, what helped, how soon, and the limits of the numbers. Pure."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from analysis import paper
from analysis.study import tables
from analysis.study.run import StudyRun
from analysis.study.seeds import LEAST_SEEDS, PLAIN
from analysis.words import MISSING, NBSP, listing, number, percent, plural, points
from probe.records import HIGH_NOISE, IMAGE_METRICS, PSNR, TRIVIAL, better, describe, split_layer, trivial_column

REACH_VERDICTS = {
    "sooner": "clearly sooner than plain itself", "later": "clearly later than plain itself",
    "not separable": "not separable from plain itself", "too few seeds": "too few seeds to tell",
    "not by every seed": "but by {reached} of {seeds} seeds only",
}  # fmt: skip
CLAIM = 0.5
"""The paper's claim: CAMEO needs half the steps."""


def title(metric: str) -> str:
    """Return a metric's name for readers: "PSNR", "precision of layer 12"."""
    base, layer = split_layer(metric)
    return describe(base).title + ("" if layer is None else f" of layer {layer}")


def panel_title(metric: str) -> str:
    """Return a metric's name with its unit and which way it is better."""
    return replace(describe(metric), title=title(metric)).heading


def is_share(metric: str) -> bool:
    """Return whether a metric is a fraction that is written in percent."""
    return describe(metric).share


def value_text(metric: str, value: Any) -> str:
    """Write a metric's value with enough digits to tell variants apart; a dash where it is missing."""
    if value is None or not np.isfinite(value):
        return MISSING
    return percent(value) if is_share(metric) else f"{value:.{describe(metric).decimals}f}"


def difference_text(metric: str, value: Any) -> str:
    """Write a difference of a metric's values with its sign; a dash where it is missing."""
    if value is None or not np.isfinite(value):
        return MISSING
    if is_share(metric):
        return points(value)
    return f"{value:+.{describe(metric).decimals}f}".replace("-", "−")


def with_half(metric: str, row: Any) -> str:
    """Write a mean with half of its interval: "10.9 ± 0.2"; without one below three seeds."""
    text = value_text(metric, row.value)
    half = row.high - row.value if np.isfinite(row.high) else np.nan
    if not np.isfinite(half):
        return text
    return f"{text} ± {value_text(metric, half)}"


def source(run: StudyRun) -> str:
    """Return what a study's figures are based on: seeds, scenes, sampling steps."""
    scenes, steps = run.settings.get("evaluate_scenes", MISSING), run.settings.get("sampling_steps", MISSING)
    return (
        f"{_seed_words(run)}, evaluated on the same {scenes} held-out scenes ({steps} sampling steps); precision by "
        "protocol attention-v1 on scenes drawn from a fixed seed. Evaluations while training have no pair list."
    )


def _seed_words(run: StudyRun) -> str:
    counts = sorted(set(run.seeds.values()))
    if len(counts) == 1:
        return f"{plural(counts[0], 'seed')} of each variant"
    return f"{counts[0]} to {counts[-1]} seeds of a variant"


# --- the answer ------------------------------------------------------------------------------------------------------


def answer(run: StudyRun) -> list[str]:
    """Return the result of the study, in sentences."""
    started = f"{plural(len(run.names), 'variant')} of the training, {_seed_words(run)}, {number(run.step)} steps each."
    if PLAIN not in run.names:
        return [started, "The plain run is not finished, so nothing can be compared with it yet."]
    table = tables.differences(run)
    compared = [name for name in run.names if name != PLAIN]
    if not compared:
        return [started, "Only the plain run is finished: there is nothing to compare it with yet."]
    first = compared[0]
    return [
        _sum_up(table, first),
        _soon(run, first),
        _others(table, compared[1:]),
        _against_trivial(run),
        started,
    ]


def _sum_up(table: pd.DataFrame, variant: str) -> str:
    """Return how a variant differs from plain: the verdict first, then its numbers."""
    rows = list(table[table["variant"] == variant].itertuples())
    if all(row.verdict == "too few seeds" for row in rows):
        phrases = listing(f"{title(row.metric)} {_difference(row)}" for row in rows)
        return (
            f"{variant} against {PLAIN}, at the last step: {phrases}. With fewer than {LEAST_SEEDS} seeds none of "
            "this is separated from chance."
        )
    parts = []
    for verdict in ("better", "worse"):
        found = [f"{title(row.metric)} ({_difference(row)}, {_spread(row)})" for row in rows if row.verdict == verdict]
        parts += [f"{verdict} than {PLAIN} by {listing(found)}"] if found else []
    open_ = [title(row.metric) for row in rows if row.verdict not in ("better", "worse")]
    rest = f" Not separated: {listing(open_)}." if open_ else ""
    clear = f"{variant} is clearly {', and '.join(parts)}" if parts else f"Nothing separates {variant} from {PLAIN}"
    return f"{clear}, at the last step, seed by seed.{rest}"


def _difference(row: Any) -> str:
    return f"{difference_text(row.metric, row.value)}{_unit(row.metric)}"


def _unit(metric: str) -> str:
    unit = describe(metric).unit
    return " points" if is_share(metric) else f"{NBSP}{unit}" if unit else ""


def _spread(row: Any) -> str:
    low, high = (difference_text(row.metric, end) for end in (row.low, row.high))
    return f"95{NBSP}% interval {low} to {high}"


def _soon(run: StudyRun, variant: str) -> str:
    table = tables.reached(run)
    rows = list(table[table["variant"] == variant].itertuples())
    if not rows:
        return ""
    own = table[table["variant"] == PLAIN].set_index("metric")["ratio"]
    shown = [row for row in rows if row.metric in (PSNR, HIGH_NOISE)] or rows[:2]
    phrases = "; ".join(f"{title(row.metric)} {reach_words(row)}{_itself(own.get(row.metric))}" for row in shown)
    half = [title(row.metric) for row in rows if row.ratio <= CLAIM and row.reached == row.seeds]
    claim = f"In half the steps or less, as the paper claims: {listing(half)}." if half else (
        "By no metric in half the steps, as the paper claims of its own."
    )  # fmt: skip
    return f"How soon {variant} is where {PLAIN} ends: {phrases}. {claim}"


def _itself(ratio: Any) -> str:
    return "" if ratio is None or not np.isfinite(ratio) else f" ({PLAIN} itself: {100 * ratio:.0f}{NBSP}%)"


def reach_words(row: Any) -> str:
    """Return in words how soon a variant reaches the plain run's final value, and whether that is clear.

    Args:
        row: Of :func:`analysis.study.run.reached`.
    """
    if row.reached == 0:
        return f"never ({plural(row.seeds, 'seed')})"
    after = f"after {'at most ' if row.at_most else ''}{100 * row.ratio:.0f}{NBSP}% of the steps"
    return f"{after}, {REACH_VERDICTS[row.verdict].format(reached=row.reached, seeds=row.seeds)}"


def _others(table: pd.DataFrame, variants: list[str]) -> str:
    texts = []
    for variant in variants:
        rows = table[table["variant"] == variant]
        counts = {verdict: int((rows["verdict"] == verdict).sum()) for verdict in ("better", "worse")}
        phrases = [f"{verdict} by {count}" for verdict, count in counts.items() if count]
        texts.append(f"{variant} {' and '.join(phrases) if phrases else 'separated by none'}")
    metrics = table["metric"].nunique()
    return f"The others against {PLAIN}, of {metrics} metrics: {'; '.join(texts)}." if texts else ""


def _against_trivial(run: StudyRun) -> str:
    """Return the metrics by which a trivial baseline beats every variant, as a sentence."""
    last = run.summary[run.summary["step"] == run.step].set_index(["variant", "metric"])["mean"]
    lost = []
    for metric in (name for name in run.metrics if name in IMAGE_METRICS):
        own = [last.get((name, metric), np.nan) for name in run.names]
        trivial = [last.get((run.names[0], trivial_column(method, metric)), np.nan) for method in TRIVIAL]
        sign = better(metric)
        known = [sign * value for value in trivial if np.isfinite(value)]
        if known and max(sign * value for value in own if np.isfinite(value)) <= max(known):
            lost.append(title(metric))
    if not lost:
        return ""
    return (
        f"By {listing(lost)} no variant beats a trivial baseline (a copy of the nearest reference, or its "
        "mean colour): the models have trained too little for image quality to mean much."
    )


def caveats(run: StudyRun) -> list[str]:
    """Return the limits of the numbers, in sentences."""
    few = [name for name in run.names if run.seeds[name] < LEAST_SEEDS]
    sentences = [f"{listing(few)}: fewer than {LEAST_SEEDS} seeds, so no interval and no verdict."] if few else []
    count = len(tables.differences(run)) if PLAIN in run.names else 0
    sentences += [
        f"{number(count)} differences are tested; about {max(1, round(count / 20))} of them would seem clear by chance "
        "alone.",
        "Intervals are over seeds (Student's t): they hold for other weights, scenes and noise of training, on these "
        "held-out scenes.",
        "\u201cHow soon\u201d is read against one number, the plain run's last value, which is noisy; a ratio of a "
        "short training need not hold for a long one.",
    ]
    return sentences if count else sentences[:-3] + sentences[-2:]


def paper_words(run: StudyRun) -> str:
    """Return which of the paper's curves can be compared with a study, and which cannot."""
    return (
        "Published curves are of CAT3D at the size of Stable Diffusion 2.1, trained on RealEstate10K and CO3D for up "
        f"to 400 000 steps; here {run.settings.get('steps', run.step)} steps of the model and scenes named below. "
        "PSNR, SSIM and LPIPS therefore must not be compared by height. The share of the baseline's steps after which "
        "a curve reaches the baseline's last value has no unit and is defined the same way, so it stands beside ours; "
        "the published baseline falls between its last two points, which flatters the ratio. "
        f"Published intervals or seeds: none. Source: {paper.note()}"
    )
