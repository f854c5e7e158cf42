"""What editing a layer's attention changes: the denoised prediction, and sampled views, of one scene.

Everything is compared with the unedited run of the same noise. Rows go to the score table, under a protocol of their
own: one per target view (its rotation is against view 0), layer, head, timestep (-1: sampled views), and metric:

- ``effect_x0@identity``: root mean square of what the predicted clean latents change by, over theirs unedited;
- ``effect_error@identity``: how much their error against the truth grows, relatively: 0.1 is 10 % more, below 0 less;
- ``effect_sample``: root mean square of what the sampled colours change by, over 0 to 1;
- ``effect_psnr`` (dB), ``effect_ssim``, ``effect_lpips``, ``effect_match_error``: by how much these measures change.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from einops import reduce
from jaxtyping import Float, Int
from torch import Tensor

from probe.attention.call import Edit
from probe.capture import AttentionTap
from probe.correspondence import project_tokens
from probe.image_quality import LPIPS, LPIPS_WEIGHTS, MATCH_ERROR, Lpips, absence, image_metrics, match_error
from probe.interventions import INTERVENTIONS, Intervention, Place, edit_of
from probe.layers import JOINING, Layer
from probe.measure.model import Truths, in_own_precision
from probe.measure.score import grid_name
from probe.models.model import STEPS, MultiViewModel, add_noise, clean_of
from probe.models.sampling import ddim_scheduler, sample_views
from probe.protocols import rotation_between
from probe.records import ALL_HEADS, EFFECT, Rows, score_table
from probe.records import INTERVENTIONS as PROTOCOL
from probe.records.names import effect_metric
from probe.views import Views, resize

PREDICTION, SAMPLE = "effect_x0", "effect_sample"
WHOLE_SAMPLE = -1  # timestep of rows about sampled views
USUAL_STEPS = 10
FEW_SCENES = 8  # of a run that was not asked for interventions
Measured = dict[str, tuple[Tensor, Tensor]]  # metric -> value and count, [targets] each


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Say what is edited and measured.

    Attributes:
        interventions: By name.
        timesteps: At which predictions are measured.
        during: Timesteps, first and last, at which edits act.
        each_head: Whether every head is edited alone as well; predictions only.
        steps: Of DDIM, for sampled views; 0 for none.
        scenes: How many are edited, the first ones; None for all.
        seed: Of the shuffled keys.
    """

    interventions: tuple[Intervention, ...] = ()
    timesteps: tuple[int, ...] = ()
    during: tuple[int, int] = (0, STEPS - 1)
    each_head: bool = False
    steps: int = 0
    scenes: int | None = None
    seed: int = 0

    def covers(self, index: int) -> bool:
        """Tell whether a scene is edited."""
        return bool(self.interventions) and (self.scenes is None or index < self.scenes)

    @property
    def note(self) -> str:
        """Say what sampled views cannot be judged by; empty if nothing is missing."""
        return absence(LPIPS, LPIPS_WEIGHTS) if self.steps else ""

    def trials(self, layers: Sequence[Layer], *, heads: bool) -> Iterator[tuple[Intervention, Layer, int]]:
        """List what is edited, one after the other: intervention, layer, and head (-1 for all together)."""
        for name in self.interventions:
            for layer in editable(layers):
                yield from ((name, layer, head) for head in range(ALL_HEADS, layer.heads if heads else 0))

    def record(self) -> dict[str, object]:
        """Give plain values for config.json, as the command line spells them."""
        return {
            "interventions": ",".join(self.interventions) or "none",
            "edit_timesteps": f"{self.during[0]}-{self.during[1]}",
            "edit_scenes": self.scenes,
            "edit_heads": self.each_head,
            "sampling_steps": self.steps,
        }


def editable(layers: Sequence[Layer]) -> list[Layer]:
    """Give the layers that join views."""
    return [layer for layer in layers if layer.kind in JOINING]


# --- from the command line -------------------------------------------------------------------------------------------


def plan_experiment(
    names: str | None,
    layers: Sequence[Layer],
    timesteps: Sequence[int],
    *,
    during: str | None,
    each_head: bool,
    steps: int | None,
    scenes: int | None,
) -> Experiment:
    """Read what is to be edited off the command line.

    Args:
        names: Of interventions, by commas; "none"; or None for the identity: where nothing else is asked for, on
            predictions of the first scenes at the middle timestep only, which costs little.
        layers: That are scored.
        timesteps: At which they are scored.
        during: Range of timesteps, such as "0-499"; None for all.
        each_head: See :class:`Experiment`.
        steps: Of DDIM; None for 10 where interventions are named.
        scenes: To edit; None for all where interventions are named.

    Raises:
        ValueError: If a name is unknown, no layer joins views, a range or a number cannot be, or nothing is left.
    """
    if scenes is not None and scenes < 1:
        raise ValueError(f"--edit-scenes {scenes}: expected at least 1 scene; --interventions none edits nothing")
    if names is None and during is None and not steps and not each_head:
        middle = timesteps[len(timesteps) // 2]
        if not editable(layers):
            return Experiment()
        few = FEW_SCENES if scenes is None else scenes
        return Experiment(interventions=("identity",), timesteps=(middle,), during=(middle, middle), scenes=few)
    wanted = tuple(name for name in (names or "identity").split(",") if name not in ("", "none"))
    _check_names(wanted, layers, steps, each_head=each_head)
    first, last = (0, STEPS - 1) if during is None else _range(during)
    inside = tuple(t for t in timesteps if first <= t <= last)
    if wanted and not inside:
        raise ValueError(f"--edit-timesteps {during}: none of --timesteps lies in it; choose others")
    known: tuple[Intervention, ...] = tuple(name for name in INTERVENTIONS if name in wanted)
    drawn = (USUAL_STEPS if steps is None else steps) if wanted else 0
    return Experiment(
        interventions=known,
        timesteps=inside,
        during=(first, last),
        each_head=each_head,
        steps=drawn,
        scenes=scenes if wanted else None,
    )


def _check_names(wanted: Sequence[str], layers: Sequence[Layer], steps: int | None, *, each_head: bool) -> None:
    unknown = sorted(set(wanted) - set(INTERVENTIONS))
    if unknown:
        raise ValueError(
            f"--interventions {','.join(unknown)} is unknown; choose from {', '.join(INTERVENTIONS)}, or none"
        )
    if wanted and not editable(layers):
        raise ValueError("--interventions: none of --layers joins views; choose 3D layers, or --interventions none")
    if not wanted and (steps or each_head):
        raise ValueError("--interventions none leaves nothing for --edit-heads and --sampling-steps; leave them out")
    if steps is not None and not 0 <= steps <= STEPS:
        raise ValueError(f"--sampling-steps {steps}: expected 1 to {STEPS}, or 0 for predictions only")


def _range(text: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    if not (dash and first.isdecimal() and last.isdecimal() and int(first) <= int(last) < STEPS):
        raise ValueError(
            f"--edit-timesteps {text!r}: expected a range from 0 (clean) to {STEPS - 1} (pure noise), such as 0-499"
        )
    return int(first), int(last)


def passes(experiment: Experiment, layers: Sequence[Layer], scenes: int) -> int:
    """Count the denoising steps that an experiment takes on so many scenes."""
    edited = sum(experiment.covers(index) for index in range(scenes))
    predicted = len(list(experiment.trials(layers, heads=experiment.each_head))) + 1
    sampled = len(list(experiment.trials(layers, heads=False))) + 1
    return edited * (predicted * len(experiment.timesteps) + sampled * experiment.steps)


# --- one scene -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Effects:
    """Hold what editing changed in one scene.

    Attributes:
        rows: Of the score table.
        images: Sampled target views, by ``"identity/12"`` (intervention, layer), beside "unedited" and "truth"; empty
            where none were sampled.
    """

    rows: pd.DataFrame
    images: Mapping[str, Float[Tensor, "targets 3 height width"]]


@torch.no_grad()
def measure_effects(
    model: MultiViewModel,
    views: Views,
    layers: Sequence[Layer],
    truths: Truths,
    experiment: Experiment,
    noise: Float[Tensor, "1 f c h w"],
    lpips: Lpips | None = None,
) -> Effects:
    """Edit one layer after the other and measure what changes.

    Args:
        model: The model.
        views: One scene.
        layers: Those that join views are edited.
        truths: On their grids.
        experiment: What to do; at least one intervention.
        noise: The same for all.
        lpips: From :func:`probe.image_quality.load_lpips`; None leaves LPIPS NaN.
    """
    device = model.alpha_bar.device
    views, noise = views.to(device), noise.to(device)
    rows = list(_prediction_rows(model, views, layers, truths, experiment, noise))
    images = dict[str, Tensor]()
    if experiment.steps:
        sampled, images = _samples(model, views, layers, truths, experiment, noise, lpips)
        rows += sampled
    return Effects(rows=score_table(rows), images=images)


def _prediction_rows(
    model: MultiViewModel,
    views: Views,
    layers: Sequence[Layer],
    truths: Truths,
    experiment: Experiment,
    noise: Float[Tensor, "1 f c h w"],
) -> Iterator[Rows]:
    small = resize(views, model.size, model.size)
    clean, inputs = model.encode(small.image), model.condition(small)
    for t in experiment.timesteps:
        index = torch.tensor([t], device=noise.device)
        latents = add_noise(clean, noise, model.alpha_bar[index], model.clean_views(small))

        def denoised(latents: Tensor = latents, index: Tensor = index) -> Tensor:
            predicted = model.denoise(latents, index, inputs).float()
            return clean_of(model, latents, predicted, model.alpha_bar[index])[:, views.n_ref :]

        with model.network.register_forward_pre_hook(in_own_precision, with_kwargs=True):
            usual = denoised()
            for name, layer, head in experiment.trials(layers, heads=experiment.each_head):
                edit = edit_at(name, layer, head, views, truths, experiment, (t,))
                with AttentionTap(model.network, [layer], edit=edit):
                    found = prediction_effect(denoised(), usual, clean[:, views.n_ref :])
                yield effect_rows(found, name, views, _constants(model, views, layer, head, t))


def prediction_effect(
    edited: Float[Tensor, "1 targets c h w"],
    usual: Float[Tensor, "1 targets c h w"],
    clean: Float[Tensor, "1 targets c h w"],
) -> Measured:
    """Compare predicted clean latents: how far they moved, and how much their error grew.

    Returns:
        Per target; NaN, counted as nothing, where the unedited prediction is all zero, has no error, or is unknown.
    """
    error = _size(usual - clean)
    return {
        PREDICTION: _counted(_size(edited - usual) / _size(usual)),
        EFFECT: _counted(_size(edited - clean) / error - 1),
    }


def _size(x: Float[Tensor, "1 targets c h w"]) -> Float[Tensor, " targets"]:
    """Give the root mean square of each target view."""
    return reduce(x.square(), "1 targets c h w -> targets", "mean").sqrt()


def _counted(value: Float[Tensor, " targets"]) -> tuple[Float[Tensor, " targets"], Int[Tensor, " targets"]]:
    known = value.isfinite()
    return torch.where(known, value, torch.nan), known.long()


def _samples(
    model: MultiViewModel,
    views: Views,
    layers: Sequence[Layer],
    truths: Truths,
    experiment: Experiment,
    noise: Float[Tensor, "1 f c h w"],
    lpips: Lpips | None,
) -> tuple[list[Rows], dict[str, Tensor]]:
    small = resize(views, model.size, model.size)
    timesteps = tuple(ddim_scheduler(model.alpha_bar, experiment.steps, model.prediction)[1].tolist())
    seen = project_tokens(views, (min(views.size[0], model.size), min(views.size[1], model.size)))

    def judge(image: Tensor) -> Measured:
        measured = image_metrics(image, small, lpips) | {MATCH_ERROR: match_error(image, seen, views.size, views.n_ref)}
        return {metric: (value[0].cpu(), count[0].cpu()) for metric, (value, count) in measured.items()}

    def draw() -> Tensor:
        with model.network.register_forward_pre_hook(in_own_precision, with_kwargs=True):
            return sample_views(model, small, noise, steps=experiment.steps)

    usual, rows = draw(), list[Rows]()
    before = judge(usual)
    images = {"truth": small.image[0, views.n_ref :], "unedited": usual[0, views.n_ref :]}
    for name, layer, head in experiment.trials(layers, heads=False):
        edit = edit_at(name, layer, head, views, truths, experiment, timesteps)
        with AttentionTap(model.network, [layer], edit=edit):
            drawn = draw()
        found = sample_effect(drawn[:, views.n_ref :], usual[:, views.n_ref :], judge(drawn), before)
        rows.append(effect_rows(found, name, views, _constants(model, views, layer, head, WHOLE_SAMPLE)))
        images[f"{name}/{layer.index}"] = drawn[0, views.n_ref :]
    return rows, images


def sample_effect(
    edited: Float[Tensor, "1 targets 3 h w"], usual: Float[Tensor, "1 targets 3 h w"], after: Measured, before: Measured
) -> Measured:
    """Compare sampled views: how far their colours moved, and how their measures changed.

    Args:
        edited: Sampled under the edit.
        usual: Sampled without, of the same noise.
        after: Measures of the former.
        before: Measures of the latter.
    """
    changes = {f"effect_{metric}": _counted(value - before[metric][0]) for metric, (value, _) in after.items()}
    return {SAMPLE: _counted(_size(edited - usual)), **changes}


# --- edits and rows --------------------------------------------------------------------------------------------------


def edit_at(
    name: Intervention,
    layer: Layer,
    head: int,
    views: Views,
    truths: Truths,
    experiment: Experiment,
    timesteps: tuple[int, ...],
) -> Edit:
    """Make the edit of one layer on one scene.

    Args:
        name: Of the intervention.
        layer: That joins views.
        head: To edit, or -1 for all.
        views: The scene.
        truths: On the layers' grids.
        experiment: When edits act, and the seed.
        timesteps: Of the forwards to come.
    """
    layout = layer.layout(views.count)
    assert layer.index is not None
    place = Place(
        layer=layer.index,
        layout=layout,
        truth=truths[layout.grid].token,
        n_ref=views.n_ref,
        timesteps=timesteps,
        seed=experiment.seed,
    )
    return edit_of(name, place, heads=None if head == ALL_HEADS else (head,), during=experiment.during)


def _constants(model: MultiViewModel, views: Views, layer: Layer, head: int, t: int) -> dict[str, object]:
    assert layer.grid is not None
    return {
        "model": model.name, "step": int(str((model.card or {}).get("steps", -1))), "scene": views.names[0],
        "key_view": -1, "direction": "tgt", "layer": layer.index, "layer_name": layer.name,
        "grid": grid_name(layer.grid), "head": head, "timestep": t, "protocol": PROTOCOL, "pair_list": "",
    }  # fmt: skip


def effect_rows(measured: Measured, name: Intervention, views: Views, constants: Mapping[str, object]) -> Rows:
    """Lay measured effects out as rows of the score table, one per metric and target view.

    Args:
        measured: Per metric.
        name: Of the intervention; it becomes part of the metric's name.
        views: The scene.
        constants: The other columns.
    """
    targets = list(range(views.n_ref, views.count))
    pairs = np.array([f"{views.names[0]}:0-{view}" for view in targets], dtype=object)
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
