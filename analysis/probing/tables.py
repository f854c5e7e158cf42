"""A probe run folder as small tidy tables: every figure and table of its page is one of these."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import load_file

from analysis.probing.edits.plan_reading import read_plan
from analysis.probing.scores import UNIT, no_rows, read_shown
from analysis.reading import check_numbers, read_config, read_file, read_json, read_precision
from probe.records import (
    ALL_HEADS,
    ATTENTION_METRICS,
    COMMON_GRID,
    EDITED,
    EMERGENCE,
    EXAMPLES,
    EXPLORER,
    KEPT,
    LAYERS,
    MATCHES,
    MODEL_CARD,
    NO_LAYER,
    PAIRS,
    PROBE_FILES,
    REFERENCES,
    SAME_POSITION,
    SCENES_NOTE,
    SCORES,
    SELECTION,
    TIMESTEPS,
    TRUTH_CHECK,
    UNIFORM,
    RunError,
    grid_name,
    is_null,
    parse_grid,
    scene_values,
    split_coverage,
    split_threshold,
    summarise,
)
from probe.records.decoding import COLUMNS as DECODED_COLUMNS
from probe.records.decoding import NAMES as DECODED_NAMES
from probe.records.hidden import HIDDEN_COLUMNS
from probe.records.knockout import COLUMNS as KNOCKOUT_COLUMNS
from probe.records.knockout import NAMES as KNOCKOUT_NAMES
from probe.records.names import DECODED, HIDDEN_TABLE, KNOCKOUT, PATCHED_SAMPLES, PATCHING, PLAN, SPEED
from probe.records.patched_samples import COLUMNS as SAMPLE_COLUMNS
from probe.records.patched_samples import NAMES as SAMPLE_NAMES
from probe.records.patching import COLUMNS as PATCHING_COLUMNS
from probe.records.patching import NAMES as PATCHING_NAMES
from probe.records.speed import COLUMNS as SPEED_COLUMNS
from probe.records.speed import names_in

ADVICE = "run the probe again"
NUMBERS = ["value", "low", "high", "scenes", "units", "count"]
LAYER_COLUMNS = ("layer", "name", "grid_h", "grid_w", "precision", "precision_low", "precision_high", "chance",
                 "same_position", "ceiling", "count", "scenes")  # fmt: skip
WHOLE = ("layer", "grid_h", "grid_w")
EDITED_NUMBERS = ("layer", "head", "timestep", "count")
SELECTION_KEYS = ("layer", "name", "metric", "direction", "protocol")


@dataclass(frozen=True, kw_only=True)
class ProbeRun:
    """The content of a probe run folder.

    Attributes:
        name: The folder's name.
        settings: Every resolved setting.
        environment: Versions, commit, machine.
        selection: The chosen layer with its evidence.
        scores: The rows of the score table that the page shows, of each model's last training step
            (:mod:`analysis.probing.scores`).
        layers: One row per 3D layer, by index.
        pairs: The frozen list of view pairs.
        timesteps: Each timestep's alpha-bar and signal-to-noise ratio.
        emergence: Precision over training iterations, if it was measured.
        images: uint8 [f 3 H W] of each example scene.
        matches: One row per query token of the example scenes, if there are any.
        card: What is known of the model: licence, origin, size, what is ignored, what its loader chose.
        edited: uint8 [targets 3 H W]: sampled views of the first scenes, by "scene/intervention/layer", beside
            "scene/unedited" and "scene/truth"; empty if none were sampled.
        explorer: What the match explorer shows (:mod:`probe.measure.explored`), by "what/part/scene".
        notes: Of real scenes: what was left out (note), what the check of the truth found (truth, warning), the limits
            of a truth of tracks (tracks).
        truth_check: Of real scenes, one row per pair of views that SIFT matches were compared in.
        missing: How much could not be measured, of all rows of the score table: columns metric, rows, missing (NaN or
            nothing counted), count.
        hidden: Where attention looks from points that the key view does not show, if that was measured
            (:func:`probe.records.hidden.hidden_table`).
        knockout: What knocking out heads together changed in each scene, if that was done (``probe.knockout``).
        patching: What reading another run's attention changed in each scene, if that was done (``probe.patch``).
        patched_samples: How good samples are that read it at every step, if that was done (likewise).
        decoded: How well geometry is decoded from the layers, if that was done (``probe.decode``).
        plan: The newest plan for speed, as in plan.json, if there is one (``probe.plan``).
        speed: What it was measured to do, in each scene that did not plan.
    """

    name: str
    settings: dict[str, Any]
    environment: dict[str, Any]
    selection: dict[str, Any]
    scores: pd.DataFrame
    layers: pd.DataFrame
    pairs: pd.DataFrame
    timesteps: pd.DataFrame
    emergence: pd.DataFrame | None = None
    images: dict[str, np.ndarray]
    matches: pd.DataFrame | None = None
    card: dict[str, Any] | None = None
    edited: dict[str, np.ndarray]
    explorer: dict[str, np.ndarray] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    truth_check: pd.DataFrame | None = None
    missing: pd.DataFrame = field(default_factory=pd.DataFrame)
    hidden: pd.DataFrame | None = None
    knockout: pd.DataFrame | None = None
    patching: pd.DataFrame | None = None
    patched_samples: pd.DataFrame | None = None
    decoded: pd.DataFrame | None = None
    plan: dict[str, Any] | None = None
    speed: pd.DataFrame | None = None

    @property
    def layer(self) -> int:
        """Return the index of the selected layer."""
        return int(self.selection["layer"])

    @property
    def metric(self) -> str:
        """Return the metric by which the layer was selected."""
        return str(self.selection["metric"])

    @property
    def protocol(self) -> str:
        """Return the protocol by which the layer was selected."""
        return str(self.selection["protocol"])

    @property
    def grid(self) -> str:
        """Return the token grid of the selected layer, such as "16x16"."""
        return layer_grids(self)[self.layer]

    @cached_property
    def units(self) -> list[str]:
        """Return the independent units that the selected layer was measured on: recordings, or blocks of time."""
        rows = self.headline[(self.headline["layer"] == self.layer) & (self.headline["count"] > 0)]
        return sorted({str(unit) for unit in rows[UNIT]})

    @cached_property
    def model(self) -> str:
        """Return the probed model's name in the score table; its nulls are called "<model>: ..."."""
        layered = self.scores.loc[self.scores["layer"] != NO_LAYER, "model"].unique()
        probed = sorted((str(name) for name in layered if not is_null(str(name)) and name not in REFERENCES), key=len)
        selected = str(self.selection.get("model", self.settings.get("model")))
        return selected if selected in probed or not probed else probed[0]

    @cached_property
    def choosing(self) -> bool:
        """Return whether each layer and matcher chooses the queries that it counts."""
        return bool((self.measured["metric"] == KEPT).any())

    @cached_property
    def measured(self) -> pd.DataFrame:
        """Return the score rows of the selection's protocol and direction."""
        return _of(self, self.protocol)

    @cached_property
    def headline(self) -> pd.DataFrame:
        """Return the score rows that the selection rests on: its metric, direction and protocol, all heads together."""
        return self.measured[(self.measured["metric"] == self.metric) & (self.measured["head"] == ALL_HEADS)]


# --- reading ---------------------------------------------------------------------------------------------------------


def is_probe(folder: Path) -> bool:
    """Return whether a folder holds a finished probe run.

    Args:
        folder: Any folder.
    """
    return all((folder / name).is_file() for name in PROBE_FILES)


def read_run(folder: Path, *, scores: bool = True) -> ProbeRun:
    """Read a probe run folder.

    Args:
        folder: Made by ``python -m probe.run``.
        scores: Whether to read the score table, of which millions of rows may be read; without it, it has none.

    Returns:
        Its tables; the optional ones are None where the file is missing.

    Raises:
        RunError: If the folder is not a finished probe run or one of its files cannot be used.
    """
    missing = [name for name in PROBE_FILES if not (folder / name).is_file()]
    if missing:
        raise RunError(
            f"read_run: {folder} is no finished probe run, it lacks {', '.join(missing)}; "
            f"make one with: python -m probe.run --out {folder}"
        )
    config = read_config(folder, ADVICE)
    layers = _read(folder / LAYERS, pd.read_csv, LAYER_COLUMNS)
    check_numbers(layers, folder / LAYERS, ADVICE, whole=WHOLE, keys=("layer",))
    selection = _read(folder / SELECTION, read_json, SELECTION_KEYS)
    if selection["layer"] not in set(layers["layer"]):
        raise RunError(
            f"read_run: {folder / SELECTION} names layer {selection['layer']}, which {LAYERS} lacks; {ADVICE}"
        )
    timesteps = _read(folder / TIMESTEPS, pd.read_csv, ("timestep", "alpha_bar", "snr"))
    check_numbers(timesteps, folder / TIMESTEPS, ADVICE, whole=("timestep",), keys=("timestep",))
    shown = _read(folder / SCORES, partial(read_shown, selection=selection) if scores else no_rows)
    return ProbeRun(
        name=folder.resolve().name,
        settings=config.settings,
        environment=config.environment,
        selection=selection,
        scores=shown.rows,
        layers=_with_nulls(layers.sort_values("layer", ignore_index=True)),
        pairs=_read(folder / PAIRS, pd.read_csv, ("pair", "scene", "rotation_bin")),
        timesteps=timesteps,
        emergence=read_precision(folder / EMERGENCE, ADVICE),
        images=_optional(folder / EXAMPLES, load_file) or {},
        matches=_optional(folder / MATCHES, pd.read_parquet),
        card=_optional(folder / MODEL_CARD, read_json),
        edited=_optional(folder / EDITED, load_file) or {},
        explorer=_optional(folder / EXPLORER, load_file) or {},
        notes=_optional(folder / SCENES_NOTE, read_json) or {},
        truth_check=_optional(folder / TRUTH_CHECK, pd.read_csv),
        missing=shown.missing,
        hidden=_read_hidden(folder / HIDDEN_TABLE),
        knockout=_read_edits(folder / KNOCKOUT, KNOCKOUT_COLUMNS, ("heads", "count"), KNOCKOUT_NAMES),
        patching=_read_edits(folder / PATCHING, PATCHING_COLUMNS, EDITED_NUMBERS, PATCHING_NAMES),
        patched_samples=_read_edits(
            folder / PATCHED_SAMPLES, SAMPLE_COLUMNS, ("layer", "steps", "count"), SAMPLE_NAMES
        ),
        decoded=_read_edits(folder / DECODED, DECODED_COLUMNS, ("layer", "timestep", "count"), DECODED_NAMES),
        **_read_speed(folder),
    )


def _read_edits(
    path: Path, columns: Sequence[str], whole: Sequence[str], names: Mapping[str, Sequence[str]]
) -> pd.DataFrame | None:
    """Read what a command that goes on from the run has measured, if it has; of which some columns hold known names."""
    if not path.is_file():
        return None
    table = _read(path, pd.read_csv, columns)
    check_numbers(table, path, ADVICE, numbers=("value",), whole=tuple(whole))
    strange = [column for column, known in names.items() if not set(table[column]) <= set(known)]
    if strange or np.isinf(table["value"].astype(float)).any():
        what = f"{strange[0]} of another kind than this version writes" if strange else "an infinite value"
        raise RunError(f"read_run: {path} has a {what}; measure it again".replace("a an", "an"))
    return table.astype(dict.fromkeys(("scene", "unit"), str))


def _read_speed(folder: Path) -> dict[str, Any]:
    """Read a plan for speed and what it was measured to do; neither where one is absent: it is still being measured."""
    plan = read_plan(folder / PLAN) if (folder / SPEED).is_file() else None
    if plan is None:
        return {}
    rows = _read_edits(folder / SPEED, SPEED_COLUMNS, ("timestep", "repeat", "count"), names_in(plan))
    return {"plan": plan, "speed": rows}


def _read_hidden(path: Path) -> pd.DataFrame | None:
    if not path.is_file():
        return None
    table = _read(path, pd.read_csv, HIDDEN_COLUMNS)
    numbers = [name for name in HIDDEN_COLUMNS if name.startswith(("value", "low", "high", "over_visible"))]
    check_numbers(table, path, ADVICE, numbers=numbers, whole=("layer", "head", "timestep", "count"))
    return table


def _read(path: Path, load: Callable[[Path], Any], columns: Sequence[str] = ()) -> Any:
    return read_file(path, load, ADVICE, columns)


def _optional(path: Path, load: Callable[[Path], Any]) -> Any:
    return _read(path, load) if path.is_file() else None


def _with_nulls(layers: pd.DataFrame) -> pd.DataFrame:
    """Fill the columns that older runs lack: which layers are above their nulls, as far as their intervals tell."""
    if "above_null" in layers:
        return layers
    strongest = layers[["chance", "same_position"]].idxmax(axis=1)
    null = strongest.map({"chance": "uniform chance", "same_position": "same position"})
    return layers.assign(
        null=null,
        lead=layers["precision"] - layers[["chance", "same_position"]].max(axis=1),
        above_null=layers["precision_low"] > layers[["chance", "same_position"]].max(axis=1),
        units=layers["scenes"],
    )


def _of(run: ProbeRun, protocol: str) -> pd.DataFrame:
    direction = run.selection["direction"]
    wanted = run.scores["protocol"] == protocol
    return run.scores[wanted if direction == "all" else wanted & (run.scores["direction"] == direction)]


# --- tables ----------------------------------------------------------------------------------------------------------


def layer_grids(run: ProbeRun) -> dict[int, str]:
    """Return the token grid of each 3D layer, rows x columns."""
    rows = run.layers[["layer", "grid_h", "grid_w"]].itertuples(index=False)
    return {int(row.layer): grid_name((row.grid_h, row.grid_w)) for row in rows}


def rivals(run: ProbeRun) -> list[str]:
    """Return the nulls and baselines of the run, in file order: all but the probed model and the references."""
    return [str(name) for name in run.headline["model"].unique() if name != run.model and name not in REFERENCES]


def profile(run: ProbeRun, *, common: bool = False) -> pd.DataFrame:
    """Return precision layer by layer: of the model, its nulls, the baselines and the references.

    Args:
        run: The probe run.
        common: Take the comparison in which all maps were resampled to one grid.

    Returns:
        Columns model, layer, value, low, high, scenes, units, count; what belongs to a grid stands at each layer of
        that grid.
    """
    table = summarise(run.headline, ["model", "layer", "grid"])
    layered = table[table["layer"] != NO_LAYER]
    grids = layer_grids(run)
    if common:
        rows = _of(run, run.protocol + COMMON_GRID)
        rows = rows[(rows["metric"] == run.metric) & (rows["head"] == ALL_HEADS) & (rows["layer"] != NO_LAYER)]
        layered = summarise(rows, ["model", "layer", "grid"])
        grids = dict(zip(layered["layer"], layered["grid"], strict=True))
    return pd.concat([layered.drop(columns="grid"), _at_layers(table, grids)], ignore_index=True)


def _at_layers(table: pd.DataFrame, grids: Mapping[int, str]) -> pd.DataFrame:
    """Repeat what belongs to a grid at each layer of that grid."""
    places = pd.DataFrame({"layer": list(grids), "grid": list(grids.values())}).astype({"grid": table["grid"].dtype})
    return table[table["layer"] == NO_LAYER].drop(columns="layer").merge(places, on="grid").drop(columns="grid")


def reference_rows(run: ProbeRun, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the references beside the selected layer: on its own queries, or on those of its grid.

    Args:
        run: The probe run.
        rows: Of its score table.
    """
    mine = (rows["layer"] == run.layer) | (rows["layer"] == NO_LAYER)
    return rows[rows["model"].isin(REFERENCES) & mine & (rows["grid"] == run.grid)]


def shown_layers(run: ProbeRun, count: int = 3) -> list[int]:
    """Choose the layers that are drawn in detail: the selected one, then those runners-up that are shown to match.

    Args:
        run: The probe run.
        count: How many at most.
    """
    sure = run.layers.loc[run.layers["above_null"].astype(bool), "layer"]
    after = [int(entry["layer"]) for entry in run.selection.get("runners_up", [])]
    return list(dict.fromkeys([run.layer, *(layer for layer in after if layer in set(sure))]))[:count]


def shown(run: ProbeRun) -> list[str]:
    """Order what is drawn in detail: the shown layers, the references, the rivals."""
    return [*(f"layer {n}" for n in shown_layers(run)), *REFERENCES, *rivals(run)]


def named(run: ProbeRun, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the shown layers, and of baselines and references on the selected layer's grid.

    A column who names them.

    Args:
        run: The probe run.
        rows: Of its score table.
    """
    layers = rows[(rows["model"] == run.model) & rows["layer"].isin(shown_layers(run))]
    matchers = rows[(rows["layer"] == NO_LAYER) & (rows["grid"] == run.grid) & ~rows["model"].isin(REFERENCES)]
    others = pd.concat([reference_rows(run, rows), matchers])
    return pd.concat([layers.assign(who="layer " + layers["layer"].astype(str)), others.assign(who=others["model"])])


def noiseless(run: ProbeRun) -> bool:
    """Return whether the model saw clean images only, as one that takes no noise does; timesteps then mean nothing.

    Args:
        run: The probe run.
    """
    return bool((run.timesteps["alpha_bar"] == 1).all())


def by_timestep(run: ProbeRun) -> pd.DataFrame:
    """Return precision per 3D layer and timestep: columns layer, timestep, value, low, high, scenes, units, count."""
    rows = run.headline
    return summarise(rows[(rows["model"] == run.model) & (rows["layer"] != NO_LAYER)], ["layer", "timestep"])


def by_head(run: ProbeRun) -> pd.DataFrame:
    """Return precision per 3D layer and head, heads apart: columns layer, head and :data:`NUMBERS`."""
    rows = run.measured
    wanted = (rows["model"] == run.model) & (rows["metric"] == run.metric) & (rows["head"] != ALL_HEADS)
    return summarise(rows[wanted & (rows["layer"] != NO_LAYER)], ["layer", "head"])


def attention(run: ProbeRun) -> pd.DataFrame:
    """Return attention mass and entropy per 3D layer, beside those of attention that is equal everywhere.

    Returns:
        Columns model (the probed one or the uniform chance), metric, layer, value, low, high, scenes, units, count.
    """
    rows = run.measured
    wanted = rows["metric"].isin(ATTENTION_METRICS) & (rows["head"] == ALL_HEADS)
    table = summarise(
        rows[wanted & rows["model"].isin([run.model, UNIFORM])], ["model", "metric", "layer", "grid"], shares=False
    )
    layered = table[table["layer"] != NO_LAYER].drop(columns="grid")
    return pd.concat([layered, _at_layers(table, layer_grids(run))], ignore_index=True) if len(layered) else layered


def matchers(run: ProbeRun) -> pd.DataFrame:
    """Return all that the selected layer is compared with: the model's nulls, the baselines and the references.

    Returns:
        Columns model, layer (-1 where there is none), grid, value, low, high, scenes, units, count. Nulls of the model
        stand with the selected layer, the others with each grid.
    """
    table = summarise(run.headline, ["model", "layer", "grid"])
    kept = table[(table["layer"] == run.layer) | (table["layer"] == NO_LAYER)]
    order = {name: n for n, name in enumerate([run.model, *rivals(run), *REFERENCES])}
    area = kept["grid"].map(_tokens).astype(int)
    return kept.assign(order=kept["model"].map(order).astype(int), area=-area).sort_values(["order", "area"])[
        ["model", "layer", "grid", *NUMBERS]
    ]


def _tokens(grid: str) -> int:
    return math.prod(parse_grid(grid))


def thresholds(run: ProbeRun) -> pd.DataFrame:
    """Return every precision of the selected layer beside its references: columns metric, model, value, ..., count."""
    rows = run.measured
    wanted = rows["metric"].astype(str).map(lambda name: split_threshold(name) and split_coverage(name)[1] is None)
    rows = rows[wanted.astype(bool)]
    mine = (rows["model"] == run.model) & (rows["layer"] == run.layer) & (rows["head"] == ALL_HEADS)
    return summarise(pd.concat([rows[mine], reference_rows(run, rows)]), ["metric", "model"])


def coverage(run: ProbeRun) -> pd.DataFrame:
    """Return precision against the share of matches kept (ratio-v1 and ratio-v2); empty for other protocols.

    Returns:
        Columns who, coverage, value, low, high, scenes, units, count.
    """
    rows = run.measured
    parts = rows["metric"].astype(str).map(split_coverage)
    rows = rows.assign(coverage=parts.str[1].astype(float))
    rows = rows[(parts.str[0] == run.metric) & rows["coverage"].notna() & (rows["head"] == ALL_HEADS)]
    table = summarise(named(run, rows), ["who", "coverage"])
    order = {name: n for n, name in enumerate(shown(run))}
    return table.sort_values("who", key=lambda who: who.map(order), kind="stable", ignore_index=True)


def worst_pairs(run: ProbeRun, count: int = 12) -> pd.DataFrame:
    """List the ordered pairs of views in which the selected layer finds least, the worst first.

    Args:
        run: The probe run.
        count: How many at most.

    Returns:
        Columns scene, query_view, key_view, rotation_deg, value, same_position, count (matches, over all timesteps).
    """
    keys = ["scene", "query_view", "key_view", "rotation_deg"]
    rows = run.headline
    here = rows[(rows["model"] == run.model) & (rows["layer"] == run.layer)]
    there = reference_rows(run, rows[rows["model"] == SAME_POSITION])
    own, still = (scene_values(part, keys[1:]) for part in (here, there))
    table = own.merge(still.rename(columns={"value": "same_position"}).drop(columns="count"), on=keys, how="left")
    return table.sort_values(["value", *keys], kind="stable").head(count)[[*keys, "value", "same_position", "count"]]
