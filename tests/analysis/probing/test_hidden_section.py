"""Hidden points on the page: only where they were measured; what is said is what the table shows."""

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_report import Reader

from analysis import report
from analysis.probing import hidden
from analysis.probing.tables import ProbeRun, RunError, read_run
from probe.records.hidden import HIDDEN_COLUMNS
from probe.records.names import (
    AT_PROJECTION,
    CONFIDENT,
    HIGHEST_WEIGHT,
    KEY_VIEW_MASS,
    OCCLUDED,
    OUT_OF_FRAME,
    PROJECTION_CHANCE,
    PROJECTION_LEAD,
    SHARE_OF_ENTROPY,
    UNKNOWN,
    VISIBLE,
)

RATES = {VISIBLE: 0.5, OCCLUDED: 0.2, OUT_OF_FRAME: 0.7, UNKNOWN: 0.3}
METRICS = (KEY_VIEW_MASS, SHARE_OF_ENTROPY, HIGHEST_WEIGHT, CONFIDENT, AT_PROJECTION, PROJECTION_CHANCE,
           PROJECTION_LEAD)  # fmt: skip
NULL = "tiny: cameras only"


def made(model: str, layer: int, timestep: int, head: int, off: float) -> list[dict[str, object]]:
    """Every metric is its cause's rate, the null's is lower; differences are those of the rates, by 0.05."""
    rows = []
    for metric in METRICS:
        for cause, rate in RATES.items():
            over = rate - RATES[VISIBLE] if cause in (OCCLUDED, OUT_OF_FRAME) else np.nan
            value, ends = rate + off, {"over_visible_low": over - 0.05, "over_visible_high": over + 0.05}
            own = {"model": model, "layer": layer, "layer_name": "", "grid": "8x8", "head": head, "timestep": timestep}
            rows.append({**own, "metric": metric, "cause": cause, "value": value, "low": value - 0.04,
                         "high": value + 0.04, "over_visible": over, **ends, "scenes": 6, "units": 6,
                         "count": 1234})  # fmt: skip
    return rows


def table() -> pd.DataFrame:
    rows = [row for layer in (2, 7, 10) for head in (-1, 0) for row in made("tiny", layer, 500, head, 0.01 * head)]
    rows += [row for layer in (2, 7, 10) for row in made("tiny", layer, 100, -1, 0.2)]
    rows += [row for layer in (2, 7, 10) for row in made(NULL, layer, 500, -1, -0.15)]
    return pd.DataFrame(rows)[list(HIDDEN_COLUMNS)]


def with_table(run_folder: Path, folder: Path, rows: pd.DataFrame) -> Path:
    shutil.copytree(run_folder, folder)
    rows.to_csv(folder / "hidden.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def folder(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_table(run_folder, tmp_path_factory.mktemp("hidden") / "run", table())


@pytest.fixture(scope="module")
def run(folder: Path) -> ProbeRun:
    return read_run(folder)


def test_a_run_without_the_table_has_no_section(run_folder: Path):
    bare = read_run(run_folder)
    assert (bare.hidden, hidden.figure(bare), hidden.words(bare), hidden.null_of(bare)) == (None, None, (), None)
    assert hidden.text_table(bare).rows == ()


def test_the_page_has_a_section_with_figure_table_and_sentences(folder: Path, run: ProbeRun):
    page = Reader(report.refresh(folder).read_text("utf-8"))
    assert ("section", {"id": "hidden"}) in page.tags
    assert len(page.tables["table-hidden"]) == 1 + 3 * 3
    for sentence in hidden.words(run):
        assert " ".join(sentence.split()) in page.text


def test_shown_is_the_middle_timestep_of_all_heads_together(run: ProbeRun):
    assert hidden.timestep(run) == 500
    shown = hidden.shown(run)
    assert (set(shown["head"]), set(shown["timestep"])) == ({-1}, {500})
    assert UNKNOWN not in set(shown["cause"])


def test_the_table_shows_each_layer_and_cause(run: ProbeRun):
    written = hidden.text_table(run)
    assert [row[:2] for row in written.rows[:3]] == [("2", VISIBLE), ("2", OCCLUDED), ("2", OUT_OF_FRAME)]
    assert written.marked == (6, 7, 8)  # layer 10
    row = dict(zip(written.columns, written.rows[7], strict=True))
    text = {name: cell.replace("\u00a0", " ") for name, cell in row.items()}
    assert text["as peaked as a right match"] == "19.0 % (15.0–23.0 %)"
    assert text["difference to visible"] == "−30.0 (−35.0 to −25.0)"
    assert text["cameras only: as peaked"] == "5.0 % (1.0–9.0 %)"
    assert len(written.columns) == len(row)


def test_sentences_say_whether_it_spreads_or_hallucinates(run: ProbeRun):
    occluded, outside, through = (text.replace("\u00a0", " ") for text in hidden.words(run))
    assert "19.0 % (15.0–23.0 %) are as peaked as a right match, of visible points 49.0 % (45.0–53.0 %)" in occluded
    assert "the difference is −30.0 (−35.0 to −25.0) points: it spreads there" in occluded
    assert "Cameras only, by its own right matches: 5.0 % (1.0–9.0 %); the model is sure of them more" in occluded
    assert "+20.0 (+15.0 to +25.0) points: it hallucinates matches" in outside
    assert "19.0 % (15.0–23.0 %) lie where the hidden point projects" in through
    assert through.endswith("(+15.0 to +23.0), above zero.")


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (-0.2, -0.01, "it spreads there"),
        (0.01, 0.2, "it hallucinates matches, more often"),
        (-0.1, 0.1, "neither to spread there nor to be sure more often; a match is hallucinated in 30.0"),
        (np.nan, np.nan, "too few independent units"),
    ],
)
def test_the_interval_of_the_difference_decides(low: float, high: float, said: str):
    ends = {"over_visible_low": low, "over_visible_high": high}
    assert said in hidden.spread_words({"low": 0.3, "over_visible": 0.0, **ends})


def test_a_cause_without_queries_is_said_to_be_unmeasured(run_folder: Path, tmp_path: Path):
    rows = table()
    rows.loc[rows["cause"] == OCCLUDED, ["value", "low", "high", "over_visible", "over_visible_low"]] = np.nan
    rows.loc[rows["cause"] == OCCLUDED, "count"] = 0
    bare = read_run(with_table(run_folder, tmp_path / "run", rows))
    assert "No query of layer 10 whose point is occluded in the key view could be judged." in hidden.words(bare)
    assert "—" in hidden.text_table(bare).rows[7] or "–" in hidden.text_table(bare).rows[7]
    assert hidden.figure(bare) is not None


def test_without_a_null_none_is_named(run_folder: Path, tmp_path: Path):
    rows = table()
    bare = read_run(with_table(run_folder, tmp_path / "run", rows[rows["model"] == "tiny"]))
    assert hidden.null_of(bare) is None
    assert not any("by its own right matches" in text for text in hidden.words(bare))
    assert len(hidden.text_table(bare).columns) == len(hidden.text_table(bare).rows[0])


def test_the_figure_is_drawn_from_its_table_and_says_what_it_counts(run: ProbeRun):
    chart = hidden.figure(run)
    assert chart is not None
    assert (chart.name, chart.file) == ("hidden", "hidden_by_layer.csv")
    assert "cameras only" in chart.caption
    assert chart.svg.count("aria-label") == 1


def test_a_table_that_lacks_a_column_is_refused(run_folder: Path, tmp_path: Path):
    folder = with_table(run_folder, tmp_path / "run", table().drop(columns="cause"))
    with pytest.raises(RunError, match=re.escape("hidden.csv lacks cause")):
        read_run(folder)


def test_a_table_of_words_is_refused(run_folder: Path, tmp_path: Path):
    folder = with_table(run_folder, tmp_path / "run", table().assign(value="much"))
    with pytest.raises(RunError, match=r"hidden\.csv has a value that is no number"):
        read_run(folder)
