"""Views: the batch of posed images that every stage passes on."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from einops import einsum, rearrange, repeat
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.nn import functional as F

from probe.geometry import depth_to_point_map, invert_rigid, point_map_to_depth, resize_intrinsics

TENSORS = ("image", "intrinsics", "world_to_cam", "point_map", "valid")
"""Of all views."""
PIXELS = ("image", "point_map", "valid", "part")
"""Of all pixels."""
MOTION = ("part", "part_pose")
"""Of views between which something moves."""


TRUE_FRAME: Literal["first", "middle", "last"] = "last"
"""Which frame of each group that a video autoencoder packs is the view, whose image and truth count. The last ones lie
evenly in time, as the first group is one frame: 0, 4, 8, ... of groups of 4 (docs/references.md, "Video models")."""
GREY = 0.5
"""Colour of what is hidden."""
IMAGE_PLANE = "image plane"
"""Unit of views that have no cameras: their points are known in the image plane alone, and distances in 3D are not."""


@dataclass(frozen=True)
class Views:
    """Posed images of ``b`` scenes with ``f`` views each; reference views come first.

    Attributes:
        image: Colours in [0, 1].
        intrinsics: In pixels of this image size; the first pixel's centre is (0.5, 0.5).
        world_to_cam: OpenCV axes (x right, y down, z forward).
        point_map: World point seen by each pixel, in ``unit``; undefined where ``valid`` is false.
        valid: False where depth is missing.
        n_ref: Number of reference views.
        unit: "m" for metric scenes; None for scenes without a unit; :data:`IMAGE_PLANE` for views without cameras,
            whose intrinsics and world_to_cam only place their points.
        names: One name per scene, or empty.
        part: The rigid part of the scene that each pixel shows: 0 is the world that stands still, which views are
            posed in. None: nothing moves between the views.
        part_pose: Where each part has been carried, at the time of each view, from where it lies at rest; of part 0 the
            identity, NaN where that is unknown. With ``part``.
        clip: The video that the views are frames of, all of its frames in order of time: :func:`group_frames`. None:
            each view is an image of its own.
    """

    image: Float[Tensor, "b f 3 height width"]
    intrinsics: Float[Tensor, "b f 3 3"]
    world_to_cam: Float[Tensor, "b f 4 4"]
    point_map: Float[Tensor, "b f 3 height width"]
    valid: Bool[Tensor, "b f height width"]
    n_ref: int
    unit: str | None = None
    names: tuple[str, ...] = ()
    part: Int[Tensor, "b f height width"] | None = None
    part_pose: Float[Tensor, "b f parts 4 4"] | None = None
    clip: "Views | None" = None

    def __post_init__(self) -> None:
        b, f, _, height, width = self.image.shape
        expected = {
            "intrinsics": (b, f, 3, 3),
            "world_to_cam": (b, f, 4, 4),
            "point_map": (b, f, 3, height, width),
            "valid": (b, f, height, width),
        }
        if (self.part is None) != (self.part_pose is None):
            raise ValueError("Views: one of part and part_pose is None, expected both of them, or neither")
        if self.part_pose is not None:
            expected |= {"part": (b, f, height, width), "part_pose": (b, f, self.part_pose.shape[2], 4, 4)}
        for name, shape in expected.items():
            if tuple(getattr(self, name).shape) != shape:
                raise ValueError(f"Views: {name} has shape {tuple(getattr(self, name).shape)}, expected {shape}")
        if not 0 <= self.n_ref <= f:
            raise ValueError(f"Views: n_ref is {self.n_ref}, expected 0 to {f}, the number of views")
        if self.names and len(self.names) != b:
            raise ValueError(f"Views: {len(self.names)} names for {b} scenes, expected one name per scene")
        if self.clip is not None and (f < 2 or (self.clip.count - 1) % (f - 1)):
            raise ValueError(
                f"Views: a clip of {self.clip.count} frames for {f} views, expected one frame for the first of at "
                "least 2 views, and equally many for each other"
            )

    @property
    def size(self) -> tuple[int, int]:
        """Return (height, width) in pixels."""
        return self.image.shape[-2], self.image.shape[-1]

    @property
    def count(self) -> int:
        """Return the number of views per scene."""
        return self.image.shape[1]

    @property
    def frames_per_view(self) -> int:
        """Return the number of frames of each view but the first, which has one; 1 where views are images alone."""
        return 1 if self.clip is None else (self.clip.count - 1) // (self.count - 1)

    @property
    def has_cameras(self) -> bool:
        """Return whether the views are posed: whether their cameras are those that took them."""
        return self.unit != IMAGE_PLANE

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that there are, by name; the first axes of each are scenes and views."""
        names = TENSORS if self.part is None else TENSORS + MOTION
        return {name: getattr(self, name) for name in names}

    def follow(
        self, points: Float[Tensor, "b f n 3"], part: Int[Tensor, "b f n"] | None
    ) -> tuple[Float[Tensor, "b f n fk 3"], Bool[Tensor, "b f n fk"]]:
        """Follow surface points of each view to the time of every view.

        Args:
            points: World points at the time of the view that they were seen in.
            part: The part of the scene that each belongs to; None where nothing moves.

        Returns:
            World points at the time of the last axis's view, NaN where the part's pose is unknown; and which have
            moved. Points that have not stay bit for bit.
        """
        still = repeat(points, "b fq n c -> b fq n fk c", fk=self.count)
        if self.part_pose is None or part is None:
            return still, torch.zeros(still.shape[:-1], dtype=torch.bool, device=points.device)
        carry, differs = (_of_part(x, part) for x in _between_views(self.part_pose))
        turned = einsum(carry[..., :3, :3], points.double(), "b fq n fk i j, b fq n j -> b fq n fk i")
        moved = (turned + carry[..., :3, 3]).to(points)
        return torch.where(differs[..., None], moved, still), differs

    def to(self, device: torch.device | str) -> "Views":
        """Move all tensors to a device."""
        moved: dict[str, Any] = {name: tensor.to(device) for name, tensor in self.tensors.items()}
        return replace(self, **moved, clip=None if self.clip is None else self.clip.to(device))

    def scene(self, index: int) -> "Views":
        """Return one scene as a batch of one.

        Raises:
            IndexError: If there is no such scene.
        """
        if not 0 <= index < self.image.shape[0]:
            raise IndexError(f"Views: scene {index} of {self.image.shape[0]}; count from 0")
        names = self.names[index : index + 1] if self.names else ()
        return self._indexed(slice(index, index + 1), slice(None), n_ref=self.n_ref, names=names)

    def scenes(self, chosen: slice) -> "Views":
        """Return several scenes as a smaller batch."""
        return self._indexed(chosen, slice(None), n_ref=self.n_ref, names=self.names[chosen])

    def reorder(self, order: list[int], n_ref: int) -> "Views":
        """Choose and order views, without their clip; the first ``n_ref`` of them become references."""
        return replace(self, clip=None)._indexed(slice(None), order, n_ref=n_ref, names=self.names)

    def _indexed(self, scenes: slice, views: slice | list[int], **changes: Any) -> "Views":
        chosen: dict[str, Any] = {name: tensor[scenes][:, views] for name, tensor in self.tensors.items()}
        clip = None if self.clip is None else self.clip._indexed(scenes, slice(None))
        return replace(self, **chosen, **changes, clip=clip)


def group_frames(video: Views, frames: int, n_ref: int) -> Views:
    """Make a view of each group of frames that a video autoencoder packs into one latent frame.

    Args:
        video: All frames in order of time: one, then ``frames`` for each further view.
        frames: That are packed together; the first frame is alone.
        n_ref: Reference views, the first ones.

    Returns:
        Of each group the frame :data:`TRUE_FRAME`, with the video as their clip; the video itself for 1 frame each.

    Source:
        docs/references.md, "Video models" (which frames the autoencoders pack, and whose camera ReCamMaster takes).
    """
    if frames == 1:
        return replace(video, n_ref=n_ref)
    offset = {"first": 0, "middle": (frames - 1) // 2, "last": frames - 1}[TRUE_FRAME]
    shown = [0, *range(1 + offset, video.count, frames)]
    return replace(video.reorder(shown, n_ref), clip=replace(video, n_ref=_frames_of(n_ref, frames)))


def _frames_of(views: int, frames: int) -> int:
    """Return how many frames of a clip make its first views."""
    return 1 + frames * (views - 1) if views else 0


def hide_images(views: Views, kept: int = 0) -> Views:
    """Return views whose images are grey, with the frames of their clip, but for the first ``kept``."""
    image = views.image.clone()
    image[:, kept:] = GREY
    clip = None if views.clip is None else hide_images(views.clip, _frames_of(kept, views.frames_per_view))
    return replace(views, image=image, clip=clip)


def _between_views(
    pose: Float[Tensor, "b f m 4 4"],
) -> tuple[Float[Tensor, "b f m f 4 4"], Bool[Tensor, "b f m f"]]:
    """Return how each part is carried from the time of one view to that of another, and whether it is at all."""
    exact = pose.double()
    carry = einsum(exact, invert_rigid(exact), "b fk m i j, b fq m j k -> b fq m fk i k")
    differs = (pose[:, None] != pose[:, :, None]).flatten(-2).any(-1)
    own = rearrange(torch.eye(pose.shape[1], dtype=torch.bool, device=pose.device), "fq fk -> fq fk 1")
    return carry, rearrange(differs & ~own, "b fq fk m -> b fq m fk")


def _of_part(values: Shaped[Tensor, "b f m *rest"], part: Int[Tensor, "b f n"]) -> Shaped[Tensor, "b f n *rest"]:
    """Look up what belongs to the part of each point."""
    scene, view = torch.arange(part.shape[0])[:, None, None], torch.arange(part.shape[1])[None, :, None]
    return values[scene.to(part.device), view.to(part.device), part]


def concatenate(parts: list[Views]) -> Views:
    """Join batches of equal size, view count, references and unit along the scene axis.

    Raises:
        ValueError: If the batches differ in image size, number of views, references, unit, frames per view or number of
            moving parts.
    """
    kinds = {(part.size, part.count, part.n_ref, part.unit, part.frames_per_view) for part in parts}
    if len(kinds) != 1:
        raise ValueError(
            f"concatenate: parts differ in (size, views, n_ref, unit, frames per view): {sorted(kinds, key=str)}"
        )
    moving = {None if part.part_pose is None else part.part_pose.shape[2] for part in parts}
    if len(moving) != 1:
        raise ValueError(f"concatenate: parts differ in moving parts (None: still): {sorted(moving, key=str)}")
    joined: dict[str, Any] = {name: torch.cat([getattr(part, name) for part in parts]) for name in parts[0].tensors}
    clips = [part.clip for part in parts if part.clip is not None]
    names = tuple(name for part in parts for name in part.names)
    return replace(parts[0], **joined, names=names, clip=concatenate(clips) if clips else None)


def resize(views: Views, height: int, width: int) -> Views:
    """Resample every view; the intrinsics follow and each point stays on its pixel's ray.

    Colours are averaged over the area of the new pixel when the image shrinks (so the renderer's supersampling and this
    agree), and interpolated bilinearly when it grows. Depth and validity are taken from the nearest pixel, never mixed,
    and the depth is set back on the ray through the new pixel's centre.
    """
    if (height, width) == views.size:
        return views
    flat = rearrange(views.image, "b f c height width -> (b f) c height width")
    image = resample(flat, height, width)
    depth = point_map_to_depth(views.point_map, views.world_to_cam)
    intrinsics = resize_intrinsics(views.intrinsics, views.size, (height, width))
    return replace(
        views,
        image=rearrange(image, "(b f) c height width -> b f c height width", f=views.count),
        point_map=depth_to_point_map(_nearest(depth, height, width), intrinsics, views.world_to_cam),
        valid=_nearest(views.valid, height, width),
        intrinsics=intrinsics,
        part=None if views.part is None else _nearest(views.part, height, width),
        clip=None if views.clip is None else resize(views.clip, height, width),
    )


def resample(
    image: Float[Tensor, "n c rows columns"], height: int, width: int
) -> Float[Tensor, "n c {height} {width}"]:
    """Resize images in [0, 1]: averaged over the area of the new pixel, or interpolated bilinearly where they grow."""
    if (height, width) == tuple(image.shape[-2:]):
        return image
    if height <= image.shape[-2] and width <= image.shape[-1]:
        return F.interpolate(image, (height, width), mode="area").clamp(0, 1)
    return F.interpolate(image, (height, width), mode="bilinear", antialias=True).clamp(0, 1)


def _nearest(maps: Tensor, height: int, width: int) -> Tensor:
    full_height, full_width = maps.shape[-2:]
    rows = ((torch.arange(height, device=maps.device) + 0.5) * full_height / height).long()
    columns = ((torch.arange(width, device=maps.device) + 0.5) * full_width / width).long()
    return maps[..., rows[:, None], columns]


def without_images(views: Views) -> Views:
    """Keep cameras and names, and of the pixels the first; all of them would fill the memory of a long run."""
    kept: dict[str, Any] = {name: views.tensors[name][..., :1, :1] for name in PIXELS if name in views.tensors}
    return replace(views, **kept, clip=None)


def patch_grid(size: tuple[int, int], patches: int) -> tuple[int, int]:
    """Return the rows and columns of patches for an image: ``patches`` along its longer side, at least 1."""
    rows, columns = (max(1, round(patches * side / max(size))) for side in size)
    return rows, columns
