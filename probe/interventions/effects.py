"""What editing a layer's attention changes: the denoised prediction, and sampled views, of one scene.

Everything is compared with the unedited run of the same noise. Rows go to the score table, under a protocol of their
own: one per target view (its rotation is against view 0), layer, head, timestep (-1: sampled views), and metric:

- ``effect_x0@identity``: root mean square of what the predicted clean latents change by, over theirs unedited;
- ``effect_error@identity``: how much their error against the truth grows, relatively: 0.1 is 10 % more, below 0 less;
- ``effect_sample``: root mean square of what the sampled colours change by, over 0 to 1;
- ``effect_psnr`` (dB), ``effect_ssim``, ``effect_lpips``, ``effect_match_error``: by how much these measures change.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from einops import reduce
from jaxtyping import Float, Int
from torch import Tensor

from probe.attention.call import Edit
from probe.capture import AttentionTap
from probe.correspondence import project_tokens
from probe.image_quality import Lpips, image_metrics, match_error
from probe.interventions.edits import HiddenKeysError, Intervention, Place, edit_of
from probe.interventions.experiment import Experiment
from probe.layers import Layer
from probe.measure.model import in_own_precision, training_steps
from probe.measure.scene import Scene, pair_name, rotation_between
from probe.models.model import MultiViewModel, noised, predicted_clean
from probe.models.sampling import sample_views, sampler
from probe.records import ALL_HEADS, EFFECT, INTERVENTIONS, MATCH_ERROR, Rows, grid_name, score_table
from probe.records.names import effect_metric
from probe.views import Views, resize

PREDICTION, SAMPLE = "effect_x0", "effect_sample"
WHOLE_SAMPLE = -1  # timestep of rows about sampled views
Changes = dict[str, tuple[Tensor, Tensor]]
"""Metric to its value and count, [targets] each."""


# --- one scene -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Effects:
    """What editing changed in one scene.

    Attributes:
        rows: Of the score table.
        images: Sampled target views, by ``"identity/12"`` (intervention, layer), beside "unedited" and "truth"; empty
            where none were sampled.
    """

    rows: pd.DataFrame
    images: Mapping[str, Float[Tensor, "targets 3 height width"]]


@torch.no_grad()
def measure_effects(
    model: MultiViewModel, scene: Scene, layers: Sequence[Layer], experiment: Experiment, lpips: Lpips | None = None
) -> Effects:
    """Edit one layer after the other and measure what changes.

    Args:
        model: The model.
        scene: One scene, with the truth on the layers' grids.
        layers: Those that join views are edited.
        experiment: What to do; at least one intervention.
        lpips: From :func:`probe.image_quality.load_lpips`; None leaves LPIPS NaN.
    """
    device = model.alpha_bar.device
    scene = replace(scene, views=scene.views.to(device), noise=scene.noise.to(device))
    rows = list(_prediction_rows(model, scene, layers, experiment))
    images = dict[str, Tensor]()
    if experiment.steps:
        sampled, images = _samples(model, scene, layers, experiment, lpips)
        rows += sampled
    return Effects(rows=score_table(rows), images=images)


def _prediction_rows(
    model: MultiViewModel, scene: Scene, layers: Sequence[Layer], experiment: Experiment
) -> Iterator[Rows]:
    for t in experiment.timesteps:
        denoised, clean = denoiser(model, scene.views, scene.noise, t)
        usual = denoised()
        for name, layer, head in experiment.trials(layers, heads=experiment.each_head):
            edit = edit_at(name, layer, head, scene, experiment, (t,))
            try:
                with AttentionTap(model.network, [layer], edit=edit):
                    changes = prediction_effect(denoised(), usual, clean)
            except HiddenKeysError:
                if not experiment.where_possible:
                    raise
                changes = unmeasured(usual)
            yield effect_rows(changes, name, scene.views, _constants(model, scene, layer, head, t))


def denoiser(
    model: MultiViewModel, views: Views, noise: Float[Tensor, "b f c h w"], t: int
) -> tuple[Callable[[], Float[Tensor, "b targets c h w"]], Float[Tensor, "b targets c h w"]]:
    """Return a function that predicts the clean latents of the target views at a timestep, and the true ones.

    Args:
        model: The model.
        views: On the model's device.
        noise: Likewise.
        t: Timestep index.
    """
    small, index = resize(views, model.size, model.size), torch.full((len(noise),), t, device=noise.device)
    clean, inputs, level = model.encode_views(small), model.condition(small), model.alpha_bar[index]
    latents, targets = noised(model, small, clean, noise, index), slice(small.n_ref, None)

    def denoised() -> Tensor:
        with model.network.register_forward_pre_hook(in_own_precision, with_kwargs=True):
            predicted = model.denoise(latents, index, inputs).float()
        return predicted_clean(model, latents, predicted, level)[:, targets]

    return denoised, clean[:, targets]


def prediction_effect(
    edited: Float[Tensor, "1 targets c h w"],
    usual: Float[Tensor, "1 targets c h w"],
    clean: Float[Tensor, "1 targets c h w"],
) -> Changes:
    """Compare predicted clean latents: how far they moved, and how much their error grew.

    Returns:
        Per target; NaN, counted as nothing, where the unedited prediction is all zero, has no error, or is unknown.
    """
    error = _size(usual - clean)
    return {
        PREDICTION: _counted(_size(edited - usual) / _size(usual)),
        EFFECT: _counted(_size(edited - clean) / error - 1),
    }


def unmeasured(usual: Float[Tensor, "1 targets c h w"]) -> Changes:
    """Return what an edit that a layer cannot have changes: NaN, counted as nothing, of each target."""
    unknown = torch.full((usual.shape[1],), torch.nan, device=usual.device)
    return {PREDICTION: _counted(unknown), EFFECT: _counted(unknown)}


def _size(x: Float[Tensor, "1 targets c h w"]) -> Float[Tensor, " targets"]:
    """Return the root mean square of each target view."""
    return reduce(x.square(), "1 targets c h w -> targets", "mean").sqrt()


def _counted(value: Float[Tensor, " targets"]) -> tuple[Float[Tensor, " targets"], Int[Tensor, " targets"]]:
    known = value.isfinite()
    return torch.where(known, value, torch.nan), known.long()


def _samples(
    model: MultiViewModel, scene: Scene, layers: Sequence[Layer], experiment: Experiment, lpips: Lpips | None
) -> tuple[list[Rows], dict[str, Tensor]]:
    views, targets = scene.views, slice(scene.views.n_ref, None)
    small = resize(views, model.size, model.size)
    timesteps = tuple(sampler(model, experiment.steps)[1].tolist())
    seen = project_tokens(views, (min(views.size[0], model.size), min(views.size[1], model.size)))

    def judge(image: Tensor) -> Changes:
        measured = image_metrics(image, small, lpips) | {MATCH_ERROR: match_error(image, seen, views.size, views.n_ref)}
        return {metric: (value[0].cpu(), count[0].cpu()) for metric, (value, count) in measured.items()}

    def draw() -> Tensor:
        with model.network.register_forward_pre_hook(in_own_precision, with_kwargs=True):
            return sample_views(model, small, scene.noise, steps=experiment.steps)

    usual, rows = draw(), list[Rows]()
    before = judge(usual)
    images = {"truth": small.image[0, targets], "unedited": usual[0, targets]}
    for name, layer, head in experiment.trials(layers, heads=False):
        edit = edit_at(name, layer, head, scene, experiment, timesteps)
        with AttentionTap(model.network, [layer], edit=edit):
            edited = draw()
        changes = sample_effect(edited[:, targets], usual[:, targets], judge(edited), before)
        rows.append(effect_rows(changes, name, views, _constants(model, scene, layer, head, WHOLE_SAMPLE)))
        images[f"{name}/{layer.index}"] = edited[0, targets]
    return rows, images


def sample_effect(
    edited: Float[Tensor, "1 targets 3 h w"], usual: Float[Tensor, "1 targets 3 h w"], after: Changes, before: Changes
) -> Changes:
    """Compare sampled views: how far their colours moved, and how their measures changed.

    Args:
        edited: Sampled under the edit.
        usual: Sampled without, of the same noise.
        after: Measures of the former.
        before: Measures of the latter.
    """
    changes = {f"effect_{metric}": _counted(value - before[metric][0]) for metric, (value, _) in after.items()}
    return {SAMPLE: _counted(_size(edited - usual).cpu()), **changes}


# --- edits and rows --------------------------------------------------------------------------------------------------


def edit_at(
    name: Intervention, layer: Layer, head: int, scene: Scene, experiment: Experiment, timesteps: tuple[int, ...]
) -> Edit:
    """Make the edit of one layer on one scene.

    Args:
        name: Of the intervention.
        layer: That joins views.
        head: To edit, or -1 for all.
        scene: With the truth on the layer's grid.
        experiment: When edits act, and the seed.
        timesteps: Of the forwards to come.
    """
    place = place_of(layer, scene, timesteps, experiment.seed)
    return edit_of(name, place, heads=None if head == ALL_HEADS else (head,), during=experiment.during)


def place_of(layer: Layer, scene: Scene, timesteps: tuple[int, ...], seed: int) -> Place:
    """Return where a layer is edited on a scene."""
    layout = layer.layout(scene.views.count)
    assert layer.index is not None
    return Place(
        layer=layer.index,
        layout=layout,
        truth=scene.truths[layout.grid].token,
        n_ref=scene.views.n_ref,
        timesteps=timesteps,
        seed=seed,
    )


def _constants(model: MultiViewModel, scene: Scene, layer: Layer, head: int, t: int) -> dict[str, object]:
    assert layer.grid is not None
    return {
        "model": model.name,
        "step": training_steps(model),
        "scene": scene.name,
        "key_view": -1,
        "direction": "tgt",
        "layer": layer.index,
        "layer_name": layer.name,
        "grid": grid_name(layer.grid),
        "head": head,
        "timestep": t,
        "protocol": INTERVENTIONS,
        "pair_list": "",
    }


def effect_rows(measured: Changes, name: Intervention, views: Views, constants: Mapping[str, object]) -> Rows:
    """Lay measured effects out as rows of the score table, one per metric and target view.

    Args:
        measured: Per metric.
        name: Of the intervention; it becomes part of the metric's name.
        views: The scene.
        constants: The other columns.
    """
    targets = list(range(views.n_ref, views.count))
    pairs = np.array([pair_name(views, 0, view) for view in targets], dtype=object)
    metrics = np.array([effect_metric(metric, name) for metric in measured], dtype=object)
    columns = {
        "pair": np.tile(pairs, len(measured)),
        "query_view": np.tile(targets, len(measured)),
        "rotation_deg": np.tile([rotation_between(views, 0, view) for view in targets], len(measured)),
        "metric": np.repeat(metrics, len(targets)),
        "value": torch.cat([value for value, _ in measured.values()]).double().cpu().numpy(),
        "count": torch.cat([count for _, count in measured.values()]).cpu().numpy(),
    }
    return Rows(columns=columns, constants=constants)
