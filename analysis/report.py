"""Turn probe and training runs into pages: ``python -m analysis.report [RUN ...]``; pure up to ``build_report``."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import tyro
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from analysis import wording
from analysis.explorer.reading import Explored, explored, read_beside
from analysis.page import Page, make_page
from analysis.tables import REQUIRED, ProbeRun, read_run
from analysis.training import METRICS, is_training, read_training
from analysis.training_page import TrainingEntry, TrainingPage, make_training_page, training_entry
from probe.records import RunError, write_text

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


PAGES: dict[type, str] = {Page: "probe.html.j2", TrainingPage: "train.html.j2"}


def render(page: Page | TrainingPage) -> str:
    """Write the page of one run.

    Args:
        page: All that it shows.

    Returns:
        One self-contained HTML document; equal data gives equal text.
    """
    return TEMPLATES.get_template(PAGES[type(page)]).render(page=page)


def render_index(entries: Sequence[Entry], training: Sequence[TrainingEntry] = ()) -> str:
    """Write the page that lists the runs.

    Args:
        entries: Probe runs, in the order of the list.
        training: Training runs, likewise.
    """
    return TEMPLATES.get_template("index.html.j2").render(entries=entries, training=training)


def entry(run: ProbeRun, link: str) -> Entry:
    """Write a run's line in the index.

    Args:
        run: The probe run.
        link: To its page, relative to the index.
    """
    row = wording.best_row(run)
    return Entry(
        link=link,
        name=run.name,
        model=run.model,
        scenes=str(run.settings.get("scenes", wording.MISSING)),
        protocol=run.protocol,
        layer=f"{run.layer} ({wording.layer_places(run)[run.layer]}, {run.grid})",
        precision=wording.with_interval(row["precision"], row["precision_low"], row["precision_high"]),
        share=wording.with_interval(row["share_of_ceiling"], row.get("share_low"), row.get("share_high")),
    )


def build_report(run: Path, explore_with: Sequence[Path] = ()) -> Path:
    """Write a run's page into its folder, whole or not at all.

    Args:
        run: A probe run folder, or a training run folder, finished or not.
        explore_with: Probe runs of other models on the same views, to show in a probe run's match explorer too.

    Returns:
        The page's path.

    Raises:
        RunError: If the folder is neither a finished probe run nor a training run, or a file of it cannot be used; or
            if the other runs were not made on the same views.
    """
    page = run / REPORT
    if is_training(run):
        write_text(page, render(make_training_page(read_training(run))))
    else:
        probe = _read_probe(run)
        write_text(page, render(make_page(probe, _explored(probe, explore_with))))
    return page


def _explored(probe: ProbeRun, explore_with: Sequence[Path]) -> list[Explored]:
    """Read what the explorer shows: the run's own model, then the others."""
    own = explored(probe)
    if own is None:
        if explore_with:
            raise RunError(f"build_report: {probe.name} kept nothing to explore; run its probe again")
        return []
    return [own, *(read_beside(folder, own) for folder in explore_with)]


def _read_probe(run: Path) -> ProbeRun:
    """Read a probe run; say of a folder that is nothing at all that it is no training run either."""
    try:
        return read_run(run)
    except RunError as error:
        if (run / "scores.parquet").exists():
            raise
        raise RunError(f"{error}; nor is it a training run, which has config.json and metrics.jsonl") from error


def build_index(runs: Sequence[Path], index: Path = INDEX) -> Path:
    """Write the page that links to the pages of several runs.

    Args:
        runs: Probe run folders and training run folders.
        index: Where to write; its folder is made.

    Returns:
        The index's path.

    Raises:
        RunError: If a folder is neither a finished probe run nor a training run.
    """
    links = {run: _link(run / REPORT, index.parent) for run in runs}
    training = [training_entry(read_training(run), link) for run, link in links.items() if is_training(run)]
    entries = [entry(_read_probe(run), link) for run, link in links.items() if not is_training(run)]
    index.parent.mkdir(parents=True, exist_ok=True)
    write_text(index, render_index(entries, training))
    return index


def _link(page: Path, folder: Path) -> str:
    return quote(Path(os.path.relpath(page.resolve(), folder.resolve())).as_posix())


def find_runs(root: Path) -> list[Path]:
    """Find the finished probe runs and the training runs below a folder, by name.

    Args:
        root: Searched at any depth.
    """
    probes = {path.parent for path in root.rglob("selection.json")}
    finished = {folder for folder in probes if all((folder / name).is_file() for name in REQUIRED)}
    training = {path.parent for path in root.rglob(METRICS) if is_training(path.parent)}
    return sorted(finished | training)


@dataclass(frozen=True)
class Arguments:
    """Rebuild the pages of probe and training runs, and reports/index.html that links to them."""

    run: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Run folders; without any, all finished probe runs and all training runs below runs/."""
    explore_with: tuple[Path, ...] = ()
    """Probe runs of other models on the same scenes and seed, for the match explorer of the run named (one): plain
    against CAMEO."""


def main(argv: Sequence[str] | None = None) -> int:
    """Rebuild pages, say where they are, and give the exit code: 2 for a wrong folder.

    Args:
        argv: Words of the command line; None for the process's own.
    """
    arguments = tyro.cli(Arguments, args=argv, prog="python -m analysis.report")
    asked = arguments.run
    try:
        if arguments.explore_with and len(asked) != 1:
            raise RunError(f"--explore-with: {len(asked)} runs were named, expected one: the run whose page shows them")
        for run in asked or find_runs(RUNS):
            print(build_report(run, arguments.explore_with))
        listed = {run.resolve(): run for run in (*find_runs(RUNS), *asked)}
        print(build_index([listed[path] for path in sorted(listed)]))
    except (RunError, OSError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
