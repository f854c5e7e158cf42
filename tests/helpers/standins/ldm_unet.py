"""The U-Net of latent diffusion in its published layout of names, plain; shared by the stand-ins beside it."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GROUPS = 32


def sinusoids(t: Tensor, width: int) -> Tensor:
    """Cosines, then sines, of frequencies from 1 down to 1 / 10000."""
    rates = torch.exp(-math.log(10000) * torch.arange(width // 2, device=t.device) / (width // 2))
    angles = t.float()[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class FloatNorm(nn.GroupNorm):
    """Group norm in single precision, whatever comes."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float()).to(x.dtype)


class Gated(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.proj(x).chunk(2, dim=-1)
        return x * F.gelu(gate)


class Perceptron(nn.Module):
    def __init__(self, width: int, out: int | None = None) -> None:
        super().__init__()
        self.net = nn.Sequential(Gated(width, 4 * width), nn.Dropout(0.0), nn.Linear(4 * width, out or width))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Residual(nn.Module):
    """in_layers, emb_layers, out_layers, skip_connection; ``dense`` scales and shifts what the first norm gave."""

    def __init__(self, channels: int, embedded: int, out: int, dense: int = 0) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(FloatNorm(GROUPS, channels), nn.SiLU(), nn.Conv2d(channels, out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedded, out))
        if dense:
            self.dense_emb_layers = nn.Sequential(nn.Conv2d(dense, 2 * channels, 1))
        self.out_layers = nn.Sequential(
            FloatNorm(GROUPS, out), nn.SiLU(), nn.Dropout(0.0), nn.Conv2d(out, out, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if out == channels else nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor, emb: Tensor, dense: Tensor | None = None) -> Tensor:
        h = self.in_layers[:-1](x)
        if dense is not None:
            small = F.interpolate(dense, size=h.shape[2:], mode="bilinear", align_corners=True)
            scale, shift = self.dense_emb_layers(small).type(h.dtype).chunk(2, dim=1)
            h = h * (1 + scale) + shift
        h = self.in_layers[-1](h) + self.emb_layers(emb)[..., None, None]
        return self.skip_connection(x) + self.out_layers(h)


class Down(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Up(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class Stage(nn.Sequential):
    """Layers of one block: residuals get embeddings, transformers get context and views."""

    def forward(self, x: Tensor, emb: Tensor, context: Tensor, dense: Tensor | None, views: int) -> Tensor:
        for layer in self:
            if isinstance(layer, Residual):
                x = layer(x, emb, dense)
            elif isinstance(layer, nn.Conv2d | Down | Up):
                x = layer(x)
            else:
                x = layer(x, context, views)
        return x


class UNet(nn.Module):
    """input_blocks, middle_block, output_blocks, out."""

    def __init__(
        self, *, in_channels: int, out_channels: int, model_channels: int, num_res_blocks: int,
        channel_mult: Sequence[int], attention_resolutions: Sequence[int], dense: int,
        transformer: Callable[[int, str], nn.Module],
    ) -> None:  # fmt: skip
        super().__init__()
        self.width, wide = model_channels, 4 * model_channels
        self.time_embed = nn.Sequential(nn.Linear(model_channels, wide), nn.SiLU(), nn.Linear(wide, wide))
        self.input_blocks = nn.ModuleList([Stage(nn.Conv2d(in_channels, model_channels, 3, padding=1))])
        skips, channels, ds = [model_channels], model_channels, 1
        for level, factor in enumerate(channel_mult):
            for _ in range(num_res_blocks):
                layers: list[Any] = [Residual(channels, wide, factor * model_channels, dense)]
                channels = factor * model_channels
                if ds in attention_resolutions:
                    layers.append(transformer(channels, f"input_ds{ds}"))
                self.input_blocks.append(Stage(*layers))
                skips.append(channels)
            if level < len(channel_mult) - 1:
                self.input_blocks.append(Stage(Down(channels)))
                skips.append(channels)
                ds *= 2
        self.middle_block = Stage(
            Residual(channels, wide, channels, dense),
            transformer(channels, f"middle_ds{ds}"),
            Residual(channels, wide, channels, dense),
        )
        self.output_blocks = nn.ModuleList()
        for level, factor in reversed(list(enumerate(channel_mult))):
            for number in range(num_res_blocks + 1):
                layers = [Residual(channels + skips.pop(), wide, factor * model_channels, dense)]
                channels = factor * model_channels
                if ds in attention_resolutions:
                    layers.append(transformer(channels, f"output_ds{ds}"))
                if level and number == num_res_blocks:
                    layers.append(Up(channels))
                    ds //= 2
                self.output_blocks.append(Stage(*layers))
        self.out = nn.Sequential(
            FloatNorm(GROUPS, channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1)
        )

    def run(self, x: Tensor, emb: Tensor, context: Tensor, dense: Tensor | None, views: int) -> Tensor:
        skips, h = [], x
        for block in self.input_blocks:
            h = block(h, emb, context, dense, views)
            skips.append(h)
        h = self.middle_block(h, emb, context, dense, views)
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), emb, context, dense, views)
        return self.out(h.type(x.dtype))
