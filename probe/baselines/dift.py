"""DIFT: features of a text-to-image diffusion U-Net that was never trained on views.

- Weights: any diffusers folder of Stable Diffusion 1.x or 2.x, or a hub id (:mod:`probe.models.stable_diffusion`).
- Features: the output of ``up_blocks[1]``, empty prompt, each view alone and noised to timestep index 1: the setting of
  probe3d (reference/formats.md A3), whose task is the geometric one. At that timestep the image keeps 99.8 % of its
  variance, so one drawing of the noise is enough; all views of all scenes have the same. (DIFT itself takes t = 261 and
  the mean over eight drawings for semantic matches.)
- Size: the model's native one; descriptors are the features at token centres, by cosine.

Source: Tang et al. 2023, "Emergent Correspondence from Image Diffusion"; probe3d's configs/backbone/dift.yaml.
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from probe.baselines.describing import Described, by_descriptors
from probe.baselines.maps import at_tokens, unit
from probe.measure.matcher import Matcher
from probe.models.model import place, predict
from probe.models.parts.files import Loading
from probe.models.stable_diffusion import StableDiffusion, load_stable_diffusion
from probe.seeds import derive
from probe.views import Views, resize

TIMESTEP = 1
BLOCK = "up_blocks.1"


def load_dift(source: str, device: torch.device) -> Matcher:
    """Load a U-Net as a matcher.

    Args:
        source: Folder or hub id; empty for the usual mirror of Stable Diffusion 2.1.
        device: Where it computes.

    Raises:
        ValueError: If it is not there, needs more than a prompt and a timestep, or has no such block.
    """
    model = place(load_stable_diffusion(source, Loading()), device)
    if len(model.network.up_blocks) < 2:  # type: ignore[arg-type]
        raise ValueError(f"load_dift: {source} has no {BLOCK}; expected a folder of Stable Diffusion 1.x or 2.x")

    def describe(views: Views) -> Described:
        maps = features(model, views).to(views.image)
        return lambda grid: unit(at_tokens(maps, grid))

    return by_descriptors(describe)


@torch.no_grad()
def features(model: StableDiffusion, views: Views) -> Float[Tensor, "b f c h w"]:
    """Give the block's output for every view."""
    small = resize(views, model.size, model.size).to(model.alpha_bar.device)
    generator = torch.Generator().manual_seed(derive("dift"))
    noise = torch.randn(model.latent_shape(1, 1), generator=generator).to(small.image)
    t = torch.full((len(small.image),), TIMESTEP, device=noise.device)
    seen: list[Tensor] = []
    hook = model.network.get_submodule(BLOCK).register_forward_hook(lambda _module, _args, output: seen.append(output))
    try:
        predict(model, small, t, noise.expand(*small.image.shape[:2], -1, -1, -1))
    finally:
        hook.remove()
    return rearrange(seen[0], "(b f) c h w -> b f c h w", f=views.count)
