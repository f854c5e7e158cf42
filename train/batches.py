"""The scenes of a training step, with everything random about them.

Everything random in step ``s`` (rooms, cameras, timesteps, noise, dropout) is drawn from a generator seeded by
``(seed, s)`` for the whole batch, of which each process takes its part: a resumed run sees what the unbroken run sees
without storing any generator's state, and any number of processes sees the same scenes.
"""

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from einops import repeat
from jaxtyping import Float, Int
from torch import Tensor

from probe.geometry import rotation_degrees
from probe.models.model import MultiViewModel
from probe.models.schedules import STEPS
from probe.scenes import DATA_SETS
from probe.scenes.shapes import OBJECTS, draw_rotations, draw_shapes, make_views
from probe.seeds import derive
from probe.views import TENSORS, Views
from train.footage import open_library
from train.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Hold the scenes of a step with everything random about them."""

    views: Views
    t: Int[Tensor, " b"]
    noise: Float[Tensor, "b f c h w"]
    keep_cameras: Float[Tensor, " b"]

    def scenes(self, chosen: slice) -> "Batch":
        """Pick scenes."""
        return Batch(
            views=self.views.scenes(chosen),
            t=self.t[chosen],
            noise=self.noise[chosen],
            keep_cameras=self.keep_cameras[chosen],
        )


def step_seed(seed: int, step: int) -> int:
    """Give the seed of everything random in one step."""
    return derive("training", seed, step)


def draw_batch(
    settings: Settings,
    model: MultiViewModel,
    generator: torch.Generator,
    count: int,
    n_ref: int,
    *,
    widest: float = 1.0,
    only: slice = slice(None),
) -> Views:
    """Draw rooms and photograph them from rotations in the settings' bins, taken in turn, times ``widest`` (0 to 1)."""
    shapes = draw_shapes(count, difficulty=settings.difficulty, generator=generator)
    bins = [settings.rotation_bins[k % len(settings.rotation_bins)] for k in range(count)]
    rotation = widest * draw_rotations(bins, settings.views - 1, generator=generator)
    return make_views(
        shapes,
        rotation,
        size=model.size,
        n_ref=n_ref,
        generator=generator,
        supersample=2,
        device=model.alpha_bar.device,
        only=only,
    )


@runtime_checkable
class Draw(Protocol):
    """Draw scenes to train or test on: :func:`draw_batch`, or a library's ``draw``."""

    def __call__(
        self,
        settings: Settings,
        model: MultiViewModel,
        generator: torch.Generator,
        count: int,
        n_ref: int,
        *,
        widest: float = 1.0,
        only: slice = slice(None),
    ) -> Views:
        """Draw ``count`` scenes with rotations up to ``widest`` (0 to 1) of the settings', and keep some of them."""


def open_scenes(spec: str, size: int, *, supervised: bool = False) -> tuple[Draw, Draw]:
    """Open ``shapes[:DIFFICULTY]`` or ``NAME:FOLDER``, as named on the command line: to train on, and to test on.

    Args:
        spec: The name.
        size: Side of the views, in pixels.
        supervised: Whether correspondence is asked for, which scenes without depth do not have.

    Raises:
        ValueError: If the name is unknown, a recording is broken, or its scenes have no truth to supervise with.
        FileNotFoundError: If FOLDER is no recording.
    """
    name, _, root = spec.partition(":")
    if name == "shapes" and (root or "plain") in OBJECTS:
        return draw_batch, draw_batch
    if name in DATA_SETS and root:
        train, test = open_library(name, root, size, supervised=supervised)
        return train.draw, test.draw
    real = ", ".join(f"{known}:FOLDER" for known in DATA_SETS)
    raise ValueError(f"--scenes {spec!r} is unknown; choose shapes[:{'|'.join(OBJECTS)}] or {real}")


def ramp(step: int, length: int) -> float:
    """Grow linearly from 1 / length at step 0 to 1; always 1 where the length is 0."""
    return min(1.0, (step + 1) / length) if length else 1.0


def shift_timesteps(uniform: Float[Tensor, " b"], shift: float) -> Int[Tensor, " b"]:
    """Turn numbers in [0, 1) into timestep indices that lie near the noise where ``shift`` is above 1.

    Source:
        arXiv 2403.03206 (Stable Diffusion 3), equation 23: shift t / (1 + (shift - 1) t).
    """
    return (STEPS * shift * uniform / (1 + (shift - 1) * uniform)).long().clamp(max=STEPS - 1)


def spaced_order(views: int, n_ref: int) -> list[int]:
    """Order views that lie along a path: references evenly spaced, both ends among them, then the rest.

    A single reference lies in the middle.

    Source:
        The release's training set-up (docs/references.md, "CAMEO: training protocol"): a single reference is number
        views // 2 - 1.
    """
    first = [views // 2 - 1] if n_ref == 1 else [int(place) for place in torch.linspace(0, views - 1, n_ref).tolist()]
    return first + [view for view in range(views) if view not in first]


def view_order(settings: Settings, step: int) -> list[int] | None:
    """Shuffle the views of a step's scenes by a coin of the settings' share; None leaves them in order of rotation."""
    generator = torch.Generator().manual_seed(derive("view order", settings.seed, step))
    shuffle = float(torch.rand((), generator=generator)) < settings.shuffle_views
    return torch.randperm(settings.views, generator=generator).tolist() if shuffle else None


def along_rotation(views: Views) -> Views:
    """Sort each scene's views by their rotation against view 0, which stays the first: they then lie along a path."""
    first = repeat(views.world_to_cam[:, 0], "b i j -> b f i j", f=views.count)
    order = rotation_degrees(views.world_to_cam, first).index_fill(1, torch.tensor([0], device=first.device), -1.0)
    scene, order = torch.arange(len(first), device=first.device), order.argsort(dim=1, stable=True)
    return replace(views, **{name: getattr(views, name)[scene[:, None], order] for name in TENSORS})


def draw_step(
    settings: Settings, model: MultiViewModel, step: int, only: slice = slice(None), draw: Draw = draw_batch
) -> Batch:
    """Draw one step's scenes, references, timesteps, noise and dropped cameras; keep the chosen scenes."""
    generator = torch.Generator().manual_seed(step_seed(settings.seed, step))
    n_ref = int(torch.randint(1, settings.views, (), generator=generator))
    widest, count = ramp(step, settings.rotation_ramp), settings.batch_size
    views = draw(settings, model, generator, count, n_ref, widest=widest, only=only)
    shuffled = view_order(settings, step)
    path = views if shuffled else along_rotation(views)
    views = path.reorder(shuffled or spaced_order(views.count, n_ref), n_ref)
    t = shift_timesteps(torch.rand(count, generator=generator), settings.timestep_shift)
    noise = torch.randn(model.latent_shape(count, views.count), generator=generator)
    keep = (torch.rand(count, generator=generator) >= settings.camera_dropout).float()
    t, noise, keep = (x[only].to(model.alpha_bar.device) for x in (t, noise, keep))
    return Batch(views=views, t=t, noise=noise, keep_cameras=keep)
