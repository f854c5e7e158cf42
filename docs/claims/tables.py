"""Tables under reports/reference, read once, and what several texts say of them."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import ttest_rel

from analysis.study.run import StudyRun, read_study
from analysis.study.seeds import half_interval
from analysis.study.words import value_text
from analysis.words import listing, percent, points
from probe.records import PRECISION, layer_column
from probe.records.names import PLAIN

REFERENCE = Path(__file__).parents[2] / "reports" / "reference"
CARD = Path(__file__).parents[2] / "probe" / "models" / "weights" / "cat3d-tiny" / "card.json"
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
PAPER = "paper"
"""Folder of the study of the paper's claims on two cores."""
LARGE = "paper-h100"
"""Folder of the same with larger batches and the negative control, on a GPU."""
LONG = "paper-long"
"""Folder of one of its seeds anew, for longer, without the control."""


@cache
def read_kept_probe(name: str) -> dict[str, Any]:
    """Return the tables of a kept probe, its selection, and the ends of its rotation bins.

    Args:
        name: Of its folder.
    """
    folder = REFERENCE / name
    files = ("layers", "matchers", "leads", "leads_noisy", "effects")
    kept = {file: pd.read_csv(folder / f"{file}.csv") for file in files}
    bins = sorted(pd.read_csv(folder / "pairs.csv")["rotation_bin"].unique(), key=lambda name: int(name.split("-")[0]))
    ends = f"{bins[0].split('-')[0]} to {bins[-1].split('-')[-1]}"
    return kept | {"selection": json.loads((folder / "selection.json").read_text()), "bins": ends}


def layer_numbers(layers: Sequence[int]) -> str:
    """Write which layers "are"."""
    return f"layer {layers[0]} alone is" if len(layers) == 1 else f"layers {listing(layers)} are"


def precision_words(row: pd.Series) -> str:
    """Write a layer's precision with its interval."""
    return with_ends(row["precision"], row["precision_low"], row["precision_high"])


def with_ends(value: float, low: float, high: float) -> str:
    """Write a fraction with the ends of its interval, where it has one."""
    return f"{percent(value)} ({percent(low)} to {percent(high)})" if np.isfinite(low) else percent(value)


def points_words(row: Any) -> str:
    """Write a lead with its interval, in points."""
    return f"{points(row.value)} points, {points(row.low)} to {points(row.high)}"


@cache
def read_kept_study(name: str) -> StudyRun:
    """Return a kept study.

    Args:
        name: Of its folder.
    """
    return read_study(REFERENCE / name)


def precision_of(study: str) -> str:
    """Return the metric that is the precision of the layer which the study supervises."""
    return layer_column(PRECISION, int(read_kept_study(study).settings["layer"]))


def with_half(metric: str, row: pd.Series) -> str:
    """Write a mean over seeds with half of its interval."""
    half = (row["high"] - row["low"]) / 2
    return value_text(metric, row["mean"]) + ("" if np.isnan(half) else f" ± {value_text(metric, half)}")


def steps_of(name: str) -> int:
    """Return after how many steps weights ship."""
    card = CARD.parents[1] / f"cat3d-tiny-{name}" / CARD.name
    return int(json.loads(card.read_text(encoding="utf-8"))["steps"])


def paired(run: StudyRun, metric: str, first: str, second: str) -> dict[str, Any]:
    """Compare the last values of two variants, seed by seed: metric, value, half (of the 95 % interval), p, seeds."""
    last = run.study[(run.study["step"] == run.step) & (run.study["metric"] == metric)]
    wide = last.pivot_table(index="seed", columns="variant", values="value")[[first, second]].dropna()
    change = wide[first] - wide[second]
    half = float(half_interval(change.std(), len(change)))
    p = float(ttest_rel(wide[first], wide[second]).pvalue) if len(change) > 1 else np.nan
    return {"metric": metric, "value": float(change.mean()), "half": half, "p": p, "seeds": len(change)}
