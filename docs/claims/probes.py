"""What probes of the shipped model show, in words."""

import json

import pandas as pd

from analysis.words import listing, percent, plural
from claims.tables import CARD, layer_numbers, points_words, precision_words, read_kept_probe, with_ends
from probe.records import EFFECT, SAME_POSITION, UNIFORM, null_label
from probe.records.names import is_null

NAMES = {UNIFORM: "a uniform guess", SAME_POSITION: "the same position", "pixels": "raw pixels", "dsift": "dense SIFT",
         "cameras only": "the same weights with grey images", "random weights": "random weights"}  # fmt: skip


def probe_words() -> str:
    """Return what the shipped model's probe shows on procedural rooms and on real frames."""
    return f"*{_on_rooms()} {_on_real_frames('probe-kitchen')}*"


def _on_rooms() -> str:
    kept = read_kept_probe("probe-shapes")
    layers, chosen = kept["layers"], kept["selection"]
    above = [int(layer) for layer in layers.loc[layers["above_null"], "layer"]]
    found = (
        f"of {len(layers)} 3D layers {layer_numbers(above)} shown to be above the strongest null"
        if above
        else f"of {len(layers)} 3D layers none is shown to be above the strongest null"
    )
    row = layers.set_index("layer").loc[chosen["layer"]]
    steps = json.loads(CARD.read_text(encoding="utf-8"))["steps"]
    return (
        f"The small model that ships ({steps} steps on procedural rooms, no supervision), on {chosen['scenes']} rooms: "
        f"{found}. Layer {chosen['layer']} finds {precision_words(row)} of the points. "
        f"{lead_words(kept['leads'])}{noisy_words(kept['leads_noisy'])}"
    )


def _on_real_frames(name: str) -> str:
    kept = read_kept_probe(name)
    chosen, row = kept["selection"], kept["layers"].set_index("layer").loc[kept["selection"]["layer"]]
    return (
        f"On real frames that it never saw (one 7-Scenes recording, cameras {kept['bins']} degrees apart, "
        f"{chosen['units']} blocks of time) layer {chosen['layer']} finds "
        f"{precision_words(row)}. {lead_words(kept['leads'])}"
    ).rstrip()


def _named(model: str) -> str:
    return NAMES[null_label(model) if is_null(model) else model]


def lead_words(table: pd.DataFrame) -> str:
    """Return what the layer is shown to beat, and what not, by intervals that hold for all at once."""
    rivals = table[~table["model"].isin([UNIFORM, SAME_POSITION])]
    clear = [_named(str(row.model)) for row in rivals.itertuples() if row.low > 0]
    below = [f"{_named(str(row.model))} ({points_words(row)})" for row in rivals.itertuples() if row.high < 0]
    open_ = [
        f"{_named(str(row.model))} ({points_words(row)})" for row in rivals.itertuples() if row.low <= 0 <= row.high
    ]
    parts = [f"It is shown to beat {listing(clear)}"] if clear else []
    parts += [f"it is below {listing(below)}"] if below else []
    parts += [f"it is not separable from {listing(open_)}"] if open_ else []
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}. " if text else ""


def noisy_words(table: pd.DataFrame) -> str:
    """Return how the layer stands to raw pixels where the views are almost noise."""
    row = next(table[table["model"] == "pixels"].itertuples())
    verdict = "ahead of" if row.low > 0 else "below" if row.high < 0 else "not separable from"
    return f"At t = {table['timestep'].iloc[0]} it is {verdict} raw pixels ({points_words(row)})."


def causal_words() -> str:
    """Return by how much editing the selected layer, and any other, raises the error of the prediction."""
    table = read_kept_probe("probe-shapes")["effects"]
    rows = table[(table["measure"] == EFFECT) & (table["intervention"] == "identity")].set_index("layer")
    chosen = read_kept_probe("probe-shapes")["selection"]["layer"]
    row, others = rows.loc[chosen], rows.drop(index=chosen)
    most = others.loc[others["value"].idxmax()]
    return (
        f"On `cat3d-tiny` ({plural(int(row['scenes']), 'room')}) the identity in layer {chosen} raises the error by "
        f"{with_ends(row['value'], row['low'], row['high'])}, in any other layer by at most {percent(most['value'])} "
        f"(layer {int(most.name)})."
    )
