"""Recordings: posed frames of one scene, whose pixels are read when needed. What every real data set becomes.

A loader finds the files and turns the format's cameras and depth into a :class:`Recording`; everything after that
(comparing frames, drawing groups, cutting the square, resizing, point maps) is the same for all of them, and is here.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from probe.geometry import camera_centre, crop_intrinsics, depth_to_point_map, project, resize_intrinsics
from probe.scenes.grouping import Pairs, compare_views
from probe.scenes.reading import Dropped, printable
from probe.views import Views, resample

ASPECT = 0.02  # difference of shape up to which a depth map shows the same field of view as the image
COARSE = 120  # side of the depth maps on which overlaps are measured, in pixels
FAR = 30
"""Cameras farther from zero than this, in multiples of their extent, are moved to it."""
SUPPOSED = (0.5, 1.0, 2.0)  # distances at which a scene without depth is supposed to lie, in multiples of its middle

Geometry = tuple[Float[Tensor, "b f 3 height width"], Bool[Tensor, "b f height width"]]
GeometrySource = Callable[[Views], Geometry]
"""Gives the world point of each pixel, in the frame and scale of the views' cameras, and where it is to be trusted."""


class UnreadableFramesError(ValueError):
    """Frames whose pixels cannot be read.

    Attributes:
        reasons: By recording and frame, why, in one line.
    """

    def __init__(self, reasons: Mapping[str, Mapping[str, str]]) -> None:
        """Take the reasons; the message is the first one."""
        self.reasons = reasons
        super().__init__(next(reason for frames in reasons.values() for reason in frames.values()))


@dataclass(frozen=True, kw_only=True)
class Window:
    """Cut a square out of an image, in pixels: the part of it that becomes the view."""

    top: int
    left: int
    side: int


@dataclass(frozen=True, kw_only=True)
class Recording:
    """The frames of one scene, in order of time, without their pixels.

    The readers take a frame's index and give what its files hold; they reject broken files in one line. Depth may have
    another size than the image where it shows the same field of view.

    Attributes:
        name: Of the scene, unique in its data set.
        names: Of the frames.
        sizes: (height, width) of each image, in pixels.
        world_to_cam: OpenCV axes, translations in ``unit``; double precision, as the file has them. Views are made
            with :attr:`cameras`.
        intrinsics: In pixels of ``sizes``; the first pixel's centre is (0.5, 0.5).
        colour: Reads an image, in [0, 1].
        depth: Reads a z-depth map in ``unit``; not positive or not finite where it is missing. None: there is none.
        points: Gives the world points of sparse tracks that a frame sees, where there is no depth, in double precision.
            None: there is none.
        shared: Share of a frame's tracks that the other frame sees too, the smaller of both directions; None: unknown.
        windows: Which square becomes the view; None takes the largest centred one.
        supposed: Distances at which the scene is supposed to lie, in ``unit``, for overlaps where nothing tells them;
            None takes them from where the cameras look.
        unit: "m" for metric scenes; None for scenes without a unit.
        dropped: Frames that were left out, such as those whose tracking was lost.
    """

    name: str
    names: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    world_to_cam: Float[Tensor, "frames 4 4"] = field(repr=False)
    intrinsics: Float[Tensor, "frames 3 3"] = field(repr=False)
    colour: Callable[[int], Float[Tensor, "3 height width"]]
    depth: Callable[[int], Float[Tensor, "height width"]] | None = None
    points: Callable[[int], Float[Tensor, "p 3"]] | None = None
    shared: Float[Tensor, "frames frames"] | None = field(default=None, repr=False)
    windows: tuple[Window, ...] | None = None
    supposed: tuple[float, ...] | None = None
    unit: str | None = None
    dropped: tuple[Dropped, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.names)
        counts = {"sizes": len(self.sizes), "cameras": len(self.world_to_cam), "intrinsics": len(self.intrinsics)}
        counts |= {} if self.windows is None else {"windows": len(self.windows)}
        wrong = {kind: number for kind, number in counts.items() if number != count}
        (twice, uses), *_ = Counter(self.names).most_common(1) or [("", 0)]
        if uses > 1:
            raise ValueError(f"Recording: {self.name} has {uses} frames called {twice}, expected names of their own")
        if wrong or not count:
            raise ValueError(f"Recording: {self.name} has {count} frames but {wrong}, expected one of each per frame")
        if not (self.world_to_cam.isfinite().all() and self.intrinsics.isfinite().all()):
            raise ValueError(f"Recording: a camera of {self.name} holds a NaN or infinite number")

    @cached_property
    def origin(self) -> Float[Tensor, " 3"]:
        """Return the world point that the views have at zero, in double precision.

        It is the cameras' middle where that lies farther from zero than :data:`FAR` times the cameras' extent, as in
        georeferenced scenes: single precision is too coarse there (a pixel off at 1e3 units, 22 at 1e5). Else it is
        zero, and the views keep the file's world.
        """
        centres = camera_centre(self.world_to_cam.double())
        middle = centres.mean(0)
        extent = (centres - middle).norm(dim=-1).max()
        return middle if middle.norm() > FAR * extent else torch.zeros_like(middle)

    @cached_property
    def cameras(self) -> Float[Tensor, "frames 4 4"]:
        """Return world_to_cam as the views have it: the world moved to :attr:`origin`, in single precision."""
        moved = self.world_to_cam.double()
        shift = moved[:, :3, 3] + moved[:, :3, :3] @ self.origin
        return torch.cat([moved[:, :, :3], F.pad(shift, (0, 1), value=1)[..., None]], dim=-1).float()

    def track_points(self, index: int) -> Float[Tensor, "p 3"]:
        """Return the points of a frame's tracks in the world of :attr:`cameras`; none where there are no tracks."""
        points = torch.zeros(0, 3) if self.points is None else self.points(index)
        return (points.double() - self.origin).float()

    @property
    def has_truth(self) -> bool:
        """Return whether some pixels' world points are known."""
        return self.depth is not None or self.points is not None

    @property
    def has_tracks_only(self) -> bool:
        """Return whether true points are those of sparse tracks, known at few pixels."""
        return self.depth is None and self.points is not None

    def without(self, reasons: Mapping[str, str]) -> "Recording":
        """Return the recording without some frames.

        Args:
            reasons: Names of frames, and why each is left out; others' are ignored.

        Raises:
            ValueError: If no frame is left.
        """
        kept = [index for index, name in enumerate(self.names) if name not in reasons]
        dropped = tuple(Dropped(name, reasons[name]) for name in self.names if name in reasons)
        if not dropped:
            return self
        if not kept:
            raise ValueError(f"none of {len(dropped)} frames of {self.name} can be read: {dropped[0].reason}")
        return replace(
            self,
            names=tuple(self.names[index] for index in kept),
            sizes=tuple(self.sizes[index] for index in kept),
            world_to_cam=self.world_to_cam[kept],
            intrinsics=self.intrinsics[kept],
            colour=_at(self.colour, kept),
            depth=None if self.depth is None else _at(self.depth, kept),
            points=None if self.points is None else _at(self.points, kept),
            shared=None if self.shared is None else self.shared[kept][:, kept],
            windows=None if self.windows is None else tuple(self.windows[index] for index in kept),
            dropped=self.dropped + dropped,
        )

    def window(self, index: int) -> Window:
        """Return the square of a frame that becomes the view."""
        if self.windows is not None:
            return self.windows[index]
        height, width = self.sizes[index]
        side = min(height, width)
        return Window(top=(height - side) // 2, left=(width - side) // 2, side=side)

    def camera(self, index: int, size: int) -> Float[Tensor, "3 3"]:
        """Return the intrinsics of a frame's view, in pixels of its ``size``."""
        window = self.window(index)
        moved = crop_intrinsics(self.intrinsics[index], window.top, window.left)
        return resize_intrinsics(moved, (window.side, window.side), (size, size))


def _at(read: Callable[[int], Tensor], kept: Sequence[int]) -> Callable[[int], Tensor]:
    """Return a reader of some frames, by their places among those kept."""
    return lambda index: read(kept[index])


# --- comparing and drawing -------------------------------------------------------------------------------------------


def compare_frames(recording: Recording, *, most: int = 200) -> Pairs:
    """Measure rotation and overlap of each two frames, in the squares that become the views.

    Overlap comes from what is known best: shared tracks, coarse depth maps, or else the cameras alone, as if the scene
    lay at the supposed distances.

    Args:
        recording: The recording.
        most: The number of frames compared; a longer recording is thinned to evenly spaced ones, as the time grows with
            the square of it.

    Raises:
        UnreadableFramesError: If depth maps cannot be read.
    """
    count = len(recording.names)
    chosen = [index * count // min(most, count) for index in range(min(most, count))]
    coarse = min(COARSE, *(recording.window(index).side for index in chosen))
    intrinsics = torch.stack([recording.camera(index, coarse) for index in chosen])
    cameras, step = recording.cameras[chosen], max(1, coarse // 30)

    def compare(depth: Float[Tensor, "n height width"], tolerance: float = 0.05) -> Pairs:
        return compare_views(depth, intrinsics, cameras, frames=tuple(chosen), step=step, tolerance=tolerance)

    if recording.shared is None and recording.depth is not None:
        return compare(torch.stack(_coarse_depths(recording, chosen, coarse)))
    supposed = recording.supposed or supposed_distances(cameras)
    guesses = [compare(torch.full((len(chosen), coarse, coarse), far), torch.inf) for far in supposed]
    if recording.shared is not None:
        return replace(guesses[0], overlap=recording.shared[chosen][:, chosen])
    return replace(guesses[0], overlap=torch.stack([guess.overlap for guess in guesses]).mean(0))


def _coarse_depths(recording: Recording, frames: Sequence[int], size: int) -> list[Float[Tensor, "{size} {size}"]]:
    depths, reasons = list[Tensor](), dict[str, str]()
    for index in frames:
        try:
            depths.append(read_depth(recording, index, size))
        except (ValueError, OSError) as error:
            reasons[recording.names[index]] = str(error)
    if reasons:
        raise UnreadableFramesError({recording.name: reasons})
    return depths


def supposed_distances(world_to_cam: Float[Tensor, "n 4 4"]) -> tuple[float, ...]:
    """Guess how far a scene lies from its cameras: around the point that is nearest to all their optical axes.

    Returns:
        Distances in scene units, :data:`SUPPOSED` times the guess; the guess is at least half of the cameras' extent,
        and at most ten times it (they may look past each other).
    """
    centre, axis = camera_centre(world_to_cam).double(), world_to_cam[:, 2, :3].double()
    across = torch.eye(3, dtype=torch.float64) - axis[:, :, None] * axis[:, None]
    sides = (across @ centre[..., None]).sum(0)
    focus = torch.linalg.pinv(across.sum(0), rtol=1e-6) @ sides
    extent = torch.linalg.vector_norm(centre - centre.mean(0), dim=-1).max().clamp(min=1e-6)
    middle = ((focus[:, 0] - centre) * axis).sum(-1).median().clamp(extent / 2, 10 * extent)
    return tuple(float(share * middle) for share in SUPPOSED)


# --- reading ---------------------------------------------------------------------------------------------------------


def load_views(recording: Recording, frames: Sequence[int], *, size: int, n_ref: int) -> Views:
    """Read frames as the views of one scene: their squares, resized, with the intrinsics that belong to them.

    Colours are averaged over the new pixel's area (bilinear where the image grows). Depth is that of the nearest pixel,
    never mixed; a track's point is the point itself, somewhere in its pixel. Without depth and tracks ``valid`` is
    False everywhere: :func:`with_geometry` fills that.

    Args:
        recording: The recording.
        frames: Indices, the references first.
        size: Side of the views, in pixels.
        n_ref: The number of reference views.

    Raises:
        ValueError: If an image or a depth map cannot be read, or has another size than the recording says.
    """
    chosen = list(frames)
    image = torch.stack([read_colour(recording, index, size) for index in chosen])
    intrinsics = torch.stack([recording.camera(index, size) for index in chosen])
    points = [read_points(recording, index, size) for index in chosen]
    world_to_cam = recording.cameras[chosen]
    return Views(
        image=image[None],
        intrinsics=intrinsics[None],
        world_to_cam=world_to_cam[None],
        point_map=torch.stack([point_map for point_map, _ in points])[None],
        valid=torch.stack([valid for _, valid in points])[None],
        n_ref=n_ref,
        unit=recording.unit,
        names=(scene_name(recording.name, [recording.names[index] for index in chosen]),),
    )


def check_frames(recording: Recording, frames: Iterable[str]) -> dict[str, str]:
    """Read frames of a recording to see whether they are whole.

    Args:
        recording: The recording.
        frames: Their names.

    Returns:
        Those that cannot be read, with the reason.
    """
    reasons = {}
    for frame in frames:
        try:
            index = frame_index(recording, frame)
            read_colour(recording, index, COARSE)
            read_depth(recording, index, COARSE)
        except (ValueError, OSError) as error:
            reasons[frame] = str(error)
    return reasons


def scene_name(recording: str, frames: Sequence[str]) -> str:
    """Name a scene by its recording and frames."""
    return printable(f"{recording}:{'-'.join(frames)}")


def frame_index(recording: Recording, frame: str) -> int:
    """Find a frame by its name.

    Raises:
        ValueError: If the recording has no such frame.
    """
    if frame not in recording.names:
        raise ValueError(f"frame_index: {recording.name} has no frame {frame!r} among its {len(recording.names)}")
    return recording.names.index(frame)


def with_geometry(views: Views, source: GeometrySource) -> Views:
    """Take the truth from a geometry source, such as a point-map network, in place of what the views have.

    Args:
        views: Scenes, with or without depth.
        source: Gives world points and where they are to be trusted.

    Raises:
        ValueError: If what it gives has another shape, or something moves between the views.
    """
    if views.part is not None:
        raise ValueError(
            f"with_geometry: between the views of {', '.join(views.names) or 'the scenes'} something moves, which a "
            "source of points cannot tell; take the scenes' own truth (--truth-source depth), or static scenes"
        )
    point_map, valid = source(views)
    return replace(views, point_map=point_map, valid=valid)


def read_colour(recording: Recording, index: int, size: int) -> Float[Tensor, "3 {size} {size}"]:
    """Read a frame's colours, as the view of this size shows them.

    Raises:
        ValueError: If the image cannot be read or has another size than the recording says.
    """
    image, window = recording.colour(index), recording.window(index)
    if tuple(image.shape[1:]) != recording.sizes[index]:
        actual, expected = (f"{size[0]} x {size[1]}" for size in (tuple(image.shape[1:]), recording.sizes[index]))
        raise ValueError(
            f"read_colour: frame {recording.names[index]} of {recording.name} is {actual}, expected {expected}"
        )
    rows, columns = (slice(start, start + window.side) for start in (window.top, window.left))
    return resample(image[None, :, rows, columns], size, size)[0]


def read_points(
    recording: Recording, index: int, size: int
) -> tuple[Float[Tensor, "3 {size} {size}"], Bool[Tensor, "{size} {size}"]]:
    """Read the world points of a frame's pixels, as the view of this size shows them, and which of them are known.

    Raises:
        ValueError: If the depth cannot be read.
    """
    camera, world_to_cam = recording.camera(index, size), recording.cameras[index]
    if recording.has_tracks_only:
        return _sort_into_pixels(recording.track_points(index), camera, world_to_cam, size)
    depth = read_depth(recording, index, size)
    return depth_to_point_map(depth, camera, world_to_cam), depth > 0


def read_depth(recording: Recording, index: int, size: int) -> Float[Tensor, "{size} {size}"]:
    """Read a frame's z-depth, in the recording's unit, as the view of this size shows it; 0 where it is missing.

    Raises:
        ValueError: If the depth cannot be read.
    """
    if recording.depth is None:
        return torch.zeros(size, size)
    depth = recording.depth(index)
    window, full = recording.window(index), recording.sizes[index]
    shapes = depth.shape[0] * full[1] / max(depth.shape[1] * full[0], 1)
    if abs(shapes - 1) > ASPECT + 1 / max(min(depth.shape), 1):
        raise ValueError(
            f"the depth of frame {recording.names[index]} of {recording.name} is {depth.shape[0]} x {depth.shape[1]}, "
            f"expected the shape of its image, {full[0]} x {full[1]}"
        )
    rows = _nearest(window.top, window.side, size, depth.shape[0] / full[0])
    columns = _nearest(window.left, window.side, size, depth.shape[1] / full[1])
    depth = depth[rows[:, None], columns]
    return torch.where(depth.isfinite() & (depth > 0), depth, 0)


def _nearest(start: int, side: int, size: int, scale: float) -> Int[Tensor, " size"]:
    """Return the rows (or columns) of a depth map in which the centres of the view's pixels lie."""
    return (((torch.arange(size, dtype=torch.float64) + 0.5) * side / size + start) * scale).long()


def _sort_into_pixels(
    points: Float[Tensor, "p 3"], intrinsics: Float[Tensor, "3 3"], world_to_cam: Float[Tensor, "4 4"], size: int
) -> tuple[Float[Tensor, "3 {size} {size}"], Bool[Tensor, "{size} {size}"]]:
    """Return, per pixel, the nearest point in it, unmoved: moved to the ray, it would miss its other pixels."""
    xy, depth = project(points, intrinsics, world_to_cam)
    inside = ((xy >= 0) & (xy < size)).all(-1)
    order = depth[inside].argsort()
    x, y = xy[inside][order].long().unbind(-1)
    rank = torch.full((size * size,), len(order)).scatter_reduce(0, y * size + x, torch.arange(len(order)), "amin")
    nearest = torch.cat([points[inside][order], points.new_zeros(1, 3)])[rank]
    return rearrange(nearest, "(y x) c -> c y x", y=size), (rank < len(order)).reshape(size, size)
