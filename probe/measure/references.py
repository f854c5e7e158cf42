"""What a uniform guess, the same position and the best token of the grid score, on the queries of the protocol."""

import pandas as pd
from einops import rearrange

from probe.correspondence import match_views
from probe.measure.scene import Grid, Scene
from probe.measure.score import tabulate, without_layer
from probe.metrics import (
    GridTruth,
    Measured,
    judged_mean,
    nearest_projection,
    nearest_token,
    right_matches,
    same_position,
    uniform_chance,
)
from probe.protocols import Probabilities, Protocol
from probe.records import CEILING, SAME_POSITION, UNIFORM, score_table

Guesses = dict[str, Probabilities]
"""By the reference's name."""


def measure_references(scene: Scene, protocol: Protocol) -> pd.DataFrame:
    """Score the references that belong to a grid, on every grid of one scene.

    Where each layer chooses its queries, uniform chance and the same position belong to the layer and stand in its rows
    (:func:`probe.measure.score.score_call`).
    """
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
    Where layers choose their queries, the best token's are chosen by its true error, and guesses are absent. So no
    matcher on this grid beats the ceiling.
    """
    ceiling = {CEILING: _ceiling(scene, truth, protocol)}
    if protocol.chooses:
        return ceiling
    evaluated = protocol.evaluated(truth)
    scores = {name: judged_mean(guess, evaluated, truth) for name, guess in guesses(scene, truth, protocol).items()}
    return {**scores, UNIFORM: scores[UNIFORM] | protocol.uniform(truth), **ceiling}


def guesses(scene: Scene, truth: GridTruth, protocol: Protocol) -> Guesses:
    """Return how likely a uniform guess and the same position are right, query by query."""
    limits = protocol.limits(scene.thresholds)
    return {UNIFORM: uniform_chance(truth, limits), SAME_POSITION: right_matches(same_position(truth), truth, limits)}


def guesses_of_layers(scene: Scene, protocol: Protocol) -> dict[Grid, Guesses]:
    """Return the guesses that are scored in the layers' rows, by grid; none where they are scored once per grid."""
    if not protocol.chooses:
        return {}
    return {grid: guesses(scene, truth, protocol) for grid, truth in scene.truths.items()}


def _ceiling(scene: Scene, truth: GridTruth, protocol: Protocol) -> Measured:
    views = scene.views
    in_image = nearest_token(truth, views.size)
    in_3d = rearrange(match_views(views, truth.grid).index, "b fq n fk -> b 1 fq n fk")
    best = {"image": in_image, "token": in_image, "projection": nearest_projection(truth)}
    measured: Measured = {}
    for threshold in protocol.limits(scene.thresholds):
        measured |= protocol.oracle(best.get(threshold.kind, in_3d), truth, threshold)
    return measured
