"""Checkpoint files of the field: found, read without running code, and held in memory once."""

import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import safe_open
from torch import Tensor, nn

from probe.records import parse_json

Weights = Mapping[str, Tensor]
Built = TypeVar("Built")

SAFETENSORS = ".safetensors"
INDEX = ".index.json"
WRAPPINGS = ("module", "state_dict")
"""Keys under which trainers (DeepSpeed, Lightning) keep the state dict in their file."""
SHOWN = 2
COPIES = (".bin", ".fp16.safetensors")
"""Files that repositories of the hub hold beside the same weights in .safetensors: read from folders, not fetched."""
META, CPU = torch.device("meta"), torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Loading:
    """What a checkpoint alone does not determine.

    Attributes:
        base: Folder or hub id of the base model, whose autoencoder is used; "random" draws one; None is the usual one.
        size: Side of the views that the model sees, in pixels; None is its native one.
        outline: Build networks on the meta device, from names and shapes alone: nothing is loaded.
    """

    base: str | None = None
    size: int | None = None
    outline: bool = False

    @property
    def device(self) -> torch.device:
        """Return the device to build networks on."""
        return META if self.outline else torch.device("cpu")


def named(model: str, source: str) -> str:
    """Name a model as in tables: NAME, or NAME:FOLDER without the folder's path."""
    return f"{model}:{Path(source).name}" if source else model


def find_checkpoint(source: str, names: Sequence[str], *, patterns: Sequence[str] = ()) -> Path:
    """Find a checkpoint: a file, a file of a folder, or one of a hub repository (downloaded, or in the cache).

    Args:
        source: A file, a folder, or a hub id such as ``owner/name``.
        names: Paths inside a folder or repository, the preferred first.
        patterns: What else to download of a repository, as glob patterns.

    Raises:
        ValueError: If there is none; says what was looked for.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return path
    fetched = [name for name in names if not name.endswith(COPIES)]
    folder = path if path.is_dir() else download(source, (*fetched, *patterns))
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise ValueError(
        f"find_checkpoint: {source} holds no checkpoint: none of {', '.join(names)} is there; give the file itself"
    )


def download(source: str, patterns: Sequence[str]) -> Path:
    """Fetch parts of a hub repository into the cache, or find them there.

    Raises:
        ValueError: If there is neither a file nor a repository of that name, or the hub cannot be reached.
    """
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise ValueError(
            f"find_checkpoint: {source!r} does not exist; give a file, a folder, or a hub id such as owner/name"
        )
    try:
        return Path(snapshot_download(source, allow_patterns=list(patterns)))
    except (HFValidationError, LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ValueError(
            f"find_checkpoint: {source!r} is no file here and cannot be fetched from the hub ({type(error).__name__}); "
            f"download it on a machine with a network (huggingface-cli download {source}) and give the folder"
        ) from error


def read_weights(path: Path, device: torch.device = CPU) -> dict[str, Tensor]:
    """Read a state dict from .safetensors (also in shards), .pt, .pth, .bin or .ckpt; in memory once.

    Args:
        path: The file.
        device: META reads names and shapes only.

    Raises:
        ValueError: If the file is broken, would run code, or holds no tensors by name.
    """
    try:
        if path.name.endswith(INDEX):
            return _read_shards(path, device)
        if path.suffix == SAFETENSORS:
            return _read_safetensors(path, device)
        return _unwrapped(torch.load(path, map_location=device, weights_only=True, mmap=zipfile.is_zipfile(path)), path)
    except Exception as error:  # broken bytes make an unpickler raise anything
        first = str(error).strip().split("\n")[0]
        raise ValueError(f"read_weights: {path} cannot be read as weights: {first}") from error


def _read_safetensors(path: Path, device: torch.device) -> dict[str, Tensor]:
    """Copy tensor by tensor: those of a map lie at odd addresses, where kernels run slower and round differently.

    The map is opened anew for each, so that the file and its copy are never in memory together.
    """
    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
    return {name: _read_tensor(path, name, device) for name in names}


def _read_tensor(path: Path, name: str, device: torch.device) -> Tensor:
    with safe_open(path, framework="pt") as file:
        tensor = file.get_tensor(name)
        return tensor.to(META) if device == META else tensor.clone()  # a map's pages are read when they are touched


def _read_shards(index: Path, device: torch.device) -> dict[str, Tensor]:
    names = sorted(set(read_json(index)["weight_map"].values()))
    outside = [name for name in names if Path(name).name != name]
    if outside:
        raise ValueError(f"read_weights: {index} names files outside its folder: {outside[:SHOWN]}; do not trust it")
    return {name: weight for part in names for name, weight in _read_safetensors(index.parent / part, device).items()}


def _unwrapped(content: Any, path: Path) -> dict[str, Tensor]:
    """Take the state dict out of a trainer's file."""
    for key in WRAPPINGS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content or not all(isinstance(x, Tensor) for x in content.values()):
        raise ValueError(
            f"read_weights: {path} holds no weights by name, expected a state dict, alone or under {WRAPPINGS}"
        )
    return content


def read_json(path: Path) -> dict[str, Any]:
    """Read names with values.

    Raises:
        ValueError: If the file holds none.
    """
    try:
        values = parse_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"read_json: {path} is not JSON: {error}; fetch the file again, or correct it") from error
    if not isinstance(values, dict):
        raise ValueError(
            f"read_json: {path} holds no names with values but {type(values).__name__}; fetch the file again"
        )
    return values


def read_settings(path: Path) -> dict[str, Any]:
    """Read sizes that differ from the release's: names and values, or none where there is no such file.

    Raises:
        ValueError: If the file holds something else.
    """
    return read_json(path) if path.is_file() else {}


def build_of(origin: str, make: Callable[[], Built]) -> Built:
    """Build what stored settings describe; a library's complaint becomes one line that says where they are from.

    Args:
        origin: Where the settings come from, for the message.
        make: Builds it.

    Raises:
        ValueError: If nothing can be built of such settings.
    """
    try:
        return make()
    except Exception as error:  # what a class does with settings that are wrong is anything
        first = str(error).strip().split("\n")[0]
        raise ValueError(
            f"{origin} has settings that nothing can be built of ({type(error).__name__}: {first}); fetch the file "
            "again, or correct it"
        ) from error


def strip_prefixes(weights: Weights, prefixes: Sequence[str], *, others: Sequence[str] = ()) -> dict[str, Tensor]:
    """Take off prefixes that wrappers put before every name, and leave out what such a wrapper holds beside the model.

    Args:
        weights: A state dict.
        prefixes: Tried in turn, again and again; one is taken off if names have it, all but those of ``others``.
        others: Beginnings of names of other modules in the wrapper.

    Returns:
        The model's own weights; names that fit nothing stay, to be rejected by :func:`fill`.
    """
    stripped = dict(weights)
    while prefix := next((p for p in prefixes if any(name.startswith(p) for name in stripped)), None):
        own = {name.removeprefix(prefix): weight for name, weight in stripped.items() if name.startswith(prefix)}
        rest = {name: weight for name, weight in stripped.items() if not name.startswith((prefix, *others))}
        stripped = own | rest
    return stripped


def fill(network: nn.Module, weights: Weights, *, origin: str, assign: bool = False) -> None:
    """Load weights into a network: all of them and nothing else.

    Args:
        network: On any device; on ``meta`` only with ``assign``.
        weights: Its own names.
        origin: Where they come from, for the message.
        assign: Take the tensors themselves, in their precision, instead of copying them.

    Raises:
        ValueError: If names or shapes differ; names the first few.
    """
    own = network.state_dict()
    missing, left = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    misshapen = sorted(name for name in own.keys() & weights.keys() if own[name].shape != weights[name].shape)
    if missing or left or misshapen:
        shapes = [f"{name} {tuple(weights[name].shape)} for {tuple(own[name].shape)}" for name in misshapen[:SHOWN]]
        raise ValueError(
            f"{origin} does not fit {type(network).__name__}: {len(missing)} weights missing {missing[:SHOWN]}, "
            f"{len(left)} left over {left[:SHOWN]}, {len(misshapen)} of another shape {shapes}"
        )
    network.load_state_dict(dict(weights), assign=assign)
