"""Keep the small files of a study, on which claims rest: ``python docs/keep_study.py runs/paper paper``."""

import shutil
import sys
from pathlib import Path

import tyro

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

from keep_probe import REFERENCE, keep_tables  # noqa: E402, beside this file

from probe.records.names import EVALUATIONS, PROBES, split_seed_folder  # noqa: E402

OWN = (
    "config.json",
    "study.csv",
    "summary.csv",
    "reach.csv",
    "settings.csv",
    "study.png",
    "samples.png",
    "samples.json",
)
OF_A_RUN = ("config.json", "emergence.csv", "evaluation.jsonl", "metrics.jsonl", "final/card.json")
OF_AN_EVALUATION = ("config.json", "summary.csv", "images.csv")


def keep(study: tyro.conf.Positional[Path], name: tyro.conf.Positional[str]) -> None:
    """Copy its tables and pictures to reports/reference/NAME, with those of its probes and evaluations; no weights.

    Args:
        study: Folder of a study, finished or not.
        name: Of the folder, which is written anew.
    """
    target = REFERENCE / name
    shutil.rmtree(target, ignore_errors=True)
    _copy(study, target, OWN)
    for run in filter(Path.is_dir, study.iterdir()):
        if split_seed_folder(run.name) and (run / "final").is_dir():
            _copy(run, target / run.name, OF_A_RUN)
    for probe in sorted((study / PROBES).glob("*/selection.json")):
        keep_tables(probe.parent, target / PROBES / probe.parent.name)
    for summary in sorted((study / EVALUATIONS).glob("*/summary.csv")):
        _copy(summary.parent, target / EVALUATIONS / summary.parent.name, OF_AN_EVALUATION)


def _copy(source: Path, target: Path, files: tuple[str, ...]) -> None:
    for file in files:
        if (source / file).is_file():
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            (target / file).write_bytes((source / file).read_bytes())


if __name__ == "__main__":
    tyro.cli(keep)
