"""Files that are half right, for every family: one line that names the file and says what to do, never a traceback."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import small_cat3d
import small_hunyuan_dit
import small_mvdream
import small_mvgenmaster
import small_sd21
import small_seva
import torch
from safetensors.torch import load_file, save_file
from standin_packages import standins

from probe import run
from probe.models import MODELS, load_model, loading
from probe.models.about import ABOUT
from probe.models.model import MultiViewModel
from probe.models.parts.files import Loading, build_of, read_json
from probe.models.parts.latents import AutoencoderKL, current_names, load_vae


@dataclass(frozen=True)
class Family:
    """What a family's folder looks like: who writes it, where its weights and its settings lie."""

    save: Callable[[Path], Path]
    weights: str
    settings: str
    within: str = ""


pytestmark = pytest.mark.slow  # every family, every way to be half right
FAMILIES = {
    "cat3d": Family(small_cat3d.save_small, str(small_cat3d.FILE), "pytorch_model/config.json", "checkpoint-100"),
    "mvgenmaster": Family(small_mvgenmaster.save_small, "ema_unet.pt", "config.json"),
    "sd21": Family(small_sd21.save_small, "unet/diffusion_pytorch_model.safetensors", "unet/config.json"),
    "hunyuan-dit": Family(
        small_hunyuan_dit.save_small, "transformer/diffusion_pytorch_model.safetensors", "transformer/config.json"
    ),
    "seva": Family(small_seva.save_small, "model.safetensors", "params.json"),
    "mvdream": Family(small_mvdream.save_small, small_mvdream.FILE, "params.json"),
}  # fmt: skip
VAE = Path("vae") / "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module", autouse=True)
def _packages():
    with standins():
        yield


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: family.save(tmp_path_factory.mktemp(name)) for name, family in FAMILIES.items()}


@pytest.fixture(params=FAMILIES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def copy(name: str, folders: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(folders[name], tmp_path / "copy"))


def load(name: str, folder: Path, base: Path | None = None) -> MultiViewModel:
    source = folder / FAMILIES[name].within
    return load_model(f"{name}:{source}", Loading(base=str(base or folder), size=64))


def refusal(name: str, folder: Path, base: Path | None = None) -> str:
    """Load what cannot be loaded; give the one line that is said of it."""
    with pytest.raises(ValueError, match=r"load_|read_|find_|build_|settings") as caught:
        load(name, folder, base)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edit(path: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Change a weight file in place; DeepSpeed's keeps its weights under "module"."""
    if path.suffix == ".pt":
        content: dict[str, Any] = torch.load(path, weights_only=True)
        change(content.get("module", content))
        torch.save(content, path)
    else:
        content = load_file(path)
        change(content)
        save_file(content, path)


def a_query(weights: dict[str, torch.Tensor]) -> str:
    return next(key for key in weights if key.endswith("attn1.to_q.weight"))


def test_a_weight_of_another_name(name: str, copy: Path):
    def rename(weights: dict[str, torch.Tensor]) -> None:
        key = a_query(weights)
        weights[f"{key}s"] = weights.pop(key)

    path = copy / FAMILIES[name].within / FAMILIES[name].weights
    edit(path, rename)
    assert re.search(
        rf"{path} does not fit \w+: 1 weights missing \['.*to_q.weight'\], 1 left over \['.*weights'\]",
        refusal(name, copy),
    )


@pytest.mark.slow
def test_a_weight_of_another_shape(name: str, copy: Path):
    def reshape(weights: dict[str, torch.Tensor]) -> None:
        weights[a_query(weights)] = torch.zeros(3, 3)

    edit(copy / FAMILIES[name].within / FAMILIES[name].weights, reshape)
    assert re.search(
        r"0 left over \[\], 1 of another shape \['.*to_q.weight \(3, 3\) for \(\d+, \d+\)'\]", refusal(name, copy)
    )


def test_a_file_that_breaks_off(name: str, copy: Path):
    path = copy / FAMILIES[name].within / FAMILIES[name].weights
    path.write_bytes(path.read_bytes()[:1000])
    assert re.search(f"read_weights: {path} cannot be read as weights: ", refusal(name, copy))


@pytest.mark.parametrize("text", ["{nope", "[1]", "\xff", "[" * 100_000])
def test_settings_that_are_none(name: str, copy: Path, text: str):
    path = copy / FAMILIES[name].within / FAMILIES[name].settings
    path.write_text(text, encoding="latin-1")
    wrong = r"(is not JSON: .*|holds no names with values but list)"
    assert re.search(rf"read_json: {path} {wrong}; fetch the file again", refusal(name, copy))


def test_settings_that_nothing_can_be_built_of(name: str, copy: Path):
    path = copy / FAMILIES[name].within / FAMILIES[name].settings
    kept = json.loads(path.read_text()) if path.exists() else {}
    wrong = {"block_out_channels": [32, "x"], "num_layers": "x", "channel_mult": "x"}
    wrong = {key: value for key, value in wrong.items() if key in kept} or wrong
    path.write_text(json.dumps(kept | wrong))
    assert re.search(
        r"has settings that nothing can be built of \(\w+: .*\); fetch the file again, or correct", refusal(name, copy)
    )


def test_no_autoencoder(name: str, copy: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    said = refusal(name, copy, tmp_path / "empty")
    assert re.search("load_vae: no autoencoder: .*; give the diffusers folder", said)


def test_an_autoencoder_that_lacks_a_weight(name: str, copy: Path):
    edit(copy / VAE, lambda weights: weights.update({"zzz": weights.pop("decoder.conv_norm_out.weight")}))
    assert re.search(
        r"load_vae: .* 1 weights missing \['decoder.conv_norm_out.weight'\], 1 left over \['zzz'\]", refusal(name, copy)
    )


@pytest.mark.parametrize("name", ["sd21", "hunyuan-dit"])
def test_a_schedule_that_there_is_not(name: str, copy: Path):
    path = copy / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({"beta_schedule": "zzz", "beta_start": 0.1}))
    assert re.search(
        r"scheduler_config.json has settings that nothing can be built of \(NotImplementedError: zzz",
        refusal(name, copy),
    )


@pytest.mark.parametrize("source", ["", ":/nowhere/weights", ":nobody/nothing"])
def test_what_is_not_there_ends_the_command_with_exit_code_2(
    name: str, source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("probe.models.parts.files.snapshot_download", unreachable)
    with pytest.raises(SystemExit) as stopped:
        run.cli(["--model", f"{name}{source}", "--out", str(tmp_path / "run"), "--no-report"])
    said = capsys.readouterr().err
    assert stopped.value.code == 2
    assert said.count("\n") == 1
    advices = ("give the folder", "give one that exists", "give a file, a folder", "give cat3d:", "mvgenmaster:FOLDER")
    assert any(advice in said for advice in advices)
    assert not (tmp_path / "run").exists()


def unreachable(*_args: Any, **_options: Any) -> str:
    raise OSError("no network")


# --- autoencoders ----------------------------------------------------------------------------------------------------


def old_names(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As in Stable Diffusion's own repositories: the attention's projections before diffusers renamed them."""
    found = {}
    for key, weight in weights.items():
        for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            key = key.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
        found[key] = weight
    return found


@pytest.mark.parametrize("file", ["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"])
def test_autoencoders_with_old_names_are_those_that_diffusers_loads(tmp_path: Path, file: str):
    vae = small_cat3d.make_vae()
    vae.save_pretrained(tmp_path)
    weights = old_names(load_file(tmp_path / "diffusion_pytorch_model.safetensors"))
    assert sum("query" in key for key in weights) == 4
    save_file(weights, tmp_path / "diffusion_pytorch_model.safetensors")
    theirs = AutoencoderKL.from_pretrained(tmp_path).state_dict()
    if file.endswith("bin"):
        (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
        torch.save(weights, tmp_path / file)
    ours = load_vae(str(tmp_path)).state_dict()
    assert theirs.keys() == ours.keys() == vae.state_dict().keys()
    assert all(torch.equal(theirs[key], ours[key]) for key in theirs)


def test_autoencoders_compute_in_single_precision(tmp_path: Path):
    small_cat3d.make_vae().half().save_pretrained(tmp_path / "vae")
    assert load_vae(str(tmp_path)).dtype == torch.float32


def test_current_names_leave_others_alone():
    weights = {"a.query.weight": torch.zeros(1), "attentions.0.to_q.weight": torch.zeros(1)}
    assert current_names(weights).keys() == weights.keys()


def test_what_a_library_says_becomes_one_line():
    def fails() -> None:
        raise TypeError("first\nsecond")

    with pytest.raises(ValueError, match=r"^there has settings that nothing can be built of \(TypeError: first\);"):
        build_of("there", fails)
    assert build_of("there", lambda: 3) == 3


def test_json_is_read(tmp_path: Path):
    (tmp_path / "a.json").write_text('{"ä": 1}', encoding="utf-8")
    assert read_json(tmp_path / "a.json") == {"ä": 1}


# --- what a user should know -----------------------------------------------------------------------------------------


def test_every_family_states_licence_origin_size_and_what_it_ignores():
    assert ABOUT.keys() == MODELS.keys()
    for about in ABOUT.values():
        assert all(len(text) > 10 for text in about.record().values())


@pytest.mark.slow
def test_the_card_tells(name: str, folders: dict[str, Path]):
    card = load(name, folders[name]).card
    assert card is not None
    assert card["about"] == ABOUT[name].record()


@pytest.mark.slow
def test_a_run_keeps_it_and_its_page_shows_it(folders: dict[str, Path], tmp_path: Path):
    folder = folders["hunyuan-dit"]
    words = ["--model", f"hunyuan-dit:{folder}", "--model-size", "64", "--out", str(tmp_path / "run"), "--pairs", "1"]
    run.cli([*words, "--views", "2", "--timesteps", "500", "--baselines", "none", "--image-size", "32"])
    kept = json.loads((tmp_path / "run" / "model.json").read_text())
    assert kept["name"] == f"hunyuan-dit:{folder.name}"
    assert kept["about"] == ABOUT["hunyuan-dit"].record()
    assert kept["text"] == "none: zeros, masked out"
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "licence: tencent-hunyuan-community (not free: limits on use and on region); hub: " in page
    assert "text: none: zeros, masked out" in page


@pytest.mark.parametrize("error", [TypeError("x"), KeyError("x"), ZeroDivisionError("x"), UnboundLocalError("x")])
def test_whatever_files_make_a_loader_raise_is_one_line(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def load(source: str, options: object) -> None:
        raise error

    monkeypatch.setattr(loading, "MODELS", dict.fromkeys(("wan", "module"), load))
    with pytest.raises(ValueError, match=f"^wan:{tmp_path} has settings that nothing can be built of .*x"):
        load_model(f"wan:{tmp_path}")
    for spec in (f"module:{tmp_path}", "wan:random"):  # of one's own code; of this suite's
        with pytest.raises(type(error)):
            load_model(spec)
