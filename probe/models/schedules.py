"""Noise schedules: how much of the image is left at each timestep, and what a network predicts there. Pure."""

from typing import Literal

import torch
from diffusers import DDPMScheduler
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

STEPS = 1000

Prediction = Literal["v_prediction", "epsilon", "none"]
"""What a network predicts; "none" takes no noise and predicts no image."""
Spacing = Literal["trailing", "leading"]


def cameo_betas() -> Float[Tensor, " steps"]:
    """Return the betas of CAMEO's schedule before the zero-terminal-SNR rescale.

    SD 2.1's scaled-linear betas with each step's (1 - beta) / beta divided by sqrt(4), which is 2 beta / (1 + beta).

    Source:
        docs/references.md, "CAT3D of the release: noise and sampling" (closed form checked there against the release).
    """
    beta = torch.linspace(0.00085**0.5, 0.012**0.5, STEPS, dtype=torch.float64).square()
    return (2 * beta / (1 + beta)).float()


def cameo_scheduler() -> DDPMScheduler:
    """Build the stock scheduler: CAMEO's betas, zero terminal SNR (arXiv 2305.08891), v-prediction."""
    return DDPMScheduler(
        num_train_timesteps=STEPS,
        trained_betas=cameo_betas().numpy(),
        rescale_betas_zero_snr=True,
        prediction_type="v_prediction",
        clip_sample=False,
    )


def pixel_scheduler() -> DDPMScheduler:
    """Build the small pixel-space model's scheduler: cosine (arXiv 2102.09672), zero terminal SNR, v-prediction."""
    return DDPMScheduler(
        num_train_timesteps=STEPS,
        beta_schedule="squaredcos_cap_v2",
        rescale_betas_zero_snr=True,
        prediction_type="v_prediction",
        clip_sample=False,
    )


def add_noise(
    clean: Float[Tensor, "b f c h w"], noise: Float[Tensor, "b f c h w"], alpha_bar: Float[Tensor, " b"], n_ref: int
) -> Float[Tensor, "b f c h w"]:
    """Mix sqrt(alpha_bar) clean + sqrt(1 - alpha_bar) noise in target views; references stay clean."""
    level = rearrange(alpha_bar, "b -> b 1 1 1 1")
    noisy = level.sqrt() * clean + (1 - level).sqrt() * noise
    return torch.cat([clean[:, :n_ref], noisy[:, n_ref:]], dim=1)


def velocity(
    clean: Float[Tensor, "b f c h w"], noise: Float[Tensor, "b f c h w"], alpha_bar: Float[Tensor, " b"]
) -> Float[Tensor, "b f c h w"]:
    """Return the target of v-prediction: sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) clean."""
    level = rearrange(alpha_bar, "b -> b 1 1 1 1")
    return level.sqrt() * noise - (1 - level).sqrt() * clean
