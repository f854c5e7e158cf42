"""Image networks: a view is an image of the batch, or one of several images in one sequence."""

from typing import Any

import torch
from torch import Tensor

from benchmarks.networks.entry import (
    COLUMNS,
    ROWS,
    TEXT,
    WIDTH,
    Entry,
    half_padded,
    images,
    noise,
    packed,
    packed_images,
    places,
    prompt,
    real_step,
    step,
)

ALONE, TEXT_IN_VIEW, JOINT = ("view", "cross"), ("view",), ("joint",)
KNOWN_GRID = (ROWS, COLUMNS)
"""Of networks whose tokens come packed, without a grid."""

UNET = {
    "block_out_channels": (16, 32), "norm_num_groups": 16, "layers_per_block": 1, "cross_attention_dim": WIDTH,
    "attention_head_dim": 2, "sample_size": 16, "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}  # fmt: skip
FLUX: dict[str, Any] = {
    "patch_size": 1, "in_channels": 4, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16,
    "num_attention_heads": 2, "joint_attention_dim": WIDTH, "pooled_projection_dim": 8, "axes_dims_rope": [4, 4, 8],
}  # fmt: skip
FLUX_2 = {key: FLUX[key] for key in FLUX if key != "pooled_projection_dim"} | {"axes_dims_rope": [4, 4, 4, 4]}
CHROMA = {key: FLUX[key] for key in FLUX if key != "pooled_projection_dim"} | {
    "approximator_num_channels": 8, "approximator_hidden_dim": 16, "approximator_layers": 1,
}  # fmt: skip
SD3: dict[str, Any] = {
    "sample_size": 16, "patch_size": 2, "in_channels": 4, "num_layers": 3, "attention_head_dim": 8,
    "num_attention_heads": 4, "caption_projection_dim": 32, "joint_attention_dim": WIDTH, "pooled_projection_dim": 8,
    "out_channels": 4, "pos_embed_max_size": 96,
}  # fmt: skip
PIXART = {
    "sample_size": 8, "num_layers": 1, "patch_size": 2, "attention_head_dim": 4, "num_attention_heads": 2,
    "in_channels": 4, "cross_attention_dim": 8, "out_channels": 8, "attention_bias": True, "num_embeds_ada_norm": 8,
    "norm_type": "ada_norm_single", "norm_elementwise_affine": False, "norm_eps": 1e-06,
    "use_additional_conditions": False, "caption_channels": WIDTH,
}  # fmt: skip
HUNYUAN_DIT = {
    "sample_size": 8, "patch_size": 2, "in_channels": 4, "num_layers": 2, "attention_head_dim": 8,
    "num_attention_heads": 2, "cross_attention_dim": 8, "cross_attention_dim_t5": 8, "pooled_projection_dim": 4,
    "hidden_size": 16, "text_len": 4, "text_len_t5": 4,
}  # fmt: skip
LUMINA_2 = {
    "sample_size": 16, "patch_size": 2, "in_channels": 4, "hidden_size": 24, "num_layers": 2, "num_refiner_layers": 1,
    "num_attention_heads": 3, "num_kv_heads": 1, "multiple_of": 2, "axes_dim_rope": (4, 2, 2),
    "axes_lens": (128, 128, 128), "cap_feat_dim": WIDTH,
}  # fmt: skip
QWEN = {
    "patch_size": 2, "in_channels": 16, "out_channels": 4, "num_layers": 2, "attention_head_dim": 16,
    "num_attention_heads": 2, "joint_attention_dim": WIDTH, "guidance_embeds": False, "axes_dims_rope": (8, 4, 4),
}  # fmt: skip
AURAFLOW = {
    "sample_size": 32, "patch_size": 2, "in_channels": 4, "num_mmdit_layers": 1, "num_single_dit_layers": 1,
    "attention_head_dim": 8, "num_attention_heads": 4, "caption_projection_dim": 32, "joint_attention_dim": WIDTH,
    "out_channels": 4, "pos_embed_max_size": 1024,
}  # fmt: skip
COGVIEW_4 = {
    "patch_size": 2, "in_channels": 4, "num_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2,
    "out_channels": 4, "text_embed_dim": WIDTH, "time_embed_dim": 8, "condition_dim": 4, "rope_axes_dim": (16, 16),
}  # fmt: skip
HIDREAM = {
    "patch_size": 2, "in_channels": 4, "out_channels": 4, "num_layers": 1, "num_single_layers": 1,
    "attention_head_dim": 8, "num_attention_heads": 4, "caption_channels": [WIDTH, 4], "text_emb_dim": 8,
    "num_routed_experts": 2, "num_activated_experts": 2, "axes_dims_rope": (4, 2, 2), "max_resolution": (64, 64),
    "llama_layers": (0, 1), "force_inference_output": True,
}  # fmt: skip
Z_IMAGE = {
    "all_patch_size": (2,), "all_f_patch_size": (1,), "in_channels": 4, "dim": 16, "n_layers": 1, "n_refiner_layers": 1,
    "n_heads": 1, "n_kv_heads": 1, "cap_feat_dim": WIDTH, "axes_dims": [8, 4, 4], "axes_lens": [256, 64, 64],
}  # fmt: skip
SANA = {
    "patch_size": 1, "in_channels": 4, "out_channels": 4, "num_layers": 1, "attention_head_dim": 4,
    "num_attention_heads": 2, "num_cross_attention_heads": 2, "cross_attention_head_dim": 4, "cross_attention_dim": 8,
    "caption_channels": WIDTH, "sample_size": 32,
}  # fmt: skip
CASCADE = {
    "block_out_channels": (16, 32), "num_attention_heads": (2, 2), "down_num_layers_per_block": (1, 1),
    "up_num_layers_per_block": (1, 1), "down_blocks_repeat_mappers": (1, 1), "up_blocks_repeat_mappers": (1, 1),
    "conditioning_dim": 16, "in_channels": 4, "out_channels": 4, "clip_text_in_channels": WIDTH,
    "clip_text_pooled_in_channels": 8, "clip_image_in_channels": 8, "switch_level": (False,),
}  # fmt: skip


def unet(views: int, scale: int) -> dict[str, Any]:
    return {"sample": images(4, views, scale, patch=2), **prompt(batch=views), **step()}


def plain(views: int, scale: int) -> dict[str, Any]:
    return {"hidden_states": images(4, views, scale), **prompt(batch=views), **step(views)}


def flux(views: int, scale: int) -> dict[str, Any]:
    return {
        "hidden_states": packed_images(4, views, scale),
        "img_ids": places(1, scale).float(),
        "txt_ids": torch.zeros(TEXT, 3),
        **prompt(batch=views),
        **real_step(views),
    }


def flux_pooled(views: int, scale: int) -> dict[str, Any]:
    return {**flux(views, scale), "pooled_projections": noise(views, 8)}


def flux_in_one(views: int, scale: int) -> dict[str, Any]:
    """Reference images behind the one that is made: a sequence of views."""
    return {
        "hidden_states": packed(4, views, scale),
        "img_ids": places(views, scale).float(),
        "txt_ids": torch.zeros(TEXT, 3),
        "pooled_projections": noise(1, 8),
        **prompt(),
        **real_step(),
    }


def flux_2(views: int, scale: int) -> dict[str, Any]:
    return {
        "hidden_states": packed(4, views, scale),
        "img_ids": places(views, scale, 4)[None],
        "txt_ids": torch.zeros(1, TEXT, 4),
        "guidance": torch.ones(1),
        **prompt(),
        **real_step(),
    }


def sd3(views: int, scale: int) -> dict[str, Any]:
    return {**plain(views, scale), "pooled_projections": noise(views, 8)}


def pixart(views: int, scale: int) -> dict[str, Any]:
    return {**plain(views, scale), "added_cond_kwargs": {"aspect_ratio": None, "resolution": None}}


def hunyuan_dit(views: int, scale: int) -> dict[str, Any]:
    from diffusers.models.embeddings import get_2d_rotary_pos_embed

    grid = (ROWS * scale, COLUMNS * scale)
    return {
        "hidden_states": images(4, views, scale),
        "text_embedding_mask": torch.ones(views, 4),
        "encoder_hidden_states_t5": noise(views, 4, 8),
        "text_embedding_mask_t5": torch.ones(views, 4),
        "timestep": torch.full((views,), 500.0),
        "image_meta_size": torch.ones(views, 6),
        "style": torch.zeros(views, dtype=torch.long),
        "image_rotary_emb": get_2d_rotary_pos_embed(8, ((0, 0), grid), grid, output_type="pt"),
        **prompt(8, batch=views, tokens=4),
    }


def lumina_2(views: int, scale: int) -> dict[str, Any]:
    mask = torch.ones(views, TEXT, dtype=torch.bool)
    return {
        "hidden_states": images(4, views, scale),
        "encoder_attention_mask": mask,
        **prompt(batch=views),
        **real_step(views),
    }


def lumina_2_padded(views: int, scale: int) -> dict[str, Any]:
    return {**lumina_2(views, scale), "encoder_attention_mask": padded_but_one(views)}


def padded_but_one(views: int) -> Tensor:
    """Mask of prompts of which the first alone is whole."""
    return half_padded(views) | (torch.arange(views) == 0)[:, None]


def qwen(views: int, scale: int) -> dict[str, Any]:
    return {
        "hidden_states": packed_images(16, views, scale),
        "encoder_hidden_states_mask": padded_but_one(views).long(),
        "img_shapes": [[(1, ROWS * scale, COLUMNS * scale)]] * views,
        **prompt(batch=views),
        **real_step(views),
    }


def qwen_in_one(views: int, scale: int) -> dict[str, Any]:
    return {
        "hidden_states": packed(16, views, scale),
        "encoder_hidden_states_mask": half_padded().long(),
        "img_shapes": [[(1, ROWS * scale, COLUMNS * scale)] * views],
        **prompt(),
        **real_step(),
    }


def cogview_4(views: int, scale: int) -> dict[str, Any]:
    sizes = {name: torch.full((views, 2), 64) for name in ("original_size", "target_size")}
    return {**plain(views, scale), **sizes, "crop_coords": torch.zeros(views, 2)}


def hidream(views: int, scale: int) -> dict[str, Any]:
    return {
        "hidden_states": noise(views, 4, 16 * scale, 16 * scale),
        "encoder_hidden_states_t5": noise(views, TEXT, WIDTH),
        "encoder_hidden_states_llama3": noise(2, views, TEXT, 4),
        "pooled_embeds": noise(views, 8),
        "timesteps": torch.full((views,), 500),
    }


def z_image(views: int, scale: int) -> dict[str, Any]:
    """A list of images; tokens come in multiples of 32, or padding is added."""
    return {
        "x": [noise(4, 1, 8 * scale, 16 * scale) + view for view in range(views)],
        "cap_feats": [noise(32, WIDTH) for _ in range(views)],
        "t": torch.full((views,), 0.5),
    }


def z_image_frames(views: int, scale: int) -> dict[str, Any]:
    return {"x": [noise(4, views, 8 * scale, 16 * scale)], "cap_feats": [noise(32, WIDTH)], "t": torch.full((1,), 0.5)}


def cascade(views: int, scale: int) -> dict[str, Any]:
    return {
        "sample": images(4, views, scale),
        "timestep_ratio": torch.full((views,), 0.5),
        "clip_text_pooled": noise(views, 1, 8),
        "clip_text": noise(views, TEXT, WIDTH),
        "clip_img": noise(views, 1, 8),
    }


IMAGES: dict[str, Entry] = {
    "stable diffusion 1.5": Entry(network="UNet2DConditionModel", config=UNET, inputs=unet, expects=ALONE),
    "flux": Entry(
        network="FluxTransformer2DModel", config=FLUX, inputs=flux_pooled, expects=TEXT_IN_VIEW, aspect=KNOWN_GRID
    ),
    "flux-kontext": Entry(
        network="FluxTransformer2DModel",
        config=FLUX,
        inputs=flux_in_one,
        expects=JOINT,
        aspect=KNOWN_GRID,
        note="views are images of one sequence",
    ),
    "flux2": Entry(
        network="Flux2Transformer2DModel",
        config=FLUX_2,
        inputs=flux_2,
        expects=JOINT,
        aspect=KNOWN_GRID,
        note="views are images of one sequence",
    ),
    "chroma": Entry(
        network="ChromaTransformer2DModel", config=CHROMA, inputs=flux, expects=TEXT_IN_VIEW, aspect=KNOWN_GRID
    ),
    "sd3": Entry(network="SD3Transformer2DModel", config=SD3, inputs=sd3, expects=TEXT_IN_VIEW),
    "sd3.5": Entry(
        network="SD3Transformer2DModel",
        config=SD3 | {"dual_attention_layers": (0,), "qk_norm": "rms_norm"},
        inputs=sd3,
        expects=TEXT_IN_VIEW,
    ),
    "pixart": Entry(network="PixArtTransformer2DModel", config=PIXART, inputs=pixart, expects=ALONE),
    "hunyuan-dit": Entry(
        network="HunyuanDiT2DModel", config=HUNYUAN_DIT, inputs=hunyuan_dit, expects=("other", "view", "cross")
    ),
    "lumina2": Entry(network="Lumina2Transformer2DModel", config=LUMINA_2, inputs=lumina_2, expects=("other", "view")),
    "lumina2 (padded text)": Entry(
        network="Lumina2Transformer2DModel", config=LUMINA_2, inputs=lumina_2_padded, expects=("other", "view")
    ),
    "qwenimage": Entry(
        network="QwenImageTransformer2DModel", config=QWEN, inputs=qwen, expects=TEXT_IN_VIEW, aspect=KNOWN_GRID
    ),
    "qwenimage-edit-plus": Entry(
        network="QwenImageTransformer2DModel",
        config=QWEN,
        inputs=qwen_in_one,
        expects=JOINT,
        aspect=KNOWN_GRID,
        note="views are images of one sequence",
    ),
    "auraflow": Entry(network="AuraFlowTransformer2DModel", config=AURAFLOW, inputs=plain, expects=TEXT_IN_VIEW),
    "cogview4": Entry(network="CogView4Transformer2DModel", config=COGVIEW_4, inputs=cogview_4, expects=TEXT_IN_VIEW),
    "hidream": Entry(network="HiDreamImageTransformer2DModel", config=HIDREAM, inputs=hidream, expects=TEXT_IN_VIEW),
    "z-image": Entry(network="ZImageTransformer2DModel", config=Z_IMAGE, inputs=z_image, expects=("view", "other")),
    "z-image (frames)": Entry(
        network="ZImageTransformer2DModel",
        config=Z_IMAGE,
        inputs=z_image_frames,
        expects=("3d", "other", "joint"),
        note="views are frames of one item",
    ),
    "sana": Entry(
        network="SanaTransformer2DModel",
        config=SANA,
        inputs=plain,
        expects=("unseen", "cross"),
        note="linear attention",
    ),
    "stable-cascade": Entry(
        network="StableCascadeUNet", config=CASCADE, inputs=cascade, expects=(), note="keys are image and text"
    ),
}
