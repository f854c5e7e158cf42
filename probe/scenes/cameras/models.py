"""Camera models: how a lens moves the image of a ray, written out as COLMAP does, for all of its models but one.

A ray is (x, y, 1), its image (u, v) in multiples of the focal length from the principal point. The functions are
vectorised and pure; NaN where a ray has no image. EQUIRECTANGULAR, which has no pinhole, is refused by its name.

Source:
    COLMAP's documentation, camera models, and its sensor/models.h (docs/references.md, "COLMAP"); pycolmap is the
    reference of the tests. The models of OpenCV have the same formulas.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Distortion = Callable[..., tuple[np.ndarray, np.ndarray]]
"""Takes x, y and the model's coefficients, gives u, v."""


@dataclass(frozen=True, kw_only=True)
class CameraModel:
    """One of COLMAP's camera models.

    Attributes:
        number: In binary files.
        focals: Number of focal lengths.
        coefficients: Names of the lens's coefficients, in the order of COLMAP's files.
        distort: Moves the image of a ray; None: a pinhole.
        fisheye: Whether it distorts even where its coefficients are zero.
    """

    number: int
    focals: int
    coefficients: tuple[str, ...] = ()
    distort: Distortion | None = None
    fisheye: bool = False

    @property
    def parameters(self) -> int:
        """Return the number of parameters: focal lengths, principal point, coefficients."""
        return self.focals + 2 + len(self.coefficients)

    def distorts(self, coefficients: tuple[float, ...]) -> bool:
        """Return whether an image of this camera is no pinhole image."""
        return self.distort is not None and (self.fisheye or any(coefficients))


def _perspective(
    x: np.ndarray, y: np.ndarray, k1: float, k2: float = 0.0, p1: float = 0.0, p2: float = 0.0, *more: float
) -> tuple[np.ndarray, np.ndarray]:
    """Move by a rational function of the radius (``more``: k3, k4, k5, k6) and by decentring."""
    k3, k4, k5, k6 = (*more, 0.0, 0.0, 0.0, 0.0)[:4]
    r2 = x * x + y * y
    radial = _polynomial(r2, 1.0, k1, k2, k3) / _polynomial(r2, 1.0, k4, k5, k6)
    return (
        x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
        y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
    )


def _fisheye(x: np.ndarray, y: np.ndarray, *coefficients: float) -> tuple[np.ndarray, np.ndarray]:
    """Move to the angle between ray and axis, times a polynomial of its square."""
    u, v = _equidistant(x, y)
    radial = _polynomial(u * u + v * v, 1.0, *coefficients)
    return u * radial, v * radial


def _thin_prism(
    x: np.ndarray,
    y: np.ndarray,
    k1: float,
    k2: float,
    p1: float,
    p2: float,
    k3: float,
    k4: float,
    sx: float,
    sy: float,
) -> tuple[np.ndarray, np.ndarray]:
    u, v = _equidistant(x, y)
    r2 = u * u + v * v
    radial = _polynomial(r2, 1.0, k1, k2, k3, k4)
    return (
        u * radial + 2 * p1 * u * v + p2 * (r2 + 2 * u * u) + sx * r2,
        v * radial + p1 * (r2 + 2 * v * v) + 2 * p2 * u * v + sy * r2,
    )


def _aria(x: np.ndarray, y: np.ndarray, *parameters: float) -> tuple[np.ndarray, np.ndarray]:
    """Move as Project Aria's Fisheye624 does: six radial, two tangential, four thin-prism coefficients."""
    u, v = _fisheye(x, y, *parameters[:6])
    p0, p1, s0, s1, s2, s3 = parameters[6:]
    r2, along = u * u + v * v, 2 * (p0 * u + p1 * v)
    return u + u * along + p0 * r2 + s0 * r2 + s1 * r2 * r2, v + v * along + p1 * r2 + s2 * r2 + s3 * r2 * r2


def _field_of_view(x: np.ndarray, y: np.ndarray, omega: float) -> tuple[np.ndarray, np.ndarray]:
    if omega == 0:
        return x, y
    r = np.maximum(np.hypot(x, y), 1e-9)
    radial = np.arctan(2 * r * np.tan(omega / 2)) / (omega * r)
    return x * radial, y * radial


def _division(x: np.ndarray, y: np.ndarray, k: float) -> tuple[np.ndarray, np.ndarray]:
    """Move to the (u, v) for which (x, y) = (u, v) / (1 + k (u^2 + v^2)); NaN where there is none."""
    with np.errstate(invalid="ignore"):
        radial = 2 / (1 + np.sqrt(1 - 4 * k * (x * x + y * y)))
    return x * radial, y * radial


def _extended_unified(x: np.ndarray, y: np.ndarray, alpha: float, beta: float) -> tuple[np.ndarray, np.ndarray]:
    with np.errstate(invalid="ignore"):
        radial = 1 / (alpha * np.sqrt(beta * (x * x + y * y) + 1) + 1 - alpha)
    return x * radial, y * radial


def _equidistant(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r = np.maximum(np.hypot(x, y), 1e-9)
    return x * (np.arctan(r) / r), y * (np.arctan(r) / r)


def _polynomial(r2: np.ndarray, *coefficients: float) -> np.ndarray:
    value = np.zeros_like(r2)
    for coefficient in reversed(coefficients):
        value = value * r2 + coefficient
    return value


OPENCV = ("k1", "k2", "p1", "p2")
FOUR = ("k1", "k2", "k3", "k4")

MODELS = {
    "SIMPLE_PINHOLE": CameraModel(number=0, focals=1),
    "PINHOLE": CameraModel(number=1, focals=2),
    "SIMPLE_RADIAL": CameraModel(number=2, focals=1, coefficients=("k1",), distort=_perspective),
    "RADIAL": CameraModel(number=3, focals=1, coefficients=("k1", "k2"), distort=_perspective),
    "OPENCV": CameraModel(number=4, focals=2, coefficients=OPENCV, distort=_perspective),
    "OPENCV_FISHEYE": CameraModel(number=5, focals=2, coefficients=FOUR, distort=_fisheye, fisheye=True),
    "FULL_OPENCV": CameraModel(
        number=6, focals=2, coefficients=(*OPENCV, "k3", "k4", "k5", "k6"), distort=_perspective
    ),
    "FOV": CameraModel(number=7, focals=2, coefficients=("omega",), distort=_field_of_view),
    "SIMPLE_RADIAL_FISHEYE": CameraModel(number=8, focals=1, coefficients=("k1",), distort=_fisheye, fisheye=True),
    "RADIAL_FISHEYE": CameraModel(number=9, focals=1, coefficients=("k1", "k2"), distort=_fisheye, fisheye=True),
    "THIN_PRISM_FISHEYE": CameraModel(
        number=10, focals=2, coefficients=(*OPENCV, "k3", "k4", "sx1", "sy1"), distort=_thin_prism, fisheye=True
    ),
    "RAD_TAN_THIN_PRISM_FISHEYE": CameraModel(
        number=11,
        focals=2,
        coefficients=("k0", "k1", "k2", "k3", "k4", "k5", "p0", "p1", "s0", "s1", "s2", "s3"),
        distort=_aria,
        fisheye=True,
    ),
    "SIMPLE_DIVISION": CameraModel(number=12, focals=1, coefficients=("k",), distort=_division),
    "DIVISION": CameraModel(number=13, focals=2, coefficients=("k",), distort=_division),
    "SIMPLE_FISHEYE": CameraModel(number=14, focals=1, distort=_fisheye, fisheye=True),
    "FISHEYE": CameraModel(number=15, focals=2, distort=_fisheye, fisheye=True),
    "EUCM": CameraModel(number=16, focals=2, coefficients=("alpha", "beta"), distort=_extended_unified, fisheye=True),
}
"""By their names."""
PANORAMA, PANORAMA_NUMBER = "EQUIRECTANGULAR", 17


def model_named(name: str, origin: str) -> CameraModel:
    """Return a camera model.

    Raises:
        ValueError: If it is unknown, or a panorama.
    """
    if name == PANORAMA:
        raise ValueError(
            f"{origin} has the camera model {name}: images of 360 degrees, which no pinhole camera sees; cut them "
            "into perspective images first (nerfstudio: ns-process-data images --camera-type equirectangular)"
        )
    if name not in MODELS:
        raise ValueError(
            f"{origin} has the camera model {name}, expected one of {', '.join(MODELS)}; COLMAP's image_undistorter "
            "turns it into a pinhole: name the folder that it writes"
        )
    return MODELS[name]
