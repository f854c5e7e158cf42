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
        targets: Target views per method, and the true ones under "truth"; without the copy of a reference, as of
            single views, a held-out view stands in the truth's row, which the sample does not depict.
    """
    shown = min(SHOWN, len(targets[TRUTH]))
    rows = {"reference": COPY, "truth": TRUTH} if COPY in targets else {"another view": TRUTH}
    rows |= {"sample": MODEL}
    figure = Figure(figsize=(1.3 * shown + 0.5, 1.3 * len(rows) + 0.2), layout="constrained")
    for line, (name, method) in zip(figure.subplots(len(rows), shown, squeeze=False), rows.items(), strict=True):
        for axis, image in zip(line, targets[method][:shown, 0], strict=True):
            axis.imshow(rearrange(image, "c h w -> h w c").clip(0, 1), interpolation="nearest")
            axis.set(xticks=[], yticks=[])
        line[0].set_ylabel(name)
    for number, axis in enumerate(figure.axes[:shown]):
        axis.set_title(f"{number:03d}", fontsize=9)
    return figure
