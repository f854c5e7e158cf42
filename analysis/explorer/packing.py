"""Pack what the explorer shows: arrays -> one deflated, base64-coded text per block, the least useful left out. Pure.

A block is the plain concatenation of arrays, each preceded by nothing: their order, width and last axis are ``FIELDS``,
which the page's script is given too. Numbers of two bytes are stored as all low bytes, then all high bytes. Coarse maps
are stored as differences between neighbouring query tokens, modulo 256, which deflates better.
"""

import base64
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8

FIELDS = {  # by kind of block: name, bytes a number, numbers a query token and other view
    "together": (("token", 2, 1), ("right", 1, 1), ("share", 1, 1), ("mass", 1, 1),
                 ("ratio_token", 2, 1), ("ratio", 1, 1), ("ratio_right", 1, 1), ("ratio_kept", 1, 1)),
    "heads": (("head_token", 2, 1), ("head_right", 1, 1), ("head_share", 1, 1), ("head_mass", 1, 1)),
    "map": (("runner_up", 2, 2), ("map", 1, 0)),
    "head_map": (("head_map", 1, 0),),
}  # fmt: skip
MAPS = ("map", "head_map")
EFFORT = 7  # of zlib, 1 to 9: 9 takes seven times as long and saves 3 % of the characters
ASKED = -3  # axis of the query tokens in a map [... asked other cells]

Array = Shaped[np.ndarray, "..."]


def pack(arrays: Mapping[str, Array], kind: str) -> str:
    """Pack the arrays of a block.

    Args:
        arrays: By name, each [... fq asked other] or with one more axis.
        kind: Key of :data:`FIELDS`.
    """
    raw = b"".join(_bytes(name, width, arrays[name]) for name, width, _ in FIELDS[kind])
    return base64.b64encode(zlib.compress(raw, EFFORT)).decode()


def unpack(text: str, kind: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
    """Unpack a block, as the page's script does.

    Args:
        text: What :func:`pack` gave.
        kind: Key of :data:`FIELDS`.
        shapes: Of the arrays, by name.
    """
    raw, start, found = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8), 0, dict[str, Array]()
    for name, width, _ in FIELDS[kind]:
        size = int(np.prod(shapes[name]))
        planes = raw[start : start + size * width].reshape(width, *shapes[name])
        start += size * width
        value = planes[0] if width == 1 else planes[0] + 256 * planes[1].astype(np.uint16)
        found[name] = np.cumsum(value, axis=ASKED, dtype=np.uint8) if name in MAPS else value
    return found


def _bytes(name: str, width: int, values: Array) -> bytes:
    if name in MAPS:
        values = differences(values)
    planes = [values.astype(np.uint16) >> shift & 255 for shift in (0, 8)[:width]] if width > 1 else [values]
    return b"".join(np.ascontiguousarray(plane).astype(np.uint8).tobytes() for plane in planes)


def differences(maps: UInt8[np.ndarray, "... asked other cells"]) -> UInt8[np.ndarray, "... asked other cells"]:
    """Return each map as its difference from the map of the query token before, modulo 256.

    Args:
        maps: Coarse maps.
    """
    return np.diff(maps, axis=ASKED, prepend=np.zeros_like(maps.take([0], ASKED))).astype(np.uint8)


def pack_floats(values: Array) -> str:
    """Pack positions and the like in single precision, little-endian.

    Args:
        values: Of any shape.
    """
    return base64.b64encode(zlib.compress(np.ascontiguousarray(values, "<f4").tobytes(), 9)).decode()


@dataclass(frozen=True, kw_only=True)
class Block:
    """A block with its place in the payload, packed when it is first needed.

    Attributes:
        path: Scene, model, layer, and timestep (None for all timesteps).
        make: Packs it.
        least: Characters that it takes at least, known beforehand.
        kind: Of what it holds: a key of :data:`FIELDS`, or "exact".
    """

    path: tuple[int, int, int, int | None]
    make: Callable[[], str]
    least: int = 0
    kind: str = "together"

    @cached_property
    def text(self) -> str:
        """Packed."""
        return self.make()


def within(groups: Iterable[Sequence[Block]], budget: int) -> tuple[list[Block], list[Block]]:
    """Choose blocks, the most useful group first, as long as they fit.

    Args:
        groups: Each in the order of use. Of the first group each block that fits is taken; the others are taken as a
            whole or not at all.
        budget: Characters.

    Returns:
        The chosen and the dropped ones.
    """
    chosen, dropped, left = list[Block](), list[Block](), budget
    for n, group in enumerate(groups):
        for part in [[block] for block in group] if n == 0 else [list(group)]:
            fits = sum(block.least for block in part) <= left and sum(len(block.text) for block in part) <= left
            (chosen if fits else dropped).extend(part)
            left -= sum(len(block.text) for block in part) if fits else 0
    return chosen, dropped


def nested(blocks: Iterable[Block]) -> dict[str, Any]:
    """Lay blocks out by "kind/scene/model/layer", and the timestep where it is of one.

    Args:
        blocks: The chosen ones.
    """
    return {"/".join([block.kind, *(str(x) for x in block.path if x is not None)]): block.text for block in blocks}
