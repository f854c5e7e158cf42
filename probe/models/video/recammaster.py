"""ReCamMaster: Wan 2.1 that is told a pose in every block, and sees a source video beside the frames that it draws.

- Weights: ``step20000.ckpt`` (its folder, or hub id), in Wan's own names with ``cam_encoder`` and ``projector`` in
  every block; read without running code. Empty: ``KwaiVGI/ReCamMaster-Wan2.1``. ``--base`` as for ``wan-camera``.
- Views: still clips, one latent frame each. References are the source video, targets the frames that are drawn.
  Frames stand in the order of the scene, references first; the places of the rotary code are those of the release:
  targets 0, 1, ..., then the source's. Attention knows no other order.
- Cameras: of each target camera to world in the first reference's camera (as in training), 3 x 4 row by row, in the
  scene's own unit (in training: metres). The source's frame i is told target i's pose, as in the release. That has as
  many source frames as targets; fewer take the first targets' poses.
- References are clean, at the same time as the targets; what is predicted of them means nothing.
- Noise: flow matching, shift 5.

Source: docs/references.md, "Video models with cameras". Unchecked: the published weights, which were not at hand.
"""

from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from probe.geometry import invert_rigid
from probe.models.model import Inputs
from probe.models.parts.files import Loading, find_checkpoint, named
from probe.models.video.camera_network import POSE
from probe.models.video.model import TARGETS
from probe.models.video.wan import Wan
from probe.models.video.wan_camera import CAMERAS, base_parts, read_network
from probe.views import Views

HUB = "KwaiVGI/ReCamMaster-Wan2.1"
NAME = "recammaster"
CHECKPOINTS = ("step20000.ckpt", "step20000.safetensors")


def target_poses(views: Views) -> Float[Tensor, "b f 12"]:
    """Return camera to world of each target in the first view's camera; a reference has its target's.

    Raises:
        ValueError: If there are no references, or more than targets.
    """
    if not 1 <= views.n_ref <= views.count - views.n_ref:
        raise ValueError(
            f"recammaster: {views.n_ref} of {views.count} views are references, the source video, whose frames are "
            f"told the targets' poses; expected 1 to {views.count // 2}; choose --n-ref {max(1, views.count // 2)}, or "
            "more --views"
        )
    relative = views.world_to_cam[:, :1] @ invert_rigid(views.world_to_cam[:, views.n_ref :])
    poses = rearrange(relative[..., :3, :], "b f i j -> b f (i j)")
    return torch.cat([poses[:, : views.n_ref], poses], dim=1)


def places_in_time(targets: Float[Tensor, " f"]) -> Int[Tensor, " f"]:
    """Return where frames stand in the release's order: all targets, then all others."""
    drawn = targets.float()
    behind = drawn.sum() + (1 - drawn).cumsum(0)
    return (torch.where(drawn > 0, drawn.cumsum(0), behind) - 1).long()


@dataclass(frozen=True, kw_only=True)
class ReCamMaster(Wan):
    """A Wan transformer that is told poses and sees a source video."""

    def condition(self, views: Views, keep_cameras: Float[Tensor, " b"] | None = None) -> Inputs:
        """Return what Wan's is, and the poses; zeros where cameras are blanked."""
        poses = target_poses(views.to(self.alpha_bar.device))
        kept = poses if keep_cameras is None else poses * rearrange(keep_cameras.to(poses), "b -> b 1 1")
        return super().condition(views) | {CAMERAS: kept}

    def network_inputs(
        self, latents: Float[Tensor, "b f c h w"], t: Int[Tensor, " b"], inputs: Inputs
    ) -> dict[str, Any]:
        """Return Wan's arguments, the frames' places and the poses."""
        added = {"places": places_in_time(inputs[TARGETS][0]), CAMERAS: inputs[CAMERAS].to(latents)}
        return super().network_inputs(latents, t, inputs) | added

    def probe_conditioning(self, views: int, side: int, like: dict[str, Any]) -> Inputs:
        """Make what :meth:`condition` returns, of zeros."""
        return super().probe_conditioning(views, side, like) | {CAMERAS: torch.zeros(1, views, POSE, **like)}


def load_recammaster(source: str, loading: Loading) -> ReCamMaster:
    """Load a checkpoint of ReCamMaster.

    Args:
        source: File, folder or hub id; empty for the published one.
        loading: The base pipeline, whose autoencoder and text encoder are used, and the size of the views.

    Raises:
        ValueError: If it is not there, or is no such network.
    """
    path = find_checkpoint(source or HUB, CHECKPOINTS)
    network = read_network(path, loading, rays=False)
    parts = base_parts(network, loading)
    del parts["noise"]
    if network.config.in_channels != parts["channels"]:
        raise ValueError(
            f"load_recammaster: {path} takes {network.config.in_channels} channels, and the autoencoder of --base has "
            f"{parts['channels']}; give the pipeline that the weights were trained with"
        )
    card = {**parts.pop("card"), "references": "source video, clean", "cameras": "poses of targets, in every block"}
    return ReCamMaster(
        name=named(NAME, source),
        card=card,
        folder=path.parent,
        clean_references=True,
        references="source",
        network=network,
        **parts,
    )
