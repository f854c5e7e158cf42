"""Effects of edits: known numbers, a slow reference, and what must come out as no effect at all."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from edited_toys import SIZE
from torch import Tensor
from torch.nn import functional as F

from probe.capture import AttentionTap
from probe.image_quality import psnr
from probe.interventions import effects
from probe.interventions.edits import HiddenKeysError
from probe.interventions.effects import Effects, measure_effects, prediction_effect, sample_effect
from probe.interventions.experiment import Experiment
from probe.layers import Layer
from probe.measure.scene import Scene
from probe.models.model import MultiViewModel
from probe.models.sampling import sample_views
from probe.models.schedules import add_noise
from probe.records import INTERVENTIONS, SCORE_COLUMNS
from probe.views import resize

KEYS = [name for name in SCORE_COLUMNS if name not in ("value", "count")]


def measure(model: MultiViewModel, scene: Scene, layers: list[Layer], **how) -> Effects:
    experiment = Experiment(**{"interventions": ("identity",), "timesteps": (500,), **how})
    return measure_effects(model, scene, layers, experiment)


# Known


def test_prediction_effect_known():
    clean = torch.zeros(1, 2, 3, 2, 2)
    usual = torch.cat([clean[:, :1] + 0.5, clean[:, 1:] - 1], dim=1)
    edited = torch.cat([clean[:, :1] + 0.6, clean[:, 1:] - 0.25], dim=1)
    found = prediction_effect(edited, usual, clean)
    torch.testing.assert_close(found["effect_x0"][0], torch.tensor([0.2, 0.75]))
    torch.testing.assert_close(found["effect_error"][0], torch.tensor([0.2, -0.75]))
    assert found["effect_error"][1].tolist() == [1, 1]


def test_a_prediction_without_error_has_no_relative_effect():
    clean = torch.ones(1, 1, 3, 2, 2)
    value, count = prediction_effect(clean + 1, clean, clean)["effect_error"]
    assert value.isnan().all()
    assert count.tolist() == [0]
    assert prediction_effect(clean, 0 * clean, 0 * clean)["effect_x0"][1].tolist() == [0]


def test_sample_effect_is_after_minus_before_and_missing_stays_missing():
    one, none = torch.tensor([1]), torch.tensor([0])
    before = {"psnr": (torch.tensor([20.0]), one), "lpips": (torch.tensor([torch.nan]), none)}
    after = {"psnr": (torch.tensor([17.5]), one), "lpips": (torch.tensor([torch.nan]), none)}
    usual = torch.full((1, 1, 3, 2, 2), 0.5)
    found = sample_effect(usual + 0.25, usual, after, before)
    assert found["effect_psnr"][0].item() == pytest.approx(-2.5)
    assert found["effect_sample"][0].item() == pytest.approx(0.25)
    assert found["effect_lpips"][0].isnan().all()
    assert found["effect_lpips"][1].tolist() == [0]


# Against a slow reference


def test_predictions_are_those_of_an_edit_by_hand(model: MultiViewModel, scene: Scene, layers: list[Layer]):
    """The identity of layer 1 at timestep 700, written out: the attention's output is v."""
    rows = measure(model, scene, layers, timesteps=(300, 700)).rows
    t, noise, views = torch.tensor([700]), scene.noise, scene.views
    image = F.interpolate(views.image[0], (SIZE, SIZE), mode="area")[None]
    small = resize(views, SIZE, SIZE)
    torch.testing.assert_close(small.image, image)
    clean, level = image * 2 - 1, model.alpha_bar[700]
    latents = add_noise(clean, noise, model.alpha_bar[t], 1)

    def x0() -> Tensor:
        v = model.network(latents, t, **model.condition(small))
        return (level.sqrt() * latents - (1 - level).sqrt() * v)[0, 1:]

    usual = x0()
    with AttentionTap(model.network, "blocks.1", edit=lambda call, run: call.v):
        edited = x0()
    for view in (1, 2):
        a, b, truth = (x.double() for x in (usual[view - 1], edited[view - 1], clean[0, view]))
        moved = ((a - b) ** 2).mean().sqrt() / (a**2).mean().sqrt()
        grown = ((b - truth) ** 2).mean().sqrt() / ((a - truth) ** 2).mean().sqrt() - 1
        here = rows[(rows["query_view"] == view) & (rows["layer"] == 1) & (rows["timestep"] == 700)].set_index("metric")
        assert here.loc["effect_x0@identity", "value"] == pytest.approx(moved.item(), rel=1e-4)
        assert here.loc["effect_error@identity", "value"] == pytest.approx(grown.item(), rel=1e-3, abs=1e-6)
        assert moved > 0.001


def test_sampled_views_are_those_of_an_edit_by_hand(model: MultiViewModel, scene: Scene, layers: list[Layer]):
    found = measure(model, scene, layers[:1], steps=3, interventions=("uniform",))
    small, noise = resize(scene.views, SIZE, SIZE), scene.noise
    usual = sample_views(model, small, noise, steps=3)
    with AttentionTap(model.network, "blocks.0", edit=lambda call, run: call.v.mean(2, keepdim=True).expand_as(call.v)):
        edited = sample_views(model, small, noise, steps=3)
    torch.testing.assert_close(found.images["uniform/0"], edited[0, 1:], rtol=0, atol=0)
    torch.testing.assert_close(found.images["unedited"], usual[0, 1:], rtol=0, atol=0)
    torch.testing.assert_close(found.images["truth"], small.image[0, 1:], rtol=0, atol=0)
    rows = found.rows[found.rows["timestep"] == -1].set_index(["metric", "query_view"])
    for view in (1, 2):
        truth = small.image[0, view]
        change = psnr(edited[0, view], truth) - psnr(usual[0, view], truth)
        assert rows.loc[("effect_psnr@uniform", view), "value"] == pytest.approx(change, abs=1e-4)
        moved = (edited[0, view] - usual[0, view]).square().mean().sqrt().item()
        assert rows.loc[("effect_sample@uniform", view), "value"] == pytest.approx(moved, rel=1e-4)
    assert np.isnan(rows.loc["effect_lpips@uniform", "value"]).all()
    assert (rows.loc["effect_lpips@uniform", "count"] == 0).all()
    assert np.isfinite(rows.loc["effect_match_error@uniform", "value"]).any()


# The table


def test_rows_are_those_of_the_score_table(model: MultiViewModel, scene: Scene, layers: list[Layer]):
    how = {"interventions": ("identity", "true_match"), "timesteps": (100, 900), "each_head": True, "steps": 1}
    rows = measure(model, scene, layers, **how).rows
    assert list(rows.columns) == list(SCORE_COLUMNS)
    assert not rows.duplicated(KEYS).any()
    assert set(rows["protocol"]) == {INTERVENTIONS}
    assert set(zip(rows["pair"], rows["query_view"], strict=True)) == {("room:0-1", 1), ("room:0-2", 2)}
    assert rows.groupby("query_view")["rotation_deg"].first().tolist() == pytest.approx([20, 50], abs=0.1)
    assert (set(rows["key_view"]), set(rows["direction"])) == ({-1}, {"tgt"})
    predicted = rows[rows["timestep"] >= 0]
    assert set(predicted["head"]) == {-1, 0, 1}
    assert len(predicted) == 2 * 2 * 3 * 2 * 2 * 2  # interventions, layers, heads, timesteps, views, metrics
    sampled = rows[rows["timestep"] == -1]
    assert set(sampled["head"]) == {-1}
    assert len(sampled) == 2 * 2 * 2 * 5


def test_a_head_alone_does_less_than_all_together(model: MultiViewModel, scene: Scene, layers: list[Layer]):
    rows = measure(model, scene, layers, each_head=True).rows
    moved = rows[rows["metric"] == "effect_x0@identity"]
    value = moved.pivot_table(index=["layer", "query_view"], columns="head", values="value")
    assert (value[[0, 1]] > 0).all(axis=None)
    assert (value[[0, 1]].sum(axis=1) > 0.8 * value[-1]).all()
    assert (value[0] != value[1]).all()


@pytest.mark.parametrize("name", ["identity", "uniform", "within_view", "shuffled_views", "true_match"])
def test_outside_its_timesteps_an_edit_has_no_effect_at_all(name, model, scene: Scene, layers: list[Layer]):
    rows = measure(model, scene, layers, interventions=(name,), during=(0, 1), steps=2).rows
    known = rows[rows["count"] > 0]
    assert (known["value"] == 0).all()
    assert len(known) > 10


def test_edits_at_some_steps_do_less_than_at_all(model: MultiViewModel, scene: Scene, layers: list[Layer]):
    def moved(during: tuple[int, int]) -> float:
        rows = measure(model, scene, layers[:1], during=during, steps=4).rows
        return float(rows.loc[rows["metric"] == "effect_sample@identity", "value"].mean())

    late, every = moved((0, 499)), moved((0, 999))
    assert late > 0
    assert late != every


def test_the_same_noise_gives_the_same_rows_and_leaves_the_model_alone(model, scene: Scene, layers: list[Layer]):
    state = {name: value.clone() for name, value in model.network.state_dict().items()}
    how = {"interventions": ("shuffled_views",), "steps": 1}
    first = measure(model, scene, layers, **how).rows
    pd.testing.assert_frame_equal(measure(model, scene, layers, **how).rows, first)
    other = measure(model, scene, layers, **how, seed=1).rows
    assert (first["value"] != other["value"]).any()
    assert all(torch.equal(value, state[name]) for name, value in model.network.state_dict().items())
    assert not model.network._forward_pre_hooks


def test_an_edit_that_a_layer_cannot_have_is_unknown_where_nobody_asked_for_it(model, layers, scene, monkeypatch):
    def masked(_call, _run):
        raise HiddenKeysError("a mask")

    def refuse(name, layer, *others):
        hides = name == "within_view" and layer.index == layers[0].index
        return masked if hides else edit_at(name, layer, *others)

    edit_at = effects.edit_at
    monkeypatch.setattr(effects, "edit_at", refuse)
    usual = Experiment(interventions=("identity", "within_view"), timesteps=(500,), where_possible=True)
    rows = effects.measure_effects(model, scene, layers, usual).rows
    counts = rows.groupby(["layer", rows["metric"].astype(str).str.partition("@")[2]])["count"].sum()
    assert counts[layers[0].index, "within_view"] == 0
    assert (counts.drop((layers[0].index, "within_view")) > 0).all()
    assert rows["value"].isna().eq(rows["count"] == 0).all()
    with pytest.raises(HiddenKeysError):
        effects.measure_effects(model, scene, layers, replace(usual, where_possible=False))
