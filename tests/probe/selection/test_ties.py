"""What is weighed beside correspondence: the causal effect where correspondence cannot separate, then cost."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import pytest
from test_selection import STEADY, row, table_of, times

from probe.layers import Layer
from probe.records import EFFECT, INTERVENTIONS, SAME_POSITION
from probe.selection import Selection, layer_table, select_layer
from probe.selection.ties import causal_effects, compared, leads, supervision_costs

BEST = np.array([0.4, 0.5, 0.6, 0.7, 0.45, 0.55])
TIED = {
    3: ("16x16", BEST),
    4: ("16x16", BEST[[1, 0, 3, 2, 5, 4]] - 0.01),
    5: ("16x16", BEST - 0.25),
}  # 3 and 4 cannot be told apart
EQUAL = [0.11, 0.09, 0.1, 0.1, 0.105, 0.095]


def effects(layers: Mapping[int, Sequence[float]], name: str = "identity", **changes: object) -> pd.DataFrame:
    """Rows of the score table: how much each layer's edit raises the error in each scene, in two target views."""
    plain = {"query_view": 1, "key_view": -1, "direction": "tgt", "protocol": INTERVENTIONS, "count": 1,
             "metric": f"{EFFECT}@{name}"}  # fmt: skip
    return pd.DataFrame(
        [
            row(layer=layer, layer_name=f"blocks.{layer}", scene=f"s{n}", value=value + off, **{**plain, **changes})
            for layer, values in layers.items()
            for n, value in enumerate(values)
            for off in (-0.01, 0.01)
        ]
    )


def chosen(layers: Mapping[int, tuple[str, Sequence[float]]], *more: pd.DataFrame, **how) -> Selection:
    return select_layer(pd.concat([table_of(layers), *more], ignore_index=True), **how)


CHEAP_FIRST, CHEAP_SECOND = {3: 1.0, 4: 2.0, 5: 0.5}, {3: 2.0, 4: 1.0, 5: 0.5}


# What decides


@pytest.mark.parametrize("costs", [None, CHEAP_FIRST, CHEAP_SECOND])
def test_without_effects_correspondence_decides_alone(costs):
    found = chosen(TIED, costs=costs)
    assert found.layer == 3
    assert found.ties == (4,)
    assert math.isnan(found.best.causal_effect)
    assert found.best.causal_count == 0
    assert found.effect_rule == "not measured"
    assert found.weighing == "Chosen by correspondence alone: no causal effect was measured."
    assert found.best.cost == pytest.approx(costs[3] if costs else math.nan, nan_ok=True)


@pytest.mark.parametrize("costs", [None, CHEAP_FIRST, CHEAP_SECOND])
def test_of_layers_that_correspondence_cannot_separate_the_greater_effect_is_taken(costs):
    found = chosen(TIED, effects({3: EQUAL, 4: np.add(EQUAL, 0.05), 5: [9.0] * 6}), costs=costs)
    assert [found.layer, *(c.layer for c in found.runners_up)] == [4, 3, 5]
    assert found.ties == (3,)
    assert found.best.causal_effect == pytest.approx(0.15)
    assert found.best.causal_low < 0.15 < found.best.causal_high
    assert found.best.causal_count == 6
    assert "more than breaking layer 3; less than layer 5" in found.weighing
    assert "Correspondence cannot separate layers 3, 4; causal effect leaves layer 4." in found.weighing


def test_of_equal_effects_the_cheaper_is_taken():
    """Layer 4's effect is higher on average, but not shown to be: its scenes go up and down."""
    wild = effects({3: EQUAL, 4: [0.5, -0.2, 0.4, -0.2, 0.45, -0.15], 5: EQUAL})
    assert chosen(TIED, wild, costs=CHEAP_FIRST).layer == 3
    found = chosen(TIED, wild, costs=CHEAP_SECOND)
    assert found.layer == 4
    assert "by causal effect neither; of these layer 4 is the cheapest to supervise" in found.weighing
    assert chosen(TIED, wild).layer == 3  # costs are unknown
    assert "the first by correspondence (costs are unknown)" in chosen(TIED, wild).weighing
    assert chosen(TIED, wild, costs={3: 1.0, 4: 1.0}).layer == 3


def test_a_worse_layer_is_not_taken_however_great_its_effect_and_small_its_cost():
    found = chosen(TIED, effects({3: EQUAL, 4: [0.0] * 6, 5: [9.0] * 6}), costs=CHEAP_SECOND)
    assert found.layer == 3
    apart = chosen({3: ("16x16", times(1)), 4: ("16x16", times(0.5))}, effects({3: STEADY, 4: [9.0] * 5}))
    assert apart.layer == 3
    assert "less than layer 4" in apart.weighing
    assert "Selected by precision alone." in apart.weighing


def test_a_layer_at_chance_is_not_taken():
    """Layer 4 ties with the first, since its scenes differ so much, but is not above chance."""
    noisy = {3: ("16x16", [0.3] * 6), 4: ("16x16", [0.0, 0.0, 0.0, 0.0, 0.8, 0.9])}
    found = chosen(noisy, effects({3: EQUAL, 4: [9.0] * 6}))
    assert (found.layer, found.ties) == (3, (4,))


def test_a_tie_outside_the_leaders_interval_is_not_taken():
    """A layer that goes up and down ties and is above its nulls; below the leader's interval it is no contender."""
    wild = {3: ("16x16", [0.5, 0.52, 0.48, 0.5, 0.51, 0.49]), 4: ("16x16", [0.25, 0.55, 0.25, 0.55, 0.25, 0.55])}
    found = chosen(wild, effects({3: EQUAL, 4: [9.0] * 6}))
    assert (found.layer, found.ties) == (3, (4,))
    assert found.runners_up[0].above_null
    assert found.runners_up[0].share_of_ceiling < found.best.low


def test_a_tie_that_is_above_chance_alone_is_not_taken():
    """The coarse layer ties and breaks everything, but the same position scores as much."""
    layers = {3: ("16x16", [0.3, 0.5, 0.4, 0.45, 0.35, 0.4]), 4: ("8x8", [0.2, 0.21, 0.19, 0.2, 0.21, 0.19])}
    scores = pd.concat([table_of(layers), effects({3: EQUAL, 4: [9.0] * 6})], ignore_index=True)
    still = (scores["model"] == SAME_POSITION) & (scores["grid"] == "8x8")
    scores.loc[still, "value"] = [0.21, 0.2, 0.2, 0.19, 0.2, 0.2]
    found = select_layer(scores)
    assert (found.layer, found.ties) == (3, (4,))
    assert (found.runners_up[0].above_chance, found.runners_up[0].above_null) == (True, False)
    assert found.best.low < found.runners_up[0].share_of_ceiling


def test_an_unknown_effect_of_a_contender_weighs_nothing():
    found = chosen(TIED, effects({4: [9.0] * 6, 5: EQUAL}), costs=CHEAP_SECOND)
    assert found.layer == 3
    assert "The causal effect of layer 3 was not measured." in found.weighing
    assert "not all of their effects are known" in found.weighing


def test_one_scene_separates_no_effects():
    one = {3: ("16x16", [0.5]), 4: ("16x16", [0.4])}
    found = chosen(one, effects({3: [0.1], 4: [0.9]}))
    assert found.layer == 3
    assert math.isnan(found.best.causal_low)
    assert "1 independent unit, too few to compare layers." in found.weighing


def test_effects_are_compared_for_all_layers_at_once():
    """An effect that is greater than one other's by an interval of its own is not where twelve are compared."""
    noise = np.random.default_rng(5).normal(0, 0.03, (12, 8))
    noise -= noise.mean(1, keepdims=True)
    values = 0.4 + noise - np.array([0.0, *[0.06] * 11])[:, None]
    everything = {layer: list(row) for layer, row in enumerate(values)}
    among = compared(causal_effects(effects(everything), list(everything)), 0)
    alone = {
        layer: compared(causal_effects(effects({0: everything[0], layer: everything[layer]}), [0, layer]), 0)[layer]
        for layer in range(1, 12)
    }
    assert any(alone[layer] == 1 and among[layer] == 0 for layer in alone)


def test_a_lead_that_is_not_shown_is_said_with_its_interval():
    far = effects({3: [0.0, 1.5, 0.0, 1.4, 0.1, 0.0], 4: [0.0] * 6, 5: [0.1, 0.0, 0.1, 0.0, 0.1, 0.0]})
    found = causal_effects(far, [3, 4, 5])
    lead = leads(found, 3)
    assert lead["value"].tolist() == pytest.approx([0.5, 0.45])
    assert compared(found, 3) == {3: 0, 4: 0, 5: 0}
    ends = f"{lead.loc[5, 'low']:+.1%} to {lead.loc[5, 'high']:+.1%}, with 95 % for all pairs of layers at once"
    assert f"not separable from layers 4, 5 (the smallest lead is +45.0%, {ends})" in chosen(TIED, far).weighing


# Reading the table


def test_the_effect_is_that_of_the_identity_or_the_next_edit_that_breaks():
    several = pd.concat(
        [effects({3: [0.2, 0.2]}, "uniform"), effects({3: [0.1, 0.1]}), effects({3: [-1.0]}, "true_match")]
    )
    assert causal_effects(several, [3]).intervention == "identity"
    assert causal_effects(several, [3]).of(3)[0] == pytest.approx(0.1)
    assert causal_effects(several[several["metric"] != f"{EFFECT}@identity"], [3]).intervention == "uniform"
    repaired = causal_effects(effects({3: [-1.0]}, "true_match"), [3])
    assert repaired.intervention == ""
    assert repaired.of(3)[3] == 0


def test_rows_of_heads_and_of_other_models_do_not_count():
    own = effects({3: EQUAL, 4: EQUAL})
    others = [effects({3: [9.0] * 6}, head=1), effects({3: [9.0] * 6}, model="m: random weights")]
    assert chosen(TIED, own, *others).best.causal_effect == pytest.approx(0.1)


def test_rows_of_nothing_counted_are_missing_not_zero():
    lost = effects({3: [np.nan] * 6, 4: EQUAL}).assign(count=lambda rows: rows["value"].notna().astype(int))
    found = chosen(TIED, lost)
    assert math.isnan(found.best.causal_effect)
    assert found.best.causal_count == 0
    assert found.runners_up[0].causal_effect == pytest.approx(0.1)


def test_effects_change_nothing_else_in_the_selection():
    plain, edited = chosen(TIED), chosen(TIED, effects({3: [0.5] * 6, 4: EQUAL, 5: EQUAL}))
    assert (plain.layer, plain.evidence, plain.ties) == (edited.layer, edited.evidence, edited.ties)
    assert (edited.metric, edited.protocol) == (plain.metric, "attention-v1")


def test_the_layer_table_has_effect_interval_count_and_cost():
    scores = pd.concat([table_of(TIED), effects({3: [0.5] * 6, 4: EQUAL})], ignore_index=True)
    cells = layer_table(scores, select_layer(scores, costs=CHEAP_FIRST)).set_index("layer")
    assert cells["causal_effect"].tolist() == pytest.approx([0.5, 0.1, np.nan], nan_ok=True)
    assert cells["causal_count"].tolist() == [6, 6, 0]
    assert cells["cost"].tolist() == [1.0, 2.0, 0.5]
    assert (cells.loc[4, "causal_low"], cells.loc[4, "causal_high"]) == pytest.approx((0.0926, 0.1074), abs=0.003)


def test_cost_is_joint_tokens_squared_times_heads():
    joint = Layer(10, "a", (4, 5), 3, "3d")
    text = Layer(11, "b", (4, 5), 2, "joint", prefix=7, per_view_prefix=1)
    view = Layer(2, "c", (2, 2), 1, "view")
    assert supervision_costs([joint, text, view], 2) == {10: 40**2 * 3, 11: (42 + 7) ** 2 * 2, 2: 8**2}
