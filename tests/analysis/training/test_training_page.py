"""Laws of the pages of training runs: what they say is what the logs hold, and what was not measured is not shown."""

import base64
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest

from analysis import figures, report
from analysis.training import figures as training_figures
from analysis.training import run as training
from analysis.training import words as training_words
from analysis.training.run import read_training
from analysis.trivial import best_in_row
from probe.records import RunError, digest

HOSTILE = "<script>alert('$x')</script>"
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
TRIVIAL = {"copy_psnr": 11.7, "mean_colour_psnr": 12.3, "copy_ssim": 0.3, "mean_colour_ssim": 0.4}
NAME = "up_blocks.1.attentions.1.transformer_blocks.0.attn1"
SETTINGS = {
    "layer": "10", "objective": "cameo", "control": "none", "model": "tiny", "scenes": "shapes", "steps": 40,
    "weight": 0.02, "mixing": "mlp", "truth": "cycle", "seed": 3, "resume": False, "layers": [NAME], "out": "runs/a b",
}  # fmt: skip


def evaluated(step: int, **more: Any) -> dict[str, Any]:
    quality = {"psnr": 10.0 + step / 10, "ssim": 0.35, "lpips": None, **TRIVIAL}
    return {"step": step, "loss": 5 / step, "loss_t900": 3 / step, **quality, **more}


def logged(step: int) -> dict[str, Any]:
    return {"step": step, "loss": 8 / step, "objective": 90 / step, "gradient_norm": 20 / step, "seconds": 0.5}


def probed(step: int) -> list[dict[str, Any]]:
    sides = {2: ("8x8", 0.1, 0.12), 10: ("16x16", 0.02, 0.5)}
    return [
        {"step": step, "scenes": "shapes", "layer": layer, "layer_name": NAME, "grid": grid, "value": value * step / 40,
         "low": 0.9 * value * step / 40, "high": 1.1 * value * step / 40, "chance": chance}
        for layer, (grid, chance, value) in sides.items()
    ]  # fmt: skip


STEPS = (10, 20, 30, 40)
GAP = {"readout_10": 0.8, "attention_10": 0.5}


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def make_run(
    folder: Path, settings: dict[str, Any] | None = None, rows: list[dict[str, Any]] | None = None, **environment: str
) -> Path:
    """Write a training run with every optional file."""
    folder.mkdir(parents=True)
    config = {"settings": {**SETTINGS, **(settings or {})}, "environment": {"commit": "0123456789ab", **environment}}
    (folder / "config.json").write_text(json.dumps(config))
    write_rows(folder / "metrics.jsonl", [logged(step) for step in STEPS])
    write_rows(folder / "evaluation.jsonl", [evaluated(step, **GAP) for step in STEPS] if rows is None else rows)
    pd.DataFrame([row for step in STEPS for row in probed(step)]).to_csv(folder / "emergence.csv", index=False)
    (folder / "samples.png").write_bytes(PIXEL)
    return folder


class Reader(HTMLParser):
    """Collect all text, all tags with their attributes, and the cells of tables by identifier."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.table, self.inside = "", False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.table = dict(attrs).get("id") or "table"
        if tag == "tr":
            self.tables.setdefault(self.table, []).append([])
        self.inside = tag in ("td", "th") or (self.inside and tag == "a")
        if tag in ("td", "th"):
            self.tables[self.table][-1].append("")

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self.inside:
            self.tables[self.table][-1][-1] += data

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag == "a"

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def sections(self) -> list[str | None]:
        return [attrs.get("id") for tag, attrs in self.tags if tag == "section"]

    @property
    def drawn(self) -> list[str | None]:
        return [attrs.get("id") for tag, attrs in self.tags if tag == "figure"]


def build(folder: Path) -> str:
    return report.build_report(folder).read_text(encoding="utf-8")


def said(folder: Path) -> str:
    return " ".join(training_words.answer(read_training(folder))).replace("\u00a0", " ")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "a b")


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return build(folder)


# --- contents --------------------------------------------------------------------------------------------------------


def test_sections_and_figures_stand_in_order(page: str):
    reader = Reader(page)
    assert reader.sections == ["samples", "answer", "quality", "precision", "readout", "tradeoff", "loss", "cost",
                               "evaluations", "method"]  # fmt: skip
    assert reader.drawn == [f"figure-{n}" for n in ("quality", "emergence", "readout", "tradeoff", "loss", "cost")]


def test_the_curve_of_precision_names_the_scenes_it_was_measured_on(page: str):
    assert "Always probed on the scenes \u201cshapes\u201d." in page


def test_each_figure_has_its_table_and_the_command(page: str, folder: Path):
    links = {attrs["download"]: attrs["href"] for tag, attrs in Reader(page).tags if tag == "a" and "download" in attrs}
    assert links.keys() == {"quality.csv", "emergence.csv", "readout.csv", "tradeoff.csv", "loss.csv", "cost.csv",
                            "metrics.csv", "evaluation.csv"}  # fmt: skip
    content = base64.b64decode((links["tradeoff.csv"] or "").partition("base64,")[2]).decode()
    table = pd.read_csv(StringIO(content))
    assert table["quality"].tolist() == [11.0, 12.0, 13.0, 14.0]
    assert table["precision"].tolist() == pytest.approx([0.125, 0.25, 0.375, 0.5])
    assert page.count("<code>python -m analysis.report &#39;runs/a b&#39;</code>") == 7


def test_the_command_makes_the_run_again(page: str):
    text = Reader(page).text
    assert "python -m train.cameo --layer 10 --objective cameo --control none --model tiny" in text
    assert "--steps 40" in text
    assert "--layers" not in text
    assert "--resume" not in text


def test_tables_hold_the_last_values(page: str):
    tables = Reader(page.replace("\u00a0", " ")).tables
    assert [row[:2] for row in tables["table-quality"][1:]] == [
        ["this model", "14.0 dB"], ["best trivial baseline", "12.3 dB (mean colour)"],
        ["copy of the nearest reference", "11.7 dB"], ["mean colour of that reference", "12.3 dB"],
    ]  # fmt: skip
    assert [row[2] for row in tables["table-quality"][1:3]] == ["0.350 †", "0.400 (mean colour)"]
    assert tables["table-evaluations"][1][3] == "11.0 (12.3) †"
    assert tables["table-evaluations"][-1][3] == "14.0 (12.3)"
    assert [row[:5] for row in tables["table-precision"][1:]] == [
        ["2", "8x8", "12.0 %", "10.8–13.2 %", "10.0 %"], ["10 supervised", "16x16", "50.0 %", "45.0–55.0 %", "2.0 %"],
    ]  # fmt: skip
    assert [row[0] for row in tables["table-evaluations"]] == ["iteration", *map(str, STEPS)]


@pytest.mark.slow
def test_many_evaluations_are_thinned_evenly(tmp_path: Path):
    run = make_run(tmp_path / "run", {"steps": 1000}, [evaluated(step) for step in range(10, 1010, 10)])
    reader = Reader(build(run))
    shown = [int(row[0].replace("\u202f", "")) for row in reader.tables["table-evaluations"][1:]]
    assert (len(shown), shown[0], shown[-1]) == (12, 10, 1000)
    assert "12 of 100 evaluations" in reader.text


# --- the sentence ----------------------------------------------------------------------------------------------------


def test_the_answer_of_a_supervised_run(folder: Path):
    text = said(folder)
    assert text.startswith("tiny was trained on plain scenes for 40 iterations, with layer 10 (up 1.1) supervised by ")
    assert "(CAMEO; weight 0.02, mixing mlp, truth cycle)" in text
    assert (
        "a PSNR of 14.0 dB: better than the best trivial baseline, filling in that reference's mean colour (12.3 dB). "
        "Further: SSIM 0.350 † (best trivial baseline 0.400, mean colour)." in text
    )
    assert "By SSIM a trivial baseline is as good or better." in text
    assert "for 50.0 % (45.0–55.0 %) of the query points, where a uniform guess finds 2.0 %." in text
    assert "right for 80.0 % of the queries and the attention for 50.0 %, a gap of +30.0 points" in text
    assert "not the attention that the model uses" in text
    assert "fell from 0.500 (iteration 10) to 0.125" in text
    assert "high noise (t = 900) it fell from 0.300 (iteration 10) to 0.0750" in text


@pytest.mark.parametrize(
    ("psnr", "verdict", "judged"),
    [
        (9.0, "worse than the best trivial baseline, filling in", "By PSNR a trivial baseline is as good"),
        (12.0, "worse than the best trivial baseline, filling in", "By PSNR a trivial baseline is as good"),
        (12.3, "equal to the best trivial baseline, filling in", "By PSNR a trivial baseline is as good"),
        (12.4, "better than the best trivial baseline, filling in", "They beat the trivial baselines"),
    ],
)
def test_quality_is_judged_against_what_needs_no_model(tmp_path: Path, psnr: float, verdict: str, judged: str):
    text = said(make_run(tmp_path / "run", rows=[evaluated(40, psnr=psnr, ssim=0.5)]))
    assert verdict in text
    assert judged in text


def test_lower_errors_are_better(tmp_path: Path):
    errors = {"match_error": 0.2, "copy_match_error": 0.1, "mean_colour_match_error": 0.3}
    run = read_training(make_run(tmp_path / "run", rows=[evaluated(40, ssim=0.5, **errors)]))
    row = run.evaluation.iloc[-1]
    assert best_in_row("match_error", row) == ("copy", 0.1)
    assert "By match error a trivial baseline" in " ".join(training_words.answer(run))


def test_without_trivial_answers_nothing_is_claimed(tmp_path: Path):
    text = said(make_run(tmp_path / "run", rows=[{"step": 40, "psnr": 14.0}]))
    assert "14.0 dB: no trivial baseline was measured beside it." in text
    assert "beat" not in text


def test_an_aligned_readout_is_no_gap(tmp_path: Path):
    text = said(make_run(tmp_path / "run", rows=[evaluated(40, readout_10=0.5, attention_10=0.52)]))
    assert "a gap of −2.0 points. The attention that the model uses is as good" in text


def test_precision_that_does_not_beat_chance_is_said(tmp_path: Path):
    run = make_run(tmp_path / "run", {"layer": "2"}, [evaluated(40)])
    assert "for 12.0 % (10.8–13.2 %)" in said(run)
    table = pd.read_csv(run / "emergence.csv")
    table.assign(low=0.0).to_csv(run / "emergence.csv", index=False)
    assert "Its interval does not lie above that guess." in said(run)


def test_a_plain_run_is_called_plain(tmp_path: Path):
    run = make_run(tmp_path / "run", {"layer": "none", "layers": []}, [evaluated(step) for step in STEPS])
    text, reader = said(run), Reader(build(run))
    assert "on the diffusion objective alone; no layer was supervised." in text
    assert "Of all layers layer 10 (up 1.1) finds the corresponding point most often: for 50.0 %" in text
    assert "Readout gap" not in reader.text
    assert "readout" not in reader.sections
    assert "best precision, layer 10" in reader.text
    assert {"objective"}.isdisjoint(training.losses(read_training(run))["panel"])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"control": "shuffled"}, "This is a control: every scene was given another scene's matches"),
        ({"objective": "repa-dsift"}, "frozen DSIFT features (DSIFT in the place of REPA's encoder; weight 0.02)"),
        ({"objective": "new"}, "under an added objective (new; weight 0.02)"),
        ({"layer": "2,10"}, "with layers 2 (up 1.1) and 10 (up 1.1) supervised"),
        ({"steps": 400}, "for 40 of 400 iterations"),
        ({"model": "tiny:random"}, "tiny, from random weights, was trained"),
    ],
)
def test_settings_in_words(tmp_path: Path, settings: dict[str, Any], words: str):
    assert words in said(make_run(tmp_path / "run", settings, [evaluated(40)]))


@pytest.mark.parametrize("layer", ["auto", "random"])
def test_a_chosen_layer_is_known_by_its_readout_or_its_name(tmp_path: Path, layer: str):
    run = make_run(tmp_path / "run", {"layer": layer})
    assert read_training(run).supervised == (10,)
    write_rows(run / "evaluation.jsonl", [evaluated(40)])
    assert read_training(run).supervised == (2, 10)  # both rows bear the name in these numbers
    (run / "emergence.csv").unlink()
    assert read_training(run).supervised == ()
    assert f"with layer {layer} supervised" in said(run)


# --- missing pieces --------------------------------------------------------------------------------------------------


def test_missing_pieces_leave_their_sections_out(tmp_path: Path):
    run = make_run(tmp_path / "run", rows=[{"step": step, "loss": 1 / step} for step in STEPS])
    for name in ("emergence.csv", "samples.png"):
        (run / name).unlink()
    html = build(run)
    assert Reader(html).sections == ["loss", "answer", "cost", "evaluations", "method"]
    assert "Its samples have not been measured yet" in html
    assert "precision has no chance level" in html


def test_one_evaluation_draws_no_line_through_one_point(tmp_path: Path):
    run = make_run(tmp_path / "run", rows=[evaluated(10, **GAP)])
    pd.DataFrame(probed(10)).to_csv(run / "emergence.csv", index=False)
    reader = Reader(build(run))
    assert reader.drawn == ["figure-loss", "figure-cost"]
    assert {"table-quality", "table-precision", "table-evaluations"} == reader.tables.keys()
    assert "There is one evaluation only" in reader.text


def test_a_run_that_has_just_begun_has_a_page(tmp_path: Path):
    run = make_run(tmp_path / "run", rows=[])
    for name in ("emergence.csv", "samples.png", "evaluation.jsonl"):
        (run / name).unlink()
    (run / "metrics.jsonl").write_text("")
    reader = Reader(build(run))
    assert reader.sections == ["answer", "method"]
    assert "No step has been logged yet." in reader.text
    assert "0 of 40 iterations" in reader.text


def test_a_run_that_is_evaluated_before_its_first_logged_step_has_a_page(tmp_path: Path):
    run = make_run(tmp_path / "run", rows=[evaluated(8, **GAP)])
    (run / "metrics.jsonl").unlink()
    assert report.find_runs(tmp_path) == [run]
    assert "8 of 40 iterations" in Reader(build(run)).text
    (run / "evaluation.jsonl").unlink()
    assert report.find_runs(tmp_path) == []


WORST = pd.DataFrame(
    {"scene": ["held-out-003", "held-out-001"], "view": [1, 1], "rotation_deg": [41.0, 12.5], "n_ref": [1, 1],
     "psnr": [9.0, 12.0], "ssim": [0.1, 0.3], "lpips": [None, None], "match_error": [0.2, 0.1],
     "copy_psnr": [10.0, 11.0], "truth_match_error": [0.05, None]}
)  # fmt: skip


def test_the_worst_held_out_views_come_first_and_the_figures_name_the_views(tmp_path: Path):
    run = make_run(tmp_path / "run")
    WORST.to_csv(run / "worst.csv", index=False)
    reader = Reader(build(run).replace("\u00a0", " "))
    assert reader.sections[:4] == ["samples", "answer", "quality", "worst"]
    assert [row[:5] for row in reader.tables["table-worst"][1:]] == [
        ["held-out-003", "1", "41°", "1", "9.0 dB †"], ["held-out-001", "1", "12°", "1", "12.0 dB"]
    ]  # fmt: skip
    assert "marked †: copying the nearest reference is as good or better; so it is for 1 of all 2." in reader.text
    views = digest(WORST[training.VIEW_COLUMNS].sort_values("scene"))
    assert f"View list {views}: 2 target views in 2 held-out scenes of plain scenes" in reader.text
    assert "worst.csv" in [attrs.get("download") for _, attrs in reader.tags]


def test_the_curve_of_precision_carries_its_pair_list_and_counts(tmp_path: Path):
    run = make_run(tmp_path / "run")
    table = pd.read_csv(run / "emergence.csv")
    known = {"protocol": "attention-v1", "metric": "precision@5%", "pair_list": "0123456789ab", "scene_count": 4}
    table.assign(**known, count=[900, 1200] * len(STEPS)).to_csv(run / "emergence.csv", index=False)
    assert (
        "Protocol attention-v1, precision@5%, pair list 0123456789ab (4 scenes “shapes”), intervals; "
        "counted points per layer: 900 to 1 200." in Reader(build(run).replace("\u202f", " ")).text
    )


@pytest.mark.slow
def test_old_rows_without_the_objective(tmp_path: Path):
    run = make_run(tmp_path / "run")
    old = [{key: value for key, value in logged(step).items() if key != "objective"} for step in STEPS]
    write_rows(run / "metrics.jsonl", old)
    assert set(training.losses(read_training(run))["panel"]) == {"loss", "loss_t900"}
    assert "figure-loss" in build(run)


def test_precision_against_quality_without_a_probe(tmp_path: Path):
    run = make_run(tmp_path / "run")
    (run / "emergence.csv").unlink()
    table = training.tradeoff(read_training(run))
    assert table["who"].unique().tolist() == ["layer 10"]
    assert table["precision"].tolist() == [0.5] * 4


@pytest.mark.parametrize("name", ["metrics.jsonl", "evaluation.jsonl"])
@pytest.mark.parametrize("tail", ['{"step": 50, "lo', "{}", "\x00\x00"])
def test_a_torn_last_line_is_skipped_and_said(tmp_path: Path, name: str, tail: str):
    run = make_run(tmp_path / "run")
    with (run / name).open("a") as file:
        file.write(tail)
    assert read_training(run).step == 40
    assert f"The last line of {name} was cut off and is left out." in training_words.caveats(read_training(run))


def test_a_whole_last_line_without_its_end_counts(tmp_path: Path):
    run = make_run(tmp_path / "run")
    (run / "metrics.jsonl").write_text((run / "metrics.jsonl").read_text().rstrip("\n"))
    assert read_training(run).torn == ()
    assert len(read_training(run).metrics) == 4


# --- safety ----------------------------------------------------------------------------------------------------------


def test_equal_data_gives_equal_bytes(page: str, folder: Path, tmp_path: Path):
    moved = tmp_path / "a b"
    shutil.copytree(folder, moved)
    assert build(moved) == page
    assert not list(moved.glob("*.part"))


@pytest.mark.slow
def test_names_are_text_and_nothing_comes_from_outside(page: str, tmp_path: Path):
    settings = {"model": HOSTILE, "scenes": HOSTILE, "objective": HOSTILE, "out": HOSTILE, HOSTILE: HOSTILE}
    run = make_run(tmp_path / "run", settings, commit=HOSTILE)
    table = pd.read_csv(run / "emergence.csv").assign(layer_name=HOSTILE, grid=HOSTILE)
    table.to_csv(run / "emergence.csv", index=False)
    for html in (page, build(run)):
        tags = Reader(html).tags
        assert [attrs for tag, attrs in tags if tag == "script"] == [{}]
        assert set(re.findall(r"https?://[^\s\"'<)]*", html)) == {"https://arxiv.org/abs/2512.03045"}
        loaded = [attrs["src"] or "" for _, attrs in tags if "src" in attrs]
        assert all(source.startswith("data:image/png;base64,") for source in loaded)
        assert not re.search(r"@import|url\((?!#)", html)


def test_the_page_can_be_heard(page: str):
    tags = Reader(page).tags
    charts = [attrs for tag, attrs in tags if tag == "svg"]
    assert len(charts) == 6
    assert all(attrs.get("role") == "img" and attrs.get("aria-label") for attrs in charts)
    assert all(attrs.get("alt") for tag, attrs in tags if tag == "img")
    used = [attrs["id"] for _, attrs in tags if attrs.get("id")]
    assert len(used) == len(set(used))


# --- figures ---------------------------------------------------------------------------------------------------------


def test_panels_draw_every_line_of_their_table(folder: Path):
    table = training.quality(read_training(folder))
    titles = {"psnr": "PSNR <dB>", "ssim": "SSIM"}
    root = ElementTree.fromstring(training_figures.step_panels(table, titles=titles, name="quality", alt="a < b"))
    texts = {"".join(element.itertext()).strip() for element in root.iter("text")}
    assert {*titles.values(), figures.THIS_MODEL, *training_figures.ACROSS} <= texts
    blue = [
        path for path in root.iter("path") if "--blue" in path.get("stroke", "") and path.get("d", "").count("L") == 3
    ]
    assert len(blue) == 2


def test_spikes_do_not_flatten_a_panel():
    spiky = pd.DataFrame(
        {
            "panel": "loss",
            "who": training_figures.LOGGED,
            "step": range(1, 201),
            "value": [1e6] + [1.0 + n % 2 for n in range(199)],
        }
    )
    root = ElementTree.fromstring(training_figures.step_panels(spiky, titles={"loss": "loss"}, name="loss", alt="loss"))
    texts = {"".join(element.itertext()).strip() for element in root.iter("text")}
    assert {"1.0", "1.4", "1.8"} <= texts


# --- the command -----------------------------------------------------------------------------------------------------


def test_a_folder_that_is_neither_is_refused(tmp_path: Path):
    with pytest.raises(RunError, match=r"no finished probe run.*nor is it a training run, which has config.json and"):
        report.build_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("config.json", "{}", "read_config: .*config.json is not the config.json of a run"),
        ("metrics.jsonl", '{"step": 1}\n{"st\n{"step": 2}\n', "line 2 of .*metrics.jsonl is not a JSON object"),
        ("metrics.jsonl", '{"step": 1, "loss": "low"}\n', "metrics.jsonl holds what is no number"),
        ("evaluation.jsonl", '{"step": null}\n', "evaluation.jsonl holds what is no number"),
        ("emergence.csv", "step,layer\n1,2\n", "emergence.csv lacks layer_name"),
        ("emergence.csv", "", "emergence.csv cannot be read"),
        (
            "worst.csv",
            "scene,view,rotation_deg,n_ref,psnr,copy_psnr,truth_match_error\na,1,9,1,low,9,0\n",
            "worst.csv has a psnr that is no number",
        ),
    ],
)
def test_files_that_cannot_be_used_are_named(tmp_path: Path, name: str, text: str, message: str):
    run = make_run(tmp_path / "run")
    (run / name).write_text(text)
    with pytest.raises(RunError, match=message):
        report.build_report(run)
    assert not (run / "report.html").exists()


def test_the_index_lists_both_kinds_apart(
    folder: Path, make: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "runs" / "probe")
    shutil.copytree(folder, tmp_path / "runs" / "a b")
    make_run(tmp_path / "runs" / "begun", {"layer": "none", "steps": 400}, [])
    (tmp_path / "runs" / "begun" / "emergence.csv").unlink()
    assert report.find_runs(Path("runs")) == [Path("runs/a b"), Path("runs/begun"), Path("runs/probe")]
    html = report.build_index(report.find_runs(Path("runs"))).read_text(encoding="utf-8").replace("\u00a0", " ")
    reader = Reader(html)
    assert [row[0] for row in reader.tables["probes"][1:]] == ["tiny on shapes", "probe"]
    assert reader.tables["training"][1:] == [
        ["tiny on shapes"],
        ["a b", "cameo at 10", "40", "0.125", "14.0 (12.3)", "50.0 % (10)", "+30.0"],
        ["begun", "none", "40 of 400", "–", "–", "–", "–"],
    ]
    assert "../runs/a%20b/report.html" in html


def test_the_command_writes_a_training_page(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, tmp_path / "runs" / "one")
    (tmp_path / "runs" / "one" / "report.html").unlink(missing_ok=True)
    assert report.main([]) == 0
    assert (tmp_path / "runs" / "one" / "report.html").is_file()
    assert capsys.readouterr().out.split("\n")[0] == "runs/one/report.html"


def test_the_single_predictions_psnr_is_judged_beside_that_of_samples(tmp_path: Path):
    one = {"psnr_one_step": 13.0, "copy_psnr_one_step": 11.7, "mean_colour_psnr_one_step": 12.3}
    folder = make_run(tmp_path / "run", rows=[evaluated(step, **one) for step in STEPS])
    page = report.refresh(folder).read_text(encoding="utf-8")
    assert "PSNR of one step 13.0 dB (best trivial baseline 12.3 dB, mean colour)" in said(folder)
    assert "PSNR of one step is that of the single prediction" in page
