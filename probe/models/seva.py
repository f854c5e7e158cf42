"""Stable Virtual Camera (SEVA): a latent U-Net whose middle and upper attentions join the tokens of all views.

Licence, hub id, native size and what is ignored: :mod:`probe.models.about`.
Token grids at the native size: 36, 18 and 9. The network's code comes from the user's installation: ``git clone
https://github.com/Stability-AI/stable-virtual-camera``, then ``pip install -e stable-virtual-camera``. Autoencoder:
that of Stable Diffusion 2.1 (``--base``).

Layers are 32 self-attentions: each of 16 places has one over the image and one over the views at a place. The first
kind joins all views in seven places (12; 14, 16, 18; 20, 22, 24), which are the layers that a probe measures.

Image token: the mean CLIP image embedding of the references. Where no OpenCLIP ViT-H-14 file lies beside the checkpoint
(``open_clip_pytorch_model.bin`` or ``open_clip_model.safetensors``, with the package open_clip installed) it is zeros,
as in the release's unconditional branch; the model's card says which.

Other sizes than the release's are read from a ``params.json`` beside the checkpoint, fields of ``SevaParams``.

Source: docs/references.md, "Stable Virtual Camera"; Stability-AI/stable-virtual-camera
seva/{model,geometry,sampling,eval}.py.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange, reduce, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import attention
from torch.nn import functional as F

from probe.attention.kernels import replaced
from probe.attention.modules import compute_device
from probe.geometry import camera_centre, plucker_rays, resize_intrinsics
from probe.models.model import Inputs
from probe.models.parts.files import (
    META,
    Loading,
    build_of,
    fill,
    find_checkpoint,
    named,
    read_settings,
    read_weights,
    strip_prefixes,
)
from probe.models.parts.installed import SETTINGS, import_first, joined_class, norms_in_float32, own_precision
from probe.models.parts.latents import SD21_BASE, LatentModel, load_vae, stride_of, view_size
from probe.models.schedules import STEPS
from probe.views import Views

HUB = "stabilityai/stable-virtual-camera"
FILES = ("modelv1.1.safetensors", "model.safetensors")
INSTALL = (
    "git clone https://github.com/Stability-AI/stable-virtual-camera and pip install -e stable-virtual-camera, "
    "then run again"
)
PREFIXES = ("module.",)
"""SEVA's own wrapper keeps the network under this name."""
CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
NATIVE = 576
CAMERA_SCALE = 2.0
"""Distance of the first camera from the mean one, in the network's units."""
LOG_SHIFT = 2.4
DEFAULT_LAYER = 20
"""output_blocks.6.1, the place of CAMEO's layer 10 (up_blocks.2.attentions.0)."""
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
CLIP_SIZE = 224
ANY = [attention.SDPBackend.FLASH_ATTENTION, attention.SDPBackend.EFFICIENT_ATTENTION, attention.SDPBackend.MATH]


class SevaNetwork(nn.Module):
    """Call the package's network with views as an axis; its class stands behind this one."""

    params: Any
    native_side: int

    def forward(
        self,
        latents: Float[Tensor, "b f 4 h w"],
        t: Int[Tensor, " b"],
        mask: Float[Tensor, "b f 1 h w"],
        rays: Float[Tensor, "b f 6 h w"],
        context: Float[Tensor, "b 1 c"],
    ) -> Float[Tensor, "b f 4 h w"]:
        """Predict the noise of all views of each scene.

        Args:
            latents: Already scaled (c_in), those of input views too.
            t: Timestep index, one per scene.
            mask: 1 in input views, 0 in those to generate.
            rays: Direction and moment, at latent resolution.
            context: Image token.
        """
        views = latents.shape[1]
        flat = rearrange(torch.cat([latents, mask, rays], dim=2), "b f c h w -> (b f) c h w")
        with own_precision(self), any_backend(self):
            noise = super().forward(
                flat,
                t=repeat(t, "b -> (b f)", f=views),
                y=repeat(context, "b n c -> (b f) n c", f=views),
                dense_y=rearrange(rays, "b f c h w -> (b f) c h w"),
                num_frames=views,
            )
        return rearrange(noise, "(b f) c h w -> b f c h w", f=views).to(latents.dtype)

    def probe_inputs(self, views: int, scale: int | None = None) -> dict[str, Tensor]:
        """Make inputs for recognising layers (:func:`probe.layers.find_layers`).

        Args:
            views: Number of views.
            scale: Side of the deepest level's token grid; None for the size that the views are shown at.
        """
        side = self.native_side if scale is None else scale * deepest(self.params)
        weight, device = next(self.parameters()), compute_device(self)
        shapes = {
            "latents": (1, views, self.params.out_channels, side, side),
            "mask": (1, views, 1, side, side),
            "rays": (1, views, self.params.dense_in_channels, side, side),
            "context": (1, 1, self.params.context_dim),
        }
        made = {name: weight.new_zeros(shape, device=device) for name, shape in shapes.items()}
        return {**made, "t": weight.new_zeros(1, dtype=torch.long, device=device)}


@contextmanager
def any_backend(network: nn.Module) -> Iterator[None]:
    """Let the package's attention fall back where PyTorch's flash kernel rejects (float32 on CUDA, odd shapes).

    The package asks for that kernel alone. Here it stays the first choice, so that nothing changes where it runs.
    """
    own = attention.sdpa_kernel
    with replaced(network, own, lambda *_args, **_kwargs: own(ANY)):
        yield


def deepest(params: Any) -> int:
    """Return the latents per token of the deepest level, along a side."""
    return int(2 ** (len(params.channel_mult) - 1))


def noise_schedule() -> Float[Tensor, " steps"]:
    """Return the share of signal variance at each timestep index: 1 / (1 + sigma^2), sigma being shifted by e^2.4.

    The network's EDM form x + noise * sigma, times c_in = 1 / sqrt(1 + sigma^2), is then the usual
    sqrt(alpha_bar) x + sqrt(1 - alpha_bar) noise; c_out = -sigma makes its output the noise, c_noise is the index.

    Source:
        docs/references.md, "Stable Virtual Camera"; seva/sampling.py (DDPMDiscretization, EpsScaling).
    """
    beta = torch.linspace(5e-6**0.5, 0.012**0.5, STEPS, dtype=torch.float64).square()
    plain = (1 - beta).cumprod(0)
    variance = (1 - plain) / plain * torch.exp(torch.tensor(2 * LOG_SHIFT, dtype=torch.float64))
    return (1 / (1 + variance)).float()


def camera_rays(
    intrinsics: Float[Tensor, "b f 3 3"],
    world_to_cam: Float[Tensor, "b f 4 4"],
    size: tuple[int, int],
    grid: tuple[int, int],
) -> Float[Tensor, "b f 6 h w"]:
    """Return directions and moments (o x d) in the first camera's frame, through the centres of the latents.

    Lengths are scaled so that the first camera stands 2 units from the mean one; where it stands there already, by 2.

    Args:
        intrinsics: In pixels of ``size``.
        world_to_cam: OpenCV axes.
        size: (height, width) of the images in pixels.
        grid: Rows and columns of the latents.

    Source:
        docs/references.md, "Stable Virtual Camera"; seva/geometry.py (get_plucker_coordinates), seva/eval.py (scaling).
    """
    rays = plucker_rays(resize_intrinsics(intrinsics, size, grid), world_to_cam, grid)
    centres = camera_centre(world_to_cam)
    first = torch.linalg.vector_norm(centres[:, 0] - reduce(centres, "b f xyz -> b xyz", "mean"), dim=-1)
    factor = torch.where(first < 1e-5, CAMERA_SCALE, CAMERA_SCALE / first)
    return torch.cat([rays[:, :, :3], rays[:, :, 3:] * rearrange(factor, "b -> b 1 1 1 1")], dim=2)


@dataclass(frozen=True, kw_only=True)
class SevaModel(LatentModel):
    """The model: mask 1 for input views, rays at latent resolution, one image token.

    Attributes:
        clip: Gives the image embedding of pictures; None for a token of zeros.
    """

    clip: nn.Module | None = None

    def condition(self, views: Views, keep_cameras: Float[Tensor, " b"] | None = None) -> Inputs:
        """Return mask, rays and image token.

        Args:
            views: The views, at the size the network sees.
            keep_cameras: 0 gives a scene what the release's unconditional branch sees: no mask, no image token, its
                rays.
        """
        height, width = (length // self.stride for length in views.size)
        rays = camera_rays(views.intrinsics, views.world_to_cam, views.size, (height, width))
        mask = torch.zeros_like(rays[:, :, :1])
        mask[:, : views.n_ref] = 1
        context = self._image_token(views)
        if keep_cameras is not None:
            mask = mask * rearrange(keep_cameras, "b -> b 1 1 1 1")
            context = context * rearrange(keep_cameras, "b -> b 1 1")
        return {"mask": mask, "rays": rays, "context": context}

    @torch.no_grad()
    def _image_token(self, views: Views) -> Float[Tensor, "b 1 c"]:
        if self.clip is None or views.n_ref == 0:
            params: Any = self.network.params
            return views.image.new_zeros(len(views.image), 1, params.context_dim)
        pictures = rearrange(views.image[:, : views.n_ref], "b f c height width -> (b f) c height width")
        return reduce(self.clip(pictures), "(b f) c -> b 1 c", "mean", f=views.n_ref).to(views.image.dtype)

    def denoise(
        self, latents: Float[Tensor, "b f c h w"], t: Int[Tensor, " b"], inputs: Inputs
    ) -> Float[Tensor, "b f c h w"]:
        """Call the network; the clean latents of input views are scaled by c_in = sqrt(alpha_bar), as noisy ones are.

        The release puts them in the place of noisy latents and scales all alike (seva/sampling.py, DiscreteDenoiser).
        """
        scale = rearrange(self.alpha_bar.to(latents)[t].sqrt(), "b -> b 1 1 1 1")
        inputs_mask = inputs["mask"].to(latents)
        return self.network(latents * (1 - inputs_mask + inputs_mask * scale), t, **inputs)

    def fresh(self, seed: int) -> nn.Module:
        """Return the same network with random weights, drawn by a seed without touching the caller's random state."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return build(self.network.params, self.network.native_side)  # type: ignore[arg-type]


class ClipImages(nn.Module):
    """Embed pictures with an OpenCLIP model, as the release does.

    Args:
        model: Has ``encode_image``.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Float[Tensor, "n 3 height width"]) -> Float[Tensor, "n c"]:
        """Embed colours in [0, 1]."""
        small = F.interpolate(image, (CLIP_SIZE, CLIP_SIZE), mode="bicubic", align_corners=True, antialias=True)
        mean, std = (rearrange(image.new_tensor(x), "c -> 1 c 1 1") for x in (CLIP_MEAN, CLIP_STD))
        return self.model.encode_image((small - mean) / std)  # type: ignore[operator]


def load_clip(folder: Path, loading: Loading) -> tuple[ClipImages | None, str]:
    """Load OpenCLIP's ViT-H-14 where its file lies in a folder, and say what the image token is.

    Raises:
        ValueError: If the file is there and the package open_clip is not.
    """
    path = next((folder / name for name in CLIP_FILES if (folder / name).is_file()), None)
    if path is None or loading.outline:
        return None, f"zeros: no OpenCLIP file ({' or '.join(CLIP_FILES)}) beside the checkpoint"
    package = import_first(["open_clip"], install=f"pip install open_clip_torch, or move {path.name} away for zeros")
    model = package.create_model("ViT-H-14", pretrained=str(path))
    return ClipImages(model).eval().requires_grad_(False), f"mean OpenCLIP embedding of the references ({path.name})"


def build(params: Any, native_side: int) -> nn.Module:
    """Build the network of the user's package.

    Args:
        params: Its ``SevaParams``.
        native_side: Latents along a side, of the views it is used on.

    Raises:
        ValueError: If the package is not installed.
    """
    network = joined_class(SevaNetwork, import_first(["seva.model"], install=INSTALL).Seva)(params)
    network.native_side = native_side  # type: ignore[assignment]
    norms_in_float32(network)
    return network.eval().requires_grad_(False)


def load_seva(source: str, loading: Loading) -> SevaModel:
    """Load the release's weights into the network of the user's package.

    Args:
        source: A file, folder or hub id; empty for the release's hub id.
        loading: Where the autoencoder comes from, and the size of the views.

    Raises:
        ValueError: If the package or the weights are missing, or do not fit.
    """
    package = import_first(["seva.model"], install=INSTALL)
    path = find_checkpoint(source or HUB, FILES)
    params = _params(package, path.parent / SETTINGS)
    vae = load_vae(loading.base or SD21_BASE, loading.device)
    size = view_size(loading, NATIVE, multiple=stride_of(vae) * deepest(params))
    with META:
        network = build_of(f"load_seva: {path.parent / SETTINGS}", lambda: build(params, size // stride_of(vae)))
    weights = strip_prefixes(read_weights(path, loading.device), PREFIXES)
    fill(network, weights, origin=f"load_seva: {path}", assign=True)
    clip, note = load_clip(path.parent, loading)
    return SevaModel(
        name=named("seva", source),
        network=network.requires_grad_(False),
        alpha_bar=noise_schedule(),
        size=size,
        channels=params.out_channels,
        stride=stride_of(vae),
        prediction="epsilon",
        default_layer=DEFAULT_LAYER,
        card={"weights": path.name, "image token": note},
        folder=path.parent,
        vae=vae,
        clip=clip,
    )


def _params(package: Any, path: Path) -> Any:
    settings = read_settings(path)
    return build_of(f"load_seva: {path}", lambda: package.SevaParams(**settings))
