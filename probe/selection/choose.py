"""From scores to the layer, with its evidence."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from probe.protocols import PROTOCOLS
from probe.records import CAMERAS_ONLY, COMMON_GRID, INTERVENTIONS, REFERENCES, SAME_POSITION, UNIFORM
from probe.records.names import NULL_LABELS, is_null
from probe.selection.candidate import Candidate
from probe.selection.evidence import Evidence, layers_of, weigh_evidence
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
        units: Number of independent units among them: recordings, or blocks of time of a lone one.
        best: The layer's numbers.
        ties: Indexes of layers that are not shown to be worse: the interval of the difference, paired by unit and
            covering the differences of all layers at once with 95 %, has zero in it, or there are fewer than five
            units.
        ahead: Whether every other layer is shown to be worse (below five units all tie); never of one layer alone.
        runners_up: All other layers, best first; those without a counted match come last.
        above_chance: Whether the best layer is shown to be above uniform chance, with intervals that cover all layers.
        above_null: Whether it is shown to be above the strongest null: uniform chance, same position, and cameras only
            where that was measured.
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
    units: int
    best: Candidate
    ties: tuple[int, ...]
    ahead: bool
    runners_up: tuple[Candidate, ...]
    above_chance: bool
    above_null: bool
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

    Layers that are not shown to be above the strongest null come after all that are, and of these the ones above
    uniform chance first: on a coarse grid the ceiling is low, and a share of it is soon noise. Where the table lacks
    the ceiling of a layer's grid, all layers are ranked by precision instead; where it lacks the nulls, none counts as
    above them. Where the table lacks causal effects, neither they nor cost are weighed. The rule in full:
    :data:`probe.selection.ties.RULE`.

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
    evidence = weigh_evidence(rows, own, model)
    candidates = _candidates(own, evidence, effects, costs or {})
    order, contenders = _weighed(candidates, evidence, effects)
    best = candidates[order[0]]
    worse = evidence.worse(order[0])
    ties = tuple(candidates[k].layer for k in order[1:] if not worse[k] and candidates[k].precision >= 0)
    units = int(evidence.precision.units[order[0]])
    measured_layers = sum(candidate.precision >= 0 for candidate in candidates)
    return Selection(
        layer=best.layer,
        name=best.name,
        model=model,
        metric=metric,
        direction=way,
        protocol=str(rows["protocol"].iloc[0]),
        pair_list=str(rows["pair_list"].iloc[0]) if "pair_list" in rows else "",
        timesteps=tuple(sorted(int(t) for t in own["timestep"].unique())),
        scenes=own.loc[own["value"].notna(), "scene"].nunique(),
        units=units,
        best=best,
        ties=ties,
        ahead=measured_layers > 1 and not ties,
        runners_up=tuple(candidates[k] for k in order[1:]),
        above_chance=best.above_chance,
        above_null=best.above_null,
        evidence=evidence_words(best, ties, metric, units, alone=measured_layers == 1),
        rule=RULE,
        weighing=weighing_words(best.layer, contenders, effects, {c.layer: c.cost for c in candidates}),
        effect_rule=effect_words(effects),
    )


def _edited(scores: pd.DataFrame, model: str) -> pd.DataFrame:
    """Return the rows that say what editing the model's layers changes."""
    return layers_of(scores[scores["protocol"] == INTERVENTIONS], model)


def _weighed(candidates: list[Candidate], evidence: Evidence, effects: CausalEffects) -> tuple[list[int], list[int]]:
    """Rank the candidates, the chosen one first; return with them the layers that it was chosen from."""
    order = _order(candidates, evidence.ranked.value)
    lead, worse = order[0], evidence.worse(order[0])
    within = evidence.ranked.value >= candidates[lead].low
    able = candidates[lead].above_null
    near = [k for k in order[1:] if able and candidates[k].above_null and not worse[k] and within[k]]
    contenders = [candidates[k].layer for k in (lead, *near)]
    layers, costs = [c.layer for c in candidates], {c.layer: c.cost for c in candidates}
    chosen = layers.index(weigh(contenders, effects, costs))
    return [chosen, *(k for k in order if k != chosen)], contenders


def _order(candidates: list[Candidate], ranked: np.ndarray) -> list[int]:
    """Rank: above every null first, then above chance; within these by what layers are ranked by."""
    keys = [
        (-(candidate.above_null + candidate.above_chance), bool(np.isnan(score)), -score, candidate.layer)
        for candidate, score in zip(candidates, ranked, strict=True)
    ]
    return sorted(range(len(candidates)), key=keys.__getitem__)


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


def _candidates(
    own: pd.DataFrame, evidence: Evidence, effects: CausalEffects, costs: Mapping[int, float]
) -> list[Candidate]:
    """Write down each layer's numbers."""
    described = own.drop_duplicates("layer").set_index("layer")
    above_chance, above_null = evidence.above(UNIFORM), evidence.above_all()
    return [
        Candidate(
            layer=layer,
            name=str(described.loc[layer, "layer_name"]),
            grid=str(described.loc[layer, "grid"]),
            precision=float(evidence.precision.value[k]),
            ceiling=float(evidence.ceiling[k]),
            share_of_ceiling=float(evidence.share[k]),
            low=float(evidence.ranked.low[k]),
            high=float(evidence.ranked.high[k]),
            above_chance=bool(above_chance[k]),
            above_null=bool(above_null[k]),
            **_nulls(evidence, k),
            **_weights(layer, effects, costs),
        )
        for k, layer in enumerate(evidence.layers)
    ]


def _nulls(evidence: Evidence, position: int) -> dict[str, Any]:
    """Return what a layer's nulls reach, and its lead over the strongest."""
    names = {UNIFORM: "chance", SAME_POSITION: "same_position", CAMERAS_ONLY: "cameras_only"}
    reached = {
        name: float(evidence.leads[null].null[position]) if null in evidence.leads else np.nan
        for null, name in names.items()
    }
    null = evidence.strongest(position)
    if not null:
        return {**reached, "null": "", **dict.fromkeys(("lead", "lead_low", "lead_high"), np.nan)}
    lead = evidence.leads[null]
    ends = {"lead": lead.value, "lead_low": lead.low, "lead_high": lead.high}
    return {**reached, "null": NULL_LABELS[null], **{name: float(array[position]) for name, array in ends.items()}}


def _weights(layer: int, effects: CausalEffects, costs: Mapping[int, float]) -> dict[str, Any]:
    """Return what is weighed beside correspondence."""
    names = ("causal_effect", "causal_low", "causal_high", "causal_count")
    return {**dict(zip(names, effects.of(layer), strict=True)), "cost": costs.get(layer, np.nan)}
