"""A model of two attentions with two heads each, its layers and a room, to edit."""

from dataclasses import replace

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from probe.layers import Layer, select_layers
from probe.measure.model import scene_noise
from probe.measure.scene import Scene, make_scene
from probe.models.model import MultiViewModel, model_layers
from probe.models.schedules import pixel_scheduler
from probe.scenes.shapes import draw_shapes, make_views

SIZE = 16


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(x), "b n (part heads d) -> part b heads n d", part=3, heads=2)
        return x + self.out(rearrange(F.scaled_dot_product_attention(q, k, v), "b heads n d -> b n (heads d)"))


class Network(nn.Module):
    """Two attentions over the 4 x 4 pixel patches of all views."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(160, 8), nn.Linear(8, 48)
        self.blocks = nn.Sequential(Block(), Block())

    def forward(self, latents: Tensor, t: Tensor, inputs: Tensor, domain: Tensor) -> Tensor:
        x = rearrange(torch.cat([latents, inputs], 2), "b f c (h y) (w x) -> b (f h w) (c y x)", y=4, x=4)
        f, h = latents.shape[1], latents.shape[-2] // 4
        x = self.head(self.blocks(self.embed(x)))
        return rearrange(x, "b (f h w) (c y x) -> b f c (h y) (w x)", f=f, h=h, y=4, x=4)


class Tiny(MultiViewModel):
    def probe_inputs(self, views: int, scale: int | None = None) -> dict[str, Tensor]:
        side = self.size if scale is None else 4 * scale
        latents, inputs = (torch.zeros(1, views, channels, side, side) for channels in (3, 7))
        none = torch.zeros(1, dtype=torch.long)
        return {"latents": latents, "t": none, "inputs": inputs, "domain": none}


def toy_model() -> MultiViewModel:
    torch.manual_seed(0)
    network = Network().eval().requires_grad_(False)
    return Tiny(name="tiny", network=network, alpha_bar=pixel_scheduler().alphas_cumprod, size=SIZE)


def toy_layers(model: MultiViewModel) -> list[Layer]:
    return select_layers(model_layers(model), "3d")


def toy_scene(model: MultiViewModel, seed: int = 0) -> Scene:
    g = torch.Generator().manual_seed(seed)
    made = make_views(draw_shapes(1, generator=g), torch.tensor([[20.0, 50.0]]), size=32, n_ref=1, generator=g)
    views = replace(made, names=("room" if seed == 0 else f"room-{seed}",))
    return make_scene(views, toy_layers(model), scene_noise(model, views, seed, 0))
