"""What ``python -m train.study --paper`` stands for: flags, cost, and what the short version cannot show."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from train.studying.variants import ABLATIONS, COMMON, MAIN, OTHER_LAYER, RIVALS

SHARED: dict[str, Any] = {
    "paper": True,
    "layer": 10,
    "other_layer": 12,
    "views": 4,
    "batch_size": 3,
    "sampling_steps": 10,
    "jobs": 2,
}
PAPER: dict[str, Any] = {
    **SHARED,
    "variants": ",".join(dict.fromkeys((*MAIN, *COMMON, *RIVALS, *ABLATIONS))).replace(f"{OTHER_LAYER},", ""),
    "seeds": "0,1,2,3,4",
    "few_seeds": 3,
    "base_steps": 600,
    "steps": 1000,
    "rotation_ramp": 300,
    "evaluate_every": 100,
    "probe_every": 200,
    "checkpoint_every": 200,
    "out": Path("runs/paper"),
}
"""The whole study: five seeds of weights for plain, the paper's method and ours, three for the rest."""
QUICK: dict[str, Any] = {
    **SHARED,
    "quick": True,
    "variants": ",".join(MAIN),
    "model": "cat3d-tiny:base",
    "steps": 300,
    "rotation_ramp": 150,
    "evaluate_every": 75,
    "probe_every": 150,
    "checkpoint_every": 150,
    "out": Path("runs/paper-quick"),
}
"""Three runs of the main variants, from the shipped base."""
COST = "About 11 hours on two cores, twenty minutes a run; a stopped study continues by the same command."
LACKS = (
    "about 30 minutes on two idle cores, three seeds of 300 steps from one base: it cannot show ablations, rivals and "
    "controls, harder rooms, seeds of first weights, or where training leads."
)


def preset(words: Sequence[str]) -> dict[str, Any]:
    """Return the defaults of a study's flags that words of its command line ask for.

    Args:
        words: With or without --paper and --quick.
    """
    if "--paper" not in words:
        return {}
    return QUICK if "--quick" in words else PAPER


def choices() -> dict[str, str]:
    """Return the texts that stand for names in the help."""
    return {"paper": COST, "quick": LACKS}
