"""Cameras as files write them, turned into ours (OpenCV axes, first pixel's centre at 0.5), or rejected in one line.

They stay in double precision: :attr:`probe.scenes.recordings.Recording.cameras` rounds them, near the origin.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from probe.geometry import invert_rigid

RIGID = 1e-2
"""The largest deviation of R R^T from the identity; 7-Scenes' own cameras reach 3e-4."""
FOCAL = (0.05, 100.0)
"""The least and the largest focal length, in multiples of an image's longer side; the fields of view are 169 and 0.6
degrees. Failed reconstructions lie beyond."""
OPENGL_TO_OPENCV = (1.0, -1.0, -1.0, 1.0)
"""Signs of camera x, y, z and the origin: OpenGL looks along -z with y up."""


def read_rigid(transform: Float[Tensor, "rows 4"], origin: str) -> Float[Tensor, "4 4"]:
    """Check a rotation and translation, 3 x 4 or 4 x 4 in double precision, and make the rotation exact.

    Args:
        transform: From world to camera or back; either is kept.
        origin: Where it stands, for the error: a file and place in it.

    Raises:
        ValueError: If it has a NaN, an infinite number, another last row than 0 0 0 1, or is not a rotation.
    """
    if tuple(transform.shape) not in ((3, 4), (4, 4)):
        shape = " x ".join(str(side) for side in transform.shape)
        raise ValueError(f"{origin} is a {shape} matrix, expected a 4 x 4 pose")
    if not transform.isfinite().all():
        raise ValueError(f"{origin} holds a NaN or infinite number; write this pose, or remove its entry")
    last = transform.new_tensor([0, 0, 0, 1])
    rigid = torch.cat([transform[:3], last[None]]).double()
    error = (rigid[:3, :3] @ rigid[:3, :3].mT - torch.eye(3, dtype=torch.float64)).abs().max()
    moved = (transform[3] - last).abs().max() > 1e-6 if len(transform) == 4 else False
    if error > RIGID or rigid[:3, :3].det() < 0 or moved:
        raise ValueError(f"{origin} is not a rigid pose (rotation, translation, last row 0 0 0 1)")
    left, _, right = torch.linalg.svd(rigid[:3, :3])
    rigid[:3, :3] = left @ right
    return rigid


def from_cam_to_world(cam_to_world: Float[Tensor, "rows 4"], origin: str) -> Float[Tensor, "4 4"]:
    """Turn a camera-to-world matrix with OpenCV axes into world_to_cam; reject as :func:`read_rigid` does."""
    return invert_rigid(read_rigid(cam_to_world, origin))


def from_world_to_cam(world_to_cam: Float[Tensor, "rows 4"], origin: str) -> Float[Tensor, "4 4"]:
    """Make the rotation of a world_to_cam matrix exact about the camera's centre; reject as :func:`read_rigid` does.

    About the world's origin, digits that the file lacks would move a camera that is far away from it.
    """
    rigid, matrix = read_rigid(world_to_cam, origin), world_to_cam.double()
    offset = torch.linalg.solve(matrix[:3, :3], matrix[:3, 3])
    rigid[:3, 3] = rigid[:3, :3] @ offset
    return rigid


def without_scale(transform: Float[Tensor, "rows 4"]) -> Float[Tensor, "rows 4"]:
    """Divide the axes of a camera-to-world matrix by their common length, where they have one.

    Metashape's chunks and Blender's objects have a scale, which the axes of their cameras inherit; the camera's place
    and direction are the same without it. Axes of different lengths stay, for :func:`read_rigid` to reject.
    """
    lengths = torch.linalg.vector_norm(transform[:3, :3], dim=0)
    if not (lengths.min() > 0 and lengths.max() < lengths.min() * (1 + RIGID)):
        return transform
    axes = torch.cat([transform[:3, :3] / lengths.mean(), transform[:3, 3:]], -1)
    return torch.cat([axes, transform[3:]])


def from_opengl(cam_to_world: Float[Tensor, "rows 4"], origin: str) -> Float[Tensor, "4 4"]:
    """Turn a camera-to-world matrix with OpenGL axes (x right, y up, z backwards) into world_to_cam with OpenCV axes.

    Raises:
        ValueError: As :func:`read_rigid`.
    """
    rigid = read_rigid(cam_to_world, origin)
    return invert_rigid(rigid * rigid.new_tensor(OPENGL_TO_OPENCV))


def pinhole(
    focal: tuple[float, float], centre: tuple[float, float], size: tuple[int, int], origin: str
) -> Float[Tensor, "3 3"]:
    """Return the intrinsics of a camera without skew.

    Args:
        focal: (x, y) in pixels of ``size``.
        centre: Principal point (x, y) in pixels, for a first pixel whose centre is (0.5, 0.5).
        size: (height, width) of the image.
        origin: Where the numbers stand, for the error.

    Raises:
        ValueError: If a number is NaN or infinite, a focal length not positive or beyond :data:`FOCAL`, or the
            principal point outside.
    """
    if not all(math.isfinite(value) for value in (*focal, *centre)):
        raise ValueError(f"{origin} holds a NaN or infinite focal length or principal point, expected pixels")
    if min(focal) <= 0:
        raise ValueError(f"{origin} has focal lengths {focal}, expected positive pixels")
    if not (FOCAL[0] * max(size) <= min(focal) and max(focal) <= FOCAL[1] * max(size)):
        raise ValueError(
            f"{origin} has focal lengths {focal} for an image of {size[0]} x {size[1]}, expected {FOCAL[0]:g} to "
            f"{FOCAL[1]:g} times its longer side; a failed reconstruction has such lenses"
        )
    if not (0 < centre[0] < size[1] and 0 < centre[1] < size[0]):
        raise ValueError(
            f"{origin} puts the principal point at x {centre[0]:g}, y {centre[1]:g}, outside the image of width "
            f"{size[1]}, height {size[0]}; write the intrinsics of these images"
        )
    return torch.tensor([[focal[0], 0, centre[0]], [0, focal[1], centre[1]], [0, 0, 1]], dtype=torch.float32)
