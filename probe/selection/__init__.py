"""From scores to the layer, with its evidence."""

from probe.selection.candidate import Candidate
from probe.selection.choose import Selection, select_layer
from probe.selection.table import layer_table

__all__ = ["Candidate", "Selection", "layer_table", "select_layer"]
