"""Replica as NICE-SLAM renders it: ``results/frame000000.jpg``, ``results/depth000000.png`` and ``traj.txt``.

Line k of ``traj.txt`` holds the 16 numbers of frame k's pose by rows, camera to world with OpenCV axes, in metres.
``cam_params.json``, in the folder or the one above, holds w, h, fx, fy, cx, cy and ``scale`` (6553.5 for a metre);
without it the published numbers are taken, which is said. They count pixels from 0 at the first one's centre.

Source:
    docs/references.md, "RGB-D recordings".
"""

import re
from functools import partial
from pathlib import Path

import torch

from probe.scenes.cameras import from_cam_to_world
from probe.scenes.files import read_json, read_rows, read_text, take
from probe.scenes.formats.rgbd.listing import Layout, Listing, Posed
from probe.scenes.formats.rgbd.written import Written, find_text, from_first_centre
from probe.scenes.reading import IMAGES, Folder

FRAME = re.compile(r"(frame|depth)(\d+)(\.[a-z]+)", re.ASCII)
TRAJECTORY, PARAMETERS = "traj.txt", "cam_params.json"
PUBLISHED = {"w": 1200, "h": 680, "fx": 600.0, "fy": 600.0, "cx": 599.5, "cy": 339.5, "scale": 6553.5}
EXPECTED = "results/frame000000.jpg, results/depth000000.png, ..., traj.txt and ../cam_params.json (Replica)"


def _present(folder: Path) -> bool:
    return (folder / "results").is_dir() and find_text((TRAJECTORY,), Folder(folder)) is not None


def _read(root: Folder) -> Listing:
    files: dict[str, dict[int, tuple[str, Path]]] = {"frame": {}, "depth": {}}
    for path in sorted((root / "results").iterdir()):
        match = FRAME.fullmatch(path.name.casefold())
        if match and match.group(3) in IMAGES:
            files[match.group(1)].setdefault(int(match.group(2)), (match.group(2), path))
    trajectory = find_text((TRAJECTORY,), root)
    assert trajectory is not None  # as _present says
    poses = read_rows(*trajectory)
    numbers = sorted(files["frame"].keys() | files["depth"].keys())
    _check_lines(numbers, len(poses), *trajectory)
    names = {number: (files["frame"].get(number) or files["depth"][number])[0] for number in numbers}
    camera, scale, notes = _camera(root)
    return Listing(
        root=root,
        frames=tuple((names[n], partial(_read_frame, root, files, n, names[n], poses)) for n in numbers),
        camera=camera,
        shared=True,
        depth_scale=scale,
        notes=notes,
    )


def _check_lines(numbers: list[int], poses: int, path: Path, root: Folder) -> None:
    """Refuse a trajectory of which it cannot be told which line is which frame's: the line's number is the frame's."""
    if any(not line.strip() for line in read_text(path, root).strip().splitlines()):
        raise ValueError(f"load_frames: {path} has an empty line, after which no line's number is its frame's")
    if numbers and numbers[-1] >= poses and numbers != list(range(len(numbers))):
        raise ValueError(
            f"load_frames: {path} has {poses} lines, but frames are numbered {numbers[0]} to {numbers[-1]}: which line "
            "is which frame's cannot be told; expected line N + 1 of frame N"
        )


def _read_frame(
    root: Folder, files: dict[str, dict[int, tuple[str, Path]]], number: int, name: str, poses: list[list[str]]
) -> Posed:
    missing = next((kind for kind in files if number not in files[kind]), None)
    if missing is not None:
        raise FileNotFoundError(f"load_frames: frame {name} of {root} has no results/{missing}{name}")
    origin = f"load_frames: line {number + 1} of {root / TRAJECTORY}"
    row = poses[number] if number < len(poses) else []
    try:
        matrix = torch.tensor([float(word) for word in row], dtype=torch.float64).reshape(4, 4)
    except (ValueError, RuntimeError):
        raise ValueError(f"{origin} is {' '.join(row)[:40]!r}, expected the 16 numbers of a pose") from None
    world_to_cam = from_cam_to_world(matrix, origin)
    return Posed(
        name=name, colour=files["frame"][number][1], depth=files["depth"][number][1], world_to_cam=world_to_cam
    )


def _camera(root: Folder) -> tuple[Written, float, tuple[str, ...]]:
    """Return the camera, the depth scale and what is to be said of them."""
    file = find_text((PARAMETERS, "camera_params.json"), root, beside=True)
    origin = "Replica's published camera" if file is None else str(file[0])
    record = PUBLISHED if file is None else read_json(*file)
    record = record.get("camera", record) if isinstance(record, dict) else record
    values = {key: float(take(record, key, (int, float), origin)) for key in PUBLISHED}
    wrong = next((key for key in ("w", "h", "scale") if not 1 <= values[key] < 1e9), None)
    if wrong is not None:
        raise ValueError(f"{origin} has {wrong} = {values[wrong]}, expected a positive number")
    camera = Written(
        focal=(values["fx"], values["fy"]),
        centre=(values["cx"], values["cy"]),
        size=(int(values["h"]), int(values["w"])),
        origin=f"load_frames: {origin}",
    )
    note = f"{root} has no {PARAMETERS}, there or above: Replica's published camera and depth scale are taken"
    return from_first_centre(camera), values["scale"], (note,) if file is None else ()


REPLICA_LAYOUT = Layout(expected=EXPECTED, present=_present, read=_read)
