"""Let the pieces of the stack work together where their wheels do not."""

import importlib.util
import re
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path

_LIBRARIES: list[object] = []  # a Library object must stay alive


class _BeforeTorchvision(MetaPathFinder):
    """Prepares the first import of torchvision, whoever imports it; finds nothing itself."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Declare the operators when torchvision is looked for, once."""
        if name == "torchvision" and self in sys.meta_path:
            sys.meta_path.remove(self)
            declare_torchvision_operators()


def prepare_torchvision() -> None:
    """Let :func:`declare_torchvision_operators` run before the first import of torchvision."""
    sys.meta_path.insert(0, _BeforeTorchvision())


def declare_torchvision_operators() -> bool:
    """Declare the operators that torchvision's CUDA wheel expects, where torch is a CPU build.

    PyPI's torchvision beside a CPU-only torch cannot be imported ("operator torchvision::nms does not exist"), and
    diffusers, torch-fidelity and lpips fail with it. Declaring the schemas of the two missing operators before the
    first import lets the Python parts work; the compiled operators themselves stay absent and say so when called.

    Returns:
        Whether the operators are declared by this function.

    Source:
        docs/references.md, "torchvision beside a CPU build of PyTorch".
    """
    import torch  # here, because commands parse their flags before PyTorch is imported

    spec: ModuleSpec | None = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None or torch.version.cuda is not None or _LIBRARIES:
        return bool(_LIBRARIES)
    text = (Path(spec.origin).parent / "version.py").read_text()
    if not re.search(r"^__version__\s*=\s*['\"][^'\"]*\+cu\d+", text, re.M):
        return False
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _LIBRARIES.append(library)
    return True
