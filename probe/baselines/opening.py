"""Matchers by name."""

import torch

from probe.baselines.describing import Matcher
from probe.baselines.names import BASELINES, NULLS
from probe.models.parts.files import named


def open_matchers(names: tuple[str, ...], device: torch.device) -> dict[str, Matcher]:
    """Load the matchers among the comparisons, by the name that tables call them.

    Raises:
        ValueError: If weights are not at hand, with what to do; or if two would have one name.
    """
    parts = [(name, source) for name, _, source in (text.partition(":") for text in names if text not in NULLS)]
    called = [named(name, source) for name, source in parts]
    if len(set(called)) < len(called):
        raise ValueError(f"{','.join(names)}: tables would call two of them {called}; rename a folder")
    return {name: BASELINES[kind](source, device) for name, (kind, source) in zip(called, parts, strict=True)}
