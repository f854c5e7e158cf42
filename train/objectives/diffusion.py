"""The diffusion objective, as a pure function."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.models.model import MultiViewModel, conditioning, noised, prediction_target
from probe.models.parts.unet import targets_only
from probe.views import Views


def denoising_error(
    model: MultiViewModel,
    views: Views,
    t: Int[Tensor, " b"],
    noise: Float[Tensor, "b f c h w"],
    keep_cameras: Float[Tensor, " b"] | None = None,
) -> Float[Tensor, " b"]:
    """Return the mean squared error of the prediction over the target views of each scene.

    Args:
        model: The denoiser.
        views: Views at the model's size, with at least one target.
        t: Timestep index, one per scene, shared by its targets.
        noise: Standard normal.
        keep_cameras: 1 keeps a scene's cameras, 0 blanks them (training for guidance); None keeps all.

    Source:
        CAMEO (arXiv 2512.03045), training protocol: MSE on target views only, v-prediction.
    """
    with torch.no_grad():
        clean, level = model.encode_views(views), model.alpha_bar.to(noise)[t]
    latents = noised(model, views, clean, noise, t)
    with targets_only(model.network, views.n_ref):
        predicted = model.denoise(latents, t, conditioning(model, views, keep_cameras))
    error = (predicted - prediction_target(model, clean, noise, level))[:, views.n_ref :]
    return error.square().flatten(1).mean(1)
