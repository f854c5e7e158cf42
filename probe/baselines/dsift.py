"""Dense SIFT: the classical hand-made descriptor, one per token."""

import cv2
import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from probe.baselines.describing import image_matcher, without_weights

BIN_PER_SIZE = 1.5  # width of one of SIFT's 4 x 4 bins in keypoint sizes (OpenCV: 3 times half a size)


def describe(
    image: Float[Tensor, "b f 3 height width"], grid: tuple[int, int]
) -> Float[Tensor, "b f {grid[0]*grid[1]} 128"]:
    """Describe each token by the upright RootSIFT descriptor at its centre.

    The keypoint size is the token stride over 1.5, which makes each of SIFT's 4 x 4 histogram bins one token wide: a
    descriptor sees four tokens by four around its own centre, weighted towards the middle. Where the strides along x
    and y differ their geometric mean counts. It stays upright, since views of one scene hardly roll and most tokens
    have no dominant gradient. RootSIFT, because its norm is exactly one, which SIFT's own rounding spoils, and because
    its dot product compares histograms as such (Hellinger), which matches better at no cost.

    OpenCV takes a descriptor at the nearest whole pixel: at even strides, whose token centres lie between pixels, each
    one stands half a pixel off, in all views alike. The quarter pixel by which OpenCV moves the keypoints that it
    detects itself is not in the descriptors of given ones.

    Args:
        image: Colours in [0, 1]; turned to 8-bit grey, on the CPU.
        grid: Token rows and columns.

    Returns:
        Rows before columns; every descriptor has norm 1, a patch without any gradient the same entry everywhere.

    Raises:
        ValueError: If the grid has more rows or columns than the image, or none.

    Source:
        Lowe 2004 (SIFT, OpenCV's implementation); Arandjelović and Zisserman, CVPR 2012 (RootSIFT).
    """
    height, width = image.shape[-2:]
    if not (0 < grid[0] <= height and 0 < grid[1] <= width):
        raise ValueError(f"dsift: grid {grid} does not fit an image of {height} x {width} pixels")
    bytes_ = (image.clamp(0, 1) * 255).round().to("cpu", torch.uint8)
    colours = rearrange(bytes_, "b f c height width -> (b f) height width c").numpy()
    described = np.stack([_describe_one(np.ascontiguousarray(colour), grid) for colour in colours])
    return rearrange(torch.from_numpy(described), "(b f) n d -> b f n d", f=image.shape[1]).to(image)


def _describe_one(colour: UInt8[np.ndarray, "height width 3"], grid: tuple[int, int]) -> Float[np.ndarray, "n 128"]:
    stride_y, stride_x = colour.shape[0] / grid[0], colour.shape[1] / grid[1]
    size = (stride_y * stride_x) ** 0.5 / BIN_PER_SIZE
    # OpenCV puts the first pixel's centre at (0, 0), not (0.5, 0.5); its default angle of -1 would turn the patch
    centres = [((x + 0.5) * stride_x - 0.5, (y + 0.5) * stride_y - 0.5) for y in range(grid[0]) for x in range(grid[1])]
    keypoints = [cv2.KeyPoint(x, y, size, 0) for x, y in centres]
    kept, histogram = cv2.SIFT.create().compute(cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY), keypoints)
    if len(kept) != len(centres) or any(k.pt != p.pt for k, p in zip(kept, keypoints, strict=True)):
        raise RuntimeError(f"dsift: OpenCV {cv2.__version__} dropped or reordered keypoints; each token needs its own")
    return _root(histogram)


def _root(histogram: Float[np.ndarray, "n 128"]) -> Float[np.ndarray, "n 128"]:
    positive = histogram + 1e-6
    return np.sqrt(positive / positive.sum(-1, keepdims=True))


load_matcher = without_weights(image_matcher(describe))
