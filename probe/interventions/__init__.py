"""Causal edits: what a layer's attention gives out is replaced, and all before it stays as it was. Pure."""

from probe.interventions.edits import (
    INTERVENTIONS,
    Change,
    Intervention,
    Place,
    edit_of,
    own_keys,
    shuffled_keys,
)

__all__ = [
    "INTERVENTIONS",
    "Change",
    "Intervention",
    "Place",
    "edit_of",
    "own_keys",
    "shuffled_keys",
]
