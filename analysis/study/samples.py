"""The picture of samples at equal steps: a row per scene, a column per method and step."""

import io
from collections.abc import Sequence

import numpy as np
from einops import rearrange
from jaxtyping import Float
from matplotlib.figure import Figure

SIDE = 1.25
"""Of one image, in inches."""


def draw_rows(columns: Sequence[tuple[str, Float[np.ndarray, "rows 3 h w"]]]) -> bytes:
    """Draw images in rows, as a PNG file.

    Args:
        columns: A title and the images from above, per column.
    """
    rows = len(columns[0][1])
    figure = Figure(figsize=(SIDE * len(columns), SIDE * rows + 0.45), layout="constrained")
    grid = figure.subplots(rows, len(columns), squeeze=False)
    for line, (title, images) in zip(grid.T, columns, strict=True):
        for axis, image in zip(line, images, strict=True):
            axis.imshow(rearrange(image, "c h w -> h w c").clip(0, 1), interpolation="nearest")
            axis.set(xticks=[], yticks=[])
        line[0].set_title(title, fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()
