"""Every name that carries meaning in tables and run folders: written and read here, and nowhere else.

Needs neither torch nor pandas.
"""

import re
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Literal

# --- whose scores ----------------------------------------------------------------------------------------------------

UNIFORM, SAME_POSITION, CEILING = "chance: uniform", "chance: same position", "ceiling"
REFERENCES = (UNIFORM, SAME_POSITION, CEILING)
"""What every matcher is compared with on its grid."""
RANDOM_WEIGHTS, CAMERAS_ONLY = ": random weights", ": cameras only"
NULLS = (RANDOM_WEIGHTS, CAMERAS_ONLY)
"""Nulls of a probed model, by what follows its name."""
NULL_LABELS = {UNIFORM: "uniform chance", SAME_POSITION: "same position", CAMERAS_ONLY: "cameras only"}
"""The nulls that a layer has to beat, each where it was measured, as the layer table names them."""
ALL_HEADS = -1
NO_LAYER = -1
"""Layer of rows that belong to a grid: baselines and references."""

MODEL, COPY, MEAN_COLOUR = "model", "copy", "mean colour"
METHODS = (MODEL, COPY, MEAN_COLOUR)
"""Whose images are measured: the model's, and two trivial baselines that have not used the cameras."""
TRUTH = "truth"
PREFIXES = {MODEL: "", COPY: "copy_", MEAN_COLOUR: "mean_colour_"}
"""How the columns of each method begin in an evaluation."""
TRIVIAL = (COPY, MEAN_COLOUR)
NOISE, OTHER_SCENE, BLURRED = "noise", "another scene", "blurred truth"
CORRUPTIONS = (NOISE, COPY, OTHER_SCENE, BLURRED)
"""What stands in the place of a target view and must score worse than the truth, or the score cannot be trusted."""
GEOMETRY_METHODS = (TRUTH, MODEL, *CORRUPTIONS)
"""Whose geometry is measured."""


def is_null(model: str) -> bool:
    """Return whether a model's name in the score table is that of a null: "tiny: cameras only"."""
    return model.endswith(NULLS)


def null_label(model: str) -> str:
    """Return what distinguishes a null from its model: "cameras only"; the whole name of any other model."""
    return next((null.removeprefix(": ") for null in NULLS if model.endswith(null)), model)


# --- metrics ---------------------------------------------------------------------------------------------------------

PSNR, SSIM, LPIPS, MATCH_ERROR = "psnr", "ssim", "lpips", "match_error"
SAMPLE_METRICS = (PSNR, SSIM, LPIPS, MATCH_ERROR)
"""Of a sampled view."""
PSNR_ONE_STEP = "psnr_one_step"
"""PSNR of the single prediction from pure noise."""
IMAGE_METRICS = (PSNR, PSNR_ONE_STEP, SSIM, LPIPS, MATCH_ERROR)
LOSS, HIGH_NOISE = "loss", "loss_t900"
LOSSES = (LOSS, HIGH_NOISE)
PRECISION, READOUT, ATTENTION = "precision", "readout", "attention"
MASS, KEY_VIEW_MASS, ENTROPY, CROSS_ENTROPY = "mass_3x3", "mass_key_view", "entropy", "cross_entropy"
ATTENTION_METRICS = (MASS, KEY_VIEW_MASS, ENTROPY, CROSS_ENTROPY)
HIGHEST_WEIGHT, SHARE_OF_ENTROPY, CONFIDENT = "highest_weight", "share_of_entropy", "confident"
AT_PROJECTION, PROJECTION_CHANCE, PROJECTION_LEAD = "at_projection", "at_projection_chance", "at_projection_lead"
RIGHT_MATCH_WEIGHT = "right_match_weight"
HIDDEN_METRICS = (
    KEY_VIEW_MASS,
    SHARE_OF_ENTROPY,
    HIGHEST_WEIGHT,
    CONFIDENT,
    AT_PROJECTION,
    PROJECTION_CHANCE,
    PROJECTION_LEAD,
    RIGHT_MATCH_WEIGHT,
)
"""Of attention by cause: whether the key view shows the query's point (:mod:`probe.measure.hidden`)."""
KEPT = "kept"
EFFECT, EFFECT_PREDICTION, EFFECT_SAMPLE = "effect_error", "effect_x0", "effect_sample"
FID, KID = "fid", "kid"
SIFT_MATCHES, SED, TSED, REGISTERED, REPROJECTION = "sift_matches", "sed", "tsed", "registered", "reprojection"
CAMERA, CAMERA_ROTATION, CAMERA_TRANSLATION = "camera", "camera_rotation", "camera_translation"


def within(metric: str, amount: int | float, unit: str) -> str:
    """Return the name of a share that lies within a limit: "tsed@2px", "camera@15deg"."""
    return f"{metric}@{amount:g}{unit}"


def split_within(metric: str) -> tuple[float, str] | None:
    """Return limit and unit of a share such as "tsed@2px"; None of any other metric."""
    found = re.fullmatch(rf"(?:{TSED}|{CAMERA})@([\d.]+)(.*)", metric)
    return (float(found[1]), found[2]) if found else None


TSED_PIXELS, CAMERA_DEGREES = (1, 2, 4), 15
"""Limits of the shares: of SED, in pixels of 256; of a camera's rotation and direction of translation."""
TSED_METRICS = tuple(within(TSED, pixels, "px") for pixels in TSED_PIXELS)
CAMERA_WITHIN = within(CAMERA, CAMERA_DEGREES, "deg")
CAMERA_METRICS = (REGISTERED, CAMERA_ROTATION, CAMERA_TRANSLATION, CAMERA_WITHIN)
PAIR_METRICS = (SIFT_MATCHES, SED, *TSED_METRICS, *CAMERA_METRICS)
"""Geometry of a view against one reference."""
GEOMETRY_SCORES = (SED, *TSED_METRICS, *CAMERA_METRICS, REPROJECTION, MATCH_ERROR)
"""Scores of the geometry of views; each must tell corruptions from the truth."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """How a metric is written for readers, and which way it is better.

    Attributes:
        title: Such as "PSNR".
        unit: Such as "dB"; empty where there is none.
        digits: Decimals of a value.
        fine_digits: Decimals where runs are compared; None is ``digits``.
        better: 1 where higher values are better, -1 where lower ones are, 0 where neither is.
        share: Whether values are fractions, written in percent.
    """

    title: str
    unit: str = ""
    digits: int = 3
    fine_digits: int | None = None
    better: int = 1
    share: bool = False

    @property
    def decimals(self) -> int:
        """Return the decimals of a value where runs are compared."""
        return self.digits if self.fine_digits is None else self.fine_digits

    @property
    def heading(self) -> str:
        """Return title, unit and direction: "PSNR (dB), higher is better"."""
        unit = f" ({self.unit})" if self.unit else ""
        return self.title + unit + {1: ", higher is better", -1: ", lower is better"}.get(self.better, "")


METRICS = {
    PSNR: Metric(title="PSNR", unit="dB", digits=1, fine_digits=2),
    PSNR_ONE_STEP: Metric(title="PSNR of one step", unit="dB", digits=1, fine_digits=2),
    SSIM: Metric(title="SSIM"),
    LPIPS: Metric(title="LPIPS", better=-1),
    MATCH_ERROR: Metric(title="match error", better=-1),
    LOSS: Metric(title="held-out error", fine_digits=4, better=-1),
    HIGH_NOISE: Metric(title="error at t = 900", fine_digits=4, better=-1),
    PRECISION: Metric(title="precision", share=True),
    READOUT: Metric(title="readout", share=True),
    ATTENTION: Metric(title="attention", share=True),
    MASS: Metric(title="mass on the true token and its neighbours", share=True),
    KEY_VIEW_MASS: Metric(title="mass on the key view", share=True),
    ENTROPY: Metric(title="entropy within the key view", unit="nats", better=0),
    CROSS_ENTROPY: Metric(title="cross-entropy with the truth", unit="nats", better=-1),
    HIGHEST_WEIGHT: Metric(title="highest weight within the key view", better=0, share=True),
    SHARE_OF_ENTROPY: Metric(title="entropy within the key view, over its maximum", better=0, share=True),
    CONFIDENT: Metric(title="as peaked as a right match", better=0, share=True),
    AT_PROJECTION: Metric(title="match where the point projects", better=0, share=True),
    PROJECTION_CHANCE: Metric(title="the same by uniform chance", better=0, share=True),
    PROJECTION_LEAD: Metric(title="lead of that over chance", better=0, share=True),
    RIGHT_MATCH_WEIGHT: Metric(title="highest weight of a right match", better=0, share=True),
    KEPT: Metric(title="share of queries kept", better=0, share=True),
    EFFECT: Metric(title="growth of the prediction's error", better=0, share=True),
    EFFECT_PREDICTION: Metric(title="change of the prediction", better=0, share=True),
    EFFECT_SAMPLE: Metric(title="change of sampled colours", better=0, share=True),
    f"effect_{PSNR}": Metric(title="PSNR", unit="dB", digits=2),
    f"effect_{SSIM}": Metric(title="SSIM"),
    f"effect_{LPIPS}": Metric(title="LPIPS", better=-1),
    f"effect_{MATCH_ERROR}": Metric(title="colour error at true matches", better=-1),
    FID: Metric(title="FID", digits=4, better=-1),
    KID: Metric(title="KID", digits=4, better=-1),
    SIFT_MATCHES: Metric(title="SIFT matches", digits=1, better=0),
    SED: Metric(title="SED", unit="px of 256", digits=1, better=-1),
    TSED: Metric(title="TSED", share=True),
    REGISTERED: Metric(title="camera registered", share=True),
    CAMERA_ROTATION: Metric(title="camera rotation error", unit="°", digits=1, better=-1),
    CAMERA_TRANSLATION: Metric(title="camera direction error", unit="°", digits=1, better=-1),
    CAMERA: Metric(title="camera within", share=True),
    REPROJECTION: Metric(title="reprojection error", unit="px of 256", digits=1, better=-1),
}
"""By family: see :func:`family`."""


@cache
def family(metric: str) -> str:
    """Return the part of a metric's name that says what is measured.

    ``precision`` of ``precision_12`` and of ``precision@5%|coverage=0.1``, ``effect_error`` of
    ``effect_error@identity``, ``fid`` of ``fid[colour-cells]``.
    """
    return re.sub(r"_\d+$", "", re.split(r"[@|\[]", metric, maxsplit=1)[0])


@cache
def describe(metric: str) -> Metric:
    """Return what is known of a metric; of an unknown one its name, better neither way."""
    return METRICS.get(family(metric), Metric(title=metric.replace("_", " "), better=0))


def better(metric: str) -> int:
    """Return 1 if higher values of a metric are better, -1 if lower ones are, 0 if neither or unknown."""
    return describe(metric).better


def trivial_column(method: str, metric: str) -> str:
    """Return the column of a method's metric in an evaluation: "copy_psnr"; the metric itself for the model."""
    return PREFIXES[method] + metric


def layer_column(metric: str, layer: int) -> str:
    """Return the column of a metric at a layer: "precision_12"."""
    return f"{metric}_{layer}"


def split_layer(column: str) -> tuple[str, int | None]:
    """Return metric and layer of a column such as "precision_12"; no layer where it names none."""
    found = re.fullmatch(rf"({PRECISION}|{READOUT}|{ATTENTION})_(\d+)", column)
    return (found[1], int(found[2])) if found else (column, None)


def threshold_metric(amount: int | float, unit: str) -> str:
    """Return the name of a precision: "precision@5%".

    Args:
        amount: Of the error that is still right.
        unit: "%" of the image's side, "token", "m", "%scene" of the scene's size, or "px/512", pixels of an image of
            512 a side.
    """
    return f"{PRECISION}@{amount:g}{unit}"


def split_threshold(metric: str) -> tuple[float, str] | None:
    """Return amount and unit of a precision with a threshold, whatever its coverage; None of any other metric."""
    found = re.fullmatch(rf"{PRECISION}@([\d.]+)([^|]*)", split_coverage(metric)[0])
    return (float(found[1]), found[2]) if found else None


def with_coverage(metric: str, coverage: float) -> str:
    """Return the name of a metric over a share of the queries: "precision@5%|coverage=0.1"."""
    return f"{metric}|coverage={coverage}"


def split_coverage(metric: str) -> tuple[str, float | None]:
    """Return a metric without its coverage, and the coverage; None where it has none."""
    plain, _, share = metric.partition("|coverage=")
    return plain, float(share) if share else None


MOVING, STILL = "moving", "still"
"""Queries whose point has moved between the times of both views, and all others."""


def of_queries(metric: str, kind: str) -> str:
    """Return the name of a metric over one kind of queries: "precision@5%|moving"."""
    return f"{metric}|{kind}"


VISIBLE, OCCLUDED, OUT_OF_FRAME, UNKNOWN = "visible", "occluded", "out of frame", "unknown"
CAUSES = (VISIBLE, OCCLUDED, OUT_OF_FRAME, UNKNOWN)
"""Why a key view shows a query's point, or does not."""
HIDDEN_CAUSES = (OCCLUDED, OUT_OF_FRAME)
HIDDEN_PROTOCOL = "hidden-v1"


def split_queries(metric: str) -> tuple[str, str]:
    """Return metric and kind of queries of a name such as "confident|occluded"; no kind where it names none."""
    plain, _, kind = metric.partition("|")
    return plain, kind


def effect_metric(measure: str, intervention: str) -> str:
    """Return the name of what an intervention changes: "effect_error@identity"."""
    return f"{measure}@{intervention}"


def split_effect(metric: str) -> tuple[str, str]:
    """Return measure and intervention of a metric such as "effect_error@identity"."""
    measure, _, intervention = metric.partition("@")
    return measure, intervention


def set_metric(distance: str, extractor: str) -> str:
    """Return the name of a distance between sets of images: "fid[colour-cells]"."""
    return f"{distance}[{extractor}]"


def split_set_metric(metric: str) -> tuple[str, str] | None:
    """Return distance and extractor of a metric such as "fid[colour-cells]"; None of a metric of single images."""
    found = re.fullmatch(r"(\w+)\[(.*)\]", metric)
    return (found[1], found[2]) if found else None


# --- protocols, grids, rotations -------------------------------------------------------------------------------------

ProtocolName = Literal["attention-v1", "ratio-v1", "ratio-v2", "probe3d-v1", "cameo-release-v1"]
"""Of measuring protocols; :data:`probe.protocols.PROTOCOLS` has them."""
Intervention = Literal["identity", "uniform", "within_view", "shuffled_views", "true_match"]
"""Causal edits; :data:`probe.interventions.INTERVENTIONS` has them."""
INTERVENTIONS = "interventions-v1"
"""Protocol of rows that say what editing a layer's attention changes."""
COMMON_GRID = "/common-grid"
"""What the protocol's name ends in where all maps were resampled to one grid."""
ROTATION_BINS = (0.0, 30.0, 60.0, 90.0, 120.0)
"""Lower ends of the bins of relative rotation, degrees; the last one has no upper end."""
ALL_ROTATIONS = "all"


def grid_name(grid: tuple[int, int]) -> str:
    """Return the name of a token grid, rows x columns: "16x24"."""
    return f"{grid[0]}x{grid[1]}"


def parse_grid(name: str) -> tuple[int, int]:
    """Return rows and columns of a token grid named as "16x24"."""
    rows, columns = name.split("x")
    return int(rows), int(columns)


def rotation_bin_names() -> list[str]:
    """Return the names of the rotation bins, ascending: "0-30", ..., "120+"."""
    return [*(f"{low:.0f}-{high:.0f}" for low, high in pairwise(ROTATION_BINS)), f"{ROTATION_BINS[-1]:.0f}+"]


# --- independent units -----------------------------------------------------------------------------------------------

_BLOCK = ", block "


def block_name(recording: str, number: int) -> str:
    """Return the name of a block of time of a lone recording, as a unit: "kitchen, block 3"."""
    return f"{recording}{_BLOCK}{number}"


def is_block(unit: str) -> bool:
    """Return whether a unit is a block of time of a lone recording."""
    return _BLOCK in unit


# --- files of a run folder -------------------------------------------------------------------------------------------

CONFIG, REPORT, PARTS = "config.json", "report.html", "parts"
EMERGENCE, SAMPLES, WORST, SUMMARY = "emergence.csv", "samples.png", "worst.csv", "summary.csv"

SCORES, LAYERS, SELECTION, PAIRS, TIMESTEPS = (
    "scores.parquet",
    "layers.csv",
    "selection.json",
    "pairs.csv",
    "timesteps.csv",
)
PROBE_FILES = (CONFIG, SCORES, LAYERS, SELECTION, PAIRS, TIMESTEPS)
"""What every finished probe run has."""
SCENES_NOTE, TRUTH_CHECK = "scenes.json", "truth_check.csv"
"""Of real scenes: what was left out and what the truth check found, in words; the check's pairs of views."""
HIDDEN_TABLE = "hidden.csv"
"""Where attention looks from points that the key view does not show, if that was measured."""
EXAMPLES, MATCHES, EDITED, EXPLORER, MODEL_CARD = (
    "examples.safetensors",
    "matches.parquet",
    "edited.safetensors",
    "explorer.safetensors",
    "model.json",
)

GEOMETRY, ALL_REFERENCES = "geometry.csv", -1
"""Geometry of views, if that was measured; the reference of a row that all references make together."""
KNOCKOUT, PATCHING, DECODED = "knockout.csv", "patching.csv", "decoded.csv"
"""What knocking out heads together changes, a row per scene and set of heads; what reading another run's attention
does; how well depth and epipolar lines are decoded from layers."""
PATCHED_SAMPLES = "patched_samples.csv"
"""How good samples are that read another run's attention at every step."""
PLAN, SPEED = "plan.json", "speed.csv"
"""A plan for speed, and what it was measured to do: error, samples and time with it and without."""
UNPLANNED, UNPLANNED_TAP, PLANNED = "none", "none, tapped", "planned"
"""What was timed: nothing, a tap that changes nothing, and the plan."""


def stage_name(moves: int) -> str:
    """Return the name of a plan after a number of its moves: "move 3"."""
    return f"move {moves}"


STEP_LOG, EVALUATION_LOG = "metrics.jsonl", "evaluation.jsonl"
TRAINED = "trained.safetensors"
"""Of a checkpoint of a network that trains in part: the weights that train."""
FINAL = "final"
"""Folder of the last weights of a training."""
FINAL_CARD = f"{FINAL}/card.json"
IMAGES = "images.csv"

STUDY_TABLES = ("study", "summary", "reach", "settings")
STUDY_FIGURE = "study.png"
PROBES, EVALUATIONS = "probes", "evaluations"
"""Folders of a study with what was measured of its weights: run folders by name."""
PLAIN, PAPERS, BASE = "plain", "cameo", "base"
"""Variants of a study: the diffusion objective alone; the paper's method; the single-view run others start from."""
JOBS = "jobs"
SAMPLES_TABLE = "samples.json"
"""What ``samples.png`` of a study shows, and by which rule it was chosen."""


def seed_folder(variant: str, seed: int) -> str:
    """Return the name of a run's folder within a study: "cameo-seed0"."""
    return f"{variant}-seed{seed}"


def split_seed_folder(name: str) -> tuple[str, int] | None:
    """Return variant and seed of a folder such as "cameo-seed0"; None where it is named otherwise."""
    variant, _, seed = name.rpartition("-seed")
    return (variant, int(seed)) if variant and seed.isdecimal() else None
