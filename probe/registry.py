"""Registries: visible dicts from a name to its code, which is imported when it is used.

So the choices can be listed, as ``--help`` does, without importing PyTorch or any model.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Choice:
    """One value of a registry; called like the function that it names. A plain function is a value as well.

    Attributes:
        path: The function, "package.module:name".
        summary: One line for ``--help`` and the documentation.
    """

    path: str
    summary: str

    def load(self) -> Callable[..., Any]:
        """Import the function."""
        module, _, name = self.path.partition(":")
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
        return function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Import the function and call it."""
        return self.load()(*args, **kwargs)


def listing(registry: Mapping[str, Any], *, summaries: bool = True) -> str:
    """Return the names of a registry in a sentence, with what each is where that is known: "a (this), b (that)"."""
    texts = [(name, value.summary if isinstance(value, Choice) else value) for name, value in registry.items()]
    return ", ".join(f"{name} ({text})" if summaries and isinstance(text, str) else name for name, text in texts)


def lazy_names(package: str, names: list[str], *modules: str) -> Callable[[str], Any]:
    """Return a package's ``__getattr__`` (PEP 562): its public names, from modules that are imported when one is used.

    Args:
        package: Name of the package.
        names: Its public names.
        modules: Modules of the package that define them, the lightest first.
    """

    def find(name: str) -> Any:
        if name in names:
            for module in modules:
                loaded = importlib.import_module(f"{package}.{module}")
                if hasattr(loaded, name):
                    return getattr(loaded, name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find
