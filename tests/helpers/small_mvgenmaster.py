"""Write a small checkpoint as MVGenMaster's hub archive holds it: ``python tests/helpers/small_mvgenmaster.py OUT``.

``OUT/ema_unet.pt`` holds the network's bare names and ``OUT/vae/`` an autoencoder of the encoder's stride; with
``--deepspeed`` the weights lie in ``OUT/pytorch_model/mp_rank_00_model_states.pt`` as the release's trainer has them.
Then ``python -m probe.run --model mvgenmaster:OUT --base OUT --model-size 64`` probes it in seconds.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from small_cat3d import SMALL, make_vae
from torch import nn

from probe.models.mvgenmaster import PriorUNet

EMA = "ema_unet.pt"
DEEPSPEED = Path("pytorch_model") / "mp_rank_00_model_states.pt"
MOVED = ("add_conv_in.conv_out.3", "class_embedding", "norm_q", "norm_k")


def make_unet(seed: int = 0, **changes: Any) -> PriorUNet:
    """A network whose zeros and identities have been moved, as training does."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = PriorUNet(**{**SMALL, **changes}).eval()
        for name, parameter in unet.named_parameters():
            if any(part in name for part in MOVED):
                nn.init.normal_(parameter, 1 if name.endswith(("norm_q.weight", "norm_k.weight")) else 0, 0.3)
    return unet


def save_small(out: Path, *, deepspeed: bool = False) -> Path:
    """Write the weights and vae/."""
    weights = make_unet().state_dict()
    if deepspeed:
        (out / DEEPSPEED).parent.mkdir(parents=True)
        torch.save({"module": weights, "global_steps": 100, "ds_version": "0.14"}, out / DEEPSPEED)
    else:
        out.mkdir(parents=True, exist_ok=True)
        torch.save(weights, out / EMA)
        (out / "config.yaml").write_text("model_cfg:\n  additional_in_channels: 11\n  prior_type: 3dpe+pixel\n")
    make_vae().save_pretrained(out / "vae")
    return out


if __name__ == "__main__":
    print(save_small(Path(sys.argv[1]), deepspeed="--deepspeed" in sys.argv))
