"""Seeded small runs of every command give what they gave when they were frozen: tests/frozen/freeze.py.

The runs go through the command lines only, in a process of their own, so that everything inside may move.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FROZEN = Path(__file__).parent / "frozen"
RUNS = sorted(json.loads((FROZEN / "portable.json").read_text("utf-8"))["digests"])

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Make all runs anew, and tell what differs."""
    out = tmp_path_factory.mktemp("frozen") / "told.json"
    words = [sys.executable, str(FROZEN / "freeze.py"), "--compare", str(out)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text("utf-8"))


def stop_at(differences: list[tuple[str, str]], run: str) -> None:
    words = [words for name, words in differences if name == run]
    if words:
        pytest.fail("\n  ".join([f"run {run}:", *words]), pytrace=False)


@pytest.mark.parametrize("run", RUNS)
def test_every_machine_finds_the_frozen_tables_and_means(told: dict[str, Any], run: str):
    stop_at(told["portable"], run)


@pytest.mark.parametrize("run", RUNS)
def test_this_machine_finds_the_frozen_bits(told: dict[str, Any], run: str):
    if told["other machine"]:
        pytest.skip(f"bits were frozen elsewhere: {told['other machine']}")
    stop_at(told["exact"], run)


def test_no_run_is_new(told: dict[str, Any]):
    new = {name for kind in ("exact", "portable") for name, _ in told[kind]} - set(RUNS)
    assert not new
