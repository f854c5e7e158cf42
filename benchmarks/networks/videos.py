"""Video networks: a view is a frame of the transformer."""

import torch

from benchmarks.networks import video_parts as parts
from benchmarks.networks.entry import COLUMNS, ROWS, Entry, half_padded
from probe.layers import ViewLayout

JOINT, WITH_TEXT, WITHIN = ("joint",), ("3d", "cross"), ("view", "cross", "temporal")

VIDEOS: dict[str, Entry] = {
    "cogvideox": Entry(
        network="CogVideoXTransformer3DModel", config=parts.COGVIDEOX, inputs=parts.cogvideox, expects=JOINT
    ),
    "cogvideox1.5": Entry(
        network="CogVideoXTransformer3DModel",
        config=parts.COGVIDEOX | parts.ROTARY | {"patch_size_t": 2},
        inputs=parts.cogvideox_pairs,
        expects=JOINT,
        note="a view is two latent frames",
    ),
    "cogvideox-5b": Entry(
        network="CogVideoXTransformer3DModel",
        config=parts.COGVIDEOX | parts.ROTARY,
        inputs=parts.cogvideox_rotary,
        expects=JOINT,
    ),
    "consisid": Entry(
        network="ConsisIDTransformer3DModel",
        config=parts.COGVIDEOX | parts.IDENTITY | {"num_layers": 1},
        inputs=parts.consisid,
        expects=("joint", "unseen"),
    ),
    "wan2.1": Entry(network="WanTransformer3DModel", config=parts.WAN, inputs=parts.text_behind, expects=WITH_TEXT),
    "wan2.2-5b": Entry(
        network="WanTransformer3DModel",
        config=parts.WAN,
        inputs=parts.wan_tokenwise,
        expects=WITH_TEXT,
        note="a time per token",
    ),
    "wan-i2v": Entry(
        network="WanTransformer3DModel", config=parts.WAN | parts.IMAGE, inputs=parts.wan_image, expects=WITH_TEXT
    ),
    "wan-vace": Entry(
        network="WanVACETransformer3DModel",
        config=parts.WAN | {"num_layers": 4, "vace_layers": [0, 2], "vace_in_channels": 12},
        inputs=parts.wan_control,
        expects=WITH_TEXT,
    ),
    "wan-animate": Entry(
        network="WanAnimateTransformer3DModel",
        config=parts.WAN | parts.ANIMATE,
        inputs=lambda views, scale: parts.animated(views, scale, 0),
        expects=WITH_TEXT,
        note="the reference is a view",
    ),
    "wan-animate (reference aside)": Entry(
        network="WanAnimateTransformer3DModel",
        config=parts.WAN | parts.ANIMATE,
        inputs=lambda views, scale: parts.animated(views, scale, 1),
        expects=(),
        note="a reference that is no view has tokens that grow with the grid",
    ),
    "wan-animate (layout said)": Entry(
        network="WanAnimateTransformer3DModel",
        config=parts.WAN | parts.ANIMATE,
        inputs=lambda views, scale: parts.animated(views, scale, 1),
        expects=("joint", "cross"),
        layout=ViewLayout(2, (ROWS, COLUMNS), prefix=ROWS * COLUMNS),
        note="the reference said to be tokens before the views",
    ),
    "skyreels-v2": Entry(
        network="SkyReelsV2Transformer3DModel", config=parts.WAN, inputs=parts.text_behind, expects=WITH_TEXT
    ),
    "skyreels-v2 (causal)": Entry(
        network="SkyReelsV2Transformer3DModel",
        config=parts.WAN | {"num_frame_per_block": 2, "inject_sample_info": True},
        inputs=lambda views, scale: {
            **parts.text_behind(views, scale),
            "timestep": torch.full((1, views), 500),
            "fps": torch.tensor([0]),
            "enable_diffusion_forcing": True,
        },
        expects=WITH_TEXT,
        views=(4, 6),
        note="blocks of two frames see themselves and earlier ones",
    ),
    "chronoedit": Entry(
        network="ChronoEditTransformer3DModel",
        config=parts.WAN | {"rope_temporal_skip_len": 8, "rope_max_seq_len": 64},
        inputs=parts.text_behind,
        expects=WITH_TEXT,
    ),
    "anyflow": Entry(network="AnyFlowTransformer3DModel", config=parts.ANYFLOW, inputs=parts.chunks, expects=WITH_TEXT),
    "anyflow-far": Entry(
        network="AnyFlowFARTransformer3DModel",
        config=parts.ANYFLOW | parts.FAR,
        inputs=lambda views, scale: {**parts.chunks(views, scale), "chunk_partition": [views]},
        expects=(),
        note="flex attention on tokens that are padded to whole blocks of 128",
    ),
    "helios": Entry(
        network="HeliosTransformer3DModel",
        config=parts.HELIOS,
        inputs=parts.helios,
        expects=(),
        note="frames of the past on coarser grids in the sequence",
    ),
    "helios (layout said)": Entry(
        network="HeliosTransformer3DModel",
        config=parts.HELIOS,
        inputs=parts.helios,
        expects=("joint", "cross"),
        layout=ViewLayout(2, (ROWS, COLUMNS), prefix=32),
        note="the past said to be tokens before the views",
    ),
    "helios (no history)": Entry(
        network="HeliosTransformer3DModel", config=parts.HELIOS, inputs=parts.text_behind, expects=WITH_TEXT
    ),
    "hunyuanvideo": Entry(
        network="HunyuanVideoTransformer3DModel", config=parts.HUNYUAN, inputs=parts.hunyuan, expects=("other", "joint")
    ),
    "hunyuanvideo (padded text)": Entry(
        network="HunyuanVideoTransformer3DModel",
        config=parts.HUNYUAN,
        inputs=lambda views, scale: {**parts.hunyuan(views, scale), "encoder_attention_mask": half_padded().float()},
        expects=("other", "joint"),
    ),
    "hunyuanvideo-i2v": Entry(
        network="HunyuanVideoTransformer3DModel",
        config=parts.HUNYUAN | {"in_channels": 9, "image_condition_type": "latent_concat"},
        inputs=lambda views, scale: parts.hunyuan(views, scale, 9),
        expects=("other", "joint"),
    ),
    "hunyuanvideo-framepack": Entry(
        network="HunyuanVideoFramepackTransformer3DModel",
        config=parts.HUNYUAN | parts.FRAMEPACK,
        inputs=parts.framepack,
        expects=(),
        note="frames of the past on coarser grids in the sequence",
    ),
    "hunyuanvideo-framepack (layout said)": Entry(
        network="HunyuanVideoFramepackTransformer3DModel",
        config=parts.HUNYUAN | parts.FRAMEPACK,
        inputs=parts.framepack,
        expects=("other", "joint"),
        layout=ViewLayout(2, (ROWS, COLUMNS), prefix=56, suffix=16),
        note="the past said to be tokens before the views",
    ),
    "hunyuanvideo1.5": Entry(
        network="HunyuanVideo15Transformer3DModel",
        config=parts.HUNYUAN_15,
        inputs=parts.hunyuan_15,
        expects=("other", "joint"),
    ),
    "ltx": Entry(network="LTXVideoTransformer3DModel", config=parts.LTX, inputs=parts.ltx, expects=WITH_TEXT),
    "ltx2": Entry(
        network="LTX2VideoTransformer3DModel",
        config=parts.LTX | parts.AUDIO,
        inputs=parts.ltx_audio,
        expects=("3d", "other", "cross"),
        note="sound attends beside",
    ),
    "mochi": Entry(
        network="MochiTransformer3DModel", config=parts.MOCHI, inputs=parts.mochi, expects=("other", "joint")
    ),
    "mochi (padded text)": Entry(
        network="MochiTransformer3DModel",
        config=parts.MOCHI,
        inputs=lambda views, scale: {**parts.mochi(views, scale), "encoder_attention_mask": half_padded()},
        expects=("other", "joint"),
    ),
    "mochi (two prompts)": Entry(
        network="MochiTransformer3DModel",
        config=parts.MOCHI,
        inputs=parts.mochi_of_two,
        expects=("other", "joint"),
        note="one call per item of the batch",
    ),
    "allegro": Entry(
        network="AllegroTransformer3DModel", config=parts.ALLEGRO, inputs=parts.text_behind, expects=WITH_TEXT
    ),
    "cosmos": Entry(network="CosmosTransformer3DModel", config=parts.COSMOS, inputs=parts.cosmos, expects=WITH_TEXT),
    "easyanimate": Entry(
        network="EasyAnimateTransformer3DModel", config=parts.EASYANIMATE, inputs=parts.text_behind, expects=JOINT
    ),
    "latte": Entry(
        network="LatteTransformer3DModel",
        config=parts.LATTE,
        inputs=parts.latte,
        expects=WITHIN,
        views=(16,),
        note="16 frames always: views=(16,)",
    ),
    "motif-video": Entry(network="MotifVideoTransformer3DModel", config=parts.MOTIF, inputs=parts.motif, expects=JOINT),
    "kandinsky5": Entry(
        network="Kandinsky5Transformer3DModel",
        config=parts.KANDINSKY,
        inputs=parts.kandinsky,
        expects=("other", "3d", "cross"),
    ),
    "kandinsky5 (nabla)": Entry(
        network="Kandinsky5Transformer3DModel",
        config=parts.KANDINSKY,
        inputs=parts.kandinsky_blocks,
        expects=("other", "3d", "cross"),
        prepare=parts.sparsely,
        note="flex attention between blocks of 8 x 8",
    ),
    "kandinsky5 (fractal order)": Entry(
        network="Kandinsky5Transformer3DModel",
        config=parts.KANDINSKY,
        inputs=parts.kandinsky_blocks,
        expects=("other", "3d", "cross"),
        prepare=parts.without_sparsity,
        note="the same order of tokens, every block attended to",
    ),
    "sana-video": Entry(
        network="SanaVideoTransformer3DModel",
        config=parts.SANA_VIDEO,
        inputs=parts.text_behind,
        expects=("unseen", "cross"),
        note="linear attention",
    ),
    "animatediff": Entry(network="UNetMotionModel", config=parts.MOTION, inputs=parts.unet_motion, expects=WITHIN),
    "svd": Entry(network="UNetSpatioTemporalConditionModel", config=parts.SVD, inputs=parts.unet_svd, expects=WITHIN),
    "zeroscope": Entry(
        network="UNet3DConditionModel",
        config=parts.UNET_3D,
        inputs=parts.unet_3d,
        expects=("temporal", "view", "cross"),
    ),
    "i2vgen-xl": Entry(
        network="I2VGenXLUNet", config=parts.UNET_3D, inputs=parts.i2vgen, expects=("temporal", "view", "cross")
    ),
}
