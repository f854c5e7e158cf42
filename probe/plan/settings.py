"""What a probe run is asked for: the flags of ``python -m probe.run``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from probe.baselines.names import BASELINES, NULLS
from probe.correspondence.names import SOURCES
from probe.models.names import MODELS
from probe.records.names import Intervention, ProtocolName
from probe.registry import listing
from probe.scenes.names import SCENES
from probe.scenes.reading import Reading

Device = Literal["auto", "cpu", "cuda"]
BINS = 4
TIMESTEPS = "100,300,500,700,900"
SEEDS = 2**32


@dataclass(frozen=True, kw_only=True)
class Settings(Reading):
    """Measure, layer by layer, how well 3D attention finds the true corresponding point in another view."""

    model: str = "cat3d-tiny"
    """NAME[:PATH_OR_HUB_ID]. Names: {models}."""
    base: str | None = None
    """Folder or hub id of the base model whose autoencoder is used, where --model has one; default the model's usual
    one."""
    model_size: int | None = None
    """Side in pixels of the views that the model sees; default its native size. Half the side, a sixteenth of the
    attention."""
    scenes: str = "shapes"
    """NAME or NAME:FOLDER. Names: {scenes}. Details may follow: shapes:DIFFICULTY (plain, cluttered, repetitive,
    textureless, fine), shapes-v1 likewise; shapes:moving, shapes:moving-still (clips, by a moving or a still camera);
    rgbd:FOLDER#FOCAL (the colour camera's focal length in pixels where colour is not registered to depth: #525 for raw
    7-Scenes); co3d:FOLDER#SUBSET/SPLIT; navi:FOLDER#video. See python -m probe.preview."""
    out: Path = Path("runs/probe")
    """Run folder; it refuses other settings than those it was made with."""
    protocol: ProtocolName = "attention-v1"
    """attention-v1: argmax of the head-averaged weights, on visible queries. ratio-v2: concatenated heads, L2, ratio
    test, keys with a known point; ratio-v1: all keys. probe3d-v1 and cameo-release-v1: as published, but for the
    deviations that docs/method.md lists."""
    layers: str | None = None
    """3d, all (per-view layers too; the default of models without 3d ones), or indexes among all self-attentions or
    names, by commas: 10,12."""
    timesteps: str | None = None
    """Timestep indexes (0 clean to 999 pure noise), by commas; default 100,300,500,700,900, or 0 for a model that takes
    no noise. timesteps.csv tells alpha-bar and SNR of each."""
    pairs: int = 40
    """View pairs (view 0 with another view); rounded up to equal numbers per 30-degree rotation bin."""
    views: int = 3
    """Views per scene, denoised together."""
    n_ref: int = 1
    """Clean reference views among them; they come first."""
    frames_per_view: int = 1
    """Video models: frames of a clip (shapes:moving, shapes:moving-still, tracks) that make one view, as many as the
    autoencoder packs: 4 (wan, cogvideox, hunyuan-video) or 8 (ltx). Truth is the last frame's. 1: still clips."""
    min_overlap: float = 0.2
    """Real scenes: share of view 0 that each other view must see, 0 to 1."""
    truth_source: str | None = None
    """Where true points come from; default depth. Names: {sources}. Errors of another source count as
    the layers' own."""
    view_list: str | None = None
    """Real scenes: a published list, such as re10k-pixelsplat-v1:INDEX.json, or a FILE.json that probe.preview
    froze, in place of drawing by rotation bin."""
    image_size: int | None = None
    """Side in pixels of the images that truth is computed on; default 128 (shapes) or 256 (rgbd). The model sees its
    own size."""
    select_by: str | None = None
    """Metric that layers are ranked by; default the protocol's own, precision@5% (error under 5 % of the image's
    side)."""
    baselines: str = "pixels,dsift,random,null"
    """Comparisons, by commas, or none. Matchers, NAME or NAME:FOLDER_OR_HUB_ID: {baselines}. Nulls: {nulls}."""
    hidden: bool = False
    """Measure where attention looks from points that the key view does not show, occluded or out of frame, beside
    visible ones: hidden.csv and a section of the page. For scenes with cameras and depth."""
    interventions: str | None = None
    """Edits whose effect each 3D layer is tested by, by commas, or none: {interventions}. Default identity (the
    paper's) and within_view, on predictions at the middle timestep."""
    edit_timesteps: str | None = None
    """Range of timestep indexes at which edits act, such as 0-499; default all."""
    edit_scenes: int | None = None
    """Edit in this many scenes, the first; default all, or 8 where --interventions is left out."""
    edit_heads: bool = False
    """Edit each head alone as well (predictions only)."""
    sampling_steps: int | None = None
    """DDIM steps of the views that edits are judged on as well, 0 for predictions only; default 10 where
    --interventions is given."""
    device: Device = "auto"
    """auto takes CUDA where there is one."""
    offload: bool = False
    """Keep the weights in the CPU's memory and bring each module's to the device when it is called: for networks larger
    than the device, and slower."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision that the network runs in; scores are computed in float32."""
    seed: int = 0
    """Of scenes, noise and random weights."""
    resume: bool = False
    """Continue the run in --out."""
    report: bool = True
    """Write report.html at the end."""
    dry_run: bool = False
    """Load no model and write nothing: print layers, tokens, memory and an estimate of the time. Takes seconds;
    minutes for a full-size model on a CPU."""


@dataclass(frozen=True, kw_only=True)
class Watch:
    """On what, and by what, precision is followed over training."""

    scenes: str = "shapes"
    """As for python -m probe.run."""
    groups: int = 16
    """Scenes of three views, the four rotation bins in turn."""
    timesteps: str = TIMESTEPS
    """Timestep indexes, by commas; precision is averaged over them."""
    metric: str = "precision@5%"
    """Metric to follow, over target queries and reference keys."""
    seed: int = 0
    """Random seed for scenes and noise."""


def choices() -> dict[str, str]:
    """Return what the registries hold, by the names that stand for them in the help."""
    return {
        "models": listing(MODELS),
        "scenes": listing(SCENES),
        "sources": listing(SOURCES),
        "baselines": listing(BASELINES),
        "nulls": listing(NULLS),
        "interventions": ", ".join(get_args(Intervention)),
    }


def count_groups(settings: Settings) -> int:
    """Count scenes: each gives views - 1 pairs with view 0, and each rotation bin gets as many scenes.

    Raises:
        ValueError: If a number is out of its range; names the flag.
    """
    if settings.views < 2 or not 1 <= settings.n_ref < settings.views or settings.pairs < 1:
        raise ValueError(
            f"--views {settings.views} --n-ref {settings.n_ref} --pairs {settings.pairs}: expected at least 2 views, "
            "from 1 reference up to one view less than all, and at least 1 pair"
        )
    if settings.frames_per_view < 1:
        raise ValueError(f"--frames-per-view {settings.frames_per_view}: expected at least 1, such as 4")
    if settings.image_size is not None and settings.image_size < 1:
        raise ValueError(f"--image-size {settings.image_size}: expected at least as many pixels as tokens, such as 128")
    if not 0 <= settings.min_overlap <= 1:
        raise ValueError(f"--min-overlap {settings.min_overlap}: expected a share from 0 to 1")
    if not 0 <= settings.seed < SEEDS:
        raise ValueError(f"--seed {settings.seed}: expected 0 to {SEEDS - 1}")
    per_round = BINS * (settings.views - 1)
    return BINS * -(-settings.pairs // per_round)
