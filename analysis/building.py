"""Turn probe runs, studies, training runs and evaluations into pages, an index, and comparisons of two runs."""

import fcntl
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from analysis.blocks import SectionPage
from analysis.comparing.page import probe_comparison
from analysis.comparing.training_page import training_comparison
from analysis.evaluation.page import evaluation_entry, make_evaluation_page
from analysis.evaluation.run import is_evaluation, read_evaluation
from analysis.explorer.payload import BUDGET
from analysis.explorer.reading import Explored, explored, read_beside
from analysis.exporting.style import FigureStyle
from analysis.exporting.write import write_files
from analysis.overview.index import Index, Line, groups, sparkline
from analysis.policy import FOLDERS, Sealed
from analysis.probing.page import Page, make_page, probe_entry
from analysis.probing.tables import ProbeRun, is_probe, read_run
from analysis.study.page import make_study_page, study_entry
from analysis.study.run import is_study, read_study
from analysis.training.page import make_training_page, training_entry
from analysis.training.run import LOGS, is_training, read_training
from probe.records import IMAGES, REPORT, SCORES, SELECTION, RunError, write_text

PROG = "python -m analysis.report"
RUNS, INDEX = Path("runs"), Path("reports/index.html")
TEMPLATES = Environment(
    loader=FileSystemLoader(FOLDERS),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.template_class = Sealed  # no page without its Content-Security-Policy


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of run.

    Attributes:
        marks: Files by which its folders are found.
        recognise: Whether a folder holds such a run.
        read: Reads the folder for its page.
        page: Makes the page.
        skim: Reads the folder for the index.
        entry: Makes the line in the index, from what was read and a link to the page.
    """

    marks: tuple[str, ...]
    recognise: Callable[[Path], bool]
    read: Callable[[Path], Any]
    page: Callable[..., Page | SectionPage]
    skim: Callable[[Path], Any]
    entry: Callable[[Any, str], Any]


def _read_probe(run: Path, *, scores: bool = True) -> ProbeRun:
    """Read a probe run; of a folder that holds no run at all, the error names every kind."""
    try:
        return read_run(run, scores=scores)
    except RunError as error:
        if (run / SCORES).exists():
            raise
        raise RunError(
            f"{error}; nor is it a training run, which has config.json and metrics.jsonl, nor a study, which has "
            "study.csv as soon as one of its runs is finished, nor a finished evaluation, which has images.csv"
        ) from error


KINDS = {
    "studies": Kind(
        marks=("study.csv",),
        recognise=is_study,
        read=read_study,
        page=make_study_page,
        skim=read_study,
        entry=study_entry,
    ),
    "training": Kind(
        marks=LOGS,
        recognise=is_training,
        read=read_training,
        page=make_training_page,
        skim=read_training,
        entry=training_entry,
    ),
    "evaluations": Kind(
        marks=(IMAGES,),
        recognise=is_evaluation,
        read=read_evaluation,
        page=make_evaluation_page,
        skim=read_evaluation,
        entry=evaluation_entry,
    ),
    "probes": Kind(
        marks=(SELECTION,),
        recognise=is_probe,
        read=_read_probe,
        page=make_page,
        skim=partial(_read_probe, scores=False),
        entry=probe_entry,
    ),
}
"""Every kind of run, by its place in the index. A folder is of the first kind that recognises it."""


def kind_of(run: Path) -> str:
    """Return the kind of a folder's run; "probes" where none is recognised: reading it says what is absent.

    Args:
        run: Any folder.
    """
    return next((name for name, kind in KINDS.items() if kind.recognise(run)), "probes")


PAGES: dict[type, str] = {Page: "probe.html.j2", SectionPage: "sections.html.j2"}


def render(page: Page | SectionPage) -> str:
    """Write the page of one run.

    Args:
        page: All that it shows.

    Returns:
        One self-contained HTML document; equal data gives equal text.
    """
    return TEMPLATES.get_template(PAGES[type(page)]).render(page=page)


def render_index(index: Index) -> str:
    """Write the page that lists the runs.

    Args:
        index: All that it lists.
    """
    return TEMPLATES.get_template("index.html.j2").render(index=index, groups=groups, sparkline=sparkline)


def build_report(run: Path, explore_with: Sequence[Path] = (), budget: int = BUDGET) -> Path:
    """Write a run's page into its folder, whole or not at all.

    Args:
        run: The folder of a probe run, a study, an evaluation, or a training run, finished or not.
        explore_with: Probe runs of other models on the same views, to show in a probe run's match explorer too.
        budget: Characters of the match explorer's data.

    Returns:
        The page's path.

    Raises:
        RunError: If the folder is none of these, or a file of it cannot be used; or if the other runs were not made on
            the same views.
    """
    return _build(run, explore_with, budget)[0]


def _build(run: Path, explore_with: Sequence[Path], budget: int = BUDGET) -> tuple[Path, Page | SectionPage]:
    page = _make_page(run, explore_with, budget)
    write_text(run / REPORT, render(page))
    return run / REPORT, page


def _make_page(run: Path, explore_with: Sequence[Path], budget: int) -> Page | SectionPage:
    name = kind_of(run)
    kind = KINDS[name]
    content = kind.read(run)
    return kind.page(content, _explored(content, explore_with), budget) if name == "probes" else kind.page(content)


def _explored(probe: ProbeRun, explore_with: Sequence[Path]) -> list[Explored]:
    """Read what the explorer shows: the run's own model, then the others."""
    own = explored(probe)
    if own is None:
        if explore_with:
            raise RunError(f"build_report: {probe.name} kept nothing to explore; run its probe again")
        return []
    return [own, *(read_beside(folder, own) for folder in explore_with)]


def refresh(run: Path) -> Path:
    """Write a run's page; where it is one of runs/, write the page that lists them all, too.

    Args:
        run: See :func:`build_report`.

    Returns:
        The run's page.

    Raises:
        RunError: If the run's own folder cannot be used; that of another run is listed as such.
    """
    page = build_report(run)
    if run.resolve().is_relative_to(RUNS.resolve()):
        build_index(find_runs(RUNS))
    return page


def build_index(runs: Sequence[Path], index: Path = INDEX) -> Path:
    """Write the page that links to the pages of several runs, and to the comparisons that lie beside it.

    Args:
        runs: Folders of probe runs, studies, training runs and evaluations; one that cannot be read is listed with the
            reason.
        index: Where to write; its folder is made.

    Returns:
        The index's path.
    """
    index.parent.mkdir(parents=True, exist_ok=True)
    with (index.parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several runs may end at once
        write_text(index, render_index(_list(runs, index)))
    return index


def _list(runs: Sequence[Path], index: Path) -> Index:
    lines: dict[str, list[Line]] = {name: [] for name in KINDS}
    unreadable = []
    for run in runs:
        name = kind_of(run)
        try:
            content = KINDS[name].skim(run)
        except RunError as error:
            unreadable.append((run.name, str(error)))
        else:
            entry = KINDS[name].entry(content, _link(run / REPORT, index.parent))
            lines[name].append(Line(entry=entry, folder=shlex.quote(str(run))))
    by_kind: dict[str, Any] = {name: tuple(entries) for name, entries in lines.items()}
    return Index(**by_kind, comparisons=_comparisons(index.parent), unreadable=tuple(unreadable))


def _comparisons(folder: Path) -> tuple[tuple[str, str], ...]:
    pages = sorted(folder.glob("compare-*.html"))
    return tuple((quote(page.name), page.stem.removeprefix("compare-")) for page in pages)


def _link(page: Path, folder: Path) -> str:
    return quote(Path(os.path.relpath(page.resolve(), folder.resolve())).as_posix())


def find_runs(root: Path) -> list[Path]:
    """Return the folders of finished probe runs and evaluations, studies and training runs below a folder, by name.

    Args:
        root: Searched at any depth.
    """
    return sorted(
        {
            path.parent
            for kind in KINDS.values()
            for mark in kind.marks
            for path in root.rglob(mark)
            if kind.recognise(path.parent)
        }
    )


def build_comparison(first: Path, second: Path, folder: Path = INDEX.parent) -> tuple[Path, SectionPage]:
    """Write the page of what changed between two runs: ``compare-FIRST-SECOND.html``.

    Args:
        first: The folder of a probe run or of a training run.
        second: Of one that was measured alike.
        folder: Where to write; it is made.

    Returns:
        The page's path, and what it shows.

    Raises:
        RunError: If a folder cannot be used, or the two were not measured alike.
    """
    names = _distinct_names(first, second)
    rebuild = shlex.join(["python", "-m", "analysis.report", "--compare", str(first), str(second)])
    if is_training(first) != is_training(second):
        raise RunError(f"build_comparison: of {first} and {second} only one is a training run; compare two of a kind")
    if is_training(first):
        page = training_comparison(read_training(first), read_training(second), names, rebuild)
    else:
        page = probe_comparison(_read_probe(first), _read_probe(second), names, rebuild)
    folder.mkdir(parents=True, exist_ok=True)
    slugs = [re.sub(r"[^\w.]+", "-", name) for name in names]
    path = folder / f"compare-{'-'.join(slugs)}.html"
    write_text(path, render(page))
    return path, page


def _distinct_names(first: Path, second: Path) -> tuple[str, str]:
    """Return names of two runs: their folders, with as many parents as it takes to distinguish them."""
    parts = [run.resolve().parts for run in (first, second)]
    if parts[0] == parts[1]:
        raise RunError(f"build_comparison: {first} and {second} are one folder; name two runs")
    depth = next(n for n in range(1, max(map(len, parts)) + 1) if parts[0][-n:] != parts[1][-n:])
    return "/".join(parts[0][-depth:]), "/".join(parts[1][-depth:])


def show(console: Console, page: SectionPage) -> None:
    """Print a comparison's answer and the table of its lead.

    Args:
        console: Where to.
        page: The comparison.
    """
    assert page.lead is not None
    table = next(iter(page.lead.tables.values()))
    shown = RichTable(title=page.title, box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False)
    for n, column in enumerate(table.columns[:-1]):
        shown.add_column(Text(column), justify="left" if n < table.texts else "right")
    for row in table.rows:
        shown.add_row(*(Text(cell) for cell in row[:-1]))
    console.print(shown)
    for sentence in page.answer:
        console.print(sentence, markup=False, soft_wrap=True)


def show_comparison(runs: Sequence[Path], formats: Sequence[str], style: FigureStyle) -> None:
    """Compare two runs, show the table, and print the paths of the page, of its files and of the index."""
    path, page = build_comparison(*runs)
    show(Console(width=None if sys.stdout.isatty() else 120), page)
    print(path)
    _print_files(page, path.with_suffix(""), formats, style)
    print(build_index(find_runs(RUNS)))


def _print_files(page: Page | SectionPage, folder: Path, formats: Sequence[str], style: FigureStyle) -> None:
    if formats:
        count = len(write_files(page, folder, formats, style)) - 2
        print(f"{folder}/figures, {folder}/tables: {count} files, captions in {folder}/figures/captions.txt and .tex")


def rebuild(runs: Sequence[Path], explore_with: Sequence[Path], formats: Sequence[str], style: FigureStyle) -> None:
    """Rebuild the pages of runs, of all below ``runs/`` if none is named, and the index; print their paths."""
    for run in runs or find_runs(RUNS):
        path, page = _build(run, explore_with)
        print(path)
        _print_files(page, run, formats, style)
    listed = {run.resolve(): run for run in (*find_runs(RUNS), *runs)}
    print(build_index([listed[path] for path in sorted(listed)]))
