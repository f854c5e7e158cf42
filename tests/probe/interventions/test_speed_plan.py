"""Plans for speed: they keep to their budget, are what is measured, and sentences say no more than the intervals."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.interventions.effects import measure_effects
from probe.interventions.experiment import Experiment
from probe.interventions.moves import Move, after, parts_of, plan_steps, whole_moves
from probe.interventions.schemes import (
    Scheme,
    Schemes,
    edits_of,
    read_schemes,
    scheme_of,
    total_multiply_adds,
)
from probe.interventions.speed import (
    SpeedPlan,
    cells_of,
    growth_rows,
    make_speed_plan,
    mean_growth,
    measure_plan,
    on_paper,
    scaled,
)
from probe.layers import Layer
from probe.models.model import MultiViewModel
from probe.plan.terminal import curve_cells, plan_cells, table_cells
from probe.records import write_json
from probe.records.speed import (
    BROKEN,
    HELD,
    NOT_SHOWN,
    curve_table,
    curve_words,
    kept_moves,
    paper_words,
    speed_table,
    speed_words,
    verdict,
)

LAYERS = [Layer(index, f"l{index}", (side, side), 3, "3d", channels=4) for index, side in ((2, 4), (5, 2), (6, 2))]
PER_VIEW: Scheme = ("per_view",) * 3


def planned(growth: Callable[[Schemes], float], budget: float):
    return plan_steps(
        whole_moves(LAYERS),
        lambda schemes, move: after(schemes, move, LAYERS),
        lambda schemes: total_multiply_adds(schemes, LAYERS, 3, 1),
        growth,
        budget,
    )


def additive(price: dict[tuple[int, int], float]) -> Callable[[Schemes], float]:
    """A toy effect: each head that loses views adds its price, half of it where it keeps the references."""
    weight = {"joint": 0.0, "references": 0.5, "per_view": 1.0}

    def growth(schemes: Schemes) -> float:
        return sum(
            price.get((layer, head), 0.0) * weight[mode]
            for layer, scheme in schemes.items()
            for head, mode in enumerate(scheme)
        )

    return growth


def test_what_costs_nothing_is_planned_whole_and_one_head_that_matters_stays():
    plan, steps = planned(additive({(2, 1): 1.0}), 0.01)
    assert plan == {2: ("per_view", "joint", "per_view"), 5: PER_VIEW, 6: PER_VIEW}
    moves = [(2, (0,)), (2, (2,)), (5, (0, 1, 2)), (6, (0, 1, 2))]
    assert [step.move for step in steps if step.taken] == [Move(*move, "per_view") for move in moves]
    assert Move(2, (0, 1, 2), "per_view") in [step.move for step in steps if not step.taken]


def test_the_references_are_kept_where_that_is_all_that_the_budget_allows():
    plan, _ = planned(additive({(2, head): 0.2 for head in range(3)}), 0.35)
    assert plan == {2: ("references",) * 3, 5: PER_VIEW, 6: PER_VIEW}


def test_no_budget_no_plan_and_unknown_effects_are_too_much():
    everything = {(layer.index, head): 0.1 for layer in LAYERS for head in range(3)}
    assert planned(additive(everything), 0.0)[0] == {}
    plan, steps = planned(lambda schemes: math.nan if schemes else 0.0, 0.5)
    assert plan == {}
    assert not any(step.taken for step in steps)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-0.02, 0.1), min_size=9, max_size=9),
    st.floats(0, 0.1),
    st.floats(-0.5, 0.5),
    st.integers(0, 8),
)
def test_a_plan_never_exceeds_its_budget(prices: list[float], budget: float, together: float, pair: int):
    price = {(layer.index, head): prices[3 * n + head] for n, layer in enumerate(LAYERS) for head in range(3)}
    alone = additive(price)

    def growth(schemes: Schemes) -> float:
        """Not additive: two layers may cover for each other."""
        both = all(scheme_of(schemes, LAYERS[k])[pair % 3] == "per_view" for k in (0, 1))
        return alone(schemes) + together * both

    plan, steps = planned(growth, budget)
    assert growth(plan) <= budget or plan == {}
    costs = [step.cost for step in steps if step.taken]
    assert costs == sorted(costs, reverse=True)
    assert len(set(costs)) == len(costs)
    assert all(step.growth <= budget for step in steps if step.taken)


def test_moves_only_ever_take_keys_away():
    start = after({}, Move(2, (0, 1), "per_view"), LAYERS)
    assert after(start, Move(2, (0, 1, 2), "references"), LAYERS)[2] == ("per_view", "per_view", "references")
    assert parts_of(Move(2, (0, 1), "per_view")) == [
        Move(2, (0,), "per_view"), Move(2, (1,), "per_view"), Move(2, (0, 1), "references"),
    ]  # fmt: skip
    assert parts_of(Move(2, (1,), "per_view")) == [Move(2, (1,), "references")]
    assert parts_of(Move(2, (1,), "references")) == []


@pytest.fixture(scope="module")
def toy_plan(model: MultiViewModel, layers: list[Layer], scene) -> SpeedPlan:
    return make_speed_plan(model, layers, [scene], (300, 700), budget=0.01)


def test_growth_is_that_of_the_causal_edit(model, layers, scene):
    scheme = {layers[1].index: ("per_view", "per_view")}
    cells = cells_of(model, [scene], (500,))
    rows = growth_rows(model, cells, edits_of(scheme, layers, scene.views.count, 1))
    experiment = Experiment(interventions=("within_view",), timesteps=(500,))
    known = measure_effects(model, scene, layers, experiment).rows
    known = known[(known["layer"] == layers[1].index) & (known["metric"] == "effect_error@within_view")]
    assert rows["value"].tolist() == pytest.approx([known["value"].mean()], rel=1e-4)
    assert rows["count"].tolist() == [2]
    assert mean_growth(growth_rows(model, cells, {})) == 0
    assert math.isnan(mean_growth(rows.assign(count=0)))


def test_scenes_together_are_as_each_alone(model, layers, scene):
    other = replace(scene, views=replace(scene.views, image=scene.views.image.flip(-1), names=("other",)))
    edits = edits_of({layers[0].index: ("joint", "per_view")}, layers, scene.views.count, 1)
    together = growth_rows(model, cells_of(model, [scene, other], (300, 500)), edits)
    alone = pd.concat([growth_rows(model, cells_of(model, [one], (300, 500)), edits) for one in (scene, other)])
    keys = ["scene", "timestep"]
    together, alone = (rows.sort_values(keys).reset_index(drop=True) for rows in (together, alone))
    assert together[keys].equals(alone[keys])
    np.testing.assert_allclose(together["value"], alone["value"], atol=1e-5)
    assert together["value"].nunique() == 4


def test_the_plan_says_what_was_measured_of_it(model, layers, scene, toy_plan: SpeedPlan):
    edits = edits_of(toy_plan.schemes, layers, scene.views.count, 1)
    rows = growth_rows(model, cells_of(model, [scene], (300, 700)), edits)
    assert toy_plan.growth == pytest.approx(mean_growth(rows), abs=1e-6)
    assert toy_plan.growth <= 0.01
    assert toy_plan.before == total_multiply_adds({}, layers, 3, 1)
    assert 1 / 3 <= toy_plan.share < 1
    record = toy_plan.record()
    assert sum(layer["after"] for layer in record["layers"]) == record["after"]
    assert record["share"] == toy_plan.after / toy_plan.before
    assert [sorted(layer["joint"] + layer["references"] + layer["per_view"]) for layer in record["layers"]] == [
        [0, 1]
    ] * 2
    assert all(set(step) == {"layer", "heads", "mode", "alone", "growth", "cost", "taken"} for step in record["steps"])
    assert toy_plan.stages[-1] == toy_plan.schemes
    costs = [total_multiply_adds(stage, layers, 3, 1) for stage in toy_plan.stages]
    assert costs == [step["cost"] for step in record["steps"] if step["taken"]]
    headings, cells = plan_cells(record)
    assert all(len(row) == len(headings) for row in cells)


def test_a_written_plan_is_read_back(toy_plan: SpeedPlan, layers: list[Layer], tmp_path: Path):
    schemes: Schemes = {layers[0].index: ("references", "joint"), layers[1].index: ("per_view", "joint")}
    write_json(tmp_path / "plan.json", replace(toy_plan, schemes=schemes).record())
    assert read_schemes(tmp_path / "plan.json") == schemes
    for wrong in (
        "[]",
        '{"layers": 3}',
        '{"layers": [{"layer": 1, "joint": [1], "references": [], "per_view": []}]}',
        "x",
    ):
        (tmp_path / "plan.json").write_text(wrong)
        with pytest.raises(ValueError, match=r"not a plan of python -m probe.plan.*plan again"):
            read_schemes(tmp_path / "plan.json")


def test_layers_that_join_nothing_leave_nothing_to_plan(model, layers, scene):
    with pytest.raises(ValueError, match="none of the layers joins views"):
        make_speed_plan(model, [replace(layers[0], kind="view")], [scene], (500,), budget=0.01)


def test_samples_with_and_without_the_plan_are_timed_in_turn(model, scene, toy_plan: SpeedPlan):
    rows = measure_plan(model, scene, toy_plan, steps=2, repeats=2)
    assert rows.groupby(["measure", "plan"]).size().to_dict() == {
        ("attention", "none, tapped"): 2, ("attention", "planned"): 2,
        ("attention_kernels", "none, tapped"): 2, ("attention_kernels", "planned"): 2,
        ("sampling", "none"): 2, ("sampling", "none, tapped"): 2, ("sampling", "planned"): 2,
        **{("effect_error", f"move {k + 1}"): 2 for k in range(len(toy_plan.stages))}, ("effect_error", "planned"): 2,
        ("psnr", "none"): 1, ("psnr", "none, tapped"): 1, ("psnr", "planned"): 1,
    }  # fmt: skip
    psnr = rows[rows["measure"] == "psnr"].set_index("plan")["value"]
    assert psnr["none"] == psnr["none, tapped"]
    times = rows[rows["measure"].isin(("attention", "attention_kernels", "sampling")) & (rows["plan"] == "planned")]
    means = times.groupby("measure")["value"].mean()
    assert 0 < means["attention_kernels"] < means["attention"] < means["sampling"]


def test_a_plan_that_changes_nothing_samples_the_same_bits(model, layers, scene, toy_plan: SpeedPlan):
    nothing = replace(toy_plan, schemes={layers[0].index: ("joint", "joint")}, steps=())
    rows = measure_plan(model, scene, nothing, steps=2, repeats=1)
    assert (rows.loc[rows["measure"] == "effect_error", "value"] == 0).all()
    assert len(set(rows.loc[rows["measure"] == "psnr", "value"])) == 1


# --- on paper --------------------------------------------------------------------------------------------------------


def test_shares_of_heads_are_rounded_up_from_the_most_keys():
    assert scaled(("joint", "per_view", "per_view", "per_view"), 10) == ("joint",) * 3 + ("per_view",) * 7
    assert scaled(PER_VIEW, 20) == ("per_view",) * 20
    assert scaled(("per_view", "joint", "references"), 4) == ("joint", "joint", "references", "references")


def test_a_plan_is_counted_for_a_network_of_the_same_layout_alone(toy_plan: SpeedPlan, layers: list[Layer]):
    plan = replace(toy_plan, layers=tuple(layers), schemes={layers[0].index: ("joint", "per_view")})
    large = [replace(layer, heads=10, channels=64, grid=(32, 32)) for layer in layers]
    (four,) = on_paper(plan, large, "large:random", (4,)).paper
    joint = 2 * 64 * 4096**2
    assert four.before == 20 * joint
    assert four.after == 10 * joint + 5 * joint + 5 * joint // 4
    assert on_paper(plan, large[:1], "large", (4,)) == plan
    assert "counted, not measured" in paper_words(on_paper(plan, large, "large:random", (4,)).record())
    assert "is not counted" in paper_words(plan.record())


# --- the table -------------------------------------------------------------------------------------------------------


def rows_of(growth: list[float], faster: float = 2.0) -> pd.DataFrame:
    rows = []
    for n, value in enumerate(growth):
        own = [("effect_error", "planned", 500, 0, value, 2)]
        own += [("psnr", way, -1, 0, level, 2) for way, level in (("none", 16.0 + n), ("planned", 15.9 + n))]
        for repeat in (1, 2, 3):
            slow = 5.0 if repeat == 3 else 1.0  # another program ran: the median does not see it
            own += [
                (measure, way, -1, repeat, seconds * slow, 1)
                for measure in ("attention_kernels", "attention", "sampling")
                for way, seconds in (("none", 1.2), ("none, tapped", 1.0), ("planned", 1.0 / faster))
            ]
        rows += [{"scene": f"s{n}", "unit": f"s{n}", **dict(zip(NAMES, row, strict=True))} for row in own]
    return pd.DataFrame(rows)


NAMES = ("measure", "plan", "timestep", "repeat", "value", "count")


def test_the_table_pairs_by_unit():
    table = speed_table(rows_of([0.004, 0.006] * 4)).set_index(["measure", "timestep"])
    growth, at, psnr, attention, sampling = (
        table.loc[key]
        for key in (("effect_error", -1), ("effect_error", 500), ("psnr", -1), ("attention", -1), ("sampling", -1))
    )
    assert growth["change"] == at["change"] == pytest.approx(0.005)
    assert growth["low"] < 0.005 < growth["high"] < 0.01
    assert psnr["change"] == pytest.approx(-0.1)
    assert psnr["low"] == pytest.approx(-0.1)  # the same in every scene: no spread
    assert (attention["change"], attention["low"], attention["unplanned"]) == pytest.approx((2, 2, 1))
    assert sampling["change"] == pytest.approx(2.4)
    assert (growth["scenes"], growth["units"]) == (8, 8)
    headings, cells = table_cells(table.reset_index())
    assert all(len(row) == len(headings) for row in cells)


@pytest.mark.parametrize(
    ("growth", "budget", "said"),
    [
        ([0.004, 0.006] * 4, 0.01, HELD),
        ([0.02, 0.03] * 4, 0.01, BROKEN),
        ([0.0, 0.019] * 4, 0.01, NOT_SHOWN),
        ([0.001, 0.002], 0.01, NOT_SHOWN),
    ],
)
def test_a_sentence_says_no_more_than_the_interval(growth: list[float], budget: float, said: str):
    table = speed_table(rows_of(growth))
    assert verdict(table.iloc[0].to_dict(), budget) == said
    words = speed_words(table, budget=budget, share=0.4)
    assert {HELD: "within the budget of 1.0%", BROKEN: "more than the budget of 1.0%", NOT_SHOWN: "is not shown"}[
        said
    ] in words
    assert "40.0% of the multiply-adds of 3D attention (2.50 times fewer)" in words
    assert "nan" not in words
    assert "Not shown to be faster" not in words
    assert ("whether any is faster cannot be told" in words) == (len(growth) < 5)  # too few units for intervals


def test_what_is_not_faster_by_an_interval_is_said_not_to_be():
    words = speed_words(speed_table(rows_of([0.004, 0.006] * 4, faster=1.0)), budget=0.01, share=0.4)
    assert "the attention kernels 1.00 (1.00 to 1.00)" in words
    assert words.endswith(
        "Not shown to be faster: the attention kernels, attention with the copies of tokens around it."
    )
    few = speed_words(speed_table(rows_of([0.004])), budget=0.01, share=0.4)
    assert "in 1 scene, none of which planned" in few
    assert "a whole sample with all that applies the plan 2.40; whether any is faster cannot be told" in few
    assert few.endswith("(too few units for an interval).")


def test_the_most_moves_that_keep_a_budget_are_counted():
    curve = curve_table(*curve_rows([[0.001, 0.003] * 4, [0.004, 0.006] * 4, [0.0, 0.019] * 4]))
    assert [kept_moves(curve, budget) for budget in (0.0, 0.004, 0.01, 1.0)] == [0, 1, 2, 3]
    assert kept_moves(curve_table(*curve_rows([[0.1] * 4])), 1.0) == 0  # four units: no interval
    assert kept_moves(curve[:0], 1.0) == 0


def curve_rows(growths: list[list[float]]) -> tuple[pd.DataFrame, dict[str, object]]:
    """Growth in scenes after each move, and the plan that took them; a move between them was not taken."""
    rows = [
        {"measure": "effect_error", "plan": f"move {k}", "scene": f"s{n}", "unit": f"s{n}", "value": value, "count": 2}
        for k, own in enumerate(growths, 1)
        for n, value in enumerate(own)
    ]
    step = {"layer": 2, "heads": [0], "mode": "per_view", "taken": True}
    taken = [{**step, "cost": 100 - 10 * k} for k in range(1, len(growths) + 1)]
    return pd.DataFrame(rows), {"before": 100, "steps": [*taken[:1], {**step, "cost": 0, "taken": False}, *taken[1:]]}


def test_as_much_of_a_plan_is_claimed_as_all_its_intervals_together_show():
    rows, plan = curve_rows([[0.001, 0.003] * 4, [0.004, 0.006] * 4, [0.0, 0.019] * 4])
    curve = curve_table(rows, plan)
    assert curve["share"].tolist() == [0.9, 0.8, 0.7]
    assert curve["growth"].tolist() == pytest.approx([0.002, 0.005, 0.0095])
    alone = curve_table(*curve_rows([[0.004, 0.006] * 4]))
    assert (curve["high"] - curve["growth"])[1] > (alone["high"] - alone["growth"])[0]  # jointly: wider
    assert "the first 2 are shown to keep the budget of 1.0%" in curve_words(curve, 0.01)
    assert "80.0% of the multiply-adds (1.25 times fewer)" in curve_words(curve, 0.01)
    assert "No part of the plan is shown" in curve_words(curve, 0.001)
    headings, cells = curve_cells(curve)
    assert all(len(row) == len(headings) for row in cells)


def test_a_plan_without_a_move_has_an_empty_curve():
    rows, plan = curve_rows([[0.1] * 6])
    curve = curve_table(rows, {**plan, "steps": []})
    assert curve.empty
    assert "No part of the plan is shown" in curve_words(curve, 0.01)
