"""Make the frozen runs in a folder: ``python tests/frozen/commands.py FOLDER``.

All goes through the modules' command lines, as ``python -m`` would, one after the other in this process; nothing else
of the packages is imported, so that what is inside them may move. What differs from call to call (seconds, commit,
versions, machine) is overwritten by constants before the pages are built; what is then on disk is a matter of the code
alone.
"""

import contextlib
import json
import os
import runpy
import sys
import time
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TRAIN = (
    "--steps 6 --batch-size 2 --views 2 --rotation-ramp 4 --warmup 2 --checkpoint-every 3 --evaluate-every 6 "
    "--evaluate-scenes 2 --sampling-steps 2 --probe-every 0 --device cpu --no-report"
)
PROBE = "--timesteps 300,700 --pairs 4 --device cpu --no-report"
# what a run is called -> its command line; the runs that others read come first
COMMANDS = {
    "cameo": (
        "train.cameo --layer 10 --steps 6 --batch-size 2 --views 2 --rotation-ramp 4 --warmup 2 --checkpoint-every 3 "
        "--evaluate-every 6 --evaluate-scenes 2 --sampling-steps 2 --probe-every 6 --probe-groups 1 --device cpu "
        "--out runs/cameo"
    ),
    "plain": f"train.cameo --layer none {TRAIN} --out runs/plain",
    "repa": f"train.cameo --layer 10 --objective repa-dsift {TRAIN} --out runs/repa",
    "emergence": (
        "probe.emergence runs/cameo/averaged --groups 1 --timesteps 300,700 --out runs/emergence/emergence.csv"
    ),
    "probe": (
        f"probe.run --layers 8,10,12 {PROBE} --baselines dsift,pixels,null,random --interventions "
        "identity,shuffled_views --edit-scenes 1 --sampling-steps 2 --out runs/probe"
    ),
    "rival": (
        f"probe.run --model cat3d-tiny:cameo --layers 8,10,12 {PROBE} --baselines pixels --interventions none "
        "--out runs/rival"
    ),
    "ratio": (
        "probe.run --protocol ratio-v1 --layers 8,10 --timesteps 300 --pairs 4 --device cpu --no-report "
        "--baselines pixels --interventions none --out runs/ratio"
    ),
    "evaluate": "train.evaluate --groups 2 --sampling-steps 2 --device cpu --no-report --out runs/evaluate",
    "study": (
        "train.study --variants plain,cameo --seeds 0,1,2 --steps 2 --batch-size 2 --rotation-ramp 2 "
        "--evaluate-every 2 --evaluate-scenes 2 --sampling-steps 2 --probe-every 0 --device cpu --out runs/study"
    ),
}
PAGES = {
    "report": "analysis.report " + " ".join(f"runs/{name}" for name in ("cameo", "repa", "ratio", "evaluate", "study")),
    "explorer": "analysis.report runs/probe --explore-with runs/rival",
    "compare-probes": "analysis.report --compare runs/probe runs/rival",
    "compare-trainings": "analysis.report --compare runs/plain runs/repa",
}
ENVIRONMENT = ("python", "torch", "diffusers", "numpy", "pandas", "commit", "machine")


def command(words: str, printed: Path) -> None:
    """Run a module as ``python -m`` does, and keep what it prints.

    Args:
        words: The module and its arguments.
        printed: File that takes the standard output.

    Raises:
        SystemExit: With the command, if it ends in an error.
    """
    module, *arguments = words.split()
    began = time.process_time()
    sys.argv = [module, *arguments]
    with printed.open("w", encoding="utf-8") as text, contextlib.redirect_stdout(text), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*found in sys.modules.*")
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as stop:
            if stop.code not in (0, None):
                raise SystemExit(f"python -m {words}: exit code {stop.code}") from stop
    print(f"{time.process_time() - began:.0f} s of processor time: python -m {words}", file=sys.stderr, flush=True)


def blanked(value: Any) -> Any:
    """Replace what was the machine's and the moment's by constants; keep all else."""
    if isinstance(value, list):
        return [blanked(part) for part in value]
    if not isinstance(value, dict):
        return value
    if {"commit", "machine"} <= value.keys():
        value = {name: name.upper() if name in ENVIRONMENT else part for name, part in value.items()}
    return {name: blanked(part) for name, part in value.items()}


def blank(runs: Path) -> None:
    """Overwrite versions, commit and machine in every JSON file, and seconds in every log."""
    for path in runs.rglob("*.json"):
        path.write_text(json.dumps(blanked(json.loads(path.read_text("utf-8"))), indent=2) + "\n", "utf-8")
    for path in runs.rglob("metrics.jsonl"):
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        lines = [json.dumps({**row, "seconds": 0.25}) for row in rows]
        path.write_text("".join(f"{line}\n" for line in lines), "utf-8")


def make(folder: Path) -> None:
    """Make every run below a folder's runs/ and the pages of all below reports/."""
    os.chdir(folder)
    sys.path.insert(0, str(ROOT))
    printed = Path("printed")
    printed.mkdir()
    Path("runs/emergence").mkdir(parents=True)
    for name, words in COMMANDS.items():
        command(words, printed / f"{name}.txt")
    missing = [name for name in ("cameo", "study") if not Path("runs", name, "report.html").is_file()]
    if missing:
        raise SystemExit(f"no report.html was written at the end of {missing}")
    blank(Path("runs"))
    for name, words in PAGES.items():
        command(words, printed / f"{name}.txt")


if __name__ == "__main__":
    make(Path(sys.argv[1]).resolve())
