"""Write small random weights of camera-controlled Wan models, in Wan's own names, with the pipeline they lack.

``python tests/helpers/small_camera_videos.py wan-camera OUT``: ``python -m probe.run --model wan-camera:OUT --base
OUT/base --model-size 32`` then probes one in seconds.
"""

import json
import sys
from pathlib import Path
from typing import Any

import small_videos
import torch
from safetensors.torch import save_file

from probe.models.video.camera_network import CameraWanTransformer

LATENTS, HEADS, RAYS = small_videos.LATENTS, 2, 24


def sizes(name: str, **changes: Any) -> dict[str, Any]:
    """Those of tests/helpers/small_videos.py, so that networks without cameras can be compared."""
    rays = name == "wan-camera"
    settings = {
        "dim": 24, "in_channels": 2 * LATENTS if rays else LATENTS, "out_channels": LATENTS, "ffn_dim": 16,
        "text_dim": 8, "freq_dim": 16, "num_heads": HEADS, "num_layers": 2, "patch": 2,
        "image_dim": 8 if rays else None, "ray_channels": RAYS if rays else 0,
        "ray_scale": 8 if rays else 1, "posed": not rays,
    }  # fmt: skip
    return {**settings, **changes}


def network(name: str, seed: int = 0, **changes: Any) -> CameraWanTransformer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CameraWanTransformer(**sizes(name, **changes)).eval()


def save_small(name: str, out: Path, **changes: Any) -> Path:
    """Write weights under their published name, settings that tell the heads, and a base pipeline."""
    small_videos.save_small("wan", out / "base")
    weights = network(name, **changes).state_dict()
    if name == "recammaster":
        torch.save(weights, out / "step20000.ckpt")
    else:
        save_file(weights, out / "diffusion_pytorch_model.safetensors")
    (out / "config.json").write_text(json.dumps({"num_heads": HEADS}))
    return out


if __name__ == "__main__":
    print(save_small(sys.argv[1], Path(sys.argv[2])))
