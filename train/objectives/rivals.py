"""The competing objectives by name: which features, through which projector, under which loss."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from probe.layers import Layer
from train.objectives.encoders import (
    OCTAVES,
    Encoder,
    dinov2_encoder,
    encode_dsift,
    encode_normalised_dsift,
    encode_points,
)
from train.objectives.features import (
    Comparison,
    ConvolutionProjector,
    FeatureAlignment,
    Projector,
    cosine_loss,
    mlp_projector,
    relation_loss,
)
from train.settings import CompetingObjective


@dataclass(frozen=True, kw_only=True)
class Rival:
    """What a competing objective is made of; projector and loss are REPA's unless it changes them.

    Attributes:
        load: Return the encoder and the number of its features.
        projector: See :data:`train.objectives.features.Projector`.
        compare: See :data:`train.objectives.features.Comparison`.
    """

    load: Callable[[], tuple[Encoder, int]]
    projector: Projector = mlp_projector
    compare: Comparison = cosine_loss


RIVALS: dict[CompetingObjective, Rival] = {
    "repa-dsift": Rival(load=lambda: (encode_dsift, 128)),
    "repa-dinov2": Rival(load=dinov2_encoder),
    "irepa-dsift": Rival(load=lambda: (encode_normalised_dsift, 128), projector=ConvolutionProjector),
    "trd-dsift": Rival(load=lambda: (encode_dsift, 128), compare=relation_loss),
    "geometry": Rival(load=lambda: (encode_points, 6 * OCTAVES)),
}


def make_competing_objective(
    name: CompetingObjective, layers: Sequence[Layer], shares: Sequence[float] | None = None
) -> FeatureAlignment:
    """Build a competing objective for layers of a network.

    Args:
        name: Key of :data:`RIVALS`.
        layers: Layers that join views on a grid.
        shares: Weight of each layer; None for equal ones that add up to 1.

    Raises:
        ValueError: If the weights of its encoder are missing, or a layer does not fit.
    """
    rival = RIVALS[name]
    encode, width = rival.load()
    return FeatureAlignment(layers, encode, width, shares, projector=rival.projector, compare=rival.compare)
