"""Cut a stopped study at a step that all runs were evaluated at: ``python docs/cut_study.py STOPPED CUT --step 800``.

Its bases are taken whole. The rows of logs, evaluations and probes up to the step are kept; the settings of study and
runs tell the step as their length, which changes nothing where no schedule depends on the length.
"""

import json
import shutil
import sys
from pathlib import Path

import pandas as pd
import tyro

sys.path.insert(0, str(Path(__file__).parents[1]))

from probe.records import EMERGENCE, parse_json, write_json
from probe.records.names import BASE, EVALUATION_LOG, FINAL_CARD, STEP_LOG, split_seed_folder

WEIGHTS = "diffusion_pytorch_model.safetensors"


def cut(stopped: tyro.conf.Positional[Path], target: tyro.conf.Positional[Path], step: int) -> None:
    """Write the study as if every run had been asked for so many steps.

    Args:
        stopped: Folder of the study.
        target: New folder.
        step: The last one.
    """
    for run in sorted(stopped.iterdir()):
        named = split_seed_folder(run.name)
        if named is not None:
            _cut_run(run, target / run.name, _settings(run)["steps"] if named[0] == BASE else step)
    _write_settings(stopped, target, step)


def _settings(folder: Path) -> dict:
    return parse_json((folder / "config.json").read_text(encoding="utf-8"))["settings"]


def _write_settings(source: Path, target: Path, step: int) -> None:
    config = parse_json((source / "config.json").read_text(encoding="utf-8"))
    write_json(target / "config.json", {**config, "settings": {**config["settings"], "steps": step}})


def _cut_run(run: Path, target: Path, step: int) -> None:
    (target / FINAL_CARD).parent.mkdir(parents=True)
    _write_settings(run, target, step)
    for name in (STEP_LOG, EVALUATION_LOG):
        lines = (run / name).read_text(encoding="utf-8").splitlines(keepends=True)
        (target / name).write_text(
            "".join(line for line in lines if json.loads(line)["step"] <= step), encoding="utf-8"
        )
    history = pd.read_csv(run / EMERGENCE)
    history[history["step"] <= step].to_csv(target / EMERGENCE, index=False, float_format="%.6f")
    config = parse_json((target / "config.json").read_text(encoding="utf-8"))
    write_json(target / FINAL_CARD, {**config["settings"], **config["environment"]})
    for weights in (run / "final", run / "averaged" / f"step-{step:06d}"):
        if (weights / WEIGHTS).is_file():
            shutil.copytree(weights, (target / FINAL_CARD).parent, dirs_exist_ok=True, ignore=lambda *_: ["card.json"])


if __name__ == "__main__":
    tyro.cli(cut)
