"""Layers: which attentions of a model join views, on which token grid and in which order, with which index."""

from probe.layers.choosing import select_layers
from probe.layers.finding import MakeInputs, find_layers
from probe.layers.layout import JOINING, Kind, Layer, ViewLayout, joint_layout

__all__ = ["JOINING", "Kind", "Layer", "MakeInputs", "ViewLayout", "find_layers", "joint_layout", "select_layers"]
