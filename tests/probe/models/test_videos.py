"""Video models by name: against the pipelines of diffusers that their folders come from."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small_videos
import torch
from einops import rearrange
from small_videos import PIPELINES, build, family, save_small
from torch import Tensor

from probe import run
from probe.capture import AttentionTap
from probe.layers import select_layers
from probe.models import load_model, randomised
from probe.models.about import ABOUT
from probe.models.model import model_layers, predict, to_device
from probe.models.parts.files import META, Loading
from probe.models.video.any_pipeline import KNOWN
from probe.models.video.model import IMAGE, TARGETS, VideoModel
from probe.scenes.shapes import draw_shapes, make_views
from probe.views import Views

SIDE, VIEWS = 32, 3
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
NAMES = sorted(PIPELINES)
LAYERS: dict[str, tuple[str, str, tuple[int, int], int, int]] = {
    "wan": ("blocks.{}.attn1", "3d", (2, 2), 0, 0),
    "cogvideox": ("transformer_blocks.{}.attn1", "joint", (2, 2), 6, 0),
    "ltx": ("transformer_blocks.{}.attn1", "3d", (4, 4), 0, 0),
    "hunyuan-video": ("transformer_blocks.{}.attn", "joint", (2, 2), 0, 1),
}
LOADING = Loading(size=SIDE)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("pipelines")
    return {name: save_small(name, home / name) for name in NAMES}


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def load(name: str, folders: dict[str, Path], loading: Loading = LOADING) -> VideoModel:
    model = load_model(f"{family(name)}:{folders[name]}", loading)
    assert isinstance(model, VideoModel)
    return model


def photograph(n_ref: int = 1, *, size: int = SIDE) -> Views:
    g = torch.Generator().manual_seed(0)
    return make_views(draw_shapes(1, generator=g), torch.tensor([[20.0, 40.0]]), size=size, n_ref=n_ref, generator=g)


def noise_of(model: VideoModel) -> Tensor:
    return torch.randn(model.latent_shape(1, VIEWS), generator=torch.Generator().manual_seed(1))


T = torch.tensor([500])


# --- the contract ----------------------------------------------------------------------------------------------------


def test_layers_are_recognised(name: str, folders: dict[str, Path]):
    layers = [layer for layer in model_layers(load(name, folders)) if layer.index is not None]
    if family(name) == "hunyuan-video":
        expected = [
            (n, "joint", (2, 2), 0, 1) for n in ("transformer_blocks.0.attn", "single_transformer_blocks.0.attn")
        ]
    else:
        first, *rest = LAYERS[family(name)]
        expected = [(first.format(n), *rest) for n in range(2)]
    assert [(x.name, x.kind, x.grid, x.prefix, x.suffix) for x in layers] == expected


@torch.no_grad()
def test_looking_changes_no_bit_and_an_identity_edit_neither(name: str, folders: dict[str, Path]):
    model, views = load(name, folders), photograph()
    layers = select_layers(model_layers(model), "3d")
    plain = predict(model, views, T, noise_of(model))
    seen = []
    with AttentionTap(model.network, layers, on_call=lambda call: seen.append(call.q.shape)):
        tapped = predict(model, views, T, noise_of(model))
    with AttentionTap(model.network, layers, edit=lambda call, run: run(call.q, call.k, call.v)):
        edited = predict(model, views, T, noise_of(model))
    assert torch.equal(plain, tapped)
    assert torch.equal(plain, edited)
    assert [shape[2] for shape in seen] == [layer.layout(VIEWS).tokens for layer in layers]
    assert plain.isfinite().all()


@torch.no_grad()
def test_every_view_matters_to_every_other(name: str, folders: dict[str, Path]):
    model, views, noise = load(name, folders), photograph(), noise_of(load(name, folders))
    before = predict(model, views, T, noise)
    noise = noise.clone()
    noise[:, -1] += 1
    changed = (predict(model, views, T, noise) - before).abs().amax((0, 2, 3, 4))
    assert (changed > 1e-6).all()


def test_random_weights_have_the_same_layers(name: str, folders: dict[str, Path]):
    model = load(name, folders)
    random = randomised(model, 3)
    assert model_layers(random) == model_layers(model)
    assert any(
        not torch.equal(x, y) for x, y in zip(random.network.parameters(), model.network.parameters(), strict=True)
    )


def test_native_sizes_are_those_the_families_state(folders: dict[str, Path]):
    sizes = {
        name: load(name, folders, Loading(outline=True)).size for name in ("wan", "ltx", "hunyuan-video", "cogvideox")
    }
    assert sizes == {"wan": 480, "ltx": 512, "hunyuan-video": 720, "cogvideox": 32}
    with pytest.raises(ValueError, match="size of the views 40: expected a multiple of 16 pixels"):
        load("wan", folders, Loading(size=40))


@torch.no_grad()
def test_lower_precision_runs(name: str, folders: dict[str, Path]):
    model = to_device(load(name, folders), torch.device("cpu"), torch.bfloat16)
    assert next(model.network.parameters()).dtype == torch.bfloat16
    assert model_layers(model) == model_layers(load(name, folders))
    assert model.encode(photograph().image).dtype == torch.float32


def test_an_outline_loads_no_weights(name: str, folders: dict[str, Path]):
    model = to_device(load(name, folders, Loading(size=SIDE, outline=True)), META)
    assert {weight.device.type for module in (model.network, model.vae) for weight in module.state_dict().values()} == {
        "meta"
    }
    counted, located = model_layers(model), model_layers(load(name, folders))
    assert [layer.on(VIEWS).tokens for layer in counted if layer.grid] == [
        layer.on(VIEWS).tokens for layer in located if layer.grid
    ]
    assert [replace(x, prefix=0, suffix=0) for x in counted] == [replace(x, prefix=0, suffix=0) for x in located]


# --- views are latent frames -----------------------------------------------------------------------------------------


def test_each_view_is_a_still_clip_of_its_own(name: str, folders: dict[str, Path]):
    model, image = load(name, folders), photograph().image
    latents = model.encode(image)
    assert latents.shape == model.latent_shape(1, VIEWS)
    for view in range(VIEWS):
        torch.testing.assert_close(latents[:, view : view + 1], model.encode(image[:, view : view + 1]), **CLOSE)
        alone = model.decode(latents[:, view : view + 1])
        torch.testing.assert_close(model.decode(latents)[:, view : view + 1], alone, **CLOSE)


NORMALISED = {
    "wan": lambda z, c: (z - stack(c.latents_mean)) / stack(c.latents_std),
    "cogvideox": lambda z, c: z * c.scaling_factor,
    "hunyuan-video": lambda z, c: z * c.scaling_factor,
    "ltx": lambda z, c: (z - 0.1) * c.scaling_factor / 1.5,
}


def stack(values: list[float]) -> Tensor:
    return rearrange(torch.tensor(values), "c -> 1 c 1 1 1")


@torch.no_grad()
def test_latents_are_normalised_and_taken_back_as_by_the_pipeline(name: str, folders: dict[str, Path]):
    model, pipeline, image = load(name, folders), build(name), photograph().image
    raw = pipeline.vae.encode(2 * image[:, :1].transpose(1, 2) - 1).latent_dist.mode()
    expected = NORMALISED[family(name)](raw, pipeline.vae.config)
    torch.testing.assert_close(model.encode(image[:, :1]).transpose(1, 2), expected, **CLOSE)
    colours = ((pipeline.vae.decode(raw).sample + 1) / 2).clamp(0, 1)
    torch.testing.assert_close(model.decode(expected.transpose(1, 2)).transpose(1, 2), colours, **CLOSE)


@torch.no_grad()
def test_a_decoder_that_takes_a_time_is_told_zero(tmp_path: Path):
    pipeline = build("ltx", timed=True)
    pipeline.save_pretrained(tmp_path)
    model = load_model(f"ltx:{tmp_path}", LOADING)
    z = torch.randn(1, 2, small_videos.LATENTS, 4, 4)
    found, raw = model.decode(z), z.transpose(1, 2) * 1.5 + 0.1
    expected = [pipeline.vae.decode(raw[:, :, n : n + 1], torch.zeros(1)).sample for n in range(2)]
    torch.testing.assert_close(found, ((torch.cat(expected, 2).transpose(1, 2) + 1) / 2).clamp(0, 1), **CLOSE)


# --- against the pipelines -------------------------------------------------------------------------------------------


class Stop(Exception):  # noqa: N818, no error
    pass


def first_call(pipeline: Any, **arguments: Any) -> dict[str, Any]:
    """What a pipeline gives its transformer in the first step."""
    calls = []

    def keep(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        assert not args
        calls.append(kwargs)
        raise Stop

    pipeline.set_progress_bar_config(disable=True)
    handle = pipeline.transformer.register_forward_pre_hook(keep, with_kwargs=True)
    with pytest.raises(Stop):
        pipeline(height=SIDE, width=SIDE, num_frames=9, num_inference_steps=2, guidance_scale=1.0, **arguments)
    handle.remove()
    return calls[0]


IGNORED = ("attention_kwargs", "return_dict", "timestep_cond", "ofs")


def assert_same_arguments(ours: dict[str, Any], theirs: dict[str, Any], *, time: float = 1.0) -> None:
    """All arguments equal; the times to the rounding of a pipeline's timesteps."""
    theirs = {key: value for key, value in theirs.items() if key not in IGNORED and value is not None}
    ours = {key: value for key, value in ours.items() if key not in IGNORED and value is not None}
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        loose = {"rtol": 0, "atol": time} if key == "timestep" else CLOSE
        if key == "image_rotary_emb":
            assert all(torch.equal(x, y) for x, y in zip(ours[key], value, strict=True))
        elif isinstance(value, Tensor):
            torch.testing.assert_close(ours[key].float(), value.float(), msg=lambda m, key=key: f"{key}: {m}", **loose)
        else:
            assert ours[key] == value, key


LAST = torch.tensor([999])


def wide(latents: Tensor) -> Tensor:
    return rearrange(latents, "b f c h w -> b c f h w")


def test_wan_is_called_as_by_its_pipeline(folders: dict[str, Path]):
    model = load("wan", folders)
    latents = noise_of(model)
    theirs = first_call(build("wan"), prompt_embeds=torch.zeros(1, 512, 8), latents=wide(latents))
    assert_same_arguments(model.network_inputs(latents, LAST, model.condition(photograph())), theirs)


def i2v(name: str) -> Any:
    from diffusers import WanImageToVideoPipeline

    pipeline = build(name)
    parts = {part: getattr(pipeline, part) for part in ("vae", "scheduler", "transformer")}
    return WanImageToVideoPipeline(
        tokenizer=None, text_encoder=None, image_encoder=None, image_processor=None, expand_timesteps=True, **parts
    )


def test_wan_with_a_time_per_token_keeps_its_reference_clean_as_the_pipeline(folders: dict[str, Path]):
    model, views = load("wan-ti2v", folders), photograph()
    assert model.clean_references
    latents, noise = model.encode(views.image), noise_of(model)
    latents = torch.cat([latents[:, :1], noise[:, 1:]], dim=1)
    image = views.image[:, 0]
    theirs = first_call(i2v("wan-ti2v"), image=image, prompt_embeds=torch.zeros(1, 512, 8), latents=wide(noise))
    ours = model.network_inputs(latents, LAST, model.condition(views))
    assert_same_arguments(ours, theirs)
    assert ours["timestep"].tolist() == [[0.0] * 4 + [1000.0] * 8]


def test_wan_with_image_channels_is_called_as_by_its_pipeline(tmp_path: Path):
    pipeline, views = build("wan-i2v", image_dim=None), photograph()
    pipeline.save_pretrained(tmp_path)
    model = load_model(f"wan:{tmp_path}", LOADING)
    assert not model.clean_references
    noise = noise_of(model)
    theirs = first_call(pipeline, image=views.image[:, 0], prompt_embeds=torch.zeros(1, 512, 8), latents=wide(noise))
    ours = model.network_inputs(noise, LAST, model.condition(views))
    z, ours_in, theirs_in = small_videos.LATENTS, ours.pop("hidden_states"), theirs.pop("hidden_states")
    assert_same_arguments(ours, theirs)
    torch.testing.assert_close(ours_in[:, : 2 * z], theirs_in[:, : 2 * z], **CLOSE)  # latents, and the mask
    torch.testing.assert_close(ours_in[:, 2 * z :, :1], theirs_in[:, 2 * z :, :1], **CLOSE)  # the reference
    grey = model.encode(torch.full_like(views.image, 0.5))  # the pipeline encodes grey frames behind the reference
    torch.testing.assert_close(ours_in[:, 2 * z :, 1:], wide(grey)[:, :, 1:], **CLOSE)


def test_all_references_of_image_to_video_are_shown(folders: dict[str, Path]):
    for name in ("wan-i2v", "cogvideox-i2v"):
        model, views = load(name, folders), photograph(n_ref=2)
        image = model.condition(views)[IMAGE][:, :, -small_videos.LATENTS :]
        torch.testing.assert_close(image[:, :2], model.encode(views.image)[:, :2], **CLOSE)
        assert not torch.allclose(image[:, 2], model.encode(views.image)[:, 2])
        assert model.condition(views)[TARGETS].tolist() == [[0, 0, 1]]


def test_cogvideox_is_called_as_by_its_pipeline(folders: dict[str, Path]):
    model = load("cogvideox", folders)
    latents = noise_of(model)
    theirs = first_call(build("cogvideox"), prompt_embeds=torch.zeros(1, 6, 8), latents=latents)
    assert_same_arguments(model.network_inputs(latents, LAST, model.condition(photograph())), theirs, time=0)


@pytest.mark.parametrize("invert", [False, True])
def test_cogvideox_with_image_channels_and_rotary_tables_is_called_as_by_its_pipeline(tmp_path: Path, invert: bool):
    pipeline, views = build("cogvideox-i2v", invert=invert), photograph()
    pipeline.save_pretrained(tmp_path)
    model = load_model(f"cogvideox:{tmp_path}", LOADING)
    with torch.no_grad():
        pipeline.vae.encoder.conv_out.conv.weight[small_videos.LATENTS :] = 0  # the pipeline draws from the posterior:
        pipeline.vae.encoder.conv_out.conv.bias[small_videos.LATENTS :] = -30  # of no variance
    latents, image = noise_of(model), views.image[:, 0]
    theirs = first_call(pipeline, image=image, prompt_embeds=torch.zeros(1, 6, 8), latents=latents)
    ours = model.network_inputs(latents, LAST, model.condition(views))
    assert_same_arguments(ours, theirs, time=0)
    assert not ours["hidden_states"][:, 1:, small_videos.LATENTS :].any()


def test_hunyuan_video_is_called_as_by_its_pipeline(folders: dict[str, Path]):
    model = load("hunyuan-video", folders)
    latents, pipeline = noise_of(model), build("hunyuan-video")
    embeds = {"prompt_embeds": torch.zeros(1, 1, 8), "pooled_prompt_embeds": torch.zeros(1, 8)}
    theirs = first_call(
        pipeline, **embeds, prompt_attention_mask=torch.ones(1, 1), latents=wide(latents)
    )  # its guidance is 1 here
    ours = model.network_inputs(latents, LAST, model.condition(photograph()))
    assert (ours.pop("guidance").tolist(), theirs.pop("guidance").tolist()) == ([6000.0], [1000.0])
    assert_same_arguments(ours, theirs)


def test_ltx_is_called_as_by_its_image_to_video_pipeline(folders: dict[str, Path]):
    from diffusers import LTXImageToVideoPipeline

    model, views, pipeline = load("ltx", folders), photograph(), build("ltx")
    parts = {part: getattr(pipeline, part) for part in ("vae", "scheduler", "transformer", "text_encoder", "tokenizer")}
    latents = torch.cat([model.encode(views.image)[:, :1], noise_of(model)[:, 1:]], dim=1)
    theirs = first_call(
        LTXImageToVideoPipeline(**parts), image=views.image[:, 0], prompt_embeds=torch.zeros(1, 128, 8),
        prompt_attention_mask=torch.ones(1, 128), latents=rearrange(latents, "b f c h w -> b (f h w) c"),
    )  # fmt: skip
    ours = model.network_inputs(latents, LAST, model.condition(views))
    assert_same_arguments(ours, theirs)
    assert ours["timestep"].tolist() == [[0.0] * 16 + [1000.0] * 32]


@torch.no_grad()
def test_the_prediction_is_the_networks(name: str, folders: dict[str, Path]):
    model, views, pipeline = load(name, folders), photograph(), build(name)
    latents, inputs = noise_of(model), model.condition(views)
    expected = pipeline.transformer.eval()(**model.network_inputs(latents, T, inputs))[0]
    found = model.denoise(latents, T, inputs)
    if family(name) == "ltx":
        h, w = latents.shape[-2:]
        expected = pipeline._unpack_latents(expected, VIEWS, h, w, 1, 1)
    turned = expected if family(name) == "cogvideox" else rearrange(expected, "b c f h w -> b f c h w")
    assert torch.equal(found, turned)


# --- runs ------------------------------------------------------------------------------------------------------------

WORDS = ["--model-size", str(SIDE), "--pairs", "1", "--timesteps", "500", "--device", "cpu", "--image-size", "32"]
QUICK = ("wan-ti2v", "hunyuan-video")
SLOWLY = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in NAMES]
)


@SLOWLY
def test_a_run_scores_and_edits(name: str, folders: dict[str, Path], tmp_path: Path):
    import pandas as pd

    words = ["--baselines", "none", "--interventions", "identity", "--out", str(tmp_path / "run"), "--no-report"]
    run.cli(["--model", f"{family(name)}:{folders[name]}", *WORDS, *words])
    scores = pd.read_parquet(tmp_path / "run" / "scores.parquet")
    precision = scores[scores["metric"].str.startswith("precision") & scores["value"].notna()]
    assert len(precision) > 0
    assert precision["value"].between(0, 1).all()
    card = json.loads((tmp_path / "run" / "model.json").read_text())
    assert card["about"] == ABOUT[family(name)].record()
    assert "still clip" in card["about"]["size"]
    assert "cameras (it takes none)" in card["about"]["ignored"]


@SLOWLY
def test_a_dry_run_counts_the_same_layers(
    name: str, folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run.cli(["--model", f"{family(name)}:{folders[name]}", *WORDS, "--dry-run", "--out", str(tmp_path / "run")])
    said = capsys.readouterr().out
    grid = "x".join(map(str, LAYERS[family(name)][2]))
    assert len(re.findall(rf"attn1?\s+{grid}\s", said)) == 2
    assert "licence: " in said


@pytest.mark.slow
def test_a_page_tells_sigma(folders: dict[str, Path], tmp_path: Path):
    run.cli(["--model", f"wan:{folders['wan']}", *WORDS, "--out", str(tmp_path / "run"), "--baselines", "none"])
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "σ" in page
    assert "still clip of one frame" in page
    assert "references: noised" in page


# --- text ------------------------------------------------------------------------------------------------------------


def save_encoder(folder: Path, kind: str, width: int = 8) -> Any:
    transformers = pytest.importorskip("transformers", reason="text encoders need the extra hf")
    settings = {"vocab_size": 16, "d_model": width, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        encoder = getattr(transformers, f"{kind}EncoderModel")(
            getattr(transformers, f"{kind}Config")(**settings)
        ).eval()
    encoder.save_pretrained(folder / "text_encoder")
    return encoder


class Tokenizer:
    """T5's tokens of an empty prompt: the end, then padding."""

    def __call__(self, prompt: list[str], *, max_length: int = 6, **_: Any) -> Any:
        assert prompt == [""]
        ids = torch.zeros(1, max_length, dtype=torch.long)
        ids[0, 0] = 1
        return type("Batch", (), {"input_ids": ids, "attention_mask": (ids > 0).long()})()

    def batch_decode(self, _: Any) -> str:
        return ""


@pytest.mark.parametrize(("name", "kind"), [("wan", "UMT5"), ("cogvideox", "T5"), ("ltx", "T5")])
@torch.no_grad()
def test_the_empty_prompt_is_encoded_as_by_the_pipeline(name: str, kind: str, tmp_path: Path):
    pipeline = build(name)
    pipeline.save_pretrained(tmp_path)
    pipeline.text_encoder, pipeline.tokenizer = save_encoder(tmp_path, kind), Tokenizer()
    model = load_model(f"{name}:{tmp_path}", LOADING)
    length = {"wan": 512, "cogvideox": 6, "ltx": 128}[name]
    theirs = pipeline._get_t5_prompt_embeds("", max_sequence_length=length, device=torch.device("cpu"))
    text, mask = theirs if name == "ltx" else (theirs, None)
    torch.testing.assert_close(model.text[None], text, **CLOSE)
    assert model.text.abs().max() > 0
    assert model.card["text"] == "empty, encoded by text_encoder/"
    if mask is not None:
        assert model.text_mask.tolist() == mask[0].float().tolist() == [1.0] + [0.0] * 127
    outline = load_model(f"{name}:{tmp_path}", Loading(size=SIDE, outline=True))
    assert outline.card["text"] == "empty, not encoded for an outline"


def test_without_a_text_encoder_the_text_is_zeros_and_the_card_says_so(name: str, folders: dict[str, Path]):
    model = load(name, folders)
    assert not model.text.any()
    assert model.card["text"] in ("zeros: no text_encoder/", "one token of zeros")


def test_text_encoders_of_another_kind_are_refused(tmp_path: Path):
    save_small("ltx", tmp_path)
    save_encoder(tmp_path, "T5", width=12)
    with pytest.raises(ValueError, match=r"makes embeddings of width 12, the network reads 8; .* remove text_encoder/"):
        load_model(f"ltx:{tmp_path}", LOADING)
    config = tmp_path / "text_encoder" / "config.json"
    (tmp_path / "text_encoder" / "model.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(ValueError, match=r"text_encoder cannot be read as T5EncoderModel .* remove text_encoder/"):
        load_model(f"ltx:{tmp_path}", LOADING)
    config.write_text('{"architectures": ["LlamaModel"]}')
    with pytest.raises(ValueError, match=r"describes 'LlamaModel', expected one of T5EncoderModel, UMT5EncoderModel"):
        load_model(f"ltx:{tmp_path}", LOADING)
    config.unlink()
    with pytest.raises(ValueError, match="describes None"):
        load_model(f"ltx:{tmp_path}", LOADING)


def test_a_text_encoder_without_all_its_weights_is_refused(tmp_path: Path):
    from safetensors.torch import load_file, save_file

    save_small("ltx", tmp_path)
    save_encoder(tmp_path, "T5")
    file = tmp_path / "text_encoder" / "model.safetensors"
    weights = {key: value for key, value in load_file(file).items() if "layer.1" not in key}
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(ValueError, match=r"cannot be read as T5EncoderModel .* weights are missing"):
        load_model(f"ltx:{tmp_path}", LOADING)


def test_without_transformers_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import sys

    save_small("ltx", tmp_path)
    save_encoder(tmp_path, "T5")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"needs the transformers library \(pip install 'attention-probing\[hf\]'\)"):
        load_model(f"ltx:{tmp_path}", LOADING)


# --- diffusers:FOLDER ------------------------------------------------------------------------------------------------


def test_any_known_pipeline_is_loaded_by_the_class_of_its_network(name: str, folders: dict[str, Path]):
    model, direct = load_model(f"diffusers:{folders[name]}", LOADING), load(name, folders)
    assert type(model) is type(direct)
    assert model.name == f"diffusers:{name}"
    assert model.card["family"] == family(name)
    assert model.card["about"] == ABOUT[family(name)].record()
    assert all(torch.equal(x, y) for x, y in zip(model.network.parameters(), direct.network.parameters(), strict=True))


def test_the_suites_image_models_are_known_too(tmp_path: Path):
    from small_sd21 import save_small as save_sd21

    save_sd21(tmp_path)
    index = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    model = load_model(f"diffusers:{tmp_path}")
    assert model.card["family"] == "sd21"
    assert model.card["about"] == ABOUT["sd21"].record()
    assert all(one.name in ABOUT for one in KNOWN.values())


def test_unknown_pipelines_are_refused_with_what_is_known(tmp_path: Path):
    index = {"_class_name": "FluxPipeline", "transformer": ["diffusers", "FluxTransformer2DModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    message = (
        r"describes 'FluxPipeline' with the network FluxTransformer2DModel; known are WanTransformer3DModel, .*module:"
    )
    with pytest.raises(ValueError, match=message) as caught:
        load_model(f"diffusers:{tmp_path}")
    assert "\n" not in str(caught.value)
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(ValueError, match="describes None with the network none; known are"):
        load_model(f"diffusers:{tmp_path}")
    (tmp_path / "model_index.json").unlink()
    with pytest.raises(ValueError, match=r"no folder of a diffusers pipeline: model_index.json missing"):
        load_model(f"diffusers:{tmp_path}")
    with pytest.raises(ValueError, match="give diffusers:FOLDER"):
        load_model("diffusers")


# --- refusals --------------------------------------------------------------------------------------------------------


def copy(folder: Path, to: Path, file: str, **changes: Any) -> Path:
    """A pipeline's folder with other settings in one of its files."""
    shutil.copytree(folder, to)
    settings = json.loads((to / file).read_text())
    (to / file).write_text(json.dumps({**settings, **changes}))
    return to


SCHEDULER, NETWORK = "scheduler/scheduler_config.json", "transformer/config.json"


@pytest.mark.parametrize(
    ("name", "file", "changes", "message"),
    [
        ("wan", NETWORK, {"_class_name": "WanVACETransformer3DModel"}, "expected WanTransformer3DModel"),
        ("ltx", NETWORK, {"num_layers": 3}, "does not fit LTXVideoTransformer3DModel"),
        ("ltx", "vae/config.json", {"_class_name": "AutoencoderKLWan"}, "expected AutoencoderKLLTXVideo"),
        ("wan", SCHEDULER, {"prediction_type": "epsilon"}, "of prediction 'epsilon'; known are CogVideoXDDIMScheduler"),
        ("wan", SCHEDULER, {"_class_name": "HeunDiscreteScheduler"}, "describes 'HeunDiscreteScheduler'"),
        ("wan", SCHEDULER, {"num_train_timesteps": 500}, "has 500 training timesteps; expected 1000"),
        ("wan", SCHEDULER, {"flow_shift": -1.0}, "has flow_shift -1.0; expected a positive number"),
        ("cogvideox", SCHEDULER, {"prediction_type": "sample"}, "predicts 'sample'; expected v_prediction or epsilon"),
        ("cogvideox", NETWORK, {"patch_size": "two"}, "settings that nothing can be built of"),
    ],
)  # fmt: skip
def test_settings_of_something_else_are_refused(
    folders: dict[str, Path], tmp_path: Path, name: str, file: str, changes: dict[str, Any], message: str
):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        load_model(f"{name}:{copy(folders[name], tmp_path / 'x', file, **changes)}", LOADING)
    assert "\n" not in str(caught.value)


VARIANTS: dict[str, tuple[str, dict[str, Any], str]] = {
    "wan-fun": ("wan", {"in_channels": 9}, "takes 9 channels in patches of (1, 2, 2) for 4 of the autoencoder"),
    "wan-flf": ("wan", {"pos_embed_seq_len": 514, "image_dim": 8, "added_kv_proj_dim": 24}, "image tokens 514"),
    "wan-time": ("wan", {"patch_size": (2, 2, 2)}, "in patches of (2, 2, 2)"),
    "hunyuan-i2v": ("hunyuan-video", {"image_condition_type": "token_replace"}, "images by token_replace"),
    "hunyuan-concat": ("hunyuan-video", {"in_channels": 9}, "takes 9 channels for 4"),
    "ltx-patch": ("ltx", {"patch_size": 2}, "in patches of 2"),
}


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_variants_with_other_inputs_are_refused(folders: dict[str, Path], tmp_path: Path, variant: str):
    name, changes, message = VARIANTS[variant]
    pipeline = build(name)
    kind, settings = type(pipeline.transformer), {**pipeline.transformer.config, **changes}
    settings.pop("_use_default_values", None)  # from_config would reset these
    shutil.copytree(folders[name], tmp_path / "x", ignore=shutil.ignore_patterns("transformer"))
    kind.from_config(settings).save_pretrained(tmp_path / "x" / "transformer")
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        load_model(f"{name}:{tmp_path / 'x'}", LOADING)
    assert "module:" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size_t": 2}, r"joins 2 latent frames in a token \(CogVideoX 1.5\)"),
        (
            {"use_rotary_positional_embeddings": True, "use_learned_positional_embeddings": True},
            "has learned positions for 4 x 4 latents alone",
        ),
        ({"in_channels": 7}, "takes 7 channels for 4 of the autoencoder"),
    ],
)
def test_variants_of_cogvideox_are_refused(
    folders: dict[str, Path], tmp_path: Path, changes: dict[str, Any], message: str
):
    shutil.copytree(folders["cogvideox"], tmp_path / "x", ignore=shutil.ignore_patterns("transformer"))
    small_videos.cogvideox_transformer(**changes).save_pretrained(tmp_path / "x" / "transformer")
    with pytest.raises(ValueError, match=message):
        load_model(f"cogvideox:{tmp_path / 'x'}", LOADING)


def test_the_first_of_two_networks_says_where_it_is_in_its_range(folders: dict[str, Path], tmp_path: Path):
    folder = copy(folders["wan"], tmp_path / "x", "model_index.json", boundary_ratio=0.875)
    with pytest.warns(UserWarning, match=r"where sigma is 0.875 or more, timesteps 699 to 999; transformer_2/"):
        model = load_model(f"wan:{folder}", LOADING)
    assert model.flow_time(torch.tensor([699])) >= 875 > model.flow_time(torch.tensor([698]))
    assert model.card["networks"].endswith("timesteps 699 to 999")


def test_folders_that_lack_a_part_are_refused(folders: dict[str, Path], tmp_path: Path):
    for number, (part, message) in enumerate(
        {
            "model_index.json": "model_index.json missing; expected",
            SCHEDULER: "scheduler/scheduler_config.json missing",
            "vae/config.json": r"vae/config.json is missing; expected a AutoencoderKLWan there",
            "transformer/diffusion_pytorch_model.safetensors": "holds no checkpoint: none of diffusion_pytorch_model",
        }.items()
    ):
        shutil.copytree(folders["wan"], tmp_path / str(number))
        (tmp_path / str(number) / part).unlink()
        with pytest.raises(ValueError, match=message):
            load_model(f"wan:{tmp_path / str(number)}", LOADING)
    with pytest.raises(ValueError, match="does not exist; give a file, a folder, or a hub id"):
        load_model(f"wan:{tmp_path / 'nowhere'}", LOADING)


def test_pickles_are_never_opened(folders: dict[str, Path], tmp_path: Path):
    shutil.copytree(folders["wan"], tmp_path / "x")
    weights = tmp_path / "x" / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name("diffusion_pytorch_model.bin"))
    with pytest.raises(ValueError, match="holds no checkpoint"):
        load_model(f"wan:{tmp_path / 'x'}", LOADING)


def test_the_autoencoder_comes_from_a_base_where_one_is_named(folders: dict[str, Path], tmp_path: Path):
    build("wan", seed=9).save_pretrained(tmp_path)
    model = load("wan", folders, Loading(size=SIDE, base=str(tmp_path)))
    own = load("wan", folders)
    assert not torch.equal(next(model.vae.parameters()), next(own.vae.parameters()))
    assert torch.equal(next(model.network.parameters()), next(own.network.parameters()))


def test_shards_are_read(folders: dict[str, Path], tmp_path: Path):
    pipeline = build("wan")
    shutil.copytree(folders["wan"], tmp_path / "x", ignore=shutil.ignore_patterns("transformer"))
    pipeline.transformer.save_pretrained(tmp_path / "x" / "transformer", max_shard_size="20KB")
    assert (tmp_path / "x" / "transformer" / "diffusion_pytorch_model.safetensors.index.json").is_file()
    found = load_model(f"wan:{tmp_path / 'x'}", LOADING).network.state_dict()
    assert all(torch.equal(value, found[key]) for key, value in pipeline.transformer.state_dict().items())
