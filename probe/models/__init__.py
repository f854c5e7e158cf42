"""Models that can be probed: one file per family, one visible dict."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from probe.compat import declare_torchvision_operators

declare_torchvision_operators()  # before the first import of diffusers, which imports torchvision

from probe.models.about import ABOUT  # noqa: E402
from probe.models.cat3d import TINY, load_cat3d, load_unet, settings_of  # noqa: E402
from probe.models.custom import load_custom  # noqa: E402
from probe.models.hunyuan_dit import load_hunyuan_dit  # noqa: E402
from probe.models.model import MultiViewModel, pixel_scheduler  # noqa: E402
from probe.models.mvdream import load_mvdream  # noqa: E402
from probe.models.mvgenmaster import load_mvgenmaster  # noqa: E402
from probe.models.parts.files import Loading, read_json, read_settings  # noqa: E402
from probe.models.parts.unet import MultiViewUNet  # noqa: E402
from probe.models.seva import load_seva  # noqa: E402
from probe.models.stable_diffusion import load_extended, load_independent  # noqa: E402

WEIGHTS = Path(__file__).parent / "weights"
SHIPPED = {"": WEIGHTS / "cat3d-tiny", "cameo": WEIGHTS / "cat3d-tiny-cameo"}
"""The small model trained plainly for 7000 steps, and with CAMEO at layer 12 for 2000, by what follows its name."""
RANDOM = ": random weights"
CAMERAS_ONLY = ": cameras only"


def load_tiny(source: str, loading: Loading) -> MultiViewModel:
    """Load the small model: the shipped weights, or those of a folder that the suite saved.

    Args:
        source: Empty or "cameo" for the shipped weights (:data:`SHIPPED`); "random" for none; else a checkpoint folder.
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
    """Give the small model with random weights drawn from a seed, to be trained."""
    return _model("cat3d-tiny", _seeded(TINY, seed), {"weights": f"random, seed {seed}"})


def load_folder(folder: Path) -> MultiViewUNet:
    """Load a network in the diffusers ``save_pretrained`` layout.

    Raises:
        ValueError: If configuration or weights are absent, unreadable or of another model.
    """
    config, weights = folder / "config.json", folder / "diffusion_pytorch_model.safetensors"
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


def randomised(model: MultiViewModel, seed: int) -> MultiViewModel:
    """Give the same network with random weights: what its wiring alone finds."""
    network = model.fresh(seed).eval().requires_grad_(False)
    card: dict[str, object] = {"weights": f"random, seed {seed}"}
    return replace(model, name=model.name + RANDOM, network=network, card=card, folder=None)


def _seeded(config: Mapping[str, Any], seed: int) -> MultiViewUNet:
    """Draw random weights without touching the caller's random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return load_unet(None, config)


Loader = Callable[[str, Loading], MultiViewModel]
MODELS: dict[str, Loader] = {
    "cat3d-tiny": load_tiny,
    "cat3d": load_cat3d,
    "sd21": load_independent,
    "sd21-extended": load_extended,
    "mvgenmaster": load_mvgenmaster,
    "hunyuan-dit": load_hunyuan_dit,
    "seva": load_seva,
    "mvdream": load_mvdream,
    "module": load_custom,
}


def load_model(spec: str, loading: Loading | None = None) -> MultiViewModel:
    """Load a model named as on the command line, ``NAME[:PATH_OR_HUB_ID]``; its card tells its licence and origin.

    Raises:
        ValueError: If the name is unknown or its weights cannot be read.
    """
    name, _, source = spec.partition(":")
    if name not in MODELS:
        raise ValueError(f"--model {name!r} is unknown; choose one of {', '.join(MODELS)} (NAME or NAME:FOLDER)")
    model = MODELS[name](source, loading or Loading())
    return replace(model, card={**(model.card or {}), "about": ABOUT[name].record()})
