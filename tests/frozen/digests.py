"""Digest a folder of runs: every bit of every number for this machine, and a summary that holds on every machine."""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from safetensors import safe_open

Digest = dict[str, Any]
"""Part of a file (column, key, group of tensors, section) -> its digest or its summary."""
NOT_PORTABLE = ("pair_list",)  # digests of rounded numbers
SHOWN_TEXTS = 30
CLASS = "_class_name"
DATA = re.compile(r"data:(?P<kind>[\w/+-]+)(?:;charset=[\w-]+)?;base64,\s*(?P<content>[A-Za-z0-9+/=\s]+)")
DOWNLOAD = re.compile(r'<a download="(?P<name>[^"]*)" href="data:text/csv[^,]*,(?P<content>[^"]*)"')


def short(content: bytes | str) -> str:
    """Name content by 12 hexadecimal digits."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()[:12]


# --- tables ----------------------------------------------------------------------------------------------------------


def kind_of(column: pd.Series) -> str:
    """Name a column's type alike in all versions of pandas: bool, int, float or text."""
    if pd.api.types.is_bool_dtype(column):
        return "bool"
    if pd.api.types.is_integer_dtype(column):
        return "int"
    return "float" if pd.api.types.is_float_dtype(column) or column.isna().all() else "text"


def exact_column(column: pd.Series) -> str:
    """Digest all values of a column in order, floats by their 64 bits."""
    kind = kind_of(column)
    if kind == "text":
        return short(json.dumps([None if value is None else str(value) for value in column.tolist()]))
    values = column.to_numpy(dtype=np.int64 if kind in ("bool", "int") else np.float64)
    if kind == "float":
        values = np.where(np.isnan(values), np.nan, values)
    return short(kind.encode() + np.ascontiguousarray(values).tobytes())


def rounded(value: float) -> float | None:
    """Keep four digits; None for what is not a number."""
    return float(f"{value:.4g}") if np.isfinite(value) else None


def numbers(values: np.ndarray) -> list[float | None]:
    """Summarise numbers by how many there are, their mean and their standard deviation."""
    known = values[~np.isnan(values)]
    return [len(known), rounded(known.mean()), rounded(known.std())] if len(known) else [0, None, None]


def portable_column(column: pd.Series, groups: pd.Series | None) -> Any:
    """Summarise a column: its texts, or count, mean and deviation of its numbers, for each metric if there are any."""
    if kind_of(column) == "text":
        texts = sorted({str(value) for value in column.dropna()})
        return {"text": texts if len(texts) <= SHOWN_TEXTS else f"{len(texts)} texts {short(json.dumps(texts))}"}
    values = column.astype(float)
    if groups is None:
        return {kind_of(column): numbers(values.to_numpy())}
    return {f"{kind_of(column)} of {name}": numbers(part.to_numpy()) for name, part in values.groupby(groups)}


def table(read: pd.DataFrame) -> tuple[Digest, Digest]:
    """Digest a table column by column, the values of a long table metric by metric."""
    columns = {str(name): read[name] for name in read.columns}
    groups = columns["metric"].astype(str) if "metric" in columns else None
    shape = f"{len(read)} rows: {', '.join(columns)}"
    portable = {
        name: portable_column(column, groups if name == "value" else None)
        for name, column in columns.items()
        if name not in NOT_PORTABLE
    }
    exact: Digest = {}
    for name, column in columns.items():
        if groups is None or name != "value":
            exact[name] = exact_column(column)
        else:
            exact |= {f"value of {metric}": exact_column(part) for metric, part in column.groupby(groups)}
    return {"rows and columns": shape, **exact}, {"rows and columns": shape, **portable}


def read_csv(path: Any) -> pd.DataFrame:
    """Read a CSV table without losing a bit of its floats."""
    return pd.read_csv(path, float_precision="round_trip")


def csv(path: Path) -> tuple[Digest, Digest]:
    """Digest a CSV file."""
    return table(read_csv(path))


def parquet(path: Path) -> tuple[Digest, Digest]:
    """Digest a parquet file."""
    return table(pd.read_parquet(path))


def jsonl(path: Path) -> tuple[Digest, Digest]:
    """Digest a log of one JSON object a line."""
    return table(pd.DataFrame([json.loads(line) for line in path.read_text("utf-8").splitlines()]))


# --- JSON, weights, pictures -----------------------------------------------------------------------------------------


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Walk through nested values: dotted name and plain value of each."""
    if isinstance(value, dict | list | tuple) and value:
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in parts:
            yield from leaves(part, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def as_json(path: Path) -> tuple[Digest, Digest]:
    """Digest a JSON object key by key; its values are short, and so kept for other machines as they are."""
    read = json.loads(path.read_text("utf-8"))
    exact = {name: short(json.dumps(value)) for name, value in read.items()}
    if CLASS in read:  # diffusers' own list, which grows with its versions
        return exact, {CLASS: read[CLASS]}
    return exact, {name: value for name, value in leaves(read) if name.rpartition(".")[2] not in NOT_PORTABLE}


def group_of(tensor: str) -> str:
    """Name the part of a network that a tensor is in: few enough to list, enough to say where."""
    return tensor.partition(".")[0].partition("/")[0]


def tensors(found: dict[str, torch.Tensor], extra: str = "") -> tuple[Digest, Digest]:
    """Digest named tensors in groups, each in order of name."""
    groups: dict[str, list[str]] = {}
    for name in sorted(found):
        groups.setdefault(group_of(name), []).append(name)
    exact: Digest = {
        "names and shapes": short(extra + repr([(name, str(found[name].shape)) for name in sorted(found)]))
    }
    portable: Digest = dict(exact)
    for group, names in groups.items():
        parts = [found[name].detach().cpu().contiguous() for name in names]
        raw = [f"{part.dtype}".encode() + part.reshape(-1).view(torch.uint8).numpy().tobytes() for part in parts]
        exact[group] = short(b"".join(raw))
        portable[group] = {"tensors": numbers(torch.cat([part.reshape(-1).double() for part in parts]).numpy())}
    return exact, portable


def safetensors(path: Path) -> tuple[Digest, Digest]:
    """Digest a file of tensors with its note."""
    with safe_open(path, "pt") as file:
        return tensors({name: file.get_tensor(name) for name in file.keys()}, str(file.metadata()))  # noqa: SIM118


def trainer_state(path: Path) -> tuple[Digest, Digest]:
    """Digest the state of optimisers, schedules and average; the numbers beside the tensors, too."""
    found = dict(leaves(torch.load(path, weights_only=True)))
    kept = {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}
    plain = {name: value for name, value in found.items() if name not in kept}
    exact, portable = tensors({name.replace(".", "/", 1): value for name, value in kept.items()})
    return {**exact, "plain values": short(repr(plain))}, portable


def picture(path: Path) -> tuple[Digest, Digest]:
    """Digest the pixels of a picture; only its size is portable."""
    with Image.open(path) as image:
        size = f"{image.width} x {image.height}"
        return {"size": size, "pixels": short(image.convert("RGBA").tobytes())}, {"size": size}


# --- pages and texts -------------------------------------------------------------------------------------------------


def page(path: Path) -> tuple[Digest, Digest]:
    """Digest a page: each section's text, figures, pictures and downloads; portable is what a page is made of."""
    exact: Digest = {}
    portable: Digest = {}
    for piece in re.split(r"(?=<section )", path.read_text("utf-8")):
        found = re.match(r'<section id="([^"]*)"', piece)
        name = f"section {found[1]}" if found else "head"
        portable[name] = re.findall(r'\bid="([^"]*)"', re.sub(r"(?s)<svg.*?</svg>|<script.*", "", piece))
        portable[name] += re.findall(r'download="([^"]*)"', piece)
        exact |= _section(name, piece)
    return exact, portable


def _section(name: str, piece: str) -> Digest:
    exact: Digest = {}
    for n, found in enumerate(DOWNLOAD.finditer(piece)):
        exact[f"{name}, download {n} {found['name']}"] = short(base64.b64decode(found["content"].partition(",")[2]))
    for n, svg in enumerate(re.findall(r"(?s)<svg.*?</svg>", piece)):
        exact[f"{name}, figure {n}"] = short(svg)
    pictures = [found["content"] for found in DATA.finditer(piece) if found["kind"].startswith("image/")]
    if pictures:
        exact[f"{name}, {len(pictures)} pictures"] = short("".join(pictures))
    for kind, script in enumerate(re.findall(r"(?s)<script.*?</script>", piece)):
        exact[f"{name}, script {kind}"] = short(script)
    text = re.sub(r"(?s)<svg.*?</svg>|<script.*?</script>", "", DATA.sub("", piece))
    return {f"{name}, text": short(text), **exact}


def text(path: Path) -> tuple[Digest, Digest]:
    """Digest what a command printed; how long it is depends on the numbers, so nothing of it is portable."""
    said = re.sub(r"(?m)^waited for scenes: .*$", "waited for scenes", path.read_text("utf-8"))  # by the clock
    return {"text": short(said)}, {}


# --- all of it -------------------------------------------------------------------------------------------------------

READERS: dict[str, Callable[[Path], tuple[Digest, Digest]]] = {
    ".csv": csv, ".parquet": parquet, ".jsonl": jsonl, ".json": as_json, ".safetensors": safetensors,
    ".pt": trainer_state, ".png": picture, ".html": page, ".txt": text,
}  # fmt: skip


def run_of(path: Path) -> tuple[str, str]:
    """Tell which run a file is of, and its name there: runs/NAME/..., else the folder itself."""
    run, *name = path.parts[1:] if path.parts[0] == "runs" else path.parts
    return run, "/".join(name)


def digest(folder: Path) -> dict[str, dict[str, dict[str, Digest]]]:
    """Digest every file below a folder.

    Returns:
        Under "exact" and "portable": run, file, part.
    """
    found: dict[str, dict[str, dict[str, Digest]]] = {"exact": {}, "portable": {}}
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            continue
        run, name = run_of(path.relative_to(folder))
        parts = READERS[path.suffix](path) if path.suffix in READERS else ({}, {})
        for which, digests in zip(found, parts, strict=True):
            found[which].setdefault(run, {})[name] = digests
    return found
