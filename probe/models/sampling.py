"""The sampler: deterministic DDIM from noise to views, Euler's steps in flow matching. Pure."""

import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from jaxtyping import Float, Int
from torch import Tensor

from probe.models.model import MultiViewModel, check_predicts, conditioning, predicted_clean
from probe.models.schedules import Prediction, Spacing, noise_scales
from probe.views import Views

OFFSET: dict[Spacing, int] = {"trailing": 0, "leading": 1}


@torch.no_grad()
def sample_views(
    model: MultiViewModel, views: Views, noise: Float[Tensor, "b f c h w"], *, steps: int = 50, guidance: float = 1.0
) -> Float[Tensor, "b f 3 H W"]:
    """Draw the target views of each scene from noise, given its references and all cameras.

    Deterministic DDIM; after every step the references are clean again. The paper takes 50 steps and a guidance of 2.

    Args:
        model: The denoiser, at timesteps 0 (clean) to the last index of its ``alpha_bar`` (pure noise); its ``spacing``
            says which are visited.
        views: Views at the model's size, 0 to f - 1 of them references. The targets' images are not looked at.
        noise: Standard normal; that of references is not used.
        steps: Of DDIM.
        guidance: Weight of the prediction with cameras against the one without; 1 needs the former only, which is one
            call of the network per step instead of two.

    Returns:
        Colours in [0, 1]; references are the given ones, bit for bit.

    Raises:
        ValueError: If there is no target, too few or many steps, the views are frames of a clip, or the model predicts
            no image.

    Source:
        DDIM: arXiv 2010.02502, formula 12 with eta 0. Guidance on cameras, clean references: docs/references.md, "CAT3D
        of the release: noise and sampling". Trailing timesteps, which begin at pure noise: arXiv 2305.08891, table 2;
        leading ones where the model's release takes them (981, 961, ..., 1 for 50 steps).
    """
    check_predicts(model, "sampling needs")
    _check_targets("sample_views", views)
    scheduler, timesteps = sampler(model, steps)
    clean = model.encode(views.image)
    latents = _after_references(clean, noise, views.n_ref)
    for index, t in zip(scheduler.timesteps.tolist(), timesteps.tolist(), strict=True):
        predicted = guided_prediction(model, views, latents, t, guidance)
        latents = scheduler.step(predicted, index, latents, return_dict=False)[0]
        latents = _after_references(clean, latents, views.n_ref)
    return _after_references(views.image, model.decode(latents), views.n_ref)


@torch.no_grad()
def predict_views(
    model: MultiViewModel, views: Views, noise: Float[Tensor, "b f c h w"], *, steps: int = 50, guidance: float = 1.0
) -> Float[Tensor, "b f 3 H W"]:
    """Predict the target views of each scene from noise in one step, the first of :func:`sample_views`.

    What no view shows is predicted as its mean, where a sample guesses: a guess has twice the mean's squared error.

    Args:
        model: The denoiser.
        views: As for :func:`sample_views`.
        noise: Standard normal; that of references is not used.
        steps: Of the sampler whose first timestep this is; trailing ones all begin at pure noise.
        guidance: As for :func:`sample_views`.

    Returns:
        Colours in [0, 1]; references are the given ones, bit for bit.

    Raises:
        ValueError: If there is no target, too few or many steps, the views are frames of a clip, or the model predicts
            no image.
    """
    check_predicts(model, "sampling needs")
    _check_targets("predict_views", views)
    first = int(sampler(model, steps)[1][0])
    latents = _after_references(model.encode(views.image), noise, views.n_ref)
    predicted = guided_prediction(model, views, latents, first, guidance)
    clean = predicted_clean(model, latents, predicted, model.alpha_bar[first].to(latents.device).expand(len(latents)))
    return _after_references(views.image, model.decode(clean), views.n_ref)


def _check_targets(caller: str, views: Views) -> None:
    if views.clip is not None:
        raise ValueError(
            f"{caller}: the views are frames of a clip, whose latent frames cannot be decoded one by one; take views "
            "that are images alone (--frames-per-view 1), or leave sampling out (--sampling-steps 0)"
        )
    if views.n_ref == views.count:
        raise ValueError(
            f"{caller}: {views.n_ref} of {views.count} views are references, expected 0 to {views.count - 1}; "
            "choose another n_ref"
        )


def _after_references(
    references: Float[Tensor, "b f ..."], targets: Float[Tensor, "b f ..."], n_ref: int
) -> Float[Tensor, "b f ..."]:
    return torch.cat([references[:, :n_ref], targets[:, n_ref:]], dim=1)


def sampler(
    model: MultiViewModel, steps: int
) -> tuple[DDIMScheduler | FlowMatchEulerDiscreteScheduler, Int[Tensor, " {steps}"]]:
    """Build the stock sampler of a model's prediction, and return the schedule's index at each step, descending.

    Args:
        model: The denoiser.
        steps: Timesteps to visit.

    Raises:
        ValueError: If there are fewer than 1 step, or more than timesteps.
    """
    if model.prediction != "flow":
        return ddim_scheduler(model.alpha_bar, steps, model.prediction, model.spacing)
    timesteps = visited_timesteps(len(model.alpha_bar), steps, model.spacing)
    return flow_scheduler(noise_scales(model.alpha_bar.cpu()[timesteps], "flow")[1]), timesteps


def flow_scheduler(sigmas: Float[Tensor, " steps"]) -> FlowMatchEulerDiscreteScheduler:
    """Build the stock Euler scheduler of flow matching through some sigmas to the clean image.

    Its step, x + (sigma' - sigma) v, is DDIM's on the straight path: (1 - sigma') of the predicted clean latents and
    sigma' of the predicted noise.

    Args:
        sigmas: Descending.
    """
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    scheduler.set_timesteps(sigmas=sigmas.tolist())
    return scheduler


def ddim_scheduler(
    alpha_bar: Float[Tensor, " all"],
    steps: int,
    prediction: Prediction = "v_prediction",
    spacing: Spacing = "trailing",
) -> tuple[DDIMScheduler, Int[Tensor, " {steps}"]]:
    """Build the stock DDIM scheduler over the trailing or leading timesteps of a schedule.

    The stock scheduler takes every timestep's predecessor to be ``all // steps`` below it, which misses the next one
    wherever ``steps`` does not divide ``all``. So it is given the schedule of the chosen timesteps alone, on which each
    predecessor is the next one; where ``steps`` divides, nothing changes. The last step of trailing timesteps ends at
    the clean image, that of leading ones at index 0, as in Stable Diffusion (``set_alpha_to_one`` false).

    Args:
        alpha_bar: Share of signal variance left at each timestep index; 0 at the last one (zero terminal SNR).
        steps: Timesteps to visit, first the last index (trailing).
        prediction: What the network predicts.
        spacing: Trailing, or leading with an offset of 1.

    Returns:
        The scheduler, to be stepped through its own ``timesteps``; and the schedule's index at each step, descending.

    Raises:
        ValueError: If there are fewer than 1 step, or more than timesteps.
    """
    timesteps = visited_timesteps(len(alpha_bar), steps, spacing)
    scheduler = DDIMScheduler(num_train_timesteps=steps, prediction_type=prediction, clip_sample=False)
    scheduler.alphas_cumprod = alpha_bar[timesteps.flip(0).to(alpha_bar.device)]
    if spacing == "leading":
        scheduler.final_alpha_cumprod = alpha_bar[0]
    scheduler.set_timesteps(steps)
    return scheduler, timesteps


def visited_timesteps(count: int, steps: int, spacing: Spacing) -> Int[Tensor, " {steps}"]:
    """Return the trailing or leading ones of ``count`` timesteps, descending.

    Raises:
        ValueError: If there are fewer than 1 step, or more than timesteps.
    """
    offset = OFFSET[spacing]
    if not 1 <= steps <= count - offset:
        raise ValueError(f"ddim_scheduler: {steps} steps of {count} timesteps, expected 1 to {count - offset}")
    stock = DDIMScheduler(num_train_timesteps=count, timestep_spacing=spacing, steps_offset=offset)
    stock.set_timesteps(steps)
    return stock.timesteps[:steps]  # rounding gives one too many for 61 of 1000, among others


def guided_prediction(
    model: MultiViewModel, views: Views, latents: Float[Tensor, "b f c h w"], t: int, guidance: float = 1.0
) -> Float[Tensor, "b f c h w"]:
    """Predict v or the noise with guidance on cameras: unconditional + guidance (conditional - unconditional).

    Args:
        model: The denoiser.
        views: Views at the model's size.
        latents: References clean, targets noised to ``t``.
        t: Timestep index, of all scenes.
        guidance: 1 is the prediction with cameras, 0 the one without.

    Source:
        Classifier-free guidance (arXiv 2207.12598); cameras are dropped, mask and references stay (docs/references.md,
        "CAT3D of the release: noise and sampling"). Linear in the prediction, so guiding v is guiding the noise or the
        clean image.
    """
    conditional = _predict(model, views, latents, t, keep=1.0)
    if guidance == 1:
        return conditional
    unconditional = _predict(model, views, latents, t, keep=0.0)
    return unconditional + guidance * (conditional - unconditional)


def _predict(
    model: MultiViewModel, views: Views, latents: Float[Tensor, "b f c h w"], t: int, keep: float
) -> Float[Tensor, "b f c h w"]:
    scenes = len(latents)
    index = torch.full((scenes,), t, device=latents.device)
    return model.denoise(latents, index, conditioning(model, views, latents.new_full((scenes,), keep)))
