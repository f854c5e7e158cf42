"""Let stand-ins for packages that are not installed be imported, for a while."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

STANDINS = Path(__file__).parent / "standins"
NAMES = (
    "seva", "mvdream", "mv_unet", "xformers", "ldm_unet", "open_clip", "vggt", "depth_anything_3", "geometry_blocks",
)  # fmt: skip


def _ours() -> list[str]:
    return [name for name in sys.modules if name.partition(".")[0] in NAMES]


@contextmanager
def standins(*folders: Path, without: tuple[str, ...] = ()) -> Iterator[None]:
    """Put folders before all others on the path; packages ``without`` cannot be imported."""
    before, path = {name: sys.modules.pop(name) for name in _ours()}, sys.path[:]
    sys.path[:0] = [str(folder) for folder in folders or (STANDINS,)]
    sys.modules.update(dict.fromkeys(without))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in _ours():
            del sys.modules[name]
        sys.modules.update(before)
        sys.path[:] = path


@contextmanager
def heard(network: nn.Module) -> Iterator[dict[str, Any]]:
    """Note what the package's own network, which stands behind this suite's class, is given."""
    package = type(network).__mro__[2]
    own, given = package.forward, {}

    def noting(network: nn.Module, x: Tensor, **kwargs: Any) -> Tensor:
        given.update(x=x, **kwargs)
        return own(network, x, **kwargs)

    package.forward = noting  # type: ignore[method-assign]
    try:
        yield given
    finally:
        package.forward = own  # type: ignore[method-assign]
