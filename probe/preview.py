"""Draw scenes with true matches across views, and freeze which were chosen: ``python -m probe.preview``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from probe import cli as command
from probe.scenes.reading import Reading

if TYPE_CHECKING:
    from probe.scenes import Request

PROG = "python -m probe.preview"


@dataclass(frozen=True, kw_only=True)
class Settings(Reading):
    """Draw scenes as a picture: a row per scene, its views side by side, lines between true matches with view 0."""

    scenes: str = "shapes"
    """NAME or NAME:ROOT, as in python -m probe.run."""
    out: Path = Path("preview.png")
    """The picture."""
    groups: int = 4
    """Scenes."""
    views: int = 3
    """Views per scene."""
    n_ref: int = 1
    """References among them."""
    min_overlap: float = 0.2
    """Real scenes: share of view 0 that each other view must see, 0 to 1."""
    image_size: int = 256
    """Side of the views, in pixels."""
    matches: int = 16
    """Lines per pair of views, at most."""
    seed: int = 0
    """Random seed for drawing scenes and picking matches."""
    view_list: str | None = None
    """Real scenes: PROTOCOL[:FILE] or FILE.json in place of drawing."""
    freeze: Path | None = None
    """Real scenes: also write the list of the chosen scenes, to be given as --view-list FILE.json."""


def main(settings: Settings) -> None:
    """Load scenes, draw them, print how much of them is known."""
    with command.flag("--scenes"):
        command.check_scenes(settings.scenes)
    from probe.correspondence.checking import check_truth
    from probe.plan.truth import allowed_share, way_out
    from probe.records import write
    from probe.scenes import GENERATED, Request, open_scenes
    from probe.scenes.drawing import draw_scenes, moving_share

    request = Request(
        groups=settings.groups,
        views=settings.views,
        n_ref=settings.n_ref,
        seed=settings.seed,
        min_overlap=settings.min_overlap,
        size=settings.image_size,
        view_list=settings.view_list,
        needs_truth=False,
        reading=settings.reading,
    )
    with command.flag("--scenes"):
        scenes = open_scenes(settings.scenes, request)
    loaded = [scenes.load(index)[0] for index in range(len(scenes.names))]
    figure = draw_scenes(loaded, settings.matches)
    write(settings.out, lambda part: figure.savefig(part, format="png", dpi=100))
    if scenes.note:
        print(scenes.note)
    if settings.scenes.partition(":")[0] not in GENERATED and loaded[0].has_cameras:
        check = check_truth(lambda index: (loaded[index], None), len(loaded), allowed_share() * settings.image_size)
        print("\n".join(filter(None, (check.words, check.warning(way_out(settings.scenes))))))
    for views in loaded:
        moving = "" if views.part is None else f", {moving_share(views):.1%} of true matches move"
        points = f"{views.valid.float().mean():.1%} of pixels have a point, unit {views.unit or 'none'}"
        print(f"{views.names[0]}: {points}{moving}")
    if not any(views.valid.any() for views in loaded):
        print("no pixel has a point: to probe on these scenes, name a source of points (--truth-source tracks)")
    print(settings.out)
    if settings.freeze is not None:
        _freeze(settings.scenes, request, settings.freeze)


def _freeze(spec: str, request: Request, path: Path) -> None:
    from probe.records import write_json
    from probe.scenes import DATA_SETS, choose, find_recordings
    from probe.scenes.choosing import list_record

    name, _, root = spec.partition(":")
    if name not in DATA_SETS:
        raise ValueError(f"--freeze: {spec} is drawn anew from its seed and needs no list; choose real scenes")
    chosen = choose(find_recordings(name, root, request.reading), request)
    write_json(path, list_record(chosen))
    print(f"{path}: {chosen.protocol}, {len(chosen.scenes)} scenes, digest {chosen.digest}")


def cli(arguments: list[str] | None = None) -> None:
    """Parse the command line and run."""
    command.run(main, command.parse(Settings, arguments, prog=PROG), prog=PROG)


if __name__ == "__main__":
    cli()
