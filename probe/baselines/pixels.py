"""Raw colours as descriptors: how far mere sameness of colour goes."""

import torch
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from probe.baselines.describing import image_matcher, without_weights

CELLS = 4  # cells per side of a token's patch
LARGEST = 3 * CELLS**2 / 4  # the largest |x|^2 of a patch x whose colours lie in [-0.5, 0.5]
NORM = (65 * LARGEST) ** 0.5


def describe(
    image: Float[Tensor, "b f 3 height width"], grid: tuple[int, int]
) -> Float[Tensor, "b f {grid[0]*grid[1]} 49"]:
    r"""Describe each token by its patch, averaged to 4 x 4 RGB cells, lifted to a sphere.

    The lift appends :math:`\sqrt{R^2 - |x|^2}` to the colours x, taken around mid grey. The largest dot product is then
    exactly the nearest *lifted* patch. With :math:`R^2 = 65 \max |x|^2` a lifted distance is that of the patches or
    longer, by less than 0.8 percent: the ranks agree wherever two distances differ by more. (No lift that treats both
    sides alike keeps all distances of a flat space on a sphere.) In float32 patches that differ by one step of 8-bit
    colour are still told apart.

    Args:
        image: Colours in [0, 1].
        grid: Token rows and columns.

    Returns:
        Rows before columns; every descriptor has the norm ``NORM``.

    Raises:
        ValueError: If the grid has more rows or columns than the image, or none.
    """
    height, width = image.shape[-2:]
    if not (0 < grid[0] <= height and 0 < grid[1] <= width):
        raise ValueError(f"pixels: grid {grid} does not fit an image of {height} x {width} pixels")
    flat = rearrange(image, "b f c height width -> (b f) c height width")
    cells = F.adaptive_avg_pool2d(flat - 0.5, (CELLS * grid[0], CELLS * grid[1]))
    patches = rearrange(
        cells, "(b f) c (h y) (w x) -> b f (h w) (y x c)", f=image.shape[1], h=grid[0], w=grid[1], y=CELLS, x=CELLS
    )
    rest = NORM**2 - reduce(patches.square(), "b f n d -> b f n 1", "sum")
    return torch.cat([patches, rest.sqrt()], dim=-1)


load_matcher = without_weights(image_matcher(describe))
