"""Feature maps of networks, read at the centres of tokens."""

from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def at_tokens(maps: Float[Tensor, "b f c h w"], grid: tuple[int, int]) -> Float[Tensor, "b f {grid[0]*grid[1]} c"]:
    """Read a feature map at the centre of every token, bilinearly: nothing is averaged over a token."""
    flat = rearrange(maps, "b f c h w -> (b f) c h w")
    return rearrange(F.interpolate(flat, grid, mode="bilinear"), "(b f) c h w -> b f (h w) c", f=maps.shape[1])


def unit(descriptors: Float[Tensor, "b f n c"]) -> Float[Tensor, "b f n c"]:
    """Scale descriptors to norm 1, so that the nearest one is that of the largest cosine."""
    return F.normalize(descriptors, dim=-1)
