"""From scores to the layer, with its evidence."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from probe.protocols import PROTOCOLS
from probe.records import (
    ALL_HEADS,
    CEILING,
    COMMON_GRID,
    INTERVENTIONS,
    NO_LAYER,
    REFERENCES,
    SAME_POSITION,
    UNIFORM,
    scene_values,
    summarise,
)
from probe.records.intervals import draws, mean, quantile, ratio
from probe.records.names import is_null
from probe.selection.candidate import Candidate
from probe.selection.ties import RULE, CausalEffects, causal_effects, weigh
from probe.selection.words import effect_words, evidence_words, weighing_words


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The best layer, how sure that is, and what was weighed.

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
        """Return plain values for selection.json."""
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
    rows, way = in_direction(measured[measured["metric"] == metric], direction)
    own = layers_of(rows, model)
    if own["value"].notna().sum() == 0:
        raise ValueError(
            f"select_layer: {model!r} has no counted {metric!r} in direction {way!r}; the table holds the metrics "
            f"{_kinds(measured, 'metric')} and the directions {_kinds(measured, 'direction')}"
        )
    effects = causal_effects(_edited(scores, model), sorted(own["layer"].unique().tolist()))
    candidates, drawn = _candidates(rows, own, effects, costs or {})
    order, contenders = _weighed(candidates, drawn, own, effects)
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
        evidence=evidence_words(best, ties, metric, scenes, above_chance=above_chance),
        rule=RULE,
        weighing=weighing_words(best.layer, contenders, effects, {c.layer: c.cost for c in candidates}),
        effect_rule=effect_words(effects),
    )


def _edited(scores: pd.DataFrame, model: str) -> pd.DataFrame:
    """Return the rows that say what editing the model's layers changes."""
    return layers_of(scores[scores["protocol"] == INTERVENTIONS], model)


def _worse(drawn: np.ndarray, position: int) -> np.ndarray:
    """Return which layers are shown to be worse than one: the interval of the paired difference lies above zero."""
    return quantile(drawn[:, [position]] - drawn, 0.025) > 0


def _weighed(
    candidates: list[Candidate], drawn: np.ndarray, own: pd.DataFrame, effects: CausalEffects
) -> tuple[list[int], list[int]]:
    """Rank the candidates, the chosen one first; return with them the layers that it was chosen from."""
    order = _order(candidates, own)
    lead, above, worse = order[0], _above_chance(candidates, own), _worse(drawn, order[0])
    within = np.array(_ranked_by(candidates)) >= candidates[lead].low
    near = [k for k in order[1:] if above[lead] and above[k] and not worse[k] and within[k]]
    contenders = [candidates[k].layer for k in (lead, *near)]
    layers, costs = [c.layer for c in candidates], {c.layer: c.cost for c in candidates}
    chosen = layers.index(weigh(contenders, effects, costs))
    return [chosen, *(k for k in order if k != chosen)], contenders


def _one_protocol(scores: pd.DataFrame) -> pd.DataFrame:
    """Leave out the common-grid variant and the interventions; refuse what must not be ranked together."""
    protocol = scores["protocol"].astype(str)
    rows = scores[~protocol.str.endswith(COMMON_GRID) & (protocol != INTERVENTIONS)]
    for column in ("protocol", "pair_list"):
        kinds = _kinds(rows, column) if column in rows else []
        if len(kinds) > 1:
            raise ValueError(
                f"select_layer: scores of different {column}s {kinds} cannot be ranked together; choose one"
            )
    return rows


def _kinds(rows: pd.DataFrame, column: str) -> list[str]:
    return sorted(rows[column].astype(str).unique())


def _one_model(rows: pd.DataFrame) -> str:
    probed = [
        name for name in _kinds(rows[rows["layer"] >= 0], "model") if not is_null(name) and name not in REFERENCES
    ]
    if len(probed) != 1:
        raise ValueError(f"select_layer: expected the layers of one model, found {probed}; name one with model=")
    return probed[0]


def layers_of(rows: pd.DataFrame, model: str) -> pd.DataFrame:
    """Return the rows of a model's layers at its last training step, all heads together."""
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


def in_direction(rows: pd.DataFrame, direction: str | None) -> tuple[pd.DataFrame, str]:
    """Keep the rows of a direction, None for the protocol's own; return it with them."""
    if direction is None:
        protocol = PROTOCOLS.get(str(rows["protocol"].iloc[0])) if len(rows) else None
        direction = protocol.direction if protocol and (rows["direction"] == protocol.direction).any() else "all"
    return (rows if direction == "all" else rows[rows["direction"] == direction]), direction


def _by_scene(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Lay out one value per scene (row) and value of a column: mean over timesteps and pairs, weighted by count."""
    values = scene_values(rows, [column])
    return values.set_index(["scene", column])["value"].unstack(column)  # noqa: PD010, each scene has one value


def _candidates(
    rows: pd.DataFrame, own: pd.DataFrame, effects: CausalEffects, costs: Mapping[int, float]
) -> tuple[list[Candidate], np.ndarray]:
    """Score every layer; return with them the bootstrap draws of what they are ranked by, [resamples, layers]."""
    layers = own.drop_duplicates("layer").set_index("layer").sort_index()
    precision = _by_scene(own, "layer").reindex(columns=layers.index)
    limits = _by_scene(rows[rows["model"] == CEILING], "grid")
    ceiling = limits.reindex(index=precision.index, columns=layers["grid"].to_numpy())
    chance, same = (_at_layers(rows, name, layers["grid"]) for name in (UNIFORM, SAME_POSITION))
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
            chance=float(chance[layer]),
            same_position=float(same[layer]),
            ceiling=float(ceiling.iloc[:, k].mean()),
            share_of_ceiling=float(share[k]),
            low=float(low[k]),
            high=float(high[k]),
            **_weights(int(layer), effects, costs),
        )
        for k, (layer, info) in enumerate(layers.iterrows())
    ]
    return candidates, drawn


def _weights(layer: int, effects: CausalEffects, costs: Mapping[int, float]) -> dict[str, Any]:
    """Return what is weighed beside correspondence."""
    names = ("causal_effect", "causal_low", "causal_high", "causal_count")
    return {**dict(zip(names, effects.of(layer), strict=True)), "cost": costs.get(layer, np.nan)}


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
    """Return what layers are ranked by: the share of the ceiling, or precision where a ceiling is missing."""
    by_share = any(candidate.share_of_ceiling >= 0 for candidate in candidates)
    return [candidate.share_of_ceiling if by_share else candidate.precision for candidate in candidates]


def _at_layers(rows: pd.DataFrame, model: str, grids: pd.Series) -> pd.Series:
    """Average a reference over scenes, per layer: on the layer's own queries, else on those of its grid."""
    per_grid = _by_scene(rows[(rows["model"] == model) & (rows["layer"] == NO_LAYER)], "grid").mean()
    own = _by_scene(layers_of(rows, model), "layer").mean().reindex(grids.index)
    return own.fillna(grids.map(per_grid.to_dict())).astype(float)
