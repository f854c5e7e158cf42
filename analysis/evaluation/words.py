"""An evaluation's words: what was generated, how good it is, and whether it beats trivial baselines. Pure."""

from typing import Any

import numpy as np
import pandas as pd

from analysis.evaluation import run as evaluation
from analysis.evaluation.run import Evaluation
from analysis.trivial import BEST, best_text, marked
from analysis.words import ANSWERS, MISSING, NBSP, ONE_STEP_WORDS, amount, listing, number, plural, units_words
from probe.records import COPY, IMAGE_METRICS, MEAN_COLOUR, METRICS, MODEL, PSNR_ONE_STEP, TRUTH, better
from probe.records.intervals import LEAST_UNITS
from probe.records.names import is_block

SHORT = {MODEL: "", COPY: "copy", MEAN_COLOUR: "mean colour", TRUTH: "true views"}


def model_name(run: Evaluation) -> str:
    """Return the model's name."""
    return str(run.settings.get("model", "an unnamed model"))


def scenes_name(run: Evaluation) -> str:
    """Return the scenes, as named on the command line."""
    return str(run.settings.get("scenes", "unnamed scenes"))


def reference_words(n_ref: int) -> str:
    """Write a number of references: "1 reference"."""
    return plural(n_ref, "reference")


def counts(run: Evaluation) -> str:
    """Return how much was generated: "12 target views in 4 scenes"."""
    return f"{plural(len(run.views), 'target view')} in {plural(run.scenes, 'scene')}"


def units(run: Evaluation) -> str:
    """Return how many units are independent: "8 independent scenes", "3 independent recordings", "8 blocks of ..."."""
    if any(map(is_block, run.units)):
        return units_words(run.units)
    noun = "scene" if len(run.units) == run.scenes else "recording"
    return plural(len(run.units), f"independent {noun}")


def source(run: Evaluation) -> str:
    """Return which views the numbers are based on, for the line under the figures."""
    return (
        f"View list {run.view_list} ({counts(run)}), scenes {scenes_name(run)}, seed "
        f"{run.settings.get('seed', MISSING)}; intervals over {units(run)}. "
        "Evaluations follow no protocol of pairs."
    )


def with_range(name: str, row: Any) -> str:
    """Write a mean with its 95 % interval: "14.2 (13.1–15.0)"."""
    digits = METRICS[name].digits
    if not np.isfinite(row["value"]):
        return MISSING
    spread = f" ({row['low']:.{digits}f}–{row['high']:.{digits}f})" if np.isfinite(row["low"]) else ""
    return f"{row['value']:.{digits}f}{spread}".replace("-", "−")


def fact(run: Evaluation, n_ref: int, name: str) -> tuple[str, str]:
    """Return a mean, marked where it does not beat the best trivial baseline, and that baseline, as text."""
    row, best = evaluation.overall(run, n_ref, name, MODEL), evaluation.best_of(run, n_ref, name)
    truth = evaluation.overall(run, n_ref, name, TRUTH)
    notes = ["" if best is None else f"{BEST} {best_text(name, best)}",
             "" if truth is None else f"{SHORT[TRUTH]} {amount(name, truth['value'])}"]  # fmt: skip
    value = MISSING if row is None else marked(amount(name, row["value"]), name, row["value"], best)
    return value, ", ".join(note for note in notes if note)


def with_trivial(run: Evaluation, n_ref: int, name: str) -> str:
    """Write a mean with the best trivial baseline, short: "15.0 (12.3)"; marked where it does not beat it."""
    row, best = evaluation.overall(run, n_ref, name, MODEL), evaluation.best_of(run, n_ref, name)
    digits, value = METRICS[name].digits, np.nan if row is None else row["value"]
    own, trivial = (f"{one:.{digits}f}" if np.isfinite(one) else MISSING
                    for one in (value, np.nan if best is None else best.value))  # fmt: skip
    return marked(f"{own} ({trivial})", name, value, best)


def spoken(run: Evaluation, n_ref: int) -> str:
    """Return the means over all rotations, as the figure's alternative text."""
    texts = [f"{METRICS[name].title} {value} ({note})" for name in run.measured
            for value, note in [fact(run, n_ref, name)]]  # fmt: skip
    return f"{reference_words(n_ref)}: {'; '.join(texts)}."


# --- the answer ------------------------------------------------------------------------------------------------------


def answer(run: Evaluation) -> list[str]:
    """Return in sentences what was generated and whether it beats trivial baselines."""
    table = evaluation.differences(run)
    each = [sentence for n_ref in run.references for sentence in _one(run, table, n_ref)]
    return [_generated(run), *each]


def _generated(run: Evaluation) -> str:
    guided = run.settings.get("guidance", 1)
    return (
        f"{model_name(run)} generated {counts(run)} ({scenes_name(run)}), from "
        f"{' and from '.join(reference_words(n) for n in run.references)}, in "
        f"{plural(int(run.settings.get('sampling_steps', 0)), 'step')} of DDIM"
        f"{'' if guided == 1 else f', guided by {number(guided)}'}."
    )


def _one(run: Evaluation, table: pd.DataFrame, n_ref: int) -> list[str]:
    if not run.measured:
        return [f"With {reference_words(n_ref)} nothing could be measured."]
    here, first = table[table["n_ref"] == n_ref], run.measured[0]
    row = evaluation.overall(run, n_ref, first, MODEL)
    value = MISSING if row is None else f"{amount(first, row['value'])}{_range(first, row)}"
    texts = [_against(run, n_ref, one) for one in here[here["metric"] == first].to_dict("records")]
    sentence = f"With {reference_words(n_ref)} their {METRICS[first].title} is {value}: {' and '.join(texts)}."
    return [sentence + _others(here[here["metric"] != first]) + _against_best(run, here)]


def _against_best(run: Evaluation, rows: pd.DataFrame) -> str:
    """Return by which measures the model is shown to beat the best trivial baseline, or that none can be claimed."""
    if rows["low"].isna().all():
        return f" These are values only: nothing can be claimed from {units(run)}; {LEAST_UNITS} units are needed."
    shown = [METRICS[row["metric"]].title for row in rows[rows["best"]].to_dict("records") if _is_clear(row, 1)]
    every = len(rows["metric"].unique())
    return f" They beat the {BEST} by {listing(shown) or 'none'} ({len(shown)} of {plural(every, 'measure')})."


def _range(name: str, row: Any) -> str:
    digits = METRICS[name].digits
    if not np.isfinite(row["low"]):
        return ""
    return f" (95{NBSP}% interval {row['low']:.{digits}f}–{row['high']:.{digits}f})"


def _against(run: Evaluation, n_ref: int, row: dict[Any, Any]) -> str:
    name, digits = row["metric"], METRICS[row["metric"]].digits
    theirs = evaluation.overall(run, n_ref, name, row["method"])
    value = MISSING if theirs is None else amount(name, theirs["value"])
    low, high = (f"{row[end]:+.{digits}f}".replace("-", "−") for end in ("low", "high"))
    spread = f", difference {low} to {high}" if np.isfinite(row["low"]) else ""
    return f"{verdict(row)} {ANSWERS[row['method']]} ({value}{spread})"


def verdict(row: Any) -> str:
    """Return whether the model is better than a trivial baseline; clear where the interval does not touch zero.

    Args:
        row: Of :func:`analysis.evaluation.run.differences`; its interval is NaN with too few units for a claim.
    """
    if not np.isfinite(row["low"]):
        lead = better(row["metric"]) * row["value"]
        return "by value better than" if lead > 0 else "by value worse than" if lead < 0 else "by value equal to"
    return "better than" if _is_clear(row, 1) else "worse than" if _is_clear(row, -1) else (
        "not separable from"
    )  # fmt: skip


def _is_clear(row: Any, sign: int) -> bool:
    """Return whether the whole interval is better (1) or worse (-1) than zero."""
    return bool(min(sign * better(row["metric"]) * row[end] for end in ("low", "high")) > 0)


def _others(rows: pd.DataFrame) -> str:
    """Return what the model beats by each other metric: " SSIM: worse than the copy..."."""
    texts = ""
    for name in [name for name in IMAGE_METRICS if name in set(rows["metric"])]:
        found: dict[str, list[str]] = {}
        for row in rows[rows["metric"] == name].to_dict("records"):
            found.setdefault(verdict(row), []).append(f"the {SHORT[row['method']]}")
        title = METRICS[name].title
        texts += (
            f" {title[0].upper()}{title[1:]}: {', '.join(f'{one} {listing(whom)}' for one, whom in found.items())}."
        )
    return texts


# --- caveats ---------------------------------------------------------------------------------------------------------


def _intervals(run: Evaluation) -> str:
    """Return what intervals are over, or why there are none."""
    if len(run.units) < LEAST_UNITS:
        return f"There are no intervals and no claims: {units(run)}, where {LEAST_UNITS} units are needed."
    return (
        f"Intervals are over {units(run)}; other scenes, another seed of the noise or more sampling steps would give "
        "other numbers. Each comparison has an interval of its own: of many, about one in twenty seems clear by chance."
    )


def caveats(run: Evaluation) -> list[str]:
    """Return the limits of the numbers, in sentences."""
    sentences = [
        *([f"Of the scenes: {run.note}."] if run.note else []),
        _intervals(run),
        "PSNR and SSIM compare pixel by pixel: a sharp view that is a little off scores below a blurred one, and the "
        "mean colour is hard to beat where views differ much.",
        *([ONE_STEP_WORDS] if PSNR_ONE_STEP in run.measured else []),
        "The match error compares colours with the references at true matches; it sees 3D consistency only where a "
        "surface looks alike from both sides.",
    ]  # fmt: skip
    absent = run.summary[run.summary["value"].isna() & (run.summary["note"] != "")]
    return sentences + [f"Not measured: {note}." for note in dict.fromkeys(absent["note"].astype(str))]
