"""How good generated views are: samples of a model, or images that another program made, beside trivial baselines."""

from train.quality.images import (
    METHODS,
    ColourCells,
    Quality,
    evaluate_quality,
    measure_images,
    nearest_reference,
    quality_summary,
    set_distances,
    trivial_baselines,
    worst_cases,
)

__all__ = [
    "METHODS",
    "ColourCells",
    "Quality",
    "evaluate_quality",
    "measure_images",
    "nearest_reference",
    "quality_summary",
    "set_distances",
    "trivial_baselines",
    "worst_cases",
]
