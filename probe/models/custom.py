"""A model of your own: ``--model module:package.function`` imports the function and calls it without arguments.

The function returns a :class:`probe.models.model.MultiViewModel`: a subclass that overrides those of its six
methods (encode, decode, condition, denoise, probe_inputs, fresh) that differ. Licence, hub id, size and weights are up
to the user; ``--base`` and ``--model-size`` are rejected: only the function can know what they mean.
"""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from probe.attention.modules import nearest_names
from probe.models.model import MultiViewModel
from probe.models.parts.files import Loading

HOW = "give module:package.function, whose function returns a MultiViewModel"


def load_custom(source: str, loading: Loading) -> MultiViewModel:
    """Import a function, also from the current directory, and call it.

    What goes wrong inside the user's own code is not caught: its traceback says where.

    Args:
        source: Dotted path of the function.
        loading: Its base and size must be None.

    Raises:
        ValueError: If there is no such module or function, or it gives something else than a model.
    """
    if loading.base is not None or loading.size is not None:
        raise ValueError("module takes neither a base nor a size; set them in your function")
    with current_directory():
        made = user_function(source, how=HOW)()
    if not isinstance(made, MultiViewModel):
        raise ValueError(f"module:{source} returned {type(made).__name__}, expected a MultiViewModel")
    made.network.eval().requires_grad_(False)
    return made


def user_function(source: str, *, how: str) -> Callable[..., Any]:
    """Import a function of the user's own.

    Args:
        source: Dotted path.
        how: What to do, for messages.

    Raises:
        ValueError: If there is no such module or function.
    """
    path, _, name = source.rpartition(".")
    if not all(part.isidentifier() for part in source.split(".")) or not path:
        raise ValueError(f"module:{source}: expected a dotted path such as my_model.make; {how}")
    module = _module(path, how)
    if not hasattr(module, name):
        nearest = nearest_names(name, [other for other in vars(module) if not other.startswith("_")])
        raise ValueError(f"module:{source}: {path} ({module.__file__}) has no {name!r}; nearest: {nearest}")
    target = getattr(module, name)
    if not callable(target):
        raise ValueError(f"module:{source} is {type(target).__name__}, not a function; {how}")
    return target


def _module(path: str, how: str) -> ModuleType:
    try:
        return import_afresh(path)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{path}.".startswith(f"{error.name}."):
            raise ValueError(f"module: importing {path} failed: {error}; install it") from error
        raise ValueError(
            f"module: there is no module {error.name!r} in {Path.cwd()} or on Python's path; {how}"
        ) from error


def import_afresh(path: str) -> ModuleType:
    """Import a module of the user's own from its file as it is now, with the user's modules that it imports.

    Python's module cache goes by name: it would return the first file of a name for the second one too, and an edited
    file as it was before. Installed modules come from the cache.
    """
    _forget({*_IMPORTED, path} if _is_users(path) else _IMPORTED)
    importlib.invalidate_caches()  # a file that was written a moment ago is found
    before, keeps_no_bytecode = set(sys.modules), sys.dont_write_bytecode
    sys.dont_write_bytecode = True  # bytecode is dated to the second: an edit within it would go unnoticed
    try:
        return importlib.import_module(path)
    finally:
        sys.dont_write_bytecode = keeps_no_bytecode
        _IMPORTED.update(filter(_is_users, set(sys.modules) - before))


_IMPORTED = set[str]()
"""Names in Python's module cache that :func:`import_afresh` put there."""


def _forget(names: set[str]) -> None:
    for name in tuple(names):
        sys.modules.pop(name, None)
    _IMPORTED.clear()


def _is_users(name: str) -> bool:
    """Return whether an imported module is the user's: not Python's, an installed package's or the suite's."""
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None or name.partition(".")[0] in ("probe", "train", "analysis"):
        return False
    return not any(Path(file).is_relative_to(home) for home in (sys.prefix, sys.base_prefix))


@contextmanager
def current_directory() -> Iterator[None]:
    """Look for modules in the current directory too, after Python's own path, while the function is found and run."""
    here = str(Path.cwd())
    sys.path.append(here)
    try:
        yield
    finally:
        sys.path.remove(here)
