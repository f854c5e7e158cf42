"""Truth rules, negative controls and competing objectives: known cases and laws."""

from dataclasses import replace

import pytest
import torch
from einops import rearrange
from training import SUPERVISION

from probe.attention.call import Call
from probe.capture import AttentionTap
from probe.correspondence import token_points, visible_tokens
from probe.layers import Layer, find_layers, select_layers
from probe.metrics import scene_size
from probe.models.cat3d import TINY, load_unet
from probe.models.model import MultiViewModel
from probe.models.schedules import pixel_scheduler
from probe.scenes.shapes import draw_shapes, make_views
from probe.views import Views, concatenate
from train import objectives
from train.batches import Batch
from train.loop import TrainingStep
from train.objectives import AttentionSupervision, make_competing_objective
from train.objectives.diffusion import denoising_error
from train.settings import CompetingObjective

SMALL = {**TINY, "sample_size": 16, "block_out_channels": (8, 8, 8, 8), "attention_head_dim": 2, "norm_num_groups": 4}


def scenes(count: int = 2, rotation: float = 20.0, views: int = 3) -> Views:
    generator = torch.Generator().manual_seed(4)
    shapes = draw_shapes(count, difficulty="plain", generator=generator)
    turned = torch.full((count, views - 1), rotation)
    return make_views(shapes, turned, size=16, n_ref=1, generator=generator)


@pytest.fixture(scope="module")
def model() -> MultiViewModel:
    torch.manual_seed(0)
    return MultiViewModel(
        name="small", network=load_unet(None, SMALL), alpha_bar=pixel_scheduler().alphas_cumprod, size=16
    )


def batch_of(views: Views) -> Batch:
    count = len(views.image)
    noise = torch.randn(views.image.shape, generator=torch.Generator().manual_seed(1))
    return Batch(views=views, t=torch.full((count,), 500), noise=noise, keep_cameras=torch.ones(count))


def same(average: torch.Tensor) -> torch.Tensor:
    return average


def test_visible_truth_counts_what_the_depth_test_sees_and_gated_is_part_of_cycle():
    views, grid = scenes(rotation=70.0), (8, 8)
    truth = {name: rule(views, grid, 1.5) for name, rule in objectives.TRUTHS.items()}
    assert torch.equal(truth["visible"].index, truth["cycle"].index)
    assert bool((truth["gated"].counted <= truth["cycle"].counted).all())
    kept = truth["gated"].distance[truth["gated"].counted]
    assert float(kept.max()) < objectives.GATE * float(scene_size(views).max())
    numbers = [int(truth[name].counted.sum()) for name in ("gated", "cycle")]
    assert 0 < numbers[0] < numbers[1]
    assert not bool((truth["visible"].counted & ~visible_tokens(views, grid)).any())


@pytest.mark.parametrize("factor", [0.1, 1.0, 30.0])
def test_gated_truth_is_a_share_of_each_scenes_own_size(factor: float):
    """Scenes of other units count the same pairs, also side by side in a batch; the limit is 2 % of the size."""
    views, grid = scenes(1, rotation=70.0), (8, 8)
    plain = objectives.cycle_truth(views, grid, 1.5)
    limit = 0.02 * scene_size(views)
    expected = plain.counted & (plain.distance < limit)
    assert 0 < expected.sum() < plain.counted.sum()
    grown = replace(views, point_map=factor * views.point_map, world_to_cam=views.world_to_cam.clone())
    grown.world_to_cam[..., :3, 3] *= factor
    both = objectives.gated_truth(concatenate([grown, views]), grid, 1.5)
    border = ((plain.distance / limit - 1).abs() < 1e-4)[0]  # rounding may decide there
    assert border.float().mean() < 0.01
    assert torch.equal(both.counted[0] & ~border, expected[0] & ~border)
    assert torch.equal(both.counted[1], expected[0])


def test_a_match_at_the_gate_does_not_count(monkeypatch: pytest.MonkeyPatch):
    views, grid = scenes(1, rotation=70.0), (8, 8)
    plain = objectives.cycle_truth(views, grid, 1.5)
    middle = plain.distance[plain.counted].median()
    monkeypatch.setattr(objectives.supervision, "GATE", 1.0)
    monkeypatch.setattr(objectives.supervision, "scene_size", lambda _: middle[None])
    counted = objectives.gated_truth(views, grid, 1.5).counted
    assert torch.equal(counted, plain.counted & (plain.distance < middle))
    assert not counted[plain.distance == middle].any()
    assert (plain.counted & (plain.distance == middle)).any()


class Recorded(AttentionTap):
    """A tap that has recorded one call."""

    def __init__(self, call: Call) -> None:
        self.call = call

    def __getitem__(self, layer: Layer | int | str) -> Call:
        return self.call


@pytest.mark.parametrize("scale", [0.05, 1.0])
def test_the_loss_has_the_scale_that_the_layer_has(scale: float, model: MultiViewModel):
    """Not 1 / sqrt(d): a layer with another factor is supervised as it attends."""
    (layer,) = select_layers(find_layers(model.network), "10")
    objective = AttentionSupervision([layer], **{**SUPERVISION, "mixing": "mean"})
    truth = objective.prepare(scenes(), same)
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, layer.heads, 3 * 64, layer.channels, generator=generator) for _ in range(2))
    call = Call(name=layer.name, nth=0, step=0, q=q, k=k, v=q, scale=scale, **NO_MASK)
    matches = truth.matches[8, 8]
    logits = rearrange(scale * (q @ k.mT).mean(1), "b (fq n) (fk m) -> b fq n fk m", fq=3, fk=3)
    entropy = -logits.log_softmax(-1).gather(-1, matches.index[..., None])[..., 0]
    sides = [entropy[:, side][matches.counted[:, side]].mean() for side in (slice(1), slice(1, None))]
    assert objective(Recorded(call), truth, 1).item() == pytest.approx(float(sum(sides)), rel=1e-4)


def test_identical_views_are_matched_with_themselves_under_every_rule():
    views = scenes(1, views=2).reorder([0, 0], 1)
    for rule in objectives.TRUTHS.values():
        matches = rule(views, (4, 4), 1.5)
        assert matches.index[0, 0, :, 1].tolist() == list(range(16))
        assert bool(matches.counted[0, 0, :, 1].all())
        assert not bool(matches.counted[0, 0, :, 0].any())


def test_shuffled_truth_is_the_next_scenes_and_needs_two():
    matches = objectives.cycle_truth(scenes(3), (4, 4), 1.5)
    moved = objectives.shuffled(matches)
    assert torch.equal(moved.index[1], matches.index[0])
    assert torch.equal(moved.counted[0], matches.counted[2])
    with pytest.raises(ValueError, match="batch of at least 2"):
        objectives.shuffled(objectives.cycle_truth(scenes(1), (4, 4), 1.5))


def test_picking_scenes_of_a_truth_is_the_truth_of_those_scenes(model: MultiViewModel):
    views = scenes(3)
    objective = AttentionSupervision(select_layers(find_layers(model.network), "10,6"), **SUPERVISION)
    whole, part = objective.prepare(views, same).scenes(slice(1, 2)), objective.prepare(views.scenes(slice(1, 2)), same)
    assert set(whole.matches) == {(8, 8), (2, 2)}
    for grid, matches in whole.matches.items():
        assert torch.equal(matches.index, part.matches[grid].index)
        assert torch.equal(matches.counted, part.matches[grid].counted)


def test_looking_does_not_change_the_denoising_error(model: MultiViewModel):
    batch, layers = batch_of(scenes()), select_layers(find_layers(model.network), "10")
    plain, _ = TrainingStep(model, None)(batch, None, None)
    objective = AttentionSupervision(layers, **SUPERVISION)
    error, extra = TrainingStep(model, objective)(batch, objective.prepare(batch.views, same), None)
    assert torch.equal(plain, error)
    assert 0 < extra.item() < 20


def test_supervision_reaches_queries_and_keys_of_its_layer_but_not_its_values(model: MultiViewModel):
    batch, layers = batch_of(scenes()), select_layers(find_layers(model.network), "10")
    objective = AttentionSupervision(layers, **SUPERVISION)
    model.network.zero_grad()
    _, extra = TrainingStep(model, objective)(batch, objective.prepare(batch.views, same), None)
    extra.backward()
    attention = model.network.get_submodule(layers[0].name)
    assert float(attention.to_q.weight.grad.abs().max()) > 0
    assert float(attention.to_k.weight.grad.abs().max()) > 0
    assert attention.to_v.weight.grad is None
    assert all(weight.grad is not None for weight in objective.parameters())


def test_supervising_a_layer_raises_its_likelihood_of_the_true_match(model: MultiViewModel):
    batch, layers = batch_of(scenes()), select_layers(find_layers(model.network), "10")
    step = TrainingStep(model, AttentionSupervision(layers, **{**SUPERVISION, "mixing": "mean"}))
    truth = step.objective.prepare(batch.views, same)
    before = {name: weight.detach().clone() for name, weight in model.network.named_parameters()}
    optimizer, losses = torch.optim.Adam(step.parameters(), 3e-3), []
    for _ in range(12):
        losses.append(step(batch, truth, None)[1])
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    model.network.load_state_dict(before, strict=False)
    assert losses[-1].item() < losses[0].item() - 0.1


@pytest.mark.parametrize("name", ["cameo", "geometry", "irepa-dsift", "trd-dsift"])
def test_several_layers_add_up_by_their_shares(name: str, model: MultiViewModel):
    batch, layers = batch_of(scenes()), select_layers(find_layers(model.network), "10,11")

    def extra(shares: tuple[float, ...] | None, keep: int | None = None) -> float:
        torch.manual_seed(0)
        if name == "cameo":
            objective = AttentionSupervision(layers, **SUPERVISION, shares=shares)
        else:
            objective = make_competing_objective(name, layers, shares)
        weighed = objective.losses if name == "cameo" else objective.projectors
        if keep is not None:
            objective.layers = [layers[keep]]
            objective.shares = None
            kept = torch.nn.ModuleList([weighed[keep]])
            setattr(objective, "losses" if name == "cameo" else "projectors", kept)
        return TrainingStep(model, objective)(batch, objective.prepare(batch.views, same), None)[1].item()

    first, second = extra(None, 0), extra(None, 1)
    assert first != second
    assert extra((0.75, 0.25)) == pytest.approx(0.75 * first + 0.25 * second, abs=1e-6)
    assert extra(None) == pytest.approx((first + second) / 2, abs=1e-6)


@pytest.mark.parametrize("name", ["repa-dsift", "irepa-dsift", "geometry"])
def test_a_competing_objective_is_minus_one_for_its_own_features_and_trains_the_layers_module(
    name: str, model: MultiViewModel
):
    batch, layers = batch_of(scenes()), select_layers(find_layers(model.network), "10")
    objective = make_competing_objective(name, layers)
    model.network.zero_grad()
    _, extra = TrainingStep(model, objective)(batch, objective.prepare(batch.views, same), None)
    assert -1 <= extra.item() <= 1
    extra.backward()
    assert model.network.get_submodule(layers[0].name).to_v.weight.grad is not None
    objective.projectors[0] = torch.nn.Identity()
    truth = objective.prepare(batch.views, same)
    flat = truth.features[8, 8].flatten(0, 1)
    assert objective({layers[0].name: 3 * flat}, truth, 1).item() == pytest.approx(-1, abs=1e-5)
    assert not model.network.get_submodule(layers[0].name)._forward_hooks


def test_encoded_points_are_equal_where_points_are_and_zero_where_there_is_none():
    views = scenes(1, views=2).reorder([0, 0], 1)
    code = objectives.encode_points(views, (4, 4))
    assert torch.equal(code[0, 0], code[0, 1])
    assert float((code[0, 0, 0] - code[0, 0, 15]).norm()) > 0.1
    hidden = replace(views, valid=torch.zeros_like(views.valid).logical_or_(views.valid))
    hidden.valid[0, 0, :4, :4] = False
    assert float(objectives.encode_points(hidden, (4, 4))[0, 0, 0].abs().max()) == 0


@pytest.mark.parametrize("factor", [0.25, 8.0])
def test_encoded_points_do_not_depend_on_the_scenes_unit(factor: float):
    """Coordinates are those of view 0 over the scene's size; the lowest frequency has a period of two sizes."""
    views = scenes(1)
    grown = replace(views, point_map=factor * views.point_map, world_to_cam=views.world_to_cam.clone())
    grown.world_to_cam[..., :3, 3] *= factor
    code = objectives.encode_points(views, (4, 4))
    torch.testing.assert_close(objectives.encode_points(grown, (4, 4)), code, rtol=0, atol=1e-4)
    points, _ = token_points(views.point_map, views.valid, (4, 4))
    local = points @ views.world_to_cam[0, 0, :3, :3].T + views.world_to_cam[0, 0, :3, 3]
    first = code[..., 0]  # the sine of x at the lowest frequency
    torch.testing.assert_close(first, (torch.pi * local[..., 0] / scene_size(views)).sin(), rtol=0, atol=1e-5)


def test_sift_features_are_centred_so_that_a_constant_cannot_match_them():
    code = objectives.encode_dsift(scenes(1), (4, 4))
    assert code.shape == (1, 3, 16, 128)
    torch.testing.assert_close(code.mean(-1), torch.zeros(1, 3, 16), rtol=0, atol=1e-4 * float(code.abs().max()))
    assert float(code.abs().max()) > 0


def test_outputs_are_recorded_with_gradients_or_not_at_all(model: MultiViewModel):
    """Without gradients an aligned output would train nothing and say nothing; a missing one is an error."""
    objective = make_competing_objective("geometry", select_layers(find_layers(model.network), "10"))
    views, noise = scenes(), batch_of(scenes()).noise
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled), objective.watch(model.network) as seen:
            denoising_error(model, views, torch.tensor([500, 500]), noise)
        assert set(seen) == ({objective.layers[0].name} if enabled else set())
        assert all(output.requires_grad for output in seen.values())


def test_queries_are_drawn_by_the_generator(model: MultiViewModel):
    """The same generator draws the same pairs, whatever PyTorch's own did before."""
    batch, layers = batch_of(scenes()), select_layers(find_layers(model.network), "10")
    torch.manual_seed(0)
    objective = AttentionSupervision(layers, **{**SUPERVISION, "max_queries": 3})
    truth = objective.prepare(batch.views, same)

    def extra(seed: int, other: int) -> float:
        torch.manual_seed(other)
        generator = torch.Generator().manual_seed(seed)
        return TrainingStep(model, objective)(batch, truth, generator)[1].item()

    assert extra(1, 1) == extra(1, 2)
    assert len({extra(seed, 1) for seed in range(4)}) > 1


NO_MASK = {"mask": None, "causal": False, "gqa": False, "compute_dtype": torch.float32, "kernel": "sdpa"}
JOINT = Layer(index=3, name="blocks.1.attn1", grid=(2, 2), heads=2, kind="joint", channels=5, prefix=3, suffix=1)


def test_what_a_probe_ranks_can_be_supervised_with_text_left_out():
    assert objectives.grid_of(JOINT) == (2, 2)
    q = torch.randn(1, 2, 3 + 2 * 4 + 1, 5)
    call = Call(name=JOINT.name, nth=0, step=0, q=q, k=q + 1, v=q, scale=0.5, **NO_MASK)
    queries, keys = objectives.view_tokens(JOINT, call, 2)
    assert torch.equal(queries, q[:, :, 3:11])
    assert torch.equal(keys, q[:, :, 3:11] + 1)


def test_a_mask_may_hide_text_and_no_image_tokens():
    q = torch.randn(1, 2, 12, 5)
    keys = torch.ones(1, 1, 1, 12, dtype=torch.bool)
    keys[..., 0] = False  # text
    call = Call(name=JOINT.name, nth=0, step=0, q=q, k=q, v=q, scale=0.5, **{**NO_MASK, "mask": keys})
    assert torch.equal(objectives.view_tokens(JOINT, call, 2)[0], q[:, :, 3:11])
    with pytest.raises(ValueError, match=r"layer 3 \(blocks.1.attn1\) hides image tokens by its mask"):
        objectives.view_tokens(JOINT, replace(call, mask=None, causal=True), 2)


@pytest.mark.parametrize("name", ["geometry", "irepa-dsift", "trd-dsift"])
def test_features_are_not_aligned_with_outputs_that_hold_text(name: CompetingObjective):
    with pytest.raises(ValueError, match="is of kind 'joint' with 4 tokens of text or registers"):
        make_competing_objective(name, [JOINT])


def test_layers_that_join_no_views_are_refused(model: MultiViewModel):
    layer = select_layers(find_layers(model.network), "0")[0]
    with pytest.raises(ValueError, match="is of kind 'view'; expected a layer that joins views on a grid"):
        objectives.grid_of(layer)


def test_dinov2_that_is_not_at_hand_is_refused_in_one_sentence(model: MultiViewModel, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match="choose repa-dsift or geometry"):
        make_competing_objective("repa-dinov2", select_layers(find_layers(model.network), "10"))
