"""Groups drawn from a recording: laws on a hand-made one, and the real frames where they are at hand."""

from pathlib import Path

import pytest
import torch

from probe.geometry import point_map_to_depth, rotation_degrees
from probe.scenes import DATA_SETS
from probe.scenes.choosing import Recordings
from probe.scenes.recordings import Recording
from probe.scenes.shapes import draw_shapes, make_views
from probe.views import TENSORS, Views
from train import batches
from train.footage import Footage, Library, open_library

KITCHEN = Path(__file__).parents[3] / "shared" / "data" / "seven_scenes_kitchen"


def recording(turns: tuple[float, ...] = (0.0, 5.0, 20.0, 50.0, 100.0)) -> Footage:
    """Five frames at known rotations to the first; the last two share too little with the others."""
    generator = torch.Generator().manual_seed(0)
    shapes = draw_shapes(1, difficulty="plain", generator=generator)
    views = make_views(shapes, torch.tensor([turns[1:]]), size=8, n_ref=1, generator=generator)
    frames = Views(**{name: getattr(views, name)[0][:, None] for name in TENSORS}, n_ref=1, unit="m")
    first = torch.tensor(turns)
    overlap = torch.full((5, 5), 0.9)
    overlap[3:, :3] = overlap[:3, 3:] = 0.1
    return Footage(read=frames.scene, rotation_deg=(first[:, None] - first).abs(), overlap=overlap)


def groups_of(whole: Footage, views: Views) -> list[list[int]]:
    """Find which frames a batch is made of, by their cameras."""
    cameras = torch.cat([whole.read(place).world_to_cam[:, 0] for place in range(5)])
    return [[int((cameras == camera).all((1, 2)).nonzero()) for camera in scene] for scene in views.world_to_cam]


def draw(
    whole: Footage,
    *,
    views: int = 2,
    max_rotation: float = 60.0,
    count: int = 40,
    widest: float = 1.0,
    only: slice = slice(None),
) -> Views:
    generator = torch.Generator().manual_seed(7)
    library = Library(count=1, open=lambda _: whole, views=views, max_rotation=max_rotation)
    return library.draw(generator, count, 1, widest=widest, only=only)


def open_small(name: str, **changes: object) -> tuple[batches.Draw, batches.Draw]:
    return batches.open_training_scenes(name, size=8, views=2, max_rotation=60, **changes)


def test_groups_share_enough_and_turn_less_than_the_limit():
    whole = recording()
    groups = groups_of(whole, draw(whole, widest=0.5))  # up to 30 degrees
    assert {tuple(sorted(group)) for group in groups} == {(0, 1), (0, 2), (1, 2), (3, 4)}
    assert draw(whole).unit == "m"


def test_an_anchor_without_near_frames_takes_the_least_rotated_one():
    groups = groups_of(recording(), draw(recording(), widest=0.01))
    partner = dict(groups)
    assert partner == {0: 1, 1: 0, 2: 1, 3: 4, 4: 3}  # 3 and 4 are 50 degrees apart: far, but nothing is nearer


def test_three_views_never_hold_a_frame_twice():
    groups = groups_of(recording(), draw(recording(), views=3, count=30))
    assert {tuple(sorted(group)) for group in groups} == {(0, 1, 2)}


def test_some_of_the_scenes_are_those_of_the_whole_batch():
    whole, part = draw(recording()), draw(recording(), only=slice(3, 5))
    assert torch.equal(part.world_to_cam, whole.world_to_cam[3:5])
    assert torch.equal(part.image, whole.image[3:5])


def test_too_few_frames_are_refused():
    with pytest.raises(ValueError, match=r"none of 5 frames shares 0.2 of its pixels with 3 others; use fewer views"):
        draw(recording(), views=4)


@pytest.mark.parametrize("spec", ["rgbd", "shapes:hard", "shapes-v1:hard", "shapes-v3", "moon", ""])
def test_unknown_scenes_are_refused(spec: str):
    with pytest.raises(ValueError, match=r"is unknown; choose shapes\[:plain\|"):
        open_small(spec)


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.skipif(not KITCHEN.is_dir(), reason="the real frames of ../shared/data are not at hand")
def test_a_real_recording_is_parted_in_time_and_its_rotations_are_those_of_its_cameras():
    train_part, test_part = open_library("rgbd", f"{KITCHEN}#525", size=8, views=2, max_rotation=30.0)
    train, test = train_part.open(0), test_part.open(0)
    total = sum(1 for _ in KITCHEN.glob("*.color.*"))
    assert len(train.overlap) == round(0.7 * total)
    assert len(train.overlap) + len(test.overlap) == total - round(0.75 * total) + round(0.7 * total)
    views = draw(train, max_rotation=30.0, count=12)
    first, second = views.world_to_cam[:, 0], views.world_to_cam[:, 1]
    assert float(rotation_degrees(first, second).max()) <= 30
    assert views.size == (8, 8)
    assert float(views.valid.float().mean()) > 0.5


# --- data sets of several recordings ---------------------------------------------------------------------------------


def data_set(opened: list[str], *, depth: bool = True, count: int = 8) -> Recordings:
    """Give recordings in memory that tell which frame they show: recording k's frame i is of the colour (k, i) / 16."""
    shapes = draw_shapes(1, difficulty="plain", generator=torch.Generator().manual_seed(0))
    turns = torch.arange(1, 4, dtype=torch.float32)[None] * 5
    views = make_views(shapes, turns, size=8, n_ref=1, generator=torch.Generator().manual_seed(1))

    def open_one(name: str) -> Recording:
        opened.append(name)
        number = int(name)
        return Recording(
            name=name,
            names=("0", "1", "2", "3"),
            sizes=((8, 8),) * 4,
            world_to_cam=views.world_to_cam[0],
            intrinsics=views.intrinsics[0],
            colour=lambda index: torch.tensor([number / 16, index / 16, 0.0])[:, None, None].expand(3, 8, 8),
            depth=(lambda index: point_map_to_depth(views.point_map, views.world_to_cam)[0, index]) if depth else None,
        )

    return Recordings(root=Path("memory"), names=tuple(map(str, range(count))), open=open_one)


def test_of_several_recordings_the_last_quarter_is_tested_on(monkeypatch: pytest.MonkeyPatch):
    opened: list[str] = []
    monkeypatch.setitem(DATA_SETS, "memory", lambda root: data_set(opened))
    train, test = open_small("memory:x")
    assert opened == []  # recordings are opened when they are drawn
    seen = {}
    for part, draw_part in (("train", train), ("test", test)):
        views = draw_part(torch.Generator().manual_seed(3), 60, 1)
        colours = (views.image[:, :, :2, 0, 0] * 16).round().long()
        assert (colours[:, 0, 0] == colours[:, 1, 0]).all()  # a scene is of one recording
        assert (colours[:, 0, 1] != colours[:, 1, 1]).all()  # and never shows a frame twice
        seen[part] = set(colours[:, 0, 0].tolist())
    assert seen == {"train": {0, 1, 2, 3, 4, 5}, "test": {6, 7}}
    assert len(opened) == 8  # each is opened and compared once


def test_every_process_draws_the_same_scenes_of_several_recordings(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(DATA_SETS, "memory", lambda root: data_set([]))
    train, _ = open_small("memory:x")
    whole = train(torch.Generator().manual_seed(3), 9, 1)
    part = train(torch.Generator().manual_seed(3), 9, 1, only=slice(4, 7))
    assert torch.equal(part.image, whole.image[4:7])


def test_scenes_without_depth_train_a_plain_model_only(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(DATA_SETS, "memory", lambda root: data_set([], depth=False))
    with pytest.raises(
        ValueError, match="memory carries no depth to supervise attention with; train without supervision"
    ):
        open_small("memory:x", supervised=True)
    train, _ = open_small("memory:x")
    assert not train(torch.Generator().manual_seed(3), 2, 1).valid.any()
