"""One contract for every name that ``--model`` takes: found, seen, scored, edited, and estimated as it runs."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from every_model import EVERY
from standin_packages import standins

from probe import run
from probe.capture import AttentionTap
from probe.interventions import edit_of
from probe.interventions.edits import Place
from probe.layers import JOINING, Layer, select_layers
from probe.measure.model import denoise, measure_layers, scene_noise
from probe.measure.scene import Scene, make_scene
from probe.models import MODELS, load_model
from probe.models.model import MultiViewModel, model_layers, predict, to_device
from probe.models.parts.files import Loading
from probe.plan.plan import make_plan
from probe.plan.settings import Settings
from probe.protocols import ATTENTION_V1
from probe.scenes import Request, open_scenes
from probe.views import resize

MIDDLE = 500
PAGED = ("cat3d-tiny", "sd21", "wan", "vggt")
"""Models whose page is built too: one of each kind."""
VIEWS, SIDE = 3, 40  # images of another side than any model's


@pytest.fixture(scope="module", autouse=True)
def packages() -> Iterator[None]:
    with standins():
        yield


@pytest.fixture(scope="module", params=EVERY)
def words(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, packages: None) -> list[str]:
    return EVERY[request.param](tmp_path_factory.mktemp("model"))


def settings_of(words: list[str], **changes: object) -> Settings:
    flags = dict(zip(words[1::2], words[2::2], strict=True))
    size = flags.get("--model-size")
    return Settings(
        model=words[0], base=flags.get("--base"), model_size=None if size is None else int(size), pairs=1, views=VIEWS,
        image_size=SIDE, timesteps=None, baselines="none", **changes,
    )  # fmt: skip


@pytest.fixture(scope="module")
def model(words: list[str]) -> MultiViewModel:
    settings = settings_of(words)
    return load_model(settings.model, Loading(base=settings.base, size=settings.model_size))


@pytest.fixture(scope="module")
def t(model: MultiViewModel) -> int:
    """A timestep that the model has: a feed-forward one has only that of clean images."""
    return min(MIDDLE, len(model.alpha_bar) - 1)


@pytest.fixture(scope="module")
def layers(model: MultiViewModel) -> list[Layer]:
    return select_layers(model_layers(model), model.default_layers)


@pytest.fixture(scope="module")
def scene(model: MultiViewModel, layers: list[Layer]) -> Scene:
    views, _ = open_scenes("shapes", Request(groups=1, views=VIEWS, n_ref=1, size=SIDE)).load(0)
    return make_scene(views, layers, scene_noise(model, views, 0, 0))


def predicted(model: MultiViewModel, scene: Scene, t: int) -> torch.Tensor:
    with torch.no_grad():
        return predict(model, resize(scene.views, model.size, model.size), torch.tensor([t]), scene.noise)


def followed(model: MultiViewModel, scene: Scene, layers: list[Layer], t: int) -> torch.Tensor:
    """What an edit of the first layer reaches: the prediction, or the last layer where no image is predicted."""
    if model.prediction != "none":
        return predicted(model, scene, t)
    with AttentionTap(model.network, layers[-1], keep="detached") as tap:
        predicted(model, scene, t)
    return tap[layers[-1]].q


def test_every_name_has_its_contract():
    assert set(EVERY) == set(MODELS)


def test_layers_are_found(model: MultiViewModel, layers: list[Layer]):
    assert layers
    assert not [layer for layer in model_layers(model) if layer.kind == "unseen" or layer.reason]
    if model.default_layers == "3d":
        assert all(layer.kind in JOINING and layer.layout(VIEWS).tokens > 0 for layer in layers)


def test_looking_changes_no_bit(model: MultiViewModel, layers: list[Layer], scene: Scene, t: int):
    expected = predicted(model, scene, t)
    with AttentionTap(model.network, layers):
        assert torch.equal(predicted(model, scene, t), expected)
    assert torch.equal(predicted(model, scene, t), expected)


def test_scores_are_in_range(model: MultiViewModel, layers: list[Layer], scene: Scene, t: int):
    table = measure_layers(model, scene, layers[:2], (t,), ATTENTION_V1)
    shares = table[table["metric"].str.startswith(("precision", "mass"))]
    assert set(table["layer"]) == {layer.index for layer in layers[:2]}
    assert shares["value"].dropna().between(0, 1 + 1e-6).all()
    assert shares["value"].notna().any()


def test_an_identity_edit_changes_the_prediction_and_nothing_stays(
    model: MultiViewModel, layers: list[Layer], scene: Scene, t: int
):
    joining = [layer for layer in layers if layer.kind in JOINING]
    if not joining:
        pytest.skip(f"{model.name} joins no views")
    layer, calls = joining[0], []
    denoise(model, scene, [layer], t, calls.append)
    place = Place(layer=layer.index or 0, layout=calls[0].layout, truth=scene.truths[layer.grid].token, n_ref=1,
                  timesteps=(t,))  # fmt: skip
    expected = followed(model, scene, layers, t)
    with AttentionTap(model.network, layer, edit=edit_of("identity", place)):
        edited = followed(model, scene, layers, t)
    assert edited.isfinite().all()
    assert not torch.equal(edited, expected)
    assert torch.equal(followed(model, scene, layers, t), expected)


def test_the_rehearsal_agrees(words: list[str], layers: list[Layer]):
    plan = make_plan(settings_of(words, dry_run=True))
    assert [(x.index, x.name, x.grid, x.heads) for x in plan.layers] == [
        (x.index, x.name, x.grid, x.heads) for x in layers
    ]
    assert [x.on(VIEWS).tokens for x in plan.layers] == [x.on(VIEWS).tokens for x in layers]


def test_weights_that_wait_elsewhere_change_nothing(
    words: list[str], model: MultiViewModel, layers: list[Layer], scene: Scene, t: int
):
    """As with --offload: found and run alike, to the bit."""
    settings = settings_of(words)
    loaded = load_model(settings.model, Loading(base=settings.base, size=settings.model_size))
    loaded.network.load_state_dict(model.network.state_dict())  # random ones are drawn anew
    offloaded = to_device(loaded, torch.device("cpu"), offload=True)
    assert "meta" in {parameter.device.type for parameter in offloaded.network.parameters()}
    assert select_layers(model_layers(offloaded), offloaded.default_layers) == layers
    assert torch.equal(predicted(offloaded, scene, t), predicted(model, scene, t))


@pytest.mark.slow
def test_a_run_ends_in_its_page(words: list[str], t: int, tmp_path: Path):
    flags = ["--pairs", "1", "--views", str(VIEWS), "--image-size", str(SIDE), "--timesteps", str(t)]
    page = words[0].partition(":")[0] in PAGED
    flags += ["--baselines", "null"] if page else ["--no-report", "--baselines", "none", "--interventions", "none"]
    run.cli(["--model", *words, *flags, "--out", str(tmp_path / "run")])
    assert not page or (tmp_path / "run" / "report.html").stat().st_size > 50_000
    assert pd.read_csv(tmp_path / "run" / "layers.csv")["precision"].between(0, 1).any()
