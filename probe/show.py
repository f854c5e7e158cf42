"""Show where attention looks between photos of one's own: ``python -m probe.show MODEL --image a.jpg b.jpg``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from probe import cli as command
from probe.scenes.photo_files import check_photo_files, photo_doubts

if TYPE_CHECKING:
    import torch

    from analysis.explorer.photos import Shown
    from probe.models.model import MultiViewModel

PROG = "python -m probe.show"
SHOWN_SIZE = 256
"""Side of the photos on the page, in pixels."""
TIMESTEPS = "100,500,900"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Make a page on which one points at a place in a photo and sees where the attention looks in the others.

    No cameras and no truth are needed, so nothing is scored: the page shows what the model does, not whether it is
    right.
    """

    model: tyro.conf.Positional[str]
    """Model, as in python -m probe.run --model."""
    image: tuple[Path, ...]
    """Two or more photos; the first is the reference, which enters without noise where the model has such. The middle
    square of each is shown."""
    out: Path = Path("show.html")
    """The page."""
    layer: int | None = None
    """Layer that the page starts with; default the model's own."""
    timesteps: str | None = None
    """Timestep indexes, separated by commas; default 100,500,900."""
    seed: int = 0
    """Random seed of the noise."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device; auto takes CUDA if it is available."""


def main(settings: Settings) -> None:
    """Show the photos to the model, and write the page."""
    if not settings.out.parent.is_dir() or settings.out.is_dir():
        raise ValueError(f"--out {settings.out}: expected the name of a page in a folder that exists")
    with command.flag("--image"):
        check_photo_files(settings.image)
    if settings.layer is not None and settings.layer < 0:
        raise ValueError(f"--layer {settings.layer}: expected the index of a layer, 0 or above")
    with command.flag("--model"):
        command.check_model(settings.model)
    # torch and the models are imported when the flags are known to be right, so that --help answers at once
    from analysis.explorer.photos import photo_page
    from probe.records import write_text

    shown = show_photos(settings)
    write_text(settings.out, photo_page(shown))
    print(f"page: {settings.out}")


def show_photos(settings: Settings) -> Shown:
    """Run the model on photos, and read what the page shows."""
    from analysis.explorer.photos import Shown
    from probe.layers import joint_layout, select_layers
    from probe.measure.model import timestep_table, timesteps_of
    from probe.measure.photos import explore_photos, photo_views
    from probe.models import load_model
    from probe.models.model import model_layers, to_device
    from probe.plan.plan import device_named

    photos = [_read(path) for path in settings.image]
    names = photo_names(settings.image)
    _warn(dict(zip(names, photos, strict=True)))
    device = device_named(settings.device)
    with command.flag("--model"):
        model = to_device(load_model(settings.model), device)
    layers = select_layers(model_layers(model), "3d")
    with command.flag("--layer"):
        first = _first_layer(settings.layer, model.default_layer, [layer.index for layer in layers])
    with command.flag("--timesteps"):
        timesteps = timesteps_of(model, settings.timesteps, TIMESTEPS)
    with command.flag("--image"):
        views = photo_views(photos, size=max(SHOWN_SIZE, model.size), name="photos")
    return Shown(
        model=model.name,
        layers=tuple((layer.index, layer.name, joint_layout(layer, views.count).grid) for layer in layers),
        first=first,
        timesteps=timestep_table(model, timesteps),
        image=(views.image[0] * 255).round().byte().numpy(),
        tensors={
            name: tensor.cpu().numpy()
            for name, tensor in explore_photos(model, views.to(device), layers, timesteps, settings.seed).items()
        },
        names=names,
        shown=_how_shown(model),
        command=_words(settings),
    )


def _how_shown(model: MultiViewModel) -> str:
    """Return how the model sees the photos: how small, and with which noise."""
    seen = f"The model sees the middle square of each at {model.size} × {model.size} pixels."
    if model.prediction == "none":
        return f"{seen} It takes no noise."
    if model.clean_references:
        return f"{seen} The first is the reference, which enters without noise."
    return f"{seen} All views are noised alike."


def _read(path: Path) -> torch.Tensor:
    from probe.scenes.files import decode_rgb, open_image, upright

    with command.flag("--image"), open_image(path, path.parent) as image:
        return decode_rgb(upright(image))


def photo_names(paths: Sequence[Path]) -> tuple[str, ...]:
    """Return the names of photos' files; with their folders where two have one name, and numbered where that is one.

    Args:
        paths: Of the photos.
    """
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    if len(set(names)) < len(names):
        names = [f"{name} ({place})" for place, name in enumerate(names)]
    return tuple(names)


def _warn(photos: dict[str, torch.Tensor]) -> None:
    first, *others = photos.values()
    identical = all(first.shape == other.shape and bool((first == other).all()) for other in others)
    sizes = {name: (photo.shape[1], photo.shape[2]) for name, photo in photos.items()}
    for doubt in photo_doubts(sizes, identical=identical):
        print(f"{PROG}: note: {doubt}", file=sys.stderr)


def _first_layer(wanted: int | None, usual: int, indexes: list[int | None]) -> int:
    """Return the layer that the page starts with: the model's own, else the middle one of those that join views."""
    if wanted is not None and wanted not in indexes:
        raise ValueError(f"{wanted}: joins no views; choose from {', '.join(map(str, indexes))}")
    if wanted is None and usual not in indexes:
        wanted = indexes[len(indexes) // 2]
    return usual if wanted is None else wanted


def _words(settings: Settings) -> str:
    """Return the command that makes the page again."""
    import shlex

    words = [*PROG.split(), settings.model, "--image", *map(str, settings.image), "--out", str(settings.out)]
    for name, usual in (("layer", None), ("timesteps", None), ("seed", 0)):
        if getattr(settings, name) != usual:
            words += [f"--{name}", str(getattr(settings, name))]
    return shlex.join(words)


def cli(arguments: list[str] | None = None) -> None:
    """Parse the command line and run."""
    command.run(main, command.parse(Settings, arguments, prog=PROG), prog=PROG)


if __name__ == "__main__":
    cli()
