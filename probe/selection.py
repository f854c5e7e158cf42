"""From scores to the layer, with its evidence."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from probe.protocols import COMMON_GRID, PROTOCOLS
from probe.records import (
    ALL_HEADS,
    CEILING,
    RESAMPLES,
    SAME_POSITION,
    UNIFORM,
    scene_values,
    summarise,
)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Hold a layer's score: precision over the ceiling of its grid, with a 95 % interval by bootstrap over scenes."""

    layer: int
    name: str
    grid: str
    precision: float
    chance: float
    same_position: float
    ceiling: float
    share_of_ceiling: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Name the best layer, by ceiling-normalised precision, and say how sure that is.

    Attributes:
        layer: Index among all self-attentions.
        name: Of its module.
        model: That was probed.
        metric: Ranked by.
        direction: Query side, key side; "all" where the scores hold no such pairs.
        protocol: That measured.
        pair_list: Digest of the pairs.
        timesteps: Averaged over.
        scenes: Number of scenes.
        best: The layer's numbers.
        ties: Indexes of layers whose difference to the best has zero in its 95 % interval (paired by scene).
        runners_up: All other layers, best first.
        above_chance: Whether the best layer's precision interval lies above uniform chance.
        evidence: The result in a sentence.
    """

    layer: int
    name: str
    model: str
    metric: str
    direction: str
    protocol: str
    pair_list: str
    timesteps: tuple[int, ...]
    scenes: int
    best: Candidate
    ties: tuple[int, ...]
    runners_up: tuple[Candidate, ...]
    above_chance: bool
    evidence: str

    def record(self) -> dict[str, Any]:
        """Give plain values for selection.json."""
        return asdict(self)


def select_layer(
    scores: pd.DataFrame, *, metric: str | None = None, direction: str | None = None, model: str | None = None
) -> Selection:
    """Choose the layer with the highest precision over its grid's ceiling.

    Layers whose precision is not above uniform chance (lower end of the interval) come after all that are: on a coarse
    grid the ceiling is low, and a share of it is soon noise.

    Args:
        scores: The score table of one probe run (one protocol, one pair list).
        metric: To rank by; None for the protocol's own.
        direction: Of the pairs; None for the protocol's own, or for all pairs if the table has none of those.
        model: Whose layers; None where the table holds one model beside its nulls and baselines.

    Raises:
        ValueError: If protocols, pair lists or models are mixed, or the metric is absent.
    """
    rows = _one_protocol(scores)
    model = model or _one_model(rows)
    metric = metric or _own_metric(rows)
    rows, way = _in_direction(rows[rows["metric"] == metric], direction)
    own = rows[(rows["model"] == model) & (rows["head"] == ALL_HEADS) & (rows["layer"] >= 0)]
    if own["value"].notna().sum() == 0:
        raise ValueError(
            f"select_layer: {model!r} has no counted {metric!r}; measured are {sorted(scores['metric'].unique())}"
        )
    precision = _by_scene(own)
    layers = own.drop_duplicates("layer").set_index("layer")
    grids = layers["grid"].loc[precision.columns]
    ceiling = _reference(rows, CEILING, precision, grids)
    share = _resampled(precision, ceiling)
    candidates = [
        _candidate(layers, rows, precision, ceiling, share, position) for position in range(len(precision.columns))
    ]
    low = summarise(own, ["layer"]).set_index("layer")["low"]
    beats_chance = [bool(low.get(candidate.layer, np.nan) > candidate.chance) for candidate in candidates]
    keys = [(not above, -candidate.share_of_ceiling) for above, candidate in zip(beats_chance, candidates, strict=True)]
    order = sorted(range(len(candidates)), key=keys.__getitem__)
    best = candidates[order[0]]
    gap = np.quantile(share[:, order[:1]] - share, 0.025, axis=0)
    ties = tuple(candidates[k].layer for k in order[1:] if gap[k] <= 0)
    return Selection(
        layer=best.layer,
        name=best.name,
        model=model,
        metric=metric,
        direction=way,
        protocol=str(rows["protocol"].iloc[0]),
        pair_list=str(rows["pair_list"].iloc[0]) if "pair_list" in rows else "",
        timesteps=tuple(sorted(int(t) for t in own["timestep"].unique())),
        scenes=len(precision),
        best=best,
        ties=ties,
        runners_up=tuple(candidates[k] for k in order[1:]),
        above_chance=beats_chance[order[0]],
        evidence=_evidence(best, ties, metric, len(precision)),
    )


def _one_protocol(scores: pd.DataFrame) -> pd.DataFrame:
    """Leave out the common-grid variant; refuse what must not be ranked together."""
    rows = scores[~scores["protocol"].astype(str).str.endswith(COMMON_GRID)]
    for column in ("protocol", "pair_list"):
        found = sorted(rows[column].astype(str).unique()) if column in rows else []
        if len(found) > 1:
            raise ValueError(
                f"select_layer: scores of different {column}s {found} cannot be ranked together; choose one"
            )
    return rows


def _one_model(rows: pd.DataFrame) -> str:
    models = rows.loc[rows["layer"] >= 0, "model"].astype(str).unique()
    probed = sorted(name for name in models if ": " not in name)
    if len(probed) != 1:
        raise ValueError(f"select_layer: expected the layers of one model, found {probed}; name one with model=")
    return probed[0]


def _own_metric(rows: pd.DataFrame) -> str:
    protocol = PROTOCOLS.get(str(rows["protocol"].iloc[0]))
    precisions = sorted(name for name in rows["metric"].astype(str).unique() if name.startswith("precision"))
    if protocol is not None and protocol.select_by in precisions:
        return protocol.select_by
    if len(precisions) == 1:
        return precisions[0]
    raise ValueError(f"select_layer: name the metric to rank by; measured are {precisions}")


def _in_direction(rows: pd.DataFrame, direction: str | None) -> tuple[pd.DataFrame, str]:
    if direction is None:
        protocol = PROTOCOLS.get(str(rows["protocol"].iloc[0])) if len(rows) else None
        direction = protocol.direction if protocol and (rows["direction"] == protocol.direction).any() else "all"
    return (rows if direction == "all" else rows[rows["direction"] == direction]), direction


def _by_scene(rows: pd.DataFrame) -> pd.DataFrame:
    """Lay out one value per scene (row) and layer (column): mean over timesteps and pairs, weighted by count."""
    return scene_values(rows, ["layer"]).pivot(index="scene", columns="layer", values="value")


def _reference(rows: pd.DataFrame, name: str, like: pd.DataFrame, grids: pd.Series) -> pd.DataFrame:
    """Lay out a reference's value per scene and layer, by the layer's grid; NaN where it was not measured."""
    found = scene_values(rows[rows["model"] == name], ["grid"]).pivot(index="scene", columns="grid", values="value")
    table = found.reindex(index=like.index, columns=list(grids))
    table.columns = like.columns
    return table


def _resampled(precision: pd.DataFrame, ceiling: pd.DataFrame) -> np.ndarray:
    """Draw scenes with replacement; give mean precision over mean ceiling, [resamples, layers]."""
    picks = np.random.default_rng(0).integers(0, len(precision), (RESAMPLES, len(precision)))
    limit = _mean(ceiling.to_numpy()[picks]) if ceiling.notna().any().all() else 1.0
    return _mean(precision.to_numpy()[picks]) / limit


def _mean(values: np.ndarray) -> np.ndarray:
    """Average over scenes that were counted; NaN where none was."""
    known = ~np.isnan(values)
    total, count = np.where(known, values, 0).sum(-2), known.sum(-2)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def _candidate(
    layers: pd.DataFrame,
    rows: pd.DataFrame,
    precision: pd.DataFrame,
    ceiling: pd.DataFrame,
    share: np.ndarray,
    position: int,
) -> Candidate:
    layer = precision.columns[position]
    info, value, limit = layers.loc[layer], precision[layer].mean(), ceiling[layer].mean()
    low, high = np.nanquantile(share[:, position], [0.025, 0.975]) if len(precision) > 1 else (np.nan, np.nan)
    null = {name: _grid_mean(rows, name, info["grid"]) for name in (UNIFORM, SAME_POSITION)}
    return Candidate(
        layer=int(layer),
        name=str(info["layer_name"]),
        grid=str(info["grid"]),
        precision=float(value),
        chance=null[UNIFORM],
        same_position=null[SAME_POSITION],
        ceiling=float(limit),
        share_of_ceiling=float(value / limit) if limit == limit else float(value),
        low=float(low),
        high=float(high),
    )


def _grid_mean(rows: pd.DataFrame, model: str, grid: str) -> float:
    """Average a reference over scenes; NaN where it was not measured."""
    found = scene_values(rows[(rows["model"] == model) & (rows["grid"] == grid)], ["grid"])
    return float(found["value"].mean())


def _evidence(best: Candidate, ties: tuple[int, ...], metric: str, scenes: int) -> str:
    beside = f"not separable from layers {', '.join(map(str, ties))}" if ties else "ahead of every other layer"
    return (
        f"Layer {best.layer} ({best.name}, {best.grid} tokens) reaches {best.share_of_ceiling:.1%} of its grid's ceiling in "
        f"{metric} (95 % interval {best.low:.1%} to {best.high:.1%} over {scenes} scenes); precision {best.precision:.3f}, "
        f"uniform chance {best.chance:.3f}, same position {best.same_position:.3f}, ceiling {best.ceiling:.3f}; {beside}."
    )


def layer_table(scores: pd.DataFrame, selection: Selection) -> pd.DataFrame:
    """Give one row per 3D layer: the columns of layers.csv (DESIGN section 5)."""
    rows, _ = _in_direction(
        scores[scores["head"] == ALL_HEADS], None if selection.direction == "all" else selection.direction
    )
    own = rows[rows["model"] == selection.model]
    native = own[own["protocol"] == selection.protocol]
    precision = summarise(native[native["metric"] == selection.metric], ["layer"]).set_index("layer")
    mass = summarise(native[native["metric"] == "mass_3x3"], ["layer"]).set_index("layer")
    shared = own[(own["protocol"] == selection.protocol + COMMON_GRID) & (own["metric"] == selection.metric)]
    common = summarise(shared, ["layer"]).set_index("layer")
    table = []
    for candidate in sorted([selection.best, *selection.runners_up], key=lambda c: c.layer):
        grid_h, grid_w = (int(side) for side in candidate.grid.split("x"))
        layer = candidate.layer
        table.append(
            {
                "layer": layer,
                "name": candidate.name,
                "grid_h": grid_h,
                "grid_w": grid_w,
                "precision": candidate.precision,
                "precision_low": _cell(precision, layer, "low"),
                "precision_high": _cell(precision, layer, "high"),
                "chance": candidate.chance,
                "same_position": candidate.same_position,
                "ceiling": candidate.ceiling,
                "share_of_ceiling": candidate.share_of_ceiling,
                "share_low": candidate.low,
                "share_high": candidate.high,
                "skill": (candidate.precision - candidate.chance) / (candidate.ceiling - candidate.chance),
                "common_grid_precision": _cell(common, layer, "value"),
                "common_grid_low": _cell(common, layer, "low"),
                "common_grid_high": _cell(common, layer, "high"),
                "mass_true": _cell(mass, layer, "value"),
                "causal_effect": np.nan,
                "count": int(_cell(precision, layer, "count")),
                "scenes": int(_cell(precision, layer, "scenes")),
            }
        )
    return pd.DataFrame(table)


def _cell(table: pd.DataFrame, layer: int, column: str) -> float:
    return float(table.loc[layer, column]) if layer in table.index else float("nan")
