"""How a user's files are read: what the flags say of them, files by the names that others give them, what is left out.

Imports neither PyTorch nor NumPy: the command lines read it first.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".heic", ".heif")
"""Endings of images, in lower case."""
ABSOLUTE = re.compile(r"[/\\]|[A-Za-z]:")
"""How an absolute path begins, on this machine or another."""
SHOWN = 2  # frames that are left out and named with their reason; the others are counted


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a user says of the files, beside where they are."""

    strict: bool = False
    """Files of real scenes and predictions: refuse those that are missing or broken, instead of leaving their frames or
    recordings out. It checks what the opened recordings list (poses, cameras, files that are there) and the pixels of
    the frames drawn, not the pixels of all others."""
    follow_links: bool = False
    """Real scenes: also read files that a link or ../ leads out of the folder named."""
    images: str | None = None
    """Real scenes: folder of the images, below the scene's, where it is not the one that the files name (images_4)."""
    depth_scale: float | None = None
    """Real scenes: what a depth file counts as one metre (1000 for millimetres, 5000 for TUM), whatever the files say;
    default what they say, or the data set's own."""
    unit: float | None = None
    """Real scenes: metres per unit of the files' cameras (0.001 for millimetres), where they do not tell; default
    none, but 0.001 for DTU."""

    @property
    def reading(self) -> "Reading":
        """Return the part of a command's settings that says how files are read.

        Raises:
            ValueError: If a number is not positive.
        """
        values = {one.name: getattr(self, one.name) for one in fields(Reading)}
        for name in ("depth_scale", "unit"):
            if values[name] is not None and not 0 < values[name] < float("inf"):
                raise ValueError(f"{flag_of(name)} is {values[name]}, expected a positive number")
        return Reading(**values)


def record_reading(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a command's settings as a run records them: without what the user did not say of the files.

    So a run made before these flags is the same run.
    """
    unsaid = {one.name: one.default for one in fields(Reading)}
    return {name: value for name, value in record.items() if name not in unsaid or value != unsaid[name]}


DEFAULT = Reading()
"""As without flags: what is broken is left out."""


def flag_of(name: str) -> str:
    """Return the flag that stands for a setting, such as a field of :class:`Reading`."""
    return f"--{name.replace('_', '-')}"


@dataclass(frozen=True)
class Dropped:
    """Name a frame or a recording that was left out.

    Attributes:
        name: Of the frame, or of the recording.
        reason: Why, in one line.
    """

    name: str
    reason: str


@dataclass(frozen=True)
class Folder:
    """A folder that files are read from, and how.

    Attributes:
        path: The folder.
        reading: What the user says of the files.
    """

    path: Path
    reading: Reading = field(default_factory=Reading)

    def __truediv__(self, name: str | Path) -> Path:
        """Return the path of a file of the folder."""
        return self.path / name

    def __str__(self) -> str:
        """Return the path, for messages."""
        return str(self.path)

    def at(self, path: Path) -> "Folder":
        """Return another folder, read in the same way."""
        return Folder(path, self.reading)


def inside(path: Path, root: Folder | Path) -> Path:
    """Resolve a file of a folder, refusing one that a link or ``..`` leads out of it.

    Args:
        path: The file.
        root: The folder; a plain path is read as without flags.

    Raises:
        FileNotFoundError: If there is no such file or the link is broken.
        ValueError: If it lies outside the folder, and links are not to be followed.
    """
    try:
        resolved = path.resolve(strict=True)
    except (OSError, RuntimeError, ValueError):
        raise FileNotFoundError(f"{path} does not exist or is a broken link") from None
    folder = root if isinstance(root, Folder) else Folder(root)
    if not (folder.reading.follow_links or resolved.is_relative_to(folder.path.resolve())):
        raise ValueError(
            f"{path} leads outside {folder}, to {resolved}; only files inside the folder are read, others by "
            f"{flag_of('follow_links')}"
        )
    return resolved


def split_detail(path: Path) -> tuple[Path, str]:
    """Split FOLDER#DETAIL; a folder whose own name holds a # stays whole."""
    whole = path.expanduser()
    name, _, detail = str(whole).rpartition("#")
    return (whole, "") if whole.exists() or not name else (Path(name), detail)


# --- files by the names that others give them ------------------------------------------------------------------------


def find_file(named: str, folder: Path, *, suffixes: Sequence[str] = IMAGES) -> Path | None:
    """Find a file by the name that another file gives it, as people's disks have it.

    Back-slashes, letter case, Unicode forms and endings may differ. Of an absolute path that is not there, such as
    another machine's, the longest tail that lies below the folder is taken; of a relative one the bare name, if it lies
    in the folder itself.

    Args:
        named: As written.
        folder: What relative names start from.
        suffixes: Endings that may stand in place of the one written, or after a name without one.

    Returns:
        None if there is no such file.
    """
    if Path(named).is_absolute() and Path(named).is_file():
        return Path(named)
    return find_below(named, folder, suffixes=suffixes, everywhere=ABSOLUTE.match(named) is not None)


def endings(named: str, root: Folder, suffixes: Sequence[str] = IMAGES) -> Sequence[str]:
    """Return the endings that may stand in place of a name's own: none where reading is strict and it has one."""
    return () if root.reading.strict and Path(named).suffix.casefold() in suffixes else suffixes


def find_below(named: str, folder: Path, *, suffixes: Sequence[str] = IMAGES, everywhere: bool = True) -> Path | None:
    """Find a file below a folder by a tail of its path, as :func:`find_file` does of an absolute one.

    Args:
        named: As written.
        folder: Where to look.
        suffixes: See :func:`find_file`.
        everywhere: Whether every tail counts, the longest first, or the whole path and the bare name only.

    Returns:
        None if there is no such file.
    """
    parts = tuple(part for part in named.replace("\\", "/").split("/") if part not in ("", "."))
    starts = range(len(parts)) if everywhere else sorted({0, len(parts) - 1})
    tails = (parts[start:] for start in starts if parts)
    return next((file for tail in tails if (file := _below(folder, tail, suffixes)) is not None), None)


def _below(folder: Path, parts: Sequence[str], suffixes: Sequence[str]) -> Path | None:
    """Find a file by its folders and name: as written, or else as the disk spells them."""
    written = folder.joinpath(*parts)
    if _is_file(written):
        return written
    for part in parts[:-1]:
        inner = folder / part if (folder / part).is_dir() else _entries(folder).get(_plain(part))
        if inner is None or not inner.is_dir():
            return None
        folder = inner
    entries = _entries(folder)
    return next((entries[name] for name in _names(parts[-1], suffixes) if _is_file(entries.get(name))), None)


def _is_file(path: Path | None) -> bool:
    """Return whether it is a file, or a link: a broken one is told apart from a missing file later."""
    try:
        return path is not None and (path.is_file() or path.is_symlink())
    except (OSError, ValueError):  # a name that is too long, or holds a zero byte
        return False


def _names(name: str, suffixes: Sequence[str]) -> Iterator[str]:
    """Return a file's possible names, likeliest first."""
    plain = _plain(name)
    stem, dot, ending = plain.rpartition(".")
    yield plain
    yield from (plain + suffix for suffix in suffixes)
    if dot + ending in suffixes:
        yield from (stem + suffix for suffix in suffixes)


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _entries(folder: Path) -> dict[str, Path]:
    try:
        return _listing(folder, folder.stat().st_mtime_ns)
    except (OSError, ValueError):
        return {}


@lru_cache(maxsize=64)
def _listing(folder: Path, changed: int) -> dict[str, Path]:
    """Return the files of a folder by their plain names; of several the first, as the folder was at a time."""
    del changed
    return {_plain(path.name): path for path in sorted(folder.iterdir(), reverse=True)}


# --- leaving out -----------------------------------------------------------------------------------------------------


def read_all(
    named: Iterable[tuple[str, Callable[[], T]]], root: Folder, origin: str, kind: str = "frames"
) -> tuple[list[T], tuple[Dropped, ...]]:
    """Read what can be read; leave out what is missing or broken, unless reading is strict.

    Args:
        named: Names, and what reads each.
        root: The folder, which says whether reading is strict.
        origin: What they belong to, for the error.
        kind: What they are, for the error.

    Returns:
        What was read, in order, and what was left out.

    Raises:
        ValueError: If nothing can be read; the first fault, if reading is strict.
    """
    whole, dropped = list[T](), list[Dropped]()
    for name, read in named:
        try:
            whole.append(read())
        except (ValueError, OSError) as error:
            if root.reading.strict:
                raise
            dropped.append(Dropped(name, str(error)))
    if dropped and not whole:
        raise ValueError(f"none of the {len(dropped)} {kind} of {origin} can be read; the first: {dropped[0].reason}")
    return whole, tuple(dropped)


def printable(text: str) -> str:
    """Return a text that any file and terminal takes: bytes of file names that are no UTF-8 are escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def left_out(dropped: Sequence[Dropped], number: int, kind: str) -> str:
    """Return how many of how many were left out, and why; nothing if none was.

    Args:
        dropped: What was left out.
        number: Of all.
        kind: What they are, such as "frames of fox".
    """
    if not dropped:
        return ""
    reasons = "; ".join(f"{one.name} ({one.reason})" for one in dropped[:SHOWN])
    more = f"; and {len(dropped) - SHOWN} more" if len(dropped) > SHOWN else ""
    return printable(f"{len(dropped)} of {number} {kind} left out: {reasons}{more}")
