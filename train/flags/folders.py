"""Folders that flags name: a missing one is reported before anything heavy is imported."""

from pathlib import Path

from probe.scenes.names import GENERATED


def check_scenes(spec: str) -> None:
    """Check that the folder of ``NAME:FOLDER[#PART]`` exists.

    Raises:
        FileNotFoundError: If it does not.
    """
    name, _, root = spec.partition(":")
    if name not in GENERATED and root and not (Path(root).exists() or Path(root.partition("#")[0]).exists()):
        raise FileNotFoundError(f"--scenes {spec}: {root.partition('#')[0]} does not exist; name an existing folder")


def check_model(spec: str) -> None:
    """Check that the path of ``NAME:PATH`` exists, if it can be told from a hub id.

    Raises:
        FileNotFoundError: If it does not.
    """
    source = spec.partition(":")[2]
    if source.startswith(("/", "./", "../")) and not Path(source).exists():
        raise FileNotFoundError(f"--model {spec}: {source} does not exist; name an existing folder, or a hub id")
