"""A run that several processes share: its numbers are those of one, also where it was stopped and resumed by others."""

import os
import shutil
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe import run
from probe.plan.processes import Processes, join_processes

FLAGS = ["--model", "cat3d-tiny:plain", "--pairs", "4", "--views", "2", "--timesteps", "500", "--layers", "10"]
FLAGS += ["--image-size", "64", "--device", "cpu"]
TABLES = ("scores.parquet", "pairs.csv", "layers.csv", "selection.json", "matches.parquet", "explorer.safetensors")


@given(st.integers(0, 30), st.integers(1, 6))
def test_shares_part_the_items(items: int, count: int) -> None:
    shares = [Processes(index=index, count=count).share(range(items)) for index in range(count)]
    assert sorted(item for share in shares for item in share) == list(range(items))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_without_a_launcher_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    alone = join_processes("auto")
    assert (alone.is_first, alone.count) == (True, 1)


def test_what_the_first_fails_at_ends_all_and_it_alone_says_why() -> None:
    done: list[str] = []
    Processes().first_does(lambda: done.append("alone"))
    Processes(index=1, count=2, agree=lambda _: True).first_does(lambda: done.append("second"))
    assert done == ["alone"]

    def fail() -> None:
        raise ValueError("why")

    told: list[bool] = []
    with pytest.raises(ValueError, match="why"):
        Processes(count=2, agree=lambda value: told.append(value) or value).first_does(fail)
    assert told == [False]
    with pytest.raises(SystemExit, match="2"):
        Processes(index=1, count=2, agree=lambda _: False).first_does(fail)


def words(count: int, out: Path, *more: str) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)] if count > 1 else []
    return [sys.executable, *launcher, "-m", "probe.run", *FLAGS, "--out", str(out), *more]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def launch(count: int, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = words(count, out, *more)
    return subprocess.run(command, env=environment(), capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.slow
def test_two_processes_write_the_run_of_one_after_a_stop_and_so_does_one(tmp_path: Path) -> None:
    run.cli([*FLAGS, "--out", str(tmp_path / "run"), "--no-report"])
    kill_after_a_scene(tmp_path / "two/run")
    shutil.copytree(tmp_path / "two", tmp_path / "one")
    done = launch(2, tmp_path / "two/run", "--resume")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("page: ") == 1
    run.cli([*FLAGS, "--out", str(tmp_path / "one/run"), "--resume", "--no-report"])
    for table, folder in product(TABLES, ("one", "two")):
        assert (tmp_path / folder / "run" / table).read_bytes() == (tmp_path / "run" / table).read_bytes(), table


def kill_after_a_scene(out: Path) -> None:
    """Kill a run of two processes as soon as one scene is whole; the launcher gives each a session of its own."""
    with subprocess.Popen(words(2, out), env=environment(), stderr=subprocess.DEVNULL) as launched:
        while not list(out.glob("parts/scene-*.parquet")):
            assert launched.poll() is None
            time.sleep(0.05)
        processes = [psutil.Process(launched.pid), *psutil.Process(launched.pid).children(recursive=True)]
        for process in processes:
            process.kill()
        assert not psutil.wait_procs(processes, timeout=30)[1]
    assert (out / "parts").is_dir()
    assert not (out / "selection.json").exists()


@pytest.mark.long
@pytest.mark.slow
def test_a_folder_of_another_run_is_refused_and_no_process_is_left_waiting(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    done = launch(2, tmp_path)
    assert done.returncode != 0
    assert "is not empty and holds no config.json" in done.stderr
    assert "[rank1]" not in done.stderr  # one line, and torchrun's own report
