"""Write a world as nerfstudio's and DL3DV's folders: transforms.json, images, depth, masks."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from small_world import World
from torch import Tensor

APPLIED = torch.tensor([[1.0, 0, 0, 0.3], [0, 0, 1, -0.2], [0, -1, 0, 0.5]])  # nerfstudio's swap of axes, and a shift


def save_rgb(path: Path, image: Float[Tensor, "3 h w"]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((image * 255).round().to(torch.uint8).movedim(0, -1).numpy()).save(path, quality=99, subsampling=0)


def save_sixteen(path: Path, values: Float[Tensor, "h w"]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.round().to(torch.int32).numpy().astype(np.uint16)).save(path)


def to_opengl(
    world_to_cam: Float[Tensor, "4 4"], applied: Tensor | None = None, scale: float = 1.0
) -> list[list[float]]:
    """Give the camera-to-world matrix with OpenGL axes, as nerfstudio writes it."""
    cam_to_world = torch.linalg.inv(world_to_cam.double())
    cam_to_world = cam_to_world @ torch.diag(torch.tensor([1.0, -1, -1, 1], dtype=torch.float64))
    if applied is not None:
        cam_to_world = torch.cat([applied.double(), torch.tensor([[0.0, 0, 0, 1]])]) @ cam_to_world
    cam_to_world[:3, 3] *= scale
    return cam_to_world.tolist()


def write_nerfstudio(
    root: Path,
    world: World,
    *,
    depth: str | None = "png",
    unit: float | None = None,
    applied: Tensor | None = APPLIED,
    scale: float = 1.0,
    per_frame: bool = False,
    folder: str = "images",
    named: str = "images",
    full: float = 1.0,
    suffix: str = ".png",
    mask: Float[Tensor, "h w"] | None = None,
    **more: Any,
) -> Path:
    """Write a recording.

    Args:
        root: Folder.
        world: What is seen.
        depth: "png" (16 bits), "npy", or None.
        unit: ``depth_unit_scale_factor``; None leaves it out (millimetres).
        applied: ``applied_transform``.
        scale: ``applied_scale``.
        per_frame: Write the intrinsics with each frame, not once.
        folder: Where the images lie.
        named: Where the file says they lie.
        full: How many times larger the images are that the intrinsics are of.
        suffix: Of the images; "" in the file leaves it out (Blender).
        mask: 0 for pixels to ignore.
        more: Further values, such as k1.
    """
    height, width = world.size
    matrix = world.intrinsics[0] * full
    lens = {
        "fl_x": float(matrix[0, 0]), "fl_y": float(matrix[1, 1]), "cx": float(matrix[0, 2]), "cy": float(matrix[1, 2]),
        "w": int(width * full), "h": int(height * full), "camera_model": "OPENCV", **more,
    }  # fmt: skip
    frames = []
    for index in reversed(range(len(world.image))):  # nerfstudio's order is no order
        name = f"frame_{index + 1:05d}"
        frame: dict[str, Any] = {"file_path": f"{named}/{name}{suffix}" if suffix else f"./{named}/{name}"}
        frame["transform_matrix"] = to_opengl(world.world_to_cam[index], applied, scale)
        save_rgb(root / folder / f"{name}{suffix or '.png'}", world.image[index])
        if depth is not None:
            frame["depth_file_path"] = f"depth/{name}.{depth}"
            values = world.depth[index] / (unit or 1e-3)
            if depth == "png":
                save_sixteen(root / frame["depth_file_path"], values)
            else:
                (root / "depth").mkdir(exist_ok=True)
                np.save(root / frame["depth_file_path"], values.numpy())
        if mask is not None:
            frame["mask_path"] = f"masks/{name}.png"
            (root / "masks").mkdir(exist_ok=True)
            Image.fromarray((mask * 255).to(torch.uint8).numpy()).save(root / frame["mask_path"])
        frames.append({**frame, **(lens if per_frame else {})})
    whole: dict[str, Any] = {**({} if per_frame else lens), "frames": frames}
    whole |= {} if applied is None else {"applied_transform": applied.tolist()}
    whole |= {} if scale == 1 else {"applied_scale": scale}
    whole |= {} if unit is None else {"depth_unit_scale_factor": unit}
    (root / "transforms.json").write_text(json.dumps(whole))
    return root
