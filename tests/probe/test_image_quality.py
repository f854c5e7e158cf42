"""The measures of an image: known values, laws, other libraries, and what is missing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.metrics import peak_signal_noise_ratio
from torch import Tensor

from probe.correspondence import project_tokens
from probe.image_quality import LPIPS_WEIGHTS, absence, colours_at, load_lpips, match_error, psnr, ssim
from probe.records import LPIPS
from probe.scenes.shapes import draw_shapes, make_views
from probe.views import Views

SIZE = 16
SEEDS = st.integers(0, 2**31 - 1)
laws = settings(max_examples=20, deadline=None)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def photograph(n_ref: int = 1, *, b: int = 2, f: int = 3, size: int = SIZE, seed: int = 0) -> Views:
    g = torch.Generator().manual_seed(seed)
    rotation = 5 + 25 * torch.rand(b, f - 1, generator=g)
    return make_views(draw_shapes(b, generator=g), rotation, size=size, n_ref=n_ref, generator=g, supersample=2)


# --- one image -------------------------------------------------------------------------------------------------------


def test_psnr_known():
    truth = torch.full((3, 4, 5), 0.5)
    assert psnr(truth + 0.1, truth) == pytest.approx(20.0, abs=1e-5)  # 10 log10(1 / 0.01)
    assert psnr(truth - 0.5, truth) == pytest.approx(6.0206, abs=1e-4)
    half = truth.clone()
    half[:, :2] += 0.1
    assert psnr(half, truth) == pytest.approx(20 + 3.0103, abs=1e-4)  # half of the squared error
    assert psnr(truth, truth) == 100.0
    assert psnr(truth + 1e-6, truth) == 100.0


@laws
@given(seed=SEEDS)
def test_psnr_and_ssim_laws(seed: int):
    image, truth = drawn(seed, 2, 3, 12, 13)
    expected = peak_signal_noise_ratio(truth.double().numpy(), image.double().numpy(), data_range=1)
    assert psnr(image, truth) == pytest.approx(expected)
    for measure, best in ((psnr, 100.0), (ssim, 1.0)):
        assert measure(image, truth) == pytest.approx(measure(truth, image))
        assert (
            measure(image, truth) < measure(0.5 * (image + truth), truth) < measure(truth, truth) == pytest.approx(best)
        )
        flipped = measure(image.flip(-1), truth.flip(-1))
        assert flipped == pytest.approx(measure(image, truth))


def test_ssim_known():
    first, second = torch.full((3, 12, 12), 0.2), torch.full((3, 12, 12), 0.6)
    luminance = (2 * 0.2 * 0.6 + 0.01**2) / (0.2**2 + 0.6**2 + 0.01**2)  # flat images: the structure is equal
    assert ssim(first, second) == pytest.approx(luminance, abs=1e-6)
    assert ssim(first, first) == pytest.approx(1.0)


def test_ssim_is_that_of_an_11_pixel_gaussian_of_sigma_1_5():
    image, truth = drawn(3, 2, 3, 14, 17).double()
    tap = torch.exp(-torch.arange(-5, 6, dtype=torch.float64).square() / (2 * 1.5**2))
    window = (tap[:, None] * tap / tap.sum().square()).expand(3, 1, 11, 11)

    def mean(x: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(x[None], window, groups=3)[0]  # windows that lie inside only

    x, y = mean(image), mean(truth)
    xx, yy, xy = mean(image**2) - x * x, mean(truth**2) - y * y, mean(image * truth) - x * y
    expected = (2 * x * y + 1e-4) * (2 * xy + 9e-4) / ((x * x + y * y + 1e-4) * (xx + yy + 9e-4))
    assert ssim(image.float(), truth.float()) == pytest.approx(expected.mean().item(), abs=1e-6)


def test_ssim_of_an_image_smaller_than_its_window_is_nan():
    assert np.isnan(ssim(torch.zeros(3, 10, 20), torch.zeros(3, 10, 20)))
    assert ssim(torch.zeros(3, 11, 20), torch.zeros(3, 11, 20)) == pytest.approx(1.0)


@pytest.fixture
def cache(tmp_path, monkeypatch: pytest.MonkeyPatch):
    """An empty cache of weights."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def test_lpips_without_weights_is_absent_and_says_so(cache):
    assert load_lpips() is None
    assert absence(LPIPS, LPIPS_WEIGHTS) == (
        f"lpips is absent (NaN): no weights at {cache / LPIPS_WEIGHTS[0]} and {cache / LPIPS_WEIGHTS[1]}"
    )
    (cache / LPIPS_WEIGHTS[0]).touch()
    assert absence(LPIPS, LPIPS_WEIGHTS) == f"lpips is absent (NaN): no weights at {cache / LPIPS_WEIGHTS[1]}"
    assert load_lpips() is None


# --- true matches ----------------------------------------------------------------------------------------------------


def test_colours_at_known():
    ramp = torch.arange(4.0).expand(1, 3, 4, 4)  # the column's number
    xy = torch.tensor([[[0.5, 0.5], [1.0, 2.0], [3.5, 3.5], [2.0, 0.5], [0.1, 0.5], [4.0, 4.0]]])
    assert colours_at(ramp, xy, (4, 4))[0, :, 0].tolist() == pytest.approx([0, 0.5, 3, 1.5, 0, 3])
    torch.testing.assert_close(colours_at(ramp, 2 * xy, (8, 8)), colours_at(ramp, xy, (4, 4)))
    turned = ramp.mT
    torch.testing.assert_close(colours_at(turned, xy.flip(-1), (4, 4)), colours_at(ramp, xy, (4, 4)))
    tall = torch.arange(6.0)[:, None].expand(1, 3, 6, 2)
    assert colours_at(tall, torch.tensor([[[1.0, 2.0]]]), (6, 2)).flatten().tolist() == pytest.approx([1.5] * 3)


@pytest.mark.parametrize("delta", [0.0, 0.125, -0.25])
@pytest.mark.parametrize("n_ref", [1, 2])
def test_match_error_of_a_scene_of_one_colour_is_what_it_is_off_by(n_ref: int, delta: float):
    views = photograph(n_ref)
    image = torch.full_like(views.image, 0.5)
    image[:, n_ref:] += delta
    error, count = match_error(image, project_tokens(views, views.size), views.size, n_ref)
    torch.testing.assert_close(error, torch.full((2, 3 - n_ref), abs(delta)), rtol=0, atol=1e-6)
    assert (count > 50).all()


def test_match_error_is_what_a_slow_loop_finds():
    views = photograph(2, size=20)
    image = drawn(4, 2, 3, 3, SIZE, SIZE)
    seen = project_tokens(views, (SIZE, SIZE))

    def look(view: Tensor, xy: Tensor) -> np.ndarray:
        place = (xy.double().numpy()[::-1] * SIZE / 20 - 0.5)[:, None]
        return np.array([ndimage.map_coordinates(c, place, order=1, mode="nearest")[0] for c in view.double().numpy()])

    for b in range(2):
        found = [
            np.abs(look(image[b, 2], seen.xy[b, 2, n, 2]) - look(image[b, r], seen.xy[b, 2, n, r])).mean()
            for r in range(2)
            for n in range(SIZE * SIZE)
            if seen.visible[b, 2, n, r]
        ]
        error, count = match_error(image, seen, views.size, 2)
        assert error[b, 0].item() == pytest.approx(np.mean(found), abs=1e-4)
        assert count[b, 0] == len(found)


def test_match_error_without_a_match_is_nan_and_counts_none():
    views = photograph()
    views = replace(views, valid=torch.zeros_like(views.valid))
    error, count = match_error(views.image, project_tokens(views, views.size), views.size, 1)
    assert error.isnan().all()
    assert not count.any()


def test_the_same_view_twice_agrees_exactly():
    views = photograph(b=1).reorder([0, 0], 1)
    error, count = match_error(views.image, project_tokens(views, views.size), views.size, 1)
    assert error.item() == pytest.approx(0, abs=1e-5)
    assert count.item() > 0.9 * SIZE * SIZE
