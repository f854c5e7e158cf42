"""What studies show, in words and tables."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from analysis.study import tables
from analysis.study.claims.page import claim_sections
from analysis.study.soon import how_soon, in_half
from analysis.study.words import answer, held_out, pace_words, ratio_text, seeds_vary, title, value_text
from analysis.trivial import MARK, MARK_WORDS, best_text, marked
from analysis.words import MISSING, listing, plural
from claims.probes import lead_words, noisy_words
from claims.tables import (
    MIXED,
    REFERENCE,
    SUPERVISED,
    paired,
    precision_of,
    precision_words,
    read_kept_probe,
    read_kept_study,
    with_half,
)
from probe.records import HIGH_NOISE, PSNR
from probe.records.names import PLAIN, PROBES

SHORT = (PLAIN, "cameo", "mean", "shuffled")
NOISE = {
    "noise-depth-20": "depth off by 20 %",
    "noise-rotation-3": "cameras turned by 3 degrees",
    "noise-holes-70": "70 % of the points missing",
}


def study_table(name: str, variants: Sequence[str], *, short: bool = False) -> str:
    """Return a Markdown table of some variants: last values, and steps over plain's with the joint interval."""
    run, precision = read_kept_study(name), precision_of(name)
    last = run.summary[run.summary["step"] == run.step].set_index(["variant", "metric"])
    soon = how_soon(run).set_index(["variant", "metric"])
    best = tables.best_of(run, PSNR)
    rows = [("supervised", title(HIGH_NOISE), "its steps over plain's", title(precision), f"PSNR (best trivial "
             f"baseline {best_text(PSNR, best)})"), ("---",) * 5]  # fmt: skip
    for variant in (name for name in variants if name in run.seeds):
        cells = [with_half(HIGH_NOISE, last.loc[variant, HIGH_NOISE])]
        cells.append("1" if variant == PLAIN else _pace(soon, variant, short=short))
        cells.append(with_half(precision, last.loc[variant, precision]))
        psnr = last.loc[variant, PSNR]
        cells.append(marked(with_half(PSNR, psnr), PSNR, psnr["mean"], best))
        rows.append((SUPERVISED.get(variant) or NOISE[variant], *cells))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def study_block(name: str, variants: Sequence[str], *, short: bool = False) -> str:
    """Return the table, and what its mark means where it has one."""
    table = study_table(name, variants, short=short)
    return f"{table}\n\n" + (f"{MARK_WORDS}. " if MARK in table else "")


def _pace(soon: pd.DataFrame, variant: str, *, short: bool) -> str:
    key = (variant, HIGH_NOISE)
    if key not in soon.index:
        return MISSING
    row = soon.loc[key]
    return f"{ratio_text(row)} ({row['verdict']})" if short else pace_words(row)


def study_words(name: str) -> str:
    """Return the study's own answer, and what its seeds vary."""
    run = read_kept_study(name)
    vary = seeds_vary(run)
    return " ".join(part for part in (*answer(run), f"{vary[0].upper()}{vary[1:]}; {held_out(run)}.") if part)


def short_words(name: str) -> str:
    """Return by how many measures the supervised variants are better than plain, and the negative control worse."""
    run = read_kept_study(name)
    gains = tables.differences(run)
    every = gains["metric"].nunique()
    names = {"cameo": "mlp", "mean": "mean"}
    better = [f"`{words}` by {count_verdicts(gains, key, 'better')}" for key, words in names.items()]
    half = [f"`{row.variant}` by {title(row.metric)}" for row in how_soon(run).itertuples() if in_half(row)]
    shown = f" In half the steps, as the paper claims: {listing(half)}." if half else ""
    row = paired(run, PSNR, "cameo", "shuffled")
    seeds, worse = plural(run.seeds["cameo"], "seed"), count_verdicts(gains, "shuffled", "worse")
    return (
        f"±: half of the 95 % interval over {seeds}. Better than plain: {', '.join(better)} of {every} "
        f"measures; worse: the control by {worse}; `mlp` minus the control: {_gain_words(row)}.{shown}"
    )


def count_verdicts(gains: pd.DataFrame, variant: str, verdict: str) -> int:
    """Count the metrics by which a variant has a verdict."""
    return int(((gains["variant"] == variant) & (gains["verdict"] == verdict)).sum())


def long_words(name: str) -> str:
    """Return what the runs of one seed reach in the end, and after which share of plain's steps they are there."""
    run = read_kept_study(name)
    last = run.summary[run.summary["step"] == run.step].set_index(["variant", "metric"])
    psnr = ", ".join(
        f"{words} {with_half(PSNR, last.loc[variant, PSNR])}"
        for variant, words in ((PLAIN, "plain"), ("cameo", "`mlp`"), ("mean", "`mean`"))
    )
    soon = how_soon(run)
    own = soon[soon["variant"] == "cameo"].sort_values("ratio")
    least, most = map(ratio_text, own.iloc[[0, -1]].itertuples())
    share = ratio_text(own.set_index("metric").loc[PSNR])
    seeds = plural(run.seeds["cameo"], "seed")
    return (
        f"{seeds[0].upper()}{seeds[1:]}, {run.step} steps: PSNR {psnr}; `mlp` reaches plain's final PSNR after {share} "
        f"of plain's steps (all measures {least} to {most}); {listing(sorted(set(own['verdict'])))} to show half the "
        "steps."
    )


def rooms_words(name: str) -> str:
    """Return what probes of a study's last weights show: layers, rotations, harder rooms; and ours beside pixels."""
    sections = {section.name: section for section in claim_sections(read_kept_study(name))}
    found = [part for key in ("profile", "fragility") for part in (sections[key].claim, sections[key].text)]
    kept = read_kept_probe(f"{name}/{PROBES}/mean")
    chosen = kept["selection"]
    row = kept["layers"].set_index("layer").loc[chosen["layer"]]
    return (
        f"{' '.join(found)} On these {chosen['scenes']} rooms layer {chosen['layer']} of `mean` finds "
        f"{precision_words(row)}. {lead_words(kept['leads'])}{noisy_words(kept['leads_noisy'])}"
    )


def control_words(name: str) -> str:
    """Return how the negative control stands to plain, and the method that it controls to it."""
    run = read_kept_study(name)
    gains = tables.differences(run)
    worse, every = count_verdicts(gains, "shuffled", "worse"), int((gains["variant"] == "shuffled").sum())
    first = (
        f"The control is worse than plain by {worse} of {every} measures" if worse else
        "The control is not separated from plain"
    )  # fmt: skip
    rows = [paired(run, metric, "cameo", "shuffled") for metric in (PSNR, HIGH_NOISE)]
    return (
        f"{first}; `mlp` minus the control, also `mlp`: {'; '.join(_gain_words(row) for row in rows)} (each by its own "
        "interval; the measures are correlated)."
    )


def _gain_words(row: dict[str, Any]) -> str:
    shown = [value_text(row["metric"], row[name]) for name in ("value", "half")]
    return f"{title(row['metric'])} {shown[0]} ± {shown[1]}"


def mixing_words(name: str) -> str:
    """Return how `mean` compares with the paper's mixing of heads."""
    metrics = (precision_of(name), HIGH_NOISE, PSNR)
    rows = [paired(read_kept_study(name), metric, "mean", "cameo") for metric in metrics]
    return (
        f"`mean` minus the paper's mixing, paired by seed: {'; '.join(_paired_words(row) for row in rows)}. p is not "
        f"corrected for {len(rows)} tests; the paper's own ablation prefers the MLP."
    )


def _paired_words(row: dict[str, Any]) -> str:
    shown = [value_text(row["metric"], row[name]) for name in ("value", "half")]
    verdict = "separable" if abs(row["value"]) > row["half"] else "not separable"
    return f"{title(row['metric'])} {shown[0]} ± {shown[1]} (p = {row['p']:.3f}, {verdict})"


def noise_words() -> str:
    """Return what noise on the truth costs, beside what exact truth gains: whether anything can be said."""
    run, precision = read_kept_study("noise"), precision_of("noise")
    gain = paired(run, precision, "cameo", PLAIN)
    parts = []
    for variant, name in NOISE.items():
        row = paired(run, precision, variant, "cameo")
        verdict = "worse" if row["value"] + row["half"] < 0 else "nothing can be said"
        change = f"{value_text(precision, row['value'])} ± {value_text(precision, row['half'])}"
        parts.append(f"{name} {change} ({verdict})")
    return (
        f"Exact truth gains {value_text(precision, gain['value'])} ± {value_text(precision, gain['half'])} in "
        f"{title(precision)} over plain ({plural(gain['seeds'], 'seed')}). Noise on the truth, against exact "
        f"truth: {'; '.join(parts)}. An interval about as wide as the gain cannot show that noise costs nothing: an "
        "equivalence needs a margin, and more seeds."
    )


def graph_words() -> str:
    """Return the seconds of steps on a GPU, launched kernel by kernel and replayed from a graph."""
    table = pd.read_csv(REFERENCE / "kernels" / "steps-graph-h100.csv")
    rows = [("step", "scenes", "eager", "graph"), ("---",) * 4]
    for (variant, workers), part in table[table["way"] != "chunked"].groupby(["variant", "workers"], sort=False):
        seconds = part.set_index("execution")["seconds"]
        shown = [f"{seconds[way]:.3f} s" if way in seconds else "not measured" for way in ("eager", "graph")]
        where = f"by {workers} workers" if workers else "on the GPU"
        rows.append((f"{SUPERVISED.get(variant, MIXED.get(variant, variant))}", where, *shown))
    batch, device = table["batch"].iloc[0], table["device"].iloc[0]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + (
        f"\n\nMedian seconds of a step of {batch} rooms of the small model on one {device}."
    )
