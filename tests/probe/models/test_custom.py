import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import video_models

from probe import run
from probe.models import load_model
from probe.models.model import model_layers, predict
from probe.models.parts.files import Loading
from probe.scenes.shapes import draw_shapes, make_views

SOURCE = '''
import torch
from torch import nn
from torch.nn import functional as F

from probe.models import MultiViewModel, pixel_scheduler


class Joint(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(9, 3 * 8)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class Network(nn.Module):
    """A token per pixel; colours and rays in, colours out."""

    def __init__(self):
        super().__init__()
        self.joint, self.head = Joint(), nn.Linear(8, 3)

    def forward(self, latents, rays):
        x = torch.cat([latents, rays], 2).permute(0, 1, 3, 4, 2)
        return self.head(self.joint(x.flatten(1, 3))).unflatten(1, x.shape[1:4]).permute(0, 1, 4, 2, 3)


class Mine(MultiViewModel):
    def condition(self, views, keep_cameras=None):
        return {"rays": super().condition(views, keep_cameras)["inputs"][:, :, 1:]}

    def denoise(self, latents, t, inputs):
        return self.network(latents, inputs["rays"])

    def probe_inputs(self, views, scale=None):
        side = scale or self.size
        return {"latents": torch.zeros(1, views, 3, side, side), "rays": torch.zeros(1, views, 6, side, side)}

    def fresh(self, seed):
        torch.manual_seed(seed)
        return Network()


def make():
    return Mine(name="mine", network=Network(), alpha_bar=pixel_scheduler().alphas_cumprod, size=8)


def broken():
    raise RuntimeError("my own mistake")


def nothing():
    return Network()


number = 3
'''


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory with a module and a package of the user's."""
    (tmp_path / "users_own.py").write_text(SOURCE)
    (tmp_path / "users_package").mkdir()
    (tmp_path / "users_package" / "models.py").write_text(SOURCE)
    (tmp_path / "users_lack.py").write_text("import surely_not_installed\n")
    monkeypatch.chdir(tmp_path)
    for name in ("users_own", "users_package", "users_package.models", "users_lack"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


SMALL = ["--pairs", "1", "--views", "2", "--image-size", "32", "--timesteps", "500", "--no-report"]


@pytest.mark.parametrize("spec", ["users_own.make", "users_package.models.make"])
def test_a_users_model_is_probed_from_the_current_directory(here: Path, spec: str):
    path = list(sys.path)
    words = ["--model", f"module:{spec}", "--baselines", "random,null"]
    run.cli([*SMALL, *words, "--out", str(here / "run")])
    layers = pd.read_csv(here / "run" / "layers.csv")
    assert layers[["layer", "name", "grid_h", "grid_w"]].to_numpy().tolist() == [[0, "joint", 8, 8]]
    scores = pd.read_parquet(here / "run" / "scores.parquet")
    assert {"mine", "mine: random weights", "mine: cameras only"} <= set(scores["model"])
    assert sys.path == path


def test_a_users_model_is_ready_to_be_looked_at(here: Path):
    model = load_model("module:users_own.make")
    assert not model.network.training
    assert not any(parameter.requires_grad for parameter in model.network.parameters())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "expected a dotted path such as my_model.make"),
        ("users_own", "module:users_own: expected a dotted path such as my_model.make"),
        ("users_own.py", r"users_own .*users_own.py\) has no 'py'; nearest: "),
        ("./users_own.make", "expected a dotted path"),
        ("nowhere_at_all.make", "there is no module 'nowhere_at_all' in .* or on Python's path; give module:"),
        ("users_package.other.make", r"there is no module 'users_package.other' in"),
        ("users_lack.make", "importing users_lack failed: No module named 'surely_not_installed'; install it"),
        ("users_own.mak", r"has no 'mak'; nearest: 'make'"),
        ("users_own.number", "module:users_own.number is int, not a function; give module:package.function"),
        ("users_own.nothing", "module:users_own.nothing returned Network, expected a MultiViewModel"),
    ],
)
def test_wrong_paths_end_in_one_line(here: Path, capsys: pytest.CaptureFixture[str], spec: str, message: str):
    with pytest.raises(ValueError, match=message):
        load_model(f"module:{spec}")
    with pytest.raises(SystemExit) as stop:
        run.cli(["--model", f"module:{spec}", "--out", str(here / "run")])
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (here / "run").exists()


def written(folder: Path, scale: float) -> Path:
    """Write two files: a model, and the module it takes its name from."""
    folder.mkdir(exist_ok=True)
    (folder / "my_model.py").write_text(SOURCE + "\nfrom my_words import NAME\n\n\ndef named():\n" + NAMED, "utf-8")
    (folder / "my_words.py").write_text(f'NAME = "mine-{scale}"\n', "utf-8")
    return folder


NAMED = "    return Mine(name=NAME, network=Network(), alpha_bar=pixel_scheduler().alphas_cumprod, size=8)\n"


def test_of_two_files_of_one_name_each_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    names = []
    for folder in ("first", "second", "first"):
        monkeypatch.chdir(written(tmp_path / folder, scale=len(folder)))
        names.append(load_model("module:my_model.named").name)
    assert names == ["mine-5", "mine-6", "mine-5"]


def test_a_file_is_read_as_it_is_after_an_edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(written(tmp_path, scale=1))
    assert load_model("module:my_model.named").name == "mine-1"
    written(tmp_path, scale=2)  # within the same second, and of the same length
    assert load_model("module:my_model.named").name == "mine-2"


def test_the_suites_modules_stay_in_pythons_cache(here: Path):
    before = sys.modules["probe.models.model"]
    load_model("module:users_own.make")
    load_model("module:users_own.make")
    assert sys.modules["probe.models.model"] is before


def test_base_and_size_are_refused_and_ones_own_mistakes_are_not_hidden(here: Path):
    for loading in (Loading(base="x"), Loading(size=8)):
        with pytest.raises(ValueError, match="takes neither a base nor a size; set them in your function"):
            load_model("module:users_own.make", loading)
    with pytest.raises(RuntimeError, match="my own mistake"):
        load_model("module:users_own.broken")


# --- diffusers' video transformers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "module", "kind", "count", "prefix"),
    [("wan", "blocks.{}.attn1", "3d", 3, 0), ("cogvideox", "transformer_blocks.{}.attn1", "joint", 2, 6)],
)
def test_video_transformers_are_probed(tmp_path: Path, name: str, module: str, kind: str, count: int, prefix: int):
    model = load_model(f"module:video_models.{name}")
    layers = [layer for layer in model_layers(model) if layer.index is not None]
    expected = [(n, n, module.format(n), kind, (8, 8), prefix, 0) for n in range(count)]
    assert [(x.index, x.index_3d, x.name, x.kind, x.grid, x.prefix, x.suffix) for x in layers] == expected
    assert layers[0].layout(3).tokens == prefix + 3 * 64
    run.cli([*SMALL, "--model", f"module:video_models.{name}", "--baselines", "random", "--out", str(tmp_path / "run")])
    table = pd.read_csv(tmp_path / "run" / "layers.csv")
    assert table["name"].tolist() == [module.format(n) for n in range(count)]
    assert (table["grid_h"] == 8).all()


@torch.no_grad()
@pytest.mark.parametrize("name", ["wan", "cogvideox"])
def test_a_view_is_a_frame(name: str):
    model, g = getattr(video_models, name)(), torch.Generator().manual_seed(0)
    views = make_views(draw_shapes(1, generator=g), torch.tensor([[20.0, 40.0]]), size=32, n_ref=1, generator=g)
    noise = torch.randn(1, 3, 3, 32, 32, generator=g)
    seen: list[torch.Tensor] = []
    patches = model.network.patch_embedding if name == "wan" else model.network.patch_embed.proj
    patches.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    out = predict(model, views, torch.tensor([0]), noise)
    assert out.shape == (1, 3, 3, 32, 32)
    frames = seen[0][0].transpose(0, 1) if name == "wan" else seen[0]  # Wan: channels first; CogVideoX: frames as batch
    torch.testing.assert_close(frames, views.image[0] * 2 - 1, rtol=0, atol=0.05)
