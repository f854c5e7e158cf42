"""Keep the small tables of a probe run, on which claims rest: ``python docs/keep_probe.py runs/probe probe-shapes``."""

import sys
from dataclasses import replace
from pathlib import Path

import tyro

sys.path.insert(0, str(Path(__file__).parents[1]))

from analysis.probing import tables
from analysis.probing.edits import decoding, patched_samples, patching
from analysis.probing.edits.causal import effects
from analysis.probing.leads import leads
from analysis.study.claims.units import unit_table

REFERENCE = Path(__file__).parents[1] / "reports" / "reference"
COPIED = ("layers.csv", "selection.json", "config.json", "pairs.csv", "timesteps.csv")


def keep(run: tyro.conf.Positional[Path], name: tyro.conf.Positional[str]) -> None:
    """Copy its tables to reports/reference/NAME, with the leads of the selected layer over other matchers.

    Args:
        run: Folder of a finished run, with ``--baselines null,pixels,dsift``.
        name: Of the folder.
    """
    keep_tables(run, REFERENCE / name)


def keep_tables(run: Path, folder: Path) -> None:
    """Write the small tables of a probe run to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    probed = tables.read_run(run)
    for file in COPIED:
        (folder / file).write_bytes((run / file).read_bytes())
    last = int(probed.timesteps["timestep"].max())
    noisy = replace(probed, scores=probed.scores[probed.scores["timestep"].isin([-1, last])])
    kept = {
        "matchers": tables.matchers(probed),
        "leads": leads(probed),
        "leads_noisy": leads(noisy).assign(timestep=last),
        "effects": effects(probed),
        "unit_sums": unit_table(probed),
    }
    if probed.patching is not None:
        kept |= {"patched_layers": patching.whole(probed), "patched_matches": patching.matches(probed)}
    if probed.patched_samples is not None:
        kept |= {"patched_samples_by_layer": patched_samples.changes(probed)}
    if probed.decoded is not None:
        kept |= {"decoded_by_layer": decoding.table(probed)}
    if probed.knockout is not None:
        kept |= {"knockout": probed.knockout}
    for file, table in kept.items():
        table.to_csv(folder / f"{file}.csv", index=False)


if __name__ == "__main__":
    tyro.cli(keep)
