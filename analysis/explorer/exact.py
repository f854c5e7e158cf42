"""Queries and keys of a layer -> one packed text from which the page computes attention. Pure.

Each head's queries and keys are turned so that the same products come from few large channels and many small ones, and
rounded to whole steps, one size a head. Steps are coded as differences from their neighbours in the grid, which are
small, and deflated. What rounding would change is beside them: matches of single heads that it moves, and the run's own
verdicts. ``analysis/explorer/attention.js`` reads it.
"""

import base64
import zlib

import numpy as np
from jaxtyping import Bool, Float, Int, UInt16

from analysis.explorer.packing import EFFORT

LOGIT_ERROR = 0.01  # nats, root mean square over a head's query and key tokens: a weight is off by 1 %
MOST_STEPS = 2**14 - 1  # of a number: the difference of two takes 16 bits


def balanced(
    q: Float[np.ndarray, "a d"], k: Float[np.ndarray, "b d"]
) -> tuple[Float[np.ndarray, "a r"], Float[np.ndarray, "b r"]]:
    """Return queries and keys of the same products, in channels that both share evenly, the largest first.

    Args:
        q: Queries of a head.
        k: Its keys.
    """
    (left, upper), (right, lower) = np.linalg.qr(q), np.linalg.qr(k)
    u, size, v = np.linalg.svd(upper @ lower.T, full_matrices=False)
    return left @ u * np.sqrt(size), right @ v.T * np.sqrt(size)


def in_steps(
    q: Float[np.ndarray, "a d"], k: Float[np.ndarray, "b d"], error: float = LOGIT_ERROR
) -> tuple[Int[np.ndarray, "a r"], Int[np.ndarray, "b r"], float]:
    """Round a head's balanced queries and keys to whole steps.

    Args:
        q: Queries, times the factor of the logits.
        k: Keys.
        error: Of the logits, root mean square, as far as 16 bits reach.

    Returns:
        The steps, and the size of one, in single precision: (q step) (k step) size**2 are the logits.
    """
    q, k = balanced(q.astype(np.float64), k.astype(np.float64))
    length = np.sqrt((q**2).sum(1).mean() + (k**2).sum(1).mean())
    largest = max(np.abs(q).max(), np.abs(k).max())
    size = float(np.float32(max(error * np.sqrt(12) / length, largest / MOST_STEPS) if length else 1.0))
    return np.rint(q / size).astype(np.int64), np.rint(k / size).astype(np.int64), size


def residuals(steps: Int[np.ndarray, "f n r"], columns: int) -> UInt16[np.ndarray, "r f n"]:
    """Return how far each token's steps are from those expected of its left and upper neighbours, signs folded in.

    Args:
        steps: Of the views' tokens.
        columns: Of their grid.
    """
    grid = steps.reshape(len(steps), -1, columns, steps.shape[2])
    expected = np.zeros_like(grid)
    expected[:, 1:, 0], expected[:, 0, 1:] = grid[:, :-1, 0], grid[:, 0, :-1]
    expected[:, 1:, 1:] = (grid[:, 1:, :-1] + grid[:, :-1, 1:]) >> 1
    off = (grid - expected).reshape(steps.shape)
    return np.moveaxis(off << 1 ^ off >> 63, -1, 0).astype(np.uint16)


def head_tokens(
    q: Int[np.ndarray, "fq a heads r"], k: Int[np.ndarray, "f n heads r"]
) -> Int[np.ndarray, "heads fq a other"]:
    """Return the key token of the highest logit in each other view; steps are whole, so the page finds the same.

    Args:
        q: Steps of queries.
        k: Steps of keys.
    """
    others = [[other for other in range(len(k)) if other != view] for view in range(len(q))]
    found = np.empty((q.shape[2], *q.shape[:2], len(k)), np.int64)
    for head in range(q.shape[2]):
        queries, keys = (x[:, :, head].reshape(-1, x.shape[3]).astype(np.float64) for x in (q, k))
        found[head] = (queries @ keys.T).reshape(*q.shape[:2], *k.shape[:2]).argmax(-1)
    return np.stack([found[:, view][..., other] for view, other in enumerate(others)], axis=1)


def pack_attention(
    q: Float[np.ndarray, "fq a heads d"],
    k: Float[np.ndarray, "f n heads d"],
    within: Float[np.ndarray, "fq a heads"],
    columns: tuple[int, int],
    token: UInt16[np.ndarray, "heads fq a other"] | None = None,
    right: Bool[np.ndarray, "heads fq a other"] | None = None,
) -> str:
    """Pack a layer at one timestep.

    Args:
        q: Queries, times the factor of the logits.
        k: Keys.
        within: Share of each head's weight on these views.
        columns: Of the query tokens' grid and of the keys'.
        token: The run's matches by single heads, where it kept them.
        right: Whether these are right.
    """
    each = [[x[:, :, head].reshape(-1, x.shape[3]) for x in (q, k)] for head in range(q.shape[2])]
    heads = [in_steps(queries, keys) for queries, keys in each]
    steps = [np.stack([head[n] for head in heads], 1).reshape(*x.shape[:3], -1) for n, x in enumerate((q, k))]
    off = [residuals(part[:, :, head], c) for part, c in zip(steps, columns, strict=True) for head in range(len(heads))]
    by_channel = [part[channel].ravel() for channel in range(len(off[0])) for part in off]  # alike ones deflate better
    whole = within.min() > 1 - 1e-6
    raw = np.array([steps[0].shape[3], token is not None, not whole], "<u4").tobytes()
    raw += np.array([size for *_, size in heads], "<f4").tobytes() + _planes(np.concatenate(by_channel))
    if token is not None:
        moved = np.where(head_tokens(*steps) == token, 0, token.astype(np.int64) + 1)
        raw += _planes(moved.astype(np.uint16)) + np.ascontiguousarray(right, np.uint8).tobytes()
    raw += b"" if whole else np.ascontiguousarray(within, "<f4").tobytes()
    return base64.b64encode(zlib.compress(raw, EFFORT)).decode()


def _planes(values: UInt16[np.ndarray, "..."]) -> bytes:
    """Return all low bytes, then all high bytes."""
    return b"".join((values >> shift & 255).astype(np.uint8).tobytes() for shift in (0, 8))
