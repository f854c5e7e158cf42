"""A folder of python -m train.evaluate -> all that its page shows, and its line in the index. Pure."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.blocks import Chart, Section, SectionPage, Table, chart, csv_link, picture_first, present
from analysis.evaluation import figures, geometry, words
from analysis.evaluation import run as evaluation
from analysis.evaluation.geometry_section import geometry_section
from analysis.evaluation.pictures import shown_cases
from analysis.evaluation.run import Evaluation
from analysis.evaluation.words import SHORT, reference_words, with_range
from analysis.figures import Drawing
from analysis.trivial import BEST, MARK_WORDS, best_trivial, marked
from analysis.words import MISSING, NBSP, amount, bin_words, command, listing, number, rebuild
from analysis.worst_cases import worst_table
from probe.records import ALL_ROTATIONS, MATCH_ERROR, METRICS, MODEL, PSNR, SSIM, TRIVIAL, split_set_metric

PROGRAM = "train.evaluate"
EXTRACTORS = {"colour-cells": "colour cells"}
"""Extractors of features by other names than their own in capitals."""


@dataclass(frozen=True, kw_only=True)
class EvaluationEntry:
    """An evaluation's line in the index, as finished text; ``link`` is relative to the index."""

    link: str
    name: str
    model: str
    scenes: str
    counts: str
    references: str
    psnr: str
    ssim: str
    match_error: str


def make_evaluation_page(run: Evaluation) -> SectionPage:
    """Put together what the page of an evaluation shows.

    Args:
        run: The evaluation.
    """
    makers = (_samples, _quality, geometry_section, _worst, _views, _references, _sets)
    lead, sections = picture_first(present([maker(run) for maker in makers]))
    return SectionPage(
        kind="evaluation",
        title=words.title(run),
        subtitle=f"{words.counts(run)} of {words.scenes_name(run)}, beside trivial baselines.",
        answer=tuple(words.answer(run)),
        facts=tuple(_facts(run)),
        caveats=tuple(words.caveats(run)),
        lead=lead,
        sections=sections,
        settings=_texts(run.settings),
        environment=_texts(run.environment),
        command=command(run.settings, PROGRAM),
        rebuild=rebuild(run.settings, run.name),
        downloads=tuple(
            (name, csv_link(frame))
            for name, frame in {
                "summary.csv": run.summary, "images.csv": run.images, "worst.csv": run.worst,
                "differences.csv": evaluation.differences(run), **_geometry_tables(run),
            }.items()
        ),
    )  # fmt: skip


def _geometry_tables(run: Evaluation) -> dict[str, pd.DataFrame]:
    """Return the tables of the geometry to download; none where it was not measured."""
    if run.geometry is None:
        return {}
    return {"geometry.csv": run.geometry, "geometry-trust.csv": geometry.trust(run.geometry)}


def evaluation_entry(run: Evaluation, link: str) -> EvaluationEntry:
    """Write an evaluation's line in the index: the values at the smallest number of references.

    Args:
        run: The evaluation.
        link: To its page, relative to the index.
    """
    first = run.references[0]
    return EvaluationEntry(
        link=link,
        name=run.name,
        model=words.model_name(run),
        scenes=words.scenes_name(run),
        counts=number(run.scenes),
        references=number(first),
        **{name: words.with_trivial(run, first, name) for name in (PSNR, SSIM, MATCH_ERROR)},
    )


def _texts(facts: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((str(name).replace("_", " "), listing(value) if isinstance(value, list) else str(value))
                 for name, value in facts.items())  # fmt: skip


def _facts(run: Evaluation) -> list[tuple[str, str, str]]:
    facts = [("scenes", number(run.scenes), f"{number(len(run.views))} target views in all; {words.units(run)}")]
    for n_ref in run.references:
        for name in run.measured:
            value, note = words.fact(run, n_ref, name)
            facts.append((f"{METRICS[name].title}, {reference_words(n_ref)}", value, note))
    return facts


def _draw(run: Evaluation, name: str, svg: Drawing, caption: str, table: pd.DataFrame) -> Chart:
    return chart(name, svg, caption, source=words.source(run), table=table)


# --- sections --------------------------------------------------------------------------------------------------------


def _quality(run: Evaluation) -> Section:
    return Section(
        name="quality",
        title="Image quality by rotation",
        charts=tuple(_rotation(run, n_ref) for n_ref in run.references),
        tables={f"quality-{n_ref}": _written(run, n_ref) for n_ref in run.references},
    )


def _rotation(run: Evaluation, n_ref: int) -> Chart:
    table = evaluation.by_rotation(run, n_ref)
    places = {name: _bin(name) for name in _bins(run, n_ref)}
    titles = {name: METRICS[name].heading for name in run.measured}
    name = f"rotation-{n_ref}"
    caption = (
        f"With {reference_words(n_ref)}, by the rotation of the target view against view 0. Blue: generated views "
        "against the true ones; open marks: trivial baselines, for the same views; bars: 95\u00a0% intervals over "
        f"independent units. The answer says whether the difference on the same views is clear. {words.floor(run)}"
        f"Target views: {_counted(run, table)}."
    )
    alt = f"Image quality by rotation with {reference_words(n_ref)}. {words.spoken(run, n_ref)}"
    svg = figures.beside_trivial(
        table, titles=titles, places=places, xlabel="rotation against view 0", name=name, alt=alt
    )
    return _draw(run, name, svg, caption, table)


def _bins(run: Evaluation, n_ref: int) -> list[str]:
    rows = run.summary[(run.summary["n_ref"] == n_ref) & ~evaluation.of_sets(run.summary)]
    return list(dict.fromkeys(rows["rotation_bin"]))


def _bin(name: str) -> str:
    return name if name == ALL_ROTATIONS else bin_words(name)


def _counted(run: Evaluation, table: pd.DataFrame) -> str:
    """Return the number of views of each rotation bin."""
    rows = table[(table["panel"] == PSNR) & (table["who"] == run.labels[MODEL])]
    each = zip(rows["count"], rows["x"], strict=True)
    return listing(f"{number(count)} ({_bin(place)})" for count, place in each)


def _written(run: Evaluation, n_ref: int) -> Table:
    rows = run.summary[run.summary["n_ref"] == n_ref].set_index(["rotation_bin", "metric", "method"])
    bins, names = _bins(run, n_ref), run.measured
    heads = [(name, method) for name in names for method in SHORT if (ALL_ROTATIONS, name, method) in rows.index]
    columns = [METRICS[name].title if method == MODEL else SHORT[method] for name, method in heads]
    written = []
    for place in bins:
        first = rows.loc[(place, names[0], MODEL)] if names else None
        counts = (MISSING, MISSING) if first is None else (number(first["scenes"]), number(first["count"]))
        cells = [_cell(rows, place, name, method) for name, method in heads]
        written.append((_bin(place), *counts, *cells))
    return Table(
        caption=f"With {reference_words(n_ref)}: means with 95\u00a0% intervals over independent units, PSNR in dB; "
        f"after each measure {words.beside(run)}. Their intervals are in the figure and in summary.csv. {MARK_WORDS}.",
        columns=("rotation", "scenes", "views", *columns),
        rows=tuple(written),
        marked=(len(written) - 1,),
        wide=True,
    )


def _cell(rows: pd.DataFrame, place: str, name: str, method: str) -> str:
    """Write a mean of the model with its interval and mark, and any other without them."""
    if (place, name, method) not in rows.index:
        return MISSING
    row = rows.loc[(place, name, method)]
    if method != MODEL:
        return amount(name, row["value"]).partition(NBSP)[0]
    best = best_trivial(name, lambda one: rows["value"].get((place, name, one), np.nan))
    return marked(with_range(name, row), name, row["value"], best)


def _samples(run: Evaluation) -> Section | None:
    if run.samples is None:
        return None
    picture = "data:image/png;base64," + base64.b64encode(run.samples).decode()
    psnr = {kind: [case[PSNR] for one, case in shown_cases(run.worst) if one == kind] for kind in ("worst", "median")}
    text = f"Reference, true view and generated view of the {_spanned(psnr['worst'])} worst by PSNR"
    text += f", and of {_spanned(psnr['median'])} from the middle." if psnr["median"] else "."
    return Section(name="samples", title="What it generates", text=text, picture=picture)


def _spanned(values: Sequence[float]) -> str:
    return f"{len(values)} ({amount(PSNR, min(values))} to {amount(PSNR, max(values))})"


def _worst(run: Evaluation) -> Section:
    text = "Every generated view, the lowest PSNR first."
    return Section(name="worst", title="Worst cases first", text=text, tables={"worst": worst_table(run.worst)})


def _views(run: Evaluation) -> Section | None:
    table = evaluation.view_by_view(run).dropna()
    if table.empty:
        return None
    above = int((table["generated"] > table["trivial"]).sum())
    each = table.drop_duplicates("who")
    which = listing(f"{SHORT[method]} with {who}" for who, method in zip(each["who"], each["method"], strict=True))
    caption = (
        f"One mark per generated view: above the dashed line it is closer to the true view than the {BEST} is (by "
        f"PSNR over all views: {which}). So are {number(above)} of {number(len(table))}. PSNR rewards smooth images: a "
        "mark far above the line may still be a blurred view."
    )
    alt = f"PSNR of each generated view against the {BEST}; {above} of {len(table)} lie above the line."
    drawn = _draw(run, "views", figures.against_trivial(table, alt=alt), caption, table)
    return Section(name="views", title="View by view", charts=(drawn,))


def _references(run: Evaluation) -> Section | None:
    if len(run.references) < 2:
        return None
    table = evaluation.by_references(run)
    titles = {name: METRICS[name].heading for name in run.measured}
    caption = (
        "Means over all rotations by the number of clean reference views, on the same scenes. More references leave "
        "fewer target views, so the columns are not of equal views: compare the model with trivial baselines within "
        "a column. Bars: 95\u00a0% intervals over independent units."
    )
    alt = "Image quality by number of references. " + " ".join(words.spoken(run, n_ref) for n_ref in run.references)
    svg = figures.beside_trivial(
        table, titles=titles, places={str(n): str(n) for n in run.references}, xlabel="reference views",
        name="references", alt=alt,
    )  # fmt: skip
    drawn = _draw(run, "references", svg, caption, table)
    return Section(name="references", title="Number of references", charts=(drawn,))


def _sets(run: Evaluation) -> Section | None:
    table = evaluation.set_distances(run)
    if table.empty:
        return None
    methods = [name for name in (MODEL, *TRIVIAL) if name in table]
    rows = tuple(
        (_distance(row["metric"]),
         number(row["n_ref"]), number(row["count"]), *(_small(row[name]) for name in methods))
        for row in table.to_dict("records")
    )  # fmt: skip
    written = Table(
        caption="Distance of the set of images to the set of true views; lower is better. A set gives one number, so "
        "there are no intervals; few images make both noisy and FID too high, so compare within a row only.",
        columns=("distance", "references", "images", *(run.labels[name] for name in methods)),
        rows=rows,
    )
    return Section(name="sets", title="FID and KID", tables={"sets": written})


def _distance(metric: str) -> str:
    distance, extractor = split_set_metric(metric) or (metric, "")
    return f"{METRICS[distance].title} by {EXTRACTORS.get(extractor, extractor.upper())}"


def _small(value: Any) -> str:
    return MISSING if value is None or not np.isfinite(value) else f"{value:.4f}".replace("-", "−")
