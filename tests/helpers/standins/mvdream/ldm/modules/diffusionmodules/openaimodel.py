"""Stands in for MVDream's network: names of weights, attention and signature as published."""

from collections.abc import Sequence
from typing import Any

from ldm_unet import UNet, sinusoids
from torch import Tensor, nn

from ..attention import SpatialTransformer3D  # noqa: TID252


class MultiViewUNetModel(UNet):
    def __init__(
        self, image_size: int, in_channels: int, model_channels: int, out_channels: int, num_res_blocks: int,
        attention_resolutions: Sequence[int], channel_mult: Sequence[int] = (1, 2, 4, 8), num_head_channels: int = -1,
        context_dim: int | None = None, camera_dim: int | None = None, **_: Any,
    ) -> None:  # fmt: skip
        super().__init__(
            in_channels=in_channels, out_channels=out_channels, model_channels=model_channels, dense=0,
            num_res_blocks=num_res_blocks, channel_mult=channel_mult, attention_resolutions=attention_resolutions,
            transformer=lambda width, _name: SpatialTransformer3D(width, width // num_head_channels, context_dim or 0),
        )  # fmt: skip
        wide = 4 * model_channels
        self.camera_embed = nn.Sequential(nn.Linear(camera_dim or 0, wide), nn.SiLU(), nn.Linear(wide, wide))

    def forward(
        self, x: Tensor, timesteps: Tensor, context: Tensor, y: Any = None, camera: Tensor | None = None,
        num_frames: int = 1, **_: Any,
    ) -> Tensor:  # fmt: skip
        emb = self.time_embed(sinusoids(timesteps, self.width))
        if camera is not None:
            emb = emb + self.camera_embed(camera)
        return self.run(x, emb, context, None, num_frames)
