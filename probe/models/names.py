"""What ``--model`` accepts: names with their code, importable without PyTorch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from probe.registry import Choice

WEIGHTS = Path(__file__).parent / "weights"
SHIPPED = {
    "": WEIGHTS / "cat3d-tiny",
    "cameo": WEIGHTS / "cat3d-tiny-cameo",
    "base": WEIGHTS / "cat3d-tiny-base",
    "plain": WEIGHTS / "cat3d-tiny-plain",
    "supervised": WEIGHTS / "cat3d-tiny-supervised",
}
"""The small model by what follows its name: trained plainly and with CAMEO from random weights; on single views; and
from that base, with one seed and 2200 steps each, plainly and with supervised attention."""

MODELS: dict[str, Callable[..., Any]] = {
    "cat3d-tiny": Choice(
        "probe.models.tiny:load_tiny",
        "the shipped small model, trained plainly; cat3d-tiny:cameo is shipped too, trained with CAMEO, and "
        "cat3d-tiny:base, trained on single views, which has seen no other view to match; cat3d-tiny:plain and "
        "cat3d-tiny:supervised go on from it with one seed, 2200 steps each; "
        "cat3d-tiny:random has random weights; cat3d-tiny:FOLDER as the suite saved it",
    ),
    "cat3d": Choice("probe.models.cat3d:load_cat3d", "checkpoints of CAMEO's release; cat3d:random"),
    "sd21": Choice(
        "probe.models.stable_diffusion:load_independent", "Stable Diffusion 1.x or 2.x, each view on its own"
    ),
    "sd21-extended": Choice(
        "probe.models.stable_diffusion:load_extended", "Stable Diffusion with views joined in every self-attention"
    ),
    "mvgenmaster": Choice("probe.models.mvgenmaster:load_mvgenmaster", "MVGenMaster's unpacked archive"),
    "hunyuan-dit": Choice("probe.models.hunyuan_dit:load_hunyuan_dit", "a diffusers folder or hub id of Hunyuan-DiT"),
    "seva": Choice("probe.models.seva:load_seva", "Stable Virtual Camera; needs its package"),
    "mvdream": Choice("probe.models.mvdream:load_mvdream", "MVDream; needs its package"),
    "wan": Choice("probe.models.video.wan:load_wan", "a diffusers folder or hub id of Wan 2.1 or 2.2"),
    "wan-camera": Choice(
        "probe.models.video.wan_camera:load_wan_camera",
        "Wan-Fun-Camera, told rays: its folder or hub id",
    ),
    "recammaster": Choice(
        "probe.models.video.recammaster:load_recammaster",
        "ReCamMaster, told poses and a source video: step20000.ckpt",
    ),
    "cogvideox": Choice("probe.models.video.cogvideox:load_cogvideox", "a diffusers folder or hub id of CogVideoX 1.0"),
    "hunyuan-video": Choice(
        "probe.models.video.hunyuan_video:load_hunyuan_video", "a diffusers folder or hub id of HunyuanVideo"
    ),
    "ltx": Choice("probe.models.video.ltx:load_ltx", "a diffusers folder or hub id of LTX-Video"),
    "diffusers": Choice(
        "probe.models.video.any_pipeline:load_pipeline",
        "diffusers:FOLDER, any pipeline whose network is of a family named here",
    ),
    "vggt": Choice("probe.models.vggt:load_vggt", "VGGT, feed-forward: no noise; needs its package; vggt:random"),
    "da3": Choice("probe.models.da3:load_da3", "Depth Anything 3, likewise; da3:random"),
    "module": Choice("probe.models.custom:load_custom", "a model of your own: module:package.function"),
}
"""From a name to its loader: what follows the name, and a :class:`probe.models.parts.files.Loading`, to a model."""
