"""Which layers were patched, where not all were: labels and words that figures and sentences share. Pure."""

import pandas as pd

from analysis.probing.tables import ProbeRun
from analysis.probing.words import layer_labels, standing
from analysis.words import listing, plural


def labels_of(run: ProbeRun, table: pd.DataFrame) -> dict[int, str]:
    """Return the labels of the layers that a table has, in the order of the run.

    Args:
        run: The probe run.
        table: With a column layer.
    """
    return {layer: label for layer, label in layer_labels(run).items() if (table["layer"] == layer).any()}


def shade_words(run: ProbeRun, table: pd.DataFrame) -> str:
    """Return that the selected layer is shaded, or that it was not patched."""
    done = "is shaded" if (table["layer"] == run.layer).any() else "was not patched"
    return f"Layer {run.layer} ({standing(run)}) {done}."


def alt_of(run: ProbeRun, rows: list[str]) -> str:
    """Return what a picture says of the selected layer, in words.

    Args:
        run: The probe run.
        rows: What was measured of that layer.
    """
    return f"layer {run.layer}: {'; '.join(rows)}" if rows else f"layer {run.layer} was not patched"


def partial_words(run: ProbeRun, table: pd.DataFrame) -> tuple[str, ...]:
    """Return which layers were patched, where these are not all; nothing where they are.

    Args:
        run: The probe run.
        table: With a column layer.
    """
    patched, every = sorted({int(layer) for layer in table["layer"]}), len(run.layers)
    if not patched or len(patched) >= every:
        return ()
    which = f"layer {patched[0]} was" if len(patched) == 1 else f"layers {listing(patched)} were"
    return (
        f"Of {plural(every, 'scored layer')} only {which} patched: what is said, and intervals for all layers at once, "
        "hold for no others.",
    )
