"""Laws of a study's page: what it says is what the tables hold; seeds are paired; few seeds give no verdict."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis import paper, report
from analysis.blocks import Section
from analysis.study import tables as study
from analysis.study import words
from analysis.study.page import make_study_page
from analysis.study.paper import published_reach
from analysis.study.run import StudyRun, read_study
from probe.records import RunError

HOSTILE = "<script>alert('$x')</script>"
STEPS = (10, 20, 30)
TRIVIAL = {"copy_psnr": 11.0, "mean_colour_psnr": 12.0}
CURVES: dict[str, Sequence[float]] = {"plain": (8, 10, 12), "cameo": (9, 12, 14), "shuffled": (8, 9, 10)}
SETTINGS = {
    "plain": {"layer": "none", "control": "none"}, "cameo": {"layer": "12", "control": "none"},
    "shuffled": {"layer": "12", "control": "shuffled"},
}  # fmt: skip


def shown(run: StudyRun) -> list[Section]:
    """Return the sections of the run's page, in order."""
    page = make_study_page(run)
    return [*([page.lead] if page.lead else []), *page.sections]


def make_study(
    folder: Path, curves: Mapping[str, Sequence[float]] = CURVES, seeds: int = 3, rename: str = "plain"
) -> Path:
    """Write what train.study writes: seed n adds n to every PSNR of every variant, and cameo gains n / 10 more."""
    folder.mkdir(parents=True)
    rows = []
    for variant, psnr in curves.items():
        for seed in range(seeds):
            extra = seed + (seed / 10 if variant == "cameo" else 0)
            for step, value in zip(STEPS, psnr, strict=True):
                own = {"psnr": value + extra, "loss_t900": 1 / value, "precision_12": value / 100, **TRIVIAL}
                own |= {"readout_12": value / 50, "attention_12": value / 100} if variant != "plain" else {}
                rows += [(variant, seed, step, metric, number) for metric, number in own.items()]
    table = pd.DataFrame(rows, columns=["variant", "seed", "step", "metric", "value"])
    table["variant"] = table["variant"].replace("shuffled", rename if rename != "plain" else "shuffled")
    names = list(dict.fromkeys(table["variant"]))
    table.to_csv(folder / "study.csv", index=False)
    groups = table.groupby(["variant", "step", "metric"], sort=False)["value"]
    summary = groups.agg(["mean", "count"]).reset_index().assign(low=np.nan, high=np.nan)
    summary.to_csv(folder / "summary.csv", index=False)
    goals = table[(table["variant"] == "plain") & (table["step"] == 30)].set_index(["seed", "metric"])["value"]
    reach = [
        {"variant": name, "seed": seed, "metric": "psnr", "goal": goals.get((seed, "psnr"), np.nan),
         "step": 30 * ratio, "ratio": ratio, "note": "" if ratio == ratio else "never"}
        for name, ratio in zip(names, (1.0, 0.5, np.nan), strict=False) for seed in range(seeds)
    ]  # fmt: skip
    pd.DataFrame(reach).to_csv(folder / "reach.csv", index=False)
    settings = [{"variant": new, **SETTINGS[old]} for old, new in zip(curves, names, strict=True)]
    pd.DataFrame(settings).to_csv(folder / "settings.csv", index=False)
    config = {"settings": {"layer": 12, "other_layer": 10, "steps": 30}, "environment": {"commit": "0123"}}
    (folder / "config.json").write_text(json.dumps(config))
    log = folder / "cameo-seed0"
    log.mkdir()
    (log / "metrics.jsonl").write_text('{"step": 1, "seconds": 2.0}\n{"step": 2, "seconds": 4.0}\n{"step": 3')
    return folder


def difference(run: StudyRun, variant: str, metric: str) -> pd.Series:
    table = study.differences(run)
    return table[(table["variant"] == variant) & (table["metric"] == metric)].iloc[0]


def plain_text(html: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", re.sub(r"<(style|script|svg).*?</\1>", " ", html, flags=re.S)).split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("runs") / "study")


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return report.build_report(folder).read_text(encoding="utf-8").replace("\u00a0", " ")


def test_differences_are_paired_by_seed(folder: Path):
    row = difference(read_study(folder), "cameo", "psnr")
    each = np.array([2.0, 2.1, 2.2])  # seeds move both runs alike, and that does not widen the interval
    low, high = stats.t.interval(0.95, 2, each.mean(), stats.sem(each))
    assert row[["value", "low", "high"]].tolist() == pytest.approx([2.1, low, high])
    assert (row["seeds"], row["verdict"]) == (3, "better")
    assert difference(read_study(folder), "shuffled", "psnr")["verdict"] == "worse"


def test_less_error_is_better(folder: Path):
    row = difference(read_study(folder), "cameo", "loss_t900")
    assert row["value"] == pytest.approx(1 / 14 - 1 / 12)
    assert row["gain"] == -row["value"] > 0
    assert row["verdict"] == "better"


def test_two_seeds_give_no_verdict(tmp_path: Path):
    run = read_study(make_study(tmp_path / "study", seeds=2))
    assert set(study.differences(run)["verdict"]) == {"too few seeds"}
    assert np.isnan(difference(run, "cameo", "psnr")["low"])
    assert "none of this is separated from chance" in " ".join(words.answer(run))
    assert "nothing can be said about half the steps" in " ".join(words.answer(run))
    assert "fewer than 3 seeds" in " ".join(words.caveats(run))


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("cat3d-tiny:random", "seeds vary the model's first weights and the scenes, timesteps and noise of training"),
        ("cat3d-tiny:runs/plain/step-001000", "not the model's: every run starts from the same ones (cat3d-tiny:runs/"),
        ("cat3d-tiny", "not the model's: every run starts from the same ones (cat3d-tiny)"),
        (None, "the settings do not say what the model starts from"),
    ],
)
def test_what_the_seeds_vary_is_said_under_every_figure_and_the_final_values(
    tmp_path: Path, model: str | None, expected: str
):
    folder = make_study(tmp_path / "study")
    config = json.loads((folder / "config.json").read_text())
    config["settings"] |= {"evaluate_scenes": 16} | ({} if model is None else {"model": model})
    (folder / "config.json").write_text(json.dumps(config))
    run = read_study(folder)
    assert expected in words.source(run)
    assert "the same 16 held-out scenes" in words.source(run)
    final = next(table for section in shown(run) for name, table in section.tables.items()
                 if name == "final")  # fmt: skip
    assert expected in final.caption
    assert "on the same 16 held-out scenes" in final.caption


def test_the_best_trivial_baseline_stands_below_and_marks_what_does_not_beat_it(folder: Path):
    run = read_study(folder)
    final = shown(run)[0].tables["final"]
    column = final.columns.index("PSNR (dB), higher is better")
    cells = {row[0]: row[column].replace("\u00a0", " ") for row in final.rows}
    assert cells["best trivial baseline"] == "12.00 (mean colour)"
    assert cells["plain"] == "13.00"  # of 12, 13 and 14
    assert cells["shuffled"] == "11.00 †"
    assert study.best_of(run, "loss_t900") is None


def test_roles_come_from_settings(folder: Path):
    assert study.roles(read_study(folder)) == {"plain": "plain", "cameo": "supervised", "shuffled": "a control"}


@pytest.mark.parametrize(
    ("row", "role"),
    [
        ({"variant": "x", "layer": "10"}, "another layer"),
        ({"variant": "x", "layer": "12", "objective": "geometry"}, "a rival"),
        ({"variant": "x", "layer": "12", "objective": "geometry", "control": "shuffled"}, "a control"),
        ({"variant": "x", "layer": "12"}, "supervised"),
    ],
)
def test_a_role_by_hand(row: dict[str, str], role: str):
    assert study._role(row, "12") == role


def test_the_page_says_it(page: str):
    text = plain_text(page)
    assert "cameo is better than plain by PSNR (+2.10 dB, 95 % interval +1.85 to +2.35), error at t" in text
    assert "error at t = 900 0.67 (joint 95 % interval 0.67 to 0.67), sooner than plain; PSNR 0.66 (joint" in text
    assert "half the steps, as the paper claims, is not shown by any measure" in text
    assert "shuffled worse by 3" in text
    sections = re.findall(r'<section id="(\w+)"', page)
    usual = ["variants", "reach", "readout", "consistency", "worst", "cost", "paper", "method"]
    assert sections == ["convergence", "answer", *usual]
    figures = re.findall(r'<figure id="figure-(\w+)"(.*?)</figure>', page, flags=re.S)
    assert [name for name, _ in figures] == ["convergence", "precision", "differences", "reach", "readout", "cost"]
    assert all("data:text/csv" in body and 'class="copy"' in body and "held-out scenes" in body for _, body in figures)


def test_worst_cases_stand_first(folder: Path, page: str):
    table = study.seed_differences(read_study(folder))
    assert set(table.loc[table["variant"] == "cameo", "gain"] > 0) == {True}  # less error is a gain
    assert set(table.loc[table["variant"] == "shuffled", "gain"] < 0) == {True}
    lost = 3 * 3  # seeds times metrics
    assert f"{lost} of {len(table)} comparisons" in plain_text(page)
    first = re.search(r'id="table-worst".*?<tbody>\s*<tr>(.*?)</tr>', page, flags=re.S)
    assert first is not None
    assert "shuffled" in first[1]


def test_a_torn_log_gives_the_median_of_its_whole_lines(folder: Path):
    assert read_study(folder).seconds.to_dict("records") == [
        {"variant": "cameo", "seed": 0, "seconds": 3.0, "count": 2}
    ]


def test_equal_data_gives_equal_bytes_and_nothing_comes_from_outside(folder: Path, page: str):
    again = report.build_report(folder).read_text(encoding="utf-8").replace("\u00a0", " ")
    assert again == page
    assert set(re.findall(r"https?://[^\s\"'<)]*", page)) == {"https://arxiv.org/abs/2512.03045"}
    assert not re.search(r"@import|url\((?!#)|<(link|script|img|iframe)[^>]+(src|href)=\"(?!data:)", page)
    assert len(page) < 10e6


def test_names_are_text(tmp_path: Path):
    html = report.build_report(make_study(tmp_path / "study", rename=HOSTILE)).read_text(encoding="utf-8")
    assert html.count("<script") == 1  # the page's own
    assert "&lt;script&gt;alert" in html


def test_without_plain_nothing_is_compared(tmp_path: Path):
    folder = make_study(tmp_path / "study", {"cameo": (9, 12, 14)})
    assert "nothing can be compared with it yet" in " ".join(words.answer(read_study(folder)))
    assert 'id="variants"' not in report.build_report(folder).read_text(encoding="utf-8")


def test_a_file_that_cannot_be_used_is_named(tmp_path: Path):
    folder = make_study(tmp_path / "study")
    (folder / "reach.csv").write_text("variant,seed\nplain,0\n")
    with pytest.raises(RunError, match=r"reach.csv lacks metric, goal, step, ratio, note; start the study"):
        read_study(folder)


def test_the_index_lists_studies_and_what_cannot_be_read(folder: Path, tmp_path: Path):
    broken = make_study(tmp_path / "broken")
    (broken / "summary.csv").write_text("")
    text = report.build_index([folder, broken], tmp_path / "reports" / "index.html").read_text(encoding="utf-8")
    assert "1 study" in text
    assert "PSNR +2.10, better" in text.replace("\u00a0", " ")
    assert "<strong>broken</strong>: read_file:" in text


def test_the_command_trains_what_is_there_where_some_variants_have_fewer_seeds(tmp_path: Path):
    folder = make_study(tmp_path / "study")
    assert "--few-seeds" not in make_study_page(read_study(folder)).command
    table = pd.read_csv(folder / "study.csv")
    table[(table["variant"] != "shuffled") | (table["seed"] < 2)].to_csv(folder / "study.csv", index=False)
    assert "--seeds 0,1,2 \\\n  --few-seeds 2 " in make_study_page(read_study(folder)).command
    table[(table["variant"] != "shuffled") | (table["seed"] > 0)].to_csv(folder / "study.csv", index=False)
    assert "--few-seeds" not in make_study_page(read_study(folder)).command


# --- the paper -------------------------------------------------------------------------------------------------------


def test_the_published_file_says_where_it_comes_from():
    assert "arXiv 2512.03045" in paper.note()
    assert len(paper.published()) == 131
    profile = paper.experiment("layer_profile")
    row = profile[(profile["who"] == "CAT3D with CAMEO") & (profile["x"] == "10")]
    assert row["value"].tolist() == [0.74]


def test_published_reach_by_hand():
    table = published_reach().set_index(["dataset", "metric"])
    expected = (160_000 + 160_000 * (19.64 - 19.5) / (20.16 - 19.5)) / 400_000
    assert table.loc[("re10k", "psnr"), "ratio"] == pytest.approx(expected)


def test_only_two_centimetres_on_navi_mean_the_same():
    assert paper.same_measure("navi:/data", "precision@0.02m")
    assert not paper.same_measure("navi:/data", "precision@5%")
    assert not paper.same_measure("shapes", "precision@0.02m")
    assert "must not be compared by height" in paper.measure_words("tiny", "shapes", "near", same=False)
