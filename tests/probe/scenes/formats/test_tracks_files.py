"""Videos with point tracks: truth at tracked points alone, and nothing that runs code."""

import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from probe.correspondence import match_views
from probe.metrics import grid_truth, thresholds
from probe.models.model import MultiViewModel, conditioning
from probe.scenes import Request, SceneList, open_scenes
from probe.scenes.formats.tracks import find_videos, read_video, tracked_views
from probe.views import IMAGE_PLANE, Views

FRAMES, HEIGHT, WIDTH = 6, 40, 60
DOCS = Path(__file__).parents[4] / "docs" / "data.md"


def tracked(frames: int = FRAMES) -> dict[str, np.ndarray]:
    """Three tracks in the central square: one slides right, one stands still, one is hidden from frame 2 on."""
    time = np.arange(frames)
    points = np.stack(
        [
            np.stack([15.5 + 4 * time, np.full(frames, 10.5)], -1),
            np.stack([np.full(frames, 30.5), np.full(frames, 30.5)], -1),
            np.stack([np.full(frames, 40.5), 5.5 + 3 * time], -1),
        ]
    ).astype(np.float32)
    occluded = np.zeros((3, frames), bool)
    occluded[2, 2:] = True
    video = np.random.default_rng(0).integers(0, 255, (frames, HEIGHT, WIDTH, 3), np.uint8)
    return {"video": video, "points": points, "occluded": occluded}


class Unposed(MultiViewModel):
    """A model that is told which views are references, and no cameras."""

    def condition(self, views: Views, keep_cameras: Tensor | None = None) -> dict[str, Tensor]:
        return {"mask": torch.arange(views.count) >= views.n_ref}


def write(path: Path, **changes: object) -> Path:
    np.savez(path, **{**tracked(), **changes})  # type: ignore[arg-type]
    return path


def opened(path: Path, *, groups: int = 2, views: int = 3, size: int = HEIGHT, seed: int = 0) -> SceneList:
    return open_scenes(f"tracks:{path}", Request(groups=groups, views=views, n_ref=1, size=size, seed=seed))


def frames_of(name: str) -> list[int]:
    return [int(frame) for frame in name.rpartition(":")[2].split("-")]


def test_a_true_match_is_where_the_track_is(tmp_path: Path):
    scenes = opened(write(tmp_path / "clip.npz"), groups=6)
    for index, name in enumerate(scenes.names):
        views, frames = scenes.load(index)[0], frames_of(name)
        truth = grid_truth(views, (HEIGHT, HEIGHT))  # a token is a pixel
        for a, q in enumerate(frames):
            token = 10 * HEIGHT + (15 + 4 * q - 10)  # 10 columns are cut off to the left
            assert truth.valid[0, a, token]
            for b, k in enumerate(frames):
                assert truth.xy[0, a, token, b].tolist() == pytest.approx([15.5 + 4 * k - 10, 10.5], abs=1e-4)
                assert bool(truth.visible[0, a, token, b]) == (a != b)
            still = 30 * HEIGHT + 20
            assert truth.xy[0, a, still].tolist() == [pytest.approx([20.5, 30.5], abs=1e-4)] * 3
            assert truth.moves is not None
            assert not truth.moves[0, a, still].any()
            assert truth.moves[0, a, token].tolist() == [a != b for b in range(3)]


def test_a_hidden_point_is_no_match_and_has_no_place(tmp_path: Path):
    path = write(tmp_path / "clip.npz")
    for seed in range(30):
        scenes = opened(path, groups=1, seed=seed)
        frames = frames_of(scenes.names[0])
        if frames[0] < 2 <= frames[1]:
            break
    views, overlap = scenes.load(0)
    truth = grid_truth(views, (HEIGHT, HEIGHT))
    token = (5 + 3 * frames[0]) * HEIGHT + 30
    assert truth.valid[0, 0, token]
    assert not truth.visible[0, 0, token].any()
    assert truth.xy[0, 0, token, 1:].isnan().all()
    assert overlap == pytest.approx((2 / 3, 2 / 3))
    assert int(views.valid[0, 0].sum()) == 3
    assert int(views.valid[0, 1].sum()) == 2


def test_a_track_that_another_one_covers_is_not_seen(tmp_path: Path):
    points = tracked()["points"]
    points[1] = points[0]  # both in one pixel: the last is seen there
    views, _ = opened(write(tmp_path / "clip.npz", points=points)).load(0)
    parts = set(views.part.unique().tolist()) if views.part is not None else set()
    assert 2 in parts
    assert 1 not in parts


def test_a_point_is_not_seen_where_another_track_has_come_to_cover_it(tmp_path: Path):
    points = tracked()["points"]
    points[1, 3:] = points[0, 3:] + 0.1  # apart in the first frames, in one pixel later
    path = write(tmp_path / "clip.npz", points=points)
    views = tracked_views(read_video(path), [0, 4], size=HEIGHT, n_ref=1)
    truth = grid_truth(views, (HEIGHT, HEIGHT))
    first, second = 10 * HEIGHT + 5, 30 * HEIGHT + 20
    assert truth.valid[0, 0, [first, second]].all()
    assert truth.visible[0, 0, [first, second], 1].tolist() == [False, True]  # the last of the two is seen there


def test_shares_of_the_image_are_the_same_as_pixels(tmp_path: Path):
    shares = tracked()["points"] / np.array([WIDTH, HEIGHT], np.float32)
    (tmp_path / "shares").mkdir()
    one = opened(write(tmp_path / "clip.npz")).load(0)[0]
    other = opened(write(tmp_path / "shares" / "clip.npz", points=shares)).load(0)[0]
    assert torch.equal(one.part, other.part)  # type: ignore[arg-type]
    torch.testing.assert_close(one.point_map, other.point_map, rtol=0, atol=1e-6)


def test_matches_of_nearest_points_are_the_tracks(tmp_path: Path):
    views, _ = opened(write(tmp_path / "clip.npz")).load(0)
    grid = (HEIGHT, HEIGHT)
    truth, matches = grid_truth(views, grid), match_views(views, grid)
    assert torch.equal(matches.index[truth.visible], truth.token[truth.visible])


def test_there_are_no_cameras_and_no_distances_in_3d(tmp_path: Path):
    scenes = opened(write(tmp_path / "clip.npz"))
    views, _ = scenes.load(0)
    assert views.unit == IMAGE_PLANE
    assert not views.has_cameras
    assert {limit.kind for limit in thresholds(views.unit)} == {"image", "token"}
    assert scenes.note == "1 video; no cameras are known, and rotations are recorded as 0"
    posed = MultiViewModel(name="posed", network=nn.Identity(), alpha_bar=torch.ones(1), size=HEIGHT)
    with pytest.raises(ValueError, match=r"posed is conditioned on cameras, which clip:.* has not; choose a model"):
        conditioning(posed, views)
    plain = Unposed(name="plain", network=nn.Identity(), alpha_bar=torch.ones(1), size=HEIGHT)
    assert conditioning(plain, views).keys() == {"mask"}


def test_videos_are_taken_in_turn_and_are_the_independent_units(tmp_path: Path):
    write(tmp_path / "b.npz")
    write(tmp_path / "a.npz")
    (tmp_path / "notes.txt").write_text("not a video", encoding="utf-8")
    scenes = opened(tmp_path, groups=5)
    assert [name.partition(":")[0] for name in scenes.names] == ["a", "b", "a", "b", "a"]
    assert scenes.units == ("a", "b", "a", "b", "a")
    for name in scenes.names:
        assert frames_of(name) == sorted(frames_of(name))


def test_pickles_are_never_loaded(tmp_path: Path):
    path = tmp_path / "tapvid_davis.pkl"
    path.write_bytes(b"not even a pickle")
    for root in (path, tmp_path):
        with pytest.raises(ValueError, match=r"davis.pkl is a pickle, which can run code and is not loaded; convert"):
            find_videos(root)
    with pytest.raises(ValueError, match=r"is not a .npz of plain arrays video, points, occluded: Object arrays"):
        read_video(write(tmp_path / "objects.npz", video=np.array([object()])))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"video": np.zeros((6, 4, 4, 3), np.float32)}, "'video': 'float32 .*expected video uint8"),
        ({"points": np.zeros((3, 5, 2))}, r"'points': 'float64 \(3, 5, 2\)'"),
        ({"occluded": np.zeros((3, 6))}, r"'occluded': 'float64 \(3, 6\)'"),
        ({"points": np.zeros((3, 6))}, r"'points': 'float64 \(3, 6\)'"),
    ],
)
def test_other_layouts_are_refused(tmp_path: Path, changes: dict, message: str):
    with pytest.raises(ValueError, match=message):
        read_video(write(tmp_path / "clip.npz", **changes))


def test_what_is_missing_or_no_video_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="tracks needs a file or folder: tracks:PATH"):
        open_scenes("tracks", Request(groups=1, views=2, n_ref=1))
    with pytest.raises(FileNotFoundError, match=r"holds no .npz file with video, points, occluded"):
        opened(tmp_path)
    with pytest.raises(ValueError, match=r"is not a .npz of plain arrays"):
        opened(Path(__file__))
    np.savez(tmp_path / "two.npz", video=np.zeros(1), points=np.zeros(1))
    with pytest.raises(ValueError, match=r"is not a .npz of plain arrays video, points, occluded: .*occluded"):
        opened(tmp_path)


def test_short_videos_and_videos_without_common_points_are_refused(tmp_path: Path):
    path = write(tmp_path / "clip.npz")
    with pytest.raises(ValueError, match="clip has 6 frames, expected at least 7"):
        opened(path, views=7)
    write(path, occluded=np.ones((3, FRAMES), bool))
    read_video.cache_clear()
    with pytest.raises(ValueError, match="no tracked point is seen in two of 3 frames"):
        opened(path)


def test_other_truth_and_lists_are_refused(tmp_path: Path):
    path = write(tmp_path / "clip.npz")
    for changes in ({"view_list": "list.json"}, {"geometry": lambda views: (views.point_map, views.valid)}):
        with pytest.raises(ValueError, match="leave out --truth-source, --view-list"):
            open_scenes(f"tracks:{path}", Request(groups=1, views=2, n_ref=1, **changes))


def test_the_documented_conversion_of_a_pickle_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    snippet = re.search(r"## Point tracks.*?```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert snippet is not None
    monkeypatch.chdir(tmp_path)
    shares = tracked()["points"] / np.array([WIDTH, HEIGHT], np.float32)
    (tmp_path / "tapvid_davis.pkl").write_bytes(pickle.dumps({"goat": {**tracked(), "points": shares}}))
    exec(compile(snippet[1], "", "exec"), {})
    video = read_video(find_videos(tmp_path / "tapvid_davis")[0])
    assert video.name == "goat"
    assert np.array_equal(video.video, tracked()["video"])
    np.testing.assert_allclose(video.xy.numpy().swapaxes(0, 1), tracked()["points"], atol=1e-4)


def test_shares_with_a_point_beyond_the_image_are_not_read_as_pixels(tmp_path: Path):
    points = tracked()["points"] / np.array([WIDTH, HEIGHT], np.float32)
    points[0, 3, 0] = 1.003
    path = write(tmp_path / "clip.npz", points=points)
    with pytest.raises(ValueError, match=r"holds points up to 1.003, while most are at most 1.*as occluded"):
        read_video(path)
    occluded = tracked()["occluded"]
    occluded[0, 3] = True
    assert float(read_video(write(tmp_path / "other.npz", points=points, occluded=occluded)).xy[0, 0, 0]) == 15.5
