"""Kill, starve and lock out every command, then go on: ``python benchmarks/stops.py --points 20``; as root on Linux.

Each command first runs undisturbed. Then it is killed (SIGKILL, with its children) at random times, resumed by the same
command until the points are used up, and what it wrote in the end is compared byte by byte. Then it writes to a small
tmpfs that fills up, at growing sizes, and to a folder that becomes read-only: it must end in one line, and go on
from there when there is room.
"""

import hashlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import tyro

MODEL = "cat3d-tiny:plain"
TRAINER = (
    "--batch-size 1 --rotation-ramp 0 --evaluate-scenes 1 --sampling-steps 1 --probe-every 0 --checkpoint-every 2 "
    "--device cpu"
)
SHOWN = ("*.csv", "*.parquet", "*.safetensors", "selection.json", "evaluation.jsonl")
CLOCKS = ("settings.csv",)
"""Files with times or places of a run: never equal."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command of the suite.

    Attributes:
        module: As in python -m MODULE.
        flags: Besides its folder.
        out: The flag that names the folder.
        resume: Flags of a second call.
        first: Makes what it needs, in the folder.
    """

    module: str
    flags: str
    out: str = "--out"
    resume: str = "--resume"
    first: str = ""

    def words(self, folder: Path, again: bool) -> list[str]:
        place = [str(folder)] if not self.out else [self.out, str(folder)]
        more = f"{self.flags} {self.resume if again else ''}"
        return [sys.executable, "-m", self.module, *place, *more.split()]


COMMANDS = {
    "probe": Command(
        module="probe.run",
        flags=f"--model {MODEL} --pairs 8 --views 2 --layers 10,11 --timesteps 500 --image-size 64 --baselines null "
        "--no-report --device cpu",
    ),
    "train": Command(module="train.cameo", flags=f"--layer 10 --steps 8 --evaluate-every 4 --no-report {TRAINER}"),
    "evaluate": Command(
        module="train.evaluate",
        flags=f"--model {MODEL} --groups 8 --views 2 --n-ref 1 --features none --sampling-steps 2 --no-report "
        "--device cpu",
    ),
    "study": Command(
        module="train.study",
        flags=f"--variants plain,mean --seeds 0,1 --steps 4 --evaluate-every 4 {TRAINER}",
        resume="",
    ),
    "emergence": Command(
        module="probe.emergence",
        flags="--groups 4 --timesteps 500 --device cpu",
        out="",
        resume="",
        first="train",
    ),
    "report": Command(module="analysis.report", flags="", out="", resume="", first="probe"),
}


@dataclass(frozen=True, kw_only=True)
class Stops:
    """Say what is done to which commands."""

    points: int = 20
    """Times that each command is killed."""
    commands: str = ",".join(COMMANDS)
    """Of them, separated by commas."""
    ways: str = "clock,kill,full,locked"
    """What is done to them."""
    seed: int = 0
    """Of the times."""


def main(stops: Stops) -> None:
    chance = random.Random(stops.seed)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        for name in stops.commands.split(","):
            command, whole = COMMANDS[name], work / "whole" / name
            _prepare(command, work, whole)
            start = time.monotonic()
            done = _run(command.words(whole, again=False))
            seconds = time.monotonic() - start
            assert done.returncode == 0, done.stderr
            expected = digests(whole)
            print(f"{name}: undisturbed {seconds:.0f} s, {len(expected)} files", flush=True)
            if "clock" in stops.ways:
                _elsewhere(name, command, work, expected)
            if "kill" in stops.ways:
                _kill(name, command, work, expected, seconds, chance, stops.points)
            if "full" in stops.ways:
                _starve(name, command, work, expected)
            if "locked" in stops.ways:
                _lock(name, command, work, seconds)


def _prepare(command: Command, work: Path, folder: Path) -> None:
    """Copy the run that a command looks at into its folder; make it where no earlier command has."""
    if command.first:
        folder.parent.mkdir(parents=True, exist_ok=True)
        source = work / "whole" / command.first
        if not source.is_dir():
            _run(COMMANDS[command.first].words(source, again=False)).check_returncode()
        subprocess.run(
            ["cp", "-r", str(source / "averaged" if command.first == "train" else source), folder], check=True
        )


def _run(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, env=_environment(), capture_output=True, text=True, check=False)


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def digests(folder: Path) -> dict[str, str]:
    """Return what a run came to: the digests of its tables and weights."""
    paths = sorted({path for pattern in SHOWN for path in folder.rglob(pattern) if path.name not in CLOCKS})
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()[:12] for path in paths}


def _elsewhere(name: str, command: Command, work: Path, expected: dict[str, str]) -> None:
    """Run in another time zone and language."""
    folder = work / "elsewhere" / name
    _prepare(command, work, folder)
    place = {**_environment(), "TZ": "Pacific/Chatham", "LC_ALL": "C", "PYTHONUTF8": "1"}
    subprocess.run(command.words(folder, again=False), env=place, capture_output=True, check=True)
    print(f"{name}: in another time zone equal: {digests(folder) == expected}", flush=True)


# --- killed ----------------------------------------------------------------------------------------------------------


def _kill(
    name: str,
    command: Command,
    work: Path,
    expected: dict[str, str],
    seconds: float,
    chance: random.Random,
    points: int,
) -> None:
    killed, wholes, equal, refused, left = 0, 0, 0, 0, 0
    folder = work / "killed" / name
    while killed < points:
        subprocess.run(["rm", "-rf", str(folder)], check=True)
        _prepare(command, work, folder)
        again, ended = False, False
        while not ended:
            ended, error = _kill_after(
                command.words(folder, again), chance.uniform(0, seconds) if killed < points else 1e9
            )
            killed += not ended
            refused += error
            again = command.resume != "" and (folder / "config.json").exists()
            if error:
                return
        wholes += 1
        got = digests(folder)
        equal += got == expected
        left += len([path for path in folder.rglob("*") if path.name.startswith(".") or path.suffix == ".part"])
        if got != expected:
            print("  differ:", sorted(key for key in got.keys() | expected.keys() if got.get(key) != expected.get(key)))
    print(
        f"{name}: killed {killed} times in {wholes} runs, {equal} of them equal to the undisturbed one, "
        f"{refused} refused, {left} files left over",
        flush=True,
    )


def _kill_after(words: list[str], seconds: float) -> tuple[bool, bool]:
    """Run a command; kill it after some seconds. Return whether it ended by itself, and whether in an error."""
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(words, env=_environment(), stdout=subprocess.DEVNULL, stderr=errors) as process,
    ):
        try:
            code = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            for member in family:
                member.kill()
            psutil.wait_procs(family, timeout=30)
            return False, False
        if code:
            errors.seek(0)
            print("  refused:", errors.read()[-800:])
        return True, code != 0


# --- no room, no permission ------------------------------------------------------------------------------------------


@contextmanager
def small(folder: Path, size: str) -> Iterator[Callable[[str], None]]:
    """Mount a tmpfs of a size; yield what changes its options."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield lambda options: subprocess.run(
            ["mount", "-o", f"remount,{options}", str(folder)], check=True
        ).check_returncode()
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _starve(name: str, command: Command, work: Path, expected: dict[str, str]) -> None:
    """Fill the disk at growing sizes; then give room, and compare."""
    lines, equal, tried = 0, 0, 0
    for size in SIZES[name]:
        mounted = work / "small"
        with small(mounted, f"{max(size, 4)}k") as change:  # 0 would be no limit
            folder = mounted / name
            if command.first:
                change("size=900m")
                _prepare(command, work, folder)
                used = int(
                    subprocess.run(
                        ["du", "-sk", str(folder)], capture_output=True, text=True, check=True
                    ).stdout.split()[0]
                )
                change(f"size={used + size}k")
            done = _run(command.words(folder, again=False))
            tried += 1
            if done.returncode == 0:
                print(f"  {size} kB were enough")
            else:
                lines += _is_one_line(done)
            change("size=900m")
            again = _run(command.words(folder, again=command.resume != "" and (folder / "config.json").exists()))
            if again.returncode:
                print("  refused after a full disk:", again.stderr[-600:])
            equal += again.returncode == 0 and digests(folder) == expected
    print(
        f"{name}: disk full at {tried} sizes, {lines} ended in one line, {equal} went on to equal results", flush=True
    )


SIZES = {
    "probe": (4, 16, 40, 100, 300, 1000, 2000),
    "train": (4, 100, 3000, 8000, 20000, 40000),
    "evaluate": (4, 16, 60, 200, 600),
    "study": (4, 100, 8000, 40000, 90000),
    "emergence": (0, 4),
    "report": (0, 100, 1000),
}
"""Free kilobytes that a command finds; each less than it needs."""


def _is_one_line(done: subprocess.CompletedProcess[str]) -> bool:
    """Return whether a command ended as promised: exit code 1 or 2, and no traceback; else show what it said."""
    last = done.stderr.replace("\r", "\n").rstrip().splitlines()[-1:] or [""]
    good = "Traceback" not in done.stderr and done.returncode in (1, 2)
    print(f"  {'' if good else 'TRACEBACK '}{done.returncode}: {last[0][:230]}")
    return good


def _lock(name: str, command: Command, work: Path, seconds: float) -> None:
    """Make the folder read-only before the command, and in the middle of it."""
    lines = 0
    for after in (0.0, seconds / 2):
        with small(work / "small", "900m") as change:
            folder = work / "small" / name
            _prepare(command, work, folder)
            if not after:
                change("ro")
            process = subprocess.Popen(
                command.words(folder, again=False),
                env=_environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            time.sleep(after)
            if after:
                change("ro")
            out, error = process.communicate()
            lines += _is_one_line(subprocess.CompletedProcess(process.args, process.returncode, out, error))
    print(f"{name}: read-only before and in the middle, {lines} of 2 ended in one line", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Stops))
