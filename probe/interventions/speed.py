"""A plan for speed: which heads attend to fewer views, so that the prediction's error grows by no more than a budget.

Every head, and every layer whole, may be made to attend to less (a :class:`Move`). What each move costs is measured
alone; then they are added, the one with the most saved per added error first, and all that are in the plan are measured
together each time: effects do not add up. The scenes that plan are not those on which the plan is measured.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from itertools import product
from time import perf_counter
from typing import Any, NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from probe.attention.call import Call, Edit, Run
from probe.capture import AttentionTap
from probe.image_quality import image_metrics
from probe.interventions.effects import WHOLE_SAMPLE, denoiser, prediction_effect
from probe.interventions.experiment import editable
from probe.interventions.schemes import (
    MODES,
    Mode,
    Scheme,
    Schemes,
    edits_of,
    multiply_adds,
    scheme_of,
    total_multiply_adds,
)
from probe.layers import Layer
from probe.measure.model import in_own_precision
from probe.measure.scene import Scene
from probe.models.model import MultiViewModel
from probe.models.sampling import sample_views
from probe.records import EFFECT, PSNR
from probe.records.names import PLANNED, UNPLANNED, UNPLANNED_TAP
from probe.views import Views, concatenate, resize

ORDER: tuple[Mode, ...] = tuple(MODES)
PIXELS = 2**18
"""Of images that are denoised at once while a plan is made."""


class Move(NamedTuple):
    """Heads of a layer that attend to less."""

    layer: int
    heads: tuple[int, ...]
    mode: Mode


class Step(NamedTuple):
    """A move that was tried, with what the plan would be with it.

    Attributes:
        move: That was tried.
        alone: Growth of the prediction's error under this move alone.
        growth: Likewise under all moves of the plan and this one.
        cost: Multiply-adds likewise.
        taken: Whether it stays in the plan.
    """

    move: Move
    alone: float
    growth: float
    cost: int
    taken: bool


# --- planning, pure --------------------------------------------------------------------------------------------------


def whole_moves(layers: Sequence[Layer]) -> list[Move]:
    """List the layers, each to attend within views with all heads.

    Args:
        layers: That join views.
    """
    return [Move(layer.index, tuple(range(layer.heads)), ORDER[-1]) for layer in layers if layer.index is not None]


def parts_of(move: Move) -> list[Move]:
    """Return what may be done of a move that goes too far: fewer heads, or more keys."""
    if move.mode != ORDER[-1]:
        return []
    heads = [move._replace(heads=(head,)) for head in move.heads] if len(move.heads) > 1 else []
    return [*heads, *(move._replace(mode=mode) for mode in ORDER[1:-1])]


def after(schemes: Schemes, move: Move, layers: Sequence[Layer]) -> dict[int, Scheme]:
    """Return the schemes after a move; heads that attend to as little already stay.

    Args:
        schemes: By layer.
        move: Of heads of one of the layers.
        layers: That join views.
    """
    layer = next(layer for layer in layers if layer.index == move.layer)
    more = ORDER[: ORDER.index(move.mode)]
    changed = tuple(
        move.mode if head in move.heads and mode in more else mode
        for head, mode in enumerate(scheme_of(schemes, layer))
    )
    return {**schemes, move.layer: changed}


def plan_steps(
    moves: Sequence[Move],
    follow: Callable[[Schemes, Move], Schemes],
    cost: Callable[[Schemes], int],
    growth: Callable[[Schemes], float],
    budget: float,
) -> tuple[Schemes, list[Step]]:
    """Add moves to a plan as long as the error grows by no more than the budget.

    The move that saves most per error that it adds alone is tried first, together with the whole plan before it. Where
    that goes too far, its parts may follow in its place.

    Args:
        moves: To begin with.
        follow: From schemes and a move to the schemes after it.
        cost: Of schemes, in multiply-adds.
        growth: Of the error under schemes, all together; NaN counts as too much.
        budget: The most that the error may grow by.

    Returns:
        The plan, whose measured growth is at most the budget, and the moves that were tried, in order. One that alone
        goes too far is not tried together with others.
    """
    start, plan, steps = cost({}), dict[int, Scheme](), list[Step]()
    queue: dict[Move, tuple[float, float]] = {}

    def consider(new: Sequence[Move]) -> None:
        for move in new:
            alone = follow({}, move)
            if (saved := start - cost(alone)) > 0:
                value = growth(alone)
                queue[move] = (max(value, 0.0) / saved, value)

    consider(moves)
    while queue:
        move = min(queue, key=lambda move: (math.isnan(queue[move][0]), queue[move][0]))
        alone, tried = queue.pop(move)[1], follow(plan, move)
        if cost(tried) >= cost(plan):
            continue
        together = growth(tried) if alone <= budget else alone
        taken = alone <= budget and together <= budget
        steps.append(Step(move, alone, together, cost(tried), taken))
        plan = dict(tried) if taken else plan
        consider([] if taken else parts_of(move))
    return plan, steps


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


@contextmanager
def applied(model: MultiViewModel, edits: Mapping[Layer, Edit]) -> Iterator[None]:
    """Apply a plan's edits while the context is open; nothing is tapped where there are none."""
    with AttentionTap(model.network, list(edits), edit=edits) if edits else nullcontext():
        yield


# --- time ------------------------------------------------------------------------------------------------------------


class Stopwatch:
    """Seconds of what runs, by name: of the processor's clock, or on CUDA by events, which do not make it wait."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self._spans: dict[str, list[tuple[object, object]]] = {}

    @contextmanager
    def running(self, name: str) -> Iterator[None]:
        """Measure what runs in the context."""
        start = self._now()
        yield
        self._spans.setdefault(name, []).append((start, self._now()))

    def _now(self) -> object:
        if not self.cuda:
            return perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    @property
    def names(self) -> list[str]:
        """Return what was measured."""
        return list(self._spans)

    def seconds(self, name: str) -> float:
        """Return the seconds of all that ran under a name."""
        spans = self._spans[name]
        if not self.cuda:
            return sum(end - start for start, end in spans)  # type: ignore[operator]
        torch.cuda.synchronize()
        return sum(start.elapsed_time(end) for start, end in spans) / 1000  # type: ignore[attr-defined]


def timed(edit: Edit, watch: Stopwatch) -> Edit:
    """Time an edit: "attention" is all that it does, "attention_kernels" the kernel alone."""

    def measured(call: Call, run: Run) -> Tensor:
        def kernel(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            with watch.running("attention_kernels"):
                return run(q, k, v)

        with watch.running("attention"):
            return edit(call, kernel)

    return measured


def as_usual(call: Call, run: Run) -> Tensor:
    """Leave attention as it is: the edit that times a layer without a plan."""
    return run(call.q, call.k, call.v)


@torch.no_grad()
def sampled_rows(
    model: MultiViewModel, scene: Scene, layers: Sequence[Layer], schemes: Schemes, *, steps: int, repeats: int
) -> pd.DataFrame:
    """Sample a scene with and without a plan in turn, and measure time and PSNR.

    Args:
        model: The model.
        scene: One scene.
        layers: All that join views; their attention is timed, planned or not.
        schemes: The plan.
        steps: Of the sampler.
        repeats: Of each way; the first of each is not timed, only its images are judged.

    Returns:
        Rows of plan (:data:`UNPLANNED`, which nothing taps; :data:`UNPLANNED_TAP`, under a tap that changes nothing;
        :data:`PLANNED`), scene, measure, repeat, value and count: psnr (dB, mean over targets), and the seconds of one
        sample in attention_kernels, attention (with what moves tokens around them) and sampling (all).
    """
    device = model.alpha_bar.device
    views, noise = resize(scene.views.to(device), model.size, model.size), scene.noise.to(device)
    usual: dict[Layer, Edit] = dict.fromkeys(layers, as_usual)
    planned = edits_of(schemes, layers, views.count, views.n_ref, device)
    ways: dict[str, dict[Layer, Edit]] = {UNPLANNED: {}, UNPLANNED_TAP: usual, PLANNED: usual | planned}
    rows = []
    for repeat, (way, edits) in product(range(repeats + 1), ways.items()):
        image, watch = _sample(model, views, noise, edits, steps)
        found = _seconds(watch) if repeat else _psnr(image, views)
        named = {"plan": way, "scene": scene.name, "repeat": repeat}
        rows += [{**named, "measure": name, "value": value, "count": n} for name, (value, n) in found.items()]
    return pd.DataFrame(rows)


def _sample(
    model: MultiViewModel, views: Views, noise: Tensor, edits: Mapping[Layer, Edit], steps: int
) -> tuple[Float[Tensor, "1 f 3 H W"], Stopwatch]:
    watch = Stopwatch(model.alpha_bar.device)
    with (
        model.network.register_forward_pre_hook(in_own_precision, with_kwargs=True),
        applied(model, {layer: timed(edit, watch) for layer, edit in edits.items()}),
        watch.running("sampling"),
    ):
        image = sample_views(model, views, noise, steps=steps)
    return image, watch


def _seconds(watch: Stopwatch) -> dict[str, tuple[float, int]]:
    return {name: (watch.seconds(name), 1) for name in watch.names}


def _psnr(image: Tensor, views: Views) -> dict[str, tuple[float, int]]:
    value, count = image_metrics(image, views, None)[PSNR]
    return {PSNR: (float(value.nanmean()), int(count.sum()))}


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

    def edits(self, device: torch.device | str = "cpu") -> dict[Layer, Edit]:
        """Return what applies the plan: ``AttentionTap(network, list(edits), edit=edits)``."""
        return edits_of(self.schemes, self.layers, self.views, self.n_ref, device)

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
        heads = {mode: [head for head, own in enumerate(scheme) if own == mode] for mode in ORDER}
        cost = [
            multiply_adds(own, layer.layout(self.views), self.n_ref, layer.channels)
            for own in (("joint",) * layer.heads, scheme)
        ]
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
        Rows of :func:`growth_rows` and :func:`sampled_rows`: measure, plan, scene, timestep (-1: of none), repeat,
        value and count.
    """
    cells = cells_of(model, [scene], plan.timesteps)
    growth = growth_rows(model, cells, plan.edits(model.alpha_bar.device))
    sampled = sampled_rows(model, scene, plan.layers, plan.schemes, steps=steps, repeats=repeats)
    rows = pd.concat(
        [growth.assign(measure=EFFECT, plan=PLANNED, repeat=0), sampled.assign(timestep=WHOLE_SAMPLE)],
        ignore_index=True,
    )
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
