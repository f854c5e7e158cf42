"""The sampler: what an oracle lets it draw, what the network is shown, and what cannot matter."""

from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn

from probe.models.cat3d import TINY, load_unet
from probe.models.model import OTHERS, MultiViewModel, condition, to_latents
from probe.models.sampling import ddim_scheduler, guided_prediction, predict_views, sample_views
from probe.models.schedules import STEPS, cameo_betas, cameo_scheduler, pixel_scheduler, velocity
from probe.scenes.shapes import draw_shapes, make_views
from probe.views import Views

SMALL = {**TINY, "sample_size": 8, "block_out_channels": (8, 8), "attention_head_dim": 1, "norm_num_groups": 4}
SCHEDULES = {"pixel": pixel_scheduler, "cameo": cameo_scheduler}
CLOSE = {"rtol": 1e-5, "atol": 1e-5}  # single precision
EXACT = {"rtol": 0, "atol": 0}


def photograph(n_ref: int = 1, *, b: int = 2, f: int = 3, seed: int = 0) -> Views:
    g = torch.Generator().manual_seed(seed)
    rotation = 10 + 50 * torch.rand(b, f - 1, generator=g)
    return make_views(draw_shapes(b, generator=g), rotation, size=8, n_ref=n_ref, generator=g)


def noise_like(views: Views, seed: int = 1) -> Tensor:
    return torch.randn(views.image.shape, generator=torch.Generator().manual_seed(seed))


class Oracle(nn.Module):
    """Predicts the true v in targets and nonsense in references."""

    def __init__(self, views: Views, noise: Tensor, alpha_bar: Tensor) -> None:
        super().__init__()
        self.clean, self.noise, self.alpha_bar, self.n_ref = to_latents(views.image), noise, alpha_bar, views.n_ref

    def forward(self, latents, t, inputs, domain):
        v = velocity(self.clean, self.noise, self.alpha_bar[t])
        v[:, : self.n_ref] = 100.0
        return v


class Listener(nn.Module):
    """Keeps what it is given; answers with a fixed mix of latents and rays, so that every input matters."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Tensor, ...]] = []

    def forward(self, latents, t, inputs, domain):
        given = (latents, t, inputs, domain)
        self.calls.append(given)
        latents, t, inputs, _ = given
        return 0.5 * latents.sin() + 0.1 * inputs[:, :, 1:4] + 0.2 * t[0] / STEPS + 0.1 * latents.mean()


def model_of(network: nn.Module, make=pixel_scheduler) -> MultiViewModel:
    return MultiViewModel(name="toy", network=network, alpha_bar=make().alphas_cumprod, size=8)


@pytest.fixture(scope="module")
def unet() -> MultiViewModel:
    torch.manual_seed(0)
    return model_of(load_unet(None, SMALL).eval())


# --- the schedule ----------------------------------------------------------------------------------------------------


def test_trailing_timesteps_known():
    alpha_bar = pixel_scheduler().alphas_cumprod
    for steps, expected in {1: [999], 2: [999, 499], 3: [999, 666, 332], 5: [999, 799, 599, 399, 199]}.items():
        assert ddim_scheduler(alpha_bar, steps)[1].tolist() == expected


def test_every_number_of_steps_begins_at_pure_noise_and_gets_as_many_timesteps():
    alpha_bar = pixel_scheduler().alphas_cumprod
    for steps in (*range(1, 130), 499, 500, 999, 1000):  # 61, 103, 121 and 122 are those that rounding spoils
        scheduler, timesteps = ddim_scheduler(alpha_bar, steps)
        assert len(timesteps) == len(scheduler.timesteps) == steps
        assert timesteps[0] == STEPS - 1
        assert (timesteps.diff() < 0).all()
        assert timesteps[-1] >= 0
        assert torch.equal(scheduler.alphas_cumprod[scheduler.timesteps], alpha_bar[timesteps])


@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_where_steps_divide_the_sampler_is_the_stock_one(steps: int):
    model, views = model_of(Listener()), photograph()
    noise = noise_like(views)
    stock = DDIMScheduler.from_config(pixel_scheduler().config, timestep_spacing="trailing")
    stock.set_timesteps(steps)
    clean = to_latents(views.image)
    x = torch.cat([clean[:, :1], noise[:, 1:]], dim=1)
    for t in stock.timesteps:
        v = model.network(x, t.expand(2), condition(views, ray_scale=2.0), None)
        x = torch.cat([clean[:, :1], stock.step(v, t, x).prev_sample[:, 1:]], dim=1)
    drawn = sample_views(model, views, noise, steps=steps)
    torch.testing.assert_close(drawn[:, 1:], ((x + 1) / 2).clamp(0, 1)[:, 1:], **CLOSE)


@pytest.mark.parametrize("steps", [3, 7])
def test_the_sampler_is_the_formula_of_ddim_where_steps_do_not_divide(steps: int):
    model, views = model_of(Listener()), photograph()
    noise, clean = noise_like(views).double(), to_latents(views.image).double()
    levels = [float(model.alpha_bar[t]) for t in ddim_scheduler(model.alpha_bar, steps)[1]] + [1.0]
    model.network.calls.clear()
    drawn = sample_views(model, views, noise_like(views), steps=steps)
    x = torch.cat([clean[:, :1], noise[:, 1:]], dim=1)
    for (_, t, inputs, _), now, then in zip(model.network.calls, levels, levels[1:], strict=False):
        v = Listener()(x, t, inputs.double(), None)
        image = now**0.5 * x - (1 - now) ** 0.5 * v  # arXiv 2010.02502, formula 12 with sigma 0, in terms of v
        added = now**0.5 * v + (1 - now) ** 0.5 * x
        x = torch.cat([clean[:, :1], (then**0.5 * image + (1 - then) ** 0.5 * added)[:, 1:]], dim=1)
    assert len(model.network.calls) == steps
    torch.testing.assert_close(drawn[:, 1:], ((x + 1) / 2).clamp(0, 1)[:, 1:].float(), **CLOSE)


def test_leading_timesteps_are_the_releases():
    """50 steps: 981, 961, ..., 1; every step is the stock scheduler's, the last one too.

    Source: docs/references.md, "CAT3D of the release: noise and sampling".
    """
    stock = DDIMScheduler(
        trained_betas=cameo_betas().numpy(), rescale_betas_zero_snr=True, prediction_type="v_prediction",
        clip_sample=False, set_alpha_to_one=False, steps_offset=1, timestep_spacing="leading",
    )  # fmt: skip
    stock.set_timesteps(50)
    ours, timesteps = ddim_scheduler(cameo_scheduler().alphas_cumprod, 50, spacing="leading")
    assert timesteps.tolist() == stock.timesteps.tolist() == list(range(981, 0, -20))
    g = torch.Generator().manual_seed(0)
    for index, t in zip(ours.timesteps.tolist(), timesteps.tolist(), strict=True):
        x, v = torch.randn(2, 3, generator=g), torch.randn(2, 3, generator=g)
        torch.testing.assert_close(ours.step(v, index, x).prev_sample, stock.step(v, t, x).prev_sample, **CLOSE)


def test_leading_timesteps_leave_one_out():
    alpha_bar = cameo_scheduler().alphas_cumprod
    assert ddim_scheduler(alpha_bar, 999, spacing="leading")[1].max() == 999
    with pytest.raises(ValueError, match="ddim_scheduler: 1000 steps of 1000 timesteps, expected 1 to 999"):
        ddim_scheduler(alpha_bar, 1000, spacing="leading")


# --- drawing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 5, 7, 50, 61])
def test_an_oracle_draws_the_true_image(steps: int, schedule: str):
    views = photograph(2)
    noise = noise_like(views)
    make = SCHEDULES[schedule]
    model = model_of(Oracle(views, noise, make().alphas_cumprod), make)
    torch.testing.assert_close(sample_views(model, views, noise, steps=steps), views.image, **CLOSE)


@pytest.mark.parametrize("n_ref", [1, 2, 3])
def test_references_are_bit_equal_and_clean_at_every_step(n_ref: int):
    network, views = Listener(), photograph(n_ref, f=4)
    drawn = sample_views(model_of(network), views, noise_like(views), steps=3)
    torch.testing.assert_close(drawn[:, :n_ref], views.image[:, :n_ref], **EXACT)
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    for latents, _, inputs, domain in network.calls:
        torch.testing.assert_close(latents[:, :n_ref], to_latents(views.image)[:, :n_ref], **EXACT)
        assert (
            inputs[:, :, 0].flatten(2).unique(dim=-1).squeeze(-1).tolist() == [[0.0] * n_ref + [1.0] * (4 - n_ref)] * 2
        )
        assert domain.tolist() == [OTHERS, OTHERS]
    assert [call[1].tolist() for call in network.calls] == [[999, 999], [666, 666], [332, 332]]


def test_the_same_noise_draws_the_same_image_and_other_noise_another(unet: MultiViewModel):
    views = photograph()
    first, again, other = (sample_views(unet, views, noise_like(views, seed), steps=2) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first[:, 1:], other[:, 1:])
    assert not first.requires_grad


def test_target_images_and_the_noise_of_references_do_not_matter(unet: MultiViewModel):
    views = photograph()
    noise = noise_like(views)
    drawn = sample_views(unet, views, noise, steps=2)
    blind, louder = views.image.clone(), noise.clone()
    blind[:, 1:] = 0.5
    louder[:, :1] = 9.0
    assert torch.equal(sample_views(unet, replace(views, image=blind), louder, steps=2), drawn)


@pytest.mark.parametrize("n_ref", [1, 2])
def test_scenes_are_drawn_apart(unet: MultiViewModel, n_ref: int):
    views = photograph(n_ref)
    noise = noise_like(views)
    together = sample_views(unet, views, noise, steps=2, guidance=2.0)
    alone = [sample_views(unet, views.scene(k), noise[k : k + 1], steps=2, guidance=2.0) for k in range(2)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-4)


# --- guidance --------------------------------------------------------------------------------------------------------


def test_no_guidance_calls_once_per_step_and_is_the_plain_prediction():
    network, views = Listener(), photograph()
    plain = sample_views(model_of(network), views, noise_like(views), steps=4)
    assert len(network.calls) == 4
    assert all(torch.equal(inputs, condition(views, ray_scale=2.0)) for _, _, inputs, _ in network.calls)
    guided = sample_views(model_of(network), views, noise_like(views), steps=4, guidance=1.0)
    assert torch.equal(guided, plain)
    assert len(network.calls) == 8


def test_guidance_asks_once_more_with_blank_rays_and_the_same_mask():
    network, views = Listener(), photograph()
    sample_views(model_of(network), views, noise_like(views), steps=4, guidance=2.0)
    assert len(network.calls) == 8
    seeing, blind = network.calls[:2]
    assert torch.equal(seeing[0], blind[0])
    assert torch.equal(seeing[2], condition(views, ray_scale=2.0))
    assert not blind[2][:, :, 1:].any()
    assert torch.equal(blind[2][:, :, 0], seeing[2][:, :, 0])


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.0, 7.5])
def test_guided_prediction_known(weight: float):
    class Rays(nn.Module):
        def forward(self, latents, t, inputs, domain):
            return 3.0 + inputs[:, :, 1:4]  # 3 without cameras

    views = photograph()
    rays = condition(views, ray_scale=2.0)[:, :, 1:4]
    v = guided_prediction(model_of(Rays()), views, noise_like(views), 500, weight)
    torch.testing.assert_close(v, 3.0 + weight * rays, **CLOSE)


@pytest.mark.parametrize("make", [pixel_scheduler, cameo_scheduler])
def test_a_single_prediction_is_a_sample_of_one_step(make):
    views, noise = photograph(), noise_like(photograph())
    model = model_of(Listener(), make)
    sampled = sample_views(model, views, noise, steps=1, guidance=2.0)
    for steps in (1, 7, 50):
        torch.testing.assert_close(predict_views(model, views, noise, steps=steps, guidance=2.0), sampled, **CLOSE)


def test_a_single_prediction_with_leading_timesteps_is_at_the_first_that_the_sampler_visits():
    listener, views = Listener(), photograph()
    predict_views(replace(model_of(listener, cameo_scheduler), spacing="leading"), views, noise_like(views), steps=50)
    assert [int(t[0]) for _, t, _, _ in listener.calls] == [981]


def test_without_a_reference_a_sample_depends_on_noise_and_cameras_alone():
    views, other = photograph(0, f=1), photograph(0, f=1, seed=1)
    noise, model = noise_like(views), model_of(Listener())
    drawn = sample_views(model, views, noise, steps=3)
    torch.testing.assert_close(sample_views(model, replace(views, image=other.image), noise, steps=3), drawn, **EXACT)
    assert not torch.equal(sample_views(model, other, noise, steps=3), drawn)


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("draw", [sample_views, predict_views])
def test_views_without_a_target_are_refused(draw):
    views = photograph(3)
    with pytest.raises(ValueError, match=f"{draw.__name__}: 3 of 3 views are references, expected 0 to 2"):
        draw(model_of(Listener()), views, noise_like(views))


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_steps_out_of_range_are_refused(steps: int):
    views = photograph()
    with pytest.raises(ValueError, match=f"ddim_scheduler: {steps} steps of 1000 timesteps, expected 1 to 1000"):
        sample_views(model_of(Listener()), views, noise_like(views), steps=steps)
