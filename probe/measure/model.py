"""Measure a model on one scene: one forward pass per timestep, all layers, heads and directions at once."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from probe.attention.call import Call
from probe.baselines.describing import Matcher
from probe.capture import AttentionTap
from probe.layers import Layer
from probe.matching import attention_matches, ratio_matches
from probe.measure.score import (
    Measured,
    grid_name,
    joint_layout,
    reference_scores,
    scene_pairs,
    score_call,
    tabulate,
    unlayered,
)
from probe.metrics import GridTruth, Threshold, grid_truth
from probe.models.model import MultiViewModel, predict
from probe.models.schedules import STEPS
from probe.protocols import Protocol
from probe.records import Rows, score_table
from probe.seeds import derive
from probe.views import Views, resize

Truths = dict[tuple[int, int], GridTruth]


def timestep_indexes(text: str) -> tuple[int, ...]:
    """Read the timesteps of a command line, such as "100,500,900".

    Raises:
        ValueError: If they are no different indexes of the noise schedule.
    """
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--timesteps {text!r}: expected indexes separated by commas, such as 100,500,900") from None
    if not all(0 <= number < STEPS for number in numbers) or len(set(numbers)) != len(numbers):
        raise ValueError(f"--timesteps {text!r}: expected different indexes from 0 (clean) to {STEPS - 1} (pure noise)")
    return numbers


def scene_noise(model: MultiViewModel, views: Views, seed: int, index: int) -> Float[Tensor, "1 f c h w"]:
    """Draw the noise of one scene: the same for every model, timestep and checkpoint."""
    generator = torch.Generator().manual_seed(derive("noise", seed, index))
    return torch.randn(model.latent_shape(1, views.count), generator=generator)


def truths_of(views: Views, layers: Sequence[Layer]) -> Truths:
    """Work out the truth on every grid of the layers."""
    return {grid: grid_truth(views, grid) for grid in sorted({layer.grid for layer in layers if layer.grid})}


def views_joined(call: Call, layer: Layer, views: int) -> tuple[Tensor, Tensor]:
    """Give queries and keys of all views of a scene side by side, in the precision that the kernel computed in.

    A per-view layer has the views in its batch; between views it then shows logits that the network never forms.

    Raises:
        ValueError: If the layer masks attention: its weights would not be those of a plain softmax.
    """
    if call.mask is not None or call.causal:
        raise ValueError(f"views_joined: layer {layer.name!r} masks its attention; only unmasked layers can be scored")
    q, k = (x.to(call.compute_dtype).float() for x in (call.q, call.k_per_head))
    if layer.kind == "view":
        q, k = (rearrange(x, "(b f) heads n d -> b heads (f n) d", f=views) for x in (q, k))
    return q, k


def denoise_and_listen(
    model: MultiViewModel,
    views: Views,
    layers: Sequence[Layer],
    t: int,
    noise: Float[Tensor, "1 f c h w"],
    listen: Callable[[Layer, Call], None],
) -> None:
    """Run one denoising step on a scene and hand every chosen layer's call to ``listen``."""
    by_key = {(layer.name, layer.nth): layer for layer in layers}
    small = resize(views, model.size, model.size).to(model.alpha_bar.device)
    index = torch.tensor([t], device=model.alpha_bar.device)
    tap = AttentionTap(model.network, list(layers), on_call=lambda call: listen(by_key[call.name, call.nth], call))
    with torch.no_grad(), model.network.register_forward_pre_hook(in_own_precision, with_kwargs=True), tap:
        predict(model, small, index, noise.to(model.alpha_bar.device))


def in_own_precision(
    network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Hand a network of lower precision its inputs in it; they are made in float32."""
    dtype = next(network.parameters()).dtype

    def own(x: Any) -> Any:
        return x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x

    return tuple(own(x) for x in args), {name: own(x) for name, x in kwargs.items()}


def measure_layers(
    model: MultiViewModel,
    views: Views,
    layers: Sequence[Layer],
    truths: Truths,
    timesteps: Sequence[int],
    protocol: Protocol,
    thresholds: tuple[Threshold, ...],
    noise: Float[Tensor, "1 f c h w"],
) -> pd.DataFrame:
    """Score all layers of a model on one scene, at every timestep with the same noise."""
    pairs, rows = scene_pairs(views), list[Rows]()
    step = int(str((model.card or {}).get("steps", -1)))
    for t in timesteps:
        constants = {"model": model.name, "step": step, "scene": views.names[0], "timestep": t, "pair_list": ""}

        def listen(layer: Layer, call: Call, constants: dict[str, object] = constants) -> None:
            q, k = views_joined(call, layer, views.count)
            rows.extend(score_call(q, k, call.scale, layer, truths, thresholds, protocol, pairs, constants))

        denoise_and_listen(model, views, layers, t, noise, listen)
    return score_table(rows)


def timestep_table(model: MultiViewModel, timesteps: Sequence[int]) -> pd.DataFrame:
    """Say what each timestep index means: alpha-bar and signal-to-noise ratio."""
    level = model.alpha_bar.cpu()[list(timesteps)].double()
    return pd.DataFrame({"timestep": timesteps, "alpha_bar": level, "snr": level / (1 - level)})


def cameras_only(model: MultiViewModel, views: Views, name: str) -> tuple[MultiViewModel, Views]:
    """Give the model its cameras and noise, and grey images: what rays and positions alone find."""
    return replace(model, name=name), replace(views, image=torch.full_like(views.image, 0.5))


def measure_references(
    views: Views, truths: Truths, protocol: Protocol, thresholds: tuple[Threshold, ...]
) -> pd.DataFrame:
    """Score uniform chance, the same position and the ceiling on every grid of one scene."""
    return score_table(
        [
            _unlayered_rows(name, measured, views, grid, protocol)
            for grid, truth in truths.items()
            for name, measured in reference_scores(views, truth, thresholds, protocol).items()
        ]
    )


def measure_matcher(
    name: str, matcher: Matcher, views: Views, truths: Truths, protocol: Protocol, thresholds: tuple[Threshold, ...]
) -> pd.DataFrame:
    """Score a matcher other than the model on every grid of one scene."""
    score = matcher(views)
    return score_table(
        [
            _unlayered_rows(name, score(truth, thresholds, protocol), views, grid, protocol)
            for grid, truth in truths.items()
        ]
    )


def _unlayered_rows(name: str, measured: Measured, views: Views, grid: tuple[int, int], protocol: Protocol) -> Rows:
    constants = {**unlayered(name, grid, protocol), "scene": views.names[0], "pair_list": ""}
    return tabulate(measured, scene_pairs(views), constants)


def example_matches(
    model: MultiViewModel,
    views: Views,
    layers: Sequence[Layer],
    truths: Truths,
    t: int,
    protocol: Protocol,
    noise: Float[Tensor, "1 f c h w"],
) -> pd.DataFrame:
    """List where every token of the last view goes in view 0, layer by layer, for the pictures.

    Returns:
        Positions as fractions of the image's width and height; the true one is NaN where the point is not visible.
    """
    frames: list[pd.DataFrame] = []

    def listen(layer: Layer, call: Call) -> None:
        q, k = views_joined(call, layer, views.count)
        layout = joint_layout(layer, views.count)
        truth = truths[layout.grid]
        if protocol.coverages:
            token = ratio_matches(q, k, layout).token[:, None]
        else:
            token = attention_matches(q, k, call.scale, layout, truth.token).token
        frames.append(_example_rows(token[0, 0, -1, :, 0], truth, views).assign(
            layer=layer.index, layer_name=layer.name, grid=grid_name(layout.grid), timestep=t
        ))  # fmt: skip

    denoise_and_listen(model, views, layers, t, noise, listen)
    return pd.concat(frames, ignore_index=True)


def _example_rows(token: Tensor, truth: GridTruth, views: Views) -> pd.DataFrame:
    size = np.array([views.size[1], views.size[0]])
    centres = truth.centres.cpu().numpy() / size
    visible = truth.visible[0, -1, :, 0].cpu().numpy()
    true = np.where(visible[:, None], truth.xy[0, -1, :, 0].cpu().numpy() / size, np.nan)
    match = centres[token.cpu().numpy()]
    columns = {"query": centres, "match": match, "true": true}
    rows = {f"{name}_{axis}": values[:, i] for name, values in columns.items() for i, axis in enumerate("xy")}
    fixed = {"scene": views.names[0], "n_ref": views.n_ref, "query_view": views.count - 1, "key_view": 0}
    return pd.DataFrame(rows).assign(visible=visible, **fixed)
