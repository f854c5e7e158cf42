import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from einops import rearrange
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from small_hunyuan_dit import SMALL, make_scheduler, make_stock, make_vae, save_small
from torch import Tensor, nn
from torch.nn import functional as F

from probe.geometry import plucker_rays
from probe.models import load_model, randomised
from probe.models.hunyuan_dit import (
    V12,
    HunyuanDiT,
    HunyuanDiT2DModel,
    load_hunyuan_dit,
    noise_scheduler,
)
from probe.models.model import model_layers, predict, to_device
from probe.models.parts.files import Loading
from probe.models.parts.multi_view_dit import MultiViewDiT, Rotary
from probe.scenes.shapes import draw_shapes, make_views
from probe.views import Views

CLOSE = {"rtol": 1e-4, "atol": 2e-5}
SIDE = 64


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def photograph(n_ref: int = 1, *, f: int = 3, seed: int = 0) -> Views:
    g = generator(seed)
    rotation = 10 + 50 * torch.rand(2, f - 1, generator=g)
    return make_views(draw_shapes(2, generator=g), rotation, size=SIDE, n_ref=n_ref, generator=g)


def make(*, trained: bool = False, **changes: Any) -> MultiViewDiT:
    """The stock class's weights in ours; ``trained`` fills the encoder's zeros."""
    stock = make_stock(**changes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        ours = MultiViewDiT(**{**SMALL, **changes}, encoder_channels=(8, 8, 8, 8, 16)).eval()
        if trained:
            for parameter in ours.add_conv_in.conv_out.parameters():
                nn.init.normal_(parameter, std=0.3)
    missing, left = ours.load_state_dict(stock.state_dict(), strict=False)
    assert not left
    assert all(name.startswith("add_conv_in.") for name in missing)
    return ours


def draw(b: int = 2, f: int = 3, *, side: int = 8, seed: int = 0) -> dict[str, Tensor]:
    g = generator(seed)
    mask = torch.ones(b, f, 1, side * 8, side * 8)
    mask[:, :1] = 0
    return {
        "latents": torch.randn(b, f, 4, side, side, generator=g),
        "t": torch.randint(1, 1000, (b,), generator=g),
        "inputs": torch.cat([mask, torch.randn(b, f, 6, side * 8, side * 8, generator=g)], dim=2),
    }


def slow_rotary(side: int, width: int = 16) -> tuple[Tensor, Tensor]:
    """Half the channels turn with the column, half with the row; places go from 0 towards 32, whatever the side."""
    angles = []
    for row in range(side):
        for column in range(side):
            line = []
            for place_ in (column * 32 / side, row * 32 / side):
                line += [place_ * 10000 ** (-2 * (i // 2) / (width // 2)) for i in range(width // 2)]
            angles.append(line)
    return torch.tensor(angles).cos(), torch.tensor(angles).sin()


def stock_view_by_view(stock: HunyuanDiT2DModel, latents: Tensor, t: Tensor) -> Float[Tensor, "b f 8 h w"]:
    """Run the stock class on each view alone, without text."""
    config, (b, f, _, side, _) = stock.config, latents.shape
    out = torch.empty(b, f, 8, side, side)
    for scene in range(b):
        for view in range(f):
            out[scene, view] = stock(
                latents[scene, view][None],
                t[scene, None].float(),
                encoder_hidden_states=torch.randn(1, config.text_len, config.cross_attention_dim),  # masked out
                text_embedding_mask=torch.zeros(1, config.text_len),
                encoder_hidden_states_t5=torch.zeros(1, config.text_len_t5, config.cross_attention_dim_t5),
                text_embedding_mask_t5=torch.zeros(1, config.text_len_t5),
                image_meta_size=torch.tensor([[1024.0, 1024.0, side * 8.0, side * 8.0, 0.0, 0.0]]),
                style=torch.zeros(1, dtype=torch.long),
                image_rotary_emb=slow_rotary(side // 2),
                return_dict=False,
            )[0][0]
    return out


# --- against the stock class -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("older", [False, True])
@torch.no_grad()
def test_a_single_view_is_the_stock_class(older: bool):
    changes = {"use_style_cond_and_image_meta_size": older}
    given = draw(f=1)
    expected = stock_view_by_view(make_stock(**changes), given["latents"], given["t"])
    torch.testing.assert_close(make(**changes)(**given), expected[:, :, :4], **CLOSE)


@torch.no_grad()
def test_equal_views_are_the_stock_class_view_by_view():
    # attention over copies of a view is attention over one, if each copy's tokens are at that view's places
    given = draw(f=1)
    given = {
        **given,
        "latents": given["latents"].repeat(1, 3, 1, 1, 1),
        "inputs": given["inputs"].repeat(1, 3, 1, 1, 1),
    }
    expected = stock_view_by_view(make_stock(), given["latents"], given["t"])
    torch.testing.assert_close(make()(**given), expected[:, :, :4], **CLOSE)


@torch.no_grad()
def test_different_views_are_not_what_they_are_alone():
    given = draw()
    alone = stock_view_by_view(make_stock(), given["latents"], given["t"])[:, :, :4]
    assert (make()(**given) - alone).abs().max() > 1e-2


@torch.no_grad()
def test_another_size_stretches_the_rotary_embedding():
    given = draw(f=1, side=4)
    expected = stock_view_by_view(make_stock(), given["latents"], given["t"])
    torch.testing.assert_close(make()(**given), expected[:, :, :4], **CLOSE)


@pytest.mark.parametrize("side", [4, 8, 32])
def test_rotary_known(side: int):
    cos, sin = make().rotary_of(side, torch.zeros(1))
    expected = slow_rotary(side)
    torch.testing.assert_close(cos, expected[0], rtol=0, atol=2e-5)
    torch.testing.assert_close(sin, expected[1], rtol=0, atol=2e-5)


def test_predicts_noise_or_v_alone_if_that_is_all_there_is():
    network = make(learn_sigma=False)
    assert network.proj_out.out_features == 16
    assert network(**draw()).shape == (2, 3, 4, 8, 8)


# --- which views see each other --------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", range(6))
@torch.no_grad()
def test_attention_by_hand(index: int):
    network, views = make(), 3
    module = network.blocks[index].attn1
    for norm in (module.norm_q, module.norm_k):
        nn.init.normal_(norm.weight, 1, 0.3)
        nn.init.normal_(norm.bias, 0, 0.3)
    x = torch.randn(2 * views, 16, 32, generator=generator(index))
    cos, sin = slow_rotary(4)
    joined = x.reshape(2, views * 16, 32)  # view-major

    def turn(tokens: Tensor) -> Tensor:
        """Turn pairs of neighbouring channels as complex numbers; a token's place is its place in its view."""
        pairs = torch.view_as_complex(tokens.unflatten(-1, (-1, 2)).contiguous())
        wave = torch.complex(cos[:, ::2], sin[:, ::2])
        return torch.view_as_real(pairs * torch.cat([wave] * views)).flatten(-2)

    def split(projected: Tensor) -> Tensor:
        return rearrange(projected, "b n (heads d) -> b heads n d", heads=2)

    q, k, v = (split(project(joined)) for project in (module.to_q, module.to_k, module.to_v))
    q, k = turn(F.layer_norm(q, (16,), module.norm_q.weight, module.norm_q.bias, 1e-6)), k
    k = turn(F.layer_norm(k, (16,), module.norm_k.weight, module.norm_k.bias, 1e-6))
    out = (q @ k.mT / math.sqrt(16)).softmax(-1) @ v
    expected = module.to_out[0](rearrange(out, "b heads n d -> b n (heads d)")).reshape(x.shape)
    torch.testing.assert_close(module(x, image_rotary_emb=Rotary(cos, sin, views)), expected, **CLOSE)


@torch.no_grad()
def test_views_are_equivariant_and_scenes_apart():
    network, given, order = make(trained=True), draw(f=4), [0, 3, 1, 2]
    expected = network(**given)
    moved = {"latents": given["latents"][:, order], "inputs": given["inputs"][:, order], "t": given["t"]}
    torch.testing.assert_close(network(**moved), expected[:, order], **CLOSE)
    alone = network(**{name: value[1:] for name, value in given.items()})
    torch.testing.assert_close(alone, expected[1:], **CLOSE)


# --- cameras ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_cameras_count_for_nothing_at_the_start_and_for_something_once_trained():
    given = draw()
    moved = {**given, "inputs": draw(seed=1)["inputs"]}
    assert torch.equal(make()(**given), make()(**moved))
    for channel in range(7):
        other = given["inputs"].clone()
        other[:, 1, channel] -= 1
        network = make(trained=True)
        assert (network(**{**given, "inputs": other}) - network(**given)).abs().max() > 1e-4, channel


@torch.no_grad()
def test_what_is_encoded_is_added_to_the_patches_token_by_token():
    network, given, seen = make(trained=True), draw(), []
    network.blocks[0].register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    network(**given)
    network(**given)
    latents, inputs = (given[name].flatten(0, 1) for name in ("latents", "inputs"))
    patches = F.conv2d(latents, network.pos_embed.proj.weight, network.pos_embed.proj.bias, stride=2)
    both = patches + network.add_conv_in(inputs)
    assert both.shape[-2:] == (4, 4)
    expected = torch.stack([both[:, :, row, column] for row in range(4) for column in range(4)], dim=1)
    for states in seen:  # the second call adds it once, too
        torch.testing.assert_close(states, expected, **CLOSE)
    assert not network.pos_embed._forward_hooks


def test_condition_is_mask_then_proper_rays(model: HunyuanDiT):
    views = photograph(1)
    conditioning = model.condition(views)
    assert conditioning.keys() == {"inputs"}
    inputs = conditioning["inputs"]
    assert (inputs[:, :1, 0] == 0).all()
    assert (inputs[:, 1:, 0] == 1).all()
    assert torch.equal(inputs[:, :, 1:], plucker_rays(views.intrinsics, views.world_to_cam, views.size, scale=2.0))
    centre = -views.world_to_cam[:, 1, :3, :3].mT @ views.world_to_cam[:, 1, :3, 3:]
    turn, shift = views.world_to_cam[:, 0, :3, :3], views.world_to_cam[:, 0, :3, 3:]
    ray = torch.linalg.inv(views.intrinsics[:, 1]) @ torch.tensor([5.5, 60.5, 1.0])
    direction = F.normalize((turn @ views.world_to_cam[:, 1, :3, :3].mT @ ray[..., None])[..., 0], dim=-1)
    moment = torch.linalg.cross((turn @ centre + shift)[..., 0] / 2, direction)
    torch.testing.assert_close(inputs[:, 1, 1:, 60, 5], torch.cat([direction, moment], -1), **CLOSE)
    blind = model.condition(views, torch.tensor([0.0, 1.0]))["inputs"]
    assert not blind[0, :, 1:].any()
    assert torch.equal(blind[1], inputs[1])
    assert torch.equal(blind[:, :, 0], inputs[:, :, 0])


@pytest.mark.parametrize("shape", [(8, 8), (64, 32), (128, 128)])
def test_inputs_of_another_resolution_are_refused(shape: tuple[int, int]):
    given = {**draw(), "inputs": torch.zeros(2, 3, 7, *shape)}
    with pytest.raises(ValueError, match=r"MultiViewDiT: latents of 8 x 8 .* expected squares"):
        make()(**given)


@pytest.mark.parametrize("shape", [(7, 7), (8, 6)])
def test_latents_that_are_no_whole_patches_are_refused(shape: tuple[int, int]):
    with pytest.raises(ValueError, match="expected squares, of a multiple of 2 latents"):
        make()(**{**draw(), "latents": torch.zeros(2, 3, 4, *shape)})


# --- the model -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small(tmp_path_factory.mktemp("hub") / "HunyuanDiT")


@pytest.fixture(scope="module")
def model(folder: Path) -> HunyuanDiT:
    loaded = load_model(f"hunyuan-dit:{folder}", Loading(size=SIDE))
    assert isinstance(loaded, HunyuanDiT)
    return loaded


def test_layers_are_the_blocks(model: HunyuanDiT):
    layers = model_layers(model)
    joint = [layer for layer in layers if layer.kind == "3d"]
    assert [(layer.index, layer.name) for layer in joint] == [(i, f"blocks.{i}.attn1") for i in range(6)]
    assert {layer.grid for layer in joint} == {(4, 4)}
    assert all(layer.prefix == layer.suffix == layer.per_view_prefix == 0 for layer in joint)
    others = {layer.name: layer.kind for layer in layers if layer.index is None}
    assert {others[f"blocks.{i}.attn2"] for i in range(6)} == {"cross"}
    assert model.default_layer == 4  # 32 of 40


@torch.no_grad()
def test_one_step_in_single_and_in_half_precision(model: HunyuanDiT):
    views, t = photograph(), torch.tensor([500, 20])
    full = predict(model, views, t, torch.randn(model.latent_shape(2, 3), generator=generator(1)))
    assert full.shape == (2, 3, 4, 8, 8)
    latents, conditioning = model.encode(views.image), model.condition(views)["inputs"]
    whole = model.denoise(latents, t, {"inputs": conditioning})
    halved = to_device(replace(model, network=make()), torch.device("cpu"), torch.bfloat16)
    half = halved.denoise(latents.bfloat16(), t, {"inputs": conditioning.bfloat16()})
    assert half.dtype == torch.bfloat16
    assert (half.float() - whole).abs().mean() < 0.1 * whole.abs().mean()


def test_the_network_learns_and_its_encoder_behind_its_zero():
    network = make()
    network(**draw()).square().mean().backward()
    learns = {name for name, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    assert {"add_conv_in.conv_out.weight", "blocks.0.attn1.to_q.weight", "pos_embed.proj.weight"} <= learns
    assert "text_embedding_padding" in learns
    assert "add_conv_in.conv1.0.weight" not in learns


def test_gradient_checkpointing_is_refused_in_one_line(model: HunyuanDiT):
    with pytest.raises(ValueError, match=r"has no gradient checkpointing; leave it out"):
        model.network.enable_gradient_checkpointing()


# --- noise -----------------------------------------------------------------------------------------------------------


def slow_alpha_bar(last: float) -> Float[Tensor, " steps"]:
    root = torch.linspace(0.00085**0.5, last**0.5, 1000, dtype=torch.float64)
    return (1 - root.square()).cumprod(0)


@pytest.mark.parametrize(("newest", "last"), [(True, 0.018), (False, 0.03)])
def test_noise_goes_by_version(newest: bool, last: float):
    scheduler = noise_scheduler(None, newest=newest)
    torch.testing.assert_close(scheduler.alphas_cumprod.double(), slow_alpha_bar(last), rtol=1e-4, atol=1e-6)
    assert scheduler.config.prediction_type == "v_prediction"


def test_noise_of_the_folder_wins(tmp_path: Path, model: HunyuanDiT):
    torch.testing.assert_close(model.alpha_bar.double(), slow_alpha_bar(0.018), rtol=1e-4, atol=1e-6)
    make_scheduler(beta_end=0.05, prediction_type="epsilon").save_pretrained(tmp_path / "scheduler")
    found = noise_scheduler(tmp_path, newest=True)
    torch.testing.assert_close(found.alphas_cumprod.double(), slow_alpha_bar(0.05), rtol=1e-4, atol=1e-6)
    assert found.config.prediction_type == "epsilon"


def test_an_older_folder_without_a_scheduler_has_its_versions_noise(tmp_path: Path):
    make_stock(use_style_cond_and_image_meta_size=True).save_pretrained(tmp_path / "transformer")
    path = tmp_path / "transformer" / "config.json"
    config = json.loads(path.read_text())
    del config["use_style_cond_and_image_meta_size"]  # v1.1's file does not name it
    path.write_text(json.dumps(config))
    make_vae().save_pretrained(tmp_path / "vae")
    loaded = load_hunyuan_dit(str(tmp_path), Loading(size=SIDE))
    torch.testing.assert_close(loaded.alpha_bar.double(), slow_alpha_bar(0.03), rtol=1e-4, atol=1e-6)
    assert loaded.network.config.use_style_cond_and_image_meta_size


@pytest.mark.parametrize("changes", [{"num_train_timesteps": 500}, {"prediction_type": "sample"}])
def test_other_noise_is_refused(tmp_path: Path, changes: dict[str, Any]):
    make_scheduler(**changes).save_pretrained(tmp_path / "scheduler")
    with pytest.raises(
        ValueError, match=r"load_hunyuan_dit: .*scheduler has .* expected 1000 steps, and one of v_pred"
    ):
        noise_scheduler(tmp_path, newest=True)


# --- files -----------------------------------------------------------------------------------------------------------


def assert_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name, weight in first.items() if not torch.equal(weight, second[name])] == []


def test_a_stock_folder_is_loaded_with_an_encoder_that_says_nothing(folder: Path, model: HunyuanDiT):
    stored = load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")
    assert_equal(stored, make_stock().state_dict())
    weights = model.network.state_dict()
    assert_equal({name: w for name, w in weights.items() if not name.startswith("add_conv_in.")}, stored)
    assert not weights["add_conv_in.conv_out.weight"].any()
    assert not weights["add_conv_in.conv_out.bias"].any()
    assert weights["add_conv_in.conv1.0.weight"].any()
    assert (model.name, model.size, model.stride, model.channels) == ("hunyuan-dit:HunyuanDiT", SIDE, 8, 4)
    assert model.card is not None
    assert "no add_conv_in.*: a new encoder, ending in zeros" in str(model.card["cameras"])
    assert "zeros" in str(model.card["text"])
    assert model.vae.config.scaling_factor == 0.13025
    assert not any(p.requires_grad for p in model.network.parameters())


def test_the_new_encoder_is_always_the_same_and_draws_from_no_ones_stream(folder: Path, model: HunyuanDiT):
    state = torch.random.get_rng_state()
    again = load_hunyuan_dit(str(folder), Loading())
    assert_equal(again.network.add_conv_in.state_dict(), model.network.add_conv_in.state_dict())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert again.size == 128


def test_what_the_suite_saved_is_loaded_with_its_encoder(folder: Path, tmp_path: Path, model: HunyuanDiT):
    trained = make(trained=True)
    trained.save_pretrained(tmp_path / "final")
    loaded = load_hunyuan_dit(str(tmp_path / "final"), Loading(base=str(folder)))
    assert_equal(loaded.network.state_dict(), trained.state_dict())
    assert loaded.card is not None
    assert loaded.card["cameras"] == "of the checkpoint"
    with torch.no_grad():
        torch.testing.assert_close(loaded.network(**draw()), trained(**draw()), **CLOSE)
    with pytest.raises(ValueError, match=r"final holds no autoencoder; give the"):
        load_hunyuan_dit(str(tmp_path / "final"), Loading())


def test_the_encoder_follows_the_autoencoders_stride(tmp_path: Path):
    out = save_small(tmp_path, levels=3)
    loaded = load_hunyuan_dit(str(out), Loading(size=SIDE))
    assert loaded.network.config.encoder_stride == 8
    assert (loaded.stride, loaded.latent_shape(1, 2)) == (4, (1, 2, 4, 16, 16))
    assert loaded.network(**loaded.probe_inputs(2)).shape == (1, 2, 4, 16, 16)


def test_weights_in_their_own_precision(tmp_path: Path):
    out = save_small(tmp_path)
    path = out / "transformer" / "diffusion_pytorch_model.safetensors"
    save_file({name: w.half() for name, w in load_file(path).items()}, path)
    loaded = load_hunyuan_dit(str(out), Loading())
    assert {w.dtype for w in loaded.network.state_dict().values()} == {torch.float16}


def test_half_an_encoder_is_refused(tmp_path: Path):
    out = save_small(tmp_path)
    path = out / "transformer" / "diffusion_pytorch_model.safetensors"
    save_file({**load_file(path), "add_conv_in.conv_out.bias": torch.zeros(32)}, path)
    with pytest.raises(ValueError, match=r"load_hunyuan_dit: .* does not fit MultiViewDiT: 21 weights missing"):
        load_hunyuan_dit(str(out), Loading())


def test_foreign_folders_are_refused(folder: Path, tmp_path: Path):
    make_stock().save_pretrained(tmp_path / "transformer")
    path = tmp_path / "transformer" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "_class_name": "PixArtTransformer2DModel"}))
    with pytest.raises(ValueError, match="describes 'PixArtTransformer2DModel', not HunyuanDiT2DModel"):
        load_hunyuan_dit(str(tmp_path), Loading(base=str(folder)))
    path.unlink()
    with pytest.raises(ValueError, match=r"transformer/config.json is missing"):
        load_hunyuan_dit(str(tmp_path), Loading(base=str(folder)))
    with pytest.raises(ValueError, match=r"scheduler holds no checkpoint: none of transformer/"):
        load_hunyuan_dit(str(folder / "scheduler"), Loading(base=str(folder)))


def test_an_autoencoder_of_another_stride_is_refused(folder: Path, tmp_path: Path):
    make(trained=True).save_pretrained(tmp_path / "final")
    make_vae(levels=3).save_pretrained(tmp_path / "vae")
    with pytest.raises(ValueError, match=r"the autoencoder makes 8 pixels per token .* the network wants 16 and 4"):
        load_hunyuan_dit(str(tmp_path / "final"), Loading(base=str(tmp_path)))


def test_random_weights_for_the_baseline(model: HunyuanDiT):
    other = randomised(model, 3).network
    assert isinstance(other, MultiViewDiT)
    assert other.state_dict().keys() == model.network.state_dict().keys()
    assert not torch.equal(other.proj_out.weight, model.network.proj_out.weight)


def test_an_outline_has_the_full_size():
    model = load_hunyuan_dit("random", Loading(outline=True))
    assert model.size == 1024
    assert model.default_layer == 32
    shapes = {name: tuple(w.shape) for name, w in model.network.state_dict().items()}
    assert shapes["add_conv_in.conv_out.weight"] == (1408, 256, 3, 3)
    with torch.device("meta"):
        stock = {name: tuple(w.shape) for name, w in HunyuanDiT2DModel(**V12).state_dict().items()}
    assert {name: shape for name, shape in shapes.items() if not name.startswith("add_conv_in.")} == stock
    assert stock["blocks.39.skip_linear.weight"] == (1408, 2816)
