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


def make_run(lead: Lead, *, seeds: int = 4, steps: tuple[int, ...] = STEPS, offset: float = 0.0) -> StudyRun:
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
        name="made", settings={"layer": 10, "evaluate_scenes": 16}, environment={}, study=study,
        summary=average_seeds(study), reach=reach_table(study), seconds=pd.DataFrame(),
        variants=pd.DataFrame({"variant": ["plain", "cameo"], "layer": ["none", "10"]}),
    )  # fmt: skip


def row(run: StudyRun, metric: str = "psnr") -> pd.Series:
    return lasting(run).set_index(["variant", "metric"]).loc[("cameo", metric)]


# --- known -----------------------------------------------------------------------------------------------------------


def test_the_end_is_compared_with_the_last_evaluation_in_the_first_third():
    found = row(make_run(lambda seed, step: step / 100 + 0.1 * (seed % 2) * (step == 600)))
    assert (found["early"], found["end"], found["seeds"]) == (200, 600, 4)
    assert (found["first"], found["last"], found["value"]) == pytest.approx((2, 6.05, 4.05))
    half = 3.182446 * 0.1 / np.sqrt(3) / np.sqrt(4)  # t of three degrees of freedom, and the spread of 0, 0, .1, .1
    assert (found["low"], found["high"]) == pytest.approx((4.05 - half, 4.05 + half), rel=1e-6)
    assert found["verdict"] == "grows"


def test_a_lead_is_above_zero_where_a_run_is_better_whichever_way_the_measure_goes():
    table = leads(make_run(lambda *_: 1.0)).groupby("metric")["lead"].unique().map(list)
    assert table["psnr"] == pytest.approx([1.0])
    assert table["match_error"] == pytest.approx([0.5])


def test_sentences_follow_the_interval():
    run = make_run(lambda seed, step: 2 - step / 600 + 0.02 * seed * (step == 600))
    assert (
        lasting_words(run).replace("\u00a0", " ")
        == "cameo's lead over plain by PSNR: +1.67 dB after 200 steps, +1.03 dB after 600, 3 times as many (change "
        "−0.64 dB, 95 % interval −0.68 to −0.60): it shrinks. It is highest after 100 steps, +1.83 dB, and changes "
        "from there by −0.80 dB, 95 % interval −0.84 to −0.76: a step that is chosen by its height exaggerates a fall. "
        "Of 2 leads (variants and measures), each by an interval of its own, 0 grow and 2 shrink (cameo by PSNR and "
        "cameo by match error); about 1 would do so by chance alone."
    )


# --- laws ------------------------------------------------------------------------------------------------------------


@given(offset=st.floats(-50, 50), change=st.floats(-2, 2))
def test_what_both_runs_have_in_common_drops_out(offset: float, change: float):
    def lead(seed: int, step: int) -> float:
        return (0.5 + 0.1 * seed) * (step > 200) + change * step / 600

    one, other = (lasting(make_run(lead, offset=each)) for each in (0.0, offset))
    numbers = ["first", "last", "value", "low", "high"]
    np.testing.assert_allclose(one[numbers], other[numbers], atol=1e-9)


@pytest.mark.parametrize(("slope", "verdict"), [(1.0, AGAINST), (-1.0, SHOWN), (0.0, NOT_SHOWN)])
def test_that_the_lead_shrinks_is_shown_where_it_does(slope: float, verdict: str, folder: Path):
    run = make_run(lambda seed, step: slope * step / 600 + 0.05 * (seed % 2 - 0.5) * (step == 600))
    parts = read_study(folder).parts
    assert parts is not None
    claim = lasting_claim(run, parts)
    assert claim is not None
    assert claim.verdict == verdict
    assert claim.section.claim.startswith("cameo's lead over plain by PSNR")
    assert claim.section.tables["lasting"].marked == ((0, 1) if slope < 0 else ())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_paper(tmp_path_factory.mktemp("runs") / "paper", paper=Paper(parts=()))


def test_a_seed_without_one_of_the_two_does_not_count():
    run = make_run(lambda seed, step: step / 600 + 0.01 * seed)
    missing = (run.study["seed"] == 3) & (run.study["step"] == 200) & (run.study["metric"] == "psnr")
    run = replace(run, study=run.study.assign(value=run.study["value"].mask(missing)))
    assert (row(run)["seeds"], row(run, "match_error")["seeds"]) == (3, 4)


# --- what is absent --------------------------------------------------------------------------------------------------


def test_without_an_early_evaluation_there_is_no_row_and_no_sentence():
    run = make_run(lambda *_: 1.0, steps=(300, 600))
    assert lasting(run).empty
    assert lasting_words(run) == ""


def test_two_seeds_tell_nothing():
    run = make_run(lambda _, step: step / 600, seeds=2)
    assert set(lasting(run)["verdict"]) == {"too few seeds"}
    assert lasting_words(run).endswith("too few seeds to tell.")
    assert "interval" not in lasting_words(run)


def test_a_lead_that_is_highest_at_the_end_is_not_said_to_fall():
    assert "highest" not in lasting_words(make_run(lambda seed, step: step / 600 + 0.01 * seed))
