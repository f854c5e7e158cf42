"""Write a small checkpoint as the release's trainer does: ``python tests/helpers/small_cat3d.py OUT [--bf16]``.

``OUT/checkpoint-100/pytorch_model/mp_rank_00_model_states.pt`` holds DeepSpeed's ``{'module': ...}`` with the network
under ``unet.`` and a readout head beside it; ``OUT/vae/`` is an autoencoder of the encoder's stride. Then
``python -m probe.run --model cat3d:OUT/checkpoint-100 --base OUT --model-size 64`` probes it in seconds.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from probe.models.cat3d import load_unet
from probe.models.parts.latents import AutoencoderKL
from probe.models.parts.unet import MultiViewUNet

SMALL: dict[str, Any] = {
    "block_out_channels": (32, 64, 64, 64),
    "attention_head_dim": (1, 2, 2, 2),
    "encoder_channels": (8, 8, 16, 16),
    "encoder_stride": 8,
}
FILE = Path("pytorch_model") / "mp_rank_00_model_states.pt"


def make_unet(seed: int = 0, **changes: Any) -> MultiViewUNet:
    """A network whose zeros and identities have been moved, as training does."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = load_unet(None, {**SMALL, **changes}).eval()
        for name, parameter in unet.named_parameters():
            if any(part in name for part in ("add_conv_in.conv_out", "class_embedding", "norm_q", "norm_k")):
                nn.init.normal_(parameter, 1 if name.endswith(("norm_q.weight", "norm_k.weight")) else 0, 0.3)
    return unet


def make_vae(levels: int = 4, seed: int = 1, **changes: Any) -> AutoencoderKL:
    """An autoencoder that halves its images once per level but the first."""
    settings: dict[str, Any] = {
        "block_out_channels": (32,) * levels, "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels, "layers_per_block": 1, "latent_channels": 4,
        "scaling_factor": 0.18215,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoencoderKL(**{**settings, **changes}).eval()


def heads_beside(heads: int = 2) -> dict[str, Tensor]:
    """The readout of layer 10: heads to four times heads to one.

    Source: docs/references.md, "CAT3D of the release: checkpoints".
    """
    mlp = nn.Sequential(nn.Linear(heads, 4 * heads), nn.GELU(), nn.Linear(4 * heads, 1))
    return {f"unet_logit_head.10.mlp.{name}": weight for name, weight in mlp.state_dict().items()}


def wrapped(unet: nn.Module, prefix: str = "unet.") -> dict[str, Tensor]:
    return {f"{prefix}{name}": weight for name, weight in unet.state_dict().items()}


def save_checkpoint(folder: Path, weights: dict[str, Tensor], *, bf16: bool = False) -> Path:
    """Write DeepSpeed's file, which holds other things beside the weights."""
    dtype = torch.bfloat16 if bf16 else torch.float32
    module = {name: weight.to(dtype) for name, weight in weights.items()}
    (folder / FILE).parent.mkdir(parents=True, exist_ok=True)
    torch.save({"module": module, "global_steps": 100, "ds_version": "0.14", "dp_world_size": 1}, folder / FILE)
    return folder / FILE


def save_small(out: Path, *, bf16: bool = False) -> Path:
    """Write checkpoint-100/ and vae/."""
    save_checkpoint(out / "checkpoint-100", wrapped(make_unet()) | heads_beside(), bf16=bf16)
    make_vae().save_pretrained(out / "vae")
    return out


if __name__ == "__main__":
    print(save_small(Path(sys.argv[1]), bf16="--bf16" in sys.argv))
