"""Convolutional encoders of conditioning at image resolution: masks, rays, colours."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

WAVES_START = 1 / 3
"""Scale of what rays with waves add at the start: at full scale their fine pattern drowns the colours."""


class InputEncoder(nn.Module):
    """Encode mask and rays at image resolution to the first level's width and resolution; starts at zero.

    Keys are those of the release (``conv1.0.weight`` ... ``conv_out.bias``), see docs/references.md, "CAT3D of the
    release: network".

    Args:
        inputs: Channels: the mask, then the rays.
        channels: Of the stages.
        stride: Of all stages together.
        outputs: Channels of the first level.
        normalise: Whether stages have norms, and the last convolution starts at zero; else all start at full scale.
        octaves: Number of frequencies at which the rays enter as waves too (:func:`ray_waves`); 0 in the release.
    """

    def __init__(
        self,
        inputs: int,
        channels: tuple[int, ...],
        stride: int,
        outputs: int,
        *,
        normalise: bool = True,
        octaves: int = 0,
    ) -> None:
        super().__init__()
        self.octaves = octaves
        inputs += 2 * octaves * (inputs - 1)
        halvings = round(math.log2(stride))
        if 2**halvings != stride or halvings >= len(channels):
            raise ValueError(
                f"InputEncoder: stride {stride} is no power of two with fewer halvings than the {len(channels)} stages"
            )
        self.stages = len(channels)
        for number, (before, after) in enumerate(zip((inputs, *channels), channels, strict=False), start=1):
            step = 2 if 1 < number <= 1 + halvings else 1
            convolution = nn.Conv2d(before, after, 3, step, 1)
            norm = nn.GroupNorm(after // 4, after, eps=1e-6) if normalise else nn.Identity()
            stage = nn.Sequential(convolution, norm, nn.SiLU())
            self.add_module(f"conv{number}", stage)
        last = nn.Conv2d(channels[-1], outputs, 3, 1, 1)
        self.conv_out: nn.Module = last
        if normalise:
            _start_at_zero(last)
        else:
            _start_at_full_scale(self)
            if octaves:
                last.weight.data.mul_(WAVES_START)

    def forward(self, inputs: Float[Tensor, "bf c H W"]) -> Float[Tensor, "bf channels h w"]:
        """Encode."""
        return self.conv_out(self._through_stages(inputs))

    def _through_stages(self, inputs: Tensor) -> Tensor:
        if self.octaves:
            inputs = torch.cat([inputs, ray_waves(inputs[:, 1:], self.octaves)], dim=1)
        for number in range(1, self.stages + 1):
            inputs = self.get_submodule(f"conv{number}")(inputs)
        return inputs


class PriorEncoder(InputEncoder):
    """Encode mask, rays and warped colours as :class:`InputEncoder` does, then join a map at the latents' resolution.

    The last convolution becomes two with twice the last stage's channels between them (``conv_out.0`` ...
    ``conv_out.3``); the second starts at zero. See docs/references.md, "MVGenMaster".
    """

    def __init__(
        self,
        inputs: int,
        coordinates: int,
        channels: tuple[int, ...],
        stride: int,
        outputs: int,
        *,
        normalise: bool,
    ) -> None:
        super().__init__(inputs, channels, stride, outputs, normalise=normalise)
        hidden = 2 * channels[-1]
        last = nn.Conv2d(hidden, outputs, 3, 1, 1)
        _start_at_zero(last)
        joining = nn.Conv2d(channels[-1] + coordinates, hidden, 3, 1, 1)
        norm = nn.GroupNorm(hidden // 8, hidden, eps=1e-6)
        self.conv_out = nn.Sequential(joining, norm, nn.SiLU(), last)

    def forward(  # type: ignore[override]
        self, inputs: Float[Tensor, "bf c H W"], coordinates: Float[Tensor, "bf points h w"]
    ) -> Float[Tensor, "bf channels h w"]:
        """Encode."""
        return self.conv_out(torch.cat([self._through_stages(inputs), coordinates], dim=1))


def ray_waves(rays: Float[Tensor, "b c h w"], octaves: int) -> Float[Tensor, "b waves h w"]:
    r"""Return sines and cosines of rays, of which small differences are plain to linear layers.

    .. math:: \sin(2^k \pi r), \; \cos(2^k \pi r), \quad k = 0 .. octaves - 1

    Args:
        rays: Plücker coordinates, about -1 to 1.
        octaves: Number of frequencies, each twice the one before.

    Returns:
        2 octaves c channels.

    Source:
        NeRF, arXiv 2003.08934, equation 4; for rays: Scene Representation Transformer, arXiv 2111.13152.
    """
    angles = [2**k * math.pi * rays for k in range(octaves)]
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)


def _start_at_zero(convolution: nn.Conv2d) -> None:
    nn.init.zeros_(convolution.weight)
    nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]


def _start_at_full_scale(encoder: nn.Module) -> None:
    """Draw He-normal weights, so that cameras weigh as much as colours from the first step on."""
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
