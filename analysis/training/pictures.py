"""The picture of the samples that a training run draws at each evaluation."""

from collections.abc import Mapping

import numpy as np
from einops import rearrange
from jaxtyping import Float
from matplotlib.figure import Figure

from probe.records import COPY, MODEL, TRUTH

SHOWN = 8
"""Scenes in the picture."""


def draw_samples(targets: Mapping[str, Float[np.ndarray, "b targets 3 h w"]]) -> Figure:
    """Draw reference, truth and sample (rows) of the first held-out scenes (columns), named by their numbers.

    Args:
        targets: Target views per method, and the true ones under "truth".
    """
    shown = min(SHOWN, len(targets[TRUTH]))
    figure = Figure(figsize=(1.3 * shown + 0.5, 4.1), layout="constrained")
    rows = (("reference", COPY), ("truth", TRUTH), ("sample", MODEL))
    for line, (name, method) in zip(figure.subplots(3, shown, squeeze=False), rows, strict=True):
        for axis, image in zip(line, targets[method][:shown, 0], strict=True):
            axis.imshow(rearrange(image, "c h w -> h w c").clip(0, 1), interpolation="nearest")
            axis.set(xticks=[], yticks=[])
        line[0].set_ylabel(name)
    for number, axis in enumerate(figure.axes[:shown]):
        axis.set_title(f"{number:03d}", fontsize=9)
    return figure
