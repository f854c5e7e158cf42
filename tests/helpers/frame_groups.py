"""Groups of a recording's frames, drawn and read as views in one step."""

from probe.scenes.grouping import Group, Pairs, draw_groups
from probe.scenes.recordings import Recording, compare_frames, load_views
from probe.views import Views, concatenate


def pick_groups(recording: Recording, *, pairs: Pairs | None = None, **how) -> list[Group]:
    """Draw groups of frames, as :func:`probe.scenes.grouping.draw_groups` does, with an overlap of .2 or more."""
    pairs = compare_frames(recording) if pairs is None else pairs
    return draw_groups(pairs, **{"min_overlap": 0.2, "seed": 0, **how})


def load_groups(recording: Recording, groups: list[Group], *, size: int, n_ref: int) -> Views:
    """Read groups of frames as the scenes of one batch."""
    return concatenate([load_views(recording, group.frames, size=size, n_ref=n_ref) for group in groups])
