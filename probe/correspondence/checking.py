"""Whether cameras and points fit the images: SIFT matches between views, against what the truth says of them.

Two things can disagree: the truth with the images, or SIFT with the images. They are told apart without the truth: of a
pair's matches those are kept that agree with each other, on one fundamental matrix that is fitted to them alone. Wrong
matches of SIFT agree with no common one; matches that do, and that cameras and points put elsewhere, speak against the
truth. SIFT can agree with itself and be wrong on repeated patterns: the warning is no proof.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Literal

import cv2
import numpy as np
import pandas as pd
import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from probe.geometry import fundamental_matrix, point_map_to_depth, project, unproject
from probe.views import Views

RATIO = 0.8
"""Lowe's ratio test: the nearest descriptor is that much nearer than the second."""
LEAST = 16
"""Matches that a pair must have to be checked: fewer fit some fundamental matrix by chance (it takes 8 of them)."""
SHARE = 0.5
"""Of a pair's matches, which must agree with each other."""
WITHIN = 1.5 / 256
"""Of the view's side: how far from their common epipolar lines matches may lie to agree."""
SCENES = 8
"""That are checked, spread evenly over those of a run."""
VIEWS = 4
"""Of each scene: the first ones, each two of which are a pair."""
FAR = 1 / 6
"""Of the view's side: a pair whose matches move less hides wrong cameras and points, since their error grows with the
motion (on raw 7-Scenes read as registered it is a seventh of it); it counts only where no pair moves more."""
TOLERATED = 0.25
"""Share of the pairs that may lie above half of what is allowed."""
NAMED = 3
"""Scenes that do not fit and are named; more are counted."""

Points = Float[np.ndarray, "_ 2"]
Described = tuple[Points, Float[np.ndarray, "_ 128"]]
"""Keypoints of an image, and a descriptor of each."""


@dataclass(frozen=True, kw_only=True)
class CheckedPair:
    """What SIFT says of two views.

    Attributes:
        scene: Its name.
        pair: Of the views: "0-1".
        matches: Counted: those that agree with each other.
        moved_px: Median distance between both ends of a match, in pixels of the views.
        kind: What they were held against: the views' points projected into each other, or, where fewer than
            :data:`LEAST` of the matched pixels have a point, the epipolar lines of the cameras alone.
        median_px: Median distance, in pixels of the views.
        epipolar_px: Median distance from the cameras' epipolar lines; NaN where the cameras stand at one place.
    """

    scene: str
    pair: str
    matches: int
    moved_px: float
    kind: Literal["points", "epipolar lines"]
    median_px: float
    epipolar_px: float


@dataclass(frozen=True, kw_only=True)
class TruthCheck:
    """What SIFT says of the truth of some scenes.

    Attributes:
        pairs: Those that have matches enough.
        looked_at: Pairs, in all.
        scenes: That were looked at.
        side: Of the views, in pixels.
        allowed_px: Error with which a match still counts as right.
    """

    pairs: tuple[CheckedPair, ...]
    looked_at: int
    scenes: int
    side: int
    allowed_px: float

    @property
    def counted(self) -> tuple[CheckedPair, ...]:
        """Return the pairs that tell: those whose matches move far, or all if there are none."""
        far = tuple(pair for pair in self.pairs if pair.moved_px >= FAR * self.side)
        return far or self.pairs

    @property
    def median_px(self) -> float:
        """Return the median over counted pairs of their median distances, each counting once; NaN without pairs."""
        return float(np.median([pair.median_px for pair in self.counted])) if self.pairs else float("nan")

    @property
    def above(self) -> int:
        """Return how many counted pairs lie above half of what is allowed."""
        return sum(pair.median_px > self.allowed_px / 2 for pair in self.counted)

    @property
    def is_doubtful(self) -> bool:
        """Return whether cameras or points do not fit the images: too many pairs lie above half of what is allowed."""
        return self.above > TOLERATED * len(self.counted)

    @property
    def by_scene(self) -> dict[str, float]:
        """Return the median distance of each scene's counted pairs, in pixels of the views."""
        scenes = dict.fromkeys(pair.scene for pair in self.counted)
        return {name: float(np.median([one.median_px for one in self.counted if one.scene == name])) for name in scenes}

    @property
    def off(self) -> dict[str, float]:
        """Return the scenes whose median distance lies above half of what is allowed, with that distance."""
        return {scene: px for scene, px in self.by_scene.items() if px > self.allowed_px / 2}

    @property
    def blames_points(self) -> bool:
        """Return whether the cameras alone fit where the truth does not: most pairs lie near their epipolar lines."""
        suspects = [pair for pair in self.counted if pair.scene in (self.off or self.by_scene)]
        lines = [pair.epipolar_px for pair in suspects if np.isfinite(pair.epipolar_px)]
        held_against = {pair.kind for pair in suspects}
        return "points" in held_against and bool(lines) and float(np.median(lines)) <= self.allowed_px / 2

    @property
    def words(self) -> str:
        """Return the finding in one sentence, with its unit and counts."""
        if not self.pairs:
            return (
                f"no SIFT match anywhere: the truth is unchecked (none of {self.looked_at} pairs of views in "
                f"{self.scenes} scenes has {LEAST} matches that agree with each other)"
            )
        matches, kinds = sum(pair.matches for pair in self.counted), sorted({pair.kind for pair in self.counted})
        where = {"points": "cameras and points put them", "epipolar lines": "the cameras' epipolar lines lie"}
        return (
            f"SIFT matches lie {self.median_px:.1f} px of {self.side} from where "
            f"{' or '.join(where[kind] for kind in kinds[::-1])} (median of {len(self.counted)} pairs of views, "
            f"{matches} matches); matches count as right up to {self.allowed_px:.1f} px"
        )

    def warning(self, way_out: str) -> str:
        """Return what is wrong and what to do, in one line; nothing if the truth fits the images.

        Args:
            way_out: What to do, where the scenes' format tells.
        """
        if not self.is_doubtful:
            return ""
        suspect = "the points do" if self.blames_points else "the cameras do"
        usual = (
            "look at depth and its scale (--depth-scale, --unit), and at whether colour is registered to it"
            if self.blames_points
            else "look at the axes of the cameras, at the image size of their intrinsics, and at which frame has which"
        )
        advice = _other_scenes(len(self.off)) if 0 < 2 * len(self.off) < len(self.by_scene) else way_out or usual
        return (
            f"WARNING: {suspect} not fit the images{self._some_scenes()}: in {self.above} of {len(self.counted)} pairs "
            f"of views the median distance is above {self.allowed_px / 2:.1f} px, half of what counts as right; "
            f"{advice}"
        )

    def _some_scenes(self) -> str:
        """Return which scenes do not fit, the farthest off first, where others do; nothing if none or all are off."""
        if len(self.off) in (0, len(self.by_scene)):
            return ""
        worst = sorted(self.off.items(), key=lambda pair: -pair[1])
        named = ", ".join(f"{scene} ({px:.1f} px)" for scene, px in worst[:NAMED])
        more = f" and {len(worst) - NAMED} more" if len(worst) > NAMED else ""
        return f" of {named}{more}, {len(worst)} of {len(self.by_scene)} scenes"

    def table(self) -> pd.DataFrame:
        """Return a row per pair; columns as :class:`CheckedPair`."""
        return pd.DataFrame([asdict(pair) for pair in self.pairs], columns=list(CheckedPair.__dataclass_fields__))


def _other_scenes(off: int) -> str:
    """Return where to look when most scenes fit: what all of them share is right."""
    return f"the other scenes fit, so look at the cameras, the depth and the frames of {'it' if off == 1 else 'these'}"


def check_truth(
    load: Callable[[int], tuple[Views, object]], count: int, allowed_px: float, *, most: int = SCENES
) -> TruthCheck:
    """Check some scenes, spread evenly over a list.

    Nothing is drawn at random, and no generator is touched.

    Args:
        load: Gives a scene of the list as a batch of one.
        count: Scenes in the list, at least 1.
        allowed_px: Error with which a match still counts as right, in pixels of the views.
        most: Scenes to check.
    """
    chosen = [index * count // min(most, count) for index in range(min(most, count))]
    pairs, looked_at, side = list[CheckedPair](), 0, 0
    for index in chosen:
        views, _ = load(index)
        pairs += check_views(views)
        looked_at, side = looked_at + len(_view_pairs(views)), max(views.size)
    return TruthCheck(pairs=tuple(pairs), looked_at=looked_at, scenes=len(chosen), side=side, allowed_px=allowed_px)


def check_views(views: Views) -> list[CheckedPair]:
    """Check the first views of a scene, each two of them; pairs without matches enough are absent.

    Args:
        views: A batch of one.
    """
    views = views.to("cpu")
    described = [describe(image) for image in views.image[0, :VIEWS]]
    checked = (_check_pair(views, a, b, *match(described[a], described[b])) for a, b in _view_pairs(views))
    return [pair for pair in checked if pair is not None]


def _view_pairs(views: Views) -> list[tuple[int, int]]:
    return list(combinations(range(min(VIEWS, views.count)), 2))


def _check_pair(views: Views, a: int, b: int, first: Points, second: Points) -> CheckedPair | None:
    kept = agreeing(first, second, WITHIN * max(views.size))
    if kept.sum() < max(LEAST, SHARE * len(kept)):
        return None
    start, end = (torch.from_numpy(points[kept]) for points in (first, second))
    by_points = torch.stack([point_distances(views, a, b, start, end), point_distances(views, b, a, end, start)])
    by_points = by_points.nanmean(0)
    by_lines = epipolar_distances(views, a, b, start, end)
    has_points = int(by_points.isfinite().sum()) >= LEAST
    used = by_points if has_points else by_lines
    if not used.isfinite().any():
        return None
    return CheckedPair(
        scene=views.names[0],
        pair=f"{a}-{b}",
        matches=int(used.isfinite().sum()),
        moved_px=float((end - start).norm(dim=-1).median()),
        kind="points" if has_points else "epipolar lines",
        median_px=float(used.nanmedian()),
        epipolar_px=float(by_lines.nanmedian()),
    )


# --- matches ---------------------------------------------------------------------------------------------------------


def describe(image: Float[Tensor, "3 height width"]) -> Described:
    """Return SIFT's keypoints in pixels (the first pixel's centre is (0.5, 0.5)) and their descriptors.

    Source:
        Lowe 2004, "Distinctive image features from scale-invariant keypoints"; OpenCV's implementation.
    """
    colour = np.ascontiguousarray(rearrange((image.clamp(0, 1) * 255).round().byte(), "c h w -> h w c").numpy())
    points, descriptors = cv2.SIFT.create().detectAndCompute(cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY), None)
    if descriptors is None:
        return np.zeros((0, 2), np.float32), np.zeros((0, 128), np.float32)
    return np.array([point.pt for point in points], np.float32) + np.float32(0.5), descriptors


def match(first: Described, second: Described) -> tuple[Points, Points]:
    """Return matched points of two images: nearest to each other, and by the ratio test both ways; each pair once."""
    nearest, back = _nearest(first[1], second[1]), _nearest(second[1], first[1])
    mutual = [(one, other) for one, other in nearest.items() if back.get(other) == one]
    places = {(*first[0][one], *second[0][other]): None for one, other in mutual}
    found = np.array(list(places), np.float32).reshape(-1, 4)
    return found[:, :2], found[:, 2:]


def _nearest(queries: np.ndarray, keys: np.ndarray) -> dict[int, int]:
    if min(len(queries), len(keys)) < 2:
        return {}
    pairs = cv2.BFMatcher(cv2.NORM_L2).knnMatch(queries, keys, k=2)
    return {best.queryIdx: best.trainIdx for best, second in pairs if best.distance < RATIO * second.distance}


def agreeing(first: Points, second: Points, within: float) -> Bool[np.ndarray, " _"]:
    """Return which matches lie on one fundamental matrix that is fitted to them alone, whatever the cameras say.

    Args:
        first: Matched points of an image, in pixels.
        second: Of the other.
        within: Distance from the epipolar lines, in pixels.

    Source:
        Hartley and Zisserman, Multiple View Geometry, section 11.6 (RANSAC; OpenCV's, whose draws are always the same).
    """
    if len(first) < LEAST:
        return np.zeros(len(first), bool)
    _, mask = cv2.findFundamentalMat(first, second, cv2.FM_RANSAC, within, 0.999, 1000)
    return np.zeros(len(first), bool) if mask is None else mask[:, 0].astype(bool)


# --- distances -------------------------------------------------------------------------------------------------------


def point_distances(
    views: Views, query: int, key: int, start: Float[Tensor, "n 2"], end: Float[Tensor, "n 2"]
) -> Float[Tensor, " n"]:
    """Measure how far matches lie from where a view's points are seen in another, in pixels.

    The point of the matched pixel is moved along its depth to the match's place in the pixel, and followed to the time
    of the key view where something moves.

    Args:
        views: A batch of one.
        query: View whose points are taken.
        key: The other.
        start: Matched pixels of the query view.
        end: Of the key view.

    Returns:
        NaN where the pixel has no point, or the point lies behind the key view.
    """
    cameras, intrinsics = views.world_to_cam[0], views.intrinsics[0]
    height, width = views.size
    column, row = (start[:, axis].long().clamp(0, side - 1) for axis, side in ((0, width), (1, height)))
    depth = point_map_to_depth(views.point_map[0, query], cameras[query])[row, column]
    points = unproject(start, depth, intrinsics[query], cameras[query])
    if views.part is not None:
        pair, part = views.reorder([query, key], 0), views.part[:, [query, key]][:, :, row, column]
        points = pair.follow(torch.stack([points, points])[None], part)[0][0, 0, :, 1]
    seen, _ = project(points, intrinsics[key], cameras[key])
    return (seen - end).norm(dim=-1).where(views.valid[0, query][row, column], torch.nan)


def epipolar_distances(
    views: Views, a: int, b: int, start: Float[Tensor, "n 2"], end: Float[Tensor, "n 2"]
) -> Float[Tensor, " n"]:
    """Measure how far matches of two views lie from each other's epipolar lines: the mean of both, in pixels.

    Returns:
        NaN where the cameras stand at one place.

    Source:
        Hartley and Zisserman, Multiple View Geometry, section 11.4.3 (symmetric epipolar distance, there squared).
    """
    cameras = (x[0, view].double() for view in (a, b) for x in (views.intrinsics, views.world_to_cam))
    matrix = fundamental_matrix(*cameras)
    one, other = (F.pad(points.double(), (0, 1), value=1.0) for points in (start, end))
    lines, lines_back = one @ matrix.mT, other @ matrix
    residual = (other * lines).sum(-1).abs()
    return (residual / lines[:, :2].norm(dim=-1) + residual / lines_back[:, :2].norm(dim=-1)) / 2
