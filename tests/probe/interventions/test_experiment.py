"""An experiment: read from words, its trials, and what it costs."""

from dataclasses import replace

import pytest
import torch

from probe.interventions.experiment import Experiment, editable, passes, plan_experiment
from probe.layers import Layer


@pytest.fixture
def layers() -> list[Layer]:
    return [Layer(n, f"blocks.{n}", (4, 4), 2, "3d", index_3d=n, channels=4) for n in range(2)]


def test_per_view_layers_are_not_edited(layers: list[Layer]):
    mixed = [layers[0], replace(layers[1], kind="view")]
    assert editable(mixed) == [layers[0]]
    trials = Experiment(interventions=("identity", "uniform")).trials(mixed, heads=True)
    assert list(trials) == [(name, layers[0], head) for name in ("identity", "uniform") for head in (-1, 0, 1)]


# From words


def plan(names: str | None, layers: list[Layer], **how) -> Experiment:
    options = {"during": None, "each_head": False, "steps": None, "scenes": None, **how}
    return plan_experiment(names, layers, (100, 500, 900), **options)


def test_left_out_it_is_the_identity_and_the_own_view_at_the_middle_timestep(layers: list[Layer]):
    bare = plan(None, layers)
    both = ("identity", "within_view")
    assert bare == Experiment(interventions=both, timesteps=(500,), during=(500, 500), scenes=8, where_possible=True)
    assert passes(bare, layers, 16) == 8 * 5  # unedited, and two layers
    assert passes(bare, layers, 5) == 5 * 5
    assert [bare.covers(index) for index in (0, 7, 8)] == [True, True, False]
    assert plan(None, layers, scenes=2).scenes == 2
    again = bare.record()
    assert plan(str(again["interventions"]), layers, during=str(again["edit_timesteps"]), steps=0, scenes=8) == bare
    assert plan(None, [replace(layer, kind="view") for layer in layers]) == Experiment()
    assert passes(Experiment(), layers, 4) == 0


def test_named_interventions_are_measured_at_all_timesteps_and_sampled(layers: list[Layer]):
    full = plan("true_match,identity", layers)
    assert full == Experiment(interventions=("identity", "true_match"), timesteps=(100, 500, 900), steps=10)
    assert passes(full, layers, 1) == 5 * 3 + 5 * 10
    assert plan("uniform", layers, during="200-999", steps=0).timesteps == (500, 900)
    assert passes(plan("uniform", layers, each_head=True, steps=1), layers, 1) == 7 * 3 + 3
    assert plan(None, layers, each_head=True).each_head
    assert plan("uniform", layers, scenes=3).scenes == 3
    assert plan("none", layers) == Experiment(timesteps=(100, 500, 900))


def test_lpips_without_weights_is_said_where_views_are_sampled(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert Experiment().note == ""
    assert Experiment(interventions=("identity",), steps=1).note.startswith("lpips is absent (NaN): no weights at")


WRONG = {
    "name": ("identity,blur", {}, "^blur is no intervention; choose from identity, uniform"),
    "range": ("identity", {"during": "9-1"}, "^'9-1': expected a range of timesteps within"),
    "range in words": (
        "identity",
        {"during": "all"},
        r"range of timesteps within 0 \(clean\) to 999",
    ),
    "range too late": ("identity", {"during": "0-1000"}, "expected a range"),
    "empty range": (
        "identity",
        {"during": "101-499"},
        "^edits during timesteps 101-499: none of those",
    ),
    "steps": ("identity", {"steps": 1001}, "^1001 sampling steps: expected 1 to 1000"),
    "negative steps": ("identity", {"steps": -1}, "^-1 sampling steps"),
    "no scenes": ("identity", {"scenes": 0}, "^0 edited scenes: expected at least 1"),
    "nothing to sample": ("none", {"steps": 5}, "^the intervention none leaves nothing for"),
    "no heads": ("none", {"each_head": True}, "^the intervention none leaves nothing for"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_words_are_refused(name: str, layers: list[Layer]):
    names, how, said = WRONG[name]
    with pytest.raises(ValueError, match=said):
        plan(names, layers, **how)


def test_interventions_need_a_layer_that_joins_views(layers: list[Layer]):
    with pytest.raises(ValueError, match=r"^none of the scored layers joins views"):
        plan("identity", [replace(layer, kind="view") for layer in layers])
