"""Which scores can be trusted: verdicts known by hand, laws, and the section that says it."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.evaluation import geometry
from analysis.evaluation.geometry import REWARDED, TOO_FEW, UNCLEAR, WORSE, scores, trust, trusted, verdict
from analysis.evaluation.geometry_section import geometry_section
from analysis.evaluation.geometry_words import title, trust_words
from analysis.evaluation.run import Evaluation
from probe.records import COPY, MATCH_ERROR, MODEL, TRUTH
from probe.records.names import (
    ALL_REFERENCES,
    BLURRED,
    CAMERA_WITHIN,
    CORRUPTIONS,
    GEOMETRY_METHODS,
    NOISE,
    OTHER_SCENE,
    PAIR_METRICS,
    REGISTERED,
    SED,
    SIFT_MATCHES,
)

GOOD = {TRUTH: 1.0, MODEL: 2.0, NOISE: 40.0, COPY: 20.0, OTHER_SCENE: 30.0, BLURRED: 5.0}
SHARES = {TRUTH: 1.0, MODEL: 1.0, NOISE: 0.0, COPY: 0.0, OTHER_SCENE: 0.0, BLURRED: 0.0}


def table(levels: dict[str, dict[str, float]], scenes: int = 12, n_ref: int = 1) -> pd.DataFrame:
    """Rows of one view a scene, whose values swing about their level from scene to scene; shares do not."""
    rows = [
        {"scene": f"s{scene}", "view": 1, "rotation_deg": 10.0, "n_ref": n_ref,
         "reference": 0 if metric in PAIR_METRICS else ALL_REFERENCES, "method": method, "metric": metric,
         "value": level if metric in (REGISTERED, CAMERA_WITHIN) else level * (1 + 0.05 * (-1) ** scene),
         "count": int(not math.isnan(level))}
        for metric, each in levels.items() for method, level in each.items() for scene in range(scenes)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def run_of(rows: pd.DataFrame) -> Evaluation:
    images = rows[(rows["method"] == TRUTH)].assign(metric="psnr", method=MODEL, count=1, value=20.0)
    empty = pd.DataFrame({"metric": [], "value": []})
    return Evaluation(
        name="run", settings={}, environment={}, images=images, summary=empty, worst=empty, geometry=rows
    )  # fmt: skip


def verdicts(rows: pd.DataFrame, metric: str) -> dict[str, str]:
    found = trust(rows)
    return found[found["metric"] == metric].set_index("method")["verdict"].to_dict()


# --- verdicts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "low", "high", "expected"),
    [
        (SED, -3.0, -1.0, WORSE), (SED, 1.0, 3.0, REWARDED), (SED, -1.0, 1.0, UNCLEAR), (SED, 0.0, 0.0, UNCLEAR),
        (REGISTERED, 0.1, 0.9, WORSE), (REGISTERED, -0.9, -0.1, REWARDED), (SED, math.nan, math.nan, TOO_FEW),
    ],
)  # fmt: skip
def test_a_corruption_is_worse_only_where_the_whole_interval_says_so(
    metric: str, low: float, high: float, expected: str
):
    assert verdict(metric, low, high) == expected


def test_a_score_is_trusted_only_where_all_four_corruptions_are_worse():
    rows = table(
        {SED: GOOD, REGISTERED: SHARES, CAMERA_WITHIN: {**SHARES, COPY: 1.0}, MATCH_ERROR: {**GOOD, BLURRED: 0.5}}
    )
    found = trust(rows)
    assert trusted(found) == {SED: True, REGISTERED: True, CAMERA_WITHIN: False, MATCH_ERROR: False}
    assert verdicts(rows, CAMERA_WITHIN)[COPY] == UNCLEAR
    assert verdicts(rows, MATCH_ERROR)[BLURRED] == REWARDED
    assert set(verdicts(rows, SED).values()) == {WORSE}


def test_the_difference_is_paired_and_over_pairs_that_both_have():
    rows = table({SED: GOOD})
    gone = (rows["method"] == NOISE) & (rows["scene"].isin(["s0", "s2"]))
    rows.loc[gone, ["value", "count"]] = [np.nan, 0]
    row = trust(rows).set_index("method").loc[NOISE]
    both = rows[~rows["scene"].isin(["s0", "s2"])]
    mean = {name: both[both["method"] == name]["value"].mean() for name in (TRUTH, NOISE)}
    assert row["value"] == pytest.approx(mean[TRUTH] - mean[NOISE])
    assert (row["units"], row["known"]) == (10, 10)
    assert row["low"] <= row["value"] <= row["high"]


def test_a_corruption_without_values_is_not_shown_to_be_worse():
    rows = table({SED: {**GOOD, NOISE: math.nan}})
    assert verdicts(rows, SED)[NOISE] == TOO_FEW
    assert not trusted(trust(rows))[SED]
    absent = rows[rows["method"] != OTHER_SCENE]
    assert verdicts(absent, SED)[OTHER_SCENE] == TOO_FEW
    assert trust(table({SED: dict.fromkeys(GOOD, math.nan)})).empty


def test_views_of_one_recording_are_one_unit():
    rows = table({SED: GOOD}).assign(unit="kitchen")
    assert set(verdicts(rows, SED).values()) == {TOO_FEW}


@settings(max_examples=8, deadline=None)
@given(scale=st.floats(0.1, 10), seed=st.integers(0, 1000))
def test_verdicts_do_not_depend_on_the_unit_or_the_order_of_rows(scale: float, seed: int):
    rows = table({SED: GOOD, MATCH_ERROR: {**GOOD, COPY: 1.0}})
    other = rows.assign(value=scale * rows["value"]).sample(frac=1, random_state=seed)
    assert trust(rows)["verdict"].tolist() == trust(other)["verdict"].tolist()


def test_means_are_those_of_the_rows_and_count_what_is_missing():
    rows = table({SED: {**GOOD, NOISE: math.nan}, REGISTERED: SHARES})
    means = scores(rows).set_index(["metric", "method"])
    assert list(means.index[:6]) == [(SED, name) for name in GEOMETRY_METHODS]
    assert means.loc[(SED, TRUTH), "value"] == pytest.approx(1.0)
    assert means.loc[(SED, NOISE), ["known", "rows"]].tolist() == [0, 12]
    assert math.isnan(means.loc[(SED, NOISE), "value"])
    share = means.loc[(REGISTERED, NOISE)]
    assert (share["value"], share["low"]) == (0, 0)
    assert 0 < share["high"] < 0.5  # a share's interval, not one of width zero


# --- words -----------------------------------------------------------------------------------------------------------


def test_the_sentences_say_what_the_table_says():
    levels = {
        SED: {**GOOD, NOISE: math.nan, BLURRED: 0.5},
        REGISTERED: SHARES,
        CAMERA_WITHIN: dict.fromkeys(SHARES, 0.0),
    }
    good, bad = (text.replace("\u00a0", " ") for text in trust_words(trust(table(levels))))
    assert good == (
        "With 1 reference camera registered can be trusted here, each by its own intervals: noise, repeated "
        "references, views of another scene and blurred true views score worse than the truth."
    )
    assert "SED (rewarded: blurred true views, too few values: noise)" in bad
    assert "camera within 15° (not separated from the truth: all four corruptions)" in bad
    assert "reprojection error and match error (no value of the truth)" in bad


def test_with_nothing_to_trust_it_says_so():
    good, _ = trust_words(trust(table({SED: dict.fromkeys(GOOD, 1.0)})))
    assert good.startswith("With 1 reference no score of geometry is shown to tell all of noise")
    assert trust_words(trust(table({SED: dict.fromkeys(GOOD, math.nan)})))[0].startswith("No score of geometry has a")


def test_titles_have_their_limits():
    assert title("tsed@2px") == "TSED at 2\u00a0px"
    assert title(CAMERA_WITHIN) == "camera within 15°"


def test_the_section_has_a_claim_a_figure_and_a_table_per_number_of_references():
    levels = {SIFT_MATCHES: GOOD, SED: {**GOOD, NOISE: math.nan}, REGISTERED: SHARES}
    rows = pd.concat([table(levels), table(levels, n_ref=2)], ignore_index=True)
    section = geometry_section(run_of(rows))
    assert section is not None
    assert section.claim.startswith("With 1 reference and 2 references camera registered can be trusted here")
    assert [one.name for one in section.charts] == ["geometry"]
    assert list(section.tables) == ["geometry-1", "geometry-2"]
    cells = {row[0]: row[1:] for row in section.tables["geometry-1"].rows}
    assert cells["SED"][2:] == ("– [0 of 12] ‡", "20.0", "30.0", "5.0", "no")
    assert cells["camera registered"][2:] == ("0.0\u00a0%",) * 4 + ("yes",)
    assert cells["match error"][-1] == "no value"
    assert geometry_section(Evaluation(**{**vars(run_of(rows)), "geometry": None})) is None


def test_without_any_value_there_is_no_figure():
    section = geometry_section(run_of(table({SIFT_MATCHES: GOOD, SED: dict.fromkeys(GOOD, math.nan)})))
    assert section is not None
    assert section.charts == ()
    assert section.claim.startswith("No score of geometry has a value for the true views")


def test_every_corruption_is_checked():
    assert set(trust(table({SED: GOOD}))["method"]) == set(CORRUPTIONS)
    assert geometry.CORRUPTIONS is CORRUPTIONS
