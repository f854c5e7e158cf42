"""One denoising step of a multi-view model: what it is conditioned on, what it predicts."""

import inspect
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import cpu_offload
from diffusers.configuration_utils import ConfigMixin
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from probe.geometry import full_precision, plucker_rays
from probe.layers import Layer, find_layers
from probe.models.schedules import Prediction, Spacing, add_noise, noise_scales, velocity
from probe.views import Views

OTHERS = 2  # index of the domain "others"
WHOLE = ("MultiheadAttention", "HunyuanDiTAttentionPool")
"""Modules that use their parts' weights without calling the parts: brought to the device as a whole."""


Inputs = dict[str, Tensor]
"""Conditioning: what a network gets of a batch besides latents and time."""


@dataclass(frozen=True, kw_only=True)
class MultiViewModel:
    """A denoiser with what its inputs need. A model of your own overrides those of six methods that differ.

    encode, decode (images to latents and back), condition (cameras and masks), denoise (call the network), probe_inputs
    (small inputs, to recognise layers by) and fresh (random weights). Their defaults are those of a pixel-space network
    called as ``network(latents, t, inputs, domain)``, with mask and rays as inputs.

    Attributes:
        name: As given on the command line.
        network: The denoiser.
        alpha_bar: Share of signal variance left at each timestep index.
        size: Side of the images the network sees, in pixels.
        channels: Of the latents.
        stride: Pixels per latent, along a side.
        prediction: What the network predicts: v, the noise ("epsilon"), or noise - clean ("flow"), whose noise is
            added along the straight path of flow matching; alpha_bar then is :func:`flow_alpha_bar` of its sigmas;
            "none" for one that takes clean images and draws none: it is probed at timestep 0 of an ``alpha_bar`` of 1,
            and not sampled, trained or edited.
        spacing: Which timesteps a sampler visits: trailing ones begin at pure noise; leading ones, of CAMEO's release,
            end at 1 and begin just below it.
        clean_references: Whether references enter without noise; else all views are noised alike.
        default_layer: Index of the layer that training supervises by default.
        default_layers: Which layers are scored by default, as the command line names them.
        ray_scale: World units that make one unit of the rays' moment.
        explicit: Whether attention that the network writes as a softmax of a product is read
            (:func:`probe.layers.find_layers`).
        packs: Frames that its autoencoder packs into one latent frame, behind the first; 1 for models of images.
        card: What is known of the weights (data, steps, seed, ...).
        folder: Where the weights lie; None for random ones.
    """

    name: str
    network: nn.Module
    alpha_bar: Float[Tensor, " steps"]
    size: int
    channels: int = 3
    stride: int = 1
    prediction: Prediction = "v_prediction"
    spacing: Spacing = "trailing"
    clean_references: bool = True
    default_layer: int = 10
    default_layers: str = "3d"
    ray_scale: float = 2.0
    explicit: bool = False
    packs: int = 1
    card: dict[str, object] | None = None
    folder: Path | None = None

    def encode(self, image: Float[Tensor, "b f 3 H W"]) -> Float[Tensor, "b f c h w"]:
        """Turn colours in [0, 1] into latents."""
        return to_latents(image)

    def encode_views(self, views: Views) -> Float[Tensor, "b f c h w"]:
        """Turn views into latents: each image alone, or with the frames of its clip where the views have one.

        Raises:
            ValueError: If the views are frames of a clip that the model cannot take.
        """
        check_frames(self, views.frames_per_view)
        return self.encode(views.image)

    def decode(self, latents: Float[Tensor, "b f c h w"]) -> Float[Tensor, "b f 3 H W"]:
        """Turn latents into colours in [0, 1]."""
        return ((latents + 1) / 2).clamp(0, 1)

    def condition(self, views: Views, keep_cameras: Float[Tensor, " b"] | None = None) -> Inputs:
        """Return the conditioning inputs (cameras, reference mask), in the network's own conventions.

        Args:
            views: The views, at the size the network sees.
            keep_cameras: 1 keeps a scene's cameras, 0 blanks them (guidance); None keeps all.
        """
        inputs = condition(views, ray_scale=self.ray_scale, keep_cameras=keep_cameras)
        domain = torch.full((len(inputs),), OTHERS, dtype=torch.long, device=inputs.device)
        return {"inputs": inputs, "domain": domain}

    def denoise(
        self, latents: Float[Tensor, "b f c h w"], t: Int[Tensor, " b"], inputs: Inputs
    ) -> Float[Tensor, "b f c h w"]:
        """Call the network on latents at timestep index ``t``, with what :meth:`condition` gave."""
        return self.network(latents, t, **inputs)

    def probe_inputs(self, views: int, scale: int | None = None) -> dict[str, Tensor]:
        """Make keyword arguments of the network's forward, to recognise layers by (:func:`probe.layers.find_layers`).

        Args:
            views: Number of views.
            scale: Side of the smallest token grid; None for the native size.
        """
        return self.network.probe_inputs(views, scale)  # type: ignore[operator]

    def fresh(self, seed: int) -> nn.Module:
        """Return the same network with random weights, drawn by a seed without touching the caller's random state.

        Raises:
            ValueError: If the network is not of diffusers' kind, which can be built again from its configuration.
        """
        if not isinstance(self.network, ConfigMixin):
            raise ValueError(
                f"{self.name}: {type(self.network).__name__} cannot be built again with random weights; "
                "override fresh(seed), or leave the baseline random out"
            )
        # from_config would warn of what a base class has added to the configuration
        own = inspect.signature(type(self.network).__init__).parameters.keys() & self.network.config.keys()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return type(self.network)(**{name: self.network.config[name] for name in own})

    def latent_shape(self, scenes: int, views: int) -> tuple[int, int, int, int, int]:
        """Return the shape of the latents, and so of the noise, of a batch."""
        side = self.size // self.stride
        return scenes, views, self.channels, side, side

    def clean_views(self, views: Views) -> int:
        """Count the views, from the first, that enter without noise."""
        return views.n_ref if self.clean_references else 0


ModelKind = TypeVar("ModelKind", bound=MultiViewModel)


def model_layers(model: MultiViewModel) -> list[Layer]:
    """Find the attention calls of a model's network, with the grids of the size it is used at."""
    return find_layers(model.network, model.probe_inputs, native=True, explicit=model.explicit)


def check_predicts(model: MultiViewModel, asked: str) -> None:
    """Reject what only a model that predicts images can do.

    Args:
        model: The model.
        asked: What was asked for, for the message.

    Raises:
        ValueError: If the model predicts none.
    """
    if model.prediction == "none":
        raise ValueError(
            f"{model.name} takes no noise and predicts no image, which {asked}; it can be probed only (python -m "
            "probe.run), or choose a diffusion model"
        )


def check_frames(model: MultiViewModel, frames: int) -> None:
    """Reject views of another number of frames than the model's latent frames.

    Raises:
        ValueError: If they are neither images nor groups of as many frames as the autoencoder packs.
    """
    if frames not in (1, model.packs):
        packed = f"packs {model.packs} frames into one latent frame" if model.packs > 1 else "takes images alone"
        raise ValueError(
            f"{model.name} {packed}, and each view has {frames} frames; choose --frames-per-view "
            f"{' or '.join(map(str, sorted({1, model.packs})))}, or a model that packs {frames}"
        )


def to_device(
    model: ModelKind, device: torch.device, dtype: torch.dtype | None = None, *, offload: bool = False
) -> ModelKind:
    """Move a model to a device: its network in a precision, its other modules and tensors in their own.

    Args:
        model: The model.
        device: Where it computes.
        dtype: Of the network; None leaves its own.
        offload: Keep the weights in the CPU's memory, and bring those of a module to the device when it is called.
    """
    weights_on = torch.device("cpu") if offload else device
    moved: dict[str, object] = {}
    for field in fields(model):
        value = getattr(model, field.name)
        if isinstance(value, nn.Module):
            # diffusers' own method warns of modules to keep in float32, even of none
            moved[field.name] = nn.Module.to(value, weights_on, dtype if field.name == "network" else None)
            if offload:
                cpu_offload(value, device, preload_module_classes=list(WHOLE))
        elif isinstance(value, Tensor):
            moved[field.name] = value.to(device)
    return replace(model, **moved)  # type: ignore[arg-type]


def condition(
    views: Views, *, ray_scale: float, keep_cameras: Float[Tensor, " b"] | None = None
) -> Float[Tensor, "b f 7 h w"]:
    """Return mask (0 reference, 1 target), ray directions and moments at image resolution.

    Args:
        views: The views, at the size the network sees.
        ray_scale: World units that make one unit of the rays' moment.
        keep_cameras: 1 keeps a scene's rays, 0 blanks them (guidance); None keeps all.
    """
    rays = plucker_rays(views.intrinsics, views.world_to_cam, views.size, scale=ray_scale)
    if keep_cameras is not None:
        rays = rays * rearrange(keep_cameras, "b -> b 1 1 1 1")
    mask = torch.ones_like(rays[:, :, :1])
    mask[:, : views.n_ref] = 0
    return torch.cat([mask, rays], dim=2)


def to_latents(image: Float[Tensor, "b f 3 h w"]) -> Float[Tensor, "b f 3 h w"]:
    """Map colours in [0, 1] to [-1, 1]: the pixel-space model's latents."""
    return image * 2 - 1


def prediction_target(
    model: MultiViewModel,
    clean: Float[Tensor, "b f c h w"],
    noise: Float[Tensor, "b f c h w"],
    alpha_bar: Float[Tensor, " b"],
) -> Float[Tensor, "b f c h w"]:
    """Return what the network should predict: v, the noise, or noise - clean.

    Raises:
        ValueError: If it predicts no image.
    """
    check_predicts(model, "training needs")
    if model.prediction == "flow":
        return noise - clean
    return velocity(clean, noise, alpha_bar) if model.prediction == "v_prediction" else noise


def conditioning(model: MultiViewModel, views: Views, keep_cameras: Float[Tensor, " b"] | None = None) -> Inputs:
    """Return the conditioning of a model's network, in the views' precision, under autocast too.

    Raises:
        ValueError: If the views have no cameras and the model is conditioned on them.
    """
    with full_precision(views.image):
        inputs = model.condition(views, keep_cameras)
        if not views.has_cameras and _depends_on_cameras(model, views):
            raise ValueError(
                f"{model.name} is conditioned on cameras, which {', '.join(views.names)} has not; choose a model that "
                "takes none (sd21, sd21-extended), or scenes with cameras"
            )
    return inputs


def _depends_on_cameras(model: MultiViewModel, views: Views) -> bool:
    """Return whether other cameras, elsewhere and turned, would change the conditioning."""
    steps = torch.linspace(0.1, 0.9, views.count, device=views.image.device)
    moved = views.world_to_cam.clone()
    moved[..., 0, 0], moved[..., 0, 2], moved[..., 2, 0], moved[..., 2, 2] = (
        steps.cos(), steps.sin(), -steps.sin(), steps.cos(),
    )  # fmt: skip
    moved[..., :3, 3] = steps[:, None]
    inputs = model.condition(replace(views, clip=None))
    others = model.condition(replace(views, world_to_cam=moved, clip=None))
    return any(not torch.equal(inputs[name], others[name]) for name in inputs if inputs[name].device.type != "meta")


def predicted_clean(
    model: MultiViewModel,
    latents: Float[Tensor, "b f c h w"],
    predicted: Float[Tensor, "b f c h w"],
    alpha_bar: Float[Tensor, " b"],
) -> Float[Tensor, "b f c h w"]:
    """Return the clean latents that a prediction at noisy latents stands for.

    Returns:
        Of views that entered with noise; meaningless for clean ones. NaN or infinite for the noise at alpha_bar 0.

    Raises:
        ValueError: If the model predicts no image.
    """
    check_predicts(model, "sampling and the effect of edits need")
    scales = noise_scales(rearrange(alpha_bar, "b -> b 1 1 1 1"), model.prediction)
    signal, noise = (scale.to(latents) for scale in scales)
    if model.prediction == "flow":
        return latents - noise * predicted
    if model.prediction == "v_prediction":
        return signal * latents - noise * predicted
    return (latents - noise * predicted) / signal


def noised(
    model: MultiViewModel,
    views: Views,
    clean: Float[Tensor, "b f c h w"],
    noise: Float[Tensor, "b f c h w"],
    t: Int[Tensor, " b"],
) -> Float[Tensor, "b f c h w"]:
    """Return the latents that enter the network at timestep index ``t``: noised views, and clean references."""
    level = model.alpha_bar[t.to(model.alpha_bar.device)].to(noise.device)
    return add_noise(clean, noise, level, model.clean_views(views), model.prediction)


def predict(
    model: MultiViewModel, views: Views, t: Int[Tensor, " b"], noise: Float[Tensor, "b f c h w"]
) -> Float[Tensor, "b f c h w"]:
    """Run one denoising step on views of the model's size, references clean, targets noised to timestep ``t``."""
    latents = noised(model, views, model.encode_views(views), noise, t)
    return model.denoise(latents, t, conditioning(model, views))
