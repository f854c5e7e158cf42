"""Samples of plain training and ours at equal steps beside the truth, of scenes that plain alone chooses."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probe.models import load_folder, load_model
from probe.models.model import MultiViewModel
from probe.models.parts.files import Loading
from probe.records import COPY, MODEL, PSNR, TRUTH
from train.monitor import HeldOutScenes, hold_out
from train.quality import Quality, evaluate_quality
from train.studying.variants import Run, Study, command_of, seeds_of
from train.training import scenes_of

SHOWN = ("plain", "mean")
"""Plain and ours."""
ROOMS = 32
"""Held-out rooms among which those to show are chosen."""
RANKS = (0.2, 0.4, 0.6, 0.8)
RULE = (
    f"of {ROOMS} held-out scenes those at the {', '.join(f'{rank:.0%}' for rank in RANKS)} ranks of the plain run's "
    "PSNR at its last step, whatever the other has there"
)


Column = tuple[str, Float[np.ndarray, "rows 3 h w"]]


def samples_at_steps(study: Study) -> tuple[list[Column], dict[str, Any]] | None:
    """Sample with the first seed's plain and supervised weights at the steps that both saved.

    Args:
        study: With runs in its folder.

    Returns:
        The columns of a picture (reference, truth, then both methods at each step), and what it shows: rule, steps,
        methods, scenes with their PSNR by method and step; None where a run has no saved weights.
    """
    folders = {name: _saved(study, name) for name in SHOWN}
    steps = sorted(set.intersection(*(set(saved) for saved in folders.values())))
    if not steps:
        return None
    held_out, model = _held_out(study)
    drawn = {name: [sample_with(model, folders[name][step], held_out) for step in steps] for name in SHOWN}
    chosen = at_ranks(drawn[SHOWN[0]][-1])
    words = {
        "rule": RULE, "steps": steps, "methods": list(SHOWN), "scenes": [_scene(drawn, index) for index in chosen],
    }  # fmt: skip
    return _columns(drawn, steps, chosen), words


def _saved(study: Study, variant: str) -> dict[int, Path]:
    """Return the folders of a run's averaged weights by their steps."""
    run = Run(variant=variant, seed=seeds_of(study)[0])
    folders = (study.out / run.name / "averaged").glob("step-*")
    return {int(folder.name.removeprefix("step-")): folder for folder in folders}


def _held_out(study: Study) -> tuple[HeldOutScenes, MultiViewModel]:
    command = command_of(study, Run(variant=SHOWN[0], seed=seeds_of(study)[0]))
    model = load_model("cat3d-tiny:random", Loading())
    _, draw = scenes_of(command, model)
    return hold_out(model, draw, ROOMS, study.sampling_steps), model


def sample_with(model: MultiViewModel, weights: Path, held_out: HeldOutScenes) -> Quality:
    """Sample the held-out scenes with the weights of a folder, which the model holds afterwards."""
    model.network.load_state_dict(load_folder(weights).state_dict())
    return evaluate_quality(model, held_out.views, held_out.noise, steps=held_out.sampling_steps)


def scene_psnr(quality: Quality) -> Float[Tensor, " b"]:
    """Return each scene's PSNR, the mean over its targets."""
    rows = quality.rows[(quality.rows["method"] == MODEL) & (quality.rows["metric"] == PSNR)]
    return torch.tensor(rows.groupby("scene", sort=False)["value"].mean().to_numpy())


def at_ranks(quality: Quality) -> list[int]:
    """Return the scenes at :data:`RANKS` of the PSNR."""
    order = scene_psnr(quality).argsort()
    return [int(order[round(rank * (len(order) - 1))]) for rank in RANKS]


def _scene(drawn: dict[str, list[Quality]], index: int) -> dict[str, Any]:
    rows = drawn[SHOWN[0]][-1].rows
    name = list(dict.fromkeys(rows["scene"]))[index]
    rotation = float(rows.loc[rows["scene"] == name, "rotation_deg"].iloc[0])
    psnr = {method: [float(scene_psnr(one)[index]) for one in qualities] for method, qualities in drawn.items()}
    return {"name": name, "rotation_deg": rotation, "psnr": psnr}


def _columns(drawn: dict[str, list[Quality]], steps: Sequence[int], chosen: Sequence[int]) -> list[Column]:
    first = drawn[SHOWN[0]][-1].targets
    columns = [("reference", first[COPY]), ("truth", first[TRUTH])]
    columns += [
        (f"{name}\nstep {step}", drawn[name][at].targets[MODEL]) for at, step in enumerate(steps) for name in SHOWN
    ]
    return [(title, images[list(chosen), 0].cpu().numpy()) for title, images in columns]
