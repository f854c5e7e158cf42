"""The README's commands and snippets are the ones that work."""

import re
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
    assert install.rstrip().endswith("-m probe.run")
    assert test.strip() == ".venv/bin/python -m pytest"


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
    assert found == [[0, "blocks.0", 8, 8], [1, "blocks.1", 8, 8]]
    assert " ".join(words[:2]) in " ".join(TEXT.split())


def test_adopting_the_loss_takes_five_lines():
    lines = re.findall(r"# (\d)$", blocks("python")[2], re.M)
    assert lines == ["1", "2", "3", "4", "5"]


def test_named_files_exist():
    folders = "probe|train|analysis|benchmarks|reports|notebooks|docs"
    names = re.findall(rf"`((?:{folders})/[\w./-]*)`|\]\(((?:reports|docs)/[\w./-]+)\)|`(\./check)`", TEXT)
    for found in names:
        path = next(part for part in found if part)
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
