"""Claims on what supervision does to the training: how soon, in which layer, which way, against what, at what cost."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis.blocks import Section
from analysis.figures import Drawing
from analysis.study import figures as study_figures
from analysis.study import tables
from analysis.study.claims import figures
from analysis.study.claims.claim import (
    AGAINST,
    NOT_SHOWN,
    PART,
    SHOWN,
    Claim,
    compare_words,
    interval_words,
    judge,
    panels,
    rests,
    together,
)
from analysis.study.claims.figures import Panel
from analysis.study.claims.parts import Parts
from analysis.study.details import cost_section, counts, study_chart, worst_section
from analysis.study.reach import reach_section
from analysis.study.run import StudyRun
from analysis.study.seeds import half_interval
from analysis.study.soon import how_soon, in_half
from analysis.study.words import difference_text, half_the_steps, is_share, pace_words, panel_title, title
from analysis.words import MISSING, NBSP, listing, number, plural
from probe.records import PSNR
from probe.records.names import PAPERS, PLAIN

LEADS = {"better": AGAINST, "worse": SHOWN}
"""What a verdict on another variant says of the claim that the paper's method is the better one."""


def soon_claim(run: StudyRun, _: Parts) -> Claim | None:
    """Return by which measures a supervised run is where plain ends in half the steps."""
    section = reach_section(run)
    table = how_soon(run)
    role = tables.roles(run)
    supervised = [name for name in run.names if role[name] == "supervised" and (table["variant"] == name).any()]
    first = next((name for name in (PAPERS, *supervised) if name in supervised), None)
    if section is None or first is None:
        return None
    rows = list(table[table["variant"] == first].itertuples())
    decides = next((row for row in rows if row.metric == PSNR), rows[0])
    sentence = f"{first}: {half_the_steps(rows)} {rests(run, [decides.seeds])}"
    others = [name for name in supervised if name != first and _halved(table, name)]
    texts = [f"{name} by {listing(_halved(table, name))}" for name in others]
    more = f"In half the steps or less, too: {'; '.join(texts)}." if texts else ""
    return Claim(
        verdict=_pace_verdict(rows),
        number=f"{len(_halved(table, first))} of {plural(len(rows), 'measure')}; {first}, {title(decides.metric)}: "
        f"{pace_words(decides)}",
        section=replace(section, claim=sentence, text=more),
    )  # fmt: skip


def _halved(table: pd.DataFrame, variant: str) -> list[str]:
    return [title(row.metric) for row in table[table["variant"] == variant].itertuples() if in_half(row)]


def _pace_verdict(rows: Sequence) -> str:
    halved = [in_half(row) for row in rows]
    if any(halved):
        return SHOWN if all(halved) else PART
    late = any(row.verdict == "later" for row in rows) and not any(row.verdict == "sooner" for row in rows)
    return AGAINST if late else NOT_SHOWN


# --- variants beside each other --------------------------------------------------------------------------------------


def which_layer_claim(run: StudyRun, _: Parts) -> Claim | None:
    """Draw what supervising each layer gains over plain, and compare the paper's layer with the others."""
    role = tables.roles(run)
    others = [name for name in run.names if role[name] == "another layer"]
    if PAPERS not in run.names or PLAIN not in run.names or not others or "layer" not in run.variants:
        return None
    layer = run.variants.set_index("variant")["layer"]
    order = sorted([PAPERS, *others], key=lambda name: (int(layer[name]) if layer[name].isdecimal() else 999, name))
    labels = {name: f"{layer[name]}\n{name}" for name in order}
    found = tables.differences(run, variants=order)
    place = {name: n for n, name in enumerate(order)}
    table = found.assign(
        x=found["variant"].map(labels), clear=found["verdict"].isin(["better", "worse"]),
        who=np.where(found["variant"] == PAPERS, PAPERS, "another layer"),
    ).sort_values("variant", key=lambda names: names.map(place), kind="stable")  # fmt: skip
    shown = panels(run)
    svg = figures.grouped(
        [Panel(title=panel_title(metric), xlabel="supervised layer", table=table[table["metric"] == metric],
               percent=is_share(metric), signed=True) for metric in shown],
        styles={who: figures.style_of(who) for who in (PAPERS, "another layer")}, name="claim-layer",
        columns=3 if len(order) < 6 else 1,
        alt="Gain over plain by supervised layer. " + _spoken(table[table["metric"].isin(shown)]),
    )  # fmt: skip
    caption = (
        f"The last value of each variant minus plain's of the same seed, by the layer that it supervises. Bars: "
        f"95{NBSP}% intervals over seeds, jointly for the layers of a panel; filled: the bar excludes zero. "
        f"Seeds: {counts(run)}."
    )
    return _compared(
        run, base=PAPERS, variants=others, name="which-layer", heading="Which layer to supervise",
        drawn=(svg, caption, table),
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Differences of some variants to another one, as rows of a figure."""

    base: str
    table: pd.DataFrame

    @classmethod
    def of(cls, run: StudyRun, base: str, variants: Sequence[str]) -> "Rows":
        """Compare variants with another one, jointly."""
        return cls(base=base, table=tables.differences(run, base, variants))


def choices_claim(run: StudyRun, _: Parts) -> Claim | None:
    """Compare other mixings, truths, weights and an early stop with the paper's method."""
    role = tables.roles(run)
    variants = [name for name in run.names if role[name] == "supervised" and name != PAPERS]
    if PAPERS not in run.names or not variants:
        return None
    claim = _compared(run, base=PAPERS, variants=variants, name="choices",
                      heading="Mixing of heads, truth, weight, early stop",
                      drawn=_forest(run, "choices", [Rows.of(run, PAPERS, variants)]))  # fmt: skip
    rows = _deciding(run, PAPERS, variants)
    verdicts = set(rows["verdict"])
    verdict = SHOWN if "better" in verdicts else AGAINST if verdicts == {"worse"} else NOT_SHOWN
    best = rows.sort_values("gain", ascending=False, kind="stable").iloc[:1]
    return replace(claim, verdict=verdict, number=_number(best))


def rivals_claim(run: StudyRun, _: Parts) -> Claim | None:
    """Compare competing objectives with the paper's method, and with plain."""
    variants = _of_role(run, "a rival")
    if PAPERS not in run.names or not variants:
        return None
    both = [Rows.of(run, base, variants) for base in (PLAIN, PAPERS) if base in run.names]
    claim = _compared(run, base=PAPERS, variants=variants, name="rivals", heading="Competing objectives",
                      drawn=_forest(run, "rivals", both))  # fmt: skip
    if PLAIN not in run.names:
        return claim
    metric, rows = panels(run)[0], _deciding(run, PLAIN, variants)
    groups = [f"{word} by {listing(rows.loc[rows['verdict'] == verdict, 'variant'])}"
              for verdict, word in (("better", "it is beaten"), ("worse", "it is not reached"))
              if (rows["verdict"] == verdict).any()]  # fmt: skip
    beside = f"Plain, by {title(metric)}: {'; '.join(groups) or 'not separated from any of them'}. "
    return replace(claim, section=replace(claim.section, text=beside + claim.section.text))


def controls_claim(run: StudyRun, _: Parts) -> Claim | None:
    """Show that false truth does not help, and that true truth is ahead of it."""
    variants = _of_role(run, "a control")
    if PLAIN not in run.names or not variants:
        return None
    metric = panels(run)[0]
    beside = [name for name in (PAPERS,) if name in run.names]
    rows = _deciding(run, PLAIN, variants)
    ahead = [_deciding(run, name, [PAPERS]) for name in variants] if beside else []
    helped = [row for row in rows.itertuples() if row.verdict == "better"]
    leads = [
        judge(part["gain"].iloc[0] - _half(part), part["gain"].iloc[0] + _half(part)) for part in ahead if len(part)
    ]
    word = "helps" if helped else "is not shown to help"
    texts = [f"{PAPERS} minus {name}: {interval_words(next(part.itertuples()))} ({part['verdict'].iloc[0]})"
             for name, part in zip(variants, ahead, strict=bool(ahead)) if len(part)]  # fmt: skip
    sentence = f"By {title(metric)}, false truth {word}: {compare_words(rows, PLAIN)}" + (
        f" With true matches, {'; '.join(texts)}." if texts else ""
    )
    svg, caption, table = _forest(run, "controls", [Rows.of(run, PLAIN, [*variants, *beside])])
    return Claim(
        verdict=AGAINST if helped else together(leads),
        number=_number(rows.iloc[:1]),
        section=Section(name="controls", title="Controls: false truth must not help", claim=sentence,
                        text=rests(run, rows["seeds"], len(rows)),
                        charts=(study_chart(run, "claim-controls", svg, caption, table),)),
    )  # fmt: skip


def _half(part: pd.DataFrame) -> float:
    return float((part["high"] - part["low"]).iloc[0] / 2)


def _of_role(run: StudyRun, role: str) -> list[str]:
    roles = tables.roles(run)
    return [name for name in run.names if roles[name] == role]


def _deciding(run: StudyRun, base: str, variants: Sequence[str]) -> pd.DataFrame:
    """Return the differences by the metric that decides."""
    found = tables.differences(run, base, variants)
    return found[found["metric"] == panels(run)[0]]


def _compared(
    run: StudyRun,
    *,
    base: str,
    variants: Sequence[str],
    name: str,
    heading: str,
    drawn: tuple[Drawing, str, pd.DataFrame],
) -> Claim:
    """Make the claim that one variant is ahead of others: shown, if all of them are behind it."""
    rows, metric = _deciding(run, base, variants), panels(run)[0]
    svg, caption, table = drawn
    worst = rows.sort_values("gain", ascending=False, kind="stable").iloc[:1]
    return Claim(
        verdict=together(LEADS.get(verdict, NOT_SHOWN) for verdict in rows["verdict"]),
        number=_number(worst),
        section=Section(
            name=name,
            title=heading,
            claim=f"By {title(metric)}, {compare_words(rows, base)}" if len(rows) else "",
            text=rests(run, rows["seeds"], len(rows)) if len(rows) else "",
            charts=(study_chart(run, f"claim-{name}", svg, caption, table),),
        ),
    )


def _number(rows: pd.DataFrame) -> str:
    return next((f"{row.variant}, {title(row.metric)}: {interval_words(row)}" for row in rows.itertuples()), MISSING)


def _forest(run: StudyRun, name: str, groups: Sequence[Rows]) -> tuple[Drawing, str, pd.DataFrame]:
    """Draw differences, a row per variant and per variant that it is compared with."""
    named = {group.base: f" minus {group.base}" if len(groups) > 1 else "" for group in groups}
    parts = [each.table.assign(who=each.table["variant"] + named[each.base], base=each.base) for each in groups]
    table = pd.concat(parts, ignore_index=True).rename(columns={"metric": "panel"})
    shown = panels(run)
    svg = study_figures.forest(
        table, titles={metric: panel_title(metric) for metric in shown}, order=list(dict.fromkeys(table["who"])),
        name=f"claim-{name}", percent=[metric for metric in shown if is_share(metric)],
        alt="Differences: " + _spoken(table[table["panel"].isin(shown)].rename(columns={"panel": "metric"})),
    )  # fmt: skip
    against = listing(dict.fromkeys(group.base for group in groups))
    caption = (
        f"Each variant's value at step {number(run.step)} minus that of {against} with the same seed. Bars: "
        f"95{NBSP}% intervals over seeds, jointly for the rows of a panel that are compared with the same one. Filled "
        f"green: better; filled vermilion: worse; open: not separable, or too few seeds. Seeds: {counts(run)}."
    )
    return svg, caption, table


def _spoken(table: pd.DataFrame) -> str:
    return "; ".join(
        f"{row.variant}, {title(row.metric)}: {difference_text(row.metric, row.value)}, {row.verdict}"
        for row in table.itertuples()
    )


# --- what it costs ---------------------------------------------------------------------------------------------------


def worst_claim(run: StudyRun, _: Parts) -> Claim | None:
    """Return which metrics of which supervised variants end worse than plain."""
    section, found = worst_section(run), tables.differences(run)
    role = tables.roles(run)
    own = found[found["variant"].map(lambda name: role[name] == "supervised")]
    if section is None or own.empty:
        return None
    worse, counted = own[own["verdict"] == "worse"], own["verdict"].value_counts()
    texts = [f"{row.variant} by {title(row.metric)} ({interval_words(row)})" for row in worse.itertuples()]
    which = f" ({listing(texts)})" if texts else ""
    sentence = (
        f"Of {plural(len(own), 'comparison')} of a supervised variant and a metric with {PLAIN}, each by an interval "
        f"of its own, {len(worse)} end worse{which}, {counted.get('better', 0)} better, and "
        f"{len(own) - len(worse) - counted.get('better', 0)} are not separated."
    )
    every = bool((own["verdict"] == "better").all())
    return Claim(
        verdict=AGAINST if len(worse) else SHOWN if every else NOT_SHOWN,
        number=f"{len(worse)} of {len(own)} worse, {counted.get('better', 0)} better",
        section=replace(section, title="What got worse", claim=sentence),
    )


def cost_claim(run: StudyRun, _: Parts) -> Claim | None:
    """Return by how much supervision makes a step longer."""
    section = cost_section(run)
    wide = run.seconds.pivot_table(index="seed", columns="variant", values="seconds")
    if section is None or PLAIN not in wide or PAPERS not in wide:
        return None
    logs = np.log((wide[PAPERS] / wide[PLAIN]).dropna())
    mean, half = float(logs.mean()), float(half_interval(logs.std(), len(logs)))
    low, high = np.exp(mean - half), np.exp(mean + half)
    spread = f" (95{NBSP}% interval {low:.2f} to {high:.2f})" if np.isfinite(low) else ""
    text = f"{np.exp(mean):.2f} times{spread}"
    return Claim(
        verdict=judge(-np.log(high), -np.log(low)),
        number=text,
        section=replace(section, claim=f"A step of {PAPERS} takes {text} as long as one of {PLAIN}, over "
                        f"{plural(len(logs), 'seed')} on the machine at hand."),
    )  # fmt: skip
