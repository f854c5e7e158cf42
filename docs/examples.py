"""Build the example pages anew from what is kept of their runs: ``python docs/examples.py``.

``python docs/examples.py RUN NAME`` first keeps a probe run as docs/examples/NAME, of its explorer the first scene.
"""

import shutil
import sys
from contextlib import chdir
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from safetensors.numpy import load_file, save_file

from analysis.building import build_comparison, build_report
from probe.records import EXPLORER

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "docs" / "examples"
RUNS = {"probe.html": EXAMPLES / "supervised", "study.html": ROOT / "reports" / "reference" / "paper"}
"""Pages of one run: the run folder that each is built from."""
COMPARED = EXAMPLES / "plain", EXAMPLES / "supervised"
BUDGET = 880_000
"""Characters of the explorer's data, so that a page has at most 2 MB."""


def keep(run: Path, name: str) -> None:
    """Copy a probe run to docs/examples, of its explorer the first scene."""
    folder = EXAMPLES / name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("report.html"))
    if name == COMPARED[0].name:  # only compared
        (folder / EXPLORER).unlink()
        return
    tensors = load_file(folder / EXPLORER)
    scenes = [key.split("/", 2)[2] for key in tensors if key.startswith("views/")]
    kept = {
        key: value for key, value in tensors.items() if not key.endswith(tuple(f"/{scene}" for scene in scenes[1:]))
    }
    save_file(kept, folder / EXPLORER)


def build(folder: Path) -> list[Path]:
    """Write the example pages to a folder; return their paths."""
    for name, run in RUNS.items():
        built = build_report(run, budget=BUDGET)
        (folder / name).write_bytes(built.read_bytes())
        built.unlink()
    with chdir(ROOT):  # the page names the runs as they are named here
        compared, _ = build_comparison(*(run.relative_to(ROOT) for run in COMPARED), folder.resolve())
    return [*(folder / name for name in RUNS), compared.rename(folder / "comparison.html")]


if __name__ == "__main__":
    if sys.argv[1:]:
        keep(Path(sys.argv[1]), sys.argv[2])
    for page in build(EXAMPLES):
        print(f"{page.relative_to(ROOT)}: {page.stat().st_size / 1e6:.1f} MB")
