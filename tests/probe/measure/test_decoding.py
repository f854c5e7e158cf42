"""Decoding geometry from tokens: known distances, what can and cannot be decoded, and what the table says."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from edited_toys import toy_layers, toy_model, toy_scene
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from probe.geometry import fundamental_matrix
from probe.measure.decoding import (
    PLACES,
    Samples,
    SceneTruth,
    Tokens,
    depth_errors,
    epipolar_errors,
    fit,
    layer_tokens,
    read_tokens,
    sampson,
    scene_truth,
    without_model,
)
from probe.records.decoding import DEPTH, EPIPOLAR, GREY, NO_MODEL, THIS, decoding_table, decoding_words


@pytest.fixture(scope="module")
def scene():
    return toy_scene(toy_model())


@pytest.fixture(scope="module")
def truth(scene) -> SceneTruth:
    return scene_truth(scene, (4, 4), torch.Generator().manual_seed(0))


def test_depth_is_that_of_the_points_in_their_own_views(scene, truth):
    assert (truth.places[:, 0] >= scene.views.n_ref).all()
    known = scene.truths[(4, 4)]
    for (view, token), log_depth in zip(truth.places.tolist(), truth.log_depth, strict=True):
        camera, point = scene.views.world_to_cam[0, view], known.points[0, view, token]
        assert (camera[:3, :3] @ point + camera[:3, 3])[2].log() == pytest.approx(float(log_depth), abs=1e-4)


def test_true_matches_lie_on_their_epipolar_lines(scene, truth):
    assert truth.pairs.tolist() == [[1, 0], [2, 0]]
    views = scene.views
    scaled = views.intrinsics[0].clone()
    scaled[:, :2] /= views.size[0]
    scaled[:, :2, 2] -= 0.5  # sides of the image, from its middle
    for (query, key), matches in zip(truth.pairs.tolist(), truth.matches, strict=True):
        cameras = views.world_to_cam[0]
        matrix = fundamental_matrix(scaled[query], cameras[query], scaled[key], cameras[key])
        off = sampson(matrix[None], matches[None])
        assert off.isfinite().sum() == matches.isfinite().flatten(1).all(1).sum() > 0
        # points lie behind a token's first pixels, centres in its middle: within a token
        assert off[off.isfinite()].max() < 0.25


@given(st.integers(0, 2**20))
def test_sampsons_distance_is_zero_on_the_line_and_grows_with_the_distance(seed):
    g = torch.Generator().manual_seed(seed)
    matrix = torch.linalg.cross(torch.eye(3), torch.randn(3, 1, generator=g).expand(3, 3), dim=0)  # a sideways camera
    first = torch.rand(1, 5, 2, generator=g)
    line = F.pad(first, (0, 1), value=1.0) @ matrix.T
    on = torch.linalg.cross(line, torch.randn(1, 5, 3, generator=g), dim=-1)
    on = on[..., :2] / on[..., 2:]
    normal = F.normalize(line[..., :2], dim=-1)
    near, far = (sampson(matrix[None], torch.stack([first, on + d * normal], dim=2)) for d in (0.0, 1e-3))
    scale = 1 + on.abs().amax()
    assert near.max() < 1e-4 * scale
    assert (far > near - 1e-5 * scale).all()


def test_sampsons_distance_known():
    matrix = torch.tensor([[[0.0, 0, 0], [0, 0, -1], [0, 1, 0]]])  # a camera moved sideways: lines are rows
    matches = torch.tensor([[[[0.1, 0.2], [0.4, 0.2]], [[0.1, 0.2], [0.4, 0.5]], [[torch.nan, 0], [0, 0]]]])
    off = sampson(matrix, matches)
    assert off[0, :2].tolist() == pytest.approx([0, 0.3 / 2**0.5])
    assert off[0, 2].isnan()


def test_tokens_are_read_at_their_places_and_averaged_over_blocks(truth):
    x = torch.arange(3 * 16).reshape(3, 4, 4, 1).float()
    tokens = read_tokens(x, truth)
    assert tokens.places[:, 0].tolist() == [16 * view + token for view, token in truth.places.tolist()]
    torch.testing.assert_close(tokens.places[:, 1:], without_model(truth, (4, 4)).places)
    first = [16 + n for n in (2.5, 4.5, 10.5, 12.5)] + [2.5, 4.5, 10.5, 12.5]
    assert tokens.pairs[0].tolist() == first
    assert without_model(truth, (4, 4)).pairs.eq(0).all()


def test_every_layer_is_read_in_both_parts(scene):
    model = toy_model()
    layers = toy_layers(model)
    truths = {(4, 4): scene_truth(scene, (4, 4), torch.Generator().manual_seed(0))}
    tokens = layer_tokens(model, scene, layers, 500, truths)
    places = len(truths[(4, 4)].places)
    assert {key: value.places.shape for key, value in tokens.items()} == {
        (layer.index, part): (places, width + 5)
        for layer in layers
        for part, width in (("matching", 16), ("values", 8))
    }


# --- decoders --------------------------------------------------------------------------------------------------------


def test_a_decoder_learns_what_is_there_and_not_what_is_not():
    g = torch.Generator().manual_seed(0)
    x, noise = torch.randn(400, 3, generator=g), torch.randn(400, 1, generator=g)
    y = x[:, :1] - x[:, 1:2].square()
    for target, error in ((y, 0.25), (noise, 1.3)):

        def loss(predicted, chosen, target=target):
            return F.mse_loss(predicted, target[chosen])

        off = (fit(x[:300], loss, 1, 75, g)(x[300:]) - target[300:]).square().mean()
        assert off < error
        assert target is y or off > 0.7


def test_samples_kept_back_stop_a_decoder_before_it_learns_by_heart():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 30, generator=g), torch.randn(40, 1, generator=g)

    def loss(predicted, chosen):
        return F.mse_loss(predicted, y[chosen])

    errors = {}
    for kept in (0, 10):
        answer = fit(x, loss, 1, kept, torch.Generator().manual_seed(1))
        errors[kept] = (answer(x[:30]) - y[:30]).square().mean()
    assert 10 * errors[0] < errors[10]


def samples(informed: bool, count: int = 12) -> Samples:
    """Scenes whose tokens tell depth and one of two cameras, or nothing."""
    g = torch.Generator().manual_seed(0)
    truths, tokens = [], []
    for n in range(count):
        depth = torch.rand(40, generator=g) + 1
        sideways = n % 2
        first = torch.rand(1, PLACES, 2, generator=g) - 0.5
        step = torch.tensor([0.3, 0.0] if sideways else [0.0, 0.3])
        shifted = first + step * (torch.rand(1, PLACES, 1, generator=g) + 0.5)
        truths.append(SceneTruth(
            places=torch.zeros(40, 2, dtype=torch.long), log_depth=depth.log(), pairs=torch.tensor([[1, 0]]),
            matches=torch.stack([first, shifted], dim=2),
        ))  # fmt: skip
        told = torch.randn(40, 1, generator=g), torch.randn(1, 1, generator=g)
        tokens.append(Tokens(places=depth[:, None], pairs=torch.full((1, 1), float(sideways))) if informed else Tokens(
            places=told[0], pairs=told[1]))  # fmt: skip
    return Samples(tokens=tokens, truths=truths, learning=[n % 4 < 2 for n in range(count)])


@pytest.mark.parametrize(("errors", "most"), [(depth_errors, 0.05), (epipolar_errors, 0.05)])
def test_what_tokens_tell_is_decoded_in_other_scenes(errors, most):
    known, unknown = (list(errors(samples(informed))) for informed in (True, False))
    assert [n for n, *_ in known] == [2, 3, 6, 7, 10, 11]
    assert np.mean([value for _, value, _ in known]) < most < np.mean([value for _, value, _ in unknown])
    assert {count for *_, count in known} == {40 if errors is depth_errors else PLACES}
    assert list(errors(samples(True))) == known


# --- table and words -------------------------------------------------------------------------------------------------


def rows(values: dict[tuple[str, int], list[float]], what: str = DEPTH, part: str = "matching") -> pd.DataFrame:
    return pd.DataFrame(
        {
            "who": who, "part": part, "layer": layer, "timestep": 500, "what": what, "scene": f"s{n}", "unit": f"s{n}",
            "value": value, "count": 10,
        }
        for (who, layer), own in values.items()
        for n, value in enumerate(own)
    )  # fmt: skip


def test_a_layer_leads_the_better_of_both_others():
    scenes = np.linspace(0.1, 0.3, 8)
    back = scenes[::-1]
    table = decoding_table(
        rows(
            {
                (THIS, 3): list(scenes),
                (GREY, 3): list(scenes + 0.1),
                (NO_MODEL, 3): list(scenes + 0.2),
                (THIS, 7): list(scenes),
                (GREY, 7): list(back),
                (NO_MODEL, 7): list(back + 0.1),
            }
        )
    )
    first, second = table.to_dict("records")
    assert (first["error"], first["grey"], first["none"], first["lead"]) == pytest.approx((0.2, 0.3, 0.4, 0.1))
    assert first["lead_low"] == pytest.approx(0.1)
    assert second["lead_low"] < 0 < second["lead_high"]
    (unused,) = decoding_words(table, [7])
    assert (
        "layer 3 is shown to say more than cameras only and than no model; not among the layers shown to match: 3."
        in unused
    )
    (used,) = decoding_words(table, [3])
    assert used.endswith("than cameras only and than no model.")


def test_what_no_layer_says_is_said():
    table = decoding_table(rows({(THIS, 3): [0.2] * 8, (GREY, 3): [0.1] * 8, (NO_MODEL, 3): [0.3] * 8}, EPIPOLAR))
    (said,) = decoding_words(table, [])
    assert said.startswith("The fundamental matrix: from the queries and keys of layer 3 Sampson's distance")
    assert "layer 3 is shown to say more than no model" in said  # cameras only is no rival there
    (said,) = decoding_words(decoding_table(rows({(who, 3): [0.2] * 8 for who in (THIS, GREY, NO_MODEL)})), [])
    assert said.endswith("no layer is shown to say more than cameras only and than no model.")
    (said,) = decoding_words(decoding_table(rows({(who, 3): [0.2] * 2 for who in (THIS, GREY, NO_MODEL)})), [])
    assert "too few independent units" in said


def test_each_layer_has_to_lead_both_others_itself():
    """A rival that is better on the whole does not stand for one that is better in this layer."""
    values = {(THIS, 3): 0.2, (GREY, 3): 0.15, (NO_MODEL, 3): 0.25, (THIS, 7): 0.2, (GREY, 7): 0.6, (NO_MODEL, 7): 0.25}
    table = decoding_table(rows({key: [value + n / 1000 for n in range(8)] for key, value in values.items()}))
    first, second = table.to_dict("records")
    assert (first["lead"], second["lead"]) == pytest.approx((-0.05, 0.05))
    assert first["lead_high"] < 0 < second["lead_low"]


def test_errors_are_averaged_over_decoders():
    one, two, both = (samples(True) for _ in range(3))
    seeds = [(1,), (2,), (1, 2)]
    values = [
        [value for _, value, _ in depth_errors(replace(given, seeds=seed))]
        for given, seed in zip((one, two, both), seeds, strict=True)
    ]
    np.testing.assert_allclose(values[2], np.mean(values[:2], axis=0), rtol=1e-5)
