"""Write worlds as ScanNet's 1500 pairs lay them out."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from small_nerfstudio import save_sixteen
from small_world import World

NUMBERS = (15, 105, 1080, 75, 300, 45, 60, 90, 120, 135)  # of frames, in no order


def write_scannet(root: Path, world: World, scenes: Sequence[str] = ("scene0707_00",), *, larger: int = 1) -> Path:
    """Write scenes that all show the world; colour is so many times larger than depth, each pixel repeated."""
    for scene in scenes:
        for kind in ("color", "depth", "pose"):
            (root / scene / kind).mkdir(parents=True, exist_ok=True)
        for index, number in enumerate(NUMBERS[: len(world.image)]):
            pixels = (world.image[index] * 255).round().to(torch.uint8).movedim(0, -1).numpy()
            grown = np.kron(pixels, np.ones((larger, larger, 1), np.uint8))
            Image.fromarray(grown).save(root / scene / f"color/{number}.jpg", quality=99, subsampling=0)
            save_sixteen(root / scene / f"depth/{number}.png", world.depth[index] * 1000)
            cam_to_world = torch.linalg.inv(world.world_to_cam[index].double()).numpy()
            np.savetxt(root / scene / f"pose/{number}.txt", cam_to_world)
    np.savez(root / "intrinsics.npz", **{scene: world.intrinsics[0].double().numpy() for scene in scenes})
    pairs = [(int(scene[5:9]), int(scene[10:]), *NUMBERS[:2][::step]) for scene in scenes for step in (1, -1)]
    np.savez(root / "test.npz", name=np.array(pairs, np.uint16), score=np.zeros(len(pairs)))
    return root
