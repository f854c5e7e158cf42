"""What the scores say of every layer: precision, its nulls and its ceiling, as ratios over independent units.

A layer's precision is compared with each null on the same queries, and every layer with every other. Claims about many
layers hold jointly: the intervals behind them cover all of a family at once with 95 %.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from probe.records import ALL_HEADS, CAMERAS_ONLY, CEILING, NO_LAYER, SAME_POSITION, UNIFORM
from probe.records.intervals import Ratios, against_all, divide, joint_widening, ratios, wide
from probe.records.table import unit_sums


@dataclass(frozen=True, kw_only=True)
class Lead:
    """By how much layers are ahead of one null; the intervals hold for all layers at once.

    Attributes:
        null: Precision of the null, per layer.
        value: Precision minus the null's.
        low: NaN below five units.
        high: NaN below five units.
    """

    null: np.ndarray
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The scores of all layers, in the order of ``layers``.

    Attributes:
        layers: Their indexes.
        precision: Of each.
        ceiling: Of each one's grid, on the same queries; NaN where it was not measured.
        share: Precision over ceiling; NaN unless the ceilings of all layers are known.
        ranked: What layers are ranked by: the share, or the precision.
        leads: Over each null that was measured, by its name in the score table.
    """

    layers: tuple[int, ...]
    precision: Ratios
    ceiling: np.ndarray
    share: np.ndarray
    ranked: Ratios
    leads: Mapping[str, Lead]

    def above(self, null: str) -> np.ndarray:
        """Return which layers are shown to be above a null; none where it was not measured."""
        return self.leads[null].low > 0 if null in self.leads else np.zeros(len(self.layers), bool)

    def above_all(self) -> np.ndarray:
        """Return which layers are shown to be above every null that was measured."""
        shown = [self.above(null) for null in self.leads]
        return np.logical_and.reduce(shown) if shown else np.zeros(len(self.layers), bool)

    def strongest(self, position: int) -> str:
        """Return the null that a layer is shown to lead by least, or leads by least; empty where none is known."""
        known = {
            null: (-np.inf if np.isnan(lead.low[position]) else lead.low[position], lead.value[position])
            for null, lead in self.leads.items()
            if np.isfinite(lead.value[position])
        }
        return min(known, key=known.__getitem__) if known else ""

    def worse(self, position: int) -> np.ndarray:
        """Return which layers are shown to be worse than one."""
        return against_all(self.ranked, position).low > 0


def weigh_evidence(rows: pd.DataFrame, own: pd.DataFrame, model: str) -> Evidence:
    """Compare the layers of a model with their nulls and with each other.

    Args:
        rows: Of one metric, direction and protocol, of everything that was measured.
        own: Of them, the rows of the model's layers, all heads together.
        model: Name of the model.
    """
    grids = own.drop_duplicates("layer").set_index("layer")["grid"].astype(str).sort_index()
    layers = tuple(int(layer) for layer in grids.index)
    sums = unit_sums(own, ["layer"])
    units = sorted(sums["unit"].unique())
    hits, counts = wide(sums, "layer", layers, units)
    best = _reference_hits(rows, CEILING, grids, counts, units)
    precision, limit = ratios(hits, counts), ratios(best, counts).value
    by_share = not (np.isnan(limit) & ~np.isnan(precision.value)).any()
    ranked = ratios(hits, best) if by_share else precision
    return Evidence(
        layers=layers,
        precision=precision,
        ceiling=limit,
        share=ranked.value if by_share else np.full(len(layers), np.nan),
        ranked=ranked,
        leads=dict(_leads(rows, own, model, grids, units)),
    )


def _leads(
    rows: pd.DataFrame, own: pd.DataFrame, model: str, grids: pd.Series, units: Sequence[object]
) -> Iterator[tuple[str, Lead]]:
    """Compare the layers with each null that was measured."""
    hits, counts = wide(unit_sums(own, ["layer"]), "layer", list(grids.index), units)
    for null in (UNIFORM, SAME_POSITION):
        guessed = _reference_hits(rows, null, grids, counts, units)
        known = np.isfinite(guessed) & (counts > 0)
        if known.any():
            shown = np.where(known, counts, 0)
            yield null, _lead(ratios(np.where(known, hits, 0), shown), ratios(np.where(known, guessed, 0), shown))
    blind = rows[(rows["model"] == model + CAMERAS_ONLY) & rows["layer"].isin(grids.index) & (rows["head"] < 0)]
    if len(blind):
        alike = own[own["timestep"].isin(blind["timestep"].unique())]
        mine, theirs = (wide(unit_sums(part, ["layer"]), "layer", list(grids.index), units) for part in (alike, blind))
        both = (mine[1] > 0) & (theirs[1] > 0)
        yield CAMERAS_ONLY, _lead(*(ratios(np.where(both, a, 0), np.where(both, b, 0)) for a, b in (mine, theirs)))


def _lead(layers: Ratios, null: Ratios) -> Lead:
    ahead = layers.ahead_of(null)
    low, high = ahead.widened(joint_widening(ahead))
    return Lead(null=null.value, value=ahead.value, low=low, high=high)


def _reference_hits(
    rows: pd.DataFrame, name: str, grids: pd.Series, counts: np.ndarray, units: Sequence[object]
) -> np.ndarray:
    """Return how many of each layer's counted queries a reference gets right, [units, layers].

    On the layer's own queries where the reference was scored on them, else at the rate of the layer's grid; NaN where
    it was not measured on a unit's queries.
    """
    named = rows[(rows["model"] == name) & (rows["head"] == ALL_HEADS)].assign(
        grid=lambda part: part["grid"].astype(str)
    )
    apart = named["layer"] == NO_LAYER
    of_grid = _rates(named[apart], "grid", grids, units)
    of_layer = _rates(layers_of(rows, name), "layer", list(grids.index), units)
    rate = np.where(np.isnan(of_layer), of_grid, of_layer)
    return np.where(counts > 0, rate * counts, 0)


def _rates(rows: pd.DataFrame, column: str, order: Sequence[object] | pd.Series, units: Sequence[object]) -> np.ndarray:
    return divide(*wide(unit_sums(rows, [column]), column, order, units))


def layers_of(rows: pd.DataFrame, model: str) -> pd.DataFrame:
    """Return the rows of a model's layers at its last training step, all heads together."""
    own = rows[(rows["model"] == model) & (rows["head"] == ALL_HEADS) & (rows["layer"] >= 0)]
    if "step" not in own or own["step"].isna().all():
        return own
    return own[own["step"] == own["step"].max()]
