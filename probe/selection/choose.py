"""From scores to the layer, with its evidence."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from probe.protocols import COMMON_GRID, PROTOCOLS
from probe.records import (
    ALL_HEADS,
    CEILING,
    INTERVENTIONS,
    SAME_POSITION,
    UNIFORM,
    scene_values,
    summarise,
)
from probe.records.intervals import draws, mean, quantile, ratio
from probe.records.names import is_null, parse_grid
from probe.selection.ties import RULE, Harm, effect_words, harm, listed, weigh, weighing_words

LISTED = 6
"""Ties that the evidence names; more are counted."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Hold a layer's score: precision over the ceiling of its grid.

    Attributes:
        layer: Index among all self-attentions.
        name: Of its module.
        grid: Token rows x columns of a view.
        precision: NaN where nothing was counted, like all that follows.
        chance: Precision of a token drawn uniformly.
        same_position: Precision of the token at the same place.
        ceiling: Precision of the best token of the grid.
        share_of_ceiling: NaN unless the ceilings of all layers are known, and where the ceiling is 0.
        low: Of what layers are ranked by (the share, or the precision where ceilings are missing), the lower end of the
            95 % interval by bootstrap over scenes; NaN for fewer than two scenes.
        high: Its upper end.
        causal_effect: How much the denoised prediction's error grows when the layer is broken, relatively; NaN where
            that was not measured, like its interval.
        causal_low: Lower end of its 95 % interval by bootstrap over scenes.
        causal_high: Upper end.
        causal_count: Scenes that it was measured on; 0 if it was not.
        cost: Of supervising the layer: joint tokens squared times heads; NaN if unknown.
    """

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
    causal_effect: float
    causal_low: float
    causal_high: float
    causal_count: int
    cost: float


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Name the best layer, and say how sure that is and what was weighed.

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
        ties: Indexes of layers that are not shown to be worse: the 95 % interval of the difference, paired by scene,
            has zero in it, or there is none because a single scene was measured.
        runners_up: All other layers, best first; those without a counted match come last.
        above_chance: Whether the best layer's precision interval lies above uniform chance.
        evidence: The result in a sentence.
        rule: How correspondence, causal effect and cost are weighed.
        weighing: What they decided here.
        effect_rule: What the causal effect is; "not measured" if it was not.
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
    rule: str
    weighing: str
    effect_rule: str

    def record(self) -> dict[str, Any]:
        """Give plain values for selection.json."""
        return asdict(self)


def select_layer(
    scores: pd.DataFrame,
    *,
    metric: str | None = None,
    direction: str | None = None,
    model: str | None = None,
    costs: Mapping[int, float] | None = None,
) -> Selection:
    """Choose the layer with the highest precision over its grid's ceiling; causal effect, then cost, settle ties.

    Layers whose precision is not above uniform chance (lower end of the interval) come after all that are: on a coarse
    grid the ceiling is low, and a share of it is soon noise. Where the table lacks the ceiling of a layer's grid, all
    layers are ranked by precision instead; where it lacks chance, none counts as above it. Where the table lacks
    causal effects, neither they nor cost are weighed. The rule in full: :data:`probe.selection.ties.RULE`.

    Args:
        scores: The score table of one probe run (one protocol, one pair list). Of several training steps the last one
            counts. The columns ``pair_list`` and ``step`` may be absent.
        metric: To rank by; None for the protocol's own.
        direction: Of the pairs, or "all"; None for the protocol's own, or for all pairs if the table has none of those.
        model: Whose layers; None where the table holds one model beside its nulls and baselines.
        costs: Of supervising each layer (:func:`probe.selection.ties.supervision_costs`).

    Raises:
        ValueError: If protocols, pair lists or models are mixed, or nothing was counted of what is asked for.
    """
    measured = _one_protocol(scores)
    model = model or _one_model(measured)
    metric = metric or _own_metric(measured)
    rows, way = _in_direction(measured[measured["metric"] == metric], direction)
    own = _layers_of(rows, model)
    if own["value"].notna().sum() == 0:
        raise ValueError(
            f"select_layer: {model!r} has no counted {metric!r} in direction {way!r}; the table holds the metrics "
            f"{_kinds(measured, 'metric')} and the directions {_kinds(measured, 'direction')}"
        )
    harms = harm(_edited(scores, model), sorted(own["layer"].unique().tolist()))
    candidates, drawn = _candidates(rows, own, harms, costs or {})
    order, contenders = _weighed(candidates, drawn, own, harms)
    best = candidates[order[0]]
    worse = _worse(drawn, order[0])
    ties = tuple(candidates[k].layer for k in order[1:] if not worse[k] and candidates[k].precision >= 0)
    above_chance = _above_chance(candidates, own)[order[0]]
    scenes = own.loc[own["value"].notna(), "scene"].nunique()
    return Selection(
        layer=best.layer,
        name=best.name,
        model=model,
        metric=metric,
        direction=way,
        protocol=str(rows["protocol"].iloc[0]),
        pair_list=str(rows["pair_list"].iloc[0]) if "pair_list" in rows else "",
        timesteps=tuple(sorted(int(t) for t in own["timestep"].unique())),
        scenes=scenes,
        best=best,
        ties=ties,
        runners_up=tuple(candidates[k] for k in order[1:]),
        above_chance=above_chance,
        evidence=_evidence(best, ties, metric, scenes, above_chance),
        rule=RULE,
        weighing=weighing_words(best.layer, contenders, harms, {c.layer: c.cost for c in candidates}),
        effect_rule=effect_words(harms),
    )


def _edited(scores: pd.DataFrame, model: str) -> pd.DataFrame:
    """Give the rows that say what editing the model's layers changes."""
    return _layers_of(scores[scores["protocol"] == INTERVENTIONS], model)


def _worse(drawn: np.ndarray, position: int) -> np.ndarray:
    """Tell which layers are shown to be worse than one: the interval of the paired difference lies above zero."""
    return quantile(drawn[:, [position]] - drawn, 0.025) > 0


def _weighed(
    candidates: list[Candidate], drawn: np.ndarray, own: pd.DataFrame, harms: Harm
) -> tuple[list[int], list[int]]:
    """Rank the candidates, the chosen one first; give with them the layers that it was chosen from."""
    order = _order(candidates, own)
    lead, above, worse = order[0], _above_chance(candidates, own), _worse(drawn, order[0])
    within = np.array(_ranked_by(candidates)) >= candidates[lead].low
    near = [k for k in order[1:] if above[lead] and above[k] and not worse[k] and within[k]]
    contenders = [candidates[k].layer for k in (lead, *near)]
    layers, costs = [c.layer for c in candidates], {c.layer: c.cost for c in candidates}
    chosen = layers.index(weigh(contenders, harms, costs))
    return [chosen, *(k for k in order if k != chosen)], contenders


def _one_protocol(scores: pd.DataFrame) -> pd.DataFrame:
    """Leave out the common-grid variant and the interventions; refuse what must not be ranked together."""
    protocol = scores["protocol"].astype(str)
    rows = scores[~protocol.str.endswith(COMMON_GRID) & (protocol != INTERVENTIONS)]
    for column in ("protocol", "pair_list"):
        found = _kinds(rows, column) if column in rows else []
        if len(found) > 1:
            raise ValueError(
                f"select_layer: scores of different {column}s {found} cannot be ranked together; choose one"
            )
    return rows


def _kinds(rows: pd.DataFrame, column: str) -> list[str]:
    return sorted(rows[column].astype(str).unique())


def _one_model(rows: pd.DataFrame) -> str:
    probed = [name for name in _kinds(rows[rows["layer"] >= 0], "model") if not is_null(name)]
    if len(probed) != 1:
        raise ValueError(f"select_layer: expected the layers of one model, found {probed}; name one with model=")
    return probed[0]


def _layers_of(rows: pd.DataFrame, model: str) -> pd.DataFrame:
    """Give the rows of a model's layers at its last training step, all heads together."""
    own = rows[(rows["model"] == model) & (rows["head"] == ALL_HEADS) & (rows["layer"] >= 0)]
    if "step" not in own or own["step"].isna().all():
        return own
    return own[own["step"] == own["step"].max()]


def _own_metric(rows: pd.DataFrame) -> str:
    protocol = PROTOCOLS.get(str(rows["protocol"].iloc[0])) if len(rows) else None
    precisions = [name for name in _kinds(rows, "metric") if name.startswith("precision")]
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


def _by_scene(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Lay out one value per scene (row) and value of a column: mean over timesteps and pairs, weighted by count."""
    values = scene_values(rows, [column])
    return values.set_index(["scene", column])["value"].unstack(column)  # noqa: PD010, each scene has one value


def _candidates(
    rows: pd.DataFrame, own: pd.DataFrame, harms: Harm, costs: Mapping[int, float]
) -> tuple[list[Candidate], np.ndarray]:
    """Score every layer; give with them the bootstrap draws of what they are ranked by, [resamples, layers]."""
    layers = own.drop_duplicates("layer").set_index("layer").sort_index()
    precision = _by_scene(own, "layer").reindex(columns=layers.index)
    limits = _by_scene(rows[rows["model"] == CEILING], "grid")
    ceiling = limits.reindex(index=precision.index, columns=layers["grid"].to_numpy())
    chance, same = (_grid_means(rows, name) for name in (UNIFORM, SAME_POSITION))
    value, limit = precision.to_numpy(), ceiling.to_numpy()
    by_share = not (np.isnan(mean(limit)) & ~np.isnan(mean(value))).any()
    share = np.where(by_share, ratio(mean(value), mean(limit)), np.nan)
    drawn = draws(value, limit if by_share else np.ones_like(value))
    low, high = quantile(drawn, 0.025), quantile(drawn, 0.975)
    candidates = [
        Candidate(
            layer=int(layer),
            name=str(info.layer_name),
            grid=str(info.grid),
            precision=float(precision[layer].mean()),
            chance=float(chance.get(info.grid, np.nan)),
            same_position=float(same.get(info.grid, np.nan)),
            ceiling=float(ceiling.iloc[:, k].mean()),
            share_of_ceiling=float(share[k]),
            low=float(low[k]),
            high=float(high[k]),
            **_weights(int(layer), harms, costs),
        )
        for k, (layer, info) in enumerate(layers.iterrows())
    ]
    return candidates, drawn


def _weights(layer: int, harms: Harm, costs: Mapping[int, float]) -> dict[str, Any]:
    """Give what is weighed beside correspondence."""
    names = ("causal_effect", "causal_low", "causal_high", "causal_count")
    return {**dict(zip(names, harms.of(layer), strict=True)), "cost": costs.get(layer, np.nan)}


def _above_chance(candidates: list[Candidate], own: pd.DataFrame) -> list[bool]:
    low = summarise(own, ["layer"]).set_index("layer")["low"]
    return [bool(low.get(candidate.layer, np.nan) > candidate.chance) for candidate in candidates]


def _order(candidates: list[Candidate], own: pd.DataFrame) -> list[int]:
    """Rank: above chance first, then by share of the ceiling, or by precision where a ceiling is missing."""
    keys = [
        (not above, bool(np.isnan(score)), -score, candidate.layer)
        for candidate, score, above in zip(
            candidates, _ranked_by(candidates), _above_chance(candidates, own), strict=True
        )
    ]
    return sorted(range(len(candidates)), key=keys.__getitem__)


def _ranked_by(candidates: Sequence[Candidate]) -> list[float]:
    """Give what layers are ranked by: the share of the ceiling, or precision where a ceiling is missing."""
    by_share = any(candidate.share_of_ceiling >= 0 for candidate in candidates)
    return [candidate.share_of_ceiling if by_share else candidate.precision for candidate in candidates]


def _grid_means(rows: pd.DataFrame, model: str) -> pd.Series:
    """Average a reference over scenes, per grid."""
    return _by_scene(rows[rows["model"] == model], "grid").mean()


def _evidence(best: Candidate, ties: tuple[int, ...], metric: str, scenes: int, above_chance: bool) -> str:
    beside = f"not separable from {_tied(ties)}" if ties else "ahead of every other layer"
    ranked = (
        f"{best.share_of_ceiling:.1%} of its grid's ceiling in {metric}"
        if best.share_of_ceiling >= 0
        else f"{best.precision:.1%} {metric} (no ceiling was measured)"
    )
    interval = f"95 % interval {best.low:.1%} to {best.high:.1%} over {scenes} scenes" if scenes > 1 else "one scene"
    doubt = "" if above_chance else "No layer was shown to find correspondence: no interval lies above uniform chance. "
    return (
        f"{doubt}Layer {best.layer} ({best.name}, {best.grid} tokens) reaches {ranked} ({interval}); precision "
        f"{best.precision:.3f}, uniform chance {best.chance:.3f}, same position {best.same_position:.3f}, ceiling "
        f"{best.ceiling:.3f}; {beside}."
    )


def _tied(ties: tuple[int, ...]) -> str:
    return listed(ties) if len(ties) <= LISTED else f"{len(ties)} other layers"


def layer_table(scores: pd.DataFrame, selection: Selection) -> pd.DataFrame:
    """Give one row per 3D layer: the columns of layers.csv (DESIGN section 5). What was not measured is NaN."""
    own = _layers_of(_in_direction(scores, selection.direction)[0], selection.model)
    native = own[own["protocol"] == selection.protocol]
    shared = own[own["protocol"] == selection.protocol + COMMON_GRID]
    precision, mass = _summary(native, selection.metric), _summary(native, "mass_3x3")
    common = _summary(shared, selection.metric)
    candidates = sorted([selection.best, *selection.runners_up], key=lambda candidate: candidate.layer)
    return pd.DataFrame([_layer_row(candidate, precision, mass, common) for candidate in candidates])


def _summary(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    return summarise(rows[rows["metric"] == metric], ["layer"]).set_index("layer")


def _layer_row(
    candidate: Candidate, precision: pd.DataFrame, mass: pd.DataFrame, common: pd.DataFrame
) -> dict[str, object]:
    layer, (grid_h, grid_w) = candidate.layer, parse_grid(candidate.grid)
    gain, room = candidate.precision - candidate.chance, candidate.ceiling - candidate.chance
    ranked_by_share = candidate.share_of_ceiling >= 0
    return {
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
        "share_low": candidate.low if ranked_by_share else np.nan,
        "share_high": candidate.high if ranked_by_share else np.nan,
        "skill": gain / room if room > 0 else np.nan,
        "common_grid_precision": _cell(common, layer, "value"),
        "common_grid_low": _cell(common, layer, "low"),
        "common_grid_high": _cell(common, layer, "high"),
        "mass_true": _cell(mass, layer, "value"),
        "causal_effect": candidate.causal_effect,
        "causal_low": candidate.causal_low,
        "causal_high": candidate.causal_high,
        "causal_count": candidate.causal_count,
        "cost": candidate.cost,
        "count": int(precision["count"].get(layer, 0)),
        "scenes": int(precision["scenes"].get(layer, 0)),
    }


def _cell(table: pd.DataFrame, layer: int, column: str) -> float:
    return float(table[column].get(layer, np.nan))
