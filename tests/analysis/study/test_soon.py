"""Laws of how soon a variant is where plain ends: symmetric, nothing dropped, bounds kept, verdicts hold jointly."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis.study import words
from analysis.study.figures import step_ratios
from analysis.study.run import StudyRun
from analysis.study.seeds import FinishedRun, study_tables
from analysis.study.soon import compare_steps, family_words, how_soon, in_half, seed_ratios
from benchmarks.how_soon import Benchmark, measure

STEPS = (10, 20, 30)
Curves = Mapping[str, Sequence[Sequence[float]]]
"""Of each variant one curve a seed."""


def study(metric: str = "psnr", steps: Sequence[int] = STEPS, **curves: Sequence[Sequence[float]]) -> StudyRun:
    """Make the study of some curves, one a seed, by one metric."""
    runs = [
        FinishedRun(
            variant=variant,
            seed=seed,
            settings={"layer": "none" if variant == "plain" else "12"},
            values=pd.DataFrame({"step": steps, "metric": metric, "value": curve}),
        )
        for variant, seeds in curves.items()
        for seed, curve in enumerate(seeds)
    ]
    tables = study_tables(runs)
    return StudyRun(name="study", settings={}, environment={}, study=tables.study, summary=tables.summary,
                    reach=tables.reach, variants=tables.settings, seconds=pd.DataFrame())  # fmt: skip


def row(run: StudyRun, variant: str = "cameo") -> pd.Series:
    table = how_soon(run)
    return table[table["variant"] == variant].iloc[0]


def pace(own: Sequence[float], plain: Sequence[float], *, higher: bool = True) -> tuple[float, bool, bool]:
    compared = compare_steps(
        np.array(STEPS, dtype=float), np.array(own, dtype=float), np.array(plain, dtype=float), higher=higher
    )
    assert compared is not None
    return compared


@pytest.mark.parametrize(
    ("own", "plain", "expected"),
    [
        ((8, 12, 14), (6, 8, 10), (15 / 30, False, False)),  # plain's last value, 10, halfway from 10 to 20
        ((6, 8, 10), (8, 12, 14), (30 / 15, False, False)),  # it never is there: plain is at its last value by 15
        ((11, 12, 13), (6, 8, 10), (10 / 30, True, False)),  # at most: by the first evaluation
        ((6, 8, 10), (11, 12, 13), (30 / 10, False, True)),  # at least
        ((10, 9, 11), (12, 9, 10), (1, True, True)),  # neither
        ((6, 10, 10), (6, 9, 10), (20 / 30, False, False)),
    ],
)
def test_steps_over_plains_by_hand(own: Sequence[float], plain: Sequence[float], expected: tuple[float, bool, bool]):
    assert pace(own, plain) == pytest.approx(expected)
    assert pace([-v for v in own], [-v for v in plain], higher=False) == pytest.approx(expected)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=3, max_size=3))
@settings(deadline=None)
def test_two_runs_that_change_places_have_the_inverse_ratio(pairs: list[tuple[int, int]]):
    """So for a variant identical to plain the logarithm is symmetric about 0."""
    own, plain = ([float(pair[n]) for pair in pairs] for n in (0, 1))
    ratio, at_most, at_least = pace(own, plain)
    inverse = pace(plain, own)
    assert (1 / ratio, at_least, at_most) == pytest.approx(inverse)


def test_the_interval_is_students_t_on_logarithms_and_joint_over_a_family():
    plain = [(0, 10, 20, 30)] * 4
    fast = [(0, a, 30, 31) for a in (10, 12, 14, 16)]
    run = study(steps=(10, 20, 30, 40), plain=plain, cameo=fast, mean=fast)
    logs = np.log([(20 + 10 * (30 - a) / (30 - a)) / 40 for a in (10, 12, 14, 16)])
    assert row(run)["ratio"] == pytest.approx(np.exp(logs.mean()))
    bent = [(0, a, 28 + a / 10, 31) for a in (10, 12, 24, 28)]
    run = study(steps=(10, 20, 30, 40), plain=plain, cameo=bent, mean=bent, visible=bent)
    logs = np.log([(30 + 10 * (30 - c) / (31 - c)) / 40 if c < 30 else (20 + 10 * (30 - a) / (c - a)) / 40
                   for _, a, c, _ in bent])  # fmt: skip
    for variant, compared in (("cameo", 1), ("mean", 2)):  # the paper's method by itself, all others together
        found = row(run, variant)
        for level, low, high in ((0.95, "low", "high"), (1 - 0.05 / compared, "joint_low", "joint_high")):
            ends = stats.ttest_1samp(logs, 0).confidence_interval(level)
            assert found[[low, high]].tolist() == pytest.approx(np.exp([ends.low, ends.high]).tolist())


def test_the_spread_is_at_least_that_of_plain_against_plain():
    """Three equal ratios of three seeds would have an interval of no width; the plain runs say how far luck goes."""
    run = study(plain=[(8, 10, 12), (9, 11, 13), (10, 12, 14)], cameo=[(9, 12, 14), (10, 13, 15), (11, 14, 16)])
    found = row(run)
    logs = np.log([30 / 25, 30 / 25, 30 / 20])  # of the three pairs of plain runs
    spread = np.sqrt(np.mean(logs**2))
    half = stats.t.ppf(0.975, 2) * spread / np.sqrt(3)
    assert found["null_factor"] == pytest.approx(np.exp(spread))
    assert found[["ratio", "high"]].tolist() == pytest.approx([2 / 3, 2 / 3 * np.exp(half)])
    assert found["verdict"] == "not separated"


def test_plain_in_the_variants_place_is_the_null():
    run = study(plain=[(6, 8, 10), (6, 9, 11), (6, 8, 12)], cameo=[(8, 12, 14)] * 3)
    shares = [(20 + 10 / 2) / 30, (20 + 10 * 2 / 4) / 30, 1, (20 + 10 * 3 / 4) / 30, 1, 1]
    found = row(run)
    assert found["null_share"] == pytest.approx(np.mean(shares))
    assert found["null_reached"] == 0.5
    assert words.null_text(found) == f"≥ {np.mean(shares):.2f}"


def test_a_seed_that_never_reaches_plains_value_is_not_dropped():
    """Two seeds in half the steps and one that is never there: no lead is claimed, and the third one counts."""
    slow = (6, 8, 9)
    run = study(plain=[(6, 8, 10)] * 3, cameo=[(8, 12, 14), (8, 12, 14), slow])
    found = row(run)
    assert found["ratio"] == pytest.approx(np.exp(np.mean(np.log([0.5, 0.5, 30 / 25]))))
    assert found["verdict"] == "not separated"
    assert words.share_text(found) == "≥ 0.67 (2/3)"
    assert "half the steps" in words.answer(run)[1]
    assert "not shown" in words.answer(run)[1]


def test_by_the_first_evaluation_is_a_bound():
    found = row(study(plain=[(6, 8, 10)] * 3, cameo=[(11, 12, 13)] * 3))
    assert (words.ratio_text(found), words.ends_text(found["low"], found["high"])) == ("≤ 0.34", "below 0.34")
    assert (found["verdict"], in_half(found)) == ("sooner", True)
    found = row(study(plain=[(11, 12, 13)] * 3, cameo=[(6, 8, 10)] * 3))
    assert (words.ratio_text(found), words.ends_text(found["low"], found["high"])) == ("≥ 3.00", "above 3.00")
    assert found["verdict"] == "later"
    found = row(study(plain=[(11, 9, 10)] * 3, cameo=[(12, 11, 13)] * 3))
    assert (words.ratio_text(found), words.ends_text(found["low"], found["high"])) == ("? 1.00", "open")
    assert found["verdict"] == "not separated"


@pytest.mark.parametrize(
    ("ratio", "at_most", "at_least", "text"),
    [
        (1 / 3, True, False, "≤ 0.34"),
        (8 / 3, False, True, "≥ 2.66"),
        (0.5, True, False, "≤ 0.50"),
        (8 / 3, False, False, "2.67"),
    ],
)
def test_a_bound_is_rounded_away_from_what_it_excludes(ratio: float, at_most: bool, at_least: bool, text: str):
    assert words.ratio_text(SimpleNamespace(ratio=ratio, at_most=at_most, at_least=at_least)) == text


def test_half_the_steps_needs_the_whole_interval():
    """.48, .49 and .5 of the steps: sooner, below half on average, and not shown to be."""
    curves = [(9.6, 10.4, 12), (9.5, 10.5, 12), (9.1, 10.0, 12)]
    steps = (14, 15, 30)
    run = study(steps=steps, plain=[(6, 8, 10)] * 3, cameo=curves)
    found = row(run)
    assert found["ratio"] < 0.5 < found["joint_high"] < 1
    assert (found["verdict"], in_half(found)) == ("sooner", False)
    assert f"({words.ratio_text(found)}); half the steps, as the paper claims, is not shown" in words.answer(run)[1]
    run = study(steps=steps, plain=[(6, 8, 10)] * 3, cameo=[(9, 12, 14)] * 3)
    assert in_half(row(run))
    assert "In half the steps or less, as the paper claims" in words.answer(run)[1]


def test_two_seeds_give_a_ratio_and_no_verdict():
    found = row(study(plain=[(6, 8, 10)] * 2, cameo=[(8, 12, 14)] * 2))
    assert (found["ratio"], found["verdict"]) == (pytest.approx(0.5), "too few seeds")
    assert found[["low", "high", "joint_low", "joint_high"]].isna().all()
    alone = row(study(plain=[(6, 8, 10)], cameo=[(8, 12, 14)]))
    assert (alone["verdict"], words.null_text(alone)) == ("too few seeds", "–")


def test_more_comparisons_make_wider_joint_intervals():
    plain = [(6, 8, 10), (6, 8, 10.1), (6, 8, 10.2)]
    cameo = [(8, 12, 14), (8, 12.5, 14), (8, 12.2, 14)]
    one = row(study(plain=plain, mean=cameo), "mean")
    run = study(plain=plain, cameo=cameo, mean=cameo, **{f"other-{n}": cameo for n in range(9)})
    ten, papers = row(run, "mean"), row(run)
    assert papers[["joint_low", "joint_high"]].tolist() == one[["low", "high"]].tolist()
    assert family_words(how_soon(run)) == "1 measure of cameo, and for 10 comparisons of the other variants"
    assert ten[["low", "high"]].tolist() == one[["low", "high"]].tolist()
    assert ten["joint_low"] < one["joint_low"] == one["low"] < one["high"] == one["joint_high"] < ten["joint_high"]


def test_a_figure_draws_open_ends_to_its_edge_and_every_seed():
    curves = {"plain": [(6, 8, 10), (6, 9, 11), (11, 8, 10)], "cameo": [(11, 12, 13), (8, 12, 14), (6, 8, 9)]}
    run = study(**curves)
    named = {"variant": "who", "metric": "panel"}
    svg = step_ratios(
        how_soon(run).rename(columns=named), seed_ratios(run).rename(columns=named), titles={"psnr": "PSNR"},
        order=["cameo"], goal=0.5, alt="ratios",
    )  # fmt: skip
    assert 'aria-label="ratios"' in svg
    assert all(text in svg for text in ("PSNR", "cameo", "½"))


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(("shape", "luck"), [("rising", 0.05), ("saturated", 0.2), ("flat", 0.0)])
def test_a_variant_identical_to_plain_is_hardly_ever_called_sooner(shape: str, luck: float):
    """At most .05 of studies may say anything of any of six metrics; the former rule claimed half the steps in most."""
    before, after = measure(shape, 5, 1.0, Benchmark(studies=40, luck=luck))
    assert after.sooner + after.later <= 0.05
    assert after.half == 0
    if shape == "flat":
        assert before.half > 0.5


@pytest.mark.slow
def test_a_variant_that_takes_half_the_steps_is_found():
    _, after = measure("rising", 5, 2.0, Benchmark(studies=20))
    assert after.sooner > 0.5
    assert after.half <= 0.05  # exactly half is not shown to be at most half
    assert measure("rising", 5, 4.0, Benchmark(studies=20))[1].half > 0.3
