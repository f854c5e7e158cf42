"""Hand-made data of the match explorer, for the run folders of conftest.py."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from analysis.explorer.payload import MAP_LEVELS
from analysis.explorer.reading import VERSION

VIEWS, CHANNELS = 3, 4
EXACT = (10,)
"""Layers whose queries and keys are kept, in place of maps."""


def write_explored(
    folder: Path, scenes: Sequence[str], layers: Mapping[int, tuple[int, int]], times: int, seed: int
) -> None:
    """Write ``explorer.safetensors`` of scenes whose every token asks, random but for the seed.

    Args:
        folder: Of the run.
        scenes: Their names.
        layers: Tokens along a side and number of heads, by index.
        times: How many timesteps.
        seed: Of the model; the scenes do not depend on it.
    """
    tensors: dict[str, np.ndarray] = {}
    for scene in scenes:
        truth = np.random.default_rng(7)  # the scene is the same for every model
        tensors[f"views/-/{scene}"] = np.arange(VIEWS)
        tensors[f"fundamental/-/{scene}"] = truth.normal(size=(VIEWS, VIEWS - 1, 3, 3)).astype(np.float32)
        tensors[f"head_timesteps/-/{scene}"] = np.arange(times)
        tensors[f"version/-/{scene}"] = np.array([VERSION])
        for side in sorted({side for side, _ in layers.values()}):
            tensors |= {f"{name}/{side}x{side}/{scene}": x for name, x in grid_tensors(side, truth).items()}
        random = np.random.default_rng(seed)
        for layer, (side, heads) in layers.items():
            found = layer_tensors(side, times, heads, random)
            if layer in EXACT:
                del found["map"], found["head_map"]
                found |= exact_tensors(side, times, heads, random)
            tensors |= {f"{name}/{layer}/{scene}": x for name, x in found.items()}
    save_file(tensors, folder / "explorer.safetensors")


def grid_tensors(side: int, random: np.random.Generator) -> dict[str, np.ndarray]:
    asked = np.arange(side * side)
    centres = (np.stack([asked % side, asked // side], -1) + 0.5).astype(np.float32) / side
    true = random.uniform(-0.2, 1.2, (VIEWS, len(asked), VIEWS - 1, 2)).astype(np.float32)
    visible = ((true > 0) & (true < 1)).all(-1)
    return {"asked": asked, "query_xy": np.stack([centres] * VIEWS), "true_xy": true, "visible": visible}


def layer_tensors(side: int, times: int, heads: int, random: np.random.Generator) -> dict[str, np.ndarray]:
    n, cells = side * side, min(side, 8) ** 2
    pairs = (VIEWS, n, VIEWS - 1)

    def by_row(lead: tuple[int, ...]) -> dict[str, np.ndarray]:
        return {
            "token": random.integers(0, n, (*lead, *pairs), dtype=np.uint16),
            "right": random.random((*lead, *pairs)) < 0.4,
            "share": random.integers(0, 256, (*lead, *pairs), dtype=np.uint8),
            "mass": random.integers(0, 256, (*lead, *pairs), dtype=np.uint8),
            "map": random.integers(0, MAP_LEVELS + 1, (*lead, *pairs, cells), dtype=np.uint8),
        }

    return {
        **by_row((times,)),
        **{f"head_{name}": values for name, values in by_row((times, heads)).items()},
        "runner_up": random.integers(0, n, (times, *pairs, 2), dtype=np.uint16),
        "ratio_token": random.integers(0, n, (times, *pairs), dtype=np.uint16),
        "ratio": random.integers(0, 256, (times, *pairs), dtype=np.uint8),
        "ratio_right": random.random((times, *pairs)) < 0.3,
        "ratio_kept": random.random((times, *pairs)) < 0.25,
    }


def exact_tensors(side: int, times: int, heads: int, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Return queries and keys; a sixth of the weight falls on views that are not kept."""
    shape = (times, VIEWS, side * side, heads)
    q, k = (random.normal(size=(*shape, CHANNELS)).astype(np.float16) for _ in range(2))
    return {"q": q, "k": k, "within": np.full(shape, 5 / 6, np.float32)}
