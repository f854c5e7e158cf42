"""From scores to the layer, with its evidence."""

from probe.selection.candidate import Candidate
from probe.selection.choose import Selection, select_layer
from probe.selection.heads import HeadSelection, select_heads
from probe.selection.table import layer_table

__all__ = ["Candidate", "HeadSelection", "Selection", "layer_table", "select_heads", "select_layer"]
