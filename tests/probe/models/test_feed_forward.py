"""VGGT and Depth Anything 3 as probed models: on stand-ins for their packages, and on the packages where installed."""

import importlib
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from small_feed_forward import PACKAGES, PLACES, SMALL, make_network, package_class, save_small
from standin_packages import standins
from torch import Tensor

from probe.capture import AttentionTap
from probe.interventions import Place, edit_of
from probe.layers import Layer, find_layers, joint_layout
from probe.measure.model import (
    in_own_precision,
    layer_call,
    measure_layers,
    scene_noise,
    timestep_table,
    timesteps_of,
)
from probe.measure.scene import make_scene
from probe.models import da3, load_model, randomised, vggt
from probe.models.model import MultiViewModel, model_layers, predict, predicted_clean, prediction_target, to_device
from probe.models.parts.feed_forward import FeedForwardModel, PlainNumbers
from probe.models.parts.files import META, Loading
from probe.models.sampling import predict_views, sample_views
from probe.protocols import PROTOCOLS
from probe.run import cli
from probe.scenes import Request, open_scenes
from probe.views import Views, resize
from train.cameo import cli as train
from train.evaluate import cli as evaluate

SIDE, PATCHES = 56, 4
KINDS = ("vggt", "da3")
JOINT = {
    "vggt": {1: "global_blocks.0.attn", 3: "global_blocks.1.attn", 5: "global_blocks.2.attn"},
    "da3": {3: "blocks.3.attn", 5: "blocks.5.attn"},
}
BEFORE = {"vggt": 5, "da3": 1}


@pytest.fixture(scope="module", params=["stand-in", "package"])
def installed(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "package":
        yield "package"
        return
    with standins():
        yield "stand-in"


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest, installed: str) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what the package imports
        pytest.importorskip(PACKAGES[request.param][0], reason="its package is not installed", exc_type=ImportError)
    return request.param


@pytest.fixture(scope="module")
def folder(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small(kind, tmp_path_factory.mktemp(kind) / "small")


def load(kind: str, folder: Path, **loading: object) -> FeedForwardModel:
    model = load_model(f"{kind}:{folder}", Loading(size=SIDE, **loading))  # type: ignore[arg-type]
    assert isinstance(model, FeedForwardModel)
    return model


@pytest.fixture(scope="module")
def model(kind: str, folder: Path) -> FeedForwardModel:
    return load(kind, folder)


def images(views: int = 3, side: int = SIDE, seed: int = 0) -> Tensor:
    return torch.rand(1, views, 3, side, side, generator=torch.Generator().manual_seed(seed))


def scene(model: MultiViewModel) -> Views:
    return resize(open_scenes("shapes", Request(groups=1, views=3, n_ref=1)).load(0)[0], model.size, model.size)


def queries(model: MultiViewModel, shown: Tensor, layer: Layer) -> Tensor:
    """Give a layer's queries on the views' grids: [heads views rows columns channels]."""
    with AttentionTap(model.network, [layer], keep="detached") as tap:
        model.network(shown)
    call = layer_call(tap[layer], layer, shown.shape[1], model, 0)
    return call.layout.split(call.q)[0]


# --- layers ----------------------------------------------------------------------------------------------------------


def test_blocks_over_all_views_are_3d_and_those_within_one_are_not(kind: str, model: FeedForwardModel):
    layers = model_layers(model)
    assert [layer.index for layer in layers] == list(range(6))
    assert {layer.index: layer.name for layer in layers if layer.kind == "3d"} == JOINT[kind]
    assert {layer.kind for layer in layers if layer.index not in JOINT[kind]} == {"view"}
    assert {layer.grid for layer in layers} == {(PATCHES, PATCHES)}
    assert {(layer.prefix, layer.per_view_prefix, layer.suffix) for layer in layers} == {(0, BEFORE[kind], 0)}
    assert find_layers(model.network) == layers


def test_without_weights_the_layers_are_the_same(kind: str, folder: Path, model: FeedForwardModel):
    outline = load(kind, folder, outline=True)
    assert all(weight.is_meta for weight in (*outline.network.parameters(), *outline.network.buffers()))
    assert model_layers(outline) == model_layers(model)


@pytest.mark.parametrize("view", [0, 2])
def test_a_patch_moves_its_own_token_and_no_other(model: FeedForwardModel, view: int):
    first = model_layers(model)[0]
    changed = images()
    changed[:, view, :, 14:28, 42:56] += 0.3  # row 1, column 3
    differs = (queries(model, changed, first) != queries(model, images(), first)).any(-1).any(0)
    assert differs.nonzero().tolist() == [[view, 1, 3]]


@pytest.mark.parametrize("view", [0, 1, 2])
def test_views_stay_in_their_order_where_they_meet(model: FeedForwardModel, view: int):
    layer = next(layer for layer in model_layers(model) if layer.kind == "3d")
    changed = images()
    changed[:, view] = images(seed=1)[:, view]
    differs = (queries(model, changed, layer) != queries(model, images(), layer)).flatten(2).any(-1).any(0)
    assert differs.nonzero().flatten().tolist() == [view]


def test_tokens_within_a_view_lie_on_its_grid_after_the_special_ones(kind: str, model: FeedForwardModel):
    layout = joint_layout(model_layers(model)[0], 2)
    assert layout.per_view_prefix == BEFORE[kind]
    assert layout.tokens == 2 * (BEFORE[kind] + PATCHES**2)


# --- numbers ---------------------------------------------------------------------------------------------------------


def own_output(kind: str, shown: Tensor) -> Tensor:
    """Give what the package's class itself returns for the patches after its last blocks."""
    network = make_network(kind)
    if kind == "vggt":
        layers, start = network(shown)
        return layers[-1][:, :, start:]
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normal = (shown - mean[:, None, None]) / deviation[:, None, None]
    return network.get_intermediate_layers(normal, 1, ref_view_strategy="first")[0][0][0]


def test_features_are_the_packages_own_bit_for_bit_with_and_without_a_tap(kind: str, model: FeedForwardModel):
    expected = own_output(kind, images())
    features = model.network(images())
    assert torch.equal(features.flatten(3).transpose(2, 3), expected)
    with AttentionTap(model.network, "", keep="detached") as tap:
        assert torch.equal(model.network(images()), features)
    assert len(tap.calls) == len(model_layers(model))


def test_noise_and_time_do_not_enter(model: FeedForwardModel):
    views, t = scene(model), torch.zeros(1, dtype=torch.long)
    one, two = (torch.randn(1, 3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    seen = list[Tensor]()
    with model.network.register_forward_hook(lambda _network, _args, features: seen.append(features)):
        predicted = [predict(model, views, t, noise) for noise in (one, two)]
    assert all(torch.equal(image, views.image) for image in predicted)
    assert all(torch.equal(features, model.network(views.image)) for features in seen)
    assert len(seen) == 2
    assert model.condition(views) == {}
    assert torch.equal(model.decode(model.encode(views.image)), views.image)


def test_an_identity_edit_changes_what_follows(model: FeedForwardModel):
    layer = next(layer for layer in model_layers(model) if layer.kind == "3d")
    place = Place(layer=0, layout=layer.layout(3), truth=torch.full((1, 3, 16, 3), -1), n_ref=1, timesteps=(0,) * 2)
    usual = model.network(images())
    with AttentionTap(model.network, [layer], edit=edit_of("identity", place)):
        assert not torch.equal(model.network(images()), usual)
    with AttentionTap(model.network, [layer], edit=lambda call, run: run(call.q, call.k, call.v)):
        assert torch.equal(model.network(images()), usual)


def test_random_weights_are_drawn_by_seed(model: FeedForwardModel):
    state = torch.get_rng_state()
    first, again, other = (randomised(model, seed).network(images()) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, model.network(images()))


def test_half_precision_is_close(kind: str, folder: Path, model: FeedForwardModel):
    low = to_device(load(kind, folder), torch.device("cpu"), torch.bfloat16)
    expected = model.network(images())
    with low.network.register_forward_pre_hook(in_own_precision, with_kwargs=True):
        features = low.network(images())
    assert features.dtype == torch.bfloat16
    assert (features.float() - expected).abs().max() < 0.1 * expected.abs().max()


# --- sizes off the weights -------------------------------------------------------------------------------------------


def test_sizes_are_read_off_the_weights(kind: str, model: FeedForwardModel, folder: Path):
    assert SMALL[kind].items() <= {**model.network.settings, "patch_embed": "conv"}.items()  # type: ignore[operator]
    assert (model.name, model.folder, model.size) == (f"{kind}:small", folder, SIDE)
    assert not any(weight.requires_grad for weight in model.network.parameters())
    assert (model.card or {})["weights"] == "model.safetensors"
    assert "published layers" not in (model.card or {})  # of three blocks


def test_vggts_encoder_is_told_by_its_width(kind: str):
    if kind != "vggt":
        pytest.skip("of VGGT")
    with META, PlainNumbers():
        weights = package_class(kind)(img_size=70, embed_dim=384, depth=2, num_heads=6, patch_embed="dinov2_vits14_reg")
    assert vggt.settings_of(weights.state_dict()) == {
        "img_size": 70, "embed_dim": 384, "depth": 2, "num_heads": 6, "num_register_tokens": 4,
        "patch_embed": "dinov2_vits14_reg",
    }  # fmt: skip


PRESETS = [("s", 384, 12, 6, 4, "mlp"), ("b", 768, 12, 12, 4, "mlp"), ("l", 1024, 24, 16, 8, "mlp")]
PRESETS += [("g", 1536, 40, 24, 13, "swiglufused")]


@pytest.mark.parametrize(("width", "depth", "heads", "alternating", "ffn"), [preset[1:] for preset in PRESETS])
def test_da3s_published_sizes_are_told_by_their_weights(
    kind: str, width: int, depth: int, heads: int, alternating: int, ffn: str
):
    if kind != "da3":
        pytest.skip("of Depth Anything 3")
    settings = da3.settings_for(width=width, depth=depth, heads=heads, alternating=alternating, ffn=ffn)
    with META:
        weights = package_class(kind)(**settings).state_dict()
    assert da3.settings_of(weights) == settings


def test_presets_are_the_packages_own(kind: str, installed: str):
    if (kind, installed) != ("da3", "package"):
        pytest.skip("the package's own files")
    omegaconf = pytest.importorskip("omegaconf", reason="reads the package's presets")
    root = Path(importlib.import_module(PACKAGES["da3"][0]).__file__ or "").parents[2]
    for name, preset in zip(("small", "base", "large", "giant"), PRESETS, strict=True):
        net = omegaconf.OmegaConf.load(root / "configs" / f"da3-{name}.yaml").net
        assert (net.name, net.alt_start, net.qknorm_start, net.rope_start) == (f"vit{preset[0]}", *[preset[4]] * 3)


def test_layers_of_the_literature_are_told_in_this_suites_numbers(kind: str):
    if kind != "vggt":
        pytest.skip("of VGGT")
    deep = package_class(kind)(embed_dim=8, depth=24, num_heads=1, patch_embed="conv")
    assert "layers 21 to 33 here" in str(vggt.published(deep)["published layers"])  # no encoder's blocks in front


@pytest.mark.slow
def test_the_releases_sizes_and_the_layers_of_the_literature(kind: str):
    release = load_model(f"{kind}:random", Loading(outline=True))
    joint = [layer for layer in model_layers(release) if layer.kind == "3d"]
    native = {"vggt": (518, 24, 72, (37, 37)), "da3": (504, 4, 12, (36, 36))}[kind]
    assert (release.size, len(joint), len(model_layers(release)), joint[0].grid) == native
    said = str((release.card or {}).get("published layers", ""))
    if kind == "vggt":
        blocks = {int(layer.name.split(".")[1]): layer.index for layer in joint}
        assert f"layers {blocks[10]} to {blocks[16]} here" in said
        assert (blocks[10], blocks[16]) == (45, 57)
    else:
        assert not said


# --- runs ------------------------------------------------------------------------------------------------------------


def flags(kind: str, folder: Path, out: Path) -> list[str]:
    size = ["--model-size", str(SIDE), "--pairs", "4", "--views", "2", "--device", "cpu"]
    return ["--model", f"{kind}:{folder}", "--out", str(out), *size]


def test_all_layers_are_scored_at_the_clean_timestep(model: FeedForwardModel):
    views, _ = open_scenes("shapes", Request(groups=1, views=3, n_ref=1)).load(0)
    layers = model_layers(model)
    looked_at = make_scene(views, layers, scene_noise(model, views, 0, 0))
    scores = measure_layers(model, looked_at, layers, (0,), PROTOCOLS["attention-v1"])
    own = scores[scores["model"] == model.name]
    assert set(own["layer"]) == set(range(6))
    assert own.loc[own["metric"] == "precision@5%", "value"].dropna().between(0, 1).all()
    assert timestep_table(model, (0,))["alpha_bar"].tolist() == [1]


@pytest.mark.slow
def test_a_run_scores_all_layers_at_the_clean_timestep(
    kind: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    wanted = [*flags(kind, folder, tmp_path / "run"), "--layers", "all", "--baselines", "random,null"]
    cli([*wanted, "--dry-run"])
    assert "4 scenes, 1 timesteps" in capsys.readouterr().out
    cli(wanted)
    scores = pd.read_parquet(tmp_path / "run" / "scores.parquet")
    own = scores[scores["model"] == f"{kind}:small"]
    assert set(own["layer"]) >= set(range(6))
    assert set(own["timestep"]) == {0}
    precision = own[own["metric"] == "precision@5%"]["value"].dropna()
    assert precision.between(0, 1).all()
    assert precision.size > 0
    assert scores["model"].str.contains("random weights").any()
    assert not scores["protocol"].str.contains("intervention").any()
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "none: the model takes no noise" in page
    assert 'id="timesteps"' not in page


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--timesteps", "500"], "--timesteps 500: .*takes no noise: its only timestep is 0"),
        (["--interventions", "identity"], "predicts no image, which the effect of edits needs"),
        (["--edit-heads"], "predicts no image, which the effect of edits needs"),
        (["--sampling-steps", "2"], "predicts no image, which the effect of edits needs"),
        (["--base", "x"], "it takes no base; leave it out"),
        (["--model-size", "60"], "size of the views 60: expected a multiple of 14 pixels, such as the native"),
    ],
)
def test_what_a_model_without_noise_cannot_do_is_refused(
    kind: str, folder: Path, tmp_path: Path, wrong: list[str], message: str, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit):
        cli([*flags(kind, folder, tmp_path / "run"), *wrong])
    said = capsys.readouterr().err.strip()
    assert re.search(message, said)
    assert "\n" not in said
    assert not (tmp_path / "run").exists()


def test_timesteps_of_a_model_without_noise(model: FeedForwardModel):
    assert timesteps_of(model, None, "100,500") == timesteps_of(model, "0", "100,500") == (0,)
    assert timesteps_of(load_model("cat3d-tiny:random"), None, "100,500") == (100, 500)
    assert timesteps_of(load_model("cat3d-tiny:random"), "7", "100,500") == (7,)


def test_it_is_neither_sampled_nor_trained_nor_evaluated(
    kind: str, folder: Path, model: FeedForwardModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    views, noise = scene(model), torch.zeros(1, 3, 3, SIDE, SIDE)
    for sample in (sample_views, predict_views):
        with pytest.raises(ValueError, match="predicts no image, which sampling needs; it can be probed only"):
            sample(model, views, noise)
    with pytest.raises(ValueError, match="which training needs"):
        prediction_target(model, noise, noise, torch.ones(1))
    with pytest.raises(ValueError, match="which sampling and the effect of edits need"):
        predicted_clean(model, noise, noise, torch.ones(1))
    with pytest.raises(SystemExit):
        evaluate(["--model", f"{kind}:{folder}", "--model-size", str(SIDE), "--out", str(tmp_path / "x")])
    assert "which an evaluation of sampled views needs" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        train(["--model", f"{kind}:{folder}", "--model-size", str(SIDE), "--out", str(tmp_path / "x")])
    assert "which training needs" in capsys.readouterr().err


def test_wrong_files_are_refused(kind: str, tmp_path: Path):
    save_file({f"{PLACES[kind]}cls_token": torch.zeros(1, 1, 8)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="holds no camera_token, expected a network whose blocks join views"):
        load(kind, tmp_path)
    save_file({f"{PLACES[kind]}camera_token": torch.zeros(1, 2, 8)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="has settings that nothing can be built of"):
        load(kind, tmp_path)


def test_a_missing_package_is_named(kind: str, folder: Path):
    name = PACKAGES[kind][0]
    with standins(without=(name,)), pytest.raises(ValueError, match=r"own package is not installed.*pip install") as e:
        load(kind, folder)
    assert "\n" not in str(e.value)
