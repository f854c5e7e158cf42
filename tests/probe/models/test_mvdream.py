import copy
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from einops import rearrange
from small_cat3d import make_vae
from small_mvdream import FILE, SMALL, autoencoder_weights, make_network, release_weights, save_small
from standin_packages import heard, standins
from torch import Tensor

from probe.capture import AttentionTap
from probe.measure.model import in_own_precision
from probe.models import load_model, mvdream, randomised
from probe.models.model import model_layers, predict, prediction_target, to_device
from probe.models.mvdream import (
    RELEASE,
    MVDreamModel,
    build,
    convert_autoencoder,
    fused_attention,
    noise_schedule,
    orbit_cameras,
)
from probe.models.parts.files import Loading
from probe.views import Views

PLACES = (
    [f"input_blocks.{n}.1" for n in (1, 2, 4, 5, 7, 8)] + ["middle_block.1"]
    + [f"output_blocks.{n}.1" for n in range(3, 12)]
)  # fmt: skip
ATTENTION = ".transformer_blocks.0.attn1"


@pytest.fixture(scope="module", autouse=True)
def package() -> Iterator[None]:
    with standins():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, package: None) -> Path:
    return save_small(tmp_path_factory.mktemp("small") / "release")


def load(folder: Path, size: int | None = 64, **loading: Any) -> MVDreamModel:
    model = load_model(f"mvdream:{folder}", Loading(size=size, **loading))
    assert isinstance(model, MVDreamModel)
    return model


@pytest.fixture(scope="module")
def model(folder: Path) -> MVDreamModel:
    return load(folder)


def blender_camera(elevation: float, azimuth: float) -> Tensor:
    """The release's camera of an orbit, written out: cam-to-world on the unit sphere, z up, camera x right, y up."""
    e, a = math.radians(elevation), math.radians(azimuth)
    place = torch.tensor([math.cos(e) * math.sin(a), -math.cos(e) * math.cos(a), math.sin(e)])
    right = torch.tensor([math.cos(a), math.sin(a), 0.0])
    up = torch.linalg.cross(place, right)
    full = torch.eye(4)
    full[:3, :3], full[:3, 3] = torch.stack([right, up, place], dim=1), place
    return full


def moved(cameras: Tensor, seed: int) -> Tensor:
    """Another world, larger, turned and shifted, with OpenCV axes, as world_to_cam."""
    g = torch.Generator().manual_seed(seed)
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=g, dtype=torch.float64))
    turn = turn * torch.linalg.det(turn)
    found = cameras.double().clone()
    found[..., :3, 3] *= 2.5 + torch.rand(cameras.shape[:-2], generator=g, dtype=torch.float64)[..., None]
    found[..., :3, :3] = found[..., :3, :3] @ torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64))
    found[..., :3, :] = turn @ found[..., :3, :]
    found[..., :3, 3] += torch.randn(3, generator=g, dtype=torch.float64) * 5
    return torch.linalg.inv(found).float()


def orbit(azimuths: tuple[float, ...] = (0, 90, 180, 270), elevation: float = 15, seed: int = 0) -> Views:
    size, f = 64, len(azimuths)
    cameras = torch.stack([blender_camera(elevation, a) for a in azimuths])[None]
    k = torch.tensor([[70.0, 0, 32], [0, 70, 32], [0, 0, 1]]).repeat(1, f, 1, 1)
    return Views(
        image=torch.rand(1, f, 3, size, size, generator=torch.Generator().manual_seed(seed)), intrinsics=k,
        world_to_cam=moved(cameras, seed), point_map=torch.zeros(1, f, 3, size, size),
        valid=torch.ones(1, f, size, size, dtype=torch.bool), n_ref=1,
    )  # fmt: skip


# --- cameras ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("elevation", [-20.0, 0.0, 15.0, 40.0])
@pytest.mark.parametrize("azimuths", [(0, 90, 180, 270), (0, 25, -10), (0, 60)])
def test_orbits_in_any_world_become_the_releases(azimuths: tuple[float, ...], elevation: float):
    expected = torch.stack([blender_camera(elevation, a) for a in azimuths])[None]
    for seed in range(3):
        torch.testing.assert_close(orbit_cameras(moved(expected, seed)), expected, rtol=0, atol=2e-4)


def test_the_releases_camera_in_numbers():
    # get_camera(4, elevation=15)[1] of the release: azimuth 90, rows of the 4 x 4 one after the other
    c, s = math.cos(math.radians(15)), math.sin(math.radians(15))
    expected = torch.tensor([[0, -s, c, c], [1, 0, 0, 0], [0, c, s, s], [0, 0, 0, 1]])
    torch.testing.assert_close(blender_camera(15, 90), expected, rtol=0, atol=1e-6)


def test_cameras_of_different_elevation_and_distance_are_put_on_the_sphere():
    expected = torch.stack([blender_camera(e, a) for e, a in ((10, 0), (30, 70), (-5, 200))])[None]
    found = orbit_cameras(moved(expected, 4))
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)
    torch.testing.assert_close(found[..., :3, 3].norm(dim=-1), torch.ones(1, 3))


def test_cameras_side_by_side_give_numbers():
    line = torch.eye(4).repeat(1, 3, 1, 1)
    line[:, :, 0, 3] = torch.tensor([-1.0, 0.0, 1.0])  # parallel axes meet nowhere
    assert orbit_cameras(line).isfinite().all()


# --- what enters -----------------------------------------------------------------------------------------------------


def test_all_views_are_noised_and_the_network_is_called_as_the_release_does(model: MVDreamModel):
    views, t = orbit(), torch.tensor([600])
    noise = torch.randn(1, 4, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    clean = model.encode(views.image)
    with heard(model.network) as given:
        predict(model, views, t, noise)
    level = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2)[:601].prod().float()
    expected = level.sqrt() * clean + (1 - level).sqrt() * noise
    torch.testing.assert_close(given["x"], expected[0], rtol=1e-4, atol=1e-5)
    assert given["timesteps"].tolist() == [600] * 4
    assert given["num_frames"] == 4
    assert given["context"].shape == (4, 77, SMALL["context_dim"])
    cameras = torch.stack([blender_camera(15, a).flatten() for a in (0, 90, 180, 270)])
    torch.testing.assert_close(given["camera"], cameras, rtol=0, atol=2e-4)
    assert prediction_target(model, clean, noise, level[None]) is noise
    assert model.clean_views(views) == 0


def test_blanked_cameras_are_zeros(model: MVDreamModel):
    views = orbit()
    assert not model.condition(views, torch.zeros(1))["cameras"].any()
    kept = model.condition(views, torch.ones(1))
    assert torch.equal(kept["cameras"], model.condition(views)["cameras"])


def test_noise_schedule_is_the_closed_form():
    level, expected = 1.0, []
    for n in range(1000):
        level *= 1 - (0.00085**0.5 + (0.012**0.5 - 0.00085**0.5) * n / 999) ** 2
        expected.append(level)
    torch.testing.assert_close(noise_schedule(), torch.tensor(expected))
    torch.testing.assert_close(noise_schedule(), release_weights()["alphas_cumprod"])


# --- layers ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_all_sixteen_layers_join_the_views(model: MVDreamModel):
    layers = model_layers(model)
    joint = [layer for layer in layers if layer.kind == "3d"]
    assert [(layer.index, layer.name) for layer in joint] == [(n, x + ATTENTION) for n, x in enumerate(PLACES)]
    sides = [8, 8, 4, 4, 2, 2, 1, 2, 2, 2, 4, 4, 4, 8, 8, 8]
    assert [layer.grid for layer in joint] == [(side, side) for side in sides]
    assert [layer.heads for layer in joint] == [2, 2, 2, 2] + [4] * 6 + [2] * 6
    assert [layer.kind for layer in layers].count("cross") == 16
    assert joint[model.default_layer].name == "output_blocks.6.1" + ATTENTION


def test_taps_see_xformers_and_change_nothing(model: MVDreamModel):
    import xformers.ops

    views, t, name = orbit((0, 40)), torch.tensor([300]), "output_blocks.6.1" + ATTENTION
    noise = torch.randn(1, 2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    layer, seen = model.network.get_submodule(name), []
    handle = layer.register_forward_pre_hook(lambda _module, args: seen.append(args[0].clone()))
    expected, original = predict(model, views, t, noise), xformers.ops.memory_efficient_attention
    handle.remove()
    with AttentionTap(model.network, "", keep="detached") as tap:
        assert torch.equal(predict(model, views, t, noise), expected)
    assert xformers.ops.memory_efficient_attention is original
    assert [call.name for call in tap.calls if call.name.endswith("attn1")] == [x + ATTENTION for x in PLACES]
    assert len(tap.calls) == 32
    for got, to in ((tap[name].q, layer.to_q), (tap[name].k, layer.to_k)):
        torch.testing.assert_close(got, rearrange(to(seen[0]), "b n (heads d) -> b heads n d", heads=2))
    with AttentionTap(model.network, name, edit=lambda call, run: run(call.q, call.k.flip(2), call.v)):
        assert not torch.equal(predict(model, views, t, noise), expected)


def test_without_xformers_the_explicit_softmax_is_replaced_by_the_fused_one(model: MVDreamModel):
    with standins(without=("xformers",)):
        plain = build(RELEASE | SMALL, 8)
        plain.load_state_dict(model.network.state_dict())
        views, t = orbit((0, 40)), torch.tensor([300])
        noise = torch.randn(1, 2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
        found = predict(replace(model, network=plain), views, t, noise)
        torch.testing.assert_close(found, predict(model, views, t, noise), rtol=1e-3, atol=1e-4)
        layers = model_layers(replace(model, network=plain))
        assert [layer.name for layer in layers if layer.kind == "3d"] == [x + ATTENTION for x in PLACES]
        attention = plain.get_submodule("middle_block.1" + ATTENTION)
        x = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(2))
        torch.testing.assert_close(fused_attention(attention, x), type(attention).forward(attention, x))


# --- loading ---------------------------------------------------------------------------------------------------------


def test_weights_are_the_files_without_prefix(model: MVDreamModel, folder: Path):
    own, expected = model.network.state_dict(), make_network().state_dict()
    assert own.keys() == expected.keys()
    assert all(torch.equal(own[name], expected[name]) for name in own)
    assert (model.name, model.size, model.folder, model.prediction) == ("mvdream:release", 64, folder, "epsilon")
    assert model.card is not None
    assert model.card["weights"] == FILE
    assert str(model.card["prompt"]).startswith("zeros: no text_encoder/")
    assert model.card["autoencoder"] == "the checkpoint's own"
    assert not model.text.any()


def test_the_checkpoints_autoencoder_is_converted(model: MVDreamModel):
    own, converted = make_vae(4, seed=2), model.vae
    image = torch.rand(1, 2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    same = replace(model, vae=own)
    latents = model.encode(image)
    torch.testing.assert_close(latents, same.encode(image))
    torch.testing.assert_close(model.decode(latents), same.decode(latents))
    weights = autoencoder_weights(own)
    assert "first_stage_model.encoder.down.0.block.0.conv1.weight" in weights
    assert weights["first_stage_model.decoder.mid.attn_1.q.weight"].ndim == 4
    assert convert_autoencoder(weights).config.block_out_channels == converted.config.block_out_channels
    del weights["first_stage_model.quant_conv.weight"]
    with pytest.raises(ValueError, match=r"convert_autoencoder does not fit AutoencoderKL: 1 weights missing"):
        convert_autoencoder(weights)


@pytest.mark.slow
def test_base_comes_before_the_checkpoints_autoencoder(folder: Path):
    model = load(folder, size=None, base=str(folder), outline=True)
    assert model.card is not None
    assert model.card["autoencoder"] == str(folder)
    assert model.size == 256
    grids = [layer.grid for layer in model_layers(model) if layer.kind == "3d"]
    assert grids[:7] == [(32, 32)] * 2 + [(16, 16)] * 2 + [(8, 8)] * 2 + [(4, 4)]


@pytest.mark.slow
def test_the_ports_folder_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: MVDreamModel):
    save_small(tmp_path / "port", port=True)
    monkeypatch.setattr(mvdream, "PACKAGES", ("mv_unet",))
    port = load(tmp_path / "port")
    own, expected = port.network.state_dict(), model.network.state_dict()
    assert all(torch.equal(own[name], weight) for name, weight in expected.items())
    assert port.card is not None
    assert port.card["autoencoder"] == str(tmp_path / "port")
    config = tmp_path / "port" / "unet" / "config.json"
    config.write_text(config.read_text().replace('"ip_dim": 0', '"ip_dim": 16'))
    with pytest.raises(ValueError, match="is ImageDream, which needs an image prompt"):
        load(tmp_path / "port")


def test_the_empty_prompt_is_encoded_where_an_encoder_lies(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: list[Any] = []

    def prompt_of(place: Path, width: int, loading: Loading) -> tuple[Tensor, str]:
        asked.append(place)
        return torch.ones(77, width), "empty"

    monkeypatch.setattr(mvdream, "prompt_of", prompt_of)
    (tmp_path / "text_encoder").mkdir()
    text, said = mvdream._prompt(folder, 24, Loading(base=str(tmp_path)))
    assert (text.shape, said, asked) == ((77, 24), "empty", [tmp_path])
    mvdream._prompt(tmp_path, 24, Loading(base=str(folder)))
    assert asked == [tmp_path] * 2


def test_other_names_are_refused(folder: Path, tmp_path: Path):
    weights = {name.replace("model.diffusion_model.", "unet."): x for name, x in release_weights().items()}
    torch.save(weights, tmp_path / FILE)
    (tmp_path / "params.json").write_text((folder / "params.json").read_text())
    with pytest.raises(ValueError, match=r"does not fit MVDreamNetwork: \d+ weights missing"):
        load(tmp_path)
    with (
        standins(without=("mvdream", "mv_unet")),
        pytest.raises(
            ValueError, match=r"package is not installed.*pip install git\+https://github.com/bytedance/MVDream"
        ) as e,
    ):
        load(folder)
    assert "\n" not in str(e.value)
    with pytest.raises(ValueError, match=r"size of the views 100: expected a multiple of 64 .* native 256"):
        load(folder, size=100)


def test_random_weights_are_drawn_by_seed(model: MVDreamModel):
    first, again, other = (randomised(model, seed).network.state_dict() for seed in (1, 1, 2))
    name = "middle_block.1.proj_in.weight"
    assert torch.equal(first[name], again[name])
    assert not torch.equal(first[name], other[name])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_precisions(model: MVDreamModel, dtype: torch.dtype):
    views, t = orbit((0, 40)), torch.tensor([300])
    low = to_device(replace(model, network=copy.deepcopy(model.network)), torch.device("cpu"), dtype)
    noise = torch.randn(1, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    expected, name = predict(model, views, t, noise), "middle_block.1" + ATTENTION
    hook = low.network.register_forward_pre_hook(in_own_precision, with_kwargs=True)
    with hook, AttentionTap(low.network, name, keep="detached") as tap:
        got = predict(low, views, t, noise)
    assert tap[name].compute_dtype == dtype
    limit = 0 if dtype == torch.float32 else 0.1 * expected.abs().max().item()
    assert (got.float() - expected).abs().max() <= limit
