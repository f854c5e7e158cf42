"""Time of sampling with a plan for speed and without, in turn: of attention, and of all."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from itertools import product
from time import perf_counter

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from probe.attention.call import Call, Edit, Run
from probe.capture import AttentionTap
from probe.image_quality import image_metrics
from probe.interventions.schemes import Schemes, edits_of
from probe.layers import Layer
from probe.measure.model import in_own_precision
from probe.measure.scene import Scene
from probe.models.model import MultiViewModel
from probe.models.sampling import sample_views
from probe.records import PSNR
from probe.records.names import PLANNED, UNPLANNED, UNPLANNED_TAP
from probe.views import Views, resize


@contextmanager
def applied(model: MultiViewModel, edits: Mapping[Layer, Edit]) -> Iterator[None]:
    """Apply a plan's edits while the context is open; nothing is tapped where there are none."""
    with AttentionTap(model.network, list(edits), edit=edits) if edits else nullcontext():
        yield


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
