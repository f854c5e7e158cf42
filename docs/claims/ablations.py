"""What ablations show: variants beside those that they change one thing of."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from analysis.study import tables
from analysis.study.run import StudyRun
from analysis.study.soon import how_soon
from analysis.study.words import difference_text, held_out, is_share, ratio_text, seeds_vary, title
from analysis.trivial import MARK_WORDS, best_text, marked
from analysis.words import by_chance, listing, plural
from claims.studies import count_verdicts
from claims.tables import SUPERVISED, paired, precision_of, read_kept_study, with_half
from probe.records import HIGH_NOISE, PSNR, SSIM
from probe.records.names import PLAIN

ABLATIONS = "ablations-h100"
"""Folder of the study of layers, heads, early stops, rivals and controls, on a GPU."""
SMALL_ABLATIONS = "ablations"
"""Folder of that of mixings, truths and more, smaller, on a processor."""
AGAINST = {
    "mean": "cameo",
    "one-head": "mean",
    "layer-2": "cameo",
    "layer-6": "cameo",
    "layer-12": "cameo",
    "layers-10-12": "cameo",
    "layer-8": "cameo",
    "random-layer": "cameo",
    "positive": "cameo",
    "visible": "cameo",
    "gated": "cameo",
    "weight-0.1": "cameo",
    "weight-0.004": "cameo",
    "early-stop-quarter": "cameo",
    "early-stop": "cameo",
    "early-stop-three-quarters": "cameo",
    "shuffled": "cameo",
    "shuffled-mean": "mean",
    "repa-dsift": "cameo",
    "trd-dsift": "cameo",
    "irepa-dsift": "cameo",
    "geometry": "cameo",
}
"""Variants of the ablations, and what each of them changes one thing of."""
QUESTIONS = {
    "The truth, against another scene's:": ("shuffled-mean", "shuffled"),
    "How heads are combined:": ("mean", "positive", "one-head"),
    "Which matches are true:": ("visible", "gated"),
    "How strongly:": ("weight-0.1", "weight-0.004"),
    "Which layer:": ("layer-2", "layer-6", "layer-8", "layer-12", "layers-10-12", "random-layer"),
    "Stopping early:": ("early-stop-quarter", "early-stop", "early-stop-three-quarters"),
    "Rivals:": ("repa-dsift", "trd-dsift", "irepa-dsift", "geometry"),
}
"""What they ask, and the variants that answer."""


def ablation_block(name: str) -> str:
    """Return what a study of ablations shows: its answers, its variants, and these against each other."""
    return "\n\n".join(write(name) for write in (against_words, ablation_table, ablation_words, against_table))


def ablation_table(name: str) -> str:
    """Return a Markdown table of variants that need not have the same seeds, with what can be compared between all."""
    run, precision = read_kept_study(name), precision_of(name)
    shared = _of_shared_seeds(run)
    best, gains, means = tables.best_of(run, PSNR), tables.differences(shared), _last_means(shared)
    every, seeds = gains["metric"].nunique(), _seed_range(shared)
    measured = (title(HIGH_NOISE), title(precision), f"PSNR (best trivial baseline {best_text(PSNR, best)})")
    rows = [("supervised", "seeds", *measured, f"PSNR, {seeds}", f"better, worse than plain of {every}, {seeds}")]
    rows += [("---",) * len(rows[0])]
    for variant in (name for name in SUPERVISED if name in run.seeds):
        high, matched, psnr = (_last(run, metric).loc[variant] for metric in (HIGH_NOISE, precision, PSNR))
        counts = (
            ""
            if variant == PLAIN
            else ", ".join(str(count_verdicts(gains, variant, one)) for one in ("better", "worse"))
        )
        cells = (with_half(HIGH_NOISE, high), with_half(precision, matched))
        image = marked(with_half(PSNR, psnr), PSNR, psnr["mean"], best)
        label = f"`{variant}`: {SUPERVISED[variant]}"
        rows.append((label, str(run.seeds[variant]), *cells, image, f"{means[variant]:.2f}", counts))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def ablation_words(name: str) -> str:
    """Return what the variants' values at the last step show, and what they cannot show."""
    run = read_kept_study(name)
    tests, vary = len(tables.differences(_of_shared_seeds(run))), seeds_vary(run)
    return (
        f"{MARK_WORDS}, by means. Shown above it by an interval: {_above(run, PSNR)}; by SSIM {_above(run, SSIM)}. "
        f"Better and worse: by an interval of its own, paired by seed; {by_chance(tests)} of these {tests} "
        f"would be so by chance.{_control_words(run)} {vary[0].upper()}{vary[1:]}; {held_out(run)}."
    )


def _above(run: StudyRun, metric: str) -> str:
    """Return the variants whose whole interval lies above the best trivial baseline."""
    best = tables.best_of(run, metric)
    last = _last(run, metric)
    above = [f"`{name}`" for name in SUPERVISED if name in run.seeds and best and last.loc[name, "low"] > best.value]
    return listing(above) if above else "none"


def _last(run: StudyRun, metric: str) -> pd.DataFrame:
    """Return a metric's last values, by variant."""
    return run.summary[(run.summary["step"] == run.step) & (run.summary["metric"] == metric)].set_index("variant")


def _of_shared_seeds(run: StudyRun) -> StudyRun:
    """Return the study of the seeds that all variants have."""
    return replace(run, study=run.study[run.study["seed"].isin(run.shared_seeds)])


def _seed_range(run: StudyRun) -> str:
    return f"seeds {run.study['seed'].min()} to {run.study['seed'].max()}"


def _last_means(run: StudyRun) -> pd.Series:
    """Return each variant's mean PSNR at the last step."""
    last = run.study[(run.study["step"] == run.step) & (run.study["metric"] == PSNR)]
    return last.groupby("variant")["value"].mean()


def _control_words(run: StudyRun) -> str:
    """Return what the negative control says of how soon plain's last value is reached; nothing without one."""
    if "shuffled" not in run.seeds:
        return ""
    soon = how_soon(run).set_index(["variant", "metric"])
    return (
        " How soon plain's last value is reached tells nothing here: by error at t = 900 the negative control has a "
        f"ratio of {ratio_text(soon.loc[('shuffled', HIGH_NOISE)])}."
    )


def stopping_words() -> str:
    """Return what stopping supervision early does, in both studies that have it: the answer first."""
    where = {ABLATIONS: "8 rooms a step, on a GPU", SMALL_ABLATIONS: "3 rooms a step, on a processor"}
    rows = [paired(read_kept_study(name), PSNR, stop, AGAINST[stop]) for name in where for stop in _stopping(name)]
    ahead = sum(row["value"] > row["half"] for row in rows)
    parts = [f"{words}: {_answered(read_kept_study(name), _stopping(name))}" for name, words in where.items()]
    return (
        f"By PSNR {ahead or 'none'} of {len(rows)} runs that stop (after a quarter, half or three quarters of 300 "
        f"steps) {'are' if ahead > 1 else 'is'} shown to end ahead of those that go on: no harm of going on is shown, "
        f"within steps too few to rule it out. Paired by seed, with {' With '.join(parts)}"
    )


def _stopping(name: str) -> list[str]:
    return [variant for variant in QUESTIONS["Stopping early:"] if variant in read_kept_study(name).seeds]


def against_table(name: str) -> str:
    """Return how variants stand to those that they change one thing of, paired by seed, and how many tests that is."""
    run = read_kept_study(name)
    metrics = (PSNR, HIGH_NOISE, precision_of(name))
    pairs = [(first, second) for first, second in AGAINST.items() if {first, second} <= set(run.seeds)]
    rows = {pair: [paired(run, metric, *pair) for metric in metrics] for pair in pairs}
    tests = len(pairs) * len(metrics)
    lines = [("variant", "minus", *map(title, metrics)), ("---",) * (2 + len(metrics))]
    lines += [
        (f"`{first}`", f"`{second}`", *(_paired_text(row, tests) for row in of)) for (first, second), of in rows.items()
    ]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    alone, together = (sum(_separable(row, number) for of in rows.values() for row in of) for number in (1, tests))
    clear = sum(any(_separable(row, 1) for row in of) for of in rows.values())
    return (
        f"{table}\n\nDifferences paired by seed ± half of the 95 % interval, each by its own; ∗: the interval excludes "
        f"0 ({alone} of {tests}, in {plural(clear, 'row')}; {by_chance(tests)} would by chance alone); ∗∗: also where "
        f"all {tests} hold together (Bonferroni; {together}). Rows share runs, so they are not independent evidence; "
        "an interval from three nearly equal differences understates what is not known."
    )


def against_words(name: str) -> str:
    """Return what the differences of PSNR answer, question by question."""
    run = read_kept_study(name)
    asked = {question: [name for name in names if name in run.seeds] for question, names in QUESTIONS.items()}
    answers = " ".join(f"*{question}* {_answered(run, names)}" for question, names in asked.items() if names)
    return f"Differences of PSNR, paired by seed. {answers}"


def _answered(run: StudyRun, variants: Sequence[str]) -> str:
    rows = {name: paired(run, PSNR, name, AGAINST[name]) for name in variants}
    said = {True: [], False: []}
    for name, row in rows.items():
        said[_separable(row, 1)].append(f"`{name}` minus `{AGAINST[name]}` {_change_words(row)}")
    texts = {True: "by its own interval ", False: "not shown: "}
    return "; ".join(f"{texts[shown]}{listing(items)}" for shown, items in said.items() if items) + "."


def _change_words(row: dict[str, Any]) -> str:
    value, half = (difference_text(PSNR, row[name]) for name in ("value", "half"))
    return f"{value} ± {half.lstrip('+')} dB"


def _separable(row: dict[str, Any], tests: int) -> bool:
    return bool(row["p"] * tests < 0.05)


def _paired_text(row: dict[str, Any], tests: int) -> str:
    value, half = (difference_text(row["metric"], row[name]) for name in ("value", "half"))
    unit = " points" if is_share(row["metric"]) else ""
    return f"{value} ± {half.lstrip('+')}{unit}{' ∗' * _separable(row, 1)}{'∗' * _separable(row, tests)}"
