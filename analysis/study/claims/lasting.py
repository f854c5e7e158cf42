"""Does supervision's lead over plain last in a long run: after a third of the steps or less, and after all of them.

A lead that shrinks is no harm yet: plain may catch up. Harm is an end below plain (analysis.study.claims.training).
"""

from typing import Any

import numpy as np
import pandas as pd

from analysis.blocks import Section, Table
from analysis.figures import Drawing
from analysis.study import tables
from analysis.study.claims import figures
from analysis.study.claims.claim import AGAINST, NOT_SHOWN, SHOWN, Claim, interval_words, panels, rests
from analysis.study.claims.figures import Panel
from analysis.study.claims.parts import Parts
from analysis.study.details import counts, study_chart
from analysis.study.run import StudyRun
from analysis.study.seeds import half_interval
from analysis.study.words import difference_text, is_share, panel_title, signed_words, title
from analysis.words import MISSING, NBSP, listing, number, plural
from probe.records import better
from probe.records.names import PAPERS, PLAIN

TIMES = 3
"""How many times as long the whole run is at least as the part of it that it is compared with."""
DRAWN = 2
"""Variants in the figure."""
GROWS, SHRINKS, OPEN, FEW = "grows", "shrinks", "not separated", "too few seeds"
VERDICTS = {SHRINKS: SHOWN, GROWS: AGAINST}
"""What a change of the lead says of the claim that it shrinks."""
HARM = f"A lead also shrinks where {PLAIN} catches up; harm would be an end below it (What got worse)."
PHRASES = {GROWS: "it grows", SHRINKS: "it shrinks", OPEN: "no change is shown", FEW: "too few seeds to tell"}
KEYS = ["variant", "metric"]
COLUMNS = [*KEYS, "early", "end", "first", "last", "value", "low", "high", "seeds", "verdict"]


def leads(run: StudyRun) -> pd.DataFrame:
    """Return each supervised run's lead over the plain run of its seed, at every step at which both have a value.

    Args:
        run: The study.

    Returns:
        Columns variant, metric, seed, step, lead (the difference, signed so that more is better).
    """
    rows = run.study[run.study["metric"].isin(run.metrics)].dropna(subset=["value"])
    plain = rows[rows["variant"] == PLAIN].set_index(["metric", "seed", "step"])["value"].rename("plain")
    own = rows[rows["variant"].isin(_supervised(run))].join(plain, on=["metric", "seed", "step"]).dropna()
    lead = (own["value"] - own["plain"]) * own["metric"].map(better).astype(float)
    return own.assign(lead=lead)[[*KEYS, "seed", "step", "lead"]]


def lasting(run: StudyRun) -> pd.DataFrame:
    r"""Compare the leads after a third of the steps or less, the last such evaluation, with those after all of them.

    .. math:: \bar c \pm t_{0.975,\, n - 1} \, s_c / \sqrt n, \qquad
        c = \mathrm{lead}(T) - \mathrm{lead}(t), \quad t \le T / 3

    Args:
        run: The study.

    Returns:
        Columns variant, metric, early (the step t), end (the last step T), first and last (means of the lead at both),
        value (mean change, above 0 where the lead grows), low, high (95 %, Student's t over seeds, NaN below three),
        seeds, verdict ("grows", "shrinks", "not separated", "too few seeds"). Without an early evaluation there is no
        row.
    """
    rows = [
        (*keys, *change) for keys, part in leads(run).groupby(KEYS, sort=False) if (change := _change(part, run.step))
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _change(part: pd.DataFrame, end: int) -> tuple[Any, ...] | None:
    """Return what the columns after variant and metric hold; None without an early evaluation and a last one."""
    wide = part.pivot_table(index="seed", columns="step", values="lead")
    early = [step for step in wide if TIMES * step <= end]
    return _from(wide, max(early), end) if early and end in wide else None


def _from(wide: pd.DataFrame, step: int, end: int) -> tuple[Any, ...] | None:
    """Compare the leads after a step with the last ones; None where no seed has both."""
    both = wide[[step, end]].dropna()
    change, n = both[end] - both[step], len(both)
    if not n:
        return None
    mean, half = float(change.mean()), float(half_interval(change.std(), n))
    verdict = FEW if np.isnan(half) else GROWS if mean > half else SHRINKS if mean < -half else OPEN
    return step, end, *both.mean(), mean, mean - half, mean + half, n, verdict


def _supervised(run: StudyRun) -> list[str]:
    role = tables.roles(run)
    return sorted((name for name in run.names if role[name] == "supervised"), key=lambda name: name != PAPERS)


# --- the claim -------------------------------------------------------------------------------------------------------


def lasting_claim(run: StudyRun, _: Parts) -> Claim | None:
    """Return whether the lead of supervised runs over plain shrinks when they go on three times as long."""
    found, metric = lasting(run), panels(run)[0]
    rows = found[found["metric"] == metric]
    if rows.empty:
        return None
    row = next(rows.itertuples())
    svg, caption, table = _drawn(run, list(rows["variant"])[:DRAWN])
    return Claim(
        verdict=VERDICTS.get(row.verdict, NOT_SHOWN),
        number=f"{row.variant}, {title(metric)}: the lead changes by {interval_words(row)}",
        section=Section(
            name="lasting",
            title="Does the lead last",
            claim=_sentence(row),
            text=f"{_highest(run, row)} {_all(found)} {HARM} {rests(run, rows['seeds'])}",
            charts=(study_chart(run, "claim-lasting", svg, caption, table),),
            tables={"lasting": _table(found)},
        ),
    )


def lasting_words(run: StudyRun) -> str:
    """Return what the claim says, for a text; empty where nothing was evaluated early enough."""
    found = lasting(run)
    rows = found[found["metric"] == panels(run)[0]]
    if rows.empty:
        return ""
    row = next(rows.itertuples())
    return " ".join(text for text in (_sentence(row), _highest(run, row), _all(found)) if text)


def _sentence(row: Any) -> str:
    """Write the lead at both steps, and its change: "cameo's lead over plain by PSNR: +0.61 dB after 300 steps"."""
    first, last = (signed_words(row._replace(value=value)) for value in (row.first, row.last))
    return (
        f"{row.variant}'s lead over {PLAIN} by {title(row.metric)}: {first} after {plural(row.early, 'step')}, {last} "
        f"after {number(row.end)}, {row.end / row.early:.2g} times as many (change {interval_words(row)}): "
        f"{PHRASES[row.verdict]}."
    )


def _highest(run: StudyRun, row: Any) -> str:
    """Write after how many steps the lead is highest, and its change from there."""
    own = leads(run).query("variant == @row.variant and metric == @row.metric")
    wide = own.pivot_table(index="seed", columns="step", values="lead").dropna(axis="columns")
    top = int(wide.mean().idxmax()) if len(wide.columns) else row.end
    change = _from(wide, top, row.end) if row.end in wide and top != row.end else None
    if change is None:
        return ""
    fall = row._replace(**dict(zip(COLUMNS[2:], change, strict=True)))
    return (
        f"It is highest after {number(top)} steps, {signed_words(fall._replace(value=fall.first))}, and changes from "
        f"there by {interval_words(fall)}: a step that is chosen by its height exaggerates a fall."
    )


def _all(found: pd.DataFrame) -> str:
    """Count the leads that grow and those that shrink, and name the latter."""
    tested = found[found["verdict"] != FEW]
    if tested.empty:
        return ""
    names = [f"{row.variant} by {title(row.metric)}" for row in tested.itertuples() if row.verdict == SHRINKS]
    shrinking = f" ({listing(names)})" if names else ""
    return (
        f"Of {plural(len(tested), 'lead')} (variants and measures), each by an interval of its own, "
        f"{(tested['verdict'] == GROWS).sum()} grow and {len(names)} shrink{shrinking}; about "
        f"{max(1, round(len(tested) / 20))} would do so by chance alone."
    )


def _drawn(run: StudyRun, variants: list[str]) -> tuple[Drawing, str, pd.DataFrame]:
    """Draw the leads of some variants over the steps."""
    shown, order = panels(run), {name: n for n, name in enumerate(variants)}
    own = leads(run).query("variant in @variants and metric in @shown")
    groups = own.groupby([*KEYS, "step"], sort=False)["lead"]
    table = groups.agg(["mean", "std", "count"]).reset_index().rename(columns={"mean": "value", "variant": "who"})
    half = half_interval(table["std"].to_numpy(), table["count"].to_numpy())
    table = table.assign(low=table["value"] - half, high=table["value"] + half, x=table["step"].map(number))
    table["clear"] = (table["low"] > 0) | (table["high"] < 0)
    table = table.sort_values(["step", "who"], key=lambda part: part.map(order) if part.name == "who" else part)
    svg = figures.grouped(
        [Panel(title=panel_title(metric), xlabel="step", table=table[table["metric"] == metric],
               percent=is_share(metric), signed=True, ylabel=f"better than {PLAIN} by") for metric in shown],
        styles={name: figures.style_of(name) for name in variants}, name="claim-lasting", columns=1,
        alt=f"Lead over {PLAIN} by step. " + "; ".join(
            f"{row.who}, {title(row.metric)}, step {row.x}: {difference_text(row.metric, row.value)}"
            for row in table.itertuples()),
    )  # fmt: skip
    caption = (
        f"How far supervised runs are ahead of the plain run of the same seed at equal steps; above the line: better, "
        f"whichever way the measure goes. Bars: 95{NBSP}% intervals over seeds; filled: the bar excludes zero. "
        f"Seeds: {counts(run)}."
    )
    return svg, caption, table[["metric", "who", "step", "x", "value", "low", "high", "count", "clear"]]


def _table(found: pd.DataFrame) -> Table:
    rows = [
        (row.variant, title(row.metric), row.verdict, number(row.early), difference_text(row.metric, row.first),
         difference_text(row.metric, row.last), difference_text(row.metric, row.value), _ends(row), str(row.seeds))
        for row in found.itertuples()
    ]  # fmt: skip
    return Table(
        caption="Leads over the plain run of the same seed, above 0 where better, at the end and at an evaluation "
        f"than which the whole run is at least {TIMES} times as long; means over seeds. Change: 95{NBSP}% interval "
        "over seeds.",
        columns=("variant", "measure", "the lead", "early step", "lead there", "lead at the end", "change",
                 f"95{NBSP}% interval", "seeds"),
        rows=tuple(rows),
        marked=tuple(n for n, row in enumerate(found.itertuples()) if row.verdict == SHRINKS),
        texts=3,
        wide=True,
    )  # fmt: skip


def _ends(row: Any) -> str:
    if np.isnan(row.low):
        return MISSING
    return f"{difference_text(row.metric, row.low)} to {difference_text(row.metric, row.high)}"
