"""Camera models against pycolmap, and straightened lenses: what is shown, and which are refused."""

import math

import numpy as np
import pycolmap
import pytest
import torch

from probe.scenes.cameras.lenses import FIELD, Lens, make_lens, resized, straight, straighten
from probe.scenes.cameras.models import MODELS

COEFFICIENTS: dict[str, tuple[float, ...]] = {
    "SIMPLE_RADIAL": (-0.1,),
    "RADIAL": (-0.1, 0.02),
    "OPENCV": (-0.1, 0.02, 0.003, -0.002),
    "OPENCV_FISHEYE": (0.05, -0.02, 0.01, 0.003),
    "FULL_OPENCV": (0.1, 0.02, 0.003, -0.002, 0.01, 0.05, 0.02, 0.01),
    "FOV": (0.9,),
    "SIMPLE_RADIAL_FISHEYE": (0.05,),
    "RADIAL_FISHEYE": (0.05, -0.01),
    "THIN_PRISM_FISHEYE": (0.05, -0.02, 0.003, -0.002, 0.01, 0.003, 0.004, -0.005),
    "RAD_TAN_THIN_PRISM_FISHEYE": (
        0.05,
        -0.02,
        0.01,
        0.003,
        0.001,
        -0.001,
        0.003,
        -0.002,
        0.004,
        -0.005,
        0.006,
        -0.007,
    ),
    "SIMPLE_DIVISION": (-0.1,),
    "DIVISION": (-0.2,),
    "SIMPLE_FISHEYE": (),
    "FISHEYE": (),
    "EUCM": (0.5, 1.1),
}
SIZE = (240, 320)


def lens_of(model: str, focal: float, *coefficients: float, size: tuple[int, int] = SIZE) -> Lens | None:
    intrinsics = torch.tensor([[focal, 0, size[1] / 2 + 3], [0, focal, size[0] / 2 - 2], [0, 0, 1.0]])
    return make_lens(model, intrinsics, coefficients, size, "camera 7")


def reference(lens: Lens) -> pycolmap.Camera:
    focals = lens.focal[: MODELS[lens.model].focals]
    parameters = [*focals, *lens.centre, *lens.coefficients]
    return pycolmap.Camera(model=lens.model, width=lens.size[1], height=lens.size[0], params=parameters)


@pytest.mark.parametrize("model", COEFFICIENTS)
def test_models_are_pycolmaps(model: str):
    x, y = np.random.default_rng(0).uniform(-0.7, 0.7, (2, 50))
    distort = MODELS[model].distort
    assert distort is not None
    lens = Lens(focal=(100.0, 100.0), centre=(160.0, 120.0), model=model, coefficients=COEFFICIENTS[model], size=SIZE)
    expected = reference(lens).img_from_cam(np.stack([x, y, np.ones(50)], -1))
    u, v = distort(x, y, *COEFFICIENTS[model])
    np.testing.assert_allclose(np.stack([100 * u + 160, 100 * v + 120], -1), expected, atol=1e-9)


def test_every_model_that_distorts_is_compared():
    assert set(COEFFICIENTS) == {name for name, model in MODELS.items() if model.distort}


@pytest.mark.parametrize("model", COEFFICIENTS)
def test_a_straightened_pixel_shows_what_its_ray_shows(model: str):
    """Images of coordinates: each straightened pixel holds the place that pycolmap projects its ray to."""
    lens = lens_of(model, 150.0, *COEFFICIENTS[model])
    assert lens is not None
    rows, columns = torch.meshgrid(torch.arange(240.0) + 0.5, torch.arange(320.0) + 0.5, indexing="ij")
    shown = straighten(torch.stack([columns, rows]), lens, nearest=False)
    new = straight(lens)
    assert math.isclose(new[0, 0], new[1, 1], rel_tol=1e-5)  # square pixels stay square
    rays = torch.stack([(columns - new[0, 2]) / new[0, 0], (rows - new[1, 2]) / new[1, 1], torch.ones(240, 320)], -1)
    expected = reference(lens).img_from_cam(rays[::20, ::20].reshape(-1, 3).double().numpy())
    np.testing.assert_allclose(shown[:, ::20, ::20].flatten(1).mT.numpy(), expected, atol=0.05)
    assert (expected > 0).all()
    assert (expected < [320, 240]).all()


@pytest.mark.parametrize(
    ("focal", "coefficients"),
    [
        (91.7, (0.0, 0.0, 0.0, 0.0)),  # 200 degrees
        (80.0, (0.0, 0.0, 0.0, 0.0)),  # 230 degrees
        (100.0, (0.02, 0.0, 0.0, 0.0)),
        (108.0, (-0.0038, 0.0398, -0.0374, 0.0063)),  # like Intel's T265
        (144.0, (-0.03, -0.005, 0.001, 0.0)),
    ],
)
def test_wide_fisheyes_are_straightened_to_the_stated_field(focal: float, coefficients: tuple[float, ...]):
    lens = lens_of("OPENCV_FISHEYE", focal, *coefficients)
    assert lens is not None
    across = 2 * math.degrees(math.atan(SIZE[1] / 2 / float(straight(lens)[0, 0])))
    assert FIELD - 3 < across < FIELD + 1


def test_strong_barrel_distortion_keeps_its_field():
    lens = lens_of("OPENCV", 200.0, -0.45, 0.25, 0.0, 0.0)
    assert lens is not None
    assert 80 < 2 * math.degrees(math.atan(160 / float(straight(lens)[0, 0]))) < 90


def test_a_lens_that_folds_near_the_corners_shows_what_lies_before():
    lens = lens_of("SIMPLE_RADIAL", 200.0, -0.45)
    assert lens is not None
    assert 55 < 2 * math.degrees(math.atan(160 / float(straight(lens)[0, 0]))) < 70


@pytest.mark.parametrize(
    ("model", "focal", "coefficients", "message"),
    [
        ("SIMPLE_RADIAL", 20.0, (343.1,), "magnifies one place .* a failed reconstruction"),
        ("SIMPLE_RADIAL", 100.0, (343.1,), "magnifies one place"),
        ("SIMPLE_RADIAL", 100.0, (-2.5,), "shows 1.% of the image|shows 1.[0-9]% of the image"),
        ("OPENCV", 100.0, (0.0, 0.0, 5.0, -5.0), "the model is broken|magnifies"),
        ("DIVISION", 100.0, (90.0,), "the model is broken|magnifies|folds"),
        ("OPENCV_FISHEYE", 100.0, (-40.0, 0.0, 0.0, 0.0), "the image|broken"),
        ("WIDE", 100.0, (), "has the camera model WIDE, expected one of"),
        ("EQUIRECTANGULAR", 100.0, (), "images of 360 degrees"),
    ],
)
def test_failed_lenses_are_refused(model: str, focal: float, coefficients: tuple[float, ...], message: str):
    with pytest.raises(ValueError, match=message) as caught:
        lens_of(model, focal, *coefficients)
    assert str(caught.value).startswith("camera 7 has ")
    assert "\n" not in str(caught.value)


def test_images_too_large_to_be_resampled_are_refused():
    with pytest.raises(ValueError, match="more than 32766 pixels"):
        lens_of("SIMPLE_RADIAL", 30000.0, 0.1, size=(100, 40000))


def test_lenses_without_distortion_are_none():
    assert lens_of("OPENCV", 300.0, 0.0, 0.0, 0.0, 0.0) is None
    assert lens_of("PINHOLE", 300.0) is None
    assert lens_of("FISHEYE", 300.0) is not None


def test_a_resized_lens_shows_the_same():
    lens = lens_of("OPENCV", 300.0, -0.2, 0.05, 0.01, -0.008)
    assert lens is not None
    half = straight(resized(lens, (120, 160)))
    torch.testing.assert_close(half[:2] * 2, straight(lens)[:2], rtol=0.01, atol=0)
