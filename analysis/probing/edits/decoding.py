"""A probe run -> what geometry is decoded from its layers: figures, table, sentences. Pure."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import FuncFormatter

from analysis.blocks import Chart, Table, chart
from analysis.probing import cells
from analysis.probing.edits.layer_points import layer_points
from analysis.probing.tables import ProbeRun
from analysis.probing.words import layer_labels, standing
from analysis.words import MISSING, NBSP, number
from probe.records.decoding import DEPTH, EPIPOLAR, FROM, NO_MODEL, PARTS, decoding_table, decoding_words

TITLES = {
    DEPTH: "depth: mean absolute error of its logarithm (0.1 is about 10 %)",
    EPIPOLAR: "epipolar geometry: Sampson's distance of true matches, in sides of the image",
}
PLAIN = FuncFormatter(lambda value, _: f"{value:.3g}")


def table(run: ProbeRun) -> pd.DataFrame:
    """Return what is decoded from each layer, beside cameras only and no model; empty where nothing was.

    Args:
        run: The probe run.
    """
    return pd.DataFrame() if run.decoded is None else decoding_table(run.decoded)


def words(run: ProbeRun) -> tuple[str, ...]:
    """Return what can be decoded from which layers, and from which of them matches are not found.

    Args:
        run: The probe run.
    """
    known = table(run)
    above = run.layers["layer"][run.layers["above_null"]]
    return () if known.empty else decoding_words(known, [int(layer) for layer in above])


def figure(run: ProbeRun) -> Chart | None:
    """Draw the error of what is decoded from each layer, beside cameras only and no model.

    Args:
        run: The probe run.

    Returns:
        None where nothing was decoded.
    """
    known = table(run)
    if known.empty:
        return None
    own = [_series(known, "error", part, part) for part in PARTS]
    beside = [_series(known, "grey", "grey", PARTS[0]), _series(known, "none", NO_MODEL, PARTS[0])]
    series: dict[str, str] = {
        **{str(part): f"from {text}" for part, text in FROM.items()},
        "grey": f"cameras only, from {FROM[PARTS[0]]}",
        NO_MODEL: "no model",
    }
    caption = (
        "A small network learned from one half of the independent units to decode depth from a layer's tokens, and the "
        "fundamental matrix of two views from their averages over quarters; the other half shows its error: lower is "
        "better. Cameras only: the same layers with grey images. No model: of depth the token's place, which every "
        f"decoder of depth is told too; of two views one matrix for all. Epipolar geometry "
        f"is a function of the cameras, which grey images keep. Bars: 95{NBSP}% intervals over "
        f"{int(known['units'].min())} units. Layer {run.layer} "
        f"({standing(run)}) is shaded."
    )
    alt = "Error of what is decoded; " + "; ".join(
        f"{row.what}, layer {row.layer}, {FROM[row.part]}: {number(row.error, 3)}" for row in known.itertuples()
    )
    svg = layer_points(
        pd.concat([*own, *beside], ignore_index=True), titles=TITLES, series=series, labels=layer_labels(run),
        selected=run.layer, percent=PLAIN, name="decoded", alt=alt,
    )  # fmt: skip
    return chart("decoded", svg, caption, source=cells.source(run), table=known, file="decoded_by_layer.csv")


def _series(known: pd.DataFrame, which: str, name: str, part: str) -> pd.DataFrame:
    rows = known[known["part"] == part]
    ends = {end: rows[f"{which}{suffix}"] for end, suffix in (("value", ""), ("low", "_low"), ("high", "_high"))}
    return pd.DataFrame({"panel": rows["what"], "series": name, "layer": rows["layer"], **ends})


def text_table(run: ProbeRun) -> Table:
    """Write the errors and each layer's lead; without rows where nothing was decoded.

    Args:
        run: The probe run.
    """
    rows = table(run).to_dict("records")
    return Table(
        caption="Errors of what is decoded, of scenes that decoders did not learn from. Lead: an other's "
        f"error minus the layer's, of cameras only or no model (of epipolar geometry: no model) that whose lead is the "
        f"less sure, with the 95{NBSP}% interval for all layers and both parts at once; above 0 the layer says more.",
        columns=("decoded", "layer", "from", "error", "cameras only", "no model", "lead", "units", "samples"),
        rows=tuple(_cells(row) for row in rows),
        marked=tuple(n for n, row in enumerate(rows) if row["layer"] == run.layer),
        texts=3,
        wide=True,
    )


def _cells(row: dict[Any, Any]) -> tuple[str, ...]:
    low, high = row["lead_low"], row["lead_high"]
    lead = f"{row['lead']:+.3f}" + (f" ({low:+.3f} to {high:+.3f})" if np.isfinite(low) else "")
    lead = lead if np.isfinite(row["lead"]) else MISSING
    return (
        str(row["what"]),
        f"{row['layer']:.0f}",
        FROM[row["part"]],
        *(number(row[name], 3) for name in ("error", "grey", "none")),
        lead.replace("-", "−"),
        f"{row['units']:.0f}",
        number(int(row["count"])),
    )
