"""Matches of one view's tokens, layer by layer, for the pictures of the page."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from torch import Tensor

from probe.layers import Layer
from probe.measure.model import denoise
from probe.measure.scene import LayerCall, Scene
from probe.metrics import GridTruth
from probe.models.model import MultiViewModel
from probe.protocols import Protocol
from probe.records import grid_name
from probe.views import Views


def example_matches(
    model: MultiViewModel, scene: Scene, layers: Sequence[Layer], t: int, protocol: Protocol
) -> pd.DataFrame:
    """List where every token of the last view goes in view 0, layer by layer.

    Returns:
        Positions as fractions of the image's width and height; the true one is NaN where the point is not visible.
    """
    frames: list[pd.DataFrame] = []

    def read(call: LayerCall) -> None:
        frames.append(match_rows(call, scene, protocol))

    denoise(model, scene, layers, t, read)
    return pd.concat(frames, ignore_index=True)


def match_rows(call: LayerCall, scene: Scene, protocol: Protocol) -> pd.DataFrame:
    """List where one layer's call leads every token of the last view in view 0.

    Args:
        call: Of the layer, on the scene.
        scene: Whose first view is looked at.
        protocol: That matches.

    Returns:
        Columns as :func:`example_matches` lists them.
    """
    truth = scene.truths[call.layout.grid]
    token = protocol.match(call, truth)[0, 0, -1, :, 0]
    layer = {"layer": call.layer.index, "layer_name": call.layer.name, "grid": grid_name(truth.grid)}
    return _rows(token, truth, scene.views).assign(**layer, timestep=call.timestep)


def _rows(token: Tensor, truth: GridTruth, views: Views) -> pd.DataFrame:
    size = np.array([views.size[1], views.size[0]])
    centres = truth.centres.cpu().numpy() / size
    visible = truth.visible[0, -1, :, 0].cpu().numpy()
    true = np.where(visible[:, None], truth.xy[0, -1, :, 0].cpu().numpy() / size, np.nan)
    match = centres[token.cpu().numpy()]
    columns = {"query": centres, "match": match, "true": true}
    rows = {f"{name}_{axis}": values[:, i] for name, values in columns.items() for i, axis in enumerate("xy")}
    fixed = {"scene": views.names[0], "n_ref": views.n_ref, "query_view": views.count - 1, "key_view": 0}
    return pd.DataFrame(rows).assign(visible=visible, **fixed)
