"""What ``--baselines`` accepts: names with their code, importable without PyTorch."""

from collections.abc import Callable
from typing import Any

from probe.registry import Choice

BASELINES: dict[str, Callable[..., Any]] = {
    "dsift": Choice("probe.baselines.dsift:load_matcher", "SIFT descriptors at the centre of every token"),
    "pixels": Choice("probe.baselines.pixels:load_matcher", "raw colours around the centre of every token"),
    "epipolar": Choice("probe.baselines.epipolar:load_matcher", "oracle: a draw on the true epipolar line"),
    "dinov2": Choice("probe.baselines.dino:load_dinov2", "DINOv2's patch features; needs transformers"),
    "dinov3": Choice("probe.baselines.dino:load_dinov3", "DINOv3's patch features; needs transformers"),
    "dift": Choice("probe.baselines.dift:load_dift", "features of Stable Diffusion, each view on its own"),
    "vggt": Choice("probe.baselines.vggt:load_matcher", "VGGT's point maps; needs its package"),
}
"""From a name to its loader: a folder or hub id (empty: the usual one), and a device, to a matcher."""

NULLS: dict[str, str] = {
    "random": "the same network with random weights",
    "null": "the network with its cameras and noise, but grey images",
}
"""The probed network itself as a comparison."""


def baseline_names(text: str) -> tuple[str, ...]:
    """Read the comparisons of a command line, such as "dsift,dinov2:FOLDER,null", or "none".

    Raises:
        ValueError: If a name is unknown, or there twice.
    """
    names = () if text in ("", "none") else tuple(text.split(","))
    known = (*BASELINES, *NULLS)
    unknown = sorted({name.partition(":")[0] for name in names} - set(known))
    if unknown:
        raise ValueError(f"{','.join(unknown)} is unknown; choose from {', '.join(known)}, or none")
    if len(set(names)) < len(names):
        raise ValueError(f"{text} names one twice; give each once")
    return names
