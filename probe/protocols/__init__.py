"""Measuring protocols, named and versioned: how matches are made, which queries count, what is reported.

A protocol is one object; no other code that measures asks which one it is. To add one, write its functions and name it
in :data:`PROTOCOLS`.
"""

from probe.protocols.attention import ATTENTION_V1, attention_scores, common_grid_scores, visible_queries
from probe.protocols.protocol import Probabilities, Protocol, Scores
from probe.protocols.ratio import (
    CAMEO_RELEASE_V1,
    CAMEO_RELEASE_V1_WORDS,
    PROBE3D_V1,
    PROBE3D_V1_WORDS,
    RATIO_V1,
    RATIO_V1_WORDS,
    RATIO_V2,
    RATIO_V2_WORDS,
    RatioRule,
    judged_queries,
    ratio_protocol,
    ratio_scores,
)

__all__ = [
    "ATTENTION_V1",
    "CAMEO_RELEASE_V1",
    "PROBE3D_V1",
    "PROTOCOLS",
    "RATIO_V1",
    "RATIO_V2",
    "Probabilities",
    "Protocol",
    "RatioRule",
    "Scores",
    "attention_scores",
    "common_grid_scores",
    "judged_queries",
    "ratio_protocol",
    "ratio_scores",
    "visible_queries",
]
PROTOCOLS: dict[str, Protocol] = {
    "attention-v1": ATTENTION_V1,
    "ratio-v1": ratio_protocol("ratio-v1", RATIO_V1_WORDS, RATIO_V1),
    "ratio-v2": ratio_protocol("ratio-v2", RATIO_V2_WORDS, RATIO_V2),
    "probe3d-v1": ratio_protocol("probe3d-v1", PROBE3D_V1_WORDS, PROBE3D_V1, select_by="precision@25px/512"),
    "cameo-release-v1": ratio_protocol("cameo-release-v1", CAMEO_RELEASE_V1_WORDS, CAMEO_RELEASE_V1),
}
