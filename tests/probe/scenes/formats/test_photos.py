"""Plain photos: reconstructed from their pixels alone, then compared with the cameras that took them."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from einops import rearrange
from jaxtyping import Float
from PIL import Image
from small_nerfstudio import save_rgb
from small_world import World, make_world
from torch import Tensor
from torch.nn.functional import grid_sample

from probe.geometry import camera_centre, depth_to_point_map, project, rotation_degrees
from probe.scenes import Request, open_scenes
from probe.scenes.formats import photos
from probe.scenes.formats.photos import find_recordings
from probe.scenes.recordings import Recording

COUNT = 7
SIZE = (240, 320)
FOCAL = 288.0


def fit_similarity(points: Float[Tensor, "p 3"], others: Float[Tensor, "p 3"]) -> tuple[float, Tensor, Tensor]:
    """Give scale, rotation and shift that bring points nearest to others (Umeyama, 1991)."""
    middle, other = points.mean(0), others.mean(0)
    left, values, right = torch.linalg.svd((others - other).mT @ (points - middle))
    signs = torch.ones(3, dtype=points.dtype)
    signs[2] = torch.sign(torch.linalg.det(left @ right))
    rotation = left @ torch.diag(signs) @ right
    scale = float((values * signs).sum() / (points - middle).square().sum())
    return scale, rotation, other - scale * rotation @ middle


def textured(world: World) -> World:
    """Paint every surface with solid noise of two sizes: features that look the same from everywhere."""
    points = depth_to_point_map(world.depth, world.intrinsics, world.world_to_cam)
    places = rearrange(points / 3.5, "f c height width -> 1 f height width c")  # the room reaches to 3.1
    generator = torch.Generator().manual_seed(0)
    noise = [torch.rand(1, 3, side, side, side, generator=generator) for side in (64, 160)]
    colours = torch.stack([grid_sample(one, places, align_corners=False)[0] for one in noise]).mean(0)
    return replace(world, image=rearrange(colours, "c f height width -> f c height width"))


@pytest.fixture(scope="module")
def world() -> World:
    return textured(make_world(COUNT, size=SIZE, focal=(FOCAL, FOCAL), centre=(0.0, 0.0), roll=0.0, turn=4.0, seed=5))


@pytest.fixture(scope="module")
def folder(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of the room, the fourth stored on its side, and a black one that shows nothing."""
    root = tmp_path_factory.mktemp("photos") / "room"
    for index in range(COUNT):
        save_rgb(root / f"{index + 8}.jpg", world.image[index])
    path = root / "11.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(path) as image:
        image.transpose(Image.Transpose.ROTATE_90).save(path, quality=99, subsampling=0, exif=exif)
    save_rgb(root / "99.png", torch.zeros(3, *SIZE))
    return root


@pytest.fixture(scope="module")
def recording(folder: Path, tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        found = find_recordings(folder)
        yield found.open(found.names[0])


def test_photos_become_the_cameras_that_took_them(recording: Recording, world: World):
    """Up to a similarity: all but the black photo, turned by less than .3 degrees, moved by less than 1 %."""
    assert recording.names == tuple(f"{index + 8}.jpg" for index in range(COUNT))
    assert (recording.name, recording.unit, tuple(one.name for one in recording.dropped)) == ("room", None, ("99.png",))
    made, true = camera_centre(recording.cameras).double(), camera_centre(world.world_to_cam).double()
    scale, rotation, shift = fit_similarity(made, true)
    moved = scale * made @ rotation.mT + shift
    extent = (true - true.mean(0)).norm(dim=-1).max()
    assert (moved - true).norm(dim=-1).max() < 0.01 * extent
    turned = recording.cameras[:, :3, :3].double() @ rotation.mT
    full = torch.eye(4, dtype=torch.float64).repeat(COUNT, 1, 1)
    full[:, :3, :3] = turned
    assert rotation_degrees(full, world.world_to_cam.double()).max() < 0.3
    assert (recording.intrinsics[:, 0, 0] / FOCAL - 1).abs().max() < 0.01


def test_tracks_lie_on_the_surfaces_that_the_photos_show(recording: Recording, world: World):
    scale, rotation, shift = fit_similarity(
        camera_centre(recording.cameras).double(), camera_centre(world.world_to_cam).double()
    )
    errors = []
    for index in range(COUNT):
        assert recording.points is not None
        points = (scale * recording.points(index).double() @ rotation.mT + shift).float()
        xy, depth = project(points, world.intrinsics[index], world.world_to_cam[index])
        inside = ((xy >= 0) & (xy < torch.tensor([SIZE[1], SIZE[0]]))).all(-1)
        x, y = xy[inside].long().unbind(-1)
        errors.append((depth[inside] / world.depth[index][y, x] - 1).abs())
    assert torch.cat(errors).median() < 0.005
    assert len(torch.cat(errors)) > 300 * COUNT


def test_they_run_from_the_command_lines_door_and_are_reconstructed_once(
    folder: Path, recording: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(photos, "_reconstruct", None)  # it would fail if it were called again
    workspaces = list(photos.cache_folder().iterdir())
    assert [sorted(path.name for path in one.iterdir()) for one in workspaces] == [["images", "sparse"]]
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    scenes = open_scenes(f"photos:{copy}", Request(groups=2, views=2, n_ref=1, size=64))
    assert scenes.note.startswith(f"{COUNT} of {COUNT + 1} photos reconstructed, in {workspaces[0]}")
    views, overlap = scenes.load(0)
    assert views.names[0].startswith("copy:")
    assert 0.001 < views.valid.float().mean() < 0.5
    assert min(overlap) >= 0.2
    Image.new("RGB", (9, 9)).save(copy / "new.png")
    with pytest.raises(TypeError):  # another photo is another reconstruction
        open_scenes(f"photos:{copy}", Request(groups=2, views=2, n_ref=1, size=64))
    assert len(list(photos.cache_folder().iterdir())) == 1  # and nothing half-made is left


def test_photos_that_show_nothing_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for index in range(3):
        save_rgb(tmp_path / f"room/{index}.png", torch.full((3, 48, 64), 0.5))
    with pytest.raises(ValueError, match=r"pycolmap cannot reconstruct these 3 photos; take more") as caught:
        find_recordings(tmp_path / "room")
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache/attention-probing/photos").iterdir())


def test_without_pycolmap_one_line_says_what_to_install(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    with pytest.raises(ValueError, match=r"photos needs pycolmap.*pip install 'attention-probing\[colmap\]'"):
        find_recordings(folder)


def test_other_folders_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(FileNotFoundError, match=r"is not a folder; expected one with PNG or JPEG photos"):
        find_recordings(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"holds 0 PNG or JPEG files, expected 3 or more"):
        find_recordings(tmp_path)
    for index in range(3):
        save_rgb(tmp_path / f"room/{index}.png", torch.zeros(3, 24, 32))
    (tmp_path / "room/1.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"1.png is not a whole PNG or JPEG image"):
        find_recordings(tmp_path / "room")
    outside = tmp_path / "outside.png"
    (tmp_path / "room/1.png").rename(outside)
    (tmp_path / "room/1.png").symlink_to(outside)
    with pytest.raises(ValueError, match=r"1.png leads outside"):
        find_recordings(tmp_path / "room")
