"""Cameras of RGB-D recordings as their files write them, or as a data set's page publishes them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from scipy.spatial.transform import Rotation
from torch import Tensor

from probe.scenes.cameras import from_cam_to_world, pinhole
from probe.scenes.files import read_matrix
from probe.scenes.formats.rgbd.frames import by
from probe.scenes.reading import Folder, find_file

SKEW = 1e-2  # of the focal length: less is taken as none
ALIKE = 1.3  # shares of a principal point on both axes that point to an image of another size
ASPECT = 0.02  # relative difference of two shapes that are taken as one
SHAPES = {
    (3, 3): "3 x 3",
    (3, 4): "3 x 4",
    (4, 4): "4 x 4",
    (1, 4): "one line fx fy cx cy",
    (1, 9): "one line of 9",
    (1, 16): "one line of 16",
}


@dataclass(frozen=True, kw_only=True)
class Written:
    """A pinhole camera as it is written.

    Attributes:
        focal: (x, y) in pixels.
        centre: Principal point (x, y), for a first pixel whose centre is (0.5, 0.5).
        size: (height, width) of the image that it is written for; None: of the image at hand, whatever it is.
        origin: Where it is written, for errors.
        distortion: k1, k2, p1, p2, k3 of OpenCV's model, where the images show it.
    """

    focal: tuple[float, float]
    centre: tuple[float, float]
    size: tuple[int, int] | None
    origin: str
    distortion: tuple[float, ...] = ()

    def at(self, size: tuple[int, int]) -> Float[Tensor, "3 3"]:
        """Return the intrinsics for an image of that size, which shows the same field of view.

        Raises:
            ValueError: If it is no camera of such an image.
        """
        if self.size is None:
            self._check_size(size)
            return pinhole(self.focal, self.centre, size, self.origin)
        x, y = size[1] / self.size[1], size[0] / self.size[0]
        if abs(x / y - 1) > ASPECT:
            raise ValueError(f"{self.origin} is for images of {by(self.size)}, these are {by(size)}: of another shape")
        focal, centre = (self.focal[0] * x, self.focal[1] * y), (self.centre[0] * x, self.centre[1] * y)
        return pinhole(focal, centre, size, self.origin)

    def _check_size(self, size: tuple[int, int]) -> None:
        """Refuse a principal point as far off the middle on both axes as that of an image of another size."""
        shares = (self.centre[0] / size[1], self.centre[1] / size[0])
        alike = min(shares) > 0 and max(shares) < ALIKE * min(shares)
        if alike and not 0.3 < sum(shares) / 2 < 0.75:
            raise ValueError(
                f"{self.origin} puts the principal point at x {self.centre[0]:g}, y {self.centre[1]:g} of the image of "
                f"width {size[1]}, height {size[0]}, as that of an image {sum(shares):.2g} times as large; write the "
                "intrinsics of these images"
            )


def read_camera(path: Path, root: Folder) -> Written:
    """Read a pinhole camera from a text file: a matrix, or fx, fy, cx and cy in one line.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it lies outside the folder or holds no pinhole camera.
    """
    matrix = read_matrix(path, root)
    return from_matrix(matrix, f"load_frames: {path}")


def from_matrix(matrix: Float[Tensor, "rows columns"], origin: str) -> Written:
    """Take a pinhole camera from a matrix, or from fx, fy, cx and cy in one row.

    Raises:
        ValueError: If it holds no pinhole camera.
    """
    if tuple(matrix.shape) not in SHAPES:
        raise ValueError(f"{origin} is a {by(matrix.shape)} matrix, expected {', '.join(SHAPES.values())} intrinsics")
    if tuple(matrix.shape) == (1, 4):
        fx, fy, cx, cy = matrix[0].tolist()
        matrix = torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=torch.float64)
    side = {9: 3, 16: 4}.get(matrix.numel(), matrix.shape[-1])
    whole = matrix.reshape(-1, side)[:3, :3]
    fx, fy, cx, cy, skew = (float(whole[index]) for index in ((0, 0), (1, 1), (0, 2), (1, 2), (0, 1)))
    plain = torch.tensor([[fx, skew, cx], [0, fy, cy], [0, 0, 1]], dtype=torch.float64)
    if not (matrix.isfinite().all() and min(fx, fy) > 0 and abs(skew) <= SKEW * fx and torch.equal(whole, plain)):
        raise ValueError(f"{origin} is no pinhole camera; expected rows fx 0 cx, 0 fy cy, 0 0 1 with fx, fy > 0")
    return Written(focal=(fx, fy), centre=(cx, cy), size=None, origin=origin)


def from_first_centre(camera: Written) -> Written:
    """Turn a camera whose pixels count from 0 at the first one's centre into ours, where that is (0.5, 0.5)."""
    return replace(camera, centre=(camera.centre[0] + 0.5, camera.centre[1] + 0.5))


def colour_camera(depth: Written, focal: float, size: tuple[int, int], colour_size: tuple[int, int]) -> Written:
    """Return a camera of that focal length, whose principal point is at the same share of its image."""
    matrix = depth.at(size)
    centre = (float(matrix[0, 2]) * colour_size[1] / size[1], float(matrix[1, 2]) * colour_size[0] / size[0])
    return Written(focal=(focal, focal), centre=centre, size=colour_size, origin=f"load_frames: #{focal:g}")


def find_text(names: Sequence[str], root: Folder, *, beside: bool = False) -> tuple[Path, Folder] | None:
    """Find the first text file of those names in the folder, and then beside it where data sets keep it.

    Args:
        names: In order of preference.
        root: The folder.
        beside: Whether the folder above is asked too.

    Returns:
        The file and the folder that it lies in; None if there is none.
    """
    above = (root.at(root.path.resolve().parent),) if beside else ()
    for folder in (root, *above):
        for name in names:
            file = find_file(name, folder.path, suffixes=())
            if file is not None:
                return file, folder
    return None


def from_quaternion(numbers: Sequence[float], origin: str) -> Float[Tensor, "4 4"]:
    """Turn tx ty tz qx qy qz qw, camera to world with OpenCV axes, into world_to_cam.

    Raises:
        ValueError: If the quaternion's length is not 1 or a number is not finite.
    """
    length = math.hypot(*numbers[3:])
    if not all(math.isfinite(number) for number in numbers):
        raise ValueError(f"{origin} holds a NaN or infinite number")
    if not abs(length - 1) < 1e-2:
        raise ValueError(f"{origin} has the quaternion {tuple(numbers[3:])}, expected one of length 1")
    cam_to_world = torch.eye(4, dtype=torch.float64)
    cam_to_world[:3, :3] = torch.from_numpy(Rotation.from_quat(numbers[3:]).as_matrix())
    cam_to_world[:3, 3] = torch.tensor(numbers[:3], dtype=torch.float64)
    return from_cam_to_world(cam_to_world, origin)
