"""Two workers on two cores: each computes on one thread. ``--random-order SEED`` shuffles the tests.

Type and shape annotations are checked at run time in the modules that use jaxtyping. ``./check`` checks them in every
module, which takes more than half of the tests' time.
"""

import os
import random
from pathlib import Path

import hypothesis
import jaxtyping
import pytest
import torch

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):  # of workers, and of what tests start
    os.environ.setdefault(name, "1")
torch.set_num_threads(1)
hypothesis.settings.register_profile("tests", deadline=None)  # no test is timed: machines differ
hypothesis.settings.load_profile("tests")
ROOT = Path(__file__).parents[1]
SHAPED = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for package in ("probe", "train", "analysis")
    for path in sorted((ROOT / package).rglob("*.py"))
    if "from jaxtyping import" in path.read_text(encoding="utf-8")
]
jaxtyping.install_import_hook(SHAPED, "beartype.beartype")
LONG = (
    *("test_frozen.py", "test_launched.py", "test_run_processes.py", "test_notebooks.py", "test_fit.py"),
    *("test_every_model.py", "test_claims.py", "test_videos.py", "test_cameo.py"),
)
"""Modules that begin first, lest one worker ends with them while the other has nothing left."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--random-order", type=int, metavar="SEED", help="shuffle modules, and the tests in each, by SEED")


def pytest_report_header(config: pytest.Config) -> str | None:
    seed = config.getoption("--random-order")
    return None if seed is None else f"random order: --random-order {seed}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Shuffle the modules and the tests in each: what a module's tests share is still made once."""
    seed = config.getoption("--random-order")
    if seed is None:
        items.sort(key=lambda item: item.path.name not in LONG)
        return
    by_module: dict[str, list[pytest.Item]] = {}
    for item in items:
        by_module.setdefault(item.nodeid.partition("::")[0], []).append(item)
    draw, modules = random.Random(seed), list(by_module.values())
    for tests in (modules, *modules):
        draw.shuffle(tests)
    items[:] = [item for tests in modules for item in tests]
