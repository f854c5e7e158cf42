"""TRD and iREPA, the competing objectives with parts of their own: known values on small tensors, and laws."""

import math
from pathlib import Path

import pytest
import torch
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor
from training import make_commands_small, small_model

from probe.layers import Layer, find_layers, select_layers
from probe.scenes.shapes import draw_shapes, make_views
from probe.views import Views
from train.cameo import cli
from train.objectives import (
    ConvolutionProjector,
    cosine_loss,
    encode_dsift,
    make_competing_objective,
    normalise_over_space,
    relation_loss,
    relations,
)

LAYER = Layer(index=10, name="attn1", grid=(2, 3), heads=2, kind="3d", channels=2)
FLAGS = ("--evaluate-scenes", "2", "--probe-every", "0", "--sampling-steps", "2", "--batch-size", "2", "--no-report")
RUNS = ("resumed", "whole")
EVERY = ("--evaluate-every", "2", "--checkpoint-every", "1", "--device", "cpu", "--weight", "0.5")


def tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def at_angles(*degrees: float) -> Tensor:
    """Vectors of the plane, one per angle, of lengths 1, 2, ..."""
    angle = torch.tensor(degrees).deg2rad()
    lengths = torch.arange(1, len(degrees) + 1)
    return torch.stack([angle.cos(), angle.sin()], -1) * lengths[:, None]


def drawn_views() -> Views:
    generator = torch.Generator().manual_seed(4)
    shapes = draw_shapes(2, difficulty="plain", generator=generator)
    return make_views(shapes, torch.full((2, 2), 20.0), size=16, n_ref=1, generator=generator)


# --- token relation distillation -------------------------------------------------------------------------------------


def test_relations_are_cosines_within_a_view_and_across_views():
    found = relations(rearrange(at_angles(0, 60, 90, 180), "(b f n) c -> b f n c", b=1, f=2))
    wanted = torch.tensor([[1, 0.5, 0, -1], [0.5, 1, 0.75**0.5, -0.5], [0, 0.75**0.5, 1, 0], [-1, -0.5, 0, 1]])
    torch.testing.assert_close(found, wanted[None], rtol=0, atol=1e-6)


def test_relations_move_with_their_tokens():
    given, order = tokens(2, 1, 6, 5), torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(relations(given[:, :, order]), relations(given)[:, order][:, :, order])


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize(("cosine", "beyond"), [(0.5, 0.4), (-0.5, 0.4), (0.11, 0.01), (0.09, 0.0), (-0.09, 0.0)])
def test_a_difference_of_relations_counts_by_what_exceeds_the_margin(views: int, cosine: float, beyond: float):
    """Two tokens, of one view or of two; the features are orthogonal; each token's relation with itself agrees."""
    features, projected = at_angles(0, 90), at_angles(20, 20 + math.degrees(math.acos(cosine)))
    both = (rearrange(each, "(f n) c -> 1 f n c", f=views) for each in (projected, features))
    assert relation_loss(*both).item() == pytest.approx(2 * beyond / 4, abs=1e-6)


def test_tokens_of_different_scenes_are_not_related():
    alike = rearrange(at_angles(0, 90), "(b n) c -> b 1 n c", b=2)
    assert relation_loss(alike, alike.flip(-1)) == 0
    assert relation_loss(alike, rearrange(at_angles(0, 0), "(b n) c -> b 1 n c", b=2)) == 0


@pytest.mark.parametrize("shape", [(1, 1, 2, 3), (2, 3, 4, 8)])
def test_the_relation_loss_sees_neither_rotation_nor_lengths_but_the_cosine_does(shape: tuple[int, ...]):
    features = tokens(*shape)
    rotation, _ = torch.linalg.qr(tokens(shape[-1], shape[-1], seed=1))
    turned = (features @ rotation) * tokens(*shape[:-1], 1, seed=2).exp()
    assert relation_loss(turned, features) == 0
    other = tokens(*shape, seed=3)
    assert 0 < relation_loss(other, features) < 1.9
    torch.testing.assert_close(relation_loss(other, turned), relation_loss(other, features))
    assert cosine_loss(turned, features) > -0.9


def test_learning_to_relate_needs_relations_alone():
    """Free vectors of another width, moved by the gradient, come to relate as the features do."""
    features, free = tokens(1, 2, 4, 3), tokens(1, 2, 4, 5, seed=1).requires_grad_()
    optimizer = torch.optim.Adam([free], 0.05)
    for _ in range(200):
        optimizer.zero_grad()
        relation_loss(free, features).backward()
        optimizer.step()
    assert relation_loss(free, features) < 0.01
    assert (relations(free) - relations(features)).abs().max() < 0.2


def test_relations_are_computed_in_single_precision_under_autocast():
    projected, features = tokens(1, 2, 9, 16), tokens(1, 2, 9, 16, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        halved = relation_loss(projected, features)
    assert torch.equal(halved, relation_loss(projected, features))


def test_trd_is_zero_for_its_own_features_however_turned_and_trains_the_layers_module():
    model, views = small_model(), drawn_views()
    (layer,) = select_layers(find_layers(model.network), "10")
    objective = make_competing_objective("trd-dsift", [layer])
    truth = objective.prepare(views, lambda count: count)
    (features,) = truth.features.values()
    assert torch.equal(features, encode_dsift(views, layer.grid))
    objective.projectors[0] = torch.nn.Identity()
    rotation, _ = torch.linalg.qr(tokens(128, 128))
    output = rearrange(features @ rotation, "b f n c -> (b f) n c").requires_grad_()
    assert objective({layer.name: output}, truth, 1) == 0
    moved = output.roll(1, 1)
    loss = objective({layer.name: moved}, truth, 1)
    loss.backward()
    assert loss > 0
    assert output.grad.abs().max() > 0


# --- iREPA -----------------------------------------------------------------------------------------------------------


def test_normalised_features_keep_a_fifth_of_their_mean_and_deviate_by_one():
    """1 and 3: mean 2, deviation 1, less 1.6; -10 and 30: mean 10, deviation 20, less 8."""
    features = torch.tensor([[1.0, -10.0], [3.0, 30.0]])
    wanted = torch.tensor([[-0.6, -0.9], [1.4, 1.1]])
    torch.testing.assert_close(normalise_over_space(features[None, None]), wanted[None, None])


def test_normalising_removes_the_scale_of_a_feature_and_most_of_an_offset_view_by_view():
    features = tokens(2, 3, 20, 4)
    scale, offset = tokens(2, 3, 1, 4, seed=1).exp(), tokens(2, 3, 1, 4, seed=2)
    plain = normalise_over_space(features)
    torch.testing.assert_close(normalise_over_space(scale * features), plain, rtol=1e-4, atol=1e-4)
    left = 0.2 * offset / features.std(2, correction=0, keepdim=True)
    torch.testing.assert_close(normalise_over_space(features + offset), plain + left, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("count", [1, 4])
def test_features_that_do_not_vary_stay_finite(count: int):
    assert normalise_over_space(torch.ones(1, 1, count, 2)).isfinite().all()


def convolution(*weights: tuple[tuple[int, int], float]) -> ConvolutionProjector:
    """Project by given weights of neighbours (down, right), the same for each of four channels."""
    projector = ConvolutionProjector(LAYER, 4)
    with torch.no_grad():
        projector.convolution.bias.zero_()
        projector.convolution.weight.zero_()
        for (down, right), weight in weights:
            projector.convolution.weight[:, :, 1 + down, 1 + right] = weight * torch.eye(4)
    return projector


def test_the_convolution_keeps_the_grid_and_sees_neighbours_of_the_same_view_alone():
    states = tokens(2, 3, 6, 4)
    assert convolution()(states).shape == states.shape
    torch.testing.assert_close(convolution(((0, 0), 1.0))(states), states)
    grid = rearrange(states, "b f (h w) c -> b f h w c", h=2)
    wanted = torch.zeros_like(grid)
    wanted[:, :, :, :2] += grid[:, :, :, 1:]
    wanted[:, :, 1:] += 2 * grid[:, :, :1]
    found = convolution(((0, 1), 1.0), ((-1, 0), 2.0))(states)
    torch.testing.assert_close(found, rearrange(wanted, "b f h w c -> b f (h w) c"))


def test_the_convolution_reaches_one_token_far():
    """Of a 5 x 5 grid the middle token's features depend on the nine tokens around it."""
    layer = Layer(index=10, name="attn1", grid=(5, 5), heads=1, kind="3d", channels=3)
    states = tokens(1, 1, 25, 3).requires_grad_()
    ConvolutionProjector(layer, 7)(states)[0, 0, 12].sum().backward()
    assert rearrange(states.grad[0, 0].abs().sum(-1) > 0, "(h w) -> h w", h=5).nonzero().tolist() == [
        [row, column] for row in (1, 2, 3) for column in (1, 2, 3)
    ]


def test_irepa_convolves_each_layers_output_and_normalises_its_features():
    model, views = small_model(), drawn_views()
    layers = select_layers(find_layers(model.network), "10,6")
    objective = make_competing_objective("irepa-dsift", layers)
    assert [(one.grid, one.convolution.out_channels) for one in objective.projectors] == [
        (layer.grid, 128) for layer in layers
    ]
    for grid, features in objective.prepare(views, lambda count: count).features.items():
        torch.testing.assert_close(features, normalise_over_space(encode_dsift(views, grid)))


# --- from the command line -------------------------------------------------------------------------------------------


def test_a_resumed_run_of_two_layers_is_the_uninterrupted_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    make_commands_small(monkeypatch)
    common = ("--objective", "trd-dsift", "--layer", "10,12", "--layer-weights", "2,1", *FLAGS, *EVERY)
    for steps, run, more in (("1", "resumed", []), ("2", "resumed", ["--resume"]), ("2", "whole", [])):
        cli([*common, "--steps", steps, "--out", str(tmp_path / run), *more])
    for name in ("diffusion_pytorch_model", "objective"):
        weights = [load_file(tmp_path / run / f"checkpoints/step-000002/{name}.safetensors") for run in RUNS]
        assert weights[0].keys() == weights[1].keys()
        assert all(torch.equal(weight, weights[1][key]) for key, weight in weights[0].items())
