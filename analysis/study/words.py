"""A study in words: what was compared, what helped, how soon, and the limits of the numbers. Pure."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from analysis import paper
from analysis.study import tables
from analysis.study.run import StudyRun
from analysis.study.seeds import LEAST_SEEDS
from analysis.study.soon import CLAIM, family_words, how_soon, in_half
from analysis.trivial import BEST, Trivial, beats
from analysis.words import MISSING, NBSP, listing, number, percent, plural, points
from probe.records import HIGH_NOISE, IMAGE_METRICS, PSNR, describe, split_layer
from probe.records.names import PLAIN

VERDICTS = {
    "sooner": f"sooner than {PLAIN}", "later": f"later than {PLAIN}", "not separated": f"not separated from {PLAIN}",
    "too few seeds": "too few seeds to tell",
}  # fmt: skip
SEEDED = "cat3d-tiny:random"
"""The model whose first weights the trainer draws by its --seed; all others start from the same weights."""


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


def best_words(metric: str, best: Trivial | None) -> str:
    """Write the best trivial baseline of a metric: "12.00 (copy)"; a dash where there is none."""
    return MISSING if best is None else f"{value_text(metric, best.value)} ({best.method})"


def source(run: StudyRun) -> str:
    """Return what a study's figures are based on: seeds, scenes, sampling steps."""
    steps = run.settings.get("sampling_steps", MISSING)
    return (
        f"{_seed_words(run)}; {seeds_vary(run)}. Evaluated on {held_out(run)} ({steps} sampling steps); precision "
        "by protocol attention-v1 on scenes drawn from a fixed seed. Evaluations while training have no pair list."
    )


def held_out(run: StudyRun) -> str:
    """Return on how many scenes every run is evaluated: "the same 16 held-out scenes"."""
    count = run.settings.get("evaluate_scenes")
    return f"the same {plural(count, 'held-out scene')}" if isinstance(count, int) else "the same held-out scenes"


def seeds_vary(run: StudyRun) -> str:
    """Return what differs between two seeds of a study, as the trainer's --seed draws it."""
    drawn = "the scenes, timesteps and noise of training"
    model = str(run.settings.get("model", ""))
    if not model:
        return f"seeds vary {drawn}; the settings do not say what the model starts from"
    if model == SEEDED:
        return f"seeds vary the model's first weights and {drawn}"
    return (
        f"seeds vary {drawn} and the first weights of what an objective adds, not the model's: every run starts from "
        f"the same ones ({model})"
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
        phrases = listing(f"{title(row.metric)} {signed_words(row)}" for row in rows)
        return (
            f"{variant} against {PLAIN}, at the last step: {phrases}. With fewer than {LEAST_SEEDS} seeds none of "
            "this is separated from chance."
        )
    parts = []
    for verdict in ("better", "worse"):
        found = [
            f"{title(row.metric)} ({signed_words(row)}, {spread_words(row)})" for row in rows if row.verdict == verdict
        ]
        parts += [f"{verdict} than {PLAIN} by {listing(found)}"] if found else []
    open_ = [title(row.metric) for row in rows if row.verdict not in ("better", "worse")]
    rest = f" Not separated: {listing(open_)}." if open_ else ""
    clear = f"{variant} is {', and '.join(parts)}" if parts else f"Nothing separates {variant} from {PLAIN}"
    return f"{clear}, at the last step, seed by seed, each by an interval of its own.{rest}"


def signed_words(row: Any) -> str:
    """Write a difference with its sign and unit: "+0.31 dB"."""
    return f"{difference_text(row.metric, row.value)}{_unit(row.metric)}"


def _unit(metric: str) -> str:
    unit = describe(metric).unit
    return " points" if is_share(metric) else f"{NBSP}{unit}" if unit else ""


def spread_words(row: Any) -> str:
    """Write the interval of a difference: "95 % interval +0.10 to +0.52"."""
    low, high = (difference_text(row.metric, end) for end in (row.low, row.high))
    return f"95{NBSP}% interval {low} to {high}"


def _soon(run: StudyRun, variant: str) -> str:
    table = how_soon(run)
    rows = list(table[table["variant"] == variant].itertuples())
    if not rows:
        return ""
    shown = [row for row in rows if row.metric in (PSNR, HIGH_NOISE)] or rows[:2]
    phrases = "; ".join(f"{title(row.metric)} {pace_words(row)}" for row in shown)
    return (
        f"How soon {variant} reaches {PLAIN}'s last value, in its steps divided by those of {PLAIN} itself (1: no "
        f"lead; to the worse of the two last values, which both reach): {phrases}. {half_the_steps(rows)}"
    )


def half_the_steps(rows: list[Any]) -> str:
    """Return which measures support the paper's claim: sooner, and the whole interval at most half."""
    proven = [title(row.metric) for row in rows if in_half(row)]
    if proven:
        return f"In half the steps or less, as the paper claims, by the whole joint interval: {listing(proven)}."
    if all(row.verdict == "too few seeds" for row in rows):
        return f"With fewer than {LEAST_SEEDS} seeds nothing can be said about half the steps, as the paper claims."
    sooner = [f"{title(row.metric)} ({ratio_text(row)})" for row in rows if row.verdict == "sooner"]
    if sooner:
        return (
            f"Sooner by {listing(sooner)}; half the steps, as the paper claims, is not shown by any measure: no whole "
            f"interval lies below {CLAIM}."
        )
    return f"No measure shows it sooner than {PLAIN}, so half the steps, as the paper claims, is not shown here."


def pace_words(row: Any) -> str:
    """Return steps over plain's with the joint interval and the verdict: "0.52 (0.41 to 0.66, jointly), sooner than".

    Args:
        row: Of :func:`analysis.study.soon.how_soon`.
    """
    spread = ends_text(row.joint_low, row.joint_high)
    interval = "" if spread == MISSING else f" (joint 95{NBSP}% interval {spread})"
    return f"{ratio_text(row)}{interval}, {VERDICTS[row.verdict]}"


def ratio_text(row: Any) -> str:
    """Write a ratio of steps: "0.52"; "≤ 0.33" and "≥ 3.00" where it is a bound, "?" where it is none and no value.

    Args:
        row: Of :func:`analysis.study.soon.how_soon`.
    """
    mark = {(True, False): "≤ ", (False, True): "≥ ", (True, True): "? "}.get((row.at_most, row.at_least), "")
    return f"{mark}{_times(_bound(row.ratio, row.at_most, row.at_least))}"


def _bound(value: float, at_most: bool, at_least: bool) -> float:
    """Round a bound to two decimals away from what it excludes."""
    hundred = round(value * 100, 6)
    return (math.ceil(hundred) if at_most else math.floor(hundred)) / 100 if at_most != at_least else value


def share_text(row: Any) -> str:
    """Write the share of plain's steps and how many seeds are there: "0.52 (3/3)", "≥ 0.71 (2/3)", "never (0/3)".

    Args:
        row: Of :func:`analysis.study.soon.how_soon`.
    """
    if np.isnan(row.share) or row.reached == 0:
        return MISSING if np.isnan(row.share) else f"never (0/{row.seeds})"
    mark = {(True, False): "≤ ", (False, True): "≥ ", (True, True): "? "}
    return f"{mark.get((row.share_at_most, row.reached < row.seeds), '')}{row.share:.2f} ({row.reached}/{row.seeds})"


def null_text(row: Any) -> str:
    """Write the share of the steps of plain runs against another seed's last value: "≥ 0.94"; a dash where unknown.

    Args:
        row: Of :func:`analysis.study.soon.how_soon`.
    """
    return MISSING if np.isnan(row.null_share) else f"{'≥ ' if row.null_reached < 1 else ''}{row.null_share:.2f}"


def ends_text(low: float, high: float) -> str:
    """Write an interval of ratios: "0.41 to 0.66", "below 0.53", "above 2.83", "open"; a dash where there is none.

    Args:
        low: Lower end; 0 where it is open.
        high: Upper end; infinity where it is open.
    """
    if np.isnan(low) or np.isnan(high):
        return MISSING
    if low == 0 or high == np.inf:
        return (
            "open"
            if (low, high) == (0, np.inf)
            else (
                f"below {_times(_bound(high, True, False))}"
                if low == 0
                else f"above {_times(_bound(low, False, True))}"
            )
        )
    return f"{_times(low)} to {_times(high)}"


def _times(value: float) -> str:
    """Write a ratio with two decimals; beyond a hundredth or a hundred only that it is."""
    return "<0.01" if value < 0.01 else ">100" if value > 100 else f"{value:.2f}"


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
        best = tables.best_of(run, metric)
        if not any(beats(metric, last.get((name, metric), np.nan), best) for name in run.names):
            lost.append(title(metric))
    if not lost:
        return ""
    return (
        f"By {listing(lost)} no variant beats the {BEST} (a copy of the nearest reference, or its mean colour): the "
        "models have trained too little for image quality to mean much."
    )


def caveats(run: StudyRun) -> list[str]:
    """Return the limits of the numbers, in sentences."""
    few = [name for name in run.names if run.seeds[name] < LEAST_SEEDS]
    start = [f"{listing(few)}: fewer than {LEAST_SEEDS} seeds, so no interval and no verdict."] if few else []
    return [*start, *_tests(run), _seeds_sentence(run),
        "\u201cHow soon\u201d is read against last values of single runs, which are noisy (plain runs of different "
        "seeds stand beside it); a ratio of a short training need not hold for a long one."]  # fmt: skip


def _tests(run: StudyRun) -> list[str]:
    """Return how many comparisons are made, and which verdicts hold for all of them together."""
    if PLAIN not in run.names or not (count := len(tables.differences(run))):
        return []
    return [
        f"{number(count)} differences of last values are tested, each by an interval of its own; about "
        f"{max(1, round(count / 20))} of them would seem clear by chance alone. The verdicts on how soon hold together "
        f"for {family_words(how_soon(run))}, with 95{NBSP}% confidence (Bonferroni)."
    ]


def _seeds_sentence(run: StudyRun) -> str:
    vary = seeds_vary(run)
    return f"Intervals are over seeds (Student's t): {vary}. They hold on {held_out(run)}, not on others."


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
