"""Where the commands of a study run: this machine's processes, and a Slurm cluster where one is at hand."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.studying import launching
from train.studying.launching import (
    PARAMETERS,
    Job,
    Slurm,
    SlurmTask,
    as_they_end,
    check_launcher,
    job_name,
    parse_slurm,
    processes,
)

STUDY = ["--variants", "plain,mean", "--seeds", "0,1", "--steps", "40", "--batch-size", "2", "--rotation-ramp", "0"]
STUDY += ["--evaluate-every", "40", "--evaluate-scenes", "2", "--sampling-steps", "2", "--probe-every", "0"]
STUDY += ["--checkpoint-every", "10", "--device", "cpu"]
ONE = ["--steps", "1", "--out", "runs/one"]
TABLES = ("study.csv", "summary.csv", "reach.csv")


def test_parameters_known():
    assert parse_slurm("partition=gpu,gpus_per_node=1,time=120") == {
        "partition": "gpu",
        "gpus_per_node": 1,
        "time": 120,
    }
    assert parse_slurm("exclude=a1,a2,mem=32G") == {"exclude": "a1,a2", "mem": "32G"}
    assert parse_slurm("") == {}


@given(st.dictionaries(st.sampled_from([name for name in PARAMETERS if name != "time"]), st.integers(0, 99)))
def test_parameters_are_read_as_written(values: dict[str, int]):
    assert parse_slurm(",".join(f"{name}={value}" for name, value in values.items())) == values


@pytest.mark.parametrize(
    "text",
    ["queue=gpu", "partition", "partition=", "time=1:00:00", "time=1,time=2", "command=rm", "setup=x", "=1", ",,a"],
)
def test_other_parameters_are_refused(text: str):
    with pytest.raises(ValueError, match="--slurm "):
        parse_slurm(text)


def test_flags_that_do_not_go_together_are_refused(monkeypatch: pytest.MonkeyPatch):
    check_launcher("local", "")
    with pytest.raises(ValueError, match="goes with --launcher slurm"):
        check_launcher("local", "time=5")
    with pytest.raises(ValueError, match="expected time=MINUTES"):
        check_launcher("slurm", "partition=gpu")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match="expected Slurm's sbatch"):
        check_launcher("slurm", "time=5")


def test_names_of_jobs_tell_commands_and_folders_apart(tmp_path: Path):
    here, there = ["--out", str(tmp_path / "one")], ["--out", str(tmp_path / "two")]
    assert len({job_name("a", here), job_name("b", here), job_name("a", there)}) == 3
    assert job_name("a", here) == job_name("a", ["--steps", "3", "--out", str(tmp_path / "o" / ".." / "one")])


def test_a_command_waits_for_the_one_before_and_does_not_run_after_a_failure():
    order: list[str] = []

    def runner(module: str, flags: Sequence[str], threads: int) -> tuple[int, str]:
        time.sleep(0.02)
        order.append(module)
        return (2 if module == "bad" else 0), module

    with processes(3, 1, runner) as launcher:
        good, bad = launcher.start("good", []), launcher.start("bad", [])
        tasks = {"good": good, "bad": bad, "after good": launcher.start("next", [], after=good)}
        tasks["after bad"] = launcher.start("never", [], after=bad)
        outcomes = dict(as_they_end(tasks, lambda: None))
    assert outcomes["after good"] == (0, "next")
    assert outcomes["after bad"] == (2, "its base failed")
    assert order.index("good") < order.index("next")
    assert "never" not in order


def test_a_job_that_slurm_stops_waits_for_its_own_process_to_be_queued_again(monkeypatch: pytest.MonkeyPatch):
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    for code, expected in ((0, 0), (2, 0), (-signal.SIGTERM, 1), (-signal.SIGUSR2, 1)):
        slept.clear()
        monkeypatch.setattr(launching, "run_process", lambda *_, code=code: (code, "words"))
        assert Job(module="m", arguments=())() == (code, "words")
        assert len(slept) == expected


def test_a_job_is_pickled_by_name_and_queued_again_as_itself():
    submitit = pytest.importorskip("submitit", reason="the extra cluster is not installed")
    job = Job(module="train.cameo", arguments=("--steps", "1"))
    assert isinstance(job.checkpoint(), submitit.helpers.DelayedSubmission)
    assert job.checkpoint().function == job


def test_a_job_that_failed_says_where_to_look():
    errors = pytest.importorskip("submitit", reason="the extra cluster is not installed").core.utils

    def result() -> None:
        raise errors.UncompletedJobError("many\nlines")

    task = SlurmTask(
        job=SimpleNamespace(
            result=result, job_id="7", state="TIMEOUT", paths=SimpleNamespace(stderr=Path("/logs/7.err"))
        )
    )
    assert task.result() == (1, "Slurm job 7 ended as TIMEOUT; see /logs/7.err")


SBATCH = """#!/bin/sh
cat "$1" > "{folder}/sent-$(ls {folder} | wc -l)"
echo "Submitted batch job 90000$(ls {folder} | wc -l)"
"""
SQUEUE = """#!/bin/sh
test -f {folder}/queued && cat {folder}/queued || true
"""


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with what stand-ins of Slurm's commands were told to submit."""
    pytest.importorskip("submitit", reason="the extra cluster is not installed")
    folder, commands = tmp_path / "sent", tmp_path / "bin"
    folder.mkdir()
    commands.mkdir()
    for name, text in (("sbatch", SBATCH), ("squeue", SQUEUE), ("srun", "#!/bin/sh\n"), ("sacct", "#!/bin/sh\n")):
        (commands / name).write_text(text.format(folder=folder))
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    return folder


def test_a_job_asks_for_what_the_flags_say_and_waits_for_its_base(tmp_path: Path, queue: Path):
    launcher = Slurm(folder=tmp_path / "jobs", parameters={"partition": "gpu", "time": 30})
    base = launcher.start("train.cameo", ONE)
    launcher.start("train.cameo", ["--out", "runs/two"], after=base)
    first, second = ((queue / name).read_text() for name in ("sent-0", "sent-1"))
    assert "#SBATCH --partition=gpu" in first
    assert "#SBATCH --time=30" in first
    assert f"#SBATCH --job-name={job_name('train.cameo', ONE)}" in first
    assert "dependency" not in first
    assert f"#SBATCH --dependency=afterok:{base.job.job_id}" in second
    assert "#SBATCH --kill-on-invalid-dep=yes" in second


def test_a_job_that_is_queued_already_is_not_submitted_again(
    tmp_path: Path, queue: Path, capsys: pytest.CaptureFixture[str]
):
    launcher = Slurm(folder=tmp_path / "jobs", parameters={})
    launcher.start("train.cameo", ONE)
    flags = re.findall("#SBATCH --comment=(.*)", (queue / "sent-0").read_text())[0]
    (queue / "queued").write_text(f"4711 {flags}\n")
    assert launcher.start("train.cameo", ONE).job.job_id == "4711"
    assert capsys.readouterr().out == ""
    assert launcher.start("train.cameo", [*ONE, "--checkpoint-every", "9"]).job.job_id == "4711"
    assert "runs/one: its job 4711 goes on with the flags it was submitted with" in capsys.readouterr().out
    assert len(list(queue.glob("sent-*"))) == 1


@pytest.mark.parametrize(
    ("command", "message"), [("squeue", "squeue does not answer: no"), ("sbatch", "did not take the job: .*no")]
)
def test_what_slurm_refuses_is_said_in_one_line(command: str, message: str, tmp_path: Path, queue: Path):
    (queue.parent / "bin" / command).write_text("#!/bin/sh\necho no >&2\nexit 1\n")
    with pytest.raises(ValueError, match=message):
        Slurm(folder=tmp_path / "jobs", parameters={}).start("train.cameo", ONE)


# --- a real Slurm ----------------------------------------------------------------------------------------------------


def has_slurm() -> bool:
    return (
        shutil.which("sinfo") is not None and not subprocess.run(["sinfo"], capture_output=True, check=False).returncode
    )


def study(out: Path, *more: str) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "train.study", *STUDY, "--out", str(out), *more]
    return subprocess.Popen(words, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)


def running_jobs() -> list[str]:
    words = ["squeue", "--noheader", "--me", "--states", "RUNNING", "--format", "%A"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.slow
@pytest.mark.skipif(not has_slurm(), reason="no Slurm answers here; benchmarks/slurm.sh starts one")
def test_a_study_on_slurm_with_a_job_stopped_and_queued_again_has_the_tables_of_this_machine(tmp_path: Path):
    with study(tmp_path / "local") as local:
        assert local.wait() == 0
    asked = ("--launcher", "slurm", "--slurm", "partition=one,cpus_per_task=1,time=30")
    with study(tmp_path / "slurm", *asked) as first:
        while not list((tmp_path / "slurm").glob("*/checkpoints/*")):
            assert first.poll() is None
            time.sleep(0.2)
        first.kill()  # the jobs go on; the next call finds them
    stopped = running_jobs()[0]
    for name in ("TERM", "USR2"):  # as Slurm preempts
        subprocess.run(["scancel", stopped, "--signal", name], check=True)
    with study(tmp_path / "slurm", *asked) as second:
        assert second.wait() == 0
    for table in TABLES:
        assert (tmp_path / "slurm" / table).read_bytes() == (tmp_path / "local" / table).read_bytes(), table
    jobs = subprocess.run(["sacct", "-X", "--noheader", "--duplicates", "--jobs", stopped, "--format", "State"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert len(jobs.stdout.split()) == 2, jobs.stdout  # it ran twice
