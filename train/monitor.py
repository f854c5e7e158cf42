"""Evaluation of the averaged weights during training: validation loss, image quality, readout gap, precision."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from einops import rearrange
from matplotlib.figure import Figure
from torch import Tensor

from probe.attention.call import Call
from probe.attention.masks import logit_bias
from probe.capture import AttentionTap
from probe.image_quality import Lpips, load_lpips
from probe.layers import Layer
from probe.matching import attention_matches
from probe.measure.emergence import measure_step
from probe.metrics import GridTruth, correct, grid_truth, thresholds
from probe.models.model import MultiViewModel, predict
from probe.models.sampling import sample_views
from probe.plan.settings import Watch
from probe.protocols import ATTENTION_V1
from probe.records import EMERGENCE, MODEL, SAMPLES, TRUTH, WORST, layer_column, read_emergence, trivial_column, write
from probe.seeds import derive
from probe.views import Views
from train.alignment import CorrespondenceAlignment, readout_matches
from train.batches import Draw
from train.objectives import AttentionSupervision, Objective, view_tokens
from train.objectives.diffusion import denoising_error
from train.quality import METHODS, Quality, evaluate_quality, worst_cases

DrawSamples = Callable[[Mapping[str, Tensor]], Figure]
"""Draws samples from target views by method, [scenes targets 3 height width]."""
MIDDLE = 500
"""Timestep at which attention and readout are compared."""
VALIDATION_TIMESTEPS, VALIDATION_SCENES = (100, 300, 500, 700, 900), 32


@dataclass(frozen=True, kw_only=True)
class HeldOutScenes:
    """Scenes that training never sees.

    Attributes:
        views: With one reference each; single views have none.
        noise: That their samples start from.
        sampling_steps: Of DDIM.
        draw: Where more held-out scenes come from.
        lpips: The metric; None if its weights are missing.
    """

    views: Views
    noise: Tensor
    sampling_steps: int
    draw: Draw
    lpips: Lpips | None


def hold_out(model: MultiViewModel, draw: Draw, scenes: int, sampling_steps: int) -> HeldOutScenes:
    """Draw the held-out scenes.

    Args:
        model: Decides the shape of the noise.
        draw: Of scenes to test on.
        scenes: Number of them.
        sampling_steps: Of DDIM.
    """
    generator = torch.Generator().manual_seed(derive("held out"))
    views = _draw(draw, generator, scenes)
    noise = torch.randn(model.latent_shape(scenes, views.count), generator=generator).to(views.image)
    views = replace(views, names=tuple(f"held-out-{number:03d}" for number in range(scenes)))
    lpips = load_lpips(noise.device)
    return HeldOutScenes(views=views, noise=noise, sampling_steps=sampling_steps, draw=draw, lpips=lpips)


def _draw(draw: Draw, generator: torch.Generator, scenes: int) -> Views:
    """Draw scenes with one reference each; single views have none."""
    views = draw(generator, scenes, n_ref=1)
    return replace(views, n_ref=min(1, views.count - 1))


@torch.no_grad()
def validate(model: MultiViewModel, draw: Draw) -> dict[str, float]:
    """Return the denoising error on held-out scenes, at fixed timesteps (loss_tNNN) and averaged over them (loss).

    Args:
        model: The denoiser.
        draw: Of scenes to test on; :data:`VALIDATION_SCENES` of them.
    """
    generator = torch.Generator().manual_seed(derive("validation"))
    views = _draw(draw, generator, VALIDATION_SCENES)
    noise = torch.randn(model.latent_shape(len(views.image), views.count), generator=generator).to(views.image)
    row = {}
    for t in VALIDATION_TIMESTEPS:
        index = torch.full((len(noise),), t, device=views.image.device)
        row[f"loss_t{t}"] = float(denoising_error(model, views, index, noise).mean())
    return {"loss": sum(row.values()) / len(row), **row}


def sample_single_views(model: MultiViewModel, held_out: HeldOutScenes) -> dict[str, Tensor]:
    """Sample views of scenes without a reference, from noise and field of view alone; and held-out views beside them.

    Args:
        model: The denoiser.
        held_out: Single views.
    """
    drawn = sample_views(model, held_out.views, held_out.noise, steps=held_out.sampling_steps)
    return {TRUTH: held_out.views.image, MODEL: drawn}


def measure_quality(model: MultiViewModel, held_out: HeldOutScenes) -> tuple[dict[str, float], Quality]:
    """Sample the held-out targets; return the mean of every metric, also of the trivial baselines, and all values.

    Args:
        model: The denoiser.
        held_out: The scenes; a trivial baseline's metrics have a prefix.
    """
    quality = evaluate_quality(
        model, held_out.views, held_out.noise, steps=held_out.sampling_steps, lpips=held_out.lpips
    )
    rows = quality.rows[quality.rows["method"].isin(METHODS)]
    means = rows.groupby(["method", "metric"], observed=True)["value"].mean()
    columns = {trivial_column(str(method), str(metric)): float(value) for (method, metric), value in means.items()}
    return columns, quality


def measure_gap(model: MultiViewModel, objective: AttentionSupervision, held_out: HeldOutScenes) -> dict[str, float]:
    """Measure the supervised layers' precision by their attention and by the loss's own readout, on equal queries.

    Args:
        model: The denoiser.
        objective: With the supervised layers.
        held_out: The scenes; target queries visible in the reference are evaluated.

    Returns:
        "attention_LAYER" and "readout_LAYER": share within 5 % of the image's side at :data:`MIDDLE`, 0 to 1; NaN if
        no query is visible.
    """
    t = torch.full((len(held_out.noise),), MIDDLE, device=held_out.noise.device)
    with torch.no_grad(), AttentionTap(model.network, objective.layers, keep="detached") as tap:
        predict(model, held_out.views, t, held_out.noise)
    row = {}
    for layer, loss in zip(objective.layers, objective.losses, strict=True):
        assert isinstance(loss, CorrespondenceAlignment)
        for name, token in _tokens(tap[layer], layer, loss, objective.heads[layer.name], held_out.views).items():
            assert layer.index is not None
            row[layer_column(name, layer.index)] = _precision(*token)
    return row


def _tokens(
    call: Call, layer: Layer, loss: CorrespondenceAlignment, heads: Sequence[int], views: Views
) -> dict[str, tuple[Tensor, GridTruth, int]]:
    layout = layer.layout(views.count)
    truth = grid_truth(views, layout.grid)
    attention = attention_matches(
        call.q, call.k_per_head, call.scale, layout, truth.token, bias=logit_bias(call)
    ).token[:, :1]
    q, k = view_tokens(layer, call, views.count, heads)
    readout = rearrange(readout_matches(loss, q, k, views.count, scale=call.scale), "b fq n fk -> b 1 fq n fk")
    return {"attention": (attention, truth, views.n_ref), "readout": (readout, truth, views.n_ref)}


def _precision(token: Tensor, truth: GridTruth, n_ref: int) -> float:
    """Average over the target queries that are visible in a reference; NaN if there is none."""
    limit = next(limit for limit in thresholds(None) if limit.name == ATTENTION_V1.select_by)
    right = correct(token, truth, limit)[:, 0, n_ref:, :, :n_ref]
    return float(right[truth.visible[:, n_ref:, :, :n_ref]].float().mean())


def evaluate(
    held_out: HeldOutScenes, objective: Objective | None, out: Path, draw: DrawSamples
) -> Callable[[MultiViewModel], dict[str, Any]]:
    """Return the function that evaluates the averaged weights, redraws ``samples.png`` and rewrites ``worst.csv``.

    Single views have no true view that a sample could be compared with: of these only the losses are measured.

    Args:
        held_out: The scenes.
        objective: The added one; the readout gap is measured of supervised attention.
        out: The run's folder.
        draw: Of the picture.
    """

    def show(targets: Mapping[str, Tensor]) -> None:
        write(out / SAMPLES, lambda part: draw(targets).savefig(part, format="png", dpi=110))

    def measure(model: MultiViewModel) -> dict[str, Any]:
        if held_out.views.n_ref == 0:
            show(sample_single_views(model, held_out))
            return validate(model, held_out.draw)
        means, quality = measure_quality(model, held_out)
        show(quality.targets)
        worst = worst_cases(quality.rows)
        write(out / WORST, lambda part: worst.to_csv(part, index=False, float_format="%.6f"))
        gap = measure_gap(model, objective, held_out) if isinstance(objective, AttentionSupervision) else {}
        return {**validate(model, held_out.draw), **means, **gap}

    return measure


def follow_precision(model: MultiViewModel, step: int, watch: Watch, out: Path) -> pd.DataFrame:
    """Measure the precision of every 3D layer, append it to the run's ``emergence.csv``, and return the new rows.

    Args:
        model: With the averaged weights.
        step: Of the training; rows of it or later are replaced.
        watch: The scenes and timesteps.
        out: The run's folder.
    """
    path = out / EMERGENCE
    new = measure_step(model, step, watch)
    earlier = [table[table["step"] < step] for table in [read_emergence(path)]] if path.exists() else []
    table = pd.concat([*earlier, new], ignore_index=True)
    write(path, lambda part: table.to_csv(part, index=False, float_format="%.6f"))
    return new
