import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor, nn

from probe.geometry import plucker_rays
from probe.models.model import (
    OTHERS,
    MultiViewModel,
    condition,
    predict,
    predicted_clean,
    prediction_target,
    to_latents,
)
from probe.models.schedules import STEPS, add_noise, cameo_betas, cameo_scheduler, pixel_scheduler, velocity
from probe.scenes.shapes import draw_shapes, make_views
from probe.views import Views

SEEDS = st.integers(0, 2**31 - 1)
laws = settings(max_examples=25, deadline=None)
CLOSE = {"rtol": 1e-5, "atol": 1e-5}  # single precision
SCHEDULERS = {"cameo": cameo_scheduler, "pixel": pixel_scheduler}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def latents(seed: int, *shape: int) -> tuple[Tensor, Tensor]:
    g = generator(seed)
    return torch.randn(shape, generator=g), torch.randn(shape, generator=g)


def photograph(n_ref: int = 1, *, b: int = 2, f: int = 3, seed: int = 0) -> Views:
    g = generator(seed)
    rotation = 10 + 50 * torch.rand(b, f - 1, generator=g)
    return make_views(draw_shapes(b, generator=g), rotation, size=8, n_ref=n_ref, generator=g)


# --- schedules -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("t", "alpha_bar", "within"),
    [
        (0, 0.998302, 1e-6),
        (100, 0.798840, 1e-6),
        (250, 0.452210, 1e-6),
        (500, 0.074763, 1e-6),
        (750, 0.002711, 1e-6),
        (900, 9.3e-5, 5e-7),
        (981, 1e-6, 5e-7),
        (998, 3.3e-9, 5e-11),
        (999, 0, 0),
    ],
)
def test_cameo_schedule_has_the_values_of_the_release(t: int, alpha_bar: float, within: float):
    assert cameo_scheduler().alphas_cumprod[t].item() == pytest.approx(alpha_bar, abs=within)


def test_cameo_betas_divide_the_signal_to_noise_of_each_step_by_two():
    stock = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
    beta = cameo_betas().double()
    torch.testing.assert_close((1 - beta) / beta, (1 - stock) / stock / 4**0.5, rtol=1e-6, atol=0)
    assert beta.shape == (STEPS,)


def test_pixel_schedule_is_the_cosine_with_nothing_left_at_the_end():
    def signal(t: float) -> float:
        return math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 / math.cos(0.008 / 1.008 * math.pi / 2) ** 2

    # square roots are shifted so that the last is 0, then stretched so that the first stays; the last beta is 0.999
    root = torch.tensor([signal(t + 1) for t in range(999)] + [0.001 * signal(999)], dtype=torch.float64).sqrt()
    expected = ((root - root[-1]) * root[0] / (root[0] - root[-1])).square()
    torch.testing.assert_close(pixel_scheduler().alphas_cumprod.double(), expected, rtol=1e-4, atol=1e-6)
    assert pixel_scheduler().alphas_cumprod[-1] == 0


@pytest.mark.parametrize("make", SCHEDULERS.values(), ids=SCHEDULERS)
def test_schedules_lose_signal_at_every_step_and_predict_v(make):
    scheduler = make()
    assert (scheduler.alphas_cumprod.diff() < 0).all()
    assert scheduler.alphas_cumprod.shape == (STEPS,)
    assert scheduler.config.prediction_type == "v_prediction"
    assert not scheduler.config.clip_sample


# --- noise and velocity ----------------------------------------------------------------------------------------------


def test_add_noise_and_velocity_known():
    clean, noise = torch.full((1, 2, 1, 1, 1), 2.0), torch.full((1, 2, 1, 1, 1), 10.0)
    level = torch.tensor([0.64])  # 0.8 of the signal, 0.6 of the noise
    assert add_noise(clean, noise, level, 1).flatten().tolist() == pytest.approx([2.0, 0.8 * 2 + 0.6 * 10])
    assert velocity(clean, noise, level).flatten().tolist() == pytest.approx([0.8 * 10 - 0.6 * 2] * 2)
    for end, noisy, v in ((1.0, clean, noise), (0.0, noise, -clean)):
        torch.testing.assert_close(add_noise(clean, noise, torch.tensor([end]), 0), noisy, rtol=0, atol=0)
        torch.testing.assert_close(velocity(clean, noise, torch.tensor([end])), v, rtol=0, atol=0)


@laws
@given(seed=SEEDS, name=st.sampled_from(sorted(SCHEDULERS)), b=st.integers(1, 3), n_ref=st.integers(0, 3))
def test_noise_and_velocity_are_those_of_diffusers(seed: int, name: str, b: int, n_ref: int):
    scheduler = SCHEDULERS[name]()
    clean, noise = latents(seed, b, 3, 2, 4, 5)
    t = torch.randint(0, STEPS, (b,), generator=generator(seed))
    level = scheduler.alphas_cumprod[t]
    noisy = add_noise(clean, noise, level, n_ref)
    torch.testing.assert_close(noisy[:, n_ref:], scheduler.add_noise(clean, noise, t)[:, n_ref:], **CLOSE)
    assert torch.equal(noisy[:, :n_ref], clean[:, :n_ref])
    torch.testing.assert_close(velocity(clean, noise, level), scheduler.get_velocity(clean, noise, t), **CLOSE)


@laws
@given(seed=SEEDS, level=st.floats(0, 1))
def test_clean_and_noise_are_recovered_from_v(seed: int, level: float):
    clean, noise = (value.double() for value in latents(seed, 1, 2, 2, 3, 3))
    alpha_bar = torch.tensor([level], dtype=torch.float64)
    noisy, v = add_noise(clean, noise, alpha_bar, 0), velocity(clean, noise, alpha_bar)
    signal, spread = math.sqrt(level), math.sqrt(1 - level)
    torch.testing.assert_close(signal * noisy - spread * v, clean)
    torch.testing.assert_close(spread * noisy + signal * v, noise)
    torch.testing.assert_close(noisy.square() + v.square(), clean.square() + noise.square())  # a rotation


@laws
@given(seed=SEEDS, level=st.floats(0.01, 1), kind=st.sampled_from(["v_prediction", "epsilon"]))
def test_the_clean_latents_are_recovered_from_a_perfect_prediction(seed: int, level: float, kind: str):
    clean, noise = (value.double() for value in latents(seed, 1, 2, 2, 3, 3))
    alpha_bar = torch.tensor([level], dtype=torch.float64)
    none = torch.zeros(STEPS)
    model = MultiViewModel(name="", network=nn.Identity(), alpha_bar=none, size=3, prediction=kind)  # type: ignore[arg-type]
    predicted = prediction_target(model, clean, noise, alpha_bar)
    found = predicted_clean(model, add_noise(clean, noise, alpha_bar, 0), predicted, alpha_bar)
    torch.testing.assert_close(found, clean)


def test_pure_noise_has_a_clean_prediction_by_v_only():
    x = torch.ones(1, 1, 1, 1, 1)
    by_v = MultiViewModel(name="", network=nn.Identity(), alpha_bar=torch.zeros(STEPS), size=1)
    assert predicted_clean(by_v, x, 3 * x, torch.zeros(1)).item() == -3
    by_noise = MultiViewModel(
        name="", network=nn.Identity(), alpha_bar=torch.zeros(STEPS), size=1, prediction="epsilon"
    )
    assert not predicted_clean(by_noise, x, x, torch.zeros(1)).isfinite().any()


# --- condition -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_ref", [0, 1, 2, 3])
def test_condition_is_mask_then_rays(n_ref: int):
    views = photograph(n_ref)
    given_inputs = condition(views, ray_scale=2.0)
    assert given_inputs.shape == (2, 3, 7, 8, 8)
    assert (given_inputs[:, :n_ref, 0] == 0).all()
    assert (given_inputs[:, n_ref:, 0] == 1).all()
    rays = plucker_rays(views.intrinsics, views.world_to_cam, (8, 8), scale=2.0)
    assert torch.equal(given_inputs[:, :, 1:], rays)
    halved = condition(views, ray_scale=4.0)
    torch.testing.assert_close(halved[:, :, 4:], given_inputs[:, :, 4:] / 2, **CLOSE)  # the moment is a length
    torch.testing.assert_close(halved[:, :, :4], given_inputs[:, :, :4], rtol=0, atol=0)


def test_keep_cameras_blanks_rays_of_its_scenes_and_no_mask():
    views = photograph()
    full = condition(views, ray_scale=2.0)
    kept = condition(views, ray_scale=2.0, keep_cameras=torch.tensor([0.0, 1.0]))
    assert not kept[0, :, 1:].any()
    assert torch.equal(kept[1], full[1])
    assert torch.equal(kept[:, :, 0], full[:, :, 0])
    assert full[0, :, 1:].any()


def test_to_latents_known():
    image = torch.tensor([0.0, 0.25, 0.5, 1.0]).reshape(1, 1, 1, 2, 2).expand(1, 1, 3, 2, 2)
    assert to_latents(image)[0, 0, 0].flatten().tolist() == [-1.0, -0.5, 0.0, 1.0]


# --- one step --------------------------------------------------------------------------------------------------------


class Echo(nn.Module):
    """A network that keeps what it was given and answers with its latents."""

    def forward(self, latents: Tensor, t: Tensor, inputs: Tensor, domain: Tensor) -> Float[Tensor, "b f 3 h w"]:
        given = self.given = (latents, t, inputs, domain)
        return given[0]


def test_predict_shows_the_network_clean_references_noisy_targets_and_their_condition():
    alpha_bar = torch.linspace(1, 0, STEPS)
    model = MultiViewModel(name="echo", network=Echo(), alpha_bar=alpha_bar, size=8, ray_scale=3.0)
    views = photograph(1)
    _, noise = latents(1, 2, 3, 3, 8, 8)
    t = torch.tensor([300, 0])
    out = predict(model, views, t, noise)
    latent, time, inputs, domain = model.network.given
    assert out is latent
    clean = views.image * 2 - 1
    assert torch.equal(latent[:, :1], clean[:, :1])
    level = alpha_bar[300].item()
    expected = math.sqrt(level) * clean[0, 1:] + math.sqrt(1 - level) * noise[0, 1:]
    torch.testing.assert_close(latent[0, 1:], expected, **CLOSE)
    torch.testing.assert_close(latent[1, 1:], clean[1, 1:], **CLOSE)  # nothing is added at 0
    assert torch.equal(time, t)
    assert torch.equal(inputs, condition(views, ray_scale=3.0))
    assert domain.tolist() == [OTHERS, OTHERS]
