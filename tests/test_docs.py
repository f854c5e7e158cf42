"""The pages in docs/ tell the truth: what they name exists, their snippets run, their numbers are computed."""

import importlib
import importlib.util
import inspect
import re
import shlex
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import sampling_pipelines
import torch
from einops import rearrange

from analysis import report
from analysis.exporting.style import FigureStyle
from probe import decode, emergence, knockout, patch, preview, run, show, truth_quality
from probe.baselines import BASELINES, NULLS
from probe.correspondence.sources import SOURCES
from probe.geometry import invert_rigid, point_map_to_depth
from probe.measure.model import timestep_table
from probe.metrics import thresholds
from probe.models import MODELS, load_model
from probe.models.model import MultiViewModel
from probe.models.schedules import cameo_scheduler
from probe.plan import __main__ as speed
from probe.scenes import DATA_SETS, SCENES, VIDEOS
from probe.scenes.recordings import load_views
from probe.scenes.shapes import CLIPS, OBJECTS, draw_shapes, make_views
from train import cameo, evaluate, ship, study

ROOT = Path(__file__).parents[1]
_spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
generate = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(generate)
PAGES = {
    path.name: path.read_text(encoding="utf-8")
    for path in (*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md")
}
NOTEBOOKS = {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "notebooks").glob("*.py"))}
OTHER_PROGRAMS = r"pip|torchrun|accelerate|\./check|jupytext|[./\w]*venv/bin/\w+"
SETTINGS = (
    report.Arguments,
    FigureStyle,
    ship.Settings,
    run.Settings,
    emergence.Settings,
    truth_quality.Settings,
    preview.Settings,
    show.Settings,
    knockout.Settings,
    patch.Settings,
    decode.Settings,
    speed.Settings,
    cameo.Command,
    evaluate.Settings,
    study.Study,
)
TINY = shlex.split(
    "--pairs 1 --views 2 --timesteps 500 --image-size 32 --baselines none --interventions none --no-report"
)
LESS = "--image-size 48 --layers 12 --interventions none --no-report --pairs"
EXTENDING = PAGES["extending.md"]


def blocks(language: str, after: str) -> list[str]:
    """Give the fenced blocks of the section under a heading."""
    section = EXTENDING.split(f"\n## {after}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(rf"^```{language}\n(.*?)^```", section, re.M | re.S)


def find(name: str) -> object:
    """Import the longest part of a dotted name that is a module, and look the rest up in it."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(name)


def run_commands(section: str, *more: str) -> None:
    for command in blocks("bash", section):
        words = shlex.split(command)
        assert words[:3] == ["python", "-m", "probe.run"]
        run.cli([*words[3:], *TINY, *more])


@pytest.mark.parametrize("page", [*PAGES, *NOTEBOOKS])
def test_what_is_named_exists(page: str):
    text = (PAGES | NOTEBOOKS)[page]
    for name in re.findall(r"`((?:probe|train|analysis)\.(?!py`)[\w.]+)`", text):
        assert find(name) is not None, name
    for path in re.findall(r"`((?:probe|train|analysis|tests|docs|notebooks|reports|benchmarks)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path
    folder = ROOT if (ROOT / page).exists() else ROOT / "docs"
    for path in re.findall(r"\]\(([\w./-]+\.md)(?:#[\w-]+)?\)", text):
        assert (folder / path).exists(), path
    for module in re.findall(r"python -m ([\w.]+)", text):
        assert importlib.util.find_spec(module), module


@pytest.mark.parametrize("page", [*PAGES, *NOTEBOOKS])
def test_flags_are_those_of_a_command(page: str):
    known = {"help"} | {field.name for settings in SETTINGS for field in fields(settings)}
    text = re.sub(rf"`({OTHER_PROGRAMS}) [^`]*`", "", (PAGES | NOTEBOOKS)[page])
    text = re.sub(r"`?python benchmarks/[^`\n]*", "", text)
    for flag in re.findall(r"(?<![\w-])--([a-z][a-z-]+)", text):
        assert flag.removeprefix("no-").replace("-", "_") in known, flag


def test_headings_that_are_linked_to_exist():
    headings = {
        page: {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.+)$", text, re.M)}
        for page, text in PAGES.items()
    }
    for page, text in PAGES.items():
        for other, heading in re.findall(r"\]\(([\w./-]*)#([\w-]+)\)", text):
            assert heading in headings[Path(other).name or page], f"{page}: {other}#{heading}"


@pytest.mark.parametrize("path", generate.PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_generated_parts_are_those_of_tables_and_code(path: Path):
    page = path.read_text(encoding="utf-8")
    assert generate.with_parts(page) == page, "run python docs/generate.py"
    assert page.count("<!-- generated") == page.count("<!-- end -->") == len(generate.MARKS.findall(page))


def test_every_generated_part_stands_on_a_page():
    placed = {part[2] for path in generate.PAGES for part in generate.MARKS.finditer(path.read_text(encoding="utf-8"))}
    assert placed == set(generate.WRITERS)


MEASURED = re.compile(r"±\s*[\d.]|\d\s*dB\b|(?<![\w.])\.\d{2,3}\b|\d [%] ?\(\d|\d\.\d [%]|(?i:half the steps)")
"""What only tables may say: an interval, decibels, a share to three digits, a percentage with its interval."""


@pytest.mark.parametrize("name", ["README.md", "docs/training.md", "docs/reading.md", "reports/reference/README.md"])
def test_measured_numbers_stand_in_generated_parts_alone(name: str):
    """So that each is read from a committed table; code, flags and the definition of what is shown aside."""
    written = generate.without_parts((ROOT / name).read_text(encoding="utf-8"))
    text = re.sub(r"```.*?```|`[^`]*`", "", written, flags=re.S)
    assert MEASURED.findall(text) == []


def test_a_number_outside_of_a_table_would_be_seen():
    for said in ("16.74 ± .25", "gains .7 dB", "precision .107", "24 % (18-30 %)", "0.8 % of", "in half the steps"):
        assert MEASURED.search(said), said


def test_every_model_says_what_was_checked():
    checked = PAGES["models.md"].split("## What was checked")[1]
    first = re.findall(r"^\| (`[^|]+) \|", checked, re.M)
    assert set(re.findall(r"`(\w[\w-]+)`", "".join(first))) == set(MODELS) - {"cat3d-tiny"}


def test_every_choice_of_data_is_explained():
    assert {name.partition("[")[0] for name in re.findall(r"`(\w+):FOLDER", PAGES["data.md"])} == {*DATA_SETS, *VIDEOS}
    for name in (*OBJECTS, *CLIPS, *SOURCES):
        assert re.search(rf"[`:]{name}\b", PAGES["data.md"]), name


def test_every_baseline_is_explained():
    assert set(re.findall(r"`([\w-]+)`", PAGES["reading.md"])) >= {*BASELINES, *NULLS}


def test_messages_of_the_errors_page_are_raised():
    files = [
        path.read_text(encoding="utf-8")
        for part in ("probe", "train", "analysis")
        for path in (ROOT / part).rglob("*.py")
    ]
    source = re.sub(r'"\s*\n\s*f?"', "", "".join(files))  # parts of a message on several lines are one
    elsewhere = {"python3 is 3.x, but 3.11, 3.12 or 3.13 is needed", "ensurepip is not available"}
    messages = re.findall(r"^\| `([^`]+)` \|", PAGES["errors.md"], re.M)
    assert len(messages) > 20
    assert [message for message in messages if message not in source and message not in elsewhere] == []


def interface() -> list[str]:
    """Return the modules of the Python interface, as the site shows it."""
    return re.findall(r"^ +- api/([\w.]+)\.md$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.M)


@pytest.mark.parametrize("name", interface())
def test_every_public_name_is_documented(name: str):
    module = importlib.import_module(name)
    exported = getattr(module, "__all__", vars(module))  # a package may import its names when one is used
    values = {key: getattr(module, key) for key in exported if not key.startswith("_")}
    public = {key: value for key, value in values.items() if _is_own(value, name)}
    classes = [value for value in public.values() if inspect.isclass(value)]
    methods = {
        f"{owner.__name__}.{key}": value
        for owner in classes
        for key, value in vars(owner).items()
        if not key.startswith("_") and (inspect.isfunction(value) or isinstance(value, property))
    }
    assert module.__doc__
    assert public
    assert [key for key, value in {**public, **methods}.items() if not (value.__doc__ or "").strip()] == []


def _is_own(value: object, module: str) -> bool:
    """Return whether a module, or the packages that it stands for, defines a function or class."""
    if not inspect.isclass(value) and not inspect.isfunction(value):
        return False
    home = {"probe.capture": "probe.attention", "analysis.report": "analysis.building"}.get(module, module)
    return value.__module__.startswith(home)


def test_the_names_in_the_table_of_extensions_are_the_dicts():
    table = EXTENDING.split("\n## ", 1)[0]
    assert {"`probe.models.MODELS`", "`probe.scenes.DATA_SETS`", "`probe.baselines.BASELINES`"} <= set(
        re.findall(r"`[\w.]+`", table)
    )


def test_the_table_of_noise_is_that_of_the_schedules():
    lines = [line for line in PAGES["method.md"].splitlines() if "zero terminal SNR (`" in line]
    scheduler = MultiViewModel(name="", network=torch.nn.Identity(), alpha_bar=cameo_scheduler().alphas_cumprod, size=1)
    for line, model in zip(lines, (load_model("cat3d-tiny"), scheduler), strict=True):
        told = [float(cell) for cell in line.split("|")[2:-1]]
        known = timestep_table(model, (100, 300, 500, 700, 900, 999))["alpha_bar"]
        np.testing.assert_allclose(told, known, rtol=0, atol=5.1e-4)


def test_a_model_is_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_model.py").write_text(blocks("python", "A model")[0], encoding="utf-8")
    run_commands("A model")
    layers = pd.read_csv("runs/my-model/layers.csv")
    assert layers[["layer", "name", "grid_h", "grid_w"]].to_numpy().tolist() == [[0, "attention", 16, 16]]


@pytest.mark.slow
def test_a_scene_loader_is_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for known in (DATA_SETS, SCENES):
        monkeypatch.setitem(known, "mine", None)  # what the snippet adds is gone after the test
    generator = torch.Generator().manual_seed(0)
    turns = torch.linspace(8, 88, 9)[None]
    views = make_views(draw_shapes(1, generator=generator), turns, size=48, n_ref=1, generator=generator)
    (tmp_path / "my_folder").mkdir()
    np.savez(
        tmp_path / "my_folder" / "room.npz",
        image=rearrange((255 * views.image[0]).byte(), "n c h w -> n h w c").numpy(),
        depth=point_map_to_depth(views.point_map, views.world_to_cam)[0].numpy(),
        k=views.intrinsics[0, 0].numpy(),
        cam_to_world=invert_rigid(views.world_to_cam[0]).numpy(),
    )
    module, script = blocks("python", "A scene loader")
    (tmp_path / "my_scenes.py").write_text(module, encoding="utf-8")
    exec(
        compile(script.replace("--pairs", LESS), "", "exec"),
        {},
    )
    assert pd.read_csv("runs/my-scenes/pairs.csv")["scene"].str.startswith("room:").all()
    loaded = load_views(DATA_SETS["mine"](Path("my_folder")).open("room"), [0, 5], size=48, n_ref=1)
    torch.testing.assert_close(loaded.point_map, views.point_map[:, [0, 5]], rtol=0, atol=1e-4)  # cameras and depth fit
    torch.testing.assert_close(loaded.image, views.image[:, [0, 5]], rtol=0, atol=1 / 255)


def test_a_metric_is_added(capsys: pytest.CaptureFixture[str]):
    (script,) = blocks("python", "A metric")
    names: dict = {}
    exec(compile(script, "", "exec"), names)
    table = names["table"]
    own = table[(table["head"] == -1) & (table["direction"] == "tgt-ref")].groupby("layer")["value"].mean()
    assert set(table["metric"]) == {"mean_error"}
    assert 0 < own[12] < own[10] < 1  # correspondence has emerged in layer 12
    assert "layer" in capsys.readouterr().out


@pytest.mark.slow
def test_a_protocol_is_added(capsys: pytest.CaptureFixture[str]):
    (script,) = blocks("python", "A protocol")
    names: dict = {}
    exec(compile(script, "", "exec"), names)
    scores, references, metrics = names["scores"], names["references"], names["strict"].metrics(thresholds(None))
    assert set(scores["protocol"]) == set(references["protocol"]) == {"ratio-strict-v1"}
    assert set(scores["metric"]) == {*metrics, "kept"}
    assert scores[scores["metric"] == "precision@5%"]["count"].max() == 26  # a tenth of 16 x 16, rounded up
    assert "tgt-ref" in capsys.readouterr().out


@pytest.mark.slow
def test_a_matcher_is_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(BASELINES, "mean-colour", None)
    (script,) = blocks("python", "A matcher")
    exec(compile(script.replace("--pairs", LESS), "", "exec"), {})
    scores = pd.read_parquet("runs/my-matcher/scores.parquet")
    found = scores[scores["metric"] == "precision@5%"].groupby("model", observed=True)["value"].mean()
    assert found["mean-colour"] > 3 * found["chance: uniform"]


def test_pipelines_are_probed_over_their_sampling_steps(capsys: pytest.CaptureFixture[str]):
    section = PAGES["models.md"].split("\n## A pipeline over its sampling steps\n", 1)[1].split("\n## ", 1)[0]
    (script,) = re.findall(r"^```python\n(.*?)^```", section, re.M | re.S)
    assert len([line for line in script.splitlines() if line]) < 10
    pipes = {"cogvideox": sampling_pipelines.cogvideox(), "wan": sampling_pipelines.wan()}
    for pipe in pipes.values():
        pipe.set_progress_bar_config(disable=True)
    size = {"height": 32, "width": 32, "num_frames": 5, "output_type": "latent"}
    exec(compile(script, "", "exec"), {**pipes, "prompt": sampling_pipelines.prompts() | size})
    said = [line.split()[:3] for line in capsys.readouterr().out.splitlines()]
    assert [words[:2] for words in said if words[0] == "cogvideox"] == [["cogvideox", "750.0"], ["cogvideox", "250.0"]]
    assert [words[2] for words in said if words[0] == "wan"] == ["conditional", "unconditional"] * 2


def test_a_section_of_a_page_is_added():
    (script,) = blocks("python", "A section of a page")
    names: dict = {}
    exec(compile(script, "", "exec"), names)
    worst = pd.DataFrame({"scene": list("abcd"), "view": [1, 2, 1, 2], "psnr": [9.0, 7.5, 8.0, 12.0]})
    section = names["hardest_views"](SimpleNamespace(worst=worst))
    assert section.tables["hardest"].rows == (("b", "2", "7.5"), ("c", "1", "8.0"), ("a", "1", "9.0"))


@pytest.mark.slow
def test_a_source_of_geometry_is_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_points.py").write_text(blocks("python", "A source of geometry")[0], encoding="utf-8")
    run_commands("A source of geometry", "--layers", "12")
    run.cli(["--out", "runs/own", *TINY, "--layers", "12"])
    given, own = (pd.read_csv(f"runs/{name}/layers.csv")["count"].sum() for name in ("my-points", "own"))
    assert 0 < given < own  # what lies far is not asked for
