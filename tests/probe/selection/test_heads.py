"""Laws of choosing heads, on hand-made score tables."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.records import ALL_HEADS, CAMERAS_ONLY, UNIFORM
from probe.selection import select_heads, select_layer
from probe.selection.heads import halves, held_out_precision
from probe.selection.reading import read_heads

METRIC = "precision@5%"
PLAIN = {
    "model": "m", "step": -1, "direction": "tgt-ref", "layer": 3, "layer_name": "blocks.3", "grid": "16x16", "head": -1,
    "timestep": 500, "protocol": "attention-v1", "pair_list": "abc", "metric": METRIC, "count": 100,
}  # fmt: skip


def table_of(heads: list[list[float]], *, chance: float = 0.01, blind: list[list[float]] | None = None) -> pd.DataFrame:
    """The scores of one layer: of each head in each scene, of all together (their mean), and of the nulls."""
    rows = []
    for model, values in (("m", heads), ("m" + CAMERAS_ONLY, blind or [])):
        for number, scenes in enumerate([list(np.mean(values, axis=0)), *values] if values else []):
            rows += [
                PLAIN | {"model": model, "head": number - 1, "scene": f"s{n}", "unit": f"s{n}", "value": value}
                for n, value in enumerate(scenes)
            ]
    null = {"model": UNIFORM, "layer": -1, "timestep": -1, "value": chance}
    rows += [PLAIN | null | {"scene": f"s{n}", "unit": f"s{n}"} for n in range(len(heads[0]))]
    return pd.DataFrame(rows)


def around(value: float, scenes: int = 12, spread: float = 0.02) -> list[float]:
    return [value + spread * (-1) ** n for n in range(scenes)]


def chosen_of(scores: pd.DataFrame):
    heads = select_heads(scores, select_layer(scores))
    assert heads is not None
    return heads


def test_the_best_head_and_those_not_shown_to_be_worse_are_chosen():
    noisy = [0.75, 0.45] * 6
    heads = chosen_of(table_of([around(0.1), around(0.6), noisy, around(0.02, spread=0.01)]))
    assert heads.best == 1 or heads.heads[2].precision == pytest.approx(0.6)
    assert heads.chosen == (1, 2)
    assert [head.above_null for head in heads.heads] == [True, True, True, False]
    assert heads.heads[0].lead == pytest.approx(0.09)
    assert heads.together == pytest.approx(np.mean([0.1, 0.6, 0.6, 0.02]))


def test_a_head_that_finds_no_more_than_with_grey_images_is_not_chosen():
    heads = chosen_of(table_of([around(0.6), around(0.5)], blind=[around(0.1), around(0.5)]))
    assert heads.chosen == (0,)
    assert (heads.heads[1].null, heads.heads[1].above_null) == ("cameras only", False)


def test_without_a_head_above_its_null_none_is_chosen():
    heads = chosen_of(table_of([around(0.011, spread=0.005), around(0.01, spread=0.005)]))
    assert heads.chosen == ()
    assert "No head is chosen, since not even the layer is shown" in heads.evidence


def test_of_a_layer_that_is_not_above_its_null_no_head_is_chosen():
    scores = table_of([around(0.6), around(0.1)])
    selection = replace(select_layer(scores), above_null=False)
    heads = select_heads(scores, selection)
    assert heads is not None
    assert heads.heads[0].above_null
    assert heads.chosen == ()


def test_the_winners_luck_is_not_in_its_held_out_precision():
    """Heads that differ by chance alone: the highest of many is above their common mean, the held-out value is not."""
    generator = np.random.default_rng(0)
    ahead, held = [], []
    for _ in range(40):
        values = generator.uniform(0.2, 0.6, (8, 10))
        heads = chosen_of(table_of(values.tolist()))
        ahead.append(max(head.precision for head in heads.heads) - values.mean())
        held.append(heads.held_out - values.mean())
    assert np.mean(ahead) > 0.04
    assert abs(np.mean(held)) < 0.02


def test_a_head_that_is_best_everywhere_keeps_its_precision():
    heads = chosen_of(table_of([around(0.6), around(0.1)]))
    assert heads.held_out == pytest.approx(heads.heads[0].precision) == pytest.approx(0.6)
    assert heads.held_out_low < 0.6 < heads.held_out_high


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(4)), st.integers(0, 9))
def test_renumbering_heads_renumbers_the_choice(order: list[int], seed: int):
    noise = np.random.default_rng(seed).uniform(-0.02, 0.02, (4, 7))
    values = (np.array([[0.6], [0.595], [0.3], [0.005]]) + noise.clip(-0.004, None)).tolist()  # no border is near
    one, other = chosen_of(table_of(values)), chosen_of(table_of([values[k] for k in order]))
    assert {order[head] for head in other.chosen} == set(one.chosen)
    assert [other.heads[k].precision for k in range(4)] == pytest.approx([one.heads[k].precision for k in order])


def test_heads_that_were_not_measured_apart_are_none():
    scores = table_of([around(0.5), around(0.2)])
    assert select_heads(scores[scores["head"] == ALL_HEADS], select_layer(scores)) is None


def test_few_units_have_no_interval_and_separate_nothing():
    heads = chosen_of(table_of([around(0.6, 4), around(0.1, 4)]))
    assert np.isnan(heads.heads[0].low)
    assert heads.chosen == ()
    assert "95 % interval" not in heads.evidence


def test_of_one_unit_nothing_is_held_out():
    own = pd.DataFrame([PLAIN | {"scene": "s", "unit": "s", "layer": 0, "value": 0.5}])
    assert np.isnan(held_out_precision(own, [0, 1]).estimate)


def test_the_choice_is_plain_values_and_is_read_from_a_file(tmp_path: Path):
    scores = table_of([around(0.6), around(0.1)])
    scores.to_parquet(tmp_path / "scores.parquet")
    selection = select_layer(scores)
    read = read_heads(tmp_path / "scores.parquet", selection.protocol, selection.metric, selection.layer)
    heads = select_heads(read, selection)
    assert heads == chosen_of(scores)
    assert json.loads(json.dumps(heads.record()))["chosen"] == [0]


@settings(max_examples=30, deadline=None)
@given(st.sets(st.text("abc", min_size=1), min_size=1, max_size=12))
def test_halves_hold_every_unit_once_and_depend_on_names_alone(units: set[str]):
    one, other = halves(sorted(units))
    assert sorted(one + other) == sorted(units)
    assert 0 <= len(one) - len(other) <= 1
    assert halves([*sorted(units, reverse=True), *units]) == (one, other)


def test_halves_do_not_alternate():
    """Rooms take their rotations in turn: every second one has the same few."""
    names = [f"{number:03d}" for number in range(64)]
    one, other = (np.bincount([int(name) % 4 for name in half]) for half in halves(names))
    assert one.min() > 3
    assert other.min() > 3
