"""What is added to the diffusion objective: CAMEO's supervised attention, competing objectives, negative controls.

Each objective is a module that (1) prepares the truth of a batch, (2) watches chosen layers during the forward pass,
(3) turns what it recorded and the truth into one number. Its weights serve training only.

Source:
    CAMEO (arXiv 2512.03045); REPA (arXiv 2410.06940); VideoREPA (arXiv 2505.23656); iREPA (arXiv 2512.10794).
"""

from train.objectives.base import Average, BatchTruth, Grid, Objective, grid_of
from train.objectives.encoders import (
    dinov2_encoder,
    encode_dsift,
    encode_normalised_dsift,
    encode_points,
    normalise_over_space,
)
from train.objectives.features import (
    ConvolutionProjector,
    FeatureAlignment,
    FeatureTruth,
    cosine_loss,
    mlp_projector,
    relation_loss,
    relations,
)
from train.objectives.rivals import RIVALS, Rival, make_competing_objective
from train.objectives.supervision import (
    GATE,
    TRUTHS,
    AttentionSupervision,
    AttentionTruth,
    counted_pairs,
    cycle_truth,
    gated_truth,
    shuffled,
    view_tokens,
    visible_truth,
)

__all__ = [
    "GATE",
    "RIVALS",
    "TRUTHS",
    "AttentionSupervision",
    "AttentionTruth",
    "Average",
    "BatchTruth",
    "ConvolutionProjector",
    "FeatureAlignment",
    "FeatureTruth",
    "Grid",
    "Objective",
    "Rival",
    "cosine_loss",
    "counted_pairs",
    "cycle_truth",
    "dinov2_encoder",
    "encode_dsift",
    "encode_normalised_dsift",
    "encode_points",
    "gated_truth",
    "grid_of",
    "make_competing_objective",
    "mlp_projector",
    "normalise_over_space",
    "relation_loss",
    "relations",
    "shuffled",
    "view_tokens",
    "visible_truth",
]
