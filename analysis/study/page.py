"""A study -> all that its page shows, and its line in the index: finished text, tables, figures. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.blocks import Chart, Section, SectionPage, Table, csv_link, picture_first, present
from analysis.study import figures, tables, words
from analysis.study.claims.page import claim_sections
from analysis.study.consistency_section import consistency_section
from analysis.study.details import (
    bands,
    cost_section,
    counts,
    gain_text,
    layers_section,
    readout_section,
    study_chart,
    worst_section,
)
from analysis.study.paper import beside_paper
from analysis.study.reach import reach_section
from analysis.study.run import StudyRun
from analysis.study.seeds import LEAST_SEEDS
from analysis.study.soon import how_soon
from analysis.study.words import best_words, difference_text, is_share, panel_title, title, value_text, with_half
from analysis.trivial import BEST, MARK_WORDS, Trivial, marked
from analysis.words import METHOD_LABELS, MISSING, NBSP, command, listing, number, plural, rebuild
from probe.records import HIGH_NOISE, PSNR, SSIM, TRIVIAL
from probe.records.names import PLAIN


@dataclass(frozen=True, kw_only=True)
class StudyEntry:
    """A study's line in the index, as finished text; ``link`` is relative to the index."""

    link: str
    name: str
    variants: str
    seeds: str
    steps: str
    verdict: str


def make_study_page(run: StudyRun) -> SectionPage:
    """Put together what the page of a study shows.

    Args:
        run: The study.
    """
    makers = (_convergence, _compared, reach_section, layers_section, readout_section, consistency_section,
              worst_section, cost_section, beside_paper)  # fmt: skip
    frames = {"study.csv": run.study, "summary.csv": run.summary, "reach.csv": run.reach, "settings.csv": run.variants,
              "how_soon.csv": how_soon(run)}  # fmt: skip
    claims, usual = claim_sections(run), present([maker(run) for maker in makers])
    names = {section.name for section in claims}
    lead, sections = picture_first([*claims, *(section for section in usual if section.name not in names)])
    return SectionPage(
        kind="study",
        title=f"{plural(len(run.names), 'way')} of training, seed by seed",
        subtitle=f"{listing(run.names)}; {number(run.step)} steps each.",
        answer=tuple(sentence for sentence in words.answer(run) if sentence),
        facts=tuple(_facts(run)),
        caveats=tuple(words.caveats(run)),
        lead=lead,
        sections=sections,
        settings=_texts(run.settings),
        environment=_texts(run.environment),
        command=command(_flags(run), "train.study"),
        rebuild=rebuild(run.settings, f"runs/{run.name}"),
        downloads=tuple((name, csv_link(frame)) for name, frame in frames.items()),
    )


def study_entry(run: StudyRun, link: str) -> StudyEntry:
    """Write a study's line in the index.

    Args:
        run: The study.
        link: To its page, relative to the index.
    """
    table = tables.differences(run) if PLAIN in run.names else pd.DataFrame(columns=["variant"])
    first = next((name for name in run.names if name != PLAIN), None)
    phrases = [
        f"{title(row.metric)} {difference_text(row.metric, row.value)}, {row.verdict}"
        for row in table[(table["variant"] == first)].itertuples()
        if row.metric in (PSNR, HIGH_NOISE) or is_share(row.metric)
    ]
    return StudyEntry(
        link=link,
        name=run.name,
        variants=listing(run.names),
        seeds="–".join(dict.fromkeys([str(min(run.seeds.values())), str(max(run.seeds.values()))])),
        steps=number(run.step),
        verdict=f"{first}: {'; '.join(phrases)}" if phrases else MISSING,
    )


def _flags(run: StudyRun) -> dict[str, object]:
    seeds = sorted({int(seed) for seed in run.study["seed"]})
    least = min(run.seeds.values())
    few = least if least < len(seeds) and seeds[:least] == run.shared_seeds else None
    paper = {"paper": run.parts is not None}
    seeded = {"variants": run.names, "seeds": seeds, "few_seeds": few}
    return {**paper, **seeded, **run.settings, "out": f"runs/{run.name}"}


def _texts(facts: dict[str, object]) -> tuple[tuple[str, str], ...]:
    return tuple((str(name).replace("_", " "), str(value)) for name, value in facts.items())


def _facts(run: StudyRun) -> list[tuple[str, str, str]]:
    facts = [("variants", number(len(run.names)), listing(run.names) if len(run.names) < 4 else ""),
             ("finished runs", number(sum(run.seeds.values())), ""), ("steps", number(run.step), "each")]  # fmt: skip
    if PLAIN not in run.names:
        return facts
    first = next((name for name in run.names if name != PLAIN), None)
    for row in tables.differences(run).itertuples():
        if row.variant == first and (row.metric in (PSNR, HIGH_NOISE) or is_share(row.metric)):
            name = f"{title(row.metric)}, {first} minus {PLAIN}"
            facts.append((name, difference_text(row.metric, row.value), f"{row.verdict}{_level(run, row)}"))
    return facts


def _level(run: StudyRun, row: Any) -> str:
    """Write where a variant ends and the best trivial baseline: "; 14.00 (best trivial baseline 12.00, copy)"."""
    best = tables.best_of(run, row.metric)
    if best is None:
        return ""
    last = run.summary[(run.summary["step"] == run.step) & (run.summary["metric"] == row.metric)]
    value = float(last.loc[last["variant"] == row.variant, "mean"].iloc[0])
    own = marked(value_text(row.metric, value), row.metric, value, best)
    return f"; it ends at {own}, the {BEST} is {best_words(row.metric, best)}"


# --- convergence -----------------------------------------------------------------------------------------------------


def _convergence(run: StudyRun) -> Section:
    table = tables.convergence(run, run.metrics)
    styles = figures.looks(run.names)
    shares = [name for name in run.metrics if is_share(name)]
    charts = [_curves(run, "convergence", table, [name for name in run.metrics if name not in shares], styles)]
    if shares:
        charts.append(_curves(run, "precision", table, shares, styles))
    return Section(name="convergence", title="Convergence", charts=tuple(charts), tables={"final": _final(run)})


def _curves(run: StudyRun, name: str, table: pd.DataFrame, metrics: Sequence[str], styles: dict) -> Chart:
    shown = table[table["panel"].isin(metrics)]
    share = name == "precision"
    what = (
        "How often the attention of each layer finds the corresponding point, probed on scenes that no run trains on. "
        if share
        else "Each measure on held-out scenes over the steps of training. Lines across are trivial baselines: a copy "
        "of the nearest reference view, and that view's mean colour; a variant that does not beat the better one has "
        "not been shown to use its cameras. "
    )
    last = shown[shown["step"] == run.step]
    phrases = "; ".join(
        f"{title(row.panel)}, {row.who}: {value_text(row.panel, row.value)}" for row in last.itertuples()
    )
    svg = figures.curves(
        shown, titles={metric: panel_title(metric) for metric in metrics}, styles=styles, name=name,
        percent=metrics if share else (), strong=run.names[:2],
        alt=f"Curves over steps. At the end: {phrases}",
    )  # fmt: skip
    caption = f"{what}Means over seeds, {listing(run.names[:2])} thick; {bands(run)} Seeds: {counts(run)}."
    return study_chart(run, name, svg, caption, shown)


def picture(run: StudyRun, variants: Sequence[str]) -> bytes:
    """Draw what matters most of a study as one PNG file: error at high noise, PSNR, SSIM, precision.

    Args:
        run: The study.
        variants: All that a study may have, in order, so that a smaller study looks the same.
    """
    shares = [name for name in run.metrics if is_share(name)]
    metrics = [name for name in (HIGH_NOISE, PSNR, SSIM) if name in run.metrics] + shares
    titles = {metric: panel_title(metric) for metric in metrics}
    table = tables.convergence(run, metrics)
    return figures.picture(table, titles=titles, styles=figures.looks(variants), percent=shares)


def _final(run: StudyRun) -> Table:
    table = tables.convergence(run, run.metrics)
    last = {(row.who, row.panel): row for row in table[table["step"] == run.step].itertuples()}
    best = {metric: tables.best_of(run, metric) for metric in run.metrics}
    variants = [(name, str(run.seeds[name]), *(_final_cell(metric, last.get((name, metric)), best[metric])
                                               for metric in run.metrics)) for name in run.names]  # fmt: skip
    labels = [METHOD_LABELS[method] for method in TRIVIAL]
    trivial = [(label, "", *(_final_cell(metric, last.get((label, metric)), None) for metric in run.metrics))
               for label in labels]  # fmt: skip
    return Table(
        caption=f"The values at step {number(run.step)}: means over seeds, ± half of the 95{NBSP}% interval from "
        f"{LEAST_SEEDS} seeds on ({words.seeds_vary(run)}), on {words.held_out(run)}; below, trivial baselines, on the "
        f"same scenes. {MARK_WORDS}.",
        columns=("variant", "seeds", *(panel_title(metric) for metric in run.metrics)),
        rows=(*variants, (BEST, "", *(best_words(metric, best[metric]) for metric in run.metrics)), *trivial),
        marked=(len(variants),),
        wide=True,
    )


def _final_cell(metric: str, row: Any, best: Trivial | None) -> str:
    return MISSING if row is None else marked(with_half(metric, row), metric, row.value, best)


# --- variants against plain ------------------------------------------------------------------------------------------


def _compared(run: StudyRun) -> Section | None:
    if PLAIN not in run.names or len(run.names) < 2:
        return None
    table = tables.differences(run).rename(columns={"variant": "who", "metric": "panel"})
    order, role = tables.ordered(run), tables.roles(run)
    shares = [metric for metric in run.metrics if is_share(metric)]
    labels = {name: f"{name} ({role[name]})" if role[name] != "supervised" else name for name in order}
    svg = figures.forest(
        table.assign(who=table["who"].map(labels)), titles={m: panel_title(m) for m in run.metrics},
        order=list(labels.values()), name="differences", percent=shares,
        alt="Differences to plain: " + "; ".join(
            f"{row.who}, {title(row.panel)}: {difference_text(row.panel, row.value)}, {row.verdict}"
            for row in table.itertuples()
        ),
    )  # fmt: skip
    caption = (
        f"Each variant's value at step {number(run.step)} minus that of the plain run of the same seed (which has the "
        f"same first weights, scenes and noise); bars: 95{NBSP}% intervals over seeds. Filled green: better "
        "than plain; filled vermilion: worse; open: not separable, or fewer than "
        f"{LEAST_SEEDS} seeds. A control is given false truth: if it helps as much, what helps is not the truth. "
        f"Seeds: {counts(run)}."
    )
    return Section(
        name="variants",
        title="Rivals and controls",
        charts=(study_chart(run, "differences", svg, caption, table),),
        tables={"variants": _variants(run)},
    )


def _variants(run: StudyRun) -> Table:
    """Put each variant's settings beside what it gains: rivals and controls in one table."""
    found = tables.differences(run).set_index(["variant", "metric"])
    role = tables.roles(run)
    own = [name for name in run.variants.columns if name not in ("variant", "layers")]
    rows = []
    for settings in run.variants.to_dict("records"):
        name = settings["variant"]
        gains = [gain_text(found, name, metric) for metric in run.metrics]
        texts = [str(settings[key]) or MISSING for key in own]
        rows.append((name, role[name], str(run.seeds.get(name, 0)), *texts, *gains))
    return Table(
        caption="What each variant is, in the settings in which variants differ, and its last value minus plain's of "
        f"the same seed (95{NBSP}% interval over seeds; precision in points).",
        columns=("variant", "what it is", "seeds", *(key.replace("_", " ") for key in own), *map(title, run.metrics)),
        rows=tuple(rows),
        marked=tuple(n for n, name in enumerate(run.names) if name == PLAIN),
        texts=2,
        wide=True,
    )
