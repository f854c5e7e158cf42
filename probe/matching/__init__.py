"""Matching: where the attention, or the nearest descriptor, of each query token lies in each key view."""

from probe.matching.attention import (
    AttentionMatches,
    attention_matches,
    common_grid_matches,
    first_highest,
    upsampling,
    weights_within_views,
)
from probe.matching.descriptors import (
    RatioMatches,
    cosine_matches,
    key_pools,
    nearest_of_pool,
    pooled_matches,
    ratio_matches,
)
from probe.matching.tokens import Bias, hides_image_tokens, image_tokens, in_order

__all__ = [
    "AttentionMatches",
    "Bias",
    "RatioMatches",
    "attention_matches",
    "common_grid_matches",
    "cosine_matches",
    "first_highest",
    "hides_image_tokens",
    "image_tokens",
    "in_order",
    "key_pools",
    "nearest_of_pool",
    "pooled_matches",
    "ratio_matches",
    "upsampling",
    "weights_within_views",
]
