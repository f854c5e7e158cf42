"""Look at one network: what is found, whether it can be scored, what is said."""

import warnings
from collections import Counter
from collections.abc import Mapping
from functools import cache
from typing import Any

import diffusers
import pandas as pd
import torch
from torch import nn

from benchmarks.networks.entry import Entry, build
from benchmarks.networks.images import IMAGES
from benchmarks.networks.videos import VIDEOS
from probe.attention.masks import logit_bias
from probe.capture import AttentionTap
from probe.layers import JOINING, Layer, find_layers
from probe.measure.model import layer_call
from probe.measure.scene import make_scene
from probe.measure.score import score_call
from probe.models.model import MultiViewModel
from probe.protocols import ATTENTION_V1
from probe.records import PRECISION, score_table
from probe.scenes import Request, open_scenes
from probe.views import Views

ENTRIES: Mapping[str, Entry] = {**VIDEOS, **IMAGES}
SIZE = 64
MASKED = "masked"


def look(name: str) -> dict[str, object]:
    """Return the row of one network: what find_layers and a score make of it."""
    entry = ENTRIES[name]
    network = build(entry)
    layers, said = _looked(entry, network)
    first = next((layer for layer in layers if layer.kind in (*JOINING, "view")), None)
    return {
        "entry": name,
        "class": entry.network,
        "expects": " ".join(entry.expects),
        "found": ", ".join(f"{count} {kind}" for kind, count in Counter(layer.kind for layer in layers).items()),
        **_columns(first),
        "scored": scored(entry, network, layers),
        "said": said,
        "note": entry.note,
        "diffusers": diffusers.__version__,
    }


def _looked(entry: Entry, network: nn.Module) -> tuple[list[Layer], str]:
    """Return the layers of a network and what is warned of; no layers and the error where it is refused."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            layers = layers_of(entry, network)
        except (ValueError, RuntimeError) as error:
            return [], str(error)
    lines = [str(line.message) for line in caught]
    return layers, " / ".join(line for line in lines if line.startswith("find_layers"))


def layers_of(entry: Entry, network: nn.Module) -> list[Layer]:
    """Find the layers of a network as its entry says."""
    return find_layers(
        network, entry.inputs, views=entry.views, scales=entry.scales, aspect=entry.aspect, layout=entry.layout
    )


def _columns(layer: Layer | None) -> dict[str, object]:
    if layer is None:
        return dict.fromkeys(("index", "layer", "kind", "grid", "order", "beside"), "")
    grid = "x".join(map(str, layer.grid or ()))
    order = layer.order + (f", blocks {layer.block}" if layer.block != (1, 1) else "")
    beside = (layer.prefix, layer.suffix, layer.per_view_prefix, layer.per_view_suffix)
    return {
        "index": layer.index,
        "layer": layer.name,
        "kind": layer.kind,
        "grid": grid,
        "order": order,
        "beside": " ".join(map(str, beside)),
    }


def scored(entry: Entry, network: nn.Module, layers: list[Layer]) -> str:
    """Score layers by attention-v1 on a room that their inputs do not show, and say how it went."""
    went = [_score(entry, network, layer) for layer in layers if layer.kind in (*JOINING, "view")]
    good, masked = sum(line in ("", MASKED) for line in went), went.count(MASKED)
    reasons = dict.fromkeys(line for line in went if line not in ("", MASKED))
    return "; ".join([f"{good} of {len(went)}" + f", {masked} masked" * (masked > 0), *reasons]) if went else ""


def _score(entry: Entry, network: nn.Module, layer: Layer) -> str:
    """Return nothing where a layer's scores are in range, a word where it is masked, or why it is not scored."""
    try:
        table, masked = scores(entry, network, layer)
    except (ValueError, RuntimeError) as error:
        return str(error)
    values = table[table["metric"].str.startswith(PRECISION)]["value"].dropna()  # of keys that queries see
    if values.empty or not values.between(0, 1).all():
        return f"{layer.name}: precision outside of [0, 1]"
    return MASKED if masked else ""


def scores(entry: Entry, network: nn.Module, layer: Layer) -> tuple[pd.DataFrame, bool]:
    """Return the scores of a layer, and whether its call adds anything to its logits."""
    views = entry.views[0]
    scene = make_scene(_room(views), [layer], torch.zeros(1, views, 1, 1, 1))
    model = MultiViewModel(name="network", network=network, alpha_bar=torch.ones(1000), size=SIZE)
    rows, masks = [], []

    def hear(call: Any) -> None:
        if call.nth == layer.nth:
            masks.append(logit_bias(call) is not None)
            rows.extend(score_call(layer_call(call, layer, views, model, 500), scene, ATTENTION_V1))

    with torch.no_grad(), AttentionTap(network, [layer], on_call=hear):
        network(**entry.inputs(views, entry.scales[0]))
    return score_table(rows), any(masks)


@cache
def _room(views: int) -> Views:
    return open_scenes("shapes", Request(groups=1, views=views, n_ref=1, size=SIZE)).load(0)[0]
