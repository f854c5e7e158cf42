"""Wan's transformer in Wan's own names, with cameras: by an adapter beside the patches, or by a layer in every block.

diffusers' WanTransformer3DModel has neither, and other names. Without cameras, both are the same network (tests compare
them). The adapter is Wan-Fun-Camera's, the layers ``cam_encoder`` and ``projector`` of every block are ReCamMaster's.
Attention is PyTorch's fused one; every ``blocks.N.self_attn`` joins all frames.

Source: docs/references.md, "Video models with cameras".
"""

from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

EPS = 1e-6
THETA = 10000.0
POSE = 12
"""Numbers of a pose: rotation and translation of camera to world, row by row."""
Tokens = Float[Tensor, "b n c"]
Text = Float[Tensor, "b words c"]
Image = Float[Tensor, "b patches c"]
Angles = Float[Tensor, "n half"]


def rotary_angles(places: Int[Tensor, " f"], rows: int, columns: int, width: int) -> Angles:
    """Return the angle of each token's pairs of channels: of its frame's place, its row and its column.

    Args:
        places: Of the frames in time.
        rows: Of tokens in a frame.
        columns: Likewise.
        width: Channels of a head; a third, rounded down to pairs, each for rows and columns, the rest for time.
    """
    space = 2 * (width // 6)
    grid = torch.arange(max(rows, columns), device=places.device)
    time = repeat(_angles(places, width - 2 * space), "f c -> (f h w) c", h=rows, w=columns)
    row = repeat(_angles(grid[:rows], space), "h c -> (f h w) c", f=len(places), w=columns)
    column = repeat(_angles(grid[:columns], space), "w c -> (f h w) c", f=len(places), h=rows)
    return torch.cat([time, row, column], dim=-1)


def _angles(places: Int[Tensor, " n"], width: int) -> Angles:
    power = torch.arange(0, width, 2, device=places.device, dtype=torch.float64) / width
    return (places.double()[:, None] / THETA**power).float()


def rotate(x: Float[Tensor, "b heads n c"], angles: Angles) -> Float[Tensor, "b heads n c"]:
    """Turn pairs of neighbouring channels by angles."""
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2).to(x)


class Attention(nn.Module):
    """Attention with normalised queries and keys; with ``image``, also to tokens of an image, added."""

    def __init__(self, dim: int, heads: int, *, image: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q, self.norm_k = nn.RMSNorm(dim, eps=EPS), nn.RMSNorm(dim, eps=EPS)
        if image:
            self.k_img, self.v_img, self.norm_k_img = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.RMSNorm(dim, eps=EPS)

    def forward(
        self, x: Tokens, text: Text | None = None, *, angles: Angles | None = None, image: Image | None = None
    ) -> Tokens:
        """Attend to the text, or to the tokens themselves."""
        source = x if text is None else text
        q, k, v = self._split(self.norm_q(self.q(x)), self.norm_k(self.k(source)), self.v(source))
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)
        out = F.scaled_dot_product_attention(q, k, v)
        if image is not None:
            k, v = self._split(self.norm_k_img(self.k_img(image)), self.v_img(image))
            out = out + F.scaled_dot_product_attention(q, k, v)
        return self.o(rearrange(out, "b heads n c -> b n (heads c)"))

    def _split(self, *parts: Float[Tensor, "b _ c"]) -> list[Float[Tensor, "b heads _ channels"]]:
        return [rearrange(x, "b n (heads c) -> b heads n c", heads=self.heads) for x in parts]


class Block(nn.Module):
    """Attention over all frames, attention to the text, and a feed-forward network, each modulated by the time."""

    def __init__(self, dim: int, hidden: int, heads: int, *, image: bool, posed: bool) -> None:
        super().__init__()
        self.self_attn, self.cross_attn = Attention(dim, heads), Attention(dim, heads, image=image)
        self.norm1, self.norm2 = (nn.LayerNorm(dim, eps=EPS, elementwise_affine=False) for _ in range(2))
        self.norm3 = nn.LayerNorm(dim, eps=EPS)
        self.ffn = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, dim))
        self.modulation = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)
        if posed:
            self.cam_encoder, self.projector = nn.Linear(POSE, dim), nn.Linear(dim, dim)

    def forward(
        self,
        x: Tokens,
        *,
        text: Text,
        image: Image | None,
        times: Float[Tensor, "b #n 6 c"],
        angles: Angles,
        poses: Float[Tensor, "b f 12"] | None,
    ) -> Tokens:
        """Return the next tokens."""
        shift, scale, gate, shift_2, scale_2, gate_2 = (self.modulation + times).unbind(2)
        inner = self.norm1(x) * (1 + scale) + shift
        if poses is None:
            x = x + gate * self.self_attn(inner, angles=angles)
        else:
            inner = inner + repeat(self.cam_encoder(poses), "b f c -> b (f n) c", n=x.shape[1] // poses.shape[1])
            x = x + gate * self.projector(self.self_attn(inner, angles=angles))
        x = x + self.cross_attn(self.norm3(x), text, image=image)
        return x + gate_2 * self.ffn(self.norm2(x) * (1 + scale_2) + shift_2)


class Residual(nn.Module):
    """Two convolutions beside the identity."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(dim, dim, 3, padding=1) for _ in range(2))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Return the sum."""
        return x + self.conv2(F.relu(self.conv1(x)))


class CameraAdapter(nn.Module):
    """From rays of every pixel to features of every token."""

    def __init__(self, channels: int, dim: int, scale: int, patch: int) -> None:
        super().__init__()
        self.scale = scale
        self.conv = nn.Conv2d(channels * scale**2, dim, patch, stride=patch)
        self.residual_blocks = nn.Sequential(Residual(dim))

    def forward(self, rays: Float[Tensor, "b f c H W"]) -> Float[Tensor, "b d f h w"]:
        """Return features."""
        packed = F.pixel_unshuffle(rearrange(rays, "b f c h w -> (b f) c h w"), self.scale)
        return rearrange(self.residual_blocks(self.conv(packed)), "(b f) d h w -> b d f h w", f=rays.shape[1])


class ImageEmbedding(nn.Module):
    """From tokens of CLIP to tokens beside the text."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        inner = nn.Linear(width, width), nn.GELU(), nn.Linear(width, dim)
        self.proj = nn.Sequential(nn.LayerNorm(width), *inner, nn.LayerNorm(dim))


class Head(nn.Module):
    """From tokens to latents."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.norm, self.head = nn.LayerNorm(dim, eps=EPS, elementwise_affine=False), nn.Linear(dim, out)
        self.modulation = nn.Parameter(torch.randn(1, 2, dim) / dim**0.5)

    def forward(self, x: Tokens, times: Float[Tensor, "b #n c"]) -> Float[Tensor, "b n out"]:
        """Return each token's latents."""
        shift, scale = (self.modulation + rearrange(times, "b n c -> b n 1 c")).unbind(2)
        return self.head(self.norm(x) * (1 + scale) + shift)


class CameraWanTransformer(ModelMixin, ConfigMixin):
    """Wan's transformer with cameras.

    Args:
        dim: Width of the tokens.
        in_channels: Of the latents and the conditioning channels that are concatenated to them.
        out_channels: Of the prediction.
        ffn_dim: Width of the feed-forward networks.
        text_dim: Width of the text's embeddings.
        freq_dim: Width of the time's sinusoids.
        num_heads: Of each attention.
        num_layers: Blocks.
        patch: Latents per token, along a side.
        image_dim: Width of an image's embedding that is read beside the text; None for none.
        ray_channels: Of the rays that the adapter reads for each latent frame; 0 for no adapter.
        ray_scale: Pixels per latent, along a side.
        posed: Whether every block reads a pose of each frame.
    """

    @register_to_config
    def __init__(
        self,
        dim: int,
        in_channels: int,
        out_channels: int,
        ffn_dim: int,
        text_dim: int,
        freq_dim: int,
        num_heads: int,
        num_layers: int,
        patch: int,
        image_dim: int | None,
        ray_channels: int,
        ray_scale: int,
        posed: bool,
    ) -> None:
        super().__init__()
        self.patch_embedding = nn.Conv3d(in_channels, dim, (1, patch, patch), stride=(1, patch, patch))
        self.text_embedding = nn.Sequential(nn.Linear(text_dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim))
        self.time_embedding = nn.Sequential(nn.Linear(freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        image = image_dim is not None
        self.blocks = nn.ModuleList(Block(dim, ffn_dim, num_heads, image=image, posed=posed) for _ in range(num_layers))
        self.head = Head(dim, out_channels * patch**2)
        if image_dim is not None:
            self.img_emb = ImageEmbedding(image_dim, dim)
        if ray_channels:
            self.control_adapter = CameraAdapter(ray_channels, dim, ray_scale, patch)

    def forward(
        self,
        hidden_states: Float[Tensor, "b c f h w"],
        timestep: Float[Tensor, " b"] | Float[Tensor, "b n"],
        encoder_hidden_states: Float[Tensor, "b tokens width"],
        places: Int[Tensor, " f"],
        cameras: Float[Tensor, "b f numbers"] | Float[Tensor, "b f rays H W"],
        encoder_hidden_states_image: Float[Tensor, "b patches channels"] | None = None,
        return_dict: bool = False,
    ) -> tuple[Float[Tensor, "b out f h w"]]:
        """Predict the latents' velocity.

        Args:
            hidden_states: Latents, with their conditioning channels concatenated.
            timestep: 1000 sigma, of each scene or of each token.
            encoder_hidden_states: The text.
            places: Of the frames in time.
            cameras: A pose of each frame, or the packed rays of each.
            encoder_hidden_states_image: Embedding of an image.
            return_dict: Whether a class of diffusers is wanted, which there is none of.
        """
        x = self.patch_embedding(hidden_states)
        rows, columns = x.shape[-2:]
        x = x if self.config.posed else x + self.control_adapter(cameras)
        x = rearrange(x, "b d f h w -> b (f h w) d")
        time = self._time(timestep, x)
        image = encoder_hidden_states_image
        shared: dict[str, Any] = {
            "text": self.text_embedding(encoder_hidden_states),
            "image": None if image is None else self.img_emb.proj(image),
            "times": rearrange(self.time_projection(time), "b n (six d) -> b n six d", six=6),
            "angles": rotary_angles(places, rows, columns, self.config.dim // self.config.num_heads),
            "poses": cameras if self.config.posed else None,
        }
        for block in self.blocks:
            x = block(x, **shared)
        patch = {"h": rows, "w": columns, "p": self.config.patch, "q": self.config.patch}
        return (rearrange(self.head(x, time), "b (f h w) (p q c) -> b c f (h p) (w q)", **patch),)

    def _time(self, timestep: Tensor, like: Tensor) -> Float[Tensor, "b #n d"]:
        times = timestep if timestep.ndim == 2 else timestep[:, None]
        waves = get_timestep_embedding(
            times.flatten(), self.config.freq_dim, flip_sin_to_cos=True, downscale_freq_shift=0
        )
        return self.time_embedding(waves.to(like).unflatten(0, times.shape))
