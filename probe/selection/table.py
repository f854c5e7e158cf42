"""One row per 3D layer: the columns of layers.csv."""

import numpy as np
import pandas as pd

from probe.records import COMMON_GRID, parse_grid, summarise
from probe.selection.candidate import Candidate
from probe.selection.choose import Selection, in_direction
from probe.selection.evidence import layers_of


def layer_table(scores: pd.DataFrame, selection: Selection) -> pd.DataFrame:
    """Return one row per 3D layer, the columns of layers.csv; what was not measured is NaN.

    Source:
        docs/references.md, "Files of a run".
    """
    own = layers_of(in_direction(scores, selection.direction)[0], selection.model)
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
        "cameras_only": candidate.cameras_only,
        "ceiling": candidate.ceiling,
        "share_of_ceiling": candidate.share_of_ceiling,
        "share_low": candidate.low if ranked_by_share else np.nan,
        "share_high": candidate.high if ranked_by_share else np.nan,
        "null": candidate.null,
        "lead": candidate.lead,
        "lead_low": candidate.lead_low,
        "lead_high": candidate.lead_high,
        "above_null": candidate.above_null,
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
        "units": int(precision["units"].get(layer, 0)),
    }


def _cell(table: pd.DataFrame, layer: int, column: str) -> float:
    return float(table[column].get(layer, np.nan))
