"""Depth maps as files hold them: 16-bit PNG, .npy, OpenEXR, and TIFF of numbers; and whether their unit fits.

What a file is, its first bytes say, not its name.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from probe.scenes.files import DAMAGE, read_sixteen
from probe.scenes.grouping import compare_views
from probe.scenes.reading import Folder, flag_of, inside
from probe.scenes.recordings import COARSE, Recording, read_depth

EXR, TIFFS, NPY = b"\x76\x2f\x31\x01", (b"II*\0", b"MM\0*"), b"\x93NUMPY"
LARGEST = 2**26  # numbers of a map: a quarter of a gibibyte in single precision
COMPARED = 6  # frames whose depth is compared
FACTORS = (1000.0, 100.0, 10.0, 5.0, 0.2, 0.1, 0.01, 0.001)  # by which a unit may be off; 5000 counts are TUM's metre
CLEARLY = 2.0
"""How many times as much of the depth must agree in another unit."""
LEAST = 0.1  # share of the depth that agrees in another unit


def read_depth_map(path: Path, root: Folder) -> Float[Tensor, "height width"]:
    """Read a depth map's numbers, as they are.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is none of these files, or broken.
    """
    with inside(path, root).open("rb") as stream:
        start = stream.read(len(NPY))
    if start.startswith(EXR):
        values = _read_exr(path, root)
    elif start.startswith(TIFFS):
        values = _read_tiff(path, root)
    elif start == NPY:
        values = _read_npy(path, root)
    elif path.suffix.lower() == ".npy":
        raise ValueError(f"{path} is not a whole .npy of numbers")
    else:
        values = read_sixteen(path, root)
    return torch.from_numpy(values.astype(np.float32))


def _read_npy(path: Path, root: Folder) -> np.ndarray:
    try:
        depth = np.load(inside(path, root), mmap_mode="r", allow_pickle=False)
    except DAMAGE as error:
        raise ValueError(f"{path} is not a whole .npy of numbers: {' '.join(str(error).split())}") from None
    return _as_map(depth, path)


def _read_tiff(path: Path, root: Folder) -> np.ndarray:
    try:
        with Image.open(inside(path, root), formats=("TIFF",)) as image:
            if image.width * image.height > LARGEST:
                raise ValueError(f"it has {image.height} x {image.width} pixels")
            return _as_map(np.array(image), path)
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is not a whole TIFF of depth: {' '.join(str(error).split())}") from None


def _read_exr(path: Path, root: Folder) -> np.ndarray:
    """Read an OpenEXR image's depth: the channel named Z or depth, or the one that all colours equal."""
    try:
        exr = importlib.import_module("OpenEXR")
    except ImportError as error:
        advice = "python -m pip install 'attention-probing[exr]', or convert it to a TIFF or an .npy of numbers"
        raise ValueError(f"{path} is an OpenEXR image, which needs OpenEXR ({error}): {advice}") from None
    try:
        with exr.File(str(inside(path, root)), header_only=True) as header:
            low, high = header.header()["dataWindow"]
        height, width = (int(high[axis]) - int(low[axis]) + 1 for axis in (1, 0))
        if not 0 < height * width <= LARGEST:
            raise ValueError(f"it has {height} x {width} pixels")
        with exr.File(str(path), separate_channels=True) as image:
            channels = {name: channel.pixels for name, channel in image.channels().items()}
    except (RuntimeError, OSError, ValueError, TypeError, KeyError, MemoryError) as error:
        raise ValueError(f"{path} is not a whole OpenEXR image: {' '.join(str(error).split())}") from None
    return _as_map(_depth_channel(channels, path), path)


def _depth_channel(channels: dict[str, np.ndarray], path: Path) -> np.ndarray:
    named = [name for name in channels if name.rpartition(".")[2].lower() in ("z", "depth")]
    colours = [channel for name, channel in channels.items() if name.rpartition(".")[2] != "A"]
    if len(named) == 1:
        return channels[named[0]]
    if not named and colours and all(np.array_equal(channel, colours[0], equal_nan=True) for channel in colours):
        return colours[0]
    raise ValueError(f"{path} has the channels {', '.join(channels)}: which is depth cannot be told; expected one Z")


def _as_map(depth: np.ndarray, path: Path) -> np.ndarray:
    squeezed = depth.reshape([side for side in depth.shape if side != 1]) if depth.ndim == 3 else depth
    if squeezed.ndim != 2 or squeezed.dtype.kind not in "fui" or not 0 < squeezed.size <= LARGEST:
        raise ValueError(f"{path} holds {depth.dtype} {depth.shape}, expected numbers (height, width)")
    return np.asarray(squeezed)


def check_unit(recording: Recording, advice: str, metres: float) -> None:
    """Compare depth maps with each other over the cameras, in their unit and in others that are often meant.

    Args:
        recording: With depth.
        advice: Where its unit comes from, for the error.
        metres: That one count of a depth file stands for, as it is read.

    Raises:
        ValueError: If far more of the depth agrees in another unit.
    """
    count = len(recording.names)
    chosen = sorted({index * count // COMPARED for index in range(COMPARED)})
    depths, frames = list[Tensor](), list[int]()
    for index in chosen:
        try:
            depths.append(read_depth(recording, index, COARSE))
            frames.append(index)
        except (ValueError, OSError):  # left out when it is drawn
            continue
    if len(frames) < 2:
        return
    depth, cameras = torch.stack(depths), recording.cameras[frames]
    intrinsics = torch.stack([recording.camera(index, COARSE) for index in frames])

    def agreeing(factor: float) -> float:
        overlap = compare_views(depth * factor, intrinsics, cameras).overlap
        return float((overlap.sum() - overlap.diagonal().sum()) / (len(frames) * (len(frames) - 1)))

    own = agreeing(1.0)
    if own * CLEARLY >= 1:
        return
    shares = {factor: agreeing(factor) for factor in FACTORS}
    best = max(FACTORS, key=shares.__getitem__)
    if shares[best] > max(LEAST, own * CLEARLY):
        middle = float(depth[depth > 0].median())
        raise ValueError(
            f"{_wrong_unit(recording, middle, best, (own, shares[best]), advice)}; if that is right, pass "
            f"{flag_of('depth_scale')} {1 / (metres * best):.6g} (what counts as one metre)"
        )


def _wrong_unit(recording: Recording, middle: float, factor: float, shares: Sequence[float], advice: str) -> str:
    unit = recording.unit or "units"
    return (
        f"the depth of {recording.name} is {middle:.3g} {unit} at the median ({advice}), where {shares[0]:.0%} of it "
        f"agree between the cameras; times {factor:g} it is {shares[1]:.0%}"
    )
