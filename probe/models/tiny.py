"""The suite's own small model: CAT3D's layout on 32-pixel images without an autoencoder, shipped with its weights."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from probe.models.cat3d import TINY, load_unet, settings_of
from probe.models.model import MultiViewModel
from probe.models.names import SHIPPED
from probe.models.parts.files import Loading, read_json, read_settings
from probe.models.parts.unet import MultiViewUNet
from probe.models.schedules import pixel_scheduler
from probe.records.names import TRAINED


def load_tiny(source: str, loading: Loading) -> MultiViewModel:
    """Load the small model: the shipped weights, or those of a folder that the suite saved.

    Args:
        source: Empty, "cameo" or "base" for the shipped weights (:data:`SHIPPED`); "random" for none; else a checkpoint
            folder.
        loading: Not used: this model has its own size, and no autoencoder.

    Raises:
        ValueError: If the folder holds no checkpoint of this kind.
    """
    if source == "random":
        return replace(fresh_tiny(0), name="cat3d-tiny:random")
    folder = SHIPPED.get(source, Path(source))
    unet = load_folder(folder)
    name = source if source in SHIPPED else folder.name
    model = _model(f"cat3d-tiny:{name}" if source else "cat3d-tiny", unet, _card(folder))
    return replace(model, folder=folder)


def fresh_tiny(seed: int) -> MultiViewModel:
    """Return the small model with random weights drawn from a seed, to be trained."""
    return _model("cat3d-tiny", _seeded(TINY, seed), {"weights": f"random, seed {seed}"})


def load_folder(folder: Path) -> MultiViewUNet:
    """Load a network in the diffusers ``save_pretrained`` layout.

    Raises:
        ValueError: If configuration or weights are absent, unreadable or of another model.
    """
    config, weights = folder / "config.json", folder / "diffusion_pytorch_model.safetensors"
    if (folder / TRAINED).is_file():
        raise ValueError(
            f"{folder} holds only the weights that a training in part (--trainable) changed; give OUT/final of that "
            "training, which is whole"
        )
    for path in (config, weights):
        if not path.is_file():
            raise ValueError(
                f"{folder} holds no checkpoint: {path.name} is missing; give a folder that the suite saved"
            )
    values = read_json(config)
    if values.get("_class_name") != MultiViewUNet.__name__:
        raise ValueError(
            f"{config} describes {values.get('_class_name')!r}, not {MultiViewUNet.__name__}; "
            "give a folder that the suite saved"
        )
    return load_unet(weights, settings_of(values)).float()


def _card(folder: Path) -> dict[str, object]:
    return read_settings(folder / "card.json")


def _model(name: str, unet: MultiViewUNet, card: dict[str, object]) -> MultiViewModel:
    unet.eval().requires_grad_(False)
    size = unet.config.sample_size * unet.config.encoder_stride
    return MultiViewModel(name=name, network=unet, alpha_bar=pixel_scheduler().alphas_cumprod, size=size, card=card)


def _seeded(config: Mapping[str, Any], seed: int) -> MultiViewUNet:
    """Draw random weights without touching the caller's random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return load_unet(None, config)
