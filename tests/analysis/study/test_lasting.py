"""Laws of the lead over plain in a long run: what is compared with what, and sentences that follow intervals."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from papers import Paper, make_paper

from analysis.study.claims.claim import AGAINST, NOT_SHOWN, SHOWN
from analysis.study.claims.lasting import lasting, lasting_claim, lasting_words, leads
from analysis.study.run import StudyRun, read_study
from analysis.study.seeds import average_seeds, reach_table

STEPS = (100, 200, 300, 600)
Lead = Callable[[int, int], float]
"""Of a seed and a step, in dB."""


def make_run(
    lead: Lead, *, seeds: int = 4, steps: tuple[int, ...] = STEPS, offset: float = 0.0, ramp: int = 0
) -> StudyRun:
    """Return a study whose supervised runs have a lead by PSNR, and half of it by match error, where less is better."""
    rows = []
    for seed in range(seeds):
        for step in steps:
            plain = 10 + offset + 0.01 * step + seed
            for variant, own in (("plain", 0.0), ("cameo", lead(seed, step))):
                values = {"psnr": plain + own, "match_error": 1 - own / 2}
                rows += [(variant, seed, step, metric, value) for metric, value in values.items()]
    study = pd.DataFrame(rows, columns=["variant", "seed", "step", "metric", "value"])
    return StudyRun(
        name="made", settings={"layer": 10, "evaluate_scenes": 16, "rotation_ramp": ramp}, environment={}, study=study,
        summary=average_seeds(study), reach=reach_table(study), seconds=pd.DataFrame(),
        variants=pd.DataFrame({"variant": ["plain", "cameo"], "layer": ["none", "10"]}),
    )  # fmt: skip


def row(run: StudyRun, metric: str = "psnr", times: int = 3) -> pd.Series:
    return lasting(run).set_index(["times", "variant", "metric"]).loc[(times, "cameo", metric)]


# --- known -----------------------------------------------------------------------------------------------------------


def test_the_end_is_compared_with_the_last_evaluation_of_the_first_third_and_of_the_first_half():
    run = make_run(lambda seed, step: step / 100 + 0.1 * (seed % 2) * (step == 600))
    third, half = row(run), row(run, times=2)
    assert (third["early"], third["end"], third["seeds"]) == (200, 600, 4)
    assert (third["first"], third["last"], third["value"]) == pytest.approx((2, 6.05, 4.05))
    spread = 3.182446 * 0.1 / np.sqrt(3) / np.sqrt(4)  # t of three degrees of freedom, and the spread of 0, 0, .1, .1
    assert (third["low"], third["high"]) == pytest.approx((4.05 - spread, 4.05 + spread), rel=1e-6)
    assert third["verdict"] == "rises"
    assert (half["early"], half["first"], half["value"]) == (300, pytest.approx(3), pytest.approx(3.05))


def test_nothing_is_compared_before_the_end_of_the_ramp():
    assert list(lasting(make_run(lambda *_: 1.0, ramp=250))["early"]) == [300, 300]
    assert lasting(make_run(lambda *_: 1.0, ramp=301)).empty


def test_a_lead_is_above_zero_where_a_run_is_better_whichever_way_the_measure_goes():
    table = leads(make_run(lambda *_: 1.0)).groupby("metric")["lead"].unique().map(list)
    assert table["psnr"] == pytest.approx([1.0])
    assert table["match_error"] == pytest.approx([0.5])


def test_sentences_follow_the_intervals():
    run = make_run(lambda seed, step: 2 - step / 600 + 0.02 * seed * (step == 600), ramp=50)
    assert (
        lasting_words(run).replace("\u00a0", " ")
        == "cameo minus plain by PSNR: +1.03 dB after 600 steps; +1.67 dB after 200 (the run is 3 times as long; "
        "change −0.64 dB, 95 % interval −0.68 to −0.60): it falls; +1.50 dB after 300 (the run is 2 times as long; "
        "change −0.47 dB, 95 % interval −0.51 to −0.43): it falls. Of all variants and measures, from a third of the "
        "steps on 0 of 2 leads rise and 2 fall (cameo by PSNR and cameo by match error) and from half of the steps on "
        "0 of 2 leads rise and 2 fall (cameo by PSNR and cameo by match error); each by an interval of its own, fewer "
        "than 1 would be by chance."
    )


# --- laws ------------------------------------------------------------------------------------------------------------


@given(offset=st.floats(-50, 50), change=st.floats(-2, 2))
def test_what_both_runs_have_in_common_drops_out(offset: float, change: float):
    def lead(seed: int, step: int) -> float:
        return (0.5 + 0.1 * seed) * (step > 200) + change * step / 600

    one, other = (lasting(make_run(lead, offset=each)) for each in (0.0, offset))
    numbers = ["first", "last", "value", "low", "high"]
    np.testing.assert_allclose(one[numbers], other[numbers], atol=1e-9)


def luck(seed: int, step: int) -> float:
    return 0.05 * (seed % 2 - 0.5) * (step == 600)


@pytest.mark.parametrize(
    ("lead", "verdict", "marked"),
    [
        (lambda step: step / 600, AGAINST, ()),
        (lambda step: 2 - step / 600, SHOWN, (0, 1, 2, 3)),
        (lambda step: 1.0, NOT_SHOWN, ()),
        (lambda step: {100: 0.2, 200: 0.5, 300: 3.0, 600: 0.6}[step], SHOWN, (2, 3)),  # only the second half falls
        (lambda step: -step / 600, NOT_SHOWN, (0, 1, 2, 3)),  # behind plain all along: there is no lead to lose
    ],
)
def test_that_the_lead_falls_is_shown_where_it_does(lead: Callable, verdict: str, marked: tuple, folder: Path):
    run = make_run(lambda seed, step: lead(step) + luck(seed, step), ramp=100)
    parts = read_study(folder).parts
    assert parts is not None
    claim = lasting_claim(run, parts)
    assert claim is not None
    assert claim.verdict == verdict
    assert claim.section.claim.startswith("cameo minus plain by PSNR: ")
    assert claim.section.tables["lasting"].marked == marked
    assert "Nothing before step 100 is compared" in claim.section.text
    assert claim.section.text == claim.section.text.strip()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_paper(tmp_path_factory.mktemp("runs") / "paper", paper=Paper(parts=()))


def test_a_seed_without_one_of_the_two_does_not_count_and_the_step_of_most_seeds_is_taken():
    run = make_run(lambda seed, step: step / 600 + 0.01 * seed)
    lost = (run.study["seed"] > 0) & (run.study["step"] == 200) & (run.study["metric"] == "psnr")
    run = replace(run, study=run.study.assign(value=run.study["value"].mask(lost)))
    assert (row(run)["seeds"], row(run)["early"]) == (4, 100)
    assert (row(run, "match_error")["seeds"], row(run, "match_error")["early"]) == (4, 200)
    last = (run.study["seed"] == 3) & (run.study["step"] == 600)
    run = replace(run, study=run.study.assign(value=run.study["value"].mask(last, np.inf)))
    assert row(run)["seeds"] == 3


def test_the_papers_variant_leads_and_one_that_stops_is_left_out():
    run = make_run(lambda *_: 1.0)
    others = [run.study[run.study["variant"] == "cameo"].assign(variant=name) for name in ("mean", "stopped")]
    settings = pd.DataFrame({
        "variant": ["plain", "mean", "stopped", "cameo"], "layer": ["none", "10", "10", "10"],
        "weight_schedule": ["constant", "constant", "off", "constant"],
    })  # fmt: skip
    run = replace(run, study=pd.concat([*others, run.study]), variants=settings)
    assert list(dict.fromkeys(lasting(run)["variant"])) == ["cameo", "mean"]


# --- what is absent --------------------------------------------------------------------------------------------------


def test_without_an_early_evaluation_there_is_no_row_and_no_sentence():
    run = make_run(lambda *_: 1.0, steps=(400, 600))
    assert lasting(run).empty
    assert lasting_words(run) == ""


def test_two_seeds_tell_nothing():
    run = make_run(lambda _, step: step / 600, seeds=2)
    assert set(lasting(run)["verdict"]) == {"too few seeds"}
    assert lasting_words(run).endswith("too few seeds to tell.")
    assert "interval" not in lasting_words(run)
