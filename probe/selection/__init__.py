"""From scores to the layer, with its evidence."""

from probe.selection.choose import (
    LISTED,
    Candidate,
    Selection,
    layer_table,
    select_layer,
)

__all__ = [
    "LISTED",
    "Candidate",
    "Selection",
    "layer_table",
    "select_layer",
]
