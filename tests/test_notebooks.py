"""Each notebook is its .py and nothing else, holds no outputs, and runs from its own folder without a warning."""

from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
SOURCES = sorted(NOTEBOOKS.glob("*.py"))
AGAIN = "write it again: jupytext --to ipynb notebooks/*.py"


def cells(notebook: NotebookNode) -> list[dict]:
    """Give all of the cells but their identifiers, which are drawn."""
    return [{key: value for key, value in cell.items() if key != "id"} for cell in notebook.cells]


def test_there_are_five_pairs():
    assert [path.stem[0] for path in SOURCES] == list("12345")
    assert [path.stem for path in sorted(NOTEBOOKS.glob("*.ipynb"))] == [path.stem for path in SOURCES]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_notebook_is_what_jupytext_makes_of_its_source(source: Path):
    committed = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    nbformat.validate(committed)
    made = jupytext.read(source)
    assert cells(committed) == cells(made), AGAIN
    assert committed.metadata["kernelspec"] == made.metadata["kernelspec"]
    assert committed.metadata["jupytext"]["formats"] == made.metadata["jupytext"]["formats"] == "ipynb,py:percent"
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in committed.cells), AGAIN


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_notebook_runs(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    before = sorted(NOTEBOOKS.iterdir())
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": NOTEBOOKS}}).execute()
    assert sorted(NOTEBOOKS.iterdir()) == before, "a notebook writes to a temporary folder or runs/ only"
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    told = "".join(output["text"] for output in outputs if output["output_type"] == "stream")
    assert "Warning" not in told, told
    shown = [kind for output in outputs for kind in output.get("data", {})]
    assert shown.count("text/html") >= 2, "figures and tables show themselves"
