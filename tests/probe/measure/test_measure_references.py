"""References: on the queries that the protocol counts, on every grid, and none above the ceiling."""

import math

import pandas as pd
import pytest
import torch
from scenes import ROOMS, planted_call, references, room_scene, truth_of

from probe.measure.references import guesses_of_layers, measure_references, reference_scores
from probe.measure.score import score_call
from probe.metrics import thresholds
from probe.protocols import PROTOCOLS
from probe.records import CEILING, REFERENCES, UNIFORM, score_table

LIMITS = thresholds(None)
NAMES = [limit.name for limit in LIMITS]
GRIDS = pytest.mark.parametrize("grid", [(8, 8), (6, 10)])
PROTOCOL = pytest.mark.parametrize("name", ["attention-v1", "ratio-v1", "ratio-v2"])


def guesses_by_ratio(grid: tuple[int, int], name: str) -> list[pd.DataFrame]:
    """Guesses on the queries that random descriptors choose; attention-v1 has them among its references."""
    if name == "attention-v1":
        return []
    tables = []
    for index in range(ROOMS):
        scene, generator = room_scene(index, grid), torch.Generator().manual_seed(index)
        q, k = (torch.randn(1, 1, 3 * math.prod(grid), 8, generator=generator) for _ in range(2))
        guesses = guesses_of_layers(scene, PROTOCOLS[name])
        tables.append(score_table(score_call(planted_call(q, k, grid), scene, PROTOCOLS[name], guesses)))
    return tables


@GRIDS
@pytest.mark.parametrize("name", PROTOCOLS)
def test_no_reference_beats_the_ceiling(grid: tuple[int, int], name: str):
    """In each pair of views; a protocol that pools them keeps as many of each pair of pools, not of each pair."""
    table = pd.concat([references(index, grid, name) for index in range(ROOMS)] + (guesses_by_ratio(grid, name)))
    metrics = PROTOCOLS[name].metrics(LIMITS)
    rows = table[table["metric"].isin(metrics) & (table["head"] == -1)].astype({"metric": str, "model": str})
    if name != "attention-v1":
        assert set(rows["model"]) == {"planted", *REFERENCES}
    pair = ["direction"] if name == "cameo-release-v1" else ["query_view", "key_view"]
    rows = rows.assign(right=rows["value"] * rows["count"], direction=rows["direction"].astype(str))
    sums = rows.groupby(["scene", *pair, "metric", "model"], observed=True)[["right", "count"]].sum()
    wide = (sums["right"] / sums["count"]).unstack("model")  # noqa: PD010, each has one value
    assert len(wide) == ROOMS * (3 if name == "cameo-release-v1" else 6) * len(metrics)
    for model in set(wide.columns) - {CEILING}:
        assert (wide[model] <= wide[CEILING] + 1e-6).all(), model


@PROTOCOL
def test_references_score_the_queries_that_the_protocol_counts(name: str):
    scene, truth = room_scene(3, (6, 10)), truth_of(3, (6, 10))
    found = reference_scores(scene, truth, PROTOCOLS[name])
    assert tuple(found) == (REFERENCES if name == "attention-v1" else (CEILING,))
    other = ~torch.eye(3, dtype=torch.bool)
    counts = {kind: scores["precision@5%"][1][0, 0][other] for kind, scores in found.items()}
    visible = truth.visible.sum(2)[0][other]
    kept = torch.full_like(visible, 15)  # a quarter of sixty
    expected = visible if name == "attention-v1" else kept
    assert all(count.tolist() == expected.tolist() for count in counts.values())
    if name == "attention-v1":
        masses = {"mass_3x3", "mass_key_view", "entropy", "cross_entropy"}
        assert masses <= set(found[UNIFORM])
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
