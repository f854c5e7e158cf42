"""Sources of geometry: the scene's own, tracks, a function of one's own; and what they must give."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from standin_packages import standins

from probe.correspondence.sources import SOURCES, open_source
from probe.correspondence.tracks import track_geometry
from probe.scenes import Request, open_scenes
from probe.scenes.recordings import with_geometry
from probe.views import Views

CPU = torch.device("cpu")
FUNCTIONS = """
import torch

def flat(views):
    return torch.ones_like(views.point_map).double(), views.valid.long()

def alone(views):
    return views.point_map

def wrong(views):
    return views.point_map[:, :1], views.valid

value = 3
"""


@pytest.fixture(scope="module")
def views() -> Views:
    return open_scenes("shapes", Request(groups=1, views=2, n_ref=1, size=32)).load(0)[0]


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_geometry.py").write_text(FUNCTIONS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "my_geometry", raising=False)
    return "module:my_geometry"


def test_the_sources_are_named():
    assert list(SOURCES) == ["depth", "vggt", "tracks", "module"]


def test_own_depth_is_the_scenes(views: Views):
    given = with_geometry(views, open_source("depth", CPU))
    assert given.point_map is views.point_map
    assert given.valid is views.valid


def test_tracks_are_a_source_and_the_scenes_own_points_do_not_matter(views: Views):
    lacking = replace(views, point_map=torch.full_like(views.point_map, torch.nan), valid=torch.zeros_like(views.valid))
    given = with_geometry(lacking, open_source("tracks", CPU))
    assert torch.equal(given.valid, track_geometry(views)[1])
    assert torch.equal(given.image, views.image)
    assert torch.equal(given.world_to_cam, views.world_to_cam)


def test_a_function_of_ones_own_is_a_source(views: Views, own_module: str):
    given = with_geometry(views, open_source(f"{own_module}.flat", CPU))
    assert given.point_map.dtype == views.point_map.dtype
    assert given.valid.dtype == torch.bool
    assert bool((given.point_map == 1).all())


def test_vggt_is_a_source_in_the_scenes_frame(tmp_path: Path, views: Views):
    save_file({"gain": torch.ones(1)}, tmp_path / "model.safetensors")
    with standins():
        given = with_geometry(views, open_source(f"vggt:{tmp_path}", CPU))
    assert bool(given.valid.all())
    first = views.world_to_cam[0, 0]
    local = first[:3, :3] @ given.point_map[0, 0, :, 5, 9] + first[:3, 3]
    assert bool((local >= 0).all())  # colours, scaled


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("lidar", "'lidar' is unknown; choose from depth, vggt, tracks, module"),
        ("depth:x", "depth takes no folder"),
        ("tracks:x", "tracks takes no folder"),
        ("module:nowhere.f", "there is no module 'nowhere' in .* give module:package.function"),
        ("module:f", "expected a dotted path"),
    ],
)
def test_sources_that_are_not_there_are_refused(spec: str, message: str):
    with pytest.raises(ValueError, match=message):
        open_source(spec, CPU)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("alone", r"returned \[\(1, 2, 3, 32, 32\)\], expected \[\(1, 2, 3, 32, 32\), "),
        ("wrong", r"\(1, 1, 3, 32, 32\)"),
    ],
)
def test_an_answer_that_does_not_fit_is_refused(name: str, message: str, views: Views, own_module: str):
    with pytest.raises(ValueError, match=f"module:my_geometry.{name} .*{message}"):
        with_geometry(views, open_source(f"{own_module}.{name}", CPU))


def test_a_name_that_is_not_there_or_no_function_is_refused(own_module: str):
    with pytest.raises(ValueError, match=r"has no 'flap'; nearest: 'flat'"):
        open_source(f"{own_module}.flap", CPU)
    with pytest.raises(ValueError, match="is int, not a function"):
        open_source(f"{own_module}.value", CPU)
