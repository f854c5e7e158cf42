"""Real pipelines of diffusers, small, with random weights, and calls of them that give latents: whole sampling runs.

No text is encoded: prompts are embeddings, so neither tokenizers nor text encoders are needed.
"""

from typing import Any

import torch
from torch import Tensor

import probe.models  # noqa: F401  (before diffusers: probe/compat.py)

TEXT, TEXT_WIDTH = 6, 8
COGVIDEOX, WAN = "transformer_blocks.1.attn1", "blocks.1.attn1"
STABLE_DIFFUSION = "mid_block.attentions.0.transformer_blocks.0.attn1"


def prompts() -> dict[str, Tensor]:
    """Return embeddings of a prompt and of the negative one."""
    generator = torch.Generator().manual_seed(1)
    both = torch.randn(2, 1, TEXT, TEXT_WIDTH, generator=generator)
    return {"prompt_embeds": both[0], "negative_prompt_embeds": both[1]}


def sample(pipe: Any, steps: int = 4, **more: Any) -> Tensor:
    """Run a pipeline from a fixed seed to its latents; guidance is on."""
    pipe.set_progress_bar_config(disable=True)
    size = {"height": 32, "width": 32, "output_type": "latent", "guidance_scale": 3.0}
    clip = {"num_frames": 5} if hasattr(pipe, "transformer") else {}
    generator = torch.Generator().manual_seed(0)
    arguments = {**prompts(), **size, **clip, **more}
    return pipe(**arguments, num_inference_steps=steps, generator=generator, return_dict=False)[0]


def cogvideox() -> Any:
    from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXPipeline, CogVideoXTransformer3DModel

    torch.manual_seed(0)
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=4, time_embed_dim=8,
        text_embed_dim=TEXT_WIDTH, num_layers=2, sample_width=8, sample_height=8, sample_frames=5, patch_size=2,
        temporal_compression_ratio=4, max_text_seq_length=TEXT,
    )  # fmt: skip
    vae = AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 2, up_block_types=("CogVideoXUpBlock3D",) * 2,
        block_out_channels=(4, 4), latent_channels=4, layers_per_block=1, norm_num_groups=2,
        temporal_compression_ratio=4,
    )  # fmt: skip
    return CogVideoXPipeline(None, None, vae, transformer, CogVideoXDDIMScheduler())


def wan() -> Any:
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel

    torch.manual_seed(0)
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4,
        text_dim=TEXT_WIDTH, freq_dim=8, ffn_dim=16, num_layers=2,
    )  # fmt: skip
    vae = AutoencoderKLWan(base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1,
                           latents_mean=[0.0] * 4, latents_std=[1.0] * 4)  # fmt: skip
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    return WanPipeline(None, None, vae, scheduler, transformer)


def stable_diffusion() -> Any:
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, attention_head_dim=2,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
    )  # fmt: skip
    vae = AutoencoderKL(block_out_channels=(4, 4), norm_num_groups=2, down_block_types=("DownEncoderBlock2D",) * 2,
                        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4)  # fmt: skip
    return StableDiffusionPipeline(
        vae,
        None,
        None,
        unet,
        DDIMScheduler(steps_offset=1, clip_sample=False),
        None,
        None,
        requires_safety_checker=False,
    )
