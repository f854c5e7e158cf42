"""Damage files as broken disks, broken downloads and broken programs do: seeded, one damage at a time."""

import gzip
import json
from pathlib import Path
from random import Random
from typing import Any

ODD = (
    None, True, "", "x", "nan", "../../x", "a\0b", "/", "é" * 300, [], {}, [[]], [None], -1, 0, 1e-300, 1e308, 2**70,
    float("nan"), float("inf"), -float("inf"), 0.5,
)  # fmt: skip
"""What fields hold that should not."""
WORDS = (
    "",
    "nan",
    "inf",
    "-inf",
    "-1",
    "0",
    "1e999",
    "99999999999999999999",
    "x",
    "0x1F",
    "1,5",
    "\0",
    "é",
    "#",
    "1_0",
)


def damage_file(path: Path, random: Random) -> str:
    """Damage a file, and tell how.

    JSON and text lose or change a value, or, as every file, some bytes.
    """
    data = path.read_bytes()
    packed = path.suffix in (".jgz", ".gz")
    if path.suffix in (".json", ".jgz", ".gz") and random.random() < 0.6:
        value = json.loads(gzip.decompress(data) if packed else data)
        how = damage_value(value, random)
        data = json.dumps(value).encode()
        path.write_bytes(gzip.compress(data) if packed else data)
    elif path.suffix in (".txt", ".csv") and random.random() < 0.6:
        text, how = damage_words(data.decode(errors="replace"), random)
        path.write_text(text)
    else:
        data, how = damage_bytes(data, random)
        path.write_bytes(data)
    return f"{path.name}: {how}"


def damage_value(value: Any, random: Random) -> str:
    """Replace or remove one value, somewhere inside lists and objects."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = random.choice(keys)
        inner = value[key]
        if isinstance(inner, dict | list) and inner and random.random() < 0.9:
            value = inner
            continue
        if random.random() < 0.2:
            del value[key]
            return f"{key} removed"
        value[key] = random.choice(ODD)
        return f"{key} = {str(value[key])[:20]!r}"


def damage_words(text: str, random: Random) -> tuple[str, str]:
    """Replace one word of a text, or double or remove one line."""
    lines = text.split("\n")
    place = random.randrange(len(lines))
    if random.random() < 0.3:
        lines[place : place + 1] = [lines[place]] * random.choice((0, 2))
        return "\n".join(lines), f"line {place} removed or doubled"
    words = lines[place].split(" ")
    index = random.randrange(len(words))
    words[index] = random.choice(WORDS)
    lines[place] = " ".join(words)
    return "\n".join(lines), f"word {index} of line {place} is {words[index]!r}"


def damage_bytes(data: bytes, random: Random) -> tuple[bytes, str]:
    """Flip some bytes, cut the end off, add to it, or fill a part with zeros or ones."""
    size = len(data)
    kind = random.choice(("flip", "flip", "head", "cut", "more", "zeros", "ones", "empty"))
    if kind == "empty" or not size:
        return b"", "empty"
    place = random.randrange(min(size, 64) if kind == "head" else size)
    if kind in ("flip", "head"):
        changed = bytearray(data)
        for _ in range(random.choice((1, 1, 8))):
            changed[min(size - 1, place + random.randrange(16))] = random.randrange(256)
        return bytes(changed), f"bytes flipped from {place}"
    if kind == "cut":
        return data[:place], f"cut at {place}"
    if kind == "more":
        return data + random.randbytes(1 + place % 40), "longer"
    length = random.choice((4, 8, 64))
    fill = b"\0" if kind == "zeros" else b"\xff"
    return data[:place] + fill * length + data[place + length :], f"{length} bytes from {place} are {kind}"
