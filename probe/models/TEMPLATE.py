"""A model to copy: a small transformer over the tokens of all views, which runs as it is.

Copy this file, put your network in place of ``Network``, and override of the methods below those that differ::

    cp probe/models/TEMPLATE.py my_model.py
    python -m probe.run --model module:my_model.make

``tests/probe/models/test_every_model.py`` says what a model has to keep: its layers are found, looking changes no bit,
scores are in range, an edit reaches the prediction, and ``--dry-run`` agrees with the run.
"""

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from probe.models.model import Inputs, MultiViewModel
from probe.models.schedules import pixel_scheduler
from probe.views import Views

SIZE, WIDTH, HEADS, LAYERS = 32, 32, 2, 2
COLOURS, MASK_AND_RAYS = 3, 7


class Attention(nn.Module):
    """Self-attention: whatever it does, it must end in PyTorch's fused function, or in a kernel of the table."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """Attend, and add."""
        q, k, v = rearrange(self.qkv(x), "b n (part heads d) -> part b heads n d", part=3, heads=HEADS)
        attended = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(rearrange(attended, "b heads n d -> b n (heads d)"))


class Network(nn.Module):
    """A token is a patch of 4 x 4 pixels with its mask and rays; views, then rows, then columns."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(COLOURS + MASK_AND_RAYS, WIDTH, 4, stride=4)
        self.blocks = nn.ModuleList(Attention() for _ in range(LAYERS))
        self.unembed = nn.ConvTranspose2d(WIDTH, COLOURS, 4, stride=4)

    def forward(
        self, latents: Float[Tensor, "b f 3 H W"], t: Int[Tensor, " b"], inputs: Float[Tensor, "b f 7 H W"]
    ) -> Float[Tensor, "b f 3 H W"]:
        """Predict v."""
        f = latents.shape[1]
        x = self.embed(rearrange(torch.cat([latents, inputs], 2), "b f c h w -> (b f) c h w"))
        h = x.shape[2]
        x = rearrange(x, "(b f) c h w -> b (f h w) c", f=f) + t[:, None, None] / 1000
        for block in self.blocks:
            x = block(x)
        images = self.unembed(rearrange(x, "b (f h w) c -> (b f) c h w", f=f, h=h))
        return rearrange(images, "(b f) c h w -> b f c h w", f=f)


class MyModel(MultiViewModel):
    """What the network needs beside latents and time, and how it is called."""

    def condition(self, views: Views, keep_cameras: Float[Tensor, " b"] | None = None) -> Inputs:
        """Leave the domain out, which only the suite's own U-Net knows."""
        inputs = super().condition(views, keep_cameras)
        return {"inputs": inputs["inputs"]}

    def probe_inputs(self, views: int, scale: int | None = None) -> dict[str, Tensor]:
        """Make inputs of the smallest grid (scale tokens a side), or of the native size."""
        side = self.size if scale is None else 4 * scale
        latents, inputs = (torch.zeros(1, views, channels, side, side) for channels in (COLOURS, MASK_AND_RAYS))
        return {"latents": latents, "t": torch.zeros(1, dtype=torch.long), "inputs": inputs}

    def fresh(self, seed: int) -> nn.Module:
        """Return the network with random weights, for the baseline "random"."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Network()


def make() -> MultiViewModel:
    """Return the model; load your weights here, by safetensors."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Network()
    return MyModel(name="mine", network=network, alpha_bar=pixel_scheduler().alphas_cumprod, size=SIZE)
