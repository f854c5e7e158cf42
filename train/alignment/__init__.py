"""The CAMEO loss: supervise the attention between views with true matches, in memory linear in the tokens. Pure."""

from train.alignment.loss import (
    BACKENDS,
    NUMBERS_AT_ONCE,
    NUMBERS_ELSEWHERE,
    Backend,
    CorrespondenceAlignment,
    chunk_loss,
    pairs_at_once,
    query_chunks,
    readout_matches,
)

__all__ = [
    "BACKENDS",
    "NUMBERS_AT_ONCE",
    "NUMBERS_ELSEWHERE",
    "Backend",
    "CorrespondenceAlignment",
    "chunk_loss",
    "pairs_at_once",
    "query_chunks",
    "readout_matches",
]
