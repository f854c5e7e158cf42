"""Write a world as DTU's layouts: MVSNet's training and test sets, and IDR's."""

import struct
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from small_nerfstudio import save_rgb
from small_world import World
from torch import Tensor

HALF = torch.tensor([[0.0, 0.0, 0.5], [0.0, 0.0, 0.5], [0.0, 0.0, 0.0]])  # DTU counts from the first pixel's centre


def camera_text(world_to_cam: Float[Tensor, "4 4"], intrinsics: Float[Tensor, "3 3"], *, per_unit: float = 1000) -> str:
    """Give a camera file: millimetres (or others), and intrinsics as they are given."""
    moved = world_to_cam.double().clone()
    moved[:3, 3] *= per_unit
    lines = [" ".join(map(repr, row)) for row in moved.tolist()]
    rows = [" ".join(map(repr, row)) for row in intrinsics.double().tolist()]
    return "\n".join(["extrinsic", *lines, "", "intrinsic", *rows, "", "425.0 2.5", ""])


def save_pfm(path: Path, values: Float[Tensor, "h w"], *, little: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    order, scale = ("<", "-1.000000") if little else (">", "1.0")
    numbers = b"".join(struct.pack(order + "f", value) for row in reversed(values.tolist()) for value in row)
    path.write_bytes(f"Pf\n{values.shape[1]} {values.shape[0]}\n{scale}\n".encode() + numbers)


def write_training(root: Path, world: World, scan: str = "scan4", *, grid: int = 4, mask: Tensor | None = None) -> Path:
    """Write MVSNet's training set; ``grid`` 1 writes its full size. Every light but one is black."""
    end, cameras, depths = ("_train", "Cameras/train", "Depths") if grid > 1 else ("", "Cameras", "Depths_raw")
    for view in range(len(world.image)):
        for light in range(7):
            shown = world.image[view] if light == 3 else torch.zeros_like(world.image[view])
            save_rgb(root / f"Rectified/{scan}{end}/rect_{view + 1:03d}_{light}_r5000.png", shown)
        small = (world.intrinsics[view] - HALF).clone()
        small[:2] /= grid
        (root / cameras).mkdir(parents=True, exist_ok=True)
        (root / cameras / f"{view:08d}_cam.txt").write_text(camera_text(world.world_to_cam[view], small))
        depth = world.depth[view, ::grid, ::grid] * 1000
        save_pfm(root / f"{depths}/{scan}{end}/depth_map_{view:04d}.pfm", depth, little=view % 2 == 0)
        if mask is not None:
            Image.fromarray(mask.numpy()).save(root / f"{depths}/{scan}{end}/depth_visual_{view:04d}.png")
    (root / "Cameras/pair.txt").write_text("0\n")
    return root


def write_test_set(
    root: Path,
    world: World,
    scan: str = "scan1",
    *,
    images: str = "images",
    cameras: str = "cams",
    per_unit: float = 1000,
    depths: str | None = None,
) -> Path:
    """Write MVSNet's test set: without depth, or BlendedMVS's folder of it."""
    (root / scan / cameras).mkdir(parents=True, exist_ok=True)
    (root / scan / cameras / "pair.txt").write_text("0\n")
    for view in range(len(world.image)):
        save_rgb(root / scan / images / f"{view:08d}.jpg", world.image[view])
        text = camera_text(world.world_to_cam[view], world.intrinsics[view] - HALF, per_unit=per_unit)
        (root / scan / cameras / f"{view:08d}_cam.txt").write_text(text)
        if depths is not None:
            save_pfm(root / scan / depths / f"{view:08d}.pfm", world.depth[view] * per_unit)
    return root


def write_idr(
    root: Path, world: World, scan: str = "scan65", *, file: str = "cameras.npz", image: str = "image/{:06d}.png"
) -> Path:
    """Write IDR's layout; each projection is known up to a factor, every second one's is negative."""
    arrays = {}
    for view in range(len(world.image)):
        save_rgb(root / scan / image.format(view), world.image[view])
        projection = np.eye(4)
        product = (world.intrinsics[view] - HALF).double() @ world.world_to_cam[view, :3].double()
        projection[:3] = product.numpy() * (1.7 if view % 2 else -0.3)
        arrays |= {f"world_mat_{view}": projection, f"scale_mat_{view}": np.diag([2.0, 2.0, 2.0, 1.0])}
    np.savez(root / scan / file, **arrays)
    return root
