"""How good an image is: against the truth, and by true matches with other views. Pure functions; missing is NaN."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange, reduce
from jaxtyping import Float, Int
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor
from torch.nn import functional as F

from probe.correspondence import TokenProjections
from probe.records.names import LPIPS, PSNR, SSIM
from probe.views import Views

MOST_PSNR = 100.0
WINDOW = 11  # pixels: the gaussian of sigma 1.5, cut at 3.5 sigma
LPIPS_WEIGHTS = ("weights-vgg16-lpips.pth", "vgg16-397923af.pth")

Lpips = Callable[[Tensor, Tensor], Tensor]
Measured = tuple[Float[Tensor, "b targets"], Int[Tensor, "b targets"]]


# --- one image -------------------------------------------------------------------------------------------------------


def psnr(image: Float[Tensor, "3 h w"], truth: Float[Tensor, "3 h w"]) -> float:
    """Compute the peak signal-to-noise ratio of an image with colours in [0, 1], in dB, by scikit-image.

    Returns:
        At most 100, which stands for a mean squared error of 1e-10 or less: equal images would be infinite, and so
        would every mean with them.
    """
    with np.errstate(divide="ignore"):
        return min(float(peak_signal_noise_ratio(_pixels(truth), _pixels(image), data_range=1)), MOST_PSNR)


def ssim(image: Float[Tensor, "3 h w"], truth: Float[Tensor, "3 h w"]) -> float:
    """Compute the structural similarity of an image with colours in [0, 1].

    The variant: gaussian window of 11 x 11 pixels, sigma 1.5, population covariance, K1 0.01, K2 0.03, mean over the
    colour channels and over all pixels whose window lies inside.

    Returns:
        In [-1, 1]; NaN for images smaller than the window.

    Source:
        Wang et al. 2004 (IEEE TIP 13:4), by scikit-image.
    """
    if min(image.shape[1:]) < WINDOW:
        return float("nan")
    variant: dict[str, Any] = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return float(structural_similarity(_pixels(truth), _pixels(image), data_range=1, channel_axis=-1, **variant))


def _pixels(image: Float[Tensor, "3 h w"]) -> np.ndarray:
    return rearrange(image, "c h w -> h w c").double().cpu().numpy()


def load_lpips(device: torch.device | str = "cpu") -> Lpips | None:
    """Load LPIPS (VGG16, by torch-fidelity) from torch's cache; None where its weights are absent.

    Source:
        Zhang et al. 2018 (arXiv 1801.03924).
    """
    if missing_weights(LPIPS_WEIGHTS):
        return None
    from torch_fidelity.sample_similarity_lpips import SampleSimilarityLPIPS  # imports torchvision, which is slow

    return SampleSimilarityLPIPS("lpips-vgg16").to(device)


def missing_weights(files: Sequence[str]) -> list[str]:
    """List those of the files that torch's cache, ``torch.hub.get_dir()/checkpoints``, lacks."""
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    return [str(cache / name) for name in files if not (cache / name).is_file()]


def absence(measure: str, files: Sequence[str]) -> str:
    """Return one line on why a measure is absent and where its files belong; empty if they are there."""
    missing = missing_weights(files)
    return f"{measure} is absent (NaN): no weights at {' and '.join(missing)}" if missing else ""


def image_metrics(image: Float[Tensor, "b f 3 h w"], views: Views, lpips: Lpips | None) -> dict[str, Measured]:
    """Compare target views with the true ones by PSNR, SSIM and LPIPS.

    Args:
        image: References first, then generated targets.
        views: The true ones, of the same size.
        lpips: From :func:`load_lpips`; None leaves LPIPS NaN.

    Returns:
        Per metric the values of the targets, and the counts: 1, or 0 where the value is NaN.
    """
    pairs = image[:, views.n_ref :], views.image[:, views.n_ref :]
    flat = [rearrange(part, "b t c h w -> (b t) c h w") for part in pairs]
    values = {
        PSNR: torch.tensor([psnr(*pair) for pair in zip(*flat, strict=True)]),
        SSIM: torch.tensor([ssim(*pair) for pair in zip(*flat, strict=True)]),
        LPIPS: torch.full((len(flat[0]),), torch.nan) if lpips is None else lpips(*(255 * part for part in flat)).cpu(),
    }
    parted = {name: rearrange(value.flatten(), "(b t) -> b t", b=len(image)) for name, value in values.items()}
    return {name: (value, (~value.isnan()).long()) for name, value in parted.items()}


# --- true matches ----------------------------------------------------------------------------------------------------


def match_error(
    image: Float[Tensor, "b f 3 h w"], seen: TokenProjections, size: tuple[int, int], n_ref: int
) -> tuple[Float[Tensor, "b targets"], Int[Tensor, "b targets"]]:
    """Compare each target's colours with those of the references where both show the same point.

    Colours are interpolated bilinearly at the two exact positions of each match. The true image has an error too, from
    interpolation and gloss: the floor.

    Args:
        image: References first, then generated targets.
        seen: Where the points of the target's pixels lie in the references, and whether they are seen there.
        size: (height, width) in pixels that ``seen`` is expressed in; the image may be of another.
        n_ref: Number of references.

    Returns:
        Mean absolute difference of colour, 0 to 1, over channels and matches; NaN without one. And how many there are.
    """
    targets = range(n_ref, image.shape[1])
    own = torch.stack([colours_at(image[:, t], seen.xy[:, t, :, t], size) for t in targets], dim=1)
    there = [[colours_at(image[:, r], seen.xy[:, t, :, r], size) for r in range(n_ref)] for t in targets]
    other = torch.stack([torch.stack(row, dim=2) for row in there], dim=1)
    error = reduce((rearrange(own, "b t n c -> b t n 1 c") - other).abs(), "b t n r c -> b t n r", "mean")
    visible = seen.visible[:, n_ref:, :, :n_ref]
    count = visible.sum((2, 3))
    total = torch.where(visible, error, 0.0).sum((2, 3))
    return torch.where(count > 0, total / count.clamp(min=1), torch.nan), count


def colours_at(
    image: Float[Tensor, "b 3 h w"], xy: Float[Tensor, "b p 2"], size: tuple[int, int]
) -> Float[Tensor, "b p 3"]:
    """Interpolate colours bilinearly; beyond the outermost pixels' centres the image goes on as it ends.

    Args:
        image: Colours.
        xy: Positions in pixels of ``size``; the first pixel's centre is (0.5, 0.5).
        size: (height, width) in pixels that ``xy`` is expressed in.

    Returns:
        The colours; undefined where a position is NaN.
    """
    place = rearrange(2 * xy / xy.new_tensor([size[1], size[0]]) - 1, "b p c -> b p 1 c")
    colours = F.grid_sample(image, place.to(image), mode="bilinear", padding_mode="border", align_corners=False)
    return rearrange(colours, "b c p 1 -> b p c")
