"""Photos without cameras and without truth, as a scene that a model can be shown."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from probe.layers import Layer
from probe.measure.explored import explore_scene
from probe.measure.model import scene_noise
from probe.measure.scene import make_scene
from probe.models.model import Inputs, MultiViewModel
from probe.views import IMAGE_PLANE, Views


def photo_views(photos: Sequence[Float[Tensor, "3 _ _"]], *, size: int, name: str) -> Views:
    """Put photos side by side as the views of one scene, the first of them its reference: the middle square of each.

    Args:
        photos: Colours in [0, 1], each of its own size.
        size: Side of the views, in pixels.
        name: Of the scene.

    Returns:
        Without cameras (unit :data:`probe.views.IMAGE_PLANE`), and without any point whose place is known.

    Raises:
        ValueError: If there is only one photo.
    """
    if len(photos) < 2:
        raise ValueError(f"{len(photos)} photo, expected at least 2: attention joins views")
    image = torch.stack([_square(photo, size) for photo in photos])[None]
    f = len(photos)
    return Views(
        image=image,
        intrinsics=torch.tensor([[size, 0, size / 2], [0, size, size / 2], [0, 0, 1.0]]).expand(1, f, 3, 3).clone(),
        world_to_cam=torch.eye(4).expand(1, f, 4, 4).clone(),
        point_map=torch.zeros_like(image),
        valid=torch.zeros(1, f, size, size, dtype=torch.bool),
        n_ref=1,
        unit=IMAGE_PLANE,
        names=(name,),
    )


def _square(photo: Float[Tensor, "3 h w"], size: int) -> Float[Tensor, "3 size size"]:
    side = min(photo.shape[1:])
    top, left = ((length - side) // 2 for length in photo.shape[1:])
    middle = photo[None, :, top : top + side, left : left + side]
    return F.interpolate(middle, size=(size, size), mode="bilinear", antialias=True)[0].clamp(0, 1)


def without_cameras(model: MultiViewModel) -> MultiViewModel:
    """Return a model that is conditioned on blanked cameras, as for the unconditional half of guidance.

    Args:
        model: Of any kind; its network is shared.
    """
    kind: Any = type(model)

    class Blanked(kind):
        def condition(self, views: Views, keep_cameras: Tensor | None = None) -> Inputs:
            return kind.condition(self, views, torch.zeros(len(views.image), device=views.image.device))

    return Blanked(**{field.name: getattr(model, field.name) for field in fields(model)})


def explore_photos(
    model: MultiViewModel, views: Views, layers: Sequence[Layer], timesteps: Sequence[int], seed: int
) -> dict[str, Tensor]:
    """Read what the match explorer shows of photos; no match of theirs counts as right or wrong.

    Args:
        model: On the views' device.
        views: From :func:`photo_views`.
        layers: That join views.
        timesteps: Of the noise schedule.
        seed: Of the noise.

    Returns:
        As :func:`probe.measure.explored.explore_scene`.
    """
    scene = make_scene(views, layers, scene_noise(model, views, seed, 0))
    return explore_scene(without_cameras(model), scene, layers, timesteps, scene.thresholds[0])
