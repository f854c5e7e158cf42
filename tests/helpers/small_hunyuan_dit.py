"""Write a small random HunyuanDiT in the hub's diffusers layout: ``python tests/helpers/small_hunyuan_dit.py OUT``.

``OUT/transformer/`` is the stock class without any encoder of cameras, as on the hub; beside it lie ``vae/`` and
``scheduler/``. Then ``python -m probe.run --model hunyuan-dit:OUT --model-size 64`` probes it in seconds.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from small_cat3d import make_vae as make_autoencoder

from probe.models.hunyuan_dit import AutoencoderKL, DDPMScheduler, HunyuanDiT2DModel

SMALL: dict[str, Any] = {
    "num_attention_heads": 2, "attention_head_dim": 16, "hidden_size": 32, "num_layers": 6, "mlp_ratio": 4.3637,
    "in_channels": 4, "patch_size": 2, "sample_size": 16, "cross_attention_dim": 24, "cross_attention_dim_t5": 16,
    "pooled_projection_dim": 24, "text_len": 7, "text_len_t5": 9, "use_style_cond_and_image_meta_size": False,
}  # fmt: skip


def make_stock(seed: int = 0, **changes: Any) -> HunyuanDiT2DModel:
    """The stock class."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return HunyuanDiT2DModel(**{**SMALL, **changes}).eval()


def make_vae(levels: int = 4) -> AutoencoderKL:
    """An autoencoder with SDXL's scaling factor."""
    return make_autoencoder(levels, scaling_factor=0.13025)


def make_scheduler(**changes: Any) -> DDPMScheduler:
    """That of v1.2 on the hub."""
    settings = {
        "beta_start": 0.00085, "beta_end": 0.018, "beta_schedule": "scaled_linear", "prediction_type": "v_prediction",
        "clip_sample": False, "steps_offset": 1, "timestep_spacing": "leading",
    }  # fmt: skip
    return DDPMScheduler(**{**settings, **changes})


def save_small(out: Path, *, levels: int = 4, **changes: Any) -> Path:
    """Write transformer/, vae/ and scheduler/."""
    make_stock(**changes).save_pretrained(out / "transformer")
    make_vae(levels).save_pretrained(out / "vae")
    make_scheduler().save_pretrained(out / "scheduler")
    return out


if __name__ == "__main__":
    print(save_small(Path(sys.argv[1])))
