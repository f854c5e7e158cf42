"""The plan for speed on the page: known values, sentences that follow the verdict; damaged files are refused."""

import json
import shutil
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_report import Reader

from analysis import report
from analysis.probing.edits import speed
from analysis.probing.page import make_page
from analysis.probing.tables import RunError, read_run

UNITS = [f"room-{n}" for n in range(8)]
MOVES = (
    {"layer": 10, "heads": [0, 1], "mode": "per_view", "cost": 80, "taken": True},
    {"layer": 2, "heads": [0], "mode": "per_view", "cost": 70, "taken": False},
    {"layer": 7, "heads": [2], "mode": "references", "cost": 60, "taken": True},
)
SETTINGS = {"budget": 0.01, "scenes": 8, "steps": 10, "repeats": 3}


def plan_of(**changes: Any) -> dict[str, Any]:
    known = {"model": "tiny", "budget": 0.01, "before": 100, "share": 0.6, "scenes": ["other"], "timesteps": [100, 500]}
    return {**known, "steps": list(MOVES), "settings": SETTINGS, **changes}


def measured(growth: tuple[float, float] = (0.002, 0.005), faster: float = 2.0) -> pd.DataFrame:
    """The error grows by so much after each of two moves, the same in every room but for a little."""
    rows = []
    for n, unit in enumerate(UNITS):
        stages = {"move 1": growth[0], "move 2": growth[1], "planned": growth[1]}
        own = [("effect_error", way, t, 0, value + n / 1e5, 2) for way, value in stages.items() for t in (100, 500)]
        own += [("psnr", way, -1, 0, level, 2) for way, level in (("none", 16.0 + n), ("planned", 15.9 + n))]
        for measure in ("attention_kernels", "attention", "sampling"):
            times = {"none": 1.0, "none, tapped": 1.0, "planned": 1.0 / (1 if measure == "sampling" else faster)}
            own += [(measure, way, -1, 1, seconds, 1) for way, seconds in times.items()]
        names = ("measure", "plan", "timestep", "repeat", "value", "count")
        rows += [{**dict(zip(names, row, strict=True)), "scene": unit, "unit": unit} for row in own]
    return pd.DataFrame(rows)


def write_plan(folder: Path, plan: Any, rows: pd.DataFrame) -> Path:
    (folder / "plan.json").write_text(plan if isinstance(plan, str) else json.dumps(plan))
    rows.to_csv(folder / "speed.csv", index=False)
    return folder


@pytest.fixture
def copy(run_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run_folder, tmp_path / "run"))


def plain(texts: Any) -> list[str]:
    return [text.replace("\u00a0", " ") for text in texts]


def test_a_run_without_a_plan_that_was_measured_has_no_section(run_folder: Path, copy: Path):
    (copy / "plan.json").write_text(json.dumps(plan_of()))  # still being measured
    for folder in (run_folder, copy):
        bare = read_run(folder)
        assert (speed.words(bare), speed.figure(bare)) == ((), None)
        assert (speed.text_table(bare).rows, speed.measured_table(bare).rows) == ((), ())
    assert 'id="speed"' not in report.refresh(copy).read_text("utf-8")


def test_the_section_shows_the_figure_before_the_sentences_and_the_tables(copy: Path):
    html = report.refresh(write_plan(copy, plan_of(), measured())).read_text("utf-8")
    page, run = Reader(html), read_run(copy)
    assert ("section", {"id": "speed"}) in page.tags
    section = html[html.index('<section id="speed">') :]
    assert section.index('id="figure-speed"') < section.index("The plan computes") < section.index('id="table-speed"')
    for sentence in speed.words(run):
        assert " ".join(sentence.split()) in page.text
    assert len(page.tables["table-speed"]) == 1 + 2
    assert len(page.tables["table-speed-measured"]) == 1 + 3 + 1 + 3


def test_known_values_are_written(copy: Path):
    run = read_run(write_plan(copy, plan_of(), measured()))
    moves = speed.text_table(run)
    first, second = (plain(row) for row in moves.rows)
    assert first[:5] == ["1", "10 (up 2.0)", "0, 1", "own view", "80.0 %"]
    assert second[:5] == ["2", "7 (mid)", "2", "own view and references", "60.0 %"]
    assert first[5].startswith("+0.20 % (+0.2")
    assert moves.marked == (1,)
    by = {row[0]: plain(row) for row in speed.measured_table(run).rows}
    assert by["error of the prediction, t = 100"][1:3] == ["–", "–"]
    assert by["PSNR of samples"][1:4] == ["19.50 dB", "19.40 dB", "−0.10 (−0.10 to −0.10)"]
    assert by[speed.TITLES["attention"]][1:] == ["1.000 s", "0.500 s", "× 2.00 (2.00 to 2.00)", "8"]


@pytest.mark.parametrize(
    ("growth", "verdict", "part"),
    [
        ((0.002, 0.005), "planned: within the budget of 1.0%", "the first 2 are shown to keep the budget of 1.0%"),
        ((0.002, 0.03), "planned: more than the budget of 1.0%", "the first 1 are shown to keep"),
        ((0.02, 0.03), "planned: more than the budget of 1.0%", "No part of the plan is shown to keep"),
    ],
)
def test_sentences_and_the_filled_point_follow_the_verdict(copy: Path, growth, verdict: str, part: str):
    run = read_run(write_plan(copy, plan_of(), measured(growth)))
    whole, kept = speed.words(run)
    assert verdict in whole
    assert "Not shown to be faster: a whole sample with all that applies the plan." in whole
    assert part in kept
    drawn = speed.figure(run)
    assert drawn is not None
    assert ("Filled: none" in drawn.caption) == ("No part" in kept)
    assert ("shown to keep it</text>" in drawn.svg) == ("No part" not in kept)
    assert "80.0% at +" in drawn.svg


def test_too_few_units_claim_nothing(copy: Path):
    rows = measured()
    run = read_run(write_plan(copy, plan_of(), rows[rows["unit"].isin(UNITS[:3])]))
    whole, kept = speed.words(run)
    assert "a budget of 1.0% is not shown to be kept" in whole
    assert "No part of the plan is shown" in kept
    assert (drawn := speed.figure(run)) is not None
    assert "No intervals: 3 independent units, and 5 are the fewest" in drawn.caption


def test_the_caption_names_the_command(copy: Path):
    run = read_run(write_plan(copy, plan_of(), measured()))
    command = "python -m probe.plan run --budget 0.01 --scenes 8 --steps 10 --repeats 3"
    assert (drawn := speed.figure(run)) is not None
    assert drawn.caption.endswith(f"Planned and measured again by: {command}")
    old = {name: value for name, value in plan_of().items() if name != "settings"}
    assert speed.command(read_run(write_plan(copy, old, measured()))) == "python -m probe.plan run --budget 0.01"


def test_html_in_a_plan_is_escaped(copy: Path):
    evil = "<script>alert(1)</script>"
    write_plan(copy, plan_of(settings={**SETTINGS, "budget": evil}), measured())
    html = report.refresh(copy).read_text("utf-8")
    assert evil not in html
    assert escape(evil) in html


PLANS = [
    ("x", "plan.json cannot be read"),
    ("[]", "cannot be read: no object of JSON; plan again"),
    ("{}", "lacks model, budget"),
    (plan_of(budget="a"), "budget of another kind"),
    (plan_of(budget=None), "budget of another kind"),
    (plan_of(before=0), "before of another kind"),
    (plan_of(share=0), "share of another kind"),
    (plan_of(steps=3), "steps of another kind"),
    (plan_of(steps=[{**MOVES[0], "mode": "<script>"}]), "steps of another kind"),
    (plan_of(steps=[{**MOVES[0], "mode": []}]), "steps of another kind"),
    (plan_of(steps=[{**MOVES[0], "heads": ["x"]}]), "steps of another kind"),
    (plan_of(steps=[{**MOVES[0], "taken": 1}]), "steps of another kind"),
    (plan_of(steps=list(MOVES[:1])), "speed.csv has a plan of another kind"),  # of fewer moves than were measured
]


@pytest.mark.parametrize(("plan", "said"), PLANS)
def test_damaged_plans_are_refused(copy: Path, plan: Any, said: str):
    with pytest.raises(RunError, match=said):
        read_run(write_plan(copy, plan, measured()))


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("measure", "<script>", "measure of another kind than this version writes"),
        ("plan", "move 3", "plan of another kind"),
        ("value", np.inf, "an infinite value"),
        ("value", "x", "a value that is no number"),
        ("timestep", "x", "a timestep that is no whole number"),
    ],
)
def test_damaged_tables_are_refused(copy: Path, column: str, value: Any, said: str):
    with pytest.raises(RunError, match=said):
        read_run(write_plan(copy, plan_of(), measured().assign(**{column: value})))
    with pytest.raises(RunError, match=f"lacks {column}"):
        read_run(write_plan(copy, plan_of(), measured().drop(columns=column)))


def unmeasured(kind: str) -> pd.DataFrame:
    rows = measured()
    changed = {"value": np.nan, "count": 0}
    errors = rows["measure"] == "effect_error"
    return {
        "empty": rows[:0],
        "nothing counted": rows.assign(count=0),
        "unknown": rows.assign(**changed),
        "no errors": rows[~errors],
        "errors alone": rows[errors],
        "times of the plan alone": rows[errors | (rows["plan"] == "planned")],
    }[kind]


KINDS = ["empty", "nothing counted", "unknown", "no errors", "errors alone", "times of the plan alone"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_could_not_be_measured_breaks_no_page(copy: Path, kind: str):
    run = read_run(write_plan(copy, plan_of(), unmeasured(kind)))
    tables = (speed.text_table(run), speed.measured_table(run))
    for text in (*speed.words(run), *(cell for table in tables for row in table.rows for cell in row)):
        assert "nan" not in text
    assert make_page(run).speed
    assert "could not be measured" in speed.words(run)[0]
    assert (speed.figure(run) is None) == (kind not in ("errors alone", "times of the plan alone"))


def test_a_plan_that_takes_no_move_has_sentences_and_no_figure(copy: Path):
    rows = measured((0.0, 0.0))
    write_plan(copy, plan_of(steps=[MOVES[1]], share=1.0), rows[~rows["plan"].str.startswith("move")])
    run = read_run(copy)
    assert "computes 100.0% of the multiply-adds" in speed.words(run)[0]
    assert speed.figure(run) is None
    assert 'id="speed"' in report.refresh(copy).read_text("utf-8")
