"""Matchers with weights, small ones loaded as the real ones are: DINOv2, DINOv3, DIFT, VGGT."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_sd21 import save_small
from standin_packages import standins
from torch.nn import functional as F

from probe.baselines import dino, open_matchers, vggt
from probe.baselines.dift import TIMESTEP, features, load_dift
from probe.baselines.maps import at_tokens
from probe.geometry import camera_centre
from probe.metrics import grid_truth, thresholds
from probe.models.model import add_noise
from probe.models.parts.files import Loading
from probe.models.stable_diffusion import UNet2DConditionModel, load_stable_diffusion
from probe.protocols import PROTOCOLS
from probe.scenes import Request, open_scenes
from probe.seeds import derive
from probe.views import Views, resize

transformers = pytest.importorskip("transformers", reason="the optional extra hf is not installed")
CPU = torch.device("cpu")
SIZES = {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 48, "image_size": 56}


@pytest.fixture(scope="module", autouse=True)
def _offline():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.fixture(scope="module")
def views() -> Views:
    return open_scenes("shapes", Request(groups=1, views=2, n_ref=1, size=32)).load(0)[0]


def save_dino(kind: str, out: Path, *, registers: int = 4, blocks: int = 1) -> Path:
    torch.manual_seed(0)
    sizes = {**SIZES, "num_hidden_layers": blocks}
    if kind == "dinov3":
        config = transformers.DINOv3ViTConfig(**sizes, patch_size=16, num_register_tokens=registers)
        transformers.DINOv3ViTModel(config).save_pretrained(out)
    elif registers:
        config = transformers.Dinov2WithRegistersConfig(**sizes, patch_size=14, num_register_tokens=registers)
        transformers.Dinov2WithRegistersModel(config).save_pretrained(out)
    else:
        transformers.Dinov2Model(transformers.Dinov2Config(**sizes, patch_size=14)).save_pretrained(out)
    return out


SAVED = pytest.mark.parametrize(("kind", "registers"), [("dinov2", 0), ("dinov2", 4), ("dinov3", 4), ("dinov3", 0)])


# DINO


@SAVED
def test_patches_come_in_the_order_of_the_image_without_special_tokens(kind: str, registers: int, tmp_path: Path):
    """Without blocks a token depends on its own patch alone: a change is seen at that place and nowhere else."""
    encoder = dino.load_encoder(kind, str(save_dino(kind, tmp_path, registers=registers, blocks=0)))
    encoder = replace(encoder, patches=4)
    side = 4 * encoder.network.config.patch_size
    image = torch.rand(1, 2, 3, side, side, generator=torch.Generator().manual_seed(1))
    changed = image.clone()
    patch = encoder.network.config.patch_size
    changed[0, 1, :, patch : 2 * patch, 3 * patch :] = 0  # view 1, row 1, column 3
    before, after = encoder.encode(image), encoder.encode(changed)
    assert before.shape == (1, 2, 24, 4, 4)
    moved = ((before - after).abs().amax(2) > 1e-6).nonzero().tolist()
    assert moved == [[0, 1, 1, 3]]


@SAVED
def test_features_are_the_last_hidden_state(kind: str, registers: int, tmp_path: Path, views: Views):
    encoder = dino.load_encoder(kind, str(save_dino(kind, tmp_path, registers=registers)))
    seen = []
    hook = encoder.network.register_forward_hook(
        lambda _network, _args, given, output: seen.append((given["pixel_values"], output)), with_kwargs=True
    )
    maps = encoder.encode(views.image)
    hook.remove()
    (pixels, output), patches = seen[0], {"dinov2": 37, "dinov3": 32}[kind]
    assert pixels.shape == (2, 3, *2 * [{"dinov2": 518, "dinov3": 512}[kind]])
    big = F.interpolate(views.image[0], pixels.shape[2:], mode="bilinear", antialias=True)
    torch.testing.assert_close(pixels, dino.normalised(big))
    assert output.last_hidden_state.shape[1] == 1 + registers + patches**2
    tokens = output.last_hidden_state[1, 1 + registers :]
    assert torch.equal(maps[0, 1, :, 3, 5], tokens[3 * patches + 5])
    assert encoder.width == 24


def test_colours_are_normalised_by_imagenet():
    image = torch.tensor([[0.485, 0.456, 0.406], [0.714, 0.68, 0.631]])[:, :, None, None]
    expected = torch.tensor([[0.0, 0, 0], [1, 1, 1]])[:, :, None, None]
    torch.testing.assert_close(dino.normalised(image), expected)


@pytest.mark.parametrize(
    ("size", "patches", "grid"), [((64, 64), 37, (37, 37)), ((48, 64), 37, (28, 37)), ((64, 2), 32, (32, 1))]
)
def test_the_longer_side_has_the_usual_number_of_patches(size: tuple, patches: int, grid: tuple):
    assert dino.patch_grid(size, patches) == grid


@pytest.mark.parametrize("kind", ["dinov2", "dinov3"])
def test_a_dino_is_a_matcher_whose_identical_views_match_as_the_identity(kind: str, tmp_path: Path, views: Views):
    folder = save_dino(kind, tmp_path / "small")
    ((name, matcher),) = open_matchers((f"{kind}:{folder}",), CPU).items()
    assert name == f"{kind}:small"
    twice = views.reorder([1, 1], 1)
    value, count = matcher(twice)(grid_truth(twice, (8, 8)), thresholds(None), PROTOCOLS["attention-v1"])[
        "precision@5%"
    ]
    assert count[0, 0, 0, 1] == 64
    assert value[0, 0, 0, 1] == 1


def test_a_map_is_read_at_the_centres_of_tokens():
    ramp = torch.arange(8.0).expand(1, 1, 1, 8, 8)  # x - .5 at pixel centres
    assert at_tokens(ramp, (2, 2))[0, 0, :, 0].tolist() == [1.5, 5.5, 1.5, 5.5]
    assert torch.equal(at_tokens(ramp, (8, 8))[0, 0, :, 0], ramp.flatten())


def test_weights_that_are_not_at_hand_are_refused_with_what_to_do():
    with pytest.raises(
        ValueError, match=r"not in the local cache .*huggingface-cli download facebook/dinov2-base on a"
    ):
        open_matchers(("dinov2",), CPU)


def test_a_folder_of_another_kind_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="is of kind 'dinov3_vit', expected dinov2 or dinov2_with_registers"):
        dino.load_encoder("dinov2", str(save_dino("dinov3", tmp_path)))


def test_incomplete_weights_are_refused_not_drawn_at_random(tmp_path: Path):
    path = save_dino("dinov3", tmp_path) / "model.safetensors"
    weights = load_file(path)
    del weights[sorted(weights)[0]]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="lacks 1 weights"):
        dino.load_encoder("dinov3", str(tmp_path))


def test_without_transformers_the_refusal_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ValueError, match=r"dinov3 needs transformers .*; pip install transformers"):
        dino.load_encoder("dinov3")


# DIFT


@pytest.fixture(scope="module")
def sd21(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small(tmp_path_factory.mktemp("weights") / "sd21")


def test_dift_is_the_output_of_the_stock_networks_second_up_block(sd21: Path, views: Views):
    """The same forward pass with diffusers' own network: noise of timestep 1, an empty prompt, each view alone."""
    model = load_stable_diffusion(str(sd21), Loading())
    small = resize(views, model.size, model.size)
    noise = torch.randn(model.latent_shape(1, 1), generator=torch.Generator().manual_seed(derive("dift")))
    noise = noise.expand(1, 2, -1, -1, -1)
    latents = add_noise(model.encode(small.image), noise, model.alpha_bar[[TIMESTEP]], 0)
    stock, seen = UNet2DConditionModel.from_pretrained(sd21 / "unet").eval(), []
    stock.up_blocks[1].register_forward_hook(lambda _module, _args, output: seen.append(output))
    with torch.no_grad():
        for latent in latents[0]:
            stock(latent[None], torch.tensor([1]), model.text[None])
    found = features(model, views)
    assert found.shape == (1, 2, 64, 8, 8)
    torch.testing.assert_close(found[0], torch.cat(seen), rtol=1e-4, atol=1e-4)


def test_dift_is_a_matcher(sd21: Path, views: Views):
    twice = views.reorder([1, 1], 1)
    scored = load_dift(str(sd21), CPU)(twice)
    for grid in ((8, 8), (4, 4)):
        measured = scored(grid_truth(twice, grid), thresholds(None), PROTOCOLS["ratio-v1"])
        assert measured["precision@10%"][0][0, 0, 0, 1] == 1


def test_dift_without_weights_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="'/no/where' does not exist; give a file, a folder, or a hub id"):
        load_dift("/no/where", CPU)
    with pytest.raises(ValueError, match=r"is no diffusers folder of Stable Diffusion: unet/config.json"):
        load_dift(str(tmp_path), CPU)


# VGGT


@pytest.fixture
def vggt_folder(tmp_path: Path):
    save_file({"gain": torch.full((1,), 3.0)}, tmp_path / "model.safetensors")
    with standins():
        yield tmp_path


def coloured(views: Views, colours: list[list[float]]) -> Views:
    """Paint the four quarters of every view."""
    image = torch.tensor(colours).T.reshape(3, 2, 2).repeat_interleave(16, 1).repeat_interleave(16, 2)
    return replace(views, image=image.expand_as(views.image).clone())


COLOURS = [[0.0, 0.0, 0.0], [1.0, 0.0, 0.5], [0.25, 0.5, 0.0], [0.0, 1.0, 1.0]]


def test_vggt_sees_518_pixels_and_its_points_come_back_to_the_views_pixels(vggt_folder: Path, views: Views):
    predict = vggt.load_network(str(vggt_folder), CPU)
    said = predict(coloured(views, COLOURS))
    given = predict.__closure__[0].cell_contents.given[0]
    assert given.shape == (1, 2, 3, 518, 518)
    assert 0 <= given.min() < given.max() <= 1
    points = said.points[0, 1]
    assert points.shape == (3, 32, 32)
    for row, column, colour in ((3, 3, 0), (3, 28, 1), (28, 3, 2), (28, 28, 3)):
        torch.testing.assert_close(points[:, row, column], 3 * torch.tensor(COLOURS[colour]), rtol=0, atol=1e-5)
    nearest = ((torch.arange(32) + 0.5) * 518 / 32).long()
    torch.testing.assert_close(points, 3 * given[0, 1][:, nearest][:, :, nearest], rtol=0, atol=1e-6)  # never mixed
    assert said.shift[0].tolist() == [[0, 0, 0], [0, 2, 0]]


def test_vggts_match_is_the_token_of_the_nearest_predicted_point(vggt_folder: Path, views: Views):
    """View 1 has the quarters' colours in another order: each token goes to the quarter of its own colour."""
    first, second = coloured(views, COLOURS), coloured(views, [COLOURS[place] for place in (2, 0, 3, 1)])
    image = torch.stack([first.image[:, 0], second.image[:, 1]], dim=1)
    ((name, matcher),) = open_matchers((f"vggt:{vggt_folder}",), CPU).items()
    assert name == f"vggt:{vggt_folder.name}"
    truth = grid_truth(views, (2, 2))
    pixels = torch.tensor([[8.0, 8], [24, 8], [8, 24], [24, 24]])
    xy = truth.xy.clone()
    xy[0, 0, :, 1] = pixels[[1, 3, 0, 2]]
    made = replace(truth, xy=xy, visible=torch.ones_like(truth.visible))
    measured = matcher(replace(views, image=image))(made, thresholds(None), PROTOCOLS["attention-v1"])
    assert measured["precision@5%"][0][0, 0, 0, 1] == 1


def test_vggts_points_are_moved_to_the_scenes_frame_and_unit(views: Views):
    """Points and cameras of the truth itself, in the first camera's frame and in thirds of the unit, come back."""
    first = views.world_to_cam[0, 0]
    local = torch.einsum("ij,fjhw->fihw", first[:3, :3], views.point_map[0]) + first[:3, 3, None, None]
    centres = camera_centre(views.world_to_cam[0])
    shift = torch.stack([torch.zeros(3), torch.tensor([0.0, (centres[1] - centres[0]).norm(), 0])])
    points, known = vggt.to_scene(vggt.Prediction(points=local[None] / 3, shift=shift[None] / 3), views)
    torch.testing.assert_close(points, views.point_map, rtol=0, atol=1e-5)
    assert bool(known.all())
    still = views.reorder([0, 0], 1)
    for seen, moved in ((still, 0.0), (still, 1.0), (views, 0.0)):  # cameras at one place, true or predicted
        _, known = vggt.to_scene(vggt.Prediction(points=local[None], shift=moved * shift[None]), seen)
        assert not bool(known.any())


def test_vggt_without_its_package_or_weights_is_refused(vggt_folder: Path, tmp_path: Path):
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"holds no checkpoint: none of model.safetensors, model.pt is there"):
        vggt.load_network(str(tmp_path), CPU)
    with (
        standins(without=("vggt", "vggt.models", "vggt.models.vggt")),
        pytest.raises(ValueError, match=r"own package is not installed: .*clone github.com/facebookresearch/vggt"),
    ):
        vggt.load_network("", CPU)


def test_vggts_points_must_be_finite(vggt_folder: Path, views: Views):
    save_file({"gain": torch.full((1,), torch.inf)}, vggt_folder / "model.safetensors")
    with pytest.raises(ValueError, match="predicts points that are not finite"):
        vggt.load_network(str(vggt_folder), CPU)(views)
