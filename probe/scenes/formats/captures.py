"""Raw exports of phone apps, as the frames of a ``transforms.json``: Polycam's and Record3D's.

Both write camera-to-world poses of ARKit: OpenGL axes, metres. Polycam: one JSON per image in ``keyframes/cameras``, or
``corrected_cameras`` beside ``corrected_images`` (their border of some pixels is black); depth in ``keyframes/depth``,
16-bit millimetres. Record3D: ``metadata`` beside ``rgb/0.jpg``, with quaternions (x, y, z, w) and translations in the
order of the images' numbers; ``K`` is written column by column. Its depth (OpenEXR or LZFSE) is not read.

Source:
    nerfstudio's process_data, polycam_utils.py and record3d_utils.py (docs/references.md, "nerfstudio").
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from probe.scenes.files import images_in, natural, numbers, read_json, take
from probe.scenes.reading import Folder

Record = dict[str, Any]
POLYCAM = (("corrected_cameras", "corrected_images"), ("cameras", "images"))
RECORD3D = ("metadata.json", "metadata")
PICTURES = ("rgb", "rgbd")


def find_polycam(folder: Path) -> Path | None:
    """Return the folder of a Polycam export's cameras, the corrected ones where there are any."""
    places = (inner / cameras for inner in (folder / "keyframes", folder) for cameras, _ in POLYCAM)
    return next((place for place in places if any(place.glob("*.json"))), None)


def find_record3d(folder: Path) -> Path | None:
    """Return the metadata file of a Record3D export."""
    files = (folder / name for name in RECORD3D)
    return next((file for file in files if file.is_file() and _pictures(folder)), None)


def _pictures(folder: Path) -> Path | None:
    return next((folder / name for name in PICTURES if (folder / name).is_dir()), None)


def read_polycam(cameras: Path, root: Folder) -> Iterator[tuple[str, Record | str]]:
    """Return the frames of a Polycam export: where each is written, and its record, or why it has none.

    Paths of a record start from the folder that holds ``cameras``.
    """
    images = dict(POLYCAM)[cameras.name]
    has_depth = (cameras.parent / "depth").is_dir()
    for file in sorted(cameras.glob("*.json"), key=lambda path: natural(path.name)):
        try:
            yield str(file), _polycam_frame(file, images, has_depth, root)
        except (ValueError, OSError) as error:
            yield str(file), str(error)


def _polycam_frame(file: Path, images: str, has_depth: bool, root: Folder) -> Record:
    whole = read_json(file, root)
    pose = [[take(whole, f"t_{row}{column}", (int, float), str(file)) for column in range(4)] for row in range(3)]
    keys = {"fl_x": "fx", "fl_y": "fy", "cx": "cx", "cy": "cy", "w": "width", "h": "height"}
    lens = {ours: take(whole, theirs, (int, float), str(file)) for ours, theirs in keys.items()}
    record: Record = {"file_path": f"{images}/{file.stem}.jpg", "transform_matrix": pose, **lens}
    return record | ({"depth_file_path": f"depth/{file.stem}.png"} if has_depth else {})


def read_record3d(metadata: Path, root: Folder) -> Iterator[tuple[str, Record | str]]:
    """Return the frames of a Record3D export, as :func:`read_polycam` does.

    Raises:
        ValueError: If the metadata lack poses or intrinsics, or have another number of poses than there are images.
    """
    whole = read_json(metadata, root)
    pictures = _pictures(metadata.parent)
    assert pictures is not None  # find_record3d saw it
    listed = take(whole, "poses", list, str(metadata))
    poses = numbers(listed, (len(listed), 7), f"poses of {metadata}")
    files = _record3d_files(pictures, len(listed), metadata)
    lenses = _record3d_lenses(whole, len(listed), metadata)
    size = {"w": take(whole, "w", (int, float), str(metadata)), "h": take(whole, "h", (int, float), str(metadata))}
    for place, (pose, lens) in enumerate(zip(poses.numpy(), lenses, strict=True)):
        file = files.get(place, pictures / f"{place}.jpg")
        origin = f"{file.name} in {metadata}"
        if not 0.99 < float(np.linalg.norm(pose[:4])) < 1.01:
            yield origin, f"the quaternion of {origin} is {pose[:4].tolist()}, expected one of length 1"
            continue
        matrix = np.concatenate([Rotation.from_quat(pose[:4]).as_matrix(), pose[4:, None]], axis=1)
        yield origin, {"file_path": f"{pictures.name}/{file.name}", "transform_matrix": matrix.tolist(), **lens, **size}


def _record3d_files(pictures: Path, poses: int, metadata: Path) -> dict[int, Path]:
    """Return the images by the poses' places: by their numbers, or by order where they have other names."""
    files = images_in(pictures)
    if all(file.stem.isdecimal() and int(file.stem) < poses for file in files):
        return {int(file.stem): file for file in files}
    if len(files) != poses:
        raise ValueError(
            f"{metadata} has {poses} poses and {pictures} {len(files)} images whose names are not their numbers "
            "(0.jpg): which belongs to which cannot be told"
        )
    return dict(enumerate(files))


def _record3d_lenses(whole: Record, count: int, metadata: Path) -> list[dict[str, float]]:
    """Return each image's focal lengths and principal point: its own, where the metadata have them."""
    own = whole.get("perFrameIntrinsicCoeffs")
    if own:
        rows = numbers(own, (count, 4), f"perFrameIntrinsicCoeffs of {metadata}").tolist()
    else:
        matrix = numbers(take(whole, "K", list, str(metadata)), (9,), f"K of {metadata}").tolist()
        rows = [[matrix[0], matrix[4], matrix[6], matrix[7]]] * count
    return [dict(zip(("fl_x", "fl_y", "cx", "cy"), row, strict=True)) for row in rows]
