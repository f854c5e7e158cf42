"""Every measured number of README and docs, written from the tables under reports/reference.

``python docs/generate.py`` writes them between their marks; a test compares. A sentence says what the intervals of its
table say, so that no claim outlives its numbers.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import ttest_rel

from analysis.evaluation.geometry import WORSE
from analysis.evaluation.geometry_words import title as geometry_title
from analysis.study import tables
from analysis.study.claims.lasting import lasting_words
from analysis.study.claims.page import claim_sections
from analysis.study.consistency_section import consistency_words
from analysis.study.run import StudyRun, read_study
from analysis.study.seeds import half_interval
from analysis.study.soon import how_soon, in_half
from analysis.study.words import (
    answer,
    difference_text,
    held_out,
    is_share,
    pace_words,
    ratio_text,
    seeds_vary,
    title,
    value_text,
)
from analysis.trivial import MARK, MARK_WORDS, best_text, marked
from analysis.words import MISSING, listing, percent, plural, points
from probe.records import (
    EFFECT,
    HIGH_NOISE,
    PRECISION,
    PSNR,
    SAME_POSITION,
    SSIM,
    TRUTH,
    UNIFORM,
    layer_column,
    null_label,
)
from probe.records.decoding import decoding_words
from probe.records.knockout import knockout_table, knockout_words
from probe.records.names import (
    CORRUPTIONS,
    GEOMETRY_SCORES,
    KNOCKOUT,
    PLAIN,
    PROBES,
    REGISTERED,
    SIFT_MATCHES,
    TSED,
    TSED_PIXELS,
    is_null,
    within,
)
from probe.records.patched_samples import samples_words
from probe.records.patching import patching_words
from probe.records.speed import curve_table, curve_words, paper_words, speed_table, speed_words

REFERENCE = Path(__file__).parents[1] / "reports" / "reference"
CARD = Path(__file__).parents[1] / "probe" / "models" / "weights" / "cat3d-tiny" / "card.json"
SUPERVISED = {
    PLAIN: "nothing (plain)",
    "cameo": "the paper's mixing of heads (`mlp`)",
    "mean": "`mean` over heads",
    "positive": "mixing `positive`",
    "visible": "truth `visible`",
    "gated": "truth `gated`",
    "one-head": "the first head alone, `mean`",
    "weight-0.1": "five times the paper's weight",
    "weight-0.004": "a fifth of the paper's weight",
    "early-stop-quarter": "no supervision after a quarter of the steps",
    "early-stop": "no supervision after half of the steps",
    "early-stop-three-quarters": "no supervision after three quarters of the steps",
    "layer-2": "layer 2 instead",
    "layer-6": "layer 6 instead (the coarsest grid)",
    "layer-8": "layer 8 instead",
    "layer-12": "layer 12 instead",
    "other-layer": "another layer instead",
    "layers-10-12": "layers 10 and 12",
    "random-layer": "a random layer per seed",
    "repa-dsift": "DSIFT features by REPA",
    "trd-dsift": "DSIFT relations by TRD",
    "irepa-dsift": "DSIFT features by iREPA",
    "geometry": "an encoding of the true points",
    "shuffled": "negative control: another scene's matches",
    "shuffled-mean": "negative control of `mean`: another scene's matches",
}
PAIR = ("plain", "supervised")
MIXED = {"mlp": SUPERVISED["cameo"]}
SHORT = (PLAIN, "cameo", "mean", "shuffled")
PAPER = "paper"
"""Folder of the study of the paper's claims on two cores."""
LARGE = "paper-h100"
"""Folder of the same with larger batches and the negative control, on a GPU."""
LONG = "paper-long"
"""Folder of one of its seeds anew, for longer, without the control."""
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
NOISE = {
    "noise-depth-20": "depth off by 20 %",
    "noise-rotation-3": "cameras turned by 3 degrees",
    "noise-holes-70": "70 % of the points missing",
}


# --- probes ----------------------------------------------------------------------------------------------------------


@cache
def _probe(name: str) -> dict[str, Any]:
    folder = REFERENCE / name
    files = ("layers", "matchers", "leads", "leads_noisy", "effects")
    kept = {file: pd.read_csv(folder / f"{file}.csv") for file in files}
    bins = sorted(pd.read_csv(folder / "pairs.csv")["rotation_bin"].unique(), key=lambda name: int(name.split("-")[0]))
    ends = f"{bins[0].split('-')[0]} to {bins[-1].split('-')[-1]}"
    return kept | {"selection": json.loads((folder / "selection.json").read_text()), "bins": ends}


def probe_words() -> str:
    """Return what the shipped model's probe shows on procedural rooms and on real frames."""
    return f"*{_on_rooms()} {_on_real_frames('probe-kitchen')}*"


def _on_rooms() -> str:
    kept = _probe("probe-shapes")
    layers, chosen = kept["layers"], kept["selection"]
    above = [int(layer) for layer in layers.loc[layers["above_null"], "layer"]]
    found = (
        f"of {len(layers)} 3D layers {_numbers(above)} shown to be above the strongest null"
        if above
        else f"of {len(layers)} 3D layers none is shown to be above the strongest null"
    )
    row = layers.set_index("layer").loc[chosen["layer"]]
    steps = json.loads(CARD.read_text(encoding="utf-8"))["steps"]
    return (
        f"The small model that ships ({steps} steps on procedural rooms, no supervision), on {chosen['scenes']} rooms: "
        f"{found}. Layer {chosen['layer']} finds {_precision(row)} of the points. "
        f"{_leads(kept['leads'])}{_noisy(kept['leads_noisy'])}"
    )


def _numbers(layers: Sequence[int]) -> str:
    return f"layer {layers[0]} alone is" if len(layers) == 1 else f"layers {listing(layers)} are"


def _on_real_frames(name: str) -> str:
    kept = _probe(name)
    chosen, row = kept["selection"], kept["layers"].set_index("layer").loc[kept["selection"]["layer"]]
    return (
        f"On real frames that it never saw (one 7-Scenes recording, cameras {kept['bins']} degrees apart, "
        f"{chosen['units']} blocks of time) layer {chosen['layer']} finds "
        f"{_precision(row)}. {_leads(kept['leads'])}"
    ).rstrip()


def _precision(row: pd.Series) -> str:
    return _with_ends(row["precision"], row["precision_low"], row["precision_high"])


def _with_ends(value: float, low: float, high: float) -> str:
    return f"{percent(value)} ({percent(low)} to {percent(high)})" if np.isfinite(low) else percent(value)


NAMES = {UNIFORM: "a uniform guess", SAME_POSITION: "the same position", "pixels": "raw pixels", "dsift": "dense SIFT",
         "cameras only": "the same weights with grey images", "random weights": "random weights"}  # fmt: skip


def _named(model: str) -> str:
    return NAMES[null_label(model) if is_null(model) else model]


def _leads(table: pd.DataFrame) -> str:
    """Return what the layer is shown to beat, and what not, by intervals that hold for all at once."""
    rivals = table[~table["model"].isin([UNIFORM, SAME_POSITION])]
    clear = [_named(str(row.model)) for row in rivals.itertuples() if row.low > 0]
    below = [f"{_named(str(row.model))} ({_points(row)})" for row in rivals.itertuples() if row.high < 0]
    open_ = [f"{_named(str(row.model))} ({_points(row)})" for row in rivals.itertuples() if row.low <= 0 <= row.high]
    parts = [f"It is shown to beat {listing(clear)}"] if clear else []
    parts += [f"it is below {listing(below)}"] if below else []
    parts += [f"it is not separable from {listing(open_)}"] if open_ else []
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}. " if text else ""


def _points(row: Any) -> str:
    return f"{points(row.value)} points, {points(row.low)} to {points(row.high)}"


def _noisy(table: pd.DataFrame) -> str:
    """Return how the layer stands to raw pixels where the views are almost noise."""
    row = next(table[table["model"] == "pixels"].itertuples())
    verdict = "ahead of" if row.low > 0 else "below" if row.high < 0 else "not separable from"
    return f"At t = {table['timestep'].iloc[0]} it is {verdict} raw pixels ({_points(row)})."


def causal_words() -> str:
    """Return by how much editing the selected layer, and any other, raises the error of the prediction."""
    table = _probe("probe-shapes")["effects"]
    rows = table[(table["measure"] == EFFECT) & (table["intervention"] == "identity")].set_index("layer")
    chosen = _probe("probe-shapes")["selection"]["layer"]
    row, others = rows.loc[chosen], rows.drop(index=chosen)
    most = others.loc[others["value"].idxmax()]
    return (
        f"On the small model ({plural(int(row['scenes']), 'room')}) the identity in layer {chosen} raises the error by "
        f"{_with_ends(row['value'], row['low'], row['high'])}, in any other layer by at most {percent(most['value'])} "
        f"(layer {int(most.name)})."
    )


# --- studies ---------------------------------------------------------------------------------------------------------


@cache
def _study(name: str) -> StudyRun:
    return read_study(REFERENCE / name)


def study_table(name: str, variants: Sequence[str], *, short: bool = False) -> str:
    """Return a Markdown table of some variants: last values, and steps over plain's with the joint interval."""
    run, precision = _study(name), _precision_of(name)
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


def _precision_of(study: str) -> str:
    """Return the metric that is the precision of the layer which the study supervises."""
    return layer_column(PRECISION, int(_study(study).settings["layer"]))


def with_half(metric: str, row: pd.Series) -> str:
    """Write a mean over seeds with half of its interval."""
    half = (row["high"] - row["low"]) / 2
    return value_text(metric, row["mean"]) + ("" if np.isnan(half) else f" ± {value_text(metric, half)}")


def _pace(soon: pd.DataFrame, variant: str, *, short: bool) -> str:
    key = (variant, HIGH_NOISE)
    if key not in soon.index:
        return MISSING
    row = soon.loc[key]
    return f"{ratio_text(row)} ({row['verdict']})" if short else pace_words(row)


def study_words(name: str) -> str:
    """Return the study's own answer, and what its seeds vary."""
    run = _study(name)
    vary = seeds_vary(run)
    return " ".join(part for part in (*answer(run), f"{vary[0].upper()}{vary[1:]}; {held_out(run)}.") if part)


def short_words(name: str) -> str:
    """Return by how many measures the supervised variants are better than plain, and the negative control worse."""
    run = _study(name)
    gains = tables.differences(run)
    every = gains["metric"].nunique()
    better = [f"`{words}` by {_count(gains, key, 'better')}" for key, words in (("cameo", "mlp"), ("mean", "mean"))]
    half = [f"`{row.variant}` by {title(row.metric)}" for row in how_soon(run).itertuples() if in_half(row)]
    shown = f" In half the steps, as the paper claims: {listing(half)}." if half else ""
    row = _paired(run, PSNR, "cameo", "shuffled")
    seeds, worse = plural(run.seeds["cameo"], "seed"), _count(gains, "shuffled", "worse")
    return (
        f"±: half of the 95 % interval over {seeds}. Better than plain: {', '.join(better)} of {every} "
        f"measures; worse: the control by {worse}; `mlp` minus the control: {_gain_words(row)}.{shown}"
    )


def _count(gains: pd.DataFrame, variant: str, verdict: str) -> int:
    return int(((gains["variant"] == variant) & (gains["verdict"] == verdict)).sum())


def long_words(name: str) -> str:
    """Return what the runs of one seed reach in the end, and after which share of plain's steps they are there."""
    run = _study(name)
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
    sections = {section.name: section for section in claim_sections(_study(name))}
    found = [part for key in ("profile", "fragility") for part in (sections[key].claim, sections[key].text)]
    kept = _probe(f"{name}/{PROBES}/mean")
    chosen = kept["selection"]
    row = kept["layers"].set_index("layer").loc[chosen["layer"]]
    return (
        f"{' '.join(found)} On these {chosen['scenes']} rooms layer {chosen['layer']} of `mean` finds "
        f"{_precision(row)}. {_leads(kept['leads'])}{_noisy(kept['leads_noisy'])}"
    )


def control_words(name: str) -> str:
    """Return how the negative control stands to plain, and the method that it controls to it."""
    run = _study(name)
    gains = tables.differences(run)
    worse, every = _count(gains, "shuffled", "worse"), int((gains["variant"] == "shuffled").sum())
    first = (
        f"The control is worse than plain by {worse} of {every} measures" if worse else
        "The control is not separated from plain"
    )  # fmt: skip
    rows = [_paired(run, metric, "cameo", "shuffled") for metric in (PSNR, HIGH_NOISE)]
    return (
        f"{first}; `mlp` minus the control, also `mlp`: {'; '.join(_gain_words(row) for row in rows)} (each by its own "
        "interval; the measures are correlated)."
    )


def _gain_words(row: dict[str, Any]) -> str:
    shown = [value_text(row["metric"], row[name]) for name in ("value", "half")]
    return f"{title(row['metric'])} {shown[0]} ± {shown[1]}"


def pair_words() -> str:
    """Return what the shipped plain and supervised weights find."""
    return "\n\n".join(map(_found_by, PAIR))


def heads_words() -> str:
    """Return how the heads of the selected layers of the shipped plain and supervised weights find correspondences."""
    parts = []
    for name in PAIR:
        table = knockout_table(pd.read_csv(REFERENCE / f"probe-{name}" / KNOCKOUT))
        evidence = _probe(f"probe-{name}")["selection"]["heads"]["evidence"]
        few = ", ".join(f"{row.heads}: {percent(row.best)} and {percent(row.random)}" for row in table.itertuples())
        parts.append(
            f"`cat3d-tiny:{name}`: {evidence} {knockout_words(table)} By number of heads, best and random: {few}."
        )
    return "\n\n".join(parts)


def patches_words() -> str:
    """Return what layers of the shipped weights do with another run's attention, and where true matches are read."""
    kept = [name for name in PAIR if (REFERENCE / f"probe-{name}" / "patched_layers.csv").is_file()]
    return "\n\n".join(f"`cat3d-tiny:{name}`: {' '.join(_patched(f'probe-{name}'))}" for name in kept)


def _patched(name: str) -> tuple[str, ...]:
    whole, matches = (pd.read_csv(REFERENCE / name / f"patched_{which}.csv") for which in ("layers", "matches"))
    samples = REFERENCE / name / "patched_samples_by_layer.csv"
    more = samples_words(pd.read_csv(samples)) if samples.is_file() else ()
    return *patching_words(whole, matches, _probe(name)["selection"]["layer"]), *more


def decoded_words() -> str:
    """Return which geometry is decoded from the layers of the shipped weights."""
    kept = [name for name in PAIR if (REFERENCE / f"probe-{name}" / "decoded_by_layer.csv").is_file()]
    return "\n\n".join(f"`cat3d-tiny:{name}`: {' '.join(_decoded(f'probe-{name}'))}" for name in kept)


def _decoded(name: str) -> tuple[str, ...]:
    layers = _probe(name)["layers"]
    above = [int(layer) for layer in layers["layer"][layers["above_null"]]]
    return decoding_words(pd.read_csv(REFERENCE / name / "decoded_by_layer.csv"), above)


def speed_block() -> str:
    """Return what plans for speed of the shipped weights do."""
    return "\n\n".join(f"`cat3d-tiny:{name}`: {_speed(name)}" for name in PAIR)


def _speed(name: str) -> str:
    plan = json.loads((REFERENCE / "speed" / f"{name}-0.01-plan.json").read_text(encoding="utf-8"))
    rows = pd.read_csv(REFERENCE / "speed" / f"{name}-0.01-speed.csv")
    words = speed_words(speed_table(rows), budget=plan["budget"], share=plan["share"])
    return f"{words} {curve_words(curve_table(rows, plan), plan['budget'])} {paper_words(plan)}"


def _found_by(name: str) -> str:
    kept = _probe(f"probe-{name}")
    layers, chosen = kept["layers"], kept["selection"]
    row = layers.set_index("layer").loc[chosen["layer"]]
    return (
        f"`cat3d-tiny:{name}` ({_steps_of(name)} steps): {_shown(layers)} shown to be above the strongest null; layer "
        f"{chosen['layer']} finds {_precision(row)} of the points of {chosen['scenes']} rooms. "
        f"{_leads(kept['leads'])}{_noisy(kept['leads_noisy'])}"
    )


def pair_short() -> str:
    """Return the same in few words, and what the weights find on real frames."""
    (plain, steps), (supervised, _) = ((_probe(f"probe-{name}"), _steps_of(name)) for name in PAIR)
    real, real_plain = _probe("probe-kitchen-supervised"), _probe("probe-kitchen-plain")
    shown = "no layer is" if not (real["layers"]["above_null"].any() or real_plain["layers"]["above_null"].any()) else (
        f"{_shown(real['layers'])} in the first, {_shown(real_plain['layers'])} in the second"
    )  # fmt: skip
    rooms = plain["selection"]["scenes"]
    above = " and ".join(_shown(kept["layers"]).removesuffix(" are") for kept in (supervised, plain))
    return (
        f"*One base, {steps} steps more: of the points of {rooms} procedural rooms {_chosen(supervised)} of "
        f"`cat3d-tiny:supervised` finds {_found(supervised)}, {_rivals(supervised, full=True)}; {_chosen(plain)} of "
        f"`cat3d-tiny:plain` {_found(plain)}, {_rivals(plain)}. Above every null, in turn: {above}. On real frames "
        f"(7-Scenes) {shown}: {_found(real)} and {_found(real_plain)}, {_others(real)}.*"
    )


def _row(kept: dict[str, Any]) -> pd.Series:
    return kept["layers"].set_index("layer").loc[kept["selection"]["layer"]]


def _chosen(kept: dict[str, Any]) -> str:
    return f"layer {kept['selection']['layer']}"


def _found(kept: dict[str, Any]) -> str:
    return _precision(_row(kept))


def _rivals(kept: dict[str, Any], *, full: bool = False) -> str:
    """Return by how many points a layer is ahead of its weights with grey images, and of raw pixels."""
    leads = kept["leads"].set_index("model")
    rival = {null_label(name) if is_null(name) else name: leads.loc[name] for name in map(str, leads.index)}
    blind, pixels = _lead(rival["cameras only"]), _lead(rival["pixels"])
    if not full:
        return f"{blind} and {pixels}"
    return f"{blind} points more than with grey images (cameras alone), {pixels} more than raw pixels"


def _lead(row: Any) -> str:
    return f"{points(row.value)} ({points(row.low)} to {points(row.high)})"


def _others(kept: dict[str, Any]) -> str:
    """Return what other matchers find on the grid of the selected layer."""
    table = kept["matchers"]
    table = table[table["grid"] == table.loc[table["layer"] == kept["selection"]["layer"], "grid"].iloc[0]]
    values = {
        null_label(name) if is_null(name) else name: value
        for name, value in zip(table["model"], table["value"], strict=True)
    }
    names = {"cameras only": "cameras alone", "pixels": "raw pixels", "dsift": "dense SIFT"}
    return ", ".join(f"{words} {percent(values[name])}" for name, words in names.items())


def _shown(layers: pd.DataFrame) -> str:
    above = [int(layer) for layer in layers.loc[layers["above_null"], "layer"]]
    return _numbers(above) if above else "no layer is"


def _steps_of(name: str) -> int:
    card = CARD.parents[1] / f"cat3d-tiny-{name}" / CARD.name
    return int(json.loads(card.read_text(encoding="utf-8"))["steps"])


def mixing_words(name: str) -> str:
    """Return how `mean` compares with the paper's mixing of heads."""
    metrics = (_precision_of(name), HIGH_NOISE, PSNR)
    rows = [_paired(_study(name), metric, "mean", "cameo") for metric in metrics]
    return (
        f"`mean` minus the paper's mixing, paired by seed: {'; '.join(_paired_words(row) for row in rows)}. p is not "
        f"corrected for {len(rows)} tests; the paper's own ablation prefers the MLP."
    )


def ablation_table(name: str) -> str:
    """Return a Markdown table of variants that need not have the same seeds, with what can be compared between all."""
    run, precision = _study(name), _precision_of(name)
    shared = _of_shared_seeds(run)
    best, gains, means = tables.best_of(run, PSNR), tables.differences(shared), _last_means(shared)
    every, seeds = gains["metric"].nunique(), _seed_range(shared)
    measured = (title(HIGH_NOISE), title(precision), f"PSNR (best trivial baseline {best_text(PSNR, best)})")
    rows = [("supervised", "seeds", *measured, f"PSNR, {seeds}", f"better, worse than plain of {every}, {seeds}")]
    rows += [("---",) * len(rows[0])]
    for variant in (name for name in SUPERVISED if name in run.seeds):
        high, matched, psnr = (_last(run, metric).loc[variant] for metric in (HIGH_NOISE, precision, PSNR))
        counts = "" if variant == PLAIN else ", ".join(str(_count(gains, variant, one)) for one in ("better", "worse"))
        cells = (with_half(HIGH_NOISE, high), with_half(precision, matched))
        image = marked(with_half(PSNR, psnr), PSNR, psnr["mean"], best)
        label = f"{SUPERVISED[variant]} (`{variant}`)"
        rows.append((label, str(run.seeds[variant]), *cells, image, f"{means[variant]:.2f}", counts))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def ablation_words(name: str) -> str:
    """Return what the variants' values at the last step show, and what they cannot show."""
    run = _study(name)
    tests, vary = len(tables.differences(_of_shared_seeds(run))), seeds_vary(run)
    return (
        f"{MARK_WORDS}, by means. Shown above it by an interval: {_above(run, PSNR)}; by SSIM {_above(run, SSIM)}. "
        f"Better and worse: by an interval of its own, paired by seed; about {tests * 0.05:.0f} of these {tests} "
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


def against_table(name: str) -> str:
    """Return how variants stand to those that they change one thing of, paired by seed, and how many tests that is."""
    run = _study(name)
    metrics = (PSNR, HIGH_NOISE, _precision_of(name))
    pairs = [(first, second) for first, second in AGAINST.items() if {first, second} <= set(run.seeds)]
    rows = {pair: [_paired(run, metric, *pair) for metric in metrics] for pair in pairs}
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
        f"0 ({alone} of {tests}, in {clear} rows; about {tests * 0.05:.0f} would by chance alone); ∗∗: also where all "
        f"{tests} hold together (Bonferroni; {together}). Rows share runs, so they are not independent evidence; an "
        "interval from three nearly equal differences understates what is not known."
    )


def against_words(name: str) -> str:
    """Return what the differences of PSNR answer, question by question."""
    run = _study(name)
    asked = {question: [name for name in names if name in run.seeds] for question, names in QUESTIONS.items()}
    answers = " ".join(f"*{question}* {_answered(run, names)}" for question, names in asked.items() if names)
    return f"Differences of PSNR, paired by seed. {answers}"


def _answered(run: StudyRun, variants: Sequence[str]) -> str:
    rows = {name: _paired(run, PSNR, name, AGAINST[name]) for name in variants}
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


def _paired(run: StudyRun, metric: str, first: str, second: str) -> dict[str, Any]:
    last = run.study[(run.study["step"] == run.step) & (run.study["metric"] == metric)]
    wide = last.pivot_table(index="seed", columns="variant", values="value")[[first, second]].dropna()
    change = wide[first] - wide[second]
    half = float(half_interval(change.std(), len(change)))
    p = float(ttest_rel(wide[first], wide[second]).pvalue) if len(change) > 1 else np.nan
    return {"metric": metric, "value": float(change.mean()), "half": half, "p": p, "seeds": len(change)}


def _paired_words(row: dict[str, Any]) -> str:
    shown = [value_text(row["metric"], row[name]) for name in ("value", "half")]
    verdict = "separable" if abs(row["value"]) > row["half"] else "not separable"
    return f"{title(row['metric'])} {shown[0]} ± {shown[1]} (p = {row['p']:.3f}, {verdict})"


def noise_words() -> str:
    """Return what noise on the truth costs, beside what exact truth gains: whether anything can be said."""
    run, precision = _study("noise"), _precision_of("noise")
    gain = _paired(run, precision, "cameo", PLAIN)
    parts = []
    for variant, name in NOISE.items():
        row = _paired(run, precision, variant, "cameo")
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


# --- geometry of views -----------------------------------------------------------------------------------------------

GEOMETRY_RUNS = {
    "kitchen-256": "real frames (7-Scenes kitchen), 256 px",
    "kitchen-supervised": "the same, 32 px",
    "shapes-256": "rooms, 256 px",
    "supervised": "rooms, 32 px",
}
"""Evaluations under reports/reference/geometry, and whose true views they have."""


def geometry_words() -> str:
    """Tell of each evaluation which scores can be trusted, or which corruptions are not shown to score worse."""
    verdicts = [_verdicts(name) for name in GEOMETRY_RUNS]
    rows = [("score", *GEOMETRY_RUNS.values()), ("---",) * (len(GEOMETRY_RUNS) + 1)]
    rows += [("SIFT matches of a true pair", *map(_matches, GEOMETRY_RUNS))]
    rows += [(geometry_title(name), *(each.get(name, MISSING) for each in verdicts)) for name in GEOMETRY_SCORES]
    lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return (
        f"{lines}\n\nAt one reference. Yes: can be trusted there, each corruption is shown to score worse than the "
        f"truth. No: which is not shown to; {MISSING}: the true views have no value."
    )


def untold_words() -> str:
    """Return why TSED and the camera's error cannot be put beside precision: what the true views themselves have."""
    table = _fewest("supervised", "scores")
    rows = table[table["method"] == TRUTH].set_index("metric")
    tsed, registered = within(TSED, max(TSED_PIXELS), "px"), rows.loc[REGISTERED]
    return (
        f"TSED and the camera's error cannot be put beside precision in this world: of {registered['rows']} true pairs "
        f"of rooms at the model's size {percent(rows.loc[tsed, 'value'])} fulfil TSED at {max(TSED_PIXELS)} px and "
        f"{percent(registered['value'])} a camera that their matches find, so no training can be told from another."
    )


def _fewest(name: str, kind: str) -> pd.DataFrame:
    table = pd.read_csv(REFERENCE / "geometry" / f"{name}-{kind}.csv")
    return table[table["n_ref"] == table["n_ref"].min()]


def _matches(name: str) -> str:
    row = _fewest(name, "scores").set_index(["metric", "method"]).loc[(SIFT_MATCHES, TRUTH)]
    return f"{row['value']:.1f} ({row['rows']} pairs)"


def _verdicts(name: str) -> dict[str, str]:
    parts = _fewest(name, "trust").groupby("metric")
    failing = {str(metric): list(part.loc[part["verdict"] != WORSE, "method"]) for metric, part in parts}
    return {metric: _failing_text(which) for metric, which in failing.items()}


def _failing_text(which: list[str]) -> str:
    return f"no: {'all' if len(which) == len(CORRUPTIONS) else listing(which)}" if which else "yes"


# --- blocks ----------------------------------------------------------------------------------------------------------

BLOCKS: dict[str, Callable[[], str]] = {
    "probe": probe_words,
    "paper-short": lambda: f"{study_block(LARGE, SHORT, short=True)}{short_words(LARGE)} {long_words(LONG)}",
    "paper-large": lambda: (
        f"{study_block(LARGE, SHORT)}{study_words(LARGE)} {control_words(LARGE)} {mixing_words(LARGE)}"
    ),
    "paper-long": lambda: f"{study_block(LONG, SHORT)}{study_words(LONG)} {long_words(LONG)}\n\n{rooms_words(LONG)}",
    "ablations": lambda: (
        f"{against_words(ABLATIONS)}\n\n{ablation_table(ABLATIONS)}\n\n{ablation_words(ABLATIONS)}\n\n{against_table(ABLATIONS)}"
    ),
    "ablations-small": lambda: (
        f"{against_words(SMALL_ABLATIONS)}\n\n{ablation_table(SMALL_ABLATIONS)}\n\n{ablation_words(SMALL_ABLATIONS)}\n\n"
        f"{against_table(SMALL_ABLATIONS)}"
    ),
    "pair": pair_words,
    "heads": heads_words,
    "patches": patches_words,
    "decoded": decoded_words,
    "pair-short": pair_short,
    "paper": lambda: study_block(PAPER, tuple(SUPERVISED)).strip(),
    "paper-words": lambda: f"{study_words(PAPER)} {mixing_words(PAPER)}",
    "consistency": lambda: f"{consistency_words(_study(PAPER))} {untold_words()}",
    "lasting": lambda: f"{lasting_words(_study(PAPER))} Of the longer pair: {lasting_words(_study(LONG))}",
    "noise": lambda: f"{study_table('noise', (PLAIN, 'cameo', *NOISE, 'shuffled'))}\n\n{MARK_WORDS}. {noise_words()}",
    "noise-words": noise_words,
    "kitchen": lambda: study_words("kitchen"),
    "causal": causal_words,
    "graph": graph_words,
    "geometry": geometry_words,
    "speed": speed_block,
}
"""What stands between ``<!-- claims: NAME -->`` and ``<!-- end -->`` in README and docs."""
