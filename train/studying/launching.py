"""Where the commands of a study run: in processes of this machine, or as jobs of a Slurm cluster by submitit."""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, cast, runtime_checkable

Outcome = tuple[int, str]
"""The exit code of a command, and its stderr."""
Runner = Callable[[str, Sequence[str], int], Outcome]
"""Run a command with some flags on some number of threads."""
Key = TypeVar("Key")
Where = Literal["local", "slurm"]
POLL = 1.0
"""Seconds between looks at which commands have ended."""
SIGNALS = (signal.SIGTERM, signal.SIGUSR2)
"""What Slurm and submitit send to all processes of a job that is to make room, or has used up its time."""
ROOM = 120
"""Seconds within which such a job is queued again, or ended, by its own process."""
TIMEOUTS = 100
"""Times that a job is queued again because it has used up its time."""
PARAMETERS = (
    "account", "constraint", "cpus_per_gpu", "cpus_per_task", "exclude", "gpus_per_node",
    "gres", "mem", "mem_per_cpu", "mem_per_gpu", "nodelist", "partition", "qos", "signal_delay_s", "time",
)  # fmt: skip
"""What ``--slurm`` may say of a job, in submitit's names of sbatch's options."""


@runtime_checkable
class Task(Protocol):
    """A command that was started."""

    def done(self) -> bool:
        """Return whether it has ended."""

    def result(self) -> Outcome:
        """Wait for its end; return its outcome."""


@runtime_checkable
class Launcher(Protocol):
    """A place where commands run."""

    def start(self, module: str, arguments: Sequence[str], after: Task | None = None) -> Task:
        """Start a command as soon as another one has succeeded, which is of the same launcher."""


def as_they_end(started: Mapping[Key, Task], look: Callable[[], None]) -> Iterator[tuple[Key, Outcome]]:
    """Yield what was started as it ends.

    Args:
        started: The commands under any name.
        look: Called about once a second.
    """
    waiting = dict(started)
    while waiting:
        ended = [key for key, task in waiting.items() if task.done()]
        look()
        for key in ended:
            yield key, waiting.pop(key).result()
        if not ended:
            time.sleep(POLL)


def run_process(module: str, arguments: Sequence[str], threads: int) -> Outcome:
    """Run a command in a process of its own, which holds the study's lock while it runs.

    Args:
        module: Of the command, as in python -m MODULE.
        arguments: Its flags.
        threads: Of the process.

    Returns:
        The exit code and stderr.
    """
    process = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        close_fds=False,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        check=False,
    )
    return process.returncode, process.stderr


# --- this machine ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Processes:
    """Processes of this machine, some at a time.

    Attributes:
        pool: Starts them.
        runner: Runs one.
        threads: Of each.
    """

    pool: ThreadPoolExecutor
    runner: Runner
    threads: int

    def start(self, module: str, arguments: Sequence[str], after: Task | None = None) -> Future[Outcome]:
        """Start a command when a place is free and ``after`` has succeeded; see :class:`Launcher`."""
        return self.pool.submit(self._run_after, after, module, arguments)

    def _run_after(self, after: Task | None, module: str, arguments: Sequence[str]) -> Outcome:
        if after is not None and after.result()[0]:
            return after.result()[0], "its base failed"
        return self.runner(module, arguments, self.threads)


@contextmanager
def processes(jobs: int, threads: int, runner: Runner = run_process) -> Iterator[Processes]:
    """Open a launcher of processes on this machine; commands that have not begun when it closes never begin.

    Args:
        jobs: Number of processes at a time.
        threads: Of each.
        runner: Runs one command.
    """
    with ThreadPoolExecutor(jobs) as pool:
        try:
            yield Processes(pool=pool, runner=runner, threads=threads)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


# --- a cluster -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a Slurm job runs: a command that continues where it was stopped.

    Attributes:
        module: Of the command.
        arguments: Its flags.
    """

    module: str
    arguments: tuple[str, ...]

    def __call__(self) -> Outcome:
        """Run the command; where Slurm stopped it, leave the end to submitit, which queues the job again."""
        code, words = run_process(self.module, self.arguments, int(os.environ.get("SLURM_CPUS_PER_TASK", "1")))
        if -code in SIGNALS:
            time.sleep(ROOM)
        return code, words

    def checkpoint(self) -> Any:
        """Return what submitit queues again: the same command."""
        return import_module("submitit.helpers").DelayedSubmission(self)


@dataclass(frozen=True, kw_only=True)
class SlurmTask:
    """A job in Slurm's queue, running, or ended.

    Attributes:
        job: The submitit.SlurmJob.
    """

    job: Any

    def done(self) -> bool:
        """Return whether it has ended; a job that was cancelled is known to within ten minutes."""
        return bool(self.job.done())

    def result(self) -> Outcome:
        """Wait for its end; return its outcome."""
        errors = import_module("submitit.core.utils")
        try:
            return cast(Outcome, self.job.result())
        except (errors.FailedJobError, errors.UncompletedJobError):
            return 1, f"Slurm job {self.job.job_id} ended as {self.job.state}; see {self.job.paths.stderr}"


@dataclass(frozen=True, kw_only=True)
class Slurm:
    """The queue of a Slurm cluster. Its jobs outlive the study's process, and a new one finds them by their names.

    Attributes:
        folder: Of submitit's files and of the jobs' output, seen by all nodes.
        parameters: As :func:`parse_slurm` returns them.
    """

    folder: Path
    parameters: dict[str, int | str]

    def start(self, module: str, arguments: Sequence[str], after: Task | None = None) -> SlurmTask:
        """Submit a command, or find the job that runs it already; see :class:`Launcher`.

        Raises:
            ValueError: If Slurm does not answer, or does not take the job.
        """
        submitit, errors = import_module("submitit"), import_module("submitit.core.utils")
        name, flags = job_name(module, arguments), _digest(*arguments, str(self.parameters))
        if (queued := _queued(name)) is not None:
            number, _, before = queued.partition(" ")
            if before != flags:
                print(f"{_folder(arguments)}: its job {number} goes on with the flags it was submitted with")
            return SlurmTask(job=submitit.SlurmJob(self.folder, number))
        executor = submitit.SlurmExecutor(self.folder, max_num_timeout=TIMEOUTS)
        waits = _dependency(cast(SlurmTask | None, after))
        executor.update_parameters(**self.parameters, job_name=name, comment=flags, **waits)
        try:
            return SlurmTask(job=executor.submit(Job(module=module, arguments=tuple(arguments))))
        except errors.FailedJobError as error:
            raise ValueError(f"--slurm {self.parameters}: Slurm did not take the job: {_last(str(error))}") from error


def _dependency(after: SlurmTask | None) -> dict[str, Any]:
    if after is None or after.done():
        return {}
    return {"dependency": f"afterok:{after.job.job_id}", "additional_parameters": {"kill-on-invalid-dep": "yes"}}


def job_name(module: str, arguments: Sequence[str]) -> str:
    """Return a job's name in the queue: the command, and a digest of the folder that it writes."""
    return f"{module}-{_digest(str(_folder(arguments).resolve()))}"


def _folder(arguments: Sequence[str]) -> Path:
    return Path(arguments[arguments.index("--out") + 1])


def _digest(*words: str) -> str:
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:12]


def _queued(name: str) -> str | None:
    """Return number and comment of the job of that name which waits or runs; None if there is none."""
    words = ["squeue", "--noheader", "--me", "--name", name, "--format", "%A %k"]
    listed = subprocess.run(words, capture_output=True, text=True, check=False)
    if listed.returncode:
        raise ValueError(f"--launcher slurm: squeue does not answer: {_last(listed.stderr)}")
    return next((line.strip() for line in listed.stdout.splitlines() if line.strip()), None)


def _last(text: str) -> str:
    return (text.strip().splitlines() or ["no word"])[-1]


def parse_slurm(text: str) -> dict[str, int | str]:
    """Parse ``--slurm``: parameters of sbatch as submitit names them.

    Args:
        text: Such as partition=gpu,gpus_per_node=1,time=120; time in minutes.

    Returns:
        The parameters, whole numbers as such.

    Raises:
        ValueError: If one is unknown, named twice or has no value, or the time is no number of minutes.
    """
    pairs = [part.partition("=") for part in re.split(r",(?=[a-z_]+=)", text) if part]
    names = [name for name, *_ in pairs]
    wrong = [name for name, _, value in pairs if name not in PARAMETERS or not value]
    if wrong or len(set(names)) < len(names):
        raise ValueError(
            f"--slurm {text}: expected NAME=VALUE, separated by commas, each name once of {', '.join(PARAMETERS)}"
        )
    parameters: dict[str, int | str] = {
        name: int(value) if value.isascii() and value.isdecimal() else value for name, _, value in pairs
    }
    if not isinstance(parameters.get("time", 1), int):
        raise ValueError(f"--slurm {text}: expected time in minutes, such as time=120")
    return parameters


def check_launcher(where: Where, slurm: str) -> None:
    """Check the flags ``--launcher`` and ``--slurm``.

    Raises:
        ValueError: If they do not go together, this machine has no Slurm, or submitit is not installed.
    """
    asked = parse_slurm(slurm)
    if where == "slurm" and "time" not in asked:
        raise ValueError(f"--slurm {slurm}: expected time=MINUTES among others: Slurm ends a job after it")
    if where == "local" and slurm:
        raise ValueError(f"--slurm {slurm}: goes with --launcher slurm")
    if where == "slurm" and (shutil.which("sbatch") is None or find_spec("submitit") is None):
        raise ValueError(
            "--launcher slurm: expected Slurm's sbatch on this machine, and submitit; run it where jobs are submitted, "
            'after pip install -e ".[cluster]"'
        )
