"""The CAMEO loss: supervise the attention between views with true matches, in memory linear in the tokens. Pure."""

from train.alignment.loss import (
    BACKENDS,
    NUMBERS_AT_ONCE,
    NUMBERS_ELSEWHERE,
    CorrespondenceAlignment,
    chunk_loss,
    pairs_at_once,
    query_chunks,
    readout_matches,
)
from train.alignment.mixing import MIXINGS, HeadMixing
from train.alignment.pairs import TARGETS, pair_weights

__all__ = [
    "BACKENDS",
    "MIXINGS",
    "NUMBERS_AT_ONCE",
    "NUMBERS_ELSEWHERE",
    "TARGETS",
    "CorrespondenceAlignment",
    "HeadMixing",
    "chunk_loss",
    "pair_weights",
    "pairs_at_once",
    "query_chunks",
    "readout_matches",
]
