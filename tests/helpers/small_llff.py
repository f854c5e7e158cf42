"""Write a world as LLFF lays it out."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from small_nerfstudio import save_rgb
from small_world import World


def pose_rows(world: World, *, factor: int = 1) -> Float[np.ndarray, "f 17"]:
    """Give poses_bounds.npy, for images ``factor`` times as large as the world's."""
    rows = []
    for world_to_cam, intrinsics, depth in zip(world.world_to_cam, world.intrinsics, world.depth, strict=True):
        cam_to_world = torch.linalg.inv(world_to_cam.double())
        right, down, forward, centre = cam_to_world[:3].unbind(1)
        shape = torch.tensor([world.size[0] * factor, world.size[1] * factor, float(intrinsics[0, 0]) * factor])
        matrix = torch.stack([down, right, -forward, centre, shape.double()], dim=1)
        rows.append(np.array([*matrix.flatten().tolist(), float(depth.min()), float(depth.max())]))
    return np.stack(rows)


def write_llff(root: Path, world: World, scene: str = "fern", *, images: str = "images", factor: int = 1) -> Path:
    for view in range(len(world.image)):
        save_rgb(root / scene / images / f"IMG_{4026 + view}.png", world.image[view])
    np.save(root / scene / "poses_bounds.npy", pose_rows(world, factor=factor))
    return root
