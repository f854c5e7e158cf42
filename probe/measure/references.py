"""What a uniform guess, the same position and the best token of the grid score, on the queries of the protocol."""

import pandas as pd
from einops import rearrange

from probe.correspondence import match_tokens
from probe.measure.scene import Scene
from probe.measure.score import tabulate, without_layer
from probe.metrics import (
    GridTruth,
    Measured,
    counted_mean,
    nearest_token,
    precisions,
    same_position,
    uniform_chance,
)
from probe.protocols import Protocol
from probe.records import CEILING, SAME_POSITION, UNIFORM, score_table


def measure_references(scene: Scene, protocol: Protocol) -> pd.DataFrame:
    """Score uniform chance, the same position and the ceiling on every grid of one scene."""
    return score_table(
        [
            tabulate(measured, scene, without_layer(name, truth.grid, protocol))
            for truth in scene.truths.values()
            for name, measured in reference_scores(scene, truth, protocol).items()
        ]
    )


def reference_scores(scene: Scene, truth: GridTruth, protocol: Protocol) -> dict[str, Measured]:
    """Compute what a uniform guess, the same position and the best token of the grid score, on the same queries.

    The best token is the one that contains the true position, and for thresholds in 3D the one whose point is nearest.
    Where the protocol keeps a share of the queries, guesses have nothing to choose them by and stand for all of them;
    the best token's are chosen by its true error. So no matcher on this grid beats the ceiling.
    """
    evaluated = protocol.evaluated(truth)
    chance = uniform_chance(truth, scene.thresholds)
    return {
        UNIFORM: {name: counted_mean(value, evaluated) for name, value in chance.items()} | protocol.uniform(truth),
        SAME_POSITION: precisions(same_position(truth), evaluated, truth, scene.thresholds),
        CEILING: _ceiling(scene, truth, protocol),
    }


def _ceiling(scene: Scene, truth: GridTruth, protocol: Protocol) -> Measured:
    views = scene.views
    in_image = nearest_token(truth, views.size)
    in_3d = rearrange(match_tokens(views.point_map, views.valid, truth.grid).index, "b fq n fk -> b 1 fq n fk")
    measured: Measured = {}
    for threshold in scene.thresholds:
        token = in_image if threshold.kind in ("image", "token") else in_3d
        measured |= protocol.oracle(token, truth, threshold)
    return measured
