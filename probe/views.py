"""Views: the batch of posed images that every stage passes on."""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from probe.geometry import depth_to_point_map, point_map_to_depth, resize_intrinsics

TENSORS = ("image", "intrinsics", "world_to_cam", "point_map", "valid")


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
        unit: "m" for metric scenes; None for scenes without a unit.
        names: One name per scene, or empty.
    """

    image: Float[Tensor, "b f 3 height width"]
    intrinsics: Float[Tensor, "b f 3 3"]
    world_to_cam: Float[Tensor, "b f 4 4"]
    point_map: Float[Tensor, "b f 3 height width"]
    valid: Bool[Tensor, "b f height width"]
    n_ref: int
    unit: str | None = None
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        b, f, _, height, width = self.image.shape
        expected = {
            "intrinsics": (b, f, 3, 3),
            "world_to_cam": (b, f, 4, 4),
            "point_map": (b, f, 3, height, width),
            "valid": (b, f, height, width),
        }
        for name, shape in expected.items():
            if tuple(getattr(self, name).shape) != shape:
                raise ValueError(f"Views: {name} has shape {tuple(getattr(self, name).shape)}, expected {shape}")
        if not 0 <= self.n_ref <= f:
            raise ValueError(f"Views: n_ref is {self.n_ref}, expected 0 to {f}, the number of views")
        if self.names and len(self.names) != b:
            raise ValueError(f"Views: {len(self.names)} names for {b} scenes, expected one name per scene")

    @property
    def size(self) -> tuple[int, int]:
        """Return (height, width) in pixels."""
        return self.image.shape[-2], self.image.shape[-1]

    @property
    def count(self) -> int:
        """Return the number of views per scene."""
        return self.image.shape[1]

    def to(self, device: torch.device | str) -> "Views":
        """Move all tensors to a device."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {name: v.to(device) for name, v in values.items() if isinstance(v, Tensor)}
        return replace(self, **moved)

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
        """Choose and order views; the first ``n_ref`` of them become references."""
        return self._indexed(slice(None), order, n_ref=n_ref, names=self.names)

    def _indexed(self, scenes: slice, views: slice | list[int], **changes: Any) -> "Views":
        chosen: dict[str, Any] = {name: getattr(self, name)[scenes][:, views] for name in TENSORS}
        return replace(self, **chosen, **changes)


def concatenate(parts: list[Views]) -> Views:
    """Join batches of equal size, view count, references and unit along the scene axis.

    Raises:
        ValueError: If the parts differ in image size, number of views, references or unit.
    """
    kinds = {(part.size, part.count, part.n_ref, part.unit) for part in parts}
    if len(kinds) != 1:
        raise ValueError(f"concatenate: parts differ in (size, views, n_ref, unit): {sorted(kinds, key=str)}")
    joined: dict[str, Any] = {name: torch.cat([getattr(part, name) for part in parts]) for name in TENSORS}
    return replace(parts[0], **joined, names=tuple(name for part in parts for name in part.names))


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
    image, point_map, valid = (x[..., :1, :1] for x in (views.image, views.point_map, views.valid))
    return replace(views, image=image, point_map=point_map, valid=valid)


def patch_grid(size: tuple[int, int], patches: int) -> tuple[int, int]:
    """Return the rows and columns of patches for an image: ``patches`` along its longer side, at least 1."""
    rows, columns = (max(1, round(patches * side / max(size))) for side in size)
    return rows, columns
