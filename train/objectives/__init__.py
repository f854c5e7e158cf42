"""What is added to the diffusion objective: CAMEO's supervised attention, competing objectives, negative controls.

Each objective is a module that (1) prepares the truth of a batch, (2) watches chosen layers during the forward pass,
(3) turns what it recorded and the truth into one number. Its weights serve training only.

Source:
    CAMEO (arXiv 2512.03045); REPA (arXiv 2410.06940).
"""

from train.objectives.base import Average, BatchTruth, Grid, Objective, grid_of
from train.objectives.encoders import ENCODERS, dinov2_encoder, encode_dsift, encode_points
from train.objectives.features import FeatureAlignment, FeatureTruth, make_competing_objective
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
    "ENCODERS",
    "GATE",
    "TRUTHS",
    "AttentionSupervision",
    "AttentionTruth",
    "Average",
    "BatchTruth",
    "FeatureAlignment",
    "FeatureTruth",
    "Grid",
    "Objective",
    "counted_pairs",
    "cycle_truth",
    "dinov2_encoder",
    "encode_dsift",
    "encode_points",
    "gated_truth",
    "grid_of",
    "make_competing_objective",
    "shuffled",
    "view_tokens",
    "visible_truth",
]
