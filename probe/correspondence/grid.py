"""The token grid of an image: which pixels belong to a token, and which world point.

A token's index counts rows before columns. Its cell is its share of the image; a pixel belongs to the cell that its
centre lies in, and a position on the border of two cells to the right or lower one.
"""

from collections.abc import Callable

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.nn import functional as F

from probe.geometry import numbers_like


def own_view(views: int, *, device: torch.device | str = "cpu") -> Bool[Tensor, "fq 1 fk"]:
    """Return where the key view is the query's own: true on the diagonal of query and key views.

    Args:
        views: Number of views.
        device: Where the result lies.
    """
    return rearrange(torch.eye(views, dtype=torch.bool, device=device), "fq fk -> fq 1 fk")


def token_of(xy: Float[Tensor, "*batch 2"], size: tuple[int, int], grid: tuple[int, int]) -> Int[Tensor, " *batch"]:
    """Find the token that a position lies in.

    Args:
        xy: In pixels of ``size``; the first pixel's centre is (0.5, 0.5).
        size: (height, width) of the image in pixels.
        grid: Tokens (rows, columns) of the image.

    Returns:
        0 to rows * columns - 1; -1 outside the image and for NaN. A position on the border of two tokens belongs to the
        right or lower one, so the image's left and upper edges are inside, its right and lower edges outside.

    Raises:
        ValueError: If the grid does not fit the image.
    """
    check_grid("token_of", size, grid)
    extent, tokens = (numbers_like([columns, rows], xy) for rows, columns in (size, grid))
    inside = ((xy >= 0) & (xy < extent)).all(-1)
    # floor_divide is exact; division by a constant and floor may put a position on a border to the left of it
    place = torch.floor_divide(xy.where(inside[..., None], 0) * tokens, extent).long()
    return torch.where(inside, place[..., 1] * grid[1] + place[..., 0], -1)


def token_centres(
    grid: tuple[int, int], size: tuple[int, int], *, device: torch.device | str = "cpu"
) -> Float[Tensor, "{grid[0]*grid[1]} 2"]:
    """Return xy of every token's centre, in pixels of ``size``.

    Args:
        grid: Tokens (rows, columns) of the image.
        size: (height, width) of the image in pixels.
        device: Where the result lies.

    Raises:
        ValueError: If the grid does not fit the image.
    """
    check_grid("token_centres", size, grid)
    xy = pixel_xy(torch.arange(grid[0] * grid[1], device=device), grid[1])
    return xy * numbers_like([size[1] / grid[1], size[0] / grid[0]], xy)


def token_points(
    point_map: Float[Tensor, "b f 3 height width"],
    valid: Bool[Tensor, "b f height width"],
    grid: tuple[int, int],
    resize: str = "edge_aware",
) -> tuple[Float[Tensor, "b f {grid[0]*grid[1]} 3"], Bool[Tensor, "b f {grid[0]*grid[1]}"]]:
    """Return one world point per token.

    - ``edge_aware``: the point of the valid pixel nearest to the token's centre within its cell (of equally near ones
      the first, row by row). Nothing is mixed, so every point lies on a surface.
    - ``bilinear``: the release's way, a mix of the four pixels around the token's centre, also across depth edges. The
      release mixes missing pixels in as well and matches the result as if it were a point; here a token is valid only
      if every pixel that enters with a weight is. Valid tokens have the release's points.

    Args:
        point_map: World point of each pixel, in scene units.
        valid: Pixels whose point is known; a point that is not finite is not.
        grid: Tokens (rows, columns) of a view; it need not divide the image.
        resize: ``"edge_aware"`` or ``"bilinear"``.

    Returns:
        Points in scene units, NaN where the token has none; and where it has one.

    Raises:
        ValueError: If shapes or grid make no sense, or ``resize`` is unknown.
    """
    shape = (*point_map.shape[:2], *point_map.shape[3:])
    if point_map.ndim != 5 or point_map.shape[2] != 3 or tuple(valid.shape) != shape:
        raise ValueError(
            f"token_points: point_map {tuple(point_map.shape)} with valid {tuple(valid.shape)}, expected "
            "(scenes, views, 3, height, width) with (scenes, views, height, width); bring coordinates to the third axis"
        )
    if resize not in RESIZE:
        raise ValueError(f"token_points: resize is {resize!r}, expected one of {', '.join(RESIZE)}; choose one of them")
    check_grid("token_points", (shape[2], shape[3]), grid)
    return RESIZE[resize](point_map, valid & point_map.isfinite().all(2), grid)


def check_grid(function: str, size: tuple[int, int], grid: tuple[int, int]) -> None:
    """Reject a token grid that is finer than the image.

    Args:
        function: That asks, for the message.
        size: (height, width) of the image in pixels.
        grid: Tokens (rows, columns) of the image.

    Raises:
        ValueError: If a token would have less than a pixel, or there is none.
    """
    if len(grid) != 2 or not all(1 <= tokens <= pixels for tokens, pixels in zip(grid, size, strict=True)):
        raise ValueError(
            f"{function}: grid {tuple(grid)} (rows, columns) for images of {size[0]} x {size[1]} pixels, expected "
            f"1 to {size[0]} rows and 1 to {size[1]} columns; choose a coarser grid or larger images"
        )


def pixel_xy(index: Int[Tensor, "*batch"], columns: int) -> Float[Tensor, "*batch 2"]:
    """Return xy of the centre of the pixel (or token) with this index, rows before columns, in pixels (tokens)."""
    return torch.stack([index % columns, index // columns], dim=-1) + 0.5


# From pixels to tokens


def _edge_aware(
    point_map: Float[Tensor, "b f 3 height width"], known: Bool[Tensor, "b f height width"], grid: tuple[int, int]
) -> tuple[Float[Tensor, "b f n 3"], Bool[Tensor, "b f n"]]:
    pixel, present = token_pixels(known, grid)
    return points_at(point_map, pixel, present), present


def _bilinear(
    point_map: Float[Tensor, "b f 3 height width"], known: Bool[Tensor, "b f height width"], grid: tuple[int, int]
) -> tuple[Float[Tensor, "b f n 3"], Bool[Tensor, "b f n"]]:
    missing = rearrange(~known, "b f height width -> b f 1 height width")
    planes = torch.cat([point_map.masked_fill(missing, 0), missing.to(point_map)], dim=2)
    mixed = F.interpolate(rearrange(planes, "b f c height width -> (b f) c height width"), grid, mode="bilinear")
    tokens = rearrange(mixed, "(b f) c h w -> b f (h w) c", b=point_map.shape[0])
    whole = tokens[..., 3] == 0
    return tokens[..., :3].where(rearrange(whole, "b f n -> b f n 1"), torch.nan), whole


RESIZE: dict[str, Callable[[Tensor, Tensor, tuple[int, int]], tuple[Tensor, Tensor]]] = {
    "edge_aware": _edge_aware,
    "bilinear": _bilinear,
}


def points_at(
    point_map: Float[Tensor, "b f 3 height width"], pixel: Int[Tensor, "b f n"], present: Bool[Tensor, "b f n"]
) -> Float[Tensor, "b f n 3"]:
    """Return the points of chosen pixels; NaN where no pixel was ``present``."""
    flat = rearrange(point_map, "b f c height width -> b f c (height width)")
    points = rearrange(torch.take_along_dim(flat, pixel[:, :, None], dim=-1), "b f c n -> b f n c")
    return points.where(rearrange(present, "b f n -> b f n 1"), torch.nan)


def values_at(maps: Shaped[Tensor, "b f height width"], pixel: Int[Tensor, "b f n"]) -> Shaped[Tensor, "b f n"]:
    """Return the values of chosen pixels of each view."""
    return torch.take_along_dim(rearrange(maps, "b f height width -> b f (height width)"), pixel, dim=-1)


def token_pixels(
    known: Bool[Tensor, "b f height width"], grid: tuple[int, int]
) -> tuple[Int[Tensor, "b f n"], Bool[Tensor, "b f n"]]:
    """Return the known pixel nearest to each token's centre in its cell, numbered row by row; and if there is one."""
    height, width = known.shape[-2:]
    rows, row_inside, down = _cells(height, grid[0], known.device)
    columns, column_inside, right = _cells(width, grid[1], known.device)
    # squared distance in pixels, times (2 h w)^2: an integer, so that equal distances tie
    squared = (down * grid[1])[:, :, None, None] ** 2 + (right * grid[0]) ** 2
    usable = known[..., rows[:, :, None, None], columns] & row_inside[:, :, None, None] & column_inside
    far = torch.iinfo(squared.dtype).max
    cost = rearrange(torch.where(usable, squared, far), "b f h i w j -> b f (h w) (i j)")
    best, choice = cost.min(dim=-1)
    pixels = rearrange(rows[:, :, None, None] * width + columns, "h i w j -> (h w) (i j)")
    return pixels[torch.arange(len(pixels), device=known.device), choice], best < far


def _cells(
    pixels: int, tokens: int, device: torch.device
) -> tuple[Int[Tensor, "tokens most"], Bool[Tensor, "tokens most"], Int[Tensor, "tokens most"]]:
    """Along one axis, the pixels with centres in each token's cell, as many columns as the fullest cell has.

    With them which columns are inside, and the offset from the cell's centre in pixels times twice the tokens.
    """
    start = (2 * torch.arange(tokens + 1, device=device) * pixels + tokens - 1) // (2 * tokens)
    member = start[:-1, None] + torch.arange(-(-pixels // tokens), device=device)
    centre = (2 * torch.arange(tokens, device=device)[:, None] + 1) * pixels
    return member.clamp(max=pixels - 1), member < start[1:, None], (2 * member + 1) * tokens - centre
