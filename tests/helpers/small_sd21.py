"""Write a small Stable Diffusion of random weights in diffusers' layout: ``python tests/helpers/small_sd21.py OUT``.

Then ``python -m probe.run --model sd21:OUT --model-size 64`` (or ``sd21-extended:OUT``) probes it in seconds.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from probe.models.parts.latents import AutoencoderKL
from probe.models.stable_diffusion import UNet2DConditionModel

WIDTHS = (32, 64, 64, 64)
TEXT_WIDTH, PROMPT = 24, 77
NATIVE = 128
VOCABULARY = {"!": 0, "a": 1, "<|startoftext|>": 2, "<|endoftext|>": 3}
TEXT = {
    "hidden_size": TEXT_WIDTH, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 3,
    "max_position_embeddings": PROMPT, "vocab_size": len(VOCABULARY), "hidden_act": "gelu", "layer_norm_eps": 1e-5,
    "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0, "model_type": "clip_text_model",
    "architectures": ["CLIPTextModel"],
}  # fmt: skip


def make_unet(**changes: Any) -> UNet2DConditionModel:
    """The layout of SD 2.1, whose self-attentions are 16."""
    settings = {
        "sample_size": NATIVE // 8, "block_out_channels": WIDTHS, "attention_head_dim": (1, 2, 2, 2),
        "cross_attention_dim": TEXT_WIDTH, "use_linear_projection": True, "upcast_attention": True,
    }  # fmt: skip
    return UNet2DConditionModel(**{**settings, **changes})


def make_vae(**changes: Any) -> AutoencoderKL:
    settings = {
        "block_out_channels": (32, 32, 32, 32), "layers_per_block": 1, "latent_channels": 4, "scaling_factor": 0.18215,
        "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
    }  # fmt: skip
    return AutoencoderKL(**{**settings, **changes})


def scheduler(prediction: str) -> dict[str, Any]:
    """That of the hub's folder."""
    return {
        "_class_name": "DDIMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "clip_sample": False, "num_train_timesteps": 1000, "prediction_type": prediction, "set_alpha_to_one": False,
        "skip_prk_steps": True, "steps_offset": 1, "trained_betas": None,
    }  # fmt: skip


def text_weights() -> dict[str, Tensor]:
    """A CLIP text encoder's, by the names of the hub's files."""
    width, inner = TEXT["hidden_size"], TEXT["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.token_embedding.weight": (len(VOCABULARY), width),
        "embeddings.position_embedding.weight": (PROMPT, width),
    }
    linears = {f"self_attn.{part}": (width, width) for part in ("q_proj", "k_proj", "v_proj", "out_proj")}
    linears |= {"mlp.fc1": (inner, width), "mlp.fc2": (width, inner)}
    for layer in range(TEXT["num_hidden_layers"]):
        at = f"encoder.layers.{layer}."
        shapes |= {f"{at}{name}.weight": shape for name, shape in linears.items()}
        shapes |= {f"{at}{name}.bias": shape[:1] for name, shape in linears.items()}
        shapes |= {f"{at}{norm}.{part}": (width,) for norm in ("layer_norm1", "layer_norm2") for part in PARTS}
    shapes |= {f"final_layer_norm.{part}": (width,) for part in PARTS}
    return {f"text_model.{name}": 0.5 * torch.randn(shape) for name, shape in shapes.items()}


PARTS = ("weight", "bias")


def save_small(out: Path, *, prediction: str = "v_prediction", text: bool = False, seed: int = 0) -> Path:
    """Write unet/, vae/, scheduler/ and, if asked, text_encoder/ and tokenizer/."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        make_unet().save_pretrained(out / "unet")
        make_vae().save_pretrained(out / "vae")
        weights = text_weights()
    write_json(out / "scheduler" / "scheduler_config.json", scheduler(prediction))
    if text:
        (out / "text_encoder").mkdir()
        save_file(weights, out / "text_encoder" / "model.safetensors")
        write_json(out / "text_encoder" / "config.json", TEXT)
        write_json(out / "tokenizer" / "vocab.json", VOCABULARY)
        write_json(out / "tokenizer" / "special_tokens_map.json", {"pad_token": "!"})
    return out


def write_json(path: Path, values: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values), encoding="utf-8")


if __name__ == "__main__":
    print(save_small(Path(sys.argv[1])))
