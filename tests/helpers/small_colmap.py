"""Write a world as a COLMAP scene, text and binary, from the format's definition; with tracks or dense depth."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from scipy.spatial.transform import Rotation
from small_nerfstudio import save_rgb
from small_world import World
from torch import Tensor

from probe.geometry import project

NUMBERS = {
    "SIMPLE_PINHOLE": 0, "PINHOLE": 1, "SIMPLE_RADIAL": 2, "RADIAL": 3, "OPENCV": 4, "OPENCV_FISHEYE": 5,
    "FULL_OPENCV": 6, "FOV": 7, "SIMPLE_RADIAL_FISHEYE": 8, "RADIAL_FISHEYE": 9,
}  # fmt: skip
HEADER = "# made for a test\n"
FIRST_POINT = 11  # numbers of points and images do not begin at 0 or 1, and have gaps


@dataclass(frozen=True, kw_only=True)
class Tracks:
    """Hold points and, per image, which of them it sees."""

    points: Float[Tensor, "p 3"]
    seen: tuple[tuple[int, ...], ...]


NO_TRACKS = Tracks(points=torch.zeros(0, 3), seen=())


def make_tracks(world: World, step: int = 3) -> Tracks:
    """Take the points of every ``step``-th pixel of each image, and who sees them by their depth."""
    points = []
    for index in range(len(world.image)):
        rows, columns = torch.meshgrid(
            torch.arange(1, world.size[0], step), torch.arange(1, world.size[1], step), indexing="ij"
        )
        xy = torch.stack([columns.flatten(), rows.flatten()], -1) + 0.5
        homogeneous = torch.cat([xy, torch.ones(len(xy), 1)], -1) @ torch.linalg.inv(world.intrinsics[index]).mT
        local = homogeneous * world.depth[index][rows.flatten(), columns.flatten(), None]
        cam_to_world = torch.linalg.inv(world.world_to_cam[index])
        points.append(local @ cam_to_world[:3, :3].mT + cam_to_world[:3, 3])
    every = torch.cat(points)
    return Tracks(points=every, seen=tuple(_seen(world, every, index) for index in range(len(world.image))))


def _seen(world: World, points: Float[Tensor, "p 3"], index: int) -> tuple[int, ...]:
    xy, depth = project(points, world.intrinsics[index], world.world_to_cam[index])
    height, width = world.size
    inside = ((xy >= 0) & (xy < torch.tensor([width, height]))).all(-1)
    x, y = xy.nan_to_num().long().unbind(-1)
    shown = world.depth[index][y.clamp(0, height - 1), x.clamp(0, width - 1)]
    return tuple((inside & ((depth / shown - 1).abs() < 0.02)).nonzero().flatten().tolist())


def write_colmap(
    root: Path,
    world: World,
    *,
    binary: bool = True,
    sparse: str = "sparse/0",
    model: str = "PINHOLE",
    lens: Sequence[float] = (),
    tracks: Tracks = NO_TRACKS,
    names: Sequence[str] | None = None,
    dense: int = 0,
) -> Path:
    """Write images and a model.

    Args:
        root: Folder.
        world: What is seen.
        binary: Or text.
        sparse: Folder of the model.
        model: COLMAP's camera model.
        lens: Its coefficients.
        tracks: Of points.
        names: Of the images; they are listed from last to first.
        dense: Write depth maps of which one pixel is so many of the image; 0 writes none.
    """
    names = names or [f"frame_{index}.png" for index in range(len(world.image))]
    for index, name in enumerate(names):
        save_rgb(root / "images" / name, world.image[index])
        if dense:
            save_depth(root / f"stereo/depth_maps/{name}.geometric.bin", world.depth[index][::dense, ::dense])
    matrix = world.intrinsics[0].tolist()
    focals = [matrix[0][0]] if model.startswith(("SIMPLE", "RADIAL", "FOV")) else [matrix[0][0], matrix[1][1]]
    parameters = [*focals, matrix[0][2], matrix[1][2], *lens]
    folder = root / sparse
    folder.mkdir(parents=True, exist_ok=True)
    (write_binary if binary else write_text)(folder, world, model, parameters, tracks, names)
    return root


def save_depth(path: Path, depth: Float[Tensor, "h w"]) -> None:
    """COLMAP's Mat: width, height, channels, then numbers with x running fastest."""
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = b"".join(struct.pack("<f", value) for row in depth.tolist() for value in row)
    path.write_bytes(f"{depth.shape[1]}&{depth.shape[0]}&1&".encode() + numbers)


def entries(world: World, tracks: Tracks, names: Sequence[str]):
    """Give, from the last image to the first: number, quaternion, translation, name, keypoints (x, y, point or -1)."""
    for index in reversed(range(len(names))):
        x, y, z, w = Rotation.from_matrix(world.world_to_cam[index, :3, :3].double().numpy()).as_quat()
        keypoints: list[tuple[float, float, int]] = [(0.5, 0.5, -1)]
        if tracks.seen:
            chosen = list(tracks.seen[index])
            camera = world.world_to_cam[index]
            xy, _ = project(tracks.points[chosen], world.intrinsics[index].to(camera), camera)
            keypoints += [(*place, FIRST_POINT + 2 * point) for place, point in zip(xy.tolist(), chosen, strict=True)]
        yield 3 * index + 2, (w, x, y, z), world.world_to_cam[index, :3, 3].tolist(), names[index], keypoints


def track_of(point: int, tracks: Tracks) -> list[tuple[int, int]]:
    """Give (image number, place among its keypoints) of those that see a point; place 0 is a keypoint without one."""
    return [(3 * index + 2, 1 + seen.index(point)) for index, seen in enumerate(tracks.seen) if point in seen]


def write_binary(
    folder: Path, world: World, model: str, parameters: list[float], tracks: Tracks, names: Sequence[str]
) -> None:
    height, width = world.size
    head = struct.pack("<QIiQQ", 1, 7, NUMBERS[model], width, height)
    (folder / "cameras.bin").write_bytes(head + struct.pack(f"<{len(parameters)}d", *parameters))
    images = struct.pack("<Q", len(names))
    for number, turn, shift, name, keypoints in entries(world, tracks, names):
        images += struct.pack("<I7dI", number, *turn, *shift, 7) + name.encode() + b"\0"
        images += struct.pack("<Q", len(keypoints))
        images += b"".join(struct.pack("<ddQ", x, y, point % 2**64) for x, y, point in keypoints)
    (folder / "images.bin").write_bytes(images)
    points = struct.pack("<Q", len(tracks.points))
    for point, place in reversed(list(enumerate(tracks.points.tolist()))):
        track = track_of(point, tracks)
        points += struct.pack("<Q3d3BdQ", FIRST_POINT + 2 * point, *place, 1, 2, 3, 0.5, len(track))
        points += b"".join(struct.pack("<II", *one) for one in track)
    (folder / "points3D.bin").write_bytes(points)


def write_text(
    folder: Path, world: World, model: str, parameters: list[float], tracks: Tracks, names: Sequence[str]
) -> None:
    height, width = world.size
    line = f"7 {model} {width} {height} {' '.join(map(repr, parameters))}\n"
    (folder / "cameras.txt").write_text(HEADER + line)
    images = HEADER
    for number, turn, shift, name, keypoints in entries(world, tracks, names):
        images += f"{number} {' '.join(repr(float(v)) for v in (*turn, *shift))} 7 {name}\n"
        images += " ".join(f"{x} {y} {point}" for x, y, point in (keypoints if tracks.seen else [])) + "\n"
    (folder / "images.txt").write_text(images)
    points = HEADER
    for point, place in enumerate(tracks.points.tolist()):
        track = " ".join(f"{image} {keypoint}" for image, keypoint in track_of(point, tracks))
        points += f"{FIRST_POINT + 2 * point} {' '.join(map(repr, place))} 1 2 3 0.5 {track}\n"
    (folder / "points3D.txt").write_text(points)
