"""Laws of the pages: what they show is what the tables hold; one file, the same bytes, nothing from outside."""

import base64
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import building, report
from analysis.probing import caveats, cells, paper
from analysis.probing.tables import read_run
from analysis.probing.words import answer, standing
from analysis.words import interval, metric_words, number, percent, short_name, with_interval
from probe.records.words import TRACKS_LIMIT, too_few

HOSTILE = "<script>alert('$x')</script>"


class Reader(HTMLParser):
    """Collect tables by identifier, all text, all tags with their attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.table, self.inside = "", False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.table = dict(attrs).get("id") or "table"
            self.tables[self.table] = []
        elif tag == "tr":
            self.tables[self.table].append([])
        elif tag in ("td", "th"):
            self.tables[self.table][-1].append("")
            self.inside = True

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self.inside:
            self.tables[self.table][-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def percents(values: pd.Series) -> list[str]:
    return [f"{100 * value:.1f}\u00a0%" for value in values]


@pytest.fixture(scope="module")
def page(run_folder: Path) -> str:
    return report.build_report(run_folder).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def hostile(make: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    """Build the page of a run without optional files, with names that try to be HTML, with a layer nobody counted."""
    folder = make(tmp_path_factory.mktemp("hostile") / "run")
    for name in ("emergence.csv", "examples.safetensors", "matches.parquet"):
        (folder / name).unlink()
    scores = pd.read_parquet(folder / "scores.parquet")
    scores["model"] = scores["model"].str.replace("tiny", HOSTILE, regex=False).replace("dsift", HOSTILE + "2")
    lost = (scores["layer"] == 7) & (scores["head"] == -1)
    scores.loc[lost, "value"], scores.loc[lost, "count"] = np.nan, 0
    scores.to_parquet(folder / "scores.parquet")
    layers = pd.read_csv(folder / "layers.csv").replace({"name": {r"^mid_block.*": HOSTILE}}, regex=True)
    blank = ["precision", "precision_low", "precision_high", "share_of_ceiling", "share_low", "share_high", "skill"]
    layers.loc[layers["layer"] == 7, blank] = np.nan
    layers.loc[layers["layer"] == 7, "count"] = 0
    layers.to_csv(folder / "layers.csv", index=False)
    for name, text in {"config.json": '"shapes"', "selection.json": '"Layer 10 leads."'}.items():
        content = (folder / name).read_text().replace('"tiny"', json.dumps(HOSTILE)).replace(text, json.dumps(HOSTILE))
        (folder / name).write_text(content)
    return report.build_report(folder).read_text(encoding="utf-8")


# --- contents --------------------------------------------------------------------------------------------------------


def test_cells_of_the_layer_table_are_those_of_the_file(page: str, run_folder: Path):
    layers = pd.read_csv(run_folder / "layers.csv")
    heading, *rows = Reader(page).tables["table-layers"]
    shown = pd.DataFrame(rows)
    assert shown[0].tolist() == ["2", "7", "10 selected"]
    assert shown[len(heading) - 1].tolist() == layers["name"].tolist()
    columns = {"precision": "precision", "uniform chance": "chance", "same position": "same_position",
               "ceiling": "ceiling", "share of ceiling": "share_of_ceiling", "skill": "skill",
               "on the common grid": "common_grid_precision", "mass on truth": "mass_true"}  # fmt: skip
    for title, column in columns.items():
        assert shown[heading.index(title)].tolist() == percents(layers[column]), title
    assert shown[heading.index("causal effect")].tolist() == ["–"] * 3
    assert (
        shown[heading.index("matches counted")].str.replace("\u202f", "").astype(int).tolist()
        == layers["count"].tolist()
    )


def test_the_answer_comes_first_with_its_numbers(page: str, run_folder: Path):
    row = pd.read_csv(run_folder / "layers.csv").set_index("layer").loc[10]
    text = Reader(page).text.replace("\u00a0", " ")
    answer = text[text.index("Which 3D attention layer") : text.index("Layer by layer")]
    assert "Layer 10 (up_blocks.2.attentions.0.transformer_blocks.0.attn1, 16x16 tokens) finds" in answer
    for column in ("precision", "share_of_ceiling", "chance", "same_position", "ceiling"):
        assert f"{100 * row[column]:.1f} %" in answer, column
    assert "above the same position" in answer
    assert "What these numbers do not show" in answer


def test_sections_stand_in_order(page: str):
    order = [
        "matches",
        "answer",
        "layers",
        "rotation",
        "timesteps",
        "heads",
        "matchers",
        "emergence",
        "attention",
        "worst",
        "paper",
        "reading",
        "method",
    ]
    assert [attrs["id"] for tag, attrs in Reader(page).tags if tag == "section"] == order


def test_each_figure_names_protocol_and_pairs_and_has_its_table_and_its_command(page: str, run_folder: Path):
    (digest,) = pd.read_parquet(run_folder / "scores.parquet")["pair_list"].unique()
    drawn = re.findall(r'<figure id="figure-(\w+)">(.*?)</figure>', page, flags=re.DOTALL)
    assert [name for name, _ in drawn] == ["profile", "common", "rotation", "timesteps", "heads", "emergence",
                                           "attention"]  # fmt: skip
    for name, text in drawn:
        assert "<code>python -m analysis.report probe</code><button" in text, name
        assert 'href="data:text/csv;charset=utf-8;base64,' in text, name
        assert "Protocol attention-v1" in text, name
        assert f"pair list {digest} (" in text or name == "emergence"


def test_downloads_hold_the_tables(page: str, run_folder: Path):
    links = {attrs["download"]: attrs["href"] for tag, attrs in Reader(page).tags if tag == "a" and "download" in attrs}
    content = base64.b64decode((links["layers.csv"] or "").partition("base64,")[2]).decode()
    pd.testing.assert_frame_equal(pd.read_csv(StringIO(content)), pd.read_csv(run_folder / "layers.csv"))
    assert {
        "rotation_bins.csv",
        "layer_by_timestep.csv",
        "layer_by_head.csv",
        "matchers.csv",
        "pairs.csv",
    } <= links.keys()


def test_the_page_tells_how_to_make_the_run_again(page: str):
    text = Reader(page).text
    assert "python -m probe.run \\ --model tiny \\ --scenes shapes" in text
    assert "--timesteps 100,500" in text
    assert "--baselines pixels,dsift" in text
    assert "0123456789ab" in text
    assert "--dtype" not in text  # it was left at its default


@pytest.mark.slow
def test_the_ratio_protocol_shows_its_curve(ratio_folder: Path):
    html = report.build_report(ratio_folder).read_text(encoding="utf-8")
    assert "Precision and coverage" in html
    assert 'id="attention"' not in html
    assert "on the common grid, not by" not in html


# --- safety ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_equal_data_gives_equal_bytes(page: str, run_folder: Path):
    assert report.build_report(run_folder).read_text(encoding="utf-8") == page
    assert not list(run_folder.glob("*.part"))


def test_nothing_comes_from_outside(page: str, hostile: str):
    for html in (page, hostile):
        assert set(re.findall(r"https?://[^\s\"'<)]*", html)) == {"https://arxiv.org/abs/2512.03045"}
        tags = Reader(html).tags
        assert not {"link", "iframe", "object", "embed"} & {tag for tag, a in tags if a.get("href") != "data:,"}
        loaded = [
            value for _, a in tags for key, value in a.items() if key in ("src", "srcset", "poster", "xlink:href")
        ]
        assert loaded == []
        assert not re.search(r"@import|url\((?!#)", html)
        assert len(html) < 10e6


def test_names_are_text_wherever_they_stand(hostile: str):
    reader = Reader(hostile)
    assert [attrs for tag, attrs in reader.tags if tag == "script"] == [{}]  # the page's own, and no other
    assert f"{HOSTILE} on {HOSTILE}" in reader.text
    assert any(row[-1] == HOSTILE for row in reader.tables["table-layers"])
    assert any(row[0] == HOSTILE + "2" for row in reader.tables["table-matchers"])


def test_missing_files_leave_their_sections_out(hostile: str):
    for name in ("emergence", "matches"):
        assert f'<section id="{name}"' not in hostile


def test_what_was_not_measured_is_a_dash_with_its_count(hostile: str):
    heading, *rows = Reader(hostile).tables["table-layers"]
    row = next(row for row in rows if row[0] == "7")
    assert row[heading.index("precision")] == "– (n = 0)"
    assert row[heading.index("matches counted")] == "0"
    assert [row[heading.index(name)] for name in ("share of ceiling", "skill")] == ["–", "–"]
    assert "nan" not in {cell for row in rows for cell in row}
    counts = {row[0]: row for row in Reader(hostile).tables["table-missing"][1:]}
    assert int(counts["precision@5%"][2].replace("\u202f", "")) > 0
    assert "Layer 7 could not be measured" in Reader(hostile).text


def test_the_page_can_be_heard(page: str):
    tags = Reader(page).tags
    images = [attrs for tag, attrs in tags if tag == "svg" and attrs.get("aria-hidden") != "true"]
    assert all(attrs.get("role") == "img" and attrs.get("aria-label") for attrs in images)
    names = [tag for tag, _ in tags]
    assert names.count("caption") == names.count("table")
    assert names.count("h1") == 1
    assert [attrs for tag, attrs in tags if tag == "html"] == [{"lang": "en"}]
    used = [attrs["id"] for _, attrs in tags if attrs.get("id")]
    assert len(used) == len(set(used))


# --- the command -----------------------------------------------------------------------------------------------------


def test_a_wrong_folder_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert report.main(["empty"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "read_run: empty is no finished probe run" in error
    assert list((tmp_path / "empty").iterdir()) == []
    assert not (tmp_path / "reports").exists()


def test_the_command_links_all_runs(run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run_folder, tmp_path / "runs" / "a b")
    shutil.copytree(run_folder, tmp_path / "runs" / "unfinished")
    (tmp_path / "runs" / "unfinished" / "selection.json").unlink()

    def build(run: Path, explored: object) -> tuple[Path, None]:
        (run / "report.html").write_text(run.name)
        return run / "report.html", None

    monkeypatch.setattr(building, "_build", build)
    monkeypatch.setattr(building, "_print_files", lambda *arguments: None)
    assert report.main([]) == 0
    reader = Reader((tmp_path / "reports" / "index.html").read_text(encoding="utf-8"))
    assert [attrs["href"] for tag, attrs in reader.tags if tag == "a"] == ["../runs/a%20b/report.html"]
    assert (tmp_path / "runs" / "a b" / "report.html").read_text() == "a b"
    group, row = reader.tables["probes"][1:]
    assert group == ["tiny on shapes"]
    precision = pd.read_csv(run_folder / "layers.csv").set_index("layer").loc[10, "precision"]
    assert row[:4] == ["a b", "", "attention-v1", "10 (up 2.0, 16x16)"]
    assert row[4].startswith(f"{100 * precision:.1f}\u00a0% (")


def test_without_runs_the_index_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert report.main([]) == 0
    assert "no finished probe run yet" in (tmp_path / "reports" / "index.html").read_text(encoding="utf-8")


# --- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("up_blocks.2.attentions.0.transformer_blocks.0.attn1", "up 2.0"),
        ("down_blocks.1.attentions.1.transformer_blocks.3.attn1", "down 1.1:3"),
        ("mid_block.attentions.0.transformer_blocks.0.attn1", "mid"),
        ("transformer_blocks.12.attn1", "block 12"),
        ("net.blocks.7.attn", "block 7"),
        ("attention", "attention"),
    ],
)
def test_short_names(name: str, short: str):
    assert short_name(name) == short


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("precision@5%", "an error below 5 % of the image side"),
        ("precision@1token", "an error below 1 token"),
        ("precision@0.05m", "a 3D error below 0.05 m"),
        ("precision@5%scene", "a 3D error below 5 % of the scene's size"),
    ],
)
def test_metrics_in_words(metric: str, words: str):
    assert metric_words(metric).replace("\u00a0", " ") == words


def test_missing_numbers_are_dashes():
    assert [percent(None), number(float("nan")), interval(0.1, float("nan"))] == ["–"] * 3
    assert percent(-0.002) == "−0.2\u00a0%"
    assert with_interval(0.5, float("nan"), float("nan")) == "50.0\u00a0%"


def test_caveats_come_from_the_tables(run_folder: Path):
    run = read_run(run_folder)
    said = " ".join(caveats.caveats(run)).replace("\u00a0", " ")
    assert "independent unit" not in said
    few = replace(run, scores=run.scores[run.scores["scene"].isin(["room-0", "room-1", "room-2"])])
    assert "All of it rests on 3 independent units: too few" in " ".join(caveats.caveats(few))
    blocks = run.scores.assign(unit="kitchen, block " + run.scores["scene"].astype(str).str[-1])
    said_of_blocks = " ".join(caveats.caveats(replace(run, scores=blocks)))
    assert "All scenes are of one recording; its 6 blocks of time" in said_of_blocks
    assert "the ceiling is low for layer 7 (8x8: 49.0 %)" in said
    assert "chosen on the same scenes" in said
    assert "cameras only" not in said
    run.layers.loc[run.layers["layer"] == 10, ["above_null", "lead_low", "lead_high"]] = False, -0.1, 0.2
    told = replace(run, settings={**run.settings, "truth_source": "tracks"})
    assert "The true points come from tracks" in " ".join(caveats.caveats(told))
    assert "dsift finds them easily" in " ".join(caveats.caveats(told))
    reconstructed = replace(run, notes={"tracks": TRACKS_LIMIT})
    assert TRACKS_LIMIT in caveats.caveats(reconstructed)
    assert TRACKS_LIMIT not in caveats.caveats(run)
    network = replace(run, settings={**run.settings, "truth_source": "vggt"})
    assert "dsift finds them easily" not in " ".join(caveats.caveats(network))
    assert "The true points come from" not in " ".join(caveats.caveats(run))
    assert "Layers 7 and 10 are not shown to be above the strongest null" in " ".join(caveats.caveats(run))
    assert "So no layer was shown to find correspondence" in " ".join(answer(run))
    assert standing(run) == "highest; not shown"
    assert cells.text_tables(run)["layers"].rows[-1][0] == "10 highest; not shown"
    higher = run.layers["share_of_ceiling"].where(run.layers["layer"] != 7, run.layers["share_of_ceiling"].max() + 0.1)
    assert standing(replace(run, layers=run.layers.assign(share_of_ceiling=higher))) == "chosen; not shown"


def test_the_answer_claims_no_more_than_its_intervals(run_folder: Path):
    """Best only where it is above its nulls and no layer ties; one layer alone is compared with none."""
    run = read_run(run_folder)
    sure = replace(run, selection={**run.selection, "ties": [], "rule": "by correspondence"})
    assert "finds the corresponding point best" in answer(sure)[0]
    tied = replace(sure, selection={**sure.selection, "ties": [2]})
    doubted = replace(sure, layers=sure.layers.assign(above_null=False, lead_low=-0.1, lead_high=0.2))
    for unsure in (tied, doubted):
        assert "scores highest" in answer(unsure)[0]
    assert "are not shown to be more than what the same position would find" in answer(doubted)[1]
    assert "of what its grid allows" in answer(sure)[0]
    whole = replace(sure, layers=sure.layers.assign(share_of_ceiling=sure.layers["precision"]))
    assert "of what its grid allows" not in answer(whole)[0]  # the same number would stand there twice
    alone = replace(sure, layers=sure.layers[sure.layers["layer"] == 10])
    alone = replace(alone, selection={**alone.selection, "runners_up": []})
    assert "was the only layer measured" in answer(alone)[0]
    assert "chosen on the same scenes" not in " ".join(caveats.caveats(alone))
    few = replace(doubted, scores=run.scores[run.scores["scene"].isin(["room-0", "room-1"])])
    assert answer(few)[1] == too_few(2)
    assert "No layer can be shown to be better than another." in answer(replace(few, selection=tied.selection))


def test_the_headline_tells_how_few_tokens_it_rests_on(run_folder: Path):
    """Matches of every timestep are of the same tokens."""
    run = read_run(run_folder)
    steps = len(run.timesteps)
    few = replace(run, layers=run.layers.assign(count=63 * steps))
    assert "(only 63 tokens)" in answer(few)[0]
    assert "token" not in answer(replace(run, layers=run.layers.assign(count=200 * steps)))[0].partition("tokens)")[2]


def test_long_data_names_fit_over_a_frame_and_captions_promise_only_intervals_that_are_there(run_folder: Path):
    run = read_run(run_folder)
    long = replace(run, settings={**run.settings, "scenes": "rgbd:/work/shared/data/of/many/seven_scenes_kitchen#525"})
    title = paper._title(long)
    assert len(title) == paper.LETTERS
    assert title.startswith("here: precision@5%, rgbd:/")
    assert title.endswith("kitchen#525")
    few = replace(run, scores=run.scores[run.scores["scene"].isin(["room-0", "room-1"])])
    said = [paper._rotation(each).caption for each in (run, few)]
    assert ["95\u00a0% intervals" in text for text in said] == [True, False]
    assert "No intervals in the frame of this run: they need 5 independent units." in said[1]
