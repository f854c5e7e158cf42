"""A plan for speed: which heads attend to fewer views, so that the prediction's error grows by no more than a budget.

The scenes that plan are not those on which the plan is measured.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from itertools import accumulate
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from probe.attention.call import Edit
from probe.interventions.effects import WHOLE_SAMPLE, denoiser, prediction_effect
from probe.interventions.experiment import editable
from probe.interventions.moves import ORDER, Step, after, plan_steps, whole_moves
from probe.interventions.schemes import (
    Scheme,
    Schemes,
    all_joint,
    edits_of,
    multiply_adds,
    scheme_of,
    total_multiply_adds,
)
from probe.interventions.timing import applied, sampled_rows
from probe.layers import Layer
from probe.measure.scene import Scene
from probe.models.model import MultiViewModel
from probe.records import EFFECT
from probe.records.names import PLANNED, stage_name
from probe.views import concatenate

PIXELS = 2**18
"""Of images that are denoised at once while a plan is made."""


# --- effects ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Scenes at a timestep, ready to be denoised under a plan.

    Attributes:
        scenes: Their names.
        t: Timestep index.
        denoised: Predicts the clean latents of the targets.
        usual: What it predicts without a plan.
        clean: The truth.
    """

    scenes: tuple[str, ...]
    t: int
    denoised: Callable[[], Tensor]
    usual: Float[Tensor, "b targets c h w"]
    clean: Float[Tensor, "b targets c h w"]


@torch.no_grad()
def cells_of(model: MultiViewModel, scenes: Sequence[Scene], timesteps: Sequence[int]) -> list[Cell]:
    """Denoise scenes at several timesteps without a plan, several of small images at once.

    Args:
        model: The model.
        scenes: Of equal size and number of views.
        timesteps: Indexes of the noise schedule.
    """
    at_once = max(1, PIXELS // (scenes[0].views.count * model.size**2))
    batches = [scenes[start : start + at_once] for start in range(0, len(scenes), at_once)]
    return [cell for batch in batches for cell in _cells(model, batch, timesteps)]


def _cells(model: MultiViewModel, scenes: Sequence[Scene], timesteps: Sequence[int]) -> Iterator[Cell]:
    device = model.alpha_bar.device
    views = concatenate([scene.views for scene in scenes]).to(device)
    noise = torch.cat([scene.noise for scene in scenes]).to(device)
    for t in timesteps:
        denoised, clean = denoiser(model, views, noise, t)
        yield Cell(scenes=views.names, t=t, denoised=denoised, usual=denoised(), clean=clean)


@torch.no_grad()
def growth_rows(model: MultiViewModel, cells: Sequence[Cell], edits: Mapping[Layer, Edit]) -> pd.DataFrame:
    """Measure by how much a plan raises the error of the denoised prediction.

    Args:
        model: The model.
        cells: Scenes at timesteps.
        edits: Of the planned layers: :func:`probe.interventions.schemes.edits_of`.

    Returns:
        A row per scene and timestep: scene, timestep, value (growth of the error: 0.1 is 10 % more; mean over the
        target views in which it is known, NaN where it is in none) and count (of them).
    """
    rows = []
    with applied(model, edits):
        for cell in cells:
            parts = zip(cell.denoised(), cell.usual, cell.clean, strict=True)
            for name, (planned, usual, clean) in zip(cell.scenes, parts, strict=True):
                value, count = prediction_effect(planned[None], usual[None], clean[None])[EFFECT]
                rows.append((name, cell.t, float(value.nanmean()), int(count.sum())))
    return pd.DataFrame(rows, columns=["scene", "timestep", "value", "count"])


def mean_growth(rows: pd.DataFrame) -> float:
    """Return the mean over all targets in which the growth is known; NaN where it is in none."""
    known = rows[rows["count"] > 0]
    return float((known["value"] * known["count"]).sum() / known["count"].sum()) if len(known) else float("nan")


# --- the plan --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Paper:
    """A plan counted for a larger network of the same layout: nothing of it is measured.

    Attributes:
        network: Its name.
        views: Number of views.
        n_ref: Of them references.
        before: Multiply-adds of its 3D attention, on one scene.
        after: Under the plan.
    """

    network: str
    views: int
    n_ref: int
    before: int
    after: int


@dataclass(frozen=True, kw_only=True)
class SpeedPlan:
    """Which heads attend to fewer views.

    Attributes:
        model: Name of the model.
        budget: The most that the error of the denoised prediction may grow by.
        layers: That join views.
        schemes: Of the layers with heads that attend to less.
        views: Number of views.
        n_ref: Of them references.
        growth: Measured growth on the scenes that planned; the lowest of many, so too low on others.
        before: Multiply-adds of 3D attention, on one scene.
        after: Under the plan.
        scenes: Names of those that planned.
        timesteps: At which predictions were measured.
        steps: Moves that were tried, in order.
        paper: The plan for larger networks.
    """

    model: str
    budget: float
    layers: tuple[Layer, ...]
    schemes: Schemes
    views: int
    n_ref: int
    growth: float
    before: int
    after: int
    scenes: tuple[str, ...]
    timesteps: tuple[int, ...]
    steps: tuple[Step, ...]
    paper: tuple[Paper, ...] = ()

    @property
    def share(self) -> float:
        """Return the share of the multiply-adds of 3D attention that the plan computes."""
        return self.after / self.before

    @property
    def stages(self) -> Sequence[Schemes]:
        """Return what the plan was after each move that was taken, from the first to the whole plan."""
        taken = [step.move for step in self.steps if step.taken]
        empty = dict[int, Scheme]()
        return list(accumulate(taken, partial(after, layers=self.layers), initial=empty))[1:]

    def record(self) -> dict[str, Any]:
        """Return plain values for plan.json."""
        left_out = ("layers", "schemes", "steps", "paper")
        plain = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in left_out}
        layers = [self._layer(layer) for layer in self.layers]
        steps = [{**step.move._asdict(), **step._asdict()} for step in self.steps]
        for step in steps:
            del step["move"]
        return {
            **plain,
            "share": self.share,
            "layers": layers,
            "steps": steps,
            "paper": [asdict(x) for x in self.paper],
        }

    def _layer(self, layer: Layer) -> dict[str, Any]:
        scheme = scheme_of(self.schemes, layer)
        heads: dict[str, list[int]] = {mode: [head for head, own in enumerate(scheme) if own == mode] for mode in ORDER}
        layout = layer.layout(self.views)
        cost = [multiply_adds(own, layout, self.n_ref, layer.channels) for own in (all_joint(layer), scheme)]
        named = {"layer": layer.index, "name": layer.name, "grid": layer.grid, "channels": layer.channels}
        return {**named, **heads, "before": cost[0], "after": cost[1]}


def make_speed_plan(
    model: MultiViewModel,
    layers: Sequence[Layer],
    scenes: Sequence[Scene],
    timesteps: Sequence[int],
    *,
    budget: float,
    tick: Callable[[], object] = lambda: None,
) -> SpeedPlan:
    """Plan which heads attend to fewer views.

    Args:
        model: The model.
        layers: Those that join views are planned.
        scenes: That plan, of equal size and number of views.
        timesteps: At which the prediction's error is measured.
        budget: The most that it may grow by.
        tick: Called each time that something has been measured.

    Raises:
        ValueError: If no layer joins views, or the model predicts no image.
    """
    joining, views = tuple(editable(layers)), scenes[0].views
    if not joining:
        raise ValueError(
            "make_speed_plan: none of the layers joins views, so there is nothing to plan; probe 3D layers"
        )
    cells, device = cells_of(model, scenes, timesteps), model.alpha_bar.device
    known: dict[frozenset[tuple[int, Scheme]], float] = {}

    def cost(schemes: Schemes) -> int:
        return total_multiply_adds(schemes, joining, views.count, views.n_ref)

    def growth(schemes: Schemes) -> float:
        key = frozenset(schemes.items())
        if key not in known:
            edits = edits_of(schemes, joining, views.count, views.n_ref, device)
            known[key] = mean_growth(growth_rows(model, cells, edits)) if edits else 0.0
            tick()
        return known[key]

    moves, follow = whole_moves(joining), partial(after, layers=joining)
    schemes, steps = plan_steps(moves, follow, cost, growth, budget)
    return SpeedPlan(
        model=model.name,
        budget=budget,
        layers=joining,
        schemes=schemes,
        views=views.count,
        n_ref=views.n_ref,
        growth=growth(schemes),
        before=cost({}),
        after=cost(schemes),
        scenes=tuple(scene.name for scene in scenes),
        timesteps=tuple(timesteps),
        steps=tuple(steps),
    )


def measure_plan(model: MultiViewModel, scene: Scene, plan: SpeedPlan, *, steps: int, repeats: int) -> pd.DataFrame:
    """Measure a plan on a scene that did not plan: the prediction's error, and time and PSNR of samples.

    Args:
        model: The model.
        scene: One scene.
        plan: To apply.
        steps: Of the sampler.
        repeats: Of each way to sample.

    Returns:
        Rows of :func:`growth_rows`, under the plan and under what it was after each move ("move 1", ...), and of
        :func:`sampled_rows`: measure, plan, scene, timestep (-1: of none), repeat, value and count.
    """
    cells, device = cells_of(model, [scene], plan.timesteps), model.alpha_bar.device
    stages = {stage_name(k): schemes for k, schemes in enumerate(plan.stages, start=1)} | {PLANNED: plan.schemes}
    growths = [
        growth_rows(model, cells, edits_of(schemes, plan.layers, plan.views, plan.n_ref, device)).assign(plan=name)
        for name, schemes in stages.items()
    ]
    sampled = sampled_rows(model, scene, plan.layers, plan.schemes, steps=steps, repeats=repeats)
    growth = pd.concat(growths).assign(measure=EFFECT, repeat=0)
    rows = pd.concat([growth, sampled.assign(timestep=WHOLE_SAMPLE)], ignore_index=True)
    return rows[["measure", "plan", "scene", "timestep", "repeat", "value", "count"]]


# --- on paper --------------------------------------------------------------------------------------------------------


def on_paper(plan: SpeedPlan, others: Sequence[Layer], network: str, views: Sequence[int]) -> SpeedPlan:
    """Count a plan for a larger network of the same layout, layer index by layer index.

    Args:
        plan: The plan.
        others: The larger network's layers.
        network: Its name.
        views: Numbers of views; references are as many as the plan's.

    Returns:
        The plan with what was counted; as it is where the networks' layers that join views have other indexes.
    """
    joining = editable(others)
    if [layer.index for layer in plan.layers] != [layer.index for layer in joining]:
        return plan
    schemes = {
        other.index: scaled(scheme_of(plan.schemes, layer), other.heads)
        for layer, other in zip(plan.layers, joining, strict=True)
        if other.index is not None
    }
    papers = [
        Paper(
            network=network,
            views=count,
            n_ref=plan.n_ref,
            before=total_multiply_adds({}, joining, count, plan.n_ref),
            after=total_multiply_adds(schemes, joining, count, plan.n_ref),
        )
        for count in views
    ]
    return replace(plan, paper=(*plan.paper, *papers))


def scaled(scheme: Scheme, heads: int) -> Scheme:
    """Return a scheme with the same shares of heads in each mode, rounded up from the mode with the most keys.

    Args:
        scheme: Of a layer.
        heads: Number of heads of another layer.
    """
    modes = [mode for mode in ORDER for _ in range(-(-scheme.count(mode) * heads // len(scheme)))]
    return tuple(modes[:heads])
