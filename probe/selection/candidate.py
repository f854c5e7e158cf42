"""A layer's numbers, as selection weighs them."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A layer's score: precision over the ceiling of its grid.

    Attributes:
        layer: Index among all self-attentions.
        name: Of its module.
        grid: Token rows x columns of a view.
        precision: NaN where nothing was counted, like all that follows.
        chance: Precision of a token drawn uniformly.
        same_position: Precision of the token at the same place.
        cameras_only: Precision of the same layer where all images are grey; NaN if that was not measured.
        ceiling: Precision of the best token of the grid.
        share_of_ceiling: NaN unless the ceilings of all layers are known, and where the ceiling is 0.
        low: Of what layers are ranked by (the share, or the precision where ceilings are missing), the lower end of the
            95 % interval over independent units; NaN below five units.
        high: Its upper end.
        null: The strongest null: uniform chance, same position, or cameras only where that was measured.
        lead: Precision minus that of the strongest null, at the timesteps of the null.
        lead_low: Lower end of its 95 % interval, which holds for all layers at once; NaN below five units.
        lead_high: Its upper end.
        above_chance: Whether precision minus uniform chance has such an interval above zero.
        above_null: Whether precision minus each null has such an interval above zero.
        causal_effect: How much the denoised prediction's error grows when the layer is broken, relatively; NaN where
            that was not measured, like its interval.
        causal_low: Lower end of its 95 % interval over independent units.
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
    cameras_only: float
    ceiling: float
    share_of_ceiling: float
    low: float
    high: float
    null: str
    lead: float
    lead_low: float
    lead_high: float
    above_chance: bool
    above_null: bool
    causal_effect: float
    causal_low: float
    causal_high: float
    causal_count: int
    cost: float
