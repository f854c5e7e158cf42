"""Why a key view does not show the point of a token: it lies off the frame, or another surface is in front of it."""

import torch
from jaxtyping import Bool
from torch import Tensor

from probe.correspondence.grid import own_view, token_of
from probe.correspondence.tokens import DEPTH_TOLERANCE, project_tokens
from probe.records.names import OCCLUDED, OUT_OF_FRAME, UNKNOWN, VISIBLE
from probe.views import Views


@torch.no_grad()
def query_causes(views: Views, grid: tuple[int, int]) -> dict[str, Bool[Tensor, "b fq n fk"]]:
    """Return for each query token and other view why that view shows the token's point, or does not.

    - visible: by the depth test of :func:`probe.correspondence.project_tokens`;
    - occluded: the point projects into the frame, and the surface there is nearer by more than the test's tolerance;
    - out of frame: the point projects beside the image, or lies behind the camera;
    - unknown: the token has no point, or the key view does not tell: its depth is missing there, its surface lies
      behind the point (as at depth edges), or it shows another moving part at the same depth.

    Args:
        views: The views, with point maps that fit their cameras.
        grid: Tokens (rows, columns) of a view.

    Returns:
        By cause: exactly one is true in every other view, none in the query's own view.

    Raises:
        ValueError: If the grid does not fit the images.
    """
    seen = project_tokens(views, grid)
    known = seen.points_at_key.isfinite().all(-1)
    inside = token_of(seen.xy, views.size, views.size) >= 0
    behind = inside & (seen.depth_ratio > 1 + DEPTH_TOLERANCE)
    out_of_frame = known & ~inside
    causes = {VISIBLE: seen.visible, OCCLUDED: behind, OUT_OF_FRAME: out_of_frame}
    causes[UNKNOWN] = ~(seen.visible | behind | out_of_frame)
    other = ~own_view(views.count, device=known.device)
    return {cause: queries & other for cause, queries in causes.items()}
