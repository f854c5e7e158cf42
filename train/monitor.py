"""What is measured of the averaged weights while training: validation loss, image quality, readout gap, precision."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from einops import rearrange
from matplotlib.figure import Figure
from torch import Tensor

from probe.attention.call import Call
from probe.capture import AttentionTap
from probe.emergence import Watch, measure_step
from probe.image_quality import Lpips, load_lpips
from probe.layers import Layer
from probe.matching import attention_matches
from probe.metrics import GridTruth, correct, grid_truth
from probe.models.model import MultiViewModel, predict
from probe.protocols import PROTOCOLS, thresholds
from probe.records import write
from probe.records.names import EMERGENCE, SAMPLES, WORST, layer_column, trivial_column
from probe.seeds import derive
from probe.views import Views
from train.alignment import CorrespondenceAlignment, readout_matches
from train.batches import Draw, draw_batch
from train.loop import validate
from train.objectives import AttentionSupervision, Objective
from train.quality import METHODS, Quality, evaluate_quality, worst_cases
from train.settings import Settings

DrawSamples = Callable[[Mapping[str, Tensor]], Figure]
MIDDLE = 500  # timestep at which attention and readout are compared


@dataclass(frozen=True, kw_only=True)
class Held:
    """Hold the scenes that training never sees, with the noise they are judged by, and where more come from."""

    views: Views
    noise: Tensor
    sampling_steps: int
    draw: Draw = draw_batch
    lpips: Lpips | None = None


def hold_out(
    settings: Settings, model: MultiViewModel, scenes: int, sampling_steps: int, draw: Draw = draw_batch
) -> Held:
    """Draw the held-out scenes: one reference, rotations as the settings say."""
    generator = torch.Generator().manual_seed(derive("held out"))
    views = draw(settings, model, generator, scenes, n_ref=1)
    noise = torch.randn(model.latent_shape(scenes, views.count), generator=generator).to(views.image)
    views = replace(views, names=tuple(f"held-out-{number:03d}" for number in range(scenes)))
    return Held(views=views, noise=noise, sampling_steps=sampling_steps, draw=draw, lpips=load_lpips(noise.device))


def measure_quality(model: MultiViewModel, held: Held) -> tuple[dict[str, float], Quality]:
    """Sample the held-out targets; give the mean of every metric, the trivial answers' beside it by prefix."""
    quality = evaluate_quality(model, held.views, held.noise, steps=held.sampling_steps, lpips=held.lpips)
    rows = quality.rows[quality.rows["method"].isin(METHODS)]
    means = rows.groupby(["method", "metric"], observed=True)["value"].mean()
    return {
        trivial_column(str(method), str(metric)): float(value) for (method, metric), value in means.items()
    }, quality


def measure_gap(model: MultiViewModel, objective: AttentionSupervision, held: Held) -> dict[str, float]:
    """Measure the supervised layers' precision by their attention and by the loss's own readout, on equal queries.

    Target queries visible in the reference, within 5 % of the image's side; at the middle timestep.
    """
    t = torch.full((len(held.noise),), MIDDLE, device=held.noise.device)
    with torch.no_grad(), AttentionTap(model.network, objective.layers, keep="detached") as tap:
        predict(model, held.views, t, held.noise)
    row = {}
    for layer, loss in zip(objective.layers, objective.losses, strict=True):
        assert isinstance(loss, CorrespondenceAlignment)
        assert layer.index is not None
        for name, token in _tokens(tap[layer], layer, loss, held.views).items():
            row[layer_column(name, layer.index)] = _precision(*token)
    return row


def _tokens(
    call: Call, layer: Layer, loss: CorrespondenceAlignment, views: Views
) -> dict[str, tuple[Tensor, GridTruth, int]]:
    layout, q, k = layer.layout(views.count), call.q, call.k_per_head
    truth = grid_truth(views, layout.grid)
    attention = attention_matches(q, k, call.scale, layout, truth.token).token[:, :1]
    readout = rearrange(readout_matches(loss, q, k, views.count, scale=call.scale), "b fq n fk -> b 1 fq n fk")
    return {"attention": (attention, truth, views.n_ref), "readout": (readout, truth, views.n_ref)}


def _precision(token: Tensor, truth: GridTruth, n_ref: int) -> float:
    """Average over the target queries that are visible in a reference; NaN where there is none."""
    limit = next(limit for limit in thresholds(None) if limit.name == PROTOCOLS["attention-v1"].select_by)
    right = correct(token, truth, limit)[:, 0, n_ref:, :, :n_ref]
    return float(right[truth.visible[:, n_ref:, :, :n_ref]].float().mean())


def evaluate(
    settings: Settings, held: Held, objective: Objective | None, out: Path, draw: DrawSamples
) -> Callable[[MultiViewModel], dict[str, Any]]:
    """Return the function that measures the averaged weights, redraws ``samples.png`` and rewrites ``worst.csv``."""

    def measure(model: MultiViewModel) -> dict[str, Any]:
        means, quality = measure_quality(model, held)
        write(out / SAMPLES, lambda part: draw(quality.targets).savefig(part, format="png", dpi=110))
        worst = worst_cases(quality.rows)
        write(out / WORST, lambda part: worst.to_csv(part, index=False, float_format="%.6f"))
        gap = measure_gap(model, objective, held) if isinstance(objective, AttentionSupervision) else {}
        return {**validate(settings, model, held.draw), **means, **gap}

    return measure


def follow_precision(model: MultiViewModel, step: int, watch: Watch, out: Path) -> pd.DataFrame:
    """Measure the precision of every 3D layer, add it to the run's ``emergence.csv``, and give what was added."""
    path = out / EMERGENCE
    new = measure_step(model, step, watch)
    before = [table[table["step"] < step] for table in [pd.read_csv(path)]] if path.exists() else []
    table = pd.concat([*before, new], ignore_index=True)
    write(path, lambda part: table.to_csv(part, index=False, float_format="%.6f"))
    return new
