"""A finished probe run, made once, that commands go on from."""

import shutil
from pathlib import Path

import pytest

from probe import run

RUN = ["--model", "cat3d-tiny:random", "--pairs", "1", "--views", "2", "--image-size", "32", "--no-report",
       "--timesteps", "500", "--layers", "6,8", "--baselines", "none", "--interventions", "none"]  # fmt: skip


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four rooms and two layers; leave it as it is."""
    out = tmp_path_factory.mktemp("finished") / "run"
    run.cli([*RUN, "--out", str(out)])
    return out


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A copy of that run, to go on from."""
    return Path(shutil.copytree(finished, tmp_path / "copy"))
