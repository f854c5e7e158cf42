"""Knock-out, patches and decoded geometry on the page: only where they were measured; damaged tables are refused."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_report import Reader

from analysis import report
from analysis.probing.edits import decoding, knockout, patched_samples, patching
from analysis.probing.tables import RunError, read_run
from probe.records.decoding import GREY, NO_MODEL, THIS
from probe.records.patching import ANOTHER, CLEAN, TRUE_MATCH, WHOLE_LAYER, WRONG_MATCH

LAYERS = (2, 7, 10)
UNITS = [f"room-{n}" for n in range(8)]


def knocked_out() -> pd.DataFrame:
    """The best heads matter more, by as much in every room."""
    sets = [("best", "10:0", 0.3), ("random", "2:1", 0.1), ("random", "7:1", 0.0)]
    return pd.DataFrame(
        {"heads": heads, "which": which, "chosen": chosen, "scene": unit, "unit": unit,
         "value": heads * value + n / 100, "count": 2}
        for heads in (1, 2)
        for which, chosen, value in sets
        for n, unit in enumerate(UNITS)
    )  # fmt: skip


def patched() -> pd.DataFrame:
    """The cleaner run's matching helps in layer 10, which alone reads true matches."""
    whole = [
        {"donor": donor, "part": part, "tokens": WHOLE_LAYER, "layer": layer, "measure": measure,
         "value": (-0.1 if donor == CLEAN else 0.2) * (layer == 10)}
        for donor in (CLEAN, ANOTHER) for part in ("matching", "content") for layer in LAYERS
        for measure in ("error", "moved")
    ]  # fmt: skip
    tokens = [
        {"donor": ANOTHER, "part": "content", "tokens": which, "layer": layer, "measure": "moved",
         "value": 0.03 if (layer, which) == (10, TRUE_MATCH) else 0.01}
        for which in (TRUE_MATCH, WRONG_MATCH) for layer in LAYERS
    ]  # fmt: skip
    rows = [
        {**row, "head": -1, "timestep": 500, "scene": unit, "unit": unit, "value": row["value"] + n / 1000, "count": 9}
        for row in (*whole, *tokens)
        for n, unit in enumerate(UNITS)
    ]
    return pd.DataFrame(rows)


def sampled() -> pd.DataFrame:
    """Another scene's content hurts samples in layer 10 alone; its matching nowhere."""
    usual = {"psnr": 14.0, "match_error": 0.2}
    change = {"psnr": -1.0, "match_error": 0.05}
    where = [("none", -1), *((part, layer) for part in ("matching", "content") for layer in LAYERS)]
    return pd.DataFrame(
        {"donor": ANOTHER, "part": part, "layer": layer, "steps": 5, "scene": unit, "unit": unit, "measure": measure,
         "value": usual[measure] + change[measure] * ((part, layer) == ("content", 10)) + (-1) ** n * layer / 1000,
         "count": 2}
        for part, layer in where for measure in usual for n, unit in enumerate(UNITS)
    )  # fmt: skip


def decoded() -> pd.DataFrame:
    """Layers 7 and 10 say more than both others."""
    errors = {THIS: {2: 0.3, 7: 0.1, 10: 0.1}, GREY: dict.fromkeys(LAYERS, 0.3), NO_MODEL: dict.fromkeys(LAYERS, 0.2)}
    return pd.DataFrame(
        {"who": who, "part": part, "layer": layer, "timestep": 500, "what": what, "scene": unit, "unit": unit,
         "value": error + n / 1000, "count": 40}
        for who, layers in errors.items() for part in ("matching", "values") for layer, error in layers.items()
        for what in ("depth", "epipolar") for n, unit in enumerate(UNITS)
    )  # fmt: skip


TABLES = {"knockout.csv": knocked_out, "patching.csv": patched, "patched_samples.csv": sampled, "decoded.csv": decoded}
SECTIONS = {"knockout": knockout, "patching": patching, "patched-samples": patched_samples, "decoded": decoding}
INSIDE = {"patched-samples": "patching"}


@pytest.fixture(scope="module")
def folder(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("edits") / "run"
    shutil.copytree(run_folder, copy)
    for name, make in TABLES.items():
        make().to_csv(copy / name, index=False)
    return copy


def test_a_run_without_the_tables_has_no_sections(run_folder: Path):
    bare = read_run(run_folder)
    for section in SECTIONS.values():
        assert (section.words(bare), section.figure(bare), section.text_table(bare).rows) == ((), None, ())
    assert patching.matches_figure(bare) is None


def test_the_page_has_sections_with_figures_tables_and_sentences(folder: Path):
    page, run = Reader(report.refresh(folder).read_text("utf-8")), read_run(folder)
    for name, section in SECTIONS.items():
        assert ("section", {"id": INSIDE.get(name, name)}) in page.tags
        for sentence in section.words(run):
            assert " ".join(sentence.split()) in page.text
        assert len(page.tables[f"table-{name}"]) == 1 + len(section.text_table(run).rows)


def test_tables_write_what_was_measured(folder: Path):
    run = read_run(folder)
    one, two = ([cell.replace("\u00a0", " ") for cell in row] for row in knockout.text_table(run).rows)
    assert one[0] == "1"
    assert one[1].startswith("+33.5 % (")
    assert one[3:] == ["+25.0 (+25.0 to +25.0)", "0 of 2", "8"]
    assert two[2].startswith("+13.5 % (")
    row = dict(zip((table := patching.text_table(run)).columns, table.rows[2], strict=True))
    assert row["layer"] == "10"
    assert row["matching, clean"].startswith("−9.7")
    assert row["minus equal distance"] == "+2.0 (+2.0 to +2.0)"
    row = dict(zip((table := patched_samples.text_table(run)).columns, table.rows[2], strict=True))
    assert row["layer"] == "10"
    assert row["PSNR, content, another"].startswith("−1.00 (−1.0")
    assert row["match error, content, another"].startswith("+0.050 (")
    assert decoding.text_table(run).rows[1][:5] == ("depth", "7", "queries and keys", "0.103", "0.303")


def test_sentences_follow_the_tables(folder: Path):
    run = read_run(folder)
    first, second, third = patching.words(run)
    assert "better matching there would help" in first
    assert "the model reads that layer" in second
    assert "true matches are read in layer 10:" in third
    nothing, hurt = patched_samples.words(run)
    assert all(f"no change of {name} is shown in any of the 3 layers" in nothing for name in ("PSNR", "match error"))
    assert "PSNR is lower in layer 10 (-1.00 dB" in hurt
    assert "match error is higher in layer 10 (+0.050" in hurt
    assert "layers 7, 10 are shown to say more than cameras" in decoding.words(run)[0]
    assert "for 1, 2 heads the best matter more than each of the 2 different random sets" in knockout.words(run)[0]


def test_a_selected_layer_that_was_not_patched_is_said_to_be_so(folder: Path):
    run = read_run(folder)
    assert run.patching is not None
    assert run.patched_samples is not None
    run = replace(
        run, patching=run.patching.query("layer == 7"), patched_samples=run.patched_samples.query("layer != 10")
    )
    for figure in (patching.figure(run), patched_samples.figure(run)):
        assert figure is not None
        assert "Layer 10 (selected) was not patched." in figure.caption
        assert "layer 10 was not patched" in figure.svg
    assert patching.words(run)[0].startswith("Of 3 scored layers only layer 7 was patched: what is said")
    assert "layer 7 is not shown to read true matches" in patching.words(run)[-1]


@pytest.mark.parametrize(
    ("name", "column", "value", "said"),
    [
        ("knockout.csv", "which", "<script>", "which of another kind than this version writes"),
        ("patching.csv", "donor", "x", "donor of another kind"),
        ("patching.csv", "part", np.nan, "part of another kind"),
        ("patching.csv", "value", np.inf, "an infinite value"),
        ("patching.csv", "layer", "x", "a layer that is no whole number"),
        ("patched_samples.csv", "donor", "clean", "donor of another kind"),
        ("patched_samples.csv", "steps", 2.5, "a steps that is no whole number"),
        ("decoded.csv", "what", "x", "what of another kind"),
    ],
)
def test_damaged_tables_are_refused(folder: Path, tmp_path: Path, name, column, value, said):
    copy = Path(shutil.copytree(folder, tmp_path / "run"))
    TABLES[name]().assign(**{column: value}).to_csv(copy / name, index=False)
    with pytest.raises(RunError, match=said):
        read_run(copy)


def test_samples_alone_have_the_section(folder: Path, tmp_path: Path):
    copy = Path(shutil.copytree(folder, tmp_path / "run"))
    (copy / "patching.csv").unlink()
    page = Reader(report.refresh(copy).read_text("utf-8"))
    assert ("section", {"id": "patching"}) in page.tags
    assert "table-patched-samples" in page.tables
    assert "table-patching" not in page.tables


@pytest.mark.parametrize("change", ["empty", "nothing counted", "unknown"])
@pytest.mark.parametrize("name", TABLES)
def test_what_could_not_be_measured_breaks_no_page(folder: Path, tmp_path: Path, name, change):
    copy, rows = Path(shutil.copytree(folder, tmp_path / "run")), TABLES[name]()
    changed = {
        "empty": rows[:0],
        "nothing counted": rows.assign(count=0),
        "unknown": rows.assign(value=np.nan, count=0),
    }
    changed[change].to_csv(copy / name, index=False)
    run = read_run(copy)
    for section in SECTIONS.values():
        for text in (*section.words(run), *(cell for row in section.text_table(run).rows for cell in row)):
            assert "nan" not in text.replace("distance", "")
        section.figure(run)
    patching.matches_figure(run)
