"""What attention brings matters: editing a layer makes the prediction worse, or better where the truth is put in."""

import numpy as np
import pandas as pd
from scipy.stats import t as student

from analysis.blocks import Section
from analysis.probing.edits.causal import KINDS
from analysis.study.claims import figures
from analysis.study.claims.claim import AGAINST, NOT_SHOWN, SHOWN, Claim, judge, together
from analysis.study.claims.figures import Panel
from analysis.study.claims.layers import layer_of, probe_chart, probed_models
from analysis.study.claims.parts import Parts
from analysis.study.run import StudyRun
from analysis.words import MISSING, NBSP, listing, plural
from probe.records import EFFECT
from probe.records.names import BASE, PLAIN

BREAKING = ("within_view", "identity", "uniform", "shuffled_views")
"""Edits that take the other views away; the first that was made decides."""
TRUE_MATCH = "true_match"


def causes_claim(run: StudyRun, parts: Parts) -> Claim | None:
    """Draw the growth of the prediction's error when one layer is edited, by model."""
    models = [name for name, probed in probed_models(parts).items() if (probed.effects["measure"] == EFFECT).any()]
    if not models:
        return None
    table = pd.concat([_effects(parts, name) for name in models], ignore_index=True)
    kinds = [kind for kind in KINDS if (table["intervention"] == kind).any()]
    svg = figures.grouped(
        [_frame(table, kind) for kind in kinds], styles={name: figures.style_of(name) for name in models},
        name="claim-causes", alt="Growth of the prediction's error: " + "; ".join(_spoken(table, kinds)),
    )  # fmt: skip
    caption = (
        "By how much the error of the denoised prediction grows when one layer's attention is replaced: above zero, "
        f"the model depends on what was taken away. Bars: 95{NBSP}% intervals over scenes for all layers of a model at "
        "once (Bonferroni); filled: the whole bar lies on one side of zero."
    )
    decides = next((kind for kind in BREAKING if kind in kinds), kinds[0])
    rows = {name: _at(table, name, decides, layer_of(run, parts, name)) for name in models if name != BASE}
    known = {name: row for name, row in rows.items() if row is not None}
    last = list(known.values())[-1] if known else None
    return Claim(
        verdict=together(judge(row["low"], row["high"]) for row in known.values()),
        number=MISSING if last is None else f"{last['who']}, layer {last['x']}: {_amount(last)}",
        section=Section(
            name="causes",
            title="What these layers bring matters",
            claim=_sentence(known, decides),
            text=f"{_apart(known)}{_truth(run, parts, table)}".strip(),
            charts=(probe_chart(parts, "claim-causes", svg, caption, table),),
        ),
    )


def _effects(parts: Parts, name: str) -> pd.DataFrame:
    """Return a model's effects with ends that hold for all its layers at once."""
    rows = parts.probes[name].effects
    rows = rows[rows["measure"] == EFFECT].reset_index(drop=True)
    layers, freedom = max(1, rows["layer"].nunique()), (rows["units"] - 1).clip(lower=1).astype(float)
    wider = student.ppf(1 - 0.025 / layers, freedom) / student.ppf(0.975, freedom)
    low, high = (rows["value"] + wider * (rows[end] - rows["value"]) for end in ("low", "high"))
    return rows.assign(who=name, x=rows["layer"].astype(str), low=low, high=high, clear=(low > 0) | (high < 0))[
        ["who", "intervention", "x", "value", "low", "high", "clear", "units"]
    ]


def _frame(table: pd.DataFrame, kind: str) -> Panel:
    return Panel(
        title=f"{kind}: {KINDS[kind]}", xlabel="layer", table=table[table["intervention"] == kind], signed=True
    )


def _spoken(table: pd.DataFrame, kinds: list[str]) -> list[str]:
    texts = []
    for (kind, who), part in table[table["intervention"].isin(kinds)].groupby(["intervention", "who"], sort=False):
        most = part.loc[part["value"].abs().idxmax()]
        texts.append(f"{kind}, {who}: layer {most['x']} changes most, {_amount(most)}")
    return texts


def _at(table: pd.DataFrame, name: str, kind: str, layer: int) -> pd.Series | None:
    rows = table[(table["who"] == name) & (table["intervention"] == kind) & (table["x"] == str(layer))]
    return rows.iloc[0] if len(rows) and np.isfinite(rows["value"].iloc[0]) else None


def _percent(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", "−")


def _amount(row: pd.Series) -> str:
    spread = f", {_percent(row['low'])} to {_percent(row['high'])}" if np.isfinite(row["low"]) else ""
    return f"{_percent(row['value'])}{NBSP}%{spread}"


def _sentence(known: dict[str, pd.Series], kind: str) -> str:
    if not known:
        return "No trained model was edited."
    words = {SHOWN: "raises", NOT_SHOWN: "is not shown to change", AGAINST: "lowers"}
    texts = [f"in layer {row['x']} of {name} {words[judge(row['low'], row['high'])]} it ({_amount(row)})"
             for name, row in known.items()]  # fmt: skip
    units = plural(int(min(row["units"] for row in known.values())), "scene")
    return (
        f"The prediction's error under the edit {kind} ({KINDS[kind]}): {listing(texts)}; on {units}, for all layers "
        "at once."
    )


def _apart(known: dict[str, pd.Series]) -> str:
    """Return which supervised models depend on their layer more than plain on its own: intervals that do not meet."""
    plain = known.get(PLAIN)
    if plain is None:
        return ""
    more = [name for name, row in known.items() if name != PLAIN and row["low"] > plain["high"]]
    less = [name for name, row in known.items() if name != PLAIN and row["high"] < plain["low"]]
    texts = [f"{listing(names)} {word} than {PLAIN}" for names, word in ((more, "more"), (less, "less")) if names]
    return f" Intervals do not meet: {'; '.join(texts)}." if texts else ""


def _truth(run: StudyRun, parts: Parts, table: pd.DataFrame) -> str:
    """Return what putting the true match in does to each model's layer."""
    texts = []
    for name in probed_models(parts):
        row = _at(table, name, TRUE_MATCH, layer_of(run, parts, name))
        if row is not None:
            word = {SHOWN: "raises", AGAINST: "lowers"}.get(judge(row["low"], row["high"]), "is not shown to change")
            texts.append(f"{word} {name}'s error ({_amount(row)})")
    return f" The true match put in {listing(texts)}." if texts else ""
