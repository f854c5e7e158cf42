from pathlib import Path

import pytest
import torch

from probe.geometry import rotation_degrees
from probe.scenes import GENERATED, SCENES, Request, open_scenes
from probe.scenes.shapes import OBJECTS, ROTATION_BINS, WORLDS
from probe.views import Views

TENSORS = ("image", "intrinsics", "world_to_cam", "point_map", "valid")


def request(groups: int = 4, *, views: int = 3, n_ref: int = 1, seed: int = 0, size: int | None = 16) -> Request:
    return Request(groups=groups, views=views, n_ref=n_ref, seed=seed, size=size)


def assert_same(first: Views, second: Views) -> None:
    for name in TENSORS:
        torch.testing.assert_close(getattr(first, name), getattr(second, name), rtol=0, atol=0)
    assert (first.n_ref, first.unit, first.names) == (second.n_ref, second.unit, second.names)


def test_shapes_known():
    scenes = open_scenes("shapes", request(2, views=4, n_ref=2))
    assert scenes.names == ("v2-plain-0-0000", "v2-plain-0-0001")
    assert scenes.note == ""
    views, overlap = scenes.load(1)
    assert views.image.shape == (1, 4, 3, 16, 16)
    assert (views.n_ref, views.unit, views.names) == (2, None, ("v2-plain-0-0001",))
    assert len(overlap) == 3
    assert all(0 <= share <= 1 for share in overlap)


def test_size_is_128_unless_asked():
    views, _ = open_scenes("shapes", request(1, views=2, size=None)).load(0)
    assert views.size == (128, 128)


@pytest.mark.parametrize("spec", [*(f"shapes:{difficulty}" for difficulty in OBJECTS), "shapes-v1"])
def test_a_scene_is_the_same_whatever_the_number_of_groups_and_the_order(spec: str):
    few, many = (open_scenes(spec, request(groups)) for groups in (3, 20))
    assert few.names == many.names[:3]
    backwards = [few.load(index) for index in (2, 1, 0)][::-1]
    for index, (views, overlap) in enumerate(backwards):
        again, again_overlap = many.load(index)
        assert_same(views, again)
        assert overlap == again_overlap
    assert not torch.equal(backwards[0][0].image, backwards[1][0].image)


def test_versions_of_the_rooms_are_scenes_that_can_be_named():
    assert set(WORLDS) == set(GENERATED)
    first, now = (open_scenes(name, request()).load(0)[0] for name in ("shapes-v1", "shapes"))
    assert not torch.equal(first.image, now.image)


def test_difficulty_and_seed_make_other_scenes():
    plain, _ = open_scenes("shapes:plain", request()).load(0)
    assert_same(plain, open_scenes("shapes", request()).load(0)[0])  # plain is what is meant when none is named
    assert_same(plain, open_scenes("shapes:", request()).load(0)[0])
    for spec, seed in (("shapes:cluttered", 0), ("shapes:repetitive", 0), ("shapes", 1)):
        other, _ = open_scenes(spec, request(seed=seed)).load(0)
        assert not torch.equal(other.image, plain.image)
    textureless, _ = open_scenes("shapes:textureless", request()).load(0)
    torch.testing.assert_close(textureless.point_map, plain.point_map, rtol=0, atol=0)  # the same room, bare


def test_names_are_unique():
    specs = [(f"{world}:{kind}", seed) for world in WORLDS for kind in OBJECTS for seed in (0, 1, 12)]
    names = [n for spec, seed in specs for n in open_scenes(spec, request(12_000, seed=seed)).names]
    assert len(set(names)) == len(names) == 12_000 * len(specs)


def test_rotation_bins_are_taken_in_turn():
    scenes = open_scenes("shapes", request(8, views=4, size=1))
    for index in range(8):
        views, _ = scenes.load(index)
        cameras = views.world_to_cam[0]
        turned = rotation_degrees(cameras[:1].expand(3, 4, 4), cameras[1:])
        low, high = ROTATION_BINS[index % 4 : index % 4 + 2]
        assert (turned >= low - 0.02).all()
        assert (turned <= high + 0.02).all()


def test_overlap_is_the_lesser_share_of_the_two_directions(monkeypatch: pytest.MonkeyPatch):
    shares = torch.tensor([[[1.0, 0.5, 0.2], [0.3, 1.0, 0.9], [0.6, 0.8, 1.0]]])
    monkeypatch.setattr("probe.scenes.shapes.casting.overlaps", lambda rooms, views: shares)
    _, overlap = open_scenes("shapes", request()).load(0)
    assert overlap == pytest.approx((0.3, 0.2))


def test_more_rotation_leaves_less_overlap():
    scenes = open_scenes("shapes", request(40, views=2, size=24))
    shares = torch.tensor([scenes.load(index)[1][0] for index in range(40)]).reshape(10, 4).mean(0)
    assert (shares.diff() < 0).all()
    assert shares[0] > 0.6


def test_opening_and_loading_leave_the_global_random_state():
    before = torch.random.get_rng_state()
    open_scenes("shapes", request()).load(0)
    assert torch.equal(torch.random.get_rng_state(), before)


# --- refusals --------------------------------------------------------------------------------------------------------


def test_unknown_scenes_are_refused_with_the_choice():
    with pytest.raises(ValueError, match=r"'co4d' is unknown; choose one of .*\(NAME or NAME:ROOT\)") as caught:
        open_scenes("co4d:/data", request())
    assert all(name in str(caught.value) for name in SCENES)


def test_unknown_difficulties_are_refused_with_the_choice():
    for world in WORLDS:
        choice = rf"choose {world}:plain\|cluttered\|repetitive\|textureless\|fine"
        with pytest.raises(ValueError, match=f"{world}:hard is unknown; {choice}"):
            open_scenes(f"{world}:hard", request())


def test_real_scenes_need_a_folder(tmp_path: Path):
    with pytest.raises(ValueError, match="rgbd needs a folder: rgbd:PATH"):
        open_scenes("rgbd", request())
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder; expected"):
        open_scenes(f"rgbd:{tmp_path / 'nowhere'}", request())
