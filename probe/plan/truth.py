"""Whether a run's truth can be measured with, before anything is measured: it has true matches, and fits the images."""

from probe.correspondence.checking import SCENES, TruthCheck, check_truth
from probe.measure.scene import Scene
from probe.metrics import Threshold, thresholds
from probe.plan.plan import Plan
from probe.protocols import PROTOCOLS
from probe.records import SCENES_NOTE, TRUTH_CHECK, write, write_json
from probe.records.words import TRACKS_LIMIT
from probe.scenes import GENERATED

FEW = 2
"""Scenes that are checked where true points come from a network or from matching, which takes long."""
WAYS_OUT = {
    "rgbd": "if colour is not registered to depth (raw 7-Scenes is not), name the colour camera's focal length: "
    "FOLDER#525"
}
"""By data set, what to do about points that do not fit the images; where the user has not done it yet."""


def way_out(spec: str) -> str:
    """Return what to do about scenes whose truth does not fit the images, where their format tells.

    Args:
        spec: NAME:ROOT, as on the command line.
    """
    name, _, root = spec.partition(":")
    return "" if "#" in root else WAYS_OUT.get(name, "")


def allowed_share() -> float:
    """Return the error with which a match still counts as right by the usual threshold, in shares of the side."""
    name = PROTOCOLS["attention-v1"].select_by
    return next(limit.value for limit in thresholds(None) if limit.name == name)


def allowed_pixels(scene: Scene, limit: Threshold) -> float:
    """Return the error with which a match still counts as right, in pixels of the views.

    A threshold in 3D allows none that is the same everywhere: a token of the finest grid stands for it.

    Args:
        scene: Of the run.
        limit: The threshold that layers are ranked by.
    """
    if limit.kind in ("image", "projection"):
        return limit.value * scene.finest.side
    tokens = limit.value if limit.kind == "token" else 1.0
    return tokens * float(scene.finest.token_size.max())


def check_plan(plan: Plan) -> TruthCheck | None:
    """Check the truth of a plan's real scenes against SIFT matches; procedural ones are exact, videos have no cameras.

    It measures nothing of the run, and touches no generator.
    """
    settings = plan.settings
    if settings.scenes.partition(":")[0] in GENERATED:
        return None
    views = plan.scenes.load(0)[0]
    if not views.has_cameras:
        return None
    first = plan.scene(0, views)
    name = plan.select_by.partition("|")[0]
    limit = next(limit for limit in plan.protocol.limits(first.thresholds) if limit.name == name)
    slow = settings.truth_source not in (None, "depth")
    allowed = allowed_pixels(first, limit)
    return check_truth(plan.scenes.load, len(plan.scenes.names), allowed, most=FEW if slow else SCENES)


def record_truth(plan: Plan, check: TruthCheck | None) -> tuple[str, ...]:
    """Write what was left out of the scenes and what the check found to the run folder; return it in sentences.

    Args:
        plan: Of the run.
        check: Of its truth; None of procedural scenes, whose folder then gets no such file.
    """
    note, out = plan.scenes.note, plan.settings.out
    tracks = TRACKS_LIMIT if plan.scenes.tracks or plan.settings.truth_source == "tracks" else ""
    if check is None:
        return tuple(filter(None, (note, tracks)))
    warning = check.warning(way_out(plan.settings.scenes))
    record = {"note": note, "truth": check.words, "warning": warning, **({"tracks": tracks} if tracks else {})}
    write_json(out / SCENES_NOTE, record)
    write(out / TRUTH_CHECK, lambda part: check.table().to_csv(part, index=False))
    return tuple(filter(None, (note, check.words, warning, tracks)))
