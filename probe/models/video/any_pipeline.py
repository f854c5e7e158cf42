"""``--model diffusers:FOLDER``: any pipeline whose network is known, told by the class in its model_index.json."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from probe.models.model import MultiViewModel
from probe.models.parts.files import Loading, download, named, read_json
from probe.models.video.folder import INDEX
from probe.registry import Choice

NETWORKS = ("transformer", "unet")
"""Names of a pipeline's denoiser."""


@dataclass(frozen=True)
class Family:
    """A name of ``--model``, and its loader."""

    name: str
    load: Callable[..., Any]


KNOWN: dict[str, Family] = {
    "WanTransformer3DModel": Family("wan", Choice("probe.models.video.wan:load_wan", "Wan 2.1, 2.2")),
    "CogVideoXTransformer3DModel": Family(
        "cogvideox", Choice("probe.models.video.cogvideox:load_cogvideox", "CogVideoX 1.0")
    ),
    "HunyuanVideoTransformer3DModel": Family(
        "hunyuan-video", Choice("probe.models.video.hunyuan_video:load_hunyuan_video", "HunyuanVideo 1.0")
    ),
    "LTXVideoTransformer3DModel": Family("ltx", Choice("probe.models.video.ltx:load_ltx", "LTX-Video")),
    "HunyuanDiT2DModel": Family(
        "hunyuan-dit", Choice("probe.models.hunyuan_dit:load_hunyuan_dit", "Hunyuan-DiT, views joined")
    ),
    "UNet2DConditionModel": Family(
        "sd21", Choice("probe.models.stable_diffusion:load_independent", "Stable Diffusion 1.x, 2.x, views alone")
    ),
}
"""From the class of a pipeline's network to the family that loads it."""


def load_pipeline(source: str, loading: Loading) -> MultiViewModel:
    """Load the folder of a diffusers pipeline by the class of its network.

    Args:
        source: Folder or hub id.
        loading: As the family takes it.

    Raises:
        ValueError: If it is no pipeline's folder, or its network is not known.
    """
    family = KNOWN[_network_of(_index(source), source)]
    model: MultiViewModel = family.load(source, loading)
    card = {**(model.card or {}), "family": family.name}
    return replace(model, name=named("diffusers", source), card=card)


def _index(source: str) -> dict[str, Any]:
    if not source:
        raise ValueError(f"diffusers names no model; give diffusers:FOLDER, a folder with {INDEX}, or a hub id")
    path = Path(source).expanduser()
    folder = path if path.exists() else download(source, (INDEX,))
    if not (folder / INDEX).is_file():
        raise ValueError(
            f"{source} is no folder of a diffusers pipeline: {INDEX} missing; give the whole pipeline's folder"
        )
    return read_json(folder / INDEX)


def _network_of(index: Mapping[str, Any], source: str) -> str:
    """Return the class of the denoiser, which the index has as [library, class]."""
    classes = [value[-1] for name in NETWORKS if isinstance(value := index.get(name), list) and value]
    known = [name for name in classes if name in KNOWN]
    if known:
        return str(known[0])
    raise ValueError(
        f"{source}/{INDEX} describes {index.get('_class_name')!r} with the network "
        f"{', '.join(map(str, classes)) or 'none'}; known are {', '.join(KNOWN)}; bring another by "
        "module:package.function"
    )
