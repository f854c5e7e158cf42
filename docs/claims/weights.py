"""What the shipped plain and supervised weights find, in words."""

import json
from typing import Any

import pandas as pd

from analysis.study.words import difference_text
from analysis.words import percent, points
from claims.probes import lead_words, noisy_words
from claims.tables import PAIR, REFERENCE, layer_numbers, precision_words, read_kept_probe, steps_of
from probe.records import METRICS, null_label
from probe.records.decoding import decoding_words
from probe.records.knockout import knockout_table, knockout_words
from probe.records.names import KNOCKOUT, is_null
from probe.records.patched_samples import CONTRAST, MEASURES
from probe.records.patching import patching_words
from probe.records.speed import curve_table, curve_words, paper_words, speed_table, speed_words

DONORS = {"another": "another scene", "noise": "other noise"}
"""Whose attention samples read, in few words."""


def pair_words() -> str:
    """Return what the shipped plain and supervised weights find."""
    return "\n\n".join(map(_found_by, PAIR))


def heads_words() -> str:
    """Return how the heads of the selected layers of the shipped plain and supervised weights find correspondences."""
    parts = []
    for name in PAIR:
        table = knockout_table(pd.read_csv(REFERENCE / f"probe-{name}" / KNOCKOUT))
        evidence = read_kept_probe(f"probe-{name}")["selection"]["heads"]["evidence"]
        few = ", ".join(f"{row.heads}: {percent(row.best)} and {percent(row.random)}" for row in table.itertuples())
        parts.append(
            f"`cat3d-tiny:{name}`: {evidence} {knockout_words(table)} By number of heads, best and random: {few}."
        )
    return "\n\n".join(parts)


def patches_words() -> str:
    """Return what layers of the shipped weights do with another run's attention, and where true matches are read."""
    kept = [name for name in PAIR if (REFERENCE / f"probe-{name}" / "patched_layers.csv").is_file()]
    words = [f"`cat3d-tiny:{name}`: {' '.join(_patched(f'probe-{name}'))}" for name in kept]
    return "\n\n".join([*words, *filter(None, map(_samples, kept))])


def _patched(name: str) -> tuple[str, ...]:
    whole, matches = (pd.read_csv(REFERENCE / name / f"patched_{which}.csv") for which in ("layers", "matches"))
    return patching_words(whole, matches, read_kept_probe(name)["selection"]["layer"])


def _samples(name: str) -> str:
    """Return a Markdown table of how samples change that read another run's attention; empty where none were made."""
    path = REFERENCE / f"probe-{name}" / "patched_samples_by_layer.csv"
    if not path.is_file():
        return ""
    table = pd.read_csv(path)
    keys = [(donor, part, measure) for donor in DONORS for part in ("matching", "content")
            for measure in MEASURES]  # fmt: skip
    cells = {key: part.set_index("layer") for key, part in table.groupby(["donor", "part", "measure"])}
    heads = [f"{METRICS[measure].title}, {part}, {DONORS[donor]}" for donor, part, measure in keys]
    rows = [("layer", *heads), ("---",) * (1 + len(keys))]
    rows += [
        (str(layer), *(_sample_cell(cells[key].loc[layer], key[2]) for key in keys))
        for layer in sorted(table["layer"].unique())
    ]
    own = table[table["donor"] != CONTRAST]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + (
        f"\n\nSamples of `cat3d-tiny:{name}` in {own['steps'].iloc[0]} steps, minus the unpatched ones of "
        f"{own['scenes'].max()} rooms (PSNR in dB). ∗: the interval excludes 0, for all layers of a column at once."
    )


def _sample_cell(row: pd.Series, measure: str) -> str:
    shown = bool(row["low"] > 0 or row["high"] < 0)
    return f"{difference_text(measure, row['value'])}{' ∗' * shown}"


def decoded_words() -> str:
    """Return which geometry is decoded from the layers of the shipped weights."""
    kept = [name for name in PAIR if (REFERENCE / f"probe-{name}" / "decoded_by_layer.csv").is_file()]
    return "\n\n".join(f"`cat3d-tiny:{name}`: {' '.join(_decoded(f'probe-{name}'))}" for name in kept)


def _decoded(name: str) -> tuple[str, ...]:
    layers = read_kept_probe(name)["layers"]
    above = [int(layer) for layer in layers["layer"][layers["above_null"]]]
    return decoding_words(pd.read_csv(REFERENCE / name / "decoded_by_layer.csv"), above)


def speed_block() -> str:
    """Return what plans for speed of the shipped weights do."""
    return "\n\n".join(f"`cat3d-tiny:{name}`: {_speed(name)}" for name in PAIR)


def _speed(name: str) -> str:
    plan = json.loads((REFERENCE / "speed" / f"{name}-0.01-plan.json").read_text(encoding="utf-8"))
    rows = pd.read_csv(REFERENCE / "speed" / f"{name}-0.01-speed.csv")
    words = speed_words(speed_table(rows), budget=plan["budget"], share=plan["share"])
    return f"{words} {curve_words(curve_table(rows, plan), plan['budget'])} {paper_words(plan)}"


def _found_by(name: str) -> str:
    kept = read_kept_probe(f"probe-{name}")
    layers, chosen = kept["layers"], kept["selection"]
    row = layers.set_index("layer").loc[chosen["layer"]]
    return (
        f"`cat3d-tiny:{name}` ({steps_of(name)} steps): {_shown(layers)} shown to be above the strongest null; layer "
        f"{chosen['layer']} finds {precision_words(row)} of the points of {chosen['scenes']} rooms. "
        f"{lead_words(kept['leads'])}{noisy_words(kept['leads_noisy'])}"
    )


def pair_short() -> str:
    """Return the same in few words, and what the weights find on real frames."""
    (plain, steps), (supervised, _) = ((read_kept_probe(f"probe-{name}"), steps_of(name)) for name in PAIR)
    real, real_plain = read_kept_probe("probe-kitchen-supervised"), read_kept_probe("probe-kitchen-plain")
    shown = "no layer is" if not (real["layers"]["above_null"].any() or real_plain["layers"]["above_null"].any()) else (
        f"{_shown(real['layers'])} in the first, {_shown(real_plain['layers'])} in the second"
    )  # fmt: skip
    rooms = plain["selection"]["scenes"]
    above = " and ".join(_shown(kept["layers"]).removesuffix(" are") for kept in (supervised, plain))
    return (
        f"*One base, {steps} steps more: of the points of {rooms} procedural rooms {_chosen(supervised)} of "
        f"`cat3d-tiny:supervised` finds {_found(supervised)}, {_rivals(supervised, full=True)}; {_chosen(plain)} of "
        f"`cat3d-tiny:plain` {_found(plain)}, {_rivals(plain)}. Above every null, in turn: {above}. On real frames "
        f"(7-Scenes) {shown}: {_found(real)} and {_found(real_plain)}, {_others(real)}.*"
    )


def _row(kept: dict[str, Any]) -> pd.Series:
    return kept["layers"].set_index("layer").loc[kept["selection"]["layer"]]


def _chosen(kept: dict[str, Any]) -> str:
    return f"layer {kept['selection']['layer']}"


def _found(kept: dict[str, Any]) -> str:
    return precision_words(_row(kept))


def _rivals(kept: dict[str, Any], *, full: bool = False) -> str:
    """Return by how many points a layer is ahead of its weights with grey images, and of raw pixels."""
    leads = kept["leads"].set_index("model")
    rival = {null_label(name) if is_null(name) else name: leads.loc[name] for name in map(str, leads.index)}
    blind, pixels = _lead(rival["cameras only"]), _lead(rival["pixels"])
    if not full:
        return f"{blind} and {pixels}"
    return f"{blind} points more than with grey images (cameras alone), {pixels} more than raw pixels"


def _lead(row: Any) -> str:
    return f"{points(row.value)} ({points(row.low)} to {points(row.high)})"


def _others(kept: dict[str, Any]) -> str:
    """Return what other matchers find on the grid of the selected layer."""
    table = kept["matchers"]
    table = table[table["grid"] == table.loc[table["layer"] == kept["selection"]["layer"], "grid"].iloc[0]]
    values = {
        null_label(name) if is_null(name) else name: value
        for name, value in zip(table["model"], table["value"], strict=True)
    }
    names = {"cameras only": "cameras alone", "pixels": "raw pixels", "dsift": "dense SIFT"}
    return ", ".join(f"{words} {percent(values[name])}" for name, words in names.items())


def _shown(layers: pd.DataFrame) -> str:
    above = [int(layer) for layer in layers.loc[layers["above_null"], "layer"]]
    return layer_numbers(above) if above else "no layer is"
