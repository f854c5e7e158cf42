import cv2
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from probe.baselines import BASELINES, NULLS, baseline_names, dsift, open_matchers, pixels
from probe.baselines.pixels import LARGEST, NORM

SEEDS = st.integers(0, 2**31 - 1)
laws = settings(max_examples=15, deadline=None)
CPU = torch.device("cpu")
DESCRIBE = {"dsift": dsift.describe, "pixels": pixels.describe}
every = pytest.mark.parametrize("name", sorted(DESCRIBE))
NORMS = {"pixels": NORM, "dsift": 1.0}


def texture(seed: int, b: int = 1, f: int = 1, size: tuple[int, int] = (64, 64)) -> Float[Tensor, "b f 3 h w"]:
    """Draw blurred noise, stretched to [0, 1]: unlike everywhere, like photographs."""
    noise = torch.rand(b * f, 3, size[0] + 4, size[1] + 4, generator=torch.Generator().manual_seed(seed))
    smooth = F.avg_pool2d(noise, 5, stride=1)
    return ((smooth - 0.5) * 3 + 0.5).clamp(0, 1).unflatten(0, (b, f))


def matches(query: Float[Tensor, "n d"], key: Float[Tensor, "m d"]) -> Float[Tensor, " n"]:
    return (query @ key.mT).argmax(-1)


def test_baselines_are_named():
    assert list(BASELINES) == ["dsift", "pixels", "epipolar", "dinov2", "dinov3", "dift", "vggt"]
    assert list(NULLS) == ["random", "null"]
    assert baseline_names("dsift,dinov2:a/b,null") == ("dsift", "dinov2:a/b", "null")
    assert baseline_names("none") == baseline_names("") == ()
    assert list(open_matchers(("null", "pixels", "dsift"), CPU)) == ["pixels", "dsift"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "dsift,cameras",
            "cameras is unknown; choose from dsift, pixels, epipolar, dinov2, dinov3, dift, vggt, random",
        ),
        ("dsift,null,dsift", "names one twice"),
    ],
)
def test_comparisons_that_cannot_be_meant_are_refused(text: str, message: str):
    with pytest.raises(ValueError, match=message):
        baseline_names(text)


@pytest.mark.parametrize("name", ["dsift", "pixels", "epipolar"])
def test_a_matcher_without_weights_takes_no_folder(name: str):
    with pytest.raises(ValueError, match="'x' was given to a matcher that has no weights; give its name alone"):
        open_matchers((f"{name}:x",), CPU)


def test_two_matchers_never_share_a_name_in_the_tables():
    with pytest.raises(ValueError, match="tables would call two of them"):
        open_matchers(("dinov2:a/weights", "dinov2:b/weights"), CPU)


@every
@laws
@given(seed=SEEDS, grid=st.tuples(st.integers(1, 9), st.integers(1, 9)))
def test_norms_are_constant(name: str, seed: int, grid: tuple[int, int]):
    image = texture(seed, 2, 3, (24, 32))
    image[0, 0] = (image[0, 0] > 0.5).float()  # the largest contrast
    image[0, 1], image[0, 2] = 0.0, 1.0  # without any texture
    descriptors = DESCRIBE[name](image, grid)
    assert descriptors.shape[:3] == (2, 3, grid[0] * grid[1])
    norms = descriptors.norm(dim=-1)
    torch.testing.assert_close(norms, torch.full_like(norms, NORMS[name]), rtol=1e-6, atol=0)


@every
@laws
@given(seed=SEEDS)
def test_batched_is_looped(name: str, seed: int):
    image = texture(seed, 2, 2, (24, 32))
    batched = DESCRIBE[name](image, (3, 4))
    looped = torch.stack([torch.cat([DESCRIBE[name](i[None, None], (3, 4))[0] for i in scene]) for scene in image])
    torch.testing.assert_close(batched, looped, rtol=0, atol=1e-6)


@every
@pytest.mark.parametrize("grid", [(16, 16), (8, 8), (5, 7)])
def test_identical_images_match_as_the_identity(name: str, grid: tuple[int, int]):
    image = texture(0)
    found = matches(DESCRIBE[name](image, grid)[0, 0], DESCRIBE[name](image.clone(), grid)[0, 0])
    assert torch.equal(found, torch.arange(grid[0] * grid[1]))


@every
@pytest.mark.parametrize(("down", "right"), [(1, 0), (0, 1), (2, 3)])
def test_a_shifted_image_gives_shifted_matches(name: str, down: int, right: int):
    world = texture(1, size=(112, 112))
    first = world[..., 24:88, 24:88]
    second = world[..., 24 - 8 * down : 88 - 8 * down, 24 - 8 * right : 88 - 8 * right]
    found = matches(DESCRIBE[name](first, (8, 8))[0, 0], DESCRIBE[name](second, (8, 8))[0, 0]).unflatten(0, (8, 8))
    tokens = torch.arange(64).unflatten(0, (8, 8))
    kept = slice(2, 8 - down - 2), slice(2, 8 - right - 2)  # away from the border, which a SIFT window crosses
    assert tokens[kept].numel() > 0
    assert torch.equal(found[kept], tokens[2 + down : 6, 2 + right : 6])


@every
@pytest.mark.parametrize("grid", [(0, 4), (4, -1), (25, 4), (4, 33)])
def test_a_grid_that_does_not_fit_is_refused(name: str, grid: tuple[int, int], unchecked: None):
    with pytest.raises(
        ValueError, match=rf"{name}: grid \({grid[0]}, {grid[1]}\) does not fit an image of 24 x 32 pixels"
    ):
        DESCRIBE[name](texture(0, size=(24, 32)), grid)


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the check to the code, as outside of the tests; jaxtyping would speak first."""
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)


def test_pixels_known():
    image = torch.zeros(1, 1, 3, 4, 8)
    image[0, 0, 0, :, 4:] = 1.0  # the right token is red, the left one black
    left, right = pixels.describe(image, (1, 2))[0, 0]
    torch.testing.assert_close(left[:48], torch.full((48,), -0.5))
    torch.testing.assert_close(right[:48], torch.tensor([0.5, -0.5, -0.5]).repeat(16))
    assert left[48].item() == pytest.approx((64 * LARGEST) ** 0.5)  # black is as far from mid grey as can be


@laws
@given(seed=SEEDS, grid=st.sampled_from([(2, 2), (1, 4), (3, 5), (6, 8)]))
def test_pixels_are_the_slow_loop(seed: int, grid: tuple[int, int]):
    image = texture(seed, size=(24, 40))
    descriptors = pixels.describe(image, grid)[0, 0]
    for row in range(grid[0]):
        for column in range(grid[1]):
            patch = slow_patch(image[0, 0], row, column, grid)
            torch.testing.assert_close(descriptors[row * grid[1] + column, :48], patch, rtol=0, atol=1e-6)


def slow_patch(image: Tensor, row: int, column: int, grid: tuple[int, int]) -> Tensor:
    """Average every pixel that a cell touches; exact where cells are whole pixels."""
    _, height, width = image.shape
    values = []
    for y in range(4 * row, 4 * row + 4):
        for x in range(4 * column, 4 * column + 4):
            rows = slice(y * height // (4 * grid[0]), -(-(y + 1) * height // (4 * grid[0])))
            columns = slice(x * width // (4 * grid[1]), -(-(x + 1) * width // (4 * grid[1])))
            values += [(image[c, rows, columns] - 0.5).mean() for c in range(3)]
    return torch.stack(values)


@laws
@given(seed=SEEDS)
def test_pixels_distances_are_those_of_the_patches_within_their_bound(seed: int):
    image = texture(seed).double()
    image[..., :32] = (image[..., :32] > 0.5).double()
    lifted = pixels.describe(image, (8, 8))[0, 0]
    flat, raised = torch.pdist(lifted[:, :48]), torch.pdist(lifted)
    assert (raised >= flat).all()
    assert (raised <= flat * (1 + 1 / 64) ** 0.5 + 1e-12).all()
    # on a sphere the largest dot product is the nearest neighbour
    dots, distances = lifted @ lifted.mT, torch.cdist(lifted, lifted, compute_mode="donot_use_mm_for_euclid_dist")
    torch.testing.assert_close(distances.square(), 2 * (NORM**2 - dots), rtol=0, atol=1e-9)


def test_pixels_tell_one_step_of_8_bit_colour_apart():
    steps = torch.arange(256).repeat_interleave(4) / 255
    image = steps.expand(1, 1, 3, 4, 1024).contiguous()
    descriptors = pixels.describe(image, (1, 256))[0, 0]
    assert torch.equal(matches(descriptors, descriptors), torch.arange(256))


def test_dsift_of_a_patch_without_gradient_is_even():
    descriptors = dsift.describe(torch.full((1, 1, 3, 32, 32), 0.3), (4, 4))
    torch.testing.assert_close(descriptors, torch.full((1, 1, 16, 128), 128**-0.5))


def test_dsift_bins_are_one_token_wide():
    """A dot touches the descriptors of the tokens whose 4 x 4 bins reach it, and no others."""
    image = torch.full((1, 1, 3, 160, 160), 0.5)
    image[..., 79:81, 79:81] = 1.0  # on the corner between tokens 4 and 5 of 10 per side, 16 pixels each
    descriptors = dsift.describe(image, (10, 10))[0, 0].unflatten(0, (10, 10))
    touched = (descriptors.amax(-1) > 0.1).nonzero().unique().tolist()
    assert touched == [2, 3, 4, 5, 6, 7]


def test_dsift_lacks_the_quarter_pixel_of_keypoints_that_opencv_detects(monkeypatch: pytest.MonkeyPatch):
    """OpenCV's doubled image is moved by it, unless told to double precisely; given keypoints do not use it."""
    image = texture(4, size=(64, 64))
    plain, create = dsift.describe(image, (8, 8)), cv2.SIFT.create
    monkeypatch.setattr(cv2.SIFT, "create", lambda: create(enable_precise_upscale=True))
    assert torch.equal(dsift.describe(image, (8, 8)), plain)


@pytest.mark.parametrize("stride", [8, 9, 16])
@pytest.mark.parametrize(("axis", "turned"), [(1, [4, 3, 2, 1, 0, 7, 6, 5]), (0, [0, 7, 6, 5, 4, 3, 2, 1])])
def test_dsift_sits_upright_on_the_token_centre(axis: int, turned: list[int], stride: int):
    """Mirroring the image mirrors the descriptors: half a pixel of offset or a degree of roll would spoil it.

    At even strides the centres lie between pixels, and the pixel after the centre is taken: the mirrored image, moved
    by one pixel, has the same ones.
    """
    image = texture(2, size=(12 * stride, 12 * stride))
    moved = image.flip(axis - 2).roll(1 - stride % 2, axis - 2)
    plain = dsift.describe(image, (12, 12))[0, 0].unflatten(0, (12, 12))
    mirrored = dsift.describe(moved, (12, 12))[0, 0].unflatten(0, (12, 12)).flip(axis)
    bins = mirrored.unflatten(-1, (4, 4, 8)).flip(2 + axis)[..., turned]  # a gradient's direction is mirrored too
    torch.testing.assert_close(bins[4:8, 4:8], plain.unflatten(-1, (4, 4, 8))[4:8, 4:8], rtol=0, atol=1e-3)
