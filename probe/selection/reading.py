"""The rows of a run's score table that the choice of the layer rests on."""

from pathlib import Path

import pandas as pd
from pyarrow.compute import field

from probe.protocols import Protocol
from probe.records import ALL_HEADS, INTERVENTIONS, MASS, NO_LAYER, parse_json
from probe.records.scores import holds, read_scores

COLUMNS = (
    "model", "step", "scene", "unit", "direction", "layer", "layer_name", "grid", "head", "timestep", "protocol",
    "pair_list", "metric", "value", "count",
)  # fmt: skip


def read_heads(path: Path, protocol: str, metric: str, layer: int) -> pd.DataFrame:
    """Read what :func:`probe.selection.heads.select_heads` needs of a score table: one layer, its heads apart.

    Args:
        path: Of the table.
        protocol: That measured.
        metric: That layers are ranked by.
        layer: Index of the layer; the references of its grid are read too.
    """
    wanted = (field("protocol") == protocol) & (field("metric") == metric)
    return read_scores(path, COLUMNS, wanted & field("layer").isin([layer, NO_LAYER]))


def read_all_heads(path: Path, selection: Path) -> pd.DataFrame:
    """Read the precision of every head of the probed model, by the metric, protocol and direction of its selection.

    Args:
        path: Of the score table.
        selection: Of selection.json.

    Raises:
        ValueError: If the selection lacks one of these.
    """
    known = parse_json(selection.read_text(encoding="utf-8"))
    try:
        protocol, metric, model, direction = (str(known[name]) for name in ("protocol", "metric", "model", "direction"))
    except (KeyError, TypeError) as error:
        raise ValueError(f"{selection} does not tell what was ranked ({error!r}); probe again") from error
    wanted = (field("protocol") == protocol) & (field("metric") == metric) & (field("head") != ALL_HEADS)
    if direction != "all":
        wanted &= field("direction") == direction
    return read_scores(path, COLUMNS, wanted & (field("model") == model))


def read_ranked(path: Path, protocol: Protocol, metric: str) -> pd.DataFrame:
    """Read what :func:`select_layer`, :func:`layer_table` and the terminal need of a score table.

    All heads together: the metric and the attention on the true token, in the protocol's direction where the table has
    it, and the causal effects.

    Args:
        path: Of the table.
        protocol: That measured.
        metric: That layers are ranked by.

    Returns:
        The rows, in the order of the table, without the columns that tell view from view.
    """
    ranked = (field("protocol") == protocol.name) & (field("metric") == metric)
    forward = field("direction") == protocol.direction
    shown = field("metric").isin([metric, MASS])
    if holds(path, ("protocol", "metric", "direction"), ranked & forward):
        shown &= forward
    return read_scores(path, COLUMNS, (field("head") == ALL_HEADS) & (shown | (field("protocol") == INTERVENTIONS)))
