"""Does supervision's lead over plain last in a long run: from a third of the steps on, and from half of them.

A lead that falls is no harm yet: plain may catch up. That going on supervising hurts is told by variants that stop.
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
from analysis.study.words import difference_text, is_share, signed_words, title
from analysis.words import MISSING, NBSP, by_chance, listing, number, plural
from probe.records import better
from probe.records.names import PAPERS, PLAIN

TIMES = {3: "a third", 2: "half"}
"""How many times as long the whole run is at least as the part of it that it is compared with, and that part."""
DRAWN = 2
"""Variants in the figure."""
RISES, FALLS, OPEN, FEW = "rises", "falls", "not separated", "too few seeds"
PHRASES = {RISES: "it rises", FALLS: "it falls", OPEN: "no change is shown", FEW: "too few seeds to tell"}
CAUTION = f"A lead falls where {PLAIN} catches up, too; whether going on hurts is told by variants that stop early."
STOPPED = "off"
"""The weight schedule of variants whose supervision ends before the run does."""
KEYS = ["variant", "metric"]
COLUMNS = ["times", *KEYS, "early", "end", "first", "last", "value", "low", "high", "seeds", "verdict"]


def leads(run: StudyRun) -> pd.DataFrame:
    """Return each supervised run's lead over the plain run of its seed, at every step at which both have a value.

    Args:
        run: The study; variants that stop supervising are left out.

    Returns:
        Columns variant (the paper's first), metric, seed, step, lead (the difference, signed so that more is better).
    """
    rows = run.study[run.study["metric"].isin(run.metrics) & np.isfinite(run.study["value"].astype(float))]
    plain = rows[rows["variant"] == PLAIN].set_index(["metric", "seed", "step"])["value"].rename("plain")
    names = _supervised(run)
    own = rows[rows["variant"].isin(names)].join(plain, on=["metric", "seed", "step"]).dropna(subset=["plain"])
    lead = (own["value"] - own["plain"]) * own["metric"].map(better).astype(float)
    table = own.assign(lead=lead)[[*KEYS, "seed", "step", "lead"]]
    return table.sort_values("variant", key=lambda part: part.map(names.index), kind="stable")


def _supervised(run: StudyRun) -> list[str]:
    role = tables.roles(run)
    rows = run.variants.to_dict("records")
    stopped = {str(row["variant"]) for row in rows if row.get("weight_schedule") == STOPPED}
    names = [name for name in run.names if role[name] == "supervised" and name not in stopped]
    return sorted(names, key=lambda name: name != PAPERS)


def lasting(run: StudyRun) -> pd.DataFrame:
    r"""Compare the leads after a part of the steps with those after all of them: a third, and half.

    .. math:: \bar c \pm t_{0.975,\, n - 1} \, s_c / \sqrt n, \qquad
        c = \mathrm{lead}(T) - \mathrm{lead}(t), \quad r \le t \le T / k

    with r the end of the ramp, until which cameras turn less, and t the last such evaluation of the most seeds.

    Args:
        run: The study.

    Returns:
        Columns times (k), variant, metric, early (t), end (the last step T), first and last (means of the lead at
        both), value (mean change, above 0 where the lead rises), low, high (95 %, Student's t over seeds, NaN below
        three), seeds, verdict ("rises", "falls", "not separated", "too few seeds"). Without such an evaluation there
        is no row.
    """
    ramp = float(run.settings.get("rotation_ramp") or 0)
    parts = [(times, keys, part) for times in TIMES for keys, part in leads(run).groupby(KEYS, sort=False)]
    changes = ((times, keys, _change(part, max(ramp, 1), run.step, times)) for times, keys, part in parts)
    return pd.DataFrame([(times, *keys, *change) for times, keys, change in changes if change], columns=COLUMNS)


def _change(part: pd.DataFrame, ramp: float, end: int, times: int) -> tuple[Any, ...] | None:
    """Return what the columns after variant and metric hold; None without an early evaluation and a last one."""
    wide = part.pivot_table(index="seed", columns="step", values="lead")
    both = {step: wide[[step, end]].dropna() for step in wide if end in wide and ramp <= step <= end / times}
    known = {step: pairs for step, pairs in both.items() if len(pairs)}
    if not known:
        return None
    early = max(known, key=lambda step: (len(known[step]), step))
    change, n = known[early][end] - known[early][early], len(known[early])
    mean, half = float(change.mean()), float(half_interval(change.std(), n))
    verdict = FEW if np.isnan(half) else RISES if mean > half else FALLS if mean < -half else OPEN
    return early, end, *known[early].mean(), mean, mean - half, mean + half, n, verdict


# --- the claim -------------------------------------------------------------------------------------------------------


def lasting_claim(run: StudyRun, _: Parts) -> Claim | None:
    """Return whether the lead of supervised runs over plain falls when they go on two or three times as long."""
    found = lasting(run)
    rows = _deciding(run, found)
    if rows.empty:
        return None
    svg, caption, table = _drawn(run, list(dict.fromkeys(found["variant"]))[:DRAWN])
    decides = [f"from {TIMES[row.times]} on {interval_words(row)}" for row in rows.itertuples()]
    return Claim(
        verdict=_verdict(rows),
        number=f"{rows['variant'].iloc[0]}, {title(rows['metric'].iloc[0])}, change of the lead: {'; '.join(decides)}",
        section=Section(
            name="lasting",
            title="Does the lead last",
            claim=_sentence(rows),
            text=" ".join(text for text in (_all(found), CAUTION, _ramp(run), rests(run, rows["seeds"])) if text),
            charts=(study_chart(run, "claim-lasting", svg, caption, table),),
            tables={"lasting": _table(found)},
        ),
    )


def lasting_words(run: StudyRun) -> str:
    """Return what the claim says, for a text; empty where nothing was evaluated early enough."""
    found = lasting(run)
    rows = _deciding(run, found)
    return " ".join(text for text in (_sentence(rows), _all(found)) if text) if len(rows) else ""


def _deciding(run: StudyRun, found: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the first variant by the metric that decides."""
    rows = found[found["metric"] == panels(run)[0]]
    return rows[rows["variant"] == rows["variant"].iloc[0]] if len(rows) else rows


def _verdict(rows: pd.DataFrame) -> str:
    fell = (rows["verdict"] == FALLS) & (rows["first"] > 0)
    return SHOWN if fell.any() else AGAINST if (rows["verdict"] == RISES).all() else NOT_SHOWN


def _sentence(rows: pd.DataFrame) -> str:
    """Write the lead at the early steps and at the end, and its changes."""
    row = next(rows.itertuples())
    last = signed_words(row._replace(value=row.last))
    return f"{row.variant} minus {PLAIN} by {title(row.metric)}: {last} after {number(row.end)} steps; " + (
        f"{'; '.join(map(_early_words, rows.itertuples()))}."
    )


def _early_words(row: Any) -> str:
    times = f"{row.end / row.early:.1f}".removesuffix(".0")
    first = signed_words(row._replace(value=row.first))
    return (
        f"{first} after {number(row.early)} (the run is {times} times as long; change {interval_words(row)}): "
        f"{PHRASES[row.verdict]}"
    )


def _all(found: pd.DataFrame) -> str:
    """Count the leads that rise and those that fall, and name the latter."""
    tested = found[found["verdict"] != FEW]
    if tested.empty:
        return ""
    counted = [_counted(words, tested[tested["times"] == times]) for times, words in TIMES.items()]
    return (
        f"Of all variants and measures, {' and '.join(filter(None, counted))}; each by an interval of its own, "
        f"{by_chance(len(tested))} would be by chance."
    )


def _counted(words: str, rows: pd.DataFrame) -> str:
    if rows.empty:
        return ""
    names = [f"{row.variant} by {title(row.metric)}" for row in rows.itertuples() if row.verdict == FALLS]
    falling = f" ({listing(names)})" if names else ""
    rising = int((rows["verdict"] == RISES).sum())
    return f"from {words} of the steps on {rising} of {plural(len(rows), 'lead')} rise and {len(names)} fall{falling}"


def _ramp(run: StudyRun) -> str:
    ramp = run.settings.get("rotation_ramp") or 0
    return f"Nothing before step {number(ramp)} is compared: until then cameras turn less (a ramp)." if ramp else ""


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
        [Panel(title=f"{title(metric)}: better than {PLAIN} by", xlabel="step", table=table[table["metric"] == metric],
               percent=is_share(metric), signed=True) for metric in shown],
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
        caption="Leads over the plain run of the same seed, above 0 where better, after a part of the steps and at the "
        f"end; means over seeds. Change: with its 95{NBSP}% interval over seeds, and its verdict.",
        columns=("variant", "measure", "verdict", "early step", "lead there", "lead at the end", "change",
                 f"95{NBSP}% interval", "seeds"),
        rows=tuple(rows),
        marked=tuple(n for n, row in enumerate(found.itertuples()) if row.verdict == FALLS),
        texts=3,
        wide=True,
    )  # fmt: skip


def _ends(row: Any) -> str:
    if np.isnan(row.low):
        return MISSING
    return f"{difference_text(row.metric, row.low)} to {difference_text(row.metric, row.high)}"
