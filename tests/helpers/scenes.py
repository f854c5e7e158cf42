"""Procedural scenes ready to be measured on, queries and keys made for them, and a small random model."""

from collections.abc import Sequence
from functools import cache

import pandas as pd
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from probe.layers import Layer, joint_layout
from probe.measure.references import measure_references
from probe.measure.scene import LayerCall, Scene, make_scene
from probe.metrics import GridTruth
from probe.models.cat3d import TINY, load_unet
from probe.models.model import MultiViewModel, cameo_scheduler
from probe.protocols import PROTOCOLS
from probe.scenes import Request, open_scenes
from probe.views import Views

Grid = tuple[int, int]
ROOMS = 8


@cache
def room(index: int) -> Views:
    """A procedural scene of one reference and two targets; scenes take the rotation bins in turn."""
    return open_scenes("shapes", Request(groups=ROOMS, views=3, n_ref=1, size=64)).load(index)[0]


@cache
def room_scene(index: int, *grids: Grid) -> Scene:
    """A room with the truth on these grids; no network sees it, so its noise is empty."""
    return make_scene(room(index), [layer_on(grid) for grid in grids], torch.zeros(1, 3, 1, 1, 1))


def truth_of(index: int, grid: Grid) -> GridTruth:
    return room_scene(index, grid).truths[grid]


@cache
def references(index: int, grid: Grid, protocol: str) -> pd.DataFrame:
    return measure_references(room_scene(index, grid), PROTOCOLS[protocol])


def layer_on(grid: Grid, heads: int = 1) -> Layer:
    return Layer(3, "blocks.3.attn", grid, heads, "3d")


def planted_call(q: Tensor, k: Tensor, grid: Grid, views: int = 3) -> LayerCall:
    """A 3D layer's call with made-up queries and keys."""
    layer = layer_on(grid, q.shape[1])
    layout = joint_layout(layer, views)
    return LayerCall(layer=layer, layout=layout, q=q, k=k, scale=1.0, model="planted", step=-1, timestep=500)


def codes(truth: GridTruth, token: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """Queries that name, for every key view, the token to match (-1 for none), among keys that carry their own name."""
    f, n = truth.points.shape[1:3]
    named = F.one_hot(token[0].clamp(min=0), n) * (token[0] >= 0)[..., None]
    q = rearrange(named, "fq n fk m -> 1 1 (fq n) (fk m)") * strength
    return q.float(), torch.eye(f * n)[None, None]


def small_random_model(**card: object) -> MultiViewModel:
    """The shipped model's wiring at 16 pixels: 3D layers on grids of 8, 4 and 2 tokens a side; rays take part."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = load_unet(None, {**TINY, "sample_size": 16})
        nn.init.normal_(network.add_conv_in.conv_out.weight, std=0.1)
    network.eval().requires_grad_(False)
    alpha_bar = cameo_scheduler().alphas_cumprod
    return MultiViewModel(name="toy", network=network, alpha_bar=alpha_bar, size=16, card=card or None)


def small_scene(layers: Sequence[Layer]) -> Scene:
    """A scene of three views for :func:`small_random_model`, with noise."""
    views = open_scenes("shapes", Request(groups=1, views=3, n_ref=1, size=32)).load(0)[0]
    return make_scene(views, layers, torch.randn(1, 3, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
