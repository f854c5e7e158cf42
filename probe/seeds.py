"""Seeds that stay apart."""

import hashlib


def derive(purpose: str, *numbers: int) -> int:
    """Return a seed for one purpose and place, such as ("training", seed, step).

    PyTorch's CPU generator keeps the low 32 bits of a seed only, so seeds that differ in high bits, or in a sum, would
    share their random stream; hashing the words keeps purposes apart but for chance collisions (1 in 4 billion a pair).

    Returns:
        From 0 to 2**32 - 1.
    """
    text = ":".join([purpose, *map(str, numbers)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
