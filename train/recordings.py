"""Training on a real RGB-D recording: all its frames in memory at the model's size, groups of them drawn per step."""

from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probe.models.denoising import MultiViewModel
from probe.scenes.grouping import Group
from probe.scenes.rgbd import compare_frames, load_frames, load_groups
from probe.views import TENSORS, Views
from train.settings import Settings

MIN_OVERLAP = 0.2
TRAIN, GAP = 0.7, 0.05
"""Shares of a recording, in order of time: trained on, then left out so that test frames have no near neighbours."""


@dataclass(frozen=True, kw_only=True)
class Recording:
    """Hold frames of a recording, one view each, and how each two lie to each other.

    Attributes:
        frames: One scene of one view per frame, in order of time.
        rotation_deg: Between each two frames.
        overlap: Share of a frame's pixels that the other sees, the smaller of both directions.
    """

    frames: Views
    rotation_deg: Float[Tensor, "n n"]
    overlap: Float[Tensor, "n n"]

    @property
    def reachable(self) -> Float[Tensor, "n n"]:
        """Give each frame's rotation to the frames that it shares enough with; infinite to itself and the others."""
        far = (self.overlap < MIN_OVERLAP) | torch.eye(len(self.overlap), dtype=torch.bool)
        return self.rotation_deg.masked_fill(far, torch.inf)

    def part(self, chosen: slice) -> "Recording":
        """Pick frames."""
        return Recording(
            frames=self.frames.scenes(chosen),
            rotation_deg=self.rotation_deg[chosen, chosen],
            overlap=self.overlap[chosen, chosen],
        )

    def draw(
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
        """Draw groups of frames: an anchor, then frames that share enough with it, rotated by less than the limit.

        The limit is the settings' largest rotation times ``widest``; an anchor without enough frames within it takes
        the least rotated ones.

        Raises:
            ValueError: If no frame has enough others to share with.
        """
        limit = widest * 30.0 * (max(settings.rotation_bins) + 1)
        groups = torch.stack([self._group(settings.views, limit, generator) for _ in range(count)])[only]
        picked = {name: getattr(self.frames, name)[:, 0][groups] for name in TENSORS}
        return Views(**picked, n_ref=n_ref, unit=self.frames.unit).to(model.alpha_bar.device)

    def _group(self, views: int, limit: float, generator: torch.Generator) -> Int[Tensor, " f"]:
        rotation, needed = self.reachable, views - 1
        anchors = _where(rotation.isfinite().sum(1) >= needed)
        if not len(anchors):
            raise ValueError(
                f"Recording: none of {len(rotation)} frames shares {MIN_OVERLAP} of its pixels with {needed} others; "
                "use fewer --views or a denser recording"
            )
        anchor = anchors[torch.randint(len(anchors), (), generator=generator)]
        near = _where(rotation[anchor] <= limit)
        if len(near) < needed:
            near = rotation[anchor].topk(needed, largest=False).indices
        others = near[torch.randperm(len(near), generator=generator)[:needed]]
        return torch.cat([rearrange(anchor, "-> 1"), others])


def _where(mask: Bool[Tensor, " n"]) -> Int[Tensor, " k"]:
    return mask.nonzero().flatten()


def open_recording(root: Path, size: int) -> tuple[Recording, Recording]:
    """Read a recording at the model's size and part it in time: frames to train on, and frames to test on.

    Args:
        root: A folder that ``--scenes rgbd:`` reads.
        size: Side of the views, in pixels.

    Raises:
        FileNotFoundError: If the folder or one of its files is missing.
        ValueError: If a file is broken.
    """
    frames = load_frames(root)
    pairs = compare_frames(frames, most=len(frames.names))
    alone = [Group(frames=(index,), bin=(0.0, 0.0), rotation_deg=(), overlap=()) for index in pairs.frames]
    whole = Recording(
        frames=load_groups(frames, alone, size=size, n_ref=1), rotation_deg=pairs.rotation_deg, overlap=pairs.overlap
    )
    first, second = round(TRAIN * len(alone)), round((TRAIN + GAP) * len(alone))
    return whole.part(slice(0, first)), whole.part(slice(second, None))
