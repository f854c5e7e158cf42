"""Video models that are told cameras: the network against diffusers' without cameras, and cameras by slow loops."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_camera_videos as small
import small_videos
import torch
from torch import Tensor

from probe.measure.model import in_own_precision
from probe.models import load_model, randomised
from probe.models.model import conditioning, model_layers, predict, to_device
from probe.models.parts.files import Loading
from probe.models.video.camera_network import CameraWanTransformer
from probe.models.video.model import IMAGE, TARGETS
from probe.models.video.recammaster import ReCamMaster, places_in_time, target_poses
from probe.models.video.wan_camera import CAMERAS, WanCamera, packed_rays
from probe.scenes import Request, open_scenes
from probe.scenes.shapes import draw_shapes, make_views
from probe.views import IMAGE_PLANE, Views

SIDE = 32
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
T = torch.tensor([500])
NAMES = ("wan-camera", "recammaster")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("cameras")
    for name in NAMES:
        (home / name).mkdir()
    return {name: small.save_small(name, home / name) for name in NAMES}


def load(name: str, folder: Path, **changes: Any) -> Any:
    return load_model(f"{name}:{folder}", Loading(**{"base": str(folder / "base"), "size": SIDE, **changes}))


def photograph(views: int = 3, n_ref: int = 1) -> Views:
    g, turns = torch.Generator().manual_seed(0), torch.tensor([[20.0, 40.0, 60.0, 80.0][: views - 1]])
    return make_views(draw_shapes(1, generator=g), turns, size=SIDE, n_ref=n_ref, generator=g)


def film(**changes: Any) -> Views:
    request = Request(**{"groups": 1, "views": 3, "n_ref": 1, "size": SIDE, "frames_per_view": 4, **changes})
    return open_scenes("shapes:moving", request).load(0)[0]


def noise_of(model: Any, views: Views) -> Tensor:
    return torch.randn(model.latent_shape(1, views.count), generator=torch.Generator().manual_seed(1))


# --- the network -----------------------------------------------------------------------------------------------------

DIFFUSERS = (
    (r"^(time|text)_embedding\.(\d)", lambda m: f"condition_embedder.{m[1]}_embedder.linear_{int(m[2]) // 2 + 1}"),
    (r"^time_projection\.1", "condition_embedder.time_proj"),
    (r"^img_emb\.proj\.0", "condition_embedder.image_embedder.norm1"),
    (r"^img_emb\.proj\.1", "condition_embedder.image_embedder.ff.net.0.proj"),
    (r"^img_emb\.proj\.3", "condition_embedder.image_embedder.ff.net.2"),
    (r"^img_emb\.proj\.4", "condition_embedder.image_embedder.norm2"),
    (r"\.norm_k_img\.", ".norm_added_k."),
    (r"\.([kv])_img\.", r".add_\1_proj."),
    (r"_attn\.([qkv])\.", r"_attn.to_\1."),
    (r"_attn\.o\.", "_attn.to_out.0."),
    (r"\.self_attn", ".attn1"),
    (r"\.cross_attn", ".attn2"),
    (r"\.norm3\.", ".norm2."),
    (r"\.ffn\.0", ".ffn.net.0.proj"),
    (r"\.ffn\.2", ".ffn.net.2"),
    (r"^head\.modulation", "scale_shift_table"),
    (r"\.modulation", ".scale_shift_table"),
    (r"^head\.head", "proj_out"),
)


def stock(network: CameraWanTransformer) -> Any:
    """diffusers' network with the same weights, without cameras."""
    config = network.config
    image = {"image_dim": config.image_dim, "added_kv_proj_dim": config.image_dim and config.dim}
    other = small_videos.wan_transformer(in_channels=config.in_channels, **image).eval()
    weights = {}
    for name, weight in network.state_dict().items():
        if not re.search("control_adapter|cam_encoder|projector", name):
            for pattern, new in DIFFUSERS:
                name = re.sub(pattern, new, name)
            weights[name] = weight
    other.load_state_dict(weights)
    return other


def without_cameras(network: CameraWanTransformer) -> CameraWanTransformer:
    for name, weight in network.named_parameters():
        if re.search("control_adapter|cam_encoder|projector", name):
            weight.data.zero_()
        if name.endswith("projector.weight"):
            weight.data.copy_(torch.eye(len(weight)))
    return network


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("per_token", [False, True])
@torch.no_grad()
def test_without_cameras_the_network_is_that_of_diffusers(name: str, per_token: bool):
    network, g = without_cameras(small.network(name)), torch.Generator().manual_seed(0)
    x = torch.randn(2, network.config.in_channels, 3, 4, 6, generator=g)
    text, t = torch.randn(2, 512, 8, generator=g), torch.tensor([[300.0], [700.0]])
    image = torch.randn(2, 257, 8, generator=g) if name == "wan-camera" else None
    t = t * torch.rand(2, 18, generator=g) if per_token else t[:, 0]
    cameras = (
        torch.randn(2, 3, 12, generator=g) if name == "recammaster" else torch.randn(2, 3, 24, 32, 48, generator=g)
    )
    ours = network(x, t, text, torch.arange(3), cameras, image)[0]
    theirs = stock(network)(x, t, text, image, return_dict=False)[0]
    torch.testing.assert_close(ours, theirs, **CLOSE)
    assert theirs.abs().max() > 0.1


@torch.no_grad()
def test_rays_reach_the_tokens_that_look_along_them():
    adapter, g = small.network("wan-camera").control_adapter, torch.Generator().manual_seed(0)
    for part in (adapter.residual_blocks[0].conv1, adapter.residual_blocks[0].conv2):
        part.weight.zero_(), part.bias.zero_()  # leaves the strided convolution: each token sees its own 16 x 16 pixels
    rays = torch.randn(1, 2, small.RAYS, 48, 32, generator=g)
    before, moved = adapter(rays), rays.clone()
    moved[0, 1, 5, 17, 30] += 1
    changed = (adapter(moved) - before).abs().amax(1)[0]
    assert changed.shape == (2, 3, 2)
    assert changed.nonzero().tolist() == [[1, 1, 1]]
    # the weight of channel 5 at pixel (17, 30): row 1 and column 6 of the 8 x 8 block (0, 1) of the token (1, 1)
    expected = adapter.conv.weight[:, 5 * 64 + 1 * 8 + 6, 0, 1]
    torch.testing.assert_close((adapter(moved) - before)[0, :, 1, 1, 1], expected, **CLOSE)


@torch.no_grad()
def test_poses_enter_every_block_at_the_tokens_of_their_frame():
    network, g = small.network("recammaster"), torch.Generator().manual_seed(0)
    block, x = network.blocks[0], torch.randn(1, 12, 24, generator=g)
    shared = {"text": torch.randn(1, 5, 24, generator=g), "image": None, "times": torch.randn(1, 1, 6, 24, generator=g)}
    poses, angles, seen = torch.randn(1, 3, 12, generator=g), torch.zeros(12, 6), []
    hook = block.self_attn.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    for told in (torch.zeros_like(poses), poses):
        block(x, **shared, angles=angles, poses=told)
    hook.remove()
    expected = (poses @ block.cam_encoder.weight.T).repeat_interleave(4, dim=1)
    torch.testing.assert_close(seen[1] - seen[0], expected, **CLOSE)


# --- cameras as the authors give them --------------------------------------------------------------------------------


def slow_ray(frames: Views, frame: int, row: int, column: int) -> np.ndarray:
    """Moment and direction of a pixel's ray, in the first frame's camera."""
    first, own = (frames.world_to_cam[0, k].double().numpy() for k in (0, frame))
    to_first = first @ np.linalg.inv(own)
    k = frames.intrinsics[0, frame].double().numpy()
    d = to_first[:3, :3] @ [(column + 0.5 - k[0, 2]) / k[0, 0], (row + 0.5 - k[1, 2]) / k[1, 1], 1]
    d /= np.linalg.norm(d)
    return np.concatenate([np.cross(to_first[:3, 3], d), d])


@pytest.mark.parametrize("moving", [False, True])
def test_rays_are_packed_four_to_a_latent_frame(moving: bool):
    views = film() if moving else photograph()
    rays = packed_rays(views)
    assert rays.shape == (1, 3, 24, SIDE, SIDE)
    # the frames of each latent frame: of a clip the first four times, then 1 to 4 and 5 to 8; of still clips each alone
    groups = [(0, 0, 0, 0), (1, 2, 3, 4), (5, 6, 7, 8)] if moving else [(k,) * 4 for k in range(3)]
    for latent, group in enumerate(groups):
        for place, frame in enumerate(group):
            for row, column in ((0, 0), (7, 30), (31, 12)):
                ray = slow_ray(views.clip if moving else views, frame, row, column)
                found = rays[0, latent, place::4, row, column]  # numbers of a ray are four channels apart
                torch.testing.assert_close(found.double(), torch.from_numpy(ray), **CLOSE)


def test_poses_are_those_of_the_targets_in_the_first_sources_camera():
    views = photograph(views=5, n_ref=2)
    poses = target_poses(views)
    for target in range(3):
        relative = views.world_to_cam[0, 0].double() @ views.world_to_cam[0, 2 + target].double().inverse()
        torch.testing.assert_close(poses[0, 2 + target].double(), relative[:3].flatten(), **CLOSE)
    assert torch.equal(poses[:, :2], poses[:, 2:4])  # a source is told the pose of the target of its number
    same = replace(views, world_to_cam=views.world_to_cam[:, :1].expand(-1, 5, -1, -1))
    torch.testing.assert_close(target_poses(same)[0, 2], torch.eye(4)[:3].flatten(), **CLOSE)


def test_targets_stand_before_their_source_in_time():
    assert places_in_time(torch.tensor([0.0, 0, 1, 1, 1])).tolist() == [3, 4, 0, 1, 2]
    assert places_in_time(torch.ones(3)).tolist() == [0, 1, 2]


@torch.no_grad()
def test_the_order_of_frames_is_that_of_the_release_up_to_their_names(folders: dict[str, Path]):
    model, views = load("recammaster", folders["recammaster"]), photograph(views=4, n_ref=2)
    latents, inputs = noise_of(model, views), model.condition(views)
    ours = model.denoise(latents, T, inputs)
    turned = [2, 3, 0, 1]  # targets, then the source
    poses = inputs[CAMERAS][:, 2:].repeat(1, 2, 1)  # as the release repeats them
    arguments = model.network_inputs(latents, T, inputs)
    arguments |= {"hidden_states": arguments["hidden_states"][:, :, turned], "cameras": poses}
    theirs = model.network(**arguments | {"places": torch.arange(4)})[0]
    torch.testing.assert_close(ours[:, turned], theirs.transpose(1, 2), **CLOSE)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_other_cameras_change_the_prediction(name: str, folders: dict[str, Path]):
    model, views = load(name, folders[name]), photograph(views=4, n_ref=2)
    other = replace(views, world_to_cam=views.world_to_cam.flip(1))
    before, after = (predict(model, x, T, noise_of(model, views)) for x in (views, other))
    assert not torch.allclose(before, after, atol=1e-4)
    everywhere = views.world_to_cam @ torch.tensor([[0.0, -1, 0, 3], [1, 0, 0, -2], [0, 0, 1, 5], [0, 0, 0, 1]])
    moved = conditioning(model, replace(views, world_to_cam=everywhere))[CAMERAS]
    torch.testing.assert_close(moved, conditioning(model, views)[CAMERAS], rtol=1e-4, atol=1e-4)
    assert not model.condition(views, torch.zeros(1))[CAMERAS].any()
    assert torch.equal(model.condition(views, torch.ones(1))[CAMERAS], model.condition(views)[CAMERAS])


# --- references ------------------------------------------------------------------------------------------------------


def test_references_of_2_1_are_latents_beside_zeros(folders: dict[str, Path]):
    model = load("wan-camera", folders["wan-camera"])
    assert isinstance(model, WanCamera)
    for views in (photograph(n_ref=2), film(n_ref=2)):
        image, latents = model.condition(views)[IMAGE], model.encode_views(views)
        assert torch.equal(image[:, :2], latents[:, :2])
        assert not image[:, 2:].any()
    assert (model.references, model.clean_references, model.packs) == ("channels", False, 4)


def test_references_of_2_2_are_a_mask_and_latents(tmp_path: Path):
    z = small.LATENTS
    model, views = load("wan-camera", small.save_small("wan-camera", tmp_path, in_channels=2 * z + 4)), photograph()
    image, encoded = model.condition(views)[IMAGE], model.encode(views.image)
    assert image.shape[2] == z + 4
    assert image[0, :, :4].mean((1, 2, 3)).tolist() == [1, 0, 0]
    torch.testing.assert_close(image[:, :1, 4:], encoded[:, :1], **CLOSE)
    grey = model.encode(torch.full_like(views.image, 0.5))
    torch.testing.assert_close(image[:, 1:, 4:], grey[:, 1:], **CLOSE)


def coarse_base(folder: Path) -> None:
    """As Wan2.2-TI2V-5B's: 16 pixels a latent, pixels in twos joined first."""
    pipeline = small_videos.build("wan")
    pipeline.register_modules(
        vae=small_videos.wan_vae(patch_size=2, in_channels=12, out_channels=12, scale_factor_spatial=16)
    )
    pipeline.save_pretrained(folder)


@torch.no_grad()
def test_references_of_5b_are_clean_at_time_zero(tmp_path: Path):
    changes = {"in_channels": 2 * small.LATENTS + 4, "ray_scale": 16, "image_dim": None}
    folder = small.save_small("wan-camera", tmp_path, **changes)
    coarse_base(tmp_path / "coarse")
    model, views = load("wan-camera", folder, base=str(tmp_path / "coarse")), photograph()
    assert (model.stride, model.references, model.clean_references) == (16, "clean", True)
    arguments = model.network_inputs(noise_of(model, views), torch.tensor([999]), model.condition(views))
    assert arguments["timestep"].tolist() == [[0.0, 1000.0, 1000.0]]
    assert predict(model, views, T, noise_of(model, views)).isfinite().all()
    assert load("wan-camera", folder, base=str(tmp_path / "coarse"), size=None).size == 704


@torch.no_grad()
def test_the_source_of_recammaster_is_clean_at_the_targets_time(folders: dict[str, Path]):
    model, views = load("recammaster", folders["recammaster"]), photograph(views=4, n_ref=2)
    assert isinstance(model, ReCamMaster)
    seen = []
    hook = model.network.register_forward_pre_hook(lambda _, __, kwargs: seen.append(kwargs), with_kwargs=True)
    predict(model, views, T, noise_of(model, views))
    hook.remove()
    latents, encoded = seen[0]["hidden_states"].transpose(1, 2), model.encode(views.image)
    assert torch.equal(latents[:, :2], encoded[:, :2])
    assert not torch.allclose(latents[:, 2:], encoded[:, 2:], atol=0.1)
    assert seen[0]["timestep"].shape == (1,)
    assert model.condition(views)[TARGETS].tolist() == [[0, 0, 1, 1]]


# --- weights and refusals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_weights_keep_their_published_names(name: str, folders: dict[str, Path]):
    model, expected = load(name, folders[name]), small.network(name)
    assert all(torch.equal(value, expected.state_dict()[key]) for key, value in model.network.state_dict().items())
    assert model.network.config.num_heads == small.HEADS
    assert [layer.name for layer in model_layers(model) if layer.kind == "3d"] == [
        f"blocks.{n}.self_attn" for n in range(2)
    ]
    assert model.alpha_bar.shape == (1000,)
    assert model.flow_time(torch.tensor([499])) == pytest.approx(1000 * 5 * 0.5 / (1 + 4 * 0.5), rel=1e-5)  # shift 5


def test_without_settings_a_head_has_128_channels(tmp_path: Path):
    folder = small.save_small("recammaster", tmp_path, dim=128, num_heads=1, num_layers=1)
    (folder / "config.json").unlink()
    assert load("recammaster", folder / "step20000.ckpt", base=str(folder / "base")).network.config.num_heads == 1


def test_the_high_noise_network_of_two_is_taken_and_its_range_said(folders: dict[str, Path], tmp_path: Path):
    (tmp_path / "high_noise_model").mkdir()
    small.save_small("wan-camera", tmp_path / "high_noise_model")
    with pytest.warns(UserWarning, match=r"where sigma is 0.9 or more, timesteps 642 to 999; .* is not loaded"):
        model = load("wan-camera", tmp_path, base=str(folders["wan-camera"] / "base"))
    assert model.flow_time(torch.tensor([642])) >= 900 > model.flow_time(torch.tensor([641]))


def test_weights_of_something_else_are_refused(folders: dict[str, Path], tmp_path: Path):
    bases = {name: str(folders[name] / "base") for name in NAMES}
    rays, poses = (
        folders["wan-camera"] / "diffusion_pytorch_model.safetensors",
        folders["recammaster"] / "step20000.ckpt",
    )
    with pytest.raises(
        ValueError, match=r"ckpt is no Wan-Fun-Camera in Wan's own names: expected control_adapter\.conv"
    ):
        load("wan-camera", poses, base=bases["wan-camera"])
    with pytest.raises(ValueError, match=r"is no ReCamMaster in Wan's own names: expected blocks\.0\.cam_encoder"):
        load("recammaster", rays, base=bases["recammaster"])
    with pytest.raises(ValueError, match=r"no Wan-Fun-Camera .* for a folder of diffusers without cameras, wan"):
        load("wan-camera", folders["wan-camera"] / "base" / "transformer", base=bases["wan-camera"])
    coarse_base(tmp_path / "coarse")
    message = r"takes 8 channels and rays of 8 pixels a latent; .* \(4 channels, 16 pixels\) asks for 8 or 12, and 16"
    with pytest.raises(ValueError, match=message):
        load("wan-camera", rays, base=str(tmp_path / "coarse"))
    (tmp_path / "wide").mkdir()
    wide = small.save_small("recammaster", tmp_path / "wide", in_channels=9)
    with pytest.raises(ValueError, match="takes 9 channels, and the autoencoder of --base has 4"):
        load("recammaster", wide)


@pytest.mark.parametrize("n_ref", [0, 2])
def test_sources_without_a_target_are_refused(folders: dict[str, Path], n_ref: int):
    with pytest.raises(ValueError, match=f"{n_ref} of 3 views are references, .* choose --n-ref 1, or more --views"):
        load("recammaster", folders["recammaster"]).condition(photograph(n_ref=n_ref))


def test_real_clips_are_refused_by_recammaster(folders: dict[str, Path]):
    model = load("recammaster", folders["recammaster"])
    with pytest.raises(ValueError, match=r"recammaster takes images alone, and each view has 4 frames"):
        model.encode_views(film())


def test_scenes_without_cameras_are_refused(folders: dict[str, Path]):
    for views in (photograph(), film()):
        bare = replace(views, unit=IMAGE_PLANE, names=("clip",))
        with pytest.raises(ValueError, match="is conditioned on cameras, which clip has not"):
            conditioning(load("wan-camera", folders["wan-camera"]), bare)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_random_weights_and_lower_precision_have_the_same_layers(name: str, folders: dict[str, Path]):
    model, views = load(name, folders[name]), photograph(views=4, n_ref=2)
    random = randomised(model, 3)
    assert model_layers(random) == model_layers(model)
    usual, layers = predict(model, views, T, noise_of(model, views)), model_layers(model)
    low = to_device(model, torch.device("cpu"), torch.bfloat16)  # the network itself
    assert model_layers(low) == layers
    with low.network.register_forward_pre_hook(in_own_precision, with_kwargs=True):
        predicted = predict(low, views, T, noise_of(low, views))
    assert (predicted.float() - usual).square().mean().sqrt() < 0.1 * usual.square().mean().sqrt()
