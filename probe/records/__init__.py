"""Results on disk: the score table, its intervals, the run folder."""

from probe.records.folder import RunError, environment, open_run, write, write_folder, write_json, write_text
from probe.records.intervals import RESAMPLES, summarise
from probe.records.table import (
    ALL_HEADS,
    CEILING,
    EFFECT,
    INTERVENTIONS,
    NO_LAYER,
    REFERENCES,
    ROTATION_BINS,
    SAME_POSITION,
    SCORE_COLUMNS,
    UNIFORM,
    Rows,
    digest,
    rotation_bin,
    scene_values,
    score_table,
)

__all__ = [
    "ALL_HEADS",
    "CEILING",
    "EFFECT",
    "INTERVENTIONS",
    "NO_LAYER",
    "REFERENCES",
    "RESAMPLES",
    "ROTATION_BINS",
    "SAME_POSITION",
    "SCORE_COLUMNS",
    "UNIFORM",
    "Rows",
    "RunError",
    "digest",
    "environment",
    "open_run",
    "rotation_bin",
    "scene_values",
    "score_table",
    "summarise",
    "write",
    "write_folder",
    "write_json",
    "write_text",
]
