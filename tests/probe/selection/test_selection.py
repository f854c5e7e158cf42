"""Laws of choosing the layer, on hand-made score tables."""

import json
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.records import CEILING, COMMON_GRID, SAME_POSITION, SCORE_COLUMNS, UNIFORM, summarise
from probe.selection import layer_table, select_layer

METRIC = "precision@5%"
COLUMNS = [
    "layer", "name", "grid_h", "grid_w", "precision", "precision_low", "precision_high", "chance", "same_position",
    "ceiling", "share_of_ceiling", "mass_true", "causal_effect", "count",
]  # fmt: skip
GRIDS = {"16x16": 1.0, "8x8": 0.5, "4x4": 0.1}


def row(**changes: object) -> dict[str, object]:
    """One row of the score table: pair 0-1 of a scene, from the target to the reference, all heads together."""
    plain = {"model": "m", "step": -1, "scene": "s0", "unit": "s0", "pair": "s0:0-1", "query_view": 1, "key_view": 0,
             "direction": "tgt-ref", "rotation_deg": 10.0, "layer": 0, "layer_name": "", "grid": "16x16", "head": -1,
             "timestep": 500, "protocol": "attention-v1", "pair_list": "abc", "metric": METRIC, "value": 0.5,
             "count": 100}  # fmt: skip
    assert set(plain) == set(SCORE_COLUMNS)
    assert set(changes) <= set(plain)
    return plain | {"unit": changes.get("scene", "s0")} | changes


def table_of(
    layers: Mapping[int, tuple[str, Sequence[float]]],
    *,
    ceilings: Mapping[str, float] = GRIDS,
    chance: float | None = 0.01,
    metric: str = METRIC,
    **changes: object,
) -> pd.DataFrame:
    """A score table: each layer's grid and its precision in each scene, with the references of every grid."""
    rows = [
        row(layer=index, layer_name=f"blocks.{index}", grid=grid, scene=f"s{n}", value=value, metric=metric, **changes)
        for index, (grid, values) in layers.items()
        for n, value in enumerate(values)
    ]
    scenes = sorted({str(r["scene"]) for r in rows})
    null = {"layer": -1, "timestep": -1, "metric": metric, **changes}
    for grid in {grid for grid, _ in layers.values()}:
        for scene in scenes:
            if grid in ceilings:
                rows.append(row(model=CEILING, grid=grid, scene=scene, value=ceilings[grid], **null))
            if chance is not None:
                rows.append(row(model=UNIFORM, grid=grid, scene=scene, value=chance, **null))
                rows.append(row(model=SAME_POSITION, grid=grid, scene=scene, value=2 * chance, **null))
    return pd.DataFrame(rows)


STEADY = [0.30, 0.32, 0.31, 0.29, 0.33]


def test_chance_of_a_layer_is_over_its_own_queries_where_it_has_some():
    """Else it is that of its grid; an earlier training step does not count."""
    table = table_of({2: ("16x16", times(1.0)), 5: ("16x16", times(0.8)), 9: ("8x8", times(0.1))}, step=7)
    own = [
        row(model=model, layer=5, scene=f"s{n}", timestep=t, step=step, value=level + 0.01 * n, count=10 + n)
        for model, level in ((UNIFORM, 0.1), (SAME_POSITION, 0.2))
        for n in range(5)
        for t in (500, 900)
        for step in (3, 7)
    ]
    old = pd.DataFrame(own).assign(value=lambda x: x["value"].where(x["step"] == 7, 0.9))
    found = select_layer(pd.concat([table, old], ignore_index=True), model="m")
    by_layer = {c.layer: (c.chance, c.same_position) for c in (found.best, *found.runners_up)}
    assert by_layer[5] == pytest.approx((0.12, 0.22))
    assert by_layer[2] == by_layer[9] == pytest.approx((0.01, 0.02))
    assert select_layer(pd.concat([table, old], ignore_index=True)).model == "m"  # references are no probed model
    layers = layer_table(pd.concat([table, old], ignore_index=True), found).set_index("layer")
    assert layers["chance"].tolist() == pytest.approx([0.01, 0.12, 0.01])


def test_the_share_of_the_ceiling_is_the_ratio_of_means():
    """Not the mean of the scenes' ratios, which a scene of a low ceiling would rule; so is its interval."""
    values, limits = [0.05, 0.2, 0.3, 0.4, 0.1], [0.1, 0.9, 0.8, 1.0, 0.6]
    table = table_of({2: ("16x16", values), 5: ("8x8", times(0.01))})
    for n, limit in enumerate(limits):
        here = (table["model"] == CEILING) & (table["grid"] == "16x16") & (table["scene"] == f"s{n}")
        table.loc[here, "value"] = limit
    best = select_layer(table, model="m").best
    assert (best.layer, best.ceiling) == (2, pytest.approx(np.mean(limits)))
    assert best.share_of_ceiling == pytest.approx(np.mean(values) / np.mean(limits))
    assert best.share_of_ceiling != pytest.approx(np.mean(np.divide(values, limits)), rel=0.02)
    assert best.low <= best.share_of_ceiling <= best.high


def times(factor: float) -> list[float]:
    return [factor * value for value in STEADY]


# The best


def test_the_best_is_best_by_share_of_its_grids_ceiling():
    """The fine grid's precision is higher, the coarse one's share of what it can reach."""
    found = select_layer(table_of({2: ("16x16", times(1.0)), 5: ("8x8", times(0.8)), 9: ("16x16", times(0.9))}))
    assert (found.layer, found.name) == (5, "blocks.5")
    assert found.best.precision == pytest.approx(0.31 * 0.8)
    assert found.best.share_of_ceiling == pytest.approx(0.31 * 0.8 / 0.5)
    assert (found.best.ceiling, found.best.chance, found.best.same_position) == pytest.approx((0.5, 0.01, 0.02))
    assert [candidate.layer for candidate in found.runners_up] == [2, 9]
    assert found.ties == ()
    assert found.above_chance
    assert (found.metric, found.direction, found.protocol) == (METRIC, "tgt-ref", "attention-v1")
    assert (found.model, found.pair_list, found.timesteps, found.scenes) == ("m", "abc", (500,), 5)


def test_layers_not_above_chance_come_last():
    """A share of a low ceiling is soon high by chance: 0.05 of 0.1 is half, but the interval goes down to 0."""
    noisy = [0.0, 0.0, 0.0, 0.0, 0.25]
    found = select_layer(table_of({3: ("4x4", noisy), 4: ("16x16", times(1.0)), 5: ("16x16", times(0.5))}))
    assert [found.layer, *(candidate.layer for candidate in found.runners_up)] == [4, 5, 3]
    assert found.runners_up[1].share_of_ceiling == pytest.approx(0.5)
    assert found.ties == (3,)


def test_a_layer_above_the_strongest_null_comes_before_one_above_chance_alone():
    """The coarse layer has the greater share of its ceiling, .6, but same position explains its precision of .06."""
    scores = table_of({3: ("4x4", [0.05, 0.06, 0.07, 0.06, 0.06]), 4: ("16x16", times(1.0))})
    still = (scores["model"] == SAME_POSITION) & (scores["grid"] == "4x4")
    scores.loc[still, "value"] = [0.06, 0.05, 0.06, 0.07, 0.06]
    found = select_layer(scores)
    coarse = found.runners_up[0]
    assert (found.layer, coarse.layer) == (4, 3)
    assert coarse.share_of_ceiling > found.best.share_of_ceiling
    assert (coarse.above_chance, coarse.above_null) == (True, False)


def test_no_layer_above_chance_is_said():
    found = select_layer(table_of({3: ("16x16", times(1)), 4: ("16x16", times(0.5))}, chance=0.4))
    assert found.layer == 3
    assert not found.above_chance
    assert not found.above_null
    doubt = "No layer was shown to find correspondence beyond same position: the lead of layer 3 is -49.0 points"
    assert found.evidence.startswith(doubt)
    assert "shown to find" not in select_layer(table_of({3: ("16x16", times(1))})).evidence


def test_ties_are_layers_whose_paired_difference_has_zero_in_its_interval():
    """Layer 4 is worse in every scene, by little; layer 5 now better, now worse; both have one interval apart."""
    best = np.array([0.2, 0.4, 0.6, 0.8, 0.3, 0.7])
    found = select_layer(
        table_of({3: ("16x16", best), 4: ("16x16", best - 0.06), 5: ("16x16", best[[1, 0, 3, 2, 5, 4]] - 0.01)})
    )
    assert found.layer == 3
    assert found.ties == (5,)
    assert not found.ahead
    assert found.best.low < found.runners_up[0].precision < found.best.high
    assert "not separable from layer 5." in found.evidence


def test_ahead_of_every_other_needs_another_and_enough_units():
    two = {3: ("16x16", times(1)), 4: ("16x16", times(0.5))}
    assert select_layer(table_of(two)).ahead
    assert select_layer(table_of(two)).evidence.endswith("ahead of every other layer.")
    alone = select_layer(table_of({3: ("16x16", times(1))}))
    assert not alone.ahead
    assert alone.evidence.endswith("the only layer that was measured.")
    few = select_layer(table_of({layer: (grid, values[:4]) for layer, (grid, values) in two.items()}))
    assert not few.ahead
    assert few.evidence.startswith(
        "Nothing can be claimed: it rests on 4 independent units, and an interval needs 5; raise --pairs, or add "
        "scenes or recordings. Layer 3"
    )


def test_scenes_of_one_recording_are_one_unit():
    scores = table_of({3: ("16x16", times(1) * 2), 4: ("16x16", times(0.5) * 2)})
    assert select_layer(scores).units == 10
    halved = scores.assign(unit=scores["scene"].map({f"s{n}": f"recording {n // 3}" for n in range(10)}))
    found = select_layer(halved)
    assert (found.scenes, found.units) == (10, 4)
    assert math.isnan(found.best.low)
    assert layer_table(halved, found)["units"].tolist() == [4, 4]


def test_claims_hold_for_all_layers_at_once():
    """Twelve layers, the best of which is a little ahead of its null: its interval alone lies above, the joint not."""
    noise = np.random.default_rng(3).normal(0, 0.04, (12, 8))
    noise -= noise.mean(1, keepdims=True)
    values = 0.3 + noise + np.linspace(0, 0.045, 12)[:, None]
    layers = {index: ("16x16", list(row)) for index, row in enumerate(values)}
    found = select_layer(table_of(layers, chance=0.15))  # the same position is at .3
    assert found.best.layer == 11
    assert found.best.null == "same position"
    assert found.best.lead == pytest.approx(0.045)
    alone = pd.DataFrame({"g": 0, "scene": [f"s{k}" for k in range(8)], "value": values[11] - 0.3, "count": 1})
    assert summarise(alone, ["g"], shares=False)["low"].item() > 0 > found.best.lead_low
    assert found.above_chance
    assert not found.above_null
    two = select_layer(table_of({10: layers[0], 11: layers[11]}, chance=0.15))
    assert two.best.lead_low > found.best.lead_low


def test_ties_hold_for_all_pairs_of_layers_at_once():
    """A layer that is worse by an interval of its own ties where twelve are compared."""
    noise = np.random.default_rng(5).normal(0, 0.03, (12, 8))
    noise -= noise.mean(1, keepdims=True)
    values = 0.4 + noise - np.array([0.0, *[0.06] * 11])[:, None]
    layers = {index: ("16x16", list(row)) for index, row in enumerate(values)}
    many = select_layer(table_of(layers))
    assert many.layer == 0
    alone = [k for k in range(1, 12) if not select_layer(table_of({0: layers[0], k: layers[k]})).ties]
    assert set(alone) & set(many.ties)


def test_the_null_to_beat_is_the_strongest_that_was_measured():
    scores = table_of({3: ("16x16", times(1)), 4: ("16x16", times(0.5))})
    assert select_layer(scores).best.null == "same position"
    blind = scores[scores["layer"] >= 0].assign(model="m: cameras only")
    parts = [blind.assign(value=blind["value"] * share) for share in (0.01, 1)]
    weak, strong = (select_layer(pd.concat([scores, part])) for part in parts)
    assert (weak.best.null, weak.above_null) == ("same position", True)
    assert (strong.best.null, strong.above_null, strong.above_chance) == ("cameras only", False, True)
    assert strong.best.cameras_only == pytest.approx(0.31)
    assert strong.best.lead == 0
    assert strong.best.lead_low <= 0
    assert strong.evidence.startswith("No layer was shown to find correspondence beyond cameras only")


def test_cameras_only_is_compared_at_its_own_timesteps():
    scores = table_of({3: ("16x16", times(1)), 4: ("16x16", times(0.5))})
    late = scores[scores["layer"] >= 0].assign(timestep=900)
    late["value"] *= 0.1
    blind = scores[scores["layer"] >= 0].assign(model="m: cameras only")
    blind["value"] *= 0.8
    best = select_layer(pd.concat([scores, late, blind])).best
    assert best.precision == pytest.approx(0.31 * 0.55)
    assert best.null == "cameras only"
    assert best.lead == pytest.approx(0.31 * 0.2)


@pytest.mark.parametrize(("others", "told"), [(6, "layers 1, 2, 3, 4, 5, 6."), (7, "7 other layers.")])
def test_the_evidence_names_few_ties_and_counts_many(others: int, told: str):
    found = select_layer(table_of({layer: ("16x16", times(1)) for layer in range(others + 1)}))
    assert len(found.ties) == others
    assert found.evidence.endswith(f"not separable from {told}")


def test_a_tie_in_the_score_itself_goes_to_the_first_layer():
    found = select_layer(table_of({7: ("16x16", STEADY), 3: ("16x16", STEADY)}))
    assert found.layer == 3
    assert found.ties == (7,)


@settings(max_examples=8, deadline=None)
@given(
    values=st.lists(st.lists(st.floats(0, 1), min_size=5, max_size=5), min_size=1, max_size=4),
    grids=st.lists(st.sampled_from(sorted(GRIDS)), min_size=4, max_size=4),
    seed=st.integers(0, 1000),
)
def test_laws_of_selection(values: list[list[float]], grids: list[str], seed: int):
    scores = table_of({index: (grid, v) for index, (grid, v) in enumerate(zip(grids, values, strict=False))})
    found = select_layer(scores)
    ranked = [found.best, *found.runners_up]
    assert sorted(candidate.layer for candidate in ranked) == list(range(len(values)))
    for candidate in ranked:
        assert candidate.low - 1e-9 <= candidate.share_of_ceiling <= candidate.high + 1e-9
        assert candidate.share_of_ceiling == pytest.approx(candidate.precision / GRIDS[candidate.grid])
    assert set(found.ties) <= {candidate.layer for candidate in found.runners_up}
    shuffled = scores.sample(frac=1, random_state=seed)
    again = select_layer(shuffled)
    assert [c.layer for c in (again.best, *again.runners_up)] == [candidate.layer for candidate in ranked]
    assert again.ties == found.ties


def test_pairs_and_scenes_weigh_by_their_count():
    """A ratio of sums: 30 + 500 hits of 40 + 2000, not the mean of the scenes' ratios."""
    rows = [
        row(scene="s0", pair="s0:0-1", value=1.0, count=30),
        row(scene="s0", pair="s0:0-2", query_view=2, value=0.0, count=10),
        row(scene="s1", pair="s1:0-1", value=0.25, count=1000),
        row(scene="s1", pair="s1:0-1", timestep=100, value=0.25, count=1000),
    ]
    found = select_layer(pd.DataFrame(rows))
    assert found.best.precision == pytest.approx(530 / 2040)
    assert found.timesteps == (100, 500)


# What is left out


def test_other_rows_cannot_matter():
    scores = table_of({3: ("16x16", times(1)), 5: ("16x16", times(0.9))})
    noise = [
        row(layer=5, head=0, value=1.0),
        row(layer=5, metric="precision@10%", value=1.0),
        row(layer=5, direction="ref-tgt", query_view=0, key_view=1, value=1.0),
        row(layer=5, protocol="attention-v1" + COMMON_GRID, value=1.0),
        row(layer=5, model="m: random weights", value=1.0),
        row(layer=-1, model="dsift", value=1.0),
    ]
    assert repr(select_layer(pd.concat([scores, pd.DataFrame(noise)]))) == repr(select_layer(scores))  # NaN is not NaN


def test_rows_of_nothing_are_left_out_but_not_for_zero():
    values = [0.3, math.nan, 0.5, math.nan]
    found = select_layer(table_of({3: ("16x16", values), 4: ("16x16", [0.1, 0.1, 0.1, 0.1])}))
    assert found.layer == 3
    assert found.best.precision == pytest.approx(0.4)
    assert found.scenes == 4
    cells = layer_table(table_of({3: ("16x16", values), 4: ("16x16", [0.1] * 4)}), found).set_index("layer")
    assert cells.loc[3, ["scenes", "count"]].tolist() == [2, 200]
    assert cells.loc[4, ["scenes", "count"]].tolist() == [4, 400]


def test_a_layer_without_a_counted_match_is_listed_last_with_nan():
    scores = table_of({2: ("4x4", [math.nan] * 5), 3: ("16x16", STEADY)}, ceilings={"16x16": 1.0})
    found = select_layer(scores)
    assert found.layer == 3
    assert found.best.share_of_ceiling == pytest.approx(0.31)  # its missing ceiling is nobody's loss
    assert found.ties == ()
    cells = layer_table(scores, found).set_index("layer")
    assert cells.loc[2, ["scenes", "count"]].tolist() == [0, 0]
    assert cells.loc[2, ["precision", "precision_low", "share_of_ceiling", "skill"]].isna().all()


def test_a_grid_on_which_nothing_can_be_right_has_no_share():
    scores = table_of({2: ("4x4", [0.0] * 5), 3: ("16x16", STEADY)}, ceilings={"16x16": 1.0, "4x4": 0.0}, chance=0.0)
    found = select_layer(scores)
    assert found.layer == 3
    assert math.isnan(found.runners_up[0].share_of_ceiling)
    cells = layer_table(scores, found).set_index("layer")
    assert math.isnan(cells.loc[2, "skill"])
    assert cells.loc[2, "precision"] == 0


def test_the_share_is_a_ratio_of_sums_over_scenes_of_different_ceilings():
    """40 + 10 hits of 80 + 10 possible ones; the mean of the scenes' shares would be .75."""
    scores = table_of({3: ("16x16", [0.4, 0.1])}, chance=None)
    scores.loc[scores["model"] == CEILING, "value"] = [0.8, 0.1]
    found = select_layer(scores).best
    assert found.share_of_ceiling == pytest.approx(0.5 / 0.9)
    assert found.ceiling == pytest.approx(0.45)


def test_a_single_scene_has_no_interval_and_separates_nothing():
    scores = table_of({3: ("16x16", [0.5]), 4: ("16x16", [0.1])})
    found = select_layer(scores)
    assert found.layer == 3
    assert found.scenes == 1
    assert math.isnan(found.best.low)
    assert math.isnan(found.best.high)
    assert not found.above_chance
    assert found.ties == (4,)
    assert "1 independent unit" in found.evidence
    assert "nan" not in found.evidence
    cells = layer_table(scores, found)
    assert cells[["precision_low", "precision_high", "share_low", "share_high"]].isna().all(axis=None)


def test_the_last_training_step_counts():
    early = table_of({3: ("16x16", times(1)), 4: ("16x16", times(0.5))}, step=500)
    late = table_of({3: ("16x16", times(0.5)), 4: ("16x16", times(1))}, step=1000)
    late = late[late["layer"] >= 0]
    found = select_layer(pd.concat([early, late]))
    assert found.layer == 4
    assert found.best.precision == pytest.approx(0.31)
    assert layer_table(pd.concat([early, late]), found)["precision"].tolist() == pytest.approx([0.155, 0.31])


# Tables with the contract's columns only


def test_without_references_layers_are_ranked_by_precision():
    """The columns of docs/references.md, "Files of a run" are enough: neither pair_list nor ceilings nor chance."""
    layers = {2: ("16x16", times(1.0)), 5: ("8x8", times(0.8)), 9: ("16x16", times(1.2))}
    scores = table_of(layers, ceilings={}, chance=None, metric="precision@2cm", protocol="mine").drop(
        columns="pair_list"
    )
    found = select_layer(scores)
    assert [found.layer, *(candidate.layer for candidate in found.runners_up)] == [9, 2, 5]
    assert math.isnan(found.best.share_of_ceiling)
    assert found.best.low < found.best.precision < found.best.high
    assert not found.above_chance
    assert (found.pair_list, found.metric) == ("", "precision@2cm")
    assert found.ties == ()
    assert "37.2% precision@2cm (no ceiling was measured)" in found.evidence
    cells = layer_table(scores, found)
    assert cells[["share_of_ceiling", "share_low", "chance"]].isna().all(axis=None)
    assert cells["precision_low"].notna().all()


def test_a_ceiling_that_one_grid_lacks_ranks_all_by_precision():
    layers = {2: ("16x16", times(1.0)), 5: ("8x8", times(0.8))}
    found = select_layer(table_of(layers, ceilings={"8x8": 0.5}))
    assert found.layer == 2
    assert math.isnan(found.runners_up[0].share_of_ceiling)
    assert found.runners_up[0].ceiling == 0.5


def test_text_columns_may_be_categorical():
    scores = table_of({3: ("16x16", times(1)), 5: ("8x8", times(0.4))})
    text = [name for name in scores if scores[name].dtype.kind not in "if"]
    assert {"model", "scene", "grid", "metric"} <= set(text)
    found = select_layer(scores.astype(dict.fromkeys(text, "category")))
    assert repr(found) == repr(select_layer(scores))  # NaN is not NaN


# Refusals


def test_what_must_not_be_ranked_together_is_refused():
    scores = table_of({3: ("16x16", STEADY)})
    for column, other in (("protocol", "ratio-v1"), ("pair_list", "xyz")):
        with pytest.raises(ValueError, match=rf"different {column}s .*{other}.* cannot be ranked together"):
            select_layer(pd.concat([scores, scores.assign(**{column: other})]))
    with pytest.raises(ValueError, match=r"layers of one model, found \['m', 'other'\]; name one with model="):
        select_layer(pd.concat([scores, scores[scores["layer"] >= 0].assign(model="other")]))


def test_a_model_is_chosen_by_name():
    scores = table_of({3: ("16x16", STEADY), 4: ("16x16", times(0.5))})
    null = scores[scores["layer"] >= 0].assign(model="m: random weights")
    null["value"] = null["value"].where(null["layer"] == 4, 0.02)
    both = pd.concat([scores, null])
    assert select_layer(both).layer == 3
    assert select_layer(both, model="m: random weights").layer == 4
    with pytest.raises(ValueError, match="'nobody' has no counted 'precision@5%'"):
        select_layer(both, model="nobody")


def test_an_absent_metric_or_direction_is_refused():
    scores = table_of({3: ("16x16", STEADY)})
    with pytest.raises(ValueError, match=r"'m' has no counted 'speed' .* holds the metrics \['precision@5%'\]"):
        select_layer(scores, metric="speed")
    with pytest.raises(ValueError, match=r"in direction 'ref-ref'; .* the directions \['tgt-ref'\]"):
        select_layer(scores, direction="ref-ref")
    with pytest.raises(ValueError, match="no counted 'precision@5%'"):
        select_layer(scores.assign(value=math.nan))
    two = pd.concat(
        [table_of({3: ("16x16", STEADY)}, metric=name, protocol="mine") for name in ("precision@a", "precision@b")]
    )
    with pytest.raises(ValueError, match=r"name the metric to rank by; measured are \['precision@a', 'precision@b'\]"):
        select_layer(two)
    assert select_layer(two, metric="precision@b").metric == "precision@b"
    with pytest.raises(ValueError, match="layers of one model, found"):
        select_layer(scores[:0])
    with pytest.raises(ValueError, match="name the metric"):
        select_layer(scores[:0], model="m")


# Directions


def test_directions_are_those_of_the_protocol_unless_named():
    there = table_of({3: ("16x16", times(1)), 4: ("16x16", times(0.5))})
    back = table_of({3: ("16x16", times(0.1)), 4: ("16x16", times(2))}, direction="ref-tgt")
    both = pd.concat([there, back])
    assert [select_layer(both, direction=way).layer for way in (None, "tgt-ref", "ref-tgt", "all")] == [3, 3, 4, 4]
    assert select_layer(back).direction == "all"
    every = select_layer(both, direction="all")
    cells = layer_table(both, every).set_index("layer")
    assert every.best.precision == pytest.approx(0.31 * 1.25)
    assert cells.loc[4, "precision_low"] < 0.31 * 1.25 < cells.loc[4, "precision_high"]
    assert cells.loc[4, "count"] == 1000


# The table


def test_layer_table_by_hand():
    layers = {5: ("8x8", times(0.8)), 2: ("16x16", times(1.0))}
    scores = table_of(layers)
    mass = table_of(layers, metric="mass_3x3", ceilings={}, chance=None)
    mass["value"] /= 2
    common = table_of(layers, ceilings={}, chance=None, protocol="attention-v1" + COMMON_GRID)
    common["value"] /= 4
    scores = pd.concat([scores, mass, common])
    found = select_layer(scores)
    cells = layer_table(scores, found)
    assert set(COLUMNS) <= set(cells.columns)
    assert cells["layer"].tolist() == [2, 5]
    assert cells["name"].tolist() == ["blocks.2", "blocks.5"]
    assert cells[["grid_h", "grid_w"]].to_numpy().tolist() == [[16, 16], [8, 8]]
    assert cells["precision"].tolist() == pytest.approx([0.31, 0.248])
    assert cells["share_of_ceiling"].tolist() == pytest.approx([0.31, 0.496])
    assert cells["skill"].tolist() == pytest.approx([0.3 / 0.99, 0.238 / 0.49])
    assert cells["mass_true"].tolist() == pytest.approx([0.155, 0.124])
    assert cells["common_grid_precision"].tolist() == pytest.approx([0.0775, 0.062])
    assert cells[["count", "scenes"]].to_numpy().tolist() == [[500, 5]] * 2
    own = summarise(
        scores[(scores["metric"] == METRIC) & (scores["protocol"] == "attention-v1") & (scores["layer"] == 2)],
        ["layer"],
    )
    assert cells.loc[0, ["precision_low", "precision_high"]].tolist() == own.loc[0, ["low", "high"]].tolist()
    assert cells.loc[1, ["share_low", "share_high"]].tolist() == [found.best.low, found.best.high]


def test_a_selection_is_plain_values():
    found = select_layer(table_of({3: ("16x16", STEADY), 4: ("8x8", STEADY)}))
    read = json.loads(json.dumps(found.record()))
    assert read["layer"] == 4
    assert read["best"]["grid"] == "8x8"
    assert [entry["layer"] for entry in read["runners_up"]] == [3]
