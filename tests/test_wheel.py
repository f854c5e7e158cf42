"""What people install: a wheel that runs away from its sources and holds no tests; a source without results."""

import os
import shlex
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILD = "import sys; from hatchling import build; build.build_wheel(sys.argv[1]); build.build_sdist(sys.argv[1])"
FEW = shlex.split(
    "--pairs 1 --views 2 --layers 10 --timesteps 500 --image-size 64 --baselines none --interventions none --device cpu"
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution."""
    out = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(out)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel installs."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        wheel.extractall(folder)
    return folder


def test_the_wheel_holds_weights_and_templates_and_no_tests(installed: Path):
    packages = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert packages == {"probe", "train", "analysis"}
    assert list(installed.glob("probe/models/weights/*/*.safetensors"))
    words = ["git", "ls-files", "probe", "train", "analysis"]
    tracked = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    if not tracked.returncode:
        assert [name for name in tracked.stdout.split() if not (installed / name).is_file()] == []


def test_the_wheel_runs_away_from_its_sources(installed: Path, tmp_path: Path):
    words = [sys.executable, "-c", "import probe; print(probe.__file__); from probe.run import cli; cli()", *FEW]
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(installed))
    assert (tmp_path / "runs" / "probe" / "report.html").is_file()
    scripts = (next(installed.glob("*.dist-info")) / "entry_points.txt").read_text()
    assert "attention-probing = probe.run:cli" in scripts


def test_the_source_distribution_holds_the_packages_and_no_wheels(built: Path):
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = [name.split("/", 1)[1] for name in archive.getnames()]
    assert {"probe/run.py", "README.md", "LICENSE", "pyproject.toml"} <= set(names)
    assert [name for name in names if name.endswith((".whl", ".html")) or name.startswith(("tests", "reports"))] == []
