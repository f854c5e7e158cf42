"""Write a small checkpoint of VGGT or Depth Anything 3: ``python tests/helpers/small_feed_forward.py vggt OUT``.

``OUT/model.safetensors`` holds the blocks beside a head's weight, by the names of the release. With the stand-in for
the package on PYTHONPATH this probes it in seconds::

    PYTHONPATH=tests/helpers/standins python -m probe.run --model vggt:OUT --model-size 112 --pairs 4 --baselines none
"""

import importlib
import sys
from pathlib import Path
from typing import Any

STANDINS = Path(__file__).parent / "standins"

import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from torch import nn  # noqa: E402

PACKAGES = {
    "vggt": ("vggt.models.aggregator", "Aggregator"),
    "da3": ("depth_anything_3.model.dinov2.vision_transformer", "DinoVisionTransformer"),
}
SMALL: dict[str, dict[str, Any]] = {
    "vggt": {"embed_dim": 32, "depth": 3, "num_heads": 2, "num_register_tokens": 4, "patch_embed": "conv"},
    "da3": {
        "img_size": 42, "patch_size": 14, "embed_dim": 32, "depth": 6, "num_heads": 2, "alt_start": 2,
        "qknorm_start": 2, "rope_start": 2, "cat_token": True, "drop_path_uniform": True,
    },
}  # fmt: skip
PLACES = {"vggt": "aggregator.", "da3": "model.da3.backbone.pretrained."}
"""Where a release's file has the blocks; DA3's as in its nested models."""
HEADS = {"vggt": "camera_head.trunk.weight", "da3": "model.da3_metric.backbone.pretrained.cls_token"}


def package_class(kind: str) -> Any:
    module, name = PACKAGES[kind]
    return getattr(importlib.import_module(module), name)


def make_network(kind: str, seed: int = 0) -> nn.Module:
    """The package's own blocks, with random weights large enough to matter."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = package_class(kind)(**SMALL[kind])
        for weight in network.parameters():
            nn.init.normal_(weight, std=0.2)
    return network.eval().requires_grad_(False)


def save_small(kind: str, out: Path) -> Path:
    """Write weights as a release does."""
    out.mkdir(parents=True, exist_ok=True)
    weights = {f"{PLACES[kind]}{name}": x.contiguous() for name, x in make_network(kind).state_dict().items()}
    save_file({**weights, HEADS[kind]: torch.zeros(2)}, out / "model.safetensors")
    return out


if __name__ == "__main__":
    sys.path.insert(0, str(STANDINS))
    print(save_small(sys.argv[1], Path(sys.argv[2])))
