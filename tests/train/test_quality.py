"""The measures of generated views: known values, laws, other libraries, and what is missing."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg
from torch import Tensor, nn

from probe.correspondence import project_tokens
from probe.geometry import rotation_degrees
from probe.image_quality import LPIPS_WEIGHTS, absence, load_lpips, match_error
from probe.models.model import MultiViewModel, to_latents
from probe.models.schedules import pixel_scheduler, velocity
from probe.records import (
    COPY,
    IMAGE_METRICS,
    LPIPS,
    MATCH_ERROR,
    MEAN_COLOUR,
    METHODS,
    MODEL,
    PSNR,
    PSNR_ONE_STEP,
    SSIM,
    TRUTH,
)
from probe.scenes.shapes import draw_shapes, make_views
from probe.views import Views, resize
from train.quality.images import (
    FEATURE_EXTRACTORS_REGISTRY,
    ColourCells,
    evaluate_quality,
    nearest_reference,
    quality_summary,
    set_distances,
    trivial_baselines,
    worst_cases,
)
from train.settings import COLOUR_CELLS, EXTRACTORS, INCEPTION

SIZE = 16
SEEDS = st.integers(0, 2**31 - 1)
laws = settings(max_examples=20, deadline=None)
KEYS = ["scene", "view", "rotation_deg", "n_ref", "method", "metric", "value", "count"]


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def photograph(n_ref: int = 1, *, b: int = 2, f: int = 3, size: int = SIZE, seed: int = 0) -> Views:
    g = torch.Generator().manual_seed(seed)
    rotation = 5 + 25 * torch.rand(b, f - 1, generator=g)
    views = make_views(draw_shapes(b, generator=g), rotation, size=size, n_ref=n_ref, generator=g, supersample=2)
    return replace(views, names=tuple(f"room-{k}" for k in range(b)))


class Oracle(nn.Module):
    """Predicts the true v, of the image plus an offset."""

    def __init__(self, views: Views, noise: Tensor, offset: float = 0.0) -> None:
        super().__init__()
        self.clean, self.noise = to_latents(resize(views, SIZE, SIZE).image + offset), noise

    def forward(self, latents, t, inputs, domain):
        return velocity(self.clean, self.noise, pixel_scheduler().alphas_cumprod[t])


def oracle(views: Views, offset: float = 0.0) -> tuple[MultiViewModel, Tensor]:
    noise = torch.randn(*views.image.shape[:3], SIZE, SIZE, generator=torch.Generator().manual_seed(5))
    network = Oracle(views, noise, offset)
    return MultiViewModel(name="oracle", network=network, alpha_bar=pixel_scheduler().alphas_cumprod, size=SIZE), noise


def value(rows: pd.DataFrame, method: str, metric: str) -> np.ndarray:
    return rows[(rows["method"] == method) & (rows["metric"] == metric)]["value"].to_numpy()


@pytest.fixture
def cache(tmp_path, monkeypatch: pytest.MonkeyPatch):
    """An empty cache of weights."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def test_the_names_of_the_weights_are_those_that_the_libraries_look_for():
    from torch_fidelity import feature_extractor_inceptionv3, sample_similarity_lpips
    from torchvision.models import VGG16_Weights

    urls = (sample_similarity_lpips.URL_VGG16_LPIPS, VGG16_Weights.IMAGENET1K_V1.url)
    assert tuple(url.rpartition("/")[2] for url in urls) == LPIPS_WEIGHTS
    assert feature_extractor_inceptionv3.URL_INCEPTION_V3.rpartition("/")[2] == EXTRACTORS[INCEPTION].files[0]


def test_lpips_is_its_definition_on_the_weights_of_the_cache(tmp_path, monkeypatch: pytest.MonkeyPatch):
    """Random weights in files of the names and shapes that the library loads, in a torch home of the test's own."""
    from torchvision.models.vgg import cfgs, make_layers

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.manual_seed(0)
    layers = make_layers(cfgs["D"])
    wide = {"0": (4096, 25088), "3": (4096, 4096), "6": (1000, 4096)}  # of the classifier: not used, so one number
    unused = {f"classifier.{k}.weight": torch.zeros(1).expand(shape) for k, shape in wide.items()}
    unused |= {f"classifier.{k}.bias": torch.zeros(1).expand(shape[0]) for k, shape in wide.items()}
    used = {f"features.{name}": weight.half() for name, weight in layers.state_dict().items()}
    lines = [torch.rand(width) / width for width in (64, 128, 256, 512, 512)]
    torch.save(
        {f"lin{k}.model.1.weight": line[None, :, None, None] for k, line in enumerate(lines)}, cache / LPIPS_WEIGHTS[0]
    )
    assert load_lpips() is None  # one of two files is not enough
    torch.save({**used, **unused}, cache / LPIPS_WEIGHTS[1])
    assert absence(LPIPS, LPIPS_WEIGHTS) == ""
    lpips = load_lpips()
    layers.load_state_dict({name.removeprefix("features."): weight.float() for name, weight in used.items()})
    pair = drawn(0, 2, 1, 3, 32, 32)
    centre, spread = (torch.tensor(x)[:, None, None] for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    states, expected = [(image - centre) / spread for image in pair], 0.0
    with torch.no_grad():
        for place, layer in enumerate(layers):
            states = [layer(state) for state in states]
            if place in (3, 8, 15, 22, 29):
                a, b = (state / state.square().sum(1, keepdim=True).sqrt() for state in states)
                expected += float(((a - b).square()[0] * lines.pop(0)[:, None, None]).sum(0).mean())
        assert lpips(*(255 * image for image in pair)).item() == pytest.approx(expected, rel=1e-3)
    views = photograph(b=1)
    model, noise = oracle(views)
    rows = evaluate_quality(model, views, noise, steps=2, lpips=lpips).rows
    assert value(rows, MODEL, LPIPS) == pytest.approx(0, abs=1e-6)
    assert (value(rows, COPY, LPIPS) > 1e-4).all()


# --- true matches ---------------------------------------------------------------------------------------------------


def test_the_true_image_agrees_with_the_references_and_a_copy_does_not():
    views = photograph(size=64)
    seen = project_tokens(views, views.size)
    floor = match_error(views.image, seen, views.size, 1)[0]
    copied = match_error(trivial_baselines(views)[COPY], seen, views.size, 1)[0]
    assert (floor < 0.05).all()
    assert (3 * floor < copied).all()


# --- trivial answers -------------------------------------------------------------------------------------------------


def test_trivial_baselines_take_the_reference_rotated_least():
    views = photograph(2, f=4)
    nearest = nearest_reference(views)
    answers = trivial_baselines(views)
    for scene in range(2):
        for target in (2, 3):
            turns = rotation_degrees(views.world_to_cam[scene, :2], views.world_to_cam[scene, target].expand(2, 4, 4))
            best = int(turns.argmin())
            assert nearest[scene, target - 2] == best
            assert torch.equal(answers[COPY][scene, target], views.image[scene, best])
            mean = views.image[scene, best].mean((1, 2))[:, None, None].expand(3, SIZE, SIZE)
            torch.testing.assert_close(answers[MEAN_COLOUR][scene, target], mean)
    assert 0 < nearest.sum() < 4  # both references are nearest somewhere
    for image in answers.values():
        assert torch.equal(image[:, :2], views.image[:, :2])


# --- one batch -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_ref", [1, 2])
def test_a_perfect_model_is_measured_as_perfect(n_ref: int):
    views = photograph(n_ref, size=32)
    model, noise = oracle(views)
    quality = evaluate_quality(model, views, noise, steps=3)
    rows = quality.rows
    assert list(rows.columns) == KEYS
    assert (value(rows, MODEL, PSNR) > 90).all()
    assert value(rows, MODEL, SSIM) == pytest.approx(1, abs=1e-5)
    assert value(rows, MODEL, MATCH_ERROR) == pytest.approx(value(rows, TRUTH, MATCH_ERROR), abs=1e-5)
    assert np.isnan(value(rows, MODEL, LPIPS)).all()
    assert (rows[rows["metric"] == LPIPS]["count"] == 0).all()
    assert rows.groupby(["method", "metric"]).size().to_dict() == {
        **{(method, metric): 2 * (3 - n_ref) for method in METHODS for metric in IMAGE_METRICS},
        (TRUTH, MATCH_ERROR): 2 * (3 - n_ref),
    }
    small = resize(views, SIZE, SIZE)
    torch.testing.assert_close(quality.targets[TRUTH], small.image[:, n_ref:], rtol=0, atol=0)
    torch.testing.assert_close(quality.targets[MODEL], small.image[:, n_ref:], rtol=0, atol=1e-4)


def test_an_offset_shows_in_psnr_of_the_model_only():
    views = replace(photograph(), image=0.25 + 0.5 * photograph().image)
    model, noise = oracle(views, offset=0.1)
    rows = evaluate_quality(model, views, noise, steps=2).rows
    assert value(rows, MODEL, PSNR) == pytest.approx(20, abs=1e-3)
    perfect = evaluate_quality(*oracle(views)[:1], views, noise, steps=2).rows
    for method, metric in ((COPY, PSNR), (MEAN_COLOUR, SSIM), (TRUTH, MATCH_ERROR)):
        assert np.array_equal(value(rows, method, metric), value(perfect, method, metric))


def test_the_psnr_of_one_step_is_that_of_a_sample_in_one_step_whatever_the_number_of_steps():
    class Grey(nn.Module):
        def forward(self, latents, t, inputs, domain):
            return 0.9 * latents  # of pure noise: an image of faint noise

    views = photograph()
    noise = oracle(views)[1]
    model = replace(oracle(views)[0], network=Grey())
    one, four = (evaluate_quality(model, views, noise, steps=steps).rows for steps in (1, 4))
    assert np.array_equal(value(one, MODEL, PSNR), value(one, MODEL, PSNR_ONE_STEP))
    assert np.array_equal(value(four, MODEL, PSNR_ONE_STEP), value(one, MODEL, PSNR))
    assert not np.array_equal(value(four, MODEL, PSNR_ONE_STEP), value(four, MODEL, PSNR))
    for method in (COPY, MEAN_COLOUR):
        assert np.array_equal(value(four, method, PSNR_ONE_STEP), value(four, method, PSNR))


def test_rows_name_scene_view_and_the_rotation_against_view_0():
    views = photograph(2)
    model, noise = oracle(views)
    rows = evaluate_quality(model, views, noise, steps=1).rows
    assert set(rows["n_ref"]) == {2}
    assert set(rows["view"]) == {2}
    for scene in range(2):
        turn = rotation_degrees(views.world_to_cam[scene, 2], views.world_to_cam[scene, 0]).item()
        assert rows[rows["scene"] == f"room-{scene}"]["rotation_deg"].to_numpy() == pytest.approx(turn, abs=1e-4)


def test_scenes_are_measured_apart():
    views = photograph()
    model, noise = oracle(views)
    together = evaluate_quality(model, views, noise, steps=2).rows
    for k in range(2):
        network = Oracle(views.scene(k), noise[k : k + 1])
        alone = evaluate_quality(replace(model, network=network), views.scene(k), noise[k : k + 1], steps=2).rows
        same = together[together["scene"] == f"room-{k}"].reset_index(drop=True)
        assert same["value"].to_numpy() == pytest.approx(alone["value"].to_numpy(), rel=1e-4, abs=1e-4, nan_ok=True)
        pd.testing.assert_frame_equal(same.drop(columns="value"), alone.drop(columns="value"))


# --- sets ------------------------------------------------------------------------------------------------------------


def test_colour_cells_known():
    image = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    image[0, 0, :2, :2] = 255  # red, upper left
    image[0, 1, 2:, ::2] = 255  # green stripes, below
    mean, deviation = ColourCells(COLOUR_CELLS, ("cells",))(image)[0].reshape(2, 3, 2, 2)
    assert mean.tolist() == [[[1, 0], [0, 0]], [[0, 0], [0.5, 0.5]], [[0, 0], [0, 0]]]
    assert deviation.tolist() == [[[0, 0], [0, 0]], [[0, 0], [0.5, 0.5]], [[0, 0], [0, 0]]]


def test_set_distances_are_those_of_their_definitions():
    images, truth = drawn(0, 40, 3, 8, 8).square(), drawn(1, 40, 3, 8, 8)
    found = set_distances(images, truth, COLOUR_CELLS)
    describe = ColourCells(COLOUR_CELLS, ("cells",))
    x, y = (describe((part * 255).round().to(torch.uint8))[0].double().numpy() for part in (images, truth))
    covariance = [np.cov(part, rowvar=False) for part in (x, y)]
    cross = linalg.sqrtm(covariance[0] @ covariance[1]).real
    fid = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(covariance[0] + covariance[1] - 2 * cross)
    xx, yy, xy = ((a @ b.T / 24 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    off = [(k.sum() - np.trace(k)) / (40 * 39) for k in (xx, yy)]
    assert found[f"fid[{COLOUR_CELLS}]"] == pytest.approx(fid, rel=1e-3)
    assert found[f"kid[{COLOUR_CELLS}]"] == pytest.approx(sum(off) - 2 * xy.mean(), abs=1e-4)
    same = set_distances(truth, truth, COLOUR_CELLS)
    assert same[f"fid[{COLOUR_CELLS}]"] == pytest.approx(0, abs=1e-4)
    assert same[f"kid[{COLOUR_CELLS}]"] < found[f"kid[{COLOUR_CELLS}]"]


def test_a_set_without_weights_or_images_has_no_distance(cache):
    images = drawn(0, 3, 3, 8, 8)
    for extractor, part in ((INCEPTION, images), (COLOUR_CELLS, images[:1])):
        found = set_distances(part, part, extractor)
        assert list(found) == [f"fid[{extractor}]", f"kid[{extractor}]"]
        assert all(np.isnan(distance) for distance in found.values())


def test_an_extractor_that_is_not_registered_is_refused():
    with pytest.raises(ValueError, match=r"set_distances: 'inception' is not registered .*colour-cells.*choose one"):
        set_distances(drawn(0, 3, 3, 8, 8), drawn(1, 3, 3, 8, 8), "inception")


def test_an_extractor_that_a_user_registers_is_used(monkeypatch: pytest.MonkeyPatch):
    class Red(ColourCells):
        def forward(self, image):
            return (image[:, 0].double().flatten(1).mean(1, keepdim=True).repeat(1, 2),)

    monkeypatch.setitem(FEATURE_EXTRACTORS_REGISTRY, "red", Red)
    images = drawn(0, 5, 3, 8, 8)
    other = torch.cat([images[:, :1], 1 - images[:, 1:]], dim=1)  # equal in red
    assert set_distances(images, other, "red")["fid[red]"] == pytest.approx(0, abs=1e-6)


# --- tables ----------------------------------------------------------------------------------------------------------


def table(values: dict[str, tuple[float, float]], metric: str = PSNR) -> pd.DataFrame:
    """Rows of one metric: per scene, the rotation of its one target and the value."""
    rows = [
        (scene, 1, rotation, 1, method, metric, number, int(np.isfinite(number)))
        for scene, (rotation, number) in values.items()
        for method in METHODS
    ]
    return pd.DataFrame(rows, columns=KEYS)


def test_summary_known():
    found = quality_summary(table({"a": (10.0, 20.0), "b": (29.9, 30.0), "c": (30.0, 10.0)}))
    assert list(found.columns) == [
        "n_ref", "rotation_bin", "method", "metric", "value", "low", "high", "scenes", "units", "count"
    ]  # fmt: skip
    assert list(found["rotation_bin"]) == ["0-30"] * 3 + ["30-60"] * 3 + ["all"] * 3
    assert list(found["method"]) == list(METHODS) * 3
    own = found[found["method"] == MODEL].set_index("rotation_bin")
    assert own["value"].to_dict() == {"0-30": 25.0, "30-60": 10.0, "all": 20.0}
    assert own["scenes"].to_dict() == {"0-30": 2, "30-60": 1, "all": 3}
    assert own["units"].to_dict() == {"0-30": 2, "30-60": 1, "all": 3}
    assert own[["low", "high"]].isna().all(axis=None)  # below five units


def test_intervals_of_image_metrics_are_those_of_means():
    """From five units on, by Student's t, though SSIM lies between 0 and 1 as a share does."""
    values = [0.2, 0.3, 0.25, 0.35, 0.3]
    found = quality_summary(table({f"s{k}": (50.0, value) for k, value in enumerate(values)}, SSIM))
    own = found[(found["method"] == MODEL) & (found["rotation_bin"] == "all")].iloc[0]
    assert own["value"] == pytest.approx(np.mean(values))
    half = (own["high"] - own["low"]) / 2
    assert (own["high"] + own["low"]) / 2 == pytest.approx(own["value"])
    assert half >= 2.776 * np.std(values, ddof=1) / 5**0.5 * 0.999


def test_views_of_one_recording_are_one_unit():
    rows = table({f"s{k}": (50.0, float(k)) for k in range(10)}).assign(unit="kitchen")
    found = quality_summary(rows)
    assert found["units"].eq(1).all()
    assert found["low"].isna().all()


def test_summary_keeps_what_is_missing_as_nan_with_no_scene():
    found = quality_summary(table({"a": (10.0, float("nan")), "b": (40.0, float("nan"))}, LPIPS))
    assert len(found) == 9
    assert found[["value", "low", "high"]].isna().all(axis=None)
    assert (found[["scenes", "count"]] == 0).all(axis=None)
    mixed = quality_summary(table({"a": (10.0, float("nan")), "b": (40.0, 2.0)}, LPIPS))
    own = mixed[mixed["method"] == MODEL].set_index("rotation_bin")
    assert own["value"].isna().tolist() == [True, False, False]
    assert own.loc["all", ["value", "scenes"]].tolist() == [2.0, 1]


@laws
@given(seed=SEEDS, scenes=st.integers(5, 12))
def test_intervals_hold_their_mean_and_shrink_to_equal_values(seed: int, scenes: int):
    numbers = 10 * drawn(seed, scenes).double()
    found = quality_summary(table({f"s{k}": (50.0, float(number)) for k, number in enumerate(numbers)}))
    assert (found["low"] <= found["value"] + 1e-9).all()
    assert (found["value"] <= found["high"] + 1e-9).all()
    assert found["value"].to_numpy() == pytest.approx(numbers.mean().item())
    flat = quality_summary(table({f"s{k}": (50.0, 3.0) for k in range(scenes)}))
    assert (flat[["value", "low", "high"]] == 3.0).all(axis=None)


def test_the_worst_case_comes_first_with_its_trivial_answer_and_its_floor():
    views = photograph()
    noise = oracle(views)[1]
    spoiled = replace(views, image=views.image.clone())
    spoiled.image[1, 2] = 1 - spoiled.image[1, 2]  # what the model draws
    rows = evaluate_quality(oracle(spoiled)[0], views, noise, steps=1).rows
    found = worst_cases(rows)
    assert list(found.columns) == [
        "scene", "view", "rotation_deg", "n_ref", PSNR, SSIM, LPIPS, MATCH_ERROR, "copy_psnr", "mean_colour_psnr",
        "truth_match_error"
    ]  # fmt: skip
    assert len(found) == 4
    assert found.loc[0, ["scene", "view"]].tolist() == ["room-1", 2]
    assert found[PSNR].is_monotonic_increasing
    assert found[LPIPS].isna().all()
    first = rows[(rows["scene"] == "room-1") & (rows["view"] == 2)]
    assert found.loc[0, "copy_psnr"] == value(first, COPY, PSNR).item()
    assert found.loc[0, "truth_match_error"] == value(first, TRUTH, MATCH_ERROR).item()
