"""Write a world as RealEstate10K: camera files with frames, and pixelSplat's chunks."""

import io
import json
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from small_nerfstudio import save_rgb
from small_world import World
from torch import Tensor

KEY = "0123456789abcdef"
STEP = 33_367  # microseconds between frames


def row(world: World, index: int) -> list[float]:
    """Give fx fy cx cy over width and height, two zeros, and world_to_cam."""
    height, width = world.size
    matrix = world.intrinsics[index].double()
    lens = [matrix[0, 0] / width, matrix[1, 1] / height, matrix[0, 2] / width, matrix[1, 2] / height, 0, 0]
    return [float(value) for value in [*lens, *world.world_to_cam[index, :3].double().flatten()]]


def write_text(
    root: Path, world: World, key: str = KEY, *, split: str = "test", late: int = 0, suffix: str = ".png"
) -> Path:
    """Write a camera file and its frames, whose timestamps are ``late`` microseconds behind the camera's."""
    lines = ["https://www.youtube.com/watch?v=none"]
    for index in range(len(world.image)):
        timestamp = 1_000_000 + STEP * index
        lines.append(" ".join([str(timestamp), *(f"{value:.12g}" for value in row(world, index))]))
        save_rgb(root / split / key / f"{timestamp + late}{suffix}", world.image[index])
    (root / split / f"{key}.txt").write_text("\n".join(lines) + "\n")
    return root


def encode(image: Float[Tensor, "3 h w"]) -> Tensor:
    """Give a JPEG's bytes."""
    buffer = io.BytesIO()
    pixels = (image * 255).round().to(torch.uint8).movedim(0, -1).numpy()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=99, subsampling=0)
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)


def write_chunks(
    root: Path, world: World, keys: tuple[tuple[str, ...], ...] = ((KEY,),), *, split: str = "test", index: bool = True
) -> Path:
    """Write one chunk per tuple of keys."""
    folder = root / split
    folder.mkdir(parents=True, exist_ok=True)
    where = {}
    for number, chunk in enumerate(keys):
        scenes = [
            {
                "url": "https://www.youtube.com/watch?v=none",
                "timestamps": torch.arange(len(world.image)) * STEP,
                "cameras": torch.tensor([row(world, place) for place in range(len(world.image))], dtype=torch.float32),
                "images": [encode(image) for image in world.image],
                "key": key,
            }
            for key in chunk
        ]
        torch.save(scenes, folder / f"{number:06d}.torch")
        where |= dict.fromkeys(chunk, f"{number:06d}.torch")
    if index:
        (folder / "index.json").write_text(json.dumps(where))
    return root
