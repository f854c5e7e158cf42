"""Laws of the claims of a paper study: sentences follow intervals, what is absent is said, kept tables are enough."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from papers import GAINS, PLAIN_QUALITY, Paper, make_paper
from scipy import stats

from analysis import report
from analysis.blocks import Section
from analysis.evaluation.run import differences, differences_by_rotation, read_evaluation
from analysis.figures import Drawing
from analysis.probing.rotation import rotation, verdicts
from analysis.probing.tables import read_run
from analysis.study import figures as study_figures
from analysis.study import tables
from analysis.study.claims import figures as claim_figures
from analysis.study.claims.claim import ABSENT, AGAINST, NOT_SHOWN, PART, SHOWN, judge, together
from analysis.study.claims.emergence import _correlation
from analysis.study.claims.fragility import _hard_words
from analysis.study.claims.page import CLAIMS, claim_sections
from analysis.study.claims.units import in_bins, lead_in_bins, unit_table, units_of
from analysis.study.run import read_study
from docs import keep_study
from probe.records import MODEL, SAME_POSITION, RunError
from probe.records.intervals import ratios

HOSTILE = "<img src=x onerror=alert(1)>"
EQUAL = dict.fromkeys(GAINS, 0.0)
NAMES = ["samples", "emergence", "profile", "fragility", "causes", "reach", "which-layer", "choices", "rivals",
         "controls", "lasting", "quality", "worst", "cost"]  # fmt: skip
Probe = Callable[..., Path]


def look(folder: Path) -> list[Section]:
    """Return the claims of a study, whose figures are not drawn: what is looked at here is what is said."""
    with patch.object(claim_figures, "chart", _undrawn), patch.object(study_figures, "chart", _undrawn):
        return claim_sections(read_study(folder))


def _undrawn(name: str, alt: str, size: tuple[int, int], draw: Callable[..., None]) -> Drawing:
    return Drawing(f'<svg aria-label="{name}"></svg>', size, draw)


def overview(sections: Sequence[Section]) -> dict[str, tuple[str, str]]:
    """Return verdict and number of each claim, by its section's name."""
    rows = sections[0].tables["claims"].rows
    return {name: (row[1], " ".join(row[2].split())) for name, row in zip(NAMES, rows, strict=True)}


def sentence(sections: Sequence[Section], name: str) -> str:
    return next(section.claim for section in sections if section.name == name).replace("\u00a0", " ")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_probe: Probe) -> Path:
    return make_paper(tmp_path_factory.mktemp("runs") / "paper", make_probe)


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return report.build_report(folder).read_text(encoding="utf-8").replace("\u00a0", " ")


@pytest.fixture(scope="module")
def found(folder: Path) -> list[Section]:
    return look(folder)


# --- the page --------------------------------------------------------------------------------------------------------


def test_claims_come_first_each_with_a_figure_below_its_sentence(page: str):
    sections = re.findall(r'<section id="([\w-]+)"(.*?)</section>', page, flags=re.S)
    names = [name for name, _ in sections]
    usual = ["convergence", "variants", "layers", "consistency", "paper", "method"]
    assert names == ["samples", "answer", "claims", *NAMES[1:], *usual]
    for name, body in (sections[0], *sections[3:16]):
        assert re.search(r"<p><strong>[^<]+</strong></p>", body), name
        drawn = body.count("<figure") + body.count('<img class="samples"')
        assert drawn == (0 if name == "worst" else 1), name
        assert body.index("<strong>") < body.index("<img" if name == "samples" else "<figure" if drawn else "<table")
    assert all(f'<a href="#{name}">' in sections[2][1] for name in NAMES)
    assert len(re.findall(r'aria-label="[^"]{20,}"', page)) >= 12
    assert len(set(re.findall(r'<figure id="([\w-]+)"', page))) == page.count("<figure id=")


def test_where_supervision_leads_it_is_said(found: list[Section]):
    verdict = {name: verdict for name, (verdict, _) in overview(found).items()}
    assert [verdict[name] for name in NAMES[:5]] == [SHOWN] * 5
    assert {verdict[name] for name in ("which-layer", "rivals", "controls", "quality")} == {SHOWN}
    assert "views by mean are closer to the truth than those by plain: PSNR +1.7" in sentence(found, "samples")
    assert "(5 seeds), on the same 64 held-out scenes" in sentence(found, "samples")
    assert "plain 2 of 4 (10 and 12)" in sentence(found, "profile")
    assert "mean is above plain (+" in sentence(found, "profile")
    assert "in layer 10 of mean raises it (+10." in sentence(found, "causes")
    assert "behind cameo: layer-2 (" in sentence(found, "which-layer")
    assert sentence(found, "choices").startswith("By PSNR, ahead of cameo: mean (+0.")
    assert "false truth is not shown to help" in sentence(found, "controls")
    assert verdict["cost"] == AGAINST  # a step takes longer


def test_half_the_steps_is_shown_only_for_what_is_below_half(found: list[Section]):
    verdict, number = overview(found)["reach"]
    assert verdict == PART
    assert number.startswith("1 of 7 measures; cameo, PSNR: 0.39")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_where_nothing_differs_nothing_is_shown(tmp_path: Path, seed: int):
    """Runs of one and the same method under several names, with luck of their own."""
    paper = Paper(gains=EQUAL, noise=0.3, parts=("evaluations", "samples"), draw=seed,
                  qualities={"plain": PLAIN_QUALITY})  # fmt: skip
    found = look(make_paper(tmp_path / "paper", paper=paper))
    decided = ("samples", "reach", "which-layer", "choices", "rivals", "controls", "quality")
    assert {name: overview(found)[name][0] for name in decided} == dict.fromkeys(decided, NOT_SHOWN)
    assert "are not shown to be closer to the truth" in sentence(found, "samples")


def test_where_supervision_is_worse_it_is_said(tmp_path: Path):
    gains = {name: 0.0 if name == "plain" else -1.0 for name in GAINS} | {"cameo": -2.0}
    worse = {layer: value / 2 for layer, value in PLAIN_QUALITY.items()}
    paper = Paper(gains=gains, parts=("evaluations", "samples"), qualities={"plain": PLAIN_QUALITY, "cameo": worse})
    found = look(make_paper(tmp_path / "paper", paper=paper))
    against = ("samples", "reach", "which-layer", "rivals", "controls", "quality", "worst")
    assert {name: overview(found)[name][0] for name in against} == dict.fromkeys(against, AGAINST)
    assert "further from the truth than those by plain: PSNR −0.9" in sentence(found, "samples")
    assert "half the steps, as the paper claims, is not shown" in sentence(found, "reach")
    assert "ahead of cameo: layer-2" in sentence(found, "which-layer")


def test_two_seeds_claim_nothing(tmp_path: Path):
    found = look(make_paper(tmp_path / "paper", paper=Paper(seeds=2, parts=("evaluations", "samples"))))
    assert {verdict for verdict, _ in overview(found).values()} == {NOT_SHOWN, ABSENT}
    assert "2 seeds cannot separate that from chance" in sentence(found, "emergence")
    assert "with too few seeds to be compared with cameo" in sentence(found, "rivals")


def test_unequal_seeds_are_paired_where_both_are_there(folder: Path, found: list[Section]):
    rows = tables.differences(read_study(folder), "cameo", ["mean", "visible"])
    seeds = rows.set_index(["variant", "metric"])["seeds"]
    assert (seeds["mean", "psnr"], seeds["visible", "psnr"]) == (5, 3)
    texts = {section.name: section.text for section in found}
    assert "(3 to 5 seeds, intervals jointly for all 4)" in texts["choices"]
    assert "(3 seeds, intervals jointly for all 3)" in texts["rivals"]


# --- what is absent --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [(), ("samples",), ("evaluations",)])
def test_what_is_absent_is_said_in_one_line(tmp_path: Path, parts: tuple[str, ...]):
    folder = make_paper(tmp_path / "paper", paper=Paper(parts=parts, gains={"plain": 0.0, "cameo": 1.0, "mean": 1.0}))
    sections = look(folder)
    found, present = overview(sections), [section.name for section in sections[1:]]
    absent = [name for name, (verdict, _) in found.items() if verdict == ABSENT]
    assert absent == [name for name in NAMES if name not in present]
    assert set(absent) >= {"profile", "fragility", "causes"}
    assert ("samples" in present, "quality" in present) == ("samples" in parts, "evaluations" in parts)
    assert all(found[name][1].startswith("needs ") for name in absent)
    html = report.build_report(folder).read_text(encoding="utf-8")
    assert not re.search(r"\bnan\b|None", re.sub(r"<(svg|style|script).*?</\1>|base64,[^\"]*", "", html, flags=re.S))


def test_only_plain_makes_no_claim_of_supervision(tmp_path: Path):
    paper = Paper(gains={"plain": 0.0}, parts=("evaluations", "samples"))
    found = overview(look(make_paper(tmp_path / "paper", paper=paper)))
    assert {found[name][0] for name in NAMES if name not in ("emergence", "samples", "quality")} == {ABSENT}
    assert (found["samples"][0], found["quality"][0]) == (NOT_SHOWN, NOT_SHOWN)


def test_a_study_without_parts_has_no_claims(tmp_path: Path):
    folder = make_paper(tmp_path / "paper", paper=Paper(parts=()))
    config = json.loads((folder / "config.json").read_text())
    del config["settings"]["paper"]
    (folder / "config.json").write_text(json.dumps(config))
    assert look(folder) == []


def test_what_cannot_be_used_is_named(tmp_path: Path):
    folder = make_paper(tmp_path / "paper", paper=Paper(parts=("samples",)))
    (folder / "samples.json").write_text('{"rule": "", "steps": [1], "scenes": [{"name": "a"}]}')
    with pytest.raises(RunError, match=r"samples.json is not a list of samples \(KeyError.*start the study again"):
        read_study(folder)
    (folder / "samples.json").unlink()
    (folder / "probes" / "plain").mkdir(parents=True)
    (folder / "probes" / "plain" / "selection.json").write_text('{"layer": 10}')
    with pytest.raises(RunError, match=r"selection\.json lacks name, metric"):
        read_study(folder)


def test_names_and_rules_are_text(tmp_path: Path):
    folder = make_paper(tmp_path / "paper", paper=Paper(gains={"plain": 0, "cameo": 1, HOSTILE: 1}, parts=("samples",)))
    content = json.loads((folder / "samples.json").read_text())
    (folder / "samples.json").write_text(json.dumps(content | {"rule": HOSTILE}))
    html = report.build_report(folder).read_text(encoding="utf-8")
    assert HOSTILE not in html
    assert html.count("&lt;img src=x") > 3


# --- probes ----------------------------------------------------------------------------------------------------------


def probed(tmp_path: Path, make_probe: Probe, mean: dict[int, float], effect: float = 0.05) -> list[Section]:
    """Look at a study of plain and mean, whose layers have some quality."""
    paper = Paper(gains={"plain": 0.0, "mean": 1.0}, qualities={"plain": PLAIN_QUALITY, "mean": mean},
                  parts=("probes",), effect=effect)  # fmt: skip
    return look(make_paper(tmp_path / "paper", make_probe, paper))


def test_equal_models_are_not_told_apart_by_their_probes(tmp_path: Path, make_probe: Probe):
    found = probed(tmp_path, make_probe, PLAIN_QUALITY, effect=0.0)
    assert "mean is not shown to differ from plain (" in sentence(found, "profile")
    assert overview(found)["profile"][0] == PART  # plain's layers are above their nulls
    assert overview(found)["causes"][0] == NOT_SHOWN
    assert "is not shown to change it" in sentence(found, "causes")


def test_a_model_that_lost_its_matches_is_said_to_be_below(tmp_path: Path, make_probe: Probe):
    found = probed(tmp_path, make_probe, {2: 0.05, 7: 0.05, 10: 0.06, 12: 0.05}, effect=-0.05)
    assert "mean is below plain (−" in sentence(found, "profile")
    assert "mean, layer 10 is below plain, layer 12 (−" in sentence(found, "fragility")
    assert overview(found)["causes"][0] == AGAINST
    assert "lowers it" in sentence(found, "causes")


def test_a_model_that_was_not_probed_on_harder_rooms_is_not_said_to_fail_there():
    rows = [("usual", "plain", True), ("usual", "mean", True), ("fine", "mean", False), ("bare", "mean", True)]
    words = _hard_words(pd.DataFrame(rows, columns=["x", "who", "clear"]))
    assert words.endswith("plain on usual (not probed on 2 others); mean on usual and bare.")


def test_sums_by_unit_give_what_the_probes_page_shows(folder: Path):
    run = read_run(folder / "probes" / "plain")
    sums, compared = unit_table(run), verdicts(run)
    bins, units = list(compared["rotation_bin"]), units_of([sums])
    shown = rotation(run)
    own = shown[shown["who"] == f"layer {run.layer}"].set_index("rotation_bin")["value"].reindex(bins)
    found = ratios(*in_bins(sums, MODEL, run.layer, bins, units)).value
    np.testing.assert_allclose(found, own, rtol=1e-12)
    lead = lead_in_bins(sums, SAME_POSITION, run.layer, bins, units)
    assert lead is not None
    np.testing.assert_allclose(lead[["value", "low", "high"]], compared[["difference", "low", "high"]], rtol=1e-12)


def test_kept_tables_give_the_same_page(folder: Path, tmp_path: Path, page: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(keep_study, "REFERENCE", tmp_path)
    keep_study.keep(folder, "paper")
    kept = tmp_path / "paper"
    assert not [path for path in kept.rglob("*") if path.suffix in (".parquet", ".safetensors")]
    again = report.build_report(kept).read_text(encoding="utf-8").replace("\u00a0", " ")

    def seen(html: str) -> str:
        return re.sub(r'href="data:text/csv[^"]*"', "", html)

    assert seen(again) == seen(page)


# --- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.1, 0.3, SHOWN),
        (-0.1, 0.3, NOT_SHOWN),
        (-0.3, -0.1, AGAINST),
        (0.0, 0.0, NOT_SHOWN),
        (np.nan, np.nan, NOT_SHOWN),
    ],
)
def test_the_verdict_follows_the_interval(low: float, high: float, verdict: str):
    assert judge(low, high) == verdict


@pytest.mark.parametrize(
    ("each", "verdict"),
    [([SHOWN, SHOWN], SHOWN), ([SHOWN, NOT_SHOWN], PART), ([SHOWN, AGAINST], PART), ([NOT_SHOWN, AGAINST], AGAINST),
     ([NOT_SHOWN], NOT_SHOWN), ([], NOT_SHOWN)],
)  # fmt: skip
def test_a_claim_of_several_parts(each: list[str], verdict: str):
    assert together(each) == verdict


def test_joint_intervals_of_differences_are_bonferronis(folder: Path):
    run = read_study(folder)
    row = (
        tables.differences(run, "cameo", ["visible", "early-stop"])
        .set_index(["variant", "metric"])
        .loc["visible", "psnr"]
    )
    each = tables.seed_differences(run, "cameo")
    each = each[(each["variant"] == "visible") & (each["metric"] == "psnr")]["difference"]
    ends = stats.ttest_1samp(each, 0).confidence_interval(1 - 0.05 / 2)
    assert row[["low", "high"]].tolist() == pytest.approx([ends.low, ends.high])


def test_a_correlation_has_its_sign_from_what_is_better():
    """Precision 1 to 4 with falling match errors in each of three seeds, but for one that changes two of them."""
    errors = {0: (4, 3, 2, 1), 1: (4, 3, 2, 1), 2: (4, 2, 3, 1)}
    points = pd.DataFrame([(seed, n, n + 1, error) for seed, each in errors.items() for n, error in enumerate(each)],
                          columns=["seed", "step", "precision", "quality"])  # fmt: skip
    found, seeds = _correlation(points, "match_error")
    half = stats.t.ppf(0.975, 2) * np.sqrt(1 / 3) / np.sqrt(3)  # the spread of unrelated ranks, which is larger
    assert (found.estimate, found.low, found.high, seeds) == pytest.approx((2.8 / 3, 2.8 / 3 - half, 1.0, 3))
    assert _correlation(points, "psnr")[0].estimate == pytest.approx(-2.8 / 3)
    assert np.isnan(_correlation(points[points["step"] < 2], "psnr")[0].estimate)


def test_leads_over_baselines_by_rotation_add_up(folder: Path):
    run = read_evaluation(folder / "evaluations" / "plain-seed0")
    found = differences_by_rotation(run.images)
    own = found[(found["method"] == "copy") & (found["metric"] == "psnr")]
    whole = differences(run).set_index(["method", "metric"]).loc[("copy", "psnr"), "value"]
    assert own["value"].mean() == pytest.approx(whole)  # as many views in each bin
    assert list(own["rotation_bin"]) == ["0-30", "30-60", "60-90", "90-120"]
    assert (own["low"] < own["value"]).all()
    assert list(own["units"]) == [8, 8, 8, 8]


def test_every_claim_says_what_it_needs():
    assert all(claim.says and claim.needs for claim in CLAIMS)
    assert len(CLAIMS) == len(NAMES)
