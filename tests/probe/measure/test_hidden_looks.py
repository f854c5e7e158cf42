"""Laws of where attention looks from points that the key view does not show."""

import math
from dataclasses import replace

import pytest
import torch
from einops import rearrange
from scenes import codes, layer_on, planted_call, room, room_scene, truth_of
from torch import Tensor

from probe.attention.masks import HIDDEN
from probe.layers import ViewLayout
from probe.matching import attention_matches
from probe.measure.hidden import (
    LEAST_PEAK,
    GridQueries,
    Looks,
    grid_queries,
    hidden_rows,
    looks,
    open_queries,
    queries_of_scene,
    right_match_weight,
    scores_by_cause,
)
from probe.measure.scene import LayerCall
from probe.metrics import nearest_token
from probe.records import KEY_VIEW_MASS, score_table
from probe.records.names import (
    AT_PROJECTION,
    CONFIDENT,
    HIDDEN_CAUSES,
    HIDDEN_METRICS,
    HIGHEST_WEIGHT,
    OCCLUDED,
    OUT_OF_FRAME,
    PROJECTION_CHANCE,
    PROJECTION_LEAD,
    RIGHT_MATCH_WEIGHT,
    SHARE_OF_ENTROPY,
    UNKNOWN,
    VISIBLE,
    of_queries,
    split_queries,
)
from probe.views import IMAGE_PLANE

GRID = (8, 8)
F, N = 3, 64
LAYOUT = ViewLayout(F, GRID)


@pytest.fixture(scope="module")
def queries() -> GridQueries:
    return grid_queries(room(1), truth_of(1, GRID))


def toy_looks(highest: Tensor, token: Tensor) -> Looks:
    """Looks of one row; mass and entropy follow the highest weight."""
    return Looks(token=token[:, None], mass=highest[:, None], highest=highest[:, None], entropy=1 - highest[:, None])


def value(measured, metric: str, cause: str) -> Tensor:
    """Give the values of a metric where something was counted."""
    values, count = measured[of_queries(metric, cause)]
    assert torch.equal(values.isnan(), count == 0)
    assert (count > 0).any()
    return values[count > 0]


# --- attention -------------------------------------------------------------------------------------------------------


def test_even_attention_has_full_entropy_the_least_peak_and_hallucinates_nothing(queries: GridQueries):
    flat = torch.zeros(1, 2, F * N, 4)
    seen = looks(flat, flat, 1.0, LAYOUT)
    torch.testing.assert_close(seen.entropy, torch.ones(1, 3, F, N, F))
    torch.testing.assert_close(seen.highest, torch.full((1, 3, F, N, F), 1 / N))
    torch.testing.assert_close(seen.mass, torch.full((1, 3, F, N, F), 1 / F))
    measured = scores_by_cause(seen, queries)
    for cause in (VISIBLE, *HIDDEN_CAUSES):
        assert (value(measured, CONFIDENT, cause) == 0).all()


def test_attention_to_one_token_has_no_entropy_and_hallucinates_every_hidden_point(queries: GridQueries):
    token = nearest_token(queries.truth, room(1).size)[:, 0]
    seen = looks(*codes(queries.truth, token, 60.0), 1.0, LAYOUT)
    assert torch.equal(seen.token[:, 0], token)
    torch.testing.assert_close(seen.entropy, torch.zeros_like(seen.entropy))
    torch.testing.assert_close(seen.highest, torch.ones_like(seen.highest))
    measured = scores_by_cause(seen, queries)
    for cause in (VISIBLE, *HIDDEN_CAUSES):
        assert (value(measured, CONFIDENT, cause) == 1).all()


def test_looks_are_those_of_the_matches():
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 2, F * N, 5, generator=generator)
    seen, expected = looks(q, k, 0.7, LAYOUT), attention_matches(q, k, 0.7, LAYOUT, truth_of(1, GRID).token)
    assert torch.equal(seen.token, expected.token)
    torch.testing.assert_close(seen.mass, expected.mass_key_view)
    torch.testing.assert_close(seen.entropy[:, :1] * math.log(N), expected.entropy)
    assert ((seen.highest >= 1 / N) & (seen.highest <= 1)).all()


def test_entropy_of_a_view_of_one_token_is_missing():
    flat = torch.zeros(1, 1, F, 4)
    assert looks(flat, flat, 1.0, ViewLayout(F, (1, 1))).entropy.isnan().all()


# --- by cause --------------------------------------------------------------------------------------------------------


def of_cause(queries: GridQueries, values: dict[str, float], otherwise: float = 0.5) -> Tensor:
    """A highest weight for each query by its cause."""
    weight = torch.full_like(queries.causes[VISIBLE], otherwise, dtype=torch.float32)
    for cause, number in values.items():
        weight[queries.causes[cause]] = number
    return weight


def test_a_visible_query_counts_nowhere_among_hidden_ones(queries: GridQueries):
    token = nearest_token(queries.truth, room(1).size)[:, 0]
    one, other = (
        scores_by_cause(toy_looks(of_cause(queries, {VISIBLE: weight}), token), queries) for weight in (0.3, 0.4)
    )
    for name, (values, count) in one.items():
        metric, cause = split_queries(name)
        if cause != VISIBLE and metric != CONFIDENT:  # which compares with visible ones
            assert torch.equal(count, other[name][1])
            torch.testing.assert_close(values, other[name][0], equal_nan=True)
    counts = {cause: one[of_queries(KEY_VIEW_MASS, cause)][1][0, 0] for cause in queries.causes}
    assert torch.equal(sum(counts.values()), N * (1 - torch.eye(F, dtype=torch.long)))
    assert torch.equal(counts[VISIBLE], queries.truth.visible.sum(2)[0])


def test_each_metric_is_the_mean_of_its_cause(queries: GridQueries):
    token = nearest_token(queries.truth, room(1).size)[:, 0]
    weights = {VISIBLE: 0.5, OCCLUDED: 0.4, OUT_OF_FRAME: 0.6, UNKNOWN: 0.1}
    measured = scores_by_cause(toy_looks(of_cause(queries, weights), token), queries)
    assert {split_queries(name)[0] for name in measured} == set(HIDDEN_METRICS)
    for cause, weight in ((VISIBLE, 0.5), (OCCLUDED, 0.4), (OUT_OF_FRAME, 0.6)):
        for metric, expected in ((HIGHEST_WEIGHT, weight), (KEY_VIEW_MASS, weight), (SHARE_OF_ENTROPY, 1 - weight)):
            found = value(measured, metric, cause)
            torch.testing.assert_close(found, torch.full_like(found, expected))
    assert (value(measured, CONFIDENT, VISIBLE) == 1).all()  # the weight of a right match reaches itself
    assert (value(measured, CONFIDENT, OCCLUDED) == 0).all()
    assert (value(measured, CONFIDENT, OUT_OF_FRAME) == 1).all()
    assert (value(measured, RIGHT_MATCH_WEIGHT, VISIBLE) == 0.5).all()


def test_no_weight_below_twice_the_uniform_one_is_a_match(queries: GridQueries):
    token = nearest_token(queries.truth, room(1).size)[:, 0]
    for weight, expected in ((0.99 * LEAST_PEAK / N, 0), (LEAST_PEAK / N, 1)):
        measured = scores_by_cause(toy_looks(of_cause(queries, {}, weight), token), queries)
        assert (value(measured, CONFIDENT, OCCLUDED) == expected).all()


def test_the_weight_of_right_matches_is_their_median_alone():
    highest = torch.tensor([0.1, 0.2, 0.3, 0.9, 0.8]).reshape(1, 1, 1, 5, 1)
    right = torch.tensor([True, True, True, True, False]).reshape(1, 1, 1, 5, 1)
    assert right_match_weight(highest, right).item() == pytest.approx(0.2)  # the lower of two
    assert right_match_weight(highest, torch.zeros_like(right)).isnan().all()


def test_where_no_match_is_right_nothing_is_judged(queries: GridQueries):
    """Every query names the token farthest from where its point is seen."""
    wrong = (nearest_token(queries.truth, room(1).size)[:, 0] + N // 2) % N
    measured = scores_by_cause(toy_looks(of_cause(queries, {}), wrong), queries)
    for cause in queries.causes:
        values, count = measured[of_queries(CONFIDENT, cause)]
        assert (values.isnan().all(), count.sum()) == (True, 0)
    assert value(measured, HIGHEST_WEIGHT, OCCLUDED).eq(0.5).all()


def test_matches_through_the_occluder_are_counted_against_chance(queries: GridQueries):
    token = nearest_token(queries.truth, room(1).size)[:, 0]
    measured = scores_by_cause(toy_looks(of_cause(queries, {}), token), queries)
    found, chance, lead = (
        value(measured, name, OCCLUDED) for name in (AT_PROJECTION, PROJECTION_CHANCE, PROJECTION_LEAD)
    )
    assert found.mean() > 0.5  # as far as 8 tokens a side can point
    assert chance.max() < 0.05
    torch.testing.assert_close(lead, found - chance)
    assert of_queries(AT_PROJECTION, OUT_OF_FRAME) not in measured


# --- masks, rows, refusals -------------------------------------------------------------------------------------------


def masked(call: LayerCall) -> LayerCall:
    """Hide the last token of view 0 from everyone."""
    bias = torch.zeros(1, 1, 1, F * N)
    bias[..., N - 1] = HIDDEN
    return replace(call, bias=bias)


def test_a_key_view_that_a_mask_hides_in_part_is_not_measured():
    call = masked(planted_call(torch.zeros(1, 1, F * N, 2), torch.zeros(1, 1, F * N, 2), GRID))
    assert open_queries(LAYOUT, call.bias).flatten().tolist() == [False, True, True]
    every = torch.zeros(1, 1, F * N, F * N)
    every[:, :, 5, 2 * N] = HIDDEN  # token 5 of view 0 does not see the first token of view 2
    closed = rearrange(~open_queries(LAYOUT, every), "1 fq n fk -> fq n fk").nonzero()
    assert closed.tolist() == [[0, 5, 2]]
    scene = room_scene(1, GRID)
    table = score_table([hidden_rows(call, scene, queries_of_scene(scene))])
    assert (table[table["key_view"] == 0]["count"] == 0).all()
    assert (table[table["key_view"] != 0]["count"] > 0).any()


def test_rows_name_the_call_and_hold_every_pair():
    scene, call = room_scene(1, GRID), planted_call(torch.zeros(1, 2, F * N, 2), torch.zeros(1, 2, F * N, 2), GRID)
    table = score_table([hidden_rows(call, scene, queries_of_scene(scene))])
    assert set(table["head"]) == {-1, 0, 1}
    assert (set(table["layer"]), set(table["timestep"])) == ({layer_on(GRID).index}, {500})
    assert len(table.drop_duplicates(["query_view", "key_view"])) == F * (F - 1)
    assert (table["value"].isna() == (table["count"] == 0)).all()


def test_scenes_without_cameras_are_refused():
    scene = room_scene(1, GRID)
    bare = replace(scene, views=replace(scene.views, unit=IMAGE_PLANE))
    with pytest.raises(ValueError, match=r"has no cameras, expected posed views.*measure on scenes with cameras"):
        queries_of_scene(bare)
