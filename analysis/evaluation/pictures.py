"""The picture of an evaluation's worst and median cases."""

import textwrap
from collections.abc import Mapping

import numpy as np
import pandas as pd
from einops import rearrange
from jaxtyping import Float
from matplotlib.figure import Figure

from analysis.worst_cases import best_method
from probe.records import COPY, MODEL, PSNR, TRUTH, trivial_column

SHOWN = 3
"""Worst cases in the picture, and as many median ones."""


def shown_cases(worst: pd.DataFrame) -> list[tuple[str, pd.Series]]:
    """Choose the rows of the picture, each with its kind: the worst, and those about the median."""
    worst = worst.drop_duplicates(["scene", "view"])  # once, with the number of references that it is worst at
    middle = max(SHOWN, (len(worst) - SHOWN) // 2)
    chosen = {"worst": range(min(SHOWN, len(worst))), "median": range(middle, min(middle + SHOWN, len(worst)))}
    return [(kind, worst.iloc[place]) for kind, places in chosen.items() for place in places]


def draw_cases(worst: pd.DataFrame, images: Mapping[str, Mapping[str, Float[np.ndarray, "targets 3 h w"]]]) -> Figure:
    """Draw reference, truth and sample (rows) of the worst cases and of the median ones (columns).

    Args:
        worst: From :func:`train.quality.worst_cases`.
        images: Per scene, ``"N_REF/METHOD"``: target views.
    """
    best = best_method(worst.drop_duplicates(["scene", "view"]))
    cases = shown_cases(worst)
    figure = Figure(figsize=(2.2 * len(cases) + 0.6, 7.4), layout="constrained")
    axes = figure.subplots(3, len(cases), squeeze=False)
    for column, (kind, case) in zip(axes.T, cases, strict=True):
        for axis, (name, method) in zip(
            column, (("reference", COPY), ("truth", TRUTH), ("sample", MODEL)), strict=True
        ):
            image = images[case["scene"]][f"{case['n_ref']}/{method}"][case["view"] - case["n_ref"]]
            axis.imshow(rearrange(image, "c h w -> h w c"), interpolation="nearest")
            axis.set(xticks=[], yticks=[], ylabel=name if axis in axes[:, 0] else "")
        turn = "" if np.isnan(case["rotation_deg"]) else f", {case['rotation_deg']:.0f}° from view 0"
        place = f"view {case['view']}{turn}"
        column[0].set_title(
            textwrap.fill(f"{kind}: {case['scene']}", 30).replace("$", r"\$") + f"\n{place}", fontsize=9
        )
        references = "1 reference" if case["n_ref"] == 1 else f"{case['n_ref']} references"
        column[2].set_xlabel(
            f"{references}\nPSNR {case[PSNR]:.1f} dB, {best} {case[trivial_column(best, PSNR)]:.1f}", fontsize=9
        )
    posed = all(not np.isnan(case["rotation_deg"]) for _, case in cases)
    shown = f"Reference rotated least against the target{'' if posed else ', or the first'}"
    figure.suptitle(f"{shown}; true target; generated target", fontsize=11)
    return figure
