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
