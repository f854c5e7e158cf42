"""Write small random pipelines of video models: ``python tests/helpers/small_videos.py wan OUT``.

The folders are those that diffusers' own pipelines save, without text encoders: ``python -m probe.run --model wan:OUT
--model-size 32`` then probes one in seconds. Sizes follow diffusers' own tests.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from probe.models.model import MultiViewModel  # noqa: F401, probe.models before diffusers

from diffusers import (  # isort: skip
    AutoencoderKLCogVideoX,
    AutoencoderKLHunyuanVideo,
    AutoencoderKLLTXVideo,
    AutoencoderKLWan,
    CogVideoXDDIMScheduler,
    CogVideoXImageToVideoPipeline,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)

SIDE = 32
TEXT = {"text_encoder": None, "tokenizer": None}
LATENTS = 4


def wan_vae(**changes: Any) -> AutoencoderKLWan:
    settings = {
        "base_dim": 4, "z_dim": LATENTS, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1,
        "temperal_downsample": [False, True, True], "latents_mean": [0.1, -0.2, 0.3, 0.0],
        "latents_std": [1.0, 2.0, 0.5, 1.5],
    }  # fmt: skip
    return AutoencoderKLWan(**{**settings, **changes})


def wan_transformer(**changes: Any) -> WanTransformer3DModel:
    settings = {
        "patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": LATENTS,
        "out_channels": LATENTS, "text_dim": 8, "freq_dim": 16, "ffn_dim": 16, "num_layers": 2, "rope_max_seq_len": 32,
    }  # fmt: skip
    return WanTransformer3DModel(**{**settings, **changes})


def wan_scheduler() -> UniPCMultistepScheduler:
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)


def wan(**changes: Any) -> WanPipeline:
    return WanPipeline(**TEXT, vae=wan_vae(), scheduler=wan_scheduler(), transformer=wan_transformer(), **changes)


def wan_ti2v() -> WanPipeline:
    """As Wan2.2-TI2V: a time per token."""
    return wan(expand_timesteps=True)


def wan_i2v(image_dim: int | None = 8) -> WanImageToVideoPipeline:
    """As Wan2.1-I2V: the image's latents and a mask as channels, and an embedding of the image."""
    network = wan_transformer(in_channels=3 * LATENTS, image_dim=image_dim, added_kv_proj_dim=image_dim and 24)
    return WanImageToVideoPipeline(
        **TEXT, vae=wan_vae(), scheduler=wan_scheduler(), transformer=network, image_encoder=None, image_processor=None
    )


def cogvideox_transformer(**changes: Any) -> CogVideoXTransformer3DModel:
    settings = {
        "num_attention_heads": 2, "attention_head_dim": 16, "in_channels": LATENTS, "out_channels": LATENTS,
        "time_embed_dim": 8, "text_embed_dim": 8, "num_layers": 2, "sample_width": 4, "sample_height": 4,
        "sample_frames": 9, "patch_size": 2, "temporal_compression_ratio": 4, "max_text_seq_length": 6,
    }  # fmt: skip
    return CogVideoXTransformer3DModel(**{**settings, **changes})


def cogvideox_vae(**changes: Any) -> AutoencoderKLCogVideoX:
    settings = {"block_out_channels": (8, 8, 8, 8), "latent_channels": LATENTS, "layers_per_block": 1}
    return AutoencoderKLCogVideoX(**{**settings, "norm_num_groups": 2, **changes})


def cogvideox_scheduler() -> CogVideoXDDIMScheduler:
    return CogVideoXDDIMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, snr_shift_scale=1.0, timestep_spacing="trailing"
    )


def cogvideox() -> CogVideoXPipeline:
    parts = {"vae": cogvideox_vae(), "scheduler": cogvideox_scheduler(), "transformer": cogvideox_transformer()}
    return CogVideoXPipeline(**TEXT, **parts)


def cogvideox_i2v(*, invert: bool = False) -> CogVideoXImageToVideoPipeline:
    """As CogVideoX-5b: rotary tables, and the image's latents as channels, without its learned positions."""
    network = cogvideox_transformer(in_channels=2 * LATENTS, use_rotary_positional_embeddings=True)
    parts = {"vae": cogvideox_vae(invert_scale_latents=invert), "scheduler": cogvideox_scheduler()}
    return CogVideoXImageToVideoPipeline(**TEXT, **parts, transformer=network)


def hunyuan_video(**changes: Any) -> HunyuanVideoPipeline:
    settings = {
        "in_channels": LATENTS, "out_channels": LATENTS, "num_attention_heads": 2, "attention_head_dim": 10,
        "num_layers": 1, "num_single_layers": 1, "num_refiner_layers": 1, "patch_size": 2, "patch_size_t": 1,
        "guidance_embeds": True, "text_embed_dim": 8, "pooled_projection_dim": 8, "rope_axes_dim": (2, 4, 4),
    }  # fmt: skip
    vae = AutoencoderKLHunyuanVideo(
        latent_channels=LATENTS, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4
    )
    return HunyuanVideoPipeline(
        **TEXT, text_encoder_2=None, tokenizer_2=None, vae=vae, scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        transformer=HunyuanVideoTransformer3DModel(**{**settings, **changes}),
    )  # fmt: skip


def ltx(*, timed: bool = False, **changes: Any) -> LTXPipeline:
    settings = {
        "in_channels": LATENTS, "out_channels": LATENTS, "num_attention_heads": 2, "attention_head_dim": 8,
        "cross_attention_dim": 16, "num_layers": 2, "caption_channels": 8,
    }  # fmt: skip
    vae = AutoencoderKLLTXVideo(
        latent_channels=LATENTS, block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1), decoder_layers_per_block=(1, 1, 1, 1, 1), timestep_conditioning=timed,
        spatio_temporal_scaling=(True, True, False, False), decoder_spatio_temporal_scaling=(True, True, False, False),
        patch_size=2,
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05)
    vae.latents_mean += 0.1
    vae.latents_std *= 1.5
    return LTXPipeline(
        **TEXT, vae=vae, scheduler=scheduler, transformer=LTXVideoTransformer3DModel(**{**settings, **changes})
    )


PIPELINES: dict[str, Callable[..., DiffusionPipeline]] = {
    "wan": wan, "wan-ti2v": wan_ti2v, "wan-i2v": wan_i2v, "cogvideox": cogvideox, "cogvideox-i2v": cogvideox_i2v,
    "hunyuan-video": hunyuan_video, "ltx": ltx,
}  # fmt: skip


def family(name: str) -> str:
    """The name of ``--model``."""
    return name.removesuffix("-ti2v").removesuffix("-i2v")


def build(name: str, seed: int = 0, **changes: Any) -> DiffusionPipeline:
    """A pipeline with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PIPELINES[name](**changes)


def save_small(name: str, out: Path, **changes: Any) -> Path:
    """Write the pipeline's folder."""
    build(name, **changes).save_pretrained(out)
    return out


if __name__ == "__main__":
    print(save_small(sys.argv[1], Path(sys.argv[2])))
