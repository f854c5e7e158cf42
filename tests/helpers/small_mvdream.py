"""Write a small checkpoint in the layout of MVDream's release: ``python tests/helpers/small_mvdream.py OUT [--port]``.

``OUT/sd-v2.1-base-4view.pt`` holds the network under ``model.diffusion_model.``, the autoencoder under
``first_stage_model.`` by the names of latent diffusion, a text encoder's weight and the schedule's tables beside them;
``OUT/params.json`` the sizes that differ from the release's; ``OUT/vae/`` another autoencoder. With ``--port`` the
network lies in ``OUT/unet/`` as in the diffusers port. ``PYTHONPATH=tests/helpers/standins python -m probe.run --model
mvdream:OUT --base OUT --model-size 64 --pairs 4 --views 4 --timesteps 500 --baselines none`` probes it in seconds.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

STANDINS = Path(__file__).parent / "standins"
sys.path[:0] = [str(Path(__file__).parents[2])] if __name__ == "__main__" else []

import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from small_cat3d import make_vae  # noqa: E402
from torch import Tensor, nn  # noqa: E402

SIZES: dict[str, Any] = {
    "model_channels": 32,
    "channel_mult": [1, 1, 2, 2],
    "num_head_channels": 16,
    "context_dim": 24,
}
SMALL: dict[str, Any] = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "attention_resolutions": [4, 2, 1], "num_res_blocks": 2,
    "camera_dim": 16, **SIZES,
}  # fmt: skip
FILE = "sd-v2.1-base-4view.pt"
LEVELS = 4


def make_network(seed: int = 0) -> nn.Module:
    """The package's own network, with random weights."""
    from mvdream.ldm.modules.diffusionmodules.openaimodel import MultiViewUNetModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MultiViewUNetModel(**SMALL).eval()


def of_latent_diffusion(name: str) -> str:
    """Turn a name of diffusers' autoencoder into that of latent diffusion, one rule after the other."""
    name = re.sub(r"encoder\.down_blocks\.(\d+)\.resnets\.(\d+)", r"encoder.down.\1.block.\2", name)
    name = re.sub(r"encoder\.down_blocks\.(\d+)\.downsamplers\.0", r"encoder.down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d+)", lambda found: f"up.{LEVELS - 1 - int(found[1])}", name)  # counted from below
    name = re.sub(r"(up\.\d+)\.resnets\.(\d+)", r"\1.block.\2", name)
    name = re.sub(r"(up\.\d+)\.upsamplers\.0", r"\1.upsample", name)
    name = re.sub(r"mid_block\.resnets\.(\d+)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
    for new, old in (
        ("mid_block.attentions.0", "mid.attn_1"), ("conv_shortcut", "nin_shortcut"), ("conv_norm_out", "norm_out"),
        ("group_norm", "norm"), ("to_out.0", "proj_out"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"),
    ):  # fmt: skip
        name = name.replace(new, old)
    return name


def autoencoder_weights(vae: nn.Module) -> dict[str, Tensor]:
    """By the names of latent diffusion; its attention's projections are 1 x 1 convolutions."""
    found = {}
    for name, weight in vae.state_dict().items():
        convolution = ".attentions.0.to_" in name and name.endswith("weight")
        shaped = weight[..., None, None] if convolution else weight
        found[f"first_stage_model.{of_latent_diffusion(name)}"] = shaped.clone()
    return found


def release_weights() -> dict[str, Tensor]:
    beta = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    network = {f"model.diffusion_model.{name}": x for name, x in make_network().state_dict().items()}
    text = {"cond_stage_model.model.positional_embedding": torch.zeros(77, 24)}
    tables = {"betas": beta.float(), "alphas_cumprod": (1 - beta).cumprod(0).float(), "sqrt_alphas_cumprod": beta}
    tables |= {"posterior_variance": beta, "log_one_minus_alphas_cumprod": beta}
    return network | autoencoder_weights(make_vae(LEVELS, seed=2)) | text | tables


def save_small(out: Path, *, port: bool = False) -> Path:
    """Write weights, sizes and vae/."""
    folder = out / "unet" if port else out
    folder.mkdir(parents=True, exist_ok=True)
    if port:
        save_file(make_network().state_dict(), folder / "diffusion_pytorch_model.safetensors")
        (folder / "config.json").write_text(json.dumps({"_class_name": "MultiViewUNetModel", "ip_dim": 0, **SMALL}))
    else:
        torch.save(release_weights(), folder / FILE)
        (folder / "params.json").write_text(json.dumps(SIZES))
    make_vae(LEVELS).save_pretrained(out / "vae")
    return out


if __name__ == "__main__":
    sys.path.insert(0, str(STANDINS))
    print(save_small(Path(sys.argv[1]), port="--port" in sys.argv))
