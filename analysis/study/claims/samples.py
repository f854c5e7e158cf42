"""Samples of plain and of supervised training at equal steps: the picture first."""

import base64

import numpy as np
import pandas as pd

from analysis.blocks import Section, Table
from analysis.study import tables
from analysis.study.claims.claim import NOT_SHOWN, Claim, interval_words, judge, rests
from analysis.study.claims.parts import Parts, Samples
from analysis.study.run import StudyRun
from analysis.study.words import value_text
from analysis.words import MISSING, number, plural
from probe.records import PSNR
from probe.records.names import PLAIN


def samples_claim(run: StudyRun, parts: Parts) -> Claim | None:
    """Show samples at equal steps, and say what the study's held-out scenes say of them."""
    samples = parts.samples
    if samples is None:
        return None
    last = int(samples.psnr["step"].max()) if len(samples.psnr) else run.step
    methods = list(dict.fromkeys(samples.psnr["method"]))
    first = next((name for name in methods if name != PLAIN), None)
    found = tables.differences(run)
    row = next((row for row in found.itertuples() if row.variant == first and row.metric == PSNR), None)
    picture = None if samples.picture is None else "data:image/png;base64," + base64.b64encode(samples.picture).decode()
    told = row if row is not None and last == run.step else None
    sentence = (
        f"At step {number(last)}, {_of_scenes(samples, first, last)}" if first else "Nothing stands beside plain."
    )
    if told is not None:
        word = {"better": "closer to the truth than", "worse": "further from the truth than"}
        which = word.get(told.verdict, "not shown to be closer to the truth than")
        sentence = (
            f"At step {number(last)}, views by {first} are {which} those by {PLAIN}: PSNR {interval_words(told)}. "
            f"{rests(run, [told.seeds])}"
        )
    return Claim(
        verdict=judge(told.low, told.high) if told is not None else NOT_SHOWN,
        number=MISSING if told is None else f"{first}, PSNR: {interval_words(told)}",
        section=Section(
            name="samples",
            title="Samples at equal steps",
            claim=sentence,
            text=f"Shown: {samples.rule}.",
            picture=picture,
            tables={"samples": _table(samples, methods, last, _of_scenes(samples, first, last))} if methods else {},
        ),
    )


def _of_scenes(samples: Samples, method: str | None, step: int) -> str:
    """Write in how many of the pictured scenes a method is closer to the truth, which is no test."""
    wide = _wide(samples, step)
    if method not in wide or PLAIN not in wide:
        return f"{plural(len(wide), 'scene')}."
    ahead = int((wide[method] > wide[PLAIN]).sum())
    return f"{method} has the higher PSNR in {ahead} of {plural(len(wide), 'scene')}."


def _wide(samples: Samples, step: int) -> pd.DataFrame:
    rows = samples.psnr[samples.psnr["step"] == step]
    return rows.pivot_table(index=["scene", "rotation_deg"], columns="method", values="value", sort=False)


def _table(samples: Samples, methods: list[str], step: int, counted: str) -> Table:
    wide = _wide(samples, step)
    rows = tuple(
        (str(scene), f"{turn:.0f}°", *(value_text(PSNR, row.get(name, np.nan)) for name in methods))
        for (scene, turn), row in zip(wide.index, wide.to_dict("records"), strict=True)
    )
    return Table(
        caption=f"PSNR (dB) of the pictured views at step {number(step)}: {counted} The picture illustrates, it "
        "tests nothing.",
        columns=("scene", "rotation", *methods),
        rows=rows,
    )
