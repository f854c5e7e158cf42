"""The paper's published numbers, beside ours: what means the same, and in plain words what does not. Pure but reading.

Source:
    ``data/paper_results.csv``, whose first line says where its numbers come from.
"""

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

SOURCE = Path(__file__).parent / "data" / "paper_results.csv"
WHO = {
    ("sd21", "plain"): "Stable Diffusion 2.1", ("cat3d", "baseline"): "CAT3D", ("cat3d", "cameo"): "CAT3D with CAMEO",
    ("vggt", "baseline"): "VGGT", ("vggt-pointmap", "baseline"): "VGGT point maps", ("dinov3", "baseline"): "DINOv3",
    ("dsift", "baseline"): "DSIFT",
}  # fmt: skip
NAVI, TWO_CM = "navi", "precision@0.02m"
UNKNOWN = "image size, timestep, aggregation of heads and choice of pairs of the published figure are not public"


@cache
def published() -> pd.DataFrame:
    """Read the published numbers: columns experiment, dataset, model, variant, x_name, x, metric, value, source."""
    return pd.read_csv(SOURCE, comment="#", dtype={"x": str}, keep_default_na=True)


def note() -> str:
    """Return where the published numbers come from, as the file's first line does."""
    return SOURCE.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")


def experiment(name: str) -> pd.DataFrame:
    """Return the published numbers of one experiment.

    Args:
        name: layer_profile, emergence, viewpoint, convergence, layer_ablation, architecture, rivals or retest-gld.

    Returns:
        Columns who, dataset, variant, x, metric, value (precisions as fractions), source.
    """
    rows = published()[published()["experiment"] == name]
    who = [WHO.get(key, " ".join(key)) for key in zip(rows["model"], rows["variant"], strict=True)]
    share = np.where(rows["metric"].str.startswith("precision"), 0.01, 1.0)
    table = rows.assign(who=who, value=rows["value"] * share)
    return table[["who", "dataset", "variant", "x", "metric", "value", "source"]].reset_index(drop=True)


def same_measure(scenes: str, metric: str) -> bool:
    """Return whether a probe measured what the paper's figures show: precision at 2 cm on NAVI.

    Args:
        scenes: The run's --scenes.
        metric: By which its layers are ranked.
    """
    return scenes.partition(":")[0] == NAVI and metric == TWO_CM


def measure_words(model: str, scenes: str, metric_words: str, same: bool) -> str:
    """Return whether a probe's numbers and the paper's mean the same, and why not.

    Args:
        model: The probed model.
        scenes: The run's --scenes.
        metric_words: When a match counts as right.
        same: From :func:`same_measure`.
    """
    if same:
        return (
            f"Both are precision at 2 cm on NAVI, so they may be read together, with care: {UNKNOWN}, and the protocol "
            "here may therefore differ from the paper's."
        )
    return (
        "The two frames must not be compared by height. Published: precision at 2 cm in 3D on NAVI photographs, of "
        f"models of the size of Stable Diffusion 2.1 ({UNKNOWN}). Here: {metric_words} on \u201c{scenes}\u201d, of "
        f"{model}. What may be compared is the shape: which layers lead, whether precision falls with rotation, "
        "whether it grows with training."
    )
