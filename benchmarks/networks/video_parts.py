"""Configurations and inputs of video networks."""

from typing import Any

import torch
from torch import nn

from benchmarks.networks.entry import (
    COLUMNS,
    ROWS,
    TEXT,
    WIDTH,
    frames,
    half_padded,
    noise,
    packed,
    prompt,
    real_step,
    step,
)

COGVIDEOX: dict[str, Any] = {
    "num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4, "out_channels": 4, "time_embed_dim": 2,
    "text_embed_dim": WIDTH, "num_layers": 2, "sample_width": 16, "sample_height": 16, "sample_frames": 9,
    "patch_size": 2, "temporal_compression_ratio": 4, "max_text_seq_length": TEXT,
}  # fmt: skip
ROTARY = {"use_rotary_positional_embeddings": True}
IDENTITY = {
    "cross_attn_interval": 1, "is_kps": False, "is_train_face": True, "cross_attn_dim_head": 1,
    "cross_attn_num_heads": 1, "LFE_id_dim": 2, "LFE_vit_dim": 2, "LFE_depth": 5, "LFE_dim_head": 8, "LFE_num_heads": 2,
    "LFE_num_id_token": 1, "LFE_num_querie": 1, "LFE_output_dim": 21, "LFE_ff_mult": 1, "LFE_num_scale": 1,
}  # fmt: skip
WAN: dict[str, Any] = {
    "patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "out_channels": 4,
    "text_dim": WIDTH, "freq_dim": 16, "ffn_dim": 32, "num_layers": 2, "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads", "rope_max_seq_len": 32,
}  # fmt: skip
IMAGE = {"image_dim": WIDTH, "added_kv_proj_dim": 24}
ANIMATE = {
    "in_channels": 12, "latent_channels": 4, "image_dim": WIDTH,
    "motion_encoder_channel_sizes": {"4": 16, "8": 16, "16": 16}, "motion_encoder_size": 16, "motion_style_dim": 8,
    "motion_dim": 4, "motion_encoder_dim": 16, "face_encoder_hidden_dim": 16, "face_encoder_num_heads": 2,
    "inject_face_latents_blocks": 2,
}  # fmt: skip
ANYFLOW = {key: WAN[key] for key in WAN if key != "qk_norm"} | {"gate_value": 0.25, "deltatime_type": "r"}
FAR = {"compressed_patch_size": (1, 4, 4), "full_chunk_limit": 3}
HUNYUAN: dict[str, Any] = {
    "in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 10, "num_layers": 1,
    "num_single_layers": 1, "num_refiner_layers": 1, "patch_size": 2, "patch_size_t": 1, "guidance_embeds": True,
    "text_embed_dim": WIDTH, "pooled_projection_dim": 8, "rope_axes_dim": (2, 4, 4),
}  # fmt: skip
FRAMEPACK = {"has_image_proj": True, "image_proj_dim": WIDTH, "has_clean_x_embedder": True}
HUNYUAN_15: dict[str, Any] = {
    "in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2,
    "num_refiner_layers": 1, "mlp_ratio": 2.0, "patch_size": 1, "patch_size_t": 1, "text_embed_dim": WIDTH,
    "text_embed_2_dim": 8, "image_embed_dim": 12, "rope_axes_dim": (2, 2, 4), "target_size": 16, "task_type": "t2v",
}  # fmt: skip
LTX: dict[str, Any] = {
    "in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 8, "cross_attention_dim": 16,
    "num_layers": 1, "qk_norm": "rms_norm_across_heads", "caption_channels": WIDTH,
}  # fmt: skip
AUDIO = {
    "num_layers": 2, "audio_in_channels": 4, "audio_out_channels": 4, "audio_num_attention_heads": 2,
    "audio_attention_head_dim": 4, "audio_cross_attention_dim": 8, "rope_double_precision": False,
}  # fmt: skip
MOCHI = {
    "patch_size": 2, "num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "pooled_projection_dim": 16,
    "in_channels": 4, "qk_norm": "rms_norm", "text_embed_dim": WIDTH, "time_embed_dim": 4, "activation_fn": "swiglu",
    "max_sequence_length": TEXT,
}  # fmt: skip
ALLEGRO = {
    "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "out_channels": 4, "num_layers": 1,
    "cross_attention_dim": 24, "sample_width": 8, "sample_height": 8, "sample_frames": 8, "caption_channels": WIDTH,
}  # fmt: skip
COSMOS = {
    "in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 2,
    "mlp_ratio": 2, "text_embed_dim": WIDTH, "adaln_lora_dim": 4, "max_size": (4, 32, 32), "patch_size": (1, 2, 2),
    "rope_scale": (2.0, 1.0, 1.0), "concat_padding_mask": True, "extra_pos_embed_type": "learnable",
}  # fmt: skip
EASYANIMATE = {
    "attention_head_dim": 16, "num_attention_heads": 2, "in_channels": 4, "mmdit_layers": 2, "num_layers": 2,
    "out_channels": 4, "patch_size": 2, "sample_height": 60, "sample_width": 90, "text_embed_dim": WIDTH,
    "time_embed_dim": 8,
}  # fmt: skip
LATTE = {
    "sample_size": 8, "num_layers": 1, "patch_size": 2, "attention_head_dim": 4, "num_attention_heads": 2,
    "caption_channels": WIDTH, "in_channels": 4, "cross_attention_dim": 8, "out_channels": 8, "attention_bias": True,
    "activation_fn": "gelu-approximate", "num_embeds_ada_norm": 1000, "norm_type": "ada_norm_single",
    "norm_elementwise_affine": False, "norm_eps": 1e-06,
}  # fmt: skip
HELIOS = {key: WAN[key] for key in WAN if key != "rope_max_seq_len"} | {
    "rope_dim": (4, 4, 4), "has_multi_term_memory_patch": True, "guidance_cross_attn": True,
    "zero_history_timestep": True, "is_amplify_history": False,
}  # fmt: skip
MOTIF = {
    "in_channels": 33, "out_channels": 16, "num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 1,
    "num_single_layers": 1, "num_decoder_layers": 0, "patch_size": 1, "patch_size_t": 1, "text_embed_dim": WIDTH,
    "image_embed_dim": 4, "rope_axes_dim": (4, 4, 4),
}  # fmt: skip
KANDINSKY = {
    "in_visual_dim": 4, "in_text_dim": WIDTH, "in_text_dim2": 8, "time_dim": 16, "out_visual_dim": 4,
    "patch_size": (1, 2, 2), "model_dim": 32, "ff_dim": 32, "num_text_blocks": 1, "num_visual_blocks": 2,
    "axes_dims": (4, 6, 6),
}  # fmt: skip
SANA_VIDEO = {
    "in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 2,
    "num_cross_attention_heads": 2, "cross_attention_head_dim": 12, "cross_attention_dim": 24,
    "caption_channels": WIDTH, "sample_size": 8, "patch_size": (1, 2, 2), "qk_norm": "rms_norm_across_heads",
    "rope_max_seq_len": 32,
}  # fmt: skip
MOTION = {
    "block_out_channels": (16, 32), "norm_num_groups": 16,
    "down_block_types": ("CrossAttnDownBlockMotion", "DownBlockMotion"),
    "up_block_types": ("UpBlockMotion", "CrossAttnUpBlockMotion"), "cross_attention_dim": WIDTH,
    "num_attention_heads": 2, "out_channels": 4, "in_channels": 4, "layers_per_block": 1, "sample_size": 16,
}  # fmt: skip
SVD = {
    "block_out_channels": (32, 64), "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
    "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"), "cross_attention_dim": WIDTH,
    "num_attention_heads": 8, "out_channels": 4, "in_channels": 4, "layers_per_block": 1, "sample_size": 32,
    "projection_class_embeddings_input_dim": 96, "addition_time_embed_dim": 32,
}  # fmt: skip
UNET_3D = {
    "block_out_channels": (8, 16), "norm_num_groups": 4, "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
    "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"), "cross_attention_dim": WIDTH, "attention_head_dim": 4,
    "out_channels": 4, "in_channels": 4, "layers_per_block": 1, "sample_size": 16,
}  # fmt: skip


def turned(channels: int, views: int, scale: int) -> torch.Tensor:
    """Latents with frames before channels."""
    return frames(channels, views, scale).transpose(1, 2)


def text_behind(views: int, scale: int) -> dict[str, Any]:
    return {"hidden_states": frames(4, views, scale), **prompt(), **step()}


def cogvideox(views: int, scale: int) -> dict[str, Any]:
    return {"hidden_states": turned(4, views, scale), **prompt(), **step()}


def cogvideox_pairs(views: int, scale: int) -> dict[str, Any]:
    """Two latent frames make a frame of tokens."""
    return {"hidden_states": turned(4, 2 * views, scale), **prompt(), **step()}


def cogvideox_rotary(views: int, scale: int) -> dict[str, Any]:
    from diffusers.models.embeddings import get_3d_rotary_pos_embed

    grid = (ROWS * scale, COLUMNS * scale)
    turns = get_3d_rotary_pos_embed(16, ((0, 0), grid), grid, views)
    return {**cogvideox(views, scale), "image_rotary_emb": turns}


def consisid(views: int, scale: int) -> dict[str, Any]:
    return {**cogvideox(views, scale), "id_vit_hidden": [torch.ones(1, 2, 2)], "id_cond": torch.ones(1, 2)}


def wan_tokenwise(views: int, scale: int) -> dict[str, Any]:
    times = torch.full((1, views * ROWS * COLUMNS * scale**2), 500)
    return {**text_behind(views, scale), "timestep": times}


def wan_image(views: int, scale: int) -> dict[str, Any]:
    return {**text_behind(views, scale), "encoder_hidden_states_image": noise(1, 5, WIDTH)}


def wan_control(views: int, scale: int) -> dict[str, Any]:
    return {**text_behind(views, scale), "control_hidden_states": frames(12, views, scale)}


def animated(views: int, scale: int, references: int) -> dict[str, Any]:
    moved = views if references else views - 1  # the reference is a frame before those that move
    return {
        "hidden_states": frames(12, moved + 1, scale),
        "pose_hidden_states": frames(4, moved, scale),
        "face_pixel_values": noise(1, 3, 4 * moved - 3, 16, 16),
        "encoder_hidden_states_image": noise(1, 5, WIDTH),
        **prompt(),
        **step(),
    }


def chunks(views: int, scale: int) -> dict[str, Any]:
    times = torch.full((1, views), 500.0)
    latents = turned(4, views, scale)
    return {"hidden_states": latents, "timestep": times, "r_timestep": times / 2, **prompt()}


def hunyuan(views: int, scale: int, channels: int = 4) -> dict[str, Any]:
    return {
        "hidden_states": frames(channels, views, scale),
        "pooled_projections": noise(1, 8),
        "encoder_attention_mask": torch.ones(1, TEXT),
        "guidance": torch.full((1,), 6.0),
        **prompt(),
        **step(),
    }


def framepack(views: int, scale: int) -> dict[str, Any]:
    past = {"latents_clean": 2, "latents_history_2x": 2, "latents_history_4x": 4}
    return {
        **hunyuan(views, scale),
        "image_embeds": noise(1, TEXT, WIDTH),
        "indices_latents": torch.arange(views),
        **{name: frames(4, count, scale) for name, count in past.items()},
        **{f"indices_{name}": torch.arange(count) for name, count in past.items()},
    }


def hunyuan_15(views: int, scale: int) -> dict[str, Any]:
    return {
        "hidden_states": frames(4, views, scale, patch=1),
        "encoder_attention_mask": torch.ones(1, TEXT),
        "encoder_hidden_states_2": noise(1, 4, 8),
        "encoder_attention_mask_2": torch.ones(1, 4),
        "image_embeds": torch.zeros(1, 3, 12),
        **prompt(),
        **real_step(),
    }


def ltx(views: int, scale: int) -> dict[str, Any]:
    sides = {"num_frames": views, "height": ROWS * scale, "width": COLUMNS * scale}
    mask = torch.ones(1, TEXT, dtype=torch.bool)
    return {"hidden_states": packed(4, views, scale), "encoder_attention_mask": mask, **prompt(), **step(), **sides}


def ltx_audio(views: int, scale: int) -> dict[str, Any]:
    sound = {"audio_hidden_states": noise(1, 9, 4), "audio_encoder_hidden_states": noise(1, TEXT, WIDTH)}
    return {**ltx(views, scale), **sound, "audio_num_frames": 9, "fps": 25.0}


def mochi(views: int, scale: int, batch: int = 1) -> dict[str, Any]:
    return {
        "hidden_states": frames(4, views, scale, batch=batch),
        "encoder_attention_mask": torch.ones(batch, TEXT, dtype=torch.bool),
        **prompt(batch=batch),
        **step(batch),
    }


def mochi_of_two(views: int, scale: int) -> dict[str, Any]:
    mask = torch.cat([torch.ones(1, TEXT, dtype=torch.bool), half_padded()])
    return {**mochi(views, scale, 2), "encoder_attention_mask": mask}


def cosmos(views: int, scale: int) -> dict[str, Any]:
    latents = frames(4, views, scale)
    mask = {"attention_mask": torch.ones(1, TEXT), "padding_mask": torch.zeros(1, 1, *latents.shape[-2:])}
    return {"hidden_states": latents, "fps": 30, **mask, **prompt(), **step()}


def latte(views: int, scale: int) -> dict[str, Any]:
    return {**text_behind(views, scale), "enable_temporal_attentions": True}


def helios(views: int, scale: int) -> dict[str, Any]:
    past = {"short": 1, "mid": 1, "long": 4}
    return {
        **text_behind(views, scale),
        "indices_hidden_states": torch.arange(views)[None],
        **{f"latents_history_{name}": frames(4, count, scale) for name, count in past.items()},
        **{f"indices_latents_history_{name}": torch.arange(count)[None] for name, count in past.items()},
    }


def motif(views: int, scale: int) -> dict[str, Any]:
    return {"hidden_states": frames(33, views, scale, patch=1), **prompt(), **step()}


def kandinsky(views: int, scale: int, rows: int = ROWS, columns: int = COLUMNS) -> dict[str, Any]:
    rows, columns = rows * scale, columns * scale
    return {
        "hidden_states": noise(1, views, 2 * rows, 2 * columns, 4),
        "pooled_projections": noise(1, 8),
        "visual_rope_pos": [torch.arange(views), torch.arange(rows), torch.arange(columns)],
        "text_rope_pos": torch.arange(TEXT),
        **prompt(),
        **step(),
    }


def kandinsky_blocks(views: int, scale: int) -> dict[str, Any]:
    """Blocks of 8 x 8 tokens, each of which attends to a few others."""
    blocks = views * 2 * scale**2
    near = torch.ones(1, 1, blocks, blocks, dtype=torch.bool)
    return {**kandinsky(views, scale, 8, 16), "sparse_params": {"to_fractal": True, "sta_mask": near, "P": 0.9}}


def sparsely(network: nn.Module) -> None:
    """Let self-attention run on flex attention, as its pipeline asks; not by diffusers' method, which sets all."""
    for block in network.visual_transformer_blocks:
        block.self_attention.processor._attention_backend = "flex"


def without_sparsity(network: nn.Module) -> None:
    """Let each self-attention attend to everything, its tokens in blocks all the same."""
    for block in network.visual_transformer_blocks:
        block.self_attention.register_forward_pre_hook(
            lambda _module, args, kwargs: (args, {**kwargs, "sparse_params": None}), with_kwargs=True
        )


def unet_motion(views: int, scale: int) -> dict[str, Any]:
    return {"sample": frames(4, views, scale), **prompt(batch=views), **step()}


def unet_svd(views: int, scale: int) -> dict[str, Any]:
    return {
        "sample": turned(4, views, scale),
        "added_time_ids": torch.tensor([[6, 127, 0.02]]),
        **prompt(tokens=1),
        **step(),
    }


def unet_3d(views: int, scale: int) -> dict[str, Any]:
    return {"sample": frames(4, views, scale), **prompt(), **step()}


def i2vgen(views: int, scale: int) -> dict[str, Any]:
    latents = frames(4, views, scale)
    image = {"image_latents": latents, "image_embeddings": noise(1, WIDTH), "fps": torch.tensor([16])}
    return {"sample": latents, **image, **prompt(), **step()}
