"""CAMEO on the classes of the field, small: the command trains two steps, and the probe takes what it leaves."""

import json
from pathlib import Path

import pytest
import small_cat3d
import small_hunyuan_dit
import small_mvgenmaster
import small_sd21
import small_seva
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from standin_packages import standins

from probe.geometry import plucker_rays
from probe.models import load_model
from probe.models.cat3d import camera_embedding
from probe.models.model import MultiViewModel, conditioning
from probe.models.parts.files import Loading
from probe.scenes.shapes import draw_shapes, make_views
from probe.views import Views
from train import monitor
from train.cameo import cli
from train.flags import Command
from train.training import probe_command

SMALL = {
    "cat3d": (small_cat3d.save_small, "checkpoint-100", 10, "up_blocks.2.attentions.0.transformer_blocks.0.attn1"),
    "mvgenmaster": (small_mvgenmaster.save_small, "", 10, "up_blocks.2.attentions.0.transformer_blocks.0.attn1"),
    "hunyuan-dit": (small_hunyuan_dit.save_small, "", 4, "blocks.4.attn1"),
}
QUICK = ("--steps", "2", "--batch-size", "2", "--evaluate-scenes", "1", "--sampling-steps", "1", "--probe-every", "0",
         "--warmup", "0", "--ema-decay", "0", "--model-size", "64", "--device", "cpu", "--no-report")  # fmt: skip


@pytest.fixture(autouse=True)
def _fresh_accelerator() -> None:
    """accelerate keeps the first precision of a process for good; a command is a process of its own."""
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("name", SMALL)
def test_two_steps(
    name: str,
    precision: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(monitor, "validate", lambda *_: {})  # it takes many scenes at five timesteps
    save, within, layer, module = SMALL[name]
    base = save(tmp_path / "small")
    spec, out = f"{name}:{base / within}", tmp_path / "run"
    cli(["--model", spec, "--base", str(base), *QUICK, "--precision", precision, "--out", str(out)])
    settings = json.loads((out / "config.json").read_text())["settings"]
    assert (settings["layer"], settings["layers"]) == (str(layer), [module])
    row = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    assert row["loss"] > 0
    assert row["objective"] > 0
    evaluated = json.loads((out / "evaluation.jsonl").read_text().splitlines()[-1])
    assert 0 <= evaluated[f"attention_{layer}"] <= 1
    before = load_model(spec, Loading(base=str(base), size=64))
    after = load_model(f"{name}:{out / 'final'}", Loading(base=str(base), size=64))
    assert type(after) is type(before)
    kept = load_file(out / "final" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(weight, kept[key]) for key, weight in after.network.state_dict().items())
    for part in ("to_q", "to_k"):
        key = f"{module}.{part}.weight"
        assert not torch.equal(before.network.state_dict()[key].float(), after.network.state_dict()[key])
    said = capsys.readouterr().out
    assert f"python -m probe.run --model {name}:{out / 'final'} --base {base} --model-size 64" in said


@pytest.mark.parametrize(("model", "words"), [
    ("cat3d-tiny:random", ""), ("cat3d:random", " --base random"), ("hunyuan-dit", " --base Tencent-Hunyuan/Hunyuan"),
    ("hunyuan-dit:a/folder", " --base a/folder"), ("cat3d:a", ""),
])  # fmt: skip
def test_the_command_that_probes_knows_where_the_autoencoder_is(model: str, words: str):
    said = probe_command(Command(model=model), Path("runs/final"))
    assert f"--model {model.partition(':')[0]}:runs/final{words}" in said


def test_nothing_is_promised_of_models_that_are_not_loaded_from_such_folders():
    assert probe_command(Command(model="sd21-extended:folder"), Path("runs/final")) == ""


@pytest.mark.slow
def test_a_network_that_cannot_be_saved_is_refused_before_it_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with standins():
        base = small_seva.save_small(tmp_path / "seva")
        with pytest.raises(SystemExit) as stopped:
            cli(["--model", f"seva:{base}", "--base", str(base), *QUICK, "--out", str(tmp_path / "run")])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert "SevaNetwork has no save_pretrained(folder)" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_views_each_alone_have_no_layer_to_supervise(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    base = small_sd21.save_small(tmp_path / "sd21")
    with pytest.raises(SystemExit) as stopped:
        cli(["--model", f"sd21:{base}", *QUICK, "--layer", "10", "--out", str(tmp_path / "run")])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


# --- cameras under mixed precision -----------------------------------------------------------------------------------


def photograph() -> Views:
    g = torch.Generator().manual_seed(0)
    return make_views(draw_shapes(1, generator=g), torch.tensor([[20.0, 50.0]]), size=64, n_ref=1, generator=g)


@pytest.fixture(scope="module", params=SMALL)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> MultiViewModel:
    save, within, _, _ = SMALL[request.param]
    base = save(tmp_path_factory.mktemp("small") / "model")
    return load_model(f"{request.param}:{base / within}", Loading(base=str(base), size=64))


def test_what_a_network_is_told_is_the_same_under_autocast(model: MultiViewModel):
    views = photograph()
    expected = conditioning(model, views)
    with torch.autocast("cpu", torch.bfloat16):
        found = conditioning(model, views)
        rounded = plucker_rays(views.intrinsics, views.world_to_cam, views.size)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    exact = plucker_rays(views.intrinsics, views.world_to_cam, views.size)
    assert (rounded - exact).abs().max() > 1e-3  # what would happen otherwise


def test_the_releases_cameras_are_exact_under_autocast():
    views = photograph()
    exact = camera_embedding(views.intrinsics, views.world_to_cam, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(camera_embedding(views.intrinsics, views.world_to_cam, 8, 8), exact)
