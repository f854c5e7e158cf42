"""How soon the commands answer, against ``import torch``: ``python benchmarks/startup.py``.

Processor seconds (user and system) of --help, a wrong flag and a missing folder, medians of several runs in turn.
"""

import resource
import statistics
import subprocess
import sys
from dataclasses import dataclass

import tyro

COMMANDS = {
    "probe.run": "--scenes rgbd:/nowhere/at/all",
    "probe.preview": "--scenes rgbd:/nowhere/at/all",
    "probe.truth_quality": "--scenes rgbd:/nowhere/at/all",
    "probe.emergence": "/nowhere/at/all",
    "train.cameo": "--scenes rgbd:/nowhere/at/all",
    "train.evaluate": "--scenes rgbd:/nowhere/at/all",
    "train.study": "--scenes rgbd:/nowhere/at/all",
    "analysis.report": "/nowhere/at/all",
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Measure how soon the commands answer."""

    rounds: int = 5
    """Runs of each."""


def seconds(words: list[str]) -> float:
    """Return the processor seconds of a process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(settings: Settings) -> None:
    """Measure in turn; print medians and their ratios to that of importing torch."""
    cases = {"import torch": ["-c", "import torch"]}
    for command, missing in COMMANDS.items():
        for name, words in (("--help", "--help"), ("wrong flag", "--wrong"), ("missing folder", missing)):
            cases[f"{command} {name}"] = ["-m", command, *words.split()]
    measured = {name: list[float]() for name in cases}
    for _ in range(settings.rounds):
        for name, words in cases.items():
            measured[name].append(seconds(words))
    unit = statistics.median(measured["import torch"])
    for name, values in measured.items():
        print(f"{name:36} {statistics.median(values):5.2f} s  {statistics.median(values) / unit:4.2f}")


if __name__ == "__main__":
    main(tyro.cli(Settings))
