"""From scores to rows of the score table: pure."""

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from probe.measure.scene import Grid, LayerCall, Scene
from probe.metrics import Measured
from probe.protocols import Protocol
from probe.records import NO_LAYER, Rows


def score_call(call: LayerCall, scene: Scene, protocol: Protocol) -> list[Rows]:
    """Score one layer's call on one scene.

    Returns:
        Rows by metric, head and ordered pair of views; on the layer's grid, and on the common one if the protocol
        resamples.
    """
    own = {
        "model": call.model,
        "step": call.step,
        "layer": call.layer.index,
        "layer_name": call.layer.name,
        "timestep": call.timestep,
    }
    return [
        tabulate(
            scores.measured, scene, {**own, "grid": grid_name(scores.grid), "protocol": protocol.name + scores.suffix}
        )
        for scores in protocol.score(call, scene)
    ]


def tabulate(measured: Measured, scene: Scene, constants: Mapping[str, object]) -> Rows:
    """Lay measured values out as rows of the score table, one per metric, head and ordered pair.

    Args:
        measured: Row 0 of the second axis becomes head -1, the others heads 0, 1, ...
        scene: That was measured on.
        constants: The remaining columns: model, step, layer, layer_name, grid, timestep, protocol.
    """
    pairs = scene.pairs
    queries, keys = list(pairs.query_view), list(pairs.key_view)
    value, count = (torch.cat(parts, dim=1)[0, :, queries, keys] for parts in zip(*measured.values(), strict=True))
    rows = [value.shape[1] for value, _ in measured.values()]
    heads = np.concatenate([np.arange(number) - 1 for number in rows])
    text = {"pair": pairs.pair, "direction": pairs.direction}
    columns = {
        **{name: np.tile(np.array(column, dtype=object), len(heads)) for name, column in text.items()},
        "query_view": np.tile(queries, len(heads)),
        "key_view": np.tile(keys, len(heads)),
        "rotation_deg": np.tile(pairs.rotation_deg, len(heads)),
        "head": np.repeat(heads, len(queries)),
        "metric": np.repeat(np.array(list(measured), dtype=object), np.multiply(rows, len(queries))),
        "value": value.flatten().double().cpu().numpy(),
        "count": count.flatten().long().cpu().numpy(),
    }
    return Rows(columns=columns, constants={"scene": scene.name, "pair_list": "", **constants})


<<<<<<< HEAD
def _at_pairs(value: Tensor, queries: list[int], keys: list[int]) -> np.ndarray:
    """Read [1 rows fq fk] at ordered pairs of views: rows one after the other."""
    return value[0].cpu().numpy()[:, queries, keys].ravel()


def without_layer(model: str, grid: Grid, protocol: Protocol) -> dict[str, object]:
    """Return the columns of rows that belong to a grid and not to a layer."""
=======
def precisions(
    token: Int[Tensor, "b rows fq n fk"],
    counted: Bool[Tensor, "b #rows fq n fk"],
    truth: GridTruth,
    thresholds: tuple[Threshold, ...],
) -> Measured:
    """Measure the share of the counted queries whose match is right, per threshold; an error equal to it is wrong."""
    found = {kind: errors(token, truth, kind) for kind in {limit.kind for limit in thresholds}}
    return {limit.name: counted_mean(is_below(found[limit.kind], limit), counted) for limit in thresholds}


def attention_scores(
    q: Float[Tensor, "b heads joint d"],
    k: Float[Tensor, "b heads joint d"],
    scale: float,
    layout: ViewLayout,
    truth: GridTruth,
    thresholds: tuple[Threshold, ...],
) -> Measured:
    """Score one call by protocol ``attention-v1``: precisions and masses per head and together, entropies together."""
    matches = attention_matches(q, k, scale, layout, truth.token)
    visible = truth.visible[:, None]
    values = ("mass_3x3", "mass_key_view", "entropy", "cross_entropy")
    return {
        **precisions(matches.token, visible, truth, thresholds),
        **{name: counted_mean(getattr(matches, name), visible) for name in values},
    }


def common_grid_scores(
    q: Float[Tensor, "b heads joint d"],
    k: Float[Tensor, "b heads joint d"],
    scale: float,
    layout: ViewLayout,
    truth: GridTruth,
    thresholds: tuple[Threshold, ...],
) -> Measured:
    """Score one call after resampling its map to the grid of ``truth``; all heads together."""
    token = common_grid_matches(q, k, scale, layout, truth.grid)
    return precisions(token, truth.visible[:, None], truth, thresholds)


def ratio_scores(
    matches: RatioMatches, truth: GridTruth, thresholds: tuple[Threshold, ...], protocol: Protocol
) -> Measured:
    """Score matches by protocol ``ratio-v1``: precisions of the kept ones, their share, and precision over coverage."""
    valid = queries_with_points(truth)
    token = rearrange(matches.token, "b fq n fk -> b 1 fq n fk")
    kept = best_share(matches.ratio, valid, protocol.keep, protocol.most)
    measured = precisions(token, kept[:, None], truth, thresholds)
    measured["kept"] = counted_mean(kept[:, None], valid[:, None])
    for coverage in protocol.coverages:
        chosen = best_share(matches.ratio, valid, coverage)[:, None]
        curve = precisions(token, chosen, truth, thresholds)
        measured.update({f"{name}|coverage={coverage}": value for name, value in curve.items()})
    return measured


def queries_with_points(truth: GridTruth) -> Bool[Tensor, "b fq n fk"]:
    """Tell which queries of the ratio protocol can be judged: their own point is known, in another view or not."""
    return rearrange(truth.valid, "b fq n -> b fq n 1").expand_as(truth.visible)


def joint_layout(layer: Layer, views: int) -> ViewLayout:
    """Give the layout of the views' tokens side by side; a per-view layer's are put there by the caller.

    Raises:
        ValueError: If the layer works on no token grid.
    """
    if layer.kind == "view" and layer.grid is not None:
        return ViewLayout(views, layer.grid)
    return layer.layout(views)


def score_call(
    q: Float[Tensor, "b heads joint d"],
    k: Float[Tensor, "b heads joint d"],
    scale: float,
    layer: Layer,
    truths: Mapping[tuple[int, int], GridTruth],
    thresholds: tuple[Threshold, ...],
    protocol: Protocol,
    pairs: ScenePairs,
    constants: Mapping[str, object],
) -> list[Rows]:
    """Score one layer's call on one scene.

    Args:
        q: Queries as used, of a batch of one scene.
        k: Keys as used.
        scale: Factor of the logits.
        layer: Which layer it is.
        truths: Truth of every layer's grid; the finest is the common grid.
        thresholds: Of the protocol.
        protocol: How to match and count.
        pairs: Of the scene.
        constants: Columns model, step, scene, timestep, pair_list.
    """
    layout = joint_layout(layer, len(set(pairs.query_view)))
    truth = truths[layout.grid]
    own = {"layer": layer.index, "layer_name": layer.name, "grid": grid_name(layout.grid), **constants}
    if protocol.coverages:
        measured = ratio_scores(ratio_matches(q, k, layout), truth, thresholds, protocol)
        return [tabulate(measured, pairs, {**own, "protocol": protocol.name})]
    native = attention_scores(q, k, scale, layout, truth, thresholds)
    finest = truths[max(truths, key=lambda grid: grid[0] * grid[1])]
    if finest.grid == layout.grid:
        common = _all_heads({limit.name: native[limit.name] for limit in thresholds})
    else:
        common = common_grid_scores(q, k, scale, layout, finest, thresholds)
    shared = {**own, "grid": grid_name(finest.grid), "protocol": protocol.name + COMMON_GRID}
    return [tabulate(native, pairs, {**own, "protocol": protocol.name}), tabulate(common, pairs, shared)]


def descriptor_scores(
    descriptors: Float[Tensor, "b f n d"],
    truth: GridTruth,
    thresholds: tuple[Threshold, ...],
    protocol: Protocol,
) -> Measured:
    """Score a matcher without a model: the nearest descriptor in the key view."""
    joint = rearrange(descriptors, "b f n d -> b 1 (f n) d")
    matches = ratio_matches(joint, joint, ViewLayout(descriptors.shape[1], truth.grid))
    if protocol.coverages:
        return ratio_scores(matches, truth, thresholds, protocol)
    token = rearrange(matches.token, "b fq n fk -> b 1 fq n fk")
    return precisions(token, truth.visible[:, None], truth, thresholds)


def drawn_scores(weigh: Weigh, truth: GridTruth, thresholds: tuple[Threshold, ...], protocol: Protocol) -> Measured:
    """Score a matcher that draws: the probability of being right, over the queries that a guess is asked for.

    A draw has nothing to choose queries by: where the protocol keeps a share of them, it stands for all.
    """
    counted = queries_asked(truth, protocol)
    return {name: counted_mean(value, counted) for name, value in drawn_chance(truth, thresholds, weigh).items()}


def queries_asked(truth: GridTruth, protocol: Protocol) -> Bool[Tensor, "b 1 fq n fk"]:
    """Tell which queries a guess is asked for: the visible ones, or with a share kept all that can be judged."""
    return (queries_with_points(truth) if protocol.coverages else truth.visible)[:, None]


def reference_scores(
    views: Views, truth: GridTruth, thresholds: tuple[Threshold, ...], protocol: Protocol
) -> dict[str, Measured]:
    """Compute what a uniform guess, the same position and the best token of the grid score, on the same queries.

    The best token is the one that contains the true position, and for thresholds in 3D the one whose point is nearest.
    Where the protocol keeps a share of the queries, guesses have nothing to choose them by and stand for all of them;
    the best token's are chosen by its true error. So no matcher on this grid beats the ceiling.
    """
    counted = queries_asked(truth, protocol)
    uniform = {name: counted_mean(value, counted) for name, value in uniform_chance(truth, thresholds).items()}
    return {
        UNIFORM: uniform if protocol.coverages else uniform | _uniform_attention(truth),
        SAME_POSITION: precisions(same_position(truth), counted, truth, thresholds),
        CEILING: _ceiling(views, truth, thresholds, protocol),
    }


def _ceiling(views: Views, truth: GridTruth, thresholds: tuple[Threshold, ...], protocol: Protocol) -> Measured:
    in_image = nearest_token(truth, views.size)
    in_3d = rearrange(match_tokens(views.point_map, views.valid, truth.grid).index, "b fq n fk -> b 1 fq n fk")
    measured: Measured = {}
    for threshold in thresholds:
        token = in_image if threshold.kind in ("image", "token") else in_3d
        measured |= _with_hindsight(token, truth, threshold, protocol)
    return measured


def _with_hindsight(
    token: Int[Tensor, "b 1 fq n fk"], truth: GridTruth, threshold: Threshold, protocol: Protocol
) -> Measured:
    """Score one match per query, and choose queries by their true error where the protocol keeps a share of them."""
    if not protocol.coverages:
        return precisions(token, truth.visible[:, None], truth, (threshold,))
    error = errors(token, truth, threshold.kind)[:, 0].nan_to_num(nan=torch.finfo(torch.float32).max)
    return ratio_scores(RatioMatches(token=token[:, 0], ratio=error), truth, (threshold,), protocol)


def _uniform_attention(truth: GridTruth) -> Measured:
    """Score attention that is equal everywhere: what masses, entropy and cross-entropy mean by chance."""
    n, f = len(truth.centres), truth.points.shape[1]
    flat = torch.zeros(len(truth.points), 1, f * n, 1, device=truth.xy.device)
    return _all_heads(attention_scores(flat, flat, 1.0, ViewLayout(f, truth.grid), truth, ()))


def _all_heads(measured: Measured) -> Measured:
    return {name: (value[:, :1], count[:, :1]) for name, (value, count) in measured.items()}


def unlayered(model: str, grid: tuple[int, int], protocol: Protocol) -> dict[str, object]:
    """Give the columns of rows that belong to a grid and not to a layer."""
>>>>>>> h-speed
    return {
        "model": model,
        "step": -1,
        "layer": NO_LAYER,
        "layer_name": "",
        "grid": grid_name(grid),
        "timestep": -1,
        "protocol": protocol.name,
    }


def grid_name(grid: Grid) -> str:
    """Write a grid as rows x columns: "16x16"."""
    return f"{grid[0]}x{grid[1]}"
