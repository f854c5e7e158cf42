"""The README's commands and snippets are the ones that work."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from probe import run

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.M | re.S)


def test_the_first_two_commands_install_probe_and_test():
    install, test = blocks("bash")[:2]
    assert "-c constraints.txt" in install
    assert install.rstrip().endswith("-m probe.run --model cat3d-tiny:supervised")
    assert test.strip() == ".venv/bin/python -m pytest"


def test_it_is_short():
    assert len(TEXT.splitlines()) <= 150
    assert len(TEXT.split()) <= 1300


def install_with(version: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the first command with a python3 that says it is of some version, and that makes no environment (exit 99)."""
    fake = folder / "python3"
    code = f"import sys; sys.version_info = ({version.replace('.', ', ')}, 0, 'final', 0)"
    fake.write_text(f'#!/bin/sh\n[ "$1" = -c ] || exit 99\nexec "{sys.executable}" -c "{code}\n$2"\n', encoding="utf-8")
    fake.chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    return subprocess.run(
        ["bash", "-c", blocks("bash")[0]], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("version", ["2.7", "3.10", "3.14"])
def test_another_python_is_refused_in_one_line(version: str, tmp_path: Path):
    done = install_with(version, tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"python3 is {version}, but 3.11, 3.12 or 3.13 is needed: write python3.12")


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_a_python_that_serves_goes_on_to_the_environment(version: str, tmp_path: Path):
    done = install_with(version, tmp_path)
    assert (done.returncode, done.stderr) == (99, "")


def test_the_python_snippets_run(capsys):
    look, _, train = blocks("python")
    exec(compile(look, "README.md", "exec"), {})
    assert "up_blocks.2.attentions.0" in capsys.readouterr().out
    exec(compile(train, "README.md", "exec"), {})
    assert capsys.readouterr().out.count("loss") == 3


def test_the_model_of_ones_own_is_probed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "my_model.py").write_text(blocks("python")[1], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    words = ["--model", "module:my_model.make", "--out", "runs/my"]
    run.cli([*words, "--pairs", "1", "--views", "2", "--image-size", "32", "--timesteps", "500", "--no-report"])
    layers = pd.read_csv(tmp_path / "runs/my/layers.csv")
    found = layers[["layer", "name", "grid_h", "grid_w"]].to_numpy().tolist()
    assert found == [[0, "blocks.0.attn1", 8, 8], [1, "blocks.1.attn1", 8, 8]]
    assert " ".join(words[:2]) in " ".join(TEXT.split())


def test_adopting_the_loss_takes_five_lines():
    lines = re.findall(r"# (\d)$", blocks("python")[2], re.M)
    assert lines == ["1", "2", "3", "4", "5"]


def test_named_files_exist():
    folders = "probe|train|analysis|benchmarks|reports|notebooks|docs"
    in_text = re.findall(rf"`((?:{folders})/[\w./-]*)`|`(\./check)`|\]\(([\w./-]+)\)", TEXT)
    in_tree = re.findall(rf"\b((?:{folders})/[\w./]*\w)", *re.findall(r"^```text\n(.*?)^```", TEXT, re.M | re.S))
    assert len(in_tree) > 8
    for path in [*in_tree, *("".join(parts) for parts in in_text)]:
        assert (ROOT / path).exists(), path


def test_environment_yml_asks_for_the_same_as_the_readme():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    pip = next(part["pip"] for part in environment["dependencies"] if isinstance(part, dict))
    assert pip == ["-e .[test]", "-c constraints.txt"]
    assert "python=3.11" in environment["dependencies"]


def test_every_requirement_is_pinned():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = project.split("dependencies = [", 1)[1].split("[tool.hatch", 1)[0]
    wanted = {name.lower().replace("_", "-") for name in re.findall(r'"([A-Za-z][\w-]*)[<>=~]', listed)}
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines if "==" in line}
    assert wanted <= pinned, wanted - pinned
