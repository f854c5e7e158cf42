"""Write a world as CO3D version 2 lays it out, and as DUSt3R prepares it, from the definitions."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from small_nerfstudio import save_rgb, save_sixteen
from small_world import World
from torch import Tensor

SCALE = 3.7  # scale_adjustment
HOLE = (5, 20)  # a pixel that the depth mask leaves out
INFINITE = (7, 22)  # a pixel whose depth is infinite


def to_pytorch3d(world_to_cam: Float[Tensor, "4 4"]) -> tuple[list[list[float]], list[float]]:
    """Give R and T of X R + T, by moving three points: PyTorch3D's axes are left, up, forward."""
    flip = torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64)
    origin = flip * (world_to_cam.double() @ torch.tensor([0.0, 0, 0, 1], dtype=torch.float64))[:3]
    rows = [
        (flip * (world_to_cam.double() @ torch.tensor([*axis, 1.0], dtype=torch.float64))[:3] - origin).tolist()
        for axis in torch.eye(3).tolist()
    ]
    return rows, origin.tolist()


def to_ndc(intrinsics: Float[Tensor, "3 3"], size: tuple[int, int], kind: str) -> tuple[list[float], list[float]]:
    """Give focal length and principal point in units of half the image, counted left and up from its middle."""
    height, width = size
    unit = {"ndc_isotropic": (min(size) / 2,) * 2, "ndc_norm_image_bounds": (width / 2, height / 2)}[kind]
    focal = [float(intrinsics[0, 0]) / unit[0], float(intrinsics[1, 1]) / unit[1]]
    point = [(width / 2 - float(intrinsics[0, 2])) / unit[0], (height / 2 - float(intrinsics[1, 2])) / unit[1]]
    return focal, point


def pack(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(json.dumps(value).encode()))


def write_co3d(
    root: Path,
    world: World,
    sequences: tuple[str, ...] = ("106_12648_23157",),
    *,
    category: str = "hydrant",
    kind: str | None = "ndc_isotropic",
) -> Path:
    """Write a category whose sequences all show the world; ``kind`` None leaves the intrinsics' format out."""
    frames = []
    for sequence in sequences:
        folder = root / category / sequence
        for index in reversed(range(len(world.image))):
            stem = f"frame{index + 1:06d}"
            rows, shift = to_pytorch3d(world.world_to_cam[index])
            focal, point = to_ndc(world.intrinsics[index], world.size, kind or "ndc_norm_image_bounds")
            save_rgb(folder / "images" / f"{stem}.jpg", world.image[index])
            half = (world.depth[index] / SCALE).numpy().astype(np.float16)
            half[INFINITE] = np.inf
            (folder / "depths").mkdir(exist_ok=True)
            Image.fromarray(half.view(np.uint16)).save(folder / "depths" / f"{stem}.jpg.geometric.png")
            mask = np.full(world.size, 255, np.uint8)
            mask[HOLE] = 0
            for name in ("depth_masks", "masks"):
                (folder / name).mkdir(exist_ok=True)
                Image.fromarray(mask).convert("1").save(folder / name / f"{stem}.png")
            place = f"{category}/{sequence}"
            viewpoint = {"R": rows, "T": shift, "focal_length": focal, "principal_point": point}
            frames.append({
                "sequence_name": sequence,
                "frame_number": index,
                "frame_timestamp": index / 10,
                "image": {"path": f"{place}/images/{stem}.jpg", "size": list(world.size)},
                "depth": {
                    "path": f"{place}/depths/{stem}.jpg.geometric.png",
                    "scale_adjustment": SCALE,
                    "mask_path": f"{place}/depth_masks/{stem}.png",
                },
                "mask": {"path": f"{place}/masks/{stem}.png", "mass": 1.0},
                "viewpoint": viewpoint | ({} if kind is None else {"intrinsics_format": kind}),
                "meta": {"frame_type": "train", "frame_splits": ["fewview_train"], "eval_batch_maps": []},
            })  # fmt: skip
    pack(root / category / "frame_annotations.jgz", frames)
    annotations = [
        {
            "sequence_name": name,
            "category": category,
            "video": None,
            "point_cloud": None,
            "viewpoint_quality_score": 1.0,
        }
        for name in sequences
    ]
    pack(root / category / "sequence_annotations.jgz", annotations)
    return root


def write_prepared(root: Path, world: World, sequence: str = "hydrant/106_12648_23157") -> Path:
    """Write DUSt3R's preparation of a sequence."""
    category, name = sequence.split("/")
    for index in range(len(world.image)):
        stem = f"frame{index + 1:06d}"
        save_rgb(root / sequence / "images" / f"{stem}.jpg", world.image[index])
        most = float(world.depth[index].max())
        save_sixteen(root / sequence / "depths" / f"{stem}.jpg.geometric.png", world.depth[index] / most * 65535)
        np.savez(
            root / sequence / "images" / f"{stem}.npz",
            camera_pose=torch.linalg.inv(world.world_to_cam[index]).numpy(),
            camera_intrinsics=world.intrinsics[index].numpy(),
            maximum_depth=np.float32(most),
        )
    numbers = list(range(1, len(world.image) + 1))
    (root / "selected_seqs_train.json").write_text(json.dumps({category: {name: numbers}}))
    return root
