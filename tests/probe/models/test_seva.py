import copy
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from einops import rearrange
from safetensors.torch import load_file, save_file
from small_seva import SMALL, make_network, save_small
from standin_packages import heard, standins
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend

from probe.capture import AttentionTap
from probe.layers import find_layers
from probe.measure.model import in_own_precision
from probe.models import load_model, randomised
from probe.models.model import model_layers, predict, prediction_target, to_device
from probe.models.parts.files import Loading
from probe.models.seva import SevaModel, camera_rays, load_clip, noise_schedule
from probe.views import Views

JOINT = {12: "middle_block.1"} | dict(zip((14, 16, 18, 20, 22, 24), [f"output_blocks.{n}.1" for n in range(3, 9)]))  # noqa: B905
ATTENTION = ".transformer_blocks.0.attn1"


@pytest.fixture(scope="module", autouse=True)
def package() -> Iterator[None]:
    with standins():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, package: None) -> Path:
    return save_small(tmp_path_factory.mktemp("small") / "release")


def load(folder: Path, size: int | None = 64, **loading: Any) -> SevaModel:
    model = load_model(f"seva:{folder}", Loading(base=str(folder), size=size, **loading))
    assert isinstance(model, SevaModel)
    return model


@pytest.fixture(scope="module")
def model(folder: Path) -> SevaModel:
    return load(folder)


def cameras(b: int, f: int, seed: int) -> Tensor:
    """Rigid world_to_cam by random rotations and places."""
    g = torch.Generator().manual_seed(seed)
    rotation, upper = torch.linalg.qr(torch.randn(b, f, 3, 3, generator=g, dtype=torch.float64))
    rotation = rotation * upper.diagonal(dim1=-2, dim2=-1).sign()[..., None, :]
    rotation = rotation * torch.linalg.det(rotation)[..., None, None]
    full = torch.eye(4, dtype=torch.float64).repeat(b, f, 1, 1)
    full[..., :3, :3] = rotation
    full[..., :3, 3] = torch.randn(b, f, 3, generator=g, dtype=torch.float64) * 3
    return full.float()


def scene(b: int = 1, f: int = 3, *, n_ref: int = 1, size: int = 64, seed: int = 0) -> Views:
    g = torch.Generator().manual_seed(seed)
    k = torch.eye(3).repeat(b, f, 1, 1)
    k[..., 0, 0], k[..., 1, 1], k[..., 0, 2], k[..., 1, 2] = 0.9 * size, 1.1 * size, 0.45 * size, 0.55 * size
    return Views(
        image=torch.rand(b, f, 3, size, size, generator=g), intrinsics=k, world_to_cam=cameras(b, f, seed),
        point_map=torch.zeros(b, f, 3, size, size), valid=torch.ones(b, f, size, size, dtype=torch.bool), n_ref=n_ref,
    )  # fmt: skip


# --- layers ----------------------------------------------------------------------------------------------------------


def test_seven_of_thirty_two_layers_join_the_views(model: SevaModel):
    layers = model_layers(model)
    numbered = [layer for layer in layers if layer.index is not None]
    assert [layer.index for layer in numbered] == list(range(32))
    joint = [layer for layer in numbered if layer.kind == "3d"]
    assert {layer.index: layer.name for layer in joint} == {n: name + ATTENTION for n, name in JOINT.items()}
    assert [layer.grid for layer in joint] == [(1, 1)] + [(2, 2)] * 3 + [(4, 4)] * 3
    assert all(layer.prefix == layer.suffix == layer.per_view_prefix == 0 for layer in joint)
    kinds = [layer.kind for layer in numbered]
    assert (kinds.count("view"), kinds.count("temporal")) == (9, 16)
    assert [layer.kind for layer in layers].count("cross") == 32
    assert numbered[model.default_layer].name == "output_blocks.6.1" + ATTENTION
    assert find_layers(model.network) == layers  # also by indexes of a bare network


@pytest.mark.slow
def test_native_grids_are_36_18_and_9(folder: Path):
    native = load(folder, size=None, outline=True)
    assert native.size == 576
    assert all(parameter.is_meta for parameter in native.network.parameters())
    grids = {layer.index: layer.grid for layer in model_layers(native) if layer.kind == "3d"}
    assert grids == {n: (9, 9) if n == 12 else (18, 18) if n < 20 else (36, 36) for n in JOINT}


def test_full_size_settings_are_the_packages_own(folder: Path, tmp_path: Path):
    from seva.model import Seva, SevaParams

    with torch.device("meta"):
        weights = Seva(SevaParams()).state_dict()
    names = {
        "input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight": (320, 320),
        "middle_block.1.time_mix_blocks.0.ff_in.net.0.proj.weight": (10240, 1280),
        "output_blocks.3.0.dense_emb_layers.0.weight": (5120, 6, 1, 1),
        "input_blocks.0.0.weight": (320, 11, 3, 3),
        "output_blocks.8.2.conv.weight": (640, 640, 3, 3),
        "input_blocks.3.0.op.bias": (320,),
        "output_blocks.11.1.transformer_blocks.0.attn2.to_k.weight": (320, 1024),
    }
    assert {name: tuple(weights[name].shape) for name in names} == names
    small = {"input_blocks.0.0.weight": torch.zeros(320, 11, 3, 3)}
    save_file(small, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=f"does not fit SevaNetwork: {len(weights) - 1} weights missing"):
        load_model(f"seva:{tmp_path}", Loading(base=str(folder)))


def test_taps_see_attention_that_forces_the_flash_kernel(model: SevaModel):
    views, name = scene(f=2), "output_blocks.6.1" + ATTENTION
    latents = torch.randn(1, 2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    inputs, t = model.condition(views), torch.tensor([400])
    seen: list[Tensor] = []
    layer = model.network.get_submodule(name)
    handle = layer.register_forward_pre_hook(lambda _module, args: seen.append(args[0].clone()))
    expected = model.denoise(latents, t, inputs)
    handle.remove()
    with AttentionTap(model.network, "", keep="detached") as tap:
        assert torch.equal(model.denoise(latents, t, inputs), expected)
    assert len(tap.calls) == 64
    call = tap[name]
    assert call.q.shape == (1, layer.heads, 2 * 16, 16)
    for got, project in ((call.q, layer.to_q), (call.k, layer.to_k), (call.v, layer.to_v)):
        torch.testing.assert_close(got, rearrange(project(seen[0]), "b n (heads d) -> b heads n d", heads=layer.heads))
    with AttentionTap(model.network, name, edit=lambda call, run: run(call.q, call.k.flip(2), call.v)):
        assert not torch.equal(model.denoise(latents, t, inputs), expected)


def test_the_flash_kernel_stays_the_first_choice_and_others_step_in(model: SevaModel, monkeypatch: pytest.MonkeyPatch):
    from seva import model as package

    own, asked = package.sdpa_kernel, []
    assert torch.nn.attention.sdpa_kernel is own
    recorded = lambda backends, **_: asked.append(backends) or own(backends)  # noqa: E731
    recorded.__module__ = "torch.nn.attention"
    monkeypatch.setattr(torch.nn.attention, "sdpa_kernel", recorded)
    monkeypatch.setattr(package, "sdpa_kernel", recorded)
    model.network(**model.network.probe_inputs(2))
    backends = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    assert asked == [backends] * 64
    assert package.sdpa_kernel is recorded  # as it was, after the forward


@pytest.mark.filterwarnings("ignore:Flash attention:UserWarning")
def test_values_that_the_flash_kernel_refuses_are_attended_to_all_the_same(model: SevaModel):
    network = model.fresh(0)
    from seva import model as package

    asked = torch.zeros(1, 1, 4, 8), torch.zeros(1, 1, 4, 8), torch.zeros(1, 1, 4, 12)
    with package.sdpa_kernel(SDPBackend.FLASH_ATTENTION), pytest.raises(RuntimeError, match="No available kernel"):
        F.scaled_dot_product_attention(*asked)

    def odd(module: nn.Module, args: Any, output: Tensor) -> None:
        with package.sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            assert F.scaled_dot_product_attention(*asked).shape == (1, 1, 4, 12)

    network.middle_block.register_forward_hook(odd)
    network(**network.probe_inputs(2))


# --- what enters -----------------------------------------------------------------------------------------------------


def rays_by_hand(views: Views, latents: int) -> Tensor:
    """The release's steps, one view and one latent after the other."""
    b, f = views.image.shape[:2]
    found = torch.zeros(b, f, 6, latents, latents, dtype=torch.float64)
    for s in range(b):
        cam_to_world = [torch.linalg.inv(w.double()) for w in views.world_to_cam[s]]
        mean = sum(c[:3, 3] for c in cam_to_world) / f
        for c in cam_to_world:
            c[:3, 3] -= mean
        factor = 2.0 / cam_to_world[0][:3, 3].norm()
        for c in cam_to_world:
            c[:3, 3] *= factor
        for v in range(f):
            relative = (
                torch.linalg.inv(cam_to_world[v]) @ cam_to_world[0]
            )  # from the first camera's frame to this one's
            k = views.intrinsics[s, v].double().clone()
            k[:2] /= views.image.shape[-1]  # normalised
            k[:2] *= latents
            back = torch.linalg.inv(relative)
            for y in range(latents):
                for x in range(latents):
                    local = torch.linalg.inv(k) @ torch.tensor([x + 0.5, y + 0.5, 1.0], dtype=torch.float64)
                    d = back[:3, :3] @ local
                    d = d / d.norm()
                    found[s, v, :, y, x] = torch.cat([d, torch.linalg.cross(back[:3, 3], d)])
    return found.float()


def test_rays_are_the_releases(model: SevaModel):
    views = scene(b=2, f=3, seed=5)
    inputs = model.condition(views)
    torch.testing.assert_close(inputs["rays"], rays_by_hand(views, 8), rtol=1e-4, atol=1e-4)
    first = inputs["rays"][:, 0]
    assert first[:, 3:].abs().max() < 1e-5  # the first camera is the origin
    assert first[0, 2].min() > 0  # and looks along +z


def test_lengths_do_not_matter_and_a_first_camera_in_the_middle_is_allowed():
    views = scene(f=3, seed=2)
    wide = views.world_to_cam.clone()
    wide[..., :3, 3] *= 7
    rays = [camera_rays(views.intrinsics, w, (64, 64), (8, 8)) for w in (views.world_to_cam, wide)]
    torch.testing.assert_close(*rays, rtol=1e-4, atol=1e-4)
    middle = torch.eye(4).repeat(1, 3, 1, 1)
    middle[:, 1:, 0, 3] = torch.tensor([1.0, -1.0])
    moment = camera_rays(views.intrinsics, middle, (64, 64), (8, 8))[0, 1]
    centre = torch.tensor([-2.0, 0.0, 0.0])  # then the factor is 2
    torch.testing.assert_close(moment[3:, 3, 4], torch.linalg.cross(centre, moment[:3, 3, 4]))


def test_mask_is_one_in_input_views(model: SevaModel):
    inputs = model.condition(scene(b=2, f=4, n_ref=2))
    assert inputs["mask"].shape == (2, 4, 1, 8, 8)
    assert inputs["mask"][:, :2].eq(1).all()
    assert inputs["mask"][:, 2:].eq(0).all()
    assert inputs["context"].shape == (2, 1, SMALL["context_dim"])
    assert not inputs["context"].any()


def test_blanked_scenes_see_what_the_unconditional_branch_sees(model: SevaModel):
    views = scene(b=2)
    blank, full = model.condition(views, torch.tensor([0.0, 1.0])), model.condition(views)
    assert not blank["mask"][0].any()
    assert torch.equal(blank["mask"][1], full["mask"][1])
    assert torch.equal(blank["rays"], full["rays"])


def test_the_network_is_called_as_the_release_does(model: SevaModel):
    # seva/sampling.py: input = noisy * (1 - mask) + clean * mask; network(input * c_in, index, ...)
    views = scene(b=2, f=3, n_ref=1)
    clean, noise = model.encode(views.image), torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    t = torch.tensor([100, 700])
    beta = torch.linspace(5e-6**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    plain = (1 - beta).cumprod(0)
    sigma = (((1 - plain) / plain).sqrt() * math.exp(2.4))[t].float()[:, None, None, None, None]
    state = clean + sigma * noise
    state[:, 0] = clean[:, 0]
    with heard(model.network) as given:
        predict(model, views, t, noise)
    x = rearrange(given["x"], "(b f) c h w -> b f c h w", f=3)
    torch.testing.assert_close(x[:, :, :4], state / (sigma**2 + 1).sqrt(), rtol=1e-4, atol=1e-4)
    inputs = model.condition(views)
    assert torch.equal(x[:, :, 4:5], inputs["mask"])
    assert torch.equal(x[:, :, 5:], inputs["rays"])
    assert torch.equal(rearrange(given["dense_y"], "(b f) c h w -> b f c h w", f=3), inputs["rays"])
    assert given["t"].tolist() == [100] * 3 + [700] * 3
    assert given["num_frames"] == 3
    assert given["y"].shape == (6, 1, SMALL["context_dim"])
    assert prediction_target(model, clean, noise, model.alpha_bar[t]) is noise


def test_noise_schedule_is_the_closed_form():
    # 1 / (1 + sigma^2), sigma^2 = (1 - a) / a * e^4.8, a = prod (1 - beta): a slow loop
    level, checked = 1.0, {}
    for n in range(1000):
        root = 5e-6**0.5 + (0.012**0.5 - 5e-6**0.5) * n / 999
        level *= 1 - root**2
        checked[n] = level / (level + (1 - level) * math.exp(4.8))
    got = noise_schedule()
    torch.testing.assert_close(got, torch.tensor([checked[n] for n in range(1000)], dtype=torch.float32))
    assert got.dtype == torch.float32
    assert (got.diff() < 0).all()


def test_image_token_is_the_mean_embedding_of_the_references(model: SevaModel):
    class Colours(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return image.mean((-2, -1)).repeat(1, 8)

    seeing, views = replace(model, clip=Colours()), scene(b=2, f=4, n_ref=2)
    expected = torch.stack([(views.image[s, 0] + views.image[s, 1]).mean((-2, -1)) / 2 for s in range(2)])
    torch.testing.assert_close(seeing.condition(views)["context"], expected.repeat(1, 8)[:, None])
    assert not seeing.condition(views, torch.zeros(2))["context"].any()
    assert not seeing.condition(replace(views, n_ref=0))["context"].any()


def test_open_clip_is_used_where_its_file_lies(model: SevaModel, tmp_path: Path):
    (tmp_path / "open_clip_pytorch_model.bin").write_bytes(b"weights")
    with pytest.raises(ValueError, match=r"pip install open_clip_torch, or move open_clip_pytorch_model\.bin away"):
        load_clip(tmp_path, Loading())
    asked: list[Any] = []

    class Clip(nn.Module):
        def encode_image(self, image: Tensor) -> Tensor:
            asked.append(image)
            return image.new_ones(len(image), 24)

    def create_model(name: str, pretrained: str) -> nn.Module:
        asked.append((name, Path(pretrained).name))
        return Clip()

    package = type(sys)("open_clip")
    package.create_model = create_model  # type: ignore[attr-defined]
    sys.modules["open_clip"] = package
    clip, said = load_clip(tmp_path, Loading())
    del sys.modules["open_clip"]
    seeing = replace(model, clip=clip)
    views = scene()
    white = replace(views, image=torch.ones_like(views.image))
    assert seeing.condition(white)["context"].eq(1).all()
    assert asked[0] == ("ViT-H-14", "open_clip_pytorch_model.bin")
    assert asked[1].shape == (1, 3, 224, 224)
    normal = [(1 - 0.48145466) / 0.26862954, (1 - 0.4578275) / 0.26130258, (1 - 0.40821073) / 0.27577711]
    torch.testing.assert_close(asked[1][0].mean((-2, -1)), torch.tensor(normal))
    assert said.startswith("mean OpenCLIP embedding of the references")


# --- loading ---------------------------------------------------------------------------------------------------------


def test_weights_are_the_files(model: SevaModel, folder: Path):
    stored, own = load_file(folder / "model.safetensors"), model.network.state_dict()
    assert own.keys() == stored.keys()
    assert all(torch.equal(own[name], stored[name]) for name in own)
    assert not any(parameter.requires_grad for parameter in model.network.parameters())
    assert not model.network.training
    assert (model.name, model.folder, model.prediction) == ("seva:release", folder, "epsilon")
    assert model.clean_references
    card = model.card or {}
    assert card["weights"] == "model.safetensors"
    assert str(card["image token"]).startswith("zeros: no OpenCLIP file")


@pytest.mark.slow
def test_the_newer_release_and_wrapped_names_are_taken(folder: Path, tmp_path: Path):
    weights = {f"module.{name}": weight for name, weight in make_network(seed=9).state_dict().items()}
    save_file(weights, tmp_path / "modelv1.1.safetensors")
    save_file({"nothing": torch.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "params.json").write_text(json.dumps(SMALL))
    model = load_model(f"seva:{tmp_path}", Loading(base=str(folder), size=64))
    own = model.network.state_dict()
    assert all(torch.equal(own[name.removeprefix("module.")], weight) for name, weight in weights.items())


def test_random_weights_are_drawn_by_seed(model: SevaModel):
    state = torch.get_rng_state()
    first, again, other = (randomised(model, seed).network.state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    name = "middle_block.1.proj_in.weight"
    assert torch.equal(first[name], again[name])
    assert not torch.equal(first[name], other[name])
    assert not torch.equal(first[name], model.network.state_dict()[name])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_precisions(model: SevaModel, dtype: torch.dtype):
    views, t = scene(b=1, f=2), torch.tensor([300])
    low = to_device(replace(model, network=copy.deepcopy(model.network)), torch.device("cpu"), dtype)
    noise = torch.randn(1, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = predict(model, views, t, noise)
    hook = low.network.register_forward_pre_hook(in_own_precision, with_kwargs=True)
    with hook, AttentionTap(low.network, "middle_block.1" + ATTENTION, keep="detached") as tap:
        got = predict(low, views, t, noise)
    call = tap["middle_block.1" + ATTENTION]
    assert call.compute_dtype == dtype
    limit = 0 if dtype == torch.float32 else 0.1 * expected.abs().max().item()
    assert (got.float() - expected).abs().max() <= limit


def test_missing_package_unknown_settings_and_sizes_are_refused(folder: Path, tmp_path: Path):
    with (
        standins(without=("seva", "seva.model")),
        pytest.raises(
            ValueError, match=r"package is not installed.*git clone https://github.com/Stability-AI.*pip install -e"
        ) as e,
    ):
        load(folder)
    assert "\n" not in str(e.value)
    with pytest.raises(ValueError, match=r"size of the views 100: expected a multiple of 64 .* native 576"):
        load(folder, size=100)
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    for text, message in (
        ('{"widths": 3}', r"params.json has settings that nothing can be built of \(TypeError: SevaParams.*'widths'"),
        ("[]", "holds no names with values"),
        ("{", "is not JSON"),
    ):
        (tmp_path / "params.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            load_model(f"seva:{tmp_path}", Loading(base=str(folder), size=64))
