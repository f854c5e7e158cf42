"""A model of one's own: ``--model module:package.function`` imports the function and calls it without arguments.

The function returns a :class:`probe.models.denoising.MultiViewModel`: a subclass that overrides those of its six
methods (encode, decode, condition, denoise, probe_inputs, fresh) that differ. Licence, hub id, size and weights are the
user's own affair; ``--base`` and ``--model-size`` are refused: only the function knows what they would mean.
"""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from probe.models.denoising import MultiViewModel
from probe.models.files import Loading
from probe.modules import nearest_names

HOW = "give --model module:package.function, whose function returns a MultiViewModel"


def load_custom(source: str, loading: Loading) -> MultiViewModel:
    """Import a function, also from the current directory, and call it.

    What goes wrong inside the user's own code is not caught: its traceback says where.

    Args:
        source: Dotted path of the function.
        loading: What the command line said of base and size, which must be nothing.

    Raises:
        ValueError: If there is no such module or function, or it gives something else than a model.
    """
    if loading.base is not None or loading.size is not None:
        raise ValueError("--model module: takes neither --base nor --model-size; set them in your function")
    with _current_directory():
        made = _function(source)()
    if not isinstance(made, MultiViewModel):
        raise ValueError(f"--model module:{source} returned {type(made).__name__}, expected a MultiViewModel")
    made.network.eval().requires_grad_(False)
    return made


def _function(source: str) -> Callable[[], Any]:
    path, _, name = source.rpartition(".")
    if not all(part.isidentifier() for part in source.split(".")) or not path:
        raise ValueError(f"--model module:{source}: expected a dotted path such as my_model.make; {HOW}")
    module = _module(path)
    if not hasattr(module, name):
        nearest = nearest_names(name, [other for other in vars(module) if not other.startswith("_")])
        raise ValueError(f"--model module:{source}: {path} ({module.__file__}) has no {name!r}; nearest: {nearest}")
    found = getattr(module, name)
    if not callable(found):
        raise ValueError(f"--model module:{source} is {type(found).__name__}, not a function; {HOW}")
    return found


def _module(path: str) -> ModuleType:
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{path}.".startswith(f"{error.name}."):
            raise ValueError(f"--model module: importing {path} failed: {error}; install it") from error
        raise ValueError(
            f"--model module: there is no module {error.name!r} in {Path.cwd()} or on Python's path; {HOW}"
        ) from error


@contextmanager
def _current_directory() -> Iterator[None]:
    """Look for modules in the current directory too, after Python's own path, while the function is found and run."""
    here = str(Path.cwd())
    sys.path.append(here)
    try:
        yield
    finally:
        sys.path.remove(here)
