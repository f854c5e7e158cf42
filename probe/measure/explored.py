"""What the page's match explorer shows: for each query token of an example scene, where every layer and head looks.

Matches are kept exactly. Attention is kept as queries and keys in half precision, of which the page computes all
weights; where these are too many (:data:`EXACT_NUMBERS`) or a mask hides keys, as maps pooled to at most 8 x 8 cells.
Shares are the square root of their value in one byte. Streamed over query tokens, so no attention map is ever held
whole.

Tensors are named "what/part/scene"; the part is a layer's index, a grid such as "16x16", or "-". Axes beside the usual:
``t`` timesteps, ``rows`` all heads together and then each head, ``queries`` the query tokens kept of a view, ``other``
the kept views without the query's, in order.
"""

from collections.abc import Sequence

import torch
from einops import einsum, rearrange, reduce, repeat
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from torch import Tensor

from probe.geometry import fundamental_matrix
from probe.layers import Layer, ViewLayout, joint_layout
from probe.matching import Bias, first_highest, ratio_matches, weights_within_views
from probe.measure.model import denoise
from probe.measure.scene import LayerCall, Scene
from probe.metrics import GridTruth, Threshold, correct
from probe.models.model import MultiViewModel
from probe.protocols import RATIO_V1
from probe.records import grid_name
from probe.views import Views

VIEWS, SIDE, CELLS = 4, 16, 8  # at most: views kept, query tokens along a side of a view, cells along a side of a map
RUNNERS_UP = 2
LEVELS, MAP_LEVELS = 255, 15
VERSION = 3  # of the tensors: 1 has pooled maps only, 2 queries and keys in 8 bits; both without a number
EXACT_NUMBERS = 4 * 2**20  # of one layer's queries and keys at one timestep; beyond it maps are kept instead
HEAD_MAPS_BYTES = 64 * 2**20  # of one scene; beyond it the heads are kept at fewer timesteps, the middle ones
BY_ROW = ("token", "right", "share", "mass", "map")  # with a row of all heads together and one of each head


# --- what is kept ----------------------------------------------------------------------------------------------------


def kept_views(views: int) -> list[int]:
    """List the views kept: all, or four evenly spread ones, the first and the last among them."""
    if views <= VIEWS:
        return list(range(views))
    return [round(n * (views - 1) / (VIEWS - 1)) for n in range(VIEWS)]


def key_views(views: Sequence[int]) -> Int[Tensor, "fq other"]:
    """Return the other views of each kept view."""
    return torch.tensor([[key for key in views if key != query] for query in views])


def query_tokens(grid: tuple[int, int]) -> Int[Tensor, " queries"]:
    """List the query tokens kept of a view: all, or those in the middle of at most 16 x 16 blocks of the grid."""
    rows, columns = (_middles(side, min(side, SIDE)) for side in grid)
    return torch.tensor([row * grid[1] + column for row in rows for column in columns])


def _middles(side: int, blocks: int) -> list[int]:
    return [(2 * n + 1) * side // (2 * blocks) for n in range(blocks)]


def head_timesteps(timesteps: Sequence[int], layers: Sequence[Layer], views: int) -> list[int]:
    """List the positions of the timesteps at which single heads are kept: those nearest to the middle that fit.

    The middle one is always among them.
    """
    f, middle = len(kept_views(views)), len(timesteps) // 2
    grids = [(layer.heads, joint_layout(layer, views).grid) for layer in layers]
    cells = sum(heads * len(query_tokens(g)) * min(g[0], CELLS) * min(g[1], CELLS) for heads, g in grids)
    fitting = max(1, HEAD_MAPS_BYTES // (cells * f * (f - 1)))
    nearest = sorted(range(len(timesteps)), key=lambda position: (abs(position - middle), position))
    return sorted(nearest[:fitting])


def of_pairs(
    values: Shaped[Tensor, "*lead f n f"], views: Sequence[int], queries: Int[Tensor, " queries"]
) -> Shaped[Tensor, "*lead fq queries other"]:
    """Pick the kept views, the query tokens of each, and each one's other views."""
    kept = values.index_select(-3, torch.tensor(views)).index_select(-2, queries)
    index = repeat(key_views(views), "fq other -> fq queries other", queries=len(queries))
    return kept.gather(-1, index.expand(*kept.shape[:-1], -1))


# --- coding ----------------------------------------------------------------------------------------------------------


def quantise(share: Float[Tensor, "*shape"], levels: int) -> UInt8[Tensor, "*shape"]:
    """Round the square root of a share in [0, 1] to one of ``levels`` steps; the error is at most half a step."""
    return (share.clamp(0, 1).sqrt() * levels).round().to(torch.uint8)


def exact_attention(call: LayerCall, views: Sequence[int]) -> dict[str, Tensor]:
    """Return a call's queries, times the factor of the logits, and keys, in half precision; nothing if they are many.

    Keys are without their mean, which changes no weight: a query's logits all move alike.

    Args:
        call: Of one layer on one scene.
        views: Those to keep.

    Returns:
        q [fq queries heads d] and k [f n heads d], off by at most 2**-11 of each number's size, or 2**-25. Empty where
        they are too many, or where a mask hides keys, which the page would have to know.
    """
    q, k = (_of_views(x, call.layout, views) for x in (call.q, call.k))
    q = q[:, query_tokens(call.layout.grid)] * call.scale
    if call.bias is not None or q.numel() + k.numel() > EXACT_NUMBERS:
        return {}
    return {"q": _in_half(q.cpu()), "k": _in_half((k - k.mean((0, 1))).cpu())}


def _in_half(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return numbers in half precision, or as they are where one is too large for it."""
    return half if (half := x.half()).isfinite().all() else x


def _of_views(
    x: Float[Tensor, "1 heads joint d"], layout: ViewLayout, views: Sequence[int]
) -> Float[Tensor, "f n heads d"]:
    return rearrange(layout.split(x).float(), "1 heads f h w d -> f (h w) heads d")[list(views)]


def pooling(side: int) -> Float[Tensor, "cells side"]:
    """Return the matrix that averages the tokens along a side into at most 8 cells; sizes differ by one at most."""
    cells = min(side, CELLS)
    member = (torch.arange(side) * cells // side == torch.arange(cells)[:, None]).float()
    return member / member.sum(1, keepdim=True)


def coarse_maps(weights: Float[Tensor, "*lead n"], grid: tuple[int, int]) -> UInt8[Tensor, "*lead cells"]:
    """Average the weights over at most 8 x 8 cells, and code each cell's value over the highest cell's."""
    down, across = (pooling(side).to(weights) for side in grid)
    maps = rearrange(weights, "... (h w) -> ... h w", h=grid[0])
    cells = rearrange(einsum(down, maps, across, "i h, ... h w, j w -> ... i j"), "... i j -> ... (i j)")
    return quantise(cells / reduce(cells, "... cells -> ... 1", "max"), MAP_LEVELS)


def runners_up(weights: Float[Tensor, "*lead n"]) -> Int[Tensor, "*lead 2"]:
    """Return the tokens of the second and the third highest weight, the first of equal ones; a single one twice."""
    left, best = weights.clone(), []
    for _ in range(1 + RUNNERS_UP):
        best.append(first_highest(left)[..., None])
        left.scatter_(-1, best[-1], -1.0)
    return torch.cat(best[1:], dim=-1)


# --- reading a call --------------------------------------------------------------------------------------------------


def read_attention(
    q: Float[Tensor, "1 heads joint d"],
    k: Float[Tensor, "1 heads joint d"],
    scale: float,
    layout: ViewLayout,
    views: Sequence[int],
    bias: Bias = None,
) -> tuple[Int[Tensor, "rows f n f"], dict[str, Tensor]]:
    """Read a call's matches, weights and coarse maps.

    Args:
        q: Queries as used by the layer.
        k: Keys as used by the layer.
        scale: Factor of the logits.
        layout: Where the views' tokens lie.
        views: Those to keep.
        bias: What the layer's mask adds to the logits.

    Returns:
        The matches of all query tokens, as :func:`probe.matching.attention_matches` returns them; and of the
        queries kept and the other views, coded: runner_up [fq queries other 2] of all heads together, and by row share
        (of the key view's weight, on the match), mass (of all weight, on the key view) and map. Not coded: within
        [fq queries heads], the share of a head's weight that falls on the views kept, the query's own among them.
    """
    n, queries = layout.grid[0] * layout.grid[1], query_tokens(layout.grid)
    wanted = torch.zeros(layout.views, n, dtype=torch.bool, device=q.device)
    wanted[torch.tensor(views, device=q.device)[:, None], queries.to(q.device)] = True
    keys = repeat(key_views(views), "fq other -> (fq queries) other", queries=len(queries)).to(q.device)
    start, done, tokens, parts = 0, 0, list[Tensor](), list[tuple[Tensor, ...]]()
    for weights, mass in weights_within_views(q, k, scale, layout, bias=bias):
        here = wanted.flatten()[start : start + weights.shape[2]].nonzero()[:, 0]
        start, mine = start + weights.shape[2], keys[done : done + len(here)]
        done += len(here)
        tokens.append(first_highest(weights)[0].cpu())
        within = rearrange(mass[0][1:, here][..., list(views)].sum(-1), "heads r -> 1 r heads")
        parts.append((*_of_others(weights[0][:, here], mass[0][:, here], mine, layout.grid), within.cpu()))
    columns = (torch.cat(column, dim=1) for column in zip(*parts, strict=True))
    split = [rearrange(x, "rows (fq queries) ... -> rows fq queries ...", fq=len(views)) for x in columns]
    runner_up, share, mass, maps, within = split
    token = rearrange(torch.cat(tokens, dim=1), "rows (fq n) fk -> rows fq n fk", fq=layout.views)
    coded = {"runner_up": runner_up[0].to(torch.uint16), "share": share, "mass": mass, "map": maps}
    return token, coded | {"within": within[0].clamp(max=1)}


def _of_others(
    weights: Float[Tensor, "rows r fk n"],
    mass: Float[Tensor, "rows r fk"],
    keys: Int[Tensor, "r other"],
    grid: tuple[int, int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Read some query tokens' weights in their other views."""
    rows = len(weights)
    index = keys.expand(rows, *keys.shape)
    inside = weights.gather(2, repeat(index, "rows r other -> rows r other n", n=weights.shape[-1]))
    share = quantise(inside.amax(-1), LEVELS)
    parts = runners_up(inside[:1]), share, quantise(mass.gather(2, index), LEVELS), coarse_maps(inside, grid)
    return tuple(part.cpu() for part in parts)  # type: ignore[return-value]


def read_call(call: LayerCall, truth: GridTruth, threshold: Threshold, views: Sequence[int]) -> dict[str, Tensor]:
    """Read all that is kept of a call, by both protocols; what is right is told by the code that scores the run.

    Args:
        call: Of one layer on one scene.
        truth: Of the layer's grid.
        threshold: Which matches are right.
        views: Those to keep.

    Returns:
        What :func:`read_attention` gives, and: token and right [rows fq queries other]; ratio_token, ratio, ratio_right
        and ratio_kept (the protocol's share of the query tokens, the least ambiguous) [fq queries other]; and what
        :func:`exact_attention` gives, in place of the map; without it nothing is within.
    """
    queries = query_tokens(call.layout.grid)

    def picked(values: Shaped[Tensor, "*lead f n f"]) -> Tensor:
        return of_pairs(values.cpu(), views, queries)

    token, coded = read_attention(call.q, call.k, call.scale, call.layout, views, call.bias)
    nearest = ratio_matches(call.q, call.k, call.layout)
    kept, exact = RATIO_V1.kept(nearest, truth), exact_attention(call, views)
    del coded["map" if exact else "within"]
    return (
        coded
        | exact
        | {
            "token": picked(token).to(torch.uint16),
            "right": picked(_right(token.to(call.q.device), truth, threshold)),
            "ratio_token": picked(nearest.token[0]).to(torch.uint16),
            "ratio": quantise(picked(nearest.ratio[0]), LEVELS),
            "ratio_right": picked(_right(nearest.token, truth, threshold)[0]),
            "ratio_kept": picked(kept[0]),
        }
    )


def _right(token: Int[Tensor, "rows f n f"], truth: GridTruth, threshold: Threshold) -> Bool[Tensor, "rows f n f"]:
    return correct(rearrange(token, "rows fq n fk -> 1 rows fq n fk"), truth, threshold)[0]


# --- a scene ---------------------------------------------------------------------------------------------------------


def scene_geometry(scene: Scene) -> dict[str, Tensor]:
    """Return what is true of a scene, whatever the model; positions are fractions of the image's width and height.

    Returns:
        views: the kept ones' indexes. fundamental [fq other 3 3]: a position's epipolar line, zero where there is none.
        By grid: asked, the query tokens; query_xy [fq queries 2], where the query token's point lies in its own view,
        NaN where it has none; true_xy [fq queries other 2], where it lies in the others, NaN where that is unknown;
        visible [fq queries other], whether they show it.
    """
    views = scene.views
    kept = kept_views(views.count)
    geometry = {"views/-": torch.tensor(kept), "fundamental/-": _fundamentals(views, kept)}
    for grid, truth in scene.truths.items():
        queries, own, name = query_tokens(grid), torch.tensor(kept), grid_name(grid)
        xy = truth.xy[0].cpu() / torch.tensor([views.size[1], views.size[0]])
        geometry |= {
            f"asked/{name}": queries,
            f"query_xy/{name}": xy[own[:, None], queries, own[:, None]],
            f"true_xy/{name}": torch.stack([of_pairs(axis, kept, queries) for axis in xy.unbind(-1)], dim=-1),
            f"visible/{name}": of_pairs(truth.visible[0].cpu(), kept, queries),
        }
    return geometry


def _fundamentals(views: Views, kept: Sequence[int]) -> Float[Tensor, "fq other 3 3"]:
    """Turn the matrices from pixels to fractions of the image."""
    query, key = torch.tensor(kept)[:, None], key_views(kept)
    cameras = views.intrinsics[0].cpu(), views.world_to_cam[0].cpu()
    query_cameras, key_cameras = ([x[index].expand(*key.shape, -1, -1) for x in cameras] for index in (query, key))
    size = torch.diag(torch.tensor([views.size[1], views.size[0], 1.0]))
    return size @ fundamental_matrix(*query_cameras, *key_cameras) @ size


def explore_scene(
    model: MultiViewModel, scene: Scene, layers: Sequence[Layer], timesteps: Sequence[int], threshold: Threshold
) -> dict[str, Tensor]:
    """Read what the match explorer shows of one scene: one forward pass per timestep.

    Args:
        model: The model.
        scene: To show.
        layers: Those to show; one whose grid is a single token, which has nowhere else to look, is left out.
        timesteps: Those to show.
        threshold: Which matches are right.

    Returns:
        Tensors "what/part/scene": what :func:`scene_geometry` returns, and by layer what :func:`read_call` returns,
        with all heads together [t ...], and with the single heads as head_token, head_right, head_share, head_mass and
        head_map [heads_t heads ...]; head_timesteps are the positions of the latter's timesteps. version: of the
        format.
    """
    views = scene.views.count
    layers = [layer for layer in layers if joint_layout(layer, views).grid != (1, 1)]
    kept, with_heads = kept_views(views), head_timesteps(timesteps, layers, views)
    read: dict[str, list[Tensor]] = {}

    for position, t in enumerate(timesteps):

        def keep(call: LayerCall, heads: bool = position in with_heads) -> None:
            values = read_call(call, scene.truths[call.layout.grid], threshold, kept)
            for name, value in _by_heads(values, heads=heads).items():
                read.setdefault(f"{name}/{call.layer.index}", []).append(value)

        denoise(model, scene, layers, t, keep)
    shown = scene_geometry(scene) | {name: torch.stack(values) for name, values in read.items()}
    shown |= {"head_timesteps/-": torch.tensor(with_heads), "version/-": torch.tensor([VERSION])}
    return {f"{name}/{scene.name}": value.contiguous() for name, value in shown.items()}


def explored_bytes(scene: Scene, timesteps: Sequence[int], threshold: Threshold, calls: Sequence[LayerCall]) -> int:
    """Count the bytes of what :func:`explore_scene` returns.

    Args:
        scene: To show.
        timesteps: Those to show.
        threshold: Which matches are right.
        calls: One of each layer; their numbers do not matter.
    """
    views = scene.views.count
    calls = [call for call in calls if call.layout.grid != (1, 1)]
    with_heads = len(head_timesteps(timesteps, [call.layer for call in calls], views))
    total = _bytes_of(scene_geometry(scene))
    for call in calls:
        values = read_call(call, scene.truths[call.layout.grid], threshold, kept_views(views))
        together, both = (_bytes_of(_by_heads(values, heads=heads)) for heads in (False, True))
        total += len(timesteps) * together + with_heads * (both - together)
    return total


def _bytes_of(tensors: dict[str, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _by_heads(values: dict[str, Tensor], *, heads: bool) -> dict[str, Tensor]:
    """Part the row of all heads together from the single heads, which not every timestep has."""
    by_row = [name for name in BY_ROW if name in values]
    together = {name: value[0] if name in by_row else value for name, value in values.items()}
    return together | ({f"head_{name}": values[name][1:] for name in by_row} if heads else {})
