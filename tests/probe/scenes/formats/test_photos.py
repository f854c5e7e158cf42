"""Plain photos: reconstructed from their pixels alone, then compared with the cameras that took them."""

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
from probe.scenes.reading import Folder, Reading
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
    """Photos of the room of all kinds: the fourth stored on its side, and beside them what is left out."""
    root = tmp_path_factory.mktemp("photos") / "room"
    for index in range(COUNT):
        save_rgb(root / f"{index + 8}.jpg", world.image[index])
    path = root / "11.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(path) as image:
        image.transpose(Image.Transpose.ROTATE_90).save(path, quality=99, subsampling=0, exif=exif)
    for name, kind in (("8.webp", {"quality": 99}), ("9.tif", {}), ("10.png", {})):
        with Image.open(root / name.replace(name.split(".")[1], "jpg")) as image:
            (image.convert("RGBA") if name == "10.png" else image).save(root / name, **kind)
        (root / name).with_suffix(".jpg").unlink()
    save_rgb(root / "99.png", torch.zeros(3, *SIZE))
    shutil.copy(root / "12.jpg", root / "copy of 12.jpg")
    (root / "13 again.jpg").write_bytes((root / "13.jpg").read_bytes()[:2000])
    (root / "._12.jpg").write_bytes(b"\0\x05\x16\x07")
    return root


LEFT_OUT = {
    "13 again.jpg": "13 again.jpg is not a whole JPEG image: ",
    "99.png": "it does not fit into the reconstruction",
    "copy of 12.jpg": "it is the same file as 12.jpg",
}
NAMES = ("8.webp", "9.tif", "10.png", "11.jpg", "12.jpg", "13.jpg", "14.jpg")


@pytest.fixture(scope="module")
def recording(folder: Path, tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        found = find_recordings(folder)
        yield found.open(found.names[0])


def test_photos_become_the_cameras_that_took_them(recording: Recording, world: World):
    """Up to a similarity: all but the black photo, turned by less than .3 degrees, moved by less than 1 %."""
    assert recording.names == NAMES
    assert (recording.name, recording.unit) == ("room", None)
    assert [one.name for one in recording.dropped] == list(LEFT_OUT)
    assert all(LEFT_OUT[one.name] in one.reason for one in recording.dropped)
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
    assert [sorted(path.name for path in one.iterdir()) for one in workspaces] == [["images", "photos.json", "sparse"]]
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    scenes = open_scenes(f"photos:{copy}", Request(groups=2, views=2, n_ref=1, size=64))
    assert scenes.note.startswith(f"{COUNT} of {COUNT + 3} photos reconstructed, in {workspaces[0]}; 1 of them turned")
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
        save_rgb(tmp_path / f"room/{index}.png", torch.full((3, 48, 64), 0.1 * index))
    with pytest.raises(
        ValueError, match=r"cannot reconstruct these 3 photos \(0 of 3 pairs match\); take more"
    ) as caught:
        find_recordings(tmp_path / "room")
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache/attention-probing/photos").iterdir())


def test_photos_from_one_place_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """They match, and show no depth: crops of one picture, a camera that only turns."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    picture = torch.rand(3, 60, 80, generator=torch.Generator().manual_seed(0))
    large = torch.nn.functional.interpolate(picture[None], scale_factor=4, mode="bilinear")[0]
    for index in range(3):
        save_rgb(tmp_path / f"room/{index}.png", large[:, :, 4 * index : 4 * index + 300])
    with pytest.raises(ValueError, match=r"\(3 of 3 pairs match\); they match but may be taken from nearly one place"):
        find_recordings(tmp_path / "room")


@dataclass
class Model:
    """What is asked of a pycolmap reconstruction."""

    photos: int = 5
    points: int = 100
    strange: bool = False

    @property
    def cameras(self) -> dict[int, "Model"]:
        return {1: self}

    def has_bogus_params(self, *limits: float) -> bool:
        return self.strange

    def num_reg_images(self) -> int:
        return self.photos

    def num_points3D(self) -> int:  # noqa: N802 - pycolmap's name
        return self.points


def test_unsound_reconstructions_are_not_taken():
    assert photos._is_sound(Model())
    assert not any(photos._is_sound(one) for one in (Model(photos=2), Model(points=99), Model(strange=True)))


def folder_of(root: Path, names: Sequence[str]) -> Path:
    for place, name in enumerate(names):
        save_rgb(root / name, torch.full((3, 24, 32), 0.1 * place))
    return root


def test_photos_are_found_in_the_folder_below(tmp_path: Path):
    root = folder_of(tmp_path / "a", [f"images/{k}.png" for k in range(3)] + ["logo.png", "__MACOSX/images/9.png"])
    assert [path.name for path in photos._photos(Folder(root))] == ["0.png", "1.png", "2.png"]
    folder_of(root, [f"images_4/{k}.png" for k in range(4)])
    assert len(photos._photos(Folder(root))) == 3  # images comes first
    assert len(photos._photos(Folder(root, Reading(images="images_4")))) == 4
    other = folder_of(tmp_path / "b", [f"{folder}/{k}.png" for folder in ("left", "right") for k in range(3)])
    with pytest.raises(ValueError, match=r"in 2 folders \(left, right\); name one, or use --images"):
        photos._photos(Folder(other))
    with pytest.raises(ValueError, match=r"none holds 0 photos, expected 3 or more"):
        photos._photos(Folder(other, Reading(images="none")))


def test_a_bad_photo_is_found_before_the_reconstruction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(photos, "_reconstruct", None)  # it would fail if it were called
    root = folder_of(tmp_path / "room", ["0.png", "1.png", "2.png"])
    (root / "1.png").write_bytes((root / "1.png").read_bytes()[:60])
    with pytest.raises(ValueError, match=r"2 different photos that can be read, expected 3 or more; .*1.png is not a"):
        find_recordings(root)
    with pytest.raises(ValueError, match=r"^\S*1.png is not a whole PNG"):
        find_recordings(root, Reading(strict=True))
    shutil.copy(root / "0.png", root / "1.png")
    with pytest.raises(ValueError, match=r"2 different photos that can be read"):
        find_recordings(root)


def test_the_focal_length_of_converted_photos_stays(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 8
    exif.get_ifd(0x8769)[0xA405] = 26  # focal length in 35 mm
    for name in ("a.webp", "a.tif", "a.jpg"):
        Image.new("RGB", (30, 20)).save(tmp_path / name, exif=exif)
        made = photos._copy_upright(tmp_path / name, root=Folder(tmp_path), folder=tmp_path)
        with Image.open(tmp_path / made.copy) as image:
            assert (image.size, made.size, made.turned) == ((20, 30), (30, 20), name != "a.tif")
            assert name == "a.tif" or image.getexif().get_ifd(0x8769)[0xA405] == 26
            assert image.getexif().get(0x0112) == 1


def test_without_pycolmap_one_line_says_what_to_install(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    with pytest.raises(ValueError, match=r"photos needs pycolmap.*pip install 'attention-probing\[colmap\]'"):
        find_recordings(folder)


def test_other_folders_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(FileNotFoundError, match=r"is not a folder; expected one with photos"):
        find_recordings(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"holds 0 photos, expected 3 or more"):
        find_recordings(tmp_path)
    (tmp_path / "a.dng").write_bytes(b"")
    with pytest.raises(ValueError, match=r"holds 0 photos, expected 3 .*; it holds .dng"):
        find_recordings(tmp_path)
    root = folder_of(tmp_path / "room", ["0.png", "1.png", "2.png"])
    (root / "1.png").rename(tmp_path / "outside.png")
    (root / "1.png").symlink_to(tmp_path / "outside.png")
    with pytest.raises(ValueError, match=r"1.png leads outside .*--follow-links"):
        find_recordings(root, Reading(strict=True))


def test_a_failed_reconstruction_names_the_photos_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def fail(*_: object, one_camera: bool) -> None:
        raise ValueError("photos: pycolmap cannot reconstruct these 3 photos")

    monkeypatch.setattr(photos, "_reconstruct", fail)
    root = folder_of(tmp_path / "room", [f"{k}.png" for k in range(4)])
    (root / "1.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"these 3 photos; 1 of 4 photos left out: 1.png \(\S*1.png is no image"):
        find_recordings(root)
