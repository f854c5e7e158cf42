"""MVDream: Stable Diffusion 2.1's U-Net of which all 16 self-attentions join four views on an orbit around an object.

Licence, hub id, native size and what is ignored: :mod:`probe.models.about`.
Token grids at the native size: 32, 16, 8 and 4. The network's code comes from the user's installation: ``pip install
git+https://github.com/bytedance/MVDream``, or the port's ``mv_unet.py`` (ashawkey/mvdream_diffusers, with kiui and
xformers) on PYTHONPATH. Its attention is that of xformers, which :mod:`probe.attention.kernels` sees; it needs CUDA;
without xformers MVDream's own explicit softmax is replaced, in this process only, by PyTorch's fused attention, which
computes the same and runs anywhere.

All views enter noised: the model knows no input views. Its cameras lie on a sphere around an object: the suite's are
moved there (:func:`orbit_cameras`), so that scenes which cameras do not surround are out of its domain.
Text is the empty prompt, encoded by ``text_encoder/`` and ``tokenizer/`` beside the weights or in ``--base``, or zeros;
the model's card says which. The autoencoder is that of ``--base``, else the checkpoint's own, else SD 2.1's.

Other sizes than the release's are read from ``params.json`` beside a ``.pt``, or from the port's ``config.json``.

Source: docs/references.md, "MVDream"; bytedance/MVDream mvdream/{camera_utils.py,configs/sd-v2-base.yaml}.
"""

from dataclasses import dataclass
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from diffusers import AutoencoderKL
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from einops import einsum, rearrange, reduce, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from probe.attention.modules import compute_device
from probe.geometry import invert_rigid
from probe.models.model import Inputs
from probe.models.parts.files import (
    META,
    Loading,
    Weights,
    build_of,
    fill,
    find_checkpoint,
    named,
    read_settings,
    read_weights,
    strip_prefixes,
)
from probe.models.parts.installed import SETTINGS, import_first, joined_class, norms_in_float32, own_precision
from probe.models.parts.latents import SD21_BASE, SD_AUTOENCODER, LatentModel, load_vae, stride_of, view_size
from probe.models.schedules import STEPS
from probe.models.stable_diffusion import prompt_of
from probe.views import Views

HUB = "MVDream/MVDream"
PORT = "unet/diffusion_pytorch_model.safetensors"
FILES = ("sd-v2.1-base-4view.pt", PORT, PORT.removeprefix("unet/"))
BESIDE = ("unet/config.json", "vae/*", "text_encoder/*", "tokenizer/*")
PACKAGES = ("mvdream.ldm.modules.diffusionmodules.openaimodel", "mv_unet")
INSTALL = (
    "pip install git+https://github.com/bytedance/MVDream, or put mv_unet.py of ashawkey/mvdream_diffusers on "
    "PYTHONPATH, then run again"
)
PREFIX, AUTOENCODER = "model.diffusion_model.", "first_stage_model."
OTHERS = (
    AUTOENCODER, "cond_stage_model.", "betas", "alphas_cumprod", "sqrt_", "log_one_minus_", "posterior_",
)  # fmt: skip
"""What the release's file holds beside the network: autoencoder, text encoder, tables of the schedule."""
NATIVE = 256
RELEASE: dict[str, Any] = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "attention_resolutions": [4, 2, 1],
    "num_res_blocks": 2,
    "channel_mult": [1, 2, 4, 4],
    "num_head_channels": 64,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": True,
    "transformer_depth": 1,
    "context_dim": 1024,
    "use_checkpoint": False,
    "legacy": False,
    "camera_dim": 16,
}
"""Settings of the release (mvdream/configs/sd-v2-base.yaml)."""
EXPLICIT = "CrossAttention"
"""Class of the package's attention where xformers is not installed."""
UP = 1e-6  # weight of the mean up direction where the cameras' horizons leave it open


class MVDreamNetwork(nn.Module):
    """Call the package's network with views as an axis; its class stands behind this one."""

    settings: dict[str, Any]
    native_side: int

    def forward(
        self,
        latents: Float[Tensor, "b f 4 h w"],
        t: Int[Tensor, " b"],
        cameras: Float[Tensor, "b f 16"],
        context: Float[Tensor, "b n c"],
    ) -> Float[Tensor, "b f 4 h w"]:
        """Predict the noise of all views of each scene.

        Args:
            latents: Noisy, all views.
            t: Timestep index, one per scene.
            cameras: Flattened cam-to-world on the unit sphere, Blender axes.
            context: Text embedding.
        """
        views = latents.shape[1]
        with own_precision(self):
            noise = super().forward(
                rearrange(latents, "b f c h w -> (b f) c h w"),
                timesteps=repeat(t, "b -> (b f)", f=views),
                context=repeat(context, "b n c -> (b f) n c", f=views),
                camera=rearrange(cameras, "b f c -> (b f) c"),
                num_frames=views,
            )
        return rearrange(noise, "(b f) c h w -> b f c h w", f=views).to(latents.dtype)

    def probe_inputs(self, views: int, scale: int | None = None) -> dict[str, Tensor]:
        """Make inputs for recognising layers (:func:`probe.layers.find_layers`).

        Args:
            views: Number of views.
            scale: Side of the deepest level's token grid; None for the size that the views are shown at.
        """
        side = self.native_side if scale is None else scale * deepest(self.settings)
        weight, device = next(self.parameters()), compute_device(self)
        shapes = {
            "latents": (1, views, self.settings["in_channels"], side, side),
            "cameras": (1, views, self.settings["camera_dim"]),
            "context": (1, 77, self.settings["context_dim"]),
        }
        made = {name: weight.new_zeros(shape, device=device) for name, shape in shapes.items()}
        return {**made, "t": weight.new_zeros(1, dtype=torch.long, device=device)}


def deepest(settings: dict[str, Any]) -> int:
    """Return the latents per token of the deepest level, along a side."""
    return int(2 ** (len(settings["channel_mult"]) - 1))


def noise_schedule() -> Float[Tensor, " steps"]:
    """Return the share of signal variance at each timestep index: betas from 0.00085 to 0.012, linear in their roots.

    Source:
        docs/references.md, "MVDream"; mvdream/configs/sd-v2-base.yaml.
    """
    beta = torch.linspace(0.00085**0.5, 0.012**0.5, STEPS, dtype=torch.float64).square()
    return (1 - beta).cumprod(0).float()


def orbit_cameras(world_to_cam: Float[Tensor, "b f 4 4"]) -> Float[Tensor, "b f 4 4"]:
    """Move cameras to the unit sphere around what they look at, with Blender's axes.

    The origin is the point nearest to all optical axes; z points up, at right angles to the cameras' own horizons; the
    first camera stands at azimuth 0 (on the -y side); each camera's distance is set to 1.

    Args:
        world_to_cam: OpenCV axes, any world.

    Returns:
        cam-to-world, whose camera axes are x right, y up, z back.

    Source:
        docs/references.md, "MVDream"; mvdream/camera_utils.py (get_camera, normalize_camera).
    """
    cam_to_world = invert_rigid(world_to_cam.double())
    axes, centre = cam_to_world[..., :3, :3], cam_to_world[..., :3, 3]
    right, up, back = axes[..., 0], -axes[..., 1], -axes[..., 2]
    relative = centre - _nearest_point(centre, back)[:, None]
    frame = _frame(_upright(right, up), relative[:, 0])
    rotation = einsum(frame, torch.stack([right, up, back], dim=-1), "b i j, b f j k -> b f i k")
    place = F.normalize(einsum(frame, relative, "b i j, b f j -> b f i"), dim=-1)
    pose = torch.zeros_like(cam_to_world)
    pose[..., :3, :3], pose[..., :3, 3], pose[..., 3, 3] = rotation, place, 1
    return pose.to(world_to_cam.dtype)


def _nearest_point(centre: Float[Tensor, "b f 3"], axis: Float[Tensor, "b f 3"]) -> Float[Tensor, "b 3"]:
    """Return the point nearest to all lines, by least squares; of several, that nearest to the mean centre."""
    across = torch.eye(3, dtype=axis.dtype, device=axis.device) - einsum(axis, axis, "b f i, b f j -> b f i j")
    mean = reduce(centre, "b f xyz -> b xyz", "mean")
    offset = einsum(across, centre - mean[:, None], "b f i j, b f j -> b i")
    return mean + einsum(torch.linalg.pinv(across.sum(1), rtol=1e-9), offset, "b i j, b j -> b i")


def _upright(right: Float[Tensor, "b f 3"], up: Float[Tensor, "b f 3"]) -> Float[Tensor, "b 3"]:
    """Return the direction at right angles to all horizons, on the side of the mean up."""
    mean = reduce(up, "b f xyz -> b xyz", "mean")
    horizons = einsum(right, right, "b f i, b f j -> b i j") / right.shape[1]
    axis = torch.linalg.eigh(horizons - UP * einsum(mean, mean, "b i, b j -> b i j")).eigenvectors[..., 0]
    return axis * torch.where(einsum(axis, mean, "b i, b i -> b") < 0, -1, 1)[:, None]


def _frame(up: Float[Tensor, "b 3"], first: Float[Tensor, "b 3"]) -> Float[Tensor, "b 3 3"]:
    """Return rows x, y, z of a world with z up, whose -y side holds the first camera."""
    level = first - up * einsum(first, up, "b i, b i -> b")[:, None]
    y = -F.normalize(level, dim=-1)
    return torch.stack([torch.linalg.cross(y, up), y, up], dim=1)


@dataclass(frozen=True, kw_only=True)
class MVDreamModel(LatentModel):
    """The model: all views noised, cameras as numbers, an empty prompt.

    Attributes:
        text: Embedding of the empty prompt.
    """

    text: Float[Tensor, "n c"]
    clean_references: bool = False

    def condition(self, views: Views, keep_cameras: Float[Tensor, " b"] | None = None) -> Inputs:
        """Return cameras and text; blanked cameras are zeros, as for the views of ImageDream that have none."""
        cameras = rearrange(orbit_cameras(views.world_to_cam), "b f row column -> b f (row column)")
        if keep_cameras is not None:
            cameras = cameras * rearrange(keep_cameras, "b -> b 1 1")
        return {"cameras": cameras, "context": repeat(self.text, "n c -> b n c", b=len(cameras))}

    def fresh(self, seed: int) -> nn.Module:
        """Return the same network with random weights, drawn by a seed without touching the caller's random state."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return build(self.network.settings, self.network.native_side)  # type: ignore[arg-type]


def build(settings: dict[str, Any], native_side: int) -> nn.Module:
    """Build the network of the user's package.

    Args:
        settings: Arguments of its class.
        native_side: Latents along a side, of the views it is used on.

    Raises:
        ValueError: If no package is installed.
    """
    package = import_first(PACKAGES, install=INSTALL)
    network = joined_class(MVDreamNetwork, package.MultiViewUNetModel)(**settings)
    network.settings, network.native_side = settings, native_side  # type: ignore[assignment]
    norms_in_float32(network)
    for module in network.modules():
        if type(module).__name__ == EXPLICIT:
            module.forward = MethodType(fused_attention, module)
    return network.eval().requires_grad_(False)


def fused_attention(
    module: nn.Module, x: Float[Tensor, "b n c"], context: Tensor | None = None, mask: None = None
) -> Float[Tensor, "b n c"]:
    """Attend as the package's explicit softmax does, by PyTorch's fused attention, which taps see.

    Args:
        module: Holds to_q, to_k, to_v, to_out and heads.
        x: Tokens.
        context: Where keys come from; None for the tokens themselves.
        mask: Not used by the package.
    """
    parts: Any = module
    other = x if context is None else context
    q, k, v = (
        rearrange(projected, "b n (heads d) -> b heads n d", heads=parts.heads)
        for projected in (parts.to_q(x), parts.to_k(other), parts.to_v(other))
    )
    return parts.to_out(rearrange(F.scaled_dot_product_attention(q, k, v), "b heads n d -> b n (heads d)"))


def load_mvdream(source: str, loading: Loading) -> MVDreamModel:
    """Load weights of the release, or of the diffusers port, into the network of the user's package.

    Args:
        source: A file, folder or hub id; empty for the release's hub id.
        loading: Where the autoencoder comes from, and the size of the views.

    Raises:
        ValueError: If the package or the weights are missing, do not fit, or are ImageDream's.
    """
    import_first(PACKAGES, install=INSTALL)
    path = find_checkpoint(source or HUB, FILES, patterns=BESIDE)
    settings, folder = _settings(path), path.parent.parent if path.parent.name == "unet" else path.parent
    weights = read_weights(path, loading.device)
    vae, origin = _autoencoder(weights, folder, loading)
    size = view_size(loading, NATIVE, multiple=stride_of(vae) * deepest(settings))
    with META:
        network = build_of(f"load_mvdream: {path}", lambda: build(settings, size // stride_of(vae)))
    own = strip_prefixes(weights, (PREFIX,), others=OTHERS)
    fill(network, own, origin=f"load_mvdream: {path}", assign=True)
    text, note = _prompt(folder, settings["context_dim"], loading)
    return MVDreamModel(
        name=named("mvdream", source),
        network=network.requires_grad_(False),
        alpha_bar=noise_schedule(),
        size=size,
        channels=settings["out_channels"],
        stride=stride_of(vae),
        prediction="epsilon",
        card={"weights": path.name, "prompt": note, "autoencoder": origin, "views": "trained on 4, all noised"},
        folder=folder,
        vae=vae,
        text=text,
    )


def _settings(path: Path) -> dict[str, Any]:
    """Take the release's settings, and what a file beside the weights says of them."""
    stored = read_settings(path.with_name("config.json")) | read_settings(path.with_name(SETTINGS))
    if stored.get("ip_dim"):
        raise ValueError(f"load_mvdream: {path.parent} is ImageDream, which needs an image prompt; give MVDream's")
    return RELEASE | {name: value for name, value in stored.items() if name in RELEASE}


def _prompt(folder: Path, width: int, loading: Loading) -> tuple[Float[Tensor, "n c"], str]:
    """Encode the empty prompt beside the weights, or in the base's folder, whose text encoder is the same."""
    base = Path(loading.base).expanduser() if loading.base else folder
    return prompt_of(folder if (folder / "text_encoder").is_dir() else base, width, loading)


def _autoencoder(weights: Weights, folder: Path, loading: Loading) -> tuple[AutoencoderKL, str]:
    """Choose the autoencoder, and say which it is."""
    if loading.base is not None:
        return load_vae(loading.base, loading.device), loading.base
    own = {name: weight for name, weight in weights.items() if name.startswith(AUTOENCODER)}
    if own:
        made = build_of("load_mvdream: the checkpoint's autoencoder", lambda: convert_autoencoder(own))
        return made.eval().requires_grad_(False), "the checkpoint's own"
    base = str(folder) if (folder / "vae").is_dir() else SD21_BASE
    return load_vae(base, loading.device), base


def convert_autoencoder(weights: Weights) -> AutoencoderKL:
    """Turn the autoencoder of a latent diffusion file into diffusers', by diffusers' own table of names.

    Args:
        weights: Those that begin with ``first_stage_model.``.

    Raises:
        ValueError: If they are not those of Stable Diffusion's kind of autoencoder.
    """
    levels = {name.split(".")[3] for name in weights if name.startswith(f"{AUTOENCODER}encoder.down.")}
    blocks = [name for name in weights if name.startswith(f"{AUTOENCODER}encoder.down.0.block.")]
    widths = tuple(
        weights[f"{AUTOENCODER}encoder.down.{level}.block.0.conv2.weight"].shape[0] for level in sorted(levels)
    )
    config = SD_AUTOENCODER | {
        "block_out_channels": widths,
        "down_block_types": ("DownEncoderBlock2D",) * len(widths),
        "up_block_types": ("UpDecoderBlock2D",) * len(widths),
        "layers_per_block": len({name.split(".")[5] for name in blocks}),
    }
    with torch.device("meta"):
        vae = AutoencoderKL(**config)
    fill(vae, convert_ldm_vae_checkpoint(weights, config), origin="convert_autoencoder", assign=True)
    return vae
