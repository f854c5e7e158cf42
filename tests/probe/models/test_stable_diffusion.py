import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from einops import rearrange
from safetensors.torch import save_file
from small_sd21 import PROMPT, TEXT, TEXT_WIDTH, VOCABULARY, make_unet, make_vae, save_small, write_json
from torch import Tensor

from probe import run
from probe.capture import AttentionTap
from probe.models import MODELS, load_model, randomised
from probe.models.model import model_layers, predict
from probe.models.parts import files
from probe.models.parts.clip_text import empty_tokens, encode, encode_empty
from probe.models.parts.files import META, Loading, read_weights
from probe.models.parts.latents import SD21_BASE
from probe.models.stable_diffusion import SD21_SCHEDULE, SD21_UNET, StableDiffusion, read_scheduler
from probe.scenes.shapes import draw_shapes, make_views
from probe.views import Views

NAMES = ("sd21", "sd21-extended")
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small(tmp_path_factory.mktemp("hub") / "sd", text=True)


def load(name: str, folder: Path, **loading: Any) -> StableDiffusion:
    model = load_model(f"{name}:{folder}", Loading(**{"size": 64, **loading}))
    assert isinstance(model, StableDiffusion)
    return model


def photograph(f: int = 3, b: int = 1) -> Views:
    g = torch.Generator().manual_seed(0)
    return make_views(draw_shapes(b, generator=g), 10 + 50 * torch.rand(b, f - 1, generator=g), size=64, n_ref=1,
                      generator=g)  # fmt: skip


def noise_of(model: StableDiffusion, views: Views) -> Tensor:
    shape = model.latent_shape(len(views.image), views.count)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


# --- layers ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), [("sd21", "view"), ("sd21-extended", "3d")])
@pytest.mark.parametrize("size", [64, 128])
def test_sixteen_layers_with_the_grids_of_the_size_that_is_shown(folder: Path, name: str, kind: str, size: int):
    model = load(name, folder, size=size)
    layers = [layer for layer in model_layers(model) if layer.index is not None]
    assert [(layer.index, layer.kind) for layer in layers] == [(index, kind) for index in range(16)]
    assert layers[10].name == "up_blocks.2.attentions.0.transformer_blocks.0.attn1"
    side = size // 64
    grids = [8] * 2 + [4] * 2 + [2] * 2 + [1] + [2] * 3 + [4] * 3 + [8] * 3
    assert [layer.grid for layer in layers] == [(n * side, n * side) for n in grids]
    assert [layer.heads for layer in layers] == [1] * 2 + [2] * 11 + [1] * 3
    assert model.default_layers == ("all" if kind == "view" else "3d")


def test_full_size_by_outline():
    model = load_model("sd21-extended:random", Loading(outline=True))
    layers = [layer for layer in model_layers(model) if layer.kind == "3d"]
    assert model.size == 768
    assert [(layers[i].grid, layers[i].heads, layers[i].channels) for i in (0, 6, 10)] == [
        ((96, 96), 5, 64), ((12, 12), 20, 64), ((48, 48), 10, 64),
    ]  # fmt: skip
    assert sum(weight.numel() for weight in model.network.parameters()) == 865_910_724
    assert {weight.device for weight in model.network.parameters()} == {META}


# --- what is asked ---------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_views_are_alone_or_read_one_another(folder: Path, name: str):
    model, views, t = load(name, folder), photograph(), torch.tensor([500])
    noise = noise_of(model, views)
    other = noise.clone()
    other[:, 1] += 1
    before, after = predict(model, views, t, noise), predict(model, views, t, other)
    reached = [not torch.equal(before[:, view], after[:, view]) for view in range(3)]
    assert reached == ([False, True, False] if name == "sd21" else [True] * 3)


@torch.no_grad()
def test_alone_is_the_stock_network_view_by_view(folder: Path):
    """In double precision: in single, kernels of a batch and of one view differ, and from machine to machine."""
    model, views, t = load("sd21", folder), photograph(b=2), torch.tensor([500, 20])
    noise = noise_of(model, views).double()
    stock = type(model.network).from_pretrained(folder / "unet").eval().double()
    clean, level = model.encode(views.image).double(), model.alpha_bar[t].double()
    model = replace(model, network=model.network.double(), text=model.text.double())
    found = predict(model, views, t, noise)
    for scene in range(2):
        for view in range(3):  # the reference has noise as well
            noisy = level[scene].sqrt() * clean[scene, view] + (1 - level[scene]).sqrt() * noise[scene, view]
            expected = stock(noisy[None], t[scene], model.text[None]).sample[0]
            torch.testing.assert_close(found[scene, view], expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_extended_attention_is_softmax_over_the_keys_of_all_views(folder: Path):
    model, views = load("sd21-extended", folder), photograph()
    seen: dict[str, Tensor] = {}
    name = "up_blocks.3.attentions.2.transformer_blocks.0.attn1"
    module = model.network.get_submodule(name)
    module.register_forward_hook(lambda _module, _args, output: seen.update(output=output))
    with AttentionTap(model.network, [name], keep="detached") as tap:
        predict(model, views, torch.tensor([300]), noise_of(model, views))
    call = tap[name]
    assert call.q.shape == call.k.shape == (1, 1, 3 * 64, 32)
    by_hand = (call.q @ call.k.mT / 32**0.5).softmax(-1) @ call.v
    out = module.to_out[0](rearrange(by_hand, "b heads (f n) d -> (b f) n (heads d)", f=3))
    torch.testing.assert_close(seen["output"], out, **CLOSE)


@pytest.mark.slow
@torch.no_grad()
def test_both_ways_show_the_first_layer_the_same_and_all_views_noise(folder: Path):
    name, calls = "down_blocks.0.attentions.0.transformer_blocks.0.attn1", []
    for way in NAMES:
        model, views = load(way, folder), photograph()
        with AttentionTap(model.network, [name], keep="detached") as tap:
            predict(model, views, torch.tensor([999]), noise_of(model, views))
        calls.append(rearrange(tap[name].q, "b heads (f n) d -> (b f) heads n d", n=64))
        assert model.clean_views(views) == 0
    torch.testing.assert_close(*calls, **CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize("way", NAMES)
def test_random_weights_keep_the_way_of_asking(folder: Path, way: str):
    model = load(way, folder)
    null = randomised(model, 3)
    assert not torch.equal(null.network.conv_in.weight, model.network.conv_in.weight)
    found = [(layer.index, layer.kind, layer.grid) for layer in model_layers(null)]
    assert found == [(layer.index, layer.kind, layer.grid) for layer in model_layers(model)]


# --- the folder ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon"])
def test_schedule_and_prediction_are_the_folders(tmp_path: Path, prediction: str):
    model = load("sd21", save_small(tmp_path / "sd", prediction=prediction))
    beta = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
    torch.testing.assert_close(model.alpha_bar.double(), (1 - beta).cumprod(0), rtol=1e-4, atol=0)
    assert model.alpha_bar[[0, 500, 999]].tolist() == pytest.approx([0.99915, 0.2763, 0.0047], rel=0.01)
    assert model.prediction == prediction
    assert model.name == "sd21:sd"
    assert model.card is not None
    assert model.card["prompt"] == "zeros: no text_encoder/ with tokenizer/"
    assert model.card["views"] == "each alone"
    assert model.text.shape == (PROMPT, TEXT_WIDTH)
    assert not model.text.any()


def test_zero_terminal_snr_of_a_folder_is_kept():
    scheduler = read_scheduler({**SD21_SCHEDULE, "rescale_betas_zero_snr": True, "skip_prk_steps": True}, "folder")
    assert scheduler.alphas_cumprod[-1] == 0


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"shift": 3.0}, "has 1000 steps, prediction 'epsilon' and no betas; expected 1000 steps of betas"),
        ({**SD21_SCHEDULE, "num_train_timesteps": 50}, "has 50 steps"),
        ({**SD21_SCHEDULE, "prediction_type": "sample"}, "prediction 'sample'.* one of v_prediction, epsilon"),
    ],
)
def test_other_schedules_are_refused(config: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        read_scheduler(config, "folder")


@pytest.mark.parametrize("form", ["fp16.safetensors", "bin"])
def test_weights_of_any_form_are_the_same(folder: Path, tmp_path: Path, form: str):
    copy = save_small(tmp_path / "sd")
    path = copy / "unet/diffusion_pytorch_model.safetensors"
    weights = read_weights(path)
    path.unlink()
    (torch.save if form == "bin" else save_file)(weights, path.with_name(f"diffusion_pytorch_model.{form}"))
    found = load("sd21", copy).network.state_dict()
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weight) for name, weight in weights.items())


@pytest.mark.slow
def test_networks_that_want_more_are_refused(folder: Path, tmp_path: Path):
    bad = {
        "depth": (
            {"in_channels": 5},
            r"wants more than 4 latent channels, a timestep and a prompt: {'in_channels': 5}",
        ),
        "classes": ({"num_class_embeds": 3}, "'num_class_embeds': 3"),
    }
    for name, (changes, message) in bad.items():
        copy = save_small(tmp_path / name)
        make_unet(**changes).save_pretrained(copy / "unet")
        with pytest.raises(ValueError, match=message):
            load("sd21", copy)
    copy = save_small(tmp_path / "other")
    write_json(copy / "unet" / "config.json", {"_class_name": "UNet3DConditionModel"})
    with pytest.raises(ValueError, match="describes 'UNet3DConditionModel', not UNet2DConditionModel"):
        load("sd21", copy)


@pytest.mark.slow
def test_half_a_folder_is_refused(tmp_path: Path, folder: Path):
    (tmp_path / "empty").mkdir()
    message = "is no diffusers folder of Stable Diffusion: unet/config.json, scheduler/scheduler_config.json missing"
    with pytest.raises(ValueError, match=message):
        load("sd21", tmp_path / "empty")
    copy = save_small(tmp_path / "weightless")
    (copy / "unet/diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"holds no checkpoint: none of unet/diffusion_pytorch_model.safetensors"):
        load("sd21", copy)
    for size in (32, 100):
        with pytest.raises(ValueError, match=rf"size of the views {size}: expected a multiple of 64 .* native 128"):
            load("sd21", folder, size=size)


def test_an_empty_source_is_the_mirror(folder: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[tuple[str, list[str]]] = []

    def fetch(source: str, allow_patterns: list[str]) -> str:
        asked.append((source, allow_patterns))
        return str(folder)

    monkeypatch.setattr(files, "snapshot_download", fetch)
    assert load_model("sd21", Loading(size=64)).name == "sd21"
    assert [source for source, _ in asked] == [SD21_BASE]
    patterns = {Path(pattern).parts[0] for pattern in asked[0][1]}
    assert patterns == {"unet", "vae", "scheduler", "text_encoder", "tokenizer"}
    assert {"sd21", "sd21-extended", "module"} <= MODELS.keys()

    def offline(*_args: Any, **_options: Any) -> str:
        raise OSError("no network\nat all")

    monkeypatch.setattr(files, "snapshot_download", offline)
    for name in NAMES:
        with pytest.raises(ValueError, match=rf"'{SD21_BASE}' is no file here and cannot be fetched") as caught:
            load_model(name)
        assert "\n" not in str(caught.value)


# --- the prompt ------------------------------------------------------------------------------------------------------


def test_the_prompt_is_the_folders_empty_one(folder: Path):
    model = load("sd21", folder)
    text = encode_empty(folder / "text_encoder", folder / "tokenizer")
    assert torch.equal(model.text, text)
    assert model.card is not None
    assert model.card["prompt"] == "empty, encoded by text_encoder/"
    assert text.shape == (PROMPT, TEXT_WIDTH)
    assert text[5].std() > 0.1
    inputs = model.condition(photograph(b=2))
    assert torch.equal(inputs["text"], text.expand(2, -1, -1))


@pytest.mark.parametrize(("pad", "token"), [("!", 0), ("<|endoftext|>", 3), ({"content": "!", "lstrip": False}, 0)])
def test_padding_is_the_tokenizers(tmp_path: Path, pad: Any, token: int):
    write_json(tmp_path / "vocab.json", VOCABULARY)
    write_json(tmp_path / "special_tokens_map.json", {"pad_token": pad})
    assert empty_tokens(tmp_path, 5).tolist() == [2, 3, token, token, token]


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_text_encoder_is_that_of_torch(folder: Path, activation: str):
    weights = read_weights(folder / "text_encoder" / "model.safetensors")
    own = {name.removeprefix("text_model."): weight for name, weight in weights.items()}
    tokens = torch.tensor([2, 1, 0, 3, 3])
    found = encode(tokens, own, {**TEXT, "hidden_act": activation})
    x = own["embeddings.token_embedding.weight"][tokens] + own["embeddings.position_embedding.weight"][:5]
    mask = torch.nn.Transformer.generate_square_subsequent_mask(5)
    act = torch.nn.functional.gelu if activation == "gelu" else lambda y: y * torch.sigmoid(1.702 * y)
    for number in range(2):
        layer = torch.nn.TransformerEncoderLayer(TEXT_WIDTH, 3, 40, 0.0, act, norm_first=True, batch_first=True)
        at = {n.removeprefix(f"encoder.layers.{number}."): w for n, w in own.items() if f"layers.{number}." in n}
        layer.load_state_dict(torch_names(at))
        x = layer(x[None], src_mask=mask)[0]
    norm = torch.nn.functional.layer_norm(
        x, (TEXT_WIDTH,), own["final_layer_norm.weight"], own["final_layer_norm.bias"], 1e-5
    )
    torch.testing.assert_close(found, norm, **CLOSE)


def torch_names(block: dict[str, Tensor]) -> dict[str, Tensor]:
    """CLIP's names of a block's weights as PyTorch's own."""
    names = {"self_attn.out_proj": "self_attn.out_proj", "mlp.fc1": "linear1", "mlp.fc2": "linear2",
             "layer_norm1": "norm1", "layer_norm2": "norm2"}  # fmt: skip
    found = {f"{new}.{part}": block[f"{old}.{part}"] for old, new in names.items() for part in ("weight", "bias")}
    for part in ("weight", "bias"):
        found[f"self_attn.in_proj_{part}"] = torch.cat([block[f"self_attn.{p}_proj.{part}"] for p in "qkv"])
    return found


@pytest.mark.parametrize(("file", "content"), [("text_encoder/config.json", "{"), ("tokenizer/vocab.json", "{}")])
def test_a_broken_text_encoder_is_told(tmp_path: Path, file: str, content: str):
    copy = save_small(tmp_path / "sd", text=True)
    (copy / file).write_text(content)
    with pytest.raises(
        ValueError, match=r"are not CLIP's text encoder and tokenizer .* remove text_encoder/ to use zer"
    ):
        load("sd21", copy)


# --- end to end ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("way", NAMES)
def test_probed_from_the_command_line(folder: Path, tmp_path: Path, way: str):
    words = ["--model", f"{way}:{folder}", "--base", str(folder), "--model-size", "64", "--pairs", "1", "--views", "2"]
    words += ["--image-size", "32", "--timesteps", "500", "--baselines", "none", "--no-report", "--dtype", "bfloat16"]
    run.cli([*words, "--out", str(tmp_path / "run")])
    layers = pd.read_csv(tmp_path / "run" / "layers.csv")
    assert layers["layer"].tolist() == list(range(16))
    assert layers["grid_h"].tolist() == [8, 8, 4, 4, 2, 2, 1, 2, 2, 2, 4, 4, 4, 8, 8, 8]
    settings = json.loads((tmp_path / "run" / "config.json").read_text())["settings"]
    assert settings["layers"] == ("all" if way == "sd21" else "3d")


def test_a_model_of_views_alone_has_no_3d_layers(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    with pytest.raises(SystemExit) as stop:
        run.cli(["--model", f"sd21:{folder}", "--model-size", "64", "--layers", "3d", "--out", str(tmp_path / "run")])
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert "no 3d layer; its calls are 0 to 15, of which 3D: []; choose all, or indexes" in message
    assert not (tmp_path / "run").exists()


def test_sizes_of_the_random_one_are_those_of_sd21():
    assert SD21_UNET["block_out_channels"] == (320, 640, 1280, 1280)
    assert make_vae().config.scaling_factor == 0.18215
