"""Noise schedules: how much of the image is left at each timestep, and what a network predicts there. Pure."""

from typing import Literal

import torch
from diffusers import DDPMScheduler
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

STEPS = 1000

Prediction = Literal["v_prediction", "epsilon", "flow", "none"]
"""What a network predicts: v, the noise, or the velocity of flow matching, noise - clean; "none" takes no noise and
predicts no image."""
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


def noise_scales(
    alpha_bar: Float[Tensor, "*batch"], prediction: Prediction = "v_prediction"
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    r"""Return what multiplies the clean latents and the noise.

    .. math:: \sqrt{\bar\alpha}, \sqrt{1 - \bar\alpha} \quad \text{or, in flow matching,} \quad 1 - \sigma, \sigma

    The two pairs have the same ratio: squares of the first add up to 1, the second adds up to 1.

    Args:
        alpha_bar: Share of signal variance.
        prediction: Of the network; "flow" means the straight path of flow matching.

    Source:
        Flow matching: arXiv 2210.02747; the straight path as in arXiv 2209.03003 and Stable Diffusion 3,
        arXiv 2403.03206 section 2 (their z_t = (1 - t) x_0 + t epsilon).
    """
    signal, noise = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    return (signal / (signal + noise), noise / (signal + noise)) if prediction == "flow" else (signal, noise)


def flow_alpha_bar(sigma: Float[Tensor, " steps"]) -> Float[Tensor, " steps"]:
    """Return the share of signal variance of (1 - sigma) clean + sigma noise, in double precision.

    In single precision 1 - alpha_bar, and so sigma, would lose digits at the clean end.
    """
    signal, noise = (1 - sigma.double()).square(), sigma.double().square()
    return signal / (signal + noise)


def flow_sigmas(shift: float) -> Float[Tensor, " steps"]:
    """Return sigma at each timestep index: uniform ones, 1/1000 to 1, moved towards noise by a shift.

    Source:
        arXiv 2403.03206, section 5.3.2 (resolution-dependent shifting); ``FlowMatchEulerDiscreteScheduler`` of
        diffusers, whose timesteps are 1000 sigma.
    """
    uniform = torch.arange(1, STEPS + 1, dtype=torch.float64) / STEPS
    return shift * uniform / (1 + (shift - 1) * uniform)


def add_noise(
    clean: Float[Tensor, "b f c h w"],
    noise: Float[Tensor, "b f c h w"],
    alpha_bar: Float[Tensor, " b"],
    n_ref: int,
    prediction: Prediction = "v_prediction",
) -> Float[Tensor, "b f c h w"]:
    """Mix clean latents and noise (:func:`noise_scales`) in target views; references stay clean."""
    signal, part = noise_scales(rearrange(alpha_bar, "b -> b 1 1 1 1"), prediction)
    noisy = signal.to(clean) * clean + part.to(clean) * noise
    return torch.cat([clean[:, :n_ref], noisy[:, n_ref:]], dim=1)


def velocity(
    clean: Float[Tensor, "b f c h w"], noise: Float[Tensor, "b f c h w"], alpha_bar: Float[Tensor, " b"]
) -> Float[Tensor, "b f c h w"]:
    """Return the target of v-prediction: sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) clean."""
    level = rearrange(alpha_bar, "b -> b 1 1 1 1")
    return level.sqrt() * noise - (1 - level).sqrt() * clean
