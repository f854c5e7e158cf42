"""Read what a probe run kept for the match explorer (:mod:`probe.measure.explored` says what the tensors are)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from analysis.probing import tables
from analysis.probing.tables import ProbeRun, read_run
from analysis.words import metric_words
from probe.records import EXPLORER, RunError, parse_grid

VERSION = 3  # as probe.measure.explored writes
TOGETHER = ("token", "right", "share", "mass", "ratio_token", "ratio", "ratio_right", "ratio_kept")
HEADS = ("head_token", "head_right", "head_share", "head_mass")

Array = Shaped[np.ndarray, "..."]


@dataclass(frozen=True, kw_only=True)
class Explored:
    """One model's part of the explorer.

    Attributes:
        run: The probe run of which this is a part.
        tensors: By what, part and scene.
        scenes: Names, in the run's order.
    """

    run: ProbeRun
    tensors: Mapping[tuple[str, str, str], Array]
    scenes: tuple[str, ...]

    @property
    def layers(self) -> list[int]:
        """Return the indexes of the layers that were read: the one it opens on, the selected, runners-up, others."""
        present, ranked = self._present(), [int(entry["layer"]) for entry in self.run.selection.get("runners_up", [])]
        ranked = [*([] if self.opens_on_selected else [self._most_precise()]), self.run.layer, *ranked]
        return [layer for layer in dict.fromkeys([*ranked, *present]) if layer in present]

    @property
    def opens_on_selected(self) -> bool:
        """Whether the explorer opens on the selected layer: it does unless all layers may be no more than their nulls.

        The selected one may then find next to nothing; the layer of highest precision shows more.
        """
        layers = self.run.layers.set_index("layer")
        if not self.run.metric or layers["above_null"].astype(bool).any():
            return True
        return self._most_precise() == self.run.layer

    def _present(self) -> list[int]:
        return sorted({int(part) for what, part, _ in self.tensors if what == "token"})

    def _most_precise(self) -> int:
        """Return the layer of highest precision among those that were read; the selected one where none is known."""
        precision = self.run.layers.set_index("layer")["precision"].reindex(self._present())
        return int(precision.idxmax()) if precision.notna().any() else self.run.layer

    def is_exact(self, layer: int, scene: str) -> bool:
        """Return whether a layer's queries and keys were kept, in place of pooled maps."""
        return ("q", str(layer), scene) in self.tensors

    def attention(self, layer: int, scene: str, time: int) -> dict[str, Array]:
        """Return a layer's queries and keys at a timestep, and the share of each head's weight within the views kept.

        Runs of version 2 kept queries and keys in 8 bits, with the size of each token's step, and no share.

        Args:
            layer: Its index; one that was kept exactly.
            scene: The scene's name.
            time: Position of the timestep.
        """
        q, k = (self.get(name, layer, scene)[time].astype(np.float32) for name in ("q", "k"))
        if self.version < VERSION:
            q, k = (x * self.get(f"{name}_step", layer, scene)[time][..., None] for name, x in (("q", q), ("k", k)))
            return {"q": q, "k": k, "within": np.ones(q.shape[:-1], np.float32)}
        return {"q": q, "k": k, "within": self.get("within", layer, scene)[time]}

    @property
    def version(self) -> int:
        """Return the version of the tensors, of which the first two have no number."""
        kept = {what for what, _, _ in self.tensors}
        numbers = [int(value[0]) for (what, *_), value in self.tensors.items() if what == "version"]
        return max(numbers, default=2 if "q_step" in kept else 1)

    def get(self, what: str, part: object, scene: str) -> Array:
        """Return a tensor.

        Args:
            what: Its kind.
            part: A layer's index, a grid, or "-".
            scene: The scene's name.

        Raises:
            RunError: If the file lacks it.
        """
        try:
            return self.tensors[what, str(part), scene]
        except KeyError:
            raise RunError(
                f"read_explored: {self.run.name}/{EXPLORER} lacks {what}/{part}/{scene}; run the probe again"
            ) from None


def explored(run: ProbeRun) -> Explored | None:
    """Return the explorer's part of a run, and check that its tensors fit each other.

    Args:
        run: The probe run.

    Returns:
        None where the run kept nothing for it.

    Raises:
        RunError: If tensors are missing, of other shapes than each other's, or of a later version of this suite.
    """
    if not run.explorer:
        return None
    tensors = {key: run.explorer[name] for name in run.explorer if len(key := tuple(name.split("/", 2))) == 3}
    scenes = tuple(scene for what, _, scene in tensors if what == "views")
    found = Explored(run=run, tensors=tensors, scenes=tuple(sorted(set(scenes))))  # type: ignore[arg-type]
    if found.version > VERSION:
        raise RunError(
            f"read_explored: {run.name}/{EXPLORER} has version {found.version}, expected at most {VERSION}; update "
            "this suite, or run the probe again"
        )
    for scene in found.scenes:
        _check_scene(found, scene)
    return found


def _check_scene(explored: Explored, scene: str) -> None:
    """Refuse tensors whose shapes do not agree: the page's script reads them by position."""
    grids, times = tables.layer_grids(explored.run), len(explored.run.timesteps)
    views, kept = len(explored.get("views", "-", scene)), explored.get("head_timesteps", "-", scene)
    image = explored.run.images.get(f"image/{scene}")
    wrong = [] if image is not None and views >= 2 else ["views"]
    for layer in explored.layers:
        grid = grids.get(layer, "")
        pairs = (views, len(explored.get("asked", grid, scene)), views - 1)
        heads = explored.get("head_token", layer, scene).shape[1:2]
        exact = explored.is_exact(layer, scene)
        wrong += _wrong_exact(explored, layer, scene, times, views) if exact else []
        for name in (*TOGETHER, *(() if exact else ("map", "runner_up"))):
            wrong += [] if explored.get(name, layer, scene).shape[:4] == (times, *pairs) else [f"{name}/{layer}"]
        for name in (*HEADS, *(() if exact else ("head_map",))):
            shape = explored.get(name, layer, scene).shape[:5]
            wrong += [] if shape == (len(kept), *heads, *pairs) else [f"{name}/{layer}"]
    if wrong:
        raise RunError(
            f"read_explored: {explored.run.name}/{EXPLORER} does not fit, in {', '.join(wrong[:3])} of scene {scene}; "
            "run the probe again"
        )


def _wrong_exact(explored: Explored, layer: int, scene: str, times: int, views: int) -> list[str]:
    """Name the queries and keys of a layer whose shapes do not agree with the grid's, or with each other's."""
    grid = tables.layer_grids(explored.run).get(layer, "")
    tokens = int(np.prod(parse_grid(grid))) if grid else 0
    *_, heads, d = explored.get("q", layer, scene).shape
    pairs = {"q": (times, views, len(explored.get("asked", grid, scene)), heads), "k": (times, views, tokens, heads)}
    wanted: dict[str, tuple[int, ...]] = {name: (*shape, d) for name, shape in pairs.items()}
    wanted |= {"within": pairs["q"]} if explored.version >= VERSION else {f"{name}_step": pairs[name] for name in pairs}
    return [f"{name}/{layer}" for name, shape in wanted.items() if explored.get(name, layer, scene).shape != shape]


def read_beside(folder: Path, first: Explored) -> Explored:
    """Read another run to show beside the first: another model, on the same views.

    Args:
        folder: Of the other run.
        first: The page's own run.

    Raises:
        RunError: If it is no finished probe run, kept nothing for the explorer, shares no scene with the first, shows
            other images under a shared name, or counts other matches as right.
    """
    other = explored(read_run(folder))
    advice = "probe both models with the same --scenes, --seed, --pairs, --views and --select-by"
    if other is None:
        raise RunError(f"read_beside: {folder} has no {EXPLORER}; run its probe again")
    shared = [scene for scene in other.scenes if scene in first.scenes]
    key = [f"image/{scene}" for scene in shared]
    if not shared or any(not np.array_equal(other.run.images[name], first.run.images[name]) for name in key):
        raise RunError(f"read_beside: {folder} shows other scenes than {first.run.name}; {advice}")
    if metric_words(other.run.metric) != metric_words(first.run.metric):
        raise RunError(
            f"read_beside: {folder} ranks by {other.run.metric}, {first.run.name} by {first.run.metric}; {advice}"
        )
    return other


def shared_scenes(models: Sequence[Explored]) -> list[str]:
    """List the scenes that all models were shown, in the first one's order.

    Args:
        models: The first is the page's own.
    """
    return [scene for scene in models[0].scenes if all(scene in model.scenes for model in models)]
