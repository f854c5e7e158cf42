"""Fetch real scenes from the Hugging Face hub: ``python -m probe.scenes.fetch beetle``."""

from __future__ import annotations

import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import tyro

from probe import cli as command
from probe.scenes.reading import IMAGES

if TYPE_CHECKING:
    from huggingface_hub import HfApi

PROG = "python -m probe.scenes.fetch"
KEPT = (*IMAGES, ".json", ".txt", ".csv", ".bin", ".npy", ".npz", ".ply", ".pfm", ".exr", ".md", ".jgz")
"""Endings of files that are fetched; what only pickle reads, archives and videos are not."""
WORKERS = 8
GIGABYTE = 1e9
Offer = list[tuple[str, int]]
"""Names and sizes of files, in bytes."""


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """Scenes that lie on the hub.

    Attributes:
        repository: OWNER/NAME of the data set.
        folder: The part of it that is fetched; empty for all.
        inside: Folders below that one that are needed; empty for all.
        kind: The name before the folder in ``--scenes``.
        about: One line for the list.
    """

    repository: str
    folder: str = ""
    inside: tuple[str, ...] = ()
    kind: str = ""
    about: str = ""


SETS = {
    "beetle": DataSet(
        repository="loopce/gaussiansplats", folder="beetle", inside=("images", "sparse"), kind="colmap",
        about="images and COLMAP's reconstruction of one scene; its card says CC BY 4.0",
    ),
    "basket": DataSet(
        repository="loopce/gaussiansplats", folder="basket", inside=("images", "sparse"), kind="colmap",
        about="another scene of that data set",
    ),
}  # fmt: skip
"""Public scenes by name; any other data set of the hub is named OWNER/NAME[/FOLDER]."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Fetch real scenes from the Hugging Face hub: says size and licence first."""

    name: tyro.conf.Positional[str] = ""
    """A name of the list that is printed without one, or OWNER/DATASET[/FOLDER] of the hub."""
    out: Path = Path("data")
    """Folder to put the scenes' folder into."""
    yes: bool = False
    """Fetch without asking."""


def main(settings: Settings) -> None:
    """List what there is, or fetch one of it."""
    if not settings.name:
        print("\n".join(f"{name}: {one.about} (hub: {one.repository})" for name, one in SETS.items()))
        print(f"fetch one by: {PROG} NAME; any other data set of the hub by OWNER/DATASET[/FOLDER]")
        return
    from huggingface_hub import HfApi

    fetch(HfApi(), settings.name, settings.out, sure=settings.yes)


def fetch(hub: HfApi, name: str, out: Path, *, sure: bool) -> Path:
    """Fetch a data set into OUT/NAME, unless it is there.

    It grows in a folder beside its place, from which an interrupted fetch goes on, and is put there when it is whole.

    Args:
        hub: The hub.
        name: A key of :data:`SETS`, or OWNER/DATASET[/FOLDER].
        out: Where its folder goes.
        sure: Whether nothing is asked.

    Returns:
        Its folder.

    Raises:
        ValueError: If the name is unknown, the hub does not give it, or fetching it was not confirmed.
    """
    chosen = choose(name)
    target = out / (PurePosixPath(name).name or name)
    if not target.exists():
        licence, revision, offer = ask(hub, chosen)
        size = sum(size for _, size in offer)
        print(
            f"{chosen.repository}: {len(offer)} files, {size / GIGABYTE:.2f} GB, licence {licence} (as its card says)"
        )
        if not (sure or _confirmed()):
            raise ValueError(f"{name} was not fetched; read its licence, then add --yes")
        part = target.with_name(f"{target.name}.part")
        _download(hub, chosen, revision, [file for file, _ in offer], part)
        (part / chosen.folder).rename(target)
        shutil.rmtree(part, ignore_errors=True)
    print(f"{target}: --scenes {chosen.kind or 'KIND'}:{target}")
    return target


def choose(name: str) -> DataSet:
    """Return the data set of a name.

    Raises:
        ValueError: If it is neither on the list nor OWNER/DATASET[/FOLDER].
    """
    if name in SETS:
        return SETS[name]
    owner, _, rest = name.partition("/")
    data_set, _, folder = rest.partition("/")
    if not (owner and data_set) or ".." in PurePosixPath(name).parts:
        raise ValueError(
            f"{name!r} is unknown; choose from {', '.join(SETS)}, or name OWNER/DATASET[/FOLDER] of the hub"
        )
    return DataSet(repository=f"{owner}/{data_set}", folder=folder.strip("/"))


def ask(hub: HfApi, chosen: DataSet) -> tuple[str, str, Offer]:
    """Ask the hub for a data set's licence, its revision, and the files that would be fetched.

    Raises:
        ValueError: If the hub cannot be reached, does not give it, or it holds no such files.
    """
    info = _reached(chosen.repository, lambda: hub.dataset_info(chosen.repository, files_metadata=True))
    card = info.card_data
    licence = card.get("license") if card else None
    offer = [(file.rfilename, file.size or 0) for file in info.siblings or () if _wanted(file.rfilename, chosen)]
    if not offer:
        where = "/".join(filter(None, (chosen.repository, chosen.folder)))
        raise ValueError(f"{where} holds no files that are fetched: images, cameras, depth ({', '.join(KEPT)})")
    return str(licence or "unknown"), str(info.sha), offer


def _wanted(file: str, chosen: DataSet) -> bool:
    """Return whether a file is fetched: it lies in the folder, below it, and is of a kind that is read here."""
    path, folder = PurePosixPath(file), PurePosixPath(chosen.folder)
    if path.is_absolute() or ".." in path.parts or "\\" in file or not path.is_relative_to(folder):
        return False
    below = path.relative_to(folder).parts
    return path.suffix.lower() in KEPT and (not chosen.inside or below[0] in chosen.inside)


def _confirmed() -> bool:
    return sys.stdin.isatty() and input("fetch it? [y/N] ").strip().lower() in ("y", "yes")


def _download(hub: HfApi, chosen: DataSet, revision: str, files: list[str], part: Path) -> None:
    from tqdm import tqdm

    def get(file: str) -> None:
        hub.hf_hub_download(chosen.repository, file, repo_type="dataset", revision=revision, local_dir=part)

    with ThreadPoolExecutor(WORKERS) as pool:
        jobs = pool.map(get, files)
        _reached(chosen.repository, lambda: list(tqdm(jobs, desc="fetching", total=len(files), unit="file")))


def _reached(repository: str, call: Any) -> Any:
    """Call the hub; its errors, and those of the way to it, become one line."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        HTTPError,
        LocalEntryNotFoundError,
    )

    try:
        return call()
    except GatedRepoError:
        advice = f"accept its terms at https://huggingface.co/datasets/{repository}, then run: hf auth login"
        raise ValueError(f"{repository} is given to those only who accept its terms; {advice}") from None
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, HTTPError) as error:
        why = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(f"the hub does not give {repository}: {why}") from None


def cli(arguments: list[str] | None = None) -> None:
    """Parse the command line and run."""
    command.run(main, command.parse(Settings, arguments, prog=PROG), prog=PROG)


if __name__ == "__main__":
    cli()
