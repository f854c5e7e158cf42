"""Turn probe runs, studies, training runs and evaluations into pages: ``python -m analysis.report [RUN ...]``."""

import fcntl
import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import tyro
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from analysis.blocks import SectionPage
from analysis.comparing.page import probe_comparison
from analysis.comparing.training_page import training_comparison
from analysis.evaluation.page import EvaluationEntry, evaluation_entry, make_evaluation_page
from analysis.evaluation.run import IMAGES, is_evaluation, read_evaluation
from analysis.explorer.reading import Explored, explored, read_beside
from analysis.probing.page import Page, make_page
from analysis.probing.tables import REQUIRED, ProbeRun, read_run
from analysis.probing.words import best_row, layer_places
from analysis.study.page import StudyEntry, make_study_page, study_entry
from analysis.study.run import is_study, read_study
from analysis.training.page import TrainingEntry, make_training_page, training_entry
from analysis.training.run import LOGS, is_training, read_training
from analysis.words import MISSING, with_interval
from probe.records import RunError, write_text

PROG = "python -m analysis.report"
REPORT = "report.html"
RUNS, INDEX = Path("runs"), Path("reports/index.html")
TEMPLATES = Environment(
    loader=FileSystemLoader([Path(__file__).parent / folder for folder in ("templates", "explorer")]),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Hold a run's line in the index, as finished text; ``link`` is relative to the index."""

    link: str
    name: str
    model: str
    scenes: str
    protocol: str
    layer: str
    precision: str
    share: str


PAGES: dict[type, str] = {Page: "probe.html.j2", SectionPage: "sections.html.j2"}


def render(page: Page | SectionPage) -> str:
    """Write the page of one run.

    Args:
        page: All that it shows.

    Returns:
        One self-contained HTML document; equal data gives equal text.
    """
    return TEMPLATES.get_template(PAGES[type(page)]).render(page=page)


@dataclass(frozen=True, kw_only=True)
class Index:
    """Hold all that the page of all runs lists, each in its order.

    Attributes:
        probes: Finished probe runs.
        studies: Studies.
        training: Training runs.
        evaluations: Evaluations.
        comparisons: Links to comparisons of two runs, with their titles.
        unreadable: Folders that cannot be read, with the reason.
    """

    probes: tuple[Entry, ...] = ()
    studies: tuple[StudyEntry, ...] = ()
    training: tuple[TrainingEntry, ...] = ()
    evaluations: tuple[EvaluationEntry, ...] = ()
    comparisons: tuple[tuple[str, str], ...] = ()
    unreadable: tuple[tuple[str, str], ...] = ()


def render_index(index: Index) -> str:
    """Write the page that lists the runs.

    Args:
        index: All that it lists.
    """
    return TEMPLATES.get_template("index.html.j2").render(index=index)


def entry(run: ProbeRun, link: str) -> Entry:
    """Write a run's line in the index.

    Args:
        run: The probe run.
        link: To its page, relative to the index.
    """
    row = best_row(run)
    return Entry(
        link=link,
        name=run.name,
        model=run.model,
        scenes=str(run.settings.get("scenes", MISSING)),
        protocol=run.protocol,
        layer=f"{run.layer} ({layer_places(run)[run.layer]}, {run.grid})",
        precision=with_interval(row["precision"], row["precision_low"], row["precision_high"]),
        share=with_interval(row["share_of_ceiling"], row.get("share_low"), row.get("share_high")),
    )


def build_report(run: Path, explore_with: Sequence[Path] = ()) -> Path:
    """Write a run's page into its folder, whole or not at all.

    Args:
        run: The folder of a probe run, a study, an evaluation, or a training run, finished or not.
        explore_with: Probe runs of other models on the same views, to show in a probe run's match explorer too.

    Returns:
        The page's path.

    Raises:
        RunError: If the folder is none of these, or a file of it cannot be used; or if the other runs were not made on
            the same views.
    """
    page = run / REPORT
    write_text(page, render(_make_page(run, explore_with)))
    return page


def _make_page(run: Path, explore_with: Sequence[Path]) -> Page | SectionPage:
    if is_study(run):
        return make_study_page(read_study(run))
    if is_training(run):
        return make_training_page(read_training(run))
    if is_evaluation(run):
        return make_evaluation_page(read_evaluation(run))
    probe = _read_probe(run)
    return make_page(probe, _explored(probe, explore_with))


def _explored(probe: ProbeRun, explore_with: Sequence[Path]) -> list[Explored]:
    """Read what the explorer shows: the run's own model, then the others."""
    own = explored(probe)
    if own is None:
        if explore_with:
            raise RunError(f"build_report: {probe.name} kept nothing to explore; run its probe again")
        return []
    return [own, *(read_beside(folder, own) for folder in explore_with)]


def _read_probe(run: Path, *, scores: bool = True) -> ProbeRun:
    """Read a probe run; say of a folder that is nothing at all that it is nothing else either."""
    try:
        return read_run(run, scores=scores)
    except RunError as error:
        if (run / "scores.parquet").exists():
            raise
        raise RunError(
            f"{error}; nor is it a training run, which has config.json and metrics.jsonl, nor a study, which has "
            "study.csv as soon as one of its runs is finished, nor a finished evaluation, which has images.csv"
        ) from error


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
    lines: dict[type, list[Any]] = {Entry: [], StudyEntry: [], TrainingEntry: [], EvaluationEntry: []}
    unreadable = []
    for run in runs:
        try:
            line = _line(run, _link(run / REPORT, index.parent))
        except RunError as error:
            unreadable.append((run.name, str(error)))
        else:
            lines[type(line)].append(line)
    return Index(
        probes=tuple(lines[Entry]),
        studies=tuple(lines[StudyEntry]),
        training=tuple(lines[TrainingEntry]),
        evaluations=tuple(lines[EvaluationEntry]),
        comparisons=_comparisons(index.parent),
        unreadable=tuple(unreadable),
    )


def _line(run: Path, link: str) -> Entry | StudyEntry | TrainingEntry | EvaluationEntry:
    if is_study(run):
        return study_entry(read_study(run), link)
    if is_training(run):
        return training_entry(read_training(run), link)
    if is_evaluation(run):
        return evaluation_entry(read_evaluation(run), link)
    return entry(_read_probe(run, scores=False), link)


def _comparisons(folder: Path) -> tuple[tuple[str, str], ...]:
    found = sorted(folder.glob("compare-*.html"))
    return tuple((quote(page.name), page.stem.removeprefix("compare-")) for page in found)


def _link(page: Path, folder: Path) -> str:
    return quote(Path(os.path.relpath(page.resolve(), folder.resolve())).as_posix())


def find_runs(root: Path) -> list[Path]:
    """Find the finished probe runs and evaluations, the studies and the training runs below a folder, by name.

    Args:
        root: Searched at any depth.
    """
    probes = {path.parent for path in root.rglob("selection.json")}
    finished = {folder for folder in probes if all((folder / name).is_file() for name in REQUIRED)}
    training = {path.parent for name in LOGS for path in root.rglob(name) if is_training(path.parent)}
    studies = {path.parent for path in root.rglob("study.csv") if is_study(path.parent)}
    evaluations = {path.parent for path in root.rglob(IMAGES) if is_evaluation(path.parent)}
    return sorted(finished | training | studies | evaluations)


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
    names = _called(first, second)
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


def _called(first: Path, second: Path) -> tuple[str, str]:
    """Name two runs by their folders, with the folders above where those alone do not tell them apart."""
    parts = [run.resolve().parts for run in (first, second)]
    if parts[0] == parts[1]:
        raise RunError(f"build_comparison: {first} and {second} are one folder; name two runs")
    depth = next(n for n in range(1, max(map(len, parts)) + 1) if parts[0][-n:] != parts[1][-n:])
    return "/".join(parts[0][-depth:]), "/".join(parts[1][-depth:])


def show(console: Console, page: SectionPage) -> None:
    """Print a comparison's answer and its first table.

    Args:
        console: Where to.
        page: The comparison.
    """
    found = next(table for section in page.sections for table in section.tables.values())
    shown = RichTable(title=page.title, box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False)
    for n, column in enumerate(found.columns[:-1]):
        shown.add_column(Text(column), justify="left" if n < found.texts else "right")
    for row in found.rows:
        shown.add_row(*(Text(cell) for cell in row[:-1]))
    console.print(shown)
    for sentence in page.answer:
        console.print(sentence, markup=False, soft_wrap=True)


@dataclass(frozen=True)
class Arguments:
    """Rebuild the pages of runs, and reports/index.html that links to them; or compare two runs."""

    run: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Run folders: probes, studies, trainings, evaluations; without any, all that are below runs/."""
    explore_with: tuple[Path, ...] = ()
    """Probe runs of other models on the same scenes and seed, for the match explorer of the run named (one): plain
    against CAMEO."""
    compare: tyro.conf.FlagCreatePairsOff[bool] = False
    """Compare the two named runs, two probes or two trainings: write reports/compare-A-B.html and show its table."""


def main(argv: Sequence[str] | None = None) -> int:
    """Rebuild pages, say where they are, and give the exit code: 2 for what the caller can mend.

    Args:
        argv: Words of the command line; None for the process's own.
    """
    asked, unknown = tyro.cli(Arguments, args=argv, prog=PROG, return_unknown_args=True)  # no box: one line, below
    try:
        if unknown:
            raise RunError(f"{PROG}: {' '.join(unknown)} is unknown; expected folders, or --compare A B; see --help")
        if asked.explore_with and len(asked.run) != 1:
            raise RunError(
                f"--explore-with: {len(asked.run)} runs were named, expected one: the run whose page shows them"
            )
        _compare(asked.run) if asked.compare else _rebuild(asked.run, asked.explore_with)
    except (RunError, OSError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 2
    return 0


def _compare(runs: Sequence[Path]) -> None:
    if len(runs) != 2:
        raise RunError(f"{PROG}: --compare was given {len(runs)} folders; expected two, such as runs/a runs/b")
    path, page = build_comparison(*runs)
    show(Console(width=None if sys.stdout.isatty() else 120), page)
    print(path)
    print(build_index(find_runs(RUNS)))


def _rebuild(runs: Sequence[Path], explore_with: Sequence[Path]) -> None:
    for run in runs or find_runs(RUNS):
        print(build_report(run, explore_with))
    listed = {run.resolve(): run for run in (*find_runs(RUNS), *runs)}
    print(build_index([listed[path] for path in sorted(listed)]))


if __name__ == "__main__":
    sys.exit(main())
