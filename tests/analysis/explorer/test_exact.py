"""Laws of packed attention: products stay, rounding is bounded, what was packed comes back, matches are the run's."""

import base64
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.explorer.exact import LOGIT_ERROR, MOST_STEPS, balanced, head_tokens, in_steps, pack_attention, residuals

VIEWS, ROWS, COLUMNS, HEADS, CHANNELS = 3, 3, 4, 2, 5
TOKENS = ROWS * COLUMNS


def numbers(seed: int, *shape: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.normal(size=shape) @ random.normal(size=(shape[-1], shape[-1]))


@given(seed=st.integers(0, 10_000), a=st.integers(1, 12), b=st.integers(1, 12), d=st.integers(1, 8))
def test_balancing_keeps_products_and_shares_them_evenly(seed: int, a: int, b: int, d: int):
    q, k = numbers(seed, a, d), numbers(seed + 1, b, d)
    left, right = balanced(q, k)
    assert left.shape[1] == right.shape[1] == min(a, b, d)
    np.testing.assert_allclose(left @ right.T, q @ k.T, atol=1e-9 * (1 + np.abs(q @ k.T).max()))
    np.testing.assert_allclose((left**2).sum(0), (right**2).sum(0), atol=1e-9 * (1 + (left**2).sum()))


@given(seed=st.integers(0, 10_000), power=st.integers(-8, 8), error=st.sampled_from([LOGIT_ERROR, 0.1]))
def test_logits_are_off_by_no_more_than_half_a_step_of_each_number(seed: int, power: int, error: float):
    q, k = 2.0**power * numbers(seed, 30, 6), numbers(seed + 1, 40, 6)
    steps_q, steps_k, size = in_steps(q, k, error)
    left, right = balanced(q, k)
    off = np.abs(steps_q @ steps_k.T * size**2 - q @ k.T)
    bound = size / 2 * (np.abs(left).sum(1)[:, None] + np.abs(right).sum(1)) + 6 * size**2 / 4
    assert (off <= bound * (1 + 1e-6)).all()
    assert max(np.abs(steps_q).max(), np.abs(steps_k).max()) <= MOST_STEPS
    if np.abs(left).max() / size < MOST_STEPS - 1 > np.abs(right).max() / size:
        assert np.sqrt((off**2).mean()) <= 1.5 * error


def test_numbers_of_no_size_and_of_any_size_are_packed():
    nothing = np.zeros((4, 3))
    assert in_steps(nothing, nothing)[2] == 1
    steps, *_ = in_steps(np.full((4, 3), 1e6), np.full((4, 3), 1e6))
    assert np.abs(steps).max() == MOST_STEPS


@given(seed=st.integers(0, 10_000), columns=st.sampled_from([1, 3, 4, 12]))
def test_residuals_fit_two_bytes_and_come_back(seed: int, columns: int):
    steps = np.random.default_rng(seed).integers(-MOST_STEPS, MOST_STEPS + 1, (VIEWS, TOKENS, CHANNELS))
    np.testing.assert_array_equal(restored(residuals(steps, columns), columns), steps)


def restored(off: np.ndarray, columns: int) -> np.ndarray:
    """Undo residuals, token by token."""
    off = (off.astype(np.int64) >> 1) ^ -(off.astype(np.int64) & 1)
    steps = np.zeros_like(off)
    for n in range(off.shape[2]):
        left, up = (steps[:, :, n - 1], n % columns > 0), (steps[:, :, n - columns], n >= columns)
        known = [value for value, there in (left, up) if there]
        steps[:, :, n] = off[:, :, n] + (sum(known) >> (len(known) - 1) if known else 0)
    return np.moveaxis(steps, 0, -1)


@given(seed=st.integers(0, 1000), partial=st.booleans(), judged=st.booleans())
def test_what_was_packed_comes_back(seed: int, partial: bool, judged: bool):
    q, k = numbers(seed, VIEWS, TOKENS, HEADS, CHANNELS), numbers(seed + 1, VIEWS, TOKENS, HEADS, CHANNELS)
    random, pairs = np.random.default_rng(seed), (HEADS, VIEWS, TOKENS, VIEWS - 1)
    within = random.uniform(0.1, 0.9 if partial else 1, (VIEWS, TOKENS, HEADS)).astype(np.float32)
    within = within if partial else np.ones_like(within)
    run = {"token": random.integers(0, TOKENS, pairs).astype(np.uint16), "right": random.random(pairs) < 0.5}
    text = pack_attention(q, k, within, (COLUMNS, COLUMNS), **(run if judged else {}))
    raw = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)
    header, sizes, rest = raw[:12].view("<u4"), raw[12 : 12 + 4 * HEADS].view("<f4"), raw[12 + 4 * HEADS :]
    assert header.tolist() == [CHANNELS, judged, partial]
    wanted = [in_steps(*(x[:, :, head].reshape(-1, CHANNELS) for x in (q, k))) for head in range(HEADS)]
    np.testing.assert_array_equal(sizes, np.float32([size for *_, size in wanted]))
    count = 2 * HEADS * VIEWS * TOKENS * CHANNELS
    off, rest = words(rest[: 2 * count]).reshape(CHANNELS, 2, HEADS, VIEWS, TOKENS), rest[2 * count :]
    steps = np.stack([[restored(off[:, part, head], COLUMNS) for head in range(HEADS)] for part in range(2)])
    for head, (first, second, _) in enumerate(wanted):
        np.testing.assert_array_equal(steps[:, head].reshape(2, -1, CHANNELS), [first, second])
    if judged:
        moved, rest = words(rest[: 2 * np.prod(pairs)]).reshape(pairs), rest[2 * np.prod(pairs) :]
        computed = head_tokens(*np.moveaxis(steps, 1, 3))
        np.testing.assert_array_equal(np.where(moved, moved.astype(int) - 1, computed), run["token"])
        right, rest = rest[: np.prod(pairs)].reshape(pairs), rest[np.prod(pairs) :]
        np.testing.assert_array_equal(right, run["right"])
    np.testing.assert_array_equal(rest.view("<f4"), within.ravel() if partial else [])


def words(planes: np.ndarray) -> np.ndarray:
    low, high = planes.reshape(2, -1).astype(np.uint16)
    return low + 256 * high


@pytest.mark.parametrize("view", range(VIEWS))
def test_heads_match_the_highest_product_of_each_other_view(view: int):
    q, k = (np.random.default_rng(n).integers(-9, 10, (VIEWS, TOKENS, HEADS, CHANNELS)) for n in range(2))
    found = head_tokens(q, k)[1, view, 7]
    others = [other for other in range(VIEWS) if other != view]
    assert found.tolist() == [int(np.argmax(k[other, :, 1] @ q[view, 7, 1])) for other in others]
