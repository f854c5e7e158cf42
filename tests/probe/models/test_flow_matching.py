"""Noise of flow matching: its levels, its prediction, its sampler, and what tables tell of it."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from probe.measure.model import timestep_table
from probe.models.model import MultiViewModel, noised, predicted_clean, prediction_target, to_latents
from probe.models.sampling import flow_scheduler, predict_views, sample_views, sampler
from probe.models.schedules import STEPS, add_noise, flow_alpha_bar, flow_sigmas, noise_scales
from probe.scenes.shapes import draw_shapes, make_views
from probe.views import Views

EXACT = {"rtol": 0, "atol": 0}
SHIFTS = (1.0, 3.0, 7.0)


def photograph(n_ref: int = 1) -> Views:
    g = torch.Generator().manual_seed(0)
    return make_views(draw_shapes(2, generator=g), torch.tensor([[20.0, 40.0]] * 2), size=8, n_ref=n_ref, generator=g)


class Oracle(nn.Module):
    """Predicts the true noise - clean in targets and nonsense in references."""

    def __init__(self, views: Views, noise: Tensor) -> None:
        super().__init__()
        self.velocity, self.n_ref, self.times = noise - to_latents(views.image), views.n_ref, list[int]()

    def forward(self, latents, t, inputs, domain):
        self.times.append(int(t[0]))
        out = self.velocity.clone()
        out[:, : self.n_ref] = 100.0
        return out


def model_of(network: nn.Module, shift: float = 3.0) -> MultiViewModel:
    alpha_bar = flow_alpha_bar(flow_sigmas(shift))
    return MultiViewModel(name="flow", network=network, alpha_bar=alpha_bar, size=8, prediction="flow")


def test_noise_scales_known():
    alpha_bar = torch.tensor([0.0, 0.5, 0.9, 1.0], dtype=torch.float64)  # signal to noise 0, 1, 3 and without end
    signal, noise = noise_scales(alpha_bar, "flow")
    torch.testing.assert_close(signal, torch.tensor([0.0, 0.5, 0.75, 1.0], dtype=torch.float64))
    torch.testing.assert_close(noise, torch.tensor([1.0, 0.5, 0.25, 0.0], dtype=torch.float64))
    signal, noise = noise_scales(torch.tensor(0.64))
    assert (float(signal), float(noise)) == pytest.approx((0.8, 0.6))


@settings(deadline=None, max_examples=40)
@given(sigma=st.floats(0, 1))
def test_sigma_comes_back_and_the_ratio_is_that_of_the_variances(sigma: float):
    alpha_bar = flow_alpha_bar(torch.tensor([sigma], dtype=torch.float64))
    signal, noise = noise_scales(alpha_bar, "flow")
    torch.testing.assert_close(noise.item(), sigma, rtol=1e-9, atol=1e-8)
    assert (signal + noise).item() == pytest.approx(1)
    by_variance = noise_scales(alpha_bar)
    torch.testing.assert_close(signal * by_variance[1], noise * by_variance[0])


@pytest.mark.parametrize("shift", SHIFTS)
def test_sigmas_are_those_of_diffusers_schedulers(shift: float):
    ours = flow_sigmas(shift)
    theirs = FlowMatchEulerDiscreteScheduler(shift=shift)
    torch.testing.assert_close(ours.flip(0).float(), theirs.sigmas, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(1000 * ours.flip(0).float(), theirs.timesteps, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("shift", SHIFTS)
def test_wans_scheduler_shifts_uniform_sigmas_likewise(shift: float):
    uniform, shifted = unipc(1.0), unipc(shift)
    torch.testing.assert_close(shift * uniform / (1 + (shift - 1) * uniform), shifted, rtol=1e-5, atol=1e-5)


def unipc(shift: float) -> Tensor:
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)
    scheduler.set_timesteps(10)
    return scheduler.sigmas[:10]


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**31 - 1), t=st.integers(0, STEPS - 1), shift=st.sampled_from(SHIFTS))
def test_noise_is_that_of_diffusers_and_the_clean_latents_are_recovered(seed: int, t: int, shift: float):
    g = torch.Generator().manual_seed(seed)
    clean, noise = torch.randn(2, 2, 3, 2, 4, 4, generator=g).unbind()
    model, theirs = model_of(nn.Identity(), shift), FlowMatchEulerDiscreteScheduler(shift=shift)
    level = model.alpha_bar[[t, t]]
    noisy = add_noise(clean, noise, level, 1, "flow")
    expected = theirs.scale_noise(clean, theirs.timesteps[[STEPS - 1 - t] * 2], noise)
    torch.testing.assert_close(noisy[:, 1:], expected[:, 1:], rtol=1e-4, atol=1e-5)
    assert torch.equal(noisy[:, :1], clean[:, :1])
    found = predicted_clean(model, noisy, prediction_target(model, clean, noise, level), level)
    torch.testing.assert_close(found[:, 1:], clean[:, 1:], rtol=1e-4, atol=1e-5)
    assert noisy.dtype == found.dtype == torch.float32


def test_noised_views_are_references_clean_and_targets_by_level():
    views, model = photograph(), model_of(nn.Identity())
    clean, noise = to_latents(views.image), torch.randn(views.image.shape)
    t = torch.tensor([500, 999])
    found, sigma = noised(model, views, clean, noise, t), flow_sigmas(3.0)[t].float()
    expected = (1 - sigma.view(-1, 1, 1, 1, 1)) * clean + sigma.view(-1, 1, 1, 1, 1) * noise
    torch.testing.assert_close(found[:, 1:], expected[:, 1:])
    torch.testing.assert_close(found[1, 1:], noise[1, 1:], **EXACT)  # the last timestep is pure noise
    assert torch.equal(found[:, :1], clean[:, :1])


@pytest.mark.parametrize("steps", [1, 4, 61])
def test_a_perfect_prediction_is_sampled_to_the_clean_views(steps: int):
    views = photograph()
    noise = torch.randn(views.image.shape, generator=torch.Generator().manual_seed(1))
    oracle = Oracle(views, noise)
    torch.testing.assert_close(
        sample_views(model_of(oracle), views, noise, steps=steps), views.image, rtol=0, atol=1e-5
    )
    assert (len(oracle.times), oracle.times[0]) == (steps, STEPS - 1)
    torch.testing.assert_close(predict_views(model_of(oracle), views, noise), views.image, rtol=0, atol=1e-5)


def test_the_sampler_is_eulers_through_the_visited_sigmas():
    model = model_of(nn.Identity())
    scheduler, timesteps = sampler(model, 4)
    assert timesteps.tolist() == [999, 749, 499, 249]
    expected = [*flow_sigmas(3.0)[timesteps].tolist(), 0.0]
    assert scheduler.sigmas.tolist() == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ValueError, match="1001 steps of 1000 timesteps"):
        sampler(model, 1001)


def test_an_euler_step_known():
    scheduler = flow_scheduler(torch.tensor([1.0, 0.25]))
    x, first, second = torch.full((1, 1), 2.0), *scheduler.timesteps.tolist()
    x = scheduler.step(torch.full((1, 1), 4.0), first, x, return_dict=False)[0]
    assert x.item() == pytest.approx(2 - 0.75 * 4)
    assert scheduler.step(torch.ones(1, 1), second, x, return_dict=False)[0].item() == pytest.approx(-1 - 0.25)


def test_the_table_tells_t_sigma_and_signal_to_noise():
    table = timestep_table(model_of(nn.Identity(), shift=1.0), (499, 799, 999))
    assert table["timestep"].tolist() == [499, 799, 999]
    assert table["sigma"].tolist() == pytest.approx([0.5, 0.8, 1.0])
    assert table["snr"].tolist() == pytest.approx([1.0, (0.2 / 0.8) ** 2, 0.0])


def test_other_models_tell_no_sigma():
    model = MultiViewModel(name="plain", network=nn.Identity(), alpha_bar=torch.linspace(1, 0, STEPS), size=8)
    assert list(timestep_table(model, (500,)).columns) == ["timestep", "alpha_bar", "snr"]
