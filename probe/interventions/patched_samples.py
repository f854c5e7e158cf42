"""Activation patching of whole samples: at every step target views read another run's attention in one layer.

The run and its donor are the two items of one batch and are sampled side by side, each from its own noise, so that at
every step the donor is at the run's noise level. What the patched sample shows is set beside the unpatched sample of
the same noise, in the same batch.

Donors: another scene (``another``), and the same scene from other noise (``noise``): what any other sample's attention
does. The same scene at little noise, a donor of :mod:`probe.interventions.patching`, makes no sense here: its target
views are the true ones, so its attention, read at every step, would hand the answer to a sample that is to be drawn
from the references alone; and past its noise level the run would be the cleaner one. Pure.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from probe.attention.call import Edit
from probe.capture import AttentionTap
from probe.correspondence import project_tokens
from probe.image_quality import image_metrics, match_error
from probe.interventions.edits import HiddenKeysError
from probe.interventions.patching import Reader, patch
from probe.layers import Layer
from probe.measure.model import in_own_precision
from probe.measure.scene import Scene
from probe.models.model import MultiViewModel
from probe.models.sampling import sample_views
from probe.records import MATCH_ERROR, NO_LAYER, PSNR
from probe.records.patched_samples import MEASURES, UNPATCHED, SampleDonor
from probe.records.patching import Part
from probe.views import concatenate, resize

Means = dict[str, tuple[float, int]]
"""Measure to its mean over target views and how many of these have it; NaN and 0 where none has."""


@dataclass(frozen=True, kw_only=True)
class SamplePatches:
    """What is patched.

    Attributes:
        parts: Of a layer's attention.
        steps: Of the sampler; the patch is read at each.
    """

    parts: tuple[Part, ...]
    steps: int


@torch.no_grad()
def patch_samples(
    model: MultiViewModel,
    scene: Scene,
    donors: Mapping[SampleDonor, Scene],
    layers: Sequence[Layer],
    patches: SamplePatches,
) -> pd.DataFrame:
    """Sample a scene with one layer after the other patched at every step, and measure how good the samples are.

    Args:
        model: The model.
        scene: That is patched.
        donors: Scenes that give, by name, each with its noise; ``noise`` is the scene itself with other noise.
        layers: Those that join views.
        patches: What is patched, in how many steps.

    Returns:
        Rows of the table of patched samples (:data:`probe.records.patched_samples.COLUMNS`, without unit): of each
        donor the unpatched sample (part :data:`~probe.records.patched_samples.UNPATCHED`, layer -1) and one per part
        and layer; measures psnr (dB, at most 100) and match_error (0 to 1), the mean over target views, NaN with count
        0 where no target view has it or the layer hides keys by a mask.

    Raises:
        ValueError: If the scenes differ in number of views or references, or the model cannot be sampled so.
    """
    judge, rows = judge_of(model, scene), []
    for name, donor in donors.items():
        sampled = _sampled(two_samples(model, scene, donor, patches.steps), judge)
        where = {"donor": name, "steps": patches.steps, "scene": scene.name}
        rows += _rows({**where, "part": UNPATCHED, "layer": NO_LAYER}, sampled())
        for layer, part in product(layers, patches.parts):
            means = _patched(model, layer, _edit(layer, part, scene), sampled)
            rows += _rows({**where, "part": part, "layer": layer.index}, means)
    return pd.DataFrame(rows)


def two_samples(
    model: MultiViewModel, scene: Scene, donor: Scene, steps: int
) -> Callable[[], Float[Tensor, "1 f 3 h w"]]:
    """Return a function that samples a scene and its donor side by side, and gives the scene's views.

    Args:
        model: The model.
        scene: That is patched.
        donor: That gives.
        steps: Of the sampler.

    Raises:
        ValueError: If the scenes differ in number of views or references.
    """
    device = model.alpha_bar.device
    views = concatenate([resize(one.views, model.size, model.size) for one in (scene, donor)]).to(device)
    noise = torch.cat([scene.noise, donor.noise]).to(device)

    def draw() -> Tensor:
        with model.network.register_forward_pre_hook(in_own_precision, with_kwargs=True):
            return sample_views(model, views, noise, steps=steps)[:1]

    return draw


def judge_of(model: MultiViewModel, scene: Scene) -> Callable[[Tensor], Means]:
    """Return a function that measures a scene's views against the true ones, and by true matches with the references.

    Args:
        model: The model.
        scene: The true views.
    """
    views = scene.views.to(model.alpha_bar.device)
    small = resize(views, model.size, model.size)
    seen = project_tokens(views, (min(views.size[0], model.size), min(views.size[1], model.size)))

    def judge(image: Tensor) -> Means:
        found = image_metrics(image, small, None)[PSNR], match_error(image, seen, views.size, views.n_ref)
        return {name: _mean(value) for name, (value, _) in zip((PSNR, MATCH_ERROR), found, strict=True)}

    return judge


def _mean(value: Float[Tensor, "1 targets"]) -> tuple[float, int]:
    return float(value.nanmean()), int(value.isfinite().sum())


def _sampled(draw: Callable[[], Tensor], judge: Callable[[Tensor], Means]) -> Callable[[], Means]:
    return lambda: judge(draw())


def _edit(layer: Layer, part: Part, scene: Scene) -> Edit:
    return patch(Reader(part=part, layout=layer.layout(scene.views.count), n_ref=scene.views.n_ref))


def _patched(model: MultiViewModel, layer: Layer, edit: Edit, sampled: Callable[[], Means]) -> Means:
    """Measure a sample under a patch; NaN with count 0 where the layer hides keys and so cannot be patched."""
    try:
        with AttentionTap(model.network, [layer], edit=edit):
            return sampled()
    except HiddenKeysError:
        return dict.fromkeys(MEASURES, (float("nan"), 0))


def _rows(where: Mapping[str, object], means: Means) -> list[dict[str, object]]:
    return [{**where, "measure": name, "value": value, "count": count} for name, (value, count) in means.items()]
