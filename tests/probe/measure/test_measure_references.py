"""References: on the queries that the protocol counts, on every grid, and none above the ceiling."""

import math

import pandas as pd
import pytest
import torch
from scenes import ROOMS, references, room_scene, truth_of

from probe.measure.references import measure_references, reference_scores
from probe.metrics import thresholds
from probe.protocols import PROTOCOLS, judged_queries
from probe.records import CEILING, REFERENCES, SAME_POSITION, UNIFORM

LIMITS = thresholds(None)
NAMES = [limit.name for limit in LIMITS]
GRIDS = pytest.mark.parametrize("grid", [(8, 8), (6, 10)])
PROTOCOL = pytest.mark.parametrize("name", ["attention-v1", "ratio-v1"])


@GRIDS
@PROTOCOL
def test_no_reference_beats_the_ceiling(grid: tuple[int, int], name: str):
    table = pd.concat([references(index, grid, name) for index in range(ROOMS)])
    wide = table[table["metric"].isin(NAMES)].pivot_table(
        index=["scene", "query_view", "key_view", "metric"], columns="model", values="value", observed=True
    )
    assert len(wide) == ROOMS * 6 * len(LIMITS)
    assert (wide[UNIFORM] <= wide[CEILING] + 1e-6).all()
    assert (wide[SAME_POSITION] <= wide[CEILING] + 1e-6).all()


@PROTOCOL
def test_references_score_the_queries_that_the_protocol_counts(name: str):
    scene, truth = room_scene(3, (6, 10)), truth_of(3, (6, 10))
    found = reference_scores(scene, truth, PROTOCOLS[name])
    assert tuple(found) == REFERENCES
    other = ~torch.eye(3, dtype=torch.bool)
    counts = {kind: found[kind]["precision@5%"][1][0, 0][other] for kind in REFERENCES}
    visible, valid = truth.visible.sum(2)[0][other], judged_queries(truth).sum(2)[0][other]
    kept = torch.full_like(valid, 15)  # a quarter of sixty
    expected = {"attention-v1": (visible,) * 3, "ratio-v1": (valid, valid, kept)}[name]
    assert [counts[kind].tolist() for kind in REFERENCES] == [count.tolist() for count in expected]
    masses = {"mass_3x3", "mass_key_view", "entropy", "cross_entropy"}
    assert masses & set(found[UNIFORM]) == (masses if name == "attention-v1" else set())
    if name == "attention-v1":
        assert found[UNIFORM]["entropy"][0][0, 0][other].tolist() == pytest.approx([math.log(60)] * 6)
        assert found[UNIFORM]["mass_key_view"][0][0, 0][other].tolist() == pytest.approx([1 / 3] * 6)


def test_rows_of_references_belong_to_a_grid_and_to_no_layer():
    table = measure_references(room_scene(0, (4, 4), (8, 8)), PROTOCOLS["attention-v1"])
    assert set(table["grid"]) == {"4x4", "8x8"}
    assert (table[["layer", "head", "timestep", "step"]] == -1).all(axis=None)
    assert set(table["model"]) == set(REFERENCES)
    assert not table[table["count"] == 0]["value"].notna().any()


def test_references_stand_on_every_grid():
    table = measure_references(room_scene(1, (8, 8), (4, 4), (2, 2)), PROTOCOLS["attention-v1"])
    assert set(table["grid"]) == {"8x8", "4x4", "2x2"}
    assert table.groupby(["model", "grid"], observed=True).size().loc["ceiling"].tolist() == [6 * len(LIMITS)] * 3
