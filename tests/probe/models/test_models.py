import importlib.machinery
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from probe import compat
from probe.models import MODELS, SHIPPED, fresh_tiny, load_folder, load_model, randomised, tiny
from probe.models.cat3d import TINY, load_unet
from probe.models.model import MultiViewModel

SMALL = {**TINY, "sample_size": 8, "block_out_channels": (8, 8, 8, 8), "attention_head_dim": 1, "norm_num_groups": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a network that is not the default one, with a card."""
    path = tmp_path_factory.mktemp("runs") / "step-000500"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        load_unet(None, SMALL).save_pretrained(path)
    (path / "card.json").write_text('{"steps": 500}')
    return path


def weights(model: MultiViewModel) -> dict[str, Tensor]:
    return model.network.state_dict()


def without_about(model: MultiViewModel) -> dict[str, object]:
    """Give what is known of the weights, beside what is known of the whole family."""
    return {name: value for name, value in (model.card or {}).items() if name != "about"}


def assert_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name, weight in first.items() if not torch.equal(weight, second[name])] == []


def copy_without(folder: Path, to: Path, name: str) -> Path:
    to.mkdir()
    for path in folder.iterdir():
        if path.name != name:
            (to / path.name).write_bytes(path.read_bytes())
    return to


# --- loading ---------------------------------------------------------------------------------------------------------


def test_a_folder_is_loaded_ready_to_be_looked_at(folder: Path):
    model = load_model(f"cat3d-tiny:{folder}")
    assert model.name == "cat3d-tiny:step-000500"
    assert without_about(model) == {"steps": 500}
    assert model.size == 8
    assert model.alpha_bar.shape == (1000,)
    assert not model.network.training
    assert not any(parameter.requires_grad for parameter in model.network.parameters())
    assert tuple(model.network.config.block_out_channels) == (8, 8, 8, 8)
    assert_equal(weights(model), load_folder(folder).state_dict())


def test_a_folder_needs_no_card(folder: Path, tmp_path: Path):
    assert without_about(load_model(f"cat3d-tiny:{copy_without(folder, tmp_path / 'x', 'card.json')}")) == {}


def test_random_weights_by_name():
    model = load_model("cat3d-tiny:random")
    assert model.name == "cat3d-tiny:random"
    assert without_about(model) == {"weights": "random, seed 0"}
    assert model.size == TINY["sample_size"] * TINY["encoder_stride"]
    assert_equal(weights(model), weights(fresh_tiny(0)))


def test_no_path_means_the_shipped_weights(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tiny, "SHIPPED", {"": copy_without(folder, tmp_path / "cat3d-tiny", "")})
    for spec in ("cat3d-tiny", "cat3d-tiny:"):
        model = load_model(spec)
        assert model.name == "cat3d-tiny"
        assert without_about(model) == {"steps": 500}


@pytest.mark.parametrize(
    ("source", "layer", "steps"),
    [
        ("", "none", 7000),
        ("cameo", "12", 2000),
        ("base", "none", 600),
        ("plain", "none", 2200),
        ("supervised", "10", 2200),
    ],
)
def test_shipped_weights_load_and_are_no_random_ones(source: str, layer: str, steps: int):
    model = load_model(f"cat3d-tiny:{source}")
    assert model.name == f"cat3d-tiny:{source}".rstrip(":")
    assert model.folder == SHIPPED[source]
    assert model.card["steps"] == steps
    assert model.card["training"]["layer"] == layer
    assert sum(parameter.numel() for parameter in model.network.parameters()) <= 5_000_000
    assert all(weight.isfinite().all() for weight in weights(model).values())
    assert model.network.add_conv_in.conv_out.weight.any()  # what starts at zero has learned


def test_unknown_models_are_refused_with_the_choice():
    with pytest.raises(ValueError, match="'sevva' is unknown; choose one of cat3d-tiny") as caught:
        load_model("sevva:somewhere")
    assert all(name in str(caught.value) for name in MODELS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", ["config.json", "diffusion_pytorch_model.safetensors"])
def test_a_folder_without_checkpoint_is_refused(folder: Path, tmp_path: Path, missing: str):
    part = copy_without(folder, tmp_path / "part", missing)
    with pytest.raises(ValueError, match=f"part holds no checkpoint: {missing} is missing; give a folder that the"):
        load_model(f"cat3d-tiny:{part}")
    with pytest.raises(ValueError, match=r"nowhere holds no checkpoint: config.json is missing"):
        load_model(f"cat3d-tiny:{tmp_path / 'nowhere'}")


def put(path: Path, content: bytes | dict[str, object] | list[object]) -> None:
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", r"config.json is not JSON: Expecting property name"),
        (b"", r"config.json is not JSON"),
        (b"\xff\xfe", r"config.json is not JSON: 'utf-8' codec"),
        ([1], r"config.json holds no names with values"),
        ({}, r"config.json describes None, not MultiViewUNet; give a folder that the suite saved"),
        ({"_class_name": "UNet2DConditionModel", "num_class_embeds": None}, r"describes 'UNet2DConditionModel', not"),
    ],
)
def test_a_config_of_something_else_is_refused(folder: Path, tmp_path: Path, content: object, message: str):
    part = copy_without(folder, tmp_path / "part", "config.json")
    put(part / "config.json", content)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        load_model(f"cat3d-tiny:{part}")


def test_a_card_that_is_no_json_is_refused(folder: Path, tmp_path: Path):
    part = copy_without(folder, tmp_path / "part", "card.json")
    put(part / "card.json", b"steps: 500")
    with pytest.raises(ValueError, match=r"card.json is not JSON"):
        load_model(f"cat3d-tiny:{part}")


def test_weights_of_another_size_are_refused(folder: Path, tmp_path: Path):
    part = copy_without(folder, tmp_path / "part", "config.json")
    config = json.loads((folder / "config.json").read_text())
    put(part / "config.json", {**config, "block_out_channels": [8, 16, 8, 8]})
    with pytest.raises(ValueError, match=r"model.safetensors does not fit MultiViewUNet: .* of another shape"):
        load_model(f"cat3d-tiny:{part}")
    put(part / "diffusion_pytorch_model.safetensors", b"\0" * 20)
    with pytest.raises(ValueError, match="cannot be read as weights"):
        load_model(f"cat3d-tiny:{part}")


# --- random weights --------------------------------------------------------------------------------------------------


def test_randomised_has_the_same_wiring_and_other_weights(folder: Path):
    model = load_model(f"cat3d-tiny:{folder}")
    before = {name: weight.clone() for name, weight in weights(model).items()}
    state = torch.random.get_rng_state()
    random, again, other = (randomised(model, seed) for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (random.name, random.card) == ("cat3d-tiny:step-000500: random weights", {"weights": "random, seed 3"})
    assert (random.size, random.network.training) == (model.size, False)
    drawn = weights(random)
    assert {name: weight.shape for name, weight in drawn.items()} == {k: v.shape for k, v in before.items()}
    assert_equal(drawn, weights(again))
    for known in (before, weights(other)):
        matrices = [name for name, weight in known.items() if weight.dim() > 1 and weight.any()]
        assert len(matrices) > 100
        assert not any(torch.equal(known[name], drawn[name]) for name in matrices)
    assert_equal(weights(model), before)
    assert isinstance(random.network, nn.Module)
    assert random.network.config.clean_references == model.network.config.clean_references


def test_fresh_weights_leave_the_global_random_state():
    state = torch.random.get_rng_state()
    first, second = fresh_tiny(1), fresh_tiny(2)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.equal(weights(first)["conv_in.weight"], weights(second)["conv_in.weight"])


# --- beside torchvision's wheel --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_models_can_be_imported_first_and_torchvision_after_them():
    code = "import probe.models, torchvision.transforms, diffusers; diffusers.UNet2DConditionModel"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_declaring_twice_is_harmless():
    assert compat.declare_torchvision_operators() == compat.declare_torchvision_operators() == bool(compat._LIBRARIES)


@pytest.mark.parametrize(
    ("version", "cuda", "declared"),
    [
        ('__version__ = "0.28.0+cu130"\n', None, True),
        ("__version__: str = '0.28.0+cu130'\n", None, False),
        ("git = 'x'\n__version__ = '0.28.0+cu130'\ncuda = '13.0'\n", None, True),
        ('__version__ = "0.28.0+cu130"\n', "13.0", False),
        ('__version__ = "0.28.0+cpu"\n', None, False),
        ('__version__ = "0.28.0"\n', None, False),
        (None, None, False),
    ],
)
def test_operators_are_declared_for_a_cuda_wheel_beside_a_cpu_torch_only(
    version: str | None, cuda: str | None, declared: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = []

    class Library:
        def __init__(self, namespace: str, kind: str) -> None:
            asked.append((namespace, kind))

        def define(self, schema: str) -> None:
            asked.append(schema.partition("(")[0])

    spec = None
    if version is not None:
        (tmp_path / "version.py").write_text(version)
        spec = importlib.machinery.ModuleSpec("torchvision", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.library, "Library", Library)
    monkeypatch.setattr(compat, "_LIBRARIES", [])
    assert compat.declare_torchvision_operators() is declared
    assert asked == ([("torchvision", "FRAGMENT"), "nms", "qnms"] if declared else [])
