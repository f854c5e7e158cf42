import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from einops import rearrange
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from probe.layers import Layer, find_layers
from probe.models import load_folder
from probe.models.cat3d import DOMAINS, SD21, TINY, load_unet, settings_of
from probe.models.parts.encoders import WAVES_START, InputEncoder, ray_waves
from probe.models.parts.files import fill
from probe.models.parts.unet import SETTINGS, MultiViewUNet, targets_only

SMALL: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (8, 16, 16, 24),
    "attention_head_dim": (1, 2, 2, 3),
    "norm_num_groups": 4,
    "encoder_channels": (4, 8),
    "encoder_stride": 2,
}
NAMES = (
    "down_blocks.0.attentions.0",
    "down_blocks.0.attentions.1",
    "down_blocks.1.attentions.0",
    "down_blocks.1.attentions.1",
    "down_blocks.2.attentions.0",
    "down_blocks.2.attentions.1",
    "mid_block.attentions.0",
    "up_blocks.1.attentions.0",
    "up_blocks.1.attentions.1",
    "up_blocks.1.attentions.2",
    "up_blocks.2.attentions.0",
    "up_blocks.2.attentions.1",
    "up_blocks.2.attentions.2",
    "up_blocks.3.attentions.0",
    "up_blocks.3.attentions.1",
    "up_blocks.3.attentions.2",
)
PER_VIEW = (0, 1, 13, 14, 15)
CLOSE = {"rtol": 1e-4, "atol": 2e-5}  # single precision through some 60 layers


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(*, seed: int = 0, trained: bool = True, **changes: Any) -> MultiViewUNet:
    """A small network; ``trained`` fills what starts at zero or at identity, as training would."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = load_unet(None, {**SMALL, **changes}).eval()
        if trained:
            for parameter in (*unet.add_conv_in.conv_out.parameters(), *unet.class_embedding.parameters()):
                nn.init.normal_(parameter, std=0.3)
            for name, parameter in unet.named_parameters():
                if ".norm_q." in name or ".norm_k." in name:
                    nn.init.normal_(parameter, 1 if name.endswith("weight") else 0, 0.3)
    return unet


@pytest.fixture(scope="module")
def unet() -> MultiViewUNet:
    return make()


def draw(b: int = 1, f: int = 3, *, n_ref: int = 1, seed: int = 0, side: int = 8, stride: int = 2) -> dict[str, Tensor]:
    g = generator(seed)
    mask = torch.ones(b, f, 1, side * stride, side * stride)
    mask[:, :n_ref] = 0
    return {
        "latents": torch.randn(b, f, 3, side, side, generator=g),
        "t": torch.randint(1, 1000, (b,), generator=g),
        "inputs": torch.cat([mask, torch.randn(b, f, 6, side * stride, side * stride, generator=g)], dim=2),
        "domain": torch.randint(0, len(DOMAINS), (b,), generator=g),
    }


def assert_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name, weight in first.items() if not torch.equal(weight, second[name])] == []


def attention(unet: MultiViewUNet, index: int) -> nn.Module:
    return unet.get_submodule(f"{NAMES[index]}.transformer_blocks.0.attn1")


# --- layout ----------------------------------------------------------------------------------------------------------


def joining(layers: list[Layer]) -> list[int | None]:
    return [layer.index for layer in layers if layer.kind == "3d"]


def test_tiny_has_the_layout_of_sd21_in_few_parameters():
    tiny = load_unet(None, TINY)
    layers = find_layers(tiny)
    assert [layer.name for layer in layers] == [f"{name}.transformer_blocks.0.attn1" for name in NAMES]
    assert [layer.index for layer in layers] == list(range(16))
    assert joining(layers) == [index for index in range(16) if index not in PER_VIEW]
    assert [layers[index].kind for index in PER_VIEW] == ["view"] * 5
    assert [layer.grid[0] for layer in layers if layer.grid] == [32] * 2 + [16] * 2 + [8] * 2 + [4] + [8] * 3 + [
        16
    ] * 3 + [32] * 3
    assert layers[10].grid == (16, 16)
    assert all(layer.prefix == layer.suffix == layer.per_view_prefix == 0 for layer in layers)
    assert sum(parameter.numel() for parameter in tiny.parameters()) <= 5_000_000


def test_joint_layers_follow_the_level_not_the_width():
    layers = find_layers(make(block_out_channels=(8, 8, 8, 8), attention_head_dim=2))
    assert joining(layers) == [index for index in range(16) if index not in PER_VIEW]


@pytest.fixture(scope="module")
def full_size() -> dict[str, Tensor]:
    with torch.device("meta"):
        return load_unet(None, SD21).state_dict()


def test_full_size_names_and_shapes_are_those_of_the_release(full_size: dict[str, Tensor]):
    shapes = {name: tuple(weight.shape) for name, weight in full_size.items()}
    expected = {
        "add_conv_in.conv1.0.weight": (32, 7, 3, 3),
        "add_conv_in.conv2.0.weight": (64, 32, 3, 3),
        "add_conv_in.conv3.0.weight": (128, 64, 3, 3),
        "add_conv_in.conv4.0.weight": (256, 128, 3, 3),
        "add_conv_in.conv_out.weight": (320, 256, 3, 3),
        "class_embedding.weight": (3, 1280),
    }
    for number, width in enumerate((32, 64, 128, 256), start=1):
        expected |= {f"add_conv_in.conv{number}.{part}.bias": (width,) for part in (0, 1)}
        expected |= {f"add_conv_in.conv{number}.1.weight": (width,)}
    expected |= {"add_conv_in.conv_out.bias": (320,)}
    for name in NAMES:
        for norm in ("norm_q.weight", "norm_q.bias", "norm_k.weight", "norm_k.bias"):
            expected[f"{name}.transformer_blocks.0.attn1.{norm}"] = (64,)
    assert {name: shapes.get(name) for name in expected} == expected
    from diffusers import UNet2DConditionModel  # here, because probe.models must be imported first

    # all else is stock SD 2.1 without its text branch, name by name and shape by shape
    with torch.device("meta"):
        stock = UNet2DConditionModel(
            block_out_channels=(320, 640, 1280, 1280),
            attention_head_dim=(5, 10, 20, 20),  # type: ignore[arg-type]
            cross_attention_dim=1024,
            use_linear_projection=True,
        )
    assert sum(parameter.numel() for parameter in stock.parameters()) == 865_910_724
    kept = {name: tuple(w.shape) for name, w in stock.state_dict().items() if ".attn2." not in name}
    kept = {name: shape for name, shape in kept.items() if ".norm2." not in name or ".resnets." in name}
    assert {name: shape for name, shape in shapes.items() if name not in expected} == kept


def test_full_size_parameter_count_by_hand(full_size: dict[str, Tensor]):
    def convolution(before: int, after: int) -> int:
        return 9 * before * after + after

    encoder = convolution(7, 32) + convolution(32, 64) + convolution(64, 128) + convolution(128, 256)
    encoder += 2 * (32 + 64 + 128 + 256) + convolution(256, 320)  # group norms; to the first level
    added = encoder + 3 * 1280 + 16 * 2 * (64 + 64)  # domains; norms of queries and keys
    without_text = 865_910_724 - 50_377_280
    assert sum(weight.numel() for weight in full_size.values()) == without_text + added
    assert not any(".attn2." in name or ".transformer_blocks.0.norm2." in name for name in full_size)


@pytest.mark.parametrize(("stride", "sides"), [(1, (16, 16, 16)), (2, (16, 8, 8)), (4, (16, 8, 4))])
def test_encoder_halves_after_its_first_stage(stride: int, sides: tuple[int, ...]):
    encoder = InputEncoder(7, (4, 8, 8), stride, 5)
    seen = []
    for number in (1, 2, 3):
        stage = encoder.get_submodule(f"conv{number}")
        stage.register_forward_hook(lambda _module, _args, output: seen.append(output.shape[-1]))
    assert encoder(torch.zeros(2, 7, 16, 16)).shape == (2, 5, sides[-1], sides[-1])
    assert tuple(seen) == sides


@pytest.mark.parametrize("normalise", [True, False])
def test_encoder_normalises_its_stages_if_asked(normalise: bool):
    encoder = InputEncoder(7, (4, 8), 1, 5, normalise=normalise)
    inputs = torch.randn(2, 7, 6, 6, generator=generator(0))
    stage = F.conv2d(inputs, encoder.conv1[0].weight, encoder.conv1[0].bias, padding=1)
    expected = F.silu(F.group_norm(stage, 1, eps=1e-6) if normalise else stage)
    torch.testing.assert_close(encoder.conv1(inputs), expected, **CLOSE)
    assert ("conv1.1.weight" in encoder.state_dict()) is normalise


def test_rays_enter_as_sines_and_cosines_of_doubling_frequencies():
    waves = ray_waves(torch.tensor([0.0, 0.5, 0.25]).view(1, 3, 1, 1), 2).flatten()
    half = 0.5**0.5
    expected = torch.tensor([0, 1, half, 1, 0, half, 0, 0, 1, 1, -1, 0])  # sin, cos of pi r; sin, cos of 2 pi r
    torch.testing.assert_close(waves, expected, **CLOSE)


def test_encoder_takes_waves_of_the_rays_but_not_of_the_mask():
    encoder = InputEncoder(7, (4, 8), 1, 5, normalise=False, octaves=2)
    inputs = torch.randn(2, 7, 6, 6, generator=generator(0))
    seen: list[Tensor] = []
    encoder.conv1.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    encoder(inputs)
    assert torch.equal(seen[0], torch.cat([inputs, ray_waves(inputs[:, 1:], 2)], dim=1))
    assert seen[0].shape[1] == 7 + 2 * 2 * 6


def test_waves_lower_what_the_condition_adds_at_the_start():
    built = []
    for octaves in (0, 1):
        torch.manual_seed(0)
        built.append(
            InputEncoder(7, (256, 256), 1, 256, normalise=False, octaves=octaves).conv_out.weight.detach().std()
        )
    assert float(built[1] / built[0]) == pytest.approx(WAVES_START, rel=0.02)


@pytest.mark.parametrize("gain", [1.0, 2.0])
def test_queries_start_at_their_gain_and_keys_at_one(gain: float):
    norms = dict(load_unet(None, {**SMALL, "query_gain": gain}).named_parameters())
    queries = [weight for name, weight in norms.items() if name.endswith("norm_q.weight")]
    keys = [weight for name, weight in norms.items() if name.endswith("norm_k.weight")]
    assert len(queries) == len(keys) > 0
    assert all((weight == gain).all() for weight in queries)
    assert all((weight == 1).all() for weight in keys)


@pytest.mark.parametrize("stride", [3, 8])
def test_encoder_refuses_strides_that_it_cannot_make(stride: int):
    with pytest.raises(ValueError, match=f"stride {stride} is no power of two with fewer halvings than the 3 stages"):
        InputEncoder(7, (4, 8, 8), stride, 5)


# --- which views see each other --------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", range(16))
def test_attention_by_hand(unet: MultiViewUNet, index: int):
    # plain softmax over the tokens that may be seen; LayerNorm on each head's queries and keys
    module, views = attention(unet, index), 3
    heads, width = module.heads, module.inner_dim // module.heads
    x = torch.randn(2 * views, 4, module.inner_dim, generator=generator(index))
    sets = x if index in PER_VIEW else rearrange(x, "(b f) l c -> b (f l) c", f=views)

    def split(projected: Tensor) -> Tensor:
        return rearrange(projected, "b n (heads d) -> b heads n d", heads=heads)

    def norm(tokens: Tensor, layer: nn.LayerNorm) -> Tensor:
        centred = tokens - tokens.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * layer.weight + layer.bias

    q, k, v = (split(project(sets)) for project in (module.to_q, module.to_k, module.to_v))
    weights = (norm(q, module.norm_q) @ norm(k, module.norm_k).mT / math.sqrt(width)).softmax(-1)
    expected = module.to_out[0](rearrange(weights @ v, "b heads n d -> b n (heads d)"))
    assert q.shape[-1] == 8
    with torch.no_grad():
        got = module(x, views=views)
        torch.testing.assert_close(got, expected.reshape(got.shape), **CLOSE)


def test_a_changed_view_reaches_the_others_below_the_first_level_only(unet: MultiViewUNet):
    inputs = draw(f=2)
    changed = {**inputs, "latents": inputs["latents"].clone()}
    changed["latents"][:, 0] += 1
    before, after = traced(unet, inputs), traced(unet, changed)
    other = [not torch.equal(before[index][1], after[index][1]) for index in range(13)]
    assert other == [False] * 2 + [True] * 11  # later layers read what the earlier ones mixed
    for index in range(16):
        assert not torch.equal(before[index][0], after[index][0])
    assert (unet(**inputs)[:, 1] - unet(**changed)[:, 1]).abs().max() > 1e-3


@torch.no_grad()
def traced(unet: MultiViewUNet, inputs: dict[str, Tensor]) -> list[Float[Tensor, "f n c"]]:
    found: list[Tensor] = []
    handles = [
        attention(unet, index).register_forward_hook(lambda _module, _args, output: found.append(output.clone()))
        for index in range(16)
    ]
    unet(**inputs)
    for handle in handles:
        handle.remove()
    return found


@torch.no_grad()
def test_views_are_equivariant(unet: MultiViewUNet):
    inputs, order = draw(f=4, n_ref=1), [0, 3, 1, 2]
    moved = {**inputs, "latents": inputs["latents"][:, order], "inputs": inputs["inputs"][:, order]}
    expected = unet(**inputs)
    torch.testing.assert_close(unet(**moved), expected[:, order], **CLOSE)
    swapped = {**inputs, "inputs": inputs["inputs"][:, order]}  # the rays alone: then it is another question
    assert (unet(**swapped) - expected[:, order]).abs().max() > 1e-2


@torch.no_grad()
def test_scenes_of_a_batch_do_not_meet(unet: MultiViewUNet):
    inputs = draw(b=3, f=2)
    together = unet(**inputs)
    for index in range(3):
        alone = {name: value[index : index + 1] for name, value in inputs.items()}
        torch.testing.assert_close(unet(**alone), together[index : index + 1], **CLOSE)


# --- what enters -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_mask_rays_and_domain_count_for_nothing_at_the_start():
    fresh = make(trained=False)
    inputs = draw()
    expected = fresh(**inputs)
    for change in ({"inputs": draw(seed=1)["inputs"]}, {"domain": (inputs["domain"] + 1) % len(DOMAINS)}):
        torch.testing.assert_close(fresh(**{**inputs, **change}), expected, rtol=0, atol=0)
    assert not fresh.class_embedding.weight.any()
    assert not fresh.add_conv_in.conv_out.weight.any()
    assert not fresh.add_conv_in.conv_out.bias.any()


@torch.no_grad()
def test_mask_rays_domain_and_time_count_once_trained(unet: MultiViewUNet):
    inputs = draw()
    expected = unet(**inputs)
    changes = {"domain": (inputs["domain"] + 1) % len(DOMAINS), "t": inputs["t"] // 2}
    for channel in range(7):
        other = inputs["inputs"].clone()
        other[:, 1, channel] -= 1
        changes[f"inputs {channel}"] = other
    for name, value in changes.items():
        assert (unet(**{**inputs, name.split()[0]: value}) - expected).abs().max() > 1e-4, name


@torch.no_grad()
def test_encoded_inputs_are_added_after_the_first_convolution_once(unet: MultiViewUNet):
    inputs = draw(b=2)
    seen: list[Tensor] = []
    first = unet.down_blocks[0].resnets[0]
    handle = first.register_forward_pre_hook(lambda _module, args: seen.append(args[0].clone()))
    unet(**inputs)
    unet(**inputs)
    handle.remove()
    flat = {name: inputs[name].flatten(0, 1) for name in ("latents", "inputs")}
    expected = F.conv2d(flat["latents"], unet.conv_in.weight, unet.conv_in.bias, padding=1)
    expected = expected + unet.add_conv_in(flat["inputs"])
    for states in seen:  # the second call adds it once, too
        torch.testing.assert_close(states, expected, **CLOSE)
    assert len(seen) == 2
    assert not unet.conv_in._forward_hooks


@pytest.mark.parametrize("clean_references", [False, True])
@torch.no_grad()
def test_timesteps_of_the_views(clean_references: bool):
    unet = make(clean_references=clean_references)
    inputs = draw(b=2, f=3, n_ref=1)
    seen: list[Tensor] = []
    unet.time_proj.register_forward_pre_hook(lambda _module, args: seen.append(args[0].clone()))
    unet(**inputs)
    unet(**{**inputs, "t": inputs["t"].float()})
    expected = inputs["t"][:, None].repeat(1, 3)
    if clean_references:
        expected[:, 0] = 0
    for times in seen:
        torch.testing.assert_close(times.reshape(2, 3).long(), expected, rtol=0, atol=0)


def test_a_broken_forward_leaves_no_hook(unet: MultiViewUNet):
    inputs = draw()
    with pytest.raises(Exception, match=r"."):
        unet(**{**inputs, "domain": torch.tensor([len(DOMAINS)])})
    assert not unet.conv_in._forward_hooks


@pytest.mark.parametrize("shape", [(8, 8), (16, 8), (8, 16), (32, 32)])
def test_inputs_of_another_resolution_are_refused(unet: MultiViewUNet, shape: tuple[int, int]):
    inputs = {**draw(), "inputs": torch.zeros(1, 3, 7, *shape)}
    with pytest.raises(ValueError, match=r"pixels for latents of \(8, 8\); expected 2 times the latents' size"):
        unet(**inputs)


@torch.no_grad()
def test_probe_inputs_fit(unet: MultiViewUNet):
    assert unet.probe_inputs(2)["latents"].shape == (1, 2, 3, 8, 8)
    assert unet.probe_inputs(3, 2)["latents"].shape == (1, 3, 3, 16, 16)
    assert unet.probe_inputs(3, 2)["inputs"].shape == (1, 3, 7, 32, 32)
    assert unet(**unet.probe_inputs(2, 1)).shape == (1, 2, 3, 8, 8)


# --- training --------------------------------------------------------------------------------------------------------


def test_gradient_checkpointing_gives_the_same_gradients(unet: MultiViewUNet):
    inputs = draw(b=1, f=2)
    plain = gradients(unet, inputs)
    checkpointed = make()
    checkpointed.enable_gradient_checkpointing()
    blocks = [module for module in checkpointed.modules() if getattr(module, "gradient_checkpointing", False)]
    assert blocks
    again = gradients(checkpointed.train(), inputs)
    assert plain.keys() == again.keys() == dict(unet.named_parameters()).keys()
    for name, gradient in plain.items():
        assert gradient.isfinite().all()
        torch.testing.assert_close(again[name], gradient, rtol=1e-5, atol=1e-6, msg=name)


def gradients(unet: MultiViewUNet, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    unet.zero_grad()
    unet(**inputs).square().mean().backward()
    found = {name: p.grad.clone() for name, p in unet.named_parameters() if p.grad is not None}
    unet.zero_grad()
    return found


def test_every_weight_learns_but_the_encoder_behind_its_zero():
    fresh = make(trained=False)
    still = {name for name, gradient in gradients(fresh, draw()).items() if not gradient.any()}
    behind = {name for name, _ in fresh.named_parameters() if name.startswith("add_conv_in.conv") and "out" not in name}
    assert behind <= still
    # a constant added to all keys, or to all queries of keys that sum to zero, moves no softmax
    assert {name for name in still - behind if ".norm_k.bias" not in name and ".to_k." not in name} <= {
        "time_proj.weight"
    }


# --- files -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_saved_and_loaded_is_equal_bit_for_bit(unet: MultiViewUNet, tmp_path: Path):
    unet.save_pretrained(tmp_path)
    loaded = load_folder(tmp_path).eval()
    assert_equal(loaded.state_dict(), unet.state_dict())
    assert torch.equal(loaded(**draw()), unet(**draw()))
    theirs = MultiViewUNet.from_pretrained(tmp_path)
    assert_equal(theirs.state_dict(), unet.state_dict())
    torch.testing.assert_close(theirs(**draw()), unet(**draw()), rtol=1e-5, atol=1e-5)  # mapped memory sums otherwise
    stored = json.loads((tmp_path / "config.json").read_text())
    kept = settings_of(stored)
    assert kept.keys() == SETTINGS
    assert {name: tuple(kept[name]) if isinstance(kept[name], list) else kept[name] for name in SMALL} == SMALL
    assert "cross_attention_dim" in stored  # diffusers stores its own settings beside ours
    assert "cross_attention_dim" not in kept


@pytest.mark.slow
def test_load_unet_takes_files_and_state_dicts_and_copies(unet: MultiViewUNet, tmp_path: Path):
    weights = unet.state_dict()
    save_file(weights, tmp_path / "weights.safetensors")
    for source in (weights, tmp_path / "weights.safetensors", str(tmp_path / "weights.safetensors")):
        loaded = load_unet(source, SMALL)
        assert_equal(loaded.state_dict(), weights)
        assert all(weight.data_ptr() != weights[name].data_ptr() for name, weight in loaded.state_dict().items())
    assert load_file(tmp_path / "weights.safetensors").keys() == weights.keys()


def test_random_weights_follow_the_global_seed():
    first, second, other = (make(seed=seed, trained=False).conv_in.weight for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_unknown_settings_are_refused():
    with pytest.raises(ValueError, match=r"unknown settings \['depth', 'widths'\]; known ones are \['attention_head"):
        load_unet(None, {**SMALL, "widths": 3, "depth": 1})


def test_misfitting_weights_are_refused(unet: MultiViewUNet):
    weights = unet.state_dict()
    with pytest.raises(
        ValueError, match=r"the state dict does not fit .*: 1 weights missing \['conv_in.bias'\], 0 left"
    ):
        load_unet({name: w for name, w in weights.items() if name != "conv_in.bias"}, SMALL)
    with pytest.raises(ValueError, match=r"0 weights missing \[\], 2 left over \['a', 'b'\], 0 of another shape"):
        load_unet({**weights, "a": torch.zeros(1), "b": torch.zeros(1)}, SMALL)
    with pytest.raises(
        ValueError, match=r"0 left over \[\], 1 of another shape \['conv_in.weight \(1,\) for \(8, 3, 3, 3\)'\]"
    ):
        load_unet({**weights, "conv_in.weight": torch.zeros(1)}, SMALL)


def test_refused_weights_leave_the_model(unet: MultiViewUNet):
    fresh = make(seed=5)
    before = {name: weight.clone() for name, weight in fresh.state_dict().items()}
    with pytest.raises(ValueError, match="here does not fit"):
        fill(fresh, {**unet.state_dict(), "more": torch.zeros(1)}, origin="here")
    assert_equal(fresh.state_dict(), before)


@pytest.mark.parametrize("content", [b"", b"not safetensors", b"\xff" * 64])
def test_corrupt_files_are_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"read_weights: .*weights.safetensors cannot be read as weights"):
        load_unet(path, SMALL)


def test_a_cut_file_and_a_missing_one_are_refused(unet: MultiViewUNet, tmp_path: Path):
    path = tmp_path / "weights.safetensors"
    save_file(unet.state_dict(), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="cannot be read as weights"):
        load_unet(path, SMALL)
    with pytest.raises(ValueError, match=r"none.safetensors' does not exist; give a file, a folder, or a hub id"):
        load_unet(tmp_path / "none.safetensors", SMALL)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("n_ref", [1, 2])
def test_the_last_block_can_leave_references_out_and_nothing_changes_for_targets(
    n_ref: int, memory_format: torch.memory_format
):
    unet = make().to(memory_format=memory_format)
    inputs = {name: x.repeat(2, *[1] * (x.ndim - 1)) for name, x in unet.probe_inputs(3).items()}
    inputs |= {name: torch.randn(inputs[name].shape, generator=generator(5)) for name in ("latents", "inputs")}
    predicted, gradients = [], []
    for count in (0, n_ref):
        with targets_only(unet, count):
            predicted.append(unet(**inputs))
        unet.zero_grad()
        predicted[-1][:, n_ref:].square().sum().backward()
        gradients.append([weight.grad.clone() for weight in unet.parameters() if weight.grad is not None])
    assert predicted[1][:, :n_ref].abs().max() == 0
    torch.testing.assert_close(predicted[1][:, n_ref:], predicted[0][:, n_ref:], **CLOSE)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-3)
    assert unet.left_out == 0
    torch.testing.assert_close(unet(**inputs), predicted[0], rtol=0, atol=0)


def test_other_networks_compute_all_views_where_references_are_left_out():
    network = nn.Linear(2, 2)
    with targets_only(network, 1):
        assert not hasattr(network, "left_out")
