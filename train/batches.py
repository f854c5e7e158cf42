"""The scenes of a training step, with everything random about them.

Everything random in step ``s`` (rooms, cameras, timesteps, noise, dropout) is drawn from a generator seeded by
``(seed, s)`` for the whole batch, of which each process takes its part: a resumed run sees what an uninterrupted run
sees without storing any generator's state, and any number of processes sees the same scenes.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast, runtime_checkable

import torch
from einops import repeat
from jaxtyping import Float, Int
from torch import Tensor

from probe.geometry import rotation_degrees
from probe.models.schedules import STEPS
from probe.scenes import DATA_SETS
from probe.scenes.reading import DEFAULT, Reading
from probe.scenes.shapes import (
    OBJECTS,
    ROTATION_BINS,
    WORLDS,
    Difficulty,
    World,
    draw_rotations,
    draw_shapes,
    make_views,
)
from probe.seeds import derive
from probe.views import Views
from train.footage import CPU, open_library


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The scenes of a step with everything random about them.

    Attributes:
        views: The scenes.
        t: Timestep index of each scene.
        noise: Standard normal, of the shape of the model's latents.
        keep_cameras: 1 keeps a scene's cameras, 0 blanks them.
    """

    views: Views
    t: Int[Tensor, " b"]
    noise: Float[Tensor, "b f c h w"]
    keep_cameras: Float[Tensor, " b"]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors, by name."""
        return {**self.views.tensors, "t": self.t, "noise": self.noise, "keep_cameras": self.keep_cameras}

    def scenes(self, chosen: slice) -> "Batch":
        """Select scenes of the batch."""
        return Batch(
            views=self.views.scenes(chosen),
            t=self.t[chosen],
            noise=self.noise[chosen],
            keep_cameras=self.keep_cameras[chosen],
        )

    def to(self, device: torch.device) -> "Batch":
        """Move the batch to a device."""
        moved = {name: getattr(self, name).to(device) for name in ("views", "t", "noise", "keep_cameras")}
        return Batch(**moved)


def step_seed(seed: int, step: int) -> int:
    """Return the seed of everything random in one step."""
    return derive("training", seed, step)


@runtime_checkable
class Draw(Protocol):
    """Draw scenes to train or test on: :meth:`Rooms.draw`, or a library's."""

    def __call__(
        self,
        generator: torch.Generator,
        count: int,
        n_ref: int,
        *,
        widest: float = 1.0,
        only: slice = slice(None),
    ) -> Views:
        """Draw ``count`` scenes with rotations up to ``widest`` (0 to 1) of the largest, and keep some of them."""


@dataclass(frozen=True, kw_only=True)
class Rooms:
    """Procedural rooms to draw scenes from.

    Attributes:
        world: Version of the rooms.
        difficulty: Key of :data:`probe.scenes.shapes.OBJECTS`.
        rotation_bins: Bins of 30 degrees that scenes take in turn.
        views: Views per scene.
        size: Side of the views, in pixels.
        device: That renders them.
    """

    world: World = WORLDS["shapes"]
    difficulty: Difficulty = "plain"
    rotation_bins: tuple[int, ...]
    views: int
    size: int
    device: torch.device = CPU

    def draw(
        self,
        generator: torch.Generator,
        count: int,
        n_ref: int,
        *,
        widest: float = 1.0,
        only: slice = slice(None),
    ) -> Views:
        """Draw rooms and render them from rotations in the bins, times ``widest`` (0 to 1)."""
        shapes = draw_shapes(count, world=self.world, difficulty=self.difficulty, generator=generator)
        bins = [self.rotation_bins[k % len(self.rotation_bins)] for k in range(count)]
        rotation = widest * draw_rotations(bins, self.views - 1, generator=generator)
        return make_views(
            shapes,
            rotation,
            size=self.size,
            n_ref=n_ref,
            generator=generator,
            supersample=2,
            device=self.device,
            only=only,
        )


def open_training_scenes(
    name: str,
    *,
    views: int,
    size: int,
    max_rotation: int,
    device: torch.device = CPU,
    supervised: bool = False,
    reading: Reading = DEFAULT,
) -> tuple[Draw, Draw]:
    """Open scenes to train on, and scenes to test on.

    Args:
        name: ``shapes[:DIFFICULTY]``, ``shapes-v1[:DIFFICULTY]`` or ``NAME:FOLDER``, NAME a key of
            :data:`probe.scenes.DATA_SETS`.
        views: Views per scene.
        size: Side of the views, in pixels.
        max_rotation: Largest rotation of a view against view 0, in degrees: one of
            :data:`probe.scenes.shapes.ROTATION_BINS`.
        device: Where the views lie.
        supervised: Whether the scenes need correspondence, which those without depth do not have.
        reading: How the files of real scenes are read.

    Raises:
        ValueError: If the name is unknown, a recording is broken, or its scenes have no truth to supervise with.
        FileNotFoundError: If FOLDER is no recording.
    """
    kind, _, root = name.partition(":")
    if kind in WORLDS and (root or "plain") in OBJECTS:
        difficulty = cast("Difficulty", root or "plain")
        bins = tuple(range(ROTATION_BINS.index(max_rotation)))
        rooms = Rooms(
            world=WORLDS[kind], difficulty=difficulty, rotation_bins=bins, views=views, size=size, device=device
        )
        return rooms.draw, rooms.draw
    if kind in DATA_SETS and root:
        opening = {"size": size, "views": views, "max_rotation": float(max_rotation), "device": device}
        train, test = open_library(kind, root, **opening, supervised=supervised, reading=reading)  # type: ignore[arg-type]
        return train.draw, test.draw
    real = ", ".join(f"{known}:FOLDER" for known in DATA_SETS)
    versions = ", ".join(f"{world}[:{'|'.join(OBJECTS)}]" for world in WORLDS)
    raise ValueError(f"{name!r} is unknown; choose {versions} or {real}")


def moved_to(device: torch.device, draw: Draw) -> Draw:
    """Return a draw whose scenes are moved to a device."""

    def moved(generator: torch.Generator, count: int, n_ref: int, **how: Any) -> Views:
        return draw(generator, count, n_ref, **how).to(device)

    return moved


def ramp(step: int, length: int) -> float:
    """Grow linearly from 1 / length at step 0 to 1; always 1 where the length is 0."""
    return min(1.0, (step + 1) / length) if length else 1.0


def shift_timesteps(uniform: Float[Tensor, " b"], shift: float) -> Int[Tensor, " b"]:
    """Turn numbers in [0, 1) into timestep indices, which lie nearer the noise where ``shift`` is above 1.

    Source:
        arXiv 2403.03206 (Stable Diffusion 3), equation 23: shift t / (1 + (shift - 1) t).
    """
    return (STEPS * shift * uniform / (1 + (shift - 1) * uniform)).long().clamp(max=STEPS - 1)


def spaced_order(views: int, n_ref: int) -> list[int]:
    """Order views that lie along a path: references evenly spaced, both ends among them, then the rest.

    A single reference lies in the middle.

    Source:
        The training code of CAMEO's release (docs/references.md, "CAMEO: training protocol"): a single reference is
        number views // 2 - 1.
    """
    first = [views // 2 - 1] if n_ref == 1 else torch.linspace(0, views - 1, n_ref).long().tolist()
    return first + [view for view in range(views) if view not in first]


def view_order(views: int, shuffle: float, seed: int, step: int) -> list[int] | None:
    """Shuffle the views of a share of the steps; None leaves them in order of rotation.

    Args:
        views: Views per scene.
        shuffle: The share, 0 to 1.
        seed: Of the run.
        step: Whose views.
    """
    generator = torch.Generator().manual_seed(derive("view order", seed, step))
    shuffled = float(torch.rand((), generator=generator)) < shuffle
    return torch.randperm(views, generator=generator).tolist() if shuffled else None


def along_rotation(views: Views) -> Views:
    """Sort each scene's views by their rotation against view 0, which stays the first: they then lie along a path."""
    first = repeat(views.world_to_cam[:, 0], "b i j -> b f i j", f=views.count)
    order = rotation_degrees(views.world_to_cam, first).index_fill(1, torch.tensor([0], device=first.device), -1.0)
    scene, order = torch.arange(len(first), device=first.device), order.argsort(dim=1, stable=True)
    ordered: dict[str, Any] = {name: tensor[scene[:, None], order] for name, tensor in views.tensors.items()}
    return replace(views, **ordered)


@dataclass(frozen=True, kw_only=True)
class Batches:
    """The batches of a training, one per step, each drawn from a generator of its own.

    Attributes:
        draw: Where the scenes come from.
        latent_shape: Shape of the noise, by scenes and views, as :meth:`MultiViewModel.latent_shape`.
        device: Where timesteps and noise lie.
        seed: Of the run; step ``s`` uses (seed, s).
        size: Scenes per step, over all processes.
        views: Views per scene; 1 to views - 1 of them are references, and none of a single view.
        rotation_ramp: Steps over which rotations grow from 0 to full.
        timestep_shift: See :func:`shift_timesteps`.
        camera_dropout: Share of scenes whose cameras are blanked, 0 to 1.
        shuffle_views: Share of steps whose views come in random order, 0 to 1.
    """

    draw: Draw
    latent_shape: Callable[[int, int], tuple[int, ...]]
    device: torch.device = CPU
    seed: int
    size: int
    views: int
    rotation_ramp: int
    timestep_shift: float
    camera_dropout: float
    shuffle_views: float

    def at(self, step: int, only: slice = slice(None)) -> Batch:
        """Draw one step's scenes, references, timesteps, noise and dropped cameras; keep some of the scenes.

        Args:
            step: From 0.
            only: The scenes to keep: those of this process.
        """
        generator = torch.Generator().manual_seed(step_seed(self.seed, step))
        n_ref = int(torch.randint(1, self.views, (), generator=generator)) if self.views > 1 else 0
        views = self.draw(generator, self.size, n_ref, widest=ramp(step, self.rotation_ramp), only=only)
        shuffled = view_order(self.views, self.shuffle_views, self.seed, step)
        path = views if shuffled else along_rotation(views)
        views = path.reorder(shuffled or spaced_order(views.count, n_ref), n_ref)
        t = shift_timesteps(torch.rand(self.size, generator=generator), self.timestep_shift)
        noise = torch.randn(self.latent_shape(self.size, views.count), generator=generator)
        keep = (torch.rand(self.size, generator=generator) >= self.camera_dropout).float()
        t, noise, keep = (x[only].to(self.device) for x in (t, noise, keep))
        return Batch(views=views, t=t, noise=noise, keep_cameras=keep)
