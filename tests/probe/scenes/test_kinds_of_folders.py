"""What is proposed for scenes that cannot be opened, by what their folder holds."""

from pathlib import Path

import pytest

from probe.scenes import Request, open_scenes
from probe.scenes.names import DATA_SETS, MARKS, kinds_of, suggestion

REQUEST = Request(groups=1, views=2, n_ref=1)
HELD = {
    "nerfstudio": "transforms.json",
    "colmap": "sparse/0/cameras.bin",
    "llff": "poses_bounds.npy",
    "rgbd": "frame-000000.color.png",
    "co3d": "apple/frame_annotations.jgz",
    "navi": "duck/annotations.json",
    "dtu": "scan1/cams/00000000_cam.txt",
    "re10k": "test/000000.torch",
    "photos": "images/1.JPG",
}


@pytest.mark.parametrize("kind", HELD)
def test_each_kind_is_known_by_what_its_folder_holds(kind: str, tmp_path: Path):
    assert kinds_of(tmp_path) == {}
    path = tmp_path / HELD[kind]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    assert list(kinds_of(tmp_path)) == [kind]
    with pytest.raises(ValueError, match=rf"is unknown; .*; did you mean {kind}:{tmp_path} \(it holds "):
        open_scenes(str(tmp_path), REQUEST)


def test_marks_are_of_data_sets():
    assert set(MARKS) | {"photos"} <= set(DATA_SETS)


def test_a_kind_of_another_case_and_a_folder_of_another_kind(tmp_path: Path):
    (tmp_path / "poses_bounds.npy").write_bytes(b"")
    with pytest.raises(ValueError, match=rf"'Llff' is unknown; .*; did you mean llff:{tmp_path}\?$"):
        open_scenes(f"Llff:{tmp_path}", REQUEST)
    with pytest.raises(FileNotFoundError, match=rf"no sparse model.*; did you mean llff:{tmp_path} \(it holds poses_b"):
        open_scenes(f"colmap:{tmp_path}", REQUEST)


def test_nothing_is_proposed_where_nothing_is_known(tmp_path: Path):
    assert suggestion("nonsense") == suggestion(f"colmap:{tmp_path}") == suggestion("x" * 5000) == ""
    (tmp_path / "poses_bounds.npy").write_bytes(b"")
    assert suggestion(f"llff:{tmp_path}") == ""
