"""Knocking out heads together: known rankings, laws of the edits, and what the table says."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from probe.interventions.effects import measure_effects
from probe.interventions.experiment import Experiment
from probe.interventions.heads import HeadSet, LayerHead, draw_heads, knock_out, rank_heads, sets_of_heads
from probe.knockout import Settings, main, read_counts
from probe.records.knockout import BEST, RANDOM, knockout_table, knockout_words


def scores(values: dict[tuple[int, int], list[float]]) -> pd.DataFrame:
    """Precision of heads, by layer and head, in each scene; all heads together are best of all."""
    rows = [
        {"layer": layer, "head": head, "scene": f"s{n}", "unit": f"s{n}", "value": value, "count": 10}
        for (layer, head), own in values.items()
        for n, value in enumerate(own)
    ]
    together = [{**rows[0], "head": -1, "value": 1.0}]
    return pd.DataFrame(rows + together)


def test_heads_are_ranked_on_the_scenes_that_count():
    table = scores({(1, 0): [0.1, 0.9], (1, 1): [0.5, 0.5], (7, 0): [0.3, 0.1]})
    assert rank_heads(table, ["s0"]) == [(1, 1), (7, 0), (1, 0)]
    assert rank_heads(table, ["s1"]) == [(1, 0), (1, 1), (7, 0)]
    assert rank_heads(table, ["s0", "s1"])[0] in {(1, 0), (1, 1)}


def test_a_head_in_which_nothing_was_counted_is_not_ranked():
    table = scores({(1, 0): [0.1], (1, 1): [0.5]})
    table.loc[table["head"] == 1, ["value", "count"]] = [np.nan, 0]
    assert rank_heads(table, ["s0"]) == [(1, 0)]


def test_every_head_is_drawn_as_often_as_any_other():
    heads, generator = [LayerHead(0, n) for n in range(6)], torch.Generator().manual_seed(0)
    drawn = [head for _ in range(600) for head in draw_heads(heads, 2, generator)]
    assert all(abs(drawn.count(head) - 200) < 60 for head in heads)
    assert all(len(set(draw_heads(heads, 6, generator))) == 6 for _ in range(5))


@pytest.mark.parametrize("name", ["identity", "within_view"])
def test_all_heads_of_a_layer_together_are_the_edit_of_the_layer(model, layers, scene, name):
    chosen = [LayerHead(layers[1].index, head) for head in range(2)]
    (row,) = knock_out(
        model, scene, layers, [HeadSet(BEST, tuple(chosen))], intervention=name, t=500, seed=0
    ).itertuples()
    experiment = Experiment(interventions=(name,), timesteps=(500,))
    rows = measure_effects(model, scene, layers, experiment).rows
    rows = rows[(rows["layer"] == layers[1].index) & (rows["metric"] == f"effect_error@{name}")]
    assert row.value == pytest.approx(rows["value"].mean(), rel=1e-5)
    assert row.count == rows["count"].sum() == 2
    assert (row.heads, row.which, row.chosen, row.scene) == (
        2,
        BEST,
        f"{layers[1].index}:0 {layers[1].index}:1",
        "room",
    )


def test_the_sets_do_not_touch_each_other(model, layers, scene):
    first, second = LayerHead(layers[0].index, 1), LayerHead(layers[1].index, 0)
    one, both = HeadSet(BEST, (first,)), HeadSet(BEST, (first, second))
    how = {"intervention": "within_view", "t": 500, "seed": 0}
    together = knock_out(model, scene, layers, [one, both, one], **how)["value"]
    assert together[0] == together[2] == knock_out(model, scene, layers, [one], **how)["value"][0]
    assert together[1] != together[0]


def test_random_sets_never_hold_the_best_heads_that_they_are_compared_with():
    ranked = [LayerHead(0, n) for n in range(9)]
    sets = sets_of_heads(ranked, [1, 4], 30, torch.Generator().manual_seed(0))
    assert [one.heads for one in sets if one.which == BEST] == [tuple(ranked[:1]), tuple(ranked[:4])]
    drawn = [one.heads for one in sets if one.which == RANDOM]
    assert [len(heads) for heads in drawn] == [1] * 30 + [4] * 30
    assert all(not set(heads) & set(ranked[: len(heads)]) for heads in drawn)
    assert set().union(*drawn[30:]) == set(ranked[4:])
    with pytest.raises(ValueError, match="9 heads were scored apart, of which half can be knocked out, not 5"):
        sets_of_heads(ranked, [5], 1, torch.Generator())


def rows_of(best: list[float], random: list[list[float]], heads: int = 2) -> pd.DataFrame:
    sets = [(BEST, best), *((RANDOM, own) for own in random)]
    return pd.DataFrame(
        {
            "heads": heads,
            "which": which,
            "chosen": str(values[0]),
            "scene": f"s{n}",
            "unit": f"s{n}",
            "value": value,
            "count": 2,
        }
        for which, values in sets
        for n, value in enumerate(values)
    )


def test_the_table_pairs_the_best_with_the_mean_of_random_sets():
    scenes = np.linspace(0.1, 0.3, 8)
    table = knockout_table(rows_of(list(scenes + 0.2), [list(scenes), list(scenes + 0.1)]))
    row = table.iloc[0]
    assert (row["best"], row["random"], row["ahead"]) == pytest.approx((0.4, 0.25, 0.15))
    assert row["ahead_low"] == pytest.approx(0.15)  # equal in every scene: no spread
    assert row["best_low"] < 0.4 < row["best_high"]
    assert (row["scenes"], row["units"], row["sets"], row["sets_above"]) == (8, 8, 2, 0)
    assert "for 2 heads the best matter more than each of the 2 different random sets" in knockout_words(table)


def test_one_random_set_that_matters_as_much_is_enough_to_say_nothing():
    scenes = np.linspace(0.1, 0.3, 8)
    table = knockout_table(rows_of(list(scenes + 0.2), [list(scenes), list(scenes), list(scenes + 0.25)]))
    assert table["ahead_low"].iloc[0] > 0
    assert table["sets_above"].tolist() == [1]
    assert "for no number of heads" in knockout_words(table)


def test_what_is_not_separated_is_said():
    table = knockout_table(rows_of([0.1, 0.3] * 4, [[0.3, 0.12] * 4]))
    assert "for no number of heads" in knockout_words(table)


def test_few_units_have_no_interval():
    table = knockout_table(rows_of([0.5, 0.6], [[0.1, 0.1]]))
    assert np.isnan(table["ahead_low"]).all()
    assert "whether the best matter more cannot be told: too few independent units (2)" in knockout_words(table)


def test_counts_are_sorted_and_what_is_none_is_refused():
    assert read_counts("4,1,2") == [1, 2, 4]
    for text in ("", "0", "1,1", "a", "1.5", "-1"):
        with pytest.raises(ValueError, match="--counts"):
            read_counts(text)


@pytest.mark.parametrize(
    "config",
    ["[]", "{}", '{"settings": null}', '{"settings": {"timesteps": 5}}', '{"settings": {"views": "many"}}', "x",
     '{"settings": {"baselines": 1}}'],
)  # fmt: skip
def test_settings_of_something_else_end_in_one_line(tmp_path: Path, config: str):
    for name in ("config.json", "scores.parquet", "selection.json", "model.json"):
        (tmp_path / name).write_text(config)
    with pytest.raises(ValueError, match=r"config\.json"):
        main(Settings(run=tmp_path))


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"config\.json: missing; name the folder of a finished probe run"):
        main(Settings(run=tmp_path))
