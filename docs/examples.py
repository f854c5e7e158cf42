"""Build the example pages anew from what is kept of their runs: ``python docs/examples.py``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from analysis.building import build_comparison, build_report

ROOT = Path(__file__).parents[1]
EXAMPLES, REFERENCE = ROOT / "docs" / "examples", ROOT / "reports" / "reference"
RUNS = {"probe.html": EXAMPLES / "probe", "study.html": REFERENCE / "paper"}
"""Pages of one run: the run folder that each is built from."""
COMPARED = REFERENCE / "probe-plain", REFERENCE / "probe-supervised"


def build(folder: Path) -> list[Path]:
    """Write the example pages to a folder; return their paths."""
    for name, run in RUNS.items():
        built = build_report(run)
        (folder / name).write_bytes(built.read_bytes())
        built.unlink()
    compared, _ = build_comparison(*COMPARED, folder)
    return [*(folder / name for name in RUNS), compared.rename(folder / "comparison.html")]


if __name__ == "__main__":
    for page in build(EXAMPLES):
        print(f"{page.relative_to(ROOT)}: {page.stat().st_size / 1e6:.1f} MB")
