"""Run folders: config.json, and files that are whole or absent."""

import fcntl
import json
import math
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any


class RunError(ValueError):
    """A run folder cannot be used, and why, in one line."""


def parse_json(text: str | bytes) -> Any:
    """Parse JSON.

    Raises:
        ValueError: If it is not JSON, or nested deeper than any file of honest make.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("its lists are nested too deep") from None


def write(path: Path, save: Callable[[Path], object]) -> None:
    """Write a file whole or not at all: save to ``path.part``, then rename.

    Raises:
        OSError: Whatever saving raises; the partial file is gone then.
    """
    part = path.with_name(path.name + ".part")
    try:
        save(part)
        part.replace(path)
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)  # "No space left on device" says not where
        raise
    finally:
        part.unlink(missing_ok=True)


def write_folder(path: Path, save: Callable[[Path], object]) -> None:
    """Write a folder whole or not at all: save to a folder beside it, then rename; one of that name is replaced.

    Raises:
        OSError: If the disk does not take it, or whatever saving raises; the partial folder is gone then.
    """
    part = path.with_name(f"part-{path.name}")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        save(part)
        shutil.rmtree(path, ignore_errors=True)
        part.rename(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    write(path, lambda part: part.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: object) -> None:
    """Write JSON whole or not at all; NaN becomes null."""
    write_text(path, json.dumps(_without_nan(value), indent=2, allow_nan=False) + "\n")


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _without_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    if hasattr(value, "dtype") and not isinstance(value, str):  # a number of NumPy's
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


@cache
def environment() -> dict[str, str]:
    """Return what a run was made with: versions, commit (as first asked: it may change while a run goes on), processor.

    A program asks first when it opens its run folder, so that a run's card names the commit that it was started from.
    """
    packages = ("torch", "diffusers", "numpy", "pandas")
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "commit": commit or "unknown",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }


def open_run(out: Path, settings: dict[str, Any], *, resume: bool, may_grow: Sequence[str] = ()) -> None:
    """Create a run folder with ``config.json``, or continue one of the same settings.

    Args:
        out: The folder.
        settings: Every resolved setting, as plain values; the folder's own path ("out") may differ.
        resume: Whether the folder may hold a run of the same settings already.
        may_grow: Settings, such as a number of steps, that may be larger than before (absent is 0): the folder then
            takes them over.

    Raises:
        RunError: If the folder holds a run of other settings, a run of these without ``resume``, or something else, or
            cannot be written.
    """
    path = out / "config.json"
    plain = json.loads(json.dumps(_without_nan(settings)))
    if path.exists():
        before = _settings_in(path)
        changed = sorted(key for key in before.keys() | plain.keys() if before.get(key) != plain.get(key))
        grown = [key for key in changed if key in may_grow and plain[key] > before.get(key, 0)]
        changed = [key for key in changed if key not in ("out", *grown)]  # a folder may be moved
        if changed:
            raise RunError(
                f"open_run: {out} was made with other values of {changed}; choose another --out or remove it"
            )
        if not resume:
            raise RunError(
                f"open_run: {out} already holds this run; add --resume to continue it or choose another --out"
            )
        if grown:
            write_json(path, {"settings": plain, "environment": environment()})
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise RunError(f"open_run: {out} is not empty and holds no config.json; choose another --out")
        write_json(path, {"settings": plain, "environment": environment()})
    except OSError as error:
        raise RunError(f"open_run: cannot write to {out}: {error.strerror}; choose another --out") from error


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Lock a run's folder for this process while the context is open: two runs must never write one.

    Args:
        out: The folder, which exists. Where its file system knows no locks, nothing is held.

    Raises:
        RunError: If another process holds it.
    """
    folder = os.open(out, os.O_RDONLY)
    try:
        with suppress(OSError):
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(f"alone: another run is writing {out}; wait for it, or choose another --out") from None
        yield
    finally:
        os.close(folder)


def _settings_in(path: Path) -> dict[str, Any]:
    try:
        return dict(parse_json(path.read_text(encoding="utf-8"))["settings"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(f"open_run: {path} is not the config.json of a run; choose another --out") from error
