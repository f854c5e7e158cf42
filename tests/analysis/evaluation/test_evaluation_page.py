"""Laws of the pages of evaluations: what they say is what the tables hold, beside trivial baselines."""

import base64
import json
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import report
from analysis.evaluation import run as evaluation
from analysis.evaluation import words
from analysis.evaluation.page import evaluation_entry
from analysis.evaluation.run import is_evaluation, read_evaluation
from probe.records import RunError, rotation_bin, summarise

HOSTILE = "<script>alert('$x')</script>"
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
SETTINGS = {"model": "tiny", "scenes": "shapes", "groups": 4, "views": 3, "n_ref": [1, 2], "sampling_steps": 10,
            "guidance": 1.0, "features": ["colour-cells"], "seed": 5, "out": "runs/evaluate"}  # fmt: skip
ONE_STEP = {("model", "psnr_one_step"): 17.0, ("copy", "psnr_one_step"): 11.0, ("mean colour", "psnr_one_step"): 15.1}
LEVELS = {("model", "psnr"): 15.0, ("copy", "psnr"): 11.0, ("mean colour", "psnr"): 15.1,
          ("model", "ssim"): 0.2, ("copy", "ssim"): 0.5, ("mean colour", "ssim"): 0.1,
          ("model", "match_error"): 0.1, ("copy", "match_error"): 0.2, ("mean colour", "match_error"): 0.3,
          ("truth", "match_error"): 0.05}  # fmt: skip


def images(levels: dict[tuple[str, str], float] = LEVELS, scenes: int = 8) -> pd.DataFrame:
    """Make a row per target view, method and metric; the model's values swing about their level from scene to scene."""
    rows = [
        {"scene": f"room-{scene}", "view": view, "rotation_deg": 30.0 * (scene % 4) + 10 * view, "n_ref": n_ref,
         "method": method, "metric": metric, "count": 1,
         "value": level * (1 + (0.02 * (-1) ** scene if method == "model" else 0) + 0.01 * view)}
        for scene in range(scenes) for n_ref in (1, 2) for view in range(n_ref, 3)
        for (method, metric), level in levels.items()
    ]  # fmt: skip
    return pd.DataFrame(rows)


def make_run(folder: Path, rows: pd.DataFrame | None = None, **settings: object) -> Path:
    """Write what train.evaluate writes, from rows of images."""
    rows = images() if rows is None else rows
    folder.mkdir(parents=True)
    config = {"settings": {**SETTINGS, **settings}, "environment": {"commit": "0123456789ab"}}
    (folder / "config.json").write_text(json.dumps(config))
    rows.to_csv(folder / "images.csv", index=False)
    both = pd.concat([rows.assign(rotation_bin=rotation_bin(rows["rotation_deg"]).astype(str)),
                      rows.assign(rotation_bin="all")])  # fmt: skip
    summary = summarise(both, ["n_ref", "rotation_bin", "method", "metric"], shares=False).assign(note="")
    sets = [(n, "all", method, "fid[colour-cells]", 0.25 + n, math.nan, math.nan, 4, 4, 8, "")
            for n in (1, 2) for method in ("model", "copy", "mean colour")]  # fmt: skip
    missing = [(1, "all", "model", "lpips", math.nan, math.nan, math.nan, 0, 0, 0, "lpips is absent (NaN): no weights")]
    more = pd.DataFrame([*sets, *missing], columns=summary.columns)
    pd.concat([summary, more]).to_csv(folder / "summary.csv", index=False)
    keys = ["scene", "view", "rotation_deg", "n_ref"]
    wide = rows.pivot_table(index=keys, columns=["method", "metric"], values="value")
    worst = wide["model"].reindex(columns=["psnr", "ssim", "lpips", "match_error"]).assign(
        copy_psnr=wide["copy"]["psnr"], truth_match_error=wide["truth"]["match_error"]
    )  # fmt: skip
    worst.reset_index().sort_values("psnr").to_csv(folder / "worst.csv", index=False)
    (folder / "samples.png").write_bytes(PIXEL)
    return folder


class Reader(HTMLParser):
    """Collect sections, figures, links to download, cells of tables by identifier, and all text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.sections: list[str] = []
        self.figures: list[str] = []
        self.links: dict[str, str] = {}
        self.tables: dict[str, list[list[str]]] = {}
        self.words: list[str] = []
        self.table = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = {name: value or "" for name, value in attrs}
        if tag == "section":
            self.sections.append(known["id"])
        if tag == "figure":
            self.figures.append(known["id"].removeprefix("figure-"))
        if tag == "a" and "download" in known:
            self.links[known["download"]] = known["href"]
        if tag == "table":
            self.table = known["id"].removeprefix("table-")
        if tag == "tr":
            self.tables.setdefault(self.table, []).append([])
        if tag in ("td", "th"):
            self.tables[self.table][-1].append("")

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self.table and self.tables.get(self.table, [[]])[-1]:
            self.tables[self.table][-1][-1] += data.strip("\n")

    def handle_endtag(self, tag: str) -> None:
        self.table = "" if tag == "table" else self.table

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def csv(self, name: str) -> pd.DataFrame:
        return pd.read_csv(StringIO(base64.b64decode(self.links[name].partition("base64,")[2]).decode()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "evaluate")


@pytest.fixture(scope="module")
def page(folder: Path) -> Reader:
    return Reader(report.build_report(folder).read_text(encoding="utf-8").replace("\u00a0", " "))


def test_sections_figures_and_downloads_are_complete(page: Reader):
    assert page.sections == ["samples", "answer", "quality", "worst", "views", "references", "sets", "method"]
    assert page.figures == ["rotation-1", "rotation-2", "views", "references"]
    figures = {f"{name}.csv" for name in page.figures}
    assert page.links.keys() == figures | {"summary.csv", "images.csv", "worst.csv", "differences.csv"}


def test_every_figure_carries_its_numbers_counts_and_view_list(page: Reader, folder: Path):
    table = page.csv("rotation-1.csv")
    row = table[(table["panel"] == "psnr") & (table["who"] == "this model") & (table["x"] == "all")].iloc[0]
    rows = images()
    mine = rows[(rows["n_ref"] == 1) & (rows["method"] == "model") & (rows["metric"] == "psnr")]
    assert row["value"] == pytest.approx(mine["value"].mean())
    assert (row["scenes"], row["count"]) == (8, 16)
    run = read_evaluation(folder)
    assert page.text.count(f"View list {run.view_list} (24 target views in 8 scenes), scenes shapes, seed 5") == 4
    assert "Target views: 4 (0–30°), 4 (30–60°), 4 (60–90°), 4 (90–120°) and 16 (all)." in page.text


def test_the_view_list_tells_other_views_apart_and_nothing_else(tmp_path: Path, folder: Path):
    same = make_run(tmp_path / "same", images({**LEVELS, ("model", "psnr"): 3.0}).sample(frac=1, random_state=1))
    other = make_run(tmp_path / "other", images(scenes=5))
    assert read_evaluation(same).view_list == read_evaluation(folder).view_list
    assert read_evaluation(other).view_list != read_evaluation(folder).view_list


def test_tables_hold_means_with_intervals_beside_what_needs_no_model(page: Reader, folder: Path):
    head, *rows = page.tables["quality-1"]
    assert head == ["rotation", "scenes", "views", "PSNR", "copy", "mean colour", "SSIM", "copy", "mean colour",
                    "match error", "copy", "mean colour", "true views"]  # fmt: skip
    bins = ["0–30°", "30–60°", "60–90°", "90–120°"]
    assert [row[:3] for row in rows] == [*([name, "2", "4"] for name in bins), ["all", "8", "16"]]
    row = evaluation.overall(read_evaluation(folder), 1, "psnr", "model")
    assert row is not None
    assert rows[-1][3] == f"{row['value']:.1f} ({row['low']:.1f}–{row['high']:.1f}) †"
    assert rows[0][3] == f"{15 * (1.03 + 1.04) / 2:.1f}"  # two scenes: no interval
    assert page.tables["sets"][1] == ["FID by colour cells", "1", "8", "1.2500", "1.2500", "1.2500"]


def test_the_worst_view_stands_first_and_what_a_copy_beats_is_counted(tmp_path: Path):
    rows = images(scenes=5)
    bad = (rows["scene"] == "room-2") & (rows["view"] == 2) & (rows["n_ref"] == 2) & (rows["metric"] == "psnr")
    rows.loc[bad & (rows["method"] == "model"), "value"] = 4.0
    page = report.build_report(make_run(tmp_path / "run", rows)).read_text(encoding="utf-8").replace("\u00a0", " ")
    table = Reader(page).tables["worst"]
    assert table[1][:5] == ["room-2", "2", "80°", "2", "4.0 dB †"]
    assert len(table) == 13
    assert "copying the nearest reference is as good or better; so it is for 1 of all 15." in page
    assert page.count('<tr class="marked"><th scope="row" class="text">room') == 1


def test_the_answer_says_what_is_clear_and_what_is_not(folder: Path):
    text = " ".join(words.answer(read_evaluation(folder))).replace("\u00a0", " ")
    assert text.startswith(
        "tiny generated 24 target views in 8 scenes (shapes), from 1 reference and from 2 references"
    )
    assert "in 10 steps of DDIM." in text
    assert "better than copying the nearest reference (11.2 dB, difference +" in text
    assert "not separable from filling in that reference's mean colour (15.3 dB" in text
    assert " SSIM: worse than the copy, better than the mean colour." in text
    assert " Match error: better than the copy and the mean colour." in text


@pytest.mark.parametrize(
    ("metric", "low", "high", "expected"),
    [
        ("psnr", 0.1, 2.0, "better than"), ("psnr", -2.0, -0.1, "worse than"),
        ("psnr", -0.1, 0.1, "not separable from"), ("psnr", 0.0, 1.0, "not separable from"),
        ("match_error", -2.0, -0.1, "better than"), ("lpips", 0.1, 0.2, "worse than"),
        ("psnr", math.nan, math.nan, "by value better than"),
    ],
)  # fmt: skip
def test_a_verdict_is_clear_only_where_the_interval_lies_on_one_side(
    metric: str, low: float, high: float, expected: str
):
    assert words.verdict({"metric": metric, "value": 1.0, "low": low, "high": high}) == expected


def test_differences_are_paired_by_view(folder: Path):
    run = read_evaluation(folder)
    table = evaluation.differences(run).set_index(["n_ref", "method", "metric"])
    rows = run.images.set_index(["scene", "view", "n_ref", "metric", "method"])["value"].unstack("method")  # noqa: PD010
    gap = (rows["model"] - rows["copy"]).xs("psnr", level="metric").xs(1, level="n_ref")
    row = table.loc[(1, "copy", "psnr")]
    assert row["value"] == pytest.approx(gap.groupby("scene").mean().mean())
    assert row["low"] <= row["value"] <= row["high"]
    assert (row["scenes"], row["units"], row["count"]) == (8, 8, 16)
    best = table.reset_index().query("best")[["n_ref", "metric", "method"]].to_numpy().tolist()
    assert sorted(best) == sorted(
        [n, metric, method]
        for n in (1, 2)
        for metric, method in (("psnr", "mean colour"), ("ssim", "copy"), ("match_error", "copy"))
    )


def test_what_was_not_measured_is_said_once_and_takes_no_panel(page: Reader):
    assert page.text.count("Not measured: lpips is absent (NaN): no weights.") == 1
    assert "LPIPS" not in page.csv("rotation-1.csv")["panel"].str.upper().tolist()


def test_one_scene_has_no_intervals_and_claims_none(tmp_path: Path):
    run = make_run(tmp_path / "run", images(scenes=1))
    text = " ".join(words.answer(read_evaluation(run)))
    assert "by value" in text
    assert "nothing can be claimed from 1 independent scene; 5 units are needed." in text
    assert "clearly" not in text
    assert "interval 1" not in text
    report.build_report(run)


@pytest.mark.slow
def test_the_page_is_the_same_again_needs_no_network_and_escapes(tmp_path: Path):
    run = make_run(tmp_path / "run", images().replace("room-0", HOSTILE), model=HOSTILE)
    first = report.build_report(run).read_bytes()
    assert report.build_report(run).read_bytes() == first
    html = first.decode()
    assert HOSTILE not in html
    assert 'src="http' not in html


def test_the_index_and_the_command_know_evaluations(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    run = make_run(tmp_path / "runs" / "evaluate")
    assert report.find_runs(tmp_path / "runs") == [run]
    assert report.main([]) == 0
    index = Reader((tmp_path / "reports" / "index.html").read_text(encoding="utf-8"))
    values = [words.with_trivial(read_evaluation(run), 1, name) for name in ("psnr", "ssim", "match_error")]
    assert index.tables["evaluations"][1:] == [["tiny on shapes"], ["evaluate", "8", "1", *values]]
    assert evaluation_entry(read_evaluation(run), "x").psnr == "15.2 (15.3)\u00a0†"


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda run: (run / "config.json").write_text("[]"), "is not the config.json of a run"),
        (lambda run: (run / "worst.csv").write_text("scene\nroom"), "lacks view"),
        (lambda run: (run / "images.csv").write_text(""), "cannot be read"),
        (lambda run: (run / "worst.csv").write_text(2 * (run / "worst.csv").read_text()), "a n_ref that is no number"),
        (lambda run: (run / "summary.csv").write_text(",".join(evaluation.COLUMNS["summary.csv"])),
         "has no rows"),
        (lambda run: (run / "summary.csv").write_text(
            re.sub("(?m)psnr", "nan", (run / "summary.csv").read_text(), count=1)), "a row whose metric is no name"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_used_are_refused(spoil: Callable[[Path], object], expected: str, tmp_path: Path):
    run = make_run(tmp_path / "run")
    spoil(run)
    with pytest.raises(RunError, match=expected):
        read_evaluation(run)


def test_a_run_that_goes_on_is_no_evaluation_yet(tmp_path: Path):
    run = make_run(tmp_path / "run")
    assert is_evaluation(run)
    (run / "parts").mkdir()
    assert not is_evaluation(run)
    assert not is_evaluation(tmp_path)


def test_values_that_are_missing_in_part_leave_the_others(tmp_path: Path):
    rows = images()
    rows.loc[(rows["metric"] == "match_error") & (rows["scene"] == "room-0"), ["value", "count"]] = [np.nan, 0]
    run = read_evaluation(make_run(tmp_path / "run", rows))
    table = evaluation.differences(run).set_index(["n_ref", "method", "metric"])
    assert table.loc[(1, "copy", "match_error"), "scenes"] == 7
    assert table.loc[(1, "copy", "psnr"), "scenes"] == 8


def test_the_single_predictions_psnr_stands_beside_that_of_samples_and_is_explained_where_it_was_measured(
    tmp_path: Path,
):
    old, new = make_run(tmp_path / "old"), make_run(tmp_path / "new", images({**LEVELS, **ONE_STEP}))
    for folder, known in ((old, False), (new, True)):
        run = read_evaluation(folder)
        assert ("psnr_one_step" in run.measured) == known
        assert (words.ONE_STEP_WORDS in words.caveats(run)) == known
        page = report.refresh(folder).read_text(encoding="utf-8")
        assert ("PSNR of one step" in page) == known
    assert words.fact(read_evaluation(new), 1, "psnr_one_step")[1] == "best trivial baseline 15.3\u00a0dB (mean colour)"
