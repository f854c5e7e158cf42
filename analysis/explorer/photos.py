"""Photos shown to a model -> a page with the match explorer only. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from analysis.building import TEMPLATES
from analysis.explorer.part import Part, explorer_part
from analysis.explorer.reading import Explored, explored
from analysis.probing.pictures import embedded_images
from analysis.probing.tables import LAYER_COLUMNS, ProbeRun


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What a model did with photos.

    Attributes:
        model: Its name.
        layers: Index, name and token grid of those that join views.
        first: Index of the one that the page starts with.
        timesteps: As a probe run's timesteps.csv.
        image: uint8 [f 3 H W]: the photos.
        tensors: As :func:`probe.measure.explored.explore_scene`.
        names: Of the photos' files.
        shown: How the model sees them, in a sentence.
        command: That makes the page again.
    """

    model: str
    layers: tuple[tuple[int | None, str, tuple[int, int]], ...]
    first: int
    timesteps: pd.DataFrame
    image: np.ndarray
    tensors: Mapping[str, np.ndarray]
    names: tuple[str, ...]
    shown: str
    command: str


def photo_page(shown: Shown) -> str:
    """Write the page: one self-contained HTML document."""
    part = _named(explorer_part([_explored(shown)]), shown.names)
    images = Markup(embedded_images(_run(shown), (), part.views))
    return TEMPLATES.get_template("photos.html.j2").render(page={
        "title": f"{shown.model} on {len(shown.names)} photos", "explorer": part, "images": images,
        "names": shown.names, "shown": shown.shown, "command": shown.command,
    })  # fmt: skip


def _named(part: Part, names: Sequence[str]) -> Part:
    """Call the views by their photos' names."""
    [scene] = part.payload["scenes"]
    views = [{**view, "name": names[view["index"]]} for view in scene["views"]]
    titles = {f"{asks}view {view['index']}": f"{asks}{view['name']}" for view in views for asks in ("query: ", "")}
    stills = tuple(replace(still, title=titles[still.title]) for still in part.stills)
    return replace(part, payload={**part.payload, "scenes": [{**scene, "views": views}]}, stills=stills)


def _explored(shown: Shown) -> Explored:
    read = explored(_run(shown))
    assert read is not None
    return read


def _run(shown: Shown) -> ProbeRun:
    """Put the photos into the form of a probe run that scored nothing."""
    selection = {"layer": shown.first, "metric": "", "direction": "tgt", "protocol": "attention-v1"}
    return ProbeRun(
        name="photos",
        settings={"model": shown.model, "n_ref": 1},
        environment={},
        selection={**selection, "runners_up": []},
        scores=pd.DataFrame({"layer": [shown.first], "model": [shown.model]}),
        layers=pd.DataFrame([_row(*layer) for layer in shown.layers]),
        pairs=pd.DataFrame(),
        timesteps=shown.timesteps,
        images={"image/photos": shown.image},
        edited={},
        explorer=dict(shown.tensors),
    )


def _row(index: int | None, name: str, grid: tuple[int, int]) -> dict[str, Any]:
    blank = dict.fromkeys(LAYER_COLUMNS, np.nan)
    return {**blank, "layer": index, "name": name, "grid_h": grid[0], "grid_w": grid[1]}
