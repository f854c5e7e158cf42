"""Everything a probe run needs, resolved from its settings; refused before anything is written if it cannot be run."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import torch

from probe.baselines import baseline_names, open_matchers
from probe.cli import flag
from probe.correspondence.sources import open_source
from probe.interventions.experiment import Experiment, check_scenes, check_steps, plan_experiment, timestep_range
from probe.layers import Layer, joint_layout, select_layers
from probe.measure.matcher import Matcher
from probe.measure.model import scene_noise, timestep_indexes, timesteps_of
from probe.measure.scene import Scene, make_scene
from probe.models import load_model, randomised
from probe.models.model import MultiViewModel, check_frames, check_predicts, conditioning, model_layers, to_device
from probe.models.parts.files import META, Loading
from probe.plan.settings import TIMESTEPS, Settings, count_groups
from probe.protocols import PROTOCOLS, Protocol
from probe.scenes import Request, SceneList, open_scenes
from probe.scenes.reading import record_reading
from probe.scenes.recordings import GeometrySource
from probe.views import Views, resize

NOT_DECISIVE = ("resume", "report", "dry_run", "offload")
"""Settings that change no number."""
UNSAID = {"hidden": False}
"""Settings that are recorded only where they differ from these: a run made before there were such flags is the same."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything a run needs.

    Attributes:
        settings: As asked for.
        model: That is probed.
        layers: That are scored.
        scenes: That are measured on.
        protocol: That measures.
        timesteps: At which the model is scored.
        baselines: Names of the comparisons.
        matchers: Those among them that are no model, by the name that tables call them.
        random: The same network with random weights, where it is asked for.
        experiment: Which layers are edited, and how.
        select_by: Metric that layers are ranked by.
        record: What decides the numbers, as plain values for config.json.
    """

    settings: Settings
    model: MultiViewModel
    layers: list[Layer]
    scenes: SceneList
    protocol: Protocol
    timesteps: tuple[int, ...]
    baselines: tuple[str, ...]
    matchers: dict[str, Matcher]
    random: MultiViewModel | None
    experiment: Experiment
    select_by: str
    record: dict[str, object]

    @property
    def middle(self) -> int:
        """Return the timestep of the nulls and the pictures: the middle one asked for."""
        return self.timesteps[len(self.timesteps) // 2]

    def scene(self, index: int, views: Views) -> Scene:
        """Prepare a scene of the list to be measured on."""
        return make_scene(views, self.layers, scene_noise(self.model, views, self.settings.seed, index))


def make_plan(settings: Settings) -> Plan:
    """Resolve settings.

    Raises:
        ValueError: If something cannot be run; names the flag.
    """
    with flag("--timesteps"):
        timestep_indexes(TIMESTEPS if settings.timesteps is None else settings.timesteps)  # before a model is loaded
    with flag("--baselines"):
        baselines = baseline_names(settings.baselines)
    groups, device = count_groups(settings), device_named(settings.device)
    model = _model(settings, device)
    with flag("--frames-per-view"):
        check_frames(model, settings.frames_per_view)
    with flag("--timesteps"):
        timesteps = timesteps_of(model, settings.timesteps, TIMESTEPS)
    with flag("--layers"):
        every = model_layers(model)
        layers = select_layers(every, settings.layers or model.default_layers)
    scenes, protocol = _scenes(settings, groups, device), PROTOCOLS[settings.protocol]
    select_by = settings.select_by or protocol.select_by
    _try_first_scene(settings.scenes, scenes, layers, protocol, select_by)
    _check_cameras(model, scenes, baselines, hidden=settings.hidden)
    experiment = _experiment(settings, model, layers, timesteps)
    with flag("--baselines"):
        matchers = open_matchers(baselines, device)
    return Plan(
        settings=settings,
        model=model,
        layers=layers,
        scenes=scenes,
        protocol=protocol,
        timesteps=timesteps,
        baselines=baselines,
        matchers=matchers,
        random=_untrained(model, settings, device) if "random" in baselines else None,
        experiment=experiment,
        select_by=select_by,
        record=_record(replace(settings, layers=settings.layers or model.default_layers), timesteps, experiment)
        | not_scored(every),
    )


def device_named(name: str) -> torch.device:
    """Return a device by name; "auto" takes CUDA where there is one.

    Raises:
        ValueError: If CUDA is asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: no CUDA device is available here; choose cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _model(settings: Settings, device: torch.device) -> MultiViewModel:
    """Load the model; for a rehearsal, its outline without weights."""
    loading = Loading(base=settings.base, size=settings.model_size, outline=settings.dry_run)
    place_on = META if settings.dry_run else device
    with flag("--model"):
        return _placed(load_model(settings.model, loading), settings, place_on)


def _placed(model: MultiViewModel, settings: Settings, device: torch.device) -> MultiViewModel:
    offload = settings.offload and device != META
    return to_device(model, device, getattr(torch, settings.dtype), offload=offload)


def _scenes(settings: Settings, groups: int, device: torch.device) -> SceneList:
    request = Request(
        groups=groups,
        views=settings.views,
        n_ref=settings.n_ref,
        seed=settings.seed,
        min_overlap=settings.min_overlap,
        size=settings.image_size,
        view_list=settings.view_list,
        geometry=_source_of_points(settings, device),
        reading=settings.reading,
        frames_per_view=settings.frames_per_view,
    )
    with flag("--scenes"):
        return open_scenes(settings.scenes, request)


def _source_of_points(settings: Settings, device: torch.device) -> GeometrySource | None:
    """Open what true points come from; None for the scenes' own."""
    if settings.truth_source in (None, "depth"):
        return None
    with flag("--truth-source"):
        return open_source(settings.truth_source, device)


def _experiment(
    settings: Settings, model: MultiViewModel, layers: list[Layer], timesteps: tuple[int, ...]
) -> Experiment:
    with flag("--edit-timesteps"):
        timestep_range(settings.edit_timesteps or "0-0")
    with flag("--edit-scenes"):
        check_scenes(settings.edit_scenes)
    with flag("--sampling-steps"):
        check_steps(settings.sampling_steps)
    with flag("--interventions"):
        planned = plan_experiment(
            settings.interventions,
            layers,
            timesteps,
            during=settings.edit_timesteps,
            scenes=settings.edit_scenes,
            each_head=settings.edit_heads,
            steps=settings.sampling_steps,
        )
        if settings.frames_per_view > 1 and planned.steps:
            raise ValueError(
                f"edits are judged on samples, which views of {settings.frames_per_view} frames have not; add "
                "--sampling-steps 0 (predictions only), or leave --frames-per-view out"
            )
        if model.prediction != "none":
            return planned
        asked = (settings.interventions, settings.edit_timesteps, settings.edit_scenes, settings.sampling_steps)
        if planned.interventions and any((*asked, settings.edit_heads)):
            check_predicts(model, "the effect of edits needs")
        return Experiment()


def _untrained(model: MultiViewModel, settings: Settings, device: torch.device) -> MultiViewModel:
    """Return the network with random weights; a rehearsal needs none."""
    if settings.dry_run:
        return model
    return _placed(randomised(model, settings.seed), settings, device)


def not_scored(layers: Sequence[Layer]) -> dict[str, object]:
    """Record attention that no tap sees, and what fits no grid, by name with the reason; nothing if there is none."""
    reasons = {layer.name: layer.reason for layer in layers if layer.reason}
    return {"not_scored": reasons} if reasons else {}


def _record(settings: Settings, timesteps: tuple[int, ...], experiment: Experiment) -> dict[str, object]:
    resolved = {
        **record_reading(asdict(settings)),
        "timesteps": list(timesteps),
        "out": str(settings.out),
        **experiment.record(),
    }
    resolved["select_by"] = settings.select_by or PROTOCOLS[settings.protocol].select_by
    left_out = {name for name, value in UNSAID.items() if resolved[name] == value}
    return {name: value for name, value in resolved.items() if name not in left_out.union(NOT_DECISIVE)}


def _try_first_scene(spec: str, scenes: SceneList, layers: list[Layer], protocol: Protocol, select_by: str) -> None:
    """Refuse what only a scene can tell: images smaller than a token grid, layers on no grid, an unknown metric."""
    views, _ = scenes.load(0)
    scene = make_scene(views, layers, torch.zeros(1, views.count, 1, 1, 1))
    for layer in layers:
        joint_layout(layer, views.count)
    names = protocol.metrics(scene.thresholds)
    if select_by not in names:
        raise ValueError(f"--select-by {select_by!r} is unknown; choose from {', '.join(names)}")
    with flag("--scenes"):
        _check_any_match(spec, scenes, layers, scene)


def _check_cameras(model: MultiViewModel, scenes: SceneList, baselines: tuple[str, ...], *, hidden: bool) -> None:
    """Refuse scenes without cameras where the model, a comparison, or hidden points need them."""
    views, _ = scenes.load(0)
    if views.has_cameras:
        return
    with flag("--model"):
        conditioning(model, resize(views, model.size, model.size))
    if "epipolar" in baselines:
        raise ValueError("--baselines epipolar: the scenes have no cameras, so no epipolar line; leave epipolar out")
    if hidden:
        raise ValueError(
            "--hidden: the scenes have no cameras, so nothing tells whether a point is occluded or out of frame; leave "
            "--hidden out, or name scenes with cameras and depth"
        )


def _any_match(scene: Scene) -> bool:
    return any(bool(truth.visible.any()) for truth in scene.truths.values())


def _check_any_match(spec: str, scenes: SceneList, layers: list[Layer], first: Scene) -> None:
    """Refuse scenes none of which has a true match; mostly the first one has, and no other is loaded."""
    count, scene = len(scenes.names), first
    for index in range(count):
        if index:
            views, _ = scenes.load(index)
            scene = make_scene(views, layers, torch.zeros(1, views.count, 1, 1, 1))
        if _any_match(scene):
            return
    scenes_words = "1 scene" if count == 1 else f"{count} scenes"
    raise ValueError(
        f"{spec}: no true match in {scenes_words}: no view sees a point that another one shows; draw them (python -m "
        "probe.preview), look at cameras, depth and its scale (--depth-scale, --unit), or name another source of true "
        "points (--truth-source)"
    )
