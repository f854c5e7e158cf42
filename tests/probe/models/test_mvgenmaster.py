import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float
from small_cat3d import SMALL, make_vae
from small_cat3d import make_unet as make_cat3d
from small_mvgenmaster import make_unet, save_small
from torch import Tensor, nn
from torch.nn import functional as F

from probe.models import load_model, randomised
from probe.models.cat3d import SD21
from probe.models.model import model_layers, predict, to_device
from probe.models.mvgenmaster import (
    COORDINATES,
    MvGenMaster,
    PriorUNet,
    contract,
    load_mvgenmaster,
    position_map,
    priors,
    reference_depth,
    shrink,
    splat,
    warp,
)
from probe.models.parts.encoders import PriorEncoder
from probe.models.parts.files import Loading
from probe.models.parts.unet import MultiViewUNet
from probe.scenes.shapes import draw_shapes, make_views
from probe.views import Views

SEEDS = st.integers(0, 2**31 - 1)
laws = settings(max_examples=15, deadline=None)
CLOSE = {"rtol": 1e-4, "atol": 2e-5}  # single precision through some 60 layers
SIDE = 64


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def photograph(n_ref: int = 2, *, f: int = 4, size: int = SIDE, seed: int = 0) -> Views:
    g = generator(seed)
    rotation = 10 + 50 * torch.rand(2, f - 1, generator=g)
    return make_views(draw_shapes(2, generator=g), rotation, size=size, n_ref=n_ref, generator=g)


def enlarged(views: Views, factor: float) -> Views:
    """The same scene in other units."""
    world_to_cam = views.world_to_cam.clone()
    world_to_cam[..., :3, 3] *= factor
    return replace(views, world_to_cam=world_to_cam, point_map=views.point_map * factor)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small(tmp_path_factory.mktemp("mvg") / "pretrained_model")


@pytest.fixture(scope="module")
def model(folder: Path) -> MvGenMaster:
    loaded = load_model(f"mvgenmaster:{folder}", Loading(base=str(folder), size=SIDE))
    assert isinstance(loaded, MvGenMaster)
    return loaded


# --- units and depth -------------------------------------------------------------------------------------------------


def cameras_at(*centres: tuple[float, float, float]) -> Float[Tensor, "1 f 4 4"]:
    """Cameras that look along z from the given places."""
    world_to_cam = torch.eye(4).repeat(1, len(centres), 1, 1)
    world_to_cam[0, :, :3, 3] = -torch.tensor(centres)
    return world_to_cam


@pytest.mark.parametrize(
    ("last", "factor"),
    [((4.0, 3.0, 0.0), 1.0), ((5.0, 5.0, 5.0), 1.0), ((1.0, -10.0, 6.0), 0.5), ((0.0, 0.0, 0.0), 1.0)],
)
def test_scenes_wider_than_five_units_are_shrunk(last: tuple[float, float, float], factor: float):
    world_to_cam = cameras_at((0.0, 0.0, 0.0), last)
    shrunk, found = shrink(world_to_cam)
    assert found.tolist() == [factor]
    torch.testing.assert_close(torch.linalg.inv(shrunk)[0, 1, :3, 3], factor * torch.tensor(last))
    assert torch.equal(shrunk[..., :3, :3], world_to_cam[..., :3, :3])


def test_extent_is_that_of_turned_cameras_centres():
    views = enlarged(photograph(), 7.0)
    centres = torch.linalg.inv(views.world_to_cam)[..., :3, 3]
    longest = (centres.max(1).values - centres.min(1).values).max(-1).values
    shrunk, factor = shrink(views.world_to_cam)
    torch.testing.assert_close(factor, 5 / longest)
    torch.testing.assert_close(torch.linalg.inv(shrunk)[..., :3, 3], centres * (5 / longest)[:, None, None], **CLOSE)


def test_contract_known():
    depth = torch.tensor([[1.0, 2.0, 1.0, 20.0, 0.0, 0.0, 0.0, 0.0]]).reshape(1, 1, 2, 4)
    # the lower median of 1, 1, 2, 20 is 1, so that 4 is far; 2 * 4 - 16 / 20
    assert contract(depth).flatten().tolist() == pytest.approx([1, 2, 1, 8 - 16 / 20, 0, 0, 0, 0])


def test_contract_goes_by_view_and_never_beyond_twice_the_bound():
    depth = torch.stack([torch.full((3, 3), 1.0), torch.full((3, 3), 10.0)])[None]
    depth[:, :, 0, 0] = 1e6
    found = contract(depth)
    assert found[0, :, 0, 0].tolist() == pytest.approx([8, 80], rel=1e-3)
    assert torch.equal(found[:, :, 1:], depth[:, :, 1:])


def test_a_view_without_depth_stays_without():
    assert not contract(torch.zeros(1, 2, 3, 3)).any()


# --- splatting -------------------------------------------------------------------------------------------------------


def slow_splat(points, known, values, intrinsics, world_to_cam, size):
    """Point by point, in the release's order."""
    height, width = size
    landed = values.new_zeros(*intrinsics.shape[:2], height * width, values.shape[-1])
    mask = torch.zeros(*intrinsics.shape[:2], height * width, dtype=torch.bool)
    for b in range(intrinsics.shape[0]):
        for t in range(intrinsics.shape[1]):
            nearest = [1e4] * (height * width)
            for r in range(points.shape[1]):
                before = list(nearest)
                for p in range(points.shape[2]):
                    local = world_to_cam[b, t, :3, :3] @ points[b, r, p] + world_to_cam[b, t, :3, 3]
                    x, y, z = (float(v) for v in intrinsics[b, t] @ local)
                    if not known[b, r, p] or z <= 0:
                        continue
                    column, row = round(x / (z + 1e-6)), round(y / (z + 1e-6))
                    if 0 <= column < width and 0 <= row < height and z < before[row * width + column]:
                        landed[b, t, row * width + column] = values[b, r, p]
                        mask[b, t, row * width + column] = True
                        nearest[row * width + column] = z
    return landed, mask


@laws
@given(seed=SEEDS, references=st.integers(0, 3), targets=st.integers(0, 2))
def test_splat_is_the_slow_loop(seed: int, references: int, targets: int):
    g, size = generator(seed), (3, 4)
    turned = torch.linalg.matrix_exp(0.2 * torch.randn(2, targets, 3, 3, generator=g).triu(1))
    world_to_cam = torch.eye(4).repeat(2, targets, 1, 1)
    world_to_cam[..., :3, :3] = turned
    world_to_cam[..., :3, 3] = 0.3 * torch.randn(2, targets, 3, generator=g)
    intrinsics = torch.tensor([[3.0, 0, 1.5], [0, 3.0, 1], [0, 0, 1]]).repeat(2, targets, 1, 1)
    points = torch.randn(2, references, 30, 3, generator=g) + torch.tensor([0.0, 0.0, 1.5])
    known = torch.rand(2, references, 30, generator=g) < 0.8
    values = torch.randn(2, references, 30, 2, generator=g)
    # in double precision, so that both round alike next to the border of two pixels
    points, values, intrinsics, world_to_cam = (x.double() for x in (points, values, intrinsics, world_to_cam))
    landed, hit = splat(points, known, values, intrinsics, world_to_cam, size)
    expected, mask = slow_splat(points, known, values, intrinsics, world_to_cam, size)
    assert torch.equal(hit, mask)
    assert torch.equal(landed, expected)


def test_splat_known_order():
    intrinsics, world_to_cam = torch.eye(3)[None, None], torch.eye(4)[None, None]
    rays = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 1.0], [2.0, 0.0, 1.0]])  # the pixels of one row
    depths = torch.tensor([[[2.0, 2.0, 2.0], [1.0, 3.0, 2.0]]])
    values = torch.tensor([[[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]]])[..., None]
    known = torch.ones(1, 2, 3, dtype=torch.bool)
    landed, hit = splat(depths[..., None] * rays, known, values, intrinsics, world_to_cam, (1, 3))
    assert landed.flatten().tolist() == [10.0, 2.0, 3.0]  # nearer wins over the earlier view, and only if nearer
    assert hit.all()
    # within one view the last one stays, although it is farther
    same = torch.tensor([[[[0.0, 0.0, 1.0], [0.0, 0.0, 5.0]]]])
    last, _ = splat(same, known[:, :1, :2], values[:, :1, :2], intrinsics, world_to_cam, (1, 3))
    assert last.flatten().tolist() == [2.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("x", "lands"), [(-0.6, None), (-0.5, 0), (0.4, 0), (0.6, 1), (1.4, 1), (2.4, 2), (2.6, None), (1e9, None)]
)
def test_splat_rounds_to_whole_coordinates(x: float, lands: int | None):
    point = torch.tensor([[[[x, 0.0, 1.0]]]])
    known, value = torch.ones(1, 1, 1, dtype=torch.bool), torch.ones(1, 1, 1, 1)
    _, hit = splat(point, known, value, torch.eye(3)[None, None], torch.eye(4)[None, None], (1, 3))
    assert hit.flatten().nonzero().flatten().tolist() == ([] if lands is None else [lands])


@pytest.mark.parametrize("z", [0.0, -1.0, 1e4, 2e4, -1e-6])
def test_points_behind_or_too_far_are_not_splatted(z: float):
    known, value = torch.ones(1, 1, 1, dtype=torch.bool), torch.ones(1, 1, 1, 1)
    point = torch.tensor([[[[0.0, 0.0, z]]]])
    landed, hit = splat(point, known, value, torch.eye(3)[None, None], torch.eye(4)[None, None], (1, 3))
    assert not hit.any()
    assert not landed.any()


def test_a_target_at_the_references_camera_sees_what_it_saw():
    views = photograph(1, f=2).reorder([0, 0, 1], 1)
    depth = reference_depth(views, torch.ones(2))
    colours = warp(depth, views.intrinsics, views.world_to_cam, views.image[:, :1])
    assert torch.equal(colours[:, 0, :3], views.image[:, 0] * views.valid[:, :1])
    assert torch.equal(colours[:, 1], colours[:, 0])
    assert torch.equal(colours[:, :2, 3] == 1, views.valid[:, :2])
    assert not torch.equal(colours[:, 2], colours[:, 0])


def test_warped_points_lie_where_the_target_sees_them():
    # depth of the middle of the shapes: points of references, seen by targets, are on their pixel's ray
    views = photograph(1, f=2)
    points = warp(reference_depth(views, torch.ones(2)), views.intrinsics, views.world_to_cam)
    hit = points[:, 1, 3] == 1
    assert hit.float().mean() > 0.2
    local = views.world_to_cam[:, 1, :3, :3] @ points[:, 1, :3].flatten(-2) + views.world_to_cam[:, 1, :3, 3:]
    seen = views.intrinsics[:, 1] @ local
    xy = (seen[:, :2] / seen[:, 2:]).unflatten(-1, (SIDE, SIDE))
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    assert ((xy[:, 0] - columns).abs()[hit] <= 0.5 + 1e-3).all()
    assert ((xy[:, 1] - rows).abs()[hit] <= 0.5 + 1e-3).all()


def test_reference_points_go_through_whole_coordinates_and_keep_their_depth():
    views = photograph(2)
    depth = reference_depth(views, torch.ones(2))
    points = warp(depth, views.intrinsics, views.world_to_cam)[:, 1, :3]
    for row, column in ((0, 0), (5, 60), (63, 31)):
        ray = torch.linalg.inv(views.intrinsics[:, 1]) @ torch.tensor([column, row, 1.0])
        local = ray * depth[:, 1, row, column, None]
        expected = torch.linalg.inv(views.world_to_cam[:, 1]) @ torch.cat([local, torch.ones(2, 1)], 1)[..., None]
        expected = expected[:, :3, 0] * (depth[:, 1, row, column, None] > 0)
        torch.testing.assert_close(points[..., row, column], expected, **CLOSE)


# --- positions -------------------------------------------------------------------------------------------------------


def test_position_map_by_hand():
    g = generator(3)
    points = torch.randn(1, 2, 3, 2, 2, generator=g)
    found = position_map(points, torch.ones(1, 2, 1, 2, 2))
    assert found.shape == (1, 2, 193, 2, 2)
    for view, row, column in ((0, 0, 0), (1, 1, 0)):
        xyz = [float(v) for v in points[0, view, :, row, column]]
        expected = []
        for k in range(32):
            frequency = math.exp(-math.log(10000) * 2 * k / 64)
            for value in xyz:
                # stretched by its own coordinates' least and greatest: the release's oddity
                angle = frequency * (value - min(xyz)) / (max(xyz) - min(xyz) + 1e-6)
                expected += [math.sin(angle), math.cos(angle)]
        assert found[0, view, :, row, column].tolist() == pytest.approx([*expected, 1.0], abs=1e-5)


def test_position_map_of_missing_points():
    points, known = torch.zeros(1, 2, 3, 2, 2), torch.zeros(1, 2, 1, 2, 2)
    points[0, 0, :, 0, 0], known[0, 0, :, 0, 0] = torch.tensor([1.0, 2.0, 3.0]), 1
    found = position_map(points, known)
    assert not found[0, 1].any()  # a view that knows no point
    elsewhere = found[0, 0, :, 1, 1]
    assert elsewhere[:-1].tolist() == [0.0, 1.0] * 96  # sine and cosine of the origin
    assert elsewhere[-1] == 0
    assert found[0, 0, -1, 0, 0] == 1


def test_coarse_points_are_those_of_the_first_pixel_of_each_block():
    views = photograph(2)
    _, coordinates = priors(views, 8)
    depth = reference_depth(views, torch.ones(2))
    full = warp(depth, views.intrinsics, views.world_to_cam)[:, :2, :, ::8, ::8]
    torch.testing.assert_close(coordinates[:, :2], position_map(full[:, :, :3], full[:, :, 3:]), rtol=0, atol=1e-3)


# --- conditioning ------------------------------------------------------------------------------------------------


def test_condition_is_mask_rays_colours_and_points(model: MvGenMaster):
    views = photograph(2)
    conditioning = model.condition(views)
    assert conditioning.keys() == {"inputs", "domain", "coordinates"}
    inputs = conditioning["inputs"]
    assert inputs.shape == (2, 4, 11, SIDE, SIDE)
    assert conditioning["coordinates"].shape == (2, 4, COORDINATES, 8, 8)
    assert conditioning["domain"].tolist() == [0, 0]
    assert (inputs[:, :2, 0] == 0).all()
    assert (inputs[:, 2:, 0] == 1).all()
    colours, coordinates = priors(views, 8)
    assert torch.equal(inputs[:, :, 7:], colours)
    assert torch.equal(conditioning["coordinates"], coordinates)
    seen = views.valid[:, :2, None].float()
    assert torch.equal(colours[:, :2], torch.cat([(views.image[:, :2] * 2 - 1) * seen, seen], dim=2))


def test_rays_are_the_releases_in_the_first_views_frame(model: MvGenMaster):
    views = enlarged(photograph(2), 4.0)
    rays = model.condition(views)["inputs"][:, :, 1:7]
    world_to_cam, _ = shrink(views.world_to_cam)
    assert not torch.equal(world_to_cam, views.world_to_cam)
    first = torch.linalg.inv(world_to_cam[:, 0])
    for view, x, y in ((0, 0, 0), (1, 5, 60), (3, 63, 2)):
        cam_to_world = torch.linalg.inv(first @ world_to_cam[:, view])  # on the release's side
        pixel = torch.tensor([x - 0.5, y + 0.5, 1.0])
        direction = F.normalize(
            (cam_to_world[:, :3, :3] @ torch.linalg.inv(views.intrinsics[:, view]) @ pixel[:, None])[..., 0], dim=-1
        )
        moment = torch.linalg.cross(cam_to_world[:, :3, 3], direction)
        torch.testing.assert_close(rays[:, view, :, y, x], torch.cat([direction, moment], -1), **CLOSE)


def test_units_of_large_scenes_do_not_matter(model: MvGenMaster):
    views = photograph(2)
    first, second = (model.condition(enlarged(views, factor)) for factor in (8.0, 32.0))
    differs = (first["inputs"] - second["inputs"]).abs().amax(2) > 1e-3
    assert differs.float().mean() < 1e-3  # a point on the border of two pixels may fall on either
    torch.testing.assert_close(first["coordinates"][:, :2], second["coordinates"][:, :2], rtol=0, atol=1e-3)


def test_blanked_cameras_blank_rays_colours_and_points_but_no_mask(model: MvGenMaster):
    views = photograph(2)
    full, blind = model.condition(views), model.condition(views, torch.tensor([0.0, 1.0]))
    assert not blind["inputs"][0, :, 1:].any()
    assert not blind["coordinates"][0].any()
    assert torch.equal(blind["inputs"][:, :, 0], full["inputs"][:, :, 0])
    assert torch.equal(blind["inputs"][1], full["inputs"][1])
    assert torch.equal(blind["coordinates"][1], full["coordinates"][1])


@pytest.mark.parametrize("n_ref", [0, 1, 4])
def test_any_number_of_references(model: MvGenMaster, n_ref: int):
    conditioning = model.condition(photograph(n_ref))
    assert all(value.isfinite().all() for value in conditioning.values())
    assert bool(conditioning["coordinates"].any()) is (n_ref > 0)


def test_without_depth_the_priors_are_zero(model: MvGenMaster):
    views = photograph(2)
    views = replace(views, valid=torch.zeros_like(views.valid), point_map=torch.full_like(views.point_map, torch.nan))
    conditioning = model.condition(views)
    assert not conditioning["inputs"][:, :, 7:].any()
    assert not conditioning["coordinates"].any()
    assert conditioning["inputs"].isfinite().all()


def test_targets_depth_and_colours_are_not_read(model: MvGenMaster):
    views = photograph(2)
    image, point_map = views.image.clone(), views.point_map.clone()
    image[:, 2:], point_map[:, 2:] = 0.5, torch.nan
    conditioning, other = model.condition(views), model.condition(replace(views, image=image, point_map=point_map))
    assert all(torch.equal(conditioning[name], other[name]) for name in conditioning)


# --- the network -----------------------------------------------------------------------------------------------------


def test_encoder_by_hand():
    encoder = PriorEncoder(11, 5, (8, 8, 16), 4, 6, normalise=True)
    nn.init.normal_(encoder.conv_out[3].weight)
    g = generator(0)
    inputs, coordinates = torch.randn(2, 11, 16, 16, generator=g), torch.randn(2, 5, 4, 4, generator=g)
    stages = inputs
    for number, stride in ((1, 1), (2, 2), (3, 2)):
        stage = encoder.get_submodule(f"conv{number}")
        stages = F.conv2d(stages, stage[0].weight, stage[0].bias, stride, 1)
        stages = F.silu(F.group_norm(stages, stages.shape[1] // 4, stage[1].weight, stage[1].bias, 1e-6))
    first, norm, _, last = encoder.conv_out
    joined = F.conv2d(torch.cat([stages, coordinates], 1), first.weight, first.bias, padding=1)
    joined = F.silu(F.group_norm(joined, 4, norm.weight, norm.bias, 1e-6))
    assert joined.shape[1] == 32
    torch.testing.assert_close(
        encoder(inputs, coordinates), F.conv2d(joined, last.weight, last.bias, padding=1), **CLOSE
    )


def test_full_size_names_and_shapes_are_those_of_the_release():
    with torch.device("meta"):
        ours, cat3d = PriorUNet(**SD21).state_dict(), MultiViewUNet(**SD21).state_dict()
        encoder = {name: tuple(w.shape) for name, w in ours.items() if name.startswith("add_conv_in.")}
    expected: dict[str, tuple[int, ...]] = {
        "add_conv_in.conv_out.0.weight": (512, 449, 3, 3),
        "add_conv_in.conv_out.3.weight": (320, 512, 3, 3),
        "add_conv_in.conv_out.3.bias": (320,),
        "add_conv_in.conv_out.1.weight": (512,),
        "add_conv_in.conv_out.0.bias": (512,),
        "add_conv_in.conv_out.1.bias": (512,),
    }
    for number, (before, after) in enumerate(((11, 32), (32, 64), (64, 128), (128, 256)), start=1):
        expected[f"add_conv_in.conv{number}.0.weight"] = (after, before, 3, 3)
        expected |= {f"add_conv_in.conv{number}.{part}": (after,) for part in ("0.bias", "1.weight", "1.bias")}
    assert encoder == expected
    with torch.device("meta"):
        assert PriorUNet(**SD21).add_conv_in.conv_out[1].num_groups == 64
    rest = {name: tuple(w.shape) for name, w in ours.items() if not name.startswith("add_conv_in.")}
    assert rest == {name: tuple(w.shape) for name, w in cat3d.items() if not name.startswith("add_conv_in.")}


def test_priors_count_for_nothing_at_the_start_and_for_something_once_trained():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fresh, trained = PriorUNet(**SMALL).eval(), make_unet()
    inputs = trained.probe_inputs(2, 1)
    moved = {**inputs, "coordinates": torch.randn_like(inputs["coordinates"])}
    with torch.no_grad():
        assert torch.equal(fresh(**inputs), fresh(**moved))
        assert (trained(**inputs) - trained(**moved)).abs().max() > 1e-4


def test_layers_are_those_of_cat3d_at_the_chosen_size(model: MvGenMaster):
    layers = model_layers(model)
    joint = {layer.index: layer.grid for layer in layers if layer.kind == "3d"}
    expected = {2: 4, 3: 4, 4: 2, 5: 2, 6: 1, 7: 2, 8: 2, 9: 2, 10: 4, 11: 4, 12: 4}
    assert joint == {index: (side, side) for index, side in expected.items()}
    assert layers[10].name == "up_blocks.2.attentions.0.transformer_blocks.0.attn1"
    assert [layer.index for layer in layers] == list(range(16))


@torch.no_grad()
def test_one_step_in_single_and_in_half_precision(model: MvGenMaster):
    views, noise = photograph(2), torch.randn(model.latent_shape(2, 4), generator=generator(1))
    full = predict(model, views, torch.tensor([500, 20]), noise)
    assert full.shape == (2, 4, 4, 8, 8)
    halved = to_device(replace(model, network=make_unet()), torch.device("cpu"), torch.bfloat16)
    conditioning = {name: x.bfloat16() if x.is_floating_point() else x for name, x in model.condition(views).items()}
    half = halved.denoise(model.encode(views.image).bfloat16(), torch.tensor([500, 20]), conditioning)
    assert half.dtype == torch.bfloat16
    whole = model.denoise(model.encode(views.image), torch.tensor([500, 20]), model.condition(views))
    assert (half.float() - whole).abs().mean() < 0.1 * whole.abs().mean()


@torch.no_grad()
def test_scenes_of_a_batch_do_not_meet(model: MvGenMaster):
    views, t = photograph(2), torch.tensor([400, 800])
    noise = torch.randn(model.latent_shape(2, 4), generator=generator(1))
    together = predict(model, views, t, noise)
    alone = predict(model, views.scene(1), t[1:], noise[1:])
    torch.testing.assert_close(together[1:], alone, **CLOSE)


def test_every_weight_of_the_encoder_learns(model: MvGenMaster):
    network = make_unet()
    trained = replace(model, network=network)
    predict(
        trained, photograph(2), torch.tensor([500, 500]), torch.randn(model.latent_shape(2, 4))
    ).square().mean().backward()
    still = [n for n, p in network.add_conv_in.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []


# --- files -----------------------------------------------------------------------------------------------------------


def assert_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name, weight in first.items() if not torch.equal(weight, second[name])] == []


def test_the_folder_of_the_hub_is_loaded(folder: Path, model: MvGenMaster):
    assert_equal(model.network.state_dict(), make_unet().state_dict())
    assert model.name == "mvgenmaster:pretrained_model"
    assert (model.size, model.stride, model.channels) == (SIDE, 8, 4)
    assert model.clean_references
    assert model.default_layer == 10
    names = torch.load(folder / "ema_unet.pt", weights_only=True).keys()
    assert not any(name.startswith(("unet.", "module.")) for name in names)
    assert not any(p.requires_grad for p in model.network.parameters())


def test_noise_is_that_of_the_release(model: MvGenMaster):
    found = model.alpha_bar[[0, 100, 250, 500, 999]].tolist()
    assert found == pytest.approx([0.998302, 0.798840, 0.452210, 0.074763, 0], abs=1e-6)
    assert (model.prediction, model.spacing) == ("v_prediction", "leading")


def test_the_trainers_checkpoint_is_loaded(tmp_path: Path):
    out = save_small(tmp_path / "checkpoint-100", deepspeed=True)
    loaded = load_mvgenmaster(str(out), Loading(base=str(out), size=SIDE))
    assert_equal(loaded.network.state_dict(), make_unet().state_dict())


def test_what_the_suite_saved_is_loaded(model: MvGenMaster, tmp_path: Path, folder: Path):
    model.network.save_pretrained(tmp_path / "final")
    again = load_mvgenmaster(str(tmp_path / "final"), Loading(base=str(folder)))
    assert_equal(again.network.state_dict(), model.network.state_dict())
    assert again.size == 512


def test_random_weights_for_the_baseline(model: MvGenMaster):
    other = randomised(model, 3).network
    assert isinstance(other, PriorUNet)
    assert other.state_dict().keys() == model.network.state_dict().keys()


def test_an_outline_has_the_full_size():
    model = load_mvgenmaster("random", Loading(outline=True))
    assert model.size == 512
    assert all(p.is_meta for p in model.network.parameters())


@pytest.mark.parametrize("source", ["", "pretrained_model.zip"])
def test_the_archive_must_be_unpacked(source: str):
    with pytest.raises(ValueError, match=r"load_mvgenmaster: .* unpack it, and give the folder"):
        load_mvgenmaster(source, Loading())


def test_weights_of_cat3d_are_refused(tmp_path: Path):
    torch.save(make_cat3d().state_dict(), tmp_path / "ema_unet.pt")
    with pytest.raises(ValueError, match=r"load_mvgenmaster: .* does not fit PriorUNet: 6 weights missing"):
        load_mvgenmaster(str(tmp_path), Loading(base="random"))


def test_an_autoencoder_of_other_latents_is_refused(folder: Path, tmp_path: Path):
    make_vae(levels=3).save_pretrained(tmp_path / "vae")
    with pytest.raises(ValueError, match=r"the autoencoder has 4 pixels per latent .* wants 8 and 4"):
        load_mvgenmaster(str(folder), Loading(base=str(tmp_path)))


def test_sizes_that_the_deepest_level_does_not_divide_are_refused(folder: Path):
    with pytest.raises(ValueError, match="size of the views 100: expected a multiple of 64"):
        load_mvgenmaster(str(folder), Loading(base=str(folder), size=100))


def test_views_are_flattened_scene_by_scene(model: MvGenMaster):
    # the encoder sees coordinates and inputs of one view together
    conditioning, seen = model.condition(photograph(2)), []
    network = model.network
    handle = network.add_conv_in.register_forward_pre_hook(lambda _m, _a, given: seen.append(given), with_kwargs=True)
    with torch.no_grad():
        model.denoise(torch.zeros(model.latent_shape(2, 4)), torch.tensor([5, 5]), conditioning)
    handle.remove()
    for name in ("inputs", "coordinates"):
        assert torch.equal(rearrange(seen[0][name], "(b f) c h w -> b f c h w", b=2), conditioning[name])
