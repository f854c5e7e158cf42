"""Write a world as NAVI lays it out: the object is what lies nearer than the middle of the room."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from PIL import Image
from scipy.spatial.transform import Rotation
from small_nerfstudio import save_sixteen
from small_world import World
from torch import Tensor

ORIENTATION = 0x0112
SHRUNK = 0.2  # the room, so that it is as near as NAVI's objects, for which the depth's steps are made
TURNED = {1: 0, 3: 2, 6: 1, 8: 3}  # how often a stored image is turned a quarter to the left of the upright one


def object_mask(world: World, rows: slice = slice(8, 29), columns: slice = slice(11, 32)) -> Bool[Tensor, "h w"]:
    """Mark a part of the image as the object; the default's box is 21 pixels a side, off the centre."""
    mask = torch.zeros(world.size, dtype=torch.bool)
    mask[rows, columns] = True
    return mask


def write_navi(
    root: Path,
    world: World,
    scenes: Sequence[str] = ("bowl/multiview-00-pixel_5",),
    *,
    mask: Bool[Tensor, "h w"] | None = None,
    orientation: int = 1,
    every: int | None = None,
    changes: dict[str, Any] | None = None,
) -> Path:
    """Write scenes that all show the world, shrunk.

    Args:
        root: Folder.
        world: What is seen; its focal lengths are equal and its principal point is in the middle.
        scenes: OBJECT/SCENE.
        mask: Of the object; None: everything.
        orientation: EXIF's, of each second image (the others lie as they are).
        every: Write only so many frames.
        changes: Other values of the first annotation.
    """
    for scene in scenes:
        folder = root / scene
        for kind in ("images", "depth", "masks"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
        annotations = [_write_frame(folder, world, k, mask, orientation) for k in range(every or len(world.image))]
        annotations[0] |= changes or {}
        (folder / "annotations.json").write_text(json.dumps(annotations[::-1]))
    return root


def _write_frame(
    folder: Path, world: World, index: int, mask: Bool[Tensor, "h w"] | None, orientation: int
) -> dict[str, Any]:
    seen = mask if mask is not None else torch.ones(world.size, dtype=torch.bool)
    turned = orientation if index % 2 else 1
    pixels = (world.image[index] * 255).round().to(torch.uint8).movedim(0, -1).numpy()
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(pixels, TURNED[turned])))
    exif = Image.Exif()
    exif[ORIENTATION] = turned
    stored.save(folder / f"images/{index:03d}.jpg", quality=99, subsampling=0, exif=exif)
    disparity = 10 * 65535 / (1000 * SHRUNK * world.depth[index])
    save_sixteen(folder / f"depth/{index:03d}.png", torch.where(seen, disparity, 0))
    Image.fromarray((seen * 255).to(torch.uint8).numpy()).save(folder / f"masks/{index:03d}.png")
    x, y, z, w = Rotation.from_matrix(world.world_to_cam[index, :3, :3].double().numpy()).as_quat()
    camera = {
        "q": [w, x, y, z],
        "t": (1000 * SHRUNK * world.world_to_cam[index, :3, 3].double()).tolist(),
        "focal_length": float(world.intrinsics[index, 0, 0]),
        "camera_model": "pixel_5",
    }
    return {
        "object_id": folder.parent.name,
        "camera": camera,
        "filename": f"{index:03d}.jpg",
        "filename_original": f"PXL_{index}",
        "image_size": list(world.size),
        "scene_name": folder.name,
        "split": "train",
        "occluded": False,
    }
