"""Let the pieces of the stack work together where their wheels do not."""

import importlib.util
import re
from pathlib import Path

import torch

_LIBRARIES: list[torch.library.Library] = []  # a Library object must stay alive


def declare_torchvision_operators() -> bool:
    """Declare the operators that torchvision's CUDA wheel expects, where torch is a CPU build.

    PyPI's torchvision beside a CPU-only torch cannot be imported ("operator torchvision::nms does not exist"), and
    diffusers, torch-fidelity and lpips fail with it. Declaring the schemas of the two missing operators before the
    first import lets the Python parts work; the compiled operators themselves stay absent and say so when called.

    Returns:
        Whether the operators are declared by this function.

    Source:
        reference/stack.md, section 1 (measured).
    """
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None or torch.version.cuda is not None or _LIBRARIES:
        return bool(_LIBRARIES)
    text = (Path(found.origin).parent / "version.py").read_text()
    if not re.search(r"^__version__\s*=\s*['\"][^'\"]*\+cu\d+", text, re.M):
        return False
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _LIBRARIES.append(library)
    return True
