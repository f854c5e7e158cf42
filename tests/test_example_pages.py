"""The example pages are what their kept runs give, and small enough to open."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def test_the_pages_are_built_from_their_runs_and_small(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("examples", ROOT / "docs" / "examples.py")
    assert spec is not None
    assert spec.loader is not None
    examples = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(examples)
    for page in examples.build(tmp_path):
        assert page.stat().st_size <= 2_000_000, page.name
        kept = ROOT / "docs" / "examples" / page.name
        assert page.read_bytes() == kept.read_bytes(), f"{page.name} drifted; build it anew: python docs/examples.py"
