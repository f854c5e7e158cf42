"""The release's conventions and files: cameras, schedule, masks, names of weights.

Source: docs/references.md, "CAT3D of the release: network".
"""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import Attention
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import save_file
from small_cat3d import (
    FILE,
    SMALL,
    heads_beside,
    make_unet,
    make_vae,
    save_checkpoint,
    save_small,
    wrapped,
)
from torch import Tensor

from probe.models import load_model
from probe.models.cat3d import (
    DOMAINS,
    SD21,
    Cat3d,
    camera_embedding,
    infer_settings,
    load_unet,
    noise_schedule,
    own_weights,
)
from probe.models.model import model_layers
from probe.models.parts import files
from probe.models.parts.files import Loading, read_weights, strip_prefixes
from probe.models.parts.latents import stride_of
from probe.models.parts.unet import JointViewProcessor, MultiViewUNet, ViewProcessor
from probe.scenes.shapes import draw_shapes, make_views
from probe.views import Views

SAME = {"rtol": 0, "atol": 0}


@pytest.fixture(scope="module")
def unet() -> MultiViewUNet:
    return make_unet()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small(tmp_path_factory.mktemp("release"))


@pytest.fixture(scope="module")
def model(saved: Path) -> Cat3d:
    found = load_model(f"cat3d:{saved / 'checkpoint-100'}", Loading(base=str(saved), size=64))
    assert isinstance(found, Cat3d)
    return found


def photograph(size: int = 64, n_ref: int = 1, f: int = 3) -> Views:
    g = torch.Generator().manual_seed(0)
    return make_views(draw_shapes(1, generator=g), 10 + 50 * torch.rand(1, f - 1, generator=g), size=size, n_ref=n_ref,
                      generator=g)  # fmt: skip


def assert_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name, weight in first.items() if not torch.equal(weight, second[name])] == []


# --- cameras ---------------------------------------------------------------------------------------------------------


def slow_cameras(intrinsics: np.ndarray, world_to_cam: np.ndarray, height: int, width: int, ref: int, norm: bool):
    """Loop over views and pixels, written from docs/references.md, "CAT3D of the release: camera embedding"."""
    odd = [np.linalg.inv(world_to_cam[ref]) @ camera for camera in world_to_cam]
    cam_to_world = [np.linalg.inv(camera) for camera in odd]
    largest = max(abs(matrix[axis, 3]) for matrix in cam_to_world for axis in range(3)) + 1e-8 if norm else 1.0
    out = np.zeros((len(odd), 6, height, width))
    for view, matrix in enumerate(cam_to_world):
        centre = matrix[:3, 3] / largest
        for y in range(height):
            for x in range(width):
                ray = matrix[:3, :3] @ np.linalg.inv(intrinsics[view]) @ np.array([x - 0.5, y + 0.5, 1])
                ray = ray / np.sqrt((ray**2).sum())
                out[view, :, y, x] = [*ray, *np.cross(centre, ray)]
    return out


def cameras(seed: int, f: int = 3) -> tuple[Tensor, Tensor]:
    """Cameras that have nothing in common: turned, shifted far, of different focal lengths and centres."""
    g = torch.Generator().manual_seed(seed)
    turned = torch.linalg.qr(torch.randn(2, f, 3, 3, generator=g, dtype=torch.float64))[0]
    turned = turned * torch.linalg.det(turned)[..., None, None].sign()
    world_to_cam = torch.eye(4, dtype=torch.float64).repeat(2, f, 1, 1)
    world_to_cam[..., :3, :3], world_to_cam[..., :3, 3] = turned, 3 * torch.randn(2, f, 3, generator=g).double()
    intrinsics = torch.eye(3, dtype=torch.float64).repeat(2, f, 1, 1)
    intrinsics[..., 0, 0], intrinsics[..., 1, 1] = 4 + torch.rand(2, 2, f, generator=g).double()
    intrinsics[..., :2, 2] = 2 + torch.rand(2, f, 2, generator=g).double()
    return intrinsics, world_to_cam


@pytest.mark.parametrize(("reference", "normalise"), [(-1, True), (0, False)], ids=["CAMEO", "MVGenMaster"])
def test_camera_embedding_is_the_releases_pixel_by_pixel(reference: int, normalise: bool):
    intrinsics, world_to_cam = cameras(0)
    options: dict[str, Any] = {} if normalise else {"reference": reference, "normalise": normalise}
    found = camera_embedding(intrinsics, world_to_cam, 4, 5, **options)
    for scene in range(2):
        k, e = intrinsics[scene].numpy(), world_to_cam[scene].numpy()
        expected = torch.from_numpy(slow_cameras(k, e, 4, 5, reference, normalise))
        torch.testing.assert_close(found[scene], expected, rtol=1e-9, atol=1e-9)


def test_camera_embedding_oddities_by_hand():
    world_to_cam = torch.eye(4, dtype=torch.float64).repeat(1, 2, 1, 1)
    world_to_cam[0, 0, :3, 3] = torch.tensor([3.0, -4.0, 0.0])
    rays = camera_embedding(torch.eye(3, dtype=torch.float64).repeat(1, 2, 1, 1), world_to_cam, 1, 1)[0, :, :, 0, 0]
    ray = torch.tensor([-0.5, 0.5, 1], dtype=torch.float64) / 1.5**0.5  # x - 0.5, y + 0.5
    torch.testing.assert_close(rays[:, :3], ray.expand(2, 3))
    centre = torch.tensor([-0.75, 1, 0], dtype=torch.float64)  # divided by 4, the largest coordinate, not by 5
    torch.testing.assert_close(rays[0, 3:], torch.linalg.cross(centre, ray))
    torch.testing.assert_close(rays[1, 3:], torch.zeros(3, dtype=torch.float64))  # the last view is the origin


def test_noise_schedule_has_the_values_of_the_release():
    found = noise_schedule()
    values = {0: 0.998302, 100: 0.798840, 250: 0.452210, 500: 0.074763, 750: 0.002711}
    assert {t: round(found[t].item(), 6) for t in values} == values
    assert found[999] == 0
    assert found[981].item() == pytest.approx(1e-6, rel=0.3)


def test_samples_are_drawn_at_the_releases_timesteps(model: Cat3d):
    assert torch.equal(model.alpha_bar, noise_schedule())
    assert (model.prediction, model.spacing) == ("v_prediction", "leading")


# --- conditioning ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_ref", [1, 2])
def test_condition_is_mask_then_cameras(model: Cat3d, n_ref: int):
    views = photograph(n_ref=n_ref)
    conditioning = model.condition(views)
    inputs = conditioning["inputs"]
    assert inputs[0, :, 0].unique(dim=0).shape[0] == 2
    assert [inputs[0, view, 0].unique().tolist() for view in range(3)] == [[0.0]] * n_ref + [[1.0]] * (3 - n_ref)
    rays = camera_embedding(views.intrinsics, views.world_to_cam, 64, 64)
    assert torch.equal(inputs[:, :, 1:], rays)
    assert conditioning["domain"].tolist() == [2]
    assert DOMAINS == ("re10k", "co3d", "others")
    blank = model.condition(views, torch.zeros(1))["inputs"]
    assert not blank[:, :, 1:].any()
    assert torch.equal(blank[:, :, 0], inputs[:, :, 0])
    assert torch.equal(model.condition(views, torch.ones(1))["inputs"], inputs)


def test_latents_are_the_scaled_mean_and_come_back(model: Cat3d):
    image = photograph().image
    latents = model.encode(image)
    assert latents.shape == (1, 3, 4, 8, 8)
    assert model.latent_shape(1, 3) == latents.shape
    assert torch.equal(latents, model.encode(image))  # no draw
    for view in range(3):
        mean = model.vae.encode(image[:, view] * 2 - 1).latent_dist.mean
        torch.testing.assert_close(latents[:, view], mean * 0.18215, rtol=1e-5, atol=1e-6)
        colours = (model.vae.decode(latents[:, view] / 0.18215).sample / 2 + 0.5).clamp(0, 1)
        torch.testing.assert_close(model.decode(latents)[:, view], colours, rtol=1e-5, atol=1e-5)
    assert model.decode(latents).shape == image.shape


@pytest.mark.parametrize("size", [64, 192])
def test_layers_have_the_grids_of_the_size_that_is_shown(saved: Path, size: int):
    layers = model_layers(load_model(f"cat3d:{saved / 'checkpoint-100'}", Loading(base=str(saved), size=size)))
    joint = {layer.index: layer.grid for layer in layers if layer.kind == "3d"}
    side = size // 64
    assert list(joint) == list(range(2, 13))
    assert (joint[2], joint[4], joint[6], joint[10]) == tuple((n * side, n * side) for n in (4, 2, 1, 4))


def test_sizes_between_tokens_and_foreign_autoencoders_are_refused(saved: Path, tmp_path: Path):
    spec = f"cat3d:{saved / 'checkpoint-100'}"
    for size in (32, 100):
        with pytest.raises(
            ValueError, match=rf"size of the views {size}: expected a multiple of 64 pixels, such as the native 512"
        ):
            load_model(spec, Loading(base=str(saved), size=size))
    make_vae(levels=3).save_pretrained(tmp_path / "vae")
    with pytest.raises(
        ValueError, match=r"has 4 pixels per latent and 4 channels, the network wants 8 and 4; give the folder"
    ):
        load_model(spec, Loading(base=str(tmp_path)))
    assert stride_of(make_vae(levels=3)) == 4


# --- files -----------------------------------------------------------------------------------------------------------


Save = Callable[[dict[str, Tensor], Path], Path]


def as_torch(name: str, *wrappings: str) -> Save:
    def save(weights: dict[str, Tensor], folder: Path) -> Path:
        content: dict[str, Any] = weights
        for wrapping in wrappings:
            content = {wrapping: content, "epoch": 3}
        torch.save(content, folder / name)
        return folder / name

    return save


def as_safetensors(weights: dict[str, Tensor], folder: Path) -> Path:
    save_file(weights, folder / "model.safetensors")
    return folder / "model.safetensors"


def as_shards(weights: dict[str, Tensor], folder: Path) -> Path:
    names, stem = sorted(weights), "diffusion_pytorch_model"
    parts = {f"{stem}-0000{n + 1}-of-00002.safetensors": names[n::2] for n in range(2)}
    for part, own in parts.items():
        save_file({name: weights[name] for name in own}, folder / part)
    where = {name: part for part, own in parts.items() for name in own}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return folder


def as_deepspeed(weights: dict[str, Tensor], folder: Path) -> Path:
    save_checkpoint(folder, weights)
    return folder


def as_ema(weights: dict[str, Tensor], folder: Path) -> Path:
    torch.save(weights, folder / "ema_unet.pt")
    return folder


FORMS = {
    "pt": as_torch("a.pt"), "bin": as_torch("a.bin"), "module": as_torch("a.pt", "module"),
    "lightning": as_torch("a.ckpt", "state_dict"), "nested": as_torch("a.pt", "state_dict", "module"),
    "safetensors": as_safetensors, "shards": as_shards, "deepspeed": as_deepspeed, "ema": as_ema,
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("prefix", ["", "unet.", "module.", "module.unet."])
def test_every_form_and_prefix_gives_the_same_network(unet: MultiViewUNet, tmp_path: Path, form: str, prefix: str):
    beside = heads_beside() if prefix.endswith("unet.") else {}
    beside = {f"module.{name}": weight for name, weight in beside.items()} if "module" in prefix else beside
    path = FORMS[form](wrapped(unet, prefix) | beside, tmp_path)
    assert_equal(load_unet(path, SMALL).state_dict(), unet.state_dict())


def test_the_command_line_loads_deepspeeds_file_and_diffusers_folder(unet: MultiViewUNet, saved: Path, tmp_path: Path):
    unet.save_pretrained(tmp_path / "diffusers")
    specs = (saved / "checkpoint-100", saved / "checkpoint-100" / FILE, tmp_path / "diffusers")
    for path in specs:
        model = load_model(f"cat3d:{path}", Loading(base=str(saved)))
        assert_equal(model.network.state_dict(), unet.state_dict())
        assert (model.name, model.size, model.stride) == (f"cat3d:{path.name}", 512, 8)
        assert model.clean_views(photograph()) == 1
        assert not model.network.config.clean_references  # references have the scene's timestep


def test_half_precision_stays_until_it_is_placed(unet: MultiViewUNet, tmp_path: Path):
    save_checkpoint(tmp_path, wrapped(unet), bf16=True)
    loaded = load_unet(tmp_path, SMALL).state_dict()
    assert {weight.dtype for weight in loaded.values()} == {torch.bfloat16}
    assert_equal(loaded, {name: weight.bfloat16() for name, weight in unet.state_dict().items()})


def test_safetensors_are_read_bit_for_bit_and_aligned(tmp_path: Path):
    weights = {"a": torch.randn(3), "b": torch.randn(7, 5).bfloat16(), "c": torch.arange(5)}
    save_file(weights, tmp_path / "odd.safetensors", metadata={"odd": "x" * 5})
    found = read_weights(tmp_path / "odd.safetensors")
    assert_equal(found, weights)
    assert [weight.data_ptr() % 64 for weight in found.values()] == [0] * 3


@pytest.mark.parametrize("name", ["unet.more.weight", "unet_other_head.10.weight", "vae.conv_in.weight"])
def test_weights_that_fit_nothing_are_refused(unet: MultiViewUNet, tmp_path: Path, name: str):
    path = save_checkpoint(tmp_path, wrapped(unet) | heads_beside() | {name: torch.zeros(1)})
    left = name.removeprefix("unet.")
    with pytest.raises(
        ValueError, match=rf"does not fit MultiViewUNet: 0 weights missing \[\], 1 left over \['{left}'"
    ):
        load_unet(path, SMALL)


def test_strip_prefixes_known():
    weights = {name: torch.zeros(1) for name in ("module.unet.a", "module.unet.module.b", "module.head.c", "module.d")}
    found = strip_prefixes(weights, ("module.", "unet."), others=("head.",))
    assert sorted(found) == ["a", "b", "d"]


class Code:
    """Runs when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise AssertionError('code of the file ran')",)


def test_files_with_code_are_refused(tmp_path: Path):
    for name, write in (("a.pt", lambda path: torch.save({"module": Code()}, path)), ("b.pt", plain_pickle)):
        write(tmp_path / name)
        with pytest.raises(ValueError, match=rf"read_weights: .*{name} cannot be read as weights") as caught:
            read_weights(tmp_path / name)
        assert "\n" not in str(caught.value)


def plain_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"module": Code()}, protocol=2))


@pytest.mark.parametrize("content", [{}, {"module": {"a": 3}}, [torch.zeros(1)], {"step": 3, "a": torch.zeros(1)}])
def test_files_without_weights_are_refused(tmp_path: Path, content: Any):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="holds no weights by name, expected a state dict, alone or under"):
        read_weights(tmp_path / "a.pt")


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/secret.safetensors", "sub/x.safetensors"])
def test_an_index_reads_no_file_outside_its_folder(tmp_path: Path, name: str):
    index = tmp_path / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ValueError, match="names files outside its folder"):
        read_weights(index)


def test_what_is_not_there_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def offline(*_args: Any, **_options: Any) -> str:
        raise LocalEntryNotFoundError("no network\nsecond line")

    monkeypatch.setattr(files, "snapshot_download", offline)
    expected = {
        "cat3d:nobody/nothing": r"'nobody/nothing' is no file here and cannot be fetched from the hub \(LocalEntryNot",
        "cat3d:nothing": "'nothing' does not exist; give a file, a folder, or a hub id such as owner/name",
        f"cat3d:{tmp_path}": "holds no checkpoint: none of diffusion_pytorch_model.safetensors, ",
    }
    for spec, message in expected.items():
        with pytest.raises(ValueError, match=message) as caught:
            load_model(spec)
        assert "\n" not in str(caught.value)


# --- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"block_out_channels": (64, 96), "attention_head_dim": (2, 3)},
        {"block_out_channels": (320, 352, 384), "attention_head_dim": (5, 11, 6)}
        | {"encoder_channels": (8,), "encoder_stride": 1},
        {"block_out_channels": (32, 64, 64), "attention_head_dim": 4, "layers_per_block": 1, "num_class_embeds": 5},
        {"in_channels": 3, "out_channels": 6, "encoder_channels": (4, 8), "encoder_stride": 2},
        SD21,
    ],
    ids=["small", "two levels", "320 first", "uniform heads", "channels", "full"],
)  # fmt: skip
def test_sizes_are_read_off_the_weights(changes: dict[str, Any]):
    config = {**SMALL, **changes}
    with torch.device("meta"):
        unet = load_unet(None, config)
        read = infer_settings(unet.state_dict())
        again = load_unet(None, read)
    shapes = {name: weight.shape for name, weight in unet.state_dict().items()}
    assert {name: weight.shape for name, weight in again.state_dict().items()} == shapes
    heads = [module.heads for module in unet.modules() if isinstance(module, Attention)]
    assert [module.heads for module in again.modules() if isinstance(module, Attention)] == heads
    assert [type(x) for x in again.attn_processors.values()] == [type(x) for x in unet.attn_processors.values()]
    for name in ("encoder_stride", "layers_per_block"):
        assert again.config[name] == unet.config[name]


@pytest.mark.parametrize(("changes", "joint", "within"), [
    (SD21, {640, 1280}, {320}),
    ({**SMALL, "block_out_channels": (320, 320, 640), "attention_head_dim": (5, 5, 10)}, {640}, {320}),
], ids=["full", "320 twice"])  # fmt: skip
def test_attentions_of_320_channels_stay_within_views_at_any_level(
    changes: dict[str, Any], joint: set[int], within: set[int]
):
    with torch.device("meta"):
        unet = load_unet(None, changes)
    attentions = [module for module in unet.modules() if isinstance(module, Attention)]
    assert {x.inner_dim for x in attentions if isinstance(x.processor, JointViewProcessor)} == joint
    assert {x.inner_dim for x in attentions if isinstance(x.processor, ViewProcessor)} == within


def test_other_weights_have_no_such_sizes(unet: MultiViewUNet):
    weights = {name: weight for name, weight in own_weights(unet.state_dict()).items() if "norm_q" not in name}
    with pytest.raises(ValueError, match=r"no weight is named 'down_blocks.0.*norm_q.weight'; expected the release's"):
        infer_settings(weights)
